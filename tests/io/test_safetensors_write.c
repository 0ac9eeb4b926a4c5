/* test_safetensors_write.c - layout, round trip, independence of order and threads, accounting, index.
 *
 * An independent reader checks the same files: see oracle/check_safetensors.py. Full disks and failing system calls are
 * in test_io_faults.c.
 */
#include "io/scratch.h"
#include "io/file.h"
#include "io/safetensors.h"

#include "core/dtype.h"
#include "core/parallel.h"

#include <xxhash.h>

/* Byte i of tensor t: no two tensors look alike, and a shift by one shows. */
static unsigned char byte_of(int t, uint64_t i) {
    return (unsigned char)(i * 31 + i / 251 + (uint64_t)t * 101);
}

static unsigned char *bytes_of(int t, uint64_t bytes) {
    unsigned char *data = malloc(bytes + 1);
    for (uint64_t i = 0; i < bytes; i++) data[i] = byte_of(t, i);
    return data;
}

static void test_tensor_bytes(void **state) {
    uint64_t bytes;
    assert_true(flrq_tensor_bytes(FLRQ_F32, 0, NULL, &bytes) && bytes == 4);
    assert_true(flrq_tensor_bytes(FLRQ_BF16, 2, (int64_t[]){3, 5}, &bytes) && bytes == 30);
    assert_true(flrq_tensor_bytes(FLRQ_F64, 3, (int64_t[]){3, 0, 5}, &bytes) && bytes == 0);
    assert_true(flrq_tensor_bytes(FLRQ_F4, 1, (int64_t[]){6}, &bytes) && bytes == 3);
    assert_true(flrq_tensor_bytes(FLRQ_F6_E2M3, 1, (int64_t[]){4}, &bytes) && bytes == 3);
    assert_false(flrq_tensor_bytes(FLRQ_F4, 1, (int64_t[]){7}, &bytes));
    assert_false(flrq_tensor_bytes(FLRQ_U8, 1, (int64_t[]){-1}, &bytes));
    assert_false(flrq_tensor_bytes(FLRQ_U8, 9, (int64_t[9]){0}, &bytes));
    assert_false(flrq_tensor_bytes(FLRQ_U8, -1, NULL, &bytes));
    assert_true(flrq_tensor_bytes(FLRQ_U8, 1, (int64_t[]){INT64_MAX / 8}, &bytes) && bytes == INT64_MAX / 8);
    assert_false(flrq_tensor_bytes(FLRQ_U8, 1, (int64_t[]){INT64_MAX / 8 + 1}, &bytes));
    assert_false(flrq_tensor_bytes(FLRQ_U8, 3, (int64_t[]){INT64_MAX, 0, INT64_MAX}, &bytes));
}

/* Every dtype, with shapes of 0 to 8 dimensions, empty ones among them. */
static int declare_zoo(flrq_shard_writer *writer, int order, int *handles) {
    static const int64_t shapes[][8] = {{1}, {24}, {8, 3}, {0, 7}, {2, 2, 2, 1, 1, 1, 1, 3}};
    static const int dims[] = {0, 1, 2, 2, 8};
    for (int k = 0; k < FLRQ_DTYPE_COUNT; k++) {
        int t = order ? FLRQ_DTYPE_COUNT - 1 - k : k, shape = t % 5;
        char name[32];
        if (flrq_dtype_bits((flrq_dtype)t) < 8 && shape == 0) shape = 1; /* a single element does not fill a byte */
        snprintf(name, sizeof name, "zoo.%c.%s", 'a' + (t * 7) % 26, flrq_dtype_name((flrq_dtype)t));
        assert_ok(flrq_shard_declare(writer, name, (flrq_dtype)t, dims[shape], shapes[shape], &handles[t]));
    }
    return FLRQ_DTYPE_COUNT;
}

/* Writes the zoo; `order` reverses declaration and writing, and cuts the writes into odd pieces. */
static const char *write_zoo(const char *name, int order, uint64_t *hash) {
    const char *path = scratch_path(name);
    flrq_shard_writer *writer;
    int handles[FLRQ_DTYPE_COUNT];
    json_t *metadata = json_pack("{s:s, s:s}", "note", "\"quoted\" \xc3\xa9", "format", "pt");
    assert_ok(flrq_shard_create(&writer, path, metadata));
    json_decref(metadata);
    int n = declare_zoo(writer, order, handles);
    assert_int_equal(flrq_shard_bytes(writer), 0);
    assert_ok(flrq_shard_begin(writer));
    assert_false(flrq_path_exists(path));
    for (int k = 0; k < n; k++) {
        int t = order ? n - 1 - k : k;
        uint64_t bytes = 3 * (uint64_t)flrq_dtype_bits((flrq_dtype)t); /* of 24 elements */
        if (t % 5 == 3) bytes = 0;
        if (t % 5 == 0 && flrq_dtype_bits((flrq_dtype)t) >= 8) bytes /= 24;
        unsigned char *data = bytes_of(t, bytes);
        uint64_t cut = order ? bytes / 3 : bytes;
        assert_ok(flrq_shard_write(writer, handles[t], data + cut, cut, bytes - cut));
        assert_ok(flrq_shard_write(writer, handles[t], data, 0, cut));
        free(data);
    }
    assert_ok(flrq_shard_finish(writer, hash));
    return path;
}

static void test_round_trip_and_layout(void **state) {
    uint64_t hash, end;
    size_t bytes;
    const char *path = write_zoo("zoo.safetensors", 0, &hash);
    char *file = scratch_get(path, &bytes);
    assert_true(hash == XXH3_64bits(file, bytes));
    assert_false(flrq_path_exists(scratch_path("zoo.safetensors.tmp")));

    flrq_checkpoint *checkpoint;
    assert_ok(flrq_checkpoint_open(&checkpoint, path));
    assert_int_equal(checkpoint->n_tensors, FLRQ_DTYPE_COUNT);
    assert_string_equal(json_string_value(json_object_get(checkpoint->metadata, "format")), "pt");
    assert_string_equal(json_string_value(json_object_get(checkpoint->metadata, "note")), "\"quoted\" \xc3\xa9");
    uint64_t data_start = UINT64_MAX;
    for (int64_t i = 0; i < checkpoint->n_tensors; i++) {
        const flrq_tensor *tensor = &checkpoint->tensors[i];
        unsigned char *got = malloc(tensor->bytes + 1), *want = bytes_of(tensor->dtype, tensor->bytes);
        assert_ok(flrq_checkpoint_read(checkpoint, tensor, got, 0, tensor->bytes));
        assert_memory_equal(got, want, tensor->bytes);
        int alignment = flrq_dtype_bits(tensor->dtype) / 8;
        if (alignment > 1) assert_int_equal(tensor->offset % (uint64_t)alignment, 0);
        if (tensor->offset < data_start) data_start = tensor->offset;
        free(got);
        free(want);
    }
    assert_int_equal(data_start % 8, 0);
    assert_int_equal(file[data_start - 1], ' '); /* this header needs padding; if not, change a name */

    /* Order in the file: descending element size, then name. */
    const flrq_tensor *last = NULL;
    for (end = data_start; end < bytes;) {
        const flrq_tensor *here = NULL;
        for (int64_t i = 0; i < checkpoint->n_tensors; i++)
            if (checkpoint->tensors[i].offset == end && checkpoint->tensors[i].bytes) here = &checkpoint->tensors[i];
        assert_non_null(here);
        if (last) {
            int before = flrq_dtype_bits(last->dtype), now = flrq_dtype_bits(here->dtype);
            assert_true(before > now || (before == now && strcmp(last->name, here->name) < 0));
        }
        last = here;
        end += here->bytes;
    }
    flrq_checkpoint_close(checkpoint);
    free(file);
}

static void test_order_does_not_change_bytes(void **state) {
    uint64_t hash, other;
    size_t bytes, other_bytes;
    char *first = scratch_get(write_zoo("forward.safetensors", 0, &hash), &bytes);
    char *second = scratch_get(write_zoo("backward.safetensors", 1, &other), &other_bytes);
    assert_int_equal(bytes, other_bytes);
    assert_memory_equal(first, second, bytes);
    assert_true(hash == other);
    free(first);
    free(second);
}

typedef struct piecewise {
    flrq_shard_writer *writer;
    int handle;
    uint64_t bytes, piece;
    const unsigned char *data;
    _Atomic int failures;
} piecewise;

static void write_piece(void *arg, int64_t index, int thread) {
    piecewise *p = arg;
    uint64_t first = (uint64_t)index * p->piece, bytes = p->bytes - first < p->piece ? p->bytes - first : p->piece;
    if (flrq_shard_write(p->writer, p->handle, p->data + first, first, bytes) != FLRQ_OK) p->failures++;
}

static void test_rows_from_many_threads(void **state) {
    enum { ROWS = 1000, COLS = 37 };
    piecewise p = {.bytes = 4 * ROWS * COLS, .piece = 4 * COLS * 3};
    unsigned char *data = bytes_of(5, p.bytes);
    uint64_t hash;
    p.data = data;
    assert_ok(flrq_shard_create(&p.writer, scratch_path("threads.safetensors"), NULL));
    assert_ok(flrq_shard_declare(p.writer, "w", FLRQ_I32, 2, (int64_t[]){ROWS, COLS}, &p.handle));
    assert_ok(flrq_shard_begin(p.writer));
    flrq_parallel_for(8, (int64_t)((p.bytes + p.piece - 1) / p.piece), write_piece, &p);
    assert_int_equal(p.failures, 0);
    uint64_t total = flrq_shard_bytes(p.writer);
    assert_ok(flrq_shard_finish(p.writer, &hash));
    size_t bytes;
    char *file = scratch_get(scratch_path("threads.safetensors"), &bytes);
    assert_int_equal(bytes, total);
    assert_memory_equal(file + bytes - p.bytes, data, p.bytes);
    free(file);
    free(data);
}

static void test_no_tensors(void **state) {
    flrq_shard_writer *writer;
    flrq_checkpoint *checkpoint;
    uint64_t hash;
    assert_ok(flrq_shard_create(&writer, scratch_path("none.safetensors"), NULL));
    assert_ok(flrq_shard_begin(writer));
    assert_ok(flrq_shard_finish(writer, &hash));
    assert_ok(flrq_checkpoint_open(&checkpoint, scratch_path("none.safetensors")));
    assert_int_equal(checkpoint->n_tensors, 0);
    assert_null(flrq_checkpoint_find(checkpoint, "a"));
    flrq_checkpoint_close(checkpoint);
}

static void test_misuse(void **state) {
    flrq_shard_writer *writer;
    const char *path = scratch_path("misuse.safetensors");
    int a, b;
    uint64_t hash;
    json_t *bad = json_pack("{s:i}", "steps", 3);
    assert_failure(flrq_shard_create(&writer, path, bad), FLRQ_ERR_INTERNAL, "metadata \"steps\" is not a string");
    json_decref(bad);
    assert_null(writer);
    assert_failure(flrq_shard_create(&writer, scratch_path("no/folder"), NULL), FLRQ_ERR_IO, "cannot create");
    assert_null(writer);

    assert_ok(flrq_shard_create(&writer, path, NULL));
    assert_ok(flrq_shard_declare(writer, "a", FLRQ_U8, 1, (int64_t[]){4}, &a));
    assert_failure(flrq_shard_declare(writer, "a", FLRQ_U8, 1, (int64_t[]){4}, &b), FLRQ_ERR_INTERNAL,
                   "tensor a: the name is taken");
    assert_failure(flrq_shard_declare(writer, "__metadata__", FLRQ_U8, 0, NULL, &b), FLRQ_ERR_INTERNAL,
                   "the name is taken");
    assert_failure(flrq_shard_declare(writer, "s", FLRQ_U8, 1, (int64_t[]){-4}, &b), FLRQ_ERR_INTERNAL,
                   "tensor s: impossible shape for U8");
    assert_failure(flrq_shard_declare(writer, "\xff", FLRQ_U8, 0, NULL, &b), FLRQ_ERR_INTERNAL, "not UTF-8");
    assert_failure(flrq_shard_write(writer, a, "abcd", 0, 4), FLRQ_ERR_INTERNAL, "data before the layout");
    assert_ok(flrq_shard_begin(writer));
    assert_failure(flrq_shard_begin(writer), FLRQ_ERR_INTERNAL, "laid out twice");
    assert_failure(flrq_shard_declare(writer, "b", FLRQ_U8, 0, NULL, &b), FLRQ_ERR_INTERNAL,
                   "tensor b: declared after the layout");
    assert_failure(flrq_shard_write(writer, 1, "abcd", 0, 4), FLRQ_ERR_INTERNAL, "no tensor 1, there are 1");
    assert_failure(flrq_shard_write(writer, -1, "abcd", 0, 4), FLRQ_ERR_INTERNAL, "no tensor -1");
    assert_failure(flrq_shard_write(writer, a, "abcd", 1, 4), FLRQ_ERR_INTERNAL,
                   "tensor a: write of 4 bytes at 1, it has 4");
    assert_failure(flrq_shard_write(writer, a, "abcd", UINT64_MAX, 2), FLRQ_ERR_INTERNAL, "tensor a: write of 2");
    assert_ok(flrq_shard_write(writer, a, "abc", 0, 3));
    assert_failure(flrq_shard_finish(writer, &hash), FLRQ_ERR_INTERNAL, "tensor a: 3 bytes were written, it has 4");

    assert_ok(flrq_shard_create(&writer, path, NULL));
    assert_ok(flrq_shard_declare(writer, "a", FLRQ_U8, 1, (int64_t[]){4}, &a));
    assert_ok(flrq_shard_begin(writer));
    assert_ok(flrq_shard_write(writer, a, "abcd", 0, 4));
    assert_ok(flrq_shard_write(writer, a, "b", 1, 1)); /* written twice shows in the count */
    assert_failure(flrq_shard_finish(writer, &hash), FLRQ_ERR_INTERNAL, "tensor a: 5 bytes were written, it has 4");

    assert_ok(flrq_shard_create(&writer, path, NULL));
    assert_failure(flrq_shard_finish(writer, &hash), FLRQ_ERR_INTERNAL, "finished before the layout");
    assert_ok(flrq_shard_create(&writer, path, NULL));
    assert_ok(flrq_shard_declare(writer, "a", FLRQ_U8, 1, (int64_t[]){INT64_MAX / 8}, &a));
    for (int i = 0; i < 8; i++) {
        char name[2] = {(char)('b' + i), 0};
        assert_ok(flrq_shard_declare(writer, name, FLRQ_U8, 1, (int64_t[]){INT64_MAX / 8}, &b));
    }
    assert_failure(flrq_shard_begin(writer), FLRQ_ERR_INTERNAL, "tensor i: the file would pass 2^63 bytes");
    flrq_shard_abort(writer);
    flrq_shard_abort(NULL);
    assert_false(flrq_path_exists(path));
    assert_false(flrq_path_exists(scratch_path("misuse.safetensors.tmp")));
}

static void test_index(void **state) {
    static const char *const names[] = {"m.b", "m.a", "lm_head"}, *const files[] = {"2.safetensors", "1.safetensors",
                                                                                    "2.safetensors"};
    size_t bytes;
    const char *path = scratch_path("model.safetensors.index.json");
    assert_ok(flrq_index_write(path, 3, names, files, 123456789012));
    char *text = scratch_get(path, &bytes);
    json_t *index;
    assert_ok(flrq_json_parse("index", text, bytes, &index));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")),
                     123456789012);
    const json_t *map = json_object_get(index, "weight_map");
    assert_int_equal(json_object_size(map), 3);
    for (int i = 0; i < 3; i++) assert_string_equal(json_string_value(json_object_get(map, names[i])), files[i]);
    assert_true(strstr(text, "lm_head") < strstr(text, "m.a") && strstr(text, "m.a") < strstr(text, "m.b"));
    json_decref(index);
    free(text);
    static const char *const twice[] = {"x", "y", "x"};
    assert_failure(flrq_index_write(path, 3, twice, files, 1), FLRQ_ERR_INTERNAL, "tensor x: listed for");
    assert_ok(flrq_index_write(path, 0, NULL, NULL, 0));
    assert_failure(flrq_index_write(scratch_path("no/index.json"), 3, names, files, 1), FLRQ_ERR_IO, "cannot create");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensor_bytes),
        cmocka_unit_test(test_round_trip_and_layout),
        cmocka_unit_test(test_order_does_not_change_bytes),
        cmocka_unit_test(test_rows_from_many_threads),
        cmocka_unit_test(test_no_tensors),
        cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_index),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
