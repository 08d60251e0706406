// Memory of this rank for every tensor of its stage: working weights, and gradient sums. One
// allocation each, made before step 0. Blocks are addressed by (tensor, begin), so any block can be
// sent from and received into its place.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/device/buffer.h"
#include "parallel/layout/blocks.h"

namespace elaswave::zero {

/// One contiguous range for each tensor, 64-byte aligned, zero at first.
class TensorStore {
 public:
  /// `elem_bytes[t]` is the size of one element of tensor t.
  TensorStore(const layout::BlockTable& blocks, std::span<const std::int64_t> elem_bytes);

  std::byte* tensor(std::int32_t index) {
    return memory_.data() + offset_bytes_[static_cast<std::size_t>(index)];
  }
  std::span<std::byte> bytes(const layout::Block& block);
  std::int64_t size_bytes() const { return memory_.size_bytes(); }

 private:
  std::vector<std::int64_t> elem_bytes_, offset_bytes_;
  device::Buffer memory_;
};

enum class SumMode { exact, fast };

/// Gradient sums over the micro-batches of a step: int64 fixed point (exact) or f32 (fast).
class GradSums {
 public:
  GradSums(const layout::BlockTable& blocks, SumMode mode);

  SumMode mode() const { return mode_; }
  /// Forgets the sums. Nothing is cleared: the first addend of each tensor overwrites.
  void begin_step();
  /// True for the first contribution to `tensor` since begin_step(): it must overwrite.
  bool first_touch(std::int32_t tensor);
  /// Zeroes the sums of a tensor that got no contribution, so that they can be reduced.
  void settle(std::int32_t tensor);

  std::byte* data(std::int32_t tensor) { return store_.tensor(tensor); }
  std::span<std::byte> bytes(const layout::Block& block) { return store_.bytes(block); }
  std::int64_t size_bytes() const { return store_.size_bytes(); }

 private:
  SumMode mode_;
  std::vector<std::int64_t> elems_;
  std::vector<char> touched_;
  TensorStore store_;
};

}  // namespace elaswave::zero
