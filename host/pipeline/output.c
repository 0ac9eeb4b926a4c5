/* output.c - writes the files of an output folder. */
#include "pipeline/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"

enum { COPY_BYTES = 1 << 20 }; /* at most a staging slot */

flrq_status flrq_staging_new(flrq_staging *s, flrq_backend *be, const flrq_plan *plan) {
    flrq_status status = FLRQ_OK;
    memset(s, 0, sizeof *s);
    s->be = be;
    s->size = plan->staging_bytes;
    s->slots = plan->overlap ? FLRQ_STAGING_SLOTS : 1;
    s->bytes = malloc(s->size);
    if (!s->bytes) FLRQ_GOTO(flrq_fail_memory(s->size, "packing"));
    for (int i = 0; i < s->slots; i++) {
        FLRQ_GOTO(be->alloc(be, &s->d_slot[i], s->size, "packing"));
        FLRQ_GOTO(be->host_alloc(be, &s->slot[i], s->size, "packing"));
    }
    if (plan->overlap) FLRQ_GOTO(be->lane_open(be, &s->lane));
    status = flrq_stage_open(&s->writer, "flrq writer", plan->overlap);
out:
    if (status != FLRQ_OK) flrq_staging_free(s);
    return status;
}

void flrq_staging_free(flrq_staging *s) {
    flrq_stage_close(s->writer);
    if (s->lane) s->be->lane_close(s->lane);
    for (int i = 0; i < s->slots; i++) {
        s->be->host_release(s->be, s->slot[i]);
        s->be->release(s->be, s->d_slot[i]);
    }
    free(s->bytes);
    memset(s, 0, sizeof *s);
}

/* The next slot, when the piece that was in it is written. */
static flrq_status take_slot(flrq_staging *s, int *slot) {
    *slot = s->next;
    s->next = (s->next + 1) % s->slots;
    if (!s->call[*slot]) return FLRQ_OK;
    return flrq_stage_wait(s->writer, s->call[*slot]);
}

void flrq_shard_name(char out[64], int64_t block, int64_t blocks) {
    snprintf(out, 64, "model-%05lld-of-%05lld.safetensors", (long long)(block + 2), (long long)(blocks + 1));
}

void flrq_factors_name(char out[64], int64_t block) {
    snprintf(out, 64, "lowrank-%05lld.safetensors", (long long)(block + 2));
}

/* "<dir>/<folder>/<name>"; NULL on out of memory. */
static char *path_in(const char *dir, const char *folder, const char *name) {
    char *inner = flrq_path_join(dir, folder), *path = inner ? flrq_path_join(inner, name) : NULL;
    free(inner);
    return path;
}

static int64_t words_of(int64_t cols, int bits) {
    return (cols * bits + 31) / 32;
}

/* ---- tensors of a layer (formats.md 2.1, 2.2, 5.1) --------------------------------------------------------------- */

typedef struct layer_handles {
    int packed, scale, shape, zero, lora_a, lora_b;
    int64_t rank;
} layer_handles;

static flrq_status declare(flrq_shard_writer *w, const char *module, const char *suffix, flrq_dtype dtype, int64_t rows,
                           int64_t cols, int *handle) {
    char name[1024];
    int64_t shape[2] = {rows, cols};
    int length = snprintf(name, sizeof name, "%s.%s", module, suffix);
    if (length < 0 || (size_t)length >= sizeof name)
        return flrq_fail(FLRQ_ERR_FORMAT, "tensor name of %d characters is too long: %.60s...", length, module);
    return flrq_shard_declare(w, name, dtype, cols ? 2 : 1, shape, handle);
}

static flrq_status declare_layer(flrq_shard_writer *w, const flrq_linear *l, const flrq_plan *plan, layer_handles *h) {
    const flrq_scheme *scheme = &plan->fit.scheme;
    int64_t groups = flrq_scheme_groups(scheme, l->cols);
    FLRQ_TRY(declare(w, l->module, "weight_packed", FLRQ_I32, l->rows, words_of(l->cols, scheme->bits), &h->packed));
    FLRQ_TRY(declare(w, l->module, "weight_scale", plan->scale_dtype, l->rows, groups, &h->scale));
    FLRQ_TRY(declare(w, l->module, "weight_shape", FLRQ_I64, 2, 0, &h->shape));
    if (!scheme->symmetric)
        FLRQ_TRY(
            declare(w, l->module, "weight_zero_point", FLRQ_I32, words_of(l->rows, scheme->bits), groups, &h->zero));
    return FLRQ_OK;
}

/* Zero points are packed along the output dimension: code of row o, group g is at bit o*bits of column g. */
static void pack_zeros(uint32_t *words, const uint8_t *zero, int64_t rows, int64_t groups, int bits) {
    memset(words, 0, (size_t)(words_of(rows, bits) * groups) * sizeof *words);
    for (int64_t o = 0; o < rows; o++)
        for (int64_t g = 0; g < groups; g++)
            words[o * bits / 32 * groups + g] |= (uint32_t)zero[o * groups + g] << (o * bits % 32);
}

static flrq_status declare_factors(flrq_shard_writer *w, const flrq_linear *l, flrq_dtype dtype, layer_handles *h) {
    char module[1024];
    snprintf(module, sizeof module, "base_model.model.%s", l->module);
    FLRQ_TRY(declare(w, module, "lora_A.weight", dtype, h->rank, l->cols, &h->lora_a));
    return declare(w, module, "lora_B.weight", dtype, l->rows, h->rank, &h->lora_b);
}

/* Copies this worker's share of a tensor's pieces of COPY_BYTES. */
static flrq_status copy_tensor(flrq_shard_writer *to, int handle, const flrq_checkpoint *from,
                               const flrq_tensor *tensor, void *buffer, int rank, int workers) {
    flrq_range pieces = flrq_share((int64_t)((tensor->bytes + COPY_BYTES - 1) / COPY_BYTES), rank, workers);
    for (int64_t i = pieces.first; i < pieces.first + pieces.count; i++) {
        uint64_t first = (uint64_t)i * COPY_BYTES;
        uint64_t bytes = tensor->bytes - first < COPY_BYTES ? tensor->bytes - first : COPY_BYTES;
        FLRQ_TRY(flrq_checkpoint_read(from, tensor, buffer, first, bytes));
        FLRQ_TRY(flrq_shard_write(to, handle, buffer, first, bytes));
    }
    return FLRQ_OK;
}

/* ---- the files of a block
 * ---------------------------------------------------------------------------------------- */

struct flrq_block_writer {
    const flrq_model *model;
    const flrq_plan *plan;
    flrq_staging *staging;
    int rank, workers;
    char *factors_path;
    flrq_shard_writer *shard, *factors;
    int64_t block, first_layer, n_layers;
    layer_handles *layers;
    int64_t first_other, others; /* model->others of this block are contiguous */
    int *other_handles;
};

void flrq_block_writer_abort(flrq_block_writer *w) {
    if (!w) return;
    flrq_shard_abort(w->factors);
    flrq_shard_abort(w->shard);
    free(w->factors_path);
    free(w->other_handles);
    free(w->layers);
    free(w);
}

/* The shard with all its tensors declared and laid out: created, or, on other ranks than 0, joined. */
static flrq_status open_shard(flrq_block_writer *w, const char *path) {
    FLRQ_TRY(w->rank == 0 ? flrq_shard_create(&w->shard, path, NULL) : flrq_shard_join(&w->shard, path, NULL));
    for (int64_t i = 0; i < w->n_layers; i++)
        FLRQ_TRY(declare_layer(w->shard, &w->model->linears[w->first_layer + i], w->plan, &w->layers[i]));
    for (int64_t i = 0; i < w->others; i++) {
        const flrq_other *o = &w->model->others[w->first_other + i];
        if (o->fate != FLRQ_FATE_COPY) continue;
        FLRQ_TRY(flrq_shard_declare(w->shard, o->name, o->tensor->dtype, o->tensor->dims, o->tensor->shape,
                                    &w->other_handles[i]));
    }
    return flrq_shard_begin(w->shard);
}

flrq_status flrq_block_writer_new(flrq_block_writer **out, const char *dir, const flrq_model *model,
                                  const flrq_plan *plan, flrq_staging *staging, flrq_comm *comm, int64_t block) {
    *out = NULL;
    flrq_status status = FLRQ_OK;
    char name[64];
    flrq_shard_name(name, block, model->layers);
    char *path = flrq_path_join(dir, name);
    flrq_block_writer *w = calloc(1, sizeof *w);
    if (!w || !path) FLRQ_GOTO(flrq_fail_memory(sizeof *w, "a block writer"));
    w->model = model, w->plan = plan, w->staging = staging, w->block = block;
    w->rank = comm->rank, w->workers = comm->size;
    if (block >= 0) {
        w->first_layer = model->block_first[block];
        w->n_layers = model->block_first[block + 1] - w->first_layer;
    }
    while (w->first_other < model->n_others && model->others[w->first_other].block < block) w->first_other++;
    while (w->first_other + w->others < model->n_others && model->others[w->first_other + w->others].block == block)
        w->others++;
    flrq_factors_name(name, block);
    w->factors_path = path_in(dir, ".flrq", name);
    w->layers = calloc((size_t)w->n_layers + 1, sizeof *w->layers);
    w->other_handles = calloc((size_t)w->others + 1, sizeof *w->other_handles);
    if (!w->factors_path || !w->layers || !w->other_handles)
        FLRQ_GOTO(flrq_fail_memory((size_t)w->n_layers, "a block writer"));
    if (w->rank == 0) FLRQ_GOTO(open_shard(w, path));
    FLRQ_GOTO(flrq_comm_barrier(comm));
    if (w->rank > 0) FLRQ_GOTO(open_shard(w, path));
out:
    free(path);
    if (status != FLRQ_OK) {
        flrq_block_writer_abort(w);
        return status;
    }
    *out = w;
    return FLRQ_OK;
}

/* ---- pieces: packed or copied into a slot by the thread that issues ops, taken out of it by the writer
 * ----------- */

typedef enum part { PART_PACKED, PART_SCALE, PART_ZERO, PART_LORA_A, PART_LORA_B } part;

/* Arguments of the writer's call. */
typedef struct piece {
    int64_t layer; /* within the block */
    part part;
    int slot;
    int64_t first, count; /* elements of the tensor: words, scales, cells of zero points, factor elements */
} piece;
_Static_assert(sizeof(piece) <= FLRQ_STAGE_ARGUMENTS, "a piece is the argument of a call");

/* Elements of 16 bits from fp32. */
static flrq_status write_halves(flrq_shard_writer *file, int handle, const piece *p, flrq_dtype dtype,
                                flrq_staging *s) {
    for (int64_t i = 0; i < p->count; i++) flrq_store(s->bytes, dtype, i, ((const float *)s->slot[p->slot])[i]);
    return flrq_shard_write(file, handle, s->bytes, (uint64_t)p->first * sizeof(uint16_t),
                            (uint64_t)p->count * sizeof(uint16_t));
}

/* All rows of the worker at once: their words do not share bits with those of other workers, for a chunk of rows fills
 * whole words. */
static flrq_status write_zeros(flrq_shard_writer *file, int handle, const piece *p, int64_t groups, int bits,
                               flrq_staging *s) {
    int64_t rows = p->count / groups, first = words_of(p->first / groups, bits) * groups;
    pack_zeros(s->bytes, s->slot[p->slot], rows, groups, bits);
    return flrq_shard_write(file, handle, s->bytes, (uint64_t)first * sizeof(uint32_t),
                            (uint64_t)(words_of(rows, bits) * groups) * sizeof(uint32_t));
}

static flrq_status fetch(flrq_staging *s, int slot, size_t bytes) {
    if (!s->lane) return s->be->download(s->be, s->slot[slot], s->d_slot[slot], bytes);
    uint64_t ticket;
    FLRQ_TRY(s->be->lane_download(s->lane, s->slot[slot], s->d_slot[slot], bytes, &ticket));
    return s->be->lane_wait(s->lane, ticket);
}

/* The writer's call for a piece. */
static flrq_status write_piece(void *context, const void *arguments) {
    flrq_block_writer *w = context;
    const piece *p = arguments;
    flrq_staging *s = w->staging;
    const flrq_linear *l = &w->model->linears[w->first_layer + p->layer];
    const layer_handles *h = &w->layers[p->layer];
    flrq_status status = fetch(s, p->slot, (size_t)p->count * (p->part == PART_ZERO ? 1 : 4));
    if (status == FLRQ_OK) switch (p->part) {
        case PART_PACKED:
            status = flrq_shard_write(w->shard, h->packed, s->slot[p->slot], (uint64_t)p->first * sizeof(int32_t),
                                      (uint64_t)p->count * sizeof(int32_t));
            break;
        case PART_SCALE:
            status = write_halves(w->shard, h->scale, p, w->plan->scale_dtype, s);
            break;
        case PART_ZERO:
            status = write_zeros(w->shard, h->zero, p, flrq_scheme_groups(&w->plan->fit.scheme, l->cols),
                                 w->plan->fit.scheme.bits, s);
            break;
        case PART_LORA_A:
            status = write_halves(w->factors, h->lora_a, p, w->plan->fit.factor_dtype, s);
            break;
        case PART_LORA_B:
            status = write_halves(w->factors, h->lora_b, p, w->plan->fit.factor_dtype, s);
            break;
        }
    return status == FLRQ_OK ? FLRQ_OK : flrq_trace(status, "tensor %s.weight", l->module);
}

/* Hands what the ops have put into the slot to the writer. */
static flrq_status send(flrq_block_writer *w, const piece *p) {
    flrq_staging *s = w->staging;
    if (s->lane) FLRQ_TRY(s->be->lane_after_ops(s->lane));
    return flrq_stage_call(s->writer, write_piece, w, p, sizeof *p, &s->call[p->slot]);
}

/* Sends a range of the elements of an array as they are, in as many pieces as slots ask for. */
static flrq_status send_array(flrq_block_writer *w, int64_t layer, part part, const void *d_from, flrq_range range,
                              size_t element) {
    flrq_staging *s = w->staging;
    int64_t step = (int64_t)(s->size / element), end = range.first + range.count;
    for (int64_t first = range.first; first < end; first += step) {
        piece p = {layer, part, 0, first, end - first < step ? end - first : step};
        FLRQ_TRY(take_slot(s, &p.slot));
        FLRQ_TRY(s->be->copy(s->be, s->d_slot[p.slot], (const char *)d_from + (size_t)first * element,
                             (size_t)p.count * element));
        FLRQ_TRY(send(w, &p));
    }
    return FLRQ_OK;
}

/* The writer's call for weight_shape. */
static flrq_status write_shape(void *context, const void *arguments) {
    flrq_block_writer *w = context;
    int64_t layer;
    memcpy(&layer, arguments, sizeof layer);
    const flrq_linear *l = &w->model->linears[w->first_layer + layer];
    int64_t shape[2] = {l->rows, l->cols};
    flrq_status status = flrq_shard_write(w->shard, w->layers[layer].shape, shape, 0, sizeof shape);
    return status == FLRQ_OK ? FLRQ_OK : flrq_trace(status, "tensor %s.weight", l->module);
}

flrq_status flrq_block_writer_layer(flrq_block_writer *w, int64_t index, const flrq_layer *layer) {
    const flrq_codes *codes = &layer->codes;
    flrq_staging *s = w->staging;
    flrq_range own = flrq_share_rows(codes->rows, w->rank, w->workers);
    flrq_range cells = {own.first * codes->n_groups, own.count * codes->n_groups};
    int64_t words = words_of(codes->cols, codes->bits), end = own.first + own.count;
    for (int64_t row = own.first; row < end; row += FLRQ_CHUNK_ROWS) {
        int64_t rows = end - row < FLRQ_CHUNK_ROWS ? end - row : FLRQ_CHUNK_ROWS;
        piece p = {index, PART_PACKED, 0, row * words, rows * words};
        FLRQ_TRY(take_slot(s, &p.slot));
        FLRQ_TRY(
            s->be->pack(s->be, s->d_slot[p.slot], codes->code + row * codes->cols, rows, codes->cols, codes->bits));
        FLRQ_TRY(send(w, &p));
    }
    FLRQ_TRY(send_array(w, index, PART_SCALE, codes->scale, cells, sizeof(float)));
    if (w->rank == 0) FLRQ_TRY(flrq_stage_call(s->writer, write_shape, w, &index, sizeof index, NULL));
    return codes->symmetric ? FLRQ_OK : send_array(w, index, PART_ZERO, codes->zero, cells, 1);
}

/* The writer's call that begins the factors' file, when all ranks are known. */
static flrq_status begin_factors(void *context, const void *arguments) {
    flrq_block_writer *w = context;
    (void)arguments;
    FLRQ_TRY(flrq_shard_create(&w->factors, w->factors_path, NULL));
    for (int64_t i = 0; i < w->n_layers; i++)
        if (w->layers[i].rank)
            FLRQ_TRY(declare_factors(w->factors, &w->model->linears[w->first_layer + i], w->plan->fit.factor_dtype,
                                     &w->layers[i]));
    return flrq_shard_begin(w->factors);
}

flrq_status flrq_block_writer_factors(flrq_block_writer *w, const flrq_layer *layers) {
    for (int64_t i = 0; i < w->n_layers; i++) w->layers[i].rank = layers[i].rank; /* not read before begin_factors() */
    FLRQ_TRY(flrq_stage_call(w->staging->writer, begin_factors, w, NULL, 0, NULL));
    for (int64_t i = 0; i < w->n_layers; i++) {
        const flrq_layer *l = &layers[i];
        FLRQ_TRY(send_array(w, i, PART_LORA_A, l->d_r, (flrq_range){0, l->rank * l->linear->cols}, sizeof(float)));
        FLRQ_TRY(send_array(w, i, PART_LORA_B, l->d_l, (flrq_range){0, l->linear->rows * l->rank}, sizeof(float)));
    }
    return FLRQ_OK;
}

flrq_status flrq_block_writer_part(flrq_block_writer *w, uint64_t *bytes) {
    for (int64_t i = 0; i < w->others; i++) {
        const flrq_other *o = &w->model->others[w->first_other + i];
        if (o->fate != FLRQ_FATE_COPY) continue;
        FLRQ_TRY(copy_tensor(w->shard, w->other_handles[i], w->model->checkpoint, o->tensor, w->staging->bytes, w->rank,
                             w->workers));
    }
    *bytes = 0;
    if (w->rank == 0) return FLRQ_OK;
    flrq_shard_writer *shard = w->shard;
    w->shard = NULL;
    return flrq_shard_leave(shard, bytes);
}

flrq_status flrq_block_writer_finish(flrq_block_writer *w, uint64_t others, uint64_t *hash, uint64_t *factors_hash) {
    *hash = *factors_hash = 0;
    flrq_shard_add_written(w->shard, others);
    flrq_status status = flrq_shard_finish(w->shard, hash);
    w->shard = NULL;
    if (status == FLRQ_OK && w->factors) {
        status = flrq_shard_finish(w->factors, factors_hash);
        w->factors = NULL;
    }
    flrq_block_writer_abort(w);
    return status;
}

/* ---- adapter, index, config
 * --------------------------------------------------------------------------------------------- */

static flrq_status merge_factors(const char *dir, const flrq_model *model) {
    flrq_status status = FLRQ_OK;
    flrq_shard_writer *w = NULL;
    flrq_checkpoint **parts = calloc((size_t)model->layers, sizeof *parts);
    void *buffer = malloc(COPY_BYTES);
    int *handles = NULL;
    int64_t total = 0;
    char *path = path_in(dir, "lowrank", "adapter_model.safetensors"), name[64];
    if (!parts || !buffer || !path) FLRQ_GOTO(flrq_fail_memory(COPY_BYTES, "the adapter"));
    for (int64_t b = 0; b < model->layers; b++) {
        flrq_factors_name(name, b);
        char *part = path_in(dir, ".flrq", name);
        status = part ? flrq_checkpoint_open(&parts[b], part) : flrq_fail_memory(0, "a path");
        free(part);
        if (status != FLRQ_OK) goto out;
        total += parts[b]->n_tensors;
    }
    handles = malloc((size_t)(total + 1) * sizeof *handles);
    if (!handles) FLRQ_GOTO(flrq_fail_memory((size_t)total * sizeof *handles, "the adapter"));
    FLRQ_GOTO(flrq_shard_create(&w, path, NULL));
    total = 0;
    for (int64_t b = 0; b < model->layers; b++)
        for (int64_t i = 0; i < parts[b]->n_tensors; i++) {
            const flrq_tensor *t = &parts[b]->tensors[i];
            FLRQ_GOTO(flrq_shard_declare(w, t->name, t->dtype, t->dims, t->shape, &handles[total++]));
        }
    FLRQ_GOTO(flrq_shard_begin(w));
    total = 0;
    for (int64_t b = 0; b < model->layers; b++)
        for (int64_t i = 0; i < parts[b]->n_tensors; i++)
            FLRQ_GOTO(copy_tensor(w, handles[total++], parts[b], &parts[b]->tensors[i], buffer, 0, 1));
    uint64_t hash;
    status = flrq_shard_finish(w, &hash);
    w = NULL;
out:
    flrq_shard_abort(w);
    free(handles);
    free(path);
    free(buffer);
    for (int64_t b = 0; parts && b < model->layers; b++) flrq_checkpoint_close(parts[b]);
    free(parts);
    return status;
}

flrq_status flrq_output_adapter(const char *dir, const flrq_model *model, const flrq_plan *plan, const int64_t *ranks) {
    int64_t largest = 0;
    for (int64_t i = 0; i < model->n_linears; i++)
        if (ranks[i] > largest) largest = ranks[i];
    if (largest == 0) return FLRQ_OK;
    char *folder = flrq_path_join(dir, "lowrank");
    flrq_status status = folder ? flrq_dir_make(folder) : flrq_fail_memory(0, "a path");
    free(folder);
    FLRQ_TRY(status);
    FLRQ_TRY(merge_factors(dir, model));
    json_t *targets = json_array(), *pattern = json_object();
    for (int64_t i = 0; i < model->n_linears; i++) {
        if (!ranks[i]) continue;
        json_array_append_new(targets, json_string(model->linears[i].module));
        if (ranks[i] != largest) json_object_set_new(pattern, model->linears[i].module, json_integer(ranks[i]));
    }
    /* Every alpha equals its rank: the factors carry the whole scale, so that engines which ignore the patterns agree.
     */
    json_t *config = json_pack(
        "{s:s, s:s, s:n, s:b, s:I, s:I, s:f, s:s, s:b, s:b, s:b, s:b, s:n, s:n, s:n, s:o, s:O, s:O}", "peft_type",
        "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", "inference_mode", 1, "r", (json_int_t)largest,
        "lora_alpha", (json_int_t)largest, "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", 0, "use_rslora", 0,
        "use_dora", 0, "init_lora_weights", 1, "modules_to_save", "layers_to_transform", "layers_pattern",
        "target_modules", targets, "rank_pattern", pattern, "alpha_pattern", pattern);
    json_decref(pattern);
    if (!config) return flrq_fail_memory(0, "the adapter's config");
    char *path = path_in(dir, "lowrank", "adapter_config.json");
    status = path ? flrq_json_write(path, config) : flrq_fail_memory(0, "a path");
    free(path);
    json_decref(config);
    return status;
}

flrq_status flrq_output_index(const char *dir, const flrq_model *model, const flrq_plan *plan) {
    flrq_status status = FLRQ_OK;
    int64_t count = 0, capacity = 4 * model->n_linears + model->n_others + 1;
    const char **names = calloc((size_t)capacity, sizeof *names), **files = calloc((size_t)capacity, sizeof *files);
    flrq_checkpoint **shards = calloc((size_t)model->layers + 1, sizeof *shards);
    char(*shard_names)[64] = calloc((size_t)model->layers + 1, sizeof *shard_names);
    char *path = flrq_path_join(dir, "model.safetensors.index.json");
    uint64_t total = 0;
    if (!names || !files || !shards || !shard_names || !path)
        FLRQ_GOTO(flrq_fail_memory((size_t)capacity * sizeof *names, "the index"));
    for (int64_t b = 0; b <= model->layers; b++) {
        flrq_shard_name(shard_names[b], b - 1, model->layers);
        char *shard = flrq_path_join(dir, shard_names[b]);
        status = shard ? flrq_checkpoint_open(&shards[b], shard) : flrq_fail_memory(0, "a path");
        free(shard);
        if (status != FLRQ_OK) goto out;
        for (int64_t i = 0; i < shards[b]->n_tensors; i++) {
            if (count == capacity) FLRQ_GOTO(flrq_fail(FLRQ_ERR_INTERNAL, "more tensors than planned in %s", dir));
            names[count] = shards[b]->tensors[i].name;
            files[count++] = shard_names[b];
            total += shards[b]->tensors[i].bytes;
        }
    }
    FLRQ_GOTO(flrq_index_write(path, count, names, files, total));
out:
    for (int64_t b = 0; shards && b <= model->layers; b++) flrq_checkpoint_close(shards[b]);
    free(path);
    free(shard_names);
    free(shards);
    free(files);
    free(names);
    return status;
}

/* Linear modules that stay as they are: 2-D weights outside the quantized set which no embedding owns. Engines must be
 * told, or they would look for packed tensors. */
static json_t *ignore_list(const flrq_model *model) {
    json_t *ignore = json_array();
    int head = 0;
    for (int64_t i = 0; i < model->n_others; i++) {
        const flrq_other *o = &model->others[i];
        size_t length = strlen(o->name);
        if (o->tensor->dims != 2 || length < 7 || strcmp(o->name + length - 7, ".weight") != 0) continue;
        if (strstr(o->name, "embed") || strstr(o->name, "wte") || strstr(o->name, "wpe")) continue;
        json_array_append_new(ignore, json_stringn(o->name, length - 7));
        head |= strcmp(o->name, "lm_head.weight") == 0;
    }
    if (!head) json_array_append_new(ignore, json_string("lm_head")); /* tied: no tensor, but still a module */
    return ignore;
}

flrq_status flrq_output_config(const char *path, const flrq_model *model, const flrq_plan *plan) {
    const flrq_scheme *scheme = &plan->fit.scheme;
    json_t *weights = json_pack("{s:i, s:s, s:b, s:s, s:o, s:b, s:n, s:n, s:s, s:{}}", "num_bits", scheme->bits, "type",
                                "int", "symmetric", scheme->symmetric, "strategy", scheme->group ? "group" : "channel",
                                "group_size", scheme->group ? json_integer(scheme->group) : json_null(), "dynamic", 0,
                                "actorder", "block_structure", "observer", "minmax", "observer_kwargs");
    json_t *quantization = json_pack(
        "{s:s, s:s, s:s, s:s, s:n, s:n, s:o, s:{s:{s:[s], s:o, s:n, s:n}}}", "quant_method", "compressed-tensors",
        "version", "0.18.0", "format", "pack-quantized", "quantization_status", "compressed",
        "global_compression_ratio", "kv_cache_scheme", "ignore", ignore_list(model), "config_groups", "group_0",
        "targets", "Linear", "weights", weights, "input_activations", "output_activations");
    json_t *config = json_copy(model->config);
    if (!quantization || !config || json_object_set_new(config, "quantization_config", quantization) != 0) {
        json_decref(config);
        return flrq_fail_memory(0, "config.json");
    }
    flrq_status status = flrq_json_write(path, config);
    json_decref(config);
    return status;
}

flrq_status flrq_output_copy_files(const char *dir, const flrq_model *model, json_t **copied) {
    static const char *const names[] = {
        "generation_config.json",  "tokenizer.json",    "tokenizer.model", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "vocab.json",      "merges.txt",
        "chat_template.jinja",     "chat_template.json"};
    *copied = json_array();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *from = flrq_path_join(model->dir, names[i]), *to = flrq_path_join(dir, names[i]);
        flrq_status status = from && to ? FLRQ_OK : flrq_fail_memory(0, "a path");
        if (status == FLRQ_OK && flrq_path_exists(from)) {
            status = flrq_file_copy(from, to);
            json_array_append_new(*copied, json_string(names[i]));
        }
        free(from);
        free(to);
        if (status != FLRQ_OK) return status;
    }
    return FLRQ_OK;
}
