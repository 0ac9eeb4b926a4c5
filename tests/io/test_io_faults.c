/* test_io_faults.c - what the io layer does when the operating system says no.
 *
 * This program defines the system calls that the layer uses itself and passes them on to the kernel, unless a test has
 * armed one of them: then the armed call, or each from the armed one on, fails with the chosen error, or transfers
 * fewer bytes than asked for. Every writing operation is run with every call failing in turn; what must hold each time:
 * an error text, nothing under the final name but the old content, no temporary file, no leaked descriptor.
 */
#include "io/scratch.h"
#include "io/file.h"
#include "io/journal.h"
#include "io/npy.h"
#include "io/safetensors.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>

typedef enum fault_call {
    NONE,
    PWRITE,
    PREAD,
    READ,
    FSYNC,
    RENAME,
    FALLOCATE,
    FTRUNCATE,
    CLOSE,
    FCNTL,
    FSTAT
} fault_call;

static struct {
    fault_call call;
    int skip;  /* calls that pass first */
    int count; /* calls that fail then */
    int error; /* errno of the failing calls; 0 with a transfer: only half of the bytes */
    int happened;
} fault;

static void arm(fault_call call, int skip, int count, int error) {
    fault.call = call, fault.skip = skip, fault.count = count, fault.error = error, fault.happened = 0;
}

static int strikes(fault_call call) {
    if (fault.call != call || fault.skip-- > 0 || fault.count-- <= 0) return 0;
    fault.happened++;
    errno = fault.error;
    return 1;
}

static size_t half(size_t bytes) {
    return bytes > 1 ? bytes / 2 : bytes;
}

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset) {
    if (strikes(PWRITE)) {
        if (fault.error) return -1;
        bytes = half(bytes);
    }
    return syscall(SYS_pwrite64, fd, from, bytes, offset);
}

ssize_t pread(int fd, void *to, size_t bytes, off_t offset) {
    if (strikes(PREAD)) {
        if (fault.error) return -1;
        bytes = half(bytes);
    }
    return syscall(SYS_pread64, fd, to, bytes, offset);
}

ssize_t read(int fd, void *to, size_t bytes) {
    if (strikes(READ)) {
        if (fault.error) return -1;
        bytes = half(bytes);
    }
    return syscall(SYS_read, fd, to, bytes);
}

int fsync(int fd) {
    return strikes(FSYNC) ? -1 : (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to) {
    return strikes(RENAME) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    return strikes(FALLOCATE) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

int ftruncate(int fd, off_t bytes) {
    return strikes(FTRUNCATE) ? -1 : (int)syscall(SYS_ftruncate, fd, bytes);
}

int close(int fd) {
    int failed = strikes(CLOSE),
        result = (int)syscall(SYS_close, fd); /* as Linux does: closed even when it reports an error */
    return failed ? (errno = fault.error, -1) : result;
}

int fcntl(int fd, int command, ...) {
    va_list args;
    va_start(args, command);
    void *argument = va_arg(args, void *); /* an integer or a pointer: either way one machine word */
    va_end(args);
    return strikes(FCNTL) ? -1 : (int)syscall(SYS_fcntl, fd, command, argument);
}

int fstat(int fd, struct stat *st) {
    return strikes(FSTAT) ? -1 : (int)syscall(SYS_fstat, fd, st);
}

/* ---- operations under fault -------------------------------------------------------------------------------------- */

static const char data[] = "0123456789abcdef";

static flrq_status run_file_write(const char *path) {
    return flrq_file_write(path, data, 16);
}

static flrq_status run_json_write(const char *path) {
    json_t *value = json_pack("{s:i}", "a", 1);
    flrq_status status = flrq_json_write(path, value);
    json_decref(value);
    return status;
}

static flrq_status run_copy(const char *path) {
    return flrq_file_copy(scratch_put("source", data, 16), path);
}

static flrq_status run_npy(const char *path) {
    return flrq_npy_write(path, "<i4", 4, 2, (int64_t[]){2, 2}, data);
}

static flrq_status run_index(const char *path) {
    return flrq_index_write(path, 1, (const char *const[]){"a"}, (const char *const[]){"b"}, 1);
}

static flrq_status run_shard(const char *path) {
    flrq_shard_writer *writer;
    int handle;
    uint64_t hash;
    FLRQ_TRY(flrq_shard_create(&writer, path, NULL));
    flrq_status status = flrq_shard_declare(writer, "w", FLRQ_I32, 2, (int64_t[]){2, 2}, &handle);
    if (status == FLRQ_OK) status = flrq_shard_begin(writer);
    if (status == FLRQ_OK) status = flrq_shard_write(writer, handle, data, 0, 16);
    if (status == FLRQ_OK) return flrq_shard_finish(writer, &hash);
    flrq_shard_abort(writer);
    return status;
}

/* Two workers, one of which joins the other's file. */
static flrq_status run_shared_shard(const char *path) {
    flrq_shard_writer *writer, *other = NULL;
    int handle;
    uint64_t hash, bytes = 0;
    FLRQ_TRY(flrq_shard_create(&writer, path, NULL));
    flrq_status status = flrq_shard_declare(writer, "w", FLRQ_I32, 2, (int64_t[]){2, 2}, &handle);
    if (status == FLRQ_OK) status = flrq_shard_begin(writer);
    if (status == FLRQ_OK) status = flrq_shard_join(&other, path, NULL);
    if (status == FLRQ_OK) status = flrq_shard_declare(other, "w", FLRQ_I32, 2, (int64_t[]){2, 2}, &handle);
    if (status == FLRQ_OK) status = flrq_shard_begin(other);
    if (status == FLRQ_OK) status = flrq_shard_write(other, handle, data + 8, 8, 8);
    if (status == FLRQ_OK) status = flrq_shard_write(writer, handle, data, 0, 8);
    if (status == FLRQ_OK)
        status = flrq_shard_leave(other, &bytes);
    else
        flrq_shard_abort(other);
    flrq_shard_add_written(writer, bytes);
    if (status == FLRQ_OK) return flrq_shard_finish(writer, &hash);
    flrq_shard_abort(writer);
    return status;
}

static const struct {
    const char *name;
    flrq_status (*run)(const char *path);
} operations[] = {{"file_write", run_file_write},
                  {"json_write", run_json_write},
                  {"copy", run_copy},
                  {"npy", run_npy},
                  {"index", run_index},
                  {"shard", run_shard},
                  {"shared shard", run_shared_shard}};
enum { OPERATIONS = sizeof operations / sizeof *operations };

static int open_descriptors(void) {
    return scratch_entries("/proc/self/fd");
}

static void test_every_call_failing_in_turn(void **state) {
    static const struct {
        fault_call call;
        int error;
        const char *text;
    } faults[] = {{PWRITE, ENOSPC, "No space left on device"},
                  {PWRITE, EIO, "Input/output error"},
                  {PWRITE, EDQUOT, "quota"},
                  {FSYNC, EIO, "flush to disk"},
                  {RENAME, EACCES, "cannot rename"},
                  {READ, EIO, "reading"},
                  {FALLOCATE, ENOSPC, "cannot reserve"},
                  {FCNTL, ENOLCK, "refuses locks"},
                  {FSTAT, EIO, "cannot examine"},
                  {PREAD, EIO, "reading"},
                  {CLOSE, EIO, "cannot close"}};
    int struck[OPERATIONS] = {0};
    for (int op = 0; op < OPERATIONS; op++)
        for (size_t f = 0; f < sizeof faults / sizeof *faults; f++)
            for (int skip = 0; skip < 8; skip++) {
                const char *path = scratch_put("out", "old content", 11);
                size_t bytes;
                int before = open_descriptors();
                arm(faults[f].call, skip, 1, faults[f].error);
                flrq_status status = operations[op].run(path);
                int happened = fault.happened;
                arm(NONE, 0, 0, 0);
                assert_int_equal(open_descriptors(), before);
                assert_false(flrq_path_exists(scratch_path("out.tmp")));
                char *content = scratch_get(path, &bytes);
                int replaced = strcmp(content, "old content") != 0;
                free(content);
                if (!happened) { /* past the last such call */
                    assert_ok(status);
                    assert_true(replaced);
                    break;
                }
                /* The close of a file that was only read, and of the folder, loses nothing. A folder that cannot be
                 * flushed is an error, but by then the new content has its name. */
                if (faults[f].call == CLOSE && status == FLRQ_OK) continue;
                struck[op]++;
                assert_failure(status, FLRQ_ERR_IO, faults[f].text);
                if (replaced) {
                    assert_int_equal(faults[f].call, FSYNC);
                    assert_non_null(strstr(flrq_last_error(), "folder "));
                }
            }
    for (int op = 0; op < OPERATIONS; op++) assert_true(struck[op] >= 7);
}

/* Short transfers and interrupted calls are not errors: the result must be the same bytes. */
static void test_short_and_interrupted_transfers(void **state) {
    static const struct {
        fault_call call;
        int error;
    } faults[] = {{PWRITE, 0}, {PWRITE, EINTR},    {READ, 0},      {READ, EINTR},
                  {PREAD, 0},  {FALLOCATE, EINTR}, {PREAD, EINTR}, {FALLOCATE, EOPNOTSUPP}};
    for (int op = 0; op < OPERATIONS; op++) {
        size_t bytes, other_bytes;
        assert_ok(operations[op].run(scratch_path("plain")));
        char *plain = scratch_get(scratch_path("plain"), &bytes);
        for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
            arm(faults[f].call, 0, 5, faults[f].error);
            flrq_status status = operations[op].run(scratch_path("out"));
            arm(NONE, 0, 0, 0);
            assert_ok(status);
            char *other = scratch_get(scratch_path("out"), &other_bytes);
            assert_int_equal(other_bytes, bytes);
            assert_memory_equal(other, plain, bytes);
            free(other);
        }
        free(plain);
    }
    /* Reading side. */
    char *got, to[16];
    json_t *value;
    size_t bytes;
    for (int interrupted = 0; interrupted < 2; interrupted++) {
        const char *path = scratch_put("input", "{\"k\": [1, 2, 3]}", 16);
        arm(READ, 0, 4, interrupted ? EINTR : 0);
        assert_ok(flrq_file_read(path, 100, &got, &bytes));
        assert_int_equal(bytes, 16);
        free(got);
        arm(READ, 1, 2, interrupted ? EINTR : 0);
        assert_ok(flrq_json_read(path, 100, &value));
        json_decref(value);
        int fd = open(path, O_RDONLY);
        arm(PREAD, 0, 3, interrupted ? EINTR : 0);
        assert_ok(flrq_file_pread(fd, path, to, 16, 0));
        arm(NONE, 0, 0, 0);
        assert_memory_equal(to, "{\"k\": [1, 2, 3]}", 16);
        close(fd);
    }
}

/* No fallocate() on this file system: the file still gets its size; when that fails too, the error is reported. */
static void test_reservation_without_fallocate(void **state) {
    arm(FALLOCATE, 0, 1, EOPNOTSUPP);
    assert_ok(run_shard(scratch_path("out")));
    assert_int_equal(fault.happened, 1);
    arm(FTRUNCATE, 0, 1, ENOSPC);
    assert_ok(run_shard(scratch_path("out"))); /* not used where fallocate() works */
    assert_int_equal(fault.happened, 0);
    arm(NONE, 0, 0, 0);
    unlink(scratch_path("out"));
}

/* A limit on the file size stands for a full disk: the kernel refuses in the middle of a real write. */
static void test_file_size_limit(void **state) {
    struct rlimit old, low;
    enum { LIMIT = 4096 };
    char *big = calloc(1, 3 * LIMIT);
    flrq_shard_writer *writer;
    int handle;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){.rlim_cur = LIMIT, .rlim_max = old.rlim_max};
    scratch_put("big-source", big, 3 * LIMIT);
    assert_ok(flrq_shard_create(&writer, scratch_path("big.safetensors"), NULL));
    assert_ok(flrq_shard_declare(writer, "w", FLRQ_U8, 1, (int64_t[]){3 * LIMIT}, &handle));

    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    flrq_status write_status = flrq_file_write(scratch_path("big"), big, 3 * LIMIT);
    char write_text[256], begin_text[256];
    snprintf(write_text, sizeof write_text, "%s", flrq_last_error());
    flrq_status begin_status = flrq_shard_begin(writer);
    snprintf(begin_text, sizeof begin_text, "%s", flrq_last_error());
    flrq_status copy_status = flrq_file_copy(scratch_path("big-source"), scratch_path("big"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);

    assert_int_equal(write_status, FLRQ_ERR_IO);
    assert_non_null(strstr(write_text, "8192 bytes at offset 4096 could not be written: File too large"));
    assert_int_equal(begin_status, FLRQ_ERR_IO);
    assert_non_null(strstr(begin_text, "cannot reserve"));
    assert_int_equal(copy_status, FLRQ_ERR_IO);
    flrq_shard_abort(writer);
    assert_false(flrq_path_exists(scratch_path("big")));
    assert_false(flrq_path_exists(scratch_path("big.tmp")));
    assert_false(flrq_path_exists(scratch_path("big.safetensors")));
    assert_false(flrq_path_exists(scratch_path("big.safetensors.tmp")));
    free(big);
}

/* A journal whose append failed is as it was before, and goes on working. */
static void test_journal_append(void **state) {
    static const struct {
        fault_call call;
        int skip, error;
    } faults[] = {{PWRITE, 0, ENOSPC}, {FSYNC, 0, EIO}};
    const char *path = scratch_path("journal");
    flrq_journal *journal;
    json_t *records, *record = json_pack("{s:s}", "text", "a record of some length");
    assert_ok(flrq_journal_open(&journal, path, &records));
    json_decref(records);
    assert_ok(flrq_journal_append(journal, record));
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        size_t before, after;
        free(scratch_get(path, &before));
        arm(faults[f].call, faults[f].skip, 1, faults[f].error);
        flrq_status status = flrq_journal_append(journal, record);
        arm(NONE, 0, 0, 0);
        assert_failure(status, FLRQ_ERR_IO, "journal: ");
        free(scratch_get(path, &after));
        assert_int_equal(before, after);
        assert_ok(flrq_journal_append(journal, record));
    }
    /* Half of a line reaches the disk, then it is full: the half is cut off again. */
    size_t before, after;
    struct rlimit old, low;
    free(scratch_get(path, &before));
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){.rlim_cur = before + 10, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    flrq_status status = flrq_journal_append(journal, record);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_failure(status, FLRQ_ERR_IO, "File too large");
    free(scratch_get(path, &after));
    assert_int_equal(before, after);
    /* And when it cannot be cut off, the text says so. */
    arm(FTRUNCATE, 0, 1, EIO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    status = flrq_journal_append(journal, record);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    arm(NONE, 0, 0, 0);
    assert_failure(status, FLRQ_ERR_IO, "a torn line is left behind: file ");
    free(scratch_get(path, &after));
    assert_int_equal(before + 10, after);
    assert_ok(flrq_journal_append(journal, record)); /* goes over the torn part */
    flrq_journal_close(journal);
    assert_ok(flrq_journal_open(&journal, path, &records));
    assert_int_equal(json_array_size(records), 4);
    json_decref(records);
    flrq_journal_close(journal);
    json_decref(record);
}

static void test_journal_open(void **state) {
    static const struct {
        fault_call call;
        int error;
        const char *text;
    } faults[] = {{READ, EIO, "reading"}, {FSYNC, EIO, "flush"}, {FTRUNCATE, EIO, "torn last line"}};
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        flrq_journal *journal;
        json_t *records;
        const char *path = scratch_put("torn", "{\"a\":", 5);
        int before = open_descriptors();
        arm(faults[f].call, 0, 1, faults[f].error);
        flrq_status status = flrq_journal_open(&journal, path, &records);
        arm(NONE, 0, 0, 0);
        assert_failure(status, FLRQ_ERR_IO, faults[f].text);
        assert_null(journal);
        assert_null(records);
        assert_int_equal(open_descriptors(), before);
    }
}

static void test_lock_text(void **state) {
    static const fault_call calls[] = {PWRITE, FTRUNCATE};
    for (int i = 0; i < 2; i++) {
        flrq_lock *lock;
        arm(calls[i], 0, 1, ENOSPC);
        flrq_status status = flrq_dir_lock(&lock, scratch_dir);
        arm(NONE, 0, 0, 0);
        assert_failure(status, FLRQ_ERR_IO, "No space left");
        assert_null(lock);
        assert_ok(flrq_dir_lock(&lock, scratch_dir)); /* the failed attempt holds nothing */
        flrq_dir_unlock(lock);
    }
}

static void test_locks_refused(void **state) {
    flrq_lock *lock;
    arm(FCNTL, 0, 1, ENOLCK);
    flrq_status status = flrq_dir_lock(&lock, scratch_dir);
    arm(NONE, 0, 0, 0);
    assert_failure(status, FLRQ_ERR_IO, "the file system refuses locks");
    assert_null(lock);
}

/* The call that fails here stands in for a lock file that lost its name between open and lock: the holder must look
 * again, and get the lock at the second try. */
static void test_lock_looks_again(void **state) {
    flrq_lock *lock;
    int before = open_descriptors();
    arm(FSTAT, 0, 1, EIO);
    flrq_status status = flrq_dir_lock(&lock, scratch_dir);
    int happened = fault.happened;
    arm(NONE, 0, 0, 0);
    assert_int_equal(happened, 1);
    assert_ok(status);
    assert_int_equal(open_descriptors(), before + 1);
    flrq_dir_unlock(lock);
}

static void test_examination_refused(void **state) {
    flrq_checkpoint *checkpoint;
    int32_t *ids;
    int64_t rows, cols;
    char *text;
    size_t bytes;
    const char *path = scratch_put("x.safetensors", "", 0);
    int before = open_descriptors();
    arm(FSTAT, 0, 1, EIO);
    assert_failure(flrq_checkpoint_open(&checkpoint, path), FLRQ_ERR_IO, "cannot examine");
    arm(FSTAT, 0, 1, EIO);
    assert_failure(flrq_file_read(path, 100, &text, &bytes), FLRQ_ERR_IO, "cannot examine");
    arm(FSTAT, 0, 1, EIO);
    assert_failure(flrq_tokens_read(scratch_put("x.npy", "", 0), 0, &ids, &rows, &cols), FLRQ_ERR_IO,
                   "not a regular file");
    arm(NONE, 0, 0, 0);
    assert_int_equal(open_descriptors(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_failing_in_turn),
        cmocka_unit_test(test_short_and_interrupted_transfers),
        cmocka_unit_test(test_reservation_without_fallocate),
        cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_journal_append),
        cmocka_unit_test(test_journal_open),
        cmocka_unit_test(test_lock_text),
        cmocka_unit_test(test_locks_refused),
        cmocka_unit_test(test_lock_looks_again),
        cmocka_unit_test(test_examination_refused),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
