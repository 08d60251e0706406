// A rank on a CUDA GPU. Names no vendor header; built only where the CUDA toolkit is.
#pragma once

#include "app/rank_device.h"
#include "model/kernels/cuda_attention.h"
#include "model/kernels/gemm_table.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::app {

/// Attention by a library on this device; null: the plain kernels.
using MakeAttention =
    Result<std::unique_ptr<kernels::cuda::FusedAttention>> (*)(device::CudaDevice& device);

/// The text of a table of products (gemm_table.h). Errors: those of files; Code::data where a line
/// is none of a table.
Result<std::string> read_gemm_table(const std::string& path);

/// `gpu` when that is at least 0, else the `local_rank`-th of those the process sees, in turn.
Result<int> gpu_of_rank(int gpu, int local_rank);

/// On gpu_of_rank(). `gemm_rows`: CudaOpsOptions. Errors: those of device::make_cuda_device() and
/// of the libraries.
Result<std::unique_ptr<RankDevice>> make_cuda_rank(
    const HostPart& host, int gpu, int local_rank, MakeAttention attention,
    std::string_view gemm_rows = kernels::tuned_gemm_rows());

}  // namespace elaswave::app
