/* test_io_memory.c - every operation of the io layer with every single allocation failing in turn.
 *
 * The allocator is that of tests/allocator.h, which lets a chosen one fail. Each time: a failure with a text or the
 * right result, no block left alive, nothing half-written. Skipped under AddressSanitizer, whose allocator cannot be
 * replaced.
 */
#include "io/scratch.h"
#include "io/file.h"
#include "io/journal.h"
#include "io/npy.h"
#include "io/rollcall.h"
#include "io/safetensors.h"

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
int main(void) {
    return 77;
}
#else

#include "allocator.h"

/* ---- operations: each leaves nothing alive --------------------------------------------------------------------------
 */

static flrq_status run_checkpoint(void) {
    flrq_checkpoint *checkpoint;
    flrq_status status = flrq_checkpoint_open(&checkpoint, scratch_path("model"));
    if (status == FLRQ_OK && checkpoint->n_tensors != 3) status = FLRQ_STOPPED;
    flrq_checkpoint_close(checkpoint);
    return status;
}

static flrq_status run_single(void) {
    flrq_checkpoint *checkpoint;
    flrq_status status = flrq_checkpoint_open(&checkpoint, scratch_path("model/1.safetensors"));
    flrq_checkpoint_close(checkpoint);
    return status;
}

static flrq_status run_no_model(void) {
    flrq_checkpoint *checkpoint;
    flrq_status status = flrq_checkpoint_open(&checkpoint, scratch_dir);
    return status == FLRQ_ERR_IO ? FLRQ_OK : status; /* refusal is the right result here */
}

static flrq_status write_shard(const char *path, const char *const *names, int n) {
    flrq_shard_writer *writer;
    uint64_t hash;
    int handle;
    FLRQ_TRY(flrq_shard_create(&writer, path, NULL));
    flrq_status status = FLRQ_OK;
    for (int i = 0; i < n && status == FLRQ_OK; i++)
        status = flrq_shard_declare(writer, names[i], FLRQ_I32, 1, (int64_t[]){2}, &handle);
    if (status == FLRQ_OK) status = flrq_shard_begin(writer);
    for (int i = 0; i < n && status == FLRQ_OK; i++) status = flrq_shard_write(writer, i, (int32_t[]){3, 4}, 0, 8);
    if (status == FLRQ_OK) return flrq_shard_finish(writer, &hash);
    flrq_shard_abort(writer);
    return status;
}

static flrq_status run_shard(void) {
    return write_shard(scratch_path("out"), (const char *const[]){"a", "b"}, 2);
}

static flrq_status run_shared_shard(void) {
    flrq_shard_writer *writer, *other = NULL;
    uint64_t hash, bytes = 0;
    int handle;
    FLRQ_TRY(flrq_shard_create(&writer, scratch_path("out"), NULL));
    flrq_status status = flrq_shard_declare(writer, "w", FLRQ_I32, 1, (int64_t[]){2}, &handle);
    if (status == FLRQ_OK) status = flrq_shard_begin(writer);
    if (status == FLRQ_OK) status = flrq_shard_join(&other, scratch_path("out"), NULL);
    if (status == FLRQ_OK) status = flrq_shard_declare(other, "w", FLRQ_I32, 1, (int64_t[]){2}, &handle);
    if (status == FLRQ_OK) status = flrq_shard_begin(other);
    if (status == FLRQ_OK) status = flrq_shard_write(other, 0, (int32_t[]){3, 4}, 0, 8);
    if (status == FLRQ_OK)
        status = flrq_shard_leave(other, &bytes);
    else
        flrq_shard_abort(other);
    flrq_shard_add_written(writer, bytes);
    if (status == FLRQ_OK) return flrq_shard_finish(writer, &hash);
    flrq_shard_abort(writer);
    return status;
}

static flrq_status run_index(void) {
    return flrq_index_write(scratch_path("out"), 2, (const char *const[]){"a", "b"}, (const char *const[]){"x", "y"},
                            1);
}

static flrq_status run_tokens_npy(void) {
    int32_t *ids = NULL;
    int64_t rows, cols;
    flrq_status status = flrq_tokens_read(scratch_path("tokens.npy"), 10, &ids, &rows, &cols);
    if (status == FLRQ_OK && (rows != 1 || cols != 2 || ids[1] != 4)) status = FLRQ_STOPPED;
    free(ids);
    return status;
}

static flrq_status run_tokens_safetensors(void) {
    int32_t *ids = NULL;
    int64_t rows, cols;
    flrq_status status = flrq_tokens_read(scratch_path("model/2.safetensors"), 10, &ids, &rows, &cols);
    free(ids);
    return status;
}

static flrq_status run_npy(void) {
    return flrq_npy_write(scratch_path("out"), "<i4", 4, 1, (int64_t[]){2}, (int32_t[]){3, 4});
}

static flrq_status run_journal(void) {
    flrq_journal *journal;
    json_t *records;
    json_t *record = json_pack("{s:i}", "a", 1);
    if (!record) return flrq_fail_memory(1, "the record of the test");
    flrq_status status = flrq_journal_open(&journal, scratch_path("journal"), &records);
    if (status == FLRQ_OK) status = flrq_journal_append(journal, record);
    flrq_journal_close(journal);
    if (status == FLRQ_OK) {
        json_decref(records);
        status = flrq_journal_open(&journal, scratch_path("journal"), &records);
        if (status == FLRQ_OK && json_array_size(records) != 1) status = FLRQ_STOPPED; /* a whole line was lost */
        flrq_journal_close(journal);
    }
    json_decref(records);
    json_decref(record);
    return status;
}

static flrq_status run_json(void) {
    json_t *value;
    flrq_status status = flrq_json_read(scratch_path("model/model.safetensors.index.json"), 10000, &value);
    if (status == FLRQ_OK) status = flrq_json_write(scratch_path("out"), value);
    json_decref(value);
    return status;
}

static flrq_status run_files(void) {
    char *text;
    size_t bytes;
    uint64_t hash;
    FLRQ_TRY(flrq_file_read(scratch_path("tokens.npy"), 10000, &text, &bytes));
    free(text);
    FLRQ_TRY(flrq_file_hash(scratch_path("tokens.npy"), &hash));
    FLRQ_TRY(flrq_dir_free_bytes(scratch_path("a/b/c"), &hash));
    FLRQ_TRY(flrq_dir_sync_parent(scratch_path("a")));
    return flrq_file_copy(scratch_path("tokens.npy"), scratch_path("out"));
}

/* A roll call of one. Whoever is refused memory leaves nothing behind either, but for the next start to sweep. */
static flrq_status run_rollcall(void) {
    flrq_rollcall *rollcall;
    char byte = 0;
    flrq_status status = flrq_rollcall_join(&rollcall, scratch_path("workers"), "a", 0, 1, "cpu", 1);
    if (status == FLRQ_OK) status = flrq_rollcall_share(rollcall, &byte, 1);
    if (status == FLRQ_OK) status = flrq_rollcall_watch(rollcall);
    flrq_rollcall_leave(rollcall);
    scratch_remove(scratch_path("workers"));
    return status;
}

static flrq_status run_lock(void) {
    flrq_lock *lock;
    flrq_status status = flrq_dir_lock(&lock, scratch_dir);
    flrq_dir_unlock(lock);
    return status;
}

static const struct {
    const char *name;
    flrq_status (*run)(void);
    int allocations; /* at least this many must have been made to fail */
} operations[] = {{"sharded checkpoint", run_checkpoint, 50},
                  {"single file", run_single, 20},
                  {"folder without model", run_no_model, 3},
                  {"shard", run_shard, 30},
                  {"shared shard", run_shared_shard, 50},
                  {"index", run_index, 15},
                  {"tokens from .npy", run_tokens_npy, 3},
                  {"tokens from .safetensors", run_tokens_safetensors, 20},
                  {".npy", run_npy, 3},
                  {"journal", run_journal, 10},
                  {"json", run_json, 20},
                  {"files", run_files, 7},
                  {"roll call", run_rollcall, 12},
                  {"lock", run_lock, 2}};

/* Whole content of what an operation writes (free()), or NULL: with status FLRQ_OK it must be the same every time. */
static char *written(size_t *bytes) {
    *bytes = 0;
    for (int i = 0; i < 2; i++) {
        const char *path = scratch_path(i ? "journal" : "out");
        if (flrq_path_exists(path)) return scratch_get(path, bytes);
    }
    return NULL;
}

/* jansson's scanner takes a string that it cannot store for a syntax error; nothing outside can tell the two apart. */
static int names_memory(flrq_status status) {
    const char *text = flrq_last_error();
    if (status == FLRQ_ERR_FORMAT) return strstr(text, "not valid JSON") != NULL;
    return (status == FLRQ_ERR_MEMORY || status == FLRQ_ERR_INTERNAL) && strstr(text, "memory");
}

static void test_every_allocation_failing_in_turn(void **state) {
    assert_int_equal(mkdir(scratch_path("model"), 0700), 0);
    assert_ok(write_shard(scratch_path("model/1.safetensors"), (const char *const[]){"a", "b"}, 2));
    assert_ok(write_shard(scratch_path("model/2.safetensors"), (const char *const[]){"c"}, 1));
    assert_ok(flrq_index_write(scratch_path("model/model.safetensors.index.json"), 3,
                               (const char *const[]){"a", "b", "c"},
                               (const char *const[]){"1.safetensors", "1.safetensors", "2.safetensors"}, 24));
    assert_ok(flrq_npy_write(scratch_path("tokens.npy"), "<i4", 4, 1, (int64_t[]){2}, (int32_t[]){3, 4}));
    for (size_t op = 0; op < sizeof operations / sizeof *operations; op++) {
        int tried = 0;
        size_t bytes, wanted_bytes;
        unlink(scratch_path("out"));
        unlink(scratch_path("journal"));
        assert_ok(operations[op].run());
        char *wanted = written(&wanted_bytes);
        for (int happened = 1; happened; tried++) {
            int descriptors = scratch_entries("/proc/self/fd");
            unlink(scratch_path("out"));
            unlink(scratch_path("journal"));
            flrq_fail(FLRQ_OK, "%s", "");
            allocator.skip = tried, allocator.happened = 0;
            long alive = allocator.alive;
            allocator.armed = 1;
            flrq_status status = operations[op].run();
            allocator.armed = 0;
            happened = allocator.happened;
            if (allocator.alive != alive || scratch_entries("/proc/self/fd") != descriptors)
                fail_msg("%s: allocation %d failing leaves %ld blocks alive or a file open", operations[op].name, tried,
                         allocator.alive - alive);
            if (flrq_path_exists(scratch_path("out.tmp")))
                fail_msg("%s: temporary file left behind", operations[op].name);
            if (!happened || status == FLRQ_OK) { /* the C library makes up for some inside qsort() */
                assert_ok(status);
                char *got = written(&bytes);
                if (bytes != wanted_bytes || (got && memcmp(got, wanted, bytes) != 0))
                    fail_msg("%s: allocation %d failing changes what is written", operations[op].name, tried);
                free(got);
            } else if (!names_memory(status)) {
                fail_msg("%s: allocation %d failing gives %s: %s", operations[op].name, tried, flrq_status_name(status),
                         flrq_last_error());
            }
        }
        free(wanted);
        print_message("           %s: %d allocations\n", operations[op].name, tried - 1);
        assert_true(tried - 1 >= operations[op].allocations);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation_failing_in_turn)};
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
#endif
