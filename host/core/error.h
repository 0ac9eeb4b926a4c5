/* error.h - how every layer reports failure: a status up the stack, one text beside it.
 *
 * The library never prints and never exits. The function that notices a fault calls flrq_fail() with the whole sentence
 * a user needs (file, tensor, number, remedy); callers may add where they were with flrq_trace(). The text is
 * thread-local and lives until the next flrq_fail() on that thread. Tasks of flrq_parallel_for() must not fail: check
 * before, or record a flag and fail after.
 */
#ifndef FLRQ_CORE_ERROR_H
#define FLRQ_CORE_ERROR_H

#include "flrq.h"

#if defined(__GNUC__)
#define FLRQ_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define FLRQ_PRINTF(fmt, args)
#endif

/** Sets the error text of this thread and returns `status`, so that `return flrq_fail(...)` is the whole idiom. */
flrq_status flrq_fail(flrq_status status, const char *format, ...) FLRQ_PRINTF(2, 3);

/** The same, with ": " and the text of `errno` appended. Use right after the failing call. */
flrq_status flrq_fail_errno(flrq_status status, const char *format, ...) FLRQ_PRINTF(2, 3);

/** Prepends "<where>: " to the present error text (a breadcrumb while unwinding). Returns `status`. */
flrq_status flrq_trace(flrq_status status, const char *format, ...) FLRQ_PRINTF(2, 3);

/** Out-of-memory with the number of bytes and what they were for. */
flrq_status flrq_fail_memory(size_t bytes, const char *what);

/** The error text of this thread, for a plugin to write to; see backend/plugin.h. */
char *flrq_error_text(void);

/** Called once in a plugin: its failures go to the text that `text` returns. */
void flrq_error_share(char *(*text)(void));

/** Evaluates once; on failure returns the status from the calling function. */
#define FLRQ_TRY(expr)                                                                                                 \
    do {                                                                                                               \
        flrq_status flrq_try_status_ = (expr);                                                                         \
        if (flrq_try_status_ != FLRQ_OK) return flrq_try_status_;                                                      \
    } while (0)

/** Evaluates once; on failure stores the status in the local `status` and jumps to `out`. */
#define FLRQ_GOTO(expr)                                                                                                \
    do {                                                                                                               \
        status = (expr);                                                                                               \
        if (status != FLRQ_OK) goto out;                                                                               \
    } while (0)

#endif
