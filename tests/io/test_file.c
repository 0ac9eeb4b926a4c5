/* test_file.c - whole files, JSON, atomic replacement, folders. Failures of the operating system are in
 * test_io_faults.c. */
#include "io/scratch.h"
#include "io/file.h"

#include <sys/statvfs.h>
#include <sys/wait.h>
#include <xxhash.h>

static void test_path_join(void **state) {
    static const char *const cases[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"},   {"/", "b", "/b"},
                                           {"", "b", "b"},    {"a//", "b", "a//b"}, {"a", "", "a/"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = flrq_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(path, cases[i][2]);
        free(path);
    }
}

static void test_read_sizes_around_the_limit(void **state) {
    char data[200], *got;
    size_t bytes;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(i * 7);
    for (size_t size = 0; size < 3; size++) {
        const char *path = scratch_put("sizes", data, 98 + size);
        if (98 + size <= 99) {
            assert_ok(flrq_file_read(path, 99, &got, &bytes));
            assert_int_equal(bytes, 98 + size);
            assert_memory_equal(got, data, bytes);
            assert_int_equal(got[bytes], 0);
            free(got);
        } else {
            assert_failure(flrq_file_read(path, 99, &got, &bytes), FLRQ_ERR_FORMAT, "100 bytes, at most 99");
            assert_null(got);
        }
    }
    const char *path = scratch_put("empty", "", 0);
    assert_ok(flrq_file_read(path, SIZE_MAX, &got, &bytes));
    assert_int_equal(bytes, 0);
    assert_int_equal(got[0], 0);
    free(got);
}

/* A pipe has no size: the buffer must grow, and the limit must hold all the same. */
static void test_read_pipe(void **state) {
    enum { BYTES = 300000 };
    const char *path = scratch_path("pipe");
    char *got;
    size_t bytes;
    assert_int_equal(mkfifo(path, 0600), 0);
    for (int limited = 0; limited < 2; limited++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGPIPE, SIG_IGN);
            int fd = open(path, O_WRONLY);
            for (int i = 0; i < BYTES; i++)
                if (write(fd, &(char){(char)(i % 251)}, 1) != 1) break;
            _exit(0);
        }
        if (limited) {
            assert_failure(flrq_file_read(path, 100000, &got, &bytes), FLRQ_ERR_FORMAT, "more than the 100000 bytes");
        } else {
            assert_ok(flrq_file_read(path, 1 << 20, &got, &bytes));
            assert_int_equal(bytes, BYTES);
            for (int i = 0; i < BYTES; i++)
                if (got[i] != (char)(i % 251)) fail_msg("byte %d", i);
            free(got);
        }
        waitpid(child, NULL, 0);
    }
    unlink(path);
}

static void test_read_failures(void **state) {
    char *got;
    size_t bytes;
    assert_failure(flrq_file_read(scratch_path("nothing"), 10, &got, &bytes), FLRQ_ERR_IO, "No such file");
    assert_failure(flrq_file_read(scratch_dir, 10000000, &got, &bytes), FLRQ_ERR_IO, "Is a directory");
    /* Address 0 of a process is never mapped: reading it is an input/output error. */
    assert_failure(flrq_file_read("/proc/self/mem", 10, &got, &bytes), FLRQ_ERR_IO, "Input/output error");
}

static void test_pread(void **state) {
    char got[16];
    const char *path = scratch_put("pread", "0123456789", 10);
    int fd = open(path, O_RDONLY);
    assert_ok(flrq_file_pread(fd, path, got, 4, 6));
    assert_memory_equal(got, "6789", 4);
    assert_ok(flrq_file_pread(fd, path, got, 0, 99));
    assert_failure(flrq_file_pread(fd, path, got, 5, 6), FLRQ_ERR_IO, "ends at offset 10, 1 bytes more");
    assert_failure(flrq_file_pread(fd, path, got, 5, 60), FLRQ_ERR_IO, "ends at offset 60, 5 bytes more");
    close(fd);
    assert_failure(flrq_file_pread(fd, path, got, 5, 6), FLRQ_ERR_IO, "Bad file descriptor");
}

static void test_pwrite_to_a_full_device(void **state) {
    int fd = open("/dev/full", O_RDWR);
    if (fd < 0) skip();
    assert_failure(flrq_file_pwrite(fd, "/dev/full", "abc", 3, 5), FLRQ_ERR_IO,
                   "/dev/full: 3 bytes at offset 5 could not be written: No space left on device");
    close(fd);
}

static void test_write_replaces(void **state) {
    size_t bytes;
    const char *path = scratch_path("replaced");
    assert_ok(flrq_file_write(path, "first, longer", 13));
    assert_ok(flrq_file_write(path, "2nd", 3));
    char *got = scratch_get(path, &bytes);
    assert_int_equal(bytes, 3);
    assert_memory_equal(got, "2nd", 3);
    free(got);
    assert_false(flrq_path_exists(scratch_path("replaced.tmp")));
}

/* A leftover temporary file is replaced; a link planted under its name is not written through. */
static void test_write_ignores_leftovers(void **state) {
    size_t bytes;
    const char *victim = scratch_put("victim", "precious", 8);
    scratch_put("target.tmp", "a longer leftover of a killed run", 33);
    assert_ok(flrq_file_write(scratch_path("target"), "new", 3));
    assert_int_equal(symlink(victim, scratch_path("target.tmp")), 0);
    assert_ok(flrq_file_write(scratch_path("target"), "newer", 5));
    char *got = scratch_get(scratch_path("target"), &bytes);
    assert_string_equal(got, "newer");
    free(got);
    got = scratch_get(victim, &bytes);
    assert_string_equal(got, "precious");
    free(got);
}

static void test_write_failures(void **state) {
    assert_failure(flrq_file_write(scratch_path("no/such/folder"), "x", 1), FLRQ_ERR_IO, "cannot create");
    assert_failure(flrq_file_write("/proc/self/flrq", "x", 1), FLRQ_ERR_IO, "/proc/self/flrq.tmp: cannot create");
    /* A folder under the final name: rename must fail and the temporary file must go. */
    assert_int_equal(mkdir(scratch_path("taken"), 0700), 0);
    assert_failure(flrq_file_write(scratch_path("taken"), "x", 1), FLRQ_ERR_IO, "cannot rename");
    assert_false(flrq_path_exists(scratch_path("taken.tmp")));
    if (geteuid() != 0) { /* root may write anywhere */
        const char *locked = scratch_path("locked");
        assert_int_equal(mkdir(locked, 0500), 0);
        assert_failure(flrq_file_write(scratch_path("locked/file"), "x", 1), FLRQ_ERR_IO, "Permission denied");
    }
}

static void test_copy_and_hash(void **state) {
    enum { BYTES = (2 << 20) + 12345 }; /* two full buffers and a part */
    char *data = malloc(BYTES);
    uint32_t word = 1;
    for (int i = 0; i < BYTES; i++) data[i] = (char)((word = word * 1664525u + 1013904223u) >> 24);
    scratch_put("big", data, BYTES);
    assert_ok(flrq_file_copy(scratch_path("big"), scratch_path("copy")));
    size_t bytes;
    uint64_t hash = 0;
    char *got = scratch_get(scratch_path("copy"), &bytes);
    assert_int_equal(bytes, BYTES);
    assert_memory_equal(got, data, BYTES);
    assert_ok(flrq_file_hash(scratch_path("copy"), &hash));
    assert_true(hash == XXH3_64bits(data, BYTES));
    got[BYTES / 2] ^= 1;
    scratch_put("copy", got, BYTES);
    assert_ok(flrq_file_hash(scratch_path("copy"), &hash));
    assert_true(hash != XXH3_64bits(data, BYTES));
    scratch_put("empty", "", 0);
    assert_ok(flrq_file_copy(scratch_path("empty"), scratch_path("copy")));
    assert_ok(flrq_file_hash(scratch_path("copy"), &hash));
    assert_true(hash == XXH3_64bits("", 0));
    free(got);
    free(data);
    assert_failure(flrq_file_copy(scratch_path("nothing"), scratch_path("copy2")), FLRQ_ERR_IO, "nothing: cannot open");
    assert_false(flrq_path_exists(scratch_path("copy2")));
    assert_failure(flrq_file_copy(scratch_dir, scratch_path("copy2")), FLRQ_ERR_IO, "Is a directory");
    assert_false(flrq_path_exists(scratch_path("copy2")));
    assert_false(flrq_path_exists(scratch_path("copy2.tmp")));
    assert_failure(flrq_file_hash(scratch_path("nothing"), &hash), FLRQ_ERR_IO, "cannot open");
    assert_failure(flrq_file_hash(scratch_dir, &hash), FLRQ_ERR_IO, "Is a directory");
}

static void test_json_refusals(void **state) {
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"", "'[' or '{' expected"},
        {"7", "'[' or '{' expected"},
        {"{\"a\": 1,\n \"a\": 2}", "line 2, column 4: duplicate object key"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{\"a\": NaN}", "line 1"},
        {"{\"a\": 01}", "line 1"},
        {"{\"a\": 99999999999999999999}", "too big integer"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": \"\\u0000\"}", "\\u0000 is not allowed"},
        {"{\"a\\u0000b\": 1}", "NUL byte in object key"},
        {"{\"\xff\": 1}", "unable to decode byte 0xff"},
        {"{\"a\": \"\nb\"}", "unexpected newline"},
        {"{\"a\":\n\n\x01\n}", "line 3"},
        {"{\"a\": [1, 2", "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *value = (json_t *)1;
        const char *path = scratch_put("bad.json", cases[i].text, strlen(cases[i].text));
        assert_failure(flrq_json_read(path, 1000, &value), FLRQ_ERR_FORMAT, cases[i].error);
        assert_non_null(strstr(flrq_last_error(), "bad.json: not valid JSON"));
        assert_null(value);
    }
    /* Nesting beyond what the parser's stack is sized for. */
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    json_t *value;
    assert_failure(flrq_json_parse("deep", deep, 100000, &value), FLRQ_ERR_FORMAT, "maximum parsing depth");
    free(deep);
    assert_failure(flrq_json_read(scratch_put("long.json", "{\"a\": 1}", 8), 7, &value), FLRQ_ERR_FORMAT,
                   "8 bytes, at most 7");
}

static void test_json_round_trip(void **state) {
    const char *text = "{\"z\":1,\"a\":[true,null,0.1,-7,\"\\u00e9\\n/\"],\"m\":{\"y\":{},\"x\":[]}}";
    json_t *value, *again;
    size_t bytes;
    assert_ok(flrq_json_parse("text", text, strlen(text), &value));
    assert_ok(flrq_json_write(scratch_path("value.json"), value));
    assert_ok(flrq_json_read(scratch_path("value.json"), 1000, &again));
    assert_true(json_equal(value, again));
    char *got = scratch_get(scratch_path("value.json"), &bytes);
    assert_int_equal(got[bytes - 1], '\n');
    assert_int_equal(strlen(got), bytes);
    assert_true(strstr(got, "\"z\"") < strstr(got, "\"a\"") && strstr(got, "\"a\"") < strstr(got, "\"m\""));
    assert_non_null(strstr(got, "\n \"z\": 1,")); /* indent 1 */
    free(got);
    json_decref(again);
    json_decref(value);
    value = json_integer(3);
    assert_failure(flrq_json_write(scratch_path("number.json"), value), FLRQ_ERR_INTERNAL, "no object or array");
    assert_false(flrq_path_exists(scratch_path("number.json")));
    json_decref(value);
}

static void test_folders(void **state) {
    uint64_t here, below;
    assert_ok(flrq_dir_make(scratch_path("dir")));
    assert_ok(flrq_dir_make(scratch_path("dir")));
    assert_failure(flrq_dir_make(scratch_path("a/b")), FLRQ_ERR_IO, "cannot create");
    scratch_put("plain", "", 0);
    assert_failure(flrq_dir_make(scratch_path("plain")), FLRQ_ERR_IO, "in the way");
    assert_int_equal(symlink("nowhere", scratch_path("dangling")), 0);
    assert_failure(flrq_dir_make(scratch_path("dangling")), FLRQ_ERR_IO, "No such file");
    assert_ok(flrq_dir_sync(scratch_dir));
    assert_ok(flrq_dir_sync_parent(scratch_path("any")));
    assert_ok(flrq_dir_sync_parent("bare"));
    assert_failure(flrq_dir_sync(scratch_path("none")), FLRQ_ERR_IO, "cannot open");
    assert_failure(flrq_dir_sync_parent(scratch_path("none/x")), FLRQ_ERR_IO, "none: cannot open");

    /* Of a path that does not exist yet: its nearest parent decides. Other processes write meanwhile, so within a
     * tenth. */
    struct statvfs st;
    assert_int_equal(statvfs(scratch_dir, &st), 0);
    here = (uint64_t)st.f_bavail * st.f_frsize;
    assert_ok(flrq_dir_free_bytes(scratch_path("x/y//z/"), &below));
    assert_true(below > here / 10 * 9 && below < here / 10 * 11);
    assert_ok(flrq_dir_free_bytes(scratch_path("plain/below-a-file"), &below));
    assert_true(below > here / 10 * 9 && below < here / 10 * 11);
    assert_ok(flrq_dir_free_bytes("no-such-name", &below));
    assert_ok(flrq_dir_free_bytes("/no-such-name", &below));
    assert_int_equal(symlink("loop", scratch_path("loop")), 0);
    assert_failure(flrq_dir_free_bytes(scratch_path("loop"), &below), FLRQ_ERR_IO, "symbolic links");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_path_join),      cmocka_unit_test(test_read_sizes_around_the_limit),
        cmocka_unit_test(test_read_pipe),      cmocka_unit_test(test_read_failures),
        cmocka_unit_test(test_pread),          cmocka_unit_test(test_pwrite_to_a_full_device),
        cmocka_unit_test(test_write_replaces), cmocka_unit_test(test_write_ignores_leftovers),
        cmocka_unit_test(test_write_failures), cmocka_unit_test(test_copy_and_hash),
        cmocka_unit_test(test_json_refusals),  cmocka_unit_test(test_json_round_trip),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
