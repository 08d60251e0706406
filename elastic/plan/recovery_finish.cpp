#include "elastic/plan/recovery_finish.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "elastic/plan/lay_out.h"
#include "elastic/plan/recovery_owners.h"

namespace elaswave::plan {
namespace {

using layout::Plan;
using pipeline::Schedule;

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

/// Whatever can make the rows of a plan in columns, fastest first.
Result<std::vector<Maker>> makers_by_speed(const Plan& plan, const HealthyRequest& wish) {
  std::vector<Maker> makers;
  for (const Schedule schedule : kSchedules)
    if (can_have(plan, schedule)) makers.push_back({.schedule = schedule});
  for (const bool split : {false, true}) makers.push_back({.split = split});
  std::vector<std::pair<std::int64_t, Maker>> timed;
  for (const Maker& maker : makers) {
    EW_ASSIGN(const std::int64_t makespan,
              predicted_makespan(plan, rows_request(wish, plan, maker)));
    timed.emplace_back(makespan, maker);
  }
  std::ranges::stable_sort(timed, {}, &std::pair<std::int64_t, Maker>::first);
  makers.clear();
  for (const auto& [makespan, maker] : timed) makers.push_back(maker);
  return makers;
}

std::string mebibytes(double bytes) {
  return fmt::format("{:.2f} MiB", bytes / (1 << 20));
}

}  // namespace

Result<bool> Finisher::finish(RecoveryPlan& made) {
  const HealthyRequest& wish = request_.wish;
  Plan& plan = made.plan;
  made.moves = promote_owners(blocks_, holders_, plan);
  plan.copies = wish.copies;
  plan.backup = deal_backups(blocks_, plan, wish.domains, holders_.lists());
  if (wish.schedule || !in_columns(plan)) {
    Maker maker;  // the list scheduler, which can do anything
    if (wish.schedule && can_have(plan, *wish.schedule)) maker.schedule = wish.schedule;
    EW_ASSIGN(const bool fits, try_rows(maker, made));
    if (fits || !in_columns(plan)) return fits;
  }
  EW_ASSIGN(const std::vector<Maker> makers, makers_by_speed(plan, wish));
  for (const Maker& maker : makers) {
    EW_ASSIGN(const bool fits, try_rows(maker, made));
    if (fits) return true;
  }
  return false;
}

Result<bool> Finisher::try_rows(const Maker& maker, RecoveryPlan& made) {
  EW_ASSIGN(made.plan.schedule,
            make_rows(made.plan, rows_request(request_.wish, made.plan, maker)));
  made.schedule = name(maker);
  if (request_.shortage)
    if (const auto shortage = request_.shortage(made.plan)) {
      if (!least_ || shortage->beyond() < least_->beyond()) least_ = shortage;
      return false;
    }
  made.refills = find_refills(blocks_, holders_, made.plan, made.moves);
  EW_TRY(check_plan(made.plan, blocks_, holders_.members().back() + 1));
  return true;
}

Error Finisher::too_large() const {
  const spec::MemoryTable& use = least_->use;
  const spec::MemoryTerm largest = use.largest();
  std::string terms;
  if (largest != spec::MemoryTerm::backups)
    terms = fmt::format("{} {}, ", spec::name(largest), mebibytes(use[largest]));
  terms += fmt::format("backups {} (elastic.copies={})", mebibytes(use[spec::MemoryTerm::backups]),
                       request_.wish.copies);
  return {.code = Code::unrecoverable,
          .what = fmt::format("{}, and no layout fits into memory",
                              left_text(std::ssize(holders_.members()))),
          .where = "recovery",
          .why = fmt::format(
              "the one that comes nearest needs {} on rank {}, which has {} for it; mostly {}",
              mebibytes(use.total()), least_->world_rank, mebibytes(least_->budget), terms),
          .fix =
              "resume from a checkpoint with more ranks, or with fewer elastic.copies or a "
              "smaller train.micro_batch"};
}

}  // namespace elaswave::plan
