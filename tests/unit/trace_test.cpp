// Traces and the account of hidden communication, on recorders written by hand.
#include "io/metrics/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

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

std::string text_of(std::span<const RankTrace> ranks) {
  std::string text;
  chrome_trace(ranks, {kOps, kPhases, kChannels}, [&](std::string_view piece) { text += piece; });
  return text;
}

FlightEvent message(FlightKind kind, Nanoseconds begin, Nanoseconds end, std::int32_t peer,
                    std::uint64_t number = 0) {
  return {.begin = begin,
          .end = end,
          .kind = kind,
          .detail = 1,
          .peer = peer,
          .bytes = 8,
          .message = number};
}

FlightEvent wait(Nanoseconds begin, Nanoseconds end, std::int32_t peer, std::uint8_t channel = 1) {
  return {.begin = begin, .end = end, .kind = FlightKind::wait, .detail = channel, .peer = peer};
}

/// Ranks 1 .. `peers` each send rank 0 one message on the way from 0 to `end`.
std::vector<RankTrace> senders_to_rank_0(std::int32_t peers, Nanoseconds end) {
  std::vector<RankTrace> ranks(1);
  for (std::int32_t peer = 1; peer <= peers; ++peer) {
    ranks.push_back({.world_rank = peer,
                     .label = {},
                     .compute = {},
                     .communication = {message(FlightKind::send, 0, end, 0)}});
    ranks[0].communication.push_back(message(FlightKind::receive, 0, end, peer));
  }
  return ranks;
}

TEST(Trace, CountsWhatTheReceiverWaitedForWhileTheMessageWasOnItsWay) {
  const auto uses = channel_use(two_ranks(), kChannels.size());
  EXPECT_EQ(uses[1].messages, 1);
  EXPECT_EQ(uses[1].bytes, 64);
  EXPECT_EQ(uses[1].communication, 40);
  EXPECT_EQ(uses[1].exposed, 30);
  EXPECT_DOUBLE_EQ(uses[1].hidden(), 0.25);
  EXPECT_EQ(uses[0].messages, 0) << "a receive without its send counts";
  EXPECT_DOUBLE_EQ(uses[0].hidden(), 1);
}

TEST(Trace, AnIdleRankHidesNothingWhomeverItWaitsFor) {
  auto ranks = senders_to_rank_0(7, 10);
  ranks[0].compute = {wait(0, 10, 1)};
  const auto use = channel_use(ranks, kChannels.size())[1];
  EXPECT_EQ(use.messages, 7);
  EXPECT_EQ(use.communication, 10);
  EXPECT_EQ(use.exposed, 10);
  EXPECT_DOUBLE_EQ(use.hidden(), 0);
}

// What a wait is for says nothing about what it exposes: room to send to rank 1 (or to anybody, on
// any channel) is idle time like any other, and counts once, while a message is on its way.
TEST(Trace, AWaitForRoomToSendIsIdleTimeAndNothingElse) {
  for (const std::int32_t peer : {1, 5})
    for (const std::uint8_t channel : {0, 1}) {
      auto ranks = senders_to_rank_0(1, 10);
      ranks[0].compute = {wait(4, 6, peer, channel), wait(9, 30, peer, channel)};
      const auto use = channel_use(ranks, kChannels.size())[1];
      EXPECT_EQ(use.communication, 10);
      EXPECT_EQ(use.exposed, 3) << "peer " << peer << ", channel " << int{channel};
    }
}

TEST(Trace, ThreeMessagesAtOnceAreExposedOnce) {
  auto ranks = senders_to_rank_0(1, 10);
  for (std::uint64_t number = 1; number < 3; ++number) {
    ranks[1].communication.push_back(message(FlightKind::send, 0, 10, 0, number));
    ranks[0].communication.push_back(message(FlightKind::receive, 0, 10, 1, number));
  }
  ranks[0].compute = {wait(0, 10, 1)};
  const auto use = channel_use(ranks, kChannels.size())[1];
  EXPECT_EQ(use.messages, 3);
  EXPECT_EQ(use.communication, 10);
  EXPECT_EQ(use.exposed, 10);
}

TEST(Trace, WaitsInsideActionsCountAndGapsBetweenMessagesDoNot) {
  auto ranks = senders_to_rank_0(1, 10);
  ranks[1].communication.push_back(message(FlightKind::send, 20, 30, 0, 1));
  ranks[0].communication.push_back(message(FlightKind::receive, 0, 30, 1, 1));
  ranks[0].compute = {{.begin = 0, .end = 40, .step = Step{1}}, wait(8, 22, 1), wait(25, 26, 1)};
  const auto use = channel_use(ranks, kChannels.size())[1];
  EXPECT_EQ(use.communication, 20);
  EXPECT_EQ(use.exposed, 2 + 2 + 1);
}

TEST(Trace, IsOneJsonDocumentWithAnArrowForEveryMessage) {
  const auto ranks = two_ranks();
  const auto document = nlohmann::json::parse(text_of(ranks));
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

TEST(Trace, OfNobodyIsValidJson) {
  EXPECT_TRUE(nlohmann::json::parse(text_of({}))["traceEvents"].empty());
  const std::vector<RankTrace> silent(2);
  EXPECT_FALSE(nlohmann::json::parse(text_of(silent))["traceEvents"].empty());
}

// Slices of one lane that overlap without nesting are drawn wrong or dropped by viewers.
TEST(Trace, GivesEveryMessageAtOnceALaneOfItsOwnWithAName) {
  constexpr std::int32_t kPeers = 40;
  const auto ranks = senders_to_rank_0(kPeers, 10);
  const auto document = nlohmann::json::parse(text_of(ranks));
  std::set<std::int64_t> lanes;
  std::map<std::int64_t, std::string> names;
  std::set<std::int64_t> sorted;
  for (const auto& event : document["traceEvents"]) {
    if (event["pid"] != 0) continue;
    if (event["ph"] == "X") {
      EXPECT_TRUE(lanes.insert(event["tid"].get<std::int64_t>()).second) << event;
    }
    if (event["name"] == "thread_name")
      names[event["tid"].get<std::int64_t>()] = event["args"]["name"].get<std::string>();
    if (event["name"] == "thread_sort_index") sorted.insert(event["tid"].get<std::int64_t>());
  }
  ASSERT_EQ(lanes.size(), std::size_t{kPeers});
  for (const std::int64_t lane : lanes) EXPECT_TRUE(names.contains(lane) && sorted.contains(lane));
  EXPECT_EQ(names[*lanes.begin()], "pipeline in");
  EXPECT_EQ(names[*lanes.rbegin()], "pipeline in 40");
}

TEST(Trace, LanesAreUsedAgain) {
  auto ranks = senders_to_rank_0(1, 10);
  ranks[0].communication.push_back(message(FlightKind::receive, 10, 12, 1, 1));
  const auto document = nlohmann::json::parse(text_of(ranks));
  std::set<std::int64_t> lanes;
  for (const auto& event : document["traceEvents"])
    if (event["ph"] == "X" && event["pid"] == 0) lanes.insert(event["tid"].get<std::int64_t>());
  EXPECT_EQ(lanes.size(), 1u);
}

TEST(Trace, ComesInPieces) {
  std::vector<RankTrace> ranks(1);
  for (std::uint64_t number = 0; number < 20'000; ++number)
    ranks[0].communication.push_back(message(FlightKind::send, 0, 10, 1, number));
  std::size_t pieces = 0, longest = 0;
  std::string text;
  chrome_trace(ranks, {kOps, kPhases, kChannels}, [&](std::string_view piece) {
    ++pieces;
    longest = std::max(longest, piece.size());
    text += piece;
  });
  EXPECT_GT(pieces, 10u);
  EXPECT_LT(longest, std::size_t{1} << 19);
  EXPECT_GE(nlohmann::json::parse(text)["traceEvents"].size(), 40'000u);
}

TEST(Trace, AStepOfWhichALaneLostAPartIsNotWhole) {
  const std::vector<FlightEvent> events = {{.step = Step{4}}, {.step = Step{5}}};
  EXPECT_EQ(first_whole_step(events, false, Step{2}), Step{2});
  EXPECT_EQ(first_whole_step(events, true, Step{2}), Step{5});
  EXPECT_EQ(first_whole_step(events, true, Step{9}), Step{9});
  EXPECT_EQ(first_whole_step({}, false, Step{3}), Step{3});
}

}  // namespace
}  // namespace elaswave::metrics
