/* sentencepiece.h - C face of libsentencepiece, which offers C++ only. */
#ifndef FLRQ_TEXT_SENTENCEPIECE_H
#define FLRQ_TEXT_SENTENCEPIECE_H

#include "text/buffer.h"

typedef struct flrq_sentencepiece flrq_sentencepiece;

/** Loads a serialized model of `bytes` bytes. `path` is for messages. */
flrq_status flrq_sentencepiece_new(flrq_sentencepiece **out, const char *path, const char *model, size_t bytes);
void flrq_sentencepiece_free(flrq_sentencepiece *model); /* NULL is fine */

/** Appends the ids of a text (well-formed UTF-8), without beginning and end of sentence. Thread-safe. */
flrq_status flrq_sentencepiece_encode(const flrq_sentencepiece *model, const char *text, size_t bytes, flrq_ids *ids);

/** Number of pieces. */
int flrq_sentencepiece_size(const flrq_sentencepiece *model);

/** Id of a piece, -1 when the model does not have it. */
int flrq_sentencepiece_find(const flrq_sentencepiece *model, const char *piece);

#endif
