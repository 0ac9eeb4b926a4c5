/* report.h - report.json and the result of a quantize job, built from the journal's block records.
 */
#ifndef FLRQ_PIPELINE_REPORT_H
#define FLRQ_PIPELINE_REPORT_H

#include "pipeline/job.h"

/** Seconds of this process by phase. */
typedef struct flrq_phases {
    double open, calibrate, quantize, write, forward, verify;
} flrq_phases;

/** The entry of one matrix: shape, scheme, rank, bits, errors, clip statistics, amax curve, seconds. New reference. */
json_t *flrq_report_matrix(const flrq_linear *linear, const flrq_scheme *scheme, const flrq_fit_result *result);

/** Ranks of all linears in model order, from the block records. */
void flrq_report_ranks(int64_t *ranks, const flrq_model *model, json_t *const *blocks);

/** The part of a module path after the layer number: "mlp.down_proj"; the whole name when there is no number. *layer
 *  (may be NULL): the number, -1 for none. */
const char *flrq_report_kind(const char *name, int64_t *layer);

/** Bits that the codes, scales, zero points and low rank of a matrix take, in this order, from its entry. */
enum { FLRQ_REPORT_PARTS = 4 };
void flrq_report_bits(double bits[FLRQ_REPORT_PARTS], const json_t *matrix, int symmetric);

/** "7 matrices, rank 0-31 (mean 12.4), 4.21 bits/weight, error 0.083, worst mlp.down_proj 0.121, 3.2 s". */
void flrq_report_block_line(char *out, size_t bytes, const json_t *record, double seconds);

/** The whole report but for phases and copied files. New reference; NULL on out of memory. */
json_t *flrq_report_new(const flrq_params *params, const flrq_model *model, const flrq_plan *plan,
                        const flrq_device_info *device, json_t *fingerprint, json_t *const *blocks, int64_t resumed,
                        const flrq_comm *comm, const flrq_reporter *reporter);

/** Adds phases, seconds, peak memory and the copied files. */
void flrq_report_finish(json_t *report, const flrq_phases *phases, json_t *copied);

/** The result object of the job: the report without its per-matrix list, arguments and fingerprint. New reference. */
json_t *flrq_report_result(const json_t *report);

/** The result object from OUT/report.json. */
flrq_status flrq_report_read(const char *dir, json_t **result);

#endif
