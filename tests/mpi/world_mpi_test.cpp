// The world over MPI: the same traffic as in the simulation, between real processes. Runs at
// several rank counts; every rank runs every test in the same order.
#include "parallel/comm/world_mpi.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <vector>

#include "parallel/comm/group.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

std::unique_ptr<World>& world_slot() {
  static std::unique_ptr<World> world;
  return world;
}
World& world() {
  return *world_slot();
}

Deadline in(Nanoseconds duration) {
  return Deadline::after(world().clock(), duration);
}

TEST(WorldMpi, small_messages_of_all_channels) {
  const auto done = test::random_traffic(
      world(), {.seed = 1, .rounds = 5, .messages = 30 * world().size(), .chunk_bytes = 200});
  EXPECT_TRUE(done) << done.error().text();
}

TEST(WorldMpi, sizes_around_the_control_chunk) {
  const auto done = test::random_traffic(
      world(), {.seed = 2, .messages = 8 * world().size(), .chunk_bytes = (16 << 10) - 64});
  EXPECT_TRUE(done) << done.error().text();
}

TEST(WorldMpi, sizes_around_the_large_chunk) {
  const auto done = test::random_traffic(
      world(),
      {.seed = 3, .rounds = 2, .messages = 6, .chunk_bytes = (4 << 20) - 64, .largest_chunks = 4});
  EXPECT_TRUE(done) << done.error().text();
}

TEST(WorldMpi, collectives_are_exact_in_random_groups) {
  const auto small = test::random_collectives(world(), 4, 20, 50);
  EXPECT_TRUE(small) << small.error().text();
  const auto large = test::random_collectives(world(), 5, 3, 100'000);
  EXPECT_TRUE(large) << large.error().text();
}

TEST(WorldMpi, sixty_four_megabytes_both_ways) {
  const int last = world().size() - 1;
  const bool takes_part = world().world_rank() == 0 || world().world_rank() == last;
  if (last == 0 || !takes_part) return;
  const int peer = last - world().world_rank();
  std::vector<std::uint64_t> out((64 << 20) / 8), in_words(out.size(), ~std::uint64_t{0});
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = mix64(i + static_cast<std::size_t>(world().world_rank()));
  const Work receive =
      world().receive(peer, Channel::state, {std::as_writable_bytes(std::span(in_words))});
  const Work send = world().send(peer, Channel::state, {std::as_bytes(std::span(out))});
  ASSERT_TRUE(world().wait(send, "large send", in(60 * kSecond)));
  ASSERT_TRUE(world().wait(receive, "large receive", in(60 * kSecond)));
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < out.size(); ++i)
    wrong += in_words[i] != mix64(i + static_cast<std::size_t>(peer));
  EXPECT_EQ(wrong, 0u);
}

// The others tell that they wait, then that they no longer do; most notes are never read, and the
// close at the end of all tests must not mind.
TEST(WorldMpi, a_long_wait_that_ends_well_leaves_nothing_behind) {
  if (world().world_rank() == 0) world().clock().sleep(1500 * kMillisecond);
  std::int64_t one = 1;
  ASSERT_TRUE(all_reduce_sum(world(), everyone(world()), {&one, 1}, "late", in(5 * kSecond)));
  EXPECT_EQ(one, world().size());
  const auto done = test::random_traffic(
      world(), {.seed = 6, .rounds = 2, .messages = 10 * world().size(), .chunk_bytes = 200});
  EXPECT_TRUE(done) << done.error().text();
}

TEST(WorldMpi, a_sender_far_ahead_is_throttled_and_nothing_is_lost) {
  const int n = world().size(), me = world().world_rank();
  std::vector<std::int64_t> out(2000), in_values(2000, -1);
  std::vector<Work> works;
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = me * 10'000 + static_cast<std::int64_t>(i);
    works.push_back(world().send((me + 1) % n, Channel::reduce,
                                 {std::as_bytes(std::span(out)).subspan(i * 8, 8)}));
  }
  if (me % 2 == 0) world().clock().sleep(20 * kMillisecond);
  for (std::size_t i = 0; i < out.size(); ++i)
    works.push_back(
        world().receive((me + n - 1) % n, Channel::reduce,
                        {std::as_writable_bytes(std::span(in_values)).subspan(i * 8, 8)}));
  for (const Work& work : works) ASSERT_TRUE(world().wait(work, "flood", in(60 * kSecond)));
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT_EQ(in_values[i], (me + n - 1) % n * 10'000 + static_cast<std::int64_t>(i));
}

TEST(WorldMpi, testing_without_waiting_gets_there) {
  const int n = world().size(), me = world().world_rank();
  std::int64_t out = me, in_value = -1;
  const Work receive = world().receive((me + n - 1) % n, Channel::pipeline,
                                       {std::as_writable_bytes(std::span(&in_value, 1))});
  const Work send =
      world().send((me + 1) % n, Channel::pipeline, {std::as_bytes(std::span(&out, 1))});
  const Deadline deadline = in(60 * kSecond);
  while (!(world().test(send) && world().test(receive)) && !deadline.passed(world().clock()))
    world().clock().sleep(100'000);
  ASSERT_TRUE(world().test(receive));
  EXPECT_EQ(in_value, (me + n - 1) % n);
}

}  // namespace
}  // namespace elaswave::comm

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto world = elaswave::comm::make_mpi_world({.probe = {}, .checksum = true});
  if (!world) {
    std::fprintf(stderr, "%s\n", world.error().text().c_str());
    return 1;
  }
  auto& slot = elaswave::comm::world_slot();
  slot = std::move(*world);
  const int failed = RUN_ALL_TESTS();
  const auto closed = slot->close(elaswave::Deadline::after(slot->clock(), 30 * elaswave::kSecond));
  if (!closed) std::fprintf(stderr, "%s\n", closed.error().text().c_str());
  slot.reset();
  return failed != 0 || !closed;
}
