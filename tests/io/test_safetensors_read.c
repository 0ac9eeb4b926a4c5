/* test_safetensors_read.c - hostile headers, damaged files, contradicting indexes, and what a good checkpoint gives
 * back. */
#include "io/scratch.h"
#include "io/safetensors.h"

#include <sys/resource.h>
#include <time.h>

#define ENTRY(name, dtype, shape, begin, end)                                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

/* Parses a header; on failure checks that nothing was appended behind the tensor that was there before. */
static flrq_status parse(const char *header, uint64_t data_bytes) {
    flrq_tensor *tensors = calloc(1, sizeof *tensors);
    int64_t n = 1;
    json_t *metadata = NULL;
    tensors[0].name = strdup("before");
    flrq_status status = flrq_safetensors_parse("f", header, strlen(header), data_bytes, 3, &tensors, &n, &metadata);
    if (status != FLRQ_OK) {
        assert_int_equal(n, 1);
        assert_null(metadata);
    }
    assert_string_equal(tensors[0].name, "before");
    for (int64_t i = 0; i < n; i++) free(tensors[i].name);
    free(tensors);
    json_decref(metadata);
    return status;
}

static void test_refused_headers(void **state) {
    static const struct {
        const char *header;
        uint64_t data_bytes;
        flrq_status status;
        const char *text;
    } cases[] = {
        {"", 0, FLRQ_ERR_FORMAT, "does not begin with '{'"},
        {"[]", 0, FLRQ_ERR_FORMAT, "does not begin with '{'"},
        {" {}", 0, FLRQ_ERR_FORMAT, "does not begin with '{'"},
        {"{", 0, FLRQ_ERR_FORMAT, "not valid JSON"},
        {"{} {}", 0, FLRQ_ERR_FORMAT, "end of file expected"},
        {"{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("a", "F32", "[1]", 4, 8) "}", 8, FLRQ_ERR_FORMAT,
         "duplicate object key"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, FLRQ_ERR_FORMAT,
         "duplicate object key"},
        {"{\"a\":[]}", 0, FLRQ_ERR_FORMAT, "tensor a: its entry is not"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, FLRQ_ERR_FORMAT, "tensor a: no dtype"},
        {"{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, FLRQ_ERR_FORMAT, "tensor a: no dtype"},
        {"{" ENTRY("a", "F31", "[1]", 0, 4) "}", 4, FLRQ_ERR_UNSUPPORTED, "tensor a: unknown dtype \"F31\""},
        {"{" ENTRY("a", "f32", "[1]", 0, 4) "}", 4, FLRQ_ERR_UNSUPPORTED, "unknown dtype \"f32\""},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, FLRQ_ERR_FORMAT, "tensor a: no shape"},
        {"{" ENTRY("a", "F32", "{}", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "tensor a: no shape"},
        {"{" ENTRY("a", "F32", "[-1]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "dimension 0 is not a non-negative integer"},
        {"{" ENTRY("a", "F32", "[1,1.0]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "dimension 1 is not"},
        {"{" ENTRY("a", "F32", "[\"1\"]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "dimension 0 is not"},
        {"{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, FLRQ_ERR_UNSUPPORTED, "9 dimensions, at most 8"},
        {"{" ENTRY("a", "U8", "[4294967296,4294967296]", 0, 0) "}", 0, FLRQ_ERR_FORMAT, "overflows"},
        {"{" ENTRY("a", "U8", "[0,4294967296,4294967296]", 0, 0) "}", 0, FLRQ_ERR_FORMAT, "overflows"},
        {"{" ENTRY("a", "F64", "[288230376151711744]", 0, 0) "}", 0, FLRQ_ERR_FORMAT, "overflows"},
        {"{" ENTRY("a", "F32", "[99999999999999999999]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "too big integer"},
        {"{" ENTRY("a", "F4", "[3]", 0, 2) "}", 2, FLRQ_ERR_FORMAT, "whole bytes of F4"},
        {"{" ENTRY("a", "F6_E2M3", "[2]", 0, 2) "}", 2, FLRQ_ERR_FORMAT, "whole bytes of F6_E2M3"},
        {"{" ENTRY("a", "F32", "[2]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "span 4 bytes, its dtype F32 and shape need 8"},
        {"{" ENTRY("a", "F32", "[0]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "span 4 bytes, its dtype F32 and shape need 0"},
        {"{" ENTRY("a", "F32", "[1]", 4, 0) "}", 4, FLRQ_ERR_FORMAT, "tensor a: data_offsets"},
        {"{" ENTRY("a", "F32", "[1]", -4, 0) "}", 4, FLRQ_ERR_FORMAT, "tensor a: data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, FLRQ_ERR_FORMAT,
         "tensor a: data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4, FLRQ_ERR_FORMAT,
         "tensor a: data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, FLRQ_ERR_FORMAT, "tensor a: data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"strides\":[1]}}", 1, FLRQ_ERR_UNSUPPORTED,
         "unknown property \"strides\""},
        {"{" ENTRY("a", "F32", "[1]", 4, 8) "}", 8, FLRQ_ERR_FORMAT,
         "tensor a: a hole of 4 bytes before it, at data offset 0"},
        {"{" ENTRY("a", "F32", "[1]", 8, 12) "," ENTRY("b", "F32", "[1]", 0, 4) "}", 12, FLRQ_ERR_FORMAT,
         "tensor a: a hole of 4 bytes"},
        {"{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("b", "F32", "[1]", 2, 6) "}", 6, FLRQ_ERR_FORMAT,
         "tensor b: overlaps tensor a by 2"},
        {"{" ENTRY("a", "F32", "[1]", 0, 4) "," ENTRY("b", "F32", "[1]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "by 4 bytes"},
        {"{" ENTRY("a", "F32", "[2]", 0, 8) "," ENTRY("b", "F32", "[0]", 4, 4) "}", 8, FLRQ_ERR_FORMAT,
         "tensor b: overlaps tensor a"},
        {"{" ENTRY("a", "F32", "[4]", 0, 16) "}", 6, FLRQ_ERR_FORMAT,
         "truncated: 10 bytes of tensor data are missing (6 of 16 present); the download is incomplete"},
        {"{" ENTRY("a", "U8", "[9223372036854775807]", 0, 9223372036854775807) "}", 6, FLRQ_ERR_FORMAT, "overflows"},
        {"{" ENTRY("a", "U8", "[1152921504606846975]", 0, 1152921504606846975) "}", 5, FLRQ_ERR_FORMAT,
         "truncated: 1152921504606846970 bytes"},
        {"{" ENTRY("a", "F32", "[1]", 0, 4) "}", 7, FLRQ_ERR_FORMAT, "3 trailing bytes"},
        {"{}", 1, FLRQ_ERR_FORMAT, "1 trailing bytes"},
        {"{\"__metadata__\":7}", 0, FLRQ_ERR_FORMAT, "__metadata__ is not a JSON object"},
        {"{\"__metadata__\":{\"format\":7}}", 0, FLRQ_ERR_FORMAT, "__metadata__: the value of \"format\""},
        {"{" ENTRY("a\\nb", "F32", "[1]", 0, 4) "}", 4, FLRQ_ERR_FORMAT,
         "tensor a...: control character 0x0a at byte 1"},
        {"{" ENTRY("\\u001b[2J", "F32", "[1]", 0, 4) "}", 4, FLRQ_ERR_FORMAT, "control character 0x1b at byte 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_failure(parse(cases[i].header, cases[i].data_bytes), cases[i].status, cases[i].text);

    char *header = malloc(2000);
    char name[600];
    for (int length = 512; length <= 513; length++) {
        memset(name, 'n', sizeof name);
        name[length] = 0;
        snprintf(header, 2000, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", name);
        if (length == 512)
            assert_ok(parse(header, 1));
        else
            assert_failure(parse(header, 1), FLRQ_ERR_FORMAT, "the name has 513 bytes, at most 512");
    }
    free(header);
}

static void test_accepted_headers(void **state) {
    static const struct {
        const char *header;
        uint64_t data_bytes;
    } cases[] = {
        {"{}", 0},
        {"{}      ", 0},
        {"{\"__metadata__\":{}}", 0},
        {"{" ENTRY("scalar", "F64", "[]", 0, 8) "}", 8},
        {"{" ENTRY("", "U8", "[1]", 0, 1) "}", 1},
        {"{" ENTRY("z", "F32", "[0,5]", 0, 0) "," ENTRY("a", "F32", "[2]", 0, 8) "," ENTRY("e", "U8", "[0]", 8, 8) "}",
         8},
        {"{" ENTRY("late", "U8", "[3]", 4, 7) "," ENTRY("early", "F32", "[1,1,1,1,1,1,1,1]", 0, 4) "}", 7},
        {"{" ENTRY("f4", "F4", "[3,2]", 0, 3) "," ENTRY("f6", "F6_E3M2", "[4]", 3, 6) "}", 6},
        {"{\"t\\u00e9\":{\"data_offsets\":[0,2],\"shape\":[1],\"dtype\":\"BF16\"}}", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_ok(parse(cases[i].header, cases[i].data_bytes));
}

static void test_parse_fills_every_field(void **state) {
    const char *header =
        "{\"__metadata__\":{\"k\":\"v\"}," ENTRY("b", "F16", "[2,3]", 4, 16) "," ENTRY("a", "I8", "[4]", 0, 4) "}";
    flrq_tensor *tensors = NULL;
    int64_t n = 0;
    json_t *metadata;
    assert_ok(flrq_safetensors_parse("f", header, strlen(header), 16, 3, &tensors, &n, &metadata));
    assert_int_equal(n, 2);
    assert_string_equal(json_string_value(json_object_get(metadata, "k")), "v");
    const flrq_tensor *a = strcmp(tensors[0].name, "a") == 0 ? &tensors[0] : &tensors[1],
                      *b = a == tensors ? a + 1 : a - 1;
    assert_string_equal(b->name, "b");
    assert_int_equal(b->dtype, FLRQ_F16);
    assert_int_equal(b->dims, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->file, 3);
    assert_int_equal(b->offset, 8 + strlen(header) + 4);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(flrq_tensor_count(b), 6);
    assert_int_equal(a->offset, 8 + strlen(header));
    json_decref(metadata);
    for (int i = 0; i < 2; i++) free(tensors[i].name);
    free(tensors);
}

/* ---- files --------------------------------------------------------------------------------------------------------
 */

/* Writes length prefix, header and `data_bytes` bytes counting from 0. */
static const char *put_file(const char *name, const char *header, size_t data_bytes) {
    size_t length = strlen(header);
    char *all = malloc(8 + length + data_bytes + 1);
    for (int i = 0; i < 8; i++) all[i] = (char)((uint64_t)length >> 8 * i);
    memcpy(all + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) all[8 + length + i] = (char)i;
    const char *path = scratch_put(name, all, 8 + length + data_bytes);
    free(all);
    return path;
}

static void assert_open_fails(const char *path, flrq_status status, const char *text) {
    flrq_checkpoint *checkpoint;
    assert_failure(flrq_checkpoint_open(&checkpoint, path), status, text);
    assert_null(checkpoint);
}

static void test_damaged_files(void **state) {
    const char *header = "{" ENTRY("a", "F32", "[4]", 0, 16) "}";
    size_t bytes;
    char *good = scratch_get(put_file("good.safetensors", header, 16), &bytes);
    flrq_checkpoint *checkpoint;
    assert_ok(flrq_checkpoint_open(&checkpoint, scratch_path("good.safetensors")));
    flrq_checkpoint_close(checkpoint);
    /* Cut at every length: always refused, always with the path and as a truncation. */
    for (size_t length = 0; length < bytes; length++) {
        char missing[64];
        size_t wanted = length < 8 ? 0 : length < bytes - 16 ? bytes - 16 - length : bytes - length;
        snprintf(missing, sizeof missing, length < 8 ? "%zu bytes, too short" : "truncated: %zu bytes",
                 length < 8 ? length : wanted);
        assert_open_fails(scratch_put("cut.safetensors", good, length), FLRQ_ERR_FORMAT, missing);
        assert_non_null(strstr(flrq_last_error(), "cut.safetensors"));
        assert_non_null(strstr(flrq_last_error(), "download is incomplete"));
    }
    char *longer = calloc(1, bytes + 3);
    memcpy(longer, good, bytes);
    assert_open_fails(scratch_put("long.safetensors", longer, bytes + 3), FLRQ_ERR_FORMAT, "3 trailing bytes");
    free(longer);
    good[4] = 1; /* header length + 2^32 */
    assert_open_fails(scratch_put("huge.safetensors", good, bytes), FLRQ_ERR_FORMAT,
                      "over the format's limit of 100000000");
    memset(good, 0xff, 8);
    assert_open_fails(scratch_put("huge.safetensors", good, bytes), FLRQ_ERR_FORMAT, "18446744073709551615 is over");
    memcpy(good, "\x00\xe1\xf5\x05\0\0\0\0", 8); /* 100,000,000: within the limit, but not in the file */
    assert_open_fails(scratch_put("huge.safetensors", good, bytes), FLRQ_ERR_FORMAT, "of the header are missing");
    memcpy(good, "\x01\xe1\xf5\x05\0\0\0\0", 8);
    assert_open_fails(scratch_put("huge.safetensors", good, bytes), FLRQ_ERR_FORMAT, "100000001 is over");
    memset(good, 0, 8);
    assert_open_fails(scratch_put("none.safetensors", good, bytes), FLRQ_ERR_FORMAT, "does not begin with '{'");
    free(good);
    const char *pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    assert_open_fails(scratch_put("lfs.safetensors", pointer, strlen(pointer)), FLRQ_ERR_FORMAT, "git lfs pull");
    assert_open_fails(scratch_path("absent.safetensors"), FLRQ_ERR_IO, "absent.safetensors: cannot open: No such file");
    assert_int_equal(mkfifo(scratch_path("fifo.safetensors"), 0600), 0);
    assert_open_fails(scratch_path("fifo.safetensors"), FLRQ_ERR_IO, "not a regular file");
    if (geteuid() != 0) {
        assert_int_equal(chmod(scratch_path("good.safetensors"), 0), 0);
        assert_open_fails(scratch_path("good.safetensors"), FLRQ_ERR_IO, "Permission denied");
    }
}

static void test_read_and_find(void **state) {
    const char *path = put_file(
        "three.safetensors",
        "{" ENTRY("m", "U8", "[5]", 2, 7) "," ENTRY("z", "I16", "[1]", 0, 2) "," ENTRY("b", "U8", "[0]", 7, 7) "}", 7);
    flrq_checkpoint *checkpoint;
    unsigned char got[8];
    assert_ok(flrq_checkpoint_open(&checkpoint, path));
    assert_int_equal(checkpoint->n_tensors, 3);
    assert_int_equal(checkpoint->n_files, 1);
    assert_null(checkpoint->metadata);
    assert_string_equal(checkpoint->tensors[0].name, "b");
    assert_string_equal(checkpoint->tensors[1].name, "m");
    assert_string_equal(checkpoint->tensors[2].name, "z");
    const flrq_tensor *m = flrq_checkpoint_find(checkpoint, "m"), *b = flrq_checkpoint_find(checkpoint, "b");
    assert_ptr_equal(m, &checkpoint->tensors[1]);
    assert_null(flrq_checkpoint_find(checkpoint, "mm"));
    assert_null(flrq_checkpoint_find(checkpoint, ""));
    assert_ok(flrq_checkpoint_read(checkpoint, m, got, 1, 4));
    assert_memory_equal(got, ((unsigned char[]){3, 4, 5, 6}), 4);
    assert_ok(flrq_checkpoint_read(checkpoint, m, got, 5, 0));
    assert_ok(flrq_checkpoint_read(checkpoint, b, got, 0, 0));
    assert_failure(flrq_checkpoint_read(checkpoint, m, got, 1, 5), FLRQ_ERR_INTERNAL,
                   "tensor m: read of 5 bytes at 1, it has 5");
    assert_failure(flrq_checkpoint_read(checkpoint, m, got, 6, 0), FLRQ_ERR_INTERNAL, "tensor m");
    assert_failure(flrq_checkpoint_read(checkpoint, m, got, UINT64_MAX, 2), FLRQ_ERR_INTERNAL, "tensor m");
    flrq_checkpoint_prefetch(checkpoint, m);
    flrq_checkpoint_prefetch(checkpoint, b);
    flrq_checkpoint_drop(checkpoint, m);
    flrq_checkpoint_drop(checkpoint, b);
    assert_ok(flrq_checkpoint_read(checkpoint, m, got, 0, 5)); /* still there */
    assert_memory_equal(got, ((unsigned char[]){2, 3, 4, 5, 6}), 5);
    /* The file shrinks under an open checkpoint. */
    assert_int_equal(truncate(path, 20), 0);
    assert_failure(flrq_checkpoint_read(checkpoint, m, got, 0, 5), FLRQ_ERR_IO, "tensor m: file ");
    flrq_checkpoint_close(checkpoint);
    flrq_checkpoint_close(NULL);
}

/* Offsets beyond 32 bits, in a file with a hole that takes no space on disk. */
static void test_offsets_beyond_4_gib(void **state) {
    const char *header = "{" ENTRY("w", "U8", "[3,2147483648]", 0, 6442450944) "}";
    const uint64_t bytes = 6442450944u;
    flrq_checkpoint *checkpoint;
    char got[4];
    const char *path = put_file("large.safetensors", header, 0);
    int fd = open(path, O_WRONLY);
    if (ftruncate(fd, (off_t)(8 + strlen(header) + bytes)) != 0) {
        close(fd);
        skip(); /* a file system without large files */
    }
    assert_int_equal(pwrite(fd, "tail", 4, (off_t)(8 + strlen(header) + bytes - 4)), 4);
    close(fd);
    assert_ok(flrq_checkpoint_open(&checkpoint, path));
    const flrq_tensor *w = flrq_checkpoint_find(checkpoint, "w");
    assert_int_equal(w->bytes, bytes);
    assert_int_equal(flrq_tensor_count(w), bytes);
    assert_ok(flrq_checkpoint_read(checkpoint, w, got, bytes - 4, 4));
    assert_memory_equal(got, "tail", 4);
    assert_failure(flrq_checkpoint_read(checkpoint, w, got, bytes - 3, 4), FLRQ_ERR_INTERNAL,
                   "at 6442450941, it has 6442450944");
    flrq_checkpoint_close(checkpoint);
    unlink(path);
}

/* ---- folders ------------------------------------------------------------------------------------------------------
 */

static void put_folder(const char *index) {
    mkdir(scratch_path("model"), 0700);
    put_file(
        "model/s1.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("c", "U8", "[2]", 0, 2) "," ENTRY("a", "U8", "[1]", 2, 3) "}",
        3);
    put_file("model/s2.safetensors", "{" ENTRY("b", "U8", "[3]", 0, 3) "}", 3);
    scratch_put("model/model.safetensors.index.json", index, strlen(index));
}

#define GOOD_MAP "\"b\":\"s2.safetensors\",\"c\":\"s1.safetensors\",\"a\":\"s1.safetensors\""

static void test_sharded(void **state) {
    flrq_checkpoint *checkpoint;
    unsigned char got[3];
    put_folder("{\"metadata\":{},\"weight_map\":{" GOOD_MAP "}}");
    for (int linked = 0; linked < 2; linked++) {
        if (linked) { /* caches of model hubs are folders of links */
            assert_int_equal(rename(scratch_path("model/s2.safetensors"), scratch_path("blob")), 0);
            assert_int_equal(symlink("../blob", scratch_path("model/s2.safetensors")), 0);
        }
        assert_ok(flrq_checkpoint_open(&checkpoint, scratch_path("model")));
        assert_int_equal(checkpoint->n_files, 2);
        assert_int_equal(checkpoint->n_tensors, 3);
        assert_string_equal(checkpoint->dir, scratch_path("model"));
        assert_non_null(strstr(checkpoint->files[0], "/s1.safetensors"));
        assert_string_equal(json_string_value(json_object_get(checkpoint->metadata, "format")), "pt");
        for (int i = 0; i < 3; i++) assert_int_equal(checkpoint->tensors[i].name[0], "abc"[i]);
        assert_int_equal(flrq_checkpoint_find(checkpoint, "b")->file, 1);
        assert_ok(flrq_checkpoint_read(checkpoint, flrq_checkpoint_find(checkpoint, "b"), got, 0, 3));
        assert_memory_equal(got, ((unsigned char[]){0, 1, 2}), 3);
        assert_ok(flrq_checkpoint_read(checkpoint, flrq_checkpoint_find(checkpoint, "a"), got, 0, 1));
        assert_int_equal(got[0], 2);
        flrq_checkpoint_close(checkpoint);
    }
    /* A single file beside the index is preferred, as loaders do. */
    put_file("model/model.safetensors", "{" ENTRY("only", "U8", "[1]", 0, 1) "}", 1);
    assert_ok(flrq_checkpoint_open(&checkpoint, scratch_path("model")));
    assert_non_null(flrq_checkpoint_find(checkpoint, "only"));
    flrq_checkpoint_close(checkpoint);
    scratch_remove(scratch_path("model"));
}

static void test_refused_indexes(void **state) {
    static const struct {
        const char *index;
        flrq_status status;
        const char *text;
    } cases[] = {
        {"[]", FLRQ_ERR_FORMAT, "weight_map is absent or empty"},
        {"{\"weight_map\":{}}", FLRQ_ERR_FORMAT, "weight_map is absent or empty"},
        {"{\"weight_map\":[\"s1.safetensors\"]}", FLRQ_ERR_FORMAT, "weight_map is absent or empty"},
        {"{\"weight_map\":{\"a\":7}}", FLRQ_ERR_FORMAT, "tensor a: its file must be a plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", FLRQ_ERR_FORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", FLRQ_ERR_FORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\".\"}}", FLRQ_ERR_FORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"../blob\"}}", FLRQ_ERR_FORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", FLRQ_ERR_FORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"sub/s1.safetensors\"}}", FLRQ_ERR_FORMAT, "plain name"},
        {"{\"weight_map\":{\"a\":\"s1\\u0000.safetensors\"}}", FLRQ_ERR_FORMAT, "\\u0000 is not allowed"},
        {"{\"weight_map\":{\"a\":\"s1\\n\"}}", FLRQ_ERR_FORMAT, "plain name"},
        {"{\"weight_map\":{\"a\\n\":\"s1.safetensors\"}}", FLRQ_ERR_FORMAT, "control character"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}}", FLRQ_ERR_FORMAT,
         "duplicate object key"},
        {"{\"weight_map\":{" GOOD_MAP ",\"d\":\"s3.safetensors\"}}", FLRQ_ERR_IO,
         "s3.safetensors: missing, but model.safetensors.index.json names it"},
        {"{\"weight_map\":{" GOOD_MAP ",\"d\":\"s2.safetensors\"}}", FLRQ_ERR_FORMAT,
         "tensor d is not in s2.safetensors as the index says"},
        {"{\"weight_map\":{\"b\":\"s2.safetensors\",\"c\":\"s1.safetensors\"}}", FLRQ_ERR_FORMAT,
         "tensor a is not listed"},
        {"{\"weight_map\":{\"b\":\"s1.safetensors\",\"c\":\"s2.safetensors\",\"a\":\"s1.safetensors\"}}",
         FLRQ_ERR_FORMAT, "tensor b is in s2.safetensors, the index says s1.safetensors"},
        {"{\"weight_map\":{\"b\":\"s2.safetensors\",\"d\":\"s1.safetensors\",\"a\":\"s1.safetensors\"}}",
         FLRQ_ERR_FORMAT, "tensor c is not listed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_folder(cases[i].index);
        assert_open_fails(scratch_path("model"), cases[i].status, cases[i].text);
    }
    put_folder("{\"weight_map\":{" GOOD_MAP "}}");
    put_file("model/s2.safetensors", "{" ENTRY("b", "U8", "[3]", 0, 3) "," ENTRY("a", "U8", "[1]", 3, 4) "}", 4);
    assert_open_fails(scratch_path("model"), FLRQ_ERR_FORMAT, "s2.safetensors: tensor a: also in");
    unlink(scratch_path("model/s2.safetensors"));
    assert_int_equal(symlink("gone", scratch_path("model/s2.safetensors")), 0);
    assert_open_fails(scratch_path("model"), FLRQ_ERR_IO, "s2.safetensors: missing");
    scratch_remove(scratch_path("model"));
}

static void test_folders_without_safetensors(void **state) {
    mkdir(scratch_path("model"), 0700);
    assert_open_fails(scratch_path("model"), FLRQ_ERR_IO, "neither model.safetensors nor model.safetensors.index.json");
    scratch_put("model/pytorch_model.bin", "", 0);
    assert_open_fails(scratch_path("model"), FLRQ_ERR_UNSUPPORTED, "holds pytorch_model.bin, not safetensors");
    assert_int_equal(mkdir(scratch_path("model/model.safetensors"), 0700), 0);
    assert_open_fails(scratch_path("model"), FLRQ_ERR_IO, "not a regular file");
    scratch_remove(scratch_path("model"));
}

/* Files are closed on every failure: were they not, this loop would run out of descriptors. */
static void test_no_descriptor_leaks(void **state) {
    struct rlimit old, low;
    put_folder("{\"weight_map\":{\"b\":\"s2.safetensors\",\"c\":\"s1.safetensors\"}}");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = (struct rlimit){.rlim_cur = 32, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    for (int i = 0; i < 64; i++) assert_open_fails(scratch_path("model"), FLRQ_ERR_FORMAT, "tensor a is not listed");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    scratch_remove(scratch_path("model"));
}

/* A quadratic step over 100,000 tensors would take minutes here; the bound only has to tell these apart on a slow
 * machine under sanitizers. */
static void test_many_tensors(void **state) {
    enum { TENSORS = 100000 };
    char *header = malloc(TENSORS * 128), name[64];
    size_t at = 1;
    header[0] = '{';
    for (int i = 0; i < TENSORS; i++)
        at += (size_t)sprintf(
            header + at,
            "\"model.layers.%d.mlp.experts.%d.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}%s",
            i % 97, i, TENSORS - 1 - i, TENSORS - i, i + 1 < TENSORS ? "," : "}");
    header[at] = 0;
    struct timespec begin, end;
    flrq_checkpoint *checkpoint;
    const char *path = put_file("many.safetensors", header, TENSORS);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_ok(flrq_checkpoint_open(&checkpoint, path));
    for (int i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.weight", i % 97, i);
        const flrq_tensor *tensor = flrq_checkpoint_find(checkpoint, name);
        if (!tensor || tensor->offset != 8 + at + (uint64_t)(TENSORS - 1 - i)) fail_msg("tensor %d", i);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    print_message("           100,000 tensors opened and found in %.2f s\n", seconds);
    assert_true(seconds < 20);
    flrq_checkpoint_close(checkpoint);
    free(header);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_headers),
        cmocka_unit_test(test_accepted_headers),
        cmocka_unit_test(test_parse_fills_every_field),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_read_and_find),
        cmocka_unit_test(test_offsets_beyond_4_gib),
        cmocka_unit_test(test_sharded),
        cmocka_unit_test(test_refused_indexes),
        cmocka_unit_test(test_folders_without_safetensors),
        cmocka_unit_test(test_no_descriptor_leaks),
        cmocka_unit_test(test_many_tensors),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
