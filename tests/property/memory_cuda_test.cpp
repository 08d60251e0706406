// Memory of ranks on GPUs: all of it is taken before the first step, and it is what was planned.
#include <cstdio>

#include "app/rank_device_cuda.h"
#include "tests/property/device_training.h"
#include "tests/property/memory_testing.h"
#include "tests/support/cuda/emulator.h"

namespace elaswave::test {
namespace {

Result<std::unique_ptr<app::RankDevice>> make_gpu_rank(const app::HostPart& host) {
  return app::make_cuda_rank(host, 0, 0, nullptr);
}

class MemoryCudaTest : public DeviceTraining {
 protected:
  ~MemoryCudaTest() override { emulator::reset(); }

  app::Config short_run() const {
    app::Config short_config = config();
    short_config.train.steps = 4;
    short_config.train.global_batch = 8;
    short_config.data.val = {folder_.file("train.bin")};
    short_config.train.val_every = 2;
    short_config.train.val_batches = 3;
    short_config.elastic.rebalance = false;  // another plan is another engine
    return short_config;
  }
  /// From the first step of the first rank on no allocation finds room.
  static void expect_nothing_allocated(const app::Config& config, int ranks) {
    emulator::reset({.seed = static_cast<std::uint64_t>(ranks)});
    bool refused = false;
    const SimulatedRun run = train(config, ranks, &make_gpu_rank, nullptr, [&](int) -> ProbeHook {
      return [&](Point point) {
        if (point != Point::step_begin) return;
        emulator::refuse_allocations();
        refused = true;
      };
    });
    EXPECT_TRUE(refused);
    ASSERT_EQ(std::ssize(run.steps), config.train.steps);
    EXPECT_TRUE(run.steps.back().val_loss);
  }

 private:
  emulator::OpenDeviceMemory open_;  // as in train_cuda_test
};

TEST_F(MemoryCudaTest, steps_of_one_rank_allocate_nothing) {
  expect_nothing_allocated(short_run(), 1);
}

TEST_F(MemoryCudaTest, steps_of_replicas_allocate_nothing) {
  expect_nothing_allocated(short_run(), 3);
}

TEST_F(MemoryCudaTest, steps_with_stages_and_slices_allocate_nothing) {
  app::Config split = short_run();
  split.parallel.pp = 2;
  split.parallel.tp = 2;
  expect_nothing_allocated(split, 8);
}

TEST_F(MemoryCudaTest, steps_in_bf16_allocate_nothing) {
  app::Config split = short_run();
  split.train.precision = "bf16";
  split.parallel.pp = 2;
  split.parallel.tp = 2;
  expect_nothing_allocated(split, 8);
}

TEST_F(MemoryCudaTest, steps_of_every_schedule_allocate_nothing) {
  app::Config staged = short_run();
  staged.model.layers = 4;
  staged.parallel.pp = 2;
  staged.train.steps = 2;
  struct Case {
    const char *schedule, *recompute;
    std::int64_t chunks;
  };
  for (const auto& [schedule, recompute, chunks] :
       {Case{"gpipe", "full", 1}, Case{"1f1b", "selective", 1}, Case{"interleaved", "full", 2},
        Case{"zb-h1", "selective", 1}, Case{"zbv", "none", 2}}) {
    SCOPED_TRACE(::testing::Message() << schedule << ", " << recompute);
    staged.parallel.schedule = schedule;
    staged.parallel.chunks = chunks;
    staged.train.recompute = recompute;
    expect_nothing_allocated(staged, 2);
  }
}

TEST_F(MemoryCudaTest, steps_without_dropout_and_of_fast_sums_allocate_nothing) {
  app::Config fast = short_run();
  fast.model.dropout = 0;
  fast.numerics.mode = "fast";
  expect_nothing_allocated(fast, 2);
}

TEST_F(MemoryCudaTest, a_gpu_that_is_too_small_is_told_with_the_table) {
  app::Config large = short_run();
  large.device.kind = "cuda";
  for (const std::size_t mib : {1, 32}) {  // one product has a workspace of 32
    emulator::reset({.device_bytes = mib << 20});
    const SimulatedRun run = train_simulated(large, {.make_device = &make_gpu_rank});
    ASSERT_TRUE(run.errors[0]);
    const std::string text = run.errors[0]->text();
    EXPECT_EQ(exit_code(run.errors[0]->code), 4) << text;
    for (const char* part :
         {"emulated GPU", "has no room for", "bytes are free", "of its GPU (weights", "workspaces",
          "of its host (optimizer", "mostly workspaces: lower train.micro_batch"})
      EXPECT_NE(text.find(part), std::string::npos) << part << " in:\n" << text;
    EXPECT_EQ(run.steps.size(), 0u);
    EXPECT_EQ(emulator::live_allocations(), 0u);
  }
}

class PlannedCudaTest : public MemoryTesting {
 protected:
  PlannedCudaTest() {
    config_.device.kind = "cuda";
    emulator::reset();
  }
  app::MakeRankDevice device() const override { return &make_gpu_rank; }
  // A rank is made without waiting for others, so all of what is taken is its own.
  void before_rank() override {
    device_bytes_ = emulator::device_bytes();
    pinned_bytes_ = emulator::pinned_bytes();
  }
  void after_rank(const spec::MemoryTable& planned) override {
    const auto device = static_cast<double>(emulator::device_bytes() - device_bytes_);
    const auto pinned = static_cast<double>(emulator::pinned_bytes() - pinned_bytes_);
    EXPECT_NEAR(planned.total(spec::Side::device) / device, 1, 0.02) << "bytes of the device";
    EXPECT_NEAR(planned.total(spec::Side::host) / pinned, 1, 0.02) << "page-locked bytes";
  }

 private:
  std::size_t device_bytes_ = 0, pinned_bytes_ = 0;
  emulator::OpenDeviceMemory open_;
};

TEST_F(PlannedCudaTest, planned_is_allocated_on_every_rank) {
  constexpr const char* kRecomputes[] = {"none", "selective", "full"};
  std::size_t turn = 0;
  for (const std::int64_t tensor : {1, 2})
    for (const std::int64_t stages : {1, 2, 3})
      for (const char* schedule : {"auto", "gpipe", "zb-h1", "zbv"})
        // One pipeline, unequal stages, and more replicas than micro-batches.
        for (const std::int64_t extra : {std::int64_t{0}, std::int64_t{1}, 3 * stages}) {
          const bool folds = schedule == std::string_view("zbv");
          if (tensor > 1 && (folds || extra > 1)) continue;  // much as without slices
          config_.parallel.tp = tensor;
          config_.parallel.pp = stages;
          config_.parallel.chunks = folds ? 2 : 1;
          config_.parallel.schedule = schedule;
          config_.train.precision = turn % 2 == 0 ? "f32" : "bf16";
          config_.train.recompute = kRecomputes[turn++ % std::size(kRecomputes)];
          config_.numerics.mode = stages == 3 ? "fast" : "exact";
          config_.model.dropout = stages == 2 ? 0 : 0.1;
          SCOPED_TRACE(::testing::Message()
                       << "tp " << tensor << ", pp " << stages << ", " << schedule << ", "
                       << config_.train.recompute << ", replicas " << stages + extra);
          check_layout(static_cast<int>((stages + extra) * tensor));
          if (HasFailure()) return;
        }
  std::printf("campaign: %d layouts, %d ranks (%d with copies), %d terms compared\n", layouts_,
              ranks_, with_copies_, terms_);
  EXPECT_GE(layouts_, 20);
}

}  // namespace
}  // namespace elaswave::test
