/* test_shard_join.c - one safetensors file written by several workers, threads and processes.
 *
 * Every worker has its own writer. The file must have the bytes that a single writer gives it, whatever the number of
 * workers; a worker with another layout, a missing byte and a worker that is still writing are refused. Failing system
 * calls are in test_io_faults.c.
 */
#include "io/scratch.h"
#include "io/file.h"
#include "io/safetensors.h"

#include <pthread.h>
#include <sys/wait.h>

enum { ROWS = 413, COLS = 37, CHUNK = 5, TENSORS = 3, WORKERS_MAX = 5 };

/* Rows of 148, 6 and 1 bytes: the parts of workers share pages and begin at odd places. */
static const struct {
    const char *name;
    flrq_dtype dtype;
    int64_t cols;
    uint64_t row_bytes;
} tensors[TENSORS] = {
    {"a.qweight", FLRQ_I32, COLS, 4 * COLS}, {"z.scales", FLRQ_BF16, 3, 6}, {"m.zeros", FLRQ_U8, 1, 1}};

static unsigned char byte_of(int t, uint64_t i) {
    return (unsigned char)(i * 29 + i / 253 + (uint64_t)t * 77 + 1);
}

static flrq_status declare_all(flrq_shard_writer *writer) {
    int handle;
    for (int t = 0; t < TENSORS; t++)
        FLRQ_TRY(flrq_shard_declare(writer, tensors[t].name, tensors[t].dtype, 2, (int64_t[]){ROWS, tensors[t].cols},
                                    &handle));
    return flrq_shard_begin(writer);
}

/* Writes the chunks of rows that are worker `rank`'s. */
static flrq_status write_part(flrq_shard_writer *writer, int rank, int size) {
    unsigned char rows[CHUNK * 4 * COLS];
    for (int t = 0; t < TENSORS; t++)
        for (int64_t row = (int64_t)rank * CHUNK; row < ROWS; row += (int64_t)size * CHUNK) {
            uint64_t count = (uint64_t)(ROWS - row < CHUNK ? ROWS - row : CHUNK);
            uint64_t first = (uint64_t)row * tensors[t].row_bytes, bytes = count * tensors[t].row_bytes;
            for (uint64_t i = 0; i < bytes; i++) rows[i] = byte_of(t, first + i);
            FLRQ_TRY(flrq_shard_write(writer, t, rows, first, bytes));
        }
    return FLRQ_OK;
}

static flrq_status create(flrq_shard_writer **writer, const char *path) {
    FLRQ_TRY(flrq_shard_create(writer, path, NULL));
    return declare_all(*writer);
}

static flrq_status join(flrq_shard_writer **writer, const char *path) {
    FLRQ_TRY(flrq_shard_join(writer, path, NULL));
    return declare_all(*writer);
}

/* All that one joined worker does. */
static flrq_status work(const char *path, int rank, int size, uint64_t *bytes) {
    flrq_shard_writer *writer;
    FLRQ_TRY(join(&writer, path));
    FLRQ_TRY(write_part(writer, rank, size));
    return flrq_shard_leave(writer, bytes);
}

static char *one_writer(size_t *bytes, uint64_t *hash) {
    flrq_shard_writer *writer;
    const char *path = scratch_path("one.safetensors");
    assert_ok(create(&writer, path));
    assert_ok(write_part(writer, 0, 1));
    assert_ok(flrq_shard_finish(writer, hash));
    return scratch_get(path, bytes);
}

static void check_same(const char *path, uint64_t hash) {
    size_t bytes, wanted_bytes;
    uint64_t wanted_hash;
    char *wanted = one_writer(&wanted_bytes, &wanted_hash), *got = scratch_get(path, &bytes);
    assert_int_equal(bytes, wanted_bytes);
    assert_memory_equal(got, wanted, bytes);
    assert_true(hash == wanted_hash);
    free(got);
    free(wanted);
}

typedef struct worker {
    const char *path;
    int rank, size;
    uint64_t bytes;
    flrq_status status;
} worker;

static void *thread_main(void *arg) {
    worker *w = arg;
    w->status = work(w->path, w->rank, w->size, &w->bytes);
    return NULL;
}

static void test_threads(void **state) {
    static const int sizes[] = {1, 2, 3, 5};
    for (int s = 0; s < 4; s++) {
        const char *path = scratch_path("threads.safetensors");
        flrq_shard_writer *writer;
        pthread_t threads[WORKERS_MAX];
        worker workers[WORKERS_MAX];
        uint64_t hash;
        assert_ok(create(&writer, path));
        for (int r = 1; r < sizes[s]; r++) {
            workers[r] = (worker){.path = path, .rank = r, .size = sizes[s]};
            assert_int_equal(pthread_create(&threads[r], NULL, thread_main, &workers[r]), 0);
        }
        assert_ok(write_part(writer, 0, sizes[s]));
        for (int r = 1; r < sizes[s]; r++) {
            pthread_join(threads[r], NULL);
            assert_int_equal(workers[r].status, FLRQ_OK);
            assert_true(workers[r].bytes > 0);
            flrq_shard_add_written(writer, workers[r].bytes);
        }
        assert_ok(flrq_shard_finish(writer, &hash));
        check_same(path, hash);
    }
}

/* Forked before the file is there, so that nothing but its name is shared; pipes say when to begin, and how many bytes
 * there are. */
static void test_processes(void **state) {
    static const int sizes[] = {1, 2, 3, 5};
    for (int s = 0; s < 4; s++) {
        const char *path = scratch_path("processes.safetensors");
        flrq_shard_writer *writer;
        pid_t children[WORKERS_MAX];
        int go[2], done[2], result;
        uint64_t bytes, hash;
        char byte = 0;
        assert_int_equal(pipe(go), 0);
        assert_int_equal(pipe(done), 0);
        for (int r = 1; r < sizes[s]; r++) {
            children[r] = fork();
            if (children[r] == 0) {
                if (read(go[0], &byte, 1) != 1 || work(path, r, sizes[s], &bytes) != FLRQ_OK) _exit(1);
                _exit(write(done[1], &bytes, sizeof bytes) != sizeof bytes);
            }
        }
        assert_ok(create(&writer, path));
        for (int r = 1; r < sizes[s]; r++) assert_int_equal(write(go[1], &byte, 1), 1);
        assert_ok(write_part(writer, 0, sizes[s]));
        for (int r = 1; r < sizes[s]; r++) {
            waitpid(children[r], &result, 0);
            assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
            assert_int_equal(read(done[0], &bytes, sizeof bytes), sizeof bytes);
            flrq_shard_add_written(writer, bytes);
        }
        assert_ok(flrq_shard_finish(writer, &hash));
        check_same(path, hash);
        close(go[0]), close(go[1]), close(done[0]), close(done[1]);
    }
}

static void test_missing_and_surplus_bytes(void **state) {
    const char *path = scratch_path("missing.safetensors");
    flrq_shard_writer *writer;
    uint64_t bytes, hash;
    char text[128];
    for (int off = -1; off <= 1; off += 2) {
        assert_ok(create(&writer, path));
        assert_ok(write_part(writer, 0, 2));
        assert_ok(work(path, 1, 2, &bytes));
        flrq_shard_add_written(writer, bytes + (uint64_t)off);
        snprintf(text, sizeof text, "wrote %d bytes, %llu of them others, the tensors have %d", ROWS * 155 + off,
                 (unsigned long long)bytes + (unsigned long long)off, ROWS * 155);
        assert_failure(flrq_shard_finish(writer, &hash), FLRQ_ERR_INTERNAL, text);
        assert_false(flrq_path_exists(path));
        assert_false(flrq_path_exists(scratch_path("missing.safetensors.tmp")));
    }
    /* Nobody else is known to have written: the tensor is named. */
    assert_ok(create(&writer, path));
    assert_ok(write_part(writer, 0, 2));
    assert_ok(work(path, 1, 2, &bytes));
    assert_failure(flrq_shard_finish(writer, &hash), FLRQ_ERR_INTERNAL, "tensor a.qweight: ");
    /* Own bytes written twice are not made good by the total. */
    assert_ok(create(&writer, path));
    assert_ok(write_part(writer, 0, 1));
    assert_ok(flrq_shard_write(writer, 2, "x", 0, 1));
    flrq_shard_add_written(writer, 1);
    assert_failure(flrq_shard_finish(writer, &hash), FLRQ_ERR_INTERNAL, "tensor m.zeros: 414 bytes were written");
}

/* The other worker did not close: what it still may write is not in the hash. */
static void test_finish_waits_for_no_one_left(void **state) {
    const char *path = scratch_path("busy.safetensors");
    flrq_shard_writer *writer, *other;
    uint64_t bytes, hash;
    assert_ok(create(&writer, path));
    assert_ok(join(&other, path));
    assert_ok(write_part(writer, 0, 1));
    assert_failure(flrq_shard_finish(writer, &hash), FLRQ_ERR_INTERNAL, "another worker is still writing it");
    assert_false(flrq_path_exists(path));
    assert_ok(flrq_shard_leave(other, &bytes)); /* into a file without a name: harms nobody */
    assert_int_equal(bytes, 0);
}

static void test_abort_of_one(void **state) {
    const char *path = scratch_path("abort.safetensors");
    flrq_shard_writer *writer, *other;
    uint64_t bytes, hash;
    assert_ok(create(&writer, path));
    assert_ok(join(&other, path));
    flrq_shard_abort(other);
    assert_ok(flrq_shard_join(&other, path, NULL));
    flrq_shard_abort(other); /* before its layout */
    assert_true(flrq_path_exists(scratch_path("abort.safetensors.tmp")));
    assert_ok(write_part(writer, 0, 2));
    assert_ok(work(path, 1, 2, &bytes));
    flrq_shard_add_written(writer, bytes);
    assert_ok(flrq_shard_finish(writer, &hash));
    check_same(path, hash);
}

static void test_other_layouts(void **state) {
    const char *path = scratch_path("layout.safetensors");
    flrq_shard_writer *writer, *other;
    json_t *metadata = json_pack("{s:s}", "note", "x");
    int handle, descriptors;
    size_t before, after;
    assert_ok(create(&writer, path));
    free(scratch_get(scratch_path("layout.safetensors.tmp"), &before));
    descriptors = scratch_entries("/proc/self/fd");

    assert_ok(flrq_shard_join(&other, path, NULL)); /* of another size */
    assert_ok(flrq_shard_declare(other, "a.qweight", FLRQ_U8, 1, (int64_t[]){7}, &handle));
    assert_failure(flrq_shard_begin(other), FLRQ_ERR_FORMAT, "this worker has a layout of ");
    assert_failure(flrq_shard_write(other, handle, "x", 0, 1), FLRQ_ERR_INTERNAL, "data before the layout");
    flrq_shard_abort(other);

    assert_ok(flrq_shard_join(&other, path, NULL)); /* of the same size, with another name */
    for (int t = 0; t < TENSORS; t++)
        assert_ok(flrq_shard_declare(other, t ? tensors[t].name : "a.qweighs", tensors[t].dtype, 2,
                                     (int64_t[]){ROWS, tensors[t].cols}, &handle));
    assert_failure(flrq_shard_begin(other), FLRQ_ERR_FORMAT, "layout.safetensors.tmp: the header of ");
    flrq_shard_abort(other);

    assert_ok(flrq_shard_join(&other, path, metadata));
    assert_failure(declare_all(other), FLRQ_ERR_FORMAT, "this worker has a layout of ");
    flrq_shard_abort(other);

    free(scratch_get(scratch_path("layout.safetensors.tmp"), &after));
    assert_int_equal(before, after);
    assert_int_equal(scratch_entries("/proc/self/fd"), descriptors);
    flrq_shard_abort(writer);
    json_decref(metadata);
}

static void test_no_file_to_join(void **state) {
    const char *path = scratch_path("early.safetensors"), *temp = scratch_path("early.safetensors.tmp");
    flrq_shard_writer *writer, *other;
    uint64_t bytes;
    assert_ok(flrq_shard_join(&other, path, NULL));
    assert_failure(declare_all(other), FLRQ_ERR_IO,
                   "early.safetensors.tmp: cannot open what another worker should have made; check that all see this "
                   "folder: No such file or directory");
    assert_false(flrq_path_exists(temp));
    /* Created, but not laid out yet. */
    assert_ok(flrq_shard_create(&writer, path, NULL));
    assert_failure(flrq_shard_begin(other), FLRQ_ERR_FORMAT, "early.safetensors.tmp: 0 bytes, this worker has ");
    /* A begin that failed may be tried again. */
    assert_ok(declare_all(writer));
    assert_ok(flrq_shard_begin(other));
    assert_failure(flrq_shard_begin(other), FLRQ_ERR_INTERNAL, "laid out twice");
    assert_ok(flrq_shard_leave(other, &bytes));
    flrq_shard_abort(writer);
    /* A link of that name is not written through. */
    assert_int_equal(symlink(scratch_put("victim", "x", 1), temp), 0);
    assert_ok(flrq_shard_join(&other, path, NULL));
    assert_failure(declare_all(other), FLRQ_ERR_IO, "cannot open what another worker should have made");
    flrq_shard_abort(other);
    unlink(temp);
}

static void test_misuse(void **state) {
    const char *path = scratch_path("misuse.safetensors");
    flrq_shard_writer *writer, *other;
    uint64_t bytes, hash;
    json_t *bad = json_pack("{s:i}", "steps", 3);
    assert_failure(flrq_shard_join(&other, path, bad), FLRQ_ERR_INTERNAL, "metadata \"steps\" is not a string");
    json_decref(bad);
    assert_null(other);
    assert_ok(create(&writer, path));
    assert_failure(flrq_shard_leave(writer, &bytes), FLRQ_ERR_INTERNAL, "left by a worker that did not join it");
    assert_false(flrq_path_exists(scratch_path("misuse.safetensors.tmp")));
    assert_ok(flrq_shard_join(&other, path, NULL));
    assert_failure(flrq_shard_leave(other, &bytes), FLRQ_ERR_INTERNAL, "left by a worker that did not join it");
    assert_ok(create(&writer, path));
    assert_ok(join(&other, path));
    assert_failure(flrq_shard_finish(other, &hash), FLRQ_ERR_INTERNAL, "finished by a worker that joined");
    assert_true(flrq_path_exists(scratch_path("misuse.safetensors.tmp")));
    flrq_shard_abort(writer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_missing_and_surplus_bytes),
        cmocka_unit_test(test_finish_waits_for_no_one_left),
        cmocka_unit_test(test_abort_of_one),
        cmocka_unit_test(test_other_layouts),
        cmocka_unit_test(test_no_file_to_join),
        cmocka_unit_test(test_misuse),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
