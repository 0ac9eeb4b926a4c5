/* comm_self.c - one worker: its parts are the whole. */
#include "backend/comm.h"

static flrq_status gather_host(flrq_comm *comm, void *all, size_t bytes) {
    return FLRQ_OK;
}

static flrq_status broadcast_host(flrq_comm *comm, void *data, size_t bytes, int root) {
    return FLRQ_OK;
}

static flrq_status gather(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    return FLRQ_OK;
}

static flrq_status gather_end(flrq_comm *comm, flrq_backend *be) {
    return FLRQ_OK;
}

/* Pieces to itself, in order. */
static flrq_status transfer(flrq_comm *comm, flrq_backend *be, const flrq_transfer *sends, int n_sends,
                            const flrq_transfer *receives, int n_receives) {
    if (n_sends != n_receives)
        return flrq_fail(FLRQ_ERR_INTERNAL, "a transfer of %d pieces to %d places", n_sends, n_receives);
    for (int i = 0; i < n_sends; i++)
        if (sends[i].d_data != receives[i].d_data)
            FLRQ_TRY(be->copy(be, receives[i].d_data, sends[i].d_data, sends[i].bytes));
    return FLRQ_OK;
}

static void doing(flrq_comm *comm, int64_t block, const char *phase) {
}

static void fail(flrq_comm *comm, flrq_status status, const char *text) {
}

flrq_comm *flrq_comm_self(void) {
    static flrq_comm self = {.name = "self",
                             .size = 1,
                             .gather_host = gather_host,
                             .broadcast_host = broadcast_host,
                             .gather = gather,
                             .gather_begin = gather,
                             .gather_end = gather_end,
                             .transfer = transfer,
                             .doing = doing,
                             .fail = fail};
    return &self;
}
