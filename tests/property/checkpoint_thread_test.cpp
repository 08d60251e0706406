// Checkpoints written by a thread beside training: the same files and bits as without one.
#include <gtest/gtest.h>

#include <cstdio>

#include "io/checkpoint/reader.h"
#include "io/checkpoint/store.h"
#include "parallel/comm/simulation.h"
#include "tests/support/fake_file_system.h"
#include "tests/support/training.h"

namespace elaswave::test {
namespace {

using checkpoint::Beside;
using testing::FakeFileSystem;

Result<RankRun> train(const app::Config& config, FileSystem& files, Beside beside) {
  const auto world = comm::make_solo_world({});
  return train_rank(config, {.threads = 2, .files = &files, .beside = beside}, *world);
}

TEST(CheckpointThread, TrainingGoesOnBesideIt) {
  TemporaryFolder folder;
  write_tokens(folder.file("train.bin"), 400, 37);
  app::Config config = tiny_config(folder.file("train.bin"));
  config.train.steps = config.train.decay_steps = 24;
  config.model.hidden = 96;  // steps long enough that checkpoints end during training
  const SimulatedRun straight = train_simulated(config, {});
  std::int64_t durable = 0, skipped = 0;
  for (int attempt = 0; attempt < 6; ++attempt) {
    FakeFileSystem files;
    config.checkpoint.every = 1;
    config.checkpoint.keep = 100;
    config.train.stop_at = 20;
    const auto first = train(config, files, Beside::thread);
    ASSERT_TRUE(first) << first.error().text();
    EXPECT_TRUE(first->summary.durable);
    durable += first->summary.checkpoints.durable;
    skipped += first->summary.checkpoints.skipped;
    const auto steps = checkpoint::list_steps(files, kCheckpoints);
    ASSERT_TRUE(steps);
    EXPECT_EQ(steps->front(), Step{20});
    for (const Step step : *steps) {
      const std::string path = std::string(kCheckpoints) + "/" + checkpoint::step_name(step);
      EXPECT_TRUE(checkpoint::verify(files, path).empty());
      // A copy taken while the next step computes is a copy of this step.
      EXPECT_EQ(checkpoint::read_manifest(files, path)->digest,
                straight.steps[static_cast<std::size_t>(raw(step)) - 1].digest);
    }
    // From any of them, newest first: each is deleted after its turn.
    for (const Step step : *steps) {
      config.train.stop_at = 0;
      config.checkpoint.every = 0;
      config.checkpoint.last = false;
      const auto rest = train(config, files, attempt % 2 == 0 ? Beside::thread : Beside::caller);
      ASSERT_TRUE(rest) << rest.error().text();
      EXPECT_EQ(rest->resumed, step);
      EXPECT_EQ(rest->summary.digest, straight.summary.digest);
      ASSERT_TRUE(
          remove_tree(files, std::string(kCheckpoints) + "/" + checkpoint::step_name(step)));
    }
    config.checkpoint.last = true;
  }
  EXPECT_GT(durable, 6);
  std::printf("campaign: %lld checkpoints beside training, %lld skipped, each resumed from\n",
              static_cast<long long>(durable), static_cast<long long>(skipped));
}

TEST(CheckpointThread, AFailingDiskChangesNothing) {
  TemporaryFolder folder;
  write_tokens(folder.file("train.bin"), 400, 37);
  app::Config config = tiny_config(folder.file("train.bin"));
  config.checkpoint.every = 1;
  const SimulatedRun straight = train_simulated(config, {});
  for (std::int64_t operation = 12; operation < 40; operation += 3) {
    FakeFileSystem files;
    files.kill_after(operation);
    const auto run = train(config, files, Beside::thread);
    ASSERT_TRUE(run) << run.error().text();
    EXPECT_EQ(run->summary.digest, straight.summary.digest);
    EXPECT_FALSE(run->summary.durable);
    EXPECT_GT(run->summary.checkpoints.failed, 0);
  }
}

}  // namespace
}  // namespace elaswave::test
