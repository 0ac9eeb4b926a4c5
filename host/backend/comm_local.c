/* comm_local.c - workers that are threads of one process, with memory of the host.
 *
 * A board under one lock holds what every worker has posted. A call posts, waits until all have posted the same step
 * (the first meeting), copies what the others posted straight out of their buffers, and waits until all have copied
 * (the second meeting): only then may a buffer change again. Whoever notices a failure writes it on the board once; all
 * waits end with it. A call never returns while another thread still reads this worker's buffers, whatever happened.
 * Devices with memory of their own are refused: their values go by links (comm_nccl.c).
 */
#include "backend/comm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PLACE_BYTES = 64, PHASE_BYTES = 48, WORKER_BYTES = 256, TEXT_BYTES = 1536 };

typedef enum call { CALL_NONE, CALL_GATHER_HOST, CALL_BROADCAST_HOST, CALL_GATHER, CALL_TRANSFER } call;
static const char *const call_names[] = {"none", "gather_host", "broadcast_host", "gather", "transfer"};

/* What a worker shows the others during a call. */
typedef struct post {
    call call;
    void *data; /* gather_host, broadcast_host, gather */
    size_t bytes;
    const size_t *first;
    const flrq_transfer *sends;
    int n_sends;
    const flrq_transfer *receives; /* read by this worker only */
    int n_receives;
    int root; /* broadcast_host */
} post;

/* A gather between its begin and its end. */
typedef struct begun {
    void *d_all;
    size_t *first;
} begun;

typedef struct board board;

typedef struct worker {
    flrq_comm comm; /* what the caller holds; first, so that one is the other */
    board *board;
    post post;
    int64_t step; /* meetings this worker has come to */
    int left;
    char place[PLACE_BYTES], phase[PHASE_BYTES];
    int64_t block; /* -1: none */
    begun *begun;
    int n_begun;
} worker;

struct board {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size, open;     /* workers of the group, and those that have not been closed */
    int copying;        /* workers between the two meetings of a call */
    flrq_status status; /* of the first failure */
    char text[TEXT_BYTES];
    worker workers[];
};

/* ---- messages; under the lock ------------------------------------------------------------------------------------ */

/* "worker 2 of 3 (cpu), block 4, quantize" */
static void describe(const board *b, int rank, char out[WORKER_BYTES]) {
    const worker *w = &b->workers[rank];
    char block[32] = "";
    if (w->block >= 0) snprintf(block, sizeof block, ", block %lld", (long long)w->block);
    snprintf(out, WORKER_BYTES, "worker %d of %d (%s)%s%s%s", rank, b->size, w->place, block, w->phase[0] ? ", " : "",
             w->phase);
}

/* The first failure counts. */
static void set_failure(board *b, flrq_status status, const char *text) {
    if (b->status != FLRQ_OK) return;
    b->status = status;
    snprintf(b->text, sizeof b->text, "%s", text);
    pthread_cond_broadcast(&b->changed);
}

static flrq_status give_failure(const board *b) {
    return flrq_fail(b->status, "%s", b->text);
}

/* Names those that `w` waits for: all that have come to fewer meetings. */
static void set_time_out(board *b, const worker *w) {
    char text[TEXT_BYTES] = "", who[WORKER_BYTES];
    int missing = 0;
    size_t used = 0;
    for (int rank = 0; rank < b->size; rank++) {
        if (b->workers[rank].step >= w->step) continue;
        if (missing++ >= 4) continue;
        describe(b, rank, who);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", missing > 1 ? "; " : "", who);
    }
    if (missing > 4) used += (size_t)snprintf(text + used, sizeof text - used, "; and %d more", missing - 4);
    snprintf(text + used, sizeof text - used, ", %s not come for %g s: hanging, or slower than the time-out allows",
             missing == 1 ? "has" : "have", w->comm.timeout);
    set_failure(b, FLRQ_ERR_PEER, text);
}

/* ---- meetings ---------------------------------------------------------------------------------------------------- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Waits for a change of the board, at most until `deadline` and never longer than 0.2 s, the rhythm of the watch. */
static void wait_a_little(board *b, double deadline) {
    double until = now() + 0.2;
    if (deadline < until) until = deadline;
    struct timespec t = {.tv_sec = (time_t)until};
    t.tv_nsec = (long)(1e9 * (until - (double)t.tv_sec));
    pthread_cond_timedwait(&b->changed, &b->lock, &t);
}

/* One look at the others, under the lock: FLRQ_OK, *missing workers not there yet; or a failure. */
static flrq_status look_around(board *b, const worker *w, int *missing) {
    if (b->status != FLRQ_OK) return give_failure(b);
    *missing = 0;
    for (int rank = 0; rank < b->size; rank++) {
        const worker *other = &b->workers[rank];
        if (other->step >= w->step) continue;
        if (other->left) {
            char who[WORKER_BYTES], text[TEXT_BYTES];
            describe(b, rank, who);
            snprintf(text, sizeof text, "%s, left the run while others wait for it", who);
            set_failure(b, FLRQ_ERR_PEER, text);
            return give_failure(b);
        }
        ++*missing;
    }
    return FLRQ_OK;
}

/* Comes to the next meeting and waits for all others. Under the lock. */
static flrq_status meet(board *b, worker *w) {
    w->step++;
    pthread_cond_broadcast(&b->changed);
    double deadline = now() + w->comm.timeout, watched = now();
    for (;;) {
        int missing;
        FLRQ_TRY(look_around(b, w, &missing));
        if (!missing) return FLRQ_OK;
        double time = now();
        if (time >= deadline) {
            set_time_out(b, w);
            return give_failure(b);
        }
        if (w->comm.watch && time - watched >= 0.2) {
            pthread_mutex_unlock(&b->lock);
            flrq_status status = w->comm.watch(w->comm.watch_user);
            pthread_mutex_lock(&b->lock);
            if (status != FLRQ_OK) {
                set_failure(b, status, flrq_last_error());
                return status;
            }
            watched = now();
            continue;
        }
        wait_a_little(b, deadline);
    }
}

/* All workers must have posted the same call. Under the lock. */
static flrq_status check_calls(board *b, const worker *w) {
    for (int rank = 0; rank < b->size; rank++) {
        const post *other = &b->workers[rank].post;
        if (other->call == w->post.call && other->bytes == w->post.bytes && other->root == w->post.root) continue;
        char text[TEXT_BYTES];
        snprintf(text, sizeof text,
                 "workers %d and %d do not do the same: %s of %zu bytes from %d, and %s of %zu from %d", w->comm.rank,
                 rank, call_names[w->post.call], w->post.bytes, w->post.root, call_names[other->call], other->bytes,
                 other->root);
        set_failure(b, FLRQ_ERR_INTERNAL, text);
        return give_failure(b);
    }
    return FLRQ_OK;
}

typedef flrq_status (*copy_fn)(worker *w, flrq_backend *be);

/* One call: post, meet, copy, meet. */
static flrq_status exchange(flrq_comm *comm, flrq_backend *be, post what, copy_fn copy) {
    worker *w = (worker *)comm;
    board *b = w->board;
    pthread_mutex_lock(&b->lock);
    w->post = what;
    flrq_status status = meet(b, w);
    if (status == FLRQ_OK) status = check_calls(b, w);
    if (status == FLRQ_OK) {
        b->copying++;
        pthread_mutex_unlock(&b->lock);
        status = copy(w, be);
        pthread_mutex_lock(&b->lock);
        b->copying--;
        if (status != FLRQ_OK) set_failure(b, status, flrq_last_error());
        pthread_cond_broadcast(&b->changed);
        if (status == FLRQ_OK) status = meet(b, w);
    }
    if (status != FLRQ_OK) /* copies of others end by themselves, and no new ones begin */
        while (b->copying) pthread_cond_wait(&b->changed, &b->lock);
    pthread_mutex_unlock(&b->lock);
    return status;
}

/* ---- the calls --------------------------------------------------------------------------------------------------- */

static const post *post_of(const worker *w, int rank) {
    return &w->board->workers[rank].post;
}

static flrq_status copy_gather_host(worker *w, flrq_backend *be) {
    size_t bytes = w->post.bytes;
    for (int rank = 0; rank < w->comm.size; rank++) {
        size_t place = bytes * (size_t)rank;
        if (rank != w->comm.rank && bytes)
            memcpy((char *)w->post.data + place, (const char *)post_of(w, rank)->data + place, bytes);
    }
    return FLRQ_OK;
}

static flrq_status gather_host(flrq_comm *comm, void *all, size_t bytes) {
    post what = {.call = CALL_GATHER_HOST, .data = all, .bytes = bytes};
    return exchange(comm, NULL, what, copy_gather_host);
}

static flrq_status copy_broadcast_host(worker *w, flrq_backend *be) {
    int root = w->post.root;
    if (root != w->comm.rank && w->post.bytes) memcpy(w->post.data, post_of(w, root)->data, w->post.bytes);
    return FLRQ_OK;
}

static flrq_status broadcast_host(flrq_comm *comm, void *data, size_t bytes, int root) {
    if (root < 0 || root >= comm->size)
        return flrq_fail(FLRQ_ERR_INTERNAL, "a broadcast from worker %d of %d", root, comm->size);
    post what = {.call = CALL_BROADCAST_HOST, .data = data, .bytes = bytes, .root = root};
    return exchange(comm, NULL, what, copy_broadcast_host);
}

static flrq_status check_memory(const flrq_backend *be) {
    if (be->link_open)
        return flrq_fail(FLRQ_ERR_INTERNAL, "threads cannot copy the memory of device %s: open a link", be->name);
    return FLRQ_OK;
}

static flrq_status copy_gather(worker *w, flrq_backend *be) {
    const size_t *first = w->post.first;
    for (int rank = 0; rank < w->comm.size; rank++) {
        size_t bytes = first[rank + 1] - first[rank];
        if (rank == w->comm.rank || !bytes) continue;
        const post *other = post_of(w, rank);
        if (other->first[rank] != first[rank] || other->first[rank + 1] != first[rank + 1])
            return flrq_fail(FLRQ_ERR_INTERNAL, "workers %d and %d disagree on the part of %d in a gather",
                             w->comm.rank, rank, rank);
        FLRQ_TRY(be->copy(be, (char *)w->post.data + first[rank], (const char *)other->data + first[rank], bytes));
    }
    return FLRQ_OK;
}

static flrq_status gather(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    FLRQ_TRY(check_memory(be));
    post what = {.call = CALL_GATHER, .data = d_all, .first = first};
    return exchange(comm, be, what, copy_gather);
}

/* The copies wait for gather_end(): until then the others' parts need not be there. */
static flrq_status gather_begin(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    FLRQ_TRY(check_memory(be));
    worker *w = (worker *)comm;
    size_t first_bytes = (size_t)(comm->size + 1) * sizeof *first;
    size_t list_bytes = (size_t)(w->n_begun + 1) * sizeof *w->begun;
    begun *list = realloc(w->begun, list_bytes);
    if (!list) return flrq_fail_memory(list_bytes, "the list of gathers");
    w->begun = list;
    size_t *copy = malloc(first_bytes);
    if (!copy) return flrq_fail_memory(first_bytes, "the places of a gather's parts");
    memcpy(copy, first, first_bytes);
    w->begun[w->n_begun++] = (begun){d_all, copy};
    return FLRQ_OK;
}

static flrq_status gather_end(flrq_comm *comm, flrq_backend *be) {
    worker *w = (worker *)comm;
    flrq_status status = FLRQ_OK;
    for (int i = 0; i < w->n_begun; i++) {
        if (status == FLRQ_OK) status = gather(comm, be, w->begun[i].d_all, w->begun[i].first);
        free(w->begun[i].first);
    }
    w->n_begun = 0;
    return status;
}

/* Pieces from `rank` to this worker: those that both list, in order. */
static flrq_status copy_pieces(worker *w, flrq_backend *be, int rank) {
    const post *other = post_of(w, rank);
    int next = 0;
    for (int i = 0;; i++, next++) {
        while (i < w->post.n_receives && w->post.receives[i].peer != rank) i++;
        while (next < other->n_sends && other->sends[next].peer != w->comm.rank) next++;
        int wanted = i < w->post.n_receives, given = next < other->n_sends;
        if (!wanted && !given) return FLRQ_OK;
        if (!wanted || !given || w->post.receives[i].bytes != other->sends[next].bytes)
            return flrq_fail(FLRQ_ERR_INTERNAL, "workers %d and %d disagree on the pieces of a transfer", rank,
                             w->comm.rank);
        void *d_to = w->post.receives[i].d_data;
        const void *d_from = other->sends[next].d_data;
        if (d_to != d_from) FLRQ_TRY(be->copy(be, d_to, d_from, other->sends[next].bytes));
    }
}

static flrq_status copy_transfer(worker *w, flrq_backend *be) {
    for (int rank = 0; rank < w->comm.size; rank++) FLRQ_TRY(copy_pieces(w, be, rank));
    return FLRQ_OK;
}

static flrq_status transfer(flrq_comm *comm, flrq_backend *be, const flrq_transfer *sends, int n_sends,
                            const flrq_transfer *receives, int n_receives) {
    FLRQ_TRY(check_memory(be));
    post what = {
        .call = CALL_TRANSFER, .sends = sends, .n_sends = n_sends, .receives = receives, .n_receives = n_receives};
    return exchange(comm, be, what, copy_transfer);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static flrq_status check(flrq_comm *comm) {
    board *b = ((worker *)comm)->board;
    pthread_mutex_lock(&b->lock);
    flrq_status status = b->status == FLRQ_OK ? FLRQ_OK : give_failure(b);
    pthread_mutex_unlock(&b->lock);
    return status;
}

static void doing(flrq_comm *comm, int64_t block, const char *phase) {
    worker *w = (worker *)comm;
    pthread_mutex_lock(&w->board->lock);
    w->block = block;
    snprintf(w->phase, sizeof w->phase, "%s", phase ? phase : "");
    pthread_mutex_unlock(&w->board->lock);
}

static void fail(flrq_comm *comm, flrq_status status, const char *text) {
    board *b = ((worker *)comm)->board;
    char who[WORKER_BYTES], whole[TEXT_BYTES];
    pthread_mutex_lock(&b->lock);
    describe(b, comm->rank, who);
    snprintf(whole, sizeof whole, "%s: %s", who, text);
    set_failure(b, status, whole);
    pthread_mutex_unlock(&b->lock);
}

static void board_free(board *b) {
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static void close_worker(flrq_comm *comm) {
    worker *w = (worker *)comm;
    board *b = w->board;
    for (int i = 0; i < w->n_begun; i++) free(w->begun[i].first);
    free(w->begun);
    pthread_mutex_lock(&b->lock);
    w->left = 1;
    int last = --b->open == 0;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    if (last) board_free(b);
}

/* Times are counted on a clock that nobody sets. */
static int init_lock(board *b) {
    pthread_condattr_t monotonic;
    if (pthread_condattr_init(&monotonic) != 0) return 0;
    int ok =
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&b->changed, &monotonic) == 0;
    pthread_condattr_destroy(&monotonic);
    if (!ok) return 0;
    if (pthread_mutex_init(&b->lock, NULL) == 0) return 1;
    pthread_cond_destroy(&b->changed);
    return 0;
}

flrq_status flrq_comm_local(flrq_comm **out, int size, const char *const *place, double timeout) {
    static const flrq_comm calls = {.name = "local",
                                    .gather_host = gather_host,
                                    .broadcast_host = broadcast_host,
                                    .gather = gather,
                                    .gather_begin = gather_begin,
                                    .gather_end = gather_end,
                                    .transfer = transfer,
                                    .check = check,
                                    .doing = doing,
                                    .fail = fail,
                                    .close = close_worker};
    if (size < 1) return flrq_fail(FLRQ_ERR_USAGE, "a group of %d workers", size);
    size_t bytes = sizeof(board) + (size_t)size * sizeof(worker);
    board *b = calloc(1, bytes);
    if (!b) return flrq_fail_memory(bytes, "the group of workers");
    if (!init_lock(b)) {
        free(b);
        return flrq_fail(FLRQ_ERR_INTERNAL, "the system gives no lock for a group of workers");
    }
    b->size = b->open = size;
    for (int rank = 0; rank < size; rank++) {
        worker *w = &b->workers[rank];
        w->comm = calls;
        w->comm.rank = rank;
        w->comm.size = size;
        w->comm.timeout = timeout;
        w->board = b;
        w->block = -1;
        snprintf(w->place, sizeof w->place, "%s", place[rank]);
        out[rank] = &w->comm;
    }
    return FLRQ_OK;
}
