/* ops_matrix.c - op cases of random numbers and implicit matrices: normal, materialize, mul, mul_t, norms, amax curve.
 *
 * Tolerances. In a plain fp32 sum of K terms of random sign the k-th partial sum is about sqrt(k) terms large and is
 * rounded with a uniform relative error of at most eps: the errors add up to eps K / sqrt(6) against a result of
 * sqrt(K), that is sqrt(K / 6) eps. sqrt(K) eps (at least 4 eps, for the last roundings) is thus 2.4 times what the
 * worst order of summation gives in the Frobenius norm, and a single lost term, 1 / sqrt(K m b), is far beyond it.
 * In FAST precision two factors of every term are rounded besides (op_fast_error()), four where the low-rank part goes
 * through its factors: L, R, x and the product of two of them.
 */
#include "cases/opcase.h"

#include <math.h>
#include <string.h>

static double product_tolerance(double terms) {
    return OP_EPS32 * sqrt(terms < 16 ? 16 : terms);
}

/* Elements of A: one rounding for each part (dense is exact, codes are exact times a product, scale) and rank terms. */
static double element_tolerance(const op_matrix *m) {
    return product_tolerance(4 + (double)m->rank);
}

static double elements(const op_matrix *m) {
    return (double)m->rows * (double)m->cols;
}

/* ---- run functions; d[0] = b ------------------------------------------------------------------------------------- */

static void run_normal(op_run *r, const op_case *c) {
    int64_t count = c->d[0];
    /* The integers are the same everywhere; logf, sinf and cosf are each within 2 ulp on a GPU. */
    float *out = op_out(r, "z", OP_F32, count, OP_MAX, 8 * OP_EPS32);
    op_cost(r, 4.0 * (double)count, 0);
    OP_CALL(r, normal, out, 0x123456789abcdefULL, 7, (uint64_t)c->d[1], count);
}

static void run_materialize(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    flrq_operand a = op_operand(r, m);
    float *out = op_out(r, "A", OP_F32, m->rows * m->cols, OP_MAX, element_tolerance(m));
    op_cost(r, op_operand_bytes(m) + 4 * elements(m), 2 * elements(m) * (double)m->rank);
    OP_CALL(r, materialize, out, &a);
}

/* Operands of one rounding in fp32 alone: a last bit of difference there could fall to the other side in bf16. */
static void run_materialize_bf16(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    flrq_operand a = op_operand(r, m);
    uint16_t *out = op_out(r, "A", OP_U16, m->rows * m->cols, OP_EXACT, 0);
    op_cost(r, op_operand_bytes(m) + 2 * elements(m), 2 * elements(m) * (double)m->rank);
    OP_CALL(r, materialize_bf16, out, &a);
}

static void run_mul(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    int64_t b = c->d[0];
    flrq_operand a = op_operand(r, m);
    float *x = op_normal(r, "x", m->cols * b, 1);
    float *y = op_out(r, "y", OP_F32, m->rows * b, OP_NORM,
                      product_tolerance((double)(m->cols + m->rank)) + op_fast_error(c, m->rank ? 4 : 2));
    op_cost(r, op_operand_bytes(m) + 4.0 * (double)((m->rows + m->cols) * b),
            2 * elements(m) * (double)b + 2.0 * (double)(m->rank * (m->rows + m->cols) * b));
    OP_CALL(r, mul, y, &a, x, b);
}

static void run_mul_t(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    int64_t b = c->d[0];
    flrq_operand a = op_operand(r, m);
    float *q = op_normal(r, "q", m->rows * b, 1);
    float *z = op_out(r, "z", OP_F32, m->cols * b, OP_NORM,
                      product_tolerance((double)(m->rows + m->rank)) + op_fast_error(c, m->rank ? 4 : 2));
    op_cost(r, op_operand_bytes(m) + 4.0 * (double)((m->rows + m->cols) * b),
            2 * elements(m) * (double)b + 2.0 * (double)(m->rank * (m->rows + m->cols) * b));
    OP_CALL(r, mul_t, z, &a, q, b);
}

static void run_scale_rows(op_run *r, const op_case *c) {
    int64_t m = c->d[0], n = c->d[1];
    float *host = op_temp(r, (size_t)(m * n) * sizeof *host), *scale = op_normal(r, "scale", m, 1);
    op_random(r, host, m * n, 1.0f, 3);
    float *y = op_inout(r, "y", OP_F32, host, m * n, OP_EXACT, 0);
    op_cost(r, 8.0 * (double)(m * n), (double)(m * n));
    OP_CALL(r, scale_rows, y, scale, m, n);
}

static void run_sum_squares(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    flrq_operand a = op_operand(r, m);
    /* Terms are positive: the relative error of the sum is that of a term, plus sums of 256 / lanes terms in fp32. */
    double *sum = op_host_out(r, "sum", OP_F64, 1, OP_EACH, 2 * element_tolerance(m) + 16 * OP_EPS32);
    op_cost(r, op_operand_bytes(m), 2 * elements(m));
    OP_CALL(r, sum_squares, sum, &a);
}

static void run_sum_squares_mul(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    int64_t k = c->d[0];
    flrq_operand a = op_operand(r, m);
    float *s = op_normal(r, "S", m->cols * k, 1);
    double *sum = op_host_out(r, "sum", OP_F64, 1, OP_EACH, 2 * product_tolerance((double)(m->cols + m->rank)));
    op_cost(r, op_operand_bytes(m) + 4.0 * (double)(m->cols * k), 2 * elements(m) * (double)k);
    OP_CALL(r, sum_squares_mul, sum, &a, s, k);
}

static void run_amax_curve(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    int64_t b = c->d[0];
    flrq_operand a = op_operand(r, m);
    float *u = op_normal(r, "u", m->rows * b, 1), *v = op_normal(r, "v", m->cols * b, 0.3f);
    /* The residual is of the size of a few maxima; each of the b subtractions rounds it once. */
    float *curve = op_host_out(r, "amax", OP_F32, b + 1, OP_MAX, element_tolerance(m) + 2 * OP_EPS32 * (double)(b + 1));
    op_cost(r, op_operand_bytes(m) + 4.0 * (double)((m->rows + m->cols) * b), 2 * elements(m) * (double)b);
    OP_CALL(r, amax_curve, curve, &a, u, v, b);
}

/* d[0] = number of planted non-finite elements; d[1] = first place, d[2] = step. */
static void run_count_nonfinite(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    static const float kinds[] = {INFINITY, NAN, -INFINITY};
    int64_t count = m->rows * m->cols;
    float *host = op_temp(r, (size_t)count * sizeof *host);
    op_random(r, host, count, 1e30f, 1);
    for (int64_t i = 0; i < c->d[0]; i++) host[c->d[1] + i * c->d[2]] = kinds[i % 3];
    flrq_operand a = {.rows = m->rows, .cols = m->cols, .ld_dense = m->cols};
    a.d_dense = op_in(r, "A", OP_F32, host, count);
    int64_t *found = op_host_out(r, "count", OP_I64, 1, OP_EXACT, 0);
    int64_t *first = op_host_out(r, "first", OP_I64, 1, OP_EXACT, 0);
    op_cost(r, 4 * elements(m), 0);
    OP_CALL(r, count_nonfinite, found, first, &a);
    if (op_ok(r)) {
        op_expect(r, "planted count", fabs((double)(*found - c->d[0])), 0);
        op_expect(r, "planted place", fabs((double)(*first - (c->d[0] ? c->d[1] : -1))), 0);
    }
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

#define F32(m, n)                                                                                                      \
    &(const op_matrix) {                                                                                               \
        .rows = m, .cols = n, .dense = "F32"                                                                           \
    }
#define DENSE(t, m, n)                                                                                                 \
    &(const op_matrix) {                                                                                               \
        .rows = m, .cols = n, .dense = t                                                                               \
    }

/* 3 row tiles and a chunk boundary, 2 panels, no multiples of a vector: every kind of edge at a size the reference can
 * take. */
static const op_matrix edge_f32 = {.rows = 643, .cols = 1049, .dense = "F32", .ld_extra = 3};
static const op_matrix edge_f16 = {.rows = 643, .cols = 1049, .dense = "F16", .ld_extra = 3};
static const op_matrix edge_scaled = {.rows = 643, .cols = 1049, .dense = "BF16", .col_scale = 1};
static const op_matrix edge_lr = {.rows = 643, .cols = 1049, .dense = "F32", .rank = 5, .lr_sign = -1, .col_scale = 1};
static const op_matrix lr_only = {.rows = 515, .cols = 67, .rank = 17};
static const op_matrix nothing = {.rows = 130, .cols = 40};
static const op_matrix codes2 = {.rows = 131, .cols = 1100, .bits = 2, .group = 64};
static const op_matrix codes3a = {.rows = 129, .cols = 1037, .bits = 3, .group = 37, .asymmetric = 1};
static const op_matrix codes8 = {.rows = 130, .cols = 1030, .bits = 8};
/* (W - Wq) diag(s), the sketch target; What = Wq + L R; and everything at once. */
static const op_matrix target = {.rows = 530,
                                 .cols = 1100,
                                 .dense = "BF16",
                                 .bits = 4,
                                 .group = 128,
                                 .asymmetric = 1,
                                 .codes_sign = -1,
                                 .col_scale = 1};
static const op_matrix quantized = {.rows = 530, .cols = 1100, .bits = 4, .group = 128, .rank = 9};
static const op_matrix everything = {.rows = 643,
                                     .cols = 1049,
                                     .dense = "F16",
                                     .ld_extra = 7,
                                     .bits = 3,
                                     .group = 100,
                                     .asymmetric = 1,
                                     .codes_sign = -1,
                                     .rank = 33,
                                     .lr_sign = -1,
                                     .col_scale = 1};
/* More than 2 chunks and an odd number of them: the tree has a node that moves up unchanged. */
static const op_matrix tall = {.rows = 2600, .cols = 70, .dense = "F32"};
static const op_matrix wide = {.rows = 3, .cols = 5000, .dense = "BF16"};

static const op_matrix big_f32 = {.rows = 4096, .cols = 4096, .dense = "F32"};
static const op_matrix big_bf16 = {.rows = 4096, .cols = 4096, .dense = "BF16"};
static const op_matrix big_target = {
    .rows = 4096, .cols = 4096, .dense = "BF16", .bits = 4, .group = 128, .codes_sign = -1, .col_scale = 1};
static const op_matrix big_all = {.rows = 4096,
                                  .cols = 4096,
                                  .dense = "BF16",
                                  .bits = 4,
                                  .group = 128,
                                  .codes_sign = -1,
                                  .rank = 40,
                                  .lr_sign = -1,
                                  .col_scale = 1};

/* Layers of a 7B model as quantize meets them: W, the target of the first fit, the residual that is quantized. These do
 * not fit into a cache; the last is of a 70B model. */
static const op_matrix up_bf16 = {.rows = 11008, .cols = 4096, .dense = "BF16"};
static const op_matrix down_bf16 = {.rows = 4096, .cols = 11008, .dense = "BF16"};
static const op_matrix up_scaled = {.rows = 11008, .cols = 4096, .dense = "BF16", .col_scale = 1};
static const op_matrix up_residual = {.rows = 11008, .cols = 4096, .dense = "BF16", .rank = 64, .lr_sign = -1};
static const op_matrix up_target = {
    .rows = 11008, .cols = 4096, .dense = "BF16", .bits = 4, .group = 128, .codes_sign = -1, .col_scale = 1};
static const op_matrix huge_bf16 = {.rows = 28672, .cols = 8192, .dense = "BF16"};

static const op_case cases[] = {
    {"normal", "n=1", {1, 0}, run_normal},
    {"normal", "n=4099 index0=2^33+3", {4099, (1LL << 33) + 3}, run_normal},
    {"normal", "n=12288 index0=1", {12288, 1}, run_normal},

    {"materialize", "f32 1x1", {0}, run_materialize, OP_TEST, F32(1, 1)},
    {"materialize", "f32 643x1049", {0}, run_materialize, OP_TEST, &edge_f32},
    {"materialize", "f16 643x1049", {0}, run_materialize, OP_TEST, &edge_f16},
    {"materialize", "bf16 scaled 643x1049", {0}, run_materialize, OP_TEST, &edge_scaled},
    {"materialize", "2 bit g64 131x1100", {0}, run_materialize, OP_TEST, &codes2},
    {"materialize", "3 bit asym g37 129x1037", {0}, run_materialize, OP_TEST, &codes3a},
    {"materialize", "8 bit channel 130x1030", {0}, run_materialize, OP_TEST, &codes8},
    {"materialize", "lr only 515x67", {0}, run_materialize, OP_TEST, &lr_only},
    {"materialize", "nothing 130x40", {0}, run_materialize, OP_TEST, &nothing},
    {"materialize", "everything 643x1049", {0}, run_materialize, OP_TEST, &everything},

    {"materialize_bf16", "f32 643x1049", {0}, run_materialize_bf16, OP_TEST, &edge_f32},
    {"materialize_bf16", "2 bit g64 131x1100", {0}, run_materialize_bf16, OP_TEST, &codes2},
    {"materialize_bf16", "3 bit asym g37 129x1037", {0}, run_materialize_bf16, OP_TEST, &codes3a},

    {"mul", "f32 1x1 b=1", {1}, run_mul, OP_TEST, F32(1, 1)},
    {"mul", "f32 128x1024 b=16", {16}, run_mul, OP_TEST, F32(128, 1024)},
    {"mul", "f32 129x1025 b=1", {1}, run_mul, OP_TEST, F32(129, 1025)},
    {"mul", "f32 643x1049 b=1", {1}, run_mul, OP_TEST, &edge_f32},
    {"mul", "f32 643x1049 b=8", {8}, run_mul, OP_TEST, &edge_f32},
    {"mul", "f32 643x1049 b=40", {40}, run_mul, OP_TEST, &edge_f32},
    {"mul", "f16 643x1049 b=1", {1}, run_mul, OP_TEST, &edge_f16},
    {"mul", "f16 643x1049 b=136", {136}, run_mul, OP_TEST, &edge_f16},
    {"mul", "bf16 scaled 643x1049 b=3", {3}, run_mul, OP_TEST, &edge_scaled},
    {"mul", "f32 lr scaled 643x1049 b=8", {8}, run_mul, OP_TEST, &edge_lr},
    {"mul", "lr only 515x67 b=9", {9}, run_mul, OP_TEST, &lr_only},
    {"mul", "nothing 130x40 b=2", {2}, run_mul, OP_TEST, &nothing},
    {"mul", "target 530x1100 b=40", {40}, run_mul, OP_TEST, &target},
    {"mul", "quantized 530x1100 b=1", {1}, run_mul, OP_TEST, &quantized},
    {"mul", "everything 643x1049 b=1", {1}, run_mul, OP_TEST, &everything},
    {"mul", "everything 643x1049 b=17", {17}, run_mul, OP_TEST, &everything},
    {"mul", "bf16 3x5000 b=300", {300}, run_mul, OP_TEST, &wide},
    {"mul", "f32 2600x70 b=8", {8}, run_mul, OP_TEST, &tall},
    {"mul", "f32 5x7 b=0", {0}, run_mul, OP_TEST, F32(5, 7)},

    {"mul_t", "f32 1x1 b=1", {1}, run_mul_t, OP_TEST, F32(1, 1)},
    {"mul_t", "f32 512x2048 b=16", {16}, run_mul_t, OP_TEST, F32(512, 2048)},
    {"mul_t", "f32 513x2049 b=1", {1}, run_mul_t, OP_TEST, F32(513, 2049)},
    {"mul_t", "f32 643x1049 b=1", {1}, run_mul_t, OP_TEST, &edge_f32},
    {"mul_t", "f32 643x1049 b=8", {8}, run_mul_t, OP_TEST, &edge_f32},
    {"mul_t", "f32 643x1049 b=40", {40}, run_mul_t, OP_TEST, &edge_f32},
    {"mul_t", "f16 643x1049 b=136", {136}, run_mul_t, OP_TEST, &edge_f16},
    {"mul_t", "bf16 scaled 643x1049 b=3", {3}, run_mul_t, OP_TEST, &edge_scaled},
    {"mul_t", "f32 lr scaled 643x1049 b=8", {8}, run_mul_t, OP_TEST, &edge_lr},
    {"mul_t", "lr only 515x67 b=9", {9}, run_mul_t, OP_TEST, &lr_only},
    {"mul_t", "nothing 130x40 b=2", {2}, run_mul_t, OP_TEST, &nothing},
    {"mul_t", "target 530x1100 b=40", {40}, run_mul_t, OP_TEST, &target},
    {"mul_t", "everything 643x1049 b=1", {1}, run_mul_t, OP_TEST, &everything},
    {"mul_t", "everything 643x1049 b=17", {17}, run_mul_t, OP_TEST, &everything},
    {"mul_t", "bf16 3x5000 b=1", {1}, run_mul_t, OP_TEST, &wide},
    {"mul_t", "f32 2600x70 b=1", {1}, run_mul_t, OP_TEST, &tall},
    {"mul_t", "f32 2600x70 b=300", {300}, run_mul_t, OP_TEST, &tall},
    {"mul_t", "f32 5x7 b=0", {0}, run_mul_t, OP_TEST, F32(5, 7)},

    {"mul", "f32 33x17 b=4 fast", {4}, run_mul, OP_FAST, F32(33, 17)},
    {"mul", "f32 129x1025 b=1 fast", {1}, run_mul, OP_FAST, F32(129, 1025)},
    {"mul", "f32 643x1049 b=40 fast", {40}, run_mul, OP_FAST, &edge_f32},
    {"mul", "bf16 scaled 643x1049 b=3 fast", {3}, run_mul, OP_FAST, &edge_scaled},
    {"mul", "bf16 3x5000 b=300 fast", {300}, run_mul, OP_FAST, &wide},
    {"mul", "target 530x1100 b=40 fast", {40}, run_mul, OP_FAST, &target},
    {"mul", "everything 643x1049 b=17 fast", {17}, run_mul, OP_FAST, &everything},
    {"mul_t", "f32 513x2049 b=1 fast", {1}, run_mul_t, OP_FAST, F32(513, 2049)},
    {"mul_t", "f32 643x1049 b=40 fast", {40}, run_mul_t, OP_FAST, &edge_f32},
    {"mul_t", "bf16 scaled 643x1049 b=3 fast", {3}, run_mul_t, OP_FAST, &edge_scaled},
    {"mul_t", "f32 2600x70 b=300 fast", {300}, run_mul_t, OP_FAST, &tall},
    {"mul_t", "target 530x1100 b=40 fast", {40}, run_mul_t, OP_FAST, &target},
    {"mul_t", "everything 643x1049 b=17 fast", {17}, run_mul_t, OP_FAST, &everything},

    {"scale_rows", "1x1", {1, 1}, run_scale_rows},
    {"scale_rows", "513x33", {513, 33}, run_scale_rows},
    {"scale_rows", "4096x136", {4096, 136}, run_scale_rows, OP_BENCH},
    {"sum_squares", "f32 1x1", {0}, run_sum_squares, OP_TEST, F32(1, 1)},
    {"sum_squares", "f32 643x1049", {0}, run_sum_squares, OP_TEST, &edge_f32},
    {"sum_squares", "f32 2600x70", {0}, run_sum_squares, OP_TEST, &tall},
    {"sum_squares", "everything 643x1049", {0}, run_sum_squares, OP_TEST, &everything},

    {"sum_squares_mul", "f32 643x1049 k=31", {31}, run_sum_squares_mul, OP_TEST, &edge_f32},
    {"sum_squares_mul", "f32 2600x70 k=1", {1}, run_sum_squares_mul, OP_TEST, &tall},
    {"sum_squares_mul", "everything 643x1049 k=64", {64}, run_sum_squares_mul, OP_TEST, &everything},

    {"amax_curve", "f32 1x1 b=1", {1}, run_amax_curve, OP_TEST, F32(1, 1)},
    {"amax_curve", "f32 1x1 b=0", {0}, run_amax_curve, OP_TEST, F32(1, 1)},
    {"amax_curve", "f32 7x33 b=2", {2}, run_amax_curve, OP_TEST, F32(7, 33)},
    {"amax_curve", "f32 643x1049 b=40", {40}, run_amax_curve, OP_TEST, &edge_f32},
    {"amax_curve", "f32 2600x70 b=136", {136}, run_amax_curve, OP_TEST, &tall},
    {"amax_curve", "target 530x1100 b=5", {5}, run_amax_curve, OP_TEST, &target},
    {"amax_curve", "everything 643x1049 b=9", {9}, run_amax_curve, OP_TEST, &everything},

    {"count_nonfinite", "643x1049 none", {0, 0, 0}, run_count_nonfinite, OP_TEST, F32(643, 1049)},
    {"count_nonfinite", "643x1049 last", {1, 643 * 1049 - 1, 0}, run_count_nonfinite, OP_TEST, F32(643, 1049)},
    {"count_nonfinite", "643x1049 many", {1000, 1048, 640}, run_count_nonfinite, OP_TEST, F32(643, 1049)},
    {"count_nonfinite", "300x2000 second panel first", {2, 1500, 5}, run_count_nonfinite, OP_TEST, F32(300, 2000)},
    {"count_nonfinite", "all of 2x17", {34, 0, 1}, run_count_nonfinite, OP_TEST, F32(2, 17)},

    {"normal", "n=2^20", {1 << 20, 0}, run_normal, OP_BENCH},
    {"materialize", "bf16 4096x4096", {0}, run_materialize, OP_BENCH, &big_bf16},
    {"materialize", "W-Wq-LR scaled 4096x4096", {0}, run_materialize, OP_BENCH, &big_all},
    {"materialize_bf16", "W-Wq-LR scaled 4096x4096", {0}, run_materialize_bf16, OP_BENCH, &big_all},
    {"mul", "f32 4096x4096 b=1", {1}, run_mul, OP_BENCH, &big_f32},
    {"mul", "f32 4096x4096 b=8", {8}, run_mul, OP_BENCH, &big_f32},
    {"mul", "f32 4096x4096 b=40", {40}, run_mul, OP_BENCH, &big_f32},
    {"mul", "f32 4096x4096 b=136", {136}, run_mul, OP_BENCH, &big_f32},
    {"mul", "bf16 4096x4096 b=1", {1}, run_mul, OP_BENCH, &big_bf16},
    {"mul", "bf16 4096x4096 b=40", {40}, run_mul, OP_BENCH, &big_bf16},
    {"mul", "target 4096x4096 b=40", {40}, run_mul, OP_BENCH, &big_target},
    {"mul_t", "f32 4096x4096 b=1", {1}, run_mul_t, OP_BENCH, &big_f32},
    {"mul_t", "f32 4096x4096 b=8", {8}, run_mul_t, OP_BENCH, &big_f32},
    {"mul_t", "f32 4096x4096 b=40", {40}, run_mul_t, OP_BENCH, &big_f32},
    {"mul_t", "f32 4096x4096 b=136", {136}, run_mul_t, OP_BENCH, &big_f32},
    {"mul_t", "bf16 4096x4096 b=40", {40}, run_mul_t, OP_BENCH, &big_bf16},
    {"mul_t", "target 4096x4096 b=40", {40}, run_mul_t, OP_BENCH, &big_target},
    {"sum_squares", "f32 4096x4096", {0}, run_sum_squares, OP_BENCH, &big_f32},
    {"sum_squares", "target 4096x4096", {0}, run_sum_squares, OP_BENCH, &big_target},
    {"sum_squares_mul", "W-Wq-LR 4096x4096 k=256", {256}, run_sum_squares_mul, OP_BENCH, &big_all},
    {"amax_curve", "f32 4096x4096 b=40", {40}, run_amax_curve, OP_BENCH, &big_f32},
    {"amax_curve", "f32 4096x4096 b=136", {136}, run_amax_curve, OP_BENCH, &big_f32},
    {"amax_curve", "target 4096x4096 b=40", {40}, run_amax_curve, OP_BENCH, &big_target},
    {"count_nonfinite", "f32 4096x4096", {0, 0, 0}, run_count_nonfinite, OP_BENCH, &big_f32},

    {"materialize", "bf16 11008x4096", {0}, run_materialize, OP_BENCH, &up_bf16},
    {"mul", "bf16 scaled 11008x4096 b=136", {136}, run_mul, OP_BENCH, &up_scaled},
    {"mul", "bf16 scaled 11008x4096 b=136 fast", {136}, run_mul, OP_BENCH | OP_FAST, &up_scaled},
    {"mul", "bf16 4096x11008 b=136 fast", {136}, run_mul, OP_BENCH | OP_FAST, &down_bf16},
    {"mul", "target 11008x4096 b=136 fast", {136}, run_mul, OP_BENCH | OP_FAST, &up_target},
    {"mul", "bf16 11008x4096 b=1", {1}, run_mul, OP_BENCH, &up_bf16},
    {"mul_t", "bf16 scaled 11008x4096 b=136", {136}, run_mul_t, OP_BENCH, &up_scaled},
    {"mul_t", "bf16 scaled 11008x4096 b=136 fast", {136}, run_mul_t, OP_BENCH | OP_FAST, &up_scaled},
    {"mul_t", "target 11008x4096 b=136 fast", {136}, run_mul_t, OP_BENCH | OP_FAST, &up_target},
    {"mul_t", "bf16 11008x4096 b=1", {1}, run_mul_t, OP_BENCH, &up_bf16},
    {"sum_squares", "bf16 11008x4096", {0}, run_sum_squares, OP_BENCH, &up_bf16},
    {"sum_squares_mul", "bf16 - lr 11008x4096 k=256", {256}, run_sum_squares_mul, OP_BENCH, &up_residual},
    {"amax_curve", "bf16 11008x4096 b=136", {136}, run_amax_curve, OP_BENCH, &up_bf16},
    {"mul", "bf16 28672x8192 b=136 fast", {136}, run_mul, OP_BENCH | OP_LARGE | OP_FAST, &huge_bf16},
    {"mul_t", "bf16 28672x8192 b=136 fast", {136}, run_mul_t, OP_BENCH | OP_LARGE | OP_FAST, &huge_bf16},
    {"sum_squares", "bf16 28672x8192", {0}, run_sum_squares, OP_BENCH | OP_LARGE, &huge_bf16},
    {"amax_curve", "bf16 28672x8192 b=136", {136}, run_amax_curve, OP_BENCH | OP_LARGE, &huge_bf16},
};

const op_table ops_matrix = {"matrix ops", cases, sizeof cases / sizeof *cases};
