/* process.h - runs another program and returns what it says.
 *
 * For the few questions that only a program can answer (Slurm's commands). No shell is involved: an argument is an
 * argument, whatever characters it holds. Every call ends within its time limit.
 */
#ifndef FLRQ_IO_PROCESS_H
#define FLRQ_IO_PROCESS_H

#include "core/error.h"

/** What a program left behind. The texts are never NULL after success; at most 1 MiB of each is kept. */
typedef struct flrq_process {
    int code; /* exit code; 128 + signal when it was killed */
    char *out, *err;
} flrq_process;

/** Runs argv[0] (looked for in PATH; argv ends with NULL) without input and waits at most `seconds`, after which it is
 *  killed. FLRQ_ERR_UNSUPPORTED when there is no such program, FLRQ_ERR_IO when it cannot be run or takes too long. A
 *  code other than 0 is no error here. *result: flrq_process_free(). */
flrq_status flrq_process_run(flrq_process *result, const char *const *argv, double seconds);

/** Frees the texts. A zeroed struct is fine. */
void flrq_process_free(flrq_process *result);

#endif
