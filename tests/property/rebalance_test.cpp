// Shares that follow speed: held to bounds and to simulated steps that know nothing of the planner.
#include "elastic/plan/rebalance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "tests/support/plans.h"

namespace elaswave {
namespace {

using layout::Plan;
using test::Dice;

constexpr std::int64_t kUnit = 1'200'000;  // ns a micro-batch on one stage, at the usual speed

layout::BlockTable blocks_of(std::int32_t layers) {
  std::vector<layout::PartExtent> parts;
  for (std::int32_t layer = 0; layer < layers; ++layer) parts.push_back({layer, 100});
  return layout::BlockTable(parts);
}

struct World {
  plan::HealthyRequest wish;
  layout::BlockTable blocks;
  Plan plan;
  std::vector<std::int64_t> cost_ns;  // by rank
};

World world_of(std::int32_t ranks, std::int32_t stages, std::int64_t micro_batches) {
  World world{.wish = {.world_size = ranks, .pipeline = stages, .micro_batches = micro_batches},
              .blocks = blocks_of(2 * stages)};
  world.plan = plan::healthy_plan(world.blocks, world.wish).value();
  world.cost_ns.assign(static_cast<std::size_t>(ranks), kUnit);
  return world;
}

Plan rebalanced(const World& world) {
  auto made = plan::rebalance(world.blocks, world.plan, world.cost_ns, world.wish);
  EXPECT_TRUE(made.has_value());
  return made && *made ? **made : world.plan;
}

/// A step of the plan with every rank at its own speed: rows run in order, an action begins when
/// what it needs is there. Swept until nothing changes, which needs no order of visits.
std::int64_t step_time(const World& world, const Plan& plan) {
  const auto cells = static_cast<std::size_t>(plan.micro_batches * plan.chunks());
  std::vector<std::int64_t> outputs(cells, -1), gradients(cells, -1);
  std::int64_t makespan = 0;
  for (bool changed = true; changed;) {
    changed = false;
    std::size_t row = 0;
    for (std::int32_t stage = 0; stage < std::ssize(plan.stages); ++stage)
      for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica, ++row) {
        std::int64_t rank_ns = 0;
        for (const std::int32_t rank : plan.replica(stage, replica).world_ranks)
          rank_ns = std::max(rank_ns, world.cost_ns[static_cast<std::size_t>(rank)]);
        std::int64_t now = 0;
        for (const layout::Action& action : plan.schedule[row]) {
          const auto cell =
              static_cast<std::size_t>(action.micro_batch * plan.chunks() + action.chunk);
          using enum layout::Op;
          const bool forwards = action.op == forward;
          std::int64_t ready = 0;
          if (forwards && action.chunk > 0) ready = outputs[cell - 1];
          if ((action.op == backward || action.op == input_gradient) &&
              action.chunk + 1 < plan.chunks())
            ready = gradients[cell + 1];
          if (ready < 0) break;
          now = std::max(now, ready) + rank_ns * (action.op == backward ? 2 : 1) / 3;
          if (action.op == weight_gradient) continue;
          std::int64_t& end = forwards ? outputs[cell] : gradients[cell];
          changed = changed || end != now;
          end = now;
        }
        makespan = std::max(makespan, now);
      }
  }
  return makespan;
}

/// The same costs in the planner's words.
pipeline::Costs priced(const World& world, const Plan& plan) {
  pipeline::Costs costs;
  for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk)
    costs.chunks.push_back({kUnit / 3, kUnit / 3, kUnit / 3, 0});
  for (const layout::Stage& stage : plan.stages)
    for (const layout::Replica& replica : stage.replicas)
      costs.pace.push_back(world.cost_ns[static_cast<std::size_t>(replica.world_ranks[0])] * 16 /
                           kUnit);
  return costs;
}

/// No dealing of whole micro-batches over one stage's replicas can be faster than this.
std::int64_t least_time(const std::vector<std::int64_t>& costs, std::int64_t micro_batches) {
  std::int64_t time = *std::min_element(costs.begin(), costs.end());
  const auto done_by = [&](std::int64_t limit) {
    std::int64_t done = 0;
    for (const std::int64_t cost : costs) done += limit / cost;
    return done >= micro_batches;
  };
  while (!done_by(time)) time += kUnit / 16;
  return time;
}

TEST(FairShares, NoOtherDealingIsFaster) {
  Dice dice(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<std::int64_t> costs;
    for (std::int64_t i = dice.between(1, 3); i > 0; --i) costs.push_back(dice.between(1, 40));
    const std::int64_t count = dice.between(1, 12);
    const auto shares = plan::fair_shares(costs, count);
    std::int64_t dealt = 0, longest = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      dealt += shares[i];
      longest = std::max(longest, shares[i] * costs[i]);
    }
    ASSERT_EQ(dealt, count);
    std::int64_t best = count * costs[0];
    for (std::int64_t a = 0; a <= count; ++a)
      for (std::int64_t b = 0; a + b <= count; ++b) {
        const std::int64_t c = count - a - b;
        if ((costs.size() < 2 && b > 0) || (costs.size() < 3 && c > 0)) continue;
        best = std::min(best, std::max({a * costs[0], costs.size() > 1 ? b * costs[1] : 0,
                                        costs.size() > 2 ? c * costs[2] : 0}));
      }
    ASSERT_EQ(longest, best) << "round " << round;
  }
}

/// The promise: with one slow rank a step takes at most 1.1 times what its stage needs at best plus
/// the pipeline's fill.
TEST(Rebalance, OneSlowRankCostsNoMoreThanItMust) {
  std::int64_t worlds = 0;
  for (const auto& [replicas, stages] :
       {std::pair{4, 1}, std::pair{4, 2}, std::pair{2, 4}, std::pair{8, 2}, std::pair{3, 3}})
    for (std::int32_t victim = 0; victim < replicas * stages; ++victim)
      for (const std::int64_t percent : {150, 200, 300, 1000}) {
        World world = world_of(replicas * stages, stages, 8 * replicas);
        const std::int64_t healthy = step_time(world, world.plan);
        world.cost_ns[static_cast<std::size_t>(victim)] = kUnit * percent / 100;
        std::vector<std::int64_t> stage(static_cast<std::size_t>(replicas), kUnit);
        stage[0] = kUnit * percent / 100;
        const std::int64_t bound =
            least_time(stage, world.wish.micro_batches) + (stages - 1) * kUnit;
        const std::int64_t before = step_time(world, world.plan);
        const std::int64_t after = step_time(world, rebalanced(world));
        const std::string what = std::to_string(replicas) + " x " + std::to_string(stages) +
                                 ", rank " + std::to_string(victim) + " at " +
                                 std::to_string(percent) + " %: healthy " +
                                 std::to_string(healthy) + ", fixed " + std::to_string(before);
        EXPECT_LE(after * 10, bound * 11) << what;
        EXPECT_LE(after, before) << what;
        ++worlds;
      }
  std::printf("campaign: one slow rank: %ld worlds\n", static_cast<long>(worlds));
}

/// A slow rank at another stage of every pipeline: whole pipelines have nothing to give each other,
/// stages have.
TEST(Rebalance, SlowRanksOnDifferentPipelines) {
  World world = world_of(4, 2, 24);
  world.cost_ns = {2 * kUnit, kUnit, kUnit, 2 * kUnit};
  const std::int64_t before = step_time(world, world.plan);
  const std::int64_t after = step_time(world, rebalanced(world));
  EXPECT_LE(after * 10, 11 * (least_time({2 * kUnit, kUnit}, 24) + 2 * kUnit));
  EXPECT_LT(after * 10, before * 8);
}

/// Whether all stages give as many micro-batches to their fullest, next, ... replica.
bool replicas_match(const Plan& plan) {
  std::vector<std::vector<std::int64_t>> shares;
  for (std::int32_t stage = 0; stage < std::ssize(plan.stages); ++stage) {
    std::vector<std::int64_t>& mine =
        shares.emplace_back(static_cast<std::size_t>(plan.replicas(stage)), 0);
    for (std::int64_t i = 0; i < plan.micro_batches; ++i)
      ++mine[static_cast<std::size_t>(plan.replica_for(i, stage))];
    std::sort(mine.begin(), mine.end());
    if (mine != shares.front()) return false;
  }
  return true;
}

/// Random speeds, stages with different numbers of replicas among them: sound plans (the planner
/// checks its own with an error), never slower than before.
TEST(Rebalance, RandomSpeeds) {
  Dice dice(2);
  std::int64_t changed = 0, stages_apart = 0;
  for (int round = 0; round < 300; ++round) {
    const auto stages = static_cast<std::int32_t>(dice.between(1, 4));
    World world =
        world_of(static_cast<std::int32_t>(stages + dice.below(9)), stages, dice.between(1, 40));
    for (std::int64_t& cost : world.cost_ns) cost = kUnit * dice.between(16, 64) / 16;
    auto made = plan::rebalance(world.blocks, world.plan, world.cost_ns, world.wish);
    ASSERT_TRUE(made.has_value()) << "round " << round << ": " << made.error().text();
    if (!*made) continue;
    ++changed;
    ASSERT_EQ(pipeline::predict(**made, priced(world, **made)).makespan, step_time(world, **made));
    EXPECT_LT(step_time(world, **made), step_time(world, world.plan)) << "round " << round;
    stages_apart += replicas_match(world.plan) && !replicas_match(**made);
    EXPECT_EQ((*made)->owner, world.plan.owner);
    EXPECT_EQ((*made)->id, world.plan.id + 1);
  }
  EXPECT_GT(changed, 100);
  EXPECT_GT(stages_apart, 0);
}

TEST(Rebalance, NothingForTheSakeOfLittle) {
  World world = world_of(8, 2, 32);
  EXPECT_FALSE(*plan::rebalance(world.blocks, world.plan, world.cost_ns, world.wish));
  world.cost_ns[3] = kUnit * 105 / 100;
  EXPECT_FALSE(*plan::rebalance(world.blocks, world.plan, world.cost_ns, world.wish));
  world.cost_ns[3] = 2 * kUnit;
  world.cost_ns[6] = 0;  // not known
  EXPECT_FALSE(*plan::rebalance(world.blocks, world.plan, world.cost_ns, world.wish));
  world.cost_ns[6] = kUnit;
  const auto made = plan::rebalance(world.blocks, world.plan, world.cost_ns, world.wish);
  ASSERT_TRUE(*made);
  EXPECT_FALSE(*plan::rebalance(world.blocks, **made, world.cost_ns, world.wish));
  // Fast again: shares are even again.
  world.cost_ns[3] = kUnit;
  const auto back = plan::rebalance(world.blocks, **made, world.cost_ns, world.wish);
  ASSERT_TRUE(*back);
  EXPECT_TRUE(plan::in_columns(**back));
  EXPECT_THAT(plan::column_shares(**back), testing::Each(8));
}

}  // namespace
}  // namespace elaswave
