/* op_check.c - what every backend refuses of an op's arguments; the same sentence whatever the device. */
#include "backend/op_check.h"
#include "backend/quant_search.h"
#include "core/dtype.h"

#include <limits.h>
#include <math.h>

flrq_status op_check_operand(const char *op, const flrq_operand *a) {
    if (a->rows < 0 || a->cols < 0 || a->rank < 0 || a->rows > INT32_MAX || a->cols > INT32_MAX || a->rank > INT32_MAX)
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: operand of %lld x %lld, rank %lld: each must be in [0, %d]", op,
                         (long long)a->rows, (long long)a->cols, (long long)a->rank, INT32_MAX);
    if (a->d_dense && (a->ld_dense < a->cols || a->ld_dense > INT32_MAX))
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: leading dimension %lld of a dense operand with %lld columns", op,
                         (long long)a->ld_dense, (long long)a->cols);
    if (a->d_dense && !flrq_dtype_is_float(a->dense_dtype))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: dense operand of type %d; F32, F16 and BF16 are computed on", op,
                         (int)a->dense_dtype);
    if (a->codes && (a->codes->rows != a->rows || a->codes->cols != a->cols || (a->codes->group <= 0 && a->cols > 0)))
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: codes of %lld x %lld, group %lld, in an operand of %lld x %lld", op,
                         (long long)a->codes->rows, (long long)a->codes->cols, (long long)a->codes->group,
                         (long long)a->rows, (long long)a->cols);
    if (a->rank > 0 && (!a->d_l || !a->d_r))
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: operand of rank %lld without its factors", op, (long long)a->rank);
    return FLRQ_OK;
}

flrq_status op_check_columns(const char *op, int64_t b) {
    if (b < 0 || b > INT32_MAX)
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: %lld columns: must be in [0, %d]", op, (long long)b, INT32_MAX);
    return FLRQ_OK;
}

flrq_status op_check_shape(const char *op, int64_t rows, int64_t cols, size_t width) {
    size_t bytes;
    if (rows < 0 || cols < 0 || rows > INT32_MAX || cols > INT32_MAX ||
        __builtin_mul_overflow((size_t)rows * width, (size_t)cols, &bytes))
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: a matrix of %lld x %lld: each must be in [0, %d] and fit in memory", op,
                         (long long)rows, (long long)cols, INT32_MAX);
    return FLRQ_OK;
}

flrq_status op_check_columns_of(const char *op, int64_t rows, int64_t ld, int64_t cols) {
    FLRQ_TRY(op_check_shape(op, rows, ld, sizeof(float)));
    if (cols < 0 || cols > ld)
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: %lld columns of a matrix that has %lld", op, (long long)cols,
                         (long long)ld);
    return FLRQ_OK;
}

flrq_status op_check_factor_type(flrq_dtype dtype) {
    if (dtype == FLRQ_F16 || dtype == FLRQ_BF16) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "round_factor: factors of type %d; F16 and BF16 are stored", (int)dtype);
}

flrq_status op_check_tall(const char *op, int64_t m, int64_t b) {
    if (m < b)
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: %lld columns of length %lld have no orthonormal basis", op, (long long)b,
                         (long long)m);
    return FLRQ_OK;
}

flrq_status op_check_diagonal(const char *op, int64_t i, double value) {
    if ((float)value != 0 && isfinite((float)value)) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_NUMERIC, "%s: diagonal element %lld of R is %g", op, (long long)i, value);
}

flrq_status op_check_sizes(const char *op, const char *names, int64_t a, int64_t b) {
    if (a >= 0 && b >= 0 && a <= INT32_MAX && b <= INT32_MAX) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_SHAPE, "%s: %s = %lld x %lld: each must be in [0, %d]", op, names, (long long)a,
                     (long long)b, INT32_MAX);
}

flrq_status op_check_gather(const flrq_operand *table, int64_t tokens) {
    FLRQ_TRY(op_check_operand("gather_rows", table));
    FLRQ_TRY(op_check_sizes("gather_rows", "tokens x cols", tokens, table->cols));
    if (table->rank > 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "gather_rows: a table of rank %lld; gather rows of l and multiply by r",
                         (long long)table->rank);
    return FLRQ_OK;
}

flrq_status op_check_rope(int64_t tokens, int64_t heads, int64_t head_dim) {
    FLRQ_TRY(op_check_sizes("rope", "tokens x heads", tokens, heads));
    FLRQ_TRY(op_check_sizes("rope", "heads x head_dim", heads, head_dim));
    if (head_dim % 2 != 0)
        return flrq_fail(FLRQ_ERR_SHAPE, "rope: head_dim %lld is odd; pairs need an even one", (long long)head_dim);
    return FLRQ_OK;
}

flrq_status op_check_attention(const flrq_attention *shape) {
    FLRQ_TRY(op_check_sizes("attention", "tokens x heads", shape->tokens, shape->heads));
    FLRQ_TRY(op_check_sizes("attention", "heads x head_dim", shape->heads, shape->head_dim));
    FLRQ_TRY(op_check_sizes("attention", "tokens x row of q", shape->tokens, shape->heads * shape->head_dim));
    if (shape->kv_heads < 1 || shape->heads % shape->kv_heads != 0 || shape->window < 0)
        return flrq_fail(FLRQ_ERR_SHAPE,
                         "attention: %lld heads over %lld kv heads (must divide them), window %lld (must not be "
                         "negative)",
                         (long long)shape->heads, (long long)shape->kv_heads, (long long)shape->window);
    return FLRQ_OK;
}

flrq_status op_check_targets(const int32_t *target, int64_t tokens, int64_t vocab) {
    FLRQ_TRY(op_check_sizes("nll", "tokens x vocab", tokens, vocab));
    for (int64_t t = 0; t < tokens; t++)
        if (target[t] >= vocab)
            return flrq_fail(FLRQ_ERR_SHAPE, "nll: target %d of token %lld is outside the vocabulary of %lld",
                             (int)target[t], (long long)t, (long long)vocab);
    return FLRQ_OK;
}

flrq_status op_check_quantize(const flrq_codes *out, const flrq_operand *a, const flrq_scheme *scheme,
                              const flrq_clip *clip) {
    int bits = scheme->bits;
    FLRQ_TRY(op_check_operand("clip_quantize", a));
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return flrq_fail(FLRQ_ERR_SHAPE, "clip_quantize: %d bits; 2, 3, 4 and 8 are known", bits);
    int64_t group = scheme->group == 0 ? a->cols : scheme->group;
    int64_t n_groups = group > 0 ? (a->cols + group - 1) / group : 0;
    if (scheme->group < 0 || out->rows != a->rows || out->cols != a->cols || out->group != group ||
        out->n_groups != n_groups || out->bits != bits || !out->symmetric != !scheme->symmetric)
        return flrq_fail(FLRQ_ERR_SHAPE,
                         "clip_quantize: codes of %lld x %lld, %d bits, %lld groups of %lld, %s, for an operand of "
                         "%lld x %lld, %d bits, groups of %lld, %s",
                         (long long)out->rows, (long long)out->cols, (int)out->bits, (long long)out->n_groups,
                         (long long)out->group, out->symmetric ? "symmetric" : "asymmetric", (long long)a->rows,
                         (long long)a->cols, bits, (long long)scheme->group,
                         scheme->symmetric ? "symmetric" : "asymmetric");
    if (!out->symmetric && !out->zero && a->rows * n_groups > 0)
        return flrq_fail(FLRQ_ERR_SHAPE, "clip_quantize: an asymmetric scheme needs an array of zero points");
    if (scheme->symmetric && scheme->grid != FLRQ_GRID_FULL && scheme->grid != FLRQ_GRID_MIRROR)
        return flrq_fail(FLRQ_ERR_USAGE, "clip_quantize: unknown grid %d", (int)scheme->grid);
    if (clip->search < FLRQ_CLIP_NONE || clip->search > FLRQ_CLIP_FAST || clip->mode < FLRQ_CLIP_CLAMP ||
        clip->mode > FLRQ_CLIP_ZERO)
        return flrq_fail(FLRQ_ERR_USAGE, "clip_quantize: unknown search %d or mode %d", (int)clip->search,
                         (int)clip->mode);
    if (clip->search == FLRQ_CLIP_GRID &&
        (clip->steps < 1 || clip->steps > QUANT_STEPS || !(clip->min_ratio > 0 && clip->min_ratio <= 1)))
        return flrq_fail(FLRQ_ERR_USAGE, "clip_quantize: %d steps down to ratio %g; 1 to %d, and a ratio in (0, 1]",
                         (int)clip->steps, (double)clip->min_ratio, QUANT_STEPS);
    return FLRQ_OK;
}

flrq_status op_check_pack(int64_t rows, int64_t cols, int bits) {
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return flrq_fail(FLRQ_ERR_SHAPE, "pack: %d bits; 2, 3, 4 and 8 are known", bits);
    if (rows < 0 || cols < 0 || cols > (INT64_MAX - 31) / 8 || (cols > 0 && rows > INT64_MAX / cols))
        return flrq_fail(FLRQ_ERR_SHAPE, "pack: codes of %lld x %lld", (long long)rows, (long long)cols);
    return FLRQ_OK;
}
