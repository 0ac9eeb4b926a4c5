/* bench_sketch.c - seconds and residual of every sketch on matrices with known spectra, side by side in one run.
 *
 * A = (noise + sum_i s_i u_i v_i^T) diag(c), made from the seed alone, with Gaussian and hence nearly orthonormal u_i,
 * v_i. The optimum |A - A_r|_F comes from the exact SVD when that is among the methods. Times are medians over runs
 * after one warm-up; a method stops repeating once it has used TIME_PER_CASE seconds, and the row says how many runs it
 * had.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"
#include "pipeline/job.h"

/* Order of the choices of --spectrum. llm: power law on a noise floor, and 0.2 % of the columns eight times larger.
 * flat: noise alone. fast: every 8 terms halve. The structure of llm carries about half of the energy. */
enum { SPECTRUM_LLM = 0, SPECTRUM_FLAT = 1, SPECTRUM_FAST = 2 };
enum { MAX_LIST = 16, STRUCTURE = 192, OUTLIER_EVERY = 512 };
static const float outlier_scale = 8;
static const double time_per_case = 60;

typedef struct bench {
    flrq_backend *be;
    const flrq_config *config;
    flrq_reporter *reporter;
    float *d_a, *d_scale;
    int64_t rows, cols;
    double norm2;
    json_t *table;
} bench;

static flrq_status generate(bench *b) {
    flrq_backend *be = b->be;
    int64_t m = b->rows, n = b->cols, k = b->config->spectrum == SPECTRUM_FLAT ? 0 : STRUCTURE;
    uint64_t key = flrq_philox_key((uint64_t)b->config->seed, "bench matrix");
    flrq_status status = FLRQ_OK;
    float *d_u = NULL, *d_v = NULL, *v = malloc((size_t)(n * (k + 1)) * sizeof *v);
    if (!v) return flrq_fail_memory((size_t)(n * k) * sizeof *v, "the matrix");
    FLRQ_GOTO(be->normal(be, b->d_a, key, 0, 0, m * n));
    if (k) {
        /* |u_i v_i^T| is about sqrt(m n), the noise has that norm in all: s_1 = 0.3 of it, floor 1 for llm, 1 % for
         * fast */
        FLRQ_GOTO(be->alloc(be, (void **)&d_u, (size_t)(m * k) * sizeof *d_u, "structure"));
        FLRQ_GOTO(be->alloc(be, (void **)&d_v, (size_t)(n * k) * sizeof *d_v, "structure"));
        FLRQ_GOTO(be->normal(be, d_u, key, 1, 0, m * k));
        flrq_philox_normal(v, key, 2, 0, (uint64_t)(n * k));
        for (int64_t i = 0; i < k; i++) {
            float s = b->config->spectrum == SPECTRUM_LLM ? 0.4f * powf((float)(i + 1), -0.7f) : exp2f(-(float)i / 8);
            for (int64_t j = 0; j < n; j++) v[i * n + j] *= s;
        }
        FLRQ_GOTO(be->upload(be, d_v, v, (size_t)(n * k) * sizeof *v));
        FLRQ_GOTO(be->gemm(be, b->d_a, d_u, d_v, m, n, k, 1, b->config->spectrum == SPECTRUM_LLM ? 1.0f : 0.01f));
    }
    for (int64_t j = 0; j < n; j++)
        v[j] = b->config->spectrum == SPECTRUM_LLM && j % OUTLIER_EVERY == OUTLIER_EVERY / 2 ? outlier_scale : 1;
    FLRQ_GOTO(be->upload(be, b->d_scale, v, (size_t)n * sizeof *v));
out:
    be->release(be, d_v);
    be->release(be, d_u);
    free(v);
    return status;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct timing {
    double median, p10, p90, residual;
    int runs;
} timing;

static flrq_status run_case(bench *b, flrq_sketch_kind kind, int64_t rank, timing *out, double *sigma) {
    flrq_backend *be = b->be;
    flrq_sketch_options options = {.kind = kind,
                                   .power_iterations = (int)b->config->power_iterations,
                                   .oversample = (int)b->config->oversample,
                                   .key = flrq_philox_key((uint64_t)b->config->seed, "bench sketch")};
    flrq_operand target = {.rows = b->rows,
                           .cols = b->cols,
                           .d_dense = b->d_a,
                           .ld_dense = b->cols,
                           .dense_dtype = FLRQ_F32,
                           .d_col_scale = b->d_scale};
    double seconds[1000], total = 0;
    int exact = kind == FLRQ_SKETCH_SVD, runs = 0;
    flrq_sketch *sketch;
    FLRQ_TRY(flrq_sketch_new(&sketch, be, &options, (flrq_extent){b->rows, b->cols, b->rows * b->cols}, rank));
    flrq_status status = FLRQ_OK;
    for (int i = exact ? 1 : 0; i <= b->config->repeats; i++) {
        if (flrq_stop_requested()) FLRQ_GOTO(flrq_fail(FLRQ_STOPPED, "stopped; bench keeps no state"));
        double t = flrq_seconds();
        FLRQ_GOTO(flrq_sketch_run(sketch, be, flrq_comm_self(), &options, &target, rank, 0, NULL));
        FLRQ_GOTO(be->sync(be));
        t = flrq_seconds() - t;
        total += t;
        if (i > 0) seconds[runs++] = t; /* run 0 warms up */
        if (runs && total > time_per_case) break;
    }
    qsort(seconds, (size_t)runs, sizeof *seconds, by_value);
    out->runs = runs;
    out->median = seconds[runs / 2];
    out->p10 = seconds[runs / 10];
    out->p90 = seconds[runs - 1 - runs / 10];
    if (exact) {
        for (int64_t i = 0; i < rank; i++) sigma[i] = sketch->sigma[i];
        goto out;
    }
    /* |A - Q Q^T A|^2 = |A|^2 - |Q^T A|^2 holds for the block method only; measure the difference itself. V carries
     * sigma. */
    int64_t width = sketch->width;
    float *v = malloc((size_t)(b->cols * width) * sizeof *v), *r = malloc((size_t)(b->cols * rank) * sizeof *r);
    float *u = malloc((size_t)(b->rows * width) * sizeof *u);
    if (v && r && u) {
        status = be->download(be, v, sketch->d_v, (size_t)(b->cols * width) * sizeof *v);
        if (status == FLRQ_OK) status = be->download(be, u, sketch->d_u, (size_t)(b->rows * width) * sizeof *u);
        for (int64_t k = 0; k < rank; k++)
            for (int64_t j = 0; j < b->cols; j++)
                r[k * b->cols + j] =
                    v[j * width + k] /
                    (j % OUTLIER_EVERY == OUTLIER_EVERY / 2 && b->config->spectrum == SPECTRUM_LLM ? outlier_scale : 1);
        for (int64_t i = 0; i < b->rows; i++) memmove(u + i * rank, u + i * width, (size_t)rank * sizeof *u);
        if (status == FLRQ_OK) status = be->upload(be, sketch->d_y, u, (size_t)(b->rows * rank) * sizeof *u);
        if (status == FLRQ_OK) status = be->upload(be, sketch->d_z, r, (size_t)(b->cols * rank) * sizeof *r);
        target.d_l = sketch->d_y, target.d_r = sketch->d_z, target.rank = rank, target.lr_sign = -1;
        if (status == FLRQ_OK) status = be->sum_squares(be, &out->residual, &target);
        out->residual = sqrt(out->residual);
    } else
        status = flrq_fail_memory((size_t)(b->rows * width) * sizeof *u, "the residual");
    free(u);
    free(r);
    free(v);
out:
    flrq_sketch_free(sketch, be);
    return status;
}

static void add_row(bench *b, int64_t rank, const char *method, const timing *t, double optimum, double r1,
                    double svd) {
    static const char *const spectra[] = {"llm", "flat", "fast"};
    json_array_append_new(b->table,
                          json_pack("{s:I, s:I, s:s, s:I, s:s, s:f, s:f, s:f, s:i, s:f, s:o, s:o, s:o, s:o}", "rows",
                                    (json_int_t)b->rows, "cols", (json_int_t)b->cols, "spectrum",
                                    spectra[b->config->spectrum], "rank", (json_int_t)rank, "method", method, "seconds",
                                    t->median, "seconds_p10", t->p10, "seconds_p90", t->p90, "runs", t->runs,
                                    "residual", t->residual, "optimum", optimum > 0 ? json_real(optimum) : json_null(),
                                    "excess", optimum > 0 ? json_real(t->residual / optimum - 1) : json_null(),
                                    "speedup_over_r1", r1 > 0 ? json_real(r1 / t->median) : json_null(),
                                    "speedup_over_svd", svd > 0 ? json_real(svd / t->median) : json_null()));
}

/* All methods and ranks on one matrix. The exact SVD gives all ranks at once and goes first, since it knows the
 * optimum. */
static flrq_status run_matrix(bench *b, const int64_t *ranks, int n_ranks, const int *wanted) {
    static const char *const names[] = {"block", "r1", "svd"};
    int64_t full = b->rows < b->cols ? b->rows : b->cols, largest = 0;
    timing exact = {0};
    flrq_status status = FLRQ_OK;
    double *sigma = calloc((size_t)full, sizeof *sigma);
    if (!sigma) return flrq_fail_memory((size_t)full * sizeof *sigma, "singular values");
    for (int i = 0; i < n_ranks; i++) largest = ranks[i] > largest ? ranks[i] : largest;
    if (largest > full) largest = full;
    if (wanted[FLRQ_SKETCH_SVD]) {
        flrq_progress(b->reporter, "svd", 0, 1);
        FLRQ_GOTO(run_case(b, FLRQ_SKETCH_SVD, largest, &exact, sigma));
    }
    for (int i = 0; i < n_ranks; i++) {
        int64_t rank = ranks[i] < full ? ranks[i] : full;
        timing t[2];
        memset(t, 0, sizeof t);
        double optimum2 = b->norm2;
        for (int64_t k = 0; k < rank; k++) optimum2 -= sigma[k] * sigma[k];
        double optimum = wanted[FLRQ_SKETCH_SVD] ? sqrt(fmax(optimum2, 0)) : 0;
        for (int kind = 0; kind < 2; kind++) {
            if (!wanted[kind]) continue;
            flrq_progress(b->reporter, names[kind], i, n_ranks);
            FLRQ_GOTO(run_case(b, (flrq_sketch_kind)kind, rank, &t[kind], sigma));
        }
        for (int kind = 0; kind < 2; kind++)
            if (wanted[kind]) add_row(b, rank, names[kind], &t[kind], optimum, t[1].median, exact.median);
        exact.residual = optimum;
        if (wanted[FLRQ_SKETCH_SVD]) add_row(b, rank, "svd", &exact, optimum, t[1].median, exact.median);
    }
out:
    free(sigma);
    return status;
}

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
    static const char *const names[] = {"block", "r1", "svd"};
    for (const char *p = text; *p;) {
        size_t length = strcspn(p, ",");
        int kind = 0;
        while (kind < 3 && !(strlen(names[kind]) == length && strncmp(p, names[kind], length) == 0)) kind++;
        if (kind == 3) return flrq_fail(FLRQ_ERR_USAGE, "--methods takes block, r1, svd with commas, not \"%s\"", text);
        wanted[kind] = 1;
        p += length + (p[length] == ',');
    }
    return FLRQ_OK;
}

static flrq_status write_csv(const char *path, const json_t *table) {
    static const char *const keys[] = {
        "rows",        "cols", "spectrum", "rank",    "method", "seconds",         "seconds_p10",
        "seconds_p90", "runs", "residual", "optimum", "excess", "speedup_over_r1", "speedup_over_svd"};
    enum { KEYS = sizeof keys / sizeof *keys };
    char *text = NULL;
    size_t bytes, i;
    json_t *row;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return flrq_fail_memory(0, "the CSV");
    for (int k = 0; k < KEYS; k++) fprintf(f, "%s%s", k ? "," : "", keys[k]);
    fputc('\n', f);
    json_array_foreach(table, i, row) {
        for (int k = 0; k < KEYS; k++) {
            const json_t *v = json_object_get(row, keys[k]);
            fputs(k ? "," : "", f);
            if (json_is_string(v)) fputs(json_string_value(v), f);
            if (json_is_number(v)) fprintf(f, "%.9g", json_number_value(v));
        }
        fputc('\n', f);
    }
    fclose(f);
    flrq_status status = flrq_file_write(path, text, bytes);
    free(text);
    return status;
}

flrq_status flrq_job_bench_sketch(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    bench b = {.config = c, .reporter = reporter, .table = json_array()};
    int64_t ranks[MAX_LIST];
    int n_ranks = 0, wanted[3] = {0};
    flrq_device_info device;
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(parse_ranks(c->ranks, ranks, &n_ranks));
    FLRQ_GOTO(parse_methods(c->methods, wanted));
    FLRQ_GOTO(flrq_backend_open(&b.be, c->device, (int)c->threads));
    FLRQ_GOTO(b.be->info(b.be, &device));
    for (const char *p = c->shapes; *p;) {
        long long m, n;
        int used;
        if (sscanf(p, "%lldx%lld%n", &m, &n, &used) != 2 || m < 1 || n < 1 || m > 1 << 20 || n > 1 << 20 ||
            (p[used] && p[used] != ','))
            FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "--shapes takes ROWSxCOLS with commas, not \"%s\"", c->shapes));
        p += used + (p[used] == ',');
        b.rows = m, b.cols = n;
        FLRQ_GOTO(b.be->alloc(b.be, (void **)&b.d_a, (size_t)(m * n) * sizeof(float), "the matrix"));
        FLRQ_GOTO(b.be->alloc(b.be, (void **)&b.d_scale, (size_t)n * sizeof(float), "the matrix"));
        FLRQ_GOTO(generate(&b));
        flrq_operand a = {
            .rows = m, .cols = n, .d_dense = b.d_a, .ld_dense = n, .dense_dtype = FLRQ_F32, .d_col_scale = b.d_scale};
        FLRQ_GOTO(b.be->sum_squares(b.be, &b.norm2, &a));
        FLRQ_GOTO(run_matrix(&b, ranks, n_ranks, wanted));
        b.be->release(b.be, b.d_scale);
        b.be->release(b.be, b.d_a);
        b.d_a = b.d_scale = NULL;
    }
    if (c->csv) FLRQ_GOTO(write_csv(c->csv, b.table));
    *result = json_pack("{s:s, s:i, s:O}", "machine", device.name, "threads", device.threads, "rows", b.table);
out:
    if (b.be) {
        b.be->release(b.be, b.d_scale);
        b.be->release(b.be, b.d_a);
    }
    flrq_backend_close(b.be);
    json_decref(b.table);
    return status;
}
