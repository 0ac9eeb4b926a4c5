/*
 * cuda_bf16.h - __nv_bfloat16 and __nv_bfloat162.
 *
 * Arithmetic is done in fp32 and rounded to nearest even once more, which is exact for + - * / and sqrt (24 >= 2*8+2
 * bits); fused multiply-add goes through double. NaN becomes 0x7FFF, as on the device.
 */
#ifndef CUDASIM_CUDA_BF16_H
#define CUDASIM_CUDA_BF16_H
#ifdef __cplusplus

#include "cuda_runtime.h"

struct __nv_bfloat16 {
    unsigned short bits;

    __nv_bfloat16() = default;
    __nv_bfloat16(float v);
    __nv_bfloat16(double v) : __nv_bfloat16((float)v) {}
    __nv_bfloat16(int v) : __nv_bfloat16((float)v) {}
    __nv_bfloat16(unsigned int v) : __nv_bfloat16((float)v) {}
    operator float() const;
};
struct __align__(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;

    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) : x(a), y(b) {}
};
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

/* Bits and conversions. */
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) {
    __nv_bfloat16 h;
    h.bits = v;
    return h;
}
inline __nv_bfloat16 __short_as_bfloat16(short v) {
    return __ushort_as_bfloat16((unsigned short)v);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) {
    return v.bits;
}
inline short __bfloat16_as_short(__nv_bfloat16 v) {
    return (short)v.bits;
}
inline float __bfloat162float(__nv_bfloat16 v) {
    return __uint_as_float((unsigned)v.bits << 16);
}
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
    unsigned int u = __float_as_uint(v);
    return __ushort_as_bfloat16(v != v ? 0x7fff : (unsigned short)((u + 0x7fffu + (u >> 16 & 1)) >> 16));
}
inline __nv_bfloat16 __float2bfloat16_rz(float v) {
    return __ushort_as_bfloat16(v != v ? 0x7fff : (unsigned short)(__float_as_uint(v) >> 16));
}
inline __nv_bfloat16 __float2bfloat16(float v) {
    return __float2bfloat16_rn(v);
}
inline __nv_bfloat16 __double2bfloat16(double v) {
    return __float2bfloat16_rn((float)v);
}
inline __nv_bfloat16 __int2bfloat16_rn(int v) {
    return __float2bfloat16_rn((float)v);
}
inline int __bfloat162int_rn(__nv_bfloat16 v) {
    return __float2int_rn(__bfloat162float(v));
}
inline int __bfloat162int_rz(__nv_bfloat16 v) {
    return __float2int_rz(__bfloat162float(v));
}
inline __nv_bfloat16::__nv_bfloat16(float v) : bits(__float2bfloat16_rn(v).bits) {}
inline __nv_bfloat16::operator float() const {
    return __bfloat162float(*this);
}

/* Pairs; x is the low half. */
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __nv_bfloat162(a, b);
}
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __nv_bfloat162(a, b);
}
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) {
    return __nv_bfloat162(a, a);
}
inline __nv_bfloat162 __float2bfloat162_rn(float v) {
    return __bfloat162bfloat162(__float2bfloat16_rn(v));
}
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
    return __nv_bfloat162(__float2bfloat16_rn(a), __float2bfloat16_rn(b));
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) {
    return __floats2bfloat162_rn(v.x, v.y);
}
inline float2 __bfloat1622float2(__nv_bfloat162 v) {
    return float2{__bfloat162float(v.x), __bfloat162float(v.y)};
}
inline float __low2float(__nv_bfloat162 v) {
    return __bfloat162float(v.x);
}
inline float __high2float(__nv_bfloat162 v) {
    return __bfloat162float(v.y);
}
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) {
    return v.x;
}
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) {
    return v.y;
}
inline __nv_bfloat162 __lowhigh2highlow(__nv_bfloat162 v) {
    return __nv_bfloat162(v.y, v.x);
}

/* Arithmetic and comparison. */
inline __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __float2bfloat16_rn(__bfloat162float(a) + __bfloat162float(b));
}
inline __nv_bfloat16 __hsub(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __float2bfloat16_rn(__bfloat162float(a) - __bfloat162float(b));
}
inline __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __float2bfloat16_rn(__bfloat162float(a) * __bfloat162float(b));
}
inline __nv_bfloat16 __hdiv(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __float2bfloat16_rn(__bfloat162float(a) / __bfloat162float(b));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
    return __float2bfloat16_rn((float)((double)__bfloat162float(a) * __bfloat162float(b) + __bfloat162float(c)));
}
inline __nv_bfloat16 operator+(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __hadd(a, b);
}
inline __nv_bfloat16 operator-(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __hsub(a, b);
}
inline __nv_bfloat16 operator*(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __hmul(a, b);
}
inline __nv_bfloat16 operator/(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __hdiv(a, b);
}
inline __nv_bfloat16 __hneg(__nv_bfloat16 a) {
    return __ushort_as_bfloat16(a.bits ^ 0x8000);
}
inline __nv_bfloat16 __habs(__nv_bfloat16 a) {
    return __ushort_as_bfloat16(a.bits & 0x7fff);
}
inline __nv_bfloat16 __hmax(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __float2bfloat16_rn(fmaxf(__bfloat162float(a), __bfloat162float(b)));
}
inline __nv_bfloat16 __hmin(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __float2bfloat16_rn(fminf(__bfloat162float(a), __bfloat162float(b)));
}
inline __nv_bfloat16 hsqrt(__nv_bfloat16 a) {
    return __float2bfloat16_rn(__fsqrt_rn(__bfloat162float(a)));
}
inline __nv_bfloat16 hrint(__nv_bfloat16 a) {
    return __float2bfloat16_rn(rintf(__bfloat162float(a)));
}
inline bool __hisnan(__nv_bfloat16 a) {
    return (a.bits & 0x7fff) > 0x7f80;
}
inline bool __heq(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __bfloat162float(a) == __bfloat162float(b);
}
inline bool __hlt(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __bfloat162float(a) < __bfloat162float(b);
}
inline bool __hle(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __bfloat162float(a) <= __bfloat162float(b);
}
inline bool __hgt(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __bfloat162float(a) > __bfloat162float(b);
}
inline bool __hge(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __bfloat162float(a) >= __bfloat162float(b);
}
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return __nv_bfloat162(__hadd(a.x, b.x), __hadd(a.y, b.y));
}
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return __nv_bfloat162(__hsub(a.x, b.x), __hsub(a.y, b.y));
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return __nv_bfloat162(__hmul(a.x, b.x), __hmul(a.y, b.y));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
    return __nv_bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
inline __nv_bfloat162 __hneg2(__nv_bfloat162 a) {
    return __nv_bfloat162(__hneg(a.x), __hneg(a.y));
}
inline __nv_bfloat162 __habs2(__nv_bfloat162 a) {
    return __nv_bfloat162(__habs(a.x), __habs(a.y));
}
inline __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return __nv_bfloat162(__hmax(a.x, b.x), __hmax(a.y, b.y));
}
inline __nv_bfloat162 __hmin2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return __nv_bfloat162(__hmin(a.x, b.x), __hmin(a.y, b.y));
}

#endif
#endif
