// Membership's start and end with ranks as threads of one process, over real TCP: so that
// ThreadSanitizer sees agent threads and step loops together. Failures of processes are
// tests/mpi/agent_tcp_test.cpp's.
#include "elastic/member/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/pair_world.h"
#include "tests/support/temp_dir.h"

namespace elaswave::member {
namespace {

using ::elaswave::testing::PairMesh;
using ::elaswave::testing::PairWorld;
using ::elaswave::testing::TempDir;
using ::testing::HasSubstr;

using Started = Result<std::unique_ptr<Membership>>;

/// Starts every rank with its own options and calls `then` on each rank's thread.
void with_ranks(int ranks, const std::function<MembershipOptions(int)>& options,
                const std::function<void(PairWorld&, Started)>& then) {
  PairMesh mesh(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      PairWorld world(mesh, rank);
      then(world, Membership::start(world, options(rank)));
    });
  for (auto& thread : threads) thread.join();
}

void expect_quiet(PairWorld& world, Membership& membership) {
  EXPECT_EQ(membership.board().newest().view.generation, Generation{});
  EXPECT_EQ(membership.board().fenced(), std::nullopt);
  EXPECT_EQ(world.published(), Generation{});
}

TEST(Membership, NothingHappensWhileEverybodyIsThereAndWhenEverybodyLeaves) {
  // Long enough for a loaded machine not to be a failure.
  with_ranks(
      8, [](int) { return MembershipOptions{.heartbeat = 20 * kMillisecond, .run = 5}; },
      [](PairWorld& world, Started started) {
        ASSERT_TRUE(started) << started.error().text();
        world.clock().sleep(500 * kMillisecond);
        expect_quiet(world, **started);
        world.clock().sleep(20 * kMillisecond * world.world_rank());  // they do not leave at once
        const Nanoseconds begin = world.clock().now();
        (*started)->leave();
        (*started)->leave();
        EXPECT_LT(world.clock().now() - begin, 3 * kSecond);
        EXPECT_EQ((*started)->board().fenced(), std::nullopt);
      });
}

TEST(Membership, ALiveAgentAnswersForItselfWhenAccused) {
  with_ranks(
      3, [](int) { return MembershipOptions{.heartbeat = 20 * kMillisecond}; },
      [](PairWorld& world, Started started) {
        ASSERT_TRUE(started) << started.error().text();
        if (world.world_rank() == 0) (*started)->accuse(1);
        world.clock().sleep(500 * kMillisecond);
        expect_quiet(world, **started);
        world.clock().sleep(200 * kMillisecond);  // nobody leaves before all have looked
      });
}

/// What leave_now was called with; 0: not yet.
std::atomic<int>& left_with() {
  static std::atomic<int> code = 0;
  return code;
}

TEST(Membership, WhoStandsStillOutsideOfAWaitIsEnded) {
  constexpr Nanoseconds kHang = kSecond;
  left_with() = 0;
  std::atomic<int> judged = 0;
  with_ranks(
      2,
      [](int) {
        return MembershipOptions{.hang = kHang,
                                 .leave_now = [](int code) noexcept { left_with() += code; }};
      },
      [&](PairWorld& world, Started started) {
        ASSERT_TRUE(started) << started.error().text();
        const auto work = [&](Nanoseconds time) {
          for (const Nanoseconds end = world.clock().now() + time; world.clock().now() < end;) {
            world.recorder().compute.add({.begin = 1, .end = 2});
            world.clock().sleep(5 * kMillisecond);
          }
        };
        // Not judged yet: it may stand still for as long as it likes.
        world.clock().sleep(3 * kHang / 2);
        EXPECT_EQ(left_with(), 0);
        work(100 * kMillisecond);
        (*started)->judge(Judged::yes);
        ++judged;
        while (judged < 2) work(20 * kMillisecond);
        work(2 * kHang);
        EXPECT_EQ(left_with(), 0);  // nobody does
        ++judged;
        while (judged < 4) work(20 * kMillisecond);
        if (world.world_rank() == 1) {
          while (left_with() == 0) world.clock().sleep(5 * kMillisecond);
        } else {
          while (left_with() == 0) work(20 * kMillisecond);
        }
        EXPECT_EQ(left_with(), 70);  // one of them
      });
}

TEST(Membership, OneRankAloneIsAMember) {
  with_ranks(
      1, [](int) { return MembershipOptions{}; },
      [](PairWorld& world, Started started) {
        ASSERT_TRUE(started) << started.error().text();
        world.clock().sleep(50 * kMillisecond);
        expect_quiet(world, **started);
      });
}

TEST(Membership, ClaimsDecideOnlyInADirectoryThatAllRanksSee) {
  const TempDir shared, own;
  const auto claims = [](const std::function<std::string(int)>& directory) {
    int with = 0;
    std::mutex mutex;
    with_ranks(
        4, [&](int rank) { return MembershipOptions{.claim_directory = directory(rank)}; },
        [&](PairWorld&, Started started) {
          ASSERT_TRUE(started) << started.error().text();
          const std::lock_guard lock(mutex);
          with += (*started)->claims() ? 1 : 0;
        });
    return with;
  };
  EXPECT_EQ(claims([&](int) { return shared / "claims"; }), 4);  // made where it is missing
  EXPECT_EQ(claims([&](int) { return shared / "claims"; }), 4);  // a later run, the same place
  EXPECT_EQ(claims([](int) { return ""; }), 0);
  EXPECT_EQ(claims([&](int rank) { return rank == 2 ? own.path() : shared.path(); }), 0);
  EXPECT_EQ(claims([&](int rank) { return rank == 0 ? "/dev/null/none" : shared.path(); }), 0);
  EXPECT_EQ(claims([&](int rank) { return rank == 3 ? "" : shared.path(); }), 0);
}

TEST(Membership, AWrongInterfaceIsAnErrorOnEveryRank) {
  with_ranks(
      3, [](int rank) { return MembershipOptions{.interface = rank == 1 ? "nosuch0" : ""}; },
      [](PairWorld& world, Started started) {
        ASSERT_FALSE(started);
        const std::string text = started.error().text();
        EXPECT_THAT(text, HasSubstr(world.world_rank() == 1 ? "nosuch0" : "rank 1"));
      });
}

TEST(Membership, AnInterfaceMayBeNamedByItsAddress) {
  with_ranks(
      2, [](int) { return MembershipOptions{.interface = "127.0.0.1"}; },
      [](PairWorld& world, Started started) {
        ASSERT_TRUE(started) << started.error().text();
        world.clock().sleep(200 * kMillisecond);
        expect_quiet(world, **started);
        world.clock().sleep(100 * kMillisecond);
      });
}

TEST(Membership, RanksOfDifferentRunsDoNotStart) {
  with_ranks(
      3, [](int rank) { return MembershipOptions{.run = rank == 2 ? 8u : 7u}; },
      [](PairWorld&, Started started) {
        ASSERT_FALSE(started);
        EXPECT_THAT(started.error().text(), HasSubstr("rank 2"));
      });
}

}  // namespace
}  // namespace elaswave::member
