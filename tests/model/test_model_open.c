/* test_model_open.c - every tensor of a checkpoint gets a role or a named fate, and every contradiction between
 * config.json and the tensors is an error that names key, tensor and both shapes.
 */
#include "model/folder.h"

static const char *const family_folders[] = {
    "llama",          "llama_bias", "llama_rope3",  "llama_linear", "llama_bf16", "llama_f16_sharded", "mistral",
    "mistral_window", "qwen2",      "qwen2_window", "qwen3",        "opt",        "opt_350m"};
enum { N_FOLDERS = sizeof family_folders / sizeof family_folders[0] };

/** Linears and others together are the checkpoint's tensors, each once. */
static void test_accounting(void **state) {
    for (int i = 0; i < N_FOLDERS; i++) {
        char dir[128];
        snprintf(dir, sizeof dir, "data/families/%s", family_folders[i]);
        flrq_model *m = model_opens(dir, 0);
        char *seen = calloc((size_t)m->checkpoint->n_tensors, 1);
        for (int64_t l = 0; l < m->n_linears; l++) {
            assert_non_null(m->linears[l].weight);
            assert_false(seen[m->linears[l].weight - m->checkpoint->tensors]++);
            assert_int_equal(m->linears[l].rows, m->linears[l].weight->shape[0]);
            assert_int_equal(m->linears[l].cols, m->linears[l].weight->shape[1]);
        }
        for (int64_t o = 0; o < m->n_others; o++) {
            assert_false(seen[m->others[o].tensor - m->checkpoint->tensors]++);
            assert_int_equal(m->others[o].fate, FLRQ_FATE_COPY);
            assert_string_equal(m->others[o].name, m->others[o].tensor->name);
            if (o > 0) assert_true(m->others[o - 1].block <= m->others[o].block);
        }
        for (int64_t t = 0; t < m->checkpoint->n_tensors; t++) assert_int_equal(seen[t], 1);
        int64_t per_block = m->family_name[0] == 'o' ? 6 : 7;
        assert_int_equal(m->n_linears, per_block * m->layers);
        for (int64_t b = 0; b <= m->layers; b++) assert_int_equal(m->block_first[b], b * per_block);
        free(seen);
        flrq_model_close(m);
    }
}

static void test_dimensions(void **state) {
    flrq_model *m = model_opens("data/families/qwen3", 0);
    assert_string_equal(m->family_name, "qwen3");
    assert_int_equal(m->hidden, 32);
    assert_int_equal(m->ffn, 48);
    assert_int_equal(m->layers, 2);
    assert_int_equal(m->heads, 4);
    assert_int_equal(m->kv_heads, 2);
    assert_int_equal(m->head_dim, 16); /* not hidden / heads */
    assert_int_equal(m->vocab, 96);
    assert_int_equal(m->bos_id, 90);
    assert_int_equal(m->tied, 0);
    assert_int_equal(m->bias_slots, 0);
    assert_int_equal(m->dtype, FLRQ_F32);
    assert_true(m->norm_eps == 0.002f);
    assert_string_equal(m->linears[3].module, "model.layers.0.self_attn.o_proj");
    assert_int_equal(m->linears[3].slot, FLRQ_SLOT_O);
    assert_int_equal(m->linears[3].input, FLRQ_INPUT_OUT);
    assert_int_equal(m->linears[3].cols, 64);
    assert_string_equal(m->block_params[FLRQ_BLOCK_K_NORM].weight->name, "model.layers.0.self_attn.k_norm.weight");
    flrq_model_close(m);

    m = model_opens("data/families/llama_bias", 0);
    assert_int_equal(m->bias_slots, 0x7f);
    assert_int_equal(m->tied, 1);
    assert_int_equal(m->head_dim, 6);
    assert_non_null(m->linears[0].bias);
    assert_null(m->params[FLRQ_PARAM_HEAD].weight);
    flrq_model_close(m);

    m = model_opens("data/families/qwen2", 0);
    assert_int_equal(m->bias_slots, 7);
    assert_int_equal(m->window[0], 0);
    flrq_model_close(m);

    m = model_opens("data/families/qwen2_window", 0);
    assert_int_equal(m->window[0], 0);
    assert_int_equal(m->window[1], 8);
    assert_int_equal(m->window[2], 8);
    flrq_model_close(m);

    m = model_opens("data/families/mistral_window", 0);
    assert_int_equal(m->window[0], 8);
    assert_int_equal(m->window[1], 8);
    flrq_model_close(m);

    m = model_opens("data/families/opt_350m", 0);
    assert_int_equal(m->tied, 1); /* the family's default */
    assert_int_equal(m->embed_dim, 24);
    assert_int_equal(m->post_norm, 1);
    assert_int_equal(m->final_norm, 0);
    assert_null(m->inv_freq);
    assert_int_equal(m->bias_slots, 0x7f);
    flrq_model_close(m);

    m = model_opens("data/families/llama_bf16", 0);
    assert_int_equal(m->dtype, FLRQ_BF16);
    flrq_model_close(m);

    m = model_opens("data/tinylm", 0);
    assert_int_equal(m->bos_id, 0);
    assert_int_equal(m->max_positions, 512);
    flrq_model_close(m);
}

static void test_missing_tensors(void **state) {
    static const struct {
        const char *folder, *tensor, *why;
    } cases[] = {
        {"families/llama", "model.layers.1.mlp.up_proj.weight", "num_hidden_layers"},
        {"families/llama", "model.layers.0.input_layernorm.weight", "num_hidden_layers"},
        {"families/llama", "model.embed_tokens.weight", "needs it"},
        {"families/llama", "model.norm.weight", "needs it"},
        {"families/llama", "lm_head.weight", "tie_word_embeddings"},
        {"families/llama_bias", "model.layers.1.mlp.down_proj.bias", "bias"},
        {"families/qwen2", "model.layers.0.self_attn.v_proj.bias", "bias"},
        {"families/qwen3", "model.layers.1.self_attn.q_norm.weight", "num_hidden_layers"},
        {"families/opt", "model.decoder.layers.0.final_layer_norm.bias", "LayerNorm"},
        {"families/opt", "model.decoder.final_layer_norm.bias", "LayerNorm"},
        {"families/opt", "model.decoder.embed_positions.weight", "needs it"},
        {"families/opt_350m", "model.decoder.project_out.weight", "needs it"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        folder *f = folder_read(cases[i].folder);
        folder_remove(f, cases[i].tensor);
        model_refused(folder_write(f), 0, FLRQ_ERR_FORMAT, cases[i].tensor, "is missing", cases[i].why, NULL);
        folder_free(f);
    }
}

/** A tensor of another shape: the text holds the tensor, its shape, the expected shape and the config keys. */
static void test_shapes(void **state) {
    static const struct {
        const char *folder, *tensor;
        int dims;
        int64_t rows, cols;
        const char *is, *wanted, *key;
    } cases[] = {
        {"families/llama", "model.layers.0.self_attn.q_proj.weight", 2, 30, 32, "[30, 32]", "[32, 32]",
         "num_attention_heads"},
        {"families/llama", "model.layers.0.self_attn.k_proj.weight", 2, 32, 32, "[32, 32]", "[16, 32]",
         "num_key_value_heads"},
        {"families/llama", "model.layers.0.self_attn.o_proj.weight", 2, 32, 16, "[32, 16]", "[32, 32]", "hidden_size"},
        {"families/llama", "model.layers.1.mlp.gate_proj.weight", 2, 32, 64, "[32, 64]", "[64, 32]",
         "intermediate_size = 64"},
        {"families/llama", "model.layers.1.mlp.down_proj.weight", 1, 2048, 0, "[2048]", "[32, 64]", "hidden_size = 32"},
        {"families/llama", "model.embed_tokens.weight", 2, 97, 32, "[97, 32]", "[96, 32]", "vocab_size = 96"},
        {"families/llama", "lm_head.weight", 2, 96, 31, "[96, 31]", "[96, 32]", "vocab_size"},
        {"families/llama", "model.norm.weight", 1, 33, 0, "[33]", "[32]", "hidden_size"},
        {"families/llama_bias", "model.layers.0.mlp.up_proj.bias", 1, 36, 0, "[36]", "[60]", "intermediate_size"},
        {"families/qwen3", "model.layers.0.self_attn.q_norm.weight", 1, 8, 0, "[8]", "[16]", "head_dim"},
        {"families/opt", "model.decoder.embed_positions.weight", 2, 48, 32, "[48, 32]", "[50, 32]",
         "max_position_embeddings"},
        {"families/opt", "model.decoder.layers.1.fc1.weight", 2, 32, 80, "[32, 80]", "[80, 32]", "ffn_dim"},
        {"families/opt", "model.decoder.layers.1.self_attn_layer_norm.bias", 1, 80, 0, "[80]", "[32]", "hidden_size"},
        {"families/opt_350m", "model.decoder.project_in.weight", 2, 24, 40, "[24, 40]", "[40, 24]",
         "word_embed_proj_dim"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        folder *f = folder_read(cases[i].folder);
        folder_remove(f, cases[i].tensor);
        folder_add(f, cases[i].tensor, FLRQ_F32, cases[i].dims, cases[i].rows, cases[i].cols, NULL);
        model_refused(folder_write(f), 0, FLRQ_ERR_SHAPE, cases[i].tensor, cases[i].is, cases[i].wanted, cases[i].key,
                      NULL);
        folder_free(f);
    }
}

static void test_dtypes(void **state) {
    static const char *const names[] = {"model.layers.0.mlp.up_proj.weight", "model.norm.weight",
                                        "model.embed_tokens.weight"};
    static const flrq_dtype types[] = {FLRQ_F8_E4M3, FLRQ_F64, FLRQ_I8};
    for (int i = 0; i < 3; i++) {
        folder *f = folder_read("families/llama");
        folder_tensor t = *folder_find(f, names[i]);
        folder_remove(f, names[i]);
        folder_add(f, names[i], types[i], t.dims, t.shape[0], t.shape[1], NULL);
        model_refused(folder_write(f), 0, FLRQ_ERR_UNSUPPORTED, names[i], flrq_dtype_name(types[i]), "convert", NULL);
        folder_free(f);
    }
}

static void test_surplus(void **state) {
    static const struct {
        const char *folder, *tensor;
        flrq_status status;
        const char *why;
    } cases[] = {
        {"families/llama", "model.layers.2.mlp.up_proj.weight", FLRQ_ERR_SHAPE, "num_hidden_layers 2"},
        {"families/llama", "model.layers.0.self_attn.q_proj.bias", FLRQ_ERR_FORMAT, "attention_bias"},
        {"families/llama", "model.layers.0.self_attn.q_norm.weight", FLRQ_ERR_FORMAT, "no place in family llama"},
        {"families/llama", "score.weight", FLRQ_ERR_FORMAT, "no place"},
        {"families/llama", "model.layers.0.mlp.up_proj.weight_packed", FLRQ_ERR_FORMAT, "quantization_config"},
        {"families/llama", "model.layers.0.mlp.up_proj.qweight", FLRQ_ERR_FORMAT, "no place"},
        {"families/opt", "decoder.layers.0.fc1.weight", FLRQ_ERR_FORMAT, "no place"},
        {"families/opt", "model.decoder.project_in.weight", FLRQ_ERR_FORMAT, "no place"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        folder *f = folder_read(cases[i].folder);
        folder_add(f, cases[i].tensor, FLRQ_F32, 1, 4, 0, NULL);
        model_refused(folder_write(f), 0, cases[i].status, cases[i].tensor, cases[i].why, NULL);
        folder_free(f);
    }
}

static const flrq_other *other_named(const flrq_model *m, const char *name) {
    for (int64_t i = 0; i < m->n_others; i++)
        if (strcmp(m->others[i].tensor->name, name) == 0) return &m->others[i];
    return NULL;
}

static void test_buffers_are_dropped(void **state) {
    folder *f = folder_read("families/llama");
    folder_add(f, "model.layers.1.self_attn.rotary_emb.inv_freq", FLRQ_F32, 1, 4, 0, NULL);
    flrq_model *m = model_opens(folder_write(f), 0);
    const flrq_other *o = other_named(m, "model.layers.1.self_attn.rotary_emb.inv_freq");
    assert_non_null(o);
    assert_int_equal(o->fate, FLRQ_FATE_DROP);
    assert_int_equal(o->block, 1);
    assert_non_null(strstr(o->reason, "RoPE"));
    flrq_model_close(m);
    folder_free(f);
}

/** A stored head that config.json ties: a duplicate is named, another matrix is refused, of another type compared by
 * value. */
static void test_tied_head(void **state) {
    folder *f = folder_read("families/qwen2");
    folder_tensor *e = folder_find(f, "model.embed_tokens.weight");
    folder_add(f, "lm_head.weight", FLRQ_F32, 2, e->shape[0], e->shape[1], e->data);
    flrq_model *m = model_opens(folder_write(f), 0);
    const flrq_other *o = other_named(m, "lm_head.weight");
    assert_int_equal(o->fate, FLRQ_FATE_TIED);
    assert_int_equal(o->block, -1);
    assert_non_null(strstr(o->reason, "tie_word_embeddings"));
    assert_null(m->params[FLRQ_PARAM_HEAD].weight);
    flrq_model_close(m);

    ((float *)folder_find(f, "lm_head.weight")->data)[0] += 1;
    model_refused(folder_write(f), 0, FLRQ_ERR_FORMAT, "lm_head.weight", "model.embed_tokens.weight", "[0, 0]",
                  "tie_word_embeddings", NULL);

    json_object_set_new(f->config, "tie_word_embeddings", json_false()); /* the remedy */
    m = model_opens(folder_write(f), 0);
    assert_non_null(m->params[FLRQ_PARAM_HEAD].weight);
    flrq_model_close(m);
    json_object_del(f->config, "tie_word_embeddings"); /* Qwen2's default is an untied head */
    m = model_opens(folder_write(f), 0);
    assert_int_equal(m->tied, 0);
    flrq_model_close(m);
    folder_free(f);

    f = folder_read("families/llama_bf16");
    e = folder_find(f, "model.embed_tokens.weight");
    folder_remove(f, "lm_head.weight");
    json_object_set_new(f->config, "tie_word_embeddings", json_true());
    e = folder_find(f, "model.embed_tokens.weight");
    folder_tensor *h = folder_add(f, "lm_head.weight", FLRQ_F32, 2, e->shape[0], e->shape[1], NULL);
    for (int64_t i = 0; i < e->shape[0] * e->shape[1]; i++) ((float *)h->data)[i] = flrq_load(e->data, FLRQ_BF16, i);
    m = model_opens(folder_write(f), 0);
    assert_int_equal(other_named(m, "lm_head.weight")->fate, FLRQ_FATE_TIED);
    flrq_model_close(m);
    folder_free(f);
}

/** Names without "model." as older OPT files have them: same roles, canonical names for the output. */
static void test_old_opt_names(void **state) {
    folder *f = folder_read("families/opt");
    for (int i = 0; i < f->n; i++) memmove(f->tensors[i].name, f->tensors[i].name + 6, strlen(f->tensors[i].name) - 5);
    flrq_model *m = model_opens(folder_write(f), 0);
    assert_string_equal(m->linears[0].module, "model.decoder.layers.0.self_attn.q_proj");
    assert_string_equal(m->linears[0].weight->name, "decoder.layers.0.self_attn.q_proj.weight");
    for (int64_t i = 0; i < m->n_others; i++) {
        assert_string_equal(m->others[i].name + 6, m->others[i].tensor->name);
        assert_memory_equal(m->others[i].name, "model.", 6);
    }
    flrq_model_close(m);
    folder_remove(f, "decoder.layers.1.fc2.bias");
    model_refused(folder_write(f), 0, FLRQ_ERR_FORMAT, "tensor decoder.layers.1.fc2.bias is missing", NULL);
    folder_free(f);
}

static void test_unknown_family(void **state) {
    folder *f = calloc(1, sizeof *f);
    f->config = json_pack("{s:s,s:i}", "model_type", "gpt_neo", "vocab_size", 10);
    static const int blocks[] = {3, 12};
    for (int i = 0; i < 2; i++) {
        char name[128];
        snprintf(name, sizeof name, "transformer.h.%d.mlp.c_proj.weight", blocks[i]);
        folder_add(f, name, FLRQ_F16, 2, 6, 8, NULL);
        snprintf(name, sizeof name, "transformer.h.%d.mlp.c_fc.weight", blocks[i]);
        folder_add(f, name, FLRQ_F16, 2, 8, 6, NULL);
        snprintf(name, sizeof name, "transformer.h.%d.mlp.c_fc.bias", blocks[i]);
        folder_add(f, name, FLRQ_F16, 1, 8, 0, NULL);
    }
    static const char *const copied[] = {"transformer.wte.weight",
                                         "transformer.h.3.ln_1.weight",
                                         "transformer.h.3.mlp.gate.weight",
                                         "transformer.h.3.router.weight",
                                         "transformer.h.3.norm.weight",
                                         "lm_head.weight",
                                         "visual.proj.weight"};
    for (int i = 0; i < 7; i++) folder_add(f, copied[i], FLRQ_F16, 2, 4, 4, NULL);
    folder_add(f, "transformer.h.3.experts.weight", FLRQ_F16, 1, 4, 0, NULL);
    folder_add(f, "transformer.h.3.attn.mask", FLRQ_BOOL, 2, 4, 4, NULL);
    const char *dir = folder_write(f);
    model_refused(dir, 0, FLRQ_ERR_UNSUPPORTED, "gpt_neo", flrq_families_known(), "--calib none", NULL);
    flrq_model *m = model_opens(dir, FLRQ_MODEL_ALLOW_UNKNOWN);
    assert_null(m->family);
    assert_string_equal(m->family_name, "gpt_neo");
    assert_int_equal(m->layers, 2);
    assert_int_equal(m->vocab, 10);
    assert_int_equal(m->n_linears, 4);
    assert_int_equal(m->block_first[1], 2);
    assert_int_equal(m->block_first[2], 4);
    assert_string_equal(m->linears[0].module, "transformer.h.3.mlp.c_fc");
    assert_string_equal(m->linears[3].module, "transformer.h.12.mlp.c_proj");
    assert_int_equal(m->linears[3].block, 1);
    assert_int_equal(m->linears[3].slot, -1);
    assert_int_equal(m->linears[3].rows, 6);
    assert_int_equal(m->linears[3].cols, 8);
    assert_non_null(m->linears[0].bias);
    assert_int_equal(m->n_others + m->n_linears, m->checkpoint->n_tensors);
    for (int64_t i = 0; i < m->n_others; i++) assert_int_equal(m->others[i].fate, FLRQ_FATE_COPY);
    flrq_model_close(m);

    json_object_set_new(f->config, "model_type", json_string("gpt2"));
    model_refused(folder_write(f), FLRQ_MODEL_ALLOW_UNKNOWN, FLRQ_ERR_UNSUPPORTED, "gpt2", "transposed", NULL);
    json_object_set_new(f->config, "model_type", json_string("other"));
    while (f->n > 0) folder_remove(f, f->tensors[0].name);
    folder_add(f, "a.weight", FLRQ_F16, 2, 4, 4, NULL);
    model_refused(folder_write(f), FLRQ_MODEL_ALLOW_UNKNOWN, FLRQ_ERR_FORMAT, "nothing to quantize", NULL);
    folder_free(f);
}

static void test_known_list(void **state) {
    char list[128];
    snprintf(list, sizeof list, "%s", flrq_families_known());
    for (char *name = strtok(list, ", "); name; name = strtok(NULL, ", ")) {
        folder *f = folder_read("families/llama");
        json_object_set_new(f->config, "model_type", json_string(name));
        json_object_del(f->config, "architectures");
        flrq_model *m = NULL;
        flrq_model_open(&m, folder_write(f), 0); /* may fail on shapes, never as unknown */
        if (!m) assert_null(strstr(flrq_last_error(), "not a known family"));
        flrq_model_close(m);
        folder_free(f);
    }
}

static void test_files(void **state) {
    char path[512];
    model_refused("data/families/none", 0, FLRQ_ERR_IO, "data/families/none/config.json", NULL);
    const char *dir = folder_new();
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(flrq_file_write(path, "[1]", 3), FLRQ_OK);
    model_refused(dir, 0, FLRQ_ERR_FORMAT, "config.json", "object", NULL);
    assert_int_equal(flrq_file_write(path, "{}", 2), FLRQ_OK);
    model_refused(dir, 0, FLRQ_ERR_FORMAT, "model_type", NULL);
    flrq_model_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accounting),
        cmocka_unit_test(test_dimensions),
        cmocka_unit_test(test_missing_tensors),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_surplus),
        cmocka_unit_test(test_buffers_are_dropped),
        cmocka_unit_test(test_tied_head),
        cmocka_unit_test(test_old_opt_names),
        cmocka_unit_test(test_unknown_family),
        cmocka_unit_test(test_known_list),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
