/* bench_model.c - see bench_model.h.
 *
 * The shards are written here rather than with io/safetensors.h: that writer flushes, reads back and hashes every file,
 * as a product must, and a bench of 13 GB need not. A shard is laid out first, so that the bytes of a tensor go to the
 * same place of every block's shard as soon as they exist, and no more than one tensor is in memory.
 *
 * What must not change: the random numbers of a weight follow from the seed and the name of its module within the
 * block, so that the bytes of a shape stay the same when others are added.
 */
#include "pipeline/bench_model.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/dtype.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "io/npy.h"
#include "io/safetensors.h"
#include "pipeline/bench.h"
#include "pipeline/bench_matrices.h"

#define LLAMA FLRQ_BENCH_LLAMA
#define QWEN2 FLRQ_BENCH_QWEN2
#define OPT   FLRQ_BENCH_OPT
const flrq_bench_shape flrq_bench_shapes[FLRQ_BENCH_SHAPES] = {
    {"llama2-7b", LLAMA, 4096, 11008, 32, 32, 32, 32000, 4096, 1e4},
    {"llama2-13b", LLAMA, 5120, 13824, 40, 40, 40, 32000, 4096, 1e4},
    {"llama2-70b", LLAMA, 8192, 28672, 80, 64, 8, 32000, 4096, 1e4},
    {"llama3-8b", LLAMA, 4096, 14336, 32, 32, 8, 128256, 8192, 5e5},
    {"llama3-70b", LLAMA, 8192, 28672, 80, 64, 8, 128256, 8192, 5e5},
    {"opt-1.3b", OPT, 2048, 8192, 24, 32, 32, 50272, 2048, 0},
    {"opt-2.7b", OPT, 2560, 10240, 32, 32, 32, 50272, 2048, 0},
    {"opt-6.7b", OPT, 4096, 16384, 32, 32, 32, 50272, 2048, 0},
    {"opt-13b", OPT, 5120, 20480, 40, 40, 40, 50272, 2048, 0},
    {"opt-30b", OPT, 7168, 28672, 48, 56, 56, 50272, 2048, 0},
    {"opt-66b", OPT, 9216, 36864, 64, 72, 72, 50272, 2048, 0},
    {"qwen2.5-72b", QWEN2, 8192, 29568, 80, 64, 8, 152064, 32768, 1e6},
    {"tiny", LLAMA, 256, 512, 4, 4, 2, 512, 2048, 1e4},
    {"tiny-opt", OPT, 256, 1024, 4, 4, 4, 512, 2048, 0},
    {"tiny-qwen2", QWEN2, 256, 512, 4, 4, 2, 512, 2048, 1e6},
};

/* ---- families ---------------------------------------------------------------------------------------------------- */

/* Extents of a tensor. */
typedef enum extent { NONE, HIDDEN, KEYS, FFN, VOCAB, POSITIONS } extent;

/* What its values are. HEAD: those of TOKENS. */
typedef enum filling { LINEAR, NORM, BIAS, TOKENS, HEAD, PLACES } filling;

/* A tensor, MODULE.weight or, filled with BIAS, MODULE.bias. The names of a block's stand behind its number. */
typedef struct piece {
    const char *module;
    filling filling;
    extent rows, cols; /* cols NONE: a vector */
} piece;

static const piece llama_block[] = {
    {"self_attn.q_proj", LINEAR, HIDDEN, HIDDEN},    {"self_attn.k_proj", LINEAR, KEYS, HIDDEN},
    {"self_attn.v_proj", LINEAR, KEYS, HIDDEN},      {"self_attn.o_proj", LINEAR, HIDDEN, HIDDEN},
    {"mlp.gate_proj", LINEAR, FFN, HIDDEN},          {"mlp.up_proj", LINEAR, FFN, HIDDEN},
    {"mlp.down_proj", LINEAR, HIDDEN, FFN},          {"input_layernorm", NORM, HIDDEN, NONE},
    {"post_attention_layernorm", NORM, HIDDEN, NONE}};

static const piece llama_globals[] = {{"model.embed_tokens", TOKENS, VOCAB, HIDDEN},
                                      {"lm_head", HEAD, VOCAB, HIDDEN},
                                      {"model.norm", NORM, HIDDEN, NONE}};

static const piece qwen2_block[] = {
    {"self_attn.q_proj", LINEAR, HIDDEN, HIDDEN}, {"self_attn.q_proj", BIAS, HIDDEN, NONE},
    {"self_attn.k_proj", LINEAR, KEYS, HIDDEN},   {"self_attn.k_proj", BIAS, KEYS, NONE},
    {"self_attn.v_proj", LINEAR, KEYS, HIDDEN},   {"self_attn.v_proj", BIAS, KEYS, NONE},
    {"self_attn.o_proj", LINEAR, HIDDEN, HIDDEN}, {"mlp.gate_proj", LINEAR, FFN, HIDDEN},
    {"mlp.up_proj", LINEAR, FFN, HIDDEN},         {"mlp.down_proj", LINEAR, HIDDEN, FFN},
    {"input_layernorm", NORM, HIDDEN, NONE},      {"post_attention_layernorm", NORM, HIDDEN, NONE}};

static const piece opt_block[] = {{"self_attn.q_proj", LINEAR, HIDDEN, HIDDEN},
                                  {"self_attn.q_proj", BIAS, HIDDEN, NONE},
                                  {"self_attn.k_proj", LINEAR, HIDDEN, HIDDEN},
                                  {"self_attn.k_proj", BIAS, HIDDEN, NONE},
                                  {"self_attn.v_proj", LINEAR, HIDDEN, HIDDEN},
                                  {"self_attn.v_proj", BIAS, HIDDEN, NONE},
                                  {"self_attn.out_proj", LINEAR, HIDDEN, HIDDEN},
                                  {"self_attn.out_proj", BIAS, HIDDEN, NONE},
                                  {"fc1", LINEAR, FFN, HIDDEN},
                                  {"fc1", BIAS, FFN, NONE},
                                  {"fc2", LINEAR, HIDDEN, FFN},
                                  {"fc2", BIAS, HIDDEN, NONE},
                                  {"self_attn_layer_norm", NORM, HIDDEN, NONE},
                                  {"self_attn_layer_norm", BIAS, HIDDEN, NONE},
                                  {"final_layer_norm", NORM, HIDDEN, NONE},
                                  {"final_layer_norm", BIAS, HIDDEN, NONE}};

static const piece opt_globals[] = {{"model.decoder.embed_tokens", TOKENS, VOCAB, HIDDEN},
                                    {"model.decoder.embed_positions", PLACES, POSITIONS, HIDDEN},
                                    {"model.decoder.final_layer_norm", NORM, HIDDEN, NONE},
                                    {"model.decoder.final_layer_norm", BIAS, HIDDEN, NONE}};

#define PIECES(list) list, sizeof list / sizeof *list
typedef struct family {
    const char *architecture, *model_type;
    const char *layers; /* what stands before the number of a block */
    const piece *block;
    size_t block_pieces;
    const piece *globals;
    size_t global_pieces;
    double norm_eps;
} family;

static const family families[] = {
    [LLAMA] = {"LlamaForCausalLM", "llama", "model.layers", PIECES(llama_block), PIECES(llama_globals), 1e-5},
    [QWEN2] = {"Qwen2ForCausalLM", "qwen2", "model.layers", PIECES(qwen2_block), PIECES(llama_globals), 1e-6},
    [OPT] = {"OPTForCausalLM", "opt", "model.decoder.layers", PIECES(opt_block), PIECES(opt_globals), 1e-5},
};

static const family *family_of(const flrq_bench_shape *shape) {
    return &families[shape->family];
}

/* Rows of OPT's table of positions that no position uses. */
enum { POSITION_OFFSET = 2 };

static int64_t extent_of(const flrq_bench_shape *s, extent e) {
    switch (e) {
    case HIDDEN:
        return s->hidden;
    case KEYS:
        return s->hidden / s->heads * s->kv_heads;
    case FFN:
        return s->intermediate;
    case VOCAB:
        return s->vocab;
    case POSITIONS:
        return s->positions + POSITION_OFFSET;
    case NONE:
        break;
    }
    return 1;
}

static int64_t piece_count(const flrq_bench_shape *s, const piece *p) {
    return extent_of(s, p->rows) * extent_of(s, p->cols);
}

static uint64_t piece_bytes(const flrq_bench_shape *s, const piece *p) {
    return sizeof(uint16_t) * (uint64_t)piece_count(s, p);
}

uint64_t flrq_bench_model_bytes(const flrq_bench_shape *shape, int64_t blocks) {
    const family *f = family_of(shape);
    uint64_t sum = 0;
    for (size_t i = 0; i < f->block_pieces; i++) sum += (uint64_t)blocks * piece_bytes(shape, &f->block[i]);
    for (size_t i = 0; i < f->global_pieces; i++) sum += piece_bytes(shape, &f->globals[i]);
    return sum;
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

flrq_status flrq_bench_shapes_parse(const char *list, const flrq_bench_shape *out[FLRQ_BENCH_SHAPES], int *count) {
    const char *names[FLRQ_BENCH_SHAPES];
    int chosen[FLRQ_BENCH_SHAPES];
    for (int i = 0; i < FLRQ_BENCH_SHAPES; i++) names[i] = flrq_bench_shapes[i].name, chosen[i] = i;
    *count = FLRQ_BENCH_PUBLISHED;
    if (strcmp(list, "all") != 0) FLRQ_TRY(flrq_bench_choices("shape", list, names, FLRQ_BENCH_SHAPES, chosen, count));
    for (int i = 0; i < *count; i++) out[i] = &flrq_bench_shapes[chosen[i]];
    return FLRQ_OK;
}

/* ---- shards ------------------------------------------------------------------------------------------------------ */

/* One file under construction: tensors in the order of its pieces, from `data` on. */
typedef struct shard {
    char *path;
    int fd;
    uint64_t data;
} shard;

/* block -1: the globals. */
static const piece *pieces_of(const flrq_bench_shape *shape, int64_t block, size_t *count) {
    const family *f = family_of(shape);
    *count = block < 0 ? f->global_pieces : f->block_pieces;
    return block < 0 ? f->globals : f->block;
}

static void tensor_name(char *out, size_t bytes, const flrq_bench_shape *shape, const piece *p, int64_t block) {
    const char *kind = p->filling == BIAS ? "bias" : "weight";
    if (block < 0)
        snprintf(out, bytes, "%s.%s", p->module, kind);
    else
        snprintf(out, bytes, "%s.%lld.%s.%s", family_of(shape)->layers, (long long)block, p->module, kind);
}

static void shard_name(char *out, size_t bytes, int64_t block, int64_t blocks) {
    snprintf(out, bytes, "model-%05lld-of-%05lld.safetensors", (long long)block + 2, (long long)blocks + 1);
}

/* Header and a hole of the size of the data. */
static flrq_status shard_open(shard *out, const char *dir, const flrq_bench_shape *s, int64_t block, int64_t blocks) {
    char name[128];
    size_t count;
    const piece *pieces = pieces_of(s, block, &count);
    uint64_t offset = 0;
    flrq_status status = FLRQ_OK;
    json_t *header = json_object();
    char *text = NULL;
    *out = (shard){.fd = -1};
    for (size_t i = 0; i < count; i++) {
        const piece *p = &pieces[i];
        uint64_t bytes = piece_bytes(s, p);
        json_t *shape = json_pack("[I]", (json_int_t)extent_of(s, p->rows));
        if (p->cols != NONE) json_array_append_new(shape, json_integer((json_int_t)extent_of(s, p->cols)));
        tensor_name(name, sizeof name, s, p, block);
        json_object_set_new(header, name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", "BF16", "shape", shape, "data_offsets",
                                      (json_int_t)offset, (json_int_t)(offset + bytes)));
        offset += bytes;
    }
    text = json_dumps(header, JSON_COMPACT);
    shard_name(name, sizeof name, block, blocks);
    out->path = flrq_path_join(dir, name);
    if (!text || !out->path) FLRQ_GOTO(flrq_fail_memory(0, "a shard"));
    uint64_t length = (strlen(text) + 7) / 8 * 8; /* padded with spaces: the data begins at a multiple of 8 */
    out->data = 8 + length;
    out->fd = open(out->path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0666);
    if (out->fd < 0) FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be created", out->path));
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)(length >> 8 * i);
    FLRQ_GOTO(flrq_file_pwrite(out->fd, out->path, prefix, 8, 0));
    static const char padding[8] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
    FLRQ_GOTO(flrq_file_pwrite(out->fd, out->path, padding, 8, length));
    FLRQ_GOTO(flrq_file_pwrite(out->fd, out->path, text, strlen(text), 8));
    if (ftruncate(out->fd, (off_t)(out->data + offset)) != 0)
        FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be made %llu bytes long", out->path,
                                  (unsigned long long)(out->data + offset)));
out:
    free(text);
    json_decref(header);
    return status;
}

static void shards_close(shard *shards, int64_t count) {
    for (int64_t i = 0; i < count && shards; i++) {
        if (shards[i].fd >= 0) close(shards[i].fd);
        free(shards[i].path);
    }
    free(shards);
}

/* ---- contents ---------------------------------------------------------------------------------------------------- */

static const float weight_scale = 0.015f, bias_scale = 0.05f, embedding_scale = 0.02f;
enum { OUTLIER_EVERY = 512, OUTLIER_SCALE = 8 };

typedef struct generator {
    const flrq_bench_shape *shape;
    flrq_backend *be;
    uint64_t seed;
    int threads;
    int64_t capacity; /* of the buffers: the largest linear weight */
    float *full;
    uint16_t *rounded;
    flrq_reporter *reporter;
    int64_t done, total; /* tensors */
} generator;

typedef struct rounding {
    uint16_t *to;
    const float *from;
    float scale;
    int64_t count;
} rounding;

enum { STRETCH = 1 << 20 };

static void round_stretch(void *context, int64_t first, int thread) {
    const rounding *r = context;
    int64_t begin = first * STRETCH, end = begin + STRETCH < r->count ? begin + STRETCH : r->count;
    for (int64_t i = begin; i < end; i++) flrq_store(r->to, FLRQ_BF16, i, r->scale * r->from[i]);
}

static void round_all(const generator *g, float scale, int64_t count) {
    rounding r = {g->rounded, g->full, scale, count};
    flrq_parallel_for(g->threads, (count + STRETCH - 1) / STRETCH, round_stretch, &r);
}

/* Values first .. first + count - 1 of a tensor into `rounded`; of a linear weight, all of it. */
static flrq_status fill(const generator *g, const piece *p, int64_t first, int64_t count) {
    char name[128];
    if (p->filling == NORM) {
        for (int64_t j = 0; j < count; j++) {
            int outlier = (first + j) % OUTLIER_EVERY == OUTLIER_EVERY / 2;
            flrq_store(g->rounded, FLRQ_BF16, j, outlier ? OUTLIER_SCALE : 1);
        }
        return FLRQ_OK;
    }
    if (p->filling == LINEAR) {
        FLRQ_TRY(flrq_bench_matrix(g->be, g->full, extent_of(g->shape, p->rows), extent_of(g->shape, p->cols),
                                   FLRQ_BENCH_SPECTRUM_POWER, flrq_philox_key(g->seed, p->module)));
        round_all(g, weight_scale, count);
        return FLRQ_OK;
    }
    snprintf(name, sizeof name, "%s.bias", p->module);
    const char *key = p->filling == BIAS ? name : p->filling == PLACES ? "positions" : "embedding";
    FLRQ_TRY(g->be->normal(g->be, g->full, flrq_philox_key(g->seed, key), 0, (uint64_t)first, count));
    round_all(g, p->filling == BIAS ? bias_scale : embedding_scale, count);
    return FLRQ_OK;
}

/* `rounded`, at its place in `count` shards. */
static flrq_status put(const generator *g, const shard *shards, int64_t count, uint64_t offset, int64_t values) {
    for (int64_t i = 0; i < count; i++) {
        if (flrq_stop_requested()) return flrq_fail(FLRQ_STOPPED, "stopped; bench keeps no state");
        FLRQ_TRY(flrq_file_pwrite(shards[i].fd, shards[i].path, g->rounded, sizeof *g->rounded * (size_t)values,
                                  shards[i].data + offset));
    }
    return FLRQ_OK;
}

/* Place of the output head among the pieces; 0, where the embedding stands, if there is none. */
static uint64_t head_offset(const flrq_bench_shape *shape, const piece *pieces, size_t count) {
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].filling == HEAD) return offset;
        offset += piece_bytes(shape, &pieces[i]);
    }
    return 0;
}

/* Everything of one block into `count` shards, or (block -1) the globals. What is not a linear weight goes in parts
 * that the buffers hold. */
static flrq_status write_pieces(generator *g, const shard *shards, int64_t count, int64_t block) {
    size_t n;
    const piece *pieces = pieces_of(g->shape, block, &n);
    uint64_t offset = 0, head = head_offset(g->shape, pieces, n);
    for (size_t i = 0; i < n; i++) {
        int64_t values = piece_count(g->shape, &pieces[i]);
        flrq_progress(g->reporter, "generate", g->done++, g->total);
        for (int64_t first = 0; first < values && pieces[i].filling != HEAD; first += g->capacity) {
            int64_t part = values - first < g->capacity ? values - first : g->capacity;
            uint64_t place = sizeof *g->rounded * (uint64_t)first;
            FLRQ_TRY(fill(g, &pieces[i], first, part));
            FLRQ_TRY(put(g, shards, count, offset + place, part));
            if (pieces[i].filling == TOKENS && head) FLRQ_TRY(put(g, shards, count, head + place, part));
        }
        offset += piece_bytes(g->shape, &pieces[i]);
    }
    return FLRQ_OK;
}

static flrq_status generate(const flrq_bench_shape *shape, const shard *shards, int64_t blocks, uint64_t seed,
                            int threads, flrq_reporter *reporter) {
    const family *f = family_of(shape);
    flrq_status status = FLRQ_OK;
    generator g = {.shape = shape, .seed = seed, .reporter = reporter};
    g.threads = threads ? threads : flrq_hardware_threads();
    g.total = (int64_t)(f->block_pieces + f->global_pieces);
    for (size_t i = 0; i < f->block_pieces; i++) {
        int64_t values = piece_count(shape, &f->block[i]);
        g.capacity = values > g.capacity ? values : g.capacity;
    }
    FLRQ_GOTO(flrq_backend_open(&g.be, "cpu", threads));
    g.full = malloc((size_t)g.capacity * sizeof *g.full);
    g.rounded = malloc((size_t)g.capacity * sizeof *g.rounded);
    if (!g.full || !g.rounded) FLRQ_GOTO(flrq_fail_memory((size_t)g.capacity * sizeof *g.full, "a generated weight"));
    FLRQ_GOTO(write_pieces(&g, shards + 1, blocks, 0));
    FLRQ_GOTO(write_pieces(&g, shards, 1, -1));
out:
    flrq_backend_close(g.be);
    free(g.rounded);
    free(g.full);
    return status;
}

/* ---- the folder -------------------------------------------------------------------------------------------------- */

/* In the spelling of the published checkpoints. */
static json_t *config_of(const flrq_bench_shape *s, int64_t blocks) {
    const family *f = family_of(s);
    int opt = s->family == FLRQ_BENCH_OPT;
    json_t *config = json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I}", "architectures", f->architecture, "model_type",
                               f->model_type, "hidden_size", (json_int_t)s->hidden,
                               opt ? "ffn_dim" : "intermediate_size", (json_int_t)s->intermediate, "num_hidden_layers",
                               (json_int_t)blocks, "num_attention_heads", (json_int_t)s->heads);
    json_t *rest = opt ? json_pack("{s:I, s:I, s:I, s:s, s:b, s:b, s:i, s:i, s:i}", "word_embed_proj_dim",
                                   (json_int_t)s->hidden, "vocab_size", (json_int_t)s->vocab, "max_position_embeddings",
                                   (json_int_t)s->positions, "activation_function", "relu", "do_layer_norm_before", 1,
                                   "tie_word_embeddings", 1, "pad_token_id", 1, "bos_token_id", 2, "eos_token_id", 2)
                       : json_pack("{s:I, s:I, s:I, s:s, s:f, s:f, s:b}", "num_key_value_heads",
                                   (json_int_t)s->kv_heads, "vocab_size", (json_int_t)s->vocab,
                                   "max_position_embeddings", (json_int_t)s->positions, "hidden_act", "silu",
                                   "rms_norm_eps", f->norm_eps, "rope_theta", s->rope_theta, "tie_word_embeddings", 0);
    json_t *type = json_string("bfloat16");
    int failed = json_object_update(config, rest) || json_object_set(config, "torch_dtype", type);
    json_decref(type);
    json_decref(rest);
    if (!failed) return config;
    json_decref(config);
    return NULL;
}

static flrq_status write_config(const char *dir, const flrq_bench_shape *shape, int64_t blocks) {
    json_t *config = config_of(shape, blocks);
    char *path = flrq_path_join(dir, "config.json");
    flrq_status status = config && path ? flrq_json_write(path, config) : flrq_fail_memory(0, "the configuration");
    free(path);
    json_decref(config);
    return status;
}

static flrq_status write_index(const char *dir, const flrq_bench_shape *shape, int64_t blocks) {
    const family *f = family_of(shape);
    int64_t n = (int64_t)f->global_pieces + blocks * (int64_t)f->block_pieces, next = 0;
    char(*names)[128] = malloc((size_t)n * sizeof *names), (*files)[64] = malloc((size_t)(blocks + 1) * sizeof *files);
    const char **name_list = malloc((size_t)n * sizeof *name_list), **file_list = malloc((size_t)n * sizeof *file_list);
    char *path = flrq_path_join(dir, "model.safetensors.index.json");
    flrq_status status = FLRQ_OK;
    if (!names || !files || !name_list || !file_list || !path) FLRQ_GOTO(flrq_fail_memory(0, "the index"));
    for (int64_t block = -1; block < blocks; block++) {
        size_t count;
        const piece *pieces = pieces_of(shape, block, &count);
        shard_name(files[block + 1], sizeof *files, block, blocks);
        for (size_t i = 0; i < count; i++, next++) {
            tensor_name(names[next], sizeof *names, shape, &pieces[i], block);
            name_list[next] = names[next];
            file_list[next] = files[block + 1];
        }
    }
    status = flrq_index_write(path, n, name_list, file_list, flrq_bench_model_bytes(shape, blocks));
out:
    free(path);
    free(file_list);
    free(name_list);
    free(files);
    free(names);
    return status;
}

flrq_status flrq_bench_model_write(const char *dir, const flrq_bench_shape *shape, int64_t blocks, uint64_t seed,
                                   int threads, int empty, flrq_reporter *reporter) {
    flrq_status status = FLRQ_OK;
    int64_t opened = 0;
    shard *shards = calloc((size_t)blocks + 1, sizeof *shards);
    if (!shards) return flrq_fail_memory((size_t)(blocks + 1) * sizeof *shards, "the shards");
    FLRQ_GOTO(write_config(dir, shape, blocks));
    FLRQ_GOTO(write_index(dir, shape, blocks));
    for (int64_t block = -1; block < blocks; block++)
        FLRQ_GOTO(shard_open(&shards[opened++], dir, shape, block, blocks));
    if (!empty) status = generate(shape, shards, blocks, seed, threads, reporter);
out:
    shards_close(shards, opened);
    return status;
}

flrq_status flrq_bench_tokens_write(const char *path, int64_t vocab, int64_t segments, int64_t length, uint64_t seed) {
    int64_t count = segments * length;
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    if (!ids) return flrq_fail_memory((size_t)count * sizeof *ids, "the tokens");
    uint64_t key = flrq_philox_key(seed, "tokens");
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)flrq_philox_below(key, 0, (uint64_t)i, (uint64_t)vocab);
    flrq_status status = flrq_npy_write(path, "<i4", sizeof *ids, 2, (int64_t[]){segments, length}, ids);
    free(ids);
    return status;
}
