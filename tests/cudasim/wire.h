/*
 * wire.h - what the workers of a simulated NCCL communicator share: who they are, what each is about to call, and a
 * ring of bytes from every worker to every other.
 *
 * A wire is a piece of POSIX shared memory, so workers may be threads of one process or processes of one host. Its name
 * goes away as soon as all have joined; a process that dies leaves nothing behind but before that. Nothing here waits:
 * each call does what can be done now. Not thread-safe for one worker: the caller orders its own calls.
 */
#ifndef CUDASIM_WIRE_H
#define CUDASIM_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string>

namespace cudasim {

constexpr int WIRE_MAX_RANKS = 64;

/* A collective call as its worker sees it, for comparison and for messages. */
struct Sign {
    uint64_t hash;
    char text[120];
};

class Wire {
  public:
    enum State { waiting, joined, no_room, taken, other_size };
    enum Place { absent, present, left, aborted };

    Wire(const std::string &name, int rank, int size);
    ~Wire();
    Wire(const Wire &) = delete;
    Wire &operator=(const Wire &) = delete;

    /* Goes on with joining. no_room: /dev/shm is full; taken: another worker has this rank; other_size: another worker
     * has named another number of workers. */
    State join();
    /* Ends this worker's part; nobody who has not joined will. */
    void leave(Place how);
    Place place(int rank) const;
    /* A worker that has aborted or whose process is gone, or -1. */
    int lost() const;

    /* Says what this worker's collective call `number` (from 0, in order) is. Its predecessor was seen by all. */
    void post(uint64_t number, const Sign &sign);
    /* What another has posted for `number`, or null if it has not come so far. */
    const Sign *posted(int rank, uint64_t number) const;
    /* Number of collective calls that a worker has posted. */
    uint64_t calls(int rank) const;

    /* Moves at most `bytes`, returns how many. */
    size_t put(int to, const void *data, size_t bytes);
    size_t get(int from, void *data, size_t bytes);
    /* Bytes from a worker that nobody has taken, and bytes that can be put now. */
    size_t unread(int from) const;
    size_t room(int to) const;

  private:
    struct Slot;
    struct Head;
    struct Ring;
    Ring *ring(int from, int to) const;
    bool open();
    std::string name;
    int rank, size;
    Head *head; /* null: not there yet */
    size_t bytes, ring_bytes;
    State state;
};

} // namespace cudasim

#endif
