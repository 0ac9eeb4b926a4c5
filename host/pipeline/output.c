/* output.c - writes the files of an output folder. */
#include "pipeline/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"

flrq_status flrq_staging_new(flrq_staging *s, flrq_backend *be, const flrq_plan *plan) {
    memset(s, 0, sizeof *s);
    s->size = plan->staging_bytes;
    s->words = malloc(s->size);
    s->bytes = malloc(s->size);
    if (!s->words || !s->bytes) return flrq_fail_memory(s->size, "packing");
    return be->alloc(be, &s->d_words, s->size, "packing");
}

void flrq_staging_free(flrq_staging *s, flrq_backend *be) {
    be->release(be, s->d_words);
    free(s->bytes);
    free(s->words);
    memset(s, 0, sizeof *s);
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

/* ---- a packed layer: declaration and data (formats.md 2.1, 2.2)
 * ------------------------------------------------------- */

typedef struct layer_handles {
    int packed, scale, shape, zero;
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

static flrq_status write_layer(flrq_shard_writer *w, const flrq_layer *layer, const layer_handles *h,
                               const flrq_plan *plan, flrq_backend *be, flrq_staging *s) {
    const flrq_codes *codes = &layer->codes;
    int bits = codes->bits;
    int64_t words = words_of(codes->cols, bits), cells = codes->rows * codes->n_groups;
    for (int64_t row = 0; row < codes->rows; row += FLRQ_CHUNK_ROWS) {
        int64_t rows = codes->rows - row < FLRQ_CHUNK_ROWS ? codes->rows - row : FLRQ_CHUNK_ROWS;
        uint64_t bytes = (uint64_t)(rows * words) * sizeof(int32_t);
        FLRQ_TRY(be->pack(be, s->d_words, codes->code + row * codes->cols, rows, codes->cols, bits));
        FLRQ_TRY(be->download(be, s->words, s->d_words, bytes));
        FLRQ_TRY(flrq_shard_write(w, h->packed, s->words, (uint64_t)(row * words) * sizeof(int32_t), bytes));
    }
    FLRQ_TRY(be->download(be, s->words, codes->scale, (size_t)cells * sizeof(float)));
    for (int64_t i = 0; i < cells; i++) flrq_store(s->bytes, plan->scale_dtype, i, ((const float *)s->words)[i]);
    FLRQ_TRY(flrq_shard_write(w, h->scale, s->bytes, 0, (uint64_t)cells * sizeof(uint16_t)));
    int64_t shape[2] = {codes->rows, codes->cols};
    FLRQ_TRY(flrq_shard_write(w, h->shape, shape, 0, sizeof shape));
    if (codes->symmetric) return FLRQ_OK;
    FLRQ_TRY(be->download(be, s->words, codes->zero, (size_t)cells));
    pack_zeros(s->bytes, s->words, codes->rows, codes->n_groups, bits);
    return flrq_shard_write(w, h->zero, s->bytes, 0,
                            (uint64_t)(words_of(codes->rows, bits) * codes->n_groups) * sizeof(uint32_t));
}

/* ---- L and R
 * ------------------------------------------------------------------------------------------------------------ */

static flrq_status declare_factors(flrq_shard_writer *w, const flrq_layer *layer, flrq_dtype dtype, int handle[2]) {
    char module[1024];
    snprintf(module, sizeof module, "base_model.model.%s", layer->linear->module);
    FLRQ_TRY(declare(w, module, "lora_A.weight", dtype, layer->rank, layer->linear->cols, &handle[0]));
    return declare(w, module, "lora_B.weight", dtype, layer->linear->rows, layer->rank, &handle[1]);
}

static flrq_status write_factor(flrq_shard_writer *w, int handle, const float *d_factor, int64_t count,
                                flrq_dtype dtype, flrq_backend *be, flrq_staging *s) {
    int64_t step = (int64_t)(s->size / sizeof(float));
    for (int64_t first = 0; first < count; first += step) {
        int64_t n = count - first < step ? count - first : step;
        FLRQ_TRY(be->download(be, s->words, d_factor + first, (size_t)n * sizeof(float)));
        for (int64_t i = 0; i < n; i++) flrq_store(s->bytes, dtype, i, ((const float *)s->words)[i]);
        FLRQ_TRY(
            flrq_shard_write(w, handle, s->bytes, (uint64_t)first * sizeof(uint16_t), (uint64_t)n * sizeof(uint16_t)));
    }
    return FLRQ_OK;
}

static flrq_status copy_tensor(flrq_shard_writer *to, int handle, const flrq_checkpoint *from,
                               const flrq_tensor *tensor, void *buffer, size_t size) {
    for (uint64_t first = 0; first < tensor->bytes; first += size) {
        uint64_t bytes = tensor->bytes - first < size ? tensor->bytes - first : size;
        FLRQ_TRY(flrq_checkpoint_read(from, tensor, buffer, first, bytes));
        FLRQ_TRY(flrq_shard_write(to, handle, buffer, first, bytes));
    }
    return FLRQ_OK;
}

/* ---- shards
 * ---------------------------------------------------------------------------------------------------------- */

struct flrq_block_writer {
    const flrq_model *model;
    const flrq_plan *plan;
    flrq_shard_writer *shard;
    int64_t block;
    layer_handles *layers;
    int64_t first_other, others; /* model->others of this block are contiguous */
    int *other_handles;
};

void flrq_block_writer_abort(flrq_block_writer *w) {
    if (!w) return;
    flrq_shard_abort(w->shard);
    free(w->other_handles);
    free(w->layers);
    free(w);
}

flrq_status flrq_block_writer_new(flrq_block_writer **out, const char *dir, const flrq_model *model,
                                  const flrq_plan *plan, int64_t block) {
    *out = NULL;
    flrq_status status = FLRQ_OK;
    char name[64];
    flrq_shard_name(name, block, model->layers);
    char *path = flrq_path_join(dir, name);
    flrq_block_writer *w = calloc(1, sizeof *w);
    if (!w || !path) FLRQ_GOTO(flrq_fail_memory(sizeof *w, "a block writer"));
    w->model = model, w->plan = plan, w->block = block;
    int64_t first = block < 0 ? 0 : model->block_first[block],
            layers = block < 0 ? 0 : model->block_first[block + 1] - first;
    while (w->first_other < model->n_others && model->others[w->first_other].block < block) w->first_other++;
    while (w->first_other + w->others < model->n_others && model->others[w->first_other + w->others].block == block)
        w->others++;
    w->layers = calloc((size_t)layers + 1, sizeof *w->layers);
    w->other_handles = calloc((size_t)w->others + 1, sizeof *w->other_handles);
    if (!w->layers || !w->other_handles) FLRQ_GOTO(flrq_fail_memory((size_t)layers, "a block writer"));
    FLRQ_GOTO(flrq_shard_create(&w->shard, path, NULL));
    for (int64_t i = 0; i < layers; i++)
        FLRQ_GOTO(declare_layer(w->shard, &model->linears[first + i], plan, &w->layers[i]));
    for (int64_t i = 0; i < w->others; i++) {
        const flrq_other *o = &model->others[w->first_other + i];
        if (o->fate != FLRQ_FATE_COPY) continue;
        FLRQ_GOTO(flrq_shard_declare(w->shard, o->name, o->tensor->dtype, o->tensor->dims, o->tensor->shape,
                                     &w->other_handles[i]));
    }
    FLRQ_GOTO(flrq_shard_begin(w->shard));
out:
    free(path);
    if (status != FLRQ_OK) {
        flrq_block_writer_abort(w);
        return status;
    }
    *out = w;
    return FLRQ_OK;
}

flrq_status flrq_block_writer_layer(flrq_block_writer *w, int64_t index, const flrq_layer *layer, flrq_backend *be,
                                    flrq_staging *staging) {
    return write_layer(w->shard, layer, &w->layers[index], w->plan, be, staging);
}

flrq_status flrq_block_writer_finish(flrq_block_writer *w, flrq_staging *staging, uint64_t *hash) {
    flrq_status status = FLRQ_OK;
    for (int64_t i = 0; i < w->others; i++) {
        const flrq_other *o = &w->model->others[w->first_other + i];
        if (o->fate != FLRQ_FATE_COPY) continue;
        FLRQ_GOTO(
            copy_tensor(w->shard, w->other_handles[i], w->model->checkpoint, o->tensor, staging->bytes, staging->size));
    }
    status = flrq_shard_finish(w->shard, hash);
    w->shard = NULL;
out:
    flrq_block_writer_abort(w);
    return status;
}

flrq_status flrq_output_factors(const char *dir, int64_t block, const flrq_layer *layers, int64_t count,
                                const flrq_plan *plan, flrq_backend *be, flrq_staging *staging, uint64_t *hash) {
    char name[64];
    flrq_shard_writer *w = NULL;
    flrq_status status = FLRQ_OK;
    flrq_factors_name(name, block);
    char *path = path_in(dir, ".flrq", name);
    int(*handles)[2] = malloc((size_t)(count + 1) * sizeof *handles);
    if (!path || !handles) FLRQ_GOTO(flrq_fail_memory((size_t)count * sizeof *handles, "the factors file"));
    FLRQ_GOTO(flrq_shard_create(&w, path, NULL));
    for (int64_t i = 0; i < count; i++)
        if (layers[i].rank) FLRQ_GOTO(declare_factors(w, &layers[i], plan->fit.factor_dtype, handles[i]));
    FLRQ_GOTO(flrq_shard_begin(w));
    for (int64_t i = 0; i < count; i++) {
        const flrq_layer *l = &layers[i];
        if (!l->rank) continue;
        FLRQ_GOTO(
            write_factor(w, handles[i][0], l->d_r, l->rank * l->linear->cols, plan->fit.factor_dtype, be, staging));
        FLRQ_GOTO(
            write_factor(w, handles[i][1], l->d_l, l->linear->rows * l->rank, plan->fit.factor_dtype, be, staging));
    }
    status = flrq_shard_finish(w, hash);
    w = NULL;
out:
    flrq_shard_abort(w);
    free(handles);
    free(path);
    return status;
}

/* ---- adapter, index, config
 * --------------------------------------------------------------------------------------------- */

static flrq_status merge_factors(const char *dir, const flrq_model *model) {
    flrq_status status = FLRQ_OK;
    flrq_shard_writer *w = NULL;
    enum { BUFFER = 1 << 20 };
    flrq_checkpoint **parts = calloc((size_t)model->layers, sizeof *parts);
    void *buffer = malloc(BUFFER);
    int *handles = NULL;
    int64_t total = 0;
    char *path = path_in(dir, "lowrank", "adapter_model.safetensors"), name[64];
    if (!parts || !buffer || !path) FLRQ_GOTO(flrq_fail_memory(BUFFER, "the adapter"));
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
            FLRQ_GOTO(copy_tensor(w, handles[total++], parts[b], &parts[b]->tensors[i], buffer, BUFFER));
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
