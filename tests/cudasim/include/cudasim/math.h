/*
 * math.h - device mathematics: rounding intrinsics, bit operations, type puns, min and max.
 *
 * What IEEE 754 defines (the _rn family, conversions, sqrt, division) has the device's bits, provided the source is
 * compiled with -ffp-contract=off. Transcendental functions are the host's: equal to the device's within a few units in
 * the last place, not in bits; the fast forms (__expf and others) are here as exact as the slow ones.
 */
#ifndef CUDASIM_MATH_H
#define CUDASIM_MATH_H

#include <cmath>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

/* Type puns. */
inline float __uint_as_float(unsigned int v) {
    return cudasim::from_bits<float>(v);
}
inline float __int_as_float(int v) {
    return cudasim::from_bits<float>((unsigned)v);
}
inline unsigned int __float_as_uint(float v) {
    return (unsigned)cudasim::to_bits(v);
}
inline int __float_as_int(float v) {
    return (int)cudasim::to_bits(v);
}
inline double __longlong_as_double(long long v) {
    return cudasim::from_bits<double>((uint64_t)v);
}
inline long long __double_as_longlong(double v) {
    return (long long)cudasim::to_bits(v);
}
inline unsigned int __double2hiint(double v) {
    return (unsigned)(cudasim::to_bits(v) >> 32);
}
inline unsigned int __double2loint(double v) {
    return (unsigned)cudasim::to_bits(v);
}

/* Arithmetic rounded to nearest even, never contracted. */
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fsub_rn(float a, float b) {
    return a - b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fmaf_rn(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __frcp_rn(float a) {
    return 1.0f / a;
}
inline float __fsqrt_rn(float a) {
    return __builtin_sqrtf(a);
}
/* The square root and the quotient in double round once more to float with no visible error: 53 >= 2 * 24 + 2 bits. */
inline float __frsqrt_rn(float a) {
    return (float)(1.0 / __builtin_sqrt((double)a));
}
inline double __dadd_rn(double a, double b) {
    return a + b;
}
inline double __dsub_rn(double a, double b) {
    return a - b;
}
inline double __dmul_rn(double a, double b) {
    return a * b;
}
inline double __ddiv_rn(double a, double b) {
    return a / b;
}
inline double __fma_rn(double a, double b, double c) {
    return __builtin_fma(a, b, c);
}
inline double __dsqrt_rn(double a) {
    return __builtin_sqrt(a);
}

/* Fast and device-only functions. */
inline float rsqrtf(float a) {
    return __frsqrt_rn(a);
}
inline double rsqrt(double a) {
    return 1.0 / __builtin_sqrt(a);
}
inline float fdividef(float a, float b) {
    return a / b;
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __expf(float a) {
    return expf(a);
}
inline float __exp10f(float a) {
    return (float)pow(10.0, a);
}
inline float __logf(float a) {
    return logf(a);
}
inline float __log2f(float a) {
    return log2f(a);
}
inline float __log10f(float a) {
    return log10f(a);
}
inline float __sinf(float a) {
    return sinf(a);
}
inline float __cosf(float a) {
    return cosf(a);
}
inline float __tanf(float a) {
    return tanf(a);
}
inline float __powf(float a, float b) {
    return powf(a, b);
}
inline void __sincosf(float a, float *s, float *c) {
    sincosf(a, s, c);
}
inline float __saturatef(float a) {
    return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; /* NaN gives 0 */
}

/* Conversions. To integers they saturate and turn NaN into 0 (64-bit double: the most negative), as on the device. */
#define CUDASIM_TO_INTEGER(NAME, FROM, TO, ROUND, LOWEST, HIGHEST)                                                     \
    inline TO NAME(FROM v) {                                                                                           \
        FROM r = ROUND(v);                                                                                             \
        if (!(r >= (FROM)LOWEST)) return r != r ? 0 : LOWEST;                                                          \
        return r >= (FROM)HIGHEST ? HIGHEST : (TO)r;                                                                   \
    }
CUDASIM_TO_INTEGER(__float2int_rn, float, int, __builtin_rintf, INT_MIN, INT_MAX)
CUDASIM_TO_INTEGER(__float2int_rz, float, int, __builtin_truncf, INT_MIN, INT_MAX)
CUDASIM_TO_INTEGER(__float2int_rd, float, int, __builtin_floorf, INT_MIN, INT_MAX)
CUDASIM_TO_INTEGER(__float2int_ru, float, int, __builtin_ceilf, INT_MIN, INT_MAX)
CUDASIM_TO_INTEGER(__float2uint_rn, float, unsigned int, __builtin_rintf, 0u, UINT_MAX)
CUDASIM_TO_INTEGER(__float2uint_rz, float, unsigned int, __builtin_truncf, 0u, UINT_MAX)
CUDASIM_TO_INTEGER(__double2int_rn, double, int, __builtin_rint, INT_MIN, INT_MAX)
CUDASIM_TO_INTEGER(__double2int_rz, double, int, __builtin_trunc, INT_MIN, INT_MAX)
#undef CUDASIM_TO_INTEGER
inline float __int2float_rn(int v) {
    return (float)v;
}
inline float __uint2float_rn(unsigned int v) {
    return (float)v;
}
inline float __ull2float_rn(unsigned long long v) {
    return (float)v;
}
inline float __ll2float_rn(long long v) {
    return (float)v;
}
inline float __double2float_rn(double v) {
    return (float)v;
}
inline double __int2double_rn(int v) {
    return (double)v;
}

/* Bits. */
inline int __popc(unsigned int v) {
    return __builtin_popcount(v);
}
inline int __popcll(unsigned long long v) {
    return __builtin_popcountll(v);
}
inline int __ffs(int v) {
    return __builtin_ffs(v);
}
inline int __ffsll(long long v) {
    return __builtin_ffsll(v);
}
inline int __clz(int v) {
    return v ? __builtin_clz((unsigned)v) : 32;
}
inline int __clzll(long long v) {
    return v ? __builtin_clzll((unsigned long long)v) : 64;
}
inline unsigned int __brev(unsigned int v) {
    v = __builtin_bswap32(v);
    v = (v >> 4 & 0x0f0f0f0fu) | (v & 0x0f0f0f0fu) << 4;
    v = (v >> 2 & 0x33333333u) | (v & 0x33333333u) << 2;
    return (v >> 1 & 0x55555555u) | (v & 0x55555555u) << 1;
}
inline unsigned int __umulhi(unsigned int a, unsigned int b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
inline int __mulhi(int a, int b) {
    return (int)((long long)a * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline long long __mul64hi(long long a, long long b) {
    return (long long)((__int128)a * b >> 64);
}
/* Four bytes chosen from the eight of (y, x): selector nibbles, bit 3 replicates the byte's sign. */
inline unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int s) {
    unsigned long long v = (unsigned long long)y << 32 | x;
    unsigned int r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned int pick = s >> (4 * i) & 15, byte = (unsigned)(v >> (8 * (pick & 7))) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << (8 * i);
    }
    return r;
}
inline unsigned int __funnelshift_l(unsigned int lo, unsigned int hi, unsigned int shift) {
    return (unsigned)((((unsigned long long)hi << 32 | lo) << (shift & 31)) >> 32);
}
inline unsigned int __funnelshift_r(unsigned int lo, unsigned int hi, unsigned int shift) {
    return (unsigned)(((unsigned long long)hi << 32 | lo) >> (shift & 31));
}
/* Four 8-bit products added to c; the signed sum wraps, as on the device. */
inline int __dp4a(int a, int b, int c) {
    unsigned int sum = (unsigned)c;
    for (int i = 0; i < 32; i += 8) sum += (unsigned)((int8_t)(a >> i) * (int8_t)(b >> i));
    return (int)sum;
}

template <class T> inline T __ldg(const T *address) {
    return *address;
}
template <class T> inline T __ldcs(const T *address) {
    return *address;
}
template <class T> inline T __ldcg(const T *address) {
    return *address;
}
template <class T> inline void __stcs(T *address, T value) {
    *address = value;
}
template <class T> inline void __stcg(T *address, T value) {
    *address = value;
}

/* min and max of numbers, also of two types. Functions and not macros, so that std::min and std::max stay usable.
 * Floats follow fmin and fmax: a number wins over NaN. */
template <class A, class B, class R = std::common_type_t<A, B>>
inline std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, R> min(A a, B b) {
    R x = (R)a, y = (R)b;
    return y < x || x != x ? y : x;
}
template <class A, class B, class R = std::common_type_t<A, B>>
inline std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, R> max(A a, B b) {
    R x = (R)a, y = (R)b;
    return x < y || x != x ? y : x;
}

#endif
