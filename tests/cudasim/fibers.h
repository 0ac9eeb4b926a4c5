/*
 * fibers.h - stacks that a thread of a block runs on, and the switch between them.
 *
 * A stack belongs to the pool while no thread uses it; the pool grows to the largest number of threads that ever waited
 * at once. x86-64 System V only. Not thread-safe: the caller holds executor().
 */
#ifndef CUDASIM_FIBERS_H
#define CUDASIM_FIBERS_H

#include <stddef.h>

namespace cudasim {

struct Fiber {
    void *sp;         /* saved stack pointer while switched out */
    const void *base; /* lowest address of the stack */
    size_t bytes;
    unsigned epoch;  /* of the pool when it was last prepared */
    void *asan_fake; /* ASan's state of the stack while switched out */
};

/* The fiber that runs now; the host thread's own stack is one too. */
extern Fiber *running_fiber;

/* Begins a grid on this host thread: fibers of before are forgotten, every one starts `entry` anew. */
void fibers_begin(void (*entry)());
/* A fiber whose next switch enters `entry`, or one given back that continues where it switched away. */
Fiber *fiber_take();
void fiber_give_back(Fiber *fiber);
/* Returns when something switches back to the caller's fiber. */
void fiber_switch(Fiber *to);
/* First call of every `entry`. */
void fiber_entered();
/* The host thread's fiber. */
Fiber *fiber_host();
/* True if the address is in the guard page below a stack. */
bool fiber_is_guard(const void *address);

} // namespace cudasim

#endif
