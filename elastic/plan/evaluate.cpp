#include "elastic/plan/evaluate.h"

#include <fmt/format.h>

#include <algorithm>

namespace elaswave::plan {
namespace {

/// Times are added up in 64 bits: no sum may exceed doing everything one after another.
Result<void> check_times(const LayerCosts& costs, std::int64_t micro_batches) {
  double one = 0;
  for (const pipeline::ChunkCost& layer : costs.layers)
    for (const std::int64_t time :
         {layer.forward, layer.input_gradient, layer.weight_gradient, layer.recompute})
      one += static_cast<double>(time);
  one += 2 * static_cast<double>(costs.layers.size()) * static_cast<double>(costs.message);
  constexpr double kMost = 4e18;
  const double all = one * static_cast<double>(micro_batches);
  if (all <= kMost) return {};
  return fail({.code = Code::usage,
               .what = "a step would take longer than can be counted",
               .where = "cost profile or rate",
               .why = fmt::format("its work is {:.1e} ns; the limit is {:.1e}", all, kMost),
               .fix = "give the true speed of a rank"});
}

}  // namespace

const StageMemory& Evaluation::worst() const {
  return *std::max_element(
      memory.begin(), memory.end(),
      [](const StageMemory& a, const StageMemory& b) { return a.table.total() < b.table.total(); });
}

Result<Evaluation> evaluate(const spec::MemoryModel& model, HealthyRequest request,
                            const CostProfile& profile) {
  request.costs = counted_costs(model.config);
  Evaluation evaluation;
  EW_ASSIGN(evaluation.made, make_healthy_plan(model.blocks, request));
  const layout::Plan& plan = evaluation.made.plan;
  const LayerCosts costs = profiled_costs(profile, {.config = model.config,
                                                    .micro_batch = model.micro_batch,
                                                    .tensor = request.tensor,
                                                    .storage = model.storage});
  EW_TRY(check_times(costs, request.micro_batches));
  evaluation.costs = chunk_costs(costs, plan.chunk_of_layer, plan.chunks());
  evaluation.step =
      predict_step(plan, evaluation.costs, stage_traffic(model, plan), profile.bytes_per_second);
  evaluation.traffic = step_traffic(model, plan);
  evaluation.memory = predict_memory(model, plan);
  return evaluation;
}

}  // namespace elaswave::plan
