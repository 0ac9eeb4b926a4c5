/* corpus.h - texts and token files as sequences of ids: calibration segments and evaluation windows. */
#ifndef FLRQ_TEXT_CORPUS_H
#define FLRQ_TEXT_CORPUS_H

#include "text/tokenizer.h"

/** Reads a text file and encodes it: as one document, or, when `separator` is not NULL or empty, as the documents
 * between separators (each encoded with its special tokens, empty documents skipped), concatenated. Recognises the
 * escapes \n \t \\ in separator. *ids: free(). */
flrq_status flrq_corpus_read(const flrq_tokenizer *tokenizer, const char *path, const char *separator, int32_t **ids,
                             int64_t *count);

/** Draws `segments` segments of `length` consecutive ids from ids[count], start positions uniform by Philox (key of
 * (seed, "calibration"), index = segment; methods.md: random segments). Fewer than `length` ids: FLRQ_ERR_FORMAT that
 * says how many there are and the remedy. *out [segments * length]: free(). */
flrq_status flrq_corpus_sample(const int32_t *ids, int64_t count, int64_t segments, int64_t length, uint64_t seed,
                               int32_t **out);

#endif
