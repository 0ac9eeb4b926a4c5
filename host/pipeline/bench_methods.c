/* bench_methods.c - `flrq bench methods`: one model quantized by one method after the other, each judged against the
 * source.
 *
 * Every row is a real quantize job into a folder of its own and a real eval of that folder (perplexity, KL divergence
 * from the source), on the same device, text and calibration. The source is evaluated first, which also brings the
 * model into the page cache, so that the first method does not pay for that. flrq's own default runs before the methods
 * that are given its ranks, by --ranks-from.
 *
 * Methods that add different numbers of bits cannot be compared by their errors. Against each row stands what the same
 * total of bits per weight buys without any low rank: clip-and-quantize in smaller groups, or with more bits,
 * interpolated (log KL over bits) between the two measured points around it. equal_ratio below 1 means that the row
 * beats that.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/bench.h"

/* A way to quantize: options on top of those of the bench. */
typedef struct variant {
    const char *kind; /* name in --methods, and series in the figures */
    const char *label;
    int64_t divide;    /* of --group */
    bool same_ranks;   /* as flrq's default found */
    bool weights_only; /* needs no calibration */
    const char *options[5][2];
} variant;

static const variant variants[] = {
    {"flrq", "flrq", 1, .options = {{"method", "flrq"}}},
    {"r1", "flrq (r1 sketch)", 1, .options = {{"sketch", "r1"}}},
    {"exact", "flrq (exact SVD)", 1, .options = {{"sketch", "svd"}}},
    {"paper", "flrq (preset paper)", 1, .options = {{"preset", "paper"}}},
    {"epochs", "flrq (1 more round)", 1, .options = {{"epochs", "1"}}},
    {"epochs", "flrq (2 more rounds)", 1, .options = {{"epochs", "2"}}},
    {"epochs", "flrq (3 more rounds)", 1, .options = {{"epochs", "3"}}},
    {"epochs", "flrq (5 more rounds)", 1, .options = {{"epochs", "5"}}},
    {"epochs", "flrq (10 more rounds)", 1, .options = {{"epochs", "10"}}},
    {"epochs", "flrq (20 more rounds)", 1, .options = {{"epochs", "20"}}},
    {"svd", "SVD then nearest (flrq's ranks)", 1, true, true,
     .options = {{"sketch", "svd"}, {"metric", "none"}, {"clip", "none"}, {"epochs", "0"}}},
    {"lqer", "lqer by exact SVD (flrq's ranks)", 1, true, .options = {{"method", "lqer"}, {"sketch", "svd"}}},
    {"clip", "clip only", 1, .options = {{"rank-policy", "fixed"}, {"rank", "0"}}},
    {"clip", "clip only", 2, .options = {{"rank-policy", "fixed"}, {"rank", "0"}}},
    {"clip", "clip only", 4, .options = {{"rank-policy", "fixed"}, {"rank", "0"}}},
    {"clip", "clip only", 8, .options = {{"rank-policy", "fixed"}, {"rank", "0"}}},
    {"rtn", "round to nearest", 1, .weights_only = true, .options = {{"method", "rtn"}}},
    {"rtn", "round to nearest", 2, .weights_only = true, .options = {{"method", "rtn"}}},
    {"rtn", "round to nearest", 4, .weights_only = true, .options = {{"method", "rtn"}}},
};
enum { VARIANTS = sizeof variants / sizeof *variants, MAX_BITS = 4 };

static const char *const kinds[] = {"flrq", "r1", "exact", "paper", "epochs", "svd", "lqer", "clip", "rtn"};
enum { KINDS = sizeof kinds / sizeof *kinds };

typedef struct bench {
    const flrq_params *params;
    const flrq_config *config;
    flrq_reporter *reporter;
    int64_t bits[MAX_BITS];
    int n_bits;
    unsigned wanted;              /* bit k: kinds[k] */
    char *scratch, *out, *report; /* report: of flrq's run at the present bits, for its ranks */
    flrq_bench_files files;
    json_t *result, *rows, *said; /* rows: of the result; said: notices of the jobs, each once */
} bench;

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static flrq_status parse_bits(bench *b) {
    for (const char *p = b->config->bit_list; *p;) {
        char *end;
        long long v = strtoll(p, &end, 10);
        int known = (v == 2 || v == 3 || v == 4 || v == 8) && end > p && (!*end || *end == ',');
        for (int i = 0; i < b->n_bits; i++) known &= b->bits[i] != v;
        if (!known)
            return flrq_fail(FLRQ_ERR_USAGE, "--bits takes 2, 3, 4 or 8, each once, with commas, not \"%s\"",
                             b->config->bit_list);
        b->bits[b->n_bits++] = v;
        p = *end ? end + 1 : end;
    }
    return b->n_bits ? FLRQ_OK : flrq_fail(FLRQ_ERR_USAGE, "--bits names no bits");
}

static int kind_of(const char *name) {
    int kind = 0;
    while (strcmp(kinds[kind], name) != 0) kind++;
    return kind;
}

static flrq_status parse_methods(bench *b) {
    int chosen[KINDS], count;
    if (strcmp(b->config->methods, "all") == 0) {
        b->wanted = (1u << KINDS) - 1;
        return FLRQ_OK;
    }
    FLRQ_TRY(flrq_bench_choices("methods", b->config->methods, kinds, KINDS, chosen, &count));
    for (int i = 0; i < count; i++) b->wanted |= 1u << chosen[i];
    if (b->wanted & (1u << kind_of("svd") | 1u << kind_of("lqer"))) b->wanted |= 1u << kind_of("flrq"); /* its ranks */
    return FLRQ_OK;
}

/* Wanted, and possible with this --group. */
static bool takes_part(const bench *b, const variant *v) {
    int64_t group = b->config->group;
    if (!(b->wanted >> kind_of(v->kind) & 1)) return false;
    return v->divide == 1 || (group > 0 && group % v->divide == 0);
}

/* ---- one method -------------------------------------------------------------------------------------------------- */

static flrq_status params_of(const bench *b, const variant *v, int64_t bits, flrq_params **out) {
    flrq_status status = FLRQ_OK;
    FLRQ_TRY(flrq_bench_params(out, b->params, "quantize", v->weights_only ? "calib-tokens" : NULL));
    for (size_t i = 0; i < sizeof v->options / sizeof *v->options && v->options[i][0]; i++)
        FLRQ_GOTO(flrq_params_set(*out, v->options[i][0], v->options[i][1]));
    FLRQ_GOTO(flrq_params_set(*out, "out", b->out));
    FLRQ_GOTO(flrq_params_set_int(*out, "bits", bits));
    if (v->divide > 1) FLRQ_GOTO(flrq_params_set_int(*out, "group", b->config->group / v->divide));
    if (v->same_ranks) FLRQ_GOTO(flrq_params_set(*out, "ranks-from", b->report));
    if (v->weights_only) FLRQ_GOTO(flrq_params_set(*out, "calib", "none"));
    status = flrq_params_check(*out);
out:
    if (status != FLRQ_OK) {
        flrq_params_free(*out);
        *out = NULL;
    }
    return status;
}

/* What the jobs remarked, each text once; what a method without calibration says of that is no news. */
static void pass_notices(bench *b, const json_t *notices, bool weights_only) {
    size_t i;
    json_t *text;
    json_array_foreach(notices, i, text) {
        const char *value = json_string_value(text);
        if (weights_only || json_object_get(b->said, value)) continue;
        json_object_set_new(b->said, value, json_true());
        flrq_notice(b->reporter, "%s", value);
    }
}

/* Quantizes config->repeats times; the folder of the last stays. */
static flrq_status quantize(bench *b, const variant *v, const flrq_params *params, json_t **result,
                            flrq_bench_spread *spread) {
    double seconds[1000];
    int64_t runs = 0;
    while (runs < b->config->repeats) {
        flrq_reporter silent = {.start = flrq_seconds(), .notices = json_array()};
        json_decref(*result);
        *result = NULL;
        FLRQ_TRY(flrq_bench_folder_remove(b->out));
        double begin = flrq_seconds();
        flrq_status status = flrq_job_quantize(params, &silent, result);
        seconds[runs++] = flrq_seconds() - begin;
        pass_notices(b, silent.notices, v->weights_only);
        json_decref(silent.notices);
        FLRQ_TRY(status);
    }
    *spread = flrq_bench_spread_of(seconds, (int)runs);
    return FLRQ_OK;
}

/* Perplexity of a folder; `against` may be NULL. */
static flrq_status evaluate(const bench *b, const char *folder, const char *against, json_t **result) {
    flrq_params *params;
    flrq_reporter silent = {.start = flrq_seconds()};
    flrq_status status = FLRQ_OK;
    FLRQ_TRY(flrq_bench_params(&params, b->params, "eval", NULL));
    FLRQ_GOTO(flrq_params_set(params, "model", folder));
    if (against) FLRQ_GOTO(flrq_params_set(params, "against", against));
    FLRQ_GOTO(flrq_params_check(params));
    status = flrq_job_eval(params, &silent, result);
out:
    flrq_params_free(params);
    return status;
}

/* The ranks of the run in b->out, for others: its report goes where the next run does not remove it. */
static flrq_status keep_ranks(const bench *b) {
    char *from = flrq_path_join(b->out, "report.json");
    flrq_status status = from ? flrq_file_copy(from, b->report) : flrq_fail_memory(0, "a path");
    free(from);
    return status;
}

static void set_real(json_t *row, const char *key, double value) {
    json_object_set_new(row, key, isfinite(value) ? json_real(value) : json_null());
}

static void add_numbers(json_t *row, const json_t *run, const json_t *eval, const flrq_bench_spread *t, double source) {
    const json_t *against = json_object_get(eval, "against"), *phases = json_object_get(run, "phases");
    double perplexity = number(eval, "perplexity");
    set_real(row, "bits_per_weight", number(run, "bits_per_weight"));
    set_real(row, "error", number(run, "error"));
    set_real(row, "rank_mean", number(run, "average_rank"));
    set_real(row, "rank_max", number(run, "max_rank"));
    set_real(row, "perplexity", perplexity);
    set_real(row, "perplexity_change", perplexity / source - 1);
    set_real(row, "kl_mean", number(against, "kl_mean"));
    set_real(row, "kl_max", number(against, "kl_max"));
    set_real(row, "top1_agreement", number(against, "top1_agreement"));
    set_real(row, "seconds", t->median);
    set_real(row, "seconds_p10", t->p10);
    set_real(row, "seconds_p90", t->p90);
    json_object_set_new(row, "runs", json_integer(t->runs));
    set_real(row, "seconds_calibrate", number(phases, "calibrate"));
    set_real(row, "seconds_fit", number(phases, "quantize"));
}

static flrq_status run_variant(bench *b, const variant *v, int64_t bits, double source) {
    flrq_params *params = NULL;
    json_t *run = NULL, *eval = NULL;
    flrq_bench_spread t = {0};
    flrq_status status = FLRQ_OK;
    json_t *row = json_pack("{s:I, s:s, s:s, s:I, s:s}", "bits", (json_int_t)bits, "kind", v->kind, "method", v->label,
                            "group", (json_int_t)(b->config->group / v->divide), "status", "ok");
    json_array_append_new(b->rows, row);
    if (v->same_ranks && !flrq_path_exists(b->report)) {
        json_object_set_new(row, "status", json_string("flrq's own run failed, so there are no ranks"));
        return FLRQ_OK;
    }
    FLRQ_GOTO(params_of(b, v, bits, &params));
    FLRQ_GOTO(quantize(b, v, params, &run, &t));
    if (strcmp(v->kind, "flrq") == 0) FLRQ_GOTO(keep_ranks(b));
    FLRQ_GOTO(evaluate(b, b->out, b->config->model, &eval));
    add_numbers(row, run, eval, &t, source);
    if (v->weights_only) json_object_set_new(row, "error", json_null()); /* of the weights, not of the output */
out:
    flrq_params_free(params);
    json_decref(eval);
    json_decref(run);
    /* What this device or model cannot do is a result; all else ends the bench. */
    if (status == FLRQ_ERR_MEMORY || status == FLRQ_ERR_UNSUPPORTED) {
        json_object_set_new(row, "status", json_string(flrq_last_error()));
        return FLRQ_OK;
    }
    if (status == FLRQ_STOPPED)
        return flrq_fail(
            status, b->files.dir ? "stopped; what was measured is in %s" : "stopped; nothing is kept without -o DIR",
            b->files.dir);
    return status;
}

/* ---- equal bits -------------------------------------------------------------------------------------------------- */

static bool is_measured(const json_t *row) {
    return isfinite(number(row, "kl_mean")) && number(row, "kl_mean") > 0;
}

/* The clip-only rows around `bits` per weight: the nearest with at most, and with at least, as many. */
static void neighbours(const json_t *rows, double bits, const json_t **below, const json_t **above) {
    size_t i;
    json_t *row;
    *below = *above = NULL;
    json_array_foreach(rows, i, row) {
        double x = number(row, "bits_per_weight");
        if (strcmp(json_string_value(json_object_get(row, "kind")), "clip") != 0 || !is_measured(row)) continue;
        if (x <= bits && (!*below || x > number(*below, "bits_per_weight"))) *below = row;
        if (x >= bits && (!*above || x < number(*above, "bits_per_weight"))) *above = row;
    }
}

static void add_equal_bits(json_t *rows) {
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) {
        const json_t *below, *above;
        double bits = number(row, "bits_per_weight");
        if (!is_measured(row) || strcmp(json_string_value(json_object_get(row, "kind")), "clip") == 0) continue;
        neighbours(rows, bits, &below, &above);
        if (!below || !above) continue;
        double x0 = number(below, "bits_per_weight"), x1 = number(above, "bits_per_weight");
        double y0 = log(number(below, "kl_mean")), y1 = log(number(above, "kl_mean"));
        double kl = exp(x1 > x0 ? y0 + (y1 - y0) * (bits - x0) / (x1 - x0) : y0);
        json_object_update_new(row, json_pack("{s:f, s:f, s:f, s:f}", "equal_kl", kl, "equal_ratio",
                                              number(row, "kl_mean") / kl, "equal_from_bits", x0, "equal_to_bits", x1));
    }
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

static const char *series_name(const char *kind) {
    static const char *const names[KINDS] = {"flrq",
                                             "flrq (r1 sketch)",
                                             "flrq (exact SVD)",
                                             "flrq (preset paper)",
                                             "flrq (1 to 20 more rounds)",
                                             "SVD then nearest (flrq's ranks)",
                                             "lqer (flrq's ranks)",
                                             "clip only (groups g to g/8)",
                                             "round to nearest (groups g to g/4)"};
    return names[kind_of(kind)];
}

static const char *bits_name(double bits) {
    return bits == 2 ? "2 bits" : bits == 3 ? "3 bits" : bits == 4 ? "4 bits" : "8 bits";
}

typedef struct point {
    double x, y;
    const char *label;
} point;

static int by_x(const void *a, const void *b) {
    double x = ((const point *)a)->x, y = ((const point *)b)->x;
    return (x > y) - (x < y);
}

/* The measured rows of a kind, in the order of `key`. */
static size_t points_of(const json_t *rows, const char *kind, const char *key, point *out) {
    size_t count = 0, i;
    json_t *row;
    json_array_foreach(rows, i, row) {
        if (strcmp(json_string_value(json_object_get(row, "kind")), kind) != 0 || !is_measured(row)) continue;
        out[count++] = (point){number(row, key), number(row, "kl_mean"), bits_name(number(row, "bits"))};
    }
    qsort(out, count, sizeof *out, by_x);
    return count;
}

/* KL divergence over `key`: a series for each kind of method; over the size, those without low rank are curves. */
static flrq_status draw(const bench *b, const char *part, const char *key, flrq_chart_axis x_axis, const char *title) {
    size_t total = json_array_size(b->rows), n_series = 0, used = 0;
    flrq_chart_series series[KINDS];
    char note[256];
    point *points = malloc((total + 1) * sizeof *points);
    double *x = malloc((total + 1) * sizeof *x), *y = malloc((total + 1) * sizeof *y);
    const char **labels = malloc((total + 1) * sizeof *labels);
    flrq_status status = FLRQ_OK;
    if (!points || !x || !y || !labels) FLRQ_GOTO(flrq_fail_memory(total * sizeof *points, "a figure"));
    for (int k = 0; k < KINDS; k++) {
        size_t count = points_of(b->rows, kinds[k], key, points);
        bool curve = strcmp(key, "seconds") != 0 && (k == kind_of("clip") || k == kind_of("rtn"));
        if (count == 0) continue;
        for (size_t i = 0; i < count; i++)
            x[used + i] = points[i].x, y[used + i] = points[i].y, labels[used + i] = k == 0 ? points[i].label : NULL;
        series[n_series++] = (flrq_chart_series){.name = series_name(kinds[k]),
                                                 .count = count,
                                                 .x = x + used,
                                                 .y = y + used,
                                                 .labels = labels + used,
                                                 .line = curve,
                                                 .points = true};
        used += count;
    }
    snprintf(note, sizeof note, "%s, groups of %lld; lower is better", b->config->model, (long long)b->config->group);
    flrq_chart chart = {.title = title,
                        .note = note,
                        .x = x_axis,
                        .y = {.label = "mean KL from the source, nats/token", .log = true},
                        .series = series,
                        .count = n_series};
    status = flrq_bench_figure(&b->files, part, &chart);
out:
    free(labels);
    free(y);
    free(x);
    free(points);
    return status;
}

/* ---- the job ----------------------------------------------------------------------------------------------------- */

static flrq_status make_folders(bench *b) {
    FLRQ_TRY(flrq_bench_scratch_make(&b->scratch, b->config));
    b->out = flrq_path_join(b->scratch, "quantized");
    b->report = flrq_path_join(b->scratch, "report.json");
    return b->out && b->report ? FLRQ_OK : flrq_fail_memory(0, "a path");
}

/* After every method, so that a bench of hours that is stopped leaves what it measured. */
static flrq_status write_results(const bench *b) {
    static const char *const keys[] = {"bits",
                                       "kind",
                                       "method",
                                       "group",
                                       "status",
                                       "bits_per_weight",
                                       "error",
                                       "rank_mean",
                                       "rank_max",
                                       "perplexity",
                                       "perplexity_change",
                                       "kl_mean",
                                       "kl_max",
                                       "top1_agreement",
                                       "seconds",
                                       "seconds_p10",
                                       "seconds_p90",
                                       "runs",
                                       "seconds_calibrate",
                                       "seconds_fit",
                                       "equal_kl",
                                       "equal_ratio",
                                       "equal_from_bits",
                                       "equal_to_bits"};
    add_equal_bits(b->rows);
    FLRQ_TRY(flrq_bench_csv(&b->files, NULL, b->rows, keys, sizeof keys / sizeof *keys));
    FLRQ_TRY(draw(b, "bits", "bits_per_weight", (flrq_chart_axis){.label = "total bits per weight"},
                  "Quality against size"));
    FLRQ_TRY(draw(b, "seconds", "seconds", (flrq_chart_axis){.label = "seconds to quantize", .log = true},
                  "Quality against time"));
    return flrq_bench_result(&b->files, b->result);
}

/* What one of the jobs would refuse ends the bench before the first. */
static flrq_status check_all(const bench *b) {
    for (int i = 0; i < b->n_bits; i++)
        for (int v = 0; v < VARIANTS; v++) {
            flrq_params *params;
            if (!takes_part(b, &variants[v])) continue;
            FLRQ_TRY(flrq_trace(params_of(b, &variants[v], b->bits[i], &params), "%lld bits: %s", (long long)b->bits[i],
                                variants[v].label));
            flrq_params_free(params);
        }
    return FLRQ_OK;
}

/* Every method at one number of bits. */
static flrq_status run_bits(bench *b, int64_t bits, double source, int64_t *done, int64_t all) {
    FLRQ_TRY(flrq_bench_folder_remove(b->report)); /* ranks of other bits */
    for (int v = 0; v < VARIANTS; v++) {
        char phase[96];
        if (!takes_part(b, &variants[v])) continue;
        snprintf(phase, sizeof phase, "%lld bits: %s", (long long)bits, variants[v].label);
        flrq_progress(b->reporter, phase, (*done)++, all);
        FLRQ_TRY(flrq_trace(run_variant(b, &variants[v], bits, source), "%s", phase));
        FLRQ_TRY(write_results(b));
    }
    return FLRQ_OK;
}

static flrq_status run_all(bench *b, double source) {
    int64_t done = 0, all = 0;
    for (int v = 0; v < VARIANTS; v++) all += takes_part(b, &variants[v]) ? b->n_bits : 0;
    for (int i = 0; i < b->n_bits; i++) FLRQ_TRY(run_bits(b, b->bits[i], source, &done, all));
    return FLRQ_OK;
}

/* The beginning of the result; the rows come later. */
static flrq_status begin_result(bench *b, const json_t *source) {
    json_t *facts =
        json_pack("{s:s, s:I, s:f, s:O, s:O, s:O}", "model", b->config->model, "group", (json_int_t)b->config->group,
                  "source_perplexity", number(source, "perplexity"), "scored", json_object_get(source, "scored"),
                  "context", json_object_get(source, "context"), "rows", b->rows);
    if (facts && b->result && json_object_update_new(b->result, facts) == 0) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_USAGE, "%s: the result is JSON, which cannot hold a name that is not UTF-8",
                     b->config->model);
}

flrq_status flrq_job_bench_methods(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    bench b = {
        .params = params, .config = &params->config, .reporter = reporter, .rows = json_array(), .said = json_object()};
    flrq_backend *be = NULL;
    flrq_device_info device;
    json_t *source = NULL;
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(parse_bits(&b));
    FLRQ_GOTO(parse_methods(&b));
    FLRQ_GOTO(flrq_bench_files_open(&b.files, params, reporter, "methods"));
    FLRQ_GOTO(flrq_backend_open(&be, b.config->device, (int)b.config->threads));
    FLRQ_GOTO(be->info(be, &device));
    b.result = flrq_bench_provenance(params, be->name, &device);
    flrq_backend_close(be); /* the jobs open their own */
    be = NULL;
    FLRQ_GOTO(make_folders(&b));
    FLRQ_GOTO(check_all(&b));
    flrq_progress(reporter, "source", 0, 1);
    FLRQ_GOTO(evaluate(&b, b.config->model, NULL, &source));
    FLRQ_GOTO(begin_result(&b, source));
    FLRQ_GOTO(run_all(&b, number(source, "perplexity")));
    *result = json_incref(b.result);
out:
    flrq_backend_close(be);
    flrq_bench_scratch_remove(b.scratch, b.config, reporter);
    free(b.report);
    free(b.out);
    json_decref(source);
    json_decref(b.said);
    json_decref(b.rows);
    json_decref(b.result);
    return status;
}
