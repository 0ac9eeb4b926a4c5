/* philox.c - the generator; see philox.h for the contract. */
#include "core/philox.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

void flrq_philox(uint32_t out[4], uint64_t key, uint64_t stream, uint64_t block) {
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

uint64_t flrq_philox_key(uint64_t seed, const char *name) {
    return XXH64(name, strlen(name), seed);
}

uint64_t flrq_philox_below(uint64_t key, uint64_t stream, uint64_t index, uint64_t bound) {
    uint32_t w[4];
    flrq_philox(w, key, stream, index / 2);
    uint64_t r = (uint64_t)w[2 * (index & 1)] << 32 | w[2 * (index & 1) + 1];
    return (uint64_t)(((unsigned __int128)r * bound) >> 64);
}

/* One Box-Muller pair. u is in (0, 1]: the half step keeps the logarithm finite. */
static void normal_pair(float out[2], uint32_t a, uint32_t b) {
    float u = (float)a * 0x1p-32f + 0x1p-33f, angle = (float)b * (6.2831855f * 0x1p-32f) + 6.2831855f * 0x1p-33f;
    float radius = sqrtf(-2.0f * logf(u));
    out[0] = radius * sinf(angle);
    out[1] = radius * cosf(angle);
}

void flrq_philox_normal(float *out, uint64_t key, uint64_t stream, uint64_t index0, uint64_t count) {
    for (uint64_t done = 0; done < count;) {
        uint64_t index = index0 + done, skip = index & 3;
        uint32_t w[4];
        float z[4];
        flrq_philox(w, key, stream, index >> 2);
        normal_pair(z, w[0], w[1]);
        normal_pair(z + 2, w[2], w[3]);
        uint64_t take = 4 - skip < count - done ? 4 - skip : count - done;
        memcpy(out + done, z + skip, take * sizeof *z);
        done += take;
    }
}
