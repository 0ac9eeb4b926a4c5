/* output.h - the files of an output folder: one shard per block, the adapter, index and config (formats.md 1, 2, 5).
 *
 * While a run is going its private files live in OUT/.flrq; config.json, without which no engine takes the folder for a
 * model, arrives last.
 */
#ifndef FLRQ_PIPELINE_OUTPUT_H
#define FLRQ_PIPELINE_OUTPUT_H

#include "pipeline/job.h"

/** A quantized layer ready to be written. d_l [rows, rank], d_r [rank, cols] fp32, exact in the factor type. */
typedef struct flrq_layer {
    const flrq_linear *linear;
    flrq_codes codes;
    float *d_l, *d_r;
    int64_t rank;
} flrq_layer;

/** Buffers for packing and copying, sized by the plan. */
typedef struct flrq_staging {
    void *d_words;       /* backend memory */
    void *words, *bytes; /* host */
    size_t size;         /* of each */
} flrq_staging;

flrq_status flrq_staging_new(flrq_staging *staging, flrq_backend *be, const flrq_plan *plan);
void flrq_staging_free(flrq_staging *staging, flrq_backend *be);

/** "model-00002-of-00033.safetensors": shard of block `block`, or of the tensors outside all blocks for -1. */
void flrq_shard_name(char out[64], int64_t block, int64_t blocks);

/** "lowrank-00002.safetensors" in OUT/.flrq. */
void flrq_factors_name(char out[64], int64_t block);

/** The shard of one block while it is being written: packed layers as they are done, then the block's other tensors.
 * Block -1 is the shard of everything outside the blocks and has no layers. */
typedef struct flrq_block_writer flrq_block_writer;
flrq_status flrq_block_writer_new(flrq_block_writer **out, const char *dir, const flrq_model *model,
                                  const flrq_plan *plan, int64_t block);
/** Writes codes, scales, shape and zero points of the block's layer `index` (0-based within the block). */
flrq_status flrq_block_writer_layer(flrq_block_writer *writer, int64_t index, const flrq_layer *layer, flrq_backend *be,
                                    flrq_staging *staging);
/** Copies the other tensors, completes the file (hash of its bytes) and frees the writer. */
flrq_status flrq_block_writer_finish(flrq_block_writer *writer, flrq_staging *staging, uint64_t *hash);
void flrq_block_writer_abort(flrq_block_writer *writer); /* NULL is fine */

/** Writes OUT/.flrq/lowrank-*.safetensors with L and R of a block's layers (none for rank 0). */
flrq_status flrq_output_factors(const char *dir, int64_t block, const flrq_layer *layers, int64_t count,
                                const flrq_plan *plan, flrq_backend *be, flrq_staging *staging, uint64_t *hash);

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
