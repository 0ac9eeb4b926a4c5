/* comm_nccl.c - workers whose devices are linked.
 *
 * Memory of the devices goes by the links of the backend. Values of the host, failures and what workers are doing go by
 * another communicator (`base`: threads or MPI), or, without one, through a few bytes of the device; failures are then
 * heard by `watch` alone. While the host waits for its device, the backend asks watch_device() here, so that a wait for
 * a worker that failed, died or does not come ends. After the first failure the link is broken, not left: operations
 * that wait for others end, and memory can be given back. Refuses backends without links.
 */
#include "backend/comm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct nccl_comm {
    flrq_comm comm; /* first, so that one is the other */
    flrq_comm *base;
    flrq_backend *be;
    pthread_mutex_t lock; /* base and watch are asked by one thread at a time; held while a call of base waits */
    void *d_staging;      /* values of the host on their way, without a base */
    size_t staging_bytes;
    int failed;
    size_t first[]; /* [size + 1] of a gather of values */
} nccl_comm;

static nccl_comm *nccl_of(flrq_comm *comm) {
    return (nccl_comm *)comm;
}

/* Remembers that the group is broken. */
static flrq_status seen(nccl_comm *c, flrq_status status) {
    if (status != FLRQ_OK) c->failed = 1;
    return status;
}

/* ---- watching ---------------------------------------------------------------------------------------------------- */

/* Under the lock. */
static flrq_status look(nccl_comm *c) {
    if (c->comm.watch) FLRQ_TRY(c->comm.watch(c->comm.watch_user));
    return c->base && c->base->check ? c->base->check(c->base) : FLRQ_OK;
}

/* For the backend, from any thread that waits for the device. A call of base that waits watches by itself. */
static flrq_status watch_device(void *user) {
    nccl_comm *c = user;
    if (pthread_mutex_trylock(&c->lock) != 0) return FLRQ_OK;
    flrq_status status = look(c);
    pthread_mutex_unlock(&c->lock);
    FLRQ_TRY(status);
    double waited = c->be->link_waited(c->be);
    if (waited <= c->comm.timeout) return FLRQ_OK;
    if (c->comm.watch_timeout) return c->comm.watch_timeout(c->comm.watch_user, waited);
    return flrq_fail(FLRQ_ERR_PEER,
                     "worker %d of %d waited %.3g s for the devices of the others: one of them is hanging, or slower "
                     "than the time-out allows",
                     c->comm.rank, c->comm.size, waited);
}

static flrq_status check(flrq_comm *comm) {
    nccl_comm *c = nccl_of(comm);
    if (pthread_mutex_trylock(&c->lock) != 0) return FLRQ_OK;
    flrq_status status = look(c);
    pthread_mutex_unlock(&c->lock);
    return seen(c, status);
}

/* ---- values on the host ------------------------------------------------------------------------------------------ */

/* What the caller has set since counts for base as well. */
static flrq_comm *take_base(nccl_comm *c) {
    pthread_mutex_lock(&c->lock);
    c->base->timeout = c->comm.timeout;
    c->base->watch = c->comm.watch;
    c->base->watch_user = c->comm.watch_user;
    return c->base;
}

static flrq_status give_base(nccl_comm *c, flrq_status status) {
    pthread_mutex_unlock(&c->lock);
    return seen(c, status);
}

static flrq_status staging(nccl_comm *c, size_t bytes) {
    if (bytes <= c->staging_bytes) return FLRQ_OK;
    c->be->release(c->be, c->d_staging);
    c->d_staging = NULL, c->staging_bytes = 0;
    FLRQ_TRY(c->be->alloc(c->be, &c->d_staging, bytes, "values that workers exchange"));
    c->staging_bytes = bytes;
    return FLRQ_OK;
}

/* Worker r's part of `data` is the bytes first[r] .. first[r+1]. Through the device; in the order of the ops. */
static flrq_status gather_by_device(nccl_comm *c, char *data) {
    const size_t *first = c->first;
    size_t all = first[c->comm.size], own = first[c->comm.rank], bytes = first[c->comm.rank + 1] - own;
    flrq_backend *be = c->be;
    FLRQ_TRY(staging(c, all));
    if (bytes) FLRQ_TRY(be->upload(be, (char *)c->d_staging + own, data + own, bytes));
    FLRQ_TRY(be->link_gather(be, c->d_staging, first, 0));
    return be->download(be, data, c->d_staging, all);
}

/* Also a meeting of all when there are no bytes. */
static flrq_status gather_values(nccl_comm *c, void *all, size_t bytes) {
    char *nothing = NULL;
    size_t each = bytes ? bytes : 1, size = (size_t)c->comm.size;
    if (bytes == 0) {
        nothing = calloc(size, 1);
        if (!nothing) return flrq_fail_memory(size, "a meeting of the workers");
        all = nothing;
    }
    for (size_t r = 0; r <= size; r++) c->first[r] = r * each;
    flrq_status status = gather_by_device(c, all);
    free(nothing);
    return status;
}

static flrq_status gather_host(flrq_comm *comm, void *all, size_t bytes) {
    nccl_comm *c = nccl_of(comm);
    if (!c->base) return seen(c, gather_values(c, all, bytes));
    flrq_comm *base = take_base(c);
    return give_base(c, base->gather_host(base, all, bytes));
}

static flrq_status broadcast_host(flrq_comm *comm, void *data, size_t bytes, int root) {
    nccl_comm *c = nccl_of(comm);
    if (root < 0 || root >= comm->size)
        return flrq_fail(FLRQ_ERR_INTERNAL, "a broadcast from worker %d of %d", root, comm->size);
    if (c->base) {
        flrq_comm *base = take_base(c);
        return give_base(c, base->broadcast_host(base, data, bytes, root));
    }
    if (bytes == 0) return FLRQ_OK;
    for (int r = 0; r <= comm->size; r++) c->first[r] = r > root ? bytes : 0; /* the root's part is the whole */
    return seen(c, gather_by_device(c, data));
}

/* ---- backend memory ---------------------------------------------------------------------------------------------- */

/* The link belongs to one backend. */
static flrq_status check_backend(const nccl_comm *c, const flrq_backend *be) {
    return be == c->be ? FLRQ_OK : flrq_fail(FLRQ_ERR_INTERNAL, "a gather of a device that is not linked");
}

static flrq_status gather(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    FLRQ_TRY(check_backend(nccl_of(comm), be));
    return seen(nccl_of(comm), be->link_gather(be, d_all, first, 0));
}

static flrq_status gather_begin(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    FLRQ_TRY(check_backend(nccl_of(comm), be));
    return seen(nccl_of(comm), be->link_gather(be, d_all, first, 1));
}

static flrq_status gather_end(flrq_comm *comm, flrq_backend *be) {
    FLRQ_TRY(check_backend(nccl_of(comm), be));
    return seen(nccl_of(comm), be->link_join(be));
}

static flrq_status transfer(flrq_comm *comm, flrq_backend *be, const flrq_transfer *sends, int n_sends,
                            const flrq_transfer *receives, int n_receives) {
    FLRQ_TRY(check_backend(nccl_of(comm), be));
    return seen(nccl_of(comm), be->link_transfer(be, sends, n_sends, receives, n_receives));
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void doing(flrq_comm *comm, int64_t block, const char *phase) {
    nccl_comm *c = nccl_of(comm);
    if (c->base) c->base->doing(c->base, block, phase);
}

/* The others must hear why before they notice that the link is broken. */
static void fail(flrq_comm *comm, flrq_status status, const char *text) {
    nccl_comm *c = nccl_of(comm);
    if (c->base) c->base->fail(c->base, status, text);
    c->failed = 1;
    c->be->link_close(c->be, 1);
}

/* Leaves base to the caller. */
static void free_comm(nccl_comm *c) {
    c->be->link_close(c->be, c->failed);
    c->be->set_watch(c->be, NULL, NULL);
    c->be->release(c->be, c->d_staging);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void close_comm(flrq_comm *comm) {
    flrq_comm *base = nccl_of(comm)->base;
    free_comm(nccl_of(comm));
    flrq_comm_close(base);
}

/* What the first worker tells the others about the link. */
typedef struct invitation {
    int32_t status;
    char id[FLRQ_LINK_ID_BYTES];
    char text[512];
} invitation;

static flrq_status share_id(nccl_comm *c, void *id) {
    invitation to = {.status = FLRQ_OK};
    if (c->comm.rank == 0) {
        to.status = (int32_t)c->be->link_id(c->be, to.id);
        if (to.status != FLRQ_OK) snprintf(to.text, sizeof to.text, "%s", flrq_last_error());
    }
    flrq_comm *base = take_base(c);
    FLRQ_TRY(give_base(c, base->broadcast_host(base, &to, sizeof to, 0)));
    if (to.status != FLRQ_OK) return flrq_fail((flrq_status)to.status, "%s", to.text);
    memcpy(id, to.id, sizeof to.id);
    return FLRQ_OK;
}

static flrq_status open_link(nccl_comm *c, const void *id) {
    char shared[FLRQ_LINK_ID_BYTES];
    if (c->base) FLRQ_TRY(share_id(c, shared));
    return c->be->link_open(c->be, c->base ? shared : id, c->comm.rank, c->comm.size);
}

flrq_status flrq_comm_nccl(flrq_comm **out, flrq_comm *base, flrq_backend *be, const void *id, int rank, int size,
                           double timeout, flrq_watch_fn watch, void *watch_user) {
    static const flrq_comm calls = {.name = "nccl",
                                    .gather_host = gather_host,
                                    .broadcast_host = broadcast_host,
                                    .gather = gather,
                                    .gather_begin = gather_begin,
                                    .gather_end = gather_end,
                                    .transfer = transfer,
                                    .check = check,
                                    .doing = doing,
                                    .fail = fail,
                                    .close = close_comm};
    *out = NULL;
    if (!be->link_open) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device %s cannot be linked to others", be->name);
    if (size < 1 || rank < 0 || rank >= size || (base && (base->rank != rank || base->size != size)) || (!base && !id))
        return flrq_fail(FLRQ_ERR_INTERNAL, "a link of worker %d of %d, %s", rank, size,
                         base ? "another in the group" : "without a name");
    size_t bytes = sizeof(nccl_comm) + ((size_t)size + 1) * sizeof(size_t);
    nccl_comm *c = calloc(1, bytes);
    if (!c) return flrq_fail_memory(bytes, "a group of devices");
    if (pthread_mutex_init(&c->lock, NULL) != 0) {
        free(c);
        return flrq_fail(FLRQ_ERR_INTERNAL, "the system gives no lock for a group of devices");
    }
    c->comm = calls;
    c->comm.rank = rank;
    c->comm.size = size;
    c->comm.timeout = timeout;
    c->comm.watch = watch, c->comm.watch_user = watch_user;
    if (!watch && base) c->comm.watch = base->watch, c->comm.watch_user = base->watch_user;
    c->base = base;
    c->be = be;
    be->set_watch(be, watch_device, c);
    flrq_status status = seen(c, open_link(c, id));
    if (status != FLRQ_OK) {
        free_comm(c);
        return status;
    }
    *out = &c->comm;
    return FLRQ_OK;
}
