/* fuzz_tokenizer.c - tokenizer.json and encoding.
 *
 * Input: a tokenizer.json, a NUL byte, a text. A tokenizer that is accepted must encode the text to ids below its
 * vocabulary, twice the same, or refuse with a line of text. Without a NUL byte a fixed text is encoded.
 */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void encode(const flrq_tokenizer *tokenizer, const char *text, size_t bytes) {
    int32_t *ids, *again;
    int64_t count, again_count;
    for (int special = 0; special < 2; special++) {
        if (flrq_tokenizer_encode(tokenizer, text, bytes, special, &ids, &count) != FLRQ_OK) {
            if (!flrq_last_error()[0]) abort();
            continue;
        }
        for (int64_t i = 0; i < count; i++)
            if (ids[i] < 0 || ids[i] >= flrq_tokenizer_vocab(tokenizer)) abort();
        if (flrq_tokenizer_encode(tokenizer, text, bytes, special, &again, &again_count) != FLRQ_OK) abort();
        if (again_count != count || (count && memcmp(ids, again, (size_t)count * sizeof *ids) != 0)) abort();
        free(ids);
        free(again);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char sample[] = "Hello  World's 12345 \xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80\n\n\t<s> end";
    flrq_tokenizer *tokenizer;
    const uint8_t *nul = memchr(data, 0, bytes);
    size_t json_bytes = nul ? (size_t)(nul - data) : bytes;
    /* A copy of exactly these bytes, so that reading past the end shows. */
    char *json = malloc(json_bytes ? json_bytes : 1);
    if (!json) abort();
    if (json_bytes) memcpy(json, data, json_bytes);
    flrq_status status = flrq_tokenizer_parse(&tokenizer, "fuzz", json, json_bytes);
    free(json);
    if (status != FLRQ_OK) {
        if (tokenizer || !flrq_last_error()[0] || strpbrk(flrq_last_error(), "\n\r\x1b")) abort();
        return 0;
    }
    if (nul)
        encode(tokenizer, (const char *)nul + 1, bytes - json_bytes - 1);
    else
        encode(tokenizer, sample, sizeof sample - 1);
    flrq_tokenizer_close(tokenizer);
    return 0;
}
