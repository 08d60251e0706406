#include "elastic/plan/recovery_layouts.h"

#include <algorithm>
#include <iterator>

#include "elastic/plan/lay_out.h"
#include "elastic/plan/owners.h"
#include "elastic/plan/partition.h"
#include "elastic/plan/recovery_routes.h"

namespace elaswave::plan {
namespace {

using layout::Plan;

/// Which group of ranks has which block in a slice that may own it; indices ascending.
class GroupBlocks {
 public:
  GroupBlocks(const layout::BlockTable& blocks, const Holders& holders,
              const std::vector<Group>& groups)
      : of_group_(groups.size()) {
    struct Seat {
      std::int32_t group = -1, slice = 0;
    };
    std::vector<Seat> seats(static_cast<std::size_t>(holders.members().back()) + 1);
    for (std::size_t group = 0; group < groups.size(); ++group)
      for (std::size_t slice = 0; slice < groups[group].ranks.size(); ++slice)
        seats[static_cast<std::size_t>(groups[group].ranks[slice])] = {
            static_cast<std::int32_t>(group), static_cast<std::int32_t>(slice)};
    std::vector<std::int32_t> found;
    for (std::int64_t block = 0; block < blocks.count(); ++block) {
      const std::int32_t slice = blocks.part(blocks.block(block).part).slice;
      found.clear();
      for (const std::int32_t rank : holders.of(block)) {
        const Seat& seat = seats[static_cast<std::size_t>(rank)];
        if (seat.group >= 0 && (slice < 0 || slice == seat.slice)) found.push_back(seat.group);
      }
      std::sort(found.begin(), found.end());
      found.erase(std::unique(found.begin(), found.end()), found.end());
      for (const std::int32_t group : found)
        of_group_[static_cast<std::size_t>(group)].push_back(block);
      of_block_.add(found);
    }
  }
  std::span<const std::int32_t> of_block(std::int64_t block) const { return of_block_.of(block); }
  const std::vector<std::int64_t>& of_group(std::size_t group) const { return of_group_[group]; }

 private:
  std::vector<std::vector<std::int64_t>> of_group_;
  RankLists of_block_;  // of groups
};

/// Groups onto the stages of one layout.
class Seating {
 public:
  Seating(const layout::BlockTable& blocks, const GroupBlocks& groups, const Plan& plan,
          std::vector<std::int32_t> room)
      : blocks_(blocks),
        groups_(groups),
        room_(std::move(room)),
        covered_(static_cast<std::size_t>(blocks.count()), false),
        uncovered_(blocks.total_elems()) {
    for (std::int32_t layer = 0; layer < blocks.layers(); ++layer)
      stage_of_layer_.push_back(static_cast<std::size_t>(plan.stage_of_layer(layer)));
  }

  /// Stage of every group.
  std::vector<std::size_t> seat(std::size_t count) {
    gain_.assign(count, std::vector<std::int64_t>(room_.size(), 0));
    for (std::int64_t block = 0; block < blocks_.count(); ++block)
      for (const std::int32_t group : groups_.of_block(block))
        gain_[static_cast<std::size_t>(group)][stage_of(block)] += blocks_.block(block).elems;
    std::vector<std::size_t> stages(count, room_.size());
    for (std::size_t seated = 0; seated < count; ++seated) {
      std::size_t best_group = 0, best_stage = 0;
      std::int64_t most = -1;
      for (std::size_t group = 0; group < count; ++group) {
        if (stages[group] < room_.size()) continue;
        for (std::size_t stage = 0; stage < room_.size(); ++stage) {
          if (room_[stage] == 0 || gain_[group][stage] <= most) continue;
          most = gain_[group][stage];
          best_group = group;
          best_stage = stage;
        }
      }
      stages[best_group] = best_stage;
      --room_[best_stage];
      cover(best_group, best_stage);
    }
    return stages;
  }
  /// Elements that nobody in their home stage has.
  std::int64_t uncovered() const { return uncovered_; }

 private:
  std::size_t stage_of(std::int64_t block) const {
    return stage_of_layer_[static_cast<std::size_t>(blocks_.block(block).layer)];
  }
  void cover(std::size_t group, std::size_t stage) {
    for (const std::int64_t block : groups_.of_group(group)) {
      if (stage_of(block) != stage || covered_[static_cast<std::size_t>(block)]) continue;
      covered_[static_cast<std::size_t>(block)] = true;
      const std::int64_t elems = blocks_.block(block).elems;
      uncovered_ -= elems;
      for (const std::int32_t other : groups_.of_block(block))
        gain_[static_cast<std::size_t>(other)][stage] -= elems;
    }
  }

  const layout::BlockTable& blocks_;
  const GroupBlocks& groups_;
  std::vector<std::int32_t> room_;  // by stage: replicas still wanted
  std::vector<std::size_t> stage_of_layer_;
  std::vector<std::vector<std::int64_t>> gain_;  // [group][stage], elements
  std::vector<bool> covered_;                    // by block
  std::int64_t uncovered_;
};

/// Layouts in the order in which they are looked at: without stages' replicas.
std::vector<Plan> layouts(const layout::BlockTable& blocks, const RecoveryRequest& request,
                          std::int32_t replicas) {
  const HealthyRequest& wish = request.wish;
  std::vector<Plan> all;
  Plan plan;
  plan.generation = request.generation;
  plan.id = request.id;
  plan.tensor_degree = wish.tensor;
  plan.micro_batches = wish.micro_batches;
  if (std::ssize(request.previous.stages) <= replicas) {
    plan.chunk_of_layer = request.previous.chunk_of_layer;
    plan.stage_of_chunk = request.previous.stage_of_chunk;
    plan.stages.resize(request.previous.stages.size());
    all.push_back(plan);
  }
  const std::vector<std::int64_t> weights = layer_weights(blocks, wish);
  for (std::int32_t stages = std::min({wish.pipeline, replicas, blocks.layers()}); stages > 0;
       --stages) {
    // A single stage has nothing to interleave with.
    const std::int32_t chunks = stages == 1 ? 1 : std::min(wish.chunks, blocks.layers() / stages);
    const bool folded = wish.schedule == pipeline::Schedule::zbv && chunks == 2;
    plan.chunk_of_layer = chunk_layers(weights, stages * chunks);
    plan.stage_of_chunk = pipeline::placement(
        folded ? pipeline::Schedule::zbv : pipeline::Schedule::interleaved, stages, chunks);
    plan.stages.assign(static_cast<std::size_t>(stages), {});
    all.push_back(plan);
  }
  return all;
}

std::int64_t makespan_of(const Plan& plan, const std::vector<std::int64_t>& weights) {
  std::int64_t all = 0, slowest = 0;
  for (const std::int64_t weight : weights) all += weight;
  for (std::size_t stage = 0; stage < weights.size(); ++stage) {
    const auto index = static_cast<std::int32_t>(stage);
    const std::int64_t chunks = std::ssize(layout::chunks_of_stage(plan, index));
    slowest =
        std::max(slowest, weights[stage] * ceil_div(plan.micro_batches, plan.replicas(index)) +
                              (all - weights[stage]) / chunks);
  }
  return slowest;
}

Candidate seat(const layout::BlockTable& blocks, const RecoveryRequest& request,
               const std::vector<Group>& groups, const GroupBlocks& held, Plan plan) {
  const std::vector<std::int64_t> weights = stage_weights(blocks, request.wish, plan);
  Seating seating(blocks, held, plan,
                  deal_replicas(weights, static_cast<std::int32_t>(groups.size())));
  const std::vector<std::size_t> stage_of = seating.seat(groups.size());
  std::vector<std::vector<Group>> stages(plan.stages.size());
  for (std::size_t group = 0; group < groups.size(); ++group)
    stages[stage_of[group]].push_back({.ranks = groups[group].ranks});
  place_and_route(request.previous, std::move(stages), plan);
  const std::int64_t makespan = makespan_of(plan, weights);
  return {.plan = std::move(plan), .moved = seating.uncovered(), .makespan = makespan};
}

/// a * kSlowestDenominator <= b * kSlowestNumerator for any a, b >= 0.
bool fast_enough(std::int64_t a, std::int64_t b) {
  return a - b <= b / kSlowestDenominator * (kSlowestNumerator - kSlowestDenominator);
}

}  // namespace

std::vector<Candidate> find_layouts(const layout::BlockTable& blocks,
                                    const RecoveryRequest& request, const Holders& holders,
                                    Survivors survivors) {
  std::vector<Group> groups;
  for (std::vector<Group>& stage : survivors.stages)
    std::move(stage.begin(), stage.end(), std::back_inserter(groups));
  std::vector<Group> more = regroup(blocks, request.previous, holders, survivors.others);
  std::move(more.begin(), more.end(), std::back_inserter(groups));
  const GroupBlocks held(blocks, holders, groups);
  std::vector<Candidate> candidates;
  for (Plan& laid_out : layouts(blocks, request, static_cast<std::int32_t>(groups.size()))) {
    candidates.push_back(seat(blocks, request, groups, held, std::move(laid_out)));
    candidates.back().plan.spares = survivors.others;
  }
  return candidates;
}

Plan take_best(std::vector<Candidate>& candidates) {
  std::int64_t fastest = candidates[0].makespan;
  for (const Candidate& candidate : candidates) fastest = std::min(fastest, candidate.makespan);
  auto best = candidates.end();
  for (auto candidate = candidates.begin(); candidate != candidates.end(); ++candidate)
    if (fast_enough(candidate->makespan, fastest) &&
        (best == candidates.end() || candidate->moved < best->moved ||
         (candidate->moved == best->moved && candidate->makespan < best->makespan)))
      best = candidate;
  Plan plan = std::move(best->plan);
  candidates.erase(best);
  return plan;
}

}  // namespace elaswave::plan
