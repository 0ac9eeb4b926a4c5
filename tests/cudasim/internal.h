/*
 * internal.h - what the simulator's own sources share: errors, configuration, memory, streams, the executor.
 *
 * Order of locks: executor() first, then the mutex of a table; nothing that may wait for the executor is called under a
 * table's mutex. Simulated work runs only under the executor, on a host thread that waits for work, be it its own or
 * another's. Work that needs another worker (nccl.cpp) never waits under the executor: it is tried again.
 */
#ifndef CUDASIM_INTERNAL_H
#define CUDASIM_INTERNAL_H

#include <atomic>
#include <functional>
#include <mutex>
#include <string>

#include "cuda_runtime.h"

#ifdef CUDASIM_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace cudasim {

/* --- errors.cpp: reports, error state, fault injection, configuration --- */

/* Reports a bug of the simulated program on one line of standard error, with the kernel and thread if one runs, and
 * aborts. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "function+0x12 in file" of a code address. */
std::string describe_code(const void *address);
/* Environment variable as a number within [low, high], or `missing`; anything else is a report. */
long env_number(const char *name, long missing, long low, long high);

/* xorshift generator; every user has its own, so that one's use does not move another's sequence. */
struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15ull + 0x2545F4914F6CDD1Dull) {
        for (int i = 0; i < 8; i++) next();
    }
    uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        return state ^= state << 17;
    }
    /* Uniform below n, up to a bias of n / 2^32. */
    unsigned below(unsigned n) { return (unsigned)((next() >> 32) * n >> 32); }
};

/* Keeps an error for cudaGetLastError of this thread; returns it. */
cudaError_t remember(cudaError_t error);
/* A device fault, if one has happened, or success. */
cudaError_t device_fault();
void set_device_fault(cudaError_t error);
/* Counts a call of `kind` (CUDASIM_ALLOC ...); true: this one must fail. */
bool injected(int kind);
/* Reads the environment, on first use. */
void start();
/* Objects that the program must give back: streams, events, handles. */
extern std::atomic<long> live_handles;

/* --- memory.cpp: device arenas, pinned memory, protection, leak report --- */

struct Allocation {
    unsigned char *begin;
    size_t bytes;       /* as asked for */
    const void *caller; /* of cudaMalloc */
};
int device_count();
size_t device_capacity();
/* The executor: one host thread at a time runs simulated work. */
std::recursive_mutex &executor();
/* Through one, its thread may touch the memory of the devices that it has opened. Made and used under executor(). */
struct Window {
    Window() : devices(0) {}
    explicit Window(int device) : devices(0) { open(device); }
    ~Window();
    Window(const Window &) = delete;
    Window &operator=(const Window &) = delete;
    void open(int device);

  private:
    uint64_t devices; /* a bit for each */
};
/* The live device allocation that contains `address` (or ends at it, when `end_too`); false: none. */
bool find_device(const void *address, Allocation *out, int *device, bool end_too);
/* True if the address lies in the arenas, in an allocation or not. */
bool in_arena(const void *address);
/* The live pinned allocation that contains `address`. */
bool find_pinned(const void *address, Allocation *out);
/* True if the address is mapped memory of the host: heap, stack, globals, pinned memory. */
bool is_host_memory(const void *address);
/* Reports unless [ptr, ptr + bytes) lies in one live allocation; returns its device. bytes = 0: anything goes. */
int require_device(const void *ptr, size_t bytes, const char *what);
/* After work `what`: reports if bytes around the allocation that contains `address` have changed. */
void check_fences(const void *address, const char *what);

/* --- blocks.cpp: execution of one grid --- */

/* Runs every block; under executor() and a Window. */
void run_grid(const Launch &launch);
/* Position of the running thread for a message, or "". */
std::string running_thread();
/* Name of the running kernel, or null; and whether `address` is a guard page of fiber stacks or of shared memory. */
const char *running_kernel();
const char *guard_name(const void *address);

/* --- streams.cpp: queues of deferred work --- */

/* Appends work to a stream (null: the default stream of the current device). It runs under a Window of that device. */
void enqueue(cudaStream_t stream, std::function<void()> work);
/* The device of a stream; reports a stream that is not alive. */
int stream_device(cudaStream_t stream, const char *what);
/* The same for work that may have to wait for other workers: called again until it returns true. Without a Window. */
void enqueue_trials(cudaStream_t stream, std::function<bool()> work);
/* Runs everything queued on a device; the caller does not hold executor(). */
void drain_device(int device);
/* Runs a little of what is queued, where no other thread runs work. */
void progress();
/* Forgets queued work: after a device fault. */
void drop_all_work();
int current_device();

} // namespace cudasim

#endif
