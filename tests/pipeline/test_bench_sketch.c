/* test_bench_sketch.c - bench sketch as a job: rows, ranks and curves with known answers, weights of checkpoints,
 * files, refusals by their texts. No time is asserted.
 */
#include <stdarg.h>

#include "core/philox.h"
#include "model/logits.h"

static const char *stop_at; /* phase in which the job is asked to stop */

static void on_event(void *user, const flrq_event *event) {
    if (event->kind == FLRQ_EVENT_NOTICE && user) snprintf(user, 512, "%s", event->text);
    if (stop_at && event->phase && strcmp(event->phase, stop_at) == 0) flrq_request_stop();
}

/* Runs it with options "name", "value", ..., NULL; the result, or NULL after a failure with *status and its text. */
static json_t *run_list(flrq_status *status, char notice[512], va_list list) {
    flrq_params *params;
    char *text = NULL;
    MUST(flrq_params_new(&params, "bench-sketch"));
    MUST(flrq_params_set(params, "device", "cpu"));
    MUST(flrq_params_set(params, "threads", "2"));
    MUST(flrq_params_set(params, "repeats", "1"));
    for (const char *name = va_arg(list, const char *); name; name = va_arg(list, const char *))
        MUST(flrq_params_set(params, name, va_arg(list, const char *)));
    *status = flrq_run(params, on_event, notice, &text);
    flrq_params_free(params);
    json_t *result = *status == FLRQ_OK ? json_loads(text, 0, NULL) : NULL;
    assert_true((*status == FLRQ_OK) == (result != NULL));
    flrq_free(text);
    return result;
}

static json_t *runs(const char *unused, ...) {
    flrq_status status;
    va_list list;
    va_start(list, unused);
    json_t *result = run_list(&status, NULL, list);
    va_end(list);
    if (!result) fail_msg("%s", flrq_last_error());
    return result;
}

/* Refused with that status; `piece` is in the text. */
static void refused(flrq_status wanted, const char *piece, ...) {
    flrq_status status;
    va_list list;
    va_start(list, piece);
    json_t *result = run_list(&status, NULL, list);
    va_end(list);
    assert_null(result);
    if (status != wanted || !strstr(flrq_last_error(), piece))
        fail_msg("%s: \"%s\" lacks \"%s\"", flrq_status_name(status), flrq_last_error(), piece);
}

#define RUN(...)                    runs(NULL, __VA_ARGS__, NULL)
#define REFUSED(wanted, piece, ...) refused(wanted, piece, __VA_ARGS__, NULL)

static const char *text_of(const json_t *row, const char *key) {
    const char *text = json_string_value(json_object_get(row, key));
    if (!text) fail_msg("no text %s in the row", key);
    return text;
}

static double number_of(const json_t *row, const char *key) {
    const json_t *value = json_object_get(row, key);
    if (!json_is_number(value)) fail_msg("no number %s in the row", key);
    return json_number_value(value);
}

/* The row of a table with this matrix (NULL: the first) and method, and rank where it is not 0. */
static const json_t *row_of(const json_t *result, const char *table, const char *matrix, const char *method, int rank) {
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(result, table), i, row) {
        if (matrix && strcmp(text_of(row, "matrix"), matrix) != 0) continue;
        if (strcmp(text_of(row, "method"), method) == 0 && (rank == 0 || number_of(row, "rank") == rank)) return row;
    }
    fail_msg("no row of %s, %s, rank %d in %s", matrix ? matrix : "the matrix", method, rank, table);
    return NULL;
}

/* The curve of a method; its length. */
static int curve_of(const json_t *result, const char *matrix, const char *method, float curve[1000]) {
    size_t i;
    int count = 0;
    json_t *row;
    json_array_foreach(json_object_get(result, "amax"), i, row) {
        if (strcmp(text_of(row, "matrix"), matrix) != 0 || strcmp(text_of(row, "method"), method) != 0) continue;
        assert_int_equal((int)number_of(row, "r"), count);
        curve[count++] = (float)number_of(row, "amax");
    }
    return count;
}

/* The paper's rule (Eq. 9) and its best point, written once more: rank r costs 16 r (m + n) / (m n) bits a weight and
 * gains log2(amax_0 / amax_r). */
static void rules(const float *amax, int cap, double m, double n, int *greedy, int *best) {
    double unit = 16 * (m + n) / (m * n), most = 0;
    *greedy = *best = 0;
    for (int r = 1; r <= cap; r++) {
        double gain = log2((double)amax[0] / amax[r]) - unit * r;
        if (*greedy == r - 1 && gain >= 0) *greedy = r;
        if (gain > most) most = gain, *best = r;
    }
}

/* A model of an unknown family with one weight matrix, written; its folder. */
static const char *planted(const float *a, int64_t m, int64_t n, flrq_dtype dtype, const char *name) {
    static char dir[512];
    folder *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->config = json_pack("{s:s, s:[s]}", "model_type", "planted", "architectures", "PlantedForCausalLM");
    folder_tensor *t = folder_add(f, name, dtype, 2, m, n, NULL);
    for (int64_t i = 0; i < m * n; i++) flrq_store(t->data, dtype, i, a[i]);
    folder_add(f, "model.layers.0.norm.weight", dtype, 1, n, 0, NULL);
    snprintf(dir, sizeof dir, "%s", folder_write(f));
    folder_free(f);
    return dir;
}

/* ---- known answers ----------------------------------------------------------------------------------------------- */

/* Three terms on disjoint blocks, 8, 4 and 2, on signs of 1/16 (exact in all types): the curve is 8, 4, 2, 1/16 and
 * little else, three ranks are worth six bits for 1.25, and no method can miss them. */
static void test_planted_rank(void **state) {
    enum { M = 96, N = 64, TERMS = 3 };
    static const char *const methods[] = {"block", "r1", "rsvd", "svd"};
    static const flrq_dtype dtypes[] = {FLRQ_F32, FLRQ_F16, FLRQ_BF16};
    const char *name = "model.layers.0.only.weight";
    float a[M * N];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            int term = i / 32;
            a[i * N + j] = (flrq_philox_below(1, 0, (uint64_t)(i * N + j), 2) ? 1 : -1) / 16.0f;
            if (j / 20 == term) a[i * N + j] += (float)(8 >> term);
        }
    for (int d = 0; d < 3; d++) {
        json_t *result = RUN("model", planted(a, M, N, dtypes[d], name), "ranks", "3,64", "rank-extra", "4");
        for (int k = 0; k < 4; k++) {
            const json_t *row = row_of(result, "ranks", name, methods[k], 0);
            float amax[1000];
            int greedy, best, cap = (int)number_of(row, "cap");
            assert_int_equal(curve_of(result, name, methods[k], amax), 65);
            assert_true(amax[0] == 8 + 1 / 16.0f);
            /* After the terms the signs are left; vectors that see them are off by parts of 1/16. */
            assert_true(amax[2] >= 1.9f && amax[3] <= 3 / 16.0f);
            assert_int_equal(number_of(row, "rank_best"), 3);
            assert_int_equal(cap, (int)(4 * 4 * (M * N) / (16.0 * (M + N))));
            rules(amax, cap, M, N, &greedy, &best);
            assert_int_equal(number_of(row, "rank_r1flr"), greedy);
            assert_int_equal(best, 3);
            assert_true(number_of(row, "amax_r1flr") == amax[greedy]);
            assert_true(json_is_true(json_object_get(row, "capped")) == (greedy == cap));
            assert_string_equal(text_of(row, "cap_from"), "rank-extra");
            assert_string_equal(text_of(row_of(result, "rows", name, methods[k], 3), "dtype"),
                                flrq_dtype_name(dtypes[d]));
            assert_null(json_object_get(row, "spectrum"));
        }
        json_decref(result);
    }
}

/* A steep spectrum leaves no room: block and exact SVD have the same residuals, curves and ranks. */
static void test_steep(void **state) {
    json_t *result = RUN("shapes", "256x320", "spectra", "fast", "outliers", "none,columns", "ranks", "32,8",
                         "rank-extra", "4", "power-iterations", "4");
    static const char *const matrices[] = {"fast+none 256x320", "fast+columns 256x320"};
    for (int i = 0; i < 2; i++)
        for (int rank = 8; rank <= 32; rank += 24) {
            const json_t *row = row_of(result, "rows", matrices[i], "block", rank);
            /* Halko et al. (2011), Eq. 1.10 with four iterations: what remains of the 9th term beyond is
             * (2^(-1))^(2 q + 1) = 1/512 of it, and energies add in squares. */
            assert_true(number_of(row, "excess") >= -1e-5 && number_of(row, "excess") <= 1e-4);
            row = row_of(result, "rows", matrices[i], "rsvd", rank);
            assert_true(number_of(row, "excess") >= -1e-5 && number_of(row, "excess") <= 1e-4);
            row = row_of(result, "rows", matrices[i], "svd", rank);
            assert_true(fabs(number_of(row, "excess")) <= 1e-5);
            row = row_of(result, "rows", matrices[i], "svdj", rank);
            assert_string_equal(text_of(row, "status"), "not on this device");
            assert_null(json_object_get(row, "seconds"));
            assert_null(json_object_get(row, "routine"));
        }
    for (int i = 0; i < 2; i++) {
        const json_t *row = row_of(result, "ranks", matrices[i], "block", 0);
        assert_true(json_is_true(json_object_get(row, "agrees")));
        assert_string_equal(text_of(row, "reference"), "svd");
        assert_true(number_of(row, "curve_difference") <= 0.05);
        assert_null(json_object_get(row_of(result, "ranks", matrices[i], "svd", 0), "agrees"));
    }
    assert_int_equal(json_array_size(json_object_get(result, "rows")), 2 * 2 * 5);
    assert_int_equal(json_array_size(json_object_get(result, "ranks")), 2 * 4);
    assert_int_equal(json_array_size(json_object_get(result, "amax")), 2 * 4 * 33);
    json_decref(result);
}

/* 64 terms and 768 x 1024 / 2^17 = 6 spikes stand above the noise: the best rank is 70 of all methods that see the
 * whole spectrum at once. The greedy rule stops at once, since the first terms take no spike away. */
static void test_spikes_are_ranks(void **state) {
    json_t *result =
        RUN("shapes", "768x1024", "spectra", "step", "outliers", "spikes", "ranks", "80", "rank-extra", "1");
    static const char *const methods[] = {"block", "rsvd", "svd"};
    for (int k = 0; k < 3; k++) {
        const json_t *row = row_of(result, "ranks", NULL, methods[k], 0);
        assert_int_equal(number_of(row, "rank_best"), 70);
        assert_int_equal(number_of(row, "rank_r1flr"), 0);
        assert_string_equal(text_of(row, "cap_from"), "ranks");
        assert_true(json_is_false(json_object_get(row, "capped")));
    }
    json_decref(result);
}

/* Every row of the ranks follows from the curves beside it, and the summary from the rows. */
static void test_consistent(void **state) {
    json_t *result = RUN("shapes", "200x300,300x200", "spectra", "power,flat,step", "outliers", "spikes,rows", "ranks",
                         "24", "rank-extra", "1", "bits", "3", "methods", "r1,svd,block");
    size_t i;
    json_t *row;
    int differ = 0, compared = 0;
    json_array_foreach(json_object_get(result, "ranks"), i, row) {
        const char *matrix = text_of(row, "matrix"), *method = text_of(row, "method");
        float own[1000], reference[1000];
        int greedy, best, reference_greedy, reference_best, cap = (int)number_of(row, "cap");
        double most = 0;
        assert_int_equal(curve_of(result, matrix, method, own), 25);
        assert_int_equal(curve_of(result, matrix, "svd", reference), 25);
        assert_int_equal(cap, (int)(3 * 60000 / (16.0 * 500))); /* 22, below the 24 ranks that there are */
        rules(own, cap, 200, 300, &greedy, &best);
        rules(reference, cap, 200, 300, &reference_greedy, &reference_best);
        assert_int_equal(number_of(row, "rank_r1flr"), greedy);
        assert_int_equal(number_of(row, "rank_best"), best);
        if (strcmp(method, "svd") == 0) continue;
        for (int r = 0; r <= cap; r++) most = fmax(most, fabs(own[r] / (double)reference[r] - 1));
        /* JSON has 17 digits of doubles, the curve nine of floats: exact. */
        assert_true(fabs(number_of(row, "curve_difference") - most) <= 1e-9);
        int agrees = greedy == reference_greedy && best == reference_best;
        assert_int_equal(json_is_true(json_object_get(row, "agrees")), agrees);
        compared++, differ += !agrees;
    }
    int matrices = 0, agree = 0, named = 0;
    json_t *of_method;
    size_t k;
    json_array_foreach(json_object_get(result, "agreement"), k, of_method) {
        matrices += (int)number_of(of_method, "matrices"), agree += (int)number_of(of_method, "agree");
        named += (int)json_array_size(json_object_get(of_method, "differ"));
    }
    assert_int_equal(k, 2); /* block, r1 */
    assert_int_equal(matrices, compared);
    assert_int_equal(agree, compared - differ);
    assert_int_equal(named, differ);
    json_decref(result);
}

static void test_zero_matrix(void **state) {
    const char *name = "model.layers.0.only.weight";
    float a[40 * 30] = {0};
    json_t *result = RUN("model", planted(a, 40, 30, FLRQ_F32, name), "ranks", "5");
    static const char *const methods[] = {"block", "r1", "rsvd", "svd"};
    for (int k = 0; k < 4; k++) {
        const json_t *row = row_of(result, "rows", name, methods[k], 5);
        assert_true(number_of(row, "residual") == 0);
        assert_null(json_object_get(row, "excess"));
        row = row_of(result, "ranks", name, methods[k], 0);
        assert_true(number_of(row, "rank_r1flr") == 0 && number_of(row, "rank_best") == 0);
        assert_true(number_of(row, "amax_0") == 0);
    }
    json_decref(result);
}

/* Rank 1 of 1 x n, ranks above the size, and a size below every cap. */
static void test_small(void **state) {
    json_t *result = RUN("shapes", "1x40,40x1,2x3", "spectra", "flat", "outliers", "none", "ranks", "1,2,7",
                         "rank-extra", "4", "bits", "8");
    assert_int_equal(json_array_size(json_object_get(result, "rows")), 5 * (1 + 1 + 2));
    const json_t *row = row_of(result, "ranks", "flat+none 1x40", "svd", 0);
    assert_int_equal(number_of(row, "cap"), 1);
    assert_string_equal(text_of(row, "cap_from"), "size");
    json_decref(result);
    result = RUN("shapes", "400x400", "ranks", "2", "methods", "block", "rank-extra", "4");
    row = row_of(result, "ranks", NULL, "block", 0);
    assert_string_equal(text_of(row, "cap_from"), "ranks");
    assert_string_equal(text_of(row, "reference"), "block");
    assert_int_equal(json_array_size(json_object_get(result, "agreement")), 0); /* nobody to agree with */
    json_decref(result);
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------- */

static void test_checkpoints(void **state) {
    static const struct {
        const char *dir, *tensor, *dtype;
        size_t matrices;
    } cases[] = {{"data/families/llama", NULL, "F32", 7},
                 {"data/families/llama_bf16", "layers\\.1\\..*(gate|up)_proj", "BF16", 2},
                 {"data/families/llama_f16_sharded", "down_proj\\.weight$", "F16", 2},
                 {"data/families/opt", "fc[12]", "F32", 4},
                 {"data/tinylm", "layers.0.self_attn.q_proj", "F16", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *result = cases[i].tensor ? RUN("model", cases[i].dir, "tensor", cases[i].tensor, "ranks", "4",
                                               "methods", "block,svd")
                                         : RUN("model", cases[i].dir, "ranks", "4", "methods", "block,svd");
        const json_t *matrices = json_object_get(result, "matrices"), *row = json_array_get(matrices, 0);
        if (json_array_size(matrices) != cases[i].matrices)
            fail_msg("%s: %zu matrices", cases[i].dir, json_array_size(matrices));
        flrq_model *model = model_opens(cases[i].dir, 0);
        const flrq_tensor *t = flrq_checkpoint_find(model->checkpoint, text_of(row, "matrix"));
        assert_non_null(t);
        assert_string_equal(text_of(row, "dtype"), flrq_dtype_name(t->dtype));
        if (i < 4) assert_string_equal(text_of(row, "dtype"), cases[i].dtype);
        /* The norm, from the file alone. */
        double squares = 0, norm = number_of(row_of(result, "rows", text_of(row, "matrix"), "block", 4), "norm");
        void *data = malloc(t->bytes);
        MUST(flrq_checkpoint_read(model->checkpoint, t, data, 0, t->bytes));
        for (int64_t k = 0; k < flrq_tensor_count(t); k++) squares += pow(flrq_load(data, t->dtype, k), 2);
        /* 256 squares are summed in fp32 lanes, at most 37 roundings of 2^-24 on the way, of which the root takes half.
         */
        assert_true(fabs(norm / sqrt(squares) - 1) <= 0x1p-19);
        free(data);
        flrq_model_close(model);
        json_decref(result);
    }
}

static void test_checkpoint_refusals(void **state) {
    const char *llama = "data/families/llama", *name = "model.layers.0.only.weight";
    float a[12 * 10] = {0};
    REFUSED(FLRQ_ERR_USAGE, "model.layers.0", "model", llama, "tensor", "no_such_proj");
    REFUSED(FLRQ_ERR_USAGE, "model.norm.weight (F32, 1 dimension) is none", "model", llama, "tensor", "^model\\.norm");
    REFUSED(FLRQ_ERR_USAGE, "--tensor", "model", llama, "tensor", "(");
    REFUSED(FLRQ_ERR_USAGE, "UTF-8", "model", llama, "tensor", "\xff");
    REFUSED(FLRQ_ERR_USAGE, "--shapes", "model", llama, "shapes", "64x64");
    REFUSED(FLRQ_ERR_USAGE, "--spectra", "model", llama, "spectra", "power");
    REFUSED(FLRQ_ERR_USAGE, "--outliers", "model", llama, "outliers", "none");
    REFUSED(FLRQ_ERR_USAGE, "--model", "tensor", "x");
    REFUSED(FLRQ_ERR_IO, "no/such/folder", "model", "no/such/folder");
    a[17] = NAN;
    REFUSED(FLRQ_ERR_NUMERIC, "tensor model.layers.0.only.weight: element (1, 7)", "model",
            planted(a, 12, 10, FLRQ_BF16, name));
    /* Vector lanes sum squares in fp32. */
    float wide[8 * 256] = {1e30f};
    REFUSED(FLRQ_ERR_NUMERIC, "tensor model.layers.0.only.weight: the squares", "model",
            planted(wide, 8, 256, FLRQ_F32, name));
    a[17] = 0, a[3] = -INFINITY;
    REFUSED(FLRQ_ERR_NUMERIC, "element (0, 3)", "model", planted(a, 12, 10, FLRQ_F16, name));
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static char *file_text(const char *dir, const char *name) {
    char path[600], *text = NULL;
    size_t bytes;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (flrq_file_read(path, 1 << 26, &text, &bytes) != FLRQ_OK) fail_msg("%s", flrq_last_error());
    return text;
}

static int has_file(const char *dir, const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return flrq_path_exists(path);
}

/* Lines below the heading; every line has as many commas as the heading (names here have none). */
static int csv_rows(const char *dir, const char *name) {
    char *text = file_text(dir, name);
    int rows = -1, wanted = 0, commas = 0;
    for (const char *p = text; *p; p++) {
        commas += *p == ',';
        if (*p != '\n') continue;
        if (rows++ < 0) wanted = commas;
        if (commas != wanted) fail_msg("%s: row %d has %d commas, not %d", name, rows, commas, wanted);
        commas = 0;
    }
    free(text);
    return rows;
}

static void test_files(void **state) {
    char dir[512], dump[520], notice[512] = "";
    flrq_status status;
    snprintf(dir, sizeof dir, "%s", folder_new());
    snprintf(dump, sizeof dump, "%s/npy", dir);
    json_t *result = RUN("shapes", "64x48,48x40", "outliers", "none,rows", "ranks", "4,6", "out", dir, "dump", dump);
    assert_int_equal(csv_rows(dir, "sketch.csv"), 4 * 2 * 5);
    assert_int_equal(csv_rows(dir, "sketch-ranks.csv"), 4 * 4);
    assert_int_equal(csv_rows(dir, "sketch-amax.csv"), 4 * 4 * 7);
    for (int k = 1; k <= 4; k++) {
        char name[64];
        for (int figure = 0; figure < 2; figure++) {
            snprintf(name, sizeof name, "sketch-%s-%d.svg", figure ? "amax" : "seconds", k);
            char *svg = file_text(dir, name);
            assert_true(strncmp(svg, "<svg ", 5) == 0 && strstr(svg, "</svg>") && !strstr(svg, "no data"));
            const char *matrix = text_of(json_array_get(json_object_get(result, "matrices"), (size_t)k - 1), "matrix");
            assert_non_null(strstr(svg, matrix));
            free(svg);
        }
        /* Several kinds of matrices: numbered files, named in the rows. */
        const char *file = text_of(json_array_get(json_object_get(result, "matrices"), (size_t)k - 1), "dump");
        snprintf(name, sizeof name, "matrix-%d-%s.npy", k, k <= 2 ? "64x48" : "48x40");
        assert_string_equal(file, name);
        assert_string_equal(text_of(json_array_get(json_object_get(result, "rows"), (size_t)k * 10 - 1), "dump"), name);
        assert_true(has_file(dump, name));
    }
    json_decref(result);
    /* The JSON file is the result. */
    char *text = file_text(dir, "sketch.json");
    json_t *file = json_loads(text, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(file, "rows")), 40);
    assert_true(strstr(text_of(file, "command"), "bench sketch") != NULL);
    json_decref(file);
    free(text);
    /* One kind: named by the shape; one matrix: one figure of seconds; another name; no exact SVD. */
    result = RUN("shapes", "64x48", "ranks", "4", "out", dir, "dump", dump, "name", "mine", "methods", "block,r1");
    assert_true(has_file(dump, "matrix-64x48.npy"));
    assert_true(has_file(dir, "mine-seconds.svg") && has_file(dir, "mine-amax-1.svg") && has_file(dir, "mine.json"));
    assert_false(has_file(dir, "mine-seconds-1.svg"));
    json_decref(result);
    /* More matrices than figures. */
    snprintf(dir, sizeof dir, "%s", folder_new());
    flrq_params *params;
    MUST(flrq_params_new(&params, "bench-sketch"));
    const char *const options[][2] = {{"device", "cpu"}, {"repeats", "1"},
                                      {"ranks", "1"},    {"methods", "block"},
                                      {"out", dir},      {"spectra", "power,flat,fast,step"},
                                      {"shapes", "8x8"}, {"outliers", "none,rows,columns,spikes"}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        MUST(flrq_params_set(params, options[i][0], options[i][1]));
    status = flrq_run(params, on_event, notice, NULL);
    flrq_params_free(params);
    assert_int_equal(status, FLRQ_OK);
    assert_non_null(strstr(notice, "first 12 of 16"));
    assert_true(has_file(dir, "sketch-amax-12.svg"));
    assert_false(has_file(dir, "sketch-amax-13.svg"));
}

static void test_refusals(void **state) {
    REFUSED(FLRQ_ERR_USAGE, "block, r1, rsvd, svd, svdj", "methods", "block,qr");
    REFUSED(FLRQ_ERR_USAGE, "block twice", "methods", "block,r1,block");
    REFUSED(FLRQ_ERR_USAGE, "1 to 4096", "ranks", "0");
    REFUSED(FLRQ_ERR_USAGE, "1 to 4096", "ranks", "32,-1");
    REFUSED(FLRQ_ERR_USAGE, "1 to 4096", "ranks", "4097");
    REFUSED(FLRQ_ERR_USAGE, "1 to 4096", "ranks", "");
    REFUSED(FLRQ_ERR_USAGE, "1 to 4096", "ranks", "8,");
    REFUSED(FLRQ_ERR_USAGE, "1 to 4096", "ranks", "1e2");
    REFUSED(FLRQ_ERR_USAGE, "up to 16", "ranks", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17");
    REFUSED(FLRQ_ERR_USAGE, "8 twice", "ranks", "8,16,8");
    REFUSED(FLRQ_ERR_USAGE, "2, 3, 4 or 8", "bits", "5");
    REFUSED(FLRQ_ERR_USAGE, "--name", "name", "x");
    REFUSED(FLRQ_ERR_IO, "no/such", "shapes", "8x8", "out", "no/such/folder");
    REFUSED(FLRQ_ERR_IO, "no/such", "shapes", "8x8", "dump", "no/such/folder");
}

/* A stop leaves no file of a result. */
static void test_stop(void **state) {
    static const char *const phases[] = {"generate", "svd", "block", "r1", "rsvd"};
    char dir[512];
    snprintf(dir, sizeof dir, "%s", folder_new());
    for (int i = 0; i < 5; i++) {
        stop_at = phases[i];
        REFUSED(FLRQ_STOPPED, "stopped", "shapes", "64x64", "ranks", "4", "out", dir);
        stop_at = NULL;
        assert_false(has_file(dir, "sketch.json"));
        assert_false(has_file(dir, "sketch.csv"));
        assert_false(has_file(dir, "sketch-seconds.svg"));
    }
    json_decref(RUN("shapes", "64x64", "ranks", "4", "out", dir, "methods", "block"));
    assert_true(has_file(dir, "sketch.json"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planted_rank),
        cmocka_unit_test(test_steep),
        cmocka_unit_test(test_spikes_are_ranks),
        cmocka_unit_test(test_consistent),
        cmocka_unit_test(test_zero_matrix),
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_checkpoint_refusals),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
