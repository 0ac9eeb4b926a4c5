/* test_comm.c - communicators within one process: a single worker, and threads. The suite that all communicators share,
 * their failures, and what only threads can do wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backend/comm_suite.h"

enum { SIZE_MAX_TESTED = 8 };

typedef void (*worker_fn)(flrq_comm *comm, flrq_backend *be);

typedef struct worker {
    pthread_t thread;
    flrq_comm *comm;
    worker_fn run;
} worker;

static void *work(void *arg) {
    worker *w = arg;
    flrq_backend *be;
    assert_int_equal(flrq_backend_open(&be, "cpu", 1), FLRQ_OK);
    w->run(w->comm, be);
    flrq_backend_close(be);
    return NULL;
}

/* A worker of every size in `sizes` (ends with 0) runs `run`, which closes its communicator. */
static void in_threads(const int *sizes, double timeout, worker_fn run) {
    static const char *const places[SIZE_MAX_TESTED] = {"cpu",   "cpu:1", "cpu:2", "cpu:3",
                                                        "cpu:4", "cpu:5", "cpu:6", "cpu:7"};
    for (; *sizes; sizes++) {
        flrq_comm *comms[SIZE_MAX_TESTED];
        worker workers[SIZE_MAX_TESTED];
        assert_int_equal(flrq_comm_local(comms, *sizes, places, timeout), FLRQ_OK);
        for (int rank = 0; rank < *sizes; rank++) {
            workers[rank] = (worker){.comm = comms[rank], .run = run};
            assert_int_equal(pthread_create(&workers[rank].thread, NULL, work, &workers[rank]), 0);
        }
        for (int rank = 0; rank < *sizes; rank++) pthread_join(workers[rank].thread, NULL);
    }
}

/* ---- the suite --------------------------------------------------------------------------------------------------- */

static void one_worker(void **state) {
    flrq_backend *be;
    assert_int_equal(flrq_backend_open(&be, "cpu", 1), FLRQ_OK);
    comm_suite(flrq_comm_self(), be);
    flrq_comm_close(flrq_comm_self());
    flrq_comm_close(NULL);
    flrq_backend_close(be);
}

static void suite(flrq_comm *comm, flrq_backend *be) {
    comm_suite(comm, be);
    flrq_comm_close(comm);
}

static void threads(void **state) {
    in_threads((const int[]){1, 2, 3, 5, 8, 0}, 300, suite);
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

static const int several[] = {2, 3, 8, 0};

static void failure(flrq_comm *comm, flrq_backend *be) {
    comm_suite_failure(comm, be);
    assert_int_equal(comm->check(comm), FLRQ_ERR_NUMERIC);
    if (comm->rank == 0) { /* the next call hears it too */
        assert_int_equal(flrq_comm_barrier(comm), FLRQ_ERR_NUMERIC);
        assert_non_null(strstr(flrq_last_error(), "tensor x: not finite"));
    }
    flrq_comm_close(comm);
}

static void a_failure_reaches_all(void **state) {
    in_threads(several, 300, failure);
}

static void missing(flrq_comm *comm, flrq_backend *be) {
    comm_suite_missing(comm, be);
    assert_non_null(strstr(flrq_last_error(), "block 7, sketch"));
    flrq_comm_close(comm);
}

static void a_worker_that_does_not_come_is_named(void **state) {
    in_threads(several, 0.3, missing);
}

static void leaving(flrq_comm *comm, flrq_backend *be) {
    if (!comm_suite_leaving(comm, be)) flrq_comm_close(comm);
}

static void a_worker_that_leaves_is_named(void **state) {
    in_threads(several, 300, leaving);
}

/* Nobody comes but the first: it names those that are missing, at most four, and all hear it. */
static void first_only(flrq_comm *comm, flrq_backend *be) {
    struct timespec second = {1, 0};
    if (comm->rank) nanosleep(&second, NULL);
    assert_int_equal(flrq_comm_barrier(comm), FLRQ_ERR_PEER);
    assert_non_null(strstr(flrq_last_error(), "worker 1 of 8 (cpu:1); worker 2 of 8 (cpu:2); worker 3 of 8 "));
    assert_non_null(strstr(flrq_last_error(), "; and 3 more, have not come for 0.2 s"));
    flrq_comm_close(comm);
}

static void many_missing(void **state) {
    in_threads((const int[]){8, 0}, 0.2, first_only);
}

/* A group whose workers do different things says so to all. */
static void different_calls(flrq_comm *comm, flrq_backend *be) {
    char data[64] = {0};
    flrq_status status = comm->rank == 1 ? comm->broadcast_host(comm, data, 8, 0) : comm->gather_host(comm, data, 8);
    assert_int_equal(status, FLRQ_ERR_INTERNAL);
    assert_non_null(strstr(flrq_last_error(), "do not do the same"));
    flrq_comm_close(comm);
}

static void different_parts(flrq_comm *comm, flrq_backend *be) {
    char data[64] = {0};
    size_t first[] = {0, comm->rank == 0 ? 8 : 9, 16};
    assert_int_equal(comm->gather(comm, be, data, first), FLRQ_ERR_INTERNAL);
    assert_non_null(strstr(flrq_last_error(), "disagree"));
    flrq_comm_close(comm);
}

static void different_pieces(flrq_comm *comm, flrq_backend *be) {
    char data[64] = {0};
    flrq_transfer to = {1 - comm->rank, data, 8}, from = {1 - comm->rank, data + 32, comm->rank ? 8 : 7};
    assert_int_equal(comm->transfer(comm, be, &to, 1, &from, 1), FLRQ_ERR_INTERNAL);
    assert_non_null(strstr(flrq_last_error(), "disagree"));
    flrq_comm_close(comm);
}

static void workers_that_differ(void **state) {
    in_threads((const int[]){2, 3, 0}, 300, different_calls);
    in_threads((const int[]){2, 0}, 300, different_parts);
    in_threads((const int[]){2, 0}, 300, different_pieces);
}

/* A failure of a copy, here of a device that is gone, ends the call of all. */
static flrq_status no_copy(flrq_backend *be, void *d_to, const void *d_from, size_t bytes) {
    return flrq_fail(FLRQ_ERR_INTERNAL, "the device is gone");
}

static void failing_copy(flrq_comm *comm, flrq_backend *be) {
    char data[64] = {0};
    size_t first[] = {0, 8, 16, 24};
    if (comm->rank == 1) be->copy = no_copy;
    for (int call = 0; call < 2; call++) {
        assert_int_equal(comm->gather(comm, be, data, first), FLRQ_ERR_INTERNAL);
        assert_non_null(strstr(flrq_last_error(), "the device is gone"));
    }
    flrq_comm_close(comm);
}

static void a_copy_that_fails(void **state) {
    in_threads((const int[]){3, 0}, 300, failing_copy);
}

/* The watch is asked while a call waits, and ends it. */
static flrq_status watch_that_fails(void *user) {
    ++*(int *)user;
    return flrq_fail(FLRQ_ERR_PEER, "the watch has seen it");
}

static void watched(flrq_comm *comm, flrq_backend *be) {
    struct timespec second = {1, 0};
    int calls = 0;
    if (comm->rank == 0) {
        comm->watch = watch_that_fails;
        comm->watch_user = &calls;
    } else {
        nanosleep(&second, NULL);
    }
    assert_int_equal(flrq_comm_barrier(comm), FLRQ_ERR_PEER);
    assert_non_null(strstr(flrq_last_error(), "the watch has seen it"));
    assert_int_equal(calls, comm->rank == 0);
    flrq_comm_close(comm);
}

static void a_watch_ends_the_wait(void **state) {
    in_threads((const int[]){2, 0}, 300, watched);
}

/* Memory that threads cannot reach is refused, not read. */
static flrq_status no_link(flrq_backend *be, const void *id, int rank, int size) {
    return FLRQ_OK;
}

static void memory_of_a_device(flrq_comm *comm, flrq_backend *be) {
    size_t first[] = {0, 0};
    be->link_open = no_link;
    assert_int_equal(comm->gather(comm, be, NULL, first), FLRQ_ERR_INTERNAL);
    assert_int_equal(comm->gather_begin(comm, be, NULL, first), FLRQ_ERR_INTERNAL);
    assert_int_equal(comm->transfer(comm, be, NULL, 0, NULL, 0), FLRQ_ERR_INTERNAL);
    flrq_comm_close(comm);
}

/* A gather that was begun and never ended is freed with the communicator. */
static void begun_only(flrq_comm *comm, flrq_backend *be) {
    char data[8];
    size_t first[] = {0, 8};
    assert_int_equal(comm->gather_begin(comm, be, data, first), FLRQ_OK);
    assert_int_equal(comm->broadcast_host(comm, data, 1, 1), FLRQ_ERR_INTERNAL);
    flrq_comm_close(comm);
}

static void refusals(void **state) {
    flrq_comm *comm;
    assert_int_equal(flrq_comm_local(&comm, 0, NULL, 1), FLRQ_ERR_USAGE);
    in_threads((const int[]){1, 0}, 300, memory_of_a_device);
    in_threads((const int[]){1, 0}, 300, begun_only);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_worker),
        cmocka_unit_test(threads),
        cmocka_unit_test(a_failure_reaches_all),
        cmocka_unit_test(a_worker_that_does_not_come_is_named),
        cmocka_unit_test(a_worker_that_leaves_is_named),
        cmocka_unit_test(many_missing),
        cmocka_unit_test(workers_that_differ),
        cmocka_unit_test(a_copy_that_fails),
        cmocka_unit_test(a_watch_ends_the_wait),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
