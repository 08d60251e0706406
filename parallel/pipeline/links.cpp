#include "parallel/pipeline/links.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace elaswave::pipeline {
namespace {

using Pair = std::pair<std::int32_t, std::int32_t>;

/// Neighbouring chunks of a micro-batch on two stages: activations go one way, gradients back.
std::set<Pair> pairs(const layout::Plan& plan) {
  std::set<Pair> pairs;
  for (std::int32_t chunk = 0; chunk + 1 < plan.chunks(); ++chunk) {
    const std::int32_t stage = plan.stage_of_chunk[static_cast<std::size_t>(chunk)];
    const std::int32_t next = plan.stage_of_chunk[static_cast<std::size_t>(chunk) + 1];
    if (stage == next) continue;  // handed over in memory
    for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
      for (std::int32_t slice = 0; slice < plan.tensor_degree; ++slice) {
        const std::int32_t one = plan.rank_of({stage, plan.replica_for(micro_batch, stage), slice});
        const std::int32_t other = plan.rank_of({next, plan.replica_for(micro_batch, next), slice});
        pairs.insert({one, other});
        pairs.insert({other, one});
      }
  }
  return pairs;
}

}  // namespace

std::vector<RankLink> links(const layout::Plan& plan) {
  std::vector<RankLink> links;
  std::map<std::int32_t, std::set<std::int32_t>> taken;  // lanes, by rank
  for (const auto& [from, to] : pairs(plan)) {
    std::int32_t lane = 0;
    while (taken[from].contains(lane) || taken[to].contains(lane)) ++lane;
    if (lane >= kMostLinkLanes) continue;
    taken[from].insert(lane);
    taken[to].insert(lane);
    links.push_back({.from = from, .to = to, .lane = lane});
  }
  return links;
}

std::int32_t lane_count(const std::vector<RankLink>& links) {
  std::int32_t count = 0;
  for (const RankLink& link : links) count = std::max(count, link.lane + 1);
  return count;
}

}  // namespace elaswave::pipeline
