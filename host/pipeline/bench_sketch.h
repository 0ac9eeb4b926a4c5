/* bench_sketch.h - what the files of `bench sketch` share: the methods, the libraries' SVDs, the figures.
 */
#ifndef FLRQ_PIPELINE_BENCH_SKETCH_H
#define FLRQ_PIPELINE_BENCH_SKETCH_H

#include "pipeline/bench.h"
#include "quant/sketch.h"

/** In the order in which rows come. The first two are flrq's own. */
typedef enum flrq_bench_method {
    FLRQ_BENCH_BLOCK = FLRQ_SKETCH_BLOCK,
    FLRQ_BENCH_R1 = FLRQ_SKETCH_R1,
    FLRQ_BENCH_RSVD = 2,
    FLRQ_BENCH_SVD = 3,
    FLRQ_BENCH_SVDJ = 4,
    FLRQ_BENCH_METHODS = 5
} flrq_bench_method;

extern const char *const flrq_bench_method_names[FLRQ_BENCH_METHODS];

/** What really runs on the backend: "LAPACK gesdd". NULL where it has no such method. (bench_baselines.c) */
const char *flrq_bench_routine(const flrq_backend *be, flrq_bench_method method);

/** Notices what makes the baselines of a CPU slower than they are: a busy machine, and an OpenBLAS that runs old
 * kernels on a new processor. */
void flrq_bench_baseline_check(const flrq_backend *be, const flrq_device_info *device, flrq_reporter *reporter);

/** How the libraries' SVDs run. */
typedef struct flrq_bench_baseline {
    flrq_bench_method method; /* RSVD, SVD or SVDJ */
    int threads;              /* of the library, on a CPU */
    int64_t rank, oversample; /* RSVD */
    int iterations;
    uint64_t key;
} flrq_bench_baseline;

/** The library's SVD of d_a [m, n] (destroyed): d_u [m, p], d_s [p], d_vt [p, n] with p the rank of RSVD, min(m, n) of
 *  the exact ones. On a CPU the library has all threads of the backend; nothing else may use OpenBLAS meanwhile.
 *  FLRQ_ERR_UNSUPPORTED where flrq_bench_routine() is NULL. */
flrq_status flrq_bench_baseline_run(flrq_backend *be, const flrq_bench_baseline *options, float *d_a, int64_t m,
                                    int64_t n, float *d_u, float *d_s, float *d_vt);

/** The figures of a result: NAME-amax-K.svg for matrix K = 1, 2, ..., NAME-seconds.svg (with several matrices
 *  NAME-seconds-K.svg). Of the matrices behind the 12th none are drawn, which is noticed. (bench_sketch_figures.c) */
flrq_status flrq_bench_sketch_figures(const flrq_bench_files *files, const json_t *result, flrq_reporter *reporter);

#endif
