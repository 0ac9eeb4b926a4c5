/* buffer.c - growth of the arrays in buffer.h: by half, so that appending is linear over all. */
#include "text/buffer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Grows an array of `size`-byte elements to hold count + more. */
static flrq_status grow(void **data, size_t *capacity, size_t count, size_t more, size_t size) {
    if (more <= *capacity - count) return FLRQ_OK;
    size_t most = PTRDIFF_MAX / size;
    if (more > most - count) return flrq_fail_memory(SIZE_MAX, "text");
    size_t wanted = count + more, room = *capacity + *capacity / 2 + 64;
    if (room < wanted || room > most) room = wanted;
    void *moved = realloc(*data, room * size);
    if (!moved) return flrq_fail_memory(room * size, "text");
    *data = moved;
    *capacity = room;
    return FLRQ_OK;
}

flrq_status flrq_bytes_reserve(flrq_bytes *bytes, size_t more) {
    void *data = bytes->data;
    FLRQ_TRY(grow(&data, &bytes->capacity, bytes->count, more, 1));
    bytes->data = data;
    return FLRQ_OK;
}

flrq_status flrq_bytes_append(flrq_bytes *bytes, const char *data, size_t count) {
    if (count == 0) return FLRQ_OK;
    FLRQ_TRY(flrq_bytes_reserve(bytes, count));
    memcpy(bytes->data + bytes->count, data, count);
    bytes->count += count;
    return FLRQ_OK;
}

flrq_status flrq_ids_reserve(flrq_ids *ids, size_t more) {
    void *data = ids->data;
    FLRQ_TRY(grow(&data, &ids->capacity, ids->count, more, sizeof *ids->data));
    ids->data = data;
    return FLRQ_OK;
}

flrq_status flrq_ids_append(flrq_ids *ids, const int32_t *data, size_t count) {
    if (count == 0) return FLRQ_OK;
    FLRQ_TRY(flrq_ids_reserve(ids, count));
    memcpy(ids->data + ids->count, data, count * sizeof *data);
    ids->count += count;
    return FLRQ_OK;
}
