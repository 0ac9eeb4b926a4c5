/* workers.c - how the workers of a quantize run come together, and what device each has.
 *
 * Either this process starts them, as threads with a device each (--workers N, or all GPUs of the machine), or a
 * launcher has: srun and mpirun start one process a worker, and the environment tells each its place. Processes with
 * GPUs meet by a roll call in OUT/.flrq and join their devices by NCCL; processes on CPUs are joined by MPI, and the
 * roll call watches over them. What all workers then do is in quantize.c.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/rollcall.h"
#include "core/parallel.h"
#include "pipeline/state.h"

/* What a launcher has started; size 1: nothing. */
typedef struct launch {
    int rank, size;
    int local_rank, local_size; /* on this machine */
    const char *mpi;            /* that joins its processes, or NULL */
    char nonce[160];            /* of this start, the same for all its processes; "" where MPI tells them one */
} launch;

/* A number in the environment; 0 when it is not there or no number. */
static int env_number(const char *name, int *out) {
    const char *text = getenv(name);
    char *end;
    long value = text ? strtol(text, &end, 10) : -1;
    if (value < 0 || value > 1 << 20 || end == text) return 0;
    *out = (int)value;
    return 1;
}

static const char *env_text(const char *name, const char *absent) {
    const char *text = getenv(name);
    return text && *text ? text : absent;
}

/* mpirun of Open MPI; of MPICH (Hydra); srun. The first two also run inside Slurm jobs, where srun starts their
 * daemons, so srun is asked last. In a batch script, which is no step, SLURM_STEP_NUM_TASKS is not set. */
static launch find_launch(void) {
    launch l = {.size = 1, .local_size = 1};
    if (env_number("OMPI_COMM_WORLD_SIZE", &l.size) && env_number("OMPI_COMM_WORLD_RANK", &l.rank) && l.size > 1) {
        env_number("OMPI_COMM_WORLD_LOCAL_RANK", &l.local_rank);
        env_number("OMPI_COMM_WORLD_LOCAL_SIZE", &l.local_size);
        l.mpi = "openmpi";
    } else if (getenv("MPI_LOCALRANKID") && env_number("PMI_SIZE", &l.size) && env_number("PMI_RANK", &l.rank) &&
               l.size > 1) {
        env_number("MPI_LOCALRANKID", &l.local_rank);
        env_number("MPI_LOCALNRANKS", &l.local_size);
        l.mpi = "mpich";
    } else if (env_number("SLURM_STEP_NUM_TASKS", &l.size) && env_number("SLURM_PROCID", &l.rank) && l.size > 1) {
        env_number("SLURM_LOCALID", &l.local_rank);
        env_number("SLURM_STEP_TASKS_PER_NODE", &l.local_size); /* "4(x2)": of the first nodes */
        l.mpi = getenv("PMIX_RANK") ? "openmpi" : getenv("PMI_RANK") ? "mpich" : NULL;
        snprintf(l.nonce, sizeof l.nonce, "slurm-%s.%s-%s", env_text("SLURM_JOB_ID", "0"),
                 env_text("SLURM_STEP_ID", "0"), env_text("SLURM_RESTART_COUNT", "0"));
    } else
        l = (launch){.size = 1, .local_size = 1};
    if (l.local_size < 1) l.local_size = 1;
    return l;
}

/* ---- one worker -------------------------------------------------------------------------------------------------- */

typedef struct worker {
    const flrq_params *params;
    flrq_reporter *reporter;
    char device[32];
    int threads;
    int rank, size, in_process;
    flrq_comm *comm;         /* joins the workers on the host, NULL: by their devices alone; closed by run_worker() */
    flrq_rollcall *rollcall; /* of processes */
    pthread_mutex_t calling; /* the roll call: threads that wait for the device ask it too */
    json_t *result;
    flrq_status status;
    pthread_t thread;
} worker;

/* The id of the devices' link where no communicator of the host can share it. */
static flrq_status share_link_id(const worker *w, flrq_backend *be, void *id) {
    memset(id, 0, FLRQ_LINK_ID_BYTES);
    if (w->rank == 0) FLRQ_TRY(be->link_id(be, id));
    return flrq_rollcall_share(w->rollcall, id, FLRQ_LINK_ID_BYTES);
}

static flrq_status watch_others(void *user) {
    worker *w = user;
    pthread_mutex_lock(&w->calling);
    flrq_status status = flrq_rollcall_watch(w->rollcall);
    pthread_mutex_unlock(&w->calling);
    return status;
}

static void tell_doing(void *user, int64_t block, const char *phase) {
    worker *w = user;
    pthread_mutex_lock(&w->calling);
    flrq_rollcall_doing(w->rollcall, block, phase);
    pthread_mutex_unlock(&w->calling);
}

static void tell_failure(void *user, flrq_status status, const char *text) {
    worker *w = user;
    pthread_mutex_lock(&w->calling);
    flrq_rollcall_fail(w->rollcall, status, text);
    pthread_mutex_unlock(&w->calling);
}

static flrq_status name_the_late(void *user, double seconds) {
    worker *w = user;
    pthread_mutex_lock(&w->calling);
    flrq_status status = flrq_rollcall_timeout(w->rollcall, seconds);
    pthread_mutex_unlock(&w->calling);
    return status;
}

static void watch(worker *w) {
    if (!w->rollcall) return;
    w->comm->watch = watch_others, w->comm->watch_user = w;
    w->comm->watch_doing = tell_doing;
    w->comm->watch_timeout = name_the_late;
    w->comm->watch_fail = tell_failure;
}

/* Joins the devices where memory is theirs. */
static flrq_status join_devices(worker *w, flrq_backend *be) {
    flrq_device_info info;
    flrq_comm *joined;
    char id[FLRQ_LINK_ID_BYTES];
    if (w->size == 1) return FLRQ_OK;
    FLRQ_TRY(be->info(be, &info));
    if (!info.separate_memory) {
        if (w->comm) return FLRQ_OK;
        return flrq_fail(
            FLRQ_ERR_USAGE,
            "%d processes on CPUs need MPI to join them: start them by mpirun, or by srun --mpi=pmix (Open "
            "MPI) or --mpi=pmi2 (MPICH)",
            w->size);
    }
    if (!be->link_open)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device %s: several workers are not supported by this plugin",
                         w->device);
    if (!w->comm) FLRQ_TRY(share_link_id(w, be, id));
    FLRQ_TRY(flrq_comm_nccl(&joined, w->comm, be, w->comm ? NULL : id, w->rank, w->size, w->params->config.peer_timeout,
                            w->rollcall ? watch_others : NULL, w));
    w->comm = joined;
    watch(w);
    return FLRQ_OK;
}

/* A failure that the others do not know of yet. */
static void tell(const worker *w, flrq_status status) {
    if (w->comm)
        flrq_comm_fail(w->comm, status, flrq_last_error());
    else if (w->rollcall)
        flrq_rollcall_fail(w->rollcall, status, flrq_last_error());
}

static void run_worker(worker *w) {
    flrq_backend *be = NULL;
    w->status = flrq_backend_open(&be, w->device, w->threads);
    if (w->status == FLRQ_OK) w->reporter->device = strchr(w->device, ':') ? w->device : be->name;
    if (w->status == FLRQ_OK) w->status = join_devices(w, be);
    if (w->status == FLRQ_OK) {
        w->comm->in_process = w->in_process;
        w->status = flrq_quantize_worker(w->params, w->reporter, be, w->comm, &w->result);
    } else
        tell(w, w->status);
    char text[2048]; /* that of the failure, not of what fails after it */
    snprintf(text, sizeof text, "%s", flrq_last_error());
    w->reporter->device = NULL;
    flrq_comm_close(w->comm);
    flrq_backend_close(be);
    w->comm = NULL;
    if (w->status != FLRQ_OK) flrq_fail(w->status, "%s", text);
}

/* ---- workers as threads of this process -------------------------------------------------------------------------- */

static void *run_thread(void *argument) {
    run_worker(argument);
    return NULL;
}

/* Runs all, the first on this thread, whose error text speaks for all: it names another worker that failed. */
static flrq_status run_threads(worker *workers, int size) {
    int started = 1;
    for (; started < size; started++) {
        int error = pthread_create(&workers[started].thread, NULL, run_thread, &workers[started]);
        if (!error) continue;
        flrq_fail(FLRQ_ERR_MEMORY, "worker %d of %d cannot be started: %s", started, size, strerror(error));
        for (int r = started; r < size; r++) {
            tell(&workers[r], FLRQ_ERR_MEMORY);
            flrq_comm_close(workers[r].comm);
        }
        break;
    }
    run_worker(&workers[0]);
    for (int r = 1; r < started; r++) pthread_join(workers[r].thread, NULL);
    return workers[0].status;
}

/* Threads of one of `sharing` workers on this machine. */
static int threads_of(const flrq_config *c, int sharing) {
    int threads = c->threads ? (int)c->threads : flrq_hardware_threads() / sharing;
    return threads < 1 ? 1 : threads;
}

/* A run of processes that was killed may have left its meeting place. */
static void sweep_meeting_place(const flrq_config *c) {
    char *folder = flrq_path_join(c->out, ".flrq");
    char *dir = folder ? flrq_path_join(folder, FLRQ_WORKERS_FOLDER) : NULL;
    if (dir) flrq_rollcall_sweep(dir);
    if (folder) rmdir(folder); /* only if nothing else is in it */
    free(dir);
    free(folder);
}

static flrq_status run_local(const flrq_params *params, flrq_reporter *reporter, const char *kind, int devices,
                             json_t **result) {
    const flrq_config *c = &params->config;
    int size = c->workers ? (int)c->workers : devices ? devices : 1;
    if (size > 1 && strcmp(kind, "cpu-ref") == 0)
        return flrq_fail(FLRQ_ERR_USAGE, "--device cpu-ref adds in plain order and has one worker; use --device cpu");
    if (size > 1 && strchr(c->device, ':'))
        return flrq_fail(FLRQ_ERR_USAGE, "--workers %d, but --device %s is one device", size, c->device);
    if (devices && size > devices)
        return flrq_fail(FLRQ_ERR_USAGE, "--workers %d, but there %s %d %s device%s; each worker needs its own", size,
                         devices == 1 ? "is" : "are", devices, kind, devices == 1 ? "" : "s");
    flrq_status status = FLRQ_OK;
    worker *workers = calloc((size_t)size, sizeof *workers);
    flrq_reporter *silent = calloc((size_t)size, sizeof *silent);
    flrq_comm **comms = calloc((size_t)size, sizeof *comms);
    const char **places = calloc((size_t)size, sizeof *places);
    if (!workers || !silent || !comms || !places)
        FLRQ_GOTO(flrq_fail_memory((size_t)size * sizeof *workers, "workers"));
    for (int r = 0; r < size; r++) {
        worker *w = &workers[r];
        *w = (worker){.params = params, .reporter = r ? &silent[r] : reporter, .rank = r, .size = size};
        w->in_process = size;
        w->threads = size > 1 ? threads_of(c, size) : (int)c->threads;
        silent[r].start = reporter->start;
        if (devices)
            snprintf(w->device, sizeof w->device, "%s:%d", kind, r);
        else
            snprintf(w->device, sizeof w->device, "%s", size > 1 ? kind : c->device);
        places[r] = w->device;
    }
    if (size == 1)
        comms[0] = flrq_comm_self();
    else
        FLRQ_GOTO(flrq_comm_local(comms, size, places, c->peer_timeout));
    for (int r = 0; r < size; r++) workers[r].comm = comms[r];
    status = run_threads(workers, size);
    *result = workers[0].result;
    if (status == FLRQ_OK || status == FLRQ_ERR_QUALITY) sweep_meeting_place(c);
out:
    free(places);
    free(comms);
    free(silent);
    free(workers);
    return status;
}

/* ---- workers as processes ---------------------------------------------------------------------------------------- */

/* The nonce of a start by mpirun: rank 0 makes it. */
static flrq_status share_nonce(flrq_comm *comm, launch *l) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    if (l->rank == 0)
        snprintf(l->nonce, sizeof l->nonce, "%s-%ld-%lld.%09ld", host, (long)getpid(), (long long)t.tv_sec, t.tv_nsec);
    return comm->broadcast_host(comm, l->nonce, sizeof l->nonce, 0);
}

static const char *mpi_of(const flrq_config *c, const launch *l) {
    return c->mpi == MPI_OFF ? NULL : c->mpi == MPI_OPENMPI ? "openmpi" : c->mpi == MPI_MPICH ? "mpich" : l->mpi;
}

/* What a worker other than the first says of a failure: of its own, who it is; of another's nothing, for that one and
 * rank 0 say it. A stop is rank 0's to tell. */
static void leave_telling(const worker *w, flrq_status status) {
    char text[1024], host[64] = "";
    int rank, size;
    if (w->rank == 0) return;
    if (status == FLRQ_STOPPED || sscanf(flrq_last_error(), "worker %d of %d", &rank, &size) == 2) {
        if (status == FLRQ_STOPPED || (rank != w->rank && rank != 0)) flrq_fail(status, "%s", "");
        return;
    }
    snprintf(text, sizeof text, "%s", flrq_last_error());
    gethostname(host, sizeof host - 1);
    flrq_fail(status, "worker %d of %d (host %s, process %ld, %s), block %lld: %s", w->rank, w->size, host,
              (long)getpid(), w->device, (long long)w->reporter->block, text);
}

/* Launchers kill all processes when one ends with an error; rank 0 is to speak first. */
static void let_first_speak(const worker *w) {
    struct timespec half_a_second = {.tv_nsec = 500000000};
    if (w->rank > 0) nanosleep(&half_a_second, NULL);
}

static flrq_status run_process(const flrq_params *params, flrq_reporter *reporter, launch *l, const char *kind,
                               int devices, json_t **result) {
    const flrq_config *c = &params->config;
    flrq_reporter silent = {.start = reporter->start};
    worker w = {.params = params, .reporter = l->rank ? &silent : reporter, .rank = l->rank, .size = l->size};
    w.calling = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    flrq_status status = FLRQ_OK;
    const char *mpi = mpi_of(c, l);
    char *folder = NULL, *dir = NULL;
    w.threads = threads_of(c, l->local_size);
    if (c->workers && c->workers != l->size)
        return flrq_fail(FLRQ_ERR_USAGE, "--workers %lld, but %d were started; leave --workers out",
                         (long long)c->workers, l->size);
    if (devices > 1 && l->local_rank >= devices)
        return flrq_fail(FLRQ_ERR_USAGE,
                         "task %d of this machine has no %s device: there are %d; start one task a device",
                         l->local_rank, kind, devices);
    if (devices)
        snprintf(w.device, sizeof w.device, "%s:%d", kind, devices > 1 ? l->local_rank : 0);
    else
        snprintf(w.device, sizeof w.device, "%s", strchr(c->device, ':') ? c->device : kind);
    if (mpi) FLRQ_GOTO(flrq_comm_mpi(&w.comm, mpi, c->peer_timeout));
    if (!l->nonce[0]) {
        if (!w.comm)
            FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "mpirun's processes need MPI to find each other; leave out --mpi off"));
        FLRQ_GOTO(share_nonce(w.comm, l));
    }
    if (w.comm && (w.comm->size != l->size || w.comm->rank != l->rank))
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE,
                            "MPI says worker %d of %d, the launcher %d of %d: the launcher is of another MPI than %s; "
                            "see --mpi",
                            w.comm->rank, w.comm->size, l->rank, l->size, mpi));
    folder = flrq_path_join(c->out, ".flrq");
    dir = folder ? flrq_path_join(folder, FLRQ_WORKERS_FOLDER) : NULL;
    if (!dir) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    FLRQ_GOTO(flrq_dir_make(c->out));
    FLRQ_GOTO(flrq_dir_make(folder));
    FLRQ_GOTO(flrq_rollcall_join(&w.rollcall, dir, l->nonce, l->rank, l->size, w.device, c->peer_timeout));
    if (w.comm) watch(&w);
    run_worker(&w);
    status = w.status;
    *result = w.result;
out:
    if (status != FLRQ_OK && w.comm) flrq_comm_fail(w.comm, status, flrq_last_error()); /* before run_worker() */
    if (status != FLRQ_OK) leave_telling(&w, status);
    flrq_comm_close(w.comm);
    flrq_rollcall_leave(w.rollcall);
    if (status != FLRQ_OK) let_first_speak(&w);
    if (l->rank == 0 && folder) { /* only if nothing was written */
        rmdir(folder);
        if (status != FLRQ_OK) rmdir(c->out);
    }
    free(dir);
    free(folder);
    return status;
}

flrq_status flrq_job_quantize(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    char kind[16];
    int devices;
    launch l = find_launch();
    if (l.size > 1 || c->workers != 1) {
        FLRQ_TRY(flrq_backend_devices(c->device, kind, &devices));
    } else
        snprintf(kind, sizeof kind, "%.15s", c->device), devices = 0;
    if (l.size > 1) return run_process(params, reporter, &l, kind, devices, result);
    return run_local(params, reporter, kind, devices, result);
}
