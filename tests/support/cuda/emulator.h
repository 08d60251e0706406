// An emulator of the part of the CUDA runtime that the product calls: devices without a GPU, for
// tests. Kernels compiled by the C++ compiler (device_language.h) run on the CPU.
//
// What it is strict about
// - Nothing runs when it is issued. Waits and queries run work, in an order that streams and events
//   allow and the seed chooses, so that a forgotten wait shows with some seed.
// - Host code that touches device memory dies at the line that does. So does a kernel that touches
//   what is no allocation; a line on stderr says where. Allocations end at a page nobody may touch
//   (up to 255 bytes after an end that is not a multiple of 256, checked when they are freed).
// - Copies between the device and memory that is not page-locked read and write it as late as all
//   others; the real runtime leaves open when it does.
// - New memory is filled with 0xFF (NaN).
// - A pointer to host memory that is not page-locked must not be handed to a kernel.
// - Threads of a warp or block that do not meet where they must end the process with a message.
// What it does not see: races within a warp between two meetings, except by the order of lanes;
// accesses beyond a static __shared__ array; how long anything takes, unless a test says so.
//
// THREADS: any; one at a time runs work. Options hold for the process until the next reset().
#pragma once

#include <driver_types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <type_traits>

#include "tests/support/cuda/block.h"

namespace elaswave::emulator {

struct Options {
  std::uint64_t seed = 1;
  bool driver = true;  // false: the calls that look for devices say that there is no driver
  int devices = 1;
  int compute_major = 9;
  int compute_minor = 0;
  std::size_t device_bytes = std::size_t{4} << 30;
};

/// A new process, as it were: no work, no error, nothing planted. REQUIRES: streams, events and
/// memory of before have been given back.
void reset(const Options& options = {});

/// Call `number` of the runtime from now (1: the next) does nothing but return `error`.
void fail_call(std::uint64_t number, cudaError_t error);
/// Call `number` of the runtime from now finds the context poisoned: it and every later one returns
/// `error`.
void poison_at_call(std::uint64_t number, cudaError_t error = cudaErrorLaunchFailure);
/// The next allocation on the device finds no room.
void fail_next_allocation();
/// No allocation from now on finds room, on the device or page-locked, until reset().
void refuse_allocations();
/// Kernel `number` to run from now (1: the next) poisons the context: its stream stops there and
/// every later call returns `error`.
void poison_at_kernel(std::uint64_t number, cudaError_t error = cudaErrorIllegalAddress);

/// The device's own time, in which everything is done at once except kernels. Work begins when the
/// stream has come to it, and not before the host's time at which it was issued.
void kernels_take(std::int64_t nanoseconds);
void set_host_time(std::int64_t nanoseconds);

/// Of the device and page-locked; 0 when all has been given back.
std::size_t live_allocations();
/// Of live allocations.
std::size_t device_bytes();
std::size_t pinned_bytes();
/// Streams and events not destroyed.
std::size_t live_handles();
/// Work issued and not yet run.
std::size_t pending_work();
/// Kernels run since reset().
std::uint64_t kernels_run();

/// For tests that look into device memory: opens it to host code while it lives.
class OpenDeviceMemory {
 public:
  OpenDeviceMemory();
  ~OpenDeviceMemory();
  OpenDeviceMemory(const OpenDeviceMemory&) = delete;
  OpenDeviceMemory& operator=(const OpenDeviceMemory&) = delete;
};

// For the emulator's cuda_launch.h.
cudaError_t enqueue_kernel(cudaStream_t stream, Launch launch);
/// `members`: as many bytes, 0xFF where a member lies.
void check_argument(const void* argument, const std::byte* members, std::size_t bytes,
                    std::source_location at);

/// Where the members of a T lie. (g++ 12 takes some members of arrays of classes for padding: what
/// is left out is not looked at.)
template <typename T>
std::array<std::byte, sizeof(T)> members_of() {
  std::array<std::byte, sizeof(T)> bytes;
  bytes.fill(std::byte{0xFF});
  if constexpr (std::is_class_v<T>) {
    alignas(T) std::array<std::byte, sizeof(T)> object = bytes;
    __builtin_clear_padding(reinterpret_cast<T*>(object.data()));
    bytes = object;
  }
  return bytes;
}

}  // namespace elaswave::emulator
