/* matrices.h - what the tests of the numerical core share: matrices with chosen spectra, norms in double, backend
 * memory, and a backend that fails or counts on demand.
 *
 * Include once per program, after the cmocka prologue below. Everything random comes from Philox with fixed keys.
 * Refuses to depend on the code under test beyond the backend table and core/.
 */
#ifndef FLRQ_TESTS_QUANT_MATRICES_H
#define FLRQ_TESTS_QUANT_MATRICES_H

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/dtype.h"
#include "core/error.h"
#include "core/philox.h"
#include "flrq_backend.h"

#define EPS32 0x1p-24 /* unit roundoff of fp32 */

/* Fails with both numbers unless value <= bound; NaN fails. */
#define CHECK_LE(value, bound)                                                                                         \
    do {                                                                                                               \
        double check_value_ = (value), check_bound_ = (bound);                                                         \
        if (!(check_value_ <= check_bound_))                                                                           \
            fail_msg("%s = %.9g is not <= %s = %.9g", #value, check_value_, #bound, check_bound_);                     \
    } while (0)

#define CHECK_OK(call)                                                                                                 \
    do {                                                                                                               \
        flrq_status check_status_ = (call);                                                                            \
        if (check_status_ != FLRQ_OK)                                                                                  \
            fail_msg("%s: %s: %s", #call, flrq_status_name(check_status_), flrq_last_error());                         \
    } while (0)

/* Runs the call, wants this status and a text that contains `part`. */
#define CHECK_FAILS(call, want, part)                                                                                  \
    do {                                                                                                               \
        flrq_status check_status_ = (call);                                                                            \
        if (check_status_ != (want))                                                                                   \
            fail_msg("%s: %s (%s), want %s", #call, flrq_status_name(check_status_), flrq_last_error(),                \
                     flrq_status_name(want));                                                                          \
        if (!strstr(flrq_last_error(), part)) fail_msg("%s: \"%s\" lacks \"%s\"", #call, flrq_last_error(), part);     \
    } while (0)

/* ---- host memory and random numbers ------------------------------------------------------------------------------ */

static inline void *test_alloc(int64_t count, size_t size) {
    void *memory = calloc(count > 0 ? (size_t)count : 1, size);
    assert_non_null(memory);
    return memory;
}

static inline float *floats(int64_t count) {
    return test_alloc(count, sizeof(float));
}

static inline double *doubles(int64_t count) {
    return test_alloc(count, sizeof(double));
}

/* `count` standard normals times `scale`; equal `key` means equal numbers. */
static inline float *normals(int64_t count, double scale, uint64_t key) {
    float *out = floats(count);
    flrq_philox_normal(out, key, 77, 0, (uint64_t)count);
    for (int64_t i = 0; i < count; i++) out[i] = (float)(out[i] * scale);
    return out;
}

/* ---- chosen spectra ---------------------------------------------------------------------------------------------- */

/* Element i of the k-th DCT-II vector of length n: orthonormal in k up to double rounding. Each element's sign is
 * turned at random (which keeps it so), because smooth vectors are too kind. */
static inline double basis(int64_t n, int64_t i, int64_t k, uint64_t key) {
    double sign = flrq_philox_below(key, 5, (uint64_t)i, 2) ? 1 : -1;
    return sign * sqrt((k ? 2.0 : 1.0) / (double)n) * cos(M_PI * (2.0 * (double)i + 1) * (double)k / (2.0 * (double)n));
}

/* A [m, n] = sum_k s_k u_k v_k^T with orthonormal u and v, rounded to fp32 once. */
static inline float *with_spectrum(int64_t m, int64_t n, const double *s, int64_t count, uint64_t key) {
    double *u = doubles(m * count), *v = doubles(n * count);
    float *a = floats(m * n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < count; k++) u[i * count + k] = s[k] * basis(m, i, k, key);
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < count; k++) v[j * count + k] = basis(n, j, k, key + 1);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < count; k++) sum += u[i * count + k] * v[j * count + k];
            a[i * n + j] = (float)sum;
        }
    free(u);
    free(v);
    return a;
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

static inline double norm_of(const float *a, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)a[i] * a[i];
    return sqrt(sum);
}

/* sqrt(sum of squares of s[from..to-1]) */
static inline double tail_of(const double *s, int64_t from, int64_t to) {
    double sum = 0;
    for (int64_t i = from; i < to; i++) sum += s[i] * s[i];
    return sqrt(sum);
}

static inline int64_t first_nonfinite(const float *a, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(a[i])) return i;
    return -1;
}

/* max |X^T X - I| over columns [0, b) of x [n, ld]. */
static inline double orthogonality_error(const float *x, int64_t n, int64_t b, int64_t ld) {
    double worst = 0;
    for (int64_t p = 0; p < b; p++)
        for (int64_t q = 0; q <= p; q++) {
            double dot = 0;
            for (int64_t i = 0; i < n; i++) dot += (double)x[i * ld + p] * x[i * ld + q];
            double error = fabs(dot - (p == q));
            if (!(error <= worst)) worst = error;
        }
    return worst;
}

/* ---- backends ---------------------------------------------------------------------------------------------------- */

static inline flrq_backend *open_backend(const char *name, int threads) {
    flrq_backend *be = NULL;
    CHECK_OK(flrq_backend_open(&be, name, threads));
    return be;
}

/* Backend memory holding a copy of `host`, or 0xFF (NaN) bytes when `host` is NULL. */
static inline void *to_device(flrq_backend *be, const void *host, size_t bytes) {
    void *d = NULL, *fill = NULL;
    CHECK_OK(be->alloc(be, &d, bytes ? bytes : 1, "test"));
    if (!host) {
        fill = test_alloc((int64_t)bytes, 1);
        memset(fill, 0xFF, bytes);
    }
    CHECK_OK(be->upload(be, d, host ? host : fill, bytes));
    free(fill);
    return d;
}

/* Host copy of backend memory. */
static inline void *to_host(flrq_backend *be, const void *d, size_t bytes) {
    void *host = test_alloc((int64_t)bytes, 1);
    CHECK_OK(be->download(be, host, d, bytes));
    return host;
}

static inline flrq_operand dense_operand(const float *d_a, int64_t m, int64_t n) {
    return (flrq_operand){.rows = m, .cols = n, .d_dense = d_a, .ld_dense = n, .dense_dtype = FLRQ_F32};
}

/* Allocation of a backend, counted, and refused from the `allow`-th on (negative: never). */
static struct {
    flrq_status (*alloc)(flrq_backend *, void **, size_t, const char *);
    void (*release)(flrq_backend *, void *);
    int64_t allow, live;
    size_t bytes;
} watched;

static inline flrq_status watched_alloc(flrq_backend *be, void **out, size_t bytes, const char *what) {
    *out = NULL;
    if (watched.allow == 0) return flrq_fail(FLRQ_ERR_MEMORY, "refused by the test: %s", what);
    if (watched.allow > 0) watched.allow--;
    flrq_status status = watched.alloc(be, out, bytes, what);
    if (status == FLRQ_OK) watched.live++, watched.bytes += bytes;
    return status;
}

static inline void watched_release(flrq_backend *be, void *memory) {
    if (memory) watched.live--;
    watched.release(be, memory);
}

static inline void watch_begin(flrq_backend *be, int64_t allow) {
    watched.alloc = be->alloc;
    watched.release = be->release;
    watched.allow = allow;
    watched.live = 0;
    watched.bytes = 0;
    be->alloc = watched_alloc;
    be->release = watched_release;
}

static inline void watch_end(flrq_backend *be) {
    be->alloc = watched.alloc;
    be->release = watched.release;
}

#endif
