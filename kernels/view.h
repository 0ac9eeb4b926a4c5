/* view.h - an operand as kernels see it: flrq_operand with its codes struct flattened, passed by value.
 *
 * C and CUDA share this file. The meaning of the fields is that of flrq_operand (flrq_backend.h); all pointers are
 * device memory. cuda_view() of cuda.h makes one of some of the rows.
 */
#ifndef FLRQ_KERNELS_VIEW_H
#define FLRQ_KERNELS_VIEW_H

#include "flrq_format.h"

typedef struct flrq_view {
    int64_t rows, cols;
    const void *dense; /* [rows, ld] of `dtype`, or NULL */
    int64_t ld;
    int32_t dtype; /* flrq_dtype: F32, F16 or BF16 */
    float codes_sign;
    const uint8_t *code; /* [rows, cols], or NULL */
    const float *scale;  /* [rows, n_groups] */
    const uint8_t *zero; /* [rows, n_groups], or NULL: `middle` everywhere */
    int64_t group, n_groups;
    float middle;           /* zero point of symmetric codes */
    float lr_sign;          /* of the low-rank part */
    const float *l;         /* [rows, rank] */
    const float *r;         /* [rank, cols] */
    int64_t rank;           /* 0: no low-rank part */
    const float *col_scale; /* [cols], or NULL */
} flrq_view;

#endif
