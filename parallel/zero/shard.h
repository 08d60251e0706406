// What one rank owns of the optimizer state (interleaved ZeRO-1): the blocks the plan deals to it,
// layer by layer. Master weights, both moments, and the log of mean gradients, f32, contiguous for
// each block.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/base/types.h"
#include "parallel/device/buffer.h"
#include "parallel/layout/plan.h"

namespace elaswave::zero {

struct OwnedBlock {
  std::int64_t block = 0;   // index in the block table
  std::int64_t offset = 0;  // of its first element in this shard
};

class Shard {
 public:
  Shard(const layout::BlockTable& blocks, const layout::Plan& plan, std::int32_t world_rank);

  std::span<const OwnedBlock> owned() const { return owned_; }
  std::span<const OwnedBlock> of_layer(std::int32_t layer) const;
  std::int64_t elems() const { return elems_; }
  std::int64_t size_bytes() const;

  std::span<float> master(const OwnedBlock& owned) { return range(master_, owned); }
  std::span<float> moment1(const OwnedBlock& owned) { return range(moment1_, owned); }
  std::span<float> moment2(const OwnedBlock& owned) { return range(moment2_, owned); }
  /// Mean gradient of the step under way: the log that the update is applied from.
  std::span<float> log(const OwnedBlock& owned) { return range(log_, owned); }

  /// The version the state stands at.
  Version version;

 private:
  std::span<float> range(device::Buffer& buffer, const OwnedBlock& owned);

  const layout::BlockTable* blocks_;
  std::vector<OwnedBlock> owned_;
  std::vector<std::size_t> layer_begin_;
  std::int64_t elems_ = 0;
  device::Buffer master_, moment1_, moment2_, log_;
};

}  // namespace elaswave::zero
