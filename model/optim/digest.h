// The digest of the optimizer state: the same for every layout of the same state.
#pragma once

#include <cstdint>
#include <vector>

#include "model/kernels/ops.h"
#include "model/spec/inventory.h"
#include "parallel/zero/shard.h"

namespace elaswave::optim {

/// state_digest: combine64(sum of block hashes mod 2^64, number of blocks), over master weights
/// (kind 0), first (1) and second moments (2). For block b, of layout::kBlockElems elements, of the
/// canonical tensor named n:
///   key = combine64(combine64(hash_text(n), kind), b);   w_j the bits of its j-th float
///   inner = sum over j of mix64(mix64(key + j * kGolden64) ^ w_j)
///   block hash = mix64(inner ^ key)
/// Ranks add up their DigestSums element by element (two's complement), then anyone can tell it.
/// With whole tensors that is two words, the sum of block hashes and their number; with sliced ones
/// the inner sum of every canonical block, whose elements are spread over ranks, and the number of
/// elements that were added.
using DigestSums = std::vector<std::int64_t>;

DigestSums digest_sums(kernels::Ops& ops, device::Stream& stream, const spec::Inventory& inventory,
                       const layout::BlockTable& blocks, zero::Shard& shard);
std::uint64_t state_digest(const spec::Inventory& inventory, const DigestSums& total);

/// Number of blocks in the digest of a whole state, all kinds.
std::int64_t digest_blocks(const spec::Inventory& inventory);

}  // namespace elaswave::optim
