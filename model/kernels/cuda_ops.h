// The CUDA backend: kernels of our own, matrix products by cuBLASLt, attention by a library where
// it applies. Names no vendor header, so that who chooses a backend can include it.
#pragma once

#include <memory>
#include <string_view>

#include "io/base/error.h"
#include "model/kernels/cuda_attention.h"
#include "model/kernels/gemm_table.h"
#include "model/kernels/ops.h"

namespace elaswave::device {
class CudaDevice;
}

namespace elaswave::kernels {

namespace cuda {
class Gemm;
}

struct CudaOpsOptions {
  /// Null: the plain kernels do all attention.
  std::unique_ptr<cuda::FusedAttention> attention;
  /// Which algorithm which product takes (gemm_table.h).
  std::string_view gemm_rows = tuned_gemm_rows();
  /// Multiplies, for who wants to ask it afterwards; null: one of their own, with `gemm_rows`.
  std::shared_ptr<cuda::Gemm> gemm;
};

/// Operations for streams of `device`, each with scratch memory of its own here: device and streams
/// must outlive the result. Its operations throw DeviceLost and, when scratch grows, OutOfMemory.
/// Errors: those of cuda::Gemm::create().
Result<std::unique_ptr<Ops>> make_cuda_ops(device::CudaDevice& device, CudaOpsOptions options = {});

}  // namespace elaswave::kernels
