/* quant_search.h - the definition of the clip search that the fast face (simd_quant.c) and the reference (ref_quant.c)
 * share.
 *
 * Both faces, and every instruction set of the fast one, choose the same bytes: codes, scales and zero points. That is
 * why the float expressions below, the order of candidates and the order of every sum are part of the definition:
 *
 *  - q = clamp(round_to_nearest_even(w * inv)), inv = 1/scale in fp32, the product unrounded (one fma onto
 * QUANT_MAGIC);
 *  - sums over a group go by blocks of QUANT_BLOCK columns; inside a block column j belongs to partial sum j mod
 *    QUANT_LANES, every term enters by one fma in fp32, the four partial sums fold as (p0 + p2) + (p1 + p3), and blocks
 * add up in double from the first to the last;
 *  - candidates are compared in the order of their numbers with a strict <, so the first (the larger ratio) wins a tie.
 *
 * Refuses: non-finite weights (the caller has checked) and negative h.
 */
#ifndef FLRQ_BACKEND_QUANT_SEARCH_H
#define FLRQ_BACKEND_QUANT_SEARCH_H

#include <math.h>
#include <stdbool.h>
#include "core/dtype.h"
#include "flrq_backend.h"

#define QUANT_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds |x| < 2^22 to an integer */

enum {
    QUANT_LANES = 4,    /* partial sums of a block */
    QUANT_BLOCK = 256,  /* columns that are summed in fp32 */
    QUANT_BATCH = 16,   /* candidates that the fast face evaluates side by side */
    QUANT_FINALISTS = 4 /* scales of the last round of the fast search */
};

/** Checks everything clip_quantize() assumes of its arguments. FLRQ_ERR_SHAPE or FLRQ_ERR_USAGE with the numbers. */
flrq_status quant_check(const flrq_codes *out, const flrq_operand *a, const flrq_scheme *scheme, const flrq_clip *clip);

/** Checks the arguments of pack() and unpack(). */
flrq_status quant_check_pack(int64_t rows, int64_t cols, int bits);

/** The range of one group. A group of zeros has scale 0. */
typedef struct quant_range {
    float lo, hi; /* of the weights: asymmetric min(0, .), max(0, .); symmetric -amax, amax */
    float scale;  /* at ratio 1, not yet rounded */
    float down,
        up; /* symmetric: the integers allowed; asymmetric: 0 and 2^bits - 1, before the zero point is subtracted */
    bool symmetric;
} quant_range;

/** One scale to try. */
typedef struct quant_candidate {
    float scale, inv;
    float zero;     /* zero point; symmetric: 2^(bits-1) */
    float down, up; /* integers allowed for q = code - zero */
    float lo, hi;   /* weights outside are cut in FLRQ_CLIP_ZERO */
} quant_candidate;

static inline quant_range quant_range_of(const flrq_scheme *scheme, float lo, float hi) {
    quant_range r = {.symmetric = scheme->symmetric != 0};
    float half = (float)(1 << (scheme->bits - 1)), levels;
    if (r.symmetric) {
        bool full = scheme->grid == FLRQ_GRID_FULL;
        r.hi = -lo > hi ? -lo : hi;
        r.lo = -r.hi;
        r.down = full ? -half : 1.0f - half;
        r.up = half - 1.0f;
        levels = full ? half - 0.5f : half - 1.0f;
        r.scale = r.hi / levels;
    } else {
        r.lo = lo < 0 ? lo : 0.0f;
        r.hi = hi > 0 ? hi : 0.0f;
        r.down = 0;
        r.up = 2.0f * half - 1.0f;
        r.scale = (r.hi - r.lo) / r.up;
    }
    return r;
}

/** The zero point that a symmetric scheme does not store. */
static inline float quant_middle(const flrq_scheme *scheme) {
    return (float)(1 << (scheme->bits - 1));
}

/** A positive scale as it is stored: never zero, 8 significant bits. */
static inline float quant_round(float scale) {
    return flrq_round_scale(scale > 0x1p-24f ? scale : 0x1p-24f);
}

/** Nearest-even integer of x * inv, any magnitude; the whole of rounding in this file's definition. */
static inline float quant_nearest(float x, float inv, float down, float up) {
    float t = fmaf(x, inv, QUANT_MAGIC);
    t = t > QUANT_MAGIC + down ? t : QUANT_MAGIC + down;
    t = t < QUANT_MAGIC + up ? t : QUANT_MAGIC + up;
    return t - QUANT_MAGIC;
}

/** The candidate with a given clip ratio; sign -1 for the negative scale of a symmetric full grid. */
static inline quant_candidate quant_at_ratio(const quant_range *r, const flrq_scheme *scheme, float ratio, float sign) {
    quant_candidate c;
    c.scale = sign * quant_round(ratio * r->scale);
    c.inv = 1.0f / c.scale;
    c.lo = ratio * r->lo;
    c.hi = ratio * r->hi;
    if (r->symmetric) {
        c.zero = quant_middle(scheme);
        c.down = r->down;
        c.up = r->up;
    } else {
        c.zero = quant_nearest(-c.lo, c.inv, r->down, r->up);
        c.down = r->down - c.zero;
        c.up = r->up - c.zero;
    }
    return c;
}

/** The same candidate with another magnitude of the scale: zero point, sign and cut stay. */
static inline quant_candidate quant_with_scale(const quant_candidate *from, double scale) {
    quant_candidate c = *from;
    c.scale = copysignf(quant_round((float)scale), from->scale);
    c.inv = 1.0f / c.scale;
    return c;
}

/** Ratio i of the grid of flrq_clip. */
static inline float quant_grid_ratio(const flrq_clip *clip, int32_t i) {
    return clip->steps > 1 ? 1.0f - (float)i * ((1.0f - clip->min_ratio) / (float)(clip->steps - 1)) : 1.0f;
}

/** Ratio i < QUANT_BATCH of the first round of the fast search; ratio 0 is 1. */
static inline float quant_fast_ratio(int bits, int i) {
    float lowest = bits == 2 ? 0.3f : bits == 3 ? 0.35f : bits == 4 ? 0.4f : 0.9f;
    return 1.0f - (float)i * ((1.0f - lowest) / (float)(QUANT_BATCH - 1));
}

#endif
