/* matrix_kernels.h - launchers of matrix.cu, random.cu and small.cu. All return the error of the launch and are
 * asynchronous on `stream`. Matrices are row-major, pointers are device memory, sizes were checked by the caller and
 * are positive.
 */
#ifndef FLRQ_KERNELS_MATRIX_KERNELS_H
#define FLRQ_KERNELS_MATRIX_KERNELS_H

#include <cuda_runtime_api.h>

#include "view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- random.cu --------------------------------------------------------------------------------------------------- */

/** out[0..count-1] = standard normals index0.. of (key, subsequence): cuRAND's Philox and the Box-Muller transform of
 *  host/core/philox.c. */
cudaError_t flrq_launch_normal(float *out, uint64_t key, uint64_t subsequence, uint64_t index0, int64_t count,
                               cudaStream_t stream);

/* ---- matrix.cu --------------------------------------------------------------------------------------------------- */

/** out [rows, cols] = A as fp32, or rounded to bf16. */
cudaError_t flrq_launch_materialize_f32(float *out, const flrq_view *a, cudaStream_t stream);
cudaError_t flrq_launch_materialize_bf16(void *out, const flrq_view *a, cudaStream_t stream);

/** out [rows, cols] = x [rows, cols], row i times scale[i] (NULL: 1), as fp32 or rounded to bf16. */
cudaError_t flrq_launch_scale_rows_f32(float *out, const float *x, const float *scale, int64_t rows, int64_t cols,
                                       cudaStream_t stream);
cudaError_t flrq_launch_scale_rows_bf16(void *out, const float *x, const float *scale, int64_t rows, int64_t cols,
                                        cudaStream_t stream);

/** y [rows] = A x; A without a low-rank part. */
cudaError_t flrq_launch_mul_vector(float *y, const flrq_view *a, const float *x, cudaStream_t stream);

/** parts [chunks, cols]: part c = A_c^T q_c over the rows of chunk c; A without a low-rank part. */
cudaError_t flrq_launch_mul_t_vector(float *parts, const flrq_view *a, const float *q, cudaStream_t stream);

/** Number of partial sums per chunk that flrq_launch_sum_squares() writes for `cols` columns. */
int64_t flrq_sum_squares_parts(int64_t cols);

/** sums [chunks] = sum of squares of the rows of each chunk; parts [chunks, flrq_sum_squares_parts(cols)] is scratch.
 */
cudaError_t flrq_launch_sum_squares(double *sums, double *parts, const flrq_view *a, cudaStream_t stream);

/** bits [b + 1]: the fp32 bits of max |A - sum_{i<r} u_i v_i^T|, combined with what is there (zero it before). A NaN
 *  counts for nothing. u [rows, b], v [cols, b]. */
cudaError_t flrq_launch_amax_curve(uint32_t *bits, const flrq_view *a, const float *u, const float *v, int64_t b,
                                   cudaStream_t stream);

/** result[0] += number of non-finite elements, result[1] = min with the index i * cols + j of the first (start: all
 *  ones). */
cudaError_t flrq_launch_count_nonfinite(unsigned long long *result, const flrq_view *a, cudaStream_t stream);

/** Pushes `chunks` partial sums parts [chunks, count] into the tree of tree.h that has taken `pushed` before.
 *  levels [FLRQ_TREE_LEVELS, count]. */
cudaError_t flrq_launch_tree_push_f32(float *levels, const float *parts, int64_t chunks, int64_t count, uint32_t pushed,
                                      cudaStream_t stream);
cudaError_t flrq_launch_tree_push_f64(double *levels, const double *parts, int64_t chunks, int64_t count,
                                      uint32_t pushed, cudaStream_t stream);

/** out [count] = the sum of a tree that has taken `pushed` parts. */
cudaError_t flrq_launch_tree_finish_f32(float *out, const float *levels, int64_t count, uint32_t pushed,
                                        cudaStream_t stream);
cudaError_t flrq_launch_tree_finish_f64(double *out, const double *levels, int64_t count, uint32_t pushed,
                                        cudaStream_t stream);

/* ---- small.cu ---------------------------------------------------------------------------------------------------- */

/** parts [chunks, b, b] = Y_c^T Y_c in double, y [m, b]; all elements. */
cudaError_t flrq_launch_gram(double *parts, const float *y, int64_t m, int64_t b, cudaStream_t stream);

/** Zeroes a [b, b] below the diagonal. */
cudaError_t flrq_launch_upper(double *a, int64_t b, cudaStream_t stream);

/** out [count] = in rounded to fp32. */
cudaError_t flrq_launch_to_f32(float *out, const double *in, int64_t count, cudaStream_t stream);

/** Eigenvectors of LAPACK's order (vector k contiguous at v + k*b, ascending) to the columns of a [b, b], descending;
 *  values [b] from ascending to descending. */
cudaError_t flrq_launch_descending(double *a, double *values, const double *v, const double *ascending, int64_t b,
                                   cudaStream_t stream);

/** out [cols, rows] = in [rows, cols] transposed; in has leading dimension ld. */
cudaError_t flrq_launch_transpose(float *out, const float *in, int64_t rows, int64_t cols, int64_t ld,
                                  cudaStream_t stream);

/** bits [b] = max with the fp32 bits of |x_ik / divisor_i| over the columns k < b of x [m, ld] (zero it before);
 * divisor [m] or NULL. */
cudaError_t flrq_launch_column_amax(uint32_t *bits, const float *x, int64_t ld, const float *divisor, int64_t m,
                                    int64_t b, cudaStream_t stream);

/** x_ik / divisor_i * factor_k rounded to F16 or BF16, in fp32: out [m, b], or [b, m] with `transpose`. */
cudaError_t flrq_launch_round_factor(float *out, const float *x, int64_t ld, const float *divisor, const float *factor,
                                     int64_t m, int64_t b, int transpose, int32_t dtype, cudaStream_t stream);

/** result[0] = min with the index of the first non-finite element of x [count] (start: all ones). */
cudaError_t flrq_launch_first_nonfinite_f32(unsigned long long *result, const float *x, int64_t count,
                                            cudaStream_t stream);
cudaError_t flrq_launch_first_nonfinite_f64(unsigned long long *result, const double *x, int64_t count,
                                            cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
