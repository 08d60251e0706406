#include "elastic/plan/prediction.h"

#include <algorithm>
#include <cmath>

#include "elastic/plan/rows.h"
#include "parallel/pipeline/program.h"

namespace elaswave::plan {
namespace {

using layout::Plan;

struct Totals {
  std::int64_t makespan = 0;
  double busy = 0;

  /// `times` rows or columns like these.
  void add(const pipeline::Timing& timing, double times) {
    makespan = std::max(makespan, timing.makespan);
    for (const std::int64_t row : timing.busy) busy += times * static_cast<double>(row);
  }
};

std::int64_t beyond(double bytes, double bytes_per_second, std::int64_t hidden) {
  if (bytes_per_second <= 0) return 0;
  const double time = bytes / bytes_per_second * 1e9 - static_cast<double>(hidden);
  // A step of more is refused before (evaluate.cpp); here the sums must not overflow.
  return static_cast<std::int64_t>(std::clamp(std::round(time), 0.0, kMostExposed));
}

StepPrediction predict_totals(const Plan& plan, const Totals& totals, const pipeline::Costs& costs,
                              const std::vector<StageTraffic>& traffic, double bytes_per_second) {
  StepPrediction step;
  step.makespan = totals.makespan;
  double replicas = 0;
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage) {
    replicas += plan.replicas(stage);
    std::int64_t forward = 0, backward = 0;
    for (const std::int32_t chunk : layout::chunks_of_stage(plan, stage)) {
      const pipeline::ChunkCost& cost = costs.chunks[static_cast<std::size_t>(chunk)];
      forward += cost.forward;
      backward += cost.input_gradient + cost.weight_gradient;
    }
    const StageTraffic& bytes = traffic[static_cast<std::size_t>(stage)];
    step.exposed_reduce =
        std::max(step.exposed_reduce, beyond(bytes.reduce, bytes_per_second, backward));
    step.exposed_gather =
        std::max(step.exposed_gather, beyond(bytes.gather, bytes_per_second, forward));
  }
  const double available = replicas * static_cast<double>(totals.makespan);
  step.bubble = available > 0 ? 1 - totals.busy / available : 0;
  return step;
}

LoweredKind lowered(const pipeline::Program& program) {
  LoweredKind kind{.stage = program.place.stage,
                   .first = program.place.replica,
                   .count = 1,
                   .chunks = {},
                   .boundaries = program.boundaries};
  const pipeline::UnderWay most = pipeline::most_under_way(program);
  // As pipeline::Executor::messages().
  const auto activations = static_cast<std::int32_t>(std::ranges::count(
      program.receives, pipeline::Direction::activation, &pipeline::Message::direction));
  kind.messages =
      std::max(most.receives, std::min(pipeline::kPostAhead + 1, activations)) + most.sends;
  const std::int32_t last = program.slots.empty() ? 0 : program.slots.back().chunk;
  kind.forwards = static_cast<std::int32_t>(
      std::ranges::count_if(program.instructions, [&](const pipeline::Instruction& instruction) {
        return instruction.action.op == layout::Op::forward && instruction.action.chunk == last;
      }));
  for (const pipeline::Slots& chunk : program.slots)
    kind.chunks.push_back({.chunk = chunk.chunk,
                           .stash = chunk.stash,
                           .keep = chunk.keep,
                           .weight_stash = chunk.weight_stash});
  return kind;
}

}  // namespace

std::vector<ColumnKind> column_kinds(const Plan& plan) {
  const std::vector<std::int32_t> shares = column_shares(plan);
  std::vector<ColumnKind> kinds;
  for (std::size_t column = 0; column < shares.size(); ++column) {
    if (column > 0 && shares[column] == shares[column - 1]) {
      ++kinds.back().count;
      continue;
    }
    const auto first = static_cast<std::int32_t>(column);
    kinds.push_back({.first = first, .count = 1, .column = column_of(plan, first)});
  }
  return kinds;
}

StepPrediction predict_columns(const Plan& plan, const std::vector<ColumnKind>& kinds,
                               const pipeline::Costs& costs,
                               const std::vector<StageTraffic>& traffic, double bytes_per_second) {
  Totals totals;
  for (const ColumnKind& kind : kinds)
    if (kind.column.micro_batches > 0)
      totals.add(pipeline::predict(kind.column, costs), kind.count);
  return predict_totals(plan, totals, costs, traffic, bytes_per_second);
}

StepPrediction predict_step(const Plan& plan, const pipeline::Costs& costs,
                            const std::vector<StageTraffic>& traffic, double bytes_per_second) {
  if (in_columns(plan))
    return predict_columns(plan, column_kinds(plan), costs, traffic, bytes_per_second);
  Totals totals;
  totals.add(pipeline::predict(plan, costs), 1);
  return predict_totals(plan, totals, costs, traffic, bytes_per_second);
}

std::vector<LoweredKind> lower_columns(const std::vector<ColumnKind>& kinds) {
  std::vector<LoweredKind> all;
  for (const ColumnKind& kind : kinds)
    for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(kind.column.stages.size());
         ++stage) {
      LoweredKind& one = all.emplace_back(lowered(pipeline::lower(kind.column, stage, 0)));
      one.first = kind.first;
      one.count = kind.count;
    }
  return all;
}

std::vector<LoweredKind> lower_kinds(const Plan& plan) {
  if (in_columns(plan)) return lower_columns(column_kinds(plan));
  // Every replica is of a kind of its own.
  std::vector<LoweredKind> all;
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
      all.push_back(lowered(pipeline::lower(plan, stage, replica)));
  return all;
}

std::vector<StageMemory> worst_ranks(const spec::MemoryModel& model, const Plan& plan,
                                     const std::vector<LoweredKind>& kinds,
                                     const spec::OwnedByStage& owned,
                                     std::span<const double> budgets, spec::Side side) {
  const spec::PlanMemory memory(model, plan);
  const auto beyond = [&](const layout::Place& place, double bytes) {
    if (budgets.empty()) return bytes;
    return bytes - budgets[static_cast<std::size_t>(plan.rank_of(place))];
  };
  std::vector<StageMemory> worst(plan.stages.size());
  for (const LoweredKind& kind : kinds) {
    const auto& members = owned[static_cast<std::size_t>(kind.stage)];
    const auto owned_by = [&](std::int32_t replica, std::int32_t slice) -> const spec::OwnedElems& {
      return members[static_cast<std::size_t>(std::int64_t{replica} * plan.tensor_degree + slice)];
    };
    StageMemory& most = worst[static_cast<std::size_t>(kind.stage)];
    for (std::int32_t slice = 0; slice < plan.tensor_degree; ++slice) {
      // Of those that do the same only the one that owns most for its budget.
      layout::Place heaviest{.stage = kind.stage, .replica = kind.first, .slice = slice};
      double bytes = beyond(heaviest, memory.owned_bytes(owned_by(kind.first, slice), side));
      for (std::int32_t replica = kind.first + 1; replica < kind.first + kind.count; ++replica) {
        const layout::Place place{.stage = kind.stage, .replica = replica, .slice = slice};
        const double other = beyond(place, memory.owned_bytes(owned_by(replica, slice), side));
        if (other <= bytes) continue;
        heaviest = place;
        bytes = other;
      }
      const spec::MemoryTable table =
          memory.table(heaviest, kind.slots(), owned_by(heaviest.replica, slice));
      if (most.place.stage < 0 ||
          beyond(heaviest, table.total(side)) > beyond(most.place, most.table.total(side)))
        most = {heaviest, table};
    }
  }
  return worst;
}

std::vector<StageMemory> predict_memory(const spec::MemoryModel& model, const Plan& plan,
                                        std::span<const double> budgets, spec::Side side) {
  return worst_ranks(model, plan, lower_kinds(plan), spec::owned_elems(plan, model.blocks), budgets,
                     side);
}

const StageMemory& worst_of(const std::vector<StageMemory>& stages, spec::Side side) {
  return *std::ranges::max_element(
      stages, {}, [side](const StageMemory& stage) { return stage.table.total(side); });
}

spec::MemoryTable memory_of_rank(const spec::MemoryModel& model, const Plan& plan,
                                 const layout::Place& place, const spec::OwnedElems& owned) {
  if (place.stage < 0) return spec::PlanMemory(model, plan).table(place, {}, owned);
  const LoweredKind kind = lowered(pipeline::lower(plan, place.stage, place.replica));
  return spec::PlanMemory(model, plan).table(place, kind.slots(), owned);
}

}  // namespace elaswave::plan
