/* flrq_backend.h - the backend table: everything an algorithm of flrq asks of a device.
 *
 * An algorithm (sketch, rank, clip, block forward) is written once, in C, against this table. A backend provides memory
 * and about thirty numerical ops. Pointers named d_* are memory of the backend (host memory on the CPU backend). Sizes
 * count elements unless the name says _bytes; all matrices are row-major. Ops may be asynchronous: results are visible
 * to the host after `download` or `sync`. Nothing here allocates except `alloc` and the scratch that a backend keeps
 * for itself. An op that cannot run returns FLRQ_ERR_UNSUPPORTED or FLRQ_ERR_SHAPE with a text.
 *
 * Determinism: an op's result depends on its arguments only, never on thread or worker count. Sums over rows go by
 * chunks of FLRQ_CHUNK_ROWS rows and add the chunk sums along a fixed binary tree over the chunk index, so that a range
 * of chunks owned by one worker reduces to few partial sums wherever the range begins.
 */
#ifndef FLRQ_BACKEND_H
#define FLRQ_BACKEND_H

#include "flrq.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FLRQ_BACKEND_ABI 3

/** Rows of one chunk of a weight matrix: the unit of row splitting and of ordered summation. */
#define FLRQ_CHUNK_ROWS 512

/** Bytes of the name of a link between devices (an ncclUniqueId). */
#define FLRQ_LINK_ID_BYTES 128

typedef struct flrq_backend flrq_backend;

/** A queue of copies that runs beside the ops, for one thread that feeds or drains the device (block i+1 arrives and
 *  block i-1 leaves while i computes). */
typedef struct flrq_lane flrq_lane;

/** How exact matrix products are. FULL: fp32 inputs and sums. FAST: inputs rounded to what the device multiplies
 *  fastest, sums in fp32: bf16 in linear(), attention() and products with an operand that is stored so, TF32 in all
 *  others. The CPU backend is always FULL. */
typedef enum flrq_precision { FLRQ_PRECISION_FULL = 0, FLRQ_PRECISION_FAST = 1 } flrq_precision;

/** Which exact SVD a backend should run; those it lacks are FLRQ_ERR_UNSUPPORTED. */
typedef enum flrq_svd_method {
    FLRQ_SVD_DEFAULT = 0, /* LAPACK gesdd; cuSOLVER gesvd */
    FLRQ_SVD_JACOBI = 1   /* cuSOLVER gesvdj */
} flrq_svd_method;

/** A matrix that need not exist in memory. The element (i, j) is
 *
 *      ( dense(i,j) + codes_sign * scale*(code - zero)(i,j) + lr_sign * sum_k l(i,k) r(k,j) ) * col_scale(j)
 *
 *  where absent parts (NULL pointers, rank 0) count as 0 and an absent col_scale as 1. So one description serves
 *  W (dense), What = Wq + L R (codes + lr), the sketch target (W - Wq) diag(s) and the residual W - L R. */
typedef struct flrq_operand {
    int64_t rows, cols;
    const void *d_dense; /* [rows, ld_dense] of dense_dtype (F32, F16, BF16), or NULL */
    int64_t ld_dense;
    flrq_dtype dense_dtype;
    float codes_sign;        /* +1 or -1 */
    const flrq_codes *codes; /* struct on the host, its arrays in backend memory; or NULL */
    const float *d_l;        /* [rows, rank] */
    const float *d_r;        /* [rank, cols] */
    int64_t rank;
    float lr_sign;            /* +1 or -1 */
    const float *d_col_scale; /* [cols] or NULL */
} flrq_operand;

/** How clip ratios are found. */
typedef enum flrq_clip_search {
    FLRQ_CLIP_NONE = 0, /* ratio 1: round to nearest on the range of the group */
    FLRQ_CLIP_GRID = 1, /* every ratio of the grid */
    FLRQ_CLIP_FAST = 2  /* few ratios, then refinement of the scale; within 0.1 % of the grid's error */
} flrq_clip_search;

/** What happens to a weight beyond the clip range. */
typedef enum flrq_clip_mode {
    FLRQ_CLIP_CLAMP = 0, /* to the end of the range (learned weight clipping) */
    FLRQ_CLIP_ZERO = 1   /* to zero (the paper's text) */
} flrq_clip_mode;

/** Parameters of the fused clip-and-quantize op. Ratio i of the grid: 1 - i * (1 - min_ratio) / (steps - 1). */
typedef struct flrq_clip {
    flrq_clip_search search;
    flrq_clip_mode mode;
    int32_t steps;        /* ratios in the grid, >= 1 */
    float min_ratio;      /* (0, 1] */
    int32_t signed_scale; /* symmetric full grid only: also try negative scales, which put the extra level on the other
                             side */
} flrq_clip;

/** Sums over a clip_quantize call, for the report. */
typedef struct flrq_clip_stats {
    double weighted_error; /* sum of h_j (w - wq)^2 */
    double weighted_norm;  /* sum of h_j w^2 */
    int64_t clipped;       /* weights beyond the chosen range */
    int64_t zero_groups;
    double ratio_sum; /* of the chosen clip ratios; divide by the number of groups */
    int64_t groups;
} flrq_clip_stats;

/** Arguments of causal attention over one sequence. Heads are interleaved in the rows of q, k, v. */
typedef struct flrq_attention {
    int64_t tokens;
    int64_t heads, kv_heads, head_dim; /* heads % kv_heads == 0; query head i reads kv head i / (heads / kv_heads) */
    float scale;                       /* of q.k before softmax */
    int64_t window;                    /* key j is visible to query i when i - window < j <= i; 0 = no window */
} flrq_attention;

/** Memory of a device. */
typedef struct flrq_device_info {
    char name[128]; /* "AMD EPYC ..., 2 threads, AVX2" */
    char instruction_set[32];
    char libraries[48]; /* whose variant also decides the bits: "OpenBLAS for Haswell" */
    int threads;
    int separate_memory; /* 1: the device has memory of its own, and total_bytes and free_bytes count that */
    size_t total_bytes, free_bytes;
} flrq_device_info;

/** One piece of a transfer between workers: to or from the backend memory d_data. Pieces between two workers match in
 *  the order in which both list them. */
typedef struct flrq_transfer {
    int peer; /* rank of the other worker; its own rank is fine */
    void *d_data;
    size_t bytes;
} flrq_transfer;

/** The table. An entry may be NULL where a backend lacks the op. */
struct flrq_backend {
    uint32_t abi;     /* FLRQ_BACKEND_ABI */
    const char *name; /* "cpu", "cpu-ref", "cuda" */
    void *state;      /* the backend's own */

    /* --- life and memory --- */
    void (*close)(flrq_backend *be);
    flrq_status (*info)(flrq_backend *be, flrq_device_info *out);
    flrq_status (*alloc)(flrq_backend *be, void **out, size_t bytes, const char *what); /* 64-byte aligned */
    void (*release)(flrq_backend *be, void *memory);                                    /* NULL is fine */
    /** Host memory that copies to and from the device fastest (page-locked on GPUs). */
    flrq_status (*host_alloc)(flrq_backend *be, void **out, size_t bytes, const char *what);
    void (*host_release)(flrq_backend *be, void *memory); /* NULL is fine */
    /** In the order of the ops. `from` may be overwritten as soon as the call returns. */
    flrq_status (*upload)(flrq_backend *be, void *d_to, const void *from, size_t bytes);
    flrq_status (*download)(flrq_backend *be, void *to, const void *d_from, size_t bytes); /* waits */
    flrq_status (*copy)(flrq_backend *be, void *d_to, const void *d_from, size_t bytes);   /* no overlap */
    flrq_status (*zero)(flrq_backend *be, void *d_memory, size_t bytes);
    flrq_status (*sync)(flrq_backend *be);
    /** Precision of the ops issued from now on; FULL after opening. NULL: always FULL; see flrq_set_precision(). */
    void (*set_precision)(flrq_backend *be, flrq_precision precision);
    /** Calls watch(user) now and then (at least every 0.2 s) while the host waits for the device, from whichever thread
     *  waits, one at a time; a status other than FLRQ_OK, with its text, ends the wait and is its result. NULL watch:
     *  wait without. NULL entry: the host never waits long. */
    void (*set_watch)(flrq_backend *be, flrq_status (*watch)(void *user), void *user);
    /** Names the phase that ops issued from now on belong to, for profilers (an NVTX range); NULL ends it. `name` is
     *  copied. NULL entry: nothing listens; see flrq_mark_phase(). */
    void (*mark_phase)(flrq_backend *be, const char *name);

    /* --- copies beside the ops ---
     * A lane belongs to one thread at a time, which may be another than the one that issues ops; both may call at once.
     * Copies of a lane run in order. The two orders meet only where lane_after_ops() and lane_wait() say so. */
    flrq_status (*lane_open)(flrq_backend *be, flrq_lane **out);
    void (*lane_close)(flrq_lane *lane); /* waits; NULL is fine */
    /** Called by the thread that issues ops: copies issued later on the lane start after all ops issued so far. */
    flrq_status (*lane_after_ops)(flrq_lane *lane);
    /** `from` must stay as it is until lane_wait(); *ticket (may be NULL) names the copy. */
    flrq_status (*lane_upload)(flrq_lane *lane, void *d_to, const void *from, size_t bytes, uint64_t *ticket);
    flrq_status (*lane_download)(flrq_lane *lane, void *to, const void *d_from, size_t bytes, uint64_t *ticket);
    /** Waits until the copy `ticket` and all before it are done (0: every copy issued). */
    flrq_status (*lane_wait)(flrq_lane *lane, uint64_t ticket);

    /* --- links: memory of this device and of the devices of other workers, which all call in one order ---
     * NULL entries where memory is the host's and any transport can carry it; backend/comm_nccl.c. */
    /** Fills id [FLRQ_LINK_ID_BYTES], by which the workers of one link find each other: one of them makes it. */
    flrq_status (*link_id)(flrq_backend *be, void *id);
    /** Joins the link; returns when all `size` workers have. One link per backend. */
    flrq_status (*link_open)(flrq_backend *be, const void *id, int rank, int size);
    /** Leaves it. broken: another worker may never answer again, do not wait for it. */
    void (*link_close)(flrq_backend *be, int broken);
    /** Worker r's part of d_all is the bytes first[r] .. first[r+1]; its own is there, those of the others arrive. In
     *  the order of the ops, or, with `beside`, after the ops issued so far, next to those that follow. */
    flrq_status (*link_gather)(flrq_backend *be, void *d_all, const size_t *first, int beside);
    /** Ops issued from now on come after every gather beside them. */
    flrq_status (*link_join)(flrq_backend *be);
    /** Seconds that the present wait for the device has lasted while a gather or transfer was under way, 0 if none is:
     *  how long other workers have kept this one. For a watch. */
    double (*link_waited)(flrq_backend *be);
    /** Sends and receives the pieces, in the order of the ops. */
    flrq_status (*link_transfer)(flrq_backend *be, const flrq_transfer *sends, int n_sends,
                                 const flrq_transfer *receives, int n_receives);

    /* --- random numbers --- */
    /** d_out[0..count-1] = standard normals index0.. of (key, stream); see core/philox.h. */
    flrq_status (*normal)(flrq_backend *be, float *d_out, uint64_t key, uint64_t stream, uint64_t index0,
                          int64_t count);

    /* --- implicit matrices: A is an operand [m, n] --- */
    /** d_out [m, n] = A as fp32. */
    flrq_status (*materialize)(flrq_backend *be, float *d_out, const flrq_operand *a);
    /** d_out [m, n] = A rounded to bf16. NULL where linear() gains nothing from weights in bf16. */
    flrq_status (*materialize_bf16)(flrq_backend *be, uint16_t *d_out, const flrq_operand *a);
    /** d_y [m, b] = A d_x, d_x [n, b]. b = 1 is a matrix-vector product at memory speed. */
    flrq_status (*mul)(flrq_backend *be, float *d_y, const flrq_operand *a, const float *d_x, int64_t b);
    /** d_z [n, b] = A^T d_q, d_q [m, b]; chunk sums along the tree. */
    flrq_status (*mul_t)(flrq_backend *be, float *d_z, const flrq_operand *a, const float *d_q, int64_t b);
    /** d_y [m, n] := diag(d_scale [m]) d_y: the column scale of A on A^T q, after the sum over rows. */
    flrq_status (*scale_rows)(flrq_backend *be, float *d_y, const float *d_scale, int64_t m, int64_t n);
    /** *sum (host) = ||A||_F^2; per-chunk sums in double. */
    flrq_status (*sum_squares)(flrq_backend *be, double *sum, const flrq_operand *a);
    /** *sum (host) = ||A S||_F^2 with d_s [n, k], in double, without storing A S beyond a tile. */
    flrq_status (*sum_squares_mul)(flrq_backend *be, double *sum, const flrq_operand *a, const float *d_s, int64_t k);
    /** Amax curve: amax (host) [b+1], amax[r] = max |A - sum_{i<r} u_i v_i^T| over all elements, r = 0..b, in one pass.
     *  d_u [m, b] carries the singular values, d_v [n, b]. */
    flrq_status (*amax_curve)(flrq_backend *be, float *amax, const flrq_operand *a, const float *d_u, const float *d_v,
                              int64_t b);
    /** *count (host) = number of non-finite elements of A, *first = i*cols + j of the first in row-major order (or -1).
     */
    flrq_status (*count_nonfinite)(flrq_backend *be, int64_t *count, int64_t *first, const flrq_operand *a);

    /* --- quantization --- */
    /** Fused clip-and-quantize of A (formed on the fly). d_h [n] weights of the squared error, or NULL for 1.
     *  out: arrays in backend memory, sized by the caller; scales are rounded by flrq_round_scale() BEFORE codes are
     * chosen; a group of zeros gets scale 1 and codes = zero point. stats (host) may be NULL. */
    flrq_status (*clip_quantize)(flrq_backend *be, flrq_codes *out, const flrq_operand *a, const float *d_h,
                                 const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats);
    /** Little-endian bit stream of codes along each row (formats.md 2.2): d_packed [rows, ceil(cols*bits/32)] words. */
    flrq_status (*pack)(flrq_backend *be, int32_t *d_packed, const uint8_t *d_code, int64_t rows, int64_t cols,
                        int bits);
    flrq_status (*unpack)(flrq_backend *be, uint8_t *d_code, const int32_t *d_packed, int64_t rows, int64_t cols,
                          int bits);

    /* --- small dense fp32 matrices (tall and skinny, b columns) --- */
    /** d_gram [b, b] (double, full symmetric) = Y^T Y of d_y [m, b], accumulated in double along the chunk tree. */
    flrq_status (*gram)(flrq_backend *be, double *d_gram, const float *d_y, int64_t m, int64_t b);
    /** In place upper Cholesky factor R (R^T R = gram) of d_gram [b, b], lower part zeroed. *info (host) 0, or k when
     *  the leading minor k is not positive. */
    flrq_status (*cholesky)(flrq_backend *be, double *d_gram, int64_t b, int *info);
    /** d_y [m, b] := d_y R^-1 with upper triangular d_r [b, b]. */
    flrq_status (*solve_right)(flrq_backend *be, float *d_y, const double *d_r, int64_t m, int64_t b);
    /** Orthonormal basis of the columns of d_y [m, b] in place by Householder QR (slow, robust). */
    flrq_status (*householder)(flrq_backend *be, float *d_y, int64_t m, int64_t b);
    /** Eigenvalues (descending) d_values [b] and eigenvectors as columns of d_a [b, b] (in place) of a symmetric
     * matrix. */
    flrq_status (*eigh)(flrq_backend *be, double *d_a, double *d_values, int64_t b);
    /** d_c [m, k] = alpha * d_a [m, b] * d_b [b, k] + beta * d_c. */
    flrq_status (*gemm)(flrq_backend *be, float *d_c, const float *d_a, const float *d_b, int64_t m, int64_t k,
                        int64_t b, float alpha, float beta);
    /** amax (host) [b]: the largest |x_ik / divisor_i| of every column k < b of d_x [m, ld]; d_divisor [m] or NULL. A
     * NaN makes the column's NaN. */
    flrq_status (*column_amax)(flrq_backend *be, float *amax, const float *d_x, int64_t ld, const float *d_divisor,
                               int64_t m, int64_t b);
    /** One low-rank factor with the values that will be stored: x_ik / divisor_i * factor_k rounded to `dtype` (F16 or
     *  BF16) and kept in fp32, for the columns k < b of d_x [m, ld]. d_out is [m, b], or with `transpose` [b, m];
     *  d_divisor [m] or NULL; factor [b] on the host. */
    flrq_status (*round_factor)(flrq_backend *be, float *d_out, const float *d_x, int64_t ld, const float *d_divisor,
                                const float *factor, int64_t m, int64_t b, int transpose, flrq_dtype dtype);
    /** d_y [m, n] := d_y + alpha * d_u [m] d_v[n]^T. Deflation of the sequential sketch. */
    flrq_status (*rank_one)(flrq_backend *be, float *d_y, const float *d_u, const float *d_v, int64_t m, int64_t n,
                            float alpha);
    /** Thin SVD of d_a [m, n] (destroyed): d_u [m, p], d_s [p], d_vt [p, n], p = min(m, n). The exact baseline. */
    flrq_status (*svd)(flrq_backend *be, flrq_svd_method method, float *d_a, int64_t m, int64_t n, float *d_u,
                       float *d_s, float *d_vt);
    /** The `rank` leading triplets of d_a [m, n] (destroyed) by the vendor's randomised SVD, the baseline (cuSOLVER
     *  Xgesvdr): d_u [m, rank], d_s [rank], d_vt [rank, n]. NULL where there is none. */
    flrq_status (*rsvd)(flrq_backend *be, float *d_a, int64_t m, int64_t n, int64_t rank, int64_t oversample,
                        int iterations, float *d_u, float *d_s, float *d_vt);

    /* --- calibration statistics of d_x [tokens, n] --- */
    /** d_abs_sum [n] += |x_tj| / mean_j |x_t|  (0 for an all-zero token),  d_square_sum [n] += x_tj^2. Double
     * accumulators. */
    flrq_status (*input_stats)(flrq_backend *be, double *d_abs_sum, double *d_square_sum, const float *d_x,
                               int64_t tokens, int64_t n);
    /** d_s [n, k] += d_x^T d_g, d_x [tokens, n], d_g [tokens, k]. */
    flrq_status (*input_sketch)(flrq_backend *be, float *d_s, const float *d_x, const float *d_g, int64_t tokens,
                                int64_t n, int64_t k);

    /* --- block forward, fp32 activations [tokens, features] --- */
    /** d_y [tokens, m] = d_x [tokens, n] A^T + bias ([m] fp32 or NULL), A an operand [m, n]. */
    flrq_status (*linear)(flrq_backend *be, float *d_y, const float *d_x, const flrq_operand *a, const float *d_bias,
                          int64_t tokens);
    /** d_y[t, :] = d_x[t, :] * weight / sqrt(mean(x^2) + eps). d_y may equal d_x. Also used for per-head q/k norms
     *  (tokens*heads rows of head_dim). */
    flrq_status (*rmsnorm)(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight, int64_t rows,
                           int64_t n, float eps);
    flrq_status (*layernorm)(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight, const float *d_bias,
                             int64_t rows, int64_t n, float eps);
    /** Rotates d_x [tokens, heads*head_dim] in place, half-split (NEOX) pairing (j, j + dim/2), positions position0 +
     * t. d_inv_freq [head_dim/2] already holds any RoPE scaling; cos and sin are multiplied by `magnitude` (1 but for
     * scaled variants). */
    flrq_status (*rope)(flrq_backend *be, float *d_x, const float *d_inv_freq, int64_t tokens, int64_t heads,
                        int64_t head_dim, int64_t position0, float magnitude);
    /** d_out [tokens, heads*head_dim] = softmax(scale q k^T + causal/window mask) v. Tiled: scratch is O(tile * tokens)
     * per thread, never [tokens, tokens] for all heads. */
    flrq_status (*attention)(flrq_backend *be, float *d_out, const float *d_q, const float *d_k, const float *d_v,
                             const flrq_attention *shape);
    /** d_gate := silu(d_gate) * d_up, count elements. */
    flrq_status (*swiglu)(flrq_backend *be, float *d_gate, const float *d_up, int64_t count);
    /** d_x := max(d_x, 0). */
    flrq_status (*relu)(flrq_backend *be, float *d_x, int64_t count);
    /** d_y := d_y + d_x. */
    flrq_status (*add)(flrq_backend *be, float *d_y, const float *d_x, int64_t count);
    /** d_y := d_y + d_x in double: sums of what workers hold. */
    flrq_status (*add_f64)(flrq_backend *be, double *d_y, const double *d_x, int64_t count);
    /** d_y [tokens, n] = rows `ids` of the dense operand table; with `accumulate` added to d_y instead. ids on the
     * host, checked by the caller. */
    flrq_status (*gather_rows)(flrq_backend *be, float *d_y, const flrq_operand *table, const int32_t *ids,
                               int64_t tokens, int accumulate);
    /** Per token t of d_logits [tokens, vocab]: nll[t] = logsumexp(row) - row[target[t]] in double (host arrays),
     *  argmax[t] (may be NULL; lowest index wins ties). target[t] < 0: nll 0. */
    flrq_status (*nll)(flrq_backend *be, double *nll, int32_t *argmax, const float *d_logits, const int32_t *target,
                       int64_t tokens, int64_t vocab);
    /** kl[t] = KL(softmax(p_t) || softmax(q_t)) in double (host), from logits [tokens, vocab]. */
    flrq_status (*kl)(flrq_backend *be, double *kl, const float *d_p_logits, const float *d_q_logits, int64_t tokens,
                      int64_t vocab);
};

/** Opens a backend by name: "cpu" (fast), "cpu-ref" (scalar reference), "cuda" or "cuda:N" (device N), "cudasim" (the
 *  CUDA backend on the simulator, where built), "auto" (a GPU if there is one, else the CPU). threads 0 = all this
 *  process may use. The text of a failure says in one line why a known backend is not available. */
FLRQ_API flrq_status flrq_backend_open(flrq_backend **out, const char *name, int threads);

/** What `name` stands for where there are several devices: *count of them, called "<kind>:0", "<kind>:1", ...; 0 for a
 *  CPU backend or one device by number, whose kind is then the name. "auto" is settled here. */
FLRQ_API flrq_status flrq_backend_devices(const char *name, char kind[16], int *count);

/** Sets the precision of a backend that has the choice. */
static inline void flrq_set_precision(flrq_backend *backend, flrq_precision precision) {
    if (backend->set_precision) backend->set_precision(backend, precision);
}

/** Closes and frees. NULL is fine. */
FLRQ_API void flrq_backend_close(flrq_backend *backend);

/** Marks a phase where the backend can. */
static inline void flrq_mark_phase(flrq_backend *backend, const char *name) {
    if (backend->mark_phase) backend->mark_phase(backend, name);
}

#ifdef __cplusplus
}
#endif
#endif
