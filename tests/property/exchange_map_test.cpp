// The lists that reductions and gathers are made of: over random plans, those of all ranks fit
// together, and hold what the definitions say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "parallel/zero/exchange.h"
#include "parallel/zero/store.h"
#include "tests/property/exchange_testing.h"

namespace elaswave::zero {
namespace {

using layout::SumsEvent;

/// Units in the order in which the events of this rank's row complete them, from the definition.
std::vector<std::int32_t> order_by_events(const Case& made, const ExchangeMap& map) {
  const layout::Place place = layout::place_of(made.plan, map.world_rank());
  std::vector<std::int32_t> order;
  if (place.stage < 0) return order;
  std::set<std::pair<std::int32_t, bool>> happened;
  for (const SumsEvent& event : layout::sums_order(made.plan, place.stage, place.replica)) {
    happened.insert({event.layer, event.tied});
    for (std::int32_t index = 0; index < map.count(); ++index) {
      const Unit& unit = map.unit(index);
      bool complete = true;
      for (const std::int32_t part : unit.parts) {
        const layout::PartExtent& extent = made.blocks.part(part);
        if (adds(made, extent, place, false)) complete &= happened.contains({extent.layer, false});
        if (adds(made, extent, place, true))
          complete &= happened.contains({extent.tied_layer, true});
      }
      if (complete && std::find(order.begin(), order.end(), index) == order.end())
        order.push_back(index);
    }
  }
  return order;
}

TEST(ExchangeMap, ListsOfAllRanksFitTogether) {
  constexpr std::uint64_t kCases = 300;
  std::int64_t pairs = 0, ties = 0;
  for (std::uint64_t seed = 1; seed <= kCases; ++seed) {
    const Case made = make_case(seed);
    std::vector<ExchangeMap> maps;
    for (std::int32_t rank = 0; rank < made.ranks; ++rank)
      maps.emplace_back(made.blocks, made.plan, rank);
    std::vector<int> owners(static_cast<std::size_t>(made.blocks.count()), 0);
    for (std::int32_t rank = 0; rank < made.ranks; ++rank) {
      const ExchangeMap& map = maps[static_cast<std::size_t>(rank)];
      const layout::Place place = layout::place_of(made.plan, rank);
      std::vector<bool> held(static_cast<std::size_t>(made.blocks.parts()), false);
      for (std::int32_t index = 0; index < map.count(); ++index) {
        const Unit& unit = map.unit(index);
        for (const std::int32_t part : unit.parts) {
          EXPECT_FALSE(held[static_cast<std::size_t>(part)]) << "part in two units";
          held[static_cast<std::size_t>(part)] = true;
          EXPECT_EQ(made.blocks.part(part).layer, unit.layer);
          // The members, from the definition.
          std::vector<std::int32_t> members;
          for (std::int32_t other = 0; other < made.ranks; ++other) {
            const layout::Place at = layout::place_of(made.plan, other);
            if (at.stage >= 0 && (adds(made, made.blocks.part(part), at, false) ||
                                  adds(made, made.blocks.part(part), at, true)))
              members.push_back(other);
          }
          EXPECT_EQ(unit.members, members) << "seed " << seed << " part " << part;
          EXPECT_EQ(unit.adds_home, adds(made, made.blocks.part(part), place, false));
          if (made.blocks.part(part).tied_layer >= 0) {
            EXPECT_EQ(unit.adds_tied, adds(made, made.blocks.part(part), place, true));
            ties += unit.adds_tied && !unit.adds_home;
          }
        }
        for (const std::int64_t block : unit.owned[static_cast<std::size_t>(map.self(index))]) {
          ++owners[static_cast<std::size_t>(block)];
          EXPECT_EQ(made.plan.owner_rank(made.blocks, block), rank);
        }
      }
      EXPECT_EQ(held, held_parts(made.plan, made.blocks, rank));
      if (map.count() > 0) {
        const auto order = map.order_of(rank);
        EXPECT_EQ(std::vector<std::int32_t>(order.begin(), order.end()), order_by_events(made, map))
            << "seed " << seed << " rank " << rank;
      }
      // Both ends of a pair know the same units in the same order.
      for (const std::int32_t peer : map.members()) {
        const ExchangeMap& theirs = maps[static_cast<std::size_t>(peer)];
        const auto here = map.order_of(peer), there = theirs.order_of(rank);
        const auto own = theirs.order_of(peer);
        EXPECT_EQ(here.size(), there.size());
        std::vector<std::int32_t> mine, its;  // first parts
        for (const std::int32_t unit : here) mine.push_back(map.unit(unit).parts.front());
        for (const std::int32_t index : own) {
          const Unit& unit = theirs.unit(index);
          if (std::binary_search(unit.members.begin(), unit.members.end(), rank))
            its.push_back(unit.parts.front());
        }
        EXPECT_EQ(mine, its) << "seed " << seed << ": rank " << rank << " about " << peer;
        ++pairs;
      }
    }
    EXPECT_EQ(owners, std::vector<int>(owners.size(), 1)) << "seed " << seed;
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(ties, 100);
  std::printf("campaign: %d plans, %lld pairs of ranks, %lld tied units of another stage\n",
              static_cast<int>(kCases), static_cast<long long>(pairs),
              static_cast<long long>(ties));
}

TEST(ExchangeMap, TheLastEventOfAUnitStartsItAndNoneEarlier) {
  // Embedding and head on the first and last stage: the head's stage has nothing but its tied part
  // to send before its own layers are done.
  const layout::BlockTable blocks({{.layer = 0, .elems = 5, .tied_layer = 2},
                                   {.layer = 1, .elems = 3},
                                   {.layer = 2, .elems = 2}});
  layout::Plan plan;
  plan.chunk_of_layer = {0, 1, 1};
  plan.stage_of_chunk = {0, 1};
  plan.stages = {{{{{0}}}}, {{{{1}}}}};
  plan.micro_batches = 1;
  plan.route = {0, 0};
  plan.schedule = {*layout::parse_row("0F0 0B0"), *layout::parse_row("1F0 1B0")};
  plan.owner = {0, 0, 0};
  ASSERT_EQ(layout::find_fault(plan, blocks, 2), "");
  const ExchangeMap first(blocks, plan, 0), last(blocks, plan, 1);
  ASSERT_EQ(first.count(), 1);
  ASSERT_EQ(last.count(), 3);
  const auto order = last.order_of(1);
  EXPECT_EQ(std::vector<std::int32_t>(order.begin(), order.end()),
            (std::vector<std::int32_t>{0, 2, 1}));
  EXPECT_EQ(last.units_read_by(2), (std::vector<std::int32_t>{0, 2}));
  EXPECT_EQ(first.units_read_by(2), std::vector<std::int32_t>{});
  EXPECT_EQ(first.units_read_by(0), std::vector<std::int32_t>{0});
  EXPECT_EQ(held_parts(plan, blocks, 0), (std::vector<bool>{true, false, false}));
  EXPECT_EQ(held_parts(plan, blocks, 1), (std::vector<bool>{true, true, true}));
  EXPECT_EQ(held_parts(plan, blocks, 2), (std::vector<bool>{false, false, false}));
}

TEST(StoreDeathTest, APartThatIsNotHeldHasNoMemory) {
  const layout::BlockTable blocks({{.layer = 0, .elems = 5}, {.layer = 0, .elems = 7}});
  TensorStore store(blocks, std::vector<std::int64_t>{0, 4});
  EXPECT_EQ(store.size_bytes(), 64);
  EXPECT_EQ(store.bytes(blocks.block(1)).size(), 28u);
  EXPECT_DEATH(store.bytes(blocks.block(0)), "not held");
}

}  // namespace
}  // namespace elaswave::zero
