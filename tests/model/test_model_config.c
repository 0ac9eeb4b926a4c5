/* test_model_config.c - every key of config.json that changes the arithmetic is honoured or refused by name: refusals,
 * contradictions, defaults, both spellings of RoPE, windows.
 */
#include <math.h>
#include "model/folder.h"

/** The folder with `key` set to a JSON text (NULL: key removed), written. */
static const char *with(const char *name, const char *key, const char *json) {
    folder *f = folder_read(name);
    if (json) {
        json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        json_object_set_new(f->config, key, value);
    } else {
        json_object_del(f->config, key);
    }
    const char *dir = folder_write(f);
    folder_free(f);
    return dir;
}

static flrq_model *opens_with(const char *name, const char *key, const char *json) {
    return model_opens(with(name, key, json), 0);
}

typedef struct mutation {
    const char *folder, *key, *json, *says;
} mutation;

static void all_refused(const mutation *cases, size_t n, flrq_status status) {
    for (size_t i = 0; i < n; i++)
        model_refused(with(cases[i].folder, cases[i].key, cases[i].json), 0, status, "config.json", cases[i].says,
                      NULL);
}

#define LLAMA        "families/llama"
#define COUNT(cases) (sizeof cases / sizeof cases[0])

static void test_refused_by_name(void **state) {
    static const mutation cases[] = {
        {LLAMA, "model_type", "\"gpt_neo\"", "gpt_neo"},
        {LLAMA, "architectures", "[\"LlamaForSequenceClassification\"]", "LlamaForSequenceClassification"},
        {LLAMA, "hidden_act", "\"gelu\"", "gelu"},
        {LLAMA, "hidden_act", "7", "7"},
        {"families/opt", "activation_function", "\"gelu_new\"", "gelu_new"},
        {"families/opt", "activation_function", "\"silu\"", "silu"},
        {"families/opt", "layer_norm_elementwise_affine", "false", "layer_norm_elementwise_affine"},
        {LLAMA, "partial_rotary_factor", "0.5", "partial_rotary_factor"},
        {LLAMA, "attn_logit_softcapping", "50.0", "attn_logit_softcapping"},
        {LLAMA, "final_logit_softcapping", "30.0", "final_logit_softcapping"},
        {LLAMA, "logit_scale", "0.0625", "logit_scale"},
        {LLAMA, "logits_scaling", "8", "logits_scaling"},
        {LLAMA, "residual_multiplier", "0.22", "residual_multiplier"},
        {LLAMA, "embedding_multiplier", "12", "embedding_multiplier"},
        {LLAMA, "attention_multiplier", "0.015625", "attention_multiplier"},
        {LLAMA, "scale_emb", "12", "scale_emb"},
        {LLAMA, "query_pre_attn_scalar", "224", "query_pre_attn_scalar"},
        {LLAMA, "num_local_experts", "8", "num_local_experts"},
        {LLAMA, "no_rope_layers", "[1, 0]", "no_rope_layers"},
        {LLAMA, "is_causal", "false", "is_causal"},
        {LLAMA, "use_qk_norm", "true", "use_qk_norm"},
        {"families/qwen2", "dual_chunk_attention_config", "{\"chunk_size\": 8}", "dual_chunk_attention_config"},
        {"families/qwen2", "use_mrope", "true", "use_mrope"},
        {LLAMA, "sliding_window", "4096", "sliding_window"},
        {"families/opt", "sliding_window", "16", "sliding_window"},
        {LLAMA, "layer_types", "[\"full_attention\", \"linear_attention\"]", "linear_attention"},
        {"families/mistral_window", "layer_types", "[\"full_attention\", \"sliding_attention\"]", "layer_types[0]"},
        {LLAMA, "rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4}", "yarn"},
        {LLAMA, "rope_scaling", "{\"type\": \"dynamic\", \"factor\": 4}", "dynamic"},
        {LLAMA, "rope_scaling", "{\"type\": \"su\"}", "su"},
        {LLAMA, "rope_scaling", "{\"rope_type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [1]}",
         "longrope"},
        {LLAMA, "rope_parameters", "{\"rope_type\": \"yarn\", \"factor\": 4}", "yarn"},
        {LLAMA, "rope_scaling", "{\"type\": \"mrope\", \"mrope_section\": [1]}", "mrope"},
        {LLAMA, "rope_scaling", "{\"rope_type\": \"default\", \"mrope_section\": [2, 3, 3]}", "mrope_section"},
        {LLAMA, "rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 2, \"attention_factor\": 2}",
         "attention_factor"},
        {LLAMA, "rope_parameters", "{\"full_attention\": {\"rope_type\": \"default\"}}", "full_attention"},
        {LLAMA, "rope_parameters", "{\"partial_rotary_factor\": 0.25}", "partial_rotary_factor"},
        {LLAMA, "quantization_config", "{\"quant_method\": \"gptq\", \"bits\": 4}", "gptq"},
        {LLAMA, "quantization_config", "{\"quant_method\": \"awq\", \"bits\": 4}", "awq"},
        {LLAMA, "quantization_config", "{\"quant_method\": \"fp8\"}", "fp8"},
        {LLAMA, "quantization_config", "{\"quant_method\": \"bitsandbytes\"}", "bitsandbytes"},
    };
    all_refused(cases, COUNT(cases), FLRQ_ERR_UNSUPPORTED);
}

static void test_malformed(void **state) {
    static const mutation cases[] = {
        {LLAMA, "model_type", NULL, "model_type"},
        {LLAMA, "hidden_size", NULL, "\"hidden_size\" is missing"},
        {LLAMA, "hidden_size", "null", "\"hidden_size\" is missing"},
        {LLAMA, "hidden_size", "\"32\"", "an integer"},
        {LLAMA, "hidden_size", "32.5", "an integer"},
        {LLAMA, "hidden_size", "-32", "-32"},
        {LLAMA, "hidden_size", "4294967296", "4294967296"},
        {LLAMA, "num_hidden_layers", NULL, "num_hidden_layers"},
        {LLAMA, "num_hidden_layers", "0", "num_hidden_layers"},
        {LLAMA, "num_hidden_layers", "2000000000", "num_hidden_layers"},
        {LLAMA, "vocab_size", NULL, "vocab_size"},
        {LLAMA, "intermediate_size", NULL, "intermediate_size"},
        {"families/opt", "ffn_dim", NULL, "ffn_dim"},
        {LLAMA, "num_attention_heads", "0", "num_attention_heads"},
        {LLAMA, "num_attention_heads", "5", "not a multiple"},
        {LLAMA, "num_key_value_heads", "3", "num_key_value_heads 3"},
        {LLAMA, "head_dim", "7", "odd"},
        {LLAMA, "head_dim", "65538", "head_dim 65538"},
        {LLAMA, "rms_norm_eps", "\"1e-5\"", "a number"},
        {LLAMA, "rms_norm_eps", "-1", "rms_norm_eps"},
        {LLAMA, "tie_word_embeddings", "1", "true or false"},
        {LLAMA, "attention_bias", "\"yes\"", "true or false"},
        {LLAMA, "rope_theta", "0", "rope_theta"},
        {LLAMA, "rope_theta", "\"1e4\"", "a number"},
        {LLAMA, "rope_scaling", "\"linear\"", "an object"},
        {LLAMA, "rope_scaling", "{\"type\": \"linear\", \"rope_type\": \"llama3\", \"factor\": 2}", "two values"},
        {LLAMA, "rope_scaling", "{\"type\": 3}", "text"},
        {LLAMA, "rope_scaling", "{\"type\": \"linear\"}", "lacks \"factor\""},
        {LLAMA, "rope_scaling", "{\"type\": \"linear\", \"factor\": 0}", "factor 0"},
        {LLAMA, "rope_scaling", "{\"type\": \"default\", \"factor\": 2}", "factor 2"},
        {LLAMA, "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"high_freq_factor\": 4}",
         "low_freq_factor"},
        {LLAMA, "rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4}",
         "original_max_position_embeddings"},
        {LLAMA, "rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 32}",
         "high_freq_factor 4"},
        {LLAMA, "rope_parameters", "{\"rope_theta\": 500}", "rope_theta is both 10000 and 500"},
        {"families/llama_linear", "rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", "contradict"},
        {"families/mistral", "sliding_window", "0", "sliding_window"},
        {"families/mistral", "sliding_window", "true", "an integer"},
        {LLAMA, "layer_types", "[\"full_attention\"]", "layer_types"},
        {LLAMA, "layer_types", "[\"full_attention\", \"sliding_attention\"]", "no sliding_window"},
        {"families/qwen2", "layer_types", "[\"full_attention\", \"sliding_attention\"]", "no sliding_window"},
        {"families/qwen2_window", "max_window_layers", "-1", "max_window_layers"},
        {"families/opt", "max_position_embeddings", "2147483647", "max_position_embeddings"},
    };
    all_refused(cases, COUNT(cases), FLRQ_ERR_FORMAT);
}

/** Keys that make config.json contradict the tensors. The text names both sides; test_model_open.c holds the other
 * direction. */
static void test_contradictions(void **state) {
    static const mutation shapes[] = {
        {LLAMA, "hidden_size", "40", "hidden_size = 40"},
        {LLAMA, "intermediate_size", "65", "intermediate_size = 65"},
        {LLAMA, "vocab_size", "95", "vocab_size = 95"},
        {LLAMA, "num_attention_heads", "2", "num_key_value_heads x head_dim = 2 x 16"},
        {LLAMA, "num_key_value_heads", "null", "num_key_value_heads x head_dim = 4 x 8"}, /* null: as many as heads */
        {LLAMA, "num_key_value_heads", NULL, "num_key_value_heads x head_dim = 4 x 8"},
        {LLAMA, "head_dim", "16", "num_attention_heads x head_dim = 4 x 16"},
        {"families/qwen3", "head_dim", NULL, "num_attention_heads x head_dim = 4 x 128"}, /* Qwen3's default */
        {"families/qwen3", "head_dim", "null", "num_attention_heads x head_dim = 4 x 8"},
        {LLAMA, "num_hidden_layers", "1", "num_hidden_layers 1"},
        {LLAMA, "num_hidden_layers", "1000", "21 tensors"},
        {"families/opt", "max_position_embeddings", "50", "max_position_embeddings + offset = 52"},
        {"families/opt_350m", "word_embed_proj_dim", "20", "word_embed_proj_dim = 20"},
        {"families/opt_350m", "word_embed_proj_dim", NULL, "word_embed_proj_dim = 40"},
    };
    for (size_t i = 0; i < COUNT(shapes); i++)
        model_refused(with(shapes[i].folder, shapes[i].key, shapes[i].json), 0, FLRQ_ERR_SHAPE, "tensor",
                      shapes[i].says, NULL);
    static const mutation tensors[] = {
        {LLAMA, "num_hidden_layers", "3", "model.layers.2.self_attn.q_proj.weight is missing"},
        {LLAMA, "attention_bias", "true", "model.layers.0.self_attn.q_proj.bias is missing"},
        {LLAMA, "mlp_bias", "true", "model.layers.0.mlp.gate_proj.bias is missing"},
        {"families/llama_bias", "attention_bias", "false", "model.layers.0.self_attn.k_proj.bias is a bias"},
        {"families/llama_bias", "mlp_bias", NULL, "model.layers.0.mlp.down_proj.bias is a bias"},
        {"families/llama_bias", "tie_word_embeddings", "false", "lm_head.weight is missing"},
        {"families/qwen3", "attention_bias", "true", "model.layers.0.self_attn.q_proj.bias is missing"},
        {"families/opt", "enable_bias", "false", ".bias is a bias"},
        {"families/opt", "do_layer_norm_before", "false", "final_layer_norm"},
        {"families/opt", "_remove_final_layer_norm", "true", "final_layer_norm"},
        {"families/opt_350m", "do_layer_norm_before", NULL, "model.decoder.final_layer_norm.weight is missing"},
        {"families/opt", "tie_word_embeddings", "false", "lm_head.weight is missing"},
    };
    for (size_t i = 0; i < COUNT(tensors); i++)
        model_refused(with(tensors[i].folder, tensors[i].key, tensors[i].json), 0, FLRQ_ERR_FORMAT, tensors[i].says,
                      NULL);
    model_refused(with("families/mistral", "num_key_value_heads", NULL), 0,
                  FLRQ_ERR_FORMAT, /* Mistral's default is 8 */
                  "num_attention_heads 4 is not a multiple of num_key_value_heads 8", NULL);
}

/** Values that change nothing are not refused; keys that are not about arithmetic are not looked at. */
static void test_neutral(void **state) {
    static const mutation cases[] = {
        {LLAMA, "partial_rotary_factor", "1.0", NULL},
        {LLAMA, "logit_scale", "1", NULL},
        {LLAMA, "attn_logit_softcapping", "null", NULL},
        {LLAMA, "num_local_experts", "0", NULL},
        {LLAMA, "no_rope_layers", "[]", NULL},
        {LLAMA, "is_causal", "true", NULL},
        {LLAMA, "sliding_window", "null", NULL},
        {LLAMA, "hidden_act", NULL, NULL},
        {LLAMA, "hidden_act", "\"swish\"", NULL},
        {LLAMA, "architectures", NULL, NULL},
        {LLAMA, "architectures", "[\"LLaMAForCausalLM\"]", NULL},
        {LLAMA, "layer_types", "[\"full_attention\", \"full_attention\"]", NULL},
        {LLAMA, "attention_dropout", "0.5", NULL},
        {LLAMA, "pretraining_tp", "2", NULL},
        {LLAMA, "rope_scaling", "{\"rope_type\": \"default\"}", NULL},
        {LLAMA, "rope_parameters", "{\"rope_theta\": 10000, \"rope_type\": \"default\", \"factor\": null}", NULL},
        {LLAMA, "quantization_config", "null", NULL},
        {LLAMA, "tie_word_embeddings", NULL, NULL},
        {"families/opt", "layer_norm_elementwise_affine", "true", NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        flrq_model_close(opens_with(cases[i].folder, cases[i].key, cases[i].json));
}

static void test_defaults(void **state) {
    flrq_model *m = opens_with(LLAMA, "rms_norm_eps", NULL);
    assert_true(m->norm_eps == 1e-6f);
    flrq_model_close(m);
    m = opens_with(LLAMA, "max_position_embeddings", NULL);
    assert_int_equal(m->max_positions, 2048);
    flrq_model_close(m);
    m = opens_with("families/mistral", "max_position_embeddings", NULL);
    assert_int_equal(m->max_positions, 131072);
    flrq_model_close(m);
    m = opens_with(LLAMA, "bos_token_id", "[1, 2]");
    assert_int_equal(m->bos_id, -1);
    flrq_model_close(m);
    m = opens_with(LLAMA, "bos_token_id", NULL);
    assert_int_equal(m->bos_id, -1);
    flrq_model_close(m);
}

/* ---- RoPE -------------------------------------------------------------------------------------------------------- */

/** model->inv_freq against a formula of j, to the last bit or two of fp32. */
static void check_frequencies(flrq_model *m, double theta, double (*scaled)(double)) {
    for (int64_t j = 0; j < m->head_dim / 2; j++) {
        double f = exp(-log(theta) * (double)(2 * j) / (double)m->head_dim);
        double wanted = scaled ? scaled(f) : f;
        if (!(fabs(m->inv_freq[j] - wanted) <= 1e-7 * wanted))
            fail_msg("frequency %d: %g, wanted %g", (int)j, m->inv_freq[j], wanted);
    }
    assert_true(m->rope_magnitude == 1);
    flrq_model_close(m);
}

static double quarter(double f) {
    return f / 4;
}

/** Llama 3 with factor 8, low 1, high 4, original context 32, by wavelengths as its authors wrote it. */
static double llama3(double f) {
    double wavelength = 2 * acos(-1) / f;
    if (wavelength < 32.0 / 4) return f;
    if (wavelength > 32.0 / 1) return f / 8;
    double smooth = (32.0 / wavelength - 1) / (4 - 1);
    return (1 - smooth) * f / 8 + smooth * f;
}

static void test_rope_spellings(void **state) {
    check_frequencies(model_opens("data/families/llama", 0), 10000, NULL);
    check_frequencies(opens_with(LLAMA, "rope_theta", NULL), 10000, NULL);
    check_frequencies(opens_with(LLAMA, "rope_theta", "500000"), 500000, NULL); /* an integer is a number */
    check_frequencies(opens_with(LLAMA, "rope_scaling", "{\"type\": \"linear\", \"factor\": 4}"), 10000, quarter);
    check_frequencies(opens_with(LLAMA, "rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 4.0}"), 10000,
                      quarter);
    check_frequencies(model_opens("data/families/llama_linear", 0), 50000, quarter);
    check_frequencies(model_opens("data/families/llama_rope3", 0), 8000, llama3);
    check_frequencies(opens_with("families/llama_linear", "rope_scaling", "{\"type\": \"linear\", \"factor\": 4}"),
                      50000, quarter); /* both spellings, in agreement */
    check_frequencies(opens_with("families/llama_linear", "rope_theta", "50000"), 50000, quarter);
    check_frequencies(opens_with("families/qwen3", "rope_scaling", "{\"type\": \"default\"}"), 1000000, NULL);

    folder *f = folder_read("families/llama_rope3"); /* the newer spelling of the same */
    json_t *parameters = json_copy(json_object_get(f->config, "rope_scaling"));
    json_object_set_new(parameters, "rope_theta", json_real(8000));
    json_object_set_new(f->config, "rope_parameters", parameters);
    json_object_del(f->config, "rope_scaling");
    json_object_del(f->config, "rope_theta");
    check_frequencies(model_opens(folder_write(f), 0), 8000, llama3);
    folder_free(f);
}

/* ---- windows ----------------------------------------------------------------------------------------------------- */

static void check_windows(flrq_model *m, int64_t first, int64_t second) {
    assert_int_equal(m->window[0], first);
    assert_int_equal(m->window[1], second);
    flrq_model_close(m);
}

static void test_windows(void **state) {
    check_windows(model_opens("data/families/llama", 0), 0, 0);
    check_windows(model_opens("data/families/mistral", 0), 0, 0);
    check_windows(opens_with("families/mistral", "sliding_window", "5"), 5, 5);
    check_windows(opens_with("families/mistral", "sliding_window", NULL), 4096, 4096); /* Mistral's default */
    check_windows(
        opens_with("families/mistral_window", "layer_types", "[\"sliding_attention\", \"sliding_attention\"]"), 8, 8);
    check_windows(opens_with("families/qwen2_window", "max_window_layers", "0"), 8, 8);
    check_windows(opens_with("families/qwen2_window", "max_window_layers", NULL), 0, 0); /* 28 by default */
    check_windows(opens_with("families/qwen2_window", "use_sliding_window", NULL), 0, 0);
    check_windows(opens_with("families/qwen2_window", "sliding_window", "null"), 0, 0);
    check_windows(opens_with("families/qwen2_window", "sliding_window", NULL), 0, 4096);
    check_windows(opens_with("families/qwen2_window", "layer_types",
                             "[\"sliding_attention\", \"full_attention\", \"full_attention\"]"),
                  8, 0);
    check_windows(opens_with("families/qwen3", "layer_types", "[\"full_attention\", \"full_attention\"]"), 0, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_by_name), cmocka_unit_test(test_malformed), cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_neutral),         cmocka_unit_test(test_defaults),  cmocka_unit_test(test_rope_spellings),
        cmocka_unit_test(test_windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
