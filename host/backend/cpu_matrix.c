/* cpu_matrix.c - implicit-matrix ops of the fast face: products with A and A^T, norms, amax curve, on a fixed grid of
 * tiles.
 *
 * Owns the decomposition into tasks. Row tasks cover CPU_TILE_ROWS rows, column tasks PANEL_T columns; neither depends
 * on the number of threads, and every task writes its own outputs, so results are the same bytes for any thread count.
 * Sums over rows go by chunks along the tree of core/tree.h. Products never expand L R or diag(s): the factors are
 * applied to the skinny side, (D + Q - L R) diag(s) x = (D + Q) xs - L (R xs). All scratch is sized before tasks start;
 * tasks do not fail.
 */
#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "core/tree.h"

#include <stdbool.h>
#include <string.h>

enum {
    PANEL_T = 256,       /* columns of A that one task of mul_t owns */
    PANEL_T_NARROW = 64, /* the same when A is narrow, so that there are tasks for all threads */
    BLOCK_T = 256,       /* columns of q per pass of mul_t: bounds its partial sums */
    NORMAL_BLOCK = 4096, /* random numbers per task */
    TILE_FLOATS = CPU_TILE_ROWS * CPU_PANEL_COLS
};

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* bytes = count * width, or an error: counts come from shapes and must not wrap. */
static flrq_status size_of(size_t *bytes, int64_t rows, int64_t cols, size_t width, const char *op) {
    size_t count;
    if (__builtin_mul_overflow((size_t)rows, (size_t)cols, &count) || __builtin_mul_overflow(count, width, bytes))
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: %lld x %lld elements do not fit in memory", op, (long long)rows,
                         (long long)cols);
    return FLRQ_OK;
}

/* A tile of A: directly in memory when the operand is plain fp32, else evaluated into the first TILE_FLOATS of
 * the scratch of the thread. */
typedef struct tile {
    const float *data;
    int64_t ld;
} tile;

static bool is_plain(const flrq_operand *a) {
    return a->d_dense && a->dense_dtype == FLRQ_F32 && !a->codes && a->rank == 0 && !a->d_col_scale;
}

static tile tile_of(const cpu_state *cpu, int thread, const flrq_operand *a, int64_t row0, int64_t rows, int64_t col0,
                    int64_t cols) {
    if (is_plain(a)) return (tile){(const float *)a->d_dense + row0 * a->ld_dense + col0, a->ld_dense};
    float *scratch = (float *)cpu->scratch[thread];
    cpu_tile_load(cpu->kernels, scratch, cols, a, row0, rows, col0, cols, cpu->work[thread]);
    return (tile){scratch, cols};
}

/* The part of an operand that must be formed element by element: without L R and column scale. */
static flrq_operand core_of(const flrq_operand *a) {
    flrq_operand core = *a;
    core.rank = 0;
    core.d_l = core.d_r = NULL;
    core.d_col_scale = NULL;
    return core;
}

/* ---- y = A x ----------------------------------------------------------------------------------------------------- */

typedef struct mul_job {
    cpu_state *cpu;
    flrq_operand core;
    const float *x; /* [n, b], already scaled */
    int64_t b;
    const float *l; /* [m, rank] */
    const float *t; /* [rank, b] = R x, or NULL */
    int64_t rank;
    float lr_sign;
    float *y;     /* [m, b]; NULL: only norms are wanted */
    double *sums; /* [tiles] sums of squares of y */
} mul_job;

/* y [rows, b] = rows row0.. of A x. */
static void mul_tile(const mul_job *job, float *y, int64_t row0, int64_t rows, int thread) {
    const cpu_kernels *kernels = job->cpu->kernels;
    float *work = job->cpu->work[thread];
    const flrq_operand *core = &job->core;
    int64_t n = core->cols, b = job->b;
    float beta = 0;
    if (!core->d_dense && !core->codes) {
        memset(y, 0, (size_t)(rows * b) * sizeof *y);
    } else if (b == 1) {
        for (int64_t i = 0; i < rows; i++) {
            y[i] = 0;
            for (int64_t col0 = 0; col0 < n; col0 += CPU_PANEL_COLS) {
                int64_t cols = min64(CPU_PANEL_COLS, n - col0);
                tile row = tile_of(job->cpu, thread, core, row0 + i, 1, col0, cols);
                y[i] += kernels->dot(row.data, job->x + col0, cols);
            }
        }
    } else {
        /* A plain operand needs no panels: the product blocks the sum itself. */
        int64_t panel = is_plain(core) ? n : CPU_PANEL_COLS;
        for (int64_t col0 = 0; col0 < n; col0 += panel, beta = 1) {
            int64_t cols = min64(panel, n - col0);
            tile part = tile_of(job->cpu, thread, core, row0, rows, col0, cols);
            kernels->gemm(0, 0, rows, b, cols, 1, part.data, part.ld, job->x + col0 * b, b, beta, y, b, work);
        }
    }
    if (n == 0) memset(y, 0, (size_t)(rows * b) * sizeof *y);
    if (job->t)
        kernels->gemm(0, 0, rows, b, job->rank, job->lr_sign, job->l + row0 * job->rank, job->rank, job->t, b, 1, y, b,
                      work);
}

static void mul_task(void *arg, int64_t index, int thread) {
    const mul_job *job = arg;
    int64_t row0 = index * CPU_TILE_ROWS, rows = min64(CPU_TILE_ROWS, job->core.rows - row0);
    float *y = job->y ? job->y + row0 * job->b : (float *)job->cpu->scratch[thread] + TILE_FLOATS;
    mul_tile(job, y, row0, rows, thread);
    if (job->sums) job->sums[index] = job->cpu->kernels->sum_squares(y, rows * job->b);
}

typedef struct scale_job {
    float *to;
    const float *from, *factor;
    int64_t rows, b;
} scale_job;

/* to[j, :] = factor[j] * from[j, :]. */
static void scale_task(void *arg, int64_t index, int thread) {
    const scale_job *job = arg;
    int64_t end = min64(job->rows, (index + 1) * FLRQ_CHUNK_ROWS);
    for (int64_t j = index * FLRQ_CHUNK_ROWS; j < end; j++)
        for (int64_t k = 0; k < job->b; k++) job->to[j * job->b + k] = job->factor[j] * job->from[j * job->b + k];
}

/* Prepares x and R x in shared scratch behind `reserved` bytes, and scratch for the tasks, then runs the row tiles. */
static flrq_status mul_run(flrq_backend *be, const char *op, mul_job *job, const flrq_operand *a, const float *d_x,
                           int64_t b, size_t reserved) {
    FLRQ_TRY(op_check_operand(op, a));
    FLRQ_TRY(op_check_columns(op, b));
    cpu_state *cpu = cpu_of(be);
    size_t x_bytes = 0, t_bytes = 0, y_bytes = 0;
    if (a->d_col_scale) FLRQ_TRY(size_of(&x_bytes, a->cols, b, sizeof(float), op));
    FLRQ_TRY(size_of(&t_bytes, a->rank, b, sizeof(float), op));
    FLRQ_TRY(size_of(&y_bytes, CPU_TILE_ROWS, b, sizeof(float), op));
    x_bytes = (x_bytes + 63) / 64 * 64;
    FLRQ_TRY(cpu_scratch(be, TILE_FLOATS * sizeof(float) + y_bytes));
    FLRQ_TRY(cpu_shared(be, reserved + x_bytes + t_bytes));
    float *x = (float *)(cpu->shared + reserved), *t = (float *)(cpu->shared + reserved + x_bytes);

    job->cpu = cpu;
    job->core = core_of(a);
    job->x = d_x;
    job->b = b;
    job->sums = reserved ? (double *)cpu->shared : NULL;
    if (b == 0 || a->rows == 0) return FLRQ_OK;
    if (a->d_col_scale) {
        scale_job scale = {x, d_x, a->d_col_scale, a->cols, b};
        flrq_parallel_for(cpu->threads, ceil_div(a->cols, FLRQ_CHUNK_ROWS), scale_task, &scale);
        job->x = x;
    }
    if (a->rank > 0) {
        mul_job factors = {.cpu = cpu,
                           .x = job->x,
                           .b = b,
                           .y = t,
                           .core = {.rows = a->rank, .cols = a->cols, .d_dense = a->d_r, .ld_dense = a->cols}};
        flrq_parallel_for(cpu->threads, ceil_div(a->rank, CPU_TILE_ROWS), mul_task, &factors);
        job->l = a->d_l;
        job->t = t;
        job->rank = a->rank;
        job->lr_sign = a->lr_sign;
    }
    flrq_parallel_for(cpu->threads, ceil_div(a->rows, CPU_TILE_ROWS), mul_task, job);
    return FLRQ_OK;
}

static flrq_status cpu_mul(flrq_backend *be, float *d_y, const flrq_operand *a, const float *d_x, int64_t b) {
    mul_job job = {.y = d_y};
    return mul_run(be, "mul", &job, a, d_x, b, 0);
}

/* ---- z = A^T q --------------------------------------------------------------------------------------------------- */

typedef struct mul_t_job {
    cpu_state *cpu;
    flrq_operand core;
    const float *q;    /* [m, b] */
    int64_t b, b0, bb; /* columns of q, and the range of this pass */
    int64_t panel;
    const float *t; /* [rank, b] = L^T q, or NULL */
    const float *r; /* [rank, n] */
    int64_t rank;
    float lr_sign;
    const float *col_scale; /* [n] or NULL */
    float *z;               /* [n, b] */
} mul_t_job;

static int64_t mul_t_panel(int64_t n) {
    return n >= 8 * PANEL_T ? PANEL_T : PANEL_T_NARROW;
}

/* part [cols, bb] = A[chunk, cols]^T q[chunk, b0..]. */
static void mul_t_chunk(const mul_t_job *job, float *part, int64_t row0, int64_t rows, int64_t col0, int64_t cols,
                        int thread) {
    const cpu_kernels *kernels = job->cpu->kernels;
    /* A plain operand is read in place: the whole chunk is one product. */
    int64_t step = is_plain(&job->core) ? rows : CPU_TILE_ROWS;
    if (job->bb == 1) memset(part, 0, (size_t)cols * sizeof *part);
    for (int64_t i = 0; i < rows; i += step) {
        int64_t count = min64(step, rows - i);
        tile a = tile_of(job->cpu, thread, &job->core, row0 + i, count, col0, cols);
        const float *q = job->q + (row0 + i) * job->b + job->b0;
        if (job->bb == 1)
            for (int64_t k = 0; k < count; k++) kernels->axpy(part, a.data + k * a.ld, q[k * job->b], cols);
        else
            kernels->gemm(1, 0, cols, job->bb, count, 1, a.data, a.ld, q, job->b, i == 0 ? 0 : 1, part, job->bb,
                          job->cpu->work[thread]);
    }
}

static void mul_t_task(void *arg, int64_t index, int thread) {
    const mul_t_job *job = arg;
    int64_t m = job->core.rows, bb = job->bb;
    int64_t col0 = index * job->panel, cols = min64(job->panel, job->core.cols - col0), count = cols * bb;
    float *scratch = (float *)job->cpu->scratch[thread], *buffers[FLRQ_TREE_LEVELS + 2];
    for (int k = 0; k < flrq_tree_levels(ceil_div(m, FLRQ_CHUNK_ROWS)); k++)
        buffers[k] = scratch + TILE_FLOATS + k * count;
    flrq_tree tree = {0};
    if (job->core.d_dense || job->core.codes)
        for (int64_t row0 = 0; row0 < m; row0 += FLRQ_CHUNK_ROWS) {
            mul_t_chunk(job, buffers[0], row0, min64(FLRQ_CHUNK_ROWS, m - row0), col0, cols, thread);
            flrq_tree_push_f32(&tree, buffers, count);
        }
    float *sum = buffers[0];
    flrq_tree_finish_f32(&tree, buffers, sum, count);
    if (job->t)
        job->cpu->kernels->gemm(1, 0, cols, bb, job->rank, job->lr_sign, job->r + col0, job->core.cols,
                                job->t + job->b0, job->b, 1, sum, bb, job->cpu->work[thread]);
    for (int64_t j = 0; j < cols; j++) {
        float *to = job->z + (col0 + j) * job->b + job->b0;
        float factor = job->col_scale ? job->col_scale[col0 + j] : 1;
        for (int64_t k = 0; k < bb; k++) to[k] = factor * sum[j * bb + k];
    }
}

static void mul_t_passes(mul_t_job *job) {
    for (job->b0 = 0; job->b0 < job->b; job->b0 += job->bb) {
        job->bb = min64(BLOCK_T, job->b - job->b0);
        flrq_parallel_for(job->cpu->threads, ceil_div(job->core.cols, job->panel), mul_t_task, job);
    }
}

static flrq_status cpu_mul_t(flrq_backend *be, float *d_z, const flrq_operand *a, const float *d_q, int64_t b) {
    FLRQ_TRY(op_check_operand("mul_t", a));
    FLRQ_TRY(op_check_columns("mul_t", b));
    cpu_state *cpu = cpu_of(be);
    size_t t_bytes = 0;
    FLRQ_TRY(size_of(&t_bytes, a->rank, b, sizeof(float), "mul_t"));
    size_t levels = (size_t)flrq_tree_levels(ceil_div(a->rows, FLRQ_CHUNK_ROWS));
    FLRQ_TRY(cpu_scratch(be, (TILE_FLOATS + levels * PANEL_T * (size_t)min64(b, BLOCK_T)) * sizeof(float)));
    FLRQ_TRY(cpu_shared(be, t_bytes));
    mul_t_job job = {.cpu = cpu,
                     .core = core_of(a),
                     .q = d_q,
                     .b = b,
                     .panel = mul_t_panel(a->cols),
                     .col_scale = a->d_col_scale,
                     .z = d_z};
    if (a->rank > 0) {
        float *t = (float *)cpu->shared;
        mul_t_job factors = {.cpu = cpu,
                             .q = d_q,
                             .b = b,
                             .panel = mul_t_panel(a->rank),
                             .z = t,
                             .core = {.rows = a->rows, .cols = a->rank, .d_dense = a->d_l, .ld_dense = a->rank}};
        mul_t_passes(&factors);
        job.t = t;
        job.r = a->d_r;
        job.rank = a->rank;
        job.lr_sign = a->lr_sign;
    }
    mul_t_passes(&job);
    return FLRQ_OK;
}

typedef struct scale_rows_job {
    float *y;
    const float *scale;
    int64_t rows, cols;
} scale_rows_job;

static void scale_rows_task(void *arg, int64_t index, int thread) {
    const scale_rows_job *job = arg;
    int64_t end = min64((index + 1) * FLRQ_CHUNK_ROWS, job->rows);
    for (int64_t i = index * FLRQ_CHUNK_ROWS; i < end; i++)
        for (int64_t j = 0; j < job->cols; j++) job->y[i * job->cols + j] *= job->scale[i];
}

static flrq_status cpu_scale_rows(flrq_backend *be, float *d_y, const float *d_scale, int64_t m, int64_t n) {
    FLRQ_TRY(op_check_shape("scale_rows", m, n, sizeof(float)));
    scale_rows_job job = {d_y, d_scale, m, n};
    flrq_parallel_for(cpu_of(be)->threads, ceil_div(m, FLRQ_CHUNK_ROWS), scale_rows_task, &job);
    return FLRQ_OK;
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

/* Adds the sums of row tiles: tiles of a chunk in order, chunks along the tree. */
static double sum_tiles(const double *tiles, int64_t count) {
    enum { TILES = FLRQ_CHUNK_ROWS / CPU_TILE_ROWS };
    double values[FLRQ_TREE_LEVELS + 2], *buffers[FLRQ_TREE_LEVELS + 2], total;
    for (int k = 0; k < FLRQ_TREE_LEVELS + 2; k++) buffers[k] = &values[k];
    flrq_tree tree = {0};
    for (int64_t first = 0; first < count; first += TILES) {
        values[0] = 0;
        for (int64_t i = first; i < min64(count, first + TILES); i++) values[0] += tiles[i];
        flrq_tree_push_f64(&tree, buffers, 1);
    }
    flrq_tree_finish_f64(&tree, buffers, &total, 1);
    return total;
}

static flrq_status cpu_sum_squares_mul(flrq_backend *be, double *sum, const flrq_operand *a, const float *d_s,
                                       int64_t k) {
    *sum = 0;
    FLRQ_TRY(op_check_operand("sum_squares_mul", a));
    int64_t tiles = ceil_div(a->rows, CPU_TILE_ROWS);
    if (tiles == 0 || k == 0) return FLRQ_OK;
    mul_job job = {0};
    FLRQ_TRY(mul_run(be, "sum_squares_mul", &job, a, d_s, k, (size_t)ceil_div(tiles, 8) * 64));
    *sum = sum_tiles(job.sums, tiles);
    return FLRQ_OK;
}

/* ---- one pass over the elements -------------------------------------------------------------------------------- */

typedef struct scan_job {
    cpu_state *cpu;
    const flrq_operand *a;
    float *out;      /* materialize: [m, n] */
    double *sums;    /* sum_squares: [tiles] */
    int64_t *counts; /* count_nonfinite: [tiles] of number, then [tiles] of first index */
    int64_t tiles;
    const float *u, *vt; /* amax_curve: [m, b] and the blocks of blocks_task() */
    int64_t b;
    float *amax; /* [tiles, b + 1] */
} scan_job;

static void materialize_task(void *arg, int64_t index, int thread) {
    const scan_job *job = arg;
    int64_t row0 = index * CPU_TILE_ROWS, rows = min64(CPU_TILE_ROWS, job->a->rows - row0), n = job->a->cols;
    for (int64_t col0 = 0; col0 < n; col0 += CPU_PANEL_COLS)
        cpu_tile_load(job->cpu->kernels, job->out + row0 * n + col0, n, job->a, row0, rows, col0,
                      min64(CPU_PANEL_COLS, n - col0), job->cpu->work[thread]);
}

static void sum_squares_task(void *arg, int64_t index, int thread) {
    const scan_job *job = arg;
    int64_t row0 = index * CPU_TILE_ROWS, rows = min64(CPU_TILE_ROWS, job->a->rows - row0), n = job->a->cols;
    double sum = 0;
    for (int64_t col0 = 0; col0 < n; col0 += CPU_PANEL_COLS) {
        int64_t cols = min64(CPU_PANEL_COLS, n - col0);
        tile part = tile_of(job->cpu, thread, job->a, row0, rows, col0, cols);
        for (int64_t i = 0; i < rows; i++) sum += job->cpu->kernels->sum_squares(part.data + i * part.ld, cols);
    }
    job->sums[index] = sum;
}

static void nonfinite_task(void *arg, int64_t index, int thread) {
    const scan_job *job = arg;
    int64_t row0 = index * CPU_TILE_ROWS, rows = min64(CPU_TILE_ROWS, job->a->rows - row0), n = job->a->cols;
    int64_t count = 0, first = INT64_MAX;
    for (int64_t col0 = 0; col0 < n; col0 += CPU_PANEL_COLS) {
        int64_t cols = min64(CPU_PANEL_COLS, n - col0);
        tile part = tile_of(job->cpu, thread, job->a, row0, rows, col0, cols);
        for (int64_t i = 0; i < rows; i++) {
            const float *row = part.data + i * part.ld;
            for (int64_t j = 0, k; j < cols && (k = job->cpu->kernels->find_nonfinite(row + j, cols - j)) >= 0; j++) {
                j += k;
                count++;
                first = min64(first, (row0 + i) * n + col0 + j);
            }
        }
    }
    job->counts[index] = count;
    job->counts[job->tiles + index] = first;
}

static void amax_task(void *arg, int64_t index, int thread) {
    const scan_job *job = arg;
    const cpu_kernels *kernels = job->cpu->kernels;
    int64_t row0 = index * CPU_TILE_ROWS, rows = min64(CPU_TILE_ROWS, job->a->rows - row0), n = job->a->cols,
            b = job->b;
    float *lanes = (float *)job->cpu->scratch[thread] + TILE_FLOATS, *amax = job->amax + index * (b + 1);
    memset(lanes, 0, (size_t)((b + 1) * CPU_MAX_LANES) * sizeof *lanes);
    for (int64_t col0 = 0; col0 < n; col0 += CPU_PANEL_COLS) {
        int64_t cols = min64(CPU_PANEL_COLS, n - col0);
        tile part = tile_of(job->cpu, thread, job->a, row0, rows, col0, cols);
        kernels->amax_tile(lanes, part.data, part.ld, rows, cols, job->u + row0 * b, b, job->vt + col0 * b, b);
    }
    memset(amax, 0, (size_t)(b + 1) * sizeof *amax);
    kernels->amax_reduce(amax, lanes, b + 1);
}

/* vt [ceil(n / CPU_AMAX_COLS)][b][CPU_AMAX_COLS] = columns of v [n, b], zeros beyond n. */
typedef struct blocks_job {
    float *vt;
    const float *v;
    int64_t n, b;
} blocks_job;

static void blocks_task(void *arg, int64_t index, int thread) {
    const blocks_job *job = arg;
    float *to = job->vt + index * job->b * CPU_AMAX_COLS;
    const float *from = job->v + index * CPU_AMAX_COLS * job->b;
    int64_t cols = min64(CPU_AMAX_COLS, job->n - index * CPU_AMAX_COLS);
    for (int64_t r = 0; r < job->b; r++)
        for (int64_t j = 0; j < CPU_AMAX_COLS; j++) to[r * CPU_AMAX_COLS + j] = j < cols ? from[j * job->b + r] : 0;
}

/* Checks the operand, reserves `bytes` of shared scratch and fills the common part of a scan. */
static flrq_status scan_begin(flrq_backend *be, scan_job *job, const char *op, const flrq_operand *a, size_t bytes) {
    FLRQ_TRY(op_check_operand(op, a));
    FLRQ_TRY(cpu_scratch(be, TILE_FLOATS * sizeof(float)));
    FLRQ_TRY(cpu_shared(be, bytes));
    job->cpu = cpu_of(be);
    job->a = a;
    job->tiles = ceil_div(a->rows, CPU_TILE_ROWS);
    return FLRQ_OK;
}

static flrq_status cpu_materialize(flrq_backend *be, float *d_out, const flrq_operand *a) {
    scan_job job = {.out = d_out};
    FLRQ_TRY(scan_begin(be, &job, "materialize", a, 0));
    flrq_parallel_for(job.cpu->threads, job.tiles, materialize_task, &job);
    return FLRQ_OK;
}

static flrq_status cpu_sum_squares(flrq_backend *be, double *sum, const flrq_operand *a) {
    scan_job job = {0};
    FLRQ_TRY(scan_begin(be, &job, "sum_squares", a, (size_t)ceil_div(a->rows, CPU_TILE_ROWS) * sizeof *job.sums));
    job.sums = (double *)job.cpu->shared;
    flrq_parallel_for(job.cpu->threads, job.tiles, sum_squares_task, &job);
    *sum = sum_tiles(job.sums, job.tiles);
    return FLRQ_OK;
}

static flrq_status cpu_count_nonfinite(flrq_backend *be, int64_t *count, int64_t *first, const flrq_operand *a) {
    scan_job job = {0};
    FLRQ_TRY(
        scan_begin(be, &job, "count_nonfinite", a, 2 * (size_t)ceil_div(a->rows, CPU_TILE_ROWS) * sizeof *job.counts));
    job.counts = (int64_t *)job.cpu->shared;
    flrq_parallel_for(job.cpu->threads, job.tiles, nonfinite_task, &job);
    *count = 0;
    *first = -1;
    for (int64_t i = 0; i < job.tiles; i++) {
        if (*count == 0 && job.counts[i] > 0) *first = job.counts[job.tiles + i];
        *count += job.counts[i];
    }
    return FLRQ_OK;
}

static flrq_status cpu_amax_curve(flrq_backend *be, float *amax, const flrq_operand *a, const float *d_u,
                                  const float *d_v, int64_t b) {
    FLRQ_TRY(op_check_operand("amax_curve", a));
    FLRQ_TRY(op_check_columns("amax_curve", b));
    int64_t tiles = ceil_div(a->rows, CPU_TILE_ROWS), blocks = ceil_div(a->cols, CPU_AMAX_COLS);
    size_t lanes_bytes = 0, vt_bytes = 0, curve_bytes = 0;
    FLRQ_TRY(size_of(&lanes_bytes, CPU_MAX_LANES, b + 1, sizeof(float), "amax_curve"));
    FLRQ_TRY(size_of(&vt_bytes, blocks * CPU_AMAX_COLS, b, sizeof(float), "amax_curve"));
    FLRQ_TRY(size_of(&curve_bytes, tiles, b + 1, sizeof(float), "amax_curve"));
    scan_job job = {.u = d_u, .b = b};
    FLRQ_TRY(scan_begin(be, &job, "amax_curve", a, vt_bytes + curve_bytes));
    FLRQ_TRY(cpu_scratch(be, TILE_FLOATS * sizeof(float) + lanes_bytes));
    float *vt = (float *)job.cpu->shared;
    job.vt = vt;
    job.amax = vt + blocks * CPU_AMAX_COLS * b;
    flrq_parallel_for(job.cpu->threads, blocks, blocks_task, &(blocks_job){vt, d_v, a->cols, b});
    flrq_parallel_for(job.cpu->threads, job.tiles, amax_task, &job);
    memset(amax, 0, (size_t)(b + 1) * sizeof *amax);
    for (int64_t i = 0; i < job.tiles; i++)
        for (int64_t r = 0; r <= b; r++)
            if (job.amax[i * (b + 1) + r] > amax[r]) amax[r] = job.amax[i * (b + 1) + r];
    return FLRQ_OK;
}

/* ---- random numbers ---------------------------------------------------------------------------------------------- */

typedef struct normal_job {
    float *out;
    uint64_t key, stream, index0;
    int64_t count;
} normal_job;

static void normal_task(void *arg, int64_t index, int thread) {
    const normal_job *job = arg;
    int64_t first = index * NORMAL_BLOCK;
    flrq_philox_normal(job->out + first, job->key, job->stream, job->index0 + (uint64_t)first,
                       (uint64_t)min64(NORMAL_BLOCK, job->count - first));
}

static flrq_status cpu_normal(flrq_backend *be, float *d_out, uint64_t key, uint64_t stream, uint64_t index0,
                              int64_t count) {
    normal_job job = {d_out, key, stream, index0, count};
    flrq_parallel_for(cpu_of(be)->threads, ceil_div(count, NORMAL_BLOCK), normal_task, &job);
    return FLRQ_OK;
}

void cpu_register_matrix(flrq_backend *be) {
    be->normal = cpu_normal;
    be->materialize = cpu_materialize;
    be->mul = cpu_mul;
    be->mul_t = cpu_mul_t;
    be->scale_rows = cpu_scale_rows;
    be->sum_squares = cpu_sum_squares;
    be->sum_squares_mul = cpu_sum_squares_mul;
    be->amax_curve = cpu_amax_curve;
    be->count_nonfinite = cpu_count_nonfinite;
}
