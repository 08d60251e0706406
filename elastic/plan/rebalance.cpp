#include "elastic/plan/rebalance.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "elastic/plan/lay_out.h"

namespace elaswave::plan {
namespace {

using layout::Plan;

/// Of one stage: what a micro-batch takes its fastest replica, and each replica in kPaceUnits-ths
/// of that.
struct StageSpeed {
  std::int64_t least_ns = 0;
  std::vector<std::int64_t> pace;

  std::int64_t cost(std::size_t replica) const {
    return std::max<std::int64_t>(1, least_ns * pace[replica] / pipeline::kPaceUnits);
  }
  std::vector<std::int64_t> costs() const {
    std::vector<std::int64_t> all;
    for (std::size_t replica = 0; replica < pace.size(); ++replica) all.push_back(cost(replica));
    return all;
  }
};

/// Nothing when a rank's is not known. The slowest slice makes the pace of a replica.
std::optional<StageSpeed> speed_of(const layout::Stage& stage,
                                   std::span<const std::int64_t> cost_ns) {
  StageSpeed speed;
  for (const layout::Replica& replica : stage.replicas) {
    std::int64_t slowest = 0;
    for (const std::int32_t rank : replica.world_ranks) {
      const std::int64_t cost = cost_ns[static_cast<std::size_t>(rank)];
      if (cost <= 0) return std::nullopt;
      slowest = std::max(slowest, cost);
    }
    speed.pace.push_back(slowest);
  }
  speed.least_ns = *std::min_element(speed.pace.begin(), speed.pace.end());
  for (std::int64_t& pace : speed.pace)
    pace = (pace * pipeline::kPaceUnits + speed.least_ns / 2) / speed.least_ns;
  return speed;
}

std::vector<std::int32_t> shares_of(const Plan& plan, std::int32_t stage) {
  std::vector<std::int32_t> shares(static_cast<std::size_t>(plan.replicas(stage)), 0);
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    ++shares[static_cast<std::size_t>(plan.replica_for(micro_batch, stage))];
  return shares;
}

std::int64_t longest(std::span<const std::int32_t> shares, std::span<const std::int64_t> costs) {
  std::int64_t time = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) time = std::max(time, shares[i] * costs[i]);
  return time;
}

/// Who gets each micro-batch, spread over the step: the one that is furthest behind its share gets
/// the next.
std::vector<std::int32_t> deal(std::span<const std::int32_t> shares, std::int64_t micro_batches) {
  std::vector<std::int64_t> dealt(shares.size(), 0);
  std::vector<std::int32_t> order;
  for (std::int64_t micro_batch = 0; micro_batch < micro_batches; ++micro_batch) {
    std::size_t next = 0;
    std::int64_t most_behind = 0;
    bool found = false;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      if (dealt[i] == shares[i]) continue;
      const std::int64_t behind = shares[i] * (micro_batch + 1) - dealt[i] * micro_batches;
      if (found && behind <= most_behind) continue;
      next = i;
      most_behind = behind;
      found = true;
    }
    ++dealt[next];
    order.push_back(static_cast<std::int32_t>(next));
  }
  return order;
}

/// [micro_batch * stages + stage], as layout::Plan has it.
using Route = std::vector<std::int32_t>;

Route route_by_stage(const std::vector<StageSpeed>& speeds, std::int64_t micro_batches) {
  Route route(static_cast<std::size_t>(micro_batches) * speeds.size());
  for (std::size_t stage = 0; stage < speeds.size(); ++stage) {
    const auto dealt = deal(fair_shares(speeds[stage].costs(), micro_batches), micro_batches);
    for (std::size_t micro_batch = 0; micro_batch < dealt.size(); ++micro_batch)
      route[micro_batch * speeds.size() + stage] = dealt[micro_batch];
  }
  return route;
}

/// Pipelines of one replica a stage, each as fast as its slowest. `sorted`: the i-th fastest of
/// each stage make the i-th pipeline; otherwise those of the same number. REQUIRES: as many
/// replicas in every stage.
Route route_by_pipeline(const std::vector<StageSpeed>& speeds, std::int64_t micro_batches,
                        bool sorted) {
  const std::size_t pipelines = speeds.front().pace.size();
  std::vector<std::vector<std::int32_t>> replica;  // [stage][pipeline]
  std::vector<std::int64_t> costs(pipelines, 0);
  for (const StageSpeed& speed : speeds) {
    std::vector<std::int32_t>& mine = replica.emplace_back(pipelines);
    std::iota(mine.begin(), mine.end(), 0);
    if (sorted)
      std::stable_sort(mine.begin(), mine.end(), [&](std::int32_t a, std::int32_t b) {
        return speed.pace[static_cast<std::size_t>(a)] < speed.pace[static_cast<std::size_t>(b)];
      });
    for (std::size_t i = 0; i < pipelines; ++i)
      costs[i] = std::max(costs[i], speed.cost(static_cast<std::size_t>(mine[i])));
  }
  Route route;
  for (const std::int32_t to : deal(fair_shares(costs, micro_batches), micro_batches))
    for (const std::vector<std::int32_t>& mine : replica)
      route.push_back(mine[static_cast<std::size_t>(to)]);
  return route;
}

/// Chunks as the request prices them, scaled to what was measured of their stages; paces by row.
RowsRequest measured_request(const HealthyRequest& wish, const Plan& plan,
                             const std::vector<StageSpeed>& speeds) {
  RowsRequest request = rows_request(wish, plan, {});
  const auto total = [&](const pipeline::ChunkCost& chunk) {
    return chunk.forward + chunk.input_gradient + chunk.weight_gradient +
           (wish.recompute == spec::Recompute::full ? chunk.recompute : 0);
  };
  std::vector<std::int64_t> priced(speeds.size(), 0);
  const auto stage_of = [&](std::size_t chunk) {
    return static_cast<std::size_t>(plan.stage_of_chunk[chunk]);
  };
  for (std::size_t i = 0; i < request.costs.chunks.size(); ++i)
    priced[stage_of(i)] += total(request.costs.chunks[i]);
  for (std::size_t i = 0; i < request.costs.chunks.size(); ++i) {
    pipeline::ChunkCost& chunk = request.costs.chunks[i];
    const double scale = static_cast<double>(speeds[stage_of(i)].least_ns) /
                         static_cast<double>(std::max<std::int64_t>(1, priced[stage_of(i)]));
    for (std::int64_t* part :
         {&chunk.forward, &chunk.input_gradient, &chunk.weight_gradient, &chunk.recompute})
      *part = std::max<std::int64_t>(1, std::llround(static_cast<double>(*part) * scale));
  }
  for (const StageSpeed& speed : speeds)
    request.costs.pace.insert(request.costs.pace.end(), speed.pace.begin(), speed.pace.end());
  return request;
}

bool gains(std::int64_t now, std::int64_t then) {
  return then * 100 <= now * (100 - kLeastGainPercent);
}

/// Whether the fullest replica of all could have so much less. Cheap: asked after every step.
bool may_gain(const Plan& plan, const std::vector<StageSpeed>& speeds) {
  std::int64_t now = 0, then = 0;
  for (std::size_t stage = 0; stage < speeds.size(); ++stage) {
    const std::vector<std::int64_t> costs = speeds[stage].costs();
    now = std::max(now, longest(shares_of(plan, static_cast<std::int32_t>(stage)), costs));
    then = std::max(then, longest(fair_shares(costs, plan.micro_batches), costs));
  }
  return gains(now, then);
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
  std::vector<StageSpeed> speeds;
  bool equal = true;
  for (const layout::Stage& stage : plan.stages) {
    auto speed = speed_of(stage, cost_ns);
    if (!speed) return std::optional<Plan>();
    equal = equal && stage.replicas.size() == plan.stages.front().replicas.size();
    speeds.push_back(*std::move(speed));
  }
  if (!may_gain(plan, speeds)) return std::optional<Plan>();

  std::vector<Route> routes;
  if (equal)
    for (const bool sorted : {false, true})
      routes.push_back(route_by_pipeline(speeds, plan.micro_batches, sorted));
  routes.push_back(route_by_stage(speeds, plan.micro_batches));
  const RowsRequest request = measured_request(wish, plan, speeds);
  const std::int64_t now = pipeline::predict(plan, request.costs).makespan;
  std::optional<Plan> best;
  std::int64_t shortest = now;
  for (Route& route : routes) {
    Plan made = plan;
    ++made.id;
    made.route = std::move(route);
    EW_ASSIGN(made.schedule, make_rows(made, request));
    const std::int64_t step = pipeline::predict(made, request.costs).makespan;
    if (step >= shortest) continue;
    shortest = step;
    best = std::move(made);
  }
  if (!best || !gains(now, shortest)) return std::optional<Plan>();
  EW_TRY(check_plan(*best, blocks, layout::members(*best).back() + 1));
  return best;
}

}  // namespace elaswave::plan
