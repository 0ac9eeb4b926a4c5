/* submit_script.c - the batch script: readable, commented, every path absolute, every word quoted for the shell.
 *
 * What it relies on, and what must not change:
 * - Exit code 75 means a run that can go on: the script has the job queued again. Not when the job was cancelled (a
 *   cancelled job would come back: scontrol requeue does not refuse one), and not when the start finished no block (the
 *   next one would not either).
 * - The workers end by themselves, one a little after the other. So srun must not end the others when the first exits
 *   with 75 (--kill-on-bad-exit=0, whatever the site's default): the one that commits would be killed, and srun's exit
 *   code would be 143. --wait ends what is left over when a worker was lost.
 * - Tasks are not bound to GPUs: each sees all GPUs that the job has on its node and takes number SLURM_LOCALID. Bound
 *   ones (--gpus-per-task, --gpu-bind=single:1) cannot open each other's memory, and NCCL would go through the host.
 *   --gpu-bind=none is another thing: it leaves CUDA_VISIBLE_DEVICES unset, so that on sites without cgroups tasks see
 *   the GPUs of other jobs too.
 * - srun does not take --cpus-per-task from the job since Slurm 22.05; it is repeated.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/command_line.h"
#include "pipeline/submit.h"

/* A line for sbatch, which reads quotes and backslashes much as a shell does. */
static void put_sbatch(FILE *out, const char *option, const char *value) {
    if (!value) return;
    fprintf(out, "#SBATCH --%s=", option);
    if (flrq_word_is_plain(value))
        fputs(value, out);
    else {
        fputc('"', out);
        for (; *value; value++) fprintf(out, *value == '"' || *value == '\\' ? "\\%c" : "%c", *value);
        fputc('"', out);
    }
    fputc('\n', out);
}

static void put_number(FILE *out, const char *option, int64_t value) {
    if (value > 0) fprintf(out, "#SBATCH --%s=%lld\n", option, (long long)value);
}

/* The log's name: % begins a pattern of Slurm's. */
static void put_log(FILE *out, const char *folder) {
    char *name = malloc(2 * strlen(folder) + sizeof "/slurm/job-%j.log"), *to = name;
    if (!name) return;
    for (const char *from = folder; *from; from++) {
        if (*from == '%') *to++ = '%';
        *to++ = *from;
    }
    strcpy(to, "/slurm/job-%j.log");
    put_sbatch(out, "output", name);
    free(name);
}

static void put_resources(FILE *out, const flrq_submission *s) {
    const flrq_config *c = s->config;
    put_sbatch(out, "job-name", c->batch.name);
    put_sbatch(out, "partition", c->batch.partition);
    put_sbatch(out, "account", c->batch.account);
    put_sbatch(out, "qos", c->batch.qos);
    put_sbatch(out, "constraint", c->batch.constraint);
    put_number(out, "nodes", c->batch.nodes);
    put_number(out, "ntasks-per-node", s->tasks);
    put_number(out, "gpus-per-node", c->batch.gpus_per_node);
    put_number(out, "cpus-per-task", c->batch.cpus_per_task);
    if (s->memory >= 0) fprintf(out, "#SBATCH --mem=%lldM\n", (long long)s->memory);
    put_sbatch(out, "time", c->batch.time);
    put_sbatch(out, "chdir", s->out);
    put_log(out, s->out);
    fputs("# A job that Slurm interrupts starts again and continues; its log goes on.\n"
          "#SBATCH --requeue\n#SBATCH --open-mode=append\n",
          out);
    fprintf(out,
            "# Workers stop by themselves before a block that would not finish in time; should one take longer than "
            "the last,\n# they are asked to %.0f s before the limit.\n#SBATCH --signal=USR1@%.0f\n",
            s->signal_seconds, s->signal_seconds);
}

static void put_setup(FILE *out, const flrq_submission *s) {
    if (!s->setup) return;
    fprintf(out, "\n# ---- from --setup\n%s%s# ----\n", s->setup,
            *s->setup && s->setup[strlen(s->setup) - 1] != '\n' ? "\n" : "");
}

static void put_container(FILE *out, const flrq_submission *s) {
    size_t i;
    json_t *bind;
    fputs(" \\\n    apptainer exec", out);
    if (s->config->batch.gpus_per_node > 0) fputs(" --nv", out);
    json_array_foreach(s->binds, i, bind) {
        fputs(" --bind ", out);
        flrq_put_word(out, json_string_value(bind));
    }
    fputs(" \\\n    ", out);
    flrq_put_word(out, s->container);
}

/* srun, the program and its arguments, an option a line. */
static void put_run(FILE *out, const flrq_submission *s) {
    size_t i, k;
    json_t *words, *word;
    if (s->config->batch.gpus_per_node > 0)
        fputs("# One worker for each GPU; each sees all GPUs of the job on its node, so that they exchange directly.\n",
              out);
    fprintf(out,
            "# Workers end by themselves and not all at once: none is killed because another stopped.\n"
            "srun --kill-on-bad-exit=0 --wait=%.0f",
            s->wait);
    if (s->config->batch.cpus_per_task > 0)
        fprintf(out, " --cpus-per-task=%lld", (long long)s->config->batch.cpus_per_task);
    fprintf(out, " --mpi=%s", s->mpi ? s->mpi : "none");
    if (s->container) put_container(out, s);
    fputs(" \\\n    ", out);
    flrq_put_word(out, s->program);
    fputs(" quantize", out);
    json_array_foreach(s->run, i, words) {
        fputs(i > 1 ? " \\\n   " : "", out); /* MODEL and -o OUT stand beside the command */
        json_array_foreach(words, k, word) {
            fputc(' ', out);
            flrq_put_word(out, json_string_value(word));
        }
    }
    fputs("\nrc=$?\n", out);
}

char *flrq_submission_script(const flrq_submission *s) {
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return NULL;
    fprintf(out,
            "#!/bin/bash\n"
            "# Written by flrq submit, version " FLRQ_VERSION_STRING ". May be edited and submitted again with sbatch: "
            "what is done stays done.\n# Its log needs the folder slurm in OUT.\n");
    put_resources(out, s);
    put_setup(out, s);
    fputs("\nout=", out);
    flrq_put_word(out, s->out);
    fputs(
        "\nblocks_done() { grep -c '\"kind\":\"shard\",\"block\":[0-9]' \"$out/journal.jsonl\" 2>/dev/null || true; }\n"
        "say() { echo \"[$SLURM_JOB_ID $SLURMD_NODENAME] $*\" >&2; }\n\n"
        "before=$(blocks_done)\n"
        "say \"start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST\"\n"
        "trap : TERM # the workers get it too; what follows them must still run\n"
        "if [ -z \"$SLURM_JOB_END_TIME\" ]; then # Slurm before 23.02; a container has no squeue to ask\n"
        "    end=$(squeue --noheader --jobs=\"$SLURM_JOB_ID\" --format=%e)\n"
        "    case $end in\n"
        "    [0-9]*T*) export SLURM_JOB_END_TIME=$(date --date=\"$end\" +%s) ;;\n"
        "    esac\n"
        "fi\n\n",
        out);
    put_run(out, s);
    fputs("\n# 75: stopped, and the same command continues.\n"
          "[ $rc -eq 75 ] || exit $rc\n"
          "case $(squeue --noheader --jobs=\"$SLURM_JOB_ID\" --format='%T %r') in\n"
          "RUNNING* | *TimeLimit) ;;\n"
          "*)\n"
          "    say \"cancelled: not queued again; sbatch $out/slurm/job.sbatch continues the run\"\n"
          "    exit 75\n"
          "    ;;\n"
          "esac\n"
          "after=$(blocks_done)\n"
          "if [ \"${after:-0}\" -le \"${before:-0}\" ]; then\n"
          "    say \"no block was finished since this start: not queued again; submit with more --time\"\n"
          "    exit 75\n"
          "fi\n"
          "say \"queued again\"\n"
          "scontrol requeue \"$SLURM_JOB_ID\" && exit 0\n"
          "say \"cannot be queued again; sbatch $out/slurm/job.sbatch continues the run\"\n"
          "exit 75\n",
          out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
