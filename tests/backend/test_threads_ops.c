/* test_threads_ops.c - several devices at once: the op cases in three threads, each with a device of its own. What one
 * does may not show in another's results. FLRQ_TEST_DEVICE names the kind of device; skipped where there are not three.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>

#include "backend/optable.h"

enum { WORKERS = 3 };

static char kind[16];

typedef struct worker {
    pthread_t thread;
    int rank, failed;
} worker;

/* Two tables each, in another order, so that different ops meet. */
static void *work(void *arg) {
    const op_table *const tables[WORKERS] = {&ops_small, &ops_forward, &ops_quant};
    worker *w = arg;
    char device[32];
    snprintf(device, sizeof device, "%s:%d", kind, w->rank);
    for (int i = 0; i < 2; i++) w->failed += op_table_test(tables[(w->rank + i) % WORKERS], device);
    return NULL;
}

static void three_at_once(void **state) {
    worker workers[WORKERS];
    for (int r = 0; r < WORKERS; r++) {
        workers[r] = (worker){.rank = r};
        assert_int_equal(pthread_create(&workers[r].thread, NULL, work, &workers[r]), 0);
    }
    for (int r = 0; r < WORKERS; r++) pthread_join(workers[r].thread, NULL);
    for (int r = 0; r < WORKERS; r++) assert_int_equal(workers[r].failed, 0);
}

int main(void) {
    int devices = 0;
    if (flrq_backend_devices(op_test_device(), kind, &devices) != FLRQ_OK || devices < WORKERS) {
        printf("device %s: %d devices, three are wanted; skipped\n", op_test_device(), devices);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(three_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
