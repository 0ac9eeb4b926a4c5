/* test_tokenizer_json.c - the parts of a tokenizer.json that are not normalizers or pre-tokenizers: model, added
 * tokens, post-processors; and every way in which a file is refused. Expected ids: tokenizers 0.23.3.
 */
#include "io/scratch.h"
#include "text/tokenizer.h"

#define MODEL                                                                                                          \
    "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \" \": 3}, \"merges\": [\"a b\"]}"
#define FLAGS "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true"

static flrq_status parse(flrq_tokenizer **out, const char *json) {
    return flrq_tokenizer_parse(out, "dir/tokenizer.json", json, strlen(json));
}

/* The ids of a text, as numbers with spaces between, must be `wanted`. */
static void check_ids(const char *json, const char *text, bool special, const char *wanted) {
    flrq_tokenizer *tokenizer;
    int32_t *ids;
    int64_t count;
    char got[512] = "";
    assert_ok(parse(&tokenizer, json));
    assert_ok(flrq_tokenizer_encode(tokenizer, text, strlen(text), special, &ids, &count));
    assert_non_null(ids);
    for (int64_t i = 0; i < count; i++) {
        assert_in_range(ids[i], 0, flrq_tokenizer_vocab(tokenizer) - 1);
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", ids[i]);
    }
    if (strcmp(got, wanted) != 0) fail_msg("%s\n\"%s\": %s, wanted %s", json, text, got, wanted);
    free(ids);
    flrq_tokenizer_close(tokenizer);
}

static void test_model(void **state) {
    static const struct {
        const char *model, *text, *ids;
    } cases[] = {
        {"\"vocab\": {\"a\": 5, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]", "abba", "2 1 5"},
        {"\"vocab\": {\"a\": 5, \"b\": 1, \"ab\": 2}, \"merges\": [[\"a\", \"b\"]]", "abba", "2 1 5"},
        {"\"vocab\": {\"a\": 5, \"b\": 1, \"ab\": 2}, \"merges\": [\"#version: 0.2\", \"a b\"]", "ab", "2"},
        {"\"vocab\": {\"a\": 5, \"b\": 1}, \"merges\": [], \"dropout\": 0.0", "ab", "5 1"},
        {"\"vocab\": {}, \"merges\": []", "ab", ""},
        {"\"vocab\": {\"a\": 0}, \"merges\": []", "xax", "0"}, /* no unk_token: unknown characters are dropped */
        {"\"vocab\": {\"a\": 0, \"u\": 1}, \"merges\": [], \"unk_token\": \"u\"", "xxax", "1 1 0 1"},
        {"\"vocab\": {\"a\": 0, \"u\": 1}, \"merges\": [], \"unk_token\": \"u\", \"fuse_unk\": true", "xxaxy", "1 0 1"},
        {"\"vocab\": {\"a\": 0, \"<0xC3>\": 1, \"<0xA9>\": 2}, \"merges\": [], \"byte_fallback\": true",
         "a\303\251\303\250", "0 1 2"},
        /* All bytes of a character must be there; then the unknown token that is waiting goes behind the bytes. */
        {"\"vocab\": {\"a\": 0, \"<0xC3>\": 1, \"<0xA9>\": 2, \"u\": 3}, \"merges\": [], \"byte_fallback\": true,"
         " \"unk_token\": \"u\"",
         "\303\250\303\251a", "1 2 3 0"},
        /* Ranks: the lowest first, the leftmost of equals; a pair listed twice has its last rank. */
        {"\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"bc\": 4}, \"merges\": [\"b c\", \"a b\"]", "abc",
         "0 4"},
        {"\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"bc\": 4}, \"merges\": [\"b c\", \"a b\", \"b c\"]",
         "abc", "3 2"},
        {"\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [\"a a\"]", "aaaaa", "1 1 0"},
        {"\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"aba\": 3}, \"merges\": [\"a b\"]", "aba", "2 0"},
        {"\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"aba\": 3}, \"merges\": [\"a b\"], \"ignore_merges\": true",
         "aba", "3"},
        {"\"vocab\": {\"a\": 0, \"##b\": 1, \"ab\": 2}, \"merges\": [\"a ##b\"], \"continuing_subword_prefix\": \"##\"",
         "abb", "2 1"},
        {"\"vocab\": {\"a\": 0, \"b</w>\": 1, \"ab</w>\": 2}, \"merges\": [\"a b</w>\"], \"end_of_word_suffix\": "
         "\"</w>\"",
         "aab", "0 2"},
        {"\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [], \"unk_token\": null, \"continuing_subword_prefix\": \"\","
         " \"end_of_word_suffix\": null",
         "ab", "0 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[1024];
        snprintf(json, sizeof json, "{\"version\": \"1.0\", \"model\": {\"type\": \"BPE\", %s}}", cases[i].model);
        check_ids(json, cases[i].text, true, cases[i].ids);
        snprintf(json, sizeof json, "{\"model\": {%s}}", cases[i].model); /* files of old have no type */
        check_ids(json, cases[i].text, false, cases[i].ids);
    }
}

static void test_added_tokens(void **state) {
    static const struct {
        const char *tokens, *text, *ids;
    } cases[] = {
        {"", "abab", "2 2"},
        {"{\"id\": 4, \"content\": \"<s>\", " FLAGS "}", "<s>a<s><s", "4 0 4"},
        {"{\"id\": 2, \"content\": \"ab\", " FLAGS "}", "aabb", "0 2 1"}, /* one that the vocabulary has */
        {"{\"id\": 4, \"content\": \"\", " FLAGS "}", "ab", "2"},
        {"{\"id\": 4, \"content\": \"x\", " FLAGS "}, {\"id\": 5, \"content\": \"xy\", " FLAGS "}", "xxyx", "4 5 4"},
        {"{\"id\": 4, \"content\": \"xyz\", " FLAGS "}, {\"id\": 5, \"content\": \"y\", " FLAGS "}", "xyxyz", "5 4"},
        {"{\"id\": 4, \"content\": \"x\", \"single_word\": false, \"lstrip\": true, \"rstrip\": false,"
         " \"normalized\": false, \"special\": false}",
         "a \342\200\202x a", "0 4 3 0"},
        {"{\"id\": 4, \"content\": \"x\", \"single_word\": false, \"lstrip\": false, \"rstrip\": true,"
         " \"normalized\": false, \"special\": false}",
         "a x \342\200\202a", "0 3 4 0"},
        {"{\"id\": 4, \"content\": \"x\", \"single_word\": false, \"lstrip\": true, \"rstrip\": true,"
         " \"normalized\": false, \"special\": false}",
         "a x  x a", "0 4 4 0"},
        {"{\"id\": 4, \"content\": \"x\", \"single_word\": true, \"lstrip\": false, \"rstrip\": false,"
         " \"normalized\": false, \"special\": false}",
         "x ax x\314\201 x. \342\223\220x x", "4 3 0 3 3 4 3 3 4"},
        /* A token within white space that the token before it has taken along still counts ... */
        {"{\"id\": 4, \"content\": \"x\", \"single_word\": false, \"lstrip\": false, \"rstrip\": true,"
         " \"normalized\": false, \"special\": false}, {\"id\": 3, \"content\": \" \", " FLAGS "}",
         "x  a", "4 3 3 0"},
        /* ... unless it takes white space itself. */
        {"{\"id\": 4, \"content\": \"x\", \"single_word\": false, \"lstrip\": false, \"rstrip\": true,"
         " \"normalized\": false, \"special\": false}, {\"id\": 3, \"content\": \" \", \"single_word\": false, "
         "\"lstrip\":"
         " true, \"rstrip\": false, \"normalized\": false, \"special\": false}",
         "x a", "4 0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[2048];
        snprintf(json, sizeof json, "{\"added_tokens\": [%s], " MODEL "}", cases[i].tokens);
        check_ids(json, cases[i].text, true, cases[i].ids);
    }
}

/* Tokens with "normalized" are looked for, in their normalized form, in the normalized text, after the others. */
static void test_added_tokens_normalized(void **state) {
    static const char lower[] = "{\"normalizer\": {\"type\": \"Lowercase\"}, \"added_tokens\": [{\"id\": 4, "
                                "\"content\": \"X\", \"single_word\":"
                                " false, \"lstrip\": false, \"rstrip\": false, \"normalized\": true, \"special\": "
                                "false}, {\"id\": 5, \"content\":"
                                " \"Y\", " FLAGS "}], " MODEL "}";
    static const char first[] =
        "{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"b\", \"prepend_scheme\": \"first\"},"
        "\"added_tokens\": [{\"id\": 4, \"content\": \"<s>\", " FLAGS "}], " MODEL "}";
    (void)state;
    check_ids(lower, "AxXBYy", false, "0 4 4 1 5");
    check_ids(first, "a<s>a", false, "1 0 4 0"); /* only the document's first piece gets a mark */
    check_ids(first, "<s>a", false, "4 0");
    check_ids(first, "", false, "");
}

static void test_post_processors(void **state) {
#define SEQUENCE "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"
#define BOS      "{\"SpecialToken\": {\"id\": \"s\", \"type_id\": 0}}"
#define IDS      "\"special_tokens\": {\"s\": {\"id\": \"s\", \"ids\": [7, 9], \"tokens\": [\"s\", \"t\"]}}"
    static const struct {
        const char *post, *plain, *special;
    } cases[] = {
        {"null", "2", "2"},
        {"{\"type\": \"ByteLevel\", \"trim_offsets\": true}", "2", "2"},
        {"{\"type\": \"TemplateProcessing\", \"single\": [" BOS ", " SEQUENCE "], " IDS "}", "2", "7 9 2"},
        {"{\"type\": \"TemplateProcessing\", \"single\": [" BOS ", " SEQUENCE ", " BOS "], " IDS "}", "2", "7 9 2 7 9"},
        {"{\"type\": \"TemplateProcessing\", \"single\": [" BOS "], " IDS "}", "", "7 9"},
        {"{\"type\": \"TemplateProcessing\", \"single\": []}", "", ""},
        {"{\"type\": \"BertProcessing\", \"sep\": [\"S\", 3], \"cls\": [\"C\", 2]}", "2", "2 2 3"},
        {"{\"type\": \"RobertaProcessing\", \"sep\": [\"S\", 3], \"cls\": [\"C\", 16777215], \"trim_offsets\": true}",
         "2", "16777215 2 3"},
        {"{\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\"}, {\"type\": \"TemplateProcessing\", "
         "\"single\": [" BOS ", " SEQUENCE "], " IDS "}]}",
         "2", "7 9 2"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[2048];
        snprintf(json, sizeof json, "{\"post_processor\": %s, " MODEL "}", cases[i].post);
        check_ids(json, "ab", false, cases[i].plain);
        check_ids(json, "ab", true, cases[i].special);
    }
}

static void test_kind_and_vocab(void **state) {
    static const struct {
        const char *json, *kind;
        int64_t vocab;
    } cases[] = {
        {"{" MODEL "}", "tokenizer.json (BPE)", 4},
        {"{\"model\": {\"vocab\": {\"a\": 16777215}, \"merges\": [], \"byte_fallback\": true}}",
         "tokenizer.json (BPE with byte fallback)", 16777216},
        {"{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, " MODEL "}",
         "tokenizer.json (byte-level BPE)", 4},
        {"{\"normalizer\": {\"type\": \"ByteLevel\"}, " MODEL "}", "tokenizer.json (byte-level BPE)", 4},
        {"{\"added_tokens\": [{\"id\": 4, \"content\": \"x\", " FLAGS "}], " MODEL "}", "tokenizer.json (BPE)", 5},
        {"{\"truncation\": {\"max_length\": 1}, \"padding\": {}, \"decoder\": {\"type\": \"X\"}, " MODEL "}",
         "tokenizer.json (BPE)", 4},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        flrq_tokenizer *tokenizer;
        assert_ok(parse(&tokenizer, cases[i].json));
        assert_string_equal(flrq_tokenizer_kind(tokenizer), cases[i].kind);
        assert_int_equal(flrq_tokenizer_vocab(tokenizer), cases[i].vocab);
        flrq_tokenizer_close(tokenizer);
    }
    flrq_tokenizer_close(NULL);
}

/* A file with one member (and a good model behind it, unless the member is the model). */
static void check_refused(const char *member, flrq_status status, const char *text) {
    char json[4096];
    flrq_tokenizer *tokenizer = NULL;
    snprintf(json, sizeof json, strstr(member, "\"model\"") ? "{%s}" : "{%s, " MODEL "}", member);
    if (parse(&tokenizer, json) == FLRQ_OK) fail_msg("accepted: %s", json);
    assert_failure(parse(&tokenizer, json), status, text);
    assert_failure(parse(&tokenizer, json), status, "file dir/tokenizer.json");
    assert_null(tokenizer);
}

static void test_refused_components(void **state) {
    const flrq_status format = FLRQ_ERR_FORMAT, unsupported = FLRQ_ERR_UNSUPPORTED;
    (void)state;
    check_refused("\"version\": \"2.0\"", unsupported, "\"version\" is not \"1.0\"");
    check_refused("\"surprise\": 1", unsupported, "surprise is not supported; give token ids instead of text");
    check_refused("\"normalizer\": {\"type\": \"BertNormalizer\"}", unsupported,
                  "normalizer BertNormalizer is not supported");
    check_refused("\"normalizer\": {\"type\": \"Precompiled\\n\\u001b\"}", unsupported,
                  "normalizer Precompiled   is not");
    check_refused("\"normalizer\": 1", format, "normalizer is not an object");
    check_refused("\"normalizer\": {}", format, "normalizer: \"type\" is not a string");
    check_refused("\"normalizer\": {\"type\": 1}", format, "normalizer: \"type\" is not a string");
    check_refused("\"normalizer\": {\"type\": \"Sequence\"}", format, "\"normalizers\" is not an array");
    check_refused("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"X\"}]}",
                  unsupported, "normalizer[1] X is not supported");
    check_refused("\"normalizer\": {\"type\": \"Strip\", \"strip_left\": true}", format,
                  "\"strip_right\" is not true or false");
    check_refused("\"normalizer\": {\"type\": \"Strip\", \"strip_left\": 1}", format,
                  "\"strip_left\" is not true or false");
    check_refused("\"normalizer\": {\"type\": \"Prepend\"}", format, "\"prepend\" is not a string");
    check_refused("\"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"\"}", format, "it is empty");
    check_refused("\"normalizer\": {\"type\": \"Replace\", \"content\": \"\"}", format,
                  "\"pattern\" is not {\"String\"");
    check_refused("\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": 1}, \"content\": \"\"}", format,
                  "\"pattern\" is");
    check_refused("\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"a\", \"Regex\": \"b\"}, "
                  "\"content\": \"\"}",
                  format, "\"pattern\" is not");
    check_refused("\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}}", format,
                  "\"content\" is not a string");
    check_refused(
        "\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a{2,1}\"}, \"content\": \"\"}", format,
        "normalizer Replace: regular expression: numbers out of order in {} quantifier at offset 5 of the pattern");
    check_refused("\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}", unsupported,
                  "pre_tokenizer BertPreTokenizer is not supported");
    check_refused("\"pre_tokenizer\": {\"type\": \"ByteLevel\"}", format, "\"add_prefix_space\" is not true or false");
    check_refused("\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"use_regex\": 1}", format,
                  "\"use_regex\"");
    check_refused("\"pre_tokenizer\": {\"type\": \"Split\"}", format, "\"pattern\" is not");
    check_refused("\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}}", format,
                  "\"behavior\" is not a string");
    check_refused(
        "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"removed\"}", format,
        "\"behavior\" is not one of Removed");
    check_refused(
        "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}, \"behavior\": \"Removed\"}",
        unsupported, "pre_tokenizer Split: regular expression: set intersection && at offset 2 is not supported");
    check_refused("\"pre_tokenizer\": {\"type\": \"Digits\"}", format, "\"individual_digits\"");
    check_refused("\"pre_tokenizer\": {\"type\": \"Punctuation\", \"behavior\": 1}", format,
                  "\"behavior\" is not a string");
    check_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\"}", format, "\"replacement\" is not a string");
    check_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"ab\"}", format,
                  "\"replacement\" is not one character");
    check_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\"}", format,
                  "\"replacement\" is not one character");
    check_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"a\", \"prepend_scheme\": \"x\"}",
                  format, "\"prepend_scheme\" is not always, first or never");
    check_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"a\", \"add_prefix_space\": false,"
                  " \"prepend_scheme\": \"first\"}",
                  format, "add_prefix_space contradicts prepend_scheme");
    check_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"a\", \"split\": 1}", format,
                  "\"split\" is not true");
    check_refused("\"post_processor\": {\"type\": \"X\"}", unsupported, "post_processor X is not supported");
    check_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": \"$A\"}", format,
                  "\"single\" is not an array");
    check_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [" SEQUENCE ", " SEQUENCE "]}",
                  unsupported, "the sequence is repeated");
    check_refused(
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"B\"}}]}", format,
        "\"single\" is not a list of SpecialToken and Sequence A");
    check_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [1]}", format,
                  "\"single\" is not a list");
    check_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [" BOS "]}", format,
                  "special token \"s\" has no ids in special_tokens");
    check_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {}}]}",
                  format, "\"SpecialToken\" is not an object with an id");
    check_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [" BOS
                  "], \"special_tokens\": {\"s\": {\"ids\":"
                  " [16777216]}}}",
                  format, "\"ids\" is not a token id (0 to 16777215)");
    check_refused("\"post_processor\": {\"type\": \"Sequence\", \"processors\": [{\"type\": \"BertProcessing\", "
                  "\"sep\": [\"S\", 3],"
                  " \"cls\": [\"C\", 2]}, {\"type\": \"TemplateProcessing\", \"single\": []}]}",
                  unsupported, "more than one post-processor that adds tokens is not supported");
    check_refused("\"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"S\", 3]}", format,
                  "\"cls\" is not a pair");
    check_refused("\"post_processor\": {\"type\": \"BertProcessing\", \"sep\": [\"S\", -1], \"cls\": [\"C\", 1]}",
                  format, "\"sep\" is not a token id");
}

static void test_refused_models(void **state) {
    const flrq_status format = FLRQ_ERR_FORMAT, unsupported = FLRQ_ERR_UNSUPPORTED;
    (void)state;
    check_refused("\"model\": null", format, "there is no model");
    check_refused("\"model\": {\"type\": \"Unigram\", \"vocab\": []}", unsupported,
                  "model Unigram is not supported, only BPE is");
    check_refused("\"model\": {\"type\": \"BPE\", \"merges\": []}", format, "\"vocab\" is not an object");
    check_refused("\"model\": {\"vocab\": {}}", format, "\"merges\" is not an array");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [], \"dropout\": 0.1}", unsupported,
                  "dropout would make ids random");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [], \"byte_fallback\": null}", format,
                  "\"byte_fallback\" is not true or");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [], \"fuse_unk\": 1}", format, "\"fuse_unk\"");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [], \"ignore_merges\": 1}", format, "\"ignore_merges\"");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [], \"unk_token\": 1}", format,
                  "\"unk_token\" is not a string");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [], \"unk_token\": \"\"}", format, "it is empty");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [], \"continuing_subword_prefix\": []}", format,
                  "\"continuing_subword_p");
    check_refused("\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}", format,
                  "token \"a\" has id -1, ids are 0 to 16777215");
    check_refused("\"model\": {\"vocab\": {\"a\": 16777216}, \"merges\": []}", format, "token \"a\" has id 16777216");
    check_refused("\"model\": {\"vocab\": {\"a\": 9223372036854775807}, \"merges\": []}", format,
                  "has id 9223372036854775807");
    check_refused("\"model\": {\"vocab\": {\"a\": 1.0}, \"merges\": []}", format,
                  "the id of token \"a\" is not an integer");
    check_refused("\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}, \"merges\": []}", format,
                  "token \"b\" has id 1, which another token has too");
    check_refused("\"model\": {\"vocab\": {\"a\": 1, \"a\": 2}, \"merges\": []}", format, "line 1, column 32");
    check_refused("\"model\": {\"vocab\": {\"a\": 1, \"b\": 2}, \"merges\": [\"a b\"]}", format,
                  "merge 0 (\"a\" \"b\"): its result is not in the vocabulary");
    check_refused("\"model\": {\"vocab\": {\"a\": 1, \"aa\": 2}, \"merges\": [\"a a\", \"a b\"]}", format,
                  "merge 1 (\"a\" \"b\"): the right part is not in the vocabulary");
    check_refused("\"model\": {\"vocab\": {\"a\": 1}, \"merges\": [\"x\\ny a\"]}", format,
                  "merge 0 (\"x y\" \"a\"): the left part is not in the vocabulary");
    check_refused("\"model\": {\"vocab\": {\"\": 0, \"a\": 1}, \"merges\": [\"a \"]}", format, "merge 0 (\"a\" \"\")");
    check_refused("\"model\": {\"vocab\": {\"#\": 0, \"a\": 1, \"ab\": 2}, \"merges\": [\"a #\"], "
                  "\"continuing_subword_prefix\": \"##\"}",
                  format, "merge 0 (\"a\" \"#\")");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [\"ab\"]}", format, "merge 0 is neither \"left right\" nor");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [\"a b c\"]}", format, "merge 0 is neither");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [[\"a\"]]}", format, "merge 0 is neither");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [[\"a\", 1]]}", format, "merge 0 is neither");
    check_refused("\"model\": {\"vocab\": {}, \"merges\": [1]}", format, "merge 0 is neither");
}

static void test_refused_added_tokens(void **state) {
    const flrq_status format = FLRQ_ERR_FORMAT, unsupported = FLRQ_ERR_UNSUPPORTED;
    char member[4096], content[1100];
    (void)state;
    check_refused("\"added_tokens\": {}", format, "added_tokens is not an array");
    check_refused("\"added_tokens\": [1]", format, "added_tokens[0] is not an object");
    check_refused("\"added_tokens\": [{\"id\": 4, " FLAGS "}]", format, "added_tokens[0]: \"content\" is not a string");
    check_refused("\"added_tokens\": [{\"content\": \"x\", " FLAGS "}]", format,
                  "added_tokens[0]: \"id\" is not a token id");
    check_refused("\"added_tokens\": [{\"id\": -1, \"content\": \"x\", " FLAGS "}]", format,
                  "\"id\" is not a token id");
    check_refused("\"added_tokens\": [{\"id\": 4, \"content\": \"x\"}]", format,
                  "\"single_word\" is not true or false");
    check_refused("\"added_tokens\": [{\"id\": 5, \"content\": \"x\", " FLAGS "}]", unsupported,
                  "added_tokens[0] \"x\" says id 5, but by the vocabulary it is 4");
    check_refused("\"added_tokens\": [{\"id\": 4, \"content\": \"ab\", " FLAGS "}]", unsupported,
                  "added_tokens[0] \"ab\" says id 4, but by the vocabulary it is 2");
    check_refused(
        "\"normalizer\": {\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}, \"added_tokens\": "
        "[{\"id\": 3,"
        " \"content\": \" \", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": true,"
        " \"special\": false}]",
        unsupported, "added_tokens[0] \" \": the normalizer leaves nothing of it");
    check_refused(
        "\"normalizer\": {\"type\": \"Lowercase\"}, \"added_tokens\": [{\"id\": 4, \"content\": \"X\", "
        "\"single_word\": false,"
        " \"lstrip\": false, \"rstrip\": false, \"normalized\": true, \"special\": false}, {\"id\": 5, \"content\": "
        "\"x\","
        " \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": true, \"special\": false}]",
        unsupported, "added_tokens[1] \"x\": the added token with id 4 is found by the same text");
    memset(content, 'x', sizeof content - 1);
    content[sizeof content - 1] = 0;
    snprintf(member, sizeof member, "\"added_tokens\": [{\"id\": 4, \"content\": \"%s\", " FLAGS "}]", content);
    check_refused(member, unsupported, "a text of 1099 bytes, at most 1024 are supported");
}

/* Sequences within sequences, and long ones. */
static void test_refused_sizes(void **state) {
    static const struct {
        const char *part, *key, *component, *text;
    } cases[] = {
        {"normalizer", "normalizers", "{\"type\": \"NFC\"}", "more than 64 normalizers"},
        {"pre_tokenizer", "pretokenizers", "{\"type\": \"WhitespaceSplit\"}", "more than 64 pre-tokenizer steps"},
    };
    flrq_tokenizer *tokenizer;
    char *json = malloc(100000), nested[64];
    (void)state;
    assert_non_null(json);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int used = sprintf(json, "{" MODEL ", \"%s\": {\"type\": \"Sequence\", \"%s\": [", cases[c].part, cases[c].key);
        for (int i = 0; i < 65; i++) used += sprintf(json + used, "%s%s", i ? ", " : "", cases[c].component);
        sprintf(json + used, "]}}");
        assert_failure(parse(&tokenizer, json), FLRQ_ERR_UNSUPPORTED, cases[c].text);
        for (int depth = 16; depth <= 1000; depth += 984) {
            used = sprintf(json, "{" MODEL ", \"%s\": ", cases[c].part);
            for (int i = 0; i < depth; i++)
                used += sprintf(json + used, "{\"type\": \"Sequence\", \"%s\": [", cases[c].key);
            used += sprintf(json + used, "%s", depth == 16 ? cases[c].component : "");
            for (int i = 0; i < depth; i++) used += sprintf(json + used, "]}");
            sprintf(json + used, "}");
            snprintf(nested, sizeof nested, "%s%s: nested more than 16 levels", cases[c].part, "[0][0][0][0]");
            if (depth == 16) {
                assert_ok(parse(&tokenizer, json));
                flrq_tokenizer_close(tokenizer);
            } else {
                assert_failure(parse(&tokenizer, json), FLRQ_ERR_UNSUPPORTED, ": nested more than 16 levels");
            }
        }
    }
    free(json);
}

static void test_refused_texts(void **state) {
    static const struct {
        const char *text;
        size_t bytes;
        const char *error;
    } cases[] = {
        {"abc\377", 4, "not UTF-8: byte 0xff at offset 3 of 4"},
        {"\303", 1, "not UTF-8: byte 0xc3 at offset 0 of 1"},
        {"a\355\240\200", 4, "not UTF-8: byte 0xed at offset 1"}, /* a surrogate */
    };
    flrq_tokenizer *tokenizer;
    int32_t *ids;
    int64_t count;
    (void)state;
    assert_ok(parse(&tokenizer, "{" MODEL "}"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_failure(flrq_tokenizer_encode(tokenizer, cases[i].text, cases[i].bytes, true, &ids, &count),
                       FLRQ_ERR_FORMAT, cases[i].error);
        assert_null(ids);
        assert_int_equal(count, 0);
    }
    flrq_tokenizer_close(tokenizer);
    /* Accepted until a text needs the token that is not there, as in the reference. */
    assert_ok(parse(&tokenizer, "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"<unk>\"}}"));
    assert_ok(flrq_tokenizer_encode(tokenizer, "a", 1, true, &ids, &count));
    free(ids);
    assert_failure(
        flrq_tokenizer_encode(tokenizer, "ab", 2, true, &ids, &count), FLRQ_ERR_FORMAT,
        "file dir/tokenizer.json: the text has \"b\", which is no token, and unk_token \"<unk>\" is not in the");
    flrq_tokenizer_close(tokenizer);
    /* NUL is a character like others. */
    assert_ok(
        parse(&tokenizer, "{\"model\": {\"vocab\": {\"a\": 0, \"u\": 1}, \"merges\": [], \"unk_token\": \"u\"}}"));
    assert_ok(flrq_tokenizer_encode(tokenizer, "a\0a", 3, true, &ids, &count));
    assert_int_equal(count, 3);
    assert_int_equal(ids[1], 1);
    free(ids);
    flrq_tokenizer_close(tokenizer);
}

static void test_not_json(void **state) {
    static const char *const texts[] = {"",    "{", "[]", "1", "\"a\"", "{\"model\"}", "\377", "{\"a\": \"\\ud800\"}",
                                        "null"};
    flrq_tokenizer *tokenizer;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_failure(parse(&tokenizer, texts[i]), FLRQ_ERR_FORMAT, "file dir/tokenizer.json: not ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_added_tokens_normalized),
        cmocka_unit_test(test_post_processors),
        cmocka_unit_test(test_kind_and_vocab),
        cmocka_unit_test(test_refused_components),
        cmocka_unit_test(test_refused_models),
        cmocka_unit_test(test_refused_added_tokens),
        cmocka_unit_test(test_refused_sizes),
        cmocka_unit_test(test_refused_texts),
        cmocka_unit_test(test_not_json),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
