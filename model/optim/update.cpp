#include "model/optim/update.h"

#include <cmath>
#include <span>
#include <vector>

namespace elaswave::optim {

namespace {

void list_means(const layout::BlockTable& blocks, zero::Shard& shard, OwnedState& owned,
                zero::GradSums& sums, BlockLists& lists) {
  for (std::size_t index = 0; index < shard.owned().size(); ++index) {
    const layout::Block& block = blocks.block(shard.owned()[index].block);
    const std::span<std::byte> bytes = sums.bytes(block);
    const auto elems = static_cast<std::size_t>(block.elems);
    kernels::MeanGradient mean{.mean = owned.log(index)};
    if (sums.mode() == zero::SumMode::exact)
      mean.exact_sums = {reinterpret_cast<const std::int64_t*>(bytes.data()), elems};
    else
      mean.fast_sums = {reinterpret_cast<const float*>(bytes.data()), elems};
    lists.means.push_back(mean);
    lists.logs.push_back(mean.mean);
  }
}

}  // namespace

void log_gradients(const kernels::Machine& machine, const layout::BlockTable& blocks,
                   zero::Shard& shard, OwnedState& owned, zero::GradSums& sums,
                   std::int64_t micro_batches, CommitVote& vote) {
  owned.begin_log();
  BlockLists& lists = owned.lists();
  if (lists.means.empty()) list_means(blocks, shard, owned, sums, lists);
  const bool exact = sums.mode() == zero::SumMode::exact;
  const double scale =
      (exact ? std::ldexp(1.0, -kernels::kFractionBits) : 1.0) / static_cast<double>(micro_batches);
  for (kernels::MeanGradient& mean : lists.means) mean.scale = scale;
  machine.ops.mean_gradient(machine.stream, lists.means);
  owned.store_log();
  std::vector<double> squares(lists.logs.size());
  machine.ops.sum_squares(machine.stream, lists.logs, squares);
  machine.stream.synchronize();
  for (const double square : squares) {
    if (std::isfinite(square))
      vote.gradient_squares.add(square);
    else
      vote.bad_ranks = 1;
  }
  vote.blocks_logged += static_cast<std::int64_t>(lists.logs.size());
}

namespace {

class UpdateLister {
 public:
  UpdateLister(const spec::Inventory& inventory, const layout::BlockTable& blocks,
               zero::Shard& shard)
      : inventory_(inventory), blocks_(blocks), shard_(shard) {}

  const spec::TensorSpec& tensor(std::int64_t block) const {
    return inventory_.tensor(inventory_.part(blocks_.block(block).part).tensor);
  }
  void add(std::int64_t block, const kernels::AdamW& update, BlockLists::Updates& to) const {
    to.blocks.push_back(update);
    to.decays.push_back(tensor(block).decay ? 1 : 0);
  }
  /// Where it is in the shard.
  void add(const zero::HeldBlock& held, BlockLists::Updates& to) const {
    add(held.block,
        {.master = shard_.master(held),
         .moment1 = shard_.moment1(held),
         .moment2 = shard_.moment2(held),
         .grad = shard_.log(held),
         .scalars = {}},
        to);
  }
  void add_owned(OwnedState& owned, zero::TensorStore& working, BlockLists& lists) const {
    for (std::size_t index = 0; index < shard_.owned().size(); ++index) {
      const zero::HeldBlock& held = shard_.owned()[index];
      add(held.block,
          {.master = owned.master(index),
           .moment1 = owned.moment1(index),
           .moment2 = owned.moment2(index),
           .grad = owned.log(index),
           .scalars = {},
           .working = working.bytes(blocks_.block(held.block)).data(),
           .working_dtype = tensor(held.block).storage},
          lists.updates);
      if (owned.mirrored()) add(held, lists.mirror);
    }
  }

 private:
  const spec::Inventory& inventory_;
  const layout::BlockTable& blocks_;
  zero::Shard& shard_;
};

void set_scalars(BlockLists::Updates& updates, const kernels::AdamWScalars& scalars) {
  for (std::size_t i = 0; i < updates.blocks.size(); ++i) {
    updates.blocks[i].scalars = scalars;
    if (updates.decays[i] == 0) updates.blocks[i].scalars.weight_decay = 0;
  }
}

}  // namespace

void apply(const kernels::Machine& machine, const spec::Inventory& inventory,
           const layout::BlockTable& blocks, zero::Shard& shard, OwnedState& owned,
           std::span<const zero::HeldBlock> following, const CommitRecord& record,
           zero::TensorStore& working) {
  shard.settle();  // an update under way reads the list
  shard.version = record.version;
  if (record.skip) return;
  BlockLists& lists = owned.lists();
  const UpdateLister lister(inventory, blocks, shard);
  if (lists.updates.blocks.empty()) lister.add_owned(owned, working, lists);
  BlockLists::Updates& copies = owned.mirrored() ? lists.mirror : lists.updates;
  copies.blocks.resize(shard.owned().size());
  copies.decays.resize(shard.owned().size());
  for (const zero::HeldBlock& backup : following) lister.add(backup, copies);
  set_scalars(lists.updates, record.scalars);
  set_scalars(lists.mirror, record.scalars);
  machine.ops.adamw(machine.stream, lists.updates.blocks);
  if (owned.mirrored())
    shard.update_beside([machine, &owned] {
      owned.wait_log();
      machine.host_ops.adamw(machine.host_stream, owned.lists().mirror.blocks);
    });
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
