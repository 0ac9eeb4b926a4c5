/* run.c - the door of the library: dispatches a job and returns its result as text. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/bench.h"

const char *flrq_version(void) {
    return FLRQ_VERSION_STRING;
}

void flrq_free(void *memory) {
    free(memory);
}

flrq_status flrq_run(const flrq_params *params, flrq_event_fn on_event, void *user, char **result_json) {
    typedef flrq_status (*job_fn)(const flrq_params *, flrq_reporter *, json_t **);
    static const job_fn jobs[] = {
        flrq_job_quantize,      flrq_job_plan,     flrq_job_eval,         flrq_job_inspect,   flrq_job_compare,
        flrq_job_devices,       flrq_job_tokenize, flrq_job_bench_sketch, flrq_job_bench_ops, flrq_job_bench_quantize,
        flrq_job_bench_methods, flrq_job_report,   flrq_job_submit};
    if (result_json) *result_json = NULL;
    FLRQ_TRY(flrq_params_check(params));
    flrq_stop_clear();
    flrq_reporter reporter = {.fn = on_event, .user = user, .start = flrq_seconds(), .notices = json_array()};
    json_t *result = NULL;
    flrq_status status = jobs[params->command](params, &reporter, &result);
    if (result && result_json) {
        if (!json_object_get(result, "notices")) json_object_set(result, "notices", reporter.notices);
        *result_json = json_dumps(result, JSON_COMPACT);
        if (!*result_json && status == FLRQ_OK) status = flrq_fail_memory(0, "the result text");
    }
    json_decref(result);
    json_decref(reporter.notices);
    return status;
}
