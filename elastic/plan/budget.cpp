#include "elastic/plan/budget.h"

#include <limits>
#include <map>

#include "elastic/plan/prediction.h"

namespace elaswave::plan {

namespace {

/// What a rank has of one kind of memory.
struct Limit {
  std::int32_t place = 0;  // shared by all ranks there
  std::int64_t shared_bytes = 0, own_bytes = 0;
};

template <typename LimitOf>
Budgets share_out(const RankLimits& limits, std::span<const std::int32_t> members,
                  LimitOf limit_of) {
  Budgets all(static_cast<std::size_t>(members.back()) + 1,
              std::numeric_limits<double>::infinity());
  if (limits.empty()) return all;
  const auto of = [&](std::int32_t rank) -> Limit {
    return limit_of(limits[static_cast<std::size_t>(rank)]);
  };
  std::map<std::int32_t, std::int64_t> living;  // by place
  for (const std::int32_t rank : members) ++living[of(rank).place];
  for (const std::int32_t rank : members) {
    const Limit limit = of(rank);
    const std::int64_t share = limit.shared_bytes / living[limit.place];
    if (limit.own_bytes > 0)
      all[static_cast<std::size_t>(rank)] = static_cast<double>(limit.own_bytes);
    else if (limit.shared_bytes > 0)
      all[static_cast<std::size_t>(rank)] = static_cast<double>(share);
  }
  return all;
}

std::optional<Shortage> find_shortage_of(const spec::MemoryModel& model, const layout::Plan& plan,
                                         const Budgets& budgets, spec::Side side) {
  std::optional<Shortage> worst;
  const auto look_at = [&](std::int32_t rank, const spec::MemoryTable& use) {
    const Shortage one{.world_rank = rank,
                       .use = use,
                       .budget = budgets[static_cast<std::size_t>(rank)],
                       .side = side};
    if (one.beyond() > 0 && (!worst || one.beyond() > worst->beyond())) worst = one;
  };
  for (const StageMemory& stage : predict_memory(model, plan, budgets, side))
    look_at(plan.rank_of(stage.place), stage.table);
  if (plan.spares.empty()) return worst;
  const std::vector<std::int64_t> copies = spec::copy_elems(plan, model.blocks);
  const spec::PlanMemory memory(model, plan);
  for (const std::int32_t rank : plan.spares)
    look_at(rank, memory.table({}, {}, {.copies = copies[static_cast<std::size_t>(rank)]}));
  return worst;
}

}  // namespace

Budgets budgets(const RankLimits& limits, std::span<const std::int32_t> members) {
  return share_out(limits, members, [](const RankLimit& limit) {
    return Limit{limit.host, limit.host_bytes, limit.own_bytes};
  });
}

Budgets gpu_budgets(const RankLimits& limits, std::span<const std::int32_t> members) {
  return share_out(limits, members, [](const RankLimit& limit) {
    const double counted = (1 - kUncountedShare) * static_cast<double>(limit.gpu_bytes);
    return Limit{limit.gpu, static_cast<std::int64_t>(counted), limit.own_gpu_bytes};
  });
}

std::optional<Shortage> find_shortage(const spec::MemoryModel& model, const layout::Plan& plan,
                                      const Budgets& budgets, const Budgets& on_gpus) {
  if (model.device == spec::DeviceMemory::shared)
    return find_shortage_of(model, plan, budgets, spec::Side::all);
  auto worst = find_shortage_of(model, plan, budgets, spec::Side::host);
  if (on_gpus.empty()) return worst;
  const auto other = find_shortage_of(model, plan, on_gpus, spec::Side::device);
  return other && (!worst || other->beyond() > worst->beyond()) ? other : worst;
}

}  // namespace elaswave::plan
