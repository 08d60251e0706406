// Traces and the account of hidden communication, on recorders written by hand.
#include "io/metrics/trace.h"

#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>

namespace elaswave::metrics {
namespace {

constexpr std::array<std::string_view, 5> kOps = {"F", "B", "I", "W", "R"};
constexpr std::array<std::string_view, 2> kPhases = {"reduce", "commit"};
constexpr std::array<std::string_view, 2> kChannels = {"control", "pipeline"};

/// Rank 0 computes until 100 and sends for 40; rank 1, whose clock is 1000 behind, waits from 90 to
/// 130 of rank 0's clock, so 30 of the 40 are not hidden.
std::vector<RankTrace> two_ranks() {
  RankTrace sender{.world_rank = 0, .label = "stage 0"};
  sender.compute = {{.begin = 10, .end = 100, .step = Step{1}, .chunk = 0, .micro_batch = 3},
                    {.begin = 100, .end = 0, .step = Step{1}, .chunk = 0, .micro_batch = 4}};
  sender.communication = {{.begin = 100,
                           .end = 140,
                           .kind = FlightKind::send,
                           .detail = 1,
                           .peer = 1,
                           .bytes = 64,
                           .message = 7}};
  RankTrace receiver{.world_rank = 1, .label = "stage 1", .offset = 1000};
  receiver.compute = {
      {.begin = -910, .end = -870, .kind = FlightKind::wait, .detail = 1, .peer = 0},
      {.begin = -870, .end = -800, .step = Step{1}, .detail = 1, .chunk = 1}};
  receiver.communication = {{.begin = -1000,
                             .end = -860,
                             .kind = FlightKind::receive,
                             .detail = 1,
                             .peer = 0,
                             .bytes = 64,
                             .message = 7},
                            {.begin = -1000,
                             .end = -860,
                             .kind = FlightKind::receive,
                             .detail = 0,
                             .peer = 0,
                             .bytes = 64,
                             .message = 7}};
  return {sender, receiver};
}

TEST(Trace, CountsWhatTheReceiverWaitedForWhileTheMessageWasOnItsWay) {
  const auto uses = channel_use(two_ranks(), kChannels.size());
  EXPECT_EQ(uses[1].messages, 1);
  EXPECT_EQ(uses[1].bytes, 64);
  EXPECT_EQ(uses[1].transfer, 40);
  EXPECT_EQ(uses[1].exposed, 30);
  EXPECT_DOUBLE_EQ(uses[1].hidden(), 0.25);
  EXPECT_EQ(uses[0].messages, 0) << "a receive without its send counts";
  EXPECT_DOUBLE_EQ(uses[0].hidden(), 1);
}

TEST(Trace, IsOneJsonDocumentWithAnArrowForEveryMessage) {
  const auto ranks = two_ranks();
  const auto document = nlohmann::json::parse(chrome_trace(ranks, {kOps, kPhases, kChannels}));
  int slices = 0, starts = 0, ends = 0;
  std::string flow;
  for (const auto& event : document["traceEvents"]) {
    const std::string kind = event["ph"];
    if (kind == "X") {
      ++slices;
      EXPECT_GE(event["ts"].get<double>(), 0);
      if (event["name"] == "0F3") {
        EXPECT_DOUBLE_EQ(event["ts"].get<double>(), 0.010) << "since the earliest event";
        EXPECT_DOUBLE_EQ(event["dur"].get<double>(), 0.090);
      }
      EXPECT_NE(event["name"], "0F4") << "never ended";
    }
    if (kind == "s") {
      ++starts;
      flow = event["id"];
    }
    if (kind == "f" && event["id"] == flow) ++ends;
  }
  EXPECT_EQ(slices, 6);
  EXPECT_EQ(starts, 1);
  EXPECT_EQ(ends, 1);
}

TEST(Trace, MeasuresHowBusyARankWas) {
  const auto ranks = two_ranks();
  const Busy busy = busy_of(ranks[1], Step{1});
  EXPECT_EQ(busy.span, 70);
  EXPECT_EQ(busy.actions, 70);
  EXPECT_EQ(busy_of(ranks[1], Step{2}).actions, 0);
}

}  // namespace
}  // namespace elaswave::metrics
