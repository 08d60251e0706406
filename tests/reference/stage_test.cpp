// The model in chunks: any cut, any order of micro-batches, backward split or not, activations kept
// or computed again, must give the bits of the whole model run front to back.
#include "model/gpt/stage.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "parallel/comm/simulation.h"
#include "tests/reference/stage_case.h"

namespace elaswave::test {
namespace {

using layers::Recompute;

constexpr Backward kBackwards[] = {Backward::fused, Backward::split, Backward::mixed};
constexpr Recompute kRecomputes[] = {Recompute::none, Recompute::selective, Recompute::full};

void expect_finite_and_alive(const StepResult& result) {
  for (const auto* losses : {&result.losses, &result.validation})
    for (const auto& tokens : *losses)
      for (const float loss : tokens) ASSERT_TRUE(std::isfinite(loss) && loss > 0);
  for (std::size_t tensor = 0; tensor < result.sums.size(); ++tensor) {
    bool moved = false;
    for (const std::int64_t sum : result.sums[tensor]) moved = moved || sum != 0;
    EXPECT_TRUE(moved) << "tensor " << tensor << " has no gradient";
  }
}

TEST(Stage, every_cut_order_split_and_recompute_gives_the_bits_of_the_whole_model) {
  std::int64_t cases = 0, actions = 0;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const SmallModel model = random_model(seed);
    const StepResult expected = run_whole(model);
    expect_finite_and_alive(expected);
    for (const Cut& cut : all_cuts(static_cast<std::int32_t>(model.config.layers) + 2))
      for (const Backward backward : kBackwards)
        for (const Recompute recompute : kRecomputes) {
          const StepPlan plan = random_plan(cut, model.micro_batches, backward, recompute,
                                            combine64(seed, static_cast<std::uint64_t>(cases)));
          const StepResult result = run_step(model, plan, nullptr);
          ASSERT_EQ(result.losses, expected.losses) << "seed " << seed << " case " << cases;
          ASSERT_EQ(result.validation, expected.validation) << "seed " << seed;
          ASSERT_EQ(result.sums, expected.sums) << "seed " << seed << " case " << cases;
          if (HasFailure()) FAIL() << "seed " << seed << " case " << cases;
          ++cases;
          actions += std::ssize(plan.tasks);
        }
  }
  std::printf("campaign: %lld cases, %lld actions\n", static_cast<long long>(cases),
              static_cast<long long>(actions));
}

/// What one Stage takes, for its memory alone.
struct MemoryCase {
  Recompute recompute = Recompute::none;
  pipeline::Slots slots;
  layout::LayerRange layers = {0, 5};
};
constexpr spec::ModelConfig kMemoryModel = {
    .layers = 3, .heads = 2, .hidden = 32, .context = 64, .vocab = 34};

gpt::ActivationBytes bytes_of(const MemoryCase& one, comm::SliceGroup* slices = nullptr) {
  const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic).value();
  device::CpuStream stream(1);
  const spec::Inventory inventory(kMemoryModel, DType::f32);
  const layout::BlockTable blocks = inventory.blocks();
  zero::TensorStore working(blocks, std::vector<std::int64_t>(inventory.parts().size(), 4));
  zero::GradSums sums(blocks, zero::SumMode::exact);
  const layers::Parameters parameters(inventory, working);
  layers::Gradients gradients(inventory, sums, 1, 1);
  const gpt::StageChunk chunk{.layers = one.layers, .slots = one.slots};
  return gpt::Stage({.ops = *ops,
                     .stream = stream,
                     .config = kMemoryModel,
                     .micro_batch = 1,
                     .recompute = one.recompute,
                     .loss_chunk_tokens = kMemoryModel.context,
                     .slice_group = slices},
                    inventory, parameters, gradients, std::span(&chunk, 1), {})
      .activation_bytes();
}

// The formulas of model/gpt/README.md, "Memory".
TEST(Stage, memory_is_what_the_formulas_say) {
  constexpr std::int64_t L = 3, H = 2, C = 32, N = 64, row = 4 * N;
  const auto none = bytes_of({Recompute::none, {0, 2, 3, 1}});
  EXPECT_EQ(none.stash, 2 * row * (L * (16 * C + 4 + H) - C));
  EXPECT_EQ(none.keep, 3 * row * (2 * C + 2));
  EXPECT_EQ(none.weight_stash, row * L * 9 * C);
  EXPECT_EQ(none.scratch, row * (6 * C + 1));
  const auto selective = bytes_of({Recompute::selective, {0, 2, 3, 0}});
  EXPECT_EQ(selective.stash, 2 * row * (L * (10 * C + 4 + H) - C));
  EXPECT_EQ(selective.weight_stash, 0);
  EXPECT_EQ(selective.scratch, row * (10 * C + 1));
  const auto full = bytes_of({Recompute::full, {0, 1, 3, 0}});
  EXPECT_EQ(full.stash, row * (L * (16 * C + 4 + H) - C));
  EXPECT_EQ(full.scratch, row * (6 * C + 1) + row * (15 * C + 4 + H));
  EXPECT_EQ(bytes_of({Recompute::none, {0, 1, 1, 1}, {0, 1}}).total(), 0);
  const auto head = bytes_of({Recompute::none, {0, 1, 1, 0}, {4, 5}});
  EXPECT_EQ(head.keep, row * (C + 2));
  EXPECT_EQ(head.total(), row * (C + 2) + row * (2 * C + 1));
}

TEST(Stage, memory_of_a_slice_is_what_the_formulas_say) {
  constexpr std::int64_t L = 3, H = 2, C = 32, N = 64, t = 2, n = N / t, V = 17;
  const auto report = comm::simulate({.ranks = t, .probe = {}}, [&](comm::World& world) {
    comm::SliceGroup group(world, {0, 1}, kSecond);
    const auto none = bytes_of({Recompute::none, {0, 1, 1, 1}}, &group);
    EXPECT_EQ(none.stash, 4 * (L * (n * (4 * C + 4) + N * (12 * C + H) / t) - n * C));
    EXPECT_EQ(none.keep, 4 * n * (2 * C + 2));
    EXPECT_EQ(none.weight_stash, 4 * L * N * (2 * C + 7 * C / t));
    const std::int64_t logits =
        4 * N * kernels::logits_stride(V) +
        N * (2 + t) * static_cast<std::int64_t>(sizeof(kernels::LogitStats));
    EXPECT_EQ(none.scratch, 4 * N * (2 * C + 4 * C / t + 1) + logits);
  });
  EXPECT_TRUE(report.has_value()) << report.error().text();
}

// Mistakes of a schedule end here and not in a wrong gradient.
TEST(StageDeathTest, actions_out_of_order_are_bugs) {
  const SmallModel model = random_model(1);
  const Cut whole = {{0, static_cast<std::int32_t>(model.config.layers) + 2}};
  const auto run_without = [&](std::size_t left_out, Recompute recompute) {
    StepPlan plan = random_plan(whole, model.micro_batches, Backward::split, recompute, 1);
    plan.tasks.erase(plan.tasks.begin() + static_cast<std::ptrdiff_t>(left_out));
    (void)run_step(model, plan, nullptr);
  };
  EXPECT_DEATH(run_without(0, Recompute::none), "finds micro-batch");
  const StepPlan plan =
      random_plan(whole, model.micro_batches, Backward::split, Recompute::full, 1);
  for (std::size_t i = 0; i < plan.tasks.size(); ++i)
    if (plan.tasks[i].action.op == layout::Op::recompute ||
        plan.tasks[i].action.op == layout::Op::input_gradient) {
      EXPECT_DEATH(run_without(i, Recompute::full), "finds micro-batch|uses slot")
          << layout::to_text(plan.tasks[i].action);
    }
}

}  // namespace
}  // namespace elaswave::test
