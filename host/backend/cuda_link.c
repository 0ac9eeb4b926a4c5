/* cuda_link.c - links between the devices of several workers, by NCCL.
 *
 * One communicator for each backend. Its operations run one after another: those of gathers beside the ops on a stream
 * of the link, all others on the compute stream; an operation on one of the two streams is made to wait for the last on
 * the other, because NCCL orders the operations of a communicator only within a stream. Only bytes are moved, never
 * added: sums keep the order of the chunk tree.
 *
 * Nothing waits for other workers without looking after them. The communicator does not block: what a call started is
 * asked for under cuda_wait_until(), with the watch. When a worker is found dead or the watch fails, the link is broken
 * at once (ncclCommAbort): operations that waited end without having done their work, so waits that follow report the
 * failure, and cudaFree() and the like return. All calls on the communicator are made under one lock, as any thread
 * that waits may be the one to break it.
 *
 * libnccl.so.2 is loaded when a link is first wanted: a machine with one GPU needs none. On the simulator
 * (FLRQ_CUDASIM) NCCL is part of this plugin. Without nccl.h at compile time links are refused.
 */
#include "backend/cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(FLRQ_CUDASIM) || __has_include(<nccl.h>)

#include <nccl.h>

_Static_assert(sizeof(ncclUniqueId) == FLRQ_LINK_ID_BYTES, "the name of a link is an ncclUniqueId");

/* ---- the library ------------------------------------------------------------------------------------------------- */

enum { OLDEST = NCCL_VERSION(2, 14, 0) }; /* the first whose communicators need not block */

#define NCCL_CALLS(X)                                                                                                  \
    X(ncclGetVersion)                                                                                                  \
    X(ncclGetErrorString)                                                                                              \
    X(ncclGetLastError)                                                                                                \
    X(ncclGetUniqueId)                                                                                                 \
    X(ncclCommInitRankConfig)                                                                                          \
    X(ncclCommGetAsyncError)                                                                                           \
    X(ncclCommFinalize)                                                                                                \
    X(ncclCommDestroy)                                                                                                 \
    X(ncclCommAbort)                                                                                                   \
    X(ncclGroupStart)                                                                                                  \
    X(ncclGroupEnd)                                                                                                    \
    X(ncclAllGather)                                                                                                   \
    X(ncclBroadcast)                                                                                                   \
    X(ncclSend)                                                                                                        \
    X(ncclRecv)

static struct nccl {
#define DECLARE(call) __typeof__(&call) call;
    NCCL_CALLS(DECLARE)
#undef DECLARE
    char missing[256]; /* why there is none, or "" */
} nccl;

static pthread_once_t nccl_once = PTHREAD_ONCE_INIT;

#ifdef FLRQ_CUDASIM
static void load_nccl(void) {
#define BIND(call) nccl.call = call;
    NCCL_CALLS(BIND)
#undef BIND
}
#else
/* The library stays loaded: it has threads of its own. */
static void load_nccl(void) {
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(nccl.missing, sizeof nccl.missing, "%s", dlerror());
        return;
    }
#define BIND(call)                                                                                                     \
    *(void **)&nccl.call = dlsym(library, #call);                                                                      \
    if (!nccl.call) snprintf(nccl.missing, sizeof nccl.missing, "it has no " #call);
    NCCL_CALLS(BIND)
#undef BIND
    int version = 0;
    if (!nccl.missing[0] && (nccl.ncclGetVersion(&version) != ncclSuccess || version < OLDEST))
        snprintf(nccl.missing, sizeof nccl.missing, "its version is %d, older than 2.14", version);
}
#endif

static flrq_status need_nccl(void) {
    pthread_once(&nccl_once, load_nccl);
    if (!nccl.missing[0]) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                     "several GPUs need libnccl.so.2 (NVIDIA NCCL 2.14 or later): %s; install it or add its folder to "
                     "LD_LIBRARY_PATH",
                     nccl.missing);
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

enum { WHOLE = 0, NAMING = 1, BROKEN = 2 }; /* NAMING: broken, and its cause is being asked for */

/* Which stream a link op ran on. */
enum { ON_OPS = 0, BESIDE = 1, STREAMS = 2 };

struct cuda_link {
    pthread_mutex_t lock; /* of every call on the communicator and of what follows */
    ncclComm_t comm;      /* NULL: closed or broken */
    atomic_int condition;
    flrq_status failure; /* how it broke, once it is BROKEN */
    char text[512];
    atomic_int meeting; /* link_open() or link_close() is waiting for the others */
    int rank, size;
    cudaStream_t stream;       /* of gathers beside the ops */
    cudaEvent_t ops;           /* what a gather beside the ops comes after */
    cudaEvent_t done[STREAMS]; /* after the last link op on each stream */
};

static const struct timespec naming_pause = {0, 50 * 1000 * 1000};

flrq_status cuda_link_state(cuda_state *state) {
    cuda_link *link = state->link;
    if (!link || atomic_load(&link->condition) == WHOLE) return FLRQ_OK;
    while (atomic_load(&link->condition) == NAMING) (void)nanosleep(&naming_pause, NULL);
    return flrq_fail(link->failure, "%s", link->text);
}

/* Under the lock. Kernels that wait for other workers end, and nobody takes their memory for results. */
static void abort_locked(cuda_link *link, int condition) {
    if (atomic_load(&link->condition) == WHOLE) atomic_store(&link->condition, condition);
    if (link->comm) (void)nccl.ncclCommAbort(link->comm);
    link->comm = NULL;
}

/* The first text stays. */
static void set_cause(cuda_link *link, flrq_status status, const char *text) {
    if (atomic_load(&link->condition) == BROKEN) return;
    link->failure = status;
    snprintf(link->text, sizeof link->text, "%s", text);
}

void cuda_link_break(cuda_state *state, flrq_status status) {
    cuda_link *link = state->link;
    if (!link) return;
    (void)cudaSetDevice(state->device); /* a lane's thread may be the one */
    pthread_mutex_lock(&link->lock);
    if (link->comm) {
        set_cause(link, status, flrq_last_error());
        abort_locked(link, BROKEN);
    }
    pthread_mutex_unlock(&link->lock);
}

static int is_open(cuda_link *link) {
    pthread_mutex_lock(&link->lock);
    int open = link->comm != NULL;
    pthread_mutex_unlock(&link->lock);
    return open;
}

/* A broken connection is often the first that is heard of a worker's failure; who it was and why comes by the watch a
 * moment later, and says more. */
static flrq_status name_the_cause(cuda_state *state, flrq_status status, const char *text) {
    enum { TRIES = 40 };
    for (int i = 0; i < TRIES && atomic_load(&state->watched); i++) {
        FLRQ_TRY(cuda_watch(state));
        (void)nanosleep(&naming_pause, NULL);
    }
    return flrq_fail(status, "%s", text);
}

/* Ends the link after a result of NCCL that is a failure. */
static flrq_status nccl_failed(cuda_state *state, ncclResult_t result, const char *what) {
    cuda_link *link = state->link;
    flrq_status status = result == ncclRemoteError ? FLRQ_ERR_PEER : FLRQ_ERR_INTERNAL;
    char text[512];
    (void)cudaSetDevice(state->device);
    pthread_mutex_lock(&link->lock);
    const char *detail = link->comm ? nccl.ncclGetLastError(link->comm) : NULL;
    snprintf(text, sizeof text, "NCCL: worker %d of %d (" CUDA_BACKEND_NAME ":%d), %s: %s%s%.300s", link->rank,
             link->size, state->device, what, nccl.ncclGetErrorString(result), detail && detail[0] ? ": " : "",
             detail ? detail : "");
    int first = atomic_load(&link->condition) == WHOLE;
    abort_locked(link, NAMING);
    pthread_mutex_unlock(&link->lock);
    if (!first) return cuda_link_state(state);
    status = status == FLRQ_ERR_PEER ? name_the_cause(state, status, text) : flrq_fail(status, "%s", text);
    set_cause(link, status, flrq_last_error());
    atomic_store(&link->condition, BROKEN);
    return status;
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

/* A call that does not block may be taken at once or later. */
static int taken(ncclResult_t result) {
    return result == ncclSuccess || result == ncclInProgress;
}

typedef struct question {
    cuda_state *state;
    const char *what;
} question;

static flrq_status ask_communicator(void *what, int *done) {
    const question *q = what;
    cuda_link *link = q->state->link;
    ncclResult_t now = ncclSuccess, result = ncclSuccess;
    pthread_mutex_lock(&link->lock);
    if (link->comm) result = nccl.ncclCommGetAsyncError(link->comm, &now);
    pthread_mutex_unlock(&link->lock);
    if (result == ncclSuccess) result = now;
    *done = result == ncclSuccess;
    return taken(result) ? FLRQ_OK : nccl_failed(q->state, result, q->what);
}

/* Until the communicator has taken what was asked of it; `result` is what the call returned. */
static flrq_status settle(cuda_state *state, ncclResult_t result, const char *what) {
    question q = {state, what};
    FLRQ_TRY(cuda_link_state(state)); /* another thread may have broken it before the call */
    if (!taken(result)) return nccl_failed(state, result, what);
    if (result == ncclSuccess) return cuda_link_state(state);
    return cuda_wait_until(state, ask_communicator, &q);
}

flrq_status cuda_link_look(cuda_state *state) {
    question q = {state, "connection"};
    int done;
    if (!state->link) return FLRQ_OK;
    FLRQ_TRY(ask_communicator(&q, &done));
    return cuda_link_state(state);
}

/* A link op is under way. */
static int busy(const cuda_link *link) {
    int busy = 0;
    for (int i = 0; i < STREAMS; i++) busy |= cudaEventQuery(link->done[i]) == cudaErrorNotReady;
    (void)cudaGetLastError();
    return busy;
}

flrq_status cuda_link_quiet(cuda_state *state) {
    cuda_link *link = state->link;
    if (!link || !atomic_load(&state->watched)) return FLRQ_OK;
    for (int i = 0; i < STREAMS; i++) FLRQ_TRY(cuda_wait_event(state, link->done[i], "wait for other workers", 1));
    return FLRQ_OK;
}

static double link_waited(flrq_backend *be) {
    const cuda_link *link = cuda_of(be)->link;
    return link && (atomic_load(&link->meeting) || busy(link)) ? cuda_waited() : 0;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static flrq_status link_id(flrq_backend *be, void *id) {
    ncclUniqueId name;
    FLRQ_TRY(need_nccl());
    ncclResult_t result = nccl.ncclGetUniqueId(&name);
    if (result != ncclSuccess)
        return flrq_fail(FLRQ_ERR_INTERNAL, "NCCL: a name for the link: %s: %s", nccl.ncclGetErrorString(result),
                         nccl.ncclGetLastError(NULL));
    memcpy(id, &name, sizeof name);
    return FLRQ_OK;
}

void cuda_link_free(cuda_state *state) {
    cuda_link *link = state->link;
    if (!link) return;
    if (link->comm) (void)nccl.ncclCommAbort(link->comm);
    for (int i = 0; i < STREAMS; i++)
        if (link->done[i]) (void)cudaEventDestroy(link->done[i]);
    if (link->ops) (void)cudaEventDestroy(link->ops);
    if (link->stream) (void)cudaStreamDestroy(link->stream);
    pthread_mutex_destroy(&link->lock);
    free(link);
    state->link = NULL;
}

/* Stream and events, once for the life of the backend: lanes look at the link while it opens and closes. */
static flrq_status link_new(cuda_state *state) {
    cuda_link *link = calloc(1, sizeof *link);
    if (!link) return flrq_fail_memory(sizeof *link, "a link between devices");
    if (pthread_mutex_init(&link->lock, NULL) != 0) {
        free(link);
        return flrq_fail(FLRQ_ERR_INTERNAL, "a link between devices: the system gives no lock");
    }
    cudaError_t error = cudaStreamCreateWithFlags(&link->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&link->ops, cudaEventDisableTiming);
    for (int i = 0; i < STREAMS && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&link->done[i], cudaEventDisableTiming);
    state->link = link;
    if (error == cudaSuccess) return FLRQ_OK;
    cuda_link_free(state);
    return cuda_check(error, "a link between devices", 1, 1);
}

static flrq_status meet(cuda_state *state, ncclResult_t result, const char *what) {
    atomic_store(&state->link->meeting, 1);
    flrq_status status = settle(state, result, what);
    atomic_store(&state->link->meeting, 0);
    return status;
}

static flrq_status link_open(flrq_backend *be, const void *id, int rank, int size) {
    cuda_state *state = cuda_of(be);
    ncclUniqueId name;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    FLRQ_TRY(need_nccl());
    if (size < 1 || rank < 0 || rank >= size)
        return flrq_fail(FLRQ_ERR_INTERNAL, "a link between devices: worker %d of %d", rank, size);
    if (!state->link) FLRQ_TRY(link_new(state));
    cuda_link *link = state->link;
    if (is_open(link)) return flrq_fail(FLRQ_ERR_INTERNAL, "a second link between devices");
    FLRQ_TRY(cuda_link_state(state));
    memcpy(&name, id, sizeof name);
    link->rank = rank;
    link->size = size;
    pthread_mutex_lock(&link->lock);
    ncclResult_t result = nccl.ncclCommInitRankConfig(&link->comm, size, name, rank, &config);
    pthread_mutex_unlock(&link->lock);
    return meet(state, result, "joining the others");
}

static void link_close(flrq_backend *be, int broken) {
    cuda_state *state = cuda_of(be);
    cuda_link *link = state->link;
    if (!link) return;
    if (!broken && is_open(link)) {
        pthread_mutex_lock(&link->lock);
        ncclResult_t result = link->comm ? nccl.ncclCommFinalize(link->comm) : ncclRemoteError;
        pthread_mutex_unlock(&link->lock);
        broken = meet(state, result, "leaving") != FLRQ_OK;
    }
    pthread_mutex_lock(&link->lock);
    if (link->comm && broken) {
        set_cause(link, FLRQ_ERR_PEER, "the link between the devices was closed after a failure");
        abort_locked(link, BROKEN);
    } else if (link->comm) {
        (void)nccl.ncclCommDestroy(link->comm);
        link->comm = NULL;
    }
    pthread_mutex_unlock(&link->lock);
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

/* Before an operation on the compute stream or beside it: after the last on the other stream, and beside also after all
 * ops so far. */
static flrq_status begin(cuda_state *state, int where, const char *what) {
    cuda_link *link = state->link;
    FLRQ_TRY(cuda_link_state(state));
    if (!link || !is_open(link)) return flrq_fail(FLRQ_ERR_INTERNAL, "%s: no link between devices is open", what);
    if (where == BESIDE) FLRQ_TRY(cuda_check(cudaEventRecord(link->ops, state->stream), what, 1, 1));
    cudaStream_t stream = where == BESIDE ? link->stream : state->stream;
    return cuda_check(cudaStreamWaitEvent(stream, where == BESIDE ? link->ops : link->done[BESIDE], 0), what, 1, 1);
}

/* Under the lock. Parts of one size by AllGather, which NCCL does best; others as one group of broadcasts. */
static ncclResult_t issue_gather(cuda_link *link, char *d_all, const size_t *first, cudaStream_t stream) {
    size_t bytes = first[1] - first[0];
    int equal = 1;
    for (int r = 1; r < link->size; r++) equal &= first[r + 1] - first[r] == bytes;
    if (equal)
        return nccl.ncclAllGather(d_all + first[link->rank], d_all + first[0], bytes, ncclInt8, link->comm, stream);
    ncclResult_t result = nccl.ncclGroupStart();
    if (!taken(result)) return result;
    for (int r = 0; r < link->size && taken(result); r++)
        if (first[r + 1] > first[r])
            result = nccl.ncclBroadcast(d_all + first[r], d_all + first[r], first[r + 1] - first[r], ncclInt8, r,
                                        link->comm, stream);
    ncclResult_t end = nccl.ncclGroupEnd();
    return taken(result) ? end : result;
}

static flrq_status link_gather(flrq_backend *be, void *d_all, const size_t *first, int beside) {
    cuda_state *state = cuda_of(be);
    int where = beside ? BESIDE : ON_OPS;
    FLRQ_TRY(begin(state, where, "gather"));
    cuda_link *link = state->link;
    for (int r = 0; r < link->size; r++)
        if (first[r + 1] < first[r]) return flrq_fail(FLRQ_ERR_INTERNAL, "gather: the parts are not in order");
    if (first[link->size] == first[0]) return FLRQ_OK;
    cudaStream_t stream = beside ? link->stream : state->stream;
    pthread_mutex_lock(&link->lock);
    ncclResult_t result = link->comm ? issue_gather(link, d_all, first, stream) : ncclRemoteError;
    pthread_mutex_unlock(&link->lock);
    FLRQ_TRY(settle(state, result, "gather"));
    cudaError_t error = cudaEventRecord(link->done[where], stream);
    return beside ? cuda_check(error, "gather", 1, 1) : cuda_launched(be, error, "gather", 1, 1);
}

static flrq_status link_join(flrq_backend *be) {
    cuda_state *state = cuda_of(be);
    return begin(state, ON_OPS, "end of a gather");
}

/* Under the lock. Pieces of nothing are left out, on both sides. */
static ncclResult_t issue_transfer(cuda_link *link, const flrq_transfer *sends, int n_sends,
                                   const flrq_transfer *receives, int n_receives, cudaStream_t stream) {
    ncclResult_t result = nccl.ncclGroupStart();
    if (!taken(result)) return result;
    for (int i = 0; i < n_sends && taken(result); i++)
        if (sends[i].bytes)
            result = nccl.ncclSend(sends[i].d_data, sends[i].bytes, ncclInt8, sends[i].peer, link->comm, stream);
    for (int i = 0; i < n_receives && taken(result); i++)
        if (receives[i].bytes)
            result =
                nccl.ncclRecv(receives[i].d_data, receives[i].bytes, ncclInt8, receives[i].peer, link->comm, stream);
    ncclResult_t end = nccl.ncclGroupEnd();
    return taken(result) ? end : result;
}

static flrq_status link_transfer(flrq_backend *be, const flrq_transfer *sends, int n_sends,
                                 const flrq_transfer *receives, int n_receives) {
    cuda_state *state = cuda_of(be);
    FLRQ_TRY(begin(state, ON_OPS, "transfer"));
    cuda_link *link = state->link;
    size_t bytes = 0;
    for (int i = 0; i < n_sends; i++) bytes |= sends[i].bytes;
    for (int i = 0; i < n_receives; i++) bytes |= receives[i].bytes;
    if (bytes == 0) return FLRQ_OK;
    pthread_mutex_lock(&link->lock);
    ncclResult_t result =
        link->comm ? issue_transfer(link, sends, n_sends, receives, n_receives, state->stream) : ncclRemoteError;
    pthread_mutex_unlock(&link->lock);
    FLRQ_TRY(settle(state, result, "transfer"));
    return cuda_launched(be, cudaEventRecord(link->done[ON_OPS], state->stream), "transfer", 1, 1);
}

#else /* no nccl.h */

flrq_status cuda_link_state(cuda_state *state) {
    return FLRQ_OK;
}

flrq_status cuda_link_look(cuda_state *state) {
    return FLRQ_OK;
}

void cuda_link_break(cuda_state *state, flrq_status status) {}

flrq_status cuda_link_quiet(cuda_state *state) {
    return FLRQ_OK;
}

void cuda_link_free(cuda_state *state) {}

static flrq_status refuse(void) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                     "several GPUs need NCCL, whose nccl.h was not there when the plugin of device "
                     "cuda was built; install it and build the plugin again");
}

static flrq_status link_id(flrq_backend *be, void *id) {
    return refuse();
}

static flrq_status link_open(flrq_backend *be, const void *id, int rank, int size) {
    return refuse();
}

static void link_close(flrq_backend *be, int broken) {}

static flrq_status link_gather(flrq_backend *be, void *d_all, const size_t *first, int beside) {
    return refuse();
}

static flrq_status link_join(flrq_backend *be) {
    return refuse();
}

static double link_waited(flrq_backend *be) {
    return 0;
}

static flrq_status link_transfer(flrq_backend *be, const flrq_transfer *sends, int n_sends,
                                 const flrq_transfer *receives, int n_receives) {
    return refuse();
}

#endif

void cuda_register_link(flrq_backend *be) {
    be->link_id = link_id;
    be->link_open = link_open;
    be->link_close = link_close;
    be->link_gather = link_gather;
    be->link_join = link_join;
    be->link_waited = link_waited;
    be->link_transfer = link_transfer;
}
