# The simulator's own tests: that it computes what CUDA computes, and that it finds each kind of bug.
function(cudasim_program name)
  add_executable(${name})
  cudasim_kernels(${name} ${ARGN})
  target_compile_options(${name} PRIVATE -O1)
  target_link_libraries(${name} PRIVATE cudasim)
  if(FLRQ_SANITIZE)
    target_compile_options(${name} PRIVATE -fsanitize=address,undefined -fno-sanitize-recover=undefined -g)
    target_link_options(${name} PRIVATE -fsanitize=address,undefined)
  endif()
endfunction()

enable_testing()
foreach(part device runtime libraries nccl)
  cudasim_program(cudasim_${part} ${CMAKE_CURRENT_LIST_DIR}/test_${part}.cu)
  foreach(seed 1 2 3)
    add_test(NAME cudasim.${part}_seed${seed} COMMAND cudasim_${part})
    set_tests_properties(cudasim.${part}_seed${seed} PROPERTIES ENVIRONMENT FLRQ_CUDASIM_SEED=${seed})
  endforeach()
endforeach()
target_sources(cudasim_device PRIVATE ${CMAKE_SOURCE_DIR}/host/core/philox.c)
target_include_directories(cudasim_device PRIVATE ${CMAKE_SOURCE_DIR}/host)
foreach(order reverse random:1 random:2)
  string(REPLACE ":" "_" name ${order})
  add_test(NAME cudasim.device_${name} COMMAND cudasim_device)
  set_tests_properties(cudasim.device_${name} PROPERTIES ENVIRONMENT FLRQ_CUDASIM_ORDER=${order})
endforeach()

# Planted bugs: each must be found in some order of threads and of work, its corrected twin must be clean in all. "plain"
# and "asan" are found in that build only.
cudasim_program(cudasim_bugs ${CMAKE_CURRENT_LIST_DIR}/bugs.cu)
set(planted
    "global_write|both|out of bounds|AddressSanitizer"
    "global_write_before|both|out of bounds|AddressSanitizer"
    "global_read|both|wrong result|AddressSanitizer"
    "global_far|both|never allocated|AddressSanitizer"
    "dynamic_shared|both|dynamic shared memory|AddressSanitizer"
    "dynamic_shared_far|both|dynamic shared memory|AddressSanitizer"
    "static_shared|asan|AddressSanitizer|insufficient space"
    "static_shared_template|asan|AddressSanitizer|insufficient space"
    "null_pointer|both|access to address|null pointer"
    "misaligned_vector|both|misaligned"
    "missing_syncthreads|both|wrong result"
    "missing_syncthreads_loop|both|wrong result"
    "ldmatrix_no_barrier|both|wrong result"
    "async_copy_no_wait|both|wrong result"
    "async_copy_no_barrier|both|wrong result"
    "shuffle_missing_lanes|both|thread returned while lanes|have returned or do not exist"
    "shuffle_outside_mask|both|which is not in mask 0000ffff"
    "shuffle_two_sites|both|divergent warp"
    "barrier_divergent|both|divergent __syncthreads"
    "barrier_after_return|both|__syncthreads"
    "uninitialised_global|both|wrong result"
    "uninitialised_dynamic|both|wrong result"
    "uninitialised_static|plain|wrong result"
    "uninitialised_template|plain|wrong result"
    "wrong_stream|both|wrong result"
    "missing_event|both|wrong result"
    "read_before_sync|both|wrong result"
    "pinned_overwritten|both|wrong result"
    "host_reads_device|both|host code touched device memory"
    "host_writes_device|both|host code touched device memory"
    "kernel_host_pointer|both|an address of host memory"
    "kernel_host_in_struct|both|an address of host memory"
    "kernel_pinned_pointer|both|an address of pinned host memory"
    "copy_too_long|both|its allocation of 256 bytes"
    "copy_wrong_direction|both|direction 1 given"
    "library_host_pointer|both|host memory, not device memory"
    "use_after_free|both|in no live allocation"
    "double_free|both|freed twice"
    "leak_memory|both|leak at exit: 1 allocations .4096 bytes"
    "leak_pinned|both|leak at exit: 1 allocations .512 bytes"
    "leak_stream|both|0 allocations .0 bytes., 1 streams"
    "failure_leaks|both|leak after the failure of call 3"
    "stack_overflow|plain|stack overflow in a thread")
foreach(entry IN LISTS planted)
  string(REGEX MATCH "^([a-z_]+)[|]([a-z]+)[|](.*)$" ignored "${entry}")
  set(name ${CMAKE_MATCH_1})
  set(build ${CMAKE_MATCH_2})
  set(pattern "${CMAKE_MATCH_3}")
  if((build STREQUAL "asan" AND NOT FLRQ_SANITIZE) OR (build STREQUAL "plain" AND FLRQ_SANITIZE))
    continue()
  endif()
  add_test(NAME cudasim.bug_${name} COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/planted.sh $<TARGET_FILE:cudasim_bugs> ${name}
                                            "${pattern}")
endforeach()

# The headers have NVIDIA's signatures and values, where NVIDIA's are at hand.
find_path(FLRQ_CUDA_INCLUDE cusolverDn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} /usr/local/cuda/include)
if(FLRQ_CUDA_INCLUDE)
  add_test(NAME cudasim.headers COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/headers.sh ${CMAKE_C_COMPILER} ${FLRQ_CUDA_INCLUDE}
                                        ${CMAKE_CURRENT_BINARY_DIR}/headers)
else()
  message(STATUS "no CUDA headers: their comparison with the simulator's (cudasim.headers) is skipped")
endif()
