// Small plans with schedules, without model, blocks or generators.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::test {

struct PlanShape {
  std::vector<std::int32_t> stage_of_chunk = {0};
  std::vector<std::int32_t> replicas = {1};  // of each stage
  std::int64_t micro_batches = 1;
};

/// One layer a chunk, one rank a replica; micro-batch m goes to replica m mod replicas of a stage.
/// Without a schedule.
layout::Plan make_plan(const PlanShape& shape);

/// Sets the rows from what layout::to_text() writes, one a replica.
layout::Plan with_rows(layout::Plan plan, const std::vector<std::string>& rows);

/// All forwards chunk by chunk, then all backwards in reverse. For one chunk a stage: GPipe.
layout::Plan with_gpipe(layout::Plan plan);

/// One forward, one backward; earlier stages run ahead by one micro-batch for each stage below
/// them. REQUIRES: one chunk and one replica a stage, chunks in the order of stages.
layout::Plan with_one_f_one_b(layout::Plan plan);

/// Rows from a run in which at every tick each row does one thing that is ready, chosen by the
/// seed: backward mostly first, split or not, with recompute now and then.
layout::Plan with_random_rows(layout::Plan plan, std::uint64_t seed);

/// Any placement, any numbers of replicas, any routes, rows as above; some of the shapes are
/// regular.
layout::Plan random_plan(std::uint64_t seed);

}  // namespace elaswave::test
