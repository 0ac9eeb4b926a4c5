/* load4.cuh - four neighbouring elements of an operand at once, without its low-rank part and column scale.
 *
 * What flrq_view_base() gives, by loads of 8 or 16 bytes where the launcher found them aligned (flrq_view_wide()).
 */
#ifndef FLRQ_KERNELS_LOAD4_CUH
#define FLRQ_KERNELS_LOAD4_CUH

#include "device.cuh"

/** True where all groups of four columns that begin at a multiple of four may be loaded at once. */
static inline bool flrq_view_wide(const flrq_view *v) {
    if (v->cols % 4 != 0) return false;
    if (v->dense && (v->ld % 4 != 0 || !flrq_aligned(v->dense, v->dtype == FLRQ_F32 ? 16 : 8))) return false;
    return !v->code || (v->group % 4 == 0 && flrq_aligned(v->code, 4));
}

/** Four neighbouring dense elements, the first at element `at`, aligned to four elements. */
__device__ __forceinline__ void flrq_load_dense4(float (&out)[4], const flrq_view &v, int64_t at) {
    if (v.dtype == FLRQ_F32) {
        float4 x = *reinterpret_cast<const float4 *>(static_cast<const float *>(v.dense) + at);
        out[0] = x.x, out[1] = x.y, out[2] = x.z, out[3] = x.w;
        return;
    }
    uint2 bits = *reinterpret_cast<const uint2 *>(static_cast<const uint16_t *>(v.dense) + at);
    uint32_t words[2] = {bits.x, bits.y};
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) {
        uint32_t half = words[k / 2] >> 16 * (k % 2) & 0xffffu;
        out[k] = v.dtype == FLRQ_BF16 ? __uint_as_float(half << 16) : __half2float(__ushort_as_half((uint16_t)half));
    }
}

/** The same for rows row0 .. row0 + 3 from column j on: all loads are issued before the first is used. */
__device__ __forceinline__ void flrq_load_rows4(float (&out)[4][4], const flrq_view &v, int64_t row0, int64_t j) {
    const int64_t at = row0 * v.ld + j;
    if (v.dtype == FLRQ_F32) {
        const float *from = static_cast<const float *>(v.dense) + at;
        FLRQ_UNROLL
        for (int i = 0; i < 4; i++, from += v.ld) {
            const float4 x = *reinterpret_cast<const float4 *>(from);
            out[i][0] = x.x, out[i][1] = x.y, out[i][2] = x.z, out[i][3] = x.w;
        }
        return;
    }
    const uint16_t *from = static_cast<const uint16_t *>(v.dense) + at;
    uint2 bits[4];
    FLRQ_UNROLL
    for (int i = 0; i < 4; i++, from += v.ld) bits[i] = *reinterpret_cast<const uint2 *>(from);
    if (v.dtype == FLRQ_BF16) {
        FLRQ_UNROLL
        for (int i = 0; i < 4; i++) {
            out[i][0] = __uint_as_float(bits[i].x << 16), out[i][1] = __uint_as_float(bits[i].x & 0xffff0000u);
            out[i][2] = __uint_as_float(bits[i].y << 16), out[i][3] = __uint_as_float(bits[i].y & 0xffff0000u);
        }
        return;
    }
    FLRQ_UNROLL
    for (int i = 0; i < 4; i++) {
        out[i][0] = __half2float(__ushort_as_half((uint16_t)(bits[i].x & 0xffffu)));
        out[i][1] = __half2float(__ushort_as_half((uint16_t)(bits[i].x >> 16)));
        out[i][2] = __half2float(__ushort_as_half((uint16_t)(bits[i].y & 0xffffu)));
        out[i][3] = __half2float(__ushort_as_half((uint16_t)(bits[i].y >> 16)));
    }
}

/** Adds the codes of rows row0 .. row0 + 3 from column j on; j % 4 == 0 and flrq_view_wide(). */
__device__ __forceinline__ void flrq_add_codes4(float (&out)[4][4], const flrq_view &v, int64_t row0, int64_t j) {
    const int64_t cell = row0 * v.n_groups + j / v.group;
    const uint8_t *from = v.code + row0 * v.cols + j;
    uint32_t codes[4];
    float scale[4], zero[4];
    FLRQ_UNROLL
    for (int i = 0; i < 4; i++) {
        codes[i] = *reinterpret_cast<const uint32_t *>(from + i * v.cols);
        scale[i] = v.scale[cell + i * v.n_groups];
        zero[i] = v.zero ? (float)v.zero[cell + i * v.n_groups] : v.middle;
    }
    FLRQ_UNROLL
    for (int i = 0; i < 4; i++) {
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++)
            out[i][k] = fmaf(v.codes_sign * scale[i], (float)(codes[i] >> 8 * k & 0xffu) - zero[i], out[i][k]);
    }
}

/** Elements (i, j) .. (i, j+3); those from column `end` on are 0. `wide`: j % 4 == 0 and flrq_view_wide(). */
__device__ __forceinline__ void flrq_load_base4(float (&out)[4], const flrq_view &v, int64_t i, int64_t j, int64_t end,
                                                bool wide) {
    if (!wide || j + 4 > end) {
        FLRQ_UNROLL
        for (int k = 0; k < 4; k++) out[k] = j + k < end ? flrq_view_base(v, i, j + k) : 0.0f;
        return;
    }
    if (v.dense)
        flrq_load_dense4(out, v, i * v.ld + j);
    else
        out[0] = out[1] = out[2] = out[3] = 0.0f;
    if (!v.code) return;
    int64_t cell = i * v.n_groups + j / v.group;
    float scale = v.codes_sign * v.scale[cell], zero = v.zero ? (float)v.zero[cell] : v.middle;
    uint32_t codes = *reinterpret_cast<const uint32_t *>(v.code + i * v.cols + j);
    FLRQ_UNROLL
    for (int k = 0; k < 4; k++) out[k] = fmaf(scale, (float)(codes >> 8 * k & 0xffu) - zero, out[k]);
}

#endif
