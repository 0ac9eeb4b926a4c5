/* output.h - the files of an output folder: one shard per block, the adapter, index and config (formats.md 1, 2, 5).
 *
 * While a run is going its private files live in OUT/.flrq; config.json, without which no engine takes the folder for a
 * model, arrives last.
 */
#ifndef FLRQ_PIPELINE_OUTPUT_H
#define FLRQ_PIPELINE_OUTPUT_H

#include "pipeline/job.h"
#include "pipeline/stream.h"

/** A quantized layer ready to be written. d_l [rows, rank], d_r [rank, cols] fp32, exact in the factor type. */
typedef struct flrq_layer {
    const flrq_linear *linear;
    flrq_codes codes;
    float *d_l, *d_r;
    int64_t rank;
} flrq_layer;

enum { FLRQ_STAGING_SLOTS = 4 };

/** The way of results to files: pieces are packed on the device into slots used in turn; the writer, a stage of calls,
 * copies each to the host and writes it. Sized by the plan. With overlap the writer has a thread and a lane; the thread
 * that issues ops only waits when no slot is free. */
typedef struct flrq_staging {
    flrq_backend *be;
    flrq_stage *writer;
    flrq_lane *lane; /* of the writer's thread; NULL without overlap */
    size_t size;     /* of a slot */
    int slots, next;
    void *d_slot[FLRQ_STAGING_SLOTS];  /* backend memory */
    void *slot[FLRQ_STAGING_SLOTS];    /* the same piece on the host */
    uint64_t call[FLRQ_STAGING_SLOTS]; /* the writer's call that takes the piece */
    void *bytes;                       /* the writer's: a piece in the type of the file */
} flrq_staging;

flrq_status flrq_staging_new(flrq_staging *staging, flrq_backend *be, const flrq_plan *plan);
void flrq_staging_free(flrq_staging *staging); /* waits for the writer; a zeroed one is fine */

/** "model-00002-of-00033.safetensors": shard of block `block`, or of the tensors outside all blocks for -1. */
void flrq_shard_name(char out[64], int64_t block, int64_t blocks);

/** "lowrank-00002.safetensors" in OUT/.flrq. */
void flrq_factors_name(char out[64], int64_t block);

/** The files of one block while they are written: the shard, into which every worker writes its rows and its share of
 * what is copied, and L and R in OUT/.flrq/lowrank-*.safetensors, which rank 0 writes. Block -1 is the shard of
 * everything outside the blocks and has no layers. */
typedef struct flrq_block_writer flrq_block_writer;

/** Creates the shard, or, on other ranks than 0, joins it; the writer has nothing else to do. All workers call it. The
 * pointers are borrowed. */
flrq_status flrq_block_writer_new(flrq_block_writer **out, const char *dir, const flrq_model *model,
                                  const flrq_plan *plan, flrq_staging *staging, flrq_comm *comm, int64_t block);

/** Hands codes, scales, shape and zero points of the block's layer `index` (0-based within the block), as far as they
 * are this worker's, to the writer. The layer's arrays may be overwritten by later ops. */
flrq_status flrq_block_writer_layer(flrq_block_writer *writer, int64_t index, const flrq_layer *layer);

/** Hands L and R of all layers of the block to the writer; rank 0 only, and with all rows of L. */
flrq_status flrq_block_writer_factors(flrq_block_writer *writer, const flrq_layer *layers);

/** For the writer's thread, after all of these: copies this worker's share of the other tensors; on other ranks than 0
 * it then leaves the shard, into which it has written *bytes in all (0 on rank 0). */
flrq_status flrq_block_writer_part(flrq_block_writer *writer, uint64_t *bytes);

/** For the writer's thread of rank 0, when all parts are there (`others`: bytes of the other workers' parts): completes
 * the files (hashes of their bytes; factors_hash 0 for block -1) and frees, on failure too. */
flrq_status flrq_block_writer_finish(flrq_block_writer *writer, uint64_t others, uint64_t *hash,
                                     uint64_t *factors_hash);

/** When the writer has nothing to do: removes what was begun (rank 0) and frees. NULL is fine. */
void flrq_block_writer_abort(flrq_block_writer *writer);

/** Merges OUT/.flrq/lowrank-*.safetensors into OUT/lowrank/adapter_model.safetensors and writes adapter_config.json in
 * the unit-scale encoding. ranks: rank of every linear. No folder when all are 0. */
flrq_status flrq_output_adapter(const char *dir, const flrq_model *model, const flrq_plan *plan, const int64_t *ranks);

/** model.safetensors.index.json over all shards. */
flrq_status flrq_output_index(const char *dir, const flrq_model *model, const flrq_plan *plan);

/** config.json of the source plus quantization_config, written to `path`. */
flrq_status flrq_output_config(const char *path, const flrq_model *model, const flrq_plan *plan);

/** Copies tokenizer and generation files that exist. *copied: array of names (new reference). */
flrq_status flrq_output_copy_files(const char *dir, const flrq_model *model, json_t **copied);

#endif
