// Tiny training runs with checkpoints on a fake disk, and the straight run they are compared with.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "io/checkpoint/reader.h"
#include "io/checkpoint/store.h"
#include "tests/support/fake_file_system.h"
#include "tests/support/training.h"

namespace elaswave::test {

using checkpoint::step_name;
using testing::CrashPolicy;
using testing::FakeFileSystem;

inline constexpr std::int64_t kSteps = 6;
inline const std::string kDirectory = kCheckpoints;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    write_tokens(folder_.file("train.bin"), 400, 37);
    config_ = tiny_config(folder_.file("train.bin"));
    config_.train.decay_steps = kSteps;  // train.steps may change, the schedule may not
    straight_ = train_simulated(config_, {});
  }

  std::uint64_t digest(std::int64_t step) const {
    return *straight_.steps[static_cast<std::size_t>(step) - 1].digest;
  }

  /// Goes on to the last step from what is on `files`.
  SimulatedRun resume(FakeFileSystem& files, int ranks = 1) const {
    app::Config config = config_;
    config.checkpoint = {};
    config.checkpoint.last = false;
    return train_simulated(config, {.ranks = ranks, .files = &files});
  }

  /// Every step that `run` made has the digest of the straight run.
  void expect_same_steps(const SimulatedRun& run) const {
    for (const auto& error : run.errors) EXPECT_FALSE(error) << error->text();
    for (const app::StepReport& step : run.steps)
      EXPECT_EQ(step.digest, digest(raw(step.record.version.step)));
    EXPECT_EQ(run.summary.digest, digest(raw(run.summary.last_step)));
  }

  TemporaryFolder folder_;
  app::Config config_;
  SimulatedRun straight_;
};

}  // namespace elaswave::test
