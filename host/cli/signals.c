/* signals.c - the polite and the impolite way to end a run.
 *
 * The first SIGINT or SIGTERM asks the library to stop at the next safe point and says so; from then on they have their
 * default action, so a second one ends the program at once (the state on disk stays resumable: that is the library's
 * promise, not this file's). SIGUSR1 and SIGUSR2 are what batch systems send before a time limit.
 *
 * Launchers send the same request more than once: Slurm to every task, and srun once more for the signal that it got
 * itself. There the handler stays for two seconds, in which further requests are the same one. Only async-signal-safe
 * calls in the handler.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

static const int handled[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
enum { HANDLED = sizeof handled / sizeof handled[0] };
static struct sigaction previous[HANDLED];
static const char *stop_message = "";
static int is_launched;                /* by srun or mpirun */
static volatile sig_atomic_t stopping; /* the first request has come */
static struct timespec first_request;  /* written before `stopping` is set, in the handler alone */
enum { SAME_REQUEST_SECONDS = 2 };

static void request_stop(int number);

/* From now on the handled signals end the program. */
static void take_default(void) {
    for (int i = 0; i < HANDLED; i++) {
        struct sigaction present;
        if (sigaction(handled[i], NULL, &present) == 0 && present.sa_handler == request_stop)
            signal(handled[i], SIG_DFL);
    }
}

static void request_stop(int number) {
    int saved = errno;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (stopping) {
        if (now.tv_sec - first_request.tv_sec >= SAME_REQUEST_SECONDS) {
            take_default();
            raise(number); /* pending until this handler returns */
        }
        errno = saved;
        return;
    }
    first_request = now;
    stopping = 1;
    if (!is_launched) take_default();
    flrq_request_stop();
    ssize_t written = write(STDERR_FILENO, stop_message, strlen(stop_message));
    (void)written; /* a closed log is no reason to do anything else */
    errno = saved;
}

void cli_signals_install(const char *message) {
    struct sigaction action = {.sa_handler = request_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < HANDLED; i++) sigaddset(&action.sa_mask, handled[i]);
    stop_message = message;
    stopping = 0;
    is_launched = cli_is_launched();
    for (int i = 0; i < HANDLED; i++) {
        sigaction(handled[i], NULL, &previous[i]);
        /* nohup and background jobs of a script ignore SIGINT on purpose. */
        if (previous[i].sa_handler != SIG_IGN) sigaction(handled[i], &action, NULL);
    }
}

/* A launched task that was asked to stop goes on listening to the end: the same request may still be on its way. */
void cli_signals_restore(void) {
    if (is_launched && stopping) return;
    for (int i = 0; i < HANDLED; i++) sigaction(handled[i], &previous[i], NULL);
}
