// The backends of this build. CMake chooses the file behind it.
#pragma once

#include <string>

#include "app/rank_device.h"

namespace elaswave::app {

/// "cpu" or "cpu, cuda".
std::string backends_text();

/// `kind` and `gpu` as device.kind and device.gpu have them. Code::unavailable: this build or this
/// machine has none.
Result<std::unique_ptr<RankDevice>> make_rank_device(const std::string& kind, const HostPart& host,
                                                     int gpu, int local_rank);

/// The GPU that make_rank_device() takes: a name that no other in the world has, and its memory,
/// bytes. Nothing on a CPU, nor where it cannot be found out: make_rank_device() then says why.
struct GpuMemory {
  std::string name;
  std::int64_t bytes = 0;
};
GpuMemory gpu_memory(const std::string& kind, int gpu, int local_rank);

}  // namespace elaswave::app
