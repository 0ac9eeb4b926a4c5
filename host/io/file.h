/* file.h - whole files, atomic replacement, folders and locks.
 *
 * A file that the program writes appears under its name only when complete: written to "<name>.tmp", flushed, renamed,
 * folder flushed. Works on NFS and Lustre: no mmap for writing, no reliance on sub-second times.
 */
#ifndef FLRQ_IO_FILE_H
#define FLRQ_IO_FILE_H

#include <stdbool.h>
#include <jansson.h>
#include "core/error.h"

/** Joins a folder and a name into a new string (free()); NULL on out of memory. */
char *flrq_path_join(const char *dir, const char *name);

/** True when a file or folder of that name exists. */
bool flrq_path_exists(const char *path);

/** True when `path` (still) names the open file `fd`. */
bool flrq_path_names(const char *path, int fd);

/** The folder that holds `path`, as a new string (free()): "." for a bare name, "/" for a name in the root; NULL on out
 *  of memory. */
char *flrq_path_parent(const char *path);

/** Reads a whole file into *out (free(); one extra NUL byte). Refuses files over max_bytes by number. */
flrq_status flrq_file_read(const char *path, size_t max_bytes, char **out, size_t *out_bytes);

/** Parses JSON text (an object or an array; UTF-8; at most 2048 levels): duplicate keys refused, line and column in the
 * error. `path` is for messages. *out: json_decref(). */
flrq_status flrq_json_parse(const char *path, const char *text, size_t bytes, json_t **out);

/** Parses a JSON file: duplicate keys refused, line and column in the error, at most max_bytes. *out: json_decref(). */
flrq_status flrq_json_read(const char *path, size_t max_bytes, json_t **out);

/** The text of an object or an array (free(); keys in insertion order; flags as of json_dumps(), which itself loses a
 * key when memory runs out, jansson 2.14). NULL on out of memory. */
char *flrq_json_text(const json_t *value, size_t flags, size_t *length);

/** Atomically replaces `path` with `bytes` of data. */
flrq_status flrq_file_write(const char *path, const void *data, size_t bytes);

/** Atomically replaces `path` with the JSON text (indent 1, keys in insertion order, trailing newline). */
flrq_status flrq_json_write(const char *path, const json_t *value);

/** Copies a file byte for byte, atomically. */
flrq_status flrq_file_copy(const char *from, const char *to);

/** pread() of exactly `bytes` at `offset`, retrying short reads; end of file is an error naming path and offset. */
flrq_status flrq_file_pread(int fd, const char *path, void *to, size_t bytes, uint64_t offset);

/** pwrite() of exactly `bytes`; "no space left" names the path and the bytes that were still to be written. */
flrq_status flrq_file_pwrite(int fd, const char *path, const void *from, size_t bytes, uint64_t offset);

/** A file under construction: data goes to fd ("<path>.tmp"); the name `path` appears, or changes, at commit only. A
 *  zeroed struct is a valid closed one. */
typedef struct flrq_output {
    char *path, *temp;
    int fd;
    bool joined; /* made by another worker, who commits or discards it */
} flrq_output;

/** Creates "<path>.tmp", removing a leftover of a killed run; never writes through a link of that name. */
flrq_status flrq_output_open(flrq_output *output, const char *path);

/** fsync(), close, rename to the final name, flush of the folder. On failure the temporary file is removed. Closes
 * `output` either way. */
flrq_status flrq_output_commit(flrq_output *output);

/** Opens "<path>.tmp" that another worker's flrq_output_open() made, for reading and writing, as it is. Ends with
 *  flrq_output_leave() or flrq_output_discard(). */
flrq_status flrq_output_join(flrq_output *output, const char *path);

/** fsync() and close of a joined output: what was written is where other machines find it. Closes on failure too. */
flrq_status flrq_output_leave(flrq_output *output);

/** Closes, and removes the temporary file unless it is another worker's. Fine on a closed output. */
void flrq_output_discard(flrq_output *output);

/** XXH3-64 of a whole file, streamed through a 1 MiB buffer. */
flrq_status flrq_file_hash(const char *path, uint64_t *out);

/** fsync() of a folder, so that renames in it survive a crash. */
flrq_status flrq_dir_sync(const char *dir);

/** fsync() of the folder that holds `path`. */
flrq_status flrq_dir_sync_parent(const char *path);

/** Makes an NFS client ask the server what a folder holds, by opening it: without that, a file that another machine
 *  made may stay unseen for a minute. Other file systems need no such thing. Never fails. */
void flrq_dir_refresh(const char *dir);

/** Creates a folder (one level); existing is fine. */
flrq_status flrq_dir_make(const char *dir);

/** Bytes available to this user on the file system of `path` (or of its nearest existing parent). */
flrq_status flrq_dir_free_bytes(const char *path, uint64_t *out);

/** Exclusive advisory lock on "<dir>/.lock", holding host and pid. A second holder gets FLRQ_ERR_BUSY naming the first.
 * Released by flrq_dir_unlock() or the death of the process. */
typedef struct flrq_lock flrq_lock;
flrq_status flrq_dir_lock(flrq_lock **out, const char *dir);
void flrq_dir_unlock(flrq_lock *lock); /* removes the lock file; NULL is fine */

#endif
