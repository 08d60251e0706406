#include "elastic/plan/evaluate.h"

#include <fmt/format.h>

#include <algorithm>

namespace elaswave::plan {

Result<void> check_times(const LayerCosts& costs, std::int64_t micro_batches,
                         const std::vector<StageTraffic>& traffic, double bytes_per_second) {
  double one = 0, exchanged = 0;
  for (const pipeline::ChunkCost& layer : costs.layers)
    for (const std::int64_t time :
         {layer.forward, layer.input_gradient, layer.weight_gradient, layer.recompute})
      one += static_cast<double>(time);
  one += 2 * static_cast<double>(costs.layers.size()) * static_cast<double>(costs.message);
  for (const StageTraffic& stage : traffic)
    exchanged = std::max(exchanged, stage.reduce + stage.gather);
  double all = one * static_cast<double>(micro_batches);
  if (bytes_per_second > 0) all += exchanged / bytes_per_second * 1e9;
  if (all <= kMostStep) return {};
  return fail({.code = Code::usage,
               .what = "a step would take longer than can be counted",
               .where = "cost profile or rate",
               .why = fmt::format("its work is {:.1e} ns; the limit is {:.1e}", all, kMostStep),
               .fix = "give the true speed of a rank"});
}

const StageMemory& Evaluation::worst() const {
  return worst_of(memory, side);
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
                                                    .storage = model.storage,
                                                    .recompute = request.recompute});
  const std::vector<StageTraffic> traffic = stage_traffic(model, plan);
  EW_TRY(check_times(costs, request.micro_batches, traffic, profile.bytes_per_second));
  evaluation.costs = chunk_costs(costs, plan.chunk_of_layer, plan.chunks());
  evaluation.step = predict_step(plan, evaluation.costs, traffic, profile.bytes_per_second);
  evaluation.traffic = step_traffic(model, plan);
  if (model.device == spec::DeviceMemory::own) evaluation.side = spec::Side::device;
  evaluation.memory = predict_memory(model, plan, {}, evaluation.side);
  return evaluation;
}

}  // namespace elaswave::plan
