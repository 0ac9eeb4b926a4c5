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

/* Elements of a matrix that a byte count of 64 bits still holds with room for the buffers beside it. */
static int too_large(int64_t rows, int64_t cols) {
    return rows > INT64_MAX / 64 / cols;
}

/* Refuses NaN, infinity and (for means) negative values of a calibration array; NULL is fine. */
static flrq_status check_values(const char *name, const char *what, const float *values, size_t count, int mean) {
    for (size_t i = 0; values && i < count; i++)
        if (!isfinite(values[i]) || (mean && values[i] < 0))
            return flrq_fail(FLRQ_ERR_NUMERIC, "matrix %s: %s of the calibration is %g at index %zu", name, what,
                             (double)values[i], i);
    return FLRQ_OK;
}

static flrq_status check_calibration(const char *name, const flrq_calibration *c, int64_t cols) {
    if (!c) return FLRQ_OK;
    if (c->size < sizeof *c)
        return flrq_fail(FLRQ_ERR_USAGE, "matrix %s: a calibration of %zu bytes; start from FLRQ_CALIBRATION_INIT",
                         name, c->size);
    if (c->sketch && (c->sketch_cols < 1 || too_large(cols, c->sketch_cols)))
        return flrq_fail(FLRQ_ERR_USAGE, "matrix %s: an activation sketch of %lld columns", name,
                         (long long)c->sketch_cols);
    FLRQ_TRY(check_values(name, "mean_square", c->mean_square, (size_t)cols, 1));
    FLRQ_TRY(check_values(name, "mean_abs", c->mean_abs, (size_t)cols, 1));
    return check_values(name, "sketch", c->sketch, c->sketch ? (size_t)(cols * c->sketch_cols) : 0, 0);
}

/* Host copy of a mean per column in double, or NULL when there is none. */
static flrq_status widen(double **out, const float *mean, size_t count) {
    if (!mean) return FLRQ_OK;
    if (!(*out = malloc(count * sizeof **out))) return flrq_fail_memory(count * sizeof **out, "calibration");
    for (size_t j = 0; j < count; j++) (*out)[j] = mean[j];
    return FLRQ_OK;
}

static flrq_status check_finite(flrq_backend *be, const char *name, const flrq_operand *a) {
    int64_t bad, first;
    FLRQ_TRY(be->count_nonfinite(be, &bad, &first, a));
    if (!bad) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_NUMERIC, "matrix %s: %lld values are NaN or infinite, the first at row %lld, column %lld",
                     name, (long long)bad, (long long)(first / a->cols), (long long)(first % a->cols));
}

flrq_status flrq_quantize_matrix(flrq_matrix **out, const flrq_params *params, const char *name, const float *w,
                                 int64_t rows, int64_t cols, const flrq_calibration *calibration) {
    *out = NULL;
    if (!params || !w || !name || rows < 1 || cols < 1 || too_large(rows, cols))
        return flrq_fail(FLRQ_ERR_USAGE, "settings, a name and a matrix from 1 x 1 to 2^57 elements are wanted");
    if (strcmp(flrq_commands()[params->command], "quantize") != 0)
        return flrq_fail(FLRQ_ERR_USAGE, "settings made for \"quantize\" are wanted, not for \"%s\"",
                         flrq_commands()[params->command]);
    FLRQ_TRY(flrq_params_check_bits(params));
    FLRQ_TRY(check_calibration(name, calibration, cols));
    const flrq_config *c = &params->config;
    flrq_status status = FLRQ_OK;
    flrq_backend *be = NULL;
    flrq_fit_options options;
    flrq_fit_space *space = NULL;
    flrq_codes codes = {0};
    float *d_w = NULL, *d_l = NULL, *d_r = NULL, *d_sketch = NULL;
    double *abs_sum = NULL, *square_sum = NULL;
    flrq_extent extent = {rows, cols, rows * cols};
    size_t n = (size_t)cols, count = (size_t)extent.count;
    flrq_matrix *m = calloc(1, sizeof *m);
    if (!m) return flrq_fail_memory(sizeof *m, "a quantized matrix");
    flrq_fit_options_from(&options, c, FLRQ_F16);
    size_t cap = (size_t)flrq_fit_rank_cap(&options, rows, cols);
    FLRQ_GOTO(flrq_backend_open(&be, c->device, (int)c->threads));
    FLRQ_GOTO(send(be, &d_w, w, count * sizeof *w, "the matrix"));
    flrq_operand operand = {.rows = rows, .cols = cols, .d_dense = d_w, .ld_dense = cols, .dense_dtype = FLRQ_F32};
    FLRQ_GOTO(check_finite(be, name, &operand));
    flrq_input_stats stats = {.n = cols, .tokens = 1};
    if (calibration) {
        FLRQ_GOTO(widen(&abs_sum, calibration->mean_abs, n));
        FLRQ_GOTO(widen(&square_sum, calibration->mean_square, n));
    }
    stats.abs_sum = abs_sum, stats.square_sum = square_sum;
    if (calibration && calibration->sketch) {
        FLRQ_GOTO(send(be, &d_sketch, calibration->sketch, n * (size_t)calibration->sketch_cols * sizeof(float),
                       "the activation sketch"));
        stats.d_sketch = d_sketch, stats.sketch_cols = calibration->sketch_cols;
    }
    FLRQ_GOTO(flrq_codes_alloc(&codes, be, &options.scheme, extent));
    FLRQ_GOTO(be->alloc(be, (void **)&d_l, (cap + 1) * (size_t)rows * sizeof(float), "the left factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_r, (cap + 1) * n * sizeof(float), "the right factor"));
    FLRQ_GOTO(flrq_fit_space_new(&space, be, &options, extent));
    flrq_fit_result result;
    status = flrq_fit(space, be, flrq_comm_self(), &options, name, &operand, &stats, &codes, d_l, d_r, &result);
    if (status != FLRQ_OK) FLRQ_GOTO(flrq_trace(status, "matrix %s", name));
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
    while (kind < 3 && (!method || strcmp(names[kind], method) != 0)) kind++;
    if (kind == 3)
        return flrq_fail(FLRQ_ERR_USAGE, "unknown sketch \"%s\"; known: block, r1, svd", method ? method : "");
    if (!a || !u || !s || !v) return flrq_fail(FLRQ_ERR_USAGE, "a sketch needs a matrix and room for u, s and v");
    if (rows < 1 || cols < 1 || rank < 1 || rank > rows || rank > cols || too_large(rows, cols))
        return flrq_fail(FLRQ_ERR_USAGE, "rank %lld of a %lld x %lld matrix", (long long)rank, (long long)rows,
                         (long long)cols);
    if (power_iterations < 0) return flrq_fail(FLRQ_ERR_USAGE, "%d power iterations of a sketch", power_iterations);
    options.kind = (flrq_sketch_kind)kind;
    options.key = flrq_philox_key(seed, "sketch");
    flrq_status status = FLRQ_OK;
    flrq_backend *be = NULL;
    flrq_sketch *sketch = NULL;
    float *d_a = NULL, *host = NULL;
    int64_t longest = rows > cols ? rows : cols;
    FLRQ_TRY(flrq_backend_open(&be, "cpu", threads));
    FLRQ_GOTO(send(be, &d_a, a, (size_t)(rows * cols) * sizeof *a, "the matrix"));
    flrq_operand target = {.rows = rows, .cols = cols, .d_dense = d_a, .ld_dense = cols, .dense_dtype = FLRQ_F32};
    FLRQ_GOTO(check_finite(be, "to sketch", &target));
    FLRQ_GOTO(flrq_sketch_new(&sketch, be, &options, (flrq_extent){rows, cols, rows * cols}, rank));
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
