// Linear layers and the fused head and loss of the CPU backend: the operations of ops.h that are
// mostly matrix products. Shapes, aliasing and contracts are those of ops.h. THREADS: one caller
// per stream.
#pragma once

#include "model/kernels/gemm_cpu.h"
#include "model/kernels/ops.h"

namespace elaswave::kernels {

void linear_forward(const CpuContext& context, const LinearForward& args);
/// Without gelu_x: CpuOps has the activation's own routines.
void linear_backward_input(const CpuContext& context, const LinearBackwardInput& args);
void linear_backward_weight(const CpuContext& context, const LinearBackwardWeight& args);

/// Takes the logits of one chunk of tokens of shared workspace. REQUIRES: targets in [0, V).
void head_loss(const CpuContext& context, const HeadLoss& args);
void head_logits(const CpuContext& context, const HeadLogits& args);
void head_combine(const CpuContext& context, const HeadCombine& args);
void head_gradient(const CpuContext& context, const HeadGradient& args);

}  // namespace elaswave::kernels
