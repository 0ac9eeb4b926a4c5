/* cmd_submit.c - shows the result of `flrq submit`: the job, what it asks for and how to follow it, or the script
 * alone.
 */
#include <math.h>
#include <stdlib.h>

#include "cli.h"

/* The job's number without separators; "?" when absent. */
static char *job_text(const json_t *result) {
    double job = cli_real(result, "job");
    return isnan(job) ? cli_copy("?") : cli_printf("%.0f", job);
}

/* "2 nodes, 16 workers with a GPU each" */
static char *size_text(const json_t *result) {
    double nodes = cli_real(result, "nodes"), workers = cli_real(result, "workers");
    if (isnan(nodes) || isnan(workers)) return cli_copy("");
    return cli_printf("%s, %s%s", cli_plural(nodes, "node").text, cli_plural(workers, "worker").text,
                      cli_real(result, "gpus_per_node") > 0 ? " with a GPU each" : "");
}

static void show_plan(cli_table *facts, const json_t *result) {
    const json_t *device = json_object_get(result, "device");
    double host = cli_real(result, "host_bytes"), bytes = cli_real(device, "bytes"),
           mib = cli_real(result, "memory_mib");
    double seconds = cli_real(json_object_get(result, "time"), "seconds_total");
    if (!isnan(host))
        cli_fact(facts, "memory",
                 mib > 0 ? "%s planned for each worker, %s asked for on each node" : "%s planned for each worker",
                 cli_bytes(host).text, cli_bytes(mib * 1048576).text);
    if (json_is_true(json_object_get(device, "separate")) && bytes > 0)
        cli_fact(facts, "device memory", "%s planned for each worker", cli_bytes(bytes).text);
    if (seconds > 0) cli_fact(facts, "predicted", "%s", cli_duration(seconds).text);
}

void cli_submit_show(const json_t *result, FILE *out) {
    const char *script = cli_string(result, "script"), *path = cli_string(result, "path"),
               *log = cli_string(result, "log");
    if (script) {
        fputs(script, out);
        return;
    }
    cli_table *facts = cli_facts_new();
    char *job = job_text(result), *size = size_text(result);
    double limit = cli_real(result, "limit_seconds"), early = cli_real(result, "signal_seconds");
    cli_fact(facts, "job", "%s submitted%s%s", job, *size ? ": " : "", size);
    if (!isnan(limit))
        cli_fact(facts, "time limit", "%s; workers stop at least %.0f s before", cli_clock(limit).text, early);
    show_plan(facts, result);
    if (path) cli_fact(facts, "script", "%s", path);
    if (log) cli_fact(facts, "follow", "tail -F %s", log);
    cli_fact(facts, "state", "squeue --jobs=%s", job);
    cli_fact(facts, "cancel", "scancel %s (the same submit continues the run)", job);
    cli_table_print(facts, NULL, out);
    free(size);
    free(job);
}

void cli_submit_summary(const json_t *result, FILE *out) {
    const char *script = cli_string(result, "script");
    if (script) {
        fputs(script, out);
        return;
    }
    char *job = job_text(result);
    fprintf(out, "%s\n", job); /* for scripts, as sbatch --parsable */
    free(job);
}
