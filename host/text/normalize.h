/* normalize.h - the normalizers of tokenizer.json: text in, text out. */
#ifndef FLRQ_TEXT_NORMALIZE_H
#define FLRQ_TEXT_NORMALIZE_H

#include "text/regex.h"

typedef enum flrq_normalizer_kind {
    FLRQ_NORMALIZE_PREPEND, /* text goes before a text that is not empty */
    FLRQ_NORMALIZE_REPLACE, /* every match of regex becomes text */
    FLRQ_NORMALIZE_FORM,    /* NFC, NFD, NFKC, NFKD */
    FLRQ_NORMALIZE_LOWERCASE,
    FLRQ_NORMALIZE_STRIP, /* white space at the ends */
    FLRQ_NORMALIZE_STRIP_ACCENTS,
    FLRQ_NORMALIZE_BYTE_LEVEL
} flrq_normalizer_kind;

typedef struct flrq_normalizer {
    flrq_normalizer_kind kind;
    flrq_bytes text;          /* PREPEND, REPLACE */
    flrq_regex *regex;        /* REPLACE */
    bool compose, compatible; /* FORM: C or D, K or not */
    bool left, right;         /* STRIP */
} flrq_normalizer;

/** Frees what a normalizer owns. */
void flrq_normalizer_clear(flrq_normalizer *normalizer);

/** Applies `count` normalizers in order to well-formed UTF-8. *out is `text` itself or lies in one of the two work
 *  buffers, which are overwritten. *lead, on entry: how many of the first bytes come from the first character of the
 * document (0 when the text starts later); on return: the same of the result. The "first" scheme of Metaspace asks for
 * it. */
flrq_status flrq_normalize(const flrq_normalizer *normalizers, int count, flrq_matcher *matcher, flrq_bytes work[2],
                           const char *text, size_t bytes, size_t *lead, const char **out, size_t *out_bytes);

#endif
