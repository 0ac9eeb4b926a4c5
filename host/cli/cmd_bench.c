/* cmd_bench.c - shows the result of `flrq bench sketch`: the sketch methods side by side.
 */
#include <math.h>

#include "cli.h"

void cli_bench_show(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"rows", 'r'},       {"cols", 'r'},    {"spectrum", 'l'}, {"rank", 'r'},
                                         {"method", 'l'},     {"seconds", 'r'}, {"p10", 'r'},      {"p90", 'r'},
                                         {"residual", 'r'},   {"optimum", 'r'}, {"excess %", 'r'}, {"speedup r1", 'r'},
                                         {"speedup svd", 'r'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(result, "rows"), i, row) {
        double excess = cli_real(row, "excess");
        cli_cell_count(table, row, "rows");
        cli_cell_count(table, row, "cols");
        cli_cell_text(table, row, "spectrum");
        cli_cell_count(table, row, "rank");
        cli_cell_text(table, row, "method");
        cli_cell_significant(table, row, "seconds");
        cli_cell_significant(table, row, "seconds_p10");
        cli_cell_significant(table, row, "seconds_p90");
        cli_cell_significant(table, row, "residual");
        cli_cell_significant(table, row, "optimum");
        if (isnan(excess))
            cli_cell(table, "%s", "");
        else
            cli_cell(table, "%.3f", 100 * excess);
        cli_cell_fixed(table, row, "speedup_over_r1", 1);
        cli_cell_fixed(table, row, "speedup_over_svd", 1);
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
    cli_table *facts = cli_facts_new();
    const char *machine = cli_string(result, "machine");
    double threads = cli_real(result, "threads");
    if (machine) cli_fact(facts, "machine", "%s", machine);
    if (!isnan(threads)) cli_fact(facts, "threads", "%s", cli_count(threads).text);
    cli_table_print(facts, NULL, out);
}

void cli_bench_summary(const json_t *result, FILE *out) {
    fprintf(out, "%zu cases measured\n", json_array_size(json_object_get(result, "rows")));
}
