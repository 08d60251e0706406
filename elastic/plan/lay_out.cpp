#include "elastic/plan/lay_out.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "elastic/plan/partition.h"

namespace elaswave::plan {
namespace {

using layout::Plan;
using pipeline::Schedule;

tl::unexpected<Error> unusable(std::string what, std::string key, std::string why,
                               std::string fix) {
  return fail({.code = Code::usage,
               .what = std::move(what),
               .where = std::move(key),
               .why = std::move(why),
               .fix = std::move(fix)});
}

/// "1, 2, 4": what divides `number`, up to `most`.
std::string divisors(std::int32_t number, std::int32_t most) {
  std::string text;
  for (std::int32_t value = 1; value <= std::min(number, most); ++value)
    if (number % value == 0) text += fmt::format("{}{}", text.empty() ? "" : ", ", value);
  return text;
}

/// World ranks of replicas that share a domain where there are enough of them in it, and their
/// domain; by domain, then rank. What domains leave over makes the last ones.
struct DomainGroup {
  std::vector<std::int32_t> ranks;
  std::int32_t domain = 0;
};
std::vector<DomainGroup> group_by_domain(const HealthyRequest& request) {
  const auto domain_of = [&](std::int32_t rank) {
    return request.domains[static_cast<std::size_t>(rank)];
  };
  std::vector<std::int32_t> order(static_cast<std::size_t>(request.world_size));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return domain_of(a) < domain_of(b); });
  const auto slices = static_cast<std::ptrdiff_t>(request.tensor);
  std::vector<DomainGroup> groups;
  std::vector<std::int32_t> rest;
  const auto cut = [&](auto begin, auto end) {
    for (; end - begin >= slices; begin += slices)
      groups.push_back({.ranks = {begin, begin + slices}, .domain = domain_of(*begin)});
    return begin;
  };
  for (auto begin = order.begin(); begin != order.end();) {
    const auto end = std::find_if(begin, order.end(), [&](std::int32_t rank) {
      return domain_of(rank) != domain_of(*begin);
    });
    rest.insert(rest.end(), cut(begin, end), end);
    begin = end;
  }
  cut(rest.begin(), rest.end());
  return groups;
}

/// Domains decide where ranks go only when there are several and one has several ranks.
bool domains_matter(const HealthyRequest& request) {
  if (request.domains.empty()) return false;
  std::vector<std::int32_t> domains(request.domains.begin(),
                                    request.domains.begin() + request.world_size);
  std::sort(domains.begin(), domains.end());
  const bool shared = std::adjacent_find(domains.begin(), domains.end()) != domains.end();
  return shared && domains.front() != domains.back();
}

/// Each replica to the stage that has fewest of its domain, then to the one with most room, then
/// to the lowest; in a stage by their first rank, so that equal domains make columns.
std::vector<layout::Stage> spread_over_domains(const HealthyRequest& request,
                                               const std::vector<std::int32_t>& replicas) {
  std::vector<layout::Stage> stages(replicas.size());
  std::vector<std::int32_t> of_domain(replicas.size(), 0);
  std::int32_t domain = -1;
  for (DomainGroup& group : group_by_domain(request)) {
    if (group.domain != domain) std::fill(of_domain.begin(), of_domain.end(), 0);
    domain = group.domain;
    const auto room = [&](std::size_t stage) {
      return replicas[stage] - static_cast<std::int32_t>(stages[stage].replicas.size());
    };
    std::size_t best = stages.size();
    for (std::size_t stage = 0; stage < stages.size(); ++stage)
      if (room(stage) > 0 && (best == stages.size() || of_domain[stage] < of_domain[best] ||
                              (of_domain[stage] == of_domain[best] && room(stage) > room(best))))
        best = stage;
    ++of_domain[best];
    stages[best].replicas.push_back({.world_ranks = std::move(group.ranks)});
  }
  for (layout::Stage& stage : stages)
    std::sort(stage.replicas.begin(), stage.replicas.end(),
              [](const layout::Replica& a, const layout::Replica& b) {
                return a.world_ranks < b.world_ranks;
              });
  return stages;
}

std::vector<layout::Stage> place_in_order(const HealthyRequest& request,
                                          const std::vector<std::int32_t>& replicas) {
  std::vector<layout::Stage> stages(replicas.size());
  std::int32_t next_rank = 0;
  for (std::size_t stage = 0; stage < stages.size(); ++stage)
    for (std::int32_t replica = 0; replica < replicas[stage]; ++replica) {
      std::vector<std::int32_t> ranks(static_cast<std::size_t>(request.tensor));
      std::iota(ranks.begin(), ranks.end(), next_rank);
      next_rank += request.tensor;
      stages[stage].replicas.push_back({.world_ranks = std::move(ranks)});
    }
  return stages;
}

}  // namespace

std::vector<std::int64_t> layer_weights(const layout::BlockTable& blocks,
                                        const HealthyRequest& request) {
  std::vector<std::int64_t> weights(static_cast<std::size_t>(blocks.layers()), 1);
  if (request.costs.layers.empty()) return weights;
  EW_CHECK(request.costs.layers.size() == weights.size(), "{} costs for {} layers",
           request.costs.layers.size(), weights.size());
  for (std::int32_t layer = 0; layer < blocks.layers(); ++layer)
    weights[static_cast<std::size_t>(layer)] = request.costs.of_layer(layer, request.recompute);
  return weights;
}

std::vector<std::int64_t> stage_weights(const layout::BlockTable& blocks,
                                        const HealthyRequest& request, const Plan& plan) {
  const std::vector<std::int64_t> weights = layer_weights(blocks, request);
  std::vector<std::int64_t> sums(plan.stages.size(), 0);
  for (std::size_t layer = 0; layer < weights.size(); ++layer)
    sums[static_cast<std::size_t>(plan.stage_of_layer(static_cast<std::int32_t>(layer)))] +=
        weights[layer];
  return sums;
}

Result<void> check_plan(const Plan& plan, const layout::BlockTable& blocks,
                        std::int32_t world_size) {
  std::string fault = layout::find_fault(plan, blocks, world_size);
  std::int64_t actions = 0;
  for (const layout::Row& row : plan.schedule) actions += static_cast<std::int64_t>(row.size());
  if (fault.empty() && actions <= kMostCheckedActions) {
    const pipeline::ScheduleFault found = pipeline::check_schedule(plan, 0);
    if (!found.what.empty()) fault = pipeline::fault_text(plan, found);
  }
  if (fault.empty()) return {};
  return fail({.code = Code::bug, .what = "the plan is not sound", .why = std::move(fault)});
}

Result<void> check_request(const layout::BlockTable& blocks, const HealthyRequest& request) {
  const auto [world, tensor, stages] =
      std::array{request.world_size, request.tensor, request.pipeline};
  EW_CHECK(world >= 1 && tensor >= 1 && stages >= 1 && request.chunks >= 1 &&
               request.micro_batches >= 1 &&
               request.micro_batches <= std::numeric_limits<std::int32_t>::max(),
           "world {}, tensor {}, pipeline {}, chunks {}, micro-batches {}", world, tensor, stages,
           request.chunks, request.micro_batches);
  EW_CHECK(request.domains.empty() || std::ssize(request.domains) >= world,
           "{} domains for {} ranks", request.domains.size(), world);
  if (world % tensor != 0) {
    const std::int32_t below = world / tensor * tensor;
    return unusable(
        fmt::format("{} ranks do not form whole tensor-parallel groups of {}", world, tensor),
        "parallel.tp", fmt::format("{} would be left over", world - below),
        fmt::format("use {}{} ranks, or parallel.tp={}",
                    below > 0 ? fmt::format("{} or ", below) : "", std::int64_t{below} + tensor,
                    divisors(world, tensor)));
  }
  const std::int32_t replicas = world / tensor;
  if (replicas < stages)
    return unusable(fmt::format("{} ranks are too few for {} pipeline stages", world, stages),
                    "parallel.pp",
                    fmt::format("they form {} tensor-parallel groups of {}; every stage needs one",
                                replicas, tensor),
                    fmt::format("use at least {} ranks, or parallel.pp={} at most",
                                std::int64_t{stages} * tensor, replicas));
  const std::int64_t chunks = std::int64_t{stages} * request.chunks;
  if (chunks > blocks.layers()) {
    const std::int32_t most_chunks = blocks.layers() / stages;
    return unusable(
        fmt::format("{} layers are too few for {} chunks", blocks.layers(), chunks),
        "parallel.pp, parallel.chunks",
        fmt::format("{} stages of {} chunks; every chunk needs a layer (embedding and head count)",
                    stages, request.chunks),
        most_chunks > 0 ? fmt::format("use parallel.chunks={} at most, or parallel.pp={} at most",
                                      most_chunks, std::max(1, blocks.layers() / request.chunks))
                        : fmt::format("use parallel.pp={} at most", blocks.layers()));
  }
  if (request.micro_batches > kMostForwards / chunks)
    return unusable(
        fmt::format("{} micro-batches are too many for one plan", request.micro_batches),
        "train.global_batch",
        fmt::format("over {} chunks they are more than {} forwards a step", chunks, kMostForwards),
        "use larger micro-batches or a smaller global batch");
  return {};
}

Plan lay_out(const layout::BlockTable& blocks, const HealthyRequest& request, Schedule placement) {
  Plan plan;
  plan.generation = request.generation;
  plan.tensor_degree = request.tensor;
  plan.chunk_of_layer =
      chunk_layers(layer_weights(blocks, request), request.pipeline * request.chunks);
  plan.stage_of_chunk = pipeline::placement(placement, request.pipeline, request.chunks);
  plan.stages.resize(static_cast<std::size_t>(request.pipeline));
  const std::vector<std::int32_t> replicas =
      deal_replicas(stage_weights(blocks, request, plan), request.world_size / request.tensor);
  plan.stages = domains_matter(request) ? spread_over_domains(request, replicas)
                                        : place_in_order(request, replicas);
  plan.micro_batches = request.micro_batches;
  plan.route.reserve(static_cast<std::size_t>(plan.micro_batches) * plan.stages.size());
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    for (std::int32_t stage = 0; stage < request.pipeline; ++stage)
      plan.route.push_back(static_cast<std::int32_t>(micro_batch % plan.replicas(stage)));
  return plan;
}

RowsRequest rows_request(const HealthyRequest& request, const Plan& plan, const Maker& maker) {
  LayerCosts costs = request.costs;
  if (costs.layers.empty()) costs.layers.resize(static_cast<std::size_t>(plan.layers()));
  return {.maker = maker,
          .backward = request.backward,
          .recompute = request.recompute,
          .costs = chunk_costs(costs, plan.chunk_of_layer, plan.chunks())};
}

Result<void> check_maker(const Plan& plan, const HealthyRequest& request, Schedule schedule) {
  if (!in_columns(plan))
    return unusable(
        fmt::format("schedule {} needs pipelines of one replica a stage", pipeline::name(schedule)),
        "parallel.schedule",
        fmt::format("{} replicas over {} stages: some stages have more than others",
                    request.world_size / request.tensor, request.pipeline),
        "");
  const std::vector<std::int32_t> shares = column_shares(plan);
  // They differ by one at most, and those with more come first.
  for (const std::int32_t share : {shares.front(), shares.back()})
    if (share > 0)
      EW_TRY(pipeline::check_shape(
          schedule,
          {.stages = request.pipeline, .chunks = request.chunks, .micro_batches = share}));
  return {};
}

}  // namespace elaswave::plan
