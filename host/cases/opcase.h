/* opcase.h - the one harness for backend ops: a table of op cases drives tests, benchmarks and the support listing.
 *
 * An op case is a shape and a run function. The run function is written once, against `r->be`, and the harness calls it
 * on every face of the backend under test and on the scalar reference "cpu-ref":
 *
 *     static void run_scale(op_run *r, const op_case *c) {
 *         int64_t n = c->d[0];
 *         float *x = op_normal(r, "x", n, 1.0f);                     // constant input, fixed Philox seed
 *         float *y = op_out(r, "y", OP_F32, n, OP_EACH, OP_EPS32);   // how it is compared, within which tolerance
 *         op_cost(r, 8.0 * n, n);                                    // bytes and flops that nobody can avoid
 *         OP_CALL(r, scale, y, x, n);                                // r->be->scale(r->be, y, x, n)
 *         op_expect(r, "what", value, tolerance);                    // optional: an invariant of every face
 *     }
 *     static const op_case cases[] = {
 *         {"scale", "n=1", {1}, run_scale},
 *         {"scale", "n=2^24", {1 << 24}, run_scale, OP_BENCH},
 *     };
 *     const op_table ops_example = {"example", cases, sizeof cases / sizeof *cases};
 *
 * A table lives in host/cases/ops_NAME.c; tests/backend/test_NAME_ops.c is the cmocka program that calls
 * op_table_test(&ops_NAME) (tests/backend/optable.h) and holds the hand-written tests (failure paths, known answers);
 * `flrq bench ops` times the OP_BENCH cases.
 *
 * What the harness does with every case: buffers stand between guard bytes that are checked after the run; outputs
 * start as NaN (0xFF) so that an element nobody wrote is found; inputs must come back unchanged; NaN and Inf are looked
 * for before any metric; errors are compared as !(error <= tolerance). A case that runs out of memory, on the host or
 * the device, fails; its run function is left at that point, so it must own nothing but what the harness gave it.
 *
 * Refuses: tolerances that depend on the outcome, inputs that differ between runs. Prints nothing, never exits.
 */
#ifndef FLRQ_CASES_OPCASE_H
#define FLRQ_CASES_OPCASE_H

#include <stdbool.h>
#include <stddef.h>
#include "flrq_backend.h"

/* Rows of a table leave the fields they do not need at zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

#define OP_EPS32    5.9604645e-8 /* unit roundoff of fp32, 2^-24 */
#define OP_EPS64    1.1102230246251565e-16
#define OP_EPS_BF16 0.00390625 /* unit roundoff of bf16, 2^-8: 8 bits with the implicit one */

/** Element type of a buffer. */
typedef enum op_type { OP_F32, OP_F64, OP_U8, OP_U16, OP_I32, OP_I64 } op_type;

/** How an output is compared with the reference's. ref = 0 everywhere requires exact zeros. */
typedef enum op_compare {
    OP_EXACT, /* same bytes; the tolerance is ignored */
    OP_NORM,  /* ||got - ref||_2 / ||ref||_2 */
    OP_MAX,   /* max |got - ref| / max |ref| */
    OP_EACH,  /* max over elements of |got - ref| / |ref| */
    OP_ANY,   /* not unique (a basis): only guards, finiteness and equal bytes for any thread count */
    OP_IGNORE /* scratch: only guards */
} op_compare;

typedef struct op_run op_run;
typedef struct op_case op_case;

/** op_case.use: small and hostile for tests, or large for the bench; a bench case too large for a host's patience
 *  (`flrq bench ops --full`); with OP_FAST the ops run in FLRQ_PRECISION_FAST, the reference as always. */
enum { OP_TEST = 0, OP_BENCH = 1, OP_FAST = 2, OP_LARGE = 4 };

struct op_case {
    const char *op;    /* entry of the backend table: "mul" */
    const char *shape; /* "bf16 512x768 b=8": with `op` the unique name of the case; keys its random numbers */
    int64_t d[8];      /* dimensions, as the run function reads them */
    void (*run)(op_run *r, const op_case *c);
    int use;           /* OP_TEST or OP_BENCH, | OP_FAST, | OP_LARGE */
    const void *extra; /* anything more, e.g. an op_matrix */
};

typedef struct op_table {
    const char *name;
    const op_case *cases;
    size_t count;
} op_table;

/** What a run function did on one face: its buffers, its first failure. Opaque. */
typedef struct op_state op_state;

/** One execution of a run function on one face. Only `be` is for run functions. */
struct op_run {
    flrq_backend *be;
    op_state *state;
};

/** The tables of this library. */
extern const op_table ops_matrix, ops_small, ops_quant, ops_forward;

/** Relative error, in the Frobenius norm, that FAST precision adds to a sum of terms of random sign; 0 unless the case
 *  has OP_FAST. A rounding to bf16 is uniform within at most 2^-8 of the value, 2^-8 / sqrt(3) in the mean square, and
 *  the independent errors of the `roundings` factors of a term add in quadrature: 2^-8 sqrt(roundings / 3), 1.5 times
 *  what significands spread evenly in their logarithm give (a bound for a norm over many elements, not for one). TF32,
 * also where the matrix unit truncates (2^-10 towards zero for each factor), is below that. */
double op_fast_error(const op_case *c, double roundings);

/* ---- for run functions; the pointers returned are memory of the backend ------------------------------------------ */

/** Constant input with the values of `host` (copied). */
void *op_in(op_run *r, const char *name, op_type type, const void *host, int64_t count);

/** Constant input: `count` standard normals times `scale`. */
float *op_normal(op_run *r, const char *name, int64_t count, float scale);

/** Output, NaN before the op. */
void *op_out(op_run *r, const char *name, op_type type, int64_t count, op_compare how, double tolerance);

/** Memory of the backend for whatever a check needs, not looked at. */
void *op_scratch(op_run *r, op_type type, int64_t count);

/** Output that starts as `host` (in-place and accumulating ops). A bench restores it before each repetition. */
void *op_inout(op_run *r, const char *name, op_type type, const void *host, int64_t count, op_compare how,
               double tolerance);

/** Output in host memory, NaN before the op. */
void *op_host_out(op_run *r, const char *name, op_type type, int64_t count, op_compare how, double tolerance);

/** Zeroed host memory that is freed after the run; where there is none, the run ends here and the case fails. */
void *op_temp(op_run *r, size_t bytes);

/** Fills host memory with normals times `scale`: stream `stream` of the case (op_normal and op_in use no stream above
 *  999). A bench repeats the first 2^20 of them: its values do not matter, and generating them would take longer than
 *  the op. */
void op_random(op_run *r, float *host, int64_t count, float scale, uint64_t stream);

/** Copies from backend memory to the host. */
void op_get(op_run *r, void *host, const void *d_from, size_t bytes);

/** Bytes and floating-point operations that the op needs at least. */
void op_cost(op_run *r, double bytes, double flops);

/** Fails the case on this face unless value <= tolerance. Not evaluated when the op failed or in a bench: see op_ok().
 */
void op_expect(op_run *r, const char *what, double value, double tolerance);

/** True when outputs can be looked at: a test (no bench) in which every op so far returned FLRQ_OK. */
bool op_ok(const op_run *r);

/** Calls r->be->op(r->be, ...); a bench repeats and times it (one OP_CALL in a bench case). A backend without the entry
 *  makes the case "unsupported". */
#define OP_CALL(r, op, ...)                                                                                            \
    while (op_next(r, (r)->be->op != NULL)) op_done(r, (r)->be->op((r)->be, __VA_ARGS__))
bool op_next(op_run *r, bool supported);
void op_done(op_run *r, flrq_status status);

/** Description of an operand for op_operand(). Zero means: part absent. */
typedef struct op_matrix {
    int64_t rows, cols;
    const char *dense; /* "F32", "F16", "BF16" or NULL */
    int64_t ld_extra;  /* ld_dense - cols */
    int bits;          /* of the codes */
    int64_t group;     /* columns per group; 0 with bits > 0: per channel */
    int asymmetric;
    float codes_sign; /* 0 means +1 */
    int64_t rank;
    float lr_sign; /* 0 means +1 */
    int col_scale; /* 1: column scales in [0.25, 4) */
} op_matrix;

/** Builds the operand from fixed seeds: dense ~ N(0, 1), codes uniform with scales near 2^(1-bits), L ~ N(0, 1), R ~
 * N(0, 0.1). */
flrq_operand op_operand(op_run *r, const op_matrix *m);

/** Bytes that reading the operand once takes. */
double op_operand_bytes(const op_matrix *m);

/* ---- for test programs and benches ------------------------------------------------------------------------------- */

/** Runs a case once on one face: every buffer `misalign` elements off its alignment. NULL when host memory is out. The
 *  result is to be freed with op_state_free(). */
op_state *op_case_run(const op_case *c, flrq_backend *be, size_t misalign);
void op_state_free(op_state *s); /* NULL is fine */

/** Compares the outputs of a run with those of the reference's run. The first difference beyond its tolerance fails it.
 *  Nothing happens when the run has failed already or the op is not supported. */
void op_case_compare(op_state *s, const op_state *reference);

/** Fails `s` unless its outputs have the bytes of `first`. */
void op_case_same(op_state *s, const op_state *first);

/** Judgement on a run. */
typedef struct op_verdict {
    bool supported, failed;
    const char *text;              /* the first failure; lives as long as the run */
    const char *quantity;          /* what came nearest to its tolerance, "" when nothing was compared */
    double used, value, tolerance; /* value / tolerance, and both */
} op_verdict;
op_verdict op_case_verdict(const op_state *s);

/** Result of a timed case. */
typedef struct op_timing {
    bool supported;
    flrq_status status;
    char text[512];      /* of a failure */
    double best, median; /* seconds of one call */
    double p10, p90;     /* of the samples */
    int samples, batch;  /* a sample is `batch` calls and one sync, divided by the calls */
    double bytes, flops; /* from op_cost() */
} op_timing;

/** Times one case on an open backend: a warm-up call, then samples until `seconds` have passed, 3 at least (1 when a
 *  call takes 5 times that long). A sample of an op that writes over its inputs is one call on restored contents; of
 *  other ops, as many calls as take a millisecond, so that the wait for a device is not counted as work of the op. */
op_timing op_case_time(const op_case *c, flrq_backend *be, double seconds);

#endif
