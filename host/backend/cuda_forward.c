/* cuda_forward.c - the block forward on the CUDA backend: checks, scratch and launches of kernels/forward.cu and
 * attention.cu.
 *
 * Owns the entries from input_stats to kl but for input_sketch and linear (cuda_matrix.c). Every op checks what the CPU
 * backend checks, in the same words; nothing to do is no launch. Only nll and kl wait, because their results are host
 * memory. In FAST precision attention multiplies in bf16 where there is an instance for the head_dim; everything else
 * is the same in both precisions.
 */
#include "backend/cuda.h"
#include "kernels/forward_kernels.h"

#include <stdint.h>

/* Tokens of statistics taken at once: a multiple of every slice of tokens, so it does not show in the sums, and the
 * scratch stays at 16 bytes a column for 64 slices. */
enum { STATS_TOKENS = 8192 };

static flrq_status cuda_input_stats(flrq_backend *be, double *d_abs_sum, double *d_square_sum, const float *d_x,
                                    int64_t tokens, int64_t n) {
    FLRQ_TRY(op_check_sizes("input_stats", "tokens x n", tokens, n));
    if (tokens == 0 || n == 0) return FLRQ_OK;
    void *scratch;
    int64_t most = tokens < STATS_TOKENS ? tokens : STATS_TOKENS;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_PARTS, (size_t)flrq_input_stats_scratch(most, n) * sizeof(double), &scratch));
    for (int64_t t = 0; t < tokens; t += STATS_TOKENS) {
        int64_t count = tokens - t < STATS_TOKENS ? tokens - t : STATS_TOKENS;
        FLRQ_TRY(cuda_launched(
            be, flrq_launch_input_stats(d_abs_sum, d_square_sum, scratch, d_x + t * n, count, n, cuda_of(be)->stream),
            "input_stats", count, n));
    }
    return FLRQ_OK;
}

/* ---- norms and rotary embedding ---------------------------------------------------------------------------------- */

static flrq_status cuda_rmsnorm(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight, int64_t rows,
                                int64_t n, float eps) {
    FLRQ_TRY(op_check_sizes("rmsnorm", "rows x n", rows, n));
    if (rows == 0 || n == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_rmsnorm(d_y, d_x, d_weight, rows, n, eps, cuda_of(be)->stream), "rmsnorm",
                         rows, n);
}

static flrq_status cuda_layernorm(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight,
                                  const float *d_bias, int64_t rows, int64_t n, float eps) {
    FLRQ_TRY(op_check_sizes("layernorm", "rows x n", rows, n));
    if (rows == 0 || n == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_layernorm(d_y, d_x, d_weight, d_bias, rows, n, eps, cuda_of(be)->stream),
                         "layernorm", rows, n);
}

static flrq_status cuda_rope(flrq_backend *be, float *d_x, const float *d_inv_freq, int64_t tokens, int64_t heads,
                             int64_t head_dim, int64_t position0, float magnitude) {
    FLRQ_TRY(op_check_rope(tokens, heads, head_dim));
    if (tokens == 0 || heads == 0 || head_dim == 0) return FLRQ_OK;
    return cuda_launched(
        be, flrq_launch_rope(d_x, d_inv_freq, tokens, heads, head_dim, position0, magnitude, cuda_of(be)->stream),
        "rope", tokens, heads * head_dim);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

static flrq_status cuda_attention(flrq_backend *be, float *d_out, const float *d_q, const float *d_k, const float *d_v,
                                  const flrq_attention *shape) {
    FLRQ_TRY(op_check_attention(shape));
    int64_t cols = shape->heads * shape->head_dim;
    if (shape->tokens == 0 || cols == 0) return FLRQ_OK;
    flrq_attention_args args = {.out = d_out,
                                .q = d_q,
                                .k = d_k,
                                .v = d_v,
                                .tokens = shape->tokens,
                                .heads = shape->heads,
                                .kv_heads = shape->kv_heads,
                                .head_dim = shape->head_dim,
                                .window = shape->window,
                                .scale = shape->scale};
    size_t bytes = cuda_of(be)->precision == FLRQ_PRECISION_FAST ? flrq_attention_bf16_scratch(&args) : 0;
    if (bytes == 0)
        return cuda_launched(be, flrq_launch_attention_f32(&args, cuda_of(be)->stream), "attention", shape->tokens,
                             cols);
    void *scratch;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_VECTOR, bytes, &scratch));
    return cuda_launched(be, flrq_launch_attention_bf16(&args, scratch, cuda_of(be)->stream), "attention in bf16",
                         shape->tokens, cols);
}

/* ---- elementwise and rows ---------------------------------------------------------------------------------------- */

static flrq_status check_count(const char *op, int64_t count) {
    if (count >= 0) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_SHAPE, "%s: %lld elements", op, (long long)count);
}

static flrq_status cuda_swiglu(flrq_backend *be, float *d_gate, const float *d_up, int64_t count) {
    FLRQ_TRY(check_count("swiglu", count));
    if (count == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_swiglu(d_gate, d_up, count, cuda_of(be)->stream), "swiglu", 1, count);
}

static flrq_status cuda_relu(flrq_backend *be, float *d_x, int64_t count) {
    FLRQ_TRY(check_count("relu", count));
    if (count == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_relu(d_x, count, cuda_of(be)->stream), "relu", 1, count);
}

static flrq_status cuda_add(flrq_backend *be, float *d_y, const float *d_x, int64_t count) {
    FLRQ_TRY(check_count("add", count));
    if (count == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_add(d_y, d_x, count, cuda_of(be)->stream), "add", 1, count);
}

static flrq_status cuda_add_f64(flrq_backend *be, double *d_y, const double *d_x, int64_t count) {
    FLRQ_TRY(check_count("add_f64", count));
    if (count == 0) return FLRQ_OK;
    return cuda_launched(be, flrq_launch_add_f64(d_y, d_x, count, cuda_of(be)->stream), "add_f64", 1, count);
}

static flrq_status cuda_gather_rows(flrq_backend *be, float *d_y, const flrq_operand *table, const int32_t *ids,
                                    int64_t tokens, int accumulate) {
    FLRQ_TRY(op_check_gather(table, tokens));
    if (tokens == 0 || table->cols == 0) return FLRQ_OK;
    void *d_ids;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, (size_t)tokens * sizeof *ids, &d_ids));
    FLRQ_TRY(be->upload(be, d_ids, ids, (size_t)tokens * sizeof *ids));
    flrq_view view = cuda_view(table, 0, table->rows);
    return cuda_launched(be, flrq_launch_gather_rows(d_y, &view, d_ids, tokens, accumulate, cuda_of(be)->stream),
                         "gather_rows", tokens, table->cols);
}

/* ---- losses ------------------------------------------------------------------------------------------------------ */

static flrq_status cuda_nll(flrq_backend *be, double *nll, int32_t *argmax, const float *d_logits,
                            const int32_t *target, int64_t tokens, int64_t vocab) {
    FLRQ_TRY(op_check_targets(target, tokens, vocab));
    if (tokens == 0) return FLRQ_OK;
    if (vocab == 0) return flrq_fail(FLRQ_ERR_SHAPE, "nll: a vocabulary of no words");
    size_t count = (size_t)tokens;
    void *scratch;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, count * (sizeof *nll + sizeof *argmax + sizeof *target), &scratch));
    double *d_nll = scratch;
    int32_t *d_argmax = (int32_t *)(d_nll + count), *d_target = d_argmax + count;
    FLRQ_TRY(be->upload(be, d_target, target, count * sizeof *target));
    FLRQ_TRY(cuda_launched(
        be, flrq_launch_nll(d_nll, argmax ? d_argmax : NULL, d_logits, d_target, tokens, vocab, cuda_of(be)->stream),
        "nll", tokens, vocab));
    FLRQ_TRY(cuda_fetch(be, nll, d_nll, count * sizeof *nll));
    return argmax ? cuda_fetch(be, argmax, d_argmax, count * sizeof *argmax) : FLRQ_OK;
}

static flrq_status cuda_kl(flrq_backend *be, double *kl, const float *d_p_logits, const float *d_q_logits,
                           int64_t tokens, int64_t vocab) {
    FLRQ_TRY(op_check_sizes("kl", "tokens x vocab", tokens, vocab));
    if (tokens == 0) return FLRQ_OK;
    if (vocab == 0) return flrq_fail(FLRQ_ERR_SHAPE, "kl: a vocabulary of no words");
    void *d_kl;
    FLRQ_TRY(cuda_scratch(be, CUDA_SLOT_RESULT, (size_t)tokens * sizeof *kl, &d_kl));
    FLRQ_TRY(cuda_launched(be, flrq_launch_kl(d_kl, d_p_logits, d_q_logits, tokens, vocab, cuda_of(be)->stream), "kl",
                           tokens, vocab));
    return cuda_fetch(be, kl, d_kl, (size_t)tokens * sizeof *kl);
}

void cuda_register_forward(flrq_backend *be) {
    be->input_stats = cuda_input_stats;
    be->rmsnorm = cuda_rmsnorm;
    be->layernorm = cuda_layernorm;
    be->rope = cuda_rope;
    be->attention = cuda_attention;
    be->swiglu = cuda_swiglu;
    be->relu = cuda_relu;
    be->add = cuda_add;
    be->add_f64 = cuda_add_f64;
    be->gather_rows = cuda_gather_rows;
    be->nll = cuda_nll;
    be->kl = cuda_kl;
}
