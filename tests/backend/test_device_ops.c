/* test_device_ops.c - known answers, special values and refusals of the block forward on a backend that may have memory
 * of its own: everything goes through alloc, upload and download.
 *
 * The backend is that of FLRQ_TEST_DEVICE. A table of op cases compares with the reference on random numbers; here are
 * the answers that need none: infinities, NaN, masks, empty work; and the rows of a matrix by themselves against the
 * whole. Attention runs in both precisions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "backend/optable.h"
#include "core/dtype.h"
#include "core/philox.h"

#define EPS OP_EPS32

static flrq_backend *be;

static int open_device(void **state) {
    if (flrq_backend_open(&be, op_test_device(), 2) == FLRQ_OK) return 0;
    print_error("%s\n", flrq_last_error());
    return -1;
}

static int close_device(void **state) {
    flrq_backend_close(be);
    return 0;
}

static float *device_floats(const float *host, int64_t count) {
    void *d;
    assert_int_equal(be->alloc(be, &d, (size_t)count * sizeof *host, "a test"), FLRQ_OK);
    if (host) assert_int_equal(be->upload(be, d, host, (size_t)count * sizeof *host), FLRQ_OK);
    return d;
}

static void fetch(float *host, const float *d, int64_t count) {
    assert_int_equal(be->download(be, host, d, (size_t)count * sizeof *host), FLRQ_OK);
}

static float *normals(int64_t count, uint64_t stream) {
    float *x = test_malloc((size_t)count * sizeof *x);
    flrq_philox_normal(x, flrq_philox_key(7, "test_device_ops"), stream, 0, (uint64_t)count);
    return x;
}

/* ---- rope -------------------------------------------------------------------------------------------------------- */

/* Frequency 1: the answer is cos and sin of the position, here 2^20 and the next. */
static void rope_is_accurate_far_out(void **state) {
    float one = 1, x[4] = {1, 0, 1, 0};
    float *d_freq = device_floats(&one, 1), *d_x = device_floats(x, 4);
    assert_int_equal(be->rope(be, d_x, d_freq, 2, 1, 2, 1048576, 1.0f), FLRQ_OK);
    fetch(x, d_x, 4);
    for (int t = 0; t < 2; t++) {
        assert_true(fabs(x[2 * t] - cos(1048576.0 + t)) <= EPS);
        assert_true(fabs(x[2 * t + 1] - sin(1048576.0 + t)) <= EPS);
    }
    be->release(be, d_freq), be->release(be, d_x);
}

/* A head of more pairs than a block turns at once, and the rest of one. */
static void rope_leaves_position_zero(void **state) {
    enum { HEADS = 2, DIM = 2 * 700 };
    float *x = normals(HEADS * DIM, 1), *freq = normals(DIM / 2, 2), y[HEADS * DIM];
    float *d_x = device_floats(x, HEADS * DIM), *d_freq = device_floats(freq, DIM / 2);
    assert_int_equal(be->rope(be, d_x, d_freq, 1, HEADS, DIM, 0, 1.0f), FLRQ_OK);
    fetch(y, d_x, HEADS * DIM);
    for (int i = 0; i < HEADS * DIM; i++) assert_true(y[i] == x[i]);
    test_free(x), test_free(freq), be->release(be, d_x), be->release(be, d_freq);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

typedef struct heads {
    flrq_attention shape;
    int64_t q_count, kv_count;
    float *d_q, *d_k, *d_v, *d_out, *out;
} heads;

static heads heads_new(flrq_attention shape, const float *q, const float *k, const float *v) {
    heads h = {.shape = shape};
    h.q_count = shape.tokens * shape.heads * shape.head_dim,
    h.kv_count = shape.tokens * shape.kv_heads * shape.head_dim;
    h.d_q = device_floats(q, h.q_count), h.d_out = device_floats(NULL, h.q_count);
    h.d_k = device_floats(k, h.kv_count), h.d_v = device_floats(v, h.kv_count);
    h.out = test_malloc((size_t)h.q_count * sizeof *h.out);
    return h;
}

static void heads_free(heads *h) {
    be->release(be, h->d_q), be->release(be, h->d_k), be->release(be, h->d_v), be->release(be, h->d_out);
    test_free(h->out);
}

static void attend(heads *h) {
    assert_int_equal(be->attention(be, h->d_out, h->d_q, h->d_k, h->d_v, &h->shape), FLRQ_OK);
    fetch(h->out, h->d_out, h->q_count);
}

/* What a query may not see does not reach its output, not by one bit. */
static void hides_future_and_past(int64_t dim, int64_t window, int64_t touched) {
    flrq_attention shape = {.tokens = 300, .heads = 2, .kv_heads = 1, .head_dim = dim, .scale = 0.2f, .window = window};
    float *q = normals(300 * 2 * dim, 1), *k = normals(300 * dim, 2), *v = normals(300 * dim, 3);
    heads h = heads_new(shape, q, k, v);
    attend(&h);
    float *before = test_malloc((size_t)h.q_count * sizeof *before);
    memcpy(before, h.out, (size_t)h.q_count * sizeof *before);
    for (int64_t c = 0; c < dim; c++) k[touched * dim + c] += 1, v[touched * dim + c] += 1;
    be->upload(be, h.d_k, k, (size_t)h.kv_count * sizeof *k);
    be->upload(be, h.d_v, v, (size_t)h.kv_count * sizeof *v);
    attend(&h);
    for (int64_t t = 0; t < shape.tokens; t++) {
        size_t row = (size_t)(2 * dim);
        int same = memcmp(before + (size_t)t * row, h.out + (size_t)t * row, row * sizeof *before) == 0;
        assert_int_equal(same, t < touched || (window > 0 && t >= touched + window));
    }
    test_free(before), test_free(q), test_free(k), test_free(v);
    heads_free(&h);
}

/* Weights add up to one: values that are the same for all tokens come out again. In bf16 a weight is off by 2^-8 at
 * most and the values, whole numbers below 256, not at all. */
static void keeps_constant_values(int64_t dim, int64_t window, double tolerance) {
    flrq_attention shape = {.tokens = 200, .heads = 6, .kv_heads = 2, .head_dim = dim, .scale = 0.2f, .window = window};
    float *q = normals(200 * 6 * dim, 1), *k = normals(200 * 2 * dim, 2);
    float *v = test_malloc((size_t)(200 * 2 * dim) * sizeof *v);
    for (int64_t i = 0; i < 200 * 2 * dim; i++) v[i] = (float)(i % (2 * dim) % 250);
    heads h = heads_new(shape, q, k, v);
    attend(&h);
    for (int64_t i = 0; i < h.q_count; i++) {
        double value = (double)((i / dim % 6 / 3 * dim + i % dim) % 250);
        assert_true(fabs(h.out[i] - value) <= tolerance * value);
    }
    test_free(q), test_free(k), test_free(v);
    heads_free(&h);
}

static void attention_sees_neither_future_nor_beyond_the_window(void **state) {
    const int64_t dims[] = {20, 64, 80, 96, 128, 200, 264};
    for (int fast = 0; fast < 2; fast++) {
        flrq_set_precision(be, fast ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL);
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
            hides_future_and_past(dims[i], 0, 130);
            hides_future_and_past(dims[i], 70, 127);
        }
        hides_future_and_past(64, 300, 299);
        hides_future_and_past(64, 1, 0);
    }
    flrq_set_precision(be, FLRQ_PRECISION_FULL);
}

static void attention_of_constant_values_is_the_value(void **state) {
    for (int fast = 0; fast < 2; fast++) {
        flrq_set_precision(be, fast ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL);
        double tolerance = fast ? OP_EPS_BF16 : (2 * sqrt(200) + 6) * EPS;
        keeps_constant_values(24, 0, tolerance);
        keeps_constant_values(128, 33, tolerance);
        keeps_constant_values(33, 1, tolerance);
    }
    flrq_set_precision(be, FLRQ_PRECISION_FULL);
}

/* Scores of +-1e30 leave one key: the output is its value, exactly in fp32 and up to its own rounding in bf16. Keys
 * grow to token 120 and fall after it, by steps that bf16 tells apart. */
static void attention_of_huge_scores_picks_one_value(void **state) {
    enum { TOKENS = 200, DIM = 64 };
    float *v = normals(TOKENS * DIM, 3);
    static float q[TOKENS * DIM], k[TOKENS * DIM];
    for (int t = 0; t < TOKENS; t++) q[t * DIM] = 1e20f, k[t * DIM] = -1e10f * (float)(t < 120 ? 120 - t : t - 120);
    flrq_attention shape = {.tokens = TOKENS, .heads = 1, .kv_heads = 1, .head_dim = DIM, .scale = 0.25f};
    heads h = heads_new(shape, q, k, v);
    for (int fast = 0; fast < 2; fast++) {
        flrq_set_precision(be, fast ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL);
        attend(&h);
        for (int t = 0; t < TOKENS; t++)
            for (int c = 0; c < DIM; c++) {
                double value = v[(t < 120 ? t : 120) * DIM + c];
                assert_true(fabs(h.out[t * DIM + c] - value) <= (fast ? OP_EPS_BF16 * fabs(value) : 0));
            }
    }
    flrq_set_precision(be, FLRQ_PRECISION_FULL);
    heads_free(&h);
    test_free(v);
}

/* A NaN in a query makes that token's output NaN and no other's. */
static void attention_keeps_nan_to_its_token(void **state) {
    enum { TOKENS = 70, DIM = 64, HEADS = 2 };
    float *q = normals(TOKENS * HEADS * DIM, 1), *k = normals(TOKENS * DIM, 2), *v = normals(TOKENS * DIM, 3);
    q[(33 * HEADS + 1) * DIM + 5] = NAN;
    flrq_attention shape = {.tokens = TOKENS, .heads = HEADS, .kv_heads = 1, .head_dim = DIM, .scale = 0.125f};
    heads h = heads_new(shape, q, k, v);
    for (int fast = 0; fast < 2; fast++) {
        flrq_set_precision(be, fast ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL);
        attend(&h);
        for (int i = 0; i < TOKENS * HEADS * DIM; i++) assert_int_equal(!!isnan(h.out[i]), i / DIM == 33 * HEADS + 1);
    }
    flrq_set_precision(be, FLRQ_PRECISION_FULL);
    heads_free(&h);
    test_free(q), test_free(k), test_free(v);
}

/* ---- losses ------------------------------------------------------------------------------------------------------ */

static void uniform_logits_cost_the_log_of_the_vocabulary(void **state) {
    enum { VOCAB = 4099 };
    static float logits[3 * VOCAB];
    const int32_t target[3] = {0, VOCAB - 1, -1};
    for (int i = 0; i < 3 * VOCAB; i++) logits[i] = (float)(i / VOCAB) * 1e30f - 1e30f; /* -1e30, 0, 1e30 */
    float *d_logits = device_floats(logits, 3 * VOCAB);
    double nll[3];
    int32_t argmax[3];
    assert_int_equal(be->nll(be, nll, argmax, d_logits, target, 3, VOCAB), FLRQ_OK);
    /* exp(0) = 1 and sums of ones are exact: what remains is adding 1e30 in double, and there log V is lost. */
    assert_true(nll[0] == 0 || fabs(nll[0] - log(VOCAB)) <= 1e-12);
    assert_true(fabs(nll[1] - log(VOCAB)) <= 1e-12);
    assert_true(nll[2] == 0);
    for (int t = 0; t < 3; t++) assert_int_equal(argmax[t], 0);
    be->release(be, d_logits);
}

/* Logits that rise by 1/16 move the base of the sum over and over: the sum is a geometric series. The largest are at
 * the end, and the two last are equal: the first of them wins. */
static void rising_logits_are_a_geometric_series(void **state) {
    enum { VOCAB = 10001 };
    static float logits[VOCAB];
    for (int j = 0; j < VOCAB; j++) logits[j] = (float)j / 16;
    logits[VOCAB - 1] = logits[VOCAB - 2];
    const int32_t target[1] = {VOCAB - 1};
    float *d_logits = device_floats(logits, VOCAB);
    double nll, expected = log(1 + 1 / (1 - exp(-1.0 / 16)));
    int32_t argmax;
    assert_int_equal(be->nll(be, &nll, &argmax, d_logits, target, 1, VOCAB), FLRQ_OK);
    /* exp is within 4 eps, its argument within eps of a few, four terms are added in fp32: 20 eps leaves room. */
    assert_true(fabs(nll - expected) <= 20 * EPS);
    assert_int_equal(argmax, VOCAB - 2);
    be->release(be, d_logits);
}

static void losses_of_extreme_rows(void **state) {
    enum { VOCAB = 21 };
    static float x[6 * VOCAB];
    for (int j = 0; j < VOCAB; j++) x[j] = -INFINITY; /* row 0: one word left */
    x[17] = 3;
    x[VOCAB + 4] = x[VOCAB + 19] = 1e38f;                         /* row 1: two words share all, the first wins */
    x[2 * VOCAB + 5] = -INFINITY;                                 /* row 2: the target cannot happen */
    x[3 * VOCAB + 20] = NAN;                                      /* row 3: not a number */
    for (int j = 0; j < VOCAB; j++) x[4 * VOCAB + j] = -INFINITY; /* row 4: nothing can happen */
    x[5 * VOCAB + 1] = INFINITY;                                  /* row 5: overflow */
    const int32_t target[6] = {17, 19, 5, 0, 0, 0};
    float *d_x = device_floats(x, 6 * VOCAB);
    double nll[6];
    int32_t argmax[6];
    assert_int_equal(be->nll(be, nll, argmax, d_x, target, 6, VOCAB), FLRQ_OK);
    assert_true(nll[0] == 0);
    assert_int_equal(argmax[0], 17);
    assert_true(fabs(nll[1] - log(2)) <= 1e-15 || nll[1] == 0); /* 1e38 swallows the logarithm */
    assert_int_equal(argmax[1], 4);
    assert_true(isinf(nll[2]) && nll[2] > 0);
    for (int t = 3; t < 6; t++) assert_true(isnan(nll[t]));
    assert_int_equal(argmax[3], 0);
    assert_int_equal(argmax[4], 0);
    assert_int_equal(argmax[5], 1);
    be->release(be, d_x);
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
    float *d_p = device_floats(p, 5 * VOCAB), *d_q = device_floats(q, 5 * VOCAB);
    double kl[5];
    assert_int_equal(be->kl(be, kl, d_p, d_q, 5, VOCAB), FLRQ_OK);
    /* Row 0: p - q = -100 exactly, so the mean is -100 up to a product and sums of four in fp32. */
    assert_true(kl[0] >= 0 && kl[0] <= 100 * 4 * EPS);
    assert_true(fabs(kl[1] - log(VOCAB)) <= 1e-12);
    assert_true(isinf(kl[2]) && kl[2] > 0);
    assert_true(kl[3] == 0);
    assert_true(isnan(kl[4]));
    be->release(be, d_p), be->release(be, d_q);
}

/* ---- special values ---------------------------------------------------------------------------------------------- */

static void elementwise_special_values(void **state) {
    const float up[5] = {2, 2, 2, 1, 1};
    float gate[5] = {-1000, 1000, 0, INFINITY, NAN}, *d_gate = device_floats(gate, 5), *d_up = device_floats(up, 5);
    assert_int_equal(be->swiglu(be, d_gate, d_up, 5), FLRQ_OK);
    fetch(gate, d_gate, 5);
    assert_true(gate[0] == 0 && gate[1] == 2000 && gate[2] == 0 && isinf(gate[3]) && isnan(gate[4]));
    float x[4] = {-1, NAN, INFINITY, -INFINITY}, *d_x = device_floats(x, 4);
    assert_int_equal(be->relu(be, d_x, 4), FLRQ_OK);
    fetch(x, d_x, 4);
    assert_true(x[0] == 0 && isnan(x[1]) && isinf(x[2]) && x[3] == 0);
    const float zeros[3] = {0, 0, 0}, fives[3] = {5, 5, 5};
    float y[3], *d_zeros = device_floats(zeros, 3), *d_fives = device_floats(fives, 3), *d_y = device_floats(NULL, 3);
    assert_int_equal(be->rmsnorm(be, d_y, d_zeros, NULL, 1, 3, 1e-6f), FLRQ_OK);
    fetch(y, d_y, 3);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0);
    assert_int_equal(be->layernorm(be, d_y, d_fives, NULL, NULL, 1, 3, 1e-6f), FLRQ_OK);
    fetch(y, d_y, 3);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0);
    be->release(be, d_gate), be->release(be, d_up), be->release(be, d_x);
    be->release(be, d_zeros), be->release(be, d_fives), be->release(be, d_y);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void hostile_arguments_are_refused(void **state) {
    float zeros[64] = {0}, *x = device_floats(zeros, 64), *y = device_floats(zeros, 64);
    double loss[2];
    const int32_t ids[2] = {0, 3};
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
    assert_int_equal(be->gather_rows(be, y, &a, ids, 1, 0), FLRQ_ERR_SHAPE);
    a.ld_dense = 4, a.rank = 1, a.d_l = a.d_r = x;
    assert_int_equal(be->gather_rows(be, y, &a, ids, 1, 0), FLRQ_ERR_UNSUPPORTED);
    assert_int_equal(be->rmsnorm(be, y, x, NULL, -1, 4, 1e-6f), FLRQ_ERR_SHAPE);
    assert_int_equal(be->layernorm(be, y, x, NULL, NULL, 4, -1, 1e-6f), FLRQ_ERR_SHAPE);
    assert_int_equal(be->kl(be, loss, x, x, -1, 4), FLRQ_ERR_SHAPE);
    assert_int_equal(be->swiglu(be, y, x, -1), FLRQ_ERR_SHAPE);
    assert_int_equal(be->relu(be, y, -1), FLRQ_ERR_SHAPE);
    assert_int_equal(be->add(be, y, x, -1), FLRQ_ERR_SHAPE);
    assert_int_equal(be->add_f64(be, (double *)(void *)y, (double *)(void *)x, -1), FLRQ_ERR_SHAPE);
    be->release(be, x), be->release(be, y);
}

/* Nothing to do: nothing is read or written. */
static void empty_work_is_done(void **state) {
    flrq_operand a = {.rows = 2, .cols = 2, .dense_dtype = FLRQ_F32};
    flrq_attention shape = {.tokens = 0, .heads = 2, .kv_heads = 1, .head_dim = 4, .scale = 1};
    assert_int_equal(be->attention(be, NULL, NULL, NULL, NULL, &shape), FLRQ_OK);
    assert_int_equal(be->rmsnorm(be, NULL, NULL, NULL, 0, 4, 1e-6f), FLRQ_OK);
    assert_int_equal(be->layernorm(be, NULL, NULL, NULL, NULL, 0, 4, 1e-6f), FLRQ_OK);
    assert_int_equal(be->rope(be, NULL, NULL, 0, 1, 4, 0, 1), FLRQ_OK);
    assert_int_equal(be->swiglu(be, NULL, NULL, 0), FLRQ_OK);
    assert_int_equal(be->relu(be, NULL, 0), FLRQ_OK);
    assert_int_equal(be->add(be, NULL, NULL, 0), FLRQ_OK);
    assert_int_equal(be->add_f64(be, NULL, NULL, 0), FLRQ_OK);
    assert_int_equal(be->gather_rows(be, NULL, &a, NULL, 0, 1), FLRQ_OK);
    assert_int_equal(be->nll(be, NULL, NULL, NULL, NULL, 0, 4), FLRQ_OK);
    assert_int_equal(be->kl(be, NULL, NULL, NULL, 0, 4), FLRQ_OK);
    assert_int_equal(be->input_stats(be, NULL, NULL, NULL, 0, 4), FLRQ_OK);
}

/* ---- rows by themselves ------------------------------------------------------------------------------------------ */

/* The same bytes whoever computes a row, and sums that follow the tree of chunks of rows: what lets any number of
 * workers write the same file. A library may choose another kernel for fewer rows, and with it another order of
 * summation: this is where it would show, so a real GPU gets a shape of a real layer. */
typedef struct rows_case {
    int64_t m, n, b;
    flrq_operand a;
    float *d_x, *d_q, *d_y, *d_z;
    double *d_gram;
} rows_case;

static flrq_operand rows_of(const rows_case *c, int64_t first, int64_t count) {
    flrq_operand part = c->a;
    size_t width = part.dense_dtype == FLRQ_F32 ? 4 : 2;
    part.rows = count;
    part.d_dense = (const char *)part.d_dense + (size_t)(first * part.ld_dense) * width;
    return part;
}

static void compare_mul(const rows_case *c, float *whole, float *part) {
    const int64_t ranges[][2] = {{0, 512}, {512, 1536}, {1024, c->m}, {c->m / 512 * 512, c->m}};
    assert_int_equal(be->mul(be, c->d_y, &c->a, c->d_x, c->b), FLRQ_OK);
    fetch(whole, c->d_y, c->m * c->b);
    for (int i = 0; i < 4; i++) {
        int64_t first = ranges[i][0], count = ranges[i][1] - first;
        flrq_operand rows = rows_of(c, first, count);
        assert_int_equal(be->mul(be, c->d_y, &rows, c->d_x, c->b), FLRQ_OK);
        fetch(part, c->d_y, count * c->b);
        if (memcmp(part, whole + first * c->b, (size_t)(count * c->b) * sizeof *part) != 0)
            fail_msg("mul: rows %lld to %lld by themselves round otherwise", (long long)first, (long long)ranges[i][1]);
    }
}

enum { NODES = 3 };

/* The nodes of four chunks, the last not whole, as two workers and a half may have them: (0 1), 2, 3. Their sum along
 * the tree is (0 1) + (2 + 3). */
static void node_rows(const rows_case *c, int node, int64_t *first, int64_t *count) {
    const int64_t bounds[NODES + 1] = {0, 1024, 1536, c->m};
    *first = bounds[node], *count = bounds[node + 1] - bounds[node];
}

static void compare_sums(const rows_case *c, float *whole, float *node[NODES]) {
    int64_t first, count, values = c->n * c->b;
    double squares, squares_mul, part[NODES], part_mul[NODES];
    assert_int_equal(be->mul_t(be, c->d_z, &c->a, c->d_q, c->b), FLRQ_OK);
    fetch(whole, c->d_z, values);
    assert_int_equal(be->sum_squares(be, &squares, &c->a), FLRQ_OK);
    assert_int_equal(be->sum_squares_mul(be, &squares_mul, &c->a, c->d_x, c->b), FLRQ_OK);
    for (int k = 0; k < NODES; k++) {
        node_rows(c, k, &first, &count);
        flrq_operand rows = rows_of(c, first, count);
        assert_int_equal(be->mul_t(be, c->d_z, &rows, c->d_q + first * c->b, c->b), FLRQ_OK);
        fetch(node[k], c->d_z, values);
        assert_int_equal(be->sum_squares(be, &part[k], &rows), FLRQ_OK);
        assert_int_equal(be->sum_squares_mul(be, &part_mul[k], &rows, c->d_x, c->b), FLRQ_OK);
    }
    assert_true(squares == part[0] + (part[1] + part[2]));
    assert_true(squares_mul == part_mul[0] + (part_mul[1] + part_mul[2]));
    for (int64_t i = 0; i < values; i++) {
        float sum = node[0][i] + (node[1][i] + node[2][i]);
        if (memcmp(&sum, &whole[i], sizeof sum) != 0)
            fail_msg("mul_t: element %lld is %.9g, its nodes give %.9g", (long long)i, (double)whole[i], (double)sum);
    }
}

static void compare_gram(const rows_case *c, double *whole, double *node[NODES]) {
    int64_t first, count, values = c->b * c->b;
    size_t bytes = (size_t)values * sizeof *whole;
    assert_int_equal(be->gram(be, c->d_gram, c->d_q, c->m, c->b), FLRQ_OK);
    assert_int_equal(be->download(be, whole, c->d_gram, bytes), FLRQ_OK);
    for (int k = 0; k < NODES; k++) {
        node_rows(c, k, &first, &count);
        assert_int_equal(be->gram(be, c->d_gram, c->d_q + first * c->b, count, c->b), FLRQ_OK);
        assert_int_equal(be->download(be, node[k], c->d_gram, bytes), FLRQ_OK);
    }
    for (int64_t i = 0; i < values; i++) assert_true(whole[i] == node[0][i] + (node[1][i] + node[2][i]));
}

static void rows_by_themselves_give_the_same_bytes(void **state) {
    int real = strcmp(be->name, "cuda") == 0;
    rows_case c = {.m = 1700, .n = real ? 4096 : 300, .b = real ? 136 : 20};
    int64_t weights = c.m * c.n, most = (c.m > c.n ? c.m : c.n) * c.b;
    float *w = normals(weights, 21), *x = normals(c.n * c.b, 22), *q = normals(c.m * c.b, 23), *node[NODES];
    uint16_t *half = test_malloc((size_t)weights * sizeof *half);
    float *whole = test_malloc((size_t)most * sizeof *whole);
    double *gram[NODES + 1];
    for (int k = 0; k < NODES; k++) node[k] = test_malloc((size_t)most * sizeof **node);
    for (int k = 0; k <= NODES; k++) gram[k] = test_malloc((size_t)(c.b * c.b) * sizeof **gram);
    for (int64_t i = 0; i < weights; i++) flrq_store(half, FLRQ_BF16, i, w[i]);
    float *d_w = device_floats(w, weights), *d_half = device_floats((float *)half, weights / 2);
    c.d_x = device_floats(x, c.n * c.b), c.d_q = device_floats(q, c.m * c.b);
    c.d_y = device_floats(NULL, c.m * c.b), c.d_z = device_floats(NULL, c.n * c.b);
    c.d_gram = (double *)device_floats(NULL, 2 * c.b * c.b);
    for (int is_half = 0; is_half < 2; is_half++)
        for (int fast = 0; fast < 2; fast++) {
            c.a = (flrq_operand){.rows = c.m, .cols = c.n, .d_dense = is_half ? d_half : d_w, .ld_dense = c.n};
            c.a.dense_dtype = is_half ? FLRQ_BF16 : FLRQ_F32;
            flrq_set_precision(be, fast ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL);
            compare_mul(&c, whole, node[0]);
            compare_sums(&c, whole, node);
        }
    flrq_set_precision(be, FLRQ_PRECISION_FULL);
    compare_gram(&c, gram[NODES], gram);
    be->release(be, c.d_gram), be->release(be, c.d_z), be->release(be, c.d_y), be->release(be, c.d_q);
    be->release(be, c.d_x), be->release(be, d_half), be->release(be, d_w);
    for (int k = 0; k <= NODES; k++) test_free(gram[k]);
    for (int k = 0; k < NODES; k++) test_free(node[k]);
    test_free(whole), test_free(half), test_free(q), test_free(x), test_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_by_themselves_give_the_same_bytes),
        cmocka_unit_test(rope_is_accurate_far_out),
        cmocka_unit_test(rope_leaves_position_zero),
        cmocka_unit_test(attention_sees_neither_future_nor_beyond_the_window),
        cmocka_unit_test(attention_of_constant_values_is_the_value),
        cmocka_unit_test(attention_of_huge_scores_picks_one_value),
        cmocka_unit_test(attention_keeps_nan_to_its_token),
        cmocka_unit_test(uniform_logits_cost_the_log_of_the_vocabulary),
        cmocka_unit_test(rising_logits_are_a_geometric_series),
        cmocka_unit_test(losses_of_extreme_rows),
        cmocka_unit_test(divergence_of_known_distributions),
        cmocka_unit_test(elementwise_special_values),
        cmocka_unit_test(hostile_arguments_are_refused),
        cmocka_unit_test(empty_work_is_done),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
