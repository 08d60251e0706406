// What a running kernel of the emulator sees: its place in the grid, its block's shared memory, and
// the meetings of a warp and of a block. One kernel runs at a time, on one thread of the host, so
// all of this is plain memory.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

namespace elaswave::emulator {

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kMaxThreads = 1024;               // of a block
inline constexpr std::size_t kMaxSharedBytes = 227 * 1024;  // of a block, compute capability 9.0

/// The thread that is running. Device code reads it as threadIdx, blockIdx, blockDim, gridDim.
struct CurrentThread {
  uint3 index{};
  uint3 block{};
  dim3 block_dim;
  dim3 grid_dim;
  std::byte* dynamic_shared = nullptr;
  const std::source_location* kernel = nullptr;  // where it was launched; null when none is running
};
extern CurrentThread current;

enum class Meeting : std::uint8_t { block_barrier, warp_barrier, shuffle, ballot };

/// Waits for all threads of the block that have not exited.
void meet_block(std::source_location at);

/// What the lanes of a warp brought to a meeting.
struct Brought {
  const std::uint64_t* bits;  // of each lane
  std::uint32_t lanes;        // which came: the others have exited or were never there
};
/// Waits for all threads of the warp that have not exited. Valid until the caller's next meeting.
Brought meet_warp(Meeting meeting, std::uint64_t bits, std::source_location at);

/// Prints what is wrong with the kernel that is running, and where, and aborts.
[[noreturn]] void kernel_error(const char* what, std::source_location at);
/// The same outside of a kernel.
[[noreturn]] void emulator_error(const char* what);

/// One kernel as it was launched.
struct Launch {
  dim3 grid;
  unsigned threads = 1;
  std::size_t shared_bytes = 0;
  std::function<void()> body;  // what each thread does
  std::source_location at;
};

/// Runs all blocks, one after the other; `seed` chooses their order and that of warps and lanes.
void run_kernel(const Launch& launch, std::uint64_t seed);

}  // namespace elaswave::emulator
