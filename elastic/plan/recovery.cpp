#include "elastic/plan/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "elastic/plan/lay_out.h"
#include "elastic/plan/recovery_layouts.h"
#include "elastic/plan/recovery_owners.h"
#include "elastic/plan/recovery_routes.h"

namespace elaswave::plan {
namespace {

using layout::Plan;
using pipeline::Schedule;

constexpr std::array<Schedule, 5> kSchedules = {Schedule::one_f_one_b, Schedule::interleaved,
                                                Schedule::zb_h1, Schedule::zbv, Schedule::gpipe};

/// Whether the generator's rows are right for every column of the plan.
bool can_have(const Plan& plan, Schedule schedule) {
  const auto stages = static_cast<std::int32_t>(plan.stages.size());
  if (!in_columns(plan) || plan.chunks() % stages != 0) return false;
  const std::int32_t chunks = plan.chunks() / stages;
  if (schedule == Schedule::zbv && chunks != 2) return false;
  if (pipeline::placement(schedule, stages, chunks) != plan.stage_of_chunk) return false;
  std::int32_t checked = 0;  // shares differ by one at most
  for (const std::int32_t share : column_shares(plan)) {
    if (share == 0 || share == checked) continue;
    checked = share;
    if (!pipeline::check_shape(schedule,
                               {.stages = stages, .chunks = chunks, .micro_batches = share}))
      return false;
  }
  return true;
}

Result<Maker> fastest(const Plan& plan, const HealthyRequest& wish) {
  std::vector<Maker> makers;
  for (const Schedule schedule : kSchedules)
    if (can_have(plan, schedule)) makers.push_back({.schedule = schedule});
  for (const bool split : {false, true}) makers.push_back({.split = split});
  std::optional<Maker> best;
  std::int64_t best_makespan = 0;
  for (const Maker& maker : makers) {
    EW_ASSIGN(const std::int64_t makespan,
              predicted_makespan(plan, rows_request(wish, plan, maker)));
    if (best && makespan >= best_makespan) continue;
    best = maker;
    best_makespan = makespan;
  }
  return *best;
}

Result<void> make_schedule(const HealthyRequest& wish, RecoveryPlan& made) {
  Maker maker;  // the list scheduler, which can do anything
  if (wish.schedule) {
    if (can_have(made.plan, *wish.schedule)) maker.schedule = wish.schedule;
  } else if (in_columns(made.plan)) {
    EW_ASSIGN(maker, fastest(made.plan, wish));
  }
  EW_ASSIGN(made.plan.schedule, make_rows(made.plan, rows_request(wish, made.plan, maker)));
  made.schedule = name(maker);
  return {};
}

Result<void> check_members(const RecoveryRequest& request) {
  EW_CHECK(request.previous.tensor_degree == request.wish.tensor, "tensor degree {} becomes {}",
           request.previous.tensor_degree, request.wish.tensor);
  const auto left = static_cast<std::int64_t>(request.holdings.members.size());
  if (left >= request.wish.tensor && left > 0) return {};
  return fail(
      {.code = Code::unrecoverable,
       .what = fmt::format("{} ranks are left, one replica needs {}", left, request.wish.tensor),
       .where = "recovery",
       .why = fmt::format("the tensor degree is {}", request.wish.tensor),
       .fix = fmt::format("resume from a checkpoint with {} ranks or more", request.wish.tensor)});
}

/// Layout, stages and routes; the members left over are spares.
Result<Response> place(const layout::BlockTable& blocks, const RecoveryRequest& request,
                       const Holders& holders, Plan& plan) {
  Survivors survivors = find_survivors(request.previous, holders);
  if (survivors.complete()) {
    Survivors kept = survivors;
    refill_stages(blocks, request.previous, request.wish, holders, kept);
    plan.chunk_of_layer = request.previous.chunk_of_layer;
    plan.stage_of_chunk = request.previous.stage_of_chunk;
    place_and_route(request.previous, std::move(kept.stages), plan);
    plan.spares = std::move(kept.others);
    if (!request.fits || request.fits(plan)) return Response::keep;
  }
  EW_TRY(relayer(blocks, request, holders, survivors, plan));
  plan.spares = std::move(survivors.others);
  return Response::relayer;
}

}  // namespace

Result<RecoveryPlan> recover_plan(const layout::BlockTable& blocks,
                                  const RecoveryRequest& request) {
  EW_TRY(check_members(request));
  const Holders holders(blocks, request);
  EW_TRY(holders.check_lost(blocks));
  RecoveryPlan made;
  made.plan.generation = request.generation;
  made.plan.id = request.id;
  made.plan.tensor_degree = request.wish.tensor;
  made.plan.micro_batches = request.wish.micro_batches;
  EW_ASSIGN(made.response, place(blocks, request, holders, made.plan));
  EW_TRY(make_schedule(request.wish, made));
  made.moves = promote_owners(blocks, holders, made.plan);
  made.plan.copies = request.wish.copies;
  made.plan.backup = deal_backups(blocks, made.plan, request.wish.domains, holders.lists());
  made.refills = find_refills(blocks, holders, made.plan, made.moves);
  EW_TRY(check_plan(made.plan, blocks, holders.members().back() + 1));
  return made;
}

}  // namespace elaswave::plan
