/* finite.h - NaN and infinities in a checkpoint are found and named before anything is computed from them. */
#ifndef FLRQ_PIPELINE_FINITE_H
#define FLRQ_PIPELINE_FINITE_H

#include "pipeline/job.h"

/** Checks a dense weight in backend memory: FLRQ_ERR_NUMERIC names file, tensor, number and place of what is not
 * finite; with `zero` it is replaced by zero, and noticed. whole: this worker has all rows, as all others do; else its
 * share, and all come to the same answer. */
flrq_status flrq_check_finite(flrq_backend *be, flrq_comm *comm, const flrq_model *model, const flrq_linear *l,
                              const flrq_operand *w, int whole, int zero, flrq_reporter *reporter);

/** Refuses NaN and infinities in what is copied as it is: norms, biases, embeddings (block -1: what is outside the
 * blocks). Each worker looks at a share of the pieces, through a buffer of the host. */
flrq_status flrq_check_copied_finite(flrq_comm *comm, const flrq_model *model, int64_t block, void *buffer,
                                     size_t buffer_bytes);

#endif
