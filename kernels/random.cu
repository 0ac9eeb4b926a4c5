/* random.cu - standard normals from cuRAND's Philox generator, keyed as in host/core/philox.h.
 *
 * The only file that includes cuRAND's device header, whose tables weigh 100 KB. One thread per counter: four words,
 * two Box-Muller pairs. The integers equal those of the CPU generator; the normals differ from it by the last bits of
 * logf, sinf and cosf. Floor: 4 bytes written per value; 10 Philox rounds and 3 transcendental functions per pair make
 * it instruction-bound, about 60 instructions a value.
 */
#include <curand_kernel.h>

#include "device.cuh"
#include "matrix_kernels.h"

/* One Box-Muller pair, as normal_pair() of philox.c. */
__device__ static void normal_pair(float out[2], uint32_t a, uint32_t b) {
    float u = (float)a * 0x1p-32f + 0x1p-33f, angle = (float)b * (6.2831855f * 0x1p-32f) + 6.2831855f * 0x1p-33f;
    float radius = sqrtf(-2.0f * logf(u));
    out[0] = radius * sinf(angle);
    out[1] = radius * cosf(angle);
}

/* normal_kernel - standard normals index0 .. index0 + count - 1 of (key, subsequence)
 *   out  out [count] f32
 *   owns      thread = one Philox counter, 4 values; grid = ceil(counters / 256) in x
 *   needs     nothing: index0 and count of any remainder by 4
 *   cost      writes out once; about 60 instructions a value; case "normal"
 *   numerics  integers of cuRAND; IEEE square root, logf, sinf and cosf within 2 ulp
 *   order     deterministic: a value depends on its index alone
 */
__global__ void __launch_bounds__(256)
    normal_kernel(float *out, uint64_t key, uint64_t subsequence, uint64_t index0, uint64_t first, int64_t count) {
    uint64_t counter = first + (uint64_t)blockIdx.x * 256 + threadIdx.x;
    curandStatePhilox4_32_10_t state;
    curand_init(key, subsequence, 4 * counter, &state);
    uint4 words = curand4(&state);
    float z[4];
    normal_pair(z, words.x, words.y);
    normal_pair(z + 2, words.z, words.w);
    for (int k = 0; k < 4; k++) {
        int64_t at = (int64_t)(4 * counter + k - index0); /* below 0 in the first counter, beyond count in the last */
        if (at >= 0 && at < count) out[at] = z[k];
    }
}

cudaError_t flrq_launch_normal(float *out, uint64_t key, uint64_t subsequence, uint64_t index0, int64_t count,
                               cudaStream_t stream) {
    uint64_t first = index0 / 4, counters = (index0 + (uint64_t)count - 1) / 4 - first + 1;
    FLRQ_LAUNCH(normal_kernel, (unsigned)((counters + 255) / 256), 256, 0, stream, out, key, subsequence, index0, first,
                count);
    return cudaGetLastError();
}
