#include "elastic/plan/healthy.h"

#include <fmt/format.h>

#include "elastic/plan/lay_out.h"
#include "elastic/plan/owners.h"

namespace elaswave::plan {
namespace {

using layout::Plan;
using pipeline::Schedule;

// Uneven stages have no column to try candidates on: beyond so many forwards only one is made.
constexpr std::int64_t kMostTriedForwards = 50'000;

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
  plan.copies = request.copies;
  plan.backup = deal_backups(blocks, plan, request.domains);
  EW_TRY(check_plan(plan, blocks, request.world_size));
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
