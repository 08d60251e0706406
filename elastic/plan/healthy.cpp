#include "elastic/plan/healthy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "elastic/plan/owners.h"
#include "elastic/plan/partition.h"

namespace elaswave::plan {
namespace {

using layout::Plan;
using pipeline::Schedule;

constexpr std::array<Schedule, 5> kSchedules = {Schedule::one_f_one_b, Schedule::interleaved,
                                                Schedule::zb_h1, Schedule::zbv, Schedule::gpipe};

// Uneven stages have no column to try candidates on: beyond so many forwards only one is made.
constexpr std::int64_t kMostTriedForwards = 50'000;

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

Result<void> check_request(const layout::BlockTable& blocks, const HealthyRequest& request) {
  const auto [world, tensor, stages] =
      std::array{request.world_size, request.tensor, request.pipeline};
  EW_CHECK(world >= 1 && tensor >= 1 && stages >= 1 && request.chunks >= 1 &&
               request.micro_batches >= 1 &&
               request.micro_batches <= std::numeric_limits<std::int32_t>::max(),
           "world {}, tensor {}, pipeline {}, chunks {}, micro-batches {}", world, tensor, stages,
           request.chunks, request.micro_batches);
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

/// Everything but rows and owners. `placement` says where chunks go.
Plan lay_out(const layout::BlockTable& blocks, const HealthyRequest& request, Schedule placement) {
  const std::vector<std::int64_t> weights = layer_weights(blocks, request);
  Plan plan;
  plan.generation = request.generation;
  plan.tensor_degree = request.tensor;
  plan.chunk_of_layer = chunk_layers(weights, request.pipeline * request.chunks);
  plan.stage_of_chunk = pipeline::placement(placement, request.pipeline, request.chunks);
  std::vector<std::int64_t> stage_weights(static_cast<std::size_t>(request.pipeline), 0);
  for (std::size_t layer = 0; layer < weights.size(); ++layer)
    stage_weights[static_cast<std::size_t>(
        plan.stage_of_layer(static_cast<std::int32_t>(layer)))] += weights[layer];
  std::int32_t next_rank = 0;
  for (const std::int32_t count :
       deal_replicas(stage_weights, request.world_size / request.tensor)) {
    layout::Stage& stage = plan.stages.emplace_back();
    for (std::int32_t replica = 0; replica < count; ++replica) {
      std::vector<std::int32_t> ranks(static_cast<std::size_t>(request.tensor));
      std::iota(ranks.begin(), ranks.end(), next_rank);
      next_rank += request.tensor;
      stage.replicas.push_back({.world_ranks = std::move(ranks)});
    }
  }
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

/// Whether the generator's precondition holds for every pipeline of a plan laid out for it.
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

Result<Maker> asked_maker(const layout::BlockTable& blocks, const HealthyRequest& request) {
  const Schedule asked = *request.schedule;
  auto sound = check_maker(lay_out(blocks, request, asked), request, asked);
  if (sound) return Maker{.schedule = asked};
  std::string others = "auto";
  for (const Schedule other : kSchedules)
    if (other != asked && check_maker(lay_out(blocks, request, other), request, other))
      others += fmt::format(", {}", pipeline::name(other));
  Error error = std::move(sound).error();
  error.where = "parallel.schedule";
  error.fix = fmt::format("use parallel.schedule={}{}{}", others, error.fix.empty() ? "" : "; or ",
                          error.fix);
  return fail(std::move(error));
}

struct Candidate {
  Maker maker;
  Schedule placement = Schedule::interleaved;
};

/// In order of preference: of equally fast ones the first is taken.
std::vector<Candidate> candidates(const HealthyRequest& request) {
  std::vector<Candidate> all;
  for (const Schedule schedule : kSchedules)
    if (schedule != Schedule::zbv || request.chunks == 2)
      all.push_back({.maker = {.schedule = schedule}, .placement = schedule});
  for (const bool split : {false, true}) all.push_back({.maker = {.split = split}});
  if (request.chunks == 2)
    for (const bool split : {false, true})
      all.push_back({.maker = {.split = split}, .placement = Schedule::zbv});
  return all;
}

Result<Candidate> fastest(const layout::BlockTable& blocks, const HealthyRequest& request) {
  const Plan round = lay_out(blocks, request, Schedule::interleaved);
  if (!in_columns(round) && round.micro_batches * round.chunks() > kMostTriedForwards)
    return Candidate{};  // the list scheduler
  std::optional<Candidate> best;
  std::int64_t best_makespan = 0;
  for (const Candidate& candidate : candidates(request)) {
    const bool folded = candidate.placement == Schedule::zbv;
    const Plan plan = folded ? lay_out(blocks, request, candidate.placement) : round;
    if (candidate.maker.schedule && !check_maker(plan, request, *candidate.maker.schedule))
      continue;
    EW_ASSIGN(const std::int64_t makespan,
              predicted_makespan(plan, rows_request(request, plan, candidate.maker)));
    if (best && makespan >= best_makespan) continue;
    best = candidate;
    best_makespan = makespan;
  }
  EW_CHECK(best.has_value(), "no schedule fits {} stages of {} chunks", request.pipeline,
           request.chunks);
  return *best;
}

Result<void> check(const Plan& plan, const layout::BlockTable& blocks, std::int32_t world_size) {
  std::string fault = layout::find_fault(plan, blocks, world_size);
  std::int64_t actions = 0;
  for (const layout::Row& row : plan.schedule) actions += static_cast<std::int64_t>(row.size());
  if (fault.empty() && actions <= kMostCheckedActions) {
    const pipeline::ScheduleFault found = pipeline::check_schedule(plan, 0);
    if (!found.what.empty()) fault = pipeline::fault_text(plan, found);
  }
  if (fault.empty()) return {};
  return fail(
      {.code = Code::bug, .what = "the healthy plan is not sound", .why = std::move(fault)});
}

}  // namespace

Result<HealthyPlan> make_healthy_plan(const layout::BlockTable& blocks,
                                      const HealthyRequest& request) {
  EW_TRY(check_request(blocks, request));
  Candidate chosen;
  if (request.schedule) {
    EW_ASSIGN(chosen.maker, asked_maker(blocks, request));
    chosen.placement = *request.schedule;
  } else {
    EW_ASSIGN(chosen, fastest(blocks, request));
  }
  Plan plan = lay_out(blocks, request, chosen.placement);
  EW_ASSIGN(plan.schedule, make_rows(plan, rows_request(request, plan, chosen.maker)));
  plan.owner = deal_owners(blocks, plan);
  EW_TRY(check(plan, blocks, request.world_size));
  return HealthyPlan{.plan = std::move(plan), .schedule = name(chosen.maker)};
}

Result<Plan> healthy_plan(const layout::BlockTable& blocks, const HealthyRequest& request) {
  EW_ASSIGN(HealthyPlan made, make_healthy_plan(blocks, request));
  return std::move(made.plan);
}

Result<Plan> healthy_plan(const layout::BlockTable& blocks, std::int32_t world_size,
                          std::int64_t micro_batches, Generation generation) {
  return healthy_plan(blocks, {.world_size = world_size,
                               .schedule = Schedule::one_f_one_b,
                               .micro_batches = micro_batches,
                               .generation = generation});
}

}  // namespace elaswave::plan
