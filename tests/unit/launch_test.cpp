// The decisions of `elaswave launch`, and the files and processes it works with. Whole launches are
// tested end to end elsewhere.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "app/exit_report.h"
#include "app/launch_rules.h"
#include "app/launch_watch.h"
#include "app/process.h"

namespace elaswave::app {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr RankOutcome kKilled = std::nullopt;

int combined(std::vector<RankOutcome> outcomes) {
  return combined_exit_code(outcomes);
}

TEST(LaunchVersion, OpenMpi) {
  const auto four =
      parse_launcher_version("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://...\n");
  ASSERT_TRUE(four);
  EXPECT_EQ(*four, (LauncherVersion{4, 1, 4}));
  const auto five = parse_launcher_version("mpirun (Open MPI) 5.0.10rc2\n");
  ASSERT_TRUE(five);
  EXPECT_EQ(*five, (LauncherVersion{5, 0, 10}));
}

TEST(LaunchVersion, OthersAreRefused) {
  for (const char* text : {"", "HYDRA build details:\n    Version: 4.0.2\n",
                           "mpirun (Open MPI) 3.1.6\n", "mpirun (Open MPI) x\n", "(Open MPI) "}) {
    const auto version = parse_launcher_version(text);
    ASSERT_FALSE(version) << text;
    EXPECT_EQ(version.error().code, Code::unavailable);
    EXPECT_THAT(version.error().why, HasSubstr("Open MPI 4 and 5"));
  }
}

LaunchWish a_wish() {
  return {.ranks = 3,
          .user = User::ordinary,
          .mpirun = "/usr/bin/mpirun",
          .program = "/opt/elaswave",
          .arguments = {"train", "--train.steps=3"},
          .exported = {{"ELASWAVE_RUN_DIR", "/tmp/x"}}};
}

TEST(LaunchPlan, OpenMpi4) {
  const LaunchPlan plan = plan_launch({4, 1, 4}, a_wish());
  EXPECT_THAT(plan.arguments,
              ElementsAre("/usr/bin/mpirun", "-n", "3", "--bind-to", "none", "--oversubscribe",
                          "--enable-recovery", "--mca", "btl_vader_single_copy_mechanism", "none",
                          "--mca", "mpi_yield_when_idle", "1", "-x", "ELASWAVE_RUN_DIR",
                          "/opt/elaswave", "train", "--train.steps=3"));
  EXPECT_TRUE(plan.variables.empty());
}

TEST(LaunchPlan, NotesOfMpirunGoToTheirFileAndThoseOfRanksToStderr) {
  LaunchWish wish = a_wish();
  wish.notes = 17;
  const LaunchPlan plan = plan_launch({4, 1, 4}, wish);
  EXPECT_THAT(plan.variables,
              ElementsAre(std::pair<std::string, std::string>("PMIX_OUTPUT_STDERR_FD", "17")));
  EXPECT_THAT(plan.arguments, Contains("PMIX_OUTPUT_STDERR_FD=2"));
}

TEST(LaunchPlan, OpenMpi5) {
  LaunchWish wish = a_wish();
  wish.user = User::root;
  const LaunchPlan plan = plan_launch({5, 0, 10}, wish);
  EXPECT_THAT(plan.arguments, Contains("--with-ft"));
  EXPECT_THAT(plan.arguments, Contains(":OVERSUBSCRIBE"));
  EXPECT_THAT(plan.arguments, Not(Contains("--enable-recovery")));
  EXPECT_THAT(plan.arguments, Not(Contains("--allow-run-as-root")));
  EXPECT_THAT(plan.variables,
              Contains(std::pair<std::string, std::string>("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")));
}

TEST(LaunchPlan, RootIsAllowedOnlyWhenRoot) {
  LaunchWish wish = a_wish();
  EXPECT_THAT(plan_launch({4, 1, 4}, wish).arguments, Not(Contains("--allow-run-as-root")));
  wish.user = User::root;
  EXPECT_THAT(plan_launch({4, 1, 4}, wish).arguments, Contains("--allow-run-as-root"));
}

TEST(CombinedExitCode, Agreement) {
  for (const int code : {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 70, 75}) {
    EXPECT_EQ(combined({code, code, code}), code);
    EXPECT_EQ(combined({kKilled, code, kKilled}), code);
  }
}

TEST(CombinedExitCode, NobodyReported) {
  EXPECT_EQ(combined({}), 6);
  EXPECT_EQ(combined({kKilled, kKilled}), 6);
}

TEST(CombinedExitCode, Disagreement) {
  EXPECT_EQ(combined({7, 0, 0}), 0);  // one left, the run finished
  EXPECT_EQ(combined({7, 6}), 6);
  EXPECT_EQ(combined({7, 7, kKilled}), 7);
  EXPECT_EQ(combined({6, 3, 6}), 3);  // the cause, not its consequences
  EXPECT_EQ(combined({6, 2, 3}), 2);
  EXPECT_EQ(combined({5, 6}), 5);
  EXPECT_EQ(combined({0, 6}), 6);  // never silently good
  EXPECT_EQ(combined({10, 6, 6}), 10);
  EXPECT_EQ(combined({10, 0, 0}), 0);  // a lost device is that rank's fate
  EXPECT_EQ(combined({70, 0}), 0);
  EXPECT_EQ(combined({70, 10}), 70);
  EXPECT_EQ(combined({0, 8}), 8);
  EXPECT_EQ(combined({0, 75}), 75);
  EXPECT_EQ(combined({8, 75}), 8);
  EXPECT_EQ(combined({41, 42}), 41);  // unknown to us: something other than 0
  EXPECT_NE(combined({7, 42}), 0);
}

TEST(CombinedExitCode, WhoIsAloneWithAnErrorDoesNotSpeakForTheRun) {
  const RankOutcome alone = RankExit(9, true);
  EXPECT_EQ(combined({alone, 0, 0}), 0);
  EXPECT_EQ(combined({alone, 6, 6}), 6);
  EXPECT_EQ(combined({alone, 7, kKilled}), 9);
  EXPECT_EQ(combined({alone, kKilled}), 9);
  EXPECT_EQ(combined({9, 0, 0}), 9);
}

TEST(CombinedExitCode, OrderOfRanksDoesNotMatter) {
  const std::vector<RankOutcome> codes = {kKilled, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 70, 75};
  for (const auto& a : codes)
    for (const auto& b : codes) {
      EXPECT_EQ(combined({a, b}), combined({b, a}));
      EXPECT_EQ(combined({a, b, b}), combined({b, a}));
    }
}

TEST(LauncherNote, SaysWhatHappens) {
  EXPECT_THAT(launcher_note(Environment{}), HasSubstr("without a launcher"));
  EXPECT_THAT(launcher_note(Environment{{"OMPI_COMM_WORLD_SIZE", "2"}}), HasSubstr("ends all"));
  EXPECT_THAT(launcher_note(Environment{{"OMPI_COMM_WORLD_SIZE", "2"},
                                        {"OMPI_MCA_orte_enable_recovery", "0"}}),
              HasSubstr("ends all"));
  EXPECT_THAT(launcher_note(Environment{{"OMPI_COMM_WORLD_SIZE", "2"},
                                        {"OMPI_MCA_orte_enable_recovery", "1"}}),
              HasSubstr("with recovery"));
  EXPECT_THAT(
      launcher_note(Environment{{"OMPI_COMM_WORLD_SIZE", "2"}, {"ELASWAVE_RUN_DIR", "/tmp/x"}}),
      HasSubstr("elaswave launch"));
}

class LaunchWatchTest : public testing::Test {
 protected:
  LaunchAct at(std::int64_t seconds, std::int64_t live, std::vector<RankOutcome> reports,
               std::int64_t stops = 0) {
    return watch_.tick(seconds * kSecond,
                       {.live_ranks = live, .reports = reports, .stop_requests = stops});
  }
  LaunchWatch watch_{0, LaunchLimits{}};
};

TEST_F(LaunchWatchTest, LongRunIsLeftAlone) {
  EXPECT_EQ(at(0, 0, {kKilled, kKilled}), LaunchAct::wait);
  EXPECT_TRUE(watch_.busy());
  EXPECT_EQ(at(1, 2, {kKilled, kKilled}), LaunchAct::wait);
  EXPECT_FALSE(watch_.busy());
  EXPECT_EQ(at(1'000'000, 2, {kKilled, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(1'000'001, 1, {kKilled, kKilled}), LaunchAct::wait);  // one died, the other goes on
  EXPECT_EQ(at(2'000'000, 1, {kKilled, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(2'000'001, 0, {kKilled, 0}), LaunchAct::wait);
  EXPECT_EQ(at(2'000'020, 0, {kKilled, 0}), LaunchAct::end_launcher);
  EXPECT_THAT(watch_.reason(), HasSubstr("after its ranks"));
}

TEST_F(LaunchWatchTest, NothingStarts) {
  EXPECT_EQ(at(59, 0, {kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(60, 0, {kKilled}), LaunchAct::end_launcher);
  EXPECT_THAT(watch_.reason(), HasSubstr("started no rank"));
}

TEST_F(LaunchWatchTest, StopBeforeStart) {
  EXPECT_EQ(at(1, 0, {kKilled}, 1), LaunchAct::end_launcher);
}

TEST_F(LaunchWatchTest, FailureOfOneEndsTheOthers) {
  EXPECT_EQ(at(1, 2, {kKilled, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(5, 1, {3, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(14, 1, {3, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(15, 1, {3, kKilled}), LaunchAct::end_ranks);
  EXPECT_THAT(watch_.reason(), HasSubstr("rank 0 left with code 3"));
}

TEST_F(LaunchWatchTest, RankThatLeftDoesNotEndTheOthers) {
  for (const int code : {7, 10, 70}) {
    EXPECT_FALSE(ends_run(code));
    EXPECT_EQ(at(5, 1, {code, kKilled}), LaunchAct::wait);
    EXPECT_EQ(at(100'000, 1, {code, kKilled}), LaunchAct::wait);
  }
  for (const int code : {3, 6, 9}) {
    EXPECT_FALSE(ends_run({code, true}));
    EXPECT_EQ(at(200'000, 1, {RankExit(code, true), kKilled}), LaunchAct::wait);
  }
}

TEST_F(LaunchWatchTest, FinishedRunHasMoreTime) {
  EXPECT_EQ(at(5, 1, {0, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(124, 1, {0, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(125, 1, {0, kKilled}), LaunchAct::end_ranks);
}

TEST_F(LaunchWatchTest, FailureAfterFinishCountsFromTheFailure) {
  EXPECT_EQ(at(5, 2, {0, kKilled, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(20, 1, {0, 6, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(29, 1, {0, 6, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(30, 1, {0, 6, kKilled}), LaunchAct::end_ranks);
}

TEST_F(LaunchWatchTest, RequestsToStopAreBounded) {
  EXPECT_EQ(at(1, 2, {kKilled, kKilled}), LaunchAct::wait);
  EXPECT_EQ(at(10, 2, {kKilled, kKilled}, 1), LaunchAct::wait);
  EXPECT_EQ(at(609, 2, {kKilled, kKilled}, 1), LaunchAct::wait);
  EXPECT_EQ(at(610, 2, {kKilled, kKilled}, 1), LaunchAct::end_ranks);
}

TEST_F(LaunchWatchTest, SecondRequestIsQuick) {
  EXPECT_EQ(at(10, 2, {kKilled, kKilled}, 1), LaunchAct::wait);
  EXPECT_EQ(at(20, 2, {kKilled, kKilled}, 2), LaunchAct::wait);
  EXPECT_EQ(at(25, 2, {kKilled, kKilled}, 3), LaunchAct::end_ranks);
}

class RunDirTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "run-dir-test";
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

TEST_F(RunDirTest, Reports) {
  EXPECT_TRUE(write_exit_report(dir_, 0, 75));
  EXPECT_TRUE(write_exit_report(dir_, 2, 3));
  EXPECT_TRUE(write_exit_report(dir_, 2, 0));  // the last word counts
  EXPECT_TRUE(write_exit_report(dir_, 1, {9, true}));
  EXPECT_THAT(read_exit_reports(dir_, 4),
              ElementsAre(RankOutcome(75), RankOutcome({9, true}), RankOutcome(0), kKilled));
  std::ofstream(dir_ + "/exit-3") << "";  // torn
  EXPECT_EQ(read_exit_reports(dir_, 4)[3], kKilled);
  EXPECT_FALSE(write_exit_report(dir_ + "/absent", 0, 0));
}

TEST_F(RunDirTest, FirstToSay) {
  EXPECT_TRUE(first_to_say(dir_, "a"));
  EXPECT_FALSE(first_to_say(dir_, "a"));
  EXPECT_TRUE(first_to_say(dir_, "b"));
  EXPECT_TRUE(first_to_say(dir_ + "/absent", "a"));  // better twice than never
}

TEST(Process, FindsPrograms) {
  EXPECT_TRUE(find_in_path("sh"));
  EXPECT_FALSE(find_in_path("no-such-program-anywhere"));
}

Result<ChildProcess> shell(const std::string& script, Output output = Output::inherit) {
  return ChildProcess::start({.arguments = {"/bin/sh", "-c", script},
                              .variables = {{"ELASWAVE_TEST_WORD", "word"}},
                              .output = output});
}

int wait_for(ChildProcess& child) {
  const RealClock clock;
  RealClock sleeper;
  const Deadline deadline = Deadline::after(clock, 20 * kSecond);
  while (!deadline.passed(clock)) {
    if (const auto code = child.poll()) return *code;
    sleeper.sleep(kMillisecond);
  }
  return -1;
}

TEST(Process, ExitCodesAndSignals) {
  auto good = shell("exit 42");
  ASSERT_TRUE(good);
  EXPECT_EQ(wait_for(*good), 42);
  EXPECT_EQ(good->poll(), 42);  // stays known
  auto killed = shell("kill -KILL $$");
  ASSERT_TRUE(killed);
  EXPECT_EQ(wait_for(*killed), 128 + SIGKILL);
  auto absent = ChildProcess::start({.arguments = {"/no/such/file"}, .variables = {}});
  ASSERT_TRUE(absent);
  EXPECT_EQ(wait_for(*absent), 127);
}

TEST(Process, CapturesOutputAndVariables) {
  auto child = shell("echo $ELASWAVE_TEST_WORD; echo other >&2", Output::capture);
  ASSERT_TRUE(child);
  const auto text = child->read_all(20 * kSecond);
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, "word\nother\n");
}

TEST(Process, OutputHasADeadline) {
  auto child = shell("sleep 60", Output::capture);
  ASSERT_TRUE(child);
  const auto text = child->read_all(50 * kMillisecond);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, Code::unrecoverable);
}

TEST(Process, FindsDescendantsOnly) {
  auto child = shell("sleep 60 & echo started; wait", Output::capture);
  ASSERT_TRUE(child);
  const RealClock clock;
  RealClock sleeper;
  const Deadline deadline = Deadline::after(clock, 20 * kSecond);
  std::vector<pid_t> found;
  while (found.size() < 2 && !deadline.passed(clock)) {
    found = descendants(-1);
    sleeper.sleep(kMillisecond);
  }
  ASSERT_EQ(found.size(), 2u);  // the shell and its sleep
  EXPECT_THAT(found, Contains(child->pid()));
  EXPECT_THAT(found, Not(Contains(::getpid())));
  EXPECT_THAT(descendants(child->pid()), Not(Contains(child->pid())));
  for (const pid_t pid : found) ::kill(pid, SIGKILL);
  EXPECT_EQ(wait_for(*child), 128 + SIGKILL);
}

}  // namespace
}  // namespace elaswave::app
