/* dtype.h - element types: names and sizes of safetensors dtypes, and exact scalar conversions.
 *
 * Bulk conversion is a backend op; the scalar functions here are its reference and serve small host-side data.
 */
#ifndef FLRQ_CORE_DTYPE_H
#define FLRQ_CORE_DTYPE_H

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "core/host_device.h"
#include "flrq_format.h"

/** Bits of one element (4 for F4, 6 for F6_*). */
int flrq_dtype_bits(flrq_dtype dtype);

/** Name as in a safetensors header ("BF16"). */
const char *flrq_dtype_name(flrq_dtype dtype);

/** Inverse of flrq_dtype_name(); false when the name is unknown. */
bool flrq_dtype_parse(const char *name, flrq_dtype *out);

/** True for F32, F16, BF16: the types flrq computes on. */
bool flrq_dtype_is_float(flrq_dtype dtype);

float flrq_f16_to_f32(uint16_t bits);
float flrq_bf16_to_f32(uint16_t bits);
uint16_t flrq_f32_to_f16(float value);  /* round to nearest even, IEEE overflow to infinity */
uint16_t flrq_f32_to_bf16(float value); /* round to nearest even, NaN stays NaN */

/** Element i of a float array of the given type as fp32. */
float flrq_load(const void *data, flrq_dtype dtype, int64_t i);

/** Stores `value` rounded to the given type at index i. */
void flrq_store(void *data, flrq_dtype dtype, int64_t i, float value);

/** Rounds a scale to 8 significant bits, and below the fp16 normal range to the fp16 subnormal grid, saturating at the
 * fp16 maximum of 8 significant bits (65280): the result is exact in fp16 and in bf16, so every engine serves the same
 * weight. The sign is kept; zero stays zero; a nonzero value never becomes zero (the smallest fp16 subnormal instead).
 *  Without branches and inline, so that compilers vectorise loops over it. */
FLRQ_HOST_DEVICE static inline float flrq_round_scale(float scale) {
    float magnitude = fabsf(scale);
    float subnormal =
        rintf(magnitude * 0x1p24f) * 0x1p-24f; /* 10 fraction bits at most remain; 8 of them are kept below */
    subnormal = subnormal > 0x1p-24f ? subnormal : 0x1p-24f;
    magnitude = magnitude < 0x1p-14f ? subnormal : magnitude;
    magnitude = magnitude < 65280.0f ? magnitude : 65280.0f;
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u; /* bf16 has 8 significant bits */
    memcpy(&magnitude, &bits, sizeof magnitude);
    return fabsf(scale) > 0 ? copysignf(magnitude, scale) : scale; /* zero and NaN as they are */
}

#endif
