/* test_forward_ops.c - the block forward of the CPU backend: the table of op cases, known answers and refusals.
 *
 * Known answers run on both faces, because a reference that is wrong would make every comparison agree. Memory of the
 * CPU backend is host memory, so arrays of the test serve as d_* pointers here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu_kernels.h"
#include "backend/optable.h"
#include "core/philox.h"

#define EPS OP_EPS32

static const char *const faces[] = {"cpu", "cpu-ref"};

static flrq_backend *open_face(int face) {
    flrq_backend *be;
    assert_int_equal(flrq_backend_open(&be, faces[face], 2), FLRQ_OK);
    return be;
}

#define EACH_FACE(be)                                                                                                  \
    for (int face_ = 0; face_ < 2; face_++)                                                                            \
        for (flrq_backend *be = open_face(face_); be; flrq_backend_close(be), be = NULL)

static float *normals(int64_t count, uint64_t stream) {
    float *x = test_malloc((size_t)count * sizeof *x);
    flrq_philox_normal(x, flrq_philox_key(7, "test_forward_ops"), stream, 0, (uint64_t)count);
    return x;
}

static void table(void **state) {
    assert_int_equal(op_table_test(&ops_forward, op_test_device()), 0);
}

/* ---- exp ----------------------------------------------------------------------------------------------------------
 */

static double ulp_at(double value) {
    int exponent;
    frexp(value, &exponent);
    return ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
}

/* Every 1009th float of either sign (2.1 million), through exp_sum() with max 0. The bound is derived in
 * simd_forward.c; libm's exp in double is the truth (its error is 2^-29 ulp of fp32). */
static void check_exp(const struct cpu_kernels *k) {
    float in[1000], out[1000];
    double worst = 0;
    uint32_t bits = 0;
    while (bits <= 0x7F800000u) {
        int n = 0;
        for (; n < 1000 && bits <= 0x7F800000u; bits += 1009, n += 2) {
            uint32_t negative = bits | 0x80000000u;
            memcpy(&in[n], &bits, 4);
            memcpy(&in[n + 1], &negative, 4);
        }
        memcpy(out, in, sizeof out);
        k->exp_sum(out, 0, n);
        for (int i = 0; i < n; i++) {
            double truth = exp((double)in[i]);
            if (truth >= 0x1.ffffffp127) { /* rounds to infinity */
                assert_true(isinf(out[i]) && out[i] > 0);
                continue;
            }
            double error = fabs((double)out[i] - truth) / ulp_at(truth);
            if (!(error <= 2)) fail_msg("%s: exp(%.9g) = %.9g, off by %.3g ulp", k->isa, in[i], out[i], error);
            worst = fmax(worst, error);
        }
    }
    printf("exp %s: %.3f ulp of 2 allowed\n", k->isa, worst);
    float special[6] = {-INFINITY, -FLT_MAX, -104, INFINITY, 89, NAN};
    k->exp_sum(special, 0, 6);
    for (int i = 0; i < 3; i++) assert_true(special[i] == 0);
    for (int i = 3; i < 5; i++) assert_true(isinf(special[i]));
    assert_true(isnan(special[5]));
}

static void exp_is_within_two_ulp(void **state) {
    struct cpu_kernels generic = {.isa = "generic"};
    simd_forward_generic(&generic);
    check_exp(&generic);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        struct cpu_kernels avx2 = {.isa = "avx2"};
        simd_forward_avx2(&avx2);
        check_exp(&avx2);
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        struct cpu_kernels avx512 = {.isa = "avx512"};
        simd_forward_avx512(&avx512);
        check_exp(&avx512);
    }
#endif
}

/* ---- linear -------------------------------------------------------------------------------------------------------
 */

/* Y = X What^T with What given by its parts must be X times the matrix that materialize() writes. */
static void linear_with_factors_is_linear_with_their_product(void **state) {
    enum { TOKENS = 70, ROWS = 130, COLS = 300, GROUP = 64, GROUPS = 5, RANK = 9 };
    static uint8_t code[ROWS * COLS], zero[ROWS * GROUPS];
    static float scale[ROWS * GROUPS], product[ROWS * COLS], y1[TOKENS * ROWS], y2[TOKENS * ROWS];
    for (int i = 0; i < ROWS * COLS; i++) code[i] = (uint8_t)(i * 7 % 16);
    for (int i = 0; i < ROWS * GROUPS; i++) zero[i] = (uint8_t)(i % 16), scale[i] = (float)(1 + i % 5) / 32;
    flrq_codes codes = {.rows = ROWS,
                        .cols = COLS,
                        .group = GROUP,
                        .n_groups = GROUPS,
                        .bits = 4,
                        .code = code,
                        .scale = scale,
                        .zero = zero};
    float *x = normals(TOKENS * COLS, 1), *l = normals(ROWS * RANK, 2), *r = normals(RANK * COLS, 3);
    float *column = normals(COLS, 4), *bias = normals(ROWS, 5);
    flrq_operand parts = {.rows = ROWS,
                          .cols = COLS,
                          .codes = &codes,
                          .codes_sign = 1,
                          .d_l = l,
                          .d_r = r,
                          .rank = RANK,
                          .lr_sign = 1,
                          .d_col_scale = column};
    flrq_operand whole = {.rows = ROWS, .cols = COLS, .d_dense = product, .ld_dense = COLS, .dense_dtype = FLRQ_F32};
    EACH_FACE(be) {
        assert_int_equal(be->materialize(be, product, &parts), FLRQ_OK);
        assert_int_equal(be->linear(be, y1, x, &parts, bias, TOKENS), FLRQ_OK);
        assert_int_equal(be->linear(be, y2, x, &whole, bias, TOKENS), FLRQ_OK);
        double error = 0, norm = 0;
        for (int i = 0; i < TOKENS * ROWS; i++) {
            assert_true(isfinite(y1[i]) && isfinite(y2[i]));
            error += ((double)y1[i] - y2[i]) * ((double)y1[i] - y2[i]);
            norm += (double)y2[i] * y2[i];
        }
        /* Two sums of COLS terms on one side, one on the other, RANK terms and roundings of the product (sqrt(n) eps
         * each, see ops_forward.c). */
        assert_true(sqrt(error / norm) <= (3 * sqrt(COLS) + 2 * sqrt(RANK) + 8) * EPS);
    }
    test_free(x), test_free(l), test_free(r), test_free(column), test_free(bias);
}

/* ---- rope -----------------------------------------------------------------------------------------------------------
 */

static void rope_leaves_position_zero(void **state) {
    enum { HEADS = 3, DIM = 20 };
    float inv_freq[DIM / 2];
    for (int j = 0; j < DIM / 2; j++) inv_freq[j] = 1.0f / (float)(1 + j);
    float *before = normals(HEADS * DIM, 1), x[HEADS * DIM];
    EACH_FACE(be) {
        memcpy(x, before, sizeof x);
        assert_int_equal(be->rope(be, x, inv_freq, 1, HEADS, DIM, 0, 1.0f), FLRQ_OK);
        for (int i = 0; i < HEADS * DIM; i++) assert_true(x[i] == before[i]);
    }
    test_free(before);
}

/* Position 2^20 with frequency 1: an angle in fp32 products would be right, its cosine table in fp32 would not. The
 * answer is cos and sin of the integer. */
static void rope_is_accurate_far_out(void **state) {
    float inv_freq = 1, x[4] = {1, 0, 1, 0};
    EACH_FACE(be) {
        memcpy(x, (float[]){1, 0, 1, 0}, sizeof x);
        assert_int_equal(be->rope(be, x, &inv_freq, 2, 1, 2, 1048576, 1.0f), FLRQ_OK);
        for (int t = 0; t < 2; t++) {
            assert_true(fabs(x[2 * t] - cos(1048576.0 + t)) <= EPS);
            assert_true(fabs(x[2 * t + 1] - sin(1048576.0 + t)) <= EPS);
        }
    }
}

/* ---- attention ------------------------------------------------------------------------------------------------------
 */

enum { TOKENS = 700, HEADS = 4, KV = 2, DIM = 24 };

static flrq_attention shape_of(int64_t window) {
    return (flrq_attention){
        .tokens = TOKENS, .heads = HEADS, .kv_heads = KV, .head_dim = DIM, .scale = 0.2f, .window = window};
}

/* Weights add up to one: v the same for all tokens comes out again. The sum of at most 700 weights and the weighted
 * sum round apart: 2 * 0.41 sqrt(700) eps, and 3 for factor, reciprocal and product, doubled. */
static void attention_of_constant_values_is_the_value(void **state) {
    float *q = normals(TOKENS * HEADS * DIM, 1), *k = normals(TOKENS * KV * DIM, 2);
    float *v = test_malloc(TOKENS * KV * DIM * sizeof *v), *out = test_malloc(TOKENS * HEADS * DIM * sizeof *out);
    for (int i = 0; i < TOKENS * KV * DIM; i++) v[i] = (float)(i % (KV * DIM)) - 20;
    EACH_FACE(be) for (int w = 0; w < 3; w++) {
        flrq_attention shape = shape_of((int64_t[]){0, 1, 133}[w]);
        assert_int_equal(be->attention(be, out, q, k, v, &shape), FLRQ_OK);
        for (int i = 0; i < TOKENS * HEADS * DIM; i++) {
            int column = i % (HEADS * DIM), head = column / DIM;
            double value = (float)(head / (HEADS / KV) * DIM + column % DIM) - 20;
            assert_true(fabs(out[i] - value) <= (2 * sqrt(TOKENS) + 6) * EPS * fabs(value));
        }
    }
    test_free(q), test_free(k), test_free(v), test_free(out);
}

/* Scores of +-1e30 leave one key: the output is its value, exactly. */
static void attention_of_huge_scores_picks_one_value(void **state) {
    float *v = normals(TOKENS * KV * DIM, 3), *out = test_malloc(TOKENS * HEADS * DIM * sizeof *out);
    float *q = test_malloc(TOKENS * HEADS * DIM * sizeof *q), *k = test_malloc(TOKENS * KV * DIM * sizeof *k);
    for (int i = 0; i < TOKENS * HEADS * DIM; i++) q[i] = i % DIM == 0 ? 1e20f : 0;
    /* Keys grow to token 349 and fall after it. */
    for (int i = 0; i < TOKENS * KV * DIM; i++) k[i] = i % DIM == 0 ? -1e10f * (float)abs(i / (KV * DIM) - 349) : 0;
    flrq_attention shape = shape_of(0);
    EACH_FACE(be) {
        assert_int_equal(be->attention(be, out, q, k, v, &shape), FLRQ_OK);
        for (int t = 0; t < TOKENS; t++)
            for (int h = 0; h < HEADS; h++)
                for (int c = 0; c < DIM; c++) {
                    int from = t < 349 ? t : 349;
                    assert_true(out[(t * HEADS + h) * DIM + c] == v[(from * KV + h / (HEADS / KV)) * DIM + c]);
                }
    }
    test_free(q), test_free(k), test_free(v), test_free(out);
}

/* What a query may not see does not reach its output, not by one bit. */
static void attention_sees_neither_future_nor_beyond_the_window(void **state) {
    float *q = normals(TOKENS * HEADS * DIM, 1), *k = normals(TOKENS * KV * DIM, 2), *v = normals(TOKENS * KV * DIM, 3);
    size_t bytes = TOKENS * HEADS * DIM * sizeof(float);
    float *first = test_malloc(bytes), *second = test_malloc(bytes);
    enum { WINDOW = 100, TOUCHED = 300 };
    EACH_FACE(be) {
        flrq_attention shape = shape_of(WINDOW);
        assert_int_equal(be->attention(be, first, q, k, v, &shape), FLRQ_OK);
        for (int c = 0; c < KV * DIM; c++) {
            k[TOUCHED * KV * DIM + c] += 1;
            v[TOUCHED * KV * DIM + c] += 1;
        }
        assert_int_equal(be->attention(be, second, q, k, v, &shape), FLRQ_OK);
        for (int t = 0; t < TOKENS; t++) {
            bool same = memcmp(first + t * HEADS * DIM, second + t * HEADS * DIM, HEADS * DIM * sizeof *first) == 0;
            assert_true(same == (t < TOUCHED || t >= TOUCHED + WINDOW));
        }
    }
    test_free(q), test_free(k), test_free(v), test_free(first), test_free(second);
}

/* ---- losses ---------------------------------------------------------------------------------------------------------
 */

static void uniform_logits_cost_the_log_of_the_vocabulary(void **state) {
    enum { VOCAB = 4099 };
    static float logits[3 * VOCAB];
    const int32_t target[3] = {0, VOCAB - 1, -1};
    for (int i = 0; i < 3 * VOCAB; i++) logits[i] = (float)(i / VOCAB) * 1e30f - 1e30f; /* -1e30, 0, 1e30 */
    EACH_FACE(be) {
        double nll[3];
        int32_t argmax[3];
        assert_int_equal(be->nll(be, nll, argmax, logits, target, 3, VOCAB), FLRQ_OK);
        /* exp(0) = 1 and sums of ones below 2^24 are exact: what remains is adding 1e30 in double, and there log V is
         * lost. */
        assert_true(nll[0] == 0 || fabs(nll[0] - log(VOCAB)) <= 1e-12);
        assert_true(fabs(nll[1] - log(VOCAB)) <= 1e-12);
        assert_true(nll[2] == 0);
        for (int t = 0; t < 3; t++) assert_int_equal(argmax[t], 0);
    }
}

static void losses_of_extreme_rows(void **state) {
    enum { VOCAB = 21 };
    static float x[6 * VOCAB];
    for (int i = 0; i < 6 * VOCAB; i++) x[i] = 0;
    for (int j = 0; j < VOCAB; j++) x[j] = -INFINITY; /* row 0: one word left */
    x[17] = 3;
    x[VOCAB + 4] = x[VOCAB + 19] = 1e38f;                         /* row 1: two words share all, the first wins */
    x[2 * VOCAB + 5] = -INFINITY;                                 /* row 2: the target cannot happen */
    x[3 * VOCAB + 20] = NAN;                                      /* row 3: not a number */
    for (int j = 0; j < VOCAB; j++) x[4 * VOCAB + j] = -INFINITY; /* row 4: nothing can happen */
    x[5 * VOCAB + 1] = INFINITY;                                  /* row 5: overflow */
    const int32_t target[6] = {17, 19, 5, 0, 0, 0};
    EACH_FACE(be) {
        double nll[6];
        int32_t argmax[6];
        assert_int_equal(be->nll(be, nll, argmax, x, target, 6, VOCAB), FLRQ_OK);
        assert_true(nll[0] == 0);
        assert_int_equal(argmax[0], 17);
        assert_true(fabs(nll[1] - log(2)) <= 1e-15 || nll[1] == 0); /* 1e38 swallows the logarithm */
        assert_int_equal(argmax[1], 4);
        assert_true(isinf(nll[2]) && nll[2] > 0);
        for (int t = 3; t < 6; t++) assert_true(isnan(nll[t]));
        assert_int_equal(argmax[3], 0);
        assert_int_equal(argmax[4], 0);
        assert_int_equal(argmax[5], 1);
    }
}

static void divergence_of_known_distributions(void **state) {
    enum { VOCAB = 19 };
    static float p[5 * VOCAB], q[5 * VOCAB];
    for (int i = 0; i < 5 * VOCAB; i++) p[i] = q[i] = (float)(i % 7);
    for (int j = 0; j < VOCAB; j++) q[j] += 100;                      /* row 0: the same up to a constant */
    for (int j = 0; j < VOCAB; j++) p[VOCAB + j] = j ? -INFINITY : 0; /* row 1: p is sure of word 0, q uniform */
    for (int j = 0; j < VOCAB; j++) q[VOCAB + j] = 0;
    q[2 * VOCAB + 3] = -INFINITY;                    /* row 2: q forbids what p allows */
    p[3 * VOCAB + 4] = q[3 * VOCAB + 4] = -INFINITY; /* row 3: both forbid word 4 */
    p[4 * VOCAB + 5] = NAN;                          /* row 4 */
    EACH_FACE(be) {
        double kl[5];
        assert_int_equal(be->kl(be, kl, p, q, 5, VOCAB), FLRQ_OK);
        /* Row 0: p - q = -100 exactly, so the mean is -100 up to the sums in fp32 (2 roundings per lane and block). */
        assert_true(kl[0] >= 0 && kl[0] <= 100 * 4 * EPS);
        assert_true(fabs(kl[1] - log(VOCAB)) <= 1e-12);
        assert_true(isinf(kl[2]) && kl[2] > 0);
        assert_true(kl[3] == 0);
        assert_true(isnan(kl[4]));
    }
}

/* ---- special values of elementwise ops ------------------------------------------------------------------------------
 */

static void elementwise_special_values(void **state) {
    EACH_FACE(be) {
        float gate[5] = {-1000, 1000, 0, INFINITY, NAN}, up[5] = {2, 2, 2, 1, 1};
        assert_int_equal(be->swiglu(be, gate, up, 5), FLRQ_OK);
        assert_true(gate[0] == 0 && gate[1] == 2000 && gate[2] == 0 && isinf(gate[3]) && isnan(gate[4]));
        float x[4] = {-1, NAN, INFINITY, -INFINITY};
        assert_int_equal(be->relu(be, x, 4), FLRQ_OK);
        assert_true(x[0] == 0 && isnan(x[1]) && isinf(x[2]) && x[3] == 0);
        float zeros[3] = {0, 0, 0}, y[3];
        assert_int_equal(be->rmsnorm(be, y, zeros, NULL, 1, 3, 1e-6f), FLRQ_OK);
        assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0);
        assert_int_equal(be->layernorm(be, y, (float[]){5, 5, 5}, NULL, NULL, 1, 3, 1e-6f), FLRQ_OK);
        assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0);
    }
}

/* ---- refusals -------------------------------------------------------------------------------------------------------
 */

static void hostile_arguments_are_refused(void **state) {
    float x[64] = {0}, y[64];
    double loss[2];
    const int32_t ids[2] = {0, 3};
    EACH_FACE(be) {
        assert_int_equal(be->rope(be, x, x, 1, 1, 3, 0, 1.0f), FLRQ_ERR_SHAPE);
        flrq_attention good = {.tokens = 1, .heads = 2, .kv_heads = 1, .head_dim = 4, .scale = 1};
        flrq_attention bad[] = {good, good, good, good, good};
        bad[0].kv_heads = 0;
        bad[1].heads = 3, bad[1].kv_heads = 2;
        bad[2].window = -1;
        bad[3].tokens = -1;
        bad[4].heads = bad[4].head_dim = 1 << 20; /* a row of q beyond BLAS's int */
        for (int i = 0; i < 5; i++) assert_int_equal(be->attention(be, y, x, x, x, &bad[i]), FLRQ_ERR_SHAPE);
        assert_int_equal(be->nll(be, loss, NULL, x, ids, 2, 3), FLRQ_ERR_SHAPE);
        assert_non_null(strstr(flrq_last_error(), "target 3 of token 1"));
        flrq_operand a = {.rows = 2, .cols = 4, .d_dense = x, .ld_dense = 3, .dense_dtype = FLRQ_F32};
        assert_int_equal(be->linear(be, y, x, &a, NULL, 1), FLRQ_ERR_SHAPE);
        assert_int_equal(be->gather_rows(be, y, &a, ids, 1, 0), FLRQ_ERR_SHAPE);
        a.ld_dense = 4, a.dense_dtype = FLRQ_I8;
        assert_int_equal(be->linear(be, y, x, &a, NULL, 1), FLRQ_ERR_UNSUPPORTED);
        a.dense_dtype = FLRQ_F32;
        assert_int_equal(be->linear(be, y, x, &a, NULL, -1), FLRQ_ERR_SHAPE);
        assert_int_equal(be->rmsnorm(be, y, x, NULL, -1, 4, 1e-6f), FLRQ_ERR_SHAPE);
        assert_int_equal(be->layernorm(be, y, x, NULL, NULL, 4, -1, 1e-6f), FLRQ_ERR_SHAPE);
        assert_int_equal(be->kl(be, loss, x, x, -1, 4), FLRQ_ERR_SHAPE);
        a.rank = 1, a.d_l = a.d_r = x;
        if (face_ == 1) continue; /* the loops of the reference take anything */
        assert_int_equal(be->gather_rows(be, y, &a, ids, 1, 0), FLRQ_ERR_UNSUPPORTED);
        assert_int_equal(be->swiglu(be, y, x, -1), FLRQ_ERR_SHAPE);
        assert_int_equal(be->relu(be, y, -1), FLRQ_ERR_SHAPE);
        assert_int_equal(be->add(be, y, x, -1), FLRQ_ERR_SHAPE);
        assert_int_equal(be->add_f64(be, loss, loss, -1), FLRQ_ERR_SHAPE);
    }
}

/* No tokens: nothing is read or written. */
static void empty_work_is_done(void **state) {
    EACH_FACE(be) {
        float w[4] = {0};
        flrq_operand a = {.rows = 2, .cols = 2, .d_dense = w, .ld_dense = 2, .dense_dtype = FLRQ_F32};
        flrq_attention shape = {.tokens = 0, .heads = 2, .kv_heads = 1, .head_dim = 4, .scale = 1};
        assert_int_equal(be->linear(be, NULL, NULL, &a, NULL, 0), FLRQ_OK);
        assert_int_equal(be->attention(be, NULL, NULL, NULL, NULL, &shape), FLRQ_OK);
        assert_int_equal(be->rmsnorm(be, NULL, NULL, NULL, 0, 4, 1e-6f), FLRQ_OK);
        assert_int_equal(be->layernorm(be, NULL, NULL, NULL, NULL, 0, 4, 1e-6f), FLRQ_OK);
        assert_int_equal(be->rope(be, NULL, w, 0, 1, 4, 0, 1), FLRQ_OK);
        assert_int_equal(be->swiglu(be, NULL, NULL, 0), FLRQ_OK);
        assert_int_equal(be->add_f64(be, NULL, NULL, 0), FLRQ_OK);
        assert_int_equal(be->gather_rows(be, NULL, &a, NULL, 0, 1), FLRQ_OK);
        assert_int_equal(be->nll(be, NULL, NULL, NULL, NULL, 0, 4), FLRQ_OK);
        assert_int_equal(be->kl(be, NULL, NULL, NULL, 0, 4), FLRQ_OK);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_two_ulp),
        cmocka_unit_test(linear_with_factors_is_linear_with_their_product),
        cmocka_unit_test(rope_leaves_position_zero),
        cmocka_unit_test(rope_is_accurate_far_out),
        cmocka_unit_test(attention_of_constant_values_is_the_value),
        cmocka_unit_test(attention_of_huge_scores_picks_one_value),
        cmocka_unit_test(attention_sees_neither_future_nor_beyond_the_window),
        cmocka_unit_test(uniform_logits_cost_the_log_of_the_vocabulary),
        cmocka_unit_test(losses_of_extreme_rows),
        cmocka_unit_test(divergence_of_known_distributions),
        cmocka_unit_test(elementwise_special_values),
        cmocka_unit_test(hostile_arguments_are_refused),
        cmocka_unit_test(empty_work_is_done),
        cmocka_unit_test(table),
    };
    /* What is written by hand hands host memory to the ops. */
    const struct CMUnitTest device[] = {cmocka_unit_test(table)};
    if (strcmp(op_test_device(), "cpu") != 0) return cmocka_run_group_tests(device, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
