/* options.h - the settings of a job as a typed struct, and the one table that describes them.
 *
 * options.c holds the table: name, bounds, default, help, which commands take the option and whether it can change a
 * byte of the output. --help, validation, the report's argument list and the run fingerprint all come from it.
 */
#ifndef FLRQ_PIPELINE_OPTIONS_H
#define FLRQ_PIPELINE_OPTIONS_H

#include <jansson.h>
#include "core/error.h"

/* Values of choice options are the position in the option's `choices` text. */
enum { METHOD_FLRQ = 0, METHOD_LQER = 1, METHOD_RTN = 2 };
enum { CALIB_WEIGHTS_H = 0, CALIB_WEIGHTS_PLAIN = 1 };
enum { CLIP_AUTO = 0, CLIP_OPT_NONE = 1, CLIP_OPT_GRID = 2, CLIP_OPT_FAST = 3 };
enum { RESUME_AUTO = 0, RESUME_REQUIRED = 1, RESUME_NEVER = 2 };
enum { NONFINITE_REFUSE = 0, NONFINITE_ZERO = 1 };
enum { START_WEIGHT = 0, START_ERROR = 1 };
enum { PRESET_DEFAULT = 0, PRESET_PAPER = 1 };
enum { PRECISION_AUTO = 0, PRECISION_FULL = 1, PRECISION_FAST = 2 };
enum { OVERLAP_AUTO = 0, OVERLAP_ON = 1, OVERLAP_OFF = 2 };
enum { MPI_AUTO = 0, MPI_OFF = 1, MPI_OPENMPI = 2, MPI_MPICH = 3 };

/** Every option of every command. INT is int64_t, REAL double, TEXT char* (owned, NULL = unset), FLAG and CHOICE int.
 */
typedef struct flrq_config {
    /* paths */
    char *model, *out;
    /* scheme */
    int preset, method;
    int64_t bits, group;
    int symmetric, grid;
    /* clip */
    int clip, clip_mode, clip_weights, signed_scale;
    int64_t clip_steps;
    double clip_min;
    /* low rank */
    int sketch, rank_policy, metric, start;
    int64_t power_iterations, oversample, rank, max_rank, rank_multiple;
    double rank_extra, rank_flat, alpha_power;
    char *ranks_from;
    /* alternation */
    int64_t epochs;
    double blc_tol;
    int64_t error_sketch;
    /* calibration */
    char *calib, *calib_tokens, *doc_sep;
    int64_t calib_samples, calib_len;
    int64_t seed;
    /* run */
    char *device;
    int64_t threads;
    int precision, overlap;
    double device_memory; /* GB; 0: what is free */
    int resume, nonfinite;
    double max_error;
    int64_t workers; /* 0: all devices of the kind, or what the launcher says */
    int mpi;
    double peer_timeout;
    /* plan: times of a run */
    char *profile; /* of plan, and of bench ops, which writes it */
    int64_t nodes;
    double link, network, read, write; /* GB a second; 0: what the profile says, else an assumption */
    double expected_rank;
    /* eval */
    char *text, *tokens, *against, *dump_logits;
    int64_t ctx;
    int lowrank;
    /* compare, tokenize */
    char *a, *b;
    int special;
    /* submit: the batch job */
    struct {
        int64_t nodes, gpus_per_node, tasks_per_node, cpus_per_task, signal_seconds;
        char *time, *mem, *partition, *account, *qos, *constraint, *name, *setup, *container, *program, *mpi;
        int print;
    } batch;
    /* benches */
    char *name;
    /* bench sketch */
    char *shapes, *ranks, *methods, *dump, *tensor;
    char *spectra, *outliers;
    int full;
    int64_t repeats;
    /* bench methods */
    char *bit_list;
    /* bench ops */
    char *only;
    double seconds;
    /* bench quantize */
    char *shape;
    int keep, plan_only;
    int64_t blocks;
    char *scratch;
} flrq_config;

enum { FLRQ_GIVEN_WORDS = 4 };

struct flrq_params {
    int command; /* index into flrq_commands() */
    flrq_config config;
    uint64_t given[FLRQ_GIVEN_WORDS]; /* bit i: option i of the table was set by the caller */
    char *text;                       /* buffer of flrq_params_get() */
    struct flrq_params *job;          /* of submit: what the batch job runs; owned */
};

/** True when the caller set the option of that name (rather than leaving its default). */
int flrq_params_given(const flrq_params *params, const char *name);

/** flrq_params_set() with a number. */
flrq_status flrq_params_set_int(flrq_params *params, const char *name, int64_t value);

/** All options of the command with their present values, for reports. With bytes_only just those that can change the
 * output's bytes (the fingerprint). New reference. */
json_t *flrq_params_json(const flrq_params *params, int bytes_only);

/** The options that are not as the command and its preset have them by default: array of [name, value] in table order,
 * enough to repeat the job. New reference; NULL when a value is not UTF-8, or on out of memory. */
json_t *flrq_params_changed(const flrq_params *params);

/** Refuses bits between the bounds that no scheme has. */
flrq_status flrq_params_check_bits(const flrq_params *params);

/** Refuses combinations that no single bound catches (missing required options, scheme versus format). */
flrq_status flrq_params_check(const flrq_params *params);

#endif
