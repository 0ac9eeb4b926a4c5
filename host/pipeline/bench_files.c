/* bench_files.c - see bench_files.h. */
#include "pipeline/bench_files.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "pipeline/command_line.h"

/* ---- results ----------------------------------------------------------------------------------------------------- */

flrq_status flrq_bench_files_open(flrq_bench_files *out, const flrq_params *params, const flrq_reporter *reporter,
                                  const char *name) {
    const flrq_config *c = &params->config;
    *out = (flrq_bench_files){c->out, c->name ? c->name : name, reporter};
    if (!*out->name || strchr(out->name, '/'))
        return flrq_fail(FLRQ_ERR_USAGE, "--name begins names of files in -o DIR; it cannot be \"%s\"", out->name);
    if (!out->dir) {
        if (c->name) return flrq_fail(FLRQ_ERR_USAGE, "--name names files in -o DIR, which was not given");
        return FLRQ_OK;
    }
    FLRQ_TRY(flrq_dir_make(out->dir));
    if (access(out->dir, W_OK) == 0) return FLRQ_OK;
    return flrq_fail_errno(FLRQ_ERR_IO, "%s: results cannot be written there", out->dir);
}

/* DIR/NAME-part.ending; NULL on out of memory. */
static char *path_of(const flrq_bench_files *files, const char *part, const char *ending) {
    char *name = NULL, *path = NULL;
    if (asprintf(&name, "%s%s%s.%s", files->name, part ? "-" : "", part ? part : "", ending) < 0) return NULL;
    path = flrq_path_join(files->dir, name);
    free(name);
    return path;
}

/* Writes what `f`, of open_memstream(), holds. */
static flrq_status finish(const flrq_bench_files *files, const char *part, const char *ending, FILE *f, char **text,
                          const size_t *bytes) {
    char *path = path_of(files, part, ending);
    int failed = ferror(f) | fclose(f);
    flrq_status status =
        failed || !path ? flrq_fail_memory(0, "a table or figure") : flrq_file_write(path, *text, *bytes);
    free(path);
    free(*text);
    return status;
}

static void csv_text(FILE *f, const char *text) {
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, f);
        return;
    }
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"') fputc('"', f);
        fputc(*text, f);
    }
    fputc('"', f);
}

flrq_status flrq_bench_csv(const flrq_bench_files *files, const char *part, const json_t *rows, const char *const *keys,
                           size_t count) {
    char *text = NULL;
    size_t bytes, i;
    json_t *row;
    if (!files->dir) return FLRQ_OK;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return flrq_fail_memory(0, "a table");
    for (size_t k = 0; k < count; k++) fprintf(f, "%s%s", k ? "," : "", keys[k]);
    fputc('\n', f);
    json_array_foreach(rows, i, row) {
        for (size_t k = 0; k < count; k++) {
            const json_t *v = json_object_get(row, keys[k]);
            if (k) fputc(',', f);
            if (json_is_string(v)) csv_text(f, json_string_value(v));
            if (json_is_number(v)) fprintf(f, "%.9g", json_number_value(v));
            if (json_is_boolean(v)) fputs(json_is_true(v) ? "true" : "false", f);
        }
        fputc('\n', f);
    }
    return finish(files, part, "csv", f, &text, &bytes);
}

flrq_status flrq_bench_figure(const flrq_bench_files *files, const char *part, const flrq_chart *chart) {
    char *text = NULL;
    size_t bytes;
    if (!files->dir) return FLRQ_OK;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return flrq_fail_memory(0, "a figure");
    flrq_chart_xy(f, chart);
    return finish(files, part, "svg", f, &text, &bytes);
}

flrq_status flrq_bench_figure_bars(const flrq_bench_files *files, const char *part, const flrq_bars *bars) {
    char *text = NULL;
    size_t bytes;
    if (!files->dir) return FLRQ_OK;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return flrq_fail_memory(0, "a figure");
    flrq_chart_bars(f, bars);
    return finish(files, part, "svg", f, &text, &bytes);
}

flrq_status flrq_bench_result(const flrq_bench_files *files, const json_t *result) {
    if (!files->dir) return FLRQ_OK;
    char *path = path_of(files, NULL, "json");
    json_t *whole = json_copy((json_t *)result);
    flrq_status status = FLRQ_OK;
    if (!path || !whole || json_object_set(whole, "notices", files->reporter->notices) != 0)
        FLRQ_GOTO(flrq_fail_memory(0, "the result"));
    status = flrq_json_write(path, whole);
out:
    json_decref(whole);
    free(path);
    return status;
}

json_t *flrq_bench_provenance(const flrq_params *params, const char *device_name, const flrq_device_info *device) {
    char date[16];
    struct tm day;
    time_t now = time(NULL);
    char *command = flrq_params_command_line(params);
    double load = 0;
    if (getloadavg(&load, 1) != 1) load = 0;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &day));
    json_t *object = json_pack("{s:s*, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:f}", "command", command, "version",
                               flrq_version(), "date", date, "device", device_name, "machine", device->name,
                               "instruction_set", device->instruction_set, "libraries", device->libraries, "threads",
                               device->threads, "load_before", load);
    free(command);
    return object;
}

/* ---- work -------------------------------------------------------------------------------------------------------- */

flrq_status flrq_bench_scratch_make(char **out, const flrq_config *config) {
    const char *under = config->scratch;
    *out = NULL;
    if (!under) under = getenv("TMPDIR");
    if (!under || !*under) under = "/tmp";
    char *folder = flrq_path_join(under, "flrq-bench-XXXXXX");
    if (!folder) return flrq_fail_memory(0, "a path");
    if (!mkdtemp(folder)) {
        flrq_status status =
            flrq_fail_errno(FLRQ_ERR_IO, "%s: no folder can be made; --scratch DIR names another place", folder);
        free(folder);
        return status;
    }
    *out = folder;
    return FLRQ_OK;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    return remove(path);
}

flrq_status flrq_bench_folder_remove(const char *folder) {
    if (nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT) return FLRQ_OK;
    return flrq_fail_errno(FLRQ_ERR_IO, "%s could not be removed", folder);
}

void flrq_bench_scratch_remove(char *folder, const flrq_config *config, flrq_reporter *reporter) {
    char error[1024]; /* why the bench failed, which what follows must not replace */
    if (!folder) return;
    snprintf(error, sizeof error, "%s", flrq_last_error());
    if (config->keep)
        flrq_notice(reporter, "kept: %s", folder);
    else if (flrq_bench_folder_remove(folder) != FLRQ_OK) {
        flrq_notice(reporter, "%s", flrq_last_error());
        (void)flrq_fail(FLRQ_ERR_IO, "%s", error);
    }
    free(folder);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

flrq_bench_spread flrq_bench_spread_of(double *seconds, int count) {
    qsort(seconds, (size_t)count, sizeof *seconds, by_value);
    return (flrq_bench_spread){0.5 * (seconds[(count - 1) / 2] + seconds[count / 2]), seconds[count / 10],
                               seconds[count - 1 - count / 10], count};
}

/* Whether the two commands share the option: of the same name each may have one of its own. */
static bool shares(const flrq_params *params, const flrq_option *option) {
    size_t count;
    const flrq_option *const *options = flrq_command_options(flrq_commands()[params->command], &count);
    for (size_t i = 0; i < count; i++)
        if (options[i] == option) return true;
    return false;
}

flrq_status flrq_bench_params(flrq_params **out, const flrq_params *params, const char *command, const char *except) {
    size_t count;
    FLRQ_TRY(flrq_params_new(out, command));
    const flrq_option *const *options = flrq_command_options(command, &count);
    for (size_t i = 0; i < count; i++) {
        const char *name = options[i]->name;
        if (!shares(params, options[i]) || !flrq_params_given(params, name)) continue;
        if (except && strcmp(name, except) == 0) continue;
        flrq_status status = flrq_params_set(*out, name, flrq_params_get(params, name));
        if (status == FLRQ_OK) continue;
        flrq_params_free(*out);
        *out = NULL;
        return status;
    }
    return FLRQ_OK;
}
