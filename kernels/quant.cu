/* quant.cu - clip search and quantization: the bytes that host/backend/quant_search.h defines, on the GPU.
 *
 * Eight lanes, a team, search one group. Lane p owns columns p, p + 8, ... of it, which are exactly one partial sum of
 * a fit and two of an error: so a sum passes between lanes only when it folds, and no weight is read twice in a pass.
 * The four teams of a warp search four groups in step; the scalars of a search (divisions, roundings of scales) cost
 * one instruction for four groups, and the scalars of eight trials are computed by the eight lanes at once.
 *
 * Groups of at most QUANT_BLOCK columns (quantize_tiles): a block of threads owns a stripe of whole groups, about 128
 * columns wide, and walks down its rows, 4 for each warp at a time. Weights are read once, 4 neighbours per lane, the
 * residual is formed in registers (low-rank part from tiles in shared memory), and goes to shared memory in the order
 * in which lanes read it back, 4 columns a load. Codes leave through shared memory too, 16 bytes a lane. Longer groups
 * (quantize_long): a block of threads owns a group, its teams take blocks of 256 columns in turn; sums of blocks go
 * through shared memory and are added in double, first to last.
 *
 * Cost per weight with weights h, in instructions of one lane (counted in SASS of sm_90, see lab/README.md): a trial by
 * fit 6 (fma, min, sub, mul, fma, fma), a trial by error 7; at 4 bits, groups of 128, 16 trials.
 *
 * Must not change: the order of every sum and every float expression (quant_search.h; -fmad=false, IEEE division and
 * square root). Statistics are summed in an order that depends on the shape alone.
 */
#include "backend/quant_search.h"
#include "device.cuh"
#include "load4.cuh"
#include "quant_kernels.h"

enum {
    TEAM = 8,
    TRIALS = 8,    /* of a pass over a group */
    WARP_ROWS = 4, /* teams of a warp */
    STRIPE = 128,  /* columns of a tile, unless a group is longer */
    MOST_COLS = FLRQ_QUANTIZE_SHORT,
    MOST_WORDS = 320, /* of a row of a tile in shared memory */
    RANKS = 32,       /* of the factors staged at a time */
    MOST_WARPS = 8,
    SHARED_BYTES = 47 << 10, /* of dynamic shared memory: what every device grants without being asked */
    ROW_TILES = 2,           /* of a block of threads, so that h and factors are staged once for several rows */
    LONG_THREADS = 256,
    PANEL = 64,                 /* blocks of a long group whose sums wait in shared memory */
    CHUNK = 128,                /* columns that a team stages at a time */
    CHUNK_LANE = CHUNK / 8 + 4, /* words of a lane's columns, padded against bank conflicts */
    CHUNK_WORDS = TEAM * CHUNK_LANE + 4,
    GRID_MOST = 65535
};

enum search_kind { BY_FITS, BY_ERRORS, BY_ERRORS_CUT };

/* What a kernel gets: the job, the search and, for short groups, the geometry of a tile in shared memory. */
struct quantize_args {
    flrq_quantize_job job;
    quant_plan plan;
    quant_levels levels;
    int32_t variants, signs, count; /* of fits; signs of scales and number of candidates of a search by errors */
    int32_t warps;                  /* of a block of threads */
    int32_t tile_groups, tile_cols;
    int32_t lane_words;  /* words between the columns of one lane and those of the next: a multiple of 4 */
    int32_t fours;       /* columns of a lane over 4 */
    int32_t group_words; /* TEAM * lane_words */
    int32_t row_words;   /* tile_groups * group_words */
    int32_t code_bytes;  /* between rows of codes in shared memory */
    bool wide, wide_code, wide_h;
};

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

/* Range, and partial sums of h w^2 and of h. */
struct measures {
    float least, most, norm[2], mass[2];
};

__device__ __forceinline__ static void measure_columns(measures &m, const float4 *w, const float4 *h, int fours) {
    for (int k = 0; k < fours; k++) {
        const float4 w4 = w[k], h4 = h[k];
        m.least = fminf(fminf(m.least, fminf(w4.x, w4.y)), fminf(w4.z, w4.w));
        m.most = fmaxf(fmaxf(m.most, fmaxf(w4.x, w4.y)), fmaxf(w4.z, w4.w));
        m.norm[0] = fmaf(h4.x * w4.x, w4.x, m.norm[0]);
        m.norm[1] = fmaf(h4.y * w4.y, w4.y, m.norm[1]);
        m.norm[0] = fmaf(h4.z * w4.z, w4.z, m.norm[0]);
        m.norm[1] = fmaf(h4.w * w4.w, w4.w, m.norm[1]);
        m.mass[0] += h4.x;
        m.mass[1] += h4.y;
        m.mass[0] += h4.z;
        m.mass[1] += h4.w;
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
    const float second = quant_second_step(&a.plan, step, first.trial), centre = first.c / first.b;
    best_fit last = {0, 0, 0, 0};
    if (a.plan.second == 4) {
        const float inv = quant_second_inv(&a.plan, centre, second, team_lane() / 2);
        keep_best_fit<4>(last, group.template fit<4>(inv, above, below), 0);
    } else {
        const float inv = quant_second_inv(&a.plan, centre, second, team_lane());
        keep_best_fit<8>(last, group.template fit<8>(inv, above, below), 0);
    }
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

__device__ static void add_part(tally &t, const flrq_quantize_part &part) {
    t.error += part.error;
    t.norm += part.norm;
    t.ratios += part.ratios;
    t.clipped += part.clipped;
    t.zero_groups += part.zero_groups;
}

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

__device__ static void write_part(flrq_quantize_part *parts, const tally &t, int64_t at) {
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

/* ---- short groups ----------------------------------------------------------------------------------------------- */

/* The quotient of two fp32 numbers, rounded to double and then to fp32. Where it is normal that is the fp32 quotient:
 * 53 bits are more than twice 24 plus one. */
__device__ __forceinline__ static float quotient(float a, float b) {
    const float q = a / b;
    return q > 0x1p-120f || q == 0 ? q : (float)((double)a / (double)b);
}

/* One group, in shared memory; w and h point at the columns of this lane. */
struct short_group {
    typedef float sum;
    const float4 *w, *h;
    int fours;

    template <int N> __device__ __forceinline__ fit_sums fit(float inv, float above, float below) const {
        float b[N] = {}, c[N] = {}, all[N];
        FLRQ_UNROLL
        for (int n = 0; n < N; n++) all[n] = of_lane(inv, n * TEAM / N);
        fit_columns<N>(b, c, all, w, h, fours, above, below);
        fit_sums sums = {fold<N>(b), fold<N>(c)};
        return sums;
    }

    template <int N, bool CUT> __device__ __forceinline__ float error(const trials<N> &t) const {
        float even[N] = {}, odd[N] = {};
        error_columns<N, CUT>(even, odd, t, w, h, fours);
        return fold_error<N>(even, odd);
    }
};

/* Dynamic shared memory of quantize_tiles. */
struct tile_space {
    float *w;        /* [warps * WARP_ROWS, row_words + 4]; the last words of a row take what belongs nowhere */
    float *h;        /* [row_words] */
    float *l, *r;    /* [warps, RANKS, WARP_ROWS], [RANKS, STRIPE] */
    uint16_t *place; /* [MOST_COLS] where a column of the tile lies in a row */
    uint8_t *code;   /* [warps * WARP_ROWS, code_bytes] */
};

__host__ __device__ static int tile_shared_words(const quantize_args &a) {
    const int rows = a.warps * WARP_ROWS;
    return rows * (a.row_words + 4) + a.row_words +
           (a.job.a.rank > 0 ? a.warps * RANKS * WARP_ROWS + RANKS * STRIPE : 0) + MOST_COLS / 2 +
           rows * a.code_bytes / 4;
}

__device__ static tile_space tile_space_at(float *memory, const quantize_args &a) {
    const int rows = a.warps * WARP_ROWS;
    tile_space s;
    s.w = memory;
    s.h = s.w + rows * (a.row_words + 4);
    s.l = s.h + a.row_words;
    s.r = s.l + (a.job.a.rank > 0 ? a.warps * RANKS * WARP_ROWS : 0);
    float *rest = s.r + (a.job.a.rank > 0 ? RANKS * STRIPE : 0);
    s.place = reinterpret_cast<uint16_t *>(rest);
    s.code = reinterpret_cast<uint8_t *>(rest + MOST_COLS / 2);
    return s;
}

/* Zeros where no column is, places of columns, h. Ends with a barrier. */
__device__ static void tile_begin(const tile_space &s, const quantize_args &a, int64_t col0) {
    const int threads = (int)blockDim.x, rows = a.warps * WARP_ROWS;
    const int64_t left = a.job.a.cols - col0;
    for (int k = (int)threadIdx.x; k < rows * (a.row_words + 4) + a.row_words; k += threads) s.w[k] = 0;
    __syncthreads();
    for (int k = (int)threadIdx.x; k < MOST_COLS; k += threads) {
        const int index = k / (int)a.job.group, j = k % (int)a.job.group;
        const bool there = k < a.tile_cols && k < left;
        const int place = there ? index * a.group_words + j % TEAM * a.lane_words + j / TEAM : a.row_words;
        s.place[k] = (uint16_t)place;
        if (there) s.h[place] = a.job.h ? a.job.h[col0 + k] : 1.0f;
    }
    __syncthreads();
}

/* x[i][k] += sign * (L R) of rows row0 + i and the 4 columns of this lane from col0 on. All threads of the block call.
 * R is staged anew unless `staged`. */
__device__ static void add_low_rank(float (&x)[WARP_ROWS][4], const tile_space &s, const flrq_view &v, int64_t row0,
                                    int64_t col0, bool staged) {
    const int lane = (int)threadIdx.x % 32, threads = (int)blockDim.x;
    float4 *l = reinterpret_cast<float4 *>(s.l) + (int)threadIdx.x / 32 * RANKS;
    float sum[WARP_ROWS][4] = {};
    for (int64_t k0 = 0; k0 < v.rank; k0 += RANKS) {
        const int ranks = v.rank - k0 < RANKS ? (int)(v.rank - k0) : (int)RANKS;
        if (!staged) {
            __syncthreads(); /* the ranks before are read */
            for (int at = (int)threadIdx.x; at < ranks * STRIPE; at += threads) {
                const int64_t col = col0 + at % STRIPE;
                s.r[at] = col < v.cols ? v.r[(k0 + at / STRIPE) * v.cols + col] : 0.0f;
            }
            __syncthreads();
        }
        float of_row[WARP_ROWS];
        FLRQ_UNROLL
        for (int i = 0; i < WARP_ROWS; i++)
            of_row[i] = lane < ranks && row0 + i < v.rows ? v.l[(row0 + i) * v.rank + k0 + lane] : 0.0f;
        __syncwarp();
        l[lane] = make_float4(of_row[0], of_row[1], of_row[2], of_row[3]);
        __syncwarp();
        for (int k = 0; k < ranks; k++) {
            const float4 l4 = l[k], r4 = *reinterpret_cast<const float4 *>(s.r + k * STRIPE + 4 * lane);
            const float rows[WARP_ROWS] = {l4.x, l4.y, l4.z, l4.w};
            FLRQ_UNROLL
            for (int i = 0; i < WARP_ROWS; i++) {
                sum[i][0] = fmaf(rows[i], r4.x, sum[i][0]);
                sum[i][1] = fmaf(rows[i], r4.y, sum[i][1]);
                sum[i][2] = fmaf(rows[i], r4.z, sum[i][2]);
                sum[i][3] = fmaf(rows[i], r4.w, sum[i][3]);
            }
        }
    }
    FLRQ_UNROLL
    for (int i = 0; i < WARP_ROWS; i++) FLRQ_UNROLL
    for (int k = 0; k < 4; k++) x[i][k] = fmaf(v.lr_sign, sum[i][k], x[i][k]);
}

/* Forms the residual of four rows of the tile in shared memory: 4 columns a lane at a time. */
__device__ static void tile_load(const tile_space &s, const quantize_args &a, int64_t row0, int64_t col0, bool staged) {
    const flrq_view &v = a.job.a;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t tile_end = col0 + a.tile_cols, end = tile_end < v.cols ? tile_end : v.cols;
    for (int stripe = 0; stripe < a.tile_cols; stripe += STRIPE) {
        const int64_t col = col0 + stripe + 4 * lane;
        float x[WARP_ROWS][4];
        FLRQ_UNROLL
        for (int i = 0; i < WARP_ROWS; i++)
            flrq_load_base4(x[i], v, row0 + i, col, row0 + i < v.rows ? end : 0, a.wide);
        if (v.rank > 0) add_low_rank(x, s, v, row0, col0 + stripe, staged);
        if (col >= end) continue;
        const uint2 places = *reinterpret_cast<const uint2 *>(s.place + stripe + 4 * lane);
        const int place[4] = {(int)(places.x & 0xffffu), (int)(places.x >> 16), (int)(places.y & 0xffffu),
                              (int)(places.y >> 16)};
        float *w = s.w + warp * WARP_ROWS * (a.row_words + 4);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) {
            const float scale = v.col_scale && col + k < end ? v.col_scale[col + k] : 1.0f;
            FLRQ_UNROLL
            for (int i = 0; i < WARP_ROWS; i++) w[i * (a.row_words + 4) + place[k]] = x[i][k] * scale;
        }
    }
}

/* Codes of the columns of this lane to shared memory; returns the number of weights beyond the range. */
template <bool CUT>
__device__ __forceinline__ static int encode_columns(uint8_t *code, const short_group &g, const quant_candidate &c,
                                                     int n) {
    trials<1> t;
    set_trial(t, 0, c);
    int beyond = 0;
    for (int k = 0; k < g.fours; k++) {
        const float4 w4 = g.w[k];
        const float w[4] = {w4.x, w4.y, w4.z, w4.w};
        FLRQ_UNROLL
        for (int i = 0; i < 4; i++) {
            const int j = (4 * k + i) * TEAM + team_lane();
            bool within;
            const float q = integer_of<CUT>(w[i], t.inv[0], t.down[0], t.up[0], t.lo[0], t.hi[0], &within);
            beyond += !within; /* padding is 0: within */
            if (j < n) code[j] = (uint8_t)__float_as_uint(q + c.zero);
        }
    }
    return beyond;
}

/* Four rows of codes from shared to global memory. */
__device__ static void store_codes(const quantize_args &a, const uint8_t *code, int64_t row0, int64_t col0, int cols) {
    const int lane = (int)threadIdx.x % 32;
    if (a.wide_code && cols % 16 == 0) {
        const int sixteens = cols / 16;
        for (int at = lane; at < WARP_ROWS * sixteens; at += 32) {
            const int64_t row = row0 + at / sixteens, col = at % sixteens * 16;
            if (row >= a.job.a.rows) break;
            *reinterpret_cast<uint4 *>(a.job.code + row * a.job.a.cols + col0 + col) =
                *reinterpret_cast<const uint4 *>(code + at / sixteens * a.code_bytes + col);
        }
        return;
    }
    for (int i = 0; i < WARP_ROWS && row0 + i < a.job.a.rows; i++)
        for (int k = lane; k < cols; k += 32)
            a.job.code[(row0 + i) * a.job.a.cols + col0 + k] = code[i * a.code_bytes + k];
}

/* quantize_tiles - clip search and quantization in groups of at most 256 columns
 *   in   a.job.a    any operand [rows, cols], read once; h [cols] or NULL
 *   out  a.job      code, scale, zero; parts (one for each block of threads) or NULL
 *   owns            block = 4 or 8 warps: the groups of a stripe of tile_cols columns, rows in tiles of 4 per warp;
 * grid (stripes, row tiles / ROW_TILES) cost            reads the operand once, writes a byte per weight and 4 or 5 per
 * group; instructions: see above numerics        quant_search.h; a group of zeros: scale 1; non-finite weights were
 * refused by the caller order           deterministic
 */
template <int KIND>
__global__ void __launch_bounds__(MOST_WARPS * 32, KIND == BY_FITS ? 3 : 2) quantize_tiles(const quantize_args a) {
    FLRQ_DYN_SMEM(float, memory);
    const tile_space s = tile_space_at(memory, a);
    const flrq_quantize_job &job = a.job;
    const int warp = (int)threadIdx.x / 32, team = (int)threadIdx.x % 32 / TEAM;
    const int64_t rows = job.a.rows, col0 = (int64_t)blockIdx.x * a.tile_cols, left = job.a.cols - col0;
    const int cols = left < a.tile_cols ? (int)left : a.tile_cols, group = (int)job.group;
    const float *w = s.w + (warp * WARP_ROWS + team) * (a.row_words + 4) + team_lane() * a.lane_words;
    const float *h = s.h + team_lane() * a.lane_words;
    uint8_t *codes = s.code + warp * WARP_ROWS * a.code_bytes;
    tally sums = {0, 0, 0, 0, 0};
    bool staged = false;
    tile_begin(s, a, col0);
    for (int64_t tile0 = (int64_t)blockIdx.y * a.warps * WARP_ROWS; tile0 < rows;
         tile0 += (int64_t)gridDim.y * a.warps * WARP_ROWS) {
        const int64_t row0 = tile0 + warp * WARP_ROWS, row = row0 + team;
        tile_load(s, a, row0, col0, staged);
        staged = job.a.rank <= RANKS && a.tile_cols <= STRIPE;
        if (row0 >= rows) continue;
        __syncwarp();
        for (int g = 0; g * group < cols; g++) {
            const int n = cols - g * group < group ? cols - g * group : group;
            const short_group here = {reinterpret_cast<const float4 *>(w + g * a.group_words),
                                      reinterpret_cast<const float4 *>(h + g * a.group_words), a.fours};
            measures m = {here.w->x, here.w->x, {0, 0}, {0, 0}};
            measure_columns(m, here.w, here.h, a.fours);
            float sum[2] = {m.norm[0] + m.norm[1], m.mass[0] + m.mass[1]};
            sum[0] = fold<2>(sum);
            const float norm = of_lane(sum[0], 0), mass = of_lane(sum[0], TEAM / 2);
            const quant_range r = quant_range_of(&a.levels, -team_max(-m.least), team_max(m.most));
            winner<float> best = search<KIND>(here, a, r, quotient(norm, mass));
            if (r.lo == r.hi) zero_group(best.c, a.levels);
            sums.clipped +=
                encode_columns<KIND == BY_ERRORS_CUT>(codes + team * a.code_bytes + g * group, here, best.c, n);
            if (team_lane() != 0 || row >= rows) continue;
            const int64_t cell = row * job.n_groups + (int64_t)blockIdx.x * a.tile_groups + g;
            job.scale[cell] = best.c.scale;
            if (job.zero) job.zero[cell] = (uint8_t)best.c.zero;
            if (job.parts) count_group(sums, r, best.c.scale, (double)best.error, (double)norm);
        }
        __syncwarp();
        store_codes(a, codes, row0, col0, cols);
        __syncwarp();
    }
    if (job.parts) write_part(job.parts, sums, (int64_t)blockIdx.y * gridDim.x + blockIdx.x);
}

/* ---- long groups ------------------------------------------------------------------------------------------------ */

/* Shared memory of quantize_long: sums of blocks, and of groups in double. */
struct long_space {
    float part[PANEL][2 * TRIALS];
    double total[2 * TRIALS];
    float range[2][LONG_THREADS / 32];
};

/* One group of any length, in global memory; all threads of the block work on it. */
struct long_group {
    typedef double sum;
    const quantize_args *a;
    long_space *space;
    float *w, *h; /* [CHUNK_WORDS] of this team */
    int64_t row, col0, n;

    /* Columns [j0, j0 + CHUNK) of the group to shared memory, lane by lane; 0 beyond the end. */
    __device__ void stage(int64_t j0) const {
        const flrq_view &v = a->job.a;
        const int64_t end = col0 + n;
        __syncwarp();
        FLRQ_UNROLL
        for (int k = 0; k < CHUNK / 4; k += TEAM) {
            const int at = 4 * (k + team_lane());
            const int64_t col = col0 + j0 + at;
            float x[4];
            flrq_load_base4(x, v, row, col, end, a->wide);
            float y[4] = {1, 1, 1, 1};
            if (a->job.h && a->wide_h && col + 4 <= end) {
                const float4 h4 = *reinterpret_cast<const float4 *>(a->job.h + col);
                y[0] = h4.x, y[1] = h4.y, y[2] = h4.z, y[3] = h4.w;
            } else if (a->job.h) {
                FLRQ_UNROLL
                for (int i = 0; i < 4; i++) y[i] = col + i < end ? a->job.h[col + i] : 0.0f;
            }
            FLRQ_UNROLL
            for (int i = 0; i < 4; i++) {
                const int place = (at + i) % TEAM * CHUNK_LANE + (at + i) / TEAM;
                w[place] = v.col_scale && col + i < end ? x[i] * v.col_scale[col + i] : x[i];
                h[place] = col + i < end ? y[i] : 0.0f;
            }
        }
        __syncwarp();
    }

    __device__ const float4 *lane_w() const { return reinterpret_cast<const float4 *>(w + team_lane() * CHUNK_LANE); }

    __device__ const float4 *lane_h() const { return reinterpret_cast<const float4 *>(h + team_lane() * CHUNK_LANE); }

    /* Adds `count` sums of the blocks of a panel, first to last. The threads that add keep *total from panel to panel.
     */
    __device__ void add_panel(double *total, int count, int blocks) const {
        __syncthreads();
        if ((int)threadIdx.x < count) {
            for (int k = 0; k < blocks; k++) *total += (double)space->part[k][threadIdx.x];
            space->total[threadIdx.x] = *total;
        }
        __syncthreads();
    }

    __device__ int64_t blocks() const { return (n + QUANT_BLOCK - 1) / QUANT_BLOCK; }

    /* Calls visit(block of the panel, its first column, whether it exists) for the blocks of this team, in step with
     * the other teams, and then add_panel(). */
    template <class Visit> __device__ __forceinline__ void each_block(int count, Visit visit) const {
        const int team = (int)threadIdx.x / TEAM, teams = (int)blockDim.x / TEAM;
        double total = 0;
        for (int64_t panel = 0; panel < blocks(); panel += PANEL) {
            const int here = blocks() - panel < PANEL ? (int)(blocks() - panel) : (int)PANEL;
            for (int k = team; k - team < here; k += teams) visit(k < here ? k : -1, (panel + k) * QUANT_BLOCK);
            add_panel(&total, count, here);
        }
    }

    template <int N> __device__ fit_sums fit(float inv, float above, float below) const {
        float all[N];
        FLRQ_UNROLL
        for (int i = 0; i < N; i++) all[i] = of_lane(inv, i * TEAM / N);
        const int trial = team_lane() * N / TEAM;
        each_block(2 * N, [&](int k, int64_t j0) {
            float b[N] = {}, c[N] = {};
            for (int j = 0; j < QUANT_BLOCK; j += CHUNK) {
                stage(j0 + j);
                fit_columns<N>(b, c, all, lane_w(), lane_h(), CHUNK / TEAM / 4, above, below);
            }
            const float sum_b = fold<N>(b), sum_c = fold<N>(c);
            if (k < 0) return;
            space->part[k][2 * trial] = sum_b;
            space->part[k][2 * trial + 1] = sum_c;
        });
        fit_sums sums = {(float)space->total[2 * trial], (float)space->total[2 * trial + 1]};
        return sums;
    }

    template <int N, bool CUT> __device__ double error(const trials<N> &t) const {
        const int trial = team_lane() * N / TEAM;
        each_block(N, [&](int k, int64_t j0) {
            float even[N] = {}, odd[N] = {};
            for (int j = 0; j < QUANT_BLOCK; j += CHUNK) {
                stage(j0 + j);
                error_columns<N, CUT>(even, odd, t, lane_w(), lane_h(), CHUNK / TEAM / 4);
            }
            const float sum = fold_error<N>(even, odd);
            if (k >= 0) space->part[k][trial] = sum;
        });
        return space->total[trial];
    }

    /* Range, sum of h w^2 and sum of h. */
    __device__ quant_range measure(double *norm, double *mass) const {
        measures all = {0, 0, {0, 0}, {0, 0}}; /* zeros do not change the range of either scheme */
        each_block(2, [&](int k, int64_t j0) {
            measures m = {0, 0, {0, 0}, {0, 0}};
            for (int j = 0; j < QUANT_BLOCK; j += CHUNK) {
                stage(j0 + j);
                measure_columns(m, lane_w(), lane_h(), CHUNK / TEAM / 4);
            }
            all.least = fminf(all.least, m.least);
            all.most = fmaxf(all.most, m.most);
            float sum[2] = {m.norm[0] + m.norm[1], m.mass[0] + m.mass[1]};
            const float mine = fold<2>(sum);
            if (k >= 0) space->part[k][team_lane() / 4] = mine;
        });
        *norm = space->total[0];
        *mass = space->total[1];
        const float least = flrq_warp_max(-all.least), most = flrq_warp_max(all.most);
        const int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
        if (threadIdx.x % 32 == 0) space->range[0][warp] = least, space->range[1][warp] = most;
        __syncthreads();
        float low = 0, high = 0;
        for (int k = 0; k < warps; k++) {
            low = fmaxf(low, space->range[0][k]);
            high = fmaxf(high, space->range[1][k]);
        }
        return quant_range_of(&a->levels, -low, high);
    }

    /* Writes the codes, 4 columns a thread; returns the number of weights of this thread beyond the range. */
    template <bool CUT> __device__ int encode(const quant_candidate &c) const {
        const flrq_view &v = a->job.a;
        trials<1> t;
        set_trial(t, 0, c);
        uint8_t *code = a->job.code + row * v.cols + col0;
        int beyond = 0;
        for (int64_t j = 4 * (int64_t)threadIdx.x; j < n; j += 4 * (int64_t)blockDim.x) {
            float x[4];
            uint32_t bytes = 0;
            flrq_load_base4(x, v, row, col0 + j, col0 + n, a->wide);
            FLRQ_UNROLL
            for (int i = 0; i < 4; i++) {
                if (v.col_scale && j + i < n) x[i] *= v.col_scale[col0 + j + i];
                bool within;
                const float q = integer_of<CUT>(x[i], t.inv[0], t.down[0], t.up[0], t.lo[0], t.hi[0], &within);
                beyond += !within;
                bytes |= (__float_as_uint(q + c.zero) & 0xffu) << 8 * i;
            }
            if (a->wide_code && j + 4 <= n) {
                *reinterpret_cast<uint32_t *>(code + j) = bytes;
                continue;
            }
            FLRQ_UNROLL
            for (int i = 0; i < 4; i++)
                if (j + i < n) code[j + i] = (uint8_t)(bytes >> 8 * i);
        }
        return beyond;
    }
};

/* quantize_long - clip search and quantization in groups of any length
 *   in   a.job.a    dense operand [rows, cols], with a column scale at most: read once in each pass (L2); h or NULL
 *   out  a.job      code, scale, zero; parts (one for each block of threads) or NULL
 *   owns            block = a group: its teams take blocks of 256 columns in turn; grid: rows * n_groups, at most
 *                   GRID_MOST, then in steps of the grid
 *   cost            passes: range and norm, one for 8 trials, errors, codes
 *   numerics, order as above
 */
template <int KIND> __global__ void __launch_bounds__(LONG_THREADS, 2) quantize_long(const quantize_args a) {
    FLRQ_DYN_SMEM(float, memory);
    __shared__ long_space space;
    const flrq_quantize_job &job = a.job;
    const int64_t cells = job.a.rows * job.n_groups;
    tally sums = {0, 0, 0, 0, 0};
    for (int64_t cell = blockIdx.x; cell < cells; cell += gridDim.x) {
        const int64_t row = cell / job.n_groups, col0 = cell % job.n_groups * job.group;
        const int64_t left = job.a.cols - col0, n = left < job.group ? left : job.group;
        float *staged = memory + (int)threadIdx.x / TEAM * 2 * CHUNK_WORDS;
        long_group here = {&a, &space, staged, staged + CHUNK_WORDS, row, col0, n};
        double norm, mass;
        const quant_range r = here.measure(&norm, &mass);
        winner<double> best = search<KIND>(here, a, r, (float)(norm / mass));
        if (r.lo == r.hi) zero_group(best.c, a.levels);
        sums.clipped += here.encode<KIND == BY_ERRORS_CUT>(best.c);
        if (threadIdx.x != 0) continue;
        job.scale[cell] = best.c.scale;
        if (job.zero) job.zero[cell] = (uint8_t)best.c.zero;
        if (job.parts) count_group(sums, r, best.c.scale, best.error, norm);
    }
    if (job.parts) write_part(job.parts, sums, (int64_t)blockIdx.x);
}

/* Adds all parts to *sum, by one block. */
__global__ void __launch_bounds__(256)
    quantize_sum(flrq_quantize_part *sum, const flrq_quantize_part *parts, int64_t count) {
    tally t = {0, 0, 0, 0, 0};
    if (threadIdx.x == 0) add_part(t, *sum);
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) add_part(t, parts[i]);
    write_part(sum, t, 0);
}

/* ---- launchers -------------------------------------------------------------------------------------------------- */

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static quantize_args args_of(const flrq_quantize_job *job) {
    quantize_args a;
    memset(&a, 0, sizeof a);
    a.job = *job;
    const bool cut = job->clip.mode == FLRQ_CLIP_ZERO;
    a.plan = quant_plan_of(job->scheme.bits, job->group, cut);
    a.levels = quant_levels_of(&job->scheme);
    a.variants = quant_variants(&job->scheme, &job->clip);
    a.signs = quant_signed(&job->scheme, &job->clip) ? 2 : 1;
    const int ratios = job->clip.search == FLRQ_CLIP_NONE   ? 0
                       : job->clip.search == FLRQ_CLIP_GRID ? job->clip.steps
                                                            : a.plan.first;
    a.count = 1 + ratios * a.signs;
    a.wide = flrq_view_wide(&job->a) && job->group % 4 == 0;
    a.wide_h = (uintptr_t)job->h % 16 == 0 && job->group % 4 == 0;
    if (job->group > FLRQ_QUANTIZE_SHORT) {
        a.wide_code = a.wide && (uintptr_t)job->code % 4 == 0;
        return a;
    }
    a.wide_code = job->a.cols % 16 == 0 && (uintptr_t)job->code % 16 == 0;
    const int group = (int)job->group, fours = (group + 4 * TEAM - 1) / (4 * TEAM);
    a.fours = fours;
    a.lane_words =
        4 * (fours % 2 ? fours : fours + 1); /* an odd number of 16 bytes: loads of a team meet no bank twice */
    a.group_words = TEAM * a.lane_words;
    const int by_cols = STRIPE / group, by_words = MOST_WORDS / a.group_words;
    a.tile_groups = by_cols < 1 ? 1 : by_cols < by_words ? by_cols : by_words;
    a.tile_cols = a.tile_groups * group;
    a.row_words = a.tile_groups * a.group_words;
    a.code_bytes = (a.tile_cols + 15) / 16 * 16 + 16; /* rows of a warp in different banks */
    if (a.tile_cols % 16 != 0) a.wide_code = false;
    a.warps = MOST_WARPS;
    if (tile_shared_words(a) > SHARED_BYTES / 4) a.warps /= 2;
    return a;
}

/* Blocks of threads of a job: a function of shapes alone. */
static dim3 grid_of(const quantize_args *a) {
    const flrq_quantize_job *job = &a->job;
    if (job->group > FLRQ_QUANTIZE_SHORT) {
        const int64_t cells = job->a.rows * job->n_groups;
        return dim3((unsigned)(cells < GRID_MOST ? cells : GRID_MOST));
    }
    const int64_t row_tiles = ceil_div(job->a.rows, a->warps * WARP_ROWS), down = ceil_div(row_tiles, ROW_TILES);
    return dim3((unsigned)ceil_div(job->n_groups, a->tile_groups), (unsigned)(down < GRID_MOST ? down : GRID_MOST));
}

int64_t flrq_quantize_parts(const flrq_quantize_job *job) {
    const quantize_args a = args_of(job);
    const dim3 grid = grid_of(&a);
    return (int64_t)grid.x * grid.y;
}

template <int KIND> static cudaError_t launch(const quantize_args &a, cudaStream_t stream) {
    const flrq_quantize_job &job = a.job;
    const dim3 grid = grid_of(&a);
    if (job.group > FLRQ_QUANTIZE_SHORT) {
        const int64_t threads = ceil_div(job.group, QUANT_BLOCK) * TEAM;
        const int block = threads >= LONG_THREADS ? LONG_THREADS : (int)ceil_div(threads, 64) * 64;
        const size_t bytes = (size_t)block / TEAM * 2 * CHUNK_WORDS * sizeof(float);
        FLRQ_LAUNCH((quantize_long<KIND>), grid, block, bytes, stream, a);
    } else {
        const size_t bytes = (size_t)tile_shared_words(a) * sizeof(float);
        FLRQ_LAUNCH((quantize_tiles<KIND>), grid, a.warps * 32, bytes, stream, a);
    }
    return cudaGetLastError();
}

cudaError_t flrq_launch_clip_quantize(const flrq_quantize_job *job, cudaStream_t stream) {
    const quantize_args a = args_of(job);
    if (job->group > FLRQ_QUANTIZE_SHORT && (job->a.code || job->a.rank > 0)) return cudaErrorInvalidValue;
    if (job->clip.mode == FLRQ_CLIP_ZERO) return launch<BY_ERRORS_CUT>(a, stream);
    if (job->clip.search == FLRQ_CLIP_FAST && a.plan.second > 0) return launch<BY_FITS>(a, stream);
    return launch<BY_ERRORS>(a, stream);
}

cudaError_t flrq_launch_quantize_sum(flrq_quantize_part *sum, const flrq_quantize_part *parts, int64_t count,
                                     cudaStream_t stream) {
    FLRQ_LAUNCH(quantize_sum, 1, 256, 0, stream, sum, parts, count);
    return cudaGetLastError();
}
