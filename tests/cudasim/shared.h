/*
 * shared.h - the shared memory of the one block that runs.
 *
 * Dynamic shared memory ends at a guard page and is surrounded by fences. Static shared memory is made of thread-local
 * variables of the kernels (device.h), found through the symbol table of the file that contains the simulator; under
 * ASan it is made of ordinary statics, and only dynamic shared memory is filled. Both start every block as 0xFF bytes.
 */
#ifndef CUDASIM_SHARED_H
#define CUDASIM_SHARED_H

#include <stddef.h>

namespace cudasim {

/* Largest dynamic shared memory of a block that has asked for it, and of one that has not. */
constexpr size_t SHARED_MAX = 227 << 10, SHARED_DEFAULT = 48 << 10;

/* Before the first block of a launch: places `bytes` of dynamic shared memory and returns its address. */
unsigned char *shared_begin(size_t bytes);
/* Before each block. */
void shared_fill();
/* After each block: reports writes beside the dynamic shared memory. */
void shared_check();
bool shared_is_guard(const void *address);

} // namespace cudasim

#endif
