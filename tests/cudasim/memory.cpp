/*
 * memory.cpp - device arenas and pinned memory.
 *
 * Each simulated device has an arena of reserved address space. It is inaccessible except while a Window is open, that
 * is while simulated work runs, so host code that follows a device pointer gets SIGSEGV, which is reported with the
 * allocation it hit. Allocations are filled with 0xFF bytes and separated by fences: under ASan these are poisoned, in
 * plain builds they hold 0xFF bytes whose change is reported. What is still allocated at exit is a reported leak and
 * makes the exit status 23.
 */
#include "internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <map>
#include <vector>

namespace cudasim {
namespace {

constexpr size_t ALIGN = 256; /* what cudaMalloc promises; also the size of a fence */
constexpr int EXIT_LEAK = 23;

struct Block {
    size_t bytes;
    const void *caller;
};
struct Device {
    unsigned char *arena;
    size_t high; /* bytes of the arena that have ever been used: only these are opened */
    size_t used; /* bytes of live allocations, rounded up */
    int windows; /* that are open on it */
    std::map<size_t, Block> blocks;
};

std::mutex table_mutex;
std::vector<Device> devices;
std::map<const unsigned char *, Block> pinned;
unsigned char *arenas;
size_t capacity, arena_span, arenas_span;
int open_windows;
pthread_t window_thread;
struct sigaction previous_segv;

size_t rounded(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

void protect(Device &d, size_t from, bool open) {
    size_t to = (d.high + 4095) & ~(size_t)4095;
    from &= ~(size_t)4095;
    if (to > from && mprotect(d.arena + from, to - from, open ? PROT_READ | PROT_WRITE : PROT_NONE))
        fail("mprotect of %zu bytes of device memory failed: too many mappings or too little memory", to - from);
}

/* One line about a fault inside the simulator's memory; other faults go to the handler of before. */
void on_segv(int signal, siginfo_t *info, void *context) {
    const unsigned char *at = static_cast<const unsigned char *>(info->si_addr);
    bool simulated = open_windows > 0 && pthread_equal(window_thread, pthread_self());
    const char *guard = guard_name(at);
    if (guard) fail("%s (address %p)", guard, static_cast<const void *>(at));
    if (in_arena(at)) {
        Allocation a;
        int device;
        bool hit = find_device(at, &a, &device, false);
        if (simulated) fail("access to device memory %p, which was never allocated", static_cast<const void *>(at));
        if (hit)
            fail("host code touched device memory %p (allocation of %zu bytes made at %s)",
                 static_cast<const void *>(at), a.bytes, describe_code(a.caller).c_str());
        fail("host code touched device memory %p (not allocated)", static_cast<const void *>(at));
    }
    /* A vector instruction at an odd address is a general protection fault, which comes without an address. */
    if (simulated && running_kernel() && info->si_code == SI_KERNEL) fail("misaligned vector access");
    if (simulated && running_kernel()) fail("access to address %p", static_cast<const void *>(at));
    if (previous_segv.sa_flags & SA_SIGINFO) return previous_segv.sa_sigaction(signal, info, context);
    if (previous_segv.sa_handler != SIG_DFL && previous_segv.sa_handler != SIG_IGN)
        return previous_segv.sa_handler(signal);
    sigaction(SIGSEGV, &previous_segv, nullptr); /* the instruction faults once more, without us */
}

/* A fault can be a full stack, so that the handler needs one of its own. ASan brings its own. */
struct SignalStack {
#ifndef CUDASIM_ASAN
    static constexpr size_t BYTES = 64 << 10;
    void *memory = malloc(BYTES);
    SignalStack() {
        stack_t s = {};
        s.ss_sp = memory;
        s.ss_size = BYTES;
        sigaltstack(&s, nullptr);
    }
    ~SignalStack() {
        stack_t s = {};
        s.ss_flags = SS_DISABLE;
        sigaltstack(&s, nullptr);
        free(memory);
    }
#endif
    void use() {}
};
thread_local SignalStack signal_stack;

void report_leaks() {
    size_t count = 0, bytes = 0;
    std::string first;
    {
        std::lock_guard<std::mutex> lock(table_mutex);
        for (Device &d : devices) {
            for (auto &b : d.blocks) {
                if (!count) first = std::to_string(b.second.bytes) + " bytes made at " + describe_code(b.second.caller);
                count++;
                bytes += b.second.bytes;
            }
        }
        for (auto &p : pinned) {
            if (!count) first = std::to_string(p.second.bytes) + " bytes made at " + describe_code(p.second.caller);
            count++;
            bytes += p.second.bytes;
        }
    }
    long handles = live_handles;
    if (!count && !handles) return;
    fflush(nullptr);
    fprintf(stderr, "cudasim: leak at exit: %zu allocations (%zu bytes)%s%s, %ld streams, events or handles\n", count,
            bytes, count ? ", the first of " : "", first.c_str(), handles);
    _exit(EXIT_LEAK);
}

void make_arenas() {
    int n = (int)env_number("FLRQ_CUDASIM_DEVICES", 1, 0, 64);
    capacity = (size_t)env_number("FLRQ_CUDASIM_MEMORY", 2L << 30, 1 << 16, 1L << 38);
    /* Twice the capacity of addresses: fences and gaps do not count as used memory. */
    arena_span = (2 * capacity + (4 << 20)) & ~(size_t)((2 << 20) - 1);
    arenas_span = arena_span * (size_t)n;
    devices.resize((size_t)n);
    if (!n) return;
    void *p = mmap(nullptr, arenas_span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("cannot reserve %zu bytes of addresses for %d devices", arenas_span, n);
    madvise(p, arenas_span, MADV_HUGEPAGE); /* opening and closing touches 512 times fewer page table entries */
    arenas = static_cast<unsigned char *>(p);
    for (int i = 0; i < n; i++) devices[(size_t)i] = Device{arenas + arena_span * (size_t)i, 0, 0, 0, {}};
    struct sigaction action = {};
    action.sa_sigaction = on_segv;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_segv);
    atexit(report_leaks);
}

void start_memory() {
    static std::once_flag once;
    std::call_once(once, make_arenas);
    start();
}

/* Place for `size` bytes and a fence on both sides; SIZE_MAX: none. Under table_mutex. */
size_t find_place(Device &d, size_t size) {
    size_t at = ALIGN;
    for (auto &b : d.blocks) {
        if (b.first - at >= size + ALIGN) return at;
        at = b.first + rounded(b.second.bytes) + ALIGN;
    }
    return at + size + ALIGN <= arena_span ? at : SIZE_MAX;
}

/* Fresh memory, with its fences, from the system's zeros to 0xFF; under a Window. Recycled memory was filled by
 * cudaFree. */
void extend(Device &d, size_t high) {
    if (high <= d.high) return;
    size_t from = d.high;
    d.high = high;
    protect(d, from, true);
#ifdef CUDASIM_ASAN
    __asan_unpoison_memory_region(d.arena + from, high - from);
#endif
    memset(d.arena + from, 0xff, high - from);
#ifdef CUDASIM_ASAN
    __asan_poison_memory_region(d.arena + from, high - from);
#endif
}

#ifndef CUDASIM_ASAN
/* Index of the first byte in [from, to) that is not 0xFF, or `to`. */
size_t first_change(const unsigned char *from, const unsigned char *to) {
    const unsigned char *p = from;
    while (p < to && *p == 0xff) p++;
    return (size_t)(p - from);
}
#endif

void check_block(const Device &d, size_t offset, const Block &b, const char *what) {
#ifdef CUDASIM_ASAN
    (void)d, (void)offset, (void)b, (void)what;
#else
    const unsigned char *begin = d.arena + offset, *end = begin + b.bytes, *fence = begin + rounded(b.bytes) + ALIGN;
    size_t after = first_change(end, fence), before = first_change(begin - ALIGN, begin);
    if (end + after < fence)
        fail("%s: out of bounds: byte %zu past an allocation of %zu bytes made at %s was written", what, after, b.bytes,
             describe_code(b.caller).c_str());
    if (before < ALIGN)
        fail("%s: out of bounds: byte %zu before an allocation of %zu bytes made at %s was written", what,
             ALIGN - before, b.bytes, describe_code(b.caller).c_str());
#endif
}

Device *device_of(const void *address, int *index) {
    const unsigned char *p = static_cast<const unsigned char *>(address);
    if (!arenas || p < arenas || p >= arenas + arenas_span) return nullptr;
    *index = (int)((size_t)(p - arenas) / arena_span);
    return &devices[(size_t)*index];
}

} // namespace

int device_count() {
    start_memory();
    return (int)devices.size();
}

size_t device_capacity() {
    start_memory();
    return capacity;
}

std::recursive_mutex &executor() {
    static std::recursive_mutex *mutex = new std::recursive_mutex; /* outlives every destructor */
    return *mutex;
}

void Window::open(int device) {
    signal_stack.use();
    if (devices >> device & 1) return;
    devices |= (uint64_t)1 << device;
    window_thread = pthread_self();
    open_windows++;
    Device &d = cudasim::devices[(size_t)device];
    if (!d.windows++) protect(d, 0, true);
}

Window::~Window() {
    for (size_t i = 0; i < cudasim::devices.size(); i++) {
        if (!(devices >> i & 1)) continue;
        Device &d = cudasim::devices[i];
        if (!--d.windows) protect(d, 0, false);
        open_windows--;
    }
}

bool in_arena(const void *address) {
    int index;
    return device_of(address, &index) != nullptr;
}

bool find_device(const void *address, Allocation *out, int *device, bool end_too) {
    Device *d = device_of(address, device);
    if (!d) return false;
    std::lock_guard<std::mutex> lock(table_mutex);
    size_t offset = (size_t)(static_cast<const unsigned char *>(address) - d->arena);
    auto it = d->blocks.upper_bound(offset);
    if (it == d->blocks.begin()) return false;
    --it;
    if (offset - it->first >= it->second.bytes + (end_too ? 1 : 0)) return false;
    *out = Allocation{d->arena + it->first, it->second.bytes, it->second.caller};
    return true;
}

bool find_pinned(const void *address, Allocation *out) {
    const unsigned char *p = static_cast<const unsigned char *>(address);
    std::lock_guard<std::mutex> lock(table_mutex);
    auto it = pinned.upper_bound(p);
    if (it == pinned.begin()) return false;
    --it;
    if ((size_t)(p - it->first) >= it->second.bytes) return false;
    *out = Allocation{const_cast<unsigned char *>(it->first), it->second.bytes, it->second.caller};
    return true;
}

bool is_host_memory(const void *address) {
    uintptr_t a = (uintptr_t)address;
    unsigned char resident;
#ifdef __SANITIZE_ADDRESS__
    if (a >= 0x7fff8000 && a < 0x10007fff8000)
        return false; /* the sanitizer's own shadow: two small numbers, no address */
#endif
    if (in_arena(address) || mincore(reinterpret_cast<void *>(a & ~(uintptr_t)4095), 1, &resident)) return false;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps) return false;
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long low, high;
        char mode[8];
        if (sscanf(line, "%lx-%lx %7s", &low, &high, mode) == 3) found = a >= low && a < high && mode[0] == 'r';
    }
    fclose(maps);
    return found;
}

int require_device(const void *ptr, size_t bytes, const char *what) {
    if (!bytes) return -1;
    Allocation a, p;
    int device;
    if (!find_device(ptr, &a, &device, false)) {
        if (in_arena(ptr)) fail("%s: address %p is not in a live device allocation", what, ptr);
        fail("%s: %p is %s, not device memory", what, ptr,
             !ptr                   ? "null"
             : find_pinned(ptr, &p) ? "pinned host memory"
                                    : "host memory");
    }
    size_t left = a.bytes - (size_t)(static_cast<const unsigned char *>(ptr) - a.begin);
    if (bytes > left)
        fail("%s: %zu bytes from %p, but its allocation of %zu bytes made at %s has %zu left", what, bytes, ptr,
             a.bytes, describe_code(a.caller).c_str(), left);
    return device;
}

void check_fences(const void *address, const char *what) {
    int device;
    Allocation a;
    if (!find_device(address, &a, &device, true)) return;
    Device &d = devices[(size_t)device];
    check_block(d, (size_t)(a.begin - d.arena), Block{a.bytes, a.caller}, what);
}

} // namespace cudasim

using namespace cudasim;

/* Pinned memory is ordinary memory that copies may read late. */
static cudaError_t allocate_pinned(void **ptr, size_t bytes, const void *caller) {
    start_memory();
    if (!ptr) return remember(cudaErrorInvalidValue);
    *ptr = nullptr;
    if (device_fault() != cudaSuccess) return device_fault();
    if (injected(CUDASIM_ALLOC)) return remember(cudaErrorMemoryAllocation);
    if (!bytes) return cudaSuccess;
    void *p;
    if (posix_memalign(&p, ALIGN, bytes)) return remember(cudaErrorMemoryAllocation);
    memset(p, 0xff, bytes);
    std::lock_guard<std::mutex> lock(table_mutex);
    pinned[static_cast<unsigned char *>(p)] = Block{bytes, caller};
    *ptr = p;
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaMalloc(void **ptr, size_t bytes) {
    start_memory();
    if (!ptr) return remember(cudaErrorInvalidValue);
    *ptr = nullptr;
    if (devices.empty()) return remember(cudaErrorNoDevice);
    if (device_fault() != cudaSuccess) return device_fault();
    if (injected(CUDASIM_ALLOC)) return remember(cudaErrorMemoryAllocation);
    if (!bytes) return cudaSuccess;
    if (bytes > capacity) return remember(cudaErrorMemoryAllocation);
    std::lock_guard<std::recursive_mutex> run(executor());
    Window window(current_device());
    std::lock_guard<std::mutex> lock(table_mutex);
    Device &d = devices[(size_t)current_device()];
    size_t size = rounded(bytes), at = d.used + size <= capacity ? find_place(d, size) : SIZE_MAX;
    if (at == SIZE_MAX) return remember(cudaErrorMemoryAllocation);
    extend(d, at + size + ALIGN);
#ifdef CUDASIM_ASAN
    __asan_unpoison_memory_region(d.arena + at, bytes);
#endif
    d.used += size;
    d.blocks[at] = Block{bytes, __builtin_return_address(0)};
    *ptr = d.arena + at;
    return cudaSuccess;
}

/* Waits for all work of the device first, as the real one does; frees also after a device fault, so that clean-up can
 * be checked. */
cudaError_t cudaFree(void *ptr) {
    start_memory();
    if (!ptr) return device_fault();
    int index;
    Device *d = device_of(ptr, &index);
    if (!d) fail("cudaFree(%p): not device memory", ptr);
    drain_device(index);
    std::lock_guard<std::recursive_mutex> run(executor());
    Window window(index);
    std::lock_guard<std::mutex> lock(table_mutex);
    size_t offset = (size_t)(static_cast<unsigned char *>(ptr) - d->arena);
    auto it = d->blocks.find(offset);
    if (it == d->blocks.end()) fail("cudaFree(%p): no live allocation begins there (freed twice?)", ptr);
    check_block(*d, offset, it->second, "cudaFree");
    memset(ptr, 0xff, it->second.bytes);
#ifdef CUDASIM_ASAN
    __asan_poison_memory_region(ptr, it->second.bytes);
#endif
    d->used -= rounded(it->second.bytes);
    d->blocks.erase(it);
    return device_fault();
}

cudaError_t cudaMallocHost(void **ptr, size_t bytes) {
    return allocate_pinned(ptr, bytes, __builtin_return_address(0));
}

cudaError_t cudaHostAlloc(void **ptr, size_t bytes, unsigned int) {
    return allocate_pinned(ptr, bytes, __builtin_return_address(0));
}

cudaError_t cudaFreeHost(void *ptr) {
    start_memory();
    if (!ptr) return device_fault();
    drain_device(current_device());
    std::lock_guard<std::mutex> lock(table_mutex);
    if (!pinned.erase(static_cast<unsigned char *>(ptr)))
        fail("cudaFreeHost(%p): no live pinned allocation begins there (freed twice?)", ptr);
    free(ptr);
    return device_fault();
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    start_memory();
    if (devices.empty()) return remember(cudaErrorNoDevice);
    if (device_fault() != cudaSuccess) return device_fault();
    std::lock_guard<std::mutex> lock(table_mutex);
    *total_bytes = capacity;
    *free_bytes = capacity - devices[(size_t)current_device()].used;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *ptr) {
    start_memory();
    Allocation a;
    *out = cudaPointerAttributes{cudaMemoryTypeUnregistered, -1, nullptr, const_cast<void *>(ptr)};
    if (find_pinned(ptr, &a)) {
        out->type = cudaMemoryTypeHost;
    } else if (find_device(ptr, &a, &out->device, false)) {
        out->type = cudaMemoryTypeDevice;
        out->devicePointer = const_cast<void *>(ptr);
        out->hostPointer = nullptr;
    }
    return cudaSuccess;
}

__attribute__((visibility("default"))) size_t cudasim_live_bytes(void) {
    std::lock_guard<std::mutex> lock(table_mutex);
    size_t sum = 0;
    for (Device &d : devices)
        for (auto &b : d.blocks) sum += b.second.bytes;
    for (auto &p : pinned) sum += p.second.bytes;
    return sum;
}

__attribute__((visibility("default"))) long cudasim_live_objects(void) {
    std::lock_guard<std::mutex> lock(table_mutex);
    long count = live_handles + (long)pinned.size();
    for (Device &d : devices) count += (long)d.blocks.size();
    return count;
}

} // extern "C"
