/* slurm.h - what is asked of Slurm's commands, and the texts that they exchange.
 *
 * Slurm is met through its commands alone: they are there on every login node, their parsable output is stable, and no
 * library of a certain version has to be linked.
 */
#ifndef FLRQ_PIPELINE_SLURM_H
#define FLRQ_PIPELINE_SLURM_H

#include <stdint.h>
#include "core/error.h"

/** Seconds of a duration as Slurm takes and prints it: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
 *  days-hours:minutes, days-hours:minutes:seconds; INFINITY for "infinite" and "UNLIMITED"; NaN for anything else. */
double flrq_slurm_seconds(const char *text);

/** Bytes of a size as Slurm takes it: a whole number and K, M (also without a letter), G or T, powers of 1024; NaN for
 *  anything else. */
double flrq_slurm_bytes(const char *text);

/** What the nodes of a partition have at most. */
typedef struct flrq_slurm_partition {
    double seconds;     /* longest job; INFINITY without a limit */
    int64_t nodes;      /* in all */
    int64_t gpus, cpus; /* of the node that has most */
    double bytes;       /* likewise */
} flrq_slurm_partition;

/** Reads sinfo's view of partition `name` (a comma-separated list: of all of them; NULL: the default one). A partition
 *  that does not exist or is down is FLRQ_ERR_USAGE with the names of those that do. */
flrq_status flrq_slurm_partition_read(flrq_slurm_partition *out, const char *name);

/** Takes it from text as `sinfo --format=%P|%a|%l|%D|%c|%m|%G` prints it. */
flrq_status flrq_slurm_partition_parse(flrq_slurm_partition *out, const char *name, const char *text);

/** Submits a batch script; *job is its number. A refusal is FLRQ_ERR_USAGE with sbatch's reason. */
flrq_status flrq_slurm_submit(int64_t *job, const char *script);

/** 1 when srun has the plugin `type` ("pmix") that joins MPI processes, else 0; -1 when srun cannot be asked. */
int flrq_slurm_has_mpi(const char *type);

#endif
