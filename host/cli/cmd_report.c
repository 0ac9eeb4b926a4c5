/* cmd_report.c - shows the result of `flrq report`: where the page is and what it was made from.
 */
#include <stdlib.h>

#include "cli.h"

void cli_report_show(const json_t *result, FILE *out) {
    const char *report = cli_string(result, "report"), *page = cli_string(result, "page");
    cli_table *facts = cli_facts_new();
    if (report) cli_fact(facts, "report", "%s", report);
    cli_fact(facts, "matrices", "%s in %s", cli_count(cli_real(result, "matrices")).text,
             cli_plural(cli_real(result, "blocks"), "block").text);
    if (page) cli_fact(facts, "page", "%s (%s)", page, cli_bytes(cli_real(result, "bytes")).text);
    cli_table_print(facts, NULL, out);
}

void cli_report_summary(const json_t *result, FILE *out) {
    char *page = cli_clean(cli_copy(cli_string(result, "page") ? cli_string(result, "page") : "?"));
    fprintf(out, "%s\n", page);
    free(page);
}
