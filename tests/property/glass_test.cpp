// Training runs on a CPU whose memory host code cannot touch: every exchange, recovery, checkpoint
// and digest must go through streams and staging, or the process dies at the very line. The numbers
// are those of runs on bare host memory, bit by bit.
#include "io/checkpoint/store.h"
#include "tests/property/device_training.h"
#include "tests/support/blind_machine.h"

namespace elaswave::test {
namespace {

constexpr app::MakeRankDevice kBare = &app::make_cpu_rank;
constexpr app::MakeRankDevice kGlass = &::elaswave::testing::make_blind_rank;
constexpr app::MakeRankDevice kSlowMirror = &::elaswave::testing::make_slow_blind_rank;

class GlassTest : public DeviceTraining {
 protected:
  static void expect_same(const app::Config& config, int ranks) {
    expect_equal(train(config, ranks, kGlass).steps, train(config, ranks, kBare).steps);
  }
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
  const SimulatedRun bare = train(saving, 2, kBare, &bare_files);
  (void)train(shorter, 2, kGlass, &files);
  const SimulatedRun glass = train(saving, 3, kGlass, &files);
  EXPECT_EQ(glass.resumed, Step{4});
  EXPECT_EQ(glass.summary.digest, bare.summary.digest);
}

TEST_F(GlassTest, a_rank_dies) {
  app::Config recipe = config();
  recipe.parallel.pp = 2;
  expect_survival(kGlass, train(recipe, 8, kBare).steps);
}

TEST_F(GlassTest, bf16) {
  precision_ = "bf16";
  app::Config split = config();
  split.parallel.pp = 2;
  split.parallel.tp = 2;
  expect_same(split, 8);
  app::Config recipe = config();
  recipe.parallel.pp = 2;
  expect_survival(kGlass, train(recipe, 8, kBare).steps);
}

// The host's update of the shard is the last to end in every step: nobody reads before it has.
TEST_F(GlassTest, a_slow_mirror) {
  app::Config recipe = config();
  expect_equal(train(recipe, 1, kSlowMirror).steps, train(recipe, 1, kBare).steps);
  recipe.parallel.pp = 2;
  recipe.parallel.tp = 2;
  expect_equal(train(recipe, 8, kSlowMirror).steps, train(recipe, 8, kBare).steps);
}

TEST_F(GlassTest, checkpoints_of_a_slow_mirror) {
  ::elaswave::testing::FakeFileSystem bare_files, files;
  app::Config saving = config();
  saving.log.digest_every = 0;  // a digest waits as well
  saving.checkpoint.every = 2;
  app::Config shorter = saving;
  shorter.train.stop_at = 5;
  const SimulatedRun bare = train(saving, 2, kBare, &bare_files);
  (void)train(shorter, 2, kSlowMirror, &files);
  // The last one, after a digest, is not the one in question.
  ASSERT_TRUE(files.remove_file(fmt::format(
      "{}/{}/{}", kCheckpoints, checkpoint::step_name(Step{5}), checkpoint::kManifestName)));
  const SimulatedRun glass = train(saving, 3, kSlowMirror, &files);
  EXPECT_EQ(glass.resumed, Step{4});
  EXPECT_EQ(glass.summary.digest, bare.summary.digest);
}

TEST_F(GlassTest, a_rank_dies_beside_slow_mirrors) {
  app::Config recipe = config();
  recipe.parallel.pp = 2;
  expect_survival(kSlowMirror, train(recipe, 8, kBare).steps);
}

}  // namespace
}  // namespace elaswave::test
