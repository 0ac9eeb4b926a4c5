/* quant_team.cuh - teams of eight lanes that search one group each: sums, trials and the two searches of
 * host/backend/quant_search.h, for groups in shared memory (quant.cu) and long ones (quant_long.cu).
 *
 * Lane p of a team owns columns p, p + 8, ... of its group, which are exactly one partial sum of a fit and two of an
 * error: a sum passes between lanes only when it folds, and no weight is read twice in a pass. The four teams of a warp
 * go in step; the scalars of a search (divisions, roundings of scales) cost one instruction for four groups, and those
 * of eight trials are computed by the eight lanes at once.
 *
 * Must not change: the order of every sum and every float expression (-fmad=false, IEEE division and square root).
 */
#ifndef FLRQ_KERNELS_QUANT_TEAM_CUH
#define FLRQ_KERNELS_QUANT_TEAM_CUH

#include "backend/quant_search.h"
#include "device.cuh"
#include "load4.cuh"
#include "quant_kernels.h"

enum { TEAM = 8, TRIALS = 8 /* of a pass over a group */ };

enum search_kind { BY_FITS, BY_ERRORS, BY_ERRORS_CUT };

/* What a kernel gets: the job, the search and, for short groups, the geometry of a tile in shared memory. */
struct quantize_args {
    flrq_quantize_job job;
    quant_plan plan;
    quant_levels levels;
    int32_t variants, signs, count;       /* of fits; signs of scales and number of candidates of a search by errors */
    bool wide, wide_code, wide_h, wide_r; /* loads and stores of several columns are aligned */
    int32_t warps;                        /* of a block of threads */
    int32_t tile_groups, tile_cols;
    int32_t lane_words;  /* words between the columns of one lane and those of the next: a multiple of 4 */
    int32_t fours;       /* columns of a lane over 4, rounded up */
    int32_t group_words; /* TEAM * lane_words */
    int32_t row_words;   /* tile_groups * group_words */
    int32_t code_bytes;  /* between rows of codes in shared memory */
};

/* Launches quantize_long (quant_long.cu); the number of its blocks of threads, which write a part each. */
cudaError_t flrq_launch_quantize_long(const quantize_args *args, search_kind kind, cudaStream_t stream);
int64_t flrq_quantize_long_blocks(const flrq_quantize_job *job);

/* ---- teams ------------------------------------------------------------------------------------------------------ */

__device__ __forceinline__ static int team_lane() {
    return (int)threadIdx.x % TEAM;
}

/* The value of lane `from` of this team. */
template <class T> __device__ __forceinline__ static T of_lane(T value, int from) {
    return __shfl_sync(0xffffffffu, value, from, TEAM);
}

__device__ __forceinline__ static float team_max(float x) {
    FLRQ_UNROLL
    for (int half = TEAM / 2; half > 0; half /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, half));
    return x;
}

__device__ __forceinline__ static double team_min(double x) {
    FLRQ_UNROLL
    for (int half = TEAM / 2; half > 0; half /= 2) x = fmin(x, __shfl_xor_sync(0xffffffffu, x, half));
    return x;
}

__device__ __forceinline__ static float team_min(float x) {
    FLRQ_UNROLL
    for (int half = TEAM / 2; half > 0; half /= 2) x = fminf(x, __shfl_xor_sync(0xffffffffu, x, half));
    return x;
}

/* The first lane of the team for which `yes` holds, -1 when there is none. */
__device__ __forceinline__ static int first_lane(bool yes) {
    unsigned lanes = __ballot_sync(0xffffffffu, yes) >> (threadIdx.x % 32 / TEAM * TEAM) & 0xffu;
    return __ffs((int)lanes) - 1;
}

/* Folds N sums, of which every lane brings its partial sum x[n], in halves: partial sum i and i + 4, i + 2, i + 1.
 * While there is more than one sum, a lane gives half of them away and keeps half, so that lane p ends with sum p * N
 * / 8. */
template <int N> __device__ __forceinline__ static float fold(float (&x)[N]) {
    FLRQ_UNROLL
    for (int step = 0; step < 3; step++) {
        const int half = TEAM / 2 >> step, count = N >> (step + 1);
        const bool upper = (team_lane() & half) != 0;
        FLRQ_UNROLL
        for (int k = 0; k < count; k++) {
            float give = upper ? x[k] : x[k + count], keep = upper ? x[k + count] : x[k];
            x[k] = keep + __shfl_xor_sync(0xffffffffu, give, half);
        }
        if (count == 0) x[0] += __shfl_xor_sync(0xffffffffu, x[0], half);
    }
    return x[0];
}

/* ---- one column ------------------------------------------------------------------------------------------------- */

/* Adds a column to B and C of N trials. |w| |q| and q^2 do not know the sign: above and below bound |q|, with
 * QUANT_MAGIC, for positive and negative w. */
template <int N>
__device__ __forceinline__ static void fit_column(float (&b)[N], float (&c)[N], const float (&inv)[N], float w, float h,
                                                  float above, float below) {
    const float size = fabsf(w), most = w < 0 ? below : above;
    FLRQ_UNROLL
    for (int n = 0; n < N; n++) {
        float q = fminf(fmaf(size, inv[n], QUANT_MAGIC), most) - QUANT_MAGIC, hq = h * q;
        b[n] = fmaf(hq, size, b[n]);
        c[n] = fmaf(hq, q, c[n]);
    }
}

/* N candidates to compare by their errors; down and up include QUANT_MAGIC. */
template <int N> struct trials { float inv[N], scale[N], down[N], up[N], lo[N], hi[N]; };

template <int N> __device__ __forceinline__ static void set_trial(trials<N> &t, int n, const quant_candidate &c) {
    t.inv[n] = c.inv;
    t.scale[n] = c.scale;
    t.down[n] = QUANT_MAGIC + c.down;
    t.up[n] = QUANT_MAGIC + c.up;
    t.lo[n] = c.lo;
    t.hi[n] = c.hi;
}

/* QUANT_MAGIC + the integer of w; *free the same without bounds. */
template <bool CUT>
__device__ __forceinline__ static float integer_of(float w, float inv, float down, float up, float lo, float hi,
                                                   bool *within) {
    const float free = fmaf(w, inv, QUANT_MAGIC), bounded = fminf(fmaxf(free, down), up);
    *within = CUT ? w >= lo && w <= hi : free == bounded;
    return CUT && !*within ? QUANT_MAGIC : bounded;
}

template <int N, bool CUT>
__device__ __forceinline__ static void error_column(float (&part)[N], const trials<N> &t, float w, float h) {
    FLRQ_UNROLL
    for (int n = 0; n < N; n++) {
        bool within;
        float q = integer_of<CUT>(w, t.inv[n], t.down[n], t.up[n], t.lo[n], t.hi[n], &within) - QUANT_MAGIC;
        float e = fmaf(-q, t.scale[n], w);
        part[n] = fmaf(h * e, e, part[n]);
    }
}

/* ---- columns of one lane, in shared memory ---------------------------------------------------------------------- */

template <int N>
__device__ __forceinline__ static void fit_columns(float (&b)[N], float (&c)[N], const float (&inv)[N], const float4 *w,
                                                   const float4 *h, int fours, float above, float below) {
    for (int k = 0; k < fours; k++) {
        const float4 w4 = w[k], h4 = h[k];
        fit_column<N>(b, c, inv, w4.x, h4.x, above, below);
        fit_column<N>(b, c, inv, w4.y, h4.y, above, below);
        fit_column<N>(b, c, inv, w4.z, h4.z, above, below);
        fit_column<N>(b, c, inv, w4.w, h4.w, above, below);
    }
}

/* A lane has two of the 16 partial sums of an error: columns p and p + 8 modulo 16. */
template <int N, bool CUT>
__device__ __forceinline__ static void error_columns(float (&even)[N], float (&odd)[N], const trials<N> &t,
                                                     const float4 *w, const float4 *h, int fours) {
    for (int k = 0; k < fours; k++) {
        const float4 w4 = w[k], h4 = h[k];
        error_column<N, CUT>(even, t, w4.x, h4.x);
        error_column<N, CUT>(odd, t, w4.y, h4.y);
        error_column<N, CUT>(even, t, w4.z, h4.z);
        error_column<N, CUT>(odd, t, w4.w, h4.w);
    }
}

template <int N> __device__ __forceinline__ static float fold_error(float (&even)[N], float (&odd)[N]) {
    FLRQ_UNROLL
    for (int n = 0; n < N; n++) even[n] += odd[n];
    return fold<N>(even);
}

/* Range, and partial sums of h w^2. */
struct measures {
    float least, most, norm[2];
};

/* Symmetric schemes want the largest |w|, as `most`; others both ends. */
template <bool SYMMETRIC>
__device__ __forceinline__ static void measure_columns(measures &m, const float4 *w, const float4 *h, int fours) {
    for (int k = 0; k < fours; k++) {
        const float4 w4 = w[k], h4 = h[k];
        if (SYMMETRIC) {
            m.most = fmaxf(fmaxf(m.most, fabsf(w4.x)), fabsf(w4.y));
            m.most = fmaxf(fmaxf(m.most, fabsf(w4.z)), fabsf(w4.w));
        } else {
            m.least = fminf(fminf(m.least, fminf(w4.x, w4.y)), fminf(w4.z, w4.w));
            m.most = fmaxf(fmaxf(m.most, fmaxf(w4.x, w4.y)), fmaxf(w4.z, w4.w));
        }
        m.norm[0] = fmaf(h4.x * w4.x, w4.x, m.norm[0]);
        m.norm[1] = fmaf(h4.y * w4.y, w4.y, m.norm[1]);
        m.norm[0] = fmaf(h4.z * w4.z, w4.z, m.norm[0]);
        m.norm[1] = fmaf(h4.w * w4.w, w4.w, m.norm[1]);
    }
}

/* The partial sum of h over the columns of this lane, even and odd. */
__device__ __forceinline__ static void mass_columns(float (&mass)[2], const float4 *h, int fours) {
    for (int k = 0; k < fours; k++) {
        const float4 h4 = h[k];
        mass[0] += h4.x;
        mass[1] += h4.y;
        mass[0] += h4.z;
        mass[1] += h4.w;
    }
}

/* ---- search ------------------------------------------------------------------------------------------------------
 * A group G offers fit<N>(inv, above, below): B and C of the N trials whose 1 / scale the lanes bring (lane p that of
 * trial p * N / 8, which it also gets), and error<N, CUT>(trials): the error of trial p * N / 8, of type G::sum. All
 * lanes of a warp go through the same steps, also where a team has no group (then its weights are 0). */

struct fit_sums {
    float b, c;
};

struct best_fit {
    float gain, b, c;
    int trial;
};

/* Takes the best of N trials when it gains more; true for the team that did. */
template <int N> __device__ __forceinline__ static bool keep_best_fit(best_fit &best, fit_sums sums, int first) {
    float gain = quant_gain(sums.b, sums.c), most = team_max(gain);
    int lane = first_lane(gain == most);
    float b = of_lane(sums.b, lane), c = of_lane(sums.c, lane);
    if (!(most > best.gain)) return false;
    best.gain = most;
    best.b = b;
    best.c = c;
    best.trial = first + lane * N / TEAM;
    return true;
}

template <class E> struct winner {
    quant_candidate c;
    E error;
};

/* N trials around the best fit of round one. */
template <int N, class G>
__device__ __forceinline__ static best_fit round_two(G &group, const quantize_args &a, float step,
                                                     const best_fit &first, float above, float below) {
    quant_plan plan = a.plan;
    plan.second = N; /* known to the compiler */
    const float inv =
        quant_second_inv(&plan, first.c / first.b, quant_second_step(&plan, step, first.trial), team_lane() * N / TEAM);
    best_fit last = {0, 0, 0, 0};
    keep_best_fit<N>(last, group.template fit<N>(inv, above, below), 0);
    return last;
}

template <class G>
__device__ __forceinline__ static winner<typename G::sum> search_by_fits(G &group, const quantize_args &a,
                                                                         quant_range r, float power) {
    const quant_levels *l = &a.levels;
    const float step = quant_first_step(&a.plan, r, power), zero = quant_fit_zero(l, r);
    float above = 0, below = 0;
    best_fit first = {0, 0, 0, 0};
    int variant = 0;
    for (int v = 0; v < a.variants; v++) {
        const float shift = l->symmetric ? 0.0f : quant_variant_zero(l, zero, v);
        const float up = QUANT_MAGIC + (l->up - shift), down = QUANT_MAGIC - (l->down - shift);
        const bool negative = quant_variant_sign(l, v) < 0;
        for (int i = 0; i < a.plan.first; i += TRIALS) {
            const float inv = quant_first_inv(&a.plan, r, step, i + team_lane());
            const fit_sums sums = group.template fit<TRIALS>(inv, negative ? down : up, negative ? up : down);
            if (!keep_best_fit<TRIALS>(first, sums, i)) continue;
            variant = v;
            above = negative ? down : up;
            below = negative ? up : down;
        }
    }
    const best_fit last = a.plan.second == 4 ? round_two<4>(group, a, step, first, above, below)
                                             : round_two<8>(group, a, step, first, above, below);
    const quant_candidate nearest = quant_at_ratio(l, r, 1, 1);
    const quant_candidate found =
        quant_at_fit(l, r, quant_variant_sign(l, variant) * (last.b / last.c), quant_variant_zero(l, zero, variant));
    trials<2> both;
    set_trial(both, 0, nearest);
    set_trial(both, 1, found);
    const typename G::sum error = group.template error<2, false>(both);
    const typename G::sum of_nearest = of_lane(error, 0), of_found = of_lane(error, TEAM / 2);
    const bool better = first.gain > 0 && last.gain > 0 && of_found < of_nearest;
    winner<typename G::sum> w = {nearest, of_nearest};
    if (better) w.c = found, w.error = of_found;
    return w;
}

/* Candidate number k of a search by errors: ratio 1, then the ratios in their order, each with both signs of the scale
 * when a.signs is 2. */
__device__ __forceinline__ static quant_candidate candidate_at(const quantize_args &a, quant_range r, int k) {
    const int at = (k - 1) / a.signs;
    const float found = a.job.clip.search == FLRQ_CLIP_GRID ? quant_grid_ratio(&a.job.clip, at)
                                                            : quant_first_ratio(&a.plan, quant_error_step(&a.plan), at);
    const float sign = a.signs == 2 && k > 0 && k % 2 == 0 ? -1.0f : 1.0f;
    return quant_at_ratio(&a.levels, r, k > 0 ? found : 1.0f, sign);
}

template <class G, bool CUT>
__device__ __forceinline__ static winner<typename G::sum> search_by_errors(G &group, const quantize_args &a,
                                                                           quant_range r) {
    typename G::sum lowest = INFINITY;
    int best = 0;
    if (a.count > 1 || a.job.parts)
        for (int first = 0; first < a.count; first += TRIALS) {
            const quant_candidate mine = candidate_at(a, r, min(first + team_lane(), a.count - 1));
            trials<TRIALS> t;
            FLRQ_UNROLL
            for (int n = 0; n < TRIALS; n++) {
                t.inv[n] = of_lane(mine.inv, n);
                t.scale[n] = of_lane(mine.scale, n);
                t.down[n] = QUANT_MAGIC + of_lane(mine.down, n);
                t.up[n] = QUANT_MAGIC + of_lane(mine.up, n);
                t.lo[n] = CUT ? of_lane(mine.lo, n) : 0.0f;
                t.hi[n] = CUT ? of_lane(mine.hi, n) : 0.0f;
            }
            const typename G::sum error = group.template error<TRIALS, CUT>(t), least = team_min(error);
            const int lane = first_lane(error == least);
            if (!(least < lowest)) continue;
            lowest = least; /* copies of the last candidate beyond it do not come first */
            best = first + lane;
        }
    winner<typename G::sum> w = {candidate_at(a, r, best), lowest};
    return w;
}

template <int KIND, class G>
__device__ __forceinline__ static winner<typename G::sum> search(G &group, const quantize_args &a, quant_range r,
                                                                 float power) {
    if (KIND == BY_FITS) return search_by_fits(group, a, r, power);
    return search_by_errors<G, KIND == BY_ERRORS_CUT>(group, a, r);
}

/* Sums of one thread for the statistics. */
typedef flrq_quantize_part tally;

__device__ __forceinline__ static void count_group(tally &t, quant_range r, float scale, double error, double norm) {
    if (r.lo == r.hi) {
        t.zero_groups++;
        t.ratios += 1;
        return;
    }
    t.error += error;
    t.norm += norm;
    t.ratios += quant_ratio(r, scale);
}

/* A group of zeros gets scale 1 and codes at the zero point. */
__device__ __forceinline__ static void zero_group(quant_candidate &c, const quant_levels &l) {
    c.scale = c.inv = 1;
    c.zero = l.middle;
    c.down = c.up = c.lo = c.hi = 0;
}

__device__ static inline void write_part(flrq_quantize_part *parts, const tally &t, int64_t at) {
    __shared__ double sums[32];
    __shared__ long long counts[32];
    const int thread = (int)threadIdx.x, threads = (int)blockDim.x;
    flrq_quantize_part part;
    part.error = flrq_block_sum(t.error, sums, thread, threads);
    __syncthreads();
    part.norm = flrq_block_sum(t.norm, sums, thread, threads);
    __syncthreads();
    part.ratios = flrq_block_sum(t.ratios, sums, thread, threads);
    part.clipped = flrq_block_sum((long long)t.clipped, counts, thread, threads);
    __syncthreads();
    part.zero_groups = flrq_block_sum((long long)t.zero_groups, counts, thread, threads);
    if (thread == 0) parts[at] = part;
}

#endif
