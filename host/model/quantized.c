/* quantized.c - reading of quantized folders: compressed-tensors pack-quantized (formats.md 2) and the PEFT adapter
 * beside it (5.1).
 *
 * One scheme per model, weights only, 2, 3, 4 or 8 bits, groups or whole rows, 3-bit codes as a dense stream. Every
 * other method, format, strategy or option is refused by name. Targets and ignore lists must agree with what is stored,
 * because engines believe the lists.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/family.h"

#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include "core/dtype.h"
#include "io/file.h"

enum { ADAPTER_CONFIG_MAX_BYTES = 16 << 20 };

/** Matches a Python-style regular expression at the start of `text` (re.match). */
static flrq_status regex_match(const char *path, const char *pattern, const char *text, int *matched) {
    int code;
    PCRE2_SIZE at;
    *matched = 0;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_UTF, &code, &at, NULL);
    if (!re && code == PCRE2_ERROR_HEAP_FAILED) return flrq_fail_memory(strlen(pattern), "a regular expression");
    if (!re) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: regular expression \"%s\": %s at %zu", path, pattern, (char *)message,
                         (size_t)at);
    }
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(re, NULL);
    int found =
        data ? pcre2_match(re, (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, 0, data, NULL) : PCRE2_ERROR_NOMEMORY;
    pcre2_match_data_free(data);
    pcre2_code_free(re);
    *matched = found >= 0;
    if (found >= 0 || found == PCRE2_ERROR_NOMATCH) return FLRQ_OK;
    return flrq_fail(found == PCRE2_ERROR_NOMEMORY ? FLRQ_ERR_MEMORY : FLRQ_ERR_FORMAT,
                     "%s: regular expression \"%s\" failed on \"%s\" (PCRE2 error %d)", path, pattern, text, found);
}

static const char *config_path(const flrq_model *model, const char *name, char path[512]) {
    snprintf(path, 512, "%s/%s", model->dir, name);
    return path;
}

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* ---- quantization_config ----------------------------------------------------------------------------------------- */

static flrq_status read_weights(flrq_model *model, const char *path, const json_t *weights) {
    static const config_refusal refused[] = {
        {"dynamic", CONFIG_OFF}, {"block_structure", CONFIG_OFF}, {NULL, CONFIG_OFF}};
    FLRQ_TRY(flrq_config_refuse(weights, path, refused));
    const char *type = text_of(weights, "type"), *actorder = text_of(weights, "actorder");
    if (type && strcmp(type, "int") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: quantized weights of type \"%s\" are not supported; known: int",
                         path, type);
    if (actorder && strcmp(actorder, "static") != 0 && strcmp(actorder, "weight") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: actorder \"%s\" (weight_g_idx) is not supported", path, actorder);

    int64_t bits, group;
    FLRQ_TRY(flrq_config_int(weights, path, "num_bits", 1, 64, 0, &bits));
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: num_bits %lld is not supported; known: 2, 3, 4, 8", path,
                         (long long)bits);
    FLRQ_TRY(flrq_config_int(weights, path, "group_size", -1, INT32_MAX, -1, &group));
    const char *strategy = text_of(weights, "strategy");
    if (!strategy) strategy = group > 0 ? "group" : "channel";
    if (strcmp(strategy, "channel") == 0)
        group = 0;
    else if (strcmp(strategy, "group") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: strategy \"%s\" is not supported; known: group, channel", path,
                         strategy);
    else if (group < 1)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: strategy \"group\" needs a positive group_size", path);

    const json_t *symmetric = json_object_get(weights, "symmetric");
    if (symmetric && !json_is_boolean(symmetric))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: \"symmetric\" must be true or false", path);
    model->scheme = (flrq_scheme){
        .bits = (int32_t)bits, .symmetric = !json_is_false(symmetric), .grid = FLRQ_GRID_FULL, .group = group};
    return FLRQ_OK;
}

/** The only entry of config_groups, or NULL. */
static const json_t *only_group(const json_t *quantization) {
    json_t *groups = json_object_get(quantization, "config_groups");
    return json_object_size(groups) == 1 ? json_object_iter_value(json_object_iter(groups)) : NULL;
}

flrq_status flrq_quantized_config(flrq_model *model) {
    static const config_refusal refused[] = {{"kv_cache_scheme", CONFIG_OFF},
                                             {"transform_config", CONFIG_OFF},
                                             {"sparsity_config", CONFIG_OFF},
                                             {NULL, CONFIG_OFF}};
    static const config_refusal activations[] = {
        {"input_activations", CONFIG_OFF}, {"output_activations", CONFIG_OFF}, {NULL, CONFIG_OFF}};
    char path[512];
    config_path(model, "config.json: quantization_config", path);
    const json_t *q = json_object_get(model->config, "quantization_config");
    if (!q || json_is_null(q)) q = json_object_get(model->config, "compression_config"); /* its first name */
    if (!q || json_is_null(q)) return FLRQ_OK;

    const char *method = text_of(q, "quant_method"), *format = text_of(q, "format");
    if (!method || strcmp(method, "compressed-tensors") != 0)
        return flrq_fail(
            FLRQ_ERR_UNSUPPORTED,
            "%s: quant_method \"%s\" is not supported; known: compressed-tensors. Start from the unquantized model",
            path, method ? method : "(none)");
    if (!format || strcmp(format, "pack-quantized") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: format \"%s\" is not supported; known: pack-quantized", path,
                         format ? format : "(none)");
    const char *state = text_of(q, "quantization_status");
    if (state && strcmp(state, "compressed") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: quantization_status \"%s\" is not supported; known: compressed",
                         path, state);
    FLRQ_TRY(flrq_config_refuse(q, path, refused));
    const json_t *group = only_group(q), *weights = json_object_get(group, "weights");
    if (!group)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: %zu config_groups; this version reads exactly one scheme per model",
                         path, json_object_size(json_object_get(q, "config_groups")));
    if (!json_is_object(weights)) return flrq_fail(FLRQ_ERR_FORMAT, "%s: the config group has no \"weights\"", path);
    FLRQ_TRY(flrq_config_refuse(group, path, activations));
    FLRQ_TRY(read_weights(model, path, weights));
    model->quantized = 1;
    return FLRQ_OK;
}

/** Whether a list of names, "re:" patterns and class names covers a linear layer. */
static flrq_status covers(const char *path, const json_t *list, const char *module, int *covered) {
    *covered = 0;
    for (size_t i = 0; i < json_array_size(list) && !*covered; i++) {
        const char *entry = json_string_value(json_array_get(list, i));
        if (!entry) return flrq_fail(FLRQ_ERR_FORMAT, "%s: targets and ignore must be lists of names", path);
        if (strncmp(entry, "re:", 3) == 0)
            FLRQ_TRY(regex_match(path, entry + 3, module, covered));
        else
            *covered = strcmp(entry, module) == 0 || strcmp(entry, "Linear") == 0;
    }
    return FLRQ_OK;
}

flrq_status flrq_quantized_agrees(const flrq_model *model, const flrq_linear *linear) {
    char path[512];
    config_path(model, "config.json: quantization_config", path);
    const json_t *q = json_object_get(model->config, "quantization_config");
    if (!q || json_is_null(q)) q = json_object_get(model->config, "compression_config");
    int targeted, ignored;
    FLRQ_TRY(covers(path, json_object_get(only_group(q), "targets"), linear->module, &targeted));
    FLRQ_TRY(covers(path, json_object_get(q, "ignore"), linear->module, &ignored));
    if ((targeted && !ignored) == (linear->packed != NULL)) return FLRQ_OK;
    if (linear->packed)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: layer %s is packed, but the config %s it", path, linear->module,
                         ignored ? "ignores" : "does not target");
    return flrq_fail(FLRQ_ERR_FORMAT,
                     "%s: layer %s is stored as plain weight, but the config targets it and does not ignore it", path,
                     linear->module);
}

/* ---- packed tensors ---------------------------------------------------------------------------------------------- */

/** Words of a dense stream of `count` codes. count <= INT32_MAX. */
static int64_t packed_words(int64_t count, int bits) {
    return (count * bits + 31) / 32;
}

static flrq_status check_packed(const flrq_model *model, const flrq_linear *linear, const flrq_tensor *tensor,
                                const char *suffix, flrq_dtype dtype, int64_t rows, int64_t cols) {
    const char *file = model->checkpoint->files[linear->packed->file];
    if (!tensor) return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s.%s is missing", file, linear->module, suffix);
    file = model->checkpoint->files[tensor->file];
    if (tensor->dtype != dtype)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s is of type %s, expected %s", file, tensor->name,
                         flrq_dtype_name(tensor->dtype), flrq_dtype_name(dtype));
    if (tensor->dims == 2 && tensor->shape[0] == rows && tensor->shape[1] == cols) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_SHAPE,
                     "%s: tensor %s has shape [%lld, %lld] (%d dimensions), expected [%lld, %lld] for %d bits and a "
                     "layer of [%lld, %lld]",
                     file, tensor->name, (long long)(tensor->dims > 0 ? tensor->shape[0] : 1),
                     (long long)(tensor->dims > 1 ? tensor->shape[1] : 1), tensor->dims, (long long)rows,
                     (long long)cols, (int)model->scheme.bits, (long long)linear->rows, (long long)linear->cols);
}

flrq_status flrq_quantized_linear(const flrq_model *model, flrq_linear *linear, const flrq_tensor *shape) {
    const char *file = model->checkpoint->files[linear->packed->file];
    const int bits = model->scheme.bits;
    if (!shape) return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s.weight_shape is missing", file, linear->module);
    if (shape->dtype != FLRQ_I64 || shape->dims != 1 || shape->shape[0] != 2)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s must be two I64 numbers",
                         model->checkpoint->files[shape->file], shape->name);
    int64_t said[2];
    FLRQ_TRY(flrq_checkpoint_read(model->checkpoint, shape, said, 0, sizeof said));
    if (said[0] < 1 || said[1] < 1 || said[0] > INT32_MAX || said[1] > INT32_MAX ||
        (linear->rows && (said[0] != linear->rows || said[1] != linear->cols)))
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: tensor %s says [%lld, %lld], config.json gives the layer [%lld, %lld]",
                         model->checkpoint->files[shape->file], shape->name, (long long)said[0], (long long)said[1],
                         (long long)linear->rows, (long long)linear->cols);
    linear->rows = said[0];
    linear->cols = said[1];

    if (bits == 3 && linear->packed->dims == 2 && linear->packed->shape[1] != packed_words(linear->cols, 3) &&
        linear->packed->shape[1] == (linear->cols + 9) / 10)
        return flrq_fail(
            FLRQ_ERR_UNSUPPORTED,
            "%s: tensor %s is %lld words wide: the 3-bit layout of compressed-tensors before 0.18 (10 codes a word); "
            "only the dense layout of %lld words is supported: save it again with 0.18 or newer",
            file, linear->packed->name, (long long)linear->packed->shape[1], (long long)packed_words(linear->cols, 3));
    FLRQ_TRY(check_packed(model, linear, linear->packed, "weight_packed", FLRQ_I32, linear->rows,
                          packed_words(linear->cols, bits)));
    int64_t group = model->scheme.group ? model->scheme.group : linear->cols;
    int64_t n_groups = (linear->cols + group - 1) / group;
    flrq_dtype scale_dtype =
        linear->scale && flrq_dtype_is_float(linear->scale->dtype) ? linear->scale->dtype : FLRQ_F16;
    FLRQ_TRY(check_packed(model, linear, linear->scale, "weight_scale", scale_dtype, linear->rows, n_groups));
    if (!model->scheme.symmetric)
        return check_packed(model, linear, linear->zero, "weight_zero_point", FLRQ_I32,
                            packed_words(linear->rows, bits), n_groups);
    if (linear->zero)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: tensor %s in a symmetric scheme: engines refuse it",
                         model->checkpoint->files[linear->zero->file], linear->zero->name);
    return FLRQ_OK;
}

/* ---- adapter ----------------------------------------------------------------------------------------------------- */

/** What adapter_config.json says of ranks and scaling. */
typedef struct lora_config {
    const char *path;
    const json_t *rank_pattern, *alpha_pattern;
    int64_t r;
    double alpha;
} lora_config;

static flrq_status read_lora_config(const json_t *config, const char *path, lora_config *out) {
    static const config_refusal refused[] = {{"use_rslora", CONFIG_OFF},
                                             {"use_dora", CONFIG_OFF},
                                             {"use_qalora", CONFIG_OFF},
                                             {"fan_in_fan_out", CONFIG_OFF},
                                             {"lora_bias", CONFIG_OFF},
                                             {"bias", CONFIG_OFF},
                                             {"modules_to_save", CONFIG_OFF},
                                             {"target_parameters", CONFIG_OFF},
                                             {"trainable_token_indices", CONFIG_OFF},
                                             {"layer_replication", CONFIG_OFF},
                                             {"alora_*", CONFIG_OFF},
                                             {"arrow_config", CONFIG_OFF},
                                             {NULL, CONFIG_OFF}};
    const char *type = text_of(config, "peft_type");
    if (!type || strcmp(type, "LORA") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: peft_type \"%s\" is not supported; known: LORA", path,
                         type ? type : "(none)");
    FLRQ_TRY(flrq_config_refuse(config, path, refused));
    const json_t *alpha = json_object_get(config, "lora_alpha");
    *out = (lora_config){.path = path,
                         .rank_pattern = json_object_get(config, "rank_pattern"),
                         .alpha_pattern = json_object_get(config, "alpha_pattern")};
    FLRQ_TRY(flrq_config_int(config, path, "r", 1, INT32_MAX, 0, &out->r));
    if (!json_is_number(alpha)) return flrq_fail(FLRQ_ERR_FORMAT, "%s: the number \"lora_alpha\" is missing", path);
    out->alpha = json_number_value(alpha);
    return FLRQ_OK;
}

/** The value of the first key of a pattern table that matches the module as PEFT matches it, or `fallback`. */
static flrq_status pattern_value(const char *path, const json_t *table, const char *module, double fallback,
                                 double *out) {
    const char *key;
    json_t *value;
    *out = fallback;
    json_object_foreach((json_t *)table, key, value) {
        char pattern[1024];
        int length = snprintf(pattern, sizeof pattern, "(.*\\.)?(%s)$", key), matched;
        if (length < 0 || (size_t)length >= sizeof pattern)
            return flrq_fail(FLRQ_ERR_FORMAT, "%s: a key of rank_pattern or alpha_pattern is %zu bytes long", path,
                             strlen(key));
        FLRQ_TRY(regex_match(path, pattern, module, &matched));
        if (!matched) continue;
        if (!json_is_number(value))
            return flrq_fail(FLRQ_ERR_FORMAT, "%s: the value of \"%s\" in rank_pattern or alpha_pattern is no number",
                             path, key);
        *out = json_number_value(value);
        return FLRQ_OK;
    }
    return FLRQ_OK;
}

/** The factor <module>.lora_A / lora_B of the adapter, or NULL. */
static flrq_status find_factor(const flrq_model *model, const char *module, const char *which,
                               const flrq_tensor **out) {
    size_t bytes = strlen(module) + 64;
    char *name = malloc(bytes);
    if (!name) return flrq_fail_memory(bytes, "a tensor name");
    snprintf(name, bytes, "base_model.model.%s.%s.weight", module, which);
    *out = flrq_checkpoint_find(model->adapter, name);
    free(name);
    return FLRQ_OK;
}

static flrq_status attach_factors(const flrq_model *model, const lora_config *config, flrq_linear *linear, char *used) {
    const flrq_tensor *a = NULL, *b = NULL;
    FLRQ_TRY(find_factor(model, linear->module, "lora_A", &a));
    FLRQ_TRY(find_factor(model, linear->module, "lora_B", &b));
    if (!a && !b) return FLRQ_OK;
    const char *file = model->adapter->files[(a ? a : b)->file];
    if (!a || !b)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: layer %s has lora_%c without lora_%c", file, linear->module,
                         a ? 'A' : 'B', a ? 'B' : 'A');
    used[a - model->adapter->tensors] = used[b - model->adapter->tensors] = 1;
    if (!flrq_dtype_is_float(a->dtype) || !flrq_dtype_is_float(b->dtype))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: the factors of layer %s are %s and %s; known: F32, F16, BF16", file,
                         linear->module, flrq_dtype_name(a->dtype), flrq_dtype_name(b->dtype));
    double rank, alpha;
    FLRQ_TRY(pattern_value(config->path, config->rank_pattern, linear->module, (double)config->r, &rank));
    FLRQ_TRY(pattern_value(config->path, config->alpha_pattern, linear->module, config->alpha, &alpha));
    if (a->dims != 2 || b->dims != 2 || a->shape[0] < 1 || (double)a->shape[0] != rank || b->shape[1] != a->shape[0] ||
        a->shape[1] != linear->cols || b->shape[0] != linear->rows)
        return flrq_fail(FLRQ_ERR_SHAPE,
                         "%s: the factors of layer %s [%lld, %lld] have shapes A [%lld, %lld] and B [%lld, %lld], but "
                         "%s gives rank %g",
                         file, linear->module, (long long)linear->rows, (long long)linear->cols,
                         (long long)(a->dims > 0 ? a->shape[0] : 1), (long long)(a->dims > 1 ? a->shape[1] : 1),
                         (long long)(b->dims > 0 ? b->shape[0] : 1), (long long)(b->dims > 1 ? b->shape[1] : 1),
                         config->path, rank);
    double scaling = alpha / rank;
    if (!isfinite(scaling))
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: lora_alpha %g of layer %s", config->path, alpha, linear->module);
    linear->lora_a = a;
    linear->lora_b = b;
    linear->lora_scaling = scaling;
    return FLRQ_OK;
}

flrq_status flrq_adapter_open(flrq_model *model) {
    flrq_status status = FLRQ_OK;
    json_t *config = NULL;
    char *used = NULL;
    char *dir = flrq_path_join(model->dir, "lowrank"), *config_file = NULL, *tensors = NULL;
    if (!dir) return flrq_fail_memory(strlen(model->dir) + 16, "a path");
    if (!flrq_path_exists(dir)) goto out; /* a quantized folder without a low-rank part is complete */
    config_file = flrq_path_join(dir, "adapter_config.json");
    tensors = flrq_path_join(dir, "adapter_model.safetensors");
    if (!config_file || !tensors) {
        status = flrq_fail_memory(strlen(dir) + 32, "a path");
        goto out;
    }
    FLRQ_GOTO(flrq_json_read(config_file, ADAPTER_CONFIG_MAX_BYTES, &config));
    lora_config lora;
    FLRQ_GOTO(read_lora_config(config, config_file, &lora));
    FLRQ_GOTO(flrq_checkpoint_open(&model->adapter, tensors));
    used = calloc((size_t)model->adapter->n_tensors + 1, 1);
    if (!used) {
        status = flrq_fail_memory((size_t)model->adapter->n_tensors + 1, "the accounting of the adapter");
        goto out;
    }
    for (int64_t i = 0; i < model->n_linears; i++) FLRQ_GOTO(attach_factors(model, &lora, &model->linears[i], used));
    for (int64_t i = 0; i < model->adapter->n_tensors; i++)
        if (!used[i]) {
            status =
                flrq_fail(FLRQ_ERR_FORMAT,
                          "%s: tensor %s belongs to no linear layer of the model; --no-lowrank ignores the adapter",
                          tensors, model->adapter->tensors[i].name);
            goto out;
        }
out:
    json_decref(config);
    free(used);
    free(config_file);
    free(tensors);
    free(dir);
    return status;
}
