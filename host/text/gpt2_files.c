/* gpt2_files.c - vocab.json + merges.txt: the byte-level BPE of GPT-2 as OPT ships it.
 *
 * What the reference's GPT2Tokenizer makes of these files: GPT-2's pattern, no normalizer, the special tokens of
 * tokenizer_config.json found in the text, bos in front when add_bos_token says so. Files of another tokenizer class
 * look the same but cut words by other patterns: refused by the class's name.
 */
#include "text/tokenizer_impl.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "io/file.h"
#include "text/model_config.h"
#include "text/unicode.h"

enum { FILE_BYTES_MAX = 256 << 20, WHERE_BYTES = 1024 };

/* Next line that holds a merge, without its line end; *at moves behind it. False at the end. */
static bool next_merge(const char **at, const char *end, flrq_span *line) {
    while (*at < end) {
        const char *stop = memchr(*at, '\n', (size_t)(end - *at));
        *line = (flrq_span){*at, (size_t)((stop ? stop : end) - *at)};
        *at = stop ? stop + 1 : end;
        if (line->bytes && line->data[line->bytes - 1] == '\r') line->bytes--;
        if (line->bytes == 0 || (line->bytes >= 8 && memcmp(line->data, "#version", 8) == 0)) continue;
        return true;
    }
    return false;
}

static flrq_status read_bpe(flrq_tokenizer *t, const char *vocab_path, const json_t *vocab, const char *merges_path,
                            const char *merges, size_t bytes) {
    const char *token, *at = merges, *end = merges + bytes;
    json_t *id;
    size_t count = 0;
    flrq_span line;
    flrq_bpe_options options = {0};
    size_t valid = flrq_utf8_check(merges, bytes);
    if (valid < bytes) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: not UTF-8 at offset %zu", merges_path, valid);
    while (next_merge(&at, end, &line)) count++;
    FLRQ_TRY(flrq_bpe_new(&t->bpe, vocab_path, &options, json_object_size(vocab), count));
    json_object_foreach((json_t *)vocab, token, id) {
        char quoted[64];
        if (!json_is_integer(id))
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: the id of token \"%s\" is not an integer", vocab_path,
                             flrq_text_quote(quoted, token));
        FLRQ_TRY(flrq_bpe_add_token(t->bpe, (flrq_span){token, strlen(token)}, json_integer_value(id)));
    }
    at = merges;
    for (size_t i = 0; next_merge(&at, end, &line); i++) {
        const char *space = memchr(line.data, ' ', line.bytes);
        size_t left = space ? (size_t)(space - line.data) : 0, right = space ? line.bytes - left - 1 : 0;
        if (!space || memchr(space + 1, ' ', right))
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: merge %zu is not two tokens and a space", merges_path, i);
        FLRQ_TRY(flrq_bpe_add_merge(t->bpe, (flrq_span){line.data, left}, (flrq_span){space + 1, right}));
    }
    t->vocab = flrq_bpe_largest(t->bpe) + 1;
    return flrq_bpe_finish(t->bpe);
}

/* The token of `key` is looked for in texts. `*id`: its id. */
static flrq_status add_special(flrq_tokenizer *t, const json_t *config, const char *path, const char *key,
                               const char *fallback, int32_t *id) {
    const char *text;
    char where[WHERE_BYTES], quoted[64];
    const json_t *value = json_object_get(config, key);
    flrq_added_token token = {0};
    *id = -1;
    FLRQ_TRY(flrq_tokenizer_config_token(config, path, key, fallback, &text));
    if (!text || !*text) return FLRQ_OK;
    snprintf(where, sizeof where, "file %.800s: %s \"%s\"", path, key, flrq_text_quote(quoted, text));
    *id = token.id = flrq_bpe_find(t->bpe, (flrq_span){text, strlen(text)});
    if (token.id < 0) return flrq_fail(FLRQ_ERR_FORMAT, "%s is not in vocab.json", where);
    FLRQ_TRY(flrq_tokenizer_config_flag(value, path, "single_word", false, &token.single_word));
    FLRQ_TRY(flrq_tokenizer_config_flag(value, path, "lstrip", false, &token.lstrip));
    FLRQ_TRY(flrq_tokenizer_config_flag(value, path, "rstrip", false, &token.rstrip));
    return flrq_tokenizer_add_token(t, where, (flrq_span){text, strlen(text)}, token, false);
}

static flrq_status read_config(flrq_tokenizer *t, const json_t *config, const char *path) {
    static const char endoftext[] = "<|endoftext|>";
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    char where[WHERE_BYTES], quoted[64];
    bool add_prefix_space, add_bos;
    int32_t bos, other;
    if (class && strcmp(class, "GPT2Tokenizer") != 0 && strcmp(class, "GPT2TokenizerFast") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: tokenizer class %s without a tokenizer.json is not supported",
                         path, flrq_text_quote(quoted, class));
    if (json_object_size(json_object_get(config, "added_tokens_decoder")))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                         "file %s: added_tokens_decoder without a tokenizer.json is not supported", path);
    FLRQ_TRY(flrq_tokenizer_config_flag(config, path, "add_prefix_space", false, &add_prefix_space));
    FLRQ_TRY(flrq_tokenizer_config_flag(config, path, "add_bos_token", false, &add_bos));
    snprintf(where, sizeof where, "file %.800s: GPT2Tokenizer", path);
    FLRQ_TRY(flrq_tokenizer_add_byte_level(t, where, add_prefix_space, true));
    const char *fallback = flrq_bpe_find(t->bpe, (flrq_span){endoftext, sizeof endoftext - 1}) >= 0 ? endoftext : NULL;
    FLRQ_TRY(add_special(t, config, path, "bos_token", fallback, &bos));
    FLRQ_TRY(add_special(t, config, path, "eos_token", fallback, &other));
    FLRQ_TRY(add_special(t, config, path, "unk_token", fallback, &other));
    FLRQ_TRY(add_special(t, config, path, "pad_token", NULL, &other));
    if (!add_bos) return FLRQ_OK;
    if (bos < 0) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: add_bos_token without a bos_token", path);
    t->has_template = true;
    return flrq_ids_append(&t->template, (int32_t[]){bos, FLRQ_TEMPLATE_SEQUENCE}, 2);
}

flrq_status flrq_gpt2_open(flrq_tokenizer **out, const char *dir) {
    flrq_status status = FLRQ_OK;
    json_t *vocab = NULL, *config = NULL;
    char *config_path = NULL, *merges = NULL, *vocab_path = flrq_path_join(dir, "vocab.json");
    char *merges_path = flrq_path_join(dir, "merges.txt");
    size_t bytes;
    flrq_tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t || !vocab_path || !merges_path) {
        status = flrq_fail_memory(sizeof *t, dir);
        goto out;
    }
    t->kind = "vocab.json + merges.txt (GPT-2 BPE)";
    FLRQ_GOTO(flrq_json_read(vocab_path, FILE_BYTES_MAX, &vocab));
    if (!json_is_object(vocab)) {
        status = flrq_fail(FLRQ_ERR_FORMAT, "file %s: not a JSON object", vocab_path);
        goto out;
    }
    FLRQ_GOTO(flrq_file_read(merges_path, FILE_BYTES_MAX, &merges, &bytes));
    FLRQ_GOTO(read_bpe(t, vocab_path, vocab, merges_path, merges, bytes));
    FLRQ_GOTO(flrq_tokenizer_config_read(&config, &config_path, dir));
    FLRQ_GOTO(read_config(t, config, config_path));
    *out = t;
    t = NULL;
out:
    flrq_tokenizer_close(t);
    json_decref(config);
    json_decref(vocab);
    free(config_path);
    free(merges);
    free(vocab_path);
    free(merges_path);
    return status;
}
