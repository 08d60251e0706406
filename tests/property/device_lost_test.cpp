// A device that fails, whenever it does, ends its ranks with one error that says where, and
// exit 10.
#include <set>
#include <string>

#include "app/rank_device_cuda.h"
#include "parallel/comm/staged_world.h"
#include "tests/property/device_training.h"
#include "tests/support/cuda/emulator.h"

namespace elaswave::test {
namespace {

Result<std::unique_ptr<app::RankDevice>> make_gpu_rank(const app::HostPart& host) {
  return app::make_cuda_rank(host, 0, 0, nullptr);
}

class DeviceLostTest : public DeviceTraining {
 protected:
  ~DeviceLostTest() override { emulator::reset(); }

  app::Config short_run() const {
    app::Config short_config = config();
    short_config.train.steps = 3;
    short_config.train.global_batch = 4;
    short_config.data.val = {folder_.file("train.bin")};
    short_config.train.val_every = 1;
    short_config.train.val_batches = 1;
    short_config.checkpoint.every = 1;
    return short_config;
  }
  static void expect_lost(const std::optional<Error>& error, std::set<std::string>& phases) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code, Code::device_lost);
    EXPECT_EQ(exit_code(error->code), 10);
    EXPECT_NE(error->why, "") << "the call that failed";
    EXPECT_TRUE(error->where == "at start" || error->where.find("step ") != std::string::npos)
        << error->text();
    phases.insert(error->where.substr(error->where.rfind(' ') + 1));
  }
  static SimulatedRun run(const app::Config& config, FileSystem& files) {
    return train_simulated(config, {.make_device = &make_gpu_rank, .files = &files});
  }

 private:
  emulator::OpenDeviceMemory open_;
};

TEST_F(DeviceLostTest, at_any_kernel) {
  std::uint64_t kernels = 0;
  {
    emulator::reset();
    ::elaswave::testing::FakeFileSystem files;
    EXPECT_FALSE(run(short_run(), files).errors[0]);
    kernels = emulator::kernels_run();
  }
  std::set<std::string> phases;
  constexpr std::uint64_t kSamples = 16;
  for (std::uint64_t sample = 0; sample < kSamples; ++sample) {
    emulator::reset();
    ::elaswave::testing::FakeFileSystem files;
    emulator::poison_at_kernel(1 + sample * (kernels - 1) / (kSamples - 1));
    expect_lost(run(short_run(), files).errors[0], phases);
    EXPECT_EQ(emulator::live_allocations(), 0u);
  }
  EXPECT_EQ(phases.count("start"), 1u);
  EXPECT_GE(phases.size(), 3u) << "of a step, told late";
}

TEST_F(DeviceLostTest, while_a_checkpoint_is_loaded) {
  ::elaswave::testing::FakeFileSystem files;
  app::Config config = short_run();
  config.train.stop_at = 2;
  emulator::reset();
  EXPECT_FALSE(run(config, files).errors[0]);
  config.train.stop_at = 0;
  // Kernels of a start from nothing, up to where the checkpoint's state goes to the device.
  std::uint64_t before = 0;
  {
    emulator::reset();
    const auto report = comm::simulate({.ranks = 1}, [&](comm::World& world) {
      const auto device = make_gpu_rank({.threads = 1}).value();
      const app::RunSpec spec = app::resolve(config).value();
      const auto tokens =
          data::TokenSet::open(config.data.train, data::TokenFormat::nanogpt).value();
      comm::StagedWorld staged(world, device->machine().stream);
      const auto trainer =
          app::Trainer::create(spec,
                               {.world = staged, .machine = device->machine(), .train = tokens})
              .value();
      device->machine().stream.synchronize();
      before = emulator::kernels_run();
    });
    ASSERT_TRUE(report) << report.error().text();
  }
  emulator::reset();
  emulator::poison_at_kernel(before + 1);
  std::set<std::string> phases;
  expect_lost(run(config, files).errors[0], phases);
}

TEST_F(DeviceLostTest, at_any_call) {
  std::set<std::string> phases;
  int lost = 0;
  for (std::uint64_t call = 12;; call += 331) {
    emulator::reset();
    ::elaswave::testing::FakeFileSystem files;
    emulator::poison_at_call(call);
    const SimulatedRun ended = run(short_run(), files);
    EXPECT_EQ(emulator::live_allocations(), 0u);
    if (!ended.errors[0]) break;  // all was done before
    expect_lost(ended.errors[0], phases);
    ++lost;
  }
  EXPECT_GE(lost, 5);
}

TEST_F(DeviceLostTest, while_ranks_recover) {
  app::Config config = short_run();
  config.parallel.pp = 2;
  config.checkpoint.every = 0;
  const ElasticOptions options{.ranks = 4,
                               .faults = {{.rank = 3, .point = Point::before_commit, .hit = 2}},
                               .make_device = &make_gpu_rank};
  emulator::reset();
  const ElasticRun whole = train_elastic(config, options);
  EXPECT_EQ(whole.failure + whole.wrong, "");
  const std::uint64_t kernels = emulator::kernels_run();
  std::set<std::string> phases;
  // All ranks share the one emulated context: not before all have started.
  for (std::uint64_t sample = 6; sample < 12; ++sample) {
    emulator::reset();
    emulator::poison_at_kernel(sample * kernels / 12);
    const ElasticRun run = train_elastic(config, options);
    EXPECT_EQ(run.failure, "");
    for (std::size_t rank = 0; rank < run.errors.size(); ++rank)
      if (!run.killed[rank]) expect_lost(run.errors[rank], phases);
  }
  EXPECT_EQ(phases.count("recovery"), 1u);
}

}  // namespace
}  // namespace elaswave::test
