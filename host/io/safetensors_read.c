/* safetensors_read.c - opening, checking and reading of safetensors files and sharded checkpoints.
 *
 * Owns the trust boundary: after flrq_checkpoint_open() every tensor has a known type, a shape whose size cannot
 * overflow, a place that lies inside its file and belongs to no other tensor, and a name that occurs once. Refuses
 * everything else by name. Reads headers only; what must not change: no tensor data is touched before
 * flrq_checkpoint_read().
 */
#include "io/safetensors.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/dtype.h"
#include "io/file.h"

enum {
    MAX_HEADER_BYTES = 100000000, /* the format's own limit; also taken for the index */
    MAX_NAME_BYTES = 512          /* no model comes near; keeps error texts whole */
};

#define REFETCH "the file is damaged: fetch it again"

/* ---- one header ---------------------------------------------------------------------------------------------------
 */

int64_t flrq_tensor_count(const flrq_tensor *tensor) {
    int64_t count = 1;
    for (int i = 0; i < tensor->dims; i++) count *= tensor->shape[i];
    return count;
}

bool flrq_tensor_bytes(flrq_dtype dtype, int dims, const int64_t *shape, uint64_t *out) {
    /* Zeros are left out of the overflow check's product, so that partial products (rows * cols of a slice) are safe as
     * well. */
    int64_t bits = flrq_dtype_bits(dtype);
    bool empty = false;
    if (dims < 0 || dims > FLRQ_MAX_DIMS) return false;
    for (int i = 0; i < dims; i++) {
        if (shape[i] < 0) return false;
        if (shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(bits, shape[i], &bits))
            return false;
    }
    if (empty) bits = 0;
    if (bits % 8 != 0) return false;
    *out = (uint64_t)bits / 8;
    return true;
}

/* Names go into error texts, file listings and other programs' tables: control characters and endless names are
 * refused. */
static flrq_status check_name(const char *path, const char *name) {
    size_t length = strlen(name);
    if (length > MAX_NAME_BYTES)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: tensor %.64s...: the name has %zu bytes, at most %d are accepted",
                         path, name, length, MAX_NAME_BYTES);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return flrq_fail(FLRQ_ERR_FORMAT,
                             "file %s: tensor %.*s...: control character 0x%02x at byte %zu of the name; " REFETCH,
                             path, (int)i, name, (unsigned char)name[i], i);
    return FLRQ_OK;
}

static flrq_status parse_shape(const char *path, const json_t *shape, flrq_tensor *tensor) {
    size_t dims = json_array_size(shape);
    if (!json_is_array(shape))
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: tensor %s: no shape; " REFETCH, path, tensor->name);
    if (dims > FLRQ_MAX_DIMS)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: tensor %s: %zu dimensions, at most %d are supported", path,
                         tensor->name, dims, FLRQ_MAX_DIMS);
    for (size_t i = 0; i < dims; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return flrq_fail(FLRQ_ERR_FORMAT,
                             "file %s: tensor %s: dimension %zu is not a non-negative integer; " REFETCH, path,
                             tensor->name, i);
        tensor->shape[i] = json_integer_value(size);
    }
    tensor->dims = (int)dims;
    return FLRQ_OK;
}

/* Fills dtype, dims, shape, offset (within the data part) and bytes of `tensor` from its entry of the header. */
static flrq_status parse_entry(const char *path, const json_t *entry, flrq_tensor *tensor) {
    const char *name = tensor->name, *key;
    json_t *value;
    if (!json_is_object(entry))
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: tensor %s: its entry is not a JSON object; " REFETCH, path, name);
    json_object_foreach((json_t *)entry, key, value) {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
            return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: tensor %s: unknown property \"%.64s\"", path, name, key);
    }

    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: tensor %s: no dtype; " REFETCH, path, name);
    if (!flrq_dtype_parse(dtype, &tensor->dtype))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: tensor %s: unknown dtype \"%.32s\"", path, name, dtype);

    FLRQ_TRY(parse_shape(path, json_object_get(entry, "shape"), tensor));
    if (!flrq_tensor_bytes(tensor->dtype, tensor->dims, tensor->shape, &tensor->bytes))
        return flrq_fail(
            FLRQ_ERR_FORMAT,
            "file %s: tensor %s: the size of its shape overflows, or does not fill whole bytes of %s; " REFETCH, path,
            name, dtype);

    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < json_integer_value(first))
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: tensor %s: data_offsets are not two ascending non-negative integers; " REFETCH, path,
                         name);
    tensor->offset = (uint64_t)json_integer_value(first);
    uint64_t span = (uint64_t)json_integer_value(last) - tensor->offset;
    if (span != tensor->bytes)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: tensor %s: data_offsets span %llu bytes, its dtype %s and shape need %llu; " REFETCH,
                         path, name, (unsigned long long)span, dtype, (unsigned long long)tensor->bytes);
    return FLRQ_OK;
}

static int by_offset(const void *a, const void *b) {
    const flrq_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors first: they end where they begin */
}

/* Tensors sorted by offset must tile the data part: no holes, no overlaps, nothing behind, nothing missing. */
static flrq_status check_tiling(const char *path, const flrq_tensor *tensors, int64_t n, uint64_t data_bytes) {
    uint64_t end = 0;
    for (int64_t i = 0; i < n; i++) {
        if (tensors[i].offset > end)
            return flrq_fail(FLRQ_ERR_FORMAT,
                             "file %s: tensor %s: a hole of %llu bytes before it, at data offset %llu; " REFETCH, path,
                             tensors[i].name, (unsigned long long)(tensors[i].offset - end), (unsigned long long)end);
        if (tensors[i].offset < end)
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: tensor %s: overlaps tensor %s by %llu bytes; " REFETCH, path,
                             tensors[i].name, tensors[i - 1].name, (unsigned long long)(end - tensors[i].offset));
        end = tensors[i].offset + tensors[i].bytes; /* both came from int64: no overflow */
    }
    if (end > data_bytes)
        return flrq_fail(
            FLRQ_ERR_FORMAT,
            "file %s: truncated: %llu bytes of tensor data are missing (%llu of %llu present); the download is "
            "incomplete: resume it or fetch the file again",
            path, (unsigned long long)(end - data_bytes), (unsigned long long)data_bytes, (unsigned long long)end);
    if (end < data_bytes)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %llu trailing bytes behind the last tensor; " REFETCH, path,
                         (unsigned long long)(data_bytes - end));
    return FLRQ_OK;
}

static flrq_status check_metadata(const char *path, const json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: __metadata__ is not a JSON object; " REFETCH, path);
    json_object_foreach((json_t *)metadata, key, value) {
        if (!json_is_string(value))
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: __metadata__: the value of \"%.64s\" is not a string; " REFETCH,
                             path, key);
    }
    return FLRQ_OK;
}

flrq_status flrq_safetensors_parse(const char *path, const char *header, size_t header_bytes, uint64_t data_bytes,
                                   int file_index, flrq_tensor **tensors, int64_t *n_tensors, json_t **metadata) {
    flrq_status status = FLRQ_OK;
    json_t *root = NULL, *found = NULL, *entry;
    const char *name;
    int64_t before = *n_tensors, n = before;
    if (metadata) *metadata = NULL;
    if (header_bytes == 0 || header[0] != '{')
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: the header does not begin with '{': not a safetensors file", path);
    FLRQ_TRY(flrq_json_parse(path, header, header_bytes, &root));

    size_t room = (size_t)before + json_object_size(root);
    flrq_tensor *grown = realloc(*tensors, (room ? room : 1) * sizeof *grown);
    if (!grown) {
        status = flrq_fail_memory(room * sizeof *grown, "the tensor list");
        goto out;
    }
    *tensors = grown;
    json_object_foreach(root, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            FLRQ_GOTO(check_metadata(path, entry));
            found = entry;
            continue;
        }
        FLRQ_GOTO(check_name(path, name));
        flrq_tensor *tensor = &grown[n];
        *tensor = (flrq_tensor){.name = strdup(name), .file = file_index};
        if (!tensor->name) {
            status = flrq_fail_memory(strlen(name) + 1, "a tensor name");
            goto out;
        }
        n++;
        FLRQ_GOTO(parse_entry(path, entry, tensor));
    }
    qsort(grown + before, (size_t)(n - before), sizeof *grown, by_offset);
    FLRQ_GOTO(check_tiling(path, grown + before, n - before, data_bytes));
    for (int64_t i = before; i < n; i++) grown[i].offset += 8 + (uint64_t)header_bytes;
    *n_tensors = n;
    if (metadata) *metadata = json_incref(found);
out:
    if (status != FLRQ_OK)
        while (n > before) free(grown[--n].name);
    json_decref(root);
    return status;
}

/* ---- one file -----------------------------------------------------------------------------------------------------
 */

/* Length of the JSON header of an open file, checked against the file's size. */
static flrq_status read_header_length(int fd, const char *path, uint64_t file_bytes, uint64_t *out) {
    unsigned char prefix[8];
    uint64_t length = 0;
    if (file_bytes < sizeof prefix)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: %llu bytes, too short for a safetensors file; the download is incomplete: "
                         "fetch the file again",
                         path, (unsigned long long)file_bytes);
    FLRQ_TRY(flrq_file_pread(fd, path, prefix, sizeof prefix, 0));
    if (memcmp(prefix, "version ", sizeof prefix) == 0)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: a Git LFS pointer, not the file itself; run `git lfs pull` in its folder", path);
    for (int i = 7; i >= 0; i--) length = length << 8 | prefix[i];
    if (length > MAX_HEADER_BYTES)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: header length %llu is over the format's limit of %d: not a safetensors file", path,
                         (unsigned long long)length, MAX_HEADER_BYTES);
    if (length > file_bytes - sizeof prefix)
        return flrq_fail(
            FLRQ_ERR_FORMAT,
            "file %s: truncated: %llu bytes of the header are missing; the download is incomplete: resume it or "
            "fetch the file again",
            path, (unsigned long long)(length - (file_bytes - sizeof prefix)));
    *out = length;
    return FLRQ_OK;
}

/* Opens files[index] and appends its tensors. */
static flrq_status open_file(flrq_checkpoint *checkpoint, int index) {
    flrq_status status = FLRQ_OK;
    const char *path = checkpoint->files[index];
    char *header = NULL;
    struct stat st;
    uint64_t length = 0;
    /* O_NONBLOCK: a FIFO put in place of a file must not hang the open; it means nothing for regular files. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot open", path);
    checkpoint->fds[index] = fd;
    if (fstat(fd, &st) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot examine", path);
    if (!S_ISREG(st.st_mode)) return flrq_fail(FLRQ_ERR_IO, "file %s: not a regular file", path);
    FLRQ_TRY(read_header_length(fd, path, (uint64_t)st.st_size, &length));
    header = malloc(length + 1);
    if (!header) return flrq_fail_memory(length, "a safetensors header");
    FLRQ_GOTO(flrq_file_pread(fd, path, header, length, 8));
    status =
        flrq_safetensors_parse(path, header, length, (uint64_t)st.st_size - 8 - length, index, &checkpoint->tensors,
                               &checkpoint->n_tensors, index == 0 ? &checkpoint->metadata : NULL);
out:
    free(header);
    return status;
}

/* ---- folders and indexes ------------------------------------------------------------------------------------------
 */

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int by_name(const void *a, const void *b) {
    const flrq_tensor *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->file - y->file;
}

/* The last part of a path. */
static const char *base_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* An index comes from strangers: its values must not lead out of the folder. */
static bool plain_file_name(const char *name) {
    if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
    for (const char *c = name; *c; c++)
        if (*c == '/' || (unsigned char)*c < 0x20 || *c == 0x7f) return false;
    return true;
}

/* Makes room for n files, all closed. */
static flrq_status allocate_files(flrq_checkpoint *checkpoint, size_t n) {
    checkpoint->files = calloc(n, sizeof *checkpoint->files);
    checkpoint->fds = malloc(n * sizeof *checkpoint->fds);
    if (!checkpoint->files || !checkpoint->fds) return flrq_fail_memory(n * sizeof *checkpoint->files, "the file list");
    for (size_t i = 0; i < n; i++) checkpoint->fds[i] = -1;
    return FLRQ_OK;
}

/* Sets files[] to the distinct values of weight_map, sorted. */
static flrq_status list_shards(flrq_checkpoint *checkpoint, const char *index_path, const json_t *weight_map) {
    flrq_status status = FLRQ_OK;
    const char *name;
    json_t *value;
    size_t n = 0, entries = json_object_size(weight_map);
    if (entries == 0) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: weight_map is absent or empty", index_path);
    const char **shards = malloc(entries * sizeof *shards);
    if (!shards) return flrq_fail_memory(entries * sizeof *shards, "the file list");
    json_object_foreach((json_t *)weight_map, name, value) {
        const char *shard = json_string_value(value);
        FLRQ_GOTO(check_name(index_path, name));
        if (!shard || !plain_file_name(shard)) {
            status = flrq_fail(
                FLRQ_ERR_FORMAT,
                "file %s: tensor %s: its file must be a plain name inside the folder, without '/' and not \"..\"",
                index_path, name);
            goto out;
        }
        shards[n++] = shard;
    }
    qsort(shards, n, sizeof *shards, by_text);
    FLRQ_GOTO(allocate_files(checkpoint, n));
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(shards[i], shards[i - 1]) == 0) continue;
        char *path = flrq_path_join(checkpoint->dir, shards[i]);
        if (!path) {
            status = flrq_fail_memory(strlen(shards[i]), "a file name");
            goto out;
        }
        checkpoint->files[checkpoint->n_files++] = path;
        if (!flrq_path_exists(path)) {
            status =
                flrq_fail(FLRQ_ERR_IO, "file %s: missing, but %s names it; the download is incomplete: fetch the file",
                          path, base_of(index_path));
            goto out;
        }
    }
out:
    free(shards);
    return status;
}

/* Sorts the tensors by name and refuses names that occur in two files. */
static flrq_status sort_tensors(flrq_checkpoint *checkpoint) {
    flrq_tensor *tensors = checkpoint->tensors;
    if (checkpoint->n_tensors == 0) return FLRQ_OK;
    qsort(tensors, (size_t)checkpoint->n_tensors, sizeof *tensors, by_name);
    for (int64_t i = 1; i < checkpoint->n_tensors; i++)
        if (strcmp(tensors[i].name, tensors[i - 1].name) == 0)
            return flrq_fail(
                FLRQ_ERR_FORMAT, "file %s: tensor %s: also in %s; remove the file that does not belong to this model",
                checkpoint->files[tensors[i].file], tensors[i].name, checkpoint->files[tensors[i - 1].file]);
    return FLRQ_OK;
}

/* Index and files must tell the same story in both directions. */
static flrq_status check_index(const flrq_checkpoint *checkpoint, const char *index_path, const json_t *weight_map) {
    const char *name;
    json_t *value;
    for (int64_t i = 0; i < checkpoint->n_tensors; i++) {
        const flrq_tensor *tensor = &checkpoint->tensors[i];
        const char *file = checkpoint->files[tensor->file];
        const char *named = json_string_value(json_object_get(weight_map, tensor->name));
        if (!named)
            return flrq_fail(
                FLRQ_ERR_FORMAT,
                "file %s: tensor %s is not listed in %s; files of two versions are mixed: fetch both again", file,
                tensor->name, index_path);
        if (strcmp(named, base_of(file)) != 0)
            return flrq_fail(FLRQ_ERR_FORMAT,
                             "file %s: tensor %s is in %s, the index says %s; files of two versions are mixed: "
                             "fetch them again",
                             index_path, tensor->name, base_of(file), named);
    }
    if ((size_t)checkpoint->n_tensors == json_object_size(weight_map)) return FLRQ_OK;
    json_object_foreach((json_t *)weight_map, name, value) {
        if (!flrq_checkpoint_find(checkpoint, name))
            return flrq_fail(FLRQ_ERR_FORMAT,
                             "file %s: tensor %s is not in %s as the index says; files of two versions are mixed: "
                             "fetch them again",
                             index_path, name, json_string_value(value));
    }
    return FLRQ_OK;
}

static flrq_status open_single(flrq_checkpoint *checkpoint, const char *path) {
    FLRQ_TRY(allocate_files(checkpoint, 1));
    checkpoint->files[0] = strdup(path);
    if (!checkpoint->files[0]) return flrq_fail_memory(strlen(path), "a file name");
    checkpoint->n_files = 1;
    FLRQ_TRY(open_file(checkpoint, 0));
    return sort_tensors(checkpoint);
}

static flrq_status open_sharded(flrq_checkpoint *checkpoint, const char *index_path) {
    flrq_status status = FLRQ_OK;
    json_t *index = NULL;
    FLRQ_TRY(flrq_json_read(index_path, MAX_HEADER_BYTES, &index));
    const json_t *weight_map = json_object_get(index, "weight_map");
    FLRQ_GOTO(list_shards(checkpoint, index_path, weight_map));
    for (int i = 0; i < checkpoint->n_files; i++) FLRQ_GOTO(open_file(checkpoint, i));
    FLRQ_GOTO(sort_tensors(checkpoint));
    status = check_index(checkpoint, index_path, weight_map);
out:
    json_decref(index);
    return status;
}

/* The folder holds no safetensors: say what it holds instead, if that is known. */
static flrq_status fail_no_model(const char *dir) {
    static const char *const old[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
        char *path = flrq_path_join(dir, old[i]);
        bool found = path && flrq_path_exists(path);
        free(path);
        if (found)
            return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                             "folder %s: holds %s, not safetensors; convert it or fetch the safetensors "
                             "version of the model",
                             dir, old[i]);
    }
    return flrq_fail(FLRQ_ERR_IO,
                     "folder %s: neither model.safetensors nor model.safetensors.index.json found; give the folder of "
                     "a Hugging Face checkpoint",
                     dir);
}

flrq_status flrq_checkpoint_open(flrq_checkpoint **out, const char *path) {
    flrq_status status = FLRQ_OK;
    struct stat st;
    char *single = NULL, *index = NULL, *parent = flrq_path_parent(path);
    *out = NULL;
    if (parent) flrq_dir_refresh(parent); /* another worker may have written it just now */
    free(parent);
    flrq_dir_refresh(path);
    if (stat(path, &st) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "checkpoint %s: cannot open", path);
    flrq_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (!checkpoint) return flrq_fail_memory(sizeof *checkpoint, "a checkpoint");
    bool folder = S_ISDIR(st.st_mode);
    const char *base = base_of(path);
    checkpoint->dir = folder ? strdup(path) : base == path ? strdup(".") : strndup(path, (size_t)(base - path));
    single = flrq_path_join(path, "model.safetensors");
    index = flrq_path_join(path, "model.safetensors.index.json");
    if (!checkpoint->dir || !single || !index) {
        status = flrq_fail_memory(strlen(path), "a file name");
        goto out;
    }
    if (!folder)
        status = open_single(checkpoint, path);
    else if (flrq_path_exists(single))
        status = open_single(checkpoint, single);
    else if (flrq_path_exists(index))
        status = open_sharded(checkpoint, index);
    else
        status = fail_no_model(path);
out:
    free(single);
    free(index);
    if (status == FLRQ_OK)
        *out = checkpoint;
    else
        flrq_checkpoint_close(checkpoint);
    return status;
}

void flrq_checkpoint_close(flrq_checkpoint *checkpoint) {
    if (!checkpoint) return;
    for (int64_t i = 0; i < checkpoint->n_tensors; i++) free(checkpoint->tensors[i].name);
    for (int i = 0; i < checkpoint->n_files; i++) {
        if (checkpoint->fds[i] >= 0) close(checkpoint->fds[i]);
        free(checkpoint->files[i]);
    }
    free(checkpoint->tensors);
    free(checkpoint->files);
    free(checkpoint->fds);
    free(checkpoint->dir);
    json_decref(checkpoint->metadata);
    free(checkpoint);
}

/* ---- tensors ------------------------------------------------------------------------------------------------------
 */

static int name_against(const void *key, const void *tensor) {
    return strcmp(key, ((const flrq_tensor *)tensor)->name);
}

const flrq_tensor *flrq_checkpoint_find(const flrq_checkpoint *checkpoint, const char *name) {
    if (checkpoint->n_tensors == 0) return NULL;
    return bsearch(name, checkpoint->tensors, (size_t)checkpoint->n_tensors, sizeof *checkpoint->tensors, name_against);
}

flrq_status flrq_checkpoint_read(const flrq_checkpoint *checkpoint, const flrq_tensor *tensor, void *to, uint64_t first,
                                 uint64_t bytes) {
    const char *path = checkpoint->files[tensor->file];
    if (first > tensor->bytes || bytes > tensor->bytes - first)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: read of %llu bytes at %llu, it has %llu", path,
                         tensor->name, (unsigned long long)bytes, (unsigned long long)first,
                         (unsigned long long)tensor->bytes);
    flrq_status status = flrq_file_pread(checkpoint->fds[tensor->file], path, to, bytes, tensor->offset + first);
    return status == FLRQ_OK ? FLRQ_OK : flrq_trace(status, "tensor %s", tensor->name);
}

/* A length of 0 would mean "to the end of the file" to the kernel. */
static void advise(const flrq_checkpoint *checkpoint, const flrq_tensor *tensor, int advice) {
    if (tensor->bytes == 0) return;
    (void)posix_fadvise(checkpoint->fds[tensor->file], (off_t)tensor->offset, (off_t)tensor->bytes, advice);
}

void flrq_checkpoint_prefetch(const flrq_checkpoint *checkpoint, const flrq_tensor *tensor) {
    advise(checkpoint, tensor, POSIX_FADV_WILLNEED);
}

void flrq_checkpoint_drop(const flrq_checkpoint *checkpoint, const flrq_tensor *tensor) {
    advise(checkpoint, tensor, POSIX_FADV_DONTNEED);
}
