// Ranks of many layouts, whose planned memory is held to what they allocate.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "app/layout.h"
#include "parallel/comm/staged_world.h"
#include "tests/support/random_copies.h"
#include "tests/support/training.h"

namespace elaswave::test {

class MemoryTesting : public ::testing::Test {
 protected:
  MemoryTesting() {
    write_tokens(folder_.file("train.bin"), 3000, 263);
    config_ = tiny_config(folder_.file("train.bin"));
    config_.model.layers = 5;
    config_.model.heads = 4;
    config_.model.hidden = 64;
    config_.model.vocab = 263;
    config_.train.global_batch = 6;  // three micro-batches
  }
  virtual app::MakeRankDevice device() const { return &app::make_cpu_rank; }
  /// Around the making of a rank.
  virtual void before_rank() {}
  virtual void after_rank(const spec::MemoryTable& planned) { (void)planned; }

  static std::string text_of(spec::MemoryTerm term, std::int32_t rank, double planned,
                             double real) {
    return fmt::format("{} of rank {}: {} planned, {} measured", spec::name(term), rank, planned,
                       real);
  }

  void check_rank(const app::RunSpec& spec, const layout::Plan& plan, comm::World& world) {
    const auto made_device = device()({.threads = 1}).value();
    const kernels::Machine machine = made_device->machine();
    const auto tokens =
        data::TokenSet::open(config_.data.train, data::TokenFormat::nanogpt).value();
    before_rank();
    std::optional<comm::StagedWorld> staged;
    if (!machine.stream.device().host_reads()) staged.emplace(world, machine.stream);
    auto made = app::Trainer::create(
        spec,
        {.world = staged ? *staged : world, .machine = machine, .train = tokens, .plan = &plan});
    ASSERT_TRUE(made.has_value()) << made.error().text();
    const std::unique_ptr<app::Trainer> trainer = *std::move(made);
    const spec::MemoryTable real = trainer->memory();
    const spec::MemoryTable planned = app::memory_at(spec, plan, world.world_rank());
    for (std::size_t index = 0; index < spec::kMemoryTerms; ++index) {
      const auto term = static_cast<spec::MemoryTerm>(index);
      if (real[term] == 0) continue;
      EXPECT_NEAR(planned[term] / real[term], 1, 0.02)
          << text_of(term, world.world_rank(), planned[term], real[term]);
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
    after_rank(planned);
    ++ranks_;
  }

  /// Nothing for a layout that is not legal.
  void check_layout(int ranks) {
    app::RunSpec spec = app::resolve(config_).value();
    if (layouts_ % 2 == 1) spec.loss_chunk_tokens = 5;  // of 14
    const auto made = app::healthy_plan(spec, ranks, Generation{0});
    if (!made) return;
    layout::Plan plan = made->plan;
    const spec::Inventory inventory(spec.model, spec.storage, plan.tensor_degree);
    // None, one or two of each block, anywhere.
    deal_copies(dice_, inventory.blocks(), layouts_ % 3, plan);
    const auto report = comm::simulate({.ranks = ranks},
                                       [&](comm::World& world) { check_rank(spec, plan, world); });
    ASSERT_TRUE(report.has_value()) << report.error().text();
    ++layouts_;
  }

  Dice dice_{1};
  TemporaryFolder folder_;
  app::Config config_;
  int layouts_ = 0, ranks_ = 0, terms_ = 0, with_copies_ = 0;
};

}  // namespace elaswave::test
