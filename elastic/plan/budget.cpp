#include "elastic/plan/budget.h"

#include <limits>
#include <map>

#include "elastic/plan/prediction.h"

namespace elaswave::plan {

Budgets budgets(const RankLimits& limits, std::span<const std::int32_t> members) {
  Budgets all(static_cast<std::size_t>(members.back()) + 1,
              std::numeric_limits<double>::infinity());
  if (limits.empty()) return all;
  std::map<std::int32_t, std::int64_t> living;  // by host
  for (const std::int32_t rank : members) ++living[limits[static_cast<std::size_t>(rank)].host];
  for (const std::int32_t rank : members) {
    const RankLimit& limit = limits[static_cast<std::size_t>(rank)];
    const std::int64_t share = limit.host_bytes / living[limit.host];
    if (limit.own_bytes > 0)
      all[static_cast<std::size_t>(rank)] = static_cast<double>(limit.own_bytes);
    else if (limit.host_bytes > 0)
      all[static_cast<std::size_t>(rank)] = static_cast<double>(share);
  }
  return all;
}

std::optional<Shortage> find_shortage(const spec::MemoryModel& model, const layout::Plan& plan,
                                      const Budgets& budgets) {
  std::optional<Shortage> worst;
  const auto look_at = [&](std::int32_t rank, const spec::MemoryTable& use) {
    const Shortage one{
        .world_rank = rank, .use = use, .budget = budgets[static_cast<std::size_t>(rank)]};
    if (one.beyond() > 0 && (!worst || one.beyond() > worst->beyond())) worst = one;
  };
  for (const StageMemory& stage : predict_memory(model, plan, budgets))
    look_at(plan.rank_of(stage.place), stage.table);
  if (plan.spares.empty()) return worst;
  const std::vector<std::int64_t> copies = spec::copy_elems(plan, model.blocks);
  const spec::PlanMemory memory(model, plan);
  for (const std::int32_t rank : plan.spares)
    look_at(rank, memory.table({}, {}, {.copies = copies[static_cast<std::size_t>(rank)]}));
  return worst;
}

}  // namespace elaswave::plan
