// The simulation campaign: thousands of training runs in which ranks die, stop or are cut off at
// every point of the protocol; each is held to the run that nobody disturbed. A case that fails is
// made smaller and printed as a line for stored_cases.cpp. ELASWAVE_LONG=1: every hit of every
// point, all pairs of failures, 100,000 random schedules; ELASWAVE_SEED=n: the random ones of that
// seed alone; ELASWAVE_PART=i/n: the i-th (from 0) of n parts of the cases, for as many processes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "tests/chaos/draw.h"
#include "tests/chaos/shrink.h"
#include "tests/chaos/stored_cases.h"

namespace elaswave::test {
namespace {

bool long_run() {
  return std::getenv("ELASWAVE_LONG") != nullptr;
}

/// Which of the cases this process tries.
struct Part {
  std::int64_t index = 0, of = 1;
};

Part wanted_part() {
  Part part;
  const char* text = std::getenv("ELASWAVE_PART");
  if (text == nullptr) return part;
  if (std::sscanf(text, "%" SCNd64 "/%" SCNd64, &part.index, &part.of) != 2 || part.index < 0 ||
      part.index >= part.of)
    throw std::invalid_argument("ELASWAVE_PART takes i/n with 0 <= i < n");
  return part;
}

class CampaignTest : public testing::Test {
 protected:
  /// Of the cases that are counted off, one after the other.
  bool passes_if_mine(const Case& what) { return met_++ % part_.of != part_.index || passes(what); }

  /// False when the case failed: it has been made smaller and printed.
  bool passes(const Case& what) {
    const std::string wrong = bench_.try_case(what);
    if (wrong.empty()) return true;
    const auto fails = [this](const Case& smaller) {
      return !bench_.hits(smaller).empty() && !bench_.judge(smaller, bench_.run(smaller)).empty();
    };
    const Case least = shrink(what, fails);
    const ElasticRun run = bench_.run(least);
    ADD_FAILURE() << "seed " << what.seed << ": " << wrong << "\n  " << text(what)
                  << "\nmade smaller: " << bench_.judge(least, run) << "\n      " << text(least)
                  << ",\n"
                  << ends(run);
    return false;
  }

  void random_cases(std::string_view name, std::int64_t count,
                    Case (*draw)(Bench&, std::uint64_t)) {
    const char* wanted = std::getenv("ELASWAVE_SEED");
    const std::uint64_t first = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 1;
    if (wanted != nullptr) {
      count = 1;
      part_ = {};
    }
    for (std::uint64_t seed = first; seed < first + static_cast<std::uint64_t>(count); ++seed)
      if (met_++ % part_.of == part_.index && !passes(draw(bench_, seed))) return;
    print(name);
  }

  void print(std::string_view name) {
    const Tally& tally = bench_.tally();
    fmt::print(
        "campaign: {}: {} runs, {} of them twice, {} faults ({} before all copies were whole "
        "again), {} recoveries, {} ranks excluded, {} runs lost blocks, {} lost their quorum\n",
        name, tally.runs, tally.repeated, tally.fired, tally.exposed, tally.recoveries,
        tally.excluded, tally.lost, tally.alone);
    std::fflush(stdout);
  }

  Bench bench_;
  Part part_ = wanted_part();
  std::int64_t met_ = 0;  // cases so far, of all parts
};

TEST_F(CampaignTest, StoredCases) {
  for (const Case& stored : stored_cases()) EXPECT_TRUE(passes(stored));
  print("stored cases");
}

TEST_F(CampaignTest, HealthyRuns) {
  for (const Case& layout : layouts()) {
    EXPECT_EQ(bench_.try_case(layout), "") << text(layout);
    EXPECT_FALSE(bench_.hits(layout).empty()) << text(layout);
  }
  print("healthy runs");
}

TEST_F(CampaignTest, FirstFailures) {
  first_failures(bench_, long_run(), [this](const Case& what) { return passes_if_mine(what); });
  print("first failures");
  if (part_.of > 1) return;
  // A point that no run passes guards nothing.
  const Tally& tally = bench_.tally();
  for (std::size_t i = 0; i < static_cast<std::size_t>(Point::count); ++i)
    EXPECT_TRUE(tally.hits.contains(static_cast<Point>(i)))
        << name(static_cast<Point>(i)) << " is never passed";
}

TEST_F(CampaignTest, SecondFailures) {
  if (long_run()) {
    pairs_of_failures(bench_, [this](const Case& what) { return passes_if_mine(what); });
    print("pairs of failures");
  } else {
    random_cases("second failures", 2'000, second_failure);
  }
}

TEST_F(CampaignTest, RandomSchedules) {
  random_cases("random schedules", long_run() ? 100'000 : 2'000, random_schedule);
}

}  // namespace
}  // namespace elaswave::test
