// The simulated world and, on it, the message protocol and the collectives.
#include "parallel/comm/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

#include "parallel/comm/group.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;

constexpr Deadline kNoDeadline{std::numeric_limits<Nanoseconds>::max()};

std::span<std::byte> bytes_of(std::vector<std::int64_t>& values) {
  return std::as_writable_bytes(std::span(values));
}

Deadline in(World& world, Nanoseconds duration) {
  return Deadline::after(world.clock(), duration);
}

SimulationReport run(const SimulationOptions& options, const std::function<void(World&)>& body) {
  auto report = simulate(options, body);
  EXPECT_TRUE(report) << "seed " << options.seed << ": " << report.error().text();
  return report.value_or(SimulationReport{});
}

TEST(Simulation, every_rank_runs_once_and_knows_its_place) {
  std::vector<int> seen;
  run({.ranks = 5, .seed = 3, .probe = {}}, [&](World& world) {
    EXPECT_EQ(world.size(), 5);
    seen.push_back(world.world_rank());
  });
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4}));
}

// Chunk sizes and eager limits around each other: everything in one chunk, everything in many, all
// sends rendezvous.
TEST(Simulation, random_traffic_arrives_whole_for_many_seeds) {
  std::int64_t chunks = 0, messages = 0;
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    const int ranks = 1 + static_cast<int>(seed % 9);
    const std::int64_t chunk_bytes = (seed % 3 == 0) ? 1 : (seed % 3 == 1) ? 48 : 4096;
    const std::int64_t eager_bytes = (seed % 2 == 0) ? 0 : 100;
    const auto report = run({.ranks = ranks,
                             .seed = seed,
                             .eager_bytes = eager_bytes,
                             .chunk_bytes = chunk_bytes,
                             .probe = {}},
                            [&](World& world) {
                              const auto done = test::random_traffic(
                                  world, {.seed = seed,
                                          .messages = 6 * ranks,
                                          .chunk_bytes = std::max<std::int64_t>(chunk_bytes, 8)});
                              EXPECT_TRUE(done) << done.error().text();
                              const auto closed = world.close(in(world, kSecond));
                              EXPECT_TRUE(closed) << closed.error().text();
                            });
    chunks += report.chunks;
    messages += report.messages;
  }
  EXPECT_GT(chunks, 4 * messages) << "the sizes were to need many chunks";
}

TEST(Simulation, equal_seeds_give_equal_traces_and_others_do_not) {
  auto trace = [](std::uint64_t seed, std::uint64_t payload_seed) {
    return run({.ranks = 4, .seed = seed, .eager_bytes = 128, .chunk_bytes = 48, .probe = {}},
               [&](World& world) {
                 const auto done =
                     test::random_traffic(world, {.seed = payload_seed, .chunk_bytes = 48});
                 EXPECT_TRUE(done) << done.error().text();
               })
        .trace_hash;
  };
  EXPECT_EQ(trace(1, 1), trace(1, 1));
  EXPECT_NE(trace(1, 1), trace(2, 1));
  EXPECT_NE(trace(1, 1), trace(1, 2));
}

TEST(Simulation, the_trace_covers_what_is_sent) {
  auto trace = [](std::byte value) {
    return run({.ranks = 2, .probe = {}},
               [&](World& world) {
                 std::byte byte = value;
                 const Work work = world.world_rank() == 0
                                       ? world.send(1, Channel::state, {{&byte, 1}})
                                       : world.receive(0, Channel::state, {{&byte, 1}});
                 EXPECT_TRUE(world.wait(work, "byte", kNoDeadline));
               })
        .trace_hash;
  };
  EXPECT_NE(trace(std::byte{1}), trace(std::byte{2}));
}

TEST(Simulation, collectives_are_exact_in_random_groups) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const int ranks = 1 + static_cast<int>(seed % 9);
    run({.ranks = ranks, .seed = seed, .chunk_bytes = 512, .probe = {}}, [&](World& world) {
      const auto done = test::random_collectives(world, seed, 6, seed % 10 == 0 ? 9000 : 40);
      EXPECT_TRUE(done) << done.error().text();
    });
  }
}

TEST(Simulation, a_large_sum_is_exact_for_every_group_size) {
  for (int ranks = 1; ranks <= 9; ++ranks)
    run({.ranks = ranks, .probe = {}}, [&](World& world) {
      std::vector<std::int64_t> sum(5003, world.world_rank() + 1);
      const auto done = all_reduce_sum(world, everyone(world), sum, "sum", kNoDeadline);
      ASSERT_TRUE(done) << done.error().text();
      const std::vector<std::int64_t> expected(5003, ranks * (ranks + 1) / 2);
      EXPECT_EQ(sum, expected);
    });
}

TEST(Simulation, messages_of_one_channel_arrive_in_order) {
  run({.ranks = 2, .latency_max = 1'000'000, .probe = {}}, [](World& world) {
    std::vector<std::vector<std::int64_t>> values(200);
    std::vector<Work> works;
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = {world.world_rank() == 0 ? static_cast<std::int64_t>(i) : -1};
      works.push_back(world.world_rank() == 0
                          ? world.send(1, Channel::reduce, {bytes_of(values[i])})
                          : world.receive(0, Channel::reduce, {bytes_of(values[i])}));
    }
    for (const Work& work : works) EXPECT_TRUE(world.wait(work, "order", kNoDeadline));
    for (std::size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(values[i][0], static_cast<std::int64_t>(i));
  });
}

TEST(Simulation, a_length_mismatch_is_an_error_that_names_both_lengths) {
  for (const bool longer : {false, true}) {
    std::string why;
    run({.ranks = 2, .probe = {}}, [&](World& world) {
      std::vector<std::int64_t> values(longer ? 4 : 2);
      if (world.world_rank() == 0) {
        (void)world.wait(world.send(1, Channel::gather, {bytes_of(values)}), "mismatch",
                         kNoDeadline);
      } else {
        std::vector<std::int64_t> target(3, 77);
        const auto got = world.wait(world.receive(0, Channel::gather, {bytes_of(target)}),
                                    "mismatch", kNoDeadline);
        ASSERT_FALSE(got);
        EXPECT_EQ(got.error().code, Code::unrecoverable);
        why = got.error().why;
        EXPECT_EQ(target, (std::vector<std::int64_t>{77, 77, 77}))
            << "nothing may be copied before the check";
      }
    });
    EXPECT_EQ(why, longer ? "the message has 32 bytes, 24 expected"
                          : "the message has 16 bytes, 24 expected");
  }
}

TEST(Simulation, a_deadline_error_says_who_waits_for_whom_and_for_what) {
  std::optional<Error> error;
  Nanoseconds waited = 0;
  const auto report = run({.ranks = 3, .probe = {}}, [&](World& world) {
    if (world.world_rank() != 2) return;
    std::vector<std::int64_t> values(4);
    const Work work = world.receive(1, Channel::pipeline, {bytes_of(values)});
    const auto got = world.wait(work, "stage 3 forward", in(world, 250 * kMillisecond));
    ASSERT_FALSE(got);
    error = got.error();
    waited = world.clock().now();
    // Nothing is in flight after an error, and that is what later waits say.
    const auto again = world.wait(work, "again", in(world, kSecond));
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().what, error->what);
  });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code, Code::deadline);
  EXPECT_EQ(error->what, "rank 2 waited in vain for rank 1 in 'stage 3 forward'");
  EXPECT_EQ(error->where,
            "rank 2, receive from rank 1, channel pipeline, message 0, 32 bytes (0 arrived), "
            "generation 0");
  EXPECT_THAT(error->why, HasSubstr("0.250 s"));
  EXPECT_THAT(error->fix, HasSubstr("rank 1"));
  EXPECT_EQ(waited, 250 * kMillisecond);
  EXPECT_EQ(report.virtual_time, 250 * kMillisecond);
}

TEST(Simulation, a_large_send_waits_for_its_receiver_and_a_small_one_does_not) {
  run({.ranks = 2, .eager_bytes = 1000, .probe = {}}, [](World& world) {
    std::vector<std::int64_t> large(1000), small(10);
    if (world.world_rank() == 0) {
      EXPECT_TRUE(
          world.wait(world.send(1, Channel::control, {bytes_of(small)}), "small", in(world, 1)));
      EXPECT_TRUE(
          world.wait(world.send(1, Channel::reduce, {bytes_of(large)}), "large", kNoDeadline));
      EXPECT_GE(world.clock().now(), kSecond);
    } else {
      world.clock().sleep(kSecond);
      EXPECT_TRUE(
          world.wait(world.receive(0, Channel::reduce, {bytes_of(large)}), "large", kNoDeadline));
      EXPECT_TRUE(
          world.wait(world.receive(0, Channel::control, {bytes_of(small)}), "small", kNoDeadline));
    }
  });
}

TEST(Simulation, credits_bound_what_an_absent_receiver_must_hold) {
  run({.ranks = 2, .probe = {}}, [](World& world) {
    std::vector<std::vector<std::int64_t>> values(500, std::vector<std::int64_t>(1));
    std::vector<Work> works;
    if (world.world_rank() == 0) {
      for (auto& value : values) works.push_back(world.send(1, Channel::reduce, {bytes_of(value)}));
      world.clock().sleep(kSecond);
      const auto done = std::count_if(works.begin(), works.end(),
                                      [&](const Work& work) { return world.test(work); });
      EXPECT_EQ(done, 8);
      EXPECT_TRUE(world.wait(works.back(), "all", kNoDeadline));
    } else {
      world.clock().sleep(2 * kSecond);
      for (auto& value : values)
        EXPECT_TRUE(
            world.wait(world.receive(0, Channel::reduce, {bytes_of(value)}), "all", kNoDeadline));
    }
    EXPECT_TRUE(world.close(in(world, 10 * kSecond)));
  });
}

TEST(Simulation, a_deadlock_is_found_and_every_rank_named) {
  const auto report = simulate({.ranks = 3, .seed = 5, .probe = {}}, [](World& world) {
    std::vector<std::int64_t> values(1);
    if (world.world_rank() == 2) return;
    const Work work = world.receive(1 - world.world_rank(), Channel::control, {bytes_of(values)});
    (void)world.wait(work, world.world_rank() == 0 ? "left" : "right", kNoDeadline);
    ADD_FAILURE() << "came out of a deadlock";
  });
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, Code::unrecoverable);
  EXPECT_THAT(report.error().what, HasSubstr("deadlock"));
  EXPECT_THAT(report.error().where,
              HasSubstr("rank 0 in 'left' (receive from rank 1, channel control"));
  EXPECT_THAT(report.error().where,
              HasSubstr("rank 1 in 'right' (receive from rank 0, channel control"));
  EXPECT_THAT(report.error().where, HasSubstr("rank 2 has returned"));
}

TEST(Simulation, a_livelock_ends) {
  const auto report = simulate({.ranks = 2, .max_switches = 10'000, .probe = {}}, [](World& world) {
    std::vector<std::int64_t> values(1);
    const Work work = world.receive(1 - world.world_rank(), Channel::control, {bytes_of(values)});
    while (!world.test(work)) {
    }
  });
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().what, HasSubstr("livelock"));
}

TEST(Simulation, polling_makes_time_pass) {
  run({.ranks = 2, .probe = {}}, [](World& world) {
    std::vector<std::int64_t> values(1);
    const bool sends = world.world_rank() == 0;
    if (sends) world.clock().sleep(kMillisecond);
    const Work work = sends ? world.send(1, Channel::control, {bytes_of(values)})
                            : world.receive(0, Channel::control, {bytes_of(values)});
    while (!world.test(work)) {
    }
    EXPECT_GE(world.clock().now(), kMillisecond);
  });
}

TEST(Simulation, an_exception_that_leaves_a_rank_is_an_error_and_all_stacks_are_unwound) {
  int destroyed = 0;
  struct Witness {
    int& count;
    ~Witness() { ++count; }
  };
  const auto report = simulate({.ranks = 4, .seed = 2, .probe = {}}, [&](World& world) {
    const Witness witness{destroyed};
    world.clock().sleep(1000 * (1 + world.world_rank()));
    if (world.world_rank() == 1) throw std::runtime_error("the roof is on fire");
    std::vector<std::int64_t> values(1);
    (void)world.wait(world.receive(1, Channel::control, {bytes_of(values)}), "never", kNoDeadline);
    ADD_FAILURE() << "went on after the end";
  });
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, Code::bug);
  EXPECT_THAT(report.error().what, HasSubstr("rank 1"));
  EXPECT_EQ(report.error().why, "the roof is on fire");
  EXPECT_EQ(destroyed, 4);
}

// The runtime keeps caught and flying exceptions per thread; ranks share one. Each rank switches
// inside a handler and inside a destructor that runs during unwinding, and must find its own
// exceptions afterwards.
TEST(Simulation, exceptions_survive_switches) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed)
    run({.ranks = 6, .seed = seed, .probe = {}}, [](World& world) {
      struct SleepsInDestructor {
        World& world;
        ~SleepsInDestructor() {
          EXPECT_EQ(std::uncaught_exceptions(), 1);
          world.clock().sleep(700);
          EXPECT_EQ(std::uncaught_exceptions(), 1);
        }
      };
      for (int i = 0; i < 20; ++i) {
        const std::string text = std::to_string(world.world_rank() * 100 + i);
        try {
          const SleepsInDestructor witness{world};
          throw std::runtime_error(text);
        } catch (const std::runtime_error&) {
          EXPECT_EQ(std::uncaught_exceptions(), 0);
          world.clock().sleep(300 + i);
          try {
            throw;  // what std::current_exception finds must be this rank's
          } catch (const std::runtime_error& again) {
            world.clock().sleep(100);
            EXPECT_EQ(again.what(), text);
          }
        }
      }
    });
}

TEST(Simulation, probes_reach_the_hook_of_their_rank) {
  std::vector<std::vector<int>> hits(2, std::vector<int>(static_cast<std::size_t>(Point::count)));
  SimulationOptions options{.ranks = 2, .chunk_bytes = 100, .probe = {}};
  options.probe = [&](int world_rank) -> ProbeHook {
    return [&hits, world_rank](Point point) {
      ++hits[static_cast<std::size_t>(world_rank)][static_cast<std::size_t>(point)];
    };
  };
  run(options, [](World& world) {
    world.probe(Point::step_begin);
    std::vector<std::byte> bytes(250);
    const Work work = world.world_rank() == 0 ? world.send(1, Channel::state, {bytes})
                                              : world.receive(0, Channel::state, {bytes});
    EXPECT_TRUE(world.wait(work, "bytes", kNoDeadline));
  });
  EXPECT_EQ(hits[0][static_cast<std::size_t>(Point::step_begin)], 1);
  EXPECT_EQ(hits[0][static_cast<std::size_t>(Point::send_chunk)], 3);
  EXPECT_EQ(hits[1][static_cast<std::size_t>(Point::receive_chunk)], 3);
  EXPECT_EQ(hits[1][static_cast<std::size_t>(Point::send_chunk)], 0);
}

TEST(Simulation, close_reports_what_was_never_received) {
  int refused = 0;
  run({.ranks = 2, .eager_bytes = 0, .probe = {}}, [&](World& world) {
    std::vector<std::int64_t> values(3);
    if (world.world_rank() == 0) (void)world.send(1, Channel::state, {bytes_of(values)});
    const auto closed = world.close(in(world, kSecond));
    if (!closed) ++refused;
  });
  EXPECT_GE(refused, 1);
}

}  // namespace
}  // namespace elaswave::comm
