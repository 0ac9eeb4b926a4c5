/* bench_matrices.h - the matrices that the benches work on: generated with a named spectrum and named outliers, or the
 * weights of a checkpoint.
 *
 * A generated matrix is A = D bf16-rounded, D = R (sigma G + sum_i s_i u_i v_i^T) + S, times diag(c) on the fly. G, u_i
 * and v_i are standard normals of Philox, so the u_i and v_i are nearly orthogonal, |u_i v_i^T|_F is about sqrt(m n),
 * as |G|_F is, and s_i / sigma says how a term stands to the noise. Everything follows from the seed, the shape and the
 * two names; a CPU gives the same bytes for any number of threads.
 *
 * Spectra (--spectra), in the order of the choices:
 *   power  s_i = 0.4 i^-0.7, i = 1..192, sigma 1: a power law on a floor, as trained layers have; 0.45 of the noise's
 *          energy is structure
 *   flat   sigma 1: noise alone, which no low rank helps
 *   fast   s_i = 2^(-i/8), i = 0..191, sigma 0.01: nearly of low rank
 *   step   s_i = 1/8, i = 1..64, sigma 1: 64 equal ones, together as much energy as the noise, then the floor
 *
 * Outliers (--outliers):
 *   columns  c_j = 8 for j = 256, 768, 1280, ... (every 512th): outlier channels, as a column scale, which is where
 *            quantize has its metric
 *   rows     rows 256, 768, ... times 8 (R)
 *   spikes   single entries: one in every 2^17 of row-major order (at least one) becomes 64 times the root mean square,
 *            with its sign, at a place that Philox draws within its run (S)
 *   none
 *
 * power+columns is the matrix of all results from before the names were there, when it was called llm.
 */
#ifndef FLRQ_PIPELINE_BENCH_MATRICES_H
#define FLRQ_PIPELINE_BENCH_MATRICES_H

#include "model/model.h"
#include "pipeline/options.h"

/** In the order of the choices of --spectra. */
typedef enum flrq_bench_spectrum {
    FLRQ_BENCH_SPECTRUM_POWER = 0,
    FLRQ_BENCH_SPECTRUM_FLAT = 1,
    FLRQ_BENCH_SPECTRUM_FAST = 2,
    FLRQ_BENCH_SPECTRUM_STEP = 3,
    FLRQ_BENCH_SPECTRA = 4
} flrq_bench_spectrum;

/** In the order of the choices of --outliers. */
typedef enum flrq_bench_outliers {
    FLRQ_BENCH_OUTLIERS_COLUMNS = 0,
    FLRQ_BENCH_OUTLIERS_ROWS = 1,
    FLRQ_BENCH_OUTLIERS_SPIKES = 2,
    FLRQ_BENCH_OUTLIERS_NONE = 3,
    FLRQ_BENCH_OUTLIERS = 4
} flrq_bench_outliers;

extern const char *const flrq_bench_spectrum_names[FLRQ_BENCH_SPECTRA];
extern const char *const flrq_bench_outlier_names[FLRQ_BENCH_OUTLIERS];

/** d_a [rows, cols] = sigma G + sum_i s_i u_i v_i^T from the key alone, in fp32; outliers are not in it. */
flrq_status flrq_bench_matrix(flrq_backend *be, float *d_a, int64_t rows, int64_t cols, flrq_bench_spectrum spectrum,
                              uint64_t key);

/** One matrix of a bench. */
typedef struct flrq_bench_source {
    char *name; /* "power+columns 4096x4096", or the tensor's */
    int64_t rows, cols;
    const flrq_tensor *tensor; /* in the checkpoint of flrq_bench_sources.model; NULL: generated as follows */
    flrq_bench_spectrum spectrum;
    flrq_bench_outliers outliers;
} flrq_bench_source;

typedef struct flrq_bench_sources {
    size_t count;
    flrq_bench_source *list;
    flrq_model *model; /* NULL: all are generated */
} flrq_bench_sources;

/** The matrices that --model and --tensor, or --shapes, --spectra and --outliers ask for: every combination of the
 *  latter, shapes outermost. FLRQ_ERR_USAGE for options that exclude each other, list entries that are unknown or
 *  repeated, and a pattern that no linear weight matches. */
flrq_status flrq_bench_sources_open(flrq_bench_sources *out, const flrq_params *params);
void flrq_bench_sources_close(flrq_bench_sources *sources);

/** A matrix in backend memory. */
typedef struct flrq_bench_loaded {
    flrq_operand a; /* dense, bf16 or as stored, with the column scale */
    void *d_dense;
    float *d_scale; /* [cols], 1 where nothing else is said */
    float *scale;   /* the same on the host */
} flrq_bench_loaded;

/** Generates or reads it. A weight that is not finite is refused by tensor and place. */
flrq_status flrq_bench_source_load(flrq_bench_loaded *out, flrq_backend *be, const flrq_bench_sources *sources,
                                   const flrq_bench_source *source, uint64_t seed);
void flrq_bench_source_unload(flrq_bench_loaded *loaded, flrq_backend *be);

#endif
