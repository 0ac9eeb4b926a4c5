/* comm.h - the workers of a run as one group.
 *
 * Every matrix is split by rows over the workers on the grid of FLRQ_CHUNK_ROWS, so the only values that workers
 * exchange inside the numerical core are sums over rows and maxima. Sums are completed along the chunk tree
 * (core/tree.h), whatever the number of workers, which keeps the bytes of a run independent of it. With one worker
 * ("self") everything is already complete.
 */
#ifndef FLRQ_BACKEND_COMM_H
#define FLRQ_BACKEND_COMM_H

#include "flrq_backend.h"
#include "core/error.h"

typedef struct flrq_comm flrq_comm;
struct flrq_comm {
    const char *name; /* "self" */
    int rank, size;
    /** Completes sums of `count` fp32 (or fp64) values in backend memory of which each worker holds its chunks' part.
     */
    flrq_status (*sum_f32)(flrq_comm *comm, flrq_backend *be, float *d_values, int64_t count);
    flrq_status (*sum_f64)(flrq_comm *comm, flrq_backend *be, double *d_values, int64_t count);
    /** Completes sums and maxima of host values. */
    flrq_status (*sum_host)(flrq_comm *comm, double *values, int64_t count);
    flrq_status (*max_host)(flrq_comm *comm, float *values, int64_t count);
    flrq_status (*barrier)(flrq_comm *comm);
};

/** The communicator of a single worker; static, never freed. */
flrq_comm *flrq_comm_self(void);

#endif
