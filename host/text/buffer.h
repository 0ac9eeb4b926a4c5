/* buffer.h - growable arrays of bytes and of token ids, the only containers of the text layer.
 *
 * A zeroed struct is an empty array. Sizes are checked; running out of memory is FLRQ_ERR_MEMORY and leaves the
 * contents as they were.
 */
#ifndef FLRQ_TEXT_BUFFER_H
#define FLRQ_TEXT_BUFFER_H

#include "core/error.h"

typedef struct flrq_bytes {
    char *data;
    size_t count, capacity;
} flrq_bytes;

typedef struct flrq_ids {
    int32_t *data;
    size_t count, capacity;
} flrq_ids;

/** Makes room for `more` bytes past the end; the contents may move. */
flrq_status flrq_bytes_reserve(flrq_bytes *bytes, size_t more);

/** Appends `count` bytes (from outside the array). */
flrq_status flrq_bytes_append(flrq_bytes *bytes, const char *data, size_t count);

/** Makes room for `more` ids past the end; the contents may move. */
flrq_status flrq_ids_reserve(flrq_ids *ids, size_t more);

/** Appends `count` ids (from outside the array). */
flrq_status flrq_ids_append(flrq_ids *ids, const int32_t *data, size_t count);

/** Appends one id. */
static inline flrq_status flrq_ids_push(flrq_ids *ids, int32_t id) {
    if (ids->count == ids->capacity) FLRQ_TRY(flrq_ids_reserve(ids, 1));
    ids->data[ids->count++] = id;
    return FLRQ_OK;
}

#endif
