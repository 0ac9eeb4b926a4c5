/* report_sections.c - figures of the report's page and the tables behind them.
 *
 * Owns what each section shows and in which order. A section without its fields is not there; a matrix without a field
 * is a gap in a figure and a dash in a table.
 */
#include "pipeline/report_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/chart.h"
#include "pipeline/report.h"

enum { WORST = 8 }; /* matrices of the section of the worst; their curves still tell apart */

const char *const report_parts[] = {"codes", "scales", "zero points", "low rank"};

static bool has_figures(const report_view *v) {
    return v->kinds > 0 && v->layers > 0;
}

/* A field of all matrices by kind and layer, into slot 0 to 3 of the room. */
static double *field_values(const report_view *v, int slot, const char *key) {
    double *values = v->room + (size_t)slot * v->kinds * v->layers;
    for (size_t i = 0; i < v->kinds * v->layers; i++) values[i] = report_real(v->at[i], key);
    return values;
}

/* Layers by kinds: a table of one field. */
static void put_layers_table(FILE *out, const report_view *v, const char *key, report_form form) {
    const char *columns[REPORT_KINDS + 1] = {"layer"};
    for (size_t k = 0; k < v->kinds; k++) columns[k + 1] = v->kind[k];
    report_table(out, columns, v->kinds + 1);
    for (size_t l = 0; l < v->layers; l++) {
        report_row(out);
        report_cell(out, REPORT_COUNT, (double)l);
        for (size_t k = 0; k < v->kinds; k++) report_cell(out, form, report_real(v->at[k * v->layers + l], key));
    }
    report_table_end(out);
}

/* ---- ranks ------------------------------------------------------------------------------------------------------ */

static void put_ranks(FILE *out, const report_view *v) {
    fputs("<figure class=\"wide\">", out);
    flrq_chart_heat_map(out, &(flrq_heat_map){.title = "Rank of every matrix",
                                              .columns = "layer",
                                              .unit = "rank",
                                              .rows = v->kinds,
                                              .cols = v->layers,
                                              .row_names = v->kind,
                                              .values = field_values(v, 0, "rank")});
    fputs("</figure>\n", out);
    report_fold(out, "Ranks as a table");
    put_layers_table(out, v, "rank", REPORT_COUNT);
    report_fold_end(out);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* An axis that holds all values of both fields, so that figures side by side can be compared: from zero, or logarithmic
 * when the largest is far above the smallest. */
static flrq_chart_axis error_axis(const double *a, const double *b, size_t count) {
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < 2 * count; i++) {
        double value = i < count ? a[i] : b[i - count];
        if (isnan(value)) continue;
        if (value > 0) low = fmin(low, value);
        high = fmax(high, value);
    }
    flrq_chart_axis axis = {.label = "error", .log = high > 20 * low};
    if (high > 0) {
        axis.low = axis.log ? low / 1.3 : 0;
        axis.high = axis.log ? high * 1.3 : high * 1.08;
    }
    return axis;
}

/* Means over the matrices of a layer, as in the block list; block 1 is layer 0. */
static void put_error_means(FILE *out, const report_view *v) {
    size_t count = json_array_size(v->blocks), i;
    double *x = calloc(3 * count + 1, sizeof *x), *after = x + count, *before = after + count;
    json_t *block;
    if (!x) return;
    json_array_foreach(v->blocks, i, block) {
        x[i] = report_real(block, "block") - 1;
        after[i] = report_real(block, "error");
        before[i] = report_real(block, "error_nearest");
    }
    const flrq_chart_series series[] = {
        {.name = report_text(v->report, "method"), .count = count, .x = x, .y = after, .line = true, .points = true},
        {.name = "round to nearest", .count = count, .x = x, .y = before, .line = true, .points = true}};
    flrq_chart_axis axis = error_axis(after, before, count);
    axis.label = "mean error";
    fputs("<figure class=\"wide\">", out);
    flrq_chart_xy(out, &(flrq_chart){.title = "Mean error of the matrices of a layer",
                                     .x = {.label = "layer"},
                                     .y = axis,
                                     .series = series,
                                     .count = 2,
                                     .height = 220});
    fputs("</figure>\n", out);
    free(x);
}

static void put_errors_table(FILE *out, const report_view *v) {
    const char *columns[] = {"layer", "<kind", "before", "after", "change"};
    report_table(out, columns, sizeof columns / sizeof *columns);
    for (size_t l = 0; l < v->layers; l++)
        for (size_t k = 0; k < v->kinds; k++) {
            const json_t *m = v->at[k * v->layers + l];
            if (!m) continue;
            double before = report_real(m, "error_nearest"), after = report_real(m, "error");
            report_row(out);
            report_cell(out, REPORT_COUNT, (double)l);
            report_cell_text(out, v->kind[k]);
            report_cell(out, REPORT_DIGITS, before);
            report_cell(out, REPORT_DIGITS, after);
            report_cell(out, REPORT_CHANGE, after / before - 1);
        }
    report_table_end(out);
}

static void put_errors(FILE *out, const report_view *v) {
    double *x = v->room, *after = field_values(v, 1, "error"), *before = field_values(v, 2, "error_nearest");
    flrq_chart_axis axis = error_axis(after, before, v->kinds * v->layers);
    for (size_t l = 0; l < v->layers; l++) x[l] = (double)l;
    fputs("<p>Relative error of a layer's output on the calibration text (of its weights where there is no such text), "
          "after quantization and for plain rounding to nearest.</p>\n",
          out);
    if (json_array_size(v->blocks) > 0) put_error_means(out, v);
    fputs("<div class=\"panels\">\n", out);
    for (size_t k = 0; k < v->kinds; k++) {
        const flrq_chart_series series[] = {
            {.count = v->layers, .x = x, .y = after + k * v->layers, .line = true, .points = true},
            {.count = v->layers, .x = x, .y = before + k * v->layers, .line = true, .points = true}};
        fputs("<figure>", out);
        flrq_chart_xy(out, &(flrq_chart){.title = v->kind[k],
                                         .x = {.label = "layer"},
                                         .y = axis,
                                         .series = series,
                                         .count = 2,
                                         .width = 320,
                                         .height = 130});
        fputs("</figure>\n", out);
    }
    fputs("</div>\n", out);
    report_fold(out, "Errors as a table");
    put_errors_table(out, v);
    report_fold_end(out);
}

/* ---- bits ------------------------------------------------------------------------------------------------------- */

static bool has_breakdown(const report_view *v) {
    return json_is_object(json_object_get(v->report, "bits_breakdown"));
}

/* Bits per weight of the parts of a kind of matrices; returns their number. */
static size_t kind_bits(const report_view *v, size_t kind, double *bits, double *weights) {
    int symmetric = json_is_true(json_object_get(v->report, "symmetric"));
    size_t count = 0;
    *weights = 0;
    for (int p = 0; p < FLRQ_REPORT_PARTS; p++) bits[p] = 0;
    for (size_t l = 0; l < v->layers; l++) {
        const json_t *m = v->at[kind * v->layers + l];
        double parts[FLRQ_REPORT_PARTS];
        if (!m) continue;
        flrq_report_bits(parts, m, symmetric);
        for (int p = 0; p < FLRQ_REPORT_PARTS; p++) bits[p] += parts[p];
        *weights += report_real(m, "rows") * report_real(m, "cols");
        count++;
    }
    for (int p = 0; p < FLRQ_REPORT_PARTS; p++) bits[p] /= *weights;
    return count;
}

static void put_bits(FILE *out, const report_view *v) {
    static const char *const keys[] = {"codes", "scales", "zeros", "lowrank"};
    static const char *const columns[] = {"<matrices", "number", "weights",  "codes",
                                          "scales",    "zeros",  "low rank", "bits per weight"};
    const json_t *breakdown = json_object_get(v->report, "bits_breakdown");
    const char *names[REPORT_KINDS + 1];
    double values[REPORT_KINDS + 1][FLRQ_REPORT_PARTS], weights[REPORT_KINDS + 1], counts[REPORT_KINDS + 1];
    size_t bars = v->layers ? v->kinds : 0;
    for (size_t k = 0; k < bars; k++) {
        names[k] = v->kind[k];
        counts[k] = (double)kind_bits(v, k, values[k], &weights[k]);
    }
    names[bars] = "all matrices";
    counts[bars] = (double)json_array_size(v->matrices);
    weights[bars] = report_real(v->report, "weights");
    for (int p = 0; p < FLRQ_REPORT_PARTS; p++) values[bars][p] = report_real(breakdown, keys[p]);
    fputs("<figure class=\"wide\">", out);
    flrq_chart_bars(out, &(flrq_bars){.title = "What a weight takes",
                                      .unit = "bits per weight",
                                      .count = bars + 1,
                                      .parts = FLRQ_REPORT_PARTS,
                                      .names = names,
                                      .part_names = report_parts,
                                      .values = *values});
    fputs("</figure>\n", out);
    report_fold(out, "Bits as a table");
    report_table(out, columns, sizeof columns / sizeof *columns);
    for (size_t k = 0; k <= bars; k++) {
        double total = 0;
        report_row(out);
        report_cell_text(out, names[k]);
        report_cell(out, REPORT_COUNT, counts[k]);
        report_cell(out, REPORT_COUNT, weights[k]);
        for (int p = 0; p < FLRQ_REPORT_PARTS; p++) {
            report_cell(out, REPORT_FIXED4, values[k][p]);
            total += isnan(values[k][p]) ? 0 : values[k][p];
        }
        report_cell(out, REPORT_FIXED4, total);
    }
    report_table_end(out);
    report_fold_end(out);
}

/* ---- time ------------------------------------------------------------------------------------------------------- */

static bool has_phases(const report_view *v) {
    return json_object_size(json_object_get(v->report, "phases")) > 0;
}

static void put_block_seconds(FILE *out, const report_view *v) {
    size_t count = json_array_size(v->blocks), i;
    double *x = calloc(2 * count + 1, sizeof *x), *seconds = x + count;
    json_t *block;
    if (!x) return;
    json_array_foreach(v->blocks, i, block) {
        x[i] = report_real(block, "block") - 1;
        seconds[i] = report_real(block, "seconds");
    }
    const flrq_chart_series series = {.count = count, .x = x, .y = seconds, .line = true, .points = true};
    fputs("<figure class=\"wide\">", out);
    flrq_chart_xy(out, &(flrq_chart){.title = "Time of every layer",
                                     .x = {.label = "layer"},
                                     .y = {.label = "seconds"},
                                     .series = &series,
                                     .count = 1,
                                     .height = 160});
    fputs("</figure>\n", out);
    free(x);
}

static void put_blocks_table(FILE *out, const report_view *v) {
    static const char *const columns[] = {"layer",  "bits per weight", "rank min", "rank mean",     "rank max",
                                          "before", "after",           "time",     "<worst matrix", "its error"};
    size_t i;
    json_t *block;
    report_table(out, columns, sizeof columns / sizeof *columns);
    json_array_foreach(v->blocks, i, block) {
        report_row(out);
        report_cell(out, REPORT_COUNT, report_real(block, "block") - 1);
        report_cell(out, REPORT_FIXED4, report_real(block, "bits_per_weight"));
        report_cell(out, REPORT_COUNT, report_real(block, "rank_min"));
        report_cell(out, REPORT_FIXED1, report_real(block, "rank_mean"));
        report_cell(out, REPORT_COUNT, report_real(block, "rank_max"));
        report_cell(out, REPORT_DIGITS, report_real(block, "error_nearest"));
        report_cell(out, REPORT_DIGITS, report_real(block, "error"));
        report_cell(out, REPORT_SECONDS, report_real(block, "seconds"));
        report_cell_text(out, report_text(block, "worst"));
        report_cell(out, REPORT_DIGITS, report_real(block, "worst_error"));
    }
    report_table_end(out);
}

static void put_time(FILE *out, const report_view *v) {
    enum { PHASES = 32 };
    static const char *const columns[] = {"<phase", "time", "share"};
    char labels[PHASES][112];
    const char *names[PHASES], *phase;
    double seconds[PHASES], total = 0, resumed = report_real(v->report, "resumed_blocks");
    size_t count = 0;
    json_t *value, *phases = json_object_get(v->report, "phases");
    json_object_foreach(phases, phase, value) total += json_number_value(value);
    json_object_foreach(phases, phase, value) {
        if (count == PHASES) break;
        seconds[count] = json_number_value(value);
        snprintf(labels[count], sizeof labels[count], "%.60s, %s", phase,
                 report_format(REPORT_PERCENT, seconds[count] / total).text);
        names[count] = labels[count];
        count++;
    }
    if (resumed > 0)
        fprintf(out,
                "<p>The phases are those of the process that ended the run; %s of the layers were done by earlier "
                "ones.</p>\n",
                report_format(REPORT_COUNT, resumed).text);
    fputs("<figure class=\"wide\">", out);
    flrq_chart_bars(out, &(flrq_bars){.title = "Time of the phases",
                                      .unit = "seconds",
                                      .count = count,
                                      .parts = 1,
                                      .names = names,
                                      .values = seconds});
    fputs("</figure>\n", out);
    if (json_array_size(v->blocks) > 1) put_block_seconds(out, v);
    report_fold(out, "Phases and layers as tables");
    report_table(out, columns, sizeof columns / sizeof *columns);
    json_object_foreach(phases, phase, value) {
        report_row(out);
        report_cell_text(out, phase);
        report_cell(out, REPORT_SECONDS, json_number_value(value));
        report_cell(out, REPORT_PERCENT, json_number_value(value) / total);
    }
    report_table_end(out);
    if (json_array_size(v->blocks) > 0) put_blocks_table(out, v);
    report_fold_end(out);
}

/* ---- worst matrices --------------------------------------------------------------------------------------------- */

static bool has_matrices(const report_view *v) {
    return json_array_size(v->matrices) > 0;
}

/* The matrices with the largest errors, by error and then in order of the report; returns their number. */
static size_t worst_matrices(const report_view *v, const json_t *worst[WORST]) {
    size_t count = 0, i;
    json_t *m;
    json_array_foreach(v->matrices, i, m) {
        double error = report_real(m, "error");
        if (isnan(error)) continue;
        size_t at = count;
        while (at > 0 && report_real(worst[at - 1], "error") < error) at--;
        if (at == WORST) continue;
        count += count < WORST;
        memmove(worst + at + 1, worst + at, (count - at - 1) * sizeof *worst);
        worst[at] = m;
    }
    return count;
}

/* Curves of the largest entry that is left when k ranks are taken out, as a fraction of that of the matrix. */
static void put_curves(FILE *out, const json_t *const *worst, size_t count) {
    flrq_chart_series series[WORST] = {{0}};
    double *room[WORST] = {NULL};
    size_t longest = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *amax = json_object_get(worst[i], "amax");
        size_t terms = json_array_size(amax);
        double first = json_number_value(json_array_get(amax, 0));
        room[i] = calloc(2 * terms + 1, sizeof **room);
        if (!room[i]) terms = 0;
        for (size_t k = 0; k < terms; k++) {
            room[i][k] = (double)k;
            room[i][terms + k] = json_number_value(json_array_get(amax, k)) / first;
        }
        series[i] = (flrq_chart_series){.name = report_text(worst[i], "name"),
                                        .count = terms,
                                        .x = room[i],
                                        .y = room[i] ? room[i] + terms : NULL,
                                        .line = true,
                                        .points = terms <= 12};
        if (terms > longest) longest = terms;
    }
    if (longest > 1) {
        fputs("<figure class=\"wide\">", out);
        flrq_chart_xy(out, &(flrq_chart){.title = "Largest entry left when the low rank grows",
                                         .note = "relative to the largest entry of the scaled matrix",
                                         .x = {.label = "rank"},
                                         .y = {.label = "largest entry left"},
                                         .series = series,
                                         .count = count,
                                         .height = 220});
        fputs("</figure>\n", out);
    }
    for (size_t i = 0; i < count; i++) free(room[i]);
}

static void put_worst(FILE *out, const report_view *v) {
    static const char *const columns[] = {"<matrix", "shape", "rank", "before", "after", "change", "clip ratio"};
    const json_t *worst[WORST];
    size_t count = worst_matrices(v, worst);
    report_table(out, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < count; i++) {
        double before = report_real(worst[i], "error_nearest"), after = report_real(worst[i], "error");
        report_row(out);
        report_cell_text(out, report_text(worst[i], "name"));
        report_cell_shape(out, worst[i]);
        report_cell(out, REPORT_COUNT, report_real(worst[i], "rank"));
        report_cell(out, REPORT_DIGITS, before);
        report_cell(out, REPORT_DIGITS, after);
        report_cell(out, REPORT_CHANGE, after / before - 1);
        report_cell(out, REPORT_DIGITS, report_real(worst[i], "clip_ratio"));
    }
    report_table_end(out);
    put_curves(out, worst, count);
}

/* ---- every matrix ----------------------------------------------------------------------------------------------- */

static void put_matrices(FILE *out, const report_view *v) {
    static const struct {
        const char *key, *column;
        report_form form;
    } fields[] = {{"bits", "bits", REPORT_COUNT},
                  {"group", "group", REPORT_COUNT},
                  {"rank", "rank", REPORT_COUNT},
                  {"bits_per_weight", "bits per weight", REPORT_FIXED4},
                  {"error_nearest", "before", REPORT_DIGITS},
                  {"error", "after", REPORT_DIGITS},
                  {"error_start", "after round 1", REPORT_DIGITS},
                  {"weight_error", "of weights", REPORT_DIGITS},
                  {"clip_ratio", "clip ratio", REPORT_DIGITS},
                  {"clipped", "clipped", REPORT_PERCENT},
                  {"zero_groups", "zero groups", REPORT_COUNT},
                  {"epochs", "more rounds", REPORT_COUNT},
                  {"best_epoch", "kept round", REPORT_COUNT},
                  {"seconds", "time", REPORT_SECONDS}};
    enum { FIELDS = sizeof fields / sizeof *fields };
    const char *columns[FIELDS + 2] = {"<matrix", "shape"};
    char title[64];
    size_t i;
    json_t *m;
    for (size_t f = 0; f < FIELDS; f++) columns[f + 2] = fields[f].column;
    snprintf(title, sizeof title, "All %zu matrices", json_array_size(v->matrices));
    fputs("<p>Before and after are the errors above; the error of weights is that of W itself. Rounds count after the "
          "first; the best one was kept.</p>\n",
          out);
    report_fold(out, title);
    report_table(out, columns, FIELDS + 2);
    json_array_foreach(v->matrices, i, m) {
        report_row(out);
        report_cell_text(out, report_text(m, "name"));
        report_cell_shape(out, m);
        for (size_t f = 0; f < FIELDS; f++) report_cell(out, fields[f].form, report_real(m, fields[f].key));
    }
    report_table_end(out);
    report_fold_end(out);
}

const report_section report_sections[] = {{"ranks", "Ranks", has_figures, put_ranks},
                                          {"errors", "Errors", has_figures, put_errors},
                                          {"bits", "Bits", has_breakdown, put_bits},
                                          {"time", "Time", has_phases, put_time},
                                          {"worst", "Worst matrices", has_matrices, put_worst},
                                          {"matrices", "Every matrix", has_matrices, put_matrices}};
const size_t report_section_count = sizeof report_sections / sizeof *report_sections;
