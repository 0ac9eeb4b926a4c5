/* calibration.c - calibration segments through the blocks, and statistics of the linear inputs. */
#include "pipeline/calibration.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"

/* A sum over the token groups, in the order of their tree. A worker sums up the nodes that its groups consist of: the
 * leaf takes one group after another, and level[k] holds the left half of a node of level k+1 that waits for its right
 * half, like the digits of a binary counter. */
typedef struct group_sum {
    int64_t count;  /* values */
    size_t width;   /* 4: fp32; 8: double */
    void *d_memory; /* all below */
    void *d_leaf, *d_level[FLRQ_TOKEN_LEVELS];
    void *d_nodes; /* [own nodes, count] */
    void *d_total; /* over all groups and workers */
} group_sum;

/* Statistics of one distinct linear input of the present block. */
typedef struct input_sums {
    int64_t cols;
    group_sum moments; /* [2, cols]: sums of normalised |x| and of x^2 */
    group_sum sketch;  /* [cols, k] */
    double *host;      /* copy of the moments */
} input_sums;

struct flrq_calibrator {
    flrq_backend *be;
    flrq_comm *comm;
    flrq_range groups, segments; /* of this worker */
    const flrq_model *model;
    const flrq_plan *plan;
    const flrq_config *config;
    flrq_reporter *reporter;
    flrq_activations x;
    float *d_segment; /* [length, hidden] */
    void *d_workspace;
    float *d_projection; /* [length, error_sketch] */
    input_sums inputs[FLRQ_INPUT_COUNT];
    void *d_scratch;                /* of sums over the workers */
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

/* ---- sums over the token groups ---------------------------------------------------------------------------------- */

int64_t flrq_token_groups(int64_t segments) {
    return segments < FLRQ_TOKEN_GROUPS ? segments : FLRQ_TOKEN_GROUPS;
}

/* The largest node that a share of the groups can hold. */
static int levels_of(int64_t groups, int workers) {
    int levels = 0;
    while (flrq_share(groups, 0, workers).count >> (levels + 1)) levels++;
    return levels;
}

/* Arrays of `count` values that a sum needs: leaf, levels, nodes and, beside them with several workers, the total. */
static size_t arrays_of(int64_t groups, int workers) {
    return 1 + (size_t)levels_of(groups, workers) + (size_t)flrq_nodes_max(groups, workers) + (workers > 1);
}

static size_t array_bytes(int64_t count, size_t width) {
    return ((size_t)count * width + 63) / 64 * 64;
}

size_t flrq_group_sum_bytes(int64_t groups, int64_t count, size_t width, int workers) {
    return arrays_of(groups, workers) * array_bytes(count, width);
}

size_t flrq_group_scratch_bytes(int64_t groups, int64_t count, size_t width, int workers) {
    return workers > 1 ? flrq_sum_scratch_bytes(groups, count, width, workers) : 0;
}

static flrq_status sum_new(const flrq_calibrator *c, group_sum *s, int64_t count, size_t width, const char *what) {
    int64_t groups = c->plan->groups;
    int workers = c->comm->size, levels = levels_of(groups, workers);
    size_t bytes = array_bytes(count, width);
    s->count = count, s->width = width;
    FLRQ_TRY(c->be->alloc(c->be, &s->d_memory, flrq_group_sum_bytes(groups, count, width, workers), what));
    char *d_next = s->d_memory;
    s->d_leaf = d_next, d_next += bytes;
    for (int i = 0; i < levels; i++) s->d_level[i] = d_next, d_next += bytes;
    s->d_nodes = d_next, d_next += (size_t)flrq_nodes_max(groups, workers) * bytes;
    s->d_total = workers > 1 ? d_next : s->d_nodes;
    return FLRQ_OK;
}

/* The leaf is complete, number `index` of a node's 2^level leaves: the halves that it completes are added up; the
 * node's last leaf becomes the node, number `node` of this worker. */
static flrq_status sum_push(const flrq_calibrator *c, group_sum *s, int64_t index, int level, int node) {
    flrq_backend *be = c->be;
    int k = 0;
    for (; index >> k & 1; k++)
        FLRQ_TRY(s->width == sizeof(float) ? be->add(be, s->d_leaf, s->d_level[k], s->count)
                                           : be->add_f64(be, s->d_leaf, s->d_level[k], s->count));
    size_t bytes = (size_t)s->count * s->width;
    if (k == level) return be->copy(be, (char *)s->d_nodes + (size_t)node * bytes, s->d_leaf, bytes);
    void *d_free = s->d_level[k];
    s->d_level[k] = s->d_leaf, s->d_leaf = d_free;
    return FLRQ_OK;
}

static flrq_status sum_complete(const flrq_calibrator *c, group_sum *s) {
    int64_t groups = c->plan->groups;
    if (s->width == sizeof(float))
        return flrq_comm_sum_f32(c->comm, c->be, groups, s->d_nodes, s->count, s->d_total, c->d_scratch);
    return flrq_comm_sum_f64(c->comm, c->be, groups, s->d_nodes, s->count, s->d_total, c->d_scratch);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* The segments of a range of groups, which follow one another. */
static flrq_range segments_of(const flrq_plan *plan, flrq_range groups) {
    if (groups.count == 0) return (flrq_range){plan->segments, 0};
    int64_t first = flrq_share(plan->segments, (int)groups.first, (int)plan->groups).first;
    flrq_range last = flrq_share(plan->segments, (int)(groups.first + groups.count - 1), (int)plan->groups);
    return (flrq_range){first, last.first + last.count - first};
}

flrq_status flrq_calibrator_new(flrq_calibrator **out, flrq_backend *be, flrq_comm *comm, const flrq_model *model,
                                const flrq_plan *plan, const flrq_config *config, flrq_reporter *reporter) {
    *out = NULL;
    flrq_calibrator *c = calloc(1, sizeof *c);
    if (!c) return flrq_fail_memory(sizeof *c, "the calibration");
    c->be = be, c->comm = comm, c->model = model, c->plan = plan, c->config = config, c->reporter = reporter;
    c->groups = flrq_share(plan->groups, comm->rank, comm->size);
    c->segments = segments_of(plan, c->groups);
    c->x = (flrq_activations){.be = be,
                              .first = c->segments.first * plan->length,
                              .rows = c->segments.count * plan->length,
                              .all_rows = plan->segments * plan->length,
                              .cols = model->hidden};
    size_t segment = (size_t)(plan->length * model->hidden) * sizeof(float);
    size_t bytes = segment * (size_t)c->segments.count;
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
    size_t scratch = 0;
    int64_t groups = c->plan->groups;
    for (int64_t i = model->block_first[0]; i < model->block_first[1]; i++) {
        input_sums *in = &c->inputs[model->linears[i].input];
        if (in->cols) continue;
        in->cols = model->linears[i].cols;
        int64_t n = in->cols;
        in->host = malloc((size_t)(2 * n) * sizeof(double));
        if (!in->host) return flrq_fail_memory((size_t)(2 * n) * sizeof(double), "input statistics");
        FLRQ_TRY(sum_new(c, &in->moments, 2 * n, sizeof(double), "input statistics"));
        FLRQ_TRY(sum_new(c, &in->sketch, n * (int64_t)k, sizeof(float), "input sketch"));
        size_t moments = flrq_group_scratch_bytes(groups, 2 * n, sizeof(double), c->comm->size);
        size_t sketch = flrq_group_scratch_bytes(groups, n * (int64_t)k, sizeof(float), c->comm->size);
        if (moments > scratch) scratch = moments;
        if (sketch > scratch) scratch = sketch;
    }
    return scratch ? be->alloc(be, &c->d_scratch, scratch, "sums over the workers") : FLRQ_OK;
}

void flrq_calibrator_release_work(flrq_calibrator *c) {
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        c->be->release(c->be, c->inputs[i].sketch.d_memory);
        c->be->release(c->be, c->inputs[i].moments.d_memory);
        free(c->inputs[i].host);
        c->inputs[i] = (input_sums){0};
    }
    c->be->release(c->be, c->d_scratch);
    c->be->release(c->be, c->d_projection);
    c->be->release(c->be, c->d_workspace);
    c->d_projection = NULL, c->d_workspace = NULL, c->d_scratch = NULL;
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

/* Segments are counted within those of this worker.
 * d_segment = a copy of segment s. */
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
    tokens += c->segments.first * plan->length;
    for (int64_t s = 0; s < c->segments.count && status == FLRQ_OK; s++) {
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
    double *d_abs = in->moments.d_leaf;
    c->seen[input] += tokens;
    FLRQ_TRY(c->be->input_stats(c->be, d_abs, d_abs + cols, d_x, tokens, cols));
    return c->be->input_sketch(c->be, in->sketch.d_leaf, d_x, d_rows, tokens, cols, k);
}

static flrq_status clear_leaves(const flrq_calibrator *c) {
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        const input_sums *in = &c->inputs[i];
        if (!in->cols) continue;
        FLRQ_TRY(c->be->zero(c->be, in->moments.d_leaf, (size_t)in->moments.count * sizeof(double)));
        FLRQ_TRY(c->be->zero(c->be, in->sketch.d_leaf, (size_t)in->sketch.count * sizeof(float)));
    }
    return FLRQ_OK;
}

static flrq_status push_leaves(flrq_calibrator *c, int64_t index, int level, int node) {
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        input_sums *in = &c->inputs[i];
        if (!in->cols) continue;
        FLRQ_TRY(sum_push(c, &in->moments, index, level, node));
        FLRQ_TRY(sum_push(c, &in->sketch, index, level, node));
    }
    return FLRQ_OK;
}

static flrq_status complete_sums(flrq_calibrator *c, int64_t block) {
    for (int i = 0; i < FLRQ_INPUT_COUNT; i++) {
        input_sums *in = &c->inputs[i];
        if (!in->cols) continue;
        FLRQ_TRY(sum_complete(c, &in->moments));
        FLRQ_TRY(sum_complete(c, &in->sketch));
        FLRQ_TRY(c->be->download(c->be, in->host, in->moments.d_total, (size_t)(2 * in->cols) * sizeof(double)));
        for (int64_t n = 0; n < in->cols; n++)
            if (!isfinite(in->host[in->cols + n]))
                return flrq_fail(FLRQ_ERR_NUMERIC,
                                 "block %lld: the calibration activations are not finite (input %d, channel %lld); the "
                                 "model overflows on this text",
                                 (long long)block + 1, i, (long long)n);
    }
    return FLRQ_OK;
}

/* Forwards the segments of one group; the leaves then hold its sums. *done: segments of this worker so far. */
static flrq_status gather_group(flrq_calibrator *c, const flrq_block *block, int64_t group, int64_t *done) {
    const flrq_plan *plan = c->plan;
    int64_t k = c->config->error_sketch;
    uint64_t key = flrq_philox_key((uint64_t)c->config->seed, "activation sketch");
    flrq_range segments = segments_of(plan, (flrq_range){group, 1});
    FLRQ_TRY(clear_leaves(c));
    for (int64_t s = segments.first; s < segments.first + segments.count; s++, ++*done) {
        if (c->comm->size == 1 && flrq_stop_requested()) return FLRQ_STOPPED; /* several agree on it, between blocks */
        flrq_progress(c->reporter, "calibrate", *done, c->segments.count);
        memset(c->seen, 0, sizeof c->seen);
        FLRQ_TRY(take_segment(c, s - c->segments.first));
        FLRQ_TRY(c->be->normal(c->be, c->d_projection, key, 0, (uint64_t)(s * plan->length * k), plan->length * k));
        FLRQ_TRY(forward(c, block, c->d_segment, observe, c));
    }
    return FLRQ_OK;
}

flrq_status flrq_calibrator_gather(flrq_calibrator *c, const flrq_block *block) {
    flrq_node nodes[FLRQ_RANGE_NODES];
    int n_nodes = flrq_range_nodes(c->groups, nodes);
    int64_t done = 0;
    flrq_mark_phase(c->be, "calibrate");
    for (int node = 0; node < n_nodes; node++)
        for (int64_t i = 0; i < (int64_t)1 << nodes[node].level; i++) {
            FLRQ_TRY(gather_group(c, block, nodes[node].first + i, &done));
            FLRQ_TRY(push_leaves(c, i, nodes[node].level, node));
        }
    return complete_sums(c, block->index);
}

flrq_input_stats flrq_calibrator_stats(const flrq_calibrator *c, int input) {
    const input_sums *in = &c->inputs[input];
    return (flrq_input_stats){.n = in->cols,
                              .tokens = (double)c->x.all_rows,
                              .abs_sum = in->host,
                              .square_sum = in->host + in->cols,
                              .d_sketch = in->sketch.d_total,
                              .sketch_cols = c->config->error_sketch};
}

flrq_status flrq_calibrator_advance(flrq_calibrator *c, const flrq_block *block, const char *phase) {
    flrq_mark_phase(c->be, phase);
    for (int64_t s = 0; s < c->segments.count; s++) {
        flrq_progress(c->reporter, phase, s, c->segments.count);
        if (!c->x.d_x) FLRQ_TRY(take_segment(c, s));
        FLRQ_TRY(forward(c, block, segment_place(c, s), NULL, NULL));
        FLRQ_TRY(put_segment(c, s));
    }
    return FLRQ_OK;
}
