// What a rank computes on: a device, and its host beside it.
#pragma once

#include <memory>

#include "io/base/error.h"
#include "model/kernels/cpu_ops.h"

namespace elaswave::app {

/// The host's part: all of the work on a CPU; copies of state and their updates beside a GPU.
struct HostPart {
  kernels::Isa isa = kernels::Isa::automatic;
  int threads = 1;
};

/// THREADS: those of the streams in it.
class RankDevice {
 public:
  virtual ~RankDevice() = default;
  /// References into this object.
  virtual kernels::Machine machine() = 0;
};

/// Makes what a rank computes on.
using MakeRankDevice = Result<std::unique_ptr<RankDevice>> (*)(const HostPart& host);

/// The device failed: what was issued on it cannot be trusted, and the process has to go.
Error device_lost(const device::DeviceLost& lost);

/// Errors: those of kernels::make_cpu_ops().
Result<std::unique_ptr<RankDevice>> make_cpu_rank(const HostPart& host);

}  // namespace elaswave::app
