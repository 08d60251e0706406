// What the plain attention kernels share: tiles of 32 rows of one head in shared memory and the two
// block products on them. For .cu files of this folder.
//
// A block of 8 warps works on a tile of 32 rows, its own; each warp has 4 of them. Tiles of 32
// other rows come by one after another, one row for each lane of a warp: queries meet keys in
// forward and for dq, keys meet queries for dk and dv. Scores of a warp's rows therefore lie in
// registers, one a lane, and a row's softmax is a sum over lanes. Tiles are f32, as wide as 32 *
// kColumns, zeros from the head dimension on.
//
// Order of sums, fixed by the shape: a score over D ascending; an output, dq, dk and dv over the
// other rows ascending.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "model/kernels/cuda_kernels.h"
#include "model/kernels/cuda_parts.h"

namespace elaswave::kernels::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kTileWarps = 8;
constexpr int kTileThreads = 32 * kTileWarps;
constexpr int kWarpRows = kTile / kTileWarps;
constexpr std::int64_t kLargestHead = 256;
constexpr std::int64_t kLargestGrid = 65535;  // heads, samples

/// Elements between rows of a tile: 4 more than its width, so that 16-byte reads of one column by
/// all lanes meet in no bank.
template <int kColumns>
constexpr int kTileStride = 32 * kColumns + 4;
template <int kColumns>
constexpr int kTileElems = kTile* kTileStride<kColumns>;

/// Heads of one call.
struct Heads {
  std::int64_t B = 0, T = 0, H = 0, D = 0;
  float scale = 0;         // 1 / sqrt(D)
  std::int64_t begin = 0;  // of these heads among the model's
  constexpr std::int64_t C() const { return H * D; }
};

/// q, k and v of all heads, or their gradients, as a call gives them. Also checks what attention
/// forward and backward have in common.
template <typename Args>
Heads heads_of(const Args& args) {
  const ConstMat qkv = args.qkv_N3C, out = args.out_NC;
  const std::int64_t T = args.T, H = args.H;
  EW_CHECK(T > 0 && H > 0 && qkv.rows % T == 0 && qkv.cols % (3 * H) == 0 &&
               qkv.cols / (3 * H) <= kLargestHead,
           "{} x {} is not q, k and v of {} heads of at most {} for samples of {}", qkv.rows,
           qkv.cols, H, kLargestHead, T);
  const std::int64_t D = qkv.cols / (3 * H);
  const Heads heads = {
      qkv.rows / T,   T, H, D, static_cast<float>(1.0 / std::sqrt(static_cast<double>(D))),
      args.head_begin};
  EW_CHECK(out.rows == qkv.rows && out.cols == H * D && args.head_begin >= 0,
           "an output of {} x {} for {} rows of heads {}+{} of {}", out.rows, out.cols, qkv.rows,
           args.head_begin, H, D);
  EW_CHECK(std::ssize(args.lse_NH) >= qkv.rows * H, "lse of {} for {} rows of {} heads",
           args.lse_NH.size(), qkv.rows, H);
  EW_CHECK(heads.B <= kLargestGrid && H <= kLargestGrid, "{} samples of {} heads, at most {}",
           heads.B, H, kLargestGrid);
  EW_CHECK(args.dropout.rate == 0 || std::ssize(args.dropout.streams_B) == heads.B,
           "{} streams for {} samples", args.dropout.streams_B.size(), heads.B);
  return heads;
}

/// The masks of one call, for blocks of head blockIdx.y of sample blockIdx.z. Element index:
/// ((head_begin + head) * T + query) * T + key.
struct HeadMask {
  const RandomStream* streams = nullptr;  // of the samples; null: nothing is dropped
  MaskRule rule;
  std::int64_t T = 0, head_begin = 0;

  __device__ float factor(std::int64_t query, std::int64_t key) const {
    if (streams == nullptr) return 1.0f;
    const std::int64_t element = ((head_begin + blockIdx.y) * T + query) * T + key;
    float factors[1];
    mask_factors(rule, streams[blockIdx.z], static_cast<std::uint64_t>(element), factors);
    return factors[0];
  }
};
inline HeadMask head_mask(const CudaContext& context, const Dropout& dropout, const Heads& heads) {
  if (dropout.rate == 0) return {};
  const auto stream = [&](std::int64_t i) {
    return dropout.streams_B[static_cast<std::size_t>(i)];
  };
  return {context.scratch.upload<RandomStream>(ScratchUse::list, heads.B, stream),
          mask_rule(dropout.rate), heads.T, heads.begin};
}

/// Rows [0, rows) of a head from memory, times `factor`; zeros for the rest of the tile.
template <int kColumns, typename T>
__device__ void load_tile(float* tile, const T* from, std::int64_t stride, std::int64_t rows, int D,
                          float factor, bool vectors) {
  constexpr int kVec = kVectorElems<T>, kVectors = 32 * kColumns / kVec;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kVectors; i += kTileThreads) {
    const int row = i / kVectors, d = i % kVectors * kVec;
    float values[kVec];
    load_part(from + row * stride + d, row < rows ? D - d : 0, vectors, values);
    float* to = tile + row * kTileStride<kColumns> + d;
#pragma unroll
    for (int e = 0; e < kVec; ++e) to[e] = factor * values[e];
  }
}

/// products[r] = row r of `mine` times this lane's row of `other`.
template <int kColumns>
__device__ void multiply_rows(const float* mine, const float* other, float (&products)[kWarpRows]) {
  const float* lane_row = other + threadIdx.x % 32 * kTileStride<kColumns>;
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) products[r] = 0;
#pragma unroll 2
  for (int d = 0; d < 32 * kColumns; d += 4) {
    const float4 b = *reinterpret_cast<const float4*>(lane_row + d);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float4 a = *reinterpret_cast<const float4*>(mine + r * kTileStride<kColumns> + d);
      float sum = __fmaf_rn(a.x, b.x, products[r]);
      sum = __fmaf_rn(a.y, b.y, sum);
      sum = __fmaf_rn(a.z, b.z, sum);
      products[r] = __fmaf_rn(a.w, b.w, sum);
    }
  }
}

/// Which of the other rows count for a warp's rows: row r takes those in [begin + r, end + r). What
/// the causal mask hides is left out rather than multiplied by 0, so that a number that is not
/// finite does not reach the positions before it.
struct Visible {
  int begin, end;
};

/// sums[r][k] += sum over the other rows j of weights[r * kTile + j] * other[j][lane + 32 k].
template <int kColumns>
__device__ void add_weighted(const float* weights, const float* other, Visible visible,
                             float (&sums)[kWarpRows][kColumns]) {
  const float* column = other + threadIdx.x % 32;
#pragma unroll 4
  for (int j = 0; j < kTile; ++j) {
    float values[kColumns];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) values[k] = column[j * kTileStride<kColumns> + 32 * k];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      if (j < visible.begin + r || j >= visible.end + r) continue;  // the same for the whole warp
      const float weight = weights[r * kTile + j];
#pragma unroll
      for (int k = 0; k < kColumns; ++k) sums[r][k] = __fmaf_rn(weight, values[k], sums[r][k]);
    }
  }
}

/// A warp's rows, times `factor`, to rows [row, rows) of a head in memory.
template <int kColumns, typename T>
__device__ void store_rows(const float (&sums)[kWarpRows][kColumns], float factor, T* to,
                           std::int64_t stride, std::int64_t row, std::int64_t rows, int D) {
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r)
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      const int d = static_cast<int>(threadIdx.x % 32) + 32 * k;
      const float value[1] = {factor * sums[r][k]};
      if (row + r < rows && d < D) store(to + (row + r) * stride + d, value);
    }
}

/// body(columns) with the width of tiles that the head dimension needs, as a constant.
template <typename Body>
void with_columns(std::int64_t D, const Body& body) {
  if (D <= 64)
    body(std::integral_constant<int, 2>{});
  else if (D <= 128)
    body(std::integral_constant<int, 4>{});
  else
    body(std::integral_constant<int, 8>{});
}

inline unsigned tiles_of(std::int64_t rows) {
  return static_cast<unsigned>(ceil_div(rows, kTile));
}

}  // namespace
}  // namespace elaswave::kernels::cuda
