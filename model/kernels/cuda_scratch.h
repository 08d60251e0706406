// Memory of the CUDA kernels that outlives one call: on the device, and page-locked for lists that
// travel there. Grows to the largest request of each purpose and shrinks only when all is released,
// so that a step allocates nothing once every shape has been seen.
//
// Belongs to one stream: calls on it follow one another, so a later call may overwrite what an
// earlier one left, without waiting. THREADS: the stream's.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "model/kernels/memory_of_calls.h"
#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"

namespace elaswave::kernels::cuda {

/// What a piece of scratch is for. Two pieces in use by the same call have different purposes.
enum class ScratchUse : std::uint8_t {
  tokens,      // embedding: which rows have which id
  gradient,    // embedding: the masked gradient
  partial,     // sums that cross blocks
  results,     // numbers on their way to the host
  list,        // an uploaded list: of blocks, of pieces of ranges
  list_ends,   // a second uploaded list of the same call
  logits,      // head: one chunk of logits
  statistics,  // head: of that chunk
  attention,   // attention: scores, or a library's workspace
  product,     // matrix products: a library's workspace
  weight_sum,  // matrix products: a weight gradient before it is quantised
  count        // not a purpose: how many there are
};

class Scratch {
 public:
  explicit Scratch(device::Stream& stream) : stream_(stream) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  /// Waits for the stream: work on the memory may be under way.
  ~Scratch();

  /// At least `count` elements of device memory, 256-byte aligned, contents unspecified. For work
  /// issued on the stream from now until the next request of the same purpose. Throws OutOfMemory.
  /// Waits for the stream when it grows.
  template <typename T>
  T* device(ScratchUse use, std::int64_t count) {
    return reinterpret_cast<T*>(device_bytes(use, count * static_cast<std::int64_t>(sizeof(T))));
  }

  /// Sends the list element(0), ..., element(count - 1) to the device; returns where work issued
  /// from now on reads it, until the next request of the same purpose. The list is written to
  /// page-locked memory; waits for the stream only when kSlots lists of this purpose are still on
  /// their way.
  template <typename T, typename Element>
  const T* upload(ScratchUse use, std::int64_t count, const Element& element) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 64);
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(T));
    auto* to = reinterpret_cast<T*>(stage(use, bytes));
    for (std::int64_t i = 0; i < count; ++i) to[i] = element(i);
    return reinterpret_cast<const T*>(send(use, bytes));
  }

  /// So that lists of at most so many bytes need no more memory.
  void reserve_list(ScratchUse use, std::int64_t bytes);
  /// Gives all memory back. Waits for the stream.
  void release();
  KeptMemory kept() const;

  /// How many lists of one purpose the host may be ahead of the device.
  static constexpr int kSlots = 4;

 private:
  struct Slot {
    device::Buffer memory;
    device::Mark sent{};
    bool used = false;
  };
  struct Ring {
    std::array<Slot, kSlots> slots;
    std::size_t next = 0;
  };
  static constexpr auto kUses = static_cast<std::size_t>(ScratchUse::count);

  std::byte* device_bytes(ScratchUse use, std::int64_t bytes);
  std::byte* stage(ScratchUse use, std::int64_t bytes);
  const std::byte* send(ScratchUse use, std::int64_t bytes);
  void grow(device::Buffer& memory, device::Space space, std::int64_t bytes);

  device::Stream& stream_;
  std::array<device::Buffer, kUses> device_;
  std::array<Ring, kUses> rings_;
};

}  // namespace elaswave::kernels::cuda
