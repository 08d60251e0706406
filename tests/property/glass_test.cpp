// Training runs on devices whose memory host code cannot touch: every exchange, recovery,
// checkpoint and digest must go through streams and staging, or the process dies at the very line.
// The numbers are those of runs on bare host memory, bit by bit.
#include <gtest/gtest.h>

#include "tests/support/elastic.h"
#include "tests/support/fake_file_system.h"

namespace elaswave::test {
namespace {

class GlassTest : public ::testing::Test {
 protected:
  app::Config config() {
    app::Config config = tiny_config(folder_.file("train.bin"));
    config.model.heads = 4;
    config.train.global_batch = 16;
    config.log.digest_every = 1;
    return config;
  }
  void SetUp() override { write_tokens(folder_.file("train.bin"), 4000, 37); }

  void expect_equal(const std::vector<app::StepReport>& got,
                    const std::vector<app::StepReport>& expected) {
    ASSERT_EQ(got.size(), expected.size());
    ASSERT_FALSE(got.empty());
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].digest, expected[i].digest) << "step " << i + 1;
      EXPECT_EQ(got[i].record.loss, expected[i].record.loss) << "step " << i + 1;
      EXPECT_EQ(got[i].record.grad_norm, expected[i].record.grad_norm) << "step " << i + 1;
    }
  }
  void expect_same(const app::Config& config, int ranks) {
    const SimulatedRun bare = train_simulated(config, {.ranks = ranks});
    const SimulatedRun glass = train_simulated(config, {.ranks = ranks, .behind_glass = true});
    for (const auto& error : glass.errors) EXPECT_FALSE(error) << error->text();
    expect_equal(glass.steps, bare.steps);
  }

  TemporaryFolder folder_;
};

TEST_F(GlassTest, one_rank) {
  expect_same(config(), 1);
}

TEST_F(GlassTest, replicas) {
  expect_same(config(), 3);
}

TEST_F(GlassTest, stages_and_slices) {
  app::Config split = config();
  split.parallel.pp = 2;
  split.parallel.tp = 2;
  expect_same(split, 8);
}

TEST_F(GlassTest, fast_sums) {
  app::Config fast = config();
  fast.numerics.mode = "fast";
  expect_same(fast, 2);
}

TEST_F(GlassTest, checkpoints) {
  ::elaswave::testing::FakeFileSystem bare_files, files;
  app::Config saving = config();
  saving.checkpoint.every = 2;
  app::Config shorter = saving;
  shorter.train.stop_at = 4;
  const SimulatedRun bare = train_simulated(saving, {.ranks = 2, .files = &bare_files});
  // Written behind glass, read on bare memory and on glass again.
  (void)train_simulated(shorter, {.ranks = 2, .behind_glass = true, .files = &files});
  const SimulatedRun glass =
      train_simulated(saving, {.ranks = 3, .behind_glass = true, .files = &files});
  EXPECT_EQ(glass.resumed, Step{4});
  EXPECT_EQ(glass.summary.digest, bare.summary.digest);
}

TEST_F(GlassTest, a_rank_dies) {
  const app::Config recipe = [&] {
    app::Config made = config();
    made.parallel.pp = 2;
    return made;
  }();
  const SimulatedRun bare = train_simulated(recipe, {.ranks = 8});
  for (const Point point : {Point::after_forward, Point::before_reduce, Point::after_log,
                            Point::during_apply, Point::after_gather, Point::recover_planned}) {
    SCOPED_TRACE(name(point));
    app::Config mine = recipe;
    std::vector<Fault> faults = {{.rank = 3, .point = point, .hit = 2}};
    if (point == Point::recover_planned) {
      mine.elastic.copies = 2;
      faults = {{.rank = 3, .point = Point::before_commit, .hit = 2}, {.rank = 0, .point = point}};
    }
    const ElasticRun run =
        train_elastic(mine, {.ranks = 8,
                             .faults = faults,
                             .behind_glass = true,
                             .copies = static_cast<std::int32_t>(mine.elastic.copies)});
    EXPECT_EQ(run.failure + run.wrong, "");
    EXPECT_EQ(run.fired, std::ssize(faults));
    expect_equal(run.steps, bare.steps);
  }
}

}  // namespace
}  // namespace elaswave::test
