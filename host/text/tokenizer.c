/* tokenizer.c - opening a folder's tokenizer and the way of a text through it.
 *
 * text -> tokens added to the raw text -> normalizers -> tokens added to the normalized text -> words -> merges ->
 * template. The order is the reference's and decides ids. A tokenizer is constant once open; everything that encoding
 * changes lies in the encoder.
 */
#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>
#include "io/file.h"
#include "text/unicode.h"

enum { TOKENIZER_BYTES_MAX = 256 << 20 };

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static flrq_status open_json(flrq_tokenizer **out, const char *path) {
    char *json;
    size_t bytes;
    FLRQ_TRY(flrq_file_read(path, TOKENIZER_BYTES_MAX, &json, &bytes));
    flrq_status status = flrq_tokenizer_parse(out, path, json, bytes);
    free(json);
    return status;
}

flrq_status flrq_tokenizer_open(flrq_tokenizer **out, const char *dir) {
    *out = NULL;
    flrq_status status = FLRQ_OK;
    char *json = flrq_path_join(dir, "tokenizer.json"), *model = flrq_path_join(dir, "tokenizer.model");
    char *vocab = flrq_path_join(dir, "vocab.json"), *merges = flrq_path_join(dir, "merges.txt");
    if (!json || !model || !vocab || !merges)
        status = flrq_fail_memory(strlen(dir), dir);
    else if (flrq_path_exists(json))
        status = open_json(out, json);
    else if (flrq_path_exists(model))
        status = flrq_sentencepiece_tokenizer_open(out, dir);
    else if (flrq_path_exists(vocab) && flrq_path_exists(merges))
        status = flrq_gpt2_open(out, dir);
    else
        status = flrq_fail(FLRQ_ERR_IO,
                           "folder %s: no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json with "
                           "merges.txt; give token ids instead of text (--calib-tokens, --tokens)",
                           dir);
    free(json);
    free(model);
    free(vocab);
    free(merges);
    return status;
}

void flrq_tokenizer_close(flrq_tokenizer *tokenizer) {
    if (!tokenizer) return;
    flrq_added_set_clear(&tokenizer->raw);
    flrq_added_set_clear(&tokenizer->normalized);
    for (int i = 0; i < tokenizer->n_normalizers; i++) flrq_normalizer_clear(&tokenizer->normalizers[i]);
    for (int i = 0; i < tokenizer->n_stages; i++) flrq_stage_clear(&tokenizer->stages[i]);
    free(tokenizer->template.data);
    flrq_bpe_free(tokenizer->bpe);
    flrq_sentencepiece_free(tokenizer->sentencepiece);
    free(tokenizer);
}

int64_t flrq_tokenizer_vocab(const flrq_tokenizer *tokenizer) {
    return tokenizer->vocab;
}

const char *flrq_tokenizer_kind(const flrq_tokenizer *tokenizer) {
    return tokenizer->kind;
}

/* ---- building (used by the readers) ----------------------------------------------------------------------------- */

flrq_status flrq_tokenizer_new_stage(flrq_tokenizer *tokenizer, const char *where, flrq_stage **stage) {
    if (tokenizer->n_stages == FLRQ_STAGES_MAX)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: more than %d pre-tokenizer steps", where, FLRQ_STAGES_MAX);
    *stage = &tokenizer->stages[tokenizer->n_stages++];
    return FLRQ_OK;
}

flrq_status flrq_tokenizer_add_split(flrq_tokenizer *tokenizer, const char *where, flrq_regex_syntax syntax,
                                     const char *pattern, size_t bytes, flrq_split_behavior behavior, bool invert) {
    flrq_stage *stage = NULL;
    FLRQ_TRY(flrq_tokenizer_new_stage(tokenizer, where, &stage));
    stage->kind = FLRQ_STAGE_SPLIT;
    stage->behavior = behavior;
    stage->invert = invert;
    return flrq_regex_compile(&stage->regex, where, syntax, pattern, bytes);
}

flrq_status flrq_tokenizer_add_byte_level(flrq_tokenizer *tokenizer, const char *where, bool add_prefix_space,
                                          bool use_regex) {
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    flrq_stage *stage = NULL;
    if (add_prefix_space) {
        FLRQ_TRY(flrq_tokenizer_new_stage(tokenizer, where, &stage));
        *stage = (flrq_stage){.kind = FLRQ_STAGE_PREFIX, .mark = " ", .mark_bytes = 1, .scheme = FLRQ_PREFIX_ALWAYS};
    }
    if (use_regex)
        FLRQ_TRY(flrq_tokenizer_add_split(tokenizer, where, FLRQ_REGEX_RUBY, gpt2, sizeof gpt2 - 1, FLRQ_SPLIT_ISOLATED,
                                          false));
    FLRQ_TRY(flrq_tokenizer_new_stage(tokenizer, where, &stage));
    stage->kind = FLRQ_STAGE_BYTE_MAP;
    return FLRQ_OK;
}

flrq_status flrq_tokenizer_add_token(flrq_tokenizer *tokenizer, const char *where, flrq_span text,
                                     flrq_added_token token, bool normalized) {
    if (text.bytes > FLRQ_ADDED_TOKEN_BYTES_MAX)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: a text of %zu bytes, at most %d are supported", where, text.bytes,
                         FLRQ_ADDED_TOKEN_BYTES_MAX);
    if (!normalized) {
        flrq_status added = flrq_added_set_add(&tokenizer->raw, text, token);
        return added == FLRQ_OK ? FLRQ_OK : flrq_trace(added, "%s", where);
    }
    flrq_matcher *matcher = NULL;
    flrq_bytes work[2] = {{0}};
    size_t lead = 0;
    flrq_span form;
    flrq_status status = flrq_matcher_new(&matcher);
    if (status == FLRQ_OK)
        status = flrq_normalize(tokenizer->normalizers, tokenizer->n_normalizers, matcher, work, text.data, text.bytes,
                                &lead, &form.data, &form.bytes);
    if (status == FLRQ_OK && form.bytes == 0)
        status = flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: the normalizer leaves nothing of it", where);
    if (status == FLRQ_OK && form.bytes > 4 * FLRQ_ADDED_TOKEN_BYTES_MAX)
        status = flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: the normalizer makes %zu bytes of it", where, form.bytes);
    if (status == FLRQ_OK) {
        status = flrq_added_set_add(&tokenizer->normalized, form, token);
        if (status != FLRQ_OK) flrq_trace(status, "%s", where);
    }
    flrq_matcher_free(matcher);
    free(work[0].data);
    free(work[1].data);
    return status;
}

/* ---- encoding --------------------------------------------------------------------------------------------------- */

struct flrq_encoder {
    const flrq_tokenizer *tokenizer;
    flrq_matcher *matcher;
    flrq_bpe_work *merging;
    flrq_bytes normalizing[2], cutting[FLRQ_STAGES_MAX];
    flrq_ids *ids; /* of the call under way */
};

flrq_status flrq_encoder_new(flrq_encoder **out, const flrq_tokenizer *tokenizer) {
    *out = NULL;
    flrq_encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder) return flrq_fail_memory(sizeof *encoder, "encoding");
    encoder->tokenizer = tokenizer;
    flrq_status status = flrq_matcher_new(&encoder->matcher);
    if (status == FLRQ_OK) status = flrq_bpe_work_new(&encoder->merging);
    if (status == FLRQ_OK)
        *out = encoder;
    else
        flrq_encoder_free(encoder);
    return status;
}

void flrq_encoder_free(flrq_encoder *encoder) {
    if (!encoder) return;
    flrq_matcher_free(encoder->matcher);
    flrq_bpe_work_free(encoder->merging);
    for (int i = 0; i < 2; i++) free(encoder->normalizing[i].data);
    for (int i = 0; i < FLRQ_STAGES_MAX; i++) free(encoder->cutting[i].data);
    free(encoder);
}

static flrq_status encode_word(void *user, flrq_span word) {
    flrq_encoder *encoder = user;
    return flrq_bpe_encode(encoder->tokenizer->bpe, encoder->merging, word, encoder->ids);
}

/* A stretch between tokens of the raw set. `first`: it starts the document. */
static flrq_status encode_stretch(flrq_encoder *encoder, const char *text, size_t bytes, bool first) {
    const flrq_tokenizer *t = encoder->tokenizer;
    flrq_added_scan scan = {.set = &t->normalized};
    flrq_added_piece piece;
    size_t lead = first && bytes ? flrq_utf8_length(*text) : 0;
    FLRQ_TRY(flrq_normalize(t->normalizers, t->n_normalizers, encoder->matcher, encoder->normalizing, text, bytes,
                            &lead, &scan.text.data, &scan.text.bytes));
    while (flrq_added_next(&scan, &piece)) {
        if (piece.id >= 0) {
            FLRQ_TRY(flrq_ids_push(encoder->ids, piece.id));
            continue;
        }
        flrq_span between = {scan.text.data + piece.begin, piece.end - piece.begin};
        size_t between_lead = lead <= piece.begin ? 0 : lead - piece.begin;
        if (between_lead > between.bytes) between_lead = between.bytes;
        FLRQ_TRY(flrq_pretokenize(t->stages, t->n_stages, encoder->matcher, encoder->cutting, between, between_lead,
                                  encode_word, encoder));
    }
    return FLRQ_OK;
}

static flrq_status encode_text(flrq_encoder *encoder, const char *text, size_t bytes) {
    const flrq_tokenizer *t = encoder->tokenizer;
    flrq_added_scan scan = {.set = &t->raw, .text = {text, bytes}};
    flrq_added_piece piece;
    if (t->sentencepiece) return flrq_sentencepiece_encode(t->sentencepiece, text, bytes, encoder->ids);
    while (flrq_added_next(&scan, &piece)) {
        if (piece.id >= 0)
            FLRQ_TRY(flrq_ids_push(encoder->ids, piece.id));
        else
            FLRQ_TRY(encode_stretch(encoder, text + piece.begin, piece.end - piece.begin, piece.begin == 0));
    }
    return FLRQ_OK;
}

/* Puts the template around the ids from `from` on. Without `special`, only the sequence itself stays. */
static flrq_status apply_template(const flrq_ids *items, bool special, flrq_ids *ids, size_t from) {
    flrq_status status = FLRQ_OK;
    flrq_ids result = {0};
    if (items->count == 1 && items->data[0] == FLRQ_TEMPLATE_SEQUENCE) return FLRQ_OK;
    for (size_t i = 0; i < items->count; i++) {
        if (items->data[i] == FLRQ_TEMPLATE_SEQUENCE)
            FLRQ_GOTO(flrq_ids_append(&result, ids->data + from, ids->count - from));
        else if (special)
            FLRQ_GOTO(flrq_ids_push(&result, items->data[i]));
    }
    ids->count = from;
    FLRQ_GOTO(flrq_ids_append(ids, result.data, result.count));
out:
    free(result.data);
    return status;
}

flrq_status flrq_encoder_encode(flrq_encoder *encoder, const char *text, size_t bytes, bool special, flrq_ids *ids) {
    const flrq_tokenizer *t = encoder->tokenizer;
    size_t valid = flrq_utf8_check(text, bytes), from = ids->count;
    if (valid < bytes)
        return flrq_fail(FLRQ_ERR_FORMAT, "the text is not UTF-8: byte 0x%02x at offset %zu of %zu",
                         (unsigned char)text[valid], valid, bytes);
    encoder->ids = ids;
    FLRQ_TRY(encode_text(encoder, text, bytes));
    if (t->has_template) FLRQ_TRY(apply_template(&t->template, special, ids, from));
    return FLRQ_OK;
}

flrq_status flrq_tokenizer_encode(const flrq_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                  int32_t **ids, int64_t *count) {
    flrq_encoder *encoder;
    flrq_ids list = {0};
    *ids = NULL;
    *count = 0;
    FLRQ_TRY(flrq_encoder_new(&encoder, tokenizer));
    flrq_status status = flrq_ids_reserve(&list, 1); /* an empty result is a pointer too */
    if (status == FLRQ_OK) status = flrq_encoder_encode(encoder, text, bytes, special, &list);
    flrq_encoder_free(encoder);
    if (status != FLRQ_OK) {
        free(list.data);
        return status;
    }
    *ids = list.data;
    *count = (int64_t)list.count;
    return FLRQ_OK;
}
