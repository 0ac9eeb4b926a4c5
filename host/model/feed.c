/* feed.c - pieces of weights on their way from files to the backend. */
#include "model/feed.h"

#include <stdatomic.h>
#include <string.h>

#include "core/parallel.h"

enum { READ_PIECE = 1 << 20 };

flrq_status flrq_feed_new(flrq_feed *feed, flrq_backend *be, size_t slot_bytes, int slots, int beside) {
    memset(feed, 0, sizeof *feed);
    feed->be = be, feed->slot_bytes = slot_bytes, feed->slots = slots, feed->readers = 1;
    flrq_status status = FLRQ_OK;
    for (int i = 0; i < slots; i++)
        FLRQ_GOTO(be->host_alloc(be, (void **)&feed->slot[i], slot_bytes, "weights on their way to the device"));
    if (beside) status = be->lane_open(be, &feed->lane);
out:
    if (status != FLRQ_OK) flrq_feed_free(feed);
    return status;
}

void flrq_feed_free(flrq_feed *feed) {
    if (!feed->be) return;
    if (feed->lane) feed->be->lane_close(feed->lane);
    for (int i = 0; i < feed->slots; i++) feed->be->host_release(feed->be, feed->slot[i]);
    memset(feed, 0, sizeof *feed);
}

flrq_status flrq_feed_take(flrq_feed *feed, char **slot) {
    int i = feed->next % feed->slots;
    feed->next = i + 1;
    *slot = feed->slot[i];
    if (!feed->ticket[i]) return FLRQ_OK;
    FLRQ_TRY(feed->be->lane_wait(feed->lane, feed->ticket[i]));
    feed->ticket[i] = 0;
    return FLRQ_OK;
}

flrq_status flrq_feed_send(flrq_feed *feed, void *d_to, const void *from, size_t bytes) {
    if (!feed->lane) return feed->be->upload(feed->be, d_to, from, bytes);
    return feed->be->lane_upload(feed->lane, d_to, from, bytes, &feed->ticket[feed->next - 1]);
}

flrq_status flrq_feed_wait(flrq_feed *feed) {
    if (!feed->lane) return feed->be->sync(feed->be);
    FLRQ_TRY(feed->be->lane_wait(feed->lane, 0));
    memset(feed->ticket, 0, sizeof feed->ticket);
    return FLRQ_OK;
}

/* ---- reading by several threads ---------------------------------------------------------------------------------- */

typedef struct wide_read {
    const flrq_checkpoint *checkpoint;
    const flrq_tensor *tensor;
    char *to;
    uint64_t first, bytes;
    atomic_int failed;
} wide_read;

static void read_piece(void *arg, int64_t index, int thread) {
    wide_read *w = arg;
    uint64_t at = (uint64_t)index * READ_PIECE, bytes = w->bytes - at < READ_PIECE ? w->bytes - at : READ_PIECE;
    if (flrq_checkpoint_read(w->checkpoint, w->tensor, w->to + at, w->first + at, bytes) != FLRQ_OK) w->failed = 1;
}

/* A failure is met again by reading alone, for its text belongs to the thread that met it. */
static flrq_status read_slot(const flrq_feed *feed, const flrq_checkpoint *checkpoint, const flrq_tensor *tensor,
                             char *slot, uint64_t first, uint64_t bytes) {
    wide_read w = {checkpoint, tensor, slot, first, bytes, 0};
    if (feed->readers > 1 && bytes > READ_PIECE) {
        flrq_parallel_for(feed->readers, (int64_t)((bytes + READ_PIECE - 1) / READ_PIECE), read_piece, &w);
        if (!w.failed) return FLRQ_OK;
    }
    return flrq_checkpoint_read(checkpoint, tensor, slot, first, bytes);
}

flrq_status flrq_feed_range(flrq_feed *feed, const flrq_checkpoint *checkpoint, const flrq_tensor *tensor,
                            uint64_t first, uint64_t bytes, void *d_to) {
    for (uint64_t at = first, end = first + bytes; at < end; at += feed->slot_bytes) {
        size_t piece = end - at < feed->slot_bytes ? (size_t)(end - at) : feed->slot_bytes;
        char *slot;
        flrq_status status = flrq_feed_take(feed, &slot);
        if (status == FLRQ_OK) {
            FLRQ_TRY(read_slot(feed, checkpoint, tensor, slot, at, piece)); /* names the tensor itself */
            status = flrq_feed_send(feed, (char *)d_to + at, slot, piece);
        }
        if (status != FLRQ_OK) return flrq_trace(status, "tensor %s", tensor->name);
    }
    return FLRQ_OK;
}

flrq_status flrq_feed_tensor(flrq_feed *feed, const flrq_checkpoint *checkpoint, const flrq_tensor *tensor,
                             void *d_to) {
    return flrq_feed_range(feed, checkpoint, tensor, 0, tensor->bytes, d_to);
}
