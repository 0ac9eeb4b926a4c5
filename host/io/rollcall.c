/* rollcall.c - meeting, sharing, watching and leaving through a folder.
 *
 * Folder of one start: worker-NNNNN (rollcall_entry.h), "all-here" and "shared-N" written by rank 0, and "failed", a
 * hard link to the file of the worker that failed or was found dead: link() takes no space on a full disk, and only the
 * first succeeds. What must not change: a worker is given up only when its file can be opened and is not locked. What
 * cannot be read says nothing; the time-out of whoever waits is the last resort. Nothing is concluded from the time of
 * a file or of another machine.
 */
#include "io/rollcall.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/file.h"
#include "io/rollcall_entry.h"

/* Seconds. */
#define LOOK_PERIOD    0.2  /* between two looks at the folder */
#define TELL_PERIOD    1.0  /* between two signs of life, on average */
#define TELL_BURST     10.0 /* signs of life at once, so that short phases do not hide the long one that follows */
#define STILL          3.0  /* without a sign of life: more than the period and the delays of a file system */
#define ENTER_PATIENCE 1    /* for a lock on the own file, which a start that cleans up may hold for a moment */
#define LEAVE_PATIENCE 10
enum { FILES_PER_LOOK = 16, SHARE_BYTES = 4096, NAMED = 4, WORKERS_MAX = 100000 };

typedef struct peer {
    bool seen; /* was there, alive */
    bool left; /* in peace */
    unsigned long long beats, steps;
    double moved; /* when it last showed life, on this worker's clock */
} peer;

struct flrq_rollcall {
    char *root, *dir, *own; /* DIR, the folder of this start, this worker's file */
    int fd;                 /* holds the lock on it */
    int rank, size;
    double timeout;
    flrq_entry entry; /* what this worker's file says */
    peer *peers;
    int next; /* the peer to look at next */
    int shares;
    double looked, beaten; /* when this worker last looked, and last let it be seen that it does */
    double told, credit;   /* see tell() */
    bool failed;           /* this worker */
    flrq_status status;    /* of the first failure, once known */
    char text[FLRQ_ENTRY_PLACE + FLRQ_ENTRY_TEXT + 2];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void rest(double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}

enum { NAME_ROOM = 32 };

static void worker_name(char name[NAME_ROOM], int rank) {
    snprintf(name, NAME_ROOM, "worker-%05d", rank);
}

/* Reads a file of the folder. */
static flrq_entry_state read_entry(const flrq_rollcall *r, const char *name, flrq_entry *entry) {
    char *path = flrq_path_join(r->dir, name);
    *entry = (flrq_entry){.block = -1};
    flrq_entry_state state = path ? flrq_entry_read(path, entry) : FLRQ_ENTRY_NONE;
    free(path);
    return state;
}

static flrq_entry_state read_worker(const flrq_rollcall *r, int rank, flrq_entry *entry) {
    char name[NAME_ROOM];
    worker_name(name, rank);
    return read_entry(r, name, entry);
}

/* ---- failures --------------------------------------------------------------------------------------------------- */

/* Keeps the failure that an entry tells of, for every later look. */
static flrq_status take_failure(flrq_rollcall *r, const flrq_entry *entry, int rank) {
    char place[FLRQ_ENTRY_PLACE];
    bool told = entry->end == FLRQ_ENTRY_FAILED;
    flrq_entry_place(place, entry, rank, r->size);
    r->status = told ? entry->status : FLRQ_ERR_PEER;
    snprintf(r->text, sizeof r->text, "%s: %s", place,
             told ? entry->text : "died without a word (killed, out of memory, or its node was lost)");
    return flrq_fail(r->status, "%s", r->text);
}

/* The failure that counts, if there is one. */
static flrq_status look_for_failure(flrq_rollcall *r) {
    flrq_entry entry;
    if (r->status != FLRQ_OK) return flrq_fail(r->status, "%s", r->text);
    if (read_entry(r, "failed", &entry) == FLRQ_ENTRY_NONE) return FLRQ_OK;
    return take_failure(r, &entry, entry.rank);
}

/* Gives the file of `rank` its second name, unless another has it. */
static void publish(const flrq_rollcall *r, int rank) {
    char name[NAME_ROOM];
    worker_name(name, rank);
    char *from = flrq_path_join(r->dir, name), *to = flrq_path_join(r->dir, "failed");
    if (from && to) (void)!link(from, to); /* it need not be the first, and there may be no links: see look_at() */
    free(from);
    free(to);
}

/* Refuses a worker that was started as one of another number. */
static flrq_status check_number(const flrq_rollcall *r, int rank, const flrq_entry *entry) {
    char place[FLRQ_ENTRY_PLACE];
    if (entry->size == r->size && entry->rank == rank) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_USAGE, "%s says that it is number %d of %d; start all with the same number",
                     flrq_entry_place(place, entry, rank, r->size), entry->rank, entry->size);
}

/* Looks at one other worker. */
static flrq_status look_at(flrq_rollcall *r, int rank) {
    flrq_entry entry;
    peer *p = &r->peers[rank];
    if (rank == r->rank || p->left) return FLRQ_OK;
    switch (read_worker(r, rank, &entry)) {
    case FLRQ_ENTRY_NONE:
        return FLRQ_OK;
    case FLRQ_ENTRY_HELD:
        if (entry.end == FLRQ_ENTRY_FAILED) break;
        if (entry.size > 0 && !p->seen) FLRQ_TRY(check_number(r, rank, &entry));
        if (!p->seen || entry.beats != p->beats || entry.steps != p->steps) p->moved = now();
        p->beats = entry.beats;
        p->steps = entry.steps;
        p->seen = p->seen || entry.size > 0;
        return FLRQ_OK;
    case FLRQ_ENTRY_FREE:
        break;
    }
    if (!p->seen) return FLRQ_OK; /* not locked yet, or of a process that never came to be one of us */
    if (entry.end == FLRQ_ENTRY_LEFT) {
        p->left = true;
        return FLRQ_OK;
    }
    publish(r, rank);
    FLRQ_TRY(look_for_failure(r));
    return take_failure(r, &entry, rank); /* a file system without links: what was found is what counts here */
}

/* Tells the others that this worker lives, and what it does, if it has not done so too often. */
static void tell(flrq_rollcall *r, double time) {
    r->credit += (time - r->told) / TELL_PERIOD;
    r->told = time;
    if (r->credit > TELL_BURST) r->credit = TELL_BURST;
    if (r->credit < 1) return;
    r->credit--;
    r->entry.beats++;
    flrq_entry_tell(r->own, &r->entry);
}

flrq_status flrq_rollcall_watch(void *rollcall) {
    flrq_rollcall *r = rollcall;
    double time = now();
    if (r->status != FLRQ_OK) return look_for_failure(r);
    if (time - r->looked < LOOK_PERIOD) return FLRQ_OK;
    r->looked = time;
    if (time - r->beaten >= TELL_PERIOD) {
        r->beaten = time;
        tell(r, time);
    }
    flrq_dir_refresh(r->dir);
    FLRQ_TRY(look_for_failure(r));
    for (int i = 0; i < FILES_PER_LOOK && i < r->size; i++) {
        r->next = (r->next + 1) % r->size;
        FLRQ_TRY(look_at(r, r->next));
    }
    return FLRQ_OK;
}

void flrq_rollcall_doing(flrq_rollcall *r, int64_t block, const char *phase) {
    r->entry.steps++;
    r->entry.block = block;
    snprintf(r->entry.phase, sizeof r->entry.phase, "%s", phase);
    tell(r, now());
}

void flrq_rollcall_fail(flrq_rollcall *r, flrq_status status, const char *text) {
    if (r->failed) return;
    r->failed = true;
    r->entry.end = FLRQ_ENTRY_FAILED;
    r->entry.status = status;
    snprintf(r->entry.text, sizeof r->entry.text, "%s", text);
    flrq_entry_finish(r->fd, &r->entry);
    publish(r, r->rank);
}

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

/* Waits a little, longer every time, and looks after the others. */
static flrq_status wait_more(flrq_rollcall *r, double *pause) {
    rest(*pause);
    *pause = *pause < 0.07 ? 1.5 * *pause : 0.1;
    return flrq_rollcall_watch(r);
}

/* "3, 5-7" of the ranks that are marked; "..." for what does not fit. Returns how many there are. */
static int list_ranks(char *out, size_t room, const bool *marked, int size) {
    int count = 0;
    size_t used = 0;
    bool cut = false;
    out[0] = 0;
    for (int first = 0, last; first < size; first = last + 1) {
        last = first;
        if (!marked[first]) continue;
        while (last + 1 < size && marked[last + 1]) last++;
        count += last - first + 1;
        if (cut) continue;
        cut = used + 32 > room;
        used += (size_t)snprintf(out + used, room - used, "%s", used ? ", " : "");
        if (cut)
            snprintf(out + used, room - used, "...");
        else if (last > first)
            used += (size_t)snprintf(out + used, room - used, "%d-%d", first, last);
        else
            used += (size_t)snprintf(out + used, room - used, "%d", first);
    }
    return count;
}

/* Notes who is here. *missing: how many are not. */
static flrq_status count_missing(flrq_rollcall *r, bool *absent, int *missing) {
    *missing = 0;
    flrq_dir_refresh(r->dir);
    for (int rank = 0; rank < r->size; rank++) {
        flrq_entry entry;
        absent[rank] = false;
        if (rank == r->rank || r->peers[rank].seen) continue;
        absent[rank] = read_worker(r, rank, &entry) != FLRQ_ENTRY_HELD || entry.size == 0;
        if (absent[rank]) {
            ++*missing;
            continue;
        }
        FLRQ_TRY(check_number(r, rank, &entry));
        r->peers[rank].seen = true;
    }
    return FLRQ_OK;
}

static flrq_status fail_missing(const flrq_rollcall *r, const bool *absent) {
    char ranks[200];
    int count = list_ranks(ranks, sizeof ranks, absent, r->size);
    return flrq_fail(FLRQ_ERR_PEER,
                     "worker%s %s of %d %s not come within %g s; check that every task sees %s and runs the same "
                     "command",
                     count == 1 ? "" : "s", ranks, r->size, count == 1 ? "has" : "have", r->timeout, r->root);
}

/* Rank 0 waits for all and says so; the others wait for its word. */
static flrq_status meet(flrq_rollcall *r) {
    flrq_status status = FLRQ_OK;
    int missing = 1;
    double end = now() + r->timeout, pause = 0.005;
    bool *absent = calloc((size_t)r->size, sizeof *absent);
    char *word = flrq_path_join(r->dir, "all-here");
    if (!absent || !word) FLRQ_GOTO(flrq_fail_memory((size_t)r->size, "a roll call"));
    for (;;) {
        if (r->rank == 0) {
            FLRQ_GOTO(count_missing(r, absent, &missing));
        } else {
            flrq_dir_refresh(r->dir);
            missing = !flrq_path_exists(word);
        }
        if (!missing) break;
        if (now() > end) {
            FLRQ_GOTO(count_missing(r, absent, &missing));
            absent[0] = absent[0] || !missing; /* all others are here, but rank 0 did not say so */
            FLRQ_GOTO(fail_missing(r, absent));
        }
        FLRQ_GOTO(wait_more(r, &pause));
    }
    if (r->rank == 0) FLRQ_GOTO(flrq_file_write(word, "", 0));
    for (int rank = 0; rank < r->size; rank++) r->peers[rank].seen = true, r->peers[rank].moved = now();
out:
    free(word);
    free(absent);
    return status;
}

flrq_status flrq_rollcall_share(flrq_rollcall *r, void *data, size_t bytes) {
    flrq_status status = FLRQ_OK;
    char name[NAME_ROOM], *path, *found = NULL;
    size_t found_bytes;
    double end = now() + r->timeout, pause = 0.005;
    if (bytes > SHARE_BYTES)
        return flrq_fail(FLRQ_ERR_INTERNAL, "%zu bytes to share, at most %d go by a roll call", bytes, SHARE_BYTES);
    snprintf(name, sizeof name, "shared-%d", r->shares++);
    path = flrq_path_join(r->dir, name);
    if (!path) return flrq_fail_memory(strlen(r->dir), "a file name");
    if (r->rank == 0) {
        status = flrq_file_write(path, data, bytes);
        goto out;
    }
    while (flrq_dir_refresh(r->dir), !flrq_path_exists(path)) {
        if (now() > end) FLRQ_GOTO(flrq_rollcall_timeout(r, r->timeout));
        FLRQ_GOTO(wait_more(r, &pause));
    }
    FLRQ_GOTO(flrq_file_read(path, SHARE_BYTES, &found, &found_bytes));
    if (found_bytes != bytes)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_FORMAT, "file %s: %zu bytes, %zu were to be shared", path, found_bytes, bytes));
    memcpy(data, found, bytes);
out:
    free(found);
    free(path);
    return status;
}

flrq_status flrq_rollcall_timeout(flrq_rollcall *r, double seconds) {
    char list[NAMED * (FLRQ_ENTRY_PLACE + 64)] = "", place[FLRQ_ENTRY_PLACE];
    double longest = 0, time;
    unsigned long long least = r->entry.steps;
    int named = 0;
    size_t used = 0;
    flrq_dir_refresh(r->dir);
    FLRQ_TRY(look_for_failure(r));
    for (int rank = 0; rank < r->size; rank++) FLRQ_TRY(look_at(r, rank));
    time = now();
    for (int rank = 0; rank < r->size; rank++) {
        const peer *p = &r->peers[rank];
        if (rank == r->rank || p->left) continue;
        if (time - p->moved > longest) longest = time - p->moved;
        if (p->steps < least) least = p->steps;
    }
    bool still = longest >= STILL;
    for (int rank = 0; rank < r->size; rank++) {
        const peer *p = &r->peers[rank];
        double idle = time - p->moved;
        flrq_entry entry;
        if (rank == r->rank || p->left || (still ? idle < STILL || idle < longest / 2 : p->steps > least)) continue;
        if (named++ >= NAMED) continue;
        read_worker(r, rank, &entry);
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", named > 1 ? "; " : "",
                                 flrq_entry_place(place, &entry, rank, r->size));
        if (still) used += (size_t)snprintf(list + used, sizeof list - used, ": no sign of life for %.0f s", idle);
    }
    if (named > NAMED) snprintf(list + used, sizeof list - used, "; and %d more", named - NAMED);
    return flrq_fail(FLRQ_ERR_PEER, "no answer within %g s%s%s", seconds,
                     still ? "; " : (named ? "; all workers show life, furthest behind is " : ""), list);
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

/* Removes a file of a worker whose process is gone; false when it is not. */
static bool remove_worker(const char *path) {
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool gone = fd >= 0 && flrq_entry_lock(fd) == 0; /* held until it has no name: see enter() */
    if (gone) unlink(path);
    if (fd >= 0) close(fd);
    return gone;
}

/* Removes the folder of a start of which no process is alive; false when one is. Nothing of a start that lives is
 * touched: "all-here" and what comes after it exist only while workers hold their files. */
static bool remove_start(const char *dir) {
    static const char *const kinds[] = {"worker-", "all-here", "shared-", "failed"};
    bool free_to_go = true;
    for (int pass = 0; pass < 3 && free_to_go; pass++) { /* is anyone alive; the workers; the rest */
        DIR *d = opendir(dir);
        if (!d) return true;
        for (struct dirent *e; free_to_go && (e = readdir(d));) {
            int kind = 0;
            while (kind < 4 && strncmp(e->d_name, kinds[kind], strlen(kinds[kind])) != 0) kind++;
            flrq_entry entry;
            char *path = kind < 4 ? flrq_path_join(dir, e->d_name) : NULL;
            if (!path) continue;
            if (pass == 0 && kind == 0) free_to_go = flrq_entry_read(path, &entry) == FLRQ_ENTRY_FREE;
            if (pass == 1 && kind == 0) free_to_go = remove_worker(path);
            if (pass == 2 && kind != 0) unlink(path);
            free(path);
        }
        closedir(d);
    }
    if (free_to_go) rmdir(dir);
    return free_to_go;
}

/* Removes what starts have left behind that ended without leaving; not `own`. */
static void remove_stale(const char *root, const char *own) {
    DIR *d = opendir(root);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (strlen(e->d_name) != 16 || strspn(e->d_name, "0123456789abcdef") != 16 || strcmp(e->d_name, own) == 0)
            continue;
        char *path = flrq_path_join(root, e->d_name);
        if (path) remove_start(path);
        free(path);
    }
    closedir(d);
}

void flrq_rollcall_sweep(const char *dir) {
    remove_stale(dir, "");
    rmdir(dir);
}

static flrq_status make_folders(const flrq_rollcall *r) {
    char *parent = flrq_path_parent(r->root);
    if (!parent) return flrq_fail_memory(strlen(r->root), "a file name");
    flrq_status status = flrq_dir_make(parent);
    free(parent);
    FLRQ_TRY(status);
    FLRQ_TRY(flrq_dir_make(r->root));
    return flrq_dir_make(r->dir);
}

/* Makes, locks and fills this worker's file. Until that is locked, whoever cleans up may remove it and its folders, so
 * that anything is tried again for a moment. */
static flrq_status enter(flrq_rollcall *r) {
    double end = now() + ENTER_PATIENCE;
    for (;; rest(0.01)) {
        bool late = now() > end;
        flrq_status status = make_folders(r);
        if (status != FLRQ_OK && !late) continue;
        FLRQ_TRY(status);
        r->fd = open(r->own, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (r->fd < 0 && !late) continue;
        if (r->fd < 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot create", r->own);
        int locked = flrq_entry_lock(r->fd), code = errno;
        if (locked == 0 && flrq_path_names(r->own, r->fd)) break;
        close(r->fd);
        r->fd = -1;
        if (!late) continue;
        if (locked == 0 || code == EAGAIN || code == EACCES) {
            flrq_entry other;
            char place[FLRQ_ENTRY_PLACE];
            flrq_entry_read(r->own, &other);
            return flrq_fail(FLRQ_ERR_BUSY,
                             "folder %s: %s is here already; every process of a run needs a rank of its own", r->dir,
                             flrq_entry_place(place, &other, r->rank, r->size));
        }
        errno = code;
        return flrq_fail_errno(FLRQ_ERR_IO, "file %s: the file system refuses locks (Lustre: mount with -o flock)",
                               r->own);
    }
    if (flrq_entry_write(r->fd, &r->entry) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot write", r->own);
    return flrq_dir_sync(r->dir);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static void rollcall_free(flrq_rollcall *r) {
    if (r->fd >= 0) close(r->fd);
    free(r->peers);
    free(r->own);
    free(r->dir);
    free(r->root);
    free(r);
}

flrq_status flrq_rollcall_join(flrq_rollcall **out, const char *dir, const char *nonce, int rank, int size,
                               const char *device, double timeout) {
    flrq_status status = FLRQ_OK;
    char name[NAME_ROOM];
    *out = NULL;
    if (size < 1 || size >= WORKERS_MAX || rank < 0 || rank >= size)
        return flrq_fail(FLRQ_ERR_USAGE, "worker %d of %d: there is no such number", rank, size);
    flrq_rollcall *r = calloc(1, sizeof *r);
    if (!r) return flrq_fail_memory(sizeof *r, "a roll call");
    r->fd = -1;
    r->rank = rank;
    r->size = size;
    r->next = rank; /* all begin at another one */
    r->timeout = timeout;
    r->told = now();
    r->credit = TELL_BURST;
    r->entry = (flrq_entry){.rank = rank, .size = size, .process = (long)getpid(), .block = -1};
    snprintf(r->entry.device, sizeof r->entry.device, "%s", device);
    if (gethostname(r->entry.host, sizeof r->entry.host - 1) != 0 || !r->entry.host[0])
        strcpy(r->entry.host, "localhost");
    snprintf(name, sizeof name, "%016" PRIx64, (uint64_t)XXH3_64bits(nonce, strlen(nonce)));
    r->peers = calloc((size_t)size, sizeof *r->peers);
    r->root = strdup(dir);
    r->dir = flrq_path_join(dir, name);
    worker_name(name, rank);
    r->own = r->dir ? flrq_path_join(r->dir, name) : NULL;
    if (!r->peers || !r->root || !r->own) FLRQ_GOTO(flrq_fail_memory(sizeof *r, "a roll call"));
    FLRQ_GOTO(enter(r));
    if (rank == 0) remove_stale(r->root, strrchr(r->dir, '/') + 1);
    FLRQ_GOTO(meet(r));
    *out = r;
    return FLRQ_OK;
out:
    if (r->fd >= 0) flrq_rollcall_fail(r, status, flrq_last_error());
    rollcall_free(r);
    return status;
}

void flrq_rollcall_leave(flrq_rollcall *r) {
    if (!r) return;
    double end = now() + LEAVE_PATIENCE, pause = 0.005;
    if (!r->failed) {
        r->entry.end = FLRQ_ENTRY_LEFT;
        flrq_entry_finish(r->fd, &r->entry);
    }
    flrq_entry_unlock(r->fd);
    /* After a failure others may still be at work for long, and need to find out: what is left then is removed by a
     * later start. */
    bool wait = !r->failed && r->status == FLRQ_OK;
    while (r->rank == 0 && !remove_start(r->dir) && wait && now() < end) {
        rest(pause);
        pause = pause < 0.07 ? 1.5 * pause : 0.1;
    }
    if (r->rank == 0) rmdir(r->root); /* unless another start is there */
    rollcall_free(r);
}
