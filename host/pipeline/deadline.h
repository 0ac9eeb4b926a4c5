/* deadline.h - the time limit of the batch job that this process runs in.
 *
 * A run stops by itself, with all its work committed, before a block that would not finish; being killed at the limit
 * would lose that block. Only one worker of a run asks and tells the others: they must all stop at the same block.
 */
#ifndef FLRQ_PIPELINE_DEADLINE_H
#define FLRQ_PIPELINE_DEADLINE_H

/** Seconds until the time limit of the present job; INFINITY outside of a job, without a limit, or when it cannot be
 *  found out. From SLURM_JOB_END_TIME where Slurm sets it (23.02 and later), else from `squeue`, asked once.
 * Thread-safe.
 */
double flrq_seconds_left(void);

/** True when a block that takes `block_seconds` (0: unknown), begun now, might not be committed by the limit: what is
 *  left is less than 1.25 times its time and flrq_stop_seconds(). A quarter more, because blocks have equal shapes but
 *  the rounds of their fits and the file system's speed differ. */
int flrq_deadline_near(double block_seconds);

/** Seconds that ending a run in a job of `limit` seconds is given: its last files flushed, its activations saved
 *  (128 x 2048 tokens of 8192 features are 8.6 GB, 43 s at 200 MB/s), its processes gone. 60 s; of short jobs, which
 *  have little to save, a twentieth, but at least 5 s. */
double flrq_stop_seconds(double limit);

#endif
