/* state.c - journal, fingerprint and scratch of a run. */
#include "pipeline/state.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "pipeline/output.h"

static json_t *hex(uint64_t value) {
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    return json_string(text);
}

static uint64_t hash_text(const json_t *value) {
    size_t length;
    char *text = flrq_json_text(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY, &length);
    uint64_t hash = text ? XXH3_64bits(text, length) : 0;
    free(text);
    return hash;
}

json_t *flrq_fingerprint(const flrq_params *params, const flrq_model *model, const int32_t *tokens,
                         const flrq_plan *plan, const char *backend, const flrq_device_info *device) {
    size_t count = (size_t)(plan->segments * plan->length);
    json_t *print = flrq_params_json(params, 1), *tensors = json_array();
    for (int64_t i = 0; i < model->checkpoint->n_tensors; i++) {
        const flrq_tensor *t = &model->checkpoint->tensors[i];
        json_array_append_new(
            tensors, json_pack("[s, i, I, I]", t->name, (int)t->dtype, (json_int_t)t->bytes, (json_int_t)t->offset));
    }
    json_object_set_new(print, "precision", json_string(plan->precision == FLRQ_PRECISION_FAST ? "fast" : "full"));
    json_object_set_new(print, "version", json_string(FLRQ_VERSION_STRING));
    json_object_set_new(print, "model tensors", hex(hash_text(tensors)));
    json_object_set_new(print, "model config", hex(hash_text(model->config)));
    json_object_set_new(print, "calibration tokens", hex(XXH3_64bits(tokens, count * sizeof *tokens)));
    if (plan->ranks_hash) json_object_set_new(print, "ranks", hex(plan->ranks_hash));
    json_object_set_new(print, "backend", json_string(backend));
    json_object_set_new(print, "instruction set", json_string(device->instruction_set));
    json_object_set_new(print, "libraries", json_string(device->libraries));
    json_decref(tensors);
    return print;
}

/* Lists the fields in which two fingerprints differ; empty when they do not. */
static void list_differences(char *text, size_t size, const json_t *there, const json_t *here) {
    size_t used = 0;
    const char *key;
    json_t *value;
    text[0] = 0;
    json_object_foreach((json_t *)here, key, value) {
        const json_t *other = json_object_get(there, key);
        if (other && json_equal(other, value)) continue;
        char *a = other ? json_dumps(other, JSON_ENCODE_ANY) : NULL, *b = json_dumps(value, JSON_ENCODE_ANY);
        int n = snprintf(text + used, size - used, "%s%s: %s there, %s here", used ? "; " : "", key, a ? a : "absent",
                         b ? b : "?");
        free(a);
        free(b);
        if (n > 0) used = used + (size_t)n < size ? used + (size_t)n : size - 1;
    }
}

static flrq_status compare_fingerprints(const char *dir, const json_t *there, const json_t *here) {
    char text[1024];
    list_differences(text, sizeof text, there, here);
    if (!text[0]) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_USAGE,
                     "%s holds a run with other settings (%s); repeat its settings or choose another -o", dir, text);
}

flrq_status flrq_fingerprint_agree(const json_t *root, const json_t *here) {
    char text[1024];
    list_differences(text, sizeof text, root, here);
    if (!text[0]) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_USAGE,
                     "this worker differs from rank 0 (%s): all need the same program, devices and files", text);
}

char *flrq_state_private(const flrq_state *state, const char *name) {
    char *folder = flrq_path_join(state->dir, ".flrq"), *path = folder ? flrq_path_join(folder, name) : NULL;
    free(folder);
    return path;
}

/* Number of entries besides those that a folder may have before a run has begun in it: the lock, the place where its
 * workers meet, and the batch job that it is to run in. -1: cannot be read. */
static int entries_of(const char *dir) {
    static const char *const expected[] = {".", "..", ".lock", ".flrq", "slurm"};
    DIR *d = opendir(dir);
    if (!d) return -1;
    int count = 0;
    for (struct dirent *e; (e = readdir(d));) {
        int foreign = 1;
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) foreign &= strcmp(e->d_name, expected[i]) != 0;
        count += foreign;
    }
    closedir(d);
    return count;
}

flrq_status flrq_state_look(const char *dir, int *is_run) {
    *is_run = 0;
    if (!flrq_path_exists(dir)) return FLRQ_OK;
    struct stat info;
    if (stat(dir, &info) == 0 && !S_ISDIR(info.st_mode))
        return flrq_fail(FLRQ_ERR_USAGE, "%s is a file; -o names the output folder", dir);
    char *path = flrq_path_join(dir, "journal.jsonl");
    if (!path) return flrq_fail_memory(0, "a path");
    *is_run = flrq_path_exists(path);
    free(path);
    if (!*is_run && entries_of(dir) != 0)
        return flrq_fail(FLRQ_ERR_USAGE, "%s exists and is not a run of flrq; choose another -o", dir);
    return FLRQ_OK;
}

/* True when the file has the hash that the record names under `key`. */
static int has_hash(const char *path, const json_t *record, const char *key) {
    const char *wanted = json_string_value(json_object_get(record, key));
    char text[17] = "";
    uint64_t hash;
    if (wanted && flrq_path_exists(path) && flrq_file_hash(path, &hash) == FLRQ_OK)
        snprintf(text, sizeof text, "%016" PRIx64, hash);
    return wanted && strcmp(wanted, text) == 0;
}

static int matches(const char *dir, const char *name, const json_t *record, const char *key) {
    char *path = flrq_path_join(dir, name);
    int good = path && has_hash(path, record, key);
    free(path);
    return good;
}

/* Takes what the records say, the later over the earlier. *complete: the record of completion (borrowed), or NULL. */
static void adopt(flrq_state *s, const json_t *records, const json_t **complete) {
    size_t i;
    json_t *record;
    *complete = NULL;
    json_array_foreach(records, i, record) {
        const char *kind = json_string_value(json_object_get(record, "kind"));
        int64_t block = json_integer_value(json_object_get(record, "block"));
        if (!kind) continue;
        if (strcmp(kind, "shard") == 0 && block >= -1 && block < s->layers) {
            json_t **slot = block < 0 ? &s->globals : &s->blocks[block];
            json_decref(*slot);
            *slot = json_incref(record);
            *complete = NULL; /* a complete run that is being repaired */
        } else if (strcmp(kind, "activations") == 0) {
            json_decref(s->activations_record);
            s->activations_record = json_incref(record);
            s->activations = block;
        } else if (strcmp(kind, "batch") == 0)
            s->batch = json_integer_value(json_object_get(record, "tokens"));
        else if (strcmp(kind, "complete") == 0)
            *complete = record;
    }
}

static void forget_blocks(flrq_state *s, int64_t first) {
    s->committed = first;
    for (int64_t b = first; b < s->layers; b++) {
        json_decref(s->blocks[b]);
        s->blocks[b] = NULL;
    }
    if (s->activations > first) s->activations = -1;
}

static void verify_globals(flrq_state *s, flrq_reporter *reporter) {
    char name[64];
    flrq_shard_name(name, -1, s->layers);
    if (!s->globals || matches(s->dir, name, s->globals, "hash")) return;
    flrq_notice(reporter, "%s/%s is not as recorded and is written again", s->dir, name);
    json_decref(s->globals);
    s->globals = NULL;
}

/* Keeps the leading records whose files are as recorded. */
static void verify_unfinished(flrq_state *s, flrq_reporter *reporter) {
    char name[64], *private_dir = flrq_path_join(s->dir, ".flrq");
    int64_t good = 0;
    verify_globals(s, reporter);
    for (; good < s->layers && s->blocks[good]; good++) {
        flrq_shard_name(name, good, s->layers);
        if (!matches(s->dir, name, s->blocks[good], "hash")) break;
        flrq_factors_name(name, good);
        if (!private_dir || !matches(private_dir, name, s->blocks[good], "factors")) break;
    }
    if (good < s->layers && s->blocks[good])
        flrq_notice(reporter, "%s of block %lld is not as recorded; that block and those after it are done again", name,
                    (long long)good + 1);
    forget_blocks(s, good);
    free(private_dir);
}

/* The first file of a complete run that is not as recorded, or NULL. JSON files may have been edited by their owner:
 * they need only be there. */
static const char *damaged_file(const flrq_state *s, const json_t *complete, char name[64]) {
    static const char *const texts[] = {"config.json", "model.safetensors.index.json", "report.json",
                                        "lowrank/adapter_config.json"};
    static const char *const adapter = "lowrank/adapter_model.safetensors";
    int has_adapter = json_object_get(complete, "adapter") != NULL;
    for (int64_t b = -1; b < s->layers; b++) {
        flrq_shard_name(name, b, s->layers);
        if (!matches(s->dir, name, b < 0 ? s->globals : s->blocks[b], "hash")) return name;
    }
    if (has_adapter && !matches(s->dir, adapter, complete, "adapter")) return adapter;
    for (int i = 0; i < 3 + has_adapter; i++) {
        char *path = flrq_path_join(s->dir, texts[i]);
        int there = path && flrq_path_exists(path);
        free(path);
        if (!there) return texts[i];
    }
    return NULL;
}

static void verify_complete(flrq_state *s, const json_t *complete, flrq_reporter *reporter) {
    char name[64];
    const char *damaged = damaged_file(s, complete, name);
    s->complete = !damaged;
    s->committed = s->layers;
    if (!damaged) return;
    flrq_notice(reporter, "%s of the complete run in %s is not as recorded; all blocks are done again", damaged,
                s->dir);
    verify_globals(s, reporter);
    forget_blocks(s, 0);
}

/* An unfinished folder must not look complete: engines need config.json. */
static flrq_status hide(const flrq_state *s) {
    char *path = flrq_path_join(s->dir, "config.json");
    if (!path) return flrq_fail_memory(0, "a path");
    flrq_status status = FLRQ_OK;
    if (unlink(path) == 0)
        status = flrq_dir_sync(s->dir);
    else if (errno != ENOENT)
        status = flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be removed", path);
    free(path);
    return status;
}

/* Removes a folder of files, links and folders; `keep` (may be NULL) and with it the folder itself stay. */
static flrq_status remove_folder(const char *path, const char *keep) {
    DIR *d = opendir(path);
    if (!d) return errno == ENOENT ? FLRQ_OK : flrq_fail_errno(FLRQ_ERR_IO, "%s", path);
    flrq_status status = FLRQ_OK;
    int kept = 0;
    for (struct dirent *e; status == FLRQ_OK && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (keep && strcmp(e->d_name, keep) == 0) {
            kept = 1;
            continue;
        }
        char *entry = flrq_path_join(path, e->d_name);
        struct stat info;
        if (!entry)
            status = flrq_fail_memory(0, "a path");
        else if (lstat(entry, &info) == 0 && S_ISDIR(info.st_mode))
            status = remove_folder(entry, NULL);
        else if (unlink(entry) != 0)
            status = flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be removed", entry);
        free(entry);
    }
    closedir(d);
    if (status == FLRQ_OK && !kept && rmdir(path) != 0)
        status = flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be removed", path);
    return status;
}

flrq_status flrq_state_open(flrq_state *s, const flrq_config *c, const flrq_model *model, json_t *fingerprint,
                            flrq_reporter *reporter) {
    memset(s, 0, sizeof *s);
    s->layers = model->layers;
    s->activations = -1;
    flrq_status status = FLRQ_OK;
    json_t *records = NULL, *first = NULL;
    const json_t *complete = NULL;
    char *path = NULL, *folder = NULL;
    int existed = flrq_path_exists(c->out), has_journal;
    FLRQ_TRY(flrq_state_look(c->out, &has_journal));
    if (!existed && c->resume == RESUME_REQUIRED)
        return flrq_fail(FLRQ_ERR_USAGE, "%s does not exist, so there is no run to resume", c->out);
    FLRQ_TRY(flrq_dir_make(c->out));
    s->dir = strdup(c->out);
    s->blocks = calloc((size_t)s->layers, sizeof *s->blocks);
    path = flrq_path_join(c->out, "journal.jsonl");
    folder = flrq_path_join(c->out, ".flrq");
    if (!s->dir || !s->blocks || !path || !folder) FLRQ_GOTO(flrq_fail_memory(sizeof *s, "the run's state"));
    FLRQ_GOTO(flrq_dir_lock(&s->lock, s->dir));
    has_journal = flrq_path_exists(path); /* now that no other run is in it */
    if (has_journal && c->resume == RESUME_NEVER)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "%s holds a run and --resume is never; choose another -o", c->out));
    if (!has_journal && c->resume == RESUME_REQUIRED)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_USAGE, "%s holds no run to resume", c->out));
    FLRQ_GOTO(flrq_journal_open(&s->journal, path, &records)); /* first: a folder with a journal is known as a run */
    if (json_array_size(records) == 0) {
        first = json_pack("{s:s, s:O}", "kind", "run", "fingerprint", fingerprint);
        FLRQ_GOTO(first ? flrq_journal_append(s->journal, first) : flrq_fail_memory(0, "the journal"));
    } else {
        FLRQ_GOTO(
            compare_fingerprints(s->dir, json_object_get(json_array_get(records, 0), "fingerprint"), fingerprint));
        adopt(s, records, &complete);
        if (complete)
            verify_complete(s, complete, reporter);
        else
            verify_unfinished(s, reporter);
    }
    if (s->complete)
        FLRQ_GOTO(remove_folder(folder, FLRQ_WORKERS_FOLDER)); /* in case it was killed while doing so */
    else {
        FLRQ_GOTO(hide(s));
        FLRQ_GOTO(flrq_dir_make(folder));
    }
out:
    json_decref(first);
    json_decref(records);
    free(folder);
    free(path);
    if (status != FLRQ_OK) {
        flrq_state_close(s);
        if (!existed) rmdir(c->out); /* only if nothing was written */
    }
    return status;
}

flrq_status flrq_state_share(flrq_state *s, flrq_comm *comm, const flrq_config *c, int64_t layers) {
    int64_t values[] = {s->committed, s->activations, s->batch, s->complete, s->globals != NULL};
    FLRQ_TRY(comm->broadcast_host(comm, values, sizeof values, 0));
    if (comm->rank == 0) return FLRQ_OK;
    *s = (flrq_state){.layers = layers, .committed = values[0], .activations = values[1]};
    s->batch = values[2], s->complete = (int)values[3];
    s->dir = strdup(c->out);
    s->globals = values[4] ? json_object() : NULL;
    if (!s->dir || (values[4] && !s->globals)) return flrq_fail_memory(0, "the run's state");
    return FLRQ_OK;
}

void flrq_state_follow(flrq_state *s, int64_t block) {
    if (block >= 0) s->committed = block + 1;
}

void flrq_state_close(flrq_state *s) {
    flrq_journal_close(s->journal);
    flrq_dir_unlock(s->lock);
    for (int64_t b = 0; s->blocks && b < s->layers; b++) json_decref(s->blocks[b]);
    json_decref(s->activations_record);
    json_decref(s->globals);
    free(s->blocks);
    free(s->dir);
    memset(s, 0, sizeof *s);
}

flrq_status flrq_state_commit(flrq_state *s, int64_t block, uint64_t shard_hash, uint64_t factors_hash,
                              json_t *record) {
    if (!record) return flrq_fail_memory(0, "a journal record");
    json_object_set_new(record, "kind", json_string("shard"));
    json_object_set_new(record, "block", json_integer(block));
    json_object_set_new(record, "hash", hex(shard_hash));
    if (block >= 0) json_object_set_new(record, "factors", hex(factors_hash));
    flrq_status status = flrq_journal_append(s->journal, record);
    if (status != FLRQ_OK) {
        json_decref(record);
        return status;
    }
    json_t **slot = block < 0 ? &s->globals : &s->blocks[block];
    json_decref(*slot);
    *slot = record;
    if (block >= 0) s->committed = block + 1;
    return FLRQ_OK;
}

flrq_status flrq_state_record_batch(flrq_state *s, int64_t batch) {
    json_t *record = json_pack("{s:s, s:I}", "kind", "batch", "tokens", (json_int_t)batch);
    flrq_status status = record ? flrq_journal_append(s->journal, record) : flrq_fail_memory(0, "a journal record");
    json_decref(record);
    if (status == FLRQ_OK) s->batch = batch;
    return status;
}

enum { ACTIVATION_BUFFER = 4 << 20 };

static char *activations_path(const flrq_state *s, int64_t block) {
    char name[64];
    snprintf(name, sizeof name, "activations-%05lld.safetensors", (long long)block);
    return flrq_state_private(s, name);
}

/* The file of activations as rank 0 creates it and others join it. */
static flrq_status open_activations(flrq_shard_writer **out, const char *path, int creates, const flrq_activations *x,
                                    int *handle) {
    int64_t shape[2] = {x->all_rows, x->cols};
    FLRQ_TRY(creates ? flrq_shard_create(out, path, NULL) : flrq_shard_join(out, path, NULL));
    FLRQ_TRY(flrq_shard_declare(*out, "x", FLRQ_F32, 2, shape, handle));
    return flrq_shard_begin(*out);
}

/* Writes this worker's rows through a buffer. */
static flrq_status write_rows(flrq_shard_writer *w, int handle, const flrq_activations *x, void *buffer) {
    uint64_t row = (uint64_t)x->cols * sizeof(float), total = (uint64_t)x->rows * row, at = (uint64_t)x->first * row;
    for (uint64_t first = 0; first < total; first += ACTIVATION_BUFFER) {
        uint64_t bytes = total - first < ACTIVATION_BUFFER ? total - first : ACTIVATION_BUFFER;
        FLRQ_TRY(flrq_activations_get(x, buffer, first, bytes));
        FLRQ_TRY(flrq_shard_write(w, handle, buffer, at + first, bytes));
    }
    return FLRQ_OK;
}

flrq_status flrq_state_save_activations(flrq_state *s, flrq_comm *comm, int64_t block, const flrq_activations *x) {
    flrq_status status = FLRQ_OK;
    flrq_shard_writer *w = NULL;
    char *path = activations_path(s, block), *old = activations_path(s, s->activations);
    void *buffer = malloc(ACTIVATION_BUFFER);
    json_t *record = NULL;
    uint64_t hash, written = 0;
    int handle, root = comm->rank == 0;
    if (!path || !old || !buffer) FLRQ_GOTO(flrq_fail_memory(ACTIVATION_BUFFER, "activations"));
    if (root) FLRQ_GOTO(open_activations(&w, path, 1, x, &handle));
    FLRQ_GOTO(flrq_comm_barrier(comm));
    if (!root) FLRQ_GOTO(open_activations(&w, path, 0, x, &handle));
    FLRQ_GOTO(write_rows(w, handle, x, buffer));
    if (!root) {
        status = flrq_shard_leave(w, &written);
        w = NULL;
        if (status != FLRQ_OK) goto out;
    }
    int64_t others = (int64_t)written;
    FLRQ_GOTO(flrq_comm_sum(comm, &others, 1));
    if (root) {
        flrq_shard_add_written(w, (uint64_t)others);
        status = flrq_shard_finish(w, &hash);
        w = NULL;
        if (status != FLRQ_OK) goto out;
        record = json_pack("{s:s, s:I, s:o}", "kind", "activations", "block", (json_int_t)block, "hash", hex(hash));
        FLRQ_GOTO(record ? flrq_journal_append(s->journal, record) : flrq_fail_memory(0, "a journal record"));
        if (s->activations >= 0 && s->activations != block) unlink(old);
        json_decref(s->activations_record);
        s->activations_record = json_incref(record);
    }
    s->activations = block;
out:
    flrq_shard_abort(w);
    json_decref(record);
    free(buffer);
    free(old);
    free(path);
    return status;
}

flrq_status flrq_state_load_activations(flrq_state *s, const flrq_activations *x) {
    flrq_status status = FLRQ_OK;
    flrq_checkpoint *file = NULL;
    char *path = activations_path(s, s->activations);
    void *buffer = malloc(ACTIVATION_BUFFER);
    if (!path || !buffer) FLRQ_GOTO(flrq_fail_memory(ACTIVATION_BUFFER, "activations"));
    if (s->activations_record && !has_hash(path, s->activations_record, "hash"))
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_FORMAT, "%s is not as recorded", path));
    FLRQ_GOTO(flrq_checkpoint_open(&file, path));
    const flrq_tensor *t = flrq_checkpoint_find(file, "x");
    if (!t || t->dims != 2 || t->shape[0] != x->all_rows || t->shape[1] != x->cols || t->dtype != FLRQ_F32)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_FORMAT, "%s: not the activations of this run", path));
    uint64_t row = (uint64_t)x->cols * sizeof(float), total = (uint64_t)x->rows * row, at = (uint64_t)x->first * row;
    for (uint64_t first = 0; first < total; first += ACTIVATION_BUFFER) {
        uint64_t bytes = total - first < ACTIVATION_BUFFER ? total - first : ACTIVATION_BUFFER;
        FLRQ_GOTO(flrq_checkpoint_read(file, t, buffer, at + first, bytes));
        FLRQ_GOTO(flrq_activations_put(x, buffer, first, bytes));
    }
out:
    flrq_checkpoint_close(file);
    free(buffer);
    free(path);
    return status;
}

flrq_status flrq_state_finish(flrq_state *s) {
    flrq_status status = FLRQ_OK;
    uint64_t hash;
    json_t *record = json_pack("{s:s}", "kind", "complete");
    char *folder = flrq_path_join(s->dir, ".flrq"),
         *adapter = flrq_path_join(s->dir, "lowrank/adapter_model.safetensors");
    if (!record || !folder || !adapter) FLRQ_GOTO(flrq_fail_memory(0, "the journal"));
    if (flrq_path_exists(adapter)) {
        FLRQ_GOTO(flrq_file_hash(adapter, &hash));
        json_object_set_new(record, "adapter", hex(hash));
    }
    FLRQ_GOTO(flrq_journal_append(s->journal, record));
    s->complete = 1;
    status = remove_folder(folder, FLRQ_WORKERS_FOLDER);
out:
    free(adapter);
    free(folder);
    json_decref(record);
    return status;
}
