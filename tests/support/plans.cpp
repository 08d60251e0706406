#include "tests/support/plans.h"

#include <algorithm>
#include <numeric>

namespace elaswave::test {
namespace {

using layout::Action;
using layout::kBlockElems;
using layout::Op;
using layout::Plan;

std::int64_t random_elems(Dice& dice) {
  const std::int64_t odd[] = {1, kBlockElems - 1, kBlockElems, kBlockElems + 1,
                              2 * kBlockElems + 7};
  return dice.one_in(3) ? odd[dice.below(std::size(odd))] : dice.between(1, 900);
}

void shuffle(Dice& dice, std::vector<std::int32_t>& values) {
  for (std::size_t i = values.size(); i > 1; --i)
    std::swap(values[i - 1], values[static_cast<std::size_t>(dice.below(static_cast<int>(i)))]);
}

void place_layers(Dice& dice, std::int32_t layers, const PlanRange& range, Plan& plan) {
  const auto stages = static_cast<std::int32_t>(dice.between(1, std::min(range.stages, layers)));
  const auto most = std::min(layers, 3 * stages);
  std::int32_t chunks = static_cast<std::int32_t>(dice.between(stages, most));
  enum { looped, v_shaped, anywhere, kinds };
  const std::int64_t kind = dice.below(kinds);
  if (kind == v_shaped && 2 * stages <= layers) chunks = 2 * stages;
  for (std::int32_t chunk = 0; chunk < chunks; ++chunk) {
    const std::int32_t turn = chunk % (2 * stages);
    if (kind == v_shaped)
      plan.stage_of_chunk.push_back(turn < stages ? turn : 2 * stages - 1 - turn);
    else
      plan.stage_of_chunk.push_back(chunk % stages);
  }
  if (kind == anywhere) shuffle(dice, plan.stage_of_chunk);
  // Every chunk one layer, the rest anywhere.
  for (std::int32_t layer = 0; layer < layers; ++layer)
    plan.chunk_of_layer.push_back(layer < chunks ? layer
                                                 : static_cast<std::int32_t>(dice.below(chunks)));
  std::sort(plan.chunk_of_layer.begin(), plan.chunk_of_layer.end());
  plan.stages.resize(static_cast<std::size_t>(stages));
}

void place_ranks(Dice& dice, const PlanRange& range, Plan& plan) {
  std::int32_t used = 0;
  for (layout::Stage& stage : plan.stages) {
    stage.replicas.resize(static_cast<std::size_t>(dice.between(1, range.replicas)));
    used += static_cast<std::int32_t>(stage.replicas.size()) * plan.tensor_degree;
  }
  const std::int64_t spare = dice.one_in(3) ? 2 : 0;
  std::vector<std::int32_t> ranks(static_cast<std::size_t>(used + spare));
  std::iota(ranks.begin(), ranks.end(), 0);
  if (!dice.one_in(4)) shuffle(dice, ranks);
  auto next = ranks.begin();
  for (layout::Stage& stage : plan.stages)
    for (layout::Replica& replica : stage.replicas) {
      replica.world_ranks.assign(next, next + plan.tensor_degree);
      next += plan.tensor_degree;
    }
  if (range.copies == 0) return;
  plan.spares.assign(next, ranks.end());
  std::sort(plan.spares.begin(), plan.spares.end());
}

/// All actions of one micro-batch on one stage, in an order that is right.
layout::Row actions_of(Dice& dice, const std::vector<std::int32_t>& chunks,
                       std::int32_t micro_batch) {
  layout::Row row;
  for (const std::int32_t chunk : chunks) row.push_back({Op::forward, chunk, micro_batch});
  layout::Row late;
  for (std::size_t i = chunks.size(); i-- > 0;) {
    if (dice.one_in(4)) row.push_back({Op::recompute, chunks[i], micro_batch});
    const bool split = dice.one_in(2);
    row.push_back({split ? Op::input_gradient : Op::backward, chunks[i], micro_batch});
    if (split)
      (dice.one_in(2) ? row : late).push_back({Op::weight_gradient, chunks[i], micro_batch});
  }
  row.insert(row.end(), late.begin(), late.end());
  return row;
}

void make_rows(Dice& dice, Plan& plan) {
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica) {
      const std::vector<std::int32_t> chunks = layout::chunks_of_stage(plan, stage);
      std::vector<layout::Row> waiting;
      for (const std::int64_t micro_batch : layout::micro_batches_of(plan, {stage, replica, 0}))
        waiting.push_back(actions_of(dice, chunks, static_cast<std::int32_t>(micro_batch)));
      layout::Row& row = plan.schedule.emplace_back();
      std::vector<std::size_t> next(waiting.size(), 0);
      std::erase_if(waiting, [](const layout::Row& actions) { return actions.empty(); });
      while (!waiting.empty()) {  // some micro-batch goes on by one action
        const auto pick = static_cast<std::size_t>(dice.below(std::ssize(waiting)));
        row.push_back(waiting[pick][next[pick]++]);
        if (next[pick] < waiting[pick].size()) continue;
        waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(pick));
        next.erase(next.begin() + static_cast<std::ptrdiff_t>(pick));
      }
    }
}

void deal_blocks(Dice& dice, const layout::BlockTable& blocks, Plan& plan) {
  const bool skewed = dice.one_in(4);  // one replica owns nearly all
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const layout::Block& block = blocks.block(index);
    const std::int32_t replicas = plan.replicas(plan.stage_of_layer(block.layer));
    const std::int64_t replica = skewed && !dice.one_in(8) ? 0 : dice.below(replicas);
    const std::int32_t slice = blocks.part(block.part).slice;
    plan.owner.push_back(static_cast<std::int32_t>(
        replica * plan.tensor_degree + (slice >= 0 ? slice : dice.below(plan.tensor_degree))));
  }
}

/// To any rank but those that have the block already, where there is one; sometimes to nobody.
void deal_copies(Dice& dice, const layout::BlockTable& blocks, const PlanRange& range, Plan& plan) {
  plan.copies = range.copies;
  const std::vector<std::int32_t> ranks = layout::members(plan);
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    std::vector<std::int32_t> others = ranks;
    std::erase(others, plan.owner_rank(blocks, index));
    shuffle(dice, others);
    others.resize(static_cast<std::size_t>(range.copies), -1);
    if (dice.one_in(8)) others.back() = -1;
    plan.backup.insert(plan.backup.end(), others.begin(), others.end());
  }
}

}  // namespace

layout::BlockTable random_table(Dice& dice, std::int32_t tensor_degree) {
  const std::int64_t layers = dice.between(2, 9);
  std::vector<layout::PartExtent> parts;
  const auto add = [&](std::int64_t layer, bool sliced, bool tied) {
    const std::int64_t elems = random_elems(dice);
    for (std::int32_t slice = 0; slice < (sliced ? tensor_degree : 1); ++slice)
      parts.push_back({.layer = static_cast<std::int32_t>(layer),
                       .elems = slice == 0 ? elems : std::max<std::int64_t>(1, elems - slice),
                       .slice = sliced && tensor_degree > 1 ? slice : -1,
                       .tied_layer = tied ? static_cast<std::int32_t>(layers) - 1 : -1});
  };
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    if (layer == 0) add(layer, true, true);
    const std::int64_t count = dice.between(1, 3);
    for (std::int64_t part = 0; part < count; ++part) add(layer, dice.one_in(2), false);
  }
  return layout::BlockTable(std::move(parts));
}

layout::Plan random_plan(Dice& dice, const layout::BlockTable& blocks, std::int32_t tensor_degree,
                         const PlanRange& range) {
  Plan plan;
  plan.tensor_degree = tensor_degree;
  place_layers(dice, blocks.layers(), range, plan);
  place_ranks(dice, range, plan);
  plan.micro_batches = dice.between(1, range.micro_batches);
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
      plan.route.push_back(static_cast<std::int32_t>(dice.below(plan.replicas(stage))));
  make_rows(dice, plan);
  deal_blocks(dice, blocks, plan);
  if (range.copies > 0) deal_copies(dice, blocks, range, plan);
  return plan;
}

std::int32_t world_size(const layout::Plan& plan) {
  std::int32_t size = 0;
  for (const layout::Stage& stage : plan.stages)
    for (const layout::Replica& replica : stage.replicas)
      for (const std::int32_t rank : replica.world_ranks) size = std::max(size, rank + 1);
  for (const std::int32_t rank : plan.spares) size = std::max(size, rank + 1);
  return size;
}

}  // namespace elaswave::test
