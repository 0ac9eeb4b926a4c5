/* rank.h - how many low-rank terms a matrix gets (methods.md section 1).
 *
 * All rules but ERROR see the whole curve: amax[r] = largest |residual| after r terms and sigma[r], the singular values
 * of the target. A unit of rank costs 16 (m + n) / (m n) bits per weight.
 */
#ifndef FLRQ_QUANT_RANK_H
#define FLRQ_QUANT_RANK_H

#include <stdint.h>

/** Order of the values = order of the choices of --rank-policy. */
typedef enum flrq_rank_rule {
    FLRQ_RANK_R1FLR = 0,      /* Eq. 9, greedy: stop at the first rank whose cost exceeds what it gained */
    FLRQ_RANK_R1FLR_BEST = 1, /* argmax over r of log2(amax_0 / amax_r) - cost(r) */
    FLRQ_RANK_ENERGY = 2,     /* argmax over r of log2(|T| / |T - T_r|) - cost(r): one bit halves an error */
    FLRQ_RANK_FIXED = 3,
    FLRQ_RANK_ERROR = 4 /* argmin over tried r of log2(measured error) + cost(r); the fit tries them (fit.c) */
} flrq_rank_rule;

typedef struct flrq_rank_policy {
    flrq_rank_rule rule;
    int64_t fixed;    /* rank of FIXED */
    int64_t max_rank; /* cap of the other rules */
    int64_t multiple; /* ranks are multiples of this, inside the rule rather than after it */
    double extra;     /* x: cost(r) <= extra * bits */
    double flat;      /* t: r1flr stops when amax fell by less than flat * amax_0 over the last 4 ranks; 0 = off */
    int bits;         /* d */
} flrq_rank_policy;

/** Bits per weight of one unit of rank: 16 (m + n) / (m n). */
double flrq_rank_cost(int64_t rows, int64_t cols);

/** Largest rank that the policy may choose for an m x n matrix; the sketch needs no more terms than this. */
int64_t flrq_rank_cap(const flrq_rank_policy *policy, int64_t rows, int64_t cols);

/** True when the greedy rule r1flr accepts rank r, given amax[0..r]. r is a multiple of policy->multiple, r > 0. A
 *  residual that was zero at the multiple before accepts nothing more. */
int flrq_rank_accepts(const flrq_rank_policy *policy, int64_t rows, int64_t cols, const float *amax, int64_t r);

/** The rank, in [0, min(cap, terms)]. Not for ERROR. amax [terms + 1]; sigma [terms] descending; norm2 = |T|_F^2. */
int64_t flrq_rank_choose(const flrq_rank_policy *policy, int64_t rows, int64_t cols, const float *amax,
                         const double *sigma, double norm2, int64_t terms);

#endif
