// The little arithmetic that exchanges between ranks need, done where the numbers are: on the host
// or on the device of a stream. Orders and roundings are given, so every implementation leaves the
// same bits.
#pragma once

#include <cstdint>
#include <span>

#include "parallel/device/buffer.h"

namespace elaswave::device {

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
};

/// On the caller's thread.
Arithmetic& host_arithmetic();

}  // namespace elaswave::device
