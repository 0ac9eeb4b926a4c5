/* folder.h - temporary model folders for the tests of the model layer: a copy of a stored model with a changed
 * config.json, with tensors left out, renamed, reshaped or added. Everything lands in one temporary folder per process,
 * removed at exit.
 */
#ifndef TESTS_MODEL_FOLDER_H
#define TESTS_MODEL_FOLDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/dtype.h"
#include "io/file.h"
#include "model/model.h"

static char folder_root[256];

static int folder_remove_entry(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void folder_cleanup(void) {
    nftw(folder_root, folder_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/** A new empty folder; the name lives in a static buffer until the next call. */
static const char *folder_new(void) {
    static int count;
    static char path[320];
    if (!folder_root[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(folder_root, sizeof folder_root, "%s/flrq-model-XXXXXX", base ? base : P_tmpdir);
        assert_non_null(mkdtemp(folder_root));
        atexit(folder_cleanup);
    }
    snprintf(path, sizeof path, "%s/%d", folder_root, count++);
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

/** One tensor of a folder under construction. */
typedef struct folder_tensor {
    char name[256];
    flrq_dtype dtype;
    int dims;
    int64_t shape[4];
    void *data; /* owned */
    uint64_t bytes;
} folder_tensor;

/** A model in host memory: config and tensors, to be changed and written. */
typedef struct folder {
    json_t *config;
    int n;
    folder_tensor tensors[512];
} folder;

static inline void folder_free(folder *f) {
    for (int i = 0; i < f->n; i++) free(f->tensors[i].data);
    json_decref(f->config);
    free(f);
}

/** Reads data/<name>. */
static inline folder *folder_read(const char *name) {
    char path[512];
    folder *f = calloc(1, sizeof *f);
    assert_non_null(f);
    snprintf(path, sizeof path, "data/%s/config.json", name);
    assert_int_equal(flrq_json_read(path, 1 << 20, &f->config), FLRQ_OK);
    snprintf(path, sizeof path, "data/%s", name);
    flrq_checkpoint *checkpoint;
    assert_int_equal(flrq_checkpoint_open(&checkpoint, path), FLRQ_OK);
    for (int64_t i = 0; i < checkpoint->n_tensors; i++) {
        const flrq_tensor *t = &checkpoint->tensors[i];
        folder_tensor *to = &f->tensors[f->n++];
        snprintf(to->name, sizeof to->name, "%s", t->name);
        to->dtype = t->dtype;
        to->dims = t->dims;
        memcpy(to->shape, t->shape, sizeof to->shape);
        to->bytes = t->bytes;
        to->data = malloc(t->bytes);
        assert_int_equal(flrq_checkpoint_read(checkpoint, t, to->data, 0, t->bytes), FLRQ_OK);
    }
    flrq_checkpoint_close(checkpoint);
    return f;
}

static inline folder_tensor *folder_find(folder *f, const char *name) {
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->tensors[i].name, name) == 0) return &f->tensors[i];
    return NULL;
}

static inline void folder_remove(folder *f, const char *name) {
    folder_tensor *t = folder_find(f, name);
    assert_non_null(t);
    free(t->data);
    *t = f->tensors[--f->n];
}

/** Adds a tensor; `data` is copied, NULL gives zeros. */
static inline folder_tensor *folder_add(folder *f, const char *name, flrq_dtype dtype, int dims, int64_t rows,
                                        int64_t cols, const void *data) {
    folder_tensor *t = &f->tensors[f->n++];
    *t = (folder_tensor){.dtype = dtype, .dims = dims, .shape = {rows, cols}};
    snprintf(t->name, sizeof t->name, "%s", name);
    int64_t count = dims == 0 ? 1 : dims == 1 ? rows : rows * cols;
    t->bytes = (uint64_t)count * (uint64_t)flrq_dtype_bits(dtype) / 8;
    t->data = calloc(1, t->bytes + 1);
    assert_non_null(t->data);
    if (data) memcpy(t->data, data, t->bytes);
    return t;
}

static void folder_write_tensors(const char *path, const folder *f) {
    flrq_shard_writer *writer;
    int index[512];
    uint64_t hash;
    assert_int_equal(flrq_shard_create(&writer, path, NULL), FLRQ_OK);
    for (int i = 0; i < f->n; i++) {
        const folder_tensor *t = &f->tensors[i];
        assert_int_equal(flrq_shard_declare(writer, t->name, t->dtype, t->dims, t->shape, &index[i]), FLRQ_OK);
    }
    assert_int_equal(flrq_shard_begin(writer), FLRQ_OK);
    for (int i = 0; i < f->n; i++)
        assert_int_equal(flrq_shard_write(writer, index[i], f->tensors[i].data, 0, f->tensors[i].bytes), FLRQ_OK);
    assert_int_equal(flrq_shard_finish(writer, &hash), FLRQ_OK);
}

/** Writes the folder to a new place and returns it (static until the next folder_new()). */
static inline const char *folder_write(const folder *f) {
    const char *dir = folder_new();
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(flrq_json_write(path, f->config), FLRQ_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    folder_write_tensors(path, f);
    return dir;
}

/** Opens and requires success. */
static inline flrq_model *model_opens(const char *dir, int flags) {
    flrq_model *model = NULL;
    if (flrq_model_open(&model, dir, flags) != FLRQ_OK) fail_msg("%s: %s", dir, flrq_last_error());
    return model;
}

/** Opens and requires a failure of that kind whose text contains every one of the NULL-terminated pieces. */
static inline void model_refused(const char *dir, int flags, flrq_status wanted, ...) {
    flrq_model *model = NULL;
    flrq_status status = flrq_model_open(&model, dir, flags);
    if (status == FLRQ_OK) fail_msg("%s opened; expected %s", dir, flrq_status_name(wanted));
    assert_null(model);
    va_list pieces;
    va_start(pieces, wanted);
    for (const char *piece = va_arg(pieces, const char *); piece; piece = va_arg(pieces, const char *))
        if (!strstr(flrq_last_error(), piece)) fail_msg("\"%s\" lacks \"%s\"", flrq_last_error(), piece);
    va_end(pieces);
    if (status != wanted)
        fail_msg("status %s, expected %s: %s", flrq_status_name(status), flrq_status_name(wanted), flrq_last_error());
}

#endif
