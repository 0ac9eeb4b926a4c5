/* sketch.c - block power iteration, the sequential R1-Sketch, and the exact SVD behind one interface. */
#include "quant/sketch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t width_of(const flrq_sketch_options *options, int64_t rows, int64_t cols, int64_t terms) {
    int64_t extra = options->kind == FLRQ_SKETCH_BLOCK ? options->oversample : 0;
    return min64(terms + extra, min64(rows, cols));
}

/* fp32 elements of d_full: the target, and for the exact SVD its factors, U [m, p] and V^T [p, n] with p = min(m, n).
 */
static size_t full_count(const flrq_sketch_options *options, flrq_extent extent) {
    size_t count = (size_t)extent.count;
    if (options->kind == FLRQ_SKETCH_R1) return count;
    if (options->kind == FLRQ_SKETCH_SVD) return 3 * count + (size_t)min64(extent.rows, extent.cols);
    return 0;
}

/* Values of the largest sum over the workers: Z [cols, b], or a Gram matrix [b, b] in double. */
static size_t node_bytes(const flrq_sketch_options *options, flrq_extent extent, int64_t b) {
    size_t z = flrq_split_node_bytes(extent.rows, extent.cols * b, sizeof(float), options->workers);
    size_t gram = flrq_split_node_bytes(extent.rows, b * b, sizeof(double), options->workers);
    return z > gram ? z : gram;
}

static size_t sum_bytes(const flrq_sketch_options *options, flrq_extent extent, int64_t b) {
    size_t z = flrq_split_scratch_bytes(extent.rows, extent.cols * b, sizeof(float), options->workers);
    size_t gram = flrq_split_scratch_bytes(extent.rows, b * b, sizeof(double), options->workers);
    return z > gram ? z : gram;
}

size_t flrq_sketch_bytes(const flrq_sketch_options *options, flrq_extent extent, int64_t terms) {
    size_t b = (size_t)width_of(options, extent.rows, extent.cols, terms), square = b * b;
    return 2 * sizeof(float) * b * (size_t)(extent.rows + extent.cols) + square * 2 * (sizeof(double) + sizeof(float)) +
           2 * b * sizeof(double) + full_count(options, extent) * sizeof(float) +
           node_bytes(options, extent, (int64_t)b) + sum_bytes(options, extent, (int64_t)b);
}

flrq_status flrq_sketch_new(flrq_sketch **out, flrq_backend *be, const flrq_sketch_options *options, flrq_extent extent,
                            int64_t terms) {
    *out = NULL;
    flrq_sketch *s = calloc(1, sizeof *s);
    if (!s) return flrq_fail_memory(sizeof *s, "the sketch");
    flrq_status status = FLRQ_OK;
    int64_t rows = extent.rows, cols = extent.cols;
    size_t b = (size_t)width_of(options, rows, cols, terms), full = full_count(options, extent);
    if (b == 0) b = 1; /* an empty sketch still has buffers to point at */
    s->capacity = (int64_t)b;
    s->extent = extent;
    s->sigma = malloc(b * sizeof *s->sigma);
    s->host_square = malloc(b * b * sizeof *s->host_square);
    s->host_rotate = malloc(b * b * sizeof *s->host_rotate);
    if (!s->sigma || !s->host_square || !s->host_rotate)
        FLRQ_GOTO(flrq_fail_memory(b * b * sizeof(double), "the sketch"));
    FLRQ_GOTO(be->alloc(be, (void **)&s->d_u, b * (size_t)rows * sizeof(float), "left sketch factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&s->d_v, b * (size_t)cols * sizeof(float), "right sketch factor"));
    FLRQ_GOTO(be->alloc(be, (void **)&s->d_y, b * (size_t)rows * sizeof(float), "left sketch scratch"));
    FLRQ_GOTO(be->alloc(be, (void **)&s->d_z, b * (size_t)cols * sizeof(float), "right sketch scratch"));
    FLRQ_GOTO(be->alloc(be, (void **)&s->d_gram, b * b * sizeof(double), "Gram matrix"));
    FLRQ_GOTO(be->alloc(be, (void **)&s->d_values, b * sizeof(double), "eigenvalues"));
    FLRQ_GOTO(be->alloc(be, (void **)&s->d_rotate, b * b * sizeof(float), "rotation"));
    if (full) FLRQ_GOTO(be->alloc(be, (void **)&s->d_full, full * sizeof(float), "full copy of the target"));
    if (options->workers > 1) {
        FLRQ_GOTO(be->alloc(be, &s->d_nodes, node_bytes(options, extent, (int64_t)b), "partial sums of a worker"));
        FLRQ_GOTO(be->alloc(be, &s->d_sums, sum_bytes(options, extent, (int64_t)b), "partial sums of all workers"));
    }
out:
    if (status != FLRQ_OK) {
        flrq_sketch_free(s, be);
        return status;
    }
    *out = s;
    return FLRQ_OK;
}

void flrq_sketch_free(flrq_sketch *s, flrq_backend *be) {
    if (!s) return;
    be->release(be, s->d_sums);
    be->release(be, s->d_nodes);
    be->release(be, s->d_full);
    be->release(be, s->d_rotate);
    be->release(be, s->d_values);
    be->release(be, s->d_gram);
    be->release(be, s->d_z);
    be->release(be, s->d_y);
    be->release(be, s->d_v);
    be->release(be, s->d_u);
    free(s->host_rotate);
    free(s->host_square);
    free(s->sigma);
    free(s);
}

flrq_split flrq_sketch_split(const flrq_sketch *s, flrq_backend *be, flrq_comm *comm, int64_t rows) {
    return flrq_split_of(be, comm, rows, s->d_nodes, s->d_sums);
}

/* Orthonormal basis of the columns of d_y, of which this worker has its rows (left), or of d_z [n, b], of which every
 * worker has the whole (right): Cholesky QR, or Householder when the Gram matrix is numerically singular (rank below
 * b). The Gram matrix is in double, so one round is good to condition numbers of 1e7. */
static flrq_status orthonormalize_right(flrq_sketch *s, flrq_backend *be, int64_t n, int64_t b) {
    int info;
    FLRQ_TRY(be->gram(be, s->d_gram, s->d_z, n, b));
    FLRQ_TRY(be->cholesky(be, s->d_gram, b, &info));
    return info ? be->householder(be, s->d_z, n, b) : be->solve_right(be, s->d_z, s->d_gram, n, b);
}

/* Householder's reflections go through all rows, one column after another: it is rare enough that every worker does the
 * whole of it. */
static flrq_status orthonormalize_left(flrq_sketch *s, const flrq_split *split, int64_t b) {
    flrq_backend *be = split->be;
    int info;
    FLRQ_TRY(flrq_split_gram(split, s->d_gram, s->d_y, b));
    FLRQ_TRY(be->cholesky(be, s->d_gram, b, &info));
    if (!info) return be->solve_right(be, s->d_y + split->own.first * b, s->d_gram, split->own.count, b);
    FLRQ_TRY(flrq_split_gather(split, s->d_y, (size_t)b * sizeof(float)));
    return be->householder(be, s->d_y, split->rows, b);
}

/* Rotates an orthonormal Q (in d_y) and Z = T^T Q (in d_z) to ordered triplets: the eigenvectors E of Z^T Z give
 * u = Q E, v = Z E, sigma = sqrt(eigenvalues). */
static flrq_status rotate(flrq_sketch *s, const flrq_split *split, int64_t n, int64_t b) {
    flrq_backend *be = split->be;
    int64_t first = split->own.first * b;
    FLRQ_TRY(be->gram(be, s->d_gram, s->d_z, n, b));
    FLRQ_TRY(be->eigh(be, s->d_gram, s->d_values, b));
    FLRQ_TRY(be->download(be, s->sigma, s->d_values, (size_t)b * sizeof(double)));
    for (int64_t i = 0; i < b; i++) s->sigma[i] = s->sigma[i] > 0 ? sqrt(s->sigma[i]) : 0;
    FLRQ_TRY(be->download(be, s->host_square, s->d_gram, (size_t)(b * b) * sizeof(double)));
    for (int64_t i = 0; i < b * b; i++) s->host_rotate[i] = (float)s->host_square[i];
    FLRQ_TRY(be->upload(be, s->d_rotate, s->host_rotate, (size_t)(b * b) * sizeof(float)));
    FLRQ_TRY(be->gemm(be, s->d_u + first, s->d_y + first, s->d_rotate, split->own.count, b, b, 1, 0));
    return be->gemm(be, s->d_v, s->d_z, s->d_rotate, n, b, b, 1, 0);
}

/* d_z [n, b] := the first b of the columns of the last d_v, by a product with a selection of columns: exact, but for
 * the rounding of d_v at FAST precision, which a start does not mind. */
static flrq_status start_from_last(flrq_sketch *s, flrq_backend *be, int64_t n, int64_t b) {
    int64_t width = s->width;
    if (width == b) return be->copy(be, s->d_z, s->d_v, (size_t)(n * b) * sizeof(float));
    for (int64_t i = 0; i < width * b; i++) s->host_rotate[i] = i / b == i % b;
    FLRQ_TRY(be->upload(be, s->d_rotate, s->host_rotate, (size_t)(width * b) * sizeof(float)));
    return be->gemm(be, s->d_z, s->d_v, s->d_rotate, n, b, width, 1, 0);
}

/* Leaves the backend at whatever precision it stopped in; the caller puts it back.
 * Y = T Omega, then rounds of { orthonormalise, Z = T^T Q, orthonormalise, Y = T Z }, last Z = T^T Q (Halko,
 * Martinsson, Tropp 2011, Algorithm 4.4). The last Q is orthonormalised twice, in full precision. */
static flrq_status run_block(flrq_sketch *s, const flrq_split *split, const flrq_sketch_options *options,
                             const flrq_operand *t, int64_t terms, int warm) {
    flrq_backend *be = split->be;
    int64_t m = t->rows, n = t->cols, b = width_of(options, m, n, terms);
    int rounds = options->power_iterations;
    flrq_set_precision(be, options->precision);     /* the iterations only have to span the subspace */
    if (warm && s->width >= b && s->sigma[0] > 0) { /* a zero target left nothing to start from */
        FLRQ_TRY(start_from_last(s, be, n, b));
        FLRQ_TRY(orthonormalize_right(s, be, n, b));
        if (rounds > 1) rounds--;
    } else
        FLRQ_TRY(be->normal(be, s->d_z, options->key, 0, 0, n * b));
    FLRQ_TRY(flrq_split_mul(split, s->d_y, t, s->d_z, b));
    for (int round = 0; round < rounds; round++) {
        FLRQ_TRY(orthonormalize_left(s, split, b));
        FLRQ_TRY(flrq_split_mul_t(split, s->d_z, t, s->d_y, b));
        FLRQ_TRY(orthonormalize_right(s, be, n, b));
        FLRQ_TRY(flrq_split_mul(split, s->d_y, t, s->d_z, b));
    }
    flrq_set_precision(be, FLRQ_PRECISION_FULL);
    FLRQ_TRY(orthonormalize_left(s, split, b));
    FLRQ_TRY(orthonormalize_left(s, split, b));
    FLRQ_TRY(flrq_split_mul_t(split, s->d_z, t, s->d_y, b));
    s->width = b;
    s->terms = min64(terms, b);
    return rotate(s, split, n, b);
}

/* ||x|| of a device vector from its 1 x 1 Gram matrix, which is summed in double. */
static flrq_status norm_of(flrq_sketch *s, flrq_backend *be, double *out) {
    FLRQ_TRY(be->download(be, out, s->d_gram, sizeof *out));
    *out = sqrt(*out);
    return FLRQ_OK;
}

/* x := x / norm, by the one op that scales: gemm with b = 1 and a 1 x 1 factor held in alpha. */
static flrq_status scale_into(flrq_backend *be, float *d_to, const float *d_from, const float *d_one, int64_t count,
                              double factor) {
    return be->gemm(be, d_to, d_from, d_one, count, 1, 1, (float)factor, 0);
}

/* The paper's R1-Sketch (Eq. 5-7, 13-14): s ~ N(0, I), P = (A A^T)^it A s, K = A^T P, A_1 = P K^T / |P|^2, deflate.
 * P and K are normalised after every product (the result does not depend on their length), so that neither 1e-20 nor
 * 1e20 in A leaves the range of fp32. Column i of the result is written with leading dimension `terms`, so the vectors
 * are kept as rows of a buffer and transposed at the end. */
static flrq_status run_r1(flrq_sketch *s, const flrq_split *split, const flrq_sketch_options *options,
                          const flrq_operand *t, int64_t terms, const flrq_rank_policy *greedy) {
    flrq_backend *be = split->be;
    int64_t m = t->rows, n = t->cols, done = 0, own = split->own.first, count = split->own.count;
    flrq_status status = FLRQ_OK;
    flrq_codes codes;
    flrq_operand own_rows = flrq_operand_rows(t, split->own, &codes);
    float *u = calloc((size_t)(m * terms), sizeof *u), *v = malloc((size_t)(n * terms) * sizeof *v);
    float *vector = malloc((size_t)(m > n ? m : n) * sizeof *vector),
          *amax = malloc((size_t)(terms + 1) * sizeof *amax);
    if (!u || !v || !vector || !amax)
        FLRQ_GOTO(flrq_fail_memory((size_t)((m + n) * terms) * sizeof *u, "the r1 sketch"));
    FLRQ_GOTO(be->materialize(be, s->d_full + own * n, &own_rows));
    flrq_operand a = {.rows = m, .cols = n, .d_dense = s->d_full, .ld_dense = n, .dense_dtype = FLRQ_F32};
    const float one = 1;
    FLRQ_GOTO(be->upload(be, s->d_rotate, &one, sizeof one));
    if (greedy) {
        FLRQ_GOTO(flrq_split_amax_curve(split, amax, &a, NULL, NULL, 0));
    }
    float *d_p = s->d_y, *d_k = s->d_z;
    for (; done < terms; done++) {
        FLRQ_GOTO(be->normal(be, s->d_v, options->key, (uint64_t)done, 0, n));
        double norm = 0, sigma = 0;
        for (int pass = 0;; pass++) {
            FLRQ_GOTO(flrq_split_mul(split, d_p, &a, s->d_v, 1));
            FLRQ_GOTO(flrq_split_gram(split, s->d_gram, d_p, 1));
            FLRQ_GOTO(norm_of(s, be, &norm));
            if (!(norm > 0)) break; /* nothing is left of the target */
            FLRQ_GOTO(scale_into(be, s->d_u + own, d_p + own, s->d_rotate, count, 1 / norm));
            FLRQ_GOTO(flrq_split_mul_t(split, d_k, &a, s->d_u, 1));
            FLRQ_GOTO(be->gram(be, s->d_gram, d_k, n, 1));
            FLRQ_GOTO(norm_of(s, be, &sigma));
            if (!(sigma > 0) || pass == options->power_iterations) break;
            FLRQ_GOTO(scale_into(be, s->d_v, d_k, s->d_rotate, n, 1 / sigma));
        }
        if (!(norm > 0 && sigma > 0)) break;
        FLRQ_GOTO(be->rank_one(be, s->d_full + own * n, s->d_u + own, d_k, count, n, -1));
        if (greedy) {
            int64_t r = done + 1;
            FLRQ_GOTO(flrq_split_amax_curve(split, &amax[r], &a, NULL, NULL, 0));
            if (r % greedy->multiple == 0 && !flrq_rank_accepts(greedy, m, n, amax, r)) {
                done = r - greedy->multiple; /* the rule looks at multiples alone, and keeps the last accepted one */
                break;
            }
        }
        s->sigma[done] = sigma;
        FLRQ_GOTO(be->download(be, vector, s->d_u + own, (size_t)count * sizeof *vector));
        for (int64_t i = 0; i < count; i++) u[(own + i) * terms + done] = vector[i];
        FLRQ_GOTO(be->download(be, vector, d_k, (size_t)n * sizeof *vector));
        for (int64_t j = 0; j < n; j++) v[j * terms + done] = vector[j];
    }
    for (int64_t i = 0; i < m; i++) /* columns that were not reached */
        for (int64_t k = done; k < terms; k++) u[i * terms + k] = 0;
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = done; k < terms; k++) v[j * terms + k] = 0;
    for (int64_t k = done; k < terms; k++) s->sigma[k] = 0;
    FLRQ_GOTO(be->upload(be, s->d_u, u, (size_t)(m * terms) * sizeof *u));
    FLRQ_GOTO(be->upload(be, s->d_v, v, (size_t)(n * terms) * sizeof *v));
    s->width = terms;
    s->terms = done;
out:
    free(amax);
    free(vector);
    free(v);
    free(u);
    return status;
}

static flrq_status run_svd(flrq_sketch *s, flrq_backend *be, const flrq_operand *t, int64_t terms) {
    int64_t m = t->rows, n = t->cols, p = min64(m, n);
    float *d_u = s->d_full + m * n, *d_s = d_u + m * p, *d_vt = d_s + p;
    FLRQ_TRY(be->materialize(be, s->d_full, t));
    FLRQ_TRY(be->svd(be, FLRQ_SVD_DEFAULT, s->d_full, m, n, d_u, d_s, d_vt));
    flrq_status status = FLRQ_OK;
    float *u = malloc((size_t)(m * p) * sizeof *u), *vt = malloc((size_t)(p * n) * sizeof *vt);
    float *v = malloc((size_t)(n * terms) * sizeof *v), *sigma = malloc((size_t)p * sizeof *sigma);
    if (!u || !vt || !v || !sigma) FLRQ_GOTO(flrq_fail_memory((size_t)(p * (m + n)) * sizeof *u, "the exact SVD"));
    FLRQ_GOTO(be->download(be, u, d_u, (size_t)(m * p) * sizeof *u));
    FLRQ_GOTO(be->download(be, sigma, d_s, (size_t)p * sizeof *sigma));
    FLRQ_GOTO(be->download(be, vt, d_vt, (size_t)(p * n) * sizeof *vt));
    for (int64_t i = 0; i < m; i++) memmove(u + i * terms, u + i * p, (size_t)terms * sizeof *u);
    for (int64_t k = 0; k < terms; k++) {
        s->sigma[k] = sigma[k];
        for (int64_t j = 0; j < n; j++) v[j * terms + k] = sigma[k] * vt[k * n + j];
    }
    FLRQ_GOTO(be->upload(be, s->d_u, u, (size_t)(m * terms) * sizeof *u));
    FLRQ_GOTO(be->upload(be, s->d_v, v, (size_t)(n * terms) * sizeof *v));
    s->width = s->terms = terms;
out:
    free(sigma);
    free(v);
    free(vt);
    free(u);
    return status;
}

flrq_status flrq_sketch_run(flrq_sketch *s, flrq_backend *be, flrq_comm *comm, const flrq_sketch_options *options,
                            const flrq_operand *target, int64_t terms, int warm, const flrq_rank_policy *greedy) {
    int64_t width = width_of(options, target->rows, target->cols, terms);
    if (target->rows > s->extent.rows || target->cols > s->extent.cols ||
        target->rows * target->cols > s->extent.count || width > s->capacity)
        return flrq_fail(FLRQ_ERR_INTERNAL, "sketch of %lld x %lld with %lld columns exceeds its buffers",
                         (long long)target->rows, (long long)target->cols, (long long)width);
    if (terms > min64(target->rows, target->cols)) terms = min64(target->rows, target->cols);
    if (terms == 0) {
        s->terms = s->width = 0;
        return FLRQ_OK;
    }
    flrq_split split = flrq_sketch_split(s, be, comm, target->rows);
    switch (options->kind) {
    case FLRQ_SKETCH_R1:
        return run_r1(s, &split, options, target, terms, greedy);
    case FLRQ_SKETCH_SVD:
        if (comm->size > 1)
            return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                             "the exact SVD has the whole matrix on one worker, not on %d; use "
                             "--sketch block",
                             comm->size);
        return run_svd(s, be, target, terms);
    case FLRQ_SKETCH_BLOCK:
        break;
    }
    flrq_status status = run_block(s, &split, options, target, terms, warm);
    flrq_set_precision(be, FLRQ_PRECISION_FULL);
    return status;
}
