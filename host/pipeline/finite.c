/* finite.c - finds NaN and infinities in what a run reads. */
#include "pipeline/finite.h"

#include <math.h>
#include <stdlib.h>

#include "core/dtype.h"
#include "quant/split.h"

/* Replaces NaN and infinities of a dense weight by zero. Rare, so row by row through the host. */
static flrq_status zero_nonfinite(flrq_backend *be, const flrq_operand *w, flrq_range rows) {
    size_t size = (size_t)flrq_dtype_bits(w->dense_dtype) / 8, bytes = (size_t)w->cols * size;
    void *row = malloc(bytes);
    if (!row) return flrq_fail_memory(bytes, "a weight row");
    flrq_status status = FLRQ_OK;
    for (int64_t i = rows.first; i < rows.first + rows.count && status == FLRQ_OK; i++) {
        char *d_row = (char *)w->d_dense + (size_t)(i * w->ld_dense) * size;
        status = be->download(be, row, d_row, bytes);
        for (int64_t n = 0; n < w->cols; n++)
            if (!isfinite(flrq_load(row, w->dense_dtype, n))) flrq_store(row, w->dense_dtype, n, 0);
        if (status == FLRQ_OK) status = be->upload(be, d_row, row, bytes);
    }
    free(row);
    return status;
}

/* Number and first of the values that are not finite in the rows of all workers, from those of the own rows. */
static flrq_status agree_nonfinite(flrq_comm *comm, int64_t *count, int64_t *first) {
    int64_t(*all)[2] = calloc((size_t)comm->size, sizeof *all);
    if (!all) return flrq_fail_memory(sizeof *all, "counts of the workers");
    all[comm->rank][0] = *count, all[comm->rank][1] = *first;
    flrq_status status = comm->gather_host(comm, all, sizeof *all);
    *count = 0, *first = -1;
    for (int r = 0; r < comm->size; r++) {
        if (*count == 0) *first = all[r][1]; /* rows are in the order of ranks */
        *count += all[r][0];
    }
    free(all);
    return status;
}

flrq_status flrq_check_finite(flrq_backend *be, flrq_comm *comm, const flrq_model *model, const flrq_linear *l,
                              const flrq_operand *w, int whole, int zero, flrq_reporter *reporter) {
    int64_t count, first;
    flrq_codes none;
    flrq_range rows = whole ? (flrq_range){0, l->rows} : flrq_share_rows(l->rows, comm->rank, comm->size);
    flrq_operand part = flrq_operand_rows(w, rows, &none);
    FLRQ_TRY(flrq_trace_layer(be->count_nonfinite(be, &count, &first, &part), l));
    if (count) first += rows.first * l->cols;
    if (!whole) FLRQ_TRY(agree_nonfinite(comm, &count, &first));
    if (count == 0) return FLRQ_OK;
    if (!zero)
        return flrq_fail(
            FLRQ_ERR_NUMERIC,
            "%s: tensor %s: %lld values are NaN or infinite, the first at row %lld, column %lld; repair the "
            "checkpoint or use --nonfinite zero",
            model->checkpoint->files[l->weight->file], l->weight->name, (long long)count, (long long)(first / l->cols),
            (long long)(first % l->cols));
    flrq_notice(reporter, "tensor %s: %lld values that are NaN or infinite were set to zero", l->weight->name,
                (long long)count);
    return flrq_trace_layer(zero_nonfinite(be, w, rows), l);
}

/* Index of the first NaN or infinity among `count` elements of F32, F16 or BF16, or -1. Embeddings have billions: the
 * search is for an exponent of ones, without a branch in the inner loop. */
static int64_t first_nonfinite(const void *data, flrq_dtype dtype, int64_t count) {
    const uint32_t mask = dtype == FLRQ_F32 ? 0x7f800000 : dtype == FLRQ_F16 ? 0x7c00 : 0x7f80;
    const uint32_t *words = data;
    const uint16_t *halves = data;
    enum { STRIDE = 4096 };
    for (int64_t first = 0; first < count; first += STRIDE) {
        int64_t end = first + STRIDE < count ? first + STRIDE : count;
        int any = 0;
        if (dtype == FLRQ_F32)
            for (int64_t i = first; i < end; i++) any |= (words[i] & mask) == mask;
        else
            for (int64_t i = first; i < end; i++) any |= (halves[i] & mask) == mask;
        for (int64_t i = first; any && i < end; i++)
            if (((dtype == FLRQ_F32 ? words[i] : halves[i]) & mask) == mask) return i;
    }
    return -1;
}

flrq_status flrq_check_copied_finite(flrq_comm *comm, const flrq_model *model, int64_t block, void *buffer,
                                     size_t buffer_bytes) {
    for (int64_t i = 0; i < model->n_others; i++) {
        const flrq_other *o = &model->others[i];
        const flrq_tensor *t = o->tensor;
        if (o->block != block || o->fate != FLRQ_FATE_COPY) continue;
        if (t->dtype != FLRQ_F32 && t->dtype != FLRQ_F16 && t->dtype != FLRQ_BF16) continue;
        uint64_t size = (uint64_t)flrq_dtype_bits(t->dtype) / 8, step = buffer_bytes / size * size;
        flrq_range pieces = flrq_share((int64_t)((t->bytes + step - 1) / step), comm->rank, comm->size);
        for (int64_t p = pieces.first; p < pieces.first + pieces.count; p++) {
            uint64_t first = (uint64_t)p * step, bytes = t->bytes - first < step ? t->bytes - first : step;
            FLRQ_TRY(flrq_checkpoint_read(model->checkpoint, t, buffer, first, bytes));
            int64_t bad = first_nonfinite(buffer, t->dtype, (int64_t)(bytes / size));
            if (bad >= 0)
                return flrq_fail(FLRQ_ERR_NUMERIC,
                                 "%s: tensor %s: element %llu is NaN or infinite; repair the checkpoint (--nonfinite "
                                 "zero is for the "
                                 "quantized matrices only)",
                                 model->checkpoint->files[t->file], t->name,
                                 (unsigned long long)(first / size) + (uint64_t)bad);
        }
    }
    return FLRQ_OK;
}
