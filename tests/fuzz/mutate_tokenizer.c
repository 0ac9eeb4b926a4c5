/* mutate_tokenizer.c - changes for inputs of fuzz_tokenizer.c that keep the JSON whole.
 *
 * A random change of bytes mostly ends in the JSON parser. Here one place of the tree is replaced: by a copy of another
 * subtree, by a changed scalar, or by nothing. Every third input is still changed byte by byte, every third in its text
 * only.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t max_bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t max_bytes, unsigned int seed);

enum { PLACES_MAX = 4096, STRING_MAX = 256 };

typedef struct place {
    json_t *parent, *value;
    const char *key; /* in an object, else NULL */
    size_t index;    /* in an array */
} place;

static void collect(json_t *parent, place *places, size_t *n) {
    const char *key;
    json_t *value;
    size_t index;
    if (json_is_object(parent)) json_object_foreach(parent, key, value) {
            if (*n < PLACES_MAX) places[(*n)++] = (place){parent, value, key, 0};
            collect(value, places, n);
        }
    else if (json_is_array(parent))
        json_array_foreach(parent, index, value) {
            if (*n < PLACES_MAX) places[(*n)++] = (place){parent, value, NULL, index};
            collect(value, places, n);
        }
}

/* A changed copy of a scalar; NULL when there is none. */
static json_t *changed(const json_t *value, unsigned random) {
    static const json_int_t numbers[] = {0, 1, 2, -1, 3, 255, 256, 16777215, 16777216, INT32_MAX, INT64_MAX};
    char text[STRING_MAX];
    if (json_is_boolean(value)) return json_boolean(!json_is_true(value));
    if (json_is_integer(value)) return json_integer(numbers[random % (sizeof numbers / sizeof *numbers)]);
    if (!json_is_string(value)) return json_null();
    size_t bytes = json_string_length(value);
    if (bytes > sizeof text) bytes = sizeof text;
    memcpy(text, json_string_value(value), bytes);
    return json_stringn(text, LLVMFuzzerMutate((uint8_t *)text, bytes, sizeof text)); /* NULL when no longer UTF-8 */
}

static void change_tree(json_t *root, unsigned random) {
    static place places[PLACES_MAX];
    size_t n = 0;
    collect(root, places, &n);
    if (n == 0) return;
    const place *at = &places[random % n], *donor = &places[random / 64 % n];
    json_t *value = NULL;
    switch (random >> 24 & 3) {
    case 0:
        value = changed(at->value, random >> 8);
        break;
    case 1:
        value = json_deep_copy(donor->value);
        break;
    case 2: /* one more element of the list */
        if (!at->key) json_array_insert_new(at->parent, at->index, json_deep_copy(donor->value));
        return;
    case 3:
        if (at->key)
            json_object_del(at->parent, at->key);
        else
            json_array_remove(at->parent, at->index);
        return;
    }
    if (value && at->key)
        json_object_set_new(at->parent, at->key, value);
    else if (value)
        json_array_set_new(at->parent, at->index, value);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t max_bytes, unsigned int seed) {
    unsigned random = seed * 2654435761u;
    const uint8_t *nul = memchr(data, 0, bytes);
    size_t json_bytes = nul ? (size_t)(nul - data) : bytes;
    if (random % 3 == 1 && nul)
        return json_bytes + 1 +
               LLVMFuzzerMutate(data + json_bytes + 1, bytes - json_bytes - 1, max_bytes - json_bytes - 1);
    json_t *root = random % 3 == 2 ? json_loadb((const char *)data, json_bytes, 0, NULL) : NULL;
    if (!root) return LLVMFuzzerMutate(data, bytes, max_bytes);
    random = random * 1664525u + 1013904223u;
    change_tree(root, random);
    char *text = json_dumps(root, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0, rest = bytes - json_bytes;
    if (length == 0 || length + rest > max_bytes) {
        length = json_bytes; /* too long: leave it as it was */
    } else {
        memmove(data + length, data + json_bytes, rest);
        memcpy(data, text, length);
    }
    free(text);
    json_decref(root);
    return length + rest;
}
