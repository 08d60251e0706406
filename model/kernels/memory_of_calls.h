// Memory that operations take for later ones. A part of the seam of ops.h.
#pragma once

#include <cstdint>
#include <span>

#include "parallel/device/stream.h"

namespace elaswave::kernels {

/// Bytes.
struct KeptMemory {
  std::int64_t device_bytes = 0;
  std::int64_t logits_bytes = 0;  // of them, for logits of one chunk of tokens
  std::int64_t host_bytes = 0;    // page-locked
};

/// Of calls on one stream. A backend whose memory is not worth telling of does nothing. THREADS:
/// the stream's.
class MemoryOfCalls {
 public:
  virtual ~MemoryOfCalls() = default;

  /// Gives it back. Waits for the stream; throws device::DeviceLost.
  virtual void release_memory(device::Stream&) {}
  /// So that updates, logs and sums of at most these blocks, and digests of three ranges of each,
  /// take no more. Throws device::OutOfMemory.
  virtual void reserve_lists(device::Stream&, std::span<const std::int64_t> block_elems) {
    (void)block_elems;
  }
  virtual KeptMemory kept_memory(device::Stream&) { return {}; }
};

}  // namespace elaswave::kernels
