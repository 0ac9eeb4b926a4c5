/*
 * curand_kernel.h - cuRAND's device Philox, the part that flrq uses.
 *
 * Gives the bits of NVIDIA's curandStatePhilox4_32_10_t: key = seed, counter words 2 and 3 = subsequence, counter words
 * 0 and 1 = offset / 4, and the first word returned is word offset % 4 of that block. Written from the published
 * algorithm (Salmon et al., Parallel random numbers: as easy as 1, 2, 3); tests compare it with host/core/philox.c.
 */
#ifndef CUDASIM_CURAND_KERNEL_H
#define CUDASIM_CURAND_KERNEL_H

#include "cuda_runtime.h"

struct curandStatePhilox4_32_10 {
    uint4 ctr; /* the block that `output` was made from */
    uint4 output;
    uint2 key;
    unsigned int STATE; /* next word of `output` */
};
typedef struct curandStatePhilox4_32_10 curandStatePhilox4_32_10_t;

inline uint4 curand_Philox4x32_10(uint4 c, uint2 k) {
    for (int round = 0; round < 10; round++) {
        unsigned long long a = 0xD2511F53ull * c.x, b = 0xCD9E8D57ull * c.z;
        c = uint4{(unsigned)(b >> 32) ^ c.y ^ k.x, (unsigned)b, (unsigned)(a >> 32) ^ c.w ^ k.y, (unsigned)a};
        k.x += 0x9E3779B9u;
        k.y += 0xBB67AE85u;
    }
    return c;
}

/* Advances the 128-bit counter by n blocks. */
inline void cudasim_philox_skip(curandStatePhilox4_32_10_t *s, unsigned long long n) {
    unsigned __int128 c = (unsigned __int128)s->ctr.w << 96 | (unsigned __int128)s->ctr.z << 64 |
                          (unsigned __int128)s->ctr.y << 32 | s->ctr.x;
    c += n;
    s->ctr = uint4{(unsigned)c, (unsigned)(c >> 32), (unsigned)(c >> 64), (unsigned)(c >> 96)};
}

inline void curand_init(unsigned long long seed, unsigned long long subsequence, unsigned long long offset,
                        curandStatePhilox4_32_10_t *state) {
    state->ctr = uint4{0, 0, (unsigned)subsequence, (unsigned)(subsequence >> 32)};
    state->key = uint2{(unsigned)seed, (unsigned)(seed >> 32)};
    state->STATE = (unsigned)(offset & 3);
    cudasim_philox_skip(state, offset / 4);
    state->output = curand_Philox4x32_10(state->ctr, state->key);
}

inline uint4 curand4(curandStatePhilox4_32_10_t *state) {
    uint4 now = state->output;
    cudasim_philox_skip(state, 1);
    uint4 next = state->output = curand_Philox4x32_10(state->ctr, state->key);
    switch (state->STATE) {
    case 1:
        return uint4{now.y, now.z, now.w, next.x};
    case 2:
        return uint4{now.z, now.w, next.x, next.y};
    case 3:
        return uint4{now.w, next.x, next.y, next.z};
    default:
        return now;
    }
}

inline unsigned int curand(curandStatePhilox4_32_10_t *state) {
    unsigned int word[4] = {state->output.x, state->output.y, state->output.z, state->output.w};
    unsigned int r = word[state->STATE++];
    if (state->STATE == 4) {
        state->STATE = 0;
        cudasim_philox_skip(state, 1);
        state->output = curand_Philox4x32_10(state->ctr, state->key);
    }
    return r;
}

#endif
