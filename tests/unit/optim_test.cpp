// Learning rate, the commit record, and the arithmetic they rest on.
#include <gtest/gtest.h>

#include <cmath>

#include "model/optim/commit.h"
#include "model/optim/math.h"
#include "model/optim/schedule.h"

namespace elaswave::optim {
namespace {

TEST(Math, AgreesWithTheLibraryToAFewUlp) {
  for (int i = 1; i < 20000; ++i) {
    const double x = i * 0.000137;
    EXPECT_NEAR(cos_turns(x), std::cos(2 * M_PI * x), 4e-15) << x;
    EXPECT_NEAR(sin_turns(x), std::sin(2 * M_PI * x), 4e-15) << x;
    EXPECT_NEAR(natural_log(x), std::log(x), 1e-14 * std::max(1.0, std::abs(std::log(x)))) << x;
  }
  EXPECT_EQ(power(2, 10), 1024);
  EXPECT_EQ(power(0.5, 0), 1);
  EXPECT_NEAR(power(0.999, 1000), std::pow(0.999, 1000), 1e-13);
  EXPECT_NEAR(natural_log(0x1p-33), -33 * M_LN2, 1e-13);
}

TEST(Schedule, ShapesAtTheirCorners) {
  LrConfig config{.peak = 1, .floor = 0.1, .warmup_steps = 10, .horizon_steps = 110};
  EXPECT_DOUBLE_EQ(learning_rate(config, 1), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 10), 1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 60), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(config, 110), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 500), 0.1);
  config.schedule = LrSchedule::linear;
  EXPECT_DOUBLE_EQ(learning_rate(config, 35), 1 - 0.9 * 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(config, 110), 0.1);
  config.schedule = LrSchedule::wsd;
  config.wsd_decay_fraction = 0.2;
  EXPECT_DOUBLE_EQ(learning_rate(config, 90), 1);
  EXPECT_NEAR(learning_rate(config, 95), 1 - 0.9 * 0.5,
              1e-12);  // a quarter into the decay: 1 - sqrt(1/4)
  EXPECT_DOUBLE_EQ(learning_rate(config, 110), 0.1);
  config.schedule = LrSchedule::constant;
  EXPECT_DOUBLE_EQ(learning_rate(config, 5), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 500), 1);
}

CommitVote vote_with(double loss_sum, double squares) {
  CommitVote vote{.tokens = 4, .micro_batches = 2};
  vote.loss.add(loss_sum);
  vote.gradient_squares.add(squares);
  return vote;
}

TEST(Commit, VoteSurvivesTheWire) {
  CommitVote vote = vote_with(10, 9);
  vote.bad_ranks = 1;
  vote.data_failures = 2;
  vote.stop_requests = 3;
  vote.blocks_logged = 5;
  vote.copies_logged = 6;
  vote.copy_digest = -7;
  const CommitVote back = CommitVote::from_words(vote.words());
  EXPECT_EQ(back.words(), vote.words());
  EXPECT_EQ(back.loss.value(), 10);
  EXPECT_EQ(back.gradient_squares.value(), 9);
  EXPECT_EQ(back.stop_requests, 3);
  EXPECT_EQ(back.copies_logged, 6);
  EXPECT_EQ(back.copy_digest, -7);
}

TEST(Commit, ClipsOnTheGlobalNorm) {
  const AdamWConfig config{.lr = {.schedule = LrSchedule::constant, .peak = 0.5}, .clip = 1};
  const CommitRecord clipped = decide(vote_with(10, 16), {Step{3}, Generation{0}}, 2, 7, config);
  EXPECT_EQ(clipped.loss, 2.5);
  EXPECT_EQ(clipped.grad_norm, 4);
  EXPECT_EQ(clipped.scalars.clip, 0.25f);
  EXPECT_EQ(clipped.updates, 3);
  EXPECT_EQ(clipped.scalars.correction1, static_cast<float>(1 / (1 - 0.9 * 0.9 * 0.9)));
  EXPECT_EQ(decide(vote_with(10, 0.25), {Step{3}, Generation{0}}, 2, 7, config).scalars.clip, 1.0f);
  AdamWConfig off = config;
  off.clip = 0;
  EXPECT_EQ(decide(vote_with(10, 16), {Step{3}, Generation{0}}, 2, 7, off).scalars.clip, 1.0f);
}

TEST(Commit, ASkippedStepDoesNotCountAsAnUpdate) {
  CommitVote vote = vote_with(10, 16);
  vote.bad_ranks = 1;
  const CommitRecord record = decide(vote, {Step{3}, Generation{0}}, 2, 7, {});
  EXPECT_TRUE(record.skip);
  EXPECT_EQ(record.updates, 2);
  EXPECT_EQ(record.sample_hash, 7u);
  EXPECT_TRUE(std::isnan(record.loss));
}

}  // namespace
}  // namespace elaswave::optim
