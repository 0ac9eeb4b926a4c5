/* flrq_format.h - values and structs that reach disk or cross from C to CUDA.
 *
 * Owns: element types, the quantization scheme and the in-memory layout of codes. Append-only: numbers in this file are
 * written into journals and read by other languages; never renumber.
 */
#ifndef FLRQ_FORMAT_H
#define FLRQ_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Element types of safetensors files. flrq computes on F32, F16 and BF16; the others are only copied. */
typedef enum flrq_dtype {
    FLRQ_F32 = 0,
    FLRQ_F16 = 1,
    FLRQ_BF16 = 2,
    FLRQ_F64 = 3,
    FLRQ_BOOL = 4,
    FLRQ_U8 = 5,
    FLRQ_I8 = 6,
    FLRQ_U16 = 7,
    FLRQ_I16 = 8,
    FLRQ_U32 = 9,
    FLRQ_I32 = 10,
    FLRQ_U64 = 11,
    FLRQ_I64 = 12,
    FLRQ_F8_E4M3 = 13,
    FLRQ_F8_E5M2 = 14,
    FLRQ_F8_E8M0 = 15,
    FLRQ_F8_E4M3FNUZ = 16,
    FLRQ_F8_E5M2FNUZ = 17,
    FLRQ_C64 = 18,
    FLRQ_F4 = 19,
    FLRQ_F6_E2M3 = 20,
    FLRQ_F6_E3M2 = 21,
    FLRQ_DTYPE_COUNT = 22
} flrq_dtype;

/** Which integers a symmetric scheme may use: all 2^b levels, or the 2^b - 1 that mirror around zero. */
typedef enum flrq_grid { FLRQ_GRID_FULL = 0, FLRQ_GRID_MIRROR = 1 } flrq_grid;

/** Group-wise uniform integer scheme of one matrix. value = scale * (code - zero), code in [0, 2^bits - 1]. */
typedef struct flrq_scheme {
    int32_t bits;      /* 2, 3, 4 or 8 */
    int32_t symmetric; /* 1: zero = 2^(bits-1) for every group and not stored */
    int32_t grid;      /* flrq_grid; read only when symmetric */
    int32_t reserved;  /* 0 */
    int64_t group;     /* columns that share a scale; 0 = the whole row (per channel) */
} flrq_scheme;

/** Quantized matrix: one byte per code, row-major, no padding. group g of row i covers columns [g*group, min(cols,
 * (g+1)*group)). scale may be negative. Every scale is exact in both fp16 and bf16 (8 significant bits). */
typedef struct flrq_codes {
    int64_t rows, cols;
    int64_t group;    /* columns per group, > 0 (per channel: cols) */
    int64_t n_groups; /* ceil(cols / group) */
    int32_t bits;
    int32_t symmetric;
    uint8_t *code; /* [rows, cols] */
    float *scale;  /* [rows, n_groups] */
    uint8_t *zero; /* [rows, n_groups]; NULL when symmetric (zero = 2^(bits-1)) */
} flrq_codes;

#ifdef __cplusplus
}
#endif
#endif
