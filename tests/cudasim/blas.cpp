/*
 * blas.cpp - cuBLAS over OpenBLAS with one thread.
 *
 * Every call checks its sizes and pointers at once, as a program is to be told at the call that made the mistake, and
 * queues the work. Inputs of 16 bits are used as stored; fp32 inputs are rounded to what the compute type allows (TF32:
 * to nearest, ties away from zero). Sums are OpenBLAS's in fp32: another order than a device's, so results agree to
 * rounding, not in bits.
 */
#include "cublas_v2.h"

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "internal.h"

#include <cblas.h>

using namespace cudasim;

struct cublasContext {
    cudaStream_t stream;
    cublasPointerMode_t pointers;
    cublasMath_t math;
};

namespace {

/* The beginning of every call. */
cublasStatus_t begin(cublasHandle_t handle) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    device_count();
    if (device_fault() != cudaSuccess || injected(CUDASIM_LIB)) return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}

CBLAS_TRANSPOSE transposed(cublasOperation_t op) {
    return op == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
}
CBLAS_UPLO triangle(cublasFillMode_t uplo) {
    return uplo == CUBLAS_FILL_MODE_UPPER ? CblasUpper : CblasLower;
}

size_t size_of(cudaDataType type) {
    switch (type) {
    case CUDA_R_16F:
    case CUDA_R_16BF:
        return 2;
    case CUDA_R_64F:
        return 8;
    default:
        return 4;
    }
}

/* A scalar argument: its value now, or where it will lie on the device. */
template <class T> struct Scalar {
    const T *device;
    T value;
    Scalar(cublasHandle_t h, const void *p, const char *what) : device(nullptr), value(0) {
        if (h->pointers == CUBLAS_POINTER_MODE_HOST) {
            memcpy(&value, p, sizeof value);
        } else {
            require_device(p, sizeof value, what);
            device = static_cast<const T *>(p);
        }
    }
    T get() const { return device ? *device : value; }
};

/* One operand: `rows` x `cols` column-major elements at distance `ld`, `count` matrices at distance `stride`. */
struct Operand {
    const void *base;
    cudaDataType type;
    int rows, cols, ld;
    long long stride;
    const void *matrix(long long i) const {
        return static_cast<const char *>(base) + i * stride * (long long)size_of(type);
    }
};

/* Reports an operand that leaves its allocation. */
void require_matrix(const Operand &o, int count, const char *what) {
    if (!o.rows || !o.cols) return;
    size_t last = (size_t)(o.cols - 1) * (size_t)o.ld + (size_t)o.rows;
    for (int i = 0; i<count; i += count> 1 ? count - 1 : 1) /* strides are positive: the ends tell */
        require_device(o.matrix(i), last * size_of(o.type), what);
}
void require_vector(const void *x, int n, int inc, size_t size, const char *what) {
    if (n > 0) require_device(x, ((size_t)(n - 1) * (size_t)std::abs(inc) + 1) * size, what);
}

/* What fp32 inputs are rounded to. */
enum class Rounding { none, tf32, bf16, f16 };
float rounded(float v, Rounding to) {
    switch (to) {
    case Rounding::tf32: {
        unsigned u = __float_as_uint(v);
        return v - v != 0.0f ? v : __uint_as_float((u + 0x1000u) & ~0x1fffu);
    }
    case Rounding::bf16:
        return __bfloat162float(__float2bfloat16_rn(v));
    case Rounding::f16:
        return __half2float(__float2half_rn(v));
    default:
        return v;
    }
}

float load(const void *p, cudaDataType type, size_t i) {
    switch (type) {
    case CUDA_R_16F:
        return __half2float(static_cast<const __half *>(p)[i]);
    case CUDA_R_16BF:
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i]);
    default:
        return static_cast<const float *>(p)[i];
    }
}
void store(void *p, cudaDataType type, size_t i, float v) {
    switch (type) {
    case CUDA_R_16F:
        static_cast<__half *>(p)[i] = __float2half_rn(v);
        break;
    case CUDA_R_16BF:
        static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16_rn(v);
        break;
    default:
        static_cast<float *>(p)[i] = v;
    }
}

/* A matrix as fp32 with leading dimension `ld`: itself, or rounded copies in `space`. */
const float *as_float(const Operand &o, long long index, Rounding to, std::vector<float> &space, int *ld) {
    const void *p = o.matrix(index);
    *ld = o.ld;
    if (o.type == CUDA_R_32F && to == Rounding::none) return static_cast<const float *>(p);
    *ld = std::max(o.rows, 1);
    space.resize((size_t)o.rows * (size_t)o.cols);
    for (size_t j = 0; j < (size_t)o.cols; j++)
        for (size_t i = 0; i < (size_t)o.rows; i++)
            space[j * (size_t)o.rows + i] = rounded(load(p, o.type, j * (size_t)o.ld + i), to);
    return space.data();
}

/* C is written and not read when beta is 0: what is there may be NaN. */
template <class T> void clear(T *c, int rows, int cols, int ld) {
    for (int j = 0; j < cols; j++) memset(c + (size_t)j * (size_t)ld, 0, sizeof(T) * (size_t)rows);
}

struct Gemm {
    cublasOperation_t ta, tb;
    int m, n, k, count;
    Operand a, b, c;
    Rounding rounding;
};

void run_float(const Gemm &g, float alpha, float beta) {
    std::vector<float> a_space, b_space, c_space;
    for (int i = 0; i < g.count; i++) {
        int lda, ldb, ldc = g.c.ld;
        const float *a = as_float(g.a, i, g.rounding, a_space, &lda), *b = as_float(g.b, i, g.rounding, b_space, &ldb);
        void *to = const_cast<void *>(g.c.matrix(i));
        float *c = static_cast<float *>(to);
        if (g.c.type != CUDA_R_32F) c = const_cast<float *>(as_float(g.c, i, Rounding::none, c_space, &ldc));
        if (beta == 0.0f) clear(c, g.m, g.n, ldc);
        cblas_sgemm(CblasColMajor, transposed(g.ta), transposed(g.tb), g.m, g.n, g.k, alpha, a, lda, b, ldb, beta, c,
                    ldc);
        if (g.c.type == CUDA_R_32F) continue;
        for (size_t col = 0; col < (size_t)g.n; col++)
            for (size_t row = 0; row < (size_t)g.m; row++)
                store(to, g.c.type, col * (size_t)g.c.ld + row, c[col * (size_t)ldc + row]);
    }
}

void run_double(const Gemm &g, double alpha, double beta) {
    for (int i = 0; i < g.count; i++) {
        double *c = static_cast<double *>(const_cast<void *>(g.c.matrix(i)));
        if (beta == 0.0) clear(c, g.m, g.n, g.c.ld);
        cblas_dgemm(CblasColMajor, transposed(g.ta), transposed(g.tb), g.m, g.n, g.k, alpha,
                    static_cast<const double *>(g.a.matrix(i)), g.a.ld, static_cast<const double *>(g.b.matrix(i)),
                    g.b.ld, beta, c, g.c.ld);
    }
}

/* Every matrix product ends here; g.a, g.b and g.c come with base, type, ld and stride. */
cublasStatus_t gemm(cublasHandle_t h, Gemm g, cublasComputeType_t compute, const void *alpha, const void *beta) {
    cublasStatus_t status = begin(h);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    bool na = g.ta == CUBLAS_OP_N, nb = g.tb == CUBLAS_OP_N;
    g.a.rows = na ? g.m : g.k, g.a.cols = na ? g.k : g.m;
    g.b.rows = nb ? g.k : g.n, g.b.cols = nb ? g.n : g.k;
    g.c.rows = g.m, g.c.cols = g.n;
    if (g.m < 0 || g.n < 0 || g.k < 0 || g.count < 0 || g.a.ld < std::max(1, g.a.rows) ||
        g.b.ld < std::max(1, g.b.rows) || g.c.ld < std::max(1, g.m) || g.a.stride < 0 || g.b.stride < 0 ||
        g.c.stride < 0 || !alpha || !beta)
        return CUBLAS_STATUS_INVALID_VALUE;
    bool whole = compute == CUBLAS_COMPUTE_64F || compute == CUBLAS_COMPUTE_64F_PEDANTIC;
    bool fast = compute >= CUBLAS_COMPUTE_32F_FAST_16F;
    cudaDataType t = g.a.type;
    bool short_type = t == CUDA_R_16F || t == CUDA_R_16BF;
    bool known = whole  ? t == CUDA_R_64F && g.c.type == t
                 : fast ? t == CUDA_R_32F && g.c.type == t
                        : (short_type || t == CUDA_R_32F) && (g.c.type == t || g.c.type == CUDA_R_32F);
    if (g.b.type != t || !known) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!g.m || !g.n || !g.count) return CUBLAS_STATUS_SUCCESS;
    require_matrix(g.a, g.count, "cuBLAS gemm, A");
    require_matrix(g.b, g.count, "cuBLAS gemm, B");
    require_matrix(g.c, g.count, "cuBLAS gemm, C");
    bool tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
                (compute == CUBLAS_COMPUTE_32F && (h->math & 15) == CUBLAS_TF32_TENSOR_OP_MATH);
    g.rounding = t != CUDA_R_32F                           ? Rounding::none
                 : tf32                                    ? Rounding::tf32
                 : compute == CUBLAS_COMPUTE_32F_FAST_16BF ? Rounding::bf16
                 : compute == CUBLAS_COMPUTE_32F_FAST_16F  ? Rounding::f16
                                                           : Rounding::none;
    if (whole) {
        Scalar<double> al(h, alpha, "cuBLAS alpha"), be(h, beta, "cuBLAS beta");
        enqueue(h->stream, [=] { run_double(g, al.get(), be.get()); });
    } else {
        Scalar<float> al(h, alpha, "cuBLAS alpha"), be(h, beta, "cuBLAS beta");
        enqueue(h->stream, [=] { run_float(g, al.get(), be.get()); });
    }
    return CUBLAS_STATUS_SUCCESS;
}

Operand operand(const void *base, cudaDataType type, int ld, long long stride = 0) {
    return Operand{base, type, 0, 0, ld, stride};
}

void syrk_work(CBLAS_UPLO u, CBLAS_TRANSPOSE t, int n, int k, float al, const float *a, int lda, float be, float *c,
               int ldc) {
    cblas_ssyrk(CblasColMajor, u, t, n, k, al, a, lda, be, c, ldc);
}
void syrk_work(CBLAS_UPLO u, CBLAS_TRANSPOSE t, int n, int k, double al, const double *a, int lda, double be, double *c,
               int ldc) {
    cblas_dsyrk(CblasColMajor, u, t, n, k, al, a, lda, be, c, ldc);
}

template <class T>
cublasStatus_t syrk(cublasHandle_t h, cudaDataType type, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                    const T *alpha, const T *A, int lda, const T *beta, T *C, int ldc) {
    cublasStatus_t status = begin(h);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    int rows = trans == CUBLAS_OP_N ? n : k, cols = trans == CUBLAS_OP_N ? k : n;
    if (n < 0 || k < 0 || lda < std::max(1, rows) || ldc < std::max(1, n)) return CUBLAS_STATUS_INVALID_VALUE;
    require_matrix(Operand{A, type, rows, cols, lda, 0}, 1, "cuBLAS syrk, A");
    require_matrix(Operand{C, type, n, n, ldc, 0}, 1, "cuBLAS syrk, C");
    Scalar<T> al(h, alpha, "cuBLAS alpha"), be(h, beta, "cuBLAS beta");
    enqueue(h->stream, [=] {
        if (be.get() == 0) /* its triangle only: the other one is not the function's */
            for (int j = 0; j < n; j++)
                for (int i = 0; i < n; i++)
                    if (i == j || (i < j) == (uplo == CUBLAS_FILL_MODE_UPPER))
                        C[(size_t)j * (size_t)ldc + (size_t)i] = 0;
        syrk_work(triangle(uplo), transposed(trans), n, k, al.get(), A, lda, be.get(), C, ldc);
    });
    return CUBLAS_STATUS_SUCCESS;
}

void trsm_work(CBLAS_SIDE s, CBLAS_UPLO u, CBLAS_TRANSPOSE t, CBLAS_DIAG d, int m, int n, float al, const float *a,
               int lda, float *b, int ldb) {
    cblas_strsm(CblasColMajor, s, u, t, d, m, n, al, a, lda, b, ldb);
}
void trsm_work(CBLAS_SIDE s, CBLAS_UPLO u, CBLAS_TRANSPOSE t, CBLAS_DIAG d, int m, int n, double al, const double *a,
               int lda, double *b, int ldb) {
    cblas_dtrsm(CblasColMajor, s, u, t, d, m, n, al, a, lda, b, ldb);
}

template <class T>
cublasStatus_t trsm(cublasHandle_t h, cudaDataType type, cublasSideMode_t side, cublasFillMode_t uplo,
                    cublasOperation_t trans, cublasDiagType_t diag, int m, int n, const T *alpha, const T *A, int lda,
                    T *B, int ldb) {
    cublasStatus_t status = begin(h);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    int order = side == CUBLAS_SIDE_LEFT ? m : n;
    if (m < 0 || n < 0 || lda < std::max(1, order) || ldb < std::max(1, m)) return CUBLAS_STATUS_INVALID_VALUE;
    require_matrix(Operand{A, type, order, order, lda, 0}, 1, "cuBLAS trsm, A");
    require_matrix(Operand{B, type, m, n, ldb, 0}, 1, "cuBLAS trsm, B");
    Scalar<T> al(h, alpha, "cuBLAS alpha");
    enqueue(h->stream, [=] {
        trsm_work(side == CUBLAS_SIDE_LEFT ? CblasLeft : CblasRight, triangle(uplo), transposed(trans),
                  diag == CUBLAS_DIAG_UNIT ? CblasUnit : CblasNonUnit, m, n, al.get(), A, lda, B, ldb);
    });
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    *handle = nullptr;
    if (!device_count()) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (device_fault() != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (injected(CUDASIM_LIB)) return CUBLAS_STATUS_ALLOC_FAILED;
    openblas_set_num_threads(1); /* sums must not depend on the number of threads */
    *handle = new cublasContext{nullptr, CUBLAS_POINTER_MODE_HOST, CUBLAS_DEFAULT_MATH};
    live_handles++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    live_handles--;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion(cublasHandle_t handle, int *version) {
    *version = CUBLAS_VERSION;
    return begin(handle);
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
    cublasStatus_t status = begin(handle);
    if (status == CUBLAS_STATUS_SUCCESS) handle->stream = stream;
    return status;
}

cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t *stream) {
    cublasStatus_t status = begin(handle);
    if (status == CUBLAS_STATUS_SUCCESS) *stream = handle->stream;
    return status;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    cublasStatus_t status = begin(handle);
    if (status == CUBLAS_STATUS_SUCCESS) handle->math = mode;
    return status;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
    cublasStatus_t status = begin(handle);
    if (status == CUBLAS_STATUS_SUCCESS) *mode = handle->math;
    return status;
}

cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode) {
    cublasStatus_t status = begin(handle);
    if (status == CUBLAS_STATUS_SUCCESS) handle->pointers = mode;
    return status;
}

/* The simulator needs none, but the memory must be what it is said to be. */
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace, size_t bytes) {
    cublasStatus_t status = begin(handle);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if ((uintptr_t)workspace % 256) return CUBLAS_STATUS_INVALID_VALUE;
    require_device(workspace, bytes, "cublasSetWorkspace");
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusName(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
        return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "unknown cuBLAS status";
}

const char *cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU program failed to execute";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "an internal operation failed";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "unknown error";
    }
}

cublasStatus_t cublasSscal(cublasHandle_t handle, int n, const float *alpha, float *x, int incx) {
    cublasStatus_t status = begin(handle);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    require_vector(x, n, incx, sizeof *x, "cublasSscal, x");
    Scalar<float> al(handle, alpha, "cublasSscal, alpha");
    enqueue(handle->stream, [=] { cblas_sscal(n, al.get(), x, incx); });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSnrm2(cublasHandle_t handle, int n, const float *x, int incx, float *result) {
    cublasStatus_t status = begin(handle);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    require_vector(x, n, incx, sizeof *x, "cublasSnrm2, x");
    bool on_host = handle->pointers == CUBLAS_POINTER_MODE_HOST;
    if (!on_host) require_device(result, sizeof *result, "cublasSnrm2, result");
    enqueue(handle->stream, [=] { *result = n > 0 ? cblas_snrm2(n, x, incx) : 0.0f; });
    if (on_host && cudaStreamSynchronize(handle->stream) != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemv(cublasHandle_t handle, cublasOperation_t trans, int m, int n, const float *alpha,
                           const float *A, int lda, const float *x, int incx, const float *beta, float *y, int incy) {
    cublasStatus_t status = begin(handle);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (m < 0 || n < 0 || lda < std::max(1, m) || !incx || !incy) return CUBLAS_STATUS_INVALID_VALUE;
    int length_x = trans == CUBLAS_OP_N ? n : m, length_y = trans == CUBLAS_OP_N ? m : n;
    require_matrix(Operand{A, CUDA_R_32F, m, n, lda, 0}, 1, "cublasSgemv, A");
    require_vector(x, length_x, incx, sizeof *x, "cublasSgemv, x");
    require_vector(y, length_y, incy, sizeof *y, "cublasSgemv, y");
    Scalar<float> al(handle, alpha, "cublasSgemv, alpha"), be(handle, beta, "cublasSgemv, beta");
    enqueue(handle->stream, [=] {
        if (be.get() == 0.0f)
            for (int i = 0; i < length_y; i++) y[(size_t)i * (size_t)std::abs(incy)] = 0;
        cblas_sgemv(CblasColMajor, transposed(trans), m, n, al.get(), A, lda, x, incx, be.get(), y, incy);
    });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSger(cublasHandle_t handle, int m, int n, const float *alpha, const float *x, int incx,
                          const float *y, int incy, float *A, int lda) {
    cublasStatus_t status = begin(handle);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (m < 0 || n < 0 || lda < std::max(1, m) || !incx || !incy) return CUBLAS_STATUS_INVALID_VALUE;
    require_vector(x, m, incx, sizeof *x, "cublasSger, x");
    require_vector(y, n, incy, sizeof *y, "cublasSger, y");
    require_matrix(Operand{A, CUDA_R_32F, m, n, lda, 0}, 1, "cublasSger, A");
    Scalar<float> al(handle, alpha, "cublasSger, alpha");
    enqueue(handle->stream, [=] { cblas_sger(CblasColMajor, m, n, al.get(), x, incx, y, incy, A, lda); });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                           int k, const float *alpha, const float *A, int lda, const float *B, int ldb,
                           const float *beta, float *C, int ldc) {
    Gemm g{transa,
           transb,
           m,
           n,
           k,
           1,
           operand(A, CUDA_R_32F, lda),
           operand(B, CUDA_R_32F, ldb),
           operand(C, CUDA_R_32F, ldc),
           Rounding::none};
    return gemm(handle, g, CUBLAS_COMPUTE_32F, alpha, beta);
}

cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                           int k, const double *alpha, const double *A, int lda, const double *B, int ldb,
                           const double *beta, double *C, int ldc) {
    Gemm g{transa,
           transb,
           m,
           n,
           k,
           1,
           operand(A, CUDA_R_64F, lda),
           operand(B, CUDA_R_64F, ldb),
           operand(C, CUDA_R_64F, ldc),
           Rounding::none};
    return gemm(handle, g, CUBLAS_COMPUTE_64F, alpha, beta);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                         int m, int n, int k, const float *alpha, const float *A, int lda,
                                         long long int strideA, const float *B, int ldb, long long int strideB,
                                         const float *beta, float *C, int ldc, long long int strideC, int batchCount) {
    Gemm g{transa,
           transb,
           m,
           n,
           k,
           batchCount,
           operand(A, CUDA_R_32F, lda, strideA),
           operand(B, CUDA_R_32F, ldb, strideB),
           operand(C, CUDA_R_32F, ldc, strideC),
           Rounding::none};
    return gemm(handle, g, CUBLAS_COMPUTE_32F, alpha, beta);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                            int k, const void *alpha, const void *A, cudaDataType Atype, int lda, const void *B,
                            cudaDataType Btype, int ldb, const void *beta, void *C, cudaDataType Ctype, int ldc,
                            cublasComputeType_t computeType, cublasGemmAlgo_t) {
    Gemm g{transa,        transb, m, n, k, 1, operand(A, Atype, lda), operand(B, Btype, ldb), operand(C, Ctype, ldc),
           Rounding::none};
    return gemm(handle, g, computeType, alpha, beta);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                          int m, int n, int k, const void *alpha, const void *A, cudaDataType Atype,
                                          int lda, long long int strideA, const void *B, cudaDataType Btype, int ldb,
                                          long long int strideB, const void *beta, void *C, cudaDataType Ctype, int ldc,
                                          long long int strideC, int batchCount, cublasComputeType_t computeType,
                                          cublasGemmAlgo_t) {
    Gemm g{transa,
           transb,
           m,
           n,
           k,
           batchCount,
           operand(A, Atype, lda, strideA),
           operand(B, Btype, ldb, strideB),
           operand(C, Ctype, ldc, strideC),
           Rounding::none};
    return gemm(handle, g, computeType, alpha, beta);
}

cublasStatus_t cublasSsyrk(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                           const float *alpha, const float *A, int lda, const float *beta, float *C, int ldc) {
    return syrk(handle, CUDA_R_32F, uplo, trans, n, k, alpha, A, lda, beta, C, ldc);
}

cublasStatus_t cublasDsyrk(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                           const double *alpha, const double *A, int lda, const double *beta, double *C, int ldc) {
    return syrk(handle, CUDA_R_64F, uplo, trans, n, k, alpha, A, lda, beta, C, ldc);
}

cublasStatus_t cublasStrsm(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t trans,
                           cublasDiagType_t diag, int m, int n, const float *alpha, const float *A, int lda, float *B,
                           int ldb) {
    return trsm(handle, CUDA_R_32F, side, uplo, trans, diag, m, n, alpha, A, lda, B, ldb);
}

cublasStatus_t cublasDtrsm(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t trans,
                           cublasDiagType_t diag, int m, int n, const double *alpha, const double *A, int lda,
                           double *B, int ldb) {
    return trsm(handle, CUDA_R_64F, side, uplo, trans, diag, m, n, alpha, A, lda, B, ldb);
}

} // extern "C"
