/* bench_ops.c - `flrq bench ops`: the bench cases of every op table on one backend, against limits of the same run.
 *
 * Every case states the bytes and flops that nobody can avoid (op_cost()). They are held against the copy bandwidth and
 * the matrix rate of the device in the precision of the case; "floor" is the time that the slower of the two limits
 * would take, as a fraction of the median. An op that the backend lacks or refuses is a row that says so.
 * With --profile the cases are those from which a profile is made (bench_profile.c), and nothing else.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pipeline/bench.h"

static const op_table *const tables[] = {&ops_matrix, &ops_small, &ops_quant, &ops_forward};
enum { TABLES = sizeof tables / sizeof *tables };

static bool wanted(const op_case *c, const flrq_config *config) {
    char name[256];
    snprintf(name, sizeof name, "%s %s", c->op, c->shape);
    return c->use & OP_BENCH && (config->full || !(c->use & OP_LARGE)) && (!config->only || strstr(name, config->only));
}

json_t *flrq_bench_op_row(const op_case *c, const op_timing *t, const flrq_bench_limits *limits) {
    json_t *row =
        json_pack("{s:s, s:s, s:s}", "op", c->op, "shape", c->shape, "precision", c->use & OP_FAST ? "fast" : "full");
    if (!t->supported || t->status != FLRQ_OK) {
        const char *why = !t->supported ? "not on this device" : t->text;
        json_object_set_new(row, "status", json_string(why));
        return row;
    }
    double rate = c->use & OP_FAST ? limits->fast : limits->full;
    double memory = limits->copy > 0 ? t->bytes / limits->copy : 0, compute = rate > 0 ? t->flops / rate : 0;
    json_object_update_new(row, json_pack("{s:s, s:f, s:f, s:f, s:i, s:i, s:f, s:f, s:f, s:f, s:f}", "status", "ok",
                                          "seconds", t->median, "seconds_p10", t->p10, "seconds_p90", t->p90, "samples",
                                          t->samples, "batch", t->batch, "gb_s", 1e-9 * t->bytes / t->median, "of_copy",
                                          memory / t->median, "gflop_s", 1e-9 * t->flops / t->median, "of_matrix",
                                          compute / t->median, "of_floor", fmax(memory, compute) / t->median));
    return row;
}

static int64_t count_wanted(const flrq_config *c) {
    int64_t cases = 0;
    for (int t = 0; t < TABLES; t++)
        for (size_t i = 0; i < tables[t]->count; i++) cases += wanted(&tables[t]->cases[i], c);
    return cases;
}

static flrq_status time_cases(flrq_backend *be, const flrq_config *c, const flrq_bench_limits *limits, int64_t cases,
                              flrq_reporter *reporter, json_t *rows) {
    int64_t done = 0;
    for (int t = 0; t < TABLES; t++)
        for (size_t i = 0; i < tables[t]->count; i++) {
            const op_case *op = &tables[t]->cases[i];
            if (!wanted(op, c)) continue;
            if (flrq_stop_requested()) return flrq_fail(FLRQ_STOPPED, "stopped; bench keeps no state");
            flrq_progress(reporter, op->op, done++, cases);
            op_timing timing = op_case_time(op, be, c->seconds);
            json_array_append_new(rows, flrq_bench_op_row(op, &timing, limits));
        }
    return FLRQ_OK;
}

static flrq_status make_profile(flrq_backend *be, const flrq_config *c, const flrq_bench_limits *limits,
                                flrq_reporter *reporter, json_t *rows) {
    flrq_profile profile;
    flrq_output probe; /* a minute of measuring is not to end with a file that cannot be written */
    FLRQ_TRY(flrq_output_open(&probe, c->profile));
    flrq_output_discard(&probe);
    FLRQ_TRY(flrq_profile_measure(&profile, be, limits, c, reporter, rows));
    FLRQ_TRY(flrq_profile_save(&profile, c->profile));
    if (!c->scratch)
        flrq_notice(reporter, "%s has no rates of files: --scratch DIR measures those of a folder", c->profile);
    return FLRQ_OK;
}

flrq_status flrq_job_bench_ops(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    static const char *const keys[] = {"op",          "shape",       "precision", "status",  "seconds",
                                       "seconds_p10", "seconds_p90", "samples",   "batch",   "gb_s",
                                       "of_copy",     "gflop_s",     "of_matrix", "of_floor"};
    const flrq_config *c = &params->config;
    flrq_backend *be = NULL;
    flrq_device_info device;
    flrq_bench_limits limits;
    flrq_bench_files files;
    json_t *rows = json_array();
    flrq_status status = FLRQ_OK;
    int64_t cases = count_wanted(c);
    if (cases == 0)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "--only \"%s\": no bench case has that text%s", c->only,
                            c->full ? "" : " (more with --full)"));
    FLRQ_GOTO(flrq_bench_files_open(&files, params, reporter, "ops"));
    FLRQ_GOTO(flrq_backend_open(&be, c->device, (int)c->threads));
    FLRQ_GOTO(be->info(be, &device));
    flrq_progress(reporter, "limits", 0, 1);
    FLRQ_GOTO(flrq_bench_limits_measure(&limits, be, c->seconds));
    if (c->profile)
        FLRQ_GOTO(make_profile(be, c, &limits, reporter, rows));
    else
        FLRQ_GOTO(time_cases(be, c, &limits, cases, reporter, rows));
    *result = flrq_bench_provenance(params, be->name, &device);
    json_object_update_new(*result, json_pack("{s:o, s:s*, s:O}", "limits", flrq_bench_limits_json(&limits), "profile",
                                              c->profile, "rows", rows));
    FLRQ_GOTO(flrq_bench_csv(&files, NULL, rows, keys, sizeof keys / sizeof *keys));
    FLRQ_GOTO(flrq_bench_result(&files, *result));
out:
    flrq_backend_close(be);
    json_decref(rows);
    return status;
}
