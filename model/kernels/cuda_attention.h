// Attention by a library: what it can do, it does; the plain kernels of attention_cuda.cu do the
// rest. THREADS: one at a time.
#pragma once

#include <memory>
#include <string>

#include "io/base/error.h"
#include "model/kernels/cuda_kernels.h"
#include "model/kernels/ops.h"

namespace elaswave::device {
class CudaDevice;
}

namespace elaswave::kernels::cuda {

class FusedAttention {
 public:
  virtual ~FusedAttention() = default;

  /// Enqueue, as ops.h says, the same bits every time; or return false and do nothing. Which of the
  /// two is a function of types, shapes, strides, alignment and dropout alone: ranks must not
  /// differ in it.
  virtual bool forward(const CudaContext& context, const AttentionForward& args) = 0;
  virtual bool backward(const CudaContext& context, const AttentionBackward& args) = 0;

  /// What its bits depend on: "cudnn 91900". Constant.
  virtual std::string numeric_class() const = 0;
};

/// cuDNN's (attention_cudnn.h). Errors: those of CudnnAttention::create(). The device must outlive
/// the result.
Result<std::unique_ptr<FusedAttention>> make_cudnn_attention(device::CudaDevice& device);

}  // namespace elaswave::kernels::cuda
