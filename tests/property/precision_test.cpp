// Activations and matrices in bf16: everything the product promises of f32 runs holds. One digest
// for all layouts of a tensor degree, a resume with the straight run's bits, copies of another
// numeric class kept apart.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <map>

#include "app/layout.h"
#include "model/gpt/fingerprint.h"
#include "tests/support/fake_file_system.h"
#include "tests/support/training.h"

namespace elaswave::test {
namespace {

using elaswave::testing::FakeFileSystem;

struct Layout {
  int groups = 1;  // of `tp` ranks
  int tp = 1, pp = 1, chunks = 1;
  const char* schedule = "auto";
  const char* recompute = "none";
  int ranks() const { return groups * tp; }
};

class PrecisionTest : public ::testing::Test {
 protected:
  PrecisionTest() {
    write_tokens(folder_.file("train.bin"), 400, 37);
    config_ = tiny_config(folder_.file("train.bin"));
    config_.model.layers = 4;
    config_.model.heads = 4;
    config_.train.steps = 3;
    config_.train.precision = "bf16";
  }

  static app::Config with(const Layout& layout, app::Config config) {
    config.parallel = {
        .tp = layout.tp, .pp = layout.pp, .chunks = layout.chunks, .schedule = layout.schedule};
    config.train.recompute = layout.recompute;
    return config;
  }
  bool legal(const Layout& layout) const {
    const auto spec = app::resolve(with(layout, config_));
    return spec && app::healthy_plan(*spec, layout.ranks(), Generation{0});
  }
  /// Each with another order of messages.
  SimulatedRun train(const Layout& layout, FileSystem* files = nullptr) {
    SimulatedRun run = train_simulated(
        with(layout, config_),
        {.ranks = layout.ranks(), .seed = static_cast<std::uint64_t>(++runs_), .files = files});
    for (const auto& error : run.errors) EXPECT_FALSE(error) << error->text();
    return run;
  }

  /// Of every step: digest and loss.
  using Trace = std::vector<std::pair<std::uint64_t, double>>;
  static Trace trace_of(const SimulatedRun& run) {
    Trace trace;
    for (const app::StepReport& step : run.steps)
      trace.emplace_back(step.digest.value_or(0), step.record.loss);
    return trace;
  }

  TemporaryFolder folder_;
  app::Config config_;
  std::int64_t runs_ = 0;
};

TEST_F(PrecisionTest, OneDigestForEveryLayoutOfATensorDegree) {
  std::map<int, Trace> expected;
  std::int64_t split = 0;
  for (const int tp : {1, 2, 4})
    for (int groups = 1; groups <= 4 && tp * groups <= 8; ++groups)
      for (int pp = 1; pp <= groups; ++pp)
        for (const int chunks : {1, 2})
          for (const char* schedule : {"auto", "zb-h1", "zbv"})
            for (const char* recompute : {"none", "selective", "full"}) {
              const Layout layout{groups, tp, pp, chunks, schedule, recompute};
              if (!legal(layout)) continue;
              SCOPED_TRACE(::testing::Message()
                           << tp << " slices, " << groups << " groups, " << pp << " stages of "
                           << chunks << ", " << schedule << ", recompute " << recompute);
              const Trace trace = trace_of(train(layout));
              ASSERT_EQ(std::ssize(trace), config_.train.steps);
              ASSERT_EQ(trace, expected.try_emplace(tp, trace).first->second);
              split += std::string_view(schedule) != "auto" ? 1 : 0;
            }
  EXPECT_GT(runs_, 100);
  EXPECT_GT(split, 30);
  // Sums over slices are of unrounded terms, so degrees differ by roundings of f32 before they are
  // rounded, and by what single roundings to bf16 then do. f32 differs by all of them.
  config_.train.precision = "f32";
  for (const auto& [tp, trace] : expected) {
    const Trace exact = trace_of(train({.groups = 1, .tp = tp}));
    for (std::size_t step = 0; step < trace.size(); ++step)
      EXPECT_NE(trace[step].first, exact[step].first) << tp << " slices, step " << step + 1;
  }
  std::printf("campaign: %lld layouts in bf16, one digest per step and tensor degree\n",
              static_cast<long long>(runs_));
}

TEST_F(PrecisionTest, ACheckpointGoesOnInAnotherLayout) {
  config_.train.steps = 6;
  config_.train.decay_steps = 6;
  for (const int tp : {1, 2}) {
    const SimulatedRun straight = train({.groups = 1, .tp = tp});
    FakeFileSystem files;
    ASSERT_TRUE(files.make_directory("/run"));
    config_.train.stop_at = 3;
    (void)train({.groups = 3, .tp = tp, .pp = 3}, &files);
    config_.train.stop_at = 0;
    const SimulatedRun resumed = train({.groups = 2, .tp = tp, .recompute = "selective"}, &files);
    EXPECT_EQ(resumed.resumed, Step{3});
    const Trace all = trace_of(straight);
    EXPECT_EQ(trace_of(resumed), Trace(all.begin() + 3, all.end()));
  }
}

// Master weights are f32: what one precision left, the other goes on with.
TEST_F(PrecisionTest, ACheckpointGoesOnInTheOtherPrecision) {
  config_.train.steps = 6;
  config_.train.decay_steps = 6;
  FakeFileSystem files;
  ASSERT_TRUE(files.make_directory("/run"));
  config_.train.stop_at = 3;
  const std::uint64_t stopped = train({}, &files).summary.digest;
  config_.train.stop_at = 0;
  config_.train.precision = "f32";
  const SimulatedRun resumed = train({.groups = 2}, &files);
  EXPECT_EQ(resumed.resumed, Step{3});
  EXPECT_EQ(resumed.steps.size(), 3u);
  EXPECT_NE(resumed.summary.digest, stopped);
}

TEST_F(PrecisionTest, FastSumsTrainToo) {
  config_.numerics.mode = "fast";
  const Trace one = trace_of(train({.groups = 3, .pp = 2}));
  EXPECT_EQ(trace_of(train({.groups = 3, .pp = 2})), one);
  for (const auto& [digest, loss] : one) EXPECT_TRUE(std::isfinite(loss));
}

TEST_F(PrecisionTest, FingerprintsAreOfOnePrecision) {
  const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic).value();
  device::CpuStream stream(2), other(1);
  const spec::ModelConfig model = app::resolve(config_)->model;
  const auto of = [&](device::CpuStream& on, DType storage) {
    return gpt::fingerprint(kernels::host_machine(*ops, on), model, 2, storage,
                            kernels::kCpuLossChunkTokens)
        .value();
  };
  EXPECT_NE(of(stream, DType::bf16), of(stream, DType::f32));
  EXPECT_EQ(of(stream, DType::bf16), of(other, DType::bf16));
}

TEST_F(PrecisionTest, RecipesDiffer) {
  app::Config f32 = config_;
  f32.train.precision = "f32";
  EXPECT_NE(app::resolve(config_)->recipe_hash(), app::resolve(f32)->recipe_hash());
  EXPECT_EQ(app::resolve(config_)->storage, DType::bf16);
  EXPECT_EQ(app::resolve(app::Config{})->storage, DType::f32);
}

}  // namespace
}  // namespace elaswave::test
