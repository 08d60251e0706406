// Where the state of a rank's owned blocks is updated. On the host that is the shard itself. On a
// device that hides its memory it is a copy there, and the shard is its mirror: fed with the same
// mean gradients and updated with the same bits (adamw_formula.h), beside the step, while the
// device updates its own. So everything that wants state (copies, recovery, checkpoints, digests)
// finds it on the host, also when the device is lost.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/kernels/ops.h"
#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"
#include "parallel/layout/blocks.h"
#include "parallel/zero/shard.h"

namespace elaswave::optim {

/// What a step does to each block, as operations take it: filled by update.cpp at its first step
/// and kept, because with 100,000 blocks lists take as long as the work itself.
struct BlockLists {
  struct Updates {
    std::vector<kernels::AdamW> blocks;
    std::vector<char> decays;  // does weight decay apply?
  };
  std::vector<kernels::MeanGradient> means;
  std::vector<std::span<const float>> logs;
  Updates updates;  // of owned blocks, then, where the device is the host, of copies
  Updates mirror;   // of owned blocks in the shard, then of copies
};

/// For the blocks that the shard owns when this is made, and for one set of working weights and
/// sums. THREADS: one caller, but see wait_log().
class OwnedState {
 public:
  /// Allocates, on the device of `stream`. `blocks`, `shard` and `stream` must outlive it.
  OwnedState(const layout::BlockTable& blocks, zero::Shard& shard, device::Stream& stream);
  /// Waits for the shard's update and for copies of its own.
  ~OwnedState();
  OwnedState(const OwnedState&) = delete;
  OwnedState& operator=(const OwnedState&) = delete;

  bool mirrored() const { return copies_ != nullptr; }
  std::int64_t size_bytes() const { return memory_.size_bytes(); }  // beside the shard

  /// Of the index-th block of Shard::owned(), on the device.
  std::span<float> master(std::size_t index) { return range(index, 0); }
  std::span<float> moment1(std::size_t index) { return range(index, 1); }
  std::span<float> moment2(std::size_t index) { return range(index, 2); }
  /// Mean gradient of the step under way.
  std::span<float> log(std::size_t index) { return range(index, 3); }

  /// After others have written the shard: its master weights and moments to the device.
  void load();
  /// Before a step's mean gradients are written: both logs are free for them.
  void begin_log();
  /// The mean gradients from the device into the shard's log, once the stream has come to this
  /// point, beside what is issued later: there after wait_log().
  void store_log();
  /// THREADS: the shard's update, while there is one, else the caller. Throws DeviceLost.
  void wait_log();

  /// REQUIRES: mirror is not touched while the shard is updated.
  BlockLists& lists() { return lists_; }

  /// Copies that a kind takes.
  std::int64_t pieces() const { return std::ssize(runs_); }

 private:
  /// Neighbours on the device that are neighbours in the shard, too.
  struct Run {
    std::int64_t offset = 0, elems = 0;  // on the device, in each kind
    std::size_t first = 0;               // of Shard::owned()
  };
  std::vector<Run> find_runs();
  std::span<float> range(std::size_t index, std::int64_t kind);
  std::span<float> in_shard(std::size_t index, std::int64_t kind);
  float* on_device(const Run& run, std::int64_t kind);

  const layout::BlockTable& blocks_;
  zero::Shard& shard_;
  device::Stream& stream_;
  BlockLists lists_;
  device::Buffer memory_;              // one range of all blocks for each kind
  std::vector<std::int64_t> offsets_;  // of blocks in a range, elements; the last is its length
  std::vector<Run> runs_;
  std::vector<float*> shard_logs_;          // of the runs
  std::unique_ptr<device::Stream> copies_;  // logs on their way to the shard; null: not mirrored
};

}  // namespace elaswave::optim
