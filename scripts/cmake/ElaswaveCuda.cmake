# CUDA: used when nvcc is found. Sets ELASWAVE_HAS_CUDA, gives elaswave_options and elaswave_warnings their flags for nvcc,
# and provides elaswave_cuda_library(). Without nvcc, or with ELASWAVE_CUDA=OFF, nothing of it is built.
set(ELASWAVE_HAS_CUDA OFF)
if(NOT ELASWAVE_CUDA STREQUAL "OFF")
  find_program(ELASWAVE_NVCC nvcc HINTS /usr/local/cuda/bin)
  mark_as_advanced(ELASWAVE_NVCC)
  if(ELASWAVE_NVCC)
    set(ELASWAVE_HAS_CUDA ON)
  elseif(ELASWAVE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "elaswave: ELASWAVE_CUDA=ON but nvcc was not found")
  else()
    message(STATUS "elaswave: nvcc not found, building the CPU backend alone")
  endif()
endif()

if(ELASWAVE_HAS_CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER "${ELASWAVE_NVCC}")
  endif()
  if(NOT CMAKE_CUDA_HOST_COMPILER)
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # given as flags below: the shorthands assemble PTX that sm_90a code cannot become
  if(ELASWAVE_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER "${ELASWAVE_CCACHE}")
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "elaswave: CUDA ${CUDAToolkit_VERSION} (${ELASWAVE_NVCC})")
  # The standard is a flag because CMake 3.25 knows of none beyond C++17 for nvcc.
  # fmt 9 does without constexpr functions under nvcc and then fails at its own consteval ones.
  # Hopper's machine code, and PTX that later GPUs translate when the program starts.
  set(ELASWAVE_CUDA_FLAGS -std=c++20 -O3 -lineinfo -DFMT_USE_CONSTEXPR=1 --expt-relaxed-constexpr "SHELL:-gencode=arch=compute_90a,code=sm_90a"
                          "SHELL:-gencode=arch=compute_90,code=compute_90")
  target_compile_options(elaswave_options INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${ELASWAVE_CUDA_FLAGS}>")
  # The host half of a .cu file follows the rules of every other file; -Wpedantic would warn of what nvcc itself writes.
  target_compile_options(elaswave_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffp-contract=off,-fno-math-errno,-fno-trapping-math,-fno-omit-frame-pointer>")
  target_compile_options(elaswave_warnings INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers>")
endif()

# The twin of a CUDA library: the same sources compiled by the C++ compiler and linked with the emulator of
# tests/support/cuda, which runs kernels on the CPU. Device code is compiled through a file that includes the emulator's
# device language first and then the .cu file.
function(elaswave_emulated_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  set(sources "")
  foreach(source IN LISTS arg_SOURCES)
    if(source MATCHES "[.]cu$")
      file(RELATIVE_PATH from_root "${PROJECT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}/${source}")
      set(wrapper "${CMAKE_CURRENT_BINARY_DIR}/emulated/${source}.cpp")
      file(CONFIGURE OUTPUT "${wrapper}"
           CONTENT "#include \"tests/support/cuda/device_language.h\"\n#include \"${from_root}\"\n")
      list(APPEND sources "${wrapper}")
    else()
      list(APPEND sources "${source}")
    endif()
  endforeach()
  # A library that has a twin is replaced by it.
  foreach(kind IN ITEMS DEPENDS PRIVATE_DEPENDS)
    set(${kind} "")
    foreach(depend IN LISTS arg_${kind})
      list(APPEND ${kind} "$<IF:$<TARGET_EXISTS:${depend}_emulated>,${depend}_emulated,${depend}>")
    endforeach()
  endforeach()
  add_library(${name}_emulated STATIC ${sources})
  # In front of the project's own folder: its parallel/device/cuda_launch.h hides ours.
  target_include_directories(${name}_emulated BEFORE PRIVATE "${PROJECT_SOURCE_DIR}/tests/support/cuda/emulated")
  # nvcc's pragmas (unroll).
  target_compile_options(${name}_emulated PRIVATE -Wno-unknown-pragmas)
  # A device does not take addresses that are no multiple of an access' width; this processor does. (g++ finds uninitialised
  # values in code that it has put these checks into. The sanitizers' builds have them anyway, with a report.)
  if(NOT ELASWAVE_SANITIZE)
    target_compile_options(${name}_emulated PRIVATE -fsanitize=alignment -fsanitize-undefined-trap-on-error
                                                    -Wno-maybe-uninitialized)
  endif()
  target_link_libraries(${name}_emulated PUBLIC elaswave_options ${DEPENDS} elaswave_cuda_emulator
                                         PRIVATE elaswave_warnings ${PRIVATE_DEPENDS})
endfunction()

# elaswave_cuda_library(NAME SOURCES ... [HEADERS ...] [DEPENDS ...] [PRIVATE_DEPENDS ...])
# A static library of .cu and .cpp files for the GPU and, with the tests, NAME_emulated. Nothing without the toolkit. The
# sanitizers know nothing of nvcc's output: their builds have the twin alone.
function(elaswave_cuda_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;HEADERS;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "elaswave_cuda_library(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT ELASWAVE_HAS_CUDA)
    return()
  endif()
  if(ELASWAVE_TESTS)
    elaswave_emulated_library(${name} SOURCES ${arg_SOURCES} DEPENDS ${arg_DEPENDS} PRIVATE_DEPENDS ${arg_PRIVATE_DEPENDS})
  endif()
  if(ELASWAVE_SANITIZE)
    return()
  endif()
  elaswave_library(${name} SOURCES ${arg_SOURCES} HEADERS ${arg_HEADERS} DEPENDS ${arg_DEPENDS}
                   PRIVATE_DEPENDS ${arg_PRIVATE_DEPENDS})
  set_target_properties(${name} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(${name} PUBLIC CUDA::cudart_static)
endfunction()
