/* test_components.c - normalizers and pre-tokenizers of tokenizer.json one by one: what they make of a text.
 *
 * The expected texts and pieces (joined by '|') were printed by tokenizers 0.23.3.
 */
#include "io/scratch.h"
#include "text/tokenizer_impl.h"

/* A tokenizer whose file has the given normalizer and pre_tokenizer (JSON). */
static flrq_tokenizer *make(const char *normalizer, const char *pre_tokenizer) {
    char json[4096];
    flrq_tokenizer *tokenizer;
    int bytes = snprintf(json, sizeof json,
                         "{\"normalizer\": %s, \"pre_tokenizer\": %s, \"model\": {\"vocab\": {}, \"merges\": []}}",
                         normalizer, pre_tokenizer);
    assert_in_range(bytes, 1, (int)sizeof json - 1);
    assert_ok(flrq_tokenizer_parse(&tokenizer, "test", json, (size_t)bytes));
    return tokenizer;
}

/* The text behind the normalizers in out[512]; returns how much of it counts as the document's beginning. */
static size_t normalized(const char *normalizer, const char *text, char *out) {
    flrq_tokenizer *t = make(normalizer, "null");
    flrq_matcher *matcher;
    flrq_bytes work[2] = {{0}};
    const char *result;
    size_t bytes, lead = *text ? strcspn(text + 1, "") * 0 + 1 : 0;
    assert_ok(flrq_matcher_new(&matcher));
    assert_ok(
        flrq_normalize(t->normalizers, t->n_normalizers, matcher, work, text, strlen(text), &lead, &result, &bytes));
    assert_true(bytes < 512);
    memcpy(out, result, bytes);
    out[bytes] = 0;
    flrq_matcher_free(matcher);
    free(work[0].data);
    free(work[1].data);
    flrq_tokenizer_close(t);
    return lead;
}

static void test_normalizers(void **state) {
    static const struct {
        const char *normalizer, *text, *result;
    } cases[] = {
        {"{\"type\": \"NFC\"}",
         "e\314\201\314\243 \341\204\200\341\205\241\341\206\250 \342\204\253 \357\254\201 a\340\242\230\314\201",
         "\341\272\271\314\201 \352\260\201 \303\205 \357\254\201 a\340\242\230\314\201"},
        {"{\"type\": \"NFC\"}", "\314\201x", "\314\201x"},
        {"{\"type\": \"NFC\"}", "plain", "plain"},
        {"{\"type\": \"NFD\"}", "\341\271\251\303\251 \352\260\201 \357\254\201",
         "s\314\243\314\207e\314\201 \341\204\200\341\205\241\341\206\250 \357\254\201"},
        {"{\"type\": \"NFD\"}", "\315\204", "\314\210\314\201"},
        {"{\"type\": \"NFKC\"}",
         "\357\254\201\342\221\240\343\216\222\357\274\241\302\262 \357\267\272 \360\236\200\260",
         "fi1MHzA2 \330\265\331\204\331\211 \330\247\331\204\331\204\331\207 \330\271\331\204\331\212\331\207 "
         "\331\210\330\263\331\204\331\205 \360\236\200\260"},
        {"{\"type\": \"NFKD\"}", "\357\254\201\342\221\240\343\216\222\357\274\241\303\251", "fi1MHzAe\314\201"},
        {"{\"type\": \"Lowercase\"}", "A\303\211\304\260\316\243\341\272\236\360\220\220\200\341\262\211Z",
         "a\303\251i\314\207\317\203\303\237\360\220\220\250\341\262\212z"},
        {"{\"type\": \"StripAccents\"}", "e\314\201\314\243x\340\242\230\341\263\262\340\244\203\342\203\235",
         "ex\340\242\230"},
        {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", " \343\200\200a \303\251 \n",
         "a \303\251"},
        {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", " ", ""},
        {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", "", ""},
        {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": false}", "  a  ", "a  "},
        {"{\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true}", "  a  ", "  a"},
        {"{\"type\": \"Prepend\", \"prepend\": \"\342\226\201\"}", "a", "\342\226\201a"},
        {"{\"type\": \"Prepend\", \"prepend\": \"\342\226\201\"}", "", ""},
        {"{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\342\226\201\"}", "a  b",
         "a\342\226\201\342\226\201b"},
        {"{\"type\": \"Replace\", \"pattern\": {\"String\": \".\"}, \"content\": \"$0\"}", "a.b", "a$0b"},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \" \"}", "a   b  c d", "a b c d"},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"x*\"}, \"content\": \"-\"}", "abxxc", "-a-b-c-"},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"x*\"}, \"content\": \"-\"}", "\303\251", "-\303\251-"},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \">\"}", "a\nb\n", ">a\n>b\n"},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"$\"}, \"content\": \"<\"}", "a\nb\n", "a<\nb<\n<"},
        {"{\"type\": \"ByteLevel\"}", "a \303\251\n", "a\304\240\303\203\302\251\304\212"},
        {"{\"type\": \"Sequence\", \"normalizers\": []}", "a", "a"},
        {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFD\"}, "
         "{\"type\": \"StripAccents\"}]}, {\"type\": \"Lowercase\"}, {\"type\": \"Prepend\", \"prepend\": \"_\"}, "
         "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"_\"}]}",
         "\303\211 A", "_e_a"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char result[512];
        normalized(cases[i].normalizer, cases[i].text, result);
        if (strcmp(result, cases[i].result) != 0)
            fail_msg("%s on \"%s\": \"%s\", wanted \"%s\"", cases[i].normalizer, cases[i].text, result,
                     cases[i].result);
    }
}

/* How many bytes of the result come from the document's first character (here one ASCII character). */
static void test_lead(void **state) {
    static const struct {
        const char *normalizer, *text;
        size_t lead;
    } cases[] = {
        {"{\"type\": \"NFC\"}", "abc", 1},
        {"{\"type\": \"NFC\"}", "e\314\201b", 2}, /* the character that composed */
        {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", " a", 0},
        {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", "a ", 1},
        {"{\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true}", " ", 0},
        {"{\"type\": \"Prepend\", \"prepend\": \"xy\"}", "ab", 3},
        {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"xyz\"}", "ab", 3},
        {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"\"}", "ab", 0},
        {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"ab\"}, \"content\": \"xyz\"}", "abc", 0},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \"xyz\"}", "ab", 4},
        {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"b\"}, \"content\": \"xyz\"}", "ab", 1},
        {"{\"type\": \"ByteLevel\"}", " b", 2},
        {"{\"type\": \"Lowercase\"}", "AB", 1},
        {"{\"type\": \"StripAccents\"}", "a\314\201b", 1},
        {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": "
         "true},"
         " {\"type\": \"Prepend\", \"prepend\": \"x\"}]}",
         " a", 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char result[512];
        size_t lead = normalized(cases[i].normalizer, cases[i].text, result);
        if (lead != cases[i].lead)
            fail_msg("%s on \"%s\": %zu, wanted %zu", cases[i].normalizer, cases[i].text, lead, cases[i].lead);
    }
}

/* A million combining marks in the worst order: a sort, not a quadratic shuffle. */
static void test_many_marks(void **state) {
    enum { MARKS = 300000 };
    size_t bytes = 1 + 2 * 2 * (size_t)MARKS;
    char *text = malloc(bytes);
    (void)state;
    assert_non_null(text);
    text[0] = 'a';
    for (size_t i = 0; i < MARKS; i++) {
        memcpy(text + 1 + 2 * i, "\314\201", 2);           /* above, class 230 */
        memcpy(text + 1 + 2 * (MARKS + i), "\314\243", 2); /* below, class 220: goes before */
    }
    flrq_tokenizer *t = make("{\"type\": \"NFD\"}", "null");
    flrq_matcher *matcher;
    flrq_bytes work[2] = {{0}};
    const char *result;
    size_t result_bytes, lead = 1;
    assert_ok(flrq_matcher_new(&matcher));
    assert_ok(
        flrq_normalize(t->normalizers, t->n_normalizers, matcher, work, text, bytes, &lead, &result, &result_bytes));
    assert_int_equal(result_bytes, bytes);
    assert_int_equal(result[0], 'a');
    for (size_t i = 0; i < MARKS; i++) {
        if (memcmp(result + 1 + 2 * i, "\314\243", 2) != 0) fail_msg("mark %zu", i);
        if (memcmp(result + 1 + 2 * (MARKS + i), "\314\201", 2) != 0) fail_msg("mark %zu", MARKS + i);
    }
    flrq_matcher_free(matcher);
    free(work[0].data);
    free(work[1].data);
    free(text);
    flrq_tokenizer_close(t);
}

typedef struct pieces {
    char text[1024];
    size_t used, count;
} pieces;

static flrq_status collect(void *user, flrq_span word) {
    pieces *p = user;
    assert_true(word.bytes > 0 && p->used + word.bytes + 2 < sizeof p->text);
    if (p->count++) p->text[p->used++] = '|';
    memcpy(p->text + p->used, word.data, word.bytes);
    p->used += word.bytes;
    return FLRQ_OK;
}

static void test_pre_tokenizers(void **state) {
    static const struct {
        const char *pre_tokenizer, *text, *pieces;
    } cases[] = {
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}",
         "I'll be  back\n\n now's 12\303\251!\302\240x  ",
         "I|'ll|\304\240be|\304\240|\304\240back|\304\212\304\212|\304\240now|'s|\304\24012|\303\203\302\251|!|"
         "\303\202\305\202|x|\304\240\304\240"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}",
         "\343\200\200a\342\200\203 b", "\303\243\304\242\304\242|a|\303\242\304\242\304\245|\304\240b"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}", "ab c",
         "\304\240ab|\304\240c"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}", " ab",
         "\304\240ab"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}", "\nab",
         "\304\240|\304\212|ab"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": false}", "ab c",
         "\304\240ab\304\240c"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": false}", "", ""},
        {"{\"type\": \"Digits\", \"individual_digits\": true}", "a12b\331\243\302\275\342\205\247 3",
         "a|1|2|b|\331\243|\302\275|\342\205\247| |3"},
        {"{\"type\": \"Digits\", \"individual_digits\": false}", "a12b\331\243\302\275\342\205\247 3",
         "a|12|b|\331\243\302\275\342\205\247| |3"},
        {"{\"type\": \"Digits\", \"individual_digits\": false}", "12", "12"},
        {"{\"type\": \"Digits\", \"individual_digits\": false}", "ab", "ab"},
        {"{\"type\": \"Whitespace\"}", "ab, c!? d_e \342\200\215\314\201x-\343\200\200\342\222\266",
         "ab|,|c|!?|d_e|\342\200\215\314\201x|-|\342\222\266"},
        {"{\"type\": \"WhitespaceSplit\"}", " ab\343\200\200c\342\200\213d\302\205e\341\240\216f ",
         "ab|c\342\200\213d|e\341\240\216f"},
        {"{\"type\": \"Punctuation\"}", "a,b!!c$\343\200\202\342\271\203\341\231\255\302\247x",
         "a|,|b|!|!|c|$|\343\200\202|\342\271\203|\341\231\255|\302\247|x"},
        {"{\"type\": \"Punctuation\", \"behavior\": \"Contiguous\"}",
         "a,b!!c$\343\200\202\342\271\203\341\231\255\302\247x",
         "a|,|b|!!|c|$\343\200\202|\342\271\203|\341\231\255\302\247|x"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\342\226\201\"}", "a  b",
         "\342\226\201a|\342\226\201|\342\226\201b"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\342\226\201\"}", "\342\226\201a", "\342\226\201a"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\342\226\201\"}", " a", "\342\226\201a"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\342\226\201\"}", "", ""},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\342\226\201\", \"add_prefix_space\": true}", "a b",
         "\342\226\201a|\342\226\201b"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"never\", \"split\": true}", "a_b c",
         "a|_b|_c"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"first\", \"split\": false}", "a b",
         "_a_b"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"first\", \"split\": false}", "_a",
         "_a"},
        {"{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"always\", \"split\": null}", "a b",
         "_a|_b"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": []}", "a b", "a b"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"WhitespaceSplit\"}, {\"type\": \"Sequence\", "
         "\"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": \"Metaspace\", "
         "\"replacement\": \"_\"}]}]}",
         "ab1 c", "_ab|_1|_c"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"String\": \"b\"}, "
         "\"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"Metaspace\", \"replacement\": \"_\", "
         "\"prepend_scheme\": \"first\"}]}",
         "abab", "_a|b|a|b"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Removed\", \"invert\": false}",
         "the-final--countdown-", "the|final|countdown"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Removed\", \"invert\": false}", "--",
         ""},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Removed\", \"invert\": false}", "-a",
         "a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Removed\", \"invert\": true}",
         "the-final--countdown-", "-|-|-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Removed\", \"invert\": true}", "--",
         "-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Removed\", \"invert\": true}", "-a",
         "-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": false}",
         "the-final--countdown-", "the|-|final|-|-|countdown|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": false}", "--",
         "-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": false}", "-a",
         "-|a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": true}",
         "the-final--countdown-", "the|-|final|-|-|countdown|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": true}", "--",
         "-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": true}", "-a",
         "-|a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithPrevious\", \"invert\": "
         "false}",
         "the-final--countdown-", "the-|final-|-|countdown-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithPrevious\", \"invert\": "
         "false}",
         "--", "-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithPrevious\", \"invert\": "
         "false}",
         "-a", "-|a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithPrevious\", \"invert\": "
         "true}",
         "the-final--countdown-", "the|-final|-|-countdown|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithPrevious\", \"invert\": "
         "true}",
         "--", "-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithPrevious\", \"invert\": "
         "true}",
         "-a", "-a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": false}",
         "the-final--countdown-", "the|-final|-|-countdown|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": false}",
         "--", "-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": false}",
         "-a", "-a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": true}",
         "the-final--countdown-", "the-|final-|-|countdown-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": true}",
         "--", "-|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": true}",
         "-a", "-|a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": false}",
         "the-final--countdown-", "the|-|final|--|countdown|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": false}",
         "--", "--"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": false}",
         "-a", "-|a"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": true}",
         "the-final--countdown-", "the|-|final|--|countdown|-"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": true}", "--",
         "--"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": true}", "-a",
         "-|a"},
        {"{\"type\": \"Split\", \"pattern\": {\"String\": \".\"}, \"behavior\": \"Isolated\", \"invert\": false}",
         "a.b", "a|.|b"},
        {"{\"type\": \"Split\", \"pattern\": {\"String\": \"\"}, \"behavior\": \"Isolated\", \"invert\": false}", "abc",
         "a|b|c"},
        {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"x*\"}, \"behavior\": \"MergedWithNext\", \"invert\": false}",
         "axxbc", "a|xxb|c"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        flrq_tokenizer *t = make("null", cases[i].pre_tokenizer);
        flrq_matcher *matcher;
        flrq_bytes work[FLRQ_STAGES_MAX] = {{0}};
        pieces got = {0};
        flrq_span text = {cases[i].text, strlen(cases[i].text)};
        assert_ok(flrq_matcher_new(&matcher));
        assert_ok(flrq_pretokenize(t->stages, t->n_stages, matcher, work, text, text.bytes ? 1 : 0, collect, &got));
        got.text[got.used] = 0;
        if (strcmp(got.text, cases[i].pieces) != 0)
            fail_msg("%s on \"%s\": \"%s\", wanted \"%s\"", cases[i].pre_tokenizer, cases[i].text, got.text,
                     cases[i].pieces);
        for (int k = 0; k < FLRQ_STAGES_MAX; k++) free(work[k].data);
        flrq_matcher_free(matcher);
        flrq_tokenizer_close(t);
    }
}

/* What the receiver of the words returns ends the run. */
static flrq_status stop(void *user, flrq_span word) {
    (void)word;
    return ++*(int *)user == 2 ? flrq_fail(FLRQ_ERR_NUMERIC, "stopped") : FLRQ_OK;
}

static void test_receiver_fails(void **state) {
    flrq_tokenizer *t = make("null", "{\"type\": \"Digits\", \"individual_digits\": true}");
    flrq_matcher *matcher;
    flrq_bytes work[FLRQ_STAGES_MAX] = {{0}};
    int calls = 0;
    (void)state;
    assert_ok(flrq_matcher_new(&matcher));
    assert_failure(flrq_pretokenize(t->stages, t->n_stages, matcher, work, (flrq_span){"1234", 4}, 1, stop, &calls),
                   FLRQ_ERR_NUMERIC, "stopped");
    assert_int_equal(calls, 2);
    flrq_matcher_free(matcher);
    flrq_tokenizer_close(t);
}

/* Steps that multiply a text: refused before memory is gone. */
static void test_growth(void **state) {
    char normalizer[4096] = "{\"type\": \"Sequence\", \"normalizers\": [", pre_tokenizer[4096];
    char text[20000];
    int32_t *ids;
    int64_t count;
    (void)state;
    for (int i = 0; i < 20; i++)
        strcat(normalizer, i ? ", {\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aa\"}"
                             : "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aa\"}");
    strcat(normalizer, "]}");
    memset(text, 'a', sizeof text);
    flrq_tokenizer *t = make(normalizer, "null");
    assert_failure(flrq_tokenizer_encode(t, text, sizeof text, false, &ids, &count), FLRQ_ERR_UNSUPPORTED,
                   "the normalizer makes more than 64 bytes of a byte of text");
    flrq_tokenizer_close(t);
    strcpy(pre_tokenizer, "{\"type\": \"Sequence\", \"pretokenizers\": [");
    for (int i = 0; i < 20; i++) {
        size_t used = strlen(pre_tokenizer);
        snprintf(pre_tokenizer + used, sizeof pre_tokenizer - used,
                 "%s{\"type\": \"Metaspace\", \"replacement\": \"%c\", \"split\": false},"
                 "{\"type\": \"Split\", \"pattern\": {\"String\": \"\"}, \"behavior\": \"Isolated\"}",
                 i ? "," : "", i % 2 ? 'b' : 'c');
    }
    strcat(pre_tokenizer, "]}");
    t = make("null", pre_tokenizer);
    assert_failure(flrq_tokenizer_encode(t, text, sizeof text, false, &ids, &count), FLRQ_ERR_UNSUPPORTED,
                   "the pre-tokenizer makes more than 64 times a text of 20000 bytes");
    flrq_tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normalizers),    cmocka_unit_test(test_lead),           cmocka_unit_test(test_many_marks),
        cmocka_unit_test(test_pre_tokenizers), cmocka_unit_test(test_receiver_fails), cmocka_unit_test(test_growth),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
