// What a plan will take: time of a step and memory of every stage. Pure.
#pragma once

#include <span>
#include <vector>

#include "elastic/plan/costs.h"
#include "elastic/plan/traffic.h"
#include "model/spec/memory.h"
#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// Times in the unit of the costs (profiles: ns).
struct StepPrediction {
  std::int64_t makespan = 0;  // first action to last
  double bubble = 0;          // idle share of all replicas until then
  /// Of the slowest stage: reduction beyond what the last backward of one micro-batch hides, gather
  /// beyond what the first forward hides. Assumed: layers are reduced while earlier ones are still
  /// in their last backward, and gathered while the first forward runs.
  std::int64_t exposed_reduce = 0, exposed_gather = 0;

  std::int64_t step() const { return makespan + exposed_reduce + exposed_gather; }
};

/// Replicas that do the same, side by side: those of every stage from `first` on.
struct ColumnKind {
  std::int32_t first = 0, count = 0;
  layout::Plan column;  // one of them, as column_of()
};
/// One for each number of micro-batches that occurs. REQUIRES: in_columns(plan), and columns with
/// as many stand together, as in a plan of healthy_plan().
std::vector<ColumnKind> column_kinds(const layout::Plan& plan);

/// REQUIRES: a plan of healthy_plan(): equal pipelines with as many micro-batches are alike, and
/// are predicted once.
StepPrediction predict_step(const layout::Plan& plan, const pipeline::Costs& costs,
                            const std::vector<StageTraffic>& traffic, double bytes_per_second);
/// The same of columns alone. Of `plan` stages and chunks are read.
StepPrediction predict_columns(const layout::Plan& plan, const std::vector<ColumnKind>& kinds,
                               const pipeline::Costs& costs,
                               const std::vector<StageTraffic>& traffic, double bytes_per_second);

/// What lowering gives for replicas of a stage that do the same.
struct LoweredKind {
  std::int32_t stage = 0, first = 0, count = 0;
  std::vector<spec::ChunkSlots> chunks;
  std::int32_t boundaries = 0, messages = 0, forwards = 0;  // as in spec::RankSlots

  spec::RankSlots slots() const { return {chunks, boundaries, messages, forwards}; }
};
std::vector<LoweredKind> lower_columns(const std::vector<ColumnKind>& kinds);
/// REQUIRES: as predict_step().
std::vector<LoweredKind> lower_kinds(const layout::Plan& plan);

/// The rank of a stage that needs most, or that is furthest beyond what it may use.
struct StageMemory {
  layout::Place place;
  spec::MemoryTable table;
};
/// By stage. Of `plan` stages and chunks are read. `budgets`: bytes by world rank; empty: all have
/// the same. `side`: by which ranks are compared.
std::vector<StageMemory> worst_ranks(const spec::MemoryModel& model, const layout::Plan& plan,
                                     const std::vector<LoweredKind>& kinds,
                                     const spec::OwnedByStage& owned,
                                     std::span<const double> budgets = {},
                                     spec::Side side = spec::Side::all);
/// REQUIRES: as predict_step(), or any plan whose columns of as many micro-batches have the same
/// rows.
std::vector<StageMemory> predict_memory(const spec::MemoryModel& model, const layout::Plan& plan,
                                        std::span<const double> budgets = {},
                                        spec::Side side = spec::Side::all);

/// The stage whose worst rank needs most. REQUIRES: there is one.
const StageMemory& worst_of(const std::vector<StageMemory>& stages,
                            spec::Side side = spec::Side::all);

/// Memory of one rank: its row is lowered for its slots. A spare has no place (stage -1).
spec::MemoryTable memory_of_rank(const spec::MemoryModel& model, const layout::Plan& plan,
                                 const layout::Place& place, const spec::OwnedElems& owned);

}  // namespace elaswave::plan
