/* split.h - ops on a matrix whose rows are shared by the workers.
 *
 * Every worker has the arrays of the whole matrix and computes the rows of its share (flrq_share_rows()), whole chunks
 * of FLRQ_CHUNK_ROWS. What is per row stays where it is; what is summed or compared over rows is completed over the
 * workers here and nowhere else in the numerical core, so an algorithm reads as it does for one worker. Sums are taken
 * node by node of the chunk tree: an op on the rows of one complete node gives that node's value, and
 * flrq_comm_sum_*() adds the nodes of all workers in the order of the tree. With one worker each function is the op.
 */
#ifndef FLRQ_QUANT_SPLIT_H
#define FLRQ_QUANT_SPLIT_H

#include "backend/comm.h"

/** The rows of one matrix on one worker. */
typedef struct flrq_split {
    flrq_backend *be;
    flrq_comm *comm;
    int64_t rows;   /* of the matrix */
    flrq_range own; /* rows of this worker; may be none */
    int64_t chunks; /* of the matrix */
    int n_nodes;    /* of the own chunks */
    flrq_node nodes[FLRQ_RANGE_NODES];
    void *d_nodes, *d_scratch; /* flrq_split_bytes(); unused with one worker */
} flrq_split;

/** Rows that a node covers: first and count within the matrix. */
flrq_range flrq_split_node_rows(const flrq_split *split, int node);

/** Bytes of d_nodes and of d_scratch for sums of up to `count` values of `width` bytes over any matrix of up to `rows`
 *  rows. 0 with one worker. */
size_t flrq_split_node_bytes(int64_t rows, int64_t count, size_t width, int workers);
size_t flrq_split_scratch_bytes(int64_t rows, int64_t count, size_t width, int workers);

/** The split of a matrix of `rows` rows; the buffers are the caller's. */
flrq_split flrq_split_of(flrq_backend *be, flrq_comm *comm, int64_t rows, void *d_nodes, void *d_scratch);

/** Rows [first, first + count) of an operand; *codes holds the shifted arrays where it has codes. */
flrq_operand flrq_operand_rows(const flrq_operand *a, flrq_range rows, flrq_codes *codes);

/** d_y [rows, b]: the own rows of A d_x. */
flrq_status flrq_split_mul(const flrq_split *split, float *d_y, const flrq_operand *a, const float *d_x, int64_t b);
/** d_z [n, b] = A^T d_q, d_q [rows, b]: complete on all workers. A without a low-rank part. */
flrq_status flrq_split_mul_t(const flrq_split *split, float *d_z, const flrq_operand *a, const float *d_q, int64_t b);
/** d_gram [b, b] = Y^T Y of d_y [rows, b]: complete on all workers. */
flrq_status flrq_split_gram(const flrq_split *split, double *d_gram, const float *d_y, int64_t b);
/** ||A||_F^2, and ||A S||_F^2. */
flrq_status flrq_split_sum_squares(const flrq_split *split, double *sum, const flrq_operand *a);
flrq_status flrq_split_sum_squares_mul(const flrq_split *split, double *sum, const flrq_operand *a, const float *d_s,
                                       int64_t k);
/** amax [b + 1] of A; see amax_curve. */
flrq_status flrq_split_amax_curve(const flrq_split *split, float *amax, const flrq_operand *a, const float *d_u,
                                  const float *d_v, int64_t b);
/** amax [b] of the columns of d_x [rows, ld]. */
flrq_status flrq_split_column_amax(const flrq_split *split, float *amax, const float *d_x, int64_t ld, int64_t b);
/** Clip-and-quantize of the own rows; stats (may be NULL) are of all rows. */
flrq_status flrq_split_clip_quantize(const flrq_split *split, flrq_codes *out, const flrq_operand *a, const float *d_h,
                                     const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats);

/** Workers' own rows of a row-major array [rows, row_bytes] to all workers. */
flrq_status flrq_split_gather(const flrq_split *split, void *d_array, size_t row_bytes);

/** The same with gather_begin(): ended by comm->gather_end(). */
flrq_status flrq_split_gather_begin(const flrq_split *split, void *d_array, size_t row_bytes);

#endif
