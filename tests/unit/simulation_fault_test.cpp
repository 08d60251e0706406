// Faults in the simulated world: ranks killed, stopped and cut off.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "io/base/hash.h"
#include "parallel/comm/group.h"
#include "parallel/comm/simulation.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;

constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();
constexpr Deadline kNoDeadline{kNever};

Deadline in(World& world, Nanoseconds duration) {
  return Deadline::after(world.clock(), duration);
}

std::span<std::byte> bytes_of(std::vector<std::int64_t>& values) {
  return std::as_writable_bytes(std::span(values));
}

// ---- killed

TEST(SimulationFault, a_killed_rank_never_returns_and_nobody_is_told) {
  SimulationControl* control = nullptr;
  SimulationOptions options{.ranks = 2, .probe = {}};
  options.control = [&](SimulationControl& given) { control = &given; };
  options.probe = [&](int rank) -> ProbeHook {
    return [&control, rank](Point point) {
      if (rank == 1 && point == Point::before_commit) control->kill(1);
    };
  };
  bool small_sent = false, large_ended = true, unwound = false;
  const auto report = simulate(options, [&](World& world) {
    struct Witness {
      bool& flag;
      bool armed;
      ~Witness() { flag |= armed; }
    };
    const Witness witness{unwound, world.world_rank() == 1};
    world.probe(Point::before_commit);
    EXPECT_EQ(world.world_rank(), 0) << "came back from the dead";
    std::vector<std::int64_t> small(10), large(10'000);
    world.clock().sleep(kMillisecond);
    EXPECT_FALSE(control->alive(1));
    small_sent =
        world.wait(world.send(1, Channel::control, {bytes_of(small)}), "small", in(world, 10))
            .has_value();
    const auto got =
        world.wait(world.send(1, Channel::state, {bytes_of(large)}), "large", in(world, kSecond));
    large_ended = got.has_value();
    EXPECT_EQ(got ? Code::bug : got.error().code, Code::deadline);
    EXPECT_FALSE(unwound) << "its stack must stay while others run";
  });
  ASSERT_TRUE(report) << report.error().text();
  EXPECT_EQ(report->kills, 1);
  EXPECT_TRUE(small_sent);
  EXPECT_FALSE(large_ended);
  EXPECT_TRUE(unwound);
}

TEST(SimulationFault, a_rank_may_die_in_the_middle_of_a_message) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SimulationControl* control = nullptr;
    SimulationOptions options{.ranks = 2, .seed = seed, .chunk_bytes = 100, .probe = {}};
    options.control = [&](SimulationControl& given) { control = &given; };
    int chunks = 0;
    options.probe = [&](int rank) -> ProbeHook {
      return [&, rank](Point point) {
        if (rank == 0 && point == Point::send_chunk && ++chunks == 4) control->kill(0);
      };
    };
    std::string where;
    const auto report = simulate(options, [&](World& world) {
      std::vector<std::byte> bytes(1000);
      if (world.world_rank() == 0) {
        (void)world.wait(world.send(1, Channel::state, {bytes}), "send", kNoDeadline);
        ADD_FAILURE() << "came back from the dead";
      } else {
        const auto got =
            world.wait(world.receive(0, Channel::state, {bytes}), "receive", in(world, kSecond));
        ASSERT_FALSE(got);
        where = got.error().where;
      }
    });
    ASSERT_TRUE(report) << report.error().text();
    EXPECT_THAT(where, HasSubstr("1000 bytes (300 arrived)"));
    EXPECT_EQ(report->kills, 1);
  }
}

TEST(SimulationFault, a_receiver_may_die_over_a_chunk) {
  SimulationControl* control = nullptr;
  SimulationOptions options{.ranks = 2, .eager_bytes = 0, .chunk_bytes = 100, .probe = {}};
  options.control = [&](SimulationControl& given) { control = &given; };
  options.probe = [&](int rank) -> ProbeHook {
    return [&, rank](Point point) {
      if (rank == 1 && point == Point::receive_chunk) control->kill(1);
    };
  };
  const auto report = simulate(options, [&](World& world) {
    std::vector<std::byte> bytes(1000);
    const bool sends = world.world_rank() == 0;
    const Work work =
        sends ? world.send(1, Channel::state, {bytes}) : world.receive(0, Channel::state, {bytes});
    const auto got = world.wait(work, "rendezvous", in(world, kSecond));
    EXPECT_FALSE(got);
    EXPECT_TRUE(sends);
  });
  ASSERT_TRUE(report) << report.error().text();
}

TEST(SimulationFault, survivors_go_on_in_a_smaller_view) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const int victim = static_cast<int>(seed % 4);
    SimulationOptions options{.ranks = 4,
                              .seed = seed,
                              .eager_bytes = seed % 2 ? 0 : 4096,
                              .chunk_bytes = 96,
                              .probe = {}};
    options.control = [victim, seed](SimulationControl& control) {
      control.at(static_cast<Nanoseconds>(mix64(seed) % 300'000),
                 [&control, victim] { control.kill(victim); });
    };
    std::vector<int> live{0, 1, 2, 3};
    std::erase(live, victim);
    const auto report = simulate(options, [&](World& world) {
      for (std::uint64_t i = 0;; ++i) {
        const auto done = test::random_traffic(
            world, {.seed = seed * 99 + i, .chunk_bytes = 96, .patience = kMillisecond});
        if (!done) break;
      }
      test::enter_view(world, Generation{1}, live);
      EXPECT_EQ(std::vector<int>(world.live().begin(), world.live().end()), live);
      EXPECT_EQ(everyone(world), (Group{live, Generation{1}}));
      const auto done = test::random_traffic(world, {.seed = seed, .chunk_bytes = 96});
      EXPECT_TRUE(done) << "seed " << seed << ": " << done.error().text();
      const auto collected = test::random_collectives(world, seed, 3, 60);
      EXPECT_TRUE(collected) << "seed " << seed << ": " << collected.error().text();
      const auto closed = world.close(in(world, kSecond));
      EXPECT_TRUE(closed) << "seed " << seed << ": " << closed.error().text();
    });
    ASSERT_TRUE(report) << report.error().text();
    EXPECT_EQ(report->kills, 1);
    EXPECT_EQ(report->undrained, 0);
  }
}

TEST(SimulationFaultDeathTest, a_message_to_a_rank_outside_the_view_is_a_bug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const bool sends : {true, false})
    EXPECT_EXIT((void)simulate({.ranks = 2, .probe = {}},
                               [&](World& world) {
                                 if (world.world_rank() == 1) return;
                                 test::enter_view(world, Generation{1}, {0});
                                 std::vector<std::byte> bytes(8);
                                 if (sends)
                                   (void)world.send(1, Channel::control, {bytes});
                                 else
                                   (void)world.receive(1, Channel::control, {bytes});
                               }),
                ::testing::ExitedWithCode(70), "not among the 1 live ranks of generation 1");
}

// ---- stopped and cut off

TEST(SimulationFault, a_stopped_rank_goes_on_where_it_was) {
  SimulationControl* control = nullptr;
  SimulationOptions options{.ranks = 2, .eager_bytes = 0, .probe = {}};
  options.control = [&](SimulationControl& given) {
    control = &given;
    control->at(kMillisecond, [&] { control->stop(1); });
    control->at(kSecond, [&] { control->go_on(1); });
  };
  Nanoseconds received_at = 0, woke_at = 0;
  const auto report = simulate(options, [&](World& world) {
    std::vector<std::int64_t> values(100, world.world_rank());
    if (world.world_rank() == 0) {
      world.clock().sleep(2 * kMillisecond);
      EXPECT_TRUE(world.wait(world.receive(1, Channel::state, {bytes_of(values)}),
                             "from the stopped", kNoDeadline));
      EXPECT_EQ(values.back(), 1);
      received_at = world.clock().now();
    } else {
      // Handed to the transport before the stop: large, so it needs its sender to run.
      const Work work = world.send(0, Channel::state, {bytes_of(values)});
      world.clock().sleep(5 * kMillisecond);
      woke_at = world.clock().now();
      EXPECT_TRUE(world.wait(work, "large", kNoDeadline));
    }
  });
  ASSERT_TRUE(report) << report.error().text();
  EXPECT_GE(received_at, kSecond);
  EXPECT_GE(woke_at, kSecond);
}

TEST(SimulationFault, a_rank_that_stops_itself_returns_when_it_goes_on) {
  SimulationControl* control = nullptr;
  SimulationOptions options{.ranks = 2, .probe = {}};
  options.control = [&](SimulationControl& given) { control = &given; };
  Nanoseconds back = 0;
  const auto report = simulate(options, [&](World& world) {
    if (world.world_rank() == 0) {
      world.clock().sleep(kSecond);
      control->go_on(1);
    } else {
      control->stop(1);
      back = world.clock().now();
    }
  });
  ASSERT_TRUE(report) << report.error().text();
  EXPECT_EQ(back, kSecond);
}

TEST(SimulationFault, data_waits_for_the_end_of_a_cut) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SimulationOptions options{.ranks = 3,
                              .seed = seed,
                              .eager_bytes = seed % 2 ? 0 : 4096,
                              .chunk_bytes = 96,
                              .probe = {}};
    options.control = [](SimulationControl& control) {
      control.at(30'000, [&control] { control.cut(2, 0); });
      control.at(kSecond, [&control] { control.heal(0, 2); });
    };
    const auto report = simulate(options, [&](World& world) {
      const auto done =
          test::random_traffic(world, {.seed = seed, .messages = 40, .chunk_bytes = 96});
      EXPECT_TRUE(done) << done.error().text();
      EXPECT_TRUE(world.close(in(world, 10 * kSecond)));
    });
    ASSERT_TRUE(report) << report.error().text();
    EXPECT_GE(report->virtual_time, kSecond);
  }
}

}  // namespace
}  // namespace elaswave::comm
