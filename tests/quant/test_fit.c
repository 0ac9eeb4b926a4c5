/* test_fit.c - the fit of one matrix: what it returns is what it says, in every scheme, and the methods are the
 * published ones.
 *
 * Errors are recomputed here in double from the codes, scales, L and R that come back; low-rank parts are compared with
 * LAPACK's double SVD of the target that the paper's equations name. The last part holds the order of choices that a
 * prototype in another language showed on a generated layer.
 */
#include <lapacke.h>
#include "matrices.h"
#include "quant/fit.h"

/* ---- a layer and its inputs ----------------------------------------------------------------------------------------
 */

/* W [m, n] and inputs X [tokens, n]; the activation sketch is S = X^T itself, so that ||E S|| is the output error. */
typedef struct layer {
    int64_t m, n, tokens;
    float *w, *s;
    double *abs_sum, *square_sum;
} layer;

/* Sums over tokens from S [n, tokens], as Eq. 10 has them: |x_tj| over the token's mean |x|. */
static void layer_sums(layer *y) {
    for (int64_t j = 0; j < y->n; j++) y->abs_sum[j] = y->square_sum[j] = 0;
    for (int64_t t = 0; t < y->tokens; t++) {
        double mean = 0;
        for (int64_t j = 0; j < y->n; j++) mean += fabs((double)y->s[j * y->tokens + t]) / (double)y->n;
        for (int64_t j = 0; j < y->n; j++) {
            double x = y->s[j * y->tokens + t];
            y->abs_sum[j] += mean > 0 ? fabs(x) / mean : 0;
            y->square_sum[j] += x * x;
        }
    }
}

/* Power-law spectrum on a noise floor, every 128th column four times larger; inputs with four common factors and
 * outlier channels 15 times larger. */
static layer make_layer(int64_t m, int64_t n, int64_t tokens, uint64_t key) {
    enum { STRUCTURE = 24, FACTORS = 4 };
    layer y = {m, n, tokens, NULL, floats(n * tokens), doubles(n), doubles(n)};
    double s[STRUCTURE];
    int64_t full = m < n ? m : n, terms = full < STRUCTURE ? full : STRUCTURE;
    for (int64_t k = 0; k < terms; k++) s[k] = 0.02 * sqrt((double)(m * n)) * 0.6 * pow((double)k + 1, -0.8);
    y.w = with_spectrum(m, n, s, terms, key);
    float *noise = normals(m * n, 0.02, key + 1), *z = normals(n * tokens, 1, key + 2);
    float *factor = normals(FACTORS * tokens, 1, key + 3), *load = normals(n * FACTORS, 0.7, key + 4);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            y.w[i * n + j] = (y.w[i * n + j] + noise[i * n + j]) * (j % 128 == 50 ? 4.0f : 1.0f);
    for (int64_t j = 0; j < n; j++)
        for (int64_t t = 0; t < tokens; t++) {
            double x = z[j * tokens + t];
            for (int64_t f = 0; f < FACTORS; f++) x += (double)load[j * FACTORS + f] * factor[f * tokens + t];
            y.s[j * tokens + t] = (float)(x * (j % 97 == 11 ? 15 : 1));
        }
    layer_sums(&y);
    free(load);
    free(factor);
    free(z);
    free(noise);
    return y;
}

static void drop_layer(layer *y) {
    free(y->w);
    free(y->s);
    free(y->abs_sum);
    free(y->square_sum);
}

/* ---- one fit, everything on the host --------------------------------------------------------------------------------
 */

typedef struct fitted {
    flrq_fit_result result; /* amax owned */
    flrq_codes codes;       /* arrays on the host */
    float *l, *r;
} fitted;

static flrq_fit_options fit_defaults(int bits, int symmetric, int64_t group) {
    return (flrq_fit_options){
        .method = FLRQ_METHOD_FLRQ,
        .scheme = {.bits = bits, .symmetric = symmetric, .grid = FLRQ_GRID_FULL, .group = group},
        .clip = {.search = FLRQ_CLIP_FAST, .mode = FLRQ_CLIP_CLAMP, .steps = 20, .min_ratio = 0.4f, .signed_scale = 1},
        .clip_weights_h = 1,
        .sketch = {.kind = FLRQ_SKETCH_BLOCK, .power_iterations = 2, .oversample = 8},
        .rank = {.rule = FLRQ_RANK_ENERGY, .fixed = 4, .max_rank = 64, .multiple = 1, .extra = 0.5, .bits = bits},
        .metric = FLRQ_METRIC_RMS,
        .alpha_power = 2.5,
        .start = FLRQ_START_WEIGHT,
        .epochs = 1,
        .tolerance = 0.001,
        .factor_dtype = FLRQ_F16,
        .seed = 3,
    };
}

/* Which statistics a fit is given. */
enum { WITH_ABS = 1, WITH_SQUARES = 2, WITH_SUMS = 3, WITH_SKETCH = 4, WITH_ALL = 7 };

static fitted fit_in(flrq_fit_space *space, flrq_backend *be, const flrq_fit_options *o, const layer *y, int parts,
                     const char *name) {
    int64_t m = y->m, n = y->n, cap = flrq_fit_rank_cap(o, m, n);
    fitted f = {0};
    flrq_codes codes = {0};
    CHECK_OK(flrq_codes_alloc(&codes, be, &o->scheme, (flrq_extent){m, n, m * n}));
    float *d_w = to_device(be, y->w, (size_t)(m * n) * sizeof *d_w);
    float *d_l = to_device(be, NULL, (size_t)(m * cap) * sizeof *d_l);
    float *d_r = to_device(be, NULL, (size_t)(cap * n) * sizeof *d_r);
    float *d_s = parts & WITH_SKETCH ? to_device(be, y->s, (size_t)(n * y->tokens) * sizeof *d_s) : NULL;
    flrq_operand w = dense_operand(d_w, m, n);
    flrq_input_stats stats = {.n = n,
                              .tokens = (double)y->tokens,
                              .abs_sum = parts & WITH_ABS ? y->abs_sum : NULL,
                              .square_sum = parts & WITH_SQUARES ? y->square_sum : NULL,
                              .d_sketch = d_s,
                              .sketch_cols = d_s ? y->tokens : 0};
    watch_begin(be, 0); /* a fit allocates nothing */
    CHECK_OK(flrq_fit(space, be, flrq_comm_self(), o, name, &w, parts ? &stats : NULL, &codes, d_l, d_r, &f.result));
    watch_end(be);
    float *w_after = to_host(be, d_w, (size_t)(m * n) * sizeof *d_w);
    assert_memory_equal(w_after, y->w, (size_t)(m * n) * sizeof *d_w);
    free(w_after);
    assert_true(f.result.rank >= 0 && f.result.rank <= cap);
    f.codes = codes;
    f.codes.code = to_host(be, codes.code, (size_t)(m * n));
    f.codes.scale = to_host(be, codes.scale, (size_t)(m * codes.n_groups) * sizeof(float));
    f.codes.zero = o->scheme.symmetric ? NULL : to_host(be, codes.zero, (size_t)(m * codes.n_groups));
    f.l = to_host(be, d_l, (size_t)(m * f.result.rank) * sizeof *d_l);
    f.r = to_host(be, d_r, (size_t)(f.result.rank * n) * sizeof *d_r);
    float *amax = floats(f.result.curve_terms + 1);
    if (f.result.amax) memcpy(amax, f.result.amax, (size_t)(f.result.curve_terms + 1) * sizeof *amax);
    f.result.amax = amax;
    flrq_codes_release(&codes, be);
    be->release(be, d_w);
    be->release(be, d_l);
    be->release(be, d_r);
    be->release(be, d_s);
    return f;
}

static fitted fit_on(flrq_backend *be, const flrq_fit_options *o, const layer *y, int parts) {
    flrq_fit_space *space = NULL;
    CHECK_OK(flrq_fit_space_new(&space, be, o, (flrq_extent){y->m, y->n, y->m * y->n}));
    fitted f = fit_in(space, be, o, y, parts, "layer");
    flrq_fit_space_free(space, be);
    return f;
}

static void drop_fit(fitted *f) {
    free(f->codes.code);
    free(f->codes.scale);
    free(f->codes.zero);
    free(f->l);
    free(f->r);
    free((float *)f->result.amax);
}

/* One fit, its reported error. */
static double error_with(flrq_backend *be, const flrq_fit_options *o, const layer *y) {
    fitted f = fit_on(be, o, y, WITH_ALL);
    double error = f.result.error;
    drop_fit(&f);
    return error;
}

/* ---- independent numbers -------------------------------------------------------------------------------------------
 */

static double code_value(const flrq_codes *c, int64_t i, int64_t j) {
    int64_t g = i * c->n_groups + j / c->group;
    int zero = c->symmetric ? 1 << (c->bits - 1) : c->zero[g];
    return (double)c->scale[g] * (c->code[i * c->cols + j] - zero);
}

static double low_rank(const fitted *f, int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t k = 0; k < f->result.rank; k++)
        sum += (double)f->l[i * f->result.rank + k] * f->r[k * f->codes.cols + j];
    return sum;
}

/* W - What in double. */
static double *difference(const layer *y, const fitted *f) {
    double *e = doubles(y->m * y->n);
    for (int64_t i = 0; i < y->m; i++)
        for (int64_t j = 0; j < y->n; j++)
            e[i * y->n + j] = (double)y->w[i * y->n + j] - code_value(&f->codes, i, j) - low_rank(f, i, j);
    return e;
}

/* ||E S||_F, S = NULL: ||E||_F. */
static double output_norm(const double *e, int64_t m, int64_t n, const float *s, int64_t k) {
    double sum = 0, *row = doubles(k);
    for (int64_t i = 0; i < m; i++) {
        memset(row, 0, (size_t)k * sizeof *row);
        for (int64_t j = 0; j < n; j++) {
            if (!s) sum += e[i * n + j] * e[i * n + j];
            for (int64_t t = 0; s && t < k; t++) row[t] += e[i * n + j] * s[j * k + t];
        }
        for (int64_t t = 0; s && t < k; t++) sum += row[t] * row[t];
    }
    free(row);
    return sqrt(sum);
}

static double relative_error(const layer *y, const double *e, int with_sketch) {
    double *w = doubles(y->m * y->n);
    for (int64_t i = 0; i < y->m * y->n; i++) w[i] = y->w[i];
    const float *s = with_sketch ? y->s : NULL;
    double ratio = output_norm(e, y->m, y->n, s, y->tokens) / output_norm(w, y->m, y->n, s, y->tokens);
    free(w);
    return ratio;
}

/* The value of a stored 16-bit number. */
static int exact_in(flrq_dtype dtype, float value) {
    uint16_t bits;
    flrq_store(&bits, dtype, 0, value);
    return isfinite(value) && flrq_load(&bits, dtype, 0) == value;
}

/* Every statement that holds for any fit with clamped codes. */
static void check_fit(const layer *y, const flrq_fit_options *o, const fitted *f, int with_sketch) {
    const flrq_codes *c = &f->codes;
    const flrq_fit_result *res = &f->result;
    int64_t m = y->m, n = y->n, rank = res->rank, group = o->scheme.group ? o->scheme.group : n;
    int top = (1 << o->scheme.bits) - 1, bottom = o->scheme.symmetric && o->scheme.grid == FLRQ_GRID_MIRROR ? 1 : 0;
    assert_int_equal(c->rows, m);
    assert_int_equal(c->cols, n);
    assert_int_equal(c->n_groups, (n + group - 1) / group);
    assert_int_equal(c->group, group);
    assert_int_equal(c->bits, o->scheme.bits);
    assert_int_equal(c->symmetric, o->scheme.symmetric);
    for (int64_t g = 0; g < m * c->n_groups; g++) {
        assert_true(c->scale[g] != 0 && exact_in(FLRQ_F16, c->scale[g]) && exact_in(FLRQ_BF16, c->scale[g]));
        if (c->zero) assert_true(c->zero[g] <= top);
    }
    for (int64_t i = 0; i < m * rank; i++) assert_true(exact_in(o->factor_dtype, f->l[i]));
    for (int64_t i = 0; i < rank * n; i++) assert_true(exact_in(o->factor_dtype, f->r[i]));
    double *e = difference(y, f);
    /* The codes are the nearest for their scale. The fit rounds w - L R in fp32: rank + 2 roundings of numbers up to
     * |w| + |LR|; a tie within that may go either way. */
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int code = c->code[i * n + j];
            if (code > top || code < bottom) fail_msg("code %d at %lld, %lld", code, (long long)i, (long long)j);
            if (o->clip.mode != FLRQ_CLIP_CLAMP) continue;
            double scale = fabs((double)c->scale[i * c->n_groups + j / c->group]), off = e[i * n + j];
            double sign = c->scale[i * c->n_groups + j / c->group] < 0 ? -1 : 1;
            double size = fabs((double)y->w[i * n + j]);
            for (int64_t k = 0; k < rank; k++) size += fabs((double)f->l[i * rank + k] * f->r[k * n + j]);
            double slack = (double)(rank + 4) * EPS32 * (size + scale * top);
            int up = sign * off > 0; /* a larger code would be nearer */
            if (up ? code < top : code > bottom)
                if (!(fabs(off) <= 0.5 * scale + slack))
                    fail_msg("%lld, %lld: code %d leaves %g at scale %g", (long long)i, (long long)j, code, off, scale);
        }
    /* Reported errors. E is formed in fp32 with rank + 4 roundings relative to W, 1 / error times larger relative to
     * E; the product with S has n terms, whose roundings add up to n EPS32 at the very worst. */
    double error = relative_error(y, e, with_sketch), plain = relative_error(y, e, 0);
    double tolerance = EPS32 * ((double)n + (double)(rank + 4) / fmin(plain, error));
    CHECK_LE(fabs(res->error / error - 1), tolerance);
    CHECK_LE(fabs(res->weight_error / plain - 1), tolerance);
    free(e);
    double bits = o->scheme.bits +
                  (16.0 + (o->scheme.symmetric ? 0 : o->scheme.bits)) * (double)c->n_groups / (double)n +
                  16.0 * (double)rank * (double)(m + n) / ((double)m * (double)n);
    CHECK_LE(fabs(res->bits_per_weight - bits), 1e-12);
    CHECK_LE(fabs(flrq_scheme_bits(&o->scheme, m, n, rank) - bits), 1e-12);
    assert_true(res->error <= res->error_start);
    assert_true(res->best_epoch >= 0 && res->best_epoch <= res->epochs && res->epochs <= o->epochs);
    if (res->best_epoch == 0) assert_true(res->error == res->error_start);
    assert_true(res->clipped >= 0 && res->clipped <= 1);
    assert_true(res->clip_ratio > 0 && res->clip_ratio < 1.5); /* FAST also looks a little above 1 */
    assert_true(res->seconds >= 0);
}

/* ---- sizes and bits ------------------------------------------------------------------------------------------------
 */

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

/* ---- every scheme --------------------------------------------------------------------------------------------------
 */

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

/* ---- alternation ---------------------------------------------------------------------------------------------------
 */

static int same_fit(const fitted *a, const fitted *b) {
    size_t codes = (size_t)(a->codes.rows * a->codes.cols);
    size_t groups = (size_t)(a->codes.rows * a->codes.n_groups);
    return a->result.rank == b->result.rank && a->result.error == b->result.error &&
           a->result.weight_error == b->result.weight_error && !memcmp(a->codes.code, b->codes.code, codes) &&
           !memcmp(a->codes.scale, b->codes.scale, groups * sizeof(float)) &&
           (!a->codes.zero || !memcmp(a->codes.zero, b->codes.zero, groups)) &&
           !memcmp(a->l, b->l, (size_t)(a->codes.rows * a->result.rank) * sizeof *a->l) &&
           !memcmp(a->r, b->r, (size_t)(a->result.rank * a->codes.cols) * sizeof *a->r);
}

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

/* ---- metrics and methods against their equations --------------------------------------------------------------------
 */

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

/* || (L R - want) diag(s) ||_F against rounding of L and R to 11 bits: half a unit, 2^-11, of each element, so the
 * product of column k moves by 2 * 2^-11 |l_k| |r_k s| (plus 2^-22). */
static void check_low_rank(const fitted *f, const double *want, const double *s, double tolerance) {
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
        tolerance += 2.001 * 0x1p-11 * sqrt(ll * rr);
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
    check_low_rank(&f, best, exact, tolerance + 1e-5); /* six printed digits above */
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
            check_low_rank(&f, best, s, tolerance);
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
        assert_int_equal(rank, flrq_rank_choose(&o.rank, y.m, y.n, f.result.amax, NULL, 1, f.result.curve_terms));
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

/* ---- hostile layers
 * -------------------------------------------------------------------------------------------------- */

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

/* ---- determinism, memory --------------------------------------------------------------------------------------------
 */

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

/* ---- the order that the prototype showed
 * ------------------------------------------------------------------------------ */

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
        cmocka_unit_test(hostile_calibration),
        cmocka_unit_test(partial_calibration),
        cmocka_unit_test(zero_weights),
        cmocka_unit_test(hostile_shapes),
        cmocka_unit_test(magnitudes),
        cmocka_unit_test(same_bytes),
        cmocka_unit_test(backends_agree),
        cmocka_unit_test(memory),
        cmocka_unit_test(failures_come_back),
        cmocka_unit_test(prototype_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
