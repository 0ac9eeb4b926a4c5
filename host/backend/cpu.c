/* cpu.c - life and memory of the CPU backend: state, choice of instruction set, aligned allocation, device info.
 *
 * Shared by both faces ("cpu" and "cpu-ref"). Backend memory is host memory, so upload and download are copies and sync
 * has nothing to wait for. OpenBLAS is held to one thread: its bits change with its thread count, and the tasks of
 * flrq_parallel_for() are the only parallelism. Must not change: a state never depends on anything but the number of
 * threads, the CPU and FLRQ_ISA.
 */
#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "core/parallel.h"

#include <cblas.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, MAX_THREADS = 1024 };

/* The state and the kernel table it points to, in one allocation. */
typedef struct cpu_memory {
    cpu_state state;
    cpu_kernels kernels;
} cpu_memory;

static void *aligned_memory(size_t bytes) {
    if (bytes > SIZE_MAX - ALIGN) return NULL;
    return aligned_alloc(ALIGN, bytes == 0 ? ALIGN : (bytes + ALIGN - 1) / ALIGN * ALIGN);
}

/* ---- instruction set --------------------------------------------------------------------------------------------- */

enum { ISA_GENERIC, ISA_AVX2, ISA_AVX512, ISA_COUNT };
static const char *const isa_names[ISA_COUNT] = {"generic", "avx2", "avx512"};

static int isa_of_this_cpu(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    /* Every CPU with AVX2 and FMA has the half conversions (F16C) as well. */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return ISA_GENERIC;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return ISA_AVX512;
    return ISA_AVX2;
#else
    return ISA_GENERIC;
#endif
}

static flrq_status choose_kernels(cpu_kernels *k) {
    int isa = isa_of_this_cpu();
    const char *wanted = getenv("FLRQ_ISA");
    if (wanted && wanted[0]) {
        int i = 0;
        while (i < ISA_COUNT && strcmp(wanted, isa_names[i]) != 0) i++;
        if (i == ISA_COUNT)
            return flrq_fail(FLRQ_ERR_USAGE, "environment FLRQ_ISA=%s: known are generic, avx2, avx512", wanted);
        if (i < isa) isa = i;
    }
    k->isa = isa_names[isa];
    switch (isa) {
#if defined(__x86_64__)
    case ISA_AVX512:
        simd_matrix_avx512(k);
        simd_gemm_avx512(k);
        simd_quant_avx512(k);
        simd_forward_avx512(k);
        break;
    case ISA_AVX2:
        simd_matrix_avx2(k);
        simd_gemm_avx2(k);
        simd_quant_avx2(k);
        simd_forward_avx2(k);
        break;
#endif
    default:
        simd_matrix_generic(k);
        simd_gemm_generic(k);
        simd_quant_generic(k);
        simd_forward_generic(k);
    }
    return FLRQ_OK;
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

static void cpu_close(flrq_backend *be) {
    cpu_state *state = cpu_of(be);
    if (!state) return;
    for (int t = 0; t < state->threads; t++) {
        if (state->scratch) free(state->scratch[t]);
        if (state->work) free(state->work[t]);
    }
    free(state->scratch);
    free(state->work);
    free(state->shared);
    free(state); /* first member of cpu_memory */
    be->state = NULL;
}

flrq_status cpu_state_new(flrq_backend *be, int threads) {
    if (threads < 0 || threads > MAX_THREADS)
        return flrq_fail(FLRQ_ERR_USAGE, "threads: %d is out of bounds [0, %d]", threads, MAX_THREADS);
    if (threads == 0) threads = flrq_hardware_threads();
    cpu_memory *memory = calloc(1, sizeof *memory);
    if (!memory) return flrq_fail_memory(sizeof *memory, "the state of the CPU backend");
    cpu_state *state = be->state = &memory->state;
    flrq_status status = FLRQ_OK;
    size_t pointers = (size_t)threads * sizeof(void *), work_bytes = CPU_GEMM_WORK * sizeof(float);
    state->threads = threads;
    state->kernels = &memory->kernels;
    FLRQ_GOTO(choose_kernels(&memory->kernels));
    state->scratch = calloc(1, pointers);
    state->work = calloc(1, pointers);
    if (!state->scratch || !state->work) {
        status = flrq_fail_memory(pointers, "scratch pointers of the CPU backend");
        goto out;
    }
    for (int t = 0; t < threads; t++)
        if (!(state->work[t] = aligned_memory(work_bytes))) {
            status = flrq_fail_memory(work_bytes, "packing space of one thread of the CPU backend");
            goto out;
        }
    openblas_set_num_threads(1);
    return FLRQ_OK;
out:
    cpu_close(be);
    return status;
}

flrq_status cpu_scratch(flrq_backend *be, size_t bytes) {
    cpu_state *state = cpu_of(be);
    if (bytes <= state->scratch_bytes) return FLRQ_OK;
    state->scratch_bytes = 0; /* until every thread has it */
    for (int t = 0; t < state->threads; t++) {
        free(state->scratch[t]);
        state->scratch[t] = aligned_memory(bytes);
        if (!state->scratch[t]) return flrq_fail_memory(bytes, "scratch of one thread of the CPU backend");
    }
    state->scratch_bytes = bytes;
    return FLRQ_OK;
}

flrq_status cpu_shared(flrq_backend *be, size_t bytes) {
    cpu_state *state = cpu_of(be);
    if (bytes <= state->shared_bytes) return FLRQ_OK;
    free(state->shared);
    state->shared_bytes = 0;
    state->shared = aligned_memory(bytes);
    if (!state->shared) return flrq_fail_memory(bytes, "shared scratch of the CPU backend");
    state->shared_bytes = bytes;
    return FLRQ_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static flrq_status cpu_alloc(flrq_backend *be, void **out, size_t bytes, const char *what) {
    *out = aligned_memory(bytes);
    return *out ? FLRQ_OK : flrq_fail_memory(bytes, what);
}

static void cpu_release(flrq_backend *be, void *memory) {
    free(memory);
}

static flrq_status cpu_copy(flrq_backend *be, void *to, const void *from, size_t bytes) {
    if (bytes > 0) memmove(to, from, bytes);
    return FLRQ_OK;
}

static flrq_status cpu_zero(flrq_backend *be, void *d_memory, size_t bytes) {
    if (bytes > 0) memset(d_memory, 0, bytes);
    return FLRQ_OK;
}

static flrq_status cpu_sync(flrq_backend *be) {
    return FLRQ_OK;
}

/* ---- lanes: copies here are done when the call returns, so a lane has nothing to remember ------------------------ */

struct flrq_lane {
    flrq_backend *be;
};

static flrq_status cpu_lane_open(flrq_backend *be, flrq_lane **out) {
    *out = malloc(sizeof **out);
    if (!*out) return flrq_fail_memory(sizeof **out, "a lane of copies");
    (*out)->be = be;
    return FLRQ_OK;
}

static void cpu_lane_close(flrq_lane *lane) {
    free(lane);
}

static flrq_status cpu_lane_after_ops(flrq_lane *lane) {
    return FLRQ_OK;
}

static flrq_status cpu_lane_copy(flrq_lane *lane, void *to, const void *from, size_t bytes, uint64_t *ticket) {
    if (ticket) *ticket = 1;
    return cpu_copy(lane->be, to, from, bytes);
}

static flrq_status cpu_lane_wait(flrq_lane *lane, uint64_t ticket) {
    return FLRQ_OK;
}

/* ---- info -------------------------------------------------------------------------------------------------------- */

/* Text after "<key> : " of the first such line of a /proc file, without the line end; false when there is none. */
static bool proc_field(const char *path, const char *key, char *out, size_t size) {
    FILE *file = fopen(path, "re");
    if (!file) return false;
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || !colon) continue;
        char *text = colon + 1 + strspn(colon + 1, " \t");
        text[strcspn(text, "\n")] = 0;
        snprintf(out, size, "%s", text);
        found = true;
    }
    fclose(file);
    return found;
}

static size_t meminfo_bytes(const char *key) {
    char text[64];
    return proc_field("/proc/meminfo", key, text, sizeof text) ? (size_t)strtoull(text, NULL, 10) * 1024 : 0;
}

static flrq_status cpu_info(flrq_backend *be, flrq_device_info *out) {
    cpu_state *state = cpu_of(be);
    memset(out, 0, sizeof *out);
    char model[64];
    if (!proc_field("/proc/cpuinfo", "model name", model, sizeof model)) snprintf(model, sizeof model, "CPU");
    /* OpenBLAS names the CPU it takes this one for: an old one names an old CPU, and its LAPACK is as slow. */
    snprintf(out->libraries, sizeof out->libraries, "OpenBLAS for %.16s", openblas_get_corename());
    snprintf(out->name, sizeof out->name, "%s, %d thread%s, %s, %.32s", model, state->threads,
             state->threads == 1 ? "" : "s", state->kernels->isa, out->libraries);
    snprintf(out->instruction_set, sizeof out->instruction_set, "%s", state->kernels->isa);
    out->threads = state->threads;
    out->total_bytes = meminfo_bytes("MemTotal");
    out->free_bytes = meminfo_bytes("MemAvailable");
    return FLRQ_OK;
}

void cpu_register_memory(flrq_backend *be) {
    be->close = cpu_close;
    be->info = cpu_info;
    be->alloc = cpu_alloc;
    be->release = cpu_release;
    be->host_alloc = cpu_alloc;
    be->host_release = cpu_release;
    be->lane_open = cpu_lane_open;
    be->lane_close = cpu_lane_close;
    be->lane_after_ops = cpu_lane_after_ops;
    be->lane_upload = cpu_lane_copy;
    be->lane_download = cpu_lane_copy;
    be->lane_wait = cpu_lane_wait;
    be->upload = cpu_copy;
    be->download = cpu_copy;
    be->copy = cpu_copy;
    be->zero = cpu_zero;
    be->sync = cpu_sync;
}
