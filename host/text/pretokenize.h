/* pretokenize.h - cutting a text into the words that the model merges.
 *
 * Every pre-tokenizer of the reference is one or more of three stages: put something before a text, cut at the matches
 * of a pattern, write bytes as printable characters. A word goes through all stages before the next one is cut off, so
 * a text of any length needs only a buffer per stage.
 */
#ifndef FLRQ_TEXT_PRETOKENIZE_H
#define FLRQ_TEXT_PRETOKENIZE_H

#include "text/bpe.h"
#include "text/regex.h"

typedef enum flrq_split_behavior {
    FLRQ_SPLIT_REMOVED,
    FLRQ_SPLIT_ISOLATED,
    FLRQ_SPLIT_MERGED_WITH_PREVIOUS,
    FLRQ_SPLIT_MERGED_WITH_NEXT,
    FLRQ_SPLIT_CONTIGUOUS
} flrq_split_behavior;

typedef enum flrq_prefix_scheme { FLRQ_PREFIX_NEVER, FLRQ_PREFIX_FIRST, FLRQ_PREFIX_ALWAYS } flrq_prefix_scheme;

typedef enum flrq_stage_kind {
    FLRQ_STAGE_PREFIX, /* spaces become `mark`; then `mark` goes before a text that does not start with it */
    FLRQ_STAGE_SPLIT,
    FLRQ_STAGE_BYTE_MAP
} flrq_stage_kind;

typedef struct flrq_stage {
    flrq_stage_kind kind;
    char mark[4]; /* PREFIX: one character */
    size_t mark_bytes;
    flrq_prefix_scheme scheme; /* PREFIX; FIRST: only the text that starts where the document starts */
    flrq_regex *regex;         /* SPLIT */
    bool invert;               /* SPLIT: what lies between matches is the delimiter */
    flrq_split_behavior behavior;
} flrq_stage;

enum { FLRQ_STAGES_MAX = 64 };

/** Frees what a stage owns. */
void flrq_stage_clear(flrq_stage *stage);

/** Receives the words, in order; none is empty. */
typedef flrq_status (*flrq_word_fn)(void *user, flrq_span word);

/** Sends `text` (well-formed UTF-8) through the stages. `lead`: how many of its first bytes come from the first
 * character of the document. `work` holds a buffer for each of the `count` stages. */
flrq_status flrq_pretokenize(const flrq_stage *stages, int count, flrq_matcher *matcher, flrq_bytes *work,
                             flrq_span text, size_t lead, flrq_word_fn emit, void *user);

#endif
