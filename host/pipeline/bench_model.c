/* bench_model.c - see bench_model.h.
 *
 * The shards are written here rather than with io/safetensors.h: that writer flushes, reads back and hashes every file,
 * as a product must, and a bench of 13 GB need not. A shard is laid out first, so that the bytes of a tensor go to the
 * same place of every block's shard as soon as they exist, and no more than one tensor is in memory.
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
#include "pipeline/bench_matrices.h"

const flrq_bench_shape flrq_bench_shapes[] = {
    {"llama2-7b", 4096, 11008, 32, 32, 32, 32000, 4096},  {"llama2-13b", 5120, 13824, 40, 40, 40, 32000, 4096},
    {"llama2-70b", 8192, 28672, 80, 64, 8, 32000, 4096},  {"llama3-8b", 4096, 14336, 32, 32, 8, 128256, 8192},
    {"llama3-70b", 8192, 28672, 80, 64, 8, 128256, 8192}, {"tiny", 256, 512, 4, 4, 2, 512, 2048},
};

static const float weight_scale = 0.015f, embedding_scale = 0.02f;
enum { OUTLIER_EVERY = 512, OUTLIER_SCALE = 8 };
enum { LINEARS = 7, NORMS = 2, TENSORS = LINEARS + NORMS, GLOBALS = 3 };

/* A tensor of the layout: the name is completed with the block. */
typedef struct piece {
    const char *name;
    int64_t rows, cols; /* cols 0: a vector */
} piece;

static void block_pieces(piece *out, const flrq_bench_shape *s) {
    int64_t h = s->hidden, kv = h / s->heads * s->kv_heads, i = s->intermediate;
    const piece pieces[TENSORS] = {
        {"self_attn.q_proj", h, h}, {"self_attn.k_proj", kv, h}, {"self_attn.v_proj", kv, h},
        {"self_attn.o_proj", h, h}, {"mlp.gate_proj", i, h},     {"mlp.up_proj", i, h},
        {"mlp.down_proj", h, i},    {"input_layernorm", h, 0},   {"post_attention_layernorm", h, 0}};
    memcpy(out, pieces, sizeof pieces);
}

static void global_pieces(piece *out, const flrq_bench_shape *s) {
    const piece pieces[GLOBALS] = {
        {"model.embed_tokens", s->vocab, s->hidden}, {"lm_head", s->vocab, s->hidden}, {"model.norm", s->hidden, 0}};
    memcpy(out, pieces, sizeof pieces);
}

static int64_t piece_count(const piece *p) {
    return p->rows * (p->cols ? p->cols : 1);
}

int64_t flrq_bench_block_weights(const flrq_bench_shape *shape) {
    piece pieces[TENSORS];
    int64_t sum = 0;
    block_pieces(pieces, shape);
    for (int i = 0; i < LINEARS; i++) sum += piece_count(&pieces[i]);
    return sum;
}

uint64_t flrq_bench_model_bytes(const flrq_bench_shape *shape, int64_t blocks) {
    return 2 * (uint64_t)(blocks * (flrq_bench_block_weights(shape) + NORMS * shape->hidden) +
                          2 * shape->vocab * shape->hidden + shape->hidden);
}

/* ---- shards ------------------------------------------------------------------------------------------------------ */

/* One file under construction: tensors in the order of its pieces, from `data` on. */
typedef struct shard {
    char *path;
    int fd;
    uint64_t data, end;
} shard;

static void tensor_name(char *out, size_t bytes, const piece *p, int64_t block) {
    if (block < 0)
        snprintf(out, bytes, "%s.weight", p->name);
    else
        snprintf(out, bytes, "model.layers.%lld.%s.weight", (long long)block, p->name);
}

static void shard_name(char *out, size_t bytes, int64_t block, int64_t blocks) {
    snprintf(out, bytes, "model-%05lld-of-%05lld.safetensors", (long long)block + 2, (long long)blocks + 1);
}

/* Header and a hole of the size of the data. block -1: the globals. */
static flrq_status shard_open(shard *out, const char *dir, const piece *pieces, int count, int64_t block,
                              int64_t blocks) {
    char name[128];
    uint64_t offset = 0;
    flrq_status status = FLRQ_OK;
    json_t *header = json_object();
    char *text = NULL;
    *out = (shard){.fd = -1};
    for (int i = 0; i < count; i++) {
        uint64_t bytes = 2 * (uint64_t)piece_count(&pieces[i]);
        json_t *shape = pieces[i].cols ? json_pack("[I, I]", (json_int_t)pieces[i].rows, (json_int_t)pieces[i].cols)
                                       : json_pack("[I]", (json_int_t)pieces[i].rows);
        tensor_name(name, sizeof name, &pieces[i], block);
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
    out->end = out->data + offset;
    out->fd = open(out->path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
    if (out->fd < 0) FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be created", out->path));
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)(length >> 8 * i);
    FLRQ_GOTO(flrq_file_pwrite(out->fd, out->path, prefix, 8, 0));
    static const char padding[8] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
    FLRQ_GOTO(flrq_file_pwrite(out->fd, out->path, padding, 8, length));
    FLRQ_GOTO(flrq_file_pwrite(out->fd, out->path, text, strlen(text), 8));
    if (ftruncate(out->fd, (off_t)out->end) != 0)
        FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be made %llu bytes long", out->path,
                                  (unsigned long long)out->end));
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

typedef struct rounding {
    uint16_t *to;
    const float *from;
    float scale;
    int64_t count;
} rounding;

enum { PIECE = 1 << 20 };

static void round_piece(void *context, int64_t first, int thread) {
    const rounding *r = context;
    int64_t begin = first * PIECE, end = begin + PIECE < r->count ? begin + PIECE : r->count;
    for (int64_t i = begin; i < end; i++) flrq_store(r->to, FLRQ_BF16, i, r->scale * r->from[i]);
}

static void round_all(uint16_t *to, const float *from, float scale, int64_t count, int threads) {
    rounding r = {to, from, scale, count};
    flrq_parallel_for(threads, (count + PIECE - 1) / PIECE, round_piece, &r);
}

/* The bytes of a tensor, at their place in `count` shards. */
static flrq_status put(const shard *shards, int64_t count, uint64_t offset, const void *from, uint64_t bytes) {
    for (int64_t i = 0; i < count; i++)
        FLRQ_TRY(flrq_file_pwrite(shards[i].fd, shards[i].path, from, bytes, shards[i].data + offset));
    return FLRQ_OK;
}

/* Values of one piece into `rounded`, by way of `full`. */
static flrq_status fill(flrq_backend *be, const piece *p, uint64_t key, float *full, uint16_t *rounded, int threads) {
    int64_t count = piece_count(p);
    if (!p->cols) {
        for (int64_t j = 0; j < count; j++)
            flrq_store(rounded, FLRQ_BF16, j, j % OUTLIER_EVERY == OUTLIER_EVERY / 2 ? OUTLIER_SCALE : 1);
        return FLRQ_OK;
    }
    FLRQ_TRY(flrq_bench_matrix(be, full, p->rows, p->cols, FLRQ_BENCH_SPECTRUM_POWER, key));
    round_all(rounded, full, weight_scale, count, threads);
    return FLRQ_OK;
}

static flrq_status write_blocks(const shard *shards, const flrq_bench_shape *shape, int64_t blocks, flrq_backend *be,
                                uint64_t seed, float *full, uint16_t *rounded, int threads, flrq_reporter *reporter) {
    piece pieces[TENSORS];
    uint64_t offset = 0;
    block_pieces(pieces, shape);
    for (int i = 0; i < TENSORS; i++) {
        if (flrq_stop_requested()) return flrq_fail(FLRQ_STOPPED, "stopped; bench keeps no state");
        flrq_progress(reporter, "generate", i, TENSORS + 1);
        uint64_t bytes = 2 * (uint64_t)piece_count(&pieces[i]);
        FLRQ_TRY(fill(be, &pieces[i], flrq_philox_key(seed, pieces[i].name), full, rounded, threads));
        FLRQ_TRY(put(shards, blocks, offset, rounded, bytes));
        offset += bytes;
    }
    return FLRQ_OK;
}

/* Embedding and output head in pieces of at most `capacity` values. */
static flrq_status write_globals(const shard *globals, const flrq_bench_shape *shape, flrq_backend *be, uint64_t seed,
                                 float *full, uint16_t *rounded, int64_t capacity, int threads) {
    piece pieces[GLOBALS];
    global_pieces(pieces, shape);
    int64_t count = piece_count(&pieces[0]);
    for (int64_t first = 0; first < count; first += capacity) {
        int64_t part = count - first < capacity ? count - first : capacity;
        FLRQ_TRY(be->normal(be, full, flrq_philox_key(seed, "embedding"), 0, (uint64_t)first, part));
        round_all(rounded, full, embedding_scale, part, threads);
        for (int64_t copy = 0; copy < 2; copy++)
            FLRQ_TRY(put(globals, 1, 2 * (uint64_t)(copy * count + first), rounded, 2 * (uint64_t)part));
    }
    FLRQ_TRY(fill(be, &pieces[2], 0, full, rounded, threads));
    return put(globals, 1, 4 * (uint64_t)count, rounded, 2 * (uint64_t)shape->hidden);
}

static flrq_status write_config(const char *dir, const flrq_bench_shape *s, int64_t blocks) {
    json_t *config = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:b, s:s}", "architectures", "LlamaForCausalLM",
        "model_type", "llama", "hidden_size", (json_int_t)s->hidden, "intermediate_size", (json_int_t)s->intermediate,
        "num_hidden_layers", (json_int_t)blocks, "num_attention_heads", (json_int_t)s->heads, "num_key_value_heads",
        (json_int_t)s->kv_heads, "vocab_size", (json_int_t)s->vocab, "max_position_embeddings",
        (json_int_t)s->positions, "hidden_act", "silu", "rms_norm_eps", 1e-5, "rope_theta",
        s->vocab > 100000 ? 500000.0 : 10000.0, "tie_word_embeddings", 0, "torch_dtype", "bfloat16");
    char *path = flrq_path_join(dir, "config.json");
    flrq_status status = config && path ? flrq_json_write(path, config) : flrq_fail_memory(0, "the configuration");
    free(path);
    json_decref(config);
    return status;
}

static flrq_status write_index(const char *dir, const flrq_bench_shape *shape, int64_t blocks) {
    piece pieces[TENSORS + GLOBALS];
    int64_t n = GLOBALS + blocks * TENSORS, next = 0;
    char(*names)[128] = malloc((size_t)n * sizeof *names), (*files)[64] = malloc((size_t)(blocks + 1) * sizeof *files);
    const char **name_list = malloc((size_t)n * sizeof *name_list), **file_list = malloc((size_t)n * sizeof *file_list);
    char *path = flrq_path_join(dir, "model.safetensors.index.json");
    flrq_status status = FLRQ_OK;
    if (!names || !files || !name_list || !file_list || !path) FLRQ_GOTO(flrq_fail_memory(0, "the index"));
    global_pieces(pieces, shape);
    block_pieces(pieces + GLOBALS, shape);
    for (int64_t block = -1; block < blocks; block++) {
        shard_name(files[block + 1], sizeof *files, block, blocks);
        const piece *p = block < 0 ? pieces : pieces + GLOBALS;
        for (int i = 0; i < (block < 0 ? GLOBALS : TENSORS); i++, next++) {
            tensor_name(names[next], sizeof *names, &p[i], block);
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
    piece pieces[TENSORS > GLOBALS ? TENSORS : GLOBALS];
    flrq_backend *be = NULL;
    flrq_status status = FLRQ_OK;
    float *full = NULL;
    uint16_t *rounded = NULL;
    int64_t opened = 0, largest = 0;
    shard *shards = calloc((size_t)blocks + 1, sizeof *shards);
    if (!shards) return flrq_fail_memory((size_t)(blocks + 1) * sizeof *shards, "the shards");
    FLRQ_GOTO(write_config(dir, shape, blocks));
    FLRQ_GOTO(write_index(dir, shape, blocks));
    global_pieces(pieces, shape);
    FLRQ_GOTO(shard_open(&shards[opened++], dir, pieces, GLOBALS, -1, blocks));
    block_pieces(pieces, shape);
    for (int64_t block = 0; block < blocks; block++)
        FLRQ_GOTO(shard_open(&shards[opened++], dir, pieces, TENSORS, block, blocks));
    if (empty) goto out;
    for (int i = 0; i < LINEARS; i++) largest = piece_count(&pieces[i]) > largest ? piece_count(&pieces[i]) : largest;
    FLRQ_GOTO(flrq_backend_open(&be, "cpu", threads));
    full = malloc((size_t)largest * sizeof *full);
    rounded = malloc((size_t)largest * sizeof *rounded);
    if (!full || !rounded) FLRQ_GOTO(flrq_fail_memory((size_t)largest * sizeof *full, "a generated weight"));
    if (!threads) threads = flrq_hardware_threads();
    FLRQ_GOTO(write_blocks(shards + 1, shape, blocks, be, seed, full, rounded, threads, reporter));
    FLRQ_GOTO(write_globals(shards, shape, be, seed, full, rounded, largest, threads));
out:
    flrq_backend_close(be);
    free(rounded);
    free(full);
    shards_close(shards, opened);
    return status;
}

flrq_status flrq_bench_tokens_write(const char *path, const flrq_bench_shape *shape, int64_t segments, int64_t length,
                                    uint64_t seed) {
    int64_t count = segments * length;
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    if (!ids) return flrq_fail_memory((size_t)count * sizeof *ids, "the tokens");
    uint64_t key = flrq_philox_key(seed, "tokens");
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)flrq_philox_below(key, 0, (uint64_t)i, (uint64_t)shape->vocab);
    flrq_status status = flrq_npy_write(path, "<i4", sizeof *ids, 2, (int64_t[]){segments, length}, ids);
    free(ids);
    return status;
}
