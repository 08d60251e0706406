// New views in the simulated world and in the world of one rank: what a published view ends, and
// what the next generation finds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "io/base/hash.h"
#include "parallel/comm/simulation.h"
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

TEST(SimulationView, a_published_view_aborts_the_step_and_the_next_generation_starts_clean) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    int aborted = 0;
    run({.ranks = 4,
         .seed = seed,
         .eager_bytes = seed % 2 ? 0 : 4096,
         .chunk_bytes = 96,
         .probe = {}},
        [&](World& world) {
          const Nanoseconds end = 20'000 + static_cast<Nanoseconds>(mix64(seed) % 200'000);
          auto patience = std::vector<std::int64_t>(300, -1);
          try {
            for (int i = 0;; ++i) {
              if (world.clock().now() >= end) world.publish_view(Generation{1});
              const auto done =
                  test::random_traffic(world, {.seed = seed + static_cast<std::uint64_t>(i) * 1000,
                                               .rounds = 1,
                                               .messages = 12,
                                               .chunk_bytes = 96,
                                               .patience = kSecond});
              if (!done) {  // a peer may have left for the next view; the publication ends the wait
                            // in a real run
                EXPECT_EQ(done.error().code, Code::deadline);
                world.publish_view(Generation{1});
              }
            }
          } catch (const StepAborted& abort) {
            EXPECT_EQ(abort.generation(), Generation{1});
            ++aborted;
          }
          test::enter_view(world, Generation{1});
          EXPECT_EQ(world.generation(), Generation{1});
          const auto done = test::random_traffic(world, {.seed = seed + 1, .chunk_bytes = 96});
          EXPECT_TRUE(done) << "seed " << seed << "\n" << done.error().text();
          const auto collected = test::random_collectives(world, seed, 2, 50);
          EXPECT_TRUE(collected) << collected.error().text();
        });
    EXPECT_EQ(aborted, 4);
  }
}

TEST(SimulationView, after_an_abort_the_transport_leaves_memory_alone) {
  run({.ranks = 2, .probe = {}}, [](World& world) {
    std::vector<std::int64_t> values(100, 5);
    if (world.world_rank() == 0) {
      world.clock().sleep(kMillisecond);
      values.assign(100, 9);
      EXPECT_TRUE(
          world.wait(world.send(1, Channel::state, {bytes_of(values)}), "late", kNoDeadline));
      return;
    }
    const Work work = world.receive(0, Channel::state, {bytes_of(values)});
    world.publish_view(Generation{7});
    EXPECT_THROW((void)world.wait(work, "aborted", kNoDeadline), StepAborted);
    EXPECT_THROW((void)world.wait(Work(), "still aborted", kNoDeadline), StepAborted);
    test::enter_view(world, Generation{7});
    world.clock().sleep(kSecond);
    EXPECT_EQ(values, std::vector<std::int64_t>(100, 5));
    const auto old = world.wait(work, "an old work", kNoDeadline);
    ASSERT_FALSE(old);
    EXPECT_THAT(old.error().what, HasSubstr("given up"));
  });
}

// A failure found in a chunk ends the generation while that chunk is being handled.
TEST(SimulationView, a_generation_that_ended_in_disagreement_is_drained) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const auto report = run(
        {.ranks = 3, .seed = seed, .eager_bytes = 0, .chunk_bytes = 48, .probe = {}},
        [&](World& world) {
          const int n = world.size(), me = world.world_rank();
          std::vector<std::byte> out(200), target(201);
          const Work send = world.send((me + 1) % n, Channel::gather, {out});
          const auto got = world.wait(world.receive((me + n - 1) % n, Channel::gather, {target}),
                                      "mismatch", in(world, kSecond));
          EXPECT_FALSE(got);
          (void)send;
          test::enter_view(world, Generation{1});
          EXPECT_TRUE(test::random_traffic(world, {.seed = seed, .chunk_bytes = 48}));
          const auto closed = world.close(in(world, kSecond));
          EXPECT_TRUE(closed) << closed.error().text();
        });
    EXPECT_EQ(report.undrained, 0);
    EXPECT_EQ(report.lent_bytes, 0);
  }
}

TEST(SoloWorld, sends_to_itself) {
  const auto world = make_solo_world({});
  const auto done = test::random_traffic(*world, {.seed = 4});
  EXPECT_TRUE(done) << done.error().text();
  const auto collected = test::random_collectives(*world, 9, 5, 50);
  EXPECT_TRUE(collected) << collected.error().text();
  EXPECT_TRUE(world->close(in(*world, kSecond)));
}

TEST(SoloWorld, does_not_wait_for_what_cannot_come) {
  const auto world = make_solo_world({});
  std::vector<std::int64_t> values(1);
  const auto got = world->wait(world->receive(0, Channel::control, {bytes_of(values)}), "alone",
                               in(*world, 3600 * kSecond));
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, Code::deadline);
}

TEST(SoloWorld, a_published_view_aborts) {
  const auto world = make_solo_world({});
  world->publish_view(Generation{2});
  EXPECT_THROW((void)world->wait(Work(), "any", kNoDeadline), StepAborted);
  test::enter_view(*world, Generation{2});
  EXPECT_EQ(world->generation(), Generation{2});
  EXPECT_TRUE(world->wait(Work(), "any", kNoDeadline));
}

}  // namespace
}  // namespace elaswave::comm
