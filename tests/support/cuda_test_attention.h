// Which attention a test binary meets on a GPU: CMake gives ELASWAVE_TEST_ATTENTION, a function
// that makes the library's, or nullptr for the plain kernels.
#pragma once

#include "model/kernels/cuda_attention.h"

namespace elaswave::testing {

using MakeAttention =
    Result<std::unique_ptr<kernels::cuda::FusedAttention>> (*)(device::CudaDevice& device);

/// Null: the plain kernels.
inline Result<std::unique_ptr<kernels::cuda::FusedAttention>> make_test_attention(
    device::CudaDevice& device, MakeAttention make = ELASWAVE_TEST_ATTENTION) {
  if (make == nullptr) return nullptr;
  return make(device);
}

}  // namespace elaswave::testing
