/* device.cuh - what every kernel file includes: the CUDA headers or those of the simulator, the launch macro, wrappers
 * of the few PTX instructions in use, and the element access of operands.
 *
 * One source, two compilers: nvcc for the device, g++ with -DFLRQ_CUDASIM for the simulator of tests/cudasim, which
 * executes the same kernels on the CPU. So the rules of kernel sources are: launch with FLRQ_LAUNCH, declare dynamic
 * shared memory with FLRQ_DYN_SMEM, no inline PTX outside this file. Built with -fmad=false (simulator:
 * -ffp-contract=off): a*b+c is rounded twice unless it is written fmaf, so that both give the same bits.
 */
#ifndef FLRQ_KERNELS_DEVICE_CUH
#define FLRQ_KERNELS_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

#include "view.h"

#ifndef FLRQ_CUDASIM

/** Before a loop over a register array: its indices must be compile-time constants. */
#define FLRQ_UNROLL _Pragma("unroll")

#define FLRQ_LAUNCH(kernel, grid, block, smem, stream, ...) (kernel)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)

#define FLRQ_DYN_SMEM(T, name)                                                                                         \
    extern __shared__ __align__(16) unsigned char flrq_dynamic_shared[];                                               \
    T *name = reinterpret_cast<T *>(flrq_dynamic_shared)

/** d[4] += A[16,16] B[16,8] of bf16 by one warp (PTX mma.m16n8k16 row.col; fragment layouts as in the PTX ISA). */
__device__ __forceinline__ void flrq_mma_bf16_16816(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/** Four 8x8 matrices of 16-bit elements from shared memory; lane i gives the address of row i % 8 of matrix i / 8. */
__device__ __forceinline__ void flrq_ldmatrix_x4(uint32_t r[4], const void *shared_row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared_row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

/** The same, each matrix transposed. */
__device__ __forceinline__ void flrq_ldmatrix_x4_trans(uint32_t r[4], const void *shared_row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared_row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

/** Starts a copy of 16 bytes from global to shared memory, both 16-byte aligned. */
__device__ __forceinline__ void flrq_cp_async16(void *shared_to, const void *from) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared_to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(address), "l"(from));
}

/** Closes a group of started copies. */
__device__ __forceinline__ void flrq_cp_async_commit() {
    asm volatile("cp.async.commit_group;\n");
}

/** Waits until at most N groups of this thread are under way. */
template <int N> __device__ __forceinline__ void flrq_cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N));
}

/** 2^x to two units in the last place, in one instruction; results below 2^-126 are 0. */
__device__ __forceinline__ float flrq_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else
#define FLRQ_UNROLL
static inline float flrq_exp2(float x) {
    return exp2f(x);
}
#endif

/** For launchers: tiles that cover `count`, and whether an address is a multiple of `bytes`. */
static inline int64_t flrq_ceil_div(int64_t count, int64_t tile) {
    return count / tile + (count % tile != 0);
}

static inline bool flrq_aligned(const void *pointer, size_t bytes) {
    return (uintptr_t)pointer % bytes == 0;
}

/** Largest grid dimension in y and z. */
enum { FLRQ_GRID_YZ_MAX = 65535 };

/** Sum over the warp, the same in every lane. All 32 lanes must call. */
template <class T> __device__ __forceinline__ T flrq_warp_sum(T value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

/** Largest value over the warp, the same in every lane. All 32 lanes must call. */
__device__ __forceinline__ float flrq_warp_max(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

/** Sum over a block of `threads` (a multiple of 32, at most 1024), valid in thread 0. `shared` [32] may be reused after
 *  the next __syncthreads(). The order of the sum depends on `threads` alone. */
template <class T> __device__ T flrq_block_sum(T value, T *shared, int thread, int threads) {
    value = flrq_warp_sum(value);
    if (thread % 32 == 0) shared[thread / 32] = value;
    __syncthreads();
    T total = 0;
    if (thread < 32) {
        total = thread < threads / 32 ? shared[thread] : T(0);
        total = flrq_warp_sum(total);
    }
    return total;
}

/** Element `index` of a float array of `dtype`. */
__device__ __forceinline__ float flrq_load_float(const void *data, int32_t dtype, int64_t index) {
    if (dtype == FLRQ_F32) return static_cast<const float *>(data)[index];
    if (dtype == FLRQ_F16) return __half2float(static_cast<const __half *>(data)[index]);
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[index]);
}

/** Element (i, j) without the low-rank part and the column scale. */
__device__ __forceinline__ float flrq_view_base(const flrq_view &v, int64_t i, int64_t j) {
    float value = v.dense ? flrq_load_float(v.dense, v.dtype, i * v.ld + j) : 0.0f;
    if (v.code) {
        int64_t cell = i * v.n_groups + j / v.group;
        float zero = v.zero ? (float)v.zero[cell] : v.middle;
        value = fmaf(v.codes_sign * v.scale[cell], (float)v.code[i * v.cols + j] - zero, value);
    }
    return value;
}

#endif
