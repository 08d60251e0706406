// `elaswave tune` on a CUDA GPU. Names no vendor header; built only where the CUDA toolkit is.
#pragma once

#include <vector>

#include "app/tune.h"
#include "model/kernels/gemm_tune_cuda.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::app {

/// What the slices of a run's replica multiply in a micro-batch, each product once: found by
/// running one, a block deep, on `gemm`. Throws DeviceLost, OutOfMemory.
Result<std::vector<kernels::cuda::GemmChoice>> record_products(
    device::CudaDevice& device, const std::shared_ptr<kernels::cuda::Gemm>& gemm,
    const RunSpec& spec);

/// As tune_products() of backends.h; `rules` beyond what the request says are for tests.
Result<void> tune_cuda(const TuneRequest& request, TuneFile& file,
                       kernels::cuda::TuneRules rules = {});

}  // namespace elaswave::app
