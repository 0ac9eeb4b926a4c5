/* cpu_kernels.h - the table of SIMD kernels. One instance per instruction set; cpu_state_new() picks the best that this
 * CPU runs (environment FLRQ_ISA=generic|avx2|avx512 lowers the choice). Kernels work on one thread and never allocate.
 *
 * simd_matrix.c, simd_quant.c and simd_forward.c are each compiled once per instruction set and fill their part.
 */
#ifndef FLRQ_BACKEND_CPU_KERNELS_H
#define FLRQ_BACKEND_CPU_KERNELS_H

#include "flrq_backend.h"

/** Floats of work that a matrix product needs. */
enum { CPU_GEMM_WORK = 256 * (256 + 512) + 1024 };

/** Columns by which a kernel may pad the copy of a Gram matrix's factor. */
enum { CPU_GRAM_PAD = 24 };

/** Columns of a block of the amax curve; floats of the widest vector. */
enum { CPU_AMAX_COLS = 64, CPU_MAX_LANES = 16 };

struct cpu_kernels {
    const char *isa; /* "generic", "avx2", "avx512" */

    /* --- simd_matrix.c --- */
    /** out[i] = in[i] as fp32, in of F32, F16 or BF16. */
    void (*convert)(float *out, const void *in, flrq_dtype dtype, int64_t count);
    /** out[j] += sign * scale[j/group...] * (code[j] - zero): one row segment, columns col0 .. col0+cols-1 of row
     * `row`. */
    void (*add_codes)(float *out, const flrq_codes *codes, int64_t row, int64_t col0, int64_t cols, float sign);
    /** sum of a[i]*b[i], fp32 vector accumulators. */
    float (*dot)(const float *a, const float *b, int64_t count);
    /** y += alpha * x. */
    void (*axpy)(float *y, const float *x, float alpha, int64_t count);
    /** x[j] *= s[j]. */
    void (*scale_by)(float *x, const float *s, int64_t count);
    /** sum of squares, accumulated in double every 256 elements. */
    double (*sum_squares)(const float *x, int64_t count);
    /** Lane maxima of |A - sum_{i<r} u_i v_i^T|, r = 0..b, over a tile of A [rows, cols]: lanes [b + 1, vector] only
     * grows. u [rows, ld_u] row-major; vt [ceil(cols / CPU_AMAX_COLS)][b][CPU_AMAX_COLS], zeros beyond cols. lanes
     * holds (b + 1) * CPU_MAX_LANES floats, zeroed before the first tile; amax_reduce() folds it. */
    void (*amax_tile)(float *lanes, const float *a, int64_t ld_a, int64_t rows, int64_t cols, const float *u,
                      int64_t ld_u, const float *vt, int64_t b);
    /** amax[r] = max(amax[r], lanes of r), r < count. */
    void (*amax_reduce)(float *amax, const float *lanes, int64_t count);
    /** sum of |x[i]| in double. */
    double (*abs_sum)(const float *x, int64_t count);
    /** abs_sums[j] += |x[j]| * factor, square_sums[j] += x[j]^2, in double. */
    void (*add_stats)(double *abs_sums, double *square_sums, const float *x, double factor, int64_t count);
    /** index of the first non-finite element, or -1. */
    int64_t (*find_nonfinite)(const float *x, int64_t count);

    /* --- simd_gemm.c --- */
    /** c [m, n] = alpha op(a) op(b) + beta c, row-major, op(x) = x or its transpose; beta = 0 does not read c. a is [m,
     * k]
     *  ([k, m] when trans_a), b [k, n] ([n, k] when trans_b). work: CPU_GEMM_WORK floats of the calling thread. An
     * element of c has the same bits wherever it lies in c. */
    void (*gemm)(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t ld_a,
                 const float *b, int64_t ld_b, float beta, float *c, int64_t ld_c, float *work);
    /** Upper triangle of g [b, b] += y^T y for y [rows, b], products and sums in double. work: rows * (b +
     * CPU_GRAM_PAD) doubles. */
    void (*gram)(double *g, const float *y, int64_t rows, int64_t b, double *work);

    /* --- simd_quant.c --- */
    /** Clip search and quantization of one row of residuals w [cols] in groups; h [cols] or NULL. Writes code [cols],
     *  scale [n_groups], zero [n_groups] (NULL when symmetric) and adds to stats. */
    void (*quantize_row)(uint8_t *code, float *scale, uint8_t *zero, const float *w, const float *h, int64_t cols,
                         int64_t group, const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats);
    void (*pack_row)(int32_t *packed, const uint8_t *code, int64_t cols, int bits);
    void (*unpack_row)(uint8_t *code, const int32_t *packed, int64_t cols, int bits);

    /* --- simd_forward.c --- */
    /* exp here is within 2 ulp of the true value for every fp32 argument (1 ulp = the spacing at the result, subnormals
     * included), 0 below -103.98 and for -inf, +inf above 88.73, NaN for NaN. */
    /** x[j] = exp(x[j] - max) in place, returns the sum. Vector accumulators in fp32: for rows of at most a few
     * thousand. */
    float (*exp_sum)(float *x, float max, int64_t count);
    /** Sum of exp(x[j] - max), accumulated in double every 256 elements. */
    double (*sum_exp)(const float *x, float max, int64_t count);
    /** Sum of exp(p[j] - max) * (p[j] - q[j]), likewise; terms whose exp is 0 count 0. A row where q is -inf and p is
     * not must not come here. */
    double (*sum_exp_difference)(const float *p, const float *q, float max, int64_t count);
    /** Maximum; NaN is passed over. -inf when there is no number. */
    float (*max_of)(const float *x, int64_t count);
    /** gate = silu(gate) * up. */
    void (*swiglu)(float *gate, const float *up, int64_t count);
    /** out = in * factor * weight (weight may be NULL). out may equal in. */
    void (*scale_weight)(float *out, const float *in, float factor, const float *weight, int64_t count);
    /** Sum in double: fp32 vector accumulators, emptied every 256 elements. */
    double (*sum)(const float *x, int64_t count);
    /** out = in - mean, returns the sum of squares of out. out may equal in. */
    double (*center)(float *out, const float *in, double mean, int64_t count);
    /** Rotates the pairs (x[j], x[j + half]) by the angle with the given cosine and sine, j < half. */
    void (*rotate)(float *x, const float *cosine, const float *sine, int64_t half);
};

/** The tables, one symbol per instruction set built into this library. */
void simd_matrix_generic(struct cpu_kernels *k);
void simd_matrix_avx2(struct cpu_kernels *k);
void simd_matrix_avx512(struct cpu_kernels *k);
void simd_gemm_generic(struct cpu_kernels *k);
void simd_gemm_avx2(struct cpu_kernels *k);
void simd_gemm_avx512(struct cpu_kernels *k);
void simd_quant_generic(struct cpu_kernels *k);
void simd_quant_avx2(struct cpu_kernels *k);
void simd_quant_avx512(struct cpu_kernels *k);
void simd_forward_generic(struct cpu_kernels *k);
void simd_forward_avx2(struct cpu_kernels *k);
void simd_forward_avx512(struct cpu_kernels *k);

#endif
