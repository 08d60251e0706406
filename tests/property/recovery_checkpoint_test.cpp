// Failures of runs that take checkpoints: what is on the disk afterwards is sound and goes on with
// the same bits, and a checkpoint takes the place of state that no survivor holds.
#include <gtest/gtest.h>

#include <cstdio>

#include "parallel/comm/wire_sim.h"
#include "tests/property/checkpoint_testing.h"
#include "tests/support/elastic.h"

namespace elaswave::test {
namespace {

// Sanitizers look at the same code in fewer runs.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kSeeds = 12;
#else
constexpr std::uint64_t kSeeds = 60;
#endif

class RecoveryCheckpointTest : public CheckpointTest {
 protected:
  RecoveryCheckpointTest() { config_.checkpoint.every = 1; }

  /// Empty when survivors ended alike and every step was told once, with the straight run's digest.
  std::string fault_of(const ElasticRun& run) const {
    if (!run.failure.empty()) return run.failure;
    for (std::size_t rank = 0; rank < run.errors.size(); ++rank) {
      if (run.killed[rank]) continue;
      if (run.errors[rank]) return fmt::format("rank {}: {}", rank, run.errors[rank]->text());
      if (!run.summaries[rank]) return fmt::format("rank {} never ended", rank);
      if (run.summaries[rank]->digest != digest(kSteps))
        return fmt::format("rank {} ends with another digest", rank);
    }
    for (std::size_t i = 0; i < run.steps.size(); ++i) {
      const auto& straight = straight_.steps[i];
      if (run.steps[i].record.version.step != straight.record.version.step)
        return fmt::format("step {} told in place of {}", raw(run.steps[i].record.version.step),
                           i + 1);
      if (run.steps[i].digest != straight.digest || run.steps[i].tokens != straight.tokens ||
          run.steps[i].record.updates != straight.record.updates)
        return fmt::format("step {} differs", i + 1);
    }
    if (std::ssize(run.steps) != kSteps) return fmt::format("{} steps told", run.steps.size());
    return {};
  }

  /// Empty when every checkpoint there is sound and a run that goes on from the newest does well.
  std::string fault_of(FakeFileSystem& files, int ranks) const {
    const auto steps = checkpoint::list_steps(files, kDirectory);
    if (!steps) return steps.error().text();
    for (const Step step : *steps)
      if (const auto found = checkpoint::verify(files, kDirectory + "/" + step_name(step));
          !found.empty())
        return fmt::format("step {}: {}", raw(step), found.front().what);
    const SimulatedRun rest = resume(files, ranks);
    for (const auto& error : rest.errors)
      if (error) return error->text();
    if (!steps->empty() && rest.resumed != steps->front()) return "not the newest was taken";
    for (const app::StepReport& step : rest.steps)
      if (step.digest != digest(raw(step.record.version.step)))
        return fmt::format("step {} differs after a resume", raw(step.record.version.step));
    return rest.summary.digest == digest(kSteps) ? "" : "another digest after a resume";
  }

  static Fault draw(comm::SimRandom& random, const HitTable& hits) {
    const auto rank = random.below(hits.size());
    auto at = hits[rank].begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random.below(hits[rank].size())));
    return {
        .rank = static_cast<int>(rank),
        .point = at->first,
        .hit = 1 + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(at->second)))};
  }

  HitTable hits_of(int ranks) const {
    FakeFileSystem files;
    return count_hits(config_, {.ranks = ranks, .files = &files});
  }
};

/// One rank dies at any point; in half of the runs all others do some time later.
TEST_F(RecoveryCheckpointTest, WhatIsOnTheDiskGoesOn) {
  config_.checkpoint.last = false;
  std::int64_t durable = 0, whole_runs = 0;
  for (const std::int64_t stages : {1, 2}) {
    config_.parallel.pp = stages;
    const HitTable hits = hits_of(4);
    for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
      comm::SimRandom random(seed);
      FakeFileSystem files;
      ElasticOptions options{.ranks = 4, .seed = seed, .files = &files};
      options.faults = {draw(random, hits)};
      const bool all_die = random.below(2) == 0;
      if (all_die) {
        Fault end = draw(random, hits);
        end.also = {0, 1, 2, 3};
        std::erase(end.also, end.rank);
        options.faults.push_back(end);
      }
      SCOPED_TRACE(
          fmt::format("seed {}, {} stages: {}", seed, stages, text(options.faults.front())));
      const ElasticRun run = train_elastic(config_, options);
      if (!all_die) {
        ASSERT_EQ(fault_of(run), "");
        ++whole_runs;
        for (const auto& summary : run.summaries) {
          if (!summary) continue;
          // The attempt under way when the rank died, and no other.
          EXPECT_LE(summary->checkpoints.failed, 1);
          EXPECT_EQ(summary->durable, run.summaries[run.killed[0] ? 1 : 0]->durable);
        }
      }
      ASSERT_EQ(fault_of(files, 2 + static_cast<int>(seed % 3)), "");
      durable += std::ssize(*checkpoint::list_steps(files, kDirectory));
    }
  }
  EXPECT_GT(durable, 2 * kSeeds);
  std::printf("campaign: recovery with checkpoints: %ld runs to the end\n",
              static_cast<long>(whole_runs));
}

/// Owner and copy of a block die together, and in half of the runs another rank in the recovery.
TEST_F(RecoveryCheckpointTest, ACheckpointTakesThePlaceOfWhatIsLost) {
  std::int64_t back = 0, without = 0, interrupted = 0;
  for (const std::int64_t stages : {1, 2}) {
    config_.parallel.pp = stages;
    const HitTable hits = hits_of(6);
    for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
      comm::SimRandom random(seed);
      FakeFileSystem files;
      ElasticOptions options{.ranks = 6, .seed = seed, .files = &files};
      Fault fault = draw(random, hits);
      fault.also = {(fault.rank + 1) % 6, (fault.rank + 2) % 6};
      options.faults = {fault};
      if (random.below(2) == 0) {
        const Point points[] = {Point::recover_begin,   Point::recover_inventory,
                                Point::recover_planned, Point::recover_moved,
                                Point::recover_gate,    Point::recover_done};
        options.faults.push_back(
            {.rank = (fault.rank + 3) % 6, .point = points[random.below(std::size(points))]});
      }
      const ElasticRun run = train_elastic(config_, options);
      const std::string found = fault_of(run);
      if (found.find("no checkpoint yet") != std::string::npos) {
        for (std::size_t rank = 0; rank < run.errors.size(); ++rank)
          if (!run.killed[rank]) {
            ASSERT_TRUE(run.errors[rank]) << seed;
            EXPECT_EQ(run.errors[rank]->code, Code::unrecoverable);
          }
        ++without;
        continue;
      }
      ASSERT_EQ(found, "") << "seed " << seed << ", " << stages << " stages: " << text(fault)
                           << (options.faults.size() > 1 ? "; " + text(options.faults[1]) : "");
      bool went = false;
      for (const recover::RecoveryReport& report : run.recoveries)
        went = went || report.from_checkpoint;
      back += went;
      interrupted += went && run.fired > 1;
      ASSERT_EQ(fault_of(files, 2), "") << seed;
    }
  }
  const auto runs = static_cast<std::int64_t>(2 * kSeeds);
  EXPECT_GT(back, runs / 3);
  EXPECT_GT(interrupted, runs / 12);
  std::printf("campaign: recovery: %ld times back to a checkpoint (%ld interrupted), %ld without\n",
              static_cast<long>(back), static_cast<long>(interrupted), static_cast<long>(without));
}

/// Everything but one rank dies, and the newest checkpoint is damaged: the one before it is taken.
TEST_F(RecoveryCheckpointTest, ADamagedCheckpointIsPassedOver) {
  config_.checkpoint.every = 2;
  FakeFileSystem files;
  ElasticOptions options{.ranks = 4, .files = &files};
  options.faults = {{.rank = 1, .point = Point::before_reduce, .hit = 6, .also = {2, 3}}};
  const std::string newest = kDirectory + "/" + step_name(Step{4});
  const std::string shard = newest + "/" + checkpoint::shard_name(0);
  bool damaged = false;
  std::function<void()> look;
  options.control = [&](comm::SimulationControl& control) {
    look = [&] {
      if (damaged || !control.alive(1)) return;
      damaged = exists(files, newest).value_or(false);
      if (damaged)
        files.flip(shard, std::ssize(files.contents(shard)) / 2, 1);
      else
        control.at(control.now() + 10'000, look);
    };
    control.at(1, look);
  };
  const ElasticRun run = train_elastic(config_, options);
  ASSERT_TRUE(damaged);
  ASSERT_EQ(fault_of(run), "");
  ASSERT_EQ(run.recoveries.size(), 1u);
  EXPECT_TRUE(run.recoveries[0].from_checkpoint);
  EXPECT_EQ(raw(run.recoveries[0].step), 2);
  EXPECT_EQ(raw(run.recoveries[0].undone), 5);
  EXPECT_EQ(checkpoint::list_steps(files, kDirectory)->front(), Step{kSteps});
}

chaos::Faults copies_spoiled(const std::string& text) {
  auto list = chaos::parse_faults(chaos::Kind::corrupt, {text});
  EXPECT_TRUE(list) << list.error().text();
  return {.list = list.value_or(std::vector<chaos::Fault>()), .random = {}};
}

/// Memory of a copy changes: all go back, under the same view, to a checkpoint from before it may
/// have been so. In half of the runs a rank dies on the way.
TEST_F(RecoveryCheckpointTest, ADamagedCopySendsAllBackToBeforeIt) {
  config_.checkpoint.keep = 6;
  config_.elastic.scrub_steps = 2;
  constexpr Point kPoints[] = {Point::recover_inventory, Point::recover_planned,
                               Point::recover_moved, Point::recover_gate, Point::recover_done};
  for (const std::int64_t stages : {1, 2}) {
    config_.parallel.pp = stages;
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
      comm::SimRandom random(seed);
      FakeFileSystem files;
      ElasticOptions options{.ranks = 4, .seed = seed, .files = &files};
      options.copies_spoiled = copies_spoiled(
          fmt::format("what=copy,rank={},step=4,at={}", random.below(4), 1 + random.below(3)));
      const bool dies = seed % 2 == 0;
      if (dies)
        options.faults = {{.rank = static_cast<int>(random.below(4)),
                           .point = kPoints[random.below(std::size(kPoints))]}};
      const ElasticRun run = train_elastic(config_, options);
      SCOPED_TRACE(fmt::format("seed {}, {} stages", seed, stages));
      ASSERT_EQ(fault_of(run), "");
      ASSERT_EQ(run.fired, dies);
      ASSERT_EQ(fault_of(files, 2), "");
      if (dies) continue;
      ASSERT_EQ(run.recoveries.size(), 1u);
      const recover::RecoveryReport& report = run.recoveries[0];
      EXPECT_TRUE(report.copies_differed && report.from_checkpoint && report.lost.empty());
      EXPECT_EQ(raw(report.step), 1);  // that of step 3 was there, too
      EXPECT_GE(raw(report.undone), 3);
      EXPECT_EQ(report.generation, Generation{});
    }
  }
}

/// One rank dies when all know and nobody has done anything yet, the owner among them: its damaged
/// copy takes nobody's place.
TEST_F(RecoveryCheckpointTest, ACopyKnownToBeDamagedIsNotPromoted) {
  config_.checkpoint.keep = 6;
  config_.elastic.scrub_steps = 2;
  for (int dead = 0; dead < 4; ++dead) {
    FakeFileSystem files;
    ElasticOptions options{.ranks = 4, .files = &files};
    options.copies_spoiled = copies_spoiled("what=copy,rank=2,step=4");
    options.faults = {{.rank = dead, .point = Point::recover_begin}};
    const ElasticRun run = train_elastic(config_, options);
    ASSERT_EQ(fault_of(run), "") << dead;
    ASSERT_EQ(run.recoveries.size(), 1u);
    EXPECT_TRUE(run.recoveries[0].from_checkpoint && run.recoveries[0].copies_differed);
    EXPECT_EQ(raw(run.recoveries[0].step), 1);
  }
}

TEST_F(RecoveryCheckpointTest, WithoutACheckpointFromBeforeADamagedCopyEndsTheRun) {
  config_.checkpoint.every = 3;
  config_.elastic.scrub_steps = 2;
  FakeFileSystem files;
  ElasticOptions options{.ranks = 4, .files = &files};
  options.copies_spoiled = copies_spoiled("what=copy,rank=2,step=4");
  const ElasticRun run = train_elastic(config_, options);
  ASSERT_EQ(run.failure, "");
  for (const auto& error : run.errors) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code, Code::corrupt) << error->text();
    EXPECT_NE(error->why.find("no checkpoint is of step"), std::string::npos) << error->text();
  }
  // It may be sound after all: that is for a person to say.
  EXPECT_EQ(checkpoint::list_steps(files, kDirectory)->front(), Step{3});
}

/// The same damage after the same checkpoint: going back again would not end.
TEST_F(RecoveryCheckpointTest, NobodyGoesBackToOneCheckpointTwice) {
  config_.checkpoint.every = 2;
  config_.elastic.scrub_steps = 1;
  int ended = 0;
  // With N copies at the rank, the second fault comes with the first one (up to N), or when step 5
  // is trained again (up to about 2 N): one of these numbers is there at least.
  for (int at = 1; at <= 1024; at *= 2) {
    FakeFileSystem files;
    ElasticOptions options{.ranks = 4, .files = &files};
    options.copies_spoiled =
        copies_spoiled(fmt::format("what=copy,rank=2,step=5;what=copy,rank=1,step=5,at={}", at));
    const ElasticRun run = train_elastic(config_, options);
    if (fault_of(run).empty()) continue;
    ++ended;
    for (const auto& error : run.errors) {
      ASSERT_TRUE(error);
      EXPECT_EQ(error->code, Code::corrupt) << error->text();
      EXPECT_NE(error->why.find("checkpoint of step 2 had been loaded before"), std::string::npos)
          << error->text();
    }
  }
  EXPECT_GE(ended, 1);
  EXPECT_LE(ended, 2);
}

}  // namespace
}  // namespace elaswave::test
