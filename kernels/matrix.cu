/* matrix.cu - implicit matrices: evaluation, vector products, norms, the amax curve, sums along the chunk tree.
 *
 * All kernels but the vector ones share one scheme: a block of 256 threads owns a tile of 64 x 64 elements, a thread a
 * patch of 4 x 4, loaded once (8 or 16 bytes a row where alignment allows) with codes, low-rank part and column scale
 * applied in registers. What follows is the kernel's own: a store, squares in double, the maxima of the curve. Grids
 * and the order of every sum depend on the shape alone.
 *
 * Floors, per element: the bytes of its parts (dense 2 or 4, code 1, scale 4/group) and, for rank k, k fused
 * multiply-adds. The amax curve takes 2 instructions per element and rank (fma, max of |.|): at 33.5e12 fp32
 * instructions a second 16.8 M elements at b = 40 are 40 us, against 11 us for their bytes.
 */
#include "load4.cuh"
#include "matrix_kernels.h"

enum {
    TILE = 64,
    PADDED = TILE + 4, /* a step of ranks moves 4 banks on: staging rows meets 4 at a bank, not 32 */
    THREADS = 256,     /* 16 x 16 patches */
    RANKS = 32,        /* of the factors staged in shared memory at a time */
    CHUNK = 512,       /* FLRQ_CHUNK_ROWS */
    CHUNK_TILES = CHUNK / TILE
};

/* Factors of a tile, one rank after the other: its rows and its columns. */
struct factor_tiles {
    float row[RANKS][PADDED];
    float col[RANKS][PADDED];
};

__device__ static int patch_x() {
    return (int)threadIdx.x % 16 * 4;
}

__device__ static int patch_y() {
    return (int)threadIdx.x / 16 * 4;
}

/* ---- evaluation ------------------------------------------------------------------------------------------------- */

/* Stages ranks [k0, k0 + RANKS) of x [count, ranks] (row = 1) or [ranks, count] (row = 0) for elements first .. first +
 * TILE - 1; absent ones are 0. */
__device__ static void stage_factor(float tile[RANKS][PADDED], const float *x, int64_t first, int64_t count, int64_t k0,
                                    int64_t ranks, bool row) {
    for (int at = (int)threadIdx.x; at < RANKS * TILE; at += THREADS) {
        int k = row ? at % RANKS : at / TILE, i = row ? at / RANKS : at % TILE;
        bool inside = first + i < count && k0 + k < ranks;
        tile[k][i] = !inside ? 0.0f : row ? x[(first + i) * ranks + k0 + k] : x[(k0 + k) * count + first + i];
    }
}

/* The patch of this thread in the tile at (row0, col0). All threads of the block must call. */
__device__ static void load_patch(float (&patch)[4][4], const flrq_view &v, int64_t row0, int64_t col0, bool wide,
                                  factor_tiles *tiles) {
    int64_t row = row0 + patch_y(), col = col0 + patch_x();
    const bool whole = wide && row + 4 <= v.rows && col < v.cols;
    if (whole && v.dense) {
        flrq_load_rows4(patch, v, row, col); /* four loads under way at once, not one after the other */
    } else {
        FLRQ_UNROLL
        for (int i = 0; i < 4; i++) {
            if (!whole && row + i < v.rows && col < v.cols)
                flrq_load_base4(patch[i], v, row + i, col, v.cols, wide);
            else
                for (int j = 0; j < 4; j++) patch[i][j] = 0.0f;
        }
    }
    if (whole && v.code) flrq_add_codes4(patch, v, row, col);
    if (v.rank > 0) {
        float sum[4][4] = {};
        for (int64_t k0 = 0; k0 < v.rank; k0 += RANKS) {
            __syncthreads(); /* the tiles of the round before are read */
            stage_factor(tiles->row, v.l, row0, v.rows, k0, v.rank, true);
            stage_factor(tiles->col, v.r, col0, v.cols, k0, v.rank, false);
            __syncthreads();
            int ranks = v.rank - k0 < RANKS ? (int)(v.rank - k0) : (int)RANKS;
            for (int k = 0; k < ranks; k++)
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 4; j++)
                        sum[i][j] = fmaf(tiles->row[k][patch_y() + i], tiles->col[k][patch_x() + j], sum[i][j]);
        }
        FLRQ_UNROLL
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) patch[i][j] = fmaf(v.lr_sign, sum[i][j], patch[i][j]);
    }
    if (v.col_scale)
        for (int j = 0; j < 4; j++) {
            float scale = col + j < v.cols ? v.col_scale[col + j] : 0.0f;
            FLRQ_UNROLL
            for (int i = 0; i < 4; i++) patch[i][j] *= scale;
        }
}

__device__ static void store4(float *out, const float values[4], bool wide, int count) {
    if (wide)
        *reinterpret_cast<float4 *>(out) = make_float4(values[0], values[1], values[2], values[3]);
    else
        FLRQ_UNROLL
    for (int k = 0; k < 4; k++)
        if (k < count) out[k] = values[k];
}

__device__ static void store4(__nv_bfloat16 *out, const float values[4], bool wide, int count) {
    uint32_t half[4];
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) half[k] = __bfloat16_as_ushort(__float2bfloat16_rn(values[k]));
    if (wide)
        *reinterpret_cast<uint2 *>(out) = make_uint2(half[0] | half[1] << 16, half[2] | half[3] << 16);
    else
        FLRQ_UNROLL
    for (int k = 0; k < 4; k++)
        if (k < count) out[k] = __ushort_as_bfloat16((uint16_t)half[k]);
}

/* materialize_kernel - an operand as a matrix
 *   in   v    [rows, cols]  any parts of a view
 *   out  out  [rows, cols]  f32 or bf16, row-major, no padding
 *   owns      block = tile of 64 x 64, thread = patch of 4 x 4; grid = tiles in x
 *   needs     `wide`: flrq_view_wide(); `wide_out`: cols % 4 == 0 and out aligned to 4 elements (else single stores)
 *   cost      reads the parts once, writes out once; 2 rank flops an element; case "materialize"
 *   numerics  one fma for codes, f32 sum over ranks in order, one product with the column scale; bf16 to nearest even
 *   order     deterministic, no atomics
 */
template <class Out>
__global__ void __launch_bounds__(THREADS)
    materialize_kernel(Out *out, flrq_view v, int64_t col_tiles, bool wide, bool wide_out) {
    __shared__ factor_tiles tiles;
    int64_t row0 = (int64_t)blockIdx.x / col_tiles * TILE, col0 = (int64_t)blockIdx.x % col_tiles * TILE;
    float patch[4][4];
    load_patch(patch, v, row0, col0, wide, &tiles);
    int64_t col = col0 + patch_x();
    if (col >= v.cols) return;
    FLRQ_UNROLL
    for (int i = 0; i < 4; i++) {
        int64_t row = row0 + patch_y() + i;
        if (row < v.rows)
            store4(out + row * v.cols + col, patch[i], wide_out, (int)(v.cols - col < 4 ? v.cols - col : 4));
    }
}

template <class Out> static cudaError_t materialize(Out *out, const flrq_view *a, cudaStream_t stream) {
    int64_t col_tiles = flrq_ceil_div(a->cols, TILE), blocks = col_tiles * flrq_ceil_div(a->rows, TILE);
    bool wide_out = a->cols % 4 == 0 && flrq_aligned(out, 4 * sizeof(Out));
    FLRQ_LAUNCH((materialize_kernel<Out>), (unsigned)blocks, THREADS, 0, stream, out, *a, col_tiles, flrq_view_wide(a),
                wide_out);
    return cudaGetLastError();
}

cudaError_t flrq_launch_materialize_f32(float *out, const flrq_view *a, cudaStream_t stream) {
    return materialize(out, a, stream);
}

cudaError_t flrq_launch_materialize_bf16(void *out, const flrq_view *a, cudaStream_t stream) {
    return materialize(static_cast<__nv_bfloat16 *>(out), a, stream);
}

/* ---- scaled copies of the skinny factor, and activations in bf16 ------------------------------------------------- */

/* scale_rows_kernel - x with its rows scaled, in f32 or bf16
 *   in   x [rows, cols] f32; scale [rows] f32 or NULL (1)
 *   out  out [rows, cols]  f32 (may be x) or bf16
 *   owns      thread = 4 neighbours; grid = ceil(count / 1024) in x
 *   needs     `wide`: x and out aligned to 4 elements (else single accesses)
 *   cost      one read, one write; memory bound; part of the cases "mul", "linear"
 *   numerics  one rounding by the scale, one to bf16; NaN and infinities pass
 *   order     deterministic
 */
template <class Out>
__global__ void __launch_bounds__(THREADS)
    scale_rows_kernel(Out *out, const float *x, const float *scale, int64_t cols, int64_t count, bool wide) {
    int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at >= count) return;
    int here = (int)(count - at < 4 ? count - at : 4);
    float values[4] = {};
    if (wide && here == 4) {
        float4 four = *reinterpret_cast<const float4 *>(x + at);
        values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
    } else
        FLRQ_UNROLL
    for (int k = 0; k < 4; k++) values[k] = k < here ? x[at + k] : 0.0f;
    if (scale)
        for (int k = 0; k < 4; k++)
            if (k < here) values[k] *= scale[(at + k) / cols];
    store4(out + at, values, wide && here == 4, here);
}

template <class Out>
static cudaError_t scale_rows(Out *out, const float *x, const float *scale, int64_t rows, int64_t cols,
                              cudaStream_t stream) {
    int64_t count = rows * cols;
    bool wide = flrq_aligned(x, 16) && flrq_aligned(out, 4 * sizeof(Out));
    FLRQ_LAUNCH((scale_rows_kernel<Out>), (unsigned)flrq_ceil_div(count, 4 * THREADS), THREADS, 0, stream, out, x,
                scale, cols, count, wide);
    return cudaGetLastError();
}

cudaError_t flrq_launch_scale_rows_f32(float *out, const float *x, const float *scale, int64_t rows, int64_t cols,
                                       cudaStream_t stream) {
    return scale_rows(out, x, scale, rows, cols, stream);
}

cudaError_t flrq_launch_scale_rows_bf16(void *out, const float *x, const float *scale, int64_t rows, int64_t cols,
                                        cudaStream_t stream) {
    return scale_rows(static_cast<__nv_bfloat16 *>(out), x, scale, rows, cols, stream);
}

/* ---- products with one vector ------------------------------------------------------------------------------------ */

/* mul_vector_kernel - y = A x
 *   in   v [rows, cols] without low-rank part; x [cols] f32
 *   out  y [rows] f32
 *   owns      warp = row; block = 8 rows; grid = ceil(rows / 8) in x
 *   needs     v.rank == 0
 *   cost      reads A once; 2 flops an element; memory bound; case "mul" with b = 1
 *   numerics  f32: 4 columns of every 128 per lane in order, then the lanes by halves
 *   order     deterministic
 */
__global__ void __launch_bounds__(THREADS) mul_vector_kernel(float *y, flrq_view v, const float *x, bool wide) {
    int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= v.rows) return;
    int lane = (int)threadIdx.x % 32;
    float sum = 0;
    for (int64_t col = 4 * lane; col < v.cols; col += 128) {
        float a[4];
        flrq_load_base4(a, v, row, col, v.cols, wide);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++)
            if (col + k < v.cols) sum = fmaf(v.col_scale ? a[k] * v.col_scale[col + k] : a[k], x[col + k], sum);
    }
    sum = flrq_warp_sum(sum);
    if (lane == 0) y[row] = sum;
}

cudaError_t flrq_launch_mul_vector(float *y, const flrq_view *a, const float *x, cudaStream_t stream) {
    FLRQ_LAUNCH(mul_vector_kernel, (unsigned)flrq_ceil_div(a->rows, THREADS / 32), THREADS, 0, stream, y, *a, x,
                flrq_view_wide(a));
    return cudaGetLastError();
}

/* mul_t_vector_kernel - parts of z = A^T q
 *   in   v [rows, cols] without low-rank part; q [rows] f32
 *   out  parts [chunks, cols] f32: sums over the rows of one chunk
 *   owns      block = one chunk and 64 columns; thread = every 16th row of 4 columns; grid = chunks x ceil(cols / 64)
 * in x needs     v.rank == 0 cost      reads A once; case "mul_t" with b = 1 numerics  f32: 32 rows per thread in
 * order, then 16 threads in order; column scale last order     deterministic
 */
__global__ void __launch_bounds__(THREADS)
    mul_t_vector_kernel(float *parts, flrq_view v, const float *q, int64_t col_tiles, bool wide) {
    __shared__ float sums[16][TILE];
    int64_t chunk = (int64_t)blockIdx.x / col_tiles, col0 = (int64_t)blockIdx.x % col_tiles * TILE;
    int64_t col = col0 + patch_x(), first = chunk * CHUNK, end = first + CHUNK < v.rows ? first + CHUNK : v.rows;
    float sum[4] = {};
    for (int64_t row = first + threadIdx.x / 16; row < end && col < v.cols; row += 16) {
        float a[4];
        flrq_load_base4(a, v, row, col, v.cols, wide);
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) sum[k] = fmaf(a[k], q[row], sum[k]);
    }
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) sums[threadIdx.x / 16][patch_x() + k] = sum[k];
    __syncthreads();
    if (threadIdx.x >= TILE || col0 + threadIdx.x >= v.cols) return;
    float total = 0;
    for (int i = 0; i < 16; i++) total += sums[i][threadIdx.x];
    if (v.col_scale) total *= v.col_scale[col0 + threadIdx.x];
    parts[chunk * v.cols + col0 + threadIdx.x] = total;
}

cudaError_t flrq_launch_mul_t_vector(float *parts, const flrq_view *a, const float *q, cudaStream_t stream) {
    int64_t col_tiles = flrq_ceil_div(a->cols, TILE), blocks = flrq_ceil_div(a->rows, CHUNK) * col_tiles;
    FLRQ_LAUNCH(mul_t_vector_kernel, (unsigned)blocks, THREADS, 0, stream, parts, *a, q, col_tiles, flrq_view_wide(a));
    return cudaGetLastError();
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

/* sum_squares_kernel - parts of ||A||^2
 *   in   v [rows, cols]
 *   out  parts [chunks, ceil(cols / 64)] f64
 *   owns      block = one chunk and 64 columns, tile after tile; grid = all of them in x
 *   needs     nothing
 *   cost      reads A once, 1 fp64 fma an element; memory bound; case "sum_squares"
 *   numerics  elements in f32 as materialize_kernel, squares and sums in f64
 *   order     deterministic
 */
__global__ void __launch_bounds__(THREADS)
    sum_squares_kernel(double *parts, flrq_view v, int64_t col_tiles, bool wide) {
    __shared__ factor_tiles tiles;
    __shared__ double shared[32];
    int64_t chunk = (int64_t)blockIdx.x / col_tiles, col0 = (int64_t)blockIdx.x % col_tiles * TILE;
    double sum = 0;
    for (int t = 0; t < CHUNK_TILES; t++) {
        int64_t row0 = chunk * CHUNK + t * TILE;
        if (row0 >= v.rows) break;
        float patch[4][4];
        load_patch(patch, v, row0, col0, wide, &tiles);
        FLRQ_UNROLL
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) sum = fma((double)patch[i][j], (double)patch[i][j], sum);
    }
    sum = flrq_block_sum(sum, shared, (int)threadIdx.x, THREADS);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/* add_parts_kernel - sums of the partial sums of each chunk
 *   in   parts [chunks, per_chunk] f64
 *   out  sums [chunks] f64
 *   owns      warp = block = chunk; grid = chunks in x
 *   cost      negligible
 *   order     deterministic: every 32nd part per lane in order, then the lanes by halves
 */
__global__ void __launch_bounds__(32) add_parts_kernel(double *sums, const double *parts, int64_t per_chunk) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < per_chunk; i += 32) sum += parts[(int64_t)blockIdx.x * per_chunk + i];
    sum = flrq_warp_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

int64_t flrq_sum_squares_parts(int64_t cols) {
    return flrq_ceil_div(cols, TILE);
}

cudaError_t flrq_launch_sum_squares(double *sums, double *parts, const flrq_view *a, cudaStream_t stream) {
    int64_t col_tiles = flrq_sum_squares_parts(a->cols), chunks = flrq_ceil_div(a->rows, CHUNK);
    FLRQ_LAUNCH(sum_squares_kernel, (unsigned)(chunks * col_tiles), THREADS, 0, stream, parts, *a, col_tiles,
                flrq_view_wide(a));
    cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
    FLRQ_LAUNCH(add_parts_kernel, (unsigned)chunks, 32, 0, stream, sums, parts, col_tiles);
    return cudaGetLastError();
}

/* ---- amax curve -------------------------------------------------------------------------------------------------- */

/* amax_curve_kernel - max |A - sum_{i<r} u_i w_i^T| for every r at once
 *   in   v [rows, cols]; u [rows, b], w [cols, b] f32; bits [b + 1] zeroed
 *   out  bits [b + 1]  f32 bits of the maxima
 *   owns      block = tile of 64 x 64 and its maxima [b + 1] in shared memory; thread = patch of 4 x 4 in registers
 *   needs     (b + 1) * 4 bytes of dynamic shared memory within 48 KB
 *   cost      reads A once; 2 instructions an element and rank (fma, max of |.|), and per warp and rank one reduction
 *             over the lanes and one shared atomic; instruction bound; case "amax_curve"
 *   numerics  f32, one fma per rank in order; NaN counts for nothing (the caller has searched for it)
 *   order     deterministic: the order of non-negative floats is that of their bits, and a maximum has no order
 */
__global__ void __launch_bounds__(THREADS) amax_curve_kernel(unsigned *bits, flrq_view v, const float *u,
                                                             const float *w, int64_t b, int64_t col_tiles, bool wide) {
    __shared__ factor_tiles tiles;
    FLRQ_DYN_SMEM(unsigned, best); /* [b + 1] */
    int64_t row0 = (int64_t)blockIdx.x / col_tiles * TILE, col0 = (int64_t)blockIdx.x % col_tiles * TILE;
    for (int64_t r = threadIdx.x; r <= b; r += THREADS) best[r] = 0;
    float patch[4][4];
    load_patch(patch, v, row0, col0, wide, &tiles);
    int lane = (int)threadIdx.x % 32;
    for (int64_t r0 = 0; r0 == 0 || r0 < b; r0 += RANKS) {
        __syncthreads(); /* `best` is zero, tiles are free */
        stage_factor(tiles.row, u, row0, v.rows, r0, b, true);
        stage_factor(tiles.col, w, col0, v.cols, r0, b, true);
        __syncthreads();
        int ranks = b - r0 < RANKS ? (int)(b - r0) : (int)RANKS;
        for (int k = r0 == 0 ? -1 : 0; k < ranks; k++) { /* -1: nothing taken off yet */
            float most = 0.0f;
            FLRQ_UNROLL
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    if (k >= 0)
                        patch[i][j] = fmaf(-tiles.row[k][patch_y() + i], tiles.col[k][patch_x() + j], patch[i][j]);
                    most = fmaxf(most, fabsf(patch[i][j]));
                }
            unsigned largest = __reduce_max_sync(0xffffffffu, __float_as_uint(most));
            if (lane == 0) atomicMax(&best[r0 + k + 1], largest);
        }
    }
    __syncthreads();
    for (int64_t r = threadIdx.x; r <= b; r += THREADS)
        if (best[r] > bits[r]) atomicMax(&bits[r], best[r]); /* a maximum of long ago is good enough to skip by */
}

cudaError_t flrq_launch_amax_curve(uint32_t *bits, const flrq_view *a, const float *u, const float *v, int64_t b,
                                   cudaStream_t stream) {
    int64_t col_tiles = flrq_ceil_div(a->cols, TILE), blocks = col_tiles * flrq_ceil_div(a->rows, TILE);
    FLRQ_LAUNCH(amax_curve_kernel, (unsigned)blocks, THREADS, (size_t)(b + 1) * sizeof(unsigned), stream, bits, *a, u,
                v, b, col_tiles, flrq_view_wide(a));
    return cudaGetLastError();
}

/* ---- non-finite elements ----------------------------------------------------------------------------------------- */

/* count_nonfinite_kernel - how many elements are not finite, and which is first
 *   in   v [rows, cols]; result [2] = {0, all ones}
 *   out  result [2] u64: count, smallest i * cols + j
 *   owns      block = tile of 64 x 64; grid = tiles in x
 *   cost      reads A once; memory bound; case "count_nonfinite"
 *   order     deterministic: integer atomics
 */
__global__ void __launch_bounds__(THREADS)
    count_nonfinite_kernel(unsigned long long *result, flrq_view v, int64_t col_tiles, bool wide) {
    __shared__ factor_tiles tiles;
    int64_t row0 = (int64_t)blockIdx.x / col_tiles * TILE, col0 = (int64_t)blockIdx.x % col_tiles * TILE;
    float patch[4][4];
    load_patch(patch, v, row0, col0, wide, &tiles);
    FLRQ_UNROLL
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int64_t row = row0 + patch_y() + i, col = col0 + patch_x() + j;
            if (isfinite(patch[i][j])) continue; /* beyond the edges there are zeros */
            atomicAdd(&result[0], 1ull);
            atomicMin(&result[1], (unsigned long long)(row * v.cols + col));
        }
}

cudaError_t flrq_launch_count_nonfinite(unsigned long long *result, const flrq_view *a, cudaStream_t stream) {
    int64_t col_tiles = flrq_ceil_div(a->cols, TILE), blocks = col_tiles * flrq_ceil_div(a->rows, TILE);
    FLRQ_LAUNCH(count_nonfinite_kernel, (unsigned)blocks, THREADS, 0, stream, result, *a, col_tiles, flrq_view_wide(a));
    return cudaGetLastError();
}

/* ---- the chunk tree ---------------------------------------------------------------------------------------------- */

/* tree_push_kernel - partial sums of chunks into the binary counter of core/tree.h
 *   in   parts [chunks, count]; pushed: parts taken before
 *   out  levels [levels, count], in place
 *   owns      thread = one value through all chunks; grid = ceil(count / 256) in x
 *   cost      reads parts once, and per chunk one level read and one written on average
 *   numerics  left + right of equal levels, as flrq_tree_push_*()
 *   order     the fixed tree over chunk numbers, however they are dealt out to calls
 */
template <class T>
__global__ void __launch_bounds__(THREADS)
    tree_push_kernel(T *levels, const T *parts, int64_t chunks, int64_t count, uint32_t pushed) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    for (int64_t chunk = 0; chunk < chunks; chunk++, pushed++) {
        T sum = parts[chunk * count + i];
        int64_t level = 0;
        for (uint32_t carry = pushed; carry & 1; carry >>= 1, level++) sum = levels[level * count + i] + sum;
        levels[level * count + i] = sum;
    }
}

/* tree_finish_kernel - the sum of such a tree
 *   in   levels [levels, count]; pushed
 *   out  out [count], 0 when nothing was pushed
 *   owns      thread = one value
 *   order     from the lowest level up, as flrq_tree_finish_*()
 */
template <class T>
__global__ void __launch_bounds__(THREADS) tree_finish_kernel(T *out, const T *levels, int64_t count, uint32_t pushed) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    T sum = 0;
    bool started = false;
    for (int64_t level = 0; pushed >> level; level++) {
        if (!(pushed >> level & 1)) continue;
        sum = started ? levels[level * count + i] + sum : levels[level * count + i];
        started = true;
    }
    out[i] = sum;
}

template <class T>
static cudaError_t tree_push(T *levels, const T *parts, int64_t chunks, int64_t count, uint32_t pushed,
                             cudaStream_t stream) {
    FLRQ_LAUNCH((tree_push_kernel<T>), (unsigned)flrq_ceil_div(count, THREADS), THREADS, 0, stream, levels, parts,
                chunks, count, pushed);
    return cudaGetLastError();
}

template <class T>
static cudaError_t tree_finish(T *out, const T *levels, int64_t count, uint32_t pushed, cudaStream_t stream) {
    FLRQ_LAUNCH((tree_finish_kernel<T>), (unsigned)flrq_ceil_div(count, THREADS), THREADS, 0, stream, out, levels,
                count, pushed);
    return cudaGetLastError();
}

cudaError_t flrq_launch_tree_push_f32(float *levels, const float *parts, int64_t chunks, int64_t count, uint32_t pushed,
                                      cudaStream_t stream) {
    return tree_push(levels, parts, chunks, count, pushed, stream);
}

cudaError_t flrq_launch_tree_push_f64(double *levels, const double *parts, int64_t chunks, int64_t count,
                                      uint32_t pushed, cudaStream_t stream) {
    return tree_push(levels, parts, chunks, count, pushed, stream);
}

cudaError_t flrq_launch_tree_finish_f32(float *out, const float *levels, int64_t count, uint32_t pushed,
                                        cudaStream_t stream) {
    return tree_finish(out, levels, count, pushed, stream);
}

cudaError_t flrq_launch_tree_finish_f64(double *out, const double *levels, int64_t count, uint32_t pushed,
                                        cudaStream_t stream) {
    return tree_finish(out, levels, count, pushed, stream);
}
