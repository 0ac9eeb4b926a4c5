/* pty.c - runs a command on a terminal of its own, for tests of what `flrq` does there.
 *
 *   pty [-w COLUMNS] [-k SIGNAL TEXT]... COMMAND [ARGUMENT]...
 *
 * Copies everything the terminal gets to stdout, unchanged but for the line ends. Each -k sends a signal (INT, TERM,
 * USR1 or USR2) as soon as TEXT has appeared after the place where the one before was found. Exits with the command's
 * exit code, or with 128 + the signal that ended it; 99 when the test itself went wrong.
 */
#include <errno.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRIGGERS = 4, TRANSCRIPT = 1 << 20, FAULT = 99 };

typedef struct trigger {
    int signal;
    const char *text;
} trigger;

static int fault(const char *what) {
    fprintf(stderr, "pty: %s: %s\n", what, strerror(errno));
    return FAULT;
}

static int signal_named(const char *name) {
    return strcmp(name, "INT") == 0    ? SIGINT
           : strcmp(name, "USR1") == 0 ? SIGUSR1
           : strcmp(name, "USR2") == 0 ? SIGUSR2
                                       : SIGTERM;
}

int main(int argc, char **argv) {
    static char transcript[TRANSCRIPT + 1];
    trigger triggers[TRIGGERS];
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    size_t wanted = 0, sent = 0, used = 0;
    const char *searched = transcript;
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "-w") == 0 && i + 1 < argc) {
            size.ws_col = (unsigned short)atoi(argv[++i]);
        } else if (strcmp(argv[i], "-k") == 0 && i + 2 < argc && wanted < TRIGGERS) {
            triggers[wanted].signal = signal_named(argv[++i]);
            triggers[wanted++].text = argv[++i];
        } else {
            break;
        }
    }
    if (i >= argc) return fault("no command");
    int master;
    pid_t child = forkpty(&master, NULL, NULL, &size);
    if (child < 0) return fault("forkpty");
    if (child == 0) {
        signal(SIGINT, SIG_DFL); /* ctest and background jobs of sh may have it ignored */
        execv(argv[i], argv + i);
        _exit(FAULT);
    }
    for (;;) {
        ssize_t got = read(master, transcript + used, TRANSCRIPT - used);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break; /* EIO: the child closed its end */
        used += (size_t)got;
        transcript[used] = '\0';
        const char *found;
        while (sent < wanted && (found = strstr(searched, triggers[sent].text))) {
            searched = found + strlen(triggers[sent].text);
            kill(child, triggers[sent++].signal);
        }
    }
    fwrite(transcript, 1, used, stdout);
    int status;
    if (waitpid(child, &status, 0) != child) return fault("waitpid");
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
