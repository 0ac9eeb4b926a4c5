/* families.c - the one table of architectures: which module plays which role, which config key says what, what holds
 * when a key is absent.
 *
 * A family of the Llama kind is added by one row. Nothing outside this file knows a tensor name of a model. Values
 * follow the configuration and modelling code of the architectures as published (formats.md 1.3).
 */
#include "model/family.h"

#include <string.h>

/* Names shared by everything that descends from Llama. */
#define LLAMA_NAMES                                                                                                    \
    .layer = "model.layers.",                                                                                          \
    .slot =                                                                                                            \
        {[FLRQ_SLOT_Q] = "self_attn.q_proj", [FLRQ_SLOT_K] = "self_attn.k_proj", [FLRQ_SLOT_V] = "self_attn.v_proj",   \
         [FLRQ_SLOT_O] = "self_attn.o_proj", [FLRQ_SLOT_GATE] = "mlp.gate_proj", [FLRQ_SLOT_UP] = "mlp.up_proj",       \
         [FLRQ_SLOT_DOWN] = "mlp.down_proj"},                                                                          \
    .param = {[FLRQ_PARAM_EMBEDDING] = "model.embed_tokens",                                                           \
              [FLRQ_PARAM_FINAL_NORM] = "model.norm",                                                                  \
              [FLRQ_PARAM_HEAD] = "lm_head"},                                                                          \
    .ffn_key = "intermediate_size", .act_key = "hidden_act", .eps_key = "rms_norm_eps",                                \
    .kv_heads_key = "num_key_value_heads", .head_dim_key = "head_dim", .norm = FAMILY_RMSNORM,                         \
    .activation = FAMILY_SILU, .default_eps = 1e-6

#define LLAMA_NORMS [FLRQ_BLOCK_ATTN_NORM] = "input_layernorm", [FLRQ_BLOCK_MLP_NORM] = "post_attention_layernorm"

static const flrq_family families[] = {
    {
        .name = "llama",
        .architecture = "LlamaForCausalLM",
        LLAMA_NAMES,
        .block_param = {LLAMA_NORMS},
        .window = FAMILY_WINDOW_NONE,
        .bias_qkv = {"attention_bias", 0},
        .bias_o = {"attention_bias", 0},
        .bias_mlp = {"mlp_bias", 0},
        .default_max_positions = 2048,
    },
    {
        .name = "mistral",
        .architecture = "MistralForCausalLM",
        LLAMA_NAMES,
        .block_param = {LLAMA_NORMS},
        .window = FAMILY_WINDOW_ALL,
        .default_kv_heads = 8,
        .default_max_positions = 131072,
        .default_window = 4096,
    },
    {
        .name = "qwen2",
        .architecture = "Qwen2ForCausalLM",
        LLAMA_NAMES,
        .block_param = {LLAMA_NORMS},
        .window = FAMILY_WINDOW_LAYERS,
        .bias_qkv = {NULL, 1},
        .default_kv_heads = 32,
        .default_max_positions = 32768,
        .default_window = 4096,
        .default_window_layers = 28,
    },
    {
        .name = "qwen3",
        .architecture = "Qwen3ForCausalLM",
        LLAMA_NAMES,
        .block_param =
            {LLAMA_NORMS, [FLRQ_BLOCK_Q_NORM] = "self_attn.q_norm", [FLRQ_BLOCK_K_NORM] = "self_attn.k_norm"},
        .window = FAMILY_WINDOW_LAYERS,
        .bias_qkv = {"attention_bias", 0},
        .bias_o = {"attention_bias", 0},
        .default_kv_heads = 32,
        .default_head_dim = 128,
        .default_max_positions = 32768,
        .default_window = 4096,
        .default_window_layers = 28,
    },
    {
        .name = "opt",
        .architecture = "OPTForCausalLM",
        .layer = "model.decoder.layers.",
        .slot = {[FLRQ_SLOT_Q] = "self_attn.q_proj",
                 [FLRQ_SLOT_K] = "self_attn.k_proj",
                 [FLRQ_SLOT_V] = "self_attn.v_proj",
                 [FLRQ_SLOT_O] = "self_attn.out_proj",
                 [FLRQ_SLOT_UP] = "fc1",
                 [FLRQ_SLOT_DOWN] = "fc2"},
        .block_param = {[FLRQ_BLOCK_ATTN_NORM] = "self_attn_layer_norm", [FLRQ_BLOCK_MLP_NORM] = "final_layer_norm"},
        .param = {[FLRQ_PARAM_EMBEDDING] = "model.decoder.embed_tokens",
                  [FLRQ_PARAM_POSITIONS] = "model.decoder.embed_positions",
                  [FLRQ_PARAM_PROJECT_IN] = "model.decoder.project_in",
                  [FLRQ_PARAM_PROJECT_OUT] = "model.decoder.project_out",
                  [FLRQ_PARAM_FINAL_NORM] = "model.decoder.final_layer_norm",
                  [FLRQ_PARAM_HEAD] = "lm_head"},
        .old_prefix = "model.",
        .ffn_key = "ffn_dim",
        .act_key = "activation_function",
        .embed_key = "word_embed_proj_dim",
        .norm = FAMILY_LAYERNORM,
        .activation = FAMILY_RELU,
        .window = FAMILY_WINDOW_NONE,
        .bias_qkv = {"enable_bias", 1},
        .bias_o = {"enable_bias", 1},
        .bias_mlp = {"enable_bias", 1},
        .tied = 1,
        .position_offset = 2,
        .default_eps = 1e-5,
        .default_max_positions = 2048,
    },
};

enum { N_FAMILIES = sizeof families / sizeof families[0] };

const flrq_family *flrq_family_find(const char *model_type) {
    for (int i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].name, model_type) == 0) return &families[i];
    return NULL;
}

_Static_assert(N_FAMILIES == 5, "flrq_families_known() names every row");
const char *flrq_families_known(void) {
    return "llama, mistral, qwen2, qwen3, opt";
}

const char *flrq_family_refusal(const char *model_type) {
    static const char *const transposed[] = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"};
    for (size_t i = 0; i < sizeof transposed / sizeof transposed[0]; i++)
        if (strcmp(transposed[i], model_type) == 0)
            return "it stores its weights transposed ([in, out]), which no served format of quantized linear layers "
                   "holds";
    return NULL;
}
