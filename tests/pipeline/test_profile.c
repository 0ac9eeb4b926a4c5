/* test_profile.c - device profiles: what is written comes back, what is wrong is refused by file and key, and the parts
 * of an op's cost are found again from its times. */
#include <float.h>

#include "core/philox.h"
#include "model/logits.h"
#include "pipeline/bench.h"

static char dir[512];

static int set_up(void **state) {
    folder *f = folder_read("families/llama"); /* for its temporary folder alone */
    snprintf(dir, sizeof dir, "%s", folder_write(f));
    folder_free(f);
    return 0;
}

static char *path_of(const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static flrq_profile some_profile(void) {
    flrq_profile p = {.backend = "cuda",
                      .name = "Some GPU",
                      .date = "2026-01-31",
                      .version = "0.1.0",
                      .note = "a note",
                      .measured = 1,
                      .threads = 16,
                      .separate = 1,
                      .fast = 1,
                      .memory = 8e10,
                      .copy = 3e12,
                      .upload = 5e10,
                      .download = 4e10,
                      .read = 5e9,
                      .write = 1e9,
                      .node_link = {4e11, 3e-5},
                      .network = {2e10, 5e-5}};
    for (int i = 0; i < FLRQ_COSTS; i++) p.op[i] = (flrq_op_cost){1e-6 * (i + 1), 1 / (1e9 + i), 1 / (1e12 + i)};
    p.op[FLRQ_COST_NORMAL].flop = 0;
    p.op[FLRQ_COST_EIGH].element = 0;
    p.op[FLRQ_COST_ROUND_BF16].call = -1;
    return p;
}

static int same(double a, double b) {
    return fabs(a - b) <= 4 * DBL_EPSILON * fabs(b); /* two reciprocals */
}

static void test_round_trip(void **state) {
    flrq_profile p = some_profile(), q;
    MUST(flrq_profile_save(&p, path_of("round.json")));
    MUST(flrq_profile_load(&q, path_of("round.json")));
    for (int i = 0; i < FLRQ_COSTS; i++) {
        assert_true(q.op[i].call == p.op[i].call);
        if (p.op[i].call < 0) continue;
        assert_true(same(q.op[i].element, p.op[i].element) && same(q.op[i].flop, p.op[i].flop));
    }
    memcpy(q.op, p.op, sizeof p.op);
    assert_string_equal(q.note, p.note);
    assert_string_equal(q.name, p.name);
    assert_string_equal(q.backend, p.backend);
    assert_string_equal(q.date, p.date);
    assert_true(q.measured == 1 && q.threads == 16 && q.separate == 1 && q.fast == 1 && q.memory == p.memory);
    assert_true(q.copy == p.copy && q.upload == p.upload && q.download == p.download);
    assert_true(q.read == p.read && q.write == p.write);
    assert_true(q.node_link.bytes == p.node_link.bytes && q.network.call == p.network.call);
    /* What was not measured is not there afterwards either. */
    p.read = p.write = p.node_link.bytes = p.network.bytes = 0;
    p.note[0] = 0, p.measured = 0;
    MUST(flrq_profile_save(&p, path_of("round.json")));
    MUST(flrq_profile_load(&q, path_of("round.json")));
    assert_true(q.read == 0 && q.node_link.bytes == 0 && q.network.bytes == 0 && q.measured == 0);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

/* The profile with `value` (stolen; NULL: nothing) at a path of keys, "device.threads". */
static void changed(const char *keys, json_t *value) {
    flrq_profile p = some_profile();
    char copy[128], *key = copy;
    MUST(flrq_profile_save(&p, path_of("bad.json")));
    json_t *root = json_load_file(path_of("bad.json"), 0, NULL), *at = root;
    snprintf(copy, sizeof copy, "%s", keys);
    for (char *dot; (dot = strchr(key, '.')); key = dot + 1) {
        *dot = 0;
        at = json_object_get(at, key);
        assert_non_null(at);
    }
    if (value)
        json_object_set_new(at, key, value);
    else
        assert_int_equal(json_object_del(at, key), 0);
    assert_int_equal(json_dump_file(root, path_of("bad.json"), 0), 0);
    json_decref(root);
}

static void test_refused(void **state) {
    const struct {
        const char *keys;
        json_t *value;
    } cases[] = {
        {"format", json_string("a cake")},
        {"format", NULL},
        {"version", json_integer(2)},
        {"version", json_string("1")},
        {"source", json_string("guessed")},
        {"date", NULL},
        {"device", json_array()},
        {"device.backend", json_string("a name that is much too long")},
        {"device.name", json_string("")},
        {"device.threads", json_integer(0)},
        {"device.threads", json_real(1.5)},
        {"device.threads", json_integer(100000)},
        {"device.separate_memory", json_integer(1)},
        {"device.precision", json_string("half")},
        {"device.memory_bytes", json_integer(-1)},
        {"ops", NULL},
        {"ops.mul", NULL},
        {"ops.mul", json_integer(3)},
        {"ops.mul.call_seconds", json_real(-1e-6)},
        {"ops.mul.call_seconds", json_null()},
        {"ops.mul.elements_s", json_real(0)},
        {"ops.mul.flops_s", json_real(-1)},
        {"ops.mul.flops_s", NULL},
        {"ops.mul_by_hand", json_null()},
        {"copy_bytes_s", json_integer(0)},
        {"upload_bytes_s", NULL},
        {"download_bytes_s", json_string("fast")},
        {"files", json_true()},
        {"files.write_bytes_s", NULL},
        {"links.node.bytes_s", json_integer(0)},
        {"links.network.call_seconds", json_integer(-1)},
        {"note", json_integer(1)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        flrq_profile p;
        const char *keys = cases[i].keys, *last = strrchr(keys, '.') ? strrchr(keys, '.') + 1 : keys;
        changed(keys, cases[i].value);
        flrq_status status = flrq_profile_load(&p, path_of("bad.json"));
        if (status != FLRQ_ERR_FORMAT) fail_msg("%s: %s", keys, flrq_status_name(status));
        if (!strstr(flrq_last_error(), "bad.json") || !strstr(flrq_last_error(), last))
            fail_msg("%s: \"%s\"", keys, flrq_last_error());
    }
    flrq_profile p;
    assert_int_equal(flrq_profile_load(&p, path_of("no such file")), FLRQ_ERR_IO);
    MUST(flrq_file_write(path_of("bad.json"), "[]", 2));
    assert_int_equal(flrq_profile_load(&p, path_of("bad.json")), FLRQ_ERR_FORMAT);
    p = some_profile();
    assert_int_equal(flrq_profile_save(&p, path_of("no/such/folder.json")), FLRQ_ERR_IO);
    assert_non_null(strstr(flrq_last_error(), "no/such/folder.json"));
}

/* ---- the fit ----------------------------------------------------------------------------------------------------- */

static flrq_cost_point timed(flrq_op_cost cost, double elements, double flops) {
    return (flrq_cost_point){elements, flops, cost.call + elements * cost.element + flops * cost.flop, 1};
}

static void test_fit(void **state) {
    const double sizes[4][2] = {{65536, 5e6}, {65536, 18e6}, {4194304, 336e6}, {4194304, 1141e6}};
    float random[64 * 3];
    flrq_philox_normal(random, 7, 0, 0, 64 * 3);
    for (int i = 0; i < 64; i++) {
        /* Parts over four orders of magnitude. A part is found to the accuracy of the times, 1e-16 of the whole, over
         * its share in it, as long as that share is seen at all; condition numbers of such points stay below 1e6. */
        flrq_op_cost cost = {1e-5 * exp(2.0 * random[3 * i]), 1e-9 * exp(2.0 * random[3 * i + 1]),
                             1e-11 * exp(2.0 * random[3 * i + 2])};
        flrq_cost_point points[4];
        for (int p = 0; p < 4; p++) points[p] = timed(cost, sizes[p][0], sizes[p][1]);
        flrq_op_cost found = flrq_cost_fit(points, 4);
        for (int p = 0; p < 4; p++) {
            double again = found.call + points[p].elements * found.element + points[p].flops * found.flop;
            assert_true(fabs(again - points[p].seconds) <= 1e-5 * points[p].seconds);
        }
    }
    /* Parts that no point has, or that are nothing, are 0. */
    flrq_op_cost plain = {2e-6, 1e-9, 0};
    flrq_cost_point two[2] = {timed(plain, 1000, 0), timed(plain, 1e6, 0)};
    flrq_op_cost found = flrq_cost_fit(two, 2);
    assert_true(fabs(found.call - 2e-6) < 1e-12 && fabs(found.element - 1e-9) < 1e-15 && found.flop == 0);
    /* A small call from a cache would give a negative part per call. */
    two[0].seconds = 0.5e-6;
    two[0].weight = 0.01;
    found = flrq_cost_fit(two, 2);
    assert_true(found.call == 0 && found.element > 0 && found.flop == 0);
    /* The large call, which counts 100 times as much, is met within a few per cent. */
    assert_true(fabs(found.element * 1e6 - two[1].seconds) < 0.05 * two[1].seconds);
    /* Noise of 10 % never gives a negative part, and never moves a time by much more. */
    for (int i = 0; i < 64; i++) {
        flrq_op_cost cost = {1e-5, 1e-10, 1e-11};
        flrq_cost_point points[4];
        for (int p = 0; p < 4; p++) {
            points[p] = timed(cost, sizes[p][0], sizes[p][1]);
            points[p].seconds *= 1 + 0.1 * ((i >> p & 1) ? 1 : -1);
        }
        found = flrq_cost_fit(points, 4);
        assert_true(found.call >= 0 && found.element >= 0 && found.flop >= 0);
        for (int p = 0; p < 4; p++) {
            double again = found.call + points[p].elements * found.element + points[p].flops * found.flop;
            assert_true(fabs(again - points[p].seconds) <= 0.25 * points[p].seconds);
        }
    }
}

/* ---- measuring and shipped files --------------------------------------------------------------------------------- */

static void test_measured(void **state) {
    flrq_backend *be = backend_opens("cpu");
    flrq_bench_limits limits = {.copy = 1e10, .upload = 1e10, .download = 1e10, .full = 1e10, .fast = 1e10};
    flrq_config config = {.seconds = 0.0001, .scratch = dir};
    flrq_reporter reporter = {0};
    flrq_profile p, q;
    json_t *rows = json_array();
    MUST(flrq_profile_measure(&p, be, &limits, &config, &reporter, rows));
    assert_string_equal(p.backend, "cpu");
    assert_true(p.measured && !p.separate && !p.fast && p.threads == 2 && strlen(p.date) == 10);
    for (int i = 0; i < FLRQ_COSTS; i++) {
        const flrq_op_cost *c = &p.op[i];
        if (i == FLRQ_COST_ROUND_BF16) { /* the CPU gains nothing from it */
            assert_true(c->call < 0);
            continue;
        }
        if (!(c->call + c->element + c->flop > 0)) fail_msg("%s costs nothing", flrq_cost_name((flrq_cost)i));
    }
    assert_true(p.read > 0 && p.write > 0);
    assert_true(json_array_size(rows) > 2 * FLRQ_COSTS - 4);
    MUST(flrq_profile_save(&p, path_of("measured.json")));
    MUST(flrq_profile_load(&q, path_of("measured.json")));
    json_decref(rows);
    flrq_backend_close(be);
}

static void test_shipped(void **state) {
    static const char *const data_sheets[] = {"../bench/scaling-h100-sxm.json"};
    for (size_t i = 0; i < sizeof data_sheets / sizeof *data_sheets; i++) {
        flrq_profile p;
        MUST(flrq_profile_load(&p, data_sheets[i]));
        assert_false(p.measured);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused), cmocka_unit_test(test_fit),
        cmocka_unit_test(test_measured),   cmocka_unit_test(test_shipped),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
