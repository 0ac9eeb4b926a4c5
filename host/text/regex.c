/* regex.c - compiling and running patterns; the translation from Oniguruma's syntax is in regex_ruby.c.
 *
 * Texts reach this file checked (UTF-8), so that matching skips PCRE2's own check, which would be quadratic over a
 * search. The limits keep a hostile pattern from taking the machine: exceeding one is an error, never a missed match.
 */
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include "text/regex_ruby.h"
#include "text/unicode.h"

enum {
    PATTERN_BYTES_MAX = 1 << 16,
    MATCH_LIMIT = 10 * 1000 * 1000, /* steps of one match beyond those that its text's length explains */
    HEAP_LIMIT_KIB = 64 << 10,
    JIT_STACK_START = 32 << 10,
    JIT_STACK_MAX = 16 << 20
};

struct flrq_regex {
    pcre2_code *code;
    char *where;
};

struct flrq_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

flrq_status flrq_regex_compile(flrq_regex **out, const char *where, flrq_regex_syntax syntax, const char *pattern,
                               size_t bytes) {
    flrq_status status = FLRQ_OK;
    flrq_bytes text = {0};
    pcre2_compile_context *context = NULL;
    flrq_regex *regex = NULL;
    *out = NULL;
    if (bytes > PATTERN_BYTES_MAX)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: pattern of %zu bytes, at most %d are supported", where, bytes,
                         PATTERN_BYTES_MAX);
    uint32_t options = PCRE2_UTF;
    if (syntax == FLRQ_REGEX_RUBY)
        FLRQ_GOTO(flrq_regex_translate(&text, where, pattern, bytes));
    else
        FLRQ_GOTO(flrq_bytes_append(&text, pattern, bytes));
    /* Ruby's ^ and $ always match at lines, and its only line end is \n. */
    if (syntax == FLRQ_REGEX_LITERAL)
        options |= PCRE2_LITERAL;
    else
        options |= PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    context = pcre2_compile_context_create(NULL);
    regex = calloc(1, sizeof *regex);
    if (!context || !regex || !(regex->where = strdup(where))) {
        status = flrq_fail_memory(sizeof *regex, where);
        goto out;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error;
    PCRE2_SIZE offset;
    regex->code =
        pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.count, options, &error, &offset, context);
    if (!regex->code) {
        char message[128], quoted[64];
        if (error == PCRE2_ERROR_HEAP_FAILED) FLRQ_GOTO(flrq_fail_memory(text.count, where));
        pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
        size_t near = text.count ? (offset < text.count ? offset : text.count - 1) : 0;
        while (near > 0 && ((unsigned char)text.data[near] & 0xc0) == 0x80) near--;
        FLRQ_GOTO(flrq_bytes_append(&text, "", 1));
        status = flrq_fail(FLRQ_ERR_FORMAT, "%s: regular expression: %s at offset %zu of the pattern (\"%s\")", where,
                           message, (size_t)offset, flrq_text_quote(quoted, text.data + near));
        goto out;
    }
    pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE); /* a machine without JIT interprets: same matches, slower */
    *out = regex;
    regex = NULL;
out:
    flrq_regex_free(regex);
    pcre2_compile_context_free(context);
    free(text.data);
    return status;
}

void flrq_regex_free(flrq_regex *regex) {
    if (!regex) return;
    pcre2_code_free(regex->code);
    free(regex->where);
    free(regex);
}

flrq_status flrq_matcher_new(flrq_matcher **out) {
    *out = NULL;
    flrq_matcher *matcher = calloc(1, sizeof *matcher);
    if (!matcher) return flrq_fail_memory(sizeof *matcher, "regular expressions");
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    if (!matcher->data || !matcher->context) {
        flrq_matcher_free(matcher);
        return flrq_fail_memory(JIT_STACK_START, "regular expressions");
    }
    pcre2_set_heap_limit(matcher->context, HEAP_LIMIT_KIB);
    /* NULL where PCRE2 has no JIT: then the stack is not used either. */
    matcher->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (matcher->stack) pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    *out = matcher;
    return FLRQ_OK;
}

void flrq_matcher_free(flrq_matcher *matcher) {
    if (!matcher) return;
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    free(matcher);
}

flrq_status flrq_search_next(flrq_search *search, flrq_matcher *matcher, bool *found) {
    size_t steps = search->bytes < UINT32_MAX / 4 ? MATCH_LIMIT + 2 * search->bytes : UINT32_MAX;
    *found = false;
    pcre2_set_match_limit(matcher->context, (uint32_t)steps);
    pcre2_set_depth_limit(matcher->context, (uint32_t)steps);
    while (search->from <= search->bytes) {
        int rc = pcre2_match(search->regex->code, (PCRE2_SPTR)search->text, search->bytes, search->from,
                             PCRE2_NO_UTF_CHECK, matcher->data, matcher->context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            char message[128];
            if (rc == PCRE2_ERROR_NOMEMORY) return flrq_fail_memory(search->bytes, search->regex->where);
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
            return flrq_fail(FLRQ_ERR_FORMAT, "%s: regular expression: %s, %zu bytes into a text of %zu bytes",
                             search->regex->where, message, search->from, search->bytes);
        }
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(matcher->data);
        if (ends[0] == ends[1] && search->matched && ends[1] == search->last_end) {
            if (search->from == search->bytes) break;
            search->from += flrq_utf8_length(search->text[search->from]);
            continue;
        }
        search->begin = ends[0];
        search->end = search->from = search->last_end = ends[1];
        search->matched = *found = true;
        return FLRQ_OK;
    }
    search->from = search->bytes + 1; /* the next call need not search again */
    return FLRQ_OK;
}
