/* bench_common.c - limits of a device, lists of names: see bench.h. */
#include "pipeline/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases/opcase.h"

/* ---- limits ------------------------------------------------------------------------------------------------------ */

enum {
    SMALLEST_COPY = 1 << 18,
    LARGEST_COPY = 1 << 28,
    SMALLEST_SIDE = 256,
    LARGEST_SIDE = 8192
}; /* floats, columns */
static const double long_enough = 0.02;

static void run_copy(op_run *r, const op_case *c) {
    float *from = op_normal(r, "from", c->d[0], 1), *to = op_out(r, "to", OP_F32, c->d[0], OP_IGNORE, 0);
    op_cost(r, 8.0 * (double)c->d[0], 0);
    OP_CALL(r, copy, to, from, (size_t)c->d[0] * sizeof *from);
}

static void run_upload(op_run *r, const op_case *c) {
    float *to = op_scratch(r, OP_F32, c->d[0]);
    op_cost(r, 4.0 * (double)c->d[0], 0);
    OP_CALL(r, upload, to, c->extra, (size_t)c->d[0] * sizeof *to);
}

static void run_download(op_run *r, const op_case *c) {
    float *from = op_scratch(r, OP_F32, c->d[0]);
    op_cost(r, 4.0 * (double)c->d[0], 0);
    OP_CALL(r, download, (void *)c->extra, from, (size_t)c->d[0] * sizeof *from);
}

static void run_gemm(op_run *r, const op_case *c) {
    int64_t n = c->d[0];
    float *a = op_normal(r, "A", n * n, 1), *b = op_normal(r, "B", n * n, 1), *out = op_scratch(r, OP_F32, n * n);
    op_cost(r, 12.0 * (double)(n * n), 2.0 * (double)n * (double)n * (double)n);
    OP_CALL(r, gemm, out, a, b, n, n, n, 1, 0);
}

static void run_linear(op_run *r, const op_case *c) {
    int64_t n = c->d[0];
    flrq_operand w = op_operand(r, &(op_matrix){.rows = n, .cols = n, .dense = "BF16"});
    float *x = op_normal(r, "x", n * n, 1), *out = op_scratch(r, OP_F32, n * n);
    op_cost(r, 10.0 * (double)(n * n), 2.0 * (double)n * (double)n * (double)n);
    OP_CALL(r, linear, out, x, &w, NULL, n);
}

/* Rate at sizes n, n factor, ... up to `last`: the best of a matrix product, the last of a copy (the smaller ones may
 * lie in caches). A larger size that no memory is left for ends the search. */
static flrq_status best_rate(double *out, flrq_backend *be, op_case c, int64_t first, int64_t factor, int64_t last,
                             double seconds) {
    *out = 0;
    for (int64_t n = first; n <= last; n *= factor) {
        c.d[0] = n;
        op_timing t = op_case_time(&c, be, seconds);
        if (!t.supported || t.status == FLRQ_ERR_UNSUPPORTED) return FLRQ_OK;
        if (t.status == FLRQ_ERR_MEMORY && *out > 0) return FLRQ_OK;
        if (t.status != FLRQ_OK) return flrq_fail(t.status, "%s of %lld: %s", c.op, (long long)n, t.text);
        if (t.flops > 0)
            *out = fmax(*out, t.flops / t.median);
        else
            *out = t.bytes / t.median;
        if (t.median >= long_enough) break;
    }
    return FLRQ_OK;
}

flrq_status flrq_bench_limits_measure(flrq_bench_limits *out, flrq_backend *be, double seconds) {
    static const op_case copy = {"copy", "limit", {0}, run_copy, OP_BENCH},
                         gemm = {"gemm", "limit", {0}, run_gemm, OP_BENCH},
                         linear = {"linear", "limit", {0}, run_linear, OP_BENCH | OP_FAST};
    op_case upload = {"upload", "limit", {0}, run_upload, OP_BENCH},
            download = {"download", "limit", {0}, run_download, OP_BENCH};
    void *host = NULL;
    flrq_status status = FLRQ_OK;
    memset(out, 0, sizeof *out);
    FLRQ_GOTO(best_rate(&out->copy, be, copy, SMALLEST_COPY, 4, LARGEST_COPY, seconds));
    FLRQ_GOTO(best_rate(&out->full, be, gemm, SMALLEST_SIDE, 2, LARGEST_SIDE, seconds));
    FLRQ_GOTO(best_rate(&out->fast, be, linear, SMALLEST_SIDE, 2, LARGEST_SIDE, seconds));
    FLRQ_GOTO(be->host_alloc(be, &host, LARGEST_COPY, "the upload bench"));
    memset(host, 1, LARGEST_COPY);
    upload.extra = download.extra = host;
    int64_t floats = LARGEST_COPY / (int64_t)sizeof(float);
    FLRQ_GOTO(best_rate(&out->upload, be, upload, SMALLEST_COPY, 4, floats, seconds));
    FLRQ_GOTO(best_rate(&out->download, be, download, SMALLEST_COPY, 4, floats, seconds));
out:
    be->host_release(be, host);
    return status;
}

json_t *flrq_bench_limits_json(const flrq_bench_limits *l) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "copy_gb_s", 1e-9 * l->copy, "upload_gb_s", 1e-9 * l->upload,
                     "download_gb_s", 1e-9 * l->download, "full_gflop_s", 1e-9 * l->full, "fast_gflop_s",
                     1e-9 * l->fast);
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

/* "a, b, c" */
static flrq_status fail_choice(const char *option, const char *const *names, int count, const char *text) {
    char all[256] = "";
    for (int i = 0; i < count; i++) {
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i ? ", " : "", names[i]);
    }
    return flrq_fail(FLRQ_ERR_USAGE, "--%s takes %s with commas, not \"%s\"", option, all, text);
}

flrq_status flrq_bench_choices(const char *option, const char *text, const char *const *names, int count, int *chosen,
                               int *n_chosen) {
    *n_chosen = 0;
    for (const char *p = text;; p++) {
        size_t length = strcspn(p, ",");
        int found = 0;
        while (found < count && !(strlen(names[found]) == length && strncmp(p, names[found], length) == 0)) found++;
        if (found == count) return fail_choice(option, names, count, text);
        for (int i = 0; i < *n_chosen; i++)
            if (chosen[i] == found) return flrq_fail(FLRQ_ERR_USAGE, "--%s names %s twice", option, names[found]);
        chosen[(*n_chosen)++] = found;
        p += length;
        if (!*p) return FLRQ_OK;
    }
}
