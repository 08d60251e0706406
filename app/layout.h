// The plan of a run as its keys ask for it, and the memory it will take. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "app/run_spec.h"
#include "elastic/plan/healthy.h"
#include "elastic/plan/prediction.h"

namespace elaswave::app {

/// What the makers of plans are told. Costs are counted operations: every rank must come to the
/// same plan, and no two measure alike.
plan::HealthyRequest plan_request(const RunSpec& spec, std::int32_t world_size,
                                  Generation generation);

/// Micro-batches of each replica, by stage: "stage 0: 10 6 10 6; stage 1: 8 8 8 8".
std::string shares_text(const layout::Plan& plan);

/// Code::usage when the layout is not legal for so many ranks.
Result<plan::HealthyPlan> healthy_plan(const RunSpec& spec, std::int32_t world_size,
                                       Generation generation);

spec::SumWidth sum_width(const RunSpec& spec);
spec::CheckpointImage checkpoint_image(const RunSpec& spec);

/// What memory depends on besides the plan. The references must outlive it.
spec::MemoryModel memory_model(const RunSpec& spec, const spec::Inventory& inventory,
                               const layout::BlockTable& blocks, spec::Recompute recompute);

/// Of the rank that needs most (of the device's memory, where that has its own), and of one rank.
spec::MemoryTable worst_memory(const RunSpec& spec, const layout::Plan& plan);
spec::MemoryTable memory_at(const RunSpec& spec, const layout::Plan& plan, std::int32_t world_rank);

/// By what ranks are compared where one kind of memory has to stand for both.
inline spec::Side tightest_side(const RunSpec& spec) {
  return spec.device_memory == spec::DeviceMemory::own ? spec::Side::device : spec::Side::all;
}

/// The rank of a complete plan that is asked for more memory than it may use while the plan's
/// members live. `unused_bytes`, of the host and by world rank, is in the way; empty: nothing is.
std::optional<plan::Shortage> find_shortage(const RunSpec& spec, const spec::Inventory& inventory,
                                            const layout::BlockTable& blocks,
                                            const layout::Plan& plan,
                                            std::span<const std::int64_t> unused_bytes = {});

/// Idle share of all replicas over a step, by counted operations; also of one stage whose replicas
/// have unequal shares.
double predicted_bubble(const RunSpec& spec, const layout::Plan& plan);

/// "4 ranks: 2 stages with 2 replicas each; chunks of layers 0-1, 2-3; schedule 1f1b, bubble 25 %
/// predicted".
std::string layout_text(const RunSpec& spec, const plan::HealthyPlan& made);

}  // namespace elaswave::app
