/* matrix.c - single-matrix calls of the public interface. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"
#include "pipeline/job.h"

void flrq_matrix_free(flrq_matrix *m) {
    if (!m) return;
    free(m->codes.code);
    free(m->codes.scale);
    free(m->codes.zero);
    free(m->l);
    free(m->r);
    free(m);
}

/* Host copy of `bytes` of backend memory. */
static flrq_status fetch(flrq_backend *be, void *out, const void *d_from, size_t bytes) {
    void *copy = malloc(bytes ? bytes : 1);
    if (!copy) return flrq_fail_memory(bytes, "a quantized matrix");
    flrq_status status = be->download(be, copy, d_from, bytes);
    if (status != FLRQ_OK) {
        free(copy);
        return status;
    }
    *(void **)out = copy;
    return FLRQ_OK;
}

static flrq_status send(flrq_backend *be, void *d_out, const void *from, size_t bytes, const char *what) {
    FLRQ_TRY(be->alloc(be, (void **)d_out, bytes, what));
    return be->upload(be, *(void **)d_out, from, bytes);
}

flrq_status flrq_quantize_matrix(flrq_matrix **out, const flrq_params *params, const char *name, const float *w,
                                 int64_t rows, int64_t cols, const flrq_calibration *calibration) {
    *out = NULL;
    if (!w || !name || rows < 1 || cols < 1)
        return flrq_fail(FLRQ_ERR_USAGE, "a matrix of at least 1 x 1 and a name are wanted");
    const flrq_config *c = &params->config;
    flrq_status status = FLRQ_OK;
    flrq_backend *be = NULL;
    flrq_fit_options options;
    flrq_fit_space *space = NULL;
    flrq_codes codes = {0};
    float *d_w = NULL, *d_l = NULL, *d_r = NULL, *d_sketch = NULL;
    double *abs_sum = NULL, *square_sum = NULL;
    int64_t bad, first;
    flrq_extent extent = {rows, cols, rows * cols};
    size_t n = (size_t)cols, count = (size_t)extent.count;
    flrq_matrix *m = calloc(1, sizeof *m);
    if (!m) return flrq_fail_memory(sizeof *m, "a quantized matrix");
    flrq_fit_options_from(&options, c, FLRQ_F16);
    size_t cap = (size_t)flrq_fit_rank_cap(&options, rows, cols);
    FLRQ_GOTO(flrq_backend_open(&be, c->device, (int)c->threads));
    FLRQ_GOTO(send(be, &d_w, w, count * sizeof *w, "the matrix"));
    flrq_operand operand = {.rows = rows, .cols = cols, .d_dense = d_w, .ld_dense = cols, .dense_dtype = FLRQ_F32};
    FLRQ_GOTO(be->count_nonfinite(be, &bad, &first, &operand));
    if (bad)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_NUMERIC,
                            "matrix %s: %lld values are NaN or infinite, the first at row %lld, column %lld", name,
                            (long long)bad, (long long)(first / cols), (long long)(first % cols)));
    flrq_input_stats stats = {.n = cols, .tokens = 1};
    if (calibration && calibration->mean_square) {
        abs_sum = malloc(n * sizeof *abs_sum);
        square_sum = malloc(n * sizeof *square_sum);
        if (!abs_sum || !square_sum) FLRQ_GOTO(flrq_fail_memory(n * sizeof *abs_sum, "calibration"));
        for (size_t j = 0; j < n; j++) {
            square_sum[j] = calibration->mean_square[j];
            abs_sum[j] = calibration->mean_abs ? calibration->mean_abs[j] : sqrt(square_sum[j]);
        }
        stats.abs_sum = abs_sum, stats.square_sum = square_sum;
    }
    if (calibration && calibration->sketch && calibration->sketch_cols > 0) {
        FLRQ_GOTO(send(be, &d_sketch, calibration->sketch, n * (size_t)calibration->sketch_cols * sizeof(float),
                       "the activation sketch"));
        stats.d_sketch = d_sketch, stats.sketch_cols = calibration->sketch_cols;
    }
    FLRQ_GOTO(flrq_codes_alloc(&codes, be, &options.scheme, extent));
    FLRQ_GOTO(be->alloc(be, (void **)&d_l, (cap + 1) * (size_t)rows * sizeof(float), "the left factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_r, (cap + 1) * n * sizeof(float), "the right factor"));
    FLRQ_GOTO(flrq_fit_space_new(&space, be, &options, extent));
    flrq_fit_result result;
    FLRQ_GOTO(flrq_fit(space, be, flrq_comm_self(), &options, name, &operand, &stats, &codes, d_l, d_r, &result));
    size_t cells = (size_t)(rows * codes.n_groups), rank = (size_t)result.rank;
    m->codes = codes;
    m->codes.code = NULL, m->codes.scale = NULL, m->codes.zero = NULL;
    FLRQ_GOTO(fetch(be, &m->codes.code, codes.code, count));
    FLRQ_GOTO(fetch(be, &m->codes.scale, codes.scale, cells * sizeof(float)));
    if (codes.zero) FLRQ_GOTO(fetch(be, &m->codes.zero, codes.zero, cells));
    if (rank) {
        FLRQ_GOTO(fetch(be, &m->l, d_l, rank * (size_t)rows * sizeof(float)));
        FLRQ_GOTO(fetch(be, &m->r, d_r, rank * n * sizeof(float)));
    }
    m->rank = result.rank;
    m->bits_per_weight = result.bits_per_weight;
    m->error = result.error;
    m->error_nearest = result.error_nearest;
    m->seconds = result.seconds;
out:
    if (be) {
        flrq_fit_space_free(space, be);
        flrq_codes_release(&codes, be);
        be->release(be, d_sketch);
        be->release(be, d_r);
        be->release(be, d_l);
        be->release(be, d_w);
    }
    flrq_backend_close(be);
    free(square_sum);
    free(abs_sum);
    if (status != FLRQ_OK) {
        flrq_matrix_free(m);
        return status;
    }
    *out = m;
    return FLRQ_OK;
}

flrq_status flrq_sketch_matrix(const char *method, const float *a, int64_t rows, int64_t cols, int64_t rank,
                               int power_iterations, uint64_t seed, int threads, float *u, float *s, float *v,
                               double *residual) {
    static const char *const names[] = {"block", "r1", "svd"};
    flrq_sketch_options options = {.power_iterations = power_iterations, .oversample = 8};
    int kind = 0;
    while (kind < 3 && strcmp(names[kind], method) != 0) kind++;
    if (kind == 3) return flrq_fail(FLRQ_ERR_USAGE, "unknown sketch \"%s\"; known: block, r1, svd", method);
    if (rows < 1 || cols < 1 || rank < 1 || rank > rows || rank > cols)
        return flrq_fail(FLRQ_ERR_USAGE, "rank %lld of a %lld x %lld matrix", (long long)rank, (long long)rows,
                         (long long)cols);
    options.kind = (flrq_sketch_kind)kind;
    options.key = flrq_philox_key(seed, "sketch");
    flrq_status status = FLRQ_OK;
    flrq_backend *be = NULL;
    flrq_sketch *sketch = NULL;
    float *d_a = NULL, *host = NULL;
    int64_t longest = rows > cols ? rows : cols;
    FLRQ_TRY(flrq_backend_open(&be, "cpu", threads));
    FLRQ_GOTO(send(be, &d_a, a, (size_t)(rows * cols) * sizeof *a, "the matrix"));
    FLRQ_GOTO(flrq_sketch_new(&sketch, be, &options, (flrq_extent){rows, cols, rows * cols}, rank));
    flrq_operand target = {.rows = rows, .cols = cols, .d_dense = d_a, .ld_dense = cols, .dense_dtype = FLRQ_F32};
    FLRQ_GOTO(flrq_sketch_run(sketch, be, flrq_comm_self(), &options, &target, rank, 0, NULL));
    int64_t width = sketch->width;
    host = malloc((size_t)(longest * width) * sizeof *host);
    if (!host) FLRQ_GOTO(flrq_fail_memory((size_t)(longest * width) * sizeof *host, "the factors"));
    FLRQ_GOTO(be->download(be, host, sketch->d_u, (size_t)(rows * width) * sizeof *host));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < rank; k++) u[i * rank + k] = host[i * width + k];
    FLRQ_GOTO(be->download(be, host, sketch->d_v, (size_t)(cols * width) * sizeof *host));
    for (int64_t k = 0; k < rank; k++) {
        double sigma = sketch->sigma[k];
        s[k] = (float)sigma;
        for (int64_t j = 0; j < cols; j++) v[j * rank + k] = sigma > 0 ? (float)(host[j * width + k] / sigma) : 0;
    }
    if (residual) { /* measured on A - U S V^T itself: S goes into V */
        for (int64_t j = 0; j < cols; j++)
            for (int64_t k = 0; k < rank; k++) host[k * cols + j] = v[j * rank + k] * s[k];
        FLRQ_GOTO(be->upload(be, sketch->d_y, u, (size_t)(rows * rank) * sizeof *u));
        FLRQ_GOTO(be->upload(be, sketch->d_z, host, (size_t)(cols * rank) * sizeof *host));
        target.d_l = sketch->d_y, target.d_r = sketch->d_z, target.rank = rank, target.lr_sign = -1;
        FLRQ_GOTO(be->sum_squares(be, residual, &target));
        *residual = sqrt(*residual);
    }
out:
    flrq_sketch_free(sketch, be);
    be->release(be, d_a);
    flrq_backend_close(be);
    free(host);
    return status;
}
