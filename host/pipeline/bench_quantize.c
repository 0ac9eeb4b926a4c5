/* bench_quantize.c - `flrq bench quantize`: whole quantize runs, phase by phase, against their floor.
 *
 * The job is the real one, on files, with random calibration tokens; nothing of it is shortened. It runs on generated
 * checkpoints of known shapes, one after the other, or on a folder of the user's, which is only read. Everything else
 * lies in a folder of its own per run that is removed at the end, also when the run fails.
 *
 * Seconds are those of the wall: what the job's own phases do not account for, above all reading weights, is a row of
 * its own, and the rows add up to the total. The floor of a phase is what nothing on this device could undercut without
 * doing less: the forward of the linear layers with the source weights (calibrate) and with the quantized ones
 * (forward, which the last block does not need) at the measured matrix rate, 2 P T flops each, and the weights once
 * from the file or over the bus, whichever is slower. Rates are measured in the same command. With --overlap weights
 * are read beside the computation: that row may then lie below its floor.
 *
 * With --blocks K the run has K blocks, and the numbers for the whole model are extrapolated: after opening, all phases
 * are taken as proportional to the blocks, the second forward to the blocks but one; from one block nothing follows.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pipeline/bench.h"
#include "pipeline/bench_model.h"

static const double card_gb = 24, limit_seconds = 0.2;
static const char rest[] = "read and rest"; /* row of what is in no phase of the job */
enum { READ_BYTES = 16 << 20, READ_MOST = 1 << 30 };

/* What all runs of the command share. */
typedef struct bench {
    const flrq_params *params;
    const flrq_config *config;
    flrq_reporter *reporter;
    flrq_bench_files files;
    char backend[32];
    flrq_device_info device;
    int fast;                 /* forwards run in FAST precision */
    flrq_bench_limits limits; /* measured after the first run, all 0 before */
    json_t *runs, *rows;
} bench;

/* Linear weights, and what a run does with them. */
typedef struct work {
    int64_t blocks;
    double weights, last, bytes; /* last: of the last block */
} work;

typedef struct run {
    const bench *b;
    const char *name;
    const flrq_bench_shape *shape; /* NULL: a folder of the user's */
    work part, whole;              /* that runs, and that the shape has */
    int64_t vocab, positions, length;
    char *folder, *model, *out, *tokens;
    char *read_file;    /* whose reading is timed */
    double read;        /* bytes a second from it */
    double generate;    /* seconds; NaN when nothing was generated */
    double wall;        /* seconds of the job */
    double memory_then; /* peak of this process when the job began */
} run;

/* ---- files ------------------------------------------------------------------------------------------------------- */

static flrq_status make_folders(run *r) {
    FLRQ_TRY(flrq_bench_scratch_make(&r->folder, r->b->config));
    r->model = r->shape ? flrq_path_join(r->folder, "model") : strdup(r->b->config->model);
    r->out = flrq_path_join(r->folder, "quantized");
    r->tokens = flrq_path_join(r->folder, "tokens.npy");
    if (!r->model || !r->out || !r->tokens) return flrq_fail_memory(0, "a path");
    return r->shape ? flrq_dir_make(r->model) : FLRQ_OK;
}

static void remove_folders(run *r) {
    flrq_bench_scratch_remove(r->folder, r->b->config, r->b->reporter);
    free(r->read_file);
    free(r->tokens);
    free(r->out);
    free(r->model);
}

static flrq_status write_model(const run *r, int empty) {
    const flrq_config *c = r->b->config;
    return flrq_bench_model_write(r->model, r->shape, r->part.blocks, (uint64_t)c->seed, (int)c->threads, empty,
                                  r->b->reporter);
}

/* The checkpoint, and room for what is made of it, must fit. */
static flrq_status check_room(const run *r) {
    uint64_t wanted = flrq_bench_model_bytes(r->shape, r->part.blocks), available;
    FLRQ_TRY(flrq_dir_free_bytes(r->folder, &available));
    wanted += wanted / 2;
    if (available >= wanted) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_IO,
                     "%s: %.1f GB are free, a checkpoint of %lld blocks and its result take %.1f GB; use --blocks or "
                     "--scratch",
                     r->folder, (double)available / 1e9, (long long)r->part.blocks, (double)wanted / 1e9);
}

/* What the headers of the checkpoint say: linear weights, vocabulary, context, a file that holds weights. */
static flrq_status survey(run *r) {
    flrq_model *m;
    FLRQ_TRY(flrq_model_open(&m, r->model, 0));
    work w = {.blocks = m->layers};
    flrq_status status = FLRQ_OK;
    for (int64_t i = 0; i < m->n_linears; i++) {
        const flrq_linear *l = &m->linears[i];
        if (!l->weight)
            FLRQ_GOTO(flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: tensor %s is quantized already; the source model is wanted",
                                r->model, l->module));
        double weights = (double)(l->rows * l->cols);
        w.weights += weights;
        w.bytes += (double)l->weight->bytes;
        if (l->block == m->layers - 1) w.last += weights;
    }
    r->part = r->whole = w;
    if (r->shape) { /* all blocks are alike */
        double factor = (double)r->shape->blocks / (double)w.blocks;
        r->whole = (work){r->shape->blocks, factor * w.weights, w.last, factor * w.bytes};
    }
    r->vocab = m->vocab;
    r->positions = m->max_positions;
    r->read_file = strdup(m->checkpoint->files[m->linears[0].weight->file]);
    if (!r->read_file) status = flrq_fail_memory(0, "a path");
out:
    flrq_model_close(m);
    return status;
}

/* A context shorter than the default shortens the segments, as for quantize; what was asked for is refused. */
static flrq_status choose_length(run *r) {
    r->length = r->b->config->calib_len;
    if (r->length <= r->positions) return FLRQ_OK;
    if (flrq_params_given(r->b->params, "calib-len"))
        return flrq_fail(FLRQ_ERR_USAGE, "--calib-len %lld is above the %lld positions of %s", (long long)r->length,
                         (long long)r->positions, r->name);
    r->length = r->positions;
    flrq_notice(r->b->reporter, "calibration segments have %lld tokens, the context of %s", (long long)r->length,
                r->name);
    return FLRQ_OK;
}

/* Rate at which a file of weights is read, by one thread. */
static flrq_status measure_read(run *r) {
    char *buffer = malloc(READ_BYTES);
    flrq_status status = FLRQ_OK;
    int fd = open(r->read_file, O_RDONLY | O_CLOEXEC);
    if (!buffer) FLRQ_GOTO(flrq_fail_memory(READ_BYTES, "the read bench"));
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size <= 0) FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be read", r->read_file));
    if (size > READ_MOST) size = READ_MOST;
    double t = flrq_seconds();
    for (off_t at = 0; at < size; at += READ_BYTES) {
        off_t bytes = size - at < READ_BYTES ? size - at : READ_BYTES;
        FLRQ_GOTO(flrq_file_pread(fd, r->read_file, buffer, (size_t)bytes, (uint64_t)at));
    }
    r->read = (double)size / (flrq_seconds() - t);
out:
    if (fd >= 0) close(fd);
    free(buffer);
    return status;
}

/* ---- the jobs under test ----------------------------------------------------------------------------------------- */

/* Parameters of `command` for this run. */
static flrq_status params_for(const run *r, flrq_params **out, const char *command) {
    FLRQ_TRY(flrq_bench_params(out, r->b->params, command, NULL));
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(flrq_params_set(*out, "model", r->model));
    FLRQ_GOTO(flrq_params_set(*out, "out", r->out));
    FLRQ_GOTO(flrq_params_set(*out, "calib-tokens", r->tokens));
    status = flrq_params_check(*out);
out:
    if (status != FLRQ_OK) {
        flrq_params_free(*out);
        *out = NULL;
    }
    return status;
}

/* What plan says, without its list of tensors. `card`: on a GPU of 24 GB instead of the device asked for. A plan that
 * does not fit is a result, too: {"error"}, and *verdict says why. */
static flrq_status run_plan(const run *r, int card, json_t **result, flrq_status *verdict) {
    flrq_params *params;
    char memory[32];
    json_t *plan = NULL;
    FLRQ_TRY(params_for(r, &params, "plan"));
    flrq_status status = FLRQ_OK;
    if (card) {
        snprintf(memory, sizeof memory, "%g", card_gb);
        FLRQ_GOTO(flrq_params_set(params, "device-memory", memory));
        if (!r->b->device.separate_memory) FLRQ_GOTO(flrq_params_set(params, "device", "cuda"));
    }
    status = *verdict = flrq_job_plan(params, r->b->reporter, &plan);
    if (status == FLRQ_OK) {
        json_object_del(plan, "tensors");
        *result = plan;
    } else if (status == FLRQ_ERR_MEMORY || status == FLRQ_ERR_UNSUPPORTED) {
        *result = json_pack("{s:s}", "error", flrq_last_error());
        status = FLRQ_OK;
    }
out:
    flrq_params_free(params);
    return status;
}

static flrq_status run_quantize(run *r, json_t **result) {
    flrq_params *params;
    FLRQ_TRY(params_for(r, &params, "quantize"));
    r->memory_then = flrq_peak_rss_bytes();
    double t = flrq_seconds();
    flrq_status status = flrq_job_quantize(params, r->b->reporter, result);
    r->wall = flrq_seconds() - t;
    flrq_params_free(params);
    return status;
}

/* Limits of the device, once: after a run, because their buffers would show in its peak of memory. */
static flrq_status measure_limits(bench *b) {
    flrq_backend *be;
    if (b->limits.copy > 0) return FLRQ_OK;
    flrq_progress(b->reporter, "limits", 0, 1);
    FLRQ_TRY(flrq_backend_open(&be, b->config->device, (int)b->config->threads));
    flrq_status status = flrq_bench_limits_measure(&b->limits, be, limit_seconds);
    flrq_backend_close(be);
    return status;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* Seconds; 0: none. */
typedef struct floors {
    double calibrate, forward, read, total;
} floors;

static double slower(double a, double b) {
    return a > 0 && b > 0 ? fmin(a, b) : fmax(a, b);
}

static floors floors_of(const run *r, const work *w) {
    const bench *b = r->b;
    double rate = b->fast ? b->limits.fast : b->limits.full;
    double flops = 2 * (double)(b->config->calib_samples * r->length);
    floors f = {.calibrate = flops * w->weights / rate,
                .forward = flops * (w->weights - w->last) / rate,
                .read = w->bytes / (b->device.separate_memory ? slower(r->read, b->limits.upload) : r->read)};
    f.total = f.calibrate + f.forward + f.read;
    return f;
}

static double floor_of(const floors *f, const char *phase) {
    return strcmp(phase, "calibrate") == 0 ? f->calibrate
           : strcmp(phase, "forward") == 0 ? f->forward
           : strcmp(phase, rest) == 0      ? f->read
                                           : 0;
}

static double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

static json_t *positive(double value) {
    return value > 0 && isfinite(value) ? json_real(value) : json_null();
}

static json_t *known(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

typedef struct table {
    const run *r;
    floors floor, whole_floor;
    double seconds, whole; /* totals; whole is NaN when nothing follows from the run */
    json_t *rows;
} table;

/* whole: seconds of the whole model, or NaN. */
static void add_row(table *t, const char *phase, double seconds, double whole, double floor, double whole_floor) {
    json_array_append_new(t->rows, json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "shape", t->r->name,
                                             "phase", phase, "status", "ok", "seconds", known(seconds), "share",
                                             known(seconds / t->seconds), "floor", positive(floor), "seconds_model",
                                             known(whole), "share_model", known(whole / t->whole), "floor_model",
                                             positive(whole_floor)));
}

/* How much more of a phase the whole model has. */
static double factor_of(const run *r, const char *phase) {
    double part = (double)r->part.blocks, whole = (double)r->whole.blocks;
    if (part == whole || strcmp(phase, "open") == 0) return 1;
    if (part == 1) return NAN;
    return strcmp(phase, "forward") == 0 ? (whole - 1) / (part - 1) : whole / part;
}

/* Phases as the job reports them, what is left of the wall's time, and the total. */
static void tabulate(table *t, const json_t *result) {
    const run *r = t->r;
    const char *phase;
    json_t *value, *phases = json_copy(json_object_get(result, "phases"));
    t->rows = json_array();
    t->floor = floors_of(r, &r->part);
    t->whole_floor = floors_of(r, &r->whole);
    t->seconds = r->wall;
    t->whole = 0;
    double left = r->wall;
    json_object_foreach(phases, phase, value) left -= json_number_value(value);
    json_object_set_new(phases, rest, json_real(fmax(0, left)));
    json_object_foreach(phases, phase, value) t->whole += factor_of(r, phase) * json_number_value(value);
    json_object_foreach(phases, phase, value) {
        double seconds = json_number_value(value);
        add_row(t, phase, seconds, factor_of(r, phase) * seconds, floor_of(&t->floor, phase),
                floor_of(&t->whole_floor, phase));
    }
    add_row(t, "total", t->seconds, t->whole, t->floor.total, t->whole_floor.total);
    json_decref(phases);
}

static json_t *result_of(const run *r, json_t *quantize) {
    const bench *b = r->b;
    table t = {.r = r};
    tabulate(&t, quantize);
    json_t *limits = flrq_bench_limits_json(&b->limits);
    json_object_set_new(limits, "read_gb_s", json_real(1e-9 * r->read));
    /* The process has one peak: a lower one of the job does not show. */
    if (number(quantize, "peak_rss_bytes") <= r->memory_then)
        json_object_set_new(quantize, "peak_rss_bytes", json_null());
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:O}", "shape",
                     r->name, "precision", b->fast ? "fast" : "full", "blocks", (json_int_t)r->part.blocks,
                     "model_blocks", (json_int_t)r->whole.blocks, "weights", (json_int_t)r->part.weights,
                     "model_weights", (json_int_t)r->whole.weights, "tokens",
                     (json_int_t)(b->config->calib_samples * r->length), "generate_seconds", known(r->generate),
                     "limits", limits, "rows", t.rows, "seconds", known(t.seconds), "seconds_model", known(t.whole),
                     "floor_seconds", positive(t.floor.total), "floor_seconds_model", positive(t.whole_floor.total),
                     "over_floor", known(t.seconds / t.floor.total), "over_floor_model",
                     known(t.whole / t.whole_floor.total), "quantize", quantize);
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

/* A shape that is given holes first: what its plan refuses is not generated. */
static flrq_status run_one(bench *b, run *r, json_t **result) {
    const flrq_config *c = b->config;
    flrq_status status = FLRQ_OK, verdict, ignored;
    json_t *plan = NULL, *card = NULL, *quantize = NULL;
    FLRQ_GOTO(make_folders(r));
    if (r->shape) FLRQ_GOTO(write_model(r, 1));
    FLRQ_GOTO(survey(r));
    FLRQ_GOTO(choose_length(r));
    FLRQ_GOTO(flrq_bench_tokens_write(r->tokens, r->vocab, c->calib_samples, r->length, (uint64_t)c->seed));
    FLRQ_GOTO(run_plan(r, 0, &plan, &verdict));
    FLRQ_GOTO(run_plan(r, 1, &card, &ignored));
    if (c->plan_only) {
        *result = json_pack("{s:s, s:I, s:I}", "shape", r->name, "blocks", (json_int_t)r->part.blocks, "model_blocks",
                            (json_int_t)r->whole.blocks);
    } else {
        if (verdict != FLRQ_OK) FLRQ_GOTO(flrq_fail(verdict, "%s", json_string_value(json_object_get(plan, "error"))));
        if (r->shape) {
            double t = flrq_seconds();
            FLRQ_GOTO(check_room(r));
            FLRQ_GOTO(write_model(r, 0));
            r->generate = flrq_seconds() - t;
        }
        FLRQ_GOTO(measure_read(r));
        FLRQ_GOTO(run_quantize(r, &quantize));
        FLRQ_GOTO(measure_limits(b));
        *result = result_of(r, quantize);
    }
    if (!*result) FLRQ_GOTO(flrq_fail_memory(0, "the result"));
    json_object_set(*result, "plan", plan);
    json_object_set(*result, "plan_24gb", card);
out:
    remove_folders(r);
    json_decref(quantize);
    json_decref(card);
    json_decref(plan);
    return status;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

/* The figure: for every run its phases, and below them its floor. */
static flrq_status draw(const bench *b) {
    static const char unit[] = "seconds";
    size_t runs = json_array_size(b->runs), bars = 0, parts = 0, i, k;
    const char **names = calloc(2 * runs, sizeof *names), **part_names = NULL;
    char **owned = calloc(runs, sizeof *owned), *note = NULL;
    double *values = NULL;
    int extrapolated = 0, all_known = 1;
    double tokens = 0;
    json_t *one, *row;
    flrq_status status = FLRQ_OK;
    if (!names || !owned) FLRQ_GOTO(flrq_fail_memory(0, "a figure"));
    json_array_foreach(b->runs, i, one) {
        size_t rows = json_array_size(json_object_get(one, "rows"));
        if (rows == 0) continue;
        tokens = number(one, "tokens");
        parts = rows - 1; /* the total is no part; all runs have the same phases */
        extrapolated |= number(one, "blocks") < number(one, "model_blocks");
        all_known &= json_is_real(json_object_get(one, "seconds_model"));
    }
    if (parts == 0) goto out;
    values = calloc(2 * runs * parts, sizeof *values);
    part_names = calloc(parts, sizeof *part_names);
    if (!values || !part_names) FLRQ_GOTO(flrq_fail_memory(0, "a figure"));
    json_array_foreach(b->runs, i, one) {
        const json_t *rows = json_object_get(one, "rows");
        if (json_array_size(rows) != parts + 1) continue;
        const char *name = json_string_value(json_object_get(one, "shape"));
        if (asprintf(&owned[i], "%s: floor", name) < 0) {
            owned[i] = NULL;
            FLRQ_GOTO(flrq_fail_memory(0, "a figure"));
        }
        json_array_foreach(rows, k, row) {
            if (k == parts) break;
            part_names[k] = json_string_value(json_object_get(row, "phase"));
            values[bars * parts + k] = number(row, all_known ? "seconds_model" : "seconds");
            values[(bars + 1) * parts + k] = number(row, all_known ? "floor_model" : "floor");
        }
        names[bars++] = name;
        names[bars++] = owned[i];
    }
    if (asprintf(&note, "%s; %s precision, %.0f calibration tokens", b->device.name, b->fast ? "fast" : "full",
                 tokens) < 0) {
        note = NULL;
        FLRQ_GOTO(flrq_fail_memory(0, "a figure"));
    }
    char title[128] = "Quantize run by phase, and its floor";
    if (extrapolated)
        snprintf(title, sizeof title,
                 all_known ? "Quantize run by phase, whole model extrapolated from %lld blocks"
                           : "Quantize run by phase, %lld block of the model",
                 (long long)b->config->blocks);
    status = flrq_bench_figure_bars(&b->files, "phases",
                                    &(flrq_bars){title, note, unit, bars, parts, names, part_names, values});
out:
    for (i = 0; owned && i < runs; i++) free(owned[i]);
    free(note);
    free(part_names);
    free(values);
    free(owned);
    free(names);
    return status;
}

/* Provenance, limits, runs and all rows; of a single run its fields as well. */
static json_t *whole_result(const bench *b) {
    json_t *result = flrq_bench_provenance(b->params, b->backend, &b->device);
    json_t *only = json_array_size(b->runs) == 1 ? json_array_get(b->runs, 0) : NULL;
    if (b->limits.copy > 0) json_object_set_new(result, "limits", flrq_bench_limits_json(&b->limits));
    json_object_set_new(result, "precision", json_string(b->fast ? "fast" : "full"));
    if (only) json_object_update(result, only);
    json_object_set(result, "rows", b->rows);
    json_object_set(result, "runs", b->runs);
    return result;
}

/* After every run, so that a long list that is stopped leaves what was measured. */
static flrq_status write_results(const bench *b) {
    static const char *const keys[] = {"shape",         "phase",       "seconds",     "share", "floor",
                                       "seconds_model", "share_model", "floor_model", "status"};
    if (json_array_size(b->rows) > 0)
        FLRQ_TRY(flrq_bench_csv(&b->files, NULL, b->rows, keys, sizeof keys / sizeof *keys));
    FLRQ_TRY(draw(b));
    json_t *result = whole_result(b);
    flrq_status status = result ? flrq_bench_result(&b->files, result) : flrq_fail_memory(0, "the result");
    json_decref(result);
    return status;
}

static flrq_status keep_result(bench *b, json_t *one) {
    json_array_extend(b->rows, json_object_get(one, "rows"));
    json_array_append_new(b->runs, one);
    return write_results(b);
}

/* A run among several that failed: its reason, as a row. */
static flrq_status keep_failure(bench *b, const char *name) {
    const char *why = flrq_last_error();
    json_array_append_new(b->rows, json_pack("{s:s, s:n, s:s}", "shape", name, "phase", "status", why));
    json_array_append_new(b->runs, json_pack("{s:s, s:s}", "shape", name, "error", why));
    flrq_notice(b->reporter, "%s: %s", name, why);
    return write_results(b);
}

/* ---- the job ----------------------------------------------------------------------------------------------------- */

static flrq_status run_shapes(bench *b, const flrq_bench_shape *const *shapes, int count) {
    flrq_status status = FLRQ_OK;
    int done = 0;
    for (int i = 0; i < count; i++) {
        run r = {.b = b, .name = shapes[i]->name, .shape = shapes[i], .generate = NAN};
        json_t *one = NULL;
        r.part.blocks = shapes[i]->blocks;
        if (b->config->blocks && b->config->blocks < r.part.blocks) r.part.blocks = b->config->blocks;
        status = run_one(b, &r, &one);
        if (status == FLRQ_OK) {
            FLRQ_TRY(keep_result(b, one));
            done++;
        } else if (count == 1 || status == FLRQ_STOPPED) {
            return status;
        } else {
            FLRQ_TRY(keep_failure(b, r.name));
        }
    }
    if (done > 0) return FLRQ_OK;
    const json_t *last = json_array_get(b->runs, (size_t)count - 1);
    return flrq_fail(status, "none of the %d shapes could run; %s: %s", count, shapes[count - 1]->name,
                     json_string_value(json_object_get(last, "error")));
}

static flrq_status run_folder(bench *b) {
    json_t *one = NULL;
    char *path = realpath(b->config->model, NULL);
    if (!path) return flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be opened", b->config->model);
    const char *slash = strrchr(path, '/');
    run r = {.b = b, .name = slash[1] ? slash + 1 : path, .generate = NAN};
    flrq_status status = run_one(b, &r, &one);
    free(path);
    return status == FLRQ_OK ? keep_result(b, one) : status;
}

/* Options that exclude each other, and segments that a shape has no positions for: before anything is measured. */
static flrq_status check_options(const bench *b, const flrq_bench_shape *const *shapes, int count) {
    const flrq_config *c = b->config;
    if (c->model && flrq_params_given(b->params, "shape"))
        return flrq_fail(FLRQ_ERR_USAGE, "--shape generates a checkpoint, --model DIR names one: give one of them");
    if (c->model && flrq_params_given(b->params, "blocks"))
        return flrq_fail(FLRQ_ERR_USAGE, "--blocks is for generated checkpoints; --model DIR is run whole");
    for (int i = 0; !c->model && i < count; i++)
        if (c->calib_len > shapes[i]->positions)
            return flrq_fail(FLRQ_ERR_USAGE, "--calib-len %lld is above the %lld positions of %s",
                             (long long)c->calib_len, (long long)shapes[i]->positions, shapes[i]->name);
    return FLRQ_OK;
}

flrq_status flrq_job_bench_quantize(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    const flrq_bench_shape *shapes[FLRQ_BENCH_SHAPES];
    int count = 0;
    flrq_backend *be;
    flrq_status status = FLRQ_OK;
    bench b = {.params = params, .config = c, .reporter = reporter};
    FLRQ_TRY(flrq_bench_shapes_parse(c->shape, shapes, &count));
    FLRQ_TRY(check_options(&b, shapes, count));
    FLRQ_TRY(flrq_bench_files_open(&b.files, params, reporter, "quantize"));
    FLRQ_TRY(flrq_backend_open(&be, c->device, (int)c->threads));
    status = be->info(be, &b.device);
    snprintf(b.backend, sizeof b.backend, "%s", be->name);
    flrq_backend_close(be); /* the jobs open their own and plan for what is free */
    FLRQ_TRY(status);
    b.fast = b.device.separate_memory && c->precision != PRECISION_FULL;
    b.runs = json_array();
    b.rows = json_array();
    FLRQ_GOTO(c->model ? run_folder(&b) : run_shapes(&b, shapes, count));
    *result = whole_result(&b);
    if (!*result) status = flrq_fail_memory(0, "the result");
out:
    json_decref(b.rows);
    json_decref(b.runs);
    return status;
}
