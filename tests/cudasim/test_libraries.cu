/*
 * test_libraries.cu - the cuBLAS and cuSOLVER subset against loops and against the properties that define a
 * factorisation, with padded leading dimensions, all transpositions, strides, and the conventions in which these
 * libraries differ from LAPACK (V or V^T, m >= n, destroyed inputs).
 */
#include "check.h"
#include "cublas_v2.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"
#include "cusolverDn.h"

#include <math.h>
#include <algorithm>
#include <vector>

static uint64_t random_state = 7;
static double random_double() {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(int64_t)random_state * 0x1p-63;
}

/* A matrix on both sides: column-major with `pad` extra rows that hold a sentinel. */
template <class T> struct Matrix {
    int rows, cols, ld;
    std::vector<T> host;
    T *device;
    Matrix(int r, int c, int pad = 0) : rows(r), cols(c), ld(r + pad), host((size_t)ld * (size_t)c) {
        for (T &v : host) v = (T)random_double();
        CHECK_OK(cudaMalloc(&device, std::max<size_t>(host.size(), 1) * sizeof(T)));
        upload();
    }
    Matrix(const Matrix &) = delete;
    ~Matrix() { CHECK_OK(cudaFree(device)); }
    void upload() { CHECK_OK(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    Matrix &fetch() {
        CHECK_OK(cudaDeviceSynchronize());
        CHECK_OK(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return *this;
    }
    T &at(int i, int j) { return host[(size_t)j * (size_t)ld + (size_t)i]; }
};
template <class T> static double element(Matrix<T> &m, bool transposed, int i, int j) {
    return (double)(transposed ? m.at(j, i) : m.at(i, j));
}

static cublasHandle_t blas;
static cusolverDnHandle_t solver;

/* C = 2 A B - C for every pair of transpositions. Each sum of k products of numbers below 1 has an fp32 error of at
 * most (k + 2) roundings of a magnitude below 2 k + 1. */
template <class T, class Call> static void check_gemm(int m, int n, int k, double epsilon, Call call) {
    for (int t = 0; t < 4; t++) {
        bool ta = t & 1, tb = t & 2;
        Matrix<T> a(ta ? k : m, ta ? m : k, 3), b(tb ? n : k, tb ? k : n, 1), c(m, n, 2);
        std::vector<T> before = c.host;
        call(ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, a, b, c);
        c.fetch();
        for (int j = 0; j < n; j++)
            for (int i = 0; i < c.ld; i++) {
                double was = (double)before[(size_t)j * (size_t)c.ld + (size_t)i], want = -was;
                for (int l = 0; l < k && i < m; l++) want += 2 * element(a, ta, i, l) * element(b, tb, l, j);
                if (i >= m) want = was; /* padding is not touched */
                CHECK(fabs((double)c.at(i, j) - want) <= epsilon * (k + 2) * (2 * k + 1), "%d (%d, %d)", t, i, j);
            }
    }
}

static void test_gemm() {
    const float two = 2.0f, minus = -1.0f, one = 1.0f, zero = 0.0f;
    const double dtwo = 2.0, dminus = -1.0;
    check_gemm<float>(5, 7, 9, 0x1p-24, [&](cublasOperation_t ta, cublasOperation_t tb, auto &a, auto &b, auto &c) {
        CHECK_OK(cublasSgemm(blas, ta, tb, 5, 7, 9, &two, a.device, a.ld, b.device, b.ld, &minus, c.device, c.ld));
    });
    check_gemm<double>(6, 3, 4, 0x1p-53, [&](cublasOperation_t ta, cublasOperation_t tb, auto &a, auto &b, auto &c) {
        CHECK_OK(cublasDgemm(blas, ta, tb, 6, 3, 4, &dtwo, a.device, a.ld, b.device, b.ld, &dminus, c.device, c.ld));
    });
    /* TF32: each input has a relative error of 2^-11 (10-bit mantissa, to nearest), each product of 2^-10 */
    check_gemm<float>(5, 7, 9, 0x1p-10, [&](cublasOperation_t ta, cublasOperation_t tb, auto &a, auto &b, auto &c) {
        CHECK_OK(cublasGemmEx(blas, ta, tb, 5, 7, 9, &two, a.device, CUDA_R_32F, a.ld, b.device, CUDA_R_32F, b.ld,
                              &minus, c.device, CUDA_R_32F, c.ld, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT));
    });
    /* ... and it is TF32 indeed: 1 + 2^-11 is a tie and goes away from zero, 1 + 2^-12 is lost */
    Matrix<float> a(1, 1), b(1, 1), c(1, 1);
    b.host[0] = 1.0f;
    b.upload();
    struct {
        float in, out;
    } const cases[] = {
        {1 + 0x1p-11f, 1 + 0x1p-10f}, {1 + 0x1p-12f, 1.0f}, {-1 - 0x1p-11f, -1 - 0x1p-10f}, {INFINITY, INFINITY}};
    for (int mode = 0; mode < 3; mode++) {
        CHECK_OK(cublasSetMathMode(blas, mode == 1 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH));
        for (auto &v : cases) {
            a.host[0] = v.in;
            a.upload();
            CHECK_OK(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a.device, CUDA_R_32F, 1, b.device,
                                  CUDA_R_32F, 1, &zero, c.device, CUDA_R_32F, 1,
                                  mode == 2 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
            float want = mode ? v.out : v.in;
            CHECK(c.fetch().host[0] == want, "mode %d: %a, want %a", mode, c.host[0], want);
        }
    }
    CHECK_OK(cublasSetMathMode(blas, CUBLAS_DEFAULT_MATH));
    /* types that cuBLAS does not combine, sizes that do not fit */
    CHECK(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a.device, CUDA_R_16BF, 1, b.device, CUDA_R_32F, 1,
                       &zero, c.device, CUDA_R_32F, 1, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED,
          "mixed inputs");
    CHECK(cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 2, 1, 1, &one, a.device, 1, b.device, 1, &zero, c.device, 2) ==
              CUBLAS_STATUS_INVALID_VALUE,
          "lda < m");
}

/* 16-bit inputs are used as stored; the result is rounded once to the type of C. beta = 0 does not read C. */
template <class T> static void test_short_gemm(cudaDataType type, cudaDataType out, double epsilon_out) {
    const int m = 6, n = 5, k = 8, count = 3;
    const float one = 1.0f, zero = 0.0f;
    Matrix<T> a(m, k * count, 2), b(n, k * count, 1);
    Matrix<float> wide(m, n * count, 3);
    Matrix<T> narrow(m, n * count, 3);
    for (float &v : wide.host) v = NAN;
    wide.upload();
    bool is_wide = out == CUDA_R_32F;
    void *c = is_wide ? (void *)wide.device : (void *)narrow.device;
    CHECK_OK(cublasGemmStridedBatchedEx(blas, CUBLAS_OP_N, CUBLAS_OP_T, m, n, k, &one, a.device, type, a.ld,
                                        (long long)a.ld * k, b.device, type, b.ld, (long long)b.ld * k, &zero, c, out,
                                        m + 3, (long long)(m + 3) * n, count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    wide.fetch();
    narrow.fetch();
    for (int batch = 0; batch < count; batch++)
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                double want = 0;
                for (int l = 0; l < k; l++)
                    want += (double)(float)a.at(i, batch * k + l) * (double)(float)b.at(j, batch * k + l);
                double got = is_wide ? wide.at(i, batch * n + j) : (float)narrow.at(i, batch * n + j);
                CHECK(fabs(got - want) <= k * k * 0x1p-24 + fabs(want) * epsilon_out, "%d (%d, %d)", batch, i, j);
            }
}

static void test_vectors() {
    const float two = 2.0f, half = 0.5f, zero = 0.0f;
    Matrix<float> a(5, 4, 2), x(8, 1), y(10, 1);
    std::vector<float> before = a.host;
    for (float &v : y.host) v = NAN;
    y.upload();
    /* y = 2 A x with strides 2 */
    CHECK_OK(cublasSgemv(blas, CUBLAS_OP_N, 5, 4, &two, a.device, a.ld, x.device, 2, &zero, y.device, 2));
    y.fetch();
    for (int i = 0; i < 5; i++) {
        double want = 0;
        for (int j = 0; j < 4; j++) want += 2.0 * a.at(i, j) * x.host[(size_t)(2 * j)];
        CHECK(fabs(y.host[(size_t)(2 * i)] - want) <= 8 * 8 * 0x1p-24, "%d", i);
        CHECK(i == 4 || isnan(y.host[(size_t)(2 * i + 1)]), "the gaps of y are not touched");
    }
    for (float &v : y.host) v = (float)random_double();
    y.upload();
    CHECK_OK(cublasSger(blas, 5, 4, &half, y.device, 1, x.device, 2, a.device, a.ld));
    a.fetch();
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 5; i++) {
            double want = before[(size_t)(j * a.ld + i)] + 0.5 * y.host[(size_t)i] * x.host[(size_t)(2 * j)];
            CHECK(fabs(a.at(i, j) - want) <= 4 * 0x1p-24, "%d %d", i, j);
        }
    float norm = 0.0f, scaled = 0.0f;
    double want = 0;
    for (float v : x.host) want += (double)v * v;
    CHECK_OK(cublasSnrm2(blas, 8, x.device, 1, &norm));
    CHECK_OK(cublasSscal(blas, 8, &two, x.device, 1));
    CHECK_OK(cublasSnrm2(blas, 8, x.device, 1, &scaled));
    CHECK(fabs(norm - sqrt(want)) <= 8 * sqrt(want) * 0x1p-24 && scaled == 2 * norm, "%g %g", norm, scaled);
    /* scalars on the device are read when the work runs */
    Matrix<float> scalar(1, 1);
    CHECK_OK(cudaMemset(scalar.device, 0, 4));
    CHECK_OK(cudaDeviceSynchronize()); /* the default stream does not order what follows on ours */
    CHECK_OK(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_DEVICE));
    CHECK_OK(cublasSscal(blas, 8, scalar.device, x.device, 1));
    CHECK_OK(cublasSetPointerMode(blas, CUBLAS_POINTER_MODE_HOST));
    for (float v : x.fetch().host) CHECK(v == 0.0f, "%g", v);
}

template <class T> static void test_syrk_trsm(double epsilon) {
    const T one = 1, zero = 0;
    const int n = 6, k = 9;
    for (int upper = 0; upper < 2; upper++) {
        auto uplo = upper ? CUBLAS_FILL_MODE_UPPER : CUBLAS_FILL_MODE_LOWER;
        Matrix<T> a(k, n, 1), c(n, n, 2), b(n, 4, 3);
        for (T &v : c.host) v = (T)NAN;
        c.upload();
        cublasStatus_t status;
        if constexpr (sizeof(T) == 4)
            status = cublasSsyrk(blas, uplo, CUBLAS_OP_T, n, k, &one, a.device, a.ld, &zero, c.device, c.ld);
        else
            status = cublasDsyrk(blas, uplo, CUBLAS_OP_T, n, k, &one, a.device, a.ld, &zero, c.device, c.ld);
        CHECK_OK(status);
        c.fetch();
        for (int j = 0; j < n; j++)
            for (int i = 0; i < n; i++) {
                bool inside = i == j || (i < j) == (upper != 0);
                double want = 0;
                for (int l = 0; l < k; l++) want += (double)a.at(l, i) * (double)a.at(l, j);
                CHECK(inside ? fabs((double)c.at(i, j) - want) <= epsilon * k * k : isnan((double)c.at(i, j)),
                      "%d %d %d", upper, i, j);
            }
        /* op(C) X = B with the triangle just made, its diagonal raised so that the solution stays small */
        for (int i = 0; i < n; i++) c.at(i, i) += 10;
        c.upload();
        Matrix<T> right(n, 4, 3);
        right.host = b.host;
        if constexpr (sizeof(T) == 4)
            status = cublasStrsm(blas, CUBLAS_SIDE_LEFT, uplo, CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT, n, 4, &one, c.device,
                                 c.ld, b.device, b.ld);
        else
            status = cublasDtrsm(blas, CUBLAS_SIDE_LEFT, uplo, CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT, n, 4, &one, c.device,
                                 c.ld, b.device, b.ld);
        CHECK_OK(status);
        b.fetch();
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < n; i++) {
                double sum = 0;
                for (int l = 0; l < n; l++)
                    if (l == i || (l < i) == (upper != 0)) sum += (double)c.at(l, i) * (double)b.at(l, j);
                CHECK(fabs(sum - (double)right.at(i, j)) <= epsilon * n * 20, "%d %d", i, j);
            }
    }
}

/* --- cuSOLVER --- */

struct Info {
    int *device;
    Info() { CHECK_OK(cudaMalloc(&device, sizeof(int))); }
    ~Info() { CHECK_OK(cudaFree(device)); }
    int get() {
        int v = -1;
        CHECK_OK(cudaDeviceSynchronize());
        CHECK_OK(cudaMemcpy(&v, device, sizeof v, cudaMemcpyDeviceToHost));
        return v;
    }
};

/* Largest deviation of M^T M from the identity. */
template <class T> static double orthogonality(Matrix<T> &m, int cols) {
    double worst = 0;
    for (int a = 0; a < cols; a++)
        for (int b = 0; b < cols; b++) {
            double sum = a == b ? -1 : 0;
            for (int i = 0; i < m.rows; i++) sum += (double)m.at(i, a) * (double)m.at(i, b);
            worst = !(fabs(sum) <= worst) ? fabs(sum) : worst;
        }
    return worst;
}

static void test_cholesky_eigen() {
    const int n = 12;
    Matrix<double> g(n, n + 4), a(n, n, 2), w(n, 1), work(4096, 1);
    Info info;
    int lwork = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int l = 0; l < n + 4; l++) sum += g.at(i, l) * g.at(j, l);
            a.at(i, j) = sum;
        }
    a.upload();
    std::vector<double> spd = a.host;
    auto was = [&](int i, int j) { return spd[(size_t)(j * a.ld + i)]; };
    CHECK_OK(cusolverDnDpotrf_bufferSize(solver, CUBLAS_FILL_MODE_LOWER, n, a.device, a.ld, &lwork));
    CHECK(cusolverDnDpotrf(solver, CUBLAS_FILL_MODE_LOWER, n, a.device, a.ld, work.device, lwork - 1, info.device) ==
              CUSOLVER_STATUS_INVALID_VALUE,
          "a short workspace");
    CHECK_OK(cusolverDnDpotrf(solver, CUBLAS_FILL_MODE_LOWER, n, a.device, a.ld, work.device, lwork, info.device));
    CHECK(info.get() == 0, "%d", info.get());
    a.fetch();
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int l = 0; l <= std::min(i, j); l++) sum += a.at(i, l) * a.at(j, l);
            CHECK(fabs(sum - was(i, j)) <= n * 20 * 0x1p-52, "%d %d", i, j);
        }
    /* not positive definite: the order of the first bad minor */
    a.host = spd;
    a.at(4, 4) = -1.0;
    a.upload();
    CHECK_OK(cusolverDnDpotrf(solver, CUBLAS_FILL_MODE_UPPER, n, a.device, a.ld, work.device, lwork, info.device));
    CHECK(info.get() == 5, "%d", info.get());
    /* eigenvectors in columns, values ascending */
    a.host = spd;
    a.upload();
    CHECK_OK(cusolverDnDsyevd_bufferSize(solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, a.device, a.ld,
                                         w.device, &lwork));
    CHECK_OK(cusolverDnDsyevd(solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, a.device, a.ld, w.device,
                              work.device, lwork, info.device));
    CHECK(info.get() == 0, "%d", info.get());
    a.fetch();
    w.fetch();
    CHECK(orthogonality(a, n) <= n * 10 * 0x1p-52, "%g", orthogonality(a, n));
    for (int k = 0; k < n; k++) {
        CHECK(k == 0 || w.host[(size_t)k] >= w.host[(size_t)(k - 1)], "order %d", k);
        for (int i = 0; i < n; i++) {
            double sum = -w.host[(size_t)k] * a.at(i, k);
            for (int j = 0; j < n; j++) sum += was(i, j) * a.at(j, k);
            CHECK(fabs(sum) <= n * 40 * 0x1p-52, "%d %d: %g", k, i, sum);
        }
    }
}

static void test_qr() {
    const int m = 15, n = 6;
    Matrix<float> a(m, n, 1), tau(n, 1), work(1024, 1);
    std::vector<float> before = a.host;
    Info info;
    int lwork = 0;
    CHECK_OK(cusolverDnSgeqrf_bufferSize(solver, m, n, a.device, a.ld, &lwork));
    CHECK_OK(cusolverDnSgeqrf(solver, m, n, a.device, a.ld, tau.device, work.device, lwork, info.device));
    CHECK(info.get() == 0, "%d", info.get());
    std::vector<float> r = a.fetch().host;
    CHECK_OK(cusolverDnSorgqr_bufferSize(solver, m, n, n, a.device, a.ld, tau.device, &lwork));
    CHECK_OK(cusolverDnSorgqr(solver, m, n, n, a.device, a.ld, tau.device, work.device, lwork, info.device));
    CHECK(info.get() == 0, "%d", info.get());
    a.fetch();
    CHECK(orthogonality(a, n) <= m * 4 * 0x1p-23, "%g", orthogonality(a, n));
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            double sum = 0;
            for (int l = 0; l <= j; l++) sum += (double)a.at(i, l) * r[(size_t)(j * a.ld + l)];
            CHECK(fabs(sum - before[(size_t)(j * a.ld + i)]) <= m * 8 * 0x1p-23, "%d %d", i, j);
        }
    CHECK(cusolverDnSorgqr(solver, m, n, n + 1, a.device, a.ld, tau.device, work.device, lwork, info.device) ==
              CUSOLVER_STATUS_INVALID_VALUE,
          "k > n");
}

/* sum_k s_k u_k v_k^T against A, where v(j, k) is an element of V. */
template <class V>
static double reconstruction(const std::vector<float> &a, int ld, Matrix<float> &u, Matrix<float> &s, int k, int n,
                             V v) {
    double worst = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < u.rows; i++) {
            double sum = -a[(size_t)(j * ld + i)];
            for (int l = 0; l < k; l++) sum += (double)s.host[(size_t)l] * u.at(i, l) * v(j, l);
            worst = !(fabs(sum) <= worst) ? fabs(sum) : worst;
        }
    return worst;
}

static void test_svd() {
    Info info;
    int lwork = 0;
    const double tolerance = 40 * 8 * 0x1p-23; /* sizes below 40, singular values below 8 */
    {                                          /* gesvd: V^T, m >= n only */
        const int m = 14, n = 9;
        Matrix<float> a(m, n, 2), s(n, 1), u(m, n, 1), vt(n, n, 3), work(1024, 1);
        std::vector<float> before = a.host;
        CHECK(cusolverDnSgesvd_bufferSize(solver, n, m, &lwork) == CUSOLVER_STATUS_INVALID_VALUE, "m < n");
        CHECK_OK(cusolverDnSgesvd_bufferSize(solver, m, n, &lwork));
        CHECK_OK(cusolverDnSgesvd(solver, 'S', 'S', m, n, a.device, a.ld, s.device, u.device, u.ld, vt.device, vt.ld,
                                  work.device, lwork, nullptr, info.device));
        CHECK(info.get() == 0, "%d", info.get());
        u.fetch(), s.fetch(), vt.fetch(), a.fetch();
        double error = reconstruction(before, a.ld, u, s, n, n, [&](int j, int k) { return vt.at(k, j); });
        CHECK(error <= tolerance && orthogonality(u, n) <= tolerance, "%g", error);
        CHECK(isnan(a.at(0, 0)), "the input is destroyed");
    }
    for (int wide = 0; wide < 2; wide++) { /* gesvdj: V, any shape */
        const int m = wide ? 9 : 14, n = wide ? 14 : 9, r = 9;
        Matrix<float> a(m, n, 2), s(r, 1), u(m, r, 1), v(n, r, 3), work(1024, 1);
        std::vector<float> before = a.host;
        gesvdjInfo_t params;
        CHECK_OK(cusolverDnCreateGesvdjInfo(&params));
        CHECK_OK(cusolverDnXgesvdjSetTolerance(params, 1e-7));
        CHECK_OK(cusolverDnXgesvdjSetMaxSweeps(params, 20));
        CHECK_OK(cusolverDnSgesvdj_bufferSize(solver, CUSOLVER_EIG_MODE_VECTOR, 1, m, n, a.device, a.ld, s.device,
                                              u.device, u.ld, v.device, v.ld, &lwork, params));
        CHECK_OK(cusolverDnSgesvdj(solver, CUSOLVER_EIG_MODE_VECTOR, 1, m, n, a.device, a.ld, s.device, u.device, u.ld,
                                   v.device, v.ld, work.device, lwork, info.device, params));
        CHECK(info.get() == 0, "%d", info.get());
        u.fetch(), s.fetch(), v.fetch();
        double error = reconstruction(before, a.ld, u, s, r, n, [&](int j, int k) { return v.at(j, k); });
        CHECK(error <= tolerance && orthogonality(v, r) <= tolerance, "%g", error);
        for (int k = 1; k < r; k++) CHECK(s.host[(size_t)k] <= s.host[(size_t)(k - 1)], "descending %d", k);
        CHECK_OK(cusolverDnDestroyGesvdjInfo(params));
    }
    { /* Xgesvdr: a matrix of rank 4, so that 4 + 2 vectors find all of it */
        const int m = 30, n = 22, k = 4, p = 2;
        Matrix<float> left(m, k), right(n, k), a(m, n, 2), s(k, 1), u(m, k, 1), v(n, k, 3);
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                float sum = 0.0f;
                for (int l = 0; l < k; l++) sum += left.at(i, l) * right.at(j, l) / (float)(1 << l);
                a.at(i, j) = sum;
            }
        a.upload();
        std::vector<float> before = a.host;
        cusolverDnParams_t params;
        size_t on_device = 0, on_host = 0;
        CHECK_OK(cusolverDnCreateParams(&params));
        CHECK_OK(cusolverDnXgesvdr_bufferSize(solver, params, 'S', 'S', m, n, k, p, 2, CUDA_R_32F, a.device, a.ld,
                                              CUDA_R_32F, s.device, CUDA_R_32F, u.device, u.ld, CUDA_R_32F, v.device,
                                              v.ld, CUDA_R_32F, &on_device, &on_host));
        std::vector<char> host_work(on_host);
        void *work;
        CHECK_OK(cudaMalloc(&work, on_device));
        CHECK_OK(cusolverDnXgesvdr(solver, params, 'S', 'S', m, n, k, p, 2, CUDA_R_32F, a.device, a.ld, CUDA_R_32F,
                                   s.device, CUDA_R_32F, u.device, u.ld, CUDA_R_32F, v.device, v.ld, CUDA_R_32F, work,
                                   on_device, host_work.data(), on_host, info.device));
        CHECK(info.get() == 0, "%d", info.get());
        u.fetch(), s.fetch(), v.fetch();
        double error = reconstruction(before, a.ld, u, s, k, n, [&](int j, int l) { return v.at(j, l); });
        CHECK(error <= tolerance && orthogonality(u, k) <= tolerance && orthogonality(v, k) <= tolerance, "%g", error);
        CHECK_OK(cudaFree(work));
        CHECK_OK(cusolverDnDestroyParams(params));
    }
}

int main() {
    cudaStream_t stream;
    CHECK_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_OK(cublasCreate(&blas));
    CHECK_OK(cusolverDnCreate(&solver));
    CHECK_OK(cublasSetStream(blas, stream));
    CHECK_OK(cusolverDnSetStream(solver, stream));
    test_gemm();
    test_short_gemm<__nv_bfloat16>(CUDA_R_16BF, CUDA_R_32F, 0);
    test_short_gemm<__nv_bfloat16>(CUDA_R_16BF, CUDA_R_16BF, 0x1p-8);
    test_short_gemm<__half>(CUDA_R_16F, CUDA_R_32F, 0);
    test_short_gemm<__half>(CUDA_R_16F, CUDA_R_16F, 0x1p-11);
    test_vectors();
    test_syrk_trsm<float>(0x1p-23);
    test_syrk_trsm<double>(0x1p-52);
    test_cholesky_eigen();
    test_qr();
    test_svd();
    CHECK_OK(cublasDestroy(blas));
    CHECK_OK(cusolverDnDestroy(solver));
    CHECK_OK(cudaStreamDestroy(stream));
    return check_done("libraries");
}
