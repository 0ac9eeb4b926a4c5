/* added_tokens.h - tokens that are found in the text before it is cut into words: special tokens and user additions. */
#ifndef FLRQ_TEXT_ADDED_TOKENS_H
#define FLRQ_TEXT_ADDED_TOKENS_H

#include "text/bpe.h"

enum { FLRQ_ADDED_TOKEN_BYTES_MAX = 1024 };

typedef struct flrq_added_token {
    int32_t id;
    bool single_word;    /* not next to a word character */
    bool lstrip, rstrip; /* takes the white space before / behind along */
} flrq_added_token;

/** A set of tokens to look for. A zeroed struct is the empty set. */
typedef struct flrq_added_set {
    flrq_added_token *tokens;
    size_t count, capacity;
    struct flrq_trie_node *nodes;
    size_t node_count, node_capacity;
    int32_t roots[256]; /* node of a first byte, 0: none */
} flrq_added_set;

void flrq_added_set_clear(flrq_added_set *set);

/** Adds a token whose text is `text` (1 to FLRQ_ADDED_TOKEN_BYTES_MAX bytes). Added again with the same id, the
 *  last rules count; with another id: FLRQ_ERR_UNSUPPORTED, without saying where. */
flrq_status flrq_added_set_add(flrq_added_set *set, flrq_span text, flrq_added_token token);

/** A piece of a text: a found token, or what lies between (id -1). */
typedef struct flrq_added_piece {
    int32_t id;
    size_t begin, end;
} flrq_added_piece;

/** State of a scan; zeroed but for set and text. */
typedef struct flrq_added_scan {
    const flrq_added_set *set;
    flrq_span text;
    size_t at;    /* where to look from */
    size_t done;  /* end of the last piece */
    bool waiting; /* `token` was found behind the piece handed out last */
    flrq_added_piece token;
} flrq_added_scan;

/** The next piece: leftmost, of tokens that start together the longest, found ones not overlapping. False behind the
 * last. */
bool flrq_added_next(flrq_added_scan *scan, flrq_added_piece *piece);

#endif
