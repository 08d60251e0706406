#include "elastic/plan/recovery_replicas.h"

#include <algorithm>
#include <tuple>

#include "elastic/plan/lay_out.h"

namespace elaswave::plan {

Pool::Pool(const layout::BlockTable& blocks, const layout::Plan& previous, const Holders& holders,
           std::vector<std::int32_t> ranks)
    : slices_(previous.tensor_degree), ranks_(std::move(ranks)) {
  held_.assign(ranks_.size(),
               std::vector<std::int64_t>(
                   previous.stages.size() * static_cast<std::size_t>(previous.tensor_degree), 0));
  if (ranks_.empty()) return;
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const layout::Block& block = blocks.block(index);
    // What every slice may own says nothing about who should be which.
    const std::int32_t slice = slices_ == 1 ? 0 : blocks.part(block.part).slice;
    if (slice < 0) continue;
    for (const std::int32_t rank : holders.of(index)) {
      const auto found = std::lower_bound(ranks_.begin(), ranks_.end(), rank);
      if (found == ranks_.end() || *found != rank) continue;
      held_[static_cast<std::size_t>(found - ranks_.begin())]
           [static_cast<std::size_t>(previous.stage_of_layer(block.layer) * slices_ + slice)] +=
          block.elems;
    }
  }
}

Pool::Offer Pool::offer(std::int32_t stage) const {
  Offer offer{.ranks = std::vector<std::int32_t>(static_cast<std::size_t>(slices_), -1)};
  std::vector<bool> used(ranks_.size(), false);
  for (std::int32_t count = 0; count < slices_; ++count) {
    std::int64_t most = -1;
    std::int32_t best_slice = 0;
    std::size_t best = 0;
    for (std::int32_t slice = 0; slice < slices_; ++slice) {
      if (offer.ranks[static_cast<std::size_t>(slice)] >= 0) continue;
      for (std::size_t index = 0; index < ranks_.size(); ++index) {
        if (used[index] || held(index, stage, slice) <= most) continue;
        most = held(index, stage, slice);
        best_slice = slice;
        best = index;
      }
    }
    used[best] = true;
    offer.ranks[static_cast<std::size_t>(best_slice)] = ranks_[best];
    offer.held += most;
  }
  return offer;
}

void Pool::take(const Offer& offer) {
  for (const std::int32_t rank : offer.ranks) {
    const auto found = std::lower_bound(ranks_.begin(), ranks_.end(), rank);
    held_.erase(held_.begin() + (found - ranks_.begin()));
    ranks_.erase(found);
  }
}

bool Survivors::complete() const {
  return std::none_of(stages.begin(), stages.end(),
                      [](const std::vector<Group>& groups) { return groups.empty(); });
}

Survivors find_survivors(const layout::Plan& previous, const Holders& holders) {
  Survivors found;
  std::vector<bool> placed(static_cast<std::size_t>(holders.members().back()) + 1, false);
  for (std::size_t stage = 0; stage < previous.stages.size(); ++stage) {
    std::vector<Group>& groups = found.stages.emplace_back();
    const auto& replicas = previous.stages[stage].replicas;
    for (std::size_t replica = 0; replica < replicas.size(); ++replica) {
      const std::vector<std::int32_t>& ranks = replicas[replica].world_ranks;
      if (!std::all_of(ranks.begin(), ranks.end(),
                       [&](std::int32_t rank) { return holders.is_member(rank); }))
        continue;
      groups.push_back({.ranks = ranks,
                        .stage = static_cast<std::int32_t>(stage),
                        .replica = static_cast<std::int32_t>(replica)});
      for (const std::int32_t rank : ranks) placed[static_cast<std::size_t>(rank)] = true;
    }
  }
  for (const std::int32_t rank : holders.members())
    if (!placed[static_cast<std::size_t>(rank)]) found.others.push_back(rank);
  return found;
}

namespace {

/// weight / replicas of one stage against another's, without a division: quotients, then rests.
bool bears_more(std::int64_t weight, std::int64_t replicas, std::int64_t than_weight,
                std::int64_t than_replicas) {
  const std::int64_t a = weight / replicas, b = than_weight / than_replicas;
  return a != b ? a > b
                : weight % replicas * than_replicas > than_weight % than_replicas * replicas;
}

}  // namespace

void refill_stages(const layout::BlockTable& blocks, const layout::Plan& previous,
                   const HealthyRequest& wish, const Holders& holders, Survivors& survivors) {
  if (std::ssize(survivors.others) < previous.tensor_degree) return;
  Pool pool(blocks, previous, holders, survivors.others);
  const std::vector<std::int64_t> weights = stage_weights(blocks, wish, previous);
  const auto stages = static_cast<std::int32_t>(previous.stages.size());
  while (pool.size() >= previous.tensor_degree) {
    std::int32_t best = -1;
    Pool::Offer best_offer;
    for (std::int32_t stage = 0; stage < stages; ++stage) {
      const auto index = static_cast<std::size_t>(stage);
      Pool::Offer offer = pool.offer(stage);
      if (best >= 0) {
        const auto other = static_cast<std::size_t>(best);
        const std::int64_t count = std::ssize(survivors.stages[index]);
        const std::int64_t other_count = std::ssize(survivors.stages[other]);
        const std::int64_t time = weights[index] * ceil_div(wish.micro_batches, count);
        const std::int64_t other_time = weights[other] * ceil_div(wish.micro_batches, other_count);
        if (time < other_time) continue;
        if (time == other_time) {
          if (bears_more(weights[other], other_count, weights[index], count)) continue;
          if (!bears_more(weights[index], count, weights[other], other_count) &&
              offer.held <= best_offer.held)
            continue;
        }
      }
      best = stage;
      best_offer = std::move(offer);
    }
    pool.take(best_offer);
    survivors.stages[static_cast<std::size_t>(best)].push_back(
        {.ranks = std::move(best_offer.ranks)});
  }
  survivors.others = pool.ranks();
}

std::vector<Group> regroup(const layout::BlockTable& blocks, const layout::Plan& previous,
                           const Holders& holders, std::vector<std::int32_t>& others) {
  std::vector<Group> groups;
  Pool pool(blocks, previous, holders, others);
  const auto stages = static_cast<std::int32_t>(previous.stages.size());
  while (pool.size() >= previous.tensor_degree) {
    Pool::Offer best = pool.offer(0);
    for (std::int32_t stage = 1; stage < stages; ++stage)
      if (Pool::Offer offer = pool.offer(stage); offer.held > best.held) best = std::move(offer);
    pool.take(best);
    groups.push_back({.ranks = std::move(best.ranks)});
  }
  others = pool.ranks();
  return groups;
}

}  // namespace elaswave::plan
