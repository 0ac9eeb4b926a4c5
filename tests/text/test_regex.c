/* test_regex.c - Oniguruma's meaning of patterns under PCRE2: matches as the package `tokenizers` finds them,
 * constructs that must be refused, limits.
 *
 * The expected matches were printed by tokenizers 0.23.3 (Split, behavior removed, inverted), which leaves out empty
 * ones.
 */
#include "io/scratch.h"
#include "text/regex.h"
#include "text/regex_ruby.h"

/* All non-empty matches joined by '|'. */
static void join_matches(const flrq_regex *regex, const char *text, char *out, size_t room) {
    flrq_matcher *matcher;
    flrq_search search = {.regex = regex, .text = text, .bytes = strlen(text)};
    bool found = true;
    size_t used = 0, last = 0;
    assert_ok(flrq_matcher_new(&matcher));
    for (;;) {
        assert_ok(flrq_search_next(&search, matcher, &found));
        if (!found) break;
        assert_true(search.begin >= last && search.end >= search.begin && search.end <= search.bytes);
        last = search.end;
        if (search.begin == search.end) continue;
        assert_true(used + search.end - search.begin + 2 < room);
        if (used) out[used++] = '|';
        memcpy(out + used, text + search.begin, search.end - search.begin);
        used += search.end - search.begin;
    }
    out[used] = 0;
    assert_ok(flrq_search_next(&search, matcher, &found)); /* stays at the end */
    assert_false(found);
    flrq_matcher_free(matcher);
}

static void test_matches(void **state) {
    static const struct {
        const char *pattern, *text, *matches;
    } cases[] = {
        {"\\s+", "a \341\240\216\302\205\302\240\342\200\250b\013c", " |\302\205\302\240\342\200\250|\013"},
        {"\\S+", " a\341\240\216b ", "a\341\240\216b"},
        {"[\\s\\-a]", "x -a\343\200\200", " |-|a|\343\200\200"},
        {"[^\\S\\n]", "a \n\t", " |\t"},
        {"[\\S\\n]", " \na\341\240\216", "\n|a|\341\240\216"},
        {"\\w+", "a\314\201b_\302\262\302\275\342\201\200\342\222\266 -\331\243",
         "a\314\201b_\302\262\302\275\342\201\200\342\222\266|\331\243"},
        {"[\\w]+", "a\302\262b", "a|b"},
        {"\\W+", "a\302\262 -b", " -"},
        {"[^\\w]+", "a\302\262 -b", "\302\262 -"},
        {"\\h+", "dEad fghi09", "dEad|f|09"},
        {"\\H", "aG", "G"},
        {"\\v", "\013\n\014", "\013"},
        {"\\d+", "12\331\243\302\262", "12\331\243"},
        {"\\D+", "1ab2", "ab"},
        {"\\R", "a\r\nb\n\013c\342\200\250", "\r\n|\n|\013|\342\200\250"},
        {"\\N+", "ab\ncd", "ab|cd"},
        {"\\bab\\b", "ab cab ab-\302\262ab", "ab|ab"},
        {"\\B.", "ab c", "b"},
        {"^.", "ab\ncd", "a|c"},
        {".$", "ab\ncd\n", "b|d"},
        {"\\A.", "ab\ncd", "a"},
        {".\\z", "ab\ncd", "d"},
        {".\\Z", "ab\ncd\n", "d"},
        {".+", "ab\r\ncd", "ab\r|cd"},
        {"(?m).+", "ab\ncd", "ab\ncd"},
        {"(?m:a.)b", "a\nb", "a\nb"},
        {"\\p{L}+", "a\303\251\344\275\240\360\220\227\200 1", "a\303\251\344\275\240\360\220\227\200"},
        {"\\p{^L}+", "ab 12c", " 12"},
        {"\\P{L}+", "ab 12c", " 12"},
        {"[^\\p{L}\\p{N}]+", "a-\302\275_b", "-|_"},
        {"[\\p{^L}a]+", "a1bc", "a1"},
        {"\\p{Letter}", "a1", "a"},
        {"\\p{l}+", "a\360\220\227\200 1", "a\360\220\227\200"},
        {"\\p{LU}+", "aA\341\262\2111", "A\341\262\211"},
        {"\\p{Uppercase_Letter}", "aB", "B"},
        {"\\p{uppercaseletter}", "aB", "B"},
        {"\\p{Han}+", "\344\275\240\343\200\207\343\200\201a", "\344\275\240\343\200\207"},
        {"\\p{Alnum}+", "a1\342\205\247-", "a1\342\205\247"},
        {"[[:alpha:]]+", "a1b", "a|b"},
        {"[[:punct:]]+", "a!+\342\202\254b", "!+\342\202\254"},
        {"\\p{Punct}+", "a!+b", "!"},
        {"[[:upper:][:digit:]]+", "aB1c", "B1"},
        {"[[:xdigit:]]+", "gF0", "F0"},
        {"[a[bc]d]+", "xabcdy", "abcd"},
        {"[^a[bc]]+", "abcxyc", "xy"},
        {"[]a]+", "]ab", "]a"},
        {"[a-]+", "a-b", "a-"},
        {"[-a]+", "a-b", "a-"},
        {"[\\w-]+", "a-b c", "a-b|c"},
        {"[a\\-z]+", "amz-", "a|z-"},
        {"[\\[\\]]+", "a[]b", "[]"},
        {"[^\\]]+", "a]b", "a|b"},
        {"[\\^a]+", "^ab", "^a"},
        {"[a^]+", "^ab", "^a"},
        {"a{2}", "aaaaa", "aa|aa"},
        {"a{2,3}", "aaaaaaa", "aaa|aaa"},
        {"a{,2}b", "aaab", "aab"},
        {"a{2,}", "aaa a", "aaa"},
        {"a{2}+", "aaaaa", "aaaa"},
        {"a{2}?", "aaaaa", "aa|aa"},
        {"a{1,2}?", "aaa", "a|a|a"},
        {"a{1,2}+b", "aaab", "aaab"},
        {"(ab){2}+", "ababababab", "abababab"},
        {"a{x", "a{x", "a{x"},
        {"{", "{", "{"},
        {"a{}", "a{}", "a{}"},
        {"\\p{N}{1,3}+", "1234567", "1234567"},
        {"a++b", "aab", "aab"},
        {"a*+", "aab", "aa"},
        {"a?+a", "aa", "aa"},
        {"a+?", "aa", "a|a"},
        {"(?>a+)a", "aaa", ""},
        {"(?:ab|a)b", "abb ab", "abb|ab"},
        {"(?<=a)b", "ab cb", "b"},
        {"(?<!a)b", "ab cb", "b"},
        {"a(?=b)", "ab ac", "a"},
        {"a(?!b)", "ab ac", "a"},
        {"(a|b)\\1", "abba", "bb"},
        {"(?<n>a)b", "ab", "ab"},
        {"a(?#c)b", "ab", "ab"},
        {"(?i:'s|'t|k)", "'S '\305\277 'T \342\204\252", "'S|'\305\277|'T|\342\204\252"},
        {"(?i)ab", "AB aB", "AB|aB"},
        {"a(?i:b)c", "aBc aBC", "aBc"},
        {"(?i:a(?-i:b))", "Ab AB", "Ab"},
        {"\\u0041\\x42\\x{e9}\\x43", "AB\303\251C", "AB\303\251C"},
        {"\\t\\n\\r\\f\\a\\e", "\t\n\r\014\007\033", "\t\n\r\014\007\033"},
        {"\\060", "0", "0"},
        {"\\/\\-\\.\\'", "/-.'", "/-.'"},
        {"\303\251+", "\303\251\303\251e", "\303\251\303\251"},
        {"\\\303\251", "\303\251", "\303\251"},
        {"x*", "axxb", "xx"},
        {"", "ab", ""},
        {"a|", "ab", "a"},
        {"\\*\\+", "*+", "*+"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        flrq_regex *regex;
        char matches[256];
        flrq_bytes translated = {0};
        assert_ok(flrq_regex_translate(&translated, "test", cases[i].pattern, strlen(cases[i].pattern)));
        assert_ok(flrq_regex_compile(&regex, "test", FLRQ_REGEX_RUBY, cases[i].pattern, strlen(cases[i].pattern)));
        join_matches(regex, cases[i].text, matches, sizeof matches);
        if (strcmp(matches, cases[i].matches) != 0)
            fail_msg("/%s/ on \"%s\": \"%s\", wanted \"%s\"; as PCRE2: %.*s", cases[i].pattern, cases[i].text, matches,
                     cases[i].matches, (int)translated.count, translated.data);
        flrq_regex_free(regex);
        free(translated.data);
    }
}

static void test_literal(void **state) {
    static const struct {
        const char *pattern, *text, *matches;
    } cases[] = {
        {".*", "a.*b.*", ".*|.*"}, {"\\s", " \\s", "\\s"}, {"aa", "aaaaa", "aa|aa"}, {"", "ab", ""}, {"[", "[", "["},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        flrq_regex *regex;
        char matches[64];
        assert_ok(flrq_regex_compile(&regex, "test", FLRQ_REGEX_LITERAL, cases[i].pattern, strlen(cases[i].pattern)));
        join_matches(regex, cases[i].text, matches, sizeof matches);
        assert_string_equal(matches, cases[i].matches);
        flrq_regex_free(regex);
    }
}

/* Empty matches: at every place but right behind another match. */
static void test_empty_matches(void **state) {
    static const size_t wanted[][2] = {{0, 0}, {1, 1}, {3, 5}, {6, 6}};
    flrq_regex *regex;
    flrq_matcher *matcher;
    flrq_search search = {.text = "a\303\251xxb", .bytes = 6}; /* the second character has two bytes */
    bool found;
    (void)state;
    assert_ok(flrq_regex_compile(&regex, "test", FLRQ_REGEX_RUBY, "x*", 2));
    assert_ok(flrq_matcher_new(&matcher));
    search.regex = regex;
    for (size_t i = 0; i < 4; i++) {
        assert_ok(flrq_search_next(&search, matcher, &found));
        assert_true(found);
        assert_int_equal(search.begin, wanted[i][0]);
        assert_int_equal(search.end, wanted[i][1]);
    }
    assert_ok(flrq_search_next(&search, matcher, &found));
    assert_false(found);
    flrq_matcher_free(matcher);
    flrq_regex_free(regex);
}

static void test_refused(void **state) {
    static const struct {
        const char *pattern;
        flrq_status status;
        const char *text;
    } cases[] = {
        {"[a&&b]", FLRQ_ERR_UNSUPPORTED, "set intersection && at offset 2"},
        {"[a[^b]]", FLRQ_ERR_UNSUPPORTED, "a negated set within brackets at offset 2"},
        {"[\\W]", FLRQ_ERR_UNSUPPORTED, "complement of a compound set"},
        {"[\\H]", FLRQ_ERR_UNSUPPORTED, "complement of a compound set"},
        {"[[:foo:]]", FLRQ_ERR_UNSUPPORTED, "this POSIX bracket"},
        {"[[:^alpha:]]", FLRQ_ERR_UNSUPPORTED, "this POSIX bracket"},
        {"[[:alpha]]", FLRQ_ERR_UNSUPPORTED, "this POSIX bracket"},
        {"[abc", FLRQ_ERR_UNSUPPORTED, "a bracket without end at offset 1"},
        {"[]", FLRQ_ERR_UNSUPPORTED, "a bracket without end"},
        {"[[[[[[[[[[[a]]]]]]]]]]]", FLRQ_ERR_UNSUPPORTED, "brackets nested this deep"},
        {"a(?i)b", FLRQ_ERR_UNSUPPORTED, "this group or option at offset 1"},
        {"(?x:a)", FLRQ_ERR_UNSUPPORTED, "this group or option"},
        {"(?s:a)", FLRQ_ERR_UNSUPPORTED, "this group or option"},
        {"(?~a)", FLRQ_ERR_UNSUPPORTED, "this group or option"},
        {"(?", FLRQ_ERR_UNSUPPORTED, "this group or option"},
        {"(?<a", FLRQ_ERR_UNSUPPORTED, "this group"},
        {"(?#a", FLRQ_ERR_UNSUPPORTED, "a comment without end"},
        {"(*FAIL)", FLRQ_ERR_UNSUPPORTED, "(* at offset 0"},
        {"(a", FLRQ_ERR_UNSUPPORTED, "a group without end"},
        {"a)", FLRQ_ERR_UNSUPPORTED, "a closing parenthesis too many at offset 1"},
        {"+a", FLRQ_ERR_UNSUPPORTED, "a quantifier with nothing to repeat at offset 0"},
        {"a|*", FLRQ_ERR_UNSUPPORTED, "a quantifier with nothing to repeat"},
        {"\\G", FLRQ_ERR_UNSUPPORTED, "this escape"},
        {"\\K", FLRQ_ERR_UNSUPPORTED, "this escape"},
        {"\\X", FLRQ_ERR_UNSUPPORTED, "this escape"},
        {"\\Qa\\E", FLRQ_ERR_UNSUPPORTED, "this escape"},
        {"\\k<a>", FLRQ_ERR_UNSUPPORTED, "this escape"},
        {"a\\", FLRQ_ERR_UNSUPPORTED, "a backslash at the end at offset 1"},
        {"\\12", FLRQ_ERR_UNSUPPORTED, "a back reference above 9"},
        {"\\p", FLRQ_ERR_UNSUPPORTED, "\\p without braces"},
        {"\\pL", FLRQ_ERR_UNSUPPORTED, "\\p without braces"},
        {"\\p{L", FLRQ_ERR_UNSUPPORTED, "\\p without a closing brace"},
        {"\\p{}", FLRQ_ERR_UNSUPPORTED, "a property name of this length"},
        {"\\p{a}b{c}", FLRQ_ERR_FORMAT, "unknown property"},
        {"\\p{L&}", FLRQ_ERR_UNSUPPORTED, "this property name"},
        {"\\p{Nonsense}", FLRQ_ERR_FORMAT, "unknown property"},
        {"\\xe9", FLRQ_ERR_UNSUPPORTED, "a byte that is not ASCII"},
        {"\\xg", FLRQ_ERR_UNSUPPORTED, "\\x without digits"},
        {"\\x{110000}", FLRQ_ERR_UNSUPPORTED, "this code point"},
        {"\\x{d800}", FLRQ_ERR_UNSUPPORTED, "this code point"},
        {"\\x{41", FLRQ_ERR_UNSUPPORTED, "this \\x{...}"},
        {"\\u12", FLRQ_ERR_UNSUPPORTED, "\\u without four digits"},
        {"(?i:\303\237)", FLRQ_ERR_UNSUPPORTED, "a character beyond ASCII without regard to case"},
        {"(?i:\\x{df})", FLRQ_ERR_UNSUPPORTED, "a character beyond ASCII without regard to case"},
        {"(?i:\\x73s)", FLRQ_ERR_UNSUPPORTED, "a letter's code without regard to case"},
        {"(?i:miss)", FLRQ_ERR_UNSUPPORTED, "a ligature's letters without regard to case"},
        {"(?i)Fi", FLRQ_ERR_UNSUPPORTED, "a ligature's letters without regard to case"},
        {"(?i:\\p{Lu})", FLRQ_ERR_UNSUPPORTED, "a case without regard to case"},
        {"a{3,2}", FLRQ_ERR_FORMAT, "numbers out of order"},
        {"(?<=a+)b", FLRQ_ERR_FORMAT, "lookbehind assertion is not fixed length"},
        {"[z-a]", FLRQ_ERR_FORMAT, "range out of order"},
        {"(?:(?:ab){100}){1000}", FLRQ_ERR_FORMAT, "too large"},
    };
    flrq_regex *regex = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        flrq_status status =
            flrq_regex_compile(&regex, "here", FLRQ_REGEX_RUBY, cases[i].pattern, strlen(cases[i].pattern));
        if (status == FLRQ_OK) fail_msg("/%s/ was accepted", cases[i].pattern);
        assert_failure(status, cases[i].status, cases[i].text);
        assert_failure(status, cases[i].status, "here: regular expression: ");
        assert_null(regex);
    }
}

static void test_limits(void **state) {
    enum { LONG = 3 << 20 };
    flrq_regex *regex;
    flrq_matcher *matcher;
    bool found;
    char *text = malloc(LONG);
    (void)state;
    assert_non_null(text);
    memset(text, 'a', LONG);
    assert_failure(flrq_regex_compile(&regex, "here", FLRQ_REGEX_RUBY, text, (1 << 16) + 1), FLRQ_ERR_UNSUPPORTED,
                   "pattern of 65537 bytes, at most 65536");
    for (int i = 0; i < 65; i++) memcpy(text + i, "(", 1);
    assert_failure(flrq_regex_compile(&regex, "here", FLRQ_REGEX_RUBY, text, 65), FLRQ_ERR_UNSUPPORTED,
                   "groups nested this deep");
    /* Exponential: an error, not a missed match and not an endless one. */
    assert_ok(flrq_regex_compile(&regex, "here", FLRQ_REGEX_RUBY, "(a|aa)+$", 8));
    assert_ok(flrq_matcher_new(&matcher));
    memset(text, 'a', 64);
    text[64] = 'b';
    flrq_search search = {.regex = regex, .text = text, .bytes = 65};
    flrq_status status = flrq_search_next(&search, matcher, &found);
    assert_failure(status, FLRQ_ERR_FORMAT,
                   "here: regular expression: match limit exceeded, 0 bytes into a text of 65");
    flrq_regex_free(regex);
    /* Backtracking once through a long run is no reason to give up. */
    static const char spaces[] = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    memset(text, ' ', LONG);
    text[LONG - 1] = 'x';
    assert_ok(flrq_regex_compile(&regex, "here", FLRQ_REGEX_RUBY, spaces, sizeof spaces - 1));
    search = (flrq_search){.regex = regex, .text = text, .bytes = LONG};
    assert_ok(flrq_search_next(&search, matcher, &found));
    assert_true(found && search.begin == 0 && search.end == LONG - 2);
    flrq_regex_free(regex);
    flrq_matcher_free(matcher);
    flrq_regex_free(NULL);
    flrq_matcher_free(NULL);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches), cmocka_unit_test(test_literal), cmocka_unit_test(test_empty_matches),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
