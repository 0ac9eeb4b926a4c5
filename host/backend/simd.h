/* simd.h - a thin vector layer: one kernel source, compiled once per instruction set (generic, avx2, avx512).
 *
 * Every simd_*.c includes this, writes kernels with the types and operations below and fills its part of a cpu_kernels
 * table in a function named by SIMD_NAME(). The generic build uses plain C on arrays of 8, which a compiler turns into
 * SSE2 or NEON; fused multiply-add is explicit (v_fma), because the build forbids contraction.
 */
#ifndef FLRQ_BACKEND_SIMD_H
#define FLRQ_BACKEND_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SIMD_CAT_(a, b) a##_##b
#define SIMD_CAT(a, b)  SIMD_CAT_(a, b)
#define SIMD_NAME(name) SIMD_CAT(name, CPU_ISA)

#if defined(CPU_ISA_avx512)

#include <immintrin.h>
enum { V = 16 }; /* floats in a vector */
typedef __m512 vf;
typedef __m512i vi;
static inline vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vf a) {
    _mm512_storeu_ps(p, a);
}
static inline vf v_load_n(const float *p, int n) { /* n <= V lanes, the others 0 */
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
static inline void v_store_n(float *p, vf a, int n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}
static inline vf v_set(float a) {
    return _mm512_set1_ps(a);
}
static inline vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
static inline vf v_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
static inline vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
static inline vf v_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
} /* a*b + c */
static inline vf v_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
} /* c - a*b */
static inline vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
} /* b when either is NaN */
static inline vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
static inline vf v_abs(vf a) {
    return _mm512_abs_ps(a);
}
static inline vf v_maxabs(vf a, vf b) {
    return _mm512_range_ps(a, b, 0x0b);
} /* max(|a|, |b|) in one instruction */
static inline vf v_round(vf a) {
    return _mm512_roundscale_ps(a, 8);
} /* to nearest even, no exceptions */
static inline float v_sum(vf a) {
    return _mm512_reduce_add_ps(a);
}
static inline float v_maxall(vf a) {
    return _mm512_reduce_max_ps(a);
}
static inline float v_minall(vf a) {
    return _mm512_reduce_min_ps(a);
}
static inline vi v_int(vf a) {
    return _mm512_cvtps_epi32(a);
}
static inline vf v_float(vi a) {
    return _mm512_cvtepi32_ps(a);
}
typedef __m512d vd; /* V / 2 doubles */
static inline vd d_load(const double *p) {
    return _mm512_loadu_pd(p);
}
static inline void d_store(double *p, vd a) {
    _mm512_storeu_pd(p, a);
}
static inline vd d_set(double a) {
    return _mm512_set1_pd(a);
}
static inline vd d_fma(vd a, vd b, vd c) {
    return _mm512_fmadd_pd(a, b, c);
}
static inline vf v_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf v_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline vf v_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline vf v_scale2(vf a, vf n) {
    return _mm512_scalef_ps(a, n);
} /* a * 2^n, n whole in -252..254 */
static inline void
v_transpose(vf r[V]) { /* r[i] lane j <-> r[j] lane i: blocks of h x h change sides, h = 8, 4, 2, 1 */
    static const int32_t take[4][V] = {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                                       {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
                                       {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
                                       {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}};
#pragma GCC unroll 4
    for (int stage = 0; stage < 4; stage++) {
        int h = 8 >> stage;
        vi low = _mm512_loadu_si512(take[stage]), high = _mm512_add_epi32(low, _mm512_set1_epi32(h));
#pragma GCC unroll 16
        for (int i = 0; i < V; i++) {
            if (i & h) continue;
            vf a = r[i], b = r[i + h];
            r[i] = _mm512_permutex2var_ps(a, low, b);
            r[i + h] = _mm512_permutex2var_ps(a, high, b);
        }
    }
}
static inline void v_store_u8(uint8_t *p, vi a) { /* lanes in 0..255 */
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}

#elif defined(CPU_ISA_avx2)

#include <immintrin.h>
enum { V = 8 };
typedef __m256 vf;
typedef __m256i vi;
static inline vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vf a) {
    _mm256_storeu_ps(p, a);
}
static inline __m256i v_first(int n) { /* all bits set in the first n lanes */
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf v_load_n(const float *p, int n) {
    return _mm256_maskload_ps(p, v_first(n));
}
static inline void v_store_n(float *p, vf a, int n) {
    _mm256_maskstore_ps(p, v_first(n), a);
}
static inline vf v_set(float a) {
    return _mm256_set1_ps(a);
}
static inline vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
static inline vf v_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
static inline vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
static inline vf v_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf v_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}
static inline vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
static inline vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
static inline vf v_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
static inline vf v_maxabs(vf a, vf b) {
    return v_max(v_abs(a), v_abs(b));
}
static inline vf v_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline float v_sum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
static inline float v_maxall(vf a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
static inline float v_minall(vf a) {
    __m128 s = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_min_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_min_ss(s, _mm_shuffle_ps(s, s, 1)));
}
static inline vi v_int(vf a) {
    return _mm256_cvtps_epi32(a);
}
static inline vf v_float(vi a) {
    return _mm256_cvtepi32_ps(a);
}
typedef __m256d vd; /* V / 2 doubles */
static inline vd d_load(const double *p) {
    return _mm256_loadu_pd(p);
}
static inline void d_store(double *p, vd a) {
    _mm256_storeu_pd(p, a);
}
static inline vd d_set(double a) {
    return _mm256_set1_pd(a);
}
static inline vd d_fma(vd a, vd b, vd c) {
    return _mm256_fmadd_pd(a, b, c);
}
static inline vf v_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf v_load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline vf v_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
static inline vf v_scale2(vf a, vf n) { /* in two steps: 2^n itself need not be a normal number */
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
static inline void v_transpose(vf r[V]) { /* r[i] lane j <-> r[j] lane i */
    vf pairs[V], quads[V];
#pragma GCC unroll 4
    for (int i = 0; i < V; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < V; i += 4)
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            quads[i + 2 * k] = _mm256_shuffle_ps(pairs[i + k], pairs[i + k + 2], 0x44);
            quads[i + 2 * k + 1] = _mm256_shuffle_ps(pairs[i + k], pairs[i + k + 2], 0xEE);
        }
#pragma GCC unroll 4
    for (int i = 0; i < V / 2; i++) {
        r[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}
static inline void v_store_u8(uint8_t *p, vi a) {
    __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(w, w));
}

#else /* generic */

#include "core/dtype.h"
enum { V = 8 };
typedef struct vf {
    float f[V];
} vf;
typedef struct vi {
    int32_t i[V];
} vi;
#define V_EACH(expr)                                                                                                   \
    vf r;                                                                                                              \
    for (int k = 0; k < V; k++) r.f[k] = (expr);                                                                       \
    return r
static inline vf v_load(const float *p) {
    V_EACH(p[k]);
}
static inline void v_store(float *p, vf a) {
    memcpy(p, a.f, sizeof a.f);
}
static inline vf v_load_n(const float *p, int n) {
    V_EACH(k < n ? p[k] : 0);
}
static inline void v_store_n(float *p, vf a, int n) {
    memcpy(p, a.f, (size_t)n * sizeof *p);
}
static inline vf v_set(float a) {
    V_EACH(a);
}
static inline vf v_add(vf a, vf b) {
    V_EACH(a.f[k] + b.f[k]);
}
static inline vf v_sub(vf a, vf b) {
    V_EACH(a.f[k] - b.f[k]);
}
static inline vf v_mul(vf a, vf b) {
    V_EACH(a.f[k] * b.f[k]);
}
static inline vf v_div(vf a, vf b) {
    V_EACH(a.f[k] / b.f[k]);
}
static inline vf v_fma(vf a, vf b, vf c) {
    V_EACH(a.f[k] * b.f[k] + c.f[k]);
}
static inline vf v_fnma(vf a, vf b, vf c) {
    V_EACH(c.f[k] - a.f[k] * b.f[k]);
}
static inline vf v_min(vf a, vf b) {
    V_EACH(a.f[k] < b.f[k] ? a.f[k] : b.f[k]);
}
static inline vf v_max(vf a, vf b) {
    V_EACH(a.f[k] > b.f[k] ? a.f[k] : b.f[k]);
}
static inline vf v_abs(vf a) {
    V_EACH(fabsf(a.f[k]));
}
static inline vf v_maxabs(vf a, vf b) {
    return v_max(v_abs(a), v_abs(b));
}
static inline vf v_round(vf a) {
    V_EACH(rintf(a.f[k]));
}
static inline float v_sum(vf a) {
    return ((a.f[0] + a.f[4]) + (a.f[2] + a.f[6])) + ((a.f[1] + a.f[5]) + (a.f[3] + a.f[7]));
}
static inline float v_maxall(vf a) {
    float r = a.f[0];
    for (int k = 1; k < V; k++) r = a.f[k] > r ? a.f[k] : r;
    return r;
}
static inline float v_minall(vf a) {
    float r = a.f[0];
    for (int k = 1; k < V; k++) r = a.f[k] < r ? a.f[k] : r;
    return r;
}
static inline vi v_int(vf a) {
    vi r;
    for (int k = 0; k < V; k++) r.i[k] = (int32_t)rintf(a.f[k]);
    return r;
}
static inline vf v_float(vi a) {
    V_EACH((float)a.i[k]);
}
#define D_EACH(expr)                                                                                                   \
    vd r;                                                                                                              \
    for (int k = 0; k < V / 2; k++) r.d[k] = (expr);                                                                   \
    return r
typedef struct vd {
    double d[V / 2];
} vd;
static inline vd d_load(const double *p) {
    D_EACH(p[k]);
}
static inline void d_store(double *p, vd a) {
    memcpy(p, a.d, sizeof a.d);
}
static inline vd d_set(double a) {
    D_EACH(a);
}
static inline vd d_fma(vd a, vd b, vd c) {
    D_EACH(a.d[k] * b.d[k] + c.d[k]);
}
#undef D_EACH
static inline vf v_load_f16(const uint16_t *p) {
    V_EACH(flrq_f16_to_f32(p[k]));
}
static inline vf v_load_bf16(const uint16_t *p) {
    V_EACH(flrq_bf16_to_f32(p[k]));
}
static inline vf v_load_u8(const uint8_t *p) {
    V_EACH((float)p[k]);
}
static inline vf v_scale2(vf a, vf n) { /* in two steps: 2^n itself need not be a normal number */
    for (int k = 0; k < V; k++) {
        int32_t whole = (int32_t)(n.f[k] > -252 ? n.f[k] : -252), half = whole / 2; /* NaN: only a counts */
        uint32_t bits[2] = {(uint32_t)(half + 127) << 23, (uint32_t)(whole - half + 127) << 23};
        float powers[2];
        memcpy(powers, bits, sizeof powers);
        a.f[k] = a.f[k] * powers[0] * powers[1];
    }
    return a;
}
static inline void v_transpose(vf r[V]) { /* r[i] lane j <-> r[j] lane i */
    for (int i = 0; i < V; i++)
        for (int k = 0; k < i; k++) {
            float a = r[i].f[k];
            r[i].f[k] = r[k].f[i];
            r[k].f[i] = a;
        }
}
static inline void v_store_u8(uint8_t *p, vi a) {
    for (int k = 0; k < V; k++) p[k] = (uint8_t)a.i[k];
}
#undef V_EACH

#endif
#endif
