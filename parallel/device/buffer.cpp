#include "parallel/device/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace elaswave::device {

namespace {
constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
}

Buffer::Buffer(std::int64_t bytes) : bytes_(bytes) {
  EW_CHECK(bytes >= 0, "buffer of {} bytes", bytes);
  if (bytes == 0) return;
  const bool huge = bytes >= 2 * kHugePage;
  const std::int64_t alignment = huge ? kHugePage : 64;
  const std::int64_t rounded = round_up(bytes, alignment);
  void* memory =
      std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(rounded));
  if (memory == nullptr) throw std::bad_alloc();
  // Advice only: fewer page faults and TLB misses on gigabyte state; without it everything still
  // works.
  if (huge) (void)madvise(memory, static_cast<std::size_t>(rounded), MADV_HUGEPAGE);
  std::memset(memory, 0, static_cast<std::size_t>(rounded));
  memory_.reset(static_cast<std::byte*>(memory));
}

void Buffer::Release::operator()(std::byte* memory) const {
  std::free(memory);
}

}  // namespace elaswave::device
