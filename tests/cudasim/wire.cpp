/*
 * wire.cpp - see wire.h. Layout: Head with a slot for each worker, then size * size rings. Everything is zero at first,
 * which is what shared memory begins with. A worker that makes the memory sets `ready` last; the last to join reserves
 * the pages, so that a full /dev/shm is an error and not a SIGBUS, and takes the name away.
 */
#include "wire.h"
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>

namespace cudasim {

struct Wire::Slot {
    std::atomic<int> place;
    std::atomic<long> pid;
    std::atomic<uint64_t> started; /* of the process: a number is used again */
    std::atomic<uint64_t> calls;   /* collective calls posted */
    Sign sign[2];                  /* of even and odd calls: nobody is two calls ahead of another */
};

struct alignas(64) Wire::Head {
    std::atomic<int> ready, joined, all; /* all: a State, when everybody is there */
    int size;
    Slot slot[WIRE_MAX_RANKS];
};

struct Wire::Ring {
    alignas(64) std::atomic<uint64_t> written;
    alignas(64) std::atomic<uint64_t> read;
    alignas(64) unsigned char data[64]; /* the first of ring_bytes */
};

namespace {

constexpr size_t ALL_RINGS = 4 << 20, SMALLEST = 4 << 10, LARGEST = 256 << 10;

/* When a process began, in ticks since boot; 0: it is gone, or only its entry in the table is left. */
uint64_t process_start(long pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) fclose(file);
    text[n] = 0;
    const char *p = strrchr(text, ')'); /* the name may hold anything */
    char mode = 0;
    unsigned long long start = 0;
    if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &mode,
                     &start) != 2)
        return 0;
    return mode == 'Z' || mode == 'X' ? 0 : start;
}

} // namespace

Wire::Wire(const std::string &name, int rank, int size)
    : name(name), rank(rank), size(size), head(nullptr), ring_bytes(LARGEST), state(waiting) {
    while (ring_bytes > SMALLEST && ring_bytes * (size_t)size * (size_t)size > ALL_RINGS) ring_bytes /= 2;
    bytes = sizeof(Head) + (offsetof(Ring, data) + ring_bytes) * (size_t)size * (size_t)size;
}

Wire::~Wire() {
    if (head) munmap(head, bytes);
}

Wire::Ring *Wire::ring(int from, int to) const {
    size_t at = (size_t)from * (size_t)size + (size_t)to;
    return reinterpret_cast<Ring *>(reinterpret_cast<unsigned char *>(head + 1) +
                                    at * (offsetof(Ring, data) + ring_bytes));
}

/* Makes the memory or finds it; false: another is just making it. */
bool Wire::open() {
    int fd = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    bool made = fd >= 0;
    if (made && ftruncate(fd, (off_t)bytes)) fail("NCCL: %zu bytes of shared memory: %s", bytes, strerror(errno));
    if (!made) fd = shm_open(name.c_str(), O_RDWR, 0600);
    if (fd < 0) return false;
    struct stat st;
    if (fstat(fd, &st)) fail("NCCL: shared memory %s: %s", name.c_str(), strerror(errno));
    if (st.st_size == 0) return close(fd), false;
    if ((size_t)st.st_size != bytes) state = other_size; /* so the worker that made it has another size */
    void *p = state == waiting ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (state != waiting) return true;
    if (p == MAP_FAILED) fail("NCCL: cannot map %zu bytes of shared memory: %s", bytes, strerror(errno));
    Head *h = static_cast<Head *>(p);
    if (made) {
        h->size = size;
        h->ready.store(1, std::memory_order_release);
    } else if (!h->ready.load(std::memory_order_acquire)) {
        munmap(p, bytes);
        return false;
    }
    head = h;
    return true;
}

Wire::State Wire::join() {
    if (state != waiting) return state;
    if (!head) {
        if (!open() || state != waiting) return state;
        if (head->size != size) return state = other_size;
        Slot &me = head->slot[rank];
        long nobody = 0;
        if (!me.pid.compare_exchange_strong(nobody, (long)getpid())) return state = taken;
        me.started = process_start(getpid());
        me.place = present;
        if (head->joined.fetch_add(1) + 1 == size) {
            int fd = shm_open(name.c_str(), O_RDWR, 0600);
            int error = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)bytes);
            if (fd >= 0) close(fd);
            shm_unlink(name.c_str());
            head->all = error ? no_room : joined;
        }
    }
    return state = (State)head->all.load();
}

void Wire::leave(Place how) {
    if (!head) return;
    if (head->all.load() == waiting) shm_unlink(name.c_str());
    if (state != taken) head->slot[rank].place = how;
}

Wire::Place Wire::place(int r) const {
    return (Place)head->slot[r].place.load();
}

int Wire::lost() const {
    for (int r = 0; head && r < size; r++) {
        const Slot &s = head->slot[r];
        int place = s.place;
        if (place == aborted) return r;
        if (place == present && s.pid != getpid() && process_start(s.pid) != s.started && s.place == present) return r;
    }
    return -1;
}

void Wire::post(uint64_t number, const Sign &sign) {
    Slot &me = head->slot[rank];
    me.sign[number % 2] = sign;
    me.calls.store(number + 1, std::memory_order_release);
}

const Sign *Wire::posted(int r, uint64_t number) const {
    const Slot &s = head->slot[r];
    return s.calls.load(std::memory_order_acquire) > number ? &s.sign[number % 2] : nullptr;
}

uint64_t Wire::calls(int r) const {
    return head->slot[r].calls;
}

size_t Wire::put(int to, const void *data, size_t n) {
    Ring *r = ring(rank, to);
    uint64_t at = r->written.load(std::memory_order_relaxed);
    n = std::min(n, ring_bytes - (size_t)(at - r->read.load(std::memory_order_acquire)));
    size_t first = std::min(n, ring_bytes - (size_t)(at % ring_bytes));
    memcpy(r->data + at % ring_bytes, data, first);
    memcpy(r->data, static_cast<const unsigned char *>(data) + first, n - first);
    r->written.store(at + n, std::memory_order_release);
    return n;
}

size_t Wire::get(int from, void *data, size_t n) {
    Ring *r = ring(from, rank);
    uint64_t at = r->read.load(std::memory_order_relaxed);
    n = std::min(n, (size_t)(r->written.load(std::memory_order_acquire) - at));
    size_t first = std::min(n, ring_bytes - (size_t)(at % ring_bytes));
    memcpy(data, r->data + at % ring_bytes, first);
    memcpy(static_cast<unsigned char *>(data) + first, r->data, n - first);
    r->read.store(at + n, std::memory_order_release);
    return n;
}

size_t Wire::unread(int from) const {
    const Ring *r = ring(from, rank);
    return (size_t)(r->written.load() - r->read.load());
}

size_t Wire::room(int to) const {
    const Ring *r = ring(rank, to);
    return ring_bytes - (size_t)(r->written.load() - r->read.load());
}

} // namespace cudasim
