/* slurm.c - sinfo, sbatch and srun --mpi=list, and Slurm's spelling of durations and sizes. */
#include "pipeline/slurm.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/process.h"

/* The controller of a large cluster may take its time. */
static const double ask_seconds = 60;

double flrq_slurm_seconds(const char *text) {
    double part[4] = {0};
    int parts = 0, days = 0;
    if (strcasecmp(text, "infinite") == 0 || strcasecmp(text, "unlimited") == 0) return INFINITY;
    for (const char *p = text;;) {
        size_t digits = strspn(p, "0123456789");
        if (digits == 0 || digits > 9 || parts == 4) return NAN;
        part[parts++] = strtod(p, NULL);
        p += digits;
        if (*p == '\0') break;
        if (*p == '-' && parts == 1)
            days = 1;
        else if (*p != ':')
            return NAN;
        p++;
    }
    if (days) return 86400 * part[0] + 3600 * part[1] + 60 * part[2] + part[3];
    if (parts > 3) return NAN;
    return parts == 3 ? 3600 * part[0] + 60 * part[1] + part[2] : 60 * part[0] + part[1];
}

double flrq_slurm_bytes(const char *text) {
    static const char letters[] = "KMGT";
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 15) return NAN;
    const char *letter = text[digits] ? strchr(letters, toupper((unsigned char)text[digits])) : letters + 1;
    if (!letter || (text[digits] && text[digits + 1])) return NAN;
    return ldexp(strtod(text, NULL), 10 * (int)(letter - letters + 1));
}

/* ---- partitions
 * -------------------------------------------------------------------------------------------------- */

/* Number of GPUs in a node's list of generic resources: "gpu:h100:8(S:0-1),shard:16". */
static int64_t count_gpus(const char *list) {
    int64_t sum = 0;
    for (const char *entry = list; *entry;) {
        size_t length = 0; /* commas within parentheses belong to the entry */
        for (int depth = 0; entry[length] && (depth > 0 || entry[length] != ','); length++)
            depth += (entry[length] == '(') - (entry[length] == ')');
        if (strncmp(entry, "gpu:", 4) == 0) {
            size_t end = 0;
            while (end < length && entry[end] != '(') end++;
            while (end > 0 && isdigit((unsigned char)entry[end - 1])) end--;
            sum += strtoll(entry + end, NULL, 10);
        }
        entry += length + (entry[length] == ',');
    }
    return sum;
}

/* True when `name` is in a comma-separated list. */
static int is_listed(const char *list, const char *name) {
    size_t length = strlen(name);
    for (const char *p = length ? list : NULL; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (strcspn(p, ",") == length && strncmp(p, name, length) == 0) return 1;
    return 0;
}

/* Widens what is known by one line of sinfo. Returns its partition's name, or NULL for a line that is not meant. */
static const char *take_line(flrq_slurm_partition *p, char *line, const char *wanted) {
    char *field[7];
    for (int i = 0; i < 7; i++) {
        field[i] = line ? line : "";
        if (line && (line = strchr(line, '|'))) *line++ = '\0';
    }
    size_t length = strlen(field[0]);
    int is_default = length > 0 && field[0][length - 1] == '*';
    if (is_default) field[0][length - 1] = '\0';
    if (wanted ? !is_listed(wanted, field[0]) : !is_default) return NULL;
    if (strcmp(field[1], "up") != 0) return NULL;
    double seconds = flrq_slurm_seconds(field[2]), megabytes = strtod(field[5], NULL);
    int64_t cpus = strtoll(field[4], NULL, 10), gpus = count_gpus(field[6]);
    p->seconds = isnan(seconds) ? INFINITY : fmax(p->seconds, seconds);
    p->nodes += strtoll(field[3], NULL, 10);
    p->cpus = cpus > p->cpus ? cpus : p->cpus;
    p->gpus = gpus > p->gpus ? gpus : p->gpus;
    p->bytes = fmax(p->bytes, ldexp(megabytes, 20));
    return field[0];
}

/* The names of all partitions in sinfo's text, each once. */
static void list_names(const char *text, char *names, size_t bytes) {
    names[0] = '\0';
    for (const char *line = text; *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : "") {
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(line, "|*\n"), line);
        size_t used = strlen(names);
        if (*name && !is_listed(names, name)) snprintf(names + used, bytes - used, "%s%s", used ? "," : "", name);
    }
}

flrq_status flrq_slurm_partition_parse(flrq_slurm_partition *out, const char *name, const char *text) {
    char names[512], found[512] = "";
    memset(out, 0, sizeof *out);
    list_names(text, names, sizeof names);
    char *copy = strdup(text), *rest = copy;
    if (!copy) return flrq_fail_memory(strlen(text) + 1, "sinfo's answer");
    for (char *line; (line = strsep(&rest, "\n"));) {
        const char *taken = take_line(out, line, name);
        size_t used = strlen(found);
        if (taken && !is_listed(found, taken))
            snprintf(found + used, sizeof found - used, "%s%s", used ? "," : "", taken);
    }
    free(copy);
    if (!name)
        return *found ? FLRQ_OK : flrq_fail(FLRQ_ERR_USAGE, "no default partition; name one by --partition: %s", names);
    for (const char *p = name; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        char one[128];
        snprintf(one, sizeof one, "%.*s", (int)strcspn(p, ","), p);
        if (is_listed(found, one)) continue;
        if (is_listed(names, one)) return flrq_fail(FLRQ_ERR_USAGE, "--partition %s is not up; try later", one);
        return flrq_fail(FLRQ_ERR_USAGE, "--partition %s does not exist; this cluster has: %s", one, names);
    }
    return FLRQ_OK;
}

flrq_status flrq_slurm_partition_read(flrq_slurm_partition *out, const char *name) {
    const char *const argv[] = {"sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%D|%c|%m|%G", NULL};
    flrq_process answer;
    FLRQ_TRY(flrq_process_run(&answer, argv, ask_seconds));
    flrq_status status = FLRQ_OK;
    if (answer.code != 0)
        status = flrq_fail(FLRQ_ERR_IO, "sinfo: %.*s", (int)strcspn(answer.err, "\n"), answer.err);
    else
        status = flrq_slurm_partition_parse(out, name, answer.out);
    flrq_process_free(&answer);
    return status;
}

/* ---- jobs
 * -------------------------------------------------------------------------------------------------------- */

/* sbatch's lines on stderr as one, without its own prefix. */
static void one_line(char *text) {
    static const char prefix[] = "sbatch: error: ";
    char *to = text;
    for (char *from = text; *from;) {
        if (strncmp(from, prefix, sizeof prefix - 1) == 0) from += sizeof prefix - 1;
        while (*from && *from != '\n') *to++ = *from++;
        if (*from == '\n') from++;
        if (*from) {
            *to++ = ';';
            *to++ = ' ';
        }
    }
    *to = '\0';
}

flrq_status flrq_slurm_submit(int64_t *job, const char *script) {
    const char *const argv[] = {"sbatch", "--parsable", script, NULL};
    flrq_process answer;
    FLRQ_TRY(flrq_process_run(&answer, argv, ask_seconds));
    char *end;
    *job = strtoll(answer.out, &end, 10); /* "1234", or "1234;cluster" */
    flrq_status status = FLRQ_OK;
    one_line(answer.err);
    if (answer.code != 0 || end == answer.out)
        status = flrq_fail(FLRQ_ERR_USAGE, "sbatch refused the job: %s", *answer.err ? answer.err : "without a word");
    flrq_process_free(&answer);
    return status;
}

int flrq_slurm_has_mpi(const char *type) {
    const char *const argv[] = {"srun", "--mpi=list", NULL};
    flrq_process answer;
    if (flrq_process_run(&answer, argv, ask_seconds) != FLRQ_OK) return -1;
    int found = answer.code == 0 ? 0 : -1;
    /* The list is on stderr in some versions; a name is a whole line. */
    char *texts[] = {answer.out, answer.err};
    for (int i = 0; i < 2 && found >= 0; i++)
        for (char *line; (line = strsep(&texts[i], "\n"));)
            if (strcmp(line + strspn(line, " \t"), type) == 0) found = 1;
    flrq_process_free(&answer);
    return found;
}
