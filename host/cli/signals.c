/* signals.c - the polite and the impolite way to end a run.
 *
 * The first SIGINT or SIGTERM asks the library to stop at the next safe point and says so; from then on both signals
 * have their default action, so a second one ends the program at once (the state on disk stays resumable: that is the
 * library's promise, not this file's). Only async-signal-safe calls in the handler.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static const int handled[] = {SIGINT, SIGTERM};
enum { HANDLED = sizeof handled / sizeof handled[0] };
static struct sigaction previous[HANDLED];
static const char *stop_message = "";

static void request_stop(int number) {
    int saved = errno;
    for (int i = 0; i < HANDLED; i++) {
        struct sigaction present;
        if (sigaction(handled[i], NULL, &present) == 0 && present.sa_handler == request_stop)
            signal(handled[i], SIG_DFL);
    }
    flrq_request_stop();
    ssize_t written = write(STDERR_FILENO, stop_message, strlen(stop_message));
    (void)written; /* a closed log is no reason to do anything else */
    (void)number;
    errno = saved;
}

void cli_signals_install(const char *message) {
    struct sigaction action = {.sa_handler = request_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < HANDLED; i++) sigaddset(&action.sa_mask, handled[i]);
    stop_message = message;
    for (int i = 0; i < HANDLED; i++) {
        sigaction(handled[i], NULL, &previous[i]);
        /* nohup and background jobs of a script ignore SIGINT on purpose. */
        if (previous[i].sa_handler != SIG_IGN) sigaction(handled[i], &action, NULL);
    }
}

void cli_signals_restore(void) {
    for (int i = 0; i < HANDLED; i++) sigaction(handled[i], &previous[i], NULL);
}
