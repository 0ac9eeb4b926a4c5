/* cuda.c - life and memory of the CUDA backend: device, streams, library handles, scratch, lanes, errors.
 *
 * One compute stream carries every op, so ops are ordered and asynchronous; each lane has a stream of its own, and the
 * two meet by events. Device memory comes from cudaMalloc, once: scratch grows to a high-water mark. After an error of
 * the device itself (a fault in a kernel) every later call reports that error: the run stops, its state on disk is
 * whole. Refuses: devices older than sm_80.
 */
#include "backend/cuda.h"
#include "backend/plugin.h"

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_MAJOR = 8, BLAS_WORKSPACE = 64 << 20, CACHE_LINE = 64 };

/* ---- errors ------------------------------------------------------------------------------------------------------ */

flrq_status cuda_check(cudaError_t error, const char *op, int64_t rows, int64_t cols) {
    if (error == cudaSuccess) return FLRQ_OK;
    (void)cudaGetLastError(); /* an error that is not the device's own is not to be seen again */
    return flrq_fail(error == cudaErrorMemoryAllocation ? FLRQ_ERR_MEMORY : FLRQ_ERR_INTERNAL,
                     "CUDA: %s on %lld x %lld: %s (%s)%s", op, (long long)rows, (long long)cols,
                     cudaGetErrorString(error), cudaGetErrorName(error),
                     getenv("FLRQ_SYNC") ? "" : "; FLRQ_SYNC=1 shows the call that failed");
}

flrq_status cuda_check_blas(cublasStatus_t status, const char *op, int64_t rows, int64_t cols) {
    if (status == CUBLAS_STATUS_SUCCESS) return FLRQ_OK;
    return flrq_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? FLRQ_ERR_MEMORY : FLRQ_ERR_INTERNAL,
                     "cuBLAS: %s on %lld x %lld: %s", op, (long long)rows, (long long)cols,
                     cublasGetStatusString(status));
}

flrq_status cuda_check_solver(cusolverStatus_t status, const char *op, int64_t rows, int64_t cols) {
    if (status == CUSOLVER_STATUS_SUCCESS) return FLRQ_OK;
    return flrq_fail(status == CUSOLVER_STATUS_ALLOC_FAILED ? FLRQ_ERR_MEMORY : FLRQ_ERR_INTERNAL,
                     "cuSOLVER: %s on %lld x %lld: status %d", op, (long long)rows, (long long)cols, (int)status);
}

flrq_status cuda_launched(flrq_backend *be, cudaError_t error, const char *op, int64_t rows, int64_t cols) {
    FLRQ_TRY(cuda_check(error, op, rows, cols));
    return cuda_of(be)->sync ? cuda_wait(cuda_of(be), cuda_of(be)->stream, op, rows * cols) : FLRQ_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static flrq_status fail_device_memory(size_t bytes, const char *what) {
    size_t free_bytes = 0, total = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_bytes, &total);
    return flrq_fail(FLRQ_ERR_MEMORY, "out of device memory: %zu bytes wanted for %s, %zu of %zu are free", bytes, what,
                     free_bytes, total);
}

/* Memory that devices of one process may read from each other is mapped into all of them, which may wait for each: so
 * not while one of them waits for another worker. */
static flrq_status cuda_alloc(flrq_backend *be, void **out, size_t bytes, const char *what) {
    *out = NULL;
    FLRQ_TRY(cuda_link_quiet(cuda_of(be)));
    cudaError_t error = cudaMalloc(out, bytes ? bytes : CACHE_LINE);
    if (error == cudaErrorMemoryAllocation) return fail_device_memory(bytes, what);
    return cuda_check(error, what, 1, (int64_t)bytes);
}

/* Errors on release have nobody to go to: cudaFree() repeats those of earlier work, which the next call reports. It
 * waits for the device, and so for other workers. */
static void cuda_release(flrq_backend *be, void *memory) {
    if (!memory) return;
    (void)cuda_link_quiet(cuda_of(be));
    (void)cudaFree(memory);
}

static flrq_status cuda_host_alloc(flrq_backend *be, void **out, size_t bytes, const char *what) {
    *out = NULL;
    FLRQ_TRY(cuda_link_quiet(cuda_of(be)));
    cudaError_t error = cudaMallocHost(out, bytes ? bytes : CACHE_LINE);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return flrq_fail(FLRQ_ERR_MEMORY, "out of page-locked memory: %zu bytes wanted for %s", bytes, what);
    }
    return cuda_check(error, what, 1, (int64_t)bytes);
}

static void cuda_host_release(flrq_backend *be, void *memory) {
    if (!memory) return;
    (void)cuda_link_quiet(cuda_of(be));
    (void)cudaFreeHost(memory);
}

flrq_status cuda_scratch(flrq_backend *be, cuda_slot slot, size_t bytes, void **out) {
    static const char *const names[] = {"a panel of an operand", "a scaled factor", "partial sums",
                                        "the tree of sums",      "results",         "cuSOLVER's workspace"};
    cuda_state *state = cuda_of(be);
    if (bytes > state->scratch_bytes[slot]) {
        cuda_release(be, state->scratch[slot]);
        state->scratch[slot] = NULL, state->scratch_bytes[slot] = 0;
        FLRQ_TRY(cuda_alloc(be, &state->scratch[slot], bytes, names[slot]));
        state->scratch_bytes[slot] = bytes;
    }
    *out = state->scratch[slot];
    return FLRQ_OK;
}

flrq_status cuda_host(flrq_backend *be, size_t bytes, void **out) {
    cuda_state *state = cuda_of(be);
    if (bytes > state->host_bytes) {
        cuda_host_release(be, state->host);
        state->host = NULL, state->host_bytes = 0;
        FLRQ_TRY(cuda_host_alloc(be, &state->host, bytes, "results"));
        state->host_bytes = bytes;
    }
    *out = state->host;
    return FLRQ_OK;
}

flrq_status cuda_fetch(flrq_backend *be, void *to, const void *d_from, size_t bytes) {
    void *host;
    if (bytes == 0) return FLRQ_OK;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_host(be, bytes, &host));
    FLRQ_TRY(cuda_check(cudaMemcpyAsync(host, d_from, bytes, cudaMemcpyDeviceToHost, stream), "download", 1,
                        (int64_t)bytes));
    FLRQ_TRY(cuda_wait(cuda_of(be), stream, "download", (int64_t)bytes));
    memcpy(to, host, bytes);
    return FLRQ_OK;
}

/* From pageable memory, so the driver has taken the bytes when the call returns; a long copy waits in the driver for
 * its turn in the stream. */
static flrq_status cuda_upload(flrq_backend *be, void *d_to, const void *from, size_t bytes) {
    if (bytes == 0) return FLRQ_OK;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_link_quiet(cuda_of(be)));
    FLRQ_TRY(
        cuda_check(cudaMemcpyAsync(d_to, from, bytes, cudaMemcpyHostToDevice, stream), "upload", 1, (int64_t)bytes));
    return cuda_wait(cuda_of(be), stream, "upload", (int64_t)bytes);
}

static flrq_status cuda_download(flrq_backend *be, void *to, const void *d_from, size_t bytes) {
    if (bytes == 0) return FLRQ_OK;
    cudaStream_t stream = cuda_of(be)->stream;
    FLRQ_TRY(cuda_link_quiet(cuda_of(be)));
    FLRQ_TRY(
        cuda_check(cudaMemcpyAsync(to, d_from, bytes, cudaMemcpyDeviceToHost, stream), "download", 1, (int64_t)bytes));
    return cuda_wait(cuda_of(be), stream, "download", (int64_t)bytes);
}

static flrq_status cuda_copy(flrq_backend *be, void *d_to, const void *d_from, size_t bytes) {
    if (bytes == 0) return FLRQ_OK;
    return cuda_launched(be, cudaMemcpyAsync(d_to, d_from, bytes, cudaMemcpyDeviceToDevice, cuda_of(be)->stream),
                         "copy", 1, (int64_t)bytes);
}

static flrq_status cuda_zero(flrq_backend *be, void *d_memory, size_t bytes) {
    if (bytes == 0) return FLRQ_OK;
    return cuda_launched(be, cudaMemsetAsync(d_memory, 0, bytes, cuda_of(be)->stream), "zero", 1, (int64_t)bytes);
}

static flrq_status cuda_sync(flrq_backend *be) {
    return cuda_wait(cuda_of(be), cuda_of(be)->stream, "wait", 1);
}

/* ---- lanes ------------------------------------------------------------------------------------------------------- */

enum { LANE_EVENTS = 64 }; /* copies whose tickets can be told apart; older ones wait for a little more */

struct flrq_lane {
    cuda_state *state;
    cudaStream_t stream;
    cudaEvent_t ops;               /* of lane_after_ops() */
    cudaEvent_t done[LANE_EVENTS]; /* after copy number ticket, at ticket % LANE_EVENTS */
    uint64_t issued;
};

static void cuda_lane_close(flrq_lane *lane) {
    if (!lane) return;
    (void)cuda_link_quiet(lane->state); /* a copy may come after an op that waits for another worker */
    if (lane->stream) (void)cudaStreamSynchronize(lane->stream);
    for (int i = 0; i < LANE_EVENTS; i++)
        if (lane->done[i]) (void)cudaEventDestroy(lane->done[i]);
    if (lane->ops) (void)cudaEventDestroy(lane->ops);
    if (lane->stream) (void)cudaStreamDestroy(lane->stream);
    free(lane);
}

static flrq_status cuda_lane_open(flrq_backend *be, flrq_lane **out) {
    *out = NULL;
    flrq_lane *lane = calloc(1, sizeof *lane);
    if (!lane) return flrq_fail_memory(sizeof *lane, "a lane of copies");
    lane->state = cuda_of(be);
    cudaError_t error = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&lane->ops, cudaEventDisableTiming);
    for (int i = 0; i < LANE_EVENTS && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&lane->done[i], cudaEventDisableTiming | cudaEventBlockingSync);
    if (error != cudaSuccess) {
        cuda_lane_close(lane);
        return cuda_check(error, "a lane of copies", 1, 1);
    }
    *out = lane;
    return FLRQ_OK;
}

static flrq_status cuda_lane_after_ops(flrq_lane *lane) {
    FLRQ_TRY(cuda_check(cudaEventRecord(lane->ops, lane->state->stream), "event", 1, 1));
    return cuda_check(cudaStreamWaitEvent(lane->stream, lane->ops, 0), "wait for ops", 1, 1);
}

/* A copy of pageable memory waits in the driver for what is before it on the lane: better here, under the watch. */
static flrq_status wait_before_copy(flrq_lane *lane, const void *host) {
    struct cudaPointerAttributes place;
    if (!atomic_load(&lane->state->watched)) return FLRQ_OK;
    FLRQ_TRY(cuda_check(cudaPointerGetAttributes(&place, host), "host memory", 1, 1));
    if (place.type != cudaMemoryTypeUnregistered) return FLRQ_OK;
    return cuda_wait_event(lane->state, lane->ops, "wait for ops", 1);
}

/* The current device belongs to the thread, and lanes run on threads of their own. */
static flrq_status lane_copy(flrq_lane *lane, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                             uint64_t *ticket) {
    FLRQ_TRY(cuda_check(cudaSetDevice(lane->state->device), "device", 1, lane->state->device));
    FLRQ_TRY(wait_before_copy(lane, kind == cudaMemcpyHostToDevice ? from : to));
    if (bytes > 0)
        FLRQ_TRY(cuda_check(cudaMemcpyAsync(to, from, bytes, kind, lane->stream), "copy on a lane", 1, (int64_t)bytes));
    lane->issued++;
    if (ticket) *ticket = lane->issued;
    return cuda_check(cudaEventRecord(lane->done[lane->issued % LANE_EVENTS], lane->stream), "event", 1, 1);
}

static flrq_status cuda_lane_upload(flrq_lane *lane, void *d_to, const void *from, size_t bytes, uint64_t *ticket) {
    return lane_copy(lane, d_to, from, bytes, cudaMemcpyHostToDevice, ticket);
}

static flrq_status cuda_lane_download(flrq_lane *lane, void *to, const void *d_from, size_t bytes, uint64_t *ticket) {
    return lane_copy(lane, to, d_from, bytes, cudaMemcpyDeviceToHost, ticket);
}

/* An event that was recorded again stands for a later copy: waiting for it waits for both. */
static flrq_status cuda_lane_wait(flrq_lane *lane, uint64_t ticket) {
    if (ticket == 0) return cuda_wait(lane->state, lane->stream, "wait for a lane", 1);
    return cuda_wait_event(lane->state, lane->done[ticket % LANE_EVENTS], "wait for a copy", 1);
}

/* ---- device ------------------------------------------------------------------------------------------------------ */

static void cuda_set_precision(flrq_backend *be, flrq_precision precision) {
    cuda_of(be)->precision = precision;
}

static void cuda_set_watch(flrq_backend *be, flrq_status (*watch)(void *user), void *user) {
    cuda_state *state = cuda_of(be);
    pthread_mutex_lock(&state->watching); /* nobody is in the old one when this returns */
    state->watch = watch;
    state->watch_user = user;
    atomic_store(&state->watched, watch != NULL);
    pthread_mutex_unlock(&state->watching);
}

static void cuda_mark_phase(flrq_backend *be, const char *name) {
    cuda_state *state = cuda_of(be);
    if (state->phase_open) (void)nvtxRangePop();
    state->phase_open = name != NULL;
    if (name) (void)nvtxRangePushA(name);
}

static flrq_status cuda_info(flrq_backend *be, flrq_device_info *out) {
    cuda_state *state = cuda_of(be);
    int driver = 0, runtime = 0;
    memset(out, 0, sizeof *out);
    FLRQ_TRY(cuda_check(cudaDriverGetVersion(&driver), "driver version", 1, 1));
    FLRQ_TRY(cuda_check(cudaRuntimeGetVersion(&runtime), "runtime version", 1, 1));
    FLRQ_TRY(cuda_check(cudaMemGetInfo(&out->free_bytes, &out->total_bytes), "memory", 1, 1));
    snprintf(out->instruction_set, sizeof out->instruction_set, "sm_%d%d", state->properties.major,
             state->properties.minor);
    snprintf(out->libraries, sizeof out->libraries, "CUDA %d.%d, driver %d.%d", runtime / 1000, runtime % 1000 / 10,
             driver / 1000, driver % 1000 / 10);
    snprintf(out->name, sizeof out->name, "%.40s, %d multiprocessors, %s, %.32s", state->properties.name,
             state->properties.multiProcessorCount, out->instruction_set, out->libraries);
    out->threads = 1;
    out->separate_memory = 1;
    return FLRQ_OK;
}

static void cuda_close(flrq_backend *be) {
    cuda_state *state = cuda_of(be);
    if (!state) return;
    if (state->phase_open) (void)nvtxRangePop();
    cuda_link_free(state);
    if (state->stream) (void)cudaStreamSynchronize(state->stream);
    if (state->solver) (void)cusolverDnDestroy(state->solver);
    if (state->blas) (void)cublasDestroy(state->blas);
    for (int i = 0; i < CUDA_SLOT_COUNT; i++) cuda_release(be, state->scratch[i]);
    cuda_release(be, state->blas_workspace);
    cuda_host_release(be, state->host);
    if (state->stream) (void)cudaStreamDestroy(state->stream);
    pthread_mutex_destroy(&state->watching);
    free(state);
    be->state = NULL;
}

/* cudaGetDeviceCount() without a driver says "insufficient driver", as it does with one that is too old. */
static flrq_status count_devices(int *devices) {
    int count = 0, driver = 0;
    (void)cudaDriverGetVersion(&driver);
    cudaError_t error = cudaGetDeviceCount(&count);
    (void)cudaGetLastError();
    if (error == cudaErrorInsufficientDriver && driver == 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda: no NVIDIA driver on this machine");
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda: the driver sees no GPU%s",
                         getenv("CUDA_VISIBLE_DEVICES") ? " (CUDA_VISIBLE_DEVICES is set)" : "");
    if (error != cudaSuccess)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda: %s (driver for CUDA %d.%d)", cudaGetErrorString(error),
                         driver / 1000, driver % 1000 / 10);
    *devices = count;
    return FLRQ_OK;
}

static flrq_status find_device(int device) {
    int count = 0;
    FLRQ_TRY(count_devices(&count));
    if (device >= count)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device " CUDA_BACKEND_NAME ":%d: there %s %d, numbered from 0", device,
                         count == 1 ? "is" : "are", count);
    return FLRQ_OK;
}

static flrq_status open_libraries(flrq_backend *be) {
    cuda_state *state = cuda_of(be);
    FLRQ_TRY(cuda_check(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), "stream", 1, 1));
    FLRQ_TRY(cuda_check_blas(cublasCreate(&state->blas), "start", 1, 1));
    FLRQ_TRY(cuda_check_blas(cublasSetStream(state->blas, state->stream), "stream", 1, 1));
    FLRQ_TRY(cuda_alloc(be, &state->blas_workspace, BLAS_WORKSPACE, "cuBLAS's workspace"));
    FLRQ_TRY(cuda_check_blas(cublasSetWorkspace(state->blas, state->blas_workspace, BLAS_WORKSPACE), "workspace", 1,
                             BLAS_WORKSPACE));
    FLRQ_TRY(cuda_check_solver(cusolverDnCreate(&state->solver), "start", 1, 1));
    return cuda_check_solver(cusolverDnSetStream(state->solver, state->stream), "stream", 1, 1);
}

static flrq_status open_device(flrq_backend *be, int device) {
    FLRQ_TRY(find_device(device));
    cuda_state *state = calloc(1, sizeof *state);
    if (!state) return flrq_fail_memory(sizeof *state, "the state of the CUDA backend");
    if (pthread_mutex_init(&state->watching, NULL) != 0) {
        free(state);
        return flrq_fail(FLRQ_ERR_INTERNAL, "device cuda: the system gives no lock");
    }
    be->state = state;
    state->device = device;
    const char *sync = getenv("FLRQ_SYNC");
    state->sync = sync && sync[0] && strcmp(sync, "0") != 0;
    FLRQ_TRY(cuda_check(cudaSetDevice(device), "device", 1, device));
    FLRQ_TRY(cuda_check(cudaGetDeviceProperties(&state->properties, device), "device properties", 1, device));
    if (state->properties.major < MIN_MAJOR)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda:%d: %.64s is sm_%d%d; sm_80 (Ampere) or later is wanted",
                         device, state->properties.name, state->properties.major, state->properties.minor);
    return open_libraries(be);
}

flrq_view cuda_view(const flrq_operand *a, int64_t row0, int64_t rows) {
    flrq_view v = {.rows = rows, .cols = a->cols, .codes_sign = a->codes_sign, .lr_sign = a->lr_sign};
    v.dtype = (int32_t)a->dense_dtype;
    v.col_scale = a->d_col_scale;
    if (a->d_dense) {
        v.ld = a->ld_dense;
        v.dense = (const char *)a->d_dense + (size_t)(row0 * v.ld) * (v.dtype == FLRQ_F32 ? 4 : 2);
    }
    if (a->codes) {
        const flrq_codes *c = a->codes;
        v.group = c->group, v.n_groups = c->n_groups;
        v.code = c->code + row0 * c->cols;
        v.scale = c->scale + row0 * c->n_groups;
        v.zero = c->symmetric ? NULL : c->zero + row0 * c->n_groups;
        v.middle = (float)(1 << (c->bits - 1));
    }
    if (a->rank > 0) v.l = a->d_l + row0 * a->rank, v.r = a->d_r, v.rank = a->rank;
    return v;
}

void cuda_register_memory(flrq_backend *be) {
    be->close = cuda_close;
    be->info = cuda_info;
    be->alloc = cuda_alloc;
    be->release = cuda_release;
    be->host_alloc = cuda_host_alloc;
    be->host_release = cuda_host_release;
    be->upload = cuda_upload;
    be->download = cuda_download;
    be->copy = cuda_copy;
    be->zero = cuda_zero;
    be->sync = cuda_sync;
    be->set_precision = cuda_set_precision;
    be->set_watch = cuda_set_watch;
    be->mark_phase = cuda_mark_phase;
    be->lane_open = cuda_lane_open;
    be->lane_close = cuda_lane_close;
    be->lane_after_ops = cuda_lane_after_ops;
    be->lane_upload = cuda_lane_upload;
    be->lane_download = cuda_lane_download;
    be->lane_wait = cuda_lane_wait;
}

/** The plugin's entries; see plugin.h. */
FLRQ_API flrq_status flrq_plugin_open(flrq_backend *be, int device, char *(*error_text)(void));
FLRQ_API flrq_status flrq_plugin_count(int *count, char *(*error_text)(void));

flrq_status flrq_plugin_count(int *count, char *(*error_text)(void)) {
    flrq_error_share(error_text);
    return count_devices(count);
}

flrq_status flrq_plugin_open(flrq_backend *be, int device, char *(*error_text)(void)) {
    flrq_error_share(error_text);
    if (be->abi != FLRQ_BACKEND_ABI)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda: the plugin has backend table %d, the library wants %u",
                         FLRQ_BACKEND_ABI, be->abi);
    be->name = CUDA_BACKEND_NAME;
    flrq_status status = open_device(be, device);
    if (status != FLRQ_OK) {
        cuda_close(be);
        return status;
    }
    cuda_register_memory(be);
    cuda_register_link(be);
    cuda_register_matrix(be);
    cuda_register_small(be);
    cuda_register_quant(be);
    cuda_register_forward(be);
    return FLRQ_OK;
}
