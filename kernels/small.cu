/* small.cu - what the small dense ops need beside cuBLAS and cuSOLVER: the Gram matrix in double, reordering,
 * transposes and the search for NaN.
 *
 * The Gram matrix decides the accuracy of the Cholesky QR, so products of fp32 are exact and sums are in double: chunk
 * by chunk, rows in order. Floors: gram reads y once per 32 columns of the result (from L2) and takes m b (b + 1) / 2
 * fp64 multiply-adds, 8 us for 4096 x 136 at 14e12 a second; the rest is b x b.
 */
#include "device.cuh"
#include "matrix_kernels.h"

enum {
    THREADS = 256,
    CHUNK = 512, /* FLRQ_CHUNK_ROWS */
    SQUARE = 32, /* of the result, one block's share; a thread has 2 x 2 of it */
    STEP = 32    /* rows staged at a time */
};

/* ---- gram -------------------------------------------------------------------------------------------------------- */

__device__ static void stage_columns(double tile[STEP][SQUARE], const float *y, int64_t row0, int64_t rows,
                                     int64_t col0, int64_t b) {
    for (int at = (int)threadIdx.x; at < STEP * SQUARE; at += THREADS) {
        int i = at / SQUARE, j = at % SQUARE;
        tile[i][j] = i < rows && col0 + j < b ? (double)y[(row0 + i) * b + col0 + j] : 0.0;
    }
}

/* gram_kernel - parts of Y^T Y
 *   in   y [m, b] f32
 *   out  parts [chunks, b, b] f64, both triangles
 *   owns      block = one chunk and one square of 32 x 32 of the upper triangle; thread = 2 x 2 of it
 *   needs     nothing
 *   cost      m b (b + 1) / 2 fp64 fma; y becomes double when it is staged, because a conversion takes four times the
 *             time of an fma; case "gram"
 *   numerics  products of f32 are exact in f64; rows in order
 *   order     deterministic
 */
__global__ void __launch_bounds__(THREADS) gram_kernel(double *parts, const float *y, int64_t m, int64_t b, int pairs) {
    __shared__ double left[STEP][SQUARE], right[STEP][SQUARE];
    int64_t chunk = (int64_t)blockIdx.x / pairs;
    int pair = (int)(blockIdx.x % pairs), side = 0;
    while ((side + 1) * (side + 2) / 2 <= pair) side++; /* column of squares `side` has side + 1 of them */
    int64_t col_i = (int64_t)(pair - side * (side + 1) / 2) * SQUARE, col_j = (int64_t)side * SQUARE;
    int i = (int)threadIdx.x / 16 * 2, j = (int)threadIdx.x % 16 * 2;
    double sum[2][2] = {};
    for (int64_t row0 = chunk * CHUNK; row0 < (chunk + 1) * CHUNK && row0 < m; row0 += STEP) {
        int64_t rows = m - row0 < STEP ? m - row0 : (int64_t)STEP;
        stage_columns(left, y, row0, rows, col_i, b);
        stage_columns(right, y, row0, rows, col_j, b);
        __syncthreads();
        for (int k = 0; k < STEP; k++)
            for (int p = 0; p < 2; p++)
                for (int q = 0; q < 2; q++) sum[p][q] = fma(left[k][i + p], right[k][j + q], sum[p][q]);
        __syncthreads();
    }
    double *part = parts + chunk * b * b;
    for (int p = 0; p < 2; p++)
        for (int q = 0; q < 2; q++) {
            int64_t row = col_i + i + p, col = col_j + j + q;
            if (row >= b || col >= b || row > col) continue; /* squares on the diagonal hold both halves */
            part[row * b + col] = part[col * b + row] = sum[p][q];
        }
}

cudaError_t flrq_launch_gram(double *parts, const float *y, int64_t m, int64_t b, cudaStream_t stream) {
    int side = (int)flrq_ceil_div(b, SQUARE), pairs = side * (side + 1) / 2;
    FLRQ_LAUNCH(gram_kernel, (unsigned)(flrq_ceil_div(m, CHUNK) * pairs), THREADS, 0, stream, parts, y, m, b, pairs);
    return cudaGetLastError();
}

/* ---- reordering -------------------------------------------------------------------------------------------------- */

/* upper_kernel - zeroes what is below the diagonal
 *   out  a [b, b] f64, in place
 *   owns      thread = one element
 */
__global__ void __launch_bounds__(THREADS) upper_kernel(double *a, int64_t b) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at < b * b && at / b > at % b) a[at] = 0.0;
}

cudaError_t flrq_launch_upper(double *a, int64_t b, cudaStream_t stream) {
    FLRQ_LAUNCH(upper_kernel, (unsigned)flrq_ceil_div(b * b, THREADS), THREADS, 0, stream, a, b);
    return cudaGetLastError();
}

/* to_f32_kernel - rounds to f32
 *   in   in [count] f64
 *   out  out [count] f32
 *   owns      thread = one element
 */
__global__ void __launch_bounds__(THREADS) to_f32_kernel(float *out, const double *in, int64_t count) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at < count) out[at] = (float)in[at];
}

cudaError_t flrq_launch_to_f32(float *out, const double *in, int64_t count, cudaStream_t stream) {
    FLRQ_LAUNCH(to_f32_kernel, (unsigned)flrq_ceil_div(count, THREADS), THREADS, 0, stream, out, in, count);
    return cudaGetLastError();
}

/* descending_kernel - eigenpairs from LAPACK's order to ours
 *   in   v [b, b] f64, eigenvector k contiguous; ascending [b] f64
 *   out  a [b, b] f64, eigenvectors in columns; values [b] f64, both descending
 *   owns      thread = one element
 */
__global__ void __launch_bounds__(THREADS)
    descending_kernel(double *a, double *values, const double *v, const double *ascending, int64_t b) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at < b * b) a[at] = v[(b - 1 - at % b) * b + at / b];
    if (at < b) values[at] = ascending[b - 1 - at];
}

cudaError_t flrq_launch_descending(double *a, double *values, const double *v, const double *ascending, int64_t b,
                                   cudaStream_t stream) {
    FLRQ_LAUNCH(descending_kernel, (unsigned)flrq_ceil_div(b * b, THREADS), THREADS, 0, stream, a, values, v, ascending,
                b);
    return cudaGetLastError();
}

/* transpose_kernel - out = in^T
 *   in   in [rows, ld] f32, cols of them
 *   out  out [cols, rows] f32
 *   owns      block = 32 x 32, padded in shared memory against bank conflicts; grid = tiles in x
 *   cost      one read, one write, both coalesced
 */
__global__ void __launch_bounds__(THREADS)
    transpose_kernel(float *out, const float *in, int64_t rows, int64_t cols, int64_t ld, int64_t col_tiles) {
    __shared__ float tile[32][33];
    int64_t row0 = (int64_t)blockIdx.x / col_tiles * 32, col0 = (int64_t)blockIdx.x % col_tiles * 32;
    int x = (int)threadIdx.x % 32, y = (int)threadIdx.x / 32;
    for (int i = y; i < 32; i += THREADS / 32)
        if (row0 + i < rows && col0 + x < cols) tile[i][x] = in[(row0 + i) * ld + col0 + x];
    __syncthreads();
    for (int i = y; i < 32; i += THREADS / 32)
        if (col0 + i < cols && row0 + x < rows) out[(col0 + i) * rows + row0 + x] = tile[x][i];
}

cudaError_t flrq_launch_transpose(float *out, const float *in, int64_t rows, int64_t cols, int64_t ld,
                                  cudaStream_t stream) {
    int64_t col_tiles = flrq_ceil_div(cols, 32);
    FLRQ_LAUNCH(transpose_kernel, (unsigned)(flrq_ceil_div(rows, 32) * col_tiles), THREADS, 0, stream, out, in, rows,
                cols, ld, col_tiles);
    return cudaGetLastError();
}

/* ---- low-rank factors -------------------------------------------------------------------------------------------- */

__device__ static float quotient_at(const float *x, int64_t ld, const float *divisor, int64_t i, int64_t k) {
    return divisor ? x[i * ld + k] / divisor[i] : x[i * ld + k];
}

/* column_amax_kernel - largest |x / divisor| of every column
 *   in   x [m, ld] f32, b columns of it; divisor [m] f32 or NULL; bits [b] zeroed
 *   out  bits [b]  f32 bits; those of a NaN are above all numbers
 *   owns      block = 256 rows of 32 columns; thread = every eighth row of a column
 *   cost      one read; case "column_amax"
 *   numerics  IEEE division
 *   order     deterministic: a maximum has no order
 */
__global__ void __launch_bounds__(THREADS)
    column_amax_kernel(unsigned *bits, const float *x, int64_t ld, const float *divisor, int64_t m, int64_t b,
                       int64_t col_tiles) {
    __shared__ unsigned shared[THREADS / 32][32];
    int64_t row0 = (int64_t)blockIdx.x / col_tiles * 256;
    int64_t k = (int64_t)blockIdx.x % col_tiles * 32 + threadIdx.x % 32;
    unsigned most = 0;
    for (int64_t i = row0 + threadIdx.x / 32; i < row0 + 256 && i < m && k < b; i += THREADS / 32)
        most = max(most, __float_as_uint(fabsf(quotient_at(x, ld, divisor, i, k))));
    shared[threadIdx.x / 32][threadIdx.x % 32] = most;
    __syncthreads();
    if (threadIdx.x >= 32 || k >= b) return;
    for (int i = 0; i < THREADS / 32; i++) most = max(most, shared[i][threadIdx.x]);
    atomicMax(&bits[k], most);
}

cudaError_t flrq_launch_column_amax(uint32_t *bits, const float *x, int64_t ld, const float *divisor, int64_t m,
                                    int64_t b, cudaStream_t stream) {
    int64_t col_tiles = flrq_ceil_div(b, 32);
    FLRQ_LAUNCH(column_amax_kernel, (unsigned)(flrq_ceil_div(m, 256) * col_tiles), THREADS, 0, stream, bits, x, ld,
                divisor, m, b, col_tiles);
    return cudaGetLastError();
}

/* round_factor_kernel - a low-rank factor with the values that are stored
 *   in   x [m, ld] f32, b columns of it; divisor [m] or NULL; factor [b] f32
 *   out  out [m, b] or, transposed, [b, m]  f32 that are exact in f16 or bf16
 *   owns      block = 32 x 32, through shared memory where transposed; grid = tiles in x
 *   cost      one read, one write, both coalesced; case "round_factor"
 *   numerics  IEEE division, product with a power of two, rounding to nearest even
 *   order     deterministic
 */
__global__ void __launch_bounds__(THREADS)
    round_factor_kernel(float *out, const float *x, int64_t ld, const float *divisor, const float *factor, int64_t m,
                        int64_t b, int64_t col_tiles, bool transpose, bool half) {
    __shared__ float tile[32][33];
    int64_t row0 = (int64_t)blockIdx.x / col_tiles * 32, col0 = (int64_t)blockIdx.x % col_tiles * 32;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int i = warp; i < 32; i += THREADS / 32) {
        if (row0 + i >= m || col0 + lane >= b) continue;
        float value = quotient_at(x, ld, divisor, row0 + i, col0 + lane) * factor[col0 + lane];
        value = half ? __half2float(__float2half_rn(value)) : __bfloat162float(__float2bfloat16_rn(value));
        if (transpose)
            tile[i][lane] = value;
        else
            out[(row0 + i) * b + col0 + lane] = value;
    }
    if (!transpose) return;
    __syncthreads();
    for (int i = warp; i < 32; i += THREADS / 32)
        if (col0 + i < b && row0 + lane < m) out[(col0 + i) * m + row0 + lane] = tile[lane][i];
}

cudaError_t flrq_launch_round_factor(float *out, const float *x, int64_t ld, const float *divisor, const float *factor,
                                     int64_t m, int64_t b, int transpose, int32_t dtype, cudaStream_t stream) {
    int64_t col_tiles = flrq_ceil_div(b, 32);
    FLRQ_LAUNCH(round_factor_kernel, (unsigned)(flrq_ceil_div(m, 32) * col_tiles), THREADS, 0, stream, out, x, ld,
                divisor, factor, m, b, col_tiles, transpose != 0, dtype == FLRQ_F16);
    return cudaGetLastError();
}

/* ---- non-finite elements ----------------------------------------------------------------------------------------- */

/* first_nonfinite_kernel - where the first NaN or infinity is
 *   in   x [count] f32 or f64; result all ones
 *   out  result  smallest index
 *   owns      thread = one element
 *   order     deterministic: an integer minimum
 */
template <class T>
__global__ void __launch_bounds__(THREADS)
    first_nonfinite_kernel(unsigned long long *result, const T *x, int64_t count) {
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at < count && !isfinite(x[at])) atomicMin(result, (unsigned long long)at);
}

template <class T>
static cudaError_t first_nonfinite(unsigned long long *result, const T *x, int64_t count, cudaStream_t stream) {
    FLRQ_LAUNCH((first_nonfinite_kernel<T>), (unsigned)flrq_ceil_div(count, THREADS), THREADS, 0, stream, result, x,
                count);
    return cudaGetLastError();
}

cudaError_t flrq_launch_first_nonfinite_f32(unsigned long long *result, const float *x, int64_t count,
                                            cudaStream_t stream) {
    return first_nonfinite(result, x, count, stream);
}

cudaError_t flrq_launch_first_nonfinite_f64(unsigned long long *result, const double *x, int64_t count,
                                            cudaStream_t stream) {
    return first_nonfinite(result, x, count, stream);
}
