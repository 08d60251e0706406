// What the CUDA kernels share, device code: vector loads and stores of both storage types as f32,
// reductions in a fixed order, dropout masks and gradient sinks with the CPU's bits. Included by
// .cu files only.
//
// nvcc fuses a * b + c into one rounding where it pleases; where bits are promised, the operations
// are spelled out (__fmul_rn, __fadd_rn, __fmaf_rn). Denormals are kept.
#pragma once

#include <cuda_bf16.h>

#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "io/base/bf16.h"
#include "io/base/philox.h"
#include "model/kernels/ops.h"

namespace elaswave::kernels::cuda {

inline constexpr unsigned kFullWarp = 0xFFFFFFFFu;
inline constexpr int kWarp = 32;

// ---- Storage. T is float or bf16; elements are read and written as f32, kWidth at a time. With
// kWidth > 1 the address is a multiple of kWidth elements.

/// Elements in 16 bytes, the widest access there is.
template <typename T>
inline constexpr int kVectorElems = 16 / static_cast<int>(sizeof(T));

/// Can rows of these views be read 16 bytes at a time?
inline bool vectors_fit(std::int64_t cols, std::initializer_list<ConstMat> views) {
  for (const ConstMat& view : views) {
    const std::int64_t elem_bytes = size_bytes(view.dtype);
    if (cols * elem_bytes % 16 != 0 || view.stride * elem_bytes % 16 != 0) return false;
    if (reinterpret_cast<std::uintptr_t>(view.data) % 16 != 0) return false;
  }
  return true;
}

__device__ inline float bf16_low(unsigned pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float bf16_high(unsigned pair) {
  return __uint_as_float(pair & 0xFFFF0000u);
}
/// Rounded to nearest even; a NaN stays one, its payload need not.
__device__ inline std::uint16_t bf16_bits(float x) {
  return std::bit_cast<std::uint16_t>(__float2bfloat16_rn(x));
}
__device__ inline unsigned bf16_pair(float low, float high) {
  return static_cast<unsigned>(bf16_bits(low)) | static_cast<unsigned>(bf16_bits(high)) << 16;
}

template <int kWidth>
__device__ inline void load(const float* p, float (&x)[kWidth]) {
  static_assert(kWidth == 1 || kWidth == 2 || kWidth % 4 == 0);
  if constexpr (kWidth == 1) {
    x[0] = *p;
  } else if constexpr (kWidth == 2) {
    const float2 v = *reinterpret_cast<const float2*>(p);
    x[0] = v.x, x[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(p + i);
      x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
    }
  }
}
template <int kWidth>
__device__ inline void store(float* p, const float (&x)[kWidth]) {
  static_assert(kWidth == 1 || kWidth == 2 || kWidth % 4 == 0);
  if constexpr (kWidth == 1) {
    *p = x[0];
  } else if constexpr (kWidth == 2) {
    *reinterpret_cast<float2*>(p) = make_float2(x[0], x[1]);
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 4)
      *reinterpret_cast<float4*>(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
  }
}

template <int kWidth>
__device__ inline void load(const bf16* p, float (&x)[kWidth]) {
  static_assert(kWidth == 1 || kWidth == 4 || kWidth % 8 == 0);
  if constexpr (kWidth == 1) {
    x[0] = bf16_low(p->bits);
  } else if constexpr (kWidth == 4) {
    const float2 v = *reinterpret_cast<const float2*>(p);
    const unsigned pairs[2] = {__float_as_uint(v.x), __float_as_uint(v.y)};
#pragma unroll
    for (int k = 0; k < 2; ++k) x[2 * k] = bf16_low(pairs[k]), x[2 * k + 1] = bf16_high(pairs[k]);
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 8) {
      const uint4 v = *reinterpret_cast<const uint4*>(p + i);
      const unsigned pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k)
        x[i + 2 * k] = bf16_low(pairs[k]), x[i + 2 * k + 1] = bf16_high(pairs[k]);
    }
  }
}
template <int kWidth>
__device__ inline void store(bf16* p, const float (&x)[kWidth]) {
  static_assert(kWidth == 1 || kWidth == 4 || kWidth % 8 == 0);
  if constexpr (kWidth == 1) {
    p->bits = bf16_bits(x[0]);
  } else if constexpr (kWidth == 4) {
    *reinterpret_cast<float2*>(p) =
        make_float2(__uint_as_float(bf16_pair(x[0], x[1])), __uint_as_float(bf16_pair(x[2], x[3])));
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 8)
      *reinterpret_cast<uint4*>(p + i) =
          make_uint4(bf16_pair(x[i], x[i + 1]), bf16_pair(x[i + 2], x[i + 3]),
                     bf16_pair(x[i + 4], x[i + 5]), bf16_pair(x[i + 6], x[i + 7]));
  }
}

// ---- Reductions in an order that the number of threads fixes.

struct Add {
  template <typename Value>
  __device__ Value operator()(Value a, Value b) const {
    return a + b;
  }
};
/// A NaN is lost, as fmaxf loses it.
struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// The whole warp's values, in halves: lane l with l ^ 16, then ^ 8, ... Every lane gets the
/// result.
template <typename Value, typename Combine>
__device__ inline Value warp_reduce(Value value, const Combine& combine) {
#pragma unroll
  for (int half = kWarp / 2; half > 0; half /= 2)
    value = combine(value, __shfl_xor_sync(kFullWarp, value, half));
  return value;
}
/// The whole block's: warps first, then the warps' values in the same way, missing ones `neutral`.
/// Every thread gets the result. `shared` holds 32 values and may be used again after the next
/// barrier. REQUIRES: whole warps; all threads call.
template <typename Value, typename Combine>
__device__ inline Value block_reduce(Value value, Value neutral, const Combine& combine,
                                     Value* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_reduce(value, combine);
  if (lane == 0) shared[warp] = value;
  __syncthreads();  // every warp's value is there
  return warp_reduce(lane < warps ? shared[lane] : neutral, combine);
}

// ---- Dropout masks (ops.h, struct Dropout).

/// An element is kept when its word is at least `threshold`: uniform01(word) < rate is (word >> 9)
/// < ceil(rate * 2^23 - 1/2), exactly.
struct MaskRule {
  std::uint32_t threshold = 0;
  float keep_scale = 1;  // 1 / (1 - rate)
};
inline MaskRule mask_rule(float rate) {
  EW_CHECK(rate >= 0 && rate < 1, "dropout rate {}", rate);
  const double bound = std::ceil(static_cast<double>(rate) * 0x1p23 - 0.5);
  return {static_cast<std::uint32_t>(rate > 0 ? bound : 0) << 9, 1.0f / (1.0f - rate)};
}
__device__ inline float mask_factor(const MaskRule& rule, std::uint32_t word) {
  return word >= rule.threshold ? rule.keep_scale : 0.0f;
}
/// Factors (0 or keep_scale) of elements first .. first + kWidth - 1 of a sample's mask. REQUIRES:
/// `first` a multiple of 4 when kWidth is.
template <int kWidth>
__device__ inline void mask_factors(const MaskRule& rule, const RandomStream& stream,
                                    std::uint64_t first, float (&factors)[kWidth]) {
  if constexpr (kWidth % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWidth; i += 4) {
      const std::array<std::uint32_t, 4> words =
          philox(stream, first / 4 + static_cast<unsigned>(i) / 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) factors[i + k] = mask_factor(rule, words[k]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const std::uint64_t element = first + static_cast<unsigned>(i);
      const std::array<std::uint32_t, 4> words = philox(stream, element / 4);
      // Not words[element % 4]: an index known at run time alone would put them into memory.
      const std::uint32_t low = element % 2 != 0 ? words[1] : words[0];
      const std::uint32_t high = element % 2 != 0 ? words[3] : words[2];
      factors[i] = mask_factor(rule, element % 4 < 2 ? low : high);
    }
  }
}

// ---- Gradient sinks.

/// A GradSink as kernels take it: the flag as the plain word that the device writes. The word lies
/// in Space::host, so that the device may store to it.
struct DeviceSink {
  std::int64_t* exact = nullptr;
  float* fast = nullptr;
  std::uint32_t* flag = nullptr;
  float limit = 0;
  bool overwrite = false;
};
static_assert(sizeof(RangeFlag) == sizeof(std::uint32_t));
inline DeviceSink device_sink(const GradSink& sink) {
  EW_CHECK((sink.exact != nullptr) != (sink.fast != nullptr) && sink.flag != nullptr,
           "a sink takes exact or fast sums and has a flag");
  return {sink.exact, sink.fast, reinterpret_cast<std::uint32_t*>(sink.flag), sink.limit,
          sink.overwrite};
}
/// Can the sink's elements be reached 16 bytes at a time from every multiple of `elems` on?
inline bool vectors_fit(const DeviceSink& sink, std::int64_t elems) {
  const void* sums = sink.exact != nullptr ? static_cast<const void*>(sink.exact) : sink.fast;
  return elems % 4 == 0 && reinterpret_cast<std::uintptr_t>(sums) % 16 == 0;
}

template <int kWidth>
__device__ inline void put_exact(std::int64_t* p, const long long (&q)[kWidth], bool overwrite) {
  if constexpr (kWidth == 1) {
    *p = overwrite ? q[0] : *p + q[0];
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 2) {
      auto* pair = reinterpret_cast<longlong2*>(p + i);
      longlong2 sum = {q[i], q[i + 1]};
      if (!overwrite) {
        const longlong2 before = *pair;
        sum.x += before.x, sum.y += before.y;
      }
      *pair = sum;
    }
  }
}

/// One addend for elements first .. first + kWidth - 1, exactly as the CPU backend adds it:
/// llrint(g * 2^40), or f32 sums. kWidth is 1, 2 or 4. REQUIRES: sums + first a multiple of 16
/// bytes (kWidth of 2: of 16 in exact mode, 8 in fast mode) where kWidth > 1.
template <int kWidth>
__device__ inline void sink_add(const DeviceSink& sink, std::int64_t first,
                                const float (&g)[kWidth]) {
  bool good = true;
  if (sink.exact != nullptr) {
    long long q[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const bool in_range = fabsf(g[i]) < sink.limit;  // false for NaN
      // The product is exact, so the sum sees one rounding.
      q[i] = in_range ? __float2ll_rn(__fmul_rn(g[i], 0x1p40f)) : 0;
      good = good && in_range;
    }
    put_exact(sink.exact + first, q, sink.overwrite);
  } else {
    float sum[kWidth];
    if (!sink.overwrite) load(sink.fast + first, sum);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      good = good && fabsf(g[i]) <= FLT_MAX;
      sum[i] = sink.overwrite ? g[i] : __fadd_rn(sum[i], g[i]);
    }
    store(sink.fast + first, sum);
  }
  if (!good) *static_cast<volatile std::uint32_t*>(sink.flag) = 1;  // whoever writes writes 1
}

/// Makes the elements of a sink that starts with this addend zero; otherwise leaves them.
template <int kWidth>
__device__ inline void sink_skip(const DeviceSink& sink, std::int64_t first) {
  if (!sink.overwrite) return;
  if (sink.exact != nullptr) {
    const long long zeros[kWidth] = {};
    put_exact(sink.exact + first, zeros, true);
  } else {
    const float zeros[kWidth] = {};
    store(sink.fast + first, zeros);
  }
}

}  // namespace elaswave::kernels::cuda
