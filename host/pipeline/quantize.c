/* quantize.c - the main job: stream the blocks, calibrate, fit, write, and hand over a checked folder.
 *
 * For each block: forward the calibration segments with the source weights and gather the statistics of every linear
 * input; fit each layer and hand it to the writer; forward again with the quantized weights to get the next block's
 * input. With --overlap a reader's thread brings block i+1 while i is computed, and the writer's thread completes and
 * commits block i (shard and factors flushed and hashed, then the journal's record) while the main thread forwards it
 * and calibrates i+1. One block at most is in flight: i+1 is handed over when i is committed, and fitted when all of i
 * is written (with one worker, which has nobody to wait for: when it is committed).
 *
 * Several workers run this job side by side (workers.c), each with its own device, and make the same decisions: a
 * matrix is read, fitted and written by rows, each worker its share (quant/split.h, output.h); for the forward the rows
 * are gathered, and each worker forwards its own token groups (calibration.h). Rank 0 owns the folder: journal, lock,
 * commits, report. What only one worker can know (a signal, the clock, an error) is agreed upon before it decides
 * anything.
 *
 * What must not change: nothing on disk refers to a block that is not committed (activations are saved as the input of
 * block i+1 only after the commit of block i), so that a kill at any instant loses only the blocks not yet committed:
 * the present one, and with overlap the one in flight. What is written does not depend on overlap.
 *
 * Nothing in the loop over the blocks allocates device memory; on the host only the records, the writer of a block, the
 * buffer of saved activations, lists of parts that workers exchange, and a row that is not finite. The ops of the main
 * thread run ahead of it but for these points, where it waits for the device: after reading, the count of non-finite
 * weights; at the end of the calibration, the sums; in a fit, every error that decides the next step, and the largest
 * elements of the factors; without overlap, each piece on its way to a file; saving the activations; and, when these
 * live in host memory, every segment of a forward.
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
#include "io/npy.h"
#include "pipeline/calibration.h"
#include "pipeline/deadline.h"
#include "pipeline/finite.h"
#include "pipeline/job.h"
#include "pipeline/output.h"
#include "pipeline/ranks.h"
#include "pipeline/report.h"
#include "pipeline/source.h"
#include "pipeline/state.h"
#include "pipeline/verify.h"
#include "text/corpus.h"

enum { COPY_BYTES = 1 << 20, ERROR_BYTES = 2048, PATIENCE = 86400 };

/* A block, or what is outside the blocks (-1), whose files are being completed. */
typedef struct in_flight {
    int active, settled; /* settled: all workers have written their parts, and rank 0 commits */
    int64_t block;
    flrq_block_writer *writer; /* until the writer's thread finishes it */
    uint64_t bytes; /* of the shard, written by this worker unless it is rank 0; after settling by all these */
    json_t *record; /* until it is committed */
    double seconds; /* that the main thread spent on the block */
} in_flight;

typedef struct job {
    const flrq_params *params;
    const flrq_config *config;
    flrq_reporter *reporter;
    flrq_backend *be;
    flrq_comm *comm;
    flrq_model *model;
    flrq_plan_target target;
    flrq_plan plan;
    flrq_state state;
    int32_t *tokens; /* [segments, length] */
    int64_t *ranks;  /* of the linear layers, from --ranks-from; NULL: the plan's rule */
    void *bytes;     /* COPY_BYTES of host memory, for checks of what is only copied */
    /* allocated before the first block */
    flrq_calibrator *calibration; /* NULL: weights only */
    flrq_layer *layers;           /* of the present block; codes of slot i, or of one shared slot */
    float *d_factors;
    flrq_codes *codes; /* [plan.slots] */
    flrq_fit_space *space;
    flrq_staging staging;
    flrq_source source;
    in_flight flight;
    int halved;       /* the token batch, for want of memory */
    int handed_over;  /* a block was given to the writer to commit: it cannot be begun again */
    double last_save; /* clock of the last saved activations, and how long saving took */
    double save_seconds;
    double slowest; /* block of this run, in seconds */
    flrq_phases phases;
} job;

static int is_root(const job *j) {
    return j->comm->rank == 0;
}

/* Whether any worker says so. */
static flrq_status agree(const job *j, int *flag) {
    float value = *flag != 0;
    FLRQ_TRY(flrq_comm_max(j->comm, &value, 1));
    *flag = value != 0;
    return FLRQ_OK;
}

/* FLRQ_STOPPED, without a text, on all workers when one was asked to stop. */
static flrq_status check_stop(const job *j) {
    int stop = flrq_stop_requested();
    FLRQ_TRY(agree(j, &stop));
    return stop ? FLRQ_STOPPED : FLRQ_OK;
}

/* Whether the others wait for rank 0 as long as it takes, while it alone reads or writes whole folders: hashing what is
 * committed, merging the adapter. That it died they still notice. */
static void be_patient(const job *j, int patient) {
    j->comm->timeout = patient ? PATIENCE : j->config->peer_timeout;
}

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

static flrq_status allocate(job *j) {
    flrq_backend *be = j->be;
    const flrq_plan *plan = &j->plan;
    if (plan->calibrated) FLRQ_TRY(flrq_calibrator_work(j->calibration));
    FLRQ_TRY(flrq_source_open(&j->source, be, j->comm, j->model, plan));
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
    return flrq_fit_space_new(&j->space, be, &plan->fit, plan->extent);
}

/* The inverse of allocate(), also of one that failed. */
static void release_work(job *j) {
    flrq_backend *be = j->be;
    flrq_source_close(&j->source);
    flrq_fit_space_free(j->space, be);
    be->release(be, j->d_factors);
    for (int64_t i = 0; j->codes && i < j->plan.slots; i++) flrq_codes_release(&j->codes[i], be);
    if (j->calibration) flrq_calibrator_release_work(j->calibration);
    free(j->layers);
    free(j->codes);
    j->space = NULL, j->d_factors = NULL, j->layers = NULL, j->codes = NULL;
}

/* Frees what only the blocks need, so that the load-back check does not add to the peak. */
static void release_blocks(job *j) {
    flrq_staging_free(&j->staging);
    release_work(j);
    flrq_calibrator_free(j->calibration);
    j->calibration = NULL;
    free(j->bytes);
    j->bytes = NULL;
}

static void release(job *j) {
    flrq_block_writer_abort(j->flight.writer); /* of a commit that failed or was never reached */
    json_decref(j->flight.record);
    free(j->ranks);
    free(j->tokens);
    flrq_model_close(j->model);
}

/* Adds the remedy to an error that names what was wanted and what was free. */
static flrq_status out_of_memory(const job *j, flrq_status status) {
    char text[1024];
    if (status != FLRQ_ERR_MEMORY || !j->plan.separate) return status;
    snprintf(text, sizeof text, "%s", flrq_last_error());
    return flrq_fail(status, "%s; use %sanother --device", text,
                     j->plan.calibrated ? "a shorter --calib-len, fewer --calib-samples, or " : "");
}

/* What allocating came to on all workers: short memory of one is a shortage of all. */
static flrq_status agree_memory(const job *j, flrq_status status) {
    int is_short = status == FLRQ_ERR_MEMORY;
    if (status != FLRQ_OK && !is_short) return status;
    FLRQ_TRY(agree(j, &is_short));
    if (is_short && status == FLRQ_OK)
        return flrq_fail(FLRQ_ERR_MEMORY, "the device of another worker is out of memory");
    return status;
}

/* Where a device's memory does not suffice after all, everything is allocated once more with half the token batch. */
static flrq_status halve_batch(job *j, flrq_status status) {
    int64_t half = j->plan.batch / 2 / FLRQ_TOKEN_TILE * FLRQ_TOKEN_TILE;
    if (status != FLRQ_ERR_MEMORY || !j->plan.separate || !j->plan.calibrated || j->halved || j->target.batch || !half)
        return status;
    flrq_notice(j->reporter, "%s: token batch halved to %lld", flrq_last_error(), (long long)half);
    j->halved = 1;
    release_work(j);
    j->plan.batch = half;
    j->plan.workspace_bytes = flrq_workspace_bytes(j->model, j->plan.length, half);
    return allocate(j);
}

/* ---- one block
 * ------------------------------------------------------------------------------------------------------------ */

static flrq_status check_finite(const job *j, const flrq_linear *l, const flrq_operand *w) {
    return flrq_check_finite(j->be, j->comm, j->model, l, w, j->plan.calibrated, j->config->nonfinite == NONFINITE_ZERO,
                             j->reporter);
}

/* The dense weight of a layer as an operand: a slot of the block, or read alone in a weights-only run. */
static flrq_status weight_of(job *j, const flrq_block *block, const flrq_linear *l, flrq_operand *out) {
    int buffer;
    if (j->plan.calibrated) {
        *out = block->linear[l->slot];
        return FLRQ_OK;
    }
    FLRQ_TRY(flrq_source_receive(&j->source, l - j->model->linears, &buffer));
    *out = (flrq_operand){.rows = l->rows,
                          .cols = l->cols,
                          .d_dense = j->source.d_weights[buffer],
                          .ld_dense = l->cols,
                          .dense_dtype = l->weight->dtype};
    return check_finite(j, l, out); /* else done before the forward */
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

static flrq_status fit_layer(job *j, const flrq_block *block, flrq_layer *layer, json_t *matrices) {
    const flrq_linear *l = layer->linear;
    flrq_operand w;
    flrq_fit_result result;
    flrq_input_stats stats, *used = NULL;
    FLRQ_TRY(weight_of(j, block, l, &w));
    flrq_mark_phase(j->be, l->module);
    flrq_fit_options options = j->plan.fit;
    if (j->ranks) options.rank.fixed = j->ranks[l - j->model->linears];
    if (j->plan.calibrated) {
        stats = flrq_calibrator_stats(j->calibration, l->input);
        used = &stats;
    }
    FLRQ_TRY(flrq_trace_layer(flrq_fit(j->space, j->be, j->comm, &options, l->module, &w, used, &layer->codes,
                                       layer->d_l, layer->d_r, &result),
                              l));
    layer->rank = result.rank;
    json_array_append_new(matrices, flrq_report_matrix(l, &j->plan.fit.scheme, &result));
    return FLRQ_OK;
}

/* The writer's call when all of this worker's pieces of a block are written. */
static flrq_status finish_part(void *context, const void *arguments) {
    in_flight *f = &((job *)context)->flight;
    (void)arguments;
    return flrq_block_writer_part(f->writer, &f->bytes);
}

/* The writer's last call for a block on rank 0: completes its files, then records them. */
static flrq_status commit(void *context, const void *arguments) {
    job *j = context;
    in_flight *f = &j->flight;
    flrq_block_writer *writer = f->writer;
    json_t *record = f->record;
    uint64_t hash, factors_hash;
    (void)arguments;
    f->writer = NULL;
    FLRQ_TRY(flrq_block_writer_finish(writer, f->bytes, &hash, &factors_hash));
    f->record = NULL;
    return flrq_state_commit(&j->state, f->block, hash, factors_hash, record);
}

/* Waits until every worker has written its part of the block in flight, and has rank 0 commit it. One worker commits
 * without waiting. */
static flrq_status settle(job *j) {
    in_flight *f = &j->flight;
    double t = flrq_seconds();
    if (!f->active || f->settled) return FLRQ_OK;
    if (j->comm->size > 1) {
        FLRQ_TRY(flrq_stage_wait(j->staging.writer, 0));
        int64_t bytes = (int64_t)f->bytes;
        FLRQ_TRY(flrq_comm_sum(j->comm, &bytes, 1));
        f->bytes = (uint64_t)bytes;
    }
    f->settled = 1;
    if (is_root(j)) FLRQ_TRY(flrq_stage_call(j->staging.writer, commit, j, NULL, 0, NULL));
    j->phases.write += flrq_seconds() - t;
    return FLRQ_OK;
}

/* Waits until the block in flight is committed, and says so. The others take rank 0's word: if it fails, so will they,
 * before anything depends on it. */
static flrq_status land(job *j) {
    in_flight *f = &j->flight;
    FLRQ_TRY(settle(j));
    double t = flrq_seconds();
    if (!f->active) return FLRQ_OK;
    FLRQ_TRY(flrq_stage_wait(j->staging.writer, 0));
    j->phases.write += flrq_seconds() - t;
    f->active = 0;
    if (!is_root(j)) {
        flrq_block_writer_abort(f->writer);
        json_decref(f->record);
        f->writer = NULL, f->record = NULL;
        flrq_state_follow(&j->state, f->block);
    }
    if (f->block < 0 || !is_root(j)) return FLRQ_OK;
    int64_t present = j->reporter->block;
    char summary[256];
    flrq_report_block_line(summary, sizeof summary, j->state.blocks[f->block], f->seconds);
    flrq_block_done(j->reporter, f->block + 1, f->seconds, summary);
    j->reporter->block = present;
    return FLRQ_OK;
}

/* Has the writer complete and commit what it was given. Takes writer and record, on failure too. */
static flrq_status take_off(job *j, int64_t block, flrq_block_writer *writer, json_t *record) {
    double t = flrq_seconds();
    j->flight = (in_flight){.active = 1, .block = block, .writer = writer, .record = record};
    flrq_mark_phase(j->be, "write");
    FLRQ_TRY(flrq_stage_call(j->staging.writer, finish_part, j, NULL, 0, NULL));
    j->phases.write += flrq_seconds() - t;
    return j->comm->size == 1 ? settle(j) : FLRQ_OK;
}

/* Brings what is per row of a fitted layer to all workers, beside the fit of the next: L, which rank 0 writes, and for
 * the forward the codes. */
static flrq_status gather_layer(job *j, const flrq_layer *layer, int forward) {
    const flrq_codes *codes = &layer->codes;
    flrq_split split = flrq_split_of(j->be, j->comm, codes->rows, NULL, NULL);
    size_t groups = (size_t)codes->n_groups;
    if (layer->rank) FLRQ_TRY(flrq_split_gather_begin(&split, layer->d_l, (size_t)layer->rank * sizeof(float)));
    if (!forward) return FLRQ_OK;
    FLRQ_TRY(flrq_split_gather_begin(&split, codes->code, (size_t)codes->cols));
    FLRQ_TRY(flrq_split_gather_begin(&split, codes->scale, groups * sizeof(float)));
    return codes->zero ? flrq_split_gather_begin(&split, codes->zero, groups) : FLRQ_OK;
}

/* Fits every layer of a block, hands it to the writer, and last its commit. */
static flrq_status quantize_block(job *j, int64_t index, const flrq_block *block, double begin) {
    int64_t count = j->model->block_first[index + 1] - j->model->block_first[index];
    flrq_status status = FLRQ_OK;
    flrq_block_writer *writer = NULL;
    json_t *matrices = json_array();
    place_layers(j, index);
    FLRQ_GOTO(flrq_block_writer_new(&writer, j->state.dir, j->model, &j->plan, &j->staging, j->comm, index));
    for (int64_t i = 0; i < count; i++) {
        FLRQ_GOTO(check_stop(j));
        flrq_progress(j->reporter, "quantize", i, count);
        double t = flrq_seconds();
        FLRQ_GOTO(fit_layer(j, block, &j->layers[i], matrices));
        j->phases.quantize += flrq_seconds() - t;
        t = flrq_seconds();
        FLRQ_GOTO(flrq_block_writer_layer(writer, i, &j->layers[i]));
        j->phases.write += flrq_seconds() - t;
        FLRQ_GOTO(gather_layer(j, &j->layers[i], j->plan.calibrated && index + 1 < j->model->layers));
    }
    FLRQ_GOTO(j->comm->gather_end(j->comm, j->be));
    flrq_progress(j->reporter, "write", 0, 1);
    FLRQ_GOTO(land(j)); /* committing beside the fits */
    if (is_root(j)) FLRQ_GOTO(flrq_block_writer_factors(writer, j->layers));
    /* Steals `matrices`: what the writer's thread has is no longer touched here. */
    json_t *record = json_pack("{s:f, s:o}", "seconds", flrq_seconds() - begin, "matrices", matrices);
    matrices = NULL;
    status = take_off(j, index, writer, record);
    writer = NULL;
out:
    if (writer) (void)flrq_stage_drain(j->staging.writer);
    flrq_block_writer_abort(writer);
    json_decref(matrices);
    return status;
}

/* Points the block's linear operands at the quantized layers. Where the forward multiplies in bf16 anyway, they are
 * rounded to it once, into the place of the source weights, which have served, and not again for every segment. */
static flrq_status use_quantized(const job *j, flrq_block *block) {
    int64_t first = j->model->block_first[block->index], count = j->model->block_first[block->index + 1] - first;
    for (int64_t i = 0; i < count; i++) {
        const flrq_layer *layer = &j->layers[i];
        flrq_operand *source = &block->linear[layer->linear->slot];
        flrq_operand quantized = {.rows = layer->linear->rows,
                                  .cols = layer->linear->cols,
                                  .codes_sign = 1,
                                  .codes = &layer->codes,
                                  .d_l = layer->d_l,
                                  .d_r = layer->d_r,
                                  .rank = layer->rank,
                                  .lr_sign = 1};
        if (j->plan.precision == FLRQ_PRECISION_FAST && j->be->materialize_bf16 && source->d_dense &&
            source->dense_dtype == FLRQ_BF16 && source->ld_dense == source->cols)
            FLRQ_TRY(j->be->materialize_bf16(j->be, (uint16_t *)source->d_dense, &quantized));
        else
            *source = quantized;
    }
    return FLRQ_OK;
}

/* The activations become the input of the next block. */
static flrq_status advance(job *j, const flrq_block *block, const char *phase) {
    double t = flrq_seconds();
    FLRQ_TRY(flrq_calibrator_advance(j->calibration, block, phase));
    j->phases.forward += flrq_seconds() - t;
    return FLRQ_OK;
}

/* ---- start, resume, finish
 * ------------------------------------------------------------------------------------------------- */

/* Forwards an already committed block from its shard. */
static flrq_status replay_block(job *j, int64_t index) {
    char name[64], *shard_path = NULL, *factors_path = NULL;
    flrq_block *block = j->source.blocks[0];
    flrq_model view = *j->model; /* the same model, seen through the two files of this block */
    view.checkpoint = view.adapter = NULL;
    view.quantized = 1;
    view.scheme = j->plan.fit.scheme;
    flrq_status status = FLRQ_OK;
    flrq_shard_name(name, index, j->model->layers);
    shard_path = flrq_path_join(j->state.dir, name);
    flrq_factors_name(name, index);
    factors_path = flrq_state_private(&j->state, name);
    if (!shard_path || !factors_path) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    FLRQ_GOTO(flrq_checkpoint_open(&view.checkpoint, shard_path));
    FLRQ_GOTO(flrq_checkpoint_open(&view.adapter, factors_path));
    FLRQ_GOTO(flrq_block_load(block, j->model, index));
    place_layers(j, index);
    int64_t first = j->model->block_first[index], count = j->model->block_first[index + 1] - first;
    for (int64_t i = 0; i < count; i++) {
        flrq_linear l = j->model->linears[first + i];
        FLRQ_GOTO(flrq_verify_attach(&view, &l));
        FLRQ_GOTO(flrq_linear_load_packed(&view, j->be, &l, &j->layers[i].codes, j->layers[i].d_l, j->layers[i].d_r,
                                          &j->layers[i].rank));
    }
    FLRQ_GOTO(use_quantized(j, block));
    FLRQ_GOTO(advance(j, block, "replay"));
out:
    flrq_checkpoint_close(view.adapter);
    flrq_checkpoint_close(view.checkpoint);
    free(factors_path);
    free(shard_path);
    return status;
}

/* The activations as the input of block *from: saved ones, or the embedding's (block 0). */
static flrq_status first_activations(job *j, int64_t *from) {
    *from = 0;
    if (j->state.activations >= 0) {
        int unusable = flrq_state_load_activations(&j->state, flrq_calibrator_input(j->calibration)) != FLRQ_OK;
        if (unusable)
            flrq_notice(j->reporter, "saved activations are not usable (%s); computing them again", flrq_last_error());
        FLRQ_TRY(agree(j, &unusable));
        if (!unusable) {
            *from = j->state.activations;
            return FLRQ_OK;
        }
        j->state.activations = -1; /* so that those of the same block are saved again */
    }
    return flrq_calibrator_embed(j->calibration, j->tokens);
}

/* Brings the activations from the input of block `from` to that of the first block that is not committed, through the
 * committed blocks' shards. The same arithmetic as in an uninterrupted run, so the same bytes follow. */
static flrq_status replay(job *j, int64_t from) {
    for (int64_t b = from; b < j->state.committed; b++) {
        flrq_status status = check_stop(j);
        if (status == FLRQ_STOPPED)
            return flrq_fail(FLRQ_STOPPED, "stopped while resuming %s; nothing is lost", j->state.dir);
        FLRQ_TRY(status);
        j->reporter->block = b + 1;
        FLRQ_TRY(replay_block(j, b));
    }
    return FLRQ_OK;
}

/* Saves the activations, the input of the first block that is not committed, when losing them would cost more than ten
 * times what saving costs (a first save is assumed to cost 6 s). */
static flrq_status maybe_save(job *j, int now) {
    double t = flrq_seconds();
    int due = now || t - j->last_save >= 10 * fmax(j->save_seconds, 6);
    if (!j->plan.calibrated) return FLRQ_OK;
    FLRQ_TRY(agree(j, &due));
    if (!due) return FLRQ_OK;
    FLRQ_TRY(land(j)); /* what is saved is the input of the block after the last committed one */
    if (j->state.activations == j->state.committed) return FLRQ_OK;
    FLRQ_TRY(
        flrq_state_save_activations(&j->state, j->comm, j->state.committed, flrq_calibrator_input(j->calibration)));
    j->last_save = flrq_seconds();
    j->save_seconds = j->last_save - t;
    return FLRQ_OK;
}

static flrq_status run_block(job *j, int64_t index) {
    double begin = flrq_seconds();
    flrq_block *block = NULL;
    int buffer;
    j->reporter->block = index + 1;
    flrq_comm_doing(j->comm, index + 1, "read");
    FLRQ_TRY(flrq_check_copied_finite(j->comm, j->model, index, j->bytes, COPY_BYTES));
    if (j->plan.calibrated) {
        flrq_progress(j->reporter, "read", 0, 1);
        FLRQ_TRY(flrq_source_receive(&j->source, index, &buffer));
        block = j->source.blocks[buffer];
        for (int64_t i = j->model->block_first[index]; i < j->model->block_first[index + 1]; i++)
            FLRQ_TRY(check_finite(j, &j->model->linears[i], &block->linear[j->model->linears[i].slot]));
        double t = flrq_seconds();
        flrq_comm_doing(j->comm, index + 1, "calibrate");
        FLRQ_TRY(flrq_calibrator_gather(j->calibration, block));
        j->phases.calibrate += flrq_seconds() - t;
    }
    FLRQ_TRY(j->comm->size > 1 ? settle(j) : land(j));
    FLRQ_TRY(maybe_save(j, 0));
    flrq_comm_doing(j->comm, index + 1, "quantize");
    FLRQ_TRY(quantize_block(j, index, block, begin));
    j->handed_over = 1;
    if (j->plan.calibrated) {
        flrq_source_drop(&j->source, index);
        if (index + 1 < j->model->layers) {
            flrq_comm_doing(j->comm, index + 1, "forward");
            FLRQ_TRY(flrq_source_gather_ahead(&j->source, index + 1));
            FLRQ_TRY(use_quantized(j, block));
            FLRQ_TRY(advance(j, block, "forward"));
        }
    }
    j->slowest = fmax(j->slowest, flrq_seconds() - begin);
    j->flight.seconds = flrq_seconds() - begin;
    return j->plan.overlap ? FLRQ_OK : land(j);
}

static flrq_status write_globals(job *j) {
    flrq_block_writer *writer;
    FLRQ_TRY(flrq_check_copied_finite(j->comm, j->model, -1, j->bytes, COPY_BYTES));
    FLRQ_TRY(flrq_block_writer_new(&writer, j->state.dir, j->model, &j->plan, &j->staging, j->comm, -1));
    return take_off(j, -1, writer, json_object());
}

static flrq_status record_batch(job *j) {
    if (!j->plan.calibrated || !is_root(j) || j->state.batch == j->plan.batch) return FLRQ_OK;
    FLRQ_TRY(flrq_stage_wait(j->staging.writer, 0)); /* one thread at a time appends to the journal */
    return flrq_state_record_batch(&j->state, j->plan.batch);
}

/* The activations and all memory that the blocks need. The embedding is gone before the rest is allocated. */
static flrq_status prepare(job *j) {
    int64_t from = 0;
    if (j->plan.calibrated) {
        FLRQ_TRY(flrq_calibrator_new(&j->calibration, j->be, j->comm, j->model, &j->plan, j->config, j->reporter));
        if (j->plan.activations_on_host)
            flrq_notice(j->reporter, "the calibration activations do not fit the device: they stay in host memory, and "
                                     "one segment at a time is moved");
        FLRQ_TRY(first_activations(j, &from));
    }
    flrq_status status = agree_memory(j, allocate(j));
    if (status != FLRQ_OK) FLRQ_TRY(halve_batch(j, status));
    FLRQ_TRY(record_batch(j));
    return j->plan.calibrated ? replay(j, from) : FLRQ_OK;
}

/* All blocks that are not committed. FLRQ_STOPPED without a text on a request to stop, and before a block that would
 * not be finished when the batch system ends the job. */
static flrq_status run_blocks(job *j) {
    for (int64_t block = j->state.committed; block < j->model->layers; block++) {
        if (is_root(j) && flrq_deadline_near(j->slowest)) {
            flrq_notice(j->reporter, "%.0f s are left of the job, too few for another block: stopping",
                        flrq_seconds_left());
            flrq_request_stop();
        }
        FLRQ_TRY(check_stop(j));
        FLRQ_TRY(run_block(j, block));
    }
    return land(j);
}

/* After a request to stop: what is in flight is committed first. The activations are still the input of the first block
 * that is not: calibration works on copies. */
static flrq_status stop(job *j) {
    FLRQ_TRY(j->comm->gather_end(j->comm, j->be)); /* begun by all alike; their arrays are about to be freed */
    FLRQ_TRY(land(j));
    FLRQ_TRY(maybe_save(j, 1));
    return flrq_fail(FLRQ_STOPPED, "stopped with %lld of %lld blocks committed in %s", (long long)j->state.committed,
                     (long long)j->model->layers, j->state.dir);
}

/* Buffers that the backend takes for itself when an op first asks for them may be too much as well: then the first
 * block is begun again with half the token batch, while nothing depends on the batch yet. (One of several workers is
 * in the middle of what it does with the others: they end, and the plan has to be given less.) */
static flrq_status run_or_halve(job *j) {
    flrq_status status = run_blocks(j);
    if (status == FLRQ_ERR_MEMORY && j->comm->size == 1 && !j->handed_over &&
        flrq_stage_drain(j->staging.writer) == FLRQ_OK && j->state.committed == 0) {
        status = halve_batch(j, status);
        if (status == FLRQ_OK) status = record_batch(j);
        if (status == FLRQ_OK) status = run_blocks(j);
    }
    return status == FLRQ_STOPPED ? stop(j) : status;
}

static flrq_status run_job(job *j) {
    double begin = flrq_seconds();
    FLRQ_TRY(flrq_staging_new(&j->staging, j->be, &j->plan));
    j->bytes = malloc(COPY_BYTES);
    if (!j->bytes) return flrq_fail_memory(COPY_BYTES, "copied tensors");
    if (!j->state.globals) FLRQ_TRY(write_globals(j));
    if (j->state.committed == j->model->layers) return land(j);
    flrq_status status = prepare(j);
    j->phases.open += flrq_seconds() - begin;
    j->last_save = flrq_seconds();
    if (status == FLRQ_OK) status = run_or_halve(j);
    if (status == FLRQ_OK) return FLRQ_OK;
    char text[ERROR_BYTES];
    snprintf(text, sizeof text, "%s", flrq_last_error());
    (void)flrq_stage_drain(j->staging.writer); /* what is in flight is still committed */
    return out_of_memory(j, flrq_fail(status, "%s", text));
}

/* Writes what stands beside the shards, into `check` the config.json with which the whole can be read back. */
static flrq_status write_rest(job *j, const char *check, const char *config, json_t **copied) {
    int64_t *ranks = malloc((size_t)j->model->n_linears * sizeof *ranks);
    if (!ranks) return flrq_fail_memory((size_t)j->model->n_linears * sizeof *ranks, "the final files");
    flrq_report_ranks(ranks, j->model, (json_t *const *)j->state.blocks);
    flrq_status status = flrq_output_adapter(j->state.dir, j->model, &j->plan, ranks);
    free(ranks);
    FLRQ_TRY(status);
    FLRQ_TRY(flrq_output_copy_files(j->state.dir, j->model, copied));
    FLRQ_TRY(flrq_output_index(j->state.dir, j->model, &j->plan));
    FLRQ_TRY(flrq_dir_make(check));
    return flrq_output_config(config, j->model, &j->plan);
}

/* Report, config.json, and the record that the run is complete. */
static flrq_status hand_over(job *j, const char *config, json_t *report, json_t *copied) {
    flrq_status status = FLRQ_OK;
    char *final = flrq_path_join(j->state.dir, "config.json"), *path = flrq_path_join(j->state.dir, "report.json");
    if (!final || !path) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    flrq_report_finish(report, &j->phases, copied);
    FLRQ_GOTO(flrq_json_write(path, report));
    if (rename(config, final) != 0) FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be put in place", final));
    FLRQ_GOTO(flrq_dir_sync(j->state.dir));
    FLRQ_GOTO(flrq_state_finish(&j->state));
out:
    free(path);
    free(final);
    return status;
}

/* Checks the whole by reading it back, and only then puts config.json in place. report: rank 0's. */
static flrq_status finish(job *j, json_t *report) {
    flrq_status status = FLRQ_OK;
    json_t *copied = NULL;
    char *check = flrq_state_private(&j->state, "check"), *config = NULL;
    if (!check) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    config = flrq_path_join(check, "config.json");
    if (!config) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    be_patient(j, 1);
    if (is_root(j)) FLRQ_GOTO(write_rest(j, check, config, &copied));
    FLRQ_GOTO(flrq_comm_barrier(j->comm));
    be_patient(j, 0);
    double t = flrq_seconds();
    FLRQ_GOTO(flrq_verify(check, j->model, &j->plan, j->be, j->comm, (json_t *const *)j->state.blocks, j->reporter));
    j->phases.verify = flrq_seconds() - t;
    FLRQ_GOTO(flrq_comm_barrier(j->comm)); /* nobody has the folder open that is removed now */
    be_patient(j, 1);                      /* until rank 0's verdict, the last word */
    if (is_root(j)) status = hand_over(j, config, report, copied);
out:
    json_decref(copied);
    free(config);
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

/* The plan for this device; a run that is continued keeps its token batch. All workers have the same batch, and make
 * the same calls: one that has no memory for overlap, or for a larger batch, decides for all. */
static flrq_status make_plan(job *j, const flrq_device_info *device, int64_t segments, int64_t length, int64_t batch) {
    flrq_config config = *j->config;
    j->target = flrq_plan_target_of(&config, device);
    j->target.batch = batch;
    j->target.workers = j->comm->size;
    FLRQ_TRY(flrq_plan_make(&j->plan, &config, j->model, segments, length, &j->target));
    float smallest[] = {-(float)j->plan.batch, -(float)j->plan.overlap};
    FLRQ_TRY(flrq_comm_max(j->comm, smallest, 2));
    int64_t common = (int64_t)-smallest[0];
    if (common == j->plan.batch && (int)-smallest[1] == j->plan.overlap) return FLRQ_OK;
    flrq_plan_target target = j->target; /* the run's own is the same on all workers: see halve_batch() */
    target.batch = common;
    if (smallest[1] == 0) config.overlap = OVERLAP_OFF;
    return flrq_plan_make(&j->plan, &config, j->model, segments, length, &target);
}

/* What may differ between workers and must not: all need the same bytes to come out of the same ops. */
static flrq_status compare_workers(const job *j, const json_t *fingerprint) {
    size_t length;
    char *mine = flrq_json_text(fingerprint, JSON_COMPACT | JSON_SORT_KEYS, &length), *root = NULL;
    if (!mine) return flrq_fail_memory(0, "the run's fingerprint");
    root = strdup(mine);
    flrq_status status = root ? flrq_comm_share_text(j->comm, &root, 0) : flrq_fail_memory(0, "the run's fingerprint");
    if (status == FLRQ_OK && strcmp(mine, root) != 0) {
        json_t *theirs = json_loads(root, 0, NULL);
        status = flrq_fingerprint_agree(theirs, fingerprint);
        json_decref(theirs);
    }
    if (status == FLRQ_OK)
        status = flrq_comm_barrier(j->comm); /* a refusal comes before rank 0 makes the folder a run */
    free(root);
    free(mine);
    return status;
}

/* Opens what stands before the run: model, plan, tokens, state. */
static flrq_status open_job(job *j, json_t **fingerprint, flrq_device_info *device) {
    const flrq_config *c = j->config;
    flrq_reporter *reporter = j->reporter;
    int64_t segments, length;
    int weights_only = c->calib && strcmp(c->calib, "none") == 0;
    if (j->comm->size > 1 && c->sketch == FLRQ_SKETCH_SVD)
        return flrq_fail(FLRQ_ERR_USAGE,
                         "--sketch svd has the whole matrix on one worker, not on %d; use --sketch block",
                         j->comm->size);
    FLRQ_TRY(flrq_model_open(&j->model, c->model, weights_only ? FLRQ_MODEL_ALLOW_UNKNOWN : 0));
    FLRQ_TRY(flrq_plan_calibration(j->params, j->model, reporter, &segments, &length));
    FLRQ_TRY(j->be->info(j->be, device));
    FLRQ_TRY(make_plan(j, device, segments, length, 0));
    if (weights_only)
        flrq_notice(reporter, "%s: weights only, without calibration: errors are unweighted",
                    j->model->family ? j->model->family_name : "unknown family");
    for (int64_t i = 0; i < j->model->n_others; i++)
        if (j->model->others[i].fate != FLRQ_FATE_COPY)
            flrq_notice(reporter, "tensor %s is not written: %s", j->model->others[i].tensor->name,
                        j->model->others[i].reason);
    FLRQ_TRY(load_tokens(j));
    if (c->ranks_from) FLRQ_TRY(flrq_ranks_read(&j->ranks, c->ranks_from, j->model));
    reporter->blocks = j->model->layers;
    *fingerprint = flrq_fingerprint(j->params, j->model, j->tokens, &j->plan, j->be->name, device);
    FLRQ_TRY(compare_workers(j, *fingerprint));
    be_patient(j, 1);
    if (is_root(j)) FLRQ_TRY(flrq_state_open(&j->state, c, j->model, *fingerprint, reporter));
    FLRQ_TRY(flrq_state_share(&j->state, j->comm, c, j->model->layers));
    be_patient(j, 0);
    if (j->state.committed && !j->state.complete)
        flrq_notice(reporter, "continuing %s: %lld of %lld blocks are done", c->out, (long long)j->state.committed,
                    (long long)j->model->layers);
    if (j->state.committed && j->state.batch && j->state.batch != j->plan.batch)
        FLRQ_TRY(make_plan(j, device, segments, length, j->state.batch));
    return FLRQ_OK;
}

/* The run from opened job to complete folder; *report: rank 0's. */
static flrq_status run_and_finish(job *j, json_t *fingerprint, const flrq_device_info *device, json_t **report) {
    int64_t resumed = j->state.committed;
    if (is_root(j)) FLRQ_TRY(check_disk(j));
    FLRQ_TRY(run_job(j));
    if (is_root(j)) {
        *report = flrq_report_new(j->params, j->model, &j->plan, device, fingerprint, (json_t *const *)j->state.blocks,
                                  resumed, j->comm, j->reporter);
        if (!*report) return flrq_fail_memory(0, "the report");
    }
    release_blocks(j);
    return finish(j, *report);
}

/* The gate's verdict, rank 0's, to all: they end with the same status. */
static flrq_status share_verdict(const job *j, flrq_status verdict) {
    int32_t value = verdict;
    FLRQ_TRY(j->comm->broadcast_host(j->comm, &value, sizeof value, 0));
    return is_root(j) ? verdict : (flrq_status)value;
}

flrq_status flrq_quantize_worker(const flrq_params *params, flrq_reporter *reporter, flrq_backend *be, flrq_comm *comm,
                                 json_t **result) {
    job j = {.params = params, .config = &params->config, .reporter = reporter, .be = be, .comm = comm};
    flrq_status status;
    json_t *fingerprint = NULL, *report = NULL;
    flrq_device_info device;
    double begin = flrq_seconds();
    FLRQ_GOTO(open_job(&j, &fingerprint, &device));
    j.phases.open = flrq_seconds() - begin;
    if (j.state.complete) {
        flrq_notice(reporter, "%s is already complete", j.config->out);
        if (is_root(&j)) FLRQ_GOTO(flrq_report_read(j.config->out, result));
    } else {
        FLRQ_GOTO(run_and_finish(&j, fingerprint, &device, &report));
        if (is_root(&j)) *result = flrq_report_result(report);
    }
    status = share_verdict(&j, is_root(&j) ? quality_gate(&j, report ? report : *result) : FLRQ_OK);
out:;
    char text[ERROR_BYTES]; /* of the failure, not of what fails after it while all is given back */
    snprintf(text, sizeof text, "%s", flrq_last_error());
    /* Stops and the gate's verdict are of all workers, and the last of them may still be on its way to it. */
    if (status != FLRQ_OK && status != FLRQ_ERR_QUALITY && status != FLRQ_STOPPED) flrq_comm_fail(comm, status, text);
    json_decref(report);
    json_decref(fingerprint);
    release_blocks(&j); /* the writer's thread ends before the state that it writes to */
    flrq_state_close(&j.state);
    release(&j);
    return status == FLRQ_OK ? FLRQ_OK : flrq_fail(status, "%s", text);
}
