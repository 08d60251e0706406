// No kill, power loss, full disk or failing operation leaves anything but the previous checkpoint
// or the new one, and no fsync or rename of the protocol can be left out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "tests/property/checkpoint_testing.h"

namespace elaswave::test {
namespace {

/// What happened to the directory of checkpoints, from the trace of a whole undisturbed run.
struct Commits {
  struct Commit {
    std::int64_t step = 0;
    std::int64_t renamed = 0;  // number of the operation that commits
    std::int64_t synced = 0;   // of the one that makes it last
  };
  std::vector<Commit> commits;
  std::int64_t operations = 0;

  /// Newest step whose commit happened before operation `count`; 0: none.
  std::int64_t newest(std::int64_t count, std::int64_t Commit::*when) const {
    std::int64_t step = 0;
    for (const Commit& commit : commits)
      if (commit.*when < count) step = std::max(step, commit.step);
    return step;
  }
};

Commits commits_of(const FakeFileSystem& files) {
  const std::vector<std::string> trace = files.trace();
  Commits result{.commits = {}, .operations = std::ssize(trace)};
  for (std::int64_t i = 0; i < std::ssize(trace); ++i) {
    const std::string& line = trace[static_cast<std::size_t>(i)];
    const std::size_t target = line.rfind("/step-");
    if (line.find(" ! ") != std::string::npos && line.find("ignored") == std::string::npos)
      continue;  // it failed
    if (!line.starts_with("rename") || line.find("/.tmp-") == std::string::npos ||
        target == std::string::npos)
      continue;
    const std::string name = line.substr(target + 1, step_name(Step{0}).size());
    result.commits.push_back({checkpoint::parse_step_name(name), i, i + 1});
  }
  return result;
}

/// Power losses that are tried at every point.
std::vector<CrashPolicy> policies(int random) {
  using Keep = CrashPolicy::Keep;
  std::vector<CrashPolicy> all = {
      {Keep::nothing}, {Keep::everything}, {Keep::directories}, {Keep::data}};
  for (int seed = 1; seed <= random; ++seed)
    all.push_back({Keep::random, static_cast<std::uint64_t>(seed)});
  return all;
}

/// The newest step that a run committed and made last, by its own trace: a fault later on must not
/// cost it.
std::int64_t durable_commit(const FakeFileSystem& files) {
  const std::vector<std::string> trace = files.trace();
  std::int64_t step = 0;
  for (const Commits::Commit& commit : commits_of(files).commits)
    if (commit.synced < std::ssize(trace) &&
        trace[static_cast<std::size_t>(commit.synced)].find(" ! ") == std::string::npos)
      step = std::max(step, commit.step);
  return step;
}

class CrashTest : public CheckpointTest {
 protected:
  CrashTest() {
    config_.log.digest_every = 1;
    crash_config_ = config_;
    crash_config_.checkpoint.every = 2;
    crash_config_.checkpoint.keep = 1;
    FakeFileSystem files;
    train(files);
    commits_ = commits_of(files);
  }

  SimulatedRun train(FakeFileSystem& files) const {
    return train_simulated(crash_config_, {.ranks = 2, .files = &files});
  }

  /// Empty, or what is wrong with what `files` hold after a crash: it must be a checkpoint from
  /// `least` to `most` (0: possibly none), everything under a good name must be whole, and training
  /// on from it must end in the right bits.
  std::string fault(FakeFileSystem& files, std::int64_t least, std::int64_t most) const {
    const auto steps = checkpoint::list_steps(files, kDirectory);
    if (!steps) return steps.error().text();
    for (const Step step : *steps)
      if (const auto damages = checkpoint::verify(files, kDirectory + "/" + step_name(step));
          !damages.empty())
        return fmt::format("step {} is damaged: {} {}", raw(step), damages.front().file,
                           damages.front().what);
    if (std::ssize(*steps) > crash_config_.checkpoint.keep + 1) return "too many are kept";
    if (const std::string latest = latest_of(files);
        !latest.empty() && (latest.back() != '\n' || latest_step(latest) < 0))
      return "LATEST is torn";
    const SimulatedRun run = resume(files);
    if (run.errors[0]) return run.errors[0]->text();
    if (raw(run.resumed) < least || raw(run.resumed) > most)
      return fmt::format("resumed at {}, expected {} to {}", raw(run.resumed), least, most);
    if (run.summary.digest != digest(kSteps)) return "other bits";
    return {};
  }

  static std::string latest_of(FakeFileSystem& files) {
    const std::string path = kDirectory + "/LATEST";
    return exists(files, path).value_or(false) ? files.contents(path) : std::string();
  }
  static std::int64_t latest_step(std::string_view latest) {
    return checkpoint::parse_step_name(latest.substr(0, latest.size() - 1));
  }

  /// What LATEST promises when no power was lost: it is behind by one checkpoint at most, and names
  /// one that is there.
  bool latest_lags(FakeFileSystem& files) const {
    const auto steps = checkpoint::list_steps(files, kDirectory);
    const std::string latest = latest_of(files);
    if (!steps || steps->empty()) return false;
    if (latest.empty()) return steps->size() > 1;
    return std::find(steps->begin(), steps->end(), Step{latest_step(latest)}) == steps->end();
  }

  /// True when a program whose operation `ignored` does nothing is told from the real one: by what
  /// it leaves behind, or by what some power loss leaves of it.
  bool caught(std::int64_t ignored) const {
    FakeFileSystem whole;
    whole.ignore_operation(ignored);
    if (train(whole).summary.checkpoints.failed > 0) return true;  // it noticed by itself
    const Commits commits = commits_of(whole);
    FakeFileSystem left = whole.clone();
    if (std::ssize(checkpoint::list_steps(left, kDirectory).value()) >
            crash_config_.checkpoint.keep ||
        !fault(left, kSteps, kSteps).empty() || latest_lags(left))
      return true;
    for (std::int64_t count = ignored + 1; count <= commits.operations; ++count) {
      FakeFileSystem files;
      files.ignore_operation(ignored);
      files.kill_after(count);
      train(files);
      FakeFileSystem killed = files.clone();
      if (latest_lags(killed)) return true;
      for (const CrashPolicy& policy : policies(6)) {
        FakeFileSystem lost = files.crash(policy);
        if (!fault(lost, commits.newest(count, &Commits::Commit::synced),
                   commits.newest(count, &Commits::Commit::renamed))
                 .empty())
          return true;
      }
    }
    return false;
  }

  app::Config crash_config_;
  Commits commits_;
};

TEST_F(CrashTest, AKillAfterAnyOperationLeavesTheNewestCommittedStep) {
  int kills = 0;
  for (std::int64_t count = 0; count <= commits_.operations; ++count) {
    FakeFileSystem files;
    files.kill_after(count);
    train(files);
    FakeFileSystem left = files.clone();
    const std::int64_t expected = commits_.newest(count, &Commits::Commit::renamed);
    EXPECT_FALSE(latest_lags(left)) << "after " << count << " operations";
    EXPECT_EQ(fault(left, expected, expected), "") << "after " << count << " operations";
    ++kills;
  }
  std::printf("campaign: %d kills of the writer, one after each file operation\n", kills);
}

TEST_F(CrashTest, APowerLossAtAnyOperationLeavesThePreviousOrTheNewStep) {
  int losses = 0;
  for (std::int64_t count = 0; count <= commits_.operations; ++count) {
    FakeFileSystem files;
    files.kill_after(count);
    train(files);
    for (const CrashPolicy& policy : policies(6)) {
      FakeFileSystem left = files.crash(policy);
      EXPECT_EQ(fault(left, commits_.newest(count, &Commits::Commit::synced),
                      commits_.newest(count, &Commits::Commit::renamed)),
                "")
          << "after " << count << " operations, policy " << static_cast<int>(policy.keep) << " "
          << policy.seed;
      ++losses;
    }
    if (HasFailure()) return;
  }
  std::printf("campaign: %d power losses: unsynced writes dropped, kept or reordered\n", losses);
}

TEST_F(CrashTest, ATornWriteIsNeverTakenForACheckpoint) {
  FakeFileSystem whole;
  train(whole);
  const std::vector<std::string> trace = whole.trace();
  for (std::int64_t i = 0; i < std::ssize(trace); ++i) {
    if (!trace[static_cast<std::size_t>(i)].starts_with("write")) continue;
    for (const std::int64_t kept : {1, 511, 700, 5000}) {
      FakeFileSystem files;
      files.kill_within(i, kept);
      train(files);
      FakeFileSystem left = files.clone();
      const std::int64_t expected = commits_.newest(i, &Commits::Commit::renamed);
      EXPECT_EQ(fault(left, expected, expected), "") << trace[static_cast<std::size_t>(i)];
    }
  }
}

TEST_F(CrashTest, AFailingOperationCostsAtMostItsCheckpoint) {
  int faults = 0;
  for (const int error : {EIO, ENOSPC})
    for (std::int64_t i = 0; i < commits_.operations; ++i) {
      FakeFileSystem files;
      files.fail_operation(i, error);
      const SimulatedRun run = train(files);
      SCOPED_TRACE(fmt::format("operation {} fails with {}", i, error));
      if (run.errors[0]) {  // before the first step: nowhere to write
        EXPECT_LT(i, commits_.commits.front().renamed);
        EXPECT_TRUE(run.steps.empty());
        continue;
      }
      expect_same_steps(run);
      EXPECT_EQ(raw(run.summary.last_step), kSteps);
      FakeFileSystem left = files.crash({CrashPolicy::Keep::nothing});
      const std::int64_t least = durable_commit(files);
      EXPECT_GE(least, run.summary.durable ? kSteps : kSteps - 2);  // one fault, one checkpoint
      EXPECT_EQ(fault(left, least, kSteps), "");
      ++faults;
    }
  std::printf("campaign: %d failing file operations, training went on in each\n", faults);
}

TEST_F(CrashTest, AFullDiskOfAnySizeStopsNothing) {
  FakeFileSystem roomy;
  train(roomy);
  std::int64_t bytes = 0;
  for (const std::string& path : roomy.all_files()) bytes += std::ssize(roomy.contents(path));
  int disks = 0, durable = 0;
  for (std::int64_t capacity = 0; capacity < 3 * bytes;
       capacity += std::max<std::int64_t>(bytes / 40, 1)) {
    FakeFileSystem files;
    files.set_capacity_bytes(capacity);
    const SimulatedRun run = train(files);
    SCOPED_TRACE(fmt::format("{} bytes", capacity));
    if (run.errors[0]) {  // not even the probe at the start fits
      EXPECT_EQ(run.errors[0]->code, Code::io);
      continue;
    }
    expect_same_steps(run);
    EXPECT_EQ(raw(run.summary.last_step), kSteps);
    FakeFileSystem left = files.crash({CrashPolicy::Keep::nothing});
    left.set_capacity_bytes(std::int64_t{1} << 40);
    EXPECT_EQ(fault(left, run.summary.durable ? kSteps : durable_commit(files), kSteps), "");
    ++disks;
    durable += run.summary.durable ? 1 : 0;
  }
  EXPECT_GT(durable, 0);
  EXPECT_LT(durable, disks);
  std::printf("campaign: %d full disks, the last checkpoint durable on %d\n", disks, durable);
}

TEST_F(CrashTest, ShortWritesAreContinued) {
  for (const std::int64_t bytes : {1, 511, 4096}) {
    FakeFileSystem files;
    files.set_largest_write_bytes(bytes);
    const SimulatedRun run = train(files);
    EXPECT_TRUE(run.summary.durable);
    EXPECT_EQ(fault(files, kSteps, kSteps), "");
  }
}

/// Takes single fsyncs and renames out of the program: each must be missed by some power loss.
TEST_F(CrashTest, EveryFsyncAndRenameIsNeeded) {
  FakeFileSystem whole;
  train(whole);
  const std::vector<std::string> trace = whole.trace();
  int mutants = 0, survivors = 0;
  for (std::int64_t i = 0; i < std::ssize(trace); ++i) {
    const std::string& line = trace[static_cast<std::size_t>(i)];
    const bool sync = line.starts_with("sync") && line.find("(0 pending)") == std::string::npos;
    if (!sync && !line.starts_with("rename")) continue;
    ++mutants;
    if (!caught(i)) {
      ++survivors;
      ADD_FAILURE() << "nothing misses operation " << i << ": " << line;
    }
  }
  EXPECT_GT(mutants, 20);
  std::printf("campaign: %d mutants without one fsync or rename, %d survived\n", mutants,
              survivors);
}

}  // namespace
}  // namespace elaswave::test
