/* predict.c - counts the ops of a quantize job, in the order in which it makes them: see predict.h.
 *
 * The counts follow calibration.c, fit.c, sketch.c, split.c and comm.c line by line, so a change of what these call
 * changes this file. Worker 0 has the largest share of every grid, so its time is that of all: they meet in every sum.
 * Ops that every worker does for itself (Gram matrix, triangle and eigenvectors on the side of the columns) are not
 * divided by anything, which is what ends the scaling.
 */
#include "pipeline/predict.h"

#include <math.h>
#include <string.h>

#include "pipeline/calibration.h"
#include "quant/split.h"

/* Where nothing was measured or given. A link of PCIe 4 x16 and a network of 200 Gb/s, a shared file system of a small
 * cluster, and the 20 to 50 us that a collective of some workers takes. A process, its context and its communicator
 * start within seconds. */
static const double assumed_link = 25e9, assumed_link_call = 30e-6, assumed_network = 25e9,
                    assumed_network_call = 50e-6, assumed_read = 2e9, assumed_write = 1e9, assumed_start = 0.1,
                    assumed_start_device = 5;

static const char *const phase_names[FLRQ_TIMES] = {"open",   "read",  "calibrate", "quantize", "exchange",
                                                    "gather", "write", "forward",   "verify"};

const char *flrq_time_name(flrq_time phase) {
    return phase_names[phase];
}

/* ---- the cluster ------------------------------------------------------------------------------------------------- */

static flrq_link_cost link_from(double given_gb, const flrq_link_cost *measured, double bytes, double call,
                                unsigned bit, unsigned *assumed) {
    flrq_link_cost link = {given_gb * 1e9, measured->bytes > 0 ? measured->call : call};
    if (given_gb > 0) return link;
    if (measured->bytes > 0) return *measured;
    *assumed |= bit;
    return (flrq_link_cost){bytes, call};
}

flrq_status flrq_cluster_from(flrq_cluster *out, const flrq_config *c, const flrq_profile *p) {
    *out = (flrq_cluster){.workers = c->workers ? (int)c->workers : 1, .nodes = (int)c->nodes};
    if (out->workers % out->nodes)
        return flrq_fail(FLRQ_ERR_USAGE, "--workers %d on --nodes %d: every node must have the same number of workers",
                         out->workers, out->nodes);
    out->rank = c->expected_rank;
    /* Without --threads the workers of a node share its threads, of which the profile had all. */
    double shared = fmax(1, floor((double)p->threads * out->nodes / out->workers));
    out->threads = c->threads ? (int)c->threads : (int)shared;
    out->start = p->separate ? assumed_start_device : assumed_start;
    /* Workers of one CPU exchange by copying, which reads and writes each byte once. */
    flrq_link_cost copy = {p->copy / 2, assumed_link_call}, none = {0, 0};
    const flrq_link_cost *known = p->node_link.bytes > 0 ? &p->node_link : p->separate ? &none : &copy;
    out->node_link = link_from(c->link, known, assumed_link, assumed_link_call, FLRQ_ASSUMED_LINK, &out->assumed);
    out->network =
        link_from(c->network, &p->network, assumed_network, assumed_network_call, FLRQ_ASSUMED_NETWORK, &out->assumed);
    out->read = c->read > 0 ? c->read * 1e9 : p->read;
    out->write = c->write > 0 ? c->write * 1e9 : p->write;
    if (!(out->read > 0)) out->read = assumed_read, out->assumed |= FLRQ_ASSUMED_READ;
    if (!(out->write > 0)) out->write = assumed_write, out->assumed |= FLRQ_ASSUMED_WRITE;
    return FLRQ_OK;
}

/* ---- ops --------------------------------------------------------------------------------------------------------- */

typedef struct count {
    const flrq_plan *plan;
    const flrq_config *config;
    const flrq_model *model;
    const flrq_profile *profile;
    const flrq_cluster *cluster;
    flrq_prediction *out;
    double slower;   /* than the profile, for having fewer threads */
    double busy;     /* seconds of the ops counted since start_ops() */
    double exchange; /* of exchanges since then */
} count;

static void start_ops(count *k) {
    k->busy = k->exchange = 0;
}

/* `calls` of one op, which together have so many elements and flops. */
static void ops(count *k, flrq_cost cost, double calls, double elements, double flops) {
    const flrq_op_cost *c = &k->profile->op[cost];
    k->busy += calls * c->call + k->slower * (elements * c->element + flops * c->flop);
}

static void op(count *k, flrq_cost cost, double elements, double flops) {
    ops(k, cost, 1, elements, flops);
}

static void copy(count *k, double bytes) {
    k->busy += 2 * bytes / k->profile->copy; /* each is read and written */
}

/* ---- exchanges --------------------------------------------------------------------------------------------------- */

/* Seconds of an exchange in which every worker receives `bytes`, as many from each of the others; `once`: what a node
 * receives from the others arrives once and not for each of its devices. */
static double exchange_seconds(count *k, double bytes, int once) {
    const flrq_cluster *c = k->cluster;
    if (c->workers == 1) return 0;
    double here = c->workers / c->nodes, outside = bytes * (c->workers - here) / (c->workers - 1);
    double network = c->nodes > 1 ? outside * (once ? 1 : here) : 0, link = once ? bytes : bytes - outside;
    k->out->link_bytes += link;
    k->out->network_bytes += network;
    double call = c->nodes > 1 ? c->network.call : c->node_link.call;
    return call + fmax(link / c->node_link.bytes, network / c->network.bytes);
}

/* A few values of every worker's host to all. */
static void exchange_values(count *k, double values) {
    k->exchange += exchange_seconds(k, values * sizeof(double) * (k->cluster->workers - 1), 0);
}

/* Nodes of the tree over a grid: of all workers, and of the one with the most. */
typedef struct grid {
    int64_t units;
    double all, most;
} grid;

static grid grid_of(const count *k, int64_t units) {
    grid g = {units, 0, 0};
    flrq_node nodes[FLRQ_RANGE_NODES];
    if (k->cluster->workers == 1) return (grid){units, 1, 1};
    for (int rank = 0; rank < k->cluster->workers; rank++) {
        int own = flrq_range_nodes(flrq_share(units, rank, k->cluster->workers), nodes);
        g.all += own;
        g.most = fmax(g.most, own);
    }
    return g;
}

/* A sum of `values` over the grid: flrq_comm_sum_f32() and _f64(). Shares and slices are taken to be equal. */
static void exchange_sum(count *k, const grid *g, double values, double width) {
    int workers = k->cluster->workers;
    if (workers == 1 || values == 0) return;
    int sliced = flrq_sum_is_sliced(g->units, (int64_t)values, (size_t)width, workers);
    double slice = sliced ? values / workers : values, others = (double)(workers - 1) / workers;
    ops(k, FLRQ_COST_ADD, g->all - 1, (g->all - 1) * slice * width / sizeof(float), 0);
    k->exchange += exchange_seconds(k, g->all * slice * width * others, 0);
    if (sliced) k->exchange += exchange_seconds(k, values * width * others, 1);
}

/* Rows of all workers to all. */
static double gather_seconds(count *k, double bytes) {
    return exchange_seconds(k, bytes * (k->cluster->workers - 1) / k->cluster->workers, 1);
}

/* ---- a fit (fit.c, sketch.c) ------------------------------------------------------------------------------------- */

/* A matrix: own rows r of m, and its chunks as a grid. */
typedef struct matrix {
    double r, m, n;
    grid chunks;
    int64_t cap;
    double rank;
} matrix;

static flrq_cost clip_cost(const flrq_fit_options *o, double *scale) {
    *scale = 1;
    if (o->clip.search == FLRQ_CLIP_NONE) return FLRQ_COST_CLIP_NONE;
    if (o->clip.search == FLRQ_CLIP_GRID) {
        *scale = (double)o->clip.steps / FLRQ_PROFILE_GRID;
        return FLRQ_COST_CLIP_GRID;
    }
    return o->scheme.bits == 2   ? FLRQ_COST_CLIP_FAST2
           : o->scheme.bits == 3 ? FLRQ_COST_CLIP_FAST3
           : o->scheme.bits == 4 ? FLRQ_COST_CLIP_FAST4
                                 : FLRQ_COST_CLIP_FAST8;
}

/* |(W - Wq - L R) S|, or without calibration its norm. */
static void error_norm(count *k, const matrix *a, int codes, double rank) {
    double size = a->r * a->n, sketch = (double)k->config->error_sketch;
    if (!k->plan->calibrated)
        ops(k, FLRQ_COST_NORM, a->chunks.most, size, 2 * size * rank);
    else
        ops(k, codes ? FLRQ_COST_ERROR_CODES : FLRQ_COST_ERROR, a->chunks.most, size, 2 * size * (sketch + rank));
    exchange_values(k, 1);
}

static void clip_quantize(count *k, const matrix *a, double rank, int stats) {
    double scale, size = a->r * a->n;
    flrq_cost cost = clip_cost(&k->plan->fit, &scale);
    op(k, cost, size * scale, 2 * size * rank);
    if (stats) exchange_values(k, 4);
}

static void orthonormalize(count *k, double rows, double b) {
    op(k, FLRQ_COST_GRAM, 0, 2 * rows * b * b);
    op(k, FLRQ_COST_CHOLESKY, 0, b * b * b);
    op(k, FLRQ_COST_SOLVE, 0, rows * b * b);
}

static void orthonormalize_left(count *k, const matrix *a, double b) {
    orthonormalize(k, a->r, b);
    ops(k, FLRQ_COST_GRAM, a->chunks.most - 1, 0, 0);
    exchange_sum(k, &a->chunks, b * b, sizeof(double));
}

static void transposed(count *k, const matrix *a, flrq_cost cost, double b) {
    ops(k, cost, a->chunks.most, a->r * a->n, 2 * a->r * a->n * b);
    if (k->cluster->workers == 1) return;
    exchange_sum(k, &a->chunks, a->n * b, sizeof(float));
    op(k, FLRQ_COST_ADD, a->n * b, 0); /* the column scale, after the sum */
}

static double width_of(const count *k, const matrix *a, double terms) {
    return fmin(terms + k->plan->fit.sketch.oversample, fmin(a->m, a->n));
}

/* warm: columns of the sketch before, from which it starts; 0 none. */
static void sketch(count *k, const matrix *a, double terms, int codes, double warm) {
    int rounds = k->plan->fit.sketch.power_iterations;
    double b = width_of(k, a, terms), size = a->r * a->n;
    flrq_cost mul = codes ? FLRQ_COST_MUL_CODES : FLRQ_COST_MUL,
              mul_t = codes ? FLRQ_COST_MUL_T_CODES : FLRQ_COST_MUL_T;
    if (warm > 0) {
        if (warm == b)
            copy(k, a->n * b * sizeof(float));
        else
            op(k, FLRQ_COST_GEMM, 0, 2 * a->n * b * warm);
        orthonormalize(k, a->n, b);
        if (rounds > 1) rounds--;
    } else
        op(k, FLRQ_COST_NORMAL, a->n * b, 0);
    op(k, mul, size, 2 * size * b);
    for (int round = 0; round < rounds; round++) {
        orthonormalize_left(k, a, b);
        transposed(k, a, mul_t, b);
        orthonormalize(k, a->n, b);
        op(k, mul, size, 2 * size * b);
    }
    orthonormalize_left(k, a, b);
    orthonormalize_left(k, a, b);
    transposed(k, a, codes ? FLRQ_COST_MUL_T_CODES_FULL : FLRQ_COST_MUL_T_FULL, b);
    op(k, FLRQ_COST_GRAM, 0, 2 * a->n * b * b);
    op(k, FLRQ_COST_EIGH, 0, b * b * b);
    op(k, FLRQ_COST_GEMM, 0, 2 * a->r * b * b);
    op(k, FLRQ_COST_GEMM, 0, 2 * a->n * b * b);
}

static void make_factors(count *k, const matrix *a, double rank) {
    if (rank == 0) return;
    op(k, FLRQ_COST_ROUND_FACTOR, a->r * rank, 0);
    op(k, FLRQ_COST_ROUND_FACTOR, a->n * rank, 0);
}

static void try_rank(count *k, const matrix *a, double rank) {
    make_factors(k, a, rank);
    clip_quantize(k, a, rank, 0);
    error_norm(k, a, 1, rank);
    k->out->tries++;
}

/* Ranks that search_rank() of fit.c tries when the score is best at `best` and falls on both sides of it. */
static void search_rank(count *k, const matrix *a) {
    double step = (double)k->plan->fit.rank.multiple, cap = (double)a->cap, best = 0, below = 0, above = 0;
    try_rank(k, a, 0);
    for (double r = step, last = 0; last < cap; last = r, r = fmin(2 * r, cap)) {
        try_rank(k, a, r);
        if (fabs(r - a->rank) < fabs(best - a->rank))
            best = r, below = last, above = 0;
        else if (above == 0)
            above = r;
        if (r == cap) break;
    }
    if (above == 0) above = best;
    while (above - best > step && 8 * (above - best) > best && best > 0) {
        above = floor((best + above) / 2 / step) * step;
        try_rank(k, a, above);
    }
    while (best - below > step && 8 * (best - below) > best) {
        double r = floor((best + below + step) / 2 / step) * step;
        if (r == best) break;
        try_rank(k, a, r);
        below = r;
    }
}

/* *width: columns of the sketch before, 0 none; then of this one. */
static void fit_low_rank(count *k, const matrix *a, int codes, double *width) {
    int first = *width == 0, searches = k->plan->fit.rank.rule == FLRQ_RANK_ERROR;
    double terms = first || !searches ? (double)a->cap : a->rank, b = width_of(k, a, terms), size = a->r * a->n;
    sketch(k, a, terms, codes, *width);
    *width = b;
    op(k, FLRQ_COST_COLUMN_AMAX, a->r * terms, 0);
    op(k, FLRQ_COST_COLUMN_AMAX, a->n * terms, 0);
    exchange_values(k, terms / 2);
    if (first || !searches) {
        op(k, FLRQ_COST_CURVE, size, 2 * size * b);
        exchange_values(k, b / 2);
        if (searches)
            search_rank(k, a);
        else {
            ops(k, FLRQ_COST_NORM, a->chunks.most, size, 0);
            exchange_values(k, 1);
        }
    }
    make_factors(k, a, a->rank);
}

/* Error of a round, and the copy that keeps it; of the later rounds half are taken to be kept. */
static void judge(count *k, const matrix *a, double rank, double kept) {
    error_norm(k, a, 1, rank);
    copy(k, kept * (a->r * a->n + sizeof(float) * rank * (a->r + a->n)));
}

static matrix matrix_of(const count *k, const flrq_linear *l) {
    matrix a = {.r = (double)flrq_share_rows(l->rows, 0, k->cluster->workers).count,
                .m = (double)l->rows,
                .n = (double)l->cols,
                .chunks = grid_of(k, (l->rows + FLRQ_CHUNK_ROWS - 1) / FLRQ_CHUNK_ROWS),
                .cap = flrq_fit_rank_cap(&k->plan->fit, l->rows, l->cols)};
    int fixed = k->plan->fit.rank.rule == FLRQ_RANK_FIXED;
    a.rank = rint((double)a.cap * (fixed ? 1 : k->cluster->rank));
    return a;
}

static void fit(count *k, const matrix *a) {
    const flrq_fit_options *o = &k->plan->fit;
    double size = a->r * a->n;
    double width = 0;
    int flrq = o->method == FLRQ_METHOD_FLRQ && a->cap > 0, epochs = flrq ? o->epochs : 0;
    error_norm(k, a, 0, 0);
    op(k, FLRQ_COST_CLIP_NONE, size, 0);
    error_norm(k, a, 1, 0);
    if (flrq && o->start == FLRQ_START_WEIGHT) fit_low_rank(k, a, 0, &width);
    clip_quantize(k, a, width > 0 ? a->rank : 0, 1);
    if (o->method == FLRQ_METHOD_LQER && a->cap > 0) fit_low_rank(k, a, 1, &width);
    judge(k, a, width > 0 ? a->rank : 0, 1);
    if (o->rank.rule == FLRQ_RANK_ERROR && width > 0 && a->rank == 0) epochs = 0;
    for (int epoch = 0; epoch < epochs; epoch++) {
        fit_low_rank(k, a, 1, &width);
        clip_quantize(k, a, a->rank, 1);
        judge(k, a, a->rank, 0.5);
    }
    ops(k, FLRQ_COST_NORM, 2 * a->chunks.most, 2 * size, 2 * size * a->rank);
    exchange_values(k, 1);
    exchange_values(k, 1);
}

/* ---- the forward (forward.c, calibration.c) ---------------------------------------------------------------------- */

typedef enum weights { SOURCE, QUANTIZED } weights;

static int in_mlp(const flrq_linear *l) {
    return l->input == FLRQ_INPUT_MLP || l->input == FLRQ_INPUT_DOWN;
}

/* One linear layer on a segment, in as many calls as its part of the block has batches. */
static void linear(count *k, const flrq_linear *l, weights from) {
    double length = (double)k->plan->length, size = (double)(l->rows * l->cols);
    double calls = in_mlp(l) ? ceil(length / (double)k->plan->batch) : 1;
    /* Where the device multiplies in bf16, the quantized weights were rounded to it before: quantize.c. */
    int dense = from == SOURCE || k->profile->op[FLRQ_COST_ROUND_BF16].call >= 0;
    ops(k, dense ? FLRQ_COST_LINEAR : FLRQ_COST_LINEAR_CODES, calls, calls * size, 2 * size * length);
}

/* A segment through a block; `observe`: the sums of its inputs too. */
static void segment(count *k, int64_t block, weights from, int observe) {
    const flrq_model *m = k->model;
    double t = (double)k->plan->length, hidden = (double)m->hidden, ffn = (double)m->ffn;
    double heads = (double)(m->heads * m->head_dim), kv = (double)(m->kv_heads * m->head_dim), seen = t;
    double tiles = ceil(t / FLRQ_TOKEN_TILE), batches = ceil(t / (double)k->plan->batch);
    if (m->window[block] > 0) seen = fmin(t, 2 * (double)m->window[block]);
    unsigned inputs = 0;
    for (int64_t i = m->block_first[block]; i < m->block_first[block + 1]; i++) {
        const flrq_linear *l = &m->linears[i];
        linear(k, l, from);
        if (!observe || inputs >> l->input & 1) continue;
        inputs |= 1u << l->input;
        double calls = in_mlp(l) ? tiles : 1, n = (double)l->cols, sketch = (double)k->config->error_sketch;
        ops(k, FLRQ_COST_INPUT_STATS, calls, t * n, 0);
        ops(k, FLRQ_COST_INPUT_SKETCH, calls, 0, 2 * t * n * sketch);
    }
    op(k, FLRQ_COST_ATTENTION, 0, 2 * t * seen * heads);
    if (m->inv_freq) ops(k, FLRQ_COST_ROPE, 2, t * (heads + kv), 0);
    ops(k, FLRQ_COST_NORM_ROWS, 1 + batches, 2 * t * hidden, 0);
    ops(k, FLRQ_COST_ADD, 1 + batches, 2 * t * hidden, 0);
    ops(k, FLRQ_COST_ACTIVATION, batches, t * ffn, 0);
    double bytes = t * hidden * sizeof(float);
    if (k->plan->activations_on_host)
        k->busy += bytes / k->profile->upload + (observe ? 0 : bytes / k->profile->download);
    else if (observe)
        copy(k, bytes);
}

/* Segments of the worker with the most token groups. */
static double own_segments(const count *k) {
    int64_t groups = flrq_token_groups(k->plan->segments), segments = 0;
    flrq_range own = flrq_share(groups, 0, k->cluster->workers);
    for (int64_t g = own.first; g < own.first + own.count; g++)
        segments += flrq_share(k->plan->segments, (int)g, (int)groups).count;
    return (double)segments;
}

static void calibrate(count *k, int64_t block) {
    const flrq_model *m = k->model;
    int64_t groups = flrq_token_groups(k->plan->segments);
    grid g = grid_of(k, groups);
    double segments = own_segments(k), own = (double)flrq_share(groups, 0, k->cluster->workers).count;
    double sketch = (double)k->config->error_sketch, before = k->busy;
    segment(k, block, SOURCE, 1);
    op(k, FLRQ_COST_NORMAL, (double)k->plan->length * sketch, 0);
    k->busy = before + segments * (k->busy - before);
    unsigned inputs = 0;
    for (int64_t i = m->block_first[block]; i < m->block_first[block + 1]; i++) {
        const flrq_linear *l = &m->linears[i];
        op(k, FLRQ_COST_NONFINITE, (double)(l->rows * l->cols), 0); /* of all rows, on every worker */
        if (inputs >> l->input & 1) continue;
        inputs |= 1u << l->input;
        /* Every group clears, adds and copies sums once or so. */
        double n = (double)l->cols, values = n * sketch;
        ops(k, FLRQ_COST_ADD, own, own * values, 0);
        copy(k, own * values * sizeof(float));
        exchange_sum(k, &g, 2 * n, sizeof(double));
        exchange_sum(k, &g, values, sizeof(float));
    }
}

static void forward(count *k, int64_t block) {
    const flrq_model *m = k->model;
    double before = k->busy;
    segment(k, block, QUANTIZED, 0);
    k->busy = before + own_segments(k) * (k->busy - before);
    if (k->profile->op[FLRQ_COST_ROUND_BF16].call < 0) return;
    for (int64_t i = m->block_first[block]; i < m->block_first[block + 1]; i++) {
        double size = (double)(m->linears[i].rows * m->linears[i].cols);
        matrix a = matrix_of(k, &m->linears[i]);
        op(k, FLRQ_COST_ROUND_BF16, size, 2 * size * a.rank);
    }
}

/* ---- the run (quantize.c) ---------------------------------------------------------------------------------------- */

/* What a block takes, before anything overlaps. */
typedef struct block_seconds {
    double read, calibrate, quantize, exchange, weights, codes, last_codes, pack, files, forward;
} block_seconds;

static void count_files(count *k, double read, double written) {
    k->out->read_bytes += read;
    k->out->write_bytes += written;
}

/* Bytes to the device, which one worker's share of `bytes` takes beside the files that all read at once. */
static double read_seconds(const count *k, double bytes) {
    double up = k->profile->separate ? bytes / k->cluster->workers / k->profile->upload : 0;
    return fmax(bytes / k->cluster->read, up);
}

/* The fits of a block, and the way of their results. */
static void quantize_block(count *k, int64_t block, block_seconds *s) {
    const flrq_model *m = k->model;
    const flrq_scheme *scheme = &k->plan->fit.scheme;
    double source = 0, packed = 0;
    start_ops(k);
    for (int64_t i = m->block_first[block]; i < m->block_first[block + 1]; i++) {
        const flrq_linear *l = &m->linears[i];
        matrix a = matrix_of(k, l);
        double size = a.m * a.n, groups = (double)flrq_scheme_groups(scheme, l->cols);
        if (!k->plan->calibrated) op(k, FLRQ_COST_NONFINITE, a.r * a.n, 0);
        exchange_values(k, 1); /* whether to go on */
        fit(k, &a);
        s->last_codes = k->plan->calibrated && block + 1 < m->layers
                            ? gather_seconds(k, size + sizeof(float) * a.m * (groups + a.rank))
                            : gather_seconds(k, sizeof(float) * a.m * a.rank);
        s->codes += s->last_codes;
        source += (double)l->weight->bytes;
        packed += flrq_scheme_bits(scheme, l->rows, l->cols, (int64_t)a.rank) / 8 * size;
    }
    s->quantize = k->busy, s->exchange += k->exchange;
    start_ops(k);
    for (int64_t i = m->block_first[block]; i < m->block_first[block + 1]; i++)
        op(k, FLRQ_COST_PACK, matrix_of(k, &m->linears[i]).r * (double)m->linears[i].cols, 0);
    s->pack = k->busy;
    s->read = read_seconds(k, source);
    if (k->plan->calibrated) s->weights = gather_seconds(k, source);
    double down = k->profile->separate ? packed / k->cluster->workers / k->profile->download : 0;
    s->files = fmax(packed / k->cluster->write, down) + packed / k->cluster->read; /* rank 0 reads it back to hash it */
    count_files(k, source + packed, packed);
}

/* What is longer than the work that it runs behind is seen. Returns that. */
static double hide(count *k, flrq_time phase, double all, double behind) {
    double seen = fmax(0, all - behind);
    k->out->seconds[phase] += seen;
    k->out->hidden[phase] += all - seen;
    return seen;
}

static void run_block(count *k, int64_t block) {
    block_seconds s = {0};
    double *seconds = k->out->seconds, overlap = k->plan->overlap;
    if (k->plan->calibrated) {
        start_ops(k);
        calibrate(k, block);
        s.calibrate = k->busy, s.exchange = k->exchange;
    }
    quantize_block(k, block, &s);
    if (k->plan->calibrated && block + 1 < k->model->layers) {
        start_ops(k);
        forward(k, block);
        s.forward = k->busy;
    }
    seconds[FLRQ_TIME_CALIBRATE] += s.calibrate;
    seconds[FLRQ_TIME_QUANTIZE] += s.quantize;
    seconds[FLRQ_TIME_EXCHANGE] += s.exchange;
    seconds[FLRQ_TIME_FORWARD] += s.forward;
    double compute = s.calibrate + s.quantize + s.exchange + s.forward, period = compute;
    /* The next block is read beside all of this one, its rows are gathered beside the forward, codes beside the fits
     * that follow; files are written beside the rest of this block and the next until its fits end. The blocks are
     * alike, so this one stands for its neighbours; nothing is before the first. */
    period += hide(k, FLRQ_TIME_READ, s.read, overlap && block ? compute : 0);
    period += hide(k, FLRQ_TIME_GATHER, s.weights, overlap && block ? s.forward : 0);
    period += hide(k, FLRQ_TIME_GATHER, s.codes, k->profile->separate ? fmin(s.codes - s.last_codes, s.quantize) : 0);
    hide(k, FLRQ_TIME_WRITE, s.files, overlap ? period : 0);
    seconds[FLRQ_TIME_WRITE] += s.pack;
}

/* Everything outside the blocks: the embedding is read, looked up and copied to the output. */
static void open_run(count *k) {
    const flrq_model *m = k->model;
    double copied = 0, embedding = (double)flrq_globals_bytes(m, FLRQ_GLOBALS_EMBED);
    for (int64_t i = 0; i < m->n_others; i++)
        if (m->others[i].fate == FLRQ_FATE_COPY && m->others[i].block < 0) copied += (double)m->others[i].tensor->bytes;
    start_ops(k);
    if (k->plan->calibrated) copy(k, own_segments(k) * (double)(k->plan->length * m->hidden) * sizeof(float));
    double seconds = k->cluster->start + k->busy, read = 2 * copied; /* looked at for NaN, then copied */
    if (k->plan->calibrated) {
        seconds += embedding / k->cluster->read + (k->profile->separate ? embedding / k->profile->upload : 0);
        read += embedding;
    }
    double files = read / k->cluster->read + copied / k->cluster->write;
    k->out->seconds[FLRQ_TIME_OPEN] += seconds + (k->plan->overlap ? 0 : files);
    k->out->hidden[FLRQ_TIME_OPEN] += k->plan->overlap ? files : 0;
    count_files(k, read, copied);
}

/* The workers take turns with the blocks, whose source and result they read and compare (verify.c). */
static void verify(count *k) {
    const flrq_model *m = k->model;
    const flrq_scheme *scheme = &k->plan->fit.scheme;
    double bytes = 0, turns = ceil((double)m->layers / k->cluster->workers) / (double)m->layers;
    start_ops(k);
    for (int64_t i = 0; i < m->n_linears; i++) {
        const flrq_linear *l = &m->linears[i];
        matrix a = matrix_of(k, l);
        double size = a.m * a.n;
        op(k, FLRQ_COST_UNPACK, size, 0);
        op(k, FLRQ_COST_NONFINITE, size, 0);
        ops(k, FLRQ_COST_NORM, 2, 2 * size, 2 * size * a.rank);
        bytes += (double)l->weight->bytes + flrq_scheme_bits(scheme, l->rows, l->cols, (int64_t)a.rank) / 8 * size;
    }
    double busy = turns * k->busy, up = k->profile->separate ? turns * bytes / k->profile->upload : 0;
    for (int64_t i = 0; i < m->n_others; i++)
        if (m->others[i].fate == FLRQ_FATE_COPY) bytes += 2 * (double)m->others[i].tensor->bytes;
    double files = fmax(bytes / k->cluster->read, up);
    k->out->seconds[FLRQ_TIME_VERIFY] = k->plan->overlap ? fmax(files, busy) : files + busy;
    count_files(k, bytes, 0);
}

static flrq_status check(const flrq_plan *plan, const flrq_config *c, const flrq_profile *p) {
    if (plan->separate != p->separate)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s is a profile of another kind of device (%s, %s)", c->profile,
                         p->backend, p->name);
    if ((plan->precision == FLRQ_PRECISION_FAST) != p->fast)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s was measured in %s precision, the plan is for %s", c->profile,
                         p->fast ? "fast" : "full", p->fast ? "full" : "fast");
    if (plan->fit.sketch.kind != FLRQ_SKETCH_BLOCK && plan->fit.method != FLRQ_METHOD_RTN)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "times are predicted for --sketch block alone");
    for (int i = 0; i < FLRQ_COSTS; i++)
        if (p->op[i].call < 0 && i != FLRQ_COST_ROUND_BF16)
            return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: the device has no %s, which a run needs", c->profile,
                             flrq_cost_name((flrq_cost)i));
    return FLRQ_OK;
}

flrq_status flrq_predict(flrq_prediction *out, const flrq_plan *plan, const flrq_config *config,
                         const flrq_model *model, const flrq_profile *profile, const flrq_cluster *cluster) {
    memset(out, 0, sizeof *out);
    FLRQ_TRY(check(plan, config, profile));
    count k = {plan, config, model, profile, cluster, out, 1, 0, 0};
    if (!profile->separate) k.slower = (double)profile->threads / cluster->threads;
    open_run(&k);
    for (int64_t block = 0; block < model->layers; block++) run_block(&k, block);
    verify(&k);
    for (int phase = 0; phase < FLRQ_TIMES; phase++) out->total += out->seconds[phase];
    out->tries /= (double)model->n_linears;
    return FLRQ_OK;
}

/* ---- the result -------------------------------------------------------------------------------------------------- */

static json_t *phases_json(const double *seconds) {
    json_t *phases = json_object();
    for (int i = 0; i < FLRQ_TIMES; i++) json_object_set_new(phases, phase_names[i], json_real(seconds[i]));
    return phases;
}

static void add(json_t *to, int when, const char *key, double value) {
    if (when) json_object_set_new(to, key, json_real(value));
}

static json_t *assumptions_json(const flrq_prediction *p, const flrq_plan *plan, const flrq_profile *profile,
                                const flrq_cluster *cluster) {
    json_t *a = json_object();
    int low_rank = plan->fit.method != FLRQ_METHOD_RTN && plan->fit.rank.rule != FLRQ_RANK_FIXED;
    int several = cluster->workers > 1;
    add(a, low_rank, "rank_of_bound", cluster->rank);
    add(a, p->tries > 0, "ranks_tried", p->tries);
    add(a, plan->fit.method == FLRQ_METHOD_FLRQ, "epochs", plan->fit.epochs);
    add(a, 1, "start_seconds", cluster->start);
    add(a, !!(cluster->assumed & FLRQ_ASSUMED_READ), "read_bytes_s", cluster->read);
    add(a, !!(cluster->assumed & FLRQ_ASSUMED_WRITE), "write_bytes_s", cluster->write);
    add(a, several && cluster->assumed & FLRQ_ASSUMED_LINK, "link_bytes_s", cluster->node_link.bytes);
    add(a, several && cluster->nodes == 1, "exchange_seconds", cluster->node_link.call);
    add(a, cluster->nodes > 1, "exchange_seconds", cluster->network.call);
    add(a, cluster->nodes > 1 && cluster->assumed & FLRQ_ASSUMED_NETWORK, "network_bytes_s", cluster->network.bytes);
    add(a, !profile->separate && cluster->threads != profile->threads, "threads_of_profile", profile->threads);
    return a;
}

static json_t *missing(const char *why) {
    return json_pack("{s:s}", "missing", why);
}

flrq_status flrq_predict_json(json_t **out, const flrq_plan *plan, const flrq_config *c, const flrq_model *model) {
    flrq_profile profile;
    flrq_cluster cluster;
    flrq_prediction p;
    *out = NULL;
    if (!c->profile) {
        *out = missing("no profile for this device: times are not predicted; make one with flrq bench ops --profile "
                       "FILE");
        return FLRQ_OK;
    }
    FLRQ_TRY(flrq_profile_load(&profile, c->profile));
    FLRQ_TRY(flrq_cluster_from(&cluster, c, &profile));
    flrq_status status = flrq_predict(&p, plan, c, model, &profile, &cluster);
    if (status == FLRQ_ERR_UNSUPPORTED) {
        *out = missing(flrq_last_error());
        return FLRQ_OK;
    }
    FLRQ_TRY(status);
    double links = cluster.workers > 1, network = cluster.nodes > 1;
    *out = json_pack("{s:f, s:o, s:o, s:s, s:s, s:s, s:b, s:i, s:i, s:{s:f, s:f, s:f, s:f}, s:{s:f, s:f, s:f, s:f}, "
                     "s:o}",
                     "seconds_total", p.total, "phases", phases_json(p.seconds), "hidden", phases_json(p.hidden),
                     "profile", profile.name, "profile_date", profile.date, "profile_note", profile.note, "measured",
                     profile.measured, "workers", cluster.workers, "nodes", cluster.nodes, "bytes", "link",
                     p.link_bytes, "network", p.network_bytes, "read", p.read_bytes, "written", p.write_bytes, "rates",
                     "read_bytes_s", cluster.read, "write_bytes_s", cluster.write, "link_bytes_s",
                     links * cluster.node_link.bytes, "network_bytes_s", network * cluster.network.bytes, "assumptions",
                     assumptions_json(&p, plan, &profile, &cluster));
    return FLRQ_OK;
}
