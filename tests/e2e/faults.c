/* faults.c - a library for LD_PRELOAD under which a program dies, stops or meets a full disk at a chosen operation.
 *
 *   E2E_FAULTS=count:FILE      writes the number of operations to FILE when the program ends
 *   E2E_FAULTS=kill:N          dies (SIGKILL) in operation N, as in a power cut: see below
 *   E2E_FAULTS=term:N          sends itself SIGTERM before operation N
 *   E2E_FAULTS=pause:N         sends itself SIGSTOP before operation N
 *   E2E_FAULTS=full:N          from operation N on the disk is full
 *   E2E_FAULTS=space:BYTES     the disk says that so much is free
 *   E2E_FAULTS=term:9,kill:20  several at once
 *
 * Operations are the calls that change a file system: open to create, pwrite, fsync, fallocate, ftruncate, rename,
 * mkdir, rmdir, unlink, symlink, counted from 1 over all threads. Death loses what was promised to nobody: an
 * interrupted write leaves half of its bytes, files shrink to the size of their last fsync, renames are taken back
 * unless their folder was flushed. fsync itself flushes nothing here, since the kernel outlives the program; so
 * hundreds of deaths fit into a test.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MAX_FILES = 64, MAX_PATH = 4096 };

/* A file with bytes that were not flushed, found again by its inode. */
typedef struct unflushed {
    dev_t device;
    ino_t inode;
    off_t flushed; /* size at the last fsync */
    char path[MAX_PATH];
} unflushed;

typedef struct renamed {
    char from[MAX_PATH], to[MAX_PATH];
} renamed;

static long count, kill_at, term_at, pause_at, full_from, space;
static const char *count_path;
static unflushed files[MAX_FILES];
static renamed renames[MAX_FILES];
static int n_files, n_renames;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void read_orders(void) {
    static char orders[MAX_PATH];
    const char *given = getenv("E2E_FAULTS");
    snprintf(orders, sizeof orders, "%s", given ? given : "");
    for (char *order = strtok(orders, ","); order; order = strtok(NULL, ",")) {
        char *value = strchr(order, ':');
        if (!value) abort();
        *value++ = 0;
        if (strcmp(order, "count") == 0)
            count_path = value;
        else
            *(strcmp(order, "kill") == 0    ? &kill_at
              : strcmp(order, "term") == 0  ? &term_at
              : strcmp(order, "pause") == 0 ? &pause_at
              : strcmp(order, "full") == 0  ? &full_from
              : strcmp(order, "space") == 0 ? &space
                                            : (abort(), &count)) = atol(value);
    }
}

__attribute__((destructor)) static void tell_count(void) {
    FILE *f = count_path ? fopen(count_path, "w") : NULL;
    if (f) fprintf(f, "%ld\n", count), fclose(f);
}

static unflushed *find(const struct stat *info) {
    for (int i = 0; i < n_files; i++)
        if (files[i].device == info->st_dev && files[i].inode == info->st_ino) return &files[i];
    return NULL;
}

/* Notes the size before the first change after an fsync. */
static void touch(int fd) {
    struct stat info;
    char link[64];
    if (fstat(fd, &info) != 0 || find(&info)) return;
    if (n_files == MAX_FILES) abort();
    unflushed *file = &files[n_files];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, file->path, MAX_PATH - 1);
    if (length < 0) return;
    file->path[length] = 0;
    file->device = info.st_dev, file->inode = info.st_ino, file->flushed = info.st_size;
    n_files++;
}

static void die(void) {
    for (int i = 0; i < n_files; i++) {
        struct stat info;
        if (stat(files[i].path, &info) == 0 && info.st_ino == files[i].inode && info.st_size > files[i].flushed &&
            truncate(files[i].path, files[i].flushed) != 0)
            abort();
    }
    for (int i = n_renames; i-- > 0;) REAL(rename)(renames[i].to, renames[i].from);
    raise(SIGKILL);
}

/* Counts an operation. Returns 1 when it must die half done; -1 with errno when the disk is full for it. */
static int operation(int takes_space) {
    long n = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (n == term_at) raise(SIGTERM);
    if (n == pause_at) raise(SIGSTOP);
    if (n == kill_at) return 1;
    if (full_from && n >= full_from && takes_space) {
        errno = ENOSPC;
        return -1;
    }
    return 0;
}

#define FAULT(takes_space, half)                                                                                       \
    do {                                                                                                               \
        int fault = operation(takes_space);                                                                            \
        if (fault > 0) {                                                                                               \
            half;                                                                                                      \
            die();                                                                                                     \
        }                                                                                                              \
        if (fault < 0) return -1;                                                                                      \
    } while (0)

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset) {
    touch(fd);
    FAULT(1, REAL(pwrite)(fd, from, bytes / 2, offset));
    return REAL(pwrite)(fd, from, bytes, offset);
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (flags & O_CREAT) FAULT(1, (void)0);
    return REAL(open)(path, flags, mode);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    touch(fd);
    FAULT(1, (void)0);
    return REAL(fallocate)(fd, mode, offset, bytes);
}

int ftruncate(int fd, off_t bytes) {
    touch(fd);
    FAULT(0, (void)0);
    return REAL(ftruncate)(fd, bytes);
}

int fsync(int fd) {
    struct stat info;
    FAULT(0, (void)0);
    if (fstat(fd, &info) != 0) return -1;
    if (S_ISDIR(info.st_mode)) n_renames = 0; /* of every folder; the program flushes the one it renamed in */
    unflushed *file = find(&info);
    if (file) *file = files[--n_files];
    return 0;
}

int rename(const char *from, const char *to) {
    struct stat info;
    FAULT(0, (void)0);
    int replaces = lstat(to, &info) == 0;
    if (REAL(rename)(from, to) != 0) return -1;
    if (lstat(to, &info) == 0) {
        unflushed *file = find(&info);
        if (file) snprintf(file->path, MAX_PATH, "%s", to);
    }
    if (!replaces) {
        if (n_renames == MAX_FILES) abort();
        snprintf(renames[n_renames].from, MAX_PATH, "%s", from);
        snprintf(renames[n_renames++].to, MAX_PATH, "%s", to);
    }
    return 0;
}

int mkdir(const char *path, mode_t mode) {
    FAULT(1, (void)0);
    return REAL(mkdir)(path, mode);
}

int rmdir(const char *path) {
    FAULT(0, (void)0);
    return REAL(rmdir)(path);
}

int unlink(const char *path) {
    FAULT(0, (void)0);
    return REAL(unlink)(path);
}

int symlink(const char *target, const char *path) {
    FAULT(1, (void)0);
    return REAL(symlink)(target, path);
}

int statvfs(const char *path, struct statvfs *info) {
    int failed = REAL(statvfs)(path, info);
    if (!failed && space) info->f_bavail = (fsblkcnt_t)space / info->f_frsize;
    return failed;
}
