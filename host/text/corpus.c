/* corpus.c - texts as ids; see corpus.h. One encoder serves all documents of a file, so that its cache of words stays
 * warm. */
#include "text/corpus.h"

#include <stdlib.h>
#include <string.h>
#include "core/philox.h"
#include "io/file.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

static const size_t TEXT_BYTES_MAX = (size_t)4 << 30;

/* The separator with its escapes undone, in a new string. */
static flrq_status unescape(const char *separator, char **out, size_t *bytes) {
    char *to = malloc(strlen(separator) + 1);
    *out = NULL;
    if (!to) return flrq_fail_memory(strlen(separator) + 1, "document separator");
    *bytes = 0;
    for (const char *at = separator; *at; at++) {
        char c = *at;
        if (c == '\\') {
            c = *++at;
            if (c == 'n')
                c = '\n';
            else if (c == 't')
                c = '\t';
            else if (c != '\\') {
                free(to);
                return flrq_fail(FLRQ_ERR_USAGE, "document separator \"%s\": a backslash is followed by n, t or \\",
                                 separator);
            }
        }
        to[(*bytes)++] = c;
    }
    *out = to;
    return FLRQ_OK;
}

flrq_status flrq_corpus_read(const flrq_tokenizer *tokenizer, const char *path, const char *separator, int32_t **ids,
                             int64_t *count) {
    flrq_status status = FLRQ_OK;
    flrq_encoder *encoder = NULL;
    flrq_ids list = {0};
    char *text = NULL, *mark = NULL;
    size_t bytes, mark_bytes = 0;
    *ids = NULL;
    *count = 0;
    if (separator && *separator) FLRQ_GOTO(unescape(separator, &mark, &mark_bytes));
    FLRQ_GOTO(flrq_file_read(path, TEXT_BYTES_MAX, &text, &bytes));
    size_t valid = flrq_utf8_check(text, bytes);
    if (valid < bytes) {
        status = flrq_fail(FLRQ_ERR_FORMAT, "file %s: not UTF-8: byte 0x%02x at offset %zu; convert it first", path,
                           (unsigned char)text[valid], valid);
        goto out;
    }
    FLRQ_GOTO(flrq_ids_reserve(&list, 1)); /* an empty result is a pointer too */
    FLRQ_GOTO(flrq_encoder_new(&encoder, tokenizer));
    for (const char *at = text, *end = text + bytes; at < end;) {
        const char *stop = mark_bytes ? memmem(at, (size_t)(end - at), mark, mark_bytes) : NULL;
        size_t length = (size_t)((stop ? stop : end) - at);
        if (length) status = flrq_encoder_encode(encoder, at, length, true, &list);
        if (status != FLRQ_OK) {
            flrq_trace(status, "file %s", path);
            goto out;
        }
        at += length + (stop ? mark_bytes : 0);
    }
    *ids = list.data;
    *count = (int64_t)list.count;
    list.data = NULL;
out:
    flrq_encoder_free(encoder);
    free(list.data);
    free(text);
    free(mark);
    return status;
}

flrq_status flrq_corpus_sample(const int32_t *ids, int64_t count, int64_t segments, int64_t length, uint64_t seed,
                               int32_t **out) {
    *out = NULL;
    if (segments < 1 || length < 1)
        return flrq_fail(FLRQ_ERR_USAGE, "%lld calibration segments of %lld tokens: both must be at least 1",
                         (long long)segments, (long long)length);
    if (count < length)
        return flrq_fail(
            FLRQ_ERR_FORMAT,
            "the calibration text has %lld tokens, one segment needs %lld; give a longer text or a smaller "
            "--calib-len",
            (long long)count, (long long)length);
    if (segments > PTRDIFF_MAX / (int64_t)sizeof **out / length)
        return flrq_fail(FLRQ_ERR_USAGE, "%lld calibration segments of %lld tokens do not fit in memory",
                         (long long)segments, (long long)length);
    int32_t *drawn = malloc((size_t)(segments * length) * sizeof *drawn);
    if (!drawn) return flrq_fail_memory((size_t)(segments * length) * sizeof *drawn, "calibration tokens");
    uint64_t key = flrq_philox_key(seed, "calibration");
    for (int64_t i = 0; i < segments; i++) {
        uint64_t start = flrq_philox_below(key, 0, (uint64_t)i, (uint64_t)(count - length) + 1);
        memcpy(drawn + i * length, ids + start, (size_t)length * sizeof *drawn);
    }
    *out = drawn;
    return FLRQ_OK;
}
