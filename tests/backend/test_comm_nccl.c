/* test_comm_nccl.c - workers whose devices are linked, as threads of one process: the suite that all communicators
 * share and what can go wrong while the host waits for a device.
 *
 * FLRQ_TEST_DEVICE names the kind of device ("cuda", "cudasim"); the test is skipped without it. There are as many
 * workers as devices, and on the simulator 1, 2, 3 and 8 besides (FLRQ_CUDASIM_DEVICES).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/comm_suite.h"

enum { MOST = 8 };

static char kind[16];
static int devices;
static int sizes[8]; /* of the groups that are tested, then 0 */

/* ---- workers ----------------------------------------------------------------------------------------------------- */

typedef struct worker worker;
typedef void (*worker_fn)(worker *w);

struct worker {
    pthread_t thread;
    worker_fn run;
    int rank, size;
    double timeout;
    flrq_backend *be;
    flrq_comm *base, *comm;
    flrq_status opened;
    const char *id; /* for groups without a base */
    pthread_barrier_t *barrier;
};

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        flrq_status status_ = (call);                                                                                  \
        if (status_ != FLRQ_OK) {                                                                                      \
            fprintf(stderr, "worker %d of %d: %s: %s\n", w->rank, w->size, #call, flrq_last_error());                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: worker %d of %d: %s; last error: %s\n", __FILE__, __LINE__, w->rank, w->size,      \
                    #condition, flrq_last_error());                                                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static void *work(void *arg) {
    worker *w = arg;
    char name[32];
    snprintf(name, sizeof name, "%s:%d", kind, w->rank);
    MUST(flrq_backend_open(&w->be, name, 1));
    if (w->id && w->rank == 0) MUST(w->be->link_id(w->be, (char *)(uintptr_t)w->id));
    pthread_barrier_wait(w->barrier);
    w->opened = flrq_comm_nccl(&w->comm, w->base, w->be, w->id, w->rank, w->size, w->timeout, NULL, NULL);
    w->run(w);
    flrq_backend_close(w->be);
    return NULL;
}

static void run_group(int size, int with_base, double timeout, worker_fn run) {
    static const char *const places[MOST] = {"dev:0", "dev:1", "dev:2", "dev:3", "dev:4", "dev:5", "dev:6", "dev:7"};
    flrq_comm *bases[MOST] = {0};
    worker workers[MOST];
    char id[FLRQ_LINK_ID_BYTES] = {0};
    pthread_barrier_t barrier;
    if (with_base) assert_int_equal(flrq_comm_local(bases, size, places, timeout), FLRQ_OK);
    assert_int_equal(pthread_barrier_init(&barrier, NULL, (unsigned)size), 0);
    for (int r = 0; r < size; r++) {
        workers[r] = (worker){.run = run, .rank = r, .size = size, .timeout = timeout, .base = bases[r]};
        workers[r].id = with_base ? NULL : id;
        workers[r].barrier = &barrier;
        assert_int_equal(pthread_create(&workers[r].thread, NULL, work, &workers[r]), 0);
    }
    for (int r = 0; r < size; r++) pthread_join(workers[r].thread, NULL);
    pthread_barrier_destroy(&barrier);
}

static void close_comm(worker *w) {
    flrq_comm_close(w->comm);
}

static void sleep_seconds(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* ---- the suite --------------------------------------------------------------------------------------------------- */

static void suite(worker *w) {
    CHECK(w->opened == FLRQ_OK);
    comm_suite(w->comm, w->be);
    close_comm(w);
}

static void with_a_base(void **state) {
    for (int i = 0; sizes[i]; i++) run_group(sizes[i], 1, 300, suite);
}

static void without_a_base(void **state) {
    for (int i = 0; sizes[i]; i++) run_group(sizes[i], 0, 300, suite);
}

/* Gathers of both kinds and transfers take turns, more than once in flight; every one arrives. */
static void mixed(worker *w) {
    enum { ROUNDS = 6, PART = 50000 };
    size_t all = (size_t)w->size * PART, first[MOST + 1];
    unsigned char *host = malloc(all), *d[ROUNDS];
    for (int r = 0; r <= w->size; r++) first[r] = (size_t)r * PART;
    for (int i = 0; i < ROUNDS; i++) {
        MUST(w->be->alloc(w->be, (void **)&d[i], all, "a test"));
        memset(host, w->rank * 16 + i + 1, PART);
        MUST(w->be->upload(w->be, d[i] + (size_t)w->rank * PART, host, PART));
        if (i % 3 == 2) {
            int next = (w->rank + 1) % w->size, before = (w->rank + w->size - 1) % w->size;
            unsigned char *to = d[i] + (size_t)before * PART;
            flrq_transfer send = {next, d[i] + (size_t)w->rank * PART, PART}, receive = {before, to, PART};
            MUST(w->comm->transfer(w->comm, w->be, &send, 1, &receive, 1));
        } else if (i % 3 == 1) {
            MUST(w->comm->gather(w->comm, w->be, d[i], first));
        } else {
            MUST(w->comm->gather_begin(w->comm, w->be, d[i], first));
        }
    }
    MUST(w->comm->gather_end(w->comm, w->be));
    for (int i = 0; i < ROUNDS; i++) {
        MUST(w->be->download(w->be, host, d[i], all));
        for (int r = 0; r < w->size; r++)
            if (i % 3 != 2 || r == w->rank || r == (w->rank + w->size - 1) % w->size)
                for (size_t k = 0; k < PART; k++) CHECK(host[(size_t)r * PART + k] == r * 16 + i + 1);
        w->be->release(w->be, d[i]);
    }
    free(host);
    close_comm(w);
}

static void in_flight_together(void **state) {
    for (int i = 0; sizes[i]; i++) run_group(sizes[i], 1, 300, mixed);
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* What is under way when another worker fails: a gather beside the ops, one among them, and a copy on a lane that waits
 * for it. */
typedef struct under_way {
    char *d_all;
    void *pinned;
    flrq_lane *lane;
    uint64_t ticket;
} under_way;

enum { PART = 30000 };

static under_way start(worker *w) {
    under_way u;
    size_t first[MOST + 1], all = (size_t)w->size * PART;
    for (int r = 0; r <= w->size; r++) first[r] = (size_t)r * PART;
    MUST(w->be->alloc(w->be, (void **)&u.d_all, 2 * all, "a test"));
    MUST(w->be->host_alloc(w->be, &u.pinned, all, "a test"));
    MUST(w->be->zero(w->be, u.d_all, 2 * all));
    MUST(w->be->lane_open(w->be, &u.lane));
    MUST(w->comm->gather_begin(w->comm, w->be, u.d_all, first));
    MUST(w->comm->gather(w->comm, w->be, u.d_all + all, first));
    MUST(w->be->lane_after_ops(u.lane));
    MUST(w->be->lane_download(u.lane, u.pinned, u.d_all, all, &u.ticket));
    return u;
}

/* Nothing of this may hang. */
static void clean_up(worker *w, under_way *u) {
    w->be->lane_close(u->lane);
    w->be->host_release(w->be, u->pinned);
    w->be->release(w->be, u->d_all);
    close_comm(w);
}

static void expect(worker *w, flrq_status status, flrq_status wanted, const char *text) {
    CHECK(status == wanted);
    CHECK(strstr(flrq_last_error(), text));
}

static void fails_on_the_device(worker *w) {
    CHECK(w->opened == FLRQ_OK);
    flrq_comm_doing(w->comm, 4, "quantize");
    char who[128];
    snprintf(who, sizeof who, "worker %d of %d (dev:%d), block 4, quantize: disk full", w->size - 1, w->size,
             w->size - 1);
    if (w->rank == w->size - 1) {
        sleep_seconds(0.3);
        flrq_comm_fail(w->comm, FLRQ_ERR_IO, "disk full");
        close_comm(w);
        return;
    }
    under_way u = start(w);
    /* Whichever wait comes first hears it: of an op, of a lane, of memory that is given back. */
    if (w->rank % 3 == 0) expect(w, w->be->sync(w->be), FLRQ_ERR_IO, who);
    if (w->rank % 3 == 1) expect(w, w->be->lane_wait(u.lane, u.ticket), FLRQ_ERR_IO, who);
    CHECK(w->rank % 3 == 2 || w->be->sync(w->be) != FLRQ_OK); /* and it stays: the bytes did not arrive */
    clean_up(w, &u);
}

static void a_failure_ends_waits_for_devices(void **state) {
    for (int i = 0; sizes[i]; i++)
        if (sizes[i] > 1) run_group(sizes[i], 1, 300, fails_on_the_device);
}

static void suite_failure(worker *w) {
    comm_suite_failure(w->comm, w->be);
    close_comm(w);
}

static void suite_missing(worker *w) {
    comm_suite_missing(w->comm, w->be);
    close_comm(w);
}

static void suite_leaving(worker *w) {
    if (!comm_suite_leaving(w->comm, w->be)) close_comm(w);
}

static void failures_on_the_host(void **state) {
    for (int i = 0; sizes[i]; i++) {
        if (sizes[i] == 1) continue;
        run_group(sizes[i], 1, 300, suite_failure);
        run_group(sizes[i], 1, 0.5, suite_missing);
        run_group(sizes[i], 1, 300, suite_leaving);
    }
}

/* The last worker does not come to a gather; with a base and without. */
static void never_comes(worker *w) {
    CHECK(w->opened == FLRQ_OK);
    if (w->rank == w->size - 1) {
        sleep_seconds(3 * w->timeout);
        if (w->base) expect(w, w->comm->check(w->comm), FLRQ_ERR_PEER, "waited");
        flrq_comm_fail(w->comm, FLRQ_ERR_INTERNAL, "too late");
        close_comm(w);
        return;
    }
    under_way u = start(w);
    flrq_status status = w->be->sync(w->be);
    expect(w, status, FLRQ_ERR_PEER, "");
    CHECK(strstr(flrq_last_error(), "waited") || strstr(flrq_last_error(), "NCCL"));
    flrq_comm_fail(w->comm, status, flrq_last_error());
    clean_up(w, &u);
}

static void time_outs(void **state) {
    for (int i = 0; sizes[i]; i++)
        for (int with_base = 0; with_base < 2; with_base++)
            if (sizes[i] > 1) run_group(sizes[i], with_base, 1, never_comes);
}

/* The last worker does not come to the link at all. */
static void joins_late(worker *w) {
    CHECK(w->opened == FLRQ_ERR_PEER && !w->comm);
}

static void nobody_to_join(void **state) {
    char id[FLRQ_LINK_ID_BYTES];
    pthread_barrier_t barrier;
    assert_int_equal(pthread_barrier_init(&barrier, NULL, 1), 0);
    worker alone = {.run = joins_late, .rank = 0, .size = 2, .timeout = 0.5, .id = id, .barrier = &barrier};
    work(&alone);
    pthread_barrier_destroy(&barrier);
}

/* ---- the watch --------------------------------------------------------------------------------------------------- */

typedef struct observed {
    int calls, end_at;
} observed;

static flrq_status observe(void *user) {
    observed *o = user;
    return ++o->calls == o->end_at ? flrq_fail(FLRQ_ERR_BUSY, "the watch ends it") : FLRQ_OK;
}

static void watched(worker *w) {
    observed o = {.end_at = 5};
    if (w->rank == 1) { /* comes when the other has been ended */
        while (w->comm->check(w->comm) == FLRQ_OK) sleep_seconds(0.02);
        expect(w, w->comm->check(w->comm), FLRQ_ERR_BUSY, "the watch ends it");
        close_comm(w);
        return;
    }
    MUST(w->be->sync(w->be));
    w->comm->watch = observe, w->comm->watch_user = &o;
    under_way u = start(w);
    flrq_status status = w->be->sync(w->be);
    expect(w, status, FLRQ_ERR_BUSY, "the watch ends it");
    CHECK(o.calls == 5);
    flrq_comm_fail(w->comm, status, flrq_last_error());
    w->comm->watch = NULL;
    clean_up(w, &u);
}

static void the_watch_is_asked(void **state) {
    if (devices < 2) return;
    run_group(2, 1, 300, watched);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void misused(worker *w) {
    size_t first[] = {0, 8}, backwards[] = {8, 0};
    char id[FLRQ_LINK_ID_BYTES];
    flrq_backend *other;
    void *d;
    MUST(w->be->alloc(w->be, &d, 8, "a test"));
    MUST(w->be->link_id(w->be, id));
    expect(w, w->be->link_open(w->be, id, 0, 1), FLRQ_ERR_INTERNAL, "a second link");
    expect(w, w->be->link_gather(w->be, d, backwards, 0), FLRQ_ERR_INTERNAL, "not in order");
    MUST(flrq_backend_open(&other, "cpu", 1));
    flrq_comm *comm;
    expect(w, flrq_comm_nccl(&comm, NULL, other, id, 0, 1, 1, NULL, NULL), FLRQ_ERR_UNSUPPORTED, "cannot be linked");
    expect(w, w->comm->gather(w->comm, other, d, first), FLRQ_ERR_INTERNAL, "not linked");
    flrq_backend_close(other);
    close_comm(w);
    expect(w, w->be->link_gather(w->be, d, first, 0), FLRQ_ERR_INTERNAL, "no link");
    expect(w, w->be->link_open(w->be, id, 1, 1), FLRQ_ERR_INTERNAL, "worker 1 of 1");
    memset(id, 'x', sizeof id);
    CHECK(flrq_comm_nccl(&comm, NULL, w->be, NULL, 0, 1, 1, NULL, NULL) == FLRQ_ERR_INTERNAL);
    CHECK(w->be->upload(w->be, d, "12345678", 8) == FLRQ_OK); /* the device is as good as before */
    w->be->release(w->be, d);
}

static void misuse(void **state) {
    run_group(1, 1, 300, misused);
}

/* ---- every call of the library fails once -------------------------------------------------------------------------
 */

static void disturbed(worker *w) {
    size_t first[MOST + 1];
    void *d = NULL;
    char sum[MOST] = {0};
    for (int r = 0; r <= w->size; r++) first[r] = (size_t)r * 1000 + (r > 1);
    if (w->opened != FLRQ_OK) {
        CHECK(flrq_last_error()[0]);
        flrq_comm_fail(w->base, w->opened, flrq_last_error());
        flrq_comm_close(w->base);
        return;
    }
    flrq_transfer send = {(w->rank + 1) % w->size, NULL, 100}, receive = {(w->rank + w->size - 1) % w->size, NULL, 100};
    flrq_status status = w->be->alloc(w->be, &d, 10000, "a test");
    if (status == FLRQ_OK) status = w->be->zero(w->be, d, 10000);
    send.d_data = d, receive.d_data = (char *)d + 5000;
    if (status == FLRQ_OK) status = w->comm->gather_begin(w->comm, w->be, d, first);
    if (status == FLRQ_OK) status = w->comm->transfer(w->comm, w->be, &send, 1, &receive, 1);
    if (status == FLRQ_OK) status = w->comm->gather_end(w->comm, w->be);
    if (status == FLRQ_OK) status = w->be->sync(w->be);
    if (status == FLRQ_OK) status = w->comm->gather_host(w->comm, sum, 1);
    if (status != FLRQ_OK) {
        CHECK(flrq_last_error()[0]);
        flrq_comm_fail(w->comm, status, flrq_last_error());
    }
    w->be->release(w->be, d);
    close_comm(w);
}

static void every_call_fails_once(void **state) {
    char path[4096];
    snprintf(path, sizeof path, "%s/libflrq_cudasim.so", getenv("FLRQ_PLUGINS") ? getenv("FLRQ_PLUGINS") : ".");
    void *plugin = strcmp(kind, "cudasim") ? NULL : dlopen(path, RTLD_NOW);
    void (*fail_at)(long, int) = plugin ? (void (*)(long, int))dlsym(plugin, "cudasim_fail_at") : NULL;
    long (*calls)(int) = plugin ? (long (*)(int))dlsym(plugin, "cudasim_calls") : NULL;
    long (*live)(void) = plugin ? (long (*)(void))dlsym(plugin, "cudasim_live_objects") : NULL;
    if (!fail_at || devices < 3) return;
    enum { LIBRARIES = 2, BEFORE = 3 * 6 }; /* calls that open three backends */
    int met = 0;
    for (long n = 1;; n++) {
        fail_at(n < 1 ? 1 : n + BEFORE, LIBRARIES);
        run_group(3, 1, 300, disturbed);
        long seen = calls(LIBRARIES);
        fail_at(0, 0);
        assert_int_equal(live(), 0);
        if (seen < n + BEFORE) break;
        met++;
    }
    assert_true(met >= 3 * 8); /* join, and three calls with their groups, on three workers */
    dlclose(plugin);
}

int main(void) {
    const char *device = getenv("FLRQ_TEST_DEVICE");
    if (!device || !strncmp(device, "cpu", 3)) {
        printf("FLRQ_TEST_DEVICE names no device with links; skipped\n");
        return 77;
    }
    if (flrq_backend_devices(device, kind, &devices) != FLRQ_OK || devices < 1) {
        printf("%s\n", flrq_last_error());
        return 1;
    }
    if (devices > MOST) devices = MOST;
    static const int small[] = {1, 2, 3, 8};
    int count = 0;
    if (strcmp(kind, "cudasim")) {
        sizes[count++] = devices;
    } else {
        for (size_t i = 0; i < sizeof small / sizeof *small; i++)
            if (small[i] <= devices) sizes[count++] = small[i];
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_a_base),
        cmocka_unit_test(without_a_base),
        cmocka_unit_test(in_flight_together),
        cmocka_unit_test(a_failure_ends_waits_for_devices),
        cmocka_unit_test(failures_on_the_host),
        cmocka_unit_test(time_outs),
        cmocka_unit_test(nobody_to_join),
        cmocka_unit_test(the_watch_is_asked),
        cmocka_unit_test(misuse),
        cmocka_unit_test(every_call_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
