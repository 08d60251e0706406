// Checkpoints of whole simulated training runs: resuming changes nothing, whatever is changed that
// may be, and ranks that do not see the same files do no harm.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/property/checkpoint_testing.h"

namespace elaswave::test {
namespace {

TEST_F(CheckpointTest, ResumingAnywhereWithAnyFreeKeyChangedEndsInTheSameBits) {
  const int ranks[] = {1, 2, 3, 5};
  int runs = 0;
  for (std::int64_t cut = 1; cut <= kSteps; ++cut)
    for (const int before : ranks)
      for (const int after : ranks) {
        SCOPED_TRACE(fmt::format("cut {}, {} -> {} ranks", cut, before, after));
        FakeFileSystem files;
        app::Config first = config_;
        // The cut is reached in four ways.
        const bool asked = (cut + before + after) % 2 == 0;
        first.train.stop_at = asked ? cut : 0;
        first.train.steps = asked ? kSteps : cut;
        first.checkpoint.every = (before + after) % 3;
        const SimulatedRun run = train_simulated(
            first, {.ranks = before, .threads = 1 + before % 3, .seed = 3, .files = &files});
        expect_same_steps(run);
        ASSERT_TRUE(run.summary.durable);
        ASSERT_EQ(raw(run.summary.last_step), cut);

        app::Config second = config_;
        second.checkpoint.every = after % 4;
        const SimulatedRun rest = train_simulated(
            second, {.ranks = after, .threads = 1 + after % 2, .seed = 9, .files = &files});
        expect_same_steps(rest);
        EXPECT_EQ(raw(rest.resumed), cut);
        EXPECT_EQ(std::ssize(rest.steps), kSteps - cut);
        EXPECT_EQ(raw(rest.summary.last_step), kSteps);
        // Counters go on.
        if (!rest.steps.empty()) {
          const app::StepReport& last = rest.steps.back();
          EXPECT_EQ(last.samples, straight_.steps.back().samples);
          EXPECT_EQ(last.tokens, straight_.steps.back().tokens);
          EXPECT_EQ(last.record.updates, straight_.steps.back().record.updates);
          EXPECT_EQ(last.record.sample_hash, straight_.steps.back().record.sample_hash);
        }
        ++runs;
        if (HasFailure()) return;
      }
  std::printf("campaign: %d resumed runs over %d cut points, one digest per step\n", runs,
              static_cast<int>(kSteps));
}

TEST_F(CheckpointTest, ManyInterruptionsInARow) {
  FakeFileSystem files;
  app::Config config = config_;
  const int ranks[] = {2, 5, 1, 3, 4, 2};
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    config.train.stop_at = step;
    const SimulatedRun run = train_simulated(
        config,
        {.ranks = ranks[step - 1], .seed = static_cast<std::uint64_t>(step), .files = &files});
    expect_same_steps(run);
    EXPECT_EQ(raw(run.resumed), step - 1);
    EXPECT_EQ(run.summary.stopped, step < kSteps);
  }
}

TEST_F(CheckpointTest, AChangedGlobalBatchGoesOnWithTheNextSample) {
  FakeFileSystem files;
  app::Config config = config_;
  config.train.stop_at = 3;
  train_simulated(config, {.ranks = 2, .files = &files});
  config.train.stop_at = 0;
  config.train.global_batch = 4;
  const SimulatedRun rest = train_simulated(config, {.ranks = 3, .files = &files});
  EXPECT_EQ(rest.steps.front().samples, 3 * 10 + 4);
  EXPECT_EQ(rest.steps.back().samples, 3 * 10 + 3 * 4);
}

TEST_F(CheckpointTest, TheNewestOnesStayAndThoseOfTheInterval) {
  FakeFileSystem files;
  app::Config config = config_;
  config.checkpoint.every = 1;
  config.checkpoint.keep = 2;
  config.checkpoint.keep_every = 2;
  const SimulatedRun run = train_simulated(config, {.ranks = 2, .files = &files});
  // In the caller's thread every second one is skipped: publishing ends with the next step's vote.
  EXPECT_GT(run.summary.checkpoints.durable, 0);
  const auto steps = checkpoint::list_steps(files, kDirectory);
  ASSERT_TRUE(steps);
  for (const Step step : *steps)
    EXPECT_TRUE(checkpoint::verify(files, kDirectory + "/" + step_name(step)).empty());
  EXPECT_EQ(raw(steps->front()), kSteps);
  EXPECT_EQ(files.contents(kDirectory + "/LATEST"), step_name(Step{kSteps}) + "\n");
}

// ---- ranks that do not see the same files

TEST_F(CheckpointTest, ARankThatSeesAnotherDirectoryIsRefusedAndNothingIsRenamed) {
  FakeFileSystem shared, other;
  app::Config config = config_;
  config.train.stop_at = 3;
  ASSERT_TRUE(train_simulated(config, {.ranks = 2, .files = &shared}).summary.durable);
  const std::vector<std::string> before = shared.all_files();
  // The other rank's directory is missing, empty, or that of another run.
  for (int kind = 0; kind < 3; ++kind) {
    if (kind == 1) {
      ASSERT_TRUE(make_directories(other, kDirectory));
    }
    if (kind == 2) {
      ASSERT_TRUE(train_simulated(config, {.ranks = 1, .files = &other}).summary.durable);
      other.set_contents(kDirectory + "/.session", "0000000000000002\n");
    }
    const SimulatedRun run =
        train_simulated(config_, {.ranks = 2, .files = &shared, .other_files = &other});
    for (const auto& error : run.errors) {
      ASSERT_TRUE(error);
      EXPECT_EQ(error->code, Code::usage);
    }
    EXPECT_EQ(shared.all_files(), before);
  }
  expect_same_steps(train_simulated(config_, {.ranks = 2, .files = &shared}));
}

TEST_F(CheckpointTest, AShardThatIsNotThereIsNotPublished) {
  // The mark is there, as on a disk that was copied, but what rank 1 writes is somewhere else.
  FakeFileSystem shared, other;
  ASSERT_TRUE(make_directories(other, kDirectory));
  ASSERT_TRUE(write_text(other, kDirectory + "/.session", "0000000000000001\n"));
  app::Config config = config_;
  config.checkpoint.every = 2;
  const SimulatedRun run =
      train_simulated(config, {.ranks = 2, .files = &shared, .other_files = &other});
  expect_same_steps(run);
  EXPECT_FALSE(run.summary.durable);
  EXPECT_EQ(run.summary.checkpoints.durable, 0);
  EXPECT_TRUE(checkpoint::list_steps(shared, kDirectory)->empty());
}

TEST_F(CheckpointTest, WhatOneRankAloneCannotReadIsNotSetAside) {
  FakeFileSystem shared;
  app::Config config = config_;
  config.train.stop_at = 3;
  ASSERT_TRUE(train_simulated(config, {.ranks = 2, .files = &shared}).summary.durable);
  FakeFileSystem torn = shared.clone();
  const std::string shard = kDirectory + "/" + step_name(Step{3}) + "/" + checkpoint::shard_name(1);
  torn.flip(shard, std::ssize(torn.contents(shard)) / 2, 1);
  const SimulatedRun run =
      train_simulated(config_, {.ranks = 2, .files = &shared, .other_files = &torn});
  ASSERT_TRUE(run.errors[0]);
  EXPECT_EQ(run.errors[0]->code, Code::io);
  EXPECT_EQ(checkpoint::list_steps(shared, kDirectory).value(), (std::vector<Step>{Step{3}}));
  expect_same_steps(train_simulated(config_, {.ranks = 2, .files = &shared}));
}

TEST_F(CheckpointTest, ADivergingRunKeepsTheCheckpointUnderWay) {
  FakeFileSystem files;
  app::Config config = config_;
  config.checkpoint.every = 1;
  config.train.lr = 1e30;
  config.train.clip = 0;
  config.train.warmup_steps = 0;
  const SimulatedRun run = train_simulated(config, {.ranks = 2, .files = &files});
  ASSERT_TRUE(run.errors[0]);
  EXPECT_EQ(run.errors[0]->code, Code::non_finite);
  EXPECT_FALSE(checkpoint::list_steps(files, kDirectory)->empty());
}

TEST_F(CheckpointTest, StopAtThatWasReachedStopsAtOnce) {
  FakeFileSystem files;
  app::Config config = config_;
  config.train.stop_at = 3;
  train_simulated(config, {.ranks = 2, .files = &files});
  const SimulatedRun again = train_simulated(config, {.ranks = 3, .files = &files});
  EXPECT_TRUE(again.summary.stopped);
  EXPECT_TRUE(again.steps.empty());
  EXPECT_EQ(again.summary.digest, digest(3));
}

/// More are to be kept than the disk holds: the newest stay, not the oldest.
TEST_F(CheckpointTest, ADiskTooSmallForAllKeepsTheNewest) {
  app::Config config = config_;
  config.checkpoint.every = 1;
  config.checkpoint.keep = 100;
  config.train.steps = config.train.decay_steps = 16;
  std::int64_t bytes = 0;  // of one checkpoint
  {
    FakeFileSystem files;
    app::Config one = config_;
    train_simulated(one, {.ranks = 2, .files = &files});
    for (const std::string& path : files.all_files()) bytes += std::ssize(files.contents(path));
  }
  FakeFileSystem files;
  files.set_capacity_bytes(bytes * 7 / 2);
  const SimulatedRun run = train_simulated(config, {.ranks = 2, .files = &files});
  EXPECT_TRUE(run.summary.durable);
  EXPECT_GT(run.summary.checkpoints.failed, 0);
  const auto steps = checkpoint::list_steps(files, kDirectory);
  ASSERT_TRUE(steps);
  EXPECT_EQ(steps->front(), Step{16});
  for (const Step step : *steps)
    EXPECT_TRUE(checkpoint::verify(files, kDirectory + "/" + step_name(step)).empty());
}

}  // namespace
}  // namespace elaswave::test
