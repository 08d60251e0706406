// The owner's side of a step: log the mean gradient, then apply it; and the digest of the state
// that results.
#pragma once

#include <cstdint>

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

/// Applies the record to this rank's blocks in place and stores the new working weights. No waits
/// inside. A skipped step only moves the version on.
void apply(kernels::Ops& ops, device::Stream& stream, const spec::Inventory& inventory,
           const layout::BlockTable& blocks, zero::Shard& shard, const CommitRecord& record,
           zero::TensorStore& working);

/// state_digest: combine64(sum of block hashes mod 2^64, number of blocks), over master weights
/// (kind 0), first (1) and second moments (2). For block b of the tensor named n:
///   key = combine64(combine64(hash_text(n), kind), b);   w_j the bits of its j-th float
///   block hash = mix64(sum over j of mix64(mix64(key + j * kGolden64) ^ w_j) ^ key)
/// Independent of layout: ranks add up their DigestParts.
struct DigestPart {
  std::uint64_t sum = 0;
  std::int64_t blocks = 0;
};
DigestPart digest_part(kernels::Ops& ops, device::Stream& stream, const spec::Inventory& inventory,
                       const layout::BlockTable& blocks, zero::Shard& shard);
std::uint64_t state_digest(const DigestPart& total);

}  // namespace elaswave::optim
