/* quant_kernels.h - launchers of quant.cu and pack.cu: clip search and quantization, packing of codes. All return the
 * error of the launch and are asynchronous on `stream`. Pointers are device memory, arguments were checked by the
 * caller (op_check_quantize(), op_check_pack()), rows and columns are positive.
 */
#ifndef FLRQ_KERNELS_QUANT_KERNELS_H
#define FLRQ_KERNELS_QUANT_KERNELS_H

#include <cuda_runtime_api.h>

#include "flrq_backend.h"
#include "view.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Longest group whose residual is formed on the fly, whatever the operand. A longer one is read several times: then
 *  the operand must be dense, with a column scale at most; the caller evaluates other operands by panels of rows. */
enum { FLRQ_QUANTIZE_SHORT = 256 };

/** What one block of threads adds to flrq_clip_stats. */
typedef struct flrq_quantize_part {
    double error, norm, ratios;
    int64_t clipped, zero_groups;
} flrq_quantize_part;

/** Arguments of flrq_launch_clip_quantize(); meanings as in flrq_backend.clip_quantize. */
typedef struct flrq_quantize_job {
    flrq_view a;
    const float *h; /* [cols] or NULL */
    uint8_t *code;  /* [rows, cols] */
    float *scale;   /* [rows, n_groups] */
    uint8_t *zero;  /* [rows, n_groups], or NULL when symmetric */
    int64_t group, n_groups;
    flrq_scheme scheme;
    flrq_clip clip;
    flrq_quantize_part *parts; /* [flrq_quantize_parts()], or NULL: no statistics */
} flrq_quantize_job;

/** Partial statistics that a job writes: a function of shapes alone. */
int64_t flrq_quantize_parts(const flrq_quantize_job *job);

/** Codes, scales and zero points of a.rows x a.cols weights; see FLRQ_QUANTIZE_SHORT. */
cudaError_t flrq_launch_clip_quantize(const flrq_quantize_job *job, cudaStream_t stream);

/** *sum += parts [count], in a fixed order (zero it before). */
cudaError_t flrq_launch_quantize_sum(flrq_quantize_part *sum, const flrq_quantize_part *parts, int64_t count,
                                     cudaStream_t stream);

/** packed [rows, ceil(cols * bits / 32)] words = the little-endian bit stream of code [rows, cols]; 2, 3, 4 or 8 bits.
 *  Bits of a code beyond `bits` are ignored, bits of a row beyond its last code are 0. */
cudaError_t flrq_launch_pack(int32_t *packed, const uint8_t *code, int64_t rows, int64_t cols, int bits,
                             cudaStream_t stream);

/** The inverse. */
cudaError_t flrq_launch_unpack(uint8_t *code, const int32_t *packed, int64_t rows, int64_t cols, int bits,
                               cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
