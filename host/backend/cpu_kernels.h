/* cpu_kernels.h - the table of SIMD kernels. One instance per instruction set; cpu_state_new() picks the best that this CPU
 * runs (environment FLRQ_ISA=generic|avx2|avx512 lowers the choice). Kernels work on one thread and never allocate.
 *
 * simd_matrix.c, simd_quant.c and simd_forward.c are each compiled once per instruction set and fill their part.
 */
#ifndef FLRQ_BACKEND_CPU_KERNELS_H
#define FLRQ_BACKEND_CPU_KERNELS_H

#include "flrq_backend.h"

struct cpu_kernels {
    const char *isa; /* "generic", "avx2", "avx512" */

    /* --- simd_matrix.c --- */
    /** out[i] = in[i] as fp32, in of F32, F16 or BF16. */
    void (*convert)(float *out, const void *in, flrq_dtype dtype, int64_t count);
    /** out[j] += sign * scale[j/group...] * (code[j] - zero): one row segment, columns col0 .. col0+cols-1 of row `row`. */
    void (*add_codes)(float *out, const flrq_codes *codes, int64_t row, int64_t col0, int64_t cols, float sign);
    /** sum of a[i]*b[i], fp32 vector accumulators. */
    float (*dot)(const float *a, const float *b, int64_t count);
    /** y += alpha * x. */
    void (*axpy)(float *y, const float *x, float alpha, int64_t count);
    /** x[j] *= s[j]. */
    void (*scale_by)(float *x, const float *s, int64_t count);
    /** sum of squares, accumulated in double every 256 elements. */
    double (*sum_squares)(const float *x, int64_t count);
    /** amax[r] = max(amax[r], |row - sum_{i<r} u[i] vt[i*ld_vt + .]|) for r = 0..b over one row segment; row is preserved.
     *  vt is [b, ld_vt] row-major (V transposed for this segment), u the b factors of this row. */
    void (*amax_row)(float *amax, const float *row, const float *u, const float *vt, int64_t ld_vt, int64_t b,
                     int64_t cols);
    /** index of the first non-finite element, or -1. */
    int64_t (*find_nonfinite)(const float *x, int64_t count);

    /* --- simd_quant.c --- */
    /** Clip search and quantization of one row of residuals w [cols] in groups; h [cols] or NULL. Writes code [cols],
     *  scale [n_groups], zero [n_groups] (NULL when symmetric) and adds to stats. */
    void (*quantize_row)(uint8_t *code, float *scale, uint8_t *zero, const float *w, const float *h, int64_t cols,
                         int64_t group, const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats);
    void (*pack_row)(int32_t *packed, const uint8_t *code, int64_t cols, int bits);
    void (*unpack_row)(uint8_t *code, const int32_t *packed, int64_t cols, int bits);

    /* --- simd_forward.c --- */
    /** x[j] = exp(x[j] - max) in place, returns the sum. exp within 2 ulp, no table. */
    float (*exp_sum)(float *x, float max, int64_t count);
    float (*max_of)(const float *x, int64_t count);
    /** gate = silu(gate) * up. */
    void (*swiglu)(float *gate, const float *up, int64_t count);
    /** out = in * factor * weight (weight may be NULL). */
    void (*scale_weight)(float *out, const float *in, float factor, const float *weight, int64_t count);
};

/** The tables, one symbol per instruction set built into this library. */
void simd_matrix_generic(struct cpu_kernels *k);
void simd_matrix_avx2(struct cpu_kernels *k);
void simd_matrix_avx512(struct cpu_kernels *k);
void simd_quant_generic(struct cpu_kernels *k);
void simd_quant_avx2(struct cpu_kernels *k);
void simd_quant_avx512(struct cpu_kernels *k);
void simd_forward_generic(struct cpu_kernels *k);
void simd_forward_avx2(struct cpu_kernels *k);
void simd_forward_avx512(struct cpu_kernels *k);

#endif
