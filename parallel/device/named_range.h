// Names of what a thread does, for a profiler's time line. Chosen by CMake: NVTX in builds with the
// CUDA toolkit, nothing in others.
#pragma once

#include <cstdint>

namespace elaswave::device {

/// From construction to destruction: what the host does, and the work it issues to a stream
/// meanwhile. Ranges of a thread nest. Without a profiler it costs a look at a pointer. THREADS:
/// any; the same one for both ends.
class NamedRange {
 public:
  /// `name` is read before the call returns; `number` tells ranges of one name apart.
  NamedRange(const char* name, std::int64_t number);
  ~NamedRange();
  NamedRange(const NamedRange&) = delete;
  NamedRange& operator=(const NamedRange&) = delete;
};

}  // namespace elaswave::device
