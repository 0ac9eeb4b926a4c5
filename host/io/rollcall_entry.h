/* rollcall_entry.h - the file of one worker in a roll call: what it says, and whether its process lives.
 *
 * Text of a fixed size in three parts, each written by itself and in place, so that a full disk does not matter: who
 * the worker is, what it is doing, how it ended. What is read may be anything: it is cut and cleaned, never trusted.
 */
#ifndef FLRQ_IO_ROLLCALL_ENTRY_H
#define FLRQ_IO_ROLLCALL_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include "core/error.h"

enum { FLRQ_ENTRY_NAME = 64, FLRQ_ENTRY_TEXT = 1500, FLRQ_ENTRY_PLACE = 512 };

typedef enum flrq_entry_state {
    FLRQ_ENTRY_NONE, /* no file, or it cannot be read: nothing is known */
    FLRQ_ENTRY_HELD, /* its process lives */
    FLRQ_ENTRY_FREE  /* it does not */
} flrq_entry_state;

typedef enum flrq_entry_end { FLRQ_ENTRY_AT_WORK, FLRQ_ENTRY_LEFT, FLRQ_ENTRY_FAILED } flrq_entry_end;

typedef struct flrq_entry {
    int rank, size; /* size 0: the file does not (yet) say who it is of */
    char host[FLRQ_ENTRY_NAME], device[FLRQ_ENTRY_NAME];
    long process;
    unsigned long long beats, steps; /* signs of life; things done */
    long long block;                 /* negative: none */
    char phase[FLRQ_ENTRY_NAME];     /* "": not told yet */
    flrq_entry_end end;
    flrq_status status; /* of a failure */
    char text[FLRQ_ENTRY_TEXT];
} flrq_entry;

/** Writes the whole file: who, and the doing of `entry`, at work. Returns 0, or -1 with errno. */
int flrq_entry_write(int fd, const flrq_entry *entry);

/** Writes what the entry is doing. Through a descriptor of its own: closing it is what sends it on on NFS, and costs
 *  nothing elsewhere. Failures are of no consequence. */
void flrq_entry_tell(const char *path, const flrq_entry *entry);

/** Writes how it ended, flushed. Failures are of no consequence: then it died without a word. */
void flrq_entry_finish(int fd, const flrq_entry *entry);

/** Locks the file for the life of the descriptor. Returns 0, or -1 with errno (EAGAIN: another holds it). */
int flrq_entry_lock(int fd);

/** Gives the lock up, also where a process that was forked meanwhile has a copy of the descriptor. */
void flrq_entry_unlock(int fd);

/** Reads a file; *entry is always valid. With FLRQ_ENTRY_FREE what it says is the last that the worker wrote. */
flrq_entry_state flrq_entry_read(const char *path, flrq_entry *entry);

/** "worker 3 of 8 (host n1, process 4711, cuda:3), block 4, quantize", as far as the entry says; `out` has
 *  FLRQ_ENTRY_PLACE bytes. Returns out. */
const char *flrq_entry_place(char *out, const flrq_entry *entry, int rank, int size);

#endif
