/* make_model.c - checkpoints whose perplexity or size is known without running anything, written with the C library
 * alone.
 *
 *   make_model uniform FAMILY DIR      says nothing about the next token: perplexity = vocabulary (64)
 *   make_model cycle FAMILY DIR        is certain that 0 1 2 ... 63 follow each other for ever: perplexity 1. The
 * embedding is tied and the identity, so only the weights of its MLP, which are quantized, can move token t to t + 1
 *   make_model random DIR HIDDEN FFN LAYERS VOCAB [SEGMENTS LENGTH]    a Llama of Gaussian bf16 weights, for measures
 * of size; its tokens.npy has 4 segments of 256 tokens unless told otherwise
 *
 * FAMILY is llama or opt. Each folder gets tokens.npy, for the first two in the order of the cycle, and backwards.npy
 * in the opposite one.
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CYCLE = 64, MAX_TENSORS = 256 };

/* Value of row i, column j of a tensor. */
typedef float (*fill_fn)(int64_t i, int64_t j);

typedef struct tensor {
    char name[96];
    int64_t rows, cols; /* cols 0: one axis */
    fill_fn fill;
} tensor;

static tensor tensors[MAX_TENSORS];
static int n_tensors;

static void *check(void *p, const char *what) {
    if (!p) perror(what), exit(1);
    return p;
}

static void add(int64_t rows, int64_t cols, fill_fn fill, const char *name, ...) {
    if (n_tensors == MAX_TENSORS) abort();
    tensor *t = &tensors[n_tensors++];
    va_list args;
    va_start(args, name);
    vsnprintf(t->name, sizeof t->name, name, args);
    va_end(args);
    t->rows = rows, t->cols = cols, t->fill = fill;
}

static float zero(int64_t i, int64_t j) {
    return (void)i, (void)j, 0;
}

static float one(int64_t i, int64_t j) {
    return (void)i, (void)j, 1;
}

static float identity(int64_t i, int64_t j) {
    return i == j;
}

/* Takes token j to token j + 1, far beyond what the residual stream still holds of j. */
static float next(int64_t i, int64_t j) {
    return i == (j + 1) % CYCLE ? 16 : 0;
}

static float sharp(int64_t i, int64_t j) {
    return (void)i, (void)j, 32;
}

/* Sum of four uniform numbers, standard deviation 0.02. */
static float gaussian(int64_t i, int64_t j) {
    static uint64_t state = 88172645463325252u;
    (void)i, (void)j;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    int sum = (int)(state & 0xffff) + (int)(state >> 16 & 0xffff) + (int)(state >> 32 & 0xffff) + (int)(state >> 48);
    return (float)(sum - 131070) * (0.02f / 37837.0f);
}

static void write_checkpoint(const char *dir) {
    char path[4096];
    size_t room = 0, length = 0;
    for (int i = 0; i < n_tensors; i++) room += 256;
    char *header = check(malloc(room + 64), "header");
    uint64_t end = 0;
    for (int i = 0; i < n_tensors; i++) {
        const tensor *t = &tensors[i];
        uint64_t count = (uint64_t)t->rows * (uint64_t)(t->cols ? t->cols : 1);
        length += (size_t)sprintf(header + length, "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%" PRId64, i ? ',' : '{',
                                  t->name, t->rows);
        if (t->cols) length += (size_t)sprintf(header + length, ",%" PRId64, t->cols);
        length +=
            (size_t)sprintf(header + length, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", end, end + 2 * count);
        end += 2 * count;
    }
    header[length++] = '}';
    while (length % 8) header[length++] = ' ';
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = check(fopen(path, "wb"), path);
    uint64_t size = length;
    fwrite(&size, 8, 1, f);
    fwrite(header, 1, length, f);
    for (int i = 0; i < n_tensors; i++) {
        const tensor *t = &tensors[i];
        int64_t cols = t->cols ? t->cols : 1;
        uint16_t *row = check(malloc((size_t)cols * 2), "row");
        for (int64_t r = 0; r < t->rows; r++) {
            for (int64_t c = 0; c < cols; c++) {
                float value = t->fill(r, c);
                uint32_t bits;
                memcpy(&bits, &value, 4);
                row[c] = (uint16_t)(bits >> 16);
            }
            fwrite(row, 2, (size_t)cols, f);
        }
        free(row);
    }
    free(header);
    if (fclose(f) != 0) check(NULL, path);
}

static void write_text(const char *dir, const char *format, ...) {
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = check(fopen(path, "w"), path);
    va_list args;
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
    if (fclose(f) != 0) check(NULL, path);
}

/* [rows, cols] of tokens first, first + step, ... modulo the vocabulary. */
static void write_tokens(const char *dir, const char *name, int rows, int cols, int64_t step, int64_t vocab) {
    char path[4096], header[128];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\1\0\x76\0", 10);
    int length =
        snprintf(header + 10, 100, "{'descr': '<i4', 'fortran_order': False, 'shape': (%d, %d), }", rows, cols);
    header[10 + length] = ' ';
    header[127] = '\n';
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = check(fopen(path, "wb"), path);
    fwrite(header, 1, sizeof header, f);
    int64_t token = 0;
    for (int i = 0; i < rows * cols; i++, token = (token + step + vocab) % vocab) {
        int32_t id = (int32_t)token;
        fwrite(&id, 4, 1, f);
    }
    if (fclose(f) != 0) check(NULL, path);
}

static void add_llama_block(int layer, int64_t hidden, int64_t ffn, fill_fn attention, fill_fn gate, fill_fn up,
                            fill_fn down) {
    static const char *const names[] = {"q", "k", "v", "o"};
    for (int i = 0; i < 4; i++)
        add(hidden, hidden, attention, "model.layers.%d.self_attn.%s_proj.weight", layer, names[i]);
    add(ffn, hidden, gate, "model.layers.%d.mlp.gate_proj.weight", layer);
    add(ffn, hidden, up, "model.layers.%d.mlp.up_proj.weight", layer);
    add(hidden, ffn, down, "model.layers.%d.mlp.down_proj.weight", layer);
    add(hidden, 0, one, "model.layers.%d.input_layernorm.weight", layer);
    add(hidden, 0, one, "model.layers.%d.post_attention_layernorm.weight", layer);
}

static void llama_config(const char *dir, int64_t hidden, int64_t ffn, int layers, int64_t vocab, const char *tied) {
    write_text(dir,
               "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": %" PRId64
               ", \"intermediate_size\": %" PRId64 ", \"num_hidden_layers\": %d, \"num_attention_heads\": %" PRId64
               ", \"vocab_size\": %" PRId64 ", \"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-6, "
               "\"hidden_act\": \"silu\", \"tie_word_embeddings\": %s, \"torch_dtype\": \"bfloat16\"}\n",
               hidden, ffn, layers, hidden / 64 ? hidden / 64 : 1, vocab, tied);
}

/* The untied head of the uniform model is zero, all else Gaussian. */
static void llama_small(const char *dir, int cycle) {
    add(CYCLE, CYCLE, cycle ? identity : gaussian, "model.embed_tokens.weight");
    add_llama_block(0, CYCLE, CYCLE, cycle ? zero : gaussian, cycle ? identity : gaussian, cycle ? identity : gaussian,
                    cycle ? next : gaussian);
    add(CYCLE, 0, cycle ? sharp : one, "model.norm.weight");
    if (!cycle) add(CYCLE, CYCLE, zero, "lm_head.weight");
    llama_config(dir, CYCLE, CYCLE, 1, CYCLE, cycle ? "true" : "false");
}

/* The uniform OPT has a last norm of zeros under a tied head. */
static void opt_small(const char *dir, int cycle) {
    static const char *const names[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    add(CYCLE, CYCLE, cycle ? identity : gaussian, "model.decoder.embed_tokens.weight");
    add(130, CYCLE, cycle ? zero : gaussian, "model.decoder.embed_positions.weight");
    for (int i = 0; i < 4; i++) {
        add(CYCLE, CYCLE, cycle ? zero : gaussian, "model.decoder.layers.0.self_attn.%s.weight", names[i]);
        add(CYCLE, 0, zero, "model.decoder.layers.0.self_attn.%s.bias", names[i]);
    }
    add(CYCLE, CYCLE, cycle ? identity : gaussian, "model.decoder.layers.0.fc1.weight");
    add(CYCLE, 0, zero, "model.decoder.layers.0.fc1.bias");
    add(CYCLE, CYCLE, cycle ? next : gaussian, "model.decoder.layers.0.fc2.weight");
    add(CYCLE, 0, zero, "model.decoder.layers.0.fc2.bias");
    add(CYCLE, 0, one, "model.decoder.layers.0.self_attn_layer_norm.weight");
    add(CYCLE, 0, zero, "model.decoder.layers.0.self_attn_layer_norm.bias");
    add(CYCLE, 0, one, "model.decoder.layers.0.final_layer_norm.weight");
    add(CYCLE, 0, zero, "model.decoder.layers.0.final_layer_norm.bias");
    add(CYCLE, 0, cycle ? sharp : zero, "model.decoder.final_layer_norm.weight");
    add(CYCLE, 0, zero, "model.decoder.final_layer_norm.bias");
    write_text(
        dir, "{\"model_type\": \"opt\", \"architectures\": [\"OPTForCausalLM\"], \"hidden_size\": 64, \"ffn_dim\": 64, "
             "\"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"vocab_size\": 64, \"word_embed_proj_dim\": 64, "
             "\"max_position_embeddings\": 128, \"do_layer_norm_before\": true, \"activation_function\": \"relu\", "
             "\"torch_dtype\": \"bfloat16\"}\n");
}

int main(int argc, char **argv) {
    if ((argc == 7 || argc == 9) && strcmp(argv[1], "random") == 0) {
        int segments = argc == 9 ? atoi(argv[7]) : 4, length = argc == 9 ? atoi(argv[8]) : 256;
        int64_t hidden = atoll(argv[3]), ffn = atoll(argv[4]), vocab = atoll(argv[6]);
        int layers = atoi(argv[5]);
        mkdir(argv[2], 0777);
        add(vocab, hidden, gaussian, "model.embed_tokens.weight");
        for (int i = 0; i < layers; i++) add_llama_block(i, hidden, ffn, gaussian, gaussian, gaussian, gaussian);
        add(hidden, 0, one, "model.norm.weight");
        llama_config(argv[2], hidden, ffn, layers, vocab, "true");
        write_tokens(argv[2], "tokens.npy", segments, length, 7, vocab);
        write_checkpoint(argv[2]);
        return 0;
    }
    int cycle = argc == 4 && strcmp(argv[1], "cycle") == 0;
    if (argc != 4 || (!cycle && strcmp(argv[1], "uniform") != 0)) {
        fprintf(
            stderr,
            "usage: make_model uniform|cycle llama|opt DIR, or make_model random DIR HIDDEN FFN LAYERS VOCAB [SEGMENTS "
            "LENGTH]\n");
        return 2;
    }
    mkdir(argv[3], 0777);
    (strcmp(argv[2], "opt") == 0 ? opt_small : llama_small)(argv[3], cycle);
    write_tokens(argv[3], "tokens.npy", 2, 128, 1, CYCLE);
    write_tokens(argv[3], "backwards.npy", 2, 128, -1, CYCLE);
    write_checkpoint(argv[3]);
    return 0;
}
