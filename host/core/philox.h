/* philox.h - counter-based random numbers (Philox 4x32, 10 rounds; Salmon et al., SC'11).
 *
 * The same numbers come out whatever the number of threads, workers or chunks, because each is a pure function of
 * (key, stream, index). Integer bits equal those of cuRAND's Philox with seed = key, subsequence = stream,
 * offset = index.
 */
#ifndef FLRQ_CORE_PHILOX_H
#define FLRQ_CORE_PHILOX_H

#include <stdint.h>

/** One Philox block: four 32-bit words for the counter (block index, stream) under the 64-bit key. */
void flrq_philox(uint32_t out[4], uint64_t key, uint64_t stream, uint64_t block);

/** Key of a named stream of a run: a hash of the user's seed and the name (tensor or purpose). */
uint64_t flrq_philox_key(uint64_t seed, const char *name);

/** Integer uniform in [0, bound), bound > 0, from word `index` of the stream (multiply-shift; bias below 2^-32 *
 * bound). */
uint64_t flrq_philox_below(uint64_t key, uint64_t stream, uint64_t index, uint64_t bound);

/** Standard normals index0 .. index0+count-1 of the stream by Box-Muller: words 4i..4i+3 give values 4i..4i+3
 *  (pairs (0,1) and (2,3)). index0 need not be a multiple of 4. */
void flrq_philox_normal(float *out, uint64_t key, uint64_t stream, uint64_t index0, uint64_t count);

#endif
