// A cut between an agent and its links: nothing passes, nothing is lost, order stays.
#include "elastic/member/cut_links.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <string_view>

namespace elaswave::member {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Notes what the real links are asked to do.
struct Below final : comm::ControlLinks {
  void dial(int peer) override { asked.push_back(fmt::format("dial {}", peer)); }
  void send(int peer, std::span<const std::byte> bytes) override {
    asked.push_back(fmt::format("send {} {}", peer, text_of(bytes)));
  }
  void close(int peer) override { asked.push_back(fmt::format("close {}", peer)); }
  void wake_at(Nanoseconds at) override { wake = at; }
  std::vector<std::string> asked;
  Nanoseconds wake = -1;
};

/// Notes what the agent is told; answers every message.
struct Above final : comm::ControlHandler {
  void note(std::string_view what, int peer) { told.push_back(fmt::format("{} {}", what, peer)); }
  void start(Nanoseconds) override { told.emplace_back("start"); }
  void opened(int peer, Nanoseconds) override { note("opened", peer); }
  void message(int peer, std::span<const std::byte> bytes, Nanoseconds) override {
    told.push_back(fmt::format("message {} {}", peer, text_of(bytes)));
    if (links != nullptr) links->send(peer, bytes_of("answer"));
  }
  void closed(int peer, Nanoseconds) override { note("closed", peer); }
  void refused(int peer, Nanoseconds) override { note("refused", peer); }
  void unreachable(int peer, Nanoseconds) override { note("unreachable", peer); }
  void timer(Nanoseconds now) override { told.push_back(fmt::format("timer {}", now)); }
  std::vector<std::string> told;
  comm::ControlLinks* links = nullptr;
};

struct CutLinksTest : testing::Test {
  CutLinksTest() { cut.set_handler(above); }
  std::set<int> away;
  Below below;
  Above above;
  CutLinks cut{{.below = below,
                .reachable = [this](int peer) { return !away.contains(peer); },
                .dial_timeout = 1000,
                .tick = 10}};
};

TEST_F(CutLinksTest, WithoutACutEverythingPasses) {
  cut.start(0);
  cut.dial(1);
  cut.opened(1, 1);
  cut.send(1, bytes_of("a"));
  cut.message(1, bytes_of("b"), 2);
  cut.close(1);
  cut.closed(2, 3);
  cut.refused(2, 4);
  cut.unreachable(3, 5);
  cut.wake_at(77);
  EXPECT_EQ(below.wake, 77);
  cut.timer(77);
  EXPECT_THAT(below.asked, ElementsAre("dial 1", "send 1 a", "close 1"));
  EXPECT_THAT(above.told, ElementsAre("start", "opened 1", "message 1 b", "closed 2", "refused 2",
                                      "unreachable 3", "timer 77"));
}

TEST_F(CutLinksTest, WhatWasHeldPassesInOrderOnceItHasHealed) {
  away = {1};
  cut.wake_at(1'000'000);
  cut.send(1, bytes_of("a"));
  cut.message(1, bytes_of("x"), 100);
  cut.message(2, bytes_of("y"), 101);
  cut.closed(1, 102);
  cut.send(1, bytes_of("b"));
  EXPECT_THAT(below.asked, IsEmpty());
  EXPECT_THAT(above.told, ElementsAre("message 2 y"));
  EXPECT_EQ(below.wake, 112);  // to see whether it has healed
  cut.timer(112);
  EXPECT_EQ(below.wake, 122);
  away = {};
  cut.send(1, bytes_of("c"));  // not before what waits
  EXPECT_THAT(below.asked, IsEmpty());
  above.links = &cut;
  cut.timer(122);
  EXPECT_THAT(below.asked, ElementsAre("send 1 a", "send 1 b", "send 1 c", "send 1 answer"));
  EXPECT_THAT(above.told, ElementsAre("message 2 y", "message 1 x", "closed 1"));
  EXPECT_EQ(below.wake, 1'000'000);
}

TEST_F(CutLinksTest, ADialIntoTheVoidIsUnreachableOnce) {
  away = {1};
  cut.timer(100);
  cut.dial(1);
  cut.dial(1);
  cut.timer(1099);
  EXPECT_THAT(above.told, IsEmpty());
  cut.timer(1100);
  cut.timer(3000);
  EXPECT_THAT(above.told, ElementsAre("unreachable 1"));
  cut.dial(1);
  away = {};
  cut.timer(3100);  // it heals while the dial is under way
  EXPECT_THAT(below.asked, ElementsAre("dial 1"));
}

TEST_F(CutLinksTest, AClosedLinkIsForgotten) {
  away = {1};
  cut.send(1, bytes_of("a"));
  cut.message(1, bytes_of("x"), 100);
  cut.dial(1);
  cut.close(1);
  away = {};
  cut.timer(5000);
  EXPECT_THAT(below.asked, ElementsAre("close 1"));
  EXPECT_THAT(above.told, IsEmpty());
}

}  // namespace
}  // namespace elaswave::member
