/* safetensors.h - reading and writing of safetensors files and of sharded checkpoints (formats.md 1.1, 1.2).
 *
 * Reading trusts nothing: header length, JSON, dtypes, shapes, offsets, overlaps, holes, duplicate names, file sizes
 * and the index are checked at open, without touching tensor data. Errors name the file, the tensor, the number and the
 * remedy.
 */
#ifndef FLRQ_IO_SAFETENSORS_H
#define FLRQ_IO_SAFETENSORS_H

#include <stdbool.h>
#include <jansson.h>
#include "core/error.h"

enum { FLRQ_MAX_DIMS = 8 };

/** One tensor of a checkpoint. */
typedef struct flrq_tensor {
    char *name;
    flrq_dtype dtype;
    int dims; /* 0 .. FLRQ_MAX_DIMS */
    int64_t shape[FLRQ_MAX_DIMS];
    int file;        /* index into flrq_checkpoint.files */
    uint64_t offset; /* of the first byte in the file */
    uint64_t bytes;
} flrq_tensor;

/** A folder (or one file) of safetensors. Tensors are sorted by name. */
typedef struct flrq_checkpoint {
    char *dir;
    int n_files;
    char **files; /* paths */
    int *fds;
    int64_t n_tensors;
    flrq_tensor *tensors;
    json_t *metadata; /* __metadata__ of the first file, or NULL */
} flrq_checkpoint;

/** Number of elements of a tensor. */
int64_t flrq_tensor_count(const flrq_tensor *tensor);

/** Bytes of a tensor of that type and shape. False when dims is not 0 .. FLRQ_MAX_DIMS, a dimension is negative, the
 * product of the non-zero dimensions overflows (in bits, int64), or the elements (of a sub-byte type) do not fill whole
 * bytes. */
bool flrq_tensor_bytes(flrq_dtype dtype, int dims, const int64_t *shape, uint64_t *out);

/** Opens a folder with model.safetensors, or model.safetensors.index.json (single file preferred, as loaders do), or
 * the path of one .safetensors file (e.g. adapter_model.safetensors). Index entries must be plain names inside the
 * folder, every named tensor must be in its file; tensors of a shard that the index does not list are an error too. */
flrq_status flrq_checkpoint_open(flrq_checkpoint **out, const char *path);
void flrq_checkpoint_close(flrq_checkpoint *checkpoint);

/** Parses and validates one safetensors header from memory (also the fuzz target): `header` of header_bytes JSON bytes,
 * `data_bytes` = file size - 8 - header_bytes. Appends tensors (file = file_index) to *tensors (realloc'ed). `path` is
 * for messages. */
flrq_status flrq_safetensors_parse(const char *path, const char *header, size_t header_bytes, uint64_t data_bytes,
                                   int file_index, flrq_tensor **tensors, int64_t *n_tensors, json_t **metadata);

/** The tensor of that name, or NULL. */
const flrq_tensor *flrq_checkpoint_find(const flrq_checkpoint *checkpoint, const char *name);

/** Reads bytes [first, first + bytes) of the tensor's data (pread; concurrent calls are fine). */
flrq_status flrq_checkpoint_read(const flrq_checkpoint *checkpoint, const flrq_tensor *tensor, void *to, uint64_t first,
                                 uint64_t bytes);

/** Tells the kernel that the tensor will be read soon / is not needed again (page cache hints; never fails). */
void flrq_checkpoint_prefetch(const flrq_checkpoint *checkpoint, const flrq_tensor *tensor);
void flrq_checkpoint_drop(const flrq_checkpoint *checkpoint, const flrq_tensor *tensor);

/** Writer of one shard. All tensors are declared first, so that rows can be written in any order, by any worker. */
typedef struct flrq_shard_writer flrq_shard_writer;

/** Starts "<path>.tmp", which begin() makes writable for workers that join. Metadata {"format":"pt"} plus `metadata`
 * (string values; may be NULL). */
flrq_status flrq_shard_create(flrq_shard_writer **out, const char *path, json_t *metadata);

/** For a worker that writes into a file that another one creates: the same metadata, the same declarations. Its
 * begin(), called when the creator's has returned, writes nothing but refuses a file that does not have exactly this
 * layout. Ends with leave() or abort(). */
flrq_status flrq_shard_join(flrq_shard_writer **out, const char *path, json_t *metadata);

/** Declares a tensor; returns its handle (>= 0 in *index). Duplicate names are an internal error. */
flrq_status flrq_shard_declare(flrq_shard_writer *writer, const char *name, flrq_dtype dtype, int dims,
                               const int64_t *shape, int *index);

/** Lays out the file (formats.md 1.1: header padded to 8 bytes, tensors by descending element size, then by name),
 * writes the header and reserves the space (a full disk is noticed here). No declare after this. */
flrq_status flrq_shard_begin(flrq_shard_writer *writer);

/** Writes bytes [first, first+bytes) of tensor `index`. */
flrq_status flrq_shard_write(flrq_shard_writer *writer, int index, const void *from, uint64_t first, uint64_t bytes);

/** Total size of the file in bytes (after begin). */
uint64_t flrq_shard_bytes(const flrq_shard_writer *writer);

/** Ends the part of a worker that joined: flushes, so that all machines see it, and tells how many bytes it wrote.
 * Frees the writer, on failure too. */
flrq_status flrq_shard_leave(flrq_shard_writer *writer, uint64_t *bytes);

/** Tells the creator what workers that joined have written and left. */
void flrq_shard_add_written(flrq_shard_writer *writer, uint64_t bytes);

/** Checks that every byte of every tensor was written once (by count; of a file that others wrote to, in total) and
 *  that all who joined have left, hashes (XXH3-64 of the file as read back), flushes, renames to its final name and
 *  frees the writer, on failure too (then nothing is left under either name). */
flrq_status flrq_shard_finish(flrq_shard_writer *writer, uint64_t *hash);

/** Closes and frees; the creator's also removes the temporary file. NULL is fine. */
void flrq_shard_abort(flrq_shard_writer *writer);

/** Writes model.safetensors.index.json: weight_map of n entries and metadata.total_size, atomically, sorted by name. */
flrq_status flrq_index_write(const char *path, int64_t n, const char *const *names, const char *const *files,
                             uint64_t total_size);

#endif
