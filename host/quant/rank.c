/* rank.c - the rank rules. */
#include "quant/rank.h"

#include <math.h>

enum { FLAT_WINDOW = 4 };

double flrq_rank_cost(int64_t rows, int64_t cols) {
    return 16.0 * ((double)rows + (double)cols) / ((double)rows * (double)cols);
}

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t flrq_rank_cap(const flrq_rank_policy *policy, int64_t rows, int64_t cols) {
    int64_t full = min64(rows, cols);
    if (policy->rule == FLRQ_RANK_FIXED) return min64(policy->fixed, full);
    int64_t cap = min64(min64(policy->max_rank, full),
                        (int64_t)floor(policy->extra * policy->bits / flrq_rank_cost(rows, cols) + 1e-9));
    return cap - cap % policy->multiple;
}

/* log2(w0 / w), the bits by which the range shrank; a residual of exactly zero is worth any rank. */
static double range_gain(float w0, float w) {
    if (!(w0 > 0)) return 0;
    return w > 0 ? log2((double)w0 / w) : INFINITY;
}

int flrq_rank_accepts(const flrq_rank_policy *policy, int64_t rows, int64_t cols, const float *amax, int64_t r) {
    if (!(amax[r - policy->multiple] > 0)) return 0; /* nothing is left to gain */
    double cost = flrq_rank_cost(rows, cols) * (double)r, d = policy->bits;
    double k = 1 + cost / d, q = (d + range_gain(amax[0], amax[r])) / d;
    if (k > q || k > 1 + policy->extra) return 0;
    return !(policy->flat > 0 && r >= FLAT_WINDOW &&
             (double)amax[r - FLAT_WINDOW] - amax[r] < policy->flat * (double)amax[0]);
}

int64_t flrq_rank_choose(const flrq_rank_policy *policy, int64_t rows, int64_t cols, const float *amax,
                         const double *sigma, double norm2, int64_t terms) {
    int64_t cap = min64(flrq_rank_cap(policy, rows, cols), terms), step = policy->multiple, best = 0;
    if (policy->rule == FLRQ_RANK_FIXED) return cap;
    if (policy->rule == FLRQ_RANK_R1FLR) {
        while (best + step <= cap && flrq_rank_accepts(policy, rows, cols, amax, best + step)) best += step;
        return best;
    }
    if (!(norm2 > 0)) return 0; /* a target of zeros gains by nothing */
    double cost = flrq_rank_cost(rows, cols), best_gain = 0, rest = norm2;
    for (int64_t r = 1; r <= cap; r++) {
        double gain;
        if (policy->rule == FLRQ_RANK_ENERGY) {
            rest -= sigma[r - 1] * sigma[r - 1];
            gain = rest > 0 ? 0.5 * log2(norm2 / rest) : INFINITY;
        } else
            gain = range_gain(amax[0], amax[r]);
        if (r % step) continue;
        gain -= cost * (double)r;
        if (gain > best_gain) best_gain = gain, best = r;
    }
    return best;
}
