// Where copies of blocks are kept, and how ranks are placed so that they can be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "elastic/plan/backups.h"
#include "elastic/plan/healthy.h"
#include "model/spec/inventory.h"

namespace elaswave {
namespace {

using layout::Plan;
using testing::ElementsAre;
using testing::IsEmpty;
using Ranks = std::vector<std::int32_t>;

layout::BlockTable blocks_of(std::int32_t tensor, std::string_view preset = "tiny") {
  return spec::Inventory(spec::find_preset(preset).value(), DType::f32, tensor).blocks();
}

/// Ranks of the replicas of a stage, one after another.
Ranks ranks_of(const Plan& plan, std::size_t stage) {
  Ranks ranks;
  for (const layout::Replica& replica : plan.stages[stage].replicas)
    ranks.insert(ranks.end(), replica.world_ranks.begin(), replica.world_ranks.end());
  return ranks;
}

TEST(Placement, ReplicasStandInOneDomainAndStagesInSeveral) {
  const plan::HealthyRequest request{.world_size = 8,
                                     .tensor = 2,
                                     .pipeline = 2,
                                     .micro_batches = 4,
                                     .domains = {0, 0, 0, 0, 1, 1, 1, 1}};
  const Plan plan = plan::healthy_plan(blocks_of(2), request).value();
  EXPECT_THAT(ranks_of(plan, 0), ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(ranks_of(plan, 1), ElementsAre(2, 3, 6, 7));
}

TEST(Placement, RanksOfADomainNeedNotBeNeighbours) {
  const plan::HealthyRequest request{.world_size = 8,
                                     .tensor = 2,
                                     .pipeline = 2,
                                     .micro_batches = 4,
                                     .domains = {0, 1, 0, 1, 0, 1, 0, 1}};
  const Plan plan = plan::healthy_plan(blocks_of(2), request).value();
  EXPECT_THAT(ranks_of(plan, 0), ElementsAre(0, 2, 1, 3));
  EXPECT_THAT(ranks_of(plan, 1), ElementsAre(4, 6, 5, 7));
}

TEST(Placement, StaysInOrderWhereDomainsSayNothing) {
  for (const std::int32_t tensor : {1, 2}) {
    plan::HealthyRequest request{
        .world_size = 12, .tensor = tensor, .pipeline = 2, .micro_batches = 8};
    const Plan plain = plan::healthy_plan(blocks_of(tensor), request).value();
    Ranks in_order;
    for (std::size_t stage = 0; stage < 2; ++stage)
      for (const std::int32_t rank : ranks_of(plain, stage)) in_order.push_back(rank);
    EXPECT_THAT(in_order, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
    request.domains.assign(12, 3);
    EXPECT_EQ(plan::healthy_plan(blocks_of(tensor), request).value(), plain);
    request.domains = {5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6};
    EXPECT_EQ(plan::healthy_plan(blocks_of(tensor), request).value(), plain);
  }
}

TEST(Placement, EveryStageSurvivesEveryDomainWhereThatCanBe) {
  int worlds = 0;
  for (const std::int32_t domains : {2, 3, 4})
    for (std::int32_t of_each = 2; of_each <= 8; ++of_each)
      for (std::int32_t stages = 1; stages <= of_each; ++stages) {
        plan::HealthyRequest request{
            .world_size = domains * of_each, .pipeline = stages, .micro_batches = 4};
        for (std::int32_t rank = 0; rank < request.world_size; ++rank)
          request.domains.push_back(rank / of_each);
        const Plan plan = plan::healthy_plan(blocks_of(1), request).value();
        for (std::size_t stage = 0; stage < plan.stages.size(); ++stage) {
          std::map<std::int32_t, std::int32_t> count;
          for (const std::int32_t rank : ranks_of(plan, stage))
            ++count[request.domains[static_cast<std::size_t>(rank)]];
          EXPECT_GE(count.size(), 2u) << domains << " x " << of_each << ", stage " << stage;
          for (const auto& [domain, ranks] : count)
            EXPECT_LE(ranks, ceil_div(of_each, stages)) << "domain " << domain;
        }
        ++worlds;
        if (stages == blocks_of(1).layers()) break;
      }
  std::printf("campaign: %d worlds of equal domains\n", worlds);
}

/// A plan of two stages and two replicas of one rank, and one block a layer.
struct Small {
  layout::BlockTable blocks{{{.layer = 0, .elems = 10}, {.layer = 1, .elems = 10}}};
  Plan plan = plan::healthy_plan(blocks, {.world_size = 4, .pipeline = 2, .micro_batches = 2})
                  .value();  // stage 0: ranks 0, 1; stage 1: ranks 2, 3

  Ranks deal(std::int32_t copies, const plan::Domains& domains,
             const std::vector<Ranks>& prefers = {}) {
    plan.copies = copies;
    return plan::deal_backups(blocks, plan, domains, prefers);
  }
};

TEST(Backups, NoneAreWishedFor) {
  EXPECT_THAT(Small().deal(0, {}), IsEmpty());
}

TEST(Backups, StayInTheHomeStageWhereTheyCan) {
  Small small;
  small.plan.owner = {0, 0};
  EXPECT_THAT(small.deal(1, {}), ElementsAre(1, 3));
  small.plan.owner = {1, 1};
  EXPECT_THAT(small.deal(1, {}), ElementsAre(0, 2));
}

TEST(Backups, LeaveTheDomainFirst) {
  Small small;
  small.plan.owner = {0, 0};
  EXPECT_THAT(small.deal(1, {0, 0, 1, 1}), ElementsAre(2, 0));
  EXPECT_THAT(small.deal(2, {0, 0, 1, 1}), ElementsAre(2, 1, 0, 3)) << "then another rank at home";
  EXPECT_THAT(small.deal(1, {0, 0, 0, 0}), ElementsAre(1, 3)) << "one domain is all there is";
  EXPECT_THAT(small.deal(2, {0, 1, 1, 2}), ElementsAre(1, 3, 3, 0));
}

TEST(Backups, PreferWhoHoldsTheBlock) {
  Small small;
  small.plan.owner = {0, 0};
  EXPECT_THAT(small.deal(1, {}, {{0, 3}, {2, 0}}), ElementsAre(3, 0));
  EXPECT_THAT(small.deal(1, {0, 0, 1, 1}, {{0, 1}, {2, 3}}), ElementsAre(2, 0))
      << "but not in the owner's domain";
  EXPECT_THAT(small.deal(1, {}, {{3, 1}, {0, 3}}), ElementsAre(1, 3)) << "of those, at home";
}

TEST(Backups, AreNobodysWhereNobodyIsLeft) {
  Small small;
  small.plan.owner = {0, 0};
  EXPECT_THAT(small.deal(5, {}), ElementsAre(1, 2, 3, -1, -1, 3, 0, 1, -1, -1));
}

TEST(Backups, SparesComeLast) {
  Small small;
  small.plan.owner = {0, 0};
  small.plan.spares = {7};
  EXPECT_THAT(small.deal(1, {}), ElementsAre(1, 3));
  EXPECT_THAT(small.deal(4, {}), ElementsAre(1, 2, 3, 7, 3, 0, 1, 7));
  EXPECT_THAT(small.deal(1, {0, 0, 0, 0, 0, 0, 0, 1}), ElementsAre(7, 7));
}

TEST(Backups, OfWhatEverySliceHasAreInAnotherReplica) {
  const plan::HealthyRequest request{
      .world_size = 8, .tensor = 2, .pipeline = 2, .micro_batches = 4, .copies = 1};
  const layout::BlockTable blocks = blocks_of(2);
  const Plan plan = plan::healthy_plan(blocks, request).value();
  for (std::int64_t block = 0; block < blocks.count(); ++block) {
    const std::int32_t stage = plan.stage_of_layer(blocks.block(block).layer);
    const layout::Place owner = layout::place_of(plan, plan.owner_rank(blocks, block));
    const layout::Place backup = layout::place_of(plan, plan.backups_of(block)[0]);
    EXPECT_EQ(backup.stage, stage);
    EXPECT_NE(backup.replica, owner.replica);
    if (blocks.part(blocks.block(block).part).slice >= 0) {
      EXPECT_EQ(backup.slice, owner.slice);
    }
  }
}

TEST(Backups, AreSpreadEvenly) {
  for (const std::int32_t copies : {1, 2})
    for (const std::int32_t domain_size : {1, 2, 4}) {
      plan::HealthyRequest request{
          .world_size = 24, .pipeline = 2, .micro_batches = 12, .copies = copies};
      for (std::int32_t rank = 0; rank < 24; ++rank) request.domains.push_back(rank / domain_size);
      const layout::BlockTable blocks = blocks_of(1, "gpt2-124m");
      const Plan plan = plan::healthy_plan(blocks, request).value();
      for (std::size_t stage = 0; stage < 2; ++stage) {
        std::map<std::int32_t, std::int64_t> kept;
        for (const std::int32_t rank : ranks_of(plan, stage)) kept[rank] = 0;
        for (std::int64_t block = 0; block < blocks.count(); ++block)
          for (const std::int32_t rank : plan.backups_of(block))
            if (kept.contains(rank)) kept[rank] += blocks.block(block).elems;
        std::int64_t least = kept.begin()->second, most = least;
        for (const auto& [rank, elems] : kept) {
          least = std::min(least, elems);
          most = std::max(most, elems);
        }
        EXPECT_GT(least, 0);
        // Always to whoever has least: a block apart, and one more where that is the owner.
        EXPECT_LE(most - least, 2 * layout::kBlockElems) << copies << " copies, " << domain_size;
      }
    }
}

}  // namespace
}  // namespace elaswave
