/* cuda_matrix.c - random numbers, implicit matrices and their products on the device: kernels of matrix.cu and cuBLAS.
 *
 * cuBLAS needs its inputs in memory, an operand need not be there. A plain dense operand goes to cuBLAS as it is, its
 * column scale folded into the skinny factor; any other is evaluated by panels of whole chunks into scratch that is
 * reused (small enough to stay in L2 for most of its life) and multiplied from there: W is read once, a full-size copy
 * never exists. Precision FULL takes fp32 inputs everywhere; FAST takes bf16 where the operand is stored so (or is
 * about to be served so: linear() of quantized weights) and TF32 elsewhere; sums are fp32 in both.
 *
 * Row-major [m, n] is column-major [n, m] to cuBLAS; every call below says what that makes of its arguments. Must not
 * change: sums over rows go chunk by chunk along the tree of tree.h, whatever the panels.
 */
#include "backend/cuda.h"
#include "core/tree.h"
#include "kernels/forward_kernels.h"
#include "kernels/matrix_kernels.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { PANEL_BYTES = 32 << 20 }; /* within the L2 cache of an H100, but for one chunk of the widest matrices */

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t chunks_of(int64_t rows) {
    return (rows + FLRQ_CHUNK_ROWS - 1) / FLRQ_CHUNK_ROWS;
}

static int is_fast(flrq_backend *be) {
    return cuda_of(be)->precision == FLRQ_PRECISION_FAST;
}

/* A number of rows, whole chunks, that fills a panel of `width` bytes an element. */
static int64_t panel_rows(const flrq_operand *a, size_t width) {
    int64_t chunks = (int64_t)(PANEL_BYTES / width) / (a->cols * FLRQ_CHUNK_ROWS);
    return min64(a->rows, (chunks > 0 ? chunks : 1) * FLRQ_CHUNK_ROWS);
}

/* ---- cuBLAS ------------------------------------------------------------------------------------------------------ */

/* One product in cuBLAS's column-major terms: C [m, n] (ld m unless given) = alpha op(A) op(B) + beta C. */
typedef struct product {
    cublasOperation_t op_a, op_b;
    int64_t m, n, k;
    const void *a, *b;
    int64_t ld_a, ld_b, ld_c;
    cudaDataType_t type; /* of A and B */
    int tf32;            /* fp32 inputs may be rounded to TF32 */
    float alpha, beta;
} product;

static cublasComputeType_t compute_type(int tf32) {
    return tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

static flrq_status multiply(flrq_backend *be, float *c, const product *p, const char *op) {
    cublasStatus_t status = cublasGemmEx(cuda_of(be)->blas, p->op_a, p->op_b, (int)p->m, (int)p->n, (int)p->k,
                                         &p->alpha, p->a, p->type, (int)p->ld_a, p->b, p->type, (int)p->ld_b, &p->beta,
                                         c, CUDA_R_32F, (int)p->ld_c, compute_type(p->tf32), CUBLAS_GEMM_DEFAULT);
    FLRQ_TRY(cuda_check_blas(status, op, p->n, p->m));
    return cuda_launched(be, cudaSuccess, op, p->n, p->m);
}

/* ---- operands as cuBLAS takes them ------------------------------------------------------------------------------- */

/* How the rows of an operand reach cuBLAS. */
typedef struct panels {
    const flrq_operand *a;
    cudaDataType_t type;
    int tf32;
    int in_place; /* plain dense: no copy, the column scale is left to the other factor */
    int64_t rows; /* of a panel */
    void *d_panel;
} panels;

/* For linear() what is not in place is rounded to bf16 if FAST, and column scales are always applied here. */
static flrq_status plan_panels(flrq_backend *be, panels *p, const flrq_operand *a, int linear) {
    int plain = a->d_dense && !a->codes && a->rank == 0 && !(linear && a->d_col_scale), fast = is_fast(be);
    *p = (panels){.a = a, .type = CUDA_R_32F, .rows = a->rows};
    if (plain && (a->dense_dtype == FLRQ_F32 || (fast && a->dense_dtype == FLRQ_BF16))) {
        p->in_place = 1;
        if (a->dense_dtype == FLRQ_BF16) p->type = CUDA_R_16BF;
    } else {
        if (linear && fast && !(plain && a->dense_dtype == FLRQ_F16)) p->type = CUDA_R_16BF;
        size_t width = p->type == CUDA_R_16BF ? 2 : 4;
        p->rows = panel_rows(a, width);
        FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PANEL, (size_t)(p->rows * a->cols) * width, &p->d_panel));
    }
    p->tf32 = fast && p->type == CUDA_R_32F;
    return FLRQ_OK;
}

/* Rows [row0, row0 + rows) as a matrix in memory. */
static flrq_status panel_at(flrq_backend *be, const panels *p, int64_t row0, int64_t rows, const void **d_out,
                            int64_t *ld) {
    const flrq_operand *a = p->a;
    if (p->in_place) {
        *d_out = (const char *)a->d_dense + (size_t)(row0 * a->ld_dense) * (p->type == CUDA_R_16BF ? 2 : 4);
        *ld = a->ld_dense;
        return FLRQ_OK;
    }
    flrq_view v = cuda_view(a, row0, rows);
    cudaStream_t stream = cuda_of(be)->stream;
    cudaError_t error = p->type == CUDA_R_16BF ? flrq_launch_materialize_bf16(p->d_panel, &v, stream)
                                               : flrq_launch_materialize_f32(p->d_panel, &v, stream);
    *d_out = p->d_panel;
    *ld = a->cols;
    return cuda_launched(be, error, "materialize", rows, a->cols);
}

/* The skinny factor x [rows, cols] in the type of the panels, its rows scaled where the operand's columns are not. */
static flrq_status prepare_factor(flrq_backend *be, const panels *p, const float *d_x, const float *d_scale,
                                  int64_t rows, int64_t cols, const void **d_out) {
    int bf16 = p->type == CUDA_R_16BF;
    if (!p->in_place) d_scale = NULL;
    *d_out = d_x;
    if (!d_scale && !bf16) return FLRQ_OK;
    void *d_to;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_VECTOR, (size_t)(rows * cols) * (bf16 ? 2 : 4), &d_to));
    *d_out = d_to;
    cudaStream_t stream = cuda_of(be)->stream;
    return cuda_launched(be,
                         bf16 ? flrq_launch_scale_rows_bf16(d_to, d_x, d_scale, rows, cols, stream)
                              : flrq_launch_scale_rows_f32(d_to, d_x, d_scale, rows, cols, stream),
                         "scale rows", rows, cols);
}

/* ---- random numbers, evaluation -----------------------------------------------------------------------------------
 */

static flrq_status cuda_normal(flrq_backend *be, float *d_out, uint64_t key, uint64_t stream, uint64_t index0,
                               int64_t count) {
    if (count < 0) return flrq_fail(FLRQ_ERR_SHAPE, "normal: %lld numbers", (long long)count);
    if (count == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_normal(d_out, key, stream, index0, count, cuda_of(be)->stream), "normal", 1,
                         count);
}

static flrq_status cuda_materialize(flrq_backend *be, float *d_out, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("materialize", a));
    if (a->rows == 0 || a->cols == 0) return FLRQ_OK;
    flrq_view v = cuda_view(a, 0, a->rows);
    return cuda_launched(be, flrq_launch_materialize_f32(d_out, &v, cuda_of(be)->stream), "materialize", a->rows,
                         a->cols);
}

static flrq_status cuda_materialize_bf16(flrq_backend *be, uint16_t *d_out, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("materialize_bf16", a));
    if (a->rows == 0 || a->cols == 0) return FLRQ_OK;
    flrq_view v = cuda_view(a, 0, a->rows);
    return cuda_launched(be, flrq_launch_materialize_bf16(d_out, &v, cuda_of(be)->stream), "materialize_bf16", a->rows,
                         a->cols);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* Y [m, b] row-major is Y^T = X^T A^T: column-major [b, m] = [b, n] [n, m]. */
static flrq_status mul_panels(flrq_backend *be, float *d_y, const flrq_operand *a, const float *d_x, int64_t b) {
    panels p;
    const void *d_factor, *d_rows;
    int64_t ld;
    FLRQ_TRY(plan_panels(be, &p, a, 0));
    FLRQ_TRY(prepare_factor(be, &p, d_x, a->d_col_scale, a->cols, b, &d_factor));
    for (int64_t row0 = 0; row0 < a->rows; row0 += p.rows) {
        int64_t rows = min64(p.rows, a->rows - row0);
        FLRQ_TRY(panel_at(be, &p, row0, rows, &d_rows, &ld));
        product y = {CUBLAS_OP_N, CUBLAS_OP_N, b, rows, a->cols, d_factor, d_rows, b, ld, b, p.type, p.tf32, 1, 0};
        FLRQ_TRY(multiply(be, d_y + row0 * b, &y, "mul"));
    }
    return FLRQ_OK;
}

static flrq_status cuda_mul(flrq_backend *be, float *d_y, const flrq_operand *a, const float *d_x, int64_t b) {
    FLRQ_TRY(op_check_operand("mul", a));
    FLRQ_TRY(op_check_columns("mul", b));
    if (a->rows == 0 || b == 0) return FLRQ_OK;
    cuda_state *state = cuda_of(be);
    if (a->cols == 0)
        return cuda_launched(be, cudaMemsetAsync(d_y, 0, (size_t)(a->rows * b) * sizeof(float), state->stream), "mul",
                             a->rows, b);
    if (b > 1 || a->rank > 0) return mul_panels(be, d_y, a, d_x, b);
    flrq_view v = cuda_view(a, 0, a->rows);
    return cuda_launched(be, flrq_launch_mul_vector(d_y, &v, d_x, state->stream), "mul", a->rows, a->cols);
}

/* Partial sums of the chunks of one panel into parts [chunks, n, b]: per chunk Z^T = Q^T A, column-major [b, n] = [b,
 * rows] [rows, n]. Whole chunks go in one batch, a shorter last one by itself. */
static flrq_status mul_t_parts(flrq_backend *be, float *d_parts, const panels *p, const void *d_rows, int64_t ld,
                               const void *d_q, int64_t rows, int64_t b) {
    const float one = 1, zero = 0;
    int64_t n = p->a->cols, whole = rows / FLRQ_CHUNK_ROWS, rest = rows % FLRQ_CHUNK_ROWS;
    size_t width = p->type == CUDA_R_16BF ? 2 : 4;
    if (whole > 0)
        FLRQ_TRY(cuda_check_blas(
            cublasGemmStridedBatchedEx(cuda_of(be)->blas, CUBLAS_OP_N, CUBLAS_OP_T, (int)b, (int)n, FLRQ_CHUNK_ROWS,
                                       &one, d_q, p->type, (int)b, FLRQ_CHUNK_ROWS * b, d_rows, p->type, (int)ld,
                                       FLRQ_CHUNK_ROWS * ld, &zero, d_parts, CUDA_R_32F, (int)b, n * b, (int)whole,
                                       compute_type(p->tf32), CUBLAS_GEMM_DEFAULT),
            "mul_t", rows, n));
    FLRQ_TRY(cuda_launched(be, cudaSuccess, "mul_t", rows, n));
    if (rest == 0) return FLRQ_OK;
    int64_t first = whole * FLRQ_CHUNK_ROWS;
    product z = {CUBLAS_OP_N,
                 CUBLAS_OP_T,
                 b,
                 n,
                 rest,
                 (const char *)d_q + (size_t)(first * b) * width,
                 (const char *)d_rows + (size_t)(first * ld) * width,
                 b,
                 ld,
                 b,
                 p->type,
                 p->tf32,
                 1,
                 0};
    return multiply(be, d_parts + whole * n * b, &z, "mul_t");
}

/* Chunks per batch of parts: as many as a panel's worth of memory takes. */
static int64_t parts_rows(const panels *p, int64_t b) {
    int64_t chunks = PANEL_BYTES / (int64_t)sizeof(float) / (p->a->cols * b);
    return min64(p->rows, (chunks > 0 ? chunks : 1) * FLRQ_CHUNK_ROWS);
}

/* What mul_t() adds up: the tree's partial sums, and what is still to be done to their total. */
typedef struct row_sum {
    void *d_levels;
    uint32_t pushed;
    const float *d_scale; /* column scales that were left out: they scale the rows of Z */
} row_sum;

static flrq_status push_parts(flrq_backend *be, row_sum *sum, const float *d_parts, int64_t chunks, int64_t count) {
    FLRQ_TRY(cuda_launched(
        be, flrq_launch_tree_push_f32(sum->d_levels, d_parts, chunks, count, sum->pushed, cuda_of(be)->stream),
        "sum over chunks", chunks, count));
    sum->pushed += (uint32_t)chunks;
    return FLRQ_OK;
}

static flrq_status mul_t_panels(flrq_backend *be, row_sum *sum, const flrq_operand *a, const float *d_q, int64_t b) {
    panels p;
    const void *d_factor, *d_rows;
    void *d_parts;
    int64_t ld, count = a->cols * b;
    FLRQ_TRY(plan_panels(be, &p, a, 0));
    FLRQ_TRY(prepare_factor(be, &p, d_q, NULL, a->rows, b, &d_factor));
    if (p.in_place) sum->d_scale = a->d_col_scale;
    p.rows = parts_rows(&p, b);
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PARTS, (size_t)(chunks_of(p.rows) * count) * sizeof(float), &d_parts));
    size_t width = p.type == CUDA_R_16BF ? 2 : 4;
    for (int64_t row0 = 0; row0 < a->rows; row0 += p.rows) {
        int64_t rows = min64(p.rows, a->rows - row0);
        FLRQ_TRY(panel_at(be, &p, row0, rows, &d_rows, &ld));
        FLRQ_TRY(
            mul_t_parts(be, d_parts, &p, d_rows, ld, (const char *)d_factor + (size_t)(row0 * b) * width, rows, b));
        FLRQ_TRY(push_parts(be, sum, d_parts, chunks_of(rows), count));
    }
    return FLRQ_OK;
}

static flrq_status mul_t_vector(flrq_backend *be, row_sum *sum, const flrq_operand *a, const float *d_q) {
    void *d_parts;
    int64_t chunks = chunks_of(a->rows);
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PARTS, (size_t)(chunks * a->cols) * sizeof(float), &d_parts));
    flrq_view v = cuda_view(a, 0, a->rows);
    FLRQ_TRY(
        cuda_launched(be, flrq_launch_mul_t_vector(d_parts, &v, d_q, cuda_of(be)->stream), "mul_t", a->rows, a->cols));
    return push_parts(be, sum, d_parts, chunks, a->cols);
}

static flrq_status cuda_mul_t(flrq_backend *be, float *d_z, const flrq_operand *a, const float *d_q, int64_t b) {
    FLRQ_TRY(op_check_operand("mul_t", a));
    FLRQ_TRY(op_check_columns("mul_t", b));
    if (a->cols == 0 || b == 0) return FLRQ_OK;
    FLRQ_TRY(op_check_shape("mul_t", a->cols, b, FLRQ_TREE_LEVELS * sizeof(float)));
    cudaStream_t stream = cuda_of(be)->stream;
    int64_t count = a->cols * b;
    row_sum sum = {0};
    if (a->rows > 0) {
        size_t bytes = (size_t)(flrq_tree_levels(chunks_of(a->rows)) * count) * sizeof(float);
        FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_LEVELS, bytes, &sum.d_levels));
        FLRQ_TRY(b == 1 && a->rank == 0 ? mul_t_vector(be, &sum, a, d_q) : mul_t_panels(be, &sum, a, d_q, b));
    }
    FLRQ_TRY(cuda_launched(be, flrq_launch_tree_finish_f32(d_z, sum.d_levels, count, sum.pushed, stream), "mul_t",
                           a->cols, b));
    if (!sum.d_scale) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_scale_rows_f32(d_z, d_z, sum.d_scale, a->cols, b, stream), "scale rows",
                         a->cols, b);
}

static flrq_status cuda_scale_rows(flrq_backend *be, float *d_y, const float *d_scale, int64_t m, int64_t n) {
    FLRQ_TRY(op_check_shape("scale_rows", m, n, sizeof(float)));
    if (m == 0 || n == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_scale_rows_f32(d_y, d_y, d_scale, m, n, cuda_of(be)->stream), "scale_rows", m,
                         n);
}

/* Y [t, m] row-major is Y^T = A X^T: column-major [m, t] = (A as [n, m], transposed) [n, t]; a panel of rows of A is a
 * band of columns of Y. */
static flrq_status cuda_linear(flrq_backend *be, float *d_y, const float *d_x, const flrq_operand *a,
                               const float *d_bias, int64_t tokens) {
    FLRQ_TRY(op_check_operand("linear", a));
    FLRQ_TRY(op_check_sizes("linear", "tokens x features", tokens, a->rows));
    if (tokens == 0 || a->rows == 0) return FLRQ_OK;
    cudaStream_t stream = cuda_of(be)->stream;
    int64_t m = a->rows, n = a->cols;
    if (n == 0) {
        FLRQ_TRY(cuda_launched(be, cudaMemsetAsync(d_y, 0, (size_t)(tokens * m) * sizeof(float), stream), "linear",
                               tokens, m));
    } else {
        panels p;
        const void *d_factor = d_x, *d_rows;
        int64_t ld;
        FLRQ_TRY(plan_panels(be, &p, a, 1));
        FLRQ_TRY(prepare_factor(be, &p, d_x, NULL, tokens, n, &d_factor));
        for (int64_t row0 = 0; row0 < m; row0 += p.rows) {
            int64_t rows = min64(p.rows, m - row0);
            FLRQ_TRY(panel_at(be, &p, row0, rows, &d_rows, &ld));
            product y = {CUBLAS_OP_T, CUBLAS_OP_N, rows, tokens, n, d_rows, d_factor, ld, n, m, p.type, p.tf32, 1, 0};
            FLRQ_TRY(multiply(be, d_y + row0, &y, "linear"));
        }
    }
    if (!d_bias) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_add_bias(d_y, d_bias, tokens, m, stream), "bias", tokens, m);
}

/* C [m, k] row-major is C^T = B^T A^T: column-major [k, m] = [k, b] [b, m]. */
static flrq_status cuda_gemm(flrq_backend *be, float *d_c, const float *d_a, const float *d_b, int64_t m, int64_t k,
                             int64_t b, float alpha, float beta) {
    FLRQ_TRY(op_check_shape("gemm", m, k, sizeof(float)));
    FLRQ_TRY(op_check_shape("gemm", m, b, sizeof(float)));
    FLRQ_TRY(op_check_shape("gemm", b, k, sizeof(float)));
    if (m == 0 || k == 0) return FLRQ_OK;
    if (b == 0) alpha = 0; /* cuBLAS wants leading dimensions of at least 1 */
    product c = {CUBLAS_OP_N, CUBLAS_OP_N,   k, m,          b,           d_b,   d_a,
                 k,           b > 0 ? b : 1, k, CUDA_R_32F, is_fast(be), alpha, beta};
    return multiply(be, d_c, &c, "gemm");
}

/* Y [m, n] row-major is column-major [n, m]: Y^T += alpha v u^T. */
static flrq_status cuda_rank_one(flrq_backend *be, float *d_y, const float *d_u, const float *d_v, int64_t m, int64_t n,
                                 float alpha) {
    FLRQ_TRY(op_check_shape("rank_one", m, n, sizeof(float)));
    if (m == 0 || n == 0) return FLRQ_OK;
    FLRQ_TRY(cuda_check_blas(cublasSger(cuda_of(be)->blas, (int)n, (int)m, &alpha, d_v, 1, d_u, 1, d_y, (int)n),
                             "rank_one", m, n));
    return cuda_launched(be, cudaSuccess, "rank_one", m, n);
}

/* S [n, k] += X^T G: column-major S^T [k, n] += [k, tokens] [tokens, n]. Tokens are summed by cuBLAS in one piece:
 * their order is the caller's, a tile at a time. */
static flrq_status cuda_input_sketch(flrq_backend *be, float *d_s, const float *d_x, const float *d_g, int64_t tokens,
                                     int64_t n, int64_t k) {
    FLRQ_TRY(op_check_shape("input_sketch", tokens, n, sizeof(float)));
    FLRQ_TRY(op_check_shape("input_sketch", tokens, k, sizeof(float)));
    FLRQ_TRY(op_check_shape("input_sketch", n, k, sizeof(float)));
    if (tokens == 0 || n == 0 || k == 0) return FLRQ_OK;
    product s = {CUBLAS_OP_N, CUBLAS_OP_T, k, n, tokens, d_g, d_x, k, n, k, CUDA_R_32F, is_fast(be), 1, 1};
    return multiply(be, d_s, &s, "input_sketch");
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

/* Adds per-chunk sums in double along the tree, on the host. */
static double sum_chunks(const double *sums, int64_t chunks) {
    double level[FLRQ_TREE_LEVELS + 1], *buffers[FLRQ_TREE_LEVELS + 1], total;
    flrq_tree tree = {0};
    for (int i = 0; i <= FLRQ_TREE_LEVELS; i++) buffers[i] = &level[i];
    for (int64_t i = 0; i < chunks; i++) {
        level[0] = sums[i];
        flrq_tree_push_f64(&tree, buffers, 1);
    }
    flrq_tree_finish_f64(&tree, buffers, &total, 1);
    return total;
}

/* Writes the sums of squares of the chunks of `a` to d_sums. */
static flrq_status chunk_squares(flrq_backend *be, double *d_sums, const flrq_view *a) {
    void *d_parts;
    int64_t parts = chunks_of(a->rows) * flrq_sum_squares_parts(a->cols);
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PARTS, (size_t)parts * sizeof(double), &d_parts));
    return cuda_launched(be, flrq_launch_sum_squares(d_sums, d_parts, a, cuda_of(be)->stream), "sum_squares", a->rows,
                         a->cols);
}

/* Fetches the chunk sums and adds them up. */
static flrq_status finish_squares(flrq_backend *be, double *sum, const double *d_sums, int64_t chunks) {
    void *host;
    size_t bytes = (size_t)chunks * sizeof(double);
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_host(be, bytes, &host));
    FLRQ_TRY(cuda_check(cudaMemcpyAsync(host, d_sums, bytes, cudaMemcpyDeviceToHost, stream), "sums", 1, chunks));
    FLRQ_TRY(cuda_wait(cuda_of(be), stream, "sums", chunks));
    *sum = sum_chunks(host, chunks);
    return FLRQ_OK;
}

static flrq_status cuda_sum_squares(flrq_backend *be, double *sum, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("sum_squares", a));
    *sum = 0;
    if (a->rows == 0 || a->cols == 0) return FLRQ_OK;
    void *d_sums;
    int64_t chunks = chunks_of(a->rows);
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, (size_t)chunks * sizeof(double), &d_sums));
    flrq_view v = cuda_view(a, 0, a->rows);
    FLRQ_TRY(chunk_squares(be, d_sums, &v));
    return finish_squares(be, sum, d_sums, chunks);
}

/* ||A S||: panels of A S, [rows, k] each, then their squares. */
static flrq_status cuda_sum_squares_mul(flrq_backend *be, double *sum, const flrq_operand *a, const float *d_s,
                                        int64_t k) {
    FLRQ_TRY(op_check_operand("sum_squares_mul", a));
    FLRQ_TRY(op_check_columns("sum_squares_mul", k));
    *sum = 0;
    if (a->rows == 0 || a->cols == 0 || k == 0) return FLRQ_OK;
    panels p;
    const void *d_factor, *d_rows;
    void *d_sums, *d_product;
    int64_t ld, chunks = chunks_of(a->rows);
    FLRQ_TRY(plan_panels(be, &p, a, 0));
    FLRQ_TRY(prepare_factor(be, &p, d_s, a->d_col_scale, a->cols, k, &d_factor));
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, (size_t)chunks * sizeof(double), &d_sums));
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_LEVELS, (size_t)(p.rows * k) * sizeof(float), &d_product));
    for (int64_t row0 = 0; row0 < a->rows; row0 += p.rows) {
        int64_t rows = min64(p.rows, a->rows - row0);
        FLRQ_TRY(panel_at(be, &p, row0, rows, &d_rows, &ld));
        product y = {CUBLAS_OP_N, CUBLAS_OP_N, k, rows, a->cols, d_factor, d_rows, k, ld, k, p.type, p.tf32, 1, 0};
        FLRQ_TRY(multiply(be, d_product, &y, "sum_squares_mul"));
        flrq_view v = {.rows = rows, .cols = k, .dense = d_product, .ld = k, .dtype = FLRQ_F32};
        FLRQ_TRY(chunk_squares(be, (double *)d_sums + row0 / FLRQ_CHUNK_ROWS, &v));
    }
    return finish_squares(be, sum, d_sums, chunks);
}

static flrq_status cuda_amax_curve(flrq_backend *be, float *amax, const flrq_operand *a, const float *d_u,
                                   const float *d_v, int64_t b) {
    FLRQ_TRY(op_check_operand("amax_curve", a));
    FLRQ_TRY(op_check_columns("amax_curve", b));
    size_t bytes = (size_t)(b + 1) * sizeof *amax;
    memset(amax, 0, bytes);
    if (a->rows == 0 || a->cols == 0) return FLRQ_OK;
    if (b > 4095) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "amax_curve: %lld terms; 4095 at most", (long long)b);
    void *d_bits;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, bytes, &d_bits));
    FLRQ_TRY(cuda_launched(be, cudaMemsetAsync(d_bits, 0, bytes, stream), "zero", 1, b + 1));
    flrq_view v = cuda_view(a, 0, a->rows);
    FLRQ_TRY(
        cuda_launched(be, flrq_launch_amax_curve(d_bits, &v, d_u, d_v, b, stream), "amax_curve", a->rows, a->cols));
    return cuda_fetch(be, amax, d_bits, bytes); /* the bits of a float are the float */
}

static flrq_status cuda_count_nonfinite(flrq_backend *be, int64_t *count, int64_t *first, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("count_nonfinite", a));
    *count = 0, *first = -1;
    if (a->rows == 0 || a->cols == 0) return FLRQ_OK;
    unsigned long long result[2] = {0, ULLONG_MAX};
    void *d_result;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, sizeof result, &d_result));
    FLRQ_TRY(be->upload(be, d_result, result, sizeof result));
    flrq_view v = cuda_view(a, 0, a->rows);
    FLRQ_TRY(cuda_launched(be, flrq_launch_count_nonfinite(d_result, &v, stream), "count_nonfinite", a->rows, a->cols));
    FLRQ_TRY(cuda_fetch(be, result, d_result, sizeof result));
    *count = (int64_t)result[0];
    if (*count > 0) *first = (int64_t)result[1];
    return FLRQ_OK;
}

void cuda_register_matrix(flrq_backend *be) {
    be->normal = cuda_normal;
    be->materialize = cuda_materialize;
    be->materialize_bf16 = cuda_materialize_bf16;
    be->mul = cuda_mul;
    be->mul_t = cuda_mul_t;
    be->scale_rows = cuda_scale_rows;
    be->linear = cuda_linear;
    be->gemm = cuda_gemm;
    be->rank_one = cuda_rank_one;
    be->input_sketch = cuda_input_sketch;
    be->sum_squares = cuda_sum_squares;
    be->sum_squares_mul = cuda_sum_squares_mul;
    be->amax_curve = cuda_amax_curve;
    be->count_nonfinite = cuda_count_nonfinite;
}
