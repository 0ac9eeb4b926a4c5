/* bench_model.h - checkpoints with the shapes of known models and generated weights, for `flrq bench quantize`.
 *
 * Every linear weight is 0.015 * (noise + structure) with the spectrum "power" of bench_matrices.h, rounded to
 * bf16; every 512th channel of the norms is 8 times larger, which gives the inputs of the linear layers the outlier
 * channels of real models. Biases are small noise. All blocks hold the same bytes: one is generated, on the CPU, from
 * the seed alone, and written as often as the model has blocks. Embedding and output head are one Gaussian matrix.
 * Generated weights take the time of real ones; what they are not is a language model, so errors and ranks measured on
 * them are no result.
 *
 * Names, biases, tied heads and config.json are those of the published checkpoints of each family, so that whatever
 * reads these reads the generated ones as well.
 */
#ifndef FLRQ_PIPELINE_BENCH_MODEL_H
#define FLRQ_PIPELINE_BENCH_MODEL_H

#include "pipeline/job.h"

typedef enum flrq_bench_family { FLRQ_BENCH_LLAMA = 0, FLRQ_BENCH_QWEN2 = 1, FLRQ_BENCH_OPT = 2 } flrq_bench_family;

typedef struct flrq_bench_shape {
    const char *name;
    flrq_bench_family family;
    int64_t hidden, intermediate, blocks, heads, kv_heads, vocab, positions;
    double rope_theta; /* 0: learned positions */
} flrq_bench_shape;

/** All shapes: those of published models, then small ones for tests. */
enum { FLRQ_BENCH_SHAPES = 15, FLRQ_BENCH_PUBLISHED = 12 };
extern const flrq_bench_shape flrq_bench_shapes[FLRQ_BENCH_SHAPES];

/** Shapes of a list with commas, in its order, or with "all" those of published models. FLRQ_ERR_USAGE names the
 *  choices when one is not known, and a shape that stands there twice. */
flrq_status flrq_bench_shapes_parse(const char *list, const flrq_bench_shape *out[FLRQ_BENCH_SHAPES], int *count);

/** Bytes of all tensors of the checkpoint with `blocks` blocks. */
uint64_t flrq_bench_model_bytes(const flrq_bench_shape *shape, int64_t blocks);

/** Writes config.json, the shards (one a block and one for the rest) and their index into the folder `dir`, which
 *  exists; files of the same names are replaced. With `empty` the shards are holes of the right size: enough for plan.
 *  FLRQ_STOPPED after a request to stop. */
flrq_status flrq_bench_model_write(const char *dir, const flrq_bench_shape *shape, int64_t blocks, uint64_t seed,
                                   int threads, int empty, flrq_reporter *reporter);

/** Writes uniformly random token ids [segments, length] below `vocab` as .npy. */
flrq_status flrq_bench_tokens_write(const char *path, int64_t vocab, int64_t segments, int64_t length, uint64_t seed);

#endif
