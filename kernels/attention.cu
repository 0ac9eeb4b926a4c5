/* attention.cu - causal attention over one sequence, with windows and grouped heads: an fp32 kernel for any head_dim
 * and a bf16 one for the matrix units.
 *
 * Both are flash attention: a block owns a tile of queries of one head, walks over the tiles of keys that any of them
 * may see and keeps the softmax running, so that scores exist for one tile at a time. Tiles that the causal mask or the
 * window hides are not visited. The blocks with the most keys start first. No atomics, and the order of every sum
 * depends on the shape alone. A masked score is -Inf before the maximum is taken and its weight 0, so what a query may
 * not see does not reach its output, as long as it is finite; a NaN or +Inf among its scores makes the output NaN.
 */
#include <string.h>

#include "device.cuh"
#include "forward_kernels.h"

enum { KEYS = 64 }; /* in a tile */

/* The sizes as kernels use them: token numbers are int, for the registers' sake. */
struct problem {
    float *out;         /* [tokens, heads, dim] */
    const float *q;     /* [tokens, heads, dim] */
    const float *k, *v; /* [tokens, kv_heads, dim] */
    int tokens, heads, kv_heads, dim;
    int window; /* that of all tokens where there is none */
    float scale;
};

static problem describe(const flrq_attention_args *a) {
    int64_t window = a->window > 0 && a->window < a->tokens ? a->window : a->tokens;
    return {a->out,           a->q,        a->k,    a->v, (int)a->tokens, (int)a->heads, (int)a->kv_heads,
            (int)a->head_dim, (int)window, a->scale};
}

/* blockIdx: the head, the tile of queries from the last, the tile of columns. False where there are too many. */
static bool grid_of(dim3 *grid, const flrq_attention_args *a, int queries, int columns) {
    int64_t y = flrq_ceil_div(a->tokens, queries), z = flrq_ceil_div(a->head_dim, columns);
    *grid = dim3((unsigned)a->heads, (unsigned)y, (unsigned)z);
    return y <= FLRQ_GRID_YZ_MAX && z <= FLRQ_GRID_YZ_MAX;
}

/* First key that a query sees. */
__device__ static int first_key(int query, int window) {
    return query >= window ? query - window + 1 : 0;
}

/* Of the keys key0 + c, those with low < c <= high are visible to `query`. */
struct span {
    int low, high;
};

__device__ static span visible_keys(int query, int key0, int window) {
    return {query - window - key0, query - key0};
}

/* ---- fp32 -------------------------------------------------------------------------------------------------------- */

enum {
    THREADS = 256,
    QUERIES = 64,
    DEPTH = 32,    /* columns of q and k staged at once */
    PITCH = 68,    /* floats from one column of staged q, k, p to the next: staging has no bank conflicts */
    COLUMNS = 128, /* of v and of the output */
    V_KEYS = 32,   /* keys of v staged at once, where q and k were */
    V_PITCH = COLUMNS + 4,
};

/* stage[d][row] = x[row][d] for 64 rows of x, `rows` of which exist, and columns d0 .. d0 + DEPTH - 1 of `dim`; absent
 * ones are 0. */
__device__ static void stage_columns(float *stage, const float *x, int64_t ld, int rows, int d0, int dim, bool wide) {
    for (int i = (int)threadIdx.x; i < 64 * DEPTH / 4; i += THREADS) {
        int row = i % 16 + i / 32 % 4 * 16, column = (i / 16 % 2 + i / 128 * 2) * 4;
        const float *from = x + row * ld + d0 + column;
        float v[4] = {};
        if (row < rows && wide && d0 + column < dim) {
            float4 four = *reinterpret_cast<const float4 *>(from);
            v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
        } else if (row < rows) {
            FLRQ_UNROLL
            for (int k = 0; k < 4; k++) v[k] = d0 + column + k < dim ? from[k] : 0.0f;
        }
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) stage[(column + k) * PITCH + row] = v[k];
    }
}

/* stage[row][c] = x[row][c] for V_KEYS rows, `rows` of which exist, and 128 columns, `columns` of which exist. */
__device__ static void stage_rows(float *stage, const float *x, int64_t ld, int rows, int columns, bool wide) {
    for (int i = (int)threadIdx.x; i < V_KEYS * COLUMNS / 4; i += THREADS) {
        int row = i / (COLUMNS / 4), column = i % (COLUMNS / 4) * 4;
        const float *from = x + row * ld + column;
        float v[4] = {};
        if (row < rows && wide && column < columns) {
            float4 four = *reinterpret_cast<const float4 *>(from);
            v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
        } else if (row < rows) {
            FLRQ_UNROLL
            for (int k = 0; k < 4; k++) v[k] = column + k < columns ? from[k] : 0.0f;
        }
        *reinterpret_cast<float4 *>(stage + row * V_PITCH + column) = make_float4(v[0], v[1], v[2], v[3]);
    }
}

/* Largest value and sum over the 16 threads that share four queries. */
__device__ static float max16(float value) {
    for (int offset = 8; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

__device__ static float sum16(float value) {
    for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__device__ static void multiply_add(float sum[4], const float4 &x, float y) {
    sum[0] = fmaf(x.x, y, sum[0]);
    sum[1] = fmaf(x.y, y, sum[1]);
    sum[2] = fmaf(x.z, y, sum[2]);
    sum[3] = fmaf(x.w, y, sum[3]);
}

/* attention_f32_kernel - out = softmax(scale q k^T, masked) v in fp32, any head_dim
 *   in    q        [tokens, heads, dim] fp32, row-major; k, v [tokens, kv_heads, dim] fp32
 *   out   out      [tokens, heads, dim] fp32
 *   owns           a block of 256 threads 64 queries of a head and 128 columns of the output (a wider head is several
 *                  blocks, each with the scores anew); a thread 4 x 4 scores of a tile of 64 keys, then 4 queries x 8
 *                  columns of the output; grid (heads, tiles of queries, tiles of columns)
 *   needs          kv_heads divides heads (caller); grid y and z <= 65535 (launcher: cudaErrorInvalidValue); q, k, v
 *                  16-byte aligned and dim % 4 == 0 where `wide` (launcher)
 *   cost           4 dim flops for each query and visible key on the fp32 units: at 128 columns 32 fused multiply-adds
 *                  for 3 reads of 16 bytes from shared memory, 16 for 2 in the scores, so about 2/3 of the fp32 rate
 *   numerics       products and sums by fmaf in fp32, exp to 2 ulp, running maximum; masked and non-finite scores as
 *                  the top of this file says
 *   order          deterministic: dim and keys first to last; the sum of weights by tiles, each by a butterfly over 16
 *                  lanes
 */
__global__ void __launch_bounds__(THREADS) attention_f32_kernel(problem a, bool wide) {
    __shared__ __align__(16) float stage[2 * DEPTH * PITCH];
    __shared__ __align__(16) float p[KEYS * PITCH]; /* [key][query] */
    float *q_stage = stage, *k_stage = stage + DEPTH * PITCH;
    int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16; /* queries 4 ty.., keys or columns 4 tx.. */
    int head = (int)blockIdx.x, kv_head = head / (a.heads / a.kv_heads), dim = a.dim;
    int query0 = ((int)gridDim.y - 1 - (int)blockIdx.y) * QUERIES, column0 = (int)blockIdx.z * COLUMNS;
    int end = query0 + QUERIES < a.tokens ? query0 + QUERIES : a.tokens;
    int64_t ld_q = (int64_t)a.heads * dim, ld_k = (int64_t)a.kv_heads * dim;
    const float *q = a.q + query0 * ld_q + (int64_t)head * dim;
    const float *k = a.k + (int64_t)kv_head * dim, *v = a.v + (int64_t)kv_head * dim + column0;
    float out[8][4] = {}, sum[4] = {}, max[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};

    for (int key0 = first_key(query0, a.window) / KEYS * KEYS; key0 < end; key0 += KEYS) {
        float s[4][4] = {}; /* [key][query] */
        for (int d0 = 0; d0 < dim; d0 += DEPTH) {
            __syncthreads(); /* what was staged before has been read */
            stage_columns(q_stage, q, ld_q, end - query0, d0, dim, wide);
            stage_columns(k_stage, k + key0 * ld_k, ld_k, end - key0, d0, dim, wide);
            __syncthreads();
            for (int d = 0; d < DEPTH; d++) {
                float4 x = *reinterpret_cast<const float4 *>(q_stage + d * PITCH + 4 * ty);
                float4 y = *reinterpret_cast<const float4 *>(k_stage + d * PITCH + 4 * tx);
                multiply_add(s[0], x, y.x);
                multiply_add(s[1], x, y.y);
                multiply_add(s[2], x, y.z);
                multiply_add(s[3], x, y.w);
            }
        }
        FLRQ_UNROLL
        for (int i = 0; i < 4; i++) {
            span seen = visible_keys(query0 + 4 * ty + i, key0 + 4 * tx, a.window);
            float top = -INFINITY, part = 0;
            FLRQ_UNROLL
            for (int j = 0; j < 4; j++) {
                s[j][i] = j > seen.low && j <= seen.high ? s[j][i] * a.scale : -INFINITY;
                top = fmaxf(top, s[j][i]);
            }
            top = fmaxf(max16(top), max[i]);
            float base = top == -INFINITY ? 0.0f : top, factor = expf(max[i] - base);
            max[i] = top;
            FLRQ_UNROLL
            for (int j = 0; j < 4; j++) {
                s[j][i] = expf(s[j][i] - base);
                part += s[j][i];
            }
            sum[i] = sum[i] * factor + sum16(part);
            FLRQ_UNROLL
            for (int c = 0; c < 8; c++) out[c][i] *= factor;
        }
        FLRQ_UNROLL
        for (int j = 0; j < 4; j++)
            *reinterpret_cast<float4 *>(p + (4 * tx + j) * PITCH + 4 * ty) =
                make_float4(s[j][0], s[j][1], s[j][2], s[j][3]);
        for (int part = 0; part < KEYS; part += V_KEYS) {
            __syncthreads();
            stage_rows(stage, v + (key0 + part) * ld_k, ld_k, end - key0 - part, dim - column0, wide);
            __syncthreads();
            for (int j = 0; j < V_KEYS; j++) {
                float4 x = *reinterpret_cast<const float4 *>(p + (part + j) * PITCH + 4 * ty);
                float4 y = *reinterpret_cast<const float4 *>(stage + j * V_PITCH + 4 * tx);
                float4 z = *reinterpret_cast<const float4 *>(stage + j * V_PITCH + COLUMNS / 2 + 4 * tx);
                multiply_add(out[0], x, y.x);
                multiply_add(out[1], x, y.y);
                multiply_add(out[2], x, y.z);
                multiply_add(out[3], x, y.w);
                multiply_add(out[4], x, z.x);
                multiply_add(out[5], x, z.y);
                multiply_add(out[6], x, z.z);
                multiply_add(out[7], x, z.w);
            }
        }
    }

    FLRQ_UNROLL
    for (int i = 0; i < 4; i++) {
        if (query0 + 4 * ty + i >= end) continue;
        float *row = a.out + (query0 + 4 * ty + i) * ld_q + (int64_t)head * dim;
        FLRQ_UNROLL
        for (int c = 0; c < 8; c++) {
            int column = column0 + c / 4 * (COLUMNS / 2) + 4 * tx + c % 4;
            if (column < dim) row[column] = out[c][i] / sum[i];
        }
    }
}

cudaError_t flrq_launch_attention_f32(const flrq_attention_args *a, cudaStream_t stream) {
    dim3 grid;
    if (!grid_of(&grid, a, QUERIES, COLUMNS)) return cudaErrorInvalidValue;
    bool wide = a->head_dim % 4 == 0 && flrq_aligned(a->q, 16) && flrq_aligned(a->k, 16) && flrq_aligned(a->v, 16);
    FLRQ_LAUNCH(attention_f32_kernel, grid, THREADS, 0, stream, describe(a), wide);
    return cudaGetLastError();
}

/* ---- bf16 -------------------------------------------------------------------------------------------------------- */

/*
 * Two kernels: pack_kernel rounds k and v to bf16, attention_bf16_kernel multiplies. D >= head_dim is a width with an
 * instance.
 *
 * Why k and v are packed first: a block would otherwise convert every tile again, for each of 16 tiles of queries at
 * 2048 tokens, and hold it in registers on its way, which are full. Packed tiles arrive by cp.async behind the
 * products, in one buffer each: v of a tile behind q k^T, the next k behind softmax and p v. Two blocks share a
 * multiprocessor, so that one's softmax meets the other's products.
 *
 * Why 32 queries a warp: each k and v fragment serves two products. With 16, shared memory gives 2048 clocks of reads
 * for 1024 clocks of products at the dense rate. Rows of D + 8 elements are an odd number of 16-byte units for every D
 * that is a multiple of 16, so ldmatrix meets no bank twice.
 *
 * Instructions of a warp for a tile of 64 keys at D = 128: 256 mma, 64 ldmatrix for k and v, 16 for q, 32 conversions;
 * for each of 64 scores a thread max, subtract, exp2 and add; 128 multiplications of the output where a maximum grew:
 * about 630 issue slots, 512 clocks of the special units, against 1024 clocks of products at the dense rate.
 *
 * Predicted for an H100, 2048 tokens, 32 heads x 128 (34 Gflop): packing 100 MB in 33 us, products at 350 Tflop/s in
 * 100 us, together 260 Tflop/s; with 8 kv heads 310.
 */
enum { WARPS = 4, PACK = 8 };

static const float LOG2_E = 1.44269504f;

struct packed_keys {
    const __nv_bfloat16 *k; /* [kv_heads, padded, D], v the same `to_v` elements on */
    int64_t to_v;
    int padded;
};

__device__ static uint32_t pack2(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* x[at .. at + 7] of a row of `dim` (nothing when row is NULL), times scale, as bf16. */
template <bool WIDE> __device__ __forceinline__ uint4 pack8(const float *row, int at, int dim, float scale) {
    float v[PACK] = {};
    if (WIDE && row && at < dim) {
        float4 x = *reinterpret_cast<const float4 *>(row + at), y = *reinterpret_cast<const float4 *>(row + at + 4);
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w, v[4] = y.x, v[5] = y.y, v[6] = y.z, v[7] = y.w;
    } else if (!WIDE && row) {
        FLRQ_UNROLL
        for (int k = 0; k < PACK; k++) v[k] = at + k < dim ? row[at + k] : 0.0f;
    }
    return make_uint4(pack2(v[0] * scale, v[1] * scale), pack2(v[2] * scale, v[3] * scale),
                      pack2(v[4] * scale, v[5] * scale), pack2(v[6] * scale, v[7] * scale));
}

/* pack_kernel - k and v as the matrix units want them
 *   in    a.k, a.v [tokens, kv_heads, dim] fp32, row-major
 *   out   packed   [k | v][kv_heads][padded, D] bf16; zeros from `tokens` and dim on
 *   owns           a thread 8 columns of a token; grid (ceil(padded * D / 8 / 256), 2 * kv_heads: k or v and the head)
 *   needs          padded = tokens to a multiple of 64, dim <= D, packed 16-byte aligned; 2 * kv_heads <= 65535
 *                  (flrq_attention_bf16_scratch(): 0); k, v 16-byte aligned and dim % 8 == 0 where `wide` (launcher)
 *   cost           reads 4 bytes and writes 2 for each element of k and v; bound by memory
 *   numerics       rounded to the nearest bf16, ties to even; NaN stays, Inf beyond 3.396e38
 *   order          deterministic: no sums
 */
template <int D>
__global__ void __launch_bounds__(THREADS) pack_kernel(uint4 *packed, problem a, int padded, bool wide) {
    const int units = D / PACK;
    int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (int64_t)padded * units) return;
    int token = (int)(index / units), column = (int)(index % units) * PACK, kv_head = (int)blockIdx.y % a.kv_heads;
    const float *x = (int)blockIdx.y < a.kv_heads ? a.k : a.v;
    const float *row = token < a.tokens ? x + ((int64_t)token * a.kv_heads + kv_head) * a.dim : nullptr;
    packed[(int64_t)blockIdx.y * padded * units + index] =
        wide ? pack8<true>(row, column, a.dim, 1.0f) : pack8<false>(row, column, a.dim, 1.0f);
}

/* The tile of queries from query0 on, times scale and log2(e). */
template <int D, int QUERY_TILE, bool WIDE>
__device__ __forceinline__ void load_queries(__nv_bfloat16 *tile, const problem &a, int head, int query0) {
    FLRQ_UNROLL
    for (int i = 0; i < QUERY_TILE * (D / PACK) / (32 * WARPS); i++) {
        int unit = (int)threadIdx.x + i * 32 * WARPS, row = unit / (D / PACK), column = unit % (D / PACK) * PACK;
        int query = query0 + row;
        const float *from = query < a.tokens ? a.q + ((int64_t)query * a.heads + head) * a.dim : nullptr;
        *reinterpret_cast<uint4 *>(tile + row * (D + PACK) + column) =
            pack8<WIDE>(from, column, a.dim, a.scale * LOG2_E);
    }
}

/* Starts the copy of a packed tile of KEYS rows; as many threads as make whole rows take part. */
template <int D> __device__ __forceinline__ void start_tile(__nv_bfloat16 *tile, const __nv_bfloat16 *from) {
    const int units = D / PACK, rows = 32 * WARPS / units;
    int row = (int)threadIdx.x / units, at = (int)threadIdx.x * PACK;
    tile += row * (D + PACK) + at % D;
    if (32 * WARPS % units == 0 || row < rows) {
        FLRQ_UNROLL
        for (int i = 0; i < KEYS; i += rows)
            if (KEYS % rows == 0 || row + i < KEYS) flrq_cp_async16(tile + i * (D + PACK), from + at + i * D);
    }
    flrq_cp_async_commit();
}

/* s = q k^T for 16 M_TILES queries of a warp and a tile of keys. A fragment: matrices (rows 0-7, depth 0-7), (rows
 * 8-15, 0-7), (rows 0-7, 8-15), (rows 8-15, 8-15); of k: (keys 0-7, depth 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15).
 */
template <int D, int M_TILES>
__device__ __forceinline__ void score_tile(float s[M_TILES][KEYS / 8][4], const __nv_bfloat16 *q,
                                           const __nv_bfloat16 *k) {
    int lane = (int)threadIdx.x % 32, row = lane % 8, matrix = lane / 8;
    q += (matrix % 2 * 8 + row) * (D + PACK) + matrix / 2 * 8;
    k += (matrix / 2 * 8 + row) * (D + PACK) + matrix % 2 * 8;
    FLRQ_UNROLL
    for (int m = 0; m < M_TILES; m++) {
        FLRQ_UNROLL
        for (int n = 0; n < KEYS / 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
    }
    FLRQ_UNROLL
    for (int d = 0; d < D; d += 16) {
        uint32_t x[M_TILES][4], y[4];
        FLRQ_UNROLL
        for (int m = 0; m < M_TILES; m++) flrq_ldmatrix_x4(x[m], q + m * 16 * (D + PACK) + d);
        FLRQ_UNROLL
        for (int n = 0; n < KEYS / 16; n++) {
            flrq_ldmatrix_x4(y, k + n * 16 * (D + PACK) + d);
            FLRQ_UNROLL
            for (int m = 0; m < M_TILES; m++) {
                flrq_mma_bf16_16816(s[m][2 * n], x[m], y);
                flrq_mma_bf16_16816(s[m][2 * n + 1], x[m], y + 2);
            }
        }
    }
}

/* out += p v. The scores of two neighbouring 16 x 8 tiles are, rounded, the A fragment of 16 keys; of v: matrices (keys
 * 0-7, columns 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), each transposed. */
template <int D, int M_TILES>
__device__ __forceinline__ void add_values(float out[M_TILES][D / 8][4], const float p[M_TILES][KEYS / 8][4],
                                           const __nv_bfloat16 *v) {
    int lane = (int)threadIdx.x % 32, row = lane % 8, matrix = lane / 8;
    v += (matrix % 2 * 8 + row) * (D + PACK) + matrix / 2 * 8;
    FLRQ_UNROLL
    for (int j = 0; j < KEYS / 16; j++) {
        uint32_t x[M_TILES][4], y[4];
        FLRQ_UNROLL
        for (int m = 0; m < M_TILES; m++) {
            const float *left = p[m][2 * j], *right = p[m][2 * j + 1];
            x[m][0] = pack2(left[0], left[1]), x[m][1] = pack2(left[2], left[3]);
            x[m][2] = pack2(right[0], right[1]), x[m][3] = pack2(right[2], right[3]);
        }
        FLRQ_UNROLL
        for (int n = 0; n < D / 16; n++) {
            flrq_ldmatrix_x4_trans(y, v + j * 16 * (D + PACK) + n * 16);
            FLRQ_UNROLL
            for (int m = 0; m < M_TILES; m++) {
                flrq_mma_bf16_16816(out[m][2 * n], x[m], y);
                flrq_mma_bf16_16816(out[m][2 * n + 1], x[m], y + 2);
            }
        }
    }
}

/* Hides what the queries from `first` on do not see. */
template <int M_TILES>
__device__ __forceinline__ void mask_tile(float s[M_TILES][KEYS / 8][4], int first, int key0, int window) {
    int lane = (int)threadIdx.x % 32;
    FLRQ_UNROLL
    for (int r = 0; r < 2 * M_TILES; r++) {
        span seen = visible_keys(first + r / 2 * 16 + r % 2 * 8 + lane / 4, key0 + lane % 4 * 2, window);
        FLRQ_UNROLL
        for (int n = 0; n < KEYS / 8; n++) {
            float *pair = &s[r / 2][n][r % 2 * 2];
            if (n * 8 <= seen.low || n * 8 > seen.high) pair[0] = -INFINITY;
            if (n * 8 + 1 <= seen.low || n * 8 + 1 > seen.high) pair[1] = -INFINITY;
        }
    }
}

/* Largest of the values that the four lanes of a row hold. */
__device__ static float max_of_row(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

/* Scores (in units of log2) to weights 2^(s - max), with the running maxima, sums (of this lane's columns) and output
 * adapted. Row 2 m + h of a lane is query m * 16 + h * 8 + lane / 4 of the warp. */
template <int D, int M_TILES>
__device__ __forceinline__ void soften(float s[M_TILES][KEYS / 8][4], float out[M_TILES][D / 8][4],
                                       float max[2 * M_TILES], float sum[2 * M_TILES]) {
    FLRQ_UNROLL
    for (int r = 0; r < 2 * M_TILES; r++) {
        float top = max[r], part = 0;
        FLRQ_UNROLL
        for (int n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
        top = max_of_row(top);
        float base = top == -INFINITY ? 0.0f : top, factor = flrq_exp2(max[r] - base);
        if (__any_sync(0xffffffffu, top > max[r])) {
            FLRQ_UNROLL
            for (int n = 0; n < D / 8; n++) {
                out[r / 2][n][r % 2 * 2] *= factor;
                out[r / 2][n][r % 2 * 2 + 1] *= factor;
            }
        }
        max[r] = top;
        FLRQ_UNROLL
        for (int n = 0; n < KEYS / 8; n++) {
            float *pair = &s[r / 2][n][r % 2 * 2];
            pair[0] = flrq_exp2(pair[0] - base);
            pair[1] = flrq_exp2(pair[1] - base);
            part += pair[0] + pair[1];
        }
        sum[r] = fmaf(sum[r], factor, part);
    }
}

/* attention_bf16_kernel - out = softmax(scale q k^T, masked) v by bf16 products
 *   in    a.q      [tokens, heads, dim] fp32, row-major; packed: k, v [kv_heads, padded, D] bf16 of pack_kernel
 *   out   a.out    [tokens, heads, dim] fp32
 *   owns           a block of 4 warps 128 queries of a head (64 at D = 256), a warp 32 (16) of them; grid (heads, tiles
 *                  of queries)
 *   needs          kv_heads divides heads (caller); grid y <= 65535 (launcher: cudaErrorInvalidValue); (queries + 128)
 *                  rows of D + 8 bf16 of dynamic shared memory; q 16-byte aligned and dim % 8 == 0 where `wide_q`, out
 *                  8-byte aligned and dim even where `wide_out` (launcher)
 *   cost           4 D flops for each query and visible key on the matrix units; q read and out written once, k and v
 *                  from L2 for each tile of queries
 *   numerics       q scale log2(e), k, v and the weights rounded to bf16; products, maxima, exp2 and sums in fp32; the
 *                  sum of weights is that of the weights before rounding; masked and non-finite scores as the top of
 *                  this file says
 *   order          deterministic: keys tile by tile, first to last; within 16 the order of the matrix units
 */
template <int D, int M_TILES>
__global__ void __launch_bounds__(32 * WARPS, 2)
    attention_bf16_kernel(problem a, packed_keys packed, bool wide_q, bool wide_out) {
    FLRQ_DYN_SMEM(__nv_bfloat16, shared);
    const int queries = 16 * M_TILES * WARPS, pitch = D + PACK;
    __nv_bfloat16 *q_tile = shared, *k_tile = q_tile + queries * pitch, *v_tile = k_tile + KEYS * pitch;
    int head = (int)blockIdx.x, kv_head = head / (a.heads / a.kv_heads);
    int query0 = ((int)gridDim.y - 1 - (int)blockIdx.y) * queries;
    int end = query0 + queries < a.tokens ? query0 + queries : a.tokens;
    int key0 = first_key(query0, a.window) / KEYS * KEYS;
    const __nv_bfloat16 *k = packed.k + ((int64_t)kv_head * packed.padded + key0) * D;

    start_tile<D>(k_tile, k);
    if (wide_q)
        load_queries<D, queries, true>(q_tile, a, head, query0);
    else
        load_queries<D, queries, false>(q_tile, a, head, query0);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int first = query0 + warp * 16 * M_TILES, last = first + 16 * M_TILES - 1; /* queries of this warp */
    float out[M_TILES][D / 8][4] = {}, max[2 * M_TILES], sum[2 * M_TILES];
    FLRQ_UNROLL
    for (int r = 0; r < 2 * M_TILES; r++) max[r] = -INFINITY, sum[r] = 0;
    for (; key0 < end; key0 += KEYS, k += KEYS * D) {
        bool seen = key0 <= last && key0 + KEYS > first_key(first, a.window);
        float s[M_TILES][KEYS / 8][4];
        flrq_cp_async_wait<0>();
        __syncthreads(); /* k is there, v of the tile before has been read */
        start_tile<D>(v_tile, k + packed.to_v);
        if (seen) score_tile<D, M_TILES>(s, q_tile + warp * 16 * M_TILES * pitch, k_tile);
        flrq_cp_async_wait<0>();
        __syncthreads(); /* v is there, k has been read */
        if (key0 + KEYS < end) start_tile<D>(k_tile, k + KEYS * D);
        if (!seen) continue;
        if (key0 + KEYS - 1 > first || key0 <= last - a.window) mask_tile<M_TILES>(s, first, key0, a.window);
        soften<D, M_TILES>(s, out, max, sum);
        add_values<D, M_TILES>(out, s, v_tile);
    }

    FLRQ_UNROLL
    for (int r = 0; r < 2 * M_TILES; r++) {
        float total = sum[r] + __shfl_xor_sync(0xffffffffu, sum[r], 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        int query = first + r / 2 * 16 + r % 2 * 8 + lane / 4;
        if (query >= a.tokens) continue;
        int column = lane % 4 * 2, left = a.dim - column;
        float inverse = 1.0f / total, *row = a.out + ((int64_t)query * a.heads + head) * a.dim + column;
        FLRQ_UNROLL
        for (int n = 0; n < D / 8; n++) {
            float x = out[r / 2][n][r % 2 * 2] * inverse, y = out[r / 2][n][r % 2 * 2 + 1] * inverse;
            if (wide_out) {
                if (n * 8 < left) *reinterpret_cast<float2 *>(row + n * 8) = make_float2(x, y);
            } else {
                if (n * 8 < left) row[n * 8] = x;
                if (n * 8 + 1 < left) row[n * 8 + 1] = y;
            }
        }
    }
}

/* Width of the instance for a head_dim, or 0. */
static int instance_of(int64_t head_dim) {
    static const int widths[] = {64, 80, 96, 128, 256};
    for (int width : widths)
        if (head_dim <= width) return width;
    return 0;
}

static size_t packed_elements(const flrq_attention_args *a) {
    return (size_t)(a->kv_heads * flrq_ceil_div(a->tokens, KEYS) * KEYS) * (size_t)instance_of(a->head_dim);
}

size_t flrq_attention_bf16_scratch(const flrq_attention_args *a) {
    if (2 * a->kv_heads > FLRQ_GRID_YZ_MAX) return 0;
    return 2 * packed_elements(a) * sizeof(__nv_bfloat16);
}

template <int D, int M_TILES>
static cudaError_t launch_bf16(const flrq_attention_args *a, __nv_bfloat16 *scratch, cudaStream_t stream) {
    const int queries = 16 * M_TILES * WARPS, bytes = (queries + 2 * KEYS) * (D + PACK) * (int)sizeof(__nv_bfloat16);
    dim3 grid;
    if (!grid_of(&grid, a, queries, D)) return cudaErrorInvalidValue;
    packed_keys packed = {scratch, (int64_t)packed_elements(a), (int)(flrq_ceil_div(a->tokens, KEYS) * KEYS)};
    bool whole = a->head_dim % PACK == 0;
    FLRQ_LAUNCH(
        (pack_kernel<D>),
        dim3((unsigned)flrq_ceil_div((int64_t)packed.padded * (D / PACK), THREADS), (unsigned)(2 * a->kv_heads)),
        THREADS, 0, stream, reinterpret_cast<uint4 *>(scratch), describe(a), packed.padded,
        whole && flrq_aligned(a->k, 16) && flrq_aligned(a->v, 16));
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess)
        error =
            cudaFuncSetAttribute(attention_bf16_kernel<D, M_TILES>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    FLRQ_LAUNCH((attention_bf16_kernel<D, M_TILES>), grid, 32 * WARPS, bytes, stream, describe(a), packed,
                whole && flrq_aligned(a->q, 16), a->head_dim % 2 == 0 && flrq_aligned(a->out, 8));
    return cudaGetLastError();
}

cudaError_t flrq_launch_attention_bf16(const flrq_attention_args *a, void *scratch, cudaStream_t stream) {
    __nv_bfloat16 *packed = static_cast<__nv_bfloat16 *>(scratch);
    switch (instance_of(a->head_dim)) {
    case 64:
        return launch_bf16<64, 2>(a, packed, stream);
    case 80:
        return launch_bf16<80, 2>(a, packed, stream);
    case 96:
        return launch_bf16<96, 2>(a, packed, stream);
    case 128:
        return launch_bf16<128, 2>(a, packed, stream);
    case 256:
        return launch_bf16<256, 1>(a, packed, stream);
    default:
        return cudaErrorInvalidValue;
    }
}
