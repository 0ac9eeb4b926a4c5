/* report.c - totals and tables from per-matrix records. */
#include "pipeline/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *flrq_report_matrix(const flrq_linear *l, const flrq_scheme *scheme, const flrq_fit_result *r) {
    json_t *amax = json_array();
    for (int64_t i = 0; i <= r->curve_terms; i++) json_array_append_new(amax, json_real(r->amax[i]));
    return json_pack("{s:s, s:I, s:I, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:i, s:i, s:f, s:o}",
                     "name", l->module, "rows", (json_int_t)l->rows, "cols", (json_int_t)l->cols, "bits", scheme->bits,
                     "group", (json_int_t)flrq_scheme_group(scheme, l->cols), "rank", (json_int_t)r->rank,
                     "bits_per_weight", r->bits_per_weight, "error", r->error, "error_nearest", r->error_nearest,
                     "error_start", r->error_start, "weight_error", r->weight_error, "clip_ratio", r->clip_ratio,
                     "clipped", r->clipped, "zero_groups", (json_int_t)r->zero_groups, "epochs", r->epochs,
                     "best_epoch", r->best_epoch, "seconds", r->seconds, "amax", amax);
}

static double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key) {
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

void flrq_report_ranks(int64_t *ranks, const flrq_model *model, json_t *const *blocks) {
    int64_t next = 0;
    for (int64_t b = 0; b < model->layers; b++) {
        size_t i;
        json_t *matrix;
        json_array_foreach(json_object_get(blocks[b], "matrices"), i, matrix) if (next < model->n_linears)
            ranks[next++] = (int64_t)number(matrix, "rank");
    }
    while (next < model->n_linears) ranks[next++] = 0;
}

void flrq_report_bits(double bits[FLRQ_REPORT_PARTS], const json_t *m, int symmetric) {
    double rows = number(m, "rows"), cols = number(m, "cols"), groups = ceil(cols / number(m, "group"));
    bits[0] = number(m, "bits") * rows * cols;
    bits[1] = 16 * rows * groups;
    bits[2] = symmetric ? 0 : number(m, "bits") * rows * groups;
    bits[3] = 16 * number(m, "rank") * (rows + cols);
}

/* Sums over a list of matrices. Means of errors are plain means over matrices. */
typedef struct summary {
    double weights, bits, codes, scales, zeros, lowrank, ranks, error, nearest, worst_error;
    int64_t count, rank_min, rank_max;
    const char *worst;
} summary;

static void add_matrices(summary *s, const json_t *matrices, int symmetric) {
    size_t i;
    json_t *m;
    json_array_foreach(matrices, i, m) {
        double parts[FLRQ_REPORT_PARTS], weights = number(m, "rows") * number(m, "cols");
        int64_t rank = (int64_t)number(m, "rank");
        flrq_report_bits(parts, m, symmetric);
        s->weights += weights;
        s->bits += number(m, "bits_per_weight") * weights;
        s->codes += parts[0];
        s->scales += parts[1];
        s->zeros += parts[2];
        s->lowrank += parts[3];
        s->ranks += (double)rank;
        s->error += number(m, "error");
        s->nearest += number(m, "error_nearest");
        if (s->count == 0 || rank < s->rank_min) s->rank_min = rank;
        if (rank > s->rank_max) s->rank_max = rank;
        if (s->count == 0 || number(m, "error") > s->worst_error) {
            s->worst_error = number(m, "error");
            s->worst = text(m, "name");
        }
        s->count++;
    }
}

const char *flrq_report_kind(const char *name, int64_t *layer) {
    if (layer) *layer = -1;
    for (const char *p = name; *p; p++)
        if (*p == '.' && p[1] >= '0' && p[1] <= '9') {
            const char *dot = strchr(p + 1, '.');
            if (!dot) continue;
            if (layer) *layer = strtoll(p + 1, NULL, 10);
            return dot + 1;
        }
    return name;
}

void flrq_report_block_line(char *out, size_t bytes, const json_t *record, double seconds) {
    summary s = {0};
    add_matrices(&s, json_object_get(record, "matrices"), 1);
    double count = s.count ? (double)s.count : 1;
    snprintf(
        out, bytes,
        "%lld matrices, rank %lld-%lld (mean %.1f), %.3f bits/weight, error %.4g (nearest %.4g), worst %s %.4g, %.1f s",
        (long long)s.count, (long long)s.rank_min, (long long)s.rank_max, s.ranks / count,
        s.weights > 0 ? s.bits / s.weights : 0, s.error / count, s.nearest / count,
        s.worst ? flrq_report_kind(s.worst, NULL) : "-", s.worst_error, seconds);
}

static json_t *block_entry(const json_t *record, int64_t block, int symmetric) {
    summary s = {0};
    add_matrices(&s, json_object_get(record, "matrices"), symmetric);
    double count = s.count ? (double)s.count : 1;
    return json_pack("{s:I, s:f, s:f, s:I, s:f, s:I, s:f, s:f, s:s, s:f}", "block", (json_int_t)block, "seconds",
                     number(record, "seconds"), "bits_per_weight", s.weights > 0 ? s.bits / s.weights : 0, "rank_min",
                     (json_int_t)s.rank_min, "rank_mean", s.ranks / count, "rank_max", (json_int_t)s.rank_max, "error",
                     s.error / count, "error_nearest", s.nearest / count, "worst",
                     s.worst ? flrq_report_kind(s.worst, NULL) : "", "worst_error", s.worst_error);
}

static int by_error(const void *a, const void *b) {
    double x = number(*(json_t *const *)a, "error"), y = number(*(json_t *const *)b, "error");
    return x < y ? 1 : x > y ? -1 : strcmp(text(*(json_t *const *)a, "name"), text(*(json_t *const *)b, "name"));
}

/* The five matrices with the largest error. */
static json_t *worst_list(const json_t *matrices) {
    size_t count = json_array_size(matrices);
    json_t **sorted = malloc((count + 1) * sizeof *sorted), *list = json_array();
    if (!sorted) return list;
    for (size_t i = 0; i < count; i++) sorted[i] = json_array_get(matrices, i);
    qsort(sorted, count, sizeof *sorted, by_error);
    for (size_t i = 0; i < count && i < 5; i++) {
        static const char *const keys[] = {"name", "rows", "cols", "rank", "error", "error_nearest"};
        json_t *entry = json_object();
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            json_object_set(entry, keys[k], json_object_get(sorted[i], keys[k]));
        json_array_append_new(list, entry);
    }
    free(sorted);
    return list;
}

static json_t *fates(const flrq_model *model, flrq_fate fate) {
    json_t *list = json_array();
    for (int64_t i = 0; i < model->n_others; i++)
        if (model->others[i].fate == fate)
            json_array_append_new(list, json_pack("{s:s, s:s?}", "name", model->others[i].tensor->name, "reason",
                                                  model->others[i].reason));
    return list;
}

json_t *flrq_report_new(const flrq_params *params, const flrq_model *model, const flrq_plan *plan,
                        const flrq_device_info *device, json_t *fingerprint, json_t *const *blocks, int64_t resumed,
                        const flrq_comm *comm, const flrq_reporter *reporter) {
    int symmetric = plan->fit.scheme.symmetric;
    json_t *matrices = json_array(), *rows = json_array();
    summary s = {0};
    for (int64_t b = 0; b < model->layers; b++) {
        json_array_extend(matrices, json_object_get(blocks[b], "matrices"));
        json_array_append_new(rows, block_entry(blocks[b], b + 1, symmetric));
    }
    add_matrices(&s, matrices, symmetric);
    double weights = s.weights > 0 ? s.weights : 1, count = s.count ? (double)s.count : 1;
    json_int_t copied = 0;
    for (int64_t i = 0; i < model->n_others; i++) copied += model->others[i].fate == FLRQ_FATE_COPY;
    json_t *report = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:b, s:I, s:f, s:{s:f, s:f, s:f, s:f}, s:f, s:I, s:f, s:f, s:o, s:o, "
        "s:I}",
        "flrq", FLRQ_VERSION_STRING, "out", params->config.out, "model", params->config.model, "family",
        model->family_name, "method", flrq_params_get(params, "method"), "preset",
        params->config.preset == PRESET_PAPER ? "paper" : "default", "bits", (json_int_t)params->config.bits, "group",
        (json_int_t)params->config.group, "symmetric", symmetric, "weights", (json_int_t)s.weights, "bits_per_weight",
        s.bits / weights, "bits_breakdown", "codes", s.codes / weights, "scales", s.scales / weights, "zeros",
        s.zeros / weights, "lowrank", s.lowrank / weights, "average_rank", s.ranks / count, "max_rank",
        (json_int_t)s.rank_max, "error", s.error / count, "error_nearest", s.nearest / count, "blocks", rows, "worst",
        worst_list(matrices), "resumed_blocks", (json_int_t)resumed);
    if (!report) {
        json_decref(matrices);
        return NULL;
    }
    json_object_set_new(report, "seed", json_integer(params->config.seed));
    json_object_set_new(report, "planned_bytes",
                        json_integer((json_int_t)plan->host_bytes * (comm->in_process ? comm->in_process : 1)));
    json_object_set_new(report, "planned_device_bytes", json_integer((json_int_t)plan->device_bytes));
    json_object_set_new(report, "output_bytes", json_integer((json_int_t)plan->output_bytes));
    json_object_set_new(report, "calibration",
                        json_pack("{s:I, s:I, s:I}", "segments", (json_int_t)plan->segments, "length",
                                  (json_int_t)plan->length, "batch", (json_int_t)plan->batch));
    json_object_set_new(report, "device",
                        json_pack("{s:s, s:s, s:i, s:i, s:s}", "name", device->name, "instruction_set",
                                  device->instruction_set, "threads", device->threads, "workers", comm->size,
                                  "joined_by", comm->name));
    json_object_set_new(report, "tied", fates(model, FLRQ_FATE_TIED));
    json_object_set_new(report, "dropped", fates(model, FLRQ_FATE_DROP));
    json_object_set_new(report, "copied_count", json_integer(copied));
    json_object_set(report, "notices", reporter->notices);
    json_object_set_new(report, "arguments", flrq_params_json(params, 0));
    json_object_set(report, "fingerprint", fingerprint);
    json_object_set_new(report, "matrices", matrices);
    return report;
}

void flrq_report_finish(json_t *report, const flrq_phases *p, json_t *copied) {
    double blocks = 0;
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(report, "blocks"), i, row) blocks += number(row, "seconds");
    json_object_set_new(report, "phases",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "open", p->open, "calibrate", p->calibrate,
                                  "quantize", p->quantize, "write", p->write, "forward", p->forward, "verify",
                                  p->verify));
    json_object_set_new(report, "seconds",
                        json_real(p->open + p->calibrate + p->quantize + p->write + p->forward + p->verify));
    json_object_set_new(report, "block_seconds", json_real(blocks));
    json_object_set_new(report, "peak_rss_bytes", json_integer((json_int_t)flrq_peak_rss_bytes()));
    json_object_set(report, "copied_files", copied);
}

json_t *flrq_report_result(const json_t *report) {
    json_t *result = json_copy((json_t *)report);
    json_object_del(result, "matrices");
    json_object_del(result, "arguments");
    json_object_del(result, "fingerprint");
    char *path = flrq_path_join(text(report, "out"), "report.json");
    if (path) json_object_set_new(result, "report", json_string(path));
    free(path);
    return result;
}

flrq_status flrq_report_read(const char *dir, json_t **result) {
    json_t *report;
    char *path = flrq_path_join(dir, "report.json");
    if (!path) return flrq_fail_memory(0, "a path");
    flrq_status status = flrq_json_read(path, (size_t)1 << 30, &report);
    free(path);
    if (status != FLRQ_OK) return status;
    *result = flrq_report_result(report);
    json_decref(report);
    return FLRQ_OK;
}
