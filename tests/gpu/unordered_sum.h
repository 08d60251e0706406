// The UnorderedSum of a GPU.
#pragma once

#include "parallel/device/cuda_device.h"
#include "tests/gpu/repeated_step.h"

namespace elaswave::test {

/// Each block adds up a few rows and adds the result with atomicAdd: blocks come in any order.
void sum_columns_by_atomics(device::CudaStream& stream, const ColumnSum& args);

}  // namespace elaswave::test
