/* cmd_compare.c - shows the result of `flrq compare`; like cmp and diff it exits with 1 when there is a difference.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { SHOWN = 40 }; /* tensors listed; --json has all */

/* A difference that was measured; NaN for a tensor that is in one folder only or cannot be compared (negative). */
static double difference(const json_t *tensor, const char *key) {
    const char *status = cli_string(tensor, "status");
    double value = cli_real(tensor, key);
    return status && strcmp(status, "different") == 0 && value >= 0 ? value : NAN;
}

/* What could not be measured comes first, then the largest relative difference. */
static int by_difference(const void *a, const void *b) {
    const json_t *left = *(const json_t *const *)a, *right = *(const json_t *const *)b;
    double x = difference(left, "relative"), y = difference(right, "relative");
    if (isnan(x) != isnan(y)) return isnan(x) ? -1 : 1;
    if (!isnan(x) && x != y) return x > y ? -1 : 1;
    const char *p = cli_string(left, "name"), *q = cli_string(right, "name");
    return strcmp(p ? p : "", q ? q : "");
}

static void show_tensors(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"tensor", 'l'}, {"status", 'l'}, {"max difference", 'r'}, {"relative", 'r'}};
    const json_t *tensors = json_object_get(result, "tensors");
    const json_t **list = cli_resize(NULL, json_array_size(tensors) * sizeof *list);
    size_t i, count = 0;
    json_t *tensor;
    json_array_foreach(tensors, i, tensor) {
        const char *status = cli_string(tensor, "status");
        if (!status || strcmp(status, "equal") != 0) list[count++] = tensor;
    }
    qsort(list, count, sizeof *list, by_difference);
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    for (i = 0; i < count && i < SHOWN; i++) {
        cli_cell_text(table, list[i], "name");
        cli_cell_text(table, list[i], "status");
        double max_abs = difference(list[i], "max_abs"), relative = difference(list[i], "relative");
        cli_cell(table, "%s", isnan(max_abs) ? "" : cli_significant(max_abs).text);
        cli_cell(table, "%s", isnan(relative) ? "" : cli_significant(relative).text);
    }
    int shown = cli_table_print(table, NULL, out);
    if (count > SHOWN) fprintf(out, "and %zu more; --json lists all\n", count - SHOWN);
    if (shown) fputc('\n', out);
    free(list);
}

void cli_compare_show(const json_t *result, FILE *out) {
    static const char *const facts_of[][2] = {
        {"equal", "equal"}, {"different", "different"}, {"only in A", "only_a"}, {"only in B", "only_b"}};
    show_tensors(result, out);
    cli_table *facts = cli_facts_new();
    const char *a = cli_string(result, "a"), *b = cli_string(result, "b");
    if (a) cli_fact(facts, "A", "%s", a);
    if (b) cli_fact(facts, "B", "%s", b);
    for (size_t i = 0; i < sizeof facts_of / sizeof facts_of[0]; i++) {
        double count = cli_real(result, facts_of[i][1]);
        if (!isnan(count)) cli_fact(facts, facts_of[i][0], "%s", cli_plural(count, "tensor").text);
    }
    cli_table_print(facts, NULL, out);
    cli_compare_summary(result, out);
}

void cli_compare_summary(const json_t *result, FILE *out) {
    fputs(cli_compare_exit_code(result) ? "different\n" : "identical\n", out);
}

int cli_compare_exit_code(const json_t *result) {
    return json_is_true(json_object_get(result, "identical")) ? 0 : 1;
}
