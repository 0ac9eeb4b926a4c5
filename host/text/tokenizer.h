/* tokenizer.h - text to token ids, equal to Hugging Face `tokenizers` and to sentencepiece.
 *
 * tokenizer.json: BPE models, byte-level (GPT-2, Llama 3, Qwen, OPT, Mistral Nemo) and with byte fallback (Llama 2,
 * Mistral). Every component of the file is either applied as the reference does or refused by name; nothing is ignored
 * but what does not touch a whole text (truncation, padding, decoder).
 */
#ifndef FLRQ_TEXT_TOKENIZER_H
#define FLRQ_TEXT_TOKENIZER_H

#include <stdbool.h>
#include "core/error.h"

typedef struct flrq_tokenizer flrq_tokenizer;

/** Opens the tokenizer of a model folder: tokenizer.json, else tokenizer.model (sentencepiece), else vocab.json +
 * merges.txt (GPT-2 BPE as OPT ships it). None: FLRQ_ERR_IO naming what was looked for and the remedy (--calib-tokens /
 * --tokens). */
flrq_status flrq_tokenizer_open(flrq_tokenizer **out, const char *dir);
void flrq_tokenizer_close(flrq_tokenizer *tokenizer);

/** From the text of a tokenizer.json in memory (also the fuzz target). `path` is for messages. */
flrq_status flrq_tokenizer_parse(flrq_tokenizer **out, const char *path, const char *json, size_t bytes);

/** Encodes `bytes` of UTF-8 (invalid UTF-8: FLRQ_ERR_FORMAT with the byte offset). With `special` the
 *  post-processor's tokens (bos ...) are added as the reference does with add_special_tokens=True. *ids: free().
 * Thread-safe. */
flrq_status flrq_tokenizer_encode(const flrq_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                  int32_t **ids, int64_t *count);

/** One past the largest id, added tokens included. */
int64_t flrq_tokenizer_vocab(const flrq_tokenizer *tokenizer);

/** "tokenizer.json (byte-level BPE)", "tokenizer.model (sentencepiece)", ... for reports. */
const char *flrq_tokenizer_kind(const flrq_tokenizer *tokenizer);

#endif
