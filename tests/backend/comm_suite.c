/* comm_suite.c - the checks of comm_suite.h. Contents of every part, piece and term are a function of who sends it, so
 * each worker knows by itself what must arrive; buffers have guard bytes, and everything is compared as bytes.
 */
#include "backend/comm_suite.h"
#include "core/tree.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

FLRQ_PRINTF(2, 3) static void complain(const flrq_comm *comm, const char *format, ...) {
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "comm_suite: %s, worker %d of %d: %s\n", comm->name, comm->rank, comm->size, text);
    abort();
}

#define CHECK(comm, condition, ...)                                                                                    \
    do {                                                                                                               \
        if (!(condition)) complain(comm, __VA_ARGS__);                                                                 \
    } while (0)

#define CALL(comm, call)                                                                                               \
    do {                                                                                                               \
        flrq_status status_ = (call);                                                                                  \
        if (status_ != FLRQ_OK) complain(comm, "%s: %s: %s", #call, flrq_status_name(status_), flrq_last_error());     \
    } while (0)

static uint64_t mix(uint64_t a, uint64_t b) { /* SplitMix64's finalizer */
    uint64_t x = (a + 1) * 0x9e3779b97f4a7c15u + b;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void fill(void *out, size_t bytes, uint64_t who) {
    unsigned char *byte = out;
    uint64_t seed = mix(who, 77);
    for (size_t i = 0; i < bytes; i++) byte[i] = (unsigned char)(seed + i * 7 + (i >> 8) * 3 + (i >> 16));
}

static void *take(const flrq_comm *comm, size_t bytes) {
    void *memory = calloc(1, bytes ? bytes : 1);
    CHECK(comm, memory, "no memory for %zu bytes", bytes);
    return memory;
}

static void *take_device(const flrq_comm *comm, flrq_backend *be, size_t bytes) {
    void *d;
    CALL(comm, be->alloc(be, &d, bytes ? bytes : 1, "a test"));
    return d;
}

static void same(const flrq_comm *comm, const void *seen, const void *wanted, size_t bytes, const char *what) {
    if (bytes == 0 || memcmp(seen, wanted, bytes) == 0) return;
    size_t i = 0;
    while (((const unsigned char *)seen)[i] == ((const unsigned char *)wanted)[i]) i++;
    complain(comm, "%s: byte %zu of %zu is %d, not %d", what, i, bytes, ((const unsigned char *)seen)[i],
             ((const unsigned char *)wanted)[i]);
}

static void same_device(const flrq_comm *comm, flrq_backend *be, const void *d_seen, const void *wanted, size_t bytes,
                        const char *what) {
    void *seen = take(comm, bytes);
    if (bytes) CALL(comm, be->download(be, seen, d_seen, bytes));
    same(comm, seen, wanted, bytes, what);
    free(seen);
}

enum { GUARD = 64, GUARD_BYTE = 0xa5 };

/* ---- shares of a grid -------------------------------------------------------------------------------------------- */

static void check_nodes(const flrq_comm *comm, flrq_range range) {
    flrq_node nodes[FLRQ_RANGE_NODES];
    int count = flrq_range_nodes(range, nodes);
    CHECK(comm, count <= FLRQ_RANGE_NODES, "%d nodes", count);
    int64_t at = range.first, end = range.first + range.count;
    for (int i = 0; i < count; i++) {
        int64_t units = (int64_t)1 << nodes[i].level;
        CHECK(comm, nodes[i].first == at && at % units == 0, "node at %lld, level %d", (long long)at, nodes[i].level);
        int widest = at % (2 * units) != 0 || at + 2 * units > end; /* else the parent would have done */
        CHECK(comm, widest, "node at %lld, level %d: its parent is in the range", (long long)at, nodes[i].level);
        at += units;
    }
    CHECK(comm, at == end, "nodes of %lld units end at %lld", (long long)range.count, (long long)at);
}

static void check_shares(const flrq_comm *comm) {
    static const int sizes[] = {1, 2, 3, 5, 8, 64, 1000};
    static const int64_t counts[] = {0,   1,   2,    3,     7,     8,      63,  64,   65,   511,
                                     512, 513, 1000, 28672, 28673, 131072, 999, 1023, 1025, 16777215};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            int size = sizes[s], most = 0;
            int64_t count = counts[c], at = 0, row = 0, least = count / size;
            for (int rank = 0; rank < size; rank++) {
                flrq_range range = flrq_share(count, rank, size), rows = flrq_share_rows(count, rank, size);
                flrq_range chunks = flrq_share((count + FLRQ_CHUNK_ROWS - 1) / FLRQ_CHUNK_ROWS, rank, size);
                CHECK(comm, range.first == at, "share %d of %d of %lld", rank, size, (long long)count);
                CHECK(comm, range.count == least + (rank < count % size), "share %d of %d of %lld", rank, size,
                      (long long)count);
                at += range.count;
                CHECK(comm, rows.first == row && rows.count >= 0, "rows of %d of %d of %lld", rank, size,
                      (long long)count);
                CHECK(comm, rows.count == 0 || rows.first == chunks.first * FLRQ_CHUNK_ROWS,
                      "rows of %d of %d of %lld begin off the grid", rank, size, (long long)count);
                CHECK(comm, (rows.count + FLRQ_CHUNK_ROWS - 1) / FLRQ_CHUNK_ROWS == chunks.count,
                      "rows of %d of %d of %lld", rank, size, (long long)count);
                row += rows.count;
                check_nodes(comm, range);
                flrq_node nodes[FLRQ_RANGE_NODES];
                int own = flrq_range_nodes(range, nodes);
                most = own > most ? own : most;
            }
            CHECK(comm, at == count && row == count, "the shares of %lld are not the whole", (long long)count);
            CHECK(comm, flrq_nodes_max(count, size) == most, "most nodes of %lld over %d", (long long)count, size);
        }
    check_nodes(comm, (flrq_range){1, 16777213}); /* the most nodes that there can be: 23 up, 23 down */
}

/* ---- values of the host ------------------------------------------------------------------------------------------ */

static void check_gather_host(flrq_comm *comm, size_t bytes) {
    size_t whole = bytes * (size_t)comm->size;
    char *all = take(comm, whole + GUARD), *wanted = take(comm, whole + GUARD);
    memset(all, GUARD_BYTE, whole + GUARD);
    memset(wanted, GUARD_BYTE, whole + GUARD);
    for (int rank = 0; rank < comm->size; rank++) fill(wanted + bytes * (size_t)rank, bytes, (uint64_t)rank + bytes);
    fill(all + bytes * (size_t)comm->rank, bytes, (uint64_t)comm->rank + bytes);
    CALL(comm, comm->gather_host(comm, all, bytes));
    same(comm, all, wanted, whole + GUARD, "gather_host");
    free(all);
    free(wanted);
}

static void check_broadcast_host(flrq_comm *comm, size_t bytes, int root) {
    char *data = take(comm, bytes + GUARD), *wanted = take(comm, bytes + GUARD);
    memset(data, GUARD_BYTE, bytes + GUARD);
    memset(wanted, GUARD_BYTE, bytes + GUARD);
    fill(wanted, bytes, (uint64_t)root + 1000 + bytes);
    if (comm->rank == root) fill(data, bytes, (uint64_t)root + 1000 + bytes);
    CALL(comm, comm->broadcast_host(comm, data, bytes, root));
    same(comm, data, wanted, bytes + GUARD, "broadcast_host");
    free(data);
    free(wanted);
}

static void check_host_values(flrq_comm *comm) {
    static const size_t sizes[] = {0, 1, 3, 8, 64, 1001, 65537, 3000001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_gather_host(comm, sizes[i]);
        for (int root = 0; root < comm->size; root++) check_broadcast_host(comm, sizes[i], root);
    }
    for (int i = 0; i < 100; i++) check_gather_host(comm, 8); /* calls run into each other when meetings are wrong */
}

/* ---- maxima, sums of whole numbers, texts ------------------------------------------------------------------------ */

static void check_max(flrq_comm *comm) {
    float rank = (float)comm->rank, last = (float)(comm->size - 1);
    float values[8] = {rank, -rank, comm->rank == comm->size / 2 ? 1e30f : -1e30f, -INFINITY, 0, -rank - 1, 0, 0};
    values[4] = comm->rank == comm->size - 1 ? NAN : INFINITY;
    values[6] = comm->rank == 0 ? NAN : rank;
    values[7] = comm->rank == comm->size / 2 ? INFINITY : rank;
    CALL(comm, flrq_comm_max(comm, values, 8));
    int right = values[0] == last && values[1] == 0 && values[2] == 1e30f && values[3] == -INFINITY &&
                isnan(values[4]) && values[5] == -1 && isnan(values[6]) && values[7] == INFINITY;
    CHECK(comm, right, "max: %g %g %g %g %g %g %g %g", values[0], values[1], values[2], values[3], values[4], values[5],
          values[6], values[7]);
    CALL(comm, flrq_comm_max(comm, values, 0));
}

static void check_sum(flrq_comm *comm) {
    int64_t size = comm->size, values[3] = {comm->rank, ((int64_t)1 << 53) + 1, -comm->rank};
    CALL(comm, flrq_comm_sum(comm, values, 3));
    CHECK(comm, values[0] == size * (size - 1) / 2 && values[2] == -values[0], "sum of ranks %lld, %lld",
          (long long)values[0], (long long)values[2]);
    CHECK(comm, values[1] == size * (((int64_t)1 << 53) + 1), "a sum of whole numbers lost bits: %lld",
          (long long)values[1]);
}

static char *text_of(const flrq_comm *comm, int kind, int root) {
    if (kind == 0) return NULL;
    size_t length = kind == 1 ? 0 : kind == 2 ? 17 : 1000000;
    char *text = take(comm, length + 1);
    for (size_t i = 0; i < length; i++) text[i] = (char)('a' + (i + (size_t)root) % 23);
    return text;
}

static void check_texts(flrq_comm *comm) {
    for (int kind = 0; kind < 4; kind++)
        for (int root = 0; root < comm->size; root++) {
            char *wanted = text_of(comm, kind, root);
            char *text = comm->rank == root ? text_of(comm, kind, root) : text_of(comm, (comm->rank + root) % 3, 99);
            CALL(comm, flrq_comm_share_text(comm, &text, root));
            CHECK(comm, !text == !wanted && (!text || strcmp(text, wanted) == 0), "text %d of worker %d", kind, root);
            free(text);
            free(wanted);
        }
}

/* ---- backend memory: gather -------------------------------------------------------------------------------------- */

/* A gather that is prepared, begun and checked apart. */
typedef struct gathered {
    size_t *first, bytes;
    char *wanted; /* with guards on both sides */
    char *d_all;
} gathered;

static size_t part_bytes(int kind, int rank, int size) {
    switch (kind) {
    case 0:
        return 1000; /* equal */
    case 1:
        return (size_t)(mix((uint64_t)rank, 5) % 5000); /* odd */
    case 2:
        return rank == size - 1 ? 777 : 0; /* one has all */
    case 3:
        return rank % 2 ? 0 : 12345;
    case 4:
        return (size_t)(3000001 + 13 * rank); /* beyond any eager limit */
    default:
        return 0; /* nothing at all */
    }
}

static gathered gather_prepare(flrq_comm *comm, flrq_backend *be, int kind) {
    gathered g = {.first = take(comm, (size_t)(comm->size + 1) * sizeof *g.first)};
    g.first[0] = GUARD;
    for (int rank = 0; rank < comm->size; rank++)
        g.first[rank + 1] = g.first[rank] + part_bytes(kind, rank, comm->size);
    g.bytes = g.first[comm->size] + GUARD;
    g.wanted = take(comm, g.bytes);
    g.d_all = take_device(comm, be, g.bytes);
    char *start = take(comm, g.bytes);
    memset(start, GUARD_BYTE, g.bytes);
    memset(g.wanted, GUARD_BYTE, g.bytes);
    for (int rank = 0; rank < comm->size; rank++) {
        size_t bytes = g.first[rank + 1] - g.first[rank];
        fill(g.wanted + g.first[rank], bytes, (uint64_t)(kind * 1000 + rank));
        if (rank == comm->rank) memcpy(start + g.first[rank], g.wanted + g.first[rank], bytes);
    }
    CALL(comm, be->upload(be, g.d_all, start, g.bytes));
    free(start);
    return g;
}

static void gather_check(flrq_comm *comm, flrq_backend *be, gathered *g, const char *what) {
    same_device(comm, be, g->d_all, g->wanted, g->bytes, what);
    be->release(be, g->d_all);
    free(g->wanted);
    free(g->first);
}

static void check_gather(flrq_comm *comm, flrq_backend *be) {
    for (int kind = 0; kind <= 5; kind++) {
        gathered g = gather_prepare(comm, be, kind);
        CALL(comm, comm->gather(comm, be, g.d_all, g.first));
        gather_check(comm, be, &g, "gather");
    }
}

static void check_transfer(flrq_comm *comm, flrq_backend *be, size_t largest);

/* Several gathers under way while other calls and ops go on. */
static void check_gather_beside(flrq_comm *comm, flrq_backend *be) {
    CALL(comm, comm->gather_end(comm, be)); /* none begun */
    for (int round = 0; round < 2; round++) {
        gathered g[6];
        for (int kind = 0; kind <= 5; kind++) {
            g[kind] = gather_prepare(comm, be, kind);
            CALL(comm, comm->gather_begin(comm, be, g[kind].d_all, g[kind].first));
            memset(g[kind].first, 0xff, (size_t)(comm->size + 1) * sizeof *g[kind].first); /* it was copied */
            if (kind == 2) check_gather_host(comm, 1001);
        }
        check_gather(comm, be);
        check_transfer(comm, be, 100000);
        check_broadcast_host(comm, 5, comm->size - 1);
        CALL(comm, flrq_comm_barrier(comm));
        CALL(comm, comm->gather_end(comm, be));
        for (int kind = 5; kind >= 0; kind--) gather_check(comm, be, &g[kind], "gather_begin");
    }
}

/* ---- backend memory: transfer ------------------------------------------------------------------------------------ */

enum { PIECES_MAX = 3 };

static int pieces_between(int from, int to) {
    return (from + 2 * to) % (PIECES_MAX + 1); /* also none */
}

static size_t piece_bytes(int from, int to, int piece, size_t largest) {
    uint64_t random = mix((uint64_t)(from * 1000 + to), (uint64_t)piece);
    if (random % 11 == 0) return 0;
    return piece == 1 ? largest + (size_t)(from * 8 + to) : (size_t)(random % 3000);
}

/* The pieces to (or from) all, guard bytes between them; *bytes of the buffer that holds them. Peers come in the order
 * of `step` from `start` on, the pieces of the peers take turns: only the order between two workers is given. */
static int list_pieces(const flrq_comm *comm, int sending, int start, int step, size_t largest, flrq_transfer *list,
                       size_t *places, size_t *bytes) {
    int count = 0;
    *bytes = GUARD;
    for (int piece = 0; piece < PIECES_MAX; piece++)
        for (int i = 0; i < comm->size; i++) {
            int peer = (start + i * step) % comm->size;
            int from = sending ? comm->rank : peer, to = sending ? peer : comm->rank;
            if (piece >= pieces_between(from, to)) continue;
            list[count] = (flrq_transfer){.peer = peer, .bytes = piece_bytes(from, to, piece, largest)};
            places[count] = *bytes;
            *bytes += list[count++].bytes + 16;
        }
    return count;
}

static void fill_pieces(const flrq_comm *comm, int sending, const flrq_transfer *list, const size_t *places, int count,
                        char *memory) {
    for (int i = 0; i < count; i++) {
        int nth = 0, from = sending ? comm->rank : list[i].peer, to = sending ? list[i].peer : comm->rank;
        for (int k = 0; k < i; k++) nth += list[k].peer == list[i].peer;
        fill(memory + places[i], list[i].bytes, (uint64_t)((from * 1000 + to) * 10 + nth));
    }
}

static void check_transfer(flrq_comm *comm, flrq_backend *be, size_t largest) {
    size_t room = (size_t)comm->size * PIECES_MAX, sent, received;
    flrq_transfer *sends = take(comm, room * sizeof *sends), *receives = take(comm, room * sizeof *receives);
    size_t *from = take(comm, room * sizeof *from), *to = take(comm, room * sizeof *to);
    int n_sends = list_pieces(comm, 1, comm->rank + 1, 1, largest, sends, from, &sent);
    int n_receives = list_pieces(comm, 0, comm->rank, comm->size - 1, largest, receives, to, &received);
    if (comm->size == 1) n_receives = list_pieces(comm, 0, 0, 1, largest, receives, to, &received);
    char *out = take(comm, sent), *wanted = take(comm, received), *d_out = take_device(comm, be, sent);
    char *d_in = take_device(comm, be, received);
    memset(wanted, GUARD_BYTE, received);
    CALL(comm, be->upload(be, d_in, wanted, received));
    fill_pieces(comm, 1, sends, from, n_sends, out);
    fill_pieces(comm, 0, receives, to, n_receives, wanted);
    CALL(comm, be->upload(be, d_out, out, sent));
    for (int i = 0; i < n_sends; i++) sends[i].d_data = d_out + from[i];
    for (int i = 0; i < n_receives; i++) receives[i].d_data = d_in + to[i];
    CALL(comm, comm->transfer(comm, be, sends, n_sends, receives, n_receives));
    same_device(comm, be, d_in, wanted, received, "transfer, received");
    same_device(comm, be, d_out, out, sent, "transfer, sent");
    be->release(be, d_in);
    be->release(be, d_out);
    free(wanted);
    free(out);
    free(to);
    free(from);
    free(receives);
    free(sends);
}

/* Only from the first to the last worker; the others take part with nothing. */
static void check_transfer_one_way(flrq_comm *comm, flrq_backend *be) {
    enum { BYTES = 100001 };
    char *data = take(comm, BYTES), *d = take_device(comm, be, BYTES), *d_self = take_device(comm, be, BYTES);
    fill(data, BYTES, 4242);
    if (comm->rank == 0)
        CALL(comm, be->upload(be, d, data, BYTES));
    else
        CALL(comm, be->zero(be, d, BYTES));
    int last = comm->rank == comm->size - 1;
    void *d_to = comm->size == 1 ? d_self : d;
    flrq_transfer send = {comm->size - 1, d, BYTES}, receive = {0, d_to, BYTES};
    CALL(comm, comm->transfer(comm, be, &send, comm->rank == 0, &receive, last));
    if (last) same_device(comm, be, d_to, data, BYTES, "transfer from the first to the last");
    be->release(be, d_self);
    be->release(be, d);
    free(data);
}

/* ---- sums along the tree ----------------------------------------------------------------------------------------- */

/* Term i of a unit, exact in float: magnitudes over 20 octaves, so that the order of additions shows. */
static double term(int64_t unit, int64_t i) {
    uint64_t random = mix((uint64_t)unit, (uint64_t)i);
    return ldexp((double)(int32_t)(uint32_t)(random >> 40) - 8388608.0, -(int)(random % 20));
}

static void term_row(void *row, size_t width, int64_t unit, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double value = term(unit, i);
        if (width == sizeof(float))
            ((float *)row)[i] = (float)value;
        else
            ((double *)row)[i] = value / 3; /* all bits in use */
    }
}

/* The sum of one worker alone over the units first .. first + units - 1: each pushed in order. */
static void tree_sum(const flrq_comm *comm, void *out, size_t width, int64_t first, int64_t units, int64_t count) {
    float *floats[FLRQ_TREE_LEVELS + 1] = {0};
    double *doubles[FLRQ_TREE_LEVELS + 1] = {0};
    flrq_tree tree = {0};
    for (int k = 0; k < flrq_tree_levels(units); k++) {
        floats[k] = take(comm, (size_t)count * sizeof(float));
        doubles[k] = take(comm, (size_t)count * sizeof(double));
    }
    for (int64_t u = 0; u < units; u++)
        if (width == sizeof(float)) {
            term_row(floats[0], width, first + u, count);
            flrq_tree_push_f32(&tree, floats, count);
        } else {
            term_row(doubles[0], width, first + u, count);
            flrq_tree_push_f64(&tree, doubles, count);
        }
    if (width == sizeof(float))
        flrq_tree_finish_f32(&tree, floats, out, count);
    else
        flrq_tree_finish_f64(&tree, doubles, out, count);
    for (int k = 0; k <= FLRQ_TREE_LEVELS; k++) {
        free(floats[k]);
        free(doubles[k]);
    }
}

/* The sums of this worker's nodes, [nodes, count]; *nodes. */
static char *own_nodes(const flrq_comm *comm, size_t width, int64_t units, int64_t count, int *nodes) {
    flrq_node list[FLRQ_RANGE_NODES];
    *nodes = flrq_range_nodes(flrq_share(units, comm->rank, comm->size), list);
    size_t row = (size_t)count * width;
    char *rows = take(comm, (size_t)*nodes * row);
    for (int i = 0; i < *nodes; i++)
        tree_sum(comm, rows + (size_t)i * row, width, list[i].first, (int64_t)1 << list[i].level, count);
    return rows;
}

static void check_tree_sum(flrq_comm *comm, flrq_backend *be, size_t width, int64_t units, int64_t count) {
    int nodes;
    size_t row = (size_t)count * width, scratch = flrq_sum_scratch_bytes(units, count, width, comm->size);
    char *rows = own_nodes(comm, width, units, count, &nodes);
    char *wanted = take(comm, row + GUARD), *guard = take(comm, scratch + GUARD), what[96];
    snprintf(what, sizeof what, "sum of %lld units, %lld values of %zu bytes", (long long)units, (long long)count,
             width);
    memset(wanted, GUARD_BYTE, row + GUARD);
    memset(guard, GUARD_BYTE, scratch + GUARD);
    char *d_nodes = take_device(comm, be, (size_t)nodes * row), *d_out = take_device(comm, be, row + GUARD);
    char *d_scratch = take_device(comm, be, scratch + GUARD);
    if (nodes && row) CALL(comm, be->upload(be, d_nodes, rows, (size_t)nodes * row));
    CALL(comm, be->upload(be, d_out, wanted, row + GUARD));
    CALL(comm, be->upload(be, d_scratch, guard, scratch + GUARD));
    tree_sum(comm, wanted, width, 0, units, count);
    if (width == sizeof(float))
        CALL(comm, flrq_comm_sum_f32(comm, be, units, (float *)d_nodes, count, (float *)d_out, d_scratch));
    else
        CALL(comm, flrq_comm_sum_f64(comm, be, units, (double *)d_nodes, count, (double *)d_out, d_scratch));
    same_device(comm, be, d_out, wanted, row + GUARD, what);
    same_device(comm, be, d_scratch + scratch, guard + scratch, GUARD, "behind the scratch of a sum");
    if (comm->size == 1 && nodes) { /* in place */
        CALL(comm, be->upload(be, d_nodes, rows, (size_t)nodes * row));
        if (width == sizeof(float))
            CALL(comm, flrq_comm_sum_f32(comm, be, units, (float *)d_nodes, count, (float *)d_nodes, NULL));
        else
            CALL(comm, flrq_comm_sum_f64(comm, be, units, (double *)d_nodes, count, (double *)d_nodes, NULL));
        same_device(comm, be, d_nodes, wanted, row, what);
    }
    be->release(be, d_scratch);
    be->release(be, d_out);
    be->release(be, d_nodes);
    free(guard);
    free(wanted);
    free(rows);
}

static void check_tree_sum_host(flrq_comm *comm, int64_t units, int64_t count) {
    int nodes;
    size_t row = (size_t)count * sizeof(double);
    char *rows = own_nodes(comm, sizeof(double), units, count, &nodes);
    char *wanted = take(comm, row + GUARD), *out = take(comm, row + GUARD);
    memset(wanted, GUARD_BYTE, row + GUARD);
    memset(out, GUARD_BYTE, row + GUARD);
    tree_sum(comm, wanted, sizeof(double), 0, units, count);
    CALL(comm, flrq_comm_sum_host(comm, units, (const double *)rows, count, (double *)out));
    same(comm, out, wanted, row + GUARD, "sum of values on the host");
    free(out);
    free(wanted);
    free(rows);
}

/* The terms above must tell the tree from a sum in order, or these checks mean nothing. */
static void check_order_shows(const flrq_comm *comm) {
    float tree[40], row[40], straight[40] = {0};
    tree_sum(comm, tree, sizeof(float), 0, 70, 40);
    for (int unit = 0; unit < 70; unit++) {
        term_row(row, sizeof(float), unit, 40);
        for (int i = 0; i < 40; i++) straight[i] += row[i];
    }
    CHECK(comm, memcmp(tree, straight, sizeof tree) != 0, "the terms do not show the order of additions");
}

static void check_tree_sums(flrq_comm *comm, flrq_backend *be) {
    check_order_shows(comm);
    int64_t counts[] = {0, 1, 3, 2 * comm->size + 37};
    for (int64_t units = 0; units <= 70; units++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            check_tree_sum(comm, be, sizeof(float), units, counts[c]);
            check_tree_sum(comm, be, sizeof(double), units, counts[c]);
            check_tree_sum_host(comm, units, counts[c]);
        }
    static const int64_t large[][2] = {{1, 70001}, {2, 65536}, {7, 40003}, {64, 20011}, {70, 9999}, {1000, 8191}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        check_tree_sum(comm, be, sizeof(float), large[i][0], large[i][1]);
        check_tree_sum(comm, be, sizeof(double), large[i][0], large[i][1]);
    }
    check_tree_sum(comm, be, sizeof(float), 3, 30000);   /* fewer and */
    check_tree_sum(comm, be, sizeof(double), 3, 30000);  /* more bytes than where the way changes */
    check_tree_sum(comm, be, sizeof(double), 1000, 520); /* slices for some workers only, when there are many */
    CHECK(comm, flrq_comm_sum_f32(comm, be, (int64_t)1 << FLRQ_TREE_LEVELS, NULL, 1, NULL, NULL) == FLRQ_ERR_SHAPE,
          "a sum over more units than the tree holds");
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

void comm_suite(flrq_comm *comm, flrq_backend *be) {
    CHECK(comm, comm->size >= 1 && comm->rank >= 0 && comm->rank < comm->size, "a rank out of bounds");
    comm->doing(comm, -1, "tests");
    check_shares(comm);
    check_host_values(comm);
    check_max(comm);
    check_sum(comm);
    check_texts(comm);
    check_gather(comm, be);
    check_transfer(comm, be, 5000);
    check_transfer(comm, be, 2000003);
    check_transfer_one_way(comm, be);
    check_gather_beside(comm, be);
    check_tree_sums(comm, be);
    CALL(comm, flrq_comm_barrier(comm));
    if (comm->check) CALL(comm, comm->check(comm));
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

static void sleep_seconds(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
    nanosleep(&time, NULL);
}

/* A call that needs everybody. */
static flrq_status meet(flrq_comm *comm) {
    return flrq_comm_barrier(comm);
}

static void wants(const flrq_comm *comm, flrq_status status, flrq_status wanted, const char *text) {
    CHECK(comm, status == wanted, "status %s, not %s: %s", flrq_status_name(status), flrq_status_name(wanted),
          flrq_last_error());
    CHECK(comm, strstr(flrq_last_error(), text), "no \"%s\" in: %s", text, flrq_last_error());
}

void comm_suite_failure(flrq_comm *comm, flrq_backend *be) {
    char who[64];
    int last = comm->size - 1;
    snprintf(who, sizeof who, "worker %d of %d (", last, comm->size);
    CALL(comm, meet(comm));
    if (comm->rank == last) {
        comm->doing(comm, 4, "quantize");
        sleep_seconds(0.3);
        comm->fail(comm, FLRQ_ERR_NUMERIC, "tensor x: not finite");
        comm->fail(comm, FLRQ_ERR_IO, "a later failure");
        return;
    }
    comm->doing(comm, 3, "forward");
    flrq_status status = meet(comm);
    wants(comm, status, FLRQ_ERR_NUMERIC, who);
    wants(comm, status, FLRQ_ERR_NUMERIC, "), block 4, quantize: tensor x: not finite");
    comm->fail(comm, status, flrq_last_error()); /* what a worker does whose call failed; it changes nothing */
}

void comm_suite_missing(flrq_comm *comm, flrq_backend *be) {
    char who[64];
    int last = comm->size - 1;
    snprintf(who, sizeof who, "worker %d of %d (", last, comm->size);
    comm->doing(comm, 7, "sketch");
    CALL(comm, meet(comm));
    if (comm->rank == last) sleep_seconds(comm->timeout + 1.0);
    flrq_status status = meet(comm);
    if (comm->rank == last && status == FLRQ_OK) status = meet(comm); /* the others' parts of the first had been sent */
    CHECK(comm, status == FLRQ_ERR_PEER, "status %s: %s", flrq_status_name(status), flrq_last_error());
    wants(comm, status, FLRQ_ERR_PEER, who); /* the late one hears its own name */
    CHECK(comm, strstr(flrq_last_error(), "not come for"), "not a time-out: %s", flrq_last_error());
    char text[2048];
    snprintf(text, sizeof text, "%s", flrq_last_error());
    comm->fail(comm, status, text);
}

int comm_suite_leaving(flrq_comm *comm, flrq_backend *be) {
    char who[64];
    int last = comm->size - 1;
    snprintf(who, sizeof who, "worker %d of %d (", last, comm->size);
    CALL(comm, meet(comm));
    if (comm->rank == last) {
        sleep_seconds(0.3); /* the others are in their next call */
        flrq_comm_close(comm);
        return 1;
    }
    flrq_status status = meet(comm);
    wants(comm, status, FLRQ_ERR_PEER, who);
    CHECK(comm, strstr(flrq_last_error(), "left"), "not a farewell: %s", flrq_last_error());
    comm->fail(comm, status, flrq_last_error());
    return 0;
}
