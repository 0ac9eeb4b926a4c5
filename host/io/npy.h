/* npy.h - NumPy .npy arrays (versions 1 to 3, C order, little endian) and token files. */
#ifndef FLRQ_IO_NPY_H
#define FLRQ_IO_NPY_H

#include "core/error.h"

/** Token ids from a .npy (any integer type) or a .safetensors file (its only integer tensor, or "input_ids", or
 * "tokens"), of 1 or 2 dimensions, C order. *ids [rows*cols] (free()); rows = 1 for 1-D. Ids outside [0, vocab) are an
 * error that names index and id; vocab <= 0 skips the check. */
flrq_status flrq_tokens_read(const char *path, int64_t vocab, int32_t **ids, int64_t *rows, int64_t *cols);

/** Writes a C-order array atomically. descr: "<f4", "<i4", ... with its element size. */
flrq_status flrq_npy_write(const char *path, const char *descr, size_t element_bytes, int dims, const int64_t *shape,
                           const void *data);

/** A .npy that is written piece by piece along its first axis (shape known beforehand); atomic at finish. */
typedef struct flrq_npy_writer flrq_npy_writer;
flrq_status flrq_npy_create(flrq_npy_writer **out, const char *path, const char *descr, size_t element_bytes, int dims,
                            const int64_t *shape);
flrq_status flrq_npy_append(flrq_npy_writer *writer, const void *data, size_t bytes);
flrq_status flrq_npy_finish(flrq_npy_writer *writer); /* frees; an error when bytes are missing */
void flrq_npy_abort(flrq_npy_writer *writer);

#endif
