/* allocator.h - the program's allocator, on top of the one of the C library: counts the blocks that are alive and lets
 * one chosen allocation fail. For test programs that include it once, and not under AddressSanitizer, whose allocator
 * cannot be replaced.
 */
#ifndef FLRQ_TESTS_ALLOCATOR_H
#define FLRQ_TESTS_ALLOCATOR_H

#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t align, size_t bytes);
extern void __libc_free(void *block);

static struct {
    int armed;
    int skip; /* allocations that succeed before the one that fails */
    int happened;
    long alive, calls;
} allocator;

static int refuses(void) {
    allocator.calls++;
    if (!allocator.armed || allocator.skip-- != 0) return 0;
    allocator.happened = 1;
    errno = ENOMEM;
    return 1;
}

static void *counted(void *block) {
    allocator.alive += block != NULL;
    return block;
}

/* The shared libraries must find these too, also in a build that hides symbols. */
#pragma GCC visibility push(default)
void *malloc(size_t bytes) {
    return refuses() ? NULL : counted(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes) {
    return refuses() ? NULL : counted(__libc_calloc(count, bytes));
}

void *aligned_alloc(size_t align, size_t bytes) {
    return refuses() ? NULL : counted(__libc_memalign(align, bytes));
}

void *realloc(void *old, size_t bytes) {
    if (refuses()) return NULL;
    void *block = __libc_realloc(old, bytes);
    allocator.alive += block && !old;
    return block;
}

void free(void *block) {
    allocator.alive -= block != NULL;
    __libc_free(block);
}
#pragma GCC visibility pop

#endif
