/* simd_matrix.c - vector kernels of the matrix ops; compiled once per instruction set (see simd.h, cpu_kernels.h).
 *
 * One thread, no allocation, no alignment needed. The order of additions inside a kernel is fixed for an instruction
 * set; it may differ between instruction sets, so results agree across them within rounding only.
 */
#include "backend/simd.h"
#include "backend/cpu_kernels.h"
#include "core/dtype.h"

static void convert(float *out, const void *in, flrq_dtype dtype, int64_t count) {
    int64_t i = 0;
    if (dtype == FLRQ_F32) {
        memcpy(out, in, (size_t)count * sizeof *out);
    } else if (dtype == FLRQ_F16) {
        const uint16_t *half = in;
        for (; i + V <= count; i += V) v_store(out + i, v_load_f16(half + i));
        for (; i < count; i++) out[i] = flrq_f16_to_f32(half[i]);
    } else {
        const uint16_t *half = in;
        for (; i + V <= count; i += V) v_store(out + i, v_load_bf16(half + i));
        for (; i < count; i++) out[i] = flrq_bf16_to_f32(half[i]);
    }
}

static void add_codes(float *out, const flrq_codes *codes, int64_t row, int64_t col0, int64_t cols, float sign) {
    const uint8_t *code = codes->code + row * codes->cols;
    int64_t end = col0 + cols;
    for (int64_t j = col0; j < end;) {
        int64_t g = j / codes->group, stop = (g + 1) * codes->group < end ? (g + 1) * codes->group : end;
        int64_t index = row * codes->n_groups + g;
        float zero = codes->zero ? (float)codes->zero[index] : (float)(1 << (codes->bits - 1));
        float scale = sign * codes->scale[index];
        vf vz = v_set(zero), vs = v_set(scale);
        for (; j + V <= stop; j += V) {
            float *to = out + (j - col0);
            v_store(to, v_fma(v_sub(v_load_u8(code + j), vz), vs, v_load(to)));
        }
        for (; j < stop; j++) out[j - col0] = fmaf((float)code[j] - zero, scale, out[j - col0]);
    }
}

static float dot(const float *a, const float *b, int64_t count) {
    vf s0 = v_set(0), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    for (; i + 4 * V <= count; i += 4 * V) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
        s1 = v_fma(v_load(a + i + V), v_load(b + i + V), s1);
        s2 = v_fma(v_load(a + i + 2 * V), v_load(b + i + 2 * V), s2);
        s3 = v_fma(v_load(a + i + 3 * V), v_load(b + i + 3 * V), s3);
    }
    for (; i + V <= count; i += V) s0 = v_fma(v_load(a + i), v_load(b + i), s0);
    float sum = v_sum(v_add(v_add(s0, s1), v_add(s2, s3)));
    for (; i < count; i++) sum += a[i] * b[i];
    return sum;
}

static void axpy(float *y, const float *x, float alpha, int64_t count) {
    vf va = v_set(alpha);
    int64_t i = 0;
    for (; i + V <= count; i += V) v_store(y + i, v_fma(va, v_load(x + i), v_load(y + i)));
    for (; i < count; i++) y[i] = fmaf(alpha, x[i], y[i]);
}

static void scale_by(float *x, const float *s, int64_t count) {
    int64_t i = 0;
    for (; i + V <= count; i += V) v_store(x + i, v_mul(v_load(x + i), v_load(s + i)));
    for (; i < count; i++) x[i] *= s[i];
}

static double sum_squares(const float *x, int64_t count) {
    double total = 0;
    for (int64_t start = 0; start < count; start += 256) {
        int64_t end = start + 256 < count ? start + 256 : count, i = start;
        vf s0 = v_set(0), s1 = s0;
        for (; i + 2 * V <= end; i += 2 * V) {
            vf a = v_load(x + i), b = v_load(x + i + V);
            s0 = v_fma(a, a, s0);
            s1 = v_fma(b, b, s1);
        }
        double tail = 0;
        for (; i < end; i++) tail += (double)x[i] * (double)x[i];
        total += (double)v_sum(v_add(s0, s1)) + tail;
    }
    return total;
}

/* Vectors of a row that stay in registers while the rank-1 terms are subtracted. */
enum { AMAX_VECTORS = 4 };
_Static_assert(CPU_AMAX_COLS % (AMAX_VECTORS * V) == 0, "blocks of the amax curve are whole groups of vectors");

/* lanes := max(lanes, |x|) for x [rows, AMAX_VECTORS]. A tree: the maxima of successive ranks overlap in the pipeline.
 */
static inline __attribute__((always_inline)) void amax_update(float *lanes, const int rows, vf x[][AMAX_VECTORS]) {
    vf top[4];
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) top[i] = v_max(v_maxabs(x[i][0], x[i][1]), v_maxabs(x[i][2], x[i][3]));
    vf all = rows == 4   ? v_max(v_max(top[0], top[1]), v_max(top[2], top[3]))
             : rows == 2 ? v_max(top[0], top[1])
                         : top[0];
    v_store(lanes, v_max(v_load(lanes), all));
}

/* `rows` rows x AMAX_VECTORS vectors: the residual stays in registers over all ranks. cols is what
 * is left of the tile; zeros are read beyond. */
static inline __attribute__((always_inline)) void amax_rows(float *lanes, const int rows, const float *a, int64_t ld_a,
                                                            int64_t cols, const float *u, int64_t ld_u, const float *vt,
                                                            int64_t b) {
    vf x[4][AMAX_VECTORS];
    for (int i = 0; i < rows; i++) {
        /* The next block of the same rows: they are on different pages, where no hardware prefetcher follows. */
        for (int v = 0; v < AMAX_VECTORS && cols > CPU_AMAX_COLS; v++)
            __builtin_prefetch(a + i * ld_a + CPU_AMAX_COLS + v * V);
        for (int v = 0; v < AMAX_VECTORS; v++) {
            int64_t left = cols - v * V;
            x[i][v] = v_load_n(a + i * ld_a + (left > 0 ? v * V : 0), (int)(left > V ? V : left > 0 ? left : 0));
        }
    }
    amax_update(lanes, rows, x);
    for (int64_t r = 0; r < b; r++) {
        lanes += V;
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) {
            vf factor = v_set(u[i * ld_u + r]);
#pragma GCC unroll 4
            for (int v = 0; v < AMAX_VECTORS; v++)
                x[i][v] = v_fnma(factor, v_load(vt + r * CPU_AMAX_COLS + v * V), x[i][v]);
        }
        amax_update(lanes, rows, x);
    }
}

static void amax_tile(float *lanes, const float *a, int64_t ld_a, int64_t rows, int64_t cols, const float *u,
                      int64_t ld_u, const float *vt, int64_t b) {
    enum { ROWS = V == 16 ? 4 : 2 }; /* 16 residual vectors in 32 registers, 8 in 16 */
    for (int64_t j = 0; j < cols; j += AMAX_VECTORS * V) {
        const float *block = vt + j / CPU_AMAX_COLS * CPU_AMAX_COLS * b + j % CPU_AMAX_COLS;
        int64_t i = 0;
        for (; i + ROWS <= rows; i += ROWS)
            amax_rows(lanes, ROWS, a + i * ld_a + j, ld_a, cols - j, u + i * ld_u, ld_u, block, b);
        for (; i < rows; i++) amax_rows(lanes, 1, a + i * ld_a + j, ld_a, cols - j, u + i * ld_u, ld_u, block, b);
    }
}

static void amax_reduce(float *amax, const float *lanes, int64_t count) {
    for (int64_t r = 0; r < count; r++) {
        float top = v_maxall(v_load(lanes + r * V));
        if (top > amax[r]) amax[r] = top;
    }
}

/* Sums in double by plain loops: a compiler vectorises them, and the order is the same for every instruction set. */
static double abs_sum(const float *x, int64_t count) {
    double part[8] = {0}, tail = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++) part[k] += fabs((double)x[i + k]);
    for (; i < count; i++) tail += fabs((double)x[i]);
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7])) + tail;
}

static void add_stats(double *restrict abs_sums, double *restrict square_sums, const float *restrict x, double factor,
                      int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        double value = (double)x[j];
        abs_sums[j] += fabs(value) * factor;
        square_sums[j] += value * value;
    }
}

static int64_t find_nonfinite(const float *x, int64_t count) {
    int64_t i = 0;
    /* x*0 is NaN for NaN and Inf and 0 otherwise: the sum over a block stays 0 while everything is finite. */
    vf zero = v_set(0);
    for (; i + 4 * V <= count; i += 4 * V) {
        vf s = zero;
        for (int k = 0; k < 4; k++) s = v_fma(v_load(x + i + k * V), zero, s);
        if (!(v_sum(s) == 0)) break;
    }
    for (; i < count; i++)
        if (!isfinite(x[i])) return i;
    return -1;
}

void SIMD_NAME(simd_matrix)(struct cpu_kernels *k) {
    k->convert = convert;
    k->add_codes = add_codes;
    k->dot = dot;
    k->axpy = axpy;
    k->scale_by = scale_by;
    k->sum_squares = sum_squares;
    k->amax_tile = amax_tile;
    k->amax_reduce = amax_reduce;
    k->abs_sum = abs_sum;
    k->add_stats = add_stats;
    k->find_nonfinite = find_nonfinite;
}
