/* split.c - ops on the rows of a worker, and what completes them over all workers. */
#include "quant/split.h"

#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"

static int64_t chunks_of(int64_t rows) {
    return (rows + FLRQ_CHUNK_ROWS - 1) / FLRQ_CHUNK_ROWS;
}

/* A smaller matrix may have its shares cut into more nodes than the largest, so all sizes up to it count. */
size_t flrq_split_node_bytes(int64_t rows, int64_t count, size_t width, int workers) {
    int most = 0;
    for (int64_t c = 1; workers > 1 && c <= chunks_of(rows); c++) {
        int nodes = flrq_nodes_max(c, workers);
        if (nodes > most) most = nodes;
    }
    return (size_t)most * (size_t)count * width;
}

size_t flrq_split_scratch_bytes(int64_t rows, int64_t count, size_t width, int workers) {
    size_t most = 0;
    for (int64_t c = 1; workers > 1 && c <= chunks_of(rows); c++) {
        size_t bytes = flrq_sum_scratch_bytes(c, count, width, workers);
        if (bytes > most) most = bytes;
    }
    return most;
}

flrq_split flrq_split_of(flrq_backend *be, flrq_comm *comm, int64_t rows, void *d_nodes, void *d_scratch) {
    flrq_split s = {.be = be, .comm = comm, .rows = rows, .chunks = chunks_of(rows)};
    s.own = flrq_share_rows(rows, comm->rank, comm->size);
    s.d_nodes = d_nodes, s.d_scratch = d_scratch;
    s.n_nodes = flrq_range_nodes(flrq_share(s.chunks, comm->rank, comm->size), s.nodes);
    return s;
}

flrq_range flrq_split_node_rows(const flrq_split *split, int node) {
    int64_t first = split->nodes[node].first * FLRQ_CHUNK_ROWS, count = FLRQ_CHUNK_ROWS << split->nodes[node].level;
    return (flrq_range){first, first + count > split->rows ? split->rows - first : count};
}

flrq_operand flrq_operand_rows(const flrq_operand *a, flrq_range rows, flrq_codes *codes) {
    flrq_operand part = *a;
    part.rows = rows.count;
    if (a->d_dense)
        part.d_dense =
            (const char *)a->d_dense + (size_t)(rows.first * a->ld_dense) * (size_t)flrq_dtype_bits(a->dense_dtype) / 8;
    if (a->d_l) part.d_l = a->d_l + rows.first * a->rank;
    if (a->codes) {
        *codes = *a->codes;
        codes->rows = rows.count;
        codes->code += rows.first * codes->cols;
        codes->scale += rows.first * codes->n_groups;
        if (codes->zero) codes->zero += rows.first * codes->n_groups;
        part.codes = codes;
    }
    return part;
}

flrq_status flrq_split_mul(const flrq_split *split, float *d_y, const flrq_operand *a, const float *d_x, int64_t b) {
    flrq_codes codes;
    if (split->own.count == 0) return FLRQ_OK;
    flrq_operand part = flrq_operand_rows(a, split->own, &codes);
    return split->be->mul(split->be, d_y + split->own.first * b, &part, d_x, b);
}

/* The column scale comes after the sum, with one worker as with many: nodes of scaled terms would round otherwise. */
flrq_status flrq_split_mul_t(const flrq_split *split, float *d_z, const flrq_operand *a, const float *d_q, int64_t b) {
    flrq_backend *be = split->be;
    flrq_operand plain = *a;
    plain.d_col_scale = NULL;
    if (split->comm->size == 1)
        FLRQ_TRY(be->mul_t(be, d_z, &plain, d_q, b));
    else {
        for (int i = 0; i < split->n_nodes; i++) {
            flrq_codes codes;
            flrq_range rows = flrq_split_node_rows(split, i);
            flrq_operand part = flrq_operand_rows(&plain, rows, &codes);
            FLRQ_TRY(be->mul_t(be, (float *)split->d_nodes + i * a->cols * b, &part, d_q + rows.first * b, b));
        }
        FLRQ_TRY(flrq_comm_sum_f32(split->comm, be, split->chunks, split->d_nodes, a->cols * b, d_z, split->d_scratch));
    }
    return a->d_col_scale ? be->scale_rows(be, d_z, a->d_col_scale, a->cols, b) : FLRQ_OK;
}

flrq_status flrq_split_gram(const flrq_split *split, double *d_gram, const float *d_y, int64_t b) {
    flrq_backend *be = split->be;
    if (split->comm->size == 1) return be->gram(be, d_gram, d_y, split->rows, b);
    for (int i = 0; i < split->n_nodes; i++) {
        flrq_range rows = flrq_split_node_rows(split, i);
        FLRQ_TRY(be->gram(be, (double *)split->d_nodes + i * b * b, d_y + rows.first * b, rows.count, b));
    }
    return flrq_comm_sum_f64(split->comm, be, split->chunks, split->d_nodes, b * b, d_gram, split->d_scratch);
}

/* ||A||^2 or, with d_s, ||A S||^2. */
static flrq_status squares(const flrq_split *split, double *sum, const flrq_operand *a, const float *d_s, int64_t k) {
    flrq_backend *be = split->be;
    double nodes[FLRQ_RANGE_NODES];
    if (split->comm->size == 1) return d_s ? be->sum_squares_mul(be, sum, a, d_s, k) : be->sum_squares(be, sum, a);
    for (int i = 0; i < split->n_nodes; i++) {
        flrq_codes codes;
        flrq_operand part = flrq_operand_rows(a, flrq_split_node_rows(split, i), &codes);
        FLRQ_TRY(d_s ? be->sum_squares_mul(be, &nodes[i], &part, d_s, k) : be->sum_squares(be, &nodes[i], &part));
    }
    return flrq_comm_sum_host(split->comm, split->chunks, nodes, 1, sum);
}

flrq_status flrq_split_sum_squares(const flrq_split *split, double *sum, const flrq_operand *a) {
    return squares(split, sum, a, NULL, 0);
}

flrq_status flrq_split_sum_squares_mul(const flrq_split *split, double *sum, const flrq_operand *a, const float *d_s,
                                       int64_t k) {
    return squares(split, sum, a, d_s, k);
}

flrq_status flrq_split_amax_curve(const flrq_split *split, float *amax, const flrq_operand *a, const float *d_u,
                                  const float *d_v, int64_t b) {
    flrq_codes codes;
    flrq_operand part = flrq_operand_rows(a, split->own, &codes);
    memset(amax, 0, (size_t)(b + 1) * sizeof *amax);
    if (split->own.count > 0)
        FLRQ_TRY(split->be->amax_curve(split->be, amax, &part, d_u ? d_u + split->own.first * b : NULL, d_v, b));
    return flrq_comm_max(split->comm, amax, b + 1);
}

flrq_status flrq_split_column_amax(const flrq_split *split, float *amax, const float *d_x, int64_t ld, int64_t b) {
    memset(amax, 0, (size_t)b * sizeof *amax);
    if (split->own.count > 0)
        FLRQ_TRY(split->be->column_amax(split->be, amax, d_x + split->own.first * ld, ld, NULL, split->own.count, b));
    return flrq_comm_max(split->comm, amax, b);
}

/* Counts are whole numbers, and ratios multiples of 2^-24 (quant_ratio()): their sums are exact in any order. The
 * errors are not used beyond one worker. */
static flrq_status complete_stats(flrq_comm *comm, flrq_clip_stats *stats) {
    const double steps = 16777216.0;
    int64_t sums[] = {stats->clipped, stats->zero_groups, stats->groups, (int64_t)(stats->ratio_sum * steps)};
    FLRQ_TRY(flrq_comm_sum(comm, sums, 4));
    stats->clipped = sums[0], stats->zero_groups = sums[1], stats->groups = sums[2];
    stats->ratio_sum = (double)sums[3] / steps;
    return FLRQ_OK;
}

flrq_status flrq_split_clip_quantize(const flrq_split *split, flrq_codes *out, const flrq_operand *a, const float *d_h,
                                     const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    flrq_codes codes, own = *out;
    flrq_operand whole = {.rows = out->rows, .cols = out->cols, .codes = out};
    flrq_operand part = flrq_operand_rows(a, split->own, &codes);
    if (stats) memset(stats, 0, sizeof *stats);
    if (split->own.count > 0) {
        (void)flrq_operand_rows(&whole, split->own, &own);
        FLRQ_TRY(split->be->clip_quantize(split->be, &own, &part, d_h, scheme, clip, stats));
    }
    return stats && split->comm->size > 1 ? complete_stats(split->comm, stats) : FLRQ_OK;
}

/* Byte offsets of the workers' rows; *first: free(). NULL on out of memory. */
static size_t *row_offsets(const flrq_split *split, size_t row_bytes) {
    int size = split->comm->size;
    size_t *first = malloc(((size_t)size + 1) * sizeof *first);
    for (int r = 0; first && r < size; r++) {
        flrq_range rows = flrq_share_rows(split->rows, r, size);
        first[r] = (size_t)rows.first * row_bytes;
        first[r + 1] = (size_t)(rows.first + rows.count) * row_bytes;
    }
    return first;
}

typedef flrq_status (*gather_fn)(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first);

static flrq_status gather_rows(const flrq_split *split, void *d_array, size_t row_bytes, gather_fn gather) {
    if (split->comm->size == 1) return FLRQ_OK;
    size_t *first = row_offsets(split, row_bytes);
    if (!first) return flrq_fail_memory(0, "the parts of a gather");
    flrq_status status = gather(split->comm, split->be, d_array, first);
    free(first);
    return status;
}

flrq_status flrq_split_gather(const flrq_split *split, void *d_array, size_t row_bytes) {
    return gather_rows(split, d_array, row_bytes, split->comm->gather);
}

flrq_status flrq_split_gather_begin(const flrq_split *split, void *d_array, size_t row_bytes) {
    return gather_rows(split, d_array, row_bytes, split->comm->gather_begin);
}
