// Plans after failures where memory is short: what a rank may use, which plans keep to it, and that
// memory changes nothing where there is enough. Needs are added up rank by rank here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <map>

#include "elastic/plan/prediction.h"
#include "tests/property/recovery_testing.h"

namespace elaswave {
namespace {

using layout::Plan;
using test::Dice;
using test::History;
using testing::ElementsAre;
using testing::HasSubstr;
using Ranks = std::vector<std::int32_t>;
using Outcome = History::Outcome;

TEST(Budgets, AreSharesAmongThoseWhoLive) {
  plan::RankLimits limits(6);
  for (std::size_t rank = 0; rank < 4; ++rank) limits[rank] = {.host = 0, .host_bytes = 1200};
  limits[4] = {.host = 1, .host_bytes = 500};
  limits[5] = {.host = 1, .host_bytes = 500, .own_bytes = 70};
  const double none = std::numeric_limits<double>::infinity();
  EXPECT_THAT(plan::budgets(limits, Ranks{0, 1, 2, 3, 4, 5}),
              ElementsAre(300, 300, 300, 300, 250, 70));
  EXPECT_THAT(plan::budgets(limits, Ranks{1, 4}), ElementsAre(none, 1200, none, none, 500));
  limits[1].host_bytes = 0;
  EXPECT_THAT(plan::budgets(limits, Ranks{1, 2}), ElementsAre(none, none, 600));
  EXPECT_THAT(plan::budgets({}, Ranks{1, 2}), ElementsAre(none, none, none));
}

TEST(Budgets, GpusAreSharedApart) {
  plan::RankLimits limits(3, {.host_bytes = 900, .gpu = 1, .gpu_bytes = 20'000});
  limits[2].gpu = 2;
  limits[2].own_gpu_bytes = 70;
  const double none = std::numeric_limits<double>::infinity();
  const double counted = 20'000 * (1 - plan::kUncountedShare);
  EXPECT_THAT(plan::gpu_budgets(limits, Ranks{0, 1, 2}), ElementsAre(counted / 2, counted / 2, 70));
  EXPECT_THAT(plan::gpu_budgets(limits, Ranks{1}), ElementsAre(none, counted));
  EXPECT_THAT(plan::gpu_budgets(plan::RankLimits(1), Ranks{0}), ElementsAre(none));
}

struct World {
  World(const spec::ModelConfig& model, const plan::HealthyRequest& request)
      : config(model),
        wish(request),
        inventory(config, DType::f32, wish.tensor),
        blocks(inventory.blocks()) {
    wish.costs = plan::counted_costs(config);
  }
  spec::ModelConfig config;
  plan::HealthyRequest wish;
  spec::Inventory inventory;
  layout::BlockTable blocks;

  spec::MemoryModel model() const {
    return {.config = config,
            .inventory = inventory,
            .blocks = blocks,
            .micro_batch = 2,
            .recompute = wish.recompute,
            .loss_chunk_tokens = 256};
  }
  History::Shortage keep_to(plan::RankLimits limits) const {
    return [this, limits = std::move(limits)](const Plan& plan) {
      return plan::find_shortage(model(), plan, plan::budgets(limits, layout::members(plan)));
    };
  }
  History start() const {
    return {blocks, wish, plan::healthy_plan(blocks, wish).value(), test::Told::layout};
  }
  /// Of every member, one after the other.
  std::map<std::int32_t, double> needs(const Plan& plan) const {
    const auto owned = spec::owned_elems(plan, blocks);
    const auto copies = spec::copy_elems(plan, blocks);
    std::map<std::int32_t, double> bytes;
    for (const std::int32_t rank : layout::members(plan)) {
      const layout::Place place = layout::place_of(plan, rank);
      spec::OwnedElems mine{.copies = copies[static_cast<std::size_t>(rank)]};
      if (place.stage >= 0)
        mine = owned[static_cast<std::size_t>(place.stage)]
                    [static_cast<std::size_t>(place.replica * plan.tensor_degree + place.slice)];
      bytes[rank] = plan::memory_of_rank(model(), plan, place, mine).total();
    }
    return bytes;
  }
  double most(const Plan& plan) const {
    double bytes = 0;
    for (const auto& [rank, need] : needs(plan)) bytes = std::max(bytes, need);
    return bytes;
  }
};

TEST(Shortage, IsOfTheHostOrOfTheGpu) {
  const World world(spec::find_preset("tiny").value(), {.world_size = 2, .micro_batches = 4});
  const Plan plan = plan::healthy_plan(world.blocks, world.wish).value();
  spec::MemoryModel model = world.model();
  const double shared = plan::worst_of(plan::predict_memory(model, plan)).table.total();
  model.device = spec::DeviceMemory::own;
  const auto most = [&](spec::Side side) {
    return plan::worst_of(plan::predict_memory(model, plan, {}, side), side).table.total(side);
  };
  const double host = most(spec::Side::host), gpu = most(spec::Side::device);
  EXPECT_GT(host + gpu, shared) << "copies of state, workspaces and staging";
  const auto shortage = [&](double of_host, double of_gpu) {
    return plan::find_shortage(model, plan, {of_host, of_host}, {of_gpu, of_gpu});
  };
  EXPECT_FALSE(shortage(host, gpu));
  const auto small_gpu = shortage(host, gpu - 2);
  ASSERT_TRUE(small_gpu);
  EXPECT_EQ(small_gpu->side, spec::Side::device);
  EXPECT_EQ(small_gpu->beyond(), 2);
  const auto small_host = shortage(host - 3, gpu);
  ASSERT_TRUE(small_host);
  EXPECT_EQ(small_host->side, spec::Side::host);
  EXPECT_EQ(shortage(host - 3, gpu - 5)->side, spec::Side::device) << "further beyond";
  EXPECT_FALSE(plan::find_shortage(model, plan, {host, host})) << "no limit of a GPU";
}

plan::RankLimits all_the_same(std::int32_t ranks, double bytes) {
  return plan::RankLimits(static_cast<std::size_t>(ranks),
                          {.own_bytes = static_cast<std::int64_t>(bytes)});
}

/// Two stages of two ranks, one of which goes as a whole.
class StageLost : public testing::Test {
 protected:
  History::Answer lose(double bytes) {
    history_.emplace(world_.start());
    if (bytes > 0) history_->limit(world_.keep_to(all_the_same(4, bytes)));
    EXPECT_EQ(history_->change({0}, {}).fault, "");
    history_->refill();
    return history_->change({1}, {});
  }

  World world_{spec::find_preset("tiny").value(),
               {.world_size = 4, .pipeline = 2, .micro_batches = 8, .copies = 1}};
  std::optional<History> history_;
};

TEST_F(StageLost, TwoStagesStayWhereOneDoesNotFit) {
  ASSERT_EQ(lose(0).fault, "");
  ASSERT_EQ(history_->plan().stages.size(), 1u) << "where memory is no matter";
  const double one = world_.most(history_->plan());
  ASSERT_EQ(lose(one).fault, "");
  EXPECT_EQ(history_->plan().stages.size(), 1u) << "just enough";
  const History::Answer answer = lose(one - 1);
  ASSERT_EQ(answer.fault, "");
  ASSERT_EQ(answer.outcome, Outcome::went_on);
  EXPECT_EQ(history_->plan().stages.size(), 2u);
  EXPECT_EQ(answer.response, plan::Response::relayer);
  EXPECT_LT(world_.most(history_->plan()), one);
  EXPECT_EQ(history_->plan().copies, 1);
}

TEST_F(StageLost, WhereNothingFitsTheSmallestNeedIsTold) {
  double enough = 1 << 30, little = 0;
  while (enough - little > 1) {
    const double middle = std::floor((enough + little) / 2);
    const History::Answer answer = lose(middle);
    ASSERT_EQ(answer.fault, "") << middle;
    (answer.outcome == Outcome::went_on ? enough : little) = middle;
  }
  ASSERT_EQ(lose(enough).outcome, Outcome::went_on);
  EXPECT_EQ(world_.most(history_->plan()), enough);
  const History::Answer answer = lose(little);
  ASSERT_EQ(answer.outcome, Outcome::too_large);
  EXPECT_THAT(answer.text, HasSubstr("2 ranks are left, and no layout fits into memory"));
  EXPECT_THAT(answer.text, HasSubstr(fmt::format("needs {:.2f} MiB", enough / (1 << 20))));
  EXPECT_THAT(answer.text, HasSubstr(fmt::format("has {:.2f} MiB for it", little / (1 << 20))));
  EXPECT_THAT(answer.text, HasSubstr("elastic.copies=1"));
}

TEST(RecoveryBudget, ShareOfTheHostGrowsWhenNeighboursGo) {
  const World world(spec::find_preset("tiny").value(),
                    {.world_size = 4, .pipeline = 1, .micro_batches = 8, .copies = 1});
  History history = world.start();
  // Three replicas of one stage need more each than four did, but a third is more than a quarter.
  const auto bytes = static_cast<std::int64_t>(world.most(history.plan()));
  history.limit(world.keep_to(plan::RankLimits(4, {.host_bytes = 4 * bytes})));
  EXPECT_EQ(history.change({2}, {}).outcome, Outcome::went_on);
  EXPECT_GT(world.most(history.plan()), static_cast<double>(bytes));
  history.refill();
  history.limit(world.keep_to(all_the_same(4, static_cast<double>(bytes))));
  EXPECT_EQ(history.change({1}, {}).outcome, Outcome::too_large);
}

TEST(RecoveryBudget, WhoeverHasLittleMemoryStaysASpare) {
  const World world(spec::find_preset("tiny").value(),
                    {.world_size = 5, .pipeline = 2, .micro_batches = 8, .copies = 1});
  History history = world.start();  // three and two replicas
  ASSERT_EQ(history.change({4}, {}).fault, "");
  history.refill();
  const double usual = world.most(history.plan());
  plan::RankLimits limits(5);
  limits[4].own_bytes = static_cast<std::int64_t>(usual / 2);
  history.limit(world.keep_to(limits));
  const History::Answer answer = history.change({0}, {4});
  ASSERT_EQ(answer.fault, "");
  EXPECT_EQ(answer.response, plan::Response::keep);
  EXPECT_THAT(history.plan().spares, ElementsAre(4));
  limits[4].own_bytes = static_cast<std::int64_t>(2 * usual);
  history.limit(world.keep_to(limits));
  ASSERT_EQ(history.change({}, {}).fault, "");
  EXPECT_TRUE(history.plan().spares.empty());
}

TEST(RecoveryBudget, WhatSparesKeepCounts) {
  const World world(spec::find_preset("tiny").value(),
                    {.world_size = 4, .pipeline = 2, .micro_batches = 8, .copies = 1});
  Plan plan = plan::healthy_plan(world.blocks, world.wish).value();
  plan.spares = {4};
  plan.backup[3] = 4;
  const std::int64_t bytes = 16 * world.blocks.block(3).elems;
  plan::RankLimits limits(5);
  limits[4].own_bytes = bytes;
  EXPECT_FALSE(world.keep_to(limits)(plan));
  limits[4].own_bytes = bytes - 1;
  const auto shortage = world.keep_to(limits)(plan);
  ASSERT_TRUE(shortage);
  EXPECT_EQ(shortage->world_rank, 4);
  EXPECT_EQ(shortage->beyond(), 1);
}

TEST(RecoveryBudget, AScheduleThatKeepsLessIsTakenWhereTheAskedOneDoesNotFit) {
  const World world(spec::find_preset("tiny").value(), {.world_size = 4,
                                                        .pipeline = 2,
                                                        .schedule = pipeline::Schedule::gpipe,
                                                        .micro_batches = 16,
                                                        .copies = 1});
  History history = world.start();
  ASSERT_EQ(history.change({0, 2}, {}).fault, "");
  ASSERT_EQ(history.plan().stages.size(), 2u);
  const double gpipe = world.most(history.plan());
  history.refill();
  history.limit(world.keep_to(all_the_same(4, gpipe - 1)));
  const History::Answer answer = history.change({}, {});
  ASSERT_EQ(answer.fault, "");
  ASSERT_EQ(answer.outcome, Outcome::went_on);
  EXPECT_EQ(answer.response, plan::Response::keep);
  EXPECT_LT(world.most(history.plan()), gpipe / 2);
}

TEST(RecoveryBudget, StateWithoutARoleIsInTheWay) {
  const World world(spec::find_preset("tiny").value(),
                    {.world_size = 2, .pipeline = 2, .micro_batches = 2, .copies = 0});
  const Plan plan = plan::healthy_plan(world.blocks, world.wish).value();
  const auto count = static_cast<std::size_t>(world.blocks.count());
  plan::Holdings holdings{.members = {0, 1}, .holds = {{}, {}}};
  for (std::vector<bool>& blocks : holdings.holds) blocks.assign(count, true);
  EXPECT_THAT(plan::unused_bytes(world.blocks, holdings, plan), ElementsAre(0, 0)) << "not known";
  const std::int64_t all = world.blocks.total_elems();
  std::int64_t first = 0;
  for (std::int64_t block = 0; block < world.blocks.count(); ++block)
    if (plan.owner_rank(world.blocks, block) == 0) first += world.blocks.block(block).elems;
  holdings.elems = {all, all};
  EXPECT_THAT(plan::unused_bytes(world.blocks, holdings, plan),
              ElementsAre(16 * (all - first), 16 * first));
  holdings.elems[1] = 0;  // what it is to get is not in the way
  holdings.holds[1].assign(count, false);
  EXPECT_THAT(plan::unused_bytes(world.blocks, holdings, plan), ElementsAre(16 * (all - first), 0));
}

/// Any small model and layout.
World random_world(Dice& dice) {
  const auto tensor = static_cast<std::int32_t>(1 << dice.below(3));
  spec::ModelConfig config = spec::find_preset("tiny").value();
  config.layers = dice.between(1, 5);
  config.heads = 4;
  config.hidden = 16 * dice.between(1, 4);
  config.vocab = dice.between(30, 900);
  config.context = dice.between(4, 80);
  plan::HealthyRequest wish{.tensor = tensor};
  const std::int64_t replicas = dice.between(2, std::max<std::int64_t>(2, 10 / tensor));
  wish.world_size = static_cast<std::int32_t>(replicas * tensor);
  wish.pipeline = static_cast<std::int32_t>(
      dice.between(1, std::min<std::int64_t>({4, replicas, config.layers + 2})));
  wish.chunks = static_cast<std::int32_t>(
      dice.between(1, std::min<std::int64_t>(2, (config.layers + 2) / wish.pipeline)));
  wish.micro_batches = dice.between(1, 9);
  if (dice.one_in(3)) wish.recompute = spec::Recompute::full;
  wish.copies = static_cast<std::int32_t>(dice.between(1, 2));
  return {config, wish};
}

TEST(RecoveryBudget, RandomHistories) {
  std::map<Outcome, int> outcomes;
  int relayered = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Dice dice(seed);
    const World world = random_world(dice);
    History history = world.start();
    // From what does not suffice for any loss to what suffices for most.
    const double usual = world.most(history.plan()) * static_cast<double>(dice.between(8, 40)) / 10;
    plan::RankLimits limits;
    for (std::int32_t rank = 0; rank < world.wish.world_size; ++rank) {
      plan::RankLimit& limit = limits.emplace_back();
      limit.host = rank / 4;
      if (dice.one_in(2))
        limit.own_bytes = static_cast<std::int64_t>(usual) * dice.between(80, 120) / 100;
      else
        limit.host_bytes = 2 * static_cast<std::int64_t>(usual);
    }
    history.limit(world.keep_to(limits));
    for (;;) {
      const Ranks& members = history.members();
      const std::int32_t gone = members[static_cast<std::size_t>(dice.below(std::ssize(members)))];
      const History::Answer answer = history.change({gone}, {});
      ASSERT_EQ(answer.fault, "");
      ++outcomes[answer.outcome];
      if (answer.outcome != Outcome::went_on) break;
      relayered += answer.response == plan::Response::relayer ? 1 : 0;
      const plan::Budgets budgets = plan::budgets(limits, history.members());
      for (const auto& [rank, need] : world.needs(history.plan()))
        ASSERT_LE(need, budgets[static_cast<std::size_t>(rank)]) << "rank " << rank;
      history.refill();
    }
  }
  std::printf("campaign: plans within memory: %d (%d laid out anew), %d times none fits\n",
              outcomes[Outcome::went_on], relayered, outcomes[Outcome::too_large]);
  EXPECT_EQ(outcomes[Outcome::lost], 0);
  EXPECT_GT(outcomes[Outcome::went_on], 300);
  EXPECT_GT(outcomes[Outcome::too_large], 100);
  EXPECT_GT(relayered, 50);
}

}  // namespace
}  // namespace elaswave
