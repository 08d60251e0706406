// Layer norm over rows. Compiled once per instruction set: rules in simd.h.
#include "model/kernels/simd.h"
#include "model/kernels/simd_kernels.h"

namespace elaswave::kernels {
namespace {

constexpr int kChains = 4;  // independent sums in flight; part of the order of summation

/// Sum over i < n of term(i, lanes): chain c takes vectors c, c + 4, ...; terms of absent lanes
/// must be 0.
template <typename Term>
ELASWAVE_INLINE float sum_row(std::int64_t n, const Term& term) {
  F32 chains[kChains] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  std::int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) chains[c] = chains[c] + term(i + c * kLanes, FullVector{});
  }
  int c = 0;
  for (; i + kLanes <= n; i += kLanes, ++c) chains[c] = chains[c] + term(i, FullVector{});
  if (i < n) chains[c] = chains[c] + term(i, PartVector{n - i});
  return reduce_sum((chains[0] + chains[1]) + (chains[2] + chains[3]));
}

ELASWAVE_INLINE F32 zero_absent(F32 a, FullVector) {
  return a;
}
ELASWAVE_INLINE F32 zero_absent(F32 a, PartVector part) {
  return keep(lanes_below(part.lanes), a);
}

void forward(const NormForwardRows& args) {
  const std::int64_t C = args.C;
  for (std::int64_t row = 0; row < args.rows; ++row) {
    const float* x = args.x + row * args.x_stride;
    float* y = args.y + row * args.y_stride;
    const float mean = sum_row(C, [&](std::int64_t i, auto lanes) { return load(x + i, lanes); }) /
                       static_cast<float>(C);
    const float squares = sum_row(C, [&](std::int64_t i, auto lanes) {
      const F32 d = zero_absent(load(x + i, lanes) - set1(mean), lanes);
      return d * d;
    });
    const float rstd = 1.0f / __builtin_sqrtf(squares / static_cast<float>(C) + args.epsilon);
    sweep(C, [&](std::int64_t i, auto lanes) {
      const F32 normal = (load(x + i, lanes) - set1(mean)) * set1(rstd);
      store(y + i, fma(normal, load(args.gamma + i, lanes), load(args.beta + i, lanes)), lanes);
    });
    args.mean[row] = mean;
    args.rstd[row] = rstd;
  }
}

/// With g = dy * gamma and n = (x - mean) * rstd: dx = dresidual + rstd (g - mean_C(g) - n mean_C(g
/// n)).
ELASWAVE_INLINE void backward_row(const NormBackwardRows& args, std::int64_t row) {
  const std::int64_t C = args.C;
  const float* dy = args.dy + row * args.dy_stride;
  const float* x = args.x + row * args.x_stride;
  const float* dresidual =
      args.dresidual == nullptr ? nullptr : args.dresidual + row * args.dresidual_stride;
  float* dx = args.dx + row * args.dx_stride;
  const F32 mean = set1(args.mean[row]), rstd = set1(args.rstd[row]);
  const float sum_g = sum_row(C, [&](std::int64_t i, auto lanes) {
    return load(dy + i, lanes) * load(args.gamma + i, lanes);
  });
  // Also the addends of dgamma and dbeta, while dy and x are at hand. Absent lanes of dy are 0, so
  // are their terms.
  const float sum_gn = sum_row(C, [&](std::int64_t i, auto lanes) {
    const F32 grad = load(dy + i, lanes);
    const F32 normal = zero_absent((load(x + i, lanes) - mean) * rstd, lanes);
    store(args.dgamma + i, fma(grad, normal, load(args.dgamma + i, lanes)), lanes);
    store(args.dbeta + i, load(args.dbeta + i, lanes) + grad, lanes);
    return grad * load(args.gamma + i, lanes) * normal;
  });
  const F32 mean_g = set1(sum_g / static_cast<float>(C)),
            mean_gn = set1(sum_gn / static_cast<float>(C));
  sweep(C, [&](std::int64_t i, auto lanes) {
    const F32 normal = (load(x + i, lanes) - mean) * rstd;
    const F32 g = load(dy + i, lanes) * load(args.gamma + i, lanes);
    const F32 inner = fnma(normal, mean_gn, g - mean_g);
    const F32 base = dresidual == nullptr ? set1(0.0f) : load(dresidual + i, lanes);
    store(dx + i, fma(inner, rstd, base), lanes);
  });
}

void backward(const NormBackwardRows& args) {
  sweep(args.C, [&](std::int64_t i, auto lanes) {
    store(args.dgamma + i, set1(0.0f), lanes);
    store(args.dbeta + i, set1(0.0f), lanes);
  });
  for (std::int64_t row = 0; row < args.rows; ++row) backward_row(args, row);
}

constexpr NormKernels kKernels = {forward, backward};

}  // namespace

const NormKernels& ELASWAVE_ISA_NAME(norm_kernels)() {
  return kKernels;
}

}  // namespace elaswave::kernels
