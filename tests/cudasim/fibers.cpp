/* fibers.cpp - see fibers.h. The switch saves what the ABI calls callee-saved and nothing else; it takes a few
 * nanoseconds where swapcontext, with its system call for the signal mask, takes hundreds. */
#include "fibers.h"
#include "internal.h"

#include <sys/mman.h>

#ifdef CUDASIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the simulator's fibers are written for x86-64 System V"
#endif

/* Saves the context on the current stack, its pointer in *save, and continues from the context at `load`. */
extern "C" void cudasim_context_switch(void **save, void *load) CUDASIM_HIDDEN;
asm(R"(
.text
.globl cudasim_context_switch
.hidden cudasim_context_switch
.type cudasim_context_switch,@function
.p2align 4
cudasim_context_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cudasim_context_switch,.-cudasim_context_switch
)");

namespace cudasim {

Fiber *running_fiber;

namespace {

#ifdef CUDASIM_ASAN
constexpr size_t STACK_BYTES = 512 << 10; /* red zones make frames many times larger */
constexpr size_t TOP_BYTES = 8192;        /* more than the frames that an idle fiber stands in */
#else
constexpr size_t STACK_BYTES = 128 << 10;
#endif
constexpr size_t GUARD_BYTES = 4096;
constexpr int MAX_FIBERS = 1024; /* threads of a block */

unsigned char *region; /* MAX_FIBERS stacks, each above its guard page; touched only where used */
Fiber fibers[MAX_FIBERS], *idle[MAX_FIBERS];
int n_fibers, n_idle;
Fiber host_fiber, *previous_fiber;
unsigned epoch;
void (*entry_point)();

Fiber *make_fiber() {
    if (!region) {
        size_t all = (STACK_BYTES + GUARD_BYTES) * MAX_FIBERS;
        void *p = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) fail("cannot reserve %zu bytes for stacks", all);
        region = static_cast<unsigned char *>(p);
    }
    unsigned char *base = region + (STACK_BYTES + GUARD_BYTES) * (size_t)n_fibers + GUARD_BYTES;
    if (mprotect(base, STACK_BYTES, PROT_READ | PROT_WRITE)) fail("no memory for a stack of %zu bytes", STACK_BYTES);
    fibers[n_fibers] = Fiber{nullptr, base, STACK_BYTES, 0, nullptr};
    return &fibers[n_fibers++];
}

/* Makes the context that a first switch loads: six registers, then the entry's address. Stacks start at different
 * distances from the page, or the frames of all threads would fall into the same few sets of the cache. */
void prepare(Fiber *f) {
    static unsigned color;
    uintptr_t top = (uintptr_t)f->base + f->bytes - (color++ % 31) * 128;
#ifdef CUDASIM_ASAN /* the frames of a life before were left, not returned from */
    __asan_unpoison_memory_region(static_cast<const char *>(f->base) + f->bytes - TOP_BYTES, TOP_BYTES);
#endif
    void **sp = reinterpret_cast<void **>(top & ~(uintptr_t)15);
    *--sp = nullptr; /* the entry is called with the alignment of a call */
    *--sp = reinterpret_cast<void *>(entry_point);
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    f->sp = sp;
    f->epoch = epoch;
    f->asan_fake = nullptr;
}

} // namespace

void fibers_begin(void (*entry)()) {
    entry_point = entry;
    epoch++;
    for (n_idle = 0; n_idle < n_fibers; n_idle++) idle[n_idle] = &fibers[n_idle];
    running_fiber = &host_fiber;
}

Fiber *fiber_take() {
    Fiber *f = n_idle ? idle[--n_idle] : make_fiber();
    if (f->epoch != epoch) prepare(f);
    return f;
}

void fiber_give_back(Fiber *fiber) {
    idle[n_idle++] = fiber;
}

Fiber *fiber_host() {
    return &host_fiber;
}

void fiber_entered() {
#ifdef CUDASIM_ASAN
    const void *base;
    size_t bytes;
    __sanitizer_finish_switch_fiber(running_fiber->asan_fake, &base, &bytes);
    if (previous_fiber == &host_fiber) host_fiber.base = base, host_fiber.bytes = bytes;
#endif
}

void fiber_switch(Fiber *to) {
    Fiber *from = running_fiber;
    previous_fiber = from;
    running_fiber = to;
#ifdef CUDASIM_ASAN
    __sanitizer_start_switch_fiber(&from->asan_fake, to->base, to->bytes);
#endif
    cudasim_context_switch(&from->sp, to->sp);
    fiber_entered();
}

bool fiber_is_guard(const void *address) {
    const unsigned char *p = static_cast<const unsigned char *>(address);
    if (!region || p < region || p >= region + (STACK_BYTES + GUARD_BYTES) * MAX_FIBERS) return false;
    return (size_t)(p - region) % (STACK_BYTES + GUARD_BYTES) < GUARD_BYTES;
}

} // namespace cudasim
