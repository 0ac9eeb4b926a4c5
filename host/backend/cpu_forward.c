/* cpu_forward.c - the block forward on the CPU: linear layers, attention, norms, rotary embedding, losses.
 *
 * Owns the forward entries of "cpu". Every op cuts its work into tasks on a grid that depends on the shapes only; a
 * task runs on one thread, products included, and writes its own part of the output, so the bytes do not depend
 * on the number of threads. Must not change without a look at the tests' tolerances: losses are summed in double,
 * angles of the rotary embedding are formed in double, softmax is taken online in fp32.
 */
#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "core/parallel.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    WEIGHT_TILE = 192,  /* weight rows of a task of linear(): whole panels of the matrix product (48 or 24 columns) */
    WEIGHT_PANEL = 512, /* columns of a weight tile that are formed at once: 192 x 512 fp32 are 384 KiB */
    TOKEN_TILE = 512,   /* tokens of a task of linear(): amortises forming and packing the weights */
    QUERY_TILE = 128,   /* queries of a task of attention() */
    KEY_TILE = 480,     /* keys scored at once, whole panels again: 128 x 480 scores are 240 KiB */
    SLICE = 64 * 1024,  /* elements of a task of the elementwise ops: far above the cost of starting it */
};

static int64_t tiles_of(int64_t count, int64_t tile) {
    return count / tile + (count % tile != 0);
}

static int64_t at_most(int64_t value, int64_t bound) {
    return value < bound ? value : bound;
}

/* ---- linear ------------------------------------------------------------------------------------------------------ */

typedef struct linear_job {
    const cpu_state *state;
    float *y;       /* [tokens, a->rows] */
    const float *x; /* [tokens, a->cols] */
    const flrq_operand *a;
    flrq_operand full;  /* a without its factors */
    flrq_operand right; /* r diag(col_scale), [rank, cols] */
    flrq_operand left;  /* l, [rows, rank] */
    const float *bias;
    float *inner; /* [tokens, rank] = x (r diag(col_scale))^T */
    int64_t tokens;
} linear_job;

typedef struct linear_scratch {
    float panel[WEIGHT_TILE * WEIGHT_PANEL]; /* weights as fp32 */
    float work[CPU_GEMM_WORK];
} linear_scratch;

/* y [tokens, rows] = beta y + alpha x B^T for rows row0.. of B, panel by panel along the columns. */
static void multiply_tile(const cpu_kernels *kernels, float *y, int64_t ld_y, const float *x, int64_t ld_x,
                          int64_t tokens, const flrq_operand *b, int64_t row0, int64_t rows, float alpha, float beta,
                          linear_scratch *scratch) {
    bool plain = b->d_dense && b->dense_dtype == FLRQ_F32 && !b->codes && !b->d_col_scale;
    for (int64_t col0 = 0; col0 < b->cols; col0 += WEIGHT_PANEL) {
        int64_t cols = at_most(b->cols - col0, WEIGHT_PANEL), ld_w = plain ? b->ld_dense : cols;
        const float *w = scratch->panel;
        if (plain)
            w = (const float *)b->d_dense + row0 * b->ld_dense + col0;
        else
            cpu_tile_load(kernels, scratch->panel, cols, b, row0, rows, col0, cols, NULL);
        kernels->gemm(0, 1, tokens, rows, cols, alpha, x + col0, ld_x, w, ld_w, col0 == 0 ? beta : 1.0f, y, ld_y,
                      scratch->work);
    }
}

static void linear_inner_task(void *arg, int64_t index, int thread) {
    linear_job *job = arg;
    int64_t rank = job->right.rows, t0 = index * CPU_TILE_ROWS, tokens = at_most(job->tokens - t0, CPU_TILE_ROWS);
    for (int64_t k0 = 0; k0 < rank; k0 += WEIGHT_TILE)
        multiply_tile(job->state->kernels, job->inner + t0 * rank + k0, rank, job->x + t0 * job->a->cols, job->a->cols,
                      tokens, &job->right, k0, at_most(rank - k0, WEIGHT_TILE), 1.0f, 0.0f,
                      (linear_scratch *)job->state->scratch[thread]);
}

static void linear_task(void *arg, int64_t index, int thread) {
    linear_job *job = arg;
    const cpu_kernels *kernels = job->state->kernels;
    linear_scratch *scratch = (linear_scratch *)job->state->scratch[thread];
    int64_t m = job->a->rows, n = job->a->cols, tiles = tiles_of(m, WEIGHT_TILE);
    int64_t t0 = index / tiles * TOKEN_TILE, tokens = at_most(job->tokens - t0, TOKEN_TILE);
    int64_t row0 = index % tiles * WEIGHT_TILE, rows = at_most(m - row0, WEIGHT_TILE);
    float *y = job->y + t0 * m + row0;
    for (int64_t t = 0; t < tokens; t++) {
        if (job->bias)
            memcpy(y + t * m, job->bias + row0, (size_t)rows * sizeof *y);
        else
            memset(y + t * m, 0, (size_t)rows * sizeof *y);
    }
    if (job->full.d_dense || job->full.codes)
        multiply_tile(kernels, y, m, job->x + t0 * n, n, tokens, &job->full, row0, rows, 1.0f, 1.0f, scratch);
    if (job->left.cols > 0)
        multiply_tile(kernels, y, m, job->inner + t0 * job->left.cols, job->left.cols, tokens, &job->left, row0, rows,
                      job->a->lr_sign, 1.0f, scratch);
}

/* X (D + s L R)^T = X D^T + s (X R^T) L^T: the factors are never expanded. X R^T is formed first, for all tokens. */
static flrq_status cpu_linear(flrq_backend *be, float *d_y, const float *d_x, const flrq_operand *a,
                              const float *d_bias, int64_t tokens) {
    FLRQ_TRY(op_check_operand("linear", a));
    FLRQ_TRY(op_check_sizes("linear", "tokens x rows", tokens, a->rows));
    linear_job job = {.state = cpu_of(be), .y = d_y, .x = d_x, .a = a, .full = *a, .bias = d_bias, .tokens = tokens};
    job.full.rank = 0;
    FLRQ_TRY(cpu_scratch(be, sizeof(linear_scratch)));
    if (a->rank > 0 && a->cols > 0) {
        job.right = (flrq_operand){.rows = a->rank,
                                   .cols = a->cols,
                                   .d_dense = a->d_r,
                                   .ld_dense = a->cols,
                                   .dense_dtype = FLRQ_F32,
                                   .d_col_scale = a->d_col_scale};
        job.left = (flrq_operand){
            .rows = a->rows, .cols = a->rank, .d_dense = a->d_l, .ld_dense = a->rank, .dense_dtype = FLRQ_F32};
        FLRQ_TRY(cpu_shared(be, (size_t)tokens * (size_t)a->rank * sizeof(float)));
        job.inner = (float *)job.state->shared;
        flrq_parallel_for(job.state->threads, tiles_of(tokens, CPU_TILE_ROWS), linear_inner_task, &job);
    }
    flrq_parallel_for(job.state->threads, tiles_of(tokens, TOKEN_TILE) * tiles_of(a->rows, WEIGHT_TILE), linear_task,
                      &job);
    return FLRQ_OK;
}

/* ---- norms --------------------------------------------------------------------------------------------------------
 */

typedef struct norm_job {
    const cpu_kernels *kernels;
    float *y;
    const float *x, *weight, *bias;
    int64_t rows, n, rows_per_task;
    float eps;
} norm_job;

static void rmsnorm_task(void *arg, int64_t index, int thread) {
    const norm_job *job = arg;
    int64_t n = job->n, end = at_most((index + 1) * job->rows_per_task, job->rows);
    for (int64_t i = index * job->rows_per_task; i < end; i++) {
        double mean_square = job->kernels->sum_squares(job->x + i * n, n) / (double)n;
        job->kernels->scale_weight(job->y + i * n, job->x + i * n, (float)(1 / sqrt(mean_square + job->eps)),
                                   job->weight, n);
    }
}

static void layernorm_task(void *arg, int64_t index, int thread) {
    const norm_job *job = arg;
    const cpu_kernels *kernels = job->kernels;
    int64_t n = job->n, end = at_most((index + 1) * job->rows_per_task, job->rows);
    for (int64_t i = index * job->rows_per_task; i < end; i++) {
        float *y = job->y + i * n;
        double mean = kernels->sum(job->x + i * n, n) / (double)n;
        double variance = kernels->center(y, job->x + i * n, mean, n) / (double)n;
        kernels->scale_weight(y, y, (float)(1 / sqrt(variance + job->eps)), job->weight, n);
        if (job->bias) kernels->axpy(y, job->bias, 1.0f, n);
    }
}

static flrq_status run_norm(flrq_backend *be, const char *op, norm_job job, flrq_task_fn task) {
    FLRQ_TRY(op_check_sizes(op, "rows x n", job.rows, job.n));
    if (job.n == 0) return FLRQ_OK;
    job.kernels = cpu_of(be)->kernels;
    job.rows_per_task = tiles_of(SLICE, job.n);
    flrq_parallel_for(cpu_of(be)->threads, tiles_of(job.rows, job.rows_per_task), task, &job);
    return FLRQ_OK;
}

static flrq_status cpu_rmsnorm(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight, int64_t rows,
                               int64_t n, float eps) {
    norm_job job = {.y = d_y, .x = d_x, .weight = d_weight, .rows = rows, .n = n, .eps = eps};
    return run_norm(be, "rmsnorm", job, rmsnorm_task);
}

static flrq_status cpu_layernorm(flrq_backend *be, float *d_y, const float *d_x, const float *d_weight,
                                 const float *d_bias, int64_t rows, int64_t n, float eps) {
    norm_job job = {.y = d_y, .x = d_x, .weight = d_weight, .bias = d_bias, .rows = rows, .n = n, .eps = eps};
    return run_norm(be, "layernorm", job, layernorm_task);
}

/* ---- rotary embedding ---------------------------------------------------------------------------------------------
 */

typedef struct rope_job {
    const cpu_state *state;
    float *x;
    const float *inv_freq;
    int64_t heads, head_dim, position0;
    float magnitude;
} rope_job;

/* One token: the angle in double, because a position of 2^17 in fp32 leaves seven bits of the angle's fraction. */
static void rope_task(void *arg, int64_t index, int thread) {
    const rope_job *job = arg;
    int64_t half = job->head_dim / 2;
    float *cosine = (float *)job->state->scratch[thread], *sine = cosine + half;
    for (int64_t j = 0; j < half; j++) {
        double angle = (double)(job->position0 + index) * (double)job->inv_freq[j];
        cosine[j] = (float)(cos(angle) * (double)job->magnitude);
        sine[j] = (float)(sin(angle) * (double)job->magnitude);
    }
    for (int64_t h = 0; h < job->heads; h++)
        job->state->kernels->rotate(job->x + (index * job->heads + h) * job->head_dim, cosine, sine, half);
}

static flrq_status cpu_rope(flrq_backend *be, float *d_x, const float *d_inv_freq, int64_t tokens, int64_t heads,
                            int64_t head_dim, int64_t position0, float magnitude) {
    FLRQ_TRY(op_check_rope(tokens, heads, head_dim));
    FLRQ_TRY(cpu_scratch(be, (size_t)head_dim * sizeof(float)));
    rope_job job = {cpu_of(be), d_x, d_inv_freq, heads, head_dim, position0, magnitude};
    flrq_parallel_for(job.state->threads, tokens, rope_task, &job);
    return FLRQ_OK;
}

/* ---- attention ----------------------------------------------------------------------------------------------------
 */

typedef struct attention_job {
    const cpu_state *state;
    float *out;
    const float *q, *k, *v;
    const flrq_attention *shape;
    int64_t tiles; /* of queries */
} attention_job;

/* Running softmax of one tile of queries. */
typedef struct attention_rows {
    float score[QUERY_TILE * KEY_TILE];
    float max[QUERY_TILE];
    double sum[QUERY_TILE];
    float work[CPU_GEMM_WORK];
} attention_rows;

/* Turns the scores of query `query` (row i of the tile) for keys key0 .. key0+keys-1 into exp(score - max), 0 where
 * masked. Returns the factor by which a larger maximum shrinks what was summed before. */
static float soften_row(const attention_job *job, attention_rows *rows, int64_t i, int64_t query, int64_t key0,
                        int64_t keys) {
    const cpu_kernels *kernels = job->state->kernels;
    float *score = rows->score + i * KEY_TILE;
    int64_t window = job->shape->window, end = at_most(query + 1 - key0, keys);
    int64_t begin = window > 0 && query - window + 1 > key0 ? query - window + 1 - key0 : 0;
    if (begin >= end) {
        memset(score, 0, (size_t)keys * sizeof *score);
        return 1.0f;
    }
    float max = kernels->max_of(score + begin, end - begin), before = rows->max[i];
    if (max < before) max = before;
    float factor = expf(before - max);
    memset(score, 0, (size_t)begin * sizeof *score);
    memset(score + end, 0, (size_t)(keys - end) * sizeof *score);
    rows->sum[i] = rows->sum[i] * (double)factor + (double)kernels->exp_sum(score + begin, max, end - begin);
    rows->max[i] = max;
    return factor;
}

static void attention_task(void *arg, int64_t index, int thread) {
    const attention_job *job = arg;
    const flrq_attention *shape = job->shape;
    const cpu_kernels *kernels = job->state->kernels;
    attention_rows *rows = (attention_rows *)job->state->scratch[thread];
    int64_t dim = shape->head_dim, ld_q = shape->heads * dim, ld_k = shape->kv_heads * dim;
    int64_t head = index % shape->heads, kv_head = head / (shape->heads / shape->kv_heads);
    /* The last queries see the most keys: they start first, so that no thread is left with them at the end. */
    int64_t query0 = (job->tiles - 1 - index / shape->heads) * QUERY_TILE;
    int64_t queries = at_most(shape->tokens - query0, QUERY_TILE), last = query0 + queries;
    int64_t first = shape->window > 0 && query0 >= shape->window ? query0 - shape->window + 1 : 0;
    const float *q = job->q + query0 * ld_q + head * dim, *k = job->k + kv_head * dim, *v = job->v + kv_head * dim;
    float *out = job->out + query0 * ld_q + head * dim;
    for (int64_t i = 0; i < queries; i++) {
        rows->max[i] = -INFINITY;
        rows->sum[i] = 0;
    }
    for (int64_t key0 = first; key0 < last; key0 += KEY_TILE) {
        int64_t keys = at_most(last - key0, KEY_TILE);
        kernels->gemm(0, 1, queries, keys, dim, shape->scale, q, ld_q, k + key0 * ld_k, ld_k, 0.0f, rows->score,
                      KEY_TILE, rows->work);
        for (int64_t i = 0; i < queries; i++) {
            float factor = soften_row(job, rows, i, query0 + i, key0, keys);
            if (key0 > first && factor != 1.0f)
                kernels->scale_weight(out + i * ld_q, out + i * ld_q, factor, NULL, dim);
        }
        kernels->gemm(0, 0, queries, dim, keys, 1.0f, rows->score, KEY_TILE, v + key0 * ld_k, ld_k,
                      key0 > first ? 1.0f : 0.0f, out, ld_q, rows->work);
    }
    for (int64_t i = 0; i < queries; i++)
        kernels->scale_weight(out + i * ld_q, out + i * ld_q, (float)(1 / rows->sum[i]), NULL, dim);
}

static flrq_status cpu_attention(flrq_backend *be, float *d_out, const float *d_q, const float *d_k, const float *d_v,
                                 const flrq_attention *shape) {
    FLRQ_TRY(op_check_attention(shape));
    FLRQ_TRY(cpu_scratch(be, sizeof(attention_rows)));
    attention_job job = {cpu_of(be), d_out, d_q, d_k, d_v, shape, tiles_of(shape->tokens, QUERY_TILE)};
    flrq_parallel_for(job.state->threads, job.tiles * shape->heads, attention_task, &job);
    return FLRQ_OK;
}

/* ---- elementwise --------------------------------------------------------------------------------------------------
 */

typedef struct each_job {
    const cpu_kernels *kernels;
    float *y;
    const float *x;
    int64_t count;
} each_job;

static void swiglu_task(void *arg, int64_t index, int thread) {
    const each_job *job = arg;
    int64_t begin = index * SLICE;
    job->kernels->swiglu(job->y + begin, job->x + begin, at_most(job->count - begin, SLICE));
}

static void add_task(void *arg, int64_t index, int thread) {
    const each_job *job = arg;
    int64_t begin = index * SLICE;
    job->kernels->axpy(job->y + begin, job->x + begin, 1.0f, at_most(job->count - begin, SLICE));
}

static void relu_task(void *arg, int64_t index, int thread) {
    const each_job *job = arg;
    int64_t end = at_most((index + 1) * SLICE, job->count);
    for (int64_t i = index * SLICE; i < end; i++) job->y[i] = job->y[i] < 0 ? 0 : job->y[i];
}

static flrq_status run_each(flrq_backend *be, const char *op, float *y, const float *x, int64_t count,
                            flrq_task_fn task) {
    if (count < 0) return flrq_fail(FLRQ_ERR_SHAPE, "%s: %lld elements", op, (long long)count);
    each_job job = {cpu_of(be)->kernels, y, x, count};
    flrq_parallel_for(cpu_of(be)->threads, tiles_of(count, SLICE), task, &job);
    return FLRQ_OK;
}

static flrq_status cpu_swiglu(flrq_backend *be, float *d_gate, const float *d_up, int64_t count) {
    return run_each(be, "swiglu", d_gate, d_up, count, swiglu_task);
}

static flrq_status cpu_relu(flrq_backend *be, float *d_x, int64_t count) {
    return run_each(be, "relu", d_x, NULL, count, relu_task);
}

static flrq_status cpu_add(flrq_backend *be, float *d_y, const float *d_x, int64_t count) {
    return run_each(be, "add", d_y, d_x, count, add_task);
}

typedef struct add_f64_job {
    double *y;
    const double *x;
    int64_t count;
} add_f64_job;

static void add_f64_task(void *arg, int64_t index, int thread) {
    const add_f64_job *job = arg;
    int64_t end = at_most((index + 1) * SLICE, job->count);
    for (int64_t i = index * SLICE; i < end; i++) job->y[i] += job->x[i];
}

static flrq_status cpu_add_f64(flrq_backend *be, double *d_y, const double *d_x, int64_t count) {
    if (count < 0) return flrq_fail(FLRQ_ERR_SHAPE, "add_f64: %lld elements", (long long)count);
    add_f64_job job = {d_y, d_x, count};
    flrq_parallel_for(cpu_of(be)->threads, tiles_of(count, SLICE), add_f64_task, &job);
    return FLRQ_OK;
}

/* ---- embedding rows -----------------------------------------------------------------------------------------------
 */

typedef struct gather_job {
    const cpu_state *state;
    float *y;
    const flrq_operand *table;
    const int32_t *ids;
    int accumulate;
} gather_job;

static void gather_task(void *arg, int64_t index, int thread) {
    const gather_job *job = arg;
    const cpu_kernels *kernels = job->state->kernels;
    int64_t n = job->table->cols;
    float *y = job->y + index * n, *row = job->accumulate ? (float *)job->state->scratch[thread] : y;
    cpu_tile_load(kernels, row, n, job->table, job->ids[index], 1, 0, n, NULL);
    if (job->accumulate) kernels->axpy(y, row, 1.0f, n);
}

static flrq_status cpu_gather_rows(flrq_backend *be, float *d_y, const flrq_operand *table, const int32_t *ids,
                                   int64_t tokens, int accumulate) {
    FLRQ_TRY(op_check_gather(table, tokens));
    if (accumulate) FLRQ_TRY(cpu_scratch(be, (size_t)table->cols * sizeof(float)));
    gather_job job = {cpu_of(be), d_y, table, ids, accumulate};
    flrq_parallel_for(job.state->threads, tokens, gather_task, &job);
    return FLRQ_OK;
}

/* ---- losses -------------------------------------------------------------------------------------------------------
 */

typedef struct loss_job {
    const cpu_kernels *kernels;
    double *loss;
    int32_t *argmax;
    const float *p, *q; /* logits; q of kl() only */
    const int32_t *target;
    int64_t vocab;
} loss_job;

static void nll_task(void *arg, int64_t index, int thread) {
    const loss_job *job = arg;
    const float *x = job->p + index * job->vocab;
    float max = job->kernels->max_of(x, job->vocab);
    if (job->argmax) {
        int64_t j = 0;
        while (j < job->vocab && x[j] != max) j++;
        job->argmax[index] = j < job->vocab ? (int32_t)j : 0;
    }
    int32_t target = job->target[index];
    job->loss[index] = 0;
    if (target >= 0)
        job->loss[index] = (double)max + log(job->kernels->sum_exp(x, max, job->vocab)) - (double)x[target];
}

static flrq_status cpu_nll(flrq_backend *be, double *nll, int32_t *argmax, const float *d_logits, const int32_t *target,
                           int64_t tokens, int64_t vocab) {
    FLRQ_TRY(op_check_targets(target, tokens, vocab));
    loss_job job = {
        .kernels = cpu_of(be)->kernels, .loss = nll, .argmax = argmax, .p = d_logits, .target = target, .vocab = vocab};
    flrq_parallel_for(cpu_of(be)->threads, tokens, nll_task, &job);
    return FLRQ_OK;
}

/* KL(p || q) = sum_j p_j (x_j - y_j) - logsumexp(x) + logsumexp(y) for logits x of p, y of q. */
static void kl_task(void *arg, int64_t index, int thread) {
    const loss_job *job = arg;
    const cpu_kernels *kernels = job->kernels;
    int64_t vocab = job->vocab;
    const float *p = job->p + index * vocab, *q = job->q + index * vocab;
    int hole = 0; /* q forbids what p allows */
    for (int64_t j = 0; j < vocab; j++) hole |= (q[j] == -INFINITY) & (p[j] > -INFINITY);
    float p_max = kernels->max_of(p, vocab), q_max = kernels->max_of(q, vocab);
    double p_sum = kernels->sum_exp(p, p_max, vocab), q_sum = kernels->sum_exp(q, q_max, vocab);
    double mean = kernels->sum_exp_difference(p, q, p_max, vocab) / p_sum;
    double kl = mean - ((double)p_max + log(p_sum)) + ((double)q_max + log(q_sum));
    if (kl < 0) kl = 0; /* rounding may leave a little less than the true zero */
    job->loss[index] = hole ? INFINITY : kl;
}

static flrq_status cpu_kl(flrq_backend *be, double *kl, const float *d_p_logits, const float *d_q_logits,
                          int64_t tokens, int64_t vocab) {
    FLRQ_TRY(op_check_sizes("kl", "tokens x vocab", tokens, vocab));
    loss_job job = {.kernels = cpu_of(be)->kernels, .loss = kl, .p = d_p_logits, .q = d_q_logits, .vocab = vocab};
    flrq_parallel_for(cpu_of(be)->threads, tokens, kl_task, &job);
    return FLRQ_OK;
}

void cpu_register_forward(flrq_backend *be) {
    be->linear = cpu_linear;
    be->rmsnorm = cpu_rmsnorm;
    be->layernorm = cpu_layernorm;
    be->rope = cpu_rope;
    be->attention = cpu_attention;
    be->swiglu = cpu_swiglu;
    be->relu = cpu_relu;
    be->add = cpu_add;
    be->add_f64 = cpu_add_f64;
    be->gather_rows = cpu_gather_rows;
    be->nll = cpu_nll;
    be->kl = cpu_kl;
}
