// Host memory with an alignment, owned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace elaswave {

struct FreeMemory {
  void operator()(std::byte* memory) const;
};
using Memory = std::unique_ptr<std::byte[], FreeMemory>;

/// Zeroed and real: no page is first touched later. At least `alignment_bytes` (a power of two)
/// aligned; 2 MiB and marked for huge pages when it is at least 4 MiB large. Throws std::bad_alloc.
/// 0 bytes: null.
Memory allocate(std::int64_t bytes, std::int64_t alignment_bytes);

}  // namespace elaswave
