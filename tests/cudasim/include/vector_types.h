/*
 * vector_types.h - CUDA's short vector types and dim3, for C and C++.
 *
 * Sizes and alignments are the CUDA programming guide's: kernels reinterpret memory through these types and launchers
 * check the alignment they need, so neither may change. No arithmetic is defined on them, as in CUDA.
 */
#ifndef CUDASIM_VECTOR_TYPES_H
#define CUDASIM_VECTOR_TYPES_H

#ifdef __cplusplus
#define CUDASIM_MAKE(V, N, PARAMS, ...)                                                                                \
    static inline V##N make_##V##N PARAMS {                                                                            \
        return V##N{__VA_ARGS__};                                                                                      \
    }
#else
#define CUDASIM_MAKE(V, N, PARAMS, ...)
#endif

/* T: the element; V: the name's stem; ALIGN2, ALIGN4: bytes (vectors of 3 have the alignment of their element). */
#define CUDASIM_VECTORS(T, V, ALIGN2, ALIGN4)                                                                          \
    typedef struct V##1 {                                                                                              \
        T x;                                                                                                           \
    }                                                                                                                  \
    V##1;                                                                                                              \
    typedef struct V##2 {                                                                                              \
        T x, y;                                                                                                        \
    }                                                                                                                  \
    __attribute__((aligned(ALIGN2))) V##2;                                                                             \
    typedef struct V##3 {                                                                                              \
        T x, y, z;                                                                                                     \
    }                                                                                                                  \
    V##3;                                                                                                              \
    typedef struct V##4 {                                                                                              \
        T x, y, z, w;                                                                                                  \
    }                                                                                                                  \
    __attribute__((aligned(ALIGN4))) V##4;                                                                             \
    CUDASIM_MAKE(V, 1, (T x), x)                                                                                       \
    CUDASIM_MAKE(V, 2, (T x, T y), x, y)                                                                               \
    CUDASIM_MAKE(V, 3, (T x, T y, T z), x, y, z)                                                                       \
    CUDASIM_MAKE(V, 4, (T x, T y, T z, T w), x, y, z, w)

CUDASIM_VECTORS(signed char, char, 2, 4)
CUDASIM_VECTORS(unsigned char, uchar, 2, 4)
CUDASIM_VECTORS(short, short, 4, 8)
CUDASIM_VECTORS(unsigned short, ushort, 4, 8)
CUDASIM_VECTORS(int, int, 8, 16)
CUDASIM_VECTORS(unsigned int, uint, 8, 16)
CUDASIM_VECTORS(long, long, 16, 16)
CUDASIM_VECTORS(unsigned long, ulong, 16, 16)
CUDASIM_VECTORS(long long, longlong, 16, 16)
CUDASIM_VECTORS(unsigned long long, ulonglong, 16, 16)
CUDASIM_VECTORS(float, float, 8, 16)
CUDASIM_VECTORS(double, double, 16, 16)

#undef CUDASIM_VECTORS
#undef CUDASIM_MAKE

/* Sizes of a grid or of a block; in C++ missing sizes are 1. */
typedef struct dim3 {
    unsigned int x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const {
        return uint3{x, y, z};
    }
#endif
} dim3;

#endif
