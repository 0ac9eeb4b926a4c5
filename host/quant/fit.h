/* fit.h - one linear layer: W ~ Wq + L R by alternating low rank and clip-and-quantize (BLC, Algorithm 2 of the paper).
 *
 * Three independent choices make a method: the metric of the low-rank fit, the clip search of the rounding, and the
 * rank policy. The starting point takes part in "keep the best". L and R are rounded to their storage type BEFORE the
 * codes are chosen, so the codes see exactly the factors that will be served.
 */
#ifndef FLRQ_QUANT_FIT_H
#define FLRQ_QUANT_FIT_H

#include "quant/sketch.h"

/** Orders of the values = orders of the choices of --method, --metric, --start. */
typedef enum flrq_method { FLRQ_METHOD_FLRQ = 0, FLRQ_METHOD_LQER = 1, FLRQ_METHOD_RTN = 2 } flrq_method;
typedef enum flrq_metric { FLRQ_METRIC_NONE = 0, FLRQ_METRIC_ALPHA = 1, FLRQ_METRIC_RMS = 2 } flrq_metric;
typedef enum flrq_start { FLRQ_START_WEIGHT = 0, FLRQ_START_ERROR = 1 } flrq_start;

enum { FLRQ_MAX_EPOCHS = 1000, FLRQ_BLC_PATIENCE = 3 };

typedef struct flrq_fit_options {
    flrq_method method;
    flrq_scheme scheme;
    flrq_clip clip;
    int clip_weights_h;         /* 1: weight squared errors by h */
    flrq_sketch_options sketch; /* key is set per matrix */
    flrq_rank_policy rank;
    flrq_metric metric;
    double alpha_power;
    flrq_start start;
    int epochs;              /* rounds after the first */
    double tolerance;        /* stop after FLRQ_BLC_PATIENCE rounds without this relative gain */
    flrq_dtype factor_dtype; /* F16 or BF16: storage of L and R */
    uint64_t seed;
} flrq_fit_options;

/** Calibration of one linear input. Host arrays of length n, sums over `tokens`; d_sketch [n, k] in backend memory. Any
 * pointer may be NULL. */
typedef struct flrq_input_stats {
    int64_t n;
    double tokens;
    const double *abs_sum;    /* sum of per-token normalised |x_j| */
    const double *square_sum; /* sum of x_j^2 */
    const float *d_sketch;
    int64_t sketch_cols;
} flrq_input_stats;

/** What the fit found; the numbers of one matrix in the report. */
typedef struct flrq_fit_result {
    int64_t rank;
    double bits_per_weight; /* in total */
    double error;           /* ||(W - What) S|| / ||W S||, or ||W - What|| / ||W|| without a sketch */
    double error_nearest;   /* the same for round to nearest without clip and low rank */
    double error_start;     /* after the first round */
    double weight_error;    /* ||W - What||_F / ||W||_F, for the load-back check */
    double clip_ratio;      /* mean over groups */
    double clipped;         /* fraction of weights beyond the clip range */
    int64_t zero_groups;
    int epochs;          /* rounds done after the first */
    int best_epoch;      /* 0 = the start */
    int64_t curve_terms; /* amax curve of the kept round: amax[0..curve_terms] */
    const float *amax;   /* borrowed from the space until the next fit */
    double seconds;
} flrq_fit_result;

/** Buffers for fitting matrices within an extent. */
typedef struct flrq_fit_space flrq_fit_space;
size_t flrq_fit_space_bytes(const flrq_fit_options *options, flrq_extent extent);
/** Those among them that are host memory whatever the backend. */
size_t flrq_fit_space_host_bytes(const flrq_fit_options *options, flrq_extent extent);
flrq_status flrq_fit_space_new(flrq_fit_space **out, flrq_backend *be, const flrq_fit_options *options,
                               flrq_extent extent);
void flrq_fit_space_free(flrq_fit_space *space, flrq_backend *be);

/** Fits W (dense operand), whose rows the workers of `comm` share (split.h): the arrays are of the whole matrix on
 * each, and of what is per row (W, codes, scales, L) a worker reads and writes its share; R and the result are the same
 * on all. codes: arrays in backend memory sized for the scheme; its fields are filled in. d_l [rows, cap] and d_r [cap,
 * cols] receive L [rows, rank] and R [rank, cols] densely (cap = flrq_fit_rank_cap()). stats may be NULL. `name` keys
 * the random numbers. */
flrq_status flrq_fit(flrq_fit_space *space, flrq_backend *be, flrq_comm *comm, const flrq_fit_options *options,
                     const char *name, const flrq_operand *w, const flrq_input_stats *stats, flrq_codes *codes,
                     float *d_l, float *d_r, flrq_fit_result *result);

/** Largest rank a fit can give a matrix of this shape. */
int64_t flrq_fit_rank_cap(const flrq_fit_options *options, int64_t rows, int64_t cols);

/** Bytes of codes, fp32 scales and zero points of a matrix in backend memory. */
size_t flrq_codes_bytes(const flrq_scheme *scheme, int64_t rows, int64_t cols);

/** Allocates the arrays of a codes struct for any matrix within the extent; freed by flrq_codes_release(). */
flrq_status flrq_codes_alloc(flrq_codes *codes, flrq_backend *be, const flrq_scheme *scheme, flrq_extent extent);
void flrq_codes_release(flrq_codes *codes, flrq_backend *be);

/** Columns per group and groups per row of a scheme on `cols` columns; a group may be wider than the row. */
int64_t flrq_scheme_group(const flrq_scheme *scheme, int64_t cols);
int64_t flrq_scheme_groups(const flrq_scheme *scheme, int64_t cols);

/** Bits per weight in total: codes, 16-bit scales, zero points, factors at 16 bits. */
double flrq_scheme_bits(const flrq_scheme *scheme, int64_t rows, int64_t cols, int64_t rank);

#endif
