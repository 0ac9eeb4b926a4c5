/* test_model_quantized.c - quantized folders: what is read back from packed tensors and adapter equals a dense model
 * made of the same numbers, and everything that this version does not read is refused by name.
 *
 * The folders are made by packed.h, with a packer written from the definition of the stream.
 */
#include "model/logits.h"
#include "model/packed.h"

/* ---- reading back ------------------------------------------------------------------------------------------------ */

/** Tolerance 1e-5: the dense model rounds code, scale and factors into one fp32 number, the packed one adds two
 * products; both within some 2^-24 sqrt(n) of exact. One wrong code moves logits by more than 1e-3. */
static void test_equals_dense(void **state) {
    static const recipe recipes[] = {
        {"families/llama", 4, 1, 32, 0, FLRQ_F16, 1},      {"families/llama", 4, 1, 32, 4, FLRQ_F16, 1},
        {"families/llama", 2, 1, 16, 3, FLRQ_BF16, 2},     {"families/llama", 3, 1, 0, 1, FLRQ_F32, 0.5},
        {"families/llama", 8, 1, 32, 0, FLRQ_BF16, 1},     {"families/llama", 4, 0, 32, 2, FLRQ_F16, 1},
        {"families/llama_bias", 3, 1, 16, 2, FLRQ_F16, 1}, /* 36 = 2 x 16 + 4: tail groups, 3-bit words that straddle */
        {"families/llama_bias", 4, 0, 32, 0, FLRQ_F16, 1}, /* 36 rows of zero points: a tail word */
        {"families/llama_bias", 3, 0, 0, 2, FLRQ_BF16, 1}, {"families/llama_bias", 2, 0, 8, 0, FLRQ_F16, 1},
        {"families/qwen3", 8, 0, 16, 2, FLRQ_F16, 4},      {"families/qwen2", 4, 1, 8, 5, FLRQ_F16, 1},
        {"families/opt", 4, 1, 16, 2, FLRQ_F16, 1},        {"families/opt_350m", 3, 0, 20, 2, FLRQ_F16, 1},
    };
    static const char *const faces[] = {"cpu", "cpu-ref"};
    int32_t ids[23];
    for (int i = 0; i < 23; i++) ids[i] = i * 29 % 96;
    for (int f = 0; f < 2; f++) {
        flrq_backend *be = backend_opens(faces[f]);
        for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++) {
            const recipe *r = &recipes[i];
            pair p = make_pair(r);
            flrq_model *packed = model_opens(write_packed(&p), 0), *dense = model_opens(folder_write(p.dense), 0);
            assert_int_equal(packed->quantized, 1);
            assert_int_equal(packed->scheme.bits, r->bits);
            assert_int_equal(packed->scheme.symmetric, r->symmetric);
            assert_int_equal(packed->scheme.group, r->group);
            assert_int_equal(packed->dtype, r->scale);
            assert_int_equal(packed->adapter != NULL, r->rank > 0);
            for (int64_t l = 0; l < packed->n_linears; l++) {
                assert_null(packed->linears[l].weight);
                assert_true(packed->linears[l].lora_scaling == r->alpha || r->rank == 0);
            }
            float *got = model_logits(packed, be, ids, 23), *wanted = model_logits(dense, be, ids, 23);
            double off = disagreement(got, wanted, 23 * packed->vocab);
            if (!(off <= 1e-5)) fail_msg("recipe %zu on %s: %g", i, faces[f], off);
            free(got);
            free(wanted);
            flrq_model_close(packed);
            flrq_model_close(dense);
            free_pair(&p);
        }
        flrq_backend_close(be);
    }
}

/** NO_ADAPTER gives the codes alone; a folder without lowrank/ is complete. */
static void test_without_adapter(void **state) {
    const recipe r = {"families/llama", 4, 1, 32, 4, FLRQ_F16, 1};
    int32_t ids[] = {5, 6, 7, 8};
    flrq_backend *be = backend_opens("cpu");
    pair p = make_pair(&r);
    flrq_model *bare = model_opens(write_packed(&p), FLRQ_MODEL_NO_ADAPTER);
    assert_null(bare->adapter);
    flrq_model *full = model_opens(bare->dir, 0);
    folder_free(p.adapter);
    p.adapter = calloc(1, sizeof(folder));
    flrq_model *none = model_opens(write_packed(&p), 0);
    float *a = model_logits(bare, be, ids, 4), *b = model_logits(none, be, ids, 4), *c = model_logits(full, be, ids, 4);
    assert_memory_equal(a, b, (size_t)(4 * bare->vocab) * sizeof(float));
    assert_true(disagreement(a, c, 4 * bare->vocab) > 1e-2);
    free(a);
    free(b);
    free(c);
    flrq_model_close(bare);
    flrq_model_close(full);
    flrq_model_close(none);
    free_pair(&p);
    flrq_backend_close(be);
}

/** A layer in the ignore list stays dense beside packed ones, by name and by pattern. */
static void test_ignored_layer(void **state) {
    static const char *const ignores[] = {"model.layers.1.mlp.down_proj", "re:.*layers\\.1\\.mlp\\.down_proj$"};
    const recipe r = {"families/llama", 4, 1, 32, 0, FLRQ_F16, 1};
    static const char *const suffixes[] = {"weight_packed", "weight_scale", "weight_shape"};
    int32_t ids[] = {5, 6, 7, 8};
    flrq_backend *be = backend_opens("cpu");
    for (int i = 0; i < 2; i++) {
        pair p = make_pair(&r);
        char name[128];
        for (int s = 0; s < 3; s++) {
            snprintf(name, sizeof name, "model.layers.1.mlp.down_proj.%s", suffixes[s]);
            folder_remove(p.packed, name);
        }
        folder_tensor *w = folder_find(p.dense, "model.layers.1.mlp.down_proj.weight");
        folder_add(p.packed, w->name, FLRQ_F32, 2, w->shape[0], w->shape[1], w->data);
        model_refused(write_packed(&p), 0, FLRQ_ERR_FORMAT, "model.layers.1.mlp.down_proj", "does not ignore", NULL);
        json_t *q = json_object_get(p.packed->config, "quantization_config");
        json_array_append_new(json_object_get(q, "ignore"), json_string(ignores[i]));
        flrq_model *packed = model_opens(write_packed(&p), 0), *dense = model_opens(folder_write(p.dense), 0);
        float *got = model_logits(packed, be, ids, 4), *wanted = model_logits(dense, be, ids, 4);
        double off = disagreement(got, wanted, 4 * packed->vocab);
        if (!(off <= 1e-5)) fail_msg("%g", off);
        free(got);
        free(wanted);
        flrq_model_close(packed);
        flrq_model_close(dense);
        free_pair(&p);
    }
    flrq_backend_close(be);
}

/** Tensors of several pieces of staging: codes, scales and zero points arrive complete and in place. */
static void test_large_layers(void **state) {
    enum { FFN = 150016, HIDDEN = 32 };
    folder *f = folder_read("families/llama");
    static const char *const linears[] = {"up_proj", "gate_proj", "down_proj"};
    const recipe r = {"", 8, 0, 2, 0, FLRQ_F16, 1};
    pair p = {f, calloc(1, sizeof(folder)), calloc(1, sizeof(folder))};
    for (int i = f->n - 1; i >= 0; i--)
        if (strstr(f->tensors[i].name, "layers.1.")) folder_remove(f, f->tensors[i].name);
    json_object_set_new(f->config, "num_hidden_layers", json_integer(1));
    json_object_set_new(f->config, "intermediate_size", json_integer(FFN));
    json_object_set_new(f->config, "quantization_config", quantization_config(&r));
    json_t *ignore = json_object_get(json_object_get(f->config, "quantization_config"), "ignore");
    json_array_append_new(ignore, json_string("re:.*self_attn.*"));
    noise_state = 99;
    for (int i = 0; i < 3; i++) {
        char module[64], name[96];
        snprintf(module, sizeof module, "model.layers.0.mlp.%s", linears[i]);
        snprintf(name, sizeof name, "%s.weight", module);
        folder_remove(f, name);
        int64_t rows = i == 2 ? HIDDEN : FFN, cols = i == 2 ? FFN : HIDDEN;
        folder_add(f, name, FLRQ_F32, 2, rows, cols, NULL);
        float *w = folder_add(p.dense, name, FLRQ_F32, 2, rows, cols, NULL)->data;
        for (int64_t k = 0; k < rows * cols; k++) w[k] = noise();
        pack_layer(&p, &r, module, 0);
    }
    flrq_backend *be = backend_opens("cpu");
    flrq_model *m = model_opens(folder_write(f), 0);
    flrq_block *block;
    MUST(flrq_block_new(&block, m, be));
    MUST(flrq_block_load(block, m, 0));
    assert_non_null(block->linear[FLRQ_SLOT_Q].d_dense);
    static const int slots[] = {FLRQ_SLOT_UP, FLRQ_SLOT_GATE, FLRQ_SLOT_DOWN};
    for (int i = 0; i < 3; i++) {
        const flrq_operand *a = &block->linear[slots[i]];
        const float *w = p.dense->tensors[i].data;
        assert_non_null(a->codes);
        for (int64_t k = 0; k < a->rows * a->cols; k++) {
            const flrq_codes *c = a->codes;
            int64_t g = k / a->cols * c->n_groups + k % a->cols / c->group;
            float value = c->scale[g] * (float)(c->code[k] - c->zero[g]);
            if (value != w[k]) fail_msg("%s: element %lld is %g, wanted %g", linears[i], (long long)k, value, w[k]);
        }
    }
    flrq_block_free(block, be);
    flrq_model_close(m);
    flrq_backend_close(be);
    free_pair(&p);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

/** Sets quantization_config.<path of keys> to a JSON text. */
static void set_at(json_t *object, const char *path, const char *json) {
    char keys[128], *rest;
    snprintf(keys, sizeof keys, "%s", path);
    char *key = strtok_r(keys, "/", &rest), *next;
    while ((next = strtok_r(NULL, "/", &rest))) {
        object = json_object_get(object, key);
        key = next;
    }
    json_object_set_new(object, key, json_loads(json, JSON_DECODE_ANY, NULL));
}

static void test_config_refusals(void **state) {
    static const struct {
        const char *path, *json;
        flrq_status status;
        const char *says;
    } cases[] = {
        {"quant_method", "\"gptq\"", FLRQ_ERR_UNSUPPORTED, "gptq"},
        {"quant_method", "null", FLRQ_ERR_UNSUPPORTED, "compressed-tensors"},
        {"format", "\"int-quantized\"", FLRQ_ERR_UNSUPPORTED, "int-quantized"},
        {"format", "\"marlin-24\"", FLRQ_ERR_UNSUPPORTED, "marlin-24"},
        {"quantization_status", "\"frozen\"", FLRQ_ERR_UNSUPPORTED, "frozen"},
        {"kv_cache_scheme", "{\"num_bits\": 8}", FLRQ_ERR_UNSUPPORTED, "kv_cache_scheme"},
        {"transform_config", "{\"config_groups\": {}}", FLRQ_ERR_UNSUPPORTED, "transform_config"},
        {"sparsity_config", "{\"format\": \"sparse-24-bitmask\"}", FLRQ_ERR_UNSUPPORTED, "sparsity_config"},
        {"config_groups", "{}", FLRQ_ERR_UNSUPPORTED, "0 config_groups"},
        {"config_groups/group_1", "{\"targets\": []}", FLRQ_ERR_UNSUPPORTED, "2 config_groups"},
        {"config_groups/group_0/weights", "null", FLRQ_ERR_FORMAT, "weights"},
        {"config_groups/group_0/input_activations", "{\"num_bits\": 8}", FLRQ_ERR_UNSUPPORTED, "input_activations"},
        {"config_groups/group_0/targets", "[\"re:.*mlp.*\"]", FLRQ_ERR_FORMAT, "does not target"},
        {"config_groups/group_0/targets", "[\"re:(\"]", FLRQ_ERR_FORMAT, "regular expression"},
        {"config_groups/group_0/targets", "[3]", FLRQ_ERR_FORMAT, "lists of names"},
        {"ignore", "[\"Linear\"]", FLRQ_ERR_FORMAT, "ignores"},
        {"config_groups/group_0/weights/num_bits", "5", FLRQ_ERR_UNSUPPORTED, "num_bits 5"},
        {"config_groups/group_0/weights/num_bits", "null", FLRQ_ERR_FORMAT, "num_bits"},
        {"config_groups/group_0/weights/num_bits", "8", FLRQ_ERR_SHAPE, "weight_packed"},
        {"config_groups/group_0/weights/type", "\"float\"", FLRQ_ERR_UNSUPPORTED, "float"},
        {"config_groups/group_0/weights/dynamic", "true", FLRQ_ERR_UNSUPPORTED, "dynamic"},
        {"config_groups/group_0/weights/actorder", "\"group\"", FLRQ_ERR_UNSUPPORTED, "actorder"},
        {"config_groups/group_0/weights/strategy", "\"tensor\"", FLRQ_ERR_UNSUPPORTED, "tensor"},
        {"config_groups/group_0/weights/strategy", "\"channel\"", FLRQ_ERR_SHAPE, "weight_scale"},
        {"config_groups/group_0/weights/group_size", "null", FLRQ_ERR_FORMAT, "group_size"},
        {"config_groups/group_0/weights/group_size", "64", FLRQ_ERR_SHAPE, "weight_scale"},
        {"config_groups/group_0/weights/symmetric", "false", FLRQ_ERR_FORMAT, "weight_zero_point is missing"},
        {"config_groups/group_0/weights/symmetric", "\"yes\"", FLRQ_ERR_FORMAT, "symmetric"},
    };
    const recipe r = {"families/llama", 4, 1, 16, 0, FLRQ_F16, 1};
    pair p = make_pair(&r);
    json_t *good = json_deep_copy(json_object_get(p.packed->config, "quantization_config"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *q = json_deep_copy(good);
        set_at(q, cases[i].path, cases[i].json);
        json_object_set_new(p.packed->config, "quantization_config", q);
        model_refused(folder_write(p.packed), 0, cases[i].status, cases[i].says, NULL);
    }
    json_object_set_new(p.packed->config, "compression_config", good); /* the key's first name */
    json_object_del(p.packed->config, "quantization_config");
    flrq_model_close(model_opens(folder_write(p.packed), 0));
    json_object_del(p.packed->config, "compression_config");
    model_refused(folder_write(p.packed), 0, FLRQ_ERR_FORMAT, "weight_packed", "no quantization_config", NULL);
    free_pair(&p);
}

#define LAYER "model.layers.0.mlp.up_proj"

static void test_tensor_refusals(void **state) {
    static const struct {
        const char *suffix;
        flrq_dtype dtype;
        int dims;
        int64_t rows, cols; /* of the replacement; rows 0: removed */
        flrq_status status;
        const char *says;
    } cases[] = {
        {"weight_packed", FLRQ_I32, 2, 0, 0, FLRQ_ERR_FORMAT, LAYER ".weight_packed is missing"},
        {"weight_packed", FLRQ_I32, 2, 64, 5, FLRQ_ERR_SHAPE, "[64, 5]"},
        {"weight_packed", FLRQ_I32, 2, 32, 4, FLRQ_ERR_SHAPE, "expected [64, 4]"},
        {"weight_packed", FLRQ_I64, 2, 64, 4, FLRQ_ERR_FORMAT, "I64"},
        {"weight_packed", FLRQ_I32, 1, 256, 0, FLRQ_ERR_SHAPE, "1 dimensions"},
        {"weight_scale", FLRQ_F16, 2, 0, 0, FLRQ_ERR_FORMAT, LAYER ".weight_scale is missing"},
        {"weight_scale", FLRQ_F16, 2, 64, 1, FLRQ_ERR_SHAPE, "expected [64, 2]"},
        {"weight_scale", FLRQ_F8_E4M3, 2, 64, 2, FLRQ_ERR_FORMAT, "F8_E4M3"},
        {"weight_shape", FLRQ_I64, 1, 0, 0, FLRQ_ERR_FORMAT, LAYER ".weight_shape is missing"},
        {"weight_shape", FLRQ_I64, 1, 3, 0, FLRQ_ERR_FORMAT, "two I64"},
        {"weight_shape", FLRQ_I32, 1, 2, 0, FLRQ_ERR_FORMAT, "two I64"},
        {"weight_shape", FLRQ_I64, 1, 2, 0, FLRQ_ERR_SHAPE, "says [0, 0]"},
    };
    const recipe r = {"families/llama", 4, 1, 16, 0, FLRQ_F16, 1};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[128];
        pair p = make_pair(&r);
        snprintf(name, sizeof name, LAYER ".%s", cases[i].suffix);
        folder_remove(p.packed, name);
        if (cases[i].rows)
            folder_add(p.packed, name, cases[i].dtype, cases[i].dims, cases[i].rows, cases[i].cols, NULL);
        model_refused(folder_write(p.packed), 0, cases[i].status, LAYER, cases[i].says, NULL);
        free_pair(&p);
    }
    static const struct {
        const char *suffix;
        flrq_dtype dtype;
        const char *says;
    } surplus[] = {
        {"weight_zero_point", FLRQ_I32, "symmetric"},
        {"weight", FLRQ_F32, "both weight and weight_packed"},
        {"weight_g_idx", FLRQ_I32, "no place"},
        {"input_scale", FLRQ_F32, "no place"},
    };
    for (size_t i = 0; i < sizeof surplus / sizeof surplus[0]; i++) {
        char name[128];
        pair p = make_pair(&r);
        snprintf(name, sizeof name, LAYER ".%s", surplus[i].suffix);
        folder_add(p.packed, name, surplus[i].dtype, 2, 64, 32, NULL);
        model_refused(folder_write(p.packed), 0, FLRQ_ERR_FORMAT, LAYER, surplus[i].says, NULL);
        free_pair(&p);
    }

    const recipe three = {"families/llama", 3, 1, 32, 0,
                          FLRQ_F16,         1}; /* 32 columns: 3 dense words, 4 words of 10 codes */
    pair p = make_pair(&three);
    folder_remove(p.packed, LAYER ".weight_packed");
    folder_add(p.packed, LAYER ".weight_packed", FLRQ_I32, 2, 64, 4, NULL);
    model_refused(folder_write(p.packed), 0, FLRQ_ERR_UNSUPPORTED, LAYER, "before 0.18", "4 words wide", NULL);
    free_pair(&p);

    const recipe zeros = {"families/llama", 4, 0, 32, 0, FLRQ_F16, 1};
    p = make_pair(&zeros);
    folder_remove(p.packed, LAYER ".weight_zero_point");
    folder_add(p.packed, LAYER ".weight_zero_point", FLRQ_I32, 2, 64, 1, NULL); /* not packed along the rows */
    model_refused(folder_write(p.packed), 0, FLRQ_ERR_SHAPE, LAYER ".weight_zero_point", "expected [8, 1]", NULL);
    free_pair(&p);
}

#define FACTOR "base_model.model.model.layers.0.mlp.up_proj.lora_"

static void test_adapter_refusals(void **state) {
    static const struct {
        const char *key, *json;
        flrq_status status;
        const char *says;
    } cases[] = {
        {"peft_type", "\"LOHA\"", FLRQ_ERR_UNSUPPORTED, "LOHA"},
        {"use_rslora", "true", FLRQ_ERR_UNSUPPORTED, "use_rslora"},
        {"use_dora", "true", FLRQ_ERR_UNSUPPORTED, "use_dora"},
        {"fan_in_fan_out", "true", FLRQ_ERR_UNSUPPORTED, "fan_in_fan_out"},
        {"lora_bias", "true", FLRQ_ERR_UNSUPPORTED, "lora_bias"},
        {"bias", "\"all\"", FLRQ_ERR_UNSUPPORTED, "bias"},
        {"modules_to_save", "[\"lm_head\"]", FLRQ_ERR_UNSUPPORTED, "modules_to_save"},
        {"r", "null", FLRQ_ERR_FORMAT, "\"r\""},
        {"r", "0", FLRQ_ERR_FORMAT, "\"r\""},
        {"r", "3", FLRQ_ERR_SHAPE, "gives rank 3"},
        {"lora_alpha", "null", FLRQ_ERR_FORMAT, "lora_alpha"},
        {"rank_pattern", "{\".*\": 7}", FLRQ_ERR_SHAPE, "gives rank 7"},
        {"rank_pattern", "{\".*\": \"x\"}", FLRQ_ERR_FORMAT, "no number"},
        {"rank_pattern", "{\"up_(proj\": 2}", FLRQ_ERR_FORMAT, "regular expression"},
    };
    const recipe r = {"families/llama", 4, 1, 16, 2, FLRQ_F16, 1};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pair p = make_pair(&r);
        set_at(p.adapter->config, cases[i].key, cases[i].json);
        model_refused(write_packed(&p), 0, cases[i].status, "lowrank", cases[i].says, NULL);
        free_pair(&p);
    }
    pair p = make_pair(&r);
    folder_remove(p.adapter, FACTOR "B.weight");
    model_refused(write_packed(&p), 0, FLRQ_ERR_FORMAT, LAYER, "lora_A without lora_B", NULL);
    free_pair(&p);
    p = make_pair(&r);
    folder_add(p.adapter, "base_model.model.lm_head.lora_A.weight", FLRQ_F16, 2, 2, 32, NULL);
    model_refused(write_packed(&p), 0, FLRQ_ERR_FORMAT, "lm_head.lora_A", "no linear layer", NULL);
    free_pair(&p);
    p = make_pair(&r);
    folder_tensor *a = folder_find(p.adapter, FACTOR "A.weight");
    a->shape[1] = 16; /* twice the rank, half the columns */
    a->shape[0] *= 2;
    model_refused(write_packed(&p), 0, FLRQ_ERR_SHAPE, LAYER, "[64, 32]", ", 16]", NULL);
    free_pair(&p);
    p = make_pair(&r);
    a = folder_find(p.adapter, FACTOR "A.weight");
    a->dtype = FLRQ_I16;
    model_refused(write_packed(&p), 0, FLRQ_ERR_UNSUPPORTED, LAYER, "I16", NULL);
    free_pair(&p);
}

/** rank_pattern and alpha_pattern are matched as PEFT matches them: suffixes and patterns, the first hit in file order.
 */
static void test_adapter_patterns(void **state) {
    const recipe r = {"families/llama", 4, 1, 16, 2, FLRQ_F16, 1};
    pair p = make_pair(&r);
    json_object_clear(json_object_get(p.adapter->config, "rank_pattern"));
    json_object_clear(json_object_get(p.adapter->config, "alpha_pattern"));
    for (int i = 0; i < p.adapter->n; i++) { /* every factor to rank 2 */
        folder_tensor *t = &p.adapter->tensors[i];
        t->shape[strstr(t->name, "lora_A") ? 0 : 1] = 2;
        t->bytes = (uint64_t)(t->shape[0] * t->shape[1]) * 2;
    }
    set_at(p.adapter->config, "alpha_pattern",
           "{\"layers.0.mlp.up_proj\": 6, \"up_proj\": 8, \"layers.*.self_attn.[qk]_proj\": 3}");
    flrq_model *m = model_opens(write_packed(&p), 0);
    for (int64_t i = 0; i < m->n_linears; i++) {
        const flrq_linear *l = &m->linears[i];
        double wanted = l->slot == FLRQ_SLOT_UP ? (l->block == 0 ? 3 : 4) : l->slot <= FLRQ_SLOT_K ? 1.5 : 1;
        assert_true(l->lora_scaling == wanted);
    }
    flrq_model_close(m);
    free_pair(&p);
}

/** A quantized folder of an unknown family opens weight-only. */
static void test_unknown_family(void **state) {
    const recipe r = {"families/llama", 4, 1, 16, 2, FLRQ_F16, 1};
    pair p = make_pair(&r);
    json_object_set_new(p.packed->config, "model_type", json_string("strange"));
    flrq_model *m = model_opens(write_packed(&p), FLRQ_MODEL_ALLOW_UNKNOWN);
    assert_int_equal(m->n_linears, 14);
    for (int64_t i = 0; i < m->n_linears; i++) {
        assert_non_null(m->linears[i].packed);
        assert_non_null(m->linears[i].lora_b);
        assert_int_equal(m->linears[i].rows, m->linears[i].packed->shape[0]);
    }
    flrq_model_close(m);
    free_pair(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_dense),     cmocka_unit_test(test_without_adapter),
        cmocka_unit_test(test_ignored_layer),    cmocka_unit_test(test_large_layers),
        cmocka_unit_test(test_config_refusals),  cmocka_unit_test(test_tensor_refusals),
        cmocka_unit_test(test_adapter_refusals), cmocka_unit_test(test_adapter_patterns),
        cmocka_unit_test(test_unknown_family),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
