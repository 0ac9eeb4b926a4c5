/* cuda.h - what the files of the CUDA backend share: state, scratch, checked calls, views of operands.
 *
 * The backend is a plugin (libflrq_cuda.so) that the registry loads at run time; it holds these files, the kernels and
 * op_check.c. All ops run on one compute stream and are issued by the thread that opened the backend (the current
 * device is a thread's own); lanes have streams of their own. Nothing here waits for the device but `upload` and ops
 * with arrays in host memory, ops that return a value to the host, `download` and `sync`, and all of them wait by
 * cuda_wait() (cuda_wait.c), which watches over other workers meanwhile. With FLRQ_SYNC=1 in the environment every call
 * waits and reports, so that a failing kernel is named where it was launched. Must not change: an op's bytes depend on
 * its arguments alone, for a given device, driver and library version.
 */
#ifndef FLRQ_BACKEND_CUDA_H
#define FLRQ_BACKEND_CUDA_H

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>
#include <pthread.h>
#include <stdatomic.h>

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

typedef struct cuda_link cuda_link; /* cuda_link.c */

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
    pthread_mutex_t watching; /* one thread at a time asks the watch */
    flrq_status (*watch)(void *user);
    void *watch_user;
    atomic_int watched; /* there is a watch */
    cuda_link *link;    /* NULL until link_open() */
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

/** Waits for all work of a stream, or for an event; `op` and the bytes say what for. The result of a watch that fails,
 * of work that failed, or of a link that broke meanwhile, whose ops then have not done what they should. */
flrq_status cuda_wait(cuda_state *state, cudaStream_t stream, const char *op, int64_t bytes);
flrq_status cuda_wait_event(cuda_state *state, cudaEvent_t event, const char *op, int64_t bytes);

/** The same for anything that can be asked: sets *done, or fails. Asks at least once. */
typedef flrq_status (*cuda_ask_fn)(void *what, int *done);
flrq_status cuda_wait_until(cuda_state *state, cuda_ask_fn ask, void *what);

/** Seconds that the present wait of this thread has lasted; for use in watches. */
double cuda_waited(void);

/** Asks the watch, once, unless another thread is asking it. FLRQ_OK without a watch. */
flrq_status cuda_watch(cuda_state *state);

/** FLRQ_OK while the link is whole or there is none, else how it broke. */
flrq_status cuda_link_state(cuda_state *state);

/** The same after a look at what NCCL has noticed by itself. */
flrq_status cuda_link_look(cuda_state *state);

/** Ends everything that waits for other workers, after a failure whose text is flrq_last_error(). */
void cuda_link_break(cuda_state *state, flrq_status status);

/** Before a call of CUDA that may wait for the device and asks nobody: waits until no link op is under way, or breaks
 *  the link. */
flrq_status cuda_link_quiet(cuda_state *state);

/** Leaves the link, if there is one, without waiting, and frees it. */
void cuda_link_free(cuda_state *state);

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
void cuda_register_link(flrq_backend *be);    /* cuda_link.c */
void cuda_register_matrix(flrq_backend *be);  /* cuda_matrix.c: normal .. count_nonfinite, gemm, linear, rank_one */
void cuda_register_small(flrq_backend *be);   /* cuda_small.c: gram .. rsvd */
void cuda_register_quant(flrq_backend *be);   /* cuda_quant.c: clip_quantize, pack, unpack */
void cuda_register_forward(flrq_backend *be); /* cuda_forward.c: statistics, norms .. kl, attention */

#endif
