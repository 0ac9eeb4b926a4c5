/* source.h - the weights of a run on their way from the checkpoint to the devices.
 *
 * An item is a block, or one linear layer of a weights-only run. Each worker reads its rows; those of a block are then
 * brought to all workers, which forward it. With overlap a reader's thread brings item i+1 into a second buffer while i
 * is computed: item i is in buffer i % 2. Nothing here allocates but flrq_source_open(). Reading is local, gathering is
 * not: all workers ask for the same items in the same order.
 */
#ifndef FLRQ_PIPELINE_SOURCE_H
#define FLRQ_PIPELINE_SOURCE_H

#include "pipeline/job.h"
#include "pipeline/stream.h"
#include "quant/split.h"

typedef struct flrq_source {
    flrq_backend *be;
    flrq_comm *comm;
    const flrq_model *model;
    const flrq_plan *plan;
    flrq_stage *reader;
    flrq_feed feed;        /* of a reader's thread, or of a weights-only run */
    flrq_block *blocks[2]; /* of a calibrated run */
    void *d_weights[2];    /* of a weights-only run */
    int64_t requested;     /* last item asked for, -1 none */
    int64_t gathering;     /* block whose rows are on their way between the workers, -1 none */
} flrq_source;

/** Allocates the buffers that the plan says and starts the reader. The pointers are borrowed. After a failure close()
 * frees what was had. */
flrq_status flrq_source_open(flrq_source *source, flrq_backend *be, flrq_comm *comm, const flrq_model *model,
                             const flrq_plan *plan);
void flrq_source_close(flrq_source *source); /* waits for the reader; a zeroed one is fine */

/** Waits for the item and, with overlap, has the next one read. *buffer: where it is. Of a block all rows are there, of
 * a single weight this worker's. */
flrq_status flrq_source_receive(flrq_source *source, int64_t item, int *buffer);

/** Has the rows of the next block brought to all workers, where there is a buffer for it: that overlaps with the
 * forward of this one, during which the workers have nothing else to say. */
flrq_status flrq_source_gather_ahead(flrq_source *source, int64_t item);

/** Tells the kernel that the item's part of the files is not needed again. */
void flrq_source_drop(const flrq_source *source, int64_t item);

#endif
