/* model.c - opens a folder: config.json, every tensor's role and fate, shapes, the quantized parts and the adapter.
 *
 * Names are generated from the families table and looked up; what is left over afterwards is dropped for a named reason
 * or is an error. So a missing tensor, a surplus one and a shape that contradicts config.json are all found before any
 * tensor data is read. The only data read here are weight_shape entries and a few rows of a tied head.
 */
#include "model/family.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/dtype.h"
#include "io/file.h"

enum { CONFIG_MAX_BYTES = 16 << 20 };

/* ---- accounting -------------------------------------------------------------------------------------------------- */

typedef enum claim_kind { CLAIM_NONE = 0, CLAIM_LINEAR = 1, CLAIM_OTHER = 2 } claim_kind;

/** What is known of one tensor of the checkpoint so far. */
typedef struct claim {
    claim_kind kind;
    flrq_fate fate;
    const char *reason;
    int64_t block;
} claim;

typedef struct account {
    flrq_model *model;
    claim *claims; /* one per tensor */
    char *name;    /* room for the longest tensor name */
    size_t name_bytes;
    size_t strip; /* bytes of old_prefix that this checkpoint's names lack */
} account;

/** The module's name in this checkpoint: old files of some families lack the first component. */
static const char *name_in_file(const account *a, const char *module) {
    int old = a->strip && strncmp(module, a->model->family->old_prefix, a->strip) == 0;
    return old ? module + a->strip : module;
}

/** Claims the tensor <module>.<suffix>; NULL when the checkpoint has none. */
static const flrq_tensor *take(account *a, const char *module, const char *suffix, claim_kind kind, int64_t block) {
    int length = snprintf(a->name, a->name_bytes, "%s.%s", name_in_file(a, module), suffix);
    if (length < 0 || (size_t)length >= a->name_bytes) return NULL; /* longer than any name there is */
    const flrq_checkpoint *checkpoint = a->model->checkpoint;
    const flrq_tensor *tensor = flrq_checkpoint_find(checkpoint, a->name);
    if (tensor) a->claims[tensor - checkpoint->tensors] = (claim){kind, FLRQ_FATE_COPY, NULL, block};
    return tensor;
}

static flrq_status account_open(account *a, flrq_model *model) {
    const flrq_checkpoint *checkpoint = model->checkpoint;
    *a = (account){.model = model};
    for (int64_t i = 0; i < checkpoint->n_tensors; i++) {
        size_t length = strlen(checkpoint->tensors[i].name);
        if (length >= a->name_bytes) a->name_bytes = length + 1;
    }
    size_t bytes = (size_t)(checkpoint->n_tensors + 1) * sizeof *a->claims;
    a->claims = calloc(1, bytes);
    if (!a->claims) return flrq_fail_memory(bytes, "the accounting of tensors");
    a->name = malloc(a->name_bytes + 1);
    if (!a->name) return flrq_fail_memory(a->name_bytes + 1, "a tensor name");

    const flrq_family *family = model->family;
    if (family && family->old_prefix) {
        size_t strip = strlen(family->old_prefix), length = strlen(family->param[FLRQ_PARAM_EMBEDDING]);
        for (int64_t i = 0; i < checkpoint->n_tensors; i++)
            if (strncmp(checkpoint->tensors[i].name, family->param[FLRQ_PARAM_EMBEDDING] + strip, length - strip) == 0)
                a->strip = strip;
    }
    return FLRQ_OK;
}

static void account_close(account *a) {
    free(a->claims);
    free(a->name);
}

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* Dimensions that config.json determines. */
typedef enum dim {
    DIM_NONE = 0,
    DIM_HIDDEN,
    DIM_FFN,
    DIM_HEADS,
    DIM_KV_HEADS,
    DIM_HEAD_DIM,
    DIM_VOCAB,
    DIM_EMBED,
    DIM_POSITIONS
} dim;

static const dim slot_dims[FLRQ_SLOT_COUNT][2] = {
    [FLRQ_SLOT_Q] = {DIM_HEADS, DIM_HIDDEN},    [FLRQ_SLOT_K] = {DIM_KV_HEADS, DIM_HIDDEN},
    [FLRQ_SLOT_V] = {DIM_KV_HEADS, DIM_HIDDEN}, [FLRQ_SLOT_O] = {DIM_HIDDEN, DIM_HEADS},
    [FLRQ_SLOT_GATE] = {DIM_FFN, DIM_HIDDEN},   [FLRQ_SLOT_UP] = {DIM_FFN, DIM_HIDDEN},
    [FLRQ_SLOT_DOWN] = {DIM_HIDDEN, DIM_FFN},
};
static const dim block_param_dims[FLRQ_BLOCK_PARAM_COUNT] = {
    [FLRQ_BLOCK_ATTN_NORM] = DIM_HIDDEN,
    [FLRQ_BLOCK_MLP_NORM] = DIM_HIDDEN,
    [FLRQ_BLOCK_Q_NORM] = DIM_HEAD_DIM,
    [FLRQ_BLOCK_K_NORM] = DIM_HEAD_DIM,
};
static const dim param_dims[FLRQ_PARAM_COUNT][2] = {
    [FLRQ_PARAM_EMBEDDING] = {DIM_VOCAB, DIM_EMBED},   [FLRQ_PARAM_POSITIONS] = {DIM_POSITIONS, DIM_HIDDEN},
    [FLRQ_PARAM_PROJECT_IN] = {DIM_HIDDEN, DIM_EMBED}, [FLRQ_PARAM_PROJECT_OUT] = {DIM_EMBED, DIM_HIDDEN},
    [FLRQ_PARAM_FINAL_NORM] = {DIM_HIDDEN, DIM_NONE},  [FLRQ_PARAM_HEAD] = {DIM_VOCAB, DIM_EMBED},
};

static int64_t dim_size(const flrq_model *model, dim which) {
    switch (which) {
    case DIM_NONE:
        break;
    case DIM_HIDDEN:
        return model->hidden;
    case DIM_FFN:
        return model->ffn;
    case DIM_HEADS:
        return model->heads * model->head_dim;
    case DIM_KV_HEADS:
        return model->kv_heads * model->head_dim;
    case DIM_HEAD_DIM:
        return model->head_dim;
    case DIM_VOCAB:
        return model->vocab;
    case DIM_EMBED:
        return model->embed_dim;
    case DIM_POSITIONS:
        return model->max_positions + model->family->position_offset;
    }
    return 0;
}

/** The config keys behind a dimension, for messages. */
static const char *dim_text(const flrq_model *model, dim which, char text[128]) {
    const flrq_family *family = model->family;
    const char *key = "hidden_size";
    switch (which) {
    case DIM_NONE:
    case DIM_HIDDEN:
        break;
    case DIM_FFN:
        key = family->ffn_key;
        break;
    case DIM_HEADS:
        key = "num_attention_heads x head_dim";
        break;
    case DIM_KV_HEADS:
        key = family->kv_heads_key ? "num_key_value_heads x head_dim" : "num_attention_heads x head_dim";
        break;
    case DIM_HEAD_DIM:
        key = "head_dim";
        break;
    case DIM_VOCAB:
        key = "vocab_size";
        break;
    case DIM_EMBED:
        key = family->embed_key ? family->embed_key : "hidden_size";
        break;
    case DIM_POSITIONS:
        key = "max_position_embeddings + offset";
        break;
    }
    if (which == DIM_HEADS)
        snprintf(text, 128, "%s = %lld x %lld", key, (long long)model->heads, (long long)model->head_dim);
    else if (which == DIM_KV_HEADS)
        snprintf(text, 128, "%s = %lld x %lld", key, (long long)model->kv_heads, (long long)model->head_dim);
    else
        snprintf(text, 128, "%s = %lld", key, (long long)dim_size(model, which));
    return text;
}

static const char *file_of(const flrq_model *model, const flrq_tensor *tensor) {
    return model->checkpoint->files[tensor->file];
}

/** "[a, b]" */
static const char *shape_text(const flrq_tensor *tensor, char text[128]) {
    int used = snprintf(text, 128, "[");
    for (int i = 0; i < tensor->dims && used < 100; i++)
        used += snprintf(text + used, 128 - (size_t)used, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    snprintf(text + used, 128 - (size_t)used, "]");
    return text;
}

static flrq_status check_float(const flrq_model *model, const flrq_tensor *tensor) {
    if (flrq_dtype_is_float(tensor->dtype)) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                     "%s: tensor %s is of type %s; weights must be F32, F16 or BF16: convert the checkpoint first",
                     file_of(model, tensor), tensor->name, flrq_dtype_name(tensor->dtype));
}

/** Type and shape of a tensor against config.json; columns DIM_NONE for a vector. */
static flrq_status check_tensor(const flrq_model *model, const flrq_tensor *tensor, dim rows, dim cols) {
    int dims = cols == DIM_NONE ? 1 : 2;
    if (tensor->dims != dims || tensor->shape[0] != dim_size(model, rows) ||
        (dims == 2 && tensor->shape[1] != dim_size(model, cols))) {
        char is[128], first[128], second[128];
        char wanted[64];
        if (dims == 1)
            snprintf(wanted, sizeof wanted, "[%lld]", (long long)dim_size(model, rows));
        else
            snprintf(wanted, sizeof wanted, "[%lld, %lld]", (long long)dim_size(model, rows),
                     (long long)dim_size(model, cols));
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: tensor %s has shape %s, but config.json says %s (%s%s%s)",
                         file_of(model, tensor), tensor->name, shape_text(tensor, is), wanted,
                         dim_text(model, rows, first), dims == 2 ? ", " : "",
                         dims == 2 ? dim_text(model, cols, second) : "");
    }
    return check_float(model, tensor);
}

static flrq_status missing(const account *a, const char *module, const char *suffix, const char *why) {
    return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s.%s is missing (%s)", a->model->dir, name_in_file(a, module),
                     suffix, why);
}

/* ---- linears ----------------------------------------------------------------------------------------------------- */

/** Attaches the tensors of linear->module: a weight, or the packed form of a quantized folder. rows and cols hold what
 * config.json says, or 0 for an unknown family; they are completed. */
static flrq_status take_linear(account *a, flrq_linear *linear, const dim dims[2], int has_bias) {
    flrq_model *model = a->model;
    const char *module = linear->module;
    int64_t block = linear->block;
    linear->lora_scaling = 1;
    linear->weight = take(a, module, "weight", CLAIM_LINEAR, block);
    linear->packed = take(a, module, "weight_packed", CLAIM_LINEAR, block);
    if (linear->packed && !model->quantized)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s is packed, but config.json has no quantization_config",
                         file_of(model, linear->packed), linear->packed->name);
    if (linear->packed && linear->weight)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: layer %s has both weight and weight_packed", model->dir, module);
    if (linear->packed) {
        linear->scale = take(a, module, "weight_scale", CLAIM_LINEAR, block);
        linear->zero = take(a, module, "weight_zero_point", CLAIM_LINEAR, block);
        const flrq_tensor *shape = take(a, module, "weight_shape", CLAIM_LINEAR, block);
        FLRQ_TRY(flrq_quantized_linear(model, linear, shape));
    } else if (!linear->weight) {
        return missing(a, module, model->quantized ? "weight_packed" : "weight",
                       "every layer of num_hidden_layers in config.json needs one");
    } else if (dims) {
        FLRQ_TRY(check_tensor(model, linear->weight, dims[0], dims[1]));
    } else {
        linear->rows = linear->weight->shape[0]; /* the pattern chose 2-D float weights */
        linear->cols = linear->weight->shape[1];
    }
    if (model->quantized) FLRQ_TRY(flrq_quantized_agrees(model, linear));
    if (!has_bias) return FLRQ_OK;

    linear->bias = take(a, module, "bias", CLAIM_OTHER, block);
    if (!linear->bias) return dims ? missing(a, module, "bias", "config.json gives this layer a bias") : FLRQ_OK;
    if (dims) return check_tensor(model, linear->bias, dims[0], DIM_NONE);
    return FLRQ_OK;
}

/** The modules of block `block` of a known family. */
static flrq_status take_block(account *a, int64_t block) {
    flrq_model *model = a->model;
    const flrq_family *family = model->family;
    char module[128];
    model->block_first[block] = model->n_linears;
    for (int slot = 0; slot < FLRQ_SLOT_COUNT; slot++) {
        if (!family->slot[slot]) continue;
        static const int inputs[FLRQ_SLOT_COUNT] = {
            [FLRQ_SLOT_Q] = FLRQ_INPUT_ATTENTION, [FLRQ_SLOT_K] = FLRQ_INPUT_ATTENTION,
            [FLRQ_SLOT_V] = FLRQ_INPUT_ATTENTION, [FLRQ_SLOT_O] = FLRQ_INPUT_OUT,
            [FLRQ_SLOT_GATE] = FLRQ_INPUT_MLP,    [FLRQ_SLOT_UP] = FLRQ_INPUT_MLP,
            [FLRQ_SLOT_DOWN] = FLRQ_INPUT_DOWN,
        };
        snprintf(module, sizeof module, "%s%lld.%s", family->layer, (long long)block, family->slot[slot]);
        flrq_linear *linear = &model->linears[model->n_linears];
        linear->module = strdup(module);
        if (!linear->module) return flrq_fail_memory(strlen(module) + 1, "a module name");
        model->n_linears++;
        linear->block = block;
        linear->slot = slot;
        linear->input = inputs[slot];
        linear->rows = dim_size(model, slot_dims[slot][0]);
        linear->cols = dim_size(model, slot_dims[slot][1]);
        FLRQ_TRY(take_linear(a, linear, slot_dims[slot], (model->bias_slots >> slot & 1) != 0));
    }
    for (int p = 0; p < FLRQ_BLOCK_PARAM_COUNT; p++) {
        if (!family->block_param[p]) continue;
        flrq_param *param = &model->block_params[block * FLRQ_BLOCK_PARAM_COUNT + p];
        snprintf(module, sizeof module, "%s%lld.%s", family->layer, (long long)block, family->block_param[p]);
        param->weight = take(a, module, "weight", CLAIM_OTHER, block);
        if (!param->weight)
            return missing(a, module, "weight", "every layer of num_hidden_layers in config.json needs one");
        FLRQ_TRY(check_tensor(model, param->weight, block_param_dims[p], DIM_NONE));
        if (family->norm != FAMILY_LAYERNORM) continue;
        param->bias = take(a, module, "bias", CLAIM_OTHER, block);
        if (!param->bias) return missing(a, module, "bias", "every LayerNorm needs one");
        FLRQ_TRY(check_tensor(model, param->bias, block_param_dims[p], DIM_NONE));
    }
    return FLRQ_OK;
}

/* ---- modules outside the blocks ---------------------------------------------------------------------------------- */

/** Engines differ when a head is tied by config.json and yet stored with other values: some tie, some do not. A few
 * rows tell whether it is the duplicate that saving with tied weights leaves behind. */
static flrq_status check_tied_head(const flrq_model *model, const flrq_tensor *head, const flrq_tensor *embedding) {
    enum { ROWS = 16 };
    int64_t rows = head->shape[0], cols = head->shape[1];
    size_t head_row = (size_t)(head->bytes / (uint64_t)rows),
           embedding_row = (size_t)(embedding->bytes / (uint64_t)rows);
    char *a = malloc(head_row + embedding_row);
    if (!a) return flrq_fail_memory(head_row + embedding_row, "a row of the head");
    char *b = a + head_row;
    flrq_status status = FLRQ_OK;
    int64_t step = rows > ROWS ? rows / ROWS : 1;
    for (int64_t i = 0; i < rows; i += step) {
        FLRQ_GOTO(flrq_checkpoint_read(model->checkpoint, head, a, (uint64_t)i * head_row, head_row));
        FLRQ_GOTO(flrq_checkpoint_read(model->checkpoint, embedding, b, (uint64_t)i * embedding_row, embedding_row));
        for (int64_t j = 0; j < cols; j++) {
            float x = flrq_load(a, head->dtype, j), y = flrq_load(b, embedding->dtype, j);
            if (x == y || (isnan(x) && isnan(y))) continue;
            status = flrq_fail(FLRQ_ERR_FORMAT,
                               "%s: tensor %s differs from %s at [%lld, %lld], but config.json ties them "
                               "(tie_word_embeddings): set it to false, or remove the tensor",
                               file_of(model, head), head->name, embedding->name, (long long)i, (long long)j);
            goto out;
        }
    }
out:
    free(a);
    return status;
}

static flrq_status take_globals(account *a) {
    flrq_model *model = a->model;
    const flrq_family *family = model->family;
    for (int p = 0; p < FLRQ_PARAM_COUNT; p++) {
        const char *module = family->param[p];
        int wanted = module != NULL;
        if (p == FLRQ_PARAM_PROJECT_IN || p == FLRQ_PARAM_PROJECT_OUT) wanted &= model->embed_dim != model->hidden;
        if (p == FLRQ_PARAM_FINAL_NORM) wanted &= model->final_norm;
        if (!wanted) continue;
        flrq_param *param = &model->params[p];
        const flrq_tensor *weight = take(a, module, "weight", CLAIM_OTHER, -1);
        if (p == FLRQ_PARAM_HEAD && model->tied) {
            if (!weight) continue;
            FLRQ_TRY(check_tensor(model, weight, param_dims[p][0], param_dims[p][1]));
            FLRQ_TRY(check_tied_head(model, weight, model->params[FLRQ_PARAM_EMBEDDING].weight));
            claim *c = &a->claims[weight - model->checkpoint->tensors];
            c->fate = FLRQ_FATE_TIED;
            c->reason = "duplicate of the embedding (tie_word_embeddings): engines use the embedding";
            continue;
        }
        if (!weight)
            return missing(a, module, "weight",
                           p == FLRQ_PARAM_HEAD
                               ? "config.json does not tie it to the embedding: tie_word_embeddings is false"
                               : "the model needs it");
        param->weight = weight;
        FLRQ_TRY(check_tensor(model, weight, param_dims[p][0], param_dims[p][1]));
        if (p != FLRQ_PARAM_FINAL_NORM || family->norm != FAMILY_LAYERNORM) continue;
        param->bias = take(a, module, "bias", CLAIM_OTHER, -1);
        if (!param->bias) return missing(a, module, "bias", "every LayerNorm needs one");
        FLRQ_TRY(check_tensor(model, param->bias, param_dims[p][0], DIM_NONE));
    }
    return FLRQ_OK;
}

/* ---- layer numbers and leftovers --------------------------------------------------------------------------------- */

/** The first component of a dotted name that is a number, or -1. */
static int64_t layer_number(const char *name) {
    for (const char *at = name; at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL) {
        size_t digits = strspn(at, "0123456789");
        if (digits > 0 && digits < 10 && at[digits] == '.') return strtoll(at, NULL, 10);
    }
    return -1;
}

static int ends_with(const char *name, const char *suffix) {
    size_t n = strlen(name), s = strlen(suffix);
    return n >= s && strcmp(name + n - s, suffix) == 0;
}

/** Drops or refuses what no role claimed. */
static flrq_status settle_rest(account *a) {
    static const struct {
        const char *suffix, *reason;
    } buffers[] = {
        {"rotary_emb.inv_freq", "RoPE frequencies follow from config.json"},
        {"rotary_emb.cos_cached", "RoPE table follows from config.json"},
        {"rotary_emb.sin_cached", "RoPE table follows from config.json"},
    };
    flrq_model *model = a->model;
    for (int64_t i = 0; i < model->checkpoint->n_tensors; i++) {
        claim *c = &a->claims[i];
        const flrq_tensor *tensor = &model->checkpoint->tensors[i];
        if (c->kind != CLAIM_NONE) continue;
        *c = (claim){CLAIM_OTHER, FLRQ_FATE_COPY, NULL, -1};
        if (!model->family) continue;
        for (size_t b = 0; b < sizeof buffers / sizeof buffers[0]; b++)
            if (ends_with(tensor->name, buffers[b].suffix)) {
                c->fate = FLRQ_FATE_DROP;
                c->reason = buffers[b].reason;
            }
        int64_t number = layer_number(tensor->name);
        if (number >= model->layers)
            return flrq_fail(FLRQ_ERR_SHAPE,
                             "%s: tensor %s belongs to layer %lld, but config.json says num_hidden_layers %lld",
                             file_of(model, tensor), tensor->name, (long long)number, (long long)model->layers);
        c->block = number;
        if (c->fate == FLRQ_FATE_DROP) continue;
        if (ends_with(tensor->name, ".bias"))
            return flrq_fail(
                FLRQ_ERR_FORMAT,
                "%s: tensor %s is a bias where config.json gives family %s none (attention_bias, mlp_bias, "
                "enable_bias): engines would not apply it",
                file_of(model, tensor), tensor->name, model->family->name);
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s has no place in family %s as config.json describes it",
                         file_of(model, tensor), tensor->name, model->family->name);
    }
    return FLRQ_OK;
}

static int compare_others(const void *x, const void *y) {
    const flrq_other *a = x, *b = y;
    if (a->block != b->block) return a->block < b->block ? -1 : 1;
    return strcmp(a->name, b->name);
}

/** model->others from the claims. */
static flrq_status list_others(account *a) {
    flrq_model *model = a->model;
    int64_t n = model->checkpoint->n_tensors;
    model->others = calloc((size_t)n + 1, sizeof *model->others);
    if (!model->others) return flrq_fail_memory((size_t)(n + 1) * sizeof *model->others, "the list of tensors");
    for (int64_t i = 0; i < n; i++) {
        const claim *c = &a->claims[i];
        if (c->kind != CLAIM_OTHER) continue;
        flrq_other *other = &model->others[model->n_others];
        *other = (flrq_other){&model->checkpoint->tensors[i], NULL, c->block, c->fate, c->reason};
        const char *name = other->tensor->name;
        const char *prefix = a->strip && strncmp(name, "lm_head.", 8) != 0 ? model->family->old_prefix : "";
        size_t bytes = strlen(prefix) + strlen(name) + 1;
        other->name = malloc(bytes);
        if (!other->name) return flrq_fail_memory(bytes, "a tensor name");
        snprintf(other->name, bytes, "%s%s", prefix, name);
        model->n_others++;
    }
    qsort(model->others, (size_t)model->n_others, sizeof *model->others, compare_others);
    return FLRQ_OK;
}

/* ---- unknown families -------------------------------------------------------------------------------------------- */

/** Length of the module name when the tensor is a linear weight by pattern, else 0. */
static size_t linear_by_pattern(const flrq_model *model, const flrq_tensor *tensor) {
    static const char *const excluded[] = {"embed",   "wte",    "wpe",   "norm",      "ln_",
                                           "lm_head", "router", "score", "classifier"};
    const char *name = tensor->name;
    const char *suffix = model->quantized && ends_with(name, ".weight_packed") ? ".weight_packed" : ".weight";
    if (!ends_with(name, suffix) || tensor->dims != 2 || tensor->shape[0] < 1 || tensor->shape[1] < 1) return 0;
    if (strcmp(suffix, ".weight") == 0 && !flrq_dtype_is_float(tensor->dtype)) return 0;
    if (layer_number(name) < 0) return 0;
    for (size_t i = 0; i < sizeof excluded / sizeof excluded[0]; i++)
        if (strstr(name, excluded[i])) return 0;
    if (ends_with(name, ".gate.weight")) return 0; /* the gate of a mixture of experts is a router */
    return strlen(name) - strlen(suffix);
}

static int compare_numbers(const void *x, const void *y) {
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
    return a < b ? -1 : a > b;
}

static int compare_linears(const void *x, const void *y) {
    const flrq_linear *a = x, *b = y;
    if (a->block != b->block) return a->block < b->block ? -1 : 1;
    return strcmp(a->module, b->module);
}

/** Linears by pattern, grouped by the distinct layer numbers in ascending order. */
static flrq_status take_unknown(account *a) {
    flrq_model *model = a->model;
    const flrq_checkpoint *checkpoint = model->checkpoint;
    flrq_status status = FLRQ_OK;
    int64_t n = 0, *numbers = malloc((size_t)(checkpoint->n_tensors + 1) * sizeof *numbers);
    if (!numbers) return flrq_fail_memory((size_t)(checkpoint->n_tensors + 1) * sizeof *numbers, "layer numbers");
    for (int64_t i = 0; i < checkpoint->n_tensors; i++)
        if (linear_by_pattern(model, &checkpoint->tensors[i])) numbers[n++] = layer_number(checkpoint->tensors[i].name);
    if (n == 0) {
        status =
            flrq_fail(FLRQ_ERR_FORMAT, "%s: no 2-D float weight of a numbered layer: nothing to quantize", model->dir);
        goto out;
    }
    model->linears = calloc((size_t)n, sizeof *model->linears);
    if (!model->linears) {
        status = flrq_fail_memory((size_t)n * sizeof *model->linears, "the list of linear layers");
        goto out;
    }
    qsort(numbers, (size_t)n, sizeof *numbers, compare_numbers);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || numbers[i] != numbers[i - 1]) numbers[model->layers++] = numbers[i];

    for (int64_t i = 0; i < checkpoint->n_tensors; i++) {
        size_t length = linear_by_pattern(model, &checkpoint->tensors[i]);
        if (length == 0 || a->claims[i].kind != CLAIM_NONE) continue;
        flrq_linear *linear = &model->linears[model->n_linears];
        int64_t number = layer_number(checkpoint->tensors[i].name);
        const int64_t *at = bsearch(&number, numbers, (size_t)model->layers, sizeof *numbers, compare_numbers);
        linear->module = strndup(checkpoint->tensors[i].name, length);
        if (!linear->module) {
            status = flrq_fail_memory(length + 1, "a module name");
            goto out;
        }
        model->n_linears++;
        linear->block = at - numbers;
        linear->slot = linear->input = -1;
        FLRQ_GOTO(take_linear(a, linear, NULL, 1));
    }
    qsort(model->linears, (size_t)model->n_linears, sizeof *model->linears, compare_linears);
    model->block_first = calloc((size_t)model->layers + 1, sizeof *model->block_first);
    if (!model->block_first) {
        status = flrq_fail_memory((size_t)(model->layers + 1) * sizeof *model->block_first, "the list of blocks");
        goto out;
    }
    for (int64_t i = 0; i < model->n_linears; i++) model->block_first[model->linears[i].block + 1] = i + 1;
out:
    free(numbers);
    return status;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static flrq_status take_known(account *a) {
    flrq_model *model = a->model;
    size_t layers = (size_t)model->layers;
    if (model->layers > model->checkpoint->n_tensors)
        return flrq_fail(FLRQ_ERR_SHAPE,
                         "%s: config.json says num_hidden_layers %lld, the checkpoint has %lld tensors in all",
                         model->dir, (long long)model->layers, (long long)model->checkpoint->n_tensors);
    model->linears = calloc(layers * FLRQ_SLOT_COUNT, sizeof *model->linears);
    model->block_first = calloc(layers + 1, sizeof *model->block_first);
    model->block_params = calloc(layers * FLRQ_BLOCK_PARAM_COUNT, sizeof *model->block_params);
    if (!model->linears || !model->block_first || !model->block_params)
        return flrq_fail_memory(layers * FLRQ_SLOT_COUNT * sizeof *model->linears, "the list of linear layers");
    FLRQ_TRY(take_globals(a));
    for (int64_t block = 0; block < model->layers; block++) FLRQ_TRY(take_block(a, block));
    model->block_first[model->layers] = model->n_linears;
    return FLRQ_OK;
}

/** The type of the first linear weight, or of its scales in a quantized folder. */
static flrq_dtype main_dtype(const flrq_model *model) {
    for (int64_t i = 0; i < model->n_linears; i++)
        if (model->linears[i].scale) return model->linears[i].scale->dtype;
    return model->linears[0].weight->dtype;
}

flrq_status flrq_model_open(flrq_model **out, const char *dir, int flags) {
    *out = NULL;
    flrq_model *model = calloc(1, sizeof *model);
    if (!model) return flrq_fail_memory(sizeof *model, "a model");
    account a = {0};
    flrq_status status = FLRQ_OK;
    model->bos_id = -1;
    model->dir = strdup(dir);
    char *path = flrq_path_join(dir, "config.json");
    if (!model->dir || !path) {
        status = flrq_fail_memory(strlen(dir) + 16, "a path");
        goto out;
    }
    FLRQ_GOTO(flrq_json_read(path, CONFIG_MAX_BYTES, &model->config));
    FLRQ_GOTO(flrq_config_read(model, flags));
    FLRQ_GOTO(flrq_quantized_config(model));
    FLRQ_GOTO(flrq_checkpoint_open(&model->checkpoint, dir));
    FLRQ_GOTO(account_open(&a, model));
    FLRQ_GOTO(model->family ? take_known(&a) : take_unknown(&a));
    FLRQ_GOTO(settle_rest(&a));
    FLRQ_GOTO(list_others(&a));
    model->dtype = main_dtype(model);
    if (model->quantized && !(flags & FLRQ_MODEL_NO_ADAPTER)) FLRQ_GOTO(flrq_adapter_open(model));
    *out = model;
    model = NULL;
out:
    account_close(&a);
    free(path);
    flrq_model_close(model);
    return status;
}

void flrq_model_close(flrq_model *model) {
    if (!model) return;
    for (int64_t i = 0; i < model->n_linears; i++) free(model->linears[i].module);
    for (int64_t i = 0; i < model->n_others; i++) free(model->others[i].name);
    free(model->linears);
    free(model->others);
    free(model->block_first);
    free(model->block_params);
    free(model->window);
    free(model->inv_freq);
    flrq_checkpoint_close(model->adapter);
    flrq_checkpoint_close(model->checkpoint);
    json_decref(model->config);
    free(model->dir);
    free(model);
}
