/* mpi_plugin.c - workers that are processes, joined by MPI; memory of the host. Compiled once for each MPI, for their
 * ABIs differ, into a plugin that comm_mpi.c loads. Nothing of MPI is seen outside this file.
 *
 * Every call is made of sends and receives between two workers, in pieces whose length fits MPI's int. They are few
 * (one worker is a device or a node of a CPU cluster) and large, so trees gain little, and a receive that is pending
 * names the worker that has not come. Nothing blocks: a waiting call tests its requests, the notices of others and the
 * watch, and ends with the time-out.
 *
 * A second communicator carries notices: a worker fails, or leaves. After a failure MPI is not called again, for
 * requests that are still under way point into memory that the callers free; so a failure that a call notices is told
 * to the others before the call returns. For the same reason MPI_Finalize, which waits for all, is then left out: the
 * process ends without it, which mpirun reports and takes as a reason to end the others too.
 */
#include "backend/comm.h"
#include "backend/plugin.h"

#include <mpi.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef MPI_PLUGIN_PIECE /* tests make it small */
#define MPI_PLUGIN_PIECE ((size_t)1 << 30)
#endif

enum { PLACE_BYTES = 96, PHASE_BYTES = 48, TEXT_BYTES = 1536, TAG = 1, FINALIZE_SECONDS = 10 };

/* Tests of requests without a pause, some tens of microseconds; then as many that give way to other threads; then one
 * in NAP_NS, about 1 % of a core. */
enum { SPINS = 200, NAP_NS = 100000 };

/* What workers say beside the calls. Small enough to leave at once, whatever the receiver does. */
typedef struct notice {
    int32_t leaves; /* 1: this worker leaves in peace; 0: it fails */
    int32_t status;
    int64_t calls;               /* that it has made */
    char text[TEXT_BYTES + 256]; /* who, and what happened */
} notice;

typedef struct request {
    MPI_Request handle;
    int peer, receives;
    size_t bytes;
} request;

typedef struct queue {
    request *list;
    int count, room;
    int done; /* the first so many are complete */
} queue;

typedef struct group {
    flrq_comm *comm;
    MPI_Comm values, notices;
    queue now, beside; /* of the present call; of gathers begun */
    int64_t calls;
    int64_t *left; /* [size] calls that a worker had made when it left; -1: it is there */
    int others;    /* other workers that are there */
    char (*places)[PLACE_BYTES];
    notice heard, told;
    MPI_Request hearing, *telling; /* telling [size] */
    flrq_status status;            /* of the first failure: MPI is not called any more */
    char text[sizeof(((notice *)0)->text)];
    int64_t block; /* -1: none */
    char phase[PHASE_BYTES];
} group;

static group *group_of(flrq_comm *comm) {
    return comm->state;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static flrq_status fail_mpi(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return flrq_fail(FLRQ_ERR_PEER, "MPI, %s: %s", what, text);
}

/* ---- notices ----------------------------------------------------------------------------------------------------- */

static int all_told(group *g) {
    int done = 1;
    for (int rank = 0; rank < g->comm->size && done; rank++)
        if (MPI_Test(&g->telling[rank], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return 0;
    return done;
}

/* Sends g->told to all others and waits for it to leave, one second at most. */
static void tell(group *g) {
    for (int rank = 0; rank < g->comm->size; rank++) {
        g->telling[rank] = MPI_REQUEST_NULL;
        if (rank != g->comm->rank)
            MPI_Isend(&g->told, (int)sizeof g->told, MPI_BYTE, rank, TAG, g->notices, &g->telling[rank]);
    }
    for (double end = now() + 1; !all_told(g) && now() < end;) sched_yield();
}

/* The group is broken, as this worker is the first to know: the others hear it. */
static flrq_status tell_failure(group *g, flrq_status status, const char *text) {
    char block[32] = "";
    if (g->status != FLRQ_OK) return status;
    if (g->block >= 0) snprintf(block, sizeof block, ", block %lld", (long long)g->block);
    snprintf(g->text, TEXT_BYTES, "%s", text);
    g->status = status;
    g->told = (notice){.status = (int32_t)status, .calls = g->calls};
    snprintf(g->told.text, sizeof g->told.text, "worker %d of %d (%s)%s%s%s: %s", g->comm->rank, g->comm->size,
             g->places[g->comm->rank], block, g->phase[0] ? ", " : "", g->phase, text);
    tell(g);
    return status;
}

/* Awaits the next notice, as long as there is a worker that may send one. */
static flrq_status hear(group *g) {
    if (g->others == 0) return FLRQ_OK;
    int code = MPI_Irecv(&g->heard, (int)sizeof g->heard, MPI_BYTE, MPI_ANY_SOURCE, TAG, g->notices, &g->hearing);
    return code == MPI_SUCCESS ? FLRQ_OK : tell_failure(g, fail_mpi(code, "waiting for notices"), flrq_last_error());
}

/* Reads the notices that have come. FLRQ_OK, or the failure of another worker. */
static flrq_status listen(group *g) {
    while (g->status == FLRQ_OK && g->others > 0) {
        int there = 0;
        MPI_Status from;
        int code = MPI_Test(&g->hearing, &there, &from);
        if (code != MPI_SUCCESS) return tell_failure(g, fail_mpi(code, "reading notices"), flrq_last_error());
        if (!there) return FLRQ_OK;
        if (g->heard.leaves) {
            g->left[from.MPI_SOURCE] = g->heard.calls;
            g->others--;
            FLRQ_TRY(hear(g));
            continue;
        }
        g->heard.text[sizeof g->heard.text - 1] = 0;
        g->status = (flrq_status)g->heard.status;
        memcpy(g->text, g->heard.text, sizeof g->text);
    }
    return g->status == FLRQ_OK ? FLRQ_OK : flrq_fail(g->status, "%s", g->text);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

typedef struct waiting {
    double start, watched;
    int tests;
} waiting;

/* A worker that has left before the present call will not come. */
static flrq_status check_left(group *g) {
    for (int rank = 0; rank < g->comm->size; rank++)
        if (g->left[rank] >= 0 && g->left[rank] < g->calls)
            return flrq_fail(FLRQ_ERR_PEER, "worker %d of %d (%s), left the run while others wait for it", rank,
                             g->comm->size, g->places[rank]);
    return FLRQ_OK;
}

/* The workers whose requests are pending, at most four by name; or who is late as the watch sees it, which also knows
 * what they are doing. */
static flrq_status time_out(group *g, queue *q) {
    if (g->comm->watch_timeout) return g->comm->watch_timeout(g->comm->watch_user, g->comm->timeout);
    char text[TEXT_BYTES] = "";
    size_t used = 0;
    int missing = 0;
    for (int rank = 0; rank < g->comm->size; rank++) {
        int pending = 0;
        for (int i = q->done; i < q->count && !pending; i++) {
            int complete = 0;
            if (q->list[i].peer == rank) MPI_Test(&q->list[i].handle, &complete, MPI_STATUS_IGNORE);
            pending = q->list[i].peer == rank && !complete;
        }
        if (!pending || missing++ >= 4) continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%sworker %d of %d (%s)", missing > 1 ? "; " : "",
                                 rank, g->comm->size, g->places[rank]);
    }
    if (missing > 4) snprintf(text + used, sizeof text - used, "; and %d more", missing - 4);
    return flrq_fail(FLRQ_ERR_PEER, "%s, %s not come for %g s: hanging, or slower than the time-out allows", text,
                     missing == 1 ? "has" : "have", g->comm->timeout);
}

/* Between two tests of the queue `q`. */
static flrq_status pause_between(group *g, waiting *w, queue *q) {
    FLRQ_TRY(listen(g));
    if (w->tests++ < SPINS) return FLRQ_OK;
    double time = now();
    if (w->start == 0) w->start = w->watched = time;
    FLRQ_TRY(check_left(g));
    if (time - w->start >= g->comm->timeout) return time_out(g, q);
    if (g->comm->watch && time - w->watched >= 0.2) {
        FLRQ_TRY(g->comm->watch(g->comm->watch_user));
        w->watched = time;
    }
    struct timespec nap = {0, NAP_NS};
    if (w->tests < 2 * SPINS)
        sched_yield();
    else
        nanosleep(&nap, NULL);
    return FLRQ_OK;
}

/* Adds a send or a receive to the queue, as pieces. */
static flrq_status post(group *g, queue *q, int receives, int peer, void *memory, size_t bytes) {
    for (size_t at = 0, piece; at < bytes; at += piece) {
        piece = bytes - at < MPI_PLUGIN_PIECE ? bytes - at : MPI_PLUGIN_PIECE;
        if (q->count == q->room) {
            int room = q->room ? 2 * q->room : 64;
            request *list = realloc(q->list, (size_t)room * sizeof *list);
            if (!list) {
                flrq_status status = flrq_fail_memory((size_t)room * sizeof *list, "a list of MPI requests");
                return tell_failure(g, status, flrq_last_error());
            }
            q->list = list;
            q->room = room;
        }
        request *r = &q->list[q->count];
        *r = (request){.peer = peer, .receives = receives, .bytes = piece};
        int code = receives ? MPI_Irecv((char *)memory + at, (int)piece, MPI_BYTE, peer, TAG, g->values, &r->handle)
                            : MPI_Isend((char *)memory + at, (int)piece, MPI_BYTE, peer, TAG, g->values, &r->handle);
        if (code != MPI_SUCCESS)
            return tell_failure(g, fail_mpi(code, receives ? "a receive" : "a send"), flrq_last_error());
        q->count++;
    }
    return FLRQ_OK;
}

/* Completes the queue and empties it. */
static flrq_status complete(group *g, queue *q) {
    waiting w = {0};
    while (q->done < q->count) {
        request *r = &q->list[q->done];
        int there = 0, got = (int)r->bytes;
        MPI_Status status;
        int code = MPI_Test(&r->handle, &there, &status);
        if (code == MPI_SUCCESS && there && r->receives) code = MPI_Get_count(&status, MPI_BYTE, &got);
        if (code != MPI_SUCCESS) {
            fail_mpi(code, r->receives ? "receiving" : "sending");
            flrq_trace(FLRQ_ERR_PEER, "worker %d of %d (%s)", r->peer, g->comm->size, g->places[r->peer]);
            return tell_failure(g, FLRQ_ERR_PEER, flrq_last_error());
        }
        if ((size_t)got != r->bytes) {
            flrq_fail(FLRQ_ERR_INTERNAL, "worker %d sent %d bytes where %d awaited %zu", r->peer, got, g->comm->rank,
                      r->bytes);
            return tell_failure(g, FLRQ_ERR_INTERNAL, flrq_last_error());
        }
        if (there) {
            q->done++;
            continue;
        }
        flrq_status looked = pause_between(g, &w, q);
        if (looked != FLRQ_OK) return tell_failure(g, looked, flrq_last_error());
    }
    q->done = q->count = 0;
    return FLRQ_OK;
}

/* ---- the calls --------------------------------------------------------------------------------------------------- */

static flrq_status begin(group *g) {
    FLRQ_TRY(listen(g));
    g->calls++;
    return FLRQ_OK;
}

/* The part of every worker to all: receives first, so that nothing arrives unexpected; peers in turn, so that not all
 * send to the same one. */
static flrq_status post_gather(group *g, queue *q, char *all, const size_t *first) {
    int rank = g->comm->rank, size = g->comm->size;
    for (int step = 1; step < size; step++) {
        int peer = (rank + size - step) % size;
        FLRQ_TRY(post(g, q, 1, peer, all + first[peer], first[peer + 1] - first[peer]));
    }
    for (int step = 1; step < size; step++)
        FLRQ_TRY(post(g, q, 0, (rank + step) % size, all + first[rank], first[rank + 1] - first[rank]));
    return FLRQ_OK;
}

static flrq_status gather_host(flrq_comm *comm, void *all, size_t bytes) {
    group *g = group_of(comm);
    FLRQ_TRY(begin(g));
    size_t *first = malloc((size_t)(comm->size + 1) * sizeof *first);
    if (!first) return flrq_fail_memory((size_t)(comm->size + 1) * sizeof *first, "the places of a gather's parts");
    for (int rank = 0; rank <= comm->size; rank++) first[rank] = (size_t)rank * bytes;
    flrq_status status = post_gather(g, &g->now, all, first);
    free(first);
    return status == FLRQ_OK ? complete(g, &g->now) : status;
}

static flrq_status broadcast_host(flrq_comm *comm, void *data, size_t bytes, int root) {
    group *g = group_of(comm);
    if (root < 0 || root >= comm->size)
        return flrq_fail(FLRQ_ERR_INTERNAL, "a broadcast from worker %d of %d", root, comm->size);
    FLRQ_TRY(begin(g));
    if (comm->rank != root) FLRQ_TRY(post(g, &g->now, 1, root, data, bytes));
    for (int step = 1; step < comm->size && comm->rank == root; step++)
        FLRQ_TRY(post(g, &g->now, 0, (root + step) % comm->size, data, bytes));
    return complete(g, &g->now);
}

static flrq_status check_memory(const flrq_backend *be) {
    if (be->link_open)
        return flrq_fail(FLRQ_ERR_INTERNAL, "MPI does not carry the memory of device %s: open a link", be->name);
    return FLRQ_OK;
}

static flrq_status gather(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    group *g = group_of(comm);
    FLRQ_TRY(check_memory(be));
    FLRQ_TRY(begin(g));
    FLRQ_TRY(post_gather(g, &g->now, d_all, first));
    return complete(g, &g->now);
}

/* Sends and receives are under way at once; MPI carries them on whenever it is called. */
static flrq_status gather_begin(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    group *g = group_of(comm);
    FLRQ_TRY(check_memory(be));
    FLRQ_TRY(begin(g));
    return post_gather(g, &g->beside, d_all, first);
}

static flrq_status gather_end(flrq_comm *comm, flrq_backend *be) {
    group *g = group_of(comm);
    FLRQ_TRY(begin(g));
    return complete(g, &g->beside);
}

/* Pieces to itself, in order. */
static flrq_status copy_own(flrq_comm *comm, flrq_backend *be, const flrq_transfer *sends, int n_sends,
                            const flrq_transfer *receives, int n_receives) {
    for (int i = 0, k = 0;; i++, k++) {
        while (i < n_sends && sends[i].peer != comm->rank) i++;
        while (k < n_receives && receives[k].peer != comm->rank) k++;
        if (i == n_sends && k == n_receives) return FLRQ_OK;
        if (i == n_sends || k == n_receives || sends[i].bytes != receives[k].bytes)
            return flrq_fail(FLRQ_ERR_INTERNAL, "worker %d disagrees with itself on the pieces of a transfer",
                             comm->rank);
        if (sends[i].d_data != receives[k].d_data)
            FLRQ_TRY(be->copy(be, receives[k].d_data, sends[i].d_data, sends[i].bytes));
    }
}

static flrq_status transfer(flrq_comm *comm, flrq_backend *be, const flrq_transfer *sends, int n_sends,
                            const flrq_transfer *receives, int n_receives) {
    group *g = group_of(comm);
    FLRQ_TRY(check_memory(be));
    FLRQ_TRY(begin(g));
    for (int i = 0; i < n_receives; i++)
        if (receives[i].peer != comm->rank)
            FLRQ_TRY(post(g, &g->now, 1, receives[i].peer, receives[i].d_data, receives[i].bytes));
    for (int i = 0; i < n_sends; i++)
        if (sends[i].peer != comm->rank) FLRQ_TRY(post(g, &g->now, 0, sends[i].peer, sends[i].d_data, sends[i].bytes));
    flrq_status status = copy_own(comm, be, sends, n_sends, receives, n_receives);
    if (status != FLRQ_OK) return tell_failure(g, status, flrq_last_error());
    return complete(g, &g->now);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static flrq_status check(flrq_comm *comm) {
    return listen(group_of(comm));
}

static void doing(flrq_comm *comm, int64_t block, const char *phase) {
    group *g = group_of(comm);
    g->block = block;
    snprintf(g->phase, sizeof g->phase, "%s", phase ? phase : "");
}

static void fail(flrq_comm *comm, flrq_status status, const char *text) {
    tell_failure(group_of(comm), status, text);
}

static void group_free(group *g) {
    free(g->now.list);
    free(g->beside.list);
    free(g->left);
    free(g->places);
    free(g->telling);
    free(g);
}

static void *finalize_thread(void *done) {
    MPI_Finalize();
    atomic_store((atomic_int *)done, 1);
    return NULL;
}

/* MPI_Finalize, which a thread of its own calls because it need not return: MPICH 4.0 over UCX 1.13 on TCP has been
 * seen to wait for ever for peers that had nothing more to say. All is done by then, so the process may end without. */
static void finalize(void) {
    static atomic_int done; /* one group per process; the thread may outlive this call */
    pthread_t thread;
    if (pthread_create(&thread, NULL, finalize_thread, &done) != 0) {
        MPI_Finalize();
        return;
    }
    struct timespec nap = {0, 1000000};
    for (double end = now() + FINALIZE_SECONDS; !atomic_load(&done) && now() < end;) nanosleep(&nap, NULL);
    if (atomic_load(&done))
        pthread_join(thread, NULL);
    else
        pthread_detach(thread);
}

/* All workers leave in peace: says so to all, waits until all have said it, and ends MPI. No request and no message is
 * left over then, which MPI_Finalize asks for. Anything else leaves MPI as it is. */
static void leave(group *g) {
    if (listen(g) != FLRQ_OK) return;
    g->told = (notice){.leaves = 1, .calls = g->calls};
    tell(g);
    if (g->beside.count) return; /* gathers that nobody ends: the caller has given up */
    waiting w = {0};
    queue none = {0};
    while (g->others > 0 || !all_told(g))
        if (pause_between(g, &w, &none) != FLRQ_OK) return;
    MPI_Comm_free(&g->notices);
    MPI_Comm_free(&g->values);
    finalize();
}

static void close_group(flrq_comm *comm) {
    group *g = group_of(comm);
    if (g->status == FLRQ_OK) leave(g);
    group_free(g);
    free(comm);
}

static flrq_status open_group(flrq_comm *comm, group *g) {
    int code = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); /* and so of its copies */
    if (code == MPI_SUCCESS) code = MPI_Comm_dup(MPI_COMM_WORLD, &g->values);
    if (code == MPI_SUCCESS) code = MPI_Comm_dup(MPI_COMM_WORLD, &g->notices);
    if (code == MPI_SUCCESS) code = MPI_Comm_rank(g->values, &comm->rank);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(g->values, &comm->size);
    if (code != MPI_SUCCESS) return fail_mpi(code, "joining the workers");
    size_t size = (size_t)comm->size;
    g->left = malloc(size * sizeof *g->left);
    g->places = calloc(size, sizeof *g->places);
    g->telling = malloc(size * sizeof *g->telling);
    if (!g->left || !g->places || !g->telling)
        return flrq_fail_memory(size * sizeof *g->places, "the places of the workers");
    for (size_t rank = 0; rank < size; rank++) g->left[rank] = -1;
    g->others = comm->size - 1;
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(g->places[comm->rank], PLACE_BYTES, "host %s, process %ld", host, (long)getpid());
    FLRQ_TRY(hear(g));
    return gather_host(comm, g->places, sizeof *g->places);
}

__attribute__((visibility("default"))) flrq_status flrq_plugin_mpi(flrq_comm *comm, size_t comm_bytes,
                                                                   char *(*error_text)(void)) {
    flrq_error_share(error_text);
    if (comm_bytes != sizeof *comm) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "the MPI plugin is of another version");
    int used = 0, level = MPI_THREAD_SINGLE;
    MPI_Initialized(&used);
    if (used) return flrq_fail(FLRQ_ERR_USAGE, "MPI is in use: a process can join the workers of a launcher once");
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    if (code != MPI_SUCCESS) return fail_mpi(code, "starting");
    group *g = calloc(1, sizeof *g);
    if (!g) return flrq_fail_memory(sizeof *g, "the group of workers");
    g->comm = comm;
    g->block = -1;
    g->hearing = MPI_REQUEST_NULL;
    comm->name = "mpi";
    comm->state = g;
    comm->gather_host = gather_host;
    comm->broadcast_host = broadcast_host;
    comm->gather = gather;
    comm->gather_begin = gather_begin;
    comm->gather_end = gather_end;
    comm->transfer = transfer;
    comm->check = check;
    comm->doing = doing;
    comm->fail = fail;
    comm->close = close_group;
    flrq_status status = level < MPI_THREAD_FUNNELED
                             ? flrq_fail(FLRQ_ERR_UNSUPPORTED, "this MPI cannot run in a process with threads")
                             : open_group(comm, g);
    if (status != FLRQ_OK) group_free(g);
    return status;
}
