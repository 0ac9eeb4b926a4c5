/*
 * errors.cpp - reports, the runtime's error state, fault injection and the environment.
 *
 * Two kinds of failure are kept apart: a bug of the simulated program that a device would not diagnose reliably is
 * reported and aborts (fail); what CUDA answers with an error code is answered with that code.
 */
#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

namespace cudasim {

std::atomic<long> live_handles;

namespace {

thread_local cudaError_t last_error = cudaSuccess;
std::atomic<int> fault{cudaSuccess};

std::mutex injection_mutex;
long calls[5];           /* per kind, since the last reset */
long fail_countdown = 0; /* counted calls until the failing one; 0: none */
int fail_mask = 0;

const struct {
    cudaError_t code;
    const char *name, *text;
} error_table[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};

} // namespace

void fail(const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fflush(stdout);
    fprintf(stderr, "cudasim: %s%s\n", running_thread().c_str(), text);
    fflush(stderr);
    abort();
}

std::string describe_code(const void *address) {
    char text[512];
    Dl_info info;
    if (!dladdr(address, &info) || !info.dli_fname) {
        snprintf(text, sizeof text, "%p", address);
        return text;
    }
    const char *file = strrchr(info.dli_fname, '/');
    file = file ? file + 1 : info.dli_fname;
    const char *from = static_cast<const char *>(info.dli_sname ? info.dli_saddr : info.dli_fbase);
    snprintf(text, sizeof text, "%s+0x%zx in %s", info.dli_sname ? info.dli_sname : "",
             (size_t)(static_cast<const char *>(address) - from), file);
    return text;
}

long env_number(const char *name, long missing, long low, long high) {
    const char *text = getenv(name);
    if (!text || !*text) return missing;
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || *end || v < low || v > high) fail("%s=%s: want a number from %ld to %ld", name, text, low, high);
    return v;
}

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

cudaError_t device_fault() {
    return (cudaError_t)fault.load();
}

void set_device_fault(cudaError_t error) {
    int none = cudaSuccess;
    fault.compare_exchange_strong(none, error); /* the first one stays */
}

bool injected(int kind) {
    std::lock_guard<std::mutex> lock(injection_mutex);
    calls[__builtin_ctz((unsigned)kind)]++;
    return fail_countdown > 0 && (fail_mask & kind) && --fail_countdown == 0;
}

/* FLRQ_CUDASIM_FAIL and FLRQ_CUDASIM_FAIL_WHAT. */
static void read_fault_environment() {
    static const struct {
        const char *name;
        int mask;
    } kinds[] = {{"all", CUDASIM_ALL},       {"alloc", CUDASIM_ALLOC}, {"lib", CUDASIM_LIB},
                 {"launch", CUDASIM_LAUNCH}, {"copy", CUDASIM_COPY},   {"create", CUDASIM_CREATE}};
    long n = env_number("FLRQ_CUDASIM_FAIL", 0, 0, 1L << 40);
    const char *what = getenv("FLRQ_CUDASIM_FAIL_WHAT");
    int mask = what && *what ? 0 : CUDASIM_ALL;
    for (auto &k : kinds)
        if (!mask && !strcmp(what, k.name)) mask = k.mask;
    if (!mask) fail("FLRQ_CUDASIM_FAIL_WHAT=%s: want alloc, lib, launch, copy, create or all", what);
    cudasim_fail_at(n, mask);
}

void start() {
    static std::once_flag once;
    std::call_once(once, read_fault_environment);
}

} // namespace cudasim

using namespace cudasim;

extern "C" {

__attribute__((visibility("default"))) void cudasim_fail_at(long n, int mask) {
    if (device_fault() != cudaSuccess) drop_all_work();
    std::lock_guard<std::mutex> lock(injection_mutex);
    fault = cudaSuccess;
    for (long &c : calls) c = 0;
    fail_countdown = n;
    fail_mask = mask;
}

__attribute__((visibility("default"))) long cudasim_calls(int mask) {
    std::lock_guard<std::mutex> lock(injection_mutex);
    long sum = 0;
    for (int k = 0; k < 5; k++)
        if (mask >> k & 1) sum += calls[k];
    return sum;
}

cudaError_t cudaPeekAtLastError(void) {
    return device_fault() != cudaSuccess ? device_fault() : last_error;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t e = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return e;
}

const char *cudaGetErrorName(cudaError_t error) {
    for (auto &e : error_table)
        if (e.code == error) return e.name;
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (auto &e : error_table)
        if (e.code == error) return e.text;
    return "unknown error";
}

} // extern "C"
