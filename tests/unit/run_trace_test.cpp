// The trace of a run, collected and written by ranks of the simulated world.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "app/trace.h"
#include "parallel/comm/simulation.h"
#include "tests/support/training.h"

namespace elaswave::app {
namespace {

using comm::World;
using ::testing::HasSubstr;
using ::testing::Not;

layout::Plan plan_of(int ranks) {
  layout::Plan plan;
  plan.stages.resize(1);
  for (std::int32_t rank = 0; rank < ranks; ++rank)
    plan.stages[0].replicas.push_back({.world_ranks = {rank}});
  return plan;
}

/// What a step leaves in the recorders: `actions` and a message around the ring.
Result<void> do_step(World& world, Step step, int actions) {
  world.set_activity({step, "F"});
  for (int action = 0; action < actions; ++action) {
    const Nanoseconds begin = world.clock().now();
    world.clock().sleep(1000);
    world.recorder().compute.add({.begin = begin, .end = world.clock().now(), .step = step});
  }
  const int me = world.world_rank(), n = world.size();
  std::vector<std::byte> out(100), in(100);
  const Deadline deadline = Deadline::after(world.clock(), kSecond);
  const comm::Work receive = world.receive((me + n - 1) % n, comm::Channel::pipeline, {in});
  const comm::Work send = world.send((me + 1) % n, comm::Channel::pipeline, {out});
  EW_TRY(world.wait(receive, "ring", deadline));
  return world.wait(send, "ring", deadline);
}

struct Outcome {
  std::vector<TraceReport> reports;  // by rank
  std::vector<std::string> errors;
};

Outcome run(int ranks, std::size_t capacity,
            const std::function<Result<TraceReport>(World&)>& body) {
  Outcome outcome{std::vector<TraceReport>(static_cast<std::size_t>(ranks)), {}};
  const auto simulated = comm::simulate(
      {.ranks = ranks, .seed = 3, .flight_capacity = capacity, .probe = {}}, [&](World& world) {
        auto report = body(world);
        if (report)
          outcome.reports[static_cast<std::size_t>(world.world_rank())] = *report;
        else
          outcome.errors.push_back(report.error().text());
      });
  EXPECT_TRUE(simulated) << simulated.error().text();
  return outcome;
}

Result<TraceReport> steps_and_trace(World& world, int steps, int actions, Step first,
                                    const std::string& path) {
  for (std::int64_t step = 1; step <= steps; ++step) EW_TRY(do_step(world, Step{step}, actions));
  return write_run_trace(world, comm::everyone(world), plan_of(world.size()), first, path, kSecond);
}

std::set<std::int64_t> steps_in(const std::string& path, std::string_view category) {
  std::ifstream file(path);
  const auto document = nlohmann::json::parse(file);
  std::set<std::int64_t> steps;
  for (const auto& event : document["traceEvents"])
    if (event["ph"] == "X" && event["cat"] == category)
      steps.insert(event["args"]["step"].get<std::int64_t>());
  return steps;
}

using Numbers = std::set<std::int64_t>;

TEST(RunTrace, HoldsTheStepsThatWereAskedFor) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("trace.json");
  const auto outcome =
      run(3, 1000, [&](World& world) { return steps_and_trace(world, 5, 4, Step{4}, path); });
  EXPECT_TRUE(outcome.errors.empty());
  for (const TraceReport& report : outcome.reports) {
    EXPECT_EQ(report.first, Step{4});
    EXPECT_EQ(report.last, Step{5});
    EXPECT_FALSE(report.failure);
  }
  EXPECT_THAT(outcome.reports[0].text, HasSubstr("pipeline 6 messages"));
  EXPECT_EQ(outcome.reports[1].text, "");
  for (const char* category : {"F", "wait", "send", "receive"})
    EXPECT_EQ(steps_in(path, category), (Numbers{4, 5})) << category;
}

TEST(RunTrace, LeavesATornStepOut) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("trace.json");
  // A step is 20 actions and one or two waits; 50 events hold two whole steps.
  const auto outcome =
      run(2, 50, [&](World& world) { return steps_and_trace(world, 6, 20, Step{1}, path); });
  for (const TraceReport& report : outcome.reports) {
    EXPECT_EQ(report.first, Step{5});
    EXPECT_EQ(report.last, Step{6});
  }
  EXPECT_THAT(outcome.reports[0].text, Not(HasSubstr("a part of the step")));
  EXPECT_EQ(steps_in(path, "F"), (Numbers{5, 6}));
}

TEST(RunTrace, APartOfTheOnlyStepIsBetterThanNothing) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("trace.json");
  const auto outcome =
      run(2, 10, [&](World& world) { return steps_and_trace(world, 3, 20, Step{1}, path); });
  EXPECT_EQ(outcome.reports[1].first, Step{3});
  EXPECT_EQ(outcome.reports[1].last, Step{3});
  EXPECT_THAT(outcome.reports[0].text, HasSubstr("a part of the step only"));
  EXPECT_EQ(steps_in(path, "F"), Numbers{3});
}

TEST(RunTrace, WithoutStepsIsAFileAllTheSame) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("trace.json");
  const auto outcome =
      run(2, 100, [&](World& world) { return steps_and_trace(world, 2, 2, Step{7}, path); });
  EXPECT_TRUE(outcome.errors.empty());
  EXPECT_EQ(outcome.reports[0].last, Step{0});
  EXPECT_TRUE(steps_in(path, "F").empty());
}

TEST(RunTrace, AFileThatCannotBeWrittenCostsTheTraceAlone) {
  for (const char* path : {"/nowhere/trace.json", "/dev/full"}) {
    const auto outcome =
        run(3, 9000, [&](World& world) { return steps_and_trace(world, 5, 400, Step{1}, path); });
    EXPECT_TRUE(outcome.errors.empty()) << path;
    ASSERT_TRUE(outcome.reports[0].failure) << path;
    EXPECT_EQ(outcome.reports[0].failure->where, path);
    EXPECT_THAT(outcome.reports[0].text, HasSubstr("pipeline 15 messages"));
    EXPECT_FALSE(outcome.reports[1].failure);
  }
}

/// Once `path` is there, time passes whenever the rank looks at the clock, as it does after every
/// piece.
class SlowWorld final : public World, private Clock {
 public:
  SlowWorld(World& world, std::string path) : world_(world), path_(std::move(path)) {}
  int world_rank() const override { return world_.world_rank(); }
  int size() const override { return world_.size(); }
  Generation generation() const override { return world_.generation(); }
  Clock& clock() override { return *this; }
  FlightRecorder& recorder() override { return world_.recorder(); }
  void set_activity(const comm::Activity& activity) override { world_.set_activity(activity); }
  comm::Work send(int to, comm::Channel channel, comm::ConstPieces pieces) override {
    return world_.send(to, channel, std::move(pieces));
  }
  comm::Work receive(int from, comm::Channel channel, comm::Pieces pieces) override {
    return world_.receive(from, channel, std::move(pieces));
  }
  Result<void> wait(const comm::Work& work, std::string_view operation,
                    Deadline deadline) override {
    return world_.wait(work, operation, deadline);
  }
  bool test(const comm::Work& work) override { return world_.test(work); }
  void publish_view(Generation generation) override { world_.publish_view(generation); }
  std::span<const int> live() const override { return world_.live(); }
  void adopt_view(Generation generation, std::span<const int> live) override {
    world_.adopt_view(generation, live);
  }
  void probe(Point point) override { world_.probe(point); }
  Result<void> close(Deadline deadline) override { return world_.close(deadline); }

 private:
  Nanoseconds now() const override {
    if (std::filesystem::exists(path_)) world_.clock().sleep(kSecond / 4);
    return world_.clock().now();
  }
  void sleep(Nanoseconds duration) override { world_.clock().sleep(duration); }

  World& world_;
  std::string path_;
};

// The reporter turns to one rank after the other.
TEST(RunTrace, ARankWaitsForItsTurnLongerThanForAnAnswer) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("trace.json");
  const auto outcome = run(6, 1000, [&](World& world) -> Result<TraceReport> {
    EW_TRY(do_step(world, Step{1}, 3));
    // Of the order of one rank's turn.
    return write_run_trace(world, comm::everyone(world), plan_of(6), Step{1}, path, kMillisecond);
  });
  EXPECT_THAT(outcome.errors, ::testing::IsEmpty());
}

TEST(RunTrace, TheOthersStayWhileASlowDiskTakesTheFile) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("trace.json");
  const auto outcome = run(3, 40'000, [&](World& world) -> Result<TraceReport> {
    EW_TRY(do_step(world, Step{1}, 8'000));
    SlowWorld slow(world, path);
    const Nanoseconds begin = world.clock().now();
    // Only the reporter is slow.
    World& mine = world.world_rank() == 0 ? static_cast<World&>(slow) : world;
    EW_ASSIGN(TraceReport report,
              write_run_trace(mine, comm::everyone(world), plan_of(3), Step{1}, path, kSecond));
    EXPECT_GT(world.clock().now() - begin, 3 * kSecond);
    return report;
  });
  EXPECT_THAT(outcome.errors, ::testing::IsEmpty());
  EXPECT_FALSE(outcome.reports[0].failure);
  EXPECT_EQ(steps_in(path, "F"), Numbers{1});
}

}  // namespace
}  // namespace elaswave::app
