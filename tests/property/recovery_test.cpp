// The step loop over failures, in the simulated world: whatever rank goes at whatever point, the
// survivors go on, every step is told once, and every step's digest is that of the run that nobody
// disturbed.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "app/layout.h"
#include "parallel/comm/wire_sim.h"
#include "tests/support/elastic.h"

namespace elaswave::test {
namespace {

// Sanitizers look at the same code in fewer runs.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::int64_t kHits = 1, kPairs = 60, kOrders = 3;
#else
constexpr std::int64_t kHits = 3, kPairs = 500, kOrders = 20;
#endif

class RecoveryTest : public testing::Test {
 protected:
  void SetUp() override {
    write_tokens(folder_.file("tokens.bin"), 4000, 37);
    config_ = tiny_config(folder_.file("tokens.bin"));
    config_.train.steps = 4;
    config_.train.global_batch = 16;
  }

  /// The run that all others are held to.
  std::vector<app::StepReport> undisturbed() {
    return train_simulated(config_, {.ranks = 1}).steps;
  }

  /// Empty when the run is as it should be.
  static std::string fault_of(const ElasticRun& run,
                              const std::vector<app::StepReport>& reference) {
    if (!run.failure.empty()) return run.failure;
    bool finished = false;
    for (std::size_t rank = 0; rank < run.errors.size(); ++rank) {
      finished = finished || run.summaries[rank];
      if (!run.killed[rank] && run.errors[rank])
        return fmt::format("rank {}: {}", rank, run.errors[rank]->text());
      if (!run.killed[rank] && !run.summaries[rank])
        return fmt::format("rank {} never ended", rank);
      if (run.summaries[rank] && run.summaries[rank]->digest != *reference.back().digest)
        return fmt::format("rank {} ends with another digest", rank);
    }
    if (!finished) return "nobody finished";
    if (run.steps.size() != reference.size())
      return fmt::format("{} steps written, {} trained", run.steps.size(), reference.size());
    for (std::size_t i = 0; i < reference.size(); ++i) {
      const app::StepReport& mine = run.steps[i];
      if (mine.record.version.step != reference[i].record.version.step)
        return fmt::format("step {} written in place of step {}", raw(mine.record.version.step),
                           raw(reference[i].record.version.step));
      if (mine.digest != reference[i].digest || mine.record.loss != reference[i].record.loss ||
          mine.record.sample_hash != reference[i].record.sample_hash ||
          mine.tokens != reference[i].tokens)
        return fmt::format("step {} differs", raw(mine.record.version.step));
    }
    return {};
  }

  TemporaryFolder folder_;
  app::Config config_;
};

TEST_F(RecoveryTest, AHealthyRunIsWhatItWas) {
  const auto reference = undisturbed();
  for (const std::int64_t stages : {1, 2, 4}) {
    config_.parallel.pp = stages;
    const ElasticRun run = train_elastic(config_, {.ranks = 8});
    EXPECT_EQ(fault_of(run, reference), "") << stages << " stages";
    EXPECT_TRUE(run.recoveries.empty());
  }
}

TEST_F(RecoveryTest, AnyRankAtAnyPoint) {
  const auto reference = undisturbed();
  const char* longer = std::getenv("ELASWAVE_LONG");
  std::int64_t runs = 0, recovered = 0;
  for (const std::int64_t stages : {1, 2}) {
    config_.parallel.pp = stages;
    const HitTable hits = count_hits(config_, {.ranks = 4});
    for (int rank = 0; rank < 4; ++rank)
      for (const auto& [point, count] : hits[static_cast<std::size_t>(rank)]) {
        // The first, one in the middle and the last hit; all of them in the long run.
        const std::int64_t stride =
            longer != nullptr ? 1 : std::max<std::int64_t>(1, count / kHits);
        for (std::int64_t hit = 1; hit <= count; hit += stride) {
          const Fault fault{.rank = rank, .point = point, .hit = hit};
          const ElasticRun run = train_elastic(config_, {.ranks = 4, .faults = {fault}});
          ASSERT_EQ(fault_of(run, reference), "") << stages << " stages, " << text(fault);
          ASSERT_EQ(run.fired, 1) << text(fault);
          ++runs;
          recovered += run.recoveries.empty() ? 0 : 1;
        }
      }
  }
  EXPECT_GT(recovered, runs * 3 / 4);  // the others died after the last step
  std::printf("campaign: recovery: %ld first failures, %ld recoveries\n", static_cast<long>(runs),
              static_cast<long>(recovered));
}

/// Two ranks one after the other, the second at any time from the first one's end on: also in the
/// middle of the recovery, before copies are filled again. Then blocks may be gone for good, and
/// all must say so; everything else is as if nothing had happened.
TEST_F(RecoveryTest, TwoRanksAtAnyTwoPoints) {
  const auto reference = undisturbed();
  const char* wanted = std::getenv("ELASWAVE_SEED");
  const std::uint64_t first = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 1;
  const std::uint64_t count = wanted != nullptr ? 1
                              : std::getenv("ELASWAVE_COUNT")
                                  ? std::strtoull(std::getenv("ELASWAVE_COUNT"), nullptr, 10)
                                  : static_cast<std::uint64_t>(kPairs);
  std::int64_t lost = 0, recoveries = 0;
  struct Shape {
    std::int64_t stages, tensor;
    int ranks;
  };
  const Shape shapes[] = {{1, 1, 4}, {2, 1, 4}, {2, 1, 8}, {4, 1, 8}, {3, 1, 7}};
  std::map<std::size_t, HitTable> tables;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    comm::SimRandom random(seed);
    const std::size_t which = random.below(std::size(shapes));
    const Shape shape = shapes[which];
    config_.parallel.pp = shape.stages;
    if (!tables.contains(which)) tables[which] = count_hits(config_, {.ranks = shape.ranks});
    const auto draw = [&] {
      const auto rank = static_cast<int>(random.below(static_cast<std::uint64_t>(shape.ranks)));
      const auto& hits = tables[which][static_cast<std::size_t>(rank)];
      auto at = hits.begin();
      std::advance(at, static_cast<std::ptrdiff_t>(random.below(hits.size())));
      return Fault{.rank = rank,
                   .point = at->first,
                   .hit = 1 + static_cast<std::int64_t>(
                                  random.below(static_cast<std::uint64_t>(at->second)))};
    };
    Fault one = draw(), other = draw();
    if (random.below(2) == 0) {  // in the first one's recovery
      const Point recovery[] = {Point::recover_begin,   Point::recover_inventory,
                                Point::recover_planned, Point::recover_moved,
                                Point::recover_gate,    Point::recover_done};
      other.point = recovery[random.below(std::size(recovery))];
      other.hit = 1;
    }
    const ElasticRun run =
        train_elastic(config_, {.ranks = shape.ranks, .seed = seed, .faults = {one, other}});
    const std::string fault = fault_of(run, reference);
    if (fault.find("blocks lost") != std::string::npos && run.fired_exposed > 0) {
      ++lost;
      continue;
    }
    ASSERT_EQ(fault, "") << "seed " << seed << ": " << shape.stages << " stages, " << shape.ranks
                         << " ranks, " << text(one) << ", " << text(other);
    recoveries += std::ssize(run.recoveries);
  }
  std::printf("campaign: recovery: %llu second failures, %ld recoveries, %ld lost blocks\n",
              static_cast<unsigned long long>(count), static_cast<long>(recoveries),
              static_cast<long>(lost));
}

TEST_F(RecoveryTest, OneAfterTheOtherDownToOneReplica) {
  config_.train.steps = 30;
  const auto reference = undisturbed();
  config_.parallel.tp = 2;
  const auto sliced = train_simulated(config_, {.ranks = 2}).steps;
  for (std::uint64_t seed = 1; seed <= static_cast<std::uint64_t>(kOrders); ++seed)
    for (const std::int64_t tensor : {1, 2}) {
      config_.parallel.tp = tensor;
      config_.parallel.pp = 2;
      comm::SimRandom random(seed);
      std::vector<int> order = {0, 1, 2, 3, 4, 5, 6, 7};
      for (std::size_t i = order.size() - 1; i > 0; --i)
        std::swap(order[i], order[random.below(i + 1)]);
      order.resize(static_cast<std::size_t>(8 - tensor));
      ElasticOptions options{.ranks = 8, .seed = seed};
      // Each dies some steps after the one before it, when the copies are whole again.
      const Point points[] = {Point::before_forward, Point::before_reduce, Point::after_log,
                              Point::before_commit,  Point::during_apply,  Point::after_apply};
      for (std::size_t i = 0; i < order.size(); ++i)
        options.faults.push_back({.rank = order[i],
                                  .point = points[random.below(std::size(points))],
                                  .hit = static_cast<std::int64_t>(4 * (i + 1)),
                                  .when_whole = true});
      const ElasticRun run = train_elastic(config_, options);
      std::string who;
      for (const Fault& fault : options.faults) who += text(fault) + "; ";
      ASSERT_EQ(fault_of(run, tensor == 2 ? sliced : reference), "")
          << "seed " << seed << ", tensor degree " << tensor << ": " << who;
      EXPECT_EQ(run.fired, std::ssize(order));
    }
}

TEST_F(RecoveryTest, AWholeDomain) {
  const auto reference = undisturbed();
  std::int64_t runs = 0;
  for (const std::int64_t stages : {1, 2, 4}) {
    config_.parallel.pp = stages;
    const ElasticOptions healthy{.ranks = 8, .domains = {0, 0, 0, 0, 1, 1, 1, 1}};
    const HitTable hits = count_hits(config_, healthy);
    for (const int rank : {0, 4})
      for (const auto& [point, count] : hits[static_cast<std::size_t>(rank)])
        for (std::int64_t hit = 1; hit <= count; hit += std::max<std::int64_t>(1, count / kHits)) {
          ElasticOptions options = healthy;
          options.faults = {
              {.rank = rank, .point = point, .hit = hit, .also = {rank + 1, rank + 2, rank + 3}}};
          const ElasticRun run = train_elastic(config_, options);
          ASSERT_EQ(fault_of(run, reference), "")
              << stages << " stages, " << text(options.faults.front());
          ++runs;
        }
  }
  std::printf("campaign: recovery: %ld whole domains\n", static_cast<long>(runs));
}

/// Both replicas of the first stage go, one after the other. Whoever is left could run all layers
/// without moving any, if only they had the memory.
TEST_F(RecoveryTest, MemoryDecidesTheLayout) {
  config_.train.steps = 12;
  config_.model.layers = 4;
  const auto reference = undisturbed();
  config_.parallel.pp = 2;
  config_.parallel.schedule = "1f1b";  // none keeps less
  const auto limited = [&](double bytes) {
    ElasticOptions options{
        .ranks = 4,
        .faults = {{.rank = 0, .point = Point::before_reduce, .hit = 2},
                   {.rank = 1, .point = Point::before_commit, .hit = 6, .when_whole = true}}};
    if (bytes > 0) options.limits.assign(4, {.own_bytes = static_cast<std::int64_t>(bytes)});
    return train_elastic(config_, options);
  };
  const auto need = [&](std::int64_t stages, int ranks) {
    app::Config config = config_;
    config.parallel.pp = stages;
    if (ranks % stages != 0) config.parallel.schedule = "auto";
    const app::RunSpec spec = app::resolve(config).value();
    return app::worst_memory(spec, app::healthy_plan(spec, ranks, Generation{0})->plan).total();
  };
  const double one = need(1, 2), two = need(2, 2);
  ASSERT_GT(one, 1.1 * two);
  ASSERT_GT(two, 1.1 * need(2, 3));
  struct Case {
    double bytes;
    std::int64_t stages;  // after the second loss
  };
  for (const Case& expected : {Case{0, 1}, Case{one * 1.05, 1}, Case{(one + two) / 2, 2}}) {
    const ElasticRun run = limited(expected.bytes);
    ASSERT_EQ(fault_of(run, reference), "") << expected.bytes;
    ASSERT_EQ(run.fired, 2);
    ASSERT_EQ(run.recoveries.size(), 2u);
    EXPECT_EQ(run.recoveries[1].stages, expected.stages) << expected.bytes;
  }
  const ElasticRun run = limited(two * 0.95);
  EXPECT_EQ(run.failure, "");
  EXPECT_LT(run.steps.size(), reference.size());
  for (const std::size_t rank : {2u, 3u}) {
    ASSERT_TRUE(run.errors[rank].has_value());
    EXPECT_EQ(run.errors[rank]->code, Code::unrecoverable);
    EXPECT_EQ(run.errors[rank]->what, "2 ranks are left, and no layout fits into memory");
  }
}

/// Shares follow speed (here ranks differ by chance alone), but not into memory that is not there.
TEST_F(RecoveryTest, MemoryKeepsShares) {
  config_.train.steps = 24;
  config_.model.layers = 4;
  const auto reference = undisturbed();
  config_.parallel.pp = 2;
  config_.parallel.schedule = "1f1b";
  const app::RunSpec spec = app::resolve(config_).value();
  const double need =
      app::worst_memory(spec, app::healthy_plan(spec, 4, Generation{0})->plan).total();
  std::array<int, 2> changed{};
  for (std::uint64_t seed = 1; seed <= 6; ++seed)
    for (const std::size_t limited : {0u, 1u}) {
      ElasticOptions options{.ranks = 4, .seed = seed};
      // Less than the first plan needs, which is not asked again.
      if (limited == 1)
        options.limits.assign(4, {.own_bytes = static_cast<std::int64_t>(need / 2)});
      const ElasticRun run = train_elastic(config_, options);
      ASSERT_EQ(fault_of(run, reference), "");
      for (const app::RankWork& work : run.summaries[0]->work)
        changed[limited] += work.micro_batches == 4 * config_.train.steps ? 0 : 1;
    }
  EXPECT_GT(changed[0], 0);
  EXPECT_EQ(changed[1], 0);
}

/// A stopped rank is voted out; woken up, it fences itself and disturbs nobody.
TEST_F(RecoveryTest, StoppedAndWokenUp) {
  config_.train.steps = 12;
  const auto reference = undisturbed();
  for (const int rank : {0, 1, 3}) {
    ElasticOptions options{
        .ranks = 4,
        .faults = {
            {.kind = Fault::Kind::stop, .rank = rank, .point = Point::before_reduce, .hit = 2}}};
    comm::SimulationControl* control = nullptr;
    options.control = [&](comm::SimulationControl& made) {
      control = &made;
      made.at(500 * kMillisecond, [&made, rank] { made.go_on(rank); });
    };
    const ElasticRun run = train_elastic(config_, options);
    const auto index = static_cast<std::size_t>(rank);
    ASSERT_EQ(run.fired, 1);
    if (run.errors[index]) {
      EXPECT_EQ(run.errors[index]->code, Code::excluded) << run.errors[index]->text();
    }
    ElasticRun others = run;
    others.killed[index] = true;
    EXPECT_EQ(fault_of(others, reference), "") << text(options.faults.front());
    EXPECT_EQ(run.recoveries.size(), 1u);
  }
}

}  // namespace
}  // namespace elaswave::test
