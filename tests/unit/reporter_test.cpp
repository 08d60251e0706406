// Who speaks for a run: each step and each incident once, whoever dies or wakes up; where ranks
// live; incidents in words.
#include "app/reporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "app/fault_options.h"
#include "app/incident.h"
#include "tests/support/temp_dir.h"

namespace elaswave::app {
namespace {

using elaswave::testing::read_file;
using elaswave::testing::TempDir;
using elaswave::testing::write_file;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<nlohmann::json> lines_of(const std::string& path) {
  std::vector<nlohmann::json> lines;
  std::istringstream file(read_file(path));
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::vector<std::int64_t> steps_in(const TempDir& dir) {
  std::vector<std::int64_t> steps;
  for (const auto& line : lines_of(dir / "metrics.jsonl")) steps.push_back(line["step"]);
  return steps;
}

std::vector<std::string> events_in(const TempDir& dir) {
  std::vector<std::string> names;
  for (const auto& line : lines_of(dir / "events.jsonl")) names.push_back(line["event"]);
  return names;
}

StepReport step_report(std::int64_t step) {
  StepReport report;
  report.record.version = {Step{step}, Generation{1}};
  report.duration = kSecond;
  report.digest = static_cast<std::uint64_t>(step) * 17;
  return report;
}

RunSpec small_spec() {
  RunSpec spec;
  spec.steps = 100;
  spec.micro_batches = 8;
  return spec;
}

/// The reporters of one run of three ranks, all in this process.
class ReporterTest : public ::testing::Test {
 protected:
  ReporterTest() { settings_.config.log.dir = dir_.path(); }

  std::unique_ptr<Reporter> start(std::int32_t rank, Step resumed = Step{0}) {
    RunFiles files;
    if (rank == 0) {
      auto locks = lock_directories(settings_.config);
      EXPECT_TRUE(locks) << locks.error().text();
      auto opened = RunFiles::open(settings_, resumed, *std::move(locks));
      EXPECT_TRUE(opened) << opened.error().text();
      files = *std::move(opened);
    } else {
      files = RunFiles::follow(settings_.config);
    }
    auto reporter = std::make_unique<Reporter>(ReporterParts{.console = console_,
                                                             .files = std::move(files),
                                                             .clock = clock_,
                                                             .world_rank = rank,
                                                             .members = {0, 1, 2},
                                                             .tokens_per_step = 63,
                                                             .first_step = {}});
    reporter->started({{10, "a", "x"}, {11, "a", "y"}, {12, "b", "y"}}, resumed);
    return reporter;
  }

  TempDir dir_;
  Settings settings_;
  RealClock clock_;
  Console console_{ConsoleMode::plain, 1, small_spec()};
};

TEST_F(ReporterTest, TheLowestRankSpeaksAlone) {
  ::testing::internal::CaptureStdout();
  const auto first = start(0), second = start(1);
  for (std::int64_t step = 1; step <= 3; ++step)
    for (Reporter* reporter : {first.get(), second.get()})
      ASSERT_TRUE(reporter->on_step(step_report(step)));
  second->finished({});
  const std::string text = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(steps_in(dir_), ElementsAre(1, 2, 3));
  EXPECT_THAT(events_in(dir_), ElementsAre("start"));
  const auto event = lines_of(dir_ / "events.jsonl").front();
  EXPECT_EQ(event["ranks"][1]["pid"], 11);
  EXPECT_EQ(event["ranks"][2]["domain"], "y");
  EXPECT_GT(event["at_ns"], 0);
  EXPECT_EQ(text.find("step 2/100"), text.rfind("step 2/100")) << text;
  EXPECT_THAT(text, Not(HasSubstr("done")));
}

TEST_F(ReporterTest, TheHeirWritesWhatTheDeadOneDidNot) {
  ::testing::internal::CaptureStdout();
  auto first = start(0);
  const auto second = start(1);
  for (std::int64_t step = 1; step <= 2; ++step) {
    ASSERT_TRUE(first->on_step(step_report(step)));
    ASSERT_TRUE(second->on_step(step_report(step)));
  }
  ASSERT_TRUE(second->on_step(step_report(3)));  // the first is stopped before it gets here
  ASSERT_TRUE(second->on_view({1, 2}));
  EXPECT_TRUE(second->speaks());
  EXPECT_THAT(steps_in(dir_), ElementsAre(1, 2, 3));
  EXPECT_EQ(lines_of(dir_ / "metrics.jsonl").back()["digest"], "0000000000000033");
  second->on_recovery({.lost = {0}, .members = {1, 2}, .step = Step{3}});
  ASSERT_TRUE(second->on_step(step_report(4)));
  ASSERT_TRUE(first->on_step(step_report(3)));  // it wakes up
  ASSERT_TRUE(first->on_step(step_report(4)));
  first->on_recovery({.lost = {1}, .members = {0}, .step = Step{4}});
  ASSERT_TRUE(second->on_step(step_report(5)));
  second->on_redundancy({.exposure = kSecond});
  second->finished({.last_step = Step{5}, .work = {{1, 2}, {3, 4}, {5, 6}}});
  const std::string text = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(steps_in(dir_), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(events_in(dir_), ElementsAre("start", "view", "recovery", "redundancy", "end"));
  EXPECT_THAT(text, HasSubstr("rank 1 speaks for the run from now on: rank 0 is gone\n"));
  EXPECT_THAT(text, HasSubstr("rank 0: lost on the way\nrank 1: 3 micro-batches"));
}

TEST_F(ReporterTest, ALockIsHeldAsLongAsSomebodySpeaks) {
  ::testing::internal::CaptureStdout();
  auto first = start(0), second = start(1);
  ASSERT_TRUE(second->on_view({1, 2}));
  first.reset();  // the process ends at last
  // Another open file, as another process would have.
  auto stranger = FileLock::try_acquire(dir_ / ".lock");
  ASSERT_TRUE(stranger);
  EXPECT_FALSE(*stranger);
  second.reset();
  stranger = FileLock::try_acquire(dir_ / ".lock");
  EXPECT_TRUE(stranger && *stranger);
  ::testing::internal::GetCapturedStdout();
}

// The second rank is stopped between two system calls of its take-over; the third takes over; the
// second wakes up and finishes what it began, then goes on as if it were the reporter.
TEST_F(ReporterTest, AnHeirThatSleptInItsTakeOverLoses) {
  ::testing::internal::CaptureStdout();
  const auto first = start(0), second = start(1), third = start(2);
  for (Reporter* reporter : {first.get(), second.get(), third.get()})
    ASSERT_TRUE(reporter->on_step(step_report(1)));
  ASSERT_TRUE(third->on_view({2}));
  ASSERT_TRUE(third->on_step(step_report(2)));
  ASSERT_TRUE(second->on_view({1, 2}));         // late: all names are its own now
  ASSERT_TRUE(third->on_step(step_report(3)));  // takes them back
  ASSERT_TRUE(second->on_step(step_report(2)));
  ASSERT_TRUE(second->on_step(step_report(3)));
  ASSERT_TRUE(third->on_step(step_report(4)));
  ASSERT_TRUE(second->on_step(step_report(4)));
  ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(steps_in(dir_), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(read_file(dir_ / ".lock"), HasSubstr(" 2\n"));
}

TEST_F(ReporterTest, AnotherRunsDirectoryIsLeftAlone) {
  ::testing::internal::CaptureStdout();
  auto first = start(0);
  const auto second = start(1);
  ASSERT_TRUE(first->on_step(step_report(1)));
  first.reset();
  write_file(dir_ / ".lock", "other-run 0\n");  // came in while nobody held the lock
  ASSERT_TRUE(second->on_step(step_report(2)));
  ASSERT_TRUE(second->on_view({1, 2}));
  ASSERT_TRUE(second->on_step(step_report(3)));
  ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(steps_in(dir_), ElementsAre(1));
  EXPECT_EQ(read_file(dir_ / ".lock"), "other-run 0\n");
}

TEST_F(ReporterTest, AResumedRunGoesOnInItsFiles) {
  ::testing::internal::CaptureStdout();
  for (const std::int64_t resumed : {0, 2}) {
    const auto first = start(0, Step{resumed});
    for (std::int64_t step = resumed + 1; step <= resumed + 3; ++step)
      ASSERT_TRUE(first->on_step(step_report(step)));
  }
  EXPECT_THAT(steps_in(dir_), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(events_in(dir_), ElementsAre("start", "start"));
  start(0);  // from the beginning
  ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(steps_in(dir_), ElementsAre());
  EXPECT_THAT(dir_.names(), ElementsAre(".lock", "config.toml", "events.jsonl", "events.jsonl.1",
                                        "metrics.jsonl", "metrics.jsonl.1"));
}

TEST_F(ReporterTest, WithoutADirectoryNothingIsWritten) {
  settings_.config.log.dir.clear();
  ::testing::internal::CaptureStdout();
  const auto first = start(0), second = start(1);
  ASSERT_TRUE(first->on_step(step_report(1)));
  ASSERT_TRUE(second->on_step(step_report(1)));
  ASSERT_TRUE(second->on_view({1, 2}));
  ASSERT_TRUE(second->on_step(step_report(2)));
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("step 2/100"));
  EXPECT_THAT(dir_.names(), ElementsAre());
}

TEST(Incident, InWordsAndAsAnEvent) {
  recover::RecoveryReport report{.generation = Generation{2},
                                 .lost = {3},
                                 .members = {0, 1, 2, 4, 5, 6, 7},
                                 .step = Step{17},
                                 .schedule = "1f1b",
                                 .stages = 2,
                                 .replicas = 7,
                                 .refilled_bytes = 84 << 20,
                                 .total = 212 * kMillisecond};
  report.phases[0] = 3100 * 1000;
  const std::string text = recovery_text(report);
  EXPECT_THAT(text,
              HasSubstr("rank 3 is gone: 7 ranks go on with step 18 (7 replicas of 2 stages); "
                        "212 ms from the first sign to the first new step (in ms: agree 3.1, "));
  EXPECT_THAT(text, HasSubstr("copies are being refilled (84.0 MiB)"));
  EXPECT_THAT(text, Not(HasSubstr("layers have moved")));
  report.lost = {3, 4};
  report.members = {0};
  report.replicas = report.stages = 1;
  report.spares = 1;
  report.attempts = 2;
  report.response = plan::Response::relayer;
  EXPECT_THAT(recovery_text(report),
              AllOf(HasSubstr("ranks 3, 4 are gone: 1 rank goes on with step 18 (1 replica of 1 "
                              "stage, 1 spare)"),
                    HasSubstr("2 attempts"), HasSubstr("layers have moved")));
  const auto json = nlohmann::json::parse(metrics::to_json(recovery_event(report)));
  EXPECT_EQ(json["event"], "recovery");
  EXPECT_EQ(json["phases_us"]["agree"], 3100);
  EXPECT_EQ(json["phases_us"].size(), static_cast<std::size_t>(recover::Phase::count));
  EXPECT_EQ(json["lost"], (std::vector<int>{3, 4}));
  EXPECT_EQ(json["response"], "relayer");
  EXPECT_THAT(redundancy_text({.exposure = 1300 * kMillisecond}),
              HasSubstr("copies again, 1.30 s after"));
}

TEST(RankPlace, DomainsFromAPattern) {
  const auto name = [](const char* pattern, std::int64_t rank) {
    const auto text = domain_name(pattern, rank, "host9");
    return text ? *text : "! " + text.error().text();
  };
  EXPECT_EQ(name("", 5), "host9");
  EXPECT_EQ(name("rack", 5), "rack");
  EXPECT_EQ(name("{rank/4}", 3), "0");
  EXPECT_EQ(name("{rank/4}", 4), "1");
  EXPECT_EQ(name("n{rank%4}-{host}{rank}", 6), "n2-host96");
  for (const char* bad : {"{", "{}", "{rank/0}", "{rank/}", "{rank*2}", "{rank/-1}", "{node}",
                          "a{rank/4", "{rank/4x}"})
    EXPECT_THAT(name(bad, 0), HasSubstr("{rank/4}")) << bad;
  EXPECT_THAT(name(std::string(64, 'x').c_str(), 0), HasSubstr("64 bytes"));
  EXPECT_THAT(domain_numbers({{1, "a", "x"}, {2, "a", "y"}, {3, "b", "x"}}), ElementsAre(0, 1, 0));
  EXPECT_EQ(rank_limits({{1, "a", "x", 500}, {2, "b", "x", 600, 70}, {3, "a", "y", 500}}),
            (plan::RankLimits{{0, 500, 0}, {1, 600, 70}, {0, 500, 0}}));
}

TEST(FaultOptions, AreFaults) {
  Config config;
  config.chaos.kill = {"rank=1,step=2;rank=2,step=3", "rank=0,step=4"};
  config.chaos.slow = {"rank=1,step=2,factor=2"};
  config.chaos.random = "seed=2,rate=0.5";
  auto faults = requested_faults(config);
  ASSERT_TRUE(faults) << faults.error().text();
  EXPECT_EQ(faults->list.size(), 4u);
  EXPECT_EQ(faults->random->seed, 2u);
  config.chaos.exit = {"rank=1"};
  faults = requested_faults(config);
  ASSERT_FALSE(faults);
  EXPECT_EQ(faults.error().code, Code::usage);
}

}  // namespace
}  // namespace elaswave::app
