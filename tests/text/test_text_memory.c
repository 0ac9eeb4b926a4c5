/* test_text_memory.c - opening tokenizers and encoding with every single allocation failing in turn.
 *
 * The allocator is that of tests/allocator.h, which lets a chosen one fail. Each time: a failure with a text or the
 * right ids, and no block left alive. sentencepiece is left out: its allocations are those of C++. Skipped under
 * AddressSanitizer, whose allocator cannot be replaced.
 */
#include "io/scratch.h"
#include "io/file.h"
#include "text/corpus.h"

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
int main(void) {
    return 77;
}
#else

#include "allocator.h"

/* ---- operations: each leaves nothing alive -------------------------------------------------------------------- */

/* One of everything that allocates. */
static const char full[] =
    "{\"added_tokens\": ["
    "{\"id\": 5, \"content\": \"<s>\", \"single_word\": true, \"lstrip\": true, \"rstrip\": true, \"normalized\": "
    "false,"
    " \"special\": true}, {\"id\": 6, \"content\": \"X\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false,"
    " \"normalized\": true, \"special\": false}],"
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Prepend\", "
    "\"prepend\": \"_\"},"
    " {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[\\\\p{Greek}\\\\w]\\\\d\"}, \"content\": \"a\"}, {\"type\": "
    "\"Lowercase\"}]},"
    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Metaspace\", \"replacement\": \"_\"},"
    " {\"type\": \"Split\", \"pattern\": {\"String\": \"b\"}, \"behavior\": \"MergedWithPrevious\"}, {\"type\": "
    "\"ByteLevel\","
    " \"add_prefix_space\": false}]},"
    "\"post_processor\": {\"type\": \"BertProcessing\", \"cls\": [\"a\", 0], \"sep\": [\"b\", 1]},"
    "\"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"_\": 3, \"ba\": 4}, \"merges\": [\"a b\", [\"b\", "
    "\"a\"]],"
    " \"unk_token\": \"_\", \"end_of_word_suffix\": \"\"}}";

static flrq_status run_tokenizer(void) {
    static const char text[] = "ab e\314\243\314\201\314\243 x<s> abab2 bbbaabababX";
    flrq_tokenizer *tokenizer;
    int32_t *ids = NULL;
    int64_t count;
    FLRQ_TRY(flrq_tokenizer_parse(&tokenizer, "full", full, sizeof full - 1));
    flrq_status status = flrq_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &count);
    if (status == FLRQ_OK && (count < 20 || ids[0] != 0 || ids[count - 1] != 1)) status = FLRQ_STOPPED;
    free(ids);
    flrq_tokenizer_close(tokenizer);
    return status;
}

static flrq_status run_gpt2(void) {
    flrq_tokenizer *tokenizer;
    int32_t *ids = NULL;
    int64_t count;
    FLRQ_TRY(flrq_tokenizer_open(&tokenizer, scratch_path("gpt2")));
    flrq_status status = flrq_corpus_read(tokenizer, scratch_path("text"), "\\n", &ids, &count);
    if (status == FLRQ_OK && (count != 5 || ids[0] != 3 || ids[1] != 2 || ids[3] != 3)) status = FLRQ_STOPPED;
    free(ids);
    flrq_tokenizer_close(tokenizer);
    return status;
}

static flrq_status run_sample(void) {
    int32_t *drawn = NULL;
    flrq_status status = flrq_corpus_sample((int32_t[]){1, 2, 3}, 3, 4, 2, 0, &drawn);
    free(drawn);
    return status;
}

static const struct {
    const char *name;
    flrq_status (*run)(void);
    int allocations; /* at least this many must have been made to fail */
} operations[] = {{"tokenizer.json", run_tokenizer, 100}, {"vocab.json", run_gpt2, 80}, {"sample", run_sample, 1}};

/* jansson's scanner drops a character that it cannot store, or takes it for a syntax error; nothing outside can tell.
 * So the allocations of parsing the JSON of `full` are left out, and the small files of GPT-2 may be refused as
 * damaged. */
static int json_allocations(void) {
    json_t *value;
    long before = allocator.calls;
    assert_ok(flrq_json_parse("full", full, sizeof full - 1, &value));
    int calls = (int)(allocator.calls - before);
    json_decref(value);
    return calls;
}

static int names_memory(flrq_status status, int may_be_damaged) {
    const char *text = flrq_last_error();
    if (status == FLRQ_ERR_FORMAT) return may_be_damaged && strstr(text, "file ");
    return (status == FLRQ_ERR_MEMORY || status == FLRQ_ERR_INTERNAL) && strstr(text, "memory");
}

static void test_every_allocation_failing_in_turn(void **state) {
    static const char *const files[][2] = {
        {"gpt2/vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<s>\": 3}"},
        {"gpt2/merges.txt", "a b\n"},
        {"gpt2/tokenizer_config.json", "{\"bos_token\": \"<s>\", \"add_bos_token\": true}"},
        {"text", "ab<s>\nb"},
    };
    (void)state;
    assert_int_equal(mkdir(scratch_path("gpt2"), 0700), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        scratch_put(files[i][0], files[i][1], strlen(files[i][1]));
    for (size_t op = 0; op < sizeof operations / sizeof *operations; op++) {
        int tried = 0, skip = operations[op].run == run_tokenizer ? json_allocations() : 0;
        assert_ok(operations[op].run()); /* what the libraries keep for good is allocated here */
        for (int happened = 1; happened; tried++) {
            flrq_fail(FLRQ_OK, "%s", "");
            allocator.skip = skip + tried, allocator.happened = 0;
            long alive = allocator.alive;
            allocator.armed = 1;
            flrq_status status = operations[op].run();
            allocator.armed = 0;
            happened = allocator.happened;
            if (allocator.alive != alive)
                fail_msg("%s: allocation %d failing leaves %ld blocks alive", operations[op].name, tried,
                         allocator.alive - alive);
            if (!happened) {
                assert_ok(status);
            } else if (status == FLRQ_OK) {
                continue; /* PCRE2 without memory for its JIT interprets, qsort() sorts in place: the ids were right */
            } else if (!names_memory(status, operations[op].run == run_gpt2)) {
                fail_msg("%s: allocation %d failing gives %s: %s", operations[op].name, tried, flrq_status_name(status),
                         flrq_last_error());
            }
        }
        print_message("           %s: %d allocations\n", operations[op].name, tried - 1);
        assert_true(tried - 1 >= operations[op].allocations);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation_failing_in_turn)};
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
#endif
