/* quant.cu - clip search and quantization: the bytes that host/backend/quant_search.h defines, on the GPU; groups of at
 * most QUANT_BLOCK columns, and the launcher of all.
 *
 * A block of threads owns a stripe of whole groups, about 128 columns wide, and walks down its rows, 4 for each warp at
 * a time. Weights are read once, 4 neighbours per lane; the residual (low-rank part from tiles of the factors in shared
 * memory) goes to shared memory in the order in which lanes read it back, 4 columns a load. A team of eight lanes
 * (quant_team.cuh) searches a group. Codes leave through shared memory too, 16 bytes a lane.
 *
 * Instructions per weight and lane, at 4 bits with h, groups of 128, dense bf16 (counted in SASS of sm_90, CUDA 13.0):
 *
 *                                   needed                                          issued
 *     trials                        16 x 6 (fma, min, sub, mul, fma, fma)           103.5
 *     range and norm                3 (max, mul, fma)                               5
 *     errors of the last two        14                                              15
 *     codes, count of the clipped   7 (fma, max, min, add, store; compare, add)     9
 *     scalars, folds, loop control  0                                               37
 *     load, store, start of a tile  2                                               9
 *     sum                           122                                             179
 *
 * At 2 and 3 bits 4 trials less: 26. A low-rank part: 1.25 per rank and about 12. Asymmetric: three times the first 8
 * trials. On an H100 (33.5e12 fp32 instructions per s, 3.0 TB/s) 4096 x 4096 at 4 bits have a floor of 61 us by
 * instructions, 17 us by bytes; what is issued takes 90 us. 2 blocks of 8 warps to a multiprocessor, at most 128
 * registers; the trials of a lane are 16 independent chains of fused multiply-adds. See lab/README.md for what lost.
 */
#include "quant_team.cuh"

enum {
    WARP_ROWS = 32 / TEAM, /* one for each team */
    STRIPE = 128,          /* columns of a tile, unless a group is longer */
    MOST_COLS = FLRQ_QUANTIZE_SHORT,
    MOST_WORDS = 320, /* of a row of a tile in shared memory */
    MOST_GROUPS = 12, /* of a tile: MOST_WORDS over the fewest words of a group, rounded up to a multiple of 4 */
    RANKS = 32,       /* of the factors staged at a time */
    MOST_WARPS = 8,
    SHARED_BYTES = 46 << 10,         /* of dynamic shared memory: the 48 KiB of every launch, less what is static */
    ROW_TILES = 2,                   /* of a block of threads, so that h and factors are staged once for several rows */
    USUAL_FOURS = STRIPE / TEAM / 4, /* of groups of 128, whose geometry the compiler is told */
    GRID_MOST = 65535,
    SUM_THREADS = 1024
};

/* A launch with more than 48 KiB, static and dynamic, is refused: quantize_tiles has a tally for each team,
 * write_part() 32 doubles and 32 counts. */
static_assert(SHARED_BYTES + MOST_WARPS * WARP_ROWS * sizeof(tally) + 64 * sizeof(double) <= 48 << 10,
              "static and dynamic shared memory");

/* The quotient of two fp32 numbers, rounded to double and then to fp32. Where it is normal that is the fp32 quotient:
 * 53 bits are more than twice 24 plus one. */
__device__ __forceinline__ static float quotient(float a, float b) {
    const float q = a / b;
    return q > 0x1p-120f || a == 0 ? q : (float)((double)a / (double)b);
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

/* ---- a tile in shared memory ------------------------------------------------------------------------------------ */

/* Dynamic shared memory of quantize_tiles. */
struct tile_space {
    float *w;        /* [warps * WARP_ROWS, row_words] */
    float *h;        /* [row_words] */
    float *mass;     /* [MOST_GROUPS] sums of h */
    float *l, *r;    /* [warps, RANKS, WARP_ROWS], [RANKS, STRIPE] */
    uint16_t *place; /* [MOST_COLS] where a column of the tile lies in a row */
    uint8_t *code;   /* [warps * WARP_ROWS, code_bytes] */
};

__host__ __device__ static int factor_words(const quantize_args &a) {
    return a.job.a.rank > 0 ? RANKS * STRIPE + a.warps * RANKS * WARP_ROWS : 0;
}

__host__ __device__ static int tile_words(const quantize_args &a) {
    const int rows = a.warps * WARP_ROWS;
    return rows * a.row_words + a.row_words + MOST_GROUPS + factor_words(a) + MOST_COLS / 2 + rows * a.code_bytes / 4;
}

__device__ static tile_space tile_space_at(float *memory, const quantize_args &a) {
    tile_space s;
    s.w = memory;
    s.h = s.w + a.warps * WARP_ROWS * a.row_words;
    s.mass = s.h + a.row_words;
    s.r = s.mass + MOST_GROUPS;
    s.l = s.r + RANKS * STRIPE;
    float *rest = s.r + factor_words(a);
    s.place = reinterpret_cast<uint16_t *>(rest);
    s.code = reinterpret_cast<uint8_t *>(rest + MOST_COLS / 2);
    return s;
}

/* Zeros where no column is, places of columns, h and its sums. Ends with a barrier. */
__device__ static void tile_begin(const tile_space &s, const quantize_args &a, int64_t col0) {
    const int thread = (int)threadIdx.x, threads = (int)blockDim.x, group = (int)a.job.group;
    const int64_t left = a.job.a.cols - col0;
    const int cols = left < a.tile_cols ? (int)left : a.tile_cols;
    if (cols < a.tile_groups * a.fours * 4 * TEAM) {
        for (int k = thread; k < a.warps * WARP_ROWS * a.row_words + a.row_words; k += threads) s.w[k] = 0;
        __syncthreads();
    }
    for (int k = thread; k < cols; k += threads) {
        const int index = a.tile_groups == 1 ? 0 : k / group, j = k - index * group;
        const int place = index * a.group_words + j % TEAM * a.lane_words + j / TEAM;
        s.place[k] = (uint16_t)place;
        s.h[place] = a.job.h ? a.job.h[col0 + k] : 1.0f;
    }
    __syncthreads();
    for (int g0 = 0; g0 < a.tile_groups; g0 += threads / TEAM) { /* every team a group, the last ones in vain */
        const int g = min(g0 + thread / TEAM, a.tile_groups - 1);
        const float *h = s.h + g * a.group_words + team_lane() * a.lane_words;
        float mass[2] = {0, 0};
        mass_columns(mass, reinterpret_cast<const float4 *>(h), a.fours);
        float sum[1] = {mass[0] + mass[1]};
        fold<1>(sum);
        if (team_lane() == 0 && g0 + thread / TEAM == g) s.mass[g] = sum[0];
    }
    __syncthreads();
}

/* Rows k0 .. k0 + ranks - 1 of R, columns col .. col + STRIPE - 1, to shared memory; 0 beyond the last column. */
__device__ static void stage_ranks(float *to, const quantize_args &a, int64_t k0, int ranks, int64_t col) {
    const flrq_view &v = a.job.a;
    const int thread = (int)threadIdx.x, threads = (int)blockDim.x;
    if (a.wide_r) {
        for (int at = 4 * thread; at < ranks * STRIPE; at += 4 * threads) {
            const int64_t j = col + at % STRIPE;
            float4 four = make_float4(0, 0, 0, 0);
            if (j < v.cols) four = *reinterpret_cast<const float4 *>(v.r + (k0 + at / STRIPE) * v.cols + j);
            *reinterpret_cast<float4 *>(to + at) = four;
        }
    } else {
        for (int at = thread; at < ranks * STRIPE; at += threads) {
            const int64_t j = col + at % STRIPE;
            to[at] = j < v.cols ? v.r[(k0 + at / STRIPE) * v.cols + j] : 0.0f;
        }
    }
}

/* Adds sign * L R to rows row0 .. of the tile, in shared memory from `w` on, and then scales columns: the 4 columns of
 * this lane from col0 + stripe on, which it has stored itself. All threads of the block call. R is staged anew unless
 * `staged`. */
__device__ static void tile_finish(float *w, const tile_space &s, const quantize_args &a, int64_t row0, int64_t col0,
                                   int stripe, bool staged) {
    const flrq_view &v = a.job.a;
    const int lane = (int)threadIdx.x % 32;
    float4 *l = reinterpret_cast<float4 *>(s.l) + (int)threadIdx.x / 32 * RANKS;
    float sum[WARP_ROWS][4] = {};
    for (int64_t k0 = 0; k0 < v.rank; k0 += RANKS) {
        const int ranks = v.rank - k0 < RANKS ? (int)(v.rank - k0) : (int)RANKS;
        if (!staged) {
            __syncthreads(); /* the ranks before are read */
            stage_ranks(s.r, a, k0, ranks, col0 + stripe);
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
    for (int k = 0; k < 4; k++) {
        const int j = stripe + 4 * lane + k;
        if (j >= a.tile_cols || col0 + j >= v.cols) continue;
        float *at = w + s.place[j];
        const float scale = v.col_scale ? v.col_scale[col0 + j] : 1.0f;
        FLRQ_UNROLL
        for (int i = 0; i < WARP_ROWS; i++, at += a.row_words) *at = fmaf(v.lr_sign, sum[i][k], *at) * scale;
    }
}

/* Forms the residual of the four rows of this warp, 4 columns a lane at a time. All threads of the block call. */
__device__ static void tile_load(const tile_space &s, const quantize_args &a, int64_t row0, int64_t col0, bool staged) {
    const flrq_view &v = a.job.a;
    const int lane = (int)threadIdx.x % 32, step = a.row_words;
    const int64_t tile_end = col0 + a.tile_cols, end = tile_end < v.cols ? tile_end : v.cols;
    float *w = s.w + (int)threadIdx.x / 32 * WARP_ROWS * step;
    for (int stripe = 0; stripe < a.tile_cols; stripe += STRIPE) {
        const int64_t col = col0 + stripe + 4 * lane;
        const uint16_t *place = s.place + stripe + 4 * lane;
        if (a.wide && v.dense && !v.code && col + 4 <= end && row0 + WARP_ROWS <= v.rows) {
            float x[WARP_ROWS][4];
            flrq_load_rows4(x, v, row0, col);
            const uint2 places = *reinterpret_cast<const uint2 *>(place);
            float *at[4] = {w + (places.x & 0xffffu), w + (places.x >> 16), w + (places.y & 0xffffu),
                            w + (places.y >> 16)};
            FLRQ_UNROLL
            for (int k = 0; k < 4; k++) {
                FLRQ_UNROLL
                for (int i = 0; i < WARP_ROWS; i++) at[k][i * step] = x[i][k];
            }
        } else {
            for (int k = 0; k < 4 && col + k < end; k++)
                for (int i = 0; i < WARP_ROWS; i++)
                    w[place[k] + i * step] = row0 + i < v.rows ? flrq_view_base(v, row0 + i, col + k) : 0.0f;
        }
        if (v.rank > 0 || v.col_scale) tile_finish(w, s, a, row0, col0, stripe, staged);
    }
}

/* ---- codes ------------------------------------------------------------------------------------------------------ */

template <bool CUT>
__device__ __forceinline__ static void encode(uint8_t *code, float w, const trials<1> &c, float zero, int *beyond) {
    bool within;
    const float q = integer_of<CUT>(w, c.inv[0], c.down[0], c.up[0], c.lo[0], c.hi[0], &within);
    *beyond += !within;
    *code = (uint8_t)__float_as_uint(q + zero);
}

/* Codes of the columns of this lane to shared memory, n columns in the group; returns the number of weights beyond the
 * range. */
template <bool CUT>
__device__ __forceinline__ static int encode_columns(uint8_t *code, const short_group &g, const quant_candidate &c,
                                                     int n) {
    const unsigned mine = (unsigned)(n + TEAM - 1 - team_lane()) / TEAM;
    trials<1> t;
    set_trial(t, 0, c);
    int beyond = 0;
    code += team_lane();
    for (unsigned k = 0; k < mine / 4; k++, code += 4 * TEAM) {
        const float4 w4 = g.w[k];
        encode<CUT>(code, w4.x, t, c.zero, &beyond);
        encode<CUT>(code + TEAM, w4.y, t, c.zero, &beyond);
        encode<CUT>(code + 2 * TEAM, w4.z, t, c.zero, &beyond);
        encode<CUT>(code + 3 * TEAM, w4.w, t, c.zero, &beyond);
    }
    const float *rest = reinterpret_cast<const float *>(g.w + mine / 4);
    for (unsigned k = 0; k < mine % 4; k++) encode<CUT>(code + k * TEAM, rest[k], t, c.zero, &beyond);
    return beyond;
}

/* Four rows of codes from shared to global memory. */
__device__ static void store_codes(const quantize_args &a, const uint8_t *code, int64_t row0, int64_t col0, int cols) {
    const int lane = (int)threadIdx.x % 32,
              rows = a.job.a.rows - row0 < WARP_ROWS ? (int)(a.job.a.rows - row0) : (int)WARP_ROWS;
    uint8_t *to = a.job.code + row0 * a.job.a.cols + col0;
    if (a.wide_code && cols == STRIPE) {
        const int row = lane / (STRIPE / 16), at = lane % (STRIPE / 16) * 16;
        if (row < rows)
            *reinterpret_cast<uint4 *>(to + row * a.job.a.cols + at) =
                *reinterpret_cast<const uint4 *>(code + row * a.code_bytes + at);
        return;
    }
    const int width = a.wide_code && cols % 16 == 0 ? 16 : 1, pieces = cols / width;
    for (int at = lane; at < rows * pieces; at += 32) {
        const int row = at / pieces, col = at % pieces * width;
        uint8_t *there = to + row * a.job.a.cols + col;
        const uint8_t *here = code + row * a.code_bytes + col;
        if (width == 16)
            *reinterpret_cast<uint4 *>(there) = *reinterpret_cast<const uint4 *>(here);
        else
            *there = *here;
    }
}

/* ---- kernels ---------------------------------------------------------------------------------------------------- */

/* quantize_tiles - clip search and quantization in groups of at most 256 columns
 *   in   a.job.a    any operand [rows, cols], read once; h [cols] fp32 or NULL
 *   out  a.job      code [rows, cols] uint8; scale [rows, n_groups] fp32, weight units a step; zero [rows, n_groups]
 *                   uint8 or NULL; parts (one for each block of threads) or NULL
 *   owns            block = 4 or 8 warps: the groups of a stripe of tile_cols columns, rows in tiles of 4 per warp;
 *                   grid (stripes, row tiles / ROW_TILES)
 *   needs           rows and cols below 2^31, arguments of op_check_quantize() (caller); group <= 256, geometry and
 *                   alignment of args_of(), tile_words() words of dynamic shared memory; USUAL: one group a tile, of
 *                   USUAL_FOURS (launcher)
 *   cost            reads the operand once, writes a byte per weight and 4 or 5 per group; instructions: see above
 *   numerics        quant_search.h; a group of zeros: scale 1; non-finite weights were refused by the caller
 *   order           deterministic: that of quant_search.h in a group, of the geometry in parts
 */
template <int KIND, bool USUAL>
__global__ void __launch_bounds__(MOST_WARPS * 32, 2) quantize_tiles(const quantize_args args) {
    FLRQ_DYN_SMEM(float, memory);
    quantize_args a = args;
    if (USUAL) {
        a.tile_groups = 1;
        a.fours = USUAL_FOURS;
        a.lane_words = USUAL_FOURS * 4 + 4;
        a.group_words = a.row_words = TEAM * a.lane_words;
    }
    const tile_space s = tile_space_at(memory, a);
    const flrq_quantize_job &job = a.job;
    const int warp = (int)threadIdx.x / 32, team = (int)threadIdx.x % 32 / TEAM;
    /* rows and columns are below 2^31: 32 bits save registers, and none of these sums passes 2^32 */
    const uint32_t rows = (uint32_t)job.a.rows, col0 = blockIdx.x * (uint32_t)a.tile_cols;
    const int cols = (int)min((uint32_t)job.a.cols - col0, (uint32_t)a.tile_cols), group = (int)job.group;
    const float *w = s.w + (warp * WARP_ROWS + team) * a.row_words + team_lane() * a.lane_words;
    const float *h = s.h + team_lane() * a.lane_words;
    uint8_t *codes = s.code + warp * WARP_ROWS * a.code_bytes;
    __shared__ tally sums[MOST_WARPS * WARP_ROWS]; /* of teams */
    tally &mine = sums[(int)threadIdx.x / TEAM];
    int beyond = 0;
    bool staged = false;
    if (team_lane() == 0) mine = tally();
    tile_begin(s, a, col0);
    const uint32_t tile_rows = (uint32_t)(a.warps * WARP_ROWS);
    for (uint32_t tile0 = blockIdx.y * tile_rows; tile0 < rows; tile0 += gridDim.y * tile_rows) {
        const uint32_t row0 = tile0 + warp * WARP_ROWS, row = row0 + team;
        tile_load(s, a, row0, col0, staged);
        staged = job.a.rank <= RANKS && a.tile_cols <= STRIPE;
        if (row0 >= rows) continue;
        __syncwarp();
        for (int g = 0; g * group < cols; g++) {
            const int n = cols - g * group < group ? cols - g * group : group;
            const short_group here = {reinterpret_cast<const float4 *>(w + g * a.group_words),
                                      reinterpret_cast<const float4 *>(h + g * a.group_words), a.fours};
            measures m = {0, 0, {0, 0}}; /* zeros do not change the range of either scheme */
            if (a.levels.symmetric)
                measure_columns<true>(m, here.w, here.h, a.fours);
            else
                measure_columns<false>(m, here.w, here.h, a.fours);
            float norm[1] = {m.norm[0] + m.norm[1]};
            fold<1>(norm);
            const float least = a.levels.symmetric ? 0.0f : -team_max(-m.least);
            const quant_range r = quant_range_of(&a.levels, least, team_max(m.most));
            winner<float> best = search<KIND>(here, a, r, quotient(norm[0], s.mass[g]));
            if (r.lo == r.hi) zero_group(best.c, a.levels);
            uint8_t *to = codes + team * a.code_bytes + g * group;
            beyond += encode_columns<KIND == BY_ERRORS_CUT>(to, here, best.c, n);
            if (team_lane() != 0 || row >= rows) continue;
            const int64_t cell = (int64_t)row * job.n_groups + (int64_t)blockIdx.x * a.tile_groups + g;
            job.scale[cell] = best.c.scale;
            if (job.zero) job.zero[cell] = (uint8_t)best.c.zero;
            if (job.parts) count_group(mine, r, best.c.scale, (double)best.error, (double)norm[0]);
        }
        __syncwarp();
        store_codes(a, codes, row0, col0, cols);
        __syncwarp();
    }
    if (!job.parts) return;
    tally total = tally();
    if (team_lane() == 0) total = mine;
    total.clipped = beyond;
    write_part(job.parts, total, (int64_t)blockIdx.y * gridDim.x + blockIdx.x);
}

__device__ static void add_part(tally &t, const flrq_quantize_part &part) {
    t.error += part.error;
    t.norm += part.norm;
    t.ratios += part.ratios;
    t.clipped += part.clipped;
    t.zero_groups += part.zero_groups;
}

/* quantize_sum - adds the statistics of all blocks of threads
 *   in   parts      [count]
 *   out  sum        [1], added to what is there
 *   owns            one block: a thread every 1024th part
 *   needs           sum outside parts; launched after the kernel that writes parts, on its stream
 *   cost            40 bytes a part; bound by latency
 *   numerics        errors, norms and ratios in double, counts in 64-bit integers
 *   order           deterministic: the parts of a thread, then a butterfly over the lanes, then over the warps
 */
__global__ void __launch_bounds__(SUM_THREADS)
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
    a.wide_h = flrq_aligned(job->h, 16) && job->group % 4 == 0;
    if (job->group > FLRQ_QUANTIZE_SHORT) {
        a.wide_code = a.wide && flrq_aligned(job->code, 4);
        return a;
    }
    a.wide_code = job->a.cols % 16 == 0 && flrq_aligned(job->code, 16);
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
    a.wide_r = a.tile_cols % 4 == 0 && job->a.cols % 4 == 0 && flrq_aligned(job->a.r, 16);
    a.warps = MOST_WARPS;
    if (tile_words(a) > SHARED_BYTES / 4) a.warps /= 2;
    return a;
}

/* Blocks of threads of a job with short groups: a function of shapes alone. */
static dim3 grid_of(const quantize_args &a) {
    const int64_t row_tiles = ceil_div(a.job.a.rows, a.warps * WARP_ROWS), down = ceil_div(row_tiles, ROW_TILES);
    return dim3((unsigned)ceil_div(a.job.n_groups, a.tile_groups),
                down < GRID_MOST ? (unsigned)down : (unsigned)GRID_MOST);
}

int64_t flrq_quantize_parts(const flrq_quantize_job *job) {
    if (job->group > FLRQ_QUANTIZE_SHORT) return flrq_quantize_long_blocks(job);
    const dim3 grid = grid_of(args_of(job));
    return (int64_t)grid.x * grid.y;
}

template <int KIND> static cudaError_t launch(const quantize_args &a, cudaStream_t stream) {
    const size_t bytes = (size_t)tile_words(a) * sizeof(float);
    if (KIND == BY_FITS && a.tile_groups == 1 && a.fours == USUAL_FOURS)
        FLRQ_LAUNCH((quantize_tiles<KIND, KIND == BY_FITS>), grid_of(a), a.warps * 32, bytes, stream, a);
    else
        FLRQ_LAUNCH((quantize_tiles<KIND, false>), grid_of(a), a.warps * 32, bytes, stream, a);
    return cudaGetLastError();
}

cudaError_t flrq_launch_clip_quantize(const flrq_quantize_job *job, cudaStream_t stream) {
    const quantize_args a = args_of(job);
    const search_kind kind = job->clip.mode == FLRQ_CLIP_ZERO                          ? BY_ERRORS_CUT
                             : job->clip.search == FLRQ_CLIP_FAST && a.plan.second > 0 ? BY_FITS
                                                                                       : BY_ERRORS;
    if (job->group > FLRQ_QUANTIZE_SHORT)
        return job->a.code || job->a.rank > 0 ? cudaErrorInvalidValue : flrq_launch_quantize_long(&a, kind, stream);
    if (kind == BY_FITS) return launch<BY_FITS>(a, stream);
    if (kind == BY_ERRORS) return launch<BY_ERRORS>(a, stream);
    return launch<BY_ERRORS_CUT>(a, stream);
}

cudaError_t flrq_launch_quantize_sum(flrq_quantize_part *sum, const flrq_quantize_part *parts, int64_t count,
                                     cudaStream_t stream) {
    FLRQ_LAUNCH(quantize_sum, 1, SUM_THREADS, 0, stream, sum, parts, count);
    return cudaGetLastError();
}
