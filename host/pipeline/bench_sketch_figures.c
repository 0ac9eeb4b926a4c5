/* bench_sketch_figures.c - the figures of `bench sketch`, drawn from its result object alone: what they show is in the
 * files beside them.
 */
#include "pipeline/bench_sketch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FIGURES = 12, RULES = 2 };
/* What is nearer to the optimum than this, in per cent, is drawn here. */
static const double least_excess = 1e-3;

/* A curve of a method, or the points of a rule; all rows of a matrix fit. */
typedef struct curve {
    size_t count;
    double *x, *y;
    char (*text)[24];
    const char **labels;
} curve;

static void curve_free(curve *c) {
    free(c->x);
    free(c->y);
    free(c->text);
    free(c->labels);
}

static flrq_status curve_new(curve *c, size_t most) {
    size_t n = most + 1;
    *c = (curve){0, malloc(n * sizeof *c->x), malloc(n * sizeof *c->y), malloc(n * sizeof *c->text),
                 malloc(n * sizeof *c->labels)};
    if (c->x && c->y && c->text && c->labels) return FLRQ_OK;
    return flrq_fail_memory(n * sizeof *c->text, "a figure");
}

/* label < 0: none */
static void curve_add(curve *c, double x, double y, int64_t label) {
    size_t i = c->count++;
    c->x[i] = x, c->y[i] = y;
    snprintf(c->text[i], sizeof c->text[i], "%lld", (long long)label);
    c->labels[i] = label < 0 ? NULL : c->text[i];
}

/* A point on the last one, where an exact SVD has all its ranks, shares its mark. */
static void curve_add_rank(curve *c, double x, double y, int64_t rank) {
    size_t last = c->count - 1;
    if (c->count && c->x[last] == x && c->y[last] == y)
        snprintf(c->text[last], sizeof c->text[last], "all ranks");
    else
        curve_add(c, x, y, rank);
}

/* The mark of a chosen rank; its number where no other method has the same. */
static void curve_add_choice(curve *c, int64_t rank, double y) {
    bool seen = false;
    for (size_t i = 0; i < c->count; i++) seen = seen || c->x[i] == (double)rank;
    curve_add(c, (double)rank, y, seen ? -1 : rank);
}

static double real_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static int is(const json_t *row, const char *key, const char *text) {
    return strcmp(json_string_value(json_object_get(row, key)), text) == 0;
}

/* NAME-amax-K: the curves of all methods, and the ranks that the rules choose from them. */
static flrq_status draw_amax(const flrq_bench_files *files, const json_t *result, const char *matrix,
                             const char *part) {
    static const char *const rules[RULES] = {"rank_r1flr", "rank_best"};
    static const char *const rule_names[RULES] = {"chosen by r1flr", "chosen by r1flr-best"};
    const json_t *curves = json_object_get(result, "amax"), *choices = json_object_get(result, "ranks");
    curve curve_of[FLRQ_BENCH_METHODS + RULES] = {{0}};
    flrq_chart_series series[FLRQ_BENCH_METHODS + RULES];
    size_t i, used = 0;
    json_t *row, *choice;
    flrq_status status = FLRQ_OK;
    for (int k = 0; k < FLRQ_BENCH_METHODS + RULES; k++) FLRQ_GOTO(curve_new(&curve_of[k], json_array_size(curves)));
    json_array_foreach(curves, i, row) {
        if (!is(row, "matrix", matrix)) continue;
        double r = real_of(row, "r"), amax = real_of(row, "amax");
        for (int k = 0; k < FLRQ_BENCH_METHODS; k++)
            if (is(row, "method", flrq_bench_method_names[k])) curve_add(&curve_of[k], r, amax, -1);
        size_t c;
        json_array_foreach(choices, c, choice) {
            if (!is(choice, "matrix", matrix) ||
                !is(choice, "method", json_string_value(json_object_get(row, "method"))))
                continue;
            for (int k = 0; k < RULES; k++) {
                if (real_of(choice, rules[k]) == r)
                    curve_add_choice(&curve_of[FLRQ_BENCH_METHODS + k], (int64_t)r, amax);
            }
        }
    }
    for (int k = 0; k < FLRQ_BENCH_METHODS + RULES; k++) {
        const curve *c = &curve_of[k];
        int rule = k - FLRQ_BENCH_METHODS;
        if (c->count)
            series[used++] = (flrq_chart_series){.name = rule < 0 ? flrq_bench_method_names[k] : rule_names[rule],
                                                 .count = c->count,
                                                 .x = c->x,
                                                 .y = c->y,
                                                 .labels = c->labels,
                                                 .line = rule < 0,
                                                 .points = rule >= 0};
    }
    flrq_chart chart = {.title = matrix,
                        .note = "what is left of the range of the weights after each rank, by every method's vectors",
                        .x = {.label = "rank"},
                        .y = {.label = "largest |residual|", .log = true},
                        .series = series,
                        .count = used};
    status = flrq_bench_figure(files, part, &chart);
out:
    for (int k = 0; k < FLRQ_BENCH_METHODS + RULES; k++) curve_free(&curve_of[k]);
    return status;
}

/* NAME-seconds: what a method takes and how far it stays from the optimum; without an exact SVD, which knows it, from
 * the whole matrix. */
static flrq_status draw_seconds(const flrq_bench_files *files, const json_t *result, const char *matrix,
                                const char *part) {
    const json_t *rows = json_object_get(result, "rows");
    curve curve_of[FLRQ_BENCH_METHODS] = {{0}};
    flrq_chart_series series[FLRQ_BENCH_METHODS];
    size_t i, used = 0;
    json_t *row;
    bool optimum = false;
    flrq_status status = FLRQ_OK;
    for (int k = 0; k < FLRQ_BENCH_METHODS; k++) FLRQ_GOTO(curve_new(&curve_of[k], json_array_size(rows)));
    json_array_foreach(rows, i, row) if (is(row, "matrix", matrix) && json_object_get(row, "excess")) optimum = true;
    json_array_foreach(rows, i, row) {
        double seconds = real_of(row, "seconds"), y = 100 * real_of(row, "residual") / real_of(row, "norm");
        if (optimum) y = fmax(100 * real_of(row, "excess"), least_excess);
        if (!is(row, "matrix", matrix) || isnan(seconds) || !json_object_get(row, optimum ? "excess" : "residual"))
            continue;
        for (int k = 0; k < FLRQ_BENCH_METHODS; k++)
            if (is(row, "method", flrq_bench_method_names[k]))
                curve_add_rank(&curve_of[k], seconds, y, (int64_t)real_of(row, "rank"));
    }
    for (int k = 0; k < FLRQ_BENCH_METHODS; k++)
        if (curve_of[k].count)
            series[used++] = (flrq_chart_series){.name = flrq_bench_method_names[k],
                                                 .count = curve_of[k].count,
                                                 .x = curve_of[k].x,
                                                 .y = curve_of[k].y,
                                                 .labels = curve_of[k].labels,
                                                 .line = true,
                                                 .points = true};
    flrq_chart chart = {
        .title = matrix,
        .note = optimum ? "numbers are ranks; what is within 0.001 % of the optimum is drawn there"
                        : "numbers are ranks; no exact SVD ran, so the optimum is not known",
        .x = {.label = "seconds, median", .log = true},
        .y = {.label = optimum ? "residual above the optimum, %" : "residual of the whole, %", .log = true},
        .series = series,
        .count = used};
    status = flrq_bench_figure(files, part, &chart);
out:
    for (int k = 0; k < FLRQ_BENCH_METHODS; k++) curve_free(&curve_of[k]);
    return status;
}

flrq_status flrq_bench_sketch_figures(const flrq_bench_files *files, const json_t *result, flrq_reporter *reporter) {
    const json_t *matrices = json_object_get(result, "matrices");
    size_t count = json_array_size(matrices), i;
    json_t *row;
    if (!files->dir) return FLRQ_OK;
    if (count > MAX_FIGURES)
        flrq_notice(reporter, "figures show the first %d of %zu matrices; the tables have all", MAX_FIGURES, count);
    json_array_foreach(matrices, i, row) {
        const char *matrix = json_string_value(json_object_get(row, "matrix"));
        char part[32];
        if (i == MAX_FIGURES) break;
        snprintf(part, sizeof part, "amax-%zu", i + 1);
        FLRQ_TRY(draw_amax(files, result, matrix, part));
        snprintf(part, sizeof part, "seconds-%zu", i + 1);
        FLRQ_TRY(draw_seconds(files, result, matrix, count > 1 ? part : "seconds"));
    }
    return FLRQ_OK;
}
