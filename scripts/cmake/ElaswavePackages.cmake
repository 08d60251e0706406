# Third-party packages as imported targets. Versions in parentheses are Debian 12's, the ones we test with.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)                 # 9.1
find_package(spdlog REQUIRED)              # 1.10
find_package(tl-expected REQUIRED)         # 1.0
find_package(nlohmann_json REQUIRED)       # 3.11
find_package(tomlplusplus REQUIRED)        # 3.3
find_package(CLI11 REQUIRED)               # 2.1.2
find_package(MPI REQUIRED COMPONENTS C)    # Open MPI 4.1.4
target_compile_definitions(MPI::MPI_C INTERFACE OMPI_SKIP_MPICXX)  # mpi.h would pull in the removed C++ bindings
find_package(OneDNN REQUIRED)              # oneDNN 2.6.3
set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)   # 1.10.8
# Standalone Asio (1.22) is headers without a CMake package.
find_path(ASIO_INCLUDE_DIR asio/io_context.hpp REQUIRED)
mark_as_advanced(ASIO_INCLUDE_DIR)
add_library(asio::asio INTERFACE IMPORTED)
target_include_directories(asio::asio INTERFACE "${ASIO_INCLUDE_DIR}")
target_compile_definitions(asio::asio INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED)
target_link_libraries(asio::asio INTERFACE Threads::Threads)
if(ELASWAVE_SANITIZE STREQUAL "thread")
  # Its fences are unknown to the sanitizer (and to g++ an error then); its mutexes order the same memory.
  target_compile_definitions(asio::asio INTERFACE ASIO_DISABLE_FENCED_BLOCK)
endif()
# 9.19; without it the plain kernels do all attention. Older ones than 9.10.2 have faults in attention.
set(CuDNN_FOUND OFF)
if(ELASWAVE_HAS_CUDA)
  find_package(CuDNN 9.10.2)
endif()
# 2.28.9; without it ranks with a GPU each pass device memory through the host. Revoking came with 2.28.7.
set(ELASWAVE_HAS_NCCL OFF)
if(ELASWAVE_HAS_CUDA)
  find_package(NCCL 2.28.7)
  set(ELASWAVE_HAS_NCCL "${NCCL_FOUND}")
endif()
if(ELASWAVE_TESTS)
  find_package(GTest REQUIRED)             # 1.12
endif()
