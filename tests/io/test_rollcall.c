/* test_rollcall.c - meeting, sharing, watching, failing and leaving, by processes and within one.
 *
 * Deaths and hangs need processes: they are forked, report through files, and are killed or stopped. The rest uses
 * several roll calls of one process, which the locks allow, so that the order of things is the test's to choose. No
 * time is asserted; loops end after PATIENCE seconds, which only a failing test reaches.
 */
#include "io/scratch.h"
#include "io/file.h"
#include "io/rollcall.h"
#include "io/rollcall_entry.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { PATIENCE = 60, WORKERS_MAX = 40 };

/* scratch_path() for longer than eight calls. */
#define FOLDER(variable, name)                                                                                         \
    char variable[400];                                                                                                \
    snprintf(variable, sizeof variable, "%s/%s", scratch_dir, name)

/* ---- a file system without links, or without locks --------------------------------------------------------------- */

static bool no_links, no_locks;

int link(const char *from, const char *to) {
    if (no_links) return errno = EPERM, -1;
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int fcntl(int fd, int command, ...) {
    va_list args;
    va_start(args, command);
    void *argument = va_arg(args, void *); /* an integer or a pointer: either way one machine word */
    va_end(args);
    if (no_locks && (command == F_OFD_SETLK || command == F_OFD_GETLK)) return errno = ENOLCK, -1;
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

/* ---- roll calls of one process ----------------------------------------------------------------------------------- */

typedef struct member {
    const char *dir, *nonce;
    int rank, size;
    double timeout;
    flrq_rollcall *rollcall;
    flrq_status status;
    char text[2048];
} member;

static void *join_one(void *arg) {
    member *m = arg;
    char device[16];
    snprintf(device, sizeof device, "cuda:%d", m->rank);
    m->status = flrq_rollcall_join(&m->rollcall, m->dir, m->nonce, m->rank, m->size, device, m->timeout);
    snprintf(m->text, sizeof m->text, "%s", flrq_last_error());
    return NULL;
}

/* Those of `size` workers for which bit r of `who` is set join; one thread each, as joining waits. */
static void join_some(member *members, const char *dir, const char *nonce, int size, uint64_t who, double timeout) {
    pthread_t threads[WORKERS_MAX];
    for (int r = 0; r < size; r++) {
        if (!(who >> r & 1)) continue;
        members[r] = (member){.dir = dir, .nonce = nonce, .rank = r, .size = size, .timeout = timeout};
        assert_int_equal(pthread_create(&threads[r], NULL, join_one, &members[r]), 0);
    }
    for (int r = 0; r < size; r++)
        if (who >> r & 1) pthread_join(threads[r], NULL);
}

static void join_all(member *members, const char *dir, const char *nonce, int size) {
    join_some(members, dir, nonce, size, (uint64_t)-1, PATIENCE);
    for (int r = 0; r < size; r++) {
        if (members[r].status != FLRQ_OK) print_error("worker %d: %s\n", r, members[r].text);
        assert_int_equal(members[r].status, FLRQ_OK);
    }
}

/* Rank 0 is the last. */
static void leave_all(member *members, int size) {
    for (int r = size - 1; r >= 0; r--) flrq_rollcall_leave(members[r].rollcall);
}

/* Looks until there is something else to see than FLRQ_OK. */
static flrq_status watch_long(flrq_rollcall *rollcall) {
    time_t end = time(NULL) + PATIENCE;
    flrq_status status = FLRQ_OK;
    while (status == FLRQ_OK && time(NULL) < end) {
        usleep(20000);
        status = flrq_rollcall_watch(rollcall);
    }
    return status;
}

/* Looks for so long that all files have been looked at. */
static void watch_in_peace(flrq_rollcall *rollcall) {
    for (int i = 0; i < 3; i++) {
        usleep(210000);
        assert_ok(flrq_rollcall_watch(rollcall));
    }
}

/* The folder of the only start that there is. */
static const char *start_folder(const char *dir) {
    static char path[512];
    DIR *d = opendir(dir);
    assert_non_null(d);
    path[0] = 0;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
    closedir(d);
    assert_true(path[0]);
    return path;
}

static const char *in_start(const char *dir, const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", start_folder(dir), name);
    return path;
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

typedef struct crew {
    const char *dir;
    int size;
    pid_t pid[WORKERS_MAX];
} crew;

/* What the process of one worker does after it joined. */
typedef flrq_status (*job_fn)(flrq_rollcall *rollcall, int rank, int size);

static void report(int rank, const char *stage, const char *text) {
    char name[64];
    snprintf(name, sizeof name, "%s-%d", stage, rank);
    if (flrq_file_write(scratch_path(name), text, strlen(text)) != FLRQ_OK) _exit(9);
}

static void worker_main(const char *dir, int rank, int size, job_fn job) {
    char device[16], line[2200];
    flrq_rollcall *rollcall;
    snprintf(device, sizeof device, "cuda:%d", rank);
    flrq_status status = flrq_rollcall_join(&rollcall, dir, "crew", rank, size, device, PATIENCE);
    if (status == FLRQ_OK) status = job(rollcall, rank, size);
    snprintf(line, sizeof line, "%s: %s", flrq_status_name(status), status == FLRQ_OK ? "" : flrq_last_error());
    report(rank, "end", line);
    flrq_rollcall_leave(rollcall);
    _exit(0);
}

static void crew_start(crew *c, const char *dir, int size, job_fn job) {
    *c = (crew){.dir = dir, .size = size};
    for (int r = 0; r < size; r++) {
        char name[64];
        snprintf(name, sizeof name, "end-%d", r);
        unlink(scratch_path(name));
        snprintf(name, sizeof name, "ready-%d", r);
        unlink(scratch_path(name));
        c->pid[r] = fork();
        if (c->pid[r] == 0) worker_main(dir, r, size, job);
    }
}

static void await_report(int rank, const char *stage) {
    char name[64];
    time_t end = time(NULL) + PATIENCE;
    snprintf(name, sizeof name, "%s-%d", stage, rank);
    while (!flrq_path_exists(scratch_path(name)) && time(NULL) < end) usleep(5000);
    assert_true(flrq_path_exists(scratch_path(name)));
}

/* All but `lost` must end with that report. Returns the report of the last one; may be called again. */
static const char *crew_end(crew *c, int lost, const char *wanted) {
    static char line[2300];
    for (int r = 0; r < c->size; r++) {
        char name[64];
        int result;
        size_t bytes;
        pid_t waited = waitpid(c->pid[r], &result, 0); /* -1: has been waited for */
        if (r == lost) continue;
        assert_true(waited < 0 || (WIFEXITED(result) && WEXITSTATUS(result) == 0));
        snprintf(name, sizeof name, "end-%d", r);
        char *text = scratch_get(scratch_path(name), &bytes);
        if (!strstr(text, wanted) || strchr(text, '\n')) {
            print_error("worker %d: \"%s\", wanted \"%s\"\n", r, text, wanted);
            fail();
        }
        snprintf(line, sizeof line, "%s", text);
        free(text);
    }
    return line;
}

static const char *host(void) {
    static char name[256];
    gethostname(name, sizeof name - 1);
    return name;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static flrq_status share_and_check(flrq_rollcall *rollcall, int rank, int size) {
    unsigned char data[4096];
    for (int round = 0; round < 3; round++) {
        size_t bytes = round == 0 ? 128 : round == 1 ? 0 : sizeof data;
        memset(data, rank ? 0xee : 10 + round, sizeof data);
        FLRQ_TRY(flrq_rollcall_share(rollcall, data, bytes));
        for (size_t i = 0; i < sizeof data; i++)
            if (data[i] != (i < bytes || !rank ? 10 + round : 0xee))
                return flrq_fail(FLRQ_ERR_INTERNAL, "round %d: byte %zu is %d", round, i, data[i]);
    }
    flrq_rollcall_doing(rollcall, 1, "testing");
    return flrq_rollcall_watch(rollcall);
}

static void test_meet_share_leave(void **state) {
    static const int sizes[] = {1, 2, 3, 8};
    for (int s = 0; s < 4; s++) {
        FOLDER(dir, "new/workers");
        crew c;
        crew_start(&c, dir, sizes[s], share_and_check);
        crew_end(&c, -1, "ok: ");
        assert_false(flrq_path_exists(dir));
        assert_true(flrq_path_exists(scratch_path("new")));
        assert_int_equal(rmdir(scratch_path("new")), 0); /* empty */
    }
}

static void test_missing_workers(void **state) {
    static const struct {
        int size;
        uint64_t who;
        const char *text;
    } cases[] = {{8, 0x17, "workers 3, 5-7 of 8 have not come within 2 s; check that every task sees "},
                 {2, 1, "worker 1 of 2 has not come within 2 s; check that every task sees "},
                 {3, 6, "worker 0 of 3 has not come within 2 s; check that every task sees "},
                 {12, 0x555, "workers 1, 3, 5, 7, 9, 11 of 12 have not come within 2 s"}};
    FOLDER(dir, "missing");
    member m[WORKERS_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char nonce[16];
        snprintf(nonce, sizeof nonce, "missing %zu", i);
        join_some(m, dir, nonce, cases[i].size, cases[i].who, 2);
        for (int r = 0; r < cases[i].size; r++) {
            if (!(cases[i].who >> r & 1)) continue;
            assert_int_equal(m[r].status, FLRQ_ERR_PEER);
            if (!strstr(m[r].text, cases[i].text)) print_error("%s\n", m[r].text);
            assert_non_null(strstr(m[r].text, cases[i].text));
            assert_null(m[r].rollcall);
        }
    }
    scratch_remove(dir);
}

/* So many that not all can be named. */
static void test_long_list_of_missing_workers(void **state) {
    FOLDER(dir, "many");
    flrq_rollcall *rollcall;
    assert_failure(flrq_rollcall_join(&rollcall, dir, "n", 0, 99999, "cpu", 0.1), FLRQ_ERR_PEER,
                   "workers 1-99998 of 99999 have not come");
    assert_failure(flrq_rollcall_join(&rollcall, dir, "n", 0, 0, "cpu", 1), FLRQ_ERR_USAGE, "worker 0 of 0");
    assert_failure(flrq_rollcall_join(&rollcall, dir, "n", 2, 2, "cpu", 1), FLRQ_ERR_USAGE, "worker 2 of 2");
    assert_failure(flrq_rollcall_join(&rollcall, dir, "n", -1, 2, "cpu", 1), FLRQ_ERR_USAGE, "worker -1 of 2");
    assert_failure(flrq_rollcall_join(&rollcall, dir, "n", 0, 100000, "cpu", 1), FLRQ_ERR_USAGE, "worker 0 of 100000");
    scratch_remove(dir);
}

static flrq_status wait_for_the_end(flrq_rollcall *rollcall, int rank, int size) {
    flrq_rollcall_doing(rollcall, 4, "quantize");
    report(rank, "ready", "");
    return watch_long(rollcall);
}

static void test_killed_worker(void **state) {
    FOLDER(dir, "killed");
    char wanted[512];
    for (int lost = 0; lost < 3; lost++) {
        crew c;
        crew_start(&c, dir, 3, wait_for_the_end);
        for (int r = 0; r < 3; r++) await_report(r, "ready");
        kill(c.pid[lost], SIGKILL);
        snprintf(wanted, sizeof wanted,
                 "peer: worker %d of 3 (host %s, process %ld, cuda:%d), block 4, quantize: died without a word", lost,
                 host(), (long)c.pid[lost], lost);
        crew_end(&c, lost, wanted);
        scratch_remove(dir);
    }
}

/* Killed while rank 0 waits for a worker that will not come. */
static void test_killed_while_meeting(void **state) {
    FOLDER(dir, "killed-early");
    char *file = NULL;
    flrq_entry entry;
    crew c = {.dir = dir, .size = 3};
    for (int r = 0; r < 2; r++) {
        c.pid[r] = fork();
        if (c.pid[r] == 0) worker_main(dir, r, 3, wait_for_the_end);
    }
    c.size = 2;
    while (!flrq_path_exists(dir) || !scratch_entries(dir) || access(in_start(dir, "worker-00001"), F_OK) != 0)
        usleep(1000);
    file = strdup(in_start(dir, "worker-00001"));
    while (flrq_entry_read(file, &entry) != FLRQ_ENTRY_HELD || entry.size != 3) usleep(1000);
    usleep(500000); /* until rank 0 has seen it */
    kill(c.pid[1], SIGKILL);
    crew_end(&c, 1, ", cuda:1): died without a word");
    free(file);
    scratch_remove(dir);
}

static flrq_status two_fail(flrq_rollcall *rollcall, int rank, int size) {
    char text[64];
    flrq_rollcall_doing(rollcall, rank, "pack");
    if (rank < 2) {
        snprintf(text, sizeof text, "file out-%d: No space left on device", rank);
        flrq_rollcall_fail(rollcall, rank ? FLRQ_ERR_IO : FLRQ_ERR_NUMERIC, text);
    }
    return watch_long(rollcall);
}

/* All, also those that failed, hear of the same failure. */
static void test_first_failure_counts(void **state) {
    FOLDER(dir, "failing");
    for (int round = 0; round < 5; round++) {
        crew c;
        char wanted[512];
        crew_start(&c, dir, 8, two_fail);
        int first = strstr(crew_end(&c, -1, "No space left on device"), "out-0") ? 0 : 1;
        snprintf(wanted, sizeof wanted,
                 "%s: worker %d of 8 (host %s, process %ld, cuda:%d), block %d, pack: file out-%d: No space left",
                 first ? "io" : "numeric", first, host(), (long)c.pid[first], first, first, first);
        crew_end(&c, -1, wanted);
        scratch_remove(dir);
    }
}

static void test_failure_without_links(void **state) {
    FOLDER(dir, "linkless");
    member m[WORKERS_MAX];
    join_all(m, dir, "a", WORKERS_MAX); /* more than one look takes in */
    no_links = true;
    flrq_rollcall_fail(m[23].rollcall, FLRQ_ERR_MEMORY, "out of memory");
    assert_false(flrq_path_exists(in_start(dir, "failed")));
    for (int r = 0; r < WORKERS_MAX; r += 13)
        assert_failure(watch_long(m[r].rollcall), FLRQ_ERR_MEMORY, "cuda:23): out of memory");
    leave_all(m, WORKERS_MAX);
    no_links = false;
    scratch_remove(dir);
}

static void test_failure_texts(void **state) {
    FOLDER(dir, "texts");
    member m[2];
    char *text = malloc(6000);
    memset(text, 'x', 5999);
    text[5999] = 0;
    memcpy(text, "one\ntwo\x1b[2J\tthree\x7f", 18);
    join_all(m, dir, "a", 2);
    flrq_fail(FLRQ_ERR_SHAPE, "the text of this thread");
    flrq_rollcall_doing(m[1].rollcall, -1, "read\nmodel");
    flrq_rollcall_fail(m[1].rollcall, FLRQ_ERR_SHAPE, text);
    flrq_rollcall_fail(m[1].rollcall, FLRQ_ERR_IO, "a second word");
    assert_string_equal(flrq_last_error(), "the text of this thread");
    assert_failure(watch_long(m[0].rollcall), FLRQ_ERR_SHAPE, "cuda:1), read model: one two [2J three xxx");
    assert_true(strlen(flrq_last_error()) < 2000 && strlen(flrq_last_error()) > 1400);
    for (const char *c = flrq_last_error(); *c; c++) assert_true((unsigned char)*c >= 0x20 && *c != 0x7f);
    flrq_fail(FLRQ_ERR_SHAPE, "the text of this thread");
    leave_all(m, 2);
    assert_string_equal(flrq_last_error(), "the text of this thread");
    flrq_rollcall_leave(NULL);
    assert_false(flrq_path_exists(dir)); /* all had gone when rank 0 left */
    free(text);
}

/* What the files say may be anything. */
static void test_garbage(void **state) {
    static const char *const garbage[] = {"", "flrq worker 1 of", "\n\n\n\n", "flrq worker 1 of 99999999999999999999\n",
                                          "flrq worker 1 of 3\nhost \x1b]0;x\x07\nprocess x\ndevice\n"};
    FOLDER(dir, "garbage");
    unsigned char noise[5000];
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (unsigned char)(i * 193 >> 3);
    for (size_t g = 0; g <= sizeof garbage / sizeof *garbage; g++) {
        member m[3];
        flrq_entry entry;
        char *file;
        join_all(m, dir, "a", 3);
        file = strdup(in_start(dir, "worker-00001"));
        FILE *f = fopen(file, "wb");
        if (g == 0)
            fwrite(noise, 1, sizeof noise, f);
        else
            fputs(garbage[g - 1], f);
        fclose(f);
        assert_int_equal(flrq_entry_read(file, &entry), FLRQ_ENTRY_HELD);
        watch_in_peace(m[0].rollcall);
        assert_failure(flrq_rollcall_timeout(m[0].rollcall, 1), FLRQ_ERR_PEER,
                       "no answer within 1 s; all workers show");
        for (const char *c = flrq_last_error(); *c; c++) assert_true((unsigned char)*c >= 0x20 && *c != 0x7f);
        flrq_rollcall_fail(m[1].rollcall, FLRQ_ERR_IO, "a word"); /* rewrites what it is doing, not who it is */
        assert_failure(watch_long(m[2].rollcall), FLRQ_ERR_IO, ": a word");
        leave_all(m, 3);
        assert_false(flrq_path_exists(dir));
        free(file);
    }
    /* A "failed" that is nobody's. */
    member m[2];
    join_all(m, dir, "a", 2);
    FILE *f = fopen(in_start(dir, "failed"), "wb");
    fprintf(f, "%*s%*sfailed 77 \x1b!\n", 512, "\n", 512, "\n");
    fclose(f);
    assert_failure(watch_long(m[0].rollcall), FLRQ_ERR_PEER, "worker 0 of 2: !");
    leave_all(m, 2);
    scratch_remove(dir);
}

/* Unlocked files in the place of workers: not there until their worker has come, who takes the file over. */
static void test_files_in_the_way(void **state) {
    FOLDER(dir, "in-the-way");
    member m[2];
    flrq_rollcall *rollcall;
    char file[700];
    join_all(m, dir, "a", 2);
    snprintf(file, sizeof file, "%s", in_start(dir, "worker-00001"));
    flrq_rollcall_fail(m[1].rollcall, FLRQ_ERR_IO, "first start");
    flrq_rollcall_leave(m[1].rollcall);
    assert_int_equal(unlink(in_start(dir, "all-here")), 0);
    assert_int_equal(unlink(in_start(dir, "failed")), 0);
    join_some(m, dir, "a", 2, 2, 0.2); /* rank 0 is still there, and has no second word */
    assert_int_equal(m[1].status, FLRQ_ERR_PEER);
    assert_int_equal(unlink(in_start(dir, "failed")), 0);
    flrq_rollcall_leave(m[0].rollcall);
    scratch_remove(dir);
    /* Not files at all. */
    assert_int_equal(mkdir(dir, 0700), 0);
    *strrchr(file, '/') = 0;
    assert_int_equal(mkdir(file, 0700), 0);
    strcat(file, "/worker-00001");
    assert_int_equal(mkdir(file, 0700), 0);
    assert_failure(flrq_rollcall_join(&rollcall, dir, "a", 1, 2, "cpu", 1), FLRQ_ERR_IO, "worker-00001: cannot create");
    rmdir(file);
    assert_int_equal(symlink(scratch_put("victim", "x", 1), file), 0);
    assert_failure(flrq_rollcall_join(&rollcall, dir, "a", 1, 2, "cpu", 1), FLRQ_ERR_IO, "worker-00001: cannot create");
    assert_failure(flrq_rollcall_join(&rollcall, dir, "a", 0, 2, "cpu", 0.1), FLRQ_ERR_PEER,
                   "worker 1 of 2 has not come");
    unlink(file);
    assert_int_equal(mkfifo(file, 0600), 0); /* opening it must not wait */
    flrq_entry entry;
    flrq_entry_read(file, &entry);
    assert_int_equal(entry.size, 0);
    scratch_remove(dir);
}

static void test_bad_folders(void **state) {
    flrq_rollcall *rollcall;
    assert_failure(flrq_rollcall_join(&rollcall, scratch_put("file", "x", 1), "a", 0, 1, "cpu", 1), FLRQ_ERR_IO,
                   "a file of that name is in the way");
    assert_null(rollcall);
    assert_failure(flrq_rollcall_join(&rollcall, scratch_path("no/such/folder"), "a", 0, 1, "cpu", 1), FLRQ_ERR_IO,
                   "/no/such: cannot create");
    assert_failure(flrq_rollcall_join(&rollcall, "/proc/self", "a", 0, 1, "cpu", 1), FLRQ_ERR_IO, "cannot create");
    assert_failure(flrq_rollcall_join(&rollcall, "", "a", 0, 1, "cpu", 1), FLRQ_ERR_IO, "cannot create");
    no_locks = true;
    flrq_status status = flrq_rollcall_join(&rollcall, scratch_path("lockless"), "a", 0, 1, "cpu", 1);
    no_locks = false;
    assert_failure(status, FLRQ_ERR_IO, "the file system refuses locks (Lustre: mount with -o flock)");
    scratch_remove(scratch_path("lockless"));
}

static void test_same_rank_twice(void **state) {
    FOLDER(dir, "twice");
    char wanted[512];
    member m[2];
    flrq_rollcall *rollcall;
    join_all(m, dir, "a", 2);
    snprintf(wanted, sizeof wanted, "worker 1 of 2 (host %s, process %ld, cuda:1) is here already", host(),
             (long)getpid());
    assert_failure(flrq_rollcall_join(&rollcall, dir, "a", 1, 2, "cpu", 1), FLRQ_ERR_BUSY, wanted);
    watch_in_peace(m[0].rollcall);
    leave_all(m, 2);
}

static void test_other_size(void **state) {
    FOLDER(dir, "other-size");
    pthread_t thread;
    member m = {.dir = dir, .nonce = "a", .rank = 1, .size = 3, .timeout = PATIENCE};
    flrq_rollcall *rollcall;
    assert_int_equal(pthread_create(&thread, NULL, join_one, &m), 0);
    assert_failure(flrq_rollcall_join(&rollcall, dir, "a", 0, 2, "cpu", PATIENCE), FLRQ_ERR_USAGE,
                   "cuda:1) says that it is number 1 of 3; start all with the same number");
    pthread_join(thread, NULL);
    assert_int_equal(m.status, FLRQ_ERR_USAGE);
    assert_non_null(strstr(m.text, "says that it is number 1 of 3"));
    scratch_remove(dir);
}

static flrq_status sleep_for_ever(flrq_rollcall *rollcall, int rank, int size) {
    report(rank, "ready", "");
    for (;;) pause();
    return FLRQ_OK;
}

/* What is left of a start that was killed does not count, and goes; one that lives is not touched. */
static void other_starts(bool sweep) {
    FOLDER(dir, "starts");
    char living[600], dead[600];
    member m[2], n[3];
    crew c;
    join_all(m, dir, "living", 2);
    snprintf(living, sizeof living, "%s", start_folder(dir));
    rename(living, scratch_path("aside")); /* so that start_folder() finds the other one */
    crew_start(&c, dir, 2, sleep_for_ever);
    for (int r = 0; r < 2; r++) await_report(r, "ready");
    snprintf(dead, sizeof dead, "%s", start_folder(dir));
    rename(scratch_path("aside"), living);
    for (int r = 0; r < 2; r++) {
        kill(c.pid[r], SIGKILL);
        waitpid(c.pid[r], NULL, 0);
    }
    assert_true(flrq_path_exists(dead));
    if (sweep) {
        flrq_rollcall_sweep(dir);
        assert_false(flrq_path_exists(dead));
        assert_true(flrq_path_exists(living));
    }
    scratch_put("starts/notes.txt", "x", 1); /* somebody's */
    join_all(n, dir, "new", 3);
    assert_false(flrq_path_exists(dead));
    assert_true(flrq_path_exists(living));
    watch_in_peace(m[0].rollcall);
    watch_in_peace(n[0].rollcall);
    flrq_rollcall_fail(n[1].rollcall, FLRQ_ERR_IO, "only here");
    assert_failure(watch_long(n[2].rollcall), FLRQ_ERR_IO, "only here");
    watch_in_peace(m[1].rollcall);
    leave_all(n, 3);
    watch_in_peace(m[1].rollcall);
    leave_all(m, 2);
    assert_int_equal(scratch_entries(dir), 1);
    flrq_rollcall_sweep(dir);
    assert_true(flrq_path_exists(dir)); /* there is somebody's file in it */
    scratch_remove(dir);
    flrq_rollcall_sweep(dir); /* nothing to do */
}

static void test_other_starts(void **state) {
    other_starts(false);
    other_starts(true);
}

/* Starts come and go in one folder while each cleans up after the dead. */
static void test_starts_at_once(void **state) {
    enum { STARTS = 4, ROUNDS = 15 };
    FOLDER(dir, "at-once");
    pid_t children[STARTS];
    for (int s = 0; s < STARTS; s++) {
        children[s] = fork();
        if (children[s] == 0) {
            for (int round = 0; round < ROUNDS; round++) {
                member m[2];
                char nonce[32];
                snprintf(nonce, sizeof nonce, "%d %d", s, round);
                join_some(m, dir, nonce, 2, 3, PATIENCE);
                if (m[0].status != FLRQ_OK || m[1].status != FLRQ_OK) {
                    print_error("%s / %s\n", m[0].text, m[1].text);
                    _exit(1);
                }
                if (flrq_rollcall_watch(m[0].rollcall) != FLRQ_OK) _exit(2);
                leave_all(m, 2);
            }
            _exit(0);
        }
    }
    for (int s = 0; s < STARTS; s++) {
        int result;
        waitpid(children[s], &result, 0);
        assert_true(WIFEXITED(result));
        assert_int_equal(WEXITSTATUS(result), 0);
    }
    assert_false(flrq_path_exists(dir));
}

static void test_leaving_in_peace(void **state) {
    FOLDER(dir, "peace");
    member m[3];
    join_all(m, dir, "a", 3);
    flrq_rollcall_leave(m[1].rollcall);
    watch_in_peace(m[0].rollcall);
    assert_failure(flrq_rollcall_timeout(m[0].rollcall, 7), FLRQ_ERR_PEER,
                   "no answer within 7 s; all workers show life, furthest behind is worker 2 of 3 (");
    assert_null(strstr(flrq_last_error(), "worker 1 of 3"));
    flrq_rollcall_leave(m[2].rollcall);
    watch_in_peace(m[0].rollcall);
    flrq_rollcall_leave(m[0].rollcall);
    assert_false(flrq_path_exists(dir));
}

static void test_furthest_behind(void **state) {
    FOLDER(dir, "behind");
    member m[8];
    join_all(m, dir, "a", 8);
    for (int step = 0; step < 3; step++)
        for (int r = 0; r < 8; r++)
            if (r != 2 || step < 2) flrq_rollcall_doing(m[r].rollcall, step, step == 1 ? "sketch" : "fit");
    assert_failure(flrq_rollcall_timeout(m[0].rollcall, 600), FLRQ_ERR_PEER,
                   "no answer within 600 s; all workers show life, furthest behind is worker 2 of 8 (");
    assert_non_null(strstr(flrq_last_error(), "cuda:2), block 1, sketch"));
    assert_null(strstr(flrq_last_error(), "worker 3 of 8"));
    flrq_rollcall_doing(m[2].rollcall, 2, "fit");
    assert_failure(flrq_rollcall_timeout(m[0].rollcall, 600), FLRQ_ERR_PEER, "worker 4 of 8 (");
    assert_non_null(strstr(flrq_last_error(), "; and 3 more"));
    leave_all(m, 8);
}

static flrq_status watch_then_time_out(flrq_rollcall *rollcall, int rank, int size) {
    flrq_rollcall_doing(rollcall, 4, "quantize");
    report(rank, "ready", "");
    for (int i = 0; i < 110; i++) {
        usleep(50000);
        FLRQ_TRY(flrq_rollcall_watch(rollcall));
    }
    return flrq_rollcall_timeout(rollcall, 5.5);
}

static void test_hung_worker_is_named(void **state) {
    FOLDER(dir, "hung");
    crew c;
    char wanted[512];
    crew_start(&c, dir, 3, watch_then_time_out);
    for (int r = 0; r < 3; r++) await_report(r, "ready");
    kill(c.pid[1], SIGSTOP);
    snprintf(wanted, sizeof wanted,
             "peer: no answer within 5.5 s; worker 1 of 3 (host %s, process %ld, cuda:1), block 4, "
             "quantize: no sign of life for ",
             host(), (long)c.pid[1]);
    await_report(0, "end");
    await_report(2, "end");
    kill(c.pid[1], SIGKILL);
    assert_null(strstr(crew_end(&c, 1, wanted), "worker 0 of 3"));
    scratch_remove(dir);
}

static void test_share_misuse(void **state) {
    FOLDER(dir, "share");
    member m[2];
    char data[5000] = "";
    join_all(m, dir, "a", 2);
    assert_failure(flrq_rollcall_share(m[0].rollcall, data, 4097), FLRQ_ERR_INTERNAL, "4097 bytes to share");
    assert_ok(flrq_rollcall_share(m[0].rollcall, data, 100));
    assert_failure(flrq_rollcall_share(m[1].rollcall, data, 99), FLRQ_ERR_FORMAT, "100 bytes, 99 were to be shared");
    assert_ok(flrq_rollcall_share(m[0].rollcall, data, 1));
    assert_ok(flrq_rollcall_share(m[1].rollcall, data, 1));
    leave_all(m, 2);
    /* Rank 0 has nothing to say. */
    join_some(m, dir, "b", 2, 3, 0.5);
    assert_int_equal(m[1].status, FLRQ_OK);
    assert_failure(flrq_rollcall_share(m[1].rollcall, data, 1), FLRQ_ERR_PEER, "no answer within 0.5 s; ");
    flrq_rollcall_fail(m[0].rollcall, FLRQ_STOPPED, "stopped by request");
    assert_failure(flrq_rollcall_share(m[1].rollcall, data, 1), FLRQ_STOPPED, "cuda:0): stopped by request");
    leave_all(m, 2);
    /* Rank 0 cannot write. */
    join_all(m, dir, "c", 2);
    assert_int_equal(mkdir(in_start(dir, "shared-0"), 0700), 0);
    assert_failure(flrq_rollcall_share(m[0].rollcall, data, 1), FLRQ_ERR_IO, "shared-0");
    assert_int_equal(rmdir(in_start(dir, "shared-0")), 0);
    leave_all(m, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meet_share_leave),
        cmocka_unit_test(test_missing_workers),
        cmocka_unit_test(test_long_list_of_missing_workers),
        cmocka_unit_test(test_killed_worker),
        cmocka_unit_test(test_killed_while_meeting),
        cmocka_unit_test(test_first_failure_counts),
        cmocka_unit_test(test_failure_without_links),
        cmocka_unit_test(test_failure_texts),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_files_in_the_way),
        cmocka_unit_test(test_bad_folders),
        cmocka_unit_test(test_same_rank_twice),
        cmocka_unit_test(test_other_size),
        cmocka_unit_test(test_other_starts),
        cmocka_unit_test(test_starts_at_once),
        cmocka_unit_test(test_leaving_in_peace),
        cmocka_unit_test(test_furthest_behind),
        cmocka_unit_test(test_hung_worker_is_named),
        cmocka_unit_test(test_share_misuse),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
