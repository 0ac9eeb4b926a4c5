/* quant_search.h - the definition of the clip search that the fast face (simd_quant.c), the reference (ref_quant.c) and
 * the kernels (quant.cu) share.
 *
 * Both faces, and every instruction set of the fast one, choose the same bytes: codes, scales and zero points. That is
 * why the float expressions below, the order of candidates and the order of every sum are part of the definition.
 *
 * Integers. q = clamp(nearest even of w * inv), inv = 1/scale in fp32, the product not rounded: one fma onto
 * QUANT_MAGIC.
 *
 * Sums over a group go by blocks of QUANT_BLOCK columns. Inside a block every term enters one of P partial sums, the
 * one of its column mod P, by one fma in fp32; the partial sums fold in halves (i + (i + P/2), then P/4, ... 1); blocks
 * add up in double, first to last. P is QUANT_ERROR_LANES for the error of a scale and QUANT_FIT_LANES for the two sums
 * of a fit.
 *
 * Grid search. The error sum h (w - q scale)^2 of every ratio; the first (largest) ratio wins a tie.
 *
 * Fast search at 2, 3 and 4 bits. The integers that a trial scale gives have a best scale of their own, B / C with
 * B = sum h w q and C = sum h q^2, at which the error is sum h w^2 - B^2 / C: one pass over the group fits the scale
 * and tells the error, so few trials do. Round one: `first` trials, evenly spaced between a ratio above 1 (with weights
 * h the best range is often wider than the weights) and one that follows the weighted rms of the group (a range far
 * below it is never good). It is made for each variant: both signs of the scale if that is asked for, in asymmetric
 * schemes the zero point of the range and its two neighbours. Round two: `second` trials around the best fit, `spread`
 * of a step of round one apart. The best fit of round two, rounded, then stands against ratio 1, both by their true
 * errors, so the result is never worse than round to nearest.
 *
 * Fast search at 8 bits. Clipping gains nothing, the error is a rough function of the scale, and C is too large for the
 * subtraction above: `first` ratios around 1 by their true errors. FLRQ_CLIP_ZERO does the same at every width: there
 * the error jumps at every weight.
 *
 * Numbers of trials come from measurements over Gaussian, Laplace, Student t4, uniform and 1 %-outlier weights with h =
 * 1 and with log-normal h that has 2 % of channels x100, groups of 32 to 4096, symmetric and asymmetric (bench_clip and
 * test_quant_ops repeat the gist). Total error over that of a grid of 100 ratios, worst distribution, at 2 / 3 / 4
 * bits: round one of 8 alone +0.30 / +0.75 / +1.7 %; 8 and 4 trials +0.01 / +0.04 / +0.09 %; 8 and 8 -0.00 / +0.00 /
 * +0.01 %. With h the fast search is 5 to 14 % below the grid (28 % at 8 bits), which stops at ratio 1, and within 0.7
 * % of the best of all scales of the same variant. Neighbours of the zero point bring 2 to 20 % in asymmetric schemes
 * with h.
 *
 * A grid needs 50 ratios down to 0.2, 0.3, 0.4, 0.8 at 2, 3, 4, 8 bits to come within 0.3 % of one of 300 on every one
 * of these; 20 ratios lose up to 2.5 % at 4 bits and below, and a grid that ends at 0.4 loses up to 25 % at 2 bits
 * (more per channel).
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
    QUANT_STEPS = 10000,    /* ratios of a grid at most */
    QUANT_BLOCK = 256,      /* columns that are summed in fp32 */
    QUANT_ERROR_LANES = 16, /* partial sums of an error */
    QUANT_VARIANTS = 3,     /* of a fit at most */
    QUANT_FIT_LANES = 8     /* partial sums of a fit */
};

/** The integers of a scheme. */
typedef struct quant_levels {
    float down, up; /* symmetric: those allowed for q; asymmetric: those of codes, 0 and 2^bits - 1 */
    float middle;   /* symmetric: the zero point 2^(bits-1), which is not stored; asymmetric 0 */
    float span;     /* range of the weights (symmetric: its half) over the scale at ratio 1 */
    bool symmetric;
} quant_levels;

/** The range of one group. */
typedef struct quant_range {
    float lo,
        hi;      /* of the weights: asymmetric min(0, .), max(0, .); symmetric -amax, amax. Equal in a group of zeros */
    float scale; /* at ratio 1, not rounded */
} quant_range;

/** One scale to try. */
typedef struct quant_candidate {
    float scale, inv;
    float zero;     /* zero point */
    float down, up; /* integers allowed for q = code - zero */
    float lo, hi;   /* weights outside are cut in FLRQ_CLIP_ZERO */
} quant_candidate;

/** Trials of the fast search. With second > 0, by fits: first is 8 or 16, second 4 or 8; else by true errors in one
 * round. */
typedef struct quant_plan {
    int first, second;
    float high, low; /* ratios of round one; low in units of the weighted rms when second > 0 */
    float spread;
} quant_plan;

/** The plan for groups of `group` columns, a shorter one at the end of a row included. */
FLRQ_HOST_DEVICE static inline quant_plan quant_plan_of(int bits, int64_t group, bool cut) {
    const quant_plan small[] = {{8, 4, 1.1f, 1.0f, 0.264f},
                                {8, 4, 1.2f, 1.2f, 0.264f},
                                {8, 8, 1.2f, 1.4f, 0.16f},
                                {15, 0, 1.15f, 0.97f, 0}},
                     large[] = {{16, 8, 1.2f, 1.2f, 0.16f},
                                {16, 8, 1.2f, 1.2f, 0.16f},
                                {16, 8, 1.2f, 1.4f, 0.16f},
                                {63, 0, 1.06f, 0.78f, 0}},
                     errors = {31, 0, 1.2f, 0.5f, 0};
    int row = bits <= 4 ? bits - 2 : 3; /* 2, 3, 4 and 8 bits */
    return cut ? errors : group <= QUANT_BLOCK ? small[row] : large[row];
}

FLRQ_HOST_DEVICE static inline quant_levels quant_levels_of(const flrq_scheme *scheme) {
    float half = (float)(1 << (scheme->bits - 1));
    const quant_levels asymmetric = {0, 2 * half - 1, 0, 2 * half - 1, false};
    const quant_levels full = {-half, half - 1, half, half - 0.5f, true};
    const quant_levels mirror = {1 - half, half - 1, half, half - 1, true};
    return !scheme->symmetric ? asymmetric : scheme->grid == FLRQ_GRID_FULL ? full : mirror;
}

/** Range of weights between least and most. */
FLRQ_HOST_DEVICE static inline quant_range quant_range_of(const quant_levels *l, float least, float most) {
    float amax = -least > most ? -least : most;
    float lo = l->symmetric ? -amax : least < 0 ? least : 0, hi = l->symmetric ? amax : most > 0 ? most : 0;
    const quant_range range = {lo, hi, (l->symmetric ? amax : hi - lo) / l->span};
    return range;
}

/** True when negative scales are to be tried as well. */
FLRQ_HOST_DEVICE static inline bool quant_signed(const flrq_scheme *scheme, const flrq_clip *clip) {
    return scheme->symmetric && scheme->grid == FLRQ_GRID_FULL && clip->signed_scale;
}

/** A positive scale no smaller than the smallest that can be stored. */
FLRQ_HOST_DEVICE static inline float quant_floor(float scale) {
    return scale > 0x1p-24f ? scale : 0x1p-24f;
}

/** Nearest-even integer of x * inv within [down, up], any magnitude. */
FLRQ_HOST_DEVICE static inline float quant_nearest(float x, float inv, float down, float up) {
    float t = fmaf(x, inv, QUANT_MAGIC);
    t = t > QUANT_MAGIC + down ? t : QUANT_MAGIC + down;
    t = t < QUANT_MAGIC + up ? t : QUANT_MAGIC + up;
    return t - QUANT_MAGIC;
}

/** The candidate with a given clip ratio; sign -1 for the negative scale of a symmetric full grid. */
FLRQ_HOST_DEVICE static inline quant_candidate quant_at_ratio(const quant_levels *l, quant_range r, float ratio,
                                                              float sign) {
    float scale = sign * flrq_round_scale(quant_floor(ratio * r.scale)), inv = 1.0f / scale;
    float lo = ratio * r.lo, hi = ratio * r.hi;
    float zero = l->symmetric ? l->middle : quant_nearest(-lo, inv, l->down, l->up), shift = l->symmetric ? 0 : zero;
    const quant_candidate candidate = {scale, inv, zero, l->down - shift, l->up - shift, lo, hi};
    return candidate;
}

/** Number of variants that round one by fits tries: negative scales of a symmetric full grid, neighbours of the zero
 * point in asymmetric schemes. Round two goes on with the best. */
FLRQ_HOST_DEVICE static inline int quant_variants(const flrq_scheme *scheme, const flrq_clip *clip) {
    return !scheme->symmetric ? 3 : quant_signed(scheme, clip) ? 2 : 1;
}

/** Sign of the scale in a variant. */
FLRQ_HOST_DEVICE static inline float quant_variant_sign(const quant_levels *l, int variant) {
    return l->symmetric && variant == 1 ? -1.0f : 1.0f;
}

/** Zero point in variant 0. */
FLRQ_HOST_DEVICE static inline float quant_fit_zero(const quant_levels *l, quant_range r) {
    return l->symmetric ? l->middle : quant_nearest(-r.lo, 1.0f / quant_floor(r.scale), l->down, l->up);
}

/** Zero point in a variant: 0, -1 or +1 from that of variant 0, within the codes. */
FLRQ_HOST_DEVICE static inline float quant_variant_zero(const quant_levels *l, float zero, int variant) {
    if (l->symmetric) return zero;
    zero += variant == 1 ? -1.0f : variant == 2 ? 1.0f : 0.0f;
    return zero < l->down ? l->down : zero > l->up ? l->up : zero;
}

/** The candidate with the scale of a fit (of either sign), rounded. */
FLRQ_HOST_DEVICE static inline quant_candidate quant_at_fit(const quant_levels *l, quant_range r, float scale,
                                                            float zero) {
    float rounded = copysignf(flrq_round_scale(quant_floor(fabsf(scale))), scale), shift = l->symmetric ? 0 : zero;
    const quant_candidate candidate = {rounded, 1.0f / rounded, zero, l->down - shift, l->up - shift, r.lo, r.hi};
    return candidate;
}

/** The clip ratio that a scale amounts to, for the statistics: in steps of 2^-24, so that sums of them are exact and do
 * not depend on the order, on blocks of a grid or on workers. */
FLRQ_HOST_DEVICE static inline double quant_ratio(quant_range r, float scale) {
    const double steps = 16777216.0;
    return rint(fabs((double)scale) / (double)quant_floor(r.scale) * steps) / steps;
}

/** Ratio i of the grid of flrq_clip. */
FLRQ_HOST_DEVICE static inline float quant_grid_ratio(const flrq_clip *clip, int i) {
    return clip->steps > 1 ? 1.0f - (float)i * ((1.0f - clip->min_ratio) / (float)(clip->steps - 1)) : 1.0f;
}

/** Step between the ratios of round one by fits. power = sum h w^2 / sum h of the group. */
FLRQ_HOST_DEVICE static inline float quant_first_step(const quant_plan *plan, quant_range r, float power) {
    float low = plan->low * sqrtf(power) / (0.5f * (r.hi - r.lo));
    low = low > 0.02f ? low : 0.02f; /* also when power is 0/0 */
    low = low < plan->high * 0.75f ? low : plan->high * 0.75f;
    return (plan->high - low) / (float)(plan->first - 1);
}

/** Step between the ratios of the fast search by true errors. */
FLRQ_HOST_DEVICE static inline float quant_error_step(const quant_plan *plan) {
    return (plan->high - plan->low) / (float)(plan->first - 1);
}

/** Ratio i of round one. */
FLRQ_HOST_DEVICE static inline float quant_first_ratio(const quant_plan *plan, float step, int i) {
    return fmaf(-(float)i, step, plan->high);
}

/** 1 / scale of trial i of round one by fits. */
FLRQ_HOST_DEVICE static inline float quant_first_inv(const quant_plan *plan, quant_range r, float step, int i) {
    return 1.0f / quant_floor(quant_first_ratio(plan, step, i) * r.scale);
}

/** Relative step between the trials of round two around trial `best` of round one; the outermost trial stays within 60
 * %. */
FLRQ_HOST_DEVICE static inline float quant_second_step(const quant_plan *plan, float step, int best) {
    float relative = plan->spread * step / quant_first_ratio(plan, step, best), most = 1.2f / (float)(plan->second - 1);
    return relative < most ? relative : most;
}

/** 1 / scale of trial i of round two, around the fit with 1 / scale = inv. */
FLRQ_HOST_DEVICE static inline float quant_second_inv(const quant_plan *plan, float inv, float step, int i) {
    return inv * fmaf((float)i - 0.5f * (float)(plan->second - 1), step, 1.0f);
}

/** What a fit lowers the error by: B^2 / C, 0 when there is nothing to fit. */
FLRQ_HOST_DEVICE static inline float quant_gain(float b, float c) {
    float gain = b * b / c;
    return gain > 0 ? gain : 0;
}

#endif
