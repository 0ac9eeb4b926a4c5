/* regex_ruby.c - rewrites Oniguruma's Ruby syntax for PCRE2.
 *
 * Most of a pattern means the same in both and is copied. Rewritten: \s \w \h \v and their complements (PCRE2's \s has
 * U+180E, its \w lacks marks, its \h and \v are something else; Oniguruma's \w has the fractions and superscripts of
 * Latin-1, but not in brackets), \b (built on \w), \p{...} (long names; a script in PCRE2 would include its
 * extensions), POSIX brackets, sets within sets, \uHHHH, (?m), {,n}, and {n,m}+ (a repeated repeat, not a possessive
 * one). Refused, because PCRE2 would read it differently: set intersection &&, negated sets within sets, options in the
 * middle, (*...), \G \K \X \y and unknown letters.
 */
#include "text/regex_ruby.h"

#include <ctype.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "text/unicode.h"
#include "text/unicode_later.h"

enum { DEPTH_MAX = 64 };

#define SET_SPACE                                                                                                      \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SET_WORD        "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define SET_WORD_LATIN1 "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" /* word characters outside of brackets only */
#define SET_HEX         "0-9A-Fa-f"

/* With the marks that have become alphabetic since Unicode 14. */
#define SET_ALPHABETIC                                                                                                 \
    "\\p{Alphabetic}"                                                                                                  \
    "\\x{363}-\\x{36f}\\x{897}\\x{c04}\\x{cf3}\\x{f82}-\\x{f83}\\x{1dd3}-\\x{1de6}\\x{10d69}"                          \
    "\\x{10efc}\\x{11080}-\\x{11081}\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}"                               \
    "\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113cd}\\x{11f00}-\\x{11f01}\\x{11f03}\\x{11f34}-\\x{11f3a}"                   \
    "\\x{11f3e}-\\x{11f40}\\x{1611e}-\\x{1612e}\\x{1e08f}"

#define SET_LOWERCASE "\\p{Lowercase}\\x{10fc}\\x{a7f2}-\\x{a7f4}\\x{ab69}\\x{1e030}-\\x{1e06d}"

/* Names for \p{...} and [[:...:]] whose contents PCRE2 does not know under that name, as the inside of a bracket. */
static const struct {
    const char *name, *set;
} named_sets[] = {
    {"Letter", "\\p{L}"},
    {"Mark", "\\p{M}"},
    {"Number", "\\p{N}"},
    {"Punctuation", "\\p{P}"},
    {"Symbol", "\\p{S}"},
    {"Separator", "\\p{Z}"},
    {"Other", "\\p{C}"},
    {"UppercaseLetter", "\\p{Lu}"},
    {"LowercaseLetter", "\\p{Ll}"},
    {"TitlecaseLetter", "\\p{Lt}"},
    {"ModifierLetter", "\\p{Lm}"},
    {"OtherLetter", "\\p{Lo}"},
    {"DecimalNumber", "\\p{Nd}"},
    {"LetterNumber", "\\p{Nl}"},
    {"OtherNumber", "\\p{No}"},
    {"Alpha", SET_ALPHABETIC},
    {"Alphabetic", SET_ALPHABETIC},
    {"Digit", "\\p{Nd}"},
    {"Alnum", SET_ALPHABETIC "\\p{Nd}"},
    {"Upper", "\\p{Uppercase}"},
    {"Lower", SET_LOWERCASE},
    {"Lowercase", SET_LOWERCASE},
    {"Cntrl", "\\p{Cc}"},
    {"Blank", "\\p{Zs}\\x{09}"},
    {"Space", SET_SPACE},
    {"Word", SET_WORD},
    {"XDigit", SET_HEX},
    {"Han", "\\p{sc:Han}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"},
    {"Punct", "\\p{P}"}, /* as a POSIX bracket: with symbols */
};

typedef struct translation {
    const char *where;
    const char *pattern, *at, *end;
    flrq_bytes *out;
    size_t atom;   /* where in *out the thing starts that a quantifier would repeat; NO_ATOM: none */
    bool caseless; /* within (?i */
    char letter;   /* the letter just copied, if caseless: two of them may fold to one character */
    struct {
        size_t start;
        bool caseless;   /* as it was before */
    } groups[DEPTH_MAX]; /* the open groups */
    int depth;
} translation;

static const size_t NO_ATOM = SIZE_MAX;

static flrq_status refuse(const translation *t, const char *at, const char *what) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: regular expression: %s at offset %zu is not supported", t->where, what,
                     (size_t)(at - t->pattern));
}

static flrq_status put(translation *t, const char *text) {
    return flrq_bytes_append(t->out, text, strlen(text));
}

static bool is_one_of(char c, const char *set) {
    return c && strchr(set, c);
}

static bool next_is(const translation *t, const char *text) {
    size_t length = strlen(text);
    return (size_t)(t->end - t->at) >= length && memcmp(t->at, text, length) == 0;
}

/* The members of a set: those PCRE2 knows and, for categories, those its tables may be too old for. */
static flrq_status put_members(translation *t, const char *set) {
    static const char *const wider[][2] = {{"Alphabetic", "L"}, {"Uppercase", "Lu"}, {"Lowercase", "Ll"}};
    FLRQ_TRY(put(t, set));
    for (const char *at = strstr(set, "\\p{"); at; at = strstr(at + 1, "\\p{")) {
        const char *category = at + 3;
        size_t letters = strcspn(category, "}");
        uint32_t first, last;
        char text[32];
        for (size_t i = 0; i < sizeof wider / sizeof *wider; i++)
            if (letters == strlen(wider[i][0]) && memcmp(category, wider[i][0], letters) == 0) {
                category = wider[i][1];
                letters = strlen(category);
            }
        if (letters > 2) continue;
        for (int next = 0; flrq_later_range(category, letters, &next, &first, &last);) {
            snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", (unsigned)first, (unsigned)last);
            FLRQ_TRY(put(t, text));
        }
    }
    return FLRQ_OK;
}

/* A set outside of a bracket becomes a bracket. Inside it is spliced in; its complement only where PCRE2 has one. */
static flrq_status put_set(translation *t, const char *at, const char *set, bool negated, bool inside) {
    if (!inside) {
        FLRQ_TRY(put(t, negated ? "[^" : "["));
        FLRQ_TRY(put_members(t, set));
        if (strcmp(set, SET_WORD) == 0) FLRQ_TRY(put(t, SET_WORD_LATIN1));
        return put(t, "]");
    }
    if (!negated) return put_members(t, set);
    if (strcmp(set, SET_SPACE) == 0) return put(t, "\\S\\x{180e}");
    if (strncmp(set, "\\p{", 3) == 0 && !strchr(set + 1, '\\')) { /* one property: \p becomes \P */
        FLRQ_TRY(put(t, "\\P"));
        return put(t, set + 2);
    }
    return refuse(t, at, "the complement of a compound set within brackets");
}

/* \b or \B. */
static flrq_status put_boundary(translation *t, bool negated) {
    static const char *const around[2][4] = {{"(?:(?<=", ")(?!", ")|(?<!", ")(?="},
                                             {"(?:(?<=", ")(?=", ")|(?<!", ")(?!"}};
    for (int i = 0; i < 4; i++) {
        FLRQ_TRY(put(t, around[negated][i]));
        FLRQ_TRY(put_set(t, t->at, SET_WORD, false, false));
    }
    return put(t, "))");
}

/* Compares names as Unicode does: without case, spaces, hyphens and underscores. */
static bool same_name(const char *name, size_t bytes, const char *known) {
    for (size_t i = 0; i < bytes; i++) {
        if (name[i] == ' ' || name[i] == '-' || name[i] == '_') continue;
        if (!*known || tolower((unsigned char)name[i]) != tolower((unsigned char)*known)) return false;
        known++;
    }
    return !*known;
}

static const char *find_set(const char *name, size_t bytes) {
    for (size_t i = 0; i < sizeof named_sets / sizeof *named_sets; i++)
        if (same_name(name, bytes, named_sets[i].name)) return named_sets[i].set;
    return NULL;
}

/* Whether PCRE2 knows \p{sc:name}; a name has at most 40 letters. */
static flrq_status find_script(const char *name, size_t bytes, bool *known) {
    char pattern[64];
    int error;
    PCRE2_SIZE offset;
    int length = snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", (int)bytes, name);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, (PCRE2_SIZE)length, PCRE2_UTF, &error, &offset, NULL);
    *known = code != NULL;
    if (!code && error == PCRE2_ERROR_HEAP_FAILED) return flrq_fail_memory(sizeof pattern, "regular expressions");
    pcre2_code_free(code);
    return FLRQ_OK;
}

/* \p{...} or \P{...}; t->at is behind the letter. */
static flrq_status put_property(translation *t, const char *at, bool negated, bool inside) {
    if (t->at == t->end || *t->at != '{') return refuse(t, at, "\\p without braces");
    const char *name = t->at + 1, *close = memchr(name, '}', (size_t)(t->end - name));
    if (!close) return refuse(t, at, "\\p without a closing brace");
    if (name < close && *name == '^') name++, negated = !negated;
    size_t bytes = (size_t)(close - name);
    char set[64];
    for (size_t i = 0; i < bytes; i++)
        if (!isalnum((unsigned char)name[i]) && !is_one_of(name[i], " -_")) return refuse(t, at, "this property name");
    if (bytes == 0 || bytes > 40) return refuse(t, at, "a property name of this length");
    static const char *const cased[] = {"Lu", "Ll", "Lt", "Upper", "Lower", "Uppercase", "Lowercase"};
    for (size_t i = 0; i < sizeof cased / sizeof *cased; i++)
        if (t->caseless && same_name(name, bytes, cased[i])) return refuse(t, at, "a case without regard to case");
    const char *known = find_set(name, bytes);
    if (!known) {
        bool script = false;
        if (bytes > 2) FLRQ_TRY(find_script(name, bytes, &script));
        snprintf(set, sizeof set, "\\p{%s%.*s}", script ? "sc:" : "", (int)bytes, name);
        if (bytes <= 2) { /* a category: "lu" is Lu, as later categories are named */
            set[3] = (char)toupper((unsigned char)set[3]);
            if (bytes == 2) set[4] = (char)tolower((unsigned char)set[4]);
        }
        known = set;
    }
    t->at = close + 1;
    return put_set(t, at, known, negated, inside);
}

/* Reads up to `most` digits of a base; returns how many there were. */
static int read_digits(translation *t, int base, int most, uint32_t *value) {
    int count = 0;
    for (*value = 0; count < most && t->at < t->end; count++, t->at++) {
        unsigned char c = (unsigned char)*t->at;
        int digit = isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : 99;
        if (digit >= base) break;
        *value = *value * (uint32_t)base + (uint32_t)digit;
    }
    return count;
}

static flrq_status put_code(translation *t, uint32_t code) {
    char text[16];
    if (t->caseless && code >= 0x80) return refuse(t, t->at, "a character beyond ASCII without regard to case");
    if (t->caseless && isalpha((int)code)) return refuse(t, t->at, "a letter's code without regard to case");
    snprintf(text, sizeof text, "\\x{%x}", (unsigned)code);
    return put(t, text);
}

/* Copies the character at t->at. Without regard to case Oniguruma also folds letters together (ss matches sharp s, fi
 * the ligature), which PCRE2 does not. */
static flrq_status put_char(translation *t) {
    static const char *const folding[] = {"ss", "ff", "fi", "fl", "st"};
    const char *at = t->at;
    t->at += flrq_utf8_length(*at);
    if (t->caseless) {
        char pair[3] = {t->letter, (char)tolower((unsigned char)*at), 0};
        if ((unsigned char)*at >= 0x80) return refuse(t, at, "a character beyond ASCII without regard to case");
        for (size_t i = 0; i < sizeof folding / sizeof *folding; i++)
            if (strcmp(pair, folding[i]) == 0) return refuse(t, at, "a ligature's letters without regard to case");
        t->letter = pair[1];
    }
    return flrq_bytes_append(t->out, at, (size_t)(t->at - at));
}

/* \xHH, \x{H...}, \uHHHH, \0oo; t->at is behind the letter. Bytes from 0x80 would be parts of characters: refused. */
static flrq_status put_numeric(translation *t, const char *at, char letter) {
    uint32_t code = 0;
    if (letter == '0') {
        read_digits(t, 8, 2, &code);
    } else if (letter == 'u') {
        if (read_digits(t, 16, 4, &code) != 4) return refuse(t, at, "\\u without four digits");
    } else if (t->at < t->end && *t->at == '{') {
        t->at++;
        if (!read_digits(t, 16, 8, &code) || t->at == t->end || *t->at != '}') return refuse(t, at, "this \\x{...}");
        t->at++;
    } else {
        if (!read_digits(t, 16, 2, &code)) return refuse(t, at, "\\x without digits");
        if (code >= 0x80) return refuse(t, at, "a byte that is not ASCII");
    }
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return refuse(t, at, "this code point");
    return put_code(t, code);
}

/* One escape; t->at is on the backslash. *is_set: it stands for more than one character. */
static flrq_status put_escape(translation *t, bool inside, bool *is_set) {
    const char *at = t->at++;
    *is_set = false;
    if (t->at == t->end) return refuse(t, at, "a backslash at the end");
    char c = *t->at++;
    switch (c) {
    case 'd':
    case 'D':
        *is_set = true;
        return put_set(t, at, "\\p{Nd}", c == 'D', inside);
    case 's':
    case 'S':
        *is_set = true;
        return put_set(t, at, SET_SPACE, c == 'S', inside);
    case 'w':
    case 'W':
        *is_set = true;
        return put_set(t, at, SET_WORD, c == 'W', inside);
    case 'h':
    case 'H':
        *is_set = true;
        return put_set(t, at, SET_HEX, c == 'H', inside);
    case 'p':
    case 'P':
        *is_set = true;
        return put_property(t, at, c == 'P', inside);
    case 'v':
        return put_code(t, '\v');
    case 't':
        return put_code(t, '\t');
    case 'n':
        return put_code(t, '\n');
    case 'r':
        return put_code(t, '\r');
    case 'f':
        return put_code(t, '\f');
    case 'a':
        return put_code(t, '\a');
    case 'e':
        return put_code(t, 0x1b);
    case 'x':
    case 'u':
    case '0':
        return put_numeric(t, at, c);
    default:
        break;
    }
    if (inside) {
        if (c == 'b') return put_code(t, '\b');
    } else {
        switch (c) {
        case 'A':
        case 'z':
        case 'Z':
        case 'R':
        case 'N':
            return flrq_bytes_append(t->out, at, 2);
        case 'b':
        case 'B':
            return put_boundary(t, c == 'B');
        default:
            break;
        }
        if (c >= '1' && c <= '9') {
            if (t->at < t->end && isdigit((unsigned char)*t->at)) return refuse(t, at, "a back reference above 9");
            return flrq_bytes_append(t->out, at, 2);
        }
    }
    if (isalnum((unsigned char)c)) return refuse(t, at, "this escape");
    if ((unsigned char)c < 0x80) return flrq_bytes_append(t->out, at, 2);
    t->at += flrq_utf8_length(c) - 1;
    return flrq_bytes_append(t->out, at + 1, (size_t)(t->at - at - 1));
}

/* The inside of a bracket up to and with its ']'; t->at is behind "[" or "[^". Sets within are spliced in. */
static flrq_status put_bracket(translation *t, int depth) {
    const char *open = t->at;
    bool after_set = false; /* a hyphen behind a set is a hyphen, whatever follows */
    if (depth > 8) return refuse(t, open, "brackets nested this deep");
    while (t->at < t->end) {
        const char *at = t->at;
        bool is_set = false;
        if (*at == ']' && at > open) {
            t->at++;
            return FLRQ_OK;
        }
        if (next_is(t, "&&")) return refuse(t, at, "set intersection &&");
        if (*at == '\\') {
            FLRQ_TRY(put_escape(t, true, &is_set));
        } else if (next_is(t, "[:")) {
            const char *name = at + 2, *close = name;
            while (close < t->end && isalpha((unsigned char)*close)) close++;
            const char *set = find_set(name, (size_t)(close - name));
            if (!set || t->end - close < 2 || memcmp(close, ":]", 2) != 0) return refuse(t, at, "this POSIX bracket");
            FLRQ_TRY(put_members(t, set));
            if (same_name(name, (size_t)(close - name), "Punct")) FLRQ_TRY(put_members(t, "\\p{S}"));
            t->at = close + 2;
            is_set = true;
        } else if (*at == '[') {
            if (next_is(t, "[^")) return refuse(t, at, "a negated set within brackets");
            t->at++;
            FLRQ_TRY(put_bracket(t, depth + 1));
            is_set = true;
        } else if (*at == '-') {
            t->at++;
            bool before_set =
                t->at < t->end && (*t->at == '[' || *t->at == ']' ||
                                   (*t->at == '\\' && t->at + 1 < t->end && is_one_of(t->at[1], "dDsSwWhHpP")));
            FLRQ_TRY(put(t, after_set || before_set || at == open ? "\\-" : "-"));
        } else {
            t->letter = 0;
            if (*at == ']' || *at == '^') FLRQ_TRY(put(t, "\\"));
            FLRQ_TRY(put_char(t));
        }
        after_set = is_set;
    }
    return refuse(t, open, "a bracket without end");
}

/* "(" and what belongs to it; t->at is on it. */
static flrq_status put_group(translation *t) {
    const char *at = t->at;
    static const char *const same[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"};
    if (t->depth == DEPTH_MAX) return refuse(t, at, "groups nested this deep");
    if (next_is(t, "(*")) return refuse(t, at, "(*");
    if (next_is(t, "(?#")) {
        const char *close = memchr(at, ')', (size_t)(t->end - at));
        if (!close) return refuse(t, at, "a comment without end");
        t->at = close + 1;
        return FLRQ_OK;
    }
    t->groups[t->depth].start = t->out->count;
    t->groups[t->depth++].caseless = t->caseless;
    t->atom = NO_ATOM;
    if (!next_is(t, "(?")) {
        t->at++;
        return put(t, "(");
    }
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (next_is(t, same[i])) {
            t->at += strlen(same[i]);
            return put(t, same[i]);
        }
    if (next_is(t, "(?<")) {
        const char *close = at + 3;
        while (close < t->end && (isalnum((unsigned char)*close) || *close == '_')) close++;
        if (close == at + 3 || close == t->end || *close != '>') return refuse(t, at, "this group");
        t->at = close + 1;
        return flrq_bytes_append(t->out, at, (size_t)(t->at - at));
    }
    /* Options. (?i) alone covers the rest of the group with its alternatives in Ruby: the same only at the very start.
     */
    FLRQ_TRY(put(t, "(?"));
    bool on = true;
    for (t->at += 2; t->at < t->end; t->at++) {
        char c = *t->at;
        if (c == 'i' || c == '-') {
            FLRQ_TRY(flrq_bytes_append(t->out, &c, 1));
            if (c == '-')
                on = false;
            else
                t->caseless = on;
        } else if (c == 'm') {
            FLRQ_TRY(put(t, "s")); /* Ruby's m: the dot matches newlines */
        } else if (c == ':') {
            t->at++;
            return put(t, ":");
        } else if (c == ')' && at == t->pattern) {
            t->depth--;
            t->at++;
            return put(t, ")");
        } else {
            break;
        }
    }
    return refuse(t, at, "this group or option");
}

/* Makes the last atom and its quantifier one group, so that another quantifier repeats both. */
static flrq_status wrap_atom(translation *t) {
    static const char open[] = "(?:";
    FLRQ_TRY(flrq_bytes_reserve(t->out, 4));
    char *atom = t->out->data + t->atom;
    memmove(atom + 3, atom, t->out->count - t->atom);
    memcpy(atom, open, 3);
    t->out->count += 3;
    return put(t, ")");
}

/* {n} {n,} {,m} {n,m} behind an atom; t->at is on the brace. *done false: not an interval, the brace is itself. */
static flrq_status put_interval(translation *t, bool *done) {
    const char *at = t->at++;
    uint32_t low = 0, high = 0;
    int low_digits = read_digits(t, 10, 5, &low), high_digits = 0;
    bool comma = t->at < t->end && *t->at == ',';
    if (comma) t->at++, high_digits = read_digits(t, 10, 5, &high);
    *done = t->atom != NO_ATOM && t->at < t->end && *t->at == '}' && (low_digits || high_digits);
    if (!*done) {
        t->at = at + 1;
        return put(t, "\\{");
    }
    t->at++;
    char text[32];
    if (!comma)
        snprintf(text, sizeof text, "{%u}", (unsigned)low);
    else if (!high_digits)
        snprintf(text, sizeof text, "{%u,}", (unsigned)low);
    else
        snprintf(text, sizeof text, "{%u,%u}", (unsigned)low, (unsigned)high);
    FLRQ_TRY(put(t, text));
    if (t->at < t->end && *t->at == '?' && comma) {
        t->at++;
        return put(t, "?");
    }
    /* Not possessive and, for {n}?, not lazy in Ruby: a quantifier of its own. */
    if (t->at < t->end && is_one_of(*t->at, "*+?")) FLRQ_TRY(wrap_atom(t));
    return FLRQ_OK;
}

flrq_status flrq_regex_translate(flrq_bytes *out, const char *where, const char *pattern, size_t bytes) {
    translation t = {
        .where = where, .pattern = pattern, .at = pattern, .end = pattern + bytes, .out = out, .atom = NO_ATOM};
    while (t.at < t.end) {
        const char *at = t.at;
        size_t start = out->count;
        bool flag;
        switch (*at) {
        case '\\':
            FLRQ_TRY(put_escape(&t, false, &flag));
            t.atom = start;
            break;
        case '[':
            t.at++;
            FLRQ_TRY(put(&t, "["));
            if (next_is(&t, "^")) {
                t.at++;
                FLRQ_TRY(put(&t, "^"));
            }
            FLRQ_TRY(put_bracket(&t, 0));
            FLRQ_TRY(put(&t, "]"));
            t.atom = start;
            break;
        case '(':
            FLRQ_TRY(put_group(&t));
            break;
        case ')':
            if (t.depth == 0) return refuse(&t, at, "a closing parenthesis too many");
            t.atom = t.groups[--t.depth].start;
            t.caseless = t.groups[t.depth].caseless;
            t.at++;
            FLRQ_TRY(put(&t, ")"));
            break;
        case '{':
            FLRQ_TRY(put_interval(&t, &flag));
            if (!flag) t.atom = start;
            break;
        case '*':
        case '+':
        case '?':
            if (t.atom == NO_ATOM) return refuse(&t, at, "a quantifier with nothing to repeat");
            t.at++;
            FLRQ_TRY(flrq_bytes_append(out, at, 1));
            if (t.at < t.end && (*t.at == '?' || *t.at == '+')) FLRQ_TRY(flrq_bytes_append(out, t.at++, 1));
            if (t.at < t.end && is_one_of(*t.at, "*+?")) FLRQ_TRY(wrap_atom(&t));
            break;
        case '|':
        case '^':
        case '$':
            t.at++;
            FLRQ_TRY(flrq_bytes_append(out, at, 1));
            t.atom = NO_ATOM;
            break;
        default:
            FLRQ_TRY(put_char(&t));
            t.atom = start;
            continue;
            break;
        }
        t.letter = 0;
    }
    if (t.depth) return refuse(&t, t.end, "a group without end");
    return FLRQ_OK;
}
