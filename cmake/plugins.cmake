# The CUDA backend as plugins: libflrq_cuda.so by nvcc, and the same sources on the simulator, libflrq_cudasim.so.
# Both carry their own copies of the few host files they need; the library meets them at run time (host/backend/plugin.h).
file(GLOB cuda_glue CONFIGURE_DEPENDS host/backend/cuda.c host/backend/cuda_*.c)
list(APPEND cuda_glue host/backend/op_check.c host/core/error.c host/core/dtype.c)
file(GLOB cuda_kernels CONFIGURE_DEPENDS kernels/*.cu)

function(flrq_plugin target name)
  target_include_directories(${target} PRIVATE include host . kernels)
  target_compile_definitions(${target} PRIVATE _GNU_SOURCE CUDA_BACKEND_NAME="${name}")
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wno-unused-parameter -ffp-contract=off
                                           -fopenmp-simd -fno-math-errno -fno-trapping-math>)
  target_link_options(${target} PRIVATE -Wl,-Bsymbolic)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME flrq_${name} LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
                                             C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden)
  install(TARGETS ${target} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endfunction()

# ---- NVIDIA GPUs ------------------------------------------------------------------------------------------------------
if(NOT FLRQ_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER AND NOT FLRQ_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "FLRQ_CUDA=${FLRQ_CUDA}, but there is no CUDA compiler; set CMAKE_CUDA_COMPILER to nvcc")
  endif()
endif()
if(CMAKE_CUDA_COMPILER AND NOT FLRQ_CUDA STREQUAL "OFF")
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_ARCHITECTURES 80) # of the language check; the plugin sets its own
  enable_language(CUDA)
  find_package(CUDAToolkit 12.4 REQUIRED)
  if(FLRQ_CUDA_ARCH)
    set(architectures ${FLRQ_CUDA_ARCH}-real)
  else()
    set(architectures 80-real 86-real 89-real 90-real 80-virtual)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
      list(APPEND architectures 100-real 120-real)
    endif()
  endif()
  add_library(flrq_cuda SHARED ${cuda_glue} ${cuda_kernels})
  flrq_plugin(flrq_cuda cuda)
  set_target_properties(flrq_cuda PROPERTIES CUDA_ARCHITECTURES "${architectures}" CUDA_STANDARD 17)
  # a*b+c is contracted to an fma only where the source says so: the same bits as on the simulator.
  target_compile_options(flrq_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -Xcompiler=-Wall,-Wextra>)
  # NCCL is loaded at run time, when several GPUs are linked; its header is used where it is found (cuda_link.c).
  target_link_libraries(flrq_cuda PRIVATE CUDA::cudart CUDA::cublas CUDA::cusolver Threads::Threads m dl)
  set_target_properties(flrq_cuda PROPERTIES BUILD_RPATH "${CUDAToolkit_LIBRARY_DIR}"
                                             INSTALL_RPATH "${CUDAToolkit_LIBRARY_DIR}")
else()
  message(STATUS "no CUDA plugin: FLRQ_CUDA is ${FLRQ_CUDA}, CUDA compiler ${CMAKE_CUDA_COMPILER}")
endif()

# ---- simulator --------------------------------------------------------------------------------------------------------
if(FLRQ_CUDASIM)
  add_subdirectory(tests/cudasim)
  add_library(flrq_cudasim SHARED ${cuda_glue})
  flrq_plugin(flrq_cudasim cudasim)
  cudasim_kernels(flrq_cudasim ${cuda_kernels})
  target_link_libraries(flrq_cudasim PRIVATE cudasim)
  if(FLRQ_SANITIZE)
    target_compile_options(flrq_cudasim PRIVATE -fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1)
    target_link_options(flrq_cudasim PRIVATE -fsanitize=address,undefined)
  endif()
endif()
