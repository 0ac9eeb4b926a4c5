/* test_fit_hostile.c - fits of layers that break things: dead and deafening channels, zeros, single rows, any
 * magnitude; equal bytes whatever ran before; refused memory and failing ops.
 *
 * The last test holds the order of choices that a prototype in another language showed on a generated layer
 * with outliers (relative output errors), as inequalities.
 */
#include "fit_case.h"

/* ---- hostile layers ---------------------------------------------------------------------------------------------- */

/* Channels that never fire, one that fires 10000 times as strongly, none that fires, a single one. */
static void hostile_calibration(void **state) {
    enum { M = 40, N = 96 };
    flrq_backend *be = open_backend("cpu", 2);
    for (int c = 0; c < 4; c++)
        for (int metric = 0; metric < 3; metric++)
            for (int method = 0; method < 2; method++) {
                layer y = make_layer(M, N, 48, 280);
                for (int64_t j = 0; j < N; j++)
                    for (int64_t t = 0; t < y.tokens; t++) {
                        float *x = &y.s[j * y.tokens + t];
                        if (c == 0 && (j == 5 || (j >= 32 && j < 64))) *x = 0; /* one, and a whole group */
                        if (c == 1 && j == 7) *x *= 1e4f;
                        if (c == 2) *x = 0;
                        if (c == 3 && j != 9) *x = 0;
                    }
                layer_sums(&y);
                flrq_fit_options o = fit_defaults(4, 1, 32);
                o.metric = (flrq_metric)metric;
                o.method = (flrq_method)method;
                o.rank.rule = FLRQ_RANK_FIXED;
                o.rank.fixed = 6;
                o.epochs = 2;
                if (method == FLRQ_METHOD_LQER) o.clip.search = FLRQ_CLIP_NONE;
                fitted f = fit_on(be, &o, &y, WITH_ALL);
                assert_int_equal(first_nonfinite(f.l, M * f.result.rank), -1);
                assert_int_equal(first_nonfinite(f.r, f.result.rank * N), -1);
                assert_int_equal(first_nonfinite(f.codes.scale, M * 3), -1);
                if (c < 2 && method == FLRQ_METHOD_FLRQ) check_fit(&y, &o, &f, 1);
                if (c == 2) /* nothing was measured: no error, no NaN */
                    assert_true(f.result.error == 0 && f.result.error_nearest == 0 && f.result.error_start == 0);
                else
                    CHECK_LE(f.result.error, f.result.error_nearest * 1.001);
                /* What calibration did not see is still a weight: the clip search and the low rank may neglect it, but
                 * no division by its zero may blow it up. */
                double *e = difference(&y, &f);
                for (int64_t i = 0; i < M; i++)
                    for (int64_t j = 0; j < N; j++) {
                        double range = 0;
                        for (int64_t k = j / 32 * 32; k < j / 32 * 32 + 32; k++)
                            range = fmax(range, fabs((double)y.w[i * N + k]));
                        if (!(fabs(e[i * N + j]) <= 2 * range))
                            fail_msg("case %d metric %d method %d: %lld, %lld is off by %g in a group of range %g", c,
                                     metric, method, (long long)i, (long long)j, e[i * N + j], range);
                    }
                free(e);
                drop_fit(&f);
                drop_layer(&y);
            }
    flrq_backend_close(be);
}

/* Any of the statistics may be missing: a metric without its own is none, the other one is not taken for it. */
static void partial_calibration(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(40, 64, 24, 285);
    static const int parts_of[] = {0, WITH_ABS, WITH_SQUARES, WITH_SUMS, WITH_SKETCH, WITH_ALL};
    for (int metric = 0; metric < 3; metric++)
        for (int p = 0; p < 6; p++) {
            int parts = parts_of[p];
            flrq_fit_options o = fit_defaults(4, 1, 32), none;
            o.rank.rule = FLRQ_RANK_FIXED;
            o.metric = (flrq_metric)metric;
            fitted f = fit_on(be, &o, &y, parts);
            check_fit(&y, &o, &f, parts & WITH_SKETCH);
            none = o;
            none.metric = FLRQ_METRIC_NONE;
            fitted g = fit_on(be, &none, &y, parts);
            int known = (metric == FLRQ_METRIC_ALPHA && parts & WITH_ABS) ||
                        (metric == FLRQ_METRIC_RMS && parts & WITH_SQUARES);
            int same = !memcmp(f.r, g.r, (size_t)(f.result.rank * 64) * sizeof *f.r);
            if (same == known) fail_msg("metric %d with parts %d: same as none: %d", metric, parts, same);
            drop_fit(&g);
            drop_fit(&f);
        }
    drop_layer(&y);
    flrq_backend_close(be);
}

static void zero_weights(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    for (int rule = 0; rule <= FLRQ_RANK_ERROR; rule++)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            layer y = make_layer(24, 70, 16, 290);
            memset(y.w, 0, 24 * 70 * sizeof *y.w);
            flrq_fit_options o = fit_defaults(4, symmetric, 32);
            o.rank.rule = (flrq_rank_rule)rule;
            fitted f = fit_on(be, &o, &y, WITH_ALL);
            if (rule != FLRQ_RANK_FIXED) assert_int_equal(f.result.rank, 0);
            assert_true(f.result.error == 0 && f.result.error_nearest == 0 && f.result.weight_error == 0);
            assert_int_equal(f.result.zero_groups, 24 * 3);
            double *e = difference(&y, &f);
            for (int64_t i = 0; i < 24 * 70; i++) assert_true(e[i] == 0);
            for (int64_t g = 0; g < 24 * 3; g++) assert_true(f.codes.scale[g] == 1);
            free(e);
            drop_fit(&f);
            drop_layer(&y);
        }
    flrq_backend_close(be);
}

/* 1 x n, m x 1, one weight, narrow and tall. */
static void hostile_shapes(void **state) {
    static const int64_t shapes[][2] = {{1, 1}, {1, 200}, {300, 1}, {1030, 3}, {2, 33}, {3, 128}};
    flrq_backend *be = open_backend("cpu", 2);
    for (int c = 0; c < 6; c++)
        for (int symmetric = 0; symmetric < 2; symmetric++)
            for (int kind = 0; kind < 3; kind++) {
                layer y = make_layer(shapes[c][0], shapes[c][1], 8, 300 + (uint64_t)c);
                flrq_fit_options o = fit_defaults(4, symmetric, 32);
                o.rank.rule = FLRQ_RANK_FIXED;
                o.rank.fixed = 2;
                o.sketch.kind = (flrq_sketch_kind)kind;
                fitted f = fit_on(be, &o, &y, WITH_ALL);
                assert_true(f.result.rank <= y.m && f.result.rank <= y.n);
                assert_true(isfinite(f.result.error) && f.result.error <= f.result.error_start);
                double *e = difference(&y, &f);
                double error = relative_error(&y, e, 1), tiny = 1e-6; /* codes after a full-rank L R: rounding errors */
                if (error > tiny) check_fit(&y, &o, &f, 1);
                free(e);
                drop_fit(&f);
                drop_layer(&y);
            }
    flrq_backend_close(be);
}

/* W times powers of two, as far as fp16 scales and factors reach: finite, and as good. */
static void magnitudes(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(48, 64, 32, 310);
    flrq_fit_options o = fit_defaults(4, 1, 32);
    o.rank.rule = FLRQ_RANK_FIXED;
    double plain = error_with(be, &o, &y);
    static const int exponents[] = {-10, 10, 18, -40, -66};
    for (int c = 0; c < 5; c++) {
        layer z = make_layer(48, 64, 32, 310);
        for (int64_t i = 0; i < 48 * 64; i++) z.w[i] = ldexpf(z.w[i], exponents[c]);
        fitted f = fit_on(be, &o, &z, WITH_ALL);
        assert_int_equal(first_nonfinite(f.l, 48 * f.result.rank), -1);
        assert_int_equal(first_nonfinite(f.r, f.result.rank * 64), -1);
        /* |W| < 0.5: up to 2^18 the scales stay below 65280 and the factors, which share the singular values, too. */
        if (exponents[c] >= -10 && exponents[c] <= 18)
            CHECK_LE(fabs(f.result.error / plain - 1), 0.02); /* other roundings of the same numbers */
        assert_true(isfinite(f.result.error) && isfinite(f.result.weight_error) && isfinite(f.result.error_nearest));
        double *e = difference(&z, &f);
        CHECK_LE(fabs(f.result.weight_error / relative_error(&z, e, 0) - 1), 1e-3);
        free(e);
        drop_fit(&f);
        drop_layer(&z);
    }
    drop_layer(&y);
    flrq_backend_close(be);
}

/* ---- determinism, memory ----------------------------------------------------------------------------------------- */

static void same_bytes(void **state) {
    layer y = make_layer(1100, 72, 24, 320); /* three row chunks, a tail group */
    layer other = make_layer(30, 140, 16, 330);
    for (int kind = 0; kind < 2; kind++) {
        flrq_fit_options o = fit_defaults(3, kind, 32);
        o.sketch.kind = (flrq_sketch_kind)kind;
        o.rank.rule = FLRQ_RANK_FIXED;
        o.epochs = 3;
        fitted want = {0};
        static const int threads[] = {1, 2, 5};
        for (int t = 0; t < 3; t++) {
            flrq_backend *be = open_backend("cpu", threads[t]);
            flrq_fit_space *space = NULL;
            CHECK_OK(flrq_fit_space_new(&space, be, &o, (flrq_extent){1100, 140, 1100 * 72}));
            /* Whatever the buffers held before, another matrix or the same one. */
            if (t == 1) {
                fitted before = fit_in(space, be, &o, &other, WITH_ALL, "other");
                drop_fit(&before);
            }
            fitted f = fit_in(space, be, &o, &y, WITH_ALL, "layer");
            if (t == 0) {
                want = f;
            } else {
                assert_true(same_fit(&f, &want));
                drop_fit(&f);
            }
            f = fit_in(space, be, &o, &y, WITH_ALL, "layer");
            assert_true(same_fit(&f, &want));
            drop_fit(&f);
            f = fit_in(space, be, &o, &y, WITH_ALL, "layer 2"); /* other random numbers */
            assert_false(same_fit(&f, &want));
            drop_fit(&f);
            flrq_fit_options seeded = o;
            seeded.seed++;
            f = fit_in(space, be, &seeded, &y, WITH_ALL, "layer");
            assert_false(same_fit(&f, &want));
            drop_fit(&f);
            flrq_fit_space_free(space, be);
            flrq_backend_close(be);
        }
        drop_fit(&want);
    }
    drop_layer(&other);
    drop_layer(&y);
}

/* The scalar reference is another order of sums: another rounding of the same fit. */
static void backends_agree(void **state) {
    layer y = make_layer(64, 96, 32, 340);
    flrq_backend *fast = open_backend("cpu", 2), *ref = open_backend("cpu-ref", 1);
    for (int bits = 2; bits <= 4; bits++) {
        flrq_fit_options o = fit_defaults(bits, bits != 4, 32);
        o.clip.search = FLRQ_CLIP_GRID;
        o.epochs = 0;
        CHECK_LE(fabs(error_with(fast, &o, &y) / error_with(ref, &o, &y) - 1), 2e-3);
    }
    flrq_backend_close(fast);
    flrq_backend_close(ref);
    drop_layer(&y);
}

static void memory(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    for (int kind = 0; kind < 3; kind++) {
        flrq_fit_options o = fit_defaults(4, kind != 1, 32);
        o.sketch.kind = (flrq_sketch_kind)kind;
        flrq_extent extent = {60, 80, 60 * 70};
        flrq_fit_space *space = NULL;
        int64_t allow = 0;
        for (;; allow++) {
            watch_begin(be, allow);
            flrq_status status = flrq_fit_space_new(&space, be, &o, extent);
            watch_end(be);
            if (status == FLRQ_OK) break;
            assert_int_equal(status, FLRQ_ERR_MEMORY);
            assert_null(space);
            assert_int_equal(watched.live, 0);
        }
        assert_true(allow >= 4);
        /* What `plan` predicts from covers what is taken (and the copies of factors on the host). */
        size_t predicted = flrq_fit_space_bytes(&o, extent);
        CHECK_LE((double)watched.bytes, (double)predicted);
        flrq_fit_space_free(space, be);
    }
    flrq_fit_space_free(NULL, be);
    flrq_backend_close(be);
}

static flrq_status failing_clip(flrq_backend *be, flrq_codes *out, const flrq_operand *a, const float *d_h,
                                const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "clip_quantize refused by the test");
}

static flrq_status failing_norm(flrq_backend *be, double *sum, const flrq_operand *a, const float *d_s, int64_t k) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "sum_squares_mul refused by the test");
}

static flrq_status failing_mul(flrq_backend *be, float *d_y, const flrq_operand *a, const float *d_x, int64_t b) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "mul refused by the test");
}

static void failures_come_back(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(32, 64, 16, 350);
    flrq_fit_options o = fit_defaults(4, 1, 32);
    flrq_extent extent = {32, 64, 32 * 64};
    flrq_fit_space *space = NULL;
    CHECK_OK(flrq_fit_space_new(&space, be, &o, extent));
    int64_t cap = flrq_fit_rank_cap(&o, 32, 64);
    float *d_w = to_device(be, y.w, 32 * 64 * sizeof *d_w), *d_s = to_device(be, y.s, 64 * 16 * sizeof *d_s);
    float *d_l = to_device(be, NULL, (size_t)(32 * cap) * sizeof *d_l);
    float *d_r = to_device(be, NULL, (size_t)(64 * cap) * sizeof *d_r);
    flrq_operand w = dense_operand(d_w, 32, 64);
    flrq_input_stats stats = {64, 16, y.abs_sum, y.square_sum, d_s, 16};
    flrq_codes codes = {0};
    flrq_fit_result result;
    CHECK_OK(flrq_codes_alloc(&codes, be, &o.scheme, extent));
    flrq_backend saved = *be;
    for (int op = 0; op < 3; op++) {
        static const char *const texts[] = {"clip_quantize refused", "sum_squares_mul refused", "mul refused"};
        if (op == 0) be->clip_quantize = failing_clip;
        if (op == 1) be->sum_squares_mul = failing_norm;
        if (op == 2) be->mul = failing_mul;
        CHECK_FAILS(flrq_fit(space, be, flrq_comm_self(), &o, "x", &w, &stats, &codes, d_l, d_r, &result),
                    FLRQ_ERR_UNSUPPORTED, texts[op]);
        *be = saved;
    }
    CHECK_OK(flrq_fit(space, be, flrq_comm_self(), &o, "x", &w, &stats, &codes, d_l, d_r, &result));
    flrq_codes_release(&codes, be);
    flrq_fit_space_free(space, be);
    be->release(be, d_w);
    be->release(be, d_s);
    be->release(be, d_l);
    be->release(be, d_r);
    drop_layer(&y);
    flrq_backend_close(be);
}

/* ---- the order that the prototype showed ------------------------------------------------------------------------- */

static void prototype_order(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    layer y = make_layer(512, 512, 96, 400);
    for (int bits = 2; bits <= 4; bits++) {
        flrq_fit_options o = fit_defaults(bits, 1, 128);
        o.rank.rule = FLRQ_RANK_FIXED;
        o.rank.fixed = 0;
        o.epochs = 0;
        o.clip.search = FLRQ_CLIP_NONE;
        double nearest = error_with(be, &o, &y);
        o.clip.search = FLRQ_CLIP_GRID;
        o.clip.steps = 40;
        o.clip.min_ratio = 0.2f;
        o.clip.signed_scale = 0;
        double by_h = error_with(be, &o, &y);
        o.clip_weights_h = 0;
        double plain = error_with(be, &o, &y);
        o.clip_weights_h = 1;
        o.scheme.grid = FLRQ_GRID_MIRROR;
        double mirror = error_with(be, &o, &y);
        o.scheme.grid = FLRQ_GRID_FULL;
        o.clip.signed_scale = 1;
        double with_sign = error_with(be, &o, &y);
        o.scheme.symmetric = 0;
        double asymmetric = error_with(be, &o, &y);
        o.scheme.symmetric = 1;
        o.scheme.group = 64;
        double small_groups = error_with(be, &o, &y);
        o.scheme.group = 128;
        o.clip.search = FLRQ_CLIP_FAST;
        double fast = error_with(be, &o, &y);
        o.rank.fixed = 8;
        o.start = FLRQ_START_ERROR;
        o.method = FLRQ_METHOD_LQER;
        double afterwards = error_with(be, &o, &y);
        o.method = FLRQ_METHOD_FLRQ;
        o.epochs = 10;
        o.tolerance = 0;
        double alternated = error_with(be, &o, &y);
        o.start = FLRQ_START_WEIGHT;
        double from_weight = error_with(be, &o, &y);
        o.metric = FLRQ_METRIC_ALPHA;
        double alpha = error_with(be, &o, &y);
        print_message("%d bits: nearest %.4f plain %.4f h %.4f mirror %.4f signed %.4f fast %.4f asym %.4f g64 %.4f "
                      "rank 8: after %.4f alternated %.4f from W %.4f alpha %.4f\n",
                      bits, nearest, plain, by_h, mirror, with_sign, fast, asymmetric, small_groups, afterwards,
                      alternated, from_weight, alpha);
        assert_true(plain < nearest);
        assert_true(by_h < plain);
        assert_true(by_h < mirror);
        assert_true(with_sign <= by_h);
        assert_true(asymmetric < by_h);
        assert_true(small_groups < with_sign);
        CHECK_LE(fast,
                 with_sign * 1.01); /* 0.1 % of the sum h e^2 that is searched; the output error has cross terms */
        assert_true(afterwards < with_sign);
        assert_true(alternated < afterwards);
        assert_true(from_weight < afterwards);
        assert_true(from_weight < alpha);
    }
    drop_layer(&y);
    flrq_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_calibration), cmocka_unit_test(partial_calibration),
        cmocka_unit_test(zero_weights),        cmocka_unit_test(hostile_shapes),
        cmocka_unit_test(magnitudes),          cmocka_unit_test(same_bytes),
        cmocka_unit_test(backends_agree),      cmocka_unit_test(memory),
        cmocka_unit_test(failures_come_back),  cmocka_unit_test(prototype_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
