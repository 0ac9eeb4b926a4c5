/* verify.c - reads an output folder back and compares it with its source. */
#include "pipeline/verify.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/dtype.h"
#include "pipeline/output.h"

static flrq_status find_tensor(const flrq_checkpoint *checkpoint, const char *prefix, const char *module,
                               const char *suffix, int required, const flrq_tensor **out) {
    char name[1200];
    snprintf(name, sizeof name, "%s%s.%s", prefix, module, suffix);
    *out = flrq_checkpoint_find(checkpoint, name);
    if (!*out && required) return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s is missing", checkpoint->dir, name);
    return FLRQ_OK;
}

flrq_status flrq_verify_attach(const flrq_model *view, flrq_linear *l) {
    FLRQ_TRY(find_tensor(view->checkpoint, "", l->module, "weight_packed", 1, &l->packed));
    FLRQ_TRY(find_tensor(view->checkpoint, "", l->module, "weight_scale", 1, &l->scale));
    FLRQ_TRY(find_tensor(view->checkpoint, "", l->module, "weight_zero_point", !view->scheme.symmetric, &l->zero));
    l->weight = l->lora_a = l->lora_b = NULL;
    l->lora_scaling = 1;
    if (!view->adapter) return FLRQ_OK;
    FLRQ_TRY(find_tensor(view->adapter, "base_model.model.", l->module, "lora_A.weight", 0, &l->lora_a));
    return find_tensor(view->adapter, "base_model.model.", l->module, "lora_B.weight", l->lora_a != NULL, &l->lora_b);
}

/* Links `name` of OUT into OUT/.flrq/check. */
static flrq_status link_file(const char *check, const char *name) {
    char *path = flrq_path_join(check, name), target[512];
    if (!path) return flrq_fail_memory(0, "a path");
    snprintf(target, sizeof target, "../../%s", name);
    unlink(path);
    flrq_status status = FLRQ_OK;
    if (symlink(target, path) != 0) status = flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be linked", path);
    free(path);
    return status;
}

static flrq_status link_all(const char *check, const flrq_model *source) {
    char name[64];
    for (int64_t b = -1; b < source->layers; b++) {
        flrq_shard_name(name, b, source->layers);
        FLRQ_TRY(link_file(check, name));
    }
    FLRQ_TRY(link_file(check, "model.safetensors.index.json"));
    char *lowrank = flrq_path_join(check, "../../lowrank");
    if (!lowrank) return flrq_fail_memory(0, "a path");
    flrq_status status = flrq_path_exists(lowrank) ? link_file(check, "lowrank") : FLRQ_OK;
    free(lowrank);
    return status;
}

typedef struct check_buffers {
    flrq_feed source; /* the source's weights, beside the ops with overlap */
    flrq_feed packed; /* what was written, in the order of the ops that unpack it */
    void *d_words;
    flrq_codes codes;
    float *d_l, *d_r;
    void *d_weight;
    void *a, *b;
} check_buffers;

enum { COMPARE_BYTES = 4 << 20 };

static flrq_status compare_copy(const flrq_model *source, const flrq_other *other, const flrq_model *out,
                                check_buffers *buffers) {
    const flrq_tensor *a = other->tensor, *b = flrq_checkpoint_find(out->checkpoint, other->name);
    if (!b) return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s of the source is missing", out->dir, other->name);
    if (b->dtype != a->dtype || b->bytes != a->bytes)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s changed its type or size", out->dir, other->name);
    for (uint64_t first = 0; first < a->bytes; first += COMPARE_BYTES) {
        uint64_t bytes = a->bytes - first < COMPARE_BYTES ? a->bytes - first : COMPARE_BYTES;
        FLRQ_TRY(flrq_checkpoint_read(source->checkpoint, a, buffers->a, first, bytes));
        FLRQ_TRY(flrq_checkpoint_read(out->checkpoint, b, buffers->b, first, bytes));
        if (memcmp(buffers->a, buffers->b, bytes) != 0)
            return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s differs from the source", out->dir, other->name);
    }
    return FLRQ_OK;
}

static flrq_status upload_source(const flrq_model *source, const flrq_tensor *t, check_buffers *buffers) {
    flrq_feed *feed = &buffers->source;
    if (feed->lane) FLRQ_TRY(feed->be->lane_after_ops(feed->lane));
    FLRQ_TRY(flrq_feed_tensor(feed, source->checkpoint, t, buffers->d_weight));
    return flrq_feed_wait(feed);
}

/* The same with zeros in place of what is not finite. */
static flrq_status upload_finite(const flrq_model *source, const flrq_tensor *t, flrq_backend *be,
                                 check_buffers *buffers) {
    for (uint64_t first = 0; first < t->bytes; first += COMPARE_BYTES) {
        uint64_t bytes = t->bytes - first < COMPARE_BYTES ? t->bytes - first : COMPARE_BYTES;
        FLRQ_TRY(flrq_checkpoint_read(source->checkpoint, t, buffers->a, first, bytes));
        int64_t count = (int64_t)(bytes * 8) / flrq_dtype_bits(t->dtype);
        for (int64_t i = 0; i < count; i++)
            if (!isfinite(flrq_load(buffers->a, t->dtype, i))) flrq_store(buffers->a, t->dtype, i, 0);
        FLRQ_TRY(be->upload(be, (char *)buffers->d_weight + first, buffers->a, bytes));
    }
    return FLRQ_OK;
}

/* ||W - What|| / ||W|| of one layer from disk. A fit saw zeros in place of what is not finite (--nonfinite zero). */
static flrq_status layer_error(const flrq_model *source, const flrq_linear *from, const flrq_model *out,
                               const flrq_linear *to, flrq_backend *be, check_buffers *buffers, int64_t *rank,
                               double *error) {
    double norm;
    int64_t bad, first_bad;
    const flrq_tensor *t = from->weight;
    FLRQ_TRY(flrq_linear_load_packed_through(out, &buffers->packed, buffers->d_words, to, &buffers->codes, buffers->d_l,
                                             buffers->d_r, rank));
    FLRQ_TRY(upload_source(source, t, buffers));
    flrq_operand w = {.rows = from->rows,
                      .cols = from->cols,
                      .d_dense = buffers->d_weight,
                      .ld_dense = from->cols,
                      .dense_dtype = t->dtype};
    FLRQ_TRY(be->count_nonfinite(be, &bad, &first_bad, &w));
    if (bad) FLRQ_TRY(upload_finite(source, t, be, buffers));
    FLRQ_TRY(be->sum_squares(be, &norm, &w));
    w.codes = &buffers->codes, w.codes_sign = -1;
    w.d_l = buffers->d_l, w.d_r = buffers->d_r, w.rank = *rank, w.lr_sign = -1;
    FLRQ_TRY(be->sum_squares(be, error, &w));
    *error = norm > 0 ? sqrt(*error / norm) : 0;
    return FLRQ_OK;
}

/* What was read back of a layer; of one that another worker reads, zeros. */
typedef struct read_back {
    double error;
    int64_t rank;
} read_back;

static flrq_status compare_layer(const flrq_model *out, const flrq_linear *from, const json_t *record,
                                 const read_back *found) {
    double wanted = json_number_value(json_object_get(record, "weight_error"));
    if (found->rank != json_integer_value(json_object_get(record, "rank")))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s has rank %lld on disk", out->dir, from->module,
                         (long long)found->rank);
    /* The same op on the same numbers, summed along the same tree: equal but for the decimal rounding of the journal.
     */
    if (!(fabs(found->error - wanted) <= 1e-9 + 1e-9 * wanted))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s read back has relative error %.9g, the fit had %.9g", out->dir,
                         from->module, found->error, wanted);
    return FLRQ_OK;
}

/* Reads the layers of this worker's blocks back. */
static flrq_status read_layers(const flrq_model *source, const flrq_model *out, flrq_backend *be, flrq_comm *comm,
                               check_buffers *buffers, read_back *found, flrq_reporter *reporter) {
    for (int64_t b = comm->rank; b < source->layers; b += comm->size) {
        flrq_progress(reporter, "verify", b, source->layers);
        for (int64_t i = source->block_first[b]; i < source->block_first[b + 1]; i++) {
            const flrq_linear *from = &source->linears[i], *to = &out->linears[i];
            if (strcmp(to->module, from->module) != 0)
                return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s found in place of %s", out->dir, to->module, from->module);
            flrq_status status = layer_error(source, from, out, to, be, buffers, &found[i].rank, &found[i].error);
            if (status != FLRQ_OK) return flrq_trace(status, "tensor %s.weight", from->module);
        }
    }
    return FLRQ_OK;
}

/* All that was read back to all workers: the numbers of a layer are zero but on one, so the sum of their bits is they.
 */
static flrq_status share_found(flrq_comm *comm, read_back *found, int64_t layers) {
    _Static_assert(sizeof(read_back) == 2 * sizeof(int64_t), "two words for a layer");
    int64_t *words = malloc((size_t)layers * sizeof *found);
    if (!words) return flrq_fail_memory((size_t)layers * sizeof *found, "the load-back check");
    memcpy(words, found, (size_t)layers * sizeof *found);
    flrq_status status = flrq_comm_sum(comm, words, 2 * layers);
    memcpy(found, words, (size_t)layers * sizeof *found);
    free(words);
    return status;
}

static flrq_status judge(const flrq_model *source, const flrq_model *out, json_t *const *blocks,
                         const read_back *found) {
    for (int64_t b = 0; b < source->layers; b++) {
        const json_t *matrices = json_object_get(blocks[b], "matrices");
        for (int64_t i = source->block_first[b]; i < source->block_first[b + 1]; i++)
            FLRQ_TRY(compare_layer(out, &source->linears[i],
                                   json_array_get(matrices, (size_t)(i - source->block_first[b])), &found[i]));
    }
    return FLRQ_OK;
}

flrq_status flrq_verify(const char *check, const flrq_model *source, const flrq_plan *plan, flrq_backend *be,
                        flrq_comm *comm, json_t *const *blocks, flrq_reporter *reporter) {
    flrq_model *out = NULL;
    read_back *found = calloc((size_t)source->n_linears, sizeof *found);
    flrq_status status = FLRQ_OK;
    check_buffers buffers = {0};
    size_t rows = (size_t)plan->extent.rows, cols = (size_t)plan->extent.cols;
    size_t cap = (size_t)flrq_fit_rank_cap(&plan->fit, plan->extent.rows, plan->extent.cols);
    buffers.a = malloc(COMPARE_BYTES);
    buffers.b = malloc(COMPARE_BYTES);
    if (!found || !buffers.a || !buffers.b) FLRQ_GOTO(flrq_fail_memory(COMPARE_BYTES, "the load-back check"));
    FLRQ_GOTO(flrq_codes_alloc(&buffers.codes, be, &plan->fit.scheme, plan->extent));
    FLRQ_GOTO(be->alloc(be, (void **)&buffers.d_l, (cap + 1) * rows * sizeof(float), "the load-back check"));
    FLRQ_GOTO(be->alloc(be, (void **)&buffers.d_r, (cap + 1) * cols * sizeof(float), "the load-back check"));
    FLRQ_GOTO(be->alloc(be, &buffers.d_weight, plan->weight_bytes, "the load-back check"));
    if (comm->rank == 0) FLRQ_GOTO(link_all(check, source));
    FLRQ_GOTO(flrq_comm_barrier(comm));
    FLRQ_GOTO(flrq_model_open(&out, check, source->family ? 0 : FLRQ_MODEL_ALLOW_UNKNOWN));
    if (out->n_linears != source->n_linears || !out->quantized)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_FORMAT, "%s: %lld quantized layers read back, %lld expected", check,
                            (long long)out->n_linears, (long long)source->n_linears));
    size_t slot = flrq_packed_slot_bytes(out);
    FLRQ_GOTO(flrq_feed_new(&buffers.packed, be, slot, 1, 0));
    FLRQ_GOTO(be->alloc(be, &buffers.d_words, slot, "the load-back check"));
    FLRQ_GOTO(flrq_feed_new(&buffers.source, be, plan->feed_bytes, plan->overlap ? FLRQ_FEED_SLOTS : 1, plan->overlap));
    if (plan->separate) buffers.source.readers = FLRQ_FEED_READERS;
    for (int64_t i = comm->rank; i < source->n_others; i += comm->size)
        if (source->others[i].fate == FLRQ_FATE_COPY)
            FLRQ_GOTO(compare_copy(source, &source->others[i], out, &buffers));
    FLRQ_GOTO(read_layers(source, out, be, comm, &buffers, found, reporter));
    FLRQ_GOTO(share_found(comm, found, source->n_linears));
    if (comm->rank == 0) status = judge(source, out, blocks, found);
out:
    if (status != FLRQ_OK && status != FLRQ_STOPPED) status = flrq_trace(status, "load-back check");
    flrq_model_close(out);
    flrq_feed_free(&buffers.source);
    flrq_feed_free(&buffers.packed);
    be->release(be, buffers.d_words);
    be->release(be, buffers.d_weight);
    be->release(be, buffers.d_r);
    be->release(be, buffers.d_l);
    flrq_codes_release(&buffers.codes, be);
    free(buffers.b);
    free(buffers.a);
    free(found);
    return status;
}
