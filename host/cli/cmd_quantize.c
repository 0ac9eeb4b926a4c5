/* cmd_quantize.c - shows the result of `flrq quantize`: one line per block, the worst matrices, the totals.
 */
#include <math.h>
#include <stdlib.h>

#include "cli.h"

static void show_blocks(const json_t *result, FILE *out) {
    static const cli_column columns[] = {
        {"block", 'r'},    {"seconds", 'r'}, {"bits/weight", 'r'}, {"rank min", 'r'},     {"rank mean", 'r'},
        {"rank max", 'r'}, {"error", 'r'},   {"nearest", 'r'},     {"worst matrix", 'l'}, {"its error", 'r'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    size_t i;
    json_t *block;
    json_array_foreach(json_object_get(result, "blocks"), i, block) {
        const char *worst = cli_string(block, "worst");
        cli_cell_count(table, block, "block");
        cli_cell_fixed(table, block, "seconds", 1);
        cli_cell_fixed(table, block, "bits_per_weight", 4);
        cli_cell_count(table, block, "rank_min");
        cli_cell_fixed(table, block, "rank_mean", 1);
        cli_cell_count(table, block, "rank_max");
        cli_cell_significant(table, block, "error");
        cli_cell_significant(table, block, "error_nearest");
        cli_cell(table, "%s", worst ? cli_name_tail(worst) : "");
        cli_cell_significant(table, block, "worst_error");
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
}

static void show_worst(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"matrix", 'l'}, {"rows", 'r'},  {"cols", 'r'},
                                         {"rank", 'r'},   {"error", 'r'}, {"nearest", 'r'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    size_t i;
    json_t *matrix;
    json_array_foreach(json_object_get(result, "worst"), i, matrix) {
        cli_cell_text(table, matrix, "name");
        cli_cell_count(table, matrix, "rows");
        cli_cell_count(table, matrix, "cols");
        cli_cell_count(table, matrix, "rank");
        cli_cell_significant(table, matrix, "error");
        cli_cell_significant(table, matrix, "error_nearest");
    }
    if (cli_table_print(table, "worst matrices", out)) fputc('\n', out);
}

static void fact_text(cli_table *facts, const char *label, const json_t *result, const char *key) {
    const char *text = cli_string(result, key);
    if (text) cli_fact(facts, label, "%s", text);
}

static void fact_scheme(cli_table *facts, const json_t *result) {
    double bits = cli_real(result, "bits"), group = cli_real(result, "group");
    const json_t *symmetric = json_object_get(result, "symmetric");
    if (isnan(bits)) return;
    char *groups = isnan(group) ? cli_copy("")
                   : group == 0 ? cli_copy(", one group per row")
                                : cli_printf(", groups of %s", cli_count(group).text);
    cli_fact(facts, "scheme", "%s bits%s%s", cli_count(bits).text, groups,
             json_is_boolean(symmetric) ? (json_is_true(symmetric) ? ", symmetric" : ", asymmetric") : "");
    free(groups);
}

static void fact_bits(cli_table *facts, const json_t *result) {
    const json_t *parts = json_object_get(result, "bits_breakdown");
    double bits = cli_real(result, "bits_per_weight");
    if (isnan(bits)) return;
    static const char *const names[][2] = {
        {"codes", "codes"}, {"scales", "scales"}, {"zeros", "zeros"}, {"lowrank", "low rank"}};
    char *list = cli_copy("");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        double part = cli_real(parts, names[i][0]);
        if (isnan(part)) continue;
        char *longer = cli_printf("%s%s%s %.4f", list, *list ? ", " : "", names[i][1], part);
        free(list);
        list = longer;
    }
    cli_fact(facts, "bits/weight", *list ? "%.4f (%s)" : "%.4f%s", bits, list);
    free(list);
}

static void fact_error(cli_table *facts, const json_t *result) {
    double error = cli_real(result, "error"), nearest = cli_real(result, "error_nearest");
    if (isnan(error)) return;
    if (nearest > 0)
        cli_fact(facts, "error", "%s, round-to-nearest %s (%+.1f %%)", cli_significant(error).text,
                 cli_significant(nearest).text, 100 * (error / nearest - 1));
    else
        cli_fact(facts, "error", "%s", cli_significant(error).text);
}

static void fact_time(cli_table *facts, const json_t *result) {
    double seconds = cli_real(result, "seconds");
    if (isnan(seconds)) return;
    char *list = cli_copy("");
    const char *phase;
    json_t *value;
    json_object_foreach(json_object_get(result, "phases"), phase, value) {
        char *longer =
            cli_printf("%s%s%s %s", list, *list ? ", " : "", phase, cli_duration(json_number_value(value)).text);
        free(list);
        list = longer;
    }
    cli_fact(facts, "time", *list ? "%s (%s)" : "%s%s", cli_duration(seconds).text, list);
    free(list);
    double resumed = cli_real(result, "resumed_blocks");
    if (resumed > 0) cli_fact(facts, "resumed", "%s of an earlier run", cli_plural(resumed, "block").text);
}

static void fact_device(cli_table *facts, const json_t *result) {
    const json_t *device = json_object_get(result, "device");
    const char *name = cli_string(device, "name"), *joined = cli_string(device, "joined_by");
    double workers = cli_real(device, "workers");
    if (!name) return;
    if (workers > 1)
        cli_fact(facts, "workers", "%s joined by %s, each with %s", cli_count(workers).text, joined ? joined : "?",
                 name);
    else
        cli_fact(facts, "device", "%s", name);
}

static void fact_memory(cli_table *facts, const json_t *result) {
    double peak = cli_real(result, "peak_rss_bytes"), planned = cli_real(result, "planned_bytes");
    if (isnan(peak)) return;
    if (isnan(planned))
        cli_fact(facts, "memory", "%s at the peak", cli_bytes(peak).text);
    else
        cli_fact(facts, "memory", "%s at the peak, %s planned", cli_bytes(peak).text, cli_bytes(planned).text);
}

/* One fact per entry of a list, each a text or a name with a reason; the label stands at the first. */
static void fact_list(cli_table *facts, const char *label, const json_t *list) {
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry) {
        const char *name = json_is_string(entry) ? json_string_value(entry) : cli_string(entry, "name");
        const char *reason = cli_string(entry, "reason");
        cli_fact(facts, i ? "" : label, "%s%s%s", name ? name : "?", reason ? ": " : "", reason ? reason : "");
    }
}

/* Every source tensor that is not among the quantized ones is accounted for. */
static void fact_others(cli_table *facts, const json_t *result) {
    double copied = cli_real(result, "copied_count");
    if (!isnan(copied)) cli_fact(facts, "copied", "%s", cli_plural(copied, "tensor").text);
    fact_list(facts, "tied", json_object_get(result, "tied"));
    fact_list(facts, "dropped", json_object_get(result, "dropped"));
}

void cli_quantize_show(const json_t *result, FILE *out) {
    show_blocks(result, out);
    show_worst(result, out);
    cli_table *facts = cli_facts_new();
    fact_text(facts, "model", result, "model");
    fact_text(facts, "family", result, "family");
    fact_text(facts, "method", result, "method");
    fact_text(facts, "preset", result, "preset");
    fact_scheme(facts, result);
    double weights = cli_real(result, "weights");
    if (!isnan(weights)) cli_fact(facts, "weights", "%s quantized", cli_count(weights).text);
    fact_bits(facts, result);
    double mean = cli_real(result, "average_rank"), max = cli_real(result, "max_rank");
    if (!isnan(mean)) cli_fact(facts, "rank", isnan(max) ? "mean %.1f" : "mean %.1f, max %.0f", mean, max);
    fact_error(facts, result);
    fact_device(facts, result);
    fact_time(facts, result);
    fact_memory(facts, result);
    fact_others(facts, result);
    double size = cli_real(result, "output_bytes");
    if (!isnan(size)) cli_fact(facts, "size", "%s", cli_bytes(size).text);
    fact_text(facts, "output", result, "out");
    fact_text(facts, "report", result, "report");
    cli_table_print(facts, NULL, out);
}

void cli_quantize_summary(const json_t *result, FILE *out) {
    char *path = cli_clean(cli_copy(cli_string(result, "out") ? cli_string(result, "out") : "done"));
    fprintf(out, "%s: %s bits/weight, mean rank %s, error %s (round-to-nearest %s), %s\n", path,
            cli_fixed(cli_real(result, "bits_per_weight"), 4).text, cli_fixed(cli_real(result, "average_rank"), 1).text,
            cli_significant(cli_real(result, "error")).text, cli_significant(cli_real(result, "error_nearest")).text,
            cli_duration(cli_real(result, "seconds")).text);
    free(path);
}
