/* fuzz_json.c - the JSON reader: any bytes give a value or one line of text, and a value survives being written and
 * read again. */
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    json_t *value, *again;
    if (flrq_json_parse("fuzz", (const char *)data, bytes, &value) != FLRQ_OK) {
        if (value || !flrq_last_error()[0] || strpbrk(flrq_last_error(), "\n\r\x1b")) abort();
        return 0;
    }
    char *text = json_dumps(value, JSON_INDENT(1));
    if (!text || flrq_json_parse("fuzz", text, strlen(text), &again) != FLRQ_OK || !json_equal(value, again)) abort();
    free(text);
    json_decref(again);
    json_decref(value);
    return 0;
}
