/* eval.c - perplexity of a source or quantized folder, and its distance from a reference.
 *
 * Windows of ctx tokens do not overlap; every token of a window is scored against its successor in the stream, the last
 * one of a window against the first of the next. Windows pass through the model block by block, in passes that keep the
 * activations within a bound, so a 70B model needs the memory of one block.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/npy.h"
#include "pipeline/job.h"
#include "text/corpus.h"

enum { HEAD_TOKENS = 256 };                       /* tokens whose logits exist at once */
static const size_t pass_bytes = (size_t)4 << 30; /* activations of one model in one pass, where there is room */

/* One model being evaluated. */
typedef struct subject {
    flrq_model *model;
    flrq_block *block;
    flrq_globals *globals;
    void *d_workspace;
    float *d_x;      /* [windows of a pass * ctx, hidden] */
    float *d_logits; /* [HEAD_TOKENS, vocab] */
} subject;

typedef struct eval {
    flrq_backend *be;
    flrq_reporter *reporter;
    subject main, reference; /* reference.model NULL: none */
    const int32_t *ids;      /* [windows * ctx + 1]; the last entry may be absent */
    int64_t count, windows, ctx;
    int64_t batch; /* tokens through an MLP at once */
    flrq_precision precision;
    flrq_npy_writer *dump;
    float *host_logits; /* [HEAD_TOKENS, vocab] when dumping */
    double nll, reference_nll, kl, kl_max;
    int64_t scored, agree;
} eval;

static flrq_status allocate_subject(eval *e, subject *s, int64_t pass) {
    flrq_backend *be = e->be;
    FLRQ_TRY(flrq_block_new(&s->block, s->model, be));
    FLRQ_TRY(be->alloc(be, &s->d_workspace, flrq_workspace_bytes(s->model, e->ctx, e->batch), "the forward workspace"));
    size_t tokens = (size_t)(pass * e->ctx);
    FLRQ_TRY(be->alloc(be, (void **)&s->d_x, tokens * (size_t)s->model->hidden * sizeof(float), "activations"));
    return be->alloc(be, (void **)&s->d_logits, (size_t)HEAD_TOKENS * (size_t)s->model->vocab * sizeof(float),
                     "logits");
}

static void close_subject(eval *e, subject *s) {
    if (e->be) {
        flrq_globals_free(s->globals, e->be);
        e->be->release(e->be, s->d_logits);
        e->be->release(e->be, s->d_x);
        e->be->release(e->be, s->d_workspace);
        flrq_block_free(s->block, e->be);
    }
    flrq_model_close(s->model);
}

/* Windows first .. first+count-1 through all blocks of one model. */
static flrq_status forward(eval *e, subject *s, int64_t first, int64_t count) {
    int64_t window = e->ctx * s->model->hidden;
    FLRQ_TRY(flrq_globals_load(&s->globals, s->model, e->be, FLRQ_GLOBALS_EMBED));
    flrq_status status = FLRQ_OK;
    for (int64_t w = 0; w < count && status == FLRQ_OK; w++)
        status =
            flrq_forward_embed(s->model, e->be, s->globals, s->d_x + w * window, e->ids + (first + w) * e->ctx, e->ctx);
    flrq_globals_free(s->globals, e->be);
    s->globals = NULL;
    FLRQ_TRY(status);
    e->reporter->blocks = s->model->layers;
    for (int64_t b = 0; b < s->model->layers; b++) {
        char summary[64];
        double begin = flrq_seconds();
        e->reporter->block = b + 1;
        FLRQ_TRY(flrq_block_load(s->block, s->model, b));
        for (int64_t w = 0; w < count; w++) {
            if (flrq_stop_requested()) return flrq_fail(FLRQ_STOPPED, "stopped; eval keeps no state");
            flrq_progress(e->reporter, "eval", w, count);
            flrq_set_precision(e->be, e->precision);
            flrq_status status = flrq_forward_block(s->model, e->be, s->block, s->d_x + w * window, e->ctx, e->batch,
                                                    s->d_workspace, NULL, NULL);
            flrq_set_precision(e->be, FLRQ_PRECISION_FULL);
            FLRQ_TRY(status);
        }
        snprintf(summary, sizeof summary, "%lld windows of %lld tokens", (long long)count, (long long)e->ctx);
        flrq_block_done(e->reporter, b + 1, flrq_seconds() - begin, summary);
    }
    return flrq_globals_load(&s->globals, s->model, e->be, FLRQ_GLOBALS_HEAD);
}

static flrq_status score_tile(eval *e, int64_t first_window, int64_t token, int64_t tokens) {
    double nll[HEAD_TOKENS], other[HEAD_TOKENS], kl[HEAD_TOKENS];
    int32_t target[HEAD_TOKENS], best[HEAD_TOKENS], other_best[HEAD_TOKENS];
    flrq_backend *be = e->be;
    int64_t hidden = e->main.model->hidden, vocab = e->main.model->vocab, at = first_window * e->ctx + token;
    for (int64_t t = 0; t < tokens; t++) target[t] = at + t + 1 < e->count ? e->ids[at + t + 1] : -1;
    FLRQ_TRY(
        flrq_forward_head(e->main.model, be, e->main.globals, e->main.d_logits, e->main.d_x + token * hidden, tokens));
    FLRQ_TRY(be->nll(be, nll, best, e->main.d_logits, target, tokens, vocab));
    if (e->dump) {
        size_t bytes = (size_t)(tokens * vocab) * sizeof(float);
        FLRQ_TRY(be->download(be, e->host_logits, e->main.d_logits, bytes));
        FLRQ_TRY(flrq_npy_append(e->dump, e->host_logits, bytes));
    }
    if (e->reference.model) {
        FLRQ_TRY(flrq_forward_head(e->reference.model, be, e->reference.globals, e->reference.d_logits,
                                   e->reference.d_x + token * e->reference.model->hidden, tokens));
        FLRQ_TRY(be->nll(be, other, other_best, e->reference.d_logits, target, tokens, vocab));
        FLRQ_TRY(be->kl(be, kl, e->reference.d_logits, e->main.d_logits, tokens, vocab));
    }
    for (int64_t t = 0; t < tokens; t++) {
        if (target[t] < 0) continue;
        if (!isfinite(nll[t]))
            return flrq_fail(FLRQ_ERR_NUMERIC, "%s: the logits of token %lld are not finite", e->main.model->dir,
                             (long long)(at + t));
        e->nll += nll[t];
        e->scored++;
        if (!e->reference.model) continue;
        e->reference_nll += other[t];
        e->kl += kl[t];
        e->kl_max = fmax(e->kl_max, kl[t]);
        e->agree += best[t] == other_best[t];
    }
    return FLRQ_OK;
}

static flrq_status run_pass(eval *e, int64_t first, int64_t count) {
    FLRQ_TRY(forward(e, &e->main, first, count));
    if (e->reference.model) FLRQ_TRY(forward(e, &e->reference, first, count));
    for (int64_t token = 0; token < count * e->ctx; token += HEAD_TOKENS) {
        int64_t left = count * e->ctx - token;
        flrq_progress(e->reporter, "score", token, count * e->ctx);
        FLRQ_TRY(score_tile(e, first, token, left < HEAD_TOKENS ? left : HEAD_TOKENS));
    }
    flrq_globals_free(e->main.globals, e->be);
    flrq_globals_free(e->reference.globals, e->be);
    e->main.globals = e->reference.globals = NULL;
    return FLRQ_OK;
}

/* What one model needs beside its activations: a block or embedding and head, workspace, logits. */
static size_t fixed_bytes(const eval *e, const flrq_model *m) {
    size_t block = flrq_block_bytes(m) + flrq_workspace_bytes(m, e->ctx, e->batch);
    size_t globals = flrq_globals_bytes(m, FLRQ_GLOBALS_EMBED), head = flrq_globals_bytes(m, FLRQ_GLOBALS_HEAD);
    return block + (globals > head ? globals : head) + (size_t)HEAD_TOKENS * (size_t)m->vocab * sizeof(float);
}

/* Windows in one pass, and on a device with memory of its own the token batch: whole windows, or less where they would
 * leave no room for one. */
static flrq_status plan_pass(eval *e, int precision, int64_t *pass) {
    flrq_device_info device;
    const flrq_model *model = e->main.model, *reference = e->reference.model;
    size_t window = (size_t)(e->ctx * model->hidden) * sizeof(float), room = pass_bytes;
    e->batch = FLRQ_TOKEN_TILE;
    FLRQ_TRY(e->be->info(e->be, &device));
    if (device.separate_memory) {
        if (precision != PRECISION_FULL) e->precision = FLRQ_PRECISION_FAST;
        if (reference) window += (size_t)(e->ctx * reference->hidden) * sizeof(float);
        size_t usable = device.free_bytes / 16 * 15; /* the rest for what the backend takes for itself */
        for (e->batch = e->ctx;; e->batch = (e->batch / 2 + FLRQ_TOKEN_TILE - 1) / FLRQ_TOKEN_TILE * FLRQ_TOKEN_TILE) {
            size_t fixed = fixed_bytes(e, model) + (reference ? fixed_bytes(e, reference) : 0);
            size_t left = usable > fixed ? usable - fixed : 0;
            if (left < room) room = left;
            if (room >= window || e->batch <= FLRQ_TOKEN_TILE) break;
            room = pass_bytes;
        }
    }
    *pass = (int64_t)(room / window);
    if (*pass < 1) *pass = 1;
    if (*pass > e->windows) *pass = e->windows;
    return FLRQ_OK;
}

static flrq_status read_input(const flrq_config *c, int32_t **ids, int64_t *count) {
    if (c->tokens) {
        int64_t rows, cols;
        FLRQ_TRY(flrq_tokens_read(c->tokens, 0, ids, &rows, &cols));
        *count = rows * cols;
        return FLRQ_OK;
    }
    flrq_tokenizer *tokenizer;
    FLRQ_TRY(flrq_tokenizer_open(&tokenizer, c->model));
    flrq_status status = flrq_corpus_read(tokenizer, c->text, c->doc_sep, ids, count);
    flrq_tokenizer_close(tokenizer);
    return status;
}

flrq_status flrq_job_eval(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    eval e = {.reporter = reporter, .ctx = c->ctx};
    int32_t *ids = NULL;
    flrq_status status = FLRQ_OK;
    double begin = flrq_seconds();
    int flags = c->lowrank ? 0 : FLRQ_MODEL_NO_ADAPTER;
    FLRQ_GOTO(flrq_model_open(&e.main.model, c->model, flags));
    if (c->against) FLRQ_GOTO(flrq_model_open(&e.reference.model, c->against, 0));
    const flrq_model *model = e.main.model, *reference = e.reference.model;
    if (reference && reference->vocab != model->vocab)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_SHAPE, "%s has a vocabulary of %lld, %s of %lld; they cannot be compared",
                            c->model, (long long)model->vocab, c->against, (long long)reference->vocab));
    FLRQ_GOTO(read_input(c, &ids, &e.count));
    for (int64_t i = 0; i < e.count; i++)
        if (ids[i] >= model->vocab)
            FLRQ_GOTO(flrq_fail(FLRQ_ERR_FORMAT, "%s: token %lld has id %d, but vocab_size of %s is %lld",
                                c->tokens ? c->tokens : c->text, (long long)i, ids[i], c->model,
                                (long long)model->vocab));
    if (model->max_positions > 0 && e.ctx > model->max_positions) {
        if (flrq_params_given(params, "ctx"))
            flrq_notice(reporter, "windows shortened from %lld to the model's context of %lld tokens", (long long)e.ctx,
                        (long long)model->max_positions);
        e.ctx = model->max_positions;
    }
    e.ids = ids;
    e.windows = e.count / e.ctx;
    if (e.windows == 0)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_FORMAT,
                            "%s: %lld tokens do not fill one window of %lld; give more text or a smaller --ctx",
                            c->tokens ? c->tokens : c->text, (long long)e.count, (long long)e.ctx));
    int64_t pass;
    FLRQ_GOTO(flrq_backend_open(&e.be, c->device, (int)c->threads));
    FLRQ_GOTO(plan_pass(&e, c->precision, &pass));
    FLRQ_GOTO(allocate_subject(&e, &e.main, pass));
    if (reference) FLRQ_GOTO(allocate_subject(&e, &e.reference, pass));
    if (c->dump_logits) {
        int64_t shape[3] = {e.windows, e.ctx, e.main.model->vocab};
        size_t bytes = (size_t)HEAD_TOKENS * (size_t)e.main.model->vocab * sizeof(float);
        if (!(e.host_logits = malloc(bytes))) FLRQ_GOTO(flrq_fail_memory(bytes, "logits"));
        FLRQ_GOTO(flrq_npy_create(&e.dump, c->dump_logits, "<f4", sizeof(float), 3, shape));
    }
    for (int64_t first = 0; first < e.windows; first += pass)
        FLRQ_GOTO(run_pass(&e, first, e.windows - first < pass ? e.windows - first : pass));
    if (e.dump) {
        status = flrq_npy_finish(e.dump);
        e.dump = NULL;
        if (status != FLRQ_OK) goto out;
    }
    double scored = e.scored ? (double)e.scored : 1;
    json_t *against = json_null();
    if (c->against)
        against =
            json_pack("{s:s, s:f, s:f, s:f, s:f}", "model", c->against, "perplexity", exp(e.reference_nll / scored),
                      "kl_mean", e.kl / scored, "kl_max", e.kl_max, "top1_agreement", (double)e.agree / scored);
    *result = json_pack("{s:s, s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:b, s:b, s:o}", "model", c->model, "perplexity",
                        exp(e.nll / scored), "nll", e.nll / scored, "tokens", (json_int_t)e.count, "scored",
                        (json_int_t)e.scored, "context", (json_int_t)e.ctx, "windows", (json_int_t)e.windows, "seconds",
                        flrq_seconds() - begin, "lowrank", e.main.model->adapter != NULL, "quantized",
                        e.main.model->quantized, "against", against);
out:
    flrq_npy_abort(e.dump);
    free(e.host_logits);
    close_subject(&e, &e.reference);
    close_subject(&e, &e.main);
    flrq_backend_close(e.be);
    free(ids);
    return status;
}
