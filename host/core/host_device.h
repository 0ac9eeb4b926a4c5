/* host_device.h - one definition for the CPU and for kernels: FLRQ_HOST_DEVICE stands before a static inline function
 * that compiles as C11, as C++ and as CUDA device code alike. Such a function uses no compound literals and no library
 * beyond <math.h> and memcpy().
 */
#ifndef FLRQ_CORE_HOST_DEVICE_H
#define FLRQ_CORE_HOST_DEVICE_H

#ifdef __CUDACC__
#define FLRQ_HOST_DEVICE __host__ __device__
#else
#define FLRQ_HOST_DEVICE
#endif

#endif
