/* state.h - what a run has committed, and the right to continue it.
 *
 * OUT/journal.jsonl records the fingerprint of the run and every finished shard with its hash; OUT/.flrq holds what
 * only an unfinished run needs (factors by block, block-boundary activations). A run may be killed at any instant: what
 * the journal does not name does not count, what it names is checked by hash before it is trusted. With several workers
 * rank 0 owns all this; the others know where the run stands.
 */
#ifndef FLRQ_PIPELINE_STATE_H
#define FLRQ_PIPELINE_STATE_H

#include "pipeline/calibration.h"
#include "pipeline/job.h"

/* Where the processes of a run meet, in OUT/.flrq; not the state's, which leaves it alone. */
#define FLRQ_WORKERS_FOLDER "workers"

typedef struct flrq_state {
    char *dir;
    flrq_lock *lock;
    flrq_journal *journal;
    json_t *globals; /* record of the shard outside the blocks, or NULL */
    json_t **blocks; /* [layers] record of each block, or NULL */
    int64_t layers;
    int64_t committed;          /* blocks 0 .. committed-1 are done */
    int64_t activations;        /* activations on disk are the input of this block; -1 none */
    json_t *activations_record; /* their record, with their hash */
    int64_t batch;              /* token batch of the blocks done; 0 not recorded */
    int complete;
} flrq_state;

/** What decides the bytes of a run: options, model headers, calibration tokens, backend and its precision. New
 * reference. */
json_t *flrq_fingerprint(const flrq_params *params, const flrq_model *model, const int32_t *tokens,
                         const flrq_plan *plan, const char *backend, const flrq_device_info *device);

/** Whether `dir` holds a run. FLRQ_ERR_USAGE when it can neither hold one nor become one: a file, or a folder with
 * other contents. */
flrq_status flrq_state_look(const char *dir, int *is_run);

/** FLRQ_ERR_USAGE, naming the fields, when a worker would not write the same bytes as rank 0. */
flrq_status flrq_fingerprint_agree(const json_t *root, const json_t *here);

/** Creates or reopens OUT under --resume. An existing run must have the same fingerprint (else the differing fields are
 * named); its shards are hashed, and the first that does not match is noticed and done again with all after it. */
flrq_status flrq_state_open(flrq_state *state, const flrq_config *config, const flrq_model *model, json_t *fingerprint,
                            flrq_reporter *reporter);
void flrq_state_close(flrq_state *state);

/** Tells the workers where the run stands that rank 0 has opened: on other ranks *state is filled in, without lock,
 * journal and records. */
flrq_status flrq_state_share(flrq_state *state, flrq_comm *comm, const flrq_config *config, int64_t layers);

/** On other ranks than 0: the block is committed. */
void flrq_state_follow(flrq_state *state, int64_t block);

/** Path of a file in OUT/.flrq (free()); NULL on out of memory. */
char *flrq_state_private(const flrq_state *state, const char *name);

/** Records a finished shard: block (-1 = outside the blocks), hashes, and whatever else is in `record` (stolen). */
flrq_status flrq_state_commit(flrq_state *state, int64_t block, uint64_t shard_hash, uint64_t factors_hash,
                              json_t *record);

/** Records the token batch, on which the bits of a device's matrix products may depend: a resumed run uses the same. */
flrq_status flrq_state_record_batch(flrq_state *state, int64_t batch);

/** Saves the input activations of `block`, of which each worker writes its rows; all workers call it. */
flrq_status flrq_state_save_activations(flrq_state *state, flrq_comm *comm, int64_t block, const flrq_activations *x);
/** Loads this worker's rows of the saved ones; rank 0 also checks the file's hash. */
flrq_status flrq_state_load_activations(flrq_state *state, const flrq_activations *x);

/** Records that the run is complete, with the hash of its adapter, and removes OUT/.flrq. */
flrq_status flrq_state_finish(flrq_state *state);

#endif
