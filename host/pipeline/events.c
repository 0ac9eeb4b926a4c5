/* events.c - what a running job tells its caller, and the request to stop. */
#include "pipeline/job.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stop_requested;

void flrq_request_stop(void) {
    stop_requested = 1;
}

int flrq_stop_requested(void) {
    return stop_requested;
}

void flrq_stop_clear(void) {
    stop_requested = 0;
}

double flrq_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double flrq_rss_bytes(void) {
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%*s %lld", &pages) != 1) pages = 0;
        fclose(f);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

double flrq_peak_rss_bytes(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? 1024.0 * (double)usage.ru_maxrss : 0;
}

static flrq_event new_event(const flrq_reporter *reporter, flrq_event_kind kind) {
    flrq_event event = {.size = sizeof event, .kind = kind, .block = reporter->block, .blocks = reporter->blocks};
    event.phase = reporter->phase;
    event.device = reporter->device;
    event.elapsed_seconds = flrq_seconds() - reporter->start;
    event.eta_seconds = -1;
    event.rss_bytes = flrq_rss_bytes();
    int64_t timed = reporter->blocks_timed < 8 ? reporter->blocks_timed : 8;
    if (timed > 0 && reporter->blocks > 0) {
        double sum = 0;
        for (int64_t i = 0; i < timed; i++) sum += reporter->block_seconds[i];
        int64_t left = reporter->blocks - reporter->block + (kind == FLRQ_EVENT_BLOCK ? 0 : 1);
        event.eta_seconds = sum / (double)timed * (double)left;
    }
    return event;
}

void flrq_notice(flrq_reporter *reporter, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (reporter->notices) json_array_append_new(reporter->notices, json_string(text));
    if (!reporter->fn) return;
    flrq_event event = new_event(reporter, FLRQ_EVENT_NOTICE);
    event.text = text;
    reporter->fn(reporter->user, &event);
}

void flrq_progress(flrq_reporter *reporter, const char *phase, int64_t done, int64_t total) {
    if (!reporter->phase || strcmp(reporter->phase, phase) != 0 || done == 0) reporter->phase_start = flrq_seconds();
    reporter->phase = phase;
    if (!reporter->fn) return;
    flrq_event event = new_event(reporter, FLRQ_EVENT_PROGRESS);
    event.done = done, event.total = total;
    double seconds = flrq_seconds() - reporter->phase_start;
    if (done > 0 && seconds > 0) event.items_per_second = (double)done / seconds;
    reporter->fn(reporter->user, &event);
}

void flrq_block_done(flrq_reporter *reporter, int64_t block, double seconds, const char *text) {
    reporter->block = block;
    reporter->block_seconds[reporter->blocks_timed++ % 8] = seconds;
    if (!reporter->fn) return;
    flrq_event event = new_event(reporter, FLRQ_EVENT_BLOCK);
    event.text = text;
    reporter->fn(reporter->user, &event);
}
