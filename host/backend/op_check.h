/* op_check.h - what every backend refuses of an op's arguments: shapes that contradict each other or do not fit, sizes
 * beyond what BLAS counts (int32), unknown modes. Looks at sizes only, never at backend memory, so that it serves the
 * CPU and the CUDA backend alike. Each returns FLRQ_OK, or a failure that names the op and the numbers.
 */
#ifndef FLRQ_BACKEND_OP_CHECK_H
#define FLRQ_BACKEND_OP_CHECK_H

#include "core/error.h"
#include "flrq_backend.h"

/** Operand: dimensions that BLAS can count, leading dimension, float dtype, codes of the same shape, factors present.
 *  FLRQ_ERR_SHAPE, FLRQ_ERR_UNSUPPORTED. */
flrq_status op_check_operand(const char *op, const flrq_operand *a);

/** The number of columns on the skinny side: in [0, INT32_MAX]. FLRQ_ERR_SHAPE. */
flrq_status op_check_columns(const char *op, int64_t b);

/** rows and cols in [0, INT32_MAX], and rows * cols * width fits in size_t. FLRQ_ERR_SHAPE. */
flrq_status op_check_shape(const char *op, int64_t rows, int64_t cols, size_t width);

/** x [rows, ld] holds `cols` columns; both fit. FLRQ_ERR_SHAPE. */
flrq_status op_check_columns_of(const char *op, int64_t rows, int64_t ld, int64_t cols);

/** F16 or BF16. FLRQ_ERR_UNSUPPORTED. */
flrq_status op_check_factor_type(flrq_dtype dtype);

/** m >= b. FLRQ_ERR_SHAPE. */
flrq_status op_check_tall(const char *op, int64_t m, int64_t b);

/** Diagonal element i of a triangular factor is finite and not zero in fp32, so that a solve makes sense.
 *  FLRQ_ERR_NUMERIC. */
flrq_status op_check_diagonal(const char *op, int64_t i, double value);

/** a and b in [0, INT32_MAX]: their product fits int64, either is a leading dimension for BLAS. FLRQ_ERR_SHAPE. */
flrq_status op_check_sizes(const char *op, const char *names, int64_t a, int64_t b);

/** The table of gather_rows(): an operand without a low-rank part. */
flrq_status op_check_gather(const flrq_operand *table, int64_t tokens);

/** Sizes as above, head_dim even. */
flrq_status op_check_rope(int64_t tokens, int64_t heads, int64_t head_dim);

/** Sizes as above, kv_heads divides heads, window not negative. */
flrq_status op_check_attention(const flrq_attention *shape);

/** Sizes as above, every target (host memory) below vocab. */
flrq_status op_check_targets(const int32_t *target, int64_t tokens, int64_t vocab);

/** Everything clip_quantize() assumes of its arguments. FLRQ_ERR_SHAPE or FLRQ_ERR_USAGE with the numbers. */
flrq_status op_check_quantize(const flrq_codes *out, const flrq_operand *a, const flrq_scheme *scheme,
                              const flrq_clip *clip);

/** The arguments of pack() and unpack(). */
flrq_status op_check_pack(int64_t rows, int64_t cols, int bits);

#endif
