/* job.h - what the files of the pipeline share: events, the stop flag, the plan and the state of a quantize job.
 */
#ifndef FLRQ_PIPELINE_JOB_H
#define FLRQ_PIPELINE_JOB_H

#include <jansson.h>
#include "backend/comm.h"
#include "io/file.h"
#include "io/journal.h"
#include "model/model.h"
#include "pipeline/options.h"
#include "quant/fit.h"

/* ---- events and stopping (events.c) -------------------------------------------------------------------------------
 */

/** Where a job reports to. Zero-initialise, then set fn, user and start. */
typedef struct flrq_reporter {
    flrq_event_fn fn;
    void *user;
    double start; /* flrq_seconds() when the job began */
    int64_t block, blocks;
    double block_seconds[8]; /* of the last blocks, for the ETA */
    int64_t blocks_timed;
    const char *phase;
    double phase_start;
    json_t *notices;    /* array of texts, or NULL */
    const char *device; /* for the events, NULL while none is open */
} flrq_reporter;

/** Monotonic clock. */
double flrq_seconds(void);

/** Resident memory of this process now, and its peak. */
double flrq_rss_bytes(void);
double flrq_peak_rss_bytes(void);

/** Adds the layer's tensor to the error of something that was done to it. */
static inline flrq_status flrq_trace_layer(flrq_status status, const flrq_linear *l) {
    return status == FLRQ_OK || status == FLRQ_STOPPED ? status : flrq_trace(status, "tensor %s.weight", l->module);
}

/** A sentence for the user, once. */
void flrq_notice(flrq_reporter *reporter, const char *format, ...) FLRQ_PRINTF(2, 3);

/** Progress of a phase. A new phase name restarts its clock. */
void flrq_progress(flrq_reporter *reporter, const char *phase, int64_t done, int64_t total);

/** Block `block` (1-based) is committed after `seconds`; text is its one-line summary. */
void flrq_block_done(flrq_reporter *reporter, int64_t block, double seconds, const char *text);

/** True after flrq_request_stop(). flrq_run() clears it at its start. */
int flrq_stop_requested(void);
void flrq_stop_clear(void);

/* ---- plan (plan.c) --------------------------------------------------------------------------------------------------
 */

/** One line of the memory table. phase bits: 1 embedding, 2 blocks, 4 load-back check, 8 text. */
typedef struct flrq_plan_item {
    const char *name;
    size_t host, device; /* bytes; device: of memory that is the device's own */
    unsigned phases;
} flrq_plan_item;

enum { FLRQ_PLAN_EMBED = 1, FLRQ_PLAN_BLOCKS = 2, FLRQ_PLAN_VERIFY = 4, FLRQ_PLAN_TEXT = 8, FLRQ_PLAN_ITEMS = 24 };

/** Everything that a quantize job will need, from config and headers alone. The run allocates from it. */
typedef struct flrq_plan {
    flrq_fit_options fit;
    flrq_dtype scale_dtype;       /* F16 or BF16 */
    flrq_precision precision;     /* of the block forwards */
    uint64_t ranks_hash;          /* of the ranks of --ranks-from; 0: a rule chooses them */
    int calibrated;               /* 0: weights only */
    int workers;                  /* that share the run */
    int64_t segments, length;     /* calibration tokens */
    int64_t groups;               /* token groups, to which the segments are dealt */
    int64_t batch;                /* tokens that go through an MLP at once */
    int overlap;                  /* the next block is read and the last one written beside the present one */
    int activations_on_host;      /* they do not fit the device */
    flrq_extent extent;           /* largest linear layer */
    int64_t slots;                /* linear layers whose codes are held at once */
    int64_t weights;              /* quantized weights in all */
    int64_t largest_tensor_group; /* groups per row, largest */
    size_t weight_bytes;          /* largest linear weight in its source type */
    size_t factor_bytes, workspace_bytes;
    size_t staging_bytes, feed_bytes; /* of one slot on the way to files, and from files */
    int separate;                     /* the device has memory of its own */
    size_t host_bytes, device_bytes;  /* predicted peaks */
    size_t device_limit;              /* what device_bytes must not exceed; 0: unknown */
    uint64_t output_bytes;            /* files of OUT at the rank bound */
    uint64_t scratch_bytes;           /* beside them while running (activations) */
    double flops;
    int items;
    flrq_plan_item item[FLRQ_PLAN_ITEMS];
} flrq_plan;

/** What a plan is made for. */
typedef struct flrq_plan_target {
    int threads;
    int separate;  /* the device has memory of its own */
    int open;      /* it is open: what is free is free beside the backend's own context */
    size_t memory; /* bytes free on it, or, while it is not open, its size; 0: unknown */
    int64_t batch; /* token batch that an earlier part of the run used; 0: the plan chooses */
    int workers;   /* that share the run; 0: one */
} flrq_plan_target;

/** The target of an open backend, within --device-memory. */
flrq_plan_target flrq_plan_target_of(const flrq_config *config, const flrq_device_info *device);

/** Checks every shape against the scheme and fills the plan. segments x length: of the calibration that will be used.
 * On a device with memory of its own it chooses the token batch (the segment, or a half, a quarter, ... of it), the
 * place of the activations and, with --overlap auto, the overlap, so that device_bytes stay within the target's memory:
 * FLRQ_ERR_MEMORY when nothing does. Errors name the tensor and the remedy. */
flrq_status flrq_plan_make(flrq_plan *plan, const flrq_config *config, const flrq_model *model, int64_t segments,
                           int64_t length, const flrq_plan_target *target);

/** Segments and length that the options ask for, shortened to the model's context (noticed). Token files give their
 * own. */
flrq_status flrq_plan_calibration(const flrq_params *params, const flrq_model *model, flrq_reporter *reporter,
                                  int64_t *segments, int64_t *length);

/* ---- jobs: each fills *result (new reference)
 * ---------------------------------------------------------------------------- */

/** One worker of a quantize run, on a device and in a group that the caller opens and closes. *result: rank 0's. On a
 * failure the others are told. */
flrq_status flrq_quantize_worker(const flrq_params *params, flrq_reporter *reporter, flrq_backend *be, flrq_comm *comm,
                                 json_t **result);

flrq_status flrq_job_quantize(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_plan(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_eval(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_inspect(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_compare(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_devices(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_tokenize(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_submit(const flrq_params *params, flrq_reporter *reporter, json_t **result);
flrq_status flrq_job_report(const flrq_params *params, flrq_reporter *reporter, json_t **result);

/** The numerical options of a config as the fit takes them. dtype: of the linear weights (decides the factors' type).
 */
void flrq_fit_options_from(flrq_fit_options *out, const flrq_config *config, flrq_dtype dtype);

#endif
