// The little arithmetic that exchanges between ranks need, done where the numbers are: on the host
// or on the device of a stream. Orders and roundings are given, so every implementation leaves the
// same bits.
#pragma once

#include <cstdint>
#include <span>

#include "parallel/device/buffer.h"

namespace elaswave::device {

struct PieceCopy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::int64_t bytes = 0;
};
/// `elems` numbers and the first of their addends; the others lie at equal distances behind it.
template <typename T>
struct PieceSum {
  T* into = nullptr;
  const T* from = nullptr;
  std::int64_t elems = 0;
};

/// All memory is the device's. Calls are issued in order with the kernels that fill and read it.
/// THREADS: those of the stream.
class Arithmetic {
 public:
  virtual ~Arithmetic() = default;
  virtual Device& device() = 0;

  virtual void zero(std::span<std::byte> bytes) = 0;
  /// REQUIRES: equal sizes, no overlap.
  virtual void copy(std::span<const std::byte> from, std::span<std::byte> to) = 0;
  /// into[i] += from[i]. REQUIRES: equal sizes.
  virtual void add(std::span<std::int64_t> into, std::span<const std::int64_t> from) = 0;
  virtual void add(std::span<float> into, std::span<const float> from) = 0;
  /// REQUIRES: equal types and shapes; the same memory, or no overlap.
  virtual void copy_rows(const ConstMat& from, const Mat& to) = 0;
  /// out = ((addends[0] + addends[1]) + ...), summed in f32 and rounded once to the type of `out`
  /// (f32 or bf16). REQUIRES: addends are f32; `out` is one of them or overlaps none.
  virtual void sum_rows(std::span<const ConstMat> addends, const Mat& out) = 0;

  // Many pieces in few launches. REQUIRES: pieces do not overlap.
  virtual void copy_pieces(std::span<const PieceCopy> pieces);
  /// into[i] = ((into[i] + from[i]) + from[stride + i]) + ..., `addends` of them, for each piece.
  virtual void add_pieces(std::span<const PieceSum<std::int64_t>> pieces, std::int64_t stride,
                          std::int64_t addends);
  virtual void add_pieces(std::span<const PieceSum<float>> pieces, std::int64_t stride,
                          std::int64_t addends);
};

/// On the caller's thread.
Arithmetic& host_arithmetic();

}  // namespace elaswave::device
