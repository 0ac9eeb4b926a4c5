/* ops_small.c - op cases of the small dense ops and the calibration sums.
 *
 * Products use the tolerance sqrt(K) eps of ops_matrix.c. Factorisations are judged by what defines them (backward
 * errors:
 * ||A - Q R|| / ||A||, ||Q^T Q - I||), with bounds of the usual form c eps sqrt(dimension): LAPACK's own tests accept
 * 30 eps times the dimension, these are tighter. Unique results (Cholesky factor, eigenvalues, singular values) are
 * also compared with the reference.
 */
#include "cases/opcase.h"

#include <math.h>
#include <string.h>

static double product_tolerance(double terms) {
    return OP_EPS32 * sqrt(terms < 16 ? 16 : terms);
}

/* A random upper triangle in double whose diagonal lies in [1, 3]: well conditioned for small b. */
static double *triangle(op_run *r, int64_t b, uint64_t stream) {
    float *normals = op_temp(r, (size_t)(b * b) * sizeof *normals);
    double *out = op_temp(r, (size_t)(b * b) * sizeof *out);
    op_random(r, normals, b * b, 1, stream);
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = i; j < b; j++) {
            double value = (double)normals[i * b + j];
            out[i * b + j] = i == j ? 1 + fmin(2, fabs(value)) : 0.5 * value / sqrt((double)b);
        }
    return out;
}

/* out = x^T x for x [m, b]. */
static void gram_of(double *out, const double *x, int64_t m, int64_t b) {
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++) {
            double sum = 0;
            for (int64_t k = 0; k < m; k++) sum += x[k * b + i] * x[k * b + j];
            out[i * b + j] = sum;
        }
}

/* max |x^T x - I| for fp32 x [m, b]: how far columns are from orthonormal. */
static double orthonormal_error(op_run *r, const float *x, int64_t m, int64_t b) {
    double *wide = op_temp(r, (size_t)(m * b) * sizeof *wide), *gram = op_temp(r, (size_t)(b * b) * sizeof *gram),
           worst = 0;
    for (int64_t i = 0; i < m * b; i++) wide[i] = (double)x[i];
    gram_of(gram, wide, m, b);
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++) {
            double error = fabs(gram[i * b + j] - (i == j));
            if (!(error <= worst)) worst = error; /* NaN stays */
        }
    return worst;
}

/* ---- run functions ------------------------------------------------------------------------------------------------
 */

static void run_gram(op_run *r, const op_case *c) {
    int64_t m = c->d[0], b = c->d[1];
    float *y = op_normal(r, "Y", m * b, 1);
    /* fp32 products are exact in double; the sequential sum of the reference may lose eps at each of its m additions,
     * and always in the same direction: the low bits of squares are not uniform. */
    double *gram = op_out(r, "gram", OP_F64, b * b, OP_MAX, OP_EPS64 * (double)(m + 16));
    op_cost(r, 4.0 * (double)(m * b) + 8.0 * (double)(b * b), (double)m * (double)b * (double)(b + 1));
    OP_CALL(r, gram, gram, y, m, b);
    if (!op_ok(r)) return;
    double *host = op_temp(r, (size_t)(b * b) * sizeof *host), asymmetry = 0;
    op_get(r, host, gram, (size_t)(b * b) * sizeof *host);
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++) asymmetry = fmax(asymmetry, fabs(host[i * b + j] - host[j * b + i]));
    op_expect(r, "asymmetry", asymmetry, 0);
}

/* d[1] = k > 0: the leading minor k is made non-positive. */
static void run_cholesky(op_run *r, const op_case *c) {
    int64_t b = c->d[0], bad = c->d[1];
    double *factor = triangle(r, b, 1), *gram = op_temp(r, (size_t)(b * b) * sizeof *gram);
    gram_of(gram, factor, b, b);
    if (bad) gram[(bad - 1) * b + bad - 1] = c->d[2] ? NAN : -1;
    /* Backward stable: the factor of a matrix of condition ~ 10 moves by b eps cond at most. A broken factorisation
     * leaves anything behind. */
    double *r_out = op_inout(r, "R", OP_F64, gram, b * b, bad ? OP_IGNORE : OP_MAX, OP_EPS64 * (double)(b + 4));
    int32_t *info = op_host_out(r, "info", OP_I32, 1, OP_EXACT, 0);
    op_cost(r, 8.0 * (double)(b * b), (double)(b * b * b) / 3);
    OP_CALL(r, cholesky, r_out, b, info);
    if (op_ok(r)) op_expect(r, "info", fabs((double)*info - (double)bad), 0);
}

static void run_solve_right(op_run *r, const op_case *c) {
    int64_t m = c->d[0], b = c->d[1];
    double *triangle_host = triangle(r, b, 1);
    double *d_r = op_in(r, "R", OP_F64, triangle_host, b * b);
    float *host = op_temp(r, (size_t)(m * b) * sizeof *host);
    op_random(r, host, m * b, 1, 2);
    /* R is rounded to fp32 (1 eps each) and substitution adds b terms. */
    float *y = op_inout(r, "Y", OP_F32, host, m * b, OP_NORM, product_tolerance((double)b));
    op_cost(r, 8.0 * (double)(m * b) + 8.0 * (double)(b * b), (double)m * (double)b * (double)b);
    OP_CALL(r, solve_right, y, d_r, m, b);
}

/* d[2] = 1: the last columns repeat the first (rank deficient), 2: all zero. */
static void run_householder(op_run *r, const op_case *c) {
    int64_t m = c->d[0], b = c->d[1];
    float *host = op_temp(r, (size_t)(m * b) * sizeof *host);
    op_random(r, host, m * b, 1, 1);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < b; j++) {
            if (c->d[2] == 1 && j >= b / 2) host[i * b + j] = host[i * b + j - b / 2];
            if (c->d[2] == 2) host[i * b + j] = 0;
        }
    float *y = op_inout(r, "Q", OP_F32, host, m * b, OP_ANY, 0);
    op_cost(r, 8.0 * (double)(m * b), 4.0 * (double)m * (double)b * (double)b);
    OP_CALL(r, householder, y, m, b);
    if (!op_ok(r)) return;
    float *q = op_temp(r, (size_t)(m * b) * sizeof *q);
    op_get(r, q, y, (size_t)(m * b) * sizeof *q);
    op_expect(r, "orthonormality", orthonormal_error(r, q, m, b), 4 * product_tolerance((double)m));
    /* The columns of Y lie in the span: ||Y - Q Q^T Y|| / ||Y||. */
    double *y64 = op_temp(r, (size_t)(m * b) * sizeof *y64), *project = op_temp(r, (size_t)(b * b) * sizeof *project);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < m * b; i++) y64[i] = (double)host[i];
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++)
            for (int64_t k = 0; k < m; k++) project[i * b + j] += (double)q[k * b + i] * y64[k * b + j];
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < b; j++) {
            double value = y64[i * b + j];
            norm += value * value;
            for (int64_t k = 0; k < b; k++) value -= (double)q[i * b + k] * project[k * b + j];
            error += value * value;
        }
    op_expect(r, "Y outside of the span", sqrt(error), 4 * product_tolerance((double)m) * sqrt(norm));
}

/* d[1] = 1: every eigenvalue doubled (multiplicities), 2: zero matrix. */
static void run_eigh(op_run *r, const op_case *c) {
    int64_t b = c->d[0];
    float *normals = op_temp(r, (size_t)(b * b) * sizeof *normals);
    double *host = op_temp(r, (size_t)(b * b) * sizeof *host);
    op_random(r, normals, b * b, 1, 1);
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++) {
            /* Block diagonal with two equal blocks: every eigenvalue twice. */
            int64_t half = (b + 1) / 2, p = i < j ? i : j, q = i < j ? j : i;
            if (c->d[1] == 1) host[i * b + j] = i / half == j / half ? (double)normals[(p % half) * b + q % half] : 0;
            if (c->d[1] == 0) host[i * b + j] = (double)normals[p * b + q];
        }
    double tolerance = 4 * OP_EPS64 * (double)(b + 4), norm = 0;
    for (int64_t i = 0; i < b * b; i++) norm += host[i] * host[i];
    double *a = op_inout(r, "vectors", OP_F64, host, b * b, OP_ANY, 0);
    double *values = op_out(r, "values", OP_F64, b, OP_MAX, tolerance);
    op_cost(r, 16.0 * (double)(b * b), 9.0 * (double)(b * b * b));
    OP_CALL(r, eigh, a, values, b);
    if (!op_ok(r)) return;
    double *v = op_temp(r, (size_t)(b * b) * sizeof *v), *w = op_temp(r, (size_t)b * sizeof *w), error = 0, unit = 0;
    op_get(r, v, a, (size_t)(b * b) * sizeof *v);
    op_get(r, w, values, (size_t)b * sizeof *w);
    double *gram = op_temp(r, (size_t)(b * b) * sizeof *gram), rising = 0;
    gram_of(gram, v, b, b);
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++) {
            double product = 0;
            for (int64_t k = 0; k < b; k++) product += v[i * b + k] * w[k] * v[j * b + k];
            error += (product - host[i * b + j]) * (product - host[i * b + j]);
            unit = fmax(unit, fabs(gram[i * b + j] - (i == j)));
        }
    for (int64_t k = 1; k < b; k++) rising = fmax(rising, w[k] - w[k - 1]);
    op_expect(r, "||A - V diag V^T||", sqrt(error), tolerance * sqrt(norm));
    op_expect(r, "orthonormality", unit, tolerance);
    op_expect(r, "values rise", rising, 0);
}

static void run_gemm(op_run *r, const op_case *c) {
    int64_t m = c->d[0], k = c->d[1], b = c->d[2];
    float alpha = (float)c->d[3] / 4, beta = (float)c->d[4] / 4;
    float *x = op_normal(r, "A", m * b, 1), *y = op_normal(r, "B", b * k, 1);
    float *host = op_temp(r, (size_t)(m * k) * sizeof *host);
    op_random(r, host, m * k, sqrtf((float)b + 1), 100);
    double tolerance = product_tolerance((double)b + 2);
    /* beta = 0 must not read C: it starts as NaN. */
    float *out = c->d[4] ? op_inout(r, "C", OP_F32, host, m * k, OP_NORM, tolerance)
                         : op_out(r, "C", OP_F32, m * k, OP_NORM, tolerance);
    op_cost(r, 4.0 * (double)(m * b + b * k + m * k), 2.0 * (double)(m * k) * (double)b);
    OP_CALL(r, gemm, out, x, y, m, k, b, alpha, beta);
}

/* d: m, columns in memory, columns used, 1 = with divisors. A division is correctly rounded everywhere. */
static void run_column_amax(op_run *r, const op_case *c) {
    int64_t m = c->d[0], ld = c->d[1], b = c->d[2];
    float *host = op_temp(r, (size_t)(m * ld) * sizeof *host);
    op_random(r, host, m * ld, 1, 100);
    float *divisor = c->d[3] == 1 ? op_normal(r, "divisor", m, 1) : NULL;
    const float *x = op_in(r, "X", OP_F32, host, m * ld);
    float *amax = op_host_out(r, "amax", OP_F32, b, OP_EXACT, 0);
    op_cost(r, 4.0 * (double)(m * b), (double)(m * b));
    OP_CALL(r, column_amax, amax, x, ld, divisor, m, b);
}

/* d: m, columns in memory, columns used, 1 = transposed with divisors, dtype. */
static void run_round_factor(op_run *r, const op_case *c) {
    int64_t m = c->d[0], ld = c->d[1], b = c->d[2];
    float *x = op_normal(r, "X", m * ld, 1), *divisor = c->d[3] ? op_normal(r, "divisor", m, 1) : NULL;
    float *factor = op_temp(r, (size_t)b * sizeof *factor);
    for (int64_t k = 0; k < b; k++) factor[k] = ldexpf(1, (int)(k % 5) - 2);
    float *out = op_out(r, "factor", OP_F32, m * b, OP_EXACT, 0);
    op_cost(r, 8.0 * (double)(m * b), (double)(m * b));
    OP_CALL(r, round_factor, out, x, ld, divisor, factor, m, b, c->d[3] != 0, (flrq_dtype)c->d[4]);
}

static void run_rank_one(op_run *r, const op_case *c) {
    int64_t m = c->d[0], n = c->d[1];
    float *u = op_normal(r, "u", m, 1), *v = op_normal(r, "v", n, 1),
          *host = op_temp(r, (size_t)(m * n) * sizeof *host);
    op_random(r, host, m * n, 1, 100);
    /* alpha u_i, times v_j, plus y: three roundings of numbers not larger than a few maxima. */
    float *y = op_inout(r, "Y", OP_F32, host, m * n, OP_MAX, 4 * OP_EPS32);
    op_cost(r, 8.0 * (double)(m * n), 2.0 * (double)(m * n));
    OP_CALL(r, rank_one, y, u, v, m, n, -1.25f);
}

/* d[2] = 1: rank 3 plus noise 1e-3. */
static void run_svd(op_run *r, const op_case *c) {
    int64_t m = c->d[0], n = c->d[1], p = m < n ? m : n;
    float *host = op_temp(r, (size_t)(m * n) * sizeof *host), *f = op_temp(r, (size_t)(3 * (m + n)) * sizeof *f);
    op_random(r, host, m * n, c->d[2] ? 1e-3f : 1, 1);
    op_random(r, f, 3 * (m + n), 1, 2);
    for (int64_t i = 0; i < m && c->d[2]; i++)
        for (int64_t j = 0; j < n; j++)
            for (int k = 0; k < 3; k++) host[i * n + j] += f[3 * i + k] * f[3 * m + 3 * j + k];
    double tolerance = 4 * product_tolerance((double)(m + n)), norm = 0;
    for (int64_t i = 0; i < m * n; i++) norm += (double)host[i] * (double)host[i];
    float *d_a = op_inout(r, "A", OP_F32, host, m * n, OP_IGNORE, 0); /* destroyed */
    float *d_u = op_out(r, "U", OP_F32, m * p, OP_ANY, 0), *d_vt = op_out(r, "V^T", OP_F32, p * n, OP_ANY, 0);
    float *d_s = op_out(r, "S", OP_F32, p, OP_MAX, tolerance);
    op_cost(r, 4.0 * (double)(m * n), 8.0 * (double)(m > n ? m : n) * (double)(p * p));
    OP_CALL(r, svd, FLRQ_SVD_DEFAULT, d_a, m, n, d_u, d_s, d_vt);
    if (!op_ok(r)) return;
    float *u = op_temp(r, (size_t)(m * p) * sizeof *u), *s = op_temp(r, (size_t)p * sizeof *s);
    float *vt = op_temp(r, (size_t)(p * n) * sizeof *vt), *v = op_temp(r, (size_t)(p * n) * sizeof *v);
    op_get(r, u, d_u, (size_t)(m * p) * sizeof *u);
    op_get(r, s, d_s, (size_t)p * sizeof *s);
    op_get(r, vt, d_vt, (size_t)(p * n) * sizeof *vt);
    double error = 0, rising = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double value = (double)host[i * n + j];
            for (int64_t k = 0; k < p; k++) value -= (double)u[i * p + k] * (double)s[k] * (double)vt[k * n + j];
            error += value * value;
        }
    for (int64_t k = 0; k < p; k++) {
        if (k > 0) rising = fmax(rising, (double)s[k] - (double)s[k - 1]);
        for (int64_t j = 0; j < n; j++) v[j * p + k] = vt[k * n + j];
    }
    op_expect(r, "||A - U S V^T||", sqrt(error), tolerance * sqrt(norm));
    op_expect(r, "orthonormality of U", orthonormal_error(r, u, m, p), tolerance);
    op_expect(r, "orthonormality of V", orthonormal_error(r, v, n, p), tolerance);
    op_expect(r, "values rise", rising, 0);
}

/* d[2] = 1: some tokens are all zero. */
static void run_input_stats(op_run *r, const op_case *c) {
    int64_t tokens = c->d[0], n = c->d[1];
    float *host = op_temp(r, (size_t)(tokens * n) * sizeof *host), *old = op_temp(r, (size_t)(2 * n) * sizeof *old);
    double *start = op_temp(r, (size_t)(2 * n) * sizeof *start);
    op_random(r, host, tokens * n, 3, 1);
    op_random(r, old, 2 * n, 1, 2);
    for (int64_t t = 0; t < tokens && c->d[2]; t += 3) memset(host + t * n, 0, (size_t)n * sizeof *host);
    for (int64_t j = 0; j < 2 * n; j++) start[j] = fabs((double)old[j]);
    float *x = op_in(r, "x", OP_F32, host, tokens * n);
    /* Positive sums in double: eps for each addition at worst, and the mean of n terms. */
    double tolerance = OP_EPS64 * (double)(tokens + n + 8);
    double *abs_sum = op_inout(r, "abs sum", OP_F64, start, n, OP_EACH, tolerance);
    double *square_sum = op_inout(r, "square sum", OP_F64, start + n, n, OP_EACH, tolerance);
    op_cost(r, 4.0 * (double)(tokens * n) + 32.0 * (double)n, 5.0 * (double)(tokens * n));
    OP_CALL(r, input_stats, abs_sum, square_sum, x, tokens, n);
}

static void run_input_sketch(op_run *r, const op_case *c) {
    int64_t tokens = c->d[0], n = c->d[1], k = c->d[2];
    float *x = op_normal(r, "x", tokens * n, 1), *g = op_normal(r, "g", tokens * k, 1);
    float *host = op_temp(r, (size_t)(n * k) * sizeof *host);
    op_random(r, host, n * k, 10, 100);
    float *s = op_inout(r, "S", OP_F32, host, n * k, OP_NORM, product_tolerance((double)tokens + 1));
    op_cost(r, 4.0 * (double)(tokens * (n + k)) + 8.0 * (double)(n * k), 2.0 * (double)tokens * (double)(n * k));
    OP_CALL(r, input_sketch, s, x, g, tokens, n, k);
}

/* ---- cases ----------------------------------------------------------------------------------------------------------
 */

static const op_case cases[] = {
    {"gram", "1x1", {1, 1}, run_gram},
    {"gram", "513x1", {513, 1}, run_gram},
    {"gram", "2600x40", {2600, 40}, run_gram},
    {"gram", "100x136", {100, 136}, run_gram},
    {"gram", "40000x3: more than one wave", {40000, 3}, run_gram},
    {"gram", "0x5", {0, 5}, run_gram},

    {"cholesky", "b=1", {1}, run_cholesky},
    {"cholesky", "b=40", {40}, run_cholesky},
    {"cholesky", "b=136", {136}, run_cholesky},
    {"cholesky", "b=40 minor 1 negative", {40, 1}, run_cholesky},
    {"cholesky", "b=40 minor 23 negative", {40, 23}, run_cholesky},
    {"cholesky", "b=136 minor 136 negative", {136, 136}, run_cholesky},
    {"cholesky", "b=40 NaN in minor 7", {40, 7, 1}, run_cholesky},
    {"cholesky", "b=136 NaN in minor 100", {136, 100, 1}, run_cholesky},

    {"solve_right", "1x1", {1, 1}, run_solve_right},
    {"solve_right", "643x40", {643, 40}, run_solve_right},
    {"solve_right", "129x136", {129, 136}, run_solve_right},
    {"solve_right", "0x4", {0, 4}, run_solve_right},

    {"householder", "1x1", {1, 1}, run_householder},
    {"householder", "643x40", {643, 40}, run_householder},
    {"householder", "40x40", {40, 40}, run_householder},
    {"householder", "300x136 rank 68", {300, 136, 1}, run_householder},
    {"householder", "70x8 zero", {70, 8, 2}, run_householder},

    {"eigh", "b=1", {1}, run_eigh},
    {"eigh", "b=2", {2}, run_eigh},
    {"eigh", "b=40", {40}, run_eigh},
    {"eigh", "b=66 double eigenvalues", {66, 1}, run_eigh},
    {"eigh", "b=9 zero", {9, 2}, run_eigh},

    {"gemm", "1x1 b=1", {1, 1, 1, 4, 0}, run_gemm},
    {"gemm", "643x40 b=40", {643, 40, 40, 4, 0}, run_gemm},
    {"gemm", "129x7 b=136 alpha=-2 beta=1/2", {129, 7, 136, -8, 2}, run_gemm},
    {"gemm", "130x3 b=0 beta=1/2", {130, 3, 0, 4, 2}, run_gemm},
    {"gemm", "130x3 b=0 beta=0", {130, 3, 0, 4, 0}, run_gemm},

    {"column_amax", "1x1", {1, 1, 1}, run_column_amax},
    {"column_amax", "643 rows, 40 of 53", {643, 53, 40}, run_column_amax},
    {"column_amax", "1049 rows, 136 of 136, divided", {1049, 136, 136, 1}, run_column_amax},
    {"column_amax", "no rows", {0, 3, 3}, run_column_amax},
    {"round_factor", "1x1 f16", {1, 1, 1, 0, FLRQ_F16}, run_round_factor},
    {"round_factor", "643 rows, 40 of 53, f16", {643, 53, 40, 0, FLRQ_F16}, run_round_factor},
    {"round_factor", "1049 rows, 33 of 136, divided, bf16", {1049, 136, 33, 1, FLRQ_BF16}, run_round_factor},
    {"round_factor", "131 rows, 131 of 131, divided, f16", {131, 131, 131, 1, FLRQ_F16}, run_round_factor},
    {"column_amax", "11008 rows, 136 of 136, divided", {11008, 136, 136, 1}, run_column_amax, OP_BENCH},
    {"round_factor", "11008 rows, 64 of 136, divided", {11008, 136, 64, 1, FLRQ_BF16}, run_round_factor, OP_BENCH},
    {"rank_one", "1x1", {1, 1}, run_rank_one},
    {"rank_one", "643x1049", {643, 1049}, run_rank_one},

    {"svd", "1x1", {1, 1}, run_svd},
    {"svd", "90x40", {90, 40}, run_svd},
    {"svd", "40x90", {40, 90}, run_svd},
    {"svd", "64x64 rank 3 + noise", {64, 64, 1}, run_svd},
    {"svd", "5x700", {5, 700}, run_svd},

    {"input_stats", "1x1", {1, 1}, run_input_stats},
    {"input_stats", "300x643", {300, 643}, run_input_stats},
    {"input_stats", "31x257 zero tokens", {31, 257, 1}, run_input_stats},
    {"input_stats", "0x33", {0, 33}, run_input_stats},
    {"input_stats", "8200x400: tiles of tokens", {8200, 400}, run_input_stats},

    {"input_sketch", "1x1 k=1", {1, 1, 1}, run_input_sketch},
    {"input_sketch", "300x643 k=31", {300, 643, 31}, run_input_sketch},
    {"input_sketch", "1000x70 k=256", {1000, 70, 256}, run_input_sketch},
    {"input_sketch", "0x33 k=4", {0, 33, 4}, run_input_sketch},

    {"gram", "4096x40", {4096, 40}, run_gram, OP_BENCH},
    {"gram", "4096x136", {4096, 136}, run_gram, OP_BENCH},
    {"cholesky", "b=40", {40}, run_cholesky, OP_BENCH},
    {"cholesky", "b=136", {136}, run_cholesky, OP_BENCH},
    {"solve_right", "4096x40", {4096, 40}, run_solve_right, OP_BENCH},
    {"solve_right", "4096x136", {4096, 136}, run_solve_right, OP_BENCH},
    {"householder", "4096x40", {4096, 40}, run_householder, OP_BENCH},
    {"eigh", "b=40", {40}, run_eigh, OP_BENCH},
    {"eigh", "b=136", {136}, run_eigh, OP_BENCH},
    {"gemm", "4096x40 b=40", {4096, 40, 40, 4, 0}, run_gemm, OP_BENCH},
    {"rank_one", "4096x4096", {4096, 4096}, run_rank_one, OP_BENCH},
    {"svd", "1024x1024", {1024, 1024}, run_svd, OP_BENCH},
    {"input_stats", "2048x4096", {2048, 4096}, run_input_stats, OP_BENCH},
    {"input_sketch", "2048x4096 k=256", {2048, 4096, 256}, run_input_sketch, OP_BENCH},
    {"gram", "11008x136", {11008, 136}, run_gram, OP_BENCH},
    {"solve_right", "11008x136", {11008, 136}, run_solve_right, OP_BENCH},
    {"gemm", "11008x136 b=136", {11008, 136, 136, 4, 0}, run_gemm, OP_BENCH},
    {"input_stats", "2048x11008", {2048, 11008}, run_input_stats, OP_BENCH},
    {"input_sketch", "2048x11008 k=256", {2048, 11008, 256}, run_input_sketch, OP_BENCH},
    {"input_stats", "16384x11008", {16384, 11008}, run_input_stats, OP_BENCH | OP_LARGE},
};

const op_table ops_small = {"small dense ops", cases, sizeof cases / sizeof *cases};
