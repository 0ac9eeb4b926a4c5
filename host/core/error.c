/* error.c - the thread-local error text. */
#include "core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_BYTES = 2048 };
static _Thread_local char error_text[TEXT_BYTES];

const char *flrq_last_error(void) {
    return error_text;
}

flrq_status flrq_fail(flrq_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    return status;
}

flrq_status flrq_fail_errno(flrq_status status, const char *format, ...) {
    int code = errno;
    va_list args;
    va_start(args, format);
    int used = vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    if (used >= 0 && used < TEXT_BYTES)
        snprintf(error_text + used, sizeof error_text - (size_t)used, ": %s", strerror(code));
    return status;
}

flrq_status flrq_trace(flrq_status status, const char *format, ...) {
    char where[512], old[TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(where, sizeof where, format, args);
    va_end(args);
    memcpy(old, error_text, sizeof old);
    int used = snprintf(error_text, sizeof error_text, "%s: ", where);
    snprintf(error_text + used, sizeof error_text - (size_t)used, "%s", old);
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
