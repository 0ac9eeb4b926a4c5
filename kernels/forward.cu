/* forward.cu - the block forward but for products: statistics, norms, rotary embedding, elementwise ops, losses.
 *
 * Everything here is bound by memory: the aim is 75 % of the device's copy bandwidth, and each kernel states the bytes
 * it cannot avoid. A thread moves 16 bytes at a time where base and length allow and single elements in the same order
 * where not, so that the alignment of a buffer never changes a bit of the result. No atomics; grids and the order of
 * every sum depend on the shape alone. Sums that grow long are taken in double, four fp32 terms at a time: fp64 is slow
 * on most devices and a quarter of the additions hides behind the bytes. In-place ops read and write an element in the
 * same thread.
 */
#include "device.cuh"
#include "forward_kernels.h"
#include "load4.cuh"

#include <limits.h>

enum { THREADS = 256 };

/* ---- four neighbours --------------------------------------------------------------------------------------------- */

/* x[at .. at + 3] of a row of `n`, `fill` beyond its end; `wide` is the launcher's promise that n is a multiple of four
 * and the row 16-byte aligned. */
__device__ static void load4(float out[4], const float *x, int64_t at, int64_t n, float fill, bool wide) {
    if (wide && at < n) {
        float4 v = *reinterpret_cast<const float4 *>(x + at);
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
        return;
    }
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) out[k] = at + k < n ? x[at + k] : fill;
}

__device__ static void store4(float *y, const float v[4], int64_t at, int64_t n, bool wide) {
    if (wide && at < n) {
        *reinterpret_cast<float4 *>(y + at) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++)
        if (at + k < n) y[at + k] = v[k];
}

static bool wide_rows(const void *x, int64_t n) {
    return n % 4 == 0 && flrq_aligned(x, 16);
}

/* ---- sums over the threads of a row ------------------------------------------------------------------------------ */

/* A row belongs to blockDim.x threads: a warp (then blockDim.y rows share a block) or a block. Result in all threads;
 * `shared` [32] may be passed again. */
__device__ static double row_sum(double value, double *shared) {
    value = flrq_warp_sum(value);
    if (blockDim.x == 32) return value;
    int lane = (int)threadIdx.x % 32;
    __syncthreads(); /* what an earlier call left has been read */
    if (lane == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    return flrq_warp_sum(lane < (int)blockDim.x / 32 ? shared[lane] : 0.0);
}

/* The same for the maximum, of a block. */
__device__ static float block_max(float value, float *shared) {
    value = flrq_warp_max(value);
    int lane = (int)threadIdx.x % 32;
    __syncthreads();
    if (lane == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    return flrq_warp_max(lane < (int)blockDim.x / 32 ? shared[lane] : -INFINITY);
}

/* ---- calibration statistics -------------------------------------------------------------------------------------- */

/*
 * abs_sum needs the mean of a token before its first element can be added, so x is read twice: once from memory and
 * once from L2. One launch does both for neighbouring tiles: its first blocks add up the columns of tile i - 1, which
 * the launch before has pulled into L2, while the others take the means of the tokens of tile i; 12 MiB a tile leaves
 * both in the L2 of data-centre devices. Memory and L2 work at once, so the floor is one read of x from memory:
 * 11 us for 2048 x 4096 on an H100; predicted 20 us, because four launches and the final sum cost two each.
 */
enum {
    SLICE = 128,
    STATS_COLUMNS = 128,
    STATS_WARPS = THREADS / 32,
    STATS_LOADS = 4, /* of 16 bytes under way in a thread: registers leave room for a third of the threads */
    STATS_TILE_BYTES = 12 << 20,
};

struct stats_step {
    double *parts;   /* [slices, 2, n] */
    double *inverse; /* [tokens], 1 / mean |x_t| or 0 */
    const float *x;
    int64_t tokens, n;
    int64_t mean_token, means;   /* tokens whose means are taken */
    int64_t first_slice, slices; /* slices whose columns are summed */
    int64_t column_blocks;
    bool wide;
};

__device__ static void invert_mean(const stats_step &s, int64_t token, double *shared) {
    const float *x = s.x + token * s.n;
    double sum = 0;
    for (int64_t j = 4 * (int64_t)threadIdx.x; j < s.n; j += STATS_LOADS * 4 * THREADS) {
        float v[STATS_LOADS][4];
        FLRQ_UNROLL
        for (int i = 0; i < STATS_LOADS; i++) load4(v[i], x, j + i * 4 * THREADS, s.n, 0.0f, s.wide);
        FLRQ_UNROLL
        for (int i = 0; i < STATS_LOADS; i++) {
            const float *a = v[i];
            sum += ((double)fabsf(a[0]) + (double)fabsf(a[1])) + ((double)fabsf(a[2]) + (double)fabsf(a[3]));
        }
    }
    sum = row_sum(sum, shared);
    if (threadIdx.x == 0) s.inverse[token] = sum != 0 ? (double)s.n / sum : 0;
}

__device__ static void sum_columns(const stats_step &s, int64_t slice, int64_t column0,
                                   double (*shared)[2][STATS_COLUMNS]) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int64_t j = column0 + 4 * lane, end = (slice + 1) * SLICE < s.tokens ? (slice + 1) * SLICE : s.tokens;
    double sum[2][4] = {};
    for (int64_t t = slice * SLICE + warp; t < end; t += STATS_LOADS * STATS_WARPS) {
        float v[STATS_LOADS][4];
        double inverse[STATS_LOADS];
        FLRQ_UNROLL
        for (int i = 0; i < STATS_LOADS; i++) {
            int64_t token = t + i * STATS_WARPS;
            inverse[i] = token < end ? s.inverse[token] : 0;
            load4(v[i], s.x + token * s.n, j, token < end ? s.n : 0, 0.0f, s.wide);
        }
        FLRQ_UNROLL
        for (int i = 0; i < STATS_LOADS; i++) {
            FLRQ_UNROLL
            for (int k = 0; k < 4; k++) {
                double x = (double)v[i][k];
                sum[0][k] = fma(fabs(x), inverse[i], sum[0][k]);
                sum[1][k] = fma(x, x, sum[1][k]);
            }
        }
    }
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) {
        shared[warp][0][4 * lane + k] = sum[0][k];
        shared[warp][1][4 * lane + k] = sum[1][k];
    }
    __syncthreads();
    int which = (int)threadIdx.x / STATS_COLUMNS, column = (int)threadIdx.x % STATS_COLUMNS;
    double total = 0;
    for (int w = 0; w < STATS_WARPS; w++) total += shared[w][which][column];
    if (column0 + column < s.n) s.parts[(slice * 2 + which) * s.n + column0 + column] = total;
}

/* stats_kernel - a step of the statistics: sums over the slices of one tile, means of the tokens of the next
 *   in    x        [tokens, n] fp32, row-major; inverse [tokens] fp64 of the tokens of its slices, from the step before
 *   out   parts    [slices, 2, n] fp64: sums over SLICE tokens of |x| / mean, then of x^2, for its slices; inverse
 *                  [tokens], 1 / mean |x_t|, for the tokens of the next tile
 *   owns           first slices * column_blocks blocks: 128 columns of a slice, a warp every eighth token; then `means`
 *                  blocks: a token each
 *   needs          x 16-byte aligned and n % 4 == 0 where `wide` (launcher); steps in order on one stream
 *   cost           an element: 4 bytes from memory for its mean, 4 from L2 for its column, 16 / SLICE written to parts;
 *                  5 fp64 instructions
 *   numerics       all in double; a token of zeros has inverse 0 and adds nothing; NaN spreads to what it enters
 *   order          deterministic; columns: the tokens of a warp, then the warps, first to last; means: the elements of
 *                  a thread, then butterflies over lanes and warps
 */
__global__ void __launch_bounds__(THREADS) stats_kernel(stats_step s) {
    __shared__ double shared[STATS_WARPS][2][STATS_COLUMNS];
    int64_t columns = s.slices * s.column_blocks, block = blockIdx.x;
    if (block < columns)
        sum_columns(s, s.first_slice + block / s.column_blocks, block % s.column_blocks * STATS_COLUMNS, shared);
    else
        invert_mean(s, s.mean_token + block - columns, &shared[0][0][0]);
}

/* add_slices_kernel - sums of slices added to the statistics of earlier batches
 *   in    parts    [slices, 2, n] fp64, complete
 *   out   abs_sum  [n] fp64, square_sum [n] fp64: += their sums over slices
 *   owns           a thread a column; grid ceil(n / 256)
 *   needs          outputs that do not overlap parts
 *   cost           16 bytes a column and slice, 32 a column; bound by memory or latency
 *   numerics       double; non-finite sums stay so
 *   order          deterministic: slices first to last, their sum onto the old value
 */
__global__ void __launch_bounds__(THREADS)
    add_slices_kernel(double *abs_sum, double *square_sum, const double *parts, int64_t slices, int64_t n) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= n) return;
    double a = 0, b = 0;
    for (int64_t i = 0; i < slices; i++) {
        a += parts[2 * i * n + j];
        b += parts[(2 * i + 1) * n + j];
    }
    abs_sum[j] += a;
    square_sum[j] += b;
}

int64_t flrq_input_stats_scratch(int64_t tokens, int64_t n) {
    return flrq_ceil_div(tokens, SLICE) * 2 * n + tokens;
}

cudaError_t flrq_launch_input_stats(double *abs_sum, double *square_sum, double *scratch, const float *x,
                                    int64_t tokens, int64_t n, cudaStream_t stream) {
    int64_t slices = flrq_ceil_div(tokens, SLICE), per_tile = STATS_TILE_BYTES / (SLICE * 4 * n);
    if (per_tile < 1) per_tile = 1;
    stats_step s = {};
    s.parts = scratch, s.inverse = scratch + slices * 2 * n, s.x = x, s.tokens = tokens, s.n = n;
    s.column_blocks = flrq_ceil_div(n, STATS_COLUMNS);
    s.wide = wide_rows(x, n);
    for (int64_t next = 0; s.first_slice + s.slices < slices; next += per_tile) {
        s.first_slice += s.slices; /* the tile whose means the last step took */
        s.slices = next < slices ? next : slices;
        s.slices -= s.first_slice;
        s.mean_token = next * SLICE < tokens ? next * SLICE : tokens;
        s.means = tokens - s.mean_token < per_tile * SLICE ? tokens - s.mean_token : per_tile * SLICE;
        FLRQ_LAUNCH(stats_kernel, (unsigned)(s.means + s.slices * s.column_blocks), THREADS, 0, stream, s);
    }
    FLRQ_LAUNCH(add_slices_kernel, (unsigned)flrq_ceil_div(n, THREADS), THREADS, 0, stream, abs_sum, square_sum,
                scratch, slices, n);
    return cudaGetLastError();
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

enum { HELD = 16 }; /* elements of a row that a thread of norm_kernel keeps in registers */

struct norm_args {
    float *y;
    const float *x, *weight, *bias;
    int64_t rows, n;
    double inverse_n;
    float eps;
    bool wide;
};

__device__ static double sum_of(const float v[4]) {
    return (double)((v[0] + v[1]) + (v[2] + v[3]));
}

__device__ static double squares_of(const float v[4]) {
    return (double)((v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]));
}

/* v - mean for the elements that exist. */
__device__ static void center4(float v[4], double mean, int64_t at, int64_t n) {
    float high = (float)mean, low = (float)(mean - (double)high);
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) v[k] = at + k < n ? v[k] - high - low : 0.0f;
}

__device__ static float norm_factor(const norm_args &a, double squares) {
    return 1.0f / sqrtf((float)(squares * a.inverse_n) + a.eps);
}

__device__ static void scale4(float v[4], const norm_args &a, float factor, int64_t at, bool layer) {
    float w[4] = {1.0f, 1.0f, 1.0f, 1.0f}, b[4];
    if (a.weight) load4(w, a.weight, at, a.n, 0.0f, a.wide);
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) v[k] = v[k] * factor * w[k];
    if (!layer || !a.bias) return;
    load4(b, a.bias, at, a.n, 0.0f, a.wide);
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) v[k] += b[k];
}

/* norm_kernel - rmsnorm, with LAYER layernorm, of rows of at most 16384 elements
 *   in    x        [rows, n] fp32, row-major; weight, bias [n] fp32 or NULL (bias: layernorm only)
 *   out   y        [rows, n] fp32, may be x
 *   owns           up to 512 columns a warp a row, 8 rows a block; beyond a block of 64 to 1024 threads a row; a thread
 *                  HELD elements, in registers
 *   needs          n <= HELD * blockDim.x, blockDim.x a power of two; all arrays 16-byte aligned and n % 4 == 0 where
 *                  `wide` (launcher)
 *   cost           8 bytes an element: x is read once; weight and bias from L2; bound by memory
 *   numerics       4 neighbours summed or squared in fp32, these sums added in double; the factor in fp32; the mean is
 *                  subtracted as two fp32 numbers, so that rows far from zero lose nothing. A row of zeros stays zero
 *                  (then bias) for eps > 0; NaN spreads over its row, Inf becomes NaN; |x| > 1.8e19 overflows its
 * square order          deterministic: a thread's elements, then a butterfly over the lanes, then over the warps
 */
template <bool LAYER> __global__ void __launch_bounds__(1024) norm_kernel(norm_args a) {
    __shared__ double shared[32];
    int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= a.rows) return; /* a whole warp, and only where rows are warps */
    const float *x = a.x + row * a.n;
    float *y = a.y + row * a.n;
    int64_t step = 4 * (int64_t)blockDim.x, first = 4 * (int64_t)threadIdx.x;
    float v[HELD / 4][4];
    FLRQ_UNROLL
    for (int i = 0; i < HELD / 4; i++) load4(v[i], x, first + i * step, a.n, 0.0f, a.wide);
    double sum = 0, squares = 0;
    if (LAYER) {
        FLRQ_UNROLL
        for (int i = 0; i < HELD / 4; i++) sum += sum_of(v[i]);
        double mean = row_sum(sum, shared) * a.inverse_n;
        FLRQ_UNROLL
        for (int i = 0; i < HELD / 4; i++) center4(v[i], mean, first + i * step, a.n);
    }
    FLRQ_UNROLL
    for (int i = 0; i < HELD / 4; i++) squares += squares_of(v[i]);
    float factor = norm_factor(a, row_sum(squares, shared));
    FLRQ_UNROLL
    for (int i = 0; i < HELD / 4; i++) {
        scale4(v[i], a, factor, first + i * step, LAYER);
        store4(y, v[i], first + i * step, a.n, a.wide);
    }
}

/* norm_long_kernel - the same for longer rows, which are read again for each sum
 *   in    x        [rows, n] fp32, row-major; weight, bias [n] fp32 or NULL (bias: layernorm only)
 *   out   y        [rows, n] fp32, may be x: an element is read last and written by the same thread
 *   owns           a block of 1024 threads a row, a thread 4 neighbours in every 4096; grid rows
 *   needs          all arrays 16-byte aligned and n % 4 == 0 where `wide` (launcher)
 *   cost           12 bytes an element, layernorm 16, of which L1 and L2 serve the second and third read of x
 *   numerics       as norm_kernel
 *   order          deterministic, as norm_kernel
 */
template <bool LAYER> __global__ void __launch_bounds__(1024) norm_long_kernel(norm_args a) {
    __shared__ double shared[32];
    const float *x = a.x + blockIdx.x * a.n;
    float *y = a.y + blockIdx.x * a.n, v[4];
    int64_t step = 4 * (int64_t)blockDim.x, first = 4 * (int64_t)threadIdx.x;
    double sum = 0, squares = 0, mean = 0;
    if (LAYER) {
        for (int64_t j = first; j < a.n; j += step) {
            load4(v, x, j, a.n, 0.0f, a.wide);
            sum += sum_of(v);
        }
        mean = row_sum(sum, shared) * a.inverse_n;
    }
    for (int64_t j = first; j < a.n; j += step) {
        load4(v, x, j, a.n, 0.0f, a.wide);
        if (LAYER) center4(v, mean, j, a.n);
        squares += squares_of(v);
    }
    float factor = norm_factor(a, row_sum(squares, shared));
    for (int64_t j = first; j < a.n; j += step) {
        load4(v, x, j, a.n, 0.0f, a.wide);
        if (LAYER) center4(v, mean, j, a.n);
        scale4(v, a, factor, j, LAYER);
        store4(y, v, j, a.n, a.wide);
    }
}

template <bool LAYER> static cudaError_t launch_norm(norm_args a, cudaStream_t stream) {
    a.inverse_n = 1.0 / (double)a.n;
    a.wide = wide_rows(a.x, a.n) && wide_rows(a.y, a.n) && (!a.weight || flrq_aligned(a.weight, 16)) &&
             (!a.bias || flrq_aligned(a.bias, 16));
    if (a.n <= 32 * HELD) {
        FLRQ_LAUNCH((norm_kernel<LAYER>), (unsigned)flrq_ceil_div(a.rows, 8), dim3(32, 8), 0, stream, a);
    } else if (a.n <= 1024 * HELD) {
        unsigned threads = 64;
        while (threads * HELD < a.n) threads *= 2;
        FLRQ_LAUNCH((norm_kernel<LAYER>), (unsigned)a.rows, threads, 0, stream, a);
    } else {
        FLRQ_LAUNCH((norm_long_kernel<LAYER>), (unsigned)a.rows, 1024, 0, stream, a);
    }
    return cudaGetLastError();
}

cudaError_t flrq_launch_rmsnorm(float *y, const float *x, const float *weight, int64_t rows, int64_t n, float eps,
                                cudaStream_t stream) {
    norm_args a = {y, x, weight, nullptr, rows, n, 0, eps, false};
    return launch_norm<false>(a, stream);
}

cudaError_t flrq_launch_layernorm(float *y, const float *x, const float *weight, const float *bias, int64_t rows,
                                  int64_t n, float eps, cudaStream_t stream) {
    norm_args a = {y, x, weight, bias, rows, n, 0, eps, false};
    return launch_norm<true>(a, stream);
}

/* ---- rotary embedding -------------------------------------------------------------------------------------------- */

struct rope_args {
    float *x;
    const float *inv_freq;
    int64_t tokens, position0;
    int half, heads;
    int width, tiles; /* pairs of a token in one block; blocks for all its pairs */
    float magnitude;
    bool wide;
};

/* rope_kernel - rotates the pairs (j, j + half) of every head by position * inv_freq[j]
 *   in    x        [tokens, heads, 2 * half] fp32, row-major; inv_freq [half] fp32, radians a position
 *   out   x        in place
 *   owns           a block up to 256 pairs (token, j): a thread the angle of one, then 4 neighbouring j of a head at a
 *                  time; grid ceil(tokens / (256 / width)) * tiles
 *   needs          head_dim even (caller); x 16-byte aligned and half % 4 == 0 where `wide` (launcher)
 *   cost           8 bytes an element; a sine and cosine in double for each token and pair, shared by the heads
 *   numerics       the angle in double, because a position of 2^17 in fp32 leaves seven bits of its fraction; sine and
 *                  cosine times magnitude rounded to fp32, products and sums in fp32; NaN and Inf stay in their pair
 *   order          deterministic: no sum is longer than two terms
 */
__global__ void __launch_bounds__(THREADS) rope_kernel(rope_args a) {
    __shared__ float cosine[THREADS], sine[THREADS];
    int per_block = THREADS / a.width, pair0 = (int)(blockIdx.x % a.tiles) * a.width;
    int64_t token0 = blockIdx.x / a.tiles * per_block;
    int pairs = a.half - pair0 < a.width ? a.half - pair0 : a.width;
    int tokens = a.tokens - token0 < per_block ? (int)(a.tokens - token0) : per_block;
    {
        int t = (int)threadIdx.x / a.width, j = (int)threadIdx.x % a.width;
        if (t < tokens && j < pairs) {
            double s, c, angle = (double)(a.position0 + token0 + t) * (double)a.inv_freq[pair0 + j];
            sincos(angle, &s, &c);
            cosine[threadIdx.x] = (float)(c * (double)a.magnitude);
            sine[threadIdx.x] = (float)(s * (double)a.magnitude);
        }
    }
    __syncthreads();
    int quads = (pairs + 3) / 4, per_token = a.heads * quads;
    for (int i = (int)threadIdx.x; i < tokens * per_token; i += THREADS) {
        int t = i / per_token, h = i % per_token / quads, j = i % quads * 4;
        float *x = a.x + ((token0 + t) * a.heads + h) * 2 * a.half + pair0, p[4], q[4];
        const float *c = cosine + t * a.width + j, *s = sine + t * a.width + j;
        load4(p, x, j, pairs, 0.0f, a.wide);
        load4(q, x + a.half, j, pairs, 0.0f, a.wide);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) {
            if (j + k >= pairs) break;
            float u = p[k], w = q[k];
            p[k] = u * c[k] - w * s[k];
            q[k] = w * c[k] + u * s[k];
        }
        store4(x, p, j, pairs, a.wide);
        store4(x + a.half, q, j, pairs, a.wide);
    }
}

cudaError_t flrq_launch_rope(float *x, const float *inv_freq, int64_t tokens, int64_t heads, int64_t head_dim,
                             int64_t position0, float magnitude, cudaStream_t stream) {
    rope_args a = {x, inv_freq, tokens, position0, (int)(head_dim / 2), (int)heads, 0, 0, magnitude, false};
    a.width = a.half < THREADS ? a.half : (int)THREADS;
    a.tiles = (int)flrq_ceil_div(a.half, a.width);
    a.wide = wide_rows(x, a.half);
    FLRQ_LAUNCH(rope_kernel, (unsigned)(flrq_ceil_div(tokens, THREADS / a.width) * a.tiles), THREADS, 0, stream, a);
    return cudaGetLastError();
}

/* ---- elementwise ------------------------------------------------------------------------------------------------- */

struct swiglu_op {
    static const bool reads = true;
    __device__ static float of(float gate, float up) {
        float e = expf(-fabsf(gate));
        return gate * (gate < 0 ? e : 1.0f) / (1.0f + e) * up;
    }
};

struct relu_op {
    static const bool reads = false;
    __device__ static float of(float y, float) { return y < 0 ? 0.0f : y; }
};

struct add_op {
    static const bool reads = true;
    __device__ static float of(float y, float x) { return y + x; }
};

/* each_kernel - y := Op(y, x) element by element: swiglu, relu, add
 *   in    y, x     [count] fp32 (relu: y alone, x NULL)
 *   out   y        in place
 *   owns           a thread 4 neighbours; grid ceil(count / 1024)
 *   needs          y and x 16-byte aligned where `wide`; count <= 1024 * INT_MAX (launcher: cudaErrorInvalidValue)
 *   cost           12 bytes an element, relu 8; swiglu: about 25 instructions an element for exp and the division
 *   numerics       fp32; swiglu takes exp only of numbers that are not positive, so that it never overflows; NaN stays,
 *                  a swiglu gate of -Inf gives NaN
 *   order          deterministic: no sums over elements
 */
template <class Op>
__global__ void __launch_bounds__(THREADS) each_kernel(float *y, const float *x, int64_t count, bool wide) {
    int64_t at = 4 * ((int64_t)blockIdx.x * THREADS + threadIdx.x);
    bool all = wide && at + 4 <= count;
    float a[4], b[4] = {};
    load4(a, y, at, count, 0.0f, all);
    if (Op::reads) load4(b, x, at, count, 0.0f, all);
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) a[k] = Op::of(a[k], b[k]);
    store4(y, a, at, count, all);
}

template <class Op> static cudaError_t launch_each(float *y, const float *x, int64_t count, cudaStream_t stream) {
    int64_t blocks = flrq_ceil_div(count, 4 * THREADS);
    if (blocks > INT_MAX) return cudaErrorInvalidValue;
    FLRQ_LAUNCH((each_kernel<Op>), (unsigned)blocks, THREADS, 0, stream, y, x, count,
                flrq_aligned(y, 16) && flrq_aligned(x, 16));
    return cudaGetLastError();
}

cudaError_t flrq_launch_swiglu(float *gate, const float *up, int64_t count, cudaStream_t stream) {
    return launch_each<swiglu_op>(gate, up, count, stream);
}

cudaError_t flrq_launch_relu(float *x, int64_t count, cudaStream_t stream) {
    return launch_each<relu_op>(x, nullptr, count, stream);
}

cudaError_t flrq_launch_add(float *y, const float *x, int64_t count, cudaStream_t stream) {
    return launch_each<add_op>(y, x, count, stream);
}

/* add_f64_kernel - y := y + x in double
 *   in    y, x     [count] double
 *   out   y        in place
 *   owns           a thread one element; grid ceil(count / 256)
 *   needs          nothing of the addresses; count <= 256 * INT_MAX (launcher: cudaErrorInvalidValue)
 *   cost           24 bytes an element; a warp reads 256 bytes in a row, so wider accesses would gain nothing
 *   numerics       one addition; NaN and Inf stay in their element
 *   order          deterministic: no sums over elements
 */
__global__ void __launch_bounds__(THREADS) add_f64_kernel(double *y, const double *x, int64_t count) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) y[i] += x[i];
}

cudaError_t flrq_launch_add_f64(double *y, const double *x, int64_t count, cudaStream_t stream) {
    int64_t blocks = flrq_ceil_div(count, THREADS);
    if (blocks > INT_MAX) return cudaErrorInvalidValue;
    FLRQ_LAUNCH(add_f64_kernel, (unsigned)blocks, THREADS, 0, stream, y, x, count);
    return cudaGetLastError();
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

enum { BIAS_ROWS = 8 }; /* of a block of add_bias_kernel, more where the grid would grow too large */

/* add_bias_kernel - one bias for every row
 *   in    y        [rows, cols] fp32, row-major; bias [cols] fp32
 *   out   y        in place
 *   owns           a block 1024 columns of every gridDim.y-th row, a thread 4 of them with their bias in registers
 *   needs          y and bias 16-byte aligned and cols % 4 == 0 where `wide`; gridDim.y <= 65535 (launcher)
 *   cost           8 bytes an element; bound by memory
 *   numerics       one fp32 addition; NaN and Inf stay in their element
 *   order          deterministic: no sums over elements
 */
__global__ void __launch_bounds__(THREADS)
    add_bias_kernel(float *y, const float *bias, int64_t rows, int64_t cols, bool wide) {
    int64_t j = 4 * ((int64_t)blockIdx.x * THREADS + threadIdx.x);
    float b[4], v[4];
    load4(b, bias, j, cols, 0.0f, wide);
    for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
        load4(v, y + i * cols, j, cols, 0.0f, wide);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) v[k] += b[k];
        store4(y + i * cols, v, j, cols, wide);
    }
}

cudaError_t flrq_launch_add_bias(float *y, const float *bias, int64_t rows, int64_t cols, cudaStream_t stream) {
    int64_t groups = flrq_ceil_div(rows, BIAS_ROWS), most = FLRQ_GRID_YZ_MAX;
    dim3 grid((unsigned)flrq_ceil_div(cols, 4 * THREADS), (unsigned)(groups < most ? groups : most));
    FLRQ_LAUNCH(add_bias_kernel, grid, THREADS, 0, stream, y, bias, rows, cols,
                wide_rows(y, cols) && flrq_aligned(bias, 16));
    return cudaGetLastError();
}

/* gather_kernel - rows of a table by their numbers, as embeddings need them
 *   in    table    [table.rows, n] fp32, fp16 or bf16, codes, or both summed; col_scale [n] or NULL; ids [tokens] int32
 *   out   y        [tokens, n] fp32, row-major; added to what is there when `accumulate`
 *   owns           a thread 4 neighbours of a row; grid tokens * tiles, a tile 1024 columns
 *   needs          table without a low-rank part, ids in [0, table.rows) (caller); tokens * tiles <= INT_MAX (launcher:
 *                  cudaErrorInvalidValue); alignment as flrq_view_wide() and `wide` say
 *   cost           an element: its bytes as stored, 4 written, 4 more read when it accumulates; bound by memory
 *   numerics       fp32: codes by one fmaf onto the dense part, times col_scale, plus the old value, each rounded once
 *   order          deterministic: no sums over elements
 */
__global__ void __launch_bounds__(THREADS) gather_kernel(float *y, flrq_view table, const int32_t *ids, unsigned tiles,
                                                         bool accumulate, bool wide_table, bool wide) {
    int64_t token = blockIdx.x / tiles, n = table.cols;
    int64_t j = 4 * ((int64_t)(blockIdx.x % tiles) * THREADS + threadIdx.x);
    if (j >= n) return;
    float v[4], scale[4], old[4];
    flrq_load_base4(v, table, ids[token], j, n, wide_table);
    if (table.col_scale) {
        load4(scale, table.col_scale, j, n, 0.0f, false);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) v[k] *= scale[k];
    }
    y += token * n;
    if (accumulate) {
        load4(old, y, j, n, 0.0f, wide);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) v[k] += old[k];
    }
    store4(y, v, j, n, wide);
}

cudaError_t flrq_launch_gather_rows(float *y, const flrq_view *table, const int32_t *ids, int64_t tokens,
                                    int accumulate, cudaStream_t stream) {
    int64_t tiles = flrq_ceil_div(table->cols, 4 * THREADS);
    if (tokens > INT_MAX / tiles) return cudaErrorInvalidValue;
    FLRQ_LAUNCH(gather_kernel, (unsigned)(tokens * tiles), THREADS, 0, stream, y, *table, ids, (unsigned)tiles,
                accumulate != 0, flrq_view_wide(table), wide_rows(y, table->cols));
    return cudaGetLastError();
}

/* ---- losses ------------------------------------------------------------------------------------------------------ */

/*
 * Logits are read once, because the sum of exponentials is taken relative to a base that follows the maximum. It moves
 * only when the maximum is more than REBASE above it, hardly ever after the first elements, so the double exp of a move
 * costs nothing; terms are at most e^REBASE. |x - base| <= REBASE + (max - x) for terms that count, so the relative
 * error of an fp32 exp(x - base) is (REBASE + max - x + 4) eps.
 */
enum { LOSS_THREADS = 512, REBASE = 8 };

/* sum of exp(x - base); base is -Inf before the first number. */
struct exp_sum {
    float base;
    double sum;
};

/* Makes room for terms up to `top`; returns what sums of earlier terms are to be multiplied by. */
__device__ static double make_room(exp_sum *s, float top) {
    if (!(top > s->base + (float)REBASE)) return 1;
    double factor = exp((double)s->base - (double)top);
    s->base = top;
    s->sum *= factor;
    return factor;
}

__device__ static float max4(const float v[4]) {
    return fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]));
}

/* w = exp(v - base), which also goes into the sum. */
__device__ static void add_exp4(exp_sum *s, float w[4], const float v[4]) {
    float base = s->base == -INFINITY ? 0.0f : s->base;
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) w[k] = expf(v[k] - base);
    s->sum += sum_of(w);
}

/* Sums of all threads over one base, in all threads; returns the factor for other sums of this thread. */
__device__ static double join(exp_sum *s, float *shared_max, double *shared) {
    float base = block_max(s->base, shared_max);
    double factor = exp((double)s->base - (double)base);
    s->base = base;
    s->sum = row_sum(s->sum * factor, shared);
    return factor;
}

__device__ static double log_of(const exp_sum &s) {
    return (double)s.base + log(s.sum);
}

/* nll_kernel - negative log-likelihood of the target and the first of the largest logits
 *   in    logits   [tokens, vocab] fp32, row-major; target [tokens] int32, negative: not counted
 *   out   nll      [tokens] fp64, nats; argmax [tokens] int32, or NULL
 *   owns           a block of 512 threads a token, a thread 4 neighbours in every 2048; grid tokens
 *   needs          target < vocab, vocab > 0 (caller); logits 16-byte aligned and vocab % 4 == 0 where `wide`
 *                  (launcher)
 *   cost           4 bytes an element, read once; one fp32 exp an element
 *   numerics       exp in fp32 as above, 4 terms summed in fp32, the rest in double; 0 where the target is negative.
 *                  NaN and +Inf give NaN, -Inf has no weight, a row of -Inf gives NaN; argmax passes over NaN, and is 0
 *                  when all are NaN
 *   order          deterministic: a thread's elements, then a butterfly over the lanes, then over the warps
 */
__global__ void __launch_bounds__(LOSS_THREADS)
    nll_kernel(double *nll, int32_t *argmax, const float *logits, const int32_t *target, int64_t vocab, bool wide) {
    __shared__ double shared[32];
    __shared__ float shared_max[32];
    __shared__ int shared_at[32];
    int64_t token = blockIdx.x;
    const float *x = logits + token * vocab;
    exp_sum s = {-INFINITY, 0};
    float max = -INFINITY;
    int at = 0, lane = (int)threadIdx.x % 32;
    for (int64_t j = 4 * (int64_t)threadIdx.x; j < vocab; j += 4 * LOSS_THREADS) {
        float v[4], w[4];
        load4(v, x, j, vocab, -INFINITY, wide);
        float top = max4(v);
        if (top > max) {
            max = top;
            at = (int)j + (v[0] == top ? 0 : v[1] == top ? 1 : v[2] == top ? 2 : 3);
        }
        make_room(&s, top);
        add_exp4(&s, w, v);
    }
    join(&s, shared_max, shared);
    if (threadIdx.x == 0) nll[token] = target[token] < 0 ? 0.0 : log_of(s) - (double)x[target[token]];
    if (!argmax) return;
    float largest = block_max(max, shared_max);
    at = __reduce_min_sync(0xffffffffu, max == largest ? at : INT_MAX);
    if (lane == 0) shared_at[threadIdx.x / 32] = at;
    __syncthreads();
    at = __reduce_min_sync(0xffffffffu, lane < LOSS_THREADS / 32 ? shared_at[lane] : INT_MAX);
    if (threadIdx.x == 0) argmax[token] = at;
}

cudaError_t flrq_launch_nll(double *nll, int32_t *argmax, const float *logits, const int32_t *target, int64_t tokens,
                            int64_t vocab, cudaStream_t stream) {
    FLRQ_LAUNCH(nll_kernel, (unsigned)tokens, LOSS_THREADS, 0, stream, nll, argmax, logits, target, vocab,
                wide_rows(logits, vocab));
    return cudaGetLastError();
}

/* kl_kernel - KL = sum_j p_j (x_j - y_j) - logsumexp(x) + logsumexp(y) for logits x of p, y of q
 *   in    p_logits [tokens, vocab] fp32, row-major; q_logits the same
 *   out   kl       [tokens] fp64, nats, at least 0
 *   owns           a block of 512 threads a token, a thread 4 neighbours in every 2048; grid tokens
 *   needs          vocab > 0 (caller); both arrays 16-byte aligned and vocab % 4 == 0 where `wide` (launcher)
 *   cost           8 bytes an element, read once; two fp32 exp an element
 *   numerics       exp in fp32 as above, 4 terms summed in fp32, the rest in double; x_j of -Inf adds nothing, y_j of
 *                  -Inf where x_j is larger gives Inf; other NaN and +Inf give NaN
 *   order          deterministic: a thread's elements, then a butterfly over the lanes, then over the warps
 */
__global__ void __launch_bounds__(LOSS_THREADS)
    kl_kernel(double *kl, const float *p_logits, const float *q_logits, int64_t vocab, bool wide) {
    __shared__ double shared[32];
    __shared__ float shared_max[32];
    const float *x = p_logits + blockIdx.x * vocab, *y = q_logits + blockIdx.x * vocab;
    exp_sum p = {-INFINITY, 0}, q = {-INFINITY, 0};
    double weighted = 0;
    int hole = 0; /* q forbids what p allows */
    for (int64_t j = 4 * (int64_t)threadIdx.x; j < vocab; j += 4 * LOSS_THREADS) {
        float v[4], u[4], w[4], unused[4];
        load4(v, x, j, vocab, -INFINITY, wide);
        load4(u, y, j, vocab, -INFINITY, wide);
        weighted *= make_room(&p, max4(v));
        make_room(&q, max4(u));
        add_exp4(&p, w, v);
        add_exp4(&q, unused, u);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) {
            hole |= u[k] == -INFINITY && v[k] > -INFINITY;
            w[k] *= v[k] == -INFINITY || u[k] == -INFINITY ? 0.0f : v[k] - u[k];
        }
        weighted += sum_of(w);
    }
    weighted = row_sum(weighted * join(&p, shared_max, shared), shared);
    join(&q, shared_max, shared);
    hole = __syncthreads_or(hole);
    if (threadIdx.x != 0) return;
    double value = weighted / p.sum - log_of(p) + log_of(q);
    if (value < 0) value = 0; /* rounding may leave a little less than the true zero */
    kl[blockIdx.x] = hole ? INFINITY : value;
}

cudaError_t flrq_launch_kl(double *kl, const float *p, const float *q, int64_t tokens, int64_t vocab,
                           cudaStream_t stream) {
    FLRQ_LAUNCH(kl_kernel, (unsigned)tokens, LOSS_THREADS, 0, stream, kl, p, q, vocab,
                wide_rows(p, vocab) && wide_rows(q, vocab));
    return cudaGetLastError();
}
