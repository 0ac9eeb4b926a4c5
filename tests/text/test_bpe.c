/* test_bpe.c - the merge engine against the plain algorithm (find the best pair, merge, again) on random vocabularies
 * and words, and words of a megabyte.
 */
#include "io/scratch.h"
#include "core/philox.h"
#include "text/bpe.h"
#include "text/unicode.h"

enum { ALPHABET = 5, TOKENS_MAX = 80, MERGES_MAX = 60, WORD_MAX = 120 };

typedef struct model {
    char tokens[TOKENS_MAX][64];
    int n_tokens;
    int merges[MERGES_MAX][3]; /* left, right, result */
    int n_merges;
} model;

static uint64_t key, draws;

static int draw(int bound) {
    return (int)flrq_philox_below(key, 0, draws++, (uint64_t)bound);
}

static flrq_span span(const char *text) {
    return (flrq_span){text, strlen(text)};
}

static int find(const model *m, const char *text) {
    for (int i = 0; i < m->n_tokens; i++)
        if (strcmp(m->tokens[i], text) == 0) return i;
    return -1;
}

/* Letters a to e and merges of random tokens; some results are made in several ways, some pairs are listed twice. */
static void make_model(model *m, int n_merges) {
    m->n_tokens = m->n_merges = 0;
    for (int i = 0; i < ALPHABET; i++) snprintf(m->tokens[m->n_tokens++], 64, "%c", 'a' + i);
    while (m->n_merges < n_merges) {
        int left = draw(m->n_tokens), right = draw(m->n_tokens);
        char joined[128];
        snprintf(joined, sizeof joined, "%s%s", m->tokens[left], m->tokens[right]);
        if (strlen(joined) > 40) continue;
        int result = find(m, joined);
        if (result < 0) strcpy(m->tokens[result = m->n_tokens++], joined);
        memcpy(m->merges[m->n_merges++], (int[3]){left, right, result}, sizeof m->merges[0]);
    }
}

/* Ids are 1000 - index, so that they are no ranks in disguise. */
static flrq_bpe *build(const model *m) {
    flrq_bpe *bpe;
    flrq_bpe_options options = {0};
    assert_ok(flrq_bpe_new(&bpe, "test", &options, (size_t)m->n_tokens, (size_t)m->n_merges));
    for (int i = 0; i < m->n_tokens; i++) assert_ok(flrq_bpe_add_token(bpe, span(m->tokens[i]), 1000 - i));
    for (int i = 0; i < m->n_merges; i++)
        assert_ok(flrq_bpe_add_merge(bpe, span(m->tokens[m->merges[i][0]]), span(m->tokens[m->merges[i][1]])));
    assert_ok(flrq_bpe_finish(bpe));
    assert_int_equal(flrq_bpe_count(bpe), m->n_tokens);
    assert_int_equal(flrq_bpe_largest(bpe), 1000);
    return bpe;
}

/* Rank of a pair: its last listing. */
static int rank_of(const model *m, int left, int right) {
    for (int i = m->n_merges - 1; i >= 0; i--)
        if (m->merges[i][0] == left && m->merges[i][1] == right) return i;
    return -1;
}

/* The plain algorithm with the reference's queue: candidates are (rank, place, result); a queued one is applied when
 * the pair that lies at its place by then gives the same result. */
static int plain_encode(const model *m, const char *word, int *ids) {
    enum { QUEUE_MAX = 4 * WORD_MAX };
    int queue[QUEUE_MAX][3], queued = 0, next[WORD_MAX], count = (int)strlen(word);
    for (int i = 0; i < count; i++) ids[i] = word[i] - 'a', next[i] = i + 1;
#define QUEUE(at)                                                                                                      \
    do {                                                                                                               \
        int rank_ = next[at] < count ? rank_of(m, ids[at], ids[next[at]]) : -1;                                        \
        if (rank_ >= 0) memcpy(queue[queued++], (int[3]){rank_, at, m->merges[rank_][2]}, sizeof queue[0]);            \
    } while (0)
    for (int i = 0; i < count; i++) QUEUE(i);
    while (queued) {
        int best = 0, top[3];
        for (int i = 1; i < queued; i++)
            if (queue[i][0] < queue[best][0] || (queue[i][0] == queue[best][0] && queue[i][1] < queue[best][1]))
                best = i;
        memcpy(top, queue[best], sizeof top);
        memcpy(queue[best], queue[--queued], sizeof top);
        int at = top[1];
        if (ids[at] < 0 || next[at] >= count) continue;
        int rank = rank_of(m, ids[at], ids[next[at]]);
        if (rank < 0 || m->merges[rank][2] != top[2]) continue;
        ids[at] = top[2];
        ids[next[at]] = -1;
        next[at] = next[next[at]];
        for (int i = 0; i < at; i++)
            if (ids[i] >= 0 && next[i] == at) QUEUE(i);
        QUEUE(at);
        assert_true(queued < QUEUE_MAX - 2);
    }
#undef QUEUE
    int left = 0;
    for (int i = 0; i < count; i++)
        if (ids[i] >= 0) ids[left++] = ids[i];
    return left;
}

static void test_against_plain(void **state) {
    (void)state;
    for (int trial = 0; trial < 150; trial++) {
        static model m;
        key = flrq_philox_key((uint64_t)trial, "bpe"), draws = 0;
        make_model(&m, 1 + draw(MERGES_MAX));
        flrq_bpe *bpe = build(&m);
        flrq_bpe_work *work;
        flrq_ids ids = {0};
        assert_ok(flrq_bpe_work_new(&work));
        for (int w = 0; w < 60; w++) {
            char word[WORD_MAX];
            int wanted[WORD_MAX], length = draw(w % 2 ? WORD_MAX : 12), letters = 1 + draw(ALPHABET);
            for (int i = 0; i < length; i++) word[i] = (char)('a' + draw(letters));
            word[length] = 0;
            int count = plain_encode(&m, word, wanted);
            for (int again = 0; again < 2; again++) { /* the second time from the cache */
                ids.count = 0;
                assert_ok(flrq_bpe_encode(bpe, work, span(word), &ids));
                if ((int)ids.count != count)
                    fail_msg("trial %d, word %s: %zu ids, wanted %d", trial, word, ids.count, count);
                for (int i = 0; i < count; i++)
                    if (ids.data[i] != 1000 - wanted[i])
                        fail_msg("trial %d, word %s, id %d: %d, wanted %d", trial, word, i, ids.data[i],
                                 1000 - wanted[i]);
            }
        }
        free(ids.data);
        flrq_bpe_work_free(work);
        flrq_bpe_free(bpe);
    }
}

/* A queued merge whose place holds another pair by then is applied when that pair gives the same token: abc is a+bc and
 * ab+c. */
static void test_stale_merge_with_same_result(void **state) {
    static const model m = {
        {"a", "b", "c", "d", "ab", "bc", "abc", "abcd"}, 8, {{1, 2, 5}, {0, 5, 6}, {0, 1, 4}, {4, 2, 6}, {6, 3, 7}}, 5};
    static const char *const words[] = {"abc", "abcd", "aabc", "abcabcd", "bcabc"};
    flrq_bpe *bpe = build(&m);
    flrq_bpe_work *work;
    flrq_ids ids = {0};
    (void)state;
    assert_ok(flrq_bpe_work_new(&work));
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        int wanted[WORD_MAX], count = plain_encode(&m, words[w], wanted);
        ids.count = 0;
        assert_ok(flrq_bpe_encode(bpe, work, span(words[w]), &ids));
        assert_int_equal(ids.count, count);
        for (int i = 0; i < count; i++) assert_int_equal(ids.data[i], 1000 - wanted[i]);
    }
    free(ids.data);
    flrq_bpe_work_free(work);
    flrq_bpe_free(bpe);
}

/* Words longer than the cache takes, and more different ones than it holds: results must not change. */
static void test_cache_overflow(void **state) {
    static model m;
    key = flrq_philox_key(1, "cache"), draws = 0;
    make_model(&m, MERGES_MAX);
    flrq_bpe *bpe = build(&m);
    flrq_bpe_work *work, *fresh;
    flrq_ids ids = {0}, again = {0};
    (void)state;
    assert_ok(flrq_bpe_work_new(&work));
    for (int w = 0; w < 150000; w++) {
        char word[24];
        for (int i = 0; i < 23; i++) word[i] = (char)('a' + draw(ALPHABET));
        word[23] = 0;
        ids.count = again.count = 0;
        assert_ok(flrq_bpe_encode(bpe, work, span(word), &ids));
        if (w % 10000) continue;
        assert_ok(flrq_bpe_work_new(&fresh));
        assert_ok(flrq_bpe_encode(bpe, fresh, span(word), &again));
        assert_int_equal(ids.count, again.count);
        assert_memory_equal(ids.data, again.data, ids.count * sizeof *ids.data);
        flrq_bpe_work_free(fresh);
    }
    free(ids.data);
    free(again.data);
    flrq_bpe_work_free(work);
    flrq_bpe_free(bpe);
}

/* One word of a megabyte: merged level by level to tokens of 2^12 letters; a quadratic engine would not come back. */
static void test_long_word(void **state) {
    enum { LEVELS = 12, LETTERS = 1 << 20 };
    char *text = malloc(LETTERS);
    flrq_bpe *bpe;
    flrq_bpe_work *work;
    flrq_bpe_options options = {0};
    flrq_ids ids = {0};
    (void)state;
    assert_non_null(text);
    memset(text, 'a', LETTERS);
    assert_ok(flrq_bpe_new(&bpe, "test", &options, LEVELS + 1, LEVELS));
    for (int i = 0; i <= LEVELS; i++) assert_ok(flrq_bpe_add_token(bpe, (flrq_span){text, (size_t)1 << i}, i));
    for (int i = 0; i < LEVELS; i++)
        assert_ok(flrq_bpe_add_merge(bpe, (flrq_span){text, (size_t)1 << i}, (flrq_span){text, (size_t)1 << i}));
    assert_ok(flrq_bpe_finish(bpe));
    assert_ok(flrq_bpe_work_new(&work));
    assert_ok(flrq_bpe_encode(bpe, work, (flrq_span){text, LETTERS - 1}, &ids));
    /* 2^20 - 1 letters: 2^8 - 1 full tokens, then one of each smaller size. */
    assert_int_equal(ids.count, (LETTERS >> LEVELS) - 1 + LEVELS);
    for (size_t i = 0; i < ids.count; i++)
        assert_int_equal(ids.data[i],
                         i < (LETTERS >> LEVELS) - 1 ? LEVELS : LEVELS - 1 - (int)(i - ((LETTERS >> LEVELS) - 1)));
    free(ids.data);
    flrq_bpe_work_free(work);
    flrq_bpe_free(bpe);
    free(text);
}

static void test_build_failures(void **state) {
    flrq_bpe *bpe;
    flrq_bpe_options options = {0};
    (void)state;
    assert_failure(flrq_bpe_new(&bpe, "path", &options, (size_t)1 << 24, 0), FLRQ_ERR_FORMAT,
                   "file path: 16777216 tokens and 0 merges, at most 16777215");
    assert_null(bpe);
    assert_failure(flrq_bpe_new(&bpe, "path", &options, SIZE_MAX, SIZE_MAX), FLRQ_ERR_FORMAT, "at most 16777215");
    assert_ok(flrq_bpe_new(&bpe, "path", &options, 2, 0));
    assert_ok(flrq_bpe_add_token(bpe, span("a"), 0));
    assert_failure(flrq_bpe_add_token(bpe, span("a"), 1), FLRQ_ERR_FORMAT, "file path: token \"a\" is listed twice");
    assert_failure(flrq_bpe_add_token(bpe, span("b"), 0), FLRQ_ERR_FORMAT, "id 0, which another token has too");
    assert_failure(flrq_bpe_add_token(bpe, span("b"), INT64_MIN), FLRQ_ERR_FORMAT, "ids are 0 to 16777215");
    assert_ok(flrq_bpe_add_token(bpe, span(""), 1)); /* an empty token is in the vocabulary and never found in a text */
    assert_int_equal(flrq_bpe_find(bpe, span("")), 1);
    assert_failure(flrq_bpe_add_token(bpe, span("c"), 2), FLRQ_ERR_INTERNAL, "more than the 2 tokens announced");
    assert_failure(flrq_bpe_add_merge(bpe, span("a"), span("a")), FLRQ_ERR_INTERNAL,
                   "more than the 0 merges announced");
    assert_int_equal(flrq_bpe_find(bpe, span("c")), -1);
    flrq_bpe_free(bpe);
    flrq_bpe_free(NULL);
    flrq_bpe_work_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_plain),  cmocka_unit_test(test_stale_merge_with_same_result),
        cmocka_unit_test(test_cache_overflow), cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_build_failures),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
