/* file.c - whole files, JSON files, atomic replacement and folders.
 *
 * Owns every open-write-rename of the program: nothing else calls rename() but the end of a run, for the config.json
 * that was checked. Refuses to leave a half-written file under a final name. The order flush, close, rename, flush
 * folder is what makes a resumed run trust what it finds: keep it.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

enum { STREAM_BYTES = 1 << 20 };

/* ---- paths ------------------------------------------------------------------------------------------------------ */

char *flrq_path_join(const char *dir, const char *name) {
    size_t length = strlen(dir), name_bytes = strlen(name) + 1;
    bool slash = length > 0 && dir[length - 1] != '/';
    char *path = malloc(length + slash + name_bytes);
    if (!path) return NULL;
    memcpy(path, dir, length);
    if (slash) path[length] = '/';
    memcpy(path + length + slash, name, name_bytes);
    return path;
}

bool flrq_path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool flrq_path_names(const char *path, int fd) {
    struct stat by_name, by_fd;
    return stat(path, &by_name) == 0 && fstat(fd, &by_fd) == 0 && by_name.st_ino == by_fd.st_ino &&
           by_name.st_dev == by_fd.st_dev;
}

char *flrq_path_parent(const char *path) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    while (length > 0 && path[length - 1] != '/') length--;
    while (length > 1 && path[length - 1] == '/') length--;
    return length ? strndup(path, length) : strdup(".");
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

flrq_status flrq_file_pread(int fd, const char *path, void *to, size_t bytes, uint64_t offset) {
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(fd, (char *)to + done, bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return flrq_fail_errno(FLRQ_ERR_IO, "file %s: reading %zu bytes at offset %llu", path, bytes - done,
                                   (unsigned long long)(offset + done));
        if (got == 0)
            return flrq_fail(FLRQ_ERR_IO, "file %s: ends at offset %llu, %zu bytes more were expected: truncated?",
                             path, (unsigned long long)(offset + done), bytes - done);
        done += (size_t)got;
    }
    return FLRQ_OK;
}

flrq_status flrq_file_read(const char *path, size_t max_bytes, char **out, size_t *out_bytes) {
    flrq_status status = FLRQ_OK;
    char *data = NULL;
    size_t used = 0, room = 1 << 16;
    struct stat st;
    *out = NULL;
    if (max_bytes > PTRDIFF_MAX / 4) max_bytes = PTRDIFF_MAX / 4; /* so that sums below cannot wrap */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot open", path);
    if (fstat(fd, &st) != 0) {
        status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot examine", path);
        goto out;
    }
    /* Pipes and /proc files state no size: the size is only the first guess of the buffer, end of file decides. One
     * byte more than the guess lets the read that finds the end happen without growing. */
    if (S_ISREG(st.st_mode)) {
        if ((uint64_t)st.st_size > max_bytes) {
            status = flrq_fail(FLRQ_ERR_FORMAT, "file %s: %lld bytes, at most %zu are accepted here", path,
                               (long long)st.st_size, max_bytes);
            goto out;
        }
        room = (size_t)st.st_size + 1;
    }
    for (;;) {
        char *grown = realloc(data, room + 1);
        if (!grown) {
            status = flrq_fail_memory(room + 1, path);
            goto out;
        }
        data = grown;
        ssize_t got = 0;
        while (used < room) {
            got = read(fd, data + used, room - used);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) break;
            used += (size_t)got;
        }
        if (got < 0) {
            status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: reading at offset %zu", path, used);
            goto out;
        }
        if (used > max_bytes) {
            status =
                flrq_fail(FLRQ_ERR_FORMAT, "file %s: more than the %zu bytes that are accepted here", path, max_bytes);
            goto out;
        }
        if (used < room) break;
        room *= 2;
    }
    data[used] = 0;
    *out = data;
    if (out_bytes) *out_bytes = used;
    data = NULL;
out:
    free(data);
    close(fd);
    return status;
}

flrq_status flrq_file_hash(const char *path, uint64_t *out) {
    flrq_status status = FLRQ_OK;
    XXH3_state_t *state = NULL;
    char *buffer = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot open", path);
    buffer = malloc(STREAM_BYTES);
    state = XXH3_createState();
    if (!buffer || !state) {
        status = flrq_fail_memory(STREAM_BYTES, "hashing a file");
        goto out;
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    XXH3_64bits_reset(state);
    for (;;) {
        ssize_t got = read(fd, buffer, STREAM_BYTES);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: reading", path);
            goto out;
        }
        if (got == 0) break;
        XXH3_64bits_update(state, buffer, (size_t)got);
    }
    *out = XXH3_64bits_digest(state);
out:
    XXH3_freeState(state);
    free(buffer);
    close(fd);
    return status;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

flrq_status flrq_file_pwrite(int fd, const char *path, const void *from, size_t bytes, uint64_t offset) {
    for (size_t done = 0; done < bytes;) {
        ssize_t put = pwrite(fd, (const char *)from + done, bytes - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put == 0) errno = EIO; /* not allowed for files; without it the loop would never end */
        if (put <= 0)
            return flrq_fail_errno(FLRQ_ERR_IO, "file %s: %zu bytes at offset %llu could not be written", path,
                                   bytes - done, (unsigned long long)(offset + done));
        done += (size_t)put;
    }
    return FLRQ_OK;
}

/* Frees the names; what was open is closed by now. */
static void output_clear(flrq_output *output) {
    free(output->path);
    free(output->temp);
    *output = (flrq_output){0};
}

static flrq_status output_name(flrq_output *output, const char *path) {
    size_t length = strlen(path);
    *output = (flrq_output){.path = strdup(path), .temp = malloc(length + sizeof ".tmp"), .fd = -1};
    if (!output->path || !output->temp) {
        output_clear(output);
        return flrq_fail_memory(2 * length, "a file name");
    }
    memcpy(output->temp, path, length);
    memcpy(output->temp + length, ".tmp", sizeof ".tmp");
    return FLRQ_OK;
}

flrq_status flrq_output_open(flrq_output *output, const char *path) {
    FLRQ_TRY(output_name(output, path));
    /* Removed and created, not truncated: what lies there may be a link to a file that is not ours. */
    unlink(output->temp);
    /* Readable too: the hash of a shard is taken from what the file system gives back. */
    output->fd = open(output->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (output->fd < 0) {
        flrq_status status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot create", output->temp);
        output_clear(output);
        return status;
    }
    return FLRQ_OK;
}

flrq_status flrq_output_join(flrq_output *output, const char *path) {
    FLRQ_TRY(output_name(output, path));
    output->joined = true;
    char *dir = flrq_path_parent(path);
    if (dir) flrq_dir_refresh(dir);
    free(dir);
    output->fd = open(output->temp, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (output->fd < 0) {
        flrq_status status = flrq_fail_errno(
            FLRQ_ERR_IO, "file %s: cannot open what another worker should have made; check that all see this folder",
            output->temp);
        output_clear(output);
        return status;
    }
    return FLRQ_OK;
}

/* fsync() and close(): network file systems report late write errors at either. Closed on failure too. */
static flrq_status flush_and_close(flrq_output *output) {
    flrq_status status = FLRQ_OK;
    if (fsync(output->fd) != 0) status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot flush to disk", output->temp);
    if (close(output->fd) != 0 && status == FLRQ_OK)
        status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot close", output->temp);
    output->fd = -1;
    return status;
}

flrq_status flrq_output_leave(flrq_output *output) {
    flrq_status status = flush_and_close(output);
    output_clear(output);
    return status;
}

void flrq_output_discard(flrq_output *output) {
    if (!output->temp) return;
    if (output->fd >= 0) close(output->fd);
    if (!output->joined) unlink(output->temp);
    output_clear(output);
}

flrq_status flrq_output_commit(flrq_output *output) {
    flrq_status status = flush_and_close(output);
    if (status == FLRQ_OK && rename(output->temp, output->path) != 0)
        status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot rename to %s", output->temp, output->path);
    if (status != FLRQ_OK) {
        flrq_output_discard(output);
        return status;
    }
    status = flrq_dir_sync_parent(output->path);
    output_clear(output);
    return status;
}

flrq_status flrq_file_write(const char *path, const void *data, size_t bytes) {
    flrq_output output;
    FLRQ_TRY(flrq_output_open(&output, path));
    flrq_status status = flrq_file_pwrite(output.fd, output.temp, data, bytes, 0);
    if (status == FLRQ_OK) return flrq_output_commit(&output);
    flrq_output_discard(&output);
    return status;
}

flrq_status flrq_file_copy(const char *from, const char *to) {
    flrq_status status = FLRQ_OK;
    flrq_output output = {0};
    uint64_t offset = 0;
    char *buffer = malloc(STREAM_BYTES);
    if (!buffer) return flrq_fail_memory(STREAM_BYTES, "copying a file");
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot open", from);
        goto out;
    }
    FLRQ_GOTO(flrq_output_open(&output, to));
    for (;;) {
        ssize_t got = read(fd, buffer, STREAM_BYTES);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: reading at offset %llu", from, (unsigned long long)offset);
            goto out;
        }
        if (got == 0) break;
        FLRQ_GOTO(flrq_file_pwrite(output.fd, output.temp, buffer, (size_t)got, offset));
        offset += (uint64_t)got;
    }
    status = flrq_output_commit(&output);
out:
    flrq_output_discard(&output);
    if (fd >= 0) close(fd);
    free(buffer);
    return status;
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

/* Where the key that ends before `position` begins: jansson names a duplicate key only when it is short. */
static size_t key_before(const char *text, size_t position) {
    size_t at = position ? position - 1 : 0;
    while (at > 0 && (text[at - 1] != '"' || (at > 1 && text[at - 2] == '\\'))) at--;
    return at;
}

flrq_status flrq_json_parse(const char *path, const char *text, size_t bytes, json_t **out) {
    json_error_t error = {0};
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (*out) return FLRQ_OK;
    /* jansson leaves the code unknown where an allocation fails and nothing else can. */
    if (json_error_code(&error) == json_error_out_of_memory || json_error_code(&error) == json_error_unknown)
        return flrq_fail_memory(bytes, path);
    for (char *c = error.text; *c; c++) /* the text quotes the input: keep the sentence on one line */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    size_t end = error.position > 0 ? (size_t)error.position : 0, begin = 0;
    if (json_error_code(&error) == json_error_duplicate_key && end <= bytes) begin = key_before(text, end);
    if (begin)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: not valid JSON: line %d, column %d: duplicate object key \"%.*s\"",
                         path, error.line, error.column, (int)(end - 1 - begin), text + begin);
    return flrq_fail(FLRQ_ERR_FORMAT, "file %s: not valid JSON: line %d, column %d: %s", path, error.line, error.column,
                     error.text);
}

flrq_status flrq_json_read(const char *path, size_t max_bytes, json_t **out) {
    char *text;
    size_t bytes;
    *out = NULL;
    FLRQ_TRY(flrq_file_read(path, max_bytes, &text, &bytes));
    flrq_status status = flrq_json_parse(path, text, bytes, out);
    free(text);
    return status;
}

char *flrq_json_text(const json_t *value, size_t flags, size_t *length) {
    size_t bytes = json_dumpb(value, NULL, 0, flags);
    char *text = bytes ? malloc(bytes + 1) : NULL;
    if (!text) return NULL;
    if (json_dumpb(value, text, bytes, flags) != bytes) { /* it needs memory of its own for nested values */
        free(text);
        return NULL;
    }
    text[bytes] = 0;
    *length = bytes;
    return text;
}

flrq_status flrq_json_write(const char *path, const json_t *value) {
    size_t length;
    char *text = flrq_json_text(value, JSON_INDENT(1), &length);
    if (!text)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: JSON value is no object or array, or memory ran out", path);
    text[length] = '\n'; /* takes the place of the NUL: the text goes out by length */
    flrq_status status = flrq_file_write(path, text, length + 1);
    free(text);
    return status;
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

flrq_status flrq_dir_sync(const char *dir) {
    flrq_status status = FLRQ_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return flrq_fail_errno(FLRQ_ERR_IO, "folder %s: cannot open", dir);
    /* EINVAL: a file system that cannot flush folders (some FUSE and network ones) orders renames by itself. */
    if (fsync(fd) != 0 && errno != EINVAL)
        status = flrq_fail_errno(FLRQ_ERR_IO, "folder %s: cannot flush to disk", dir);
    close(fd);
    return status;
}

flrq_status flrq_dir_sync_parent(const char *path) {
    char *dir = flrq_path_parent(path);
    if (!dir) return flrq_fail_memory(strlen(path), "a file name");
    flrq_status status = flrq_dir_sync(dir);
    free(dir);
    return status;
}

void flrq_dir_refresh(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) close(fd);
}

flrq_status flrq_dir_make(const char *dir) {
    struct stat st;
    if (mkdir(dir, 0777) == 0) return FLRQ_OK;
    if (errno != EEXIST) return flrq_fail_errno(FLRQ_ERR_IO, "folder %s: cannot create", dir);
    if (stat(dir, &st) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "folder %s: cannot examine", dir);
    if (!S_ISDIR(st.st_mode)) return flrq_fail(FLRQ_ERR_IO, "folder %s: a file of that name is in the way", dir);
    return FLRQ_OK;
}

flrq_status flrq_dir_free_bytes(const char *path, uint64_t *out) {
    struct statvfs st;
    char *at = strdup(path);
    while (at && statvfs(at, &st) != 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        if (!missing || strcmp(at, ".") == 0 || strcmp(at, "/") == 0) {
            flrq_status status = flrq_fail_errno(FLRQ_ERR_IO, "folder %s: cannot examine its file system", at);
            free(at);
            return status;
        }
        char *parent = flrq_path_parent(at);
        free(at);
        at = parent;
    }
    if (!at) return flrq_fail_memory(strlen(path), "a file name");
    free(at);
    *out = (uint64_t)st.f_bavail * st.f_frsize;
    return FLRQ_OK;
}
