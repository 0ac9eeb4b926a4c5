/* test_journal.c - what is appended comes back; a torn end is cut off; damage before the end is refused. */
#include "io/scratch.h"
#include "io/journal.h"

static json_t *record_of(int i) {
    return json_pack("{s:i, s:s, s:f}", "block", i, "text", "tab\t newline\n quote\" \xc3\xa9", "error", 0.1 * i);
}

/* Opens, checks that records 0 .. n-1 are there, and closes. */
static void assert_records(const char *path, int n) {
    flrq_journal *journal;
    json_t *records;
    assert_ok(flrq_journal_open(&journal, path, &records));
    flrq_journal_close(journal);
    assert_int_equal(json_array_size(records), n);
    for (int i = 0; i < n; i++) {
        json_t *want = record_of(i);
        assert_true(json_equal(json_array_get(records, (size_t)i), want));
        json_decref(want);
    }
    json_decref(records);
}

static void append_records(const char *path, int first, int n) {
    flrq_journal *journal;
    json_t *records;
    assert_ok(flrq_journal_open(&journal, path, &records));
    assert_int_equal(json_array_size(records), first);
    json_decref(records);
    for (int i = first; i < first + n; i++) {
        json_t *record = record_of(i);
        assert_ok(flrq_journal_append(journal, record));
        json_decref(record);
    }
    flrq_journal_close(journal);
}

static void test_append_and_reopen(void **state) {
    const char *path = scratch_path("reopen");
    assert_records(path, 0);
    append_records(path, 0, 3);
    assert_records(path, 3);
    append_records(path, 3, 2);
    assert_records(path, 5);
    flrq_journal_close(NULL);
}

/* The line format is fixed: other programs read it, and later versions must. The checksum was computed with the xxhash
 * package of another language. */
static void test_line_format(void **state) {
    const char *path = scratch_path("format");
    flrq_journal *journal;
    json_t *records, *record = json_pack("{s:i, s:[b, n]}", "b", 1, "a", 1);
    size_t bytes;
    assert_ok(flrq_journal_open(&journal, path, &records));
    assert_ok(flrq_journal_append(journal, record));
    flrq_journal_close(journal);
    char *got = scratch_get(path, &bytes);
    assert_string_equal(got, "{\"b\":1,\"a\":[true,null]}\td0d2dfa059c3b54d\n");
    free(got);
    json_decref(record);
    json_decref(records);
}

/* Cut at every byte: the whole lines before the cut survive, the rest goes, and the journal goes on from there. */
static void test_torn_at_every_byte(void **state) {
    const char *path = scratch_path("torn");
    size_t bytes, left;
    append_records(path, 0, 3);
    char *full = scratch_get(path, &bytes);
    for (size_t length = 0; length <= bytes; length++) {
        int whole = 0;
        size_t end = 0;
        for (size_t i = 0; i < length; i++)
            if (full[i] == '\n') whole++, end = i + 1;
        scratch_put("torn", full, length);
        assert_records(path, whole);
        free(scratch_get(path, &left));
        assert_int_equal(left, end);
    }
    scratch_put("torn", full, bytes - 5);
    append_records(path, 2, 4);
    assert_records(path, 6);
    free(full);
}

/* One flipped bit anywhere: in the last line it is cut off, before that it is refused with the number of the line. */
static void test_damage_at_every_byte(void **state) {
    const char *path = scratch_path("damaged");
    size_t bytes, last;
    append_records(path, 0, 3);
    char *full = scratch_get(path, &bytes);
    for (last = bytes - 1; full[last - 1] != '\n'; last--) continue;
    int line = 1;
    for (size_t i = 0; i < bytes; i++) {
        flrq_journal *journal;
        json_t *records;
        full[i] ^= 1;
        scratch_put("damaged", full, bytes);
        flrq_status status = flrq_journal_open(&journal, path, &records);
        if (i < last - 1) {
            char text[64];
            snprintf(text, sizeof text, "line %d is damaged", line);
            assert_failure(status, FLRQ_ERR_FORMAT, text);
            assert_null(journal);
            assert_null(records);
        } else { /* without the newline before the last line, both lines are one torn line */
            assert_ok(status);
            flrq_journal_close(journal);
            json_decref(records);
            assert_records(path, i >= last ? 2 : 1);
        }
        full[i] ^= 1;
        if (full[i] == '\n') line++;
    }
    free(full);
}

static void put_lines(const char *name, const char *const *texts, int n) {
    char all[1000] = "";
    for (int i = 0; i < n; i++) strcat(all, texts[i]);
    scratch_put(name, all, strlen(all));
}

/* Lines that are whole but wrong: a right checksum does not make a record of what is none. */
static void test_foreign_files(void **state) {
    flrq_journal *journal;
    json_t *records;
    char zeros[4096] = {0};
    const char *path = scratch_put("foreign", "just some text\nthat is no journal\n", 34);
    assert_failure(flrq_journal_open(&journal, path, &records), FLRQ_ERR_FORMAT, "foreign: line 1 is damaged");
    put_lines("foreign", (const char *const[]){"[1]\t7e22e688c546b965\n", "{}\t0000000000000000\n"}, 2);
    assert_failure(flrq_journal_open(&journal, path, &records), FLRQ_ERR_FORMAT, "line 1 is not a JSON object");
    put_lines("foreign", (const char *const[]){"\n", "\n"}, 2);
    assert_failure(flrq_journal_open(&journal, path, &records), FLRQ_ERR_FORMAT, "line 1 is damaged");
    /* After a power loss the end may be blocks of zeros that were reserved and never written. */
    path = scratch_path("zeros");
    append_records(path, 0, 1);
    FILE *file = fopen(path, "ab");
    fwrite(zeros, 1, sizeof zeros, file);
    fclose(file);
    assert_records(path, 1);
    assert_failure(flrq_journal_open(&journal, scratch_path("no/journal"), &records), FLRQ_ERR_IO, "cannot open");
    assert_null(journal);
    assert_failure(flrq_journal_open(&journal, scratch_dir, &records), FLRQ_ERR_IO, "Is a directory");
}

static void test_only_objects(void **state) {
    flrq_journal *journal;
    json_t *records, *array = json_array();
    assert_ok(flrq_journal_open(&journal, scratch_path("objects"), &records));
    assert_failure(flrq_journal_append(journal, array), FLRQ_ERR_INTERNAL, "not a JSON object");
    flrq_journal_close(journal);
    json_decref(records);
    json_decref(array);
    assert_records(scratch_path("objects"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_and_reopen),  cmocka_unit_test(test_line_format),
        cmocka_unit_test(test_torn_at_every_byte), cmocka_unit_test(test_damage_at_every_byte),
        cmocka_unit_test(test_foreign_files),      cmocka_unit_test(test_only_objects),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
