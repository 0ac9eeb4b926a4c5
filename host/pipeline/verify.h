/* verify.h - the load-back check: the output is read as an engine would read it and compared with the source.
 */
#ifndef FLRQ_PIPELINE_VERIFY_H
#define FLRQ_PIPELINE_VERIFY_H

#include "pipeline/job.h"

/** Finds the packed tensors of linear->module in view->checkpoint and its factors in view->adapter (may be NULL). */
flrq_status flrq_verify_attach(const flrq_model *view, flrq_linear *linear);

/** Checks OUT through the folder `check` (OUT/.flrq/check: config.json plus links to everything else): every source
 * tensor is quantized, copied bit for bit, or named as tied or dropped; every quantized layer, dequantized from disk,
 * has the error against the source that its fit recorded in `blocks` (rank 0). The workers take turns with the blocks
 * and the copied tensors; rank 0 links and judges. */
flrq_status flrq_verify(const char *check, const flrq_model *source, const flrq_plan *plan, flrq_backend *be,
                        flrq_comm *comm, json_t *const *blocks, flrq_reporter *reporter);

#endif
