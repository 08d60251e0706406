// What step_repeat computes on. CMake chooses the files behind it.
#pragma once

#include <memory>

#include "app/rank_device.h"
#include "tests/gpu/repeated_step.h"

namespace elaswave::test {

class RepeatDevice {
 public:
  virtual ~RepeatDevice() = default;
  /// References into this object.
  virtual kernels::Machine machine() = 0;
  /// Another stream on the same device; must not outlive this object.
  virtual std::unique_ptr<device::Stream> another_stream() = 0;
  virtual UnorderedSum unordered_sum() = 0;
};

Result<std::unique_ptr<RepeatDevice>> make_repeat_cpu(const app::HostPart& host);
/// The first GPU. Code::unavailable: this build or this machine has none.
Result<std::unique_ptr<RepeatDevice>> make_repeat_cuda(const app::HostPart& host);

}  // namespace elaswave::test
