/* test_opcase.c - the op-case harness itself: each kind of fault is planted on the face under test and must be
 * reported.
 *
 * Run functions see the face they run on, so they misbehave on "cpu" only and the reference stays good.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "backend/optable.h"
#include "core/error.h"

enum { N = 37 };
static const op_matrix ramp = {.rows = 1, .cols = N, .dense = "F32"};

typedef enum fault {
    NONE,
    WRONG_VALUE,
    UNWRITTEN,
    AFTER_END,
    BEFORE_START,
    INPUT_CHANGED,
    NOT_A_NUMBER,
    THREADS_SHOW,
    INVARIANT,
    OP_FAILS,
    NO_OP,
    HOST_OVERRUN,
    EXACT_VALUE,
    UNSUPPORTED,
    REFERENCE_FAULT
} fault;

static bool on(const op_run *r, const op_case *c, fault which) {
    return c->d[0] == which && strcmp(r->be->name, which == REFERENCE_FAULT ? "cpu-ref" : "cpu") == 0;
}

static flrq_status failing(flrq_backend *be, float *d_x, int64_t count) {
    return flrq_fail(FLRQ_ERR_SHAPE, "relu: planted");
}

static void run(op_run *r, const op_case *c) {
    flrq_operand a = op_operand(r, &ramp);
    float *out = op_out(r, "out", OP_F32, N, c->d[0] == EXACT_VALUE ? OP_EXACT : OP_MAX, OP_EPS32);
    double *sum = op_host_out(r, "sum", OP_F64, 1, OP_EACH, 1e-6);
    if (on(r, c, NO_OP)) return;
    OP_CALL(r, materialize, out, &a);
    OP_CALL(r, sum_squares, sum, &a);
    float nan = NAN, bits;
    memset(&bits, 0xFF, sizeof bits);
    if (on(r, c, WRONG_VALUE)) out[N - 1] += 1e-3f;
    if (on(r, c, EXACT_VALUE)) out[3] = nextafterf(out[3], 9);
    if (on(r, c, UNWRITTEN)) out[5] = bits;
    if (on(r, c, AFTER_END)) out[N] = 1;
    if (on(r, c, BEFORE_START)) out[-1] = 1;
    if (on(r, c, INPUT_CHANGED)) ((float *)(uintptr_t)a.d_dense)[2] += 1;
    if (on(r, c, NOT_A_NUMBER) || on(r, c, REFERENCE_FAULT)) out[7] = nan;
    if (on(r, c, HOST_OVERRUN)) ((char *)(sum + 1))[3] = 0;
    flrq_device_info info;
    if (on(r, c, THREADS_SHOW) && r->be->info(r->be, &info) == FLRQ_OK && info.threads == 5)
        out[9] = nextafterf(out[9], 9); /* within the tolerance, yet not the same bytes */
    op_expect(r, "invariant", on(r, c, INVARIANT) ? NAN : 0, 1);
    if (on(r, c, OP_FAILS) || on(r, c, UNSUPPORTED)) {
        flrq_status (*keep)(flrq_backend *, float *, int64_t) = r->be->relu;
        r->be->relu = on(r, c, OP_FAILS) ? failing : NULL;
        OP_CALL(r, relu, out, N);
        r->be->relu = keep;
    }
}

static int failures_of(fault which) {
    const op_case cases[] = {{"planted", "fault", {which}, run}};
    const op_table table = {"planted", cases, 1};
    return op_table_test(&table, "cpu");
}

static void faults_are_found(void **state) {
    assert_int_equal(failures_of(NONE), 0);
    for (int which = WRONG_VALUE; which <= EXACT_VALUE; which++)
        if (failures_of((fault)which) != 1) fail_msg("planted fault %d was not found", which);
    assert_int_equal(failures_of(UNSUPPORTED), 0); /* reported as "none", not as a failure */
    assert_int_equal(failures_of(REFERENCE_FAULT), 1);
}

static void timing(void **state) {
    const op_case good = {"planted", "fault", {NONE}, run, OP_BENCH},
                  bad = {"planted", "fails", {OP_FAILS}, run, OP_BENCH};
    flrq_backend *be;
    assert_int_equal(flrq_backend_open(&be, "cpu", 1), FLRQ_OK);
    op_timing t = op_case_time(&good, be, 0.01);
    assert_true(t.supported && t.status == FLRQ_OK && t.samples >= 3 && t.batch >= 1 && t.best > 0 &&
                t.median >= t.best);
    t = op_case_time(&bad, be, 0.01);
    assert_true(t.supported && t.status == FLRQ_ERR_SHAPE && t.samples == 0 && strstr(t.text, "relu: planted"));
    flrq_backend_close(be);
}

/* ---- the run function is left where it cannot go on ----------------------------------------------------------------
 */

static int allocations_left;
static flrq_status (*real_alloc)(flrq_backend *, void **, size_t, const char *);
static int leaked;
static void (*real_release)(flrq_backend *, void *);

static flrq_status counted_alloc(flrq_backend *be, void **out, size_t bytes, const char *what) {
    *out = NULL;
    if (allocations_left-- == 0) return flrq_fail_memory(bytes, what);
    leaked++;
    return real_alloc(be, out, bytes, what);
}

static void counted_release(flrq_backend *be, void *memory) {
    leaked -= memory != NULL;
    real_release(be, memory);
}

/* Every allocation of a run fails once: the case fails with the text, gives everything back and judges the next run as
 * ever. */
static void no_device_memory(void **state) {
    const op_case test = {"planted", "fault", {NONE}, run}, bench = {"planted", "fault", {NONE}, run, OP_BENCH};
    flrq_backend *be;
    assert_int_equal(flrq_backend_open(&be, "cpu", 1), FLRQ_OK);
    real_alloc = be->alloc, real_release = be->release;
    be->alloc = counted_alloc, be->release = counted_release;
    int failures = 0;
    for (int n = 0;; n++) {
        allocations_left = n;
        op_state *s = op_case_run(&test, be, 0);
        op_verdict v = op_case_verdict(s);
        assert_int_equal(leaked, 0);
        if (v.failed) {
            assert_non_null(strstr(v.text, "bytes wanted for"));
            failures++;
        }
        op_state_free(s);
        if (!v.failed) break;
        allocations_left = n;
        op_timing t = op_case_time(&bench, be, 0.001);
        assert_true(t.status == FLRQ_ERR_MEMORY && t.samples == 0 && leaked == 0);
    }
    assert_int_equal(failures, 2); /* the operand and the output; the sum is in host memory */
    flrq_backend_close(be);
}

static void greedy(op_run *r, const op_case *c) {
    for (int i = 0; i < 1000; i++)
        if (c->d[0])
            op_temp(r, 8);
        else
            op_host_out(r, "one of too many", OP_F32, 1, OP_ANY, 0);
}

static void too_many_buffers(void **state) {
    flrq_backend *be;
    assert_int_equal(flrq_backend_open(&be, "cpu", 1), FLRQ_OK);
    for (int which = 0; which < 2; which++) {
        const op_case c = {"planted", "greed", {which}, greedy};
        op_state *s = op_case_run(&c, be, 0);
        assert_true(op_case_verdict(s).failed && strstr(op_case_verdict(s).text, "more than"));
        op_state_free(s);
    }
    flrq_backend_close(be);
}

/* ---- precision ------------------------------------------------------------------------------------------------------
 */

static flrq_precision present;
static int changes;

static void record_precision(flrq_backend *be, flrq_precision precision) {
    changes++;
    present = precision;
}

static void run_precision(op_run *r, const op_case *c) {
    float *out = op_out(r, "out", OP_F32, N, OP_ANY, 0);
    flrq_operand a = op_operand(r, &ramp);
    OP_CALL(r, materialize, out, &a);
    op_expect(r, "precision", present == (c->use & OP_FAST ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL) ? 0 : 1, 0);
}

static void precision_is_set_for_the_run(void **state) {
    flrq_backend *be;
    assert_int_equal(flrq_backend_open(&be, "cpu", 1), FLRQ_OK);
    be->set_precision = record_precision;
    static const int uses[] = {OP_TEST, OP_FAST};
    for (int i = 0; i < 2; i++) {
        const op_case c = {"planted", "precision", {0}, run_precision, uses[i]};
        op_state *s = op_case_run(&c, be, 0);
        assert_false(op_case_verdict(s).failed);
        op_state_free(s);
        assert_int_equal(present, FLRQ_PRECISION_FULL); /* as the next user of the backend expects it */
    }
    assert_int_equal(changes, 4);
    const op_case full = {.use = OP_TEST}, fast = {.use = OP_FAST};
    assert_true(op_fast_error(&full, 2) == 0 && op_fast_error(&fast, 3) == OP_EPS_BF16);
    flrq_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(faults_are_found), cmocka_unit_test(timing),
                                       cmocka_unit_test(no_device_memory), cmocka_unit_test(too_many_buffers),
                                       cmocka_unit_test(precision_is_set_for_the_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
