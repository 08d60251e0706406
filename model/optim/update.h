// A rank's side of a step: log the mean gradients of what it owns, then apply the log.
#pragma once

#include <cstdint>
#include <span>

#include "model/kernels/ops.h"
#include "model/optim/commit.h"
#include "model/optim/owned_state.h"
#include "model/spec/inventory.h"
#include "parallel/zero/shard.h"
#include "parallel/zero/store.h"

namespace elaswave::optim {

/// Turns the reduced sums of this rank's blocks into mean gradients in the logs of `owned` and the
/// shard, and adds their squares, their number and their finiteness to `vote`. Returns when all is
/// there but the shard's logs, where they are a mirror: OwnedState::wait_log(). REQUIRES: the sums
/// are complete.
void log_gradients(const kernels::Machine& machine, const layout::BlockTable& blocks,
                   zero::Shard& shard, OwnedState& owned, zero::GradSums& sums,
                   std::int64_t micro_batches, CommitVote& vote);

/// Applies the record to this rank's blocks in place and stores the new working weights; backups in
/// `following` are updated from their log as their owners are, and have no working weights. No
/// waits inside: a shard that is a mirror is updated beside the caller, on machine.host_stream,
/// which is the update's until Shard::settle(). A skipped step only moves the version on.
void apply(const kernels::Machine& machine, const spec::Inventory& inventory,
           const layout::BlockTable& blocks, zero::Shard& shard, OwnedState& owned,
           std::span<const zero::HeldBlock> following, const CommitRecord& record,
           zero::TensorStore& working);

/// The working weights of owned blocks from their master weights.
void store_weights(const kernels::Machine& machine, const spec::Inventory& inventory,
                   const layout::BlockTable& blocks, const zero::Shard& shard, OwnedState& owned,
                   zero::TensorStore& working);

}  // namespace elaswave::optim
