/* scratch.h - a folder of its own for each test program, and the checks that the io tests share.
 *
 * Include once per program. scratch_open / scratch_close are cmocka group fixtures; the folder is removed with
 * everything in it.
 */
#ifndef FLRQ_TESTS_IO_SCRATCH_H
#define FLRQ_TESTS_IO_SCRATCH_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

static char scratch_dir[256];

static int scratch_open(void **state) {
    const char *base = getenv("TMPDIR");
    (void)state;
    snprintf(scratch_dir, sizeof scratch_dir, "%s/flrq-test-XXXXXX", base && *base ? base : P_tmpdir);
    return mkdtemp(scratch_dir) ? 0 : -1;
}

static inline int scratch_remove_entry(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

static inline void scratch_remove(const char *path) {
    nftw(path, scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static int scratch_close(void **state) {
    (void)state;
    scratch_remove(scratch_dir);
    return 0;
}

/* Path of a name in the folder; the last eight results stay valid. */
static inline const char *scratch_path(const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_dir, name);
    return path;
}

/* Creates or replaces a file. */
static inline const char *scratch_put(const char *name, const void *data, size_t bytes) {
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* Whole content of a file (free()), read without the code under test. */
static inline char *scratch_get(const char *path, size_t *bytes) {
    struct stat st;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &st), 0);
    char *data = malloc((size_t)st.st_size + 1);
    assert_non_null(data);
    *bytes = fread(data, 1, (size_t)st.st_size + 1, file);
    assert_int_equal(*bytes, st.st_size);
    data[*bytes] = 0;
    fclose(file);
    return data;
}

/* Number of entries of a folder, "." and ".." apart: to see that nothing was left behind. */
static inline int scratch_entries(const char *dir) {
    int n = 0;
    DIR *open_dir = opendir(dir);
    assert_non_null(open_dir);
    while (readdir(open_dir)) n++;
    closedir(open_dir);
    return n - 2;
}

/* The call must fail with `wanted`, and its text must be one line that holds `text`. */
static inline void check_failure(flrq_status status, flrq_status wanted, const char *text, const char *file, int line) {
    const char *error = flrq_last_error();
    if (status != wanted || !strstr(error, text) || strchr(error, '\n')) {
        print_error("%s:%d: status %s, wanted %s; text \"%s\", wanted \"%s\"\n", file, line, flrq_status_name(status),
                    flrq_status_name(wanted), error, text);
        fail();
    }
}
#define assert_failure(call, wanted, text) check_failure(call, wanted, text, __FILE__, __LINE__)

static inline void check_ok(flrq_status status, const char *file, int line) {
    if (status != FLRQ_OK) {
        print_error("%s:%d: %s: %s\n", file, line, flrq_status_name(status), flrq_last_error());
        fail();
    }
}
#define assert_ok(call) check_ok(call, __FILE__, __LINE__)

#endif
