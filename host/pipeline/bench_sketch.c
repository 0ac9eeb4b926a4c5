/* bench_sketch.c - seconds and residual of every sketch on matrices with known spectra, side by side in one run.
 *
 * A = bf16(noise + structure) diag(c), made from the seed alone (bench.h). flrq's own sketches read it as quantize
 * does, in bf16 with the column scale on the fly; the library's SVDs get it as fp32, which is not counted. Residuals
 * are measured for every method in the same way, by forming A - L R; the optimum comes from an exact SVD when one is
 * among the methods. Times are medians over runs after one warm-up; a method stops repeating once it has used
 * time_per_case seconds, and the row says how many runs it had. What the device lacks, and what would take too long
 * without --full, is a row that says so.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/philox.h"
#include "io/npy.h"
#include "pipeline/bench.h"
#include "pipeline/bench_matrices.h"

enum { MAX_LIST = 16, MAX_RUNS = 1000 };
enum { BLOCK = FLRQ_SKETCH_BLOCK, R1 = FLRQ_SKETCH_R1, RSVD, SVD, SVDJ, METHODS };
static const char *const method_names[METHODS] = {"block", "r1", "rsvd", "svd", "svdj"};
static const double time_per_case = 20, long_run = 5, flop_limit = 5e12;

typedef struct bench {
    flrq_backend *be;
    const flrq_config *config;
    flrq_reporter *reporter;
    flrq_precision precision; /* of the power iterations of the block sketch */
    void *d_a;                /* bf16 [rows, cols] */
    float *d_scale;           /* [cols] */
    int64_t rows, cols;
    double norm2;
    json_t *table;
} bench;

/* What a method did. Factors: A ~ left right, left [rows, rank], right [rank, cols], in host memory. */
typedef struct outcome {
    double median, p10, p90, residual;
    int runs;
    const char *status; /* "ok", or why there are no numbers */
} outcome;

static flrq_operand matrix_of(const bench *b) {
    return (flrq_operand){.rows = b->rows,
                          .cols = b->cols,
                          .d_dense = b->d_a,
                          .ld_dense = b->cols,
                          .dense_dtype = FLRQ_BF16,
                          .d_col_scale = b->d_scale};
}

static flrq_status generate(bench *b) {
    flrq_backend *be = b->be;
    int64_t m = b->rows, n = b->cols;
    float *d_full = NULL, *row = NULL;
    uint16_t *rounded = malloc((size_t)n * sizeof *rounded);
    flrq_status status = FLRQ_OK;
    row = malloc((size_t)n * sizeof *row);
    if (!rounded || !row) FLRQ_GOTO(flrq_fail_memory((size_t)n * sizeof *row, "the matrix"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_full, (size_t)(m * n) * sizeof *d_full, "the matrix in fp32"));
    FLRQ_GOTO(flrq_bench_matrix(be, d_full, m, n, FLRQ_BENCH_SPECTRUM_POWER,
                                flrq_philox_key((uint64_t)b->config->seed, "bench matrix")));
    for (int64_t i = 0; i < m; i++) {
        FLRQ_GOTO(be->download(be, row, d_full + i * n, (size_t)n * sizeof *row));
        for (int64_t j = 0; j < n; j++) flrq_store(rounded, FLRQ_BF16, j, row[j]);
        FLRQ_GOTO(be->upload(be, (uint16_t *)b->d_a + i * n, rounded, (size_t)n * sizeof *rounded));
    }
    for (int64_t j = 0; j < n; j++) row[j] = (j % 512 == 256 ? 8.0f : 1.0f);
    FLRQ_GOTO(be->upload(be, b->d_scale, row, (size_t)n * sizeof *row));
out:
    be->release(be, d_full);
    free(row);
    free(rounded);
    return status;
}

/* A in fp32 for the same test elsewhere: DIR/matrix-ROWSxCOLS.npy. */
static flrq_status dump(bench *b) {
    size_t count = (size_t)(b->rows * b->cols);
    float *d_full = NULL, *full = malloc(count * sizeof *full);
    char name[64], *path = NULL;
    flrq_operand a = matrix_of(b);
    flrq_status status = FLRQ_OK;
    if (!full) return flrq_fail_memory(count * sizeof *full, "the matrix");
    FLRQ_GOTO(b->be->alloc(b->be, (void **)&d_full, count * sizeof *full, "the matrix in fp32"));
    FLRQ_GOTO(b->be->materialize(b->be, d_full, &a));
    FLRQ_GOTO(b->be->download(b->be, full, d_full, count * sizeof *full));
    snprintf(name, sizeof name, "matrix-%lldx%lld.npy", (long long)b->rows, (long long)b->cols);
    path = flrq_path_join(b->config->dump, name);
    if (!path) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    FLRQ_GOTO(flrq_dir_make(b->config->dump));
    FLRQ_GOTO(flrq_npy_write(path, "<f4", sizeof *full, 2, (int64_t[]){b->rows, b->cols}, full));
out:
    b->be->release(b->be, d_full);
    free(path);
    free(full);
    return status;
}

/* |A - left right|: right still carries the column scale, which the operand applies by itself. */
static flrq_status residual_of(bench *b, double *out, const float *left, float *right, int64_t rank) {
    flrq_backend *be = b->be;
    float *d_l = NULL, *d_r = NULL;
    flrq_operand a = matrix_of(b);
    flrq_status status = FLRQ_OK;
    double squares = 0;
    for (int64_t j = 0; j < b->cols; j++) {
        float scale = (j % 512 == 256 ? 8.0f : 1.0f);
        for (int64_t k = 0; k < rank; k++) right[k * b->cols + j] /= scale;
    }
    FLRQ_GOTO(be->alloc(be, (void **)&d_l, (size_t)(b->rows * rank) * sizeof *d_l, "the left factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_r, (size_t)(b->cols * rank) * sizeof *d_r, "the right factor"));
    FLRQ_GOTO(be->upload(be, d_l, left, (size_t)(b->rows * rank) * sizeof *d_l));
    FLRQ_GOTO(be->upload(be, d_r, right, (size_t)(b->cols * rank) * sizeof *d_r));
    a.d_l = d_l, a.d_r = d_r, a.rank = rank, a.lr_sign = -1;
    FLRQ_GOTO(be->sum_squares(be, &squares, &a));
    *out = sqrt(squares);
out:
    be->release(be, d_r);
    be->release(be, d_l);
    return status;
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

static void stopwatch_read(stopwatch *w, outcome *out) {
    qsort(w->seconds, (size_t)w->runs, sizeof *w->seconds, flrq_bench_by_value);
    out->runs = w->runs;
    out->median = w->seconds[w->runs / 2];
    out->p10 = w->seconds[w->runs / 10];
    out->p90 = w->seconds[w->runs - 1 - w->runs / 10];
    out->status = "ok";
}

/* ---- flrq's sketches --------------------------------------------------------------------------------------------- */

static flrq_status sketch_residual(bench *b, const flrq_sketch *sketch, int64_t rank, double *out) {
    int64_t width = sketch->width;
    size_t rows = (size_t)b->rows, cols = (size_t)b->cols;
    float *u = malloc(rows * (size_t)width * sizeof *u), *v = malloc(cols * (size_t)width * sizeof *v);
    float *right = malloc(cols * (size_t)rank * sizeof *right);
    flrq_status status = FLRQ_OK;
    if (!u || !v || !right) FLRQ_GOTO(flrq_fail_memory(rows * (size_t)width * sizeof *u, "the residual"));
    FLRQ_GOTO(b->be->download(b->be, u, sketch->d_u, rows * (size_t)width * sizeof *u));
    FLRQ_GOTO(b->be->download(b->be, v, sketch->d_v, cols * (size_t)width * sizeof *v));
    for (int64_t i = 0; i < b->rows; i++) memmove(u + i * rank, u + i * width, (size_t)rank * sizeof *u);
    for (int64_t k = 0; k < rank; k++)
        for (int64_t j = 0; j < b->cols; j++) right[k * b->cols + j] = v[j * width + k];
    status = residual_of(b, out, u, right, rank);
out:
    free(right);
    free(v);
    free(u);
    return status;
}

static flrq_status run_sketch(bench *b, int method, int64_t rank, outcome *out) {
    flrq_backend *be = b->be;
    flrq_sketch_options options = {.kind = (flrq_sketch_kind)method,
                                   .power_iterations = (int)b->config->power_iterations,
                                   .oversample = (int)b->config->oversample,
                                   .key = flrq_philox_key((uint64_t)b->config->seed, "bench sketch"),
                                   .precision = b->precision};
    flrq_operand target = matrix_of(b);
    stopwatch watch = {.runs = 0};
    flrq_sketch *sketch;
    FLRQ_TRY(flrq_sketch_new(&sketch, be, &options, (flrq_extent){b->rows, b->cols, b->rows * b->cols}, rank));
    flrq_status status = FLRQ_OK;
    for (bool more = true; more;) {
        if (flrq_stop_requested()) FLRQ_GOTO(flrq_fail(FLRQ_STOPPED, "stopped; bench keeps no state"));
        FLRQ_GOTO(be->sync(be));
        double t = flrq_seconds();
        FLRQ_GOTO(flrq_sketch_run(sketch, be, flrq_comm_self(), &options, &target, rank, 0, NULL));
        FLRQ_GOTO(be->sync(be));
        more = lap(&watch, flrq_seconds() - t, b->config->repeats);
    }
    stopwatch_read(&watch, out);
    FLRQ_GOTO(sketch_residual(b, sketch, rank, &out->residual));
out:
    flrq_sketch_free(sketch, be);
    return status;
}

/* ---- the library's SVDs ------------------------------------------------------------------------------------------ */

/* Factors of the last run: u [rows, p], s [p], vt [p, cols] in host memory. */
typedef struct vendor {
    float *u, *s, *vt;
    int64_t p;
} vendor;

static void vendor_free(vendor *v) {
    free(v->u);
    free(v->s);
    free(v->vt);
    *v = (vendor){0};
}

/* Runs be->svd or be->rsvd. A device that lacks it, or has not the memory for it, gives an outcome that says so. */
static flrq_status run_vendor(bench *b, int method, int64_t rank, outcome *out, vendor *factors) {
    flrq_backend *be = b->be;
    int64_t m = b->rows, n = b->cols, p = method == RSVD ? rank : m < n ? m : n;
    float *d_full = NULL, *d_u = NULL, *d_s = NULL, *d_vt = NULL;
    flrq_operand a = matrix_of(b);
    stopwatch watch = {.runs = 0};
    flrq_status status = FLRQ_OK;
    *factors = (vendor){.p = p};
    out->status = "not on this device";
    if (method == RSVD ? !be->rsvd : !be->svd) return FLRQ_OK;
    FLRQ_GOTO(be->alloc(be, (void **)&d_full, (size_t)(m * n) * sizeof *d_full, "the matrix in fp32"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_u, (size_t)(m * p) * sizeof *d_u, "left singular vectors"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_s, (size_t)p * sizeof *d_s, "singular values"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_vt, (size_t)(p * n) * sizeof *d_vt, "right singular vectors"));
    for (bool more = true; more;) {
        if (flrq_stop_requested()) FLRQ_GOTO(flrq_fail(FLRQ_STOPPED, "stopped; bench keeps no state"));
        FLRQ_GOTO(be->materialize(be, d_full, &a)); /* the last run destroyed it */
        FLRQ_GOTO(be->sync(be));
        double t = flrq_seconds();
        if (method == RSVD)
            FLRQ_GOTO(be->rsvd(be, d_full, m, n, rank, b->config->oversample, (int)b->config->power_iterations, d_u,
                               d_s, d_vt));
        else
            FLRQ_GOTO(be->svd(be, method == SVDJ ? FLRQ_SVD_JACOBI : FLRQ_SVD_DEFAULT, d_full, m, n, d_u, d_s, d_vt));
        FLRQ_GOTO(be->sync(be));
        more = lap(&watch, flrq_seconds() - t, b->config->repeats);
    }
    factors->u = malloc((size_t)(m * p) * sizeof *factors->u);
    factors->s = malloc((size_t)p * sizeof *factors->s);
    factors->vt = malloc((size_t)(p * n) * sizeof *factors->vt);
    if (!factors->u || !factors->s || !factors->vt)
        FLRQ_GOTO(flrq_fail_memory((size_t)(m * p) * sizeof *factors->u, "singular vectors"));
    FLRQ_GOTO(be->download(be, factors->u, d_u, (size_t)(m * p) * sizeof *d_u));
    FLRQ_GOTO(be->download(be, factors->s, d_s, (size_t)p * sizeof *d_s));
    FLRQ_GOTO(be->download(be, factors->vt, d_vt, (size_t)(p * n) * sizeof *d_vt));
    stopwatch_read(&watch, out);
out:
    be->release(be, d_vt);
    be->release(be, d_s);
    be->release(be, d_u);
    be->release(be, d_full);
    if (status == FLRQ_ERR_UNSUPPORTED) return FLRQ_OK;
    if (status == FLRQ_ERR_MEMORY) {
        out->status = "not enough memory";
        flrq_notice(b->reporter, "%s of %lldx%lld: %s", method_names[method], (long long)m, (long long)n,
                    flrq_last_error());
        return FLRQ_OK;
    }
    return status;
}

/* Residual of the `rank` leading triplets. */
static flrq_status vendor_residual(bench *b, const vendor *f, int64_t rank, double *out) {
    float *left = malloc((size_t)(b->rows * rank) * sizeof *left);
    float *right = malloc((size_t)(b->cols * rank) * sizeof *right);
    flrq_status status = FLRQ_OK;
    if (!left || !right) FLRQ_GOTO(flrq_fail_memory((size_t)(b->rows * rank) * sizeof *left, "the residual"));
    for (int64_t i = 0; i < b->rows; i++) memcpy(left + i * rank, f->u + i * f->p, (size_t)rank * sizeof *left);
    for (int64_t k = 0; k < rank; k++)
        for (int64_t j = 0; j < b->cols; j++) right[k * b->cols + j] = f->s[k] * f->vt[k * b->cols + j];
    status = residual_of(b, out, left, right, rank);
out:
    free(right);
    free(left);
    return status;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static json_t *ratio(const outcome *other, const outcome *t) {
    return other->runs && t->runs ? json_real(other->median / t->median) : json_null();
}

static void add_row(bench *b, int64_t rank, int method, const outcome *all, double optimum) {
    static const char *const spectra[] = {"llm", "flat", "fast"};
    const outcome *t = &all[method];
    json_t *row = json_pack("{s:I, s:I, s:s, s:I, s:s, s:s}", "rows", (json_int_t)b->rows, "cols", (json_int_t)b->cols,
                            "spectrum", spectra[0], "rank", (json_int_t)rank, "method", method_names[method], "status",
                            t->status);
    if (t->runs) {
        json_object_update_new(row, json_pack("{s:f, s:f, s:f, s:i, s:f}", "seconds", t->median, "seconds_p10", t->p10,
                                              "seconds_p90", t->p90, "runs", t->runs, "residual", t->residual));
        if (optimum > 0)
            json_object_update_new(row,
                                   json_pack("{s:f, s:f}", "optimum", optimum, "excess", t->residual / optimum - 1));
        for (int other = R1; other < METHODS; other++) {
            char key[32];
            snprintf(key, sizeof key, "speedup_over_%s", method_names[other]);
            json_object_set_new(row, key, ratio(&all[other], t));
        }
    }
    json_array_append_new(b->table, row);
}

/* Operations of the methods that may take long: an exact SVD, or all passes of the one-by-one sketch. */
static double flops_of(const bench *b, int method, int64_t rank) {
    double m = (double)b->rows, n = (double)b->cols, p = m < n ? m : n;
    if (method == R1) return 2 * m * n * (double)rank * (2 * (double)b->config->power_iterations + 3);
    return method == SVD || method == SVDJ ? 14 * m * n * p : 0;
}

static bool skipped(const bench *b, int method, int64_t rank, outcome *out) {
    if (b->config->full || flops_of(b, method, rank) <= flop_limit) return false;
    out->status = "skipped: over 5e12 operations; --full runs it";
    return true;
}

/* All methods and ranks on one matrix. The exact SVDs give all ranks at once and go first, since they know the
 * optimum. */
static flrq_status run_matrix(bench *b, const int64_t *ranks, int n_ranks, const int *wanted) {
    int64_t full = b->rows < b->cols ? b->rows : b->cols;
    outcome exact[METHODS] = {{.status = ""}};
    vendor factors[METHODS] = {{.p = 0}};
    const vendor *best = NULL;
    flrq_status status = FLRQ_OK;
    for (int method = SVD; method <= SVDJ; method++) {
        if (!wanted[method] || skipped(b, method, full, &exact[method])) continue;
        flrq_progress(b->reporter, method_names[method], 0, 1);
        FLRQ_GOTO(run_vendor(b, method, full, &exact[method], &factors[method]));
        if (exact[method].runs && !best) best = &factors[method];
    }
    for (int i = 0; i < n_ranks; i++) {
        int64_t rank = ranks[i] < full ? ranks[i] : full;
        outcome all[METHODS];
        memcpy(all, exact, sizeof all);
        double optimum2 = b->norm2;
        for (int64_t k = 0; k < rank && best; k++) optimum2 -= (double)best->s[k] * (double)best->s[k];
        for (int method = 0; method < METHODS; method++) {
            if (!wanted[method] || skipped(b, method, rank, &all[method])) continue;
            flrq_progress(b->reporter, method_names[method], i, n_ranks);
            if (method == BLOCK || method == R1) FLRQ_GOTO(run_sketch(b, method, rank, &all[method]));
            if (method == RSVD) FLRQ_GOTO(run_vendor(b, method, rank, &all[method], &factors[method]));
            if (method >= RSVD && all[method].runs)
                FLRQ_GOTO(vendor_residual(b, &factors[method], rank, &all[method].residual));
            if (method == RSVD) vendor_free(&factors[method]);
        }
        for (int method = 0; method < METHODS; method++)
            if (wanted[method]) add_row(b, rank, method, all, best ? sqrt(fmax(optimum2, 0)) : 0);
    }
out:
    for (int method = 0; method < METHODS; method++) vendor_free(&factors[method]);
    return status;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static flrq_status parse_ranks(const char *text, int64_t *ranks, int *count) {
    for (const char *p = text; *p;) {
        char *end;
        long long v = strtoll(p, &end, 10);
        if (end == p || v < 1 || v > 4096 || (*end && *end != ',') || *count == MAX_LIST)
            return flrq_fail(FLRQ_ERR_USAGE, "--ranks takes up to %d numbers from 1 to 4096 with commas, not \"%s\"",
                             MAX_LIST, text);
        ranks[(*count)++] = v;
        p = *end ? end + 1 : end;
    }
    return FLRQ_OK;
}

static flrq_status parse_methods(const char *text, int *wanted) {
    for (const char *p = text; *p;) {
        size_t length = strcspn(p, ",");
        int kind = 0;
        while (kind < METHODS && !(strlen(method_names[kind]) == length && strncmp(p, method_names[kind], length) == 0))
            kind++;
        if (kind == METHODS)
            return flrq_fail(FLRQ_ERR_USAGE, "--methods takes block, r1, rsvd, svd, svdj with commas, not \"%s\"",
                             text);
        wanted[kind] = 1;
        p += length + (p[length] == ',');
    }
    return FLRQ_OK;
}

flrq_status flrq_job_bench_sketch(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    static const char *const keys[] = {"rows",
                                       "cols",
                                       "spectrum",
                                       "rank",
                                       "method",
                                       "status",
                                       "seconds",
                                       "seconds_p10",
                                       "seconds_p90",
                                       "runs",
                                       "residual",
                                       "optimum",
                                       "excess",
                                       "speedup_over_r1",
                                       "speedup_over_rsvd",
                                       "speedup_over_svd",
                                       "speedup_over_svdj"};
    const flrq_config *c = &params->config;
    bench b = {.config = c, .reporter = reporter, .table = json_array()};
    int64_t ranks[MAX_LIST];
    int n_ranks = 0, wanted[METHODS] = {0};
    flrq_device_info device;
    flrq_bench_files files;
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(flrq_bench_files_open(&files, params, "sketch"));
    FLRQ_GOTO(parse_ranks(c->ranks, ranks, &n_ranks));
    FLRQ_GOTO(parse_methods(c->methods, wanted));
    FLRQ_GOTO(flrq_backend_open(&b.be, c->device, (int)c->threads));
    FLRQ_GOTO(b.be->info(b.be, &device));
    b.precision = device.separate_memory && c->precision != PRECISION_FULL ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL;
    for (const char *p = c->shapes; *p;) {
        long long m, n;
        int used;
        if (sscanf(p, "%lldx%lld%n", &m, &n, &used) != 2 || m < 1 || n < 1 || m > 1 << 20 || n > 1 << 20 ||
            (p[used] && p[used] != ','))
            FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "--shapes takes ROWSxCOLS with commas, not \"%s\"", c->shapes));
        p += used + (p[used] == ',');
        b.rows = m, b.cols = n;
        FLRQ_GOTO(b.be->alloc(b.be, &b.d_a, (size_t)(m * n) * sizeof(uint16_t), "the matrix"));
        FLRQ_GOTO(b.be->alloc(b.be, (void **)&b.d_scale, (size_t)n * sizeof(float), "the matrix"));
        FLRQ_GOTO(generate(&b));
        if (c->dump) FLRQ_GOTO(dump(&b));
        flrq_operand a = matrix_of(&b);
        FLRQ_GOTO(b.be->sum_squares(b.be, &b.norm2, &a));
        FLRQ_GOTO(run_matrix(&b, ranks, n_ranks, wanted));
        b.be->release(b.be, b.d_scale);
        b.be->release(b.be, b.d_a);
        b.d_a = NULL;
        b.d_scale = NULL;
    }
    *result = flrq_bench_provenance(params, b.be->name, &device);
    json_object_update_new(*result, json_pack("{s:s, s:O}", "precision",
                                              b.precision == FLRQ_PRECISION_FAST ? "fast" : "full", "rows", b.table));
    FLRQ_GOTO(flrq_bench_csv(&files, NULL, b.table, keys, sizeof keys / sizeof *keys));
    FLRQ_GOTO(flrq_bench_result(&files, *result));
out:
    if (b.be) {
        b.be->release(b.be, b.d_scale);
        b.be->release(b.be, b.d_a);
    }
    flrq_backend_close(b.be);
    json_decref(b.table);
    return status;
}
