/* fit.c - alternation of low rank and quantization, and what it needs: metrics, factors, the error. */
#include "quant/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/dtype.h"
#include "core/philox.h"

struct flrq_fit_space {
    flrq_sketch *sketch;
    flrq_codes codes;           /* of the present round; the best is kept in the caller's */
    float *d_l, *d_r;           /* of the present round */
    float *d_h, *d_scale;       /* [cols] clip weights and column scaling of the metric */
    float *host_h, *host_scale; /* [cols] */
    float *max_u, *max_v;       /* [width] largest of the columns of the present sketch; v over the metric */
    float *factor_l, *factor_r; /* [width] */
    float *amax, *best_amax;    /* [width + 1] */
    flrq_extent extent;
};

int64_t flrq_scheme_group(const flrq_scheme *scheme, int64_t cols) {
    return scheme->group > 0 ? scheme->group : cols;
}

int64_t flrq_scheme_groups(const flrq_scheme *scheme, int64_t cols) {
    int64_t group = flrq_scheme_group(scheme, cols);
    return (cols + group - 1) / group;
}

double flrq_scheme_bits(const flrq_scheme *scheme, int64_t rows, int64_t cols, int64_t rank) {
    double per_group = 16.0 + (scheme->symmetric ? 0 : scheme->bits);
    return scheme->bits + per_group * (double)flrq_scheme_groups(scheme, cols) / (double)cols +
           flrq_rank_cost(rows, cols) * (double)rank;
}

int64_t flrq_fit_rank_cap(const flrq_fit_options *options, int64_t rows, int64_t cols) {
    return options->method == FLRQ_METHOD_RTN ? 0 : flrq_rank_cap(&options->rank, rows, cols);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Scale cells of any matrix within the extent: full groups plus at most one tail (or whole-row) group per row. */
static size_t cells_max(const flrq_scheme *scheme, flrq_extent extent) {
    int64_t full = scheme->group > 0 ? extent.count / scheme->group : 0;
    return (size_t)(full + extent.rows);
}

static size_t codes_bytes_max(const flrq_scheme *scheme, flrq_extent extent) {
    return (size_t)extent.count + cells_max(scheme, extent) * (sizeof(float) + (scheme->symmetric ? 0 : 1));
}

size_t flrq_codes_bytes(const flrq_scheme *scheme, int64_t rows, int64_t cols) {
    return codes_bytes_max(scheme, (flrq_extent){rows, cols, rows * cols});
}

flrq_status flrq_codes_alloc(flrq_codes *codes, flrq_backend *be, const flrq_scheme *scheme, flrq_extent extent) {
    size_t cells = cells_max(scheme, extent);
    memset(codes, 0, sizeof *codes);
    FLRQ_TRY(be->alloc(be, (void **)&codes->code, (size_t)extent.count, "codes"));
    FLRQ_TRY(be->alloc(be, (void **)&codes->scale, cells * sizeof(float), "scales"));
    if (!scheme->symmetric) FLRQ_TRY(be->alloc(be, (void **)&codes->zero, cells, "zero points"));
    return FLRQ_OK;
}

void flrq_codes_release(flrq_codes *codes, flrq_backend *be) {
    be->release(be, codes->zero);
    be->release(be, codes->scale);
    be->release(be, codes->code);
    memset(codes, 0, sizeof *codes);
}

size_t flrq_fit_space_bytes(const flrq_fit_options *options, flrq_extent extent) {
    size_t m = (size_t)extent.rows, n = (size_t)extent.cols;
    size_t cap = (size_t)flrq_fit_rank_cap(options, extent.rows, extent.cols);
    size_t width = cap + (size_t)options->sketch.oversample;
    return flrq_sketch_bytes(&options->sketch, extent, (int64_t)cap) + codes_bytes_max(&options->scheme, extent) +
           sizeof(float) * ((cap + 1) * (m + n) + 4 * n + 6 * (width + 1));
}

size_t flrq_fit_space_host_bytes(const flrq_fit_options *options, flrq_extent extent) {
    size_t n = (size_t)extent.cols, cap = (size_t)flrq_fit_rank_cap(options, extent.rows, extent.cols);
    size_t width = cap + (size_t)options->sketch.oversample, square = width * width;
    return sizeof(float) * (2 * n + 6 * (width + 1) + square) +
           sizeof(double) * (square + width); /* the sketch's: a rotation, a Gram matrix, singular values */
}

flrq_status flrq_fit_space_new(flrq_fit_space **out, flrq_backend *be, const flrq_fit_options *options,
                               flrq_extent extent) {
    *out = NULL;
    flrq_fit_space *space = calloc(1, sizeof *space);
    if (!space) return flrq_fail_memory(sizeof *space, "the fit");
    flrq_status status = FLRQ_OK;
    size_t m = (size_t)extent.rows, n = (size_t)extent.cols;
    size_t cap = (size_t)flrq_fit_rank_cap(options, extent.rows, extent.cols);
    space->extent = extent;
    FLRQ_GOTO(flrq_sketch_new(&space->sketch, be, &options->sketch, extent, (int64_t)cap));
    size_t width = (size_t)space->sketch->capacity;
    FLRQ_GOTO(flrq_codes_alloc(&space->codes, be, &options->scheme, extent));
    FLRQ_GOTO(be->alloc(be, (void **)&space->d_l, (cap + 1) * m * sizeof(float), "left factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&space->d_r, (cap + 1) * n * sizeof(float), "right factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&space->d_h, n * sizeof(float), "clip weights"));
    FLRQ_GOTO(be->alloc(be, (void **)&space->d_scale, n * sizeof(float), "metric"));
    space->host_h = malloc(n * sizeof(float));
    space->host_scale = malloc(n * sizeof(float));
    float **const rows[] = {&space->max_u,    &space->max_v, &space->factor_l,
                            &space->factor_r, &space->amax,  &space->best_amax};
    int complete = space->host_h && space->host_scale;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(*rows[i] = malloc((width + 1) * sizeof(float)))) complete = 0;
    if (!complete) FLRQ_GOTO(flrq_fail_memory((2 * n + 6 * (width + 1)) * sizeof(float), "a fit"));
out:
    if (status != FLRQ_OK) {
        flrq_fit_space_free(space, be);
        return status;
    }
    *out = space;
    return FLRQ_OK;
}

void flrq_fit_space_free(flrq_fit_space *space, flrq_backend *be) {
    if (!space) return;
    free(space->best_amax);
    free(space->amax);
    free(space->factor_r);
    free(space->factor_l);
    free(space->max_v);
    free(space->max_u);
    free(space->host_scale);
    free(space->host_h);
    be->release(be, space->d_scale);
    be->release(be, space->d_h);
    be->release(be, space->d_r);
    be->release(be, space->d_l);
    flrq_codes_release(&space->codes, be);
    flrq_sketch_free(space->sketch, be);
    free(space);
}

/* Weights are kept above this fraction of their mean, so that a dead input channel neither divides by zero nor
 * blows its column of R out of the fp16 range. */
static const double floor_fraction = 1e-3;

/* Column scaling of the low-rank fit. none: 1. rms: sqrt(E[x^2]). alpha: Eq. 10-11, X^p / sqrt(max X * min X). */
static flrq_status metric_scale(float *scale, const flrq_fit_options *options, const flrq_input_stats *stats) {
    int64_t n = stats->n;
    if (options->metric == FLRQ_METRIC_RMS) {
        double mean = 0;
        for (int64_t j = 0; j < n; j++) mean += stats->square_sum[j];
        mean = sqrt(mean / (double)n);
        for (int64_t j = 0; j < n; j++) {
            double rms = mean > 0 ? sqrt(stats->square_sum[j]) / mean : 1;
            scale[j] = (float)fmax(rms, floor_fraction);
        }
        return FLRQ_OK;
    }
    double lowest = INFINITY, highest = 0, mean = 0;
    for (int64_t j = 0; j < n; j++) mean += stats->abs_sum[j] / (double)n;
    for (int64_t j = 0; j < n; j++) {
        double x = mean > 0 ? fmax(stats->abs_sum[j] / mean, floor_fraction) : 1;
        lowest = fmin(lowest, x), highest = fmax(highest, x);
        scale[j] = (float)x;
    }
    for (int64_t j = 0; j < n; j++) scale[j] = (float)(pow(scale[j], options->alpha_power) / sqrt(lowest * highest));
    return FLRQ_OK;
}

/* h_j = E[x_j^2], normalised to mean 1 (only ratios matter). */
static void clip_weights(float *h, const flrq_input_stats *stats) {
    double mean = 0;
    for (int64_t j = 0; j < stats->n; j++) mean += stats->square_sum[j] / (double)stats->n;
    for (int64_t j = 0; j < stats->n; j++) h[j] = mean > 0 ? (float)(stats->square_sum[j] / mean) : 1.0f;
}

static double ratio(double part, double whole) {
    return whole > 0 ? part / whole : part > 0 ? INFINITY : 0;
}

/* W - Wq - L R as an operand; NULL codes or rank 0 leave the part out. */
static flrq_operand error_operand(const flrq_operand *w, const flrq_codes *codes, const float *d_l, const float *d_r,
                                  int64_t rank) {
    flrq_operand error = *w;
    error.codes = codes, error.codes_sign = -1;
    error.d_l = d_l, error.d_r = d_r, error.rank = rank, error.lr_sign = -1;
    return error;
}

typedef struct fit {
    flrq_fit_space *space;
    flrq_backend *be;
    flrq_comm *comm;
    flrq_split split; /* the rows of this worker */
    const flrq_fit_options *options;
    flrq_sketch_options sketch;
    const flrq_operand *w;
    const flrq_input_stats *stats;
    const float *d_h;     /* NULL: unweighted */
    const float *d_scale; /* NULL: metric none */
    int64_t cap, rank;
    int64_t curve_terms;
    int warm, searched;
} fit;

/* ||A S||_F, or ||A||_F without a sketch: an estimate, whose products may be as coarse as those of the sketch. */
static flrq_status norm_of(const fit *f, double *out, const flrq_operand *a) {
    flrq_backend *be = f->be;
    if (f->stats && f->stats->d_sketch) {
        flrq_set_precision(be, f->options->sketch.precision);
        flrq_status status = flrq_split_sum_squares_mul(&f->split, out, a, f->stats->d_sketch, f->stats->sketch_cols);
        flrq_set_precision(be, FLRQ_PRECISION_FULL);
        FLRQ_TRY(status);
    } else
        FLRQ_TRY(flrq_split_sum_squares(&f->split, out, a));
    *out = sqrt(*out);
    return FLRQ_OK;
}

/* Largest elements of the columns of a sketch, of all rows of all workers. */
static flrq_status measure_columns(fit *f) {
    const flrq_sketch *sketch = f->space->sketch;
    flrq_backend *be = f->be;
    FLRQ_TRY(be->column_amax(be, f->space->max_v, sketch->d_v, sketch->width, f->d_scale, f->w->cols, sketch->terms));
    return flrq_split_column_amax(&f->split, f->space->max_u, sketch->d_u, sketch->width, sketch->terms);
}

/* Whether a column whose largest element is `most` stays finite in the storage type, which rounds monotonically. */
static flrq_status check_storable(const fit *f, const char *side, float most) {
    uint16_t bits;
    flrq_store(&bits, f->options->factor_dtype, 0, most);
    if (isfinite(flrq_load(&bits, f->options->factor_dtype, 0))) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_NUMERIC, "%s factor is not finite in 16 bits", side);
}

/* The own rows of L, and R, of the first `rank` triplets: u_i and v_i / scale, each pair balanced by a power of two so
 * that both stay in the fp16 range, then rounded to the storage type. */
static flrq_status make_factors(fit *f, int64_t rank) {
    flrq_fit_space *space = f->space;
    const flrq_sketch *sketch = space->sketch;
    flrq_backend *be = f->be;
    flrq_dtype dtype = f->options->factor_dtype;
    for (int64_t k = 0; k < rank; k++) {
        float u = space->max_u[k], v = space->max_v[k];
        float factor = u > 0 && v > 0 ? exp2f(rintf(0.5f * log2f(v / u))) : 1.0f;
        space->factor_l[k] = factor, space->factor_r[k] = 1 / factor;
        FLRQ_TRY(check_storable(f, "left", u * factor));
        FLRQ_TRY(check_storable(f, "right", v / factor));
    }
    flrq_range own = f->split.own;
    FLRQ_TRY(be->round_factor(be, space->d_l + own.first * rank, sketch->d_u + own.first * sketch->width, sketch->width,
                              NULL, space->factor_l, own.count, rank, 0, dtype));
    return be->round_factor(be, space->d_r, sketch->d_v, sketch->width, f->d_scale, space->factor_r, f->w->cols, rank,
                            1, dtype);
}

static flrq_status quantize(fit *f, flrq_codes *codes, int64_t rank, flrq_clip_stats *stats) {
    flrq_operand residual = error_operand(f->w, NULL, f->space->d_l, f->space->d_r, rank);
    return flrq_split_clip_quantize(&f->split, codes, &residual, f->d_h, &f->options->scheme, &f->options->clip, stats);
}

/* log2 of the error at rank r plus the bits that r costs, by doing it. */
static flrq_status try_rank(fit *f, int64_t r, double *score) {
    int64_t m = f->w->rows, n = f->w->cols;
    double error;
    FLRQ_TRY(make_factors(f, r));
    FLRQ_TRY(quantize(f, &f->space->codes, r, NULL));
    flrq_operand e = error_operand(f->w, &f->space->codes, f->space->d_l, f->space->d_r, r);
    FLRQ_TRY(norm_of(f, &error, &e));
    *score = (error > 0 ? log2(error) : -INFINITY) + flrq_rank_cost(m, n) * (double)r;
    return FLRQ_OK;
}

/* The best rank of 0, 1, 2, 4, ... cap, then of the midpoints on both sides of it until they are within an eighth:
 * about ten quantizations of the matrix, each far cheaper than its calibration. The score is nearly unimodal; a miss
 * costs little. */
static flrq_status search_rank(fit *f, int64_t terms) {
    int64_t step = f->options->rank.multiple, cap = terms - terms % step, best = 0, below = 0, above = 0;
    double best_score, score;
    FLRQ_TRY(try_rank(f, 0, &best_score));
    for (int64_t r = step, last = 0; last < cap; last = r, r = 2 * r < cap ? 2 * r : cap) {
        FLRQ_TRY(try_rank(f, r, &score));
        if (score < best_score)
            best_score = score, best = r, below = last, above = 0;
        else if (!above)
            above = r;
        if (r == cap) break;
    }
    if (!above) above = best;
    while (above - best > step && 8 * (above - best) > best && best > 0) {
        int64_t r = (best + above) / 2 / step * step;
        FLRQ_TRY(try_rank(f, r, &score));
        if (score < best_score)
            best_score = score, below = best, best = r;
        else
            above = r;
    }
    while (best - below > step && 8 * (best - below) > best) {
        int64_t r = (best + below + step) / 2 / step * step;
        if (r == best) break;
        FLRQ_TRY(try_rank(f, r, &score));
        if (score < best_score)
            best_score = score, best = r;
        else
            below = r;
    }
    f->rank = best;
    return FLRQ_OK;
}

/* The rank that a rule chooses from the curves of the present sketch, or that measured errors choose. */
static flrq_status choose_rank(fit *f, const flrq_operand *target) {
    const flrq_fit_options *o = f->options;
    flrq_sketch *sketch = f->space->sketch;
    double norm2;
    FLRQ_TRY(flrq_split_amax_curve(&f->split, f->space->amax, target, sketch->d_u, sketch->d_v, sketch->width));
    f->curve_terms = sketch->terms;
    if (o->rank.rule == FLRQ_RANK_ERROR) {
        f->searched = 1;
        return search_rank(f, sketch->terms);
    }
    FLRQ_TRY(flrq_split_sum_squares(&f->split, &norm2, target));
    f->rank =
        flrq_rank_choose(&o->rank, target->rows, target->cols, f->space->amax, sketch->sigma, norm2, sketch->terms);
    return FLRQ_OK;
}

/* Sketches T = (W - Wq) diag(s), or W diag(s) when codes is NULL; leaves rank, L and R in the space. A rank that was
 * found by measured errors stays: later rounds change the error by a few percent at most, and need no more terms. */
static flrq_status fit_low_rank(fit *f, const flrq_codes *codes) {
    flrq_operand target = error_operand(f->w, codes, NULL, NULL, 0);
    target.d_col_scale = f->d_scale;
    flrq_sketch *sketch = f->space->sketch;
    const flrq_rank_policy *greedy = f->options->rank.rule == FLRQ_RANK_R1FLR ? &f->options->rank : NULL;
    int64_t terms = f->searched ? f->rank : f->cap;
    FLRQ_TRY(flrq_sketch_run(sketch, f->be, f->comm, &f->sketch, &target, terms, f->warm, greedy));
    f->warm = 1;
    FLRQ_TRY(measure_columns(f));
    if (!f->searched)
        FLRQ_TRY(choose_rank(f, &target));
    else if (f->rank > sketch->terms)
        f->rank = sketch->terms;
    return make_factors(f, f->rank);
}

/* Copies the present round into the caller's buffers: it is the best so far. Own rows only, and R. */
static flrq_status keep(fit *f, flrq_codes *codes, float *d_l, float *d_r, flrq_fit_result *result,
                        const flrq_clip_stats *stats) {
    const flrq_codes *from = &f->space->codes;
    flrq_backend *be = f->be;
    size_t first = (size_t)f->split.own.first, rows = (size_t)f->split.own.count, groups = (size_t)from->n_groups;
    size_t m = (size_t)f->w->rows, n = (size_t)f->w->cols, r = (size_t)f->rank;
    FLRQ_TRY(be->copy(be, codes->code + first * n, from->code + first * n, rows * n));
    FLRQ_TRY(be->copy(be, codes->scale + first * groups, from->scale + first * groups, rows * groups * sizeof(float)));
    if (from->zero) FLRQ_TRY(be->copy(be, codes->zero + first * groups, from->zero + first * groups, rows * groups));
    if (r) {
        FLRQ_TRY(be->copy(be, d_l + first * r, f->space->d_l + first * r, rows * r * sizeof(float)));
        FLRQ_TRY(be->copy(be, d_r, f->space->d_r, n * r * sizeof(float)));
    }
    result->rank = f->rank;
    result->clip_ratio = stats->groups ? stats->ratio_sum / (double)stats->groups : 1;
    result->clipped = (double)stats->clipped / (double)(m * n);
    result->zero_groups = stats->zero_groups;
    result->curve_terms = f->curve_terms;
    memcpy(f->space->best_amax, f->space->amax, (size_t)(f->curve_terms + 1) * sizeof(float));
    return FLRQ_OK;
}

/* Sets the shape fields of a codes struct whose arrays are there. */
static void shape_codes(flrq_codes *codes, const flrq_scheme *scheme, int64_t rows, int64_t cols) {
    codes->rows = rows, codes->cols = cols;
    codes->group = flrq_scheme_group(scheme, cols);
    codes->n_groups = flrq_scheme_groups(scheme, cols);
    codes->bits = scheme->bits;
    codes->symmetric = scheme->symmetric;
}

/* Uploads the clip weights and the column scaling, as far as the statistics for them are there. */
static flrq_status prepare(fit *f) {
    const flrq_input_stats *stats = f->stats;
    const flrq_fit_options *o = f->options;
    flrq_fit_space *space = f->space;
    size_t bytes = (size_t)f->w->cols * sizeof(float);
    if (!stats) return FLRQ_OK;
    if (o->clip_weights_h && stats->square_sum) {
        clip_weights(space->host_h, stats);
        FLRQ_TRY(f->be->upload(f->be, space->d_h, space->host_h, bytes));
        f->d_h = space->d_h;
    }
    const double *sums = o->metric == FLRQ_METRIC_ALPHA ? stats->abs_sum : stats->square_sum;
    if (o->metric != FLRQ_METRIC_NONE && sums && f->cap > 0) {
        FLRQ_TRY(metric_scale(space->host_scale, o, stats));
        FLRQ_TRY(f->be->upload(f->be, space->d_scale, space->host_scale, bytes));
        f->d_scale = space->d_scale;
    }
    return FLRQ_OK;
}

static flrq_status nearest_error(fit *f, double norm, double *out) {
    const flrq_clip nearest = {.search = FLRQ_CLIP_NONE, .steps = 1, .min_ratio = 1};
    double error;
    FLRQ_TRY(flrq_split_clip_quantize(&f->split, &f->space->codes, f->w, NULL, &f->options->scheme, &nearest, NULL));
    flrq_operand e = error_operand(f->w, &f->space->codes, NULL, NULL, 0);
    FLRQ_TRY(norm_of(f, &error, &e));
    *out = ratio(error, norm);
    return FLRQ_OK;
}

/* One round's codes and factors are in the space: measure, and keep them if they are the best. */
static flrq_status judge(fit *f, double norm, const flrq_clip_stats *clip, flrq_codes *codes, float *d_l, float *d_r,
                         flrq_fit_result *result, int epoch) {
    double error;
    flrq_operand e = error_operand(f->w, &f->space->codes, f->space->d_l, f->space->d_r, f->rank);
    FLRQ_TRY(norm_of(f, &error, &e));
    error = ratio(error, norm);
    if (isnan(error))
        return flrq_fail(FLRQ_ERR_NUMERIC, "the error of the fit is not a number: weights or inputs overflow fp32");
    if (epoch == 0) result->error_start = error;
    if (epoch == 0 || error < result->error) {
        result->error = error;
        result->best_epoch = epoch;
        FLRQ_TRY(keep(f, codes, d_l, d_r, result, clip));
    }
    return FLRQ_OK;
}

flrq_status flrq_fit(flrq_fit_space *space, flrq_backend *be, flrq_comm *comm, const flrq_fit_options *options,
                     const char *name, const flrq_operand *w, const flrq_input_stats *stats, flrq_codes *codes,
                     float *d_l, float *d_r, flrq_fit_result *result) {
    double begin = now(), norm, weight_norm, weight_error;
    int64_t m = w->rows, n = w->cols;
    if (m > space->extent.rows || n > space->extent.cols || m * n > space->extent.count)
        return flrq_fail(FLRQ_ERR_INTERNAL, "fit of %lld x %lld exceeds its buffers", (long long)m, (long long)n);
    fit f = {.space = space,
             .be = be,
             .comm = comm,
             .options = options,
             .sketch = options->sketch,
             .w = w,
             .stats = stats,
             .cap = flrq_fit_rank_cap(options, m, n)};
    f.split = flrq_sketch_split(space->sketch, be, comm, m);
    f.sketch.key = flrq_philox_key(options->seed, name);
    memset(result, 0, sizeof *result);
    space->amax[0] = space->best_amax[0] = 0;
    shape_codes(&space->codes, &options->scheme, m, n);
    shape_codes(codes, &options->scheme, m, n);
    FLRQ_TRY(prepare(&f));
    FLRQ_TRY(norm_of(&f, &norm, w));
    FLRQ_TRY(nearest_error(&f, norm, &result->error_nearest));

    flrq_clip_stats clip = {0};
    int starts_with_rank = f.cap > 0 && options->method == FLRQ_METHOD_FLRQ && options->start == FLRQ_START_WEIGHT;
    if (starts_with_rank) FLRQ_TRY(fit_low_rank(&f, NULL));
    FLRQ_TRY(quantize(&f, &space->codes, f.rank, &clip));
    if (options->method == FLRQ_METHOD_LQER && f.cap > 0) FLRQ_TRY(fit_low_rank(&f, &space->codes));
    FLRQ_TRY(judge(&f, norm, &clip, codes, d_l, d_r, result, 0));

    int epochs = options->method == FLRQ_METHOD_FLRQ && f.cap > 0 ? options->epochs : 0, stale = 0;
    double reference = result->error;
    if (f.searched && f.rank == 0) epochs = 0; /* without a low-rank part a round repeats the one before */
    for (int epoch = 1; epoch <= epochs && stale < FLRQ_BLC_PATIENCE; epoch++) {
        FLRQ_TRY(fit_low_rank(&f, &space->codes));
        memset(&clip, 0, sizeof clip);
        FLRQ_TRY(quantize(&f, &space->codes, f.rank, &clip));
        FLRQ_TRY(judge(&f, norm, &clip, codes, d_l, d_r, result, epoch));
        result->epochs = epoch;
        if (result->error < reference * (1 - options->tolerance))
            reference = result->error, stale = 0;
        else
            stale++;
    }

    flrq_operand e = error_operand(w, codes, d_l, d_r, result->rank);
    FLRQ_TRY(flrq_split_sum_squares(&f.split, &weight_error, &e));
    FLRQ_TRY(flrq_split_sum_squares(&f.split, &weight_norm, w));
    result->weight_error = sqrt(ratio(weight_error, weight_norm));
    result->bits_per_weight = flrq_scheme_bits(&options->scheme, m, n, result->rank);
    result->amax = space->best_amax;
    result->seconds = now() - begin;
    return FLRQ_OK;
}
