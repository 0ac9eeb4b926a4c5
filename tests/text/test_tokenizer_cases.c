/* test_tokenizer_cases.c - ids of whole tokenizers: every folder of data/tokenizers against the ids that the reference
 * programs gave (tests/oracle/make_tokens.py), and the folders that cannot be opened.
 */
#include "io/scratch.h"
#include "io/file.h"
#include "text/tokenizer.h"

enum { FOLDERS_MIN = 11 };

/* True when ids equal the JSON array; else says where not. */
static bool equal_ids(const char *where, const json_t *text, const json_t *wanted, const int32_t *ids, int64_t count) {
    size_t n = json_array_size(wanted);
    for (size_t i = 0; i < n && i < (size_t)count; i++) {
        if (json_integer_value(json_array_get(wanted, i)) == ids[i]) continue;
        char *shown = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        print_error("%s: %s: id %zu is %d, wanted %lld\n", where, shown, i, ids[i],
                    (long long)json_integer_value(json_array_get(wanted, i)));
        free(shown);
        return false;
    }
    if ((size_t)count != n) print_error("%s: %lld ids, wanted %zu\n", where, (long long)count, n);
    return (size_t)count == n;
}

static int check_folder(const char *dir) {
    flrq_tokenizer *tokenizer;
    json_t *cases, *one;
    size_t i;
    int bad = 0;
    char path[1024];
    snprintf(path, sizeof path, "%s/cases.json", dir);
    assert_non_null(cases = json_load_file(path, JSON_ALLOW_NUL, NULL));
    assert_true(json_array_size(cases) > 100);
    assert_ok(flrq_tokenizer_open(&tokenizer, dir));
    json_array_foreach(cases, i, one) {
        const json_t *text = json_object_get(one, "text");
        for (int special = 0; special < 2; special++) {
            int32_t *ids;
            int64_t count;
            const json_t *wanted = json_object_get(one, special ? "ids_special" : "ids");
            assert_true(json_is_string(text) && json_is_array(wanted));
            assert_ok(flrq_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), special, &ids,
                                            &count));
            bad += !equal_ids(dir, text, wanted, ids, count);
            for (int64_t k = 0; k < count; k++) assert_in_range(ids[k], 0, flrq_tokenizer_vocab(tokenizer) - 1);
            free(ids);
        }
    }
    flrq_tokenizer_close(tokenizer);
    json_decref(cases);
    return bad;
}

static void test_cases(void **state) {
    static const char root[] = "data/tokenizers";
    int folders = 0, bad = 0;
    struct dirent *entry;
    DIR *dir = opendir(root);
    (void)state;
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        char path[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", root, entry->d_name);
        bad += check_folder(path);
        folders++;
    }
    closedir(dir);
    assert_true(folders >= FOLDERS_MIN);
    assert_int_equal(bad, 0);
}

/* A text of 190 KB; the number of ids is that of tokenizers 0.23.3, and every id must spell its part of the text. */
static void test_tinylm(void **state) {
    flrq_tokenizer *tokenizer;
    char *text;
    size_t bytes;
    int32_t *ids;
    int64_t count;
    (void)state;
    assert_ok(flrq_file_read("data/tinylm/eval.txt", 1 << 20, &text, &bytes));
    assert_ok(flrq_tokenizer_open(&tokenizer, "data/tinylm"));
    assert_string_equal(flrq_tokenizer_kind(tokenizer), "tokenizer.json (byte-level BPE)");
    assert_int_equal(flrq_tokenizer_vocab(tokenizer), 1024);
    assert_ok(flrq_tokenizer_encode(tokenizer, text, bytes, true, &ids, &count));
    assert_int_equal(count, 61828);
    assert_int_equal(ids[0], 0);
    free(ids);
    flrq_tokenizer_close(tokenizer);
    free(text);
}

/* The same texts through the two forms of one tokenizer. */
static void test_sentencepiece_and_json_agree(void **state) {
    flrq_tokenizer *json, *model;
    json_t *cases, *one;
    size_t i;
    int compared = 0;
    (void)state;
    assert_non_null(cases = json_load_file("data/tokenizers/spm_bpe/cases.json", JSON_ALLOW_NUL, NULL));
    assert_ok(flrq_tokenizer_open(&json, "data/tokenizers/llama2"));
    assert_ok(flrq_tokenizer_open(&model, "data/tokenizers/spm_bpe"));
    assert_string_equal(flrq_tokenizer_kind(json), "tokenizer.json (BPE with byte fallback)");
    assert_string_equal(flrq_tokenizer_kind(model), "tokenizer.model (sentencepiece)");
    assert_int_equal(flrq_tokenizer_vocab(json), flrq_tokenizer_vocab(model));
    json_array_foreach(cases, i, one) {
        const json_t *text = json_object_get(one, "text");
        int32_t *a, *b;
        int64_t a_count, b_count;
        if (strchr(json_string_value(text), '<')) continue; /* sentencepiece knows no special tokens in a text */
        assert_ok(flrq_tokenizer_encode(json, json_string_value(text), json_string_length(text), true, &a, &a_count));
        assert_ok(flrq_tokenizer_encode(model, json_string_value(text), json_string_length(text), true, &b, &b_count));
        assert_int_equal(a_count, b_count);
        assert_memory_equal(a, b, (size_t)a_count * sizeof *a);
        free(a);
        free(b);
        compared++;
    }
    assert_true(compared > 100);
    json_decref(cases);
    flrq_tokenizer_close(json);
    flrq_tokenizer_close(model);
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

/* Empties the scratch folder "m" and returns its path. */
static const char *fresh(void) {
    const char *dir = scratch_path("m");
    scratch_remove(dir);
    assert_int_equal(mkdir(dir, 0777), 0);
    return dir;
}

static void put(const char *name, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "m/%s", name);
    scratch_put(path, text, strlen(text));
}

static void copy(const char *from, const char *name) {
    char path[64];
    size_t bytes;
    char *data = scratch_get(from, &bytes);
    snprintf(path, sizeof path, "m/%s", name);
    scratch_put(path, data, bytes);
    free(data);
}

/* The tokenizer of the scratch folder must give these ids. */
static void check_ids(const char *text, bool special, const char *wanted) {
    flrq_tokenizer *tokenizer;
    int32_t *ids;
    int64_t count;
    char got[256] = "";
    assert_ok(flrq_tokenizer_open(&tokenizer, scratch_path("m")));
    assert_ok(flrq_tokenizer_encode(tokenizer, text, strlen(text), special, &ids, &count));
    for (int64_t i = 0; i < count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", ids[i]);
    assert_string_equal(got, wanted);
    free(ids);
    flrq_tokenizer_close(tokenizer);
}

static void check_open_fails(flrq_status status, const char *text) {
    flrq_tokenizer *tokenizer = NULL;
    assert_failure(flrq_tokenizer_open(&tokenizer, scratch_path("m")), status, text);
    assert_null(tokenizer);
}

static void test_open_order(void **state) {
    (void)state;
    fresh();
    check_open_fails(FLRQ_ERR_IO,
                     "no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt");
    check_open_fails(FLRQ_ERR_IO, "(--calib-tokens, --tokens)");
    put("vocab.json", "{\"a\": 5}");
    check_open_fails(FLRQ_ERR_IO, "no tokenizer"); /* merges.txt is missing */
    put("merges.txt", "#version: 0.2\n");
    check_ids("a", true, "5");
    put("tokenizer.model", "damage");
    check_open_fails(FLRQ_ERR_FORMAT, "tokenizer.model: not a sentencepiece model");
    put("tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 7}, \"merges\": []}}");
    check_ids("a", true, "7");
    put("tokenizer.json", "{");
    check_open_fails(FLRQ_ERR_FORMAT, "tokenizer.json: not valid JSON");
    put("tokenizer.json", "");
    check_open_fails(FLRQ_ERR_FORMAT, "tokenizer.json: not valid JSON");
}

static void test_gpt2_files(void **state) {
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"\304\240\": 2, \"ab\": 3, \"\304\240ab\": 4, \"<s>\": 5}";
    (void)state;
    fresh();
    put("vocab.json", vocab);
    put("merges.txt", "#version: 0.2\na b\n\304\240 ab\n\n");
    check_ids("ab ab<s>", true, "3 4");
    put("merges.txt", "a b\r\n\304\240 ab"); /* no version, other line ends, no last line end */
    check_ids("ab ab<s>", true, "3 4");
    put("tokenizer_config.json",
        "{\"tokenizer_class\": \"GPT2Tokenizer\", \"bos_token\": \"<s>\", \"unk_token\": null}");
    check_ids("ab<s> ab", true, "3 5 4");
    put("tokenizer_config.json",
        "{\"add_bos_token\": true, \"add_prefix_space\": true, \"bos_token\": {\"content\": \"<s>\","
        " \"lstrip\": true, \"normalized\": true}}");
    check_ids("ab <s>ab", true, "5 4 5 4");
    check_ids("ab <s>ab", false, "4 5 4");
    put("special_tokens_map.json", "{\"bos_token\": \"b\", \"pad_token\": \"<s>\"}"); /* overrides */
    check_ids("ab <s>", true, "1 2 0 1 2 5");
    put("special_tokens_map.json", "{\"bos_token\": \"c\"}");
    check_open_fails(FLRQ_ERR_FORMAT, "tokenizer_config.json: bos_token \"c\" is not in vocab.json");
    put("special_tokens_map.json", "{\"bos_token\": 1}");
    check_open_fails(FLRQ_ERR_FORMAT, "\"bos_token\" is neither a text nor an object with a \"content\"");
    put("special_tokens_map.json", "[]");
    check_open_fails(FLRQ_ERR_FORMAT, "special_tokens_map.json: not a JSON object");
    put("special_tokens_map.json", "{}");
    put("tokenizer_config.json", "{\"add_bos_token\": true}");
    check_open_fails(FLRQ_ERR_FORMAT, "add_bos_token without a bos_token");
    put("tokenizer_config.json", "{\"add_bos_token\": 1}");
    check_open_fails(FLRQ_ERR_FORMAT, "\"add_bos_token\" is not true or false");
    put("tokenizer_config.json", "{\"tokenizer_class\": \"RobertaTokenizer\"}");
    check_open_fails(FLRQ_ERR_UNSUPPORTED,
                     "tokenizer class RobertaTokenizer without a tokenizer.json is not supported");
    put("tokenizer_config.json", "{\"added_tokens_decoder\": {\"5\": {}}}");
    check_open_fails(FLRQ_ERR_UNSUPPORTED, "added_tokens_decoder without a tokenizer.json is not supported");
    put("tokenizer_config.json", "{}");
    put("merges.txt", "a b\nab\n");
    check_open_fails(FLRQ_ERR_FORMAT, "merges.txt: merge 1 is not two tokens and a space");
    put("merges.txt", "a b c\n");
    check_open_fails(FLRQ_ERR_FORMAT, "merges.txt: merge 0 is not two tokens and a space");
    put("merges.txt", "a c\n");
    check_open_fails(FLRQ_ERR_FORMAT, "merge 0 (\"a\" \"c\"): the right part is not in the vocabulary");
    put("merges.txt", "a\377 b\n");
    check_open_fails(FLRQ_ERR_FORMAT, "merges.txt: not UTF-8 at offset 1");
    put("vocab.json", "{\"a\": \"b\"}");
    put("merges.txt", "");
    check_open_fails(FLRQ_ERR_FORMAT, "vocab.json: the id of token \"a\" is not an integer");
    put("vocab.json", "[]");
    check_open_fails(FLRQ_ERR_FORMAT, "vocab.json: not a JSON object");
}

static void test_sentencepiece_settings(void **state) {
    char *model;
    size_t bytes;
    (void)state;
    fresh();
    copy("data/tokenizers/spm_bpe/tokenizer.model", "tokenizer.model");
    check_ids("", true, "1"); /* no settings: bos as the Llama tokenizer does */
    check_ids("", false, "");
    put("tokenizer_config.json", "{\"tokenizer_class\": \"LlamaTokenizerFast\"}");
    check_ids("", true, "1");
    put("tokenizer_config.json", "{\"add_bos_token\": false, \"add_eos_token\": true}");
    check_ids("", true, "2");
    put("tokenizer_config.json", "{\"tokenizer_class\": \"T5Tokenizer\", \"add_bos_token\": true}");
    check_ids("", true, "1");
    put("tokenizer_config.json", "{\"bos_token\": {\"content\": \"<unk>\"}}");
    check_ids("", true, "0");
    put("tokenizer_config.json", "{\"tokenizer_class\": \"T5Tokenizer\"}");
    check_open_fails(FLRQ_ERR_UNSUPPORTED, "whether T5Tokenizer starts with a bos token is not known");
    put("tokenizer_config.json", "{\"bos_token\": \"<nothing>\"}");
    check_open_fails(FLRQ_ERR_FORMAT, "no piece \"<nothing>\", which add_bos_token of file");
    put("tokenizer_config.json", "{\"add_eos_token\": []}");
    check_open_fails(FLRQ_ERR_FORMAT, "\"add_eos_token\" is not true or false");
    put("tokenizer_config.json", "{");
    check_open_fails(FLRQ_ERR_FORMAT, "tokenizer_config.json: not valid JSON");
    put("tokenizer_config.json", "{}");
    /* Damaged models: refused or read as something else, never a crash. */
    model = scratch_get("data/tokenizers/spm_bpe/tokenizer.model", &bytes);
    for (size_t cut = 0; cut < bytes; cut += 997) {
        flrq_tokenizer *tokenizer;
        scratch_put("m/tokenizer.model", model, cut);
        if (flrq_tokenizer_open(&tokenizer, scratch_path("m")) == FLRQ_OK)
            flrq_tokenizer_close(tokenizer);
        else
            assert_non_null(strstr(flrq_last_error(), "tokenizer"));
    }
    free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_tinylm),
        cmocka_unit_test(test_sentencepiece_and_json_agree),
        cmocka_unit_test(test_open_order),
        cmocka_unit_test(test_gpt2_files),
        cmocka_unit_test(test_sentencepiece_settings),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
