/* forward.c - the transformer block, embedding and head on the backend table.
 *
 * One block serves every family: RMSNorm or LayerNorm before (OPT-350m: after) attention and MLP, optional biases, q/k
 * norms, RoPE or learned positions, windows, SwiGLU or ReLU. Numerically each op is the backend's; here is only their
 * order. What the observer sees at once does not depend on the token batch, so neither do the sums it makes.
 */
#include "model/family.h"

#include <math.h>

/** Parts of the workspace. `wide` columns hold hidden or heads*head_dim, whichever is more. */
typedef struct work {
    int64_t wide, q_cols, kv_cols, tile;
    float *d_a;    /* [tokens, wide]: normalised input, attention output; [tile, hidden] of the MLP */
    float *d_b;    /* [tokens, wide]: queries, output of O; [tile, hidden] output of DOWN */
    float *d_k;    /* [tokens, kv_cols] */
    float *d_v;    /* [tokens, kv_cols] */
    float *d_gate; /* [tile, ffn] */
    float *d_up;   /* [tile, ffn]; without a gate the same as d_gate */
} work;

/** Lays the workspace out from `base` (NULL: only counts); *bytes is its size. */
static work lay_out(const flrq_model *model, int64_t tokens, int64_t batch, char *base, size_t *bytes) {
    work w = {.q_cols = model->heads * model->head_dim, .kv_cols = model->kv_heads * model->head_dim};
    w.wide = w.q_cols > model->hidden ? w.q_cols : model->hidden;
    w.tile = tokens < batch ? tokens : batch;
    const struct {
        float **part;
        int64_t count;
    } parts[] = {{&w.d_a, tokens * w.wide},    {&w.d_b, tokens * w.wide},        {&w.d_k, tokens * w.kv_cols},
                 {&w.d_v, tokens * w.kv_cols}, {&w.d_gate, w.tile * model->ffn}, {&w.d_up, w.tile * model->ffn}};
    size_t used = 0, n_parts = model->family->slot[FLRQ_SLOT_GATE] ? 6 : 5;
    for (size_t i = 0; i < n_parts; i++) {
        *parts[i].part = base ? (float *)(base + used) : NULL;
        used += ((size_t)parts[i].count * sizeof(float) + 63) / 64 * 64;
    }
    if (n_parts == 5) w.d_up = w.d_gate;
    *bytes = used;
    return w;
}

size_t flrq_workspace_bytes(const flrq_model *model, int64_t tokens, int64_t batch) {
    if (!model->family) return 0;
    size_t bytes;
    lay_out(model, tokens, batch, NULL, &bytes);
    return bytes;
}

static flrq_status normalise(const flrq_model *model, flrq_backend *be, float *d_y, const float *d_x,
                             const float *d_weight, const float *d_bias, int64_t rows) {
    if (model->family->norm == FAMILY_LAYERNORM)
        return be->layernorm(be, d_y, d_x, d_weight, d_bias, rows, model->hidden, model->norm_eps);
    return be->rmsnorm(be, d_y, d_x, d_weight, rows, model->hidden, model->norm_eps);
}

/** What every step of one call needs. */
typedef struct pass {
    const flrq_model *model;
    flrq_backend *be;
    const flrq_block *block;
    flrq_observer_fn observer;
    void *user;
} pass;

static flrq_status observe(const pass *p, flrq_input input, const float *d_x, int64_t tokens, int64_t cols) {
    return p->observer ? p->observer(p->user, input, d_x, tokens, cols) : FLRQ_OK;
}

/** The same for an input of the MLP, in pieces that do not depend on the batch: sums go in one order. */
static flrq_status observe_tiles(const pass *p, flrq_input input, const float *d_x, int64_t tokens, int64_t cols) {
    for (int64_t t = 0; t < tokens && p->observer; t += FLRQ_TOKEN_TILE) {
        int64_t count = tokens - t < FLRQ_TOKEN_TILE ? tokens - t : FLRQ_TOKEN_TILE;
        FLRQ_TRY(p->observer(p->user, input, d_x + t * cols, count, cols));
    }
    return FLRQ_OK;
}

static flrq_status project(const pass *p, flrq_slot slot, float *d_y, const float *d_x, int64_t tokens) {
    return p->be->linear(p->be, d_y, d_x, &p->block->linear[slot], p->block->d_bias[slot], tokens);
}

/** Per-head norm, then rotation, of queries or keys. */
static flrq_status prepare_heads(const pass *p, float *d_x, const float *d_norm, int64_t tokens, int64_t heads) {
    const flrq_model *m = p->model;
    if (d_norm) FLRQ_TRY(p->be->rmsnorm(p->be, d_x, d_x, d_norm, tokens * heads, m->head_dim, m->norm_eps));
    if (!m->inv_freq) return FLRQ_OK;
    return p->be->rope(p->be, d_x, p->block->d_inv_freq, tokens, heads, m->head_dim, 0, m->rope_magnitude);
}

/** x += O(attention(norm(x))); with post_norm x = norm(x + O(attention(x))). */
static flrq_status attend(const pass *p, const work *w, float *d_x, int64_t tokens) {
    const flrq_model *m = p->model;
    const flrq_block *b = p->block;
    const float *d_in = d_x;
    if (!m->post_norm) {
        FLRQ_TRY(normalise(m, p->be, w->d_a, d_x, b->d_attn_norm, b->d_attn_norm_bias, tokens));
        d_in = w->d_a;
    }
    FLRQ_TRY(observe(p, FLRQ_INPUT_ATTENTION, d_in, tokens, m->hidden));
    FLRQ_TRY(project(p, FLRQ_SLOT_Q, w->d_b, d_in, tokens));
    FLRQ_TRY(project(p, FLRQ_SLOT_K, w->d_k, d_in, tokens));
    FLRQ_TRY(project(p, FLRQ_SLOT_V, w->d_v, d_in, tokens));
    FLRQ_TRY(prepare_heads(p, w->d_b, b->d_q_norm, tokens, m->heads));
    FLRQ_TRY(prepare_heads(p, w->d_k, b->d_k_norm, tokens, m->kv_heads));
    const flrq_attention shape = {.tokens = tokens,
                                  .heads = m->heads,
                                  .kv_heads = m->kv_heads,
                                  .head_dim = m->head_dim,
                                  .scale = (float)(1 / sqrt((double)m->head_dim)),
                                  .window = m->window[b->index]};
    FLRQ_TRY(p->be->attention(p->be, w->d_a, w->d_b, w->d_k, w->d_v, &shape));
    FLRQ_TRY(observe(p, FLRQ_INPUT_OUT, w->d_a, tokens, w->q_cols));
    FLRQ_TRY(project(p, FLRQ_SLOT_O, w->d_b, w->d_a, tokens));
    FLRQ_TRY(p->be->add(p->be, d_x, w->d_b, tokens * m->hidden));
    if (m->post_norm) return normalise(m, p->be, d_x, d_x, b->d_attn_norm, b->d_attn_norm_bias, tokens);
    return FLRQ_OK;
}

/** x += DOWN(act(norm(x))) for one tile of tokens; with post_norm x = norm(x + DOWN(act(x))). */
static flrq_status transform(const pass *p, const work *w, float *d_x, int64_t tokens) {
    const flrq_model *m = p->model;
    const flrq_block *b = p->block;
    const float *d_in = d_x;
    if (!m->post_norm) {
        FLRQ_TRY(normalise(m, p->be, w->d_a, d_x, b->d_mlp_norm, b->d_mlp_norm_bias, tokens));
        d_in = w->d_a;
    }
    FLRQ_TRY(observe_tiles(p, FLRQ_INPUT_MLP, d_in, tokens, m->hidden));
    FLRQ_TRY(project(p, FLRQ_SLOT_UP, w->d_up, d_in, tokens));
    if (m->family->activation == FAMILY_SILU) {
        FLRQ_TRY(project(p, FLRQ_SLOT_GATE, w->d_gate, d_in, tokens));
        FLRQ_TRY(p->be->swiglu(p->be, w->d_gate, w->d_up, tokens * m->ffn));
    } else {
        FLRQ_TRY(p->be->relu(p->be, w->d_gate, tokens * m->ffn));
    }
    FLRQ_TRY(observe_tiles(p, FLRQ_INPUT_DOWN, w->d_gate, tokens, m->ffn));
    FLRQ_TRY(project(p, FLRQ_SLOT_DOWN, w->d_b, w->d_gate, tokens));
    FLRQ_TRY(p->be->add(p->be, d_x, w->d_b, tokens * m->hidden));
    if (m->post_norm) return normalise(m, p->be, d_x, d_x, b->d_mlp_norm, b->d_mlp_norm_bias, tokens);
    return FLRQ_OK;
}

flrq_status flrq_forward_block(const flrq_model *model, flrq_backend *be, const flrq_block *block, float *d_x,
                               int64_t tokens, int64_t batch, void *d_workspace, flrq_observer_fn observer,
                               void *user) {
    if (block->index < 0)
        return flrq_fail(FLRQ_ERR_INTERNAL, "%s: forward through a block that was not loaded", model->dir);
    size_t bytes;
    const work w = lay_out(model, tokens, batch, d_workspace, &bytes);
    const pass p = {model, be, block, observer, user};
    FLRQ_TRY(attend(&p, &w, d_x, tokens));
    for (int64_t t = 0; t < tokens; t += w.tile) {
        int64_t count = tokens - t < w.tile ? tokens - t : w.tile;
        FLRQ_TRY(transform(&p, &w, d_x + t * model->hidden, count));
    }
    return FLRQ_OK;
}

flrq_status flrq_forward_embed(const flrq_model *model, flrq_backend *be, const flrq_globals *globals, float *d_x,
                               const int32_t *ids, int64_t tokens) {
    if (globals->position_rows && tokens > model->max_positions)
        return flrq_fail(FLRQ_ERR_SHAPE,
                         "%s: a sequence of %lld tokens, but the model has %lld learned positions "
                         "(max_position_embeddings): use a shorter context",
                         model->dir, (long long)tokens, (long long)model->max_positions);
    if (globals->project_in.rows) {
        for (int64_t t = 0; t < tokens; t += FLRQ_TOKEN_TILE) {
            int64_t count = tokens - t < FLRQ_TOKEN_TILE ? tokens - t : FLRQ_TOKEN_TILE;
            FLRQ_TRY(be->gather_rows(be, globals->d_tile, &globals->embedding, ids + t, count, 0));
            FLRQ_TRY(be->linear(be, d_x + t * model->hidden, globals->d_tile, &globals->project_in, NULL, count));
        }
    } else {
        FLRQ_TRY(be->gather_rows(be, d_x, &globals->embedding, ids, tokens, 0));
    }
    if (!globals->position_rows) return FLRQ_OK;
    return be->gather_rows(be, d_x, &globals->positions, globals->position_rows, tokens, 1);
}

flrq_status flrq_forward_head(const flrq_model *model, flrq_backend *be, const flrq_globals *globals, float *d_logits,
                              float *d_x, int64_t tokens) {
    if (globals->d_norm) FLRQ_TRY(normalise(model, be, d_x, d_x, globals->d_norm, globals->d_norm_bias, tokens));
    if (!globals->project_out.rows) return be->linear(be, d_logits, d_x, &globals->head, NULL, tokens);
    for (int64_t t = 0; t < tokens; t += FLRQ_TOKEN_TILE) {
        int64_t count = tokens - t < FLRQ_TOKEN_TILE ? tokens - t : FLRQ_TOKEN_TILE;
        FLRQ_TRY(be->linear(be, globals->d_tile, d_x + t * model->hidden, &globals->project_out, NULL, count));
        FLRQ_TRY(be->linear(be, d_logits + t * model->vocab, globals->d_tile, &globals->head, NULL, count));
    }
    return FLRQ_OK;
}
