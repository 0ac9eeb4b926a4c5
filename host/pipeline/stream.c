/* stream.c - the queue of calls between two threads. */
#include "pipeline/stream.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct stage_call {
    flrq_stage_fn fn;
    void *context;
    _Alignas(8) char arguments[FLRQ_STAGE_ARGUMENTS];
} stage_call;

struct flrq_stage {
    int threaded, closing;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t queued, done; /* a call came or the end; a call was made */
    uint64_t calls, made;        /* so many were queued, so many are done or dropped */
    stage_call queue[FLRQ_STAGE_QUEUE];
    flrq_status status; /* of the first failure, and its text */
    char text[2048];
};

static void *run(void *argument) {
    flrq_stage *stage = argument;
    pthread_mutex_lock(&stage->lock);
    for (;;) {
        while (stage->made == stage->calls && !stage->closing) pthread_cond_wait(&stage->queued, &stage->lock);
        if (stage->made == stage->calls) break;
        if (stage->status == FLRQ_OK) {
            const stage_call *call = &stage->queue[stage->made % FLRQ_STAGE_QUEUE]; /* its place is free once made */
            pthread_mutex_unlock(&stage->lock);
            flrq_status status = call->fn(call->context, call->arguments);
            pthread_mutex_lock(&stage->lock);
            if (status != FLRQ_OK) {
                stage->status = status;
                snprintf(stage->text, sizeof stage->text, "%s", flrq_last_error());
            }
        }
        stage->made++;
        pthread_cond_broadcast(&stage->done);
    }
    pthread_mutex_unlock(&stage->lock);
    return NULL;
}

flrq_status flrq_stage_open(flrq_stage **out, const char *name, int threaded) {
    *out = NULL;
    flrq_stage *stage = calloc(1, sizeof *stage);
    if (!stage) return flrq_fail_memory(sizeof *stage, "a queue of calls");
    pthread_mutex_init(&stage->lock, NULL);
    pthread_cond_init(&stage->queued, NULL);
    pthread_cond_init(&stage->done, NULL);
    stage->threaded = threaded;
    if (threaded) {
        int error = pthread_create(&stage->thread, NULL, run, stage);
        if (error) {
            stage->threaded = 0;
            flrq_stage_close(stage);
            return flrq_fail(FLRQ_ERR_MEMORY, "the %s thread cannot be started: %s; --overlap off needs none", name,
                             strerror(error));
        }
#ifdef __GLIBC__
        pthread_setname_np(stage->thread, name);
#endif
    }
    *out = stage;
    return FLRQ_OK;
}

void flrq_stage_close(flrq_stage *stage) {
    if (!stage) return;
    if (stage->threaded) {
        pthread_mutex_lock(&stage->lock);
        stage->closing = 1;
        pthread_cond_signal(&stage->queued);
        pthread_mutex_unlock(&stage->lock);
        pthread_join(stage->thread, NULL);
    }
    pthread_cond_destroy(&stage->done);
    pthread_cond_destroy(&stage->queued);
    pthread_mutex_destroy(&stage->lock);
    free(stage);
}

/* Waits for the first `count` calls, or for their end in a failure. */
static flrq_status wait_for(flrq_stage *stage, uint64_t count) {
    while (stage->made < count) pthread_cond_wait(&stage->done, &stage->lock);
    return stage->status;
}

static flrq_status answer(const flrq_stage *stage, flrq_status status) {
    return status == FLRQ_OK ? FLRQ_OK : flrq_fail(status, "%s", stage->text);
}

/* The call at once, on the caller's thread. */
static flrq_status call_now(flrq_stage *stage, flrq_stage_fn fn, void *context, const void *arguments) {
    if (stage->status != FLRQ_OK) return answer(stage, stage->status);
    stage->status = fn(context, arguments);
    stage->calls++, stage->made++;
    if (stage->status != FLRQ_OK) snprintf(stage->text, sizeof stage->text, "%s", flrq_last_error());
    return stage->status;
}

flrq_status flrq_stage_call(flrq_stage *stage, flrq_stage_fn fn, void *context, const void *arguments, size_t bytes,
                            uint64_t *ticket) {
    if (bytes > FLRQ_STAGE_ARGUMENTS) return flrq_fail(FLRQ_ERR_INTERNAL, "a call with %zu bytes of arguments", bytes);
    if (ticket) *ticket = stage->calls + 1;
    if (!stage->threaded) return call_now(stage, fn, context, arguments);
    pthread_mutex_lock(&stage->lock);
    while (stage->calls - stage->made == FLRQ_STAGE_QUEUE) pthread_cond_wait(&stage->done, &stage->lock);
    flrq_status status = stage->status;
    if (status == FLRQ_OK) {
        stage_call *call = &stage->queue[stage->calls % FLRQ_STAGE_QUEUE];
        call->fn = fn, call->context = context;
        if (bytes) memcpy(call->arguments, arguments, bytes);
        stage->calls++;
        pthread_cond_signal(&stage->queued);
    }
    pthread_mutex_unlock(&stage->lock);
    return answer(stage, status);
}

flrq_status flrq_stage_wait(flrq_stage *stage, uint64_t ticket) {
    pthread_mutex_lock(&stage->lock);
    flrq_status status = wait_for(stage, ticket && ticket < stage->calls ? ticket : stage->calls);
    pthread_mutex_unlock(&stage->lock);
    return answer(stage, status);
}

flrq_status flrq_stage_drain(flrq_stage *stage) {
    pthread_mutex_lock(&stage->lock);
    flrq_status status = wait_for(stage, stage->calls);
    pthread_mutex_unlock(&stage->lock);
    return status;
}
