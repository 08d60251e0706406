#include "parallel/comm/buffer_pool.h"

#include <algorithm>
#include <utility>

#include "io/base/error.h"
#include "parallel/comm/chunk.h"

namespace elaswave::comm {

BufferPool::BufferPool(std::int64_t control_bytes, std::int64_t largest_bytes,
                       std::int64_t keep_bytes)
    : keep_bytes_(keep_bytes) {
  EW_CHECK(kHeaderBytes <= control_bytes && control_bytes <= largest_bytes,
           "chunk sizes {} and {} bytes", control_bytes, largest_bytes);
  const std::int64_t middle = std::min(control_bytes * 16, largest_bytes);
  capacity_ = {kHeaderBytes, control_bytes, middle, largest_bytes};
}

ChunkBuffer BufferPool::acquire(std::int64_t bytes) {
  std::size_t size_class = 0;
  while (size_class < kClasses && capacity_[size_class] < bytes) ++size_class;
  EW_CHECK(size_class < kClasses, "a chunk of {} bytes, largest buffer {}", bytes,
           capacity_.back());
  ChunkBuffer buffer;
  buffer.size_class = static_cast<int>(size_class);
  buffer.capacity_bytes = capacity_[size_class];
  lent_bytes_ += buffer.capacity_bytes;
  auto& free = free_[size_class];
  if (free.empty()) {
    buffer.memory = std::make_unique_for_overwrite<std::byte[]>(
        static_cast<std::size_t>(buffer.capacity_bytes));
  } else {
    buffer.memory = std::move(free.back());
    free.pop_back();
    free_bytes_ -= buffer.capacity_bytes;
  }
  return buffer;
}

void BufferPool::release(ChunkBuffer buffer) {
  lent_bytes_ -= buffer.capacity_bytes;
  if (free_bytes_ + buffer.capacity_bytes > keep_bytes_) return;
  free_bytes_ += buffer.capacity_bytes;
  free_[static_cast<std::size_t>(buffer.size_class)].push_back(std::move(buffer.memory));
}

}  // namespace elaswave::comm
