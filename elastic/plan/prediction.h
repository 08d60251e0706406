// What a plan will take: time of a step and memory of every stage. Pure.
#pragma once

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

/// REQUIRES: a plan of healthy_plan(): equal pipelines with as many micro-batches are alike, and
/// are predicted once.
StepPrediction predict_step(const layout::Plan& plan, const pipeline::Costs& costs,
                            const std::vector<StageTraffic>& traffic, double bytes_per_second);

/// The rank of a stage that needs most.
struct StageMemory {
  layout::Place place;
  spec::MemoryTable table;
};
/// By stage. REQUIRES: as predict_step().
std::vector<StageMemory> predict_memory(const spec::MemoryModel& model, const layout::Plan& plan);

/// Memory of one rank: its row is lowered for its slots.
spec::MemoryTable memory_of_rank(const spec::MemoryModel& model, const layout::Plan& plan,
                                 const layout::Place& place, std::int64_t owned);

}  // namespace elaswave::plan
