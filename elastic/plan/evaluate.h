// A healthy plan with all that can be told of it before it runs. Pure.
#pragma once

#include <vector>

#include "elastic/plan/healthy.h"
#include "elastic/plan/prediction.h"

namespace elaswave::plan {

struct Evaluation {
  HealthyPlan made;
  pipeline::Costs costs;  // of its chunks, ns
  StepPrediction step;
  StepTraffic traffic;
  std::vector<StageMemory> memory;    // by stage
  spec::Side side = spec::Side::all;  // by which they were compared

  /// The stage whose worst rank needs most.
  const StageMemory& worst() const;
};

/// Code::usage when a step could take longer than kMostStep: all of its work one after another, and
/// what the busiest rank reduces and gathers.
Result<void> check_times(const LayerCosts& costs, std::int64_t micro_batches,
                         const std::vector<StageTraffic>& traffic, double bytes_per_second);

/// The plan is made from counted costs, whatever `profile` says: training makes it so, too. The
/// profile predicts how long it takes. `request.costs` is ignored. REQUIRES: request and model
/// agree (tensor degree, recompute).
Result<Evaluation> evaluate(const spec::MemoryModel& model, HealthyRequest request,
                            const CostProfile& profile);

}  // namespace elaswave::plan
