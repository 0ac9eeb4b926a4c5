/* config.c - config.json to dimensions, RoPE table and windows.
 *
 * Owns the meaning of every key that changes the arithmetic of a known family. Such a key is honoured or refused by
 * name; keys that only concern training, generation or serving (dropout, initializer_range, use_cache, dtype, ...) are
 * not looked at. Both spellings of RoPE settings are read: rope_theta + rope_scaling, and rope_parameters.
 */
#include "model/family.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What is believed: beyond it the number is an error, not a model, and must not cost memory or time. */
enum { MAX_LAYERS = 65536, MAX_HEAD_DIM = 65536 };
static const int64_t max_dim = INT32_MAX;

/* ---- reading of values ------------------------------------------------------------------------------------------- */

/** The value of a key; NULL when absent or null. */
static const json_t *value_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/** First bytes of a JSON value as text, for messages. */
static const char *value_text(const json_t *value, char text[64]) {
    size_t bytes = json_dumpb(value, text, 63, JSON_ENCODE_ANY | JSON_COMPACT);
    text[bytes > 63 ? 63 : bytes] = '\0';
    return text;
}

static flrq_status wrong_value(const char *path, const char *key, const json_t *value, const char *wanted) {
    char text[64];
    return flrq_fail(FLRQ_ERR_FORMAT, "%s: \"%s\" is %s; expected %s", path, key, value_text(value, text), wanted);
}

flrq_status flrq_config_int(const json_t *object, const char *path, const char *key, int64_t min, int64_t max,
                            int64_t fallback, int64_t *out) {
    const json_t *value = value_of(object, key);
    *out = fallback;
    if (!value)
        return fallback >= min ? FLRQ_OK : flrq_fail(FLRQ_ERR_FORMAT, "%s: the key \"%s\" is missing", path, key);
    if (!json_is_integer(value)) return wrong_value(path, key, value, "an integer");
    int64_t number = json_integer_value(value);
    if (number < min || number > max)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: \"%s\" is %lld; expected %lld to %lld", path, key, (long long)number,
                         (long long)min, (long long)max);
    *out = number;
    return FLRQ_OK;
}

static flrq_status get_real(const json_t *object, const char *path, const char *key, double fallback, double *out) {
    const json_t *value = value_of(object, key);
    *out = fallback;
    if (!value) return FLRQ_OK;
    if (!json_is_number(value)) return wrong_value(path, key, value, "a number");
    *out = json_number_value(value);
    return FLRQ_OK;
}

static flrq_status get_bool(const json_t *object, const char *path, const char *key, int fallback, int *out) {
    const json_t *value = value_of(object, key);
    *out = fallback;
    if (!value) return FLRQ_OK;
    if (!json_is_boolean(value)) return wrong_value(path, key, value, "true or false");
    *out = json_is_true(value);
    return FLRQ_OK;
}

/* ---- keys that are not computed ---------------------------------------------------------------------------------- */

/* Keys of relatives of the known families that reuse their model_type or tensor names. */
static const config_refusal refused_keys[] = {
    {"partial_rotary_factor", CONFIG_ONE},
    {"rotary_pct", CONFIG_ONE},
    {"*softcap*", CONFIG_OFF},
    {"*logit*scal*", CONFIG_ONE},
    {"residual_multiplier", CONFIG_ONE},
    {"embedding_multiplier", CONFIG_ONE},
    {"attention_multiplier", CONFIG_OFF},
    {"key_multiplier", CONFIG_ONE},
    {"lm_head_multiplier", CONFIG_ONE},
    {"mlp_multipliers", CONFIG_OFF},
    {"scale_emb", CONFIG_ONE},
    {"scale_depth", CONFIG_OFF},
    {"dim_model_base", CONFIG_OFF},
    {"query_pre_attn_scalar", CONFIG_OFF},
    {"clip_qkv", CONFIG_OFF},
    {"qk_layernorm", CONFIG_OFF},
    {"use_qk_norm", CONFIG_OFF},
    {"qk_norm", CONFIG_OFF},
    {"rms_norm_unit_offset", CONFIG_OFF},
    {"num_experts", CONFIG_OFF},
    {"num_local_experts", CONFIG_OFF},
    {"n_routed_experts", CONFIG_OFF},
    {"alibi", CONFIG_OFF},
    {"use_alibi", CONFIG_OFF},
    {"no_rope_layers", CONFIG_OFF},
    {"no_rope_layer_interval", CONFIG_OFF},
    {"rope_interleave*", CONFIG_OFF},
    {"rope_local_base_freq", CONFIG_OFF},
    {"use_mrope", CONFIG_OFF},
    {"mrope_section", CONFIG_OFF},
    {"attention_chunk_size", CONFIG_OFF},
    {"attn_temperature_tuning", CONFIG_OFF},
    {"attn_output_gate", CONFIG_OFF},
    {"dual_chunk_attention_config", CONFIG_OFF},
    {"kv_lora_rank", CONFIG_OFF},
    {"q_lora_rank", CONFIG_OFF},
    {"parallel_attn", CONFIG_OFF},
    {"use_parallel_residual", CONFIG_OFF},
    {"is_causal", CONFIG_TRUE},
    {"is_encoder_decoder", CONFIG_OFF},
    {"add_cross_attention", CONFIG_OFF},
    {"layer_norm_elementwise_affine", CONFIG_TRUE},
    {NULL, CONFIG_OFF},
};

static int is_neutral(const json_t *value, config_neutral neutral) {
    if (json_is_null(value)) return 1;
    switch (neutral) {
    case CONFIG_ONE:
        return json_is_number(value) && json_number_value(value) == 1;
    case CONFIG_TRUE:
        return json_is_true(value);
    case CONFIG_OFF:
        break;
    }
    if (json_is_array(value)) return json_array_size(value) == 0;
    if (json_is_object(value)) return json_object_size(value) == 0;
    if (json_is_string(value)) return strcmp(json_string_value(value), "none") == 0;
    return json_is_false(value) || (json_is_number(value) && json_number_value(value) == 0);
}

flrq_status flrq_config_refuse(const json_t *object, const char *path, const config_refusal *list) {
    const char *key;
    json_t *value;
    char text[64];
    json_object_foreach((json_t *)object, key, value) {
        for (const config_refusal *r = list; r->pattern; r++)
            if (fnmatch(r->pattern, key, 0) == 0 && !is_neutral(value, r->neutral))
                return flrq_fail(
                    FLRQ_ERR_UNSUPPORTED,
                    "%s: \"%s\": %s changes the arithmetic of the model in a way that this version does not compute",
                    path, key, value_text(value, text));
    }
    return FLRQ_OK;
}

/* ---- RoPE -------------------------------------------------------------------------------------------------------- */

typedef enum rope_kind { ROPE_DEFAULT = 0, ROPE_LINEAR = 1, ROPE_LLAMA3 = 2 } rope_kind;
typedef struct rope {
    rope_kind kind;
    double theta; /* NaN: not said */
    double factor, low, high;
    int64_t original;
} rope;

/** Reads rope_scaling or rope_parameters. Every key inside must be known: anything else belongs to a variant that is
 * not computed. */
static flrq_status read_rope(const json_t *object, const char *path, const char *key, rope *out) {
    static const char *const known[] = {"type",
                                        "rope_type",
                                        "rope_theta",
                                        "factor",
                                        "low_freq_factor",
                                        "high_freq_factor",
                                        "original_max_position_embeddings",
                                        "partial_rotary_factor",
                                        "finetuned"};
    *out = (rope){ROPE_DEFAULT, NAN, 1, 0, 0, 0};
    const json_t *dict = value_of(object, key);
    if (!dict) return FLRQ_OK;
    if (!json_is_object(dict)) return wrong_value(path, key, dict, "an object");

    const json_t *old_type = value_of(dict, "type"), *type = value_of(dict, "rope_type");
    if (type && old_type && !json_equal(type, old_type))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s gives two values, \"type\" and \"rope_type\"; keep one", path, key);
    if (!type) type = old_type;
    if (type && !json_is_string(type)) return wrong_value(path, "rope_type", type, "text");
    const char *name = type ? json_string_value(type) : "default";
    if (strcmp(name, "linear") == 0)
        out->kind = ROPE_LINEAR;
    else if (strcmp(name, "llama3") == 0)
        out->kind = ROPE_LLAMA3;
    else if (strcmp(name, "default") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: %s of type \"%s\" is not supported; known: default, linear, llama3",
                         path, key, name);

    const char *inner;
    json_t *value;
    json_object_foreach((json_t *)dict, inner, value) {
        int found = json_is_null(value);
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) found |= strcmp(inner, known[i]) == 0;
        if (!found)
            return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: %s.%s is not supported with RoPE type \"%s\"", path, key, inner,
                             name);
    }
    FLRQ_TRY(flrq_config_refuse(dict, path, refused_keys));
    FLRQ_TRY(get_real(dict, path, "rope_theta", NAN, &out->theta));
    FLRQ_TRY(get_real(dict, path, "factor", 1, &out->factor));
    if (!(out->factor > 0 && out->factor < 1e9) || (out->kind == ROPE_DEFAULT && out->factor != 1))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s of type \"%s\" with factor %g", path, key, name, out->factor);
    if (out->kind == ROPE_LINEAR && !value_of(dict, "factor"))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s of type \"linear\" lacks \"factor\"", path, key);
    if (out->kind != ROPE_LLAMA3) return FLRQ_OK;
    static const char *const needed[] = {"factor", "low_freq_factor", "high_freq_factor"};
    for (size_t i = 0; i < 3; i++)
        if (!value_of(dict, needed[i]))
            return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s of type \"llama3\" lacks \"%s\"", path, key, needed[i]);
    FLRQ_TRY(get_real(dict, path, "low_freq_factor", 0, &out->low));
    FLRQ_TRY(get_real(dict, path, "high_freq_factor", 0, &out->high));
    FLRQ_TRY(flrq_config_int(dict, path, "original_max_position_embeddings", 1, max_dim, 0, &out->original));
    if (!(out->low > 0 && out->high > out->low))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s: high_freq_factor %g must be above low_freq_factor %g, both positive",
                         path, key, out->high, out->low);
    return FLRQ_OK;
}

/** Joins both spellings, then inv_freq[j] = theta^(-2j/head_dim) with its scaling (linear: Chen et al. 2023; llama3:
 * wavelengths beyond original/low are stretched by factor, those below original/high kept, a linear blend between). */
static flrq_status make_rope(flrq_model *model, const char *path) {
    rope a, b;
    double theta;
    FLRQ_TRY(read_rope(model->config, path, "rope_scaling", &a));
    FLRQ_TRY(read_rope(model->config, path, "rope_parameters", &b));
    FLRQ_TRY(get_real(model->config, path, "rope_theta", NAN, &theta));
    const double said[] = {a.theta, b.theta};
    for (int i = 0; i < 2; i++) {
        if (isnan(theta)) theta = said[i];
        if (!isnan(said[i]) && said[i] != theta)
            return flrq_fail(FLRQ_ERR_FORMAT, "%s: rope_theta is both %g and %g; keep one", path, theta, said[i]);
    }
    if (isnan(theta)) theta = 10000;
    if (!(theta > 0 && theta <= 1e18))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: rope_theta %g; expected a positive number", path, theta);

    int both = value_of(model->config, "rope_scaling") && value_of(model->config, "rope_parameters");
    if (both &&
        (a.kind != b.kind || a.factor != b.factor || a.low != b.low || a.high != b.high || a.original != b.original))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: rope_scaling and rope_parameters contradict each other; keep one", path);
    const rope r = a.kind != ROPE_DEFAULT ? a : b;

    if (model->head_dim % 2 != 0)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: head_dim %lld is odd, RoPE rotates pairs", path,
                         (long long)model->head_dim);
    int64_t half = model->head_dim / 2;
    model->inv_freq = malloc((size_t)half * sizeof(float));
    if (!model->inv_freq) return flrq_fail_memory((size_t)half * sizeof(float), "RoPE frequencies");
    const double pi = 3.14159265358979323846;
    for (int64_t j = 0; j < half; j++) {
        double f = pow(theta, -2.0 * (double)j / (double)model->head_dim);
        if (r.kind == ROPE_LINEAR) f /= r.factor;
        if (r.kind == ROPE_LLAMA3) {
            double turns = (double)r.original * f / (2 * pi); /* over the original context */
            double keep = (turns - r.low) / (r.high - r.low);
            keep = keep < 0 ? 0 : keep > 1 ? 1 : keep;
            f = (1 - keep) * f / r.factor + keep * f;
        }
        model->inv_freq[j] = (float)f;
    }
    model->rope_magnitude = 1;
    return FLRQ_OK;
}

/* ---- sliding windows --------------------------------------------------------------------------------------------- */

/** model->window[i]: from the family's own switches; layer_types, where given, must name known types and, for families
 * without a choice per layer, agree. */
static flrq_status make_windows(flrq_model *model, const char *path) {
    const flrq_family *family = model->family;
    const json_t *config = model->config, *types = value_of(config, "layer_types");
    int64_t window = 0, first = 0;
    if (family->window == FAMILY_WINDOW_NONE) {
        static const config_refusal no_window[] = {
            {"sliding_window", CONFIG_OFF}, {"use_sliding_window", CONFIG_OFF}, {NULL, CONFIG_OFF}};
        FLRQ_TRY(flrq_config_refuse(config, path, no_window));
    } else {
        int on = 1;
        if (family->window == FAMILY_WINDOW_LAYERS) {
            FLRQ_TRY(get_bool(config, path, "use_sliding_window", 0, &on));
            FLRQ_TRY(
                flrq_config_int(config, path, "max_window_layers", 0, max_dim, family->default_window_layers, &first));
        }
        /* an explicit null means none, an absent key the default */
        if (on && !json_is_null(json_object_get(config, "sliding_window")))
            FLRQ_TRY(flrq_config_int(config, path, "sliding_window", 1, max_dim, family->default_window, &window));
    }

    if (types && (!json_is_array(types) || json_array_size(types) != (size_t)model->layers))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: layer_types must list one type for each of the %lld layers", path,
                         (long long)model->layers);
    model->window = calloc((size_t)model->layers, sizeof *model->window);
    if (!model->window) return flrq_fail_memory((size_t)model->layers * sizeof *model->window, "windows");
    for (int64_t i = 0; i < model->layers; i++) {
        int64_t here = i >= first ? window : 0;
        if (types) {
            const char *type = json_string_value(json_array_get(types, (size_t)i));
            int sliding = type && strcmp(type, "sliding_attention") == 0;
            if (!sliding && !(type && strcmp(type, "full_attention") == 0))
                return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                                 "%s: layer_types[%lld] is \"%s\"; known: full_attention, sliding_attention", path,
                                 (long long)i, type ? type : "not text");
            if (sliding && window == 0)
                return flrq_fail(FLRQ_ERR_FORMAT,
                                 "%s: layer_types[%lld] is sliding_attention, but no sliding_window is in force", path,
                                 (long long)i);
            if (family->window == FAMILY_WINDOW_ALL && !sliding && window != 0)
                return flrq_fail(
                    FLRQ_ERR_UNSUPPORTED,
                    "%s: layer_types[%lld] is full_attention, but family %s has sliding_window %lld in every layer",
                    path, (long long)i, family->name, (long long)window);
            here = sliding ? window : 0;
        }
        model->window[i] = here;
    }
    return FLRQ_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static flrq_status read_bias(flrq_model *model, const char *path, family_bias bias, uint32_t slots) {
    int on = bias.fallback;
    if (bias.key) FLRQ_TRY(get_bool(model->config, path, bias.key, bias.fallback, &on));
    if (on) model->bias_slots |= slots;
    return FLRQ_OK;
}

static flrq_status read_activation(const flrq_model *model, const char *path) {
    const flrq_family *family = model->family;
    const char *expected = family->activation == FAMILY_SILU ? "silu" : "relu";
    const json_t *value = value_of(model->config, family->act_key);
    const char *name = value ? json_string_value(value) : expected;
    if (name && strcmp(name, expected) == 0) return FLRQ_OK;
    if (name && family->activation == FAMILY_SILU && strcmp(name, "swish") == 0) return FLRQ_OK; /* its other name */
    char text[64];
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: \"%s\" is %s; family %s is supported with \"%s\" only", path,
                     family->act_key, value_text(value, text), family->name, expected);
}

static flrq_status read_heads(flrq_model *model, const char *path) {
    const flrq_family *family = model->family;
    const json_t *config = model->config;
    FLRQ_TRY(flrq_config_int(config, path, "num_attention_heads", 1, max_dim, 0, &model->heads));
    model->kv_heads = model->heads;
    if (family->kv_heads_key) {
        /* an explicit null means as many as heads, an absent key the default */
        int64_t fallback = model->heads;
        if (family->default_kv_heads && !json_object_get(config, family->kv_heads_key))
            fallback = family->default_kv_heads;
        FLRQ_TRY(flrq_config_int(config, path, family->kv_heads_key, 1, max_dim, fallback, &model->kv_heads));
    }
    if (model->heads % model->kv_heads != 0)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld",
                         path, (long long)model->heads, (long long)model->kv_heads);

    int64_t head_dim = 0;
    if (family->head_dim_key) {
        int64_t fallback = json_object_get(config, family->head_dim_key) ? 0 : family->default_head_dim;
        FLRQ_TRY(flrq_config_int(config, path, family->head_dim_key, 0, max_dim, fallback, &head_dim));
    }
    if (head_dim == 0) {
        if (model->hidden % model->heads != 0)
            return flrq_fail(
                FLRQ_ERR_FORMAT,
                "%s: hidden_size %lld is not a multiple of num_attention_heads %lld and head_dim is not given", path,
                (long long)model->hidden, (long long)model->heads);
        head_dim = model->hidden / model->heads;
    }
    if (head_dim > MAX_HEAD_DIM)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: head_dim %lld; expected at most %d", path, (long long)head_dim,
                         MAX_HEAD_DIM);
    model->head_dim = head_dim;
    return FLRQ_OK;
}

static flrq_status read_known(flrq_model *model, const char *path) {
    const flrq_family *family = model->family;
    const json_t *config = model->config;
    const json_t *architecture = json_array_get(json_object_get(config, "architectures"), 0);
    if (architecture &&
        (!json_is_string(architecture) || strcasecmp(json_string_value(architecture), family->architecture) != 0)) {
        char text[64];
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: architectures[0] is %s; model_type %s is supported as %s only",
                         path, value_text(architecture, text), family->name, family->architecture);
    }
    FLRQ_TRY(flrq_config_refuse(config, path, refused_keys));
    FLRQ_TRY(read_activation(model, path));

    FLRQ_TRY(flrq_config_int(config, path, "hidden_size", 1, max_dim, 0, &model->hidden));
    FLRQ_TRY(flrq_config_int(config, path, family->ffn_key, 1, max_dim, 0, &model->ffn));
    FLRQ_TRY(flrq_config_int(config, path, "num_hidden_layers", 1, MAX_LAYERS, 0, &model->layers));
    FLRQ_TRY(flrq_config_int(config, path, "vocab_size", 1, max_dim, 0, &model->vocab));
    FLRQ_TRY(flrq_config_int(config, path, "max_position_embeddings", 1, max_dim - family->position_offset,
                             family->default_max_positions, &model->max_positions));
    FLRQ_TRY(read_heads(model, path));
    model->embed_dim = model->hidden;
    if (family->embed_key)
        FLRQ_TRY(flrq_config_int(config, path, family->embed_key, 1, max_dim, model->hidden, &model->embed_dim));

    double eps = family->default_eps;
    if (family->eps_key) FLRQ_TRY(get_real(config, path, family->eps_key, eps, &eps));
    if (!(eps >= 0 && eps < 1))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: \"%s\" is %g; expected 0 to 1", path, family->eps_key, eps);
    model->norm_eps = (float)eps;

    FLRQ_TRY(get_bool(config, path, "tie_word_embeddings", family->tied, &model->tied));
    FLRQ_TRY(read_bias(model, path, family->bias_qkv, 1u << FLRQ_SLOT_Q | 1u << FLRQ_SLOT_K | 1u << FLRQ_SLOT_V));
    FLRQ_TRY(read_bias(model, path, family->bias_o, 1u << FLRQ_SLOT_O));
    FLRQ_TRY(
        read_bias(model, path, family->bias_mlp, 1u << FLRQ_SLOT_GATE | 1u << FLRQ_SLOT_UP | 1u << FLRQ_SLOT_DOWN));

    model->final_norm = 1;
    if (family->norm ==
        FAMILY_LAYERNORM) { /* OPT: the 350m model puts its norms after the sum and has none at the end */
        int before, removed;
        FLRQ_TRY(get_bool(config, path, "do_layer_norm_before", 1, &before));
        FLRQ_TRY(get_bool(config, path, "_remove_final_layer_norm", 0, &removed));
        model->post_norm = !before;
        model->final_norm = before && !removed;
    }
    if (family_has_rope(family)) FLRQ_TRY(make_rope(model, path));
    return make_windows(model, path);
}

flrq_status flrq_config_read(flrq_model *model, int flags) {
    const json_t *config = model->config;
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", model->dir);
    if (!json_is_object(config)) return flrq_fail(FLRQ_ERR_FORMAT, "%s: not a JSON object", path);
    const char *type = json_string_value(json_object_get(config, "model_type"));
    if (!type) return flrq_fail(FLRQ_ERR_FORMAT, "%s: the key \"model_type\" is missing", path);
    model->family = flrq_family_find(type);
    model->family_name = type;
    const json_t *bos = value_of(config, "bos_token_id");
    json_int_t id = json_is_integer(bos) ? json_integer_value(bos) : -1;
    model->bos_id = id >= 0 && id <= INT32_MAX ? (int)id : -1;
    if (model->family) return read_known(model, path);

    const char *why = flrq_family_refusal(type);
    if (why) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: model_type \"%s\" is not supported: %s", path, type, why);
    if (!(flags & FLRQ_MODEL_ALLOW_UNKNOWN))
        return flrq_fail(
            FLRQ_ERR_UNSUPPORTED,
            "%s: model_type \"%s\" is not a known family (%s); it can be quantized weight-only with --calib none", path,
            type, flrq_families_known());
    return flrq_config_int(config, path, "vocab_size", 0, max_dim, 0, &model->vocab);
}
