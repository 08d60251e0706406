// When a process counts as hung, and when not: the pure decision, look by look.
#include "elastic/member/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "parallel/comm/world.h"

namespace elaswave::member {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr Nanoseconds kLimit = kSecond;
constexpr Nanoseconds kLook = 20 * kMillisecond;

/// A process whose threads do what the test says, looked at regularly.
struct Process {
  Sight sight{.sign = 1, .turns = 1};
  Watchdog watchdog{kLimit, kLook};
  Nanoseconds now = 5 * kSecond;
  std::vector<WaitVerdict> verdicts;

  void look_after(Nanoseconds time) {
    now += time;
    if (const auto verdict = watchdog.look(sight, now)) verdicts.push_back(*verdict);
  }
  enum Moves : unsigned { none = 0, work = 1, turns = 2, both = 3 };
  void run(Nanoseconds time, Moves moves) {
    for (const Nanoseconds end = now + time; now < end;) {
      if ((moves & work) != 0) ++sight.sign;
      if ((moves & turns) != 0) ++sight.turns;
      look_after(kLook);
    }
  }
  void wait_for(std::int32_t peer) {
    sight.doing = Sight::Doing::waiting;
    sight.peer = peer;
    ++sight.sign;
  }
};

TEST(Watchdog, WhoWorksIsNotHung) {
  Process process;
  process.run(100 * kSecond, Process::both);
  EXPECT_TRUE(process.verdicts.empty());
  EXPECT_EQ(process.watchdog.limit(), kLimit);
}

TEST(Watchdog, NoSignOutsideAWaitIsAHang) {
  Process process;
  process.run(10 * kSecond, Process::both);
  process.run(kLimit - kLook, Process::turns);
  EXPECT_TRUE(process.verdicts.empty());
  process.run(4 * kLook, Process::turns);
  ASSERT_FALSE(process.verdicts.empty());
  EXPECT_EQ(process.verdicts[0].kind, WaitVerdict::Kind::hung);
  EXPECT_GT(process.verdicts[0].lasted, kLimit);
}

TEST(Watchdog, ALoopThatDoesNotTurnIsStuckWhateverTheOtherThreadDoes) {
  for (const bool waits : {false, true}) {
    Process process;
    process.run(10 * kSecond, Process::both);
    if (waits) process.wait_for(3);
    process.run(2 * kLimit, waits ? Process::none : Process::work);
    ASSERT_FALSE(process.verdicts.empty());
    EXPECT_EQ(process.verdicts[0].kind, WaitVerdict::Kind::stuck);
  }
}

TEST(Watchdog, NoCommunicationThreadIsNotStuck) {
  Process process;
  process.sight.turns = 0;
  process.run(10 * kLimit, Process::work);
  EXPECT_TRUE(process.verdicts.empty());
}

TEST(Watchdog, WhoWaitsIsNotHungButAsksOnceInALimit) {
  Process process;
  process.run(kLimit, Process::both);
  process.wait_for(6);
  process.run(10 * kLimit + 20 * kLook, Process::turns);
  ASSERT_EQ(process.verdicts.size(), 9u);  // after two, then one a limit
  for (const WaitVerdict& verdict : process.verdicts) {
    EXPECT_EQ(verdict.kind, WaitVerdict::Kind::in_vain);
    EXPECT_EQ(verdict.peer, 6);
  }
  process.verdicts.clear();
  for (int wait = 0; wait < 100; ++wait) {  // many short ones
    process.wait_for(6);
    process.run(kLimit * 3 / 2, Process::turns);
  }
  EXPECT_TRUE(process.verdicts.empty());
}

TEST(Watchdog, ADiskTakesAsLongAsItTakes) {
  Process process;
  process.run(kLimit, Process::both);
  process.sight.doing = Sight::Doing::outside;
  process.run(50 * kLimit, Process::turns);
  EXPECT_TRUE(process.verdicts.empty());
  process.sight.doing = Sight::Doing::working;  // it came back; from here on it counts
  process.run(kLimit / 2, Process::turns);
  EXPECT_TRUE(process.verdicts.empty());
  EXPECT_EQ(process.watchdog.limit(), kLimit);
  process.run(kLimit, Process::turns);
  EXPECT_FALSE(process.verdicts.empty());
}

TEST(Watchdog, TheLimitGrowsWithTheLongestPauseThatEndedWell) {
  Process process;
  process.run(kLimit, Process::both);
  process.run(kLimit / 2, Process::turns);
  process.run(kLimit, Process::both);
  EXPECT_GE(process.watchdog.limit(), 4 * kLimit - 8 * kLook);
  EXPECT_LE(process.watchdog.limit(), 4 * kLimit);
  process.run(3 * kLimit, Process::turns);
  EXPECT_TRUE(process.verdicts.empty());
  process.run(3 * kLimit, Process::turns);
  EXPECT_FALSE(process.verdicts.empty());
}

TEST(Watchdog, WhatWasStoppedOrStarvedAsAWholeIsNotHung) {
  Process process;
  process.run(kLimit, Process::both);
  process.look_after(3600 * kSecond);  // woken up: nothing has moved meanwhile
  EXPECT_TRUE(process.verdicts.empty());
  for (int look = 0; look < 7; ++look) process.look_after(kLimit);  // hardly gets to run
  EXPECT_TRUE(process.verdicts.empty());
  // An hour does not make it blind for days.
  EXPECT_LE(process.watchdog.limit(), 8 * kLimit);
  process.run(10 * kLimit, Process::turns);
  EXPECT_FALSE(process.verdicts.empty());
}

TEST(Watchdog, ALatenessIsForgotten) {
  Process process;
  process.run(kLimit, Process::both);
  process.look_after(kLimit / 2);
  EXPECT_GT(process.watchdog.limit(), 3 * kLimit);
  process.run(25 * kLimit, Process::both);
  EXPECT_EQ(process.watchdog.limit(), kLimit);
}

TEST(Watchdog, APauseBeginsAnew) {
  Process process;
  process.run(kLimit * 3 / 4, Process::none);
  process.watchdog.pause();
  process.run(kLimit * 3 / 4, Process::none);
  EXPECT_TRUE(process.verdicts.empty());
}

TEST(Watchdog, SeesWhatTheComputeThreadDoes) {
  FlightRecorder recorder(8);
  constexpr std::int32_t kMe = 1;
  Sight sight = look_at(recorder, kMe);
  EXPECT_EQ(sight.doing, Sight::Doing::working);
  EXPECT_EQ(sight.turns, 0u);
  const auto moved = [&] {
    const std::uint64_t before = sight.sign;
    sight = look_at(recorder, kMe);
    return sight.sign != before;
  };
  const auto wait = recorder.compute.start({.begin = 5, .kind = FlightKind::wait, .peer = 3});
  EXPECT_TRUE(moved());
  EXPECT_EQ(sight.doing, Sight::Doing::waiting);
  EXPECT_EQ(sight.peer, 3);
  EXPECT_FALSE(moved());
  recorder.compute.finish(wait, 7);
  EXPECT_TRUE(moved());
  EXPECT_EQ(sight.doing, Sight::Doing::working);
  recorder.compute.start({.begin = 8, .kind = FlightKind::action});
  EXPECT_TRUE(moved());
  EXPECT_EQ(sight.doing, Sight::Doing::working);
  recorder.compute.start(
      {.kind = FlightKind::phase, .detail = static_cast<std::uint8_t>(FlightPhase::outside)});
  EXPECT_TRUE(moved());
  EXPECT_EQ(sight.doing, Sight::Doing::outside);
  recorder.compute.start({.kind = FlightKind::wait, .peer = kMe});  // for itself: nobody else's
  EXPECT_TRUE(moved());
  EXPECT_EQ(sight.doing, Sight::Doing::working);
  recorder.turns = 9;
  EXPECT_FALSE(moved());
  EXPECT_EQ(sight.turns, 9u);
}

TEST(Watchdog, SaysWhatHangsAndWhatItDidLast) {
  FlightRecorder recorder(8);
  recorder.compute.start({.begin = kSecond,
                          .step = Step{12},
                          .kind = FlightKind::action,
                          .detail = 1,
                          .chunk = 2,
                          .micro_batch = 13});
  recorder.communication.add({.begin = kSecond,
                              .end = 2 * kSecond,
                              .step = Step{11},
                              .kind = FlightKind::receive,
                              .detail = static_cast<std::uint8_t>(comm::Channel::pipeline),
                              .peer = 5});
  WaitVerdict verdict{
      .kind = WaitVerdict::Kind::hung, .lasted = 90 * kSecond, .limit = 60 * kSecond};
  const std::string hung = text_of(verdict, recorder, 100 * kSecond);
  EXPECT_THAT(hung, HasSubstr("compute thread"));
  EXPECT_THAT(hung, HasSubstr("for 90.0 s, the limit is 60.0 s (elastic.hang_ms)"));
  EXPECT_THAT(hung, HasSubstr("2B13 in step 12 begun 99.000 s ago, not ended"));
  EXPECT_THAT(hung, Not(HasSubstr("\n")));
  verdict.kind = WaitVerdict::Kind::stuck;
  EXPECT_THAT(text_of(verdict, recorder, 100 * kSecond),
              HasSubstr("receive from rank 5 (pipeline) in step 11"));
  verdict = {.kind = WaitVerdict::Kind::in_vain, .lasted = kSecond, .limit = kSecond, .peer = 4};
  EXPECT_THAT(text_of(verdict, recorder, 0), HasSubstr("waiting for rank 4"));
}

}  // namespace
}  // namespace elaswave::member
