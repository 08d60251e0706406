// Hangs in the simulated world: every rank names the one that holds all of them up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "parallel/comm/group.h"
#include "parallel/comm/simulation.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  std::vector<std::string> errors;  // by rank
  SimulationReport report;
};

Outcome run(int ranks, std::uint64_t seed, const std::function<Result<void>(World&)>& body) {
  Outcome outcome{std::vector<std::string>(static_cast<std::size_t>(ranks)), {}};
  const auto report = simulate({.ranks = ranks,
                                .seed = seed,
                                .eager_bytes = seed % 3 == 0 ? 0 : 4096,
                                .chunk_bytes = seed % 2 == 0 ? 16 : 4096,
                                .probe = {}},
                               [&](World& world) {
                                 if (const auto done = body(world); !done)
                                   outcome.errors[static_cast<std::size_t>(world.world_rank())] =
                                       done.error().text();
                               });
  EXPECT_TRUE(report) << "seed " << seed << ": " << report.error().text();
  if (report) outcome.report = *report;
  return outcome;
}

/// A ring of stages: each waits for the one before it; `silent` does nothing at all.
Result<void> ring_step(World& world, int silent, Nanoseconds timeout) {
  const int me = world.world_rank(), n = world.size();
  world.set_activity({Step{13}, "2F" + std::to_string(me)});
  if (me == silent) {
    world.clock().sleep(2 * timeout);
    return {};
  }
  std::vector<std::byte> bytes(8);
  return world.wait(world.receive((me + n - 1) % n, Channel::pipeline, {bytes}),
                    "receive activation", Deadline::after(world.clock(), timeout));
}

TEST(Hang, every_rank_names_the_silent_one) {
  int cases = 0;
  for (int ranks = 2; ranks <= 8; ++ranks)
    for (std::uint64_t seed = 1; seed <= 12; ++seed, ++cases) {
      const int silent = static_cast<int>(seed) % ranks;
      const auto outcome = run(ranks, seed, [silent](World& world) {
        return ring_step(world, silent, 100 * kMillisecond);
      });
      for (int rank = 0; rank < ranks; ++rank) {
        const std::string& text = outcome.errors[static_cast<std::size_t>(rank)];
        if (rank == silent) {
          EXPECT_EQ(text, "");
          continue;
        }
        EXPECT_THAT(text, HasSubstr("waited in vain for rank"));
        EXPECT_THAT(text, HasSubstr("step 13, 2F" + std::to_string(rank)));
        EXPECT_THAT(text, HasSubstr("rank " + std::to_string(silent) + " has not been heard of"));
        EXPECT_THAT(text, HasSubstr("see what rank " + std::to_string(silent) + " was doing"));
        const int behind = (silent + 1) % ranks;
        if (rank == behind) continue;
        EXPECT_THAT(text, HasSubstr("rank " + std::to_string(behind) + " waits for rank " +
                                    std::to_string(silent) + " in 2F" + std::to_string(behind) +
                                    " (receive activation, pipeline, step 13"));
      }
    }
  std::printf("%d cases\n", cases);
}

TEST(Hang, the_wait_of_another_rank_is_as_old_as_this_one) {
  const auto outcome = run(3, 5, [](World& world) { return ring_step(world, 2, 10 * kSecond); });
  // All began together; notes are found at the first look after they were sent.
  EXPECT_THAT(outcome.errors[1], ::testing::ContainsRegex(
                                     "rank 0 waits for rank 2 in 2F0 \\(receive activation, "
                                     "pipeline, step 13, receive, for at least (9.[5-9]|10.0) s"));
}

TEST(Hang, ranks_that_wait_for_one_another_are_told_so) {
  const auto outcome =
      run(3, 4, [](World& world) { return ring_step(world, -1, 100 * kMillisecond); });
  for (const std::string& text : outcome.errors)
    EXPECT_THAT(text, HasSubstr("ranks wait for one another: "));
}

TEST(Hang, a_silent_rank_was_last_seen_with_its_last_message) {
  const auto outcome = run(2, 7, [](World& world) -> Result<void> {
    std::vector<std::byte> bytes(8);
    world.set_activity({Step{5}, "gather"});
    if (world.world_rank() == 1)
      return world.wait(world.send(0, Channel::gather, {bytes}), "weights",
                        Deadline::after(world.clock(), kSecond));
    EW_TRY(world.wait(world.receive(1, Channel::gather, {bytes}), "weights",
                      Deadline::after(world.clock(), kSecond)));
    world.set_activity({Step{6}, "0F0"});
    return world.wait(world.receive(1, Channel::pipeline, {bytes}), "activation",
                      Deadline::after(world.clock(), kSecond));
  });
  EXPECT_THAT(outcome.errors[0],
              HasSubstr("rank 1 has not been heard of; last seen 1.0 s ago in step 5, channel "
                        "gather"));
}

/// Rank 0 is slow in some rounds: the others wait long enough to tell, then go on.
Result<void> slow_rounds(World& world, int rounds) {
  const Nanoseconds timeout = 100 * kMillisecond;
  for (int round = 1; round <= rounds; ++round) {
    world.set_activity({Step{12}, "commit"});
    if (world.world_rank() == 0) world.clock().sleep(60 * kMillisecond);
    std::int64_t one = 1;
    EW_TRY(all_reduce_sum(world, everyone(world), {&one, 1}, "commit",
                          Deadline::after(world.clock(), timeout)));
    EXPECT_EQ(one, world.size());
  }
  return {};
}

// More notes than the channel's credits allow, and nobody reads most of them.
TEST(Hang, long_waits_that_end_well_leave_the_world_in_order) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const auto outcome = run(4, seed, [](World& world) -> Result<void> {
      EW_TRY(slow_rounds(world, 40));
      const auto done = test::random_traffic(world, {.seed = 3, .rounds = 2, .messages = 30});
      EXPECT_TRUE(done) << done.error().text();
      return world.close(Deadline::after(world.clock(), kSecond));
    });
    for (const std::string& text : outcome.errors) EXPECT_EQ(text, "") << "seed " << seed;
  }
}

TEST(Hang, after_many_resolved_waits_the_newest_notes_count) {
  const auto outcome = run(3, 9, [](World& world) -> Result<void> {
    EW_TRY(slow_rounds(world, 6));
    return ring_step(world, 2, 100 * kMillisecond);
  });
  EXPECT_THAT(outcome.errors[1], HasSubstr("rank 0 waits for rank 2 in 2F0"));
  EXPECT_THAT(outcome.errors[0], HasSubstr("see what rank 2 was doing"));
  EXPECT_THAT(outcome.errors[1], HasSubstr("see what rank 2 was doing"));
}

// Rank 0 reads no note for so long that the others have no credits left; it must hear of their
// newest waits all the same.
TEST(Hang, a_rank_that_read_no_notes_for_long_catches_up) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const auto outcome = run(3, seed, [](World& world) -> Result<void> {
      EW_TRY(slow_rounds(world, 60));
      return ring_step(world, 2, 100 * kMillisecond);
    });
    EXPECT_THAT(outcome.errors[0], HasSubstr("see what rank 2 was doing")) << "seed " << seed;
    EXPECT_THAT(outcome.errors[0], HasSubstr("rank 1 waits for rank 0 in 2F1"));
  }
}

TEST(Hang, notes_of_an_abandoned_generation_are_forgotten) {
  const auto outcome = run(3, 2, [](World& world) -> Result<void> {
    EXPECT_FALSE(ring_step(world, -1, 100 * kMillisecond));
    test::enter_view(world, Generation{1});
    const auto done = test::random_traffic(world, {.seed = 5, .rounds = 2, .messages = 30});
    EXPECT_TRUE(done) << done.error().text();
    return ring_step(world, 1, 100 * kMillisecond);
  });
  EXPECT_THAT(outcome.errors[0], HasSubstr("rank 1 has not been heard of"));
  EXPECT_THAT(outcome.errors[2], HasSubstr("rank 1 has not been heard of"));
}

// After a view change only live ranks are told, heard and named.
TEST(Hang, the_dead_are_neither_told_nor_named) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const std::vector<int> live{0, 2, 3};
    const auto outcome = run(5, seed, [&live](World& world) -> Result<void> {
      EXPECT_FALSE(ring_step(world, -1, 100 * kMillisecond));
      const int me = world.world_rank();
      if (me == 1 || me == 4) return {};
      test::enter_view(world, Generation{1}, live);
      if (me == 3) {
        world.clock().sleep(kSecond);
        return {};
      }
      std::vector<std::byte> bytes(8);
      const int from = me == 0 ? 3 : 0;
      return world.wait(world.receive(from, Channel::pipeline, {bytes}), "receive activation",
                        Deadline::after(world.clock(), 100 * kMillisecond));
    });
    for (const int rank : {0, 2}) {
      const std::string& text = outcome.errors[static_cast<std::size_t>(rank)];
      EXPECT_THAT(text, HasSubstr("rank 3 has not been heard of"));
      EXPECT_THAT(text, HasSubstr("see what rank 3 was doing"));
      for (const char* dead : {"rank 1", "rank 4"}) EXPECT_THAT(text, Not(HasSubstr(dead)));
    }
    EXPECT_THAT(outcome.errors[2], HasSubstr("rank 0 waits for rank 3"));
  }
}

TEST(Hang, nothing_is_told_while_waits_are_short_or_endless) {
  for (const bool endless : {false, true}) {
    const auto outcome = run(3, 3, [endless](World& world) -> Result<void> {
      for (int round = 0; round < 20; ++round) {
        std::int64_t one = 1;
        if (world.world_rank() == 0) world.clock().sleep(20 * kMillisecond);
        EW_TRY(all_reduce_sum(world, everyone(world), {&one, 1}, "commit",
                              endless ? Deadline{std::numeric_limits<Nanoseconds>::max()}
                                      : Deadline::after(world.clock(), 100 * kMillisecond)));
      }
      return {};
    });
    EXPECT_EQ(outcome.report.messages, 20 * 4);  // the collective's own
  }
}

TEST(Hang, runs_are_repeatable) {
  auto once = [] {
    return run(5, 6, [](World& world) { return ring_step(world, 3, 100 * kMillisecond); });
  };
  const Outcome first = once(), second = once();
  EXPECT_EQ(first.report.trace_hash, second.report.trace_hash);
  EXPECT_EQ(first.errors, second.errors);
}

// ---- what the recorder holds

TEST(Recorder, messages_join_at_both_ends_and_waits_are_seen) {
  std::vector<std::vector<FlightEvent>> communication(2), compute(2);
  const auto outcome = run(2, 1, [&](World& world) -> Result<void> {
    const int me = world.world_rank();
    std::vector<std::byte> bytes(100);
    for (int i = 0; i < 3; ++i) {
      world.set_activity({Step{i + 1}, "1F0"});
      if (me == 0) world.clock().sleep(kMillisecond);
      const Work work = me == 0 ? world.send(1, Channel::pipeline, {bytes})
                                : world.receive(0, Channel::pipeline, {bytes});
      EW_TRY(world.wait(work, "activation", Deadline::after(world.clock(), kSecond)));
    }
    communication[static_cast<std::size_t>(me)] = world.recorder().communication.snapshot();
    compute[static_cast<std::size_t>(me)] = world.recorder().compute.snapshot();
    return {};
  });
  ASSERT_EQ(communication[0].size(), 3u);
  ASSERT_EQ(communication[1].size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    const FlightEvent &sent = communication[0][i], &received = communication[1][i];
    EXPECT_EQ(sent.kind, FlightKind::send);
    EXPECT_EQ(received.kind, FlightKind::receive);
    EXPECT_EQ(sent.message, i);
    EXPECT_EQ(received.message, i);
    EXPECT_EQ(sent.peer, 1);
    EXPECT_EQ(received.peer, 0);
    EXPECT_EQ(sent.bytes, 100);
    EXPECT_EQ(received.detail, static_cast<std::uint8_t>(Channel::pipeline));
    EXPECT_EQ(received.step, Step{static_cast<std::int64_t>(i) + 1});
    EXPECT_GE(received.end, sent.begin);
    EXPECT_GT(sent.end, 0);
  }
  ASSERT_EQ(compute[1].size(), 3u);
  for (const FlightEvent& wait : compute[1]) {
    EXPECT_EQ(wait.kind, FlightKind::wait);
    EXPECT_EQ(wait.peer, 0);
    EXPECT_GT(wait.end - wait.begin, kMillisecond / 2);
  }
}

TEST(Recorder, has_the_capacity_it_was_given) {
  EXPECT_EQ(make_solo_world({})->recorder().compute.capacity(), kFlightCapacity);
  EXPECT_EQ(make_solo_world({}, 7)->recorder().communication.capacity(), 7u);
  const auto report = simulate({.ranks = 1, .flight_capacity = 5, .probe = {}}, [](World& world) {
    EXPECT_EQ(world.recorder().compute.capacity(), 5u);
  });
  EXPECT_TRUE(report);
}

TEST(Recorder, messages_to_oneself_are_recorded) {
  const auto world = make_solo_world({});
  world->set_activity({Step{4}, "a text that is too long for its thirty-one places"});
  std::vector<std::byte> out(3), in(3);
  const Work receive = world->receive(0, Channel::state, {in});
  const Work send = world->send(0, Channel::state, {out});
  const auto events = world->recorder().communication.snapshot();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, FlightKind::receive);
  EXPECT_EQ(events[0].step, Step{4});
  EXPECT_NE(events[0].end, 0);
  EXPECT_NE(events[1].end, 0);
}

}  // namespace
}  // namespace elaswave::comm
