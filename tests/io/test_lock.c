/* test_lock.c - one holder per folder: in this process, in another, after a death, and through the race of removal. */
#include "io/scratch.h"
#include "io/file.h"

#include <signal.h>
#include <sys/wait.h>

static char host_and_pid[300];

static const char *holder_text(pid_t pid) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    snprintf(host_and_pid, sizeof host_and_pid, "process %ld on host %s", (long)pid, host);
    return host_and_pid;
}

static void test_second_holder_in_the_same_process(void **state) {
    flrq_lock *first, *second;
    assert_ok(flrq_dir_lock(&first, scratch_dir));
    assert_failure(flrq_dir_lock(&second, scratch_dir), FLRQ_ERR_BUSY, holder_text(getpid()));
    assert_null(second);
    assert_true(flrq_path_exists(scratch_path(".lock")));
    flrq_dir_unlock(first);
    assert_false(flrq_path_exists(scratch_path(".lock")));
    assert_ok(flrq_dir_lock(&second, scratch_dir));
    flrq_dir_unlock(second);
    flrq_dir_unlock(NULL);
}

/* A child that holds the lock until it is killed; returns when the child has it. */
static pid_t holding_child(void) {
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        flrq_lock *lock;
        if (flrq_dir_lock(&lock, scratch_dir) != FLRQ_OK) _exit(1);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return child;
}

static void test_other_process_and_its_death(void **state) {
    flrq_lock *lock;
    pid_t child = holding_child();
    assert_failure(flrq_dir_lock(&lock, scratch_dir), FLRQ_ERR_BUSY, holder_text(child));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_true(flrq_path_exists(scratch_path(".lock"))); /* stale: the dead cannot remove it */
    assert_ok(flrq_dir_lock(&lock, scratch_dir));
    flrq_lock *second;
    assert_failure(flrq_dir_lock(&second, scratch_dir), FLRQ_ERR_BUSY, holder_text(getpid()));
    flrq_dir_unlock(lock);
}

/* The holder's text is not there yet, or is not ours: still a whole sentence, on one line. */
static void test_foreign_text(void **state) {
    static const char *const texts[] = {"", "\n\n", "host-without-pid", "\x1b[2J\nmore"};
    flrq_lock *lock, *second;
    assert_ok(flrq_dir_lock(&lock, scratch_dir));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        scratch_put(".lock", texts[i], strlen(texts[i]));
        assert_failure(flrq_dir_lock(&second, scratch_dir), FLRQ_ERR_BUSY, "another run is using it");
        assert_null(strchr(flrq_last_error(), '\x1b'));
    }
    flrq_dir_unlock(lock);
}

/* The lock file was removed by hand and another run took a new one: the first must not remove the other's. */
static void test_unlock_leaves_a_newer_lock(void **state) {
    flrq_lock *first, *second, *third;
    assert_ok(flrq_dir_lock(&first, scratch_dir));
    assert_int_equal(unlink(scratch_path(".lock")), 0);
    assert_ok(flrq_dir_lock(&second, scratch_dir));
    flrq_dir_unlock(first);
    assert_true(flrq_path_exists(scratch_path(".lock")));
    assert_failure(flrq_dir_lock(&third, scratch_dir), FLRQ_ERR_BUSY, "is using it");
    flrq_dir_unlock(second);
}

/* Many processes take and release the lock as fast as they can; inside, each claims a file exclusively. If two were
 * ever inside at once, the exclusive creation would fail. */
static void test_mutual_exclusion_under_contention(void **state) {
    enum { PROCESSES = 4, ROUNDS = 200 };
    pid_t children[PROCESSES];
    for (int p = 0; p < PROCESSES; p++) {
        children[p] = fork();
        if (children[p] == 0) {
            for (int done = 0; done < ROUNDS;) {
                flrq_lock *lock;
                flrq_status status = flrq_dir_lock(&lock, scratch_dir);
                if (status == FLRQ_ERR_BUSY) {
                    usleep(50);
                    continue;
                }
                if (status != FLRQ_OK) _exit(2);
                int fd = open(scratch_path("inside"), O_CREAT | O_EXCL | O_WRONLY, 0600);
                if (fd < 0) _exit(3);
                close(fd);
                unlink(scratch_path("inside"));
                flrq_dir_unlock(lock);
                done++;
            }
            _exit(0);
        }
    }
    for (int p = 0; p < PROCESSES; p++) {
        int result;
        waitpid(children[p], &result, 0);
        assert_true(WIFEXITED(result));
        assert_int_equal(WEXITSTATUS(result), 0);
    }
}

static void test_folder_that_cannot_be_locked(void **state) {
    flrq_lock *lock;
    assert_failure(flrq_dir_lock(&lock, scratch_path("nowhere")), FLRQ_ERR_IO, "cannot create");
    assert_null(lock);
    assert_failure(flrq_dir_lock(&lock, "/proc/self"), FLRQ_ERR_IO, "/proc/self/.lock: cannot create");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_holder_in_the_same_process),
        cmocka_unit_test(test_other_process_and_its_death),
        cmocka_unit_test(test_foreign_text),
        cmocka_unit_test(test_unlock_leaves_a_newer_lock),
        cmocka_unit_test(test_mutual_exclusion_under_contention),
        cmocka_unit_test(test_folder_that_cannot_be_locked),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
