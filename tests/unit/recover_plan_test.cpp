// Plans after a failure, by example; random and exhaustive ones are in tests/property.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <map>

#include "elastic/plan/recovery.h"
#include "elastic/plan/recovery_routes.h"
#include "model/spec/inventory.h"

namespace elaswave {
namespace {

using layout::Plan;
using plan::Response;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using Ranks = std::vector<std::int32_t>;

layout::BlockTable blocks_of(std::string_view preset, std::int32_t tensor) {
  return spec::Inventory(spec::find_preset(preset).value(), DType::f32, tensor).blocks();
}

/// Memory for such plans alone.
std::function<std::optional<plan::Shortage>(const Plan&)> only(
    const std::function<bool(const Plan&)>& fits) {
  return [fits](const Plan& plan) {
    return fits(plan) ? std::nullopt : std::optional(plan::Shortage{.world_rank = 1});
  };
}

/// A run whose copies are all filled, and who is left of it.
plan::RecoveryRequest after_loss(const layout::BlockTable& blocks, const plan::HealthyRequest& wish,
                                 const Plan& previous, const Ranks& gone) {
  plan::RecoveryRequest request{.previous = previous, .wish = wish, .generation = Generation{1}};
  std::vector<std::int32_t> index(static_cast<std::size_t>(wish.world_size), -1);
  for (const std::int32_t rank : layout::members(previous)) {
    if (std::find(gone.begin(), gone.end(), rank) != gone.end()) continue;
    index[static_cast<std::size_t>(rank)] =
        static_cast<std::int32_t>(request.holdings.members.size());
    request.holdings.members.push_back(rank);
    request.holdings.holds.emplace_back(static_cast<std::size_t>(blocks.count()), false);
  }
  const auto give = [&](std::int32_t rank, std::int64_t block) {
    const std::int32_t at = rank < 0 ? -1 : index[static_cast<std::size_t>(rank)];
    if (at >= 0)
      request.holdings.holds[static_cast<std::size_t>(at)][static_cast<std::size_t>(block)] = true;
  };
  for (std::int64_t block = 0; block < blocks.count(); ++block) {
    give(previous.owner_rank(blocks, block), block);
    for (const std::int32_t rank : previous.backups_of(block)) give(rank, block);
  }
  return request;
}

void forget_all_but_layout(Plan& plan) {
  plan.route.clear();
  plan.schedule.clear();
  plan.owner.clear();
  plan.backup.clear();
  plan.copies = 0;
}

class Loss : public testing::Test {
 protected:
  void start(plan::HealthyRequest wish) {
    wish_ = std::move(wish);
    blocks_ = blocks_of("tiny", wish_.tensor);
    plan_ = plan::healthy_plan(blocks_, wish_).value();
  }
  plan::RecoveryRequest request(const Ranks& gone) const {
    return after_loss(blocks_, wish_, plan_, gone);
  }
  plan::RecoveryPlan lose(const Ranks& gone) const {
    return plan::recover_plan(blocks_, request(gone)).value();
  }
  Error refusal(const plan::RecoveryRequest& request) const {
    auto made = plan::recover_plan(blocks_, request);
    return made ? Error{} : made.error();
  }

  layout::BlockTable blocks_;
  plan::HealthyRequest wish_;
  Plan plan_;
};

TEST_F(Loss, OfOneReplicaMovesNothingAndKeepsHealthyStagesBusy) {
  start({.world_size = 8, .pipeline = 2, .micro_batches = 12, .copies = 1});
  const plan::RecoveryPlan made = lose({1});  // replica 1 of stage 0
  EXPECT_EQ(made.response, Response::keep);
  EXPECT_TRUE(made.moves.empty());
  EXPECT_EQ(made.schedule, "list");
  EXPECT_EQ(made.plan.stages[1], plan_.stages[1]);
  EXPECT_EQ(made.plan.replicas(0), 3);
  for (std::int64_t micro_batch = 0; micro_batch < 12; ++micro_batch) {
    const std::int32_t before = plan_.replica_for(micro_batch, 0);
    EXPECT_EQ(made.plan.replica_for(micro_batch, 1), plan_.replica_for(micro_batch, 1));
    if (before != 1) {
      EXPECT_EQ(made.plan.rank_of({0, made.plan.replica_for(micro_batch, 0), 0}),
                plan_.rank_of({0, before, 0}));
    }
  }
  EXPECT_FALSE(made.refills.empty());
}

TEST_F(Loss, OfOneReplicaInEveryStageKeepsThePublishedSchedule) {
  start({.world_size = 8,
         .pipeline = 2,
         .schedule = pipeline::Schedule::one_f_one_b,
         .micro_batches = 12,
         .copies = 1});
  for (const Ranks& gone : {Ranks{1, 5}, Ranks{0, 7}}) {
    const plan::RecoveryPlan made = lose(gone);
    EXPECT_EQ(made.schedule, "1f1b");
    EXPECT_TRUE(plan::in_columns(made.plan));
    // Whole pipelines stay what they were.
    for (std::int64_t micro_batch = 0; micro_batch < 12; ++micro_batch)
      for (const std::int32_t column : {1, 2}) {
        if (gone[0] == column || plan_.replica_for(micro_batch, 0) != column) continue;
        for (const std::int32_t stage : {0, 1})
          EXPECT_EQ(made.plan.rank_of({stage, made.plan.replica_for(micro_batch, stage), 0}),
                    plan_.rank_of({stage, column, 0}));
      }
  }
  EXPECT_EQ(lose({1}).schedule, "list");
}

TEST_F(Loss, OfASliceMakesItsTwinASpareAndTwoOrphansMakeAReplica) {
  start({.world_size = 8, .tensor = 2, .pipeline = 2, .micro_batches = 8, .copies = 1});
  const plan::RecoveryPlan first = lose({1});  // slice 1 of the first replica
  EXPECT_THAT(first.plan.spares, ElementsAre(0));
  EXPECT_TRUE(first.moves.empty());
  const plan::RecoveryPlan both = lose({0, 7});  // slice 1 of the last replica of stage 1, too
  EXPECT_TRUE(both.plan.spares.empty());
  EXPECT_EQ(both.response, Response::keep);
  EXPECT_EQ(layout::place_of(both.plan, 6).slice, 0) << "each in the slice that it holds";
  EXPECT_EQ(layout::place_of(both.plan, 1).slice, 1);
  EXPECT_EQ(layout::place_of(both.plan, 1).replica, layout::place_of(both.plan, 6).replica);
}

TEST_F(Loss, ASpareGoesToTheStageThatBearsMost) {
  start({.world_size = 6, .pipeline = 2, .micro_batches = 12, .copies = 1});
  plan::RecoveryRequest asked = request({4});  // stage 1 has 2 of 3
  asked.holdings.members.push_back(9);
  asked.holdings.holds.emplace_back(static_cast<std::size_t>(blocks_.count()), false);
  const plan::RecoveryPlan made = plan::recover_plan(blocks_, asked).value();
  EXPECT_EQ(layout::place_of(made.plan, 9).stage, 1);
  EXPECT_TRUE(made.moves.empty()) << "a joiner owns nothing at first";
  EXPECT_TRUE(plan::in_columns(made.plan));
}

TEST_F(Loss, OfAWholeStageLaysOutAnew) {
  start({.world_size = 4, .pipeline = 4, .micro_batches = 8, .copies = 1});
  const plan::RecoveryPlan made = lose({2});
  EXPECT_EQ(made.response, Response::relayer);
  EXPECT_TRUE(made.moves.empty()) << "one stage of three replicas moves nothing";
  EXPECT_EQ(made.plan.stages.size(), 1u);
}

TEST_F(Loss, WhatDoesNotFitIsNotTaken) {
  start({.world_size = 4, .pipeline = 4, .micro_batches = 8, .copies = 1});
  plan::RecoveryRequest asked = request({2});
  asked.shortage = only([](const Plan& plan) { return plan.stages.size() >= 2; });
  const plan::RecoveryPlan made = plan::recover_plan(blocks_, asked).value();
  EXPECT_GE(made.plan.stages.size(), 2u);
  asked.shortage = only([](const Plan&) { return false; });
  const Error nothing = refusal(asked);
  EXPECT_EQ(nothing.code, Code::unrecoverable);
  EXPECT_THAT(nothing.text(), HasSubstr("3 ranks are left, and no layout fits"));
  asked = request({});
  asked.shortage = only([](const Plan& plan) { return plan.stages.size() < 4; });
  EXPECT_EQ(plan::recover_plan(blocks_, asked).value().response, Response::relayer);
}

TEST_F(Loss, FewerChunksWhereLayersDoNotSuffice) {
  start({.world_size = 3,
         .pipeline = 3,
         .chunks = 2,
         .schedule = pipeline::Schedule::zbv,
         .micro_batches = 6,
         .copies = 2});
  plan::RecoveryRequest asked = request({1});
  asked.shortage = only([](const Plan& plan) { return plan.stages.size() == 2; });
  plan::RecoveryPlan made = plan::recover_plan(blocks_, asked).value();
  EXPECT_EQ(made.schedule, "zbv");
  asked.wish.chunks = 4;  // eight chunks of six layers do not go
  made = plan::recover_plan(blocks_, asked).value();
  EXPECT_LE(made.plan.chunks(), blocks_.layers());
  EXPECT_EQ(made.schedule, "list");
}

TEST_F(Loss, OfTooMuchIsRefusedByName) {
  start({.world_size = 4, .tensor = 4, .micro_batches = 4, .copies = 1});
  const Error few = refusal(request({2}));
  EXPECT_EQ(few.code, Code::unrecoverable);
  EXPECT_THAT(few.text(), HasSubstr("3 ranks are left, one replica needs 4"));
  EXPECT_THAT(refusal(request({0, 1, 3})).text(), HasSubstr("1 rank is left, one replica needs 4"));
  start({.world_size = 4, .pipeline = 2, .micro_batches = 4, .copies = 1});
  const Error lost = refusal(request({2, 3}));
  EXPECT_EQ(lost.code, Code::unrecoverable);
  EXPECT_EQ(lost.what.rfind("blocks lost: ", 0), 0u) << lost.text();
  const std::int64_t first = blocks_.layer_begin(layout::layers_of_chunk(plan_, 1).begin);
  EXPECT_THAT(lost.text(),
              HasSubstr(fmt::format("block {}, of layer {}", first, blocks_.block(first).layer)));
}

TEST_F(Loss, LayoutAndRanksOfThePreviousPlanAreEnough) {
  start({.world_size = 8, .tensor = 2, .pipeline = 2, .micro_batches = 8, .copies = 1});
  plan::RecoveryRequest asked = request({1});
  const plan::RecoveryPlan full = plan::recover_plan(blocks_, asked).value();
  forget_all_but_layout(asked.previous);
  const plan::RecoveryPlan made = plan::recover_plan(blocks_, asked).value();
  EXPECT_EQ(made.response, full.response);
  EXPECT_EQ(made.plan.stages, full.plan.stages);
  EXPECT_TRUE(made.moves.empty());
}

/// Layers of one block each; who holds which of them is said by hand.
class ByHand : public testing::Test {
 protected:
  void model(std::int32_t layers) {
    std::vector<layout::PartExtent> parts;
    for (std::int32_t layer = 0; layer < layers; ++layer)
      parts.push_back({.layer = layer, .elems = 100});
    blocks_ = layout::BlockTable(parts);
    request_.wish.micro_batches = 12;
    request_.wish.copies = 1;
  }
  /// Stages of one chunk, from layer `begins[i]` on, and their replicas of one rank each.
  void previous(const Ranks& begins, const std::vector<Ranks>& stages) {
    Plan& plan = request_.previous;
    for (std::int32_t layer = 0; layer < blocks_.layers(); ++layer)
      plan.chunk_of_layer.push_back(static_cast<std::int32_t>(
          std::upper_bound(begins.begin(), begins.end(), layer) - begins.begin() - 1));
    for (const Ranks& ranks : stages) {
      plan.stage_of_chunk.push_back(static_cast<std::int32_t>(plan.stages.size()));
      layout::Stage& stage = plan.stages.emplace_back();
      for (const std::int32_t rank : ranks) stage.replicas.push_back({.world_ranks = {rank}});
    }
    request_.wish.pipeline = static_cast<std::int32_t>(stages.size());
  }
  void member(std::int32_t rank, const Ranks& blocks) {
    request_.holdings.members.push_back(rank);
    std::vector<bool>& holds =
        request_.holdings.holds.emplace_back(static_cast<std::size_t>(blocks_.count()), false);
    for (const std::int32_t block : blocks) holds[static_cast<std::size_t>(block)] = true;
  }
  plan::RecoveryPlan recover() { return plan::recover_plan(blocks_, request_).value(); }

  layout::BlockTable blocks_;
  plan::RecoveryRequest request_;
};

TEST_F(ByHand, WhatMovesLeastIsTakenUnlessItIsMuchSlower) {
  const auto two_stages = [](const Plan& plan) { return plan.stages.size() == 2; };
  // Three layers and five, or four and four: 63 against 52, which is less than a quarter more.
  model(8);
  previous({0, 3}, {{0}, {1}});
  request_.wish.pipeline = 2;
  request_.shortage = only(two_stages);
  member(1, {0, 1, 2, 3, 4, 5, 6, 7});  // rank 0 is lost, all its blocks were kept by rank 1
  member(9, {});
  plan::RecoveryPlan made = recover();
  EXPECT_EQ(made.plan.chunk_of_layer, request_.previous.chunk_of_layer);
  EXPECT_EQ(made.moves.size(), 3u);
  for (const plan::Move& move : made.moves) EXPECT_EQ(move.to, 9);
  // Two and six: 74.
  request_.previous.chunk_of_layer = {0, 0, 1, 1, 1, 1, 1, 1};
  made = recover();
  EXPECT_EQ(made.plan.chunk_of_layer, (Ranks{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(made.moves.size(), 4u);
}

TEST_F(ByHand, ALaterLayoutThatMovesLessIsTaken) {
  model(8);
  previous({0, 5}, {{0}, {1}});
  request_.shortage = only([](const Plan& plan) { return plan.stages.size() == 2; });
  member(1, {4, 5, 6, 7});
  member(9, {0, 1, 2, 3});
  const plan::RecoveryPlan made = recover();
  EXPECT_EQ(made.plan.chunk_of_layer, (Ranks{0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_TRUE(made.moves.empty());
}

TEST_F(ByHand, AStageWithoutAnybodyGetsAReplicaOfARicherOne) {
  model(2);
  previous({0, 1}, {{0, 1, 2}, {3}});
  request_.shortage = only([](const Plan& plan) { return plan.stages.size() == 2; });
  member(0, {0});
  member(1, {});
  member(2, {0, 1});  // the copy of the lost stage, and one of its own
  const plan::RecoveryPlan made = recover();
  EXPECT_EQ(made.response, Response::relayer);
  EXPECT_EQ(layout::place_of(made.plan, 2).stage, 1);
  EXPECT_EQ(layout::place_of(made.plan, 0).stage, 0);
  EXPECT_TRUE(made.moves.empty());
}

TEST_F(ByHand, HoldersSendEvenly) {
  model(9);
  previous({0, 1}, {{0, 1}, {9}});
  member(0, {0, 1, 2, 3, 4, 5, 6, 7, 8});
  member(1, {0, 1, 2, 3, 4, 5, 6, 7, 8});
  member(9, {});  // was about to get all of stage 1
  const plan::RecoveryPlan made = recover();
  EXPECT_EQ(made.response, Response::keep);
  std::map<std::int32_t, int> sent;
  for (const plan::Move& move : made.moves) ++sent[move.from];
  EXPECT_THAT(sent, ElementsAre(Pair(0, 4), Pair(1, 4)));
}

TEST_F(ByHand, PromotionIsSpreadOverWhoHoldsTheBlocks) {
  model(12);
  previous({0}, {{0, 1, 2, 3}});
  member(1, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  member(2, {0, 1, 2, 3, 4, 5});
  member(3, {6, 7, 8, 9, 10, 11});
  const plan::RecoveryPlan made = recover();
  std::map<std::int32_t, int> owned;
  for (std::int64_t block = 0; block < 12; ++block) ++owned[made.plan.owner_rank(blocks_, block)];
  EXPECT_THAT(owned, ElementsAre(Pair(1, 5), Pair(2, 3), Pair(3, 4)));
  EXPECT_TRUE(made.moves.empty());
}

TEST(Routes, EvenSharesWithFewestChanges) {
  EXPECT_THAT(plan::balance_stage(7, 3, {}), ElementsAre(0, 1, 2, 0, 1, 2, 0));
  EXPECT_THAT(plan::balance_stage(6, 2, {0, -1, 1, 0, -1, 1}), ElementsAre(0, 0, 1, 0, 1, 1));
  // A new replica takes micro-batches from the whole step.
  EXPECT_THAT(plan::balance_stage(6, 3, {0, 1, 0, 1, 0, 1}), ElementsAre(2, 2, 0, 1, 0, 1));
  EXPECT_THAT(plan::balance_stage(1, 2, {1}), ElementsAre(1));
  EXPECT_THAT(plan::balance_stage(5, 2, {1, 1, 1, 0, 0}), ElementsAre(1, 1, 1, 0, 0));
}

/// Milliseconds of a recovery; told, not judged.
void time_recovery(const char* name, const plan::HealthyRequest& wish, const Ranks& gone) {
  spec::ModelConfig config = spec::find_preset("gpt2-1.5b").value();
  config.heads = 16;  // its 25 are not divisible
  const spec::Inventory inventory(config, DType::f32, wish.tensor);
  const layout::BlockTable blocks = inventory.blocks();
  const Plan healthy = plan::healthy_plan(blocks, wish).value();
  plan::RecoveryRequest request = after_loss(blocks, wish, healthy, gone);
  const plan::Budgets budgets(static_cast<std::size_t>(wish.world_size), 1e12);
  request.shortage = [&](const Plan& plan) {
    return plan::find_shortage({.config = config,
                                .inventory = inventory,
                                .blocks = blocks,
                                .micro_batch = 1,
                                .loss_chunk_tokens = 256},
                               plan, budgets);
  };
  forget_all_but_layout(request.previous);  // what members tell each other in a recovery
  std::chrono::duration<double, std::milli> time{};
  Result<plan::RecoveryPlan> made;
  // The best of a few where that is cheap: what else runs is not the question.
  for (int round = 0; round < (wish.world_size > 1000 ? 1 : 3); ++round) {
    const auto begin = std::chrono::steady_clock::now();
    made = plan::recover_plan(blocks, request);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    if (round == 0 || took < time) time = took;
  }
  ASSERT_TRUE(made) << made.error().text();
  std::printf("campaign: %s: %lld blocks, %s, schedule %s, %zu moves, %zu refills: %.1f ms\n", name,
              static_cast<long long>(blocks.count()),
              made->response == Response::keep ? "keep" : "relayer", made->schedule.c_str(),
              made->moves.size(), made->refills.size(), time.count());
}

TEST(RecoveryTime, IsPrinted) {
  const spec::ModelConfig config = spec::find_preset("gpt2-1.5b").value();
  plan::HealthyRequest wish{.world_size = 96,
                            .pipeline = 8,
                            .schedule = pipeline::Schedule::one_f_one_b,
                            .micro_batches = 96,
                            .costs = plan::counted_costs(config),
                            .copies = 1};
  Ranks column;  // the first replica of each of 16 stages
  for (std::int32_t rank = 0; rank < 16384; ++rank)
    if (rank % 1024 < 8) column.push_back(rank);
  time_recovery("8 x 12 ranks lose one", wish, {17});
  time_recovery("8 x 12 ranks lose one of each stage", wish, {0, 12, 24, 36, 48, 60, 72, 84});
  wish.schedule.reset();
  time_recovery("8 x 12 ranks lose one, auto", wish, {17});
  wish.world_size = 8;
  wish.micro_batches = 32;
  time_recovery("8 stages of one rank lose one, auto", wish, {3});
  wish.world_size = 16384;
  wish.tensor = 8;
  wish.pipeline = 16;
  wish.micro_batches = 2048;
  time_recovery("16 x 128 x 8 ranks lose one", wish, {5000});
  time_recovery("16 x 128 x 8 ranks lose one of each stage", wish, column);
}

}  // namespace
}  // namespace elaswave
