/*
 * bugs.cu - planted bugs: "bugs CASE bug" has the bug, "bugs CASE fixed" is the same program without it.
 *
 * A case either makes the simulator (or ASan) report something, or computes what its host code then finds wrong.
 * Kernels take `fixed`, so that both twins are one piece of code. planted.sh runs the pairs; CMake's table says what
 * each must give.
 */
#include "cublas_v2.h"
#include "cuda_runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <vector>

enum { N = 256 };

static void expect(bool good) {
    if (good) return;
    fprintf(stderr, "wrong result\n");
    fflush(stderr);
    _Exit(1); /* not a leak: the point has been made */
}

static void ok(cudaError_t e) {
    if (e == cudaSuccess) return;
    fprintf(stderr, "unexpected error: %s\n", cudaGetErrorString(e));
    _Exit(2);
}

/* A device array of n floats that counts up from 0. */
static float *counting(int n) {
    std::vector<float> host((size_t)n);
    for (int i = 0; i < n; i++) host[(size_t)i] = (float)i;
    float *d;
    ok(cudaMalloc(&d, sizeof(float) * (size_t)n));
    ok(cudaMemcpy(d, host.data(), sizeof(float) * (size_t)n, cudaMemcpyHostToDevice));
    return d;
}

static std::vector<float> download(const float *d, int n) {
    std::vector<float> host((size_t)n);
    ok(cudaMemcpy(host.data(), d, sizeof(float) * (size_t)n, cudaMemcpyDeviceToHost));
    return host;
}

/* Runs a kernel of one block on a counting array; the array must then hold want(i). */
template <class Kernel, class Want> static void run_and_compare(Kernel kernel, int smem, bool fixed, Want want) {
    float *d = counting(N);
    FLRQ_LAUNCH(kernel, 1, N, smem, 0, d, fixed);
    ok(cudaDeviceSynchronize());
    std::vector<float> y = download(d, N);
    ok(cudaFree(d));
    for (int i = 0; i < N; i++) expect(y[(size_t)i] == want(i));
}

static float same(int i) {
    return (float)i;
}
static float mirrored(int i) {
    return (float)(N - 1 - i);
}

/* --- bounds --- */

__global__ void k_write_at(float *x, int offset) {
    if (threadIdx.x == 0) x[offset] = 1.0f;
}
static void write_at(int offset) {
    float *d = counting(N);
    FLRQ_LAUNCH(k_write_at, 1, 32, 0, 0, d, offset);
    ok(cudaDeviceSynchronize());
    ok(cudaFree(d));
}
static void global_write(bool fixed) {
    write_at(fixed ? N - 1 : N);
}
static void global_write_before(bool fixed) {
    write_at(fixed ? 0 : -1);
}
static void global_far(bool fixed) {
    write_at(fixed ? 0 : 1 << 28);
}

__global__ void k_shift(float *y, const float *x, bool fixed) {
    unsigned i = threadIdx.x;
    y[i] = fixed && i + 1 == N ? 0.0f : x[i + 1];
}
static void global_read(bool fixed) {
    float *x = counting(N), *y = counting(N);
    FLRQ_LAUNCH(k_shift, 1, N, 0, 0, y, x, fixed);
    std::vector<float> got = download(y, N);
    ok(cudaFree(x));
    ok(cudaFree(y));
    expect(got[N - 1] == 0.0f);
}

__global__ void k_dynamic(float *x, bool fixed) {
    FLRQ_DYN_SMEM(float, s);
    unsigned i = threadIdx.x;
    s[i] = x[i];
    if (i == 0 && !fixed) s[N + 1] = 0.0f; /* 1,032 bytes were asked for, 2 elements are past the end */
    __syncthreads();
    x[i] = s[N - 1 - i];
}
static void dynamic_shared(bool fixed) {
    run_and_compare(k_dynamic, N * 4 + 4, fixed, mirrored);
}
__global__ void k_dynamic_far(float *x, bool fixed) {
    FLRQ_DYN_SMEM(float, s);
    unsigned i = threadIdx.x;
    s[fixed ? i : i + 4096] = x[i];
    __syncthreads();
    x[i] = s[N - 1 - i];
}
static void dynamic_shared_far(bool fixed) {
    run_and_compare(k_dynamic_far, N * 4, fixed, mirrored);
}

__global__ void k_static(float *x, bool fixed) {
    __shared__ float array[N];
    float *s = array; /* through a pointer: the type's bound is not to see it */
    unsigned i = threadIdx.x;
    s[fixed ? i : i + 1] = x[i];
    __syncthreads();
    x[i] = s[fixed ? N - 1 - i : i];
}
static void static_shared(bool fixed) {
    run_and_compare(k_static, 0, fixed, mirrored);
}
template <int SIZE> __global__ void k_static_template(float *x, bool fixed) {
    __shared__ float array[SIZE];
    float *s = array;
    unsigned i = threadIdx.x;
    s[fixed ? i : i + 1] = x[i];
    __syncthreads();
    x[i] = s[fixed ? SIZE - 1 - i : i];
}
static void static_shared_template(bool fixed) {
    run_and_compare(k_static_template<N>, 0, fixed, mirrored);
}

static void null_pointer(bool fixed) {
    float *d = counting(N);
    FLRQ_LAUNCH(k_write_at, 1, 32, 0, 0, fixed ? d : nullptr, 0);
    ok(cudaDeviceSynchronize());
    ok(cudaFree(d));
}

__global__ void k_vector(float *x, bool fixed) {
    unsigned i = threadIdx.x;
    float *from = fixed ? x : x + 1;
    if (i == 0) reinterpret_cast<float4 *>(x)[8] = *reinterpret_cast<float4 *>(from);
}
static void misaligned_vector(bool fixed) {
    run_and_compare(k_vector, 0, fixed, [](int i) { return (float)(i >= 32 && i < 36 ? i - 32 : i); });
}

/* --- synchronisation inside a block --- */

__global__ void k_mirror(float *x, bool fixed) {
    __shared__ float s[N];
    s[threadIdx.x] = x[threadIdx.x];
    if (fixed) __syncthreads();
    x[threadIdx.x] = s[N - 1 - threadIdx.x];
}
static void missing_syncthreads(bool fixed) {
    float *d = counting(N);
    FLRQ_LAUNCH(k_mirror, 1, N, 0, 0, d, fixed);
    std::vector<float> y = download(d, N);
    ok(cudaFree(d));
    for (int i = 0; i < N; i++) expect(y[(size_t)i] == mirrored(i));
}

/* The second barrier of the loop keeps the next turn from overwriting what others still read. */
__global__ void k_rotate(float *x, bool fixed) {
    __shared__ float s[N];
    unsigned i = threadIdx.x;
    float v = x[i];
    for (int turn = 0; turn < 3; turn++) {
        s[i] = v;
        __syncthreads();
        v = s[(i + 1) % N];
        if (fixed) __syncthreads();
    }
    x[i] = v;
}
static void missing_syncthreads_loop(bool fixed) {
    run_and_compare(k_rotate, 0, fixed, [](int i) { return (float)((i + 3) % N); });
}

__global__ void k_ldmatrix(float *x, bool fixed) {
    __shared__ __align__(16) unsigned short s[8][32][8];
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, other = lane ^ 31;
    for (int i = 0; i < 8; i++) s[warp][other][i] = (unsigned short)other; /* a row that another lane will give */
    if (fixed) __syncwarp();
    uint32_t r[4];
    flrq_ldmatrix_x4(r, s[warp][lane]);
    x[threadIdx.x] = (float)(r[0] & 0xffff); /* of matrix 0: row lane / 4 */
}
static void ldmatrix_no_barrier(bool fixed) {
    run_and_compare(k_ldmatrix, 0, fixed, [](int i) { return (float)(i % 32 / 4); });
}

__global__ void k_async(float *y, const float *x, bool wait, bool barrier) {
    __shared__ __align__(16) float s[N];
    unsigned i = threadIdx.x;
    if (i < N / 4) flrq_cp_async16(&s[4 * i], x + 4 * i);
    flrq_cp_async_commit();
    if (wait) flrq_cp_async_wait<0>();
    if (barrier) __syncthreads();
    y[i] = s[N - 1 - i];
    flrq_cp_async_wait<0>();
}
static void async_copy(bool wait, bool barrier) {
    float *x = counting(N), *y = counting(N);
    FLRQ_LAUNCH(k_async, 1, N, 0, 0, y, x, wait, barrier);
    std::vector<float> got = download(y, N);
    ok(cudaFree(x));
    ok(cudaFree(y));
    for (int i = 0; i < N; i++) expect(got[(size_t)i] == mirrored(i));
}
static void async_copy_no_wait(bool fixed) {
    async_copy(fixed, true);
}
static void async_copy_no_barrier(bool fixed) {
    async_copy(true, fixed);
}

__global__ void k_half_warp(float *x, bool fixed) {
    unsigned i = threadIdx.x;
    if (i % 32 < 16) {
        float v = __shfl_xor_sync(fixed ? 0x0000ffffu : 0xffffffffu, x[i], 1);
        x[i] = __shfl_xor_sync(fixed ? 0x0000ffffu : 0xffffffffu, v, 1);
    }
}
static void shuffle_missing_lanes(bool fixed) {
    run_and_compare(k_half_warp, 0, fixed, same);
}
__global__ void k_outside_mask(float *x, bool fixed) {
    unsigned i = threadIdx.x;
    if (i % 32 < 16) {
        float v = __shfl_xor_sync(0x0000ffffu, x[i], fixed ? 8 : 16);
        x[i] = __shfl_xor_sync(0x0000ffffu, v, 8);
    }
}
static void shuffle_outside_mask(bool fixed) {
    run_and_compare(k_outside_mask, 0, fixed, same);
}
__global__ void k_two_sites(float *x, bool fixed) {
    unsigned i = threadIdx.x;
    float v = x[i];
    if (fixed || i % 32 < 16) {
        v = __shfl_xor_sync(0xffffffffu, v, 1);
    } else {
        v = __shfl_xor_sync(0xffffffffu, v, 1);
    }
    x[i] = __shfl_xor_sync(0xffffffffu, v, 1);
}
static void shuffle_two_sites(bool fixed) {
    run_and_compare(k_two_sites, 0, fixed, same);
}

__global__ void k_divergent(float *x, bool fixed) {
    unsigned i = threadIdx.x;
    if (fixed || i < 64) {
        __syncthreads();
        x[i] = (float)i;
    } else {
        x[i] = (float)i;
        __syncthreads();
    }
}
static void barrier_divergent(bool fixed) {
    run_and_compare(k_divergent, 0, fixed, same);
}
__global__ void k_early(float *x, bool fixed) {
    if (!fixed && threadIdx.x >= 100) return;
    __syncthreads();
    x[threadIdx.x] = (float)threadIdx.x;
}
static void barrier_after_return(bool fixed) {
    run_and_compare(k_early, 0, fixed, same);
}

/* --- uninitialised memory --- */

static void uninitialised_global(bool fixed) {
    float *d;
    ok(cudaMalloc(&d, N * sizeof *d));
    if (fixed) ok(cudaMemset(d, 0, N * sizeof *d));
    std::vector<float> y = download(d, N);
    ok(cudaFree(d));
    expect(y[N / 2] == 0.0f);
}
/* Only the first half is written, but all is summed. */
__device__ __forceinline__ void half_sum(float *x, float *s, bool fixed) {
    unsigned i = threadIdx.x;
    if (fixed || i < N / 2) s[i] = i < N / 2 ? 1.0f : 0.0f;
    __syncthreads();
    float sum = 0.0f;
    for (int k = 0; k < N; k++) sum += s[k];
    x[i] = sum;
}
__global__ void k_uninitialised_dynamic(float *x, bool fixed) {
    FLRQ_DYN_SMEM(float, s);
    half_sum(x, s, fixed);
}
__global__ void k_uninitialised_static(float *x, bool fixed) {
    __shared__ float s[N];
    half_sum(x, s, fixed);
}
template <int SIZE> __global__ void k_uninitialised_template(float *x, bool fixed) {
    __shared__ float s[SIZE];
    half_sum(x, s, fixed);
}
static float half_count(int) {
    return N / 2;
}
static void uninitialised_dynamic(bool fixed) {
    run_and_compare(k_uninitialised_dynamic, N * 4, fixed, half_count);
}
static void uninitialised_static(bool fixed) {
    run_and_compare(k_uninitialised_static, 0, fixed, half_count);
}
static void uninitialised_template(bool fixed) {
    run_and_compare(k_uninitialised_template<N>, 0, fixed, half_count);
}

/* --- streams --- */

__global__ void k_scale(float *x, float factor) {
    x[threadIdx.x] *= factor;
}

/* The kernel runs on one stream, the download on another unless `fixed`. */
static void wrong_stream(bool fixed) {
    cudaStream_t compute, copy;
    ok(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
    ok(cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking));
    float *d = counting(N), *pinned;
    ok(cudaMallocHost(&pinned, N * sizeof *pinned));
    FLRQ_LAUNCH(k_scale, 1, N, 0, compute, d, 2.0f);
    ok(cudaMemcpyAsync(pinned, d, N * sizeof *d, cudaMemcpyDeviceToHost, fixed ? compute : copy));
    ok(cudaStreamSynchronize(fixed ? compute : copy));
    float got = pinned[1];
    ok(cudaDeviceSynchronize());
    ok(cudaFreeHost(pinned));
    ok(cudaFree(d));
    ok(cudaStreamDestroy(compute));
    ok(cudaStreamDestroy(copy));
    expect(got == 2.0f);
}

static void missing_event(bool fixed) {
    cudaStream_t first, second;
    cudaEvent_t event;
    ok(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    ok(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    float *d = counting(N);
    FLRQ_LAUNCH(k_scale, 1, N, 0, first, d, 3.0f);
    ok(cudaEventRecord(event, first));
    if (fixed) ok(cudaStreamWaitEvent(second, event, 0));
    ok(cudaMemsetAsync(d, 0, N / 2 * sizeof *d, second));
    FLRQ_LAUNCH(k_write_at, 1, 32, 0, second, d, N - 1);
    ok(cudaDeviceSynchronize());
    std::vector<float> y = download(d, N);
    ok(cudaFree(d));
    ok(cudaEventDestroy(event));
    ok(cudaStreamDestroy(first));
    ok(cudaStreamDestroy(second));
    expect(y[N - 1] == 1.0f);
}

static void read_before_sync(bool fixed) {
    cudaStream_t stream;
    ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    float *d = counting(N), *pinned;
    ok(cudaMallocHost(&pinned, N * sizeof *pinned));
    ok(cudaMemcpyAsync(pinned, d, N * sizeof *d, cudaMemcpyDeviceToHost, stream));
    if (fixed) ok(cudaStreamSynchronize(stream));
    float got = pinned[7];
    ok(cudaStreamDestroy(stream));
    ok(cudaFreeHost(pinned));
    ok(cudaFree(d));
    expect(got == 7.0f);
}

/* The upload reads pinned memory when it runs, so that the next tile must not be prepared in it before. */
static void pinned_overwritten(bool fixed) {
    cudaStream_t stream;
    ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    float *d = counting(N), *pinned;
    ok(cudaMallocHost(&pinned, N * sizeof *pinned));
    for (int i = 0; i < N; i++) pinned[i] = 1.0f;
    ok(cudaMemcpyAsync(d, pinned, N * sizeof *d, cudaMemcpyHostToDevice, stream));
    if (fixed) ok(cudaStreamSynchronize(stream));
    for (int i = 0; i < N; i++) pinned[i] = 2.0f;
    ok(cudaStreamSynchronize(stream));
    std::vector<float> y = download(d, N);
    ok(cudaStreamDestroy(stream));
    ok(cudaFreeHost(pinned));
    ok(cudaFree(d));
    expect(y[0] == 1.0f);
}

/* --- memory of the wrong side --- */

static void host_reads_device(bool fixed) {
    float *d = counting(N);
    volatile float v = fixed ? 0.0f : d[3];
    (void)v;
    ok(cudaFree(d));
}
static void host_writes_device(bool fixed) {
    float *d = counting(N);
    if (!fixed) d[3] = 1.0f;
    ok(cudaFree(d));
}

struct View {
    int rows;
    float *data;
};
__global__ void k_view(View v) {
    v.data[threadIdx.x % (unsigned)v.rows] = 0.0f;
}
static void kernel_host_pointer(bool fixed) {
    std::vector<float> host(N);
    float *d = counting(N);
    FLRQ_LAUNCH(k_scale, 1, N, 0, 0, fixed ? d : host.data(), 2.0f);
    ok(cudaDeviceSynchronize());
    ok(cudaFree(d));
}
static void kernel_host_in_struct(bool fixed) {
    float on_stack[N];
    float *d = counting(N);
    FLRQ_LAUNCH(k_view, 1, N, 0, 0, View{N, fixed ? d : on_stack});
    ok(cudaDeviceSynchronize());
    ok(cudaFree(d));
}
static void kernel_pinned_pointer(bool fixed) {
    float *d = counting(N), *pinned;
    ok(cudaMallocHost(&pinned, N * sizeof *pinned));
    FLRQ_LAUNCH(k_scale, 1, N, 0, 0, fixed ? d : pinned, 2.0f);
    ok(cudaDeviceSynchronize());
    ok(cudaFree(d));
    ok(cudaFreeHost(pinned));
}
static void copy_too_long(bool fixed) {
    std::vector<float> host(N);
    float *d = counting(N / 4);
    ok(cudaMemcpy(d, host.data(), fixed ? N : N + 1, cudaMemcpyHostToDevice));
    ok(cudaFree(d));
}
static void copy_wrong_direction(bool fixed) {
    std::vector<float> host(N);
    float *d = counting(N);
    ok(cudaMemcpy(host.data(), d, N, fixed ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice));
    ok(cudaFree(d));
}
static void library_host_pointer(bool fixed) {
    std::vector<float> host(N);
    float *d = counting(N), two = 2.0f;
    cublasHandle_t handle;
    if (cublasCreate(&handle)) abort();
    cublasSscal(handle, N, &two, fixed ? d : host.data(), 1);
    ok(cudaDeviceSynchronize());
    cublasDestroy(handle);
    ok(cudaFree(d));
}

/* --- lifetime --- */

static void use_after_free(bool fixed) {
    float *d = counting(N);
    if (!fixed) ok(cudaFree(d));
    FLRQ_LAUNCH(k_scale, 1, N, 0, 0, d, 2.0f);
    ok(cudaDeviceSynchronize());
    if (fixed) ok(cudaFree(d));
}
static void double_free(bool fixed) {
    float *d = counting(N);
    ok(cudaFree(d));
    if (!fixed) ok(cudaFree(d));
}
static void leak_memory(bool fixed) {
    float *d = counting(1024);
    if (fixed) ok(cudaFree(d));
}
static void leak_pinned(bool fixed) {
    void *p;
    ok(cudaMallocHost(&p, 512));
    if (fixed) ok(cudaFreeHost(p));
}
static void leak_stream(bool fixed) {
    cudaStream_t stream;
    ok(cudaStreamCreate(&stream));
    if (fixed) ok(cudaStreamDestroy(stream));
}

/* A small job with four counted calls; one path out of it forgets the first allocation. */
static cudaError_t job(bool fixed) {
    float *a = nullptr, *b = nullptr;
    cudaError_t e = cudaMalloc(&a, 256);
    if (e != cudaSuccess) return e;
    e = cudaMalloc(&b, 256);
    if (e != cudaSuccess) goto out;
    e = cudaMemset(a, 0, 256);
    if (e != cudaSuccess && !fixed) {
        cudaFree(b);
        return e;
    }
    if (e != cudaSuccess) goto out;
    e = cudaMemcpy(b, a, 256, cudaMemcpyDeviceToDevice);
out:
    cudaFree(a);
    cudaFree(b);
    return e;
}
static void failure_leaks(bool fixed) {
    cudasim_fail_at(0, CUDASIM_ALL);
    ok(job(fixed));
    long calls = cudasim_calls(CUDASIM_ALL);
    for (long n = 1; n <= calls; n++) {
        cudasim_fail_at(n, CUDASIM_ALL);
        expect(job(fixed) != cudaSuccess);
        if (cudasim_live_objects() == 0) continue;
        fprintf(stderr, "leak after the failure of call %ld\n", n);
        _Exit(1);
    }
}

/* Two arrays of 64 KiB do not fit a thread's stack here; a device has less per thread than that. */
__device__ __attribute__((noinline)) float deep(volatile float *above, int depth) {
    volatile float room[16384];
    room[0] = above[0];
    return depth ? deep(room, depth - 1) + room[0] : room[0];
}
__global__ void k_deep(float *x, bool fixed) {
    volatile float first[1] = {0.0f};
    x[threadIdx.x] += deep(first, fixed ? 0 : 2);
}
static void stack_overflow(bool fixed) {
    run_and_compare(k_deep, 0, fixed, same);
}

#define CASE(name)                                                                                                     \
    { #name, name }
static const struct {
    const char *name;
    void (*run)(bool fixed);
} cases[] = {
    CASE(global_write),          CASE(global_write_before),
    CASE(global_read),           CASE(global_far),
    CASE(dynamic_shared),        CASE(dynamic_shared_far),
    CASE(static_shared),         CASE(static_shared_template),
    CASE(null_pointer),          CASE(misaligned_vector),
    CASE(missing_syncthreads),   CASE(missing_syncthreads_loop),
    CASE(ldmatrix_no_barrier),   CASE(async_copy_no_wait),
    CASE(async_copy_no_barrier), CASE(shuffle_missing_lanes),
    CASE(shuffle_outside_mask),  CASE(shuffle_two_sites),
    CASE(barrier_divergent),     CASE(barrier_after_return),
    CASE(uninitialised_global),  CASE(uninitialised_dynamic),
    CASE(uninitialised_static),  CASE(uninitialised_template),
    CASE(wrong_stream),          CASE(missing_event),
    CASE(read_before_sync),      CASE(pinned_overwritten),
    CASE(host_reads_device),     CASE(host_writes_device),
    CASE(kernel_host_pointer),   CASE(kernel_host_in_struct),
    CASE(kernel_pinned_pointer), CASE(copy_too_long),
    CASE(copy_wrong_direction),  CASE(library_host_pointer),
    CASE(use_after_free),        CASE(double_free),
    CASE(leak_memory),           CASE(leak_pinned),
    CASE(leak_stream),           CASE(failure_leaks),
    CASE(stack_overflow),
};

int main(int argc, char **argv) {
    for (auto &c : cases) {
        if (argc != 3 || strcmp(argv[1], c.name)) continue;
        c.run(!strcmp(argv[2], "fixed"));
        return 0;
    }
    fprintf(stderr, "usage: bugs CASE bug|fixed\n");
    return 2;
}
