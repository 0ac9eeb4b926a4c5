/* ranks.h - ranks that another run found, for a run that is to have the same: --ranks-from. */
#ifndef FLRQ_PIPELINE_RANKS_H
#define FLRQ_PIPELINE_RANKS_H

#include "model/model.h"

/** Reads the rank of every linear layer of the model from the "matrices" of a report.json. *out: [model->n_linears], in
 *  their order, free(). A layer that the report lacks or has with another shape, and a rank that its shape cannot have,
 *  are errors that name it. */
flrq_status flrq_ranks_read(int64_t **out, const char *path, const flrq_model *model);

#endif
