/* bench_quantize.c - `flrq bench quantize`: a whole quantize run on a generated model of a known shape, against its
 * floor.
 *
 * The job is the real one, on files, with random calibration tokens; nothing of it is shortened. The floor is what two
 * forwards of the linear layers take at the matrix rate of the device, 2 * 2 P T flops (the last block needs one), and
 * what the weights take to come from the file or over the bus, whichever is slower: both measured in the same run. With
 * --blocks K the run has K blocks, and the numbers for the whole model are extrapolated: after opening, all phases are
 * taken as proportional to the blocks, the second forward to the blocks but one; from one block nothing follows. Files
 * lie in a folder of their own and are removed at the end, also when the run fails.
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
enum { READ_BYTES = 16 << 20 };

typedef struct bench {
    const flrq_params *params;
    const flrq_config *config;
    const flrq_bench_shape *shape;
    flrq_reporter *reporter;
    int64_t blocks;
    char *folder, *model, *out, *tokens;
    flrq_bench_limits limits;
    double read;     /* bytes a second from the files */
    int fast;        /* forwards run in FAST precision */
    int separate;    /* weights cross a bus */
    double generate; /* seconds */
} bench;

/* ---- files ------------------------------------------------------------------------------------------------------- */

static flrq_status make_folders(bench *b) {
    FLRQ_TRY(flrq_bench_scratch_make(&b->folder, b->config));
    b->model = flrq_path_join(b->folder, "model");
    b->out = flrq_path_join(b->folder, "quantized");
    b->tokens = flrq_path_join(b->folder, "tokens.npy");
    if (!b->model || !b->out || !b->tokens) return flrq_fail_memory(0, "a path");
    return flrq_dir_make(b->model);
}

static void remove_folders(bench *b) {
    flrq_bench_scratch_remove(b->folder, b->config, b->reporter);
    free(b->tokens);
    free(b->out);
    free(b->model);
}

/* The checkpoint, and room for what is made of it, must fit. */
static flrq_status check_room(const bench *b) {
    uint64_t wanted = flrq_bench_model_bytes(b->shape, b->blocks), available;
    FLRQ_TRY(flrq_dir_free_bytes(b->folder, &available));
    wanted += wanted / 2;
    if (available >= wanted) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_IO,
                     "%s: %.1f GB are free, a checkpoint of %lld blocks and its result take %.1f GB; use --blocks or "
                     "--scratch",
                     b->folder, (double)available / 1e9, (long long)b->blocks, (double)wanted / 1e9);
}

/* Rate at which the first shard of a block is read, by one thread. */
static flrq_status measure_read(bench *b) {
    char name[64], *path = NULL, *buffer = malloc(READ_BYTES);
    int fd = -1;
    flrq_status status = FLRQ_OK;
    snprintf(name, sizeof name, "model-00002-of-%05lld.safetensors", (long long)b->blocks + 1);
    path = flrq_path_join(b->model, name);
    if (!buffer || !path) FLRQ_GOTO(flrq_fail_memory(READ_BYTES, "the read bench"));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size <= 0) FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be read", path));
    double t = flrq_seconds();
    for (off_t at = 0; at < size; at += READ_BYTES)
        FLRQ_GOTO(
            flrq_file_pread(fd, path, buffer, (size_t)(size - at < READ_BYTES ? size - at : READ_BYTES), (uint64_t)at));
    b->read = (double)size / (flrq_seconds() - t);
out:
    if (fd >= 0) close(fd);
    free(path);
    free(buffer);
    return status;
}

/* ---- the jobs under test ----------------------------------------------------------------------------------------- */

/* Parameters of `command` for the generated model. */
static flrq_status params_for(const bench *b, flrq_params **out, const char *command) {
    FLRQ_TRY(flrq_bench_params(out, b->params, command));
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(flrq_params_set(*out, "model", b->model));
    FLRQ_GOTO(flrq_params_set(*out, "out", b->out));
    FLRQ_GOTO(flrq_params_set(*out, "calib-tokens", b->tokens));
    status = flrq_params_check(*out);
out:
    if (status != FLRQ_OK) {
        flrq_params_free(*out);
        *out = NULL;
    }
    return status;
}

/* What plan says, without its list of tensors. `card`: on a GPU of 24 GB instead of the device asked for. A plan that
 * does not fit is a result, too. */
static flrq_status run_plan(const bench *b, bool card, json_t **result) {
    flrq_params *params;
    char memory[32];
    json_t *plan = NULL;
    FLRQ_TRY(params_for(b, &params, "plan"));
    flrq_status status = FLRQ_OK;
    if (card) {
        snprintf(memory, sizeof memory, "%g", card_gb);
        FLRQ_GOTO(flrq_params_set(params, "device-memory", memory));
        if (!b->separate) FLRQ_GOTO(flrq_params_set(params, "device", "cuda"));
    }
    status = flrq_job_plan(params, b->reporter, &plan);
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

static flrq_status run_quantize(const bench *b, json_t **result) {
    flrq_params *params;
    FLRQ_TRY(params_for(b, &params, "quantize"));
    flrq_status status = flrq_job_quantize(params, b->reporter, result);
    flrq_params_free(params);
    return status;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static double slower(double a, double b) {
    return a > 0 && b > 0 ? fmin(a, b) : fmax(a, b);
}

typedef struct floor_seconds {
    double forward, weights, total;
} floor_seconds;

static floor_seconds floor_of(const bench *b, int64_t blocks, double tokens) {
    double rate = b->fast ? b->limits.fast : b->limits.full, block = (double)flrq_bench_block_weights(b->shape);
    double bytes = b->separate ? slower(b->read, b->limits.upload) : b->read;
    floor_seconds f = {.forward = (double)(2 * blocks - 1) * 2 * block * tokens / rate,
                       .weights = 2 * (double)blocks * block / bytes};
    f.total = f.forward + f.weights;
    return f;
}

static double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

/* seconds_model < 0: not known. */
static void add_row(json_t *rows, const char *phase, double seconds, double seconds_model) {
    json_array_append_new(rows, json_pack("{s:s, s:f, s:o}", "phase", phase, "seconds", seconds, "seconds_model",
                                          seconds_model < 0 ? json_null() : json_real(seconds_model)));
}

/* Phases as the run reports them, the total, and the floor, of the run and of the whole model. *whole: total of the
 * model, or -1. */
static json_t *tabulate(const bench *b, const json_t *run, floor_seconds floor, floor_seconds model, double *whole) {
    json_t *rows = json_array(), *value;
    const char *phase;
    double blocks = (double)b->blocks, all = (double)b->shape->blocks, total = number(run, "seconds"), added = 0;
    bool known = b->blocks > 1 || b->blocks == b->shape->blocks;
    json_object_foreach(json_object_get(run, "phases"), phase, value) {
        double seconds = json_number_value(value), factor = all / blocks;
        if (strcmp(phase, "open") == 0) factor = 1;
        if (strcmp(phase, "forward") == 0 && b->blocks > 1) factor = (all - 1) / (blocks - 1);
        added += (factor - all / blocks) * seconds;
        add_row(rows, phase, seconds, known ? factor * seconds : -1);
    }
    *whole = known ? total * all / blocks + added : -1;
    add_row(rows, "total", total, *whole);
    add_row(rows, "floor: forwards", floor.forward, model.forward);
    add_row(rows, "floor: weights", floor.weights, model.weights);
    add_row(rows, "floor", floor.total, model.total);
    return rows;
}

static json_t *table_of(const bench *b, const json_t *run, const char *name, const flrq_device_info *device) {
    int64_t block = flrq_bench_block_weights(b->shape);
    double tokens = (double)(b->config->calib_samples * b->config->calib_len), whole, total = number(run, "seconds");
    floor_seconds floor = floor_of(b, b->blocks, tokens), model = floor_of(b, b->shape->blocks, tokens);
    json_t *limits = flrq_bench_limits_json(&b->limits), *rows = tabulate(b, run, floor, model, &whole);
    json_object_set_new(limits, "read_gb_s", json_real(1e-9 * b->read));
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:f, s:o, s:f, s:f, s:f, s:o}",
                     "device", name, "machine", device->name, "threads", device->threads, "shape", b->shape->name,
                     "precision", b->fast ? "fast" : "full", "blocks", (json_int_t)b->blocks, "model_blocks",
                     (json_int_t)b->shape->blocks, "weights", (json_int_t)(b->blocks * block), "model_weights",
                     (json_int_t)(b->shape->blocks * block), "tokens", tokens, "generate_seconds", b->generate,
                     "limits", limits, "rows", rows, "seconds", total, "seconds_model",
                     whole < 0 ? json_null() : json_real(whole), "floor_seconds", floor.total, "floor_seconds_model",
                     model.total, "over_floor", total / floor.total, "over_floor_model",
                     whole < 0 ? json_null() : json_real(whole / model.total));
}

flrq_status flrq_job_bench_quantize(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    static const char *const keys[] = {"phase", "seconds", "seconds_model"};
    const flrq_config *c = &params->config;
    bench b = {.params = params, .config = c, .shape = &flrq_bench_shapes[5], .reporter = reporter};
    flrq_bench_files files;
    flrq_backend *be = NULL;
    flrq_device_info device;
    char name[32];
    json_t *run = NULL, *table = NULL, *plan = NULL, *card = NULL;
    flrq_status status = FLRQ_OK;
    FLRQ_TRY(flrq_bench_files_open(&files, params, "quantize"));
    b.blocks = c->blocks && c->blocks < b.shape->blocks ? c->blocks : b.shape->blocks;
    if (c->calib_len > b.shape->positions)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "--calib-len %lld is above the %lld positions of %s",
                            (long long)c->calib_len, (long long)b.shape->positions, b.shape->name));
    FLRQ_GOTO(flrq_backend_open(&be, c->device, (int)c->threads));
    FLRQ_GOTO(be->info(be, &device));
    b.separate = device.separate_memory;
    b.fast = device.separate_memory && c->precision != PRECISION_FULL;
    FLRQ_GOTO(make_folders(&b));
    if (!c->plan_only) FLRQ_GOTO(check_room(&b));
    double t = flrq_seconds();
    FLRQ_GOTO(
        flrq_bench_model_write(b.model, b.shape, b.blocks, (uint64_t)c->seed, (int)c->threads, c->plan_only, reporter));
    FLRQ_GOTO(flrq_bench_tokens_write(b.tokens, b.shape, c->calib_samples, c->calib_len, (uint64_t)c->seed));
    b.generate = flrq_seconds() - t;
    FLRQ_GOTO(run_plan(&b, false, &plan));
    FLRQ_GOTO(run_plan(&b, true, &card));
    if (c->plan_only) {
        *result = json_pack("{s:s, s:s, s:s, s:I, s:I, s:O, s:O}", "device", be->name, "machine", device.name, "shape",
                            b.shape->name, "blocks", (json_int_t)b.blocks, "model_blocks", (json_int_t)b.shape->blocks,
                            "plan", plan, "plan_24gb", card);
        goto out;
    }
    FLRQ_GOTO(measure_read(&b));
    snprintf(name, sizeof name, "%s", be->name);
    flrq_backend_close(be); /* the job opens its own and plans for what is free */
    be = NULL;
    FLRQ_GOTO(run_quantize(&b, &run)); /* before the limits, whose buffers would show in its peak of memory */
    flrq_progress(reporter, "limits", 0, 1);
    FLRQ_GOTO(flrq_backend_open(&be, c->device, (int)c->threads));
    FLRQ_GOTO(flrq_bench_limits_measure(&b.limits, be, limit_seconds));
    table = table_of(&b, run, name, &device);
    json_object_set(table, "plan", plan);
    json_object_set(table, "plan_24gb", card);
    json_object_set(table, "quantize", run);
    FLRQ_GOTO(flrq_bench_csv(&files, NULL, json_object_get(table, "rows"), keys, sizeof keys / sizeof *keys));
    FLRQ_GOTO(flrq_bench_result(&files, table));
    *result = json_incref(table);
out:
    flrq_backend_close(be);
    remove_folders(&b);
    json_decref(table);
    json_decref(run);
    json_decref(card);
    json_decref(plan);
    return status;
}
