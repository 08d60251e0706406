#include "model/optim/update.h"

#include <cmath>
#include <span>
#include <vector>

namespace elaswave::optim {

void log_gradients(const kernels::Machine& machine, const layout::BlockTable& blocks,
                   zero::Shard& shard, OwnedState& owned, zero::GradSums& sums,
                   std::int64_t micro_batches, CommitVote& vote) {
  const bool exact = sums.mode() == zero::SumMode::exact;
  const double scale =
      (exact ? std::ldexp(1.0, -kernels::kFractionBits) : 1.0) / static_cast<double>(micro_batches);
  std::vector<kernels::MeanGradient> means;
  std::vector<std::span<const float>> logs;
  for (std::size_t index = 0; index < shard.owned().size(); ++index) {
    const layout::Block& block = blocks.block(shard.owned()[index].block);
    const std::span<std::byte> bytes = sums.bytes(block);
    const auto elems = static_cast<std::size_t>(block.elems);
    kernels::MeanGradient mean{.scale = scale, .mean = owned.log(index)};
    if (exact)
      mean.exact_sums = {reinterpret_cast<const std::int64_t*>(bytes.data()), elems};
    else
      mean.fast_sums = {reinterpret_cast<const float*>(bytes.data()), elems};
    means.push_back(mean);
    logs.push_back(mean.mean);
  }
  machine.ops.mean_gradient(machine.stream, means);
  owned.store_log(machine.stream);
  std::vector<double> squares(logs.size());
  machine.ops.sum_squares(machine.stream, logs, squares);
  machine.stream.synchronize();
  for (const double square : squares) {
    if (std::isfinite(square))
      vote.gradient_squares.add(square);
    else
      vote.bad_ranks = 1;
  }
  vote.blocks_logged += static_cast<std::int64_t>(logs.size());
}

namespace {

/// Lists of updates.
class Updates {
 public:
  Updates(const spec::Inventory& inventory, const layout::BlockTable& blocks,
          const CommitRecord& record)
      : inventory_(inventory), blocks_(blocks), record_(record) {}

  const spec::TensorSpec& tensor(std::int64_t block) const {
    return inventory_.tensor(inventory_.part(blocks_.block(block).part).tensor);
  }
  void add(std::int64_t block, kernels::AdamW update) {
    update.scalars = record_.scalars;
    if (!tensor(block).decay) update.scalars.weight_decay = 0;
    list_.push_back(update);
  }
  void add(zero::Shard& shard, const zero::HeldBlock& held) {
    add(held.block, {.master = shard.master(held),
                     .moment1 = shard.moment1(held),
                     .moment2 = shard.moment2(held),
                     .grad = shard.log(held),
                     .scalars = {}});
  }
  std::span<const kernels::AdamW> list() const { return list_; }

 private:
  const spec::Inventory& inventory_;
  const layout::BlockTable& blocks_;
  const CommitRecord& record_;
  std::vector<kernels::AdamW> list_;
};

}  // namespace

void apply(const kernels::Machine& machine, const spec::Inventory& inventory,
           const layout::BlockTable& blocks, zero::Shard& shard, OwnedState& owned,
           std::span<const zero::HeldBlock> following, const CommitRecord& record,
           zero::TensorStore& working) {
  shard.version = record.version;
  if (record.skip) return;
  Updates updates(inventory, blocks, record), at_host(inventory, blocks, record);
  for (std::size_t index = 0; index < shard.owned().size(); ++index) {
    const zero::HeldBlock& held = shard.owned()[index];
    updates.add(held.block, {.master = owned.master(index),
                             .moment1 = owned.moment1(index),
                             .moment2 = owned.moment2(index),
                             .grad = owned.log(index),
                             .scalars = {},
                             .working = working.bytes(blocks.block(held.block)).data(),
                             .working_dtype = updates.tensor(held.block).storage});
    if (owned.mirrored()) at_host.add(shard, held);
  }
  Updates& copies = owned.mirrored() ? at_host : updates;
  for (const zero::HeldBlock& backup : following) copies.add(shard, backup);
  machine.ops.adamw(machine.stream, updates.list());
  if (owned.mirrored()) machine.host_ops.adamw(machine.host_stream, at_host.list());
}

void store_weights(const kernels::Machine& machine, const spec::Inventory& inventory,
                   const layout::BlockTable& blocks, const zero::Shard& shard, OwnedState& owned,
                   zero::TensorStore& working) {
  std::vector<kernels::StoreWeights> stores;
  for (std::size_t index = 0; index < shard.owned().size(); ++index) {
    const layout::Block& block = blocks.block(shard.owned()[index].block);
    stores.push_back({.master = owned.master(index),
                      .stored = working.bytes(block).data(),
                      .dtype = inventory.tensor(inventory.part(block.part).tensor).storage});
  }
  machine.ops.store_weights(machine.stream, stores);
}

}  // namespace elaswave::optim
