/* ops_forward.c - the op cases of the block forward.
 *
 * Tolerances are multiples of eps = 2^-24 (OP_EPS32) and follow from how the fast face computes; each run function
 * derives its own. Two kinds: a bound that holds for any input (elementwise ops, norms, rope), and for products of
 * random matrices the expected growth of rounding errors: a sum of n terms taken one by one has an error of about
 * eps/sqrt(3) * sqrt(sum of the squared partial sums), for terms of random sign 0.41 eps sqrt(n) next to the result;
 * sqrt(n) eps leaves a factor of two, and an error of one element in a thousand still exceeds it. In FAST precision the
 * factors of every product are rounded to bf16 besides (op_fast_error()).
 */
#include "cases/opcase.h"

#include <math.h>
#include <string.h>

/* exp is within 2 ulp, i.e. 4 eps. */
#define EXP_EPS 4.0

/* ---- linear: d = {tokens, bias}, extra = op_matrix -----------------------------------------------------------------
 */

static void run_linear(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    int64_t tokens = c->d[0];
    flrq_operand a = op_operand(r, m);
    float *x = op_normal(r, "x", tokens * m->cols, 1.0f);
    float *bias = c->d[1] ? op_normal(r, "bias", m->rows, 3.0f) : NULL;
    /* sqrt(n) for x D^T and x R^T (they add in quadrature), sqrt(rank) for the product with L^T, 8 for bias, conversion
     * of codes, column scale and the sum of the parts. */
    double tolerance = (sqrt((double)m->cols) + sqrt((double)m->rank) + 8) * OP_EPS32;
    /* x and the weight; for the low rank x, R, x R^T and L. */
    tolerance += op_fast_error(c, m->rank ? 4 : 2);
    float *y = op_out(r, "y", OP_F32, tokens * m->rows, OP_NORM, tolerance);
    op_cost(r, op_operand_bytes(m) + 4.0 * (double)tokens * (double)(m->rows + m->cols),
            2.0 * (double)tokens *
                ((m->dense || m->bits ? (double)m->rows * (double)m->cols : 0) +
                 (double)m->rank * (double)(m->rows + m->cols)));
    OP_CALL(r, linear, y, x, &a, bias, tokens);
}

#define MATRIX(...) (&(const op_matrix){__VA_ARGS__})

/* ---- norms: d = {rows, n, with weight, offset, in place}
 * -------------------------------------------------------------- */

static void run_rmsnorm(op_run *r, const op_case *c) {
    int64_t rows = c->d[0], n = c->d[1];
    float *weight = c->d[2] ? op_normal(r, "weight", n, 1.0f) : NULL;
    /* Sum of squares: at most 256/8 positive terms per lane of a block, 3 to add the lanes, 1 for the square: 36; half
     * of that for the root; 3 for factor and two products. */
    double tolerance = (18 + 3) * OP_EPS32;
    op_cost(r, 8.0 * (double)(rows * n), 4.0 * (double)(rows * n));
    if (c->d[4]) {
        float *host = op_temp(r, (size_t)(rows * n) * sizeof *host);
        op_random(r, host, rows * n, 2.0f, 1);
        float *x = op_inout(r, "x", OP_F32, host, rows * n, OP_EACH, tolerance);
        OP_CALL(r, rmsnorm, x, x, weight, rows, n, 1e-6f);
    } else {
        float *x = op_normal(r, "x", rows * n, 2.0f);
        float *y = op_out(r, "y", OP_F32, rows * n, OP_EACH, tolerance);
        OP_CALL(r, rmsnorm, y, x, weight, rows, n, 1e-6f);
    }
}

static void run_layernorm(op_run *r, const op_case *c) {
    int64_t rows = c->d[0], n = c->d[1];
    double offset = (double)c->d[3];
    float *host = op_temp(r, (size_t)(rows * n) * sizeof *host);
    op_random(r, host, rows * n, 1.0f, 1);
    for (int64_t i = 0; i < rows * n; i++) host[i] += (float)offset;
    float *weight = c->d[2] ? op_normal(r, "weight", n, 1.0f) : NULL;
    float *bias = c->d[2] ? op_normal(r, "bias", n, 1.0f) : NULL;
    /* In units of the largest output (at least the deviation, as every row has an element beyond it): the mean is off
     * by 35 eps (as above) times mean |x| <= offset + 1, factor and products as in rmsnorm, bias 1. Where two elements
     * of a row nearly agree, eps of the variance counts and the error of the mean grows with it: rows are 20 long at
     * least, or the offset 0. */
    double tolerance = (35 * (offset + 1) + 21 + 1) * OP_EPS32;
    op_cost(r, 8.0 * (double)(rows * n), 7.0 * (double)(rows * n));
    if (c->d[4]) {
        float *x = op_inout(r, "x", OP_F32, host, rows * n, OP_MAX, tolerance);
        OP_CALL(r, layernorm, x, x, weight, bias, rows, n, 1e-5f);
    } else {
        float *x = op_in(r, "x", OP_F32, host, rows * n);
        float *y = op_out(r, "y", OP_F32, rows * n, OP_MAX, tolerance);
        OP_CALL(r, layernorm, y, x, weight, bias, rows, n, 1e-5f);
    }
}

/* ---- rope: d = {tokens, heads, head_dim, position0, magnitude * 1000} ---------------------------------------------
 */

static void run_rope(op_run *r, const op_case *c) {
    int64_t tokens = c->d[0], heads = c->d[1], dim = c->d[2], count = tokens * heads * dim;
    float magnitude = (float)c->d[4] / 1000;
    float *host = op_temp(r, (size_t)count * sizeof *host), *freq = op_temp(r, (size_t)dim / 2 * sizeof *freq);
    op_random(r, host, count, 1.0f, 1);
    for (int64_t j = 0; j < dim / 2; j++) freq[j] = (float)pow(10000, -2.0 * (double)j / (double)dim);
    float *inv_freq = op_in(r, "inv_freq", OP_F32, freq, dim / 2);
    /* a c - b s: c, s, two products and the difference round, 3 eps (|a| + |b|) in all; |a| + |b| <= sqrt(2) * norm of
     * the pair, which the rotation keeps, and the largest output is at least norm / sqrt(2) of the largest pair. */
    float *x = op_inout(r, "x", OP_F32, host, count, OP_MAX, 6 * OP_EPS32);
    op_cost(r, 8.0 * (double)count, 3.0 * (double)count);
    OP_CALL(r, rope, x, inv_freq, tokens, heads, dim, c->d[3], magnitude);
    if (!op_ok(r)) return;
    /* A rotation keeps the norm of every pair, up to the errors above (relative to the pair: 3 sqrt(2) eps). */
    float *got = op_temp(r, (size_t)count * sizeof *got);
    op_get(r, got, x, (size_t)count * sizeof *got);
    double worst = 0;
    for (int64_t i = 0; i < count; i++) {
        if (i % dim >= dim / 2) continue;
        double before = hypot(host[i], host[i + dim / 2]) * (double)magnitude, after = hypot(got[i], got[i + dim / 2]);
        worst = fmax(worst, fabs(after / before - 1));
    }
    op_expect(r, "norm of a pair", worst, 5 * OP_EPS32);
}

/* ---- attention: d = {tokens, heads, kv_heads, head_dim, window, scale of q}
 * -------------------------------------------- */

static void run_attention(op_run *r, const op_case *c) {
    flrq_attention shape = {.tokens = c->d[0],
                            .heads = c->d[1],
                            .kv_heads = c->d[2],
                            .head_dim = c->d[3],
                            .scale = (float)(1 / sqrt((double)c->d[3])),
                            .window = c->d[4]};
    double spread = (double)c->d[5], tokens = (double)shape.tokens, dim = (double)shape.head_dim;
    float *q = op_normal(r, "q", shape.tokens * shape.heads * shape.head_dim, (float)spread);
    float *k = op_normal(r, "k", shape.tokens * shape.kv_heads * shape.head_dim, 1.0f);
    float *v = op_normal(r, "v", shape.tokens * shape.kv_heads * shape.head_dim, 1.0f);
    /* A score is N(0, spread^2), its error (sqrt(dim) + 1 for the scale) eps spread, and |score - max| <= 8 spread
     * loses as many eps; an error of a score is a relative error of its weight. Then exp, the sums of the weights and
     * of weight * v (sqrt(tokens)), factors and the division. */
    double tolerance = (spread * (sqrt(dim) + 1 + 8) + EXP_EPS + sqrt(tokens) + 8) * OP_EPS32;
    /* Roundings of q and k move a score by the error of one product times its size, a relative error of the weight;
     * then the weight and v are rounded. */
    tolerance += op_fast_error(c, 2 * spread * spread + 2);
    float *out = op_out(r, "out", OP_F32, shape.tokens * shape.heads * shape.head_dim, OP_NORM, tolerance);
    double keys = shape.window && shape.window < shape.tokens ? (double)shape.window : (tokens + 1) / 2;
    op_cost(r, 4.0 * tokens * dim * (double)(2 * shape.heads + 2 * shape.kv_heads),
            4.0 * tokens * keys * dim * (double)shape.heads);
    OP_CALL(r, attention, out, q, k, v, &shape);
}

/* ---- elementwise: d = {count} -------------------------------------------------------------------------------------
 */

static void run_swiglu(op_run *r, const op_case *c) {
    int64_t n = c->d[0];
    float *host = op_temp(r, (size_t)n * sizeof *host);
    op_random(r, host, n, 10.0f, 1);
    float *up = op_normal(r, "up", n, 1.0f);
    /* exp, the addition, the division and the product round. */
    float *gate = op_inout(r, "gate", OP_F32, host, n, OP_EACH, (EXP_EPS + 3) * OP_EPS32);
    op_cost(r, 12.0 * (double)n, 4.0 * (double)n);
    OP_CALL(r, swiglu, gate, up, n);
}

static void run_relu(op_run *r, const op_case *c) {
    int64_t n = c->d[0];
    float *host = op_temp(r, (size_t)n * sizeof *host);
    op_random(r, host, n, 1.0f, 1);
    float *x = op_inout(r, "x", OP_F32, host, n, OP_EXACT, 0);
    op_cost(r, 8.0 * (double)n, (double)n);
    OP_CALL(r, relu, x, n);
}

static void run_add(op_run *r, const op_case *c) {
    int64_t n = c->d[0];
    float *host = op_temp(r, (size_t)n * sizeof *host);
    op_random(r, host, n, 1.0f, 1);
    float *x = op_normal(r, "x", n, 1.0f);
    float *y = op_inout(r, "y", OP_F32, host, n, OP_EXACT, 0);
    op_cost(r, 12.0 * (double)n, (double)n);
    OP_CALL(r, add, y, x, n);
}

static void run_add_f64(op_run *r, const op_case *c) {
    int64_t n = c->d[0];
    float *single = op_temp(r, (size_t)n * sizeof *single);
    double *host = op_temp(r, (size_t)n * sizeof *host), *other = op_temp(r, (size_t)n * sizeof *other);
    op_random(r, single, n, 1.0f, 1);
    for (int64_t i = 0; i < n; i++) host[i] = (double)single[i] / 3; /* all 53 bits in use */
    op_random(r, single, n, 1.0f, 2);
    for (int64_t i = 0; i < n; i++) other[i] = (double)single[i] / 7;
    double *x = op_in(r, "x", OP_F64, other, n), *y = op_inout(r, "y", OP_F64, host, n, OP_EXACT, 0);
    op_cost(r, 24.0 * (double)n, (double)n);
    OP_CALL(r, add_f64, y, x, n);
}

/* ---- gather_rows: d = {tokens, accumulate}, extra = op_matrix; exact: one rounding at most --------------------------
 */

static void run_gather_rows(op_run *r, const op_case *c) {
    const op_matrix *m = c->extra;
    int64_t tokens = c->d[0], count = tokens * m->cols;
    flrq_operand table = op_operand(r, m);
    int32_t *ids = op_temp(r, (size_t)tokens * sizeof *ids);
    for (int64_t t = 0; t < tokens; t++) ids[t] = (int32_t)((t * 7919 + m->rows - 1) % m->rows);
    float *host = op_temp(r, (size_t)count * sizeof *host);
    op_random(r, host, count, 1.0f, 1);
    float *y =
        c->d[1] ? op_inout(r, "y", OP_F32, host, count, OP_EXACT, 0) : op_out(r, "y", OP_F32, count, OP_EXACT, 0);
    op_cost(r, op_operand_bytes(m) / (double)m->rows * (double)tokens + 4.0 * (double)count, 0);
    OP_CALL(r, gather_rows, y, &table, ids, tokens, (int)c->d[1]);
}

/* ---- losses: d = {tokens, vocab, spread of the logits, 1000 * distance of q from p (kl), no argmax (nll)} ---------
 */

/* Relative error of the sum of exponentials, and so the absolute error of its logarithm: exp, 35 of the sum (see
 * run_rmsnorm), and eps * (max - x) per term, of which terms with max - x > 4 + 4 * spread have no weight to speak of.
 */
static double log_sum_error(double spread) {
    return (EXP_EPS + 35 + 4 + 4 * spread) * OP_EPS32;
}

static void run_nll(op_run *r, const op_case *c) {
    int64_t tokens = c->d[0], vocab = c->d[1];
    float *logits = op_normal(r, "logits", tokens * vocab, (float)c->d[2]);
    int32_t *target = op_temp(r, (size_t)tokens * sizeof *target);
    for (int64_t t = 0; t < tokens; t++) target[t] = t % 5 == 4 ? -1 : (int32_t)(t * 7919 % vocab);
    /* Every nll is a logarithm of a sum less a logit; the largest of a case is above 1 unless the vocabulary is 1 word.
     */
    double *nll = op_host_out(r, "nll", OP_F64, tokens, OP_MAX, log_sum_error((double)c->d[2]));
    int32_t *argmax = c->d[4] ? NULL : op_host_out(r, "argmax", OP_I32, tokens, OP_EXACT, 0);
    op_cost(r, 4.0 * (double)(tokens * vocab), 2.0 * (double)(tokens * vocab));
    OP_CALL(r, nll, nll, argmax, logits, target, tokens, vocab);
    if (!op_ok(r)) return;
    for (int64_t t = 4; t < tokens; t += 5) op_expect(r, "nll without a target", fabs(nll[t]), 0);
}

static void run_kl(op_run *r, const op_case *c) {
    int64_t tokens = c->d[0], vocab = c->d[1];
    double spread = (double)c->d[2], distance = (double)c->d[3] / 1000;
    float *p = op_temp(r, (size_t)(tokens * vocab) * sizeof *p), *q = op_temp(r, (size_t)(tokens * vocab) * sizeof *q);
    op_random(r, p, tokens * vocab, (float)spread, 1);
    op_random(r, q, tokens * vocab, (float)distance, 2);
    for (int64_t i = 0; i < tokens * vocab; i++) q[i] = p[i] + q[i];
    float *d_p = op_in(r, "p", OP_F32, p, tokens * vocab), *d_q = op_in(r, "q", OP_F32, q, tokens * vocab);
    /* Absolute error: two logarithms, and the mean difference with as much again relative to |p - q| <= 5 distance; the
     * divergence itself is near distance^2 / 2. */
    double error = log_sum_error(spread) * (2 + 5 * distance);
    double *kl = op_host_out(r, "kl", OP_F64, tokens, OP_MAX, error / fmin(0.5, distance * distance / 4));
    op_cost(r, 8.0 * (double)(tokens * vocab), 6.0 * (double)(tokens * vocab));
    OP_CALL(r, kl, kl, d_p, d_q, tokens, vocab);
    if (!op_ok(r)) return;
    for (int64_t t = 0; t < tokens; t++) op_expect(r, "negative divergence", -kl[t], 0);
}

static const op_case cases[] = {
    {"linear", "f32 1x1, 1 token", {1}, run_linear, OP_TEST, MATRIX(1, 1, "F32")},
    {"linear", "f32 128x1024, 1 token", {1}, run_linear, OP_TEST, MATRIX(128, 1024, "F32")},
    {"linear", "bf16 129x1025, 511 tokens, bias", {511, 1}, run_linear, OP_TEST, MATRIX(129, 1025, "BF16")},
    {"linear", "f32 193x513, 128 tokens", {128}, run_linear, OP_TEST, MATRIX(193, 513, "F32")},
    {"linear", "bf16 191x512, 512 tokens", {512}, run_linear, OP_TEST, MATRIX(191, 512, "BF16")},
    {"linear", "f32 192x511, 127 tokens, lr 193", {127}, run_linear, OP_TEST, MATRIX(192, 511, "F32", .rank = 193)},
    {"linear", "f16 127x1023, 513 tokens, bias", {513, 1}, run_linear, OP_TEST, MATRIX(127, 1023, "F16")},
    {"linear", "f32 257x70 ld 75, 512 tokens", {512, 0}, run_linear, OP_TEST, MATRIX(257, 70, "F32", 5)},
    {"linear", "f32 70x2049 column scale", {33, 1}, run_linear, OP_TEST, MATRIX(70, 2049, "F32", .col_scale = 1)},
    {"linear", "codes 4/128 200x300", {129, 1}, run_linear, OP_TEST, MATRIX(200, 300, .bits = 4, .group = 128)},
    {"linear",
     "codes 3 per channel asymmetric 130x1030 + lr 17",
     {130, 1},
     run_linear,
     OP_TEST,
     MATRIX(130, 1030, .bits = 3, .asymmetric = 1, .rank = 17)},
    {"linear",
     "codes 2/32 + lr 129, column scale, 66x1100",
     {257, 0},
     run_linear,
     OP_TEST,
     MATRIX(66, 1100, .bits = 2, .group = 32, .rank = 129, .col_scale = 1)},
    {"linear",
     "bf16 - codes - lr 8, 140x140",
     {3, 0},
     run_linear,
     OP_TEST,
     MATRIX(140, 140, "BF16", .bits = 8, .group = 20, .codes_sign = -1, .rank = 8, .lr_sign = -1)},
    {"linear", "lr 5 alone 140x1500", {131, 1}, run_linear, OP_TEST, MATRIX(140, 1500, .rank = 5)},
    {"linear", "no part at all, bias", {7, 1}, run_linear, OP_TEST, MATRIX(9, 6)},
    {"linear", "f32 65x17, 1 token, fast", {1}, run_linear, OP_FAST, MATRIX(65, 17, "F32")},
    {"linear", "bf16 129x1025, 511 tokens, bias, fast", {511, 1}, run_linear, OP_FAST, MATRIX(129, 1025, "BF16")},
    {"linear", "bf16 256x512, 128 tokens, fast", {128}, run_linear, OP_FAST, MATRIX(256, 512, "BF16")},
    {"linear", "f16 127x1023, 33 tokens, fast", {33}, run_linear, OP_FAST, MATRIX(127, 1023, "F16")},
    {"linear", "f32 257x70 ld 75, 512 tokens, fast", {512, 0}, run_linear, OP_FAST, MATRIX(257, 70, "F32", 5)},
    {"linear", "f32 70x2049 column scale, fast", {33, 1}, run_linear, OP_FAST, MATRIX(70, 2049, "F32", .col_scale = 1)},
    {"linear",
     "codes 4/128 + lr 17, 200x300, fast",
     {129, 1},
     run_linear,
     OP_FAST,
     MATRIX(200, 300, .bits = 4, .group = 128, .rank = 17)},
    {"linear", "bf16 4096x4096, 2048 tokens", {2048}, run_linear, OP_BENCH, MATRIX(4096, 4096, "BF16")},
    {"linear", "bf16 4096x4096, 1 token", {1}, run_linear, OP_BENCH, MATRIX(4096, 4096, "BF16")},
    {"linear", "f32 4096x4096, 2048 tokens", {2048}, run_linear, OP_BENCH, MATRIX(4096, 4096, "F32")},
    {"linear", "bf16 4096x4096, 2048 tokens, fast", {2048}, run_linear, OP_BENCH | OP_FAST, MATRIX(4096, 4096, "BF16")},
    {"linear",
     "bf16 11008x4096, 2048 tokens, fast",
     {2048},
     run_linear,
     OP_BENCH | OP_FAST,
     MATRIX(11008, 4096, "BF16")},
    {"linear",
     "bf16 4096x11008, 2048 tokens, fast",
     {2048},
     run_linear,
     OP_BENCH | OP_FAST,
     MATRIX(4096, 11008, "BF16")},
    {"linear",
     "codes 4/128 + lr 64, 11008x4096, 2048 tokens, fast",
     {2048},
     run_linear,
     OP_BENCH | OP_FAST,
     MATRIX(11008, 4096, .bits = 4, .group = 128, .rank = 64)},
    {"linear",
     "codes 4/128 + lr 64, 4096x4096, 2048 tokens",
     {2048},
     run_linear,
     OP_BENCH,
     MATRIX(4096, 4096, .bits = 4, .group = 128, .rank = 64)},

    {"rmsnorm", "1x1", {1, 1, 1}, run_rmsnorm},
    {"rmsnorm", "3x255 no weight", {3, 255, 0}, run_rmsnorm},
    {"rmsnorm", "513x257 in place", {513, 257, 1, 0, 1}, run_rmsnorm},
    {"rmsnorm", "5000x64", {5000, 64, 1}, run_rmsnorm},
    {"rmsnorm", "3x16384", {3, 16384, 1}, run_rmsnorm},
    {"rmsnorm", "2x70001", {2, 70001, 1}, run_rmsnorm},
    {"rmsnorm", "2048x4096", {2048, 4096, 1}, run_rmsnorm, OP_BENCH},
    {"layernorm", "1x2", {1, 2, 1}, run_layernorm},
    {"layernorm", "3x255 no weight", {3, 255, 0}, run_layernorm},
    {"layernorm", "513x257 in place", {513, 257, 1, 0, 1}, run_layernorm},
    {"layernorm", "65x1000 mean 1000", {65, 1000, 1, 1000}, run_layernorm},
    {"layernorm", "2x70001", {2, 70001, 1}, run_layernorm},
    {"layernorm", "7x516 mean 1000", {7, 516, 1, 1000}, run_layernorm},
    {"layernorm", "2x16388 in place", {2, 16388, 1, 0, 1}, run_layernorm},
    {"layernorm", "2048x4096", {2048, 4096, 1}, run_layernorm, OP_BENCH},

    {"rope", "1 token, dim 2", {1, 1, 2, 5, 1000}, run_rope},
    {"rope", "33 tokens, dim 20", {33, 3, 20, 0, 1000}, run_rope},
    {"rope", "dim 80 at 131072, magnitude 1.3", {40, 5, 80, 131072, 1300}, run_rope},
    {"rope", "dim 128", {65, 4, 128, 1, 1000}, run_rope},
    {"rope", "dim 600", {9, 2, 600, 70, 1000}, run_rope},
    {"rope", "2048 tokens, 32 x 128", {2048, 32, 128, 0, 1000}, run_rope, OP_BENCH},

    {"attention", "1 token", {1, 1, 1, 16, 0, 1}, run_attention},
    {"attention", "2 tokens, dim 20, kv 1 of 6", {2, 6, 1, 20, 0, 1}, run_attention},
    {"attention", "127 tokens, dim 64, kv 2 of 4", {127, 4, 2, 64, 0, 1}, run_attention},
    {"attention", "128 tokens, dim 80", {128, 3, 3, 80, 0, 1}, run_attention},
    {"attention", "129 tokens, dim 128, kv 1 of 2", {129, 2, 1, 128, 0, 1}, run_attention},
    {"attention", "480 tokens, dim 16", {480, 2, 2, 16, 0, 1}, run_attention},
    {"attention", "481 tokens, dim 20", {481, 2, 2, 20, 0, 1}, run_attention},
    {"attention", "961 tokens, dim 64", {961, 1, 1, 64, 0, 1}, run_attention},
    {"attention", "513 tokens, dim 256, kv 1 of 2", {513, 2, 1, 256, 0, 1}, run_attention},
    {"attention", "700 tokens, scores of 30", {700, 2, 2, 64, 0, 30}, run_attention},
    {"attention", "300 tokens, window 1", {300, 2, 1, 20, 1, 1}, run_attention},
    {"attention", "300 tokens, window 7", {300, 2, 1, 64, 7, 1}, run_attention},
    {"attention", "900 tokens, window 512", {900, 2, 2, 64, 512, 1}, run_attention},
    {"attention", "641 tokens, window 480", {641, 1, 1, 128, 480, 1}, run_attention},
    {"attention", "1100 tokens, window 700", {1100, 1, 1, 80, 700, 1}, run_attention},
    {"attention", "200 tokens, window 200", {200, 2, 1, 64, 200, 1}, run_attention},
    {"attention", "200 tokens, window 199", {200, 2, 1, 64, 199, 1}, run_attention},
    {"attention", "1 token, fast", {1, 1, 1, 16, 0, 1}, run_attention, OP_FAST},
    {"attention", "129 tokens, dim 128, kv 1 of 2, fast", {129, 2, 1, 128, 0, 1}, run_attention, OP_FAST},
    {"attention", "481 tokens, dim 20, fast", {481, 2, 2, 20, 0, 1}, run_attention, OP_FAST},
    {"attention", "300 tokens, dim 64, scores of 4, fast", {300, 2, 2, 64, 0, 4}, run_attention, OP_FAST},
    {"attention", "300 tokens, window 7, fast", {300, 2, 1, 64, 7, 1}, run_attention, OP_FAST},
    {"attention", "641 tokens, dim 128, window 480, fast", {641, 1, 1, 128, 480, 1}, run_attention, OP_FAST},
    {"attention", "513 tokens, dim 256, kv 1 of 2, fast", {513, 2, 1, 256, 0, 1}, run_attention, OP_FAST},
    {"attention", "17 tokens, dim 80, kv 2 of 6, fast", {17, 6, 2, 80, 0, 1}, run_attention, OP_FAST},
    {"attention", "260 tokens, dim 96, window 100, fast", {260, 2, 1, 96, 100, 1}, run_attention, OP_FAST},
    {"attention", "128 tokens, dim 33, fast", {128, 3, 3, 33, 0, 1}, run_attention, OP_FAST},
    {"attention", "65 tokens, dim 136, fast", {65, 2, 2, 136, 0, 1}, run_attention, OP_FAST},
    {"attention", "40 tokens, dim 264, fast", {40, 2, 1, 264, 0, 1}, run_attention, OP_FAST},
    {"attention", "300 tokens, window 1, fast", {300, 2, 1, 20, 1, 1}, run_attention, OP_FAST},
    {"attention", "2048 tokens, 32 x 128", {2048, 32, 32, 128, 0, 1}, run_attention, OP_BENCH},
    {"attention", "2048 tokens, 32 x 128, fast", {2048, 32, 32, 128, 0, 1}, run_attention, OP_BENCH | OP_FAST},
    {"attention", "2048 tokens, 64 over 8 x 128, fast", {2048, 64, 8, 128, 0, 1}, run_attention, OP_BENCH | OP_FAST},
    {"attention", "2048 tokens, 32 over 8 x 128", {2048, 32, 8, 128, 0, 1}, run_attention, OP_BENCH},
    {"attention", "4096 tokens, 32 over 8 x 128, window 1024", {4096, 32, 8, 128, 1024, 1}, run_attention, OP_BENCH},

    {"swiglu", "n=1", {1}, run_swiglu},
    {"swiglu", "n=65537", {65537}, run_swiglu},
    {"swiglu", "n=200003", {200003}, run_swiglu},
    {"swiglu", "2048x11008", {2048 * 11008}, run_swiglu, OP_BENCH},
    {"relu", "n=1", {1}, run_relu},
    {"relu", "n=131073", {131073}, run_relu},
    {"relu", "2048x11008", {2048 * 11008}, run_relu, OP_BENCH},
    {"add", "n=1", {1}, run_add},
    {"add", "n=131073", {131073}, run_add},
    {"add", "2048x4096", {2048 * 4096}, run_add, OP_BENCH},
    {"add_f64", "n=1", {1}, run_add_f64},
    {"add_f64", "n=131073", {131073}, run_add_f64},
    {"add_f64", "4096x4096", {4096 * 4096}, run_add_f64, OP_BENCH},

    {"gather_rows", "f32 1x1", {1, 0}, run_gather_rows, OP_TEST, MATRIX(1, 1, "F32")},
    {"gather_rows", "f32 100x33 ld 40", {70, 0}, run_gather_rows, OP_TEST, MATRIX(100, 33, "F32", 7)},
    {"gather_rows", "bf16 50x65, added", {129, 1}, run_gather_rows, OP_TEST, MATRIX(50, 65, "BF16")},
    {"gather_rows", "f16 50x127", {129, 0}, run_gather_rows, OP_TEST, MATRIX(50, 127, "F16")},
    {"gather_rows", "bf16 50x1100, added", {33, 1}, run_gather_rows, OP_TEST, MATRIX(50, 1100, "BF16")},
    {"gather_rows",
     "codes 4/32 50x127, added",
     {9, 1},
     run_gather_rows,
     OP_TEST,
     MATRIX(50, 127, .bits = 4, .group = 32)},
    {"gather_rows", "bf16 32000x4096", {2048, 0}, run_gather_rows, OP_BENCH, MATRIX(32000, 4096, "BF16")},

    {"nll", "vocab 1", {6, 1, 1}, run_nll},
    {"nll", "vocab 2, no argmax", {6, 2, 1, 0, 1}, run_nll},
    {"nll", "vocab 257", {40, 257, 5}, run_nll},
    {"nll", "vocab 50257", {9, 50257, 3}, run_nll},
    {"nll", "vocab 1000, logits of 100", {9, 1000, 100}, run_nll},
    {"nll", "512 x 128256", {512, 128256, 3}, run_nll, OP_BENCH},
    {"kl", "vocab 2", {6, 2, 1, 1000}, run_kl},
    {"kl", "vocab 257", {40, 257, 3, 500}, run_kl},
    {"kl", "vocab 50257", {9, 50257, 3, 1000}, run_kl},
    {"kl", "vocab 5000, close", {9, 5000, 2, 50}, run_kl},
    {"kl", "512 x 128256", {512, 128256, 3, 100}, run_kl, OP_BENCH},
};

const op_table ops_forward = {"forward", cases, sizeof cases / sizeof *cases};
