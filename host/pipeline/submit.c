/* submit.c - `flrq submit`: checks a quantize run, writes it as a batch script into OUT/slurm and hands it to Slurm.
 *
 * All that can be known on a login node is refused there: arguments, paths, memory and time against the plan, the
 * partition and its limits. The job itself is the script's (submit_script.c). Paths become absolute here, so that the
 * job does not depend on the folder that it starts in.
 */
#include "pipeline/command_line.h"
#include "pipeline/submit.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipeline/deadline.h"
#include "pipeline/job.h"
#include "pipeline/slurm.h"
#include "pipeline/state.h"

enum { SETUP_BYTES = 1 << 20, PROGRAM_BYTES = 4096 };

/* Memory of a node above the plan's: a quarter, and for srun's and MPI's own buffers in every worker. */
static const double memory_factor = 1.25, memory_extra = 64 << 20;

void flrq_submission_free(flrq_submission *s) {
    json_decref(s->run);
    json_decref(s->binds);
    free(s->out);
    free(s->program);
    free(s->container);
    free(s->setup);
    memset(s, 0, sizeof *s);
}

/* ---- paths
 * ------------------------------------------------------------------------------------------------------- */

/* The present folder as the user calls it: a name through links (/home) may be the only one that all nodes know. */
static char *present_folder(void) {
    const char *named = getenv("PWD");
    struct stat a, b;
    if (named && named[0] == '/' && stat(named, &a) == 0 && stat(".", &b) == 0 && a.st_dev == b.st_dev &&
        a.st_ino == b.st_ino)
        return strdup(named);
    return getcwd(NULL, 0);
}

/* An absolute name of the same file (free()). */
static flrq_status absolute(char **out, const char *path) {
    *out = NULL;
    json_t *text = json_string(path); /* NULL: not UTF-8, or out of memory */
    json_decref(text);
    if (!text || path[strcspn(path, "\n\r")])
        return flrq_fail(FLRQ_ERR_USAGE, "a batch script cannot name %s, which holds a line break or is not UTF-8",
                         path);
    if (path[0] == '/') {
        *out = strdup(path);
    } else {
        char *folder = present_folder();
        while (strncmp(path, "./", 2) == 0) path += 2 + strspn(path + 2, "/");
        if (folder) *out = flrq_path_join(folder, path);
        free(folder);
    }
    return *out ? FLRQ_OK : flrq_fail_memory(strlen(path), "a path");
}

/* A file or folder of the run by its absolute name; it must be there. */
static flrq_status find_input(char **out, const char *path, const char *what) {
    FLRQ_TRY(absolute(out, path));
    if (access(*out, R_OK) == 0) return FLRQ_OK;
    flrq_status status = flrq_fail_errno(FLRQ_ERR_USAGE, "%s %s", what, *out);
    free(*out);
    *out = NULL;
    return status;
}

/* The nodes must be able to write OUT, which may not be there yet. */
static flrq_status find_output(flrq_submission *s, const flrq_config *run) {
    FLRQ_TRY(absolute(&s->out, run->out));
    size_t length = strlen(s->out);
    while (length > 1 && s->out[length - 1] == '/') s->out[--length] = '\0';
    FLRQ_TRY(flrq_state_look(s->out, &s->is_run));
    if (s->is_run && run->resume == RESUME_NEVER)
        return flrq_fail(FLRQ_ERR_USAGE, "%s holds a run and --resume is never; choose another -o", s->out);
    if (!s->is_run && run->resume == RESUME_REQUIRED)
        return flrq_fail(FLRQ_ERR_USAGE, "%s holds no run to resume", s->out);
    char *parent = strdup(s->out), *slash = parent ? strrchr(parent, '/') : NULL;
    if (!slash) return flrq_fail_memory(length, "a path");
    slash[slash == parent] = '\0';
    const char *place = flrq_path_exists(s->out) ? s->out : parent;
    flrq_status status =
        access(place, W_OK | X_OK) == 0 ? FLRQ_OK : flrq_fail_errno(FLRQ_ERR_USAGE, "%s, where OUT is to be", place);
    free(parent);
    return status;
}

/* The flrq that the nodes run: --program, else in a container its own, else this one. */
static flrq_status find_program(flrq_submission *s) {
    const char *given = s->config->batch.program;
    char self[PROGRAM_BYTES];
    if (given && (s->container || !strchr(given, '/'))) {
        s->program = strdup(given);
    } else if (given) {
        FLRQ_TRY(absolute(&s->program, given));
        if (access(s->program, X_OK) != 0) return flrq_fail_errno(FLRQ_ERR_USAGE, "--program %s", s->program);
    } else if (s->container) {
        s->program = strdup("flrq");
    } else {
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n < 0) return flrq_fail_errno(FLRQ_ERR_IO, "this program's path is not known; use --program");
        self[n] = '\0';
        s->program = strdup(self);
    }
    return s->program ? FLRQ_OK : flrq_fail_memory(0, "a path");
}

/* Has the container see what lies at `path`. */
static void bind(flrq_submission *s, const char *path) {
    size_t i;
    json_t *there;
    json_array_foreach(s->binds, i, there) if (strcmp(json_string_value(there), path) == 0) return;
    json_array_append_new(s->binds, json_string(path));
}

/* ---- the run
 * ----------------------------------------------------------------------------------------------------- */

static void add_option(flrq_submission *s, const char *name, const char *value) {
    json_array_append_new(s->run, flrq_option_words("quantize", name, value));
}

/* An option that names a file or a folder. */
static flrq_status add_path(flrq_submission *s, const char *name, const char *value) {
    char *path, label[64];
    snprintf(label, sizeof label, "--%s", name);
    FLRQ_TRY(find_input(&path, value, label));
    add_option(s, name, path);
    bind(s, path);
    free(path);
    return FLRQ_OK;
}

/* MODEL -o OUT, then what differs from the defaults, with what the job decides: the device and the threads. */
static flrq_status describe_run(flrq_submission *s, const flrq_params *run) {
    const flrq_config *c = &run->config;
    char *model, threads[32];
    FLRQ_TRY(find_input(&model, c->model, "MODEL"));
    json_array_append_new(s->run, json_pack("[s]", model));
    bind(s, model);
    free(model);
    add_option(s, "out", s->out);
    bind(s, s->out);
    json_t *changed = flrq_params_changed(run), *pair;
    if (!changed) return flrq_fail(FLRQ_ERR_USAGE, "a batch script cannot hold a value that is not UTF-8");
    flrq_status status = FLRQ_OK;
    size_t i;
    json_array_foreach(changed, i, pair) {
        const char *name = json_string_value(json_array_get(pair, 0)),
                   *value = json_string_value(json_array_get(pair, 1));
        static const char *const other[] = {"model", "out", "resume", "workers", NULL};
        int skip = 0;
        for (int k = 0; other[k]; k++) skip |= strcmp(name, other[k]) == 0;
        if (skip) continue;
        int is_path = strcmp(name, "calib-tokens") == 0 || strcmp(name, "ranks-from") == 0 ||
                      (strcmp(name, "calib") == 0 && strcmp(value, "none") != 0);
        if (!is_path)
            add_option(s, name, value);
        else if ((status = add_path(s, name, value)) != FLRQ_OK)
            break;
    }
    json_decref(changed);
    FLRQ_TRY(status);
    if (strcmp(c->device, "auto") == 0) add_option(s, "device", s->config->batch.gpus_per_node > 0 ? "cuda" : "cpu");
    if (c->threads == 0 && s->config->batch.cpus_per_task > 0) {
        snprintf(threads, sizeof threads, "%lld", (long long)s->config->batch.cpus_per_task);
        add_option(s, "threads", threads);
    }
    return FLRQ_OK;
}

/* What the two sets of options say about each other. */
static flrq_status check_options(const flrq_config *c, const flrq_config *run) {
    int is_gpu = strncmp(run->device, "cuda", 4) == 0; /* cudasim too: it plays GPUs */
    if (run->workers > 0)
        return flrq_fail(FLRQ_ERR_USAGE, "--workers is for one machine; a job has one for each of --nodes x "
                                         "--gpus-per-node, or --tasks-per-node on CPUs");
    if (c->batch.gpus_per_node > 0 && strncmp(run->device, "cpu", 3) == 0)
        return flrq_fail(FLRQ_ERR_USAGE, "--device %s uses no GPU, but --gpus-per-node is %lld", run->device,
                         (long long)c->batch.gpus_per_node);
    if (c->batch.gpus_per_node == 0 && is_gpu && strcmp(run->device, "cudasim") != 0)
        return flrq_fail(FLRQ_ERR_USAGE, "--device %s needs --gpus-per-node", run->device);
    if (strncmp(run->device, "cuda:", 5) == 0 && c->batch.gpus_per_node > 1)
        return flrq_fail(FLRQ_ERR_USAGE, "--device %s names one GPU, but --gpus-per-node is %lld; use cuda",
                         run->device, (long long)c->batch.gpus_per_node);
    if (c->batch.gpus_per_node > 0 && c->batch.tasks_per_node > 1)
        return flrq_fail(FLRQ_ERR_USAGE, "--tasks-per-node is for jobs on CPUs; each of --gpus-per-node has a task");
    return FLRQ_OK;
}

/* How srun joins the workers. Those on GPUs meet in OUT, and a single one has nobody to meet. */
static flrq_status choose_mpi(flrq_submission *s, const flrq_config *run) {
    const flrq_config *c = s->config;
    s->mpi = NULL;
    if (strcmp(c->batch.mpi, "auto") != 0)
        s->mpi = c->batch.mpi;
    else if (c->batch.gpus_per_node > 0 || strcmp(run->device, "cudasim") == 0 || c->batch.nodes * s->tasks == 1)
        return FLRQ_OK;
    else if (run->mpi == MPI_OPENMPI || run->mpi == MPI_MPICH)
        s->mpi = run->mpi == MPI_OPENMPI ? "pmix" : "pmi2";
    else
        s->mpi = c->batch.print || flrq_slurm_has_mpi("pmix") ? "pmix" : "pmi2";
    if (c->batch.print || flrq_slurm_has_mpi(s->mpi)) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_USAGE, "srun has no --mpi=%s (srun --mpi=list); choose another --mpi, or one worker",
                     s->mpi);
}

/* ---- the plan
 * ---------------------------------------------------------------------------------------------------- */

/* The plan of the run on the job's devices (new reference). */
static flrq_status plan_run(json_t **plan, const flrq_submission *s, const flrq_params *run, flrq_reporter *reporter) {
    const flrq_config *c = s->config;
    flrq_params *params;
    FLRQ_TRY(flrq_params_new(&params, "plan"));
    flrq_status status = FLRQ_OK;
    json_t *changed = flrq_params_changed(run), *pair;
    size_t i, count;
    const flrq_option *const *options = flrq_command_options("plan", &count);
    json_array_foreach(changed, i, pair) {
        const char *name = json_string_value(json_array_get(pair, 0));
        for (size_t k = 0; k < count && status == FLRQ_OK; k++)
            if (strcmp(options[k]->name, name) == 0)
                status = flrq_params_set(params, name, json_string_value(json_array_get(pair, 1)));
    }
    json_decref(changed);
    if (status == FLRQ_OK && strcmp(run->config.device, "auto") == 0)
        status = flrq_params_set(params, "device", c->batch.gpus_per_node > 0 ? "cuda" : "cpu");
    if (status == FLRQ_OK && c->batch.cpus_per_task > 0 && run->config.threads == 0)
        status = flrq_params_set_int(params, "threads", c->batch.cpus_per_task);
    if (status == FLRQ_OK) status = flrq_params_set_int(params, "workers", c->batch.nodes * s->tasks);
    if (status == FLRQ_OK) status = flrq_params_set_int(params, "nodes", c->batch.nodes);
    if (status == FLRQ_OK && c->profile) status = flrq_params_set(params, "profile", c->profile);
    if (status == FLRQ_OK) status = flrq_job_plan(params, reporter, plan);
    flrq_params_free(params);
    return status;
}

/* --mem, or what the workers of a node need. */
static flrq_status decide_memory(flrq_submission *s, const json_t *plan) {
    const char *given = s->config->batch.mem;
    double worker = json_number_value(json_object_get(plan, "host_bytes")), tasks = (double)s->tasks;
    double needed = tasks * worker;
    s->memory = -1;
    if (strcmp(given, "none") == 0) return FLRQ_OK;
    if (strcmp(given, "auto") == 0) {
        s->memory = (int64_t)ceil((memory_factor * needed + tasks * memory_extra) / 1048576);
        return FLRQ_OK;
    }
    double bytes = flrq_slurm_bytes(given);
    if (isnan(bytes))
        return flrq_fail(FLRQ_ERR_USAGE, "--mem takes a size such as 64G, auto or none, not \"%s\"", given);
    if (bytes > 0 && bytes < needed)
        return flrq_fail(FLRQ_ERR_USAGE,
                         "--mem %s is less than the %.1f MB that the workers of a node need by the plan (%lld of %.1f "
                         "MB)",
                         given, needed / 1e6, (long long)s->tasks, worker / 1e6);
    s->memory = (int64_t)ceil(bytes / 1048576);
    return FLRQ_OK;
}

/* The files of a run that begins against what its file system has. */
static flrq_status check_disk(const flrq_submission *s, const json_t *plan) {
    double free_bytes = json_number_value(json_object_get(plan, "disk_free_bytes"));
    double needed = json_number_value(json_object_get(plan, "output_bytes")) +
                    json_number_value(json_object_get(plan, "scratch_bytes"));
    if (s->is_run || needed <= free_bytes) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_IO, "%s: %.1f GB are free on its file system, up to %.1f GB are needed", s->out,
                     free_bytes / 1e9, needed / 1e9);
}

/* --time against the time that the plan predicts, where it does. */
static flrq_status check_time(double limit, const json_t *plan, flrq_reporter *reporter) {
    double total = json_number_value(json_object_get(json_object_get(plan, "time"), "seconds_total"));
    double blocks = json_number_value(json_object_get(plan, "blocks"));
    if (!(total > 0) || !isfinite(limit)) return FLRQ_OK;
    double usable = limit - flrq_stop_seconds(limit);
    if (blocks > 0 && 1.25 * total / blocks > usable)
        return flrq_fail(FLRQ_ERR_USAGE,
                         "no block would finish: the plan predicts %.0f s for each, and --time leaves "
                         "%.0f s; give more --time or more GPUs",
                         total / blocks, usable);
    if (total > usable)
        flrq_notice(reporter, "the plan predicts %.0f s, --time is %.0f s: the job will be started about %.0f times",
                    total, limit, ceil(total / usable));
    return FLRQ_OK;
}

/* ---- Slurm
 * ------------------------------------------------------------------------------------------------------- */

static flrq_status check_partition(const flrq_submission *s, double limit) {
    const flrq_config *c = s->config;
    flrq_slurm_partition p;
    char name[128];
    snprintf(name, sizeof name, c->batch.partition ? "partition %s" : "the default partition", c->batch.partition);
    flrq_status status = flrq_slurm_partition_read(&p, c->batch.partition);
    if (status == FLRQ_ERR_UNSUPPORTED) {
        char text[256];
        snprintf(text, sizeof text, "%s", flrq_last_error());
        return flrq_fail(status, "%s; submit where Slurm's commands are, or use --print", text);
    }
    FLRQ_TRY(status);
    int64_t cpus = s->tasks * (c->batch.cpus_per_task > 0 ? c->batch.cpus_per_task : 1);
    if (c->batch.nodes > p.nodes)
        return flrq_fail(FLRQ_ERR_USAGE, "--nodes %lld: %s has %lld", (long long)c->batch.nodes, name,
                         (long long)p.nodes);
    if (c->batch.gpus_per_node > p.gpus)
        return flrq_fail(FLRQ_ERR_USAGE, "--gpus-per-node %lld: nodes of %s have %lld",
                         (long long)c->batch.gpus_per_node, name, (long long)p.gpus);
    if (cpus > p.cpus)
        return flrq_fail(FLRQ_ERR_USAGE, "%lld CPUs on a node wanted: nodes of %s have %lld", (long long)cpus, name,
                         (long long)p.cpus);
    if ((double)s->memory * 1048576 > p.bytes)
        return flrq_fail(FLRQ_ERR_USAGE, "%.1f GB on a node wanted: nodes of %s have %.1f GB; see --mem",
                         (double)s->memory * 1048576 / 1e9, name, p.bytes / 1e9);
    if (isfinite(limit) && limit > p.seconds)
        return flrq_fail(FLRQ_ERR_USAGE, "--time %s: jobs of %s may take %.0f minutes", c->batch.time, name,
                         p.seconds / 60);
    return FLRQ_OK;
}

/* OUT/slurm/job.sbatch, submitted. What was made for a job that Slurm refuses is removed. */
static flrq_status submit(const flrq_submission *s, const char *script, int64_t *job) {
    flrq_status status = FLRQ_OK;
    char *folder = flrq_path_join(s->out, "slurm"), *path = folder ? flrq_path_join(folder, "job.sbatch") : NULL;
    int existed = flrq_path_exists(s->out);
    if (!path) FLRQ_GOTO(flrq_fail_memory(0, "a path"));
    FLRQ_GOTO(flrq_dir_make(s->out));
    FLRQ_GOTO(flrq_dir_make(folder));
    FLRQ_GOTO(flrq_file_write(path, script, strlen(script)));
    status = flrq_slurm_submit(job, path);
    if (status != FLRQ_OK && !existed) {
        unlink(path);
        rmdir(folder);
        rmdir(s->out);
    }
out:
    free(path);
    free(folder);
    return status;
}

/* ---- the job
 * ----------------------------------------------------------------------------------------------------- */

static flrq_status understand(flrq_submission *s, const flrq_params *params) {
    const flrq_config *c = &params->config, *run = &params->job->config;
    size_t bytes;
    FLRQ_TRY(check_options(c, run));
    s->config = c;
    s->run = json_array();
    s->binds = json_array();
    s->tasks = c->batch.gpus_per_node > 0 ? c->batch.gpus_per_node : c->batch.tasks_per_node;
    s->wait = ceil(run->peer_timeout) + 60; /* a worker that waits for a lost one says so itself */
    if (c->batch.setup) FLRQ_TRY(flrq_file_read(c->batch.setup, SETUP_BYTES, &s->setup, &bytes));
    if (c->batch.container) FLRQ_TRY(find_input(&s->container, c->batch.container, "--container"));
    FLRQ_TRY(find_output(s, run));
    FLRQ_TRY(find_program(s));
    FLRQ_TRY(describe_run(s, params->job));
    const char *const texts[] = {c->batch.partition, c->batch.account, c->batch.qos, c->batch.constraint,
                                 c->batch.name};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i] && (!*texts[i] || texts[i][strcspn(texts[i], "\n\r")]))
            return flrq_fail(FLRQ_ERR_USAGE, "\"%s\" is no name that Slurm takes", texts[i]);
    return choose_mpi(s, run);
}

static json_t *result_of(const flrq_submission *s, double limit, const json_t *plan) {
    json_t *result = json_pack("{s:s, s:I, s:I, s:I, s:f}", "out", s->out, "nodes", (json_int_t)s->config->batch.nodes,
                               "workers", (json_int_t)(s->config->batch.nodes * s->tasks), "gpus_per_node",
                               (json_int_t)s->config->batch.gpus_per_node, "signal_seconds", s->signal_seconds);
    json_object_set_new(result, "partition",
                        s->config->batch.partition ? json_string(s->config->batch.partition) : json_null());
    json_object_set_new(result, "limit_seconds", isfinite(limit) ? json_real(limit) : json_null());
    json_object_set_new(result, "memory_mib", s->memory >= 0 ? json_integer(s->memory) : json_null());
    json_object_set(result, "host_bytes", json_object_get(plan, "host_bytes"));
    json_object_set(result, "device", json_object_get(plan, "device"));
    json_t *time = json_object_get(plan, "time");
    if (time) json_object_set(result, "time", time);
    return result;
}

flrq_status flrq_job_submit(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    flrq_submission s = {0};
    flrq_status status = FLRQ_OK;
    json_t *plan = NULL;
    char *script = NULL, text[64];
    double limit = c->batch.time ? flrq_slurm_seconds(c->batch.time) : INFINITY;
    if (isnan(limit) || limit <= 0)
        return flrq_fail(FLRQ_ERR_USAGE, "--time takes minutes, hours:minutes:seconds or days-hours, not \"%s\"",
                         c->batch.time);
    FLRQ_GOTO(understand(&s, params));
    s.signal_seconds = c->batch.signal_seconds ? (double)c->batch.signal_seconds : flrq_stop_seconds(limit);
    if (s.signal_seconds >= limit)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "--signal-seconds %.0f is not within --time %s", s.signal_seconds,
                            c->batch.time));
    FLRQ_GOTO(plan_run(&plan, &s, params->job, reporter));
    FLRQ_GOTO(decide_memory(&s, plan));
    FLRQ_GOTO(check_disk(&s, plan));
    FLRQ_GOTO(check_time(limit, plan, reporter));
    if (!c->batch.print) FLRQ_GOTO(check_partition(&s, limit));
    script = flrq_submission_script(&s);
    if (!script) FLRQ_GOTO(flrq_fail_memory(0, "the batch script"));
    json_t *found = result_of(&s, limit, plan);
    if (c->batch.print) {
        json_object_set_new(found, "script", json_string(script));
    } else {
        int64_t job;
        status = submit(&s, script, &job);
        if (status != FLRQ_OK) {
            json_decref(found);
            goto out;
        }
        json_object_set_new(found, "job", json_integer(job));
        snprintf(text, sizeof text, "slurm/job-%lld.log", (long long)job);
        json_object_set_new(found, "path", json_sprintf("%s/slurm/job.sbatch", s.out));
        json_object_set_new(found, "log", json_sprintf("%s/%s", s.out, text));
    }
    *result = found;
out:
    free(script);
    json_decref(plan);
    flrq_submission_free(&s);
    return status;
}
