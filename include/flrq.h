/* flrq.h - public interface of libflrq: low-rank plus integer quantization of large language models, W ~ Wq + L R.
 *
 * C99, no CUDA types, callable from C++. The library never prints and never exits: every call returns a flrq_status,
 * the sentence for the user is in flrq_last_error() (per thread). A job (quantize, eval, plan, ...) is a command name
 * plus options given as text and checked against one table that also drives `flrq --help`, the report and the run
 * fingerprint. Results of jobs are JSON objects with documented fields (README); single-matrix calls return C structs.
 */
#ifndef FLRQ_H
#define FLRQ_H

#include <stddef.h>
#include <stdint.h>
#include "flrq_format.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FLRQ_VERSION_STRING "0.1.0"

#if defined(__GNUC__)
#define FLRQ_API __attribute__((visibility("default")))
#else
#define FLRQ_API
#endif

/** What happened. Values are stable. flrq_exit_code() maps them to the exit codes of the program. */
typedef enum flrq_status {
    FLRQ_OK = 0,
    FLRQ_ERR_USAGE = 1,   /* option or argument out of bounds: exit 2 */
    FLRQ_ERR_IO = 2,      /* the operating system refused: exit 1, as all below unless stated */
    FLRQ_ERR_FORMAT = 3,  /* a file is not what it should be */
    FLRQ_ERR_SHAPE = 4,   /* shapes contradict each other or the scheme */
    FLRQ_ERR_NUMERIC = 5, /* NaN or infinity, breakdown without fallback */
    FLRQ_ERR_MEMORY = 6,
    FLRQ_ERR_UNSUPPORTED = 7, /* known, but not done by this version or backend */
    FLRQ_ERR_BUSY = 8,        /* another run holds the folder */
    FLRQ_ERR_QUALITY = 9,     /* finished, but missed the quality gate: exit 3 */
    FLRQ_STOPPED = 10,        /* stopped by request with a resumable state: exit 75 */
    FLRQ_ERR_INTERNAL = 11,
    FLRQ_ERR_PEER = 12 /* another worker of the run died or does not answer; the state is resumable */
} flrq_status;

/** Version of the library ("0.1.0"). */
FLRQ_API const char *flrq_version(void);

/** Text of the last failure on this thread; "" if none. Valid until the next failing call on the thread. */
FLRQ_API const char *flrq_last_error(void);

/** Short lower-case name of a status ("format"). */
FLRQ_API const char *flrq_status_name(flrq_status status);

/** Exit code of the program for a status (0, 1, 2, 3, 75). */
FLRQ_API int flrq_exit_code(flrq_status status);

/** Frees memory that the library handed out (result texts). NULL is fine. */
FLRQ_API void flrq_free(void *memory);

/** Asks the running job to stop at the next safe point with FLRQ_STOPPED. Async-signal-safe. */
FLRQ_API void flrq_request_stop(void);

/* ---- options ---------------------------------------------------------------------------------------------------- */

typedef enum flrq_option_kind {
    FLRQ_OPTION_FLAG = 0, /* present or "true"/"false" */
    FLRQ_OPTION_INT = 1,
    FLRQ_OPTION_REAL = 2,
    FLRQ_OPTION_TEXT = 3,  /* path or free text */
    FLRQ_OPTION_CHOICE = 4 /* one of `choices` */
} flrq_option_kind;

/** One option of one or more commands. All strings are static. */
typedef struct flrq_option {
    const char *name; /* long name without dashes: "max-rank" */
    flrq_option_kind kind;
    const char *section;      /* heading in --help: "scheme", "low rank", ... */
    const char *argument;     /* placeholder in --help ("N", "FILE"), NULL for flags */
    const char *default_text; /* as the user would type it; NULL = unset */
    double min, max;          /* bounds of INT and REAL, both included */
    const char *choices;      /* "a|b|c" for CHOICE, else NULL */
    const char *help;         /* one or two sentences */
    int positional;           /* 1: may be given without its name (MODEL, DIR), in table order */
    int required;             /* 1: the command refuses to run without it */
} flrq_option;

/** Commands that flrq_run() knows, NULL-terminated: "quantize", "plan", "eval", ... */
FLRQ_API const char *const *flrq_commands(void);

/** One line that says what a command does; NULL for an unknown command. */
FLRQ_API const char *flrq_command_help(const char *command);

/** Options of a command in help order; *count is set. Returns NULL for an unknown command. The table is static:
 *  options[i] is a pointer to the i-th option. */
FLRQ_API const flrq_option *const *flrq_command_options(const char *command, size_t *count);

/** Settings of one job. Created with the defaults of its command. */
typedef struct flrq_params flrq_params;

FLRQ_API flrq_status flrq_params_new(flrq_params **out, const char *command);
FLRQ_API void flrq_params_free(flrq_params *params);

/** Sets option `name` from text. Unknown names, malformed numbers and values out of bounds are FLRQ_ERR_USAGE with both
 * bounds in the text. Setting "preset" sets several options at once; later calls override single ones. */
FLRQ_API flrq_status flrq_params_set(flrq_params *params, const char *name, const char *value);

/** Present value as text (borrowed until the next call on these params); NULL when unset or unknown. */
FLRQ_API const char *flrq_params_get(const flrq_params *params, const char *name);

/** Gives the settings of a "submit" job those of the "quantize" run that the batch job is for. Takes over `job`, on
 * failure too. */
FLRQ_API flrq_status flrq_params_set_job(flrq_params *params, flrq_params *job);

/* ---- jobs ------------------------------------------------------------------------------------------------------- */

typedef enum flrq_event_kind {
    FLRQ_EVENT_NOTICE = 0,   /* something the user should know (fallback, dropped tensor, shortened context): text */
    FLRQ_EVENT_PROGRESS = 1, /* block, blocks, phase, items_done, items_total, rate, eta, memory */
    FLRQ_EVENT_BLOCK = 2     /* a block is committed: block, blocks, seconds, eta, memory, text = one-line summary */
} flrq_event_kind;

/** One event of a running job. Strings are valid during the call only. Fields that do not apply are 0 or NULL. */
typedef struct flrq_event {
    size_t size;
    flrq_event_kind kind;
    const char *text;
    const char *phase;       /* "read", "calibrate", "quantize", "write", "forward", "verify", "eval" */
    int64_t block, blocks;   /* 1-based number of the present block, number of blocks */
    int64_t done, total;     /* items of the present phase (matrices, segments, windows) */
    double items_per_second; /* of the phase, 0 while unknown */
    double elapsed_seconds;
    double eta_seconds; /* from the last 8 blocks; negative while unknown */
    double rss_bytes;   /* resident memory of this process */
    const char *device; /* that the job computes on ("cuda:0"), NULL while it is not open */
} flrq_event;

typedef void (*flrq_event_fn)(void *user, const flrq_event *event);

/** Runs the job that `params` was created for. `on_event` may be NULL; it is called on the calling thread.
 *  *result_json (may be NULL) receives the result object, also on FLRQ_ERR_QUALITY; release with flrq_free(). */
FLRQ_API flrq_status flrq_run(const flrq_params *params, flrq_event_fn on_event, void *user, char **result_json);

/* ---- single matrices ----------------------------------------------------------------------------------------------
 */

/** Calibration of one linear layer's input. All pointers may be NULL (then: unweighted, plain error). */
typedef struct flrq_calibration {
    size_t size;
    const float *mean_square; /* [n] h_j = E[x_j^2] */
    const float *mean_abs;    /* [n] per-token normalised mean of |x_j| (methods.md Eq. 10) */
    const float *sketch;      /* [n, sketch_cols] S = X^T G, row-major */
    int64_t sketch_cols;
} flrq_calibration;

#define FLRQ_CALIBRATION_INIT                                                                                          \
    { sizeof(flrq_calibration), NULL, NULL, NULL, 0 }

/** W ~ scale * (code - zero) + L R for one matrix. Owned by the caller through flrq_matrix_free(). */
typedef struct flrq_matrix {
    flrq_codes codes;
    int64_t rank;
    float *l;               /* [rows, rank] row-major, NULL when rank is 0 */
    float *r;               /* [rank, cols] row-major */
    double bits_per_weight; /* in total: codes, scales, zeros, factors at 16 bits */
    double error;           /* ||(W - What) S|| / ||W S||; without calibration ||W - What|| / ||W|| */
    double error_nearest;   /* the same for plain round-to-nearest in this scheme, no clip, no low rank */
    double seconds;
} flrq_matrix;

/** Quantizes row-major fp32 W [rows, cols] with the numerical options of `params` (made for "quantize"; paths are
 *  ignored). `name` keys the random numbers. NaN or infinity in W: FLRQ_ERR_NUMERIC. */
FLRQ_API flrq_status flrq_quantize_matrix(flrq_matrix **out, const flrq_params *params, const char *name,
                                          const float *w, int64_t rows, int64_t cols,
                                          const flrq_calibration *calibration);

FLRQ_API void flrq_matrix_free(flrq_matrix *matrix);

/** Leading singular triplets A ~ sum_i u_i s_i v_i^T of row-major fp32 A [rows, cols]. method: "block", "r1" or "svd".
 *  u [rows, rank], s [rank], v [cols, rank] row-major, provided by the caller. residual (may be NULL): ||A - U S
 * V^T||_F. threads: 0 = all. */
FLRQ_API flrq_status flrq_sketch_matrix(const char *method, const float *a, int64_t rows, int64_t cols, int64_t rank,
                                        int power_iterations, uint64_t seed, int threads, float *u, float *s, float *v,
                                        double *residual);

#ifdef __cplusplus
}
#endif
#endif
