// Blocks, plans and the inventory: index math that every layout rests on.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "elastic/plan/healthy.h"
#include "model/spec/flops.h"
#include "model/spec/inventory.h"
#include "parallel/layout/blocks.h"
#include "parallel/layout/plan.h"

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
    EXPECT_EQ(block.begin, covered[block.tensor]);
    EXPECT_EQ(block.layer, table.tensor(block.tensor).layer);
    EXPECT_LE(block.elems, kBlockElems);
    covered[block.tensor] += block.elems;
    EXPECT_LE(table.layer_begin(block.layer), index);
    EXPECT_LT(index, table.layer_begin(block.layer + 1));
  }
  for (std::int32_t tensor = 0; tensor < table.tensors(); ++tensor)
    EXPECT_EQ(covered[tensor], table.tensor(tensor).elems);
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
