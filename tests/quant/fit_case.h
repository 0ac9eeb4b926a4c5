/* fit_case.h - one fit in a test: a generated layer, the call, what came back on the host, and every number of it
 * recomputed.
 *
 * Include once per program. check_fit() holds whatever is true of any fit; errors are recomputed in double from codes,
 * scales, L and R. Refuses to take a reported number for granted.
 */
#ifndef FLRQ_TESTS_QUANT_FIT_CASE_H
#define FLRQ_TESTS_QUANT_FIT_CASE_H

#include "matrices.h"
#include "quant/fit.h"

/* ---- a layer and its inputs -------------------------------------------------------------------------------------- */

/* W [m, n] and inputs X [tokens, n]; the activation sketch is S = X^T itself, so that ||E S|| is the output error. */
typedef struct layer {
    int64_t m, n, tokens;
    float *w, *s;
    double *abs_sum, *square_sum;
} layer;

/* Sums over tokens from S [n, tokens], as Eq. 10 has them: |x_tj| over the token's mean |x|. */
static inline void layer_sums(layer *y) {
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
static inline layer make_layer(int64_t m, int64_t n, int64_t tokens, uint64_t key) {
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

static inline void drop_layer(layer *y) {
    free(y->w);
    free(y->s);
    free(y->abs_sum);
    free(y->square_sum);
}

/* ---- one fit, everything on the host ----------------------------------------------------------------------------- */

typedef struct fitted {
    flrq_fit_result result; /* amax owned */
    flrq_codes codes;       /* arrays on the host */
    float *l, *r;
} fitted;

static inline flrq_fit_options fit_defaults(int bits, int symmetric, int64_t group) {
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

static inline fitted fit_in(flrq_fit_space *space, flrq_backend *be, const flrq_fit_options *o, const layer *y,
                            int parts, const char *name) {
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

static inline fitted fit_on(flrq_backend *be, const flrq_fit_options *o, const layer *y, int parts) {
    flrq_fit_space *space = NULL;
    CHECK_OK(flrq_fit_space_new(&space, be, o, (flrq_extent){y->m, y->n, y->m * y->n}));
    fitted f = fit_in(space, be, o, y, parts, "layer");
    flrq_fit_space_free(space, be);
    return f;
}

static inline void drop_fit(fitted *f) {
    free(f->codes.code);
    free(f->codes.scale);
    free(f->codes.zero);
    free(f->l);
    free(f->r);
    free((float *)f->result.amax);
}

/* One fit, its reported error. */
static inline double error_with(flrq_backend *be, const flrq_fit_options *o, const layer *y) {
    fitted f = fit_on(be, o, y, WITH_ALL);
    double error = f.result.error;
    drop_fit(&f);
    return error;
}

/* ---- independent numbers ----------------------------------------------------------------------------------------- */

static inline double code_value(const flrq_codes *c, int64_t i, int64_t j) {
    int64_t g = i * c->n_groups + j / c->group;
    int zero = c->symmetric ? 1 << (c->bits - 1) : c->zero[g];
    return (double)c->scale[g] * (c->code[i * c->cols + j] - zero);
}

static inline double low_rank(const fitted *f, int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t k = 0; k < f->result.rank; k++)
        sum += (double)f->l[i * f->result.rank + k] * f->r[k * f->codes.cols + j];
    return sum;
}

/* W - What in double. */
static inline double *difference(const layer *y, const fitted *f) {
    double *e = doubles(y->m * y->n);
    for (int64_t i = 0; i < y->m; i++)
        for (int64_t j = 0; j < y->n; j++)
            e[i * y->n + j] = (double)y->w[i * y->n + j] - code_value(&f->codes, i, j) - low_rank(f, i, j);
    return e;
}

/* ||E S||_F, S = NULL: ||E||_F. */
static inline double output_norm(const double *e, int64_t m, int64_t n, const float *s, int64_t k) {
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

static inline double relative_error(const layer *y, const double *e, int with_sketch) {
    double *w = doubles(y->m * y->n);
    for (int64_t i = 0; i < y->m * y->n; i++) w[i] = y->w[i];
    const float *s = with_sketch ? y->s : NULL;
    double ratio = output_norm(e, y->m, y->n, s, y->tokens) / output_norm(w, y->m, y->n, s, y->tokens);
    free(w);
    return ratio;
}

/* The value of a stored 16-bit number. */
static inline int exact_in(flrq_dtype dtype, float value) {
    uint16_t bits;
    flrq_store(&bits, dtype, 0, value);
    return isfinite(value) && flrq_load(&bits, dtype, 0) == value;
}

/* Every statement that holds for any fit with clamped codes. */
static inline void check_fit(const layer *y, const flrq_fit_options *o, const fitted *f, int with_sketch) {
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

/* Equal to the last bit. */
static inline int same_fit(const fitted *a, const fitted *b) {
    size_t codes = (size_t)(a->codes.rows * a->codes.cols);
    size_t groups = (size_t)(a->codes.rows * a->codes.n_groups);
    return a->result.rank == b->result.rank && a->result.error == b->result.error &&
           a->result.weight_error == b->result.weight_error && !memcmp(a->codes.code, b->codes.code, codes) &&
           !memcmp(a->codes.scale, b->codes.scale, groups * sizeof(float)) &&
           (!a->codes.zero || !memcmp(a->codes.zero, b->codes.zero, groups)) &&
           !memcmp(a->l, b->l, (size_t)(a->codes.rows * a->result.rank) * sizeof *a->l) &&
           !memcmp(a->r, b->r, (size_t)(a->result.rank * a->codes.cols) * sizeof *a->r);
}

#endif
