#include "app/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/spec/inventory.h"

namespace elaswave::app {
namespace {

spec::Inventory inventory_of(const RunSpec& spec, std::int32_t tensor_degree) {
  return {spec.model, spec.storage, tensor_degree};
}

std::string replicas_text(const layout::Plan& plan) {
  std::int32_t fewest = plan.replicas(0), most = fewest;
  for (std::int32_t stage = 0; stage < std::ssize(plan.stages); ++stage) {
    fewest = std::min(fewest, plan.replicas(stage));
    most = std::max(most, plan.replicas(stage));
  }
  if (fewest == most) return fmt::format("{} replica{}", most, most == 1 ? "" : "s");
  return fmt::format("{} to {} replicas", fewest, most);
}

}  // namespace

plan::HealthyRequest plan_request(const RunSpec& spec, std::int32_t world_size,
                                  Generation generation) {
  return {.world_size = world_size,
          .tensor = spec.layout.tensor,
          .pipeline = spec.layout.pipeline,
          .chunks = spec.layout.chunks,
          .schedule = spec.layout.schedule,
          .recompute = spec.recompute,
          .micro_batches = spec.micro_batches,
          .costs = plan::counted_costs(spec.model),
          .domains = spec.elastic.domains,
          .copies = spec.elastic.copies,
          .generation = generation};
}

Result<plan::HealthyPlan> healthy_plan(const RunSpec& spec, std::int32_t world_size,
                                       Generation generation) {
  return plan::make_healthy_plan(inventory_of(spec, spec.layout.tensor).blocks(),
                                 plan_request(spec, world_size, generation));
}

spec::SumWidth sum_width(const RunSpec& spec) {
  return spec.sum_mode == zero::SumMode::exact ? spec::SumWidth::exact : spec::SumWidth::fast;
}

spec::CheckpointImage checkpoint_image(const RunSpec& spec) {
  return spec.checkpoint.directory.empty() ? spec::CheckpointImage::none
                                           : spec::CheckpointImage::kept;
}

spec::MemoryModel memory_model(const RunSpec& spec, const spec::Inventory& inventory,
                               const layout::BlockTable& blocks, spec::Recompute recompute) {
  return {.config = spec.model,
          .inventory = inventory,
          .blocks = blocks,
          .micro_batch = spec.micro_batch,
          .storage = spec.storage,
          .operands = spec.operands,
          .sums = sum_width(spec),
          .recompute = recompute,
          .checkpoints = checkpoint_image(spec),
          .loss_chunk_tokens = spec.loss_chunk_tokens,
          .device = spec.device_memory};
}

spec::MemoryTable worst_memory(const RunSpec& spec, const layout::Plan& plan) {
  const spec::Inventory inventory = inventory_of(spec, plan.tensor_degree);
  const layout::BlockTable blocks = inventory.blocks();
  const spec::Side side = tightest_side(spec);
  return plan::worst_of(plan::predict_memory(memory_model(spec, inventory, blocks, spec.recompute),
                                             plan, {}, side),
                        side)
      .table;
}

spec::MemoryTable memory_at(const RunSpec& spec, const layout::Plan& plan,
                            std::int32_t world_rank) {
  const spec::Inventory inventory = inventory_of(spec, plan.tensor_degree);
  const layout::BlockTable blocks = inventory.blocks();
  const layout::Place place = layout::place_of(plan, world_rank);
  spec::OwnedElems owned;
  const std::int64_t member = std::int64_t{place.replica} * plan.tensor_degree + place.slice;
  if (place.stage < 0)
    owned.copies = spec::copy_elems(plan, blocks)[static_cast<std::size_t>(world_rank)];
  else
    owned = spec::owned_elems(
        plan, blocks)[static_cast<std::size_t>(place.stage)][static_cast<std::size_t>(member)];
  return plan::memory_of_rank(memory_model(spec, inventory, blocks, spec.recompute), plan, place,
                              owned);
}

std::optional<plan::Shortage> find_shortage(const RunSpec& spec, const spec::Inventory& inventory,
                                            const layout::BlockTable& blocks,
                                            const layout::Plan& plan,
                                            std::span<const std::int64_t> unused_bytes) {
  if (spec.elastic.limits.empty()) return std::nullopt;
  const std::vector<std::int32_t> members = layout::members(plan);
  plan::Budgets budgets = plan::budgets(spec.elastic.limits, members);
  for (std::size_t rank = 0; rank < std::min(budgets.size(), unused_bytes.size()); ++rank)
    budgets[rank] -= static_cast<double>(unused_bytes[rank]);
  return plan::find_shortage(memory_model(spec, inventory, blocks, spec.recompute), plan, budgets,
                             plan::gpu_budgets(spec.elastic.limits, members));
}

std::string shares_text(const layout::Plan& plan) {
  std::string text;
  for (std::int32_t stage = 0; stage < std::ssize(plan.stages); ++stage) {
    text += fmt::format("{}stage {}:", stage == 0 ? "" : "; ", stage);
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
      text += fmt::format(
          " {}", layout::micro_batches_of(plan, {.stage = stage, .replica = replica}).size());
  }
  return text;
}

double predicted_bubble(const RunSpec& spec, const layout::Plan& plan) {
  const pipeline::Costs costs =
      plan::chunk_costs(plan::counted_costs(spec.model), plan.chunk_of_layer, plan.chunks());
  const std::vector<plan::StageTraffic> nothing(plan.stages.size());
  return plan::predict_step(plan, costs, nothing, 0).bubble;
}

std::string layout_text(const RunSpec& spec, const plan::HealthyPlan& made) {
  const layout::Plan& plan = made.plan;
  const auto stages = std::ssize(plan.stages);
  std::size_t ranks = 0;
  for (const layout::Stage& stage : plan.stages)
    for (const layout::Replica& replica : stage.replicas) ranks += replica.world_ranks.size();
  std::string text =
      fmt::format("{} rank{}: {}", ranks, ranks == 1 ? "" : "s",
                  stages == 1 ? replicas_text(plan)
                              : fmt::format("{} stages, {} each", stages, replicas_text(plan)));
  if (plan.tensor_degree > 1) text += fmt::format(" of {} slices", plan.tensor_degree);
  if (plan.chunks() > stages) text += fmt::format(", {} chunks", plan.chunks());
  const double bubble = 100 * predicted_bubble(spec, plan);
  if (plan.chunks() > 1)
    return text + fmt::format("; schedule {}, bubble {:.0f} % predicted", made.schedule, bubble);
  text += ", data parallel";
  return bubble < 0.5 ? text : text + fmt::format(", bubble {:.0f} % predicted", bubble);
}

}  // namespace elaswave::app
