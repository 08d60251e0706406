// Planned memory is what is allocated: of every rank, for every legal combination of slices,
// stages, chunks, schedule and recompute, ranks without a micro-batch among them.
#include <gtest/gtest.h>

#include <cstdio>

#include "app/layout.h"
#include "tests/support/random_copies.h"
#include "tests/support/training.h"

namespace elaswave::test {
namespace {

class MemoryTest : public testing::Test {
 protected:
  MemoryTest() {
    write_tokens(folder_.file("train.bin"), 3000, 263);
    config_ = tiny_config(folder_.file("train.bin"));
    config_.model.layers = 5;
    config_.model.heads = 4;
    config_.model.hidden = 64;
    config_.model.vocab = 263;
    config_.train.global_batch = 6;  // three micro-batches
  }

  void check_rank(const app::RunSpec& spec, const layout::Plan& plan, comm::World& world) {
    const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic).value();
    device::CpuStream stream(1);
    const auto tokens =
        data::TokenSet::open(config_.data.train, data::TokenFormat::nanogpt).value();
    auto made = app::Trainer::create(spec, {.world = world,
                                            .machine = kernels::host_machine(*ops, stream),
                                            .train = tokens,
                                            .plan = &plan});
    ASSERT_TRUE(made.has_value()) << made.error().text();
    const std::unique_ptr<app::Trainer> trainer = *std::move(made);
    const spec::MemoryTable real = trainer->memory();
    const spec::MemoryTable planned = app::memory_at(spec, plan, world.world_rank());
    for (std::size_t index = 0; index < spec::kMemoryTerms; ++index) {
      const auto term = static_cast<spec::MemoryTerm>(index);
      if (real[term] == 0) continue;
      EXPECT_NEAR(planned[term] / real[term], 1, 0.02)
          << spec::name(term) << " of rank " << world.world_rank() << ": " << planned[term]
          << " planned, " << real[term] << " measured";
      ++terms_;
    }
    if (real[spec::MemoryTerm::exchange] == 0) {
      EXPECT_EQ(planned[spec::MemoryTerm::exchange], 0) << "rank " << world.world_rank();
    }
    if (real[spec::MemoryTerm::backups] == 0) {
      EXPECT_EQ(planned[spec::MemoryTerm::backups], 0) << "rank " << world.world_rank();
    } else {
      ++with_copies_;
    }
    ++ranks_;
  }

  /// None, one or two of each block, anywhere.
  void add_copies(const app::RunSpec& spec, layout::Plan& plan) {
    const spec::Inventory inventory(spec.model, spec.storage, plan.tensor_degree);
    deal_copies(dice_, inventory.blocks(), layouts_ % 3, plan);
  }

  /// Nothing for a layout that is not legal.
  void check_layout(int ranks) {
    const app::RunSpec spec = app::resolve(config_).value();
    const auto made = app::healthy_plan(spec, ranks, Generation{0});
    if (!made) return;
    layout::Plan plan = made->plan;
    add_copies(spec, plan);
    const auto report = comm::simulate({.ranks = ranks},
                                       [&](comm::World& world) { check_rank(spec, plan, world); });
    ASSERT_TRUE(report.has_value()) << report.error().text();
    ++layouts_;
  }

  Dice dice_{1};
  TemporaryFolder folder_;
  app::Config config_;
  int asked_ = 0;
  int layouts_ = 0, ranks_ = 0, terms_ = 0, with_copies_ = 0;
};

TEST_F(MemoryTest, PlannedIsAllocatedOnEveryRank) {
  for (const std::int64_t tensor : {1, 2, 4})
    for (const std::int64_t stages : {1, 2, 3, 4})
      for (const std::int64_t chunks : {1, 2})
        for (const char* schedule : {"auto", "gpipe", "1f1b", "interleaved", "zb-h1", "zbv"})
          for (const char* recompute : {"none", "selective", "full"})
            // One pipeline, unequal stages, and more replicas than micro-batches.
            for (const std::int64_t extra : {std::int64_t{0}, std::int64_t{1}, 3 * stages}) {
              config_.parallel.tp = tensor;
              config_.parallel.pp = stages;
              config_.parallel.chunks = chunks;
              config_.parallel.schedule = schedule;
              config_.train.recompute = recompute;
              config_.numerics.mode = stages == 3 ? "fast" : "exact";
              // Both meet every value of the others.
              const bool bf16 = ++asked_ % 2 == 0;
              config_.train.precision = bf16 ? "bf16" : "f32";
              SCOPED_TRACE(testing::Message()
                           << "tp " << tensor << ", pp " << stages << ", chunks " << chunks << ", "
                           << schedule << ", " << recompute << ", replicas " << stages + extra
                           << ", " << config_.train.precision);
              check_layout(static_cast<int>((stages + extra) * tensor));
              if (HasFailure()) return;
            }
  std::printf("campaign: %d layouts, %d ranks (%d with copies), %d terms compared\n", layouts_,
              ranks_, with_copies_, terms_);
  EXPECT_GE(with_copies_, 300);
  EXPECT_GE(layouts_, 300);
}

// In bf16 the CPU's kernels copy the operands of a call to f32; a GPU's take them as they are.
TEST_F(MemoryTest, CopiesOfBf16AreACpus) {
  const auto table_of = [&](const char* precision, const char* kind) {
    config_.train.precision = precision;
    config_.device.kind = kind;
    const app::RunSpec spec = app::resolve(config_).value();
    return app::worst_memory(spec, app::healthy_plan(spec, 1, Generation{0})->plan);
  };
  using enum spec::MemoryTerm;
  const spec::MemoryTable f32 = table_of("f32", "cpu"), cpu = table_of("bf16", "cpu"),
                          gpu = table_of("bf16", "cuda");
  // x, W and y of the wide product: more than the head's here.
  constexpr double kN = 14, kC = 64;
  EXPECT_EQ(cpu[widened], 4 * (kN * kC + kC * 4 * kC + kN * 4 * kC));
  EXPECT_EQ(f32[widened], 0);
  EXPECT_EQ(gpu.total(), cpu.total() - cpu[widened]);
  EXPECT_EQ(gpu[optimizer], f32[optimizer]);
  EXPECT_EQ(gpu[sums], f32[sums]);
  EXPECT_LT(gpu[weights], 0.52 * f32[weights]);  // vectors stay
  // The head's: W, x and dx.
  config_.model.vocab = 2000;
  EXPECT_EQ(table_of("bf16", "cpu")[widened], 4 * (2000 * kC + 2 * kN * kC));
}

}  // namespace
}  // namespace elaswave::test
