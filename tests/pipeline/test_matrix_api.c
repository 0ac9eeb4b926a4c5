/* test_matrix_api.c - the public calls for options and for single matrices, through include/flrq.h alone.
 *
 * The option table is walked as a program would: every bound, choice and default of every command. Matrices are checked
 * by what comes back: errors recomputed in double, the scheme's range, refusals of hostile input by their texts.
 */
#include "flrq.h"
#include "quant/matrices.h"

/* ---- options ----------------------------------------------------------------------------------------------------- */

static flrq_params *params_of(const char *command) {
    flrq_params *params = NULL;
    CHECK_OK(flrq_params_new(&params, command));
    assert_non_null(params);
    return params;
}

static const flrq_option *option_named(const char *command, const char *name) {
    size_t count;
    const flrq_option *const *options = flrq_command_options(command, &count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(options[i]->name, name) == 0) return options[i];
    fail_msg("%s has no option %s", command, name);
    return NULL;
}

static void set(flrq_params *params, const char *name, const char *value) {
    flrq_status status = flrq_params_set(params, name, value);
    if (status != FLRQ_OK) fail_msg("--%s %s: %s", name, value, flrq_last_error());
}

static void expect(const flrq_params *params, const char *name, const char *want) {
    const char *got = flrq_params_get(params, name);
    if (!got || !want ? got != want : strcmp(got, want) != 0)
        fail_msg("%s is %s, want %s", name, got ? got : "unset", want ? want : "unset");
}

/* Refused as wrong usage with the option's name in the text, and nothing changed. */
static void refuse(flrq_params *params, const char *name, const char *value) {
    char before[512] = "(unset)";
    const char *now = flrq_params_get(params, name);
    if (now) snprintf(before, sizeof before, "%s", now);
    flrq_status status = flrq_params_set(params, name, value);
    if (status != FLRQ_ERR_USAGE)
        fail_msg("--%s \"%s\" gives %s", name, value ? value : "(null)", flrq_status_name(status));
    if (!strstr(flrq_last_error(), name)) fail_msg("\"%s\" does not name %s", flrq_last_error(), name);
    now = flrq_params_get(params, name);
    assert_string_equal(now ? now : "(unset)", before);
}

/* The number that a text is, 1e9 and 1000000000 alike. */
static int has_number(const char *text, double want) {
    for (const char *p = text; *p; p++) {
        if (p > text && (strchr("0123456789.eE+-", p[-1]) != NULL)) continue;
        char *end;
        double value = strtod(p, &end);
        if (end != p && value == want) return 1;
    }
    return 0;
}

static int is_choice(const flrq_option *o, const char *value) {
    size_t length = strlen(value);
    for (const char *p = o->choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, value, length) == 0 && (p[length] == '|' || p[length] == 0)) return 1;
    return 0;
}

static void table(void **state) {
    const char *const *commands = flrq_commands();
    int n_commands = 0, has_quantize = 0;
    for (; commands[n_commands]; n_commands++) {
        const char *command = commands[n_commands];
        size_t count = 0;
        const flrq_option *const *options = flrq_command_options(command, &count);
        const char *help = flrq_command_help(command);
        assert_non_null(help);
        assert_null(strchr(help, '\n'));
        assert_true(count == 0 || options);
        has_quantize += strcmp(command, "quantize") == 0;
        flrq_params *params = params_of(command);
        for (size_t i = 0; i < count; i++) {
            const flrq_option *o = options[i];
            assert_true(strlen(o->name) > 0 &&
                        strspn(o->name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(o->name));
            assert_non_null(o->help);
            assert_non_null(o->section);
            assert_int_equal(o->choices != NULL, o->kind == FLRQ_OPTION_CHOICE);
            assert_int_equal(o->argument == NULL, o->kind == FLRQ_OPTION_FLAG);
            if (o->required) assert_null(o->default_text);
            for (size_t j = 0; j < i; j++) assert_string_not_equal(o->name, options[j]->name);
            if (o->kind == FLRQ_OPTION_INT || o->kind == FLRQ_OPTION_REAL) {
                assert_true(o->min < o->max);
                if (o->default_text) {
                    double value = strtod(o->default_text, NULL);
                    assert_true(value >= o->min && value <= o->max);
                }
            }
            if (o->kind == FLRQ_OPTION_CHOICE && o->default_text) assert_true(is_choice(o, o->default_text));
            if (o->kind == FLRQ_OPTION_FLAG)
                assert_true(!o->default_text || !strcmp(o->default_text, "true") || !strcmp(o->default_text, "false"));
        }
        flrq_params_free(params);
    }
    assert_int_equal(has_quantize, 1);
    size_t count = 7;
    assert_null(flrq_command_options("no such command", &count));
    assert_null(flrq_command_help("no such command"));
    flrq_params *params = NULL;
    CHECK_FAILS(flrq_params_new(&params, "no such command"), FLRQ_ERR_USAGE, "no such command");
    assert_null(params);
    flrq_params_free(NULL);
}

/* What get says, set takes, and get says it again. */
static void defaults_round_trip(void **state) {
    for (const char *const *command = flrq_commands(); *command; command++) {
        size_t count;
        const flrq_option *const *options = flrq_command_options(*command, &count);
        flrq_params *params = params_of(*command);
        for (int twice = 0; twice < 2; twice++)
            for (size_t i = 0; i < count; i++) {
                const flrq_option *o = options[i];
                const char *now = flrq_params_get(params, o->name);
                if (o->kind == FLRQ_OPTION_FLAG && !o->default_text) {
                    assert_true(!now || strcmp(now, "false") == 0);
                    continue;
                }
                expect(params, o->name, o->default_text);
                if (!now) continue;
                char copy[512];
                snprintf(copy, sizeof copy, "%s", now);
                set(params, o->name, copy);
            }
        flrq_params_free(params);
    }
}

static void bounds(void **state) {
    int numbers = 0;
    for (const char *const *command = flrq_commands(); *command; command++) {
        size_t count;
        const flrq_option *const *options = flrq_command_options(*command, &count);
        flrq_params *params = params_of(*command);
        for (size_t i = 0; i < count; i++) {
            const flrq_option *o = options[i];
            if (o->kind != FLRQ_OPTION_INT && o->kind != FLRQ_OPTION_REAL) continue;
            char text[64];
            const double ends[2] = {o->min, o->max};
            numbers++;
            for (int e = 0; e < 2; e++) {
                snprintf(text, sizeof text, o->kind == FLRQ_OPTION_INT ? "%.0f" : "%.17g", ends[e]);
                set(params, o->name, text);
                assert_true(strtod(flrq_params_get(params, o->name), NULL) == ends[e]);
                double beyond =
                    ends[e] + (e ? 1 : -1) * (o->kind == FLRQ_OPTION_INT ? 1 : 0.001 + 1e-6 * fabs(ends[e]));
                if (beyond == ends[e]) continue;
                snprintf(text, sizeof text, o->kind == FLRQ_OPTION_INT ? "%.0f" : "%.17g", beyond);
                refuse(params, o->name, text);
                if (!has_number(flrq_last_error(), o->min) || !has_number(flrq_last_error(), o->max))
                    fail_msg("\"%s\" lacks a bound of [%g, %g]", flrq_last_error(), o->min, o->max);
            }
        }
        flrq_params_free(params);
    }
    assert_true(numbers > 20);
}

static void malformed(void **state) {
    flrq_params *params = params_of("quantize");
    static const char *const wrong[] = {"",    " ",     "x",    "4x",   "0x4",  "4 ",    " 4", "-",
                                        "+-4", "4,0",   "nan",  "inf",  "-inf", "1e999", "4;", "99999999999999999999",
                                        "NAN", "0b100", "1e-2", "4.5.1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        refuse(params, "bits", wrong[i]);
        if (strcmp(wrong[i], "1e-2") != 0) refuse(params, "rank-extra", wrong[i]);
    }
    refuse(params, "bits", "3.5");
    refuse(params, "bits", "4.0");
    refuse(params, "bits", NULL);
    refuse(params, "rank-extra", NULL);
    refuse(params, "method", NULL);
    refuse(params, "sym", NULL);
    refuse(params, "rank-extra", "0.2f");
    refuse(params, "rank-extra", "0x1p-3");
    set(params, "rank-extra", "1e-1");
    assert_true(strtod(flrq_params_get(params, "rank-extra"), NULL) == 0.1);
    set(params, "seed", "9007199254740991"); /* 2^53 - 1, exact */
    expect(params, "seed", "9007199254740991");
    static const char *const unknown[] = {"no-such-option", "", "--bits", "Bits", "bits ", "ctx", "bit"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_int_equal(flrq_params_set(params, unknown[i], "4"), FLRQ_ERR_USAGE);
        assert_non_null(strstr(flrq_last_error(), unknown[i]));
        assert_null(flrq_params_get(params, unknown[i]));
    }
    /* No grid has 5, 6 or 7 bits; whoever says so first must say it in one line with the choice there is. */
    for (int bits = 5; bits <= 7; bits++) {
        char text[8];
        snprintf(text, sizeof text, "%d", bits);
        float w[64] = {1};
        flrq_matrix *m = NULL;
        flrq_status status = flrq_params_set(params, "bits", text);
        if (status == FLRQ_OK) status = flrq_quantize_matrix(&m, params, "w", w, 8, 8, NULL);
        assert_int_equal(status, FLRQ_ERR_USAGE);
        assert_true(strstr(flrq_last_error(), "2, 3, 4") && strstr(flrq_last_error(), "8"));
        assert_null(m);
    }
    flrq_params_free(params);
}

static void choices_and_flags(void **state) {
    for (const char *const *command = flrq_commands(); *command; command++) {
        size_t count;
        const flrq_option *const *options = flrq_command_options(*command, &count);
        flrq_params *params = params_of(*command);
        for (size_t i = 0; i < count; i++) {
            const flrq_option *o = options[i];
            if (o->kind == FLRQ_OPTION_FLAG) {
                set(params, o->name, "true");
                expect(params, o->name, "true");
                set(params, o->name, "false");
                expect(params, o->name, "false");
                refuse(params, o->name, "maybe");
                refuse(params, o->name, "");
                refuse(params, o->name, "TRUEE");
                continue;
            }
            if (o->kind != FLRQ_OPTION_CHOICE) continue;
            char list[256], *rest = list, *choice;
            snprintf(list, sizeof list, "%s", o->choices);
            while ((choice = strsep(&rest, "|"))) {
                set(params, o->name, choice);
                expect(params, o->name, choice);
                char longer[64];
                snprintf(longer, sizeof longer, "%sx", choice);
                refuse(params, o->name, longer);
                assert_non_null(strstr(flrq_last_error(), choice)); /* the text lists what there is */
                snprintf(longer, sizeof longer, "%.*s", (int)strlen(choice) - 1, choice);
                if (!is_choice(o, longer)) refuse(params, o->name, longer);
            }
            refuse(params, o->name, "");
            refuse(params, o->name, o->choices);
        }
        flrq_params_free(params);
    }
}

static void texts(void **state) {
    flrq_params *params = params_of("quantize");
    expect(params, "out", NULL);
    set(params, "out", "some/folder");
    expect(params, "out", "some/folder");
    char name[3000];
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = 0;
    set(params, "out", name);
    expect(params, "out", name);
    name[0] = 'b'; /* a copy was taken */
    assert_true(flrq_params_get(params, "out")[0] == 'a');
    flrq_params_free(params);
}

/* The README's row of `paper`: alpha metric with 2.5, greedy r1flr with x = 0.2, one vector at a time with it = 2,
 * mirrored symmetric grid, unweighted clip grid that clamps, W first. */
static void preset(void **state) {
    static const char *const paper[][2] = {
        {"method", "flrq"},        {"metric", "alpha"},       {"alpha-power", "2.5"}, {"rank-policy", "r1flr"},
        {"rank-extra", "0.2"},     {"sketch", "r1"},          {"grid", "mirror"},     {"clip", "grid"},
        {"clip-mode", "clamp"},    {"clip-weights", "plain"}, {"start", "weight"},    {"sym", "true"},
        {"power-iterations", "2"}, {"rank-multiple", "1"},    {"group", "128"},       {"preset", "paper"},
    };
    enum { COUNT = sizeof paper / sizeof *paper };
    flrq_params *params = params_of("quantize");
    set(params, "preset", "paper");
    for (int i = 0; i < COUNT; i++) expect(params, paper[i][0], paper[i][1]);
    set(params, "metric", "none"); /* later options override single ones */
    set(params, "bits", "2");
    set(params, "rank-extra", "1");
    expect(params, "metric", "none");
    expect(params, "sketch", "r1");
    set(params, "preset", "paper"); /* and a later preset them */
    for (int i = 0; i < COUNT; i++) expect(params, paper[i][0], paper[i][1]);
    expect(params, "bits", "2"); /* which is not of its business */
    set(params, "preset", "default");
    for (int i = 0; i < COUNT; i++) {
        const flrq_option *o = option_named("quantize", paper[i][0]);
        expect(params, o->name, o->default_text);
    }
    refuse(params, "preset", "papers");
    flrq_params_free(params);
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

enum { ROWS = 40, COLS = 100, TOKENS = 64 };

typedef struct input {
    float *w, *s, *mean_square, *mean_abs;
} input;

/* A random layer with an outlier column, and inputs with an outlier channel. */
static input make_input(uint64_t key) {
    input in = {normals(ROWS * COLS, 0.05, key), normals(COLS * TOKENS, 1, key + 1), floats(COLS), floats(COLS)};
    float *u = normals(ROWS, 0.3, key + 2), *v = normals(COLS, 0.3, key + 3);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++)
            in.w[i * COLS + j] = (in.w[i * COLS + j] + u[i] * v[j]) * (j == 17 ? 4.0f : 1.0f);
    for (int j = 0; j < COLS; j++)
        for (int t = 0; t < TOKENS; t++) {
            if (j == 30) in.s[j * TOKENS + t] *= 15;
            in.mean_square[j] += in.s[j * TOKENS + t] * in.s[j * TOKENS + t] / TOKENS;
            in.mean_abs[j] += fabsf(in.s[j * TOKENS + t]) / TOKENS;
        }
    free(u);
    free(v);
    return in;
}

static void drop_input(input *in) {
    free(in->w);
    free(in->s);
    free(in->mean_square);
    free(in->mean_abs);
}

static flrq_calibration calibration_of(const input *in) {
    flrq_calibration c = FLRQ_CALIBRATION_INIT;
    c.mean_square = in->mean_square;
    c.mean_abs = in->mean_abs;
    c.sketch = in->s;
    c.sketch_cols = TOKENS;
    return c;
}

static double value_of(const flrq_matrix *m, int64_t i, int64_t j) {
    const flrq_codes *c = &m->codes;
    int64_t g = i * c->n_groups + j / c->group;
    int zero = c->symmetric ? 1 << (c->bits - 1) : c->zero[g];
    double sum = (double)c->scale[g] * (c->code[i * c->cols + j] - zero);
    for (int64_t k = 0; k < m->rank; k++) sum += (double)m->l[i * m->rank + k] * m->r[k * c->cols + j];
    return sum;
}

/* ||(W - What) S|| / ||W S||, or without S. */
static double error_of(const flrq_matrix *m, const float *w, const float *s, int64_t k) {
    int64_t rows = m->codes.rows, cols = m->codes.cols;
    double part = 0, whole = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t t = 0; t < (s ? k : cols); t++) {
            double a = 0, b = 0;
            for (int64_t j = s ? 0 : t; j < (s ? cols : t + 1); j++) {
                double x = s ? s[j * k + t] : 1;
                a += (w[i * cols + j] - value_of(m, i, j)) * x;
                b += (double)w[i * cols + j] * x;
            }
            part += a * a;
            whole += b * b;
        }
    return sqrt(part / whole);
}

static flrq_matrix *quantized(const flrq_params *params, const input *in, const flrq_calibration *c) {
    flrq_matrix *m = NULL;
    CHECK_OK(flrq_quantize_matrix(&m, params, "w", in->w, ROWS, COLS, c));
    assert_non_null(m);
    return m;
}

static void check_matrix(const flrq_matrix *m, const input *in, int with_sketch) {
    assert_int_equal(m->codes.rows, ROWS);
    assert_int_equal(m->codes.cols, COLS);
    assert_int_equal(m->codes.zero == NULL, m->codes.symmetric);
    assert_int_equal(m->l == NULL, m->rank == 0);
    assert_int_equal(m->r == NULL, m->rank == 0);
    for (int64_t i = 0; i < ROWS * COLS; i++) assert_true(m->codes.code[i] < 1 << m->codes.bits);
    /* The tolerance of test_fit.c: E in fp32 relative to W, a product of COLS terms. */
    double error = error_of(m, in->w, with_sketch ? in->s : NULL, TOKENS);
    CHECK_LE(fabs(m->error / error - 1), EPS32 * (COLS + (double)(m->rank + 4) / error));
    double bits = m->codes.bits + (16.0 + (m->codes.zero ? m->codes.bits : 0)) * (double)m->codes.n_groups / COLS +
                  16.0 * (double)m->rank * (ROWS + COLS) / (ROWS * COLS);
    CHECK_LE(fabs(m->bits_per_weight - bits), 1e-12);
    assert_true(m->seconds >= 0);
}

static void every_scheme(void **state) {
    static const char *const methods[] = {"flrq", "lqer", "rtn"}, *const bits[] = {"2", "3", "4", "8"};
    static const char *const groups[] = {"32", "0", "128", "50"};
    input in = make_input(10);
    flrq_calibration c = calibration_of(&in);
    flrq_params *params = params_of("quantize");
    set(params, "rank", "3");
    set(params, "rank-extra", "4");
    for (int i = 0; i < 96; i++) {
        int with = i % 5 != 0;
        set(params, "method", methods[i % 3]);
        set(params, "bits", bits[i / 3 % 4]);
        set(params, "group", groups[i / 12 % 4]);
        set(params, "sym", i / 48 ? "true" : "false");
        flrq_matrix *m = quantized(params, &in, with ? &c : NULL);
        check_matrix(m, &in, with);
        int64_t group = atoi(groups[i / 12 % 4]) ? atoi(groups[i / 12 % 4]) : COLS;
        assert_int_equal(m->codes.group, group);
        assert_int_equal(m->codes.n_groups, (COLS + group - 1) / group);
        if (i % 3 == 1) assert_int_equal(m->rank, 3);
        if (i % 3 == 2) {
            assert_int_equal(m->rank, 0);
            assert_true(m->error == m->error_nearest);
        } else
            CHECK_LE(m->error, m->error_nearest * 1.001);
        flrq_matrix_free(m);
    }
    flrq_matrix_free(NULL);
    flrq_params_free(params);
    drop_input(&in);
}

static void paper(void **state) {
    input in = make_input(20);
    flrq_calibration c = calibration_of(&in);
    flrq_params *params = params_of("quantize");
    set(params, "preset", "paper");
    set(params, "bits", "3");
    set(params, "group", "32");
    set(params, "rank-extra", "4");
    flrq_matrix *m = quantized(params, &in, &c);
    check_matrix(m, &in, 1);
    for (int64_t i = 0; i < ROWS * COLS; i++) assert_true(m->codes.code[i] >= 1); /* mirrored: -3 .. 3 */
    for (int64_t g = 0; g < ROWS * 4; g++) assert_true(m->codes.scale[g] > 0);
    flrq_matrix_free(m);
    flrq_params_free(params);
    drop_input(&in);
}

/* A dead channel may carry NaN-free zeros; each kind of calibration alone is used for what it is for. */
static void partial_calibration(void **state) {
    input in = make_input(30);
    flrq_calibration all = calibration_of(&in);
    flrq_params *params = params_of("quantize");
    set(params, "rank-policy", "fixed");
    set(params, "rank", "4");
    set(params, "clip-weights", "plain"); /* the metric alone uses the means */
    for (int metric = 1; metric < 3; metric++) {
        set(params, "metric", "none");
        flrq_calibration c = FLRQ_CALIBRATION_INIT;
        flrq_matrix *none = quantized(params, &in, &c);
        set(params, "metric", metric == 1 ? "alpha" : "rms");
        flrq_matrix *empty = quantized(params, &in, &c);
        assert_memory_equal(empty->r, none->r, 4 * COLS * sizeof(float));
        (metric == 1 ? (void)(c.mean_abs = all.mean_abs) : (void)(c.mean_square = all.mean_square));
        flrq_matrix *own = quantized(params, &in, &c);
        check_matrix(own, &in, 0);
        assert_memory_not_equal(own->r, none->r, 4 * COLS * sizeof(float));
        flrq_matrix_free(own);
        flrq_matrix_free(empty);
        flrq_matrix_free(none);
    }
    in.mean_square[3] = in.mean_abs[3] = 0;
    memset(in.s + 3 * TOKENS, 0, TOKENS * sizeof *in.s);
    flrq_matrix *dead = quantized(params, &in, &all);
    check_matrix(dead, &in, 1);
    flrq_matrix_free(dead);
    flrq_params_free(params);
    drop_input(&in);
}

static void nonfinite_is_named(void **state) {
    input in = make_input(40);
    flrq_params *params = params_of("quantize");
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        flrq_matrix *m = NULL;
        float keep = in.w[7 * COLS + 93];
        in.w[7 * COLS + 93] = bad[i];
        in.w[30 * COLS + 2] = bad[i];
        flrq_status status = flrq_quantize_matrix(&m, params, "layer.name", in.w, ROWS, COLS, NULL);
        assert_int_equal(status, FLRQ_ERR_NUMERIC);
        assert_null(m);
        assert_non_null(strstr(flrq_last_error(), "layer.name"));
        assert_non_null(strstr(flrq_last_error(), "row 7"));
        assert_non_null(strstr(flrq_last_error(), "column 93"));
        in.w[7 * COLS + 93] = keep;
        in.w[30 * COLS + 2] = keep;
    }
    /* Means and sketch: NaN, infinity, a negative mean. */
    flrq_calibration c = calibration_of(&in);
    float *const places[] = {in.mean_square, in.mean_abs, in.s};
    static const float values[] = {NAN, INFINITY, -1};
    for (int p = 0; p < 3; p++)
        for (int v = 0; v < 3; v++) {
            if (p == 2 && v == 2) continue; /* a sketch has negative elements */
            flrq_matrix *m = NULL;
            float keep = places[p][5];
            places[p][5] = values[v];
            flrq_status status = flrq_quantize_matrix(&m, params, "layer.name", in.w, ROWS, COLS, &c);
            if (status != FLRQ_ERR_NUMERIC)
                fail_msg("place %d value %g: %s", p, (double)values[v], flrq_status_name(status));
            assert_null(m);
            assert_non_null(strstr(flrq_last_error(), "layer.name"));
            places[p][5] = keep;
        }
    flrq_params_free(params);
    drop_input(&in);
}

static void wrong_arguments(void **state) {
    input in = make_input(50);
    flrq_params *params = params_of("quantize"), *other = params_of("eval");
    flrq_calibration c = calibration_of(&in);
    flrq_matrix *m = NULL;
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", NULL, ROWS, COLS, NULL), FLRQ_ERR_USAGE, "");
    CHECK_FAILS(flrq_quantize_matrix(&m, params, NULL, in.w, ROWS, COLS, NULL), FLRQ_ERR_USAGE, "");
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, 0, COLS, NULL), FLRQ_ERR_USAGE, "");
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, ROWS, 0, NULL), FLRQ_ERR_USAGE, "");
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, -1, COLS, NULL), FLRQ_ERR_USAGE, "");
    CHECK_FAILS(flrq_quantize_matrix(&m, NULL, "w", in.w, ROWS, COLS, NULL), FLRQ_ERR_USAGE, "");
    CHECK_FAILS(flrq_quantize_matrix(&m, other, "w", in.w, ROWS, COLS, NULL), FLRQ_ERR_USAGE, "quantize");
    /* Products that overflow 64 bits, and that only overflow as bytes. */
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, INT64_MAX, INT64_MAX, NULL), FLRQ_ERR_USAGE, "");
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, (int64_t)1 << 32, (int64_t)1 << 32, NULL), FLRQ_ERR_USAGE,
                "");
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, (int64_t)1 << 31, (int64_t)1 << 31, NULL), FLRQ_ERR_USAGE,
                "");
    c.sketch_cols = -1;
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, ROWS, COLS, &c), FLRQ_ERR_USAGE, "");
    c.sketch_cols = 0; /* a sketch without columns measures nothing */
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, ROWS, COLS, &c), FLRQ_ERR_USAGE, "");
    c.sketch_cols = INT64_MAX / 8;
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, ROWS, COLS, &c), FLRQ_ERR_USAGE, "");
    c = calibration_of(&in);
    c.size = 0; /* not made by FLRQ_CALIBRATION_INIT */
    CHECK_FAILS(flrq_quantize_matrix(&m, params, "w", in.w, ROWS, COLS, &c), FLRQ_ERR_USAGE, "");
    assert_null(m);
    set(params, "device", "no-such-device");
    assert_int_not_equal(flrq_quantize_matrix(&m, params, "w", in.w, ROWS, COLS, NULL), FLRQ_OK);
    assert_non_null(strstr(flrq_last_error(), "no-such-device"));
    assert_null(m);
    flrq_params_free(params);
    flrq_params_free(other);
    drop_input(&in);
}

static int same_matrix(const flrq_matrix *a, const flrq_matrix *b) {
    size_t cells = (size_t)(a->codes.rows * a->codes.n_groups);
    return a->rank == b->rank && a->error == b->error && a->error_nearest == b->error_nearest &&
           !memcmp(a->codes.code, b->codes.code, ROWS * COLS) &&
           !memcmp(a->codes.scale, b->codes.scale, cells * sizeof(float)) &&
           (!a->rank || (!memcmp(a->l, b->l, (size_t)(a->rank * ROWS) * sizeof(float)) &&
                         !memcmp(a->r, b->r, (size_t)(a->rank * COLS) * sizeof(float))));
}

static void same_bytes(void **state) {
    input in = make_input(60);
    flrq_calibration c = calibration_of(&in);
    flrq_params *params = params_of("quantize");
    set(params, "rank-policy", "fixed");
    set(params, "rank", "5");
    set(params, "power-iterations", "0"); /* the random vectors show */
    set(params, "threads", "1");
    flrq_matrix *want = quantized(params, &in, &c), *m;
    static const char *const threads[] = {"2", "5", "0"};
    for (int t = 0; t < 3; t++) {
        set(params, "threads", threads[t]);
        m = quantized(params, &in, &c);
        assert_true(same_matrix(m, want));
        flrq_matrix_free(m);
    }
    CHECK_OK(flrq_quantize_matrix(&m, params, "v", in.w, ROWS, COLS, &c));
    assert_false(same_matrix(m, want));
    flrq_matrix_free(m);
    set(params, "seed", "1");
    m = quantized(params, &in, &c);
    assert_false(same_matrix(m, want));
    flrq_matrix_free(m);
    flrq_matrix_free(want);
    flrq_params_free(params);
    drop_input(&in);
}

/* What does not fit 16-bit scales and factors is refused by name, never stored as infinity; tiny weights are zeros. */
static void magnitudes(void **state) {
    static const float factors[] = {1e20f, 1e8f, 1e-8f, 1e-20f, 1e-38f};
    flrq_params *params = params_of("quantize");
    set(params, "rank-policy", "fixed");
    set(params, "rank", "4");
    set(params, "group", "32");
    for (int f = 0; f < 5; f++)
        for (int rank = 0; rank < 5; rank += 4) {
            input in = make_input(70);
            flrq_matrix *m = NULL;
            char text[8];
            snprintf(text, sizeof text, "%d", rank);
            set(params, "rank", text);
            for (int i = 0; i < ROWS * COLS; i++) in.w[i] *= factors[f];
            flrq_status status = flrq_quantize_matrix(&m, params, "layer.name", in.w, ROWS, COLS, NULL);
            if (status != FLRQ_OK) {
                assert_int_equal(status, FLRQ_ERR_NUMERIC);
                assert_non_null(strstr(flrq_last_error(), "layer.name"));
                assert_true(factors[f] > 1);
                drop_input(&in);
                continue;
            }
            assert_int_equal(first_nonfinite(m->codes.scale, ROWS * m->codes.n_groups), -1);
            assert_int_equal(first_nonfinite(m->l, ROWS * m->rank), -1);
            assert_int_equal(first_nonfinite(m->r, m->rank * COLS), -1);
            assert_true(isfinite(m->error) && isfinite(m->error_nearest));
            CHECK_LE(m->error, 1 + 1e-6); /* never worse than zeros */
            CHECK_LE(fabs(m->error - error_of(m, in.w, NULL, 0)), 1e-3);
            flrq_matrix_free(m);
            drop_input(&in);
        }
    flrq_params_free(params);
}

/* The largest rank of all is what serving engines size their buffers by. */
static void ranks(void **state) {
    input in = make_input(80);
    flrq_calibration c = calibration_of(&in);
    flrq_params *params = params_of("quantize");
    static const char *const policies[] = {"r1flr", "r1flr-best", "energy"};
    set(params, "rank-extra", "4");
    set(params, "max-rank", "6");
    set(params, "rank-multiple", "3");
    for (int p = 0; p < 3; p++) {
        set(params, "rank-policy", policies[p]);
        flrq_matrix *m = quantized(params, &in, &c);
        check_matrix(m, &in, 1);
        assert_true(m->rank <= 6 && m->rank % 3 == 0);
        flrq_matrix_free(m);
    }
    set(params, "rank-policy", "fixed");
    set(params, "rank", "1000");
    set(params, "max-rank", "1024");
    flrq_matrix *m = quantized(params, &in, &c);
    assert_int_equal(m->rank, ROWS); /* all there is */
    flrq_matrix_free(m);
    flrq_params_free(params);
    drop_input(&in);
}

/* ---- sketches ---------------------------------------------------------------------------------------------------- */

static void sketches(void **state) {
    enum { M = 70, N = 50, RANK = 6 };
    static const char *const methods[] = {"block", "r1", "svd"};
    double s[N];
    for (int k = 0; k < N; k++) s[k] = 8 * pow(0.7, k);
    float *a = with_spectrum(M, N, s, N, 90), u[M * RANK], v[N * RANK], sigma[RANK], again[M * RANK];
    double best = tail_of(s, RANK, N), norm = tail_of(s, 0, N);
    for (int kind = 0; kind < 3; kind++) {
        double residual = -1, sum = 0;
        CHECK_OK(flrq_sketch_matrix(methods[kind], a, M, N, RANK, 2, 1, 2, u, sigma, v, &residual));
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) {
                double e = a[i * N + j];
                for (int k = 0; k < RANK; k++) e -= (double)u[i * RANK + k] * sigma[k] * v[j * RANK + k];
                sum += e * e;
            }
        /* Each element of the difference is rounded RANK + 2 times relative to A. */
        CHECK_LE(fabs(residual - sqrt(sum)), (RANK + 2) * EPS32 * norm);
        CHECK_LE(residual, 1.01 * best);
        for (int k = 0; k < RANK; k++) {
            double length = 0;
            for (int j = 0; j < N; j++) length += (double)v[j * RANK + k] * v[j * RANK + k];
            CHECK_LE(fabs(length - 1), 1e-5); /* |v_i| = sigma_i to 40 EPS32 sigma_0, as in test_sketch.c */
            if (kind != 1) CHECK_LE(fabs(sigma[k] - s[k]), 1e-3 * s[k]); /* r1: as far as a vector has converged */
        }
        CHECK_LE(orthogonality_error(u, M, RANK, RANK), 1e-5 + (kind == 1 ? M * EPS32 * norm / sigma[RANK - 1] : 0));
        CHECK_OK(flrq_sketch_matrix(methods[kind], a, M, N, RANK, 2, 1, 1, again, sigma, v, NULL));
        assert_memory_equal(again, u, sizeof u);
        CHECK_OK(flrq_sketch_matrix(methods[kind], a, M, N, RANK, 2, 2, 1, again, sigma, v, NULL));
        if (kind != 2) assert_memory_not_equal(again, u, sizeof u);
    }
    free(a);
}

static void sketch_of_little(void **state) {
    static const char *const methods[] = {"block", "r1", "svd"};
    enum { M = 30, N = 20, RANK = 5 };
    float u[M * RANK], v[N * RANK], sigma[RANK];
    double residual;
    for (int kind = 0; kind < 3; kind++)
        for (int terms = 0; terms <= 2; terms += 2) {
            static const double s[2] = {2, 1};
            float *a = with_spectrum(M, N, s, terms, 95);
            memset(u, 0xFF, sizeof u);
            memset(v, 0xFF, sizeof v);
            memset(sigma, 0xFF, sizeof sigma);
            CHECK_OK(flrq_sketch_matrix(methods[kind], a, M, N, RANK, 2, 0, 1, u, sigma, v, &residual));
            assert_int_equal(first_nonfinite(u, M * RANK), -1);
            assert_int_equal(first_nonfinite(v, N * RANK), -1);
            for (int k = terms; k < RANK; k++) CHECK_LE(fabs(sigma[k]), 1e-5);
            CHECK_LE(residual, 1e-5);
            free(a);
            float one = 3, x, y, z;
            CHECK_OK(flrq_sketch_matrix(methods[kind], &one, 1, 1, 1, 2, 0, 1, &x, &y, &z, &residual));
            CHECK_LE(fabs((double)x * y * z - 3), 1e-6);
        }
}

static void sketch_refusals(void **state) {
    float a[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, u[12], s[4], v[12];
    double residual;
    static const char *const methods[] = {"block", "r1", "svd"};
#define SKETCH(method, a, m, n, rank, it, threads)                                                                     \
    flrq_sketch_matrix(method, a, m, n, rank, it, 0, threads, u, s, v, &residual)
    CHECK_FAILS(SKETCH("qr", a, 3, 4, 2, 2, 1), FLRQ_ERR_USAGE, "block, r1, svd");
    CHECK_FAILS(SKETCH("", a, 3, 4, 2, 2, 1), FLRQ_ERR_USAGE, "block, r1, svd");
    CHECK_FAILS(SKETCH(NULL, a, 3, 4, 2, 2, 1), FLRQ_ERR_USAGE, "");
    for (int kind = 0; kind < 3; kind++) {
        const char *method = methods[kind];
        CHECK_FAILS(SKETCH(method, a, 3, 4, 0, 2, 1), FLRQ_ERR_USAGE, "rank");
        CHECK_FAILS(SKETCH(method, a, 3, 4, 4, 2, 1), FLRQ_ERR_USAGE, "rank");
        CHECK_FAILS(SKETCH(method, a, 3, 4, -1, 2, 1), FLRQ_ERR_USAGE, "rank");
        CHECK_FAILS(SKETCH(method, a, 0, 4, 1, 2, 1), FLRQ_ERR_USAGE, "");
        CHECK_FAILS(SKETCH(method, a, 3, -4, 1, 2, 1), FLRQ_ERR_USAGE, "");
        CHECK_FAILS(SKETCH(method, a, 3, 4, 2, -1, 1), FLRQ_ERR_USAGE, "power");
        CHECK_FAILS(SKETCH(method, NULL, 3, 4, 2, 2, 1), FLRQ_ERR_USAGE, "");
        CHECK_FAILS(SKETCH(method, a, INT64_MAX / 2, 4, 2, 2, 1), FLRQ_ERR_USAGE, "");
        CHECK_FAILS(SKETCH(method, a, (int64_t)1 << 31, (int64_t)1 << 31, 2, 2, 1), FLRQ_ERR_USAGE, "");
        CHECK_FAILS(flrq_sketch_matrix(method, a, 3, 4, 2, 2, 0, 1, NULL, s, v, NULL), FLRQ_ERR_USAGE, "");
        CHECK_FAILS(flrq_sketch_matrix(method, a, 3, 4, 2, 2, 0, 1, u, NULL, v, NULL), FLRQ_ERR_USAGE, "");
        CHECK_FAILS(flrq_sketch_matrix(method, a, 3, 4, 2, 2, 0, 1, u, s, NULL, NULL), FLRQ_ERR_USAGE, "");
        a[6] = NAN;
        CHECK_FAILS(SKETCH(method, a, 3, 4, 2, 2, 1), FLRQ_ERR_NUMERIC, "row 1, column 2");
        a[6] = -INFINITY;
        CHECK_FAILS(SKETCH(method, a, 3, 4, 2, 2, 1), FLRQ_ERR_NUMERIC, "row 1, column 2");
        a[6] = 7;
        CHECK_OK(SKETCH(method, a, 3, 4, 2, 2, 1));
    }
#undef SKETCH
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(defaults_round_trip),
        cmocka_unit_test(bounds),
        cmocka_unit_test(malformed),
        cmocka_unit_test(choices_and_flags),
        cmocka_unit_test(texts),
        cmocka_unit_test(preset),
        cmocka_unit_test(every_scheme),
        cmocka_unit_test(paper),
        cmocka_unit_test(partial_calibration),
        cmocka_unit_test(nonfinite_is_named),
        cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(same_bytes),
        cmocka_unit_test(magnitudes),
        cmocka_unit_test(ranks),
        cmocka_unit_test(sketches),
        cmocka_unit_test(sketch_of_little),
        cmocka_unit_test(sketch_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
