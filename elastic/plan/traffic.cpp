#include "elastic/plan/traffic.h"

#include <algorithm>

namespace elaswave::plan {
namespace {

/// Ranks that add to a part's sums and read its weights (zero/exchange.h, Unit).
double members_of(const layout::PartExtent& part, const layout::Plan& plan) {
  const std::int32_t home = plan.stage_of_layer(part.layer);
  std::int64_t members = plan.replicas(home);
  if (part.tied_layer >= 0) {
    const std::int32_t tied = plan.stage_of_layer(part.tied_layer);
    if (tied != home) members += plan.replicas(tied);
  }
  return static_cast<double>(part.slice < 0 ? members * plan.tensor_degree : members);
}

CostShape shape_of(const spec::MemoryModel& model, const layout::Plan& plan) {
  return {.config = model.config,
          .micro_batch = model.micro_batch,
          .tensor = plan.tensor_degree,
          .storage = model.storage};
}

}  // namespace

SliceTraffic slice_traffic(const CostShape& shape, std::int64_t layer) {
  if (shape.tensor == 1) return {};
  const double tokens =
      static_cast<double>(shape.micro_batch) * static_cast<double>(shape.config.context);
  const auto slices = static_cast<double>(shape.tensor);
  const double one = (slices - 1) * tokens * static_cast<double>(shape.config.hidden) *
                     static_cast<double>(size_bytes(shape.storage));
  if (layer == 0) return {.forward = one, .weight_gradient = one};
  // Greatest logit, sum of exponentials and the target's logit, f32, to every other slice.
  if (layer == shape.config.layers + 1)
    return {.forward = 2 * one + slices * (slices - 1) * 12 * tokens};
  return {.forward = 4 * one,
          .input_gradient = 4 * one,
          .weight_gradient = 2 * one,
          .recompute = 4 * one};
}

double boundary_bytes(const CostShape& shape) {
  const spec::StashShape stash(shape.config, shape.micro_batch, shape.tensor);
  return spec::block_input(stash).size_bytes(shape.storage);
}

std::vector<StageTraffic> stage_traffic(const spec::MemoryModel& model, const layout::Plan& plan) {
  std::vector<StageTraffic> traffic(plan.stages.size());
  const double sum_bytes = model.sums == spec::SumWidth::exact ? 8 : 4;
  for (std::int32_t index = 0; index < model.blocks.parts(); ++index) {
    const layout::PartExtent& part = model.blocks.part(index);
    const double copies = (members_of(part, plan) - 1) * static_cast<double>(part.elems);
    const DType storage = model.inventory.tensor(model.inventory.part(index).tensor).storage;
    StageTraffic& home = traffic[static_cast<std::size_t>(plan.stage_of_layer(part.layer))];
    home.reduce += sum_bytes * copies;
    home.gather += static_cast<double>(size_bytes(storage)) * copies;
  }
  for (std::size_t stage = 0; stage < traffic.size(); ++stage) {
    const double ranks = static_cast<double>(plan.stages[stage].replicas.size()) *
                         static_cast<double>(plan.tensor_degree);
    traffic[stage].reduce /= ranks;
    traffic[stage].gather /= ranks;
  }
  return traffic;
}

StepTraffic step_traffic(const spec::MemoryModel& model, const layout::Plan& plan) {
  StepTraffic step;
  const CostShape shape = shape_of(model, plan);
  const auto micro_batches = static_cast<double>(plan.micro_batches);
  const double stream = static_cast<double>(model.micro_batch * model.config.context) *
                        static_cast<double>(model.config.hidden) *
                        static_cast<double>(size_bytes(model.storage));
  for (std::size_t chunk = 1; chunk < plan.stage_of_chunk.size(); ++chunk)
    if (plan.stage_of_chunk[chunk] != plan.stage_of_chunk[chunk - 1])
      step.pipeline += 2 * stream * micro_batches;
  for (std::int32_t layer = 0; layer < plan.layers(); ++layer) {
    const SliceTraffic slices = slice_traffic(shape, layer);
    const double again = model.recompute == spec::Recompute::full ? slices.recompute : 0;
    step.tensor +=
        micro_batches * (slices.forward + slices.input_gradient + slices.weight_gradient + again);
  }
  const std::vector<StageTraffic> stages = stage_traffic(model, plan);
  for (std::size_t stage = 0; stage < stages.size(); ++stage) {
    const double ranks = static_cast<double>(plan.stages[stage].replicas.size()) *
                         static_cast<double>(plan.tensor_degree);
    step.reduce += stages[stage].reduce * ranks;
    step.gather += stages[stage].gather * ranks;
    step.reduce_of_rank = std::max(step.reduce_of_rank, stages[stage].reduce);
    step.gather_of_rank = std::max(step.gather_of_rank, stages[stage].gather);
  }
  return step;
}

}  // namespace elaswave::plan
