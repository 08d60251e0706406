#include "elastic/plan/rebalance.h"

#include <algorithm>

#include "elastic/plan/lay_out.h"

namespace elaswave::plan {
namespace {

using layout::Plan;

/// Cost of one micro-batch on each replica of a stage, in sixteenths of the cheapest one's; empty
/// when one is not known. The slowest slice makes the pace.
std::vector<std::int64_t> stage_costs(const layout::Stage& stage,
                                      std::span<const std::int64_t> cost_ns) {
  std::vector<std::int64_t> costs;
  for (const layout::Replica& replica : stage.replicas) {
    std::int64_t slowest = 0;
    for (const std::int32_t rank : replica.world_ranks) {
      const std::int64_t cost = cost_ns[static_cast<std::size_t>(rank)];
      if (cost <= 0) return {};
      slowest = std::max(slowest, cost);
    }
    costs.push_back(slowest);
  }
  const std::int64_t least = *std::min_element(costs.begin(), costs.end());
  for (std::int64_t& cost : costs) cost = (cost * kSpeedSteps + least / 2) / least;
  return costs;
}

std::vector<std::int32_t> shares_of(const Plan& plan, std::int32_t stage) {
  std::vector<std::int32_t> shares(static_cast<std::size_t>(plan.replicas(stage)), 0);
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    ++shares[static_cast<std::size_t>(plan.replica_for(micro_batch, stage))];
  return shares;
}

std::int64_t longest(std::span<const std::int32_t> shares, std::span<const std::int64_t> costs) {
  std::int64_t time = 0;
  for (std::size_t replica = 0; replica < shares.size(); ++replica)
    time = std::max(time, shares[replica] * costs[replica]);
  return time;
}

/// Deals micro-batches so that every replica's are spread over the step: the one that is furthest
/// behind its share gets the next.
void route_stage(Plan& plan, std::int32_t stage, std::span<const std::int32_t> shares) {
  std::vector<std::int64_t> dealt(shares.size(), 0);
  const auto stages = static_cast<std::int64_t>(plan.stages.size());
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch) {
    std::size_t next = 0;
    std::int64_t most_behind = 0;
    bool found = false;
    for (std::size_t replica = 0; replica < shares.size(); ++replica) {
      if (dealt[replica] == shares[replica]) continue;
      const std::int64_t behind =
          shares[replica] * (micro_batch + 1) - dealt[replica] * plan.micro_batches;
      if (found && behind <= most_behind) continue;
      next = replica;
      most_behind = behind;
      found = true;
    }
    ++dealt[next];
    plan.route[static_cast<std::size_t>(micro_batch * stages + stage)] =
        static_cast<std::int32_t>(next);
  }
}

}  // namespace

std::vector<std::int32_t> fair_shares(std::span<const std::int64_t> costs,
                                      std::int64_t micro_batches) {
  // One after the other to whoever would be done with it first: no exchange of a single micro-batch
  // shortens the longest replica, and with equal pieces nothing else could.
  std::vector<std::int32_t> shares(costs.size(), 0);
  for (std::int64_t dealt = 0; dealt < micro_batches; ++dealt) {
    std::size_t first = 0;
    for (std::size_t replica = 1; replica < costs.size(); ++replica)
      if ((shares[replica] + 1) * costs[replica] < (shares[first] + 1) * costs[first])
        first = replica;
    ++shares[first];
  }
  return shares;
}

Result<std::optional<Plan>> rebalance(const layout::BlockTable& blocks, const Plan& plan,
                                      std::span<const std::int64_t> cost_ns,
                                      const HealthyRequest& wish) {
  Plan made = plan;
  ++made.id;
  bool better = false;
  for (std::int32_t stage = 0; stage < std::ssize(plan.stages); ++stage) {
    const std::vector<std::int64_t> costs =
        stage_costs(plan.stages[static_cast<std::size_t>(stage)], cost_ns);
    if (costs.empty()) return std::optional<Plan>();
    const std::vector<std::int32_t> before = shares_of(plan, stage);
    const std::vector<std::int32_t> after = fair_shares(costs, plan.micro_batches);
    const std::int64_t now = longest(before, costs), then = longest(after, costs);
    if (then * 100 > now * (100 - kLeastGainPercent)) continue;
    route_stage(made, stage, after);
    better = true;
  }
  if (!better) return std::optional<Plan>();
  EW_ASSIGN(made.schedule, make_rows(made, rows_request(wish, made, {})));
  EW_TRY(check_plan(made, blocks, layout::members(made).back() + 1));
  return std::optional(std::move(made));
}

}  // namespace elaswave::plan
