/* comm.h - the workers of a run as one group.
 *
 * A worker is one device and the thread that issues its ops. Every matrix is split by rows over the workers on the grid
 * of FLRQ_CHUNK_ROWS, calibration on a grid of token groups, so workers exchange parts of matrices, maxima, and sums
 * whose terms lie on the grid. Float sums are completed along the chunk tree (core/tree.h): each worker gives the nodes
 * of the tree that its range is made of, and all nodes are added in the order of the tree, which keeps the bytes of a
 * run independent of the number of workers.
 *
 * Implementations: "self" (one worker), "local" (threads of one process, memory of the host), "mpi" (processes, memory
 * of the host; a plugin, one for Open MPI and one for MPICH), "nccl" (devices; values of the host go by another
 * communicator where there is one, else through the devices). What must hold: all workers make the same calls in the
 * same order, from one thread each. Every call ends: with FLRQ_OK on all, or, when a worker failed, died or did not come
 * within the time-out, with a status and a text that names the worker, its place and what it was doing. After a failure
 * only fail() and close() may be called.
 */
#ifndef FLRQ_BACKEND_COMM_H
#define FLRQ_BACKEND_COMM_H

#include "flrq_backend.h"
#include "core/error.h"

typedef struct flrq_comm flrq_comm;

/** How a group watches over its workers while a call waits: FLRQ_OK, or the status and text of another's failure. */
typedef flrq_status (*flrq_watch_fn)(void *user);

struct flrq_comm {
    const char *name; /* "self", "local", "mpi", "nccl" */
    int rank, size;
    int in_process;      /* workers of this process; 0: one. Set by who starts them */
    double timeout;      /* seconds that a call waits for the others */
    flrq_watch_fn watch; /* NULL: the communicator knows by itself; called at least every 0.2 s of waiting */
    void *watch_user;
    void (*watch_doing)(void *user, int64_t block, const char *phase); /* what the watch is told: flrq_comm_doing(), */
    void (*watch_fail)(void *user, flrq_status status, const char *text); /* flrq_comm_fail(); or NULL */
    /** What a wait that has lasted `seconds`, too long, comes to: names who is late. NULL: the communicator cannot. */
    flrq_status (*watch_timeout)(void *user, double seconds);
    void *state; /* the implementation's own */

    /* --- values on the host --- */
    /** all [size, bytes]: this worker's part, at rank * bytes, is there; those of the others arrive. */
    flrq_status (*gather_host)(flrq_comm *comm, void *all, size_t bytes);
    /** `bytes` at data go from `root` to all. */
    flrq_status (*broadcast_host)(flrq_comm *comm, void *data, size_t bytes, int root);

    /* --- backend memory, in the order of the ops --- */
    /** Worker r's part of d_all is the bytes first[r] .. first[r+1] (first has size + 1 entries); its own is there,
     *  those of the others arrive. Parts may be empty. */
    flrq_status (*gather)(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first);
    /** The same beside the ops that follow, until gather_end(): d_all is not to be touched meanwhile. Several may be
     *  begun; `first` is copied. */
    flrq_status (*gather_begin)(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first);
    flrq_status (*gather_end)(flrq_comm *comm, flrq_backend *be);
    /** Sends and receives pieces; see flrq_transfer. */
    flrq_status (*transfer)(flrq_comm *comm, flrq_backend *be, const flrq_transfer *sends, int n_sends,
                            const flrq_transfer *receives, int n_receives);

    /* --- life --- */
    /** FLRQ_OK while no worker has failed, else the status and text of the failure; never waits, and may be called from
     *  within any wait. For waits that are not the communicator's own (a device). NULL entry: only `watch` knows. */
    flrq_status (*check)(flrq_comm *comm);
    /** What this worker is doing ("block 4, quantize"), for the messages of others. Never fails, costs nothing. */
    void (*doing)(flrq_comm *comm, int64_t block, const char *phase);
    /** Ends the group: the others' present or next call returns `status` with "worker R of N (place), block 4,
     *  quantize: text". The first failure counts. */
    void (*fail)(flrq_comm *comm, flrq_status status, const char *text);
    /** Leaves the group and frees; NULL for self. Waits for nobody after a failure. */
    void (*close)(flrq_comm *comm);
};

/** The communicator of a single worker; static, never freed. */
flrq_comm *flrq_comm_self(void);

/** comm->close() where there is one. NULL is fine. */
void flrq_comm_close(flrq_comm *comm);

/** A group of `size` threads of one process: out[size], one for each, closed one by one. place[r] (copied) names the
 *  device of worker r in messages: "cuda:3". */
flrq_status flrq_comm_local(flrq_comm **out, int size, const char *const *place, double timeout);

/** Joins the workers that an MPI launcher started (mpirun, srun --mpi=...). mpi: "openmpi" or "mpich", whose plugin
 *  libflrq_<mpi>.so is looked for where backends are. One per process. `watch` of the result is the caller's to set. */
flrq_status flrq_comm_mpi(flrq_comm **out, const char *mpi, double timeout);

/** Joins devices by the links of their backend. Values of the host and failures go by `base`, which the result takes
 *  over and closes (after a failure here it is still the caller's), or, without one (NULL), through the devices, and
 *  `id` [FLRQ_LINK_ID_BYTES] is what one worker got from be->link_id() and has shared; with a base it is shared by that
 *  and `id` may be NULL. The watch (NULL: that of base) is asked from the first wait on, also by threads that wait for
 *  lanes, but by one thread at a time. Sets the watch of the backend. */
flrq_status flrq_comm_nccl(flrq_comm **out, flrq_comm *base, flrq_backend *be, const void *id, int rank, int size,
                           double timeout, flrq_watch_fn watch, void *watch_user);

/* ---- on top of them (comm.c) ------------------------------------------------------------------------------------- */

/** comm->doing() and comm->fail(), and the watch's where there is one. */
void flrq_comm_doing(flrq_comm *comm, int64_t block, const char *phase);
void flrq_comm_fail(flrq_comm *comm, flrq_status status, const char *text);

flrq_status flrq_comm_barrier(flrq_comm *comm);
/** values[i] := the largest of all workers'; a NaN stays. */
flrq_status flrq_comm_max(flrq_comm *comm, float *values, int64_t count);
/** values[i] := the sum of all workers', of whole numbers. */
flrq_status flrq_comm_sum(flrq_comm *comm, int64_t *values, int64_t count);
/** A text that root has (NULL: none) to all; *text is replaced on the others (free()). */
flrq_status flrq_comm_share_text(flrq_comm *comm, char **text, int root);

/** A range of a grid: units first .. first + count - 1. */
typedef struct flrq_range {
    int64_t first, count;
} flrq_range;

/** The part of worker `rank` of `units` units over `size` workers: contiguous, in the order of ranks, as equal as can
 *  be, the larger parts first. */
flrq_range flrq_share(int64_t units, int rank, int size);

/** The same for the rows of a matrix, whole chunks of FLRQ_CHUNK_ROWS (the last may be shorter). */
flrq_range flrq_share_rows(int64_t rows, int rank, int size);

/** The nodes of the tree over the grid that a range consists of, in order: complete aligned blocks of 2^level units.
 *  A range has at most FLRQ_RANGE_NODES. Returns their number. */
enum { FLRQ_RANGE_NODES = 48 };
typedef struct flrq_node {
    int64_t first; /* a multiple of 2^level */
    int level;
} flrq_node;
int flrq_range_nodes(flrq_range range, flrq_node nodes[FLRQ_RANGE_NODES]);

/** Largest number of nodes that any worker has of a grid of `units`. */
int flrq_nodes_max(int64_t units, int size);

/** Whether a sum goes by slices, in two exchanges, or all nodes go to all workers in one; see flrq_comm_sum_f32(). */
int flrq_sum_is_sliced(int64_t units, int64_t count, size_t width, int size);

/** Scratch of the sums: backend memory for `count` elements of `width` bytes (4 or 8), or fewer elements, over a grid of
 *  `units`. */
size_t flrq_sum_scratch_bytes(int64_t units, int64_t count, size_t width, int size);

/** Completes sums over a grid of `units`, of which worker r holds flrq_share(units, r, size): d_nodes [own nodes,
 *  count] in backend memory are the sums of its nodes (flrq_range_nodes()), and are overwritten; d_out [count] receives
 *  the sum over the whole grid on all workers. d_scratch: flrq_sum_scratch_bytes(). The same bytes for any size; with
 *  one worker d_out may be d_nodes. Each worker adds a slice of the values, so it receives about (nodes + 1) * count. */
flrq_status flrq_comm_sum_f32(flrq_comm *comm, flrq_backend *be, int64_t units, float *d_nodes, int64_t count,
                              float *d_out, void *d_scratch);
flrq_status flrq_comm_sum_f64(flrq_comm *comm, flrq_backend *be, int64_t units, double *d_nodes, int64_t count,
                              double *d_out, void *d_scratch);

/** The same for values on the host, few: nodes [own nodes, count]. */
flrq_status flrq_comm_sum_host(flrq_comm *comm, int64_t units, const double *nodes, int64_t count, double *out);

#endif
