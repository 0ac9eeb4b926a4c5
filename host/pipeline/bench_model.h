/* bench_model.h - checkpoints with the shapes of known models and generated weights, for `flrq bench quantize`.
 *
 * Every linear weight is 0.015 * (noise + structure) with the spectrum "llm" of bench.h (power law on a noise floor),
 * rounded to bf16; every 512th channel of the norms is 8 times larger, which gives the inputs of the linear layers the
 * outlier channels of real models. All blocks hold the same bytes: one is generated, on the CPU, from the seed alone,
 * and written as often as the model has blocks. Embedding and output head are one Gaussian matrix. Generated weights
 * take the time of real ones; what they are not is a language model, so errors and ranks measured on them are no
 * result.
 */
#ifndef FLRQ_PIPELINE_BENCH_MODEL_H
#define FLRQ_PIPELINE_BENCH_MODEL_H

#include "pipeline/job.h"

/** Shape of a model of the Llama family. */
typedef struct flrq_bench_shape {
    const char *name;
    int64_t hidden, intermediate, blocks, heads, kv_heads, vocab, positions;
} flrq_bench_shape;

/** Shapes in the order of the choices of --shape. */
extern const flrq_bench_shape flrq_bench_shapes[];

/** Weights of the linear layers of one block. */
int64_t flrq_bench_block_weights(const flrq_bench_shape *shape);

/** Bytes of the checkpoint with `blocks` blocks. */
uint64_t flrq_bench_model_bytes(const flrq_bench_shape *shape, int64_t blocks);

/** Writes config.json, the shards (one a block and one for the rest) and their index into the folder `dir`, which
 *  exists. With `empty` the shards are holes of the right size: enough for plan. */
flrq_status flrq_bench_model_write(const char *dir, const flrq_bench_shape *shape, int64_t blocks, uint64_t seed,
                                   int threads, int empty, flrq_reporter *reporter);

/** Writes uniformly random token ids [segments, length] as .npy. */
flrq_status flrq_bench_tokens_write(const char *path, const flrq_bench_shape *shape, int64_t segments, int64_t length,
                                    uint64_t seed);

#endif
