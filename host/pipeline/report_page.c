/* report_page.c - `flrq report`: one HTML page from report.json. */
#include "pipeline/job.h"

flrq_status flrq_job_report(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "the page is not written yet");
}
