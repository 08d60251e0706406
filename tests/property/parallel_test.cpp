// The promise P2 over layouts: one digest, every step, for every legal combination of ranks,
// stages, chunks, schedule, recompute and split or fused backward; the same within a tensor degree.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include "app/layout.h"
#include "parallel/pipeline/schedule.h"
#include "tests/support/mutate_schedule.h"
#include "tests/support/training.h"

namespace elaswave::test {
namespace {

using Digests = std::vector<std::uint64_t>;

struct Outcome {
  Digests digests;
  std::vector<double> losses;
};

const std::vector<std::string> kSchedules = {"auto",        "gpipe", "1f1b",
                                             "interleaved", "zb-h1", "zbv"};
const std::vector<std::string> kRecompute = {"none", "selective", "full"};

enum class Backward { as_made, split, fused };

// Instrumented builds look for other mistakes: they take one legal layout in so many.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::int64_t kStride = 7;
#else
constexpr std::int64_t kStride = 1;
#endif

class ParallelTest : public testing::Test {
 protected:
  ParallelTest() {
    write_tokens(folder_.file("train.bin"), 3000, 37);
    config_ = tiny_config(folder_.file("train.bin"));
    config_.train.steps = 3;
  }

  static Outcome outcome_of(const SimulatedRun& run) {
    Outcome outcome;
    for (const auto& error : run.errors) EXPECT_FALSE(error.has_value()) << error->text();
    for (const app::StepReport& step : run.steps) {
      outcome.digests.push_back(step.digest.value_or(0));
      outcome.losses.push_back(step.record.loss);
    }
    return outcome;
  }

  /// The plan of a configuration, or nothing when the layout is not legal.
  static std::optional<layout::Plan> plan_of(const app::Config& config, int ranks) {
    const auto spec = app::resolve(config);
    EXPECT_TRUE(spec.has_value());
    auto plan = app::healthy_plan(*spec, ranks, Generation{0});
    if (plan) return std::move(plan->plan);
    EXPECT_EQ(plan.error().code, Code::usage) << plan.error().text();
    return std::nullopt;
  }

  TemporaryFolder folder_;
  app::Config config_;
  std::int64_t runs_ = 0;
  std::map<std::string, std::int64_t> by_value_;  // runs for each value of each key
};

layout::Plan with_backward(layout::Plan plan, Backward backward) {
  if (backward == Backward::as_made) return plan;
  for (layout::Row& row : plan.schedule)
    row =
        backward == Backward::split ? pipeline::split_backward(row) : pipeline::fuse_backward(row);
  return plan;
}

bool splits(const layout::Plan& plan) {
  return std::ranges::any_of(plan.schedule, [](const layout::Row& row) {
    return std::ranges::any_of(
        row, [](const layout::Action& action) { return action.op == layout::Op::input_gradient; });
  });
}

TEST_F(ParallelTest, OneDigestForEveryLegalLayout) {
  // Six blocks: eight layers. Ten micro-batches divide by few things, eight by what interleaving
  // wants.
  config_.model.layers = 6;
  std::int64_t legal = 0;
  for (const std::int64_t micro_batches : {10, 8}) {
    // Of 14 tokens in a micro-batch: all of them, or three chunks.
    const std::int64_t loss_chunk_tokens = micro_batches == 10 ? 256 : 5;
    config_.train.global_batch = micro_batches * config_.train.micro_batch;
    config_.parallel = {};
    config_.train.recompute = "none";
    const Outcome expected =
        outcome_of(train_simulated(config_, {.loss_chunk_tokens = loss_chunk_tokens}));
    ASSERT_EQ(expected.digests.size(), 3u);
    ASSERT_EQ(std::set(expected.digests.begin(), expected.digests.end()).size(), 3u);
    for (int ranks = 1; ranks <= 8; ++ranks)
      for (int pp = 1; pp <= ranks; ++pp)
        for (int chunks = 1; chunks <= 3; ++chunks)
          for (const std::string& schedule : kSchedules)
            for (const std::string& recompute : kRecompute)
              for (const Backward backward :
                   {Backward::as_made, Backward::split, Backward::fused}) {
                config_.parallel = {.pp = pp, .chunks = chunks, .schedule = schedule};
                config_.train.recompute = recompute;
                const auto made = plan_of(config_, ranks);
                if (!made) continue;
                const bool split = splits(*made);
                if (backward == (split ? Backward::split : Backward::fused)) continue;  // as made
                if (++legal % kStride != 0) continue;
                const layout::Plan plan = with_backward(*made, backward);
                const Outcome outcome = outcome_of(
                    train_simulated(config_, {.ranks = ranks,
                                              .seed = static_cast<std::uint64_t>(runs_) + 1,
                                              .loss_chunk_tokens = loss_chunk_tokens,
                                              .plan = &plan}));
                ASSERT_EQ(outcome.digests, expected.digests)
                    << ranks << " ranks, pp " << pp << ", chunks " << chunks << ", " << schedule
                    << ", recompute " << recompute << ", backward " << static_cast<int>(backward)
                    << ", " << micro_batches << " micro-batches";
                ASSERT_EQ(outcome.losses, expected.losses);
                ++runs_;
                ++by_value_["schedule " + schedule];
                ++by_value_["recompute " + recompute];
                ++by_value_["chunks " + std::to_string(chunks)];
                ++by_value_[ranks % pp == 0 ? "even" : "uneven"];
                ++by_value_[splits(plan) ? "split" : "fused"];
              }
  }
  EXPECT_GE(runs_, 1000 / kStride);
  std::printf("campaign: %lld layouts, one digest per step:", static_cast<long long>(runs_));
  for (const auto& [value, count] : by_value_)
    std::printf(" %s %lld;", value.c_str(), static_cast<long long>(count));
  std::printf("\n");
}

// That it enters the bits, and so must be the same on all ranks, is why device.kind fixes it.
TEST_F(ParallelTest, TheChunksOfTheLossChangeBits) {
  const auto digests = [&](std::int64_t tokens) {
    return outcome_of(train_simulated(config_, {.loss_chunk_tokens = tokens})).digests;
  };
  const Digests whole = digests(14);
  EXPECT_EQ(digests(0), whole);
  EXPECT_EQ(digests(kernels::kCudaLossChunkTokens), whole);
  EXPECT_NE(digests(5), whole);
  config_.train.micro_batch = config_.train.global_batch = 8000;  // of 7 tokens
  const app::RunSpec cpu = app::resolve(config_).value();
  config_.device.kind = "cuda";
  const app::RunSpec cuda = app::resolve(config_).value();
  EXPECT_EQ(cpu.head_addends(), 219);  // 56000 / 256
  EXPECT_EQ(cuda.head_addends(), 7);   // 56000 / 8192
  EXPECT_EQ(cpu.recipe_hash(), cuda.recipe_hash()) << "the numeric class tells of it";
}

TEST_F(ParallelTest, EightStagesOfThreeChunks) {
  config_.model.layers = 22;
  config_.train.global_batch = 16;
  config_.train.micro_batch = 1;
  config_.train.steps = 2;
  const Outcome expected = outcome_of(train_simulated(config_, {}));
  for (const char* schedule : {"auto", "interleaved"}) {
    config_.parallel = {.pp = 8, .chunks = 3, .schedule = schedule};
    ASSERT_TRUE(plan_of(config_, 8).has_value()) << schedule;
    EXPECT_EQ(outcome_of(train_simulated(config_, {.ranks = 8})).digests, expected.digests);
  }
}

// 1,000 schedules with something changed at random: each is refused, with the cell, or trains to
// the same bits.
TEST_F(ParallelTest, MutatedSchedulesAreRefusedOrRight) {
  constexpr std::uint64_t kMutants = 1000;
  config_.model.layers = 4;
  config_.train.steps = 2;
  const Outcome expected = outcome_of(train_simulated(config_, {}));
  std::vector<std::pair<int, layout::Plan>> originals;
  for (const int ranks : {2, 3, 4, 5})
    for (const char* schedule : {"auto", "gpipe", "1f1b", "zb-h1", "zbv"})
      for (const char* recompute : {"none", "full"}) {
        config_.parallel = {
            .pp = 2, .chunks = std::string(schedule) == "zbv" ? 2 : 1, .schedule = schedule};
        config_.train.recompute = recompute;
        if (auto plan = plan_of(config_, ranks)) originals.emplace_back(ranks, *std::move(plan));
      }
  ASSERT_GE(originals.size(), 20u);
  config_.parallel = {.pp = 2};
  config_.train.recompute = "none";  // rows with R bring it along
  std::int64_t refused = 0, accepted = 0;
  for (std::uint64_t seed = 0; seed < kMutants; ++seed) {
    const auto& [ranks, original] = originals[seed % originals.size()];
    const layout::Plan mutant = mutate(original, seed);
    const pipeline::ScheduleFault fault = pipeline::check_schedule(mutant, 0);
    if (!fault.what.empty()) {
      EXPECT_NE(pipeline::fault_text(mutant, fault).find(fault.what), std::string::npos);
      ++refused;
      continue;
    }
    ++accepted;
    ASSERT_EQ(outcome_of(train_simulated(config_, {.ranks = ranks, .seed = seed, .plan = &mutant}))
                  .digests,
              expected.digests)
        << "seed " << seed;
  }
  EXPECT_GT(refused, static_cast<std::int64_t>(kMutants / 10));
  EXPECT_GT(accepted, static_cast<std::int64_t>(kMutants / 10));
  std::printf("campaign: %lld mutated schedules refused, %lld accepted, one digest\n",
              static_cast<long long>(refused), static_cast<long long>(accepted));
}

TEST_F(ParallelTest, OneDigestWithinATensorDegree) {
  config_.model.layers = 4;
  config_.model.heads = 4;
  config_.train.steps = 3;
  std::map<int, Outcome> by_degree;
  std::int64_t legal = 0;
  for (const int tp : {1, 2, 4}) {
    config_.parallel = {.tp = tp};
    constexpr std::int64_t kChunk = 5;  // of 14 tokens
    const Outcome expected =
        outcome_of(train_simulated(config_, {.ranks = tp, .loss_chunk_tokens = kChunk}));
    ASSERT_EQ(expected.digests.size(), 3u);
    by_degree[tp] = expected;
    for (const int replicas : {1, 2, 3, 4})
      for (int pp = 1; pp <= std::min(replicas, 3); ++pp)
        for (const std::string& schedule : kSchedules)
          for (const int chunks : {1, 2})
            for (const std::string& recompute : kRecompute) {
              if (tp == 1 || (replicas == 1 && recompute == "none" && chunks == 1)) continue;
              config_.parallel = {.tp = tp, .pp = pp, .chunks = chunks, .schedule = schedule};
              config_.train.recompute = recompute;
              const auto plan = plan_of(config_, tp * replicas);
              if (!plan || ++legal % kStride != 0) continue;
              const Outcome outcome = outcome_of(
                  train_simulated(config_, {.ranks = tp * replicas,
                                            .seed = static_cast<std::uint64_t>(runs_) + 1,
                                            .loss_chunk_tokens = kChunk}));
              ASSERT_EQ(outcome.digests, expected.digests)
                  << "tp " << tp << ", " << replicas << " groups, pp " << pp << ", chunks "
                  << chunks << ", " << schedule << ", recompute " << recompute;
              ++runs_;
            }
    config_.train.recompute = "none";
  }
  EXPECT_NE(by_degree[1].digests, by_degree[2].digests);
  EXPECT_NE(by_degree[2].digests, by_degree[4].digests);
  // tests/README.md, "Across tensor degrees".
  const auto layers = static_cast<double>(config_.model.layers);
  const auto hidden = static_cast<double>(config_.model.hidden);
  const double tolerance = (4 * layers + 2) * std::sqrt(4 * hidden) * 0x1p-24;
  for (const int tp : {2, 4})
    for (std::size_t step = 0; step < by_degree[1].losses.size(); ++step)
      EXPECT_NEAR(by_degree[tp].losses[step] / by_degree[1].losses[step], 1,
                  tolerance * static_cast<double>(step + 1))
          << "tp " << tp << ", step " << step + 1;
  EXPECT_GE(runs_, 200 / kStride);
  std::printf("campaign: %lld layouts with tensor degree 2 and 4, one digest per step in each\n",
              static_cast<long long>(runs_));
}

}  // namespace
}  // namespace elaswave::test
