/* regex.h - the regular expressions of tokenizer files, run by PCRE2 with the meaning that Oniguruma gives them.
 *
 * The reference compiles patterns with Oniguruma (Ruby syntax, UTF-8). The translation covers what tokenizers use; a
 * construct that would mean something else in PCRE2 and is not translated is refused by name. Patterns are compiled
 * with JIT where the machine has it.
 */
#ifndef FLRQ_TEXT_REGEX_H
#define FLRQ_TEXT_REGEX_H

#include <stdbool.h>
#include "text/buffer.h"

typedef enum flrq_regex_syntax {
    FLRQ_REGEX_RUBY,   /* as in tokenizer.json: translated */
    FLRQ_REGEX_LITERAL /* the pattern is the text to find */
} flrq_regex_syntax;

typedef struct flrq_regex flrq_regex;

/** Compiles bytes of well-formed UTF-8. `where` names file and component in messages. */
flrq_status flrq_regex_compile(flrq_regex **out, const char *where, flrq_regex_syntax syntax, const char *pattern,
                               size_t bytes);
void flrq_regex_free(flrq_regex *regex); /* NULL is fine */

/** What one thread needs to match: any regex, any text, one search at a time (matches are copied out, so searches may
 * interleave). */
typedef struct flrq_matcher flrq_matcher;
flrq_status flrq_matcher_new(flrq_matcher **out);
void flrq_matcher_free(flrq_matcher *matcher);

/** All matches of a regex in a text, left to right, not overlapping; an empty match right behind a match does not
 * count. Fill the first three members, zero the rest. */
typedef struct flrq_search {
    const flrq_regex *regex;
    const char *text; /* well-formed UTF-8 */
    size_t bytes;
    size_t from;     /* where the next attempt starts */
    size_t last_end; /* end of the last match */
    bool matched;    /* there has been a match */
    size_t begin, end;
} flrq_search;

/** Next match into begin and end; *found false behind the last. PCRE2's limits exceeded: FLRQ_ERR_FORMAT. */
flrq_status flrq_search_next(flrq_search *search, flrq_matcher *matcher, bool *found);

#endif
