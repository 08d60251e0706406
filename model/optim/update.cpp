#include "model/optim/update.h"

#include <cmath>
#include <span>
#include <vector>

namespace elaswave::optim {

void log_gradients(kernels::Ops& ops, device::Stream& stream, const layout::BlockTable& blocks,
                   zero::Shard& shard, zero::GradSums& sums, std::int64_t micro_batches,
                   CommitVote& vote) {
  const bool exact = sums.mode() == zero::SumMode::exact;
  const double scale =
      (exact ? std::ldexp(1.0, -kernels::kFractionBits) : 1.0) / static_cast<double>(micro_batches);
  std::vector<kernels::MeanGradient> means;
  std::vector<std::span<const float>> logs;
  for (const zero::HeldBlock& owned : shard.owned()) {
    const layout::Block& block = blocks.block(owned.block);
    const std::span<std::byte> bytes = sums.bytes(block);
    const auto elems = static_cast<std::size_t>(block.elems);
    kernels::MeanGradient mean{.scale = scale, .mean = shard.log(owned)};
    if (exact)
      mean.exact_sums = {reinterpret_cast<const std::int64_t*>(bytes.data()), elems};
    else
      mean.fast_sums = {reinterpret_cast<const float*>(bytes.data()), elems};
    means.push_back(mean);
    logs.push_back(mean.mean);
  }
  ops.mean_gradient(stream, means);
  std::vector<double> squares(logs.size());
  ops.sum_squares(stream, logs, squares);
  for (const double square : squares) {
    if (std::isfinite(square))
      vote.gradient_squares.add(square);
    else
      vote.bad_ranks = 1;
  }
  vote.blocks_logged += static_cast<std::int64_t>(logs.size());
}

void apply(kernels::Ops& ops, device::Stream& stream, const spec::Inventory& inventory,
           const layout::BlockTable& blocks, zero::Shard& shard,
           std::span<const zero::HeldBlock> following, const CommitRecord& record,
           zero::TensorStore& working) {
  shard.version = record.version;
  if (record.skip) return;
  std::vector<kernels::AdamW> updates;
  updates.reserve(shard.owned().size() + following.size());
  const auto add = [&](const zero::HeldBlock& held, std::byte* stored, DType storage) {
    const layout::Block& block = blocks.block(held.block);
    kernels::AdamW update{.master = shard.master(held),
                          .moment1 = shard.moment1(held),
                          .moment2 = shard.moment2(held),
                          .grad = shard.log(held),
                          .scalars = record.scalars,
                          .working = stored,
                          .working_dtype = storage};
    if (!inventory.tensor(inventory.part(block.part).tensor).decay) update.scalars.weight_decay = 0;
    updates.push_back(update);
  };
  for (const zero::HeldBlock& owned : shard.owned()) {
    const layout::Block& block = blocks.block(owned.block);
    add(owned, working.bytes(block).data(),
        inventory.tensor(inventory.part(block.part).tensor).storage);
  }
  for (const zero::HeldBlock& backup : following) add(backup, nullptr, DType::f32);
  ops.adamw(stream, updates);
}

}  // namespace elaswave::optim
