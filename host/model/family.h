/* family.h - what the files of the model layer share: the row of the families table and the steps of opening.
 *
 * families.c holds the table, config.c reads config.json by it, model.c finds the tensors it names, quantized.c
 * attaches packed weights and the low-rank adapter. Private to host/model.
 */
#ifndef FLRQ_MODEL_FAMILY_H
#define FLRQ_MODEL_FAMILY_H

#include "model/model.h"

typedef enum family_norm { FAMILY_RMSNORM = 0, FAMILY_LAYERNORM = 1 } family_norm;
typedef enum family_activation { FAMILY_SILU = 0, FAMILY_RELU = 1 } family_activation;

/** Which layers see a sliding window. */
typedef enum family_window {
    FAMILY_WINDOW_NONE = 0,  /* the architecture has none: a config that asks for one is refused */
    FAMILY_WINDOW_ALL = 1,   /* every layer when sliding_window is not null (Mistral) */
    FAMILY_WINDOW_LAYERS = 2 /* use_sliding_window, then layer_types or layers from max_window_layers on (Qwen) */
} family_window;

/** Whether a group of linears has biases: the value of a config key, or `fallback` when key is NULL or absent. */
typedef struct family_bias {
    const char *key;
    int fallback;
} family_bias;

/** One architecture. Module names are relative to `layer` + number + "." for blocks, whole otherwise; NULL = the family
 * has none. */
struct flrq_family {
    const char *name;         /* model_type */
    const char *architecture; /* architectures[0] */
    const char *layer;        /* "model.layers." */
    const char *slot[FLRQ_SLOT_COUNT];
    const char *block_param[FLRQ_BLOCK_PARAM_COUNT];
    const char *param[FLRQ_PARAM_COUNT];
    const char *old_prefix; /* start of every module name that older files of the family lack, or NULL */

    const char *ffn_key, *act_key;
    const char *eps_key;      /* NULL: fixed at default_eps */
    const char *kv_heads_key; /* NULL: as many as heads */
    const char *head_dim_key; /* NULL: hidden / heads */
    const char *embed_key;    /* width of the embedding, NULL: hidden */
    family_norm norm;
    family_activation activation;
    family_window window;
    family_bias bias_qkv, bias_o, bias_mlp;
    int tied;                /* default of tie_word_embeddings */
    int64_t position_offset; /* learned positions: row of position 0; rows = max_position_embeddings + offset */

    double default_eps;
    int64_t default_kv_heads; /* when the key is absent; 0 = heads */
    int64_t default_head_dim; /* when the key is absent; 0 = hidden / heads */
    int64_t default_max_positions;
    int64_t default_window;
    int64_t default_window_layers; /* of max_window_layers */
};

/** True when the family rotates q and k (RoPE) instead of adding learned positions. */
static inline int family_has_rope(const flrq_family *family) {
    return family->param[FLRQ_PARAM_POSITIONS] == NULL;
}

/** The row of a model_type, or NULL. */
const flrq_family *flrq_family_find(const char *model_type);

/** Why a model_type cannot be quantized by pattern either (its "weight" tensors are not [out, in]), or NULL. */
const char *flrq_family_refusal(const char *model_type);

/** Fills family, dimensions, biases, RoPE table and windows from model->config. Refuses by name every known key that
 * would change the arithmetic. `flags` of flrq_model_open(). */
flrq_status flrq_config_read(flrq_model *model, int flags);

/** When a value leaves the arithmetic as it is. null and absent always do. */
typedef enum config_neutral {
    CONFIG_OFF = 0, /* false, 0, "none", [] or {} */
    CONFIG_ONE = 1, /* 1 */
    CONFIG_TRUE = 2 /* true */
} config_neutral;

/** A key (fnmatch pattern) that is refused unless neutral. */
typedef struct config_refusal {
    const char *pattern;
    config_neutral neutral;
} config_refusal;

/** Refuses the first key of `object` that matches a pattern with a value that is not neutral: FLRQ_ERR_UNSUPPORTED
 * naming `path`, key and value. `list` ends with a NULL pattern. */
flrq_status flrq_config_refuse(const json_t *object, const char *path, const config_refusal *list);

/** An integer of a config object within [min, max]. Absent or null: `fallback`, or an error when fallback is below min.
 */
flrq_status flrq_config_int(const json_t *object, const char *path, const char *key, int64_t min, int64_t max,
                            int64_t fallback, int64_t *out);

/** Reads quantization_config (formats.md 2.3) into model->quantized and model->scheme; no such key leaves the model
 * unquantized. Other quantization methods are refused by name. */
flrq_status flrq_quantized_config(flrq_model *model);

/** Checks the packed tensors of one linear (linear->packed and its companions are set, rows and cols hold what
 * config.json expects, or 0 for an unknown family) and completes rows and cols. `shape` is <module>.weight_shape or
 * NULL. */
flrq_status flrq_quantized_linear(const flrq_model *model, flrq_linear *linear, const flrq_tensor *shape);

/** Checks that what quantization_config says of the module (targets, ignore) agrees with how it is stored. */
flrq_status flrq_quantized_agrees(const flrq_model *model, const flrq_linear *linear);

/** Opens DIR/lowrank, if there is one, and attaches its factors to model->linears (formats.md 5.1). */
flrq_status flrq_adapter_open(flrq_model *model);

#endif
