/* rollcall.h - processes of one run that know each other through a folder that all see.
 *
 * Used where workers are processes: to meet (rank 0 waits until all are there, and names who is missing), to share a
 * few bytes (the id of the NCCL link), and to learn, while waiting, that another worker failed, died or hangs. Every
 * start has a folder of its own, DIR/<hash of the nonce>, so that starts do not disturb each other; in it every worker
 * has a file worker-NNNNN with its host, process, device and what it is doing, on which it holds a lock that ends with
 * the process; a failure is a second name, "failed", of the file of the worker that failed. Works on NFS and Lustre:
 * renames and links, locks, no mmap, no clocks of other machines. All calls come from one thread at a time.
 */
#ifndef FLRQ_IO_ROLLCALL_H
#define FLRQ_IO_ROLLCALL_H

#include "core/error.h"

typedef struct flrq_rollcall flrq_rollcall;

/** Joins the roll call in `dir` (created with its parent if need be) and returns when all `size` workers have, or
 *  FLRQ_ERR_PEER after `timeout` seconds with the ranks that are missing. nonce: the same text for all workers of this
 *  start and for no other ("slurm-1234.0-1"). device: for messages. Rank 0 removes what starts that nobody is alive of
 *  have left in `dir`. A rank that is there already is FLRQ_ERR_BUSY. */
flrq_status flrq_rollcall_join(flrq_rollcall **out, const char *dir, const char *nonce, int rank, int size,
                               const char *device, double timeout);

/** `bytes` (at most 4096) at data go from rank 0 to all, once; all call it, in the same order. */
flrq_status flrq_rollcall_share(flrq_rollcall *rollcall, void *data, size_t bytes);

/** What this worker is doing: told to the others at most once a second on average, by one small write. A negative block
 * is not shown. */
void flrq_rollcall_doing(flrq_rollcall *rollcall, int64_t block, const char *phase);

/** Tells the others that this worker ends with `status`. The first failure of all counts. Never fails; the error text
 *  of the thread stays as it is. */
void flrq_rollcall_fail(flrq_rollcall *rollcall, flrq_status status, const char *text);

/** For waiting loops (flrq_watch_fn): FLRQ_OK while all others live; looks at the folder at most every 0.2 s, and at a
 *  few of the files in turn: whoever finds a worker dead tells all. Also tells the others that this one lives. Else
 *  the status and "worker 3 of 8 (host n1, process 4711, cuda:3), block 4, quantize: text", or FLRQ_ERR_PEER when it
 *  died without a word. A worker that has left in peace is fine. */
flrq_status flrq_rollcall_watch(void *rollcall);

/** FLRQ_ERR_PEER after waiting `seconds` in vain: names the workers that have not done anything for longest, or, when
 *  all show life, those that are furthest behind by the count of doing(). */
flrq_status flrq_rollcall_timeout(flrq_rollcall *rollcall, double seconds);

/** Leaves in peace (unless it failed) and frees; rank 0 waits some seconds for the others to leave and removes the
 *  folder of this start, and `dir` when nothing else is in it. The error text stays. NULL is fine. */
void flrq_rollcall_leave(flrq_rollcall *rollcall);

/** For runs that need no roll call: removes what starts that nobody is alive of have left in `dir`, and `dir` when
 * nothing else is in it. Failures are of no consequence. */
void flrq_rollcall_sweep(const char *dir);

#endif
