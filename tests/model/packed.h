/* packed.h - makes quantized folders for tests: a stored model, packed with a packer written bit by bit from the
 * definition of the stream (formats.md 2.2), so that reader and writer of the program cannot share a mistake, beside
 * the dense fp32 model that it stands for.
 */
#ifndef TESTS_MODEL_PACKED_H
#define TESTS_MODEL_PACKED_H

#include <math.h>
#include "model/folder.h"

typedef struct recipe {
    const char *folder;
    int bits, symmetric, group; /* group 0: per channel */
    int rank;                   /* of even layers of the adapter; odd ones get rank + 1; 0: no adapter */
    flrq_dtype scale;
    double alpha; /* lora_alpha / r */
} recipe;

/** A source model, its quantized form, and the dense fp32 model that the quantized form stands for. */
typedef struct pair {
    folder *packed, *dense, *adapter; /* adapter->config is adapter_config.json */
} pair;

static uint32_t noise_state;
static float noise(void) {
    noise_state = noise_state * 1664525 + 1013904223;
    return (float)(int32_t)noise_state / 2147483648.0f;
}

/** Sets the bits [at, at + bits) of a stream of words. */
static inline void put_bits(uint32_t *words, int64_t at, int bits, uint32_t code) {
    for (int b = 0; b < bits; b++)
        if (code >> b & 1) words[(at + b) / 32] |= 1u << ((at + b) % 32);
}

static int64_t words_for(int64_t count, int bits) {
    return (count * bits + 31) / 32;
}

/** Quantizes one weight of p->packed: removes <module>.weight, adds its packed tensors, sets the dense one to what they
 * say. */
static inline void pack_layer(pair *p, const recipe *r, const char *module, int index) {
    char name[255];
    snprintf(name, sizeof name, "%s.weight", module);
    folder_tensor *dense = folder_find(p->dense, name);
    int64_t rows = dense->shape[0], cols = dense->shape[1], group = r->group ? r->group : cols;
    int64_t groups = (cols + group - 1) / group, row_words = words_for(cols, r->bits);
    int levels = 1 << r->bits;
    float *w = dense->data;
    folder_remove(p->packed, name);
    snprintf(name, sizeof name, "%s.weight_packed", module);
    uint32_t *words = folder_add(p->packed, name, FLRQ_I32, 2, rows, row_words, NULL)->data;
    snprintf(name, sizeof name, "%s.weight_scale", module);
    void *scales = folder_add(p->packed, name, r->scale, 2, rows, groups, NULL)->data;
    snprintf(name, sizeof name, "%s.weight_shape", module);
    folder_add(p->packed, name, FLRQ_I64, 1, 2, 0, (int64_t[]){rows, cols});
    uint32_t *zeros = NULL;
    if (!r->symmetric) {
        snprintf(name, sizeof name, "%s.weight_zero_point", module);
        zeros = folder_add(p->packed, name, FLRQ_I32, 2, words_for(rows, r->bits), groups, NULL)->data;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t begin = g * group, end = begin + group < cols ? begin + group : cols;
            float low = w[i * cols + begin], high = low;
            for (int64_t j = begin; j < end; j++) {
                if (w[i * cols + j] < low) low = w[i * cols + j];
                if (w[i * cols + j] > high) high = w[i * cols + j];
            }
            float scale = r->symmetric ? fmaxf(-low, high) / (float)(levels / 2) : (high - low) / (float)(levels - 1);
            scale = flrq_round_scale(scale);
            int zero = levels / 2;
            if (!r->symmetric) {
                zero = (int)fminf(fmaxf(rintf(-low / scale), 0), (float)(levels - 1));
                for (int b = 0; b < r->bits; b++) /* down the column: bit i*bits + b of column g */
                    if (zero >> b & 1) zeros[(i * r->bits + b) / 32 * groups + g] |= 1u << ((i * r->bits + b) % 32);
            }
            flrq_store(scales, r->scale, i * groups + g, scale);
            for (int64_t j = begin; j < end; j++) {
                int code = (int)fminf(fmaxf(rintf(w[i * cols + j] / scale) + (float)zero, 0), (float)(levels - 1));
                put_bits(words + i * row_words, j * r->bits, r->bits, (uint32_t)code);
                w[i * cols + j] = scale * (float)(code - zero);
            }
        }
    if (!r->rank) return;
    int rank = r->rank + index % 2;
    snprintf(name, sizeof name, "base_model.model.%s.lora_A.weight", module);
    void *a = folder_add(p->adapter, name, FLRQ_F16, 2, rank, cols, NULL)->data;
    snprintf(name, sizeof name, "base_model.model.%s.lora_B.weight", module);
    void *b = folder_add(p->adapter, name, FLRQ_BF16, 2, rows, rank, NULL)->data;
    for (int64_t k = 0; k < rank * cols; k++) flrq_store(a, FLRQ_F16, k, 0.2f * noise());
    for (int64_t k = 0; k < rows * rank; k++) flrq_store(b, FLRQ_BF16, k, 0.2f * noise());
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            double sum = 0;
            for (int k = 0; k < rank; k++)
                sum += (double)flrq_load(b, FLRQ_BF16, i * rank + k) * flrq_load(a, FLRQ_F16, k * cols + j);
            w[i * cols + j] += (float)(r->alpha * sum);
        }
    if (index % 2 == 0) return;
    json_object_set_new(json_object_get(p->adapter->config, "rank_pattern"), module, json_integer(rank));
    json_object_set_new(json_object_get(p->adapter->config, "alpha_pattern"), module, json_real(r->alpha * rank));
}

static inline json_t *quantization_config(const recipe *r) {
    json_t *group = r->group ? json_integer(r->group) : json_null();
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:n, s:n, s:[s], s:{s:{s:[s], s:{s:i, s:s, s:b, s:s, s:o, s:b, s:n, s:s}, s:n, s:n}}}",
        "quant_method", "compressed-tensors", "version", "0.18.0", "format", "pack-quantized", "quantization_status",
        "compressed", "global_compression_ratio", "kv_cache_scheme", "ignore", "lm_head", "config_groups", "group_0",
        "targets", "Linear", "weights", "num_bits", r->bits, "type", "int", "symmetric", r->symmetric, "strategy",
        r->group ? "group" : "channel", "group_size", group, "dynamic", 0, "actorder", "observer", "minmax",
        "input_activations", "output_activations");
}

/** A linear weight of a block, by name; returns the length of its module name or 0. */
static size_t layer_weight(const char *name) {
    size_t n = strlen(name);
    if (!strstr(name, "layers.") || strstr(name, "norm") || n < 8 || strcmp(name + n - 7, ".weight") != 0) return 0;
    return n - 7;
}

static inline pair make_pair(const recipe *r) {
    pair p = {folder_read(r->folder), folder_read(r->folder), calloc(1, sizeof(folder))};
    noise_state = 12345;
    p.adapter->config =
        json_pack("{s:s, s:s, s:i, s:f, s:{}, s:{}, s:b, s:b, s:s, s:n, s:[s]}", "peft_type", "LORA", "task_type",
                  "CAUSAL_LM", "r", r->rank, "lora_alpha", r->alpha * r->rank, "rank_pattern", "alpha_pattern",
                  "use_rslora", 0, "use_dora", 0, "bias", "none", "modules_to_save", "target_modules", "q_proj");
    for (int i = 0; i < p.dense->n; i++) {
        char module[200];
        size_t length = layer_weight(p.dense->tensors[i].name);
        if (length == 0) continue;
        memcpy(module, p.dense->tensors[i].name, length);
        module[length] = '\0';
        pack_layer(&p, r, module, i);
    }
    json_object_set_new(p.packed->config, "quantization_config", quantization_config(r));
    return p;
}

static inline const char *write_packed(const pair *p) {
    const char *dir = folder_write(p->packed);
    char path[512];
    if (p->adapter->n == 0) return dir;
    snprintf(path, sizeof path, "%s/lowrank", dir);
    assert_int_equal(flrq_dir_make(path), FLRQ_OK);
    snprintf(path, sizeof path, "%s/lowrank/adapter_config.json", dir);
    assert_int_equal(flrq_json_write(path, p->adapter->config), FLRQ_OK);
    snprintf(path, sizeof path, "%s/lowrank/adapter_model.safetensors", dir);
    folder_write_tensors(path, p->adapter);
    return dir;
}

static inline void free_pair(pair *p) {
    folder_free(p->packed);
    folder_free(p->dense);
    folder_free(p->adapter);
}

#endif
