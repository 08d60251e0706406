// The model on tensor-parallel slices, in the simulated world: as close to the whole model as
// rounding allows, and for one number of slices the same bits whatever the cut into chunks, the
// order of actions, the split of backward, recomputation, and the order of messages.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "parallel/comm/simulation.h"
#include "tests/reference/stage_case.h"

namespace elaswave::test {
namespace {

using layers::Recompute;

constexpr Backward kBackwards[] = {Backward::fused, Backward::split, Backward::mixed};
constexpr Recompute kRecomputes[] = {Recompute::none, Recompute::selective, Recompute::full};

/// Runs the plan on `slices` ranks and puts their sums together. Losses must be the same bits on
/// all slices.
StepResult run_slices(const SmallModel& model, const StepPlan& plan, int slices,
                      std::uint64_t scheduler_seed = 1) {
  std::vector<StepResult> results(static_cast<std::size_t>(slices));
  std::vector<int> ranks;  // another order than the world's
  for (int slice = 0; slice < slices; ++slice) ranks.push_back((slice + 1) % slices);
  const auto report = comm::simulate({.ranks = slices,
                                      .seed = scheduler_seed,
                                      .chunk_bytes = scheduler_seed % 2 == 0 ? 96 : 64 << 10,
                                      .probe = {}},
                                     [&](comm::World& world) {
                                       comm::SliceGroup group(world, ranks, 100 * kSecond);
                                       results[static_cast<std::size_t>(group.slice())] =
                                           run_step(model, plan, &group);
                                     });
  EXPECT_TRUE(report.has_value()) << (report ? "" : report.error().text());
  StepResult whole = results.front();
  for (std::size_t slice = 1; slice < results.size(); ++slice) {
    EXPECT_EQ(results[slice].losses, whole.losses) << "slice " << slice;
    EXPECT_EQ(results[slice].validation, whole.validation) << "slice " << slice;
    add_slice(whole.sums, results[slice].sums);
  }
  return whole;
}

StepPlan simple_plan(const SmallModel& model) {
  return random_plan({{0, static_cast<std::int32_t>(model.config.layers) + 2}}, model.micro_batches,
                     Backward::fused, Recompute::none, 1);
}

template <typename T>
double distance(const std::vector<T>& a, const std::vector<T>& b) {
  EXPECT_EQ(a.size(), b.size());
  double squares = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    squares += difference * difference;
  }
  return std::sqrt(squares);
}

/// Terms of the longest sum in the model: over features, tokens, keys or the vocabulary.
std::int64_t longest_sum(const SmallModel& model) {
  const spec::ModelConfig& config = model.config;
  return std::max({4 * config.hidden, config.vocab, model.samples * config.context});
}

// Where the tolerance comes from. A sum of K products computed in f32, in any association, is the
// exact sum of products whose factors are changed by at most K u relatively, u = 2^-24 (Higham,
// Accuracy and Stability of Numerical Algorithms, section 3.1). Slices change nothing but the
// association of sums, so both results are the exact model with weights moved by no more than that,
// and what they may differ by is what the model itself makes of such a move. So the model is asked:
// it runs once more, whole, every weight moved at random by up to K u; that distance, twice (one
// for each of the two results), bounds theirs. In a sum of random errors this is generous by about
// the square root of K; a wrong row, mask, bias or slice is wrong by five orders of magnitude more.
// Sums in fixed point add half a unit for each addend of an element.
struct Comparison {
  double largest_ratio = 0;  // of a distance to its bound

  void expect_close(double difference, double bound, const std::string& what) {
    EXPECT_LE(difference, bound) << what;
    largest_ratio = std::max(largest_ratio, difference / bound);
  }

  void compare(const SmallModel& model, const StepResult& sliced, const StepResult& whole) {
    SmallModel moved_model = model;
    moved_model.perturbation = std::ldexp(static_cast<float>(longest_sum(model)), -24);
    const StepResult moved = run_whole(moved_model);
    for (std::size_t i = 0; i < whole.losses.size(); ++i) {
      expect_close(distance(sliced.losses[i], whole.losses[i]),
                   2 * distance(moved.losses[i], whole.losses[i]), "losses");
      expect_close(distance(sliced.validation[i], whole.validation[i]),
                   2 * distance(moved.validation[i], whole.validation[i]), "validation");
    }
    for (std::size_t tensor = 0; tensor < whole.sums.size(); ++tensor) {
      const double addends = 16;  // of an element in a step, of both results, at most
      const double fixed_point =
          addends * std::sqrt(static_cast<double>(whole.sums[tensor].size()));
      expect_close(distance(sliced.sums[tensor], whole.sums[tensor]),
                   2 * distance(moved.sums[tensor], whole.sums[tensor]) + fixed_point,
                   "gradient of tensor " + std::to_string(tensor));
    }
  }
};

TEST(StageSlices, losses_and_gradients_are_those_of_the_whole_model) {
  std::int64_t cases = 0;
  Comparison comparison;
  for (const int slices : {2, 3, 4})
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
      const SmallModel model = random_model(seed, slices);
      comparison.compare(model, run_slices(model, simple_plan(model), slices), run_whole(model));
      if (HasFailure()) FAIL() << slices << " slices, seed " << seed;
      ++cases;
    }
  std::printf("campaign: %lld cases, largest part of the tolerance used: %.3f\n",
              static_cast<long long>(cases), comparison.largest_ratio);
}

// Several chunks of the loss, the last one short; a vocabulary slice with fewer rows than others.
TEST(StageSlices, many_tokens) {
  const SmallModel model{
      .config =
          {.layers = 2, .heads = 4, .hidden = 32, .context = 101, .vocab = 41, .dropout = 0.25f},
      .samples = 3,
      .micro_batches = 2};
  Comparison comparison;
  for (const int slices : {2, 4})
    comparison.compare(model, run_slices(model, simple_plan(model), slices), run_whole(model));
  std::printf("largest part of the tolerance used: %.3f\n", comparison.largest_ratio);
}

TEST(StageSlices, every_cut_order_split_and_recompute_gives_the_same_bits) {
  std::int64_t cases = 0;
  for (const int slices : {2, 4}) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      const SmallModel model = random_model(seed, slices);
      const StepResult expected = run_slices(model, simple_plan(model), slices);
      for (const Cut& cut : all_cuts(static_cast<std::int32_t>(model.config.layers) + 2))
        for (const Backward backward : kBackwards)
          for (const Recompute recompute : kRecomputes) {
            const auto number = static_cast<std::uint64_t>(cases++);
            const StepPlan plan =
                random_plan(cut, model.micro_batches, backward, recompute, combine64(seed, number));
            const StepResult result = run_slices(model, plan, slices, 2 + number);
            ASSERT_EQ(result, expected) << slices << " slices, seed " << seed << " case " << number;
            if (HasFailure()) FAIL() << slices << " slices, seed " << seed << " case " << number;
          }
    }
  }
  std::printf("campaign: %lld cases\n", static_cast<long long>(cases));
}

TEST(StageSlices, four_slices_do_not_see_the_order_of_messages) {
  const SmallModel model = random_model(5, 4);
  const StepPlan plan =
      random_plan(all_cuts(static_cast<std::int32_t>(model.config.layers) + 2).back(),
                  model.micro_batches, Backward::mixed, Recompute::selective, 5);
  const StepResult expected = run_slices(model, plan, 4, 1);
  for (std::uint64_t seed = 2; seed <= 21; ++seed)
    ASSERT_EQ(run_slices(model, plan, 4, seed), expected) << "scheduler seed " << seed;
  std::printf("campaign: 20 scheduler seeds\n");
}

// A group of one slice takes the path of no group at all.
TEST(StageSlices, one_slice_is_the_whole_model) {
  const SmallModel model = random_model(7);
  EXPECT_EQ(run_slices(model, simple_plan(model), 1), run_whole(model));
}

}  // namespace
}  // namespace elaswave::test
