// State that one rank holds of the model's blocks: master weights, both moments, and the log of
// mean gradients, f32. Owned blocks feed the gather; backups follow the log of another's
// (interleaved ZeRO-1 with copies). Roles come from a plan; memory follows blocks, so a promotion
// copies nothing. An allocation holds its blocks' master weights one after another, then their
// first moments, second moments and logs, those that were owned at first ahead of the others: what
// is copied to and from a device is few pieces.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "io/base/types.h"
#include "parallel/device/buffer.h"
#include "parallel/device/pending_work.h"
#include "parallel/layout/plan.h"

namespace elaswave::zero {

/// A block in this rank's memory. A value: names the same block until the shard drops it.
struct HeldBlock {
  std::int64_t block = 0;   // index in the block table
  std::int32_t slab = 0;    // internal: where in the shard
  std::int64_t offset = 0;  // internal, elements from the begin of each kind
};

/// A block that several ranks hold: how often its hash counts where copies are compared, as many
/// times as there are copies at its owner, -1 at each copy (model/optim/copy_digest.h).
struct SharedBlock {
  HeldBlock held;
  std::int64_t weight = 0;
};

/// THREADS: one caller. It may have the contents of blocks updated on a thread of their own; who
/// asks for contents then waits until that has ended, so nobody sees an update half done.
class Shard {
 public:
  /// Allocates what the plan gives this rank. Owned blocks count as whole (init or a checkpoint
  /// fills them before anything reads them), and so do backups. Memory is of Space::host, so that
  /// `device` copies from and to it beside other work. `blocks` and `device` must outlive the
  /// shard.
  Shard(const layout::BlockTable& blocks, const layout::Plan& plan, std::int32_t world_rank,
        device::Device& device = device::host_device());

  /// Takes the roles of another plan. Blocks held stay where they are; missing ones are allocated
  /// and are not whole; those without a role are kept until drop_unused(), because whoever needs
  /// the old layout again finds them here.
  void adopt(const layout::Plan& plan);
  /// Frees blocks without a role. Called when the first step under the new plan is committed.
  void drop_unused();

  /// By block, ascending. Valid until adopt() or drop_unused().
  std::span<const HeldBlock> owned() const { return owned_; }
  std::span<const HeldBlock> backups() const { return backups_; }
  std::span<const HeldBlock> unused() const { return unused_; }
  std::span<const HeldBlock> of_layer(std::int32_t layer) const;  // owned ones

  /// Null when this rank has no memory for the block, in whatever role. Valid as the spans are.
  const HeldBlock* find(std::int64_t block) const;
  /// True when the state of a block is all there, at `version`.
  bool whole(std::int64_t block) const;
  /// REQUIRES: the block is held.
  void set_whole(std::int64_t block, bool whole);

  std::int64_t owned_elems() const;
  std::int64_t owned_bytes() const;  // memory of owned blocks, with their padding
  std::int64_t size_bytes() const;   // all memory, unused included

  std::span<float> master(const HeldBlock& held) { return range(held, 0); }
  std::span<float> moment1(const HeldBlock& held) { return range(held, 1); }
  std::span<float> moment2(const HeldBlock& held) { return range(held, 2); }
  /// Mean gradient of the step under way: the log that the update is applied from.
  std::span<float> log(const HeldBlock& held) { return range(held, 3); }

  /// Runs `work` beside the caller, or at once where the system has no thread left. Spans of blocks
  /// taken before are its own until settle(); it must not call this object. REQUIRES: the blocks it
  /// works on stay held.
  void update_beside(std::function<void()> work);
  /// Returns when no update is under way; spans taken before may be read again. Throws what the
  /// update threw, this time and every time after: the contents are lost then.
  void settle();
  /// As settle(), for who is about to give back what an update uses: throws nothing.
  void wait_for_update() noexcept;

  /// The version that all whole blocks stand at, or that the update under way takes them to.
  Version version;

 private:
  /// One allocation. It goes back to the system when none of its blocks is held any more.
  struct Slab {
    device::Buffer memory;
    std::int64_t range_elems = 0;  // of each kind
    std::int64_t held = 0;         // blocks
  };
  struct Slot {
    std::int32_t slab = 0;
    std::int64_t offset = 0;  // elements
  };

  void take_roles(const layout::Plan& plan);
  std::vector<std::int64_t> missing() const;
  void allocate(std::span<const std::int64_t> missing);
  std::int32_t add_slab(std::int64_t range_elems);
  std::size_t position(std::int64_t block) const;
  /// Elements of one of the four ranges of a block, from line to line.
  std::int64_t stride(std::int64_t block) const;
  std::span<float> range(const HeldBlock& held, std::int64_t kind);

  const layout::BlockTable* blocks_;
  device::Device* device_;
  std::int32_t world_rank_;
  std::vector<HeldBlock> held_;  // by block, whatever the role
  std::vector<char> whole_;      // as held_
  std::vector<HeldBlock> owned_, backups_, unused_;
  std::vector<std::size_t> layer_begin_;            // in owned_
  std::vector<Slab> slabs_;                         // those given back are empty
  std::map<std::int64_t, std::vector<Slot>> free_;  // by stride of the slot, last freed last
  device::PendingWork update_;                      // last: waits where it goes
};

}  // namespace elaswave::zero
