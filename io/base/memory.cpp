#include "io/base/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "io/base/error.h"
#include "io/base/types.h"

namespace elaswave {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;

}  // namespace

void FreeMemory::operator()(std::byte* memory) const {
  std::free(memory);
}

Memory allocate(std::int64_t bytes, std::int64_t alignment_bytes) {
  EW_CHECK(bytes >= 0, "memory of {} bytes", bytes);
  if (bytes == 0) return nullptr;
  const bool huge = bytes >= 2 * kHugePage;
  const std::int64_t alignment = huge ? std::max(kHugePage, alignment_bytes) : alignment_bytes;
  const auto rounded = static_cast<std::size_t>(round_up(bytes, alignment));
  Memory memory(
      static_cast<std::byte*>(std::aligned_alloc(static_cast<std::size_t>(alignment), rounded)));
  if (!memory) throw std::bad_alloc();
  // Advice only: fewer page faults and TLB misses on gigabyte state; without it everything still
  // works.
  if (huge) (void)madvise(memory.get(), rounded, MADV_HUGEPAGE);
  std::memset(memory.get(), 0, rounded);
  return memory;
}

}  // namespace elaswave
