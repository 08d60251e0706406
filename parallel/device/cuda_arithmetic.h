// device::Arithmetic on a CUDA stream. Names no vendor header.
#pragma once

#include <memory>

#include "parallel/device/arithmetic.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::device {

/// More slices than this have no kernel.
inline constexpr int kMostAddends = 16;

/// Calls enqueue; they throw DeviceLost. `stream` must outlive it.
std::unique_ptr<Arithmetic> make_cuda_arithmetic(CudaStream& stream);

}  // namespace elaswave::device
