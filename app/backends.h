// The backends of this build. CMake chooses the file behind it.
#pragma once

#include <string>

#include "app/rank_device.h"
#include "app/tune.h"

namespace elaswave::app {

/// "cpu" or "cpu, cuda".
std::string backends_text();

/// `kind`, `gpu` and `gemm_table` as device.kind and the like have them. Code::unavailable: this
/// build or this machine has none. Code::data: the table cannot be read.
Result<std::unique_ptr<RankDevice>> make_rank_device(const std::string& kind, const HostPart& host,
                                                     int gpu, int local_rank,
                                                     const std::string& gemm_table);

/// Measures the products of a run on this machine's device and writes rows for them.
/// Code::unavailable: this build or this machine has nothing to tune.
Result<void> tune_products(const TuneRequest& request, TuneFile& file);

/// The GPU that make_rank_device() takes: a name that no other in the world has, and its memory,
/// bytes. Nothing on a CPU, nor where it cannot be found out: make_rank_device() then says why.
struct GpuMemory {
  std::string name;
  std::int64_t bytes = 0;
};
GpuMemory gpu_memory(const std::string& kind, int gpu, int local_rank);

}  // namespace elaswave::app
