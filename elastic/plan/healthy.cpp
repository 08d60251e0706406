#include "elastic/plan/healthy.h"

namespace elaswave::plan {

Result<layout::Plan> healthy_plan(const layout::BlockTable& blocks, std::int32_t world_size,
                                  std::int64_t micro_batches, Generation generation) {
  layout::Plan plan;
  plan.generation = generation;
  plan.chunk_of_layer.assign(static_cast<std::size_t>(blocks.layers()), 0);
  plan.stage_of_chunk = {0};
  plan.stages.resize(1);
  for (std::int32_t rank = 0; rank < world_size; ++rank)
    plan.stages[0].replicas.push_back({{rank}});

  plan.micro_batches = micro_batches;
  for (std::int64_t micro_batch = 0; micro_batch < micro_batches; ++micro_batch)
    plan.route.push_back(static_cast<std::int32_t>(micro_batch % world_size));

  plan.schedule.resize(static_cast<std::size_t>(world_size));
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const std::int32_t layer = blocks.block(index).layer;
    const std::int64_t position = index - blocks.layer_begin(layer) + layer;
    plan.owner.push_back(static_cast<std::int32_t>(position % world_size));
  }
  if (std::string fault = layout::find_fault(plan, blocks, world_size); !fault.empty())
    return fail(
        {.code = Code::bug, .what = "the healthy plan is not sound", .why = std::move(fault)});
  return plan;
}

}  // namespace elaswave::plan
