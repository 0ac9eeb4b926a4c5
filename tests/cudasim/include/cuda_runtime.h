/*
 * cuda_runtime.h - what a kernel source includes: the runtime API and, in C++, the device language of the simulator
 * (cudasim/device.h) with its launch macro.
 */
#ifndef CUDASIM_CUDA_RUNTIME_H
#define CUDASIM_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"
#ifdef __cplusplus
#include "cudasim/device.h"
#include "cudasim/math.h"
#include "cudasim/atomics.h"
#endif

#endif
