/* bench.h - what the benches share: the limits of a device, and lists of names.
 *
 * A limit is measured in the run that is held against it, on the same device, through the same backend table. Nothing
 * here asserts a time.
 */
#ifndef FLRQ_PIPELINE_BENCH_H
#define FLRQ_PIPELINE_BENCH_H

#include "cases/opcase.h"
#include "pipeline/bench_files.h"
#include "pipeline/profile.h"

flrq_status flrq_job_bench_sketch(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_bench_ops(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_bench_quantize(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_bench_methods(const flrq_params *params, flrq_reporter *reporter, json_t **result);

/** What a device can do at best, as seen through its backend. Bytes and flops a second; 0 where it could not be
 *  measured. */
typedef struct flrq_bench_limits {
    double copy;             /* device copy, bytes read plus bytes written */
    double upload, download; /* from and to host_alloc() memory */
    double full, fast;       /* matrix rate in FLRQ_PRECISION_FULL (fp32 gemm) and FAST (linear with bf16 weights) */
} flrq_bench_limits;

/** Measures the limits: each with sizes that grow until a call takes 20 ms or 1 GB is moved (8192 columns are
 *  multiplied), `seconds` of samples a size. The best size of a matrix product counts, the last of a copy. */
flrq_status flrq_bench_limits_measure(flrq_bench_limits *out, flrq_backend *be, double seconds);

/** {"copy_gb_s", "upload_gb_s", "download_gb_s", "full_gflop_s", "fast_gflop_s"}. New reference. */
json_t *flrq_bench_limits_json(const flrq_bench_limits *limits);

/** A row of `bench ops`: the timing of a case, held against the limits. New reference. */
json_t *flrq_bench_op_row(const op_case *c, const op_timing *t, const flrq_bench_limits *limits);

/** Measures a profile of the backend: config->seconds for a call, files under config->scratch where it is set. Every
 *  timed call is added to `rows`. (bench_profile.c) */
flrq_status flrq_profile_measure(flrq_profile *out, flrq_backend *be, const flrq_bench_limits *limits,
                                 const flrq_config *config, flrq_reporter *reporter, json_t *rows);

/** Reads a list of names with commas: chosen [count] gets the index of each in the order given, *n_chosen their number.
 *  FLRQ_ERR_USAGE for an entry that is none of `names`, one that is there twice, and an empty list; `option` is for the
 *  message. */
flrq_status flrq_bench_choices(const char *option, const char *text, const char *const *names, int count, int *chosen,
                               int *n_chosen);

#endif
