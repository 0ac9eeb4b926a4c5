/* bench_files.h - what a bench leaves behind and what it works with: tables and figures in the folder of -o, and a
 * temporary folder for checkpoints.
 *
 * Results of one bench are NAME.json (everything: rows, command, versions, date, device), NAME.csv (its main table),
 * NAME-PART.csv (further tables) and NAME-PART.svg (figures), with NAME from --name. Without -o nothing is written.
 */
#ifndef FLRQ_PIPELINE_BENCH_FILES_H
#define FLRQ_PIPELINE_BENCH_FILES_H

#include "pipeline/chart.h"
#include "pipeline/job.h"

typedef struct flrq_bench_files {
    const char *dir;               /* NULL: nothing is written; borrowed from the options */
    const char *name;              /* borrowed, too */
    const flrq_reporter *reporter; /* whose notices belong to the result */
} flrq_bench_files;

/** The files of this job; `name` where --name was not given. Makes the folder, so that a run of an hour does not end
 *  with a folder that cannot be made. */
flrq_status flrq_bench_files_open(flrq_bench_files *out, const flrq_params *params, const flrq_reporter *reporter,
                                  const char *name);

/** Writes the rows (objects) of a table as NAME-`part`.csv (NAME.csv when NULL): a heading line of the keys, then one
 *  line a row; absent values and null are empty, texts with a comma or a quote are quoted. */
flrq_status flrq_bench_csv(const flrq_bench_files *files, const char *part, const json_t *rows, const char *const *keys,
                           size_t count);

/** Figures as NAME-`part`.svg. */
flrq_status flrq_bench_figure(const flrq_bench_files *files, const char *part, const flrq_chart *chart);
flrq_status flrq_bench_figure_bars(const flrq_bench_files *files, const char *part, const flrq_bars *bars);

/** NAME.json: the result and the notices so far, which may say that its numbers do not count. */
flrq_status flrq_bench_result(const flrq_bench_files *files, const json_t *result);

/** What every result begins with: {"command", "version", "date" (UTC day), "device", "machine", "instruction_set",
 *  "libraries", "threads", "load_before" (processes running a minute ago on average)}. The command is shell text that
 * repeats the job. New reference; NULL on out of memory. */
json_t *flrq_bench_provenance(const flrq_params *params, const char *device_name, const flrq_device_info *device);

/** Makes a folder of its own under --scratch, $TMPDIR or /tmp; *out: free(), after flrq_bench_scratch_remove(). */
flrq_status flrq_bench_scratch_make(char **out, const flrq_config *config);

/** Removes the folder with all that is in it, or with --keep says where it is; frees `folder`, which may be NULL. */
void flrq_bench_scratch_remove(char *folder, const flrq_config *config, flrq_reporter *reporter);

/** Removes a folder with all that is in it; that there is none is fine. */
flrq_status flrq_bench_folder_remove(const char *folder);

/** Median (the mean of the middle two of an even number) and the tenth and ninetieth percentile of `count` > 0 times,
 * which are sorted in place. */
typedef struct flrq_bench_spread {
    double median, p10, p90;
    int runs;
} flrq_bench_spread;
flrq_bench_spread flrq_bench_spread_of(double *seconds, int count);

/** Parameters of `command`: every option that the caller of the bench gave and that both commands share, but `except`
 *  (NULL: none). */
flrq_status flrq_bench_params(flrq_params **out, const flrq_params *params, const char *command, const char *except);

#endif
