// Causal self-attention as a list of tensor operations, plain data: what a library that compiles
// graphs is asked for (sdpa_graph.h), and what a test evaluates naively. Pure.
//
// Tensors have the four dimensions B, H and two of T, D or 1; strides place them in packed memory,
// so q, k, v and their gradients are views of qkv_N3C and dqkv_N3C (ops.h). Sums, exponentials and
// everything that stays inside are f32, except the probabilities and their gradients, which are
// rounded to the storage type where they enter a matrix product: Dao et al., arXiv 2205.14135,
// algorithms 1 and 4 (the second with D_i = dO_i . O_i).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/types.h"

namespace elaswave::kernels {

/// Everything a graph depends on. Strides are those of rows, in elements; forward reads the first
/// two alone and wants the others 0, so that equal graphs have equal shapes.
struct SdpaShape {
  std::int64_t B = 0, T = 0, H = 0, D = 0;
  std::int64_t qkv_stride = 0, out_stride = 0, dout_stride = 0, dqkv_stride = 0;
  auto operator<=>(const SdpaShape&) const = default;

  std::int64_t C() const { return H * D; }
  /// Rows without a gap.
  static SdpaShape dense(std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t D);
  /// For people: "b16 t1024 h12 d64".
  std::string text() const;
};

enum class SdpaType : std::uint8_t { f32, bf16, i32, boolean };

enum class SdpaPlace : std::uint8_t {
  memory,  // the caller's, named by an SdpaBinding
  inner,   // never in memory: lives within the kernel
  scalar   // one f32 of the graph itself, passed by value
};

/// The caller's tensors.
enum class SdpaBinding : std::int64_t { q, k, v, out, lse, dout, dq, dk, dv, row_sums };

using SdpaDims = std::array<std::int64_t, 4>;

struct SdpaTensor {
  std::string_view name;
  SdpaPlace place = SdpaPlace::inner;
  SdpaBinding binding{};  // of SdpaPlace::memory
  SdpaType type = SdpaType::f32;
  SdpaDims dims{};
  SdpaDims strides{};  // elements
  float value = 0;     // of SdpaPlace::scalar
};

/// y = kind(a, b); dimensions of 1 are repeated. Tensors are named by their index.
enum class SdpaKind : std::uint8_t {
  matmul,    // y[.., i, j] = sum over l of a[.., i, l] b[.., l, j]
  multiply,  // pointwise from here on
  add,
  subtract,
  divide,
  exp,
  log,
  index,          // y[i0, i1, i2, i3] = i_axis; of a only the shape counts
  greater_equal,  // a >= b
  select,         // mask ? a : b
  reduce_max,     // over every dimension that y has as 1
  reduce_add,
  reinterpret  // y is a's memory under y's dims and strides (a transposition)
};

using SdpaIndex = std::int64_t;
inline constexpr SdpaIndex kNoTensor = -1;

struct SdpaOp {
  SdpaKind kind{};
  SdpaIndex a = kNoTensor, b = kNoTensor, mask = kNoTensor, y = kNoTensor;
  int axis = 0;  // of SdpaKind::index
};

/// Operations in an order in which every tensor is written before it is read.
struct SdpaGraph {
  std::vector<SdpaTensor> tensors;
  std::vector<SdpaOp> ops;

  /// The tensor of the caller's memory, or kNoTensor.
  SdpaIndex find(SdpaBinding binding) const;
};

/// out = softmax(mask(q k^T / sqrt(D))) v and lse_NH, the log of the sum of exponentials of the
/// scaled scores, laid out [(b*H + h)*T + t]. 14 operations.
SdpaGraph sdpa_forward(const SdpaShape& shape);

/// dq, dk, dv from q, k, v, out, dout and lse. Each product writes its result once and whole, dq
/// too: where dq is instead accumulated in f32 by all blocks of keys, the order of the additions
/// and so the bits change from run to run. row_sums is scratch: B*H*T floats, laid out as lse. 21
/// operations.
SdpaGraph sdpa_backward(const SdpaShape& shape);

/// Bytes of row_sums.
std::int64_t sdpa_row_sums_bytes(const SdpaShape& shape);

}  // namespace elaswave::kernels
