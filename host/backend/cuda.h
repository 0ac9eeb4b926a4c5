/* cuda.h - what the files of the CUDA backend share: state, scratch, checked calls, views of operands.
 *
 * The backend is a plugin (libflrq_cuda.so) that the registry loads at run time; it holds these files, the kernels and
 * op_check.c. All ops run on one compute stream and are issued by the thread that opened the backend (the current
 * device is a thread's own); lanes have streams of their own. Nothing here waits for the device but `upload` and ops
 * with arrays in host memory, ops that return a value to the host, `download` and `sync`. With FLRQ_SYNC=1 in the
 * environment every call waits and reports, so that a failing kernel is named where it was launched. Must not change: an op's bytes depend on its arguments alone, for a given device, driver and library version.
 */
#ifndef FLRQ_BACKEND_CUDA_H
#define FLRQ_BACKEND_CUDA_H

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include "backend/op_check.h"
#include "kernels/view.h"

/** Scratch of ops, grown to a high-water mark; two uses at once need two slots. */
typedef enum cuda_slot {
    CUDA_SLOT_PANEL = 0,  /* rows of an operand, evaluated */
    CUDA_SLOT_VECTOR = 1, /* the skinny factor, scaled or in bf16; transposed copies */
    CUDA_SLOT_PARTS = 2,  /* partial sums of chunks */
    CUDA_SLOT_LEVELS = 3, /* partial sums of the tree */
    CUDA_SLOT_RESULT = 4, /* scalars on their way to the host */
    CUDA_SLOT_WORK = 5,   /* workspace of cuSOLVER */
    CUDA_SLOT_COUNT = 6
} cuda_slot;

typedef struct cuda_state {
    int device;
    struct cudaDeviceProp properties;
    cudaStream_t stream; /* of all ops */
    cublasHandle_t blas;
    cusolverDnHandle_t solver;
    flrq_precision precision;
    int sync;       /* FLRQ_SYNC: wait after every launch */
    int phase_open; /* an NVTX range is open */
    void *blas_workspace;
    void *scratch[CUDA_SLOT_COUNT];
    size_t scratch_bytes[CUDA_SLOT_COUNT];
    void *host; /* page-locked, for results */
    size_t host_bytes;
} cuda_state;

static inline cuda_state *cuda_of(flrq_backend *be) {
    return (cuda_state *)be->state;
}

/** Device scratch of at least `bytes` in a slot; contents are undefined, and lost by the next call for the slot.
 *  FLRQ_ERR_MEMORY names bytes wanted and free. */
flrq_status cuda_scratch(flrq_backend *be, cuda_slot slot, size_t bytes, void **out);

/** Page-locked host memory of at least `bytes`; lost by the next call. */
flrq_status cuda_host(flrq_backend *be, size_t bytes, void **out);

/** Copies `bytes` to the host and waits for it. */
flrq_status cuda_fetch(flrq_backend *be, void *to, const void *d_from, size_t bytes);

/** Turns the result of a call into a status; `op` with the shape says what was being done. */
flrq_status cuda_check(cudaError_t error, const char *op, int64_t rows, int64_t cols);
flrq_status cuda_check_blas(cublasStatus_t status, const char *op, int64_t rows, int64_t cols);
flrq_status cuda_check_solver(cusolverStatus_t status, const char *op, int64_t rows, int64_t cols);

/** The same for what a launcher returned; waits and reports when FLRQ_SYNC is set. */
flrq_status cuda_launched(flrq_backend *be, cudaError_t error, const char *op, int64_t rows, int64_t cols);

/** Rows [row0, row0 + rows) of an operand as a view. */
flrq_view cuda_view(const flrq_operand *a, int64_t row0, int64_t rows);

/** Fill the entries of the table that a file provides. */
void cuda_register_memory(flrq_backend *be);  /* cuda.c */
void cuda_register_matrix(flrq_backend *be);  /* cuda_matrix.c: normal .. count_nonfinite, gemm, linear, rank_one */
void cuda_register_small(flrq_backend *be);   /* cuda_small.c: gram .. rsvd */
void cuda_register_quant(flrq_backend *be);   /* cuda_quant.c: clip_quantize, pack, unpack */
void cuda_register_forward(flrq_backend *be); /* cuda_forward.c: statistics, norms .. kl, attention */

#endif
