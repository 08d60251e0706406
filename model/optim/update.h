// A rank's side of a step: log the mean gradients of what it owns, then apply the log.
#pragma once

#include <cstdint>
#include <span>

#include "model/kernels/ops.h"
#include "model/optim/commit.h"
#include "model/spec/inventory.h"
#include "parallel/zero/shard.h"
#include "parallel/zero/store.h"

namespace elaswave::optim {

/// Turns the reduced sums of this rank's blocks into mean gradients in the shard's log, and adds
/// their squares, their number and their finiteness to `vote`. REQUIRES: the sums are complete.
void log_gradients(kernels::Ops& ops, device::Stream& stream, const layout::BlockTable& blocks,
                   zero::Shard& shard, zero::GradSums& sums, std::int64_t micro_batches,
                   CommitVote& vote);

/// Applies the record to this rank's blocks in place and stores the new working weights; backups in
/// `following` are updated from their log as their owners are, and have no working weights. No
/// waits inside. A skipped step only moves the version on.
void apply(kernels::Ops& ops, device::Stream& stream, const spec::Inventory& inventory,
           const layout::BlockTable& blocks, zero::Shard& shard,
           std::span<const zero::HeldBlock> following, const CommitRecord& record,
           zero::TensorStore& working);

}  // namespace elaswave::optim
