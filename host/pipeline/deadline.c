/* deadline.c - see deadline.h. The limit is kept on the monotonic clock: a step of the wall clock does not move it. */
#include "pipeline/deadline.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/process.h"
#include "pipeline/job.h"
#include "pipeline/slurm.h"

/* squeue asks the controller, which may be busy. */
static const double ask_seconds = 20;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static double limit_time = INFINITY; /* on flrq_seconds()'s clock */
static double first_left = INFINITY; /* what was left when it was found */

static int is_number(const char *text) {
    return text && *text && text[strspn(text, "0123456789")] == '\0';
}

/* "1:02:03", or "UNLIMITED", "INVALID", "NOT_SET". */
static double ask_squeue(const char *job) {
    const char *const argv[] = {"squeue", "--noheader", "--format=%L", "--jobs", job, NULL};
    flrq_process answer;
    if (flrq_process_run(&answer, argv, ask_seconds) != FLRQ_OK) return INFINITY;
    answer.out[strcspn(answer.out, " \n")] = '\0';
    double seconds = answer.code == 0 ? flrq_slurm_seconds(answer.out) : NAN;
    flrq_process_free(&answer);
    return seconds >= 0 ? seconds : INFINITY;
}

static void find(void) {
    const char *job = getenv("SLURM_JOB_ID"), *end = getenv("SLURM_JOB_END_TIME");
    if (!is_number(job)) return;
    if (is_number(end) && strlen(end) < 16)
        first_left = fmax(0, strtod(end, NULL) - (double)time(NULL));
    else
        first_left = ask_squeue(job);
    limit_time = flrq_seconds() + first_left;
}

double flrq_seconds_left(void) {
    pthread_once(&once, find);
    return fmax(0, limit_time - flrq_seconds());
}

double flrq_stop_seconds(double limit) {
    return fmin(60, fmax(5, limit / 20));
}

int flrq_deadline_near(double block_seconds) {
    double left = flrq_seconds_left();
    return left < 1.25 * fmax(0, block_seconds) + flrq_stop_seconds(first_left);
}
