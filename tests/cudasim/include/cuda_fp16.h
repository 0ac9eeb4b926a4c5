/*
 * cuda_fp16.h - __half and __half2.
 *
 * Arithmetic is done in fp32 and rounded to nearest even once more, which is exact for + - * / and sqrt (24 >= 2*11+2
 * bits); fused multiply-add goes through double. NaN becomes 0x7FFF, as on the device. Needs F16C (-mf16c).
 */
#ifndef CUDASIM_CUDA_FP16_H
#define CUDASIM_CUDA_FP16_H
#ifdef __cplusplus

#include <immintrin.h>
#include "cuda_runtime.h"

struct __half {
    unsigned short bits;

    __half() = default;
    __half(float v);
    __half(double v) : __half((float)v) {}
    __half(int v) : __half((float)v) {}
    __half(unsigned int v) : __half((float)v) {}
    operator float() const;
};
struct __align__(4) __half2 {
    __half x, y;

    __half2() = default;
    __half2(__half a, __half b) : x(a), y(b) {}
};
typedef __half half;
typedef __half2 half2;

/* Bits and conversions. */
inline __half __ushort_as_half(unsigned short v) {
    __half h;
    h.bits = v;
    return h;
}
inline __half __short_as_half(short v) {
    return __ushort_as_half((unsigned short)v);
}
inline unsigned short __half_as_ushort(__half v) {
    return v.bits;
}
inline short __half_as_short(__half v) {
    return (short)v.bits;
}
inline float __half2float(__half v) {
    return _cvtsh_ss(v.bits);
}
inline __half __float2half_rn(float v) {
    return __ushort_as_half(v != v ? 0x7fff : _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT));
}
inline __half __float2half_rz(float v) {
    return __ushort_as_half(v != v ? 0x7fff : _cvtss_sh(v, _MM_FROUND_TO_ZERO));
}
inline __half __float2half(float v) {
    return __float2half_rn(v);
}
inline __half __double2half(double v) {
    return __float2half_rn((float)v);
}
inline __half __int2half_rn(int v) {
    return __float2half_rn((float)v);
}
inline int __half2int_rn(__half v) {
    return __float2int_rn(__half2float(v));
}
inline int __half2int_rz(__half v) {
    return __float2int_rz(__half2float(v));
}
inline __half::__half(float v) : bits(__float2half_rn(v).bits) {}
inline __half::operator float() const {
    return __half2float(*this);
}

/* Pairs; x is the low half. */
inline __half2 __halves2half2(__half a, __half b) {
    return __half2(a, b);
}
inline __half2 make_half2(__half a, __half b) {
    return __half2(a, b);
}
inline __half2 __half2half2(__half a) {
    return __half2(a, a);
}
inline __half2 __float2half2_rn(float v) {
    return __half2half2(__float2half_rn(v));
}
inline __half2 __floats2half2_rn(float a, float b) {
    return __half2(__float2half_rn(a), __float2half_rn(b));
}
inline __half2 __float22half2_rn(float2 v) {
    return __floats2half2_rn(v.x, v.y);
}
inline float2 __half22float2(__half2 v) {
    return float2{__half2float(v.x), __half2float(v.y)};
}
inline float __low2float(__half2 v) {
    return __half2float(v.x);
}
inline float __high2float(__half2 v) {
    return __half2float(v.y);
}
inline __half __low2half(__half2 v) {
    return v.x;
}
inline __half __high2half(__half2 v) {
    return v.y;
}
inline __half2 __lowhigh2highlow(__half2 v) {
    return __half2(v.y, v.x);
}

/* Arithmetic and comparison. */
inline __half __hadd(__half a, __half b) {
    return __float2half_rn(__half2float(a) + __half2float(b));
}
inline __half __hsub(__half a, __half b) {
    return __float2half_rn(__half2float(a) - __half2float(b));
}
inline __half __hmul(__half a, __half b) {
    return __float2half_rn(__half2float(a) * __half2float(b));
}
inline __half __hdiv(__half a, __half b) {
    return __float2half_rn(__half2float(a) / __half2float(b));
}
inline __half __hfma(__half a, __half b, __half c) {
    return __float2half_rn((float)((double)__half2float(a) * __half2float(b) + __half2float(c)));
}
inline __half operator+(__half a, __half b) {
    return __hadd(a, b);
}
inline __half operator-(__half a, __half b) {
    return __hsub(a, b);
}
inline __half operator*(__half a, __half b) {
    return __hmul(a, b);
}
inline __half operator/(__half a, __half b) {
    return __hdiv(a, b);
}
inline __half __hneg(__half a) {
    return __ushort_as_half(a.bits ^ 0x8000);
}
inline __half __habs(__half a) {
    return __ushort_as_half(a.bits & 0x7fff);
}
inline __half __hmax(__half a, __half b) {
    return __float2half_rn(fmaxf(__half2float(a), __half2float(b)));
}
inline __half __hmin(__half a, __half b) {
    return __float2half_rn(fminf(__half2float(a), __half2float(b)));
}
inline __half hsqrt(__half a) {
    return __float2half_rn(__fsqrt_rn(__half2float(a)));
}
inline __half hrint(__half a) {
    return __float2half_rn(rintf(__half2float(a)));
}
inline bool __hisnan(__half a) {
    return (a.bits & 0x7fff) > 0x7c00;
}
inline bool __heq(__half a, __half b) {
    return __half2float(a) == __half2float(b);
}
inline bool __hlt(__half a, __half b) {
    return __half2float(a) < __half2float(b);
}
inline bool __hle(__half a, __half b) {
    return __half2float(a) <= __half2float(b);
}
inline bool __hgt(__half a, __half b) {
    return __half2float(a) > __half2float(b);
}
inline bool __hge(__half a, __half b) {
    return __half2float(a) >= __half2float(b);
}
inline __half2 __hadd2(__half2 a, __half2 b) {
    return __half2(__hadd(a.x, b.x), __hadd(a.y, b.y));
}
inline __half2 __hsub2(__half2 a, __half2 b) {
    return __half2(__hsub(a.x, b.x), __hsub(a.y, b.y));
}
inline __half2 __hmul2(__half2 a, __half2 b) {
    return __half2(__hmul(a.x, b.x), __hmul(a.y, b.y));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
    return __half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
inline __half2 __hneg2(__half2 a) {
    return __half2(__hneg(a.x), __hneg(a.y));
}
inline __half2 __habs2(__half2 a) {
    return __half2(__habs(a.x), __habs(a.y));
}
inline __half2 __hmax2(__half2 a, __half2 b) {
    return __half2(__hmax(a.x, b.x), __hmax(a.y, b.y));
}
inline __half2 __hmin2(__half2 a, __half2 b) {
    return __half2(__hmin(a.x, b.x), __hmin(a.y, b.y));
}

#endif
#endif
