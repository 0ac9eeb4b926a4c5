/* quant_long.cu - clip search and quantization in groups of more than QUANT_BLOCK columns, rows per channel among them.
 *
 * A block of threads owns a group; its teams take blocks of 256 columns in turn, staged in shared memory in halves.
 * Sums of blocks go through shared memory and are added in double, first to last, as quant_search.h wants. A group is
 * read once in every pass (range; 8 trials; errors; codes), from the L2 cache after the first: so the operand must be
 * dense, with a column scale at most.
 *
 * Cost per weight: that of a short group (quant.cu), and about 4 instructions for staging in every pass.
 */
#include "quant_team.cuh"

enum {
    LONG_THREADS = 192,
    GRID_MOST = 65535,
    PANEL = 72,                 /* blocks of a group whose sums wait in shared memory: three for each team */
    CHUNK = 128,                /* columns that a team stages at a time */
    CHUNK_LANE = CHUNK / 8 + 4, /* words of a lane's columns, padded against bank conflicts */
    CHUNK_FOURS = CHUNK / TEAM / 4,
    CHUNK_WORDS = TEAM * CHUNK_LANE + 4
};

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
        const float *all_h = a->job.h;
        const int64_t first = col0 + j0, end = col0 + n;
        __syncwarp();
        if (a->wide && a->wide_h && first + CHUNK <= end) {
            FLRQ_UNROLL
            for (int k = 0; k < CHUNK / 4; k += TEAM) {
                const int at = 4 * (k + team_lane());
                float x[4];
                flrq_load_dense4(x, v, row * v.ld + first + at);
                float4 y = make_float4(1, 1, 1, 1);
                if (all_h) y = *reinterpret_cast<const float4 *>(all_h + first + at);
                const float hs[4] = {y.x, y.y, y.z, y.w};
                FLRQ_UNROLL
                for (int i = 0; i < 4; i++) {
                    const int place = (at + i) % TEAM * CHUNK_LANE + (at + i) / TEAM;
                    w[place] = v.col_scale ? x[i] * v.col_scale[first + at + i] : x[i];
                    h[place] = hs[i];
                }
            }
        } else {
            for (int at = team_lane(); at < CHUNK; at += TEAM) {
                const int place = at % TEAM * CHUNK_LANE + at / TEAM;
                const int64_t col = first + at;
                const bool there = col < end;
                float x = there ? flrq_load_float(v.dense, v.dtype, row * v.ld + col) : 0.0f;
                if (there && v.col_scale) x *= v.col_scale[col];
                w[place] = x;
                h[place] = !there ? 0.0f : all_h ? all_h[col] : 1.0f;
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
                fit_columns<N>(b, c, all, lane_w(), lane_h(), CHUNK_FOURS, above, below);
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
                error_columns<N, CUT>(even, odd, t, lane_w(), lane_h(), CHUNK_FOURS);
            }
            const float sum = fold_error<N>(even, odd);
            if (k >= 0) space->part[k][trial] = sum;
        });
        return space->total[trial];
    }

    /* Range, sum of h w^2 and sum of h. */
    __device__ quant_range measure(double *norm, double *mass) const {
        measures all = {0, 0, {0, 0}}; /* zeros do not change the range of either scheme */
        each_block(2, [&](int k, int64_t j0) {
            all.norm[0] = all.norm[1] = 0;
            float mass_of[2] = {0, 0};
            for (int j = 0; j < QUANT_BLOCK; j += CHUNK) {
                stage(j0 + j);
                measure_columns<false>(all, lane_w(), lane_h(), CHUNK_FOURS);
                mass_columns(mass_of, lane_h(), CHUNK_FOURS);
            }
            float sum[2] = {all.norm[0] + all.norm[1], mass_of[0] + mass_of[1]};
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

    /* The code of dense element x in column col. */
    template <bool CUT>
    __device__ __forceinline__ uint32_t code_of(float x, int64_t col, const quant_candidate &c, int *beyond) const {
        if (a->job.a.col_scale) x *= a->job.a.col_scale[col];
        bool within;
        const float q = integer_of<CUT>(x, c.inv, QUANT_MAGIC + c.down, QUANT_MAGIC + c.up, c.lo, c.hi, &within);
        *beyond += !within;
        return __float_as_uint(q + c.zero) & 0xffu;
    }

    /* Writes the codes, 4 columns a thread; returns the number of weights of this thread beyond the range. */
    template <bool CUT> __device__ int encode(const quant_candidate &c) const {
        const flrq_view &v = a->job.a;
        uint8_t *code = a->job.code + row * v.cols + col0;
        int beyond = 0;
        for (int64_t j = 4 * (int64_t)threadIdx.x; j < n; j += 4 * (int64_t)blockDim.x) {
            if (a->wide_code) { /* four columns are there */
                float x[4];
                uint32_t bytes = 0;
                flrq_load_dense4(x, v, row * v.ld + col0 + j);
                FLRQ_UNROLL
                for (int i = 0; i < 4; i++) bytes |= code_of<CUT>(x[i], col0 + j + i, c, &beyond) << 8 * i;
                *reinterpret_cast<uint32_t *>(code + j) = bytes;
                continue;
            }
            for (int64_t i = j; i < j + 4 && i < n; i++) {
                const float x = flrq_load_float(v.dense, v.dtype, row * v.ld + col0 + i);
                code[i] = (uint8_t)code_of<CUT>(x, col0 + i, c, &beyond);
            }
        }
        return beyond;
    }
};

/* quantize_long - clip search and quantization in groups of any length
 *   in   a.job.a    dense operand [rows, cols], with a column scale at most: read once in each pass (L2); h [cols] fp32
 *                   or NULL
 *   out  a.job      code [rows, cols] uint8; scale [rows, n_groups] fp32, weight units a step; zero [rows, n_groups]
 *                   uint8 or NULL; parts (one for each block of threads) or NULL
 *   owns            block = a group: its teams take blocks of 256 columns in turn; grid: rows * n_groups, at most
 *                   GRID_MOST, then in steps of the grid
 *   needs           no codes and no low-rank part (launcher of quant.cu: cudaErrorInvalidValue); blockDim.x a multiple
 *                   of 64, at most LONG_THREADS, 2 * CHUNK_WORDS words of dynamic shared memory a team (launcher)
 *   cost            passes: range and norm, one for 8 trials, errors, codes
 *   numerics        quant_search.h: blocks of 256 in fp32, their sums in double; a group of zeros: scale 1; non-finite
 *                   weights were refused by the caller
 *   order           deterministic: blocks first to last, whatever team summed them
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

/* ---- launchers -------------------------------------------------------------------------------------------------- */

int64_t flrq_quantize_long_blocks(const flrq_quantize_job *job) {
    const int64_t cells = job->a.rows * job->n_groups;
    return cells < GRID_MOST ? cells : (int64_t)GRID_MOST;
}

template <int KIND> static void launch(const quantize_args &a, cudaStream_t stream) {
    const int64_t teams = (a.job.group + QUANT_BLOCK - 1) / QUANT_BLOCK, threads = (teams * TEAM + 63) / 64 * 64;
    const int block = threads < LONG_THREADS ? (int)threads : (int)LONG_THREADS;
    const size_t bytes = (size_t)block / TEAM * 2 * CHUNK_WORDS * sizeof(float);
    FLRQ_LAUNCH((quantize_long<KIND>), (unsigned)flrq_quantize_long_blocks(&a.job), block, bytes, stream, a);
}

cudaError_t flrq_launch_quantize_long(const quantize_args *args, search_kind kind, cudaStream_t stream) {
    if (kind == BY_FITS) launch<BY_FITS>(*args, stream);
    if (kind == BY_ERRORS) launch<BY_ERRORS>(*args, stream);
    if (kind == BY_ERRORS_CUT) launch<BY_ERRORS_CUT>(*args, stream);
    return cudaGetLastError();
}
