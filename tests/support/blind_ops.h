// CPU operations on a BlindDevice: device memory is within reach for the length of a call, and
// every argument is checked to be of the side ops.h says.
#pragma once

#include <memory>

#include "model/kernels/ops.h"

namespace elaswave::testing {

/// REQUIRES: `cpu` takes CpuStreams. The result takes BlindStreams; arguments of the wrong side end
/// the process.
std::unique_ptr<kernels::Ops> make_blind_ops(std::unique_ptr<kernels::Ops> cpu);

}  // namespace elaswave::testing
