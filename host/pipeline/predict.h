/* predict.h - the time that a quantize job will take, phase by phase, from its plan and a device profile.
 *
 * Every op of the job is counted with its shape, on the worker that has the most of it, and costs what the profile says
 * of its class; every exchange costs its latency and its bytes over the slower of the links that it takes. Nothing is
 * fitted to the sum: what a run then takes beside it (bench/scaling.md compares the two) is the error of the model.
 * What must not change: a number that was neither measured nor given is an assumption and listed as one.
 */
#ifndef FLRQ_PIPELINE_PREDICT_H
#define FLRQ_PIPELINE_PREDICT_H

#include "pipeline/job.h"
#include "pipeline/profile.h"

/** Phases of a run, in the order in which they are shown. They add up to the whole. */
typedef enum flrq_time {
    FLRQ_TIME_OPEN,      /* program, communicator, text, embedding */
    FLRQ_TIME_READ,      /* weights from files and to the device, as far as the run waits for it */
    FLRQ_TIME_CALIBRATE, /* forward with the source weights, sums of its inputs */
    FLRQ_TIME_QUANTIZE,  /* fits */
    FLRQ_TIME_EXCHANGE,  /* sums and maxima over the workers, in calibrate and quantize */
    FLRQ_TIME_GATHER,    /* rows of weights and codes to all workers, as far as the run waits for it */
    FLRQ_TIME_WRITE,     /* packing, and files as far as the run waits for them */
    FLRQ_TIME_FORWARD,   /* forward with the quantized weights */
    FLRQ_TIME_VERIFY,    /* the load-back check */
    FLRQ_TIMES
} flrq_time;

/** "open", ... */
const char *flrq_time_name(flrq_time phase);

/** What is not in the plan: the workers, their links and files, and what only the run can find out. */
typedef struct flrq_cluster {
    int workers, nodes;                /* workers are spread evenly over the nodes */
    int threads;                       /* of each worker, on a CPU */
    flrq_link_cost node_link, network; /* one device from its node's others; one node from the others */
    double read, write;                /* bytes a second of the files, of all workers together */
    double rank;                       /* mean rank, as a fraction of the rank bound */
    double start;                      /* seconds before the first tensor is read */
    unsigned assumed;                  /* of links and files, those that are assumptions; rank and start always are */
} flrq_cluster;
enum { FLRQ_ASSUMED_LINK = 1, FLRQ_ASSUMED_NETWORK = 2, FLRQ_ASSUMED_READ = 4, FLRQ_ASSUMED_WRITE = 8 };

typedef struct flrq_prediction {
    double seconds[FLRQ_TIMES], total;
    double hidden[FLRQ_TIMES];      /* beside other phases, in the overlap */
    double tries;                   /* quantizations of a matrix in its search of a rank, mean */
    double link_bytes;              /* that the worker with the most receives from its node, in all */
    double network_bytes;           /* that a node receives from the others, in all */
    double read_bytes, write_bytes; /* of files, by all workers */
} flrq_prediction;

/** The cluster of a plan: --workers (0: one), --nodes, --threads and the rates given, what the profile knows, and
 * assumptions for the rest. FLRQ_ERR_USAGE when the nodes cannot have equal numbers of workers. */
flrq_status flrq_cluster_from(flrq_cluster *out, const flrq_config *config, const flrq_profile *profile);

/** Predicts the run of `plan`. FLRQ_ERR_UNSUPPORTED, with the reason: the profile is of another kind of device or
 *  precision, lacks an op, or the options ask for a sketch that is not counted (only block is). */
flrq_status flrq_predict(flrq_prediction *out, const flrq_plan *plan, const flrq_config *config,
                         const flrq_model *model, const flrq_profile *profile, const flrq_cluster *cluster);

/** "time" of the result of plan: {"seconds_total", "phases", "hidden", "profile", "measured", "workers", "nodes",
 *  "bytes", "rates", "assumptions"}, or {"missing": reason} without --profile or where it does not serve. Fails on a
 *  file that is no profile. New reference. */
flrq_status flrq_predict_json(json_t **out, const flrq_plan *plan, const flrq_config *config, const flrq_model *model);

#endif
