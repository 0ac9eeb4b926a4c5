/* test_bench_memory.c - bench sketch on a device that is short of memory, or whose library gives up: what a method has
 * no room for or no result of is a row that says so, and whichever allocation fails, nothing is left behind.
 */
#include "device.h"
#include "pipeline/bench_sketch.h"

static char notice[512];

static void on_event(void *user, const flrq_event *event) {
    if (event->kind == FLRQ_EVENT_NOTICE) snprintf(notice, sizeof notice, "%s", event->text);
}

static int fail_svd; /* number of the call that does not converge; 0: none */

flrq_status __real_flrq_bench_baseline_run(flrq_backend *be, const flrq_bench_baseline *options, float *d_a, int64_t m,
                                           int64_t n, float *d_u, float *d_s, float *d_vt);
flrq_status __wrap_flrq_bench_baseline_run(flrq_backend *be, const flrq_bench_baseline *options, float *d_a, int64_t m,
                                           int64_t n, float *d_u, float *d_s, float *d_vt) {
    if (fail_svd && --fail_svd == 0) return flrq_fail(FLRQ_ERR_NUMERIC, "svd: no convergence");
    return __real_flrq_bench_baseline_run(be, options, d_a, m, n, d_u, d_s, d_vt);
}

static flrq_status run(const char *methods, json_t **result) {
    static const char *const options[][2] = {{"device", "cuda"}, {"repeats", "1"},      {"ranks", "4"},
                                             {"threads", "2"},   {"shapes", "128x128"}, {"spectra", "flat"}};
    flrq_params *params;
    char *text = NULL;
    MUST(flrq_params_new(&params, "bench-sketch"));
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        MUST(flrq_params_set(params, options[i][0], options[i][1]));
    MUST(flrq_params_set(params, "methods", methods));
    flrq_status status = flrq_run(params, on_event, NULL, &text);
    *result = text && status == FLRQ_OK ? json_loads(text, 0, NULL) : NULL;
    flrq_free(text);
    flrq_params_free(params);
    return status;
}

static const char *status_of(const json_t *result, const char *method) {
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(result, "rows"), i, row) {
        if (strcmp(json_string_value(json_object_get(row, "method")), method) == 0)
            return json_string_value(json_object_get(row, "status"));
    }
    fail_msg("no row of %s", method);
    return NULL;
}

/* bf16 and fp32 of the matrix fit together, the three fp32 matrices of an exact SVD do not. */
static void test_one_method_too_large(void **state) {
    json_t *result;
    device_reset(0);
    device.limit = 128 * 128 * 10;
    MUST(run("block,r1,rsvd,svd,svdj", &result));
    assert_string_equal(status_of(result, "block"), "ok");
    assert_string_equal(status_of(result, "r1"), "ok");
    assert_string_equal(status_of(result, "svd"), "not enough memory");
    assert_string_equal(status_of(result, "svdj"), "not enough memory");
    assert_string_equal(status_of(result, "rsvd"), "not on this device"); /* the CPU below has none in its table */
    assert_true(strstr(notice, "flat+columns 128x128") && strstr(notice, "wanted"));
    assert_int_equal(json_array_size(json_object_get(result, "ranks")), 2);
    json_decref(result);
    device_is_clean();
}

/* In the warm-up or in a timed run. */
static void test_no_convergence(void **state) {
    for (int call = 1; call <= 2; call++) {
        json_t *result;
        device_reset(0);
        fail_svd = call;
        MUST(run("block,svd", &result));
        assert_int_equal(fail_svd, 0);
        assert_string_equal(status_of(result, "svd"), "no result");
        assert_string_equal(status_of(result, "block"), "ok");
        assert_non_null(strstr(notice, "svd of flat+columns 128x128: svd: no convergence"));
        assert_int_equal(json_array_size(json_object_get(result, "ranks")), 1);
        json_decref(result);
        device_is_clean();
    }
}

/* Allocation after allocation fails: a result whose rows say so, or one line. */
static void test_every_allocation(void **state) {
    int rows = 0, failures = 0;
    device_reset(0);
    json_t *result;
    MUST(run("block,r1,svd", &result));
    json_decref(result);
    long all = device.allocations;
    for (long i = 1; i <= all; i++) {
        device_reset(0);
        device.fail_allocation = i;
        flrq_status status = run("block,r1,svd", &result);
        if (status == FLRQ_OK)
            rows++;
        else if (status == FLRQ_ERR_MEMORY && strstr(flrq_last_error(), "wanted for"))
            failures++;
        else
            fail_msg("allocation %ld: %s: %s", i, flrq_status_name(status), flrq_last_error());
        json_decref(result);
        device_is_clean();
    }
    /* Three for the matrix and its scale; everything else belongs to a method. */
    assert_int_equal(failures, 3);
    assert_int_equal(rows, all - failures);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_method_too_large),
                                       cmocka_unit_test(test_no_convergence), cmocka_unit_test(test_every_allocation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
