/* test_curand.cpp - our Philox against NVIDIA's own device code, compiled for the host.
 *
 * curand_kernel.h is plain C++ apart from its decorations, so its generator runs on the CPU and is the oracle for
 * "integer bits equal those of cuRAND with seed = key, subsequence = stream, offset = index". Built only where the
 * header is found.
 */
#include <curand_kernel.h>

#include <cmath>
#include <cstdint>
#include <cstdio>

extern "C" {
#include "core/philox.h"
}

static int failures = 0;

static void check(bool good, const char *what, uint64_t key, uint64_t stream, uint64_t index) {
    if (good) return;
    failures++;
    std::printf("FAIL %s: key %llx stream %llx index %llx\n", what, (unsigned long long)key, (unsigned long long)stream,
                (unsigned long long)index);
}

static void same_bits(uint64_t key, uint64_t stream, uint64_t index) {
    curandStatePhilox4_32_10_t state;
    curand_init(key, stream, index, &state);
    for (uint64_t i = index; i < index + 9; i++) {
        uint32_t words[4];
        flrq_philox(words, key, stream, i >> 2);
        check(curand(&state) == words[i & 3], "bits", key, stream, i);
    }
}

/* Box-Muller in fp32 on the same words: library versions of log and sincos may differ by some units in the last place
 * of the radius (at most 6.8) and of the angle (at most 2 pi), each about 2^-24 relative. */
static void same_normals(uint64_t key, uint64_t stream, uint64_t index) {
    curandStatePhilox4_32_10_t state;
    curand_init(key, stream, index & ~(uint64_t)3, &state);
    float ours[8];
    flrq_philox_normal(ours, key, stream, index & ~(uint64_t)3, 8);
    for (int i = 0; i < 8; i += 4) {
        float4 theirs = curand_normal4(&state);
        const float want[4] = {theirs.x, theirs.y, theirs.z, theirs.w};
        for (int k = 0; k < 4; k++) {
            double error = std::fabs((double)ours[i + k] - (double)want[k]);
            check(error <= 8 * 6.8 * 0x1p-24, "normal", key, stream, index + (uint64_t)(i + k));
        }
    }
}

int main() {
    static const uint64_t values[] = {0, 1, 5, 0xffffffff, 0x100000000, 0x123456789abcdef, 0xffffffffffffff00};
    for (uint64_t key : values)
        for (uint64_t stream : values)
            for (uint64_t index : values) {
                same_bits(key, stream, index);
                same_normals(key, stream, index);
            }
    std::printf("cuRAND: %d failures\n", failures);
    return failures != 0;
}
