/*
 * device.h - the device language: function and memory qualifiers, built-in variables, barriers, warp operations, tensor
 * core and asynchronous copy wrappers, and the launch macro.
 *
 * Every thread of a block runs as a fiber (fibers.cpp); one block runs at a time. The built-in variables are therefore
 * plain globals, rewritten when another thread is switched to: they must stay macros over `cudasim::self`, so that no
 * compiler keeps them across a barrier. Refuses what it cannot simulate by not declaring it (wgmma, TMA, cooperative
 * groups, textures).
 */
#ifndef CUDASIM_DEVICE_H
#define CUDASIM_DEVICE_H

#include <cmath>
#include <stdint.h>
#include <string.h>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"

#if defined(__SANITIZE_ADDRESS__)
#define CUDASIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDASIM_ASAN 1
#endif
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* Static shared memory. Plain builds keep it thread-local: the runtime finds those variables in the symbol table and
 * fills them with 0xFF bytes before each block, also where they belong to a template (GCC drops the section attribute
 * there). Under ASan it is an ordinary static, which gets red zones; thread-local variables get none. */
#ifdef CUDASIM_ASAN
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

#define CUDASIM_HIDDEN __attribute__((visibility("hidden")))

namespace cudasim {

/* What the built-in variables read. */
struct ThreadView {
    uint3 index;
};
extern CUDASIM_HIDDEN ThreadView *self;
extern CUDASIM_HIDDEN uint3 block_index;
extern CUDASIM_HIDDEN dim3 block_size, grid_size;
extern CUDASIM_HIDDEN unsigned char *dynamic_shared;

/* Barriers and warp operations; `line` and `file` name the call in messages and tell one call site from another. Each
 * returns when all threads that take part have arrived. A thread that cannot be waited for is a reported error. */
enum class Reduce { none, any, all, count };
CUDASIM_HIDDEN int barrier(Reduce kind, int predicate, const char *file, int line);
enum class Shuffle { up, down, butterfly, index };
CUDASIM_HIDDEN uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int arg, int width, int line);
CUDASIM_HIDDEN unsigned ballot(unsigned mask, int predicate, int line);
enum class Fold { max_signed, min_signed, max_unsigned, min_unsigned, add, bit_and, bit_or, bit_xor };
CUDASIM_HIDDEN unsigned fold(Fold kind, unsigned mask, unsigned value, int line);
CUDASIM_HIDDEN unsigned match_any(unsigned mask, uint64_t bits, int line);
CUDASIM_HIDDEN void warp_barrier(unsigned mask, int line);
CUDASIM_HIDDEN void mma_16816(bool bf16, float d[4], const uint32_t a[4], const uint32_t b[2], int line);
CUDASIM_HIDDEN void ldmatrix_x4(uint32_t r[4], const void *row, bool transposed, int line);
CUDASIM_HIDDEN void copy_async(void *shared, const void *global, unsigned bytes);
CUDASIM_HIDDEN void copy_commit();
CUDASIM_HIDDEN void copy_wait(unsigned groups_left);
[[noreturn]] CUDASIM_HIDDEN void device_trap(const char *what, const char *file, int line);

/* One kernel launch, on its way to a stream. `run` executes the kernel for the current thread. */
struct Launch {
    const char *name;
    const void *function;
    dim3 grid, block;
    size_t dynamic_smem;
    void (*run)(void *call);
    std::shared_ptr<void> call;
    std::vector<const void *> pointers; /* device addresses among the arguments */
};
/* Looks for addresses in an argument's bytes: device pointers must be live and of the stream's device, host pointers
 * are an error. */
CUDASIM_HIDDEN void check_argument(Launch &launch, cudaStream_t stream, int position, const void *bytes, size_t size);
CUDASIM_HIDDEN void submit(Launch &&launch, cudaStream_t stream);

/* Zeroes the bytes of an argument that belong to no member: what happens to lie there may look like an address. */
template <class T> inline void clear_padding(T &value) {
#if __has_builtin(__builtin_clear_padding) /* older clang: padding is looked at, a false report is unlikely */
    if constexpr (std::is_class_v<T>) __builtin_clear_padding(&value);
#else
    (void)value;
#endif
}

template <class... P, class... A>
void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, A &&...a) {
    struct Call {
        void (*kernel)(P...);
        std::tuple<std::decay_t<P>...> args;
    };
    auto call = std::make_shared<Call>(Call{kernel, {static_cast<P>(std::forward<A>(a))...}});
    Launch l{name, reinterpret_cast<const void *>(kernel), grid, block, smem, nullptr, call, {}};
    l.run = [](void *c) { std::apply(static_cast<Call *>(c)->kernel, static_cast<Call *>(c)->args); };
    int position = 0;
    std::apply([](auto &...v) { (clear_padding(v), ...); }, call->args);
    std::apply([&](const auto &...v) { (check_argument(l, stream, ++position, &v, sizeof v), ...); }, call->args);
    submit(std::move(l), stream);
}

template <class T> inline uint64_t to_bits(T v) {
    static_assert(sizeof(T) <= 8, "a warp operation moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    return bits;
}
template <class T> inline T from_bits(uint64_t bits) {
    T v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

} // namespace cudasim

/* Launch of a kernel: FLRQ_LAUNCH((kernel<T>), grid, block, smem_bytes, stream, args...). */
#define FLRQ_LAUNCH(kernel, grid, block, smem, stream, ...)                                                            \
    ::cudasim::launch(#kernel, (kernel), (grid), (block), (smem), (stream), ##__VA_ARGS__)
/* The block's dynamic shared memory as `T *name`. */
#define FLRQ_DYN_SMEM(T, name) T *name = reinterpret_cast<T *>(::cudasim::dynamic_shared)

#define threadIdx (::cudasim::self->index)
#define blockIdx  (::cudasim::block_index)
#define blockDim  (::cudasim::block_size)
#define gridDim   (::cudasim::grid_size)
static const int warpSize = 32;

/* The line of the caller: default arguments are evaluated there. */
#define CUDASIM_LINE int line = __builtin_LINE()
#define CUDASIM_FILE const char *file = __builtin_FILE()

inline void __syncthreads(CUDASIM_FILE, CUDASIM_LINE) {
    cudasim::barrier(cudasim::Reduce::none, 0, file, line);
}
inline int __syncthreads_or(int p, CUDASIM_FILE, CUDASIM_LINE) {
    return cudasim::barrier(cudasim::Reduce::any, p, file, line);
}
inline int __syncthreads_and(int p, CUDASIM_FILE, CUDASIM_LINE) {
    return cudasim::barrier(cudasim::Reduce::all, p, file, line);
}
inline int __syncthreads_count(int p, CUDASIM_FILE, CUDASIM_LINE) {
    return cudasim::barrier(cudasim::Reduce::count, p, file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDASIM_LINE) {
    cudasim::warp_barrier(mask, line);
}
/* Blocks run one after another and fibers on one processor: memory is always in order. */
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap(CUDASIM_FILE, CUDASIM_LINE) {
    cudasim::device_trap("__trap()", file, line);
}

template <class T> inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32, CUDASIM_LINE) {
    return cudasim::from_bits<T>(
        cudasim::shuffle(cudasim::Shuffle::index, mask, cudasim::to_bits(v), lane, width, line));
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, CUDASIM_LINE) {
    return cudasim::from_bits<T>(
        cudasim::shuffle(cudasim::Shuffle::up, mask, cudasim::to_bits(v), (int)delta, width, line));
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, CUDASIM_LINE) {
    return cudasim::from_bits<T>(
        cudasim::shuffle(cudasim::Shuffle::down, mask, cudasim::to_bits(v), (int)delta, width, line));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32, CUDASIM_LINE) {
    return cudasim::from_bits<T>(
        cudasim::shuffle(cudasim::Shuffle::butterfly, mask, cudasim::to_bits(v), lanes, width, line));
}
inline unsigned __ballot_sync(unsigned mask, int p, CUDASIM_LINE) {
    return cudasim::ballot(mask, p, line);
}
inline int __any_sync(unsigned mask, int p, CUDASIM_LINE) {
    return cudasim::ballot(mask, p, line) != 0;
}
inline int __all_sync(unsigned mask, int p, CUDASIM_LINE) {
    return cudasim::ballot(mask, p, line) == mask;
}
template <class T> inline unsigned __match_any_sync(unsigned mask, T v, CUDASIM_LINE) {
    return cudasim::match_any(mask, cudasim::to_bits(v), line);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned v, CUDASIM_LINE) {
    return cudasim::fold(cudasim::Fold::max_unsigned, mask, v, line);
}
inline int __reduce_max_sync(unsigned mask, int v, CUDASIM_LINE) {
    return (int)cudasim::fold(cudasim::Fold::max_signed, mask, (unsigned)v, line);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned v, CUDASIM_LINE) {
    return cudasim::fold(cudasim::Fold::min_unsigned, mask, v, line);
}
inline int __reduce_min_sync(unsigned mask, int v, CUDASIM_LINE) {
    return (int)cudasim::fold(cudasim::Fold::min_signed, mask, (unsigned)v, line);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned v, CUDASIM_LINE) {
    return cudasim::fold(cudasim::Fold::add, mask, v, line);
}
inline int __reduce_add_sync(unsigned mask, int v, CUDASIM_LINE) {
    return (int)cudasim::fold(cudasim::Fold::add, mask, (unsigned)v, line);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned v, CUDASIM_LINE) {
    return cudasim::fold(cudasim::Fold::bit_and, mask, v, line);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned v, CUDASIM_LINE) {
    return cudasim::fold(cudasim::Fold::bit_or, mask, v, line);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned v, CUDASIM_LINE) {
    return cudasim::fold(cudasim::Fold::bit_xor, mask, v, line);
}

/* The wrappers that kernels use in place of inline PTX. mma: D = A*B + D, m16n8k16, row.col, fp32 accumulators,
 * fragments as in the PTX ISA; products are exact and summed in fp32 in the order of k (a device may round
 * differently). */
inline void flrq_mma_f16_16816(float d[4], const uint32_t a[4], const uint32_t b[2], CUDASIM_LINE) {
    cudasim::mma_16816(false, d, a, b, line);
}
inline void flrq_mma_bf16_16816(float d[4], const uint32_t a[4], const uint32_t b[2], CUDASIM_LINE) {
    cudasim::mma_16816(true, d, a, b, line);
}
/* Lane l gives the address of row l % 8 of matrix l / 8 (8x8 of 16 bits); it is read when that lane arrives. */
inline void flrq_ldmatrix_x4(uint32_t r[4], const void *smem, CUDASIM_LINE) {
    cudasim::ldmatrix_x4(r, smem, false, line);
}
inline void flrq_ldmatrix_x4_trans(uint32_t r[4], const void *smem, CUDASIM_LINE) {
    cudasim::ldmatrix_x4(r, smem, true, line);
}
/* The destination holds 0xFF bytes until the wait that covers the copy. */
inline void flrq_cp_async16(void *smem, const void *global) {
    cudasim::copy_async(smem, global, 16);
}
inline void flrq_cp_async_commit() {
    cudasim::copy_commit();
}
template <int N> inline void flrq_cp_async_wait() {
    cudasim::copy_wait(N);
}

#undef CUDASIM_LINE
#undef CUDASIM_FILE
#endif
