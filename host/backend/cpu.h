/* cpu.h - what the files of the CPU backend share: state, scratch, checks, the tile loader and the table of SIMD
 * kernels.
 *
 * Two faces register from here: "cpu" (cpu_*.c: a fixed grid of tiles, SIMD kernels picked at run time, LAPACK on one
 * thread for small matrices) and "cpu-ref" (ref_*.c: plain loops, double accumulators, no tiles), the judge of every
 * other backend.
 */
#ifndef FLRQ_BACKEND_CPU_H
#define FLRQ_BACKEND_CPU_H

#include "flrq_backend.h"
#include "backend/op_check.h"

/** Rows of a tile and columns of a panel: the fixed grid of tasks inside a chunk. 128 x 1024 fp32 = 512 KiB, half of a
 *  server core's L2. FLRQ_CHUNK_ROWS is a multiple of CPU_TILE_ROWS. */
enum { CPU_TILE_ROWS = 128, CPU_PANEL_COLS = 1024 };

/** Kernels compiled once per instruction set; see cpu_kernels.h for the contracts. */
typedef struct cpu_kernels cpu_kernels;

typedef struct cpu_state {
    int threads;
    const cpu_kernels *kernels;
    char **scratch;       /* [threads], 64-byte aligned, grown by cpu_scratch(), never shrunk */
    size_t scratch_bytes; /* of each */
    float **work;         /* [threads], CPU_GEMM_WORK floats each: packing space of kernels->gemm */
    char *shared;         /* scratch that all tasks of one op read, grown by cpu_shared() */
    size_t shared_bytes;
} cpu_state;

static inline cpu_state *cpu_of(flrq_backend *be) {
    return (cpu_state *)be->state;
}

/** Makes sure every thread has `bytes` of scratch (at cpu_of(be)->scratch[thread]). Contents are undefined. Call before
 *  flrq_parallel_for(), never inside a task. Grows to a high-water mark: in a block loop only the first block
 * allocates. */
flrq_status cpu_scratch(flrq_backend *be, size_t bytes);

/** The same for the scratch at cpu_of(be)->shared: scaled inputs, partial sums of chunks. Contents are undefined. */
flrq_status cpu_shared(flrq_backend *be, size_t bytes);

/** out[i*ld_out + j] = A(row0+i, col0+j) as fp32 for i < rows, j < cols: the one place where the fast face evaluates an
 * operand. `work` is cpu_of(be)->work[thread]; it may be NULL when a->rank is 0. */
void cpu_tile_load(const cpu_kernels *kernels, float *out, int64_t ld_out, const flrq_operand *a, int64_t row0,
                   int64_t rows, int64_t col0, int64_t cols, float *work);

/* Checks that look at the numbers of the small dense ops, for both faces (op_check.h looks at sizes): FLRQ_OK, or an
 * error that names the op and the numbers. */
/** x [rows, cols] holds neither NaN nor infinity. FLRQ_ERR_NUMERIC names the first that does. */
flrq_status cpu_finite_check(const char *op, const float *x, int64_t rows, int64_t cols);
flrq_status cpu_finite_check_f64(const char *op, const double *x, int64_t rows, int64_t cols);
/** The diagonal of r [b, b] is finite and nonzero in fp32, so that a triangular solve makes sense. FLRQ_ERR_NUMERIC. */
flrq_status cpu_diagonal_check(const char *op, const double *r, int64_t b);
/** The method is one that the CPU has. FLRQ_ERR_UNSUPPORTED. */
flrq_status cpu_svd_check(flrq_svd_method method);

/** Element (i, j) of an operand in double: the reference. */
double ref_operand_at(const flrq_operand *a, int64_t i, int64_t j);

/** Allocates be->state: threads (0 = all), kernels for this CPU, single-threaded OpenBLAS. Undone by be->close(). */
flrq_status cpu_state_new(flrq_backend *be, int threads);

/** Fill the entries of a table that a file provides; called by the registry. Order of files does not matter. */
void cpu_register_memory(flrq_backend *be);  /* cpu.c        alloc .. sync, info, close */
void cpu_register_matrix(flrq_backend *be);  /* cpu_matrix.c normal .. amax_curve, count_nonfinite */
void cpu_register_quant(flrq_backend *be);   /* cpu_quant.c  clip_quantize, pack, unpack */
void cpu_register_small(flrq_backend *be);   /* cpu_small.c  gram .. svd, input_stats, input_sketch */
void cpu_register_forward(flrq_backend *be); /* cpu_forward.c linear .. kl */
void ref_register_matrix(flrq_backend *be);
void ref_register_quant(flrq_backend *be);
void ref_register_small(flrq_backend *be);
void ref_register_forward(flrq_backend *be);

#endif
