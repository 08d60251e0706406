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

/// How many columns have each number of micro-batches that occurs, and the first of them.
struct ColumnKind {
  std::int32_t share = 0, first = 0;
  std::int64_t count = 0;
};
std::vector<ColumnKind> column_kinds(const Plan& plan) {
  std::vector<ColumnKind> kinds;
  const std::vector<std::int32_t> shares = column_shares(plan);
  for (std::size_t column = 0; column < shares.size(); ++column) {
    const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const ColumnKind& known) {
      return known.share == shares[column];
    });
    if (kind != kinds.end())
      ++kind->count;
    else
      kinds.push_back(
          {.share = shares[column], .first = static_cast<std::int32_t>(column), .count = 1});
  }
  return kinds;
}

std::int64_t beyond(double bytes, double bytes_per_second, std::int64_t hidden) {
  if (bytes_per_second <= 0) return 0;
  const double time = bytes / bytes_per_second * 1e9;
  return std::max<std::int64_t>(0, static_cast<std::int64_t>(std::round(time)) - hidden);
}

std::vector<spec::ChunkSlots> chunk_slots(const pipeline::Program& program) {
  std::vector<spec::ChunkSlots> slots;
  for (const pipeline::Slots& chunk : program.slots)
    slots.push_back({.chunk = chunk.chunk,
                     .stash = chunk.stash,
                     .keep = chunk.keep,
                     .weight_stash = chunk.weight_stash});
  return slots;
}

spec::MemoryTable table_of(const spec::MemoryModel& model, const Plan& plan,
                           const layout::Place& place, const pipeline::Program& program,
                           std::int64_t owned) {
  const std::vector<spec::ChunkSlots> slots = chunk_slots(program);
  return spec::plan_memory(model, plan, place, {.chunks = slots, .boundaries = program.boundaries},
                           owned);
}

/// The rank of each stage that needs most. Of replicas that do the same only the one that owns most
/// in each slice is looked at.
class WorstRanks {
 public:
  WorstRanks(const spec::MemoryModel& model, const Plan& plan)
      : model_(model), plan_(plan), owned_(spec::owned_elems(plan, model.blocks)) {
    if (in_columns(plan)) shares_ = column_shares(plan);
  }

  std::vector<StageMemory> find() const {
    std::vector<ColumnKind> kinds;
    if (!shares_.empty()) kinds = column_kinds(plan_);
    std::vector<StageMemory> worst(plan_.stages.size());
    for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(worst.size()); ++stage) {
      StageMemory& most = worst[static_cast<std::size_t>(stage)];
      for (const ColumnKind& kind : kinds) consider(stage, kind.first, most);
      // Without columns every replica is of a kind of its own.
      if (kinds.empty())
        for (std::int32_t replica = 0; replica < plan_.replicas(stage); ++replica)
          consider(stage, replica, most);
    }
    return worst;
  }

 private:
  std::int64_t owned(const layout::Place& place) const {
    return owned_[static_cast<std::size_t>(place.stage)]
                 [static_cast<std::size_t>(place.replica * plan_.tensor_degree + place.slice)];
  }

  bool alike(std::int32_t a, std::int32_t b) const {
    if (shares_.empty()) return a == b;
    return shares_[static_cast<std::size_t>(a)] == shares_[static_cast<std::size_t>(b)];
  }

  /// All replicas like `first`.
  void consider(std::int32_t stage, std::int32_t first, StageMemory& most) const {
    const pipeline::Program program = pipeline::lower(plan_, stage, first);
    for (std::int32_t slice = 0; slice < plan_.tensor_degree; ++slice) {
      layout::Place place{.stage = stage, .replica = first, .slice = slice};
      for (std::int32_t replica = 0; replica < plan_.replicas(stage); ++replica) {
        const layout::Place other{.stage = stage, .replica = replica, .slice = slice};
        if (alike(replica, first) && owned(other) > owned(place)) place = other;
      }
      const spec::MemoryTable table = table_of(model_, plan_, place, program, owned(place));
      if (most.place.stage < 0 || table.total() > most.table.total()) most = {place, table};
    }
  }

  const spec::MemoryModel& model_;
  const Plan& plan_;
  std::vector<std::vector<std::int64_t>> owned_;  // as spec::owned_elems()
  std::vector<std::int32_t> shares_;              // of columns; empty: there are none
};

}  // namespace

StepPrediction predict_step(const Plan& plan, const pipeline::Costs& costs,
                            const std::vector<StageTraffic>& traffic, double bytes_per_second) {
  Totals totals;
  if (in_columns(plan)) {
    for (const ColumnKind& kind : column_kinds(plan))
      if (kind.share > 0)
        totals.add(pipeline::predict(column_of(plan, kind.first), costs),
                   static_cast<double>(kind.count));
  } else {
    totals.add(pipeline::predict(plan, costs), 1);
  }
  StepPrediction step;
  step.makespan = totals.makespan;
  const double available =
      static_cast<double>(plan.schedule.size()) * static_cast<double>(totals.makespan);
  step.bubble = available > 0 ? 1 - totals.busy / available : 0;
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage) {
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
  return step;
}

std::vector<StageMemory> predict_memory(const spec::MemoryModel& model, const Plan& plan) {
  return WorstRanks(model, plan).find();
}

spec::MemoryTable memory_of_rank(const spec::MemoryModel& model, const Plan& plan,
                                 const layout::Place& place, std::int64_t owned) {
  return table_of(model, plan, place, pipeline::lower(plan, place.stage, place.replica), owned);
}

}  // namespace elaswave::plan
