/* weights.c - brings the weights of one block, or of embedding and head, into backend memory.
 *
 * One arena per flrq_block, sized once for the largest block; loading a block lays its tensors out afresh and allocates
 * nothing. Dense weights keep their source type; vectors, scales and low-rank factors become fp32; packed codes become
 * one byte each through the backend's unpack. Data goes through the slots of a feed in pieces, so host memory does not
 * grow with the model; with a feed on a lane a block is loaded beside the ops. Non-finite values are the caller's
 * business.
 */
#include "model/family.h"

#include <stdlib.h>
#include <string.h>
#include "backend/comm.h"
#include "core/dtype.h"

enum { STAGING_BYTES = 4 << 20, ALIGN = 64 };

/* ---- layout ------------------------------------------------------------------------------------------------------ */

/** Hands out consecutive aligned parts of an arena; without a base it only counts. */
typedef struct carver {
    char *base;
    size_t used;
} carver;

static void *carve(carver *c, size_t bytes) {
    size_t at = c->used;
    c->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return c->base ? c->base + at : NULL;
}

static float *carve_floats(carver *c, int64_t count) {
    return carve(c, (size_t)count * sizeof(float));
}

static flrq_operand dense_operand(carver *c, const flrq_tensor *tensor) {
    return (flrq_operand){.rows = tensor->shape[0],
                          .cols = tensor->shape[1],
                          .d_dense = carve(c, tensor->bytes),
                          .ld_dense = tensor->shape[1],
                          .dense_dtype = tensor->dtype,
                          .codes_sign = 1,
                          .lr_sign = 1};
}

/** Groups of a quantized layer along its columns. */
static int64_t group_columns(const flrq_model *model, const flrq_linear *linear) {
    return model->scheme.group > 0 && model->scheme.group < linear->cols ? model->scheme.group : linear->cols;
}

static void place_linear(const flrq_model *model, const flrq_linear *linear, flrq_block *block, carver *c) {
    flrq_operand *a = &block->linear[linear->slot];
    if (linear->weight) {
        *a = dense_operand(c, linear->weight);
    } else {
        flrq_codes *codes = &block->codes[linear->slot];
        int64_t group = group_columns(model, linear), n_groups = (linear->cols + group - 1) / group;
        *codes = (flrq_codes){.rows = linear->rows,
                              .cols = linear->cols,
                              .group = group,
                              .n_groups = n_groups,
                              .bits = model->scheme.bits,
                              .symmetric = model->scheme.symmetric};
        codes->code = carve(c, (size_t)(linear->rows * linear->cols));
        codes->scale = carve_floats(c, linear->rows * n_groups);
        if (linear->zero) codes->zero = carve(c, (size_t)(linear->rows * n_groups));
        *a = (flrq_operand){.rows = linear->rows, .cols = linear->cols, .codes_sign = 1, .codes = codes, .lr_sign = 1};
    }
    if (linear->lora_a) {
        a->rank = linear->lora_a->shape[0];
        a->d_l = carve_floats(c, linear->rows * a->rank);
        a->d_r = carve_floats(c, a->rank * linear->cols);
    }
    block->d_bias[linear->slot] = linear->bias ? carve_floats(c, linear->rows) : NULL;
}

/** The vectors of a block: where each lies in flrq_block and what fills it. */
typedef struct block_vector {
    const flrq_tensor *tensor; /* NULL: the family has none */
    const float **d_vector;
} block_vector;

enum { BLOCK_VECTORS = 6 };

static void list_vectors(const flrq_model *model, int64_t index, flrq_block *block, block_vector out[BLOCK_VECTORS]) {
    const flrq_param *p = &model->block_params[index * FLRQ_BLOCK_PARAM_COUNT];
    const block_vector all[BLOCK_VECTORS] = {
        {p[FLRQ_BLOCK_ATTN_NORM].weight, &block->d_attn_norm}, {p[FLRQ_BLOCK_ATTN_NORM].bias, &block->d_attn_norm_bias},
        {p[FLRQ_BLOCK_MLP_NORM].weight, &block->d_mlp_norm},   {p[FLRQ_BLOCK_MLP_NORM].bias, &block->d_mlp_norm_bias},
        {p[FLRQ_BLOCK_Q_NORM].weight, &block->d_q_norm},       {p[FLRQ_BLOCK_K_NORM].weight, &block->d_k_norm},
    };
    memcpy(out, all, sizeof all);
}

/** Sets every pointer of `block` for block `index` of the model. The parts that serve all blocks come first, at the
 * same place each time. */
static void place_block(const flrq_model *model, int64_t index, flrq_block *block, carver *c) {
    if (model->quantized) block->d_words = carve(c, block->staging_bytes);
    if (model->inv_freq) block->d_inv_freq = carve_floats(c, model->head_dim / 2);
    for (int64_t i = model->block_first[index]; i < model->block_first[index + 1]; i++)
        place_linear(model, &model->linears[i], block, c);
    block_vector vectors[BLOCK_VECTORS];
    list_vectors(model, index, block, vectors);
    for (int v = 0; v < BLOCK_VECTORS; v++)
        *vectors[v].d_vector = vectors[v].tensor ? carve_floats(c, flrq_tensor_count(vectors[v].tensor)) : NULL;
}

/** The smallest part of a packed tensor that is loaded at once: a row of codes; 32 rows of zero points, packed and
 * unpacked. */
static size_t packed_unit(const flrq_linear *l) {
    size_t row = (size_t)l->packed->shape[1] * sizeof(int32_t);
    size_t zeros = l->zero ? 2 * 32 * (size_t)l->zero->shape[1] : 0;
    return row > zeros ? row : zeros;
}

size_t flrq_packed_slot_bytes(const flrq_model *model) {
    size_t bytes = STAGING_BYTES;
    for (int64_t i = 0; i < model->n_linears; i++) {
        const flrq_linear *l = &model->linears[i];
        if (l->packed && packed_unit(l) > bytes) bytes = packed_unit(l);
    }
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t arena_size(const flrq_model *model, size_t staging_bytes) {
    size_t largest = 0;
    for (int64_t i = 0; i < model->layers; i++) {
        flrq_block counted = {.staging_bytes = staging_bytes};
        carver c = {NULL, 0};
        place_block(model, i, &counted, &c);
        if (c.used > largest) largest = c.used;
    }
    return largest;
}

size_t flrq_block_bytes(const flrq_model *model) {
    if (!model->family) return 0;
    size_t staging = flrq_packed_slot_bytes(model);
    return staging + arena_size(model, staging);
}

size_t flrq_block_host_bytes(const flrq_model *model) {
    return model->family ? flrq_packed_slot_bytes(model) : 0;
}

/* ---- transfer ---------------------------------------------------------------------------------------------------- */

/** factor * tensor as fp32. The first half of a slot takes the file's values, the second the converted ones. */
static flrq_status load_floats(flrq_feed *feed, const flrq_checkpoint *from, const flrq_tensor *tensor, double factor,
                               const float *d_to) {
    if (tensor->dtype == FLRQ_F32 && factor == 1) return flrq_feed_tensor(feed, from, tensor, (void *)d_to);
    int64_t count = flrq_tensor_count(tensor), piece = (int64_t)(feed->slot_bytes / 2 / sizeof(float));
    size_t element = (size_t)flrq_dtype_bits(tensor->dtype) / 8;
    for (int64_t at = 0; at < count; at += piece) {
        int64_t n = count - at < piece ? count - at : piece;
        char *slot;
        FLRQ_TRY(flrq_feed_take(feed, &slot));
        float *converted = (float *)(slot + feed->slot_bytes / 2);
        FLRQ_TRY(flrq_checkpoint_read(from, tensor, slot, (uint64_t)at * element, (uint64_t)n * element));
        for (int64_t i = 0; i < n; i++) converted[i] = (float)(factor * flrq_load(slot, tensor->dtype, i));
        FLRQ_TRY(flrq_feed_send(feed, (float *)d_to + at, converted, (size_t)n * sizeof(float)));
    }
    return FLRQ_OK;
}

/** Packed words, whole rows at a time, to codes. d_words has room for a slot; unpacking is an op, so the feed has no
 * lane. */
static flrq_status load_codes(flrq_feed *feed, const flrq_checkpoint *from, const flrq_tensor *packed,
                              const flrq_codes *codes, int32_t *d_words) {
    uint64_t row_bytes = (uint64_t)packed->shape[1] * sizeof(int32_t);
    int64_t piece = (int64_t)(feed->slot_bytes / row_bytes);
    for (int64_t row = 0; row < codes->rows; row += piece) {
        int64_t rows = codes->rows - row < piece ? codes->rows - row : piece;
        char *slot;
        FLRQ_TRY(flrq_feed_take(feed, &slot));
        FLRQ_TRY(flrq_checkpoint_read(from, packed, slot, (uint64_t)row * row_bytes, (uint64_t)rows * row_bytes));
        FLRQ_TRY(flrq_feed_send(feed, d_words, slot, (size_t)rows * row_bytes));
        FLRQ_TRY(feed->be->unpack(feed->be, codes->code + row * codes->cols, d_words, rows, codes->cols, codes->bits));
    }
    return FLRQ_OK;
}

/** Zero points are packed down the columns (formats.md 2.2): 32 rows of them are `bits` rows of words. */
static flrq_status load_zeros(flrq_feed *feed, const flrq_checkpoint *from, const flrq_tensor *packed,
                              const flrq_codes *codes) {
    const int64_t bits = codes->bits, groups = codes->n_groups;
    const uint64_t word_row = (uint64_t)groups * sizeof(uint32_t);
    const int64_t piece =
        (int64_t)(feed->slot_bytes / 2 / (32 * (uint64_t)groups)) * 32; /* rows; words take at most as much */
    for (int64_t row = 0; row < codes->rows; row += piece) {
        int64_t rows = codes->rows - row < piece ? codes->rows - row : piece;
        int64_t first_word = row / 32 * bits, words = (rows * bits + 31) / 32;
        char *slot;
        FLRQ_TRY(flrq_feed_take(feed, &slot));
        FLRQ_TRY(flrq_checkpoint_read(from, packed, slot, (uint64_t)first_word * word_row, (uint64_t)words * word_row));
        const uint32_t *word = (const uint32_t *)slot;
        uint8_t *zero = (uint8_t *)slot + feed->slot_bytes / 2;
        for (int64_t i = 0; i < rows; i++) {
            int64_t at = i * bits / 32, shift = i * bits % 32;
            for (int64_t g = 0; g < groups; g++) {
                uint64_t pair = word[at * groups + g];
                if (shift + bits > 32) pair |= (uint64_t)word[(at + 1) * groups + g] << 32;
                zero[i * groups + g] = (uint8_t)(pair >> shift & ((1u << bits) - 1));
            }
        }
        FLRQ_TRY(flrq_feed_send(feed, codes->zero + row * groups, zero, (size_t)(rows * groups)));
    }
    return FLRQ_OK;
}

/** A packed layer into its arrays. */
static flrq_status load_packed(flrq_feed *feed, const flrq_model *model, const flrq_linear *linear,
                               const flrq_codes *codes, const float *d_l, const float *d_r, int32_t *d_words) {
    FLRQ_TRY(load_codes(feed, model->checkpoint, linear->packed, codes, d_words));
    FLRQ_TRY(load_floats(feed, model->checkpoint, linear->scale, 1, codes->scale));
    if (linear->zero) FLRQ_TRY(load_zeros(feed, model->checkpoint, linear->zero, codes));
    if (!linear->lora_a) return FLRQ_OK;
    FLRQ_TRY(load_floats(feed, model->adapter, linear->lora_b, linear->lora_scaling, d_l));
    return load_floats(feed, model->adapter, linear->lora_a, 1, d_r);
}

flrq_status flrq_linear_load_packed_through(const flrq_model *model, flrq_feed *feed, void *d_words,
                                            const flrq_linear *linear, flrq_codes *codes, float *d_l, float *d_r,
                                            int64_t *rank) {
    const flrq_scheme *scheme = &model->scheme;
    codes->rows = linear->rows, codes->cols = linear->cols;
    codes->group = scheme->group > 0 && scheme->group < linear->cols ? scheme->group : linear->cols;
    codes->n_groups = (linear->cols + codes->group - 1) / codes->group;
    codes->bits = scheme->bits, codes->symmetric = scheme->symmetric;
    *rank = linear->lora_a ? linear->lora_a->shape[0] : 0;
    FLRQ_TRY(load_packed(feed, model, linear, codes, d_l, d_r, d_words));
    return flrq_feed_wait(feed);
}

flrq_status flrq_linear_load_packed(const flrq_model *model, flrq_backend *be, const flrq_linear *linear,
                                    flrq_codes *codes, float *d_l, float *d_r, int64_t *rank) {
    size_t bytes = packed_unit(linear) > STAGING_BYTES ? packed_unit(linear) : STAGING_BYTES;
    flrq_status status = FLRQ_OK;
    void *d_words = NULL;
    flrq_feed feed;
    FLRQ_TRY(flrq_feed_new(&feed, be, bytes, 1, 0));
    FLRQ_GOTO(be->alloc(be, &d_words, bytes, "packed words"));
    status = flrq_linear_load_packed_through(model, &feed, d_words, linear, codes, d_l, d_r, rank);
out:
    be->release(be, d_words);
    flrq_feed_free(&feed);
    return status;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

flrq_status flrq_block_new(flrq_block **out, const flrq_model *model, flrq_backend *be) {
    *out = NULL;
    if (!model->family)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: family \"%s\" is unknown: its blocks cannot be run", model->dir,
                         model->family_name);
    flrq_status status;
    flrq_block *block = calloc(1, sizeof *block);
    if (!block) return flrq_fail_memory(sizeof *block, "a block");
    block->index = -1;
    block->size = 1;
    block->staging_bytes = flrq_packed_slot_bytes(model);
    block->memory_bytes = arena_size(model, block->staging_bytes);
    status = flrq_feed_new(&block->feed, be, block->staging_bytes, 1, 0);
    if (status != FLRQ_OK) goto fail;
    status = be->alloc(be, &block->d_memory, block->memory_bytes, "the weights of one block");
    if (status != FLRQ_OK) goto fail;
    if (model->inv_freq) {
        carver c = {block->d_memory, 0};
        place_block(model, 0, block, &c);
        status =
            be->upload(be, (float *)block->d_inv_freq, model->inv_freq, (size_t)(model->head_dim / 2) * sizeof(float));
        if (status != FLRQ_OK) goto fail;
    }
    *out = block;
    return FLRQ_OK;
fail:
    flrq_block_free(block, be);
    return status;
}

flrq_status flrq_block_load_through(flrq_block *block, const flrq_model *model, flrq_feed *feed, int64_t index) {
    block->index = -1; /* until all of it has arrived */
    carver c = {block->d_memory, 0};
    place_block(model, index, block, &c);
    for (int64_t i = model->block_first[index]; i < model->block_first[index + 1]; i++) {
        const flrq_linear *linear = &model->linears[i];
        const flrq_operand *a = &block->linear[linear->slot];
        if (linear->weight) {
            flrq_range rows = flrq_share_rows(linear->rows, block->rank, block->size);
            uint64_t row_bytes = linear->weight->bytes / (uint64_t)linear->rows;
            FLRQ_TRY(flrq_feed_range(feed, model->checkpoint, linear->weight, (uint64_t)rows.first * row_bytes,
                                     (uint64_t)rows.count * row_bytes, (void *)a->d_dense));
        } else {
            if (feed->lane)
                return flrq_fail(FLRQ_ERR_INTERNAL,
                                 "tensor %s.weight_packed: loaded beside the ops, but unpacking is one",
                                 linear->module);
            FLRQ_TRY(load_packed(feed, model, linear, a->codes, a->d_l, a->d_r, block->d_words));
        }
        if (linear->bias) FLRQ_TRY(load_floats(feed, model->checkpoint, linear->bias, 1, block->d_bias[linear->slot]));
    }
    block_vector vectors[BLOCK_VECTORS];
    list_vectors(model, index, block, vectors);
    for (int v = 0; v < BLOCK_VECTORS; v++)
        if (vectors[v].tensor)
            FLRQ_TRY(load_floats(feed, model->checkpoint, vectors[v].tensor, 1, *vectors[v].d_vector));
    FLRQ_TRY(flrq_feed_wait(feed));
    block->index = index;
    return FLRQ_OK;
}

flrq_status flrq_block_load(flrq_block *block, const flrq_model *model, int64_t index) {
    return flrq_block_load_through(block, model, &block->feed, index);
}

void flrq_block_free(flrq_block *block, flrq_backend *be) {
    if (!block) return;
    be->release(be, block->d_memory);
    flrq_feed_free(&block->feed);
    free(block);
}

/* ---- embedding and head ------------------------------------------------------------------------------------------ */

/** The matrix that turns hidden states into logits. */
static const flrq_tensor *head_tensor(const flrq_model *model) {
    return model->params[model->tied ? FLRQ_PARAM_EMBEDDING : FLRQ_PARAM_HEAD].weight;
}

static void place_globals(const flrq_model *model, int parts, flrq_globals *g, carver *c) {
    const flrq_param *p = model->params;
    int projects = p[FLRQ_PARAM_PROJECT_IN].weight != NULL;
    if (projects) g->d_tile = carve_floats(c, FLRQ_TOKEN_TILE * model->embed_dim);
    if (parts & FLRQ_GLOBALS_EMBED) {
        g->embedding = dense_operand(c, p[FLRQ_PARAM_EMBEDDING].weight);
        if (p[FLRQ_PARAM_POSITIONS].weight) g->positions = dense_operand(c, p[FLRQ_PARAM_POSITIONS].weight);
        if (projects) g->project_in = dense_operand(c, p[FLRQ_PARAM_PROJECT_IN].weight);
    }
    if (parts & FLRQ_GLOBALS_HEAD) {
        int shared = model->tied && (parts & FLRQ_GLOBALS_EMBED);
        g->head = shared ? g->embedding : dense_operand(c, head_tensor(model));
        if (p[FLRQ_PARAM_FINAL_NORM].weight) g->d_norm = carve_floats(c, model->hidden);
        if (p[FLRQ_PARAM_FINAL_NORM].bias) g->d_norm_bias = carve_floats(c, model->hidden);
        if (projects) g->project_out = dense_operand(c, p[FLRQ_PARAM_PROJECT_OUT].weight);
    }
}

size_t flrq_globals_bytes(const flrq_model *model, int parts) {
    if (!model->family) return 0;
    flrq_globals counted = {0};
    carver c = {NULL, 0};
    place_globals(model, parts, &counted, &c);
    return c.used;
}

static flrq_status fill_globals(flrq_feed *feed, const flrq_model *model, const flrq_globals *g) {
    const flrq_checkpoint *from = model->checkpoint;
    const flrq_param *p = model->params;
    if (g->embedding.rows)
        FLRQ_TRY(flrq_feed_tensor(feed, from, p[FLRQ_PARAM_EMBEDDING].weight, (void *)g->embedding.d_dense));
    if (g->positions.rows)
        FLRQ_TRY(flrq_feed_tensor(feed, from, p[FLRQ_PARAM_POSITIONS].weight, (void *)g->positions.d_dense));
    if (g->project_in.rows)
        FLRQ_TRY(flrq_feed_tensor(feed, from, p[FLRQ_PARAM_PROJECT_IN].weight, (void *)g->project_in.d_dense));
    if (g->project_out.rows)
        FLRQ_TRY(flrq_feed_tensor(feed, from, p[FLRQ_PARAM_PROJECT_OUT].weight, (void *)g->project_out.d_dense));
    if (g->d_norm) FLRQ_TRY(load_floats(feed, from, p[FLRQ_PARAM_FINAL_NORM].weight, 1, g->d_norm));
    if (g->d_norm_bias) FLRQ_TRY(load_floats(feed, from, p[FLRQ_PARAM_FINAL_NORM].bias, 1, g->d_norm_bias));
    if (g->head.rows && g->head.d_dense != g->embedding.d_dense)
        FLRQ_TRY(flrq_feed_tensor(feed, from, head_tensor(model), (void *)g->head.d_dense));
    return FLRQ_OK;
}

flrq_status flrq_globals_load(flrq_globals **out, const flrq_model *model, flrq_backend *be, int parts) {
    *out = NULL;
    if (!model->family)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: family \"%s\" is unknown: it cannot be run", model->dir,
                         model->family_name);
    flrq_status status = FLRQ_OK;
    flrq_feed feed = {0};
    flrq_globals *g = calloc(1, sizeof *g);
    if (!g) return flrq_fail_memory(sizeof *g, "embedding and head");
    FLRQ_GOTO(flrq_feed_new(&feed, be, STAGING_BYTES, 1, 0));
    FLRQ_GOTO(be->alloc(be, &g->d_memory, flrq_globals_bytes(model, parts), "embedding and head"));
    carver c = {g->d_memory, 0};
    place_globals(model, parts, g, &c);
    FLRQ_GOTO(fill_globals(&feed, model, g));
    FLRQ_GOTO(flrq_feed_wait(&feed));
    if (g->positions.rows) {
        g->position_rows = malloc((size_t)model->max_positions * sizeof *g->position_rows);
        if (!g->position_rows) {
            status = flrq_fail_memory((size_t)model->max_positions * sizeof *g->position_rows, "position numbers");
            goto out;
        }
        for (int64_t i = 0; i < model->max_positions; i++)
            g->position_rows[i] = (int32_t)(i + model->family->position_offset);
    }
    *out = g;
    g = NULL;
out:
    flrq_feed_free(&feed);
    flrq_globals_free(g, be);
    return status;
}

void flrq_globals_free(flrq_globals *globals, flrq_backend *be) {
    if (!globals) return;
    be->release(be, globals->d_memory);
    free(globals->position_rows);
    free(globals);
}
