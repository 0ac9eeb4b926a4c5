/* forward_kernels.h - launchers of forward.cu and attention.cu: the block forward, losses and calibration statistics.
 * All return the error of the launch and are asynchronous on `stream`. Activations are fp32 and row-major, pointers are
 * device memory, sizes were checked by the caller and are positive. Sizes may be anything and addresses are aligned to
 * their element only; 16-byte accesses are used where base and length allow.
 */
#ifndef FLRQ_KERNELS_FORWARD_KERNELS_H
#define FLRQ_KERNELS_FORWARD_KERNELS_H

#include <cuda_runtime_api.h>

#include "view.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- forward.cu: calibration statistics -------------------------------------------------------------------------- */

/** Doubles of scratch that flrq_launch_input_stats() needs. */
int64_t flrq_input_stats_scratch(int64_t tokens, int64_t n);

/** abs_sum [n] += |x_tj| / mean_j |x_t| (nothing for a token of zeros), square_sum [n] += x_tj^2 for x [tokens, n]; all
 *  sums in double. scratch: flrq_input_stats_scratch() doubles. */
cudaError_t flrq_launch_input_stats(double *abs_sum, double *square_sum, double *scratch, const float *x,
                                    int64_t tokens, int64_t n, cudaStream_t stream);

/* ---- forward.cu: norms and rotary embedding ---------------------------------------------------------------------- */

/** y [rows, n] = x * weight / sqrt(mean(x^2) + eps), weight [n] or NULL; y may be x. */
cudaError_t flrq_launch_rmsnorm(float *y, const float *x, const float *weight, int64_t rows, int64_t n, float eps,
                                cudaStream_t stream);

/** y [rows, n] = (x - mean) * weight / sqrt(variance + eps) + bias; weight and bias [n] or NULL; y may be x. */
cudaError_t flrq_launch_layernorm(float *y, const float *x, const float *weight, const float *bias, int64_t rows,
                                  int64_t n, float eps, cudaStream_t stream);

/** Rotates the pairs (j, j + head_dim / 2) of x [tokens, heads * head_dim] by (position0 + t) * inv_freq[j]; cos and
 *  sin are multiplied by `magnitude`. head_dim is even. */
cudaError_t flrq_launch_rope(float *x, const float *inv_freq, int64_t tokens, int64_t heads, int64_t head_dim,
                             int64_t position0, float magnitude, cudaStream_t stream);

/* ---- forward.cu: elementwise and rows ---------------------------------------------------------------------------- */

/** gate := gate / (1 + exp(-gate)) * up. */
cudaError_t flrq_launch_swiglu(float *gate, const float *up, int64_t count, cudaStream_t stream);

/** x := max(x, 0); a NaN stays. */
cudaError_t flrq_launch_relu(float *x, int64_t count, cudaStream_t stream);

/** y := y + x. */
cudaError_t flrq_launch_add(float *y, const float *x, int64_t count, cudaStream_t stream);

/** The same in double. */
cudaError_t flrq_launch_add_f64(double *y, const double *x, int64_t count, cudaStream_t stream);

/** y [rows, cols] += bias [cols]. */
cudaError_t flrq_launch_add_bias(float *y, const float *bias, int64_t rows, int64_t cols, cudaStream_t stream);

/** y [tokens, table->cols] = rows ids [tokens] of the table, added to y when `accumulate`; table without a low-rank
 *  part. */
cudaError_t flrq_launch_gather_rows(float *y, const flrq_view *table, const int32_t *ids, int64_t tokens,
                                    int accumulate, cudaStream_t stream);

/* ---- forward.cu: losses ------------------------------------------------------------------------------------------ */

/** nll [tokens] = logsumexp(logits_t) - logits_t[target[t]], 0 where target[t] < 0; argmax [tokens] (may be NULL): the
 *  first of the largest logits, 0 when all are NaN. logits [tokens, vocab]. */
cudaError_t flrq_launch_nll(double *nll, int32_t *argmax, const float *logits, const int32_t *target, int64_t tokens,
                            int64_t vocab, cudaStream_t stream);

/** kl [tokens] = KL(softmax(p_t) || softmax(q_t)), at least 0; infinite where q forbids what p allows. */
cudaError_t flrq_launch_kl(double *kl, const float *p, const float *q, int64_t tokens, int64_t vocab,
                           cudaStream_t stream);

/* ---- attention.cu ------------------------------------------------------------------------------------------------ */

/** Causal attention over one sequence, as flrq_attention (flrq_backend.h) describes it: q and out [tokens, heads *
 *  head_dim], k and v [tokens, kv_heads * head_dim]. */
typedef struct flrq_attention_args {
    float *out;
    const float *q, *k, *v;
    int64_t tokens, heads, kv_heads, head_dim;
    int64_t window; /* 0: none */
    float scale;
} flrq_attention_args;

/** In fp32 throughout, any head_dim. */
cudaError_t flrq_launch_attention_f32(const flrq_attention_args *args, cudaStream_t stream);

/** Bytes of scratch for flrq_launch_attention_bf16(), 0 when it has no instance for the head_dim. */
size_t flrq_attention_bf16_scratch(const flrq_attention_args *args);

/** Matrix products of bf16 inputs with fp32 sums, softmax in fp32. scratch: 16-byte aligned,
 *  flrq_attention_bf16_scratch() bytes; what it holds does not matter. */
cudaError_t flrq_launch_attention_bf16(const flrq_attention_args *args, void *scratch, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
