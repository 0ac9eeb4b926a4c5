/* cpu_tile.c - evaluates tiles of an operand as fp32: the one place where the fast face forms W, Wq, L R and diag(s).
 *
 * Order of the parts is fixed (dense, codes, L R, column scale), so an element has the same bits in every op that loads
 * it by tiles of the same grid. Refuses nothing: cpu_operand_check() is called by the ops before their tasks start.
 */
#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "core/dtype.h"

#include <limits.h>
#include <string.h>

flrq_status cpu_operand_check(const char *op, const flrq_operand *a) {
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

void cpu_tile_load(const cpu_kernels *kernels, float *out, int64_t ld_out, const flrq_operand *a, int64_t row0,
                   int64_t rows, int64_t col0, int64_t cols, float *work) {
    if (rows <= 0 || cols <= 0) return;
    size_t element = a->dense_dtype == FLRQ_F32 ? 4 : 2;
    for (int64_t i = 0; i < rows; i++) {
        float *row = out + i * ld_out;
        if (a->d_dense)
            kernels->convert(row, (const char *)a->d_dense + (size_t)((row0 + i) * a->ld_dense + col0) * element,
                             a->dense_dtype, cols);
        else
            memset(row, 0, (size_t)cols * sizeof *row);
        if (a->codes) kernels->add_codes(row, a->codes, row0 + i, col0, cols, a->codes_sign);
    }
    if (a->rank > 0)
        kernels->gemm(0, 0, rows, cols, a->rank, a->lr_sign, a->d_l + row0 * a->rank, a->rank, a->d_r + col0, a->cols,
                      1, out, ld_out, work);
    if (a->d_col_scale)
        for (int64_t i = 0; i < rows; i++) kernels->scale_by(out + i * ld_out, a->d_col_scale + col0, cols);
}
