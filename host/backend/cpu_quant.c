/* cpu_quant.c - clip_quantize, pack and unpack of the fast face: rows over threads, kernels of simd_quant.c inside.
 *
 * Owns the cut of a matrix into tasks of whole rows, so that a group never spans tasks and every task writes its own
 * codes, scales and zero points; statistics are kept per task and added in the order of tasks, so they do not depend on
 * the number of threads either. An operand that is plain fp32 is read in place; any other is formed in scratch, a tile
 * at a time, by cpu_tile_load().
 */
#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "backend/quant_search.h"
#include "core/parallel.h"

#include <stdlib.h>
#include <string.h>

/* ---- clip_quantize --------------------------------------------------------------------------------------------- */

/* Rows of a task: a tile of the operand that stays in the L2 cache, whatever the number of columns. */
static int64_t rows_of_task(int64_t cols) {
    int64_t rows = (int64_t)CPU_TILE_ROWS * CPU_PANEL_COLS / (cols > 0 ? cols : 1);
    return rows < 1 ? 1 : rows > CPU_TILE_ROWS ? CPU_TILE_ROWS : rows;
}

typedef struct quantize_job {
    const cpu_state *state;
    flrq_codes *out;
    const flrq_operand *a;
    const float *h;
    const flrq_scheme *scheme;
    const flrq_clip *clip;
    flrq_clip_stats *stats; /* [tasks] */
    int64_t rows;           /* of a task */
    bool in_place;          /* the operand is fp32 in memory */
} quantize_job;

static void quantize_task(void *arg, int64_t index, int thread) {
    const quantize_job *job = arg;
    const flrq_operand *a = job->a;
    const flrq_codes *out = job->out;
    const cpu_kernels *kernels = job->state->kernels;
    int64_t row0 = index * job->rows, rows = a->rows - row0 < job->rows ? a->rows - row0 : job->rows, ld = a->cols;
    const float *w;
    if (job->in_place) {
        ld = a->ld_dense;
        w = (const float *)a->d_dense + row0 * ld;
    } else {
        float *tile = (float *)job->state->scratch[thread];
        cpu_tile_load(kernels, tile, ld, a, row0, rows, 0, a->cols, job->state->work[thread]);
        w = tile;
    }
    flrq_clip_stats sums = {0};
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = row0 + i, g = row * out->n_groups;
        kernels->quantize_row(out->code + row * out->cols, out->scale + g, out->zero ? out->zero + g : NULL, w + i * ld,
                              job->h, a->cols, out->group, job->scheme, job->clip, &sums);
    }
    job->stats[index] = sums;
}

static flrq_status clip_quantize(flrq_backend *be, flrq_codes *out, const flrq_operand *a, const float *h,
                                 const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    FLRQ_TRY(op_check_quantize(out, a, scheme, clip));
    flrq_clip_stats sums = {0};
    if (a->rows > 0 && a->cols > 0) {
        int64_t rows = rows_of_task(a->cols), tasks = (a->rows + rows - 1) / rows;
        quantize_job job = {cpu_of(be), out, a, h, scheme, clip, NULL, rows, false};
        job.in_place = a->d_dense && a->dense_dtype == FLRQ_F32 && !a->codes && a->rank == 0 && a->d_col_scale == NULL;
        if (!job.in_place) FLRQ_TRY(cpu_scratch(be, (size_t)(rows * a->cols) * sizeof(float)));
        size_t bytes = (size_t)tasks * sizeof *job.stats;
        FLRQ_TRY(cpu_shared(be, bytes));
        job.stats = (flrq_clip_stats *)cpu_of(be)->shared;
        flrq_parallel_for(job.state->threads, tasks, quantize_task, &job);
        for (int64_t i = 0; i < tasks; i++) {
            sums.weighted_error += job.stats[i].weighted_error;
            sums.weighted_norm += job.stats[i].weighted_norm;
            sums.clipped += job.stats[i].clipped;
            sums.zero_groups += job.stats[i].zero_groups;
            sums.ratio_sum += job.stats[i].ratio_sum;
            sums.groups += job.stats[i].groups;
        }
    }
    if (stats) *stats = sums;
    return FLRQ_OK;
}

/* ---- packing --------------------------------------------------------------------------------------------------- */

typedef struct pack_job {
    const cpu_kernels *kernels;
    int32_t *packed;
    const uint8_t *code;
    uint8_t *code_out;
    int64_t rows, cols, words, task_rows;
    int bits;
} pack_job;

static void pack_task(void *arg, int64_t index, int thread) {
    const pack_job *job = arg;
    int64_t end = (index + 1) * job->task_rows < job->rows ? (index + 1) * job->task_rows : job->rows;
    for (int64_t i = index * job->task_rows; i < end; i++)
        job->kernels->pack_row(job->packed + i * job->words, job->code + i * job->cols, job->cols, job->bits);
}

static void unpack_task(void *arg, int64_t index, int thread) {
    const pack_job *job = arg;
    int64_t end = (index + 1) * job->task_rows < job->rows ? (index + 1) * job->task_rows : job->rows;
    for (int64_t i = index * job->task_rows; i < end; i++)
        job->kernels->unpack_row(job->code_out + i * job->cols, job->packed + i * job->words, job->cols, job->bits);
}

static flrq_status run_pack(flrq_backend *be, flrq_task_fn task, int32_t *packed, const uint8_t *code,
                            uint8_t *code_out, int64_t rows, int64_t cols, int bits) {
    FLRQ_TRY(op_check_pack(rows, cols, bits));
    if (rows == 0 || cols == 0) return FLRQ_OK;
    const cpu_state *state = cpu_of(be);
    pack_job job = {state->kernels,     packed, code, code_out, rows, cols, (cols * bits + 31) / 32,
                    rows_of_task(cols), bits};
    flrq_parallel_for(state->threads, (rows + job.task_rows - 1) / job.task_rows, task, &job);
    return FLRQ_OK;
}

static flrq_status pack(flrq_backend *be, int32_t *packed, const uint8_t *code, int64_t rows, int64_t cols, int bits) {
    return run_pack(be, pack_task, packed, code, NULL, rows, cols, bits);
}

static flrq_status unpack(flrq_backend *be, uint8_t *code, const int32_t *packed, int64_t rows, int64_t cols,
                          int bits) {
    return run_pack(be, unpack_task, (int32_t *)packed, NULL, code, rows, cols, bits);
}

void cpu_register_quant(flrq_backend *be) {
    be->clip_quantize = clip_quantize;
    be->pack = pack;
    be->unpack = unpack;
}
