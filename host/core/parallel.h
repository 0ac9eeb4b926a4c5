/* parallel.h - the one place that starts threads for numerical work.
 *
 * Work is cut into tasks on a grid that does not depend on the number of threads, and every task writes its own output,
 * so results are the same bytes for any thread count.
 */
#ifndef FLRQ_CORE_PARALLEL_H
#define FLRQ_CORE_PARALLEL_H

#include <stdint.h>

/** A task: `index` in [0, count), `thread` in [0, threads). Must not fail. */
typedef void (*flrq_task_fn)(void *arg, int64_t index, int thread);

/** Runs fn(arg, 0..count-1) on up to `threads` threads, dynamically scheduled; returns when all are done. */
void flrq_parallel_for(int threads, int64_t count, flrq_task_fn fn, void *arg);

/** Threads this process may use: the affinity mask, lowered by OMP_NUM_THREADS. At least 1. */
int flrq_hardware_threads(void);

#endif
