/* npy.c - NumPy arrays: token ids in, results out.
 *
 * Owns the .npy header, which is the text of a Python dict: read by a small parser that knows the three keys of the
 * format and nothing else of Python. Refuses what it cannot represent (Fortran order, big endian, floats, structures)
 * by name instead of guessing.
 */
#include "io/npy.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "io/safetensors.h"

enum {
    MAX_HEADER_BYTES = 1 << 16,
    PIECE_BYTES = 1 << 20, /* of the streamed conversion; a multiple of every element size */
    HEADER_ALIGN = 64      /* where NumPy lets data begin */
};
static const char magic[6] = "\x93NUMPY";

/* ---- header of a .npy ---------------------------------------------------------------------------------------------
 */

typedef struct npy_header {
    char descr[16];
    bool fortran;
    int dims;
    int64_t shape[FLRQ_MAX_DIMS];
} npy_header;

typedef struct cursor {
    const char *at, *end;
    const char *path;
} cursor;

static char peek(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
    return c->at < c->end ? *c->at : 0;
}

static bool take(cursor *c, char wanted) {
    if (peek(c) != wanted) return false;
    c->at++;
    return true;
}

static bool take_word(cursor *c, const char *word) {
    size_t length = strlen(word);
    peek(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0) return false;
    c->at += length;
    return true;
}

/* A quoted string of printable characters without escapes, as NumPy writes keys and type names. */
static bool take_string(cursor *c, char *to, size_t room) {
    char quote = peek(c);
    size_t length = 0;
    if (quote != '\'' && quote != '"') return false;
    for (c->at++; c->at < c->end && *c->at != quote; c->at++) {
        if (*c->at < 0x20 || *c->at == 0x7f || *c->at == '\\' || length + 1 >= room) return false;
        to[length++] = *c->at;
    }
    to[length] = 0;
    return take(c, quote);
}

static flrq_status fail_header(const cursor *c, const char *what) {
    return flrq_fail(FLRQ_ERR_FORMAT, "file %s: damaged .npy header: %s; write it again with numpy.save", c->path,
                     what);
}

static flrq_status parse_shape(cursor *c, npy_header *header) {
    if (!take(c, '(')) return fail_header(c, "shape is not a tuple");
    for (header->dims = 0; !take(c, ')'); header->dims++) {
        int64_t size = 0;
        char digit = peek(c);
        if (header->dims == FLRQ_MAX_DIMS) return fail_header(c, "too many dimensions");
        if (digit < '0' || digit > '9') return fail_header(c, "a dimension is not a non-negative integer");
        for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
            if (__builtin_mul_overflow(size, 10, &size) || __builtin_add_overflow(size, *c->at - '0', &size))
                return fail_header(c, "a dimension overflows");
        if (c->at < c->end && *c->at == 'L') c->at++; /* long integers of Python 2 */
        header->shape[header->dims] = size;
        if (!take(c, ',') && peek(c) != ')') return fail_header(c, "shape is not a tuple");
    }
    return FLRQ_OK;
}

static flrq_status parse_header(const char *path, const char *text, size_t bytes, npy_header *header) {
    cursor c = {.at = text, .end = text + bytes, .path = path};
    bool descr = false, order = false, shape = false;
    char key[32];
    if (!take(&c, '{')) return fail_header(&c, "it does not begin with '{'");
    while (!take(&c, '}')) {
        if (!take_string(&c, key, sizeof key) || !take(&c, ':')) return fail_header(&c, "a key was expected");
        if (strcmp(key, "descr") == 0 && !descr) {
            if (peek(&c) == '[')
                return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: a structured array; a plain integer array is needed",
                                 path);
            if (!take_string(&c, header->descr, sizeof header->descr))
                return fail_header(&c, "descr is not a type name");
            descr = true;
        } else if (strcmp(key, "fortran_order") == 0 && !order) {
            header->fortran = take_word(&c, "True");
            if (!header->fortran && !take_word(&c, "False"))
                return fail_header(&c, "fortran_order is not True or False");
            order = true;
        } else if (strcmp(key, "shape") == 0 && !shape) {
            FLRQ_TRY(parse_shape(&c, header));
            shape = true;
        } else {
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: damaged .npy header: key '%s' is unknown or occurs twice", path,
                             key);
        }
        if (!take(&c, ',') && peek(&c) != '}') return fail_header(&c, "a comma was expected");
    }
    peek(&c);
    if (c.at != c.end) return fail_header(&c, "text behind the '}'");
    if (!descr || !order || !shape) return fail_header(&c, "descr, fortran_order or shape is absent");
    return FLRQ_OK;
}

/* Reads and parses the header of an open .npy of file_bytes bytes; *data is the offset of the first element. */
static flrq_status read_header(int fd, const char *path, uint64_t file_bytes, npy_header *header, uint64_t *data) {
    unsigned char start[12] = {0};
    if (file_bytes < sizeof start)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: truncated: %llu bytes, too short for a .npy file", path,
                         (unsigned long long)file_bytes);
    FLRQ_TRY(flrq_file_pread(fd, path, start, sizeof start, 0));
    if (start[6] < 1 || start[6] > 3)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: .npy format version %d, versions 1 to 3 are supported", path,
                         start[6]);
    uint64_t length = start[8] | (uint64_t)start[9] << 8, begin = 10;
    if (start[6] > 1) {
        length |= (uint64_t)start[10] << 16 | (uint64_t)start[11] << 24;
        begin = 12;
    }
    if (length > MAX_HEADER_BYTES)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: .npy header of %llu bytes, at most %d are accepted", path,
                         (unsigned long long)length, MAX_HEADER_BYTES);
    if (length > file_bytes - begin)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: truncated: %llu bytes of the .npy header are missing", path,
                         (unsigned long long)(length - (file_bytes - begin)));
    char *text = malloc(length + 1);
    if (!text) return flrq_fail_memory(length, "a .npy header");
    flrq_status status = flrq_file_pread(fd, path, text, length, begin);
    if (status == FLRQ_OK) status = parse_header(path, text, length, header);
    free(text);
    *data = begin + length;
    return status;
}

/* ---- token ids ----------------------------------------------------------------------------------------------------
 */

/* Integers in a file, whatever container they came in. */
typedef struct id_array {
    int fd;
    const char *path;
    uint64_t offset; /* of the first element */
    bool is_signed;
    int size; /* bytes of an element: 1, 2, 4 or 8 */
    int dims;
    const int64_t *shape;
} id_array;

/* One little-endian element as int32; the failure tells index and value. */
static flrq_status to_id(const id_array *array, const unsigned char *from, int64_t index, int64_t vocab, int32_t *to) {
    int64_t low = vocab > 0 ? 0 : INT32_MIN, high = vocab > 0 && vocab <= INT32_MAX ? vocab - 1 : INT32_MAX;
    uint64_t raw = 0;
    for (int b = 0; b < array->size; b++) raw |= (uint64_t)from[b] << 8 * b;
    int unused_bits = 64 - 8 * array->size;
    int64_t value = array->is_signed ? (int64_t)(raw << unused_bits) >> unused_bits : (int64_t)raw;
    if (!array->is_signed && raw > (uint64_t)high)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: id %lld is %llu, outside [%lld, %lld]; it was made with another tokenizer",
                         array->path, (long long)index, (unsigned long long)raw, (long long)low, (long long)high);
    if (value < low || value > high)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: id %lld is %lld, outside [%lld, %lld]; it was made with another tokenizer",
                         array->path, (long long)index, (long long)value, (long long)low, (long long)high);
    *to = (int32_t)value;
    return FLRQ_OK;
}

/* Converts an array whose size has been checked against its file. */
static flrq_status read_ids(const id_array *array, int64_t vocab, int32_t **ids, int64_t *rows, int64_t *cols) {
    flrq_status status = FLRQ_OK;
    if (array->dims != 1 && array->dims != 2)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: %d dimensions; token ids need 1 ([count]) or 2 ([segments, length])", array->path,
                         array->dims);
    int64_t n_rows = array->dims == 2 ? array->shape[0] : 1, n_cols = array->shape[array->dims - 1],
            count = n_rows * n_cols;
    if (count == 0) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: holds no token ids", array->path);
    int32_t *to = (uint64_t)count <= SIZE_MAX / sizeof *to ? malloc((size_t)count * sizeof *to) : NULL;
    unsigned char *piece = malloc(PIECE_BYTES);
    if (!to || !piece) {
        status = flrq_fail_memory((size_t)count * sizeof *to, "token ids");
        goto out;
    }
    for (int64_t done = 0; done < count;) {
        int64_t n = PIECE_BYTES / array->size < count - done ? PIECE_BYTES / array->size : count - done;
        FLRQ_GOTO(flrq_file_pread(array->fd, array->path, piece, (size_t)(n * array->size),
                                  array->offset + (uint64_t)(done * array->size)));
        for (int64_t i = 0; i < n; i++)
            FLRQ_GOTO(to_id(array, piece + i * array->size, done + i, vocab, to + done + i));
        done += n;
    }
    *ids = to;
    *rows = n_rows;
    *cols = n_cols;
    to = NULL;
out:
    free(piece);
    free(to);
    return status;
}

static flrq_status read_npy_ids(int fd, const char *path, uint64_t file_bytes, int64_t vocab, int32_t **ids,
                                int64_t *rows, int64_t *cols) {
    npy_header header = {.dims = 0};
    uint64_t data = 0;
    FLRQ_TRY(read_header(fd, path, file_bytes, &header, &data));
    char order = header.descr[0], kind = order ? header.descr[1] : 0;
    const char *size_text = kind ? header.descr + 2 : "";
    int size = strlen(size_text) == 1 && strchr("1248", size_text[0]) ? size_text[0] - '0' : 0;
    if ((kind != 'i' && kind != 'u') || size == 0)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "file %s: elements of type '%s'; token ids must be integers (i1 to i8, u1 to u8)", path,
                         header.descr);
    if (order != '<' && !(size == 1 && (order == '|' || order == '>')))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: elements of type '%s' are not little endian; save as '<%s'",
                         path, header.descr, header.descr + 1);
    if (header.fortran && header.dims > 1)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                         "file %s: Fortran order (fortran_order: True); save numpy.ascontiguousarray of the array",
                         path);
    int64_t bytes = size; /* dimensions of 0 are left out so that every partial product is known to fit */
    bool empty = false;
    for (int i = 0; i < header.dims; i++) {
        if (header.shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(bytes, header.shape[i], &bytes))
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: the size of its shape overflows", path);
    }
    if (empty) bytes = 0;
    uint64_t present = file_bytes - data;
    if ((uint64_t)bytes > present)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: truncated: %llu bytes of data are missing", path,
                         (unsigned long long)((uint64_t)bytes - present));
    if ((uint64_t)bytes < present)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %llu trailing bytes behind the array", path,
                         (unsigned long long)(present - (uint64_t)bytes));
    id_array array = {.fd = fd,
                      .path = path,
                      .offset = data,
                      .is_signed = kind == 'i',
                      .size = size,
                      .dims = header.dims,
                      .shape = header.shape};
    return read_ids(&array, vocab, ids, rows, cols);
}

/* Bytes of an integer element, negative for signed types; 0 for what is no integer. */
static int integer_size(flrq_dtype dtype) {
    switch (dtype) {
    case FLRQ_I8:
        return -1;
    case FLRQ_I16:
        return -2;
    case FLRQ_I32:
        return -4;
    case FLRQ_I64:
        return -8;
    case FLRQ_U8:
        return 1;
    case FLRQ_U16:
        return 2;
    case FLRQ_U32:
        return 4;
    case FLRQ_U64:
        return 8;
    default:
        return 0;
    }
}

static flrq_status read_safetensors_ids(const char *path, int64_t vocab, int32_t **ids, int64_t *rows, int64_t *cols) {
    flrq_status status = FLRQ_OK;
    flrq_checkpoint *checkpoint;
    FLRQ_TRY(flrq_checkpoint_open(&checkpoint, path));
    const flrq_tensor *tensor = flrq_checkpoint_find(checkpoint, "input_ids");
    if (!tensor) tensor = flrq_checkpoint_find(checkpoint, "tokens");
    int candidates = tensor ? 1 : 0;
    if (!tensor)
        for (int64_t i = 0; i < checkpoint->n_tensors; i++)
            if (integer_size(checkpoint->tensors[i].dtype)) {
                tensor = &checkpoint->tensors[i];
                candidates++;
            }
    if (candidates != 1) {
        status =
            flrq_fail(FLRQ_ERR_FORMAT,
                      "file %s: %d integer tensors and none named input_ids or tokens; name the one that holds the ids",
                      path, candidates);
        goto out;
    }
    int size = integer_size(tensor->dtype);
    if (!size) {
        status = flrq_fail(FLRQ_ERR_FORMAT, "file %s: tensor %s: not of an integer type", path, tensor->name);
        goto out;
    }
    id_array array = {.fd = checkpoint->fds[tensor->file],
                      .path = path,
                      .offset = tensor->offset,
                      .is_signed = size < 0,
                      .size = abs(size),
                      .dims = tensor->dims,
                      .shape = tensor->shape};
    status = read_ids(&array, vocab, ids, rows, cols);
out:
    flrq_checkpoint_close(checkpoint);
    return status;
}

flrq_status flrq_tokens_read(const char *path, int64_t vocab, int32_t **ids, int64_t *rows, int64_t *cols) {
    flrq_status status = FLRQ_OK;
    struct stat st;
    char start[sizeof magic] = {0};
    const char *dot = strrchr(path, '.');
    *ids = NULL;
    if (dot && strcmp(dot, ".safetensors") == 0) return read_safetensors_ids(path, vocab, ids, rows, cols);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot open", path);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        status = flrq_fail(FLRQ_ERR_IO, "file %s: not a regular file", path);
        goto out;
    }
    if ((uint64_t)st.st_size >= sizeof start) FLRQ_GOTO(flrq_file_pread(fd, path, start, sizeof start, 0));
    if (memcmp(start, magic, sizeof magic) != 0) {
        status = flrq_fail(FLRQ_ERR_FORMAT,
                           "file %s: token ids are read from .npy and .safetensors files; this is neither", path);
        goto out;
    }
    status = read_npy_ids(fd, path, (uint64_t)st.st_size, vocab, ids, rows, cols);
out:
    close(fd);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

struct flrq_npy_writer {
    flrq_output output;
    uint64_t at, end; /* next offset, size of the finished file */
};

flrq_status flrq_npy_create(flrq_npy_writer **out, const char *path, const char *descr, size_t element_bytes, int dims,
                            const int64_t *shape) {
    flrq_status status = FLRQ_OK;
    char header[512];
    uint64_t bytes = element_bytes;
    *out = NULL;
    if (dims < 0 || dims > FLRQ_MAX_DIMS) return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: %d dimensions", path, dims);
    memcpy(header, magic, sizeof magic);
    int used = 10;
    used += snprintf(header + used, sizeof header - (size_t)used,
                     "{'descr': '%.16s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < dims; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(bytes, (uint64_t)shape[i], &bytes))
            return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: the size of its shape overflows", path);
        used += snprintf(header + used, sizeof header - (size_t)used, i ? " %lld," : "%lld,", (long long)shape[i]);
    }
    if (dims > 1) used--; /* only the tuple of one element ends with a comma */
    used += snprintf(header + used, sizeof header - (size_t)used, "), }");
    int total = (used + 1 + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
    memset(header + used, ' ', (size_t)(total - used - 1));
    header[total - 1] = '\n';
    header[6] = 1, header[7] = 0;
    header[8] = (char)((total - 10) & 0xff), header[9] = (char)((total - 10) >> 8);

    flrq_npy_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return flrq_fail_memory(sizeof *writer, "a .npy writer");
    FLRQ_GOTO(flrq_output_open(&writer->output, path));
    FLRQ_GOTO(flrq_file_pwrite(writer->output.fd, writer->output.temp, header, (size_t)total, 0));
    writer->at = (uint64_t)total;
    writer->end = (uint64_t)total + bytes;
    *out = writer;
    return FLRQ_OK;
out:
    flrq_npy_abort(writer);
    return status;
}

flrq_status flrq_npy_append(flrq_npy_writer *writer, const void *data, size_t bytes) {
    if (bytes > writer->end - writer->at)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: %zu bytes appended, its shape has room for %llu",
                         writer->output.path, bytes, (unsigned long long)(writer->end - writer->at));
    FLRQ_TRY(flrq_file_pwrite(writer->output.fd, writer->output.temp, data, bytes, writer->at));
    writer->at += bytes;
    return FLRQ_OK;
}

flrq_status flrq_npy_finish(flrq_npy_writer *writer) {
    flrq_status status;
    if (writer->at != writer->end)
        status = flrq_fail(FLRQ_ERR_INTERNAL, "file %s: finished with %llu bytes missing", writer->output.path,
                           (unsigned long long)(writer->end - writer->at));
    else
        status = flrq_output_commit(&writer->output);
    flrq_npy_abort(writer);
    return status;
}

void flrq_npy_abort(flrq_npy_writer *writer) {
    if (!writer) return;
    flrq_output_discard(&writer->output);
    free(writer);
}

flrq_status flrq_npy_write(const char *path, const char *descr, size_t element_bytes, int dims, const int64_t *shape,
                           const void *data) {
    flrq_npy_writer *writer;
    FLRQ_TRY(flrq_npy_create(&writer, path, descr, element_bytes, dims, shape));
    flrq_status status = flrq_npy_append(writer, data, (size_t)(writer->end - writer->at));
    if (status == FLRQ_OK) return flrq_npy_finish(writer);
    flrq_npy_abort(writer);
    return status;
}
