// The AdamW update of one element, the text every backend follows (Loshchilov and Hutter, arXiv
// 1711.05101, algorithm 2).
//
//   g  = grad * clip
//   m' = fma(beta1, m, (1 - beta1) * g)
//   v' = fma(beta2, v, (1 - beta2) * (g * g))
//   d  = sqrt(v' * correction2) + epsilon
//   u  = fma(weight_decay, w, (m' * correction1) / d)
//   w' = fma(-lr, u, w)
//
// All in f32; each operation, sqrt and division included, rounds once to nearest even, fma rounds
// once for both, nothing else is fused or reordered, denormals are kept. 1 - beta is itself one f32
// subtraction. Decay is multiplied by lr, as in PyTorch's AdamW. Vector code (elementwise_simd.cpp)
// does the same operations lane by lane and is tested to be bit-equal.
#pragma once

#include "model/kernels/ops.h"

namespace elaswave::kernels {

struct AdamWElement {
  float master = 0, moment1 = 0, moment2 = 0;
};

inline AdamWElement adamw_element(const AdamWScalars& scalars, AdamWElement state, float grad) {
  const float g = grad * scalars.clip;
  const float m = __builtin_fmaf(scalars.beta1, state.moment1, (1.0f - scalars.beta1) * g);
  const float v = __builtin_fmaf(scalars.beta2, state.moment2, (1.0f - scalars.beta2) * (g * g));
  const float d = __builtin_sqrtf(v * scalars.correction2) + scalars.epsilon;
  const float u = __builtin_fmaf(scalars.weight_decay, state.master, (m * scalars.correction1) / d);
  return {__builtin_fmaf(-scalars.lr, u, state.master), m, v};
}

}  // namespace elaswave::kernels
