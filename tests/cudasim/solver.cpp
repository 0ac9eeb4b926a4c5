/*
 * solver.cpp - dense cuSOLVER over LAPACK, called through the LAPACKE_*_work functions: the others look for NaN first
 * and would answer with a code that cuSOLVER does not have.
 *
 * What cuSOLVER leaves undefined is made visible: workspaces, and inputs that it destroys, are filled with 0xFF bytes.
 */
#include "cusolverDn.h"

#include "internal.h"

#include <cblas.h>
#include <lapacke.h>
#include <algorithm>

using namespace cudasim;

struct cusolverDnContext {
    cudaStream_t stream;
};
struct cusolverDnParams {
    int unused;
};
struct gesvdjInfo {
    double tolerance;
    int max_sweeps, sort;
};

namespace {

cusolverStatus_t begin(cusolverDnHandle_t handle) {
    if (!handle) return CUSOLVER_STATUS_NOT_INITIALIZED;
    device_count();
    if (device_fault() != cudaSuccess || injected(CUDASIM_LIB)) return CUSOLVER_STATUS_EXECUTION_FAILED;
    return CUSOLVER_STATUS_SUCCESS;
}

char triangle(cublasFillMode_t uplo) {
    return uplo == CUBLAS_FILL_MODE_UPPER ? 'U' : 'L';
}

/* Reports a column-major matrix or a vector (ld = 0) that leaves its allocation. */
template <class T> void require(const T *p, int64_t rows, int64_t cols, int64_t ld, const char *what) {
    if (rows > 0 && cols > 0) require_device(p, (size_t)((cols - 1) * ld + rows) * sizeof(T), what);
}

template <class T> void poison(T *p, int64_t rows, int64_t cols, int64_t ld) {
    for (int64_t j = 0; j < cols; j++) memset(p + j * ld, 0xff, (size_t)rows * sizeof(T));
}

/* Sizes and workspace of a function that factors an m x n matrix in place; queues `work`, which returns LAPACK's info.
 * `need` is what the _bufferSize function answered. */
template <class T, class Work>
cusolverStatus_t factor(cusolverDnHandle_t h, const char *what, int m, int n, T *A, int lda, T *space, int lwork,
                        int need, int *info, Work work) {
    cusolverStatus_t status = begin(h);
    if (status != CUSOLVER_STATUS_SUCCESS) return status;
    if (m < 0 || n < 0 || lda < std::max(1, m) || lwork < need) return CUSOLVER_STATUS_INVALID_VALUE;
    require(A, m, n, lda, what);
    require(space, lwork, 1, lwork, what);
    require(info, 1, 1, 1, what);
    enqueue(h->stream, [=] {
        poison(space, lwork, 1, lwork);
        *info = m && n ? work() : 0;
    });
    return CUSOLVER_STATUS_SUCCESS;
}

/* The answer of a _bufferSize function, in elements. LAPACK's own space is on the host; what is asked for here is only
 * checked. Depends on both sizes, so that a workspace for another shape is noticed. */
int workspace(int m, int n) {
    return 32 + m + n;
}
cusolverStatus_t buffer_size(cusolverDnHandle_t h, int m, int n, int lda, int *lwork) {
    cusolverStatus_t status = begin(h);
    if (status != CUSOLVER_STATUS_SUCCESS) return status;
    if (m < 0 || n < 0 || lda < std::max(1, m)) return CUSOLVER_STATUS_INVALID_VALUE;
    *lwork = workspace(m, n);
    return CUSOLVER_STATUS_SUCCESS;
}

/* One name per LAPACK function for both precisions; sizes of their space are asked for with lwork = -1. */
int potrf(char uplo, int n, float *a, int lda) {
    return LAPACKE_spotrf_work(LAPACK_COL_MAJOR, uplo, n, a, lda);
}
int potrf(char uplo, int n, double *a, int lda) {
    return LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, uplo, n, a, lda);
}
int syevd(char job, char uplo, int n, float *a, int lda, float *w, float *work, int lwork, int *iwork, int liwork) {
    return LAPACKE_ssyevd_work(LAPACK_COL_MAJOR, job, uplo, n, a, lda, w, work, lwork, iwork, liwork);
}
int syevd(char job, char uplo, int n, double *a, int lda, double *w, double *work, int lwork, int *iwork, int liwork) {
    return LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, job, uplo, n, a, lda, w, work, lwork, iwork, liwork);
}

template <class T> int eigen(char job, char uplo, int n, T *a, int lda, T *w) {
    T size;
    int isize;
    int info = syevd(job, uplo, n, a, lda, w, &size, -1, &isize, -1);
    if (info) return info;
    std::vector<T> work((size_t)size + 1);
    std::vector<int> iwork((size_t)isize + 1);
    return syevd(job, uplo, n, a, lda, w, work.data(), (int)work.size(), iwork.data(), (int)iwork.size());
}

int qr_factor(int m, int n, float *a, int lda, float *tau) {
    float size;
    int info = LAPACKE_sgeqrf_work(LAPACK_COL_MAJOR, m, n, a, lda, tau, &size, -1);
    if (info) return info;
    std::vector<float> work((size_t)size + 1);
    return LAPACKE_sgeqrf_work(LAPACK_COL_MAJOR, m, n, a, lda, tau, work.data(), (int)work.size());
}

int qr_form(int m, int n, int k, float *a, int lda, const float *tau) {
    float size;
    int info = LAPACKE_sorgqr_work(LAPACK_COL_MAJOR, m, n, k, a, lda, tau, &size, -1);
    if (info) return info;
    std::vector<float> work((size_t)size + 1);
    return LAPACKE_sorgqr_work(LAPACK_COL_MAJOR, m, n, k, a, lda, tau, work.data(), (int)work.size());
}

int svd_qr(char jobu, char jobvt, int m, int n, float *a, int lda, float *s, float *u, int ldu, float *vt, int ldvt) {
    float size;
    int info = LAPACKE_sgesvd_work(LAPACK_COL_MAJOR, jobu, jobvt, m, n, a, lda, s, u, ldu, vt, ldvt, &size, -1);
    if (info) return info;
    std::vector<float> work((size_t)size + 1);
    return LAPACKE_sgesvd_work(LAPACK_COL_MAJOR, jobu, jobvt, m, n, a, lda, s, u, ldu, vt, ldvt, work.data(),
                               (int)work.size());
}

int svd_divide(char job, int m, int n, float *a, int lda, float *s, float *u, int ldu, float *vt, int ldvt) {
    float size;
    std::vector<int> iwork((size_t)(8 * std::min(m, n)));
    int info = LAPACKE_sgesdd_work(LAPACK_COL_MAJOR, job, m, n, a, lda, s, u, ldu, vt, ldvt, &size, -1, iwork.data());
    if (info) return info;
    std::vector<float> work((size_t)size + 1);
    return LAPACKE_sgesdd_work(LAPACK_COL_MAJOR, job, m, n, a, lda, s, u, ldu, vt, ldvt, work.data(), (int)work.size(),
                               iwork.data());
}

/* Orthonormal basis of the columns of y [m, l], in place. */
int orthonormal(int m, int l, float *y) {
    std::vector<float> tau((size_t)l);
    int info = qr_factor(m, l, y, m, tau.data());
    return info ? info : qr_form(m, l, l, y, m, tau.data());
}

/* Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1: a basis Q of the range of (A A^T)^niters A Omega, then the SVD
 * of Q^T A. u [m, k] and v [n, k] may be null. */
int randomised_svd(int m, int n, int k, int l, int niters, const float *a, int lda, float *s, float *u, int ldu,
                   float *v, int ldv) {
    std::vector<float> omega((size_t)n * (size_t)l), q((size_t)m * (size_t)l), b((size_t)l * (size_t)n);
    std::vector<float> values((size_t)l), ub((size_t)l * (size_t)l), vt((size_t)l * (size_t)n);
    Random random(1);
    for (float &x : omega) { /* twelve uniforms less six: close enough to a normal for a test matrix */
        x = -6.0f;
        for (int i = 0; i < 12; i++) x += (float)(random.next() >> 40) * 0x1p-24f;
    }
    auto product = [&](CBLAS_TRANSPOSE t, const std::vector<float> &x, std::vector<float> &y) {
        int rows = t == CblasNoTrans ? m : n, inner = t == CblasNoTrans ? n : m;
        cblas_sgemm(CblasColMajor, t, CblasNoTrans, rows, l, inner, 1.0f, a, lda, x.data(), inner, 0.0f, y.data(),
                    rows);
    };
    product(CblasNoTrans, omega, q);
    int info = orthonormal(m, l, q.data());
    for (int i = 0; i < niters && !info; i++) {
        product(CblasTrans, q, omega);
        info = orthonormal(n, l, omega.data());
        if (info) break;
        product(CblasNoTrans, omega, q);
        info = orthonormal(m, l, q.data());
    }
    if (info) return info;
    cblas_sgemm(CblasColMajor, CblasTrans, CblasNoTrans, l, n, m, 1.0f, q.data(), m, a, lda, 0.0f, b.data(), l);
    info = svd_divide('S', l, n, b.data(), l, values.data(), ub.data(), l, vt.data(), l);
    std::copy_n(values.begin(), k, s);
    if (u)
        cblas_sgemm(CblasColMajor, CblasNoTrans, CblasNoTrans, m, k, l, 1.0f, q.data(), m, ub.data(), l, 0.0f, u, ldu);
    for (int c = 0; v && c < k; c++)
        for (int j = 0; j < n; j++) v[(size_t)c * (size_t)ldv + (size_t)j] = vt[(size_t)j * (size_t)l + (size_t)c];
    return info;
}

template <class T>
cusolverStatus_t run_potrf(cusolverDnHandle_t h, cublasFillMode_t uplo, int n, T *A, int lda, T *space, int lwork,
                           int *info) {
    return factor(h, "cusolverDn potrf", n, n, A, lda, space, lwork, workspace(n, n), info,
                  [=] { return potrf(triangle(uplo), n, A, lda); });
}

template <class T>
cusolverStatus_t run_syevd(cusolverDnHandle_t h, cusolverEigMode_t jobz, cublasFillMode_t uplo, int n, T *A, int lda,
                           T *W, T *space, int lwork, int *info) {
    require(W, n, 1, n, "cusolverDn syevd, W");
    char job = jobz == CUSOLVER_EIG_MODE_VECTOR ? 'V' : 'N';
    return factor(h, "cusolverDn syevd", n, n, A, lda, space, lwork, workspace(n, n), info,
                  [=] { return eigen(job, triangle(uplo), n, A, lda, W); });
}

} // namespace

extern "C" {

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) {
    *handle = nullptr;
    if (!device_count() || device_fault() != cudaSuccess) return CUSOLVER_STATUS_NOT_INITIALIZED;
    if (injected(CUDASIM_LIB)) return CUSOLVER_STATUS_ALLOC_FAILED;
    openblas_set_num_threads(1); /* as in cublasCreate */
    *handle = new cusolverDnContext{nullptr};
    live_handles++;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
    if (!handle) return CUSOLVER_STATUS_NOT_INITIALIZED;
    delete handle;
    live_handles--;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t streamId) {
    cusolverStatus_t status = begin(handle);
    if (status == CUSOLVER_STATUS_SUCCESS) handle->stream = streamId;
    return status;
}

cusolverStatus_t cusolverDnSpotrf_bufferSize(cusolverDnHandle_t handle, cublasFillMode_t, int n, float *, int lda,
                                             int *Lwork) {
    return buffer_size(handle, n, n, lda, Lwork);
}
cusolverStatus_t cusolverDnSpotrf(cusolverDnHandle_t handle, cublasFillMode_t uplo, int n, float *A, int lda,
                                  float *Workspace, int Lwork, int *devInfo) {
    return run_potrf(handle, uplo, n, A, lda, Workspace, Lwork, devInfo);
}
cusolverStatus_t cusolverDnDpotrf_bufferSize(cusolverDnHandle_t handle, cublasFillMode_t, int n, double *, int lda,
                                             int *Lwork) {
    return buffer_size(handle, n, n, lda, Lwork);
}
cusolverStatus_t cusolverDnDpotrf(cusolverDnHandle_t handle, cublasFillMode_t uplo, int n, double *A, int lda,
                                  double *Workspace, int Lwork, int *devInfo) {
    return run_potrf(handle, uplo, n, A, lda, Workspace, Lwork, devInfo);
}

cusolverStatus_t cusolverDnSsyevd_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t, cublasFillMode_t, int n,
                                             const float *, int lda, const float *, int *lwork) {
    return buffer_size(handle, n, n, lda, lwork);
}
cusolverStatus_t cusolverDnSsyevd(cusolverDnHandle_t handle, cusolverEigMode_t jobz, cublasFillMode_t uplo, int n,
                                  float *A, int lda, float *W, float *work, int lwork, int *info) {
    return run_syevd(handle, jobz, uplo, n, A, lda, W, work, lwork, info);
}
cusolverStatus_t cusolverDnDsyevd_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t, cublasFillMode_t, int n,
                                             const double *, int lda, const double *, int *lwork) {
    return buffer_size(handle, n, n, lda, lwork);
}
cusolverStatus_t cusolverDnDsyevd(cusolverDnHandle_t handle, cusolverEigMode_t jobz, cublasFillMode_t uplo, int n,
                                  double *A, int lda, double *W, double *work, int lwork, int *info) {
    return run_syevd(handle, jobz, uplo, n, A, lda, W, work, lwork, info);
}

cusolverStatus_t cusolverDnSgeqrf_bufferSize(cusolverDnHandle_t handle, int m, int n, float *, int lda, int *lwork) {
    return buffer_size(handle, m, n, lda, lwork);
}
cusolverStatus_t cusolverDnSgeqrf(cusolverDnHandle_t handle, int m, int n, float *A, int lda, float *TAU,
                                  float *Workspace, int Lwork, int *devInfo) {
    require(TAU, std::min(m, n), 1, m, "cusolverDnSgeqrf, TAU");
    return factor(handle, "cusolverDnSgeqrf", m, n, A, lda, Workspace, Lwork, workspace(m, n), devInfo,
                  [=] { return qr_factor(m, n, A, lda, TAU); });
}

cusolverStatus_t cusolverDnSorgqr_bufferSize(cusolverDnHandle_t handle, int m, int n, int k, const float *, int lda,
                                             const float *, int *lwork) {
    if (k < 0 || k > n || n > m) return CUSOLVER_STATUS_INVALID_VALUE;
    return buffer_size(handle, m, n, lda, lwork);
}
cusolverStatus_t cusolverDnSorgqr(cusolverDnHandle_t handle, int m, int n, int k, float *A, int lda, const float *tau,
                                  float *work, int lwork, int *info) {
    if (k < 0 || k > n || n > m) return CUSOLVER_STATUS_INVALID_VALUE;
    require(tau, k, 1, k, "cusolverDnSorgqr, tau");
    return factor(handle, "cusolverDnSorgqr", m, n, A, lda, work, lwork, workspace(m, n), info,
                  [=] { return qr_form(m, n, k, A, lda, tau); });
}

cusolverStatus_t cusolverDnSgesvd_bufferSize(cusolverDnHandle_t handle, int m, int n, int *lwork) {
    if (m < n) return CUSOLVER_STATUS_INVALID_VALUE;
    return buffer_size(handle, m, n, std::max(1, m), lwork);
}
cusolverStatus_t cusolverDnSgesvd(cusolverDnHandle_t handle, signed char jobu, signed char jobvt, int m, int n,
                                  float *A, int lda, float *S, float *U, int ldu, float *VT, int ldvt, float *work,
                                  int lwork, float *, int *info) {
    if (m < n) return CUSOLVER_STATUS_INVALID_VALUE;
    auto wants = [](signed char job) { return job == 'A' || job == 'S'; };
    require(S, n, 1, n, "cusolverDnSgesvd, S");
    if (wants(jobu)) require(U, m, jobu == 'A' ? m : n, ldu, "cusolverDnSgesvd, U");
    if (wants(jobvt)) require(VT, n, n, ldvt, "cusolverDnSgesvd, VT");
    return factor(handle, "cusolverDnSgesvd", m, n, A, lda, work, lwork, workspace(m, n), info, [=] {
        int result = svd_qr((char)jobu, (char)jobvt, m, n, A, lda, S, U, std::max(1, ldu), VT, std::max(1, ldvt));
        if (jobu != 'O' && jobvt != 'O') poison(A, m, n, lda);
        return result;
    });
}

cusolverStatus_t cusolverDnCreateGesvdjInfo(gesvdjInfo_t *info) {
    *info = nullptr;
    if (injected(CUDASIM_LIB)) return CUSOLVER_STATUS_ALLOC_FAILED;
    *info = new gesvdjInfo{0, 100, 1};
    live_handles++;
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyGesvdjInfo(gesvdjInfo_t info) {
    if (!info) return CUSOLVER_STATUS_NOT_INITIALIZED;
    delete info;
    live_handles--;
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXgesvdjSetTolerance(gesvdjInfo_t info, double tolerance) {
    info->tolerance = tolerance;
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXgesvdjSetMaxSweeps(gesvdjInfo_t info, int max_sweeps) {
    info->max_sweeps = max_sweeps;
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXgesvdjSetSortEig(gesvdjInfo_t info, int sort_svd) {
    info->sort = sort_svd;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSgesvdj_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t, int, int m, int n,
                                              const float *, int lda, const float *, const float *, int, const float *,
                                              int, int *lwork, gesvdjInfo_t params) {
    if (!params) return CUSOLVER_STATUS_INVALID_VALUE;
    return buffer_size(handle, m, n, lda, lwork);
}

/* By divide and conquer and to full accuracy, whatever the tolerance: more than Jacobi sweeps may be asked for. */
cusolverStatus_t cusolverDnSgesvdj(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int econ, int m, int n, float *A,
                                   int lda, float *S, float *U, int ldu, float *V, int ldv, float *work, int lwork,
                                   int *info, gesvdjInfo_t params) {
    if (!params) return CUSOLVER_STATUS_INVALID_VALUE;
    bool vectors = jobz == CUSOLVER_EIG_MODE_VECTOR;
    int r = std::min(m, n), v_cols = econ ? r : n;
    require(S, r, 1, r, "cusolverDnSgesvdj, S");
    if (vectors) {
        require(U, m, econ ? r : m, ldu, "cusolverDnSgesvdj, U");
        require(V, n, v_cols, ldv, "cusolverDnSgesvdj, V");
    }
    return factor(handle, "cusolverDnSgesvdj", m, n, A, lda, work, lwork, workspace(m, n), info, [=] {
        std::vector<float> vt((size_t)v_cols * (size_t)n);
        int result = svd_divide(!vectors ? 'N'
                                : econ   ? 'S'
                                         : 'A',
                                m, n, A, lda, S, U, std::max(1, ldu), vt.data(), std::max(1, v_cols));
        for (int i = 0; vectors && i < n; i++)
            for (int c = 0; c < v_cols; c++)
                V[(size_t)c * (size_t)ldv + (size_t)i] = vt[(size_t)i * (size_t)v_cols + (size_t)c];
        poison(A, m, n, lda);
        return result;
    });
}

cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params) {
    *params = nullptr;
    if (injected(CUDASIM_LIB)) return CUSOLVER_STATUS_ALLOC_FAILED;
    *params = new cusolverDnParams{0};
    live_handles++;
    return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
    if (!params) return CUSOLVER_STATUS_NOT_INITIALIZED;
    delete params;
    live_handles--;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXgesvdr_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params, signed char jobu,
                                              signed char jobv, int64_t m, int64_t n, int64_t k, int64_t p,
                                              int64_t niters, cudaDataType dataTypeA, const void *, int64_t lda,
                                              cudaDataType dataTypeSrand, const void *, cudaDataType dataTypeUrand,
                                              const void *, int64_t ldUrand, cudaDataType dataTypeVrand, const void *,
                                              int64_t ldVrand, cudaDataType computeType,
                                              size_t *workspaceInBytesOnDevice, size_t *workspaceInBytesOnHost) {
    cusolverStatus_t status = begin(handle);
    if (status != CUSOLVER_STATUS_SUCCESS) return status;
    if (!params || m < 1 || n < 1 || k < 1 || p < 0 || niters < 0 || k + p > std::min(m, n) || lda < m || m > INT_MAX ||
        n > INT_MAX || (jobu == 'S' && ldUrand < m) || (jobv == 'S' && ldVrand < n))
        return CUSOLVER_STATUS_INVALID_VALUE;
    for (cudaDataType t : {dataTypeA, dataTypeSrand, dataTypeUrand, dataTypeVrand, computeType})
        if (t != CUDA_R_32F) return CUSOLVER_STATUS_NOT_SUPPORTED;
    *workspaceInBytesOnDevice = sizeof(float) * (size_t)((m + n) * (k + p));
    *workspaceInBytesOnHost = sizeof(float) * (size_t)(k + p);
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXgesvdr(cusolverDnHandle_t handle, cusolverDnParams_t params, signed char jobu,
                                   signed char jobv, int64_t m, int64_t n, int64_t k, int64_t p, int64_t niters,
                                   cudaDataType dataTypeA, void *A, int64_t lda, cudaDataType dataTypeSrand,
                                   void *Srand, cudaDataType dataTypeUrand, void *Urand, int64_t ldUrand,
                                   cudaDataType dataTypeVrand, void *Vrand, int64_t ldVrand, cudaDataType computeType,
                                   void *bufferOnDevice, size_t workspaceInBytesOnDevice, void *bufferOnHost,
                                   size_t workspaceInBytesOnHost, int *d_info) {
    size_t device_need, host_need;
    cusolverStatus_t status = cusolverDnXgesvdr_bufferSize(
        handle, params, jobu, jobv, m, n, k, p, niters, dataTypeA, A, lda, dataTypeSrand, Srand, dataTypeUrand, Urand,
        ldUrand, dataTypeVrand, Vrand, ldVrand, computeType, &device_need, &host_need);
    if (status != CUSOLVER_STATUS_SUCCESS) return status;
    if (workspaceInBytesOnDevice < device_need || workspaceInBytesOnHost < host_need || !bufferOnHost)
        return CUSOLVER_STATUS_INVALID_VALUE;
    float *a = static_cast<float *>(A), *s = static_cast<float *>(Srand);
    float *u = jobu == 'S' ? static_cast<float *>(Urand) : nullptr;
    float *v = jobv == 'S' ? static_cast<float *>(Vrand) : nullptr;
    require(a, m, n, lda, "cusolverDnXgesvdr, A");
    require(s, k, 1, k, "cusolverDnXgesvdr, Srand");
    if (u) require(u, m, k, ldUrand, "cusolverDnXgesvdr, Urand");
    if (v) require(v, n, k, ldVrand, "cusolverDnXgesvdr, Vrand");
    require(d_info, 1, 1, 1, "cusolverDnXgesvdr, d_info");
    require_device(bufferOnDevice, workspaceInBytesOnDevice, "cusolverDnXgesvdr, bufferOnDevice");
    enqueue(handle->stream, [=] {
        memset(bufferOnDevice, 0xff, workspaceInBytesOnDevice);
        *d_info = randomised_svd((int)m, (int)n, (int)k, (int)(k + p), (int)niters, a, (int)lda, s, u, (int)ldUrand, v,
                                 (int)ldVrand);
        poison(a, m, n, lda);
    });
    return CUSOLVER_STATUS_SUCCESS;
}

} // extern "C"
