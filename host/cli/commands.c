/* commands.c - the table of commands: how each is shown, stopped and explained. The list of what exists and what it
 * does is the library's; a command missing here still runs and is shown as JSON.
 */
#include <string.h>

#include "cli.h"

static void show_json(const json_t *result, FILE *out) {
    json_dumpf(result, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    fputc('\n', out);
}

static void summary_json(const json_t *result, FILE *out) {
    json_dumpf(result, out, JSON_COMPACT | JSON_PRESERVE_ORDER);
    fputc('\n', out);
}

static const cli_command commands[] = {
    {"quantize", cli_quantize_show, cli_quantize_summary, NULL, 1, "run the same command again to resume", NULL,
     "flrq quantize MODEL -o OUT --bits 4 --group 128 --calib text.txt\n"
     "flrq quantize MODEL -o OUT --bits 3 --calib text.txt --json > result.json\n"},
    {"plan", cli_plan_show, cli_plan_summary, NULL, 0, NULL, NULL,
     "flrq plan MODEL -o OUT --bits 4 --calib text.txt\n"},
    {"eval", cli_eval_show, cli_eval_summary, NULL, 1, "the same command starts over", NULL,
     "flrq eval OUT --text test.txt --ctx 2048 --against MODEL\n"},
    {"inspect", cli_inspect_show, cli_inspect_summary, NULL, 0, NULL, NULL, "flrq inspect OUT\n"},
    {"compare", cli_compare_show, cli_compare_summary, cli_compare_exit_code, 0, NULL, NULL,
     "flrq compare OUT1 OUT2\n"},
    {"devices", cli_devices_show, cli_devices_summary, NULL, 0, NULL, NULL, NULL},
    {"tokenize", cli_tokenize_show, cli_tokenize_show, NULL, 0, NULL, NULL, NULL},
    {"bench-sketch", cli_bench_sketch_show, cli_bench_rows_summary, NULL, 1, "the same command starts over", NULL,
     "flrq bench sketch --shapes 4096x4096 -o results\n"
     "flrq bench sketch --model MODEL --tensor 'layers\\.[0-3]\\..*down_proj' -o results\n"},
    {"bench-ops", cli_bench_ops_show, cli_bench_rows_summary, NULL, 1, "the same command starts over", NULL,
     "flrq bench ops --device cuda -o results\n"},
    {"bench-quantize", cli_bench_quantize_show, cli_bench_quantize_summary, NULL, 1, "the same command starts over",
     NULL,
     "flrq bench quantize --shape llama2-7b --blocks 4 --device cuda\n"
     "flrq bench quantize --shape llama2-70b --plan-only\n"},
    {"submit", cli_submit_show, cli_submit_summary, NULL, 0, NULL, "quantize",
     "flrq submit --nodes 2 --gpus-per-node 8 --time 04:00:00 -- quantize MODEL -o OUT --bits 4 --calib text.txt\n"},
    {"bench-methods", cli_bench_methods_show, cli_bench_methods_summary, NULL, 1, "the same command starts over", NULL,
     "flrq bench methods MODEL --calib train.txt --text test.txt -o results\n"},
    {"report", cli_report_show, cli_report_summary, NULL, 0, NULL, NULL, "flrq report OUT\n"},
    {NULL, show_json, summary_json, NULL, 0, NULL, NULL, NULL},
};

const cli_command *cli_command_find(const char *name) {
    const cli_command *command = commands;
    while (command->name && strcmp(command->name, name) != 0) command++;
    return command;
}

cli_text cli_command_spelling(const char *name) {
    cli_text spelling;
    snprintf(spelling.text, sizeof spelling.text, "%s", name);
    char *dash = strchr(spelling.text, '-');
    if (dash) *dash = ' ';
    return spelling;
}

int cli_command_match(const char **name, int argc, char **argv) {
    *name = NULL;
    for (const char *const *known = flrq_commands(); *known && argc > 0; known++) {
        if (strcmp(*known, argv[0]) == 0) {
            *name = *known;
            return 1;
        }
        size_t length = strlen(argv[0]);
        if (argc > 1 && strncmp(*known, argv[0], length) == 0 && (*known)[length] == '-' &&
            strcmp(*known + length + 1, argv[1]) == 0) {
            *name = *known;
            return 2;
        }
    }
    return 0;
}
