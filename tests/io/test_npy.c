/* test_npy.c - token ids from .npy and .safetensors, and .npy output read back byte by byte. */
#include "io/scratch.h"
#include "io/file.h"
#include "io/npy.h"
#include "io/safetensors.h"

/* Writes a .npy of the given version: the header text as is, padded only if it has no newline. */
static const char *put_npy(const char *name, int version, const char *header, const void *data, size_t bytes) {
    size_t length = strlen(header), start = version == 1 ? 10 : 12;
    char *all = malloc(start + length + bytes + 1);
    memcpy(all, "\x93NUMPY", 6);
    all[6] = (char)version, all[7] = 0;
    for (size_t i = 8; i < start; i++) all[i] = (char)(length >> 8 * (i - 8));
    memcpy(all + start, header, length);
    memcpy(all + start + length, data, bytes);
    const char *path = scratch_put(name, all, start + length + bytes);
    free(all);
    return path;
}

#define DICT(descr, order, shape) "{'descr': '" descr "', 'fortran_order': " order ", 'shape': " shape ", }\n"

static void assert_ids(const char *path, int64_t vocab, int64_t rows, int64_t cols, const int32_t *want) {
    int32_t *ids;
    int64_t got_rows, got_cols;
    assert_ok(flrq_tokens_read(path, vocab, &ids, &got_rows, &got_cols));
    assert_int_equal(got_rows, rows);
    assert_int_equal(got_cols, cols);
    assert_memory_equal(ids, want, (size_t)(rows * cols) * sizeof *ids);
    free(ids);
}

static void assert_refused(const char *path, int64_t vocab, flrq_status status, const char *text) {
    int32_t *ids;
    int64_t rows, cols;
    assert_failure(flrq_tokens_read(path, vocab, &ids, &rows, &cols), status, text);
    assert_null(ids);
}

static void test_every_integer_type(void **state) {
    static const int32_t want[] = {0, 1, 100, 127};
    static const char *const types[] = {"|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<u1", ">i1"};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        char header[128];
        unsigned char data[32] = {0};
        int size = types[t][2] - '0';
        for (int i = 0; i < 4; i++) data[i * size] = (unsigned char)want[i];
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (4,), }\n", types[t]);
        for (int version = 1; version <= 3; version++)
            assert_ids(put_npy("t.npy", version, header, data, (size_t)(4 * size)), 128, 1, 4, want);
    }
}

static void test_range(void **state) {
    static const unsigned char minus[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const char *const types[] = {"|i1", "<i2", "<i4", "<i8"};
    const int32_t want = -1, most = INT32_MAX, least = INT32_MIN, word = 65535;
    char header[128];
    for (int t = 0; t < 4; t++) { /* sign extension: -1 in every width; without a vocabulary it is only a number */
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }\n", types[t]);
        const char *path = put_npy("t.npy", 1, header, minus, (size_t)1 << t);
        assert_ids(path, 0, 1, 1, &want);
        assert_refused(path, 10, FLRQ_ERR_FORMAT, "id 0 is -1, outside [0, 9]");
    }
    assert_ids(put_npy("t.npy", 1, DICT("<u2", "False", "(1,)"), minus, 2), 65536, 1, 1, &word);
    assert_refused(put_npy("t.npy", 1, DICT("<u2", "False", "(1,)"), minus, 2), 65535, FLRQ_ERR_FORMAT,
                   "id 0 is 65535, outside [0, 65534]");
    assert_refused(put_npy("t.npy", 1, DICT("<u4", "False", "(1,)"), minus, 4), 0, FLRQ_ERR_FORMAT,
                   "id 0 is 4294967295, outside [-2147483648, 2147483647]");
    assert_refused(put_npy("t.npy", 1, DICT("<u8", "False", "(1,)"), minus, 8), 0, FLRQ_ERR_FORMAT,
                   "is 18446744073709551615, outside");
    assert_refused(put_npy("t.npy", 1, DICT("<u8", "False", "(1,)"), minus, 8), INT64_MAX, FLRQ_ERR_FORMAT,
                   "outside [0, 2147483647]");
    int64_t edge[2] = {INT32_MAX, (int64_t)INT32_MAX + 1};
    assert_ids(put_npy("t.npy", 1, DICT("<i8", "False", "(1,)"), edge, 8), 0, 1, 1, &most);
    assert_refused(put_npy("t.npy", 1, DICT("<i8", "False", "(2,)"), edge, 16), 0, FLRQ_ERR_FORMAT,
                   "id 1 is 2147483648");
    edge[0] = INT32_MIN, edge[1] = (int64_t)INT32_MIN - 1;
    assert_ids(put_npy("t.npy", 1, DICT("<i8", "False", "(1,)"), edge, 8), -1, 1, 1, &least);
    assert_refused(put_npy("t.npy", 1, DICT("<i8", "False", "(2,)"), edge, 16), 0, FLRQ_ERR_FORMAT,
                   "id 1 is -2147483649");
}

static void test_header_spellings(void **state) {
    static const int32_t want[] = {1, 2, 3, 4, 5, 6};
    static const char *const headers[] = {
        "{'shape': (2, 3), 'fortran_order': False, 'descr': '<i4'}",
        "{\"descr\":\"<i4\",\"fortran_order\":False,\"shape\":(2,3)}",
        "  { 'fortran_order' : False ,\t'descr' : '<i4' , 'shape' : ( 2 , 3 , ) , } \n\n ",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2L, 3L), }          \n",
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        assert_ids(put_npy("t.npy", 2, headers[i], want, 24), 7, 2, 3, want);
    /* One dimension is the same in both orders. */
    assert_ids(put_npy("t.npy", 1, DICT("<i4", "True", "(6,)"), want, 24), 7, 1, 6, want);
    assert_ids(put_npy("t.npy", 1, DICT("<i4", "False", "(6, 1)"), want, 24), 7, 6, 1, want);
}

static void test_refused_headers(void **state) {
    static const struct {
        const char *header;
        flrq_status status;
        const char *text;
    } cases[] = {
        {"", FLRQ_ERR_FORMAT, "does not begin with '{'"},
        {"[]", FLRQ_ERR_FORMAT, "does not begin with '{'"},
        {"{", FLRQ_ERR_FORMAT, "a key was expected"},
        {"{}", FLRQ_ERR_FORMAT, "descr, fortran_order or shape is absent"},
        {"{'descr': '<i4', 'shape': (6,)}", FLRQ_ERR_FORMAT, "absent"},
        {"{'descr': '<i4', 'fortran_order': False}", FLRQ_ERR_FORMAT, "absent"},
        {"{'fortran_order': False, 'shape': (6,)}", FLRQ_ERR_FORMAT, "absent"},
        {"{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (6,)}", FLRQ_ERR_FORMAT,
         "key 'descr' is unknown or occurs twice"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (6,), 'x': 1}", FLRQ_ERR_FORMAT, "key 'x' is unknown"},
        {"{'descr' '<i4'}", FLRQ_ERR_FORMAT, "a key was expected"},
        {"{'descr: '<i4'}", FLRQ_ERR_FORMAT, "a key was expected"},
        {"{'de\\x73cr': '<i4'}", FLRQ_ERR_FORMAT, "a key was expected"},
        {"{'a-key-that-is-longer-than-any-key-of-the-format': 1}", FLRQ_ERR_FORMAT, "a key was expected"},
        {"{'descr': '<i4' 'fortran_order': False}", FLRQ_ERR_FORMAT, "a comma was expected"},
        {"{'descr': 4}", FLRQ_ERR_FORMAT, "descr is not a type name"},
        {"{'descr': '<i4", FLRQ_ERR_FORMAT, "descr is not a type name"},
        {"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (6,)}", FLRQ_ERR_UNSUPPORTED,
         "a structured array"},
        {"{'fortran_order': 0}", FLRQ_ERR_FORMAT, "fortran_order is not True or False"},
        {"{'shape': [6]}", FLRQ_ERR_FORMAT, "shape is not a tuple"},
        {"{'shape': (6 1)}", FLRQ_ERR_FORMAT, "shape is not a tuple"},
        {"{'shape': (6,", FLRQ_ERR_FORMAT, "a dimension is not"},
        {"{'shape': (-6,)}", FLRQ_ERR_FORMAT, "a dimension is not"},
        {"{'shape': (6.0,)}", FLRQ_ERR_FORMAT, "shape is not a tuple"},
        {"{'shape': (9223372036854775808,)}", FLRQ_ERR_FORMAT, "a dimension overflows"},
        {"{'shape': (1,1,1,1,1,1,1,1,1)}", FLRQ_ERR_FORMAT, "too many dimensions"},
        {DICT("<i4", "False", "(6,)") "x", FLRQ_ERR_FORMAT, "text behind the '}'"},
        {DICT("<f4", "False", "(6,)"), FLRQ_ERR_FORMAT, "elements of type '<f4'; token ids must be integers"},
        {DICT("|b1", "False", "(24,)"), FLRQ_ERR_FORMAT, "elements of type '|b1'"},
        {DICT("<i3", "False", "(8,)"), FLRQ_ERR_FORMAT, "elements of type '<i3'"},
        {DICT("<i44", "False", "(6,)"), FLRQ_ERR_FORMAT, "elements of type '<i44'"},
        {DICT("<i", "False", "(6,)"), FLRQ_ERR_FORMAT, "elements of type '<i'"},
        {DICT("", "False", "(6,)"), FLRQ_ERR_FORMAT, "elements of type ''"},
        {DICT(">i4", "False", "(6,)"), FLRQ_ERR_UNSUPPORTED, "'>i4' are not little endian; save as '<i4'"},
        {DICT("<i4", "True", "(2, 3)"), FLRQ_ERR_UNSUPPORTED, "Fortran order"},
        {DICT("<i4", "False", "()"), FLRQ_ERR_FORMAT, "20 trailing bytes"},
        {DICT("<i4", "False", "(1, 2, 3)"), FLRQ_ERR_FORMAT, "3 dimensions; token ids need 1"},
        {DICT("<i4", "False", "(4294967296, 4294967296)"), FLRQ_ERR_FORMAT, "overflows"},
        {DICT("<i4", "False", "(0, 4294967296, 4294967296)"), FLRQ_ERR_FORMAT, "overflows"},
        {DICT("<i4", "False", "(7,)"), FLRQ_ERR_FORMAT, "truncated: 4 bytes of data are missing"},
        {DICT("<i4", "False", "(5,)"), FLRQ_ERR_FORMAT, "4 trailing bytes"},
    };
    static const int32_t data[6];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(put_npy("t.npy", 1, cases[i].header, data, 24), 0, cases[i].status, cases[i].text);
    assert_refused(put_npy("t.npy", 1, DICT("<i4", "False", "()"), data, 4), 0, FLRQ_ERR_FORMAT,
                   "0 dimensions; token ids need 1");
    assert_refused(put_npy("t.npy", 1, DICT("<i4", "False", "(0,)"), data, 0), 0, FLRQ_ERR_FORMAT,
                   "holds no token ids");
    assert_refused(put_npy("t.npy", 1, DICT("<i4", "False", "(3, 0)"), data, 0), 0, FLRQ_ERR_FORMAT,
                   "holds no token ids");
    assert_refused(put_npy("t.npy", 4, DICT("<i4", "False", "(6,)"), data, 24), 0, FLRQ_ERR_UNSUPPORTED, "version 4");
    char *wide = malloc(70000);
    memset(wide, ' ', 70000);
    wide[69999] = 0;
    assert_refused(put_npy("t.npy", 2, wide, data, 24), 0, FLRQ_ERR_FORMAT, "header of 69999 bytes, at most 65536");
    free(wide);
}

static void test_files(void **state) {
    static const int32_t data[6] = {1, 2, 3, 4, 5, 6};
    size_t bytes;
    char *good = scratch_get(put_npy("good.npy", 1, DICT("<i4", "False", "(2, 3)"), data, 24), &bytes);
    for (size_t length = 0; length < bytes; length++) /* cut at every length */
        assert_refused(scratch_put("cut.npy", good, length), 0, FLRQ_ERR_FORMAT,
                       length < 6 ? "this is neither" : "truncated");
    free(good);
    assert_refused(scratch_put("text.npy", "1 2 3 4 5 6 7 8", 15), 0, FLRQ_ERR_FORMAT,
                   ".npy and .safetensors files; this is neither");
    assert_refused(scratch_path("absent.npy"), 0, FLRQ_ERR_IO, "No such file");
    assert_refused(scratch_dir, 0, FLRQ_ERR_IO, "not a regular file");
    assert_int_equal(mkfifo(scratch_path("fifo.npy"), 0600), 0);
    assert_refused(scratch_path("fifo.npy"), 0, FLRQ_ERR_IO, "not a regular file");
}

/* More ids than one piece of the conversion buffer holds, of every element size. */
static void test_many_ids(void **state) {
    enum { COUNT = 1100003 };
    int32_t *want = malloc(COUNT * sizeof *want);
    unsigned char *data = malloc(COUNT * 8);
    for (int size = 1; size <= 8; size *= 2) {
        char header[128];
        for (int i = 0; i < COUNT; i++) {
            want[i] = (int32_t)((uint32_t)i * 2654435761u >> 8) & (size == 1 ? 0x7f : size == 2 ? 0x7fff : 0x7fffff);
            for (int b = 0; b < size; b++) data[i * size + b] = (unsigned char)(b < 4 ? want[i] >> 8 * b : 0);
        }
        snprintf(header, sizeof header, "{'descr': '<i%d', 'fortran_order': False, 'shape': (%d,), }\n", size, COUNT);
        assert_ids(put_npy("many.npy", 1, header, data, (size_t)COUNT * (size_t)size), 1 << 23, 1, COUNT, want);
    }
    free(data);
    free(want);
}

/* ---- safetensors --------------------------------------------------------------------------------------------------
 */

typedef struct made {
    const char *name;
    flrq_dtype dtype;
    int dims;
    int64_t shape[3];
    int64_t first; /* elements count up from here */
} made;

static const char *put_tensors(const made *tensors, int n) {
    const char *path = scratch_path("ids.safetensors");
    static const int sizes[] = {[FLRQ_F32] = 4, [FLRQ_U8] = 1,  [FLRQ_I8] = 1,  [FLRQ_U16] = 2, [FLRQ_I16] = 2,
                                [FLRQ_U32] = 4, [FLRQ_I32] = 4, [FLRQ_U64] = 8, [FLRQ_I64] = 8};
    flrq_shard_writer *writer;
    uint64_t hash;
    int handle[8];
    assert_ok(flrq_shard_create(&writer, path, NULL));
    for (int t = 0; t < n; t++)
        assert_ok(flrq_shard_declare(writer, tensors[t].name, tensors[t].dtype, tensors[t].dims, tensors[t].shape,
                                     &handle[t]));
    assert_ok(flrq_shard_begin(writer));
    for (int t = 0; t < n; t++) {
        int64_t count = 1;
        for (int d = 0; d < tensors[t].dims; d++) count *= tensors[t].shape[d];
        for (int64_t i = 0; i < count; i++) {
            int64_t value = tensors[t].first + i;
            uint64_t size = (uint64_t)sizes[tensors[t].dtype];
            assert_ok(flrq_shard_write(writer, handle[t], &value, (uint64_t)i * size, size)); /* little-endian host */
        }
    }
    assert_ok(flrq_shard_finish(writer, &hash));
    return path;
}

static void test_safetensors(void **state) {
    static const int32_t from5[] = {5, 6, 7, 8, 9, 10}, from9[] = {9, 10};
    static const flrq_dtype types[] = {FLRQ_U8, FLRQ_I8, FLRQ_U16, FLRQ_I16, FLRQ_U32, FLRQ_I32, FLRQ_U64, FLRQ_I64};
    for (int t = 0; t < 8; t++) /* the only integer tensor, beside others */
        assert_ids(put_tensors((made[]){{"w", FLRQ_F32, 1, {3}, 0}, {"any", types[t], 2, {2, 3}, 5}}, 2), 11, 2, 3,
                   from5);
    assert_ids(put_tensors((made[]){{"a", FLRQ_I32, 1, {3}, 0}, {"tokens", FLRQ_I32, 1, {2}, 9}}, 2), 11, 1, 2, from9);
    assert_ids(put_tensors((made[]){{"input_ids", FLRQ_I64, 1, {2}, 9}, {"tokens", FLRQ_I32, 1, {3}, 0}}, 2), 11, 1, 2,
               from9);
    assert_refused(put_tensors((made[]){{"a", FLRQ_I32, 1, {3}, 0}, {"b", FLRQ_I32, 1, {3}, 0}}, 2), 0, FLRQ_ERR_FORMAT,
                   "2 integer tensors");
    assert_refused(put_tensors((made[]){{"a", FLRQ_F32, 1, {3}, 0}}, 1), 0, FLRQ_ERR_FORMAT, "0 integer tensors");
    assert_refused(put_tensors((made[]){{"input_ids", FLRQ_F32, 1, {3}, 0}, {"b", FLRQ_I32, 1, {3}, 0}}, 2), 0,
                   FLRQ_ERR_FORMAT, "tensor input_ids: not of an integer type");
    assert_refused(put_tensors((made[]){{"a", FLRQ_I32, 3, {1, 1, 3}, 0}}, 1), 0, FLRQ_ERR_FORMAT, "3 dimensions");
    assert_refused(put_tensors((made[]){{"a", FLRQ_I32, 0, {0}, 0}}, 1), 0, FLRQ_ERR_FORMAT, "0 dimensions");
    assert_refused(put_tensors((made[]){{"a", FLRQ_I32, 2, {0, 5}, 0}}, 1), 0, FLRQ_ERR_FORMAT, "no token ids");
    assert_refused(put_tensors((made[]){{"a", FLRQ_I64, 1, {3}, 9}}, 1), 11, FLRQ_ERR_FORMAT,
                   "id 2 is 11, outside [0, 10]");
    assert_refused(scratch_path("absent.safetensors"), 0, FLRQ_ERR_IO, "cannot open");
}

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

/* The exact bytes that numpy.save writes for these arrays. */
static void test_write_layout(void **state) {
    static const struct {
        int dims;
        int64_t shape[8];
        const char *tuple;
        size_t elements, header_bytes;
    } cases[] = {
        {0, {0}, "()", 1, 128},
        {1, {3}, "(3,)", 3, 128},
        {2, {2, 3}, "(2, 3)", 6, 128},
        {2, {0, 3}, "(0, 3)", 0, 128},
        {8, {1, 1, 1, 1, 1, 1, 1, 1}, "(1, 1, 1, 1, 1, 1, 1, 1)", 1, 128},
    };
    static const float values[6] = {1, 2, 3, 4, 5, 6};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[256];
        size_t bytes;
        const char *path = scratch_path("out.npy");
        assert_ok(flrq_npy_write(path, "<f4", 4, cases[i].dims, cases[i].shape, values));
        char *got = scratch_get(path, &bytes);
        assert_int_equal(bytes, cases[i].header_bytes + 4 * cases[i].elements);
        assert_memory_equal(got, "\x93NUMPY\x01\0\x76\0", 10);
        int used =
            snprintf(want, sizeof want, "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", cases[i].tuple);
        memset(want + used, ' ', sizeof want - (size_t)used);
        want[117] = '\n';
        assert_memory_equal(got + 10, want, 118);
        assert_memory_equal(got + 128, values, 4 * cases[i].elements);
        free(got);
    }
}

static void test_write_in_pieces(void **state) {
    static const int32_t want[] = {3, 1, 4, 1, 5, 9};
    const char *path = scratch_path("pieces.npy");
    flrq_npy_writer *writer;
    assert_ok(flrq_npy_create(&writer, path, "<i4", 4, 2, (int64_t[]){3, 2}));
    assert_ok(flrq_npy_append(writer, want, 8));
    assert_ok(flrq_npy_append(writer, want + 2, 0));
    assert_false(flrq_path_exists(path));
    assert_failure(flrq_npy_append(writer, want, 20), FLRQ_ERR_INTERNAL,
                   "20 bytes appended, its shape has room for 16");
    assert_ok(flrq_npy_append(writer, want + 2, 16));
    assert_ok(flrq_npy_finish(writer));
    assert_ids(path, 10, 3, 2, want);

    path = scratch_path("short.npy");
    assert_ok(flrq_npy_create(&writer, path, "<i4", 4, 1, (int64_t[]){3}));
    assert_ok(flrq_npy_append(writer, want, 8));
    assert_failure(flrq_npy_finish(writer), FLRQ_ERR_INTERNAL, "finished with 4 bytes missing");
    assert_ok(flrq_npy_create(&writer, path, "<i4", 4, 1, (int64_t[]){3}));
    flrq_npy_abort(writer);
    flrq_npy_abort(NULL);
    assert_false(flrq_path_exists(path));
    assert_false(flrq_path_exists(scratch_path("short.npy.tmp")));
    assert_failure(flrq_npy_create(&writer, path, "<i4", 4, 9, (int64_t[9]){0}), FLRQ_ERR_INTERNAL, "9 dimensions");
    assert_failure(flrq_npy_create(&writer, path, "<i4", 4, 1, (int64_t[]){-1}), FLRQ_ERR_INTERNAL, "overflows");
    assert_failure(flrq_npy_create(&writer, path, "<i4", 4, 2, (int64_t[]){INT64_MAX, 3}), FLRQ_ERR_INTERNAL,
                   "overflows");
    assert_failure(flrq_npy_create(&writer, scratch_path("no/x.npy"), "<i4", 4, 1, (int64_t[]){1}), FLRQ_ERR_IO,
                   "cannot create");
    assert_null(writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_integer_type),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_header_spellings),
        cmocka_unit_test(test_refused_headers),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_many_ids),
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_write_layout),
        cmocka_unit_test(test_write_in_pieces),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
