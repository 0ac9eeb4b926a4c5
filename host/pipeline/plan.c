/* plan.c - every buffer, file and operation of a quantize job from config and headers, before any tensor is read.
 *
 * `flrq plan` prints this; the run allocates by the same numbers. What cannot be quantized in the chosen scheme is
 * refused here, with the tensor's name, before anything is written.
 */
#include "pipeline/job.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "core/parallel.h"
#include "core/tree.h"
#include "io/npy.h"
#include "pipeline/calibration.h"
#include "pipeline/output.h"
#include "pipeline/predict.h"
#include "pipeline/ranks.h"

/* Program, libraries and heap of a process that has opened a model, measured on models of a few kilobytes, where
 * nothing else shows; pieces in which tensors are copied, those of the load-back check, and those in which a reader's
 * thread reads. */
enum { BASE_BYTES = 9 << 20, COPY_BYTES = 1 << 20, CHECK_BYTES = 4 << 20, FEED_BYTES = 16 << 20 };

/* What the CUDA backend takes beside the plan's own buffers: its context with the code of kernels and libraries, the
 * workspace of cuBLAS, and panels in which implicit matrices and partial sums are formed (of each at most a chunk of
 * 32,768 columns); and the libraries' part in host memory. The rest of its scratch follows from the shapes:
 * cuda_scratch(). */
enum { CUDA_CONTEXT = 600 << 20, CUDA_WORKSPACE = 64 << 20, CUDA_PANELS = 2 * 64 << 20, CUDA_HOST = 400 << 20 };

enum { ALL_PHASES = FLRQ_PLAN_EMBED | FLRQ_PLAN_BLOCKS | FLRQ_PLAN_VERIFY | FLRQ_PLAN_TEXT };

void flrq_fit_options_from(flrq_fit_options *o, const flrq_config *c, flrq_dtype dtype) {
    memset(o, 0, sizeof *o);
    o->method = (flrq_method)c->method;
    o->scheme = (flrq_scheme){.bits = (int32_t)c->bits, .symmetric = c->symmetric, .grid = c->grid, .group = c->group};
    int clip = c->clip != CLIP_AUTO ? c->clip : c->method == METHOD_FLRQ ? CLIP_OPT_FAST : CLIP_OPT_NONE;
    o->clip.search = clip == CLIP_OPT_FAST ? FLRQ_CLIP_FAST : clip == CLIP_OPT_GRID ? FLRQ_CLIP_GRID : FLRQ_CLIP_NONE;
    o->clip.mode = (flrq_clip_mode)c->clip_mode;
    o->clip.steps = (int32_t)c->clip_steps;
    o->clip.min_ratio = (float)c->clip_min;
    o->clip.signed_scale = c->signed_scale && o->clip.search != FLRQ_CLIP_NONE;
    o->clip_weights_h = c->clip_weights == CALIB_WEIGHTS_H;
    o->sketch.kind = (flrq_sketch_kind)c->sketch;
    o->sketch.power_iterations = (int)c->power_iterations;
    o->sketch.oversample = (int)c->oversample;
    o->rank.rule = c->method == METHOD_LQER ? FLRQ_RANK_FIXED : (flrq_rank_rule)c->rank_policy;
    o->rank.fixed = c->rank;
    o->rank.max_rank = c->max_rank;
    o->rank.multiple = c->rank_multiple;
    o->rank.extra = c->rank_extra;
    o->rank.flat = c->rank_flat;
    o->rank.bits = (int)c->bits;
    o->metric = (flrq_metric)c->metric;
    o->alpha_power = c->alpha_power;
    o->start = (flrq_start)c->start;
    o->epochs = c->epochs >= 0 ? (int)c->epochs : c->bits <= 2 ? 20 : c->preset == PRESET_PAPER ? 1 : 5;
    o->tolerance = c->blc_tol;
    o->factor_dtype = dtype == FLRQ_BF16 ? FLRQ_BF16 : FLRQ_F16;
    o->seed = (uint64_t)c->seed;
}

flrq_status flrq_plan_calibration(const flrq_params *params, const flrq_model *model, flrq_reporter *reporter,
                                  int64_t *segments, int64_t *length) {
    const flrq_config *c = &params->config;
    *segments = *length = 0;
    if (c->calib && strcmp(c->calib, "none") == 0) return FLRQ_OK;
    if (!model->family)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                         "%s: model_type \"%s\" is not among the families that can be calibrated (%s); use --calib "
                         "none for weights only",
                         model->dir, model->family_name, flrq_families_known());
    if (c->calib_tokens) {
        int32_t *ids;
        FLRQ_TRY(flrq_tokens_read(c->calib_tokens, model->vocab, &ids, segments, length));
        free(ids);
        if (*length < 2)
            return flrq_fail(FLRQ_ERR_FORMAT, "%s: segments of %lld tokens; at least 2 wanted", c->calib_tokens,
                             (long long)*length);
        if (model->max_positions > 0 && *length > model->max_positions)
            return flrq_fail(FLRQ_ERR_SHAPE, "%s: segments of %lld tokens exceed the model's context of %lld",
                             c->calib_tokens, (long long)*length, (long long)model->max_positions);
        return FLRQ_OK;
    }
    *segments = c->calib_samples;
    *length = c->calib_len;
    if (model->max_positions > 0 && *length > model->max_positions) {
        *length = model->max_positions;
        flrq_notice(reporter, "calibration segments shortened from %lld to the model's context of %lld tokens",
                    (long long)c->calib_len, (long long)*length);
    }
    return FLRQ_OK;
}

/* Refuses what compressed-tensors cannot hold (formats.md 2.4). */
static flrq_status check_linear(const flrq_config *c, const flrq_linear *linear) {
    if (c->group > 0 && linear->cols % c->group != 0)
        return flrq_fail(FLRQ_ERR_SHAPE,
                         "tensor %s.weight: group %lld does not divide its %lld input features, and compressed-tensors "
                         "has no tail group; use a --group that divides it (%s) or 0 for per channel",
                         linear->module, (long long)c->group, (long long)linear->cols,
                         linear->cols % 128 == 0  ? "128"
                         : linear->cols % 64 == 0 ? "64"
                         : linear->cols % 32 == 0 ? "32"
                                                  : "none of 32, 64, 128 does");
    return FLRQ_OK;
}

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t file_bytes(const char *dir, const char *name) {
    struct stat info;
    char *path = flrq_path_join(dir, name);
    size_t bytes = path && stat(path, &info) == 0 && info.st_size > 0 ? (size_t)info.st_size : 0;
    free(path);
    return bytes;
}

/* Memory of a tokenizer and a text's ids, in multiples of their files: JSON trees and tables of 130,000 tokens took 11
 * times their file, text with ids in a growing array 4 times its own. */
static size_t text_bytes(const flrq_config *c, const flrq_model *model) {
    size_t tokenizer = file_bytes(model->dir, "tokenizer.json");
    if (!tokenizer) tokenizer = file_bytes(model->dir, "tokenizer.model");
    if (!tokenizer) tokenizer = file_bytes(model->dir, "vocab.json") + file_bytes(model->dir, "merges.txt");
    return 11 * tokenizer + 4 * file_bytes("", c->calib);
}

/* What the memory of a plan follows from, gathered over the linear layers and tensors. */
typedef struct sizes {
    size_t codes, factors;            /* of all layers that are held at once */
    size_t one_codes, one_factors;    /* of the largest layer */
    size_t source_weight, other_copy; /* largest tensors */
} sizes;

/* Shapes, work and files of the run; what its memory follows from. */
static flrq_status measure(flrq_plan *plan, const flrq_config *c, const flrq_model *model, sizes *s) {
    const flrq_scheme *scheme = &plan->fit.scheme;
    size_t block_codes = 0, block_factors = 0;
    double sketch_flops = 0;
    int64_t block = -1, in_block = 0;
    memset(s, 0, sizeof *s);
    for (int64_t i = 0; i < model->n_linears; i++) {
        const flrq_linear *l = &model->linears[i];
        FLRQ_TRY(check_linear(c, l));
        int64_t count = l->rows * l->cols, cap = flrq_fit_rank_cap(&plan->fit, l->rows, l->cols);
        if (l->block != block) block = l->block, block_codes = block_factors = 0, in_block = 0;
        size_t codes = flrq_codes_bytes(scheme, l->rows, l->cols);
        size_t factors = (size_t)(cap * (l->rows + l->cols)) * sizeof(float);
        block_codes += codes, block_factors += factors, in_block++;
        s->one_codes = max_size(s->one_codes, codes), s->one_factors = max_size(s->one_factors, factors);
        s->codes = max_size(s->codes, plan->calibrated ? block_codes : codes);
        s->factors = max_size(s->factors, block_factors); /* written together, after the block */
        s->source_weight = max_size(s->source_weight, (size_t)l->weight->bytes);
        if (in_block > plan->slots) plan->slots = in_block;
        if (l->rows > plan->extent.rows) plan->extent.rows = l->rows;
        if (l->cols > plan->extent.cols) plan->extent.cols = l->cols;
        if (count > plan->extent.count) plan->extent.count = count;
        plan->weights += count;
        int64_t groups = flrq_scheme_groups(scheme, l->cols);
        if (groups > plan->largest_tensor_group) plan->largest_tensor_group = groups;
        plan->output_bytes += (uint64_t)(flrq_scheme_bits(scheme, l->rows, l->cols, cap) / 8 * (double)count);
        double width = (double)cap + (double)c->oversample, passes = 2.0 * (double)c->power_iterations + 3;
        int rounds = 1 + (plan->fit.method == FLRQ_METHOD_FLRQ ? plan->fit.epochs : 0);
        sketch_flops += rounds * 2.0 * (double)count * (passes * width + (double)c->error_sketch);
    }
    if (!plan->calibrated) plan->slots = 1;
    for (int64_t i = 0; i < model->n_others; i++)
        if (model->others[i].fate == FLRQ_FATE_COPY) {
            plan->output_bytes += model->others[i].tensor->bytes;
            s->other_copy = max_size(s->other_copy, (size_t)model->others[i].tensor->bytes);
        }
    plan->factor_bytes = s->factors;
    plan->weight_bytes = s->source_weight;
    int64_t words = (plan->extent.cols * c->bits + 31) / 32;
    size_t chunk = (size_t)FLRQ_CHUNK_ROWS * (size_t)words * sizeof(int32_t);
    size_t scales = (size_t)plan->extent.rows * (size_t)plan->largest_tensor_group * sizeof(float);
    plan->staging_bytes = max_size(max_size(chunk, scales), COPY_BYTES);
    plan->flops = 2.0 * 2.0 * (double)plan->weights * (double)plan->segments * (double)plan->length + sketch_flops;
    return FLRQ_OK;
}

/* ---- memory
 * -------------------------------------------------------------------------------------------------------- */

/* One line: host memory, and memory of the backend, which is host memory too where the device has none of its own. */
static void add(flrq_plan *plan, const char *name, size_t host, size_t backend, unsigned phases) {
    flrq_plan_item item = {.name = name, .host = host, .phases = phases};
    *(plan->separate ? &item.device : &item.host) += backend;
    if (host + backend) plan->item[plan->items++] = item;
}

/* Scratch of the CUDA backend that grows with the shapes: inputs of linear() and attention() in bf16, skinny factors
 * with their column scales, and the levels of ordered sums of [cols, width] or a product [rows, error_sketch]. */
static size_t cuda_scratch(const flrq_plan *plan, const flrq_config *c, const flrq_model *model) {
    size_t rows = (size_t)plan->extent.rows, cols = (size_t)plan->extent.cols, sketch = (size_t)c->error_sketch;
    size_t width = (size_t)(flrq_fit_rank_cap(&plan->fit, plan->extent.rows, plan->extent.cols) + c->oversample);
    size_t wide = (size_t)(model->heads * model->head_dim), levels;
    if (wide < (size_t)model->hidden) wide = (size_t)model->hidden;
    size_t inputs = 2 * max_size((size_t)plan->length * wide, (size_t)plan->batch * cols);
    size_t packed = (size_t)(model->kv_heads * ((model->head_dim + 63) / 64 * 64) * ((plan->length + 63) / 64 * 64));
    inputs = max_size(inputs, 2 * 2 * packed); /* keys and values of attention() in bf16, padded */
    size_t factors = max_size(max_size(rows, cols) * width, cols * sketch) * sizeof(float);
    levels = (size_t)flrq_tree_levels((plan->extent.rows + FLRQ_CHUNK_ROWS - 1) / FLRQ_CHUNK_ROWS) * cols * width;
    return max_size(plan->calibrated ? inputs : 0, factors) + max_size(levels, rows * sketch) * sizeof(float);
}

/* Segments of the worker that has most. */
static int64_t most_segments(const flrq_plan *plan) {
    if (!plan->groups) return 0;
    int64_t groups = flrq_share(plan->groups, 0, plan->workers).count;
    return groups * flrq_share(plan->segments, 0, (int)plan->groups).count;
}

/* The table for the batch, overlap and place of the activations that the plan has now, and its peaks. */
static void lay_out(flrq_plan *plan, const flrq_config *c, const flrq_model *model, const sizes *s, int threads) {
    size_t all = (size_t)plan->segments * (size_t)plan->length * (size_t)model->hidden * sizeof(float);
    size_t activations = all / (size_t)(plan->segments ? plan->segments : 1) * (size_t)most_segments(plan);
    size_t copies = plan->overlap ? 2 : 1;
    plan->items = 0;
    add(plan, "program and libraries", BASE_BYTES, 0, ALL_PHASES);
    if (plan->separate) {
        add(plan, "CUDA context and libraries", CUDA_HOST, CUDA_CONTEXT, ALL_PHASES);
        add(plan, "CUDA workspace and panels", 0, (size_t)CUDA_WORKSPACE + CUDA_PANELS, ALL_PHASES);
        add(plan, "CUDA scratch", 0, cuda_scratch(plan, c, model), ALL_PHASES);
    }
    if (plan->calibrated) {
        size_t sums = 0, trees = 0, scratch = 0, seen = 0, staging = flrq_block_host_bytes(model);
        for (int64_t i = model->block_first[0]; i < model->block_first[1]; i++) {
            const flrq_linear *l = &model->linears[i];
            if (seen >> l->input & 1) continue;
            seen |= (size_t)1 << l->input;
            int64_t count = l->cols * c->error_sketch;
            sums += (size_t)l->cols * 2 * sizeof(double);
            trees += flrq_group_sum_bytes(plan->groups, 2 * l->cols, sizeof(double), plan->workers) +
                     flrq_group_sum_bytes(plan->groups, count, sizeof(float), plan->workers);
            scratch = max_size(scratch, flrq_group_scratch_bytes(plan->groups, count, sizeof(float), plan->workers));
            scratch =
                max_size(scratch, flrq_group_scratch_bytes(plan->groups, 2 * l->cols, sizeof(double), plan->workers));
        }
        plan->workspace_bytes = flrq_workspace_bytes(model, plan->length, plan->batch);
        if (c->calib) add(plan, "tokenizer and text", text_bytes(c, model), 0, FLRQ_PLAN_TEXT);
        add(plan, "calibration activations", plan->activations_on_host ? activations : 0,
            plan->activations_on_host ? 0 : activations, FLRQ_PLAN_EMBED | FLRQ_PLAN_BLOCKS);
        add(plan, "embedding", 0, flrq_globals_bytes(model, FLRQ_GLOBALS_EMBED), FLRQ_PLAN_EMBED);
        add(plan, plan->overlap ? "two blocks in their source type" : "block in its source type", copies * staging,
            copies * (flrq_block_bytes(model) - staging), FLRQ_PLAN_BLOCKS);
        add(plan, "forward workspace", 0,
            plan->workspace_bytes + (size_t)(plan->length * model->hidden) * sizeof(float), FLRQ_PLAN_BLOCKS);
        add(plan, "input statistics and sketches", sums, trees + scratch, FLRQ_PLAN_BLOCKS);
        add(plan, "activation projections", 0, (size_t)(plan->length * c->error_sketch) * sizeof(float),
            FLRQ_PLAN_BLOCKS);
        plan->scratch_bytes = all;
    } else
        add(plan, plan->overlap ? "two weights in their source type" : "one weight in its source type", 0,
            copies * s->source_weight, FLRQ_PLAN_BLOCKS);
    add(plan, "codes and scales", 0, s->codes, FLRQ_PLAN_BLOCKS);
    add(plan, "low-rank factors", 0, s->factors, FLRQ_PLAN_BLOCKS);
    size_t fit_host = flrq_fit_space_host_bytes(&plan->fit, plan->extent);
    add(plan, "fit of one matrix", fit_host, flrq_fit_space_bytes(&plan->fit, plan->extent) - fit_host,
        FLRQ_PLAN_BLOCKS);
    plan->feed_bytes = plan->overlap ? FEED_BYTES : COPY_BYTES;
    /* Slots on both sides and the writer's buffer; with one slot the halves of these that scales fill never meet. */
    size_t slots = plan->overlap ? FLRQ_STAGING_SLOTS : 1;
    add(plan, "packing", (plan->overlap || plan->separate ? slots + 1 : 1) * plan->staging_bytes,
        slots * plan->staging_bytes, FLRQ_PLAN_BLOCKS);
    if (plan->overlap) { /* page-locked memory is taken as it is allocated */
        size_t feed = FLRQ_FEED_SLOTS * plan->feed_bytes;
        add(plan, "reading", plan->separate ? feed : min_size(feed, s->source_weight), 0, FLRQ_PLAN_BLOCKS);
    }
    if (plan->separate && plan->calibrated)
        add(plan, "replay of committed blocks", CHECK_BYTES, CHECK_BYTES, FLRQ_PLAN_BLOCKS);
    size_t panel = min_size((size_t)plan->extent.cols, CPU_PANEL_COLS);
    if (!plan->separate)
        add(plan, "thread scratch", (size_t)threads * (CPU_GEMM_WORK + CPU_TILE_ROWS * panel) * sizeof(float), 0,
            FLRQ_PLAN_BLOCKS);
    /* A device's memory is taken as it is allocated, for the largest rows and columns; the host's as it is used. */
    size_t cap = (size_t)flrq_fit_rank_cap(&plan->fit, plan->extent.rows, plan->extent.cols);
    size_t taken = plan->weight_bytes +
                   flrq_codes_bytes(&plan->fit.scheme, plan->extent.rows, plan->extent.count / plan->extent.rows) +
                   (cap + 1) * (size_t)(plan->extent.rows + plan->extent.cols) * sizeof(float) + CHECK_BYTES;
    add(plan, "load-back check",
        min_size(s->source_weight, plan->overlap ? FLRQ_FEED_SLOTS * plan->feed_bytes : CHECK_BYTES) +
            min_size(s->other_copy, CHECK_BYTES) + 2 * min_size(s->one_codes, CHECK_BYTES),
        plan->separate ? taken : s->source_weight + s->one_codes + s->one_factors, FLRQ_PLAN_VERIFY);
    plan->host_bytes = plan->device_bytes = 0;
    for (unsigned phase = 1; phase & ALL_PHASES; phase <<= 1) {
        size_t host = 0, device = 0;
        for (int i = 0; i < plan->items; i++)
            if (plan->item[i].phases & phase) host += plan->item[i].host, device += plan->item[i].device;
        plan->host_bytes = max_size(plan->host_bytes, host);
        plan->device_bytes = max_size(plan->device_bytes, device);
    }
}

/* Halves the token batch until the plan fits the device, in units of FLRQ_TOKEN_TILE. True when it does. */
static int fit_batch(flrq_plan *plan, const flrq_config *c, const flrq_model *model, const sizes *s,
                     const flrq_plan_target *target) {
    for (int64_t batch = target->batch ? target->batch : plan->length;;) {
        plan->batch = batch;
        lay_out(plan, c, model, s, target->threads);
        if (!plan->device_limit || plan->device_bytes <= plan->device_limit) return 1;
        int64_t half = (batch / 2 + FLRQ_TOKEN_TILE - 1) / FLRQ_TOKEN_TILE * FLRQ_TOKEN_TILE;
        if (target->batch || half >= batch) return 0;
        batch = half;
    }
}

/* On a device with memory of its own: first with overlap and the activations on the device, then with less of both. */
static flrq_status fit_device(flrq_plan *plan, const flrq_config *c, const flrq_model *model, const sizes *s,
                              const flrq_plan_target *target) {
    for (plan->overlap = c->overlap != OVERLAP_OFF; plan->overlap >= (c->overlap == OVERLAP_ON); plan->overlap--)
        for (plan->activations_on_host = 0; plan->activations_on_host <= plan->calibrated; plan->activations_on_host++)
            if (fit_batch(plan, c, model, s, target)) return FLRQ_OK;
    const flrq_plan_item *largest = &plan->item[0];
    for (int i = 1; i < plan->items; i++)
        if (plan->item[i].device > largest->device) largest = &plan->item[i];
    return flrq_fail(
        FLRQ_ERR_MEMORY,
        "%s: at least %zu bytes of device memory wanted, %zu to be had; the largest part is %zu for %s; use "
        "a shorter --calib-len, fewer --calib-samples, or another --device",
        model->dir, plan->device_bytes, plan->device_limit, largest->device, largest->name);
}

flrq_plan_target flrq_plan_target_of(const flrq_config *c, const flrq_device_info *device) {
    flrq_plan_target target = {.threads = device->threads, .separate = device->separate_memory, .open = 1};
    size_t asked = (size_t)(c->device_memory * 1e9);
    if (target.separate) target.memory = asked && asked < device->free_bytes ? asked : device->free_bytes;
    return target;
}

/* --ranks-from: no rule chooses, and the buffers are for the largest rank. */
static flrq_status take_ranks(flrq_plan *plan, const flrq_config *c, const flrq_model *model) {
    int64_t *ranks;
    size_t bytes = (size_t)model->n_linears * sizeof *ranks;
    if (!c->ranks_from) return FLRQ_OK;
    FLRQ_TRY(flrq_ranks_read(&ranks, c->ranks_from, model));
    plan->fit.rank.rule = FLRQ_RANK_FIXED;
    plan->fit.rank.fixed = 0;
    for (int64_t i = 0; i < model->n_linears; i++)
        if (ranks[i] > plan->fit.rank.fixed) plan->fit.rank.fixed = ranks[i];
    plan->ranks_hash = XXH3_64bits(ranks, bytes);
    free(ranks);
    return FLRQ_OK;
}

flrq_status flrq_plan_make(flrq_plan *plan, const flrq_config *c, const flrq_model *model, int64_t segments,
                           int64_t length, const flrq_plan_target *target) {
    sizes s;
    memset(plan, 0, sizeof *plan);
    if (model->quantized)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s is already quantized; quantize its source instead", model->dir);
    if (model->n_linears == 0) return flrq_fail(FLRQ_ERR_FORMAT, "%s: no linear layer found to quantize", model->dir);
    flrq_fit_options_from(&plan->fit, c, model->dtype);
    FLRQ_TRY(take_ranks(plan, c, model));
    plan->scale_dtype = plan->fit.factor_dtype;
    plan->calibrated = segments > 0;
    plan->segments = segments, plan->length = length;
    plan->groups = flrq_token_groups(segments);
    plan->workers = plan->fit.sketch.workers = target->workers > 1 ? target->workers : 1;
    plan->separate = target->separate;
    if (target->separate && c->precision != PRECISION_FULL)
        plan->precision = plan->fit.sketch.precision = FLRQ_PRECISION_FAST;
    FLRQ_TRY(measure(plan, c, model, &s));
    if (target->separate) {
        /* The context of an open device is among neither the plan's free bytes nor what is still to be taken. */
        if (target->memory) plan->device_limit = target->memory + (target->open ? CUDA_CONTEXT : 0);
        return fit_device(plan, c, model, &s, target);
    }
    plan->overlap = c->overlap == OVERLAP_ON;
    plan->batch = FLRQ_TOKEN_TILE;
    lay_out(plan, c, model, &s, target->threads);
    return FLRQ_OK;
}

/* What to plan for: the device, or, on a machine without the GPU that will run the job, its --device-memory. */
static flrq_status find_target(const flrq_config *c, flrq_reporter *reporter, flrq_plan_target *target) {
    flrq_backend *be;
    flrq_device_info device;
    flrq_status status = flrq_backend_open(&be, c->device, (int)c->threads);
    if (status == FLRQ_OK) {
        status = be->info(be, &device);
        if (status == FLRQ_OK) *target = flrq_plan_target_of(c, &device);
        flrq_backend_close(be);
        return status;
    }
    if (status == FLRQ_ERR_USAGE || (strcmp(c->device, "cuda") != 0 && strncmp(c->device, "cuda:", 5) != 0))
        return status;
    *target = (flrq_plan_target){.threads = c->threads ? (int)c->threads : flrq_hardware_threads(),
                                 .separate = 1,
                                 .memory = (size_t)(c->device_memory * 1e9)};
    if (c->device_memory > 0)
        flrq_notice(reporter, "planned for a device of %g GB that is not here (%s)", c->device_memory,
                    flrq_last_error());
    else
        flrq_notice(reporter, "planned for a device of unknown memory (--device-memory) that is not here (%s)",
                    flrq_last_error());
    return FLRQ_OK;
}

static const char *place_of(const flrq_plan_item *item) {
    return item->host && item->device ? "both" : item->device ? "device" : "host";
}

static json_t *memory_table(const flrq_plan *plan) {
    json_t *memory = json_array();
    for (int i = 0; i < plan->items; i++) {
        const flrq_plan_item *item = &plan->item[i];
        json_array_append_new(memory,
                              json_pack("{s:s, s:s, s:I, s:I}", "name", item->name, "place", place_of(item), "bytes",
                                        (json_int_t)item->host, "device_bytes", (json_int_t)item->device));
    }
    return memory;
}

flrq_status flrq_job_plan(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    flrq_model *model;
    flrq_plan plan;
    flrq_plan_target target;
    int64_t segments, length;
    int weights_only = c->calib && strcmp(c->calib, "none") == 0;
    FLRQ_TRY(flrq_model_open(&model, c->model, weights_only ? FLRQ_MODEL_ALLOW_UNKNOWN : 0));
    flrq_status status = flrq_plan_calibration(params, model, reporter, &segments, &length);
    if (status == FLRQ_OK) status = find_target(c, reporter, &target);
    if (status == FLRQ_OK) target.workers = (int)c->workers;
    if (status == FLRQ_OK) status = flrq_plan_make(&plan, c, model, segments, length, &target);
    if (status != FLRQ_OK) {
        flrq_model_close(model);
        return status;
    }
    json_t *tensors = json_array();
    double lowest = 0, highest = 0, weights = (double)plan.weights;
    int64_t rank_cap_max = 0;
    for (int64_t i = 0; i < model->n_linears; i++) {
        const flrq_linear *l = &model->linears[i];
        int64_t cap = flrq_fit_rank_cap(&plan.fit, l->rows, l->cols);
        double share = (double)(l->rows * l->cols) / weights;
        lowest += share * flrq_scheme_bits(&plan.fit.scheme, l->rows, l->cols, 0);
        highest += share * flrq_scheme_bits(&plan.fit.scheme, l->rows, l->cols, cap);
        if (cap > rank_cap_max) rank_cap_max = cap;
        json_array_append_new(tensors, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "name", l->module, "rows",
                                                 (json_int_t)l->rows, "cols", (json_int_t)l->cols, "groups",
                                                 (json_int_t)flrq_scheme_groups(&plan.fit.scheme, l->cols), "tail",
                                                 (json_int_t)(l->cols % flrq_scheme_group(&plan.fit.scheme, l->cols)),
                                                 "rank_cap", (json_int_t)cap));
    }
    uint64_t disk_free = 0;
    if (c->out) status = flrq_dir_free_bytes(c->out, &disk_free);
    json_t *time = NULL;
    if (status == FLRQ_OK) status = flrq_predict_json(&time, &plan, c, model);
    if (status != FLRQ_OK)
        json_decref(tensors);
    else
        *result = json_pack(
            "{s:s, s:s?, s:s, s:I, s:I, s:I, s:{s:I, s:I, s:b}, s:{s:I, s:I}, s:I, s:f, s:f, s:o, s:I, s:I, s:I, s:I, "
            "s:f, s:{s:b, s:b, s:I, s:I, s:I, s:b, s:b}, s:o, s:o}",
            "model", c->model, "out", c->out, "family", model->family_name, "blocks", (json_int_t)model->layers,
            "linears", (json_int_t)model->n_linears, "weights", (json_int_t)plan.weights, "scheme", "bits",
            (json_int_t)c->bits, "group", (json_int_t)c->group, "symmetric", c->symmetric, "calibration", "segments",
            (json_int_t)segments, "length", (json_int_t)length, "rank_cap_max", (json_int_t)rank_cap_max,
            "bits_per_weight_min", lowest, "bits_per_weight_max", highest, "memory", memory_table(&plan), "host_bytes",
            (json_int_t)plan.host_bytes, "output_bytes", (json_int_t)plan.output_bytes, "scratch_bytes",
            (json_int_t)plan.scratch_bytes, "disk_free_bytes", (json_int_t)disk_free, "flops", plan.flops, "device",
            "separate", plan.separate, "open", target.open, "bytes", (json_int_t)plan.device_bytes, "limit",
            (json_int_t)plan.device_limit, "batch", (json_int_t)plan.batch, "overlap", plan.overlap,
            "activations_on_host", plan.activations_on_host, "time", time, "tensors", tensors);
    flrq_model_close(model);
    return status;
}
