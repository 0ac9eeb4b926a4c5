/* simd_forward.c - vector kernels of the block forward: exponentials, norms, rotations.
 *
 * Owns the forward part of struct cpu_kernels, once per instruction set. A row that does not fill the last vector is
 * padded with a value that does not change the result, so that an element is computed the same way wherever it stands.
 * Must not change: the bound on exp_of() (2 ulp), which the tolerances of the forward tests build on.
 */
#include "backend/cpu_kernels.h"
#include "backend/simd.h"

#include <float.h>

enum { BLOCK = 256 }; /* elements between two additions to a double accumulator */

static inline vf load_part(const float *p, int64_t count, float fill) {
    float lanes[V];
    for (int k = 0; k < V; k++) lanes[k] = fill;
    memcpy(lanes, p, (size_t)count * sizeof *p);
    return v_load(lanes);
}

static inline void store_part(float *p, vf a, int64_t count) {
    float lanes[V];
    v_store(lanes, a);
    memcpy(p, lanes, (size_t)count * sizeof *p);
}

/* e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2)/2 + 2^-12, and e^r = 1 + r + r^2 q(r).
 *
 * q is the minimax polynomial of degree 4 for the absolute error of e^r: 2^-28.2. ln 2 = 355/512 - 2.1219444e-4: n *
 * 355/512 is exact (8 + 9 bits), and so is x - n * 355/512 (a multiple of ulp(x), below 1/2). What rounds, in units of
 * 2^-24 and without counting on fused operations (|n| <= 150): r      n * low 0.03, the constant low 0.03, the
 * subtraction 1/4 (|r| < 1/2)       0.31, times e^r q      three operations on numbers below 0.09 next to c2, times r^2
 * <= 0.121      0.10 r + r^2 q   below 1/2 in magnitude: 1/4 plus the product 0.03                     0.28 q itself
 * 0.06 and the last addition half an ulp of the result. With ulp = 2^-24 in [0.70, 1), 2^-23 in [1, 1.42) the sum stays
 * below 0.5 + 0.31 + 0.44 = 1.25 ulp. A subnormal result rounds once more, by half of its (larger) ulp: below 2 ulp. */
static inline vf exp_of(vf x) {
    x = v_max(v_set(-104.0f), v_min(v_set(89.0f), x)); /* this order keeps NaN */
    vf n = v_round(v_mul(x, v_set(1.44269504f)));
    vf r = v_sub(v_sub(x, v_mul(n, v_set(355.0f / 512.0f))), v_mul(n, v_set(-2.12194440e-4f)));
    vf q = v_set(1.3950658e-3f);
    q = v_fma(q, r, v_set(8.3689851e-3f));
    q = v_fma(q, r, v_set(4.1666203e-2f));
    q = v_fma(q, r, v_set(1.6666518e-1f));
    q = v_fma(q, r, v_set(5.0000001e-1f));
    vf e = v_add(v_fma(v_mul(r, r), q, r), v_set(1.0f));
    return v_scale2(e, n);
}

static float exp_sum(float *x, float max, int64_t count) {
    vf top = v_set(max), sum = v_set(0);
    int64_t j = 0;
    for (; j + V <= count; j += V) {
        vf e = exp_of(v_sub(v_load(x + j), top));
        v_store(x + j, e);
        sum = v_add(sum, e);
    }
    if (j < count) {
        vf e = exp_of(v_sub(load_part(x + j, count - j, -INFINITY), top));
        store_part(x + j, e, count - j);
        sum = v_add(sum, e);
    }
    return v_sum(sum);
}

static double sum_exp(const float *x, float max, int64_t count) {
    vf top = v_set(max);
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        int64_t end = begin + BLOCK < count ? begin + BLOCK : count, j = begin;
        vf sum = v_set(0);
        for (; j + V <= end; j += V) sum = v_add(sum, exp_of(v_sub(v_load(x + j), top)));
        if (j < end) sum = v_add(sum, exp_of(v_sub(load_part(x + j, end - j, -INFINITY), top)));
        total += (double)v_sum(sum);
    }
    return total;
}

/* The difference is held finite, so that 0 * (-inf - -inf) and 0 * inf count 0; NaN in p survives in the exponential.
 */
static inline vf exp_difference(vf p, vf q, vf top) {
    vf difference = v_max(v_min(v_sub(p, q), v_set(FLT_MAX)), v_set(-FLT_MAX));
    return v_mul(exp_of(v_sub(p, top)), difference);
}

static double sum_exp_difference(const float *p, const float *q, float max, int64_t count) {
    vf top = v_set(max);
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        int64_t end = begin + BLOCK < count ? begin + BLOCK : count, j = begin;
        vf sum = v_set(0);
        for (; j + V <= end; j += V) sum = v_add(sum, exp_difference(v_load(p + j), v_load(q + j), top));
        if (j < end)
            sum = v_add(sum, exp_difference(load_part(p + j, end - j, -INFINITY), load_part(q + j, end - j, 0), top));
        total += (double)v_sum(sum);
    }
    return total;
}

static float max_of(const float *x, int64_t count) {
    vf max = v_set(-INFINITY);
    int64_t j = 0;
    for (; j + V <= count; j += V) max = v_max(v_load(x + j), max);
    if (j < count) max = v_max(load_part(x + j, count - j, -INFINITY), max);
    return v_maxall(max);
}

static inline vf silu_times(vf gate, vf up) {
    vf denominator = v_add(v_set(1.0f), exp_of(v_sub(v_set(0), gate)));
    return v_mul(v_div(gate, denominator), up);
}

static void swiglu(float *gate, const float *up, int64_t count) {
    int64_t j = 0;
    for (; j + V <= count; j += V) v_store(gate + j, silu_times(v_load(gate + j), v_load(up + j)));
    if (j < count)
        store_part(gate + j, silu_times(load_part(gate + j, count - j, 0), load_part(up + j, count - j, 0)), count - j);
}

static void scale_weight(float *out, const float *in, float factor, const float *weight, int64_t count) {
    if (weight)
        for (int64_t j = 0; j < count; j++) out[j] = in[j] * factor * weight[j];
    else
        for (int64_t j = 0; j < count; j++) out[j] = in[j] * factor;
}

static double sum_of(const float *x, int64_t count) {
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        int64_t end = begin + BLOCK < count ? begin + BLOCK : count, j = begin;
        vf sum = v_set(0);
        for (; j + V <= end; j += V) sum = v_add(sum, v_load(x + j));
        if (j < end) sum = v_add(sum, load_part(x + j, end - j, 0));
        total += (double)v_sum(sum);
    }
    return total;
}

/* The mean is taken off in two parts: where it is large next to the deviations, x - high is exact (Sterbenz) and the
 * result is as accurate as x itself. */
static double center(float *out, const float *in, double mean, int64_t count) {
    float high = (float)mean, low = (float)(mean - (double)high);
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        int64_t end = begin + BLOCK < count ? begin + BLOCK : count, j = begin;
        vf squares = v_set(0);
        for (; j + V <= end; j += V) {
            vf d = v_sub(v_sub(v_load(in + j), v_set(high)), v_set(low));
            v_store(out + j, d);
            squares = v_fma(d, d, squares);
        }
        total += (double)v_sum(squares);
        for (; j < end; j++) {
            out[j] = in[j] - high - low;
            total += (double)out[j] * (double)out[j];
        }
    }
    return total;
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t half) {
    float *y = x + half;
    int64_t j = 0;
    for (; j + V <= half; j += V) {
        vf a = v_load(x + j), b = v_load(y + j), c = v_load(cosine + j), s = v_load(sine + j);
        v_store(x + j, v_fnma(b, s, v_mul(a, c)));
        v_store(y + j, v_fma(a, s, v_mul(b, c)));
    }
    for (; j < half; j++) {
        float a = x[j], b = y[j];
        x[j] = a * cosine[j] - b * sine[j];
        y[j] = b * cosine[j] + a * sine[j];
    }
}

void SIMD_NAME(simd_forward)(struct cpu_kernels *k) {
    k->exp_sum = exp_sum;
    k->sum_exp = sum_exp;
    k->sum_exp_difference = sum_exp_difference;
    k->max_of = max_of;
    k->swiglu = swiglu;
    k->scale_weight = scale_weight;
    k->sum = sum_of;
    k->center = center;
    k->rotate = rotate;
}
