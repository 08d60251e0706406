// Transport-owned memory for chunks: a few size classes, reused. Internal to parallel/comm.
// THREADS: one, the messenger's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace elaswave::comm {

/// A buffer on loan from a pool; holds `capacity_bytes` bytes, uninitialised.
struct ChunkBuffer {
  std::unique_ptr<std::byte[]> memory;
  int size_class = -1;
  std::int64_t capacity_bytes = 0;

  std::span<std::byte> first(std::int64_t bytes) {
    return {memory.get(), static_cast<std::size_t>(bytes)};
  }
};

class BufferPool {
 public:
  /// Classes: one header, `control_bytes`, about the geometric middle, and `largest_bytes`. Unused
  /// buffers beyond `keep_bytes` go back to the allocator.
  BufferPool(std::int64_t control_bytes, std::int64_t largest_bytes, std::int64_t keep_bytes);

  /// The smallest class that holds `bytes`. REQUIRES: bytes <= largest.
  ChunkBuffer acquire(std::int64_t bytes);
  void release(ChunkBuffer buffer);

  std::int64_t lent_bytes() const { return lent_bytes_; }

 private:
  static constexpr int kClasses = 4;
  std::array<std::int64_t, kClasses> capacity_{};
  std::array<std::vector<std::unique_ptr<std::byte[]>>, kClasses> free_;
  std::int64_t keep_bytes_;
  std::int64_t free_bytes_ = 0;
  std::int64_t lent_bytes_ = 0;
};

}  // namespace elaswave::comm
