/* cuda_small.c - small dense ops on the device: Gram matrix, Cholesky QR, Householder QR, eigenproblem, and the SVDs
 * that are the baselines. Factorisations are cuSOLVER's.
 *
 * Row-major a [m, n] is column-major a^T [n, m] to cuSOLVER; each op says what that makes of its arguments, and
 * transposes only where there is no other way. Matrices with NaN or infinity never reach cuSOLVER, whose answer to them
 * is not documented. Every op here but gram waits for the device: for its info, or for what it checks.
 */
#include "backend/cuda.h"
#include "core/tree.h"
#include "kernels/matrix_kernels.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- Gram matrix, Cholesky, triangular solve ----------------------------------------------------------------------
 */

static flrq_status cuda_gram(flrq_backend *be, double *d_gram, const float *d_y, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("gram", m, b, sizeof(float)));
    FLRQ_TRY(op_check_shape("gram", b, b, sizeof(double)));
    if (b == 0) return FLRQ_OK;
    cudaStream_t stream = cuda_of(be)->stream;
    int64_t chunks = (m + FLRQ_CHUNK_ROWS - 1) / FLRQ_CHUNK_ROWS, count = b * b;
    void *d_parts, *d_levels = NULL;
    if (chunks > 0) {
        FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PARTS, (size_t)(chunks * count) * sizeof(double), &d_parts));
        FLRQ_TRY(
            cuda_scratch(be, CUDA_SLOT_LEVELS, (size_t)(flrq_tree_levels(chunks) * count) * sizeof(double), &d_levels));
        FLRQ_TRY(cuda_launched(be, flrq_launch_gram(d_parts, d_y, m, b, stream), "gram", m, b));
        FLRQ_TRY(cuda_launched(be, flrq_launch_tree_push_f64(d_levels, d_parts, chunks, count, 0, stream),
                               "sum over chunks", chunks, count));
    }
    return cuda_launched(be, flrq_launch_tree_finish_f64(d_gram, d_levels, count, (uint32_t)chunks, stream), "gram", m,
                         b);
}

/* *first = index of the first non-finite element, or -1. */
static flrq_status first_nonfinite(flrq_backend *be, const void *d_x, int64_t count, int is_double, int64_t *first) {
    unsigned long long result = ULLONG_MAX;
    void *d_result;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, sizeof result, &d_result));
    FLRQ_TRY(cuda_launched(be, cudaMemsetAsync(d_result, 0xff, sizeof result, stream), "start", 1, 1));
    FLRQ_TRY(cuda_launched(be,
                           is_double ? flrq_launch_first_nonfinite_f64(d_result, d_x, count, stream)
                                     : flrq_launch_first_nonfinite_f32(d_result, d_x, count, stream),
                           "search for NaN", 1, count));
    FLRQ_TRY(cuda_fetch(be, &result, d_result, sizeof result));
    *first = result == ULLONG_MAX ? -1 : (int64_t)result;
    return FLRQ_OK;
}

static flrq_status check_finite(flrq_backend *be, const char *op, const void *d_x, int64_t rows, int64_t cols,
                                int is_double) {
    int64_t first;
    FLRQ_TRY(first_nonfinite(be, d_x, rows * cols, is_double, &first));
    if (first < 0) return FLRQ_OK;
    float single = 0;
    double value = 0;
    if (is_double) {
        FLRQ_TRY(cuda_fetch(be, &value, (const double *)d_x + first, sizeof value));
    } else {
        FLRQ_TRY(cuda_fetch(be, &single, (const float *)d_x + first, sizeof single));
        value = (double)single;
    }
    return flrq_fail(FLRQ_ERR_NUMERIC, "%s: element (%lld, %lld) of the %lld x %lld matrix is %g", op,
                     (long long)(first / cols), (long long)(first % cols), (long long)rows, (long long)cols, value);
}

/* Workspace of a cuSOLVER call: `count` elements of `width` bytes, and the info behind them. */
static flrq_status solver_work(flrq_backend *be, int64_t count, size_t width, void **d_work, int **d_info) {
    size_t bytes = ((size_t)count * width + 63) / 64 * 64;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_WORK, bytes + 64, d_work));
    *d_info = (int *)((char *)*d_work + bytes);
    return FLRQ_OK;
}

/* The symmetric matrix is its own transpose; its lower column-major factor is the upper row-major one. */
static flrq_status cuda_cholesky(flrq_backend *be, double *d_gram, int64_t b, int *info) {
    FLRQ_TRY(op_check_shape("cholesky", b, b, sizeof(double)));
    *info = 0;
    if (b == 0) return FLRQ_OK;
    cuda_state *state = cuda_of(be);
    int64_t first;
    FLRQ_TRY(first_nonfinite(be, d_gram, b * b, 1, &first));
    if (first >= 0) {
        *info = (int)(first / b) + 1; /* of a symmetric matrix: the first row is the first bad minor */
    } else {
        int count, *d_info;
        void *d_work;
        FLRQ_TRY(cuda_check_solver(
            cusolverDnDpotrf_bufferSize(state->solver, CUBLAS_FILL_MODE_LOWER, (int)b, d_gram, (int)b, &count),
            "cholesky", b, b));
        FLRQ_TRY(solver_work(be, count, sizeof(double), &d_work, &d_info));
        FLRQ_TRY(cuda_check_solver(
            cusolverDnDpotrf(state->solver, CUBLAS_FILL_MODE_LOWER, (int)b, d_gram, (int)b, d_work, count, d_info),
            "cholesky", b, b));
        FLRQ_TRY(cuda_fetch(be, info, d_info, sizeof *info));
    }
    return cuda_launched(be, flrq_launch_upper(d_gram, b, state->stream), "cholesky", b, b);
}

/* Y R^-1 is the solution X of R^T X^T = Y^T; to cuBLAS, row-major upper R is the lower triangle R^T, and Y is Y^T. */
static flrq_status cuda_solve_right(flrq_backend *be, float *d_y, const double *d_r, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("solve_right", m, b, sizeof(float)));
    if (b == 0) return FLRQ_OK;
    const float one = 1;
    void *d_single, *diagonal;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_host(be, (size_t)b * sizeof(double), &diagonal));
    FLRQ_TRY(cuda_check(cudaMemcpy2DAsync(diagonal, sizeof(double), d_r, (size_t)(b + 1) * sizeof(double),
                                          sizeof(double), (size_t)b, cudaMemcpyDeviceToHost, stream),
                        "diagonal of R", b, b));
    FLRQ_TRY(cuda_wait(cuda_of(be), stream, "diagonal of R", b));
    for (int64_t i = 0; i < b; i++) FLRQ_TRY(op_check_diagonal("solve_right", i, ((const double *)diagonal)[i]));
    if (m == 0) return FLRQ_OK;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_VECTOR, (size_t)(b * b) * sizeof(float), &d_single));
    FLRQ_TRY(cuda_launched(be, flrq_launch_to_f32(d_single, d_r, b * b, stream), "solve_right", b, b));
    FLRQ_TRY(cuda_check_blas(cublasStrsm(cuda_of(be)->blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N,
                                         CUBLAS_DIAG_NON_UNIT, (int)b, (int)m, &one, d_single, (int)b, d_y, (int)b),
                             "solve_right", m, b));
    return cuda_launched(be, cudaSuccess, "solve_right", m, b);
}

/* ---- Householder QR, eigenproblem ---------------------------------------------------------------------------------
 */

/* Y is transposed to column-major, factored, and its basis transposed back. */
static flrq_status cuda_householder(flrq_backend *be, float *d_y, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("householder", m, b, sizeof(float)));
    FLRQ_TRY(op_check_tall("householder", m, b));
    if (b == 0) return FLRQ_OK;
    FLRQ_TRY(check_finite(be, "householder", d_y, m, b, 0));
    cuda_state *state = cuda_of(be);
    int factor_count, basis_count, *d_info;
    void *d_columns, *d_work;
    float *d_a, *d_tau;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_VECTOR, (size_t)(m * b + b) * sizeof(float), &d_columns));
    d_a = d_columns, d_tau = d_a + m * b;
    FLRQ_TRY(cuda_launched(be, flrq_launch_transpose(d_a, d_y, m, b, b, state->stream), "transpose", m, b));
    FLRQ_TRY(cuda_check_solver(cusolverDnSgeqrf_bufferSize(state->solver, (int)m, (int)b, d_a, (int)m, &factor_count),
                               "householder", m, b));
    FLRQ_TRY(cuda_check_solver(
        cusolverDnSorgqr_bufferSize(state->solver, (int)m, (int)b, (int)b, d_a, (int)m, d_tau, &basis_count),
        "householder", m, b));
    int count = factor_count > basis_count ? factor_count : basis_count;
    FLRQ_TRY(solver_work(be, count, sizeof(float), &d_work, &d_info));
    FLRQ_TRY(
        cuda_check_solver(cusolverDnSgeqrf(state->solver, (int)m, (int)b, d_a, (int)m, d_tau, d_work, count, d_info),
                          "householder", m, b));
    FLRQ_TRY(cuda_check_solver(
        cusolverDnSorgqr(state->solver, (int)m, (int)b, (int)b, d_a, (int)m, d_tau, d_work, count, d_info),
        "householder", m, b));
    return cuda_launched(be, flrq_launch_transpose(d_y, d_a, b, m, m, state->stream), "transpose", b, m);
}

static flrq_status fail_info(const char *op, int info, int64_t m, int64_t n) {
    return flrq_fail(FLRQ_ERR_NUMERIC, "%s: cuSOLVER gave up on %lld x %lld (info %d)", op, (long long)m, (long long)n,
                     info);
}

/* A failed iteration leaves info > 0. */
static flrq_status check_info(flrq_backend *be, const char *op, const int *d_info, int64_t m, int64_t n) {
    int info;
    FLRQ_TRY(cuda_fetch(be, &info, d_info, sizeof info));
    return info == 0 ? FLRQ_OK : fail_info(op, info, m, n);
}

static flrq_status cuda_eigh(flrq_backend *be, double *d_a, double *d_values, int64_t b) {
    FLRQ_TRY(op_check_shape("eigh", b, b, sizeof(double)));
    if (b == 0) return FLRQ_OK;
    FLRQ_TRY(check_finite(be, "eigh", d_a, b, b, 1));
    cuda_state *state = cuda_of(be);
    int count, *d_info;
    void *d_copy, *d_work;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_VECTOR, (size_t)(b * b + b) * sizeof(double), &d_copy));
    double *d_vectors = d_copy, *d_ascending = d_vectors + b * b;
    FLRQ_TRY(be->copy(be, d_vectors, d_a, (size_t)(b * b) * sizeof(double)));
    FLRQ_TRY(
        cuda_check_solver(cusolverDnDsyevd_bufferSize(state->solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER,
                                                      (int)b, d_vectors, (int)b, d_ascending, &count),
                          "eigh", b, b));
    FLRQ_TRY(solver_work(be, count, sizeof(double), &d_work, &d_info));
    FLRQ_TRY(cuda_check_solver(cusolverDnDsyevd(state->solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, (int)b,
                                                d_vectors, (int)b, d_ascending, d_work, count, d_info),
                               "eigh", b, b));
    FLRQ_TRY(check_info(be, "eigh", d_info, b, b));
    return cuda_launched(be, flrq_launch_descending(d_a, d_values, d_vectors, d_ascending, b, state->stream), "eigh", b,
                         b);
}

/* ---- low-rank factors -------------------------------------------------------------------------------------------- */

static flrq_status cuda_column_amax(flrq_backend *be, float *amax, const float *d_x, int64_t ld, const float *d_divisor,
                                    int64_t m, int64_t b) {
    FLRQ_TRY(op_check_columns_of("column_amax", m, ld, b));
    memset(amax, 0, (size_t)b * sizeof *amax);
    if (m == 0 || b == 0) return FLRQ_OK;
    void *d_bits;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, (size_t)b * sizeof(uint32_t), &d_bits));
    FLRQ_TRY(be->zero(be, d_bits, (size_t)b * sizeof(uint32_t)));
    FLRQ_TRY(cuda_launched(be, flrq_launch_column_amax(d_bits, d_x, ld, d_divisor, m, b, stream), "column_amax", m, b));
    return cuda_fetch(be, amax, d_bits, (size_t)b * sizeof *amax); /* the bits of a float are the float */
}

static flrq_status cuda_round_factor(flrq_backend *be, float *d_out, const float *d_x, int64_t ld,
                                     const float *d_divisor, const float *factor, int64_t m, int64_t b, int transpose,
                                     flrq_dtype dtype) {
    FLRQ_TRY(op_check_columns_of("round_factor", m, ld, b));
    FLRQ_TRY(op_check_factor_type(dtype));
    if (m == 0 || b == 0) return FLRQ_OK;
    void *d_factor;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, (size_t)b * sizeof *factor, &d_factor));
    FLRQ_TRY(be->upload(be, d_factor, factor, (size_t)b * sizeof *factor));
    return cuda_launched(be,
                         flrq_launch_round_factor(d_out, d_x, ld, d_divisor, d_factor, m, b, transpose, (int32_t)dtype,
                                                  cuda_of(be)->stream),
                         "round_factor", m, b);
}

/* ---- SVD --------------------------------------------------------------------------------------------------------- */

/* A matrix as cuSOLVER's SVDs want it: column-major [tall, wide] with tall >= wide. Row-major A [m, n] with m <= n is
 * that already, as A^T; otherwise A is transposed into scratch. */
typedef struct tall_matrix {
    float *d_a; /* destroyed by the SVD */
    int64_t tall, wide;
    int transposed; /* d_a holds A^T: its left vectors are the right ones of A */
} tall_matrix;

static flrq_status make_tall(flrq_backend *be, tall_matrix *t, float *d_a, int64_t m, int64_t n) {
    *t = (tall_matrix){d_a, n, m, 1};
    if (m <= n) return FLRQ_OK;
    void *d_copy;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PANEL, (size_t)(m * n) * sizeof(float), &d_copy));
    *t = (tall_matrix){d_copy, m, n, 0};
    return cuda_launched(be, flrq_launch_transpose(d_copy, d_a, m, n, n, cuda_of(be)->stream), "transpose", m, n);
}

/* Left vectors [tall, p] and right vectors [wide, p], both column-major with the given leading dimensions, to row-major
 * d_u [m, p] and d_vt [p, n]. Column-major [x, p] is row-major [p, x]. */
static flrq_status store_vectors(flrq_backend *be, const tall_matrix *t, const float *d_left, const float *d_right,
                                 int64_t ld_left, int64_t ld_right, int64_t p, float *d_u, float *d_vt) {
    cudaStream_t stream = cuda_of(be)->stream;
    const float *d_tall = t->transposed ? d_right : d_left, *d_flat = t->transposed ? d_left : d_right;
    int64_t m = t->transposed ? t->wide : t->tall, n = t->transposed ? t->tall : t->wide;
    int64_t ld_u = t->transposed ? ld_right : ld_left, ld_vt = t->transposed ? ld_left : ld_right;
    FLRQ_TRY(cuda_launched(be, flrq_launch_transpose(d_u, d_tall, p, m, ld_u, stream), "left vectors", m, p));
    return cuda_check(cudaMemcpy2DAsync(d_vt, (size_t)n * sizeof(float), d_flat, (size_t)ld_vt * sizeof(float),
                                        (size_t)n * sizeof(float), (size_t)p, cudaMemcpyDeviceToDevice, stream),
                      "right vectors", p, n);
}

/* gesvd: V^T comes back column-major [wide, wide], which is transposed once more to have vectors in its columns. */
static flrq_status run_gesvd(flrq_backend *be, const tall_matrix *t, float *d_s, float *d_left, float *d_right) {
    cuda_state *state = cuda_of(be);
    int m = (int)t->tall, n = (int)t->wide, count, *d_info;
    void *d_work, *d_vt;
    FLRQ_TRY(cuda_check_solver(cusolverDnSgesvd_bufferSize(state->solver, m, n, &count), "svd", m, n));
    FLRQ_TRY(solver_work(be, count, sizeof(float), &d_work, &d_info));
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_LEVELS, (size_t)n * (size_t)n * sizeof(float), &d_vt));
    FLRQ_TRY(cuda_check_solver(cusolverDnSgesvd(state->solver, 'S', 'S', m, n, t->d_a, m, d_s, d_left, m, d_vt, n,
                                                d_work, count, NULL, d_info),
                               "svd", m, n));
    FLRQ_TRY(check_info(be, "svd", d_info, m, n));
    return cuda_launched(be, flrq_launch_transpose(d_right, d_vt, n, n, n, state->stream), "transpose", n, n);
}

/* info = n + 1: the sweeps ran out a little above the tolerance, which the caller sees in the residual. */
static flrq_status run_gesvdj(flrq_backend *be, const tall_matrix *t, float *d_s, float *d_left, float *d_right) {
    cuda_state *state = cuda_of(be);
    int m = (int)t->tall, n = (int)t->wide, count, info = 0, *d_info;
    void *d_work;
    gesvdjInfo_t settings;
    FLRQ_TRY(cuda_check_solver(cusolverDnCreateGesvdjInfo(&settings), "svd", m, n));
    flrq_status status =
        cuda_check_solver(cusolverDnSgesvdj_bufferSize(state->solver, CUSOLVER_EIG_MODE_VECTOR, 1, m, n, t->d_a, m, d_s,
                                                       d_left, m, d_right, n, &count, settings),
                          "svd", m, n);
    if (status == FLRQ_OK) status = solver_work(be, count, sizeof(float), &d_work, &d_info);
    if (status == FLRQ_OK)
        status = cuda_check_solver(cusolverDnSgesvdj(state->solver, CUSOLVER_EIG_MODE_VECTOR, 1, m, n, t->d_a, m, d_s,
                                                     d_left, m, d_right, n, d_work, count, d_info, settings),
                                   "svd", m, n);
    if (status == FLRQ_OK) status = cuda_fetch(be, &info, d_info, sizeof info);
    if (status == FLRQ_OK && info != 0 && info != n + 1) status = fail_info("svd", info, m, n);
    (void)cusolverDnDestroyGesvdjInfo(settings);
    return status;
}

static flrq_status cuda_svd(flrq_backend *be, flrq_svd_method method, float *d_a, int64_t m, int64_t n, float *d_u,
                            float *d_s, float *d_vt) {
    FLRQ_TRY(op_check_shape("svd", m, n, 2 * sizeof(float)));
    int64_t p = min64(m, n);
    if (p == 0) return FLRQ_OK;
    FLRQ_TRY(check_finite(be, "svd", d_a, m, n, 0));
    tall_matrix t;
    void *d_vectors;
    FLRQ_TRY(make_tall(be, &t, d_a, m, n));
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_VECTOR, (size_t)(t.tall * p + p * p) * sizeof(float), &d_vectors));
    float *d_left = d_vectors, *d_right = d_left + t.tall * p;
    FLRQ_TRY(method == FLRQ_SVD_JACOBI ? run_gesvdj(be, &t, d_s, d_left, d_right)
                                       : run_gesvd(be, &t, d_s, d_left, d_right));
    return store_vectors(be, &t, d_left, d_right, t.tall, t.wide, p, d_u, d_vt);
}

/* Xgesvdr with its two workspaces, one on each side. */
static flrq_status run_gesvdr(flrq_backend *be, const tall_matrix *t, cusolverDnParams_t params, int64_t rank,
                              int64_t oversample, int iterations, float *d_s, float *d_left, float *d_right) {
    cuda_state *state = cuda_of(be);
    int64_t m = t->tall, n = t->wide;
    size_t device_bytes, host_bytes;
    FLRQ_TRY(cuda_check_solver(cusolverDnXgesvdr_bufferSize(state->solver, params, 'S', 'S', m, n, rank, oversample,
                                                            iterations, CUDA_R_32F, t->d_a, m, CUDA_R_32F, d_s,
                                                            CUDA_R_32F, d_left, m, CUDA_R_32F, d_right, n, CUDA_R_32F,
                                                            &device_bytes, &host_bytes),
                               "rsvd", m, n));
    int *d_info;
    void *d_work, *host = malloc(host_bytes ? host_bytes : 1);
    if (!host) return flrq_fail_memory(host_bytes, "cuSOLVER's workspace");
    flrq_status status = solver_work(be, (int64_t)device_bytes, 1, &d_work, &d_info);
    if (status == FLRQ_OK)
        status = cuda_check_solver(cusolverDnXgesvdr(state->solver, params, 'S', 'S', m, n, rank, oversample,
                                                     iterations, CUDA_R_32F, t->d_a, m, CUDA_R_32F, d_s, CUDA_R_32F,
                                                     d_left, m, CUDA_R_32F, d_right, n, CUDA_R_32F, d_work,
                                                     device_bytes, host, host_bytes, d_info),
                                   "rsvd", m, n);
    if (status == FLRQ_OK) status = check_info(be, "rsvd", d_info, m, n);
    free(host);
    return status;
}

static flrq_status cuda_rsvd(flrq_backend *be, float *d_a, int64_t m, int64_t n, int64_t rank, int64_t oversample,
                             int iterations, float *d_u, float *d_s, float *d_vt) {
    FLRQ_TRY(op_check_shape("rsvd", m, n, 2 * sizeof(float)));
    int64_t p = min64(m, n);
    if (rank < 0 || oversample < 0 || iterations < 0 || rank > p)
        return flrq_fail(FLRQ_ERR_SHAPE, "rsvd: rank %lld, oversampling %lld, %d iterations of %lld x %lld",
                         (long long)rank, (long long)oversample, iterations, (long long)m, (long long)n);
    if (rank == 0) return FLRQ_OK;
    oversample = min64(oversample, p - rank);
    tall_matrix t;
    void *d_vectors;
    FLRQ_TRY(check_finite(be, "rsvd", d_a, m, n, 0));
    FLRQ_TRY(make_tall(be, &t, d_a, m, n));
    /* cuSOLVER wants room for the oversampled vectors and values. */
    int64_t width = rank + oversample;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_VECTOR, (size_t)((t.tall + t.wide + 1) * width) * sizeof(float), &d_vectors));
    float *d_left = d_vectors, *d_right = d_left + t.tall * width, *d_sigma = d_right + t.wide * width;
    cusolverDnParams_t params;
    FLRQ_TRY(cuda_check_solver(cusolverDnCreateParams(&params), "rsvd", m, n));
    flrq_status status = run_gesvdr(be, &t, params, rank, oversample, iterations, d_sigma, d_left, d_right);
    (void)cusolverDnDestroyParams(params);
    FLRQ_TRY(status);
    FLRQ_TRY(be->copy(be, d_s, d_sigma, (size_t)rank * sizeof(float)));
    return store_vectors(be, &t, d_left, d_right, t.tall, t.wide, rank, d_u, d_vt);
}

void cuda_register_small(flrq_backend *be) {
    be->gram = cuda_gram;
    be->cholesky = cuda_cholesky;
    be->solve_right = cuda_solve_right;
    be->householder = cuda_householder;
    be->eigh = cuda_eigh;
    be->column_amax = cuda_column_amax;
    be->round_factor = cuda_round_factor;
    be->svd = cuda_svd;
    be->rsvd = cuda_rsvd;
}
