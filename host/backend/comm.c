/* comm.c - what workers do together, made of the few calls that a communicator provides: shares of a grid, maxima and
 * sums of whole numbers, texts, and float sums along the chunk tree.
 *
 * A float sum is the same bytes for any number of workers because its additions are those of core/tree.h over the whole
 * grid: a worker's range consists of complete aligned blocks of the grid, which are nodes of the tree, and all nodes
 * together are added as the tree adds them. No other order of additions may be used here. Nothing here is right or
 * wrong by its speed only: both ways of exchanging the nodes give the same bytes.
 */
#include "backend/comm.h"
#include "core/tree.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void flrq_comm_close(flrq_comm *comm) {
    if (comm && comm->close) comm->close(comm);
}

/* ---- shares of a grid -------------------------------------------------------------------------------------------- */

flrq_range flrq_share(int64_t units, int rank, int size) {
    int64_t each = units / size, larger = units % size;
    flrq_range range = {rank * each + (rank < larger ? rank : larger), each + (rank < larger)};
    return range;
}

/* The share of `count` elements in whole steps of `step`; the last step may be shorter. */
static flrq_range share_in_steps(int64_t count, int64_t step, int rank, int size) {
    flrq_range steps = flrq_share(count / step + (count % step != 0), rank, size);
    int64_t end = (steps.first + steps.count) * step;
    flrq_range range = {steps.first * step, 0};
    if (range.first > count) range.first = count; /* of an empty share */
    range.count = (end < count ? end : count) - range.first;
    return range;
}

flrq_range flrq_share_rows(int64_t rows, int rank, int size) {
    return share_in_steps(rows, FLRQ_CHUNK_ROWS, rank, size);
}

int flrq_range_nodes(flrq_range range, flrq_node nodes[FLRQ_RANGE_NODES]) {
    int count = 0;
    int64_t first = range.first, left = range.count;
    while (left > 0 && count < FLRQ_RANGE_NODES) {
        int level = 0;
        while (level + 1 < FLRQ_TREE_LEVELS && !(first >> level & 1) && (int64_t)2 << level <= left) level++;
        nodes[count++] = (flrq_node){first, level};
        first += (int64_t)1 << level;
        left -= (int64_t)1 << level;
    }
    return count;
}

int flrq_nodes_max(int64_t units, int size) {
    flrq_node nodes[FLRQ_RANGE_NODES];
    int most = 0;
    for (int rank = 0; rank < size; rank++) {
        int count = flrq_range_nodes(flrq_share(units, rank, size), nodes);
        if (count > most) most = count;
    }
    return most;
}

/* ---- maxima, whole numbers, texts -------------------------------------------------------------------------------- */

/* Every worker's `bytes` at `own`, in a new [size, bytes]. */
static flrq_status gather_new(flrq_comm *comm, const void *own, size_t bytes, void **out) {
    size_t all_bytes = bytes * (size_t)comm->size;
    char *all = malloc(all_bytes ? all_bytes : 1);
    if (!all) return flrq_fail_memory(all_bytes, "values of all workers");
    if (bytes) memcpy(all + bytes * (size_t)comm->rank, own, bytes);
    flrq_status status = comm->gather_host(comm, all, bytes);
    if (status != FLRQ_OK) {
        free(all);
        return status;
    }
    *out = all;
    return FLRQ_OK;
}

void flrq_comm_doing(flrq_comm *comm, int64_t block, const char *phase) {
    comm->doing(comm, block, phase);
    if (comm->watch_doing) comm->watch_doing(comm->watch_user, block, phase);
}

void flrq_comm_fail(flrq_comm *comm, flrq_status status, const char *text) {
    if (comm->watch_fail) comm->watch_fail(comm->watch_user, status, text);
    comm->fail(comm, status, text);
}

flrq_status flrq_comm_barrier(flrq_comm *comm) {
    if (comm->size == 1) return FLRQ_OK;
    void *all = NULL;
    FLRQ_TRY(gather_new(comm, "", 1, &all));
    free(all);
    return FLRQ_OK;
}

flrq_status flrq_comm_max(flrq_comm *comm, float *values, int64_t count) {
    if (comm->size == 1) return FLRQ_OK;
    void *memory = NULL;
    FLRQ_TRY(gather_new(comm, values, (size_t)count * sizeof *values, &memory));
    const float *all = memory;
    for (int64_t i = 0; i < count; i++) {
        float most = all[i];
        for (int rank = 1; rank < comm->size; rank++) {
            float value = all[rank * count + i];
            if (!isnan(most) && !(value <= most)) most = value;
        }
        values[i] = most;
    }
    free(memory);
    return FLRQ_OK;
}

flrq_status flrq_comm_sum(flrq_comm *comm, int64_t *values, int64_t count) {
    if (comm->size == 1) return FLRQ_OK;
    void *memory = NULL;
    FLRQ_TRY(gather_new(comm, values, (size_t)count * sizeof *values, &memory));
    const int64_t *all = memory;
    for (int64_t i = 0; i < count; i++) {
        int64_t sum = 0;
        for (int rank = 0; rank < comm->size; rank++) sum += all[rank * count + i];
        values[i] = sum;
    }
    free(memory);
    return FLRQ_OK;
}

flrq_status flrq_comm_share_text(flrq_comm *comm, char **text, int root) {
    if (comm->size == 1) return FLRQ_OK;
    int64_t bytes = comm->rank == root && *text ? (int64_t)strlen(*text) + 1 : 0; /* 0: there is none */
    FLRQ_TRY(comm->broadcast_host(comm, &bytes, sizeof bytes, root));
    char *shared = *text;
    if (comm->rank != root) {
        shared = bytes ? malloc((size_t)bytes) : NULL;
        if (bytes && !shared) return flrq_fail_memory((size_t)bytes, "a text of another worker");
    }
    flrq_status status = bytes ? comm->broadcast_host(comm, shared, (size_t)bytes, root) : FLRQ_OK;
    if (comm->rank == root) return status;
    if (status != FLRQ_OK) {
        free(shared);
        return status;
    }
    free(*text);
    *text = shared;
    return FLRQ_OK;
}

/* ---- sums along the tree ----------------------------------------------------------------------------------------- */

/* Nodes of the tree given in order, added in place as flrq_tree_push and flrq_tree_finish add chunks: two nodes of one
 * level become their parent, and at the end the lowest go into the next higher one. (Float addition commutes, so it
 * does not matter which of two buffers receives the sum.) Levels fall along sum[], so they number at most LEVELS. */
typedef struct fold {
    flrq_backend *be; /* NULL: values of the host, doubles */
    size_t width;     /* 4: float, 8: double */
    int64_t count;    /* values of a node */
    int depth;
    int level[FLRQ_TREE_LEVELS + 1];
    void *sum[FLRQ_TREE_LEVELS + 1];
} fold;

static flrq_status fold_top(fold *f) {
    void *into = f->sum[f->depth - 2], *from = f->sum[f->depth - 1];
    f->depth--;
    if (f->count == 0) return FLRQ_OK;
    if (!f->be) {
        flrq_tree_add_f64(into, from, f->count);
        return FLRQ_OK;
    }
    return f->width == sizeof(float) ? f->be->add(f->be, into, from, f->count)
                                     : f->be->add_f64(f->be, into, from, f->count);
}

static flrq_status fold_push(fold *f, void *node, int level) {
    f->sum[f->depth] = node;
    f->level[f->depth++] = level;
    while (f->depth > 1 && f->level[f->depth - 2] == f->level[f->depth - 1]) {
        FLRQ_TRY(fold_top(f));
        f->level[f->depth - 1]++;
    }
    return FLRQ_OK;
}

/* *sum: the buffer that holds the sum of all nodes, NULL when there were none. */
static flrq_status fold_finish(fold *f, void **sum) {
    while (f->depth > 1) FLRQ_TRY(fold_top(f));
    *sum = f->depth ? f->sum[0] : NULL;
    return FLRQ_OK;
}

/* Folds the nodes of all workers. The rows of worker r begin at row r * rows_each, or, with rows_each 0, right after
 * those of the worker before; a row takes `stride` values. */
static flrq_status fold_workers(fold *f, int64_t units, int size, char *rows, int64_t rows_each, int64_t stride,
                                void **sum) {
    flrq_node nodes[FLRQ_RANGE_NODES];
    int64_t row = 0;
    for (int rank = 0; rank < size; rank++) {
        int count = flrq_range_nodes(flrq_share(units, rank, size), nodes);
        if (rows_each) row = rank * rows_each;
        for (int i = 0; i < count; i++, row++)
            FLRQ_TRY(fold_push(f, rows + (size_t)(row * stride) * f->width, nodes[i].level));
    }
    return fold_finish(f, sum);
}

static flrq_status check_units(int64_t units) {
    if (units < 0 || units >> FLRQ_TREE_LEVELS)
        return flrq_fail(FLRQ_ERR_SHAPE, "a sum over %lld parts; the tree holds fewer than %d", (long long)units,
                         1 << FLRQ_TREE_LEVELS);
    return FLRQ_OK;
}

static int64_t all_nodes(int64_t units, int size) {
    flrq_node nodes[FLRQ_RANGE_NODES];
    int64_t count = 0;
    for (int rank = 0; rank < size; rank++) count += flrq_range_nodes(flrq_share(units, rank, size), nodes);
    return count;
}

/* How the nodes travel. At once: every worker receives all of them and adds all values; one exchange. By slices: every
 * worker receives a slice of all nodes, adds that, and the slices are gathered; two exchanges, but 1/size of the bytes.
 * An exchange costs 20 to 50 us before its first byte and moves 1 to 10 bytes per ns then, so a second one pays from
 * some 100 KB on. Slices begin on whole steps of SLICE_STEP values, which keeps the alignment of the buffers. */
enum { AT_ONCE_BYTES = 256 * 1024, SLICE_STEP = 32 };

static int at_once(int64_t nodes, int64_t count, size_t width) {
    return (size_t)(nodes * count) * width < AT_ONCE_BYTES;
}

static flrq_range slice_of(int64_t count, int rank, int size) {
    return share_in_steps(count, SLICE_STEP, rank, size);
}

static int64_t slice_stride(int64_t count) {
    return (count + SLICE_STEP - 1) / SLICE_STEP * SLICE_STEP;
}

int flrq_sum_is_sliced(int64_t units, int64_t count, size_t width, int size) {
    return size > 1 && !at_once(all_nodes(units, size), count, width);
}

size_t flrq_sum_scratch_bytes(int64_t units, int64_t count, size_t width, int size) {
    if (size == 1) return 0;
    int64_t nodes = all_nodes(units, size);
    if (at_once(nodes, count, width)) return (size_t)(nodes * count) * width;
    size_t slices = (size_t)(nodes * slice_stride(slice_of(count, 0, size).count)) * width;
    return slices > AT_ONCE_BYTES ? slices : AT_ONCE_BYTES; /* of a smaller count all nodes may come at once */
}

static flrq_status sum_at_once(flrq_comm *comm, fold *f, int64_t units, const void *d_nodes, void *d_scratch,
                               void **d_sum) {
    size_t row_bytes = (size_t)f->count * f->width;
    size_t *first = malloc((size_t)(comm->size + 1) * sizeof *first);
    if (!first) return flrq_fail_memory((size_t)(comm->size + 1) * sizeof *first, "the places of a sum's parts");
    first[0] = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        flrq_node nodes[FLRQ_RANGE_NODES];
        int own = flrq_range_nodes(flrq_share(units, rank, comm->size), nodes);
        first[rank + 1] = first[rank] + (size_t)own * row_bytes;
    }
    char *rows = d_scratch;
    size_t own_bytes = first[comm->rank + 1] - first[comm->rank];
    flrq_status status = FLRQ_OK;
    if (own_bytes) status = f->be->copy(f->be, rows + first[comm->rank], d_nodes, own_bytes);
    if (status == FLRQ_OK) status = comm->gather(comm, f->be, d_scratch, first);
    free(first);
    FLRQ_TRY(status);
    return fold_workers(f, units, comm->size, rows, 0, f->count, d_sum);
}

/* The pieces of a sum by slices: of every own node its slice p goes to worker p; own slices of all nodes come, in the
 * order of the nodes, one in each row of the scratch. */
static flrq_status exchange_slices(flrq_comm *comm, flrq_backend *be, int64_t units, char *nodes, int64_t count,
                                   size_t width, char *rows, int64_t stride) {
    flrq_node list[FLRQ_RANGE_NODES];
    int own = flrq_range_nodes(flrq_share(units, comm->rank, comm->size), list), n_sends = 0, n_receives = 0;
    flrq_range slice = slice_of(count, comm->rank, comm->size);
    size_t sends_room = (size_t)own * (size_t)comm->size, receives_room = (size_t)all_nodes(units, comm->size);
    flrq_transfer *sends = malloc((sends_room + receives_room + 1) * sizeof *sends);
    if (!sends) return flrq_fail_memory((sends_room + receives_room + 1) * sizeof *sends, "the list of a sum's pieces");
    flrq_transfer *receives = sends + sends_room;
    for (int rank = 0; rank < comm->size; rank++) {
        flrq_range theirs = slice_of(count, rank, comm->size);
        for (int i = 0; i < own && theirs.count; i++)
            sends[n_sends++] =
                (flrq_transfer){rank, nodes + (size_t)(i * count + theirs.first) * width, (size_t)theirs.count * width};
        int given = flrq_range_nodes(flrq_share(units, rank, comm->size), list);
        for (int i = 0; i < given && slice.count; i++, n_receives++)
            receives[n_receives] =
                (flrq_transfer){rank, rows + (size_t)(n_receives * stride) * width, (size_t)slice.count * width};
    }
    flrq_status status = comm->transfer(comm, be, sends, n_sends, receives, n_receives);
    free(sends);
    return status;
}

static flrq_status sum_by_slices(flrq_comm *comm, fold *f, int64_t units, void *d_nodes, char *d_out, void *d_scratch) {
    int64_t count = f->count;
    size_t width = f->width;
    flrq_range slice = slice_of(count, comm->rank, comm->size);
    int64_t stride = slice_stride(slice.count);
    FLRQ_TRY(exchange_slices(comm, f->be, units, d_nodes, count, width, d_scratch, stride));
    void *d_sum;
    f->count = slice.count;
    FLRQ_TRY(fold_workers(f, units, comm->size, d_scratch, 0, stride, &d_sum));
    if (slice.count) {
        char *d_slice = d_out + (size_t)slice.first * width;
        FLRQ_TRY(f->be->copy(f->be, d_slice, d_sum, (size_t)slice.count * width));
    }
    size_t *first = malloc((size_t)(comm->size + 1) * sizeof *first);
    if (!first) return flrq_fail_memory((size_t)(comm->size + 1) * sizeof *first, "the places of a sum's slices");
    for (int rank = 0; rank < comm->size; rank++) first[rank] = (size_t)slice_of(count, rank, comm->size).first * width;
    first[comm->size] = (size_t)count * width;
    flrq_status status = comm->gather(comm, f->be, d_out, first);
    free(first);
    return status;
}

static flrq_status sum_device(flrq_comm *comm, flrq_backend *be, int64_t units, void *d_nodes, int64_t count,
                              size_t width, void *d_out, void *d_scratch) {
    FLRQ_TRY(check_units(units));
    if (count == 0) return FLRQ_OK;
    size_t bytes = (size_t)count * width;
    if (units == 0) return be->zero(be, d_out, bytes);
    fold f = {.be = be, .width = width, .count = count};
    void *d_sum;
    if (comm->size == 1)
        FLRQ_TRY(fold_workers(&f, units, 1, d_nodes, 0, count, &d_sum));
    else if (at_once(all_nodes(units, comm->size), count, width))
        FLRQ_TRY(sum_at_once(comm, &f, units, d_nodes, d_scratch, &d_sum));
    else
        return sum_by_slices(comm, &f, units, d_nodes, d_out, d_scratch);
    return d_sum == d_out ? FLRQ_OK : be->copy(be, d_out, d_sum, bytes);
}

flrq_status flrq_comm_sum_f32(flrq_comm *comm, flrq_backend *be, int64_t units, float *d_nodes, int64_t count,
                              float *d_out, void *d_scratch) {
    return sum_device(comm, be, units, d_nodes, count, sizeof(float), d_out, d_scratch);
}

flrq_status flrq_comm_sum_f64(flrq_comm *comm, flrq_backend *be, int64_t units, double *d_nodes, int64_t count,
                              double *d_out, void *d_scratch) {
    return sum_device(comm, be, units, d_nodes, count, sizeof(double), d_out, d_scratch);
}

flrq_status flrq_comm_sum_host(flrq_comm *comm, int64_t units, const double *nodes, int64_t count, double *out) {
    FLRQ_TRY(check_units(units));
    if (count == 0) return FLRQ_OK;
    if (units == 0) {
        memset(out, 0, (size_t)count * sizeof *out);
        return FLRQ_OK;
    }
    flrq_node list[FLRQ_RANGE_NODES];
    int own = flrq_range_nodes(flrq_share(units, comm->rank, comm->size), list);
    int64_t each = flrq_nodes_max(units, comm->size), part = each * count; /* parts of equal size; not all are full */
    size_t part_bytes = (size_t)part * sizeof *nodes, all_bytes = part_bytes * (size_t)comm->size;
    double *all = calloc(1, all_bytes);
    if (!all) return flrq_fail_memory(all_bytes, "the parts of a sum");
    if (own) memcpy(all + comm->rank * part, nodes, (size_t)(own * count) * sizeof *nodes);
    fold f = {.width = sizeof(double), .count = count};
    void *sum;
    flrq_status status = comm->gather_host(comm, all, part_bytes);
    if (status == FLRQ_OK) status = fold_workers(&f, units, comm->size, (char *)all, each, count, &sum);
    if (status == FLRQ_OK) memcpy(out, sum, (size_t)count * sizeof *out);
    free(all);
    return status;
}
