// Plans after failures: random histories of kills and joins, and small worlds exhaustively. Every
// plan is judged by recovery_testing.h.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <numeric>

#include "tests/property/recovery_testing.h"

namespace elaswave {
namespace {

using test::Dice;
using test::History;
using Ranks = std::vector<std::int32_t>;

plan::Domains random_domains(Dice& dice, std::int32_t world) {
  plan::Domains domains;
  if (dice.one_in(4)) return domains;
  const std::int64_t of_domain = dice.between(1, world), count = dice.between(1, 4);
  const bool in_order = dice.one_in(2);
  for (std::int32_t rank = 0; rank < world; ++rank)
    domains.push_back(static_cast<std::int32_t>(in_order ? rank / of_domain : dice.below(count)));
  return domains;
}

plan::LayerCosts random_costs(Dice& dice, std::int32_t layers) {
  plan::LayerCosts costs;
  if (dice.one_in(3)) return costs;
  for (std::int32_t layer = 0; layer < layers; ++layer)
    costs.layers.push_back({.forward = dice.between(1, 9),
                            .input_gradient = dice.between(1, 9),
                            .weight_gradient = dice.between(1, 9),
                            .recompute = dice.between(1, 9)});
  costs.message = dice.below(4);
  return costs;
}

struct Start {
  layout::BlockTable blocks;
  plan::HealthyRequest wish;
};

/// A world of up to 12 ranks and a model for it.
Start random_start(Dice& dice) {
  const std::int32_t tensor = 1 << dice.below(3);
  Start start{.blocks = test::random_table(dice, tensor)};
  plan::HealthyRequest& wish = start.wish;
  wish.tensor = tensor;
  const std::int64_t replicas = dice.between(1, 12 / tensor);
  wish.world_size = static_cast<std::int32_t>(replicas * tensor);
  wish.pipeline = static_cast<std::int32_t>(
      dice.between(1, std::min<std::int64_t>({4, replicas, start.blocks.layers()})));
  wish.chunks = static_cast<std::int32_t>(
      dice.between(1, std::min(3, start.blocks.layers() / wish.pipeline)));
  wish.micro_batches = dice.between(1, 9);
  wish.recompute = dice.one_in(4) ? spec::Recompute::full : spec::Recompute::none;
  if (dice.one_in(4)) wish.backward = plan::Backward::split;
  if (dice.one_in(2)) wish.schedule = static_cast<pipeline::Schedule>(dice.below(5));
  wish.costs = random_costs(dice, start.blocks.layers());
  wish.domains = random_domains(dice, wish.world_size);
  wish.copies = static_cast<std::int32_t>(dice.between(1, 2));
  return start;
}

/// Who fails next: a rank, a domain, several ranks. At least one.
Ranks random_victims(Dice& dice, const History& history) {
  const Ranks& members = history.members();
  const auto any = [&] {
    return members[static_cast<std::size_t>(dice.below(std::ssize(members)))];
  };
  if (dice.one_in(3)) return history.ranks_of(history.domain(any()));
  Ranks victims = {any()};
  if (dice.one_in(3))
    for (const std::int32_t rank : members)
      if (rank != victims[0] && dice.one_in(3)) victims.push_back(rank);
  return victims;
}

Ranks random_joiners(Dice& dice, const History& history, std::int32_t world) {
  Ranks joiners;
  for (std::int32_t rank = 0; rank < world; ++rank)
    if (!std::binary_search(history.members().begin(), history.members().end(), rank) &&
        dice.one_in(2))
      joiners.push_back(rank);
  return joiners;
}

struct Tally {
  std::int64_t histories = 0, plans = 0, kept = 0, relayered = 0, lost = 0, too_few = 0, moved = 0,
               joined = 0;
  void add(const History::Answer& answer) {
    if (answer.outcome == History::Outcome::lost) ++lost;
    if (answer.outcome == History::Outcome::too_few) ++too_few;
    if (answer.outcome != History::Outcome::went_on) return;
    ++plans;
    ++(answer.response == plan::Response::keep ? kept : relayered);
    moved += answer.moved;
  }
};

/// One failure domain, whatever it is, loses nothing once copies are filled.
void expect_safe(const History& history) {
  if (history.domains() < 2) return;
  for (const std::int32_t rank : history.members())
    ASSERT_EQ(history.lost_with(history.domain(rank)), -1) << "domain of rank " << rank;
}

void run_history(Dice& dice, Tally& tally) {
  Start start = random_start(dice);
  auto first = plan::healthy_plan(start.blocks, start.wish);
  if (!first) {  // the schedule's precondition
    start.wish.schedule.reset();
    first = plan::healthy_plan(start.blocks, start.wish);
  }
  ASSERT_TRUE(first) << first.error().text();
  History history(start.blocks, start.wish, *first,
                  dice.one_in(2) ? test::Told::layout : test::Told::everything);
  ASSERT_NO_FATAL_FAILURE(expect_safe(history));
  ++tally.histories;
  bool filled = true;
  for (int event = 0; event < 12; ++event) {
    const Ranks gone = random_victims(dice, history);
    const bool one_domain = std::all_of(gone.begin(), gone.end(), [&](std::int32_t rank) {
      return history.domain(rank) == history.domain(gone[0]);
    });
    const bool others = history.domains() > 1;
    Ranks come;
    if (dice.one_in(4)) come = random_joiners(dice, history, start.wish.world_size);
    tally.joined += std::ssize(come);
    const History::Answer answer = history.change(gone, come);
    ASSERT_EQ(answer.fault, "") << "event " << event;
    tally.add(answer);
    if (answer.outcome != History::Outcome::went_on) {
      // One failure domain at a time, and copies filled in between, is what a run survives.
      ASSERT_FALSE(answer.outcome == History::Outcome::lost && one_domain && others && filled);
      return;
    }
    filled = !dice.one_in(4);
    if (!filled) {  // the next failure comes in the middle of the recovery, or right after
      history.move(dice.between(0, answer.moved));
      continue;
    }
    history.refill();
    ASSERT_NO_FATAL_FAILURE(expect_safe(history));
  }
}

TEST(RecoveryPlan, RandomHistories) {
  Tally tally;
  for (std::uint64_t seed = 0; seed < 6000; ++seed) {
    Dice dice(seed);
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(run_history(dice, tally));
  }
  std::printf(
      "campaign: %lld histories, %lld plans (%lld kept their stages, %lld laid out anew), %lld "
      "blocks moved, %lld ranks joined, ended by %lld losses and %lld times too few ranks\n",
      static_cast<long long>(tally.histories), static_cast<long long>(tally.plans),
      static_cast<long long>(tally.kept), static_cast<long long>(tally.relayered),
      static_cast<long long>(tally.moved), static_cast<long long>(tally.joined),
      static_cast<long long>(tally.lost), static_cast<long long>(tally.too_few));
  EXPECT_GT(tally.kept, 1000);
  EXPECT_GT(tally.relayered, 1000);
  EXPECT_GT(tally.lost, 100);
  EXPECT_GT(tally.too_few, 100);
}

/// 8 ranks, each a domain: 4 replicas x 2 stages, or 2 x 2 slices x 2 stages.
Start small_world(std::int32_t tensor) {
  Dice dice(7);
  Start start{.blocks = test::random_table(dice, tensor)};
  while (start.blocks.layers() < 6) start.blocks = test::random_table(dice, tensor);
  start.wish = {.world_size = 8,
                .tensor = tensor,
                .pipeline = 2,
                .schedule = pipeline::Schedule::one_f_one_b,
                .micro_batches = 8,
                .copies = 1};
  return start;
}

/// Kills in this order, copies filled after each, until one replica is left.
void run_order(const Start& start, const layout::Plan& first, const Ranks& order, Tally& tally) {
  SCOPED_TRACE(testing::PrintToString(order));
  History history(start.blocks, start.wish, first, test::Told::everything);
  ++tally.histories;
  const std::int64_t relayered = tally.relayered;
  for (const std::int32_t rank : order) {
    const History::Answer answer = history.change({rank}, {});
    ASSERT_EQ(answer.fault, "") << "rank " << rank;
    tally.add(answer);
    const bool enough = std::ssize(history.members()) >= start.wish.tensor;
    ASSERT_EQ(answer.outcome, enough ? History::Outcome::went_on : History::Outcome::too_few);
    if (!enough) return;
    // While layers are where they were at the start, copies are where they can take over. (Two
    // orphans of the same slice make a replica that knows but half of its stage.)
    if (tally.relayered == relayered && (start.wish.tensor == 1 || rank == order[0])) {
      ASSERT_EQ(answer.moved, 0);
    }
    history.refill();
    ASSERT_NO_FATAL_FAILURE(expect_safe(history));
  }
}

void run_small_world(std::int32_t tensor) {
  const Start start = small_world(tensor);
  const layout::Plan first = plan::healthy_plan(start.blocks, start.wish).value();
  Tally tally;
  for (std::int32_t a = 0; a < 8; ++a)
    for (std::int32_t b = 0; b < 8; ++b)
      for (std::int32_t c = 0; c < 8; ++c)
        if (a != b && b != c && a != c) {
          ASSERT_NO_FATAL_FAILURE(run_order(start, first, {a, b, c}, tally));
        }
  Dice dice(11);
  for (int round = 0; round < 50; ++round) {
    Ranks order(8);
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t left = order.size(); left > 1; --left)
      std::swap(order[left - 1],
                order[static_cast<std::size_t>(dice.below(std::ssize(order))) % left]);
    order.resize(7);
    ASSERT_NO_FATAL_FAILURE(run_order(start, first, order, tally));
  }
  std::printf("campaign: tensor %d: %lld orders of kills, %lld plans, %lld laid out anew\n", tensor,
              static_cast<long long>(tally.histories), static_cast<long long>(tally.plans),
              static_cast<long long>(tally.relayered));
  EXPECT_GT(tally.relayered, 0);
}

TEST(RecoveryPlan, AllShortOrdersOfKillsOfFourTimesTwo) {
  run_small_world(1);
}

TEST(RecoveryPlan, AllShortOrdersOfKillsOfTwoTimesTwoTimesTwo) {
  run_small_world(2);
}

TEST(RandomPlans, WithCopiesAreSound) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Dice dice(seed);
    const std::int32_t tensor = 1 << dice.below(3);
    const layout::BlockTable blocks = test::random_table(dice, tensor);
    const layout::Plan plan = test::random_plan(
        dice, blocks, tensor, {.copies = static_cast<std::int32_t>(dice.between(1, 2))});
    ASSERT_EQ(layout::find_fault(plan, blocks, test::world_size(plan)), "") << "seed " << seed;
  }
}

}  // namespace
}  // namespace elaswave
