/* test_unicode.c - UTF-8, byte stand-ins, and Unicode as the reference has it: data/unicode/hf.json holds what the
 * package `tokenizers` takes every code point for (tests/oracle/make_unicode.py); categories must equal it as patterns
 * see them, NFC and NFD as the normalizers do.
 */
#include "io/scratch.h"
#include <jansson.h>
#include "core/philox.h"
#include "text/normalize.h"
#include "text/unicode.h"

enum { CODES = 0x110000 };

static json_t *data;
static char (*category)[3];      /* of every code point, "Cn" where the reference knows none */
static unsigned char *class;     /* combining class */
static const json_t **decompose; /* array of code points, NULL: none */

static uint32_t number(const json_t *array, size_t i) {
    return (uint32_t)json_integer_value(json_array_get(array, i));
}

static int open_all(void **state) {
    const json_t *row;
    size_t i;
    data = json_load_file("data/unicode/hf.json", 0, NULL);
    category = calloc(CODES, sizeof *category);
    class = calloc(CODES, 1);
    decompose = calloc(CODES, sizeof *decompose);
    if (!data || !category || !class || !decompose) return -1;
    for (uint32_t c = 0; c < CODES; c++) strcpy(category[c], "Cn");
    json_array_foreach(json_object_get(data, "category"), i, row) for (uint32_t c = number(row, 0); c <= number(row, 1);
                                                                       c++)
        snprintf(category[c], sizeof *category, "%s", json_string_value(json_array_get(row, 2)));
    json_array_foreach(json_object_get(data, "class"), i, row) for (uint32_t c = number(row, 0); c <= number(row, 1);
                                                                    c++) class[c] = (unsigned char)number(row, 2);
    json_array_foreach(json_object_get(data, "decompose"), i, row) decompose[number(row, 0)] = json_array_get(row, 1);
    return scratch_open(state);
}

static int close_all(void **state) {
    json_decref(data);
    free(category);
    free(class);
    free(decompose);
    return scratch_close(state);
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------ */

static void test_utf8_round_trip(void **state) {
    (void)state;
    for (uint32_t c = 0; c < CODES; c++) {
        char text[6] = "xxxxxx";
        size_t bytes = flrq_utf8_put(text + 1, c), length;
        if (c >= 0xd800 && c < 0xe000) {
            assert_int_equal(flrq_utf8_check(text, bytes + 1), 1);
            continue;
        }
        if (flrq_utf8_check(text, bytes + 2) != bytes + 2 || flrq_utf8_get(text + 1, &length) != c || length != bytes ||
            flrq_utf8_length(text[1]) != bytes || flrq_utf8_back(text + 1 + bytes) != text + 1)
            fail_msg("U+%04X", c);
        for (size_t cut = 1; cut < bytes; cut++) assert_int_equal(flrq_utf8_check(text, cut + 1), 1);
    }
}

/* Every sequence of two bytes, and of three and four from the edges of the ranges, alone and behind other text: what is
 * accepted must be exactly the encodings of code points. */
static void test_utf8_check(void **state) {
    static const unsigned char edges[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    (void)state;
    for (int first = 0; first < 256; first++)
        for (size_t a = 0; a < sizeof edges; a++)
            for (size_t b = 0; b < sizeof edges; b++)
                for (size_t c = 0; c < sizeof edges; c++) {
                    char text[24] = "0123456789abcdef", one[4];
                    char tail[4] = {(char)first, (char)edges[a], (char)edges[b], (char)edges[c]};
                    size_t valid = 0;
                    while (valid < 4) { /* the plain way: is there a code point with this encoding? */
                        size_t length = flrq_utf8_length(tail[valid]), got;
                        if (((unsigned char)tail[valid] & 0xc0) == 0x80 || length > 4 - valid) break;
                        uint32_t code = flrq_utf8_get(tail + valid, &got);
                        if (code >= CODES || (code >= 0xd800 && code < 0xe000)) break;
                        if (flrq_utf8_put(one, code) != length || memcmp(one, tail + valid, length) != 0) break;
                        valid += length;
                    }
                    memcpy(text + 16, tail, 4);
                    for (size_t before = 0; before <= 16; before += 4)
                        if (flrq_utf8_check(text + 16 - before, before + 4) != before + valid)
                            fail_msg("%02x %02x %02x %02x behind %zu bytes", first, edges[a], edges[b], edges[c],
                                     before);
                }
    assert_int_equal(flrq_utf8_check(NULL, 0), 0);
}

static void test_byte_map(void **state) {
    bool seen[0x200] = {false};
    char all[256];
    flrq_bytes out = {0};
    size_t at = 0, length;
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        uint32_t c = flrq_byte_char((unsigned char)byte);
        assert_in_range(c, 0x21, 0x143);
        assert_false(seen[c]);
        seen[c] = true;
        all[byte] = (char)byte;
        if (c < 0x100) assert_int_equal(c, byte);
    }
    assert_int_equal(flrq_byte_char(' '), 0x120);
    assert_int_equal(flrq_byte_char('\n'), 0x10a);
    assert_int_equal(flrq_byte_char(0xad), 0x143);
    assert_ok(flrq_byte_map(&out, all, sizeof all));
    for (int byte = 0; byte < 256; byte++, at += length)
        assert_int_equal(flrq_utf8_get(out.data + at, &length), flrq_byte_char((unsigned char)byte));
    assert_int_equal(at, out.count);
    free(out.data);
}

static void test_quote(void **state) {
    static const char sixty[] = "123456789012345678901234567890123456789012345678901234567890";
    char out[64], text[80];
    (void)state;
    assert_string_equal(flrq_text_quote(out, "a\nb\033\177c"), "a b  c");
    assert_string_equal(flrq_text_quote(out, sixty), sixty);
    snprintf(text, sizeof text, "%sx", sixty);
    assert_string_equal(flrq_text_quote(out, text), "123456789012345678901234567890123456789012345678901234567...");
    snprintf(text, sizeof text, "%.56s\303\251%s", sixty, sixty + 40); /* no half character */
    assert_string_equal(flrq_text_quote(out, text), "12345678901234567890123456789012345678901234567890123456...");
}

/* ---- categories ------------------------------------------------------------------------------------------------- */

/* U+1171E has moved from Mn to Mc since Unicode 14, and Cn shrinks with each version: PCRE2's age shows there and
 * nowhere else. */
static bool is_excused(uint32_t code, const char *name) {
    return code == 0x1171e && (strcmp(name, "Mn") == 0 || strcmp(name, "Mc") == 0);
}

static void test_categories(void **state) {
    static const char *const names[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc",
                                        "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl",
                                        "Zp", "Cc", "Cf", "Co", "L",  "M",  "N",  "P",  "S",  "Z"};
    flrq_bytes text = {0};
    flrq_matcher *matcher;
    (void)state;
    for (uint32_t c = 0; c < CODES; c++)
        if (c < 0xd800 || c >= 0xe000) assert_ok(flrq_utf8_append(&text, c));
    assert_ok(flrq_matcher_new(&matcher));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char pattern[16];
        flrq_regex *regex;
        bool found;
        size_t length, at = 0;
        uint32_t c;
        snprintf(pattern, sizeof pattern, "\\p{%s}", names[i]);
        assert_ok(flrq_regex_compile(&regex, "test", FLRQ_REGEX_RUBY, pattern, strlen(pattern)));
        flrq_search search = {.regex = regex, .text = text.data, .bytes = text.count};
        do {
            assert_ok(flrq_search_next(&search, matcher, &found));
            for (; at < (found ? search.begin : text.count); at += length)
                if (c = flrq_utf8_get(text.data + at, &length),
                    strncmp(category[c], names[i], strlen(names[i])) == 0 && !is_excused(c, names[i]))
                    fail_msg("U+%04X is %s, not found by %s", c, category[c], pattern);
            if (!found) break;
            c = flrq_utf8_get(text.data + at, &length);
            if (strncmp(category[c], names[i], strlen(names[i])) != 0 && !is_excused(c, names[i]))
                fail_msg("U+%04X is %s, found by %s", c, category[c], pattern);
            at = search.end;
        } while (found);
        flrq_regex_free(regex);
    }
    flrq_matcher_free(matcher);
    free(text.data);
}

static void test_classes(void **state) {
    const json_t *row;
    size_t i;
    bool *space = calloc(CODES, 1);
    (void)state;
    assert_non_null(space);
    json_array_foreach(json_object_get(data, "space"), i, row) for (uint32_t c = number(row, 0); c <= number(row, 1);
                                                                    c++) space[c] = true;
    for (uint32_t c = 0; c < CODES; c++) {
        if (c >= 0xd800 && c < 0xe000) continue;
        if (flrq_is_space(c) != space[c]) fail_msg("U+%04X: space", c);
        bool word = strchr("LM", category[c][0]) || strcmp(category[c], "Nd") == 0 || strcmp(category[c], "Nl") == 0 ||
                    strcmp(category[c], "Pc") == 0;
        /* Symbols that are letters, and the joiners, count on top. */
        if (word ? !flrq_is_word(c) : flrq_is_word(c) && category[c][0] != 'S' && c != 0x200c && c != 0x200d)
            fail_msg("U+%04X (%s): word", c, category[c]);
        /* The normalizer is older than the patterns: what it takes for a mark is one, or has been one. */
        if (flrq_is_mark(c) && category[c][0] != 'M' && c != 0x1cf2 && c != 0x1cf3) fail_msg("U+%04X: mark", c);
        if (class[c] && !flrq_is_mark(c)) fail_msg("U+%04X: class without mark", c);
    }
    free(space);
}

/* ---- NFC and NFD ------------------------------------------------------------------------------------------------ */

static size_t decompose_one(uint32_t c, uint32_t *out) {
    if (c >= 0xac00 && c < 0xac00 + 11172) {
        uint32_t s = c - 0xac00;
        out[0] = 0x1100 + s / 588, out[1] = 0x1161 + s % 588 / 28, out[2] = 0x11a7 + s % 28;
        return s % 28 ? 3 : 2;
    }
    if (!decompose[c]) {
        *out = c;
        return 1;
    }
    for (size_t i = 0; i < json_array_size(decompose[c]); i++) out[i] = number(decompose[c], i);
    return json_array_size(decompose[c]);
}

static uint32_t compose_pair(uint32_t a, uint32_t b) {
    const json_t *row;
    size_t i;
    if (a >= 0x1100 && a < 0x1113 && b >= 0x1161 && b < 0x1176) return 0xac00 + (a - 0x1100) * 588 + (b - 0x1161) * 28;
    if (a >= 0xac00 && a < 0xac00 + 11172 && (a - 0xac00) % 28 == 0 && b > 0x11a7 && b < 0x11c3) return a + b - 0x11a7;
    json_array_foreach(json_object_get(data, "compose"), i,
                       row) if (number(row, 0) == a && number(row, 1) == b) return number(row, 2);
    return 0;
}

/* The canonical forms by the book, from the tables. */
static size_t plain_form(const uint32_t *codes, size_t count, bool compose, uint32_t *out) {
    size_t n = 0;
    for (size_t i = 0; i < count; i++) n += decompose_one(codes[i], out + n);
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k > 0 && class[out[k]] && class[out[k - 1]] > class[out[k]]; k--) {
            uint32_t swap = out[k];
            out[k] = out[k - 1], out[k - 1] = swap;
        }
    if (!compose) return n;
    size_t kept = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        int last = kept > 0 && kept - 1 != starter ? class[out[kept - 1]] : -1;
        uint32_t joined = 0;
        if (starter != SIZE_MAX && (last < 0 || (last < class[out[i]] && last != 0)))
            joined = compose_pair(out[starter], out[i]);
        if (joined) {
            out[starter] = joined;
            continue;
        }
        if (class[out[i]] == 0) starter = kept;
        out[kept++] = out[i];
    }
    return kept;
}

static void check_form(const uint32_t *codes, size_t count, flrq_matcher *matcher, flrq_bytes work[2]) {
    for (int compose = 0; compose < 2; compose++) {
        flrq_normalizer form = {.kind = FLRQ_NORMALIZE_FORM, .compose = compose};
        flrq_bytes text = {0}, wanted = {0};
        uint32_t result[512];
        const char *got;
        size_t got_bytes, lead = 0, n = plain_form(codes, count, compose, result);
        for (size_t i = 0; i < count; i++) assert_ok(flrq_utf8_append(&text, codes[i]));
        for (size_t i = 0; i < n; i++) assert_ok(flrq_utf8_append(&wanted, result[i]));
        assert_ok(flrq_normalize(&form, 1, matcher, work, text.data, text.count, &lead, &got, &got_bytes));
        if (got_bytes != wanted.count || memcmp(got, wanted.data, got_bytes) != 0) {
            for (size_t i = 0; i < count; i++) print_error("U+%04X ", codes[i]);
            fail_msg("%s differs", compose ? "NFC" : "NFD");
        }
        free(text.data);
        free(wanted.data);
    }
}

static void test_forms_of_characters(void **state) {
    flrq_matcher *matcher;
    flrq_bytes work[2] = {{0}};
    (void)state;
    assert_ok(flrq_matcher_new(&matcher));
    for (uint32_t c = 0; c < CODES; c++) {
        if (c >= 0xd800 && c < 0xe000) continue;
        if (c > 0x30000 && c % 97) continue; /* nothing there composes */
        check_form(&c, 1, matcher, work);
    }
    flrq_matcher_free(matcher);
    free(work[0].data);
    free(work[1].data);
}

/* Random strings of what composes, decomposes and reorders, with characters that this normalizer does not know among
 * them. */
static void test_forms_of_strings(void **state) {
    static const uint32_t more[] = {'a',     'e',     ' ',     0x1100,  0x1161,  0x11a8,  0xac00,
                                    0xac01,  0x898,   0x7fd,   0x11935, 0x11930, 0x105d2, 0x113c2,
                                    0x16d63, 0x16d67, 0x1e030, 0x4f60,  0x1f600};
    const json_t *pairs = json_object_get(data, "compose"), *singles = json_object_get(data, "decompose");
    uint64_t key = flrq_philox_key(3, "forms"), draws = 0;
    uint32_t marks[2048];
    size_t n_marks = 0;
    flrq_matcher *matcher;
    flrq_bytes work[2] = {{0}};
    (void)state;
    for (uint32_t c = 0; c < CODES && n_marks < 2048; c++)
        if (class[c]) marks[n_marks++] = c;
    assert_ok(flrq_matcher_new(&matcher));
    for (int trial = 0; trial < 10000; trial++) {
        uint32_t codes[12];
        size_t count = 1 + flrq_philox_below(key, 0, draws++, 12);
        for (size_t i = 0; i < count; i++) {
            uint64_t kind = flrq_philox_below(key, 0, draws++, 5), pick = flrq_philox_below(key, 0, draws++, 1 << 30);
            if (kind == 0)
                codes[i] = marks[pick % n_marks];
            else if (kind == 1)
                codes[i] = number(json_array_get(singles, pick % json_array_size(singles)), 0);
            else if (kind == 2)
                codes[i] = more[pick % (sizeof more / sizeof *more)];
            else
                codes[i] = number(json_array_get(pairs, pick % json_array_size(pairs)), kind == 3 ? 0 : 1);
        }
        check_form(codes, count, matcher, work);
    }
    flrq_matcher_free(matcher);
    free(work[0].data);
    free(work[1].data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_round_trip),
        cmocka_unit_test(test_utf8_check),
        cmocka_unit_test(test_byte_map),
        cmocka_unit_test(test_quote),
        cmocka_unit_test(test_categories),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_forms_of_characters),
        cmocka_unit_test(test_forms_of_strings),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
