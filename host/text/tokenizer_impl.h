/* tokenizer_impl.h - the inside of a tokenizer, shared by the readers of the file formats and by encoding. */
#ifndef FLRQ_TEXT_TOKENIZER_IMPL_H
#define FLRQ_TEXT_TOKENIZER_IMPL_H

#include "text/added_tokens.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/sentencepiece.h"
#include "text/tokenizer.h"

enum { FLRQ_NORMALIZERS_MAX = 64, FLRQ_TEMPLATE_SEQUENCE = -1 };

/** tokenizer.json and vocab.json + merges.txt use everything but `sentencepiece`; tokenizer.model uses that and
 * the template. */
struct flrq_tokenizer {
    const char *kind;   /* static */
    int64_t vocab;      /* one past the largest id */
    flrq_added_set raw; /* looked for in the text as it is */
    flrq_normalizer normalizers[FLRQ_NORMALIZERS_MAX];
    int n_normalizers;
    flrq_added_set normalized; /* looked for in the normalized text */
    flrq_stage stages[FLRQ_STAGES_MAX];
    int n_stages;
    flrq_bpe *bpe;
    flrq_sentencepiece *sentencepiece;
    flrq_ids template; /* ids to put around FLRQ_TEMPLATE_SEQUENCE, if has_template */
    bool has_template;
};

/** Adds the stages of the reference's ByteLevel pre-tokenizer. `where` is for messages. */
flrq_status flrq_tokenizer_add_byte_level(flrq_tokenizer *tokenizer, const char *where, bool add_prefix_space,
                                          bool use_regex);

/** Adds a token to look for, in the text as it is or, `normalized`, in its normalized form. `where` is for messages. */
flrq_status flrq_tokenizer_add_token(flrq_tokenizer *tokenizer, const char *where, flrq_span text,
                                     flrq_added_token token, bool normalized);

/** The next stage, zeroed, to fill in. FLRQ_ERR_UNSUPPORTED when there are too many. */
flrq_status flrq_tokenizer_new_stage(flrq_tokenizer *tokenizer, const char *where, flrq_stage **stage);

/** Adds a stage that cuts at a pattern. */
flrq_status flrq_tokenizer_add_split(flrq_tokenizer *tokenizer, const char *where, flrq_regex_syntax syntax,
                                     const char *pattern, size_t bytes, flrq_split_behavior behavior, bool invert);

/** Work memory of one thread for any number of texts. */
typedef struct flrq_encoder flrq_encoder;
flrq_status flrq_encoder_new(flrq_encoder **out, const flrq_tokenizer *tokenizer);
void flrq_encoder_free(flrq_encoder *encoder);

/** As flrq_tokenizer_encode(), appending to *ids. On failure *ids may hold part of the result. */
flrq_status flrq_encoder_encode(flrq_encoder *encoder, const char *text, size_t bytes, bool special, flrq_ids *ids);

/** Reads vocab.json and merges.txt of `dir` (gpt2_files.c). */
flrq_status flrq_gpt2_open(flrq_tokenizer **out, const char *dir);

/** Reads tokenizer.model of `dir` with the settings in tokenizer_config.json (sentencepiece_model.c). */
flrq_status flrq_sentencepiece_tokenizer_open(flrq_tokenizer **out, const char *dir);

#endif
