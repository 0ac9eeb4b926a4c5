/* bench_sketch.c - seconds, residuals and ranks of every sketch, side by side in one run.
 *
 * flrq's own sketches read the matrix as quantize does, as stored and with the column scale on the fly; the library's
 * SVDs get it as fp32, which is not counted. Residuals are measured for every method in the same way, by forming
 * A - L R; the optimum is the tail of the singular values of an exact SVD when one is among the methods. Times are
 * medians over runs after one warm-up; a method stops repeating once it has used time_per_case seconds, and the row
 * says how many runs it had. What the device lacks or has no memory for, and what would take too long without --full,
 * is a row that says so.
 *
 * What quantize would make of a sketch is asked of each method's triplets of the largest rank: the curve of largest
 * residuals, and the ranks that the paper's rule and its best point choose from it. They should agree.
 */
#include "pipeline/bench_sketch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/philox.h"
#include "io/npy.h"
#include "pipeline/bench_matrices.h"

enum { MAX_RANKS = 16, MAX_RANK = 4096, MAX_RUNS = 1000 };
static const double time_per_case = 20, long_run = 5, flop_limit = 5e12;

/* A ~ sum_i u_i v_i^T in host memory, v with the singular values. */
typedef struct triplets {
    int64_t count;
    float *u; /* [rows, count] */
    float *v; /* [cols, count] */
    double *sigma;
} triplets;

/* What a method did at one rank. */
typedef struct outcome {
    flrq_bench_spread seconds;
    double residual;
    const char *status; /* "ok", or why there are no numbers */
} outcome;

/* What the rules make of a method's triplets. */
typedef struct choice {
    float *amax; /* [terms + 1]; NULL: the method has none */
    int64_t terms, r1flr, best, cap;
    const char *cap_from;
    bool capped;
} choice;

typedef struct bench {
    const flrq_config *config;
    flrq_reporter *reporter;
    flrq_backend *be;
    flrq_device_info device;
    flrq_precision precision; /* of the power iterations of the block sketch */
    int64_t ranks[MAX_RANKS]; /* ascending */
    int n_ranks;
    bool wanted[FLRQ_BENCH_METHODS];
    flrq_bench_sources sources;
    /* the present matrix */
    const flrq_bench_source *source;
    flrq_bench_loaded loaded;
    char *dump; /* name of its file, NULL without --dump */
    int64_t rows, cols, full;
    double norm2;
    /* results */
    flrq_bench_files files;
    json_t *result, *matrices, *table, *choices, *curves; /* the arrays are in the result */
} bench;

static flrq_status stopped(void) {
    return flrq_stop_requested()
               ? flrq_fail(FLRQ_STOPPED, "stopped; with -o DIR the tables of the matrices before this one are kept")
               : FLRQ_OK;
}

static void triplets_free(triplets *t) {
    free(t->u);
    free(t->v);
    free(t->sigma);
    *t = (triplets){0};
}

static flrq_status triplets_new(triplets *t, const bench *b, int64_t count) {
    size_t bytes = (size_t)count * sizeof(float);
    *t = (triplets){count, malloc((size_t)b->rows * bytes), malloc((size_t)b->cols * bytes),
                    malloc((size_t)count * sizeof *t->sigma)};
    if (t->u && t->v && t->sigma) return FLRQ_OK;
    triplets_free(t);
    return flrq_fail_memory((size_t)(b->rows + b->cols) * bytes, "singular vectors");
}

/* ---- timing ------------------------------------------------------------------------------------------------------ */

typedef struct stopwatch {
    double seconds[MAX_RUNS], total;
    int runs, calls;
} stopwatch;

/* Counts a run; false when there have been enough. The first warms up, unless it took so long that nobody would
 * notice. */
static bool lap(stopwatch *w, double seconds, int64_t repeats) {
    w->total += seconds;
    if (w->calls++ > 0 || seconds > long_run) w->seconds[w->runs++] = seconds;
    return w->runs < repeats && w->runs < MAX_RUNS && (w->runs == 0 || w->total <= time_per_case);
}

/* ---- flrq's sketches --------------------------------------------------------------------------------------------- */

static flrq_status sketch_triplets(bench *b, const flrq_sketch *s, int64_t rank, triplets *out) {
    size_t rows = (size_t)b->rows, cols = (size_t)b->cols, width = (size_t)s->width, used = (size_t)rank;
    size_t longer = rows > cols ? rows : cols;
    float *wide = malloc(longer * width * sizeof *wide);
    flrq_status status = FLRQ_OK;
    if (!wide) return flrq_fail_memory(longer * width * sizeof *wide, "singular vectors");
    FLRQ_GOTO(triplets_new(out, b, rank));
    FLRQ_GOTO(b->be->download(b->be, wide, s->d_u, rows * width * sizeof *wide));
    for (size_t i = 0; i < rows; i++) memcpy(out->u + i * used, wide + i * width, used * sizeof *wide);
    FLRQ_GOTO(b->be->download(b->be, wide, s->d_v, cols * width * sizeof *wide));
    for (size_t j = 0; j < cols; j++) memcpy(out->v + j * used, wide + j * width, used * sizeof *wide);
    memcpy(out->sigma, s->sigma, used * sizeof *out->sigma);
out:
    free(wide);
    return status;
}

static flrq_status run_sketch(bench *b, flrq_bench_method method, int64_t rank, stopwatch *watch, triplets *out) {
    flrq_backend *be = b->be;
    flrq_sketch_options options = {.kind = (flrq_sketch_kind)method,
                                   .power_iterations = (int)b->config->power_iterations,
                                   .oversample = (int)b->config->oversample,
                                   .key = flrq_philox_key((uint64_t)b->config->seed, "bench sketch"),
                                   .precision = b->precision};
    flrq_sketch *sketch;
    FLRQ_TRY(flrq_sketch_new(&sketch, be, &options, (flrq_extent){b->rows, b->cols, b->rows * b->cols}, rank));
    flrq_status status = FLRQ_OK;
    for (bool more = true; more;) {
        FLRQ_GOTO(stopped());
        FLRQ_GOTO(be->sync(be));
        double t = flrq_seconds();
        FLRQ_GOTO(flrq_sketch_run(sketch, be, flrq_comm_self(), &options, &b->loaded.a, rank, 0, NULL));
        FLRQ_GOTO(be->sync(be));
        more = lap(watch, flrq_seconds() - t, b->config->repeats);
    }
    FLRQ_GOTO(sketch_triplets(b, sketch, rank, out));
out:
    flrq_sketch_free(sketch, be);
    return status;
}

/* ---- the library's SVDs ------------------------------------------------------------------------------------------ */

/* The leading triplets of d_u [rows, p], d_s [p], d_vt [p, cols]. */
static flrq_status baseline_triplets(bench *b, const float *d_u, const float *d_s, const float *d_vt, int64_t p,
                                     int64_t rank, triplets *out) {
    flrq_backend *be = b->be;
    size_t used = (size_t)rank, cols = (size_t)b->cols;
    float *s = malloc(used * sizeof *s), *vt = malloc(used * cols * sizeof *vt);
    flrq_status status = FLRQ_OK;
    if (!s || !vt) FLRQ_GOTO(flrq_fail_memory(used * cols * sizeof *vt, "singular vectors"));
    FLRQ_GOTO(triplets_new(out, b, rank));
    FLRQ_GOTO(be->download(be, s, d_s, used * sizeof *s));
    FLRQ_GOTO(be->download(be, vt, d_vt, used * cols * sizeof *vt));
    for (int64_t i = 0; i < b->rows; i++) FLRQ_GOTO(be->download(be, out->u + i * rank, d_u + i * p, used * sizeof *s));
    for (size_t k = 0; k < used; k++) {
        out->sigma[k] = s[k];
        for (size_t j = 0; j < cols; j++) out->v[j * used + k] = s[k] * vt[k * cols + j];
    }
out:
    free(vt);
    free(s);
    return status;
}

/* *tail (may be NULL): sum of the squares of the singular values from each rank on, [p + 1]; free(). */
static flrq_status run_baseline(bench *b, flrq_bench_method method, int64_t rank, stopwatch *watch, triplets *out,
                                double **tail) {
    flrq_backend *be = b->be;
    int64_t m = b->rows, n = b->cols, p = method == FLRQ_BENCH_RSVD ? rank : b->full;
    const flrq_bench_baseline options = {.method = method,
                                         .threads = b->device.threads,
                                         .rank = rank,
                                         .oversample = b->config->oversample,
                                         .iterations = (int)b->config->power_iterations,
                                         .key = flrq_philox_key((uint64_t)b->config->seed, "bench sketch")};
    float *d_full = NULL, *d_u = NULL, *d_s = NULL, *d_vt = NULL, *s = NULL;
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(be->alloc(be, (void **)&d_full, (size_t)(m * n) * sizeof *d_full, "the matrix in fp32"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_u, (size_t)(m * p) * sizeof *d_u, "left singular vectors"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_s, (size_t)p * sizeof *d_s, "singular values"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_vt, (size_t)(p * n) * sizeof *d_vt, "right singular vectors"));
    for (bool more = true; more;) {
        FLRQ_GOTO(stopped());
        FLRQ_GOTO(be->materialize(be, d_full, &b->loaded.a)); /* the last run destroyed it */
        FLRQ_GOTO(be->sync(be));
        double t = flrq_seconds();
        FLRQ_GOTO(flrq_bench_baseline_run(be, &options, d_full, m, n, d_u, d_s, d_vt));
        FLRQ_GOTO(be->sync(be));
        more = lap(watch, flrq_seconds() - t, b->config->repeats);
    }
    FLRQ_GOTO(baseline_triplets(b, d_u, d_s, d_vt, p, rank, out));
    if (tail) {
        s = malloc((size_t)p * sizeof *s);
        *tail = calloc((size_t)p + 1, sizeof **tail);
        if (!s || !*tail) FLRQ_GOTO(flrq_fail_memory((size_t)p * sizeof **tail, "singular values"));
        FLRQ_GOTO(be->download(be, s, d_s, (size_t)p * sizeof *s));
        for (int64_t k = p - 1; k >= 0; k--) (*tail)[k] = (*tail)[k + 1] + (double)s[k] * (double)s[k];
    }
out:
    free(s);
    be->release(be, d_vt);
    be->release(be, d_s);
    be->release(be, d_u);
    be->release(be, d_full);
    return status;
}

/* ---- what a method found ----------------------------------------------------------------------------------------- */

/* |A - sum of the first `rank` triplets|. */
static flrq_status residual_of(bench *b, const triplets *t, int64_t rank, double *out) {
    flrq_backend *be = b->be;
    size_t rows = (size_t)b->rows, cols = (size_t)b->cols, used = (size_t)rank, count = (size_t)t->count;
    float *d_l = NULL, *d_r = NULL, *left = malloc(rows * used * sizeof *left),
          *right = malloc(cols * used * sizeof *right);
    flrq_operand a = b->loaded.a;
    double squares = 0;
    flrq_status status = FLRQ_OK;
    if (!left || !right) FLRQ_GOTO(flrq_fail_memory(rows * used * sizeof *left, "the residual"));
    for (size_t i = 0; i < rows; i++) memcpy(left + i * used, t->u + i * count, used * sizeof *left);
    for (size_t k = 0; k < used; k++) /* the operand applies the column scale to its low-rank part too */
        for (size_t j = 0; j < cols; j++) right[k * cols + j] = t->v[j * count + k] / b->loaded.scale[j];
    FLRQ_GOTO(be->alloc(be, (void **)&d_l, rows * used * sizeof *d_l, "the left factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_r, cols * used * sizeof *d_r, "the right factor"));
    FLRQ_GOTO(be->upload(be, d_l, left, rows * used * sizeof *d_l));
    FLRQ_GOTO(be->upload(be, d_r, right, cols * used * sizeof *d_r));
    a.d_l = d_l, a.d_r = d_r, a.rank = rank, a.lr_sign = -1;
    FLRQ_GOTO(be->sum_squares(be, &squares, &a));
    *out = sqrt(squares);
    if (!isfinite(squares))
        status = flrq_fail(FLRQ_ERR_NUMERIC, "the residual at rank %lld is not finite", (long long)rank);
out:
    be->release(be, d_r);
    be->release(be, d_l);
    free(right);
    free(left);
    return status;
}

/* What the device cannot do or has no memory for, and what did not converge, is an outcome; any other status stays what
 * it is. */
static flrq_status excuse(bench *b, flrq_bench_method method, flrq_status status, outcome *out) {
    switch (status) {
    case FLRQ_ERR_UNSUPPORTED:
        *out = (outcome){.status = "not on this device"};
        return FLRQ_OK;
    case FLRQ_ERR_MEMORY:
        *out = (outcome){.status = "not enough memory"};
        break;
    case FLRQ_ERR_NUMERIC:
        *out = (outcome){.status = "no result"};
        break;
    default:
        return status;
    }
    flrq_notice(b->reporter, "%s of %s: %s", flrq_bench_method_names[method], b->source->name, flrq_last_error());
    return FLRQ_OK;
}

/* One method at one rank; its triplets replace those in `keep`. */
static flrq_status run_method(bench *b, flrq_bench_method method, int64_t rank, outcome *out, triplets *keep,
                              double **tail) {
    stopwatch watch = {.runs = 0};
    triplets found = {0};
    flrq_status status = method == FLRQ_BENCH_BLOCK || method == FLRQ_BENCH_R1
                             ? run_sketch(b, method, rank, &watch, &found)
                             : run_baseline(b, method, rank, &watch, &found, tail);
    if (status == FLRQ_OK) status = residual_of(b, &found, rank, &out->residual);
    if (status != FLRQ_OK) {
        triplets_free(&found);
        return excuse(b, method, status, out);
    }
    triplets_free(keep);
    *keep = found;
    out->seconds = flrq_bench_spread_of(watch.seconds, watch.runs);
    out->status = "ok";
    return FLRQ_OK;
}

/* The curve of largest residuals over the rank, and what the rules choose from it. Without memory for it none is there.
 */
static flrq_status choose(bench *b, const triplets *t, choice *out) {
    flrq_backend *be = b->be;
    const flrq_config *c = b->config;
    size_t u_bytes = (size_t)(b->rows * t->count) * sizeof(float),
           v_bytes = (size_t)(b->cols * t->count) * sizeof(float);
    float *d_u = NULL, *d_v = NULL, *amax = malloc((size_t)(t->count + 1) * sizeof *amax);
    flrq_rank_policy policy = {.rule = FLRQ_RANK_R1FLR,
                               .max_rank = t->count,
                               .multiple = 1,
                               .extra = c->rank_extra,
                               .flat = c->rank_flat,
                               .bits = (int)c->bits};
    flrq_status status = FLRQ_OK;
    if (!amax) FLRQ_GOTO(flrq_fail_memory((size_t)(t->count + 1) * sizeof *amax, "the curve of largest residuals"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_u, u_bytes, "the left factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_v, v_bytes, "the right factor"));
    FLRQ_GOTO(be->upload(be, d_u, t->u, u_bytes));
    FLRQ_GOTO(be->upload(be, d_v, t->v, v_bytes));
    FLRQ_GOTO(be->amax_curve(be, amax, &b->loaded.a, d_u, d_v, t->count));
    *out = (choice){.amax = amax, .terms = t->count, .cap = flrq_rank_cap(&policy, b->rows, b->cols)};
    out->cap_from = out->cap < t->count ? "rank-extra" : t->count < b->full ? "ranks" : "size";
    out->r1flr = flrq_rank_choose(&policy, b->rows, b->cols, amax, t->sigma, b->norm2, t->count);
    policy.rule = FLRQ_RANK_R1FLR_BEST;
    out->best = flrq_rank_choose(&policy, b->rows, b->cols, amax, t->sigma, b->norm2, t->count);
    out->capped = out->r1flr == out->cap || out->best == out->cap;
    amax = NULL;
out:
    be->release(be, d_v);
    be->release(be, d_u);
    free(amax);
    if (status != FLRQ_ERR_MEMORY) return status;
    flrq_notice(b->reporter, "no ranks of %s: %s", b->source->name, flrq_last_error());
    return FLRQ_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* {"matrix", "rows", "cols", "dtype"} and, of a generated one, {"spectrum", "outliers"}: what every row begins with. */
static json_t *new_row(const bench *b) {
    const flrq_bench_source *s = b->source;
    json_t *row = json_pack("{s:s, s:I, s:I, s:s}", "matrix", s->name, "rows", (json_int_t)s->rows, "cols",
                            (json_int_t)s->cols, "dtype", flrq_dtype_name(b->loaded.a.dense_dtype));
    if (!s->tensor)
        json_object_update_new(row, json_pack("{s:s, s:s}", "spectrum", flrq_bench_spectrum_names[s->spectrum],
                                              "outliers", flrq_bench_outlier_names[s->outliers]));
    if (b->dump) json_object_set_new(row, "dump", json_string(b->dump));
    return row;
}

static json_t *ratio(const outcome *other, const outcome *t) {
    return other->seconds.runs && t->seconds.runs ? json_real(other->seconds.median / t->seconds.median) : json_null();
}

static void add_row(bench *b, int64_t rank, int method, const outcome *all, double optimum) {
    const outcome *t = &all[method];
    json_t *row = new_row(b);
    json_object_update_new(row, json_pack("{s:I, s:s, s:s*, s:s}", "rank", (json_int_t)rank, "method",
                                          flrq_bench_method_names[method], "routine",
                                          flrq_bench_routine(b->be, (flrq_bench_method)method), "status", t->status));
    if (t->seconds.runs) {
        json_object_update_new(row, json_pack("{s:f, s:f, s:f, s:i, s:f, s:f}", "seconds", t->seconds.median,
                                              "seconds_p10", t->seconds.p10, "seconds_p90", t->seconds.p90, "runs",
                                              t->seconds.runs, "residual", t->residual, "norm", sqrt(b->norm2)));
        if (optimum > 0)
            json_object_update_new(row,
                                   json_pack("{s:f, s:f}", "optimum", optimum, "excess", t->residual / optimum - 1));
        for (int other = FLRQ_BENCH_R1; other < FLRQ_BENCH_METHODS; other++) {
            char key[32];
            snprintf(key, sizeof key, "speedup_over_%s", flrq_bench_method_names[other]);
            json_object_set_new(row, key, ratio(&all[other], t));
        }
    }
    json_array_append_new(b->table, row);
}

/* The method that the others are held against: an exact SVD, else the block sketch, else the first; -1: none. */
static int reference_of(const choice *all) {
    static const int order[] = {FLRQ_BENCH_SVD, FLRQ_BENCH_SVDJ, FLRQ_BENCH_BLOCK, FLRQ_BENCH_R1, FLRQ_BENCH_RSVD};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (all[order[i]].amax) return order[i];
    return -1;
}

/* Largest relative difference of two curves up to the cap. */
static double curve_difference(const choice *t, const choice *reference) {
    double most = 0;
    for (int64_t r = 0; r <= t->cap; r++)
        if (reference->amax[r] > 0) most = fmax(most, fabs((double)t->amax[r] / reference->amax[r] - 1));
    return most;
}

/* Rows of the ranks and the curves. A method that did not get as far as the reference cannot be compared with it. */
static void add_choices(bench *b, const choice *all) {
    int reference = reference_of(all);
    for (int method = 0; method < FLRQ_BENCH_METHODS; method++) {
        const choice *t = &all[method];
        if (!t->amax) continue;
        json_t *row = new_row(b);
        json_object_update_new(row, json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:b, s:s, s:f, s:f}", "method",
                                              flrq_bench_method_names[method], "bits", (json_int_t)b->config->bits,
                                              "rank_r1flr", (json_int_t)t->r1flr, "rank_best", (json_int_t)t->best,
                                              "cap", (json_int_t)t->cap, "cap_from", t->cap_from, "capped", t->capped,
                                              "reference", flrq_bench_method_names[reference], "amax_0",
                                              (double)t->amax[0], "amax_r1flr", (double)t->amax[t->r1flr]));
        if (method != reference && t->cap == all[reference].cap) {
            int agrees = t->r1flr == all[reference].r1flr && t->best == all[reference].best;
            json_object_update_new(row, json_pack("{s:b, s:f}", "agrees", agrees, "curve_difference",
                                                  curve_difference(t, &all[reference])));
        }
        json_array_append_new(b->choices, row);
        for (int64_t r = 0; r <= t->terms; r++)
            json_array_append_new(b->curves, json_pack("{s:s, s:s, s:I, s:f}", "matrix", b->source->name, "method",
                                                       flrq_bench_method_names[method], "r", (json_int_t)r, "amax",
                                                       (double)t->amax[r]));
    }
}

/* For each method that was held against a reference: [{"method", "matrices", "agree", "differ": [names]}]. */
static json_t *agreement_of(const json_t *choices) {
    json_t *list = json_array(), *row;
    for (int method = 0; method < FLRQ_BENCH_METHODS; method++) {
        json_t *differ = json_array();
        json_int_t matrices = 0;
        size_t i;
        json_array_foreach(choices, i, row) {
            const json_t *agrees = json_object_get(row, "agrees");
            const char *name = json_string_value(json_object_get(row, "method"));
            if (!agrees || strcmp(name, flrq_bench_method_names[method]) != 0) continue;
            matrices++;
            if (!json_is_true(agrees)) json_array_append(differ, json_object_get(row, "matrix"));
        }
        json_int_t agree = matrices - (json_int_t)json_array_size(differ);
        if (matrices)
            json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:O}", "method", flrq_bench_method_names[method],
                                                  "matrices", matrices, "agree", agree, "differ", differ));
        json_decref(differ);
    }
    return list;
}

/* ---- one matrix -------------------------------------------------------------------------------------------------- */

/* Operations of the methods that may take long: an exact SVD, or all passes of the one-by-one sketch. */
static double flops_of(const bench *b, int method, int64_t rank) {
    double m = (double)b->rows, n = (double)b->cols, p = (double)b->full;
    if (method == FLRQ_BENCH_R1) return 2 * m * n * (double)rank * (2 * (double)b->config->power_iterations + 3);
    return method == FLRQ_BENCH_SVD || method == FLRQ_BENCH_SVDJ ? 14 * m * n * p : 0;
}

static bool skipped(const bench *b, int method, int64_t rank, outcome *out) {
    if (b->config->full || flops_of(b, method, rank) <= flop_limit) return false;
    out->status = "skipped: over 5e12 operations; --full runs it";
    return true;
}

/* All methods and ranks on the present matrix. The exact SVDs give all ranks at once and go first, since they know the
 * optimum. */
static flrq_status run_matrix(bench *b) {
    outcome exact[FLRQ_BENCH_METHODS] = {{.status = ""}};
    triplets found[FLRQ_BENCH_METHODS] = {{0}};
    choice chosen[FLRQ_BENCH_METHODS] = {{0}};
    int64_t most = b->ranks[b->n_ranks - 1] < b->full ? b->ranks[b->n_ranks - 1] : b->full;
    double *tail = NULL;
    flrq_status status = FLRQ_OK;
    for (int method = FLRQ_BENCH_SVD; method <= FLRQ_BENCH_SVDJ; method++) {
        if (!b->wanted[method] || skipped(b, method, b->full, &exact[method])) continue;
        flrq_progress(b->reporter, flrq_bench_method_names[method], 0, 1);
        FLRQ_GOTO(run_method(b, (flrq_bench_method)method, most, &exact[method], &found[method], tail ? NULL : &tail));
    }
    for (int i = 0; i < b->n_ranks; i++) {
        int64_t rank = b->ranks[i] < b->full ? b->ranks[i] : b->full;
        if (i > 0 && b->ranks[i - 1] >= b->full) break; /* the same again */
        outcome all[FLRQ_BENCH_METHODS];
        memcpy(all, exact, sizeof all);
        for (int method = 0; method < FLRQ_BENCH_METHODS; method++) {
            if (!b->wanted[method] || skipped(b, method, rank, &all[method])) continue;
            flrq_progress(b->reporter, flrq_bench_method_names[method], i, b->n_ranks);
            if (method < FLRQ_BENCH_SVD)
                FLRQ_GOTO(run_method(b, (flrq_bench_method)method, rank, &all[method], &found[method], NULL));
            else if (all[method].seconds.runs)
                FLRQ_GOTO(excuse(b, (flrq_bench_method)method,
                                 residual_of(b, &found[method], rank, &all[method].residual), &all[method]));
        }
        for (int method = 0; method < FLRQ_BENCH_METHODS; method++)
            if (b->wanted[method]) add_row(b, rank, method, all, tail ? sqrt(tail[rank]) : 0);
    }
    for (int method = 0; method < FLRQ_BENCH_METHODS; method++)
        if (found[method].count) FLRQ_GOTO(choose(b, &found[method], &chosen[method]));
    add_choices(b, chosen);
out:
    for (int method = 0; method < FLRQ_BENCH_METHODS; method++) {
        triplets_free(&found[method]);
        free(chosen[method].amax);
    }
    free(tail);
    return status;
}

/* A in fp32 as DIR/b->dump, for the same test elsewhere. */
static flrq_status dump(bench *b) {
    size_t count = (size_t)(b->rows * b->cols);
    float *d_full = NULL, *full = malloc(count * sizeof *full);
    char *path = flrq_path_join(b->config->dump, b->dump);
    flrq_status status = FLRQ_OK;
    if (!full || !path) FLRQ_GOTO(flrq_fail_memory(count * sizeof *full, "the matrix in fp32"));
    FLRQ_GOTO(b->be->alloc(b->be, (void **)&d_full, count * sizeof *full, "the matrix in fp32"));
    FLRQ_GOTO(b->be->materialize(b->be, d_full, &b->loaded.a));
    FLRQ_GOTO(b->be->download(b->be, full, d_full, count * sizeof *full));
    FLRQ_GOTO(flrq_npy_write(path, "<f4", sizeof *full, 2, (int64_t[]){b->rows, b->cols}, full));
out:
    b->be->release(b->be, d_full);
    free(path);
    free(full);
    return status;
}

/* matrix-ROWSxCOLS.npy where the shape says which it is, matrix-K-ROWSxCOLS.npy otherwise. */
static flrq_status name_dump(bench *b, size_t index) {
    const flrq_bench_source *first = &b->sources.list[0], *s = b->source;
    bool one_kind = !s->tensor;
    for (size_t i = 0; i < b->sources.count; i++)
        one_kind = one_kind && b->sources.list[i].spectrum == first->spectrum &&
                   b->sources.list[i].outliers == first->outliers;
    int length =
        one_kind ? asprintf(&b->dump, "matrix-%lldx%lld.npy", (long long)s->rows, (long long)s->cols)
                 : asprintf(&b->dump, "matrix-%zu-%lldx%lld.npy", index + 1, (long long)s->rows, (long long)s->cols);
    if (length >= 0) return FLRQ_OK;
    b->dump = NULL;
    return flrq_fail_memory(64, "a name");
}

static flrq_status run_source(bench *b, size_t index) {
    b->source = &b->sources.list[index];
    b->rows = b->source->rows, b->cols = b->source->cols;
    b->full = b->rows < b->cols ? b->rows : b->cols;
    flrq_progress(b->reporter, b->source->tensor ? "read" : "generate", (int64_t)index, (int64_t)b->sources.count);
    flrq_status status = stopped();
    if (status == FLRQ_OK && b->config->dump) status = name_dump(b, index);
    if (status == FLRQ_OK)
        status = flrq_bench_source_load(&b->loaded, b->be, &b->sources, b->source, (uint64_t)b->config->seed);
    if (status != FLRQ_OK) goto out;
    json_array_append_new(b->matrices, new_row(b));
    if (b->dump) FLRQ_GOTO(dump(b));
    FLRQ_GOTO(b->be->sum_squares(b->be, &b->norm2, &b->loaded.a));
    if (!isfinite(b->norm2))
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_NUMERIC, "tensor %s: the squares of its elements exceed fp32", b->source->name));
    status = run_matrix(b);
out:
    flrq_bench_source_unload(&b->loaded, b->be);
    free(b->dump);
    b->dump = NULL;
    return status;
}

/* ---- the job ----------------------------------------------------------------------------------------------------- */

static int by_rank(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static flrq_status parse_ranks(bench *b, const char *text) {
    for (const char *p = text;; p++) {
        char *end;
        long long v = strspn(p, "0123456789") ? strtoll(p, &end, 10) : 0;
        if (v < 1 || v > MAX_RANK || (*end && *end != ',') || b->n_ranks == MAX_RANKS)
            return flrq_fail(FLRQ_ERR_USAGE, "--ranks takes up to %d numbers from 1 to %d with commas, not \"%s\"",
                             MAX_RANKS, MAX_RANK, text);
        for (int i = 0; i < b->n_ranks; i++)
            if (b->ranks[i] == v) return flrq_fail(FLRQ_ERR_USAGE, "--ranks names %lld twice", v);
        b->ranks[b->n_ranks++] = v;
        p = end;
        if (!*p) break;
    }
    qsort(b->ranks, (size_t)b->n_ranks, sizeof *b->ranks, by_rank);
    return FLRQ_OK;
}

static flrq_status parse(bench *b, const flrq_params *params) {
    int methods[FLRQ_BENCH_METHODS], count;
    FLRQ_TRY(flrq_params_check_bits(params));
    FLRQ_TRY(parse_ranks(b, b->config->ranks));
    FLRQ_TRY(flrq_bench_choices("methods", b->config->methods, flrq_bench_method_names, FLRQ_BENCH_METHODS, methods,
                                &count));
    for (int i = 0; i < count; i++) b->wanted[methods[i]] = true;
    return flrq_bench_sources_open(&b->sources, params);
}

/* After every matrix, so that a bench of hours that is stopped leaves what it measured; figures come at the end. */
static flrq_status write_tables(const bench *b) {
    static const char *const rows[] = {"matrix",
                                       "rows",
                                       "cols",
                                       "dtype",
                                       "spectrum",
                                       "outliers",
                                       "rank",
                                       "method",
                                       "routine",
                                       "status",
                                       "seconds",
                                       "seconds_p10",
                                       "seconds_p90",
                                       "runs",
                                       "residual",
                                       "norm",
                                       "optimum",
                                       "excess",
                                       "speedup_over_r1",
                                       "speedup_over_rsvd",
                                       "speedup_over_svd",
                                       "speedup_over_svdj",
                                       "dump"};
    static const char *const ranks[] = {
        "matrix", "rows",     "cols",   "spectrum",  "outliers", "method", "bits",       "rank_r1flr",      "rank_best",
        "cap",    "cap_from", "capped", "reference", "agrees",   "amax_0", "amax_r1flr", "curve_difference"};
    static const char *const curves[] = {"matrix", "method", "r", "amax"};
    json_object_set_new(b->result, "agreement", agreement_of(b->choices));
    FLRQ_TRY(flrq_bench_csv(&b->files, NULL, b->table, rows, sizeof rows / sizeof *rows));
    FLRQ_TRY(flrq_bench_csv(&b->files, "ranks", b->choices, ranks, sizeof ranks / sizeof *ranks));
    FLRQ_TRY(flrq_bench_csv(&b->files, "amax", b->curves, curves, sizeof curves / sizeof *curves));
    json_t *shorter = json_copy(b->result);
    json_object_del(shorter, "amax"); /* which is most of it, and beside it as CSV */
    flrq_status status = flrq_bench_result(&b->files, shorter);
    json_decref(shorter);
    return status;
}

flrq_status flrq_job_bench_sketch(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    bench b = {.config = c,
               .reporter = reporter,
               .matrices = json_array(),
               .table = json_array(),
               .choices = json_array(),
               .curves = json_array()};
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(parse(&b, params));
    FLRQ_GOTO(flrq_bench_files_open(&b.files, params, reporter, "sketch"));
    if (c->dump) FLRQ_GOTO(flrq_dir_make(c->dump));
    FLRQ_GOTO(flrq_backend_open(&b.be, c->device, (int)c->threads));
    FLRQ_GOTO(b.be->info(b.be, &b.device));
    flrq_bench_baseline_check(b.be, &b.device, reporter);
    b.precision =
        b.device.separate_memory && c->precision != PRECISION_FULL ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL;
    b.result = flrq_bench_provenance(params, b.be->name, &b.device);
    json_object_update_new(b.result, json_pack("{s:s, s:O, s:O, s:O, s:O}", "precision",
                                               b.precision == FLRQ_PRECISION_FAST ? "fast" : "full", "matrices",
                                               b.matrices, "rows", b.table, "ranks", b.choices, "amax", b.curves));
    for (size_t i = 0; i < b.sources.count; i++) {
        FLRQ_GOTO(run_source(&b, i));
        FLRQ_GOTO(write_tables(&b));
    }
    FLRQ_GOTO(flrq_bench_sketch_figures(&b.files, b.result, reporter));
    *result = json_incref(b.result);
out:
    flrq_bench_sources_close(&b.sources);
    flrq_backend_close(b.be);
    json_decref(b.curves);
    json_decref(b.choices);
    json_decref(b.table);
    json_decref(b.matrices);
    json_decref(b.result);
    return status;
}
