/* test_process.c - other programs: what they say, how they end, and those that do not end. */
#include "io/scratch.h"
#include "io/process.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static double seconds = 30;

static void run(flrq_process *p, const char *const *argv) {
    assert_ok(flrq_process_run(p, argv, seconds));
}

static void test_arguments_are_no_shell_words(void **state) {
    const char *const argv[] = {"printf", "%s|", "$(touch x)", "a b", "*", "", "'\"\\", NULL};
    flrq_process p;
    run(&p, argv);
    assert_string_equal(p.out, "$(touch x)|a b|*||'\"\\|");
    assert_string_equal(p.err, "");
    assert_int_equal(p.code, 0);
    flrq_process_free(&p);
    flrq_process_free(&p); /* zeroed now */
}

static void test_streams_and_codes(void **state) {
    flrq_process p;
    run(&p, (const char *const[]){"sh", "-c", "echo out; echo err >&2; exit 7", NULL});
    assert_string_equal(p.out, "out\n");
    assert_string_equal(p.err, "err\n");
    assert_int_equal(p.code, 7);
    flrq_process_free(&p);
    run(&p, (const char *const[]){"sh", "-c", "kill -9 $$", NULL});
    assert_int_equal(p.code, 128 + SIGKILL);
    flrq_process_free(&p);
    run(&p, (const char *const[]){"cat", NULL}); /* there is no input */
    assert_string_equal(p.out, "");
    assert_int_equal(p.code, 0);
    flrq_process_free(&p);
}

/* The program ignores SIGPIPE and may be in a handler; what it starts must not inherit that. */
static void test_signals_are_default(void **state) {
    flrq_process p;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    run(&p, (const char *const[]){"sh", "-c", "kill -PIPE $$; echo ignored", NULL});
    assert_int_equal(p.code, 128 + SIGPIPE);
    flrq_process_free(&p);
    run(&p, (const char *const[]){"sh", "-c", "kill -TERM $$; echo blocked", NULL});
    assert_int_equal(p.code, 128 + SIGTERM);
    flrq_process_free(&p);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    signal(SIGPIPE, SIG_DFL);
}

static void test_much_output(void **state) {
    flrq_process p;
    run(&p, (const char *const[]){"sh", "-c",
                                  "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr "
                                  "'\\0' y >&2; exit 3",
                                  NULL});
    assert_int_equal(p.code, 3);
    assert_in_range(strlen(p.out), 500000, 1 << 20);
    assert_in_range(strlen(p.err), 500000, 1 << 20);
    assert_int_equal(strspn(p.out, "x"), strlen(p.out));
    flrq_process_free(&p);
}

static void test_programs_that_cannot_be_run(void **state) {
    flrq_process p;
    const char *plain = scratch_path("plain");
    FILE *f = fopen(plain, "w");
    fputs("text\n", f);
    fclose(f);
    assert_failure(flrq_process_run(&p, (const char *const[]){"no-such-program", NULL}, 1), FLRQ_ERR_UNSUPPORTED,
                   "no-such-program: not found in PATH");
    assert_null(p.out);
    assert_failure(flrq_process_run(&p, (const char *const[]){plain, NULL}, 1), FLRQ_ERR_IO, "cannot be run");
    flrq_process_free(&p);
}

static void test_programs_that_do_not_end(void **state) {
    flrq_process p;
    assert_failure(flrq_process_run(&p, (const char *const[]){"sleep", "60", NULL}, 0.2), FLRQ_ERR_IO,
                   "sleep did not end within 0.2 s");
    assert_failure(flrq_process_run(&p, (const char *const[]){"sh", "-c", "exec >&- 2>&-; exec sleep 60", NULL}, 0.2),
                   FLRQ_ERR_IO, "did not end");
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* none is left, not as a zombie either */
    assert_int_equal(errno, ECHILD);
}

static void test_no_descriptor_is_left(void **state) {
    int before = dup(0), after;
    close(before);
    for (int i = 0; i < 20; i++) {
        flrq_process p;
        if (i % 2)
            (void)flrq_process_run(&p, (const char *const[]){"no-such-program", NULL}, 1);
        else
            run(&p, (const char *const[]){"true", NULL});
        flrq_process_free(&p);
    }
    after = dup(0);
    close(after);
    assert_int_equal(before, after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments_are_no_shell_words), cmocka_unit_test(test_streams_and_codes),
        cmocka_unit_test(test_signals_are_default),          cmocka_unit_test(test_much_output),
        cmocka_unit_test(test_programs_that_cannot_be_run),  cmocka_unit_test(test_programs_that_do_not_end),
        cmocka_unit_test(test_no_descriptor_is_left),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
