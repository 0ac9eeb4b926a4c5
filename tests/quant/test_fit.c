/* test_fit.c - the fit of one matrix: what it returns is what it says, in every scheme, and the methods are the
 * published ones.
 *
 * Low-rank parts are compared with LAPACK's double SVD of the target that the paper's equations name. Hostile layers,
 * determinism and memory are in test_fit_hostile.c.
 */
#include <lapacke.h>
#include "fit_case.h"

/* ---- sizes and bits ---------------------------------------------------------------------------------------------- */

static double model_bits(const flrq_scheme *scheme, int64_t hidden, int64_t inner, int64_t rank) {
    const int64_t shapes[3][3] = {{4, hidden, hidden}, {2, inner, hidden}, {1, hidden, inner}};
    double bits = 0, weights = 0;
    for (int i = 0; i < 3; i++) {
        double count = (double)(shapes[i][0] * shapes[i][1] * shapes[i][2]);
        bits += count * flrq_scheme_bits(scheme, shapes[i][1], shapes[i][2], rank);
        weights += count;
    }
    return bits / weights;
}

static void bits_of_the_paper(void **state) {
    flrq_scheme w4 = {.bits = 4, .symmetric = 1, .group = 128}, w2 = {.bits = 2, .symmetric = 1, .group = 128};
    /* LLaMA2-13B: q, k, v, o 5120 x 5120, gate, up, down with 13824. Printed with two decimals. */
    CHECK_LE(fabs(model_bits(&w4, 5120, 13824, 64) - 4.44), 0.005);
    CHECK_LE(fabs(0.1 * (9 * model_bits(&w4, 5120, 13824, 22) + model_bits(&w4, 5120, 13824, 21)) - 4.23), 0.005);
    /* LLaMA2-7B at 2 bits, average rank 39: + 0.24. */
    CHECK_LE(fabs(model_bits(&w2, 4096, 11008, 39) - model_bits(&w2, 4096, 11008, 0) - 0.24), 0.005);
    CHECK_LE(fabs(model_bits(&w2, 4096, 11008, 0) - 2.125), 1e-12);
}

static void sizes_by_hand(void **state) {
    flrq_scheme s = {.bits = 4, .symmetric = 1, .group = 64};
    assert_int_equal(flrq_scheme_group(&s, 150), 64);
    assert_int_equal(flrq_scheme_groups(&s, 150), 3);
    assert_int_equal(flrq_scheme_groups(&s, 128), 2);
    assert_int_equal(flrq_scheme_groups(&s, 1), 1);
    CHECK_LE(fabs(flrq_scheme_bits(&s, 10, 150, 0) - (4 + 16 * 3 / 150.0)), 1e-12);
    s.symmetric = 0;
    CHECK_LE(fabs(flrq_scheme_bits(&s, 10, 150, 2) - (4 + 20 * 3 / 150.0 + 16 * 2 * 160 / 1500.0)), 1e-12);
    s.group = 0;
    assert_int_equal(flrq_scheme_group(&s, 150), 150);
    assert_int_equal(flrq_scheme_groups(&s, 150), 1);
    /* Codes, fp32 scales, zero points. */
    flrq_backend *be = open_backend("cpu", 1);
    for (int symmetric = 0; symmetric < 2; symmetric++) {
        s = (flrq_scheme){.bits = 4, .symmetric = symmetric, .group = 64};
        size_t need = 7 * 150 + 7 * 3 * sizeof(float) + (symmetric ? 0 : 7 * 3);
        assert_true(flrq_codes_bytes(&s, 7, 150) >= need);
        flrq_codes codes = {0};
        watch_begin(be, -1);
        CHECK_OK(flrq_codes_alloc(&codes, be, &s, (flrq_extent){7, 150, 7 * 150}));
        assert_true(watched.bytes >= need);
        assert_non_null(codes.code);
        assert_non_null(codes.scale);
        assert_int_equal(codes.zero == NULL, symmetric);
        flrq_codes_release(&codes, be);
        assert_int_equal(watched.live, 0);
        watch_end(be);
        for (int64_t allow = 0; allow < 3 - symmetric; allow++) {
            watch_begin(be, allow);
            assert_int_equal(flrq_codes_alloc(&codes, be, &s, (flrq_extent){7, 150, 7 * 150}), FLRQ_ERR_MEMORY);
            flrq_codes_release(&codes, be);
            watch_end(be);
            assert_int_equal(watched.live, 0);
        }
    }
    flrq_backend_close(be);
}

/* ---- every scheme ------------------------------------------------------------------------------------------------ */

/* 2/3/4/8 bits, both zero points, groups of 32 with and without a tail, per channel, one group larger than the row;
 * both factor types; with calibration, with sums only, with nothing. */
static void every_scheme(void **state) {
    static const int bits[] = {2, 3, 4, 8};
    static const int64_t groups[] = {32, 64, 0, 1024};
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(96, 150, 64, 200);
    int with_rank = 0, count = 0;
    for (int b = 0; b < 4; b++)
        for (int symmetric = 0; symmetric < 2; symmetric++)
            for (int g = 0; g < 4; g++) {
                static const int parts_of[] = {WITH_ALL, WITH_SUMS, 0};
                int parts = parts_of[count % 3];
                flrq_fit_options o = fit_defaults(bits[b], symmetric, groups[g]), rtn;
                if (count % 2) o.factor_dtype = FLRQ_BF16;
                if (count % 5 == 0) o.scheme.grid = FLRQ_GRID_MIRROR;
                o.epochs = count % 4;
                if (count % 3 == 1) o.clip.search = FLRQ_CLIP_GRID;
                o.rank.extra = 2;
                count++;
                fitted f = fit_on(be, &o, &y, parts);
                check_fit(&y, &o, &f, parts & WITH_SKETCH);
                with_rank += f.result.rank > 0;
                /* Clip search among ratios that include 1, on a target with the low rank taken off, against plain
                 * rounding: FAST may be 0.1 % above the grid. */
                if (parts != WITH_SUMS) /* there the search minimises the output error, and the weights' is reported */
                    CHECK_LE(f.result.error, f.result.error_nearest * 1.001);
                rtn = o;
                rtn.method = FLRQ_METHOD_RTN;
                rtn.clip.search = FLRQ_CLIP_NONE;
                fitted nearest = fit_on(be, &rtn, &y, parts);
                check_fit(&y, &rtn, &nearest, parts & WITH_SKETCH);
                assert_int_equal(nearest.result.rank, 0);
                /* The ratio is that of the scale, which is rounded to 8 significant bits. */
                CHECK_LE(fabs(nearest.result.clip_ratio - 1), 0x1p-8);
                assert_true(nearest.result.error == nearest.result.error_nearest);
                assert_true(f.result.error_nearest == nearest.result.error_nearest);
                drop_fit(&nearest);
                drop_fit(&f);
            }
    assert_true(with_rank > 16); /* the cases do test factors */
    drop_layer(&y);
    flrq_backend_close(be);
}

/* Weights beyond the range become zero: the paper's text. Both modes agree where nothing is clipped. */
static void clip_to_zero(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(40, 96, 32, 210);
    flrq_fit_options o = fit_defaults(3, 1, 32);
    o.clip.search = FLRQ_CLIP_GRID;
    o.clip.signed_scale = 0;
    o.epochs = 0;
    o.rank.rule = FLRQ_RANK_FIXED;
    o.rank.fixed = 0;
    fitted clamp = fit_on(be, &o, &y, WITH_ALL);
    o.clip.mode = FLRQ_CLIP_ZERO;
    fitted zero = fit_on(be, &o, &y, WITH_ALL);
    check_fit(&y, &o, &zero, 1);
    assert_true(clamp.result.clipped > 0);
    CHECK_LE(clamp.result.error, zero.result.error); /* zeroing a large weight costs more than clamping it */
    double *e = difference(&y, &zero);
    int64_t zeroed = 0;
    for (int64_t i = 0; i < y.m * y.n; i++)
        zeroed += fabs((double)y.w[i]) > 0 && fabs(e[i] / y.w[i] - 1) < 1e-6 &&
                  fabs((double)y.w[i]) > fabs((double)zero.codes.scale[i / y.n * 3 + i % y.n / 32]) * 3;
    /* `clipped` counts the weights beyond the range, which starts between 3 and 4.5 scales. */
    assert_true((double)zeroed <= zero.result.clipped * (double)(y.m * y.n) + 0.5);
    free(e);
    drop_fit(&clamp);
    drop_fit(&zero);
    drop_layer(&y);
    flrq_backend_close(be);
}

/* ---- alternation ------------------------------------------------------------------------------------------------- */

static void keeps_the_best(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(96, 128, 64, 220);
    /* The energy rule changes its mind about the rank from round to round, which makes some of them worse. */
    for (int c = 0; c < 3; c++) {
        flrq_fit_options o = fit_defaults(2, 1, 32);
        o.rank.extra = 1;
        o.tolerance = 0;
        if (c == 1) o.rank.rule = FLRQ_RANK_R1FLR;
        if (c == 2) o.metric = FLRQ_METRIC_ALPHA, o.alpha_power = 6, o.rank.rule = FLRQ_RANK_FIXED;
        double last = INFINITY, start = 0;
        int best = -1, last_best = 0, worse_rounds = 0;
        for (int epochs = 0; epochs <= 8; epochs++) {
            o.epochs = epochs;
            fitted f = fit_on(be, &o, &y, WITH_ALL);
            check_fit(&y, &o, &f, 1);
            if (epochs == 0) start = f.result.error;
            assert_true(f.result.error_start == start);
            assert_true(f.result.error <= last);
            if (f.result.error < last) {
                assert_int_equal(f.result.best_epoch, epochs);
                best = epochs;
            } else {
                assert_int_equal(f.result.best_epoch, best);
                worse_rounds++;
            }
            last = f.result.error;
            last_best = f.result.best_epoch;
            drop_fit(&f);
        }
        if (c == 0) assert_true(worse_rounds > 0); /* otherwise nothing was kept over something worse */
        /* The kept state is the state of that round. */
        fitted longer = fit_on(be, &o, &y, WITH_ALL);
        o.epochs = last_best;
        fitted exact = fit_on(be, &o, &y, WITH_ALL);
        assert_true(same_fit(&longer, &exact));
        assert_int_equal(longer.result.curve_terms, exact.result.curve_terms);
        assert_memory_equal(longer.result.amax, exact.result.amax,
                            (size_t)(exact.result.curve_terms + 1) * sizeof(float));
        assert_true(longer.result.clip_ratio == exact.result.clip_ratio);
        assert_true(longer.result.clipped == exact.result.clipped);
        drop_fit(&longer);
        drop_fit(&exact);
    }
    drop_layer(&y);
    flrq_backend_close(be);
}

static void stops_without_gain(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(48, 64, 32, 230);
    flrq_fit_options o = fit_defaults(2, 1, 32);
    o.rank.extra = 2;
    o.epochs = 30;
    o.tolerance = 1; /* no round gains all of the error */
    fitted f = fit_on(be, &o, &y, WITH_ALL);
    assert_int_equal(f.result.epochs, FLRQ_BLC_PATIENCE);
    check_fit(&y, &o, &f, 1);
    drop_fit(&f);
    o.tolerance = 0;
    f = fit_on(be, &o, &y, WITH_ALL);
    assert_true(f.result.epochs > FLRQ_BLC_PATIENCE);
    drop_fit(&f);
    drop_layer(&y);
    flrq_backend_close(be);
}

/* ---- metrics and methods against their equations ----------------------------------------------------------------- */

/* Best rank-r approximation of T diag(s), divided by s again: U_r S_r V_r^T diag(1/s) by LAPACK in double. *tolerance:
 * how far (Frobenius) fp32 arithmetic may be from it in the scaled space. */
static double *scaled_best(const double *t, const double *s, int64_t m, int64_t n, int64_t rank, double *tolerance) {
    int64_t p = m < n ? m : n;
    double *a = doubles(m * n), *sigma = doubles(p), *u = doubles(m * p), *vt = doubles(p * n), *out = doubles(m * n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) a[i * n + j] = t[i * n + j] * s[j];
    int info = LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', (lapack_int)m, (lapack_int)n, a, (lapack_int)n, sigma, u,
                              (lapack_int)p, vt, (lapack_int)n);
    assert_int_equal(info, 0);
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < rank; k++)
            for (int64_t j = 0; j < n; j++) out[i * n + j] += u[i * p + k] * sigma[k] * vt[k * n + j] / s[j];
    /* A change dT of the target turns the leading spaces by |dT| / gap; with |dT| = max(m, n) EPS32 sigma_0 (LAPACK in
     * fp32) the product moves by sigma_0 times that, at most on each of the 2 rank vectors. */
    *tolerance = (double)(m > n ? m : n) * EPS32 * sigma[0] * sigma[0] / (sigma[rank - 1] - sigma[rank]) * 2 *
                 sqrt((double)rank);
    free(a);
    free(sigma);
    free(u);
    free(vt);
    return out;
}

/* || (L R - want) diag(s) ||_F against rounding of L and R to 11 bits (fp16) or 8 (bf16): half a unit, 2^-11 or 2^-8,
 * of each element, so the product of column k moves by twice that times |l_k| |r_k s| (plus its square). */
static void check_low_rank(const fitted *f, flrq_dtype dtype, const double *want, const double *s, double tolerance) {
    double half = dtype == FLRQ_F16 ? 0x1p-11 : 0x1p-8;
    int64_t m = f->codes.rows, n = f->codes.cols, rank = f->result.rank;
    double sum = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double d = (low_rank(f, i, j) - want[i * n + j]) * s[j];
            sum += d * d;
        }
    for (int64_t k = 0; k < rank; k++) {
        double ll = 0, rr = 0;
        for (int64_t i = 0; i < m; i++) ll += pow(f->l[i * rank + k], 2);
        for (int64_t j = 0; j < n; j++) rr += pow(f->r[k * n + j] * s[j], 2);
        tolerance += 2.01 * half * sqrt(ll * rr);
    }
    CHECK_LE(sqrt(sum), tolerance);
}

/* s_j of Eq. 10-11 and of rms, from the sums. */
static double *column_scale(const layer *y, flrq_metric metric, double power) {
    double *s = doubles(y->n), least = INFINITY, most = 0;
    for (int64_t j = 0; j < y->n; j++) {
        double mean = y->abs_sum[j] / (double)y->tokens;
        least = fmin(least, mean);
        most = fmax(most, mean);
    }
    for (int64_t j = 0; j < y->n; j++)
        s[j] = metric == FLRQ_METRIC_ALPHA ? pow(y->abs_sum[j] / (double)y->tokens, power) / sqrt(most * least)
               : metric == FLRQ_METRIC_RMS ? sqrt(y->square_sum[j] / (double)y->tokens)
                                           : 1;
    return s;
}

/* Tokens of three channels, by hand: (1, 2, 3), (0, -4, 0), (3, 0, 3): means 2, 4/3, 2; normalised 0.5 1 1.5, 0 3 0,
 * 1.5 0 1.5; X bar = 2/3, 4/3, 1. With exponent 2.5 and sqrt(4/3 * 2/3) = 0.942809: alpha = 0.384900, 2.177324,
 * 1.060660. */
static void alpha_by_hand(void **state) {
    static const float x[3][3] = {{1, 2, 3}, {0, -4, 0}, {3, 0, 3}};
    static const double want[3] = {0.384900, 2.177324, 1.060660};
    layer y = {2, 3, 3, normals(2 * 3, 1, 5), floats(9), doubles(3), doubles(3)};
    for (int t = 0; t < 3; t++)
        for (int j = 0; j < 3; j++) y.s[j * 3 + t] = x[t][j];
    layer_sums(&y);
    double *s = column_scale(&y, FLRQ_METRIC_ALPHA, 2.5), tolerance;
    for (int j = 0; j < 3; j++) CHECK_LE(fabs(s[j] - want[j]), 1e-6);
    /* And the fit of rank 1 with these. */
    flrq_backend *be = open_backend("cpu", 1);
    flrq_fit_options o = fit_defaults(4, 1, 0);
    o.metric = FLRQ_METRIC_ALPHA;
    o.rank.rule = FLRQ_RANK_FIXED;
    o.rank.fixed = 1;
    o.sketch.kind = FLRQ_SKETCH_SVD;
    o.epochs = 0;
    double w[6], exact[3] = {want[0], want[1], want[2]};
    for (int i = 0; i < 6; i++) w[i] = y.w[i];
    double *best = scaled_best(w, exact, 2, 3, 1, &tolerance);
    fitted f = fit_on(be, &o, &y, WITH_ALL);
    check_low_rank(&f, o.factor_dtype, best, exact, tolerance + 1e-5); /* six printed digits above */
    drop_fit(&f);
    free(best);
    free(s);
    drop_layer(&y);
    flrq_backend_close(be);
}

/* First round of flrq: the low rank of W itself, or of the error of W quantized alone; lqer: of the error of plain
 * rounding, whose codes it keeps. Each in each metric. */
static void low_rank_of_the_right_target(void **state) {
    enum { M = 60, N = 64, RANK = 4 };
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(M, N, 48, 240);
    for (int64_t i = 0; i < M * N; i++) y.w[i] *= 20; /* fp16 factors well above the subnormals */
    for (int metric = 0; metric < 3; metric++)
        for (int kind = 0; kind < 3; kind++) { /* W; error of the codes; lqer */
            flrq_fit_options o = fit_defaults(3, kind != 1, 32), alone;
            o.metric = (flrq_metric)metric;
            if (metric == kind) o.factor_dtype = FLRQ_BF16;
            o.rank.rule = FLRQ_RANK_FIXED;
            o.rank.fixed = RANK;
            o.sketch.kind = FLRQ_SKETCH_SVD;
            o.epochs = 0;
            o.method = kind == 2 ? FLRQ_METHOD_LQER : FLRQ_METHOD_FLRQ;
            o.start = kind == 1 ? FLRQ_START_ERROR : FLRQ_START_WEIGHT;
            if (kind == 1) o.epochs = 1; /* the start is the codes alone */
            if (kind == 2) o.clip.search = FLRQ_CLIP_NONE;
            fitted f = fit_on(be, &o, &y, WITH_ALL);
            assert_int_equal(f.result.rank, RANK);
            if (kind != 2) check_fit(&y, &o, &f, 1); /* the codes of lqer are nearest to W, not to W - L R */
            alone = o;
            alone.method = FLRQ_METHOD_RTN;
            fitted q = fit_on(be, &alone, &y, WITH_ALL);
            if (kind == 2) {
                assert_memory_equal(f.codes.code, q.codes.code, M * N);
                assert_memory_equal(f.codes.scale, q.codes.scale, M * 2 * sizeof(float));
                assert_true(f.result.error < q.result.error);
            }
            double *t = doubles(M * N), tolerance, *s = column_scale(&y, (flrq_metric)metric, o.alpha_power);
            for (int64_t i = 0; i < M; i++)
                for (int64_t j = 0; j < N; j++)
                    t[i * N + j] = (double)y.w[i * N + j] - (kind ? code_value(&q.codes, i, j) : 0);
            double *best = scaled_best(t, s, M, N, RANK, &tolerance);
            check_low_rank(&f, o.factor_dtype, best, s, tolerance);
            free(best);
            free(s);
            free(t);
            drop_fit(&q);
            drop_fit(&f);
        }
    drop_layer(&y);
    flrq_backend_close(be);
}

/* lqer's numbers are true as well, and it does not alternate. */
static void lqer(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(96, 150, 64, 250);
    flrq_fit_options o = fit_defaults(4, 1, 64);
    o.method = FLRQ_METHOD_LQER;
    o.rank.rule = FLRQ_RANK_FIXED;
    o.rank.fixed = 8;
    o.clip.search = FLRQ_CLIP_NONE;
    o.epochs = 5;
    fitted f = fit_on(be, &o, &y, WITH_ALL);
    assert_int_equal(f.result.rank, 8);
    assert_int_equal(f.result.epochs, 0);
    double *e = difference(&y, &f);
    double tolerance = EPS32 * (150 + 12 / relative_error(&y, e, 0));
    CHECK_LE(fabs(f.result.error / relative_error(&y, e, 1) - 1), tolerance);
    CHECK_LE(fabs(f.result.weight_error / relative_error(&y, e, 0) - 1), tolerance);
    assert_true(f.result.error < f.result.error_nearest);
    free(e);
    drop_fit(&f);
    drop_layer(&y);
    flrq_backend_close(be);
}

/* The curve in the report belongs to the target and the kept factors. */
static void amax_curve_is_of_the_target(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(64, 96, 32, 260);
    for (int kind = 0; kind < 3; kind++) {
        flrq_fit_options o = fit_defaults(4, 1, 32);
        o.metric = FLRQ_METRIC_NONE;
        o.sketch.kind = (flrq_sketch_kind)kind;
        o.rank.rule = FLRQ_RANK_R1FLR_BEST;
        o.rank.extra = 4;
        o.epochs = 0;
        fitted f = fit_on(be, &o, &y, WITH_ALL);
        int64_t rank = f.result.rank;
        assert_true(rank > 0 && f.result.curve_terms >= rank);
        double most = 0, left = 0, moved = 0;
        for (int64_t i = 0; i < y.m; i++)
            for (int64_t j = 0; j < y.n; j++) {
                double size = 0;
                for (int64_t k = 0; k < rank; k++) size += fabs((double)f.l[i * rank + k] * f.r[k * y.n + j]);
                most = fmax(most, fabs((double)y.w[i * y.n + j]));
                left = fmax(left, fabs((double)y.w[i * y.n + j] - low_rank(&f, i, j)));
                moved = fmax(moved, size);
            }
        assert_true(f.result.amax[0] == (float)most);
        /* The curve is of the factors before they are rounded to fp16 (2^-11 each; 2^-25 for subnormals). */
        CHECK_LE(fabs(f.result.amax[rank] - left), 2.01 * 0x1p-11 * moved + (double)rank * 0x1p-24);
        double sigma[64] = {0}; /* this rule reads amax alone */
        assert_true(f.result.curve_terms <= 64);
        assert_int_equal(rank, flrq_rank_choose(&o.rank, y.m, y.n, f.result.amax, sigma, 1, f.result.curve_terms));
        drop_fit(&f);
    }
    drop_layer(&y);
    flrq_backend_close(be);
}

/* Caps, multiples and the error rule as they reach the fit. */
static void rank_rules_in_the_fit(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(96, 128, 48, 270);
    for (int rule = 0; rule <= FLRQ_RANK_ERROR; rule++)
        for (int kind = 0; kind < 2; kind++)
            for (int64_t multiple = 1; multiple <= 8; multiple += 7) {
                flrq_fit_options o = fit_defaults(4, 1, 32);
                o.rank.rule = (flrq_rank_rule)rule;
                o.rank.multiple = multiple;
                o.rank.fixed = 16;
                o.rank.extra = 2;
                o.rank.max_rank = 24;
                o.sketch.kind = (flrq_sketch_kind)kind;
                fitted f = fit_on(be, &o, &y, WITH_ALL);
                check_fit(&y, &o, &f, 1);
                assert_true(f.result.rank <= 24 && f.result.rank % multiple == 0);
                if (rule == FLRQ_RANK_FIXED) assert_int_equal(f.result.rank, 16);
                if (rule == FLRQ_RANK_ERROR) {
                    /* argmin of log2(error) + cost over the tried ranks, of which 0 is one. */
                    flrq_fit_options none = o;
                    none.rank.rule = FLRQ_RANK_FIXED;
                    none.rank.fixed = 0;
                    double cost = flrq_rank_cost(y.m, y.n) * (double)f.result.rank;
                    CHECK_LE(log2(f.result.error) + cost, log2(error_with(be, &none, &y)) + 1e-9);
                }
                drop_fit(&f);
                o.rank.max_rank = 0;
                o.rank.fixed = 0;
                f = fit_on(be, &o, &y, WITH_ALL);
                assert_int_equal(f.result.rank, 0);
                check_fit(&y, &o, &f, 1);
                drop_fit(&f);
            }
    drop_layer(&y);
    flrq_backend_close(be);
}

/* The error rule does as well as any of the fixed ranks that it tries first. */
static void error_rule_beats_what_it_tries(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    int between = 0;
    for (int c = 0; c < 3; c++) {
        layer y = make_layer(192, 256, 48, 275 + 10 * (uint64_t)c);
        double s[12]; /* a strong low-rank part: its leading terms are worth 0.146 bits each, its last ones are not */
        for (int k = 0; k < 12; k++) s[k] = 25 * pow(0.7 + 0.05 * c, k);
        float *strong = with_spectrum(y.m, y.n, s, 12, 290);
        for (int64_t i = 0; i < y.m * y.n; i++) y.w[i] += strong[i];
        free(strong);
        flrq_fit_options o = fit_defaults(3, 1, 32);
        o.sketch.kind = FLRQ_SKETCH_SVD; /* the same triplets whatever the cap */
        o.epochs = 0;
        o.rank.rule = FLRQ_RANK_ERROR;
        o.rank.extra = 4;
        o.rank.max_rank = 40;
        fitted f = fit_on(be, &o, &y, WITH_ALL);
        check_fit(&y, &o, &f, 1);
        double cost = flrq_rank_cost(y.m, y.n), score = log2(f.result.error) + cost * (double)f.result.rank;
        int64_t cap = flrq_fit_rank_cap(&o, y.m, y.n), rank = f.result.rank;
        assert_true(rank > 0 && rank < cap); /* inside the range, or the test says nothing */
        between += (rank & (rank - 1)) != 0;
        o.rank.rule = FLRQ_RANK_FIXED;
        for (o.rank.fixed = 0; o.rank.fixed <= cap; o.rank.fixed = o.rank.fixed ? 2 * o.rank.fixed : 1)
            CHECK_LE(score, log2(error_with(be, &o, &y)) + cost * (double)o.rank.fixed + 1e-6);
        drop_fit(&f);
        drop_layer(&y);
    }
    assert_true(between > 0); /* the search went on between the powers of two */
    flrq_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_of_the_paper),
        cmocka_unit_test(sizes_by_hand),
        cmocka_unit_test(every_scheme),
        cmocka_unit_test(clip_to_zero),
        cmocka_unit_test(keeps_the_best),
        cmocka_unit_test(stops_without_gain),
        cmocka_unit_test(alpha_by_hand),
        cmocka_unit_test(low_rank_of_the_right_target),
        cmocka_unit_test(lqer),
        cmocka_unit_test(amax_curve_is_of_the_target),
        cmocka_unit_test(rank_rules_in_the_fit),
        cmocka_unit_test(error_rule_beats_what_it_tries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
