// Memory of this rank, on the host or a device, for the parts it works with: working weights, and
// gradient sums. One allocation each, made before step 0. Blocks are addressed by (part, begin), so
// any block can be sent from and received into its place.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/device/arithmetic.h"
#include "parallel/layout/blocks.h"

namespace elaswave::zero {

/// One contiguous range for each part, 64-byte aligned, zero at first.
class TensorStore {
 public:
  /// `elem_bytes[p]` is the size of one element of part p; 0: the rank does not hold it.
  TensorStore(const layout::BlockTable& blocks, std::span<const std::int64_t> elem_bytes,
              device::Device& device = device::host_device());

  bool holds(std::int32_t part) const { return elem_bytes_[static_cast<std::size_t>(part)] > 0; }
  /// REQUIRES: the part is held.
  std::byte* part(std::int32_t index);
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
  /// Of every part, or of the parts with held[part] alone (exchange.h, held_parts).
  GradSums(const layout::BlockTable& blocks, SumMode mode);
  GradSums(const layout::BlockTable& blocks, SumMode mode, const std::vector<bool>& held,
           device::Arithmetic& arithmetic = device::host_arithmetic());

  /// On the device that the sums are on.
  device::Arithmetic& arithmetic() { return *arithmetic_; }
  SumMode mode() const { return mode_; }
  /// Forgets the sums. Nothing is cleared: the first addend of each part overwrites.
  void begin_step();
  /// True for the first contribution to `part` since begin_step(): it must overwrite.
  bool first_touch(std::int32_t part);
  /// Zeroes the sums of a part that got no contribution, so that they can be reduced.
  void settle(std::int32_t part);

  std::byte* data(std::int32_t part) { return store_.part(part); }
  std::span<std::byte> bytes(const layout::Block& block) { return store_.bytes(block); }
  std::int64_t size_bytes() const { return store_.size_bytes(); }

 private:
  SumMode mode_;
  std::vector<std::int64_t> elems_;
  std::vector<char> touched_;
  device::Arithmetic* arithmetic_;
  TensorStore store_;
};

}  // namespace elaswave::zero
