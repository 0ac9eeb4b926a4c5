/* pack.cu - the little-endian bit stream of codes: 2, 3, 4 or 8 bits each, rows begin at words of 32 bits.
 *
 * Where rows end at whole words the matrix is one stream, and a thread takes 32 codes of it: two loads of 16 bytes, as
 * many words as a code has bits. At 3 bits the three words of a thread pass through the warp, so that every store
 * writes 128 neighbouring bytes. Rows that end inside a word, unaligned arrays and the end of a stream go word by word.
 * At 8 bits a stream is a copy. Floor: 1 + bits / 8 bytes per code; 2 instructions per code (3 bits: 4) are below it.
 */
#include "device.cuh"
#include "quant_kernels.h"

enum { UNIT = 32, THREADS = 256, BLOCKS_MOST = 1 << 20 };

/* Four codes of a byte each, closed up to 4 * BITS bits. */
template <int BITS> __device__ __forceinline__ static uint32_t close_up(uint32_t x) {
    const uint32_t one = (1u << BITS) - 1, two = (1u << 2 * BITS) - 1, gap = 8 - BITS;
    x &= one * 0x01010101u;
    x = (x | x >> gap) & two * 0x00010001u;
    return (x | x >> 2 * gap) & ((two << 2 * BITS) | two);
}

/* The inverse; higher bits of x are ignored. */
template <int BITS> __device__ __forceinline__ static uint32_t move_apart(uint32_t x) {
    const uint32_t one = (1u << BITS) - 1, two = (1u << 2 * BITS) - 1, gap = 8 - BITS;
    x &= (two << 2 * BITS) | two;
    x = (x | x << 2 * gap) & two * 0x00010001u;
    return (x | x << gap) & one * 0x01010101u;
}

/* Word 32 * k + lane of a warp's 96, when lane i has words 3i, 3i + 1, 3i + 2: x, y, z. All lanes call. */
__device__ __forceinline__ static uint32_t third_of_warp(uint32_t x, uint32_t y, uint32_t z, int k, int lane) {
    const int at = 32 * k + lane, from = at / 3, which = at % 3;
    const uint32_t a = __shfl_sync(0xffffffffu, x, from), b = __shfl_sync(0xffffffffu, y, from),
                   c = __shfl_sync(0xffffffffu, z, from);
    return which == 0 ? a : which == 1 ? b : c;
}

/* The inverse: word 3 * lane + w, when lane i has words i, 32 + i, 64 + i: x, y, z. */
__device__ __forceinline__ static uint32_t word_of_warp(uint32_t x, uint32_t y, uint32_t z, int w, int lane) {
    const int at = 3 * lane + w, from = at % 32, which = at / 32;
    const uint32_t a = __shfl_sync(0xffffffffu, x, from), b = __shfl_sync(0xffffffffu, y, from),
                   c = __shfl_sync(0xffffffffu, z, from);
    return which == 0 ? a : which == 1 ? b : c;
}

/* pack_stream - units of 32 codes of one stream
 *   in   code      [units * 32] uint8, contiguous; bits of a code beyond BITS are ignored
 *   out  packed    [units * BITS] words, little-endian bit stream
 *   owns           lane = a unit; warps in steps of the grid
 *   needs          code 16-byte aligned, packed 4 * BITS bytes at 2 and 4 bits, rows that end at whole words
 *                  (launcher: codes_of_stream(), else pack_words)
 *   cost           reads 32 and writes 4 * BITS bytes a unit; memory bound
 *   numerics       integers only
 *   order          deterministic: every word has one writer
 */
template <int BITS>
__global__ void __launch_bounds__(THREADS) pack_stream(uint32_t *packed, const uint8_t *code, int64_t units) {
    const int lane = (int)threadIdx.x % 32;
    for (int64_t unit0 = (int64_t)blockIdx.x * THREADS + threadIdx.x - lane; unit0 < units;
         unit0 += (int64_t)gridDim.x * THREADS) {
        const int64_t unit = unit0 + lane;
        uint4 low = make_uint4(0, 0, 0, 0), high = low;
        if (unit < units) {
            low = reinterpret_cast<const uint4 *>(code)[2 * unit];
            high = reinterpret_cast<const uint4 *>(code)[2 * unit + 1];
        }
        const uint32_t fours[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        uint32_t words[BITS] = {};
        FLRQ_UNROLL
        for (int k = 0; k < 8; k++) {
            const uint32_t x = close_up<BITS>(fours[k]);
            const int at = 4 * BITS * k, word = at / 32, shift = at % 32;
            words[word] |= x << shift;
            if (shift + 4 * BITS > 32) words[word + 1] |= x >> (32 - shift);
        }
        if (BITS == 3) {
            FLRQ_UNROLL
            for (int k = 0; k < 3; k++) {
                const uint32_t word = third_of_warp(words[0], words[1], words[BITS - 1], k, lane);
                if (32 * k + lane < 3 * (units - unit0)) packed[3 * unit0 + 32 * k + lane] = word;
            }
        } else if (unit < units) {
            if (BITS == 2)
                reinterpret_cast<uint2 *>(packed)[unit] = make_uint2(words[0], words[1]);
            else
                reinterpret_cast<uint4 *>(packed)[unit] =
                    make_uint4(words[0], words[1], words[BITS - 2], words[BITS - 1]);
        }
    }
}

/* unpack_stream - the inverse
 *   in   packed    [units * BITS] words, little-endian bit stream
 *   out  code      [units * 32] uint8, contiguous; bits beyond BITS are 0
 *   owns           lane = a unit; warps in steps of the grid
 *   needs          as pack_stream (launcher: codes_of_stream(), else unpack_codes)
 *   cost           reads 4 * BITS and writes 32 bytes a unit; memory bound
 *   numerics       integers only
 *   order          deterministic: every code has one writer
 */
template <int BITS>
__global__ void __launch_bounds__(THREADS) unpack_stream(uint8_t *code, const uint32_t *packed, int64_t units) {
    const int lane = (int)threadIdx.x % 32;
    for (int64_t unit0 = (int64_t)blockIdx.x * THREADS + threadIdx.x - lane; unit0 < units;
         unit0 += (int64_t)gridDim.x * THREADS) {
        const int64_t unit = unit0 + lane;
        uint32_t words[BITS] = {}, fours[8];
        if (BITS == 3) {
            uint32_t loaded[3];
            FLRQ_UNROLL
            for (int k = 0; k < 3; k++)
                loaded[k] = 32 * k + lane < 3 * (units - unit0) ? packed[3 * unit0 + 32 * k + lane] : 0;
            FLRQ_UNROLL
            for (int k = 0; k < 3; k++) words[k] = word_of_warp(loaded[0], loaded[1], loaded[2], k, lane);
        } else if (unit < units && BITS == 2) {
            const uint2 x = reinterpret_cast<const uint2 *>(packed)[unit];
            words[0] = x.x, words[1] = x.y;
        } else if (unit < units) {
            const uint4 x = reinterpret_cast<const uint4 *>(packed)[unit];
            words[0] = x.x, words[1] = x.y, words[BITS - 2] = x.z, words[BITS - 1] = x.w;
        }
        FLRQ_UNROLL
        for (int k = 0; k < 8; k++) {
            const int at = 4 * BITS * k, word = at / 32, shift = at % 32;
            uint32_t x = words[word] >> shift;
            if (shift + 4 * BITS > 32) x |= words[word + 1] << (32 - shift);
            fours[k] = move_apart<BITS>(x);
        }
        if (unit >= units) continue;
        reinterpret_cast<uint4 *>(code)[2 * unit] = make_uint4(fours[0], fours[1], fours[2], fours[3]);
        reinterpret_cast<uint4 *>(code)[2 * unit + 1] = make_uint4(fours[4], fours[5], fours[6], fours[7]);
    }
}

/* pack_words - rows of any length, codes at any address
 *   in   code      [rows, cols] uint8, row-major; bits of a code beyond `bits` are ignored
 *   out  packed    [rows, words] words, little-endian bit stream; 0 beyond the last code of a row
 *   owns           a thread a word, from 4 to 16 codes; in steps of the grid
 *   needs          words = ceil(cols * bits / 32), bits 2, 3, 4 or 8 (caller: op_check_pack())
 *   cost           a byte read and bits / 8 written for each code, single bytes: bound by instructions and L1
 *   numerics       integers only
 *   order          deterministic: every word has one writer
 */
__global__ void __launch_bounds__(THREADS)
    pack_words(uint32_t *packed, const uint8_t *code, int64_t rows, int64_t cols, int64_t words, int bits) {
    const int64_t count = rows * words, step = (int64_t)gridDim.x * THREADS;
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < count; at += step) {
        const int64_t row = at / words, bit0 = at % words * 32, first = bit0 / bits;
        uint32_t word = 0;
        for (int64_t j = first; j < cols && j * bits < bit0 + 32; j++) {
            const uint64_t x = code[row * cols + j] & ((1u << bits) - 1);
            word |= (uint32_t)(j * bits >= bit0 ? x << (j * bits - bit0) : x >> (bit0 - j * bits));
        }
        packed[at] = word;
    }
}

/* unpack_codes - the inverse, for rows of any length
 *   in   packed    [rows, words] words, little-endian bit stream
 *   out  code      [rows, cols] uint8, row-major, at any address; bits beyond `bits` are 0
 *   owns           a thread a code; in steps of the grid
 *   needs          words = ceil(cols * bits / 32), bits 2, 3, 4 or 8 (caller: op_check_pack())
 *   cost           bits / 8 bytes read and one written for each code, single bytes: bound by instructions and L1
 *   numerics       integers only
 *   order          deterministic: every code has one writer
 */
__global__ void __launch_bounds__(THREADS)
    unpack_codes(uint8_t *code, const uint32_t *packed, int64_t rows, int64_t cols, int64_t words, int bits) {
    const int64_t count = rows * cols, step = (int64_t)gridDim.x * THREADS;
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at < count; at += step) {
        const int64_t row = at / cols, bit = at % cols * bits, word = row * words + bit / 32;
        const int shift = (int)(bit % 32);
        uint32_t x = packed[word] >> shift;
        if (shift + bits > 32) x |= packed[word + 1] << (32 - shift);
        code[at] = (uint8_t)(x & ((1u << bits) - 1));
    }
}

/* ---- launchers -------------------------------------------------------------------------------------------------- */

static unsigned blocks_for(int64_t threads) {
    const int64_t blocks = (threads + THREADS - 1) / THREADS;
    return blocks < BLOCKS_MOST ? (unsigned)blocks : (unsigned)BLOCKS_MOST;
}

/* Codes at the start of the matrix that the stream kernels may take: all, but for a rest below 32, when rows end at
 * whole words and the arrays are aligned; else none. */
static int64_t codes_of_stream(const void *packed, const void *code, int64_t rows, int64_t cols, int bits) {
    const size_t width = bits == 3 ? 4 : bits == 2 ? 8 : 16;
    if (cols * bits % 32 != 0 || !flrq_aligned(packed, width) || !flrq_aligned(code, 16)) return 0;
    return rows * cols / UNIT * UNIT;
}

cudaError_t flrq_launch_pack(int32_t *packed, const uint8_t *code, int64_t rows, int64_t cols, int bits,
                             cudaStream_t stream) {
    uint32_t *to = reinterpret_cast<uint32_t *>(packed);
    if (bits == 8 && cols % 4 == 0)
        return cudaMemcpyAsync(to, code, (size_t)(rows * cols), cudaMemcpyDeviceToDevice, stream);
    const int64_t done = codes_of_stream(packed, code, rows, cols, bits), units = done / UNIT;
    if (units > 0 && bits == 2) FLRQ_LAUNCH((pack_stream<2>), blocks_for(units), THREADS, 0, stream, to, code, units);
    if (units > 0 && bits == 3) FLRQ_LAUNCH((pack_stream<3>), blocks_for(units), THREADS, 0, stream, to, code, units);
    if (units > 0 && bits == 4) FLRQ_LAUNCH((pack_stream<4>), blocks_for(units), THREADS, 0, stream, to, code, units);
    if (done > 0) {
        to += units * bits, code += done;
        cols = rows * cols - done, rows = 1;
    }
    if (cols == 0) return cudaGetLastError();
    const int64_t words = (cols * bits + 31) / 32;
    FLRQ_LAUNCH(pack_words, blocks_for(rows * words), THREADS, 0, stream, to, code, rows, cols, words, bits);
    return cudaGetLastError();
}

cudaError_t flrq_launch_unpack(uint8_t *code, const int32_t *packed, int64_t rows, int64_t cols, int bits,
                               cudaStream_t stream) {
    const uint32_t *from = reinterpret_cast<const uint32_t *>(packed);
    if (bits == 8 && cols % 4 == 0)
        return cudaMemcpyAsync(code, from, (size_t)(rows * cols), cudaMemcpyDeviceToDevice, stream);
    const int64_t done = codes_of_stream(packed, code, rows, cols, bits), units = done / UNIT;
    if (units > 0 && bits == 2)
        FLRQ_LAUNCH((unpack_stream<2>), blocks_for(units), THREADS, 0, stream, code, from, units);
    if (units > 0 && bits == 3)
        FLRQ_LAUNCH((unpack_stream<3>), blocks_for(units), THREADS, 0, stream, code, from, units);
    if (units > 0 && bits == 4)
        FLRQ_LAUNCH((unpack_stream<4>), blocks_for(units), THREADS, 0, stream, code, from, units);
    if (done > 0) {
        from += units * bits, code += done;
        cols = rows * cols - done, rows = 1;
    }
    if (cols == 0) return cudaGetLastError();
    const int64_t words = (cols * bits + 31) / 32;
    FLRQ_LAUNCH(unpack_codes, blocks_for(rows * cols), THREADS, 0, stream, code, from, rows, cols, words, bits);
    return cudaGetLastError();
}
