/* report_page.c - `flrq report`: one HTML page from the report.json of a quantize run.
 *
 * Owns the job and the top of the page: what was run and what came out. Refuses what is not such a report, and to write
 * over it. The page is a pure function of the report, and appears under its name only when complete. A field that an
 * older report lacks is left out.
 */
#include "pipeline/report_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pipeline/chart.h"
#include "pipeline/command_line.h"
#include "pipeline/report.h"

/* ---- the report as rows and columns ----------------------------------------------------------------------------- */

static size_t kind_index(const report_view *v, const char *kind) {
    size_t k = 0;
    while (k < v->kinds && strcmp(v->kind[k], kind) != 0) k++;
    return k;
}

/* Finds the kinds and the layers, in the order of the report; none of either where there are too many for figures. */
static void find_kinds(report_view *v) {
    size_t i;
    json_t *m;
    json_array_foreach(v->matrices, i, m) {
        int64_t layer;
        const char *name = report_text(m, "name"), *kind = name ? flrq_report_kind(name, &layer) : NULL;
        if (!kind || layer < 0) continue;
        size_t k = kind_index(v, kind);
        if (k == REPORT_KINDS || layer >= REPORT_LAYERS) {
            v->kinds = v->layers = 0;
            return;
        }
        if (k == v->kinds) v->kind[v->kinds++] = kind;
        if ((size_t)layer >= v->layers) v->layers = (size_t)layer + 1;
    }
}

static flrq_status view_make(report_view *v, const json_t *report) {
    size_t i;
    json_t *m;
    *v = (report_view){
        .report = report, .matrices = json_object_get(report, "matrices"), .blocks = json_object_get(report, "blocks")};
    find_kinds(v);
    size_t cells = v->kinds * v->layers;
    v->at = calloc(cells + 1, sizeof *v->at);
    v->room = calloc(4 * cells + 1, sizeof *v->room);
    if (!v->at || !v->room)
        return flrq_fail_memory(cells * (sizeof *v->at + 4 * sizeof *v->room), "a table of matrices");
    if (cells == 0) return FLRQ_OK;
    json_array_foreach(v->matrices, i, m) {
        int64_t layer;
        const char *name = report_text(m, "name"), *kind = name ? flrq_report_kind(name, &layer) : NULL;
        if (kind && layer >= 0) v->at[kind_index(v, kind) * v->layers + (size_t)layer] = m;
    }
    return FLRQ_OK;
}

static void view_free(report_view *v) {
    free(v->at);
    free(v->room);
}

/* ---- what was run ----------------------------------------------------------------------------------------------- */

/* The value of an option as its text; "" when the report does not say. */
static void option_text(char *text, size_t bytes, const json_t *value) {
    if (json_is_boolean(value))
        snprintf(text, bytes, "%s", json_is_true(value) ? "true" : "false");
    else if (json_is_integer(value))
        snprintf(text, bytes, "%lld", (long long)json_integer_value(value));
    else
        snprintf(text, bytes, "%.17g", json_number_value(value));
}

/* The command line that repeats the run; NULL when this version does not know all of its options. free(). */
static char *command_of(const json_t *report) {
    flrq_params *params;
    const char *name;
    json_t *value, *arguments = json_object_get(report, "arguments");
    if (json_object_size(arguments) == 0 || flrq_params_new(&params, "quantize") != FLRQ_OK) return NULL;
    flrq_status status = FLRQ_OK;
    json_object_foreach(arguments, name, value) {
        char text[40];
        if (json_is_null(value) || status != FLRQ_OK) continue;
        option_text(text, sizeof text, value);
        status = flrq_params_set(params, name, json_is_string(value) ? json_string_value(value) : text);
    }
    char *line = status == FLRQ_OK ? flrq_params_command_line(params) : NULL;
    flrq_params_free(params);
    return line;
}

static void put_settings(FILE *out, const json_t *report) {
    static const char *const columns[] = {"<option", "<value"};
    const char *name;
    json_t *value, *arguments = json_object_get(report, "arguments");
    if (json_object_size(arguments) == 0) return;
    report_fold(out, "All settings");
    report_table(out, columns, sizeof columns / sizeof *columns);
    json_object_foreach(arguments, name, value) {
        char text[40];
        if (json_is_null(value)) continue;
        if (json_is_real(value))
            snprintf(text, sizeof text, "%g", json_real_value(value));
        else
            option_text(text, sizeof text, value);
        report_row(out);
        report_cell_text(out, name);
        report_cell_text(out, json_is_string(value) ? json_string_value(value) : text);
    }
    report_table_end(out);
    report_fold_end(out);
}

/* ---- headline --------------------------------------------------------------------------------------------------- */

/* The last part of a path, without slashes at its end. */
static char *last_part(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    return strndup(start < end ? path + start : path, start < end ? end - start : end);
}

/* "3 bits, groups of 128, symmetric", as far as the report says. */
static void put_scheme(FILE *out, const json_t *report) {
    double bits = report_real(report, "bits"), group = report_real(report, "group");
    const json_t *symmetric = json_object_get(report, "symmetric");
    if (isnan(bits)) return;
    fprintf(out, "%s bits", report_format(REPORT_COUNT, bits).text);
    if (group > 0) fprintf(out, ", groups of %s", report_format(REPORT_COUNT, group).text);
    if (group == 0) fputs(", one group a row", out);
    if (json_is_boolean(symmetric)) fputs(json_is_true(symmetric) ? ", symmetric" : ", with zero points", out);
}

static void put_subtitle(FILE *out, const json_t *report) {
    static const char *const keys[][2] = {{"method", "method"}, {"preset", "preset"}, {"family", "family"}};
    fputs("<p class=\"sub\">", out);
    put_scheme(out, report);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *value = report_text(report, keys[i][0]);
        if (!value) continue;
        fprintf(out, " \xc2\xb7 %s ", keys[i][1]);
        flrq_chart_text(out, value);
    }
    fputs("</p>\n", out);
    const json_t *device = json_object_get(report, "device");
    if (!report_text(device, "name")) return;
    double workers = report_real(device, "workers");
    fputs("<p class=\"sub\">", out);
    flrq_chart_text(out, report_text(device, "name"));
    if (workers > 1) fprintf(out, " \xc2\xb7 %s workers", report_format(REPORT_COUNT, workers).text);
    fputs("</p>\n", out);
}

/* A number of the headline: label, the number itself, and below it what it is made of. */
static void tile_begin(FILE *out, const char *label, report_form form, double value) {
    fprintf(out, "<div><dt>%s</dt><dd><span class=\"n\">", label);
    report_data(out, form, value);
    fputs("</span>", out);
}

static void tile_end(FILE *out) {
    fputs("</dd></div>\n", out);
}

static void put_bits_tile(FILE *out, const json_t *report) {
    static const char *const keys[] = {"codes", "scales", "zeros", "lowrank"};
    const json_t *parts = json_object_get(report, "bits_breakdown");
    bool first = true;
    tile_begin(out, "bits per weight", REPORT_FIXED4, report_real(report, "bits_per_weight"));
    for (int i = 0; i < FLRQ_REPORT_PARTS; i++) {
        double part = report_real(parts, keys[i]);
        if (!(part > 0)) continue;
        fprintf(out, "%s<span class=\"u\">%s ", first ? "" : " + ", report_parts[i]);
        report_data(out, REPORT_SHORT, part);
        fputs("</span>", out);
        first = false;
    }
    tile_end(out);
}

static void put_tiles(FILE *out, const json_t *report) {
    double error = report_real(report, "error"), nearest = report_real(report, "error_nearest");
    double rank = report_real(report, "average_rank"), most = report_real(report, "max_rank");
    double weights = report_real(report, "weights"), seconds = report_real(report, "seconds");
    size_t matrices = json_array_size(json_object_get(report, "matrices"));
    size_t blocks = json_array_size(json_object_get(report, "blocks"));
    fputs("<dl class=\"tiles\">\n", out);
    put_bits_tile(out, report);
    if (!isnan(error)) {
        tile_begin(out, "mean error", REPORT_DIGITS, error);
        if (!isnan(nearest)) {
            fputs("<span class=\"u\">nearest ", out);
            report_data(out, REPORT_DIGITS, nearest);
            fputs("</span>", out);
        }
        if (nearest > 0)
            fprintf(out, " <span class=\"u\">(%s)</span>", report_format(REPORT_CHANGE, error / nearest - 1).text);
        tile_end(out);
    }
    if (!isnan(rank)) {
        tile_begin(out, "mean rank", REPORT_FIXED1, rank);
        if (!isnan(most)) {
            fputs("largest ", out);
            report_data(out, REPORT_COUNT, most);
        }
        tile_end(out);
    }
    if (!isnan(weights)) {
        tile_begin(out, "weights", REPORT_LARGE, weights);
        fprintf(out, "%zu matrices in %zu layers", matrices, blocks);
        tile_end(out);
    }
    if (!isnan(seconds)) {
        tile_begin(out, "time", REPORT_SECONDS, seconds);
        double quantize = report_real(json_object_get(report, "phases"), "quantize");
        if (!isnan(quantize)) fprintf(out, "quantizing %s", report_format(REPORT_SECONDS, quantize).text);
        tile_end(out);
    }
    fputs("</dl>\n", out);
}

/* ---- facts ------------------------------------------------------------------------------------------------------ */

static void fact_begin(FILE *out, const char *label) {
    fprintf(out, "<tr><th scope=\"row\">%s</th><td>", label);
}

static void fact_end(FILE *out) {
    fputs("</td></tr>\n", out);
}

static void fact_text(FILE *out, const char *label, const char *text) {
    if (!text) return;
    fact_begin(out, label);
    flrq_chart_text(out, text);
    fact_end(out);
}

static void put_weights(FILE *out, const json_t *report) {
    double weights = report_real(report, "weights");
    if (isnan(weights)) return;
    fact_begin(out, "weights");
    fprintf(out, "%s in %zu matrices", report_format(REPORT_COUNT, weights).text,
            json_array_size(json_object_get(report, "matrices")));
    fact_end(out);
}

static void put_memory(FILE *out, const json_t *report) {
    double peak = report_real(report, "peak_rss_bytes"), planned = report_real(report, "planned_bytes");
    double device = report_real(report, "planned_device_bytes"), size = report_real(report, "output_bytes");
    if (!isnan(peak) || !isnan(planned)) {
        fact_begin(out, "memory");
        if (!isnan(peak)) fprintf(out, "%s at the peak", report_format(REPORT_BYTES, peak).text);
        if (!isnan(planned))
            fprintf(out, "%s%s planned", isnan(peak) ? "" : ", ", report_format(REPORT_BYTES, planned).text);
        if (device > 0) fprintf(out, "; %s planned on the device", report_format(REPORT_BYTES, device).text);
        fact_end(out);
    }
    if (!isnan(size)) {
        fact_begin(out, "output");
        fprintf(out, "at most %s planned", report_format(REPORT_BYTES, size).text);
        fact_end(out);
    }
}

static void put_calibration(FILE *out, const json_t *report) {
    const json_t *calibration = json_object_get(report, "calibration");
    double segments = report_real(calibration, "segments"), length = report_real(calibration, "length");
    if (isnan(segments) || isnan(length)) return;
    fact_begin(out, "calibration");
    if (segments > 0)
        fprintf(out, "%s segments of %s tokens", report_format(REPORT_COUNT, segments).text,
                report_format(REPORT_COUNT, length).text);
    else
        fputs("none: weights only", out);
    fact_end(out);
}

static void put_resumed(FILE *out, const json_t *report) {
    double resumed = report_real(report, "resumed_blocks");
    if (isnan(resumed)) return;
    fact_begin(out, "resumed");
    if (resumed > 0)
        fprintf(out, "%s of %zu layers are of an earlier process", report_format(REPORT_COUNT, resumed).text,
                json_array_size(json_object_get(report, "blocks")));
    else
        fputs("no", out);
    fact_end(out);
}

/* A list of texts, or of names with reasons. */
static void put_list(FILE *out, const char *label, const json_t *list) {
    size_t i;
    json_t *entry;
    if (json_array_size(list) == 0) return;
    fact_begin(out, label);
    fputs("<ul>", out);
    json_array_foreach(list, i, entry) {
        const char *reason = report_text(entry, "reason");
        fputs("<li>", out);
        flrq_chart_text(out, json_is_string(entry) ? json_string_value(entry) : report_text(entry, "name"));
        if (reason) fputs(": ", out);
        flrq_chart_text(out, reason);
        fputs("</li>", out);
    }
    fputs("</ul>", out);
    fact_end(out);
}

static void put_facts(FILE *out, const json_t *report) {
    const json_t *device = json_object_get(report, "device"), *notices = json_object_get(report, "notices");
    double seed = report_real(report, "seed"), copied = report_real(report, "copied_count");
    fputs("<h2 id=\"facts\">Facts</h2>\n<div class=\"scroll\"><table class=\"facts\"><tbody>\n", out);
    fact_text(out, "model", report_text(report, "model"));
    fact_text(out, "output folder", report_text(report, "out"));
    put_weights(out, report);
    put_calibration(out, report);
    if (report_real(device, "workers") > 1) fact_text(out, "workers joined by", report_text(device, "joined_by"));
    put_memory(out, report);
    put_resumed(out, report);
    if (!isnan(seed)) {
        fact_begin(out, "seed");
        fprintf(out, "%.0f", seed);
        fact_end(out);
    }
    if (!isnan(copied)) {
        fact_begin(out, "tensors copied");
        fputs(report_format(REPORT_COUNT, copied).text, out);
        fact_end(out);
    }
    put_list(out, "tensors tied to others", json_object_get(report, "tied"));
    put_list(out, "tensors dropped", json_object_get(report, "dropped"));
    put_list(out, "files copied", json_object_get(report, "copied_files"));
    put_list(out, "notices", notices);
    if (json_is_array(notices) && json_array_size(notices) == 0) fact_text(out, "notices", "none");
    fputs("</tbody></table></div>\n", out);
    put_settings(out, report);
}

/* ---- the page --------------------------------------------------------------------------------------------------- */

static void put_nav(FILE *out, const report_view *v) {
    fputs("<nav><a href=\"#facts\">Facts</a>", out);
    for (size_t i = 0; i < report_section_count; i++)
        if (report_sections[i].present(v))
            fprintf(out, "\n<a href=\"#%s\">%s</a>", report_sections[i].id, report_sections[i].title);
    fputs("</nav>\n", out);
}

/* Lines break between options rather than within one. */
static void put_command(FILE *out, char *command) {
    fputs("<pre><code><span class=\"u\">", out);
    for (char *next; (next = strstr(command, " -")); command = next + 1) {
        *next = '\0';
        flrq_chart_text(out, command);
        fputs("</span> <span class=\"u\">", out);
    }
    flrq_chart_text(out, command);
    fputs("</span></code></pre>\n", out);
}

static void put_page(FILE *out, const report_view *v, const char *model, char *command) {
    const json_t *report = v->report;
    report_head(out, model);
    fputs("<header>\n<h1>", out);
    flrq_chart_text(out, model);
    fputs("</h1>\n", out);
    put_subtitle(out, report);
    put_nav(out, v);
    put_tiles(out, report);
    if (command) {
        put_command(out, command);
    }
    fputs("</header>\n<main>\n", out);
    put_facts(out, report);
    for (size_t i = 0; i < report_section_count; i++) {
        const report_section *s = &report_sections[i];
        if (!s->present(v)) continue;
        fprintf(out, "<section>\n<h2 id=\"%s\">%s</h2>\n", s->id, s->title);
        s->put(out, v);
        fputs("</section>\n", out);
    }
    fputs("</main>\n<footer>flrq ", out);
    flrq_chart_text(out, report_text(report, "flrq"));
    fputs("</footer>\n</body>\n</html>\n", out);
}

static flrq_status write_page(const char *path, const report_view *v, size_t *bytes) {
    char *text = NULL, *command = command_of(v->report);
    const char *model = report_text(v->report, "model");
    char *name = last_part(model && *model ? model : "model");
    FILE *out = name ? open_memstream(&text, bytes) : NULL;
    flrq_status status = FLRQ_OK;
    if (out) {
        put_page(out, v, name, command);
        bool bad = ferror(out);
        if (fclose(out) != 0 || bad) status = flrq_fail_memory(*bytes, "the page");
    } else
        status = flrq_fail_memory(0, "the page");
    if (status == FLRQ_OK) status = flrq_file_write(path, text, *bytes);
    free(command);
    free(name);
    free(text);
    return status;
}

/* ---- the job ---------------------------------------------------------------------------------------------------- */

/* report.json of a folder, or the file itself. A folder with a journal alone is a run that has not ended. */
static flrq_status find_report(char **path, const char *given) {
    struct stat info;
    *path = NULL;
    if (stat(given, &info) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "%s", given);
    bool folder = S_ISDIR(info.st_mode);
    *path = folder ? flrq_path_join(given, "report.json") : strdup(given);
    char *journal = flrq_path_join(given, "journal.jsonl");
    bool begun = journal && flrq_path_exists(journal);
    free(journal);
    if (!*path || !journal) return flrq_fail_memory(0, "a path");
    if (!folder || flrq_path_exists(*path)) return FLRQ_OK;
    if (begun)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "%s: the quantize run in it has not ended, so there is no report.json yet; the same flrq "
                         "quantize command continues it",
                         given);
    return flrq_fail(FLRQ_ERR_FORMAT, "%s: no report.json in it: not the folder of a quantize run", given);
}

static flrq_status check_report(const char *path, const json_t *report) {
    if (report_text(report, "flrq") && !isnan(report_real(report, "bits_per_weight")) &&
        json_is_array(json_object_get(report, "matrices")))
        return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_FORMAT,
                     "file %s: not a report of flrq quantize: \"flrq\", \"bits_per_weight\" or \"matrices\" is missing",
                     path);
}

/* Where the page goes: --out, else report.html beside the report. */
static flrq_status page_path(char **page, const char *path, const char *out) {
    struct stat from, to;
    char *folder = flrq_path_parent(path);
    *page = out ? strdup(out) : folder ? flrq_path_join(folder, "report.html") : NULL;
    free(folder);
    if (!*page) return flrq_fail_memory(0, "a path");
    if (stat(path, &from) == 0 && stat(*page, &to) == 0 && from.st_dev == to.st_dev && from.st_ino == to.st_ino)
        return flrq_fail(FLRQ_ERR_USAGE, "file %s: -o names the report itself; choose another name for the page",
                         *page);
    return FLRQ_OK;
}

flrq_status flrq_job_report(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    char *path = NULL, *page = NULL;
    json_t *report = NULL;
    report_view view = {0};
    size_t bytes;
    flrq_status status;
    (void)reporter;
    FLRQ_GOTO(find_report(&path, params->config.model));
    FLRQ_GOTO(flrq_json_read(path, (size_t)1 << 30, &report));
    FLRQ_GOTO(check_report(path, report));
    FLRQ_GOTO(page_path(&page, path, params->config.out));
    FLRQ_GOTO(view_make(&view, report));
    FLRQ_GOTO(write_page(page, &view, &bytes));
    *result =
        json_pack("{s:s, s:s, s:I, s:I, s:I}", "report", path, "page", page, "bytes", (json_int_t)bytes, "matrices",
                  (json_int_t)json_array_size(view.matrices), "blocks", (json_int_t)json_array_size(view.blocks));
    if (!*result) status = flrq_fail_memory(0, "the result");
out:
    view_free(&view);
    json_decref(report);
    free(page);
    free(path);
    return status;
}
