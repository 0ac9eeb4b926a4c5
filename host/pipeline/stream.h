/* stream.h - a thread beside the main one that makes calls in order: the reader or the writer of a job.
 *
 * A stage without a thread makes each call at once, so a job is the same code with and without overlap. The first call
 * that fails ends the stage: what is queued behind it is dropped, and its status and text are the answer to every later
 * use, on the thread that asks. Nothing allocates but flrq_stage_open(). Used by one thread at a time.
 */
#ifndef FLRQ_PIPELINE_STREAM_H
#define FLRQ_PIPELINE_STREAM_H

#include "core/error.h"

/* Bytes of a call's arguments, which are copied, and calls that may wait. */
enum { FLRQ_STAGE_ARGUMENTS = 64, FLRQ_STAGE_QUEUE = 64 };

typedef struct flrq_stage flrq_stage;
typedef flrq_status (*flrq_stage_fn)(void *context, const void *arguments);

/** name: of the thread, at most 15 characters. */
flrq_status flrq_stage_open(flrq_stage **out, const char *name, int threaded);

/** Waits for the calls that were queued and frees. NULL is fine. */
void flrq_stage_close(flrq_stage *stage);

/** Has fn(context, copy of the arguments) called after all earlier calls; waits for room in the queue. *ticket (may be
 * NULL) names the call. */
flrq_status flrq_stage_call(flrq_stage *stage, flrq_stage_fn fn, void *context, const void *arguments, size_t bytes,
                            uint64_t *ticket);

/** Waits until the call `ticket` (0: every call) is done. */
flrq_status flrq_stage_wait(flrq_stage *stage, uint64_t ticket);

/** Waits for every call and leaves this thread's error text alone: for a caller that has an error of its own to tell.
 */
flrq_status flrq_stage_drain(flrq_stage *stage);

#endif
