// The summary at the end of a run.
#include "app/console.h"

#include <gtest/gtest.h>

namespace elaswave::app {
namespace {

std::string printed(Console& console, const RunSummary& summary) {
  testing::internal::CaptureStdout();
  console.finish(summary);
  return testing::internal::GetCapturedStdout();
}

TEST(Console, MicroBatchesOfARunAreCountedOnceForAllStagesAndSlices) {
  RunSpec spec;
  spec.steps = 3;
  spec.micro_batches = 8;
  Console console(ConsoleMode::plain, 1, spec);
  testing::internal::CaptureStdout();
  for (std::int64_t step = 1; step <= spec.steps; ++step)
    console.step({.record = {.version = {.step = Step{step}}}, .duration = kSecond});
  testing::internal::GetCapturedStdout();
  // Two stages of two replicas: each micro-batch is on two ranks.
  RunSummary summary{.last_step = Step{3}};
  summary.work = {{12, 100}, {12, 100}, {15, 90}, {9, 90}};
  const std::string text = printed(console, summary);
  EXPECT_NE(text.find("rank 2: 15 micro-batches computed, 90 optimizer bytes owned\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("all ranks: 24 micro-batches computed, 380 optimizer bytes owned\n"),
            std::string::npos)
      << text;
}

TEST(Console, ASessionWithoutAStepComputedNothing) {
  RunSpec spec;
  spec.steps = 3;
  spec.micro_batches = 8;
  Console console(ConsoleMode::plain, 1, spec);
  const std::string text = printed(console, {.last_step = Step{3}, .work = {{0, 100}}});
  EXPECT_NE(text.find("all ranks: 0 micro-batches computed, 100 optimizer bytes owned\n"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace elaswave::app
