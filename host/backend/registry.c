/* registry.c - opens a backend by name. */
#include "backend/cpu.h"

#include <stdlib.h>
#include <string.h>

static flrq_status open_cpu(flrq_backend **out, int threads, int reference);

flrq_status flrq_backend_open(flrq_backend **out, const char *name, int threads) {
    *out = NULL;
    if (strcmp(name, "cpu") == 0 || strcmp(name, "auto") == 0) return open_cpu(out, threads, 0);
    if (strcmp(name, "cpu-ref") == 0) return open_cpu(out, threads, 1);
    if (strcmp(name, "cuda") == 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device cuda: this build has no CUDA backend; use --device cpu");
    return flrq_fail(FLRQ_ERR_USAGE, "unknown device \"%s\"; known: auto, cpu, cpu-ref, cuda", name);
}

static flrq_status open_cpu(flrq_backend **out, int threads, int reference) {
    flrq_backend *be = calloc(1, sizeof *be);
    if (!be) return flrq_fail_memory(sizeof *be, "a backend table");
    be->abi = FLRQ_BACKEND_ABI;
    be->name = reference ? "cpu-ref" : "cpu";
    flrq_status status = cpu_state_new(be, threads);
    if (status != FLRQ_OK) {
        free(be);
        return status;
    }
    cpu_register_memory(be);
    if (reference) {
        ref_register_matrix(be);
        ref_register_quant(be);
        ref_register_small(be);
        ref_register_forward(be);
    } else {
        cpu_register_matrix(be);
        cpu_register_quant(be);
        cpu_register_small(be);
        cpu_register_forward(be);
    }
    *out = be;
    return FLRQ_OK;
}

void flrq_backend_close(flrq_backend *be) {
    if (!be) return;
    be->close(be);
    free(be);
}
