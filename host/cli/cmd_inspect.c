/* cmd_inspect.c - shows the result of `flrq inspect`: what a checkpoint folder or file holds.
 */
#include <math.h>
#include <stdlib.h>

#include "cli.h"

/* "4,096 x 11,008", to free(); "*" for an extent that differs within a group. */
static char *shape_text(const json_t *shape) {
    size_t i;
    json_t *extent;
    char *text = cli_copy("");
    json_array_foreach(shape, i, extent) {
        char *longer = cli_printf("%s%s%s", text, i ? " x " : "",
                                  json_is_number(extent) ? cli_count(json_number_value(extent)).text : "*");
        free(text);
        text = longer;
    }
    if (*text || !json_is_array(shape)) return text;
    free(text);
    return cli_copy("scalar");
}

static void show_tensors(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"tensor", 'l'}, {"count", 'r'}, {"type", 'l'},
                                         {"shape", 'r'},  {"bytes", 'r'}, {"role", 'l'}};
    static const char *const keys[] = {"dtype", "role", NULL};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    cli_group *groups;
    size_t count = cli_groups_new(&groups, json_object_get(result, "tensors"), keys);
    for (size_t i = 0; i < count; i++) {
        char *shape = shape_text(groups[i].shape);
        cli_cell(table, "%s", groups[i].name);
        cli_cell(table, "%zu", groups[i].count);
        cli_cell_text(table, groups[i].first, "dtype");
        cli_cell(table, "%s", shape);
        cli_cell(table, "%s", cli_bytes(groups[i].bytes).text);
        cli_cell_text(table, groups[i].first, "role");
        free(shape);
    }
    cli_groups_free(groups, count);
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
}

static void show_object(const json_t *result, const char *key, FILE *out) {
    const json_t *object = json_object_get(result, key);
    if (!json_is_object(object) || json_object_size(object) == 0) return;
    cli_table *facts = cli_facts_new();
    cli_facts_object(facts, object);
    if (cli_table_print(facts, key, out)) fputc('\n', out);
}

void cli_inspect_show(const json_t *result, FILE *out) {
    show_tensors(result, out);
    show_object(result, "config", out);
    show_object(result, "quantization", out);
    cli_table *facts = cli_facts_new();
    const char *path = cli_string(result, "path"), *kind = cli_string(result, "kind"),
               *family = cli_string(result, "family");
    double parameters = cli_real(result, "parameters"), files = cli_real(result, "files"),
           bytes = cli_real(result, "bytes");
    if (path) cli_fact(facts, "path", "%s", path);
    if (kind) cli_fact(facts, "kind", "%s", kind);
    if (family) cli_fact(facts, "family", "%s", family);
    if (!isnan(parameters)) cli_fact(facts, "parameters", "%s", cli_count(parameters).text);
    if (!isnan(files)) cli_fact(facts, "files", "%s", cli_count(files).text);
    if (!isnan(bytes)) cli_fact(facts, "size", "%s", cli_bytes(bytes).text);
    cli_table_print(facts, NULL, out);
}

void cli_inspect_summary(const json_t *result, FILE *out) {
    char *kind = cli_clean(cli_copy(cli_string(result, "kind") ? cli_string(result, "kind") : "checkpoint"));
    fprintf(out, "%s, %s parameters, %s\n", kind, cli_count(cli_real(result, "parameters")).text,
            cli_bytes(cli_real(result, "bytes")).text);
    free(kind);
}
