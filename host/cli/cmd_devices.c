/* cmd_devices.c - shows the result of `flrq devices`: what could run a job here, and why the rest could not.
 */
#include <stdlib.h>

#include "cli.h"

void cli_devices_show(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"device", 'l'}, {"available", 'l'}, {"memory", 'r'},
                                         {"free", 'r'},   {"threads", 'r'},   {"detail", 'l'}};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    size_t i;
    json_t *device;
    json_array_foreach(json_object_get(result, "devices"), i, device) {
        int available = json_is_true(json_object_get(device, "available"));
        const char *reason = cli_string(device, "reason");
        cli_cell_text(table, device, "name");
        cli_cell(table, "%s", available ? "yes" : "no");
        cli_cell_bytes(table, device, "memory_bytes");
        cli_cell_bytes(table, device, "free_bytes");
        cli_cell_count(table, device, "threads");
        if (!available && reason)
            cli_cell(table, "%s", reason);
        else
            cli_cell_text(table, device, "detail");
    }
    cli_table_print(table, NULL, out);
}

void cli_devices_summary(const json_t *result, FILE *out) {
    size_t i, listed = 0;
    json_t *device;
    json_array_foreach(json_object_get(result, "devices"), i, device) {
        const char *name = cli_string(device, "name");
        if (!name || !json_is_true(json_object_get(device, "available"))) continue;
        char *clean = cli_clean(cli_copy(name));
        fprintf(out, "%s%s", listed++ ? " " : "", clean);
        free(clean);
    }
    fputc('\n', out);
}
