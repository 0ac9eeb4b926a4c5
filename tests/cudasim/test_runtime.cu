/*
 * test_runtime.cu - the runtime API: limits and error codes, memory accounting, copies, streams and events, several
 * devices, fault injection. What must be reported instead of answered is in bugs.cu.
 */
#include "check.h"
#include "cublas_v2.h"
#include "cuda_runtime.h"

#include <stdlib.h>
#include <string.h>
#include <thread>
#include <vector>

#define CHECK_ERROR(call, want)                                                                                        \
    do {                                                                                                               \
        cudaError_t got_ = (call);                                                                                     \
        CHECK(got_ == (want), "%s gave %s", #call, cudaGetErrorName(got_));                                            \
    } while (0)

__global__ void k_add(float *x, float v) {
    x[blockIdx.x * blockDim.x + threadIdx.x] += v;
}
__global__ void k_shared(float *x) {
    FLRQ_DYN_SMEM(float, s);
    s[threadIdx.x] = 1.0f;
    x[threadIdx.x] = s[threadIdx.x];
}

static void test_devices() {
    int count = 0, device = -1, value = 0;
    CHECK_OK(cudaGetDeviceCount(&count));
    CHECK(count == 2, "%d devices, the test sets 2", count);
    CHECK_ERROR(cudaSetDevice(2), cudaErrorInvalidDevice);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidDevice);
    CHECK_ERROR(cudaGetLastError(), cudaSuccess);
    cudaDeviceProp p;
    CHECK_OK(cudaGetDeviceProperties(&p, 1));
    CHECK(p.totalGlobalMem == 64 << 20 && p.warpSize == 32 && p.sharedMemPerBlockOptin == 227 << 10, "%s", p.name);
    CHECK_OK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 1));
    CHECK(value == 227 << 10, "%d", value);
    CHECK_OK(cudaSetDevice(1));
    CHECK_OK(cudaGetDevice(&device));
    CHECK(device == 1, "%d", device);
    float *d;
    CHECK_OK(cudaMalloc(&d, 256));
    cudaPointerAttributes a;
    CHECK_OK(cudaPointerGetAttributes(&a, d));
    CHECK(a.type == cudaMemoryTypeDevice && a.device == 1, "%d", a.device);
    CHECK_OK(cudaFree(d));
    /* another host thread starts at device 0 */
    std::thread([] {
        int own = -1;
        CHECK_OK(cudaGetDevice(&own));
        CHECK(own == 0, "%d", own);
    }).join();
    CHECK_OK(cudaSetDevice(0));
}

static void test_memory() {
    size_t before, after, total;
    CHECK_OK(cudaMemGetInfo(&before, &total));
    CHECK(total == 64 << 20, "%zu", total);
    char *a, *b, *c;
    CHECK_OK(cudaMalloc(&a, 1000));
    CHECK((uintptr_t)a % 256 == 0, "%p", (void *)a);
    CHECK_OK(cudaMemGetInfo(&after, &total));
    CHECK(before - after == 1024, "%zu", before - after);
    CHECK(cudasim_live_bytes() == 1000 && cudasim_live_objects() == 1, "%zu", cudasim_live_bytes());
    CHECK_ERROR(cudaMalloc(&b, 65 << 20), cudaErrorMemoryAllocation);
    CHECK(!b, "a failed cudaMalloc gives null");
    CHECK_ERROR(cudaGetLastError(), cudaErrorMemoryAllocation);
    CHECK_OK(cudaMalloc(&b, (64 << 20) - 2048)); /* all that is left but 1 KiB */
    CHECK_ERROR(cudaMalloc(&c, 2048), cudaErrorMemoryAllocation);
    CHECK_OK(cudaFree(b));
    CHECK_OK(cudaMalloc(&c, 32 << 20));
    CHECK_OK(cudaFree(c));
    CHECK_OK(cudaFree(a));
    CHECK_OK(cudaFree(nullptr));
    CHECK_OK(cudaMalloc(&a, 0));
    CHECK(!a, "no bytes, no address");
    /* recycled memory is poisoned as fresh memory is */
    for (int round = 0; round < 2; round++) {
        unsigned char host[300];
        CHECK_OK(cudaMalloc(&a, 300));
        CHECK_OK(cudaMemcpy(host, a, 300, cudaMemcpyDeviceToHost));
        for (unsigned char v : host) CHECK(v == 0xff, "%d", v);
        CHECK_OK(cudaMemset(a, 1, 300));
        CHECK_OK(cudaFree(a));
    }
    cudaGetLastError();
}

static void test_copies() {
    unsigned char host[40], back[40], *d;
    for (int i = 0; i < 40; i++) host[i] = (unsigned char)i;
    CHECK_OK(cudaMalloc(&d, 64));
    CHECK_OK(cudaMemset(d, 0, 64));
    /* 4 rows of 5 bytes from distance 10 to distance 16 */
    CHECK_OK(cudaMemcpy2D(d, 16, host, 10, 5, 4, cudaMemcpyHostToDevice));
    CHECK_ERROR(cudaMemcpy2D(d, 4, host, 10, 5, 4, cudaMemcpyHostToDevice), cudaErrorInvalidPitchValue);
    unsigned char all[64];
    CHECK_OK(cudaMemcpy(all, d, 64, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 64; i++) CHECK(all[i] == (i % 16 < 5 ? i / 16 * 10 + i % 16 : 0), "%d: %d", i, all[i]);
    memset(back, 77, sizeof back);
    CHECK_OK(cudaMemcpy2D(back, 10, d, 16, 5, 4, cudaMemcpyDefault));
    for (int i = 0; i < 40; i++) CHECK(back[i] == (i % 10 < 5 ? i : 77), "%d: %d", i, back[i]);
    /* pageable memory is read at the call */
    cudaStream_t s;
    CHECK_OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK_OK(cudaMemcpyAsync(d, host, 40, cudaMemcpyHostToDevice, s));
    memset(host, 0, sizeof host);
    CHECK_OK(cudaStreamSynchronize(s));
    CHECK_OK(cudaMemcpy(back, d, 40, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 40; i++) CHECK(back[i] == i, "%d: %d", i, back[i]);
    CHECK_OK(cudaStreamDestroy(s));
    CHECK_OK(cudaFree(d));
}

static void test_launches() {
    float *d;
    CHECK_OK(cudaMalloc(&d, 4096));
    CHECK_OK(cudaMemset(d, 0, 4096));
    CHECK_OK(cudaDeviceSynchronize());
    FLRQ_LAUNCH(k_add, 1, 1025, 0, 0, d, 1.0f);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidConfiguration);
    FLRQ_LAUNCH(k_add, 0, 32, 0, 0, d, 1.0f);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidConfiguration);
    FLRQ_LAUNCH(k_add, dim3(1, 65536), 32, 0, 0, d, 1.0f);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidConfiguration);
    FLRQ_LAUNCH(k_add, 1, dim3(1, 1, 65), 0, 0, d, 1.0f);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidConfiguration);
    const int kb = 1 << 10;
    FLRQ_LAUNCH(k_shared, 1, 1024, 48 * kb, 0, d);
    CHECK_ERROR(cudaGetLastError(), cudaSuccess);
    FLRQ_LAUNCH(k_shared, 1, 1024, 49 * kb, 0, d);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidValue);
    CHECK_OK(cudaFuncSetAttribute(k_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 * kb));
    FLRQ_LAUNCH(k_shared, 1, 1024, 100 * kb, 0, d);
    CHECK_ERROR(cudaGetLastError(), cudaSuccess);
    FLRQ_LAUNCH(k_shared, 1, 1024, 101 * kb, 0, d);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidValue);
    CHECK_ERROR(cudaFuncSetAttribute(k_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * kb),
                cudaErrorInvalidValue);
    CHECK_OK(cudaDeviceSynchronize());
    float first;
    CHECK_OK(cudaMemcpy(&first, d, 4, cudaMemcpyDeviceToHost));
    CHECK(first == 1.0f, "%f", first);
    int blocks = 0;
    CHECK_OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k_shared, 256, 100 * kb));
    CHECK(blocks == 2, "%d", blocks);
    CHECK_OK(cudaFree(d));
    cudaGetLastError();
}

static void test_streams() {
    cudaStream_t a, b;
    cudaEvent_t done, timed[2], untimed;
    float *d, host = 0.0f;
    CHECK_OK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    CHECK_OK(cudaStreamCreate(&b));
    CHECK_OK(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
    CHECK_OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    for (cudaEvent_t &e : timed) CHECK_OK(cudaEventCreate(&e));
    CHECK_OK(cudaMalloc(&d, 4));
    /* nothing runs before it is waited for */
    CHECK_OK(cudaMemsetAsync(d, 0, 4, a));
    CHECK_OK(cudaEventRecord(timed[0], a));
    FLRQ_LAUNCH(k_add, 1, 1, 0, a, d, 1.0f);
    CHECK_OK(cudaEventRecord(done, a));
    CHECK_OK(cudaEventRecord(timed[1], a));
    CHECK_ERROR(cudaEventElapsedTime(&host, timed[0], timed[1]), cudaErrorNotReady);
    /* a second record moves the event; a wait of before keeps the first */
    CHECK_OK(cudaStreamWaitEvent(b, done));
    FLRQ_LAUNCH(k_add, 1, 1, 0, b, d, 2.0f);
    CHECK_OK(cudaEventRecord(done, b));
    CHECK_OK(cudaEventSynchronize(done));
    CHECK_ERROR(cudaStreamQuery(b), cudaSuccess);
    CHECK_OK(cudaMemcpy(&host, d, 4, cudaMemcpyDeviceToHost));
    CHECK(host == 3.0f, "%f", host);
    CHECK_OK(cudaStreamSynchronize(a));
    CHECK_OK(cudaEventElapsedTime(&host, timed[0], timed[1]));
    CHECK(host >= 0.0f, "%f", host);
    CHECK_ERROR(cudaEventElapsedTime(&host, timed[0], untimed), cudaErrorInvalidResourceHandle);
    CHECK_ERROR(cudaEventQuery(untimed), cudaSuccess); /* never recorded */
    /* asking makes progress, so that a loop of questions ends */
    for (int i = 0; i < 100; i++) FLRQ_LAUNCH(k_add, 1, 1, 0, a, d, 1.0f);
    CHECK_OK(cudaEventRecord(done, a));
    int asked = 0;
    while (cudaEventQuery(done) == cudaErrorNotReady) asked++;
    CHECK(asked > 0, "done at once");
    /* the default stream waits for blocking streams, and they for it */
    FLRQ_LAUNCH(k_add, 1, 1, 0, b, d, -103.0f);
    CHECK_OK(cudaMemcpy(&host, d, 4, cudaMemcpyDeviceToHost));
    CHECK(host == 0.0f, "%f", host);
    FLRQ_LAUNCH(k_add, 1, 1, 0, 0, d, 5.0f);
    FLRQ_LAUNCH(k_add, 1, 1, 0, b, d, 1.0f);
    CHECK_OK(cudaStreamSynchronize(b));
    CHECK_OK(cudaMemcpyAsync(&host, d, 4, cudaMemcpyDeviceToHost, a)); /* pageable: waits */
    CHECK(host == 6.0f, "%f", host);
    CHECK_OK(cudaFree(d));
    CHECK_OK(cudaStreamDestroy(a));
    CHECK_OK(cudaStreamDestroy(b));
    for (cudaEvent_t e : {done, untimed, timed[0], timed[1]}) CHECK_OK(cudaEventDestroy(e));
    CHECK(cudasim_live_objects() == 0, "%ld", cudasim_live_objects());
}

/* One host thread launches while others copy on their own streams. */
static void test_threads() {
    const int n = 4, rounds = 50;
    std::vector<std::thread> threads;
    for (int t = 0; t < n; t++)
        threads.emplace_back([t] {
            cudaStream_t s;
            float *d, *pinned;
            bool good = cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == 0 && cudaMalloc(&d, 1024) == 0 &&
                        cudaMallocHost(&pinned, 1024) == 0;
            for (int r = 0; r < rounds && good; r++) {
                for (int i = 0; i < 256; i++) pinned[i] = (float)(t + i);
                good = cudaMemcpyAsync(d, pinned, 1024, cudaMemcpyHostToDevice, s) == 0;
                FLRQ_LAUNCH(k_add, 2, 128, 0, s, d, (float)r);
                good = good && cudaMemcpyAsync(pinned, d, 1024, cudaMemcpyDeviceToHost, s) == 0 &&
                       cudaStreamSynchronize(s) == 0;
                for (int i = 0; i < 256; i++) good = good && pinned[i] == (float)(t + i + r);
            }
            good = good && cudaFree(d) == 0 && cudaFreeHost(pinned) == 0 && cudaStreamDestroy(s) == 0;
            CHECK(good, "thread %d", t);
        });
    for (std::thread &t : threads) t.join();
}

static void test_injection() {
    float *d, *pinned;
    cudaStream_t s;
    cublasHandle_t h;
    /* the n-th call of the chosen kinds, and only that */
    cudasim_fail_at(2, CUDASIM_ALLOC);
    CHECK_OK(cudaMalloc(&d, 64));
    CHECK_OK(cudaStreamCreate(&s));
    CHECK_ERROR(cudaMallocHost(&pinned, 64), cudaErrorMemoryAllocation);
    CHECK_OK(cudaMallocHost(&pinned, 64));
    CHECK(cudasim_calls(CUDASIM_ALLOC) == 3 && cudasim_calls(CUDASIM_ALL) == 4, "%ld", cudasim_calls(CUDASIM_ALL));
    CHECK_OK(cudaFreeHost(pinned));
    CHECK_OK(cudaStreamDestroy(s));
    cudasim_fail_at(1, CUDASIM_CREATE);
    CHECK(cudaStreamCreate(&s) != cudaSuccess && !s, "stream");
    cudasim_fail_at(1, CUDASIM_LIB);
    CHECK(cublasCreate(&h) == CUBLAS_STATUS_ALLOC_FAILED && !h, "cublasCreate");
    CHECK(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS, "cublasCreate");
    cudasim_fail_at(2, CUDASIM_LIB);
    float one = 1.0f;
    CHECK(cublasSscal(h, 4, &one, d, 1) == CUBLAS_STATUS_SUCCESS, "first call");
    CHECK(cublasSscal(h, 4, &one, d, 1) == CUBLAS_STATUS_EXECUTION_FAILED, "second call");
    cudasim_fail_at(1, CUDASIM_COPY);
    CHECK(cudaMemset(d, 0, 64) != cudaSuccess, "memset");
    CHECK_OK(cudaMemset(d, 0, 64));
    /* a failed launch shows at the next synchronisation and stays, as a device fault does; memory can be given back */
    cudasim_fail_at(1, CUDASIM_LAUNCH);
    FLRQ_LAUNCH(k_add, 1, 16, 0, 0, d, 1.0f);
    cudaGetLastError();
    CHECK_ERROR(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    CHECK_ERROR(cudaGetLastError(), cudaErrorLaunchFailure);
    CHECK_ERROR(cudaGetLastError(), cudaErrorLaunchFailure);
    CHECK_ERROR(cudaMallocHost(&pinned, 64), cudaErrorLaunchFailure);
    CHECK(cublasSscal(h, 4, &one, d, 1) == CUBLAS_STATUS_EXECUTION_FAILED, "after the fault");
    CHECK_ERROR(cudaFree(d), cudaErrorLaunchFailure);
    CHECK(cublasDestroy(h) == CUBLAS_STATUS_SUCCESS, "destroy");
    CHECK(cudasim_live_objects() == 0, "%ld", cudasim_live_objects());
    cudasim_fail_at(0, CUDASIM_ALL);
    CHECK_ERROR(cudaGetLastError(), cudaSuccess);
    CHECK_OK(cudaMalloc(&d, 64));
    CHECK_OK(cudaFree(d));
}

int main() {
    setenv("FLRQ_CUDASIM_DEVICES", "2", 1);
    setenv("FLRQ_CUDASIM_MEMORY", "67108864", 1);
    test_devices();
    test_memory();
    test_copies();
    test_launches();
    test_streams();
    test_threads();
    test_injection();
    return check_done("runtime");
}
