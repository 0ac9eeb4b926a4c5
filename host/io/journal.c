/* journal.c - the append-only record of a run.
 *
 * Owns the rule of what a crash may have done to the file: only the last line can be incomplete, since every line is
 * flushed before the next is begun. So a bad last line is cut off, and a bad line before it means that something else
 * wrote here and is refused. A failed append leaves the file as it was.
 */
#include "io/journal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/file.h"

enum {
    MAX_BYTES = 1 << 28, /* of a journal; a block's line has a few kilobytes */
    CHECKSUM_BYTES = 17  /* '\t' and 16 hex digits */
};

struct flrq_journal {
    char *path;
    int fd;
    uint64_t end; /* offset behind the last valid line */
};

static void checksum(char to[CHECKSUM_BYTES + 1], const char *text, size_t bytes) {
    snprintf(to, CHECKSUM_BYTES + 1, "\t%016" PRIx64, (uint64_t)XXH3_64bits(text, bytes));
}

/* True when the line (without its newline) ends with the checksum of what is before it. */
static bool intact(const char *line, size_t bytes) {
    char expected[CHECKSUM_BYTES + 1];
    if (bytes < CHECKSUM_BYTES) return false;
    checksum(expected, line, bytes - CHECKSUM_BYTES);
    return memcmp(line + bytes - CHECKSUM_BYTES, expected, CHECKSUM_BYTES) == 0;
}

/* Appends the records of `text` to `records`; *end is the offset behind the last intact line. An intact line whose
 * record cannot be made (no memory, or no object) is a failure and never cut off. */
static flrq_status parse_lines(const char *path, const char *text, size_t bytes, json_t *records, uint64_t *end) {
    size_t at = 0;
    for (int number = 1; at < bytes; number++) {
        const char *newline = memchr(text + at, '\n', bytes - at);
        size_t length = newline ? (size_t)(newline - text) - at : bytes - at, next = at + length + (newline != NULL);
        json_t *record;
        if (!newline || !intact(text + at, length)) {
            if (next == bytes) break;
            return flrq_fail(
                FLRQ_ERR_FORMAT,
                "file %s: line %d is damaged, and it is not the last; start the run anew in an empty folder", path,
                number);
        }
        FLRQ_TRY(flrq_json_parse(path, text + at, length - CHECKSUM_BYTES, &record));
        if (!json_is_object(record)) {
            json_decref(record);
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: line %d is not a JSON object", path, number);
        }
        if (json_array_append_new(records, record) != 0) return flrq_fail_memory(next - at, path);
        at = next;
    }
    *end = at;
    return FLRQ_OK;
}

flrq_status flrq_journal_open(flrq_journal **out, const char *path, json_t **records) {
    flrq_status status = FLRQ_OK;
    char *text = NULL;
    size_t bytes = 0;
    json_t *found = json_array();
    flrq_journal *journal = malloc(sizeof *journal);
    *out = NULL;
    *records = NULL;
    if (journal) *journal = (flrq_journal){.path = strdup(path), .fd = -1};
    if (!found || !journal || !journal->path) {
        status = flrq_fail_memory(sizeof *journal, "a journal");
        goto out;
    }
    journal->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (journal->fd < 0) {
        status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot open", path);
        goto out;
    }
    FLRQ_GOTO(flrq_file_read(path, MAX_BYTES, &text, &bytes));
    FLRQ_GOTO(parse_lines(path, text, bytes, found, &journal->end));
    if (journal->end < bytes && ftruncate(journal->fd, (off_t)journal->end) != 0) {
        status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot cut off its torn last line", path);
        goto out;
    }
    FLRQ_GOTO(flrq_dir_sync_parent(path)); /* the name of a new journal must survive a crash as well */
    *out = journal;
    *records = found;
    journal = NULL;
    found = NULL;
out:
    flrq_journal_close(journal);
    json_decref(found);
    free(text);
    return status;
}

flrq_status flrq_journal_append(flrq_journal *journal, const json_t *record) {
    flrq_status status = FLRQ_OK;
    size_t bytes = 0;
    char *text = flrq_json_text(record, JSON_COMPACT, &bytes), *line = NULL;
    size_t line_bytes = bytes + CHECKSUM_BYTES + 1;
    if (!json_is_object(record) || !text) {
        status =
            flrq_fail(FLRQ_ERR_INTERNAL, "file %s: a record is not a JSON object, or memory ran out", journal->path);
        goto out;
    }
    line = malloc(line_bytes + 1);
    if (!line) {
        status = flrq_fail_memory(line_bytes, journal->path);
        goto out;
    }
    memcpy(line, text, bytes);
    checksum(line + bytes, text, bytes);
    line[line_bytes - 1] = '\n';
    status = flrq_file_pwrite(journal->fd, journal->path, line, line_bytes, journal->end);
    if (status == FLRQ_OK && fsync(journal->fd) != 0)
        status = flrq_fail_errno(FLRQ_ERR_IO, "file %s: cannot flush to disk", journal->path);
    if (status == FLRQ_OK)
        journal->end += line_bytes;
    else if (ftruncate(journal->fd, (off_t)journal->end) != 0)
        status = flrq_trace(status, "a torn line is left behind");
out:
    free(line);
    free(text);
    return status;
}

void flrq_journal_close(flrq_journal *journal) {
    if (!journal) return;
    if (journal->fd >= 0) close(journal->fd);
    free(journal->path);
    free(journal);
}
