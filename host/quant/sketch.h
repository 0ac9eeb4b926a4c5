/* sketch.h - leading singular triplets of an implicit matrix: the low-rank part of W ~ Wq + L R.
 *
 * Methods: block power iteration with Cholesky QR (default; 2 it + 2 passes over the target for all terms together), r1
 * (the paper's R1-Sketch, one vector at a time with deflation: 2 it + 2 passes and one update of a full copy per term)
 * and svd (LAPACK, exact: the baseline). All give the same struct.
 */
#ifndef FLRQ_QUANT_SKETCH_H
#define FLRQ_QUANT_SKETCH_H

#include "quant/rank.h"
#include "quant/split.h"

/** Order of the values = order of the choices of --sketch. */
typedef enum flrq_sketch_kind { FLRQ_SKETCH_BLOCK = 0, FLRQ_SKETCH_R1 = 1, FLRQ_SKETCH_SVD = 2 } flrq_sketch_kind;

typedef struct flrq_sketch_options {
    flrq_sketch_kind kind;
    int power_iterations;
    int oversample;           /* block: columns beyond the wanted terms */
    uint64_t key;             /* of the random numbers (flrq_philox_key of seed and tensor name) */
    flrq_precision precision; /* block: of the power iterations; the last projection is always FULL */
    int workers;              /* that share a matrix (the size of the communicator); 0: one */
} flrq_sketch_options;

/** The largest shapes that a set of buffers must hold; `count` is the largest rows * cols of one matrix. */
typedef struct flrq_extent {
    int64_t rows, cols, count;
} flrq_extent;

/** Buffers and result. T ~ sum_{i<terms} u_i v_i^T with orthonormal u_i and |v_i| = sigma_i. block and svd: sigma
 *  descending; r1: in the order of extraction, which descends only as far as each vector has converged. With several
 *  workers each has its own rows of d_u and the whole of d_v. */
typedef struct flrq_sketch {
    int64_t terms; /* valid columns */
    int64_t width; /* columns (= leading dimension) of d_u and d_v */
    float *d_u;    /* [rows, width] */
    float *d_v;    /* [cols, width] */
    double *sigma; /* host [width] */
    /* scratch */
    void *d_nodes, *d_sums; /* of sums over the workers (split.h); NULL with one */
    float *d_y;             /* [rows, width] */
    float *d_z;             /* [cols, width] */
    double *d_gram;         /* [width, width] */
    double *d_values;       /* [width] */
    float *d_rotate;        /* [width, width] */
    double *host_square;    /* [width, width] */
    float *host_rotate;     /* [width, width] */
    float *d_full;          /* r1: [rows, cols]; svd: also U [rows, p], S [p], V^T [p, cols]; else NULL */
    int64_t capacity;       /* largest width that the buffers hold */
    flrq_extent extent;
} flrq_sketch;

/** Bytes of the buffers for matrices within `extent` and `terms` terms. */
size_t flrq_sketch_bytes(const flrq_sketch_options *options, flrq_extent extent, int64_t terms);
flrq_status flrq_sketch_new(flrq_sketch **out, flrq_backend *be, const flrq_sketch_options *options, flrq_extent extent,
                            int64_t terms);
void flrq_sketch_free(flrq_sketch *sketch, flrq_backend *be);

/** The rows of `rows` that this worker has, with the sketch's buffers for sums (within its extent and terms). */
flrq_split flrq_sketch_split(const flrq_sketch *sketch, flrq_backend *be, flrq_comm *comm, int64_t rows);

/** Up to `terms` leading triplets of `target`, of which each worker computes its rows (the exact SVD needs one worker:
 * FLRQ_ERR_UNSUPPORTED). With `warm` the block method starts from the d_v of the previous call
 * (same shape) and saves one power iteration. `greedy` (may be NULL): the r1 method asks flrq_rank_accepts() after
 * every term whose number is a multiple of greedy->multiple and stops at the first rejection, as the paper's Algorithm
 * 1 does; the rejected term is not kept. */
flrq_status flrq_sketch_run(flrq_sketch *sketch, flrq_backend *be, flrq_comm *comm, const flrq_sketch_options *options,
                            const flrq_operand *target, int64_t terms, int warm, const flrq_rank_policy *greedy);

#endif
