/* parallel.c - tasks over OpenMP. */
#include "core/parallel.h"

#include <omp.h>

void flrq_parallel_for(int threads, int64_t count, flrq_task_fn fn, void *arg) {
    if (threads > count) threads = (int)count;
    if (threads <= 1) {
        for (int64_t i = 0; i < count; i++) fn(arg, i, 0);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < count; i++) fn(arg, i, omp_get_thread_num());
}

int flrq_hardware_threads(void) {
    int threads = omp_get_max_threads();
    return threads > 0 ? threads : 1;
}
