/* comm_mpi_suite.c - one worker of a group that an MPI launcher starts; tests/backend/run_mpi.sh starts it.
 *
 * Usage: comm_mpi_suite MPI CHECK [FOLDER]
 *   MPI     openmpi, mpich
 *   CHECK   suite, failure, missing, leaving, watch, late; "refused" wants a launcher that the MPI does not know
 *   FOLDER  where each worker leaves a file rank-N when its check is passed, and waits for those of all others: after a
 *           failure the launcher ends the workers that remain as soon as one of them ends.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/comm_suite.h"

static void wants(int right, const char *what) {
    if (right) return;
    fprintf(stderr, "comm_mpi_suite: %s: %s\n", what, flrq_last_error());
    abort();
}

static int is_there(const char *folder, int rank, int create) {
    char path[1024];
    snprintf(path, sizeof path, "%s/rank-%d", folder, rank);
    int file = create ? open(path, O_CREAT | O_WRONLY, 0600) : open(path, O_RDONLY);
    if (file >= 0) close(file);
    return file >= 0;
}

/* Says that this worker has passed; returns when all have, or after 20 s. */
static void passed(const char *folder, int rank, int size) {
    struct timespec nap = {0, 20000000};
    wants(is_there(folder, rank, 1), "no file in the folder");
    for (int turn = 0, there = 0; there < size && turn < 1000; turn++) {
        nanosleep(&nap, NULL);
        for (there = 0; there < size && is_there(folder, there, 0); there++) continue;
    }
}

/* The watch of all but the last worker, who does not come, ends their wait, at once or when the time is out; what it
 * says reaches the last one. */
static flrq_status watch_sees(void *user) {
    ++*(int *)user;
    return flrq_fail(FLRQ_ERR_PEER, "the watch has seen it");
}

static flrq_status watch_sees_nothing(void *user) {
    return FLRQ_OK;
}

static flrq_status watch_names(void *user, double seconds) {
    ++*(int *)user;
    return flrq_fail(FLRQ_ERR_PEER, "the watch has seen it after %g s", seconds);
}

static void check_watch(flrq_comm *comm, int late) {
    struct timespec seconds = {2, 0};
    int calls = 0, last = comm->rank == comm->size - 1;
    if (last) nanosleep(&seconds, NULL);
    if (!last) comm->watch = late ? watch_sees_nothing : watch_sees;
    if (!last) comm->watch_timeout = watch_names;
    comm->watch_user = &calls;
    flrq_status status = flrq_comm_barrier(comm);
    if (last && status == FLRQ_OK) status = flrq_comm_barrier(comm); /* the first may have been complete */
    wants(status == FLRQ_ERR_PEER && strstr(flrq_last_error(), "the watch has seen it"), "a watch that ends the wait");
    wants(!strstr(flrq_last_error(), "after 1 s") == !late, "the time is out");
    wants(calls <= 1, "calls of the watch after it failed");
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    const char *mpi = argv[1], *check = argv[2];
    flrq_comm *comm, *second;
    if (strcmp(check, "refused") == 0) {
        wants(flrq_comm_mpi(&comm, mpi, 60) == FLRQ_ERR_USAGE && strstr(flrq_last_error(), "does not know"), check);
        wants(flrq_comm_mpi(&comm, "lam", 60) == FLRQ_ERR_USAGE, "an unknown MPI");
        return 0;
    }
    int impatient = strcmp(check, "missing") == 0 || strcmp(check, "late") == 0;
    wants(flrq_comm_mpi(&comm, mpi, impatient ? 1 : 300) == FLRQ_OK, "joining");
    int rank = comm->rank, size = comm->size, left = 0;
    flrq_backend *be;
    wants(flrq_backend_open(&be, "cpu", 1) == FLRQ_OK, "the backend");
    if (strcmp(check, "failure") == 0)
        comm_suite_failure(comm, be);
    else if (strcmp(check, "missing") == 0)
        comm_suite_missing(comm, be);
    else if (strcmp(check, "leaving") == 0)
        left = comm_suite_leaving(comm, be);
    else if (strcmp(check, "watch") == 0 || strcmp(check, "late") == 0)
        check_watch(comm, check[0] == 'l');
    else {
        wants(flrq_comm_mpi(&second, mpi, 60) == FLRQ_ERR_USAGE, "a second group in one process");
        comm_suite(comm, be);
    }
    flrq_backend_close(be);
    if (argc > 3) passed(argv[3], rank, size);
    if (!left) flrq_comm_close(comm);
    return 0;
}
