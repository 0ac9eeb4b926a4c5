/* error.c - the thread-local error text. A plugin has a copy of this file and shares the library's text. */
#include "core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_BYTES = 2048 };
static _Thread_local char own_text[TEXT_BYTES];

char *flrq_error_text(void) {
    return own_text;
}

static char *(*text_of_thread)(void) = flrq_error_text;

void flrq_error_share(char *(*text)(void)) {
    text_of_thread = text;
}

const char *flrq_last_error(void) {
    return text_of_thread();
}

flrq_status flrq_fail(flrq_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(text_of_thread(), TEXT_BYTES, format, args);
    va_end(args);
    return status;
}

flrq_status flrq_fail_errno(flrq_status status, const char *format, ...) {
    int code = errno;
    char *error_text = text_of_thread();
    va_list args;
    va_start(args, format);
    int used = vsnprintf(error_text, TEXT_BYTES, format, args);
    va_end(args);
    if (used >= 0 && used < TEXT_BYTES) snprintf(error_text + used, TEXT_BYTES - (size_t)used, ": %s", strerror(code));
    return status;
}

flrq_status flrq_trace(flrq_status status, const char *format, ...) {
    char where[512], old[TEXT_BYTES], *error_text = text_of_thread();
    va_list args;
    va_start(args, format);
    vsnprintf(where, sizeof where, format, args);
    va_end(args);
    memcpy(old, error_text, sizeof old);
    int used = snprintf(error_text, TEXT_BYTES, "%s: ", where);
    snprintf(error_text + used, TEXT_BYTES - (size_t)used, "%s", old);
    return status;
}

flrq_status flrq_fail_memory(size_t bytes, const char *what) {
    return flrq_fail(FLRQ_ERR_MEMORY, "out of memory: %zu bytes wanted for %s", bytes, what);
}

const char *flrq_status_name(flrq_status status) {
    switch (status) {
    case FLRQ_OK:
        return "ok";
    case FLRQ_ERR_USAGE:
        return "usage";
    case FLRQ_ERR_IO:
        return "io";
    case FLRQ_ERR_FORMAT:
        return "format";
    case FLRQ_ERR_SHAPE:
        return "shape";
    case FLRQ_ERR_NUMERIC:
        return "numeric";
    case FLRQ_ERR_MEMORY:
        return "memory";
    case FLRQ_ERR_UNSUPPORTED:
        return "unsupported";
    case FLRQ_ERR_BUSY:
        return "busy";
    case FLRQ_ERR_QUALITY:
        return "quality";
    case FLRQ_STOPPED:
        return "stopped";
    case FLRQ_ERR_INTERNAL:
        return "internal";
    case FLRQ_ERR_PEER:
        return "peer";
    }
    return "unknown";
}

int flrq_exit_code(flrq_status status) {
    switch (status) {
    case FLRQ_OK:
        return 0;
    case FLRQ_ERR_USAGE:
        return 2;
    case FLRQ_ERR_QUALITY:
        return 3;
    case FLRQ_STOPPED:
        return 75;
    default:
        return 1;
    }
}
