/* lock.c - one run at a time per output folder.
 *
 * Owns "<dir>/.lock". The lock is the kernel's (an open-file-description lock: it also excludes a second holder in the
 * same process, works over NFS and dies with its holder); the text in the file only says who. What must not change: the
 * comparison of inodes after locking. The holder removes the file when done, so a waiting process may lock a file that
 * no longer has the name, while a third locks the new one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"

struct flrq_lock {
    char *path;
    int fd;
};

/* The sentence for a folder that is taken. The holder writes its name right after locking, so the text may still be
 * empty. */
static flrq_status fail_busy(int fd, const char *dir) {
    char text[512], host[256];
    long pid;
    ssize_t got = pread(fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = 0;
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20) *c = ' ';
    if (sscanf(text, "%255s %ld", host, &pid) != 2)
        return flrq_fail(FLRQ_ERR_BUSY, "folder %s: another run is using it; wait for it or choose another folder",
                         dir);
    return flrq_fail(FLRQ_ERR_BUSY,
                     "folder %s: process %ld on host %s is using it; wait for it, stop it or choose another folder",
                     dir, pid, host);
}

static flrq_status write_holder(int fd, const char *path) {
    char host[256] = "", text[300];
    if (gethostname(host, sizeof host - 1) != 0 || !host[0]) strcpy(host, "localhost");
    int length = snprintf(text, sizeof text, "%s %ld\n", host, (long)getpid());
    if (ftruncate(fd, 0) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot truncate", path);
    return flrq_file_pwrite(fd, path, text, (size_t)length, 0);
}

flrq_status flrq_dir_lock(flrq_lock **out, const char *dir) {
    flrq_status status = FLRQ_OK;
    int fd = -1;
    *out = NULL;
    flrq_lock *lock = malloc(sizeof *lock);
    char *path = flrq_path_join(dir, ".lock");
    if (!lock || !path) {
        status = flrq_fail_memory(sizeof *lock, "a folder lock");
        goto out;
    }
    for (;;) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) {
            status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot create", path);
            goto out;
        }
        struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        if (fcntl(fd, F_OFD_SETLK, &whole) != 0) {
            if (errno == EAGAIN || errno == EACCES)
                status = fail_busy(fd, dir);
            else
                status =
                    flrq_fail_errno(FLRQ_ERR_IO,
                                    "file %s: the file system refuses locks (Lustre: mount with -o flock), so two runs "
                                    "could damage each other; choose another folder",
                                    path);
            goto out;
        }
        if (flrq_path_names(path, fd)) break;
        close(fd); /* the former holder removed it between our open and our lock: take the new one */
        fd = -1;
    }
    FLRQ_GOTO(write_holder(fd, path));
    *lock = (flrq_lock){.path = path, .fd = fd};
    *out = lock;
    return FLRQ_OK;
out:
    if (fd >= 0) close(fd);
    free(path);
    free(lock);
    return status;
}

void flrq_dir_unlock(flrq_lock *lock) {
    if (!lock) return;
    if (flrq_path_names(lock->path, lock->fd)) unlink(lock->path);
    close(lock->fd);
    free(lock->path);
    free(lock);
}
