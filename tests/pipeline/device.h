/* device.h - a device with memory of its own, played by the CPU backend, for tests of streaming.
 *
 * Ops are the CPU's and happen at once, but copies of a lane happen at any moment (by the seed) between being asked for
 * and being waited for, in order. So a slot that is read into too early, a block used before it is there, or a result
 * written before it arrived gives other bytes. Kept besides: that no lane copies what an op has written, or into what
 * an op has read, without lane_after_ops() in between; that products are FAST in forwards and quantization is FULL;
 * that nothing is allocated twice, or left. Memory has a limit, and an allocation or a copy can be made to fail by its
 * number.
 */
#ifndef TESTS_PIPELINE_DEVICE_H
#define TESTS_PIPELINE_DEVICE_H

#include <pthread.h>
#include <time.h>
#include "model/logits.h"

enum { DEVICE_USES = 4096, LANE_COPIES = 4096 };

typedef struct device_use {
    uintptr_t from, to;
    uint64_t op;
    int written;
} device_use;

static struct {
    flrq_backend be; /* the CPU's table with other memory and lanes */
    flrq_backend *cpu;
    pthread_mutex_t lock;
    uint64_t random; /* 0: every copy at once */
    size_t limit, used, peak;
    size_t own;                               /* free besides, for what a real backend takes for itself */
    long allocations, alive, fail_allocation; /* fail_allocation: number of the one that fails, 0 none */
    long copies, fail_copy;
    long linears, fail_linear; /* linear() number fail_linear finds no memory for itself */
    int refuse_bf16;           /* materialize_bf16() is there and finds no memory for itself */
    long download_us;          /* what every download of a lane takes at least */
    int absent;                /* flrq_backend_open("cuda") fails */
    flrq_precision precision;
    uint64_t ops;
    device_use uses[DEVICE_USES];
    int n_uses;
    long phases;
    char fault[256]; /* first broken rule */
} device = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void device_fault(const char *text) {
    if (!device.fault[0]) snprintf(device.fault, sizeof device.fault, "%s", text);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

typedef struct device_block {
    size_t bytes;
    char pad[64 - sizeof(size_t)];
} device_block;

static flrq_status device_take(size_t bytes, const char *what, void **out, int counts) {
    pthread_mutex_lock(&device.lock);
    int refused = ++device.allocations == device.fail_allocation ||
                  (counts && device.limit && device.used + bytes > device.limit);
    if (!refused && counts) {
        device.used += bytes;
        if (device.used > device.peak) device.peak = device.used;
    }
    device.alive += !refused;
    pthread_mutex_unlock(&device.lock);
    *out = NULL;
    if (refused) return flrq_fail(FLRQ_ERR_MEMORY, "device: %zu bytes wanted for %s", bytes, what);
    device_block *block = aligned_alloc(64, sizeof *block + (bytes + 63) / 64 * 64);
    assert_non_null(block);
    memset(block, 0xff, sizeof *block + (bytes + 63) / 64 * 64); /* NaN */
    block->bytes = counts ? bytes : 0;
    *out = block + 1;
    return FLRQ_OK;
}

static flrq_status device_alloc(flrq_backend *be, void **out, size_t bytes, const char *what) {
    return device_take(bytes, what, out, 1);
}

static flrq_status device_host_alloc(flrq_backend *be, void **out, size_t bytes, const char *what) {
    return device_take(bytes, what, out, 0);
}

static void device_release(flrq_backend *be, void *memory) {
    if (!memory) return;
    device_block *block = (device_block *)memory - 1;
    pthread_mutex_lock(&device.lock);
    device.used -= block->bytes;
    device.alive--;
    for (int i = 0; i < device.n_uses; i++)
        if (device.uses[i].from >= (uintptr_t)memory && device.uses[i].from < (uintptr_t)memory + block->bytes)
            device.uses[i] = device.uses[--device.n_uses], i--;
    pthread_mutex_unlock(&device.lock);
    free(block);
}

static flrq_status device_info(flrq_backend *be, flrq_device_info *out) {
    FLRQ_TRY(device.cpu->info(device.cpu, out));
    snprintf(out->name, sizeof out->name, "a device");
    out->separate_memory = 1;
    out->total_bytes = device.limit ? device.limit + device.own : (size_t)1 << 40;
    out->free_bytes = out->total_bytes - device.used;
    return FLRQ_OK;
}

/* ---- lanes ------------------------------------------------------------------------------------------------------- */

struct flrq_lane {
    struct {
        void *to;
        const void *from;
        size_t bytes;
    } queue[LANE_COPIES];
    uint64_t issued, done;
    uint64_t after; /* ops before it come before the copies */
};

static void lane_run(flrq_lane *lane, uint64_t until) {
    for (; lane->done < until; lane->done++) {
        size_t i = lane->done % LANE_COPIES;
        memcpy(lane->queue[i].to, lane->queue[i].from, lane->queue[i].bytes);
    }
}

static flrq_status device_lane_open(flrq_backend *be, flrq_lane **out) {
    *out = calloc(1, sizeof **out);
    device.alive++;
    return FLRQ_OK;
}

static void device_lane_close(flrq_lane *lane) {
    if (!lane) return;
    lane_run(lane, lane->issued);
    device.alive--;
    free(lane);
}

static flrq_status device_lane_after_ops(flrq_lane *lane) {
    pthread_mutex_lock(&device.lock);
    lane->after = device.ops;
    pthread_mutex_unlock(&device.lock);
    return FLRQ_OK;
}

static flrq_status lane_copy(flrq_lane *lane, void *to, const void *from, size_t bytes, uint64_t *ticket, int upload) {
    pthread_mutex_lock(&device.lock);
    int fails = ++device.copies == device.fail_copy;
    uintptr_t a = (uintptr_t)(upload ? to : from), b = a + bytes;
    for (int i = 0; i < device.n_uses; i++)
        if (device.uses[i].from < b && a < device.uses[i].to && device.uses[i].op > lane->after &&
            (upload || device.uses[i].written))
            device_fault(upload ? "upload into what an op may still read" : "download of what an op may still write");
    uint64_t random = device.random =
        device.random * 6364136223846793005u + 1442695040888963407u * (device.random != 0);
    pthread_mutex_unlock(&device.lock);
    if (fails) return flrq_fail(FLRQ_ERR_IO, "copy %ld failed on the device", device.fail_copy);
    if (lane->issued - lane->done == LANE_COPIES) device_fault("more copies in a lane than the test holds");
    size_t i = lane->issued++ % LANE_COPIES;
    lane->queue[i].to = to, lane->queue[i].from = from, lane->queue[i].bytes = bytes;
    if (ticket) *ticket = lane->issued;
    uint64_t waiting = lane->issued - lane->done;
    lane_run(lane, random ? lane->done + (random >> 33) % (waiting + 1) : lane->issued);
    return FLRQ_OK;
}

static flrq_status device_lane_upload(flrq_lane *lane, void *to, const void *from, size_t bytes, uint64_t *ticket) {
    return lane_copy(lane, to, from, bytes, ticket, 1);
}

static flrq_status device_lane_download(flrq_lane *lane, void *to, const void *from, size_t bytes, uint64_t *ticket) {
    if (device.download_us) nanosleep(&(struct timespec){.tv_nsec = device.download_us * 1000}, NULL);
    return lane_copy(lane, to, from, bytes, ticket, 0);
}

static flrq_status device_lane_wait(flrq_lane *lane, uint64_t ticket) {
    lane_run(lane, ticket ? ticket : lane->issued);
    return FLRQ_OK;
}

/* ---- ops that touch what lanes copy -------------------------------------------------------------------------------
 */

static void device_used(const void *from, size_t bytes, int written) {
    pthread_mutex_lock(&device.lock);
    device.ops++;
    int i = 0;
    while (i < device.n_uses && (device.uses[i].from != (uintptr_t)from || device.uses[i].written != written)) i++;
    if (i == DEVICE_USES)
        device_fault("more buffers than the test holds");
    else {
        device.uses[i] = (device_use){(uintptr_t)from, (uintptr_t)from + bytes, device.ops, written};
        if (i == device.n_uses) device.n_uses++;
    }
    pthread_mutex_unlock(&device.lock);
}

static void device_reads(const flrq_operand *a) {
    if (a->d_dense)
        device_used(a->d_dense, (size_t)(a->rows * a->ld_dense) * (size_t)flrq_dtype_bits(a->dense_dtype) / 8, 0);
}

static flrq_status device_linear(flrq_backend *be, float *d_y, const float *d_x, const flrq_operand *a,
                                 const float *d_bias, int64_t tokens) {
    if (device.precision != FLRQ_PRECISION_FAST) device_fault("a forward at full precision");
    device_reads(a);
    if (++device.linears == device.fail_linear)
        return flrq_fail(FLRQ_ERR_MEMORY, "device: 99 bytes wanted for scratch, 7 are free");
    return device.cpu->linear(device.cpu, d_y, d_x, a, d_bias, tokens);
}

static flrq_status device_materialize_bf16(flrq_backend *be, uint16_t *d_out, const flrq_operand *a) {
    return flrq_fail(FLRQ_ERR_MEMORY, "device: 99 bytes wanted for panels, 7 are free");
}

static flrq_status device_clip_quantize(flrq_backend *be, flrq_codes *out, const flrq_operand *a, const float *d_h,
                                        const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    if (device.precision != FLRQ_PRECISION_FULL) device_fault("quantization at less than full precision");
    device_reads(a);
    return device.cpu->clip_quantize(device.cpu, out, a, d_h, scheme, clip, stats);
}

static flrq_status device_pack(flrq_backend *be, int32_t *d_packed, const uint8_t *d_code, int64_t rows, int64_t cols,
                               int bits) {
    device_used(d_packed, (size_t)rows * (size_t)((cols * bits + 31) / 32) * sizeof(int32_t), 1);
    return device.cpu->pack(device.cpu, d_packed, d_code, rows, cols, bits);
}

static flrq_status device_copy(flrq_backend *be, void *d_to, const void *d_from, size_t bytes) {
    device_used(d_to, bytes, 1);
    return device.cpu->copy(device.cpu, d_to, d_from, bytes);
}

static void device_set_precision(flrq_backend *be, flrq_precision precision) {
    device.precision = precision;
}

static void device_mark_phase(flrq_backend *be, const char *name) {
    device.phases++;
}

static void device_close(flrq_backend *be) {
    flrq_backend_close(device.cpu);
    device.cpu = NULL;
}

/** One device of the kind cuda; everything else is the library's answer. */
flrq_status __real_flrq_backend_devices(const char *name, char kind[16], int *count);
flrq_status __wrap_flrq_backend_devices(const char *name, char kind[16], int *count) {
    if (strncmp(name, "cuda", 4) != 0) return __real_flrq_backend_devices(name, kind, count);
    if (device.absent) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda: no driver");
    snprintf(kind, 16, "%s", name);
    *count = strchr(name, ':') ? 0 : 1;
    return FLRQ_OK;
}

/** The device by the names cuda and cuda:0, all else as it is. Linked with --wrap=flrq_backend_open and
 *  --wrap=flrq_backend_devices. */
flrq_status __real_flrq_backend_open(flrq_backend **out, const char *name, int threads);
flrq_status __wrap_flrq_backend_open(flrq_backend **out, const char *name, int threads) {
    *out = NULL;
    if (strncmp(name, "cuda", 4) != 0) return __real_flrq_backend_open(out, name, threads);
    if (device.absent) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda: no driver");
    FLRQ_TRY(__real_flrq_backend_open(&device.cpu, "cpu", threads));
    flrq_backend *be = malloc(sizeof *be); /* freed by flrq_backend_close() */
    assert_non_null(be);
    *be = *device.cpu;
    be->name = "cuda";
    be->close = device_close;
    be->info = device_info;
    be->alloc = device_alloc;
    be->release = device_release;
    be->host_alloc = device_host_alloc;
    be->host_release = device_release;
    be->copy = device_copy;
    be->set_precision = device_set_precision;
    be->mark_phase = device_mark_phase;
    be->lane_open = device_lane_open;
    be->lane_close = device_lane_close;
    be->lane_after_ops = device_lane_after_ops;
    be->lane_upload = device_lane_upload;
    be->lane_download = device_lane_download;
    be->lane_wait = device_lane_wait;
    be->linear = device_linear;
    be->clip_quantize = device_clip_quantize;
    be->pack = device_pack;
    if (device.refuse_bf16) be->materialize_bf16 = device_materialize_bf16;
    *out = be;
    return FLRQ_OK;
}

/** As new: no limit, no faults, copies by `random` (0: at once). */
static inline void device_reset(uint64_t random) {
    device.random = random;
    device.limit = device.used = device.peak = device.own = 0;
    device.allocations = device.alive = device.fail_allocation = device.copies = device.fail_copy = device.phases = 0;
    device.download_us = device.linears = device.fail_linear = 0;
    device.absent = device.n_uses = device.refuse_bf16 = 0;
    device.ops = 0;
    device.precision = FLRQ_PRECISION_FULL;
    device.fault[0] = 0;
}

/** No rule was broken and nothing is left. */
static inline void device_is_clean(void) {
    if (device.fault[0]) fail_msg("%s", device.fault);
    if (device.alive) fail_msg("%ld allocations or lanes are left", device.alive);
}

#endif
