/* calibration.h - the calibration segments on their way through the blocks, and the statistics that they leave behind.
 *
 * The segments are dealt to at most FLRQ_TOKEN_GROUPS groups, a grid that does not depend on the number of workers, and
 * the groups to the workers; each has the activations of its own segments. Statistics are summed within a group in the
 * order of its segments, and over the groups along their tree, so their bytes do not depend on the workers either.
 *
 * The activations [own segments * length, hidden] are the input of one block at a time, in backend memory, or, where
 * they do not fit beside the rest, in page-locked host memory with one segment at a time in the backend's. Their bytes
 * do not depend on where they are. What must not change: gathering works on copies, so that a job which stops before
 * advance() can save them as the input of the same block.
 */
#ifndef FLRQ_PIPELINE_CALIBRATION_H
#define FLRQ_PIPELINE_CALIBRATION_H

#include "pipeline/job.h"

/* Groups at most, and levels of their tree: as many workers as are of use to the calibration. Each level costs a copy
 * of the statistics. */
enum { FLRQ_TOKEN_GROUPS = 64, FLRQ_TOKEN_LEVELS = 6 };

/** Token groups of a calibration. */
int64_t flrq_token_groups(int64_t segments);

/** Bytes of a sum of `count` values of `width` bytes over the groups, and of the scratch that all share. */
size_t flrq_group_sum_bytes(int64_t groups, int64_t count, size_t width, int workers);
size_t flrq_group_scratch_bytes(int64_t groups, int64_t count, size_t width, int workers);

/** Input of the present block, as far as this worker has it; either d_x or host_x is set. */
typedef struct flrq_activations {
    flrq_backend *be;
    float *d_x, *host_x;
    int64_t first, rows;    /* of this worker */
    int64_t all_rows, cols; /* segments * length, hidden */
} flrq_activations;

/** Copies `bytes` at offset `first` to or from host memory. The first waits for the ops. */
flrq_status flrq_activations_get(const flrq_activations *x, void *to, uint64_t first, uint64_t bytes);
flrq_status flrq_activations_put(const flrq_activations *x, const void *from, uint64_t first, uint64_t bytes);

typedef struct flrq_calibrator flrq_calibrator;

/** Allocates the activations where the plan says, and nothing else yet. The pointers are borrowed.
 */
flrq_status flrq_calibrator_new(flrq_calibrator **out, flrq_backend *be, flrq_comm *comm, const flrq_model *model,
                                const flrq_plan *plan, const flrq_config *config, flrq_reporter *reporter);
void flrq_calibrator_free(flrq_calibrator *calibration); /* NULL is fine */

const flrq_activations *flrq_calibrator_input(const flrq_calibrator *calibration);

/** Embeds the tokens [segments, length]: the activations become the input of block 0. Loads and frees the embedding. */
flrq_status flrq_calibrator_embed(flrq_calibrator *calibration, const int32_t *tokens);

/** Allocates what forwards and statistics need beside the activations; may be repeated after the release. */
flrq_status flrq_calibrator_work(flrq_calibrator *calibration);
void flrq_calibrator_release_work(flrq_calibrator *calibration);

/** Forwards copies of the segments and gathers the statistics of every linear input of the block over all workers;
 * waits. FLRQ_STOPPED (without a text) on a request to stop, with one worker; FLRQ_ERR_NUMERIC when the activations are
 * not finite. */
flrq_status flrq_calibrator_gather(flrq_calibrator *calibration, const flrq_block *block);

/** The statistics of one input, borrowed until the next gather. */
flrq_input_stats flrq_calibrator_stats(const flrq_calibrator *calibration, int input);

/** Forwards the segments: the activations become the input of the next block. phase: for the progress. */
flrq_status flrq_calibrator_advance(flrq_calibrator *calibration, const flrq_block *block, const char *phase);

#endif
