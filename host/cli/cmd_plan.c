/* cmd_plan.c - shows the result of `flrq plan`: matrices, memory, time, disk and work of a run that has not happened.
 */
#include <math.h>
#include <stdlib.h>

#include "cli.h"

static void show_tensors(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"matrix", 'l'}, {"count", 'r'}, {"rows", 'r'},    {"cols", 'r'},
                                         {"groups", 'r'}, {"tail", 'r'},  {"rank cap", 'r'}};
    static const char *const keys[] = {"rows", "cols", "groups", "tail", "rank_cap", NULL};
    cli_table *table = cli_table_new(columns, sizeof columns / sizeof columns[0]);
    cli_group *groups;
    size_t count = cli_groups_new(&groups, json_object_get(result, "tensors"), keys);
    for (size_t i = 0; i < count; i++) {
        const json_t *tensor = groups[i].first;
        cli_cell(table, "%s", groups[i].name);
        cli_cell(table, "%zu", groups[i].count);
        cli_cell_count(table, tensor, "rows");
        cli_cell_count(table, tensor, "cols");
        cli_cell_count(table, tensor, "groups");
        double tail = cli_real(tensor, "tail");
        cli_cell(table, "%s", tail > 0 ? cli_count(tail).text : ""); /* no tail at all: no column */
        cli_cell_count(table, tensor, "rank_cap");
    }
    cli_groups_free(groups, count);
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
}

/* Nothing there: an empty cell, and a column of these is not shown. */
static void cell_part(cli_table *table, const json_t *object, const char *key) {
    double bytes = cli_real(object, key);
    cli_cell(table, "%s", bytes > 0 ? cli_bytes(bytes).text : "");
}

static void show_memory(const json_t *result, FILE *out) {
    static const cli_column columns[] = {{"host memory", 'l'}, {"bytes", 'r'}, {"on the device", 'r'}};
    cli_table *table = cli_table_new(columns, 3);
    size_t i;
    json_t *buffer;
    json_array_foreach(json_object_get(result, "memory"), i, buffer) {
        cli_cell_text(table, buffer, "name");
        cell_part(table, buffer, "bytes");
        cell_part(table, buffer, "device_bytes");
    }
    if (i && !isnan(cli_real(result, "host_bytes"))) {
        cli_cell(table, "at the peak");
        cli_cell_bytes(table, result, "host_bytes");
        cell_part(table, json_object_get(result, "device"), "bytes");
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
}

/* Phases of the time; what runs beside others is in a column of its own. */
static void show_time(const json_t *time, FILE *out) {
    static const cli_column columns[] = {{"phase", 'l'}, {"time", 'r'}, {"beside others", 'r'}};
    cli_table *table = cli_table_new(columns, 3);
    const char *phase;
    json_t *value;
    double total = cli_real(time, "seconds_total");
    json_object_foreach(json_object_get(time, "phases"), phase, value) {
        double hidden = cli_real(json_object_get(time, "hidden"), phase), seen = json_number_value(value);
        if (seen == 0 && !(hidden > 0)) continue;
        cli_cell(table, "%s", phase);
        cli_cell(table, "%s", cli_duration(seen).text);
        cli_cell(table, "%s", hidden > 0 ? cli_duration(hidden).text : "");
    }
    if (!isnan(total)) {
        cli_cell(table, "all");
        cli_cell(table, "%s", cli_duration(total).text);
        cli_cell(table, "%s", "");
    }
    if (cli_table_print(table, NULL, out)) fputc('\n', out);
}

static void fact_traffic(cli_table *facts, const char *label, const json_t *time, const char *bytes, const char *rate) {
    double amount = cli_real(json_object_get(time, "bytes"), bytes);
    double each = cli_real(json_object_get(time, "rates"), rate);
    if (amount > 0) cli_fact(facts, label, "%s at %s/s", cli_bytes(amount).text, cli_bytes(each).text);
}

/* What the time was computed from, or why there is none. */
static void time_facts(cli_table *facts, const json_t *time) {
    const char *missing = cli_string(time, "missing"), *profile = cli_string(time, "profile"),
               *date = cli_string(time, "profile_date");
    double total = cli_real(time, "seconds_total"), workers = cli_real(time, "workers"),
           nodes = cli_real(time, "nodes");
    if (missing) cli_fact(facts, "time", "%s", missing);
    if (isnan(total) || !profile) return;
    cli_fact(facts, "time", "%s, %s on %s", cli_duration(total).text, cli_plural(workers, "worker").text,
             cli_plural(nodes, "node").text);
    if (json_is_true(json_object_get(time, "measured")))
        cli_fact(facts, "profile", "%s, measured %s", profile, date ? date : "");
    else
        cli_fact(facts, "profile", "%s, from data sheets, not measured", profile);
    const char *note = cli_string(time, "profile_note");
    if (note && *note) cli_fact(facts, "profile note", "%s", note);
    char *assumed = cli_members(json_object_get(time, "assumptions"));
    if (*assumed) cli_fact(facts, "assumed", "%s", assumed);
    free(assumed);
    fact_traffic(facts, "links", time, "link", "link_bytes_s");
    fact_traffic(facts, "network", time, "network", "network_bytes_s");
    fact_traffic(facts, "reading", time, "read", "read_bytes_s");
    fact_traffic(facts, "writing", time, "written", "write_bytes_s");
}

/* What the run does about a device with memory of its own. */
static void show_device(cli_table *facts, const json_t *device) {
    double bytes = cli_real(device, "bytes"), limit = cli_real(device, "limit"), batch = cli_real(device, "batch");
    if (!json_is_true(json_object_get(device, "separate")) || isnan(bytes)) return;
    cli_fact(facts, "device memory", limit > 0 ? "%s of %s" : "%s", cli_bytes(bytes).text, cli_bytes(limit).text);
    if (batch > 0) cli_fact(facts, "token batch", "%s", cli_count(batch).text);
    cli_fact(facts, "activations", "%s",
             json_is_true(json_object_get(device, "activations_on_host")) ? "in host memory" : "on the device");
    cli_fact(facts, "overlap", "%s", json_is_true(json_object_get(device, "overlap")) ? "on" : "off");
}

static void fact_bytes(cli_table *facts, const char *label, const json_t *result, const char *key) {
    double bytes = cli_real(result, key);
    if (!isnan(bytes)) cli_fact(facts, label, "%s", cli_bytes(bytes).text);
}

void cli_plan_show(const json_t *result, FILE *out) {
    show_tensors(result, out);
    show_memory(result, out);
    const json_t *time = json_object_get(result, "time");
    show_time(time, out);
    cli_table *facts = cli_facts_new();
    const char *model = cli_string(result, "model"), *path = cli_string(result, "out"),
               *family = cli_string(result, "family");
    double blocks = cli_real(result, "blocks"), linears = cli_real(result, "linears"),
           weights = cli_real(result, "weights"), flops = cli_real(result, "flops");
    double min = cli_real(result, "bits_per_weight_min"), max = cli_real(result, "bits_per_weight_max"),
           cap = cli_real(result, "rank_cap_max");
    if (model) cli_fact(facts, "model", "%s", model);
    if (family) cli_fact(facts, "family", "%s", family);
    if (!isnan(blocks) && !isnan(linears))
        cli_fact(facts, "matrices", "%s in %s blocks", cli_count(linears).text, cli_count(blocks).text);
    if (!isnan(weights)) cli_fact(facts, "weights", "%s to quantize", cli_count(weights).text);
    char *scheme = cli_members(json_object_get(result, "scheme"));
    if (*scheme) cli_fact(facts, "scheme", "%s", scheme);
    free(scheme);
    if (!isnan(min) && !isnan(max)) cli_fact(facts, "bits/weight", "%.4f at rank 0 to %.4f at the caps", min, max);
    if (!isnan(cap)) cli_fact(facts, "rank", "%s at most", cli_count(cap).text);
    time_facts(facts, time);
    if (!isnan(flops)) cli_fact(facts, "work", "%s Gflop", cli_count(flops / 1e9).text);
    fact_bytes(facts, cli_real(time, "workers") > 1 ? "host memory, each" : "host memory", result, "host_bytes");
    show_device(facts, json_object_get(result, "device"));
    fact_bytes(facts, "output", result, "output_bytes");
    fact_bytes(facts, "scratch", result, "scratch_bytes");
    fact_bytes(facts, "disk free", result, "disk_free_bytes");
    if (path) cli_fact(facts, "would write", "%s", path);
    cli_table_print(facts, NULL, out);
}

void cli_plan_summary(const json_t *result, FILE *out) {
    fprintf(out, "host memory %s, output %s, scratch %s\n", cli_bytes(cli_real(result, "host_bytes")).text,
            cli_bytes(cli_real(result, "output_bytes")).text, cli_bytes(cli_real(result, "scratch_bytes")).text);
}
