/* dtype.c - element type table and scalar conversions. */
#include "core/dtype.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    int bits;
} table[FLRQ_DTYPE_COUNT] = {
    [FLRQ_F32] = {"F32", 32},
    [FLRQ_F16] = {"F16", 16},
    [FLRQ_BF16] = {"BF16", 16},
    [FLRQ_F64] = {"F64", 64},
    [FLRQ_BOOL] = {"BOOL", 8},
    [FLRQ_U8] = {"U8", 8},
    [FLRQ_I8] = {"I8", 8},
    [FLRQ_U16] = {"U16", 16},
    [FLRQ_I16] = {"I16", 16},
    [FLRQ_U32] = {"U32", 32},
    [FLRQ_I32] = {"I32", 32},
    [FLRQ_U64] = {"U64", 64},
    [FLRQ_I64] = {"I64", 64},
    [FLRQ_F8_E4M3] = {"F8_E4M3", 8},
    [FLRQ_F8_E5M2] = {"F8_E5M2", 8},
    [FLRQ_F8_E8M0] = {"F8_E8M0", 8},
    [FLRQ_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [FLRQ_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [FLRQ_C64] = {"C64", 64},
    [FLRQ_F4] = {"F4", 4},
    [FLRQ_F6_E2M3] = {"F6_E2M3", 6},
    [FLRQ_F6_E3M2] = {"F6_E3M2", 6},
};

int flrq_dtype_bits(flrq_dtype dtype) {
    return table[dtype].bits;
}

const char *flrq_dtype_name(flrq_dtype dtype) {
    return table[dtype].name;
}

bool flrq_dtype_parse(const char *name, flrq_dtype *out) {
    for (int i = 0; i < FLRQ_DTYPE_COUNT; i++)
        if (strcmp(name, table[i].name) == 0) {
            *out = (flrq_dtype)i;
            return true;
        }
    return false;
}

bool flrq_dtype_is_float(flrq_dtype dtype) {
    return dtype == FLRQ_F32 || dtype == FLRQ_F16 || dtype == FLRQ_BF16;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float flrq_bf16_to_f32(uint16_t bits) {
    return float_of((uint32_t)bits << 16);
}

uint16_t flrq_f32_to_bf16(float value) {
    uint32_t bits = bits_of(value);
    if (value != value) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float flrq_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3ff;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    float magnitude = (float)fraction * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

uint16_t flrq_f32_to_f16(float value) {
    uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000;
    float magnitude = fabsf(value);
    if (value != value) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 65520.0f) return (uint16_t)(sign | 0x7c00); /* half an ulp above the largest half rounds up */
    if (magnitude < 0x1p-14f) /* subnormal: the fraction counts units of 2^-24; rintf rounds to even */
        return (uint16_t)(sign | (uint32_t)rintf(magnitude * 0x1p24f));
    uint32_t m = bits & 0x7fffffff;
    return (uint16_t)(sign | ((m - (112u << 23) + 0xfff + ((m >> 13) & 1)) >> 13));
}

float flrq_load(const void *data, flrq_dtype dtype, int64_t i) {
    switch (dtype) {
    case FLRQ_F16:
        return flrq_f16_to_f32(((const uint16_t *)data)[i]);
    case FLRQ_BF16:
        return flrq_bf16_to_f32(((const uint16_t *)data)[i]);
    default:
        return ((const float *)data)[i];
    }
}

void flrq_store(void *data, flrq_dtype dtype, int64_t i, float value) {
    switch (dtype) {
    case FLRQ_F16:
        ((uint16_t *)data)[i] = flrq_f32_to_f16(value);
        break;
    case FLRQ_BF16:
        ((uint16_t *)data)[i] = flrq_f32_to_bf16(value);
        break;
    default:
        ((float *)data)[i] = value;
        break;
    }
}
