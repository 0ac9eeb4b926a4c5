/* source.c - the reader of a run: items from files into its buffers, and rows between the workers. */
#include "pipeline/source.h"

#include <string.h>

#include "core/dtype.h"

flrq_status flrq_source_open(flrq_source *s, flrq_backend *be, flrq_comm *comm, const flrq_model *model,
                             const flrq_plan *plan) {
    *s = (flrq_source){.be = be, .comm = comm, .model = model, .plan = plan, .requested = -1, .gathering = -1};
    for (int i = 0; i <= plan->overlap; i++)
        if (plan->calibrated) {
            FLRQ_TRY(flrq_block_new(&s->blocks[i], model, be));
            s->blocks[i]->rank = comm->rank, s->blocks[i]->size = comm->size;
        } else
            FLRQ_TRY(be->alloc(be, &s->d_weights[i], plan->weight_bytes, "one weight"));
    if (plan->overlap || !plan->calibrated)
        FLRQ_TRY(flrq_feed_new(&s->feed, be, plan->feed_bytes, plan->overlap ? FLRQ_FEED_SLOTS : 1, plan->overlap));
    if (plan->separate) s->feed.readers = FLRQ_FEED_READERS;
    return flrq_stage_open(&s->reader, "flrq reader", plan->overlap);
}

void flrq_source_close(flrq_source *s) {
    if (!s->be) return;
    flrq_stage_close(s->reader);
    flrq_feed_free(&s->feed);
    for (int i = 0; i < 2; i++) {
        flrq_block_free(s->blocks[i], s->be);
        s->be->release(s->be, s->d_weights[i]);
    }
    memset(s, 0, sizeof *s);
}

/* Asks the kernel for the file's part of an item, or lets it go. */
static void advise(const flrq_source *s, int64_t item, void (*hint)(const flrq_checkpoint *, const flrq_tensor *)) {
    const flrq_model *model = s->model;
    int64_t first = item, last = item + 1;
    if (s->plan->calibrated) {
        if (item >= model->layers) return;
        first = model->block_first[item], last = model->block_first[item + 1];
    }
    for (int64_t i = first; i < last && i < model->n_linears; i++) hint(model->checkpoint, model->linears[i].weight);
}

/* The reader's call: block `item`, or one weight of a weights-only run, into its buffer. */
static flrq_status read_item(void *context, const void *arguments) {
    flrq_source *s = context;
    int64_t item;
    memcpy(&item, arguments, sizeof item);
    int buffer = (int)(item & s->plan->overlap);
    if (s->plan->calibrated) {
        flrq_block *block = s->blocks[buffer];
        return flrq_block_load_through(block, s->model, s->plan->overlap ? &s->feed : &block->feed, item);
    }
    const flrq_linear *l = &s->model->linears[item];
    flrq_range rows = flrq_share_rows(l->rows, s->comm->rank, s->comm->size);
    uint64_t row_bytes = l->weight->bytes / (uint64_t)l->rows;
    FLRQ_TRY(flrq_feed_range(&s->feed, s->model->checkpoint, l->weight, (uint64_t)rows.first * row_bytes,
                             (uint64_t)rows.count * row_bytes, s->d_weights[buffer]));
    return flrq_feed_wait(&s->feed);
}

/* Has the item read behind the ops issued so far, which may still use its buffer. */
static flrq_status request(flrq_source *s, int64_t item) {
    if (item <= s->requested || item >= (s->plan->calibrated ? s->model->layers : s->model->n_linears)) return FLRQ_OK;
    s->requested = item;
    advise(s, item + 1, flrq_checkpoint_prefetch);
    if (s->feed.lane) FLRQ_TRY(s->be->lane_after_ops(s->feed.lane));
    return flrq_stage_call(s->reader, read_item, s, &item, sizeof item, NULL);
}

/* Has the rows of the block, which is read, brought to all workers beside the ops that follow. */
static flrq_status begin_gather(flrq_source *s, int64_t item) {
    const flrq_block *block = s->blocks[item & s->plan->overlap];
    for (int64_t i = s->model->block_first[item]; i < s->model->block_first[item + 1]; i++) {
        const flrq_operand *w = &block->linear[s->model->linears[i].slot];
        flrq_split split = flrq_split_of(s->be, s->comm, w->rows, NULL, NULL);
        FLRQ_TRY(flrq_split_gather_begin(&split, (void *)w->d_dense,
                                         (size_t)w->cols * (size_t)flrq_dtype_bits(w->dense_dtype) / 8));
    }
    s->gathering = item;
    return FLRQ_OK;
}

flrq_status flrq_source_gather_ahead(flrq_source *s, int64_t item) {
    if (!s->plan->overlap || s->comm->size == 1 || item >= s->model->layers) return FLRQ_OK;
    FLRQ_TRY(flrq_stage_wait(s->reader, 0));
    return begin_gather(s, item);
}

flrq_status flrq_source_receive(flrq_source *s, int64_t item, int *buffer) {
    flrq_mark_phase(s->be, "read");
    FLRQ_TRY(request(s, item));
    FLRQ_TRY(flrq_stage_wait(s->reader, 0));
    *buffer = (int)(item & s->plan->overlap);
    if (s->plan->calibrated && s->comm->size > 1) {
        if (s->gathering != item) FLRQ_TRY(begin_gather(s, item));
        FLRQ_TRY(s->comm->gather_end(s->comm, s->be));
    }
    return s->plan->overlap ? request(s, item + 1) : FLRQ_OK;
}

void flrq_source_drop(const flrq_source *s, int64_t item) {
    advise(s, item, flrq_checkpoint_drop);
}
