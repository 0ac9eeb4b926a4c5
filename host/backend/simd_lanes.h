/* simd_lanes.h - the vector operations of the clip search beyond simd.h: 16 lanes that hold trial scales times columns.
 *
 * LANES does not depend on the vector length: where a vector is shorter, two stand side by side. Broadcasts of pairs
 * and quads of columns, sums over lanes in the fixed order of quant_search.h (halves first), the choice among trials.
 * Included by simd_quant.c only; results must not depend on the instruction set in any bit.
 */
#ifndef FLRQ_BACKEND_SIMD_LANES_H
#define FLRQ_BACKEND_SIMD_LANES_H

#include "backend/simd.h"
#include "backend/quant_search.h"

enum { LANES = 16, VECTORS = LANES / V };

/* a*b + c and c - a*b with one rounding on every face: the generic v_fma has two. */
static inline vf fused(vf a, vf b, vf c) {
#if defined(CPU_ISA_generic)
    for (int k = 0; k < V; k++) c.f[k] = fmaf(a.f[k], b.f[k], c.f[k]);
    return c;
#else
    return v_fma(a, b, c);
#endif
}

static inline vf fused_minus(vf a, vf b, vf c) {
#if defined(CPU_ISA_generic)
    for (int k = 0; k < V; k++) c.f[k] = fmaf(-a.f[k], b.f[k], c.f[k]);
    return c;
#else
    return v_fnma(a, b, c);
#endif
}

static inline vf v_sqrt(vf a) {
#if defined(CPU_ISA_avx512)
    return _mm512_sqrt_ps(a);
#elif defined(CPU_ISA_avx2)
    return _mm256_sqrt_ps(a);
#else
    for (int k = 0; k < V; k++) a.f[k] = sqrtf(a.f[k]);
    return a;
#endif
}

/* p[0] p[1] p[0] p[1] .. */
static inline vf load_pairs(const float *p) {
#if defined(CPU_ISA_avx512) || defined(CPU_ISA_avx2)
    double pair;
    memcpy(&pair, p, sizeof pair);
#if defined(CPU_ISA_avx512)
    return _mm512_castpd_ps(_mm512_set1_pd(pair));
#else
    return _mm256_castpd_ps(_mm256_set1_pd(pair));
#endif
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = p[k & 1];
    return r;
#endif
}

/* p[0] .. p[3] p[0] .. */
static inline vf load_quads(const float *p) {
#if defined(CPU_ISA_avx512)
    return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif defined(CPU_ISA_avx2)
    return _mm256_broadcast_ps((const __m128 *)p);
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = p[k & 3];
    return r;
#endif
}

/* a + (a with lanes exchanged at distance 1 or 2) */
static inline vf add_near(vf a, int distance) {
#if defined(CPU_ISA_avx512)
    return _mm512_add_ps(a, distance == 1 ? _mm512_permute_ps(a, 0xb1) : _mm512_permute_ps(a, 0x4e));
#elif defined(CPU_ISA_avx2)
    return _mm256_add_ps(a, distance == 1 ? _mm256_permute_ps(a, 0xb1) : _mm256_permute_ps(a, 0x4e));
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = a.f[k] + a.f[k ^ distance];
    return r;
#endif
}

/* x where lo <= w <= hi, else 0 */
static inline vf inside(vf x, vf w, vf lo, vf hi) {
#if defined(CPU_ISA_avx512)
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(w, lo, _CMP_GE_OQ) & _mm512_cmp_ps_mask(w, hi, _CMP_LE_OQ), x);
#elif defined(CPU_ISA_avx2)
    __m256 in = _mm256_and_ps(_mm256_cmp_ps(w, lo, _CMP_GE_OQ), _mm256_cmp_ps(w, hi, _CMP_LE_OQ));
    return _mm256_and_ps(in, x);
#else
    for (int k = 0; k < V; k++) x.f[k] = w.f[k] >= lo.f[k] && w.f[k] <= hi.f[k] ? x.f[k] : 0;
    return x;
#endif
}

/* a where the sign bit of w is set, else b */
static inline vf by_sign(vf w, vf a, vf b) {
#if defined(CPU_ISA_avx512)
    return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(w)), a);
#elif defined(CPU_ISA_avx2)
    return _mm256_blendv_ps(b, a, w);
#else
    for (int k = 0; k < V; k++) b.f[k] = signbit(w.f[k]) ? a.f[k] : b.f[k];
    return b;
#endif
}

/* a rounded to 8 significant bits, nearest even */
static inline vf round_to_8_bits(vf a) {
#if defined(CPU_ISA_avx512)
    __m512i bits = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
#elif defined(CPU_ISA_avx2)
    __m256i bits = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000)));
#else
    for (int k = 0; k < V; k++) {
        uint32_t bits;
        memcpy(&bits, &a.f[k], sizeof bits);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
        memcpy(&a.f[k], &bits, sizeof bits);
    }
    return a;
#endif
}

/* flrq_round_scale() of positive scales, and of smaller ones the smallest: with quant_floor() */
static inline vf round_scale(vf scale) {
    const vf smallest = v_set(0x1p-24f), normal = v_set(0x1p-14f);
    scale = v_max(scale, smallest);
    vf subnormal = v_mul(v_round(v_mul(scale, v_set(0x1p24f))), smallest);
    scale = by_sign(v_sub(scale, normal), subnormal, scale);
    return round_to_8_bits(v_min(scale, v_set(65280.0f)));
}

/* count + 1 in lanes in which a and b differ */
static inline vf count_differing(vf count, vf a, vf b) {
#if defined(CPU_ISA_avx512)
    return _mm512_mask_add_ps(count, _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ), count, _mm512_set1_ps(1));
#elif defined(CPU_ISA_avx2)
    return _mm256_add_ps(count, _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ), _mm256_set1_ps(1)));
#else
    for (int k = 0; k < V; k++) count.f[k] += a.f[k] != b.f[k];
    return count;
#endif
}

/* Stores the integers that QUANT_MAGIC was added to, each 0..255, as bytes. */
static inline void store_codes(uint8_t *code, vf t) {
#if defined(CPU_ISA_avx512)
    _mm_storeu_si128((__m128i *)code, _mm512_cvtepi32_epi8(_mm512_castps_si512(t)));
#elif defined(CPU_ISA_avx2)
    v_store_u8(code, _mm256_and_si256(_mm256_castps_si256(t), _mm256_set1_epi32(255)));
#else
    for (int k = 0; k < V; k++) code[k] = (uint8_t)(t.f[k] - QUANT_MAGIC);
#endif
}

/* out[0] and out[1] = the sums over the LANES lanes of a and of b, folded in halves. */
static inline void fold_two(float *out, const vf *a, const vf *b) {
#if defined(CPU_ISA_avx512)
    __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(a[0], b[0], 0x44), _mm512_shuffle_f32x4(a[0], b[0], 0xee));
    s = _mm512_add_ps(s, _mm512_shuffle_f32x4(s, s, 0xb1));
    s = add_near(add_near(s, 2), 1);
    out[0] = _mm512_cvtss_f32(s);
    out[1] = _mm_cvtss_f32(_mm512_extractf32x4_ps(s, 2));
#elif defined(CPU_ISA_avx2)
    __m256 x = _mm256_add_ps(a[0], a[1]), y = _mm256_add_ps(b[0], b[1]);
    x = _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
    x = add_near(add_near(x, 2), 1);
    out[0] = _mm256_cvtss_f32(x);
    out[1] = _mm_cvtss_f32(_mm256_extractf128_ps(x, 1));
#else
    for (int which = 0; which < 2; which++) {
        vf t = which ? v_add(b[0], b[1]) : v_add(a[0], a[1]);
        out[which] = ((t.f[0] + t.f[4]) + (t.f[2] + t.f[6])) + ((t.f[1] + t.f[5]) + (t.f[3] + t.f[7]));
    }
#endif
}

/* The first of LANES lanes with the highest gain of a fit, which goes to *gain. Lanes come in equal pairs. */
static inline int best_lane(const float *b, const float *c, float *gain) {
#if defined(CPU_ISA_avx512)
    vf vb = v_load(b), g = v_max(v_div(v_mul(vb, vb), v_load(c)), v_set(0)), top = g;
    top = _mm512_max_ps(top, _mm512_shuffle_f32x4(top, top, 0x4e));
    top = _mm512_max_ps(top, _mm512_shuffle_f32x4(top, top, 0xb1));
    top = _mm512_max_ps(top, _mm512_permute_ps(top, 0x4e));
    *gain = _mm512_cvtss_f32(top);
    return __builtin_ctz(_mm512_cmp_ps_mask(g, top, _CMP_EQ_OQ));
#elif defined(CPU_ISA_avx2)
    vf b0 = v_load(b), b1 = v_load(b + V);
    vf g0 = v_max(v_div(v_mul(b0, b0), v_load(c)), v_set(0)), g1 = v_max(v_div(v_mul(b1, b1), v_load(c + V)), v_set(0));
    vf top = v_max(g0, g1);
    top = _mm256_max_ps(top, _mm256_permute2f128_ps(top, top, 1));
    top = _mm256_max_ps(top, _mm256_permute_ps(top, 0x4e));
    *gain = _mm256_cvtss_f32(top);
    unsigned first = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(g0, top, _CMP_EQ_OQ));
    return __builtin_ctz(first | (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(g1, top, _CMP_EQ_OQ)) << V);
#else
    int best = 0;
    *gain = 0;
    for (int i = 0; i < LANES; i++) {
        float value = quant_gain(b[i], c[i]);
        if (!(value > *gain)) continue;
        *gain = value;
        best = i;
    }
    return best;
#endif
}

/* Lane i of a vector = p[i / 4] */
static inline vf load_spread(const float *p) {
#if defined(CPU_ISA_avx512)
    const __m512i quads = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(quads, _mm512_castps128_ps512(_mm_loadu_ps(p)));
#elif defined(CPU_ISA_avx2)
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_set1_ps(p[0])), _mm_set1_ps(p[1]), 1);
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = p[k / 4];
    return r;
#endif
}

#endif
