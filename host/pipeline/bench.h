/* bench.h - what the benches share: the limits of a device, generated weights.
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

/** Spectra of generated matrices, in the order of the choices of --spectrum.
 *    llm: power law s_i = 0.4 i^-0.7 of 192 terms on a noise floor of 1, and every 512th column 8 times larger
 *         (outlier channels). The structure carries about half of the energy.
 *    flat: noise alone.
 *    fast: s_i = 2^(-i/8) of 192 terms on a noise of 1 %. */
typedef enum flrq_bench_spectrum {
    FLRQ_BENCH_SPECTRUM_LLM = 0,
    FLRQ_BENCH_SPECTRUM_FLAT = 1,
    FLRQ_BENCH_SPECTRUM_FAST = 2
} flrq_bench_spectrum;

/** d_a [rows, cols] = noise + sum_i s_i u_i v_i^T with Gaussian, hence nearly orthogonal u_i and v_i, from the key
 *  alone; the scale of the outlier columns is not in it: flrq_bench_column_scale(). */
flrq_status flrq_bench_matrix(flrq_backend *be, float *d_a, int64_t rows, int64_t cols, flrq_bench_spectrum spectrum,
                              uint64_t key);

/** Scale of column j. */
float flrq_bench_column_scale(flrq_bench_spectrum spectrum, int64_t j);

/** Order of two doubles, for qsort(). */
int flrq_bench_by_value(const void *a, const void *b);

#endif
