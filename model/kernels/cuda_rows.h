// Element-wise kernels over the rows of matrices, device code: where a thread's elements lie, the
// kernel all of them share, and dropout masks by row. Included by .cu files only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "model/kernels/cuda_device.h"
#include "model/kernels/cuda_kernels.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {

/// Division of numbers below 2^31 by one that is fixed for a launch, as a multiplication and a
/// shift (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI
/// 1994, section 4).
struct Divider {
  std::uint32_t by = 1, magic = 1, shift = 0;
};
inline Divider divider(std::int64_t by) {
  EW_CHECK(by > 0 && by < std::int64_t{1} << 31, "divisor {}", by);
  const auto d = static_cast<std::uint64_t>(by);
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < d) ++shift;
  const std::uint64_t magic = ((((std::uint64_t{1} << shift) - d) << 32) / d) + 1;
  return {static_cast<std::uint32_t>(d), static_cast<std::uint32_t>(magic), shift};
}
__device__ inline std::uint32_t quotient(const Divider& divider, std::uint32_t n) {
  return (__umulhi(n, divider.magic) + n) >> divider.shift;
}

/// A matrix in device memory. T is float, bf16 or const of these.
template <typename T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;
  __device__ T* at(std::int64_t row, std::uint32_t col) const { return data + row * stride + col; }
};
template <typename T>
Rows<const T> rows_of(const ConstMat& view) {
  return {reinterpret_cast<const T*>(view.data), view.stride};
}
template <typename T>
Rows<T> rows_of(const Mat& view) {
  return {reinterpret_cast<T*>(view.data), view.stride};
}

/// body.operator()<T, kWidth>() for the storage type and the widest access that the views allow.
/// REQUIRES: all views of the same type.
template <typename Body>
void with_shape(std::int64_t cols, std::initializer_list<ConstMat> views, const Body& body) {
  const DType dtype = views.begin()->dtype;
  for (const ConstMat& view : views)
    EW_CHECK(view.dtype == dtype, "{} beside {}", name(view.dtype), name(dtype));
  const bool vectors = vectors_fit(cols, views);
  if (dtype == DType::f32) {
    vectors ? body.template operator()<float, kVectorElems<float>>()
            : body.template operator()<float, 1>();
  } else {
    vectors ? body.template operator()<bf16, kVectorElems<bf16>>()
            : body.template operator()<bf16, 1>();
  }
}

/// kWidth elements of a row of the matrix.
struct Place {
  std::int64_t row = 0;
  std::uint32_t launch_row = 0;  // counted from the launch's first row
  std::uint32_t col = 0;
};

struct RowLaunch {
  std::int64_t first_row = 0;
  Divider per_row;          // vectors in a row
  std::uint32_t total = 0;  // vectors
};

inline constexpr unsigned kRowThreads = 256;
inline constexpr unsigned kRowVectors = 2;  // a thread's share: their loads are under way together

/// op.load(place) and op.store(place, loaded) for every vector of the launch's rows.
template <typename Op>
__global__ void sweep_rows(const RowLaunch shape, const Op op) {
  const std::uint32_t first = blockIdx.x * (kRowThreads * kRowVectors) + threadIdx.x;
  Place places[kRowVectors];
  typename Op::Loaded loaded[kRowVectors];
#pragma unroll
  for (unsigned k = 0; k < kRowVectors; ++k) {
    const std::uint32_t vector = first + k * kRowThreads;
    if (vector >= shape.total) continue;
    const std::uint32_t row = quotient(shape.per_row, vector);
    places[k] = {shape.first_row + row, row, (vector - row * shape.per_row.by) * Op::kElems};
    loaded[k] = op.load(places[k]);
  }
#pragma unroll
  for (unsigned k = 0; k < kRowVectors; ++k)
    if (first + k * kRowThreads < shape.total) op.store(places[k], loaded[k]);
}

/// Rows [first_row, first_row + rows) of `cols` columns, as one launch. REQUIRES: cols a multiple
/// of Op::kElems; fewer than 2^31 vectors.
template <typename Op>
void launch_rows(const CudaContext& context, std::int64_t first_row, std::int64_t rows,
                 std::int64_t cols, const Op& op) {
  const std::int64_t vectors = rows * (cols / Op::kElems);
  if (vectors == 0) return;
  const RowLaunch shape = {first_row, divider(cols / Op::kElems),
                           static_cast<std::uint32_t>(vectors)};
  const auto blocks = static_cast<unsigned>(ceil_div(vectors, kRowThreads * kRowVectors));
  device::launch(context.stream, {.blocks_x = blocks, .threads = kRowThreads}, sweep_rows<Op>,
                 shape, op);
}

/// Rows that one launch can take: vectors are counted in 31 bits, with room for a last block.
inline std::int64_t most_rows(std::int64_t cols) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 4096;
  EW_CHECK(cols <= kMost, "{} columns", cols);
  return std::max<std::int64_t>(1, kMost / std::max<std::int64_t>(1, cols));
}

/// All rows of a matrix whose elements are equal, whatever their row.
template <typename Op>
void launch_all_rows(const CudaContext& context, std::int64_t rows, std::int64_t cols,
                     const Op& op) {
  const std::int64_t most = most_rows(cols);
  for (std::int64_t first = 0; first < rows; first += most)
    launch_rows(context, first, std::min(most, rows - first), cols, op);
}

/// Masks of the rows of one launch; streams travel with the launch.
inline constexpr std::int64_t kLaunchSamples = 64;
template <bool kDropout>
struct RowMasks {
  MaskRule rule;
  Divider T;
  std::uint32_t phase = 0;  // position of the launch's first row in its sample
  RandomStream streams[kDropout ? kLaunchSamples : 1];

  __device__ std::uint32_t position(const Place& place) const {
    const std::uint32_t row = phase + place.launch_row;
    return row - quotient(T, row) * T.by;
  }
  /// x *= factor, for the elements at `place` of rows of C elements.
  template <int kWidth>
  __device__ void apply(const Place& place, std::uint32_t C, float (&x)[kWidth]) const {
    if constexpr (kDropout) {
      const std::uint32_t row = phase + place.launch_row;
      const std::uint32_t sample = quotient(T, row);
      const std::uint64_t element = static_cast<std::uint64_t>(row - sample * T.by) * C + place.col;
      float factors[kWidth];
      mask_factors(rule, streams[sample], element, factors);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) x[i] = __fmul_rn(x[i], factors[i]);
    }
  }
};

/// Rows [row_begin, row_begin + rows) of a micro-batch of samples of T rows: body(first, count,
/// masks) for stretches of them, counted from row_begin, that one launch can take.
template <bool kDropout, typename Body>
void for_stretches(std::int64_t rows, std::int64_t cols, std::int64_t T, std::int64_t row_begin,
                   const Dropout& dropout, const Body& body) {
  EW_CHECK(T > 0 && row_begin >= 0, "rows from {} on of samples of {}", row_begin, T);
  EW_CHECK(!kDropout || row_begin + rows <= std::ssize(dropout.streams_B) * T,
           "{} streams for rows {}+{} of samples of {}", dropout.streams_B.size(), row_begin, rows,
           T);
  RowMasks<kDropout> masks;
  masks.rule = mask_rule(dropout.rate);
  masks.T = divider(T);
  const std::int64_t most = std::min(most_rows(cols), most_rows(1) - T);
  EW_CHECK(most > 0, "samples of {} rows", T);
  for (std::int64_t first = 0; first < rows;) {
    const std::int64_t sample = (row_begin + first) / T;
    std::int64_t count = std::min(most, rows - first);
    if constexpr (kDropout) {
      count = std::min(count, (sample + kLaunchSamples) * T - (row_begin + first));
      const std::int64_t streams = std::min(kLaunchSamples, std::ssize(dropout.streams_B) - sample);
      std::copy_n(dropout.streams_B.begin() + sample, streams, masks.streams);
    }
    masks.phase = static_cast<std::uint32_t>((row_begin + first) % T);
    body(first, count, masks);
    first += count;
  }
}

}  // namespace elaswave::kernels::cuda
