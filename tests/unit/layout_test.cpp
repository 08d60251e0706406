// Blocks, plans and the inventory: index math that every layout rests on.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <set>

#include "elastic/plan/healthy.h"
#include "model/spec/flops.h"
#include "model/spec/inventory.h"
#include "parallel/layout/blocks.h"
#include "parallel/layout/plan.h"
#include "parallel/layout/sums_order.h"
#include "tests/support/plans.h"

namespace elaswave {
namespace {

using layout::kBlockElems;

layout::BlockTable small_table() {
  return layout::BlockTable(
      {{0, 1}, {0, kBlockElems}, {1, kBlockElems + 1}, {2, 3 * kBlockElems - 1}});
}

TEST(Blocks, CoverEveryTensorOnceInOrder) {
  const layout::BlockTable table = small_table();
  ASSERT_EQ(table.layers(), 3);
  ASSERT_EQ(table.count(), 1 + 1 + 2 + 3);
  std::map<std::int32_t, std::int64_t> covered;
  for (std::int64_t index = 0; index < table.count(); ++index) {
    const layout::Block& block = table.block(index);
    EXPECT_EQ(block.begin, covered[block.part]);
    EXPECT_EQ(block.layer, table.part(block.part).layer);
    EXPECT_LE(block.elems, kBlockElems);
    covered[block.part] += block.elems;
    EXPECT_LE(table.layer_begin(block.layer), index);
    EXPECT_LT(index, table.layer_begin(block.layer + 1));
  }
  for (std::int32_t tensor = 0; tensor < table.parts(); ++tensor)
    EXPECT_EQ(covered[tensor], table.part(tensor).elems);
  EXPECT_EQ(table.total_elems(), 5 * kBlockElems + 1);
}

TEST(Plan, HealthyPlanIsSoundAndBalancedForAnyWorld) {
  const spec::ModelConfig config = spec::find_preset("tiny").value();
  const layout::BlockTable blocks = spec::Inventory(config, DType::f32).blocks();
  for (std::int32_t ranks = 1; ranks <= 13; ++ranks)
    for (const std::int64_t micro_batches : {1, 7, 8, 10, 64}) {
      const auto plan = plan::healthy_plan(blocks, ranks, micro_batches, Generation{3});
      ASSERT_TRUE(plan.has_value()) << plan.error().text();
      EXPECT_EQ(layout::find_fault(*plan, blocks, ranks), "");
      std::set<std::int64_t> seen;
      std::size_t least = ~std::size_t{0}, most = 0;
      for (std::int32_t rank = 0; rank < ranks; ++rank) {
        const auto mine = layout::micro_batches_of(*plan, layout::place_of(*plan, rank));
        seen.insert(mine.begin(), mine.end());
        least = std::min(least, mine.size());
        most = std::max(most, mine.size());
      }
      EXPECT_EQ(static_cast<std::int64_t>(seen.size()), micro_batches);
      EXPECT_LE(most - least, 1u);
      for (std::int32_t layer = 0; layer < blocks.layers(); ++layer) {
        std::map<std::int32_t, int> owned;
        for (std::int64_t index = blocks.layer_begin(layer); index < blocks.layer_begin(layer + 1);
             ++index)
          ++owned[plan->owner[static_cast<std::size_t>(index)]];
        const std::int64_t count = blocks.layer_begin(layer + 1) - blocks.layer_begin(layer);
        for (const auto& [rank, blocks_owned] : owned)
          EXPECT_LE(blocks_owned, ceil_div(count, ranks));
      }
    }
}

TEST(Plan, FaultsAreNamed) {
  const layout::BlockTable blocks = small_table();
  const layout::Plan good = plan::healthy_plan(blocks, 3, 5, Generation{0}).value();
  const auto fault = [&](auto&& change) {
    layout::Plan plan = good;
    change(plan);
    EXPECT_NE(layout::digest(plan), layout::digest(good));
    return layout::find_fault(plan, blocks, 3);
  };
  EXPECT_EQ(layout::find_fault(good, blocks, 3), "");
  EXPECT_NE(fault([](layout::Plan& plan) { plan.owner.pop_back(); }), "");
  EXPECT_NE(fault([](layout::Plan& plan) { plan.owner.front() = 3; }), "");
  EXPECT_NE(fault([](layout::Plan& plan) { plan.route.front() = -1; }), "");
  EXPECT_NE(fault([](layout::Plan& plan) { plan.route.push_back(0); }), "");
  EXPECT_NE(fault([](layout::Plan& plan) { plan.chunk_of_layer.front() = 1; }), "");
  EXPECT_NE(fault([](layout::Plan& plan) { plan.stages[0].replicas[1].world_ranks = {0}; }), "");
  EXPECT_NE(fault([](layout::Plan& plan) { plan.stages[0].replicas[1].world_ranks = {7}; }), "");
}

/// Canonical indices of a part's elements, one by one.
std::vector<std::int64_t> canonical_of(const layout::SliceMap& map, std::int64_t begin,
                                       std::int64_t elems) {
  std::vector<std::int64_t> indices;
  for (std::int64_t i = begin; i < begin + elems; ++i) indices.push_back(map.canonical(i));
  return indices;
}

TEST(SliceMap, RunsSayWhereEveryElementLies) {
  // 7 x 24, columns 2 and 3 of each of three groups of 8, rows 1 to 5; and ordinary slices.
  const std::vector<layout::SliceMap> maps = {
      {.canonical_cols = 24, .row_begin = 1, .rows = 5, .groups = 3, .col_begin = 2, .cols = 2},
      {.canonical_cols = 24, .row_begin = 0, .rows = 7, .groups = 1, .col_begin = 13, .cols = 11},
      {.canonical_cols = 24, .row_begin = 3, .rows = 4, .groups = 1, .col_begin = 0, .cols = 24},
      {.canonical_cols = 24, .row_begin = 0, .rows = 1, .groups = 3, .col_begin = 7, .cols = 1}};
  EXPECT_EQ(maps[0].canonical(0), 26);
  EXPECT_EQ(maps[0].canonical(7), 24 * 2 + 3);
  std::int64_t cases = 0;
  for (const layout::SliceMap& map : maps) {
    for (std::int64_t begin = 0; begin < map.elems(); ++begin)
      for (std::int64_t elems = 1; elems <= map.elems() - begin; ++elems) {
        const auto expected = canonical_of(map, begin, elems);
        std::vector<std::int64_t> from_runs, from_visits;
        const auto runs = map.runs(begin, elems);
        for (const layout::ElementRuns& run : runs) {
          EXPECT_TRUE(run.count >= 1 && run.elems >= 1 && run.stride >= run.elems);
          for (std::int64_t k = 0; k < run.count; ++k)
            for (std::int64_t i = 0; i < run.elems; ++i)
              from_runs.push_back(run.begin + k * run.stride + i);
        }
        std::int64_t next = begin;
        map.visit_runs(begin, elems,
                       [&](std::int64_t index, std::int64_t from, std::int64_t length) {
                         EXPECT_EQ(index, next);
                         next += length;
                         for (std::int64_t i = 0; i < length; ++i) from_visits.push_back(from + i);
                       });
        ASSERT_EQ(from_runs, expected) << begin << " + " << elems;
        ASSERT_EQ(from_visits, expected) << begin << " + " << elems;
        EXPECT_LE(runs.size(), 3u) << "the first row, the whole ones, the last";
        ++cases;
      }
  }
  EXPECT_EQ(maps[2].runs(5, 60), (std::vector<layout::ElementRuns>{{77, 60, 60, 1}}));
  EXPECT_EQ(maps[1].runs(11, 33), (std::vector<layout::ElementRuns>{{37, 11, 24, 3}}));
  std::printf("campaign: %lld ranges of %zu slices\n", static_cast<long long>(cases), maps.size());
}

TEST(SliceMap, SlicesOfATensorHoldEveryElementOnce) {
  const spec::ModelConfig config{
      .layers = 2, .heads = 4, .hidden = 12, .context = 5, .vocab = 37, .dropout = 0};
  for (const std::int32_t degree : {1, 2, 4}) {
    const spec::Inventory inventory(config, DType::f32, degree);
    std::vector<std::vector<int>> seen;
    for (const spec::TensorSpec& tensor : inventory.tensors())
      seen.emplace_back(static_cast<std::size_t>(tensor.elems()), 0);
    for (const spec::PartSpec& part : inventory.parts()) {
      EXPECT_EQ(part.map.elems(), part.elems());
      for (const std::int64_t index : canonical_of(part.map, 0, part.elems()))
        ++seen[static_cast<std::size_t>(part.tensor)].at(static_cast<std::size_t>(index));
    }
    for (std::size_t tensor = 0; tensor < seen.size(); ++tensor)
      EXPECT_EQ(seen[tensor], std::vector<int>(seen[tensor].size(), 1))
          << inventory.tensors()[tensor].name << " in " << degree;
  }
}

TEST(SumsOrder, FollowsTheRow) {
  layout::Plan plan;
  plan.chunk_of_layer = {0, 0, 1, 1, 1};
  plan.stage_of_chunk = {0, 0};  // both chunks on one stage
  plan.stages = {{{{{0}}, {{1}}}}};
  plan.micro_batches = 2;
  plan.route = {0, 0};
  plan.schedule = {*layout::parse_row("0F0 1F0 0F1 1F1 1I0 0B0 1W0 1B1 0I1 0W1"), {}};
  using Events = std::vector<layout::SumsEvent>;
  const Events expected = {{4, true}, {4, false}, {3, false}, {2, false}, {1, false}, {0, false}};
  EXPECT_EQ(layout::sums_order(plan, 0, 0), expected);
  EXPECT_EQ(layout::sums_order(plan, 0, 1), expected);  // nothing to do: all at once
  plan.schedule[0] = *layout::parse_row("0F0 1F0 0F1 1F1 1I0 0B0 1B1 0B1 1W0");
  EXPECT_EQ(layout::sums_order(plan, 0, 0),
            (Events{{4, true}, {1, false}, {0, false}, {4, false}, {3, false}, {2, false}}));
}

TEST(SumsOrder, TellsEveryLayerOnceWhenNothingMoreIsAddedToIt) {
  std::int64_t rows = 0, idle = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    test::Dice dice(seed);
    const layout::BlockTable blocks = test::random_table(dice, 1);
    const layout::Plan plan = test::random_plan(dice, blocks, 1, {});
    ASSERT_EQ(layout::find_fault(plan, blocks, test::world_size(plan)), "");
    for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
      for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica) {
        const layout::Row& row = plan.row(stage, replica);
        const auto order = layout::sums_order(plan, stage, replica);
        std::set<std::pair<std::int32_t, bool>> told;
        std::int64_t previous = -1;
        for (const layout::SumsEvent& event : order) {
          EXPECT_TRUE(told.insert({event.layer, event.tied}).second) << "told twice";
          const std::int32_t chunk = plan.chunk_of_layer[static_cast<std::size_t>(event.layer)];
          EXPECT_EQ(plan.stage_of_chunk[static_cast<std::size_t>(chunk)], stage);
          if (row.empty()) continue;
          const std::int64_t at =
              event.tied ? layout::last_forward(row, chunk) : layout::last_gradient(row, chunk);
          ASSERT_GE(at, previous);
          previous = at;
          for (std::size_t later = static_cast<std::size_t>(at) + 1; later < row.size(); ++later) {
            const layout::Op op = row[later].op;
            EXPECT_FALSE(row[later].chunk == chunk &&
                         (event.tied
                              ? op == layout::Op::forward
                              : op == layout::Op::backward || op == layout::Op::weight_gradient));
          }
        }
        std::size_t expected = 0;
        for (std::int32_t layer = 0; layer < plan.layers(); ++layer)
          expected += plan.stage_of_layer(layer) == stage ? 1 : 0;
        expected += plan.stage_of_layer(plan.layers() - 1) == stage ? 1 : 0;
        EXPECT_EQ(order.size(), expected);
        ++rows;
        idle += row.empty() ? 1 : 0;
      }
  }
  EXPECT_GT(idle, 0);
  std::printf("campaign: %lld rows, %lld of them empty\n", static_cast<long long>(rows),
              static_cast<long long>(idle));
}

TEST(Inventory, MatchesPublishedGpt2) {
  // Parameter counts with the tied head counted once, as published for the Hugging Face
  // checkpoints.
  const std::map<std::string, std::int64_t> published = {{"gpt2-124m", 124'439'808},
                                                         {"gpt2-355m", 354'823'168},
                                                         {"gpt2-774m", 774'030'080},
                                                         {"gpt2-1.5b", 1'557'611'200}};
  for (const auto& [name, count] : published) {
    const spec::ModelConfig config = spec::find_preset(name).value();
    const spec::Inventory inventory(config, DType::f32);
    EXPECT_EQ(inventory.total_elems(), count) << name;
    EXPECT_EQ(inventory.blocks().total_elems(), count);
    EXPECT_EQ(inventory.tensor(inventory.wte()).name, "wte.weight");
    EXPECT_EQ(inventory.tensor(inventory.block_tensor(1, spec::BlockTensor::mlp_proj_weight)).name,
              "h.1.mlp.c_proj.weight");
    EXPECT_EQ(inventory.tensor(inventory.ln_f_bias()).name, "ln_f.bias");
    for (const spec::TensorSpec& tensor : inventory.tensors())
      EXPECT_EQ(tensor.decay, tensor.dims == 2) << tensor.name;
  }
}

TEST(Config, ErrorsNameTheKey) {
  spec::ModelConfig config = spec::find_preset("tiny").value();
  EXPECT_TRUE(spec::validate(config).has_value());
  config.hidden = 66;
  const auto result = spec::validate(config);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().where, "model.hidden");
  EXPECT_NE(result.error().fix.find("64 or 68"), std::string::npos) << result.error().fix;
  EXPECT_FALSE(spec::find_preset("gpt3").has_value());
}

TEST(Flops, Gpt2SmallAt256) {
  spec::ModelConfig config = spec::find_preset("gpt2-124m").value();
  config.context = 256;
  // 6 * (12 * 12 * 768^2 + 50257 * 768) + 6 * 12 * 768 * 256
  EXPECT_DOUBLE_EQ(spec::training_flops_per_token(config),
                   6.0 * (84'934'656 + 38'597'376) + 14'155'776);
}

}  // namespace
}  // namespace elaswave
