/* test_bench_model.c - generated checkpoints: sizes of published models, tensors that the loader knows, reproducible
 * bytes.
 */
#include "io/scratch.h"

#include <math.h>

#include "core/dtype.h"
#include "flrq.h"
#include "pipeline/bench_model.h"

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) != FLRQ_OK) fail_msg("%s", flrq_last_error());                                                      \
    } while (0)

static const flrq_bench_shape *shape_named(const char *name) {
    const flrq_bench_shape *shapes[FLRQ_BENCH_SHAPES];
    int count;
    MUST(flrq_bench_shapes_parse(name, shapes, &count));
    assert_int_equal(count, 1);
    return shapes[0];
}

/* Parameters of the published models, as transformers counts those of their configurations (a tied head once). */
static const struct {
    const char *name;
    int64_t parameters;
} published[FLRQ_BENCH_PUBLISHED] = {
    {"llama2-7b", 6738415616},   {"llama2-13b", 13015864320}, {"llama2-70b", 68976648192}, {"llama3-8b", 8030261248},
    {"llama3-70b", 70553706496}, {"opt-1.3b", 1315758080},    {"opt-2.7b", 2651596800},    {"opt-6.7b", 6658473984},
    {"opt-13b", 12853473280},    {"opt-30b", 29974540288},    {"opt-66b", 65719701504},    {"qwen2.5-72b", 72706203648},
};

static void test_sizes(void **state) {
    for (int i = 0; i < FLRQ_BENCH_PUBLISHED; i++) {
        assert_string_equal(published[i].name, flrq_bench_shapes[i].name);
        uint64_t bytes = flrq_bench_model_bytes(&flrq_bench_shapes[i], flrq_bench_shapes[i].blocks);
        if (bytes != 2 * (uint64_t)published[i].parameters) fail_msg("%s: %llu", published[i].name, (long long)bytes);
    }
}

/* A fresh folder with the shape in it; removed by the caller. */
static const char *write_shape(const char *folder, const flrq_bench_shape *shape, int64_t blocks, uint64_t seed,
                               int empty) {
    flrq_reporter reporter = {0};
    const char *dir = scratch_path(folder);
    scratch_remove(dir);
    assert_int_equal(mkdir(dir, 0777), 0);
    MUST(flrq_bench_model_write(dir, shape, blocks, seed, 2, empty, &reporter));
    return dir;
}

/* Every tensor has the shape that config.json wants, none is missing and none is left over, by the loader's judgement;
 * and holes take no space. */
static void test_loader_knows_all(void **state) {
    for (int i = 0; i < FLRQ_BENCH_SHAPES; i++) {
        const flrq_bench_shape *s = &flrq_bench_shapes[i];
        const char *dir = write_shape("holes", s, s->blocks, 0, 1);
        flrq_model *m;
        struct stat first;
        MUST(flrq_model_open(&m, dir, 0));
        uint64_t bytes = 0;
        for (int64_t t = 0; t < m->checkpoint->n_tensors; t++) bytes += m->checkpoint->tensors[t].bytes;
        assert_true(bytes == flrq_bench_model_bytes(s, s->blocks));
        assert_int_equal(m->layers, s->blocks);
        assert_int_equal(m->hidden, s->hidden);
        assert_int_equal(m->ffn, s->intermediate);
        assert_int_equal(m->kv_heads, s->kv_heads);
        assert_int_equal(m->vocab, s->vocab);
        assert_int_equal(m->max_positions, s->positions);
        assert_int_equal(m->tied, s->family == FLRQ_BENCH_OPT);
        assert_int_equal(m->n_linears, s->blocks * (s->family == FLRQ_BENCH_OPT ? 6 : 7));
        for (int64_t l = 0; l < m->n_linears; l++) {
            assert_int_equal(m->linears[l].cols % 128, 0); /* the default group */
            int biased = s->family == FLRQ_BENCH_OPT || (s->family == FLRQ_BENCH_QWEN2 && m->linears[l].slot < 3);
            assert_int_equal(m->linears[l].bias != NULL, biased);
        }
        for (int64_t o = 0; o < m->n_others; o++) assert_int_equal(m->others[o].fate, FLRQ_FATE_COPY);
        assert_int_equal(stat(m->checkpoint->files[m->linears[0].weight->file], &first), 0);
        assert_true(first.st_blocks * 512 < 65536);
        flrq_model_close(m);
        scratch_remove(dir);
    }
}

static double rms(const uint16_t *values, uint64_t count) {
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) sum += pow(flrq_load(values, FLRQ_BF16, (int64_t)i), 2);
    return sqrt(sum / (double)count);
}

static const flrq_tensor *tensor_named(const flrq_model *m, const char *name) {
    for (int64_t t = 0; t < m->checkpoint->n_tensors; t++)
        if (strcmp(m->checkpoint->tensors[t].name, name) == 0) return &m->checkpoint->tensors[t];
    fail_msg("no tensor %s", name);
    return NULL;
}

/* Root mean square of a tensor. */
static double rms_of(const flrq_model *m, const char *name) {
    const flrq_tensor *t = tensor_named(m, name);
    size_t bytes;
    char *file = scratch_get(m->checkpoint->files[t->file], &bytes);
    assert_true(t->offset + t->bytes <= bytes);
    double value = rms((const uint16_t *)(file + t->offset), t->bytes / 2);
    free(file);
    return value;
}

/* What each kind of tensor holds. Sums of n squares of normals are within 5 sqrt(2 / n) of n, roundings to bf16 within
 * 2^-8; the smallest tensor here has 256 values: 0.44 of the square, 0.25 of its root. */
static void test_contents(void **state) {
    flrq_model *m;
    const char *dir = write_shape("opt", shape_named("tiny-opt"), 2, 3, 0);
    MUST(flrq_model_open(&m, dir, 0));
    static const struct {
        const char *name;
        double rms;
    } tensors[] = {
        {"model.decoder.embed_tokens.weight", 0.02},   {"model.decoder.embed_positions.weight", 0.02},
        {"model.decoder.layers.1.fc1.bias", 0.05},     {"model.decoder.layers.1.self_attn.out_proj.bias", 0.05},
        {"model.decoder.final_layer_norm.bias", 0.05}, {"model.decoder.layers.0.final_layer_norm.bias", 0.05}};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        double got = rms_of(m, tensors[i].name);
        if (!(fabs(got / tensors[i].rms - 1) <= 0.25)) fail_msg("%s: %g", tensors[i].name, got);
    }
    /* noise 1 and structure of 0.45 of its energy: 0.015 sqrt(1.45) */
    double weight = rms_of(m, "model.decoder.layers.1.fc2.weight");
    assert_true(weight > 0.016 && weight < 0.021);
    /* all ones: the first outlier channel would be number 256 */
    assert_true(rms_of(m, "model.decoder.layers.0.self_attn_layer_norm.weight") == 1);
    flrq_model_close(m);
    scratch_remove(dir);
}

static void expect_same(const char *a, const char *b, const char *file, int same) {
    char path_a[600], path_b[600];
    size_t bytes_a, bytes_b;
    snprintf(path_a, sizeof path_a, "%s/%s", a, file);
    snprintf(path_b, sizeof path_b, "%s/%s", b, file);
    char *x = scratch_get(path_a, &bytes_a), *y = scratch_get(path_b, &bytes_b);
    assert_int_equal(bytes_a, bytes_b);
    if ((memcmp(x, y, bytes_a) == 0) != same) fail_msg("%s: expected %s bytes", file, same ? "the same" : "other");
    free(x);
    free(y);
}

/* From the seed alone, whatever lay there before; names of blocks are of equal length, so that their files are equal
 * but for the header's digit. */
static void test_reproducible(void **state) {
    static const char *const names[] = {"tiny", "tiny-opt", "tiny-qwen2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const flrq_bench_shape *s = shape_named(names[i]);
        flrq_reporter reporter = {0};
        const char *a = write_shape("a", s, 2, 7, 1), *b = write_shape("b", s, 2, 7, 0),
                   *c = write_shape("c", s, 2, 8, 0);
        MUST(flrq_bench_model_write(a, s, 2, 7, 1, 0, &reporter)); /* over the holes; another number of threads */
        for (int f = 1; f <= 3; f++) {
            char file[64];
            snprintf(file, sizeof file, "model-%05d-of-00003.safetensors", f);
            expect_same(a, b, file, 1);
            expect_same(b, c, file, 0);
        }
        expect_same(a, b, "config.json", 1);
        scratch_remove(a);
        scratch_remove(b);
        scratch_remove(c);
    }
}

static void test_lists(void **state) {
    static const char *const bad[] = {"", "llama", "llama2-7b,", ",tiny", "tiny,tiny", "tiny all", "all,tiny", "tiny2"};
    const flrq_bench_shape *shapes[FLRQ_BENCH_SHAPES];
    int count;
    MUST(flrq_bench_shapes_parse("opt-66b,tiny,llama2-7b", shapes, &count));
    assert_int_equal(count, 3);
    assert_string_equal(shapes[0]->name, "opt-66b");
    assert_string_equal(shapes[1]->name, "tiny");
    assert_string_equal(shapes[2]->name, "llama2-7b");
    MUST(flrq_bench_shapes_parse("all", shapes, &count));
    assert_int_equal(count, FLRQ_BENCH_PUBLISHED);
    for (int i = 0; i < count; i++) assert_null(strstr(shapes[i]->name, "tiny"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (flrq_bench_shapes_parse(bad[i], shapes, &count) != FLRQ_ERR_USAGE) fail_msg("\"%s\" was taken", bad[i]);
}

static void test_failures(void **state) {
    flrq_reporter reporter = {0};
    const flrq_bench_shape *s = shape_named("tiny");
    assert_int_equal(flrq_bench_model_write(scratch_path("none"), s, 1, 0, 1, 0, &reporter), FLRQ_ERR_IO);
    assert_non_null(strstr(flrq_last_error(), "none/config.json"));
    const char *dir = write_shape("stopped", s, 1, 0, 1);
    flrq_request_stop();
    assert_int_equal(flrq_bench_model_write(dir, s, 1, 0, 1, 0, &reporter), FLRQ_STOPPED);
    flrq_stop_clear();
    assert_int_equal(flrq_bench_tokens_write(scratch_path("none/tokens.npy"), 10, 1, 2, 0), FLRQ_ERR_IO);
    scratch_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes),    cmocka_unit_test(test_loader_knows_all),
                                       cmocka_unit_test(test_contents), cmocka_unit_test(test_reproducible),
                                       cmocka_unit_test(test_lists),    cmocka_unit_test(test_failures)};
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
