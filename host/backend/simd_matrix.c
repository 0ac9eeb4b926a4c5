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

static void amax_row(float *amax, const float *row, const float *u, const float *vt, int64_t ld_vt, int64_t b,
                     int64_t cols) {
    int64_t j = 0;
    for (; j + V <= cols; j += V) {
        vf residual = v_load(row + j);
        amax[0] = fmaxf(amax[0], v_maxall(v_abs(residual)));
        for (int64_t r = 0; r < b; r++) {
            residual = v_fnma(v_set(u[r]), v_load(vt + r * ld_vt + j), residual);
            amax[r + 1] = fmaxf(amax[r + 1], v_maxall(v_abs(residual)));
        }
    }
    for (; j < cols; j++) {
        float residual = row[j];
        amax[0] = fmaxf(amax[0], fabsf(residual));
        for (int64_t r = 0; r < b; r++) {
            residual = fmaf(-u[r], vt[r * ld_vt + j], residual);
            amax[r + 1] = fmaxf(amax[r + 1], fabsf(residual));
        }
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
    k->amax_row = amax_row;
    k->find_nonfinite = find_nonfinite;
}
