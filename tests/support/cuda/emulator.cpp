#include "tests/support/cuda/emulator.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "tests/support/cuda/machine.h"

namespace elaswave::emulator {
namespace {

constexpr unsigned kMaxBlocksX = 0x7FFFFFFF;
constexpr unsigned kMaxBlocksYZ = 65535;
constexpr std::uintptr_t kSmallNumber = 1 << 16;

std::lock_guard<std::recursive_mutex> hold() {
  return std::lock_guard(Machine::get().mutex());
}

bool fits(const Launch& launch) {
  const dim3 grid = launch.grid;
  return grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= kMaxBlocksX &&
         grid.y <= kMaxBlocksYZ && grid.z <= kMaxBlocksYZ && launch.threads >= 1 &&
         launch.threads <= kMaxThreads && launch.shared_bytes <= kMaxSharedBytes;
}

bool is_mapped(std::uintptr_t address) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(address / page * page), 1, &resident) == 0;
}

}  // namespace

void reset(const Options& options) {
  const auto lock = hold();
  Machine::get().reset(options);
}

void fail_call(std::uint64_t number, cudaError_t error) {
  const auto lock = hold();
  Machine::get().plant_failure(number, error);
}

void fail_next_allocation() {
  const auto lock = hold();
  Machine::get().plant_full();
}

void poison_at_call(std::uint64_t number, cudaError_t error) {
  const auto lock = hold();
  Machine::get().plant_poison_at_call(number, error);
}

void refuse_allocations() {
  const auto lock = hold();
  Machine::get().refuse();
}

void poison_at_kernel(std::uint64_t number, cudaError_t error) {
  const auto lock = hold();
  Machine::get().plant_poison(number, error);
}

void kernels_take(std::int64_t nanoseconds) {
  const auto lock = hold();
  Machine::get().kernels_take(nanoseconds);
}

void set_host_time(std::int64_t nanoseconds) {
  const auto lock = hold();
  Machine::get().set_host_time(nanoseconds);
}

std::size_t live_allocations() {
  const auto lock = hold();
  return Machine::get().memory().live();
}

std::size_t device_bytes() {
  const auto lock = hold();
  return Machine::get().memory().used_bytes();
}

std::size_t pinned_bytes() {
  const auto lock = hold();
  return Machine::get().memory().pinned_bytes();
}

std::size_t live_handles() {
  const auto lock = hold();
  return Machine::get().live_handles();
}

std::size_t pending_work() {
  const auto lock = hold();
  return Machine::get().pending_work();
}

std::uint64_t kernels_run() {
  const auto lock = hold();
  return Machine::get().kernels_run();
}

OpenDeviceMemory::OpenDeviceMemory() {
  const auto lock = hold();
  Machine::get().memory().open();
}

OpenDeviceMemory::~OpenDeviceMemory() {
  const auto lock = hold();
  Machine::get().memory().close();
}

cudaError_t enqueue_kernel(cudaStream_t stream, Launch launch) {
  const auto lock = hold();
  Machine& machine = Machine::get();
  if (const cudaError_t status = machine.begin_call(); status != cudaSuccess)
    return machine.end_call(status);
  if (!machine.knows(stream)) return machine.end_call(cudaErrorInvalidResourceHandle);
  if (!fits(launch)) return machine.end_call(cudaErrorInvalidConfiguration);
  machine.enqueue(stream, [stream, launch = std::move(launch)] {
    stream->time += Machine::get().kernel_time();
    Machine::get().execute(launch);
  });
  return machine.end_call(cudaSuccess);
}

// A word of the argument that is the address of host memory is taken for a pointer to it. Below
// 2^40 lie counts and sizes, above 2^47 nothing that a process can map.
void check_argument(const void* argument, const std::byte* members, std::size_t bytes,
                    std::source_location at) {
  const auto lock = hold();
  const auto* words = static_cast<const std::byte*>(argument);
  for (std::size_t offset = 0; offset + sizeof(std::uintptr_t) <= bytes;
       offset += sizeof(std::uintptr_t)) {
    std::uintptr_t word = 0;
    std::memcpy(&word, words + offset, sizeof word);
    if (word >> 40 == 0 || word >> 47 != 0) continue;
    // A small number, and beside it what the stack held: behind long arrays of classes g++ 12 takes
    // padding for members. (Arenas of threads begin at such addresses, so they may be mapped.)
    if ((word & 0xFFFFFFFF) < kSmallNumber) continue;
    // Between members lies whatever the stack held, addresses too.
    if (std::any_of(members + offset, members + offset + sizeof word,
                    [](std::byte byte) { return byte != std::byte{0xFF}; }))
      continue;
    if (Machine::get().memory().owns(reinterpret_cast<const void*>(word)) || !is_mapped(word))
      continue;
    current.kernel = &at;
    current.block = current.index = uint3{};
    kernel_error(fmt::format("a kernel is given a pointer to host memory that is not page-locked: "
                             "{:#x}, at byte {} of an argument of {}",
                             word, offset, bytes)
                     .c_str(),
                 at);
  }
}

}  // namespace elaswave::emulator
