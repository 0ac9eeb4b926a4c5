/* quantize.c - the main job: stream the blocks, calibrate, fit, write, and hand over a checked folder.
 *
 * For each block: forward the calibration segments with the source weights and gather the statistics of every linear
 * input; fit and write each layer; commit the shard; forward again with the quantized weights to get the next block's
 * input. Nothing in this loop allocates but the JSON records. What must not change: a block is committed (shard and
 * factors flushed, hashed and journalled) before its forward overwrites the activations, so a kill at any instant loses
 * at most one block.
 */
#include <inttypes.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/dtype.h"
#include "core/philox.h"
#include "io/npy.h"
#include "pipeline/job.h"
#include "pipeline/output.h"
#include "pipeline/report.h"
#include "pipeline/state.h"
#include "pipeline/verify.h"
#include "text/corpus.h"

/* Statistics of one distinct linear input of the present block. */
typedef struct input_sums {
    int64_t cols;
    double *d_abs, *d_square; /* [cols] in backend memory */
    double *abs, *square;     /* host copies */
    float *d_sketch;          /* [cols, k] */
} input_sums;

typedef struct job {
    const flrq_params *params;
    const flrq_config *config;
    flrq_reporter *reporter;
    flrq_backend *be;
    flrq_comm *comm;
    flrq_model *model;
    flrq_plan plan;
    flrq_state state;
    int32_t *tokens; /* [segments, length] */
    /* backend memory, all allocated before the first block */
    float *d_x;       /* [segments * length, hidden] input of the present block */
    float *d_segment; /* [length, hidden] */
    void *d_workspace;
    float *d_projection; /* [length, error_sketch] */
    void *d_weight;      /* weights-only: one source weight */
    void *host_weight;
    flrq_block *block;
    input_sums inputs[FLRQ_INPUT_COUNT];
    flrq_layer *layers; /* of the present block; codes of slot i, or of one shared slot */
    float *d_factors;
    flrq_codes *codes; /* [plan.slots] */
    flrq_fit_space *space;
    flrq_staging staging;
    int64_t observed; /* tokens of the present segment seen by the observer, per input */
    int64_t seen[FLRQ_INPUT_COUNT];
    double last_save; /* clock of the last saved activations, and how long saving took */
    double save_seconds;
    flrq_phases phases;
} job;

static flrq_status load_tokens(job *j) {
    const flrq_config *c = j->config;
    int64_t segments = j->plan.segments, length = j->plan.length;
    if (!j->plan.calibrated) return FLRQ_OK;
    if (c->calib_tokens) return flrq_tokens_read(c->calib_tokens, j->model->vocab, &j->tokens, &segments, &length);
    flrq_tokenizer *tokenizer;
    int32_t *ids = NULL;
    int64_t count;
    FLRQ_TRY(flrq_tokenizer_open(&tokenizer, c->model));
    flrq_status status = flrq_corpus_read(tokenizer, c->calib, c->doc_sep, &ids, &count);
    int64_t vocab = flrq_tokenizer_vocab(tokenizer);
    flrq_tokenizer_close(tokenizer);
    if (status == FLRQ_OK && vocab > j->model->vocab) {
        for (int64_t i = 0; i < count && status == FLRQ_OK; i++)
            if (ids[i] >= j->model->vocab)
                status = flrq_fail(FLRQ_ERR_FORMAT, "%s: the tokenizer gives id %d, but vocab_size is %lld", c->model,
                                   ids[i], (long long)j->model->vocab);
    }
    if (status == FLRQ_OK) status = flrq_corpus_sample(ids, count, segments, length, (uint64_t)c->seed, &j->tokens);
    if (status != FLRQ_OK) status = flrq_trace(status, "--calib %s", c->calib);
    free(ids);
#ifdef __GLIBC__
    malloc_trim(0); /* a tokenizer is a million small pieces, which would stay with the process for the whole run */
#endif
    return status;
}

/* ---- memory
 * --------------------------------------------------------------------------------------------------------------- */

static flrq_status allocate_calibration(job *j) {
    flrq_backend *be = j->be;
    const flrq_plan *plan = &j->plan;
    const flrq_model *model = j->model;
    size_t hidden = (size_t)model->hidden, length = (size_t)plan->length, k = (size_t)j->config->error_sketch;
    FLRQ_TRY(be->alloc(be, (void **)&j->d_segment, length * hidden * sizeof(float), "a segment's activations"));
    FLRQ_TRY(be->alloc(be, &j->d_workspace, plan->workspace_bytes, "the forward workspace"));
    FLRQ_TRY(be->alloc(be, (void **)&j->d_projection, length * k * sizeof(float), "activation projections"));
    FLRQ_TRY(flrq_block_new(&j->block, model, be));
    for (int64_t i = model->block_first[0]; i < model->block_first[1]; i++) {
        input_sums *in = &j->inputs[model->linears[i].input];
        if (in->cols) continue;
        in->cols = model->linears[i].cols;
        size_t n = (size_t)in->cols;
        in->abs = malloc(n * sizeof(double));
        in->square = malloc(n * sizeof(double));
        if (!in->abs || !in->square) return flrq_fail_memory(n * sizeof(double), "input statistics");
        FLRQ_TRY(be->alloc(be, (void **)&in->d_abs, n * sizeof(double), "input statistics"));
        FLRQ_TRY(be->alloc(be, (void **)&in->d_square, n * sizeof(double), "input statistics"));
        FLRQ_TRY(be->alloc(be, (void **)&in->d_sketch, n * k * sizeof(float), "input sketch"));
    }
    return FLRQ_OK;
}

static flrq_status allocate(job *j) {
    flrq_backend *be = j->be;
    const flrq_plan *plan = &j->plan;
    if (plan->calibrated)
        FLRQ_TRY(allocate_calibration(j));
    else {
        size_t bytes = (size_t)plan->extent.count * sizeof(float);
        FLRQ_TRY(be->alloc(be, &j->d_weight, bytes, "one weight"));
    }
    j->codes = calloc((size_t)plan->slots, sizeof *j->codes);
    j->layers = calloc((size_t)j->model->n_linears, sizeof *j->layers);
    if (!j->codes || !j->layers) return flrq_fail_memory(sizeof *j->layers, "layers");
    for (int64_t i = 0; i < plan->slots; i++) {
        flrq_extent extent = plan->extent;
        if (plan->calibrated) { /* slot i is the same shape in every block of a known family */
            const flrq_linear *l = &j->model->linears[i];
            extent = (flrq_extent){l->rows, l->cols, l->rows * l->cols};
        }
        FLRQ_TRY(flrq_codes_alloc(&j->codes[i], be, &plan->fit.scheme, extent));
    }
    FLRQ_TRY(be->alloc(be, (void **)&j->d_factors, plan->factor_bytes + sizeof(float), "low-rank factors"));
    FLRQ_TRY(flrq_fit_space_new(&j->space, be, &plan->fit, plan->extent));
    return flrq_staging_new(&j->staging, be, plan);
}

/* Frees what only the blocks need, so that the load-back check does not add to the peak. */
static void release_blocks(job *j) {
    flrq_backend *be = j->be;
    flrq_staging_free(&j->staging, be);
    flrq_fit_space_free(j->space, be);
    be->release(be, j->d_factors);
    for (int64_t i = 0; j->codes && i < j->plan.slots; i++) flrq_codes_release(&j->codes[i], be);
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        be->release(be, j->inputs[i].d_sketch);
        be->release(be, j->inputs[i].d_square);
        be->release(be, j->inputs[i].d_abs);
        free(j->inputs[i].square);
        free(j->inputs[i].abs);
        j->inputs[i] = (input_sums){0};
    }
    flrq_block_free(j->block, be);
    be->release(be, j->d_weight);
    be->release(be, j->d_projection);
    be->release(be, j->d_workspace);
    be->release(be, j->d_segment);
    be->release(be, j->d_x);
    j->space = NULL, j->block = NULL;
    j->d_factors = j->d_projection = j->d_segment = j->d_x = NULL;
    j->d_weight = j->d_workspace = NULL;
}

static void release(job *j) {
    if (j->be) release_blocks(j);
    free(j->layers);
    free(j->codes);
    free(j->tokens);
    flrq_model_close(j->model);
    flrq_backend_close(j->be);
}

/* ---- one block
 * ------------------------------------------------------------------------------------------------------------ */

/* Observer of the calibration forward: adds the tile to the sums of its input. Rows of the projection follow the
 * tokens. */
static flrq_status observe(void *user, flrq_input input, const float *d_x, int64_t tokens, int64_t cols) {
    job *j = user;
    input_sums *in = &j->inputs[input];
    int64_t k = j->config->error_sketch;
    const float *d_rows = j->d_projection + j->seen[input] * k;
    j->seen[input] += tokens;
    FLRQ_TRY(j->be->input_stats(j->be, in->d_abs, in->d_square, d_x, tokens, cols));
    return j->be->input_sketch(j->be, in->d_sketch, d_x, d_rows, tokens, cols, k);
}

static flrq_status calibrate(job *j, int64_t block) {
    flrq_backend *be = j->be;
    const flrq_plan *plan = &j->plan;
    int64_t segment = plan->length * j->model->hidden, k = j->config->error_sketch;
    uint64_t key = flrq_philox_key((uint64_t)j->config->seed, "activation sketch");
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        input_sums *in = &j->inputs[i];
        if (!in->cols) continue;
        FLRQ_TRY(be->zero(be, in->d_abs, (size_t)in->cols * sizeof(double)));
        FLRQ_TRY(be->zero(be, in->d_square, (size_t)in->cols * sizeof(double)));
        FLRQ_TRY(be->zero(be, in->d_sketch, (size_t)(in->cols * k) * sizeof(float)));
    }
    for (int64_t s = 0; s < plan->segments; s++) {
        if (flrq_stop_requested()) return FLRQ_STOPPED;
        flrq_progress(j->reporter, "calibrate", s, plan->segments);
        memset(j->seen, 0, sizeof j->seen);
        FLRQ_TRY(be->copy(be, j->d_segment, j->d_x + s * segment, (size_t)segment * sizeof(float)));
        FLRQ_TRY(be->normal(be, j->d_projection, key, 0, (uint64_t)(s * plan->length * k), plan->length * k));
        FLRQ_TRY(flrq_forward_block(j->model, be, j->block, j->d_segment, plan->length, FLRQ_TOKEN_TILE, j->d_workspace,
                                    observe, j));
    }
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        input_sums *in = &j->inputs[i];
        if (!in->cols) continue;
        size_t bytes = (size_t)in->cols * sizeof(double);
        FLRQ_TRY(be->download(be, in->abs, in->d_abs, bytes));
        FLRQ_TRY(be->download(be, in->square, in->d_square, bytes));
        for (int64_t n = 0; n < in->cols; n++)
            if (!isfinite(in->square[n]))
                return flrq_fail(FLRQ_ERR_NUMERIC,
                                 "block %lld: the calibration activations are not finite (input %d, channel %lld); the "
                                 "model overflows on this text",
                                 (long long)block + 1, i, (long long)n);
    }
    return FLRQ_OK;
}

/* Replaces NaN and infinities of a dense weight by zero. Rare, so row by row through the host. */
static flrq_status zero_nonfinite(job *j, const flrq_operand *w) {
    size_t size = (size_t)flrq_dtype_bits(w->dense_dtype) / 8, bytes = (size_t)w->cols * size;
    void *row = malloc(bytes);
    if (!row) return flrq_fail_memory(bytes, "a weight row");
    flrq_status status = FLRQ_OK;
    for (int64_t i = 0; i < w->rows && status == FLRQ_OK; i++) {
        char *d_row = (char *)w->d_dense + (size_t)(i * w->ld_dense) * size;
        status = j->be->download(j->be, row, d_row, bytes);
        for (int64_t n = 0; n < w->cols; n++)
            if (!isfinite(flrq_load(row, w->dense_dtype, n))) flrq_store(row, w->dense_dtype, n, 0);
        if (status == FLRQ_OK) status = j->be->upload(j->be, d_row, row, bytes);
    }
    free(row);
    return status;
}

static flrq_status check_finite(job *j, const flrq_linear *l, const flrq_operand *w) {
    int64_t count, first;
    FLRQ_TRY(j->be->count_nonfinite(j->be, &count, &first, w));
    if (count == 0) return FLRQ_OK;
    if (j->config->nonfinite == NONFINITE_REFUSE)
        return flrq_fail(
            FLRQ_ERR_NUMERIC,
            "%s: tensor %s: %lld values are NaN or infinite, the first at row %lld, column %lld; repair the "
            "checkpoint or use --nonfinite zero",
            j->model->checkpoint->files[l->weight->file], l->weight->name, (long long)count,
            (long long)(first / l->cols), (long long)(first % l->cols));
    flrq_notice(j->reporter, "tensor %s: %lld values that are NaN or infinite were set to zero", l->weight->name,
                (long long)count);
    return zero_nonfinite(j, w);
}

/* Refuses NaN and infinities in what is copied as it is: norms, biases, embeddings (block -1: what is outside the
 * blocks). */
static flrq_status check_copied_finite(job *j, int64_t block) {
    for (int64_t i = 0; i < j->model->n_others; i++) {
        const flrq_other *o = &j->model->others[i];
        const flrq_tensor *t = o->tensor;
        if (o->block != block || o->fate != FLRQ_FATE_COPY) continue;
        if (t->dtype != FLRQ_F32 && t->dtype != FLRQ_F16 && t->dtype != FLRQ_BF16) continue;
        uint64_t size = (uint64_t)flrq_dtype_bits(t->dtype) / 8, step = j->staging.size / size * size;
        for (uint64_t first = 0; first < t->bytes; first += step) {
            uint64_t bytes = t->bytes - first < step ? t->bytes - first : step;
            FLRQ_TRY(flrq_checkpoint_read(j->model->checkpoint, t, j->staging.bytes, first, bytes));
            for (uint64_t n = 0; n < bytes / size; n++)
                if (!isfinite(flrq_load(j->staging.bytes, t->dtype, (int64_t)n)))
                    return flrq_fail(
                        FLRQ_ERR_NUMERIC,
                        "%s: tensor %s: element %llu is NaN or infinite; repair the checkpoint (--nonfinite "
                        "zero is for the quantized matrices only)",
                        j->model->checkpoint->files[t->file], t->name, (unsigned long long)(first / size + n));
        }
    }
    return FLRQ_OK;
}

/* The dense weight of linears[i] as an operand: a slot of the loaded block, or read alone in a weights-only run. */
static flrq_status weight_of(job *j, const flrq_linear *l, flrq_operand *out) {
    if (j->plan.calibrated) {
        *out = j->block->linear[l->slot];
        return FLRQ_OK;
    }
    const flrq_tensor *t = l->weight;
    for (uint64_t first = 0; first < t->bytes; first += j->staging.size) {
        uint64_t bytes = t->bytes - first < j->staging.size ? t->bytes - first : j->staging.size;
        FLRQ_TRY(flrq_checkpoint_read(j->model->checkpoint, t, j->staging.bytes, first, bytes));
        FLRQ_TRY(j->be->upload(j->be, (char *)j->d_weight + first, j->staging.bytes, bytes));
    }
    *out = (flrq_operand){
        .rows = l->rows, .cols = l->cols, .d_dense = j->d_weight, .ld_dense = l->cols, .dense_dtype = t->dtype};
    return FLRQ_OK;
}

/* Buffers of the block's layers: codes by slot (or shared), factors one after another at their rank bound. */
static void place_layers(job *j, int64_t block) {
    int64_t first = j->model->block_first[block], count = j->model->block_first[block + 1] - first;
    float *d_next = j->d_factors;
    for (int64_t i = 0; i < count; i++) {
        const flrq_linear *l = &j->model->linears[first + i];
        int64_t cap = flrq_fit_rank_cap(&j->plan.fit, l->rows, l->cols);
        j->layers[i] = (flrq_layer){.linear = l, .codes = j->codes[j->plan.calibrated ? i : 0]};
        j->layers[i].d_l = d_next;
        j->layers[i].d_r = d_next + cap * l->rows;
        d_next += cap * (l->rows + l->cols);
    }
}

static flrq_status fit_layer(job *j, int64_t index, json_t *matrices) {
    flrq_layer *layer = &j->layers[index];
    const flrq_linear *l = layer->linear;
    flrq_operand w;
    flrq_fit_result result;
    FLRQ_TRY(weight_of(j, l, &w));
    if (!j->plan.calibrated) FLRQ_TRY(check_finite(j, l, &w)); /* else done before the forward */
    flrq_input_stats stats = {0}, *used = NULL;
    if (j->plan.calibrated) {
        const input_sums *in = &j->inputs[l->input];
        stats = (flrq_input_stats){.n = in->cols,
                                   .tokens = (double)(j->plan.segments * j->plan.length),
                                   .abs_sum = in->abs,
                                   .square_sum = in->square,
                                   .d_sketch = in->d_sketch,
                                   .sketch_cols = j->config->error_sketch};
        used = &stats;
    }
    flrq_status status = flrq_fit(j->space, j->be, j->comm, &j->plan.fit, l->module, &w, used, &layer->codes,
                                  layer->d_l, layer->d_r, &result);
    if (status != FLRQ_OK) return flrq_trace(status, "tensor %s.weight", l->module);
    layer->rank = result.rank;
    json_array_append_new(matrices, flrq_report_matrix(l, &j->plan.fit.scheme, &result));
    return FLRQ_OK;
}

/* Fits and writes every layer of a block, then commits its shard. */
static flrq_status quantize_block(job *j, int64_t block, double begin, json_t **record) {
    int64_t count = j->model->block_first[block + 1] - j->model->block_first[block];
    flrq_status status = FLRQ_OK;
    flrq_block_writer *writer = NULL;
    uint64_t hash, factors_hash;
    json_t *matrices = json_array(), *entry = NULL;
    place_layers(j, block);
    FLRQ_GOTO(flrq_block_writer_new(&writer, j->state.dir, j->model, &j->plan, block));
    for (int64_t i = 0; i < count; i++) {
        if (flrq_stop_requested()) FLRQ_GOTO(FLRQ_STOPPED);
        flrq_progress(j->reporter, "quantize", i, count);
        double t = flrq_seconds();
        FLRQ_GOTO(fit_layer(j, i, matrices));
        j->phases.quantize += flrq_seconds() - t;
        t = flrq_seconds();
        FLRQ_GOTO(flrq_block_writer_layer(writer, i, &j->layers[i], j->be, &j->staging));
        j->phases.write += flrq_seconds() - t;
    }
    flrq_progress(j->reporter, "write", 0, 1);
    double t = flrq_seconds();
    status = flrq_block_writer_finish(writer, &j->staging, &hash);
    writer = NULL;
    if (status != FLRQ_OK) goto out;
    FLRQ_GOTO(flrq_output_factors(j->state.dir, block, j->layers, count, &j->plan, j->be, &j->staging, &factors_hash));
    entry = json_pack("{s:f, s:O}", "seconds", flrq_seconds() - begin, "matrices", matrices);
    FLRQ_GOTO(flrq_state_commit(&j->state, block, hash, factors_hash, entry));
    j->phases.write += flrq_seconds() - t;
    *record = j->state.blocks[block];
out:
    flrq_block_writer_abort(writer);
    json_decref(matrices);
    return status;
}

/* Points the block's linear operands at the quantized layers. */
static void use_quantized(job *j, int64_t block) {
    int64_t first = j->model->block_first[block], count = j->model->block_first[block + 1] - first;
    for (int64_t i = 0; i < count; i++) {
        const flrq_layer *layer = &j->layers[i];
        j->block->linear[layer->linear->slot] = (flrq_operand){.rows = layer->linear->rows,
                                                               .cols = layer->linear->cols,
                                                               .codes_sign = 1,
                                                               .codes = &layer->codes,
                                                               .d_l = layer->d_l,
                                                               .d_r = layer->d_r,
                                                               .rank = layer->rank,
                                                               .lr_sign = 1};
    }
}

/* d_x becomes the input of the next block. */
static flrq_status advance(job *j, const char *phase) {
    int64_t segment = j->plan.length * j->model->hidden;
    double t = flrq_seconds();
    for (int64_t s = 0; s < j->plan.segments; s++) {
        flrq_progress(j->reporter, phase, s, j->plan.segments);
        FLRQ_TRY(flrq_forward_block(j->model, j->be, j->block, j->d_x + s * segment, j->plan.length, FLRQ_TOKEN_TILE,
                                    j->d_workspace, NULL, NULL));
    }
    j->phases.forward += flrq_seconds() - t;
    return FLRQ_OK;
}

/* ---- start, resume, finish
 * ------------------------------------------------------------------------------------------------- */

static flrq_status embed(job *j) {
    const flrq_plan *plan = &j->plan;
    flrq_globals *globals;
    FLRQ_TRY(flrq_globals_load(&globals, j->model, j->be, FLRQ_GLOBALS_EMBED));
    flrq_status status = FLRQ_OK;
    for (int64_t s = 0; s < plan->segments && status == FLRQ_OK; s++)
        status = flrq_forward_embed(j->model, j->be, globals, j->d_x + s * plan->length * j->model->hidden,
                                    j->tokens + s * plan->length, plan->length);
    flrq_globals_free(globals, j->be);
    return status;
}

/* Forwards an already committed block from its shard. */
static flrq_status replay_block(job *j, int64_t block) {
    char name[64], *shard_path = NULL, *factors_path = NULL;
    flrq_model view = *j->model; /* the same model, seen through the two files of this block */
    view.checkpoint = view.adapter = NULL;
    view.quantized = 1;
    view.scheme = j->plan.fit.scheme;
    flrq_status status = FLRQ_OK;
    flrq_shard_name(name, block, j->model->layers);
    shard_path = flrq_path_join(j->state.dir, name);
    flrq_factors_name(name, block);
    factors_path = flrq_state_private(&j->state, name);
    if (!shard_path || !factors_path) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    FLRQ_GOTO(flrq_checkpoint_open(&view.checkpoint, shard_path));
    FLRQ_GOTO(flrq_checkpoint_open(&view.adapter, factors_path));
    FLRQ_GOTO(flrq_block_load(j->block, j->model, block));
    place_layers(j, block);
    int64_t first = j->model->block_first[block], count = j->model->block_first[block + 1] - first;
    for (int64_t i = 0; i < count; i++) {
        flrq_linear l = j->model->linears[first + i];
        FLRQ_GOTO(flrq_verify_attach(&view, &l));
        FLRQ_GOTO(flrq_linear_load_packed(&view, j->be, &l, &j->layers[i].codes, j->layers[i].d_l, j->layers[i].d_r,
                                          &j->layers[i].rank));
    }
    use_quantized(j, block);
    FLRQ_GOTO(advance(j, "replay"));
out:
    flrq_checkpoint_close(view.adapter);
    flrq_checkpoint_close(view.checkpoint);
    free(factors_path);
    free(shard_path);
    return status;
}

/* Brings d_x to the input of the first block that is not committed: from saved activations or the embedding, then
 * through the committed blocks' shards. The same arithmetic as in an uninterrupted run, so the same bytes follow. */
static flrq_status restore_activations(job *j) {
    int64_t rows = j->plan.segments * j->plan.length, from = 0;
    flrq_status loaded = FLRQ_ERR_IO;
    if (j->state.activations >= 0)
        loaded = flrq_state_load_activations(&j->state, j->be, j->d_x, rows, j->model->hidden);
    if (loaded == FLRQ_OK)
        from = j->state.activations;
    else {
        if (j->state.activations >= 0)
            flrq_notice(j->reporter, "saved activations are not usable (%s); computing them again", flrq_last_error());
        FLRQ_TRY(embed(j));
    }
    for (int64_t b = from; b < j->state.committed; b++) {
        if (flrq_stop_requested())
            return flrq_fail(FLRQ_STOPPED, "stopped while resuming %s; nothing is lost", j->state.dir);
        j->reporter->block = b + 1;
        FLRQ_TRY(replay_block(j, b));
    }
    return FLRQ_OK;
}

/* Saves the activations when losing them would cost more than ten times what saving costs (a first save is assumed to
 * cost 6 s). */
static flrq_status maybe_save(job *j, int64_t block, int now) {
    double t = flrq_seconds();
    if (!j->plan.calibrated || j->state.activations == block) return FLRQ_OK;
    if (!now && t - j->last_save < 10 * fmax(j->save_seconds, 6)) return FLRQ_OK;
    FLRQ_TRY(flrq_state_save_activations(&j->state, block, j->be, j->d_x, j->plan.segments * j->plan.length,
                                         j->model->hidden));
    j->last_save = flrq_seconds();
    j->save_seconds = j->last_save - t;
    return FLRQ_OK;
}

static void prefetch_block(const flrq_model *model, int64_t block) {
    if (block >= model->layers) return;
    for (int64_t i = model->block_first[block]; i < model->block_first[block + 1]; i++)
        flrq_checkpoint_prefetch(model->checkpoint, model->linears[i].weight);
}

static void drop_block(const flrq_model *model, int64_t block) {
    for (int64_t i = model->block_first[block]; i < model->block_first[block + 1]; i++)
        flrq_checkpoint_drop(model->checkpoint, model->linears[i].weight);
}

static flrq_status run_block(job *j, int64_t block) {
    double begin = flrq_seconds();
    json_t *record;
    j->reporter->block = block + 1;
    prefetch_block(j->model, block + 1);
    FLRQ_TRY(check_copied_finite(j, block));
    if (j->plan.calibrated) {
        flrq_progress(j->reporter, "read", 0, 1);
        FLRQ_TRY(flrq_block_load(j->block, j->model, block));
        for (int64_t i = j->model->block_first[block]; i < j->model->block_first[block + 1]; i++)
            FLRQ_TRY(check_finite(j, &j->model->linears[i], &j->block->linear[j->model->linears[i].slot]));
        double t = flrq_seconds();
        FLRQ_TRY(calibrate(j, block));
        j->phases.calibrate += flrq_seconds() - t;
    }
    FLRQ_TRY(quantize_block(j, block, begin, &record));
    drop_block(j->model, block);
    if (j->plan.calibrated && block + 1 < j->model->layers) {
        use_quantized(j, block);
        FLRQ_TRY(advance(j, "forward"));
        FLRQ_TRY(maybe_save(j, block + 1, 0));
    }
    char summary[256];
    double seconds = flrq_seconds() - begin;
    flrq_report_block_line(summary, sizeof summary, record, seconds);
    flrq_block_done(j->reporter, block + 1, seconds, summary);
    return FLRQ_OK;
}

static flrq_status run_blocks(job *j) {
    if (!j->state.globals) {
        flrq_block_writer *writer;
        uint64_t hash;
        FLRQ_TRY(check_copied_finite(j, -1));
        FLRQ_TRY(flrq_block_writer_new(&writer, j->state.dir, j->model, &j->plan, -1));
        FLRQ_TRY(flrq_block_writer_finish(writer, &j->staging, &hash));
        FLRQ_TRY(flrq_state_commit(&j->state, -1, hash, 0, json_object()));
    }
    if (j->state.committed == j->model->layers) return FLRQ_OK;
    if (j->plan.calibrated) {
        size_t bytes = (size_t)(j->plan.segments * j->plan.length * j->model->hidden) * sizeof(float);
        FLRQ_TRY(j->be->alloc(j->be, (void **)&j->d_x, bytes, "calibration activations"));
        FLRQ_TRY(restore_activations(j));
    }
    j->last_save = flrq_seconds();
    for (int64_t block = j->state.committed; block < j->model->layers; block++) {
        flrq_status status = flrq_stop_requested() ? FLRQ_STOPPED : run_block(j, block);
        if (status == FLRQ_STOPPED) {
            /* d_x is still the input of this block: calibration works on copies */
            FLRQ_TRY(maybe_save(j, block, 1));
            return flrq_fail(FLRQ_STOPPED, "stopped with %lld of %lld blocks committed in %s",
                             (long long)j->state.committed, (long long)j->model->layers, j->state.dir);
        }
        FLRQ_TRY(status);
    }
    return FLRQ_OK;
}

/* Writes what stands beside the shards, checks the whole by reading it back, and only then puts config.json in place.
 */
static flrq_status finish(job *j, json_t *report) {
    flrq_status status = FLRQ_OK;
    json_t *copied = NULL;
    char *check = flrq_state_private(&j->state, "check"), *config = NULL, *final = NULL, *path = NULL;
    int64_t *ranks = malloc((size_t)j->model->n_linears * sizeof *ranks);
    if (!check || !ranks) FLRQ_GOTO(flrq_fail_memory(0, "the final files"));
    flrq_report_ranks(ranks, j->model, (json_t *const *)j->state.blocks);
    FLRQ_GOTO(flrq_output_adapter(j->state.dir, j->model, &j->plan, ranks));
    FLRQ_GOTO(flrq_output_copy_files(j->state.dir, j->model, &copied));
    FLRQ_GOTO(flrq_output_index(j->state.dir, j->model, &j->plan));
    FLRQ_GOTO(flrq_dir_make(check));
    config = flrq_path_join(check, "config.json");
    final = flrq_path_join(j->state.dir, "config.json");
    path = flrq_path_join(j->state.dir, "report.json");
    if (!config || !final || !path) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    FLRQ_GOTO(flrq_output_config(config, j->model, &j->plan));
    double t = flrq_seconds();
    FLRQ_GOTO(flrq_verify(check, j->model, &j->plan, j->be, (json_t *const *)j->state.blocks, j->reporter));
    j->phases.verify = flrq_seconds() - t;
    flrq_report_finish(report, &j->phases, copied);
    FLRQ_GOTO(flrq_json_write(path, report));
    if (rename(config, final) != 0) FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be put in place", final));
    FLRQ_GOTO(flrq_dir_sync(j->state.dir));
    FLRQ_GOTO(flrq_state_finish(&j->state));
out:
    json_decref(copied);
    free(path);
    free(final);
    free(config);
    free(ranks);
    free(check);
    return status;
}

static flrq_status check_disk(job *j) {
    uint64_t free_bytes, wanted = j->plan.output_bytes + j->plan.scratch_bytes;
    FLRQ_TRY(flrq_dir_free_bytes(j->state.dir, &free_bytes));
    if (free_bytes < wanted && j->state.committed == 0)
        return flrq_fail(FLRQ_ERR_IO, "%s: %.1f GB are free on its file system, up to %.1f GB are needed", j->state.dir,
                         (double)free_bytes / 1e9, (double)wanted / 1e9);
    return FLRQ_OK;
}

/* The gate: the worst matrix against --max-error. */
static flrq_status quality_gate(const job *j, const json_t *report) {
    const json_t *worst = json_array_get(json_object_get(report, "worst"), 0);
    double error = json_number_value(json_object_get(worst, "error"));
    if (j->config->max_error <= 0 || error <= j->config->max_error) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_QUALITY, "tensor %s.weight: relative error %.4g is above --max-error %g; %s is complete",
                     json_string_value(json_object_get(worst, "name")), error, j->config->max_error, j->state.dir);
}

flrq_status flrq_job_quantize(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    job j = {.params = params, .config = c, .reporter = reporter, .comm = flrq_comm_self()};
    flrq_status status = FLRQ_OK;
    json_t *fingerprint = NULL, *report = NULL;
    flrq_device_info device;
    int64_t segments, length;
    double begin = flrq_seconds();
    int weights_only = c->calib && strcmp(c->calib, "none") == 0;

    FLRQ_GOTO(flrq_model_open(&j.model, c->model, weights_only ? FLRQ_MODEL_ALLOW_UNKNOWN : 0));
    FLRQ_GOTO(flrq_plan_calibration(params, j.model, reporter, &segments, &length));
    FLRQ_GOTO(flrq_backend_open(&j.be, c->device, (int)c->threads));
    FLRQ_GOTO(j.be->info(j.be, &device));
    FLRQ_GOTO(flrq_plan_make(&j.plan, c, j.model, segments, length, device.threads));
    if (weights_only)
        flrq_notice(reporter, "%s: weights only, without calibration: errors are unweighted",
                    j.model->family ? j.model->family_name : "unknown family");
    for (int64_t i = 0; i < j.model->n_others; i++)
        if (j.model->others[i].fate != FLRQ_FATE_COPY)
            flrq_notice(reporter, "tensor %s is not written: %s", j.model->others[i].tensor->name,
                        j.model->others[i].reason);
    FLRQ_GOTO(load_tokens(&j));
    reporter->blocks = j.model->layers;
    fingerprint = flrq_fingerprint(params, j.model, j.tokens, segments * length, j.be->name, &device);
    FLRQ_GOTO(flrq_state_open(&j.state, c, j.model, fingerprint, reporter));
    int64_t resumed = j.state.committed;
    if (j.state.complete) {
        flrq_notice(reporter, "%s is already complete", c->out);
        FLRQ_GOTO(flrq_report_read(c->out, result));
        status = quality_gate(&j, *result);
        goto out;
    }
    if (resumed)
        flrq_notice(reporter, "continuing %s: %lld of %lld blocks are done", c->out, (long long)resumed,
                    (long long)j.model->layers);
    FLRQ_GOTO(check_disk(&j));
    FLRQ_GOTO(allocate(&j));
    j.phases.open = flrq_seconds() - begin;
    FLRQ_GOTO(run_blocks(&j));
    report = flrq_report_new(params, j.model, &j.plan, &device, fingerprint, (json_t *const *)j.state.blocks, resumed,
                             reporter);
    if (!report) FLRQ_GOTO(flrq_fail_memory(0, "the report"));
    release_blocks(&j);
    FLRQ_GOTO(finish(&j, report));
    *result = flrq_report_result(report);
    status = quality_gate(&j, report);
out:
    json_decref(report);
    json_decref(fingerprint);
    flrq_state_close(&j.state);
    release(&j);
    return status;
}
