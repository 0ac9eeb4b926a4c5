/* cuda_quant.c - quantization ops of the CUDA backend: clip_quantize, pack, unpack.
 *
 * A group of at most FLRQ_QUANTIZE_SHORT columns is quantized from whatever the operand is made of. A longer one is
 * read several times, so an operand with codes or factors is evaluated first, a panel of rows at a time. Either way the
 * bytes are those of the evaluated matrix. Asynchronous but where statistics are asked for.
 */
#include "backend/cuda.h"
#include "kernels/matrix_kernels.h"
#include "kernels/quant_kernels.h"

#include <string.h>

enum { PANEL_BYTES = 64 << 20 };

/* Quantizes rows row0 .. of a job whose arrays stand at row 0. */
static flrq_status quantize_rows(flrq_backend *be, const flrq_quantize_job *all, const flrq_view *a, int64_t row0) {
    flrq_quantize_job job = *all;
    job.a = *a;
    job.code += row0 * a->cols;
    job.scale += row0 * job.n_groups;
    if (job.zero) job.zero += row0 * job.n_groups;
    return cuda_launched(be, flrq_launch_clip_quantize(&job, cuda_of(be)->stream), "clip_quantize", a->rows, a->cols);
}

/* Adds the statistics of a job to device memory at `sum`. */
static flrq_status quantize_counted(flrq_backend *be, flrq_quantize_job *job, const flrq_view *a, int64_t row0,
                                    flrq_quantize_part *sum) {
    if (!sum) return quantize_rows(be, job, a, row0);
    flrq_quantize_job shape = *job;
    shape.a = *a;
    int64_t count = flrq_quantize_parts(&shape);
    void *parts;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PARTS, (size_t)count * sizeof *job->parts, &parts));
    job->parts = parts;
    FLRQ_TRY(quantize_rows(be, job, a, row0));
    return cuda_launched(be, flrq_launch_quantize_sum(sum, job->parts, count, cuda_of(be)->stream), "clip_quantize",
                         count, 1);
}

static flrq_status quantize_panels(flrq_backend *be, flrq_quantize_job *job, const flrq_operand *a,
                                   flrq_quantize_part *sum) {
    int64_t row_bytes = a->cols * (int64_t)sizeof(float), rows = PANEL_BYTES / row_bytes;
    rows = rows < 1 ? 1 : rows > a->rows ? a->rows : rows;
    void *panel;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PANEL, (size_t)(rows * row_bytes), &panel));
    for (int64_t row0 = 0; row0 < a->rows; row0 += rows) {
        int64_t here = a->rows - row0 < rows ? a->rows - row0 : rows;
        flrq_view part = cuda_view(a, row0, here);
        flrq_view dense = {.rows = here, .cols = a->cols, .dense = panel, .ld = a->cols, .dtype = FLRQ_F32};
        FLRQ_TRY(cuda_launched(be, flrq_launch_materialize_f32(panel, &part, cuda_of(be)->stream), "clip_quantize",
                               here, a->cols));
        FLRQ_TRY(quantize_counted(be, job, &dense, row0, sum));
    }
    return FLRQ_OK;
}

static flrq_status clip_quantize(flrq_backend *be, flrq_codes *out, const flrq_operand *a, const float *d_h,
                                 const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    FLRQ_TRY(op_check_quantize(out, a, scheme, clip));
    if (stats) memset(stats, 0, sizeof *stats);
    if (a->rows == 0 || a->cols == 0) return FLRQ_OK;
    flrq_quantize_job job = {.h = d_h,
                             .code = out->code,
                             .scale = out->scale,
                             .zero = out->symmetric ? NULL : out->zero,
                             .group = out->group,
                             .n_groups = out->n_groups,
                             .scheme = *scheme,
                             .clip = *clip};
    void *sum = NULL;
    if (stats) {
        FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, sizeof(flrq_quantize_part), &sum));
        FLRQ_TRY(cuda_check(cudaMemsetAsync(sum, 0, sizeof(flrq_quantize_part), cuda_of(be)->stream), "clip_quantize",
                            a->rows, a->cols));
    }
    if (out->group > FLRQ_QUANTIZE_SHORT && (a->codes || a->rank > 0)) {
        FLRQ_TRY(quantize_panels(be, &job, a, sum));
    } else {
        flrq_view whole = cuda_view(a, 0, a->rows);
        FLRQ_TRY(quantize_counted(be, &job, &whole, 0, sum));
    }
    if (!stats) return FLRQ_OK;
    flrq_quantize_part total;
    FLRQ_TRY(cuda_fetch(be, &total, sum, sizeof total));
    *stats = (flrq_clip_stats){.weighted_error = total.error,
                               .weighted_norm = total.norm,
                               .clipped = total.clipped,
                               .zero_groups = total.zero_groups,
                               .ratio_sum = total.ratios,
                               .groups = a->rows * out->n_groups};
    return FLRQ_OK;
}

static flrq_status pack(flrq_backend *be, int32_t *d_packed, const uint8_t *d_code, int64_t rows, int64_t cols,
                        int bits) {
    FLRQ_TRY(op_check_pack(rows, cols, bits));
    if (rows == 0 || cols == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_pack(d_packed, d_code, rows, cols, bits, cuda_of(be)->stream), "pack", rows,
                         cols);
}

static flrq_status unpack(flrq_backend *be, uint8_t *d_code, const int32_t *d_packed, int64_t rows, int64_t cols,
                          int bits) {
    FLRQ_TRY(op_check_pack(rows, cols, bits));
    if (rows == 0 || cols == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_unpack(d_code, d_packed, rows, cols, bits, cuda_of(be)->stream), "unpack",
                         rows, cols);
}

void cuda_register_quant(flrq_backend *be) {
    be->clip_quantize = clip_quantize;
    be->pack = pack;
    be->unpack = unpack;
}
