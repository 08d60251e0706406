// Random models and plans for the tests of parallel/zero, and who adds to what by definition.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>

#include "parallel/layout/plan.h"
#include "tests/support/plans.h"

namespace elaswave::zero {

using test::Dice;

struct Case {
  std::uint64_t seed = 0;
  std::int32_t tensor_degree = 1;
  layout::BlockTable blocks;
  layout::Plan plan;
  std::int32_t ranks = 0;
};

inline Case make_case(std::uint64_t seed) {
  Dice dice(seed);
  constexpr std::int32_t kDegrees[] = {1, 1, 2, 4};
  Case made{.seed = seed, .tensor_degree = kDegrees[dice.below(4)], .blocks = {}, .plan = {}};
  made.blocks = test::random_table(dice, made.tensor_degree);
  const std::int32_t replicas = made.tensor_degree == 4 ? 2 : 4;
  made.plan = test::random_plan(dice, made.blocks, made.tensor_degree, {.replicas = replicas});
  made.ranks = test::world_size(made.plan) + (dice.one_in(4) ? 1 : 0);
  EXPECT_EQ(layout::find_fault(made.plan, made.blocks, made.ranks), "") << "seed " << seed;
  return made;
}

/// True when `place` adds to a part with its layer's own gradients, or with the tied layer's.
inline bool adds(const Case& made, const layout::PartExtent& part, const layout::Place& place,
                 bool tied) {
  if (part.slice >= 0 && part.slice != place.slice) return false;
  const std::int32_t layer = tied ? part.tied_layer : part.layer;
  return layer >= 0 && place.stage == made.plan.stage_of_layer(layer);
}

}  // namespace elaswave::zero
