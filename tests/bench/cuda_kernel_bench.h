// The benchmark of the CUDA kernels, for a GPU or the emulator: whichever is linked in.
#pragma once

#include "model/kernels/cuda_attention.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::bench {

using MakeAttention =
    Result<std::unique_ptr<kernels::cuda::FusedAttention>> (*)(device::CudaDevice& device);

/// Metric and usage: cuda_kernel_bench.cpp. `attention`: that of a library; null: none.
int cuda_kernel_bench(int argc, char** argv, MakeAttention attention);

}  // namespace elaswave::bench
