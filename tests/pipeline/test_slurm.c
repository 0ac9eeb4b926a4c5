/* test_slurm.c - Slurm's spelling of durations, sizes and partitions, and the time that is left of a job. */
#include "io/scratch.h"
#include "pipeline/deadline.h"
#include "pipeline/slurm.h"

#include <math.h>
#include <sys/wait.h>
#include <time.h>

static void test_durations(void **state) {
    static const struct {
        const char *text;
        double seconds;
    } good[] = {
        {"90", 5400},           {"0", 0},           {"2:03", 123},          {"0:07", 7},     {"04:00:00", 14400},
        {"1-0", 86400},         {"1-02:30", 95400}, {"2-01:02:03", 176523}, {"1:2:3", 3723}, {"infinite", INFINITY},
        {"UNLIMITED", INFINITY}};
    static const char *const bad[] = {"",        "x",         "-1",         "1-",      "1:",      ":1",
                                      "1:2:3:4", "1-2-3",     "1 ",         "1.5",     "1h",      "0x10",
                                      "1:2-3",   "1-2:3:4:5", "9999999999", "INVALID", "NOT_SET", "4:00:00am"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (flrq_slurm_seconds(good[i].text) != good[i].seconds) fail_msg("%s", good[i].text);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!isnan(flrq_slurm_seconds(bad[i]))) fail_msg("%s", bad[i]);
}

static void test_sizes(void **state) {
    static const char *const bad[] = {"", "G", "1.5G", "-1", "1GB", "1 G", "4X", "none", "1234567890123456"};
    assert_true(flrq_slurm_bytes("1") == 1048576);
    assert_true(flrq_slurm_bytes("0") == 0);
    assert_true(flrq_slurm_bytes("3K") == 3072);
    assert_true(flrq_slurm_bytes("64G") == 64.0 * 1073741824);
    assert_true(flrq_slurm_bytes("64g") == 64.0 * 1073741824);
    assert_true(flrq_slurm_bytes("2T") == 2199023255552.0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!isnan(flrq_slurm_bytes(bad[i]))) fail_msg("%s", bad[i]);
}

/* As sinfo prints it: the default has a star; a partition has a line for each kind of node. */
static const char cluster[] = "cpu*|up|infinite|100|64|256000|(null)\n"
                              "cpu*|up|infinite|4|128+|1024000+|(null)\n"
                              "gpu|up|2-00:00:00|8|96|2000000|gpu:h100:8(S:0-1),shard:16(S:0)\n"
                              "gpu|up|2-00:00:00|2|64|500000|gpu:a100:4,gpu:t4:2\n"
                              "old|down|1:00:00|1|4|4000|gpu:2\n"
                              "gpu-test|up|30:00|1|8|64000|gpu:1\n";

static void test_partitions(void **state) {
    flrq_slurm_partition p;
    assert_ok(flrq_slurm_partition_parse(&p, NULL, cluster));
    assert_true(isinf(p.seconds));
    assert_int_equal(p.nodes, 104);
    assert_int_equal(p.cpus, 128);
    assert_int_equal(p.gpus, 0);
    assert_true(p.bytes == 1024000.0 * 1048576);
    assert_ok(flrq_slurm_partition_parse(&p, "gpu", cluster));
    assert_true(p.seconds == 172800);
    assert_int_equal(p.nodes, 10);
    assert_int_equal(p.gpus, 8);
    assert_ok(flrq_slurm_partition_parse(&p, "gpu-test,gpu", cluster));
    assert_true(p.seconds == 172800);
    assert_int_equal(p.nodes, 11);
    assert_ok(flrq_slurm_partition_parse(&p, "gpu-test", cluster));
    assert_true(p.seconds == 1800);
    assert_int_equal(p.gpus, 1);
    assert_failure(flrq_slurm_partition_parse(&p, "gp", cluster), FLRQ_ERR_USAGE,
                   "--partition gp does not exist; this cluster has: cpu,gpu,old,gpu-test");
    assert_failure(flrq_slurm_partition_parse(&p, "gpu,nope", cluster), FLRQ_ERR_USAGE, "--partition nope does not");
    assert_failure(flrq_slurm_partition_parse(&p, "", cluster), FLRQ_ERR_USAGE, "does not exist");
    assert_failure(flrq_slurm_partition_parse(&p, "old", cluster), FLRQ_ERR_USAGE, "--partition old is not up");
    assert_failure(flrq_slurm_partition_parse(&p, NULL, "gpu|up|1:00|1|1|1|(null)\n"), FLRQ_ERR_USAGE,
                   "no default partition; name one by --partition: gpu");
    /* Lines that are cut, empty or full of nonsense. */
    assert_ok(flrq_slurm_partition_parse(&p, "a", "\n|||\na\na|up\na|up|x|-|y|z|gpu:\n\n"));
    assert_int_equal(p.gpus, 0);
    assert_failure(flrq_slurm_partition_parse(&p, NULL, ""), FLRQ_ERR_USAGE, "no default partition");
}

/* ---- the time limit; it is found once in a process, so each case is a process of its own ----------------------------
 */

static void write_squeue(const char *body) {
    FILE *f = fopen(scratch_path("squeue"), "w");
    fprintf(f, "#!/bin/sh\necho \"$*\" >%s/asked\n%s\n", scratch_dir, body);
    fclose(f);
    chmod(scratch_path("squeue"), 0700);
}

typedef struct limit {
    const char *job, *end, *squeue; /* environment, and what squeue does */
} limit;

/* 1 when what is left is within 3 s of `left`, and flrq_deadline_near(block) is `near`. */
static int is_left(limit l, double left, double block, int near) {
    write_squeue(l.squeue ? l.squeue : "exit 1");
    pid_t child = fork();
    if (child == 0) {
        unsetenv("SLURM_JOB_ID");
        unsetenv("SLURM_JOB_END_TIME");
        if (l.job) setenv("SLURM_JOB_ID", l.job, 1);
        if (l.end) setenv("SLURM_JOB_END_TIME", l.end, 1);
        char path[600];
        snprintf(path, sizeof path, "%s:%s", scratch_dir, getenv("PATH"));
        setenv("PATH", path, 1);
        int good = flrq_deadline_near(block) == near;
        double found = flrq_seconds_left();
        good &= isinf(left) ? isinf(found) : found <= left && found >= left - 3;
        _exit(good ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static const char *in_seconds(double seconds) {
    static char text[32];
    snprintf(text, sizeof text, "%lld", (long long)time(NULL) + (long long)seconds);
    return text;
}

static void test_time_left(void **state) {
    assert_true(is_left((limit){0}, INFINITY, 1e9, 0));
    assert_true(is_left((limit){.end = "1"}, INFINITY, 1e9, 0)); /* not in a job */
    assert_true(is_left((limit){"7", in_seconds(1000), "exit 1"}, 1000, 0, 0));
    assert_true(is_left((limit){"7", in_seconds(-5), NULL}, 0, 0, 1));
    assert_true(is_left((limit){"7", NULL, "echo 1:02:03"}, 3723, 0, 0));
    assert_true(is_left((limit){"7", NULL, "echo 0:09"}, 9, 0, 0));
    assert_true(is_left((limit){"7", NULL, "echo 0:00"}, 0, 0, 1));
    assert_true(is_left((limit){"7", "soon", "echo '2-00:00:00  '"}, 172800, 100, 0));
    assert_true(is_left((limit){"7", NULL, "echo UNLIMITED"}, INFINITY, 1e9, 0));
    assert_true(is_left((limit){"7", NULL, "echo INVALID"}, INFINITY, 1e9, 0));
    assert_true(is_left((limit){"7", NULL, "echo slurm_load_jobs error >&2; exit 1"}, INFINITY, 1e9, 0));
    assert_true(is_left((limit){"7", NULL, "echo 5; exit 1"}, INFINITY, 1e9, 0));
    /* A job number that is none reaches no command line. */
    unlink(scratch_path("asked"));
    assert_true(is_left((limit){"7; touch x", NULL, "echo 5"}, INFINITY, 1e9, 0));
    assert_int_equal(access(scratch_path("asked"), F_OK), -1);
    assert_true(is_left((limit){"77", NULL, "echo 5"}, 300, 0, 0));
    FILE *f = fopen(scratch_path("asked"), "r");
    char line[128] = "";
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    assert_string_equal(line, "--noheader --format=%L --jobs 77\n");
}

/* A quarter more than the block, and the time of stopping: 60 s in jobs of 20 minutes and more. */
static void test_deadline(void **state) {
    assert_true(flrq_stop_seconds(36000) == 60 && flrq_stop_seconds(INFINITY) == 60);
    assert_true(flrq_stop_seconds(600) == 30);
    assert_true(flrq_stop_seconds(60) == 5 && flrq_stop_seconds(0) == 5);
    assert_true(is_left((limit){"7", in_seconds(2000), NULL}, 2000, 1500, 0));
    assert_true(is_left((limit){"7", in_seconds(2000), NULL}, 2000, 1560, 1));
    assert_true(is_left((limit){"7", in_seconds(100), NULL}, 100, 72, 0));
    assert_true(is_left((limit){"7", in_seconds(100), NULL}, 100, 77, 1));
    assert_true(is_left((limit){"7", in_seconds(4), NULL}, 4, 0, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_durations), cmocka_unit_test(test_sizes),    cmocka_unit_test(test_partitions),
        cmocka_unit_test(test_time_left), cmocka_unit_test(test_deadline),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
