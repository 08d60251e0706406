// Training on any kind of device in the simulated world, held to runs that should be the same.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "tests/support/elastic.h"
#include "tests/support/fake_file_system.h"

namespace elaswave::test {

class DeviceTraining : public ::testing::Test {
 protected:
  void SetUp() override { write_tokens(folder_.file("train.bin"), 4000, 37); }

  app::Config config() const {
    app::Config config = tiny_config(folder_.file("train.bin"));
    config.model.heads = 4;
    config.train.global_batch = 16;
    config.train.precision = precision_;
    config.log.digest_every = 1;
    config.elastic.scrub_steps = 2;
    return config;
  }
  static void expect_equal(const std::vector<app::StepReport>& got,
                           const std::vector<app::StepReport>& expected) {
    ASSERT_EQ(got.size(), expected.size());
    ASSERT_FALSE(got.empty());
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].digest, expected[i].digest) << "step " << i + 1;
      EXPECT_EQ(got[i].record.loss, expected[i].record.loss) << "step " << i + 1;
      EXPECT_EQ(got[i].record.grad_norm, expected[i].record.grad_norm) << "step " << i + 1;
    }
  }
  /// On `device`, with no rank in error.
  static SimulatedRun train(const app::Config& config, int ranks, app::MakeRankDevice device,
                            FileSystem* files = nullptr,
                            const std::function<ProbeHook(int world_rank)>& probe = {}) {
    SimulatedRun run = train_simulated(
        config, {.ranks = ranks, .make_device = device, .files = files, .probe = probe});
    for (const auto& error : run.errors) EXPECT_FALSE(error) << error->text();
    return run;
  }
  /// Eight ranks in two stages, one of which dies at each of six points: steps as in `undisturbed`.
  /// `prepare` may change what each run is given.
  void expect_survival(app::MakeRankDevice device, const std::vector<app::StepReport>& undisturbed,
                       const std::function<void(ElasticOptions&)>& prepare = {}) {
    app::Config recipe = config();
    recipe.parallel.pp = 2;
    for (const Point point : {Point::after_forward, Point::before_reduce, Point::after_log,
                              Point::during_apply, Point::after_gather, Point::recover_planned}) {
      SCOPED_TRACE(name(point));
      std::vector<Fault> faults = {{.rank = 3, .point = point, .hit = 2}};
      if (point == Point::recover_planned) {
        recipe.elastic.copies = 2;
        faults = {{.rank = 3, .point = Point::before_commit, .hit = 2},
                  {.rank = 0, .point = point}};
      }
      ElasticOptions options{.ranks = 8,
                             .faults = faults,
                             .make_device = device,
                             .copies = static_cast<std::int32_t>(recipe.elastic.copies)};
      if (prepare) prepare(options);
      const ElasticRun run = train_elastic(recipe, options);
      EXPECT_EQ(run.failure + run.wrong, "");
      EXPECT_EQ(run.fired, std::ssize(faults));
      expect_equal(run.steps, undisturbed);
    }
  }

  TemporaryFolder folder_;
  std::string precision_ = "f32";  // of config()
};

}  // namespace elaswave::test
