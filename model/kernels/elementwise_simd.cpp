// Element-wise vector routines, sums of squares and digests. Compiled once per instruction set:
// rules in simd.h.
#include "model/kernels/dropout_simd.h"
#include "model/kernels/simd.h"
#include "model/kernels/simd_kernels.h"

namespace elaswave::kernels {
namespace {

void add(const float* a, const float* b, float* out, std::int64_t n) {
  sweep(n, [&](std::int64_t i, auto lanes) {
    store(out + i, load(a + i, lanes) + load(b + i, lanes), lanes);
  });
}

void dropout(const DropoutMask& mask, const float* residual, const float* in, float* out,
             std::int64_t n) {
  if (residual == nullptr) {
    with_mask(mask, mask.first_element, n, [&](std::int64_t i, F32 factor, auto lanes) {
      store(out + i, load(in + i, lanes) * factor, lanes);
    });
  } else {
    with_mask(mask, mask.first_element, n, [&](std::int64_t i, F32 factor, auto lanes) {
      store(out + i, load(residual + i, lanes) + load(in + i, lanes) * factor, lanes);
    });
  }
}

// 0.5 (1 + tanh u) = 1 / (1 + e^-2u): the same function without the cancellation of 1 + tanh u for
// negative u.
constexpr float kTwoRootTwoOverPi = 1.59576912160573071f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

ELASWAVE_INLINE F32 minus_two_u(F32 x) {
  const F32 inner = fma(set1(kCubic) * x, x, set1(1.0f));
  return set1(-kTwoRootTwoOverPi) * x * inner;
}

void gelu_forward(const float* x_row, float* y_row, std::int64_t n) {
  sweep(n, [&](std::int64_t i, auto lanes) {
    const F32 x = load(x_row + i, lanes);
    store(y_row + i, x / (set1(1.0f) + exp(minus_two_u(x))), lanes);
  });
}

void gelu_backward(const float* x_row, const float* dy_row, float* dx_row, std::int64_t n) {
  sweep(n, [&](std::int64_t i, auto lanes) {
    // Beyond 16 the slope is 0 or 1 to f32; the bounds on x and on the exponent keep its factors
    // finite.
    const F32 x = max(set1(-16.0f), min(set1(16.0f), load(x_row + i, lanes)));
    const F32 e = exp(min(set1(87.0f), minus_two_u(x)));
    const F32 s = set1(1.0f) / (set1(1.0f) + e);
    const F32 two_du = set1(kTwoRootTwoOverPi) * fma(set1(3 * kCubic) * x, x, set1(1.0f));
    const F32 slope = fma(x * s * (e * s), two_du, s);
    store(dx_row + i, load(dy_row + i, lanes) * slope, lanes);
  });
}

/// Upper half of a float, rounded to nearest even (io/base/bf16.h), in the low 16 bits.
ELASWAVE_INLINE I32 round_to_bf16(F32 a) {
  const I32 word = bits(a);
  const I32 odd = shift_right<16>(word) & set1_i32(1);
  const I32 rounded = shift_right<16>(word + set1_i32(0x7FFFu) + odd);
  const I32 quiet = shift_right<16>(word) | set1_i32(0x40u);
  return bits(select(is_nan(a), from_bits(quiet), from_bits(rounded)));
}

/// adamw_formula.h, lane by lane.
void adamw(const AdamWArgs& args, std::int64_t n) {
  const F32 beta1 = set1(args.beta1), beta2 = set1(args.beta2);
  const F32 rest1 = set1(1.0f - args.beta1), rest2 = set1(1.0f - args.beta2);
  const F32 clip = set1(args.clip), epsilon = set1(args.epsilon), decay = set1(args.weight_decay);
  const F32 correction1 = set1(args.correction1), correction2 = set1(args.correction2);
  const F32 minus_lr = set1(-args.lr);
  sweep(n, [&](std::int64_t i, auto lanes) {
    const F32 g = load(args.grad + i, lanes) * clip;
    const F32 w = load(args.master + i, lanes);
    const F32 m = fma(beta1, load(args.moment1 + i, lanes), rest1 * g);
    const F32 v = fma(beta2, load(args.moment2 + i, lanes), rest2 * (g * g));
    const F32 d = sqrt(v * correction2) + epsilon;
    const F32 u = fma(decay, w, (m * correction1) / d);
    const F32 updated = fma(minus_lr, u, w);
    store(args.moment1 + i, m, lanes);
    store(args.moment2 + i, v, lanes);
    store(args.master + i, updated, lanes);
    if (args.working_f32 != nullptr) store(args.working_f32 + i, updated, lanes);
    if (args.working_bf16 != nullptr)
      store_low16(args.working_bf16 + i, round_to_bf16(updated), lanes);
  });
}

void mean_exact(const std::int64_t* sums, double scale, float* mean, std::int64_t n) {
  const F64 factor = set1_f64(scale);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F64 low = to_f64(load_i64(sums + i)) * factor;
    const F64 high = to_f64(load_i64(sums + i + kLanes64)) * factor;
    store(mean + i, join(low, high));
  }
  for (; i < n; ++i) mean[i] = static_cast<float>(static_cast<double>(sums[i]) * scale);
}

void mean_fast(const float* sums, double scale, float* mean, std::int64_t n) {
  const F64 factor = set1_f64(scale);
  sweep(n, [&](std::int64_t i, auto lanes) {
    const F32 sum = load(sums + i, lanes);
    store(mean + i, join(low_f64(sum) * factor, high_f64(sum) * factor), lanes);
  });
}

// Chain l sums the squares of elements l, l + 32, l + 64, ... (a square of a float is exact in
// double); then chains are halved: l += l + 16, l += l + 8, ... Both instruction sets do exactly
// this.
constexpr int kSquareLanes = 32;

double sum_squares(const float* x, std::int64_t n) {
  constexpr std::int64_t kVectors = kSquareLanes / kLanes64;
  F64 chains[kVectors];
  for (F64& chain : chains) chain = set1_f64(0.0);
  const auto step = [&](const float* p) {
#pragma GCC unroll 8
    for (std::int64_t j = 0; j < kVectors / 2; ++j) {
      const F32 v = load(p + j * kLanes);
      const F64 low = low_f64(v), high = high_f64(v);
      chains[2 * j] = chains[2 * j] + low * low;
      chains[2 * j + 1] = chains[2 * j + 1] + high * high;
    }
  };
  std::int64_t i = 0;
  for (; i + kSquareLanes <= n; i += kSquareLanes) step(x + i);
  if (i < n) {
    float tail[kSquareLanes] = {};
    for (std::int64_t j = i; j < n; ++j) tail[j - i] = x[j];
    step(tail);
  }
  double sums[kSquareLanes];
  for (int j = 0; j < kVectors; ++j) store_f64(sums + j * kLanes64, chains[j]);
  for (int half = kSquareLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
  return sums[0];
}

/// mix64 of io/base/hash.h.
ELASWAVE_INLINE I64 mix(I64 x) {
  x = x ^ shift_right<30>(x);
  x = multiply_low(x, set1_i64(0xBF58476D1CE4E5B9u));
  x = x ^ shift_right<27>(x);
  x = multiply_low(x, set1_i64(0x94D049BB133111EBu));
  return x ^ shift_right<31>(x);
}

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;  // kGolden64 of io/base/hash.h

std::uint64_t digest(const float* range, std::uint64_t key, std::int64_t first, std::int64_t n) {
  constexpr int kUnroll = 4;  // chains of multiplies in flight
  constexpr int kStep = kUnroll * kLanes64;
  const auto* words = reinterpret_cast<const std::uint32_t*>(range);
  const std::uint64_t start = key + static_cast<std::uint64_t>(first) * kGolden;
  I64 position[kUnroll], sums[kUnroll];
  for (int u = 0; u < kUnroll; ++u) {
    position[u] = set1_i64(start + static_cast<std::uint64_t>(u * kLanes64) * kGolden) +
                  multiply_low(iota_i64(), set1_i64(kGolden));
    sums[u] = set1_i64(0);
  }
  const I64 advance = set1_i64(static_cast<std::uint64_t>(kStep) * kGolden);
  const auto step = [&](const std::uint32_t* p) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      sums[u] = sums[u] + mix(mix(position[u]) ^ load_words(p + u * kLanes64));
      position[u] = position[u] + advance;
    }
  };
  std::int64_t i = 0;
  for (; i + kStep <= n; i += kStep) step(words + i);
  std::int64_t lanes[kLanes64];
  store_i64(lanes, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  std::uint64_t total = 0;
  for (const std::int64_t lane : lanes) total += static_cast<std::uint64_t>(lane);
  for (; i < n; ++i) {
    const I64 mixed = mix(set1_i64(start + static_cast<std::uint64_t>(i) * kGolden));
    store_i64(lanes, mix(mixed ^ set1_i64(words[i])));
    total += static_cast<std::uint64_t>(lanes[0]);
  }
  return total;
}

void widen(const std::uint16_t* in, float* out, std::int64_t n) {
  sweep(n, [&](std::int64_t i, auto lanes) {
    store(out + i, from_bits(shift_left<16>(load_low16(in + i, lanes))), lanes);
  });
}

void narrow(const float* in, std::uint16_t* out, std::int64_t n) {
  sweep(n, [&](std::int64_t i, auto lanes) {
    store_low16(out + i, round_to_bf16(load(in + i, lanes)), lanes);
  });
}

constexpr ElementwiseKernels kKernels = {
    add,       dropout,     gelu_forward, gelu_backward, adamw,  mean_exact,
    mean_fast, sum_squares, digest,       widen,         narrow,
};

}  // namespace

const ElementwiseKernels& ELASWAVE_ISA_NAME(elementwise_kernels)() {
  return kKernels;
}

}  // namespace elaswave::kernels
