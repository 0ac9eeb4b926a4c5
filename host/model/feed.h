/* feed.h - the way of weights from files to the backend: in pieces, through slots of host memory that are used in turn.
 *
 * With a lane a feed belongs to one thread, which may read block i+1 while another issues the ops of block i: a slot is
 * read into again only when the copy out of it is done. Without a lane copies go in the order of the ops. The slots are
 * page-locked where the backend has such memory. Nothing here allocates but flrq_feed_new().
 */
#ifndef FLRQ_MODEL_FEED_H
#define FLRQ_MODEL_FEED_H

#include "flrq_backend.h"
#include "io/safetensors.h"

/* Threads that fill a slot where the backend leaves the CPU alone: one copies out of the page cache at a fraction of
 * what memory gives. */
enum { FLRQ_FEED_SLOTS = 4, FLRQ_FEED_READERS = 4 };

typedef struct flrq_feed {
    flrq_backend *be;
    flrq_lane *lane; /* NULL: copies in the order of the ops */
    size_t slot_bytes;
    int slots, next; /* the slot taken last is next - 1 */
    int readers;     /* threads that fill a slot; 1 unless the owner raises it */
    char *slot[FLRQ_FEED_SLOTS];
    uint64_t ticket[FLRQ_FEED_SLOTS]; /* of the last copy out of the slot; 0: none */
} flrq_feed;

/** `slots` (1 .. FLRQ_FEED_SLOTS) of slot_bytes bytes each, 64-byte aligned; `beside`: on a lane of its own. On failure
 * *feed is empty. */
flrq_status flrq_feed_new(flrq_feed *feed, flrq_backend *be, size_t slot_bytes, int slots, int beside);
void flrq_feed_free(flrq_feed *feed); /* waits for its copies; a zeroed feed is fine */

/** The next slot, waiting until the copies out of it are done. */
flrq_status flrq_feed_take(flrq_feed *feed, char **slot);

/** Copies `bytes` at `from`, which lies in the slot taken last, to d_to. */
flrq_status flrq_feed_send(flrq_feed *feed, void *d_to, const void *from, size_t bytes);

/** Waits until all that was sent is in the backend's memory, visible to ops issued from now on. */
flrq_status flrq_feed_wait(flrq_feed *feed);

/** Sends the bytes [first, first + bytes) of a tensor as they are in the file to the same place of the array at d_to;
 * errors name the tensor. Does not wait: after a failure too, copies may be under way to d_to until flrq_feed_wait() or
 * flrq_feed_free(). */
flrq_status flrq_feed_range(flrq_feed *feed, const flrq_checkpoint *checkpoint, const flrq_tensor *tensor,
                            uint64_t first, uint64_t bytes, void *d_to);

/** All of it. */
flrq_status flrq_feed_tensor(flrq_feed *feed, const flrq_checkpoint *checkpoint, const flrq_tensor *tensor, void *d_to);

#endif
