/* test_model_forward.c - the block forward against logits that transformers gave for tiny models of every family
 * (tests/oracle/make_families.py), and what the pipeline relies on: observers, tiles, causality, memory, failures.
 */
#include "model/logits.h"
#include "io/npy.h"

static const char *const family_folders[] = {
    "llama",          "llama_bias", "llama_rope3",  "llama_linear", "llama_bf16", "llama_f16_sharded", "mistral",
    "mistral_window", "qwen2",      "qwen2_window", "qwen3",        "opt",        "opt_350m"};
enum { N_FOLDERS = sizeof family_folders / sizeof family_folders[0] };
static const char *const faces[] = {"cpu", "cpu-ref"};

/** The fp32 data of a version 1 .npy file of `count` elements (free()). */
static float *read_floats(const char *path, int64_t count) {
    char *file;
    size_t bytes;
    assert_int_equal(flrq_file_read(path, 1 << 24, &file, &bytes), FLRQ_OK);
    size_t header = 10 + (unsigned char)file[8] + 256 * (size_t)(unsigned char)file[9];
    assert_non_null(strstr(file + 10, "'<f4'"));
    assert_int_equal(bytes - header, (size_t)count * sizeof(float));
    float *out = malloc((size_t)count * sizeof(float));
    memcpy(out, file + header, (size_t)count * sizeof(float));
    free(file);
    return out;
}

/** Tolerance 1e-4: two fp32 programs that add in different orders differ by sqrt(n) 2^-24 per product sum, some 1e-6
 * after two blocks; a wrong epsilon, rotation, window or bias in these models moves logits by more than 1e-2. */
static void test_stored_logits(void **state) {
    const double tolerance = 1e-4;
    for (int f = 0; f < 2; f++) {
        flrq_backend *be = backend_opens(faces[f]);
        for (int i = 0; i < N_FOLDERS; i++) {
            char dir[128], path[160];
            int32_t *ids;
            int64_t rows, tokens;
            snprintf(dir, sizeof dir, "data/families/%s", family_folders[i]);
            flrq_model *m = model_opens(dir, 0);
            snprintf(path, sizeof path, "%s/tokens.npy", dir);
            MUST(flrq_tokens_read(path, m->vocab, &ids, &rows, &tokens));
            snprintf(path, sizeof path, "%s/logits.npy", dir);
            float *wanted = read_floats(path, rows * tokens * m->vocab);
            double worst = 0;
            for (int64_t r = 0; r < rows; r++) {
                float *got = model_logits(m, be, ids + r * tokens, tokens);
                double off = disagreement(got, wanted + r * tokens * m->vocab, tokens * m->vocab);
                if (!(off <= worst)) worst = off;
                free(got);
            }
            print_message("%-8s %-18s %.2e (%.1f %% of tolerance)\n", faces[f], family_folders[i], worst,
                          100 * worst / tolerance);
            if (!(worst <= tolerance)) fail_msg("%s on %s: %g", family_folders[i], faces[f], worst);
            free(wanted);
            free(ids);
            flrq_model_close(m);
        }
        flrq_backend_close(be);
    }
}

/* ---- one block under the microscope ------------------------------------------------------------------------------ */

typedef struct seen {
    int64_t calls[FLRQ_INPUT_COUNT], tokens[FLRQ_INPUT_COUNT], cols[FLRQ_INPUT_COUNT];
    float *data[FLRQ_INPUT_COUNT];
    int fail_at; /* input at which the observer fails, or -1 */
} seen;

static flrq_status see(void *user, flrq_input input, const float *d_x, int64_t tokens, int64_t cols) {
    seen *s = user;
    if ((int)input == s->fail_at) return flrq_fail(FLRQ_STOPPED, "stopped by the observer");
    s->calls[input]++;
    s->data[input] = realloc(s->data[input], (size_t)((s->tokens[input] + tokens) * cols) * sizeof(float));
    memcpy(s->data[input] + s->tokens[input] * cols, d_x,
           (size_t)(tokens * cols) * sizeof(float)); /* host memory here */
    s->tokens[input] += tokens;
    s->cols[input] = cols;
    return FLRQ_OK;
}

/** Row i of W x for a fp32 dense operand. */
static double dot_row(const flrq_operand *a, int64_t i, const float *x) {
    double sum = 0;
    for (int64_t j = 0; j < a->cols; j++) sum += (double)((const float *)a->d_dense)[i * a->ld_dense + j] * x[j];
    return sum;
}

/** The four observed inputs are those of the linear layers: the residual stream is rebuilt from them by hand. 600
 * tokens: two tiles of the MLP. */
static void test_observer(void **state) {
    enum { TOKENS = 600, HIDDEN = 32 };
    flrq_backend *be = backend_opens("cpu-ref");
    flrq_model *m = model_opens("data/families/qwen3", 0); /* heads * head_dim is 64 */
    flrq_block *block;
    MUST(flrq_block_new(&block, m, be));
    MUST(flrq_block_load(block, m, 1));
    float *x = malloc(TOKENS * HIDDEN * sizeof *x), *before = malloc(TOKENS * HIDDEN * sizeof *x);
    uint32_t noise = 1;
    for (int i = 0; i < TOKENS * HIDDEN; i++) {
        noise = noise * 1664525 + 1013904223;
        before[i] = x[i] = (float)(int32_t)noise / 2147483648.0f;
    }
    void *d_work = backend_memory(be, flrq_workspace_bytes(m, TOKENS, FLRQ_TOKEN_TILE));
    seen s = {.fail_at = -1};
    MUST(flrq_forward_block(m, be, block, x, TOKENS, FLRQ_TOKEN_TILE, d_work, see, &s));
    static const int64_t calls[] = {1, 1, 2, 2}, cols[] = {32, 64, 32, 48};
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        assert_int_equal(s.calls[i], calls[i]);
        assert_int_equal(s.tokens[i], TOKENS);
        assert_int_equal(s.cols[i], cols[i]);
    }
    double worst = 0;
    for (int t = 0; t < TOKENS; t++) {
        double square = 0, middle[HIDDEN], middle_square = 0;
        for (int i = 0; i < HIDDEN; i++) square += (double)before[t * HIDDEN + i] * before[t * HIDDEN + i];
        for (int i = 0; i < HIDDEN; i++) {
            middle[i] =
                before[t * HIDDEN + i] + dot_row(&block->linear[FLRQ_SLOT_O], i, s.data[FLRQ_INPUT_OUT] + t * 64);
            middle_square += middle[i] * middle[i];
        }
        for (int i = 0; i < HIDDEN; i++) {
            double first = before[t * HIDDEN + i] / sqrt(square / HIDDEN + 0.002) * block->d_attn_norm[i];
            double second = middle[i] / sqrt(middle_square / HIDDEN + 0.002) * block->d_mlp_norm[i];
            double last = middle[i] + dot_row(&block->linear[FLRQ_SLOT_DOWN], i, s.data[FLRQ_INPUT_DOWN] + t * 48);
            double off = fabs(first - s.data[FLRQ_INPUT_ATTENTION][t * HIDDEN + i]) +
                         fabs(second - s.data[FLRQ_INPUT_MLP][t * HIDDEN + i]) + fabs(last - x[t * HIDDEN + i]);
            if (!(off <= worst)) worst = off;
        }
    }
    /* values are of order 1, sums of up to 64 products: 64 * 2^-24 = 4e-6, over three of them */
    if (!(worst <= 2e-5)) fail_msg("the observed inputs do not rebuild the block: %g", worst);

    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        s.fail_at = i;
        assert_int_equal(flrq_forward_block(m, be, block, x, TOKENS, FLRQ_TOKEN_TILE, d_work, see, &s), FLRQ_STOPPED);
    }
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) free(s.data[i]);
    free(x);
    free(before);
    be->release(be, d_work);
    flrq_block_free(block, be);
    flrq_model_close(m);
    flrq_backend_close(be);
}

/** The first 40 of 600 tokens come out as 40 tokens alone do: nothing looks ahead, and tiles do not show. Windows of 8
 * as well. */
static void test_causal_and_tiled(void **state) {
    static const char *const folders[] = {"llama", "mistral_window"};
    enum { LONG = 600, SHORT = 40 };
    flrq_backend *be = backend_opens("cpu");
    int32_t ids[LONG];
    for (int i = 0; i < LONG; i++) ids[i] = i * 37 % 96;
    for (int i = 0; i < 2; i++) {
        char dir[128];
        snprintf(dir, sizeof dir, "data/families/%s", folders[i]);
        flrq_model *m = model_opens(dir, 0);
        float *few = model_logits(m, be, ids, SHORT), *many = model_logits(m, be, ids, LONG);
        double off = disagreement(many, few, SHORT * m->vocab);
        if (!(off <= 1e-5))
            fail_msg("%s: prefix differs by %g", folders[i], off); /* only the order of sums may differ */
        free(few);
        free(many);
        flrq_model_close(m);
    }
    flrq_backend_close(be);
}

/** Neither arena nor workspace is written beyond the size that was announced, for one token and for more than a tile.
 */
static void test_memory(void **state) {
    static const int64_t lengths[] = {1, 511, 513};
    enum { GUARD = 256 };
    flrq_backend *be = backend_opens("cpu");
    for (int i = 0; i < N_FOLDERS; i++) {
        char dir[128];
        snprintf(dir, sizeof dir, "data/families/%s", family_folders[i]);
        flrq_model *m = model_opens(dir, 0);
        flrq_block *block;
        MUST(flrq_block_new(&block, m, be));
        assert_int_equal(block->memory_bytes + block->staging_bytes, flrq_block_bytes(m));
        assert_int_equal(block->index, -1);
        MUST(flrq_block_load(block, m, m->layers - 1));
        assert_int_equal(block->index, m->layers - 1);
        for (int s = 0; s < FLRQ_SLOT_COUNT; s++) {
            const flrq_operand *a = &block->linear[s];
            if (a->rows == 0) continue;
            const char *begin = a->d_dense, *arena = block->d_memory;
            assert_true(begin >= arena && begin < arena + block->memory_bytes);
            assert_true((uintptr_t)begin % 64 == 0);
        }
        for (int l = 0; l < 3; l++) {
            size_t bytes = flrq_workspace_bytes(m, lengths[l], FLRQ_TOKEN_TILE);
            unsigned char *d_work = backend_memory(be, bytes + GUARD);
            float *d_x = backend_memory(be, (size_t)(lengths[l] * m->hidden) * sizeof(float));
            for (int64_t j = 0; j < lengths[l] * m->hidden; j++) d_x[j] = (float)(j % 7) - 3;
            memset(d_work, 0xa5, bytes + GUARD);
            MUST(flrq_forward_block(m, be, block, d_x, lengths[l], FLRQ_TOKEN_TILE, d_work, NULL, NULL));
            for (int g = 0; g < GUARD; g++) assert_int_equal(d_work[bytes + g], 0xa5);
            for (int64_t j = 0; j < lengths[l] * m->hidden; j++) assert_true(isfinite(d_x[j]));
            be->release(be, d_work);
            be->release(be, d_x);
        }
        flrq_block_free(block, be);
        flrq_model_close(m);
    }
    flrq_backend_close(be);
}

/** An embedding of several pieces of staging: what arrives is what the file holds. */
static void test_large_tensors(void **state) {
    enum { VOCAB = 150000, HIDDEN = 48 };
    folder *f = folder_read("families/llama_bf16");
    json_object_set_new(f->config, "vocab_size", json_integer(VOCAB));
    json_object_set_new(f->config, "tie_word_embeddings", json_true());
    folder_remove(f, "lm_head.weight");
    folder_remove(f, "model.embed_tokens.weight");
    folder_tensor *e = folder_add(f, "model.embed_tokens.weight", FLRQ_BF16, 2, VOCAB, HIDDEN, NULL);
    for (int64_t i = 0; i < VOCAB * HIDDEN; i++) ((uint16_t *)e->data)[i] = (uint16_t)(i * 2654435761u >> 16 & 0x3fff);
    flrq_backend *be = backend_opens("cpu");
    flrq_model *m = model_opens(folder_write(f), 0);
    flrq_globals *g;
    MUST(flrq_globals_load(&g, m, be, FLRQ_GLOBALS_EMBED | FLRQ_GLOBALS_HEAD));
    assert_memory_equal(g->embedding.d_dense, e->data, e->bytes);
    assert_ptr_equal(g->head.d_dense, g->embedding.d_dense); /* tied: once in memory */
    assert_int_equal(flrq_globals_bytes(m, FLRQ_GLOBALS_EMBED | FLRQ_GLOBALS_HEAD), e->bytes + HIDDEN * sizeof(float));
    flrq_globals_free(g, be);
    MUST(flrq_globals_load(&g, m, be, FLRQ_GLOBALS_HEAD));
    assert_memory_equal(g->head.d_dense, e->data, e->bytes);
    assert_int_equal(g->embedding.rows, 0);
    flrq_globals_free(g, be);
    flrq_model_close(m);
    folder_free(f);
    flrq_backend_close(be);
}

static void test_failures(void **state) {
    flrq_backend *be = backend_opens("cpu");
    flrq_globals *g = NULL;
    flrq_block *block = NULL;

    flrq_model *m = model_opens("data/families/opt", 0); /* 48 learned positions */
    int32_t ids[49] = {0};
    float *x = malloc(49 * 32 * sizeof *x);
    MUST(flrq_globals_load(&g, m, be, FLRQ_GLOBALS_EMBED));
    MUST(flrq_forward_embed(m, be, g, x, ids, 48));
    assert_int_equal(flrq_forward_embed(m, be, g, x, ids, 49), FLRQ_ERR_SHAPE);
    assert_non_null(strstr(flrq_last_error(), "max_position_embeddings"));
    flrq_globals_free(g, be);
    flrq_model_close(m);
    free(x);

    folder *f = folder_read("families/llama");
    const char *dir = folder_write(f);
    char path[512];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    m = model_opens(dir, 0);
    MUST(flrq_block_new(&block, m, be));
    assert_int_equal(flrq_forward_block(m, be, block, NULL, 1, FLRQ_TOKEN_TILE, NULL, NULL, NULL), FLRQ_ERR_INTERNAL);
    MUST(flrq_block_load(block, m, 0));
    assert_int_equal(truncate(path, 8192), 0); /* the file shrinks under the reader */
    assert_int_equal(flrq_block_load(block, m, 1), FLRQ_ERR_IO);
    assert_non_null(strstr(flrq_last_error(), path));
    assert_int_equal(block->index, -1);
    assert_int_equal(flrq_globals_load(&g, m, be, FLRQ_GLOBALS_EMBED | FLRQ_GLOBALS_HEAD), FLRQ_ERR_IO);
    assert_null(g);
    flrq_block_free(block, be);
    flrq_model_close(m);

    json_object_set_new(f->config, "model_type", json_string("strange"));
    m = model_opens(folder_write(f), FLRQ_MODEL_ALLOW_UNKNOWN);
    assert_int_equal(flrq_block_bytes(m), 0);
    assert_int_equal(flrq_workspace_bytes(m, 10, FLRQ_TOKEN_TILE), 0);
    assert_int_equal(flrq_globals_bytes(m, FLRQ_GLOBALS_HEAD), 0);
    assert_int_equal(flrq_block_new(&block, m, be), FLRQ_ERR_UNSUPPORTED);
    assert_null(block);
    assert_int_equal(flrq_globals_load(&g, m, be, FLRQ_GLOBALS_HEAD), FLRQ_ERR_UNSUPPORTED);
    assert_non_null(strstr(flrq_last_error(), "strange"));
    flrq_model_close(m);
    folder_free(f);
    flrq_block_free(NULL, be);
    flrq_globals_free(NULL, be);
    flrq_backend_close(be);
}

/** The token batch changes neither what the block gives nor what the observer sees at once; the workspace is what it
 * says.
 */
static void test_batch(void **state) {
    enum { TOKENS = 1100, HIDDEN = 32, GUARD = 64 };
    static const int64_t batches[] = {FLRQ_TOKEN_TILE, 2 * FLRQ_TOKEN_TILE, TOKENS, 5 * FLRQ_TOKEN_TILE};
    flrq_backend *be = backend_opens("cpu");
    flrq_model *m = model_opens("data/families/llama", 0);
    flrq_block *block;
    float *first = NULL;
    seen wanted = {.fail_at = -1};
    MUST(flrq_block_new(&block, m, be));
    MUST(flrq_block_load(block, m, 0));
    for (int i = 0; i < 4; i++) {
        size_t bytes = flrq_workspace_bytes(m, TOKENS, batches[i]);
        unsigned char *d_work = backend_memory(be, bytes + GUARD);
        float *x = malloc(TOKENS * HIDDEN * sizeof *x);
        seen s = {.fail_at = -1};
        memset(d_work, 0xa5, bytes + GUARD);
        for (int k = 0; k < TOKENS * HIDDEN; k++) x[k] = (float)(k * 7919 % 1000) / 500 - 1;
        MUST(flrq_forward_block(m, be, block, x, TOKENS, batches[i], d_work, see, &s));
        for (int g = 0; g < GUARD; g++) assert_int_equal(d_work[bytes + g], 0xa5);
        assert_int_equal(s.calls[FLRQ_INPUT_ATTENTION], 1);
        assert_int_equal(s.calls[FLRQ_INPUT_MLP], 3);
        assert_int_equal(s.calls[FLRQ_INPUT_DOWN], 3);
        if (!first) {
            first = x, wanted = s;
        } else {
            assert_memory_equal(x, first, TOKENS * HIDDEN * sizeof *x);
            for (int k = 0; k < FLRQ_INPUT_COUNT; k++) {
                assert_memory_equal(s.data[k], wanted.data[k], (size_t)(TOKENS * s.cols[k]) * sizeof(float));
                free(s.data[k]);
            }
            free(x);
        }
        be->release(be, d_work);
    }
    assert_true(flrq_workspace_bytes(m, TOKENS, TOKENS) > flrq_workspace_bytes(m, TOKENS, FLRQ_TOKEN_TILE));
    assert_int_equal(flrq_workspace_bytes(m, TOKENS, TOKENS), flrq_workspace_bytes(m, TOKENS, 5 * FLRQ_TOKEN_TILE));
    for (int k = 0; k < FLRQ_INPUT_COUNT; k++) free(wanted.data[k]);
    free(first);
    flrq_block_free(block, be);
    flrq_model_close(m);
    flrq_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stored_logits),
        cmocka_unit_test(test_observer),
        cmocka_unit_test(test_causal_and_tiled),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_large_tensors),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
