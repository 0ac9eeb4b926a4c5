/* optable.h - the op cases of host/cases as tests: every case of a table on every face of a backend, against the scalar
 * reference, with a line of output for each.
 *
 * Faces of "cpu": 2 threads (the primary), 1 and 5 threads (bytes must equal the primary's), 2 threads with every
 * buffer one element off alignment, and each lower instruction set that runs here. Other backends: twice (bytes must be
 * equal) and misaligned.
 *
 * Environment: FLRQ_TEST_DEVICE names the backend under test (default cpu). FLRQ_TEST_OPS="text" runs only cases whose
 * "op shape" contains the text: the line to replay a failure.
 */
#ifndef FLRQ_TESTS_OPTABLE_H
#define FLRQ_TESTS_OPTABLE_H

#include "cases/opcase.h"

/** The backend under test. Hand-written tests of the CPU backend run only where this is "cpu". */
const char *op_test_device(void);

/** Runs the OP_TEST cases of a table on all faces of `backend`; prints a line for each. Returns the number of failed
 *  cases; ends the program when a backend cannot be opened. */
int op_table_test(const op_table *table, const char *backend);

#endif
