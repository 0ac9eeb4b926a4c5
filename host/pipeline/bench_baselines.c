/* bench_baselines.c - the SVDs that flrq's sketches are measured against, as their libraries run best.
 *
 * On a GPU they are cuSOLVER's, by the backend table. On a CPU they are OpenBLAS and its LAPACK with all threads: the
 * CPU backend itself keeps OpenBLAS on one thread, so that bytes do not depend on threads, which a baseline need not
 * promise. OpenBLAS has no randomised SVD; the textbook's is written here on its routines, as other packages do.
 */
#include "pipeline/bench_sketch.h"

#include <cblas.h>
#include <lapacke.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const flrq_bench_method_names[FLRQ_BENCH_METHODS] = {"block", "r1", "rsvd", "svd", "svdj"};

static int on_cpu(const flrq_backend *be) {
    return strncmp(be->name, "cpu", 3) == 0;
}

const char *flrq_bench_routine(const flrq_backend *be, flrq_bench_method method) {
    enum { CPU, REFERENCE, CUDA, CUDASIM, KINDS };
    static const char *const backends[KINDS] = {"cpu", "cpu-ref", "cuda", "cudasim"};
    static const char *const libraries[KINDS][FLRQ_BENCH_METHODS - FLRQ_BENCH_RSVD] = {
        {"OpenBLAS randomised SVD", "LAPACK gesdd", NULL},
        {"OpenBLAS randomised SVD", "flrq one-sided Jacobi", NULL},
        {"cuSOLVER Xgesvdr", "cuSOLVER gesvd", "cuSOLVER gesvdj"},
        {"simulated cuSOLVER Xgesvdr", "simulated cuSOLVER gesvd", "simulated cuSOLVER gesvdj"}};
    if (method == FLRQ_BENCH_BLOCK) return "flrq block sketch";
    if (method == FLRQ_BENCH_R1) return "flrq R1-Sketch";
    for (int i = 0; i < KINDS; i++)
        if (strcmp(be->name, backends[i]) == 0) return libraries[i][method - FLRQ_BENCH_RSVD];
    return NULL;
}

void flrq_bench_baseline_check(const flrq_backend *be, const flrq_device_info *device, flrq_reporter *reporter) {
    int wide = strcmp(device->instruction_set, "avx512") == 0;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    double load;
    if (!on_cpu(be)) return;
    /* An earlier run of this program alone leaves a load of its threads, which are no more than the processors. */
    if (getloadavg(&load, 1) == 1 && load > 1.25 * (double)processors)
        flrq_notice(
            reporter,
            "others compute here (load %.1f on %ld processors): no time of this run counts, least of all those of "
            "OpenBLAS, whose threads wait for each other without sleeping",
            load, processors);
    /* Prescott is what OpenBLAS takes for a processor that is newer than itself. */
    if (!strstr(device->libraries, "Prescott")) return;
    if (!wide && strcmp(device->instruction_set, "avx2") != 0) return;
    flrq_notice(
        reporter,
        "OpenBLAS runs the kernels of a 2004 processor (Prescott), which makes the library's SVDs several times "
        "slower than they can be here; OPENBLAS_CORETYPE=%s in the environment names newer ones",
        wide ? "SkylakeX" : "Haswell");
}

/* What a LAPACKE call said, as a status. */
static flrq_status lapack_status(int64_t m, int64_t n, lapack_int info) {
    if (info == 0) return FLRQ_OK;
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return flrq_fail(FLRQ_ERR_MEMORY, "randomised SVD: LAPACK found no memory for its work on %lld x %lld",
                         (long long)m, (long long)n);
    return flrq_fail(FLRQ_ERR_NUMERIC, "randomised SVD: LAPACK gave up on %lld x %lld (info %d)", (long long)m,
                     (long long)n, (int)info);
}

/* y [l, m], the transpose of a tall matrix and to LAPACK that matrix itself, gets orthonormal rows. */
static flrq_status orthonormalize(float *y, float *tau, int64_t l, int64_t m) {
    lapack_int rows = (lapack_int)m, cols = (lapack_int)l;
    FLRQ_TRY(lapack_status(m, l, LAPACKE_sgeqrf(LAPACK_COL_MAJOR, rows, cols, y, rows, tau)));
    return lapack_status(m, l, LAPACKE_sorgqr(LAPACK_COL_MAJOR, rows, cols, cols, y, rows, tau));
}

/* Halko, Martinsson, Tropp 2011: Algorithm 4.4 (subspace iteration with an orthonormal basis at every step), then
 * Algorithm 5.1. Tall matrices are kept transposed, which are column-major to LAPACK. */
static flrq_status randomized_svd(flrq_backend *be, const flrq_bench_baseline *o, const float *a, int64_t m, int64_t n,
                                  float *u, float *s, float *vt) {
    int64_t full = m < n ? m : n, l = o->rank + o->oversample < full ? o->rank + o->oversample : full;
    float *y = malloc((size_t)(l * m) * sizeof *y), *z = malloc((size_t)(l * n) * sizeof *z);
    float *right = malloc((size_t)(l * n) * sizeof *right), *rotation = malloc((size_t)(l * l) * sizeof *rotation);
    float *sigma = malloc((size_t)l * sizeof *sigma), *tau = malloc((size_t)l * sizeof *tau);
    flrq_status status = FLRQ_OK;
    if (!y || !z || !right || !rotation || !sigma || !tau)
        FLRQ_GOTO(flrq_fail_memory((size_t)(l * (m + 2 * n)) * sizeof *y, "the randomised SVD"));
    FLRQ_GOTO(be->normal(be, z, o->key, 0, 0, l * n));
    for (int i = 0;; i++) { /* y = (A z^T)^T, z = (A^T y^T)^T */
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)l, (int)m, (int)n, 1, z, (int)n, a, (int)n, 0, y,
                    (int)m);
        FLRQ_GOTO(orthonormalize(y, tau, l, m));
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)l, (int)n, (int)m, 1, y, (int)m, a, (int)n, 0, z,
                    (int)n);
        if (i == o->iterations) break;
        FLRQ_GOTO(orthonormalize(z, tau, l, n));
    }
    /* z = Q^T A = W S V^T [l, n]; column-major it is z^T = V S W^T, whose left factor is V^T here and whose right one
     * is W. */
    FLRQ_GOTO(lapack_status(l, n,
                            LAPACKE_sgesdd(LAPACK_COL_MAJOR, 'S', (lapack_int)n, (lapack_int)l, z, (lapack_int)n, sigma,
                                           right, (lapack_int)n, rotation, (lapack_int)l)));
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)o->rank, (int)l, 1, y, (int)m, rotation, (int)l,
                0, u, (int)o->rank);
    memcpy(s, sigma, (size_t)o->rank * sizeof *s);
    memcpy(vt, right, (size_t)(o->rank * n) * sizeof *vt);
out:
    free(tau);
    free(sigma);
    free(rotation);
    free(right);
    free(z);
    free(y);
    return status;
}

flrq_status flrq_bench_baseline_run(flrq_backend *be, const flrq_bench_baseline *o, float *d_a, int64_t m, int64_t n,
                                    float *d_u, float *d_s, float *d_vt) {
    flrq_status status;
    if (!flrq_bench_routine(be, o->method) || (o->method == FLRQ_BENCH_RSVD && !on_cpu(be) && !be->rsvd))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s has no %s", be->name, flrq_bench_method_names[o->method]);
    if (on_cpu(be)) openblas_set_num_threads(o->threads);
    if (o->method == FLRQ_BENCH_RSVD && on_cpu(be))
        status = randomized_svd(be, o, d_a, m, n, d_u, d_s, d_vt);
    else if (o->method == FLRQ_BENCH_RSVD)
        status = be->rsvd(be, d_a, m, n, o->rank, o->oversample, o->iterations, d_u, d_s, d_vt);
    else
        status =
            be->svd(be, o->method == FLRQ_BENCH_SVDJ ? FLRQ_SVD_JACOBI : FLRQ_SVD_DEFAULT, d_a, m, n, d_u, d_s, d_vt);
    if (on_cpu(be)) openblas_set_num_threads(1);
    return status;
}
