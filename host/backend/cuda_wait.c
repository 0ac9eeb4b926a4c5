/* cuda_wait.c - how the host waits for the device: the one place where it does.
 *
 * A run with other workers must not wait blindly: what the device waits for may be a worker that has died. So with a
 * watch the host asks the device in turns, and now and then the watch and the link. Without one it waits in the driver.
 *
 * Cost. A question (cudaStreamQuery, cudaEventQuery) takes 1 to 2 us and the host asks without pause for SPIN seconds,
 * about as long as the driver's own blocking wait needs to sleep and be woken; ops that return a scalar are mostly
 * shorter. Then it sleeps an eighth of the time waited so far, at most LONGEST: a wait is noticed to be over 12 % of
 * its length later at most, and never more than 1 ms, while a wait of a second costs a thousand questions, 0.2 % of a
 * core.
 */
#include "backend/cuda.h"

#include <time.h>

static const double SPIN = 50e-6, LONGEST = 1e-3, ASK = 0.1; /* seconds; ASK: between two questions to the watch */

static _Thread_local double wait_began; /* 0: this thread is not waiting */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_after(double waited) {
    if (waited < SPIN) return;
    double seconds = waited / 8 < LONGEST ? waited / 8 : LONGEST;
    struct timespec t = {0, (long)(seconds * 1e9)};
    (void)nanosleep(&t, NULL);
}

double cuda_waited(void) {
    return wait_began > 0 ? now() - wait_began : 0;
}

flrq_status cuda_watch(cuda_state *state) {
    if (!atomic_load(&state->watched) || pthread_mutex_trylock(&state->watching) != 0) return FLRQ_OK;
    flrq_status status = state->watch ? state->watch(state->watch_user) : FLRQ_OK;
    pthread_mutex_unlock(&state->watching);
    return status;
}

static flrq_status wait_loop(cuda_state *state, cuda_ask_fn ask, void *what) {
    double asked = wait_began;
    for (;;) {
        int done = 0;
        FLRQ_TRY(ask(what, &done));
        if (done) return cuda_link_state(state);
        double time = now();
        if (time - asked >= ASK) {
            asked = time;
            FLRQ_TRY(cuda_link_look(state));
            flrq_status status = cuda_watch(state);
            if (status != FLRQ_OK) {
                cuda_link_break(state, status);
                return status;
            }
        }
        pause_after(time - wait_began);
    }
}

flrq_status cuda_wait_until(cuda_state *state, cuda_ask_fn ask, void *what) {
    double outer = wait_began; /* a watch may wait itself */
    wait_began = now();
    flrq_status status = wait_loop(state, ask, what);
    wait_began = outer;
    return status;
}

/* ---- streams and events ------------------------------------------------------------------------------------------ */

typedef struct work {
    cudaStream_t stream;
    cudaEvent_t event; /* NULL: the stream */
    const char *op;
    int64_t bytes;
} work;

/* "Not ready" must not stay as the thread's last error, which launches report. */
static flrq_status ask_device(void *what, int *done) {
    const work *w = what;
    cudaError_t error = w->event ? cudaEventQuery(w->event) : cudaStreamQuery(w->stream);
    *done = error == cudaSuccess;
    if (error != cudaErrorNotReady) return cuda_check(error, w->op, 1, w->bytes);
    (void)cudaGetLastError();
    return FLRQ_OK;
}

static flrq_status wait_for(cuda_state *state, work w) {
    if (atomic_load(&state->watched)) return cuda_wait_until(state, ask_device, &w);
    FLRQ_TRY(cuda_check(w.event ? cudaEventSynchronize(w.event) : cudaStreamSynchronize(w.stream), w.op, 1, w.bytes));
    return cuda_link_state(state);
}

flrq_status cuda_wait(cuda_state *state, cudaStream_t stream, const char *op, int64_t bytes) {
    return wait_for(state, (work){.stream = stream, .op = op, .bytes = bytes});
}

flrq_status cuda_wait_event(cuda_state *state, cudaEvent_t event, const char *op, int64_t bytes) {
    return wait_for(state, (work){.event = event, .op = op, .bytes = bytes});
}
