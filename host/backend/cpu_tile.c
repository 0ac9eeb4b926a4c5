/* cpu_tile.c - evaluates tiles of an operand as fp32: the one place where the fast face forms W, Wq, L R and diag(s).
 *
 * Order of the parts is fixed (dense, codes, L R, column scale), so an element has the same bits in every op that loads
 * it by tiles of the same grid. Refuses nothing: op_check_operand() is called by the ops before their tasks start.
 */
#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "core/dtype.h"

#include <limits.h>
#include <string.h>

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
