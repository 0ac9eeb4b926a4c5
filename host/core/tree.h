/* tree.h - ordered summation along a fixed binary tree over the chunk index.
 *
 * Float addition is not associative, so the order of a sum must not depend on who computes the parts. The tree over
 * chunk indices 0..n-1 adds node (level k, i) = node (k-1, 2i) + node (k-1, 2i+1); an odd last node moves up unchanged.
 * Pushing the chunks in order into a flrq_tree needs log2(n) partial buffers, like the digits of a binary counter.
 */
#ifndef FLRQ_CORE_TREE_H
#define FLRQ_CORE_TREE_H

#include <stdint.h>
#include <string.h>

enum { FLRQ_TREE_LEVELS = 24 };

/** Partial sums of `count` values each. `level[k]` is in use when bit k of `pushed` is set. Buffers are the caller's.
 */
typedef struct flrq_tree {
    uint32_t pushed;
} flrq_tree;

/** Number of level buffers that a sum over `chunks` chunks needs: bit length of `chunks`. The next chunk's part must be
 * written to buffer flrq_tree_slot() before the push. */
static inline int flrq_tree_levels(int64_t chunks) {
    int levels = 1;
    while (chunks >> levels) levels++;
    return levels + 1;
}

/** sum[i] = left[i] + sum[i]. */
static inline void flrq_tree_add_f32(float *sum, const float *left, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) sum[i] = left[i] + sum[i];
}

static inline void flrq_tree_add_f64(double *sum, const double *left, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) sum[i] = left[i] + sum[i];
}

/** Merges the part in buffer 0 (float). buffers[k] for k = 1.. hold the partial sums of 2^(k-1) chunks. */
static inline void flrq_tree_push_f32(flrq_tree *tree, float *const *buffers, int64_t count) {
    int level = 0;
    for (uint32_t carry = tree->pushed; carry & 1; carry >>= 1, level++)
        flrq_tree_add_f32(buffers[0], buffers[level + 1], count);
    memcpy(buffers[level + 1], buffers[0], (size_t)count * sizeof *buffers[0]);
    tree->pushed++;
}

/** The same for doubles. */
static inline void flrq_tree_push_f64(flrq_tree *tree, double *const *buffers, int64_t count) {
    int level = 0;
    for (uint32_t carry = tree->pushed; carry & 1; carry >>= 1, level++)
        flrq_tree_add_f64(buffers[0], buffers[level + 1], count);
    memcpy(buffers[level + 1], buffers[0], (size_t)count * sizeof *buffers[0]);
    tree->pushed++;
}

/** Folds the remaining partial sums, highest index last: out = level_k + (... + level_0). out may be buffer 0. */
static inline void flrq_tree_finish_f32(const flrq_tree *tree, float *const *buffers, float *out, int64_t count) {
    int started = 0;
    for (int level = 0; level < FLRQ_TREE_LEVELS; level++) {
        if (!(tree->pushed >> level & 1)) continue;
        if (started)
            flrq_tree_add_f32(out, buffers[level + 1], count);
        else
            memcpy(out, buffers[level + 1], (size_t)count * sizeof *out);
        started = 1;
    }
    if (!started) memset(out, 0, (size_t)count * sizeof *out);
}

static inline void flrq_tree_finish_f64(const flrq_tree *tree, double *const *buffers, double *out, int64_t count) {
    int started = 0;
    for (int level = 0; level < FLRQ_TREE_LEVELS; level++) {
        if (!(tree->pushed >> level & 1)) continue;
        if (started)
            flrq_tree_add_f64(out, buffers[level + 1], count);
        else
            memcpy(out, buffers[level + 1], (size_t)count * sizeof *out);
        started = 1;
    }
    if (!started) memset(out, 0, (size_t)count * sizeof *out);
}

#endif
