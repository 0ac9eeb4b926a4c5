/* bpe.h - byte-pair encoding: vocabulary, ranked merges, and the merging of one word.
 *
 * Same results as the reference's BPE model (tokenizers, models/bpe): the pair of lowest rank merges first, the
 * leftmost among equals. Built in one go (new, options, tokens, merges, finish) and constant from then on.
 */
#ifndef FLRQ_TEXT_BPE_H
#define FLRQ_TEXT_BPE_H

#include <stdbool.h>
#include "text/buffer.h"

enum { FLRQ_TOKEN_ID_MAX = (1 << 24) - 1 }; /* ids above are taken for damage: they size tables all over the program */

typedef struct flrq_bpe flrq_bpe;

/** A text with its length: not terminated, may hold any character. */
typedef struct flrq_span {
    const char *data;
    size_t bytes;
} flrq_span;

/** Settings of the model; spans are copied, zero bytes = absent. */
typedef struct flrq_bpe_options {
    bool byte_fallback; /* a character that is no token becomes its bytes' tokens <0x00> .. <0xFF> */
    bool fuse_unk;      /* neighbouring unknown characters give one unknown token */
    bool ignore_merges; /* a word that is a token is that token */
    flrq_span unk;      /* token of unknown characters; absent: they are dropped */
    flrq_span prefix;   /* written before every character but the first of a word */
    flrq_span suffix;   /* written behind the last character of a word */
} flrq_bpe_options;

/** Room for `tokens` tokens and `merges` merges, which may not be exceeded. `path` (copied) is for messages. */
flrq_status flrq_bpe_new(flrq_bpe **out, const char *path, const flrq_bpe_options *options, size_t tokens,
                         size_t merges);
void flrq_bpe_free(flrq_bpe *bpe); /* NULL is fine */

/** Adds a token. Ids outside [0, FLRQ_TOKEN_ID_MAX], ids given twice and tokens given twice are FLRQ_ERR_FORMAT. */
flrq_status flrq_bpe_add_token(flrq_bpe *bpe, flrq_span token, int64_t id);

/** Adds the merge of next rank, left + right without its prefix. Unknown tokens are FLRQ_ERR_FORMAT naming the merge.
 * All tokens must have been added. */
flrq_status flrq_bpe_add_merge(flrq_bpe *bpe, flrq_span left, flrq_span right);

/** Closes the building. */
flrq_status flrq_bpe_finish(flrq_bpe *bpe);

/** Id of a token, -1 when there is none. */
int32_t flrq_bpe_find(const flrq_bpe *bpe, flrq_span token);

/** Number of tokens. */
int64_t flrq_bpe_count(const flrq_bpe *bpe);

/** Largest id; -1 without tokens. */
int64_t flrq_bpe_largest(const flrq_bpe *bpe);

/** What one thread needs to merge: work arrays and a cache of words, for one model. */
typedef struct flrq_bpe_work flrq_bpe_work;
flrq_status flrq_bpe_work_new(flrq_bpe_work **out);
void flrq_bpe_work_free(flrq_bpe_work *work);

/** Appends the ids of one word (well-formed UTF-8). Linear in its length but for a logarithm. An unknown character when
 * the unknown token is not in the vocabulary is FLRQ_ERR_FORMAT, as in the reference. */
flrq_status flrq_bpe_encode(const flrq_bpe *bpe, flrq_bpe_work *work, flrq_span word, flrq_ids *ids);

#endif
