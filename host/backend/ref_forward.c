/* ref_forward.c - the block forward, reference face: plain loops in double, the judge of every other backend.
 *
 * Owns the forward entries of "cpu-ref". Must stay obvious: one loop nest per formula, no tiles, no threads, no shared
 * code with the fast face. Intermediate values are double; only results are rounded to fp32.
 */
#include "backend/cpu.h"
#include "core/dtype.h"

#include <math.h>
#include <stdlib.h>

static flrq_status ref_linear(flrq_backend *be, float *d_y, const float *d_x, const flrq_operand *a,
                              const float *d_bias, int64_t tokens) {
    FLRQ_TRY(op_check_operand("linear", a));
    FLRQ_TRY(op_check_sizes("linear", "tokens x rows", tokens, a->rows));
    size_t bytes = (size_t)a->cols * sizeof(double);
    double *row = malloc(bytes);
    if (!row) return flrq_fail_memory(bytes, "a row of weights");
    for (int64_t i = 0; i < a->rows; i++) {
        for (int64_t j = 0; j < a->cols; j++) row[j] = ref_operand_at(a, i, j);
        for (int64_t t = 0; t < tokens; t++) {
            double sum = d_bias ? d_bias[i] : 0;
            for (int64_t j = 0; j < a->cols; j++) sum += row[j] * d_x[t * a->cols + j];
            d_y[t * a->rows + i] = (float)sum;
        }
    }
    free(row);
    return FLRQ_OK;
}

static flrq_status ref_rmsnorm(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight, int64_t rows,
                               int64_t n, float eps) {
    FLRQ_TRY(op_check_sizes("rmsnorm", "rows x n", rows, n));
    for (int64_t i = 0; i < rows; i++) {
        const float *x = d_x + i * n;
        double squares = 0;
        for (int64_t j = 0; j < n; j++) squares += (double)x[j] * x[j];
        double factor = 1 / sqrt(squares / (double)n + eps);
        for (int64_t j = 0; j < n; j++) d_y[i * n + j] = (float)(x[j] * factor * (d_weight ? d_weight[j] : 1));
    }
    return FLRQ_OK;
}

static flrq_status ref_layernorm(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight,
                                 const float *d_bias, int64_t rows, int64_t n, float eps) {
    FLRQ_TRY(op_check_sizes("layernorm", "rows x n", rows, n));
    for (int64_t i = 0; i < rows; i++) {
        const float *x = d_x + i * n;
        double sum = 0, squares = 0;
        for (int64_t j = 0; j < n; j++) sum += x[j];
        double mean = sum / (double)n;
        for (int64_t j = 0; j < n; j++) squares += (x[j] - mean) * (x[j] - mean);
        double factor = 1 / sqrt(squares / (double)n + eps);
        for (int64_t j = 0; j < n; j++)
            d_y[i * n + j] = (float)((x[j] - mean) * factor * (d_weight ? d_weight[j] : 1) + (d_bias ? d_bias[j] : 0));
    }
    return FLRQ_OK;
}

static flrq_status ref_rope(flrq_backend *be, float *d_x, const float *d_inv_freq, int64_t tokens, int64_t heads,
                            int64_t head_dim, int64_t position0, float magnitude) {
    FLRQ_TRY(op_check_rope(tokens, heads, head_dim));
    int64_t half = head_dim / 2;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
            float *x = d_x + (t * heads + h) * head_dim;
            for (int64_t j = 0; j < half; j++) {
                double angle = (double)(position0 + t) * (double)d_inv_freq[j];
                double c = cos(angle) * magnitude, s = sin(angle) * magnitude, a = x[j], b = x[j + half];
                x[j] = (float)(a * c - b * s);
                x[j + half] = (float)(b * c + a * s);
            }
        }
    return FLRQ_OK;
}

static flrq_status ref_attention(flrq_backend *be, float *d_out, const float *d_q, const float *d_k, const float *d_v,
                                 const flrq_attention *shape) {
    FLRQ_TRY(op_check_attention(shape));
    int64_t dim = shape->head_dim, share = shape->heads / shape->kv_heads;
    size_t bytes = (size_t)(shape->tokens + dim) * sizeof(double);
    double *p = malloc(bytes), *out = p + shape->tokens;
    if (!p) return flrq_fail_memory(bytes, "a row of attention scores");
    for (int64_t h = 0; h < shape->heads; h++)
        for (int64_t i = 0; i < shape->tokens; i++) {
            const float *q = d_q + (i * shape->heads + h) * dim;
            int64_t first = shape->window > 0 && i >= shape->window ? i - shape->window + 1 : 0;
            double max = -INFINITY, sum = 0;
            for (int64_t j = first; j <= i; j++) {
                const float *k = d_k + (j * shape->kv_heads + h / share) * dim;
                p[j] = 0;
                for (int64_t c = 0; c < dim; c++) p[j] += (double)q[c] * k[c];
                p[j] *= shape->scale;
                if (p[j] > max) max = p[j];
            }
            for (int64_t c = 0; c < dim; c++) out[c] = 0;
            for (int64_t j = first; j <= i; j++) {
                const float *v = d_v + (j * shape->kv_heads + h / share) * dim;
                p[j] = exp(p[j] - max);
                sum += p[j];
                for (int64_t c = 0; c < dim; c++) out[c] += p[j] * v[c];
            }
            for (int64_t c = 0; c < dim; c++) d_out[(i * shape->heads + h) * dim + c] = (float)(out[c] / sum);
        }
    free(p);
    return FLRQ_OK;
}

static flrq_status ref_swiglu(flrq_backend *be, float *d_gate, const float *d_up, int64_t count) {
    for (int64_t i = 0; i < count; i++) d_gate[i] = (float)(d_gate[i] / (1 + exp(-(double)d_gate[i])) * d_up[i]);
    return FLRQ_OK;
}

static flrq_status ref_relu(flrq_backend *be, float *d_x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (d_x[i] < 0) d_x[i] = 0;
    return FLRQ_OK;
}

static flrq_status ref_add(flrq_backend *be, float *d_y, const float *d_x, int64_t count) {
    for (int64_t i = 0; i < count; i++) d_y[i] = d_y[i] + d_x[i];
    return FLRQ_OK;
}

static flrq_status ref_add_f64(flrq_backend *be, double *d_y, const double *d_x, int64_t count) {
    for (int64_t i = 0; i < count; i++) d_y[i] = d_y[i] + d_x[i];
    return FLRQ_OK;
}

static flrq_status ref_gather_rows(flrq_backend *be, float *d_y, const flrq_operand *table, const int32_t *ids,
                                   int64_t tokens, int accumulate) {
    FLRQ_TRY(op_check_operand("gather_rows", table));
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t j = 0; j < table->cols; j++) {
            double value = ref_operand_at(table, ids[t], j);
            float *y = &d_y[t * table->cols + j];
            *y = (float)(accumulate ? *y + value : value);
        }
    return FLRQ_OK;
}

/* log of the sum of exp(x[j]); the maximum passes over NaN, the sum does not. */
static double log_sum_exp(const float *x, int64_t count) {
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < count; j++)
        if (x[j] > max) max = x[j];
    for (int64_t j = 0; j < count; j++) sum += exp(x[j] - max);
    return max + log(sum);
}

static flrq_status ref_nll(flrq_backend *be, double *nll, int32_t *argmax, const float *d_logits, const int32_t *target,
                           int64_t tokens, int64_t vocab) {
    FLRQ_TRY(op_check_targets(target, tokens, vocab));
    for (int64_t t = 0; t < tokens; t++) {
        const float *x = d_logits + t * vocab;
        nll[t] = target[t] < 0 ? 0 : log_sum_exp(x, vocab) - x[target[t]];
        if (!argmax) continue;
        float max = -INFINITY;
        argmax[t] = 0;
        for (int64_t j = 0; j < vocab; j++)
            if (x[j] > max) {
                max = x[j];
                argmax[t] = (int32_t)j;
            }
    }
    return FLRQ_OK;
}

static flrq_status ref_kl(flrq_backend *be, double *kl, const float *d_p_logits, const float *d_q_logits,
                          int64_t tokens, int64_t vocab) {
    FLRQ_TRY(op_check_sizes("kl", "tokens x vocab", tokens, vocab));
    for (int64_t t = 0; t < tokens; t++) {
        const float *p = d_p_logits + t * vocab, *q = d_q_logits + t * vocab;
        double p_log_sum = log_sum_exp(p, vocab), q_log_sum = log_sum_exp(q, vocab), sum = 0;
        for (int64_t j = 0; j < vocab; j++) {
            if (p[j] == -INFINITY) continue;
            double log_p = p[j] - p_log_sum, log_q = q[j] - q_log_sum;
            sum += q[j] == -INFINITY ? INFINITY : exp(log_p) * (log_p - log_q);
        }
        kl[t] = sum < 0 ? 0 : sum; /* rounding may leave a little less than the true zero */
    }
    return FLRQ_OK;
}

void ref_register_forward(flrq_backend *be) {
    be->linear = ref_linear;
    be->rmsnorm = ref_rmsnorm;
    be->layernorm = ref_layernorm;
    be->rope = ref_rope;
    be->attention = ref_attention;
    be->swiglu = ref_swiglu;
    be->relu = ref_relu;
    be->add = ref_add;
    be->add_f64 = ref_add_f64;
    be->gather_rows = ref_gather_rows;
    be->nll = ref_nll;
    be->kl = ref_kl;
}
