/* profile.h - what ops take on one device, as measured there, and its file.
 *
 * A profile says for every class of ops that a quantize job spends time in what one call costs: a part per call, one
 * per element and one per floating-point operation, fitted to calls of two or three sizes. `flrq bench ops --profile
 * FILE` measures and writes it (bench_profile.c), `flrq plan --profile FILE` predicts from it (predict.c). Rates of
 * links and of files are in it when they were measured. What must not change: a number in a profile whose source is
 * "measured" was measured; nothing is filled in on reading.
 *
 * The file is JSON:
 *
 *     {"format": "flrq device profile", "version": 1,
 *      "source": "measured",                     or "data sheet": computed from the rates that a maker states
 *      "date": "2026-11-22", "flrq": "0.1.0",    when and by what it was made
 *      "note": "...",                            optional; circumstances that a reader should know
 *      "device": {"backend": "cpu", "name": "...", "threads": 2, "separate_memory": false, "memory_bytes": N,
 *                 "precision": "full"},          precision of the classes that are not "full": "full" or "fast"
 *      "ops": {"mul": {"call_seconds": 2e-6, "elements_s": 1e10, "flops_s": 5e10}, ...},
 *      "copy_bytes_s": N, "upload_bytes_s": N, "download_bytes_s": N,
 *      "files": {"read_bytes_s": N, "write_bytes_s": N},                                      optional
 *      "links": {"node": {"bytes_s": N, "call_seconds": N}, "network": {...}}}                 optional, each of them
 *
 * Every class of flrq_cost is a key of "ops". elements_s and flops_s are null where a class has no such part or it was
 * too small to see; a class is null where the backend has no such op. copy_bytes_s counts bytes read plus bytes
 * written.
 */
#ifndef FLRQ_PIPELINE_PROFILE_H
#define FLRQ_PIPELINE_PROFILE_H

#include <jansson.h>
#include "core/error.h"

/** Classes of ops. Matrices [m, n] have m n elements; b, k and t are columns of the other factor, r a rank. In the
 *  device's precision but for those named FULL. Operands are bf16; "codes" subtracts quantized weights from them. */
typedef enum flrq_cost {
    FLRQ_COST_MUL,              /* A x with column scales: 2 m n b flops */
    FLRQ_COST_MUL_CODES,        /* the same of A - Wq */
    FLRQ_COST_MUL_T,            /* A^T q: 2 m n b flops */
    FLRQ_COST_MUL_T_CODES,      /* */
    FLRQ_COST_MUL_T_FULL,       /* */
    FLRQ_COST_MUL_T_CODES_FULL, /* */
    FLRQ_COST_ERROR,            /* ||A S||: 2 m n k flops */
    FLRQ_COST_ERROR_CODES,      /* ||(A - Wq - L R) S||: 2 m n (k + r) flops */
    FLRQ_COST_NORM,             /* ||A - Wq - L R||: 2 m n r flops */
    FLRQ_COST_CURVE,            /* amax curve: 2 m n b flops */
    FLRQ_COST_CLIP_NONE,        /* clip_quantize of A - L R by search and bits: 2 m n r flops */
    FLRQ_COST_CLIP_GRID,        /* of FLRQ_PROFILE_GRID ratios, 4 bits */
    FLRQ_COST_CLIP_FAST2,       /* */
    FLRQ_COST_CLIP_FAST3,       /* */
    FLRQ_COST_CLIP_FAST4,       /* */
    FLRQ_COST_CLIP_FAST8,       /* */
    FLRQ_COST_NONFINITE,        /* */
    FLRQ_COST_PACK,             /* 4 bits */
    FLRQ_COST_UNPACK,           /* */
    FLRQ_COST_ROUND_BF16,       /* Wq + L R to bf16: 2 m n r flops; null where linear() gains nothing from it */
    FLRQ_COST_LINEAR,           /* x A^T: 2 m n t flops */
    FLRQ_COST_LINEAR_CODES,     /* the same of Wq + L R, whose formation is in the part per element */
    FLRQ_COST_ATTENTION,        /* causal: 2 t^2 heads dim flops */
    FLRQ_COST_NORM_ROWS,        /* rmsnorm, layernorm: elements */
    FLRQ_COST_ROPE,             /* elements */
    FLRQ_COST_ADD,              /* elements */
    FLRQ_COST_ACTIVATION,       /* swiglu, relu: elements */
    FLRQ_COST_INPUT_STATS,      /* elements */
    FLRQ_COST_INPUT_SKETCH,     /* 2 t n k flops */
    FLRQ_COST_NORMAL,           /* elements */
    FLRQ_COST_GRAM,             /* 2 m b^2 flops */
    FLRQ_COST_CHOLESKY,         /* b^3 flops */
    FLRQ_COST_SOLVE,            /* m b^2 flops */
    FLRQ_COST_EIGH,             /* b^3 flops */
    FLRQ_COST_GEMM,             /* 2 m k b flops */
    FLRQ_COST_COLUMN_AMAX,      /* elements */
    FLRQ_COST_ROUND_FACTOR,     /* elements */
    FLRQ_COSTS
} flrq_cost;

enum { FLRQ_PROFILE_GRID = 20 };

/** Seconds of a call: call + elements * element + flops * flop. call < 0: the backend has no such op. */
typedef struct flrq_op_cost {
    double call, element, flop;
} flrq_op_cost;

/** A link: bytes a second that one device receives (node) or one node receives (network), and seconds of a step.
 *  bytes 0: not known. */
typedef struct flrq_link_cost {
    double bytes, call;
} flrq_link_cost;

typedef struct flrq_profile {
    char backend[16], name[128], date[16], version[16], note[512];
    int measured; /* 0: from data sheets */
    int threads, separate, fast;
    double memory;
    flrq_op_cost op[FLRQ_COSTS];
    double copy, upload, download;     /* bytes a second */
    double read, write;                /* of files; 0 not known */
    flrq_link_cost node_link, network; /* bytes 0 not known */
} flrq_profile;

/** Key of a class in the file: "mul", "clip_fast4". */
const char *flrq_cost_name(flrq_cost cost);

/** Reads and checks a file: every error names the file and the key. */
flrq_status flrq_profile_load(flrq_profile *out, const char *path);

/** Writes it, replacing the file at once. */
flrq_status flrq_profile_save(const flrq_profile *profile, const char *path);

/** A timed call of a class, and how much it counts. */
typedef struct flrq_cost_point {
    double elements, flops, seconds, weight;
} flrq_cost_point;

/** The parts of a class from `count` (at most 8) calls of different sizes, none of 0 seconds: of all choices of parts
 *  that are not negative, the one with the least weighted squares of relative errors. With points enough apart that is
 * the exact solution where it is not negative; noise may leave a part at 0. */
flrq_op_cost flrq_cost_fit(const flrq_cost_point *points, int count);

#endif
