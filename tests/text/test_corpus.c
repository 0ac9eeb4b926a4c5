/* test_corpus.c - texts as ids: separators, errors with offsets; the sampler: bounds, determinism, distribution. */
#include "io/scratch.h"
#include "text/corpus.h"

static flrq_tokenizer *tokenizer; /* a = 0, b = 1, newline = 2, tab = 3, backslash = 4, with bos 9 */

static int open_all(void **state) {
    static const char json[] =
        "{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"s\"}}, "
        "{\"Sequence\":"
        " {\"id\": \"A\"}}], \"special_tokens\": {\"s\": {\"ids\": [9]}}},"
        " \"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"\\n\": 2, \"\\t\": 3, \"\\\\\": 4}, \"merges\": []}}";
    if (scratch_open(state) != 0) return -1;
    return flrq_tokenizer_parse(&tokenizer, "test", json, sizeof json - 1) == FLRQ_OK ? 0 : -1;
}

static int close_all(void **state) {
    flrq_tokenizer_close(tokenizer);
    return scratch_close(state);
}

static void check_read(const char *text, const char *separator, const char *wanted) {
    const char *path = scratch_put("text", text, strlen(text));
    int32_t *ids;
    int64_t count;
    char got[256] = "";
    assert_ok(flrq_corpus_read(tokenizer, path, separator, &ids, &count));
    assert_non_null(ids);
    for (int64_t i = 0; i < count; i++) snprintf(got + strlen(got), sizeof got - strlen(got), "%d", ids[i]);
    if (strcmp(got, wanted) != 0) fail_msg("\"%s\" at \"%s\": %s, wanted %s", text, separator, got, wanted);
    free(ids);
}

static void test_read(void **state) {
    (void)state;
    check_read("ab", NULL, "901");
    check_read("ab", "", "901");
    check_read("", NULL, ""); /* a file without text is no document */
    check_read("a\nb", NULL, "9021");
    check_read("a\nb", "\\n", "9091");
    check_read("\n\na\n\n\nb\n", "\\n", "9091"); /* empty documents are skipped */
    check_read("a\n\nb\na", "\\n\\n",
               "9091"
               "20");
    check_read("a\tb\\a", "\\t", "909140");
    check_read("a\tb\\a", "\\\\", "903190");
    check_read("aabaab", "ab", "9090");
    check_read("aaa", "aa", "90"); /* leftmost first */
    check_read("ab", "ab", "");
    check_read("ab", "abab", "901");
}

static void test_read_failures(void **state) {
    int32_t *ids;
    int64_t count;
    const char *path = scratch_put("text", "ab\nab\377ab", 8);
    (void)state;
    assert_failure(flrq_corpus_read(tokenizer, path, "\\n", &ids, &count), FLRQ_ERR_FORMAT,
                   "not UTF-8: byte 0xff at offset 5");
    assert_null(ids);
    assert_int_equal(count, 0);
    assert_failure(flrq_corpus_read(tokenizer, path, "a\\x", &ids, &count), FLRQ_ERR_USAGE,
                   "document separator \"a\\x\": a backslash is followed by n, t or \\");
    assert_failure(flrq_corpus_read(tokenizer, path, "a\\", &ids, &count), FLRQ_ERR_USAGE,
                   "a backslash is followed by");
    assert_failure(flrq_corpus_read(tokenizer, scratch_path("nothing"), NULL, &ids, &count), FLRQ_ERR_IO,
                   "No such file");
    /* A failure of the encoding names the file. */
    static const char json[] = "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"u\"}}";
    flrq_tokenizer *strict;
    assert_ok(flrq_tokenizer_parse(&strict, "test", json, sizeof json - 1));
    path = scratch_put("text", "aab", 3);
    assert_failure(flrq_corpus_read(strict, path, NULL, &ids, &count), FLRQ_ERR_FORMAT, path);
    assert_null(ids);
    flrq_tokenizer_close(strict);
}

static void test_sample(void **state) {
    enum { COUNT = 1000, SEGMENTS = 400, LENGTH = 37 };
    int32_t ids[COUNT], *a, *b;
    int differ = 0;
    (void)state;
    for (int i = 0; i < COUNT; i++) ids[i] = i;
    assert_ok(flrq_corpus_sample(ids, COUNT, SEGMENTS, LENGTH, 5, &a));
    assert_ok(flrq_corpus_sample(ids, COUNT, SEGMENTS, LENGTH, 5, &b));
    assert_memory_equal(a, b, SEGMENTS * LENGTH * sizeof *a);
    free(b);
    for (int s = 0; s < SEGMENTS; s++) {
        assert_in_range(a[s * LENGTH], 0, COUNT - LENGTH);
        for (int i = 1; i < LENGTH; i++) assert_int_equal(a[s * LENGTH + i], a[s * LENGTH] + i);
    }
    /* A segment is a function of seed and number: fewer segments are the first of more. */
    assert_ok(flrq_corpus_sample(ids, COUNT, 7, LENGTH, 5, &b));
    assert_memory_equal(a, b, 7 * LENGTH * sizeof *a);
    free(b);
    assert_ok(flrq_corpus_sample(ids, COUNT, SEGMENTS, LENGTH, 6, &b));
    for (int s = 0; s < SEGMENTS; s++) differ += a[s * LENGTH] != b[s * LENGTH];
    assert_true(differ > SEGMENTS * 9 / 10);
    free(a);
    free(b);
}

/* All starts are equally likely, the first and the last included. */
static void test_sample_distribution(void **state) {
    enum { STARTS = 16, DRAWS = 64000 };
    int32_t ids[STARTS + 4], *drawn;
    int hits[STARTS] = {0};
    double chi = 0, mean = (double)DRAWS / STARTS;
    (void)state;
    for (int i = 0; i < STARTS + 4; i++) ids[i] = i;
    assert_ok(flrq_corpus_sample(ids, STARTS + 4, DRAWS, 5, 1, &drawn));
    for (int i = 0; i < DRAWS; i++) hits[drawn[5 * i]]++;
    for (int i = 0; i < STARTS; i++) chi += (hits[i] - mean) * (hits[i] - mean) / mean;
    /* 15 degrees of freedom: a uniform sampler exceeds 50 once in 80,000 seeds. */
    if (!(chi <= 50)) fail_msg("chi square %g", chi);
    free(drawn);
}

static void test_sample_edges(void **state) {
    static const int32_t ids[3] = {7, 8, 9};
    int32_t *drawn;
    (void)state;
    assert_ok(flrq_corpus_sample(ids, 3, 2, 3, 0, &drawn)); /* only one place to start */
    assert_memory_equal(drawn, ids, sizeof ids);
    assert_memory_equal(drawn + 3, ids, sizeof ids);
    free(drawn);
    assert_failure(
        flrq_corpus_sample(ids, 3, 1, 4, 0, &drawn), FLRQ_ERR_FORMAT,
        "the calibration text has 3 tokens, one segment needs 4; give a longer text or a smaller --calib-len");
    assert_null(drawn);
    assert_failure(flrq_corpus_sample(ids, 0, 1, 1, 0, &drawn), FLRQ_ERR_FORMAT, "has 0 tokens");
    assert_failure(flrq_corpus_sample(ids, 3, 0, 1, 0, &drawn), FLRQ_ERR_USAGE, "both must be at least 1");
    assert_failure(flrq_corpus_sample(ids, 3, 1, 0, 0, &drawn), FLRQ_ERR_USAGE, "both must be at least 1");
    assert_failure(flrq_corpus_sample(ids, 3, INT64_MAX, 3, 0, &drawn), FLRQ_ERR_USAGE, "do not fit in memory");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),         cmocka_unit_test(test_read_failures),
        cmocka_unit_test(test_sample),       cmocka_unit_test(test_sample_distribution),
        cmocka_unit_test(test_sample_edges),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
