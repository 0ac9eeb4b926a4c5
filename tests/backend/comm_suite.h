/* comm_suite.h - what every communicator must do, as functions that each worker of a group calls with its own
 * communicator and backend, at the same time as all others: from threads of one process or from processes.
 *
 * Memory is touched by the backend's alloc, upload and download only, so that it may be a device's. A check that fails
 * prints one line with the worker and the check, and aborts the process.
 */
#ifndef FLRQ_TESTS_COMM_SUITE_H
#define FLRQ_TESTS_COMM_SUITE_H

#include "backend/comm.h"

/** All that works: values of the host, gathers, transfers, maxima, sums, texts, shares. The group is whole after it. */
void comm_suite(flrq_comm *comm, flrq_backend *be);

/* Failures; two workers or more. After each of them the group is broken: close it. */

/** The last worker fails while the others wait for it: they hear its words, place and phase. */
void comm_suite_failure(flrq_comm *comm, flrq_backend *be);

/** The last worker does not come within comm->timeout (set a short one): the others name it. */
void comm_suite_missing(flrq_comm *comm, flrq_backend *be);

/** The last worker leaves early without a failure; closes its communicator, which the others must still do. Returns 1
 *  for that worker. */
int comm_suite_leaving(flrq_comm *comm, flrq_backend *be);

#endif
