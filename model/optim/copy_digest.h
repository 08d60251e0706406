// Owners and backups compared for nothing: a few blocks of each step are hashed wherever they are
// held, and the commit point's sum tells whether a copy differs from its owner. Finds what corrupts
// silently: a bit of memory, or an update that was not the same everywhere. Owners hash the state
// that is trained with, a GPU's where there is one: so copies, which are the host's, also tell of a
// GPU that computes something else.
#pragma once

#include <cstdint>
#include <span>

#include "model/kernels/ops.h"
#include "model/optim/owned_state.h"
#include "parallel/zero/shard.h"

namespace elaswave::optim {

/// Pure. True when `block` is compared at `step`: each once in `period` steps, neighbours at
/// different ones. A period of 0: never.
bool scrubbed(std::int64_t block, Step step, std::int64_t period);

/// This rank's addend to CommitVote::copy_digest at `step`, whose update was not applied yet: the
/// sum, mod 2^64, of weight x hash over those of `shared` that are scrubbed. Its sum over all ranks
/// is 0 unless a copy differs. The hash of block b is the sum over kinds k (master weights, first,
/// second moments) of
///   mix64(inner ^ key), key = combine64(b, k), inner as in digest.h
/// REQUIRES: the weights of a block add up to 0 over the ranks that hold it.
std::int64_t copy_digest(const kernels::Machine& machine, zero::Shard& shard, OwnedState& owned,
                         std::span<const zero::SharedBlock> shared, Step step, std::int64_t period);

}  // namespace elaswave::optim
