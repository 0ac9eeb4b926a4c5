/* submit.h - a batch job as `flrq submit` has understood it, and its script.
 */
#ifndef FLRQ_PIPELINE_SUBMIT_H
#define FLRQ_PIPELINE_SUBMIT_H

#include "pipeline/options.h"

/** Everything that the script says. Paths are absolute; what is not asked for is NULL or 0. */
typedef struct flrq_submission {
    const flrq_config *config; /* of submit: what goes to Slurm as it was given */
    json_t *run;               /* arguments of quantize: MODEL, then -o OUT, then others, each a list of words; owned */
    json_t *binds;             /* folders that a container must see; owned */
    char *out;                 /* the run's folder; owned */
    int is_run;                /* it holds a run, which the job continues */
    char *program, *container; /* owned */
    char *setup;               /* lines for the beginning; owned */
    const char *mpi;           /* srun --mpi=; NULL: the workers need none */
    int64_t tasks;             /* on each node */
    int64_t memory;            /* of a node, in MiB; -1: not said, 0: all of it */
    double wait;               /* seconds after which a worker that is left over is ended */
    double signal_seconds;
} flrq_submission;

void flrq_submission_free(flrq_submission *submission);

/** The batch script (free()); NULL on out of memory. Depends on the submission alone. */
char *flrq_submission_script(const flrq_submission *submission);

#endif
