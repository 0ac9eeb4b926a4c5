/* process.c - posix_spawn() with two pipes and a time limit. Spawning does not copy the address space, which in a run
 * may be hundreds of gigabytes of page-locked memory.
 */
#include "io/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { KEPT_BYTES = 1 << 20, READ_BYTES = 4096 };

/* One stream of the program while it runs. */
typedef struct stream {
    int fd; /* -1 at its end */
    char *text;
    size_t bytes;
} stream;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Takes what the stream has now. What exceeds KEPT_BYTES is read and dropped, so that the program does not block. */
static flrq_status drain(stream *s) {
    char buffer[READ_BYTES];
    ssize_t n = read(s->fd, buffer, sizeof buffer);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return FLRQ_OK;
    if (n <= 0) {
        close(s->fd);
        s->fd = -1;
        return FLRQ_OK;
    }
    if (s->bytes + (size_t)n > KEPT_BYTES) return FLRQ_OK;
    char *longer = realloc(s->text, s->bytes + (size_t)n + 1);
    if (!longer) return flrq_fail_memory(s->bytes + (size_t)n + 1, "the output of a program");
    memcpy(longer + s->bytes, buffer, (size_t)n);
    s->text = longer;
    s->bytes += (size_t)n;
    s->text[s->bytes] = '\0';
    return FLRQ_OK;
}

/* Until both streams end, or `end` on the clock. */
static flrq_status listen_to(stream s[2], const char *name, double end, double seconds) {
    while (s[0].fd >= 0 || s[1].fd >= 0) {
        struct pollfd fds[2] = {{s[0].fd, POLLIN, 0}, {s[1].fd, POLLIN, 0}}; /* poll() leaves out fd -1 */
        double left = end - now();
        if (left <= 0) return flrq_fail(FLRQ_ERR_IO, "%s did not end within %g s", name, seconds);
        int ready = poll(fds, 2, left < 1 ? (int)(1000 * left) + 1 : 1000);
        if (ready < 0 && errno != EINTR) return flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be listened to", name);
        for (int i = 0; i < 2 && ready > 0; i++)
            if (s[i].fd >= 0 && fds[i].revents) FLRQ_TRY(drain(&s[i]));
    }
    return FLRQ_OK;
}

/* Waits for the end of a program that has closed its streams, or kills it. */
static flrq_status reap(pid_t pid, int *code, const char *name, double end, double seconds) {
    int state = 0;
    pid_t ended;
    while ((ended = waitpid(pid, &state, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
        if (now() >= end) {
            kill(pid, SIGKILL);
            while (waitpid(pid, &state, 0) < 0 && errno == EINTR) {
            }
            return flrq_fail(FLRQ_ERR_IO, "%s did not end within %g s", name, seconds);
        }
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
    if (ended < 0) return flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be waited for", name);
    *code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    return FLRQ_OK;
}

/* Signals that the program ignores or blocks are not this one's affair: a child starts with the defaults. */
static int spawn(pid_t *pid, const char *const *argv, int out, int err) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    int error = posix_spawnp(pid, argv[0], &actions, &attributes, (char *const *)argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

flrq_status flrq_process_run(flrq_process *result, const char *const *argv, double seconds) {
    memset(result, 0, sizeof *result);
    int pipes[2][2];
    pid_t pid;
    double end = now() + seconds;
    if (pipe2(pipes[0], O_CLOEXEC) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "%s: no pipe", argv[0]);
    if (pipe2(pipes[1], O_CLOEXEC) != 0) {
        flrq_status status = flrq_fail_errno(FLRQ_ERR_IO, "%s: no pipe", argv[0]);
        close(pipes[0][0]);
        close(pipes[0][1]);
        return status;
    }
    stream s[2] = {{pipes[0][0], calloc(1, 1), 0}, {pipes[1][0], calloc(1, 1), 0}};
    int error = s[0].text && s[1].text ? spawn(&pid, argv, pipes[0][1], pipes[1][1]) : ENOMEM;
    close(pipes[0][1]);
    close(pipes[1][1]);
    flrq_status status;
    if (error == ENOENT)
        status = flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: not found in PATH", argv[0]);
    else if (error)
        status = flrq_fail(FLRQ_ERR_IO, "%s: cannot be run: %s", argv[0], strerror(error));
    else {
        status = listen_to(s, argv[0], end, seconds);
        if (status == FLRQ_OK)
            status = reap(pid, &result->code, argv[0], end, seconds);
        else
            (void)reap(pid, &result->code, argv[0], 0, seconds); /* its text says the same */
    }
    for (int i = 0; i < 2; i++)
        if (s[i].fd >= 0) close(s[i].fd);
    result->out = s[0].text, result->err = s[1].text;
    if (status != FLRQ_OK) flrq_process_free(result);
    return status;
}

void flrq_process_free(flrq_process *result) {
    free(result->out);
    free(result->err);
    memset(result, 0, sizeof *result);
}
