/* calibration.h - the calibration segments on their way through the blocks, and the statistics that they leave behind.
 *
 * The activations [segments * length, hidden] are the input of one block at a time, in backend memory, or, where they
 * do not fit beside the rest, in page-locked host memory with one segment at a time in the backend's. Their bytes do
 * not depend on where they are. What must not change: gathering works on copies, so that a job which stops before
 * advance() can save them as the input of the same block.
 */
#ifndef FLRQ_PIPELINE_CALIBRATION_H
#define FLRQ_PIPELINE_CALIBRATION_H

#include "pipeline/job.h"

/** Input of the present block; either d_x or host_x is set. */
typedef struct flrq_activations {
    flrq_backend *be;
    float *d_x, *host_x;
    int64_t rows, cols; /* segments * length, hidden */
} flrq_activations;

/** Copies `bytes` at offset `first` to or from host memory. The first waits for the ops. */
flrq_status flrq_activations_get(const flrq_activations *x, void *to, uint64_t first, uint64_t bytes);
flrq_status flrq_activations_put(const flrq_activations *x, const void *from, uint64_t first, uint64_t bytes);

typedef struct flrq_calibrator flrq_calibrator;

/** Allocates the activations where the plan says, and nothing else yet. plan, model, config and reporter are borrowed.
 */
flrq_status flrq_calibrator_new(flrq_calibrator **out, flrq_backend *be, const flrq_model *model, const flrq_plan *plan,
                                const flrq_config *config, flrq_reporter *reporter);
void flrq_calibrator_free(flrq_calibrator *calibration); /* NULL is fine */

const flrq_activations *flrq_calibrator_input(const flrq_calibrator *calibration);

/** Embeds the tokens [segments, length]: the activations become the input of block 0. Loads and frees the embedding. */
flrq_status flrq_calibrator_embed(flrq_calibrator *calibration, const int32_t *tokens);

/** Allocates what forwards and statistics need beside the activations; may be repeated after the release. */
flrq_status flrq_calibrator_work(flrq_calibrator *calibration);
void flrq_calibrator_release_work(flrq_calibrator *calibration);

/** Forwards copies of all segments and gathers the statistics of every linear input of the block; waits. FLRQ_STOPPED
 * (without a text) on a request to stop; FLRQ_ERR_NUMERIC when the activations are not finite. */
flrq_status flrq_calibrator_gather(flrq_calibrator *calibration, const flrq_block *block);

/** The statistics of one input, borrowed until the next gather. */
flrq_input_stats flrq_calibrator_stats(const flrq_calibrator *calibration, int input);

/** Forwards the segments: the activations become the input of the next block. phase: for the progress. */
flrq_status flrq_calibrator_advance(flrq_calibrator *calibration, const flrq_block *block, const char *phase);

#endif
