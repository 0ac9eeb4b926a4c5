/* safetensors_write.c - writing of one safetensors file and of the index of a sharded checkpoint.
 *
 * Owns the layout: header keys in the order of the data, header padded with spaces to 8 bytes, tensors by descending
 * element size and then by name, so that every tensor is aligned to its element. The bytes of a file depend on the
 * declared names, types, shapes and data only, never on the order of declaration or of writes: resumed and parallel
 * runs are compared with cmp. Refuses to finish while a byte is missing.
 *
 * Several workers, also of several machines, may write one file. What makes this safe on NFS is the lock that each
 * holds on the first byte while it writes, see hold(): do not remove it because it seems to exclude nobody.
 */
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/dtype.h"
#include "io/file.h"

typedef struct declared {
    char *name;
    flrq_dtype dtype;
    int dims;
    int64_t shape[FLRQ_MAX_DIMS];
    uint64_t offset, bytes; /* offset in the file, set by flrq_shard_begin() */
    _Atomic uint64_t written;
} declared;

struct flrq_shard_writer {
    char *path;
    bool joined;
    flrq_output output; /* of a worker that joins: closed until begin */
    json_t *metadata;   /* the __metadata__ object to write */
    json_t *names;      /* set of declared names, for the duplicate check */
    declared *tensors;
    int n, room;
    uint64_t total;  /* file size; 0 until begun */
    uint64_t others; /* bytes that workers who joined have written */
};

/* Frees all but the output. */
static void writer_free(flrq_shard_writer *writer) {
    for (int i = 0; i < writer->n; i++) free(writer->tensors[i].name);
    free(writer->tensors);
    json_decref(writer->names);
    json_decref(writer->metadata);
    free(writer->path);
    free(writer);
}

void flrq_shard_abort(flrq_shard_writer *writer) {
    if (!writer) return;
    flrq_output_discard(&writer->output);
    writer_free(writer);
}

static flrq_status new_writer(flrq_shard_writer **out, const char *path, json_t *metadata) {
    const char *key;
    json_t *value;
    *out = NULL;
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: metadata \"%s\" is not a string", path, key);
    }
    flrq_shard_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return flrq_fail_memory(sizeof *writer, "a shard writer");
    writer->path = strdup(path);
    writer->names = json_object();
    writer->metadata = json_pack("{s:s}", "format", "pt");
    if (!writer->path || !writer->names || !writer->metadata ||
        (metadata && json_object_update(writer->metadata, metadata) != 0)) {
        writer_free(writer);
        return flrq_fail_memory(sizeof *writer, "a shard writer");
    }
    *out = writer;
    return FLRQ_OK;
}

flrq_status flrq_shard_create(flrq_shard_writer **out, const char *path, json_t *metadata) {
    FLRQ_TRY(new_writer(out, path, metadata));
    flrq_status status = flrq_output_open(&(*out)->output, path);
    if (status != FLRQ_OK) {
        writer_free(*out);
        *out = NULL;
    }
    return status;
}

flrq_status flrq_shard_join(flrq_shard_writer **out, const char *path, json_t *metadata) {
    FLRQ_TRY(new_writer(out, path, metadata));
    (*out)->joined = true;
    return FLRQ_OK;
}

flrq_status flrq_shard_declare(flrq_shard_writer *writer, const char *name, flrq_dtype dtype, int dims,
                               const int64_t *shape, int *index) {
    const char *path = writer->path;
    uint64_t bytes;
    if (writer->total) return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: declared after the layout", path, name);
    if (!flrq_tensor_bytes(dtype, dims, shape, &bytes))
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: impossible shape for %s", path, name,
                         flrq_dtype_name(dtype));
    if (strcmp(name, "__metadata__") == 0 || json_object_get(writer->names, name))
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: the name is taken", path, name);
    if (writer->n == writer->room) {
        int room = writer->room ? 2 * writer->room : 64;
        declared *grown = realloc(writer->tensors, (size_t)room * sizeof *grown);
        if (!grown) return flrq_fail_memory((size_t)room * sizeof *grown, "the tensor list");
        writer->tensors = grown;
        writer->room = room;
    }
    declared *tensor = &writer->tensors[writer->n];
    *tensor = (declared){.name = strdup(name), .dtype = dtype, .dims = dims, .bytes = bytes};
    if (!tensor->name || json_object_set_new(writer->names, name, json_true()) != 0) {
        free(tensor->name);
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: name is not UTF-8, or memory ran out", path, name);
    }
    for (int i = 0; i < dims; i++) tensor->shape[i] = shape[i];
    *index = writer->n++;
    return FLRQ_OK;
}

static int by_size_then_name(const void *a, const void *b) {
    const declared *x = *(declared *const *)a, *y = *(declared *const *)b;
    int x_bits = flrq_dtype_bits(x->dtype), y_bits = flrq_dtype_bits(y->dtype);
    return x_bits != y_bits ? (y_bits > x_bits) - (y_bits < x_bits) : strcmp(x->name, y->name);
}

/* Adds one tensor to the header; false when memory ran out. */
static bool add_entry(json_t *header, const declared *tensor) {
    json_t *shape = json_array();
    bool good = shape != NULL;
    for (int i = 0; i < tensor->dims && good; i++)
        good = json_array_append_new(shape, json_integer(tensor->shape[i])) == 0;
    if (!good) {
        json_decref(shape);
        return false;
    }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", flrq_dtype_name(tensor->dtype), "shape", shape,
                              "data_offsets", (json_int_t)tensor->offset, (json_int_t)(tensor->offset + tensor->bytes));
    return entry && json_object_set_new(header, tensor->name, entry) == 0;
}

/* Sets offsets (within the data) and makes the head of the file: length of the header in 8 bytes, and the header,
 * padded to 8 bytes; *data_bytes is the size of the data. */
static flrq_status lay_out(flrq_shard_writer *writer, char **head, size_t *head_bytes, uint64_t *data_bytes) {
    flrq_status status = FLRQ_OK;
    json_t *object = json_object();
    char *text = NULL;
    uint64_t end = 0;
    declared **order = malloc((size_t)(writer->n + 1) * sizeof *order);
    bool good = object && order && json_object_set(object, "__metadata__", writer->metadata) == 0;
    if (good) {
        for (int i = 0; i < writer->n; i++) order[i] = &writer->tensors[i];
        qsort(order, (size_t)writer->n, sizeof *order, by_size_then_name);
    }
    for (int i = 0; i < writer->n && good; i++) {
        order[i]->offset = end;
        if (__builtin_add_overflow(end, order[i]->bytes, &end) || end > INT64_MAX) {
            status = flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: the file would pass 2^63 bytes", writer->path,
                               order[i]->name);
            goto out;
        }
        good = add_entry(object, order[i]);
    }
    size_t length = 0;
    text = good ? flrq_json_text(object, JSON_COMPACT, &length) : NULL;
    size_t padded = (length + 7) / 8 * 8;
    char *made = text ? malloc(8 + padded) : NULL;
    if (!made) {
        status = flrq_fail_memory(8 + padded, "a safetensors header");
        goto out;
    }
    for (int i = 0; i < 8; i++) made[i] = (char)(unsigned char)((uint64_t)padded >> 8 * i);
    memcpy(made + 8, text, length);
    memset(made + 8 + length, ' ', padded - length);
    *head = made;
    *head_bytes = 8 + padded;
    *data_bytes = end;
out:
    free(text);
    free(order);
    json_decref(object);
    return status;
}

/* Reserves the blocks of the file, so that a full disk shows before the work and not after it. fallocate() itself,
 * since posix_fallocate() would write every block where the file system cannot reserve. */
static flrq_status reserve(const flrq_output *output, uint64_t bytes) {
    while (fallocate(output->fd, 0, 0, (off_t)bytes) != 0) {
        if (errno == EINTR) continue;
        if ((errno == EOPNOTSUPP || errno == ENOSYS) && ftruncate(output->fd, (off_t)bytes) == 0) break;
        return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot reserve %llu bytes", output->temp,
                               (unsigned long long)bytes);
    }
    return FLRQ_OK;
}

/* The lock on the first byte: shared (F_RDLCK) by all who write, exclusive (F_WRLCK) to finish, none (F_UNLCK). What
 * it does beside showing who still writes: with any lock on a file, an NFS client sends just the bytes that were
 * written; without, it may send the page around them, as it was before another machine wrote there. And taking a lock
 * drops what the client has cached, so that the hash is that of the file on the server. */
static flrq_status hold(const flrq_output *output, short type) {
    struct flock first = {.l_type = type, .l_whence = SEEK_SET, .l_len = 1};
    if (fcntl(output->fd, F_OFD_SETLK, &first) == 0) return FLRQ_OK;
    if (errno == EAGAIN || errno == EACCES)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: another worker is still %s it", output->temp,
                         type == F_WRLCK ? "writing" : "finishing");
    return flrq_fail_errno(FLRQ_ERR_IO, "file %s: the file system refuses locks (Lustre: mount with -o flock)",
                           output->temp);
}

/* Makes the file of that size, starting with `head`. Flushed: workers on other machines will read it. */
static flrq_status make_file(const flrq_output *output, const char *head, size_t head_bytes, uint64_t total) {
    FLRQ_TRY(hold(output, F_RDLCK));
    FLRQ_TRY(reserve(output, total));
    FLRQ_TRY(flrq_file_pwrite(output->fd, output->temp, head, head_bytes, 0));
    if (fsync(output->fd) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot flush to disk", output->temp);
    return FLRQ_OK;
}

/* Refuses a file that another worker made with another size or another head. */
static flrq_status check_file(const flrq_output *output, const char *head, size_t head_bytes, uint64_t total) {
    struct stat st;
    FLRQ_TRY(hold(output, F_RDLCK));
    if (fstat(output->fd, &st) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot examine", output->temp);
    if ((uint64_t)st.st_size != total)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: %llu bytes, this worker has a layout of %llu: do all have the same model, options "
                         "and version?",
                         output->temp, (unsigned long long)st.st_size, (unsigned long long)total);
    char *found = malloc(head_bytes);
    if (!found) return flrq_fail_memory(head_bytes, "a safetensors header");
    flrq_status status = flrq_file_pread(output->fd, output->temp, found, head_bytes, 0);
    if (status == FLRQ_OK && memcmp(found, head, head_bytes) != 0)
        status = flrq_fail(FLRQ_ERR_FORMAT,
                           "file %s: the header of %zu bytes is not the one of this worker: do all have the same "
                           "model, options and version?",
                           output->temp, head_bytes);
    free(found);
    return status;
}

flrq_status flrq_shard_begin(flrq_shard_writer *writer) {
    flrq_status status = FLRQ_OK;
    char *head = NULL;
    size_t head_bytes = 0;
    uint64_t data_bytes = 0, total;
    if (writer->total) return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: laid out twice", writer->path);
    FLRQ_TRY(lay_out(writer, &head, &head_bytes, &data_bytes));
    if (__builtin_add_overflow(head_bytes, data_bytes, &total) || total > INT64_MAX)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_INTERNAL, "file %s: the file would pass 2^63 bytes", writer->path));
    if (writer->joined) {
        FLRQ_GOTO(flrq_output_join(&writer->output, writer->path));
        FLRQ_GOTO(check_file(&writer->output, head, head_bytes, total));
    } else {
        FLRQ_GOTO(make_file(&writer->output, head, head_bytes, total));
    }
    for (int i = 0; i < writer->n; i++) writer->tensors[i].offset += head_bytes;
    writer->total = total;
out:
    if (status != FLRQ_OK && writer->joined) flrq_output_discard(&writer->output);
    free(head);
    return status;
}

flrq_status flrq_shard_write(flrq_shard_writer *writer, int index, const void *from, uint64_t first, uint64_t bytes) {
    const char *path = writer->path;
    if (!writer->total) return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: data before the layout", path);
    if (index < 0 || index >= writer->n)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: no tensor %d, there are %d", path, index, writer->n);
    declared *tensor = &writer->tensors[index];
    if (first > tensor->bytes || bytes > tensor->bytes - first)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: write of %llu bytes at %llu, it has %llu", path,
                         tensor->name, (unsigned long long)bytes, (unsigned long long)first,
                         (unsigned long long)tensor->bytes);
    FLRQ_TRY(flrq_file_pwrite(writer->output.fd, writer->output.temp, from, bytes, tensor->offset + first));
    atomic_fetch_add(&tensor->written, bytes);
    return FLRQ_OK;
}

uint64_t flrq_shard_bytes(const flrq_shard_writer *writer) {
    return writer->total;
}

flrq_status flrq_shard_leave(flrq_shard_writer *writer, uint64_t *bytes) {
    flrq_status status = FLRQ_OK;
    *bytes = 0;
    if (!writer->joined || !writer->total) {
        status = flrq_fail(FLRQ_ERR_INTERNAL, "file %s: left by a worker that did not join it", writer->path);
        goto out;
    }
    for (int i = 0; i < writer->n; i++) *bytes += atomic_load(&writer->tensors[i].written);
    FLRQ_GOTO(
        hold(&writer->output, F_UNLCK)); /* not left to close(): a program that is being started may have a copy */
    status = flrq_output_leave(&writer->output);
out:
    flrq_shard_abort(writer);
    return status;
}

void flrq_shard_add_written(flrq_shard_writer *writer, uint64_t bytes) {
    writer->others += bytes;
}

/* Every byte once, by count. Where others wrote too, only the sum over all tensors is known of them. */
static flrq_status check_written(const flrq_shard_writer *writer) {
    uint64_t wanted = 0, sum = writer->others;
    for (int i = 0; i < writer->n; i++) {
        const declared *tensor = &writer->tensors[i];
        uint64_t written = atomic_load(&tensor->written);
        if (written > tensor->bytes || (written < tensor->bytes && !writer->others))
            return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: %llu bytes were written, it has %llu",
                             writer->path, tensor->name, (unsigned long long)written,
                             (unsigned long long)tensor->bytes);
        wanted += tensor->bytes;
        sum += written;
    }
    if (sum != wanted)
        return flrq_fail(FLRQ_ERR_INTERNAL,
                         "file %s: all workers together wrote %llu bytes, %llu of them others, the tensors have %llu",
                         writer->path, (unsigned long long)sum, (unsigned long long)writer->others,
                         (unsigned long long)wanted);
    return FLRQ_OK;
}

flrq_status flrq_shard_finish(flrq_shard_writer *writer, uint64_t *hash) {
    flrq_status status = FLRQ_OK;
    if (writer->joined || !writer->total)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_INTERNAL, "file %s: finished %s", writer->path,
                            writer->joined ? "by a worker that joined" : "before the layout"));
    FLRQ_GOTO(check_written(writer));
    FLRQ_GOTO(hold(&writer->output, F_WRLCK));
    FLRQ_GOTO(flrq_file_hash(writer->output.temp, hash));
    status = flrq_output_commit(&writer->output);
out:
    flrq_shard_abort(writer);
    return status;
}

/* ---- index --------------------------------------------------------------------------------------------------------
 */

typedef struct index_entry {
    const char *name, *file;
} index_entry;

static int by_entry_name(const void *a, const void *b) {
    return strcmp(((const index_entry *)a)->name, ((const index_entry *)b)->name);
}

flrq_status flrq_index_write(const char *path, int64_t n, const char *const *names, const char *const *files,
                             uint64_t total_size) {
    flrq_status status = FLRQ_OK;
    json_t *map = json_object(), *root = NULL;
    index_entry *entries = malloc((size_t)(n + 1) * sizeof *entries);
    bool good = map && entries;
    if (good) {
        for (int64_t i = 0; i < n; i++) entries[i] = (index_entry){names[i], files[i]};
        qsort(entries, (size_t)n, sizeof *entries, by_entry_name);
    }
    for (int64_t i = 0; i < n && good; i++) {
        if (i > 0 && strcmp(entries[i].name, entries[i - 1].name) == 0) {
            status = flrq_fail(FLRQ_ERR_INTERNAL, "file %s: tensor %s: listed for %s and for %s", path, entries[i].name,
                               entries[i - 1].file, entries[i].file);
            goto out;
        }
        good = json_object_set_new(map, entries[i].name, json_string(entries[i].file)) == 0;
    }
    if (good) root = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total_size, "weight_map", map);
    if (!root) {
        status = flrq_fail_memory((size_t)n * sizeof *entries, path);
        goto out;
    }
    status = flrq_json_write(path, root);
out:
    json_decref(root);
    json_decref(map);
    free(entries);
    return status;
}
