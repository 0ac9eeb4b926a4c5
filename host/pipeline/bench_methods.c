/* bench_methods.c - `flrq bench methods`. */
#include "pipeline/bench.h"

flrq_status flrq_job_bench_methods(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "not yet");
}
