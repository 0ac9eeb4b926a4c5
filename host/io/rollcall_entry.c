/* rollcall_entry.c - writing, reading and describing the file of one worker.
 *
 * The file as `cat` shows it, every part padded with spaces:
 *
 *     flrq worker 3 of 8 / host n1 / process 4711 / device cuda:3       WHO_BYTES
 *     doing 17 5 4 quantize       (signs of life, things done, block)   DOING_BYTES
 *     left      or      failed 2 the text                               END_BYTES
 */
#include "io/rollcall_entry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WHO_BYTES = 512, DOING_BYTES = 512, END_BYTES = 3072, ENTRY_BYTES = WHO_BYTES + DOING_BYTES + END_BYTES };

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* Copies text as one clean line that fits. */
static void clean_copy(char *to, size_t room, const char *from) {
    size_t n = 0;
    for (; from[n] && n + 1 < room; n++) to[n] = (unsigned char)from[n] < 0x20 || from[n] == 0x7f ? ' ' : from[n];
    to[n] = 0;
}

/* Fills a part up from `used`: spaces, so that it can be looked at, and a newline. */
static void pad(char *part, int used, int bytes) {
    if (used < 0) used = 0;
    if (used > bytes - 1) used = bytes - 1;
    memset(part + used, ' ', (size_t)(bytes - used));
    part[bytes - 1] = '\n';
}

static int put(int fd, const char *from, size_t bytes, off_t offset) {
    while (bytes > 0) {
        ssize_t n = pwrite(fd, from, bytes, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = EIO;
        if (n <= 0) return -1;
        from += n, bytes -= (size_t)n, offset += n;
    }
    return 0;
}

static void make_doing(char part[DOING_BYTES], const flrq_entry *entry) {
    char phase[FLRQ_ENTRY_NAME];
    clean_copy(phase, sizeof phase, entry->phase);
    pad(part, snprintf(part, DOING_BYTES, "doing %llu %llu %lld %s\n", entry->beats, entry->steps, entry->block, phase),
        DOING_BYTES);
}

int flrq_entry_write(int fd, const flrq_entry *entry) {
    char bytes[ENTRY_BYTES], host[FLRQ_ENTRY_NAME], device[FLRQ_ENTRY_NAME];
    clean_copy(host, sizeof host, entry->host);
    clean_copy(device, sizeof device, entry->device);
    pad(bytes,
        snprintf(bytes, WHO_BYTES, "flrq worker %d of %d\nhost %s\nprocess %ld\ndevice %s\n", entry->rank, entry->size,
                 host, entry->process, device),
        WHO_BYTES);
    make_doing(bytes + WHO_BYTES, entry);
    pad(bytes + WHO_BYTES + DOING_BYTES, 0, END_BYTES);
    if (put(fd, bytes, sizeof bytes, 0) != 0) return -1;
    return fsync(fd);
}

void flrq_entry_tell(const char *path, const flrq_entry *entry) {
    char part[DOING_BYTES];
    make_doing(part, entry);
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return;
    (void)put(fd, part, sizeof part, WHO_BYTES);
    close(fd);
}

void flrq_entry_finish(int fd, const flrq_entry *entry) {
    char part[DOING_BYTES + END_BYTES], text[FLRQ_ENTRY_TEXT], *end = part + DOING_BYTES;
    make_doing(part, entry);
    clean_copy(text, sizeof text, entry->text);
    int used = entry->end == FLRQ_ENTRY_FAILED
                   ? snprintf(end, END_BYTES, "failed %d %s\n", (int)entry->status, text)
                   : snprintf(end, END_BYTES, "%s", entry->end == FLRQ_ENTRY_LEFT ? "left\n" : "");
    pad(end, used, END_BYTES);
    (void)put(fd, part, sizeof part, WHO_BYTES);
    (void)fsync(fd);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

int flrq_entry_lock(int fd) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &whole);
}

void flrq_entry_unlock(int fd) {
    struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    (void)fcntl(fd, F_OFD_SETLK, &whole);
}

/* One part as a string of lines: control characters but newlines become spaces. */
static void take_part(char *to, const char *from, int bytes) {
    for (int i = 0; i < bytes; i++)
        to[i] = ((unsigned char)from[i] < 0x20 && from[i] != '\n') || from[i] == 0x7f ? ' ' : from[i];
    to[bytes] = 0;
}

/* The rest of the line that begins with `key`, if there is one. */
static void line_of(const char *part, const char *key, char *to, size_t room) {
    size_t length = strlen(key);
    for (const char *line = part; line; line = strchr(line, '\n'), line += line != NULL) {
        if (strncmp(line, key, length) != 0) continue;
        size_t n = strcspn(line + length, "\n");
        if (n >= room) n = room - 1;
        memcpy(to, line + length, n);
        to[n] = 0;
        return;
    }
}

static void parse(const char bytes[ENTRY_BYTES], flrq_entry *entry) {
    char who[WHO_BYTES + 1], doing[DOING_BYTES + 1], end[END_BYTES + 1], number[32] = "";
    int used = 0, status = 0;
    take_part(who, bytes, WHO_BYTES);
    take_part(doing, bytes + WHO_BYTES, DOING_BYTES);
    take_part(end, bytes + WHO_BYTES + DOING_BYTES, END_BYTES);
    if (sscanf(who, "flrq worker %9d of %9d", &entry->rank, &entry->size) != 2) entry->rank = entry->size = 0;
    line_of(who, "host ", entry->host, sizeof entry->host);
    line_of(who, "device ", entry->device, sizeof entry->device);
    line_of(who, "process ", number, sizeof number);
    if (sscanf(number, "%18ld", &entry->process) != 1) entry->process = 0;
    if (sscanf(doing, "doing %18llu %18llu %18lld %n", &entry->beats, &entry->steps, &entry->block, &used) >= 3 && used)
        line_of(doing + used, "", entry->phase, sizeof entry->phase);
    if (strncmp(end, "left\n", 5) == 0) entry->end = FLRQ_ENTRY_LEFT;
    used = 0;
    if (sscanf(end, "failed %9d %n", &status, &used) >= 1 && used) {
        entry->end = FLRQ_ENTRY_FAILED;
        entry->status = status > FLRQ_OK && status <= FLRQ_ERR_PEER ? (flrq_status)status : FLRQ_ERR_PEER;
        line_of(end + used, "", entry->text, sizeof entry->text);
    }
}

/* Opens and reads; the lock is looked at in between. */
static flrq_entry_state read_once(const char *path, flrq_entry *entry) {
    char bytes[ENTRY_BYTES];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    *entry = (flrq_entry){.block = -1};
    memset(bytes, ' ', sizeof bytes);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return FLRQ_ENTRY_NONE;
    int asked = fcntl(fd, F_OFD_GETLK, &whole);
    size_t used = 0;
    while (asked == 0 && used < sizeof bytes) {
        ssize_t n = pread(fd, bytes + used, sizeof bytes - used, (off_t)used);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) asked = -1;
        if (n <= 0) break;
        used += (size_t)n;
    }
    close(fd);
    if (asked != 0) return FLRQ_ENTRY_NONE;
    parse(bytes, entry);
    return whole.l_type == F_UNLCK ? FLRQ_ENTRY_FREE : FLRQ_ENTRY_HELD;
}

flrq_entry_state flrq_entry_read(const char *path, flrq_entry *entry) {
    flrq_entry_state state = read_once(path, entry);
    /* The last words were written before the lock was given up, but perhaps after NFS last asked the server what the
     * file holds, which it does when a file is opened. */
    if (state == FLRQ_ENTRY_FREE) state = read_once(path, entry);
    return state;
}

/* ---- describing ------------------------------------------------------------------------------------------------- */

const char *flrq_entry_place(char *out, const flrq_entry *entry, int rank, int size) {
    size_t room = FLRQ_ENTRY_PLACE;
    int used = snprintf(out, room, "worker %d of %d", rank, size);
    if (entry->size)
        used += snprintf(out + used, room - (size_t)used, " (host %s, process %ld, %s)", entry->host, entry->process,
                         entry->device);
    if (entry->phase[0] && entry->block >= 0)
        used += snprintf(out + used, room - (size_t)used, ", block %lld", entry->block);
    if (entry->phase[0]) snprintf(out + used, room - (size_t)used, ", %s", entry->phase);
    return out;
}
