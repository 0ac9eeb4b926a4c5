/* cmd_bench.c - shows the results of the benches: sketches side by side, ops against the limits of the device, a whole
 * run against its floor.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static void cell_percent(cli_table *table, const json_t *object, const char *key, int decimals) {
    double value = cli_real(object, key);
    if (isnan(value))
        cli_cell(table, "%s", "");
    else
        cli_cell(table, "%.*f", decimals, 100 * value);
}

static void cell_duration(cli_table *table, const json_t *object, const char *key) {
    double value = cli_real(object, key);
    cli_cell(table, "%s", isnan(value) ? "" : cli_duration(value).text);
}

static void cell_milliseconds(cli_table *table, const json_t *object, const char *key) {
    double value = cli_real(object, key);
    cli_cell(table, "%s", isnan(value) ? "" : cli_significant(1e3 * value).text);
}

/* The column of reasons is shown when a row has one. */
static int some_failed(const json_t *rows) {
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) {
        const char *status = cli_string(row, "status");
        if (status && strcmp(status, "ok") != 0) return 1;
    }
    return 0;
}

static void cell_status(cli_table *table, const json_t *row, int shown) {
    const char *status = cli_string(row, "status");
    cli_cell(table, "%s", shown && status ? status : "");
}

/* Four digits, or all of a large number. */
static cli_text rate_text(double rate) {
    return rate < 10000 ? cli_significant(rate) : cli_count(rate);
}

static void cell_rate(cli_table *table, const json_t *object, const char *key) {
    double value = cli_real(object, key);
    cli_cell(table, "%s", isnan(value) ? "" : rate_text(value).text);
}

static void fact_of(cli_table *facts, const json_t *object, const char *label, const char *key, const char *unit) {
    double value = cli_real(object, key);
    if (value > 0) cli_fact(facts, label, "%s %s", rate_text(value).text, unit);
}

static void machine_facts(cli_table *facts, const json_t *result) {
    const char *device = cli_string(result, "device"), *machine = cli_string(result, "machine");
    const char *precision = cli_string(result, "precision");
    double threads = cli_real(result, "threads");
    if (device) cli_fact(facts, "device", "%s", device);
    if (machine) cli_fact(facts, "machine", "%s", machine);
    if (!isnan(threads)) cli_fact(facts, "threads", "%s", cli_count(threads).text);
    if (precision) cli_fact(facts, "precision", "%s", precision);
    const json_t *limits = json_object_get(result, "limits");
    const char *libraries = cli_string(result, "libraries"), *date = cli_string(result, "date");
    const char *version = cli_string(result, "version");
    if (libraries && *libraries) cli_fact(facts, "libraries", "%s", libraries);
    if (date && version) cli_fact(facts, "date", "%s, flrq %s", date, version);
    fact_of(facts, limits, "copy", "copy_gb_s", "GB/s, read and write");
    fact_of(facts, limits, "upload", "upload_gb_s", "GB/s");
    fact_of(facts, limits, "download", "download_gb_s", "GB/s");
    fact_of(facts, limits, "file", "read_gb_s", "GB/s");
    fact_of(facts, limits, "matrix, full", "full_gflop_s", "GFLOP/s");
    fact_of(facts, limits, "matrix, fast", "fast_gflop_s", "GFLOP/s");
}

/* ---- bench sketch ------------------------------------------------------------------------------------------------ */

/* 100 times a small number; what rounds to zero has no sign. */
static void cell_excess(cli_table *table, const json_t *row) {
    double value = 100 * cli_real(row, "excess");
    if (fabs(value) < 0.0005) value = 0;
    cli_cell(table, "%s", isnan(value) ? "" : cli_fixed(value, 3).text);
}

/* Rows [first, end) of one matrix. */
static void sketch_table(const json_t *rows, size_t first, size_t end, int shown, FILE *out) {
    static const cli_column columns[] = {{"rank", 'r'},      {"method", 'l'},     {"seconds", 'r'},   {"p10", 'r'},
                                         {"p90", 'r'},       {"runs", 'r'},       {"residual", 'r'},  {"optimum", 'r'},
                                         {"excess %", 'r'},  {"speedup r1", 'r'}, {"over rsvd", 'r'}, {"over svd", 'r'},
                                         {"over svdj", 'r'}, {"status", 'l'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    const char *matrix = cli_string(json_array_get(rows, first), "matrix");
    char *title = matrix ? cli_clean(cli_copy(matrix)) : NULL;
    for (size_t i = first; i < end; i++) {
        const json_t *row = json_array_get(rows, i);
        cli_cell_count(table, row, "rank");
        cli_cell_text(table, row, "method");
        cli_cell_significant(table, row, "seconds");
        cli_cell_significant(table, row, "seconds_p10");
        cli_cell_significant(table, row, "seconds_p90");
        cli_cell_count(table, row, "runs");
        cli_cell_significant(table, row, "residual");
        cli_cell_significant(table, row, "optimum");
        cell_excess(table, row);
        cli_cell_fixed(table, row, "speedup_over_r1", 1);
        cli_cell_fixed(table, row, "speedup_over_rsvd", 1);
        cli_cell_fixed(table, row, "speedup_over_svd", 1);
        cli_cell_fixed(table, row, "speedup_over_svdj", 1);
        cell_status(table, row, shown);
    }
    if (cli_table_print(table, title, out)) fputc('\n', out);
    free(title);
}

static int same_matrix(const json_t *a, const json_t *b) {
    const char *x = cli_string(a, "matrix"), *y = cli_string(b, "matrix");
    return x && y ? strcmp(x, y) == 0 : x == y;
}

/* What bounds the ranks of a row, where one of them is at the bound. */
static void cell_bound(cli_table *table, const json_t *row) {
    const char *from = cli_string(row, "cap_from");
    int is_size = from && strcmp(from, "size") == 0;
    if (!from || !json_is_true(json_object_get(row, "capped")))
        cli_cell(table, "%s", "");
    else
        cli_cell(table, "%s%s", is_size ? "the matrix has no more" : "--", is_size ? "" : from);
}

/* The ranks that the rules choose from each method, and whether they are those of the reference. */
static void rank_table(const json_t *result, FILE *out) {
    static const cli_column columns[] = {
        {"matrix", 'l'},    {"method", 'l'},   {"r1flr", 'r'}, {"r1flr-best", 'r'},     {"at most", 'r'},
        {"amax at 0", 'r'}, {"at r1flr", 'r'}, {"agree", 'l'}, {"amax differs %", 'r'}, {"stopped by", 'l'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    const json_t *rows = json_object_get(result, "ranks");
    double bits = cli_real(json_array_get(rows, 0), "bits");
    char *title = cli_printf("ranks that the rules choose at %s bits", cli_number(bits).text);
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) {
        const char *method = cli_string(row, "method"), *reference = cli_string(row, "reference");
        const json_t *agrees = json_object_get(row, "agrees");
        int is_reference = method && reference && strcmp(method, reference) == 0;
        cli_cell_text(table, row, "matrix");
        cli_cell_text(table, row, "method");
        cli_cell_count(table, row, "rank_r1flr");
        cli_cell_count(table, row, "rank_best");
        cli_cell_count(table, row, "cap");
        cli_cell_significant(table, row, "amax_0");
        cli_cell_significant(table, row, "amax_r1flr");
        cli_cell(table, "%s", is_reference ? "reference" : json_is_true(agrees) ? "yes" : agrees ? "NO" : "");
        cell_percent(table, row, "curve_difference", 2);
        cell_bound(table, row);
    }
    if (cli_table_print(table, title, out)) fputc('\n', out);
    free(title);
}

/* "ranks of r1: as the exact SVD's for 3 of 4 matrices; not for x", a fact for each method. */
static void agreement_facts(cli_table *facts, const json_t *result) {
    size_t i, k;
    json_t *row, *name;
    json_array_foreach(json_object_get(result, "agreement"), i, row) {
        const char *method = cli_string(row, "method");
        double matrices = cli_real(row, "matrices"), agree = cli_real(row, "agree");
        if (!method || isnan(matrices) || isnan(agree)) continue;
        char *label = cli_printf("ranks of %s", method), *text, *longer;
        text = cli_printf("agree for %s of %s matrices", cli_count(agree).text, cli_count(matrices).text);
        json_array_foreach(json_object_get(row, "differ"), k, name) {
            longer = cli_printf("%s%s%s", text, k ? ", " : "; not for ",
                                json_is_string(name) ? json_string_value(name) : "?");
            free(text);
            text = longer;
        }
        cli_fact(facts, label, "%s", text);
        free(text);
        free(label);
    }
}

/* The routine behind each method, in the order of the rows. */
static void routine_facts(cli_table *facts, const json_t *rows) {
    size_t i, k;
    json_t *row;
    json_array_foreach(rows, i, row) {
        const char *method = cli_string(row, "method"), *routine = cli_string(row, "routine");
        for (k = 0; k < i; k++) {
            const char *earlier = cli_string(json_array_get(rows, k), "method");
            if (method && earlier && strcmp(method, earlier) == 0) break;
        }
        if (k == i && method && routine) cli_fact(facts, method, "%s", routine);
    }
}

void cli_bench_sketch_show(const json_t *result, FILE *out) {
    const json_t *rows = json_object_get(result, "rows");
    size_t count = json_array_size(rows), first = 0;
    int shown = some_failed(rows);
    for (size_t i = 1; i <= count; i++) {
        if (i < count && same_matrix(json_array_get(rows, i), json_array_get(rows, first))) continue;
        sketch_table(rows, first, i, shown, out);
        first = i;
    }
    rank_table(result, out);
    cli_table *facts = cli_facts_new();
    routine_facts(facts, rows);
    agreement_facts(facts, result);
    machine_facts(facts, result);
    cli_table_print(facts, NULL, out);
}

/* ---- bench ops --------------------------------------------------------------------------------------------------- */

void cli_bench_ops_show(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"op", 'l'},       {"shape", 'l'},      {"ms", 'r'},     {"p10", 'r'},
                                         {"p90", 'r'},      {"GB/s", 'r'},       {"% copy", 'r'}, {"GFLOP/s", 'r'},
                                         {"% matrix", 'r'}, {"% of floor", 'r'}, {"status", 'l'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    size_t i;
    json_t *row;
    int shown = some_failed(json_object_get(result, "rows"));
    json_array_foreach(json_object_get(result, "rows"), i, row) {
        cli_cell_text(table, row, "op");
        cli_cell_text(table, row, "shape");
        cell_milliseconds(table, row, "seconds");
        cell_milliseconds(table, row, "seconds_p10");
        cell_milliseconds(table, row, "seconds_p90");
        cell_rate(table, row, "gb_s");
        cell_percent(table, row, "of_copy", 0);
        cell_rate(table, row, "gflop_s");
        cell_percent(table, row, "of_matrix", 0);
        cell_percent(table, row, "of_floor", 0);
        cell_status(table, row, shown);
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
    cli_table *facts = cli_facts_new();
    const char *profile = cli_string(result, "profile");
    machine_facts(facts, result);
    if (profile) cli_fact(facts, "profile", "%s", profile);
    cli_table_print(facts, NULL, out);
}

void cli_bench_rows_summary(const json_t *result, FILE *out) {
    fprintf(out, "%zu cases measured\n", json_array_size(json_object_get(result, "rows")));
}

/* ---- bench quantize ---------------------------------------------------------------------------------------------- */

/* What plan says about one device. */
static void plan_facts(cli_table *facts, const char *label, const json_t *plan) {
    const char *error = cli_string(plan, "error");
    const json_t *device = json_object_get(plan, "device");
    double host = cli_real(plan, "host_bytes"), own = cli_real(device, "bytes"), limit = cli_real(device, "limit");
    double batch = cli_real(device, "batch");
    if (error) {
        cli_fact(facts, label, "%s", error);
    } else if (!isnan(host)) {
        char *text = cli_printf("%s on the host", cli_bytes(host).text);
        if (own > 0) {
            char *longer = cli_printf("%s of the device's %s, %s", cli_bytes(own).text, cli_bytes(limit).text, text);
            free(text);
            text = longer;
        }
        cli_fact(facts, label, batch > 0 ? "%s; %s tokens at once" : "%s", text, cli_count(batch).text);
        free(text);
    }
}

static void run_facts(cli_table *facts, const json_t *result) {
    const json_t *run = json_object_get(result, "quantize");
    double blocks = cli_real(result, "blocks"), all = cli_real(result, "model_blocks");
    double over = cli_real(result, "over_floor"), model = cli_real(result, "over_floor_model");
    double peak = cli_real(run, "peak_rss_bytes"), generate = cli_real(result, "generate_seconds");
    const char *shape = cli_string(result, "shape");
    if (shape)
        cli_fact(facts, "shape",
                 !(blocks < all) ? "%s, %s"
                 : !isnan(model) ? "%s, %s of its %s (the rest is extrapolated)"
                                 : "%s, %s of its %s",
                 shape, cli_plural(blocks, "block").text, cli_count(all).text);
    if (!isnan(cli_real(result, "tokens"))) cli_fact(facts, "tokens", "%s", cli_count(cli_real(result, "tokens")).text);
    if (!isnan(over))
        cli_fact(facts, "over the floor",
                 isnan(model) || !(blocks < all) ? "%.2f times" : "%.2f times, %.2f of the whole model", over, model);
    if (!isnan(peak)) cli_fact(facts, "host memory", "%s at the peak", cli_bytes(peak).text);
    if (!isnan(cli_real(run, "bits_per_weight")))
        cli_fact(facts, "bits/weight", "%s, mean rank %s", cli_fixed(cli_real(run, "bits_per_weight"), 4).text,
                 cli_fixed(cli_real(run, "average_rank"), 1).text);
    if (!isnan(generate)) cli_fact(facts, "generated in", "%s", cli_duration(generate).text);
    plan_facts(facts, "plan", json_object_get(result, "plan"));
    plan_facts(facts, "plan, 24 GB card", json_object_get(result, "plan_24gb"));
}

/* Whether a run stands for a model with more blocks: then the columns of the whole model say something. */
static int is_part(const json_t *run) {
    return cli_real(run, "blocks") < cli_real(run, "model_blocks");
}

static void phase_table(const json_t *result, FILE *out) {
    static const cli_column columns[] = {
        {"shape", 'l'},    {"phase", 'l'},          {"time", 'r'},        {"seconds", 'r'},      {"share %", 'r'},
        {"floor, s", 'r'}, {"whole model, s", 'r'}, {"its share %", 'r'}, {"its floor, s", 'r'}, {"status", 'l'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    const json_t *rows = json_object_get(result, "rows");
    int shown = some_failed(rows), parts = 0;
    size_t i;
    json_t *run, *row;
    json_array_foreach(json_object_get(result, "runs"), i, run) parts |= is_part(run);
    json_array_foreach(rows, i, row) {
        const json_t *whole = parts ? row : NULL;
        cli_cell_text(table, row, "shape");
        cli_cell_text(table, row, "phase");
        cell_duration(table, row, "seconds");
        cli_cell_fixed(table, row, "seconds", 3);
        cell_percent(table, row, "share", 1);
        cli_cell_fixed(table, row, "floor", 3);
        cli_cell_fixed(table, whole, "seconds_model", 3);
        cell_percent(table, whole, "share_model", 1);
        cli_cell_fixed(table, whole, "floor_model", 3);
        cell_status(table, row, shown);
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
}

/* Several runs, a line each. */
static void runs_table(const json_t *runs, FILE *out) {
    static const cli_column columns[] = {{"shape", 'l'},       {"blocks", 'r'},      {"of", 'r'},
                                         {"tokens", 'r'},      {"time", 'r'},        {"over the floor", 'r'},
                                         {"whole model", 'r'}, {"bits/weight", 'r'}, {"mean rank", 'r'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    size_t i;
    json_t *run;
    json_array_foreach(runs, i, run) {
        const json_t *quantize = json_object_get(run, "quantize");
        cli_cell_text(table, run, "shape");
        cli_cell_count(table, run, "blocks");
        cli_cell_count(table, run, "model_blocks");
        cli_cell_count(table, run, "tokens");
        cell_duration(table, run, "seconds");
        cli_cell_fixed(table, run, "over_floor", 2);
        cell_duration(table, run, "seconds_model");
        cli_cell_fixed(table, quantize, "bits_per_weight", 4);
        cli_cell_fixed(table, quantize, "average_rank", 1);
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
}

void cli_bench_quantize_show(const json_t *result, FILE *out) {
    const json_t *runs = json_object_get(result, "runs");
    cli_table *facts = cli_facts_new();
    size_t i;
    json_t *run;
    phase_table(result, out);
    if (json_array_size(runs) > 1) {
        runs_table(runs, out);
        json_array_foreach(runs, i, run) {
            const char *shape = cli_string(run, "shape");
            plan_facts(facts, shape ? shape : "?", json_object_get(run, "plan"));
            plan_facts(facts, "  24 GB card", json_object_get(run, "plan_24gb"));
        }
    } else {
        run_facts(facts, result);
    }
    machine_facts(facts, result);
    cli_table_print(facts, NULL, out);
}

/* One line of a run; one that failed says why. */
static void run_summary(const json_t *run, FILE *out) {
    double seconds = cli_real(run, "seconds"), model = cli_real(run, "seconds_model");
    const char *shape = cli_string(run, "shape"), *error = cli_string(run, "error");
    fprintf(out, "%s: ", shape ? shape : "?");
    if (error)
        fprintf(out, "%s", error);
    else
        fprintf(out, "%s", cli_plural(cli_real(run, "blocks"), "block").text);
    if (!isnan(seconds))
        fprintf(out, " in %s, %.2f times the floor", cli_duration(seconds).text, cli_real(run, "over_floor"));
    if (!isnan(model) && is_part(run)) fprintf(out, "; the whole model, extrapolated: %s", cli_duration(model).text);
    fputc('\n', out);
}

void cli_bench_quantize_summary(const json_t *result, FILE *out) {
    const json_t *runs = json_object_get(result, "runs");
    size_t i;
    json_t *run;
    if (json_array_size(runs) < 2) {
        run_summary(result, out);
        return;
    }
    json_array_foreach(runs, i, run) run_summary(run, out);
}

/* ---- bench methods ----------------------------------------------------------------------------------------------- */

static int is_first_of_bits(const json_t *rows, size_t i) {
    return i > 0 && cli_real(json_array_get(rows, i), "bits") != cli_real(json_array_get(rows, i - 1), "bits");
}

static void method_row(cli_table *table, const json_t *row, int shown) {
    cli_cell_count(table, row, "bits");
    cli_cell_text(table, row, "method");
    cli_cell_count(table, row, "group");
    cli_cell_fixed(table, row, "bits_per_weight", 3);
    cli_cell_fixed(table, row, "rank_mean", 1);
    cli_cell_count(table, row, "rank_max");
    cli_cell_fixed(table, row, "perplexity", 3);
    cell_percent(table, row, "perplexity_change", 2);
    cli_cell_significant(table, row, "kl_mean");
    cli_cell_significant(table, row, "equal_kl");
    cli_cell_fixed(table, row, "equal_ratio", 3);
    cell_percent(table, row, "top1_agreement", 1);
    cli_cell_significant(table, row, "seconds");
    cell_status(table, row, shown);
}

/* What flrq's rows say at equal bits, in words. */
static void equal_bits_facts(cli_table *facts, const json_t *rows) {
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) {
        const char *kind = cli_string(row, "kind");
        double ratio = cli_real(row, "equal_ratio"), bits = cli_real(row, "bits_per_weight");
        if (!kind || strcmp(kind, "flrq") != 0 || isnan(ratio)) continue;
        char *label = cli_printf("at %s bits", cli_fixed(bits, 3).text);
        cli_fact(facts, label, "flrq's KL is %s of clip only's at as many bits (interpolated from %s and %s bits)%s",
                 cli_fixed(ratio, 3).text, cli_fixed(cli_real(row, "equal_from_bits"), 3).text,
                 cli_fixed(cli_real(row, "equal_to_bits"), 3).text,
                 ratio <= 1 ? "" : ": here low rank is the worse buy");
        free(label);
    }
}

void cli_bench_methods_show(const json_t *result, FILE *out) {
    static const cli_column columns[] = {
        {"bits", 'r'},  {"method", 'l'},  {"group", 'r'},    {"bits/weight", 'r'}, {"rank", 'r'},
        {"max", 'r'},   {"ppl", 'r'},     {"change %", 'r'}, {"KL", 'r'},          {"KL, clip at equal bits", 'r'},
        {"ratio", 'r'}, {"top-1 %", 'r'}, {"seconds", 'r'},  {"status", 'l'}};
    const json_t *rows = json_object_get(result, "rows");
    int shown = some_failed(rows);
    size_t i;
    json_t *row;
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    json_array_foreach(rows, i, row) {
        if (is_first_of_bits(rows, i)) {
            if (cli_table_print(table, NULL, out)) fputc('\n', out);
            table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
        }
        method_row(table, row, shown);
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
    cli_table *facts = cli_facts_new();
    const char *model = cli_string(result, "model");
    if (model)
        cli_fact(facts, "source", "%s, perplexity %s over %s tokens in windows of %s", model,
                 cli_fixed(cli_real(result, "source_perplexity"), 3).text, cli_count(cli_real(result, "scored")).text,
                 cli_count(cli_real(result, "context")).text);
    equal_bits_facts(facts, rows);
    machine_facts(facts, result);
    cli_table_print(facts, NULL, out);
}

void cli_bench_methods_summary(const json_t *result, FILE *out) {
    fprintf(out, "%zu runs measured\n", json_array_size(json_object_get(result, "rows")));
}
