/* cpu_small.c - small dense ops of the fast face: Gram, Cholesky, Householder, eigenproblem, SVD, and calibration sums.
 *
 * Products run in tasks of a fixed grid (row tiles, chunks, column panels), so the bytes do not depend on the number of
 * threads. The b x b problems and the exact SVD are LAPACK's, serial; matrices with NaN or infinity never reach it.
 * LAPACK sees row-major matrices as transposed column-major ones; each op says what that makes of its arguments.
 */
#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "core/dtype.h"
#include "core/parallel.h"
#include "core/tree.h"

#include <lapacke.h>
#include <math.h>
#include <string.h>

enum {
    GRAM_WAVE = 32,   /* chunks whose Gram matrices are in memory at a time */
    PANEL_STATS = 256 /* columns of x that one task of the calibration sums owns */
};

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

flrq_status cpu_finite_check(const char *op, const float *x, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows * cols; i++)
        if (!isfinite(x[i]))
            return flrq_fail(FLRQ_ERR_NUMERIC, "%s: element (%lld, %lld) of the %lld x %lld matrix is %g", op,
                             (long long)(i / cols), (long long)(i % cols), (long long)rows, (long long)cols,
                             (double)x[i]);
    return FLRQ_OK;
}

flrq_status cpu_finite_check_f64(const char *op, const double *x, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows * cols; i++)
        if (!isfinite(x[i]))
            return flrq_fail(FLRQ_ERR_NUMERIC, "%s: element (%lld, %lld) of the %lld x %lld matrix is %g", op,
                             (long long)(i / cols), (long long)(i % cols), (long long)rows, (long long)cols, x[i]);
    return FLRQ_OK;
}

flrq_status cpu_diagonal_check(const char *op, const double *r, int64_t b) {
    for (int64_t i = 0; i < b; i++) FLRQ_TRY(op_check_diagonal(op, i, r[i * b + i]));
    return FLRQ_OK;
}

/* What a LAPACKE call said, as a status. */
static flrq_status lapack_status(const char *op, int64_t m, int64_t n, lapack_int info) {
    if (info == 0) return FLRQ_OK;
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return flrq_fail(FLRQ_ERR_MEMORY, "%s: LAPACK found no memory for its work on %lld x %lld", op, (long long)m,
                         (long long)n);
    return flrq_fail(FLRQ_ERR_NUMERIC, "%s: LAPACK gave up on %lld x %lld (info %d)", op, (long long)m, (long long)n,
                     (int)info);
}

/* ---- Gram and Cholesky ------------------------------------------------------------------------------------------- */

typedef struct gram_job {
    cpu_state *cpu;
    const float *y; /* [m, b] */
    int64_t m, b;
    int64_t chunk0; /* first chunk of this wave */
    double *parts;  /* [wave, b, b], upper triangles */
} gram_job;

static void gram_task(void *arg, int64_t index, int thread) {
    const gram_job *job = arg;
    int64_t b = job->b, row0 = (job->chunk0 + index) * FLRQ_CHUNK_ROWS, end = min64(job->m, row0 + FLRQ_CHUNK_ROWS);
    double *part = job->parts + index * b * b;
    memset(part, 0, (size_t)(b * b) * sizeof *part);
    for (; row0 < end; row0 += CPU_TILE_ROWS)
        job->cpu->kernels->gram(part, job->y + row0 * b, min64(CPU_TILE_ROWS, end - row0), b,
                                (double *)job->cpu->scratch[thread]);
}

static flrq_status cpu_gram(flrq_backend *be, double *d_gram, const float *d_y, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("gram", m, b, sizeof(float)));
    FLRQ_TRY(op_check_shape("gram", b, b, sizeof(double) * (GRAM_WAVE + FLRQ_TREE_LEVELS + 2)));
    cpu_state *cpu = cpu_of(be);
    int64_t chunks = ceil_div(m, FLRQ_CHUNK_ROWS), wave = min64(GRAM_WAVE, chunks), count = b * b;
    int levels = flrq_tree_levels(chunks);
    FLRQ_TRY(cpu_shared(be, sizeof(double) * (size_t)((wave + levels) * count)));
    FLRQ_TRY(cpu_scratch(be, sizeof(double) * (size_t)(CPU_TILE_ROWS * (b + CPU_GRAM_PAD))));
    gram_job job = {.cpu = cpu, .y = d_y, .m = m, .b = b, .parts = (double *)cpu->shared};
    double *buffers[FLRQ_TREE_LEVELS + 2];
    for (int k = 1; k < levels; k++) buffers[k] = job.parts + (wave + k) * count;
    flrq_tree tree = {0};
    for (job.chunk0 = 0; job.chunk0 < chunks; job.chunk0 += wave) {
        int64_t now = min64(wave, chunks - job.chunk0);
        flrq_parallel_for(cpu->threads, now, gram_task, &job);
        for (int64_t i = 0; i < now; i++) {
            buffers[0] = job.parts + i * count;
            flrq_tree_push_f64(&tree, buffers, count);
        }
    }
    flrq_tree_finish_f64(&tree, buffers, d_gram, count);
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < i; j++) d_gram[i * b + j] = d_gram[j * b + i];
    return FLRQ_OK;
}

static flrq_status cpu_cholesky(flrq_backend *be, double *d_gram, int64_t b, int *info) {
    FLRQ_TRY(op_check_shape("cholesky", b, b, sizeof(double)));
    *info = 0;
    if (b == 0) return FLRQ_OK;
    /* The row-major upper triangle is the column-major lower one: G = R^T R becomes L L^T with L = R^T. The _work form
     * does not scan for NaN; a NaN pivot is "not positive" to this op, and is found on the diagonal below. */
    lapack_int result = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (lapack_int)b, d_gram, (lapack_int)b);
    if (result < 0) return lapack_status("cholesky", b, b, result);
    *info = result;
    for (int64_t i = 0; i < b && *info == 0; i++)
        if (!(d_gram[i * b + i] > 0) || isinf(d_gram[i * b + i])) *info = (int)i + 1;
    for (int64_t i = 0; i < b; i++) memset(d_gram + i * b, 0, (size_t)i * sizeof *d_gram);
    return FLRQ_OK;
}

/* ---- row tiles: solve, gemm, rank one ---------------------------------------------------------------------------- */

typedef struct rows_job {
    cpu_state *cpu;
    float *y; /* [m, n], changed in place */
    int64_t m, n;
    const float *a; /* solve: R^-1 [n, n]; gemm: [m, b]; rank one: u [m] */
    const float *b; /* gemm: [b, n]; rank one: v [n] */
    int64_t inner;  /* gemm: b */
    float alpha, beta;
} rows_job;

static void solve_task(void *arg, int64_t index, int thread) {
    const rows_job *job = arg;
    int64_t b = job->n, row0 = index * CPU_TILE_ROWS, rows = min64(CPU_TILE_ROWS, job->m - row0);
    float *y = job->y + row0 * b, *copy = (float *)job->cpu->scratch[thread];
    memcpy(copy, y, (size_t)(rows * b) * sizeof *y);
    job->cpu->kernels->gemm(0, 0, rows, b, b, 1, copy, b, job->a, b, 0, y, b, job->cpu->work[thread]);
}

/* inverse [b, b] of upper triangular r, row by row from the last: row i = (e_i - sum_{k>i} r_ik row k) / r_ii. */
static void invert_triangle(double *inverse, const double *r, int64_t b) {
    memset(inverse, 0, (size_t)(b * b) * sizeof *inverse);
    for (int64_t i = b - 1; i >= 0; i--) {
        double *row = inverse + i * b;
        row[i] = 1;
        for (int64_t k = i + 1; k < b; k++)
            for (int64_t j = k; j < b; j++) row[j] -= r[i * b + k] * inverse[k * b + j];
        for (int64_t j = i; j < b; j++) row[j] /= r[i * b + i];
    }
}

/* Multiplies by the inverse instead of substituting: the product runs at the speed of gemm, the inverse is formed in
 * double, and the error stays eps |Y| |R^-1|, which substitution in fp32 has as well. */
static flrq_status cpu_solve_right(flrq_backend *be, float *d_y, const double *d_r, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("solve_right", m, b, sizeof(float)));
    FLRQ_TRY(op_check_shape("solve_right", b, b, 2 * sizeof(double)));
    FLRQ_TRY(cpu_diagonal_check("solve_right", d_r, b));
    if (m == 0 || b == 0) return FLRQ_OK;
    cpu_state *cpu = cpu_of(be);
    FLRQ_TRY(cpu_shared(be, (sizeof(double) + sizeof(float)) * (size_t)(b * b)));
    FLRQ_TRY(cpu_scratch(be, sizeof(float) * (size_t)(CPU_TILE_ROWS * b)));
    double *inverse = (double *)cpu->shared;
    float *rounded = (float *)(inverse + b * b);
    invert_triangle(inverse, d_r, b);
    for (int64_t i = 0; i < b * b; i++) rounded[i] = (float)inverse[i];
    rows_job job = {.cpu = cpu, .y = d_y, .m = m, .n = b, .a = rounded};
    flrq_parallel_for(cpu->threads, ceil_div(m, CPU_TILE_ROWS), solve_task, &job);
    return FLRQ_OK;
}

static void gemm_task(void *arg, int64_t index, int thread) {
    const rows_job *job = arg;
    int64_t row0 = index * CPU_TILE_ROWS, rows = min64(CPU_TILE_ROWS, job->m - row0);
    job->cpu->kernels->gemm(0, 0, rows, job->n, job->inner, job->alpha, job->a + row0 * job->inner, job->inner, job->b,
                            job->n, job->beta, job->y + row0 * job->n, job->n, job->cpu->work[thread]);
}

static flrq_status cpu_gemm(flrq_backend *be, float *d_c, const float *d_a, const float *d_b, int64_t m, int64_t k,
                            int64_t b, float alpha, float beta) {
    FLRQ_TRY(op_check_shape("gemm", m, k, sizeof(float)));
    FLRQ_TRY(op_check_shape("gemm", m, b, sizeof(float)));
    FLRQ_TRY(op_check_shape("gemm", b, k, sizeof(float)));
    if (m == 0 || k == 0) return FLRQ_OK;
    rows_job job = {
        .cpu = cpu_of(be), .y = d_c, .m = m, .n = k, .a = d_a, .b = d_b, .inner = b, .alpha = alpha, .beta = beta};
    flrq_parallel_for(cpu_of(be)->threads, ceil_div(m, CPU_TILE_ROWS), gemm_task, &job);
    return FLRQ_OK;
}

static void rank_one_task(void *arg, int64_t index, int thread) {
    const rows_job *job = arg;
    int64_t end = min64(job->m, (index + 1) * CPU_TILE_ROWS);
    for (int64_t i = index * CPU_TILE_ROWS; i < end; i++)
        job->cpu->kernels->axpy(job->y + i * job->n, job->b, job->alpha * job->a[i], job->n);
}

static flrq_status cpu_rank_one(flrq_backend *be, float *d_y, const float *d_u, const float *d_v, int64_t m, int64_t n,
                                float alpha) {
    FLRQ_TRY(op_check_shape("rank_one", m, n, sizeof(float)));
    rows_job job = {.cpu = cpu_of(be), .y = d_y, .m = m, .n = n, .a = d_u, .b = d_v, .alpha = alpha};
    flrq_parallel_for(cpu_of(be)->threads, ceil_div(m, CPU_TILE_ROWS), rank_one_task, &job);
    return FLRQ_OK;
}

/* ---- orthogonal decompositions
 * ----------------------------------------------------------------------------------------- */

/* out [n, m] = in [m, n] transposed. */
static void transpose(float *out, const float *in, int64_t m, int64_t n) {
    enum { B = 16 };
    for (int64_t i0 = 0; i0 < m; i0 += B)
        for (int64_t j0 = 0; j0 < n; j0 += B)
            for (int64_t i = i0; i < min64(m, i0 + B); i++)
                for (int64_t j = j0; j < min64(n, j0 + B); j++) out[j * m + i] = in[i * n + j];
}

static flrq_status cpu_householder(flrq_backend *be, float *d_y, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("householder", m, b + 1, sizeof(float)));
    FLRQ_TRY(op_check_tall("householder", m, b));
    FLRQ_TRY(cpu_finite_check("householder", d_y, m, b));
    if (b == 0) return FLRQ_OK;
    cpu_state *cpu = cpu_of(be);
    FLRQ_TRY(cpu_shared(be, sizeof(float) * (size_t)(m * b + b)));
    float *columns = (float *)cpu->shared, *tau = columns + m * b;
    transpose(columns, d_y, m, b);
    lapack_int rows = (lapack_int)m, cols = (lapack_int)b;
    FLRQ_TRY(lapack_status("householder", m, b, LAPACKE_sgeqrf(LAPACK_COL_MAJOR, rows, cols, columns, rows, tau)));
    FLRQ_TRY(
        lapack_status("householder", m, b, LAPACKE_sorgqr(LAPACK_COL_MAJOR, rows, cols, cols, columns, rows, tau)));
    transpose(d_y, columns, b, m);
    return FLRQ_OK;
}

static flrq_status cpu_eigh(flrq_backend *be, double *d_a, double *d_values, int64_t b) {
    FLRQ_TRY(op_check_shape("eigh", b, b, sizeof(double)));
    FLRQ_TRY(cpu_finite_check_f64("eigh", d_a, b, b));
    if (b == 0) return FLRQ_OK;
    cpu_state *cpu = cpu_of(be);
    FLRQ_TRY(cpu_shared(be, sizeof(double) * (size_t)(b * b + b)));
    double *vectors = (double *)cpu->shared, *values = vectors + b * b;
    memcpy(vectors, d_a, sizeof(double) * (size_t)(b * b));
    lapack_int n = (lapack_int)b;
    FLRQ_TRY(lapack_status("eigh", b, b, LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', n, vectors, n, values)));
    /* Column-major eigenvectors, ascending: vector k is row k of `vectors`. */
    for (int64_t k = 0; k < b; k++) {
        d_values[k] = values[b - 1 - k];
        for (int64_t i = 0; i < b; i++) d_a[i * b + k] = vectors[(b - 1 - k) * b + i];
    }
    return FLRQ_OK;
}

/* ---- low-rank factors -------------------------------------------------------------------------------------------- */

typedef struct factor_job {
    const float *x, *divisor, *factor;
    float *out;
    uint32_t *parts; /* [tasks, b] bits of |.|, whose order is that of the values, NaN on top */
    int64_t ld, m, b;
    int transpose;
    flrq_dtype dtype;
} factor_job;

static float quotient_at(const factor_job *job, int64_t i, int64_t k) {
    float value = job->x[i * job->ld + k];
    return job->divisor ? value / job->divisor[i] : value;
}

static void amax_task(void *arg, int64_t index, int thread) {
    const factor_job *job = arg;
    uint32_t *part = job->parts + index * job->b, bits;
    memset(part, 0, (size_t)job->b * sizeof *part);
    for (int64_t i = index * CPU_TILE_ROWS; i < min64(job->m, (index + 1) * CPU_TILE_ROWS); i++)
        for (int64_t k = 0; k < job->b; k++) {
            float value = fabsf(quotient_at(job, i, k));
            memcpy(&bits, &value, sizeof bits);
            part[k] = bits > part[k] ? bits : part[k];
        }
}

static flrq_status cpu_column_amax(flrq_backend *be, float *amax, const float *d_x, int64_t ld, const float *d_divisor,
                                   int64_t m, int64_t b) {
    FLRQ_TRY(op_check_columns_of("column_amax", m, ld, b));
    int64_t tasks = ceil_div(m, CPU_TILE_ROWS);
    memset(amax, 0, (size_t)b * sizeof *amax);
    if (m == 0 || b == 0) return FLRQ_OK;
    FLRQ_TRY(cpu_shared(be, (size_t)(tasks * b) * sizeof(uint32_t)));
    factor_job job = {.x = d_x, .divisor = d_divisor, .ld = ld, .m = m, .b = b};
    job.parts = (uint32_t *)cpu_of(be)->shared;
    flrq_parallel_for(cpu_of(be)->threads, tasks, amax_task, &job);
    for (int64_t k = 0; k < b; k++) {
        uint32_t most = 0;
        for (int64_t t = 0; t < tasks; t++) most = job.parts[t * b + k] > most ? job.parts[t * b + k] : most;
        memcpy(&amax[k], &most, sizeof most);
    }
    return FLRQ_OK;
}

static void round_task(void *arg, int64_t index, int thread) {
    const factor_job *job = arg;
    uint16_t bits;
    for (int64_t i = index * CPU_TILE_ROWS; i < min64(job->m, (index + 1) * CPU_TILE_ROWS); i++)
        for (int64_t k = 0; k < job->b; k++) {
            flrq_store(&bits, job->dtype, 0, quotient_at(job, i, k) * job->factor[k]);
            job->out[job->transpose ? k * job->m + i : i * job->b + k] = flrq_load(&bits, job->dtype, 0);
        }
}

static flrq_status cpu_round_factor(flrq_backend *be, float *d_out, const float *d_x, int64_t ld,
                                    const float *d_divisor, const float *factor, int64_t m, int64_t b, int transpose,
                                    flrq_dtype dtype) {
    FLRQ_TRY(op_check_columns_of("round_factor", m, ld, b));
    FLRQ_TRY(op_check_factor_type(dtype));
    factor_job job = {d_x, d_divisor, factor, d_out, NULL, ld, m, b, transpose, dtype};
    flrq_parallel_for(cpu_of(be)->threads, ceil_div(m, CPU_TILE_ROWS), round_task, &job);
    return FLRQ_OK;
}

flrq_status cpu_svd_check(flrq_svd_method method) {
    if (method == FLRQ_SVD_DEFAULT) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "svd: the CPU backend has no Jacobi SVD of its own; it runs LAPACK's gesdd");
}

static flrq_status cpu_svd(flrq_backend *be, flrq_svd_method method, float *d_a, int64_t m, int64_t n, float *d_u,
                           float *d_s, float *d_vt) {
    FLRQ_TRY(cpu_svd_check(method));
    FLRQ_TRY(op_check_shape("svd", m, n, sizeof(float)));
    FLRQ_TRY(cpu_finite_check("svd", d_a, m, n));
    int64_t p = min64(m, n);
    if (p == 0) return FLRQ_OK;
    /* Row-major A is column-major A^T = V S U^T: its left factor, column-major [n, p], is row-major V^T [p, n]; its
     * right factor U^T, column-major [p, m], is row-major U [m, p]. Nothing is copied. */
    lapack_int rows = (lapack_int)n, cols = (lapack_int)m, inner = (lapack_int)p;
    lapack_int info = LAPACKE_sgesdd(LAPACK_COL_MAJOR, 'S', rows, cols, d_a, rows, d_s, d_vt, rows, d_u, inner);
    return lapack_status("svd", m, n, info);
}

/* ---- calibration sums
 * -------------------------------------------------------------------------------------------------- */

typedef struct input_job {
    cpu_state *cpu;
    const float *x; /* [tokens, n] */
    int64_t tokens, n;
    double *token_factor;         /* [tokens] 1 / mean |x_t|, or 0 */
    double *abs_sum, *square_sum; /* [n] */
    const float *g;               /* [tokens, k] */
    int64_t k;
    float *s; /* [n, k] */
} input_job;

static void token_task(void *arg, int64_t index, int thread) {
    const input_job *job = arg;
    int64_t end = min64(job->tokens, (index + 1) * CPU_TILE_ROWS);
    for (int64_t t = index * CPU_TILE_ROWS; t < end; t++) {
        double sum = job->cpu->kernels->abs_sum(job->x + t * job->n, job->n);
        job->token_factor[t] = sum > 0 ? (double)job->n / sum : 0;
    }
}

static void stats_task(void *arg, int64_t index, int thread) {
    const input_job *job = arg;
    int64_t col0 = index * PANEL_STATS, cols = min64(PANEL_STATS, job->n - col0);
    for (int64_t t = 0; t < job->tokens; t++)
        job->cpu->kernels->add_stats(job->abs_sum + col0, job->square_sum + col0, job->x + t * job->n + col0,
                                     job->token_factor[t], cols);
}

static flrq_status cpu_input_stats(flrq_backend *be, double *d_abs_sum, double *d_square_sum, const float *d_x,
                                   int64_t tokens, int64_t n) {
    FLRQ_TRY(op_check_shape("input_stats", tokens, n, sizeof(float)));
    cpu_state *cpu = cpu_of(be);
    FLRQ_TRY(cpu_shared(be, sizeof(double) * (size_t)tokens));
    input_job job = {.cpu = cpu,
                     .x = d_x,
                     .tokens = tokens,
                     .n = n,
                     .token_factor = (double *)cpu->shared,
                     .abs_sum = d_abs_sum,
                     .square_sum = d_square_sum};
    flrq_parallel_for(cpu->threads, ceil_div(tokens, CPU_TILE_ROWS), token_task, &job);
    flrq_parallel_for(cpu->threads, ceil_div(n, PANEL_STATS), stats_task, &job);
    return FLRQ_OK;
}

static void sketch_task(void *arg, int64_t index, int thread) {
    const input_job *job = arg;
    int64_t col0 = index * PANEL_STATS, cols = min64(PANEL_STATS, job->n - col0);
    job->cpu->kernels->gemm(1, 0, cols, job->k, job->tokens, 1, job->x + col0, job->n, job->g, job->k, 1,
                            job->s + col0 * job->k, job->k, job->cpu->work[thread]);
}

static flrq_status cpu_input_sketch(flrq_backend *be, float *d_s, const float *d_x, const float *d_g, int64_t tokens,
                                    int64_t n, int64_t k) {
    FLRQ_TRY(op_check_shape("input_sketch", tokens, n, sizeof(float)));
    FLRQ_TRY(op_check_shape("input_sketch", tokens, k, sizeof(float)));
    FLRQ_TRY(op_check_shape("input_sketch", n, k, sizeof(float)));
    if (tokens == 0 || k == 0) return FLRQ_OK;
    input_job job = {.cpu = cpu_of(be), .x = d_x, .tokens = tokens, .n = n, .g = d_g, .k = k, .s = d_s};
    flrq_parallel_for(cpu_of(be)->threads, ceil_div(n, PANEL_STATS), sketch_task, &job);
    return FLRQ_OK;
}

void cpu_register_small(flrq_backend *be) {
    be->gram = cpu_gram;
    be->cholesky = cpu_cholesky;
    be->solve_right = cpu_solve_right;
    be->householder = cpu_householder;
    be->eigh = cpu_eigh;
    be->gemm = cpu_gemm;
    be->rank_one = cpu_rank_one;
    be->column_amax = cpu_column_amax;
    be->round_factor = cpu_round_factor;
    be->svd = cpu_svd;
    be->input_stats = cpu_input_stats;
    be->input_sketch = cpu_input_sketch;
}
