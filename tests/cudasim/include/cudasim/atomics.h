/*
 * atomics.h - atomic functions on global and shared memory.
 *
 * Threads are fibers of one processor and blocks run one after another, so a plain read-modify-write is atomic. What
 * this cannot show is a race: an update that should have been atomic gives the same result here (README.md, "What it
 * cannot find").
 */
#ifndef CUDASIM_ATOMICS_H
#define CUDASIM_ATOMICS_H

#define CUDASIM_ATOMIC(NAME, T, RESULT)                                                                                \
    inline T NAME(T *address, T value) {                                                                               \
        T old = *address;                                                                                              \
        *address = RESULT;                                                                                             \
        return old;                                                                                                    \
    }
#define CUDASIM_ATOMIC_INTEGER(T)                                                                                      \
    CUDASIM_ATOMIC(atomicMax, T, old < value ? value : old)                                                            \
    CUDASIM_ATOMIC(atomicMin, T, value < old ? value : old)                                                            \
    CUDASIM_ATOMIC(atomicAnd, T, old &value)                                                                           \
    CUDASIM_ATOMIC(atomicOr, T, old | value)                                                                           \
    CUDASIM_ATOMIC(atomicXor, T, old ^ value)                                                                          \
    CUDASIM_ATOMIC(atomicExch, T, value)                                                                               \
    inline T atomicCAS(T *address, T compare, T value) {                                                               \
        T old = *address;                                                                                              \
        if (old == compare) *address = value;                                                                          \
        return old;                                                                                                    \
    }

CUDASIM_ATOMIC_INTEGER(int)
CUDASIM_ATOMIC_INTEGER(unsigned int)
CUDASIM_ATOMIC_INTEGER(unsigned long long)
CUDASIM_ATOMIC(atomicAdd, unsigned int, old + value)
CUDASIM_ATOMIC(atomicAdd, unsigned long long, old + value)
CUDASIM_ATOMIC(atomicAdd, float, old + value)
CUDASIM_ATOMIC(atomicAdd, double, old + value)
CUDASIM_ATOMIC(atomicExch, float, value)
CUDASIM_ATOMIC(atomicSub, unsigned int, old - value)
/* Signed sums wrap, as on the device. */
CUDASIM_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
CUDASIM_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))

#undef CUDASIM_ATOMIC_INTEGER
#undef CUDASIM_ATOMIC
#endif
