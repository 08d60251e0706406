// One rank of a ring stops itself (SIGSTOP: its process is there and answers nothing). Every other
// rank must name it, with step and action, when its deadline has passed. The survivors then enter a
// new generation to count their failures; rank 0 ends the stopped process and prints the verdict
// that CTest looks for, as in world_mpi_abort_test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "parallel/comm/group.h"
#include "parallel/comm/world_mpi.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;

constexpr Nanoseconds kTimeout = 3 * kSecond;
constexpr std::int64_t kLastStep = 13;

Deadline in(World& world, Nanoseconds duration) {
  return Deadline::after(world.clock(), duration);
}

/// A token goes round once a step, from rank 0; `stopper` stops in the last step.
Result<void> ring(World& world, int stopper) {
  const int n = world.size(), me = world.world_rank();
  std::vector<std::byte> token(1000);
  auto pass_on = [&] {
    return world.wait(world.send((me + 1) % n, Channel::pipeline, {token}), "send activation",
                      in(world, kTimeout));
  };
  for (std::int64_t step = 1; step <= kLastStep + 1; ++step) {
    world.set_activity({Step{step}, "1F" + std::to_string(me)});
    if (me == stopper && step == kLastStep) raise(SIGSTOP);
    if (me == 0) EW_TRY(pass_on());
    EW_TRY(world.wait(world.receive((me + n - 1) % n, Channel::pipeline, {token}),
                      "receive activation", in(world, kTimeout)));
    if (me != 0) EW_TRY(pass_on());
  }
  return {};
}

void check_error(const Error& error, int me, int stopper, int n) {
  const std::string text = error.text();
  EXPECT_EQ(exit_code(error.code), 6);
  EXPECT_THAT(text, HasSubstr("rank " + std::to_string(me) + " waited in vain for rank"));
  EXPECT_THAT(text, HasSubstr("1F" + std::to_string(me)));
  EXPECT_THAT(text, HasSubstr("rank " + std::to_string(stopper) + " has not been heard of"));
  EXPECT_THAT(text, HasSubstr("see what rank " + std::to_string(stopper) + " was doing"));
  const int behind = (stopper + 1) % n;
  if (me == behind) {
    EXPECT_THAT(text, HasSubstr("step 13, 1F" + std::to_string(me)));
  } else {
    EXPECT_THAT(text, HasSubstr("rank " + std::to_string(behind) + " waits for rank " +
                                std::to_string(stopper) + " in 1F" + std::to_string(behind) +
                                " (receive activation, pipeline, step 13"));
  }
}

TEST(WorldMpiHang, everybody_names_the_stopped_rank) {
  auto made = make_mpi_world({.probe = {}, .checksum = false});
  ASSERT_TRUE(made) << made.error().text();
  World& world = **made;
  const int n = world.size(), me = world.world_rank(), stopper = n / 2;
  std::vector<std::int64_t> pids(static_cast<std::size_t>(n));
  const std::int64_t pid = getpid();
  ASSERT_TRUE(all_gather(world, everyone(world), std::as_bytes(std::span(&pid, 1)),
                         std::as_writable_bytes(std::span(pids)), "pids", in(world, 20 * kSecond)));
  const auto done = ring(world, stopper);
  EXPECT_FALSE(done);
  if (!done) {
    check_error(done.error(), me, stopper, n);
    if (me == 0) std::fprintf(stderr, "%s\n", done.error().text().c_str());
  }
  test::enter_view(world, Generation{1});
  Group survivors = everyone(world);
  std::erase(survivors.world_ranks, stopper);
  std::int64_t failures = HasFailure() ? 1 : 0;
  const auto counted =
      all_reduce_sum(world, survivors, {&failures, 1}, "count", in(world, 20 * kSecond));
  EXPECT_TRUE(counted) << counted.error().text();
  if (me == 0) {
    kill(static_cast<pid_t>(pids[static_cast<std::size_t>(stopper)]), SIGKILL);
    std::printf("%lld failures on %d ranks\n",
                static_cast<long long>(failures + (HasFailure() && failures == 0)), n);
    std::fflush(stdout);
  }
  made->reset();
}

}  // namespace
}  // namespace elaswave::comm

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  std::fflush(nullptr);
  _exit(failed);
}
