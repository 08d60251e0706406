// Where the state of a rank's owned blocks is updated. On the host that is the shard itself. On a
// device that hides its memory it is a copy there, and the shard is its mirror: fed with the same
// mean gradients and updated with the same bits (adamw_formula.h) while the device updates its own.
// So everything that wants state (copies, recovery, checkpoints, digests) finds it on the host,
// also when the device is lost.
#pragma once

#include <cstdint>
#include <span>

#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"
#include "parallel/layout/blocks.h"
#include "parallel/zero/shard.h"

namespace elaswave::optim {

/// For the blocks that the shard owns when this is made. THREADS: one caller.
class OwnedState {
 public:
  /// Allocates. `blocks` and `shard` must outlive it.
  OwnedState(const layout::BlockTable& blocks, zero::Shard& shard, device::Device& device);

  bool mirrored() const { return memory_.size_bytes() > 0; }
  std::int64_t size_bytes() const { return memory_.size_bytes(); }  // beside the shard

  /// Of the index-th block of Shard::owned(), on the device.
  std::span<float> master(std::size_t index) { return range(index, 0); }
  std::span<float> moment1(std::size_t index) { return range(index, 1); }
  std::span<float> moment2(std::size_t index) { return range(index, 2); }
  /// Mean gradient of the step under way.
  std::span<float> log(std::size_t index) { return range(index, 3); }

  /// After others have written the shard: its master weights and moments to the device.
  void load(device::Stream& stream);
  /// The mean gradients from the device into the shard's log: there when the stream has passed.
  void store_log(device::Stream& stream);

 private:
  std::span<float> range(std::size_t index, std::int64_t kind);
  std::span<float> in_shard(std::size_t index, std::int64_t kind);

  const layout::BlockTable& blocks_;
  zero::Shard& shard_;
  device::Buffer memory_;              // one range of all blocks for each kind
  std::vector<std::int64_t> offsets_;  // of blocks in a range, elements; the last is its length
};

}  // namespace elaswave::optim
