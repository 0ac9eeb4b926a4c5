/* calibration.c - calibration segments through the blocks, and statistics of the linear inputs. */
#include "pipeline/calibration.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"

/* Statistics of one distinct linear input of the present block. */
typedef struct input_sums {
    int64_t cols;
    double *d_abs, *d_square; /* [cols] in backend memory */
    double *abs, *square;     /* host copies */
    float *d_sketch;          /* [cols, k] */
} input_sums;

struct flrq_calibrator {
    flrq_backend *be;
    const flrq_model *model;
    const flrq_plan *plan;
    const flrq_config *config;
    flrq_reporter *reporter;
    flrq_activations x;
    float *d_segment; /* [length, hidden] */
    void *d_workspace;
    float *d_projection; /* [length, error_sketch] */
    input_sums inputs[FLRQ_INPUT_COUNT];
    int64_t seen[FLRQ_INPUT_COUNT]; /* tokens of the present segment that the observer has seen, per input */
};

flrq_status flrq_activations_get(const flrq_activations *x, void *to, uint64_t first, uint64_t bytes) {
    if (x->d_x) return x->be->download(x->be, to, (const char *)x->d_x + first, bytes);
    memcpy(to, (const char *)x->host_x + first, bytes);
    return FLRQ_OK;
}

flrq_status flrq_activations_put(const flrq_activations *x, const void *from, uint64_t first, uint64_t bytes) {
    if (x->d_x) return x->be->upload(x->be, (char *)x->d_x + first, from, bytes);
    memcpy((char *)x->host_x + first, from, bytes);
    return FLRQ_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

flrq_status flrq_calibrator_new(flrq_calibrator **out, flrq_backend *be, const flrq_model *model, const flrq_plan *plan,
                                const flrq_config *config, flrq_reporter *reporter) {
    *out = NULL;
    flrq_calibrator *c = calloc(1, sizeof *c);
    if (!c) return flrq_fail_memory(sizeof *c, "the calibration");
    c->be = be, c->model = model, c->plan = plan, c->config = config, c->reporter = reporter;
    c->x = (flrq_activations){.be = be, .rows = plan->segments * plan->length, .cols = model->hidden};
    size_t segment = (size_t)(plan->length * model->hidden) * sizeof(float), bytes = segment * (size_t)plan->segments;
    flrq_status status = plan->activations_on_host
                             ? be->host_alloc(be, (void **)&c->x.host_x, bytes, "calibration activations")
                             : be->alloc(be, (void **)&c->x.d_x, bytes, "calibration activations");
    if (status == FLRQ_OK) status = be->alloc(be, (void **)&c->d_segment, segment, "a segment's activations");
    if (status != FLRQ_OK) {
        flrq_calibrator_free(c);
        return status;
    }
    *out = c;
    return FLRQ_OK;
}

flrq_status flrq_calibrator_work(flrq_calibrator *c) {
    flrq_backend *be = c->be;
    const flrq_model *model = c->model;
    size_t length = (size_t)c->plan->length, k = (size_t)c->config->error_sketch;
    FLRQ_TRY(be->alloc(be, &c->d_workspace, c->plan->workspace_bytes, "the forward workspace"));
    FLRQ_TRY(be->alloc(be, (void **)&c->d_projection, length * k * sizeof(float), "activation projections"));
    for (int64_t i = model->block_first[0]; i < model->block_first[1]; i++) {
        input_sums *in = &c->inputs[model->linears[i].input];
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

void flrq_calibrator_release_work(flrq_calibrator *c) {
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        c->be->release(c->be, c->inputs[i].d_sketch);
        c->be->release(c->be, c->inputs[i].d_square);
        c->be->release(c->be, c->inputs[i].d_abs);
        free(c->inputs[i].square);
        free(c->inputs[i].abs);
        c->inputs[i] = (input_sums){0};
    }
    c->be->release(c->be, c->d_projection);
    c->be->release(c->be, c->d_workspace);
    c->d_projection = NULL, c->d_workspace = NULL;
}

void flrq_calibrator_free(flrq_calibrator *c) {
    if (!c) return;
    flrq_calibrator_release_work(c);
    c->be->release(c->be, c->d_segment);
    c->be->release(c->be, c->x.d_x);
    c->be->host_release(c->be, c->x.host_x);
    free(c);
}

const flrq_activations *flrq_calibrator_input(const flrq_calibrator *c) {
    return &c->x;
}

/* ---- segments ---------------------------------------------------------------------------------------------------- */

static size_t segment_bytes(const flrq_calibrator *c) {
    return (size_t)(c->plan->length * c->model->hidden) * sizeof(float);
}

/* d_segment = a copy of segment s. */
static flrq_status take_segment(const flrq_calibrator *c, int64_t s) {
    size_t bytes = segment_bytes(c);
    if (c->x.d_x) return c->be->copy(c->be, c->d_segment, (const char *)c->x.d_x + (size_t)s * bytes, bytes);
    return c->be->upload(c->be, c->d_segment, (const char *)c->x.host_x + (size_t)s * bytes, bytes);
}

/* Where segment s is worked on in place: itself, or d_segment, which put_segment() takes back. */
static float *segment_place(const flrq_calibrator *c, int64_t s) {
    return c->x.d_x ? c->x.d_x + s * c->plan->length * c->model->hidden : c->d_segment;
}

static flrq_status put_segment(const flrq_calibrator *c, int64_t s) {
    size_t bytes = segment_bytes(c);
    if (c->x.d_x) return FLRQ_OK;
    return c->be->download(c->be, (char *)c->x.host_x + (size_t)s * bytes, c->d_segment, bytes);
}

flrq_status flrq_calibrator_embed(flrq_calibrator *c, const int32_t *tokens) {
    const flrq_plan *plan = c->plan;
    flrq_globals *globals;
    FLRQ_TRY(flrq_globals_load(&globals, c->model, c->be, FLRQ_GLOBALS_EMBED));
    flrq_status status = FLRQ_OK;
    for (int64_t s = 0; s < plan->segments && status == FLRQ_OK; s++) {
        status =
            flrq_forward_embed(c->model, c->be, globals, segment_place(c, s), tokens + s * plan->length, plan->length);
        if (status == FLRQ_OK) status = put_segment(c, s);
    }
    flrq_globals_free(globals, c->be);
    return status;
}

/* One segment through the block, at the precision of forwards, what the observer adds up included. */
static flrq_status forward(const flrq_calibrator *c, const flrq_block *block, float *d_x, flrq_observer_fn observer,
                           void *user) {
    flrq_set_precision(c->be, c->plan->precision);
    flrq_status status = flrq_forward_block(c->model, c->be, block, d_x, c->plan->length, c->plan->batch,
                                            c->d_workspace, observer, user);
    flrq_set_precision(c->be, FLRQ_PRECISION_FULL);
    return status == FLRQ_OK ? FLRQ_OK : flrq_trace(status, "forward of block %lld", (long long)block->index + 1);
}

/* Observer of the calibration forward: adds the tile to the sums of its input. Rows of the projection follow the
 * tokens. */
static flrq_status observe(void *user, flrq_input input, const float *d_x, int64_t tokens, int64_t cols) {
    flrq_calibrator *c = user;
    input_sums *in = &c->inputs[input];
    int64_t k = c->config->error_sketch;
    const float *d_rows = c->d_projection + c->seen[input] * k;
    c->seen[input] += tokens;
    FLRQ_TRY(c->be->input_stats(c->be, in->d_abs, in->d_square, d_x, tokens, cols));
    return c->be->input_sketch(c->be, in->d_sketch, d_x, d_rows, tokens, cols, k);
}

static flrq_status clear_sums(const flrq_calibrator *c) {
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        const input_sums *in = &c->inputs[i];
        if (!in->cols) continue;
        FLRQ_TRY(c->be->zero(c->be, in->d_abs, (size_t)in->cols * sizeof(double)));
        FLRQ_TRY(c->be->zero(c->be, in->d_square, (size_t)in->cols * sizeof(double)));
        FLRQ_TRY(c->be->zero(c->be, in->d_sketch, (size_t)(in->cols * c->config->error_sketch) * sizeof(float)));
    }
    return FLRQ_OK;
}

static flrq_status collect_sums(const flrq_calibrator *c, int64_t block) {
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        const input_sums *in = &c->inputs[i];
        if (!in->cols) continue;
        size_t bytes = (size_t)in->cols * sizeof(double);
        FLRQ_TRY(c->be->download(c->be, in->abs, in->d_abs, bytes));
        FLRQ_TRY(c->be->download(c->be, in->square, in->d_square, bytes));
        for (int64_t n = 0; n < in->cols; n++)
            if (!isfinite(in->square[n]))
                return flrq_fail(FLRQ_ERR_NUMERIC,
                                 "block %lld: the calibration activations are not finite (input %d, channel %lld); the "
                                 "model overflows on this text",
                                 (long long)block + 1, i, (long long)n);
    }
    return FLRQ_OK;
}

flrq_status flrq_calibrator_gather(flrq_calibrator *c, const flrq_block *block) {
    const flrq_plan *plan = c->plan;
    int64_t k = c->config->error_sketch;
    uint64_t key = flrq_philox_key((uint64_t)c->config->seed, "activation sketch");
    flrq_mark_phase(c->be, "calibrate");
    FLRQ_TRY(clear_sums(c));
    for (int64_t s = 0; s < plan->segments; s++) {
        if (flrq_stop_requested()) return FLRQ_STOPPED;
        flrq_progress(c->reporter, "calibrate", s, plan->segments);
        memset(c->seen, 0, sizeof c->seen);
        FLRQ_TRY(take_segment(c, s));
        FLRQ_TRY(c->be->normal(c->be, c->d_projection, key, 0, (uint64_t)(s * plan->length * k), plan->length * k));
        FLRQ_TRY(forward(c, block, c->d_segment, observe, c));
    }
    return collect_sums(c, block->index);
}

flrq_input_stats flrq_calibrator_stats(const flrq_calibrator *c, int input) {
    const input_sums *in = &c->inputs[input];
    return (flrq_input_stats){.n = in->cols,
                              .tokens = (double)c->x.rows,
                              .abs_sum = in->abs,
                              .square_sum = in->square,
                              .d_sketch = in->d_sketch,
                              .sketch_cols = c->config->error_sketch};
}

flrq_status flrq_calibrator_advance(flrq_calibrator *c, const flrq_block *block, const char *phase) {
    flrq_mark_phase(c->be, phase);
    for (int64_t s = 0; s < c->plan->segments; s++) {
        flrq_progress(c->reporter, phase, s, c->plan->segments);
        if (!c->x.d_x) FLRQ_TRY(take_segment(c, s));
        FLRQ_TRY(forward(c, block, segment_place(c, s), NULL, NULL));
        FLRQ_TRY(put_segment(c, s));
    }
    return FLRQ_OK;
}
