#include "elastic/plan/recovery_routes.h"

#include <algorithm>
#include <numeric>

namespace elaswave::plan {
namespace {

/// Share of each replica, given what it has: the larger ones to those that have most.
std::vector<std::int64_t> shares_of(std::int64_t micro_batches,
                                    const std::vector<std::int64_t>& had) {
  const std::int64_t replicas = std::ssize(had);
  std::vector<std::size_t> order(had.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return had[a] > had[b]; });
  std::vector<std::int64_t> shares(had.size(), micro_batches / replicas);
  for (std::int64_t rest = 0; rest < micro_batches % replicas; ++rest)
    ++shares[order[static_cast<std::size_t>(rest)]];
  return shares;
}

/// Orders a stage's replicas by the columns of the first stage.
void match_columns(const std::vector<Group>& columns, std::vector<Group>& groups) {
  std::vector<Group> matched(columns.size());
  std::vector<Group> rest;
  for (Group& group : groups) {
    const auto column = std::find_if(columns.begin(), columns.end(), [&](const Group& other) {
      return group.replica >= 0 && other.replica == group.replica;
    });
    if (column == columns.end())
      rest.push_back(std::move(group));
    else
      matched[static_cast<std::size_t>(column - columns.begin())] = std::move(group);
  }
  auto next = rest.begin();
  for (Group& group : matched)
    if (group.ranks.empty()) group = std::move(*next++);
  groups = std::move(matched);
}

/// Replica that each micro-batch had on a stage, by its number now; empty when nothing is known.
std::vector<std::int32_t> routes_before(const layout::Plan& previous,
                                        const std::vector<Group>& groups,
                                        std::int64_t micro_batches) {
  const std::size_t stages = previous.stages.size();
  const auto stage = std::find_if(groups.begin(), groups.end(),
                                  [](const Group& group) { return group.stage >= 0; });
  if (stage == groups.end() || previous.micro_batches != micro_batches ||
      previous.route.size() != static_cast<std::size_t>(micro_batches) * stages)
    return {};
  std::vector<std::int32_t> now(static_cast<std::size_t>(previous.replicas(stage->stage)), -1);
  for (std::size_t index = 0; index < groups.size(); ++index)
    if (groups[index].replica >= 0)
      now[static_cast<std::size_t>(groups[index].replica)] = static_cast<std::int32_t>(index);
  std::vector<std::int32_t> before;
  for (std::int64_t micro_batch = 0; micro_batch < micro_batches; ++micro_batch)
    before.push_back(
        now[static_cast<std::size_t>(previous.replica_for(micro_batch, stage->stage))]);
  return before;
}

}  // namespace

std::vector<std::int32_t> balance_stage(std::int64_t micro_batches, std::int32_t replicas,
                                        const std::vector<std::int32_t>& before) {
  std::vector<std::int32_t> route(static_cast<std::size_t>(micro_batches), -1);
  std::vector<std::int64_t> had(static_cast<std::size_t>(replicas), 0);
  for (const std::int32_t replica : before)
    if (replica >= 0) ++had[static_cast<std::size_t>(replica)];
  const std::vector<std::int64_t> shares = shares_of(micro_batches, had);
  std::vector<std::int64_t> seen(had.size(), 0), used(had.size(), 0);
  for (std::size_t micro_batch = 0; micro_batch < before.size(); ++micro_batch) {
    if (before[micro_batch] < 0) continue;
    const auto replica = static_cast<std::size_t>(before[micro_batch]);
    const std::int64_t index = seen[replica]++, share = shares[replica];
    // Of `had` micro-batches `share` stay: those with which the rounded-down multiple grows.
    if (share < had[replica] && (index + 1) * share / had[replica] == index * share / had[replica])
      continue;
    route[micro_batch] = before[micro_batch];
    ++used[replica];
  }
  std::size_t next = 0;
  for (std::int32_t& replica : route) {
    if (replica >= 0) continue;
    while (used[next] == shares[next]) next = (next + 1) % shares.size();
    replica = static_cast<std::int32_t>(next);
    ++used[next];
    next = (next + 1) % shares.size();
  }
  return route;
}

void place_and_route(const layout::Plan& previous, std::vector<std::vector<Group>> stages,
                     layout::Plan& plan) {
  const bool columns = std::all_of(stages.begin(), stages.end(), [&](const auto& groups) {
    return groups.size() == stages[0].size();
  });
  if (columns)
    for (std::size_t stage = 1; stage < stages.size(); ++stage)
      match_columns(stages[0], stages[stage]);
  plan.route.resize(static_cast<std::size_t>(plan.micro_batches) * stages.size());
  std::vector<std::int32_t> route;
  plan.stages.clear();
  for (std::size_t stage = 0; stage < stages.size(); ++stage) {
    if (stage == 0 || !columns)
      route = balance_stage(plan.micro_batches, static_cast<std::int32_t>(stages[stage].size()),
                            routes_before(previous, stages[stage], plan.micro_batches));
    for (std::size_t micro_batch = 0; micro_batch < route.size(); ++micro_batch)
      plan.route[micro_batch * stages.size() + stage] = route[micro_batch];
    layout::Stage& placed = plan.stages.emplace_back();
    for (Group& group : stages[stage])
      placed.replicas.push_back({.world_ranks = std::move(group.ranks)});
  }
}

}  // namespace elaswave::plan
