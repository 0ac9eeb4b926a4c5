/* parallel.c - a small pool of threads that share the tasks of one call.
 *
 * The calling thread works too and waits only for tasks that a pool thread has begun, never for a thread that was not
 * scheduled in time: on a machine that others use as well, a barrier over all threads costs a time slice per call. One
 * call uses the pool at a time; a second caller meanwhile runs its tasks alone, with the same results.
 */
#include "core/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, SPINS = 2000 }; /* about 50 us of pauses before a pool thread sleeps */

static struct {
    pthread_mutex_t use;  /* held by the call that the pool works for */
    pthread_mutex_t lock; /* guards all below but the atomics */
    pthread_cond_t work, done;
    int threads;     /* in the pool */
    int wanted;      /* pool threads that may still join the present call */
    int joined;      /* pool threads inside it */
    int next_thread; /* number given to the next one that joins */
    flrq_task_fn fn;
    void *arg;
    int64_t count;
    atomic_llong next; /* task to take */
    atomic_uint call;  /* number of the present call */
} pool = {.use = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(flrq_task_fn fn, void *arg, int64_t count, int thread) {
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (i >= count) return;
        fn(arg, i, thread);
    }
}

static void *worker(void *unused) {
    unsigned seen = 0;
    (void)unused;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&pool.call, memory_order_relaxed) == seen; i++)
            pause_briefly();
        pthread_mutex_lock(&pool.lock);
        while (atomic_load_explicit(&pool.call, memory_order_relaxed) == seen)
            pthread_cond_wait(&pool.work, &pool.lock);
        seen = atomic_load_explicit(&pool.call, memory_order_relaxed);
        if (pool.wanted > 0) {
            pool.wanted--;
            pool.joined++;
            int thread = pool.next_thread++;
            flrq_task_fn fn = pool.fn;
            void *arg = pool.arg;
            int64_t count = pool.count;
            pthread_mutex_unlock(&pool.lock);
            take_tasks(fn, arg, count, thread);
            pthread_mutex_lock(&pool.lock);
            if (--pool.joined == 0) pthread_cond_signal(&pool.done);
        }
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

/* After fork() the child has no pool threads; it starts its own when it needs them. */
static void after_fork(void) {
    pthread_mutex_init(&pool.use, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.threads = pool.wanted = pool.joined = 0;
}

/* Called with pool.use held. Fewer threads than asked for is fine: the caller works too. */
static void grow(int threads) {
    static int registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, after_fork) == 0;
    pthread_attr_t attributes;
    if (pool.threads >= threads || pthread_attr_init(&attributes) != 0) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.threads < threads) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker, NULL) != 0) break;
        pool.threads++;
    }
    pthread_attr_destroy(&attributes);
}

void flrq_parallel_for(int threads, int64_t count, flrq_task_fn fn, void *arg) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > count) threads = (int)count;
    if (threads <= 1 || pthread_mutex_trylock(&pool.use) != 0) {
        for (int64_t i = 0; i < count; i++) fn(arg, i, 0);
        return;
    }
    grow(threads - 1);
    pthread_mutex_lock(&pool.lock);
    pool.fn = fn, pool.arg = arg, pool.count = count;
    pool.wanted = threads - 1;
    pool.next_thread = 1;
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool.call, 1, memory_order_relaxed);
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);

    take_tasks(fn, arg, count, 0);

    pthread_mutex_lock(&pool.lock);
    pool.wanted = 0; /* whoever has not joined by now is not needed */
    while (pool.joined > 0) pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.use);
}

int flrq_hardware_threads(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    long limit = text ? strtol(text, NULL, 10) : 0;
    cpu_set_t set;
    int threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (limit > 0 && limit < threads) threads = (int)limit;
    return threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
}
