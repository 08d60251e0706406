// Agents of real processes over real TCP: killed, stopped, let go on, disturbed by strangers.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <numeric>

#include "tests/mpi/agent_tcp_testing.h"
#include "tests/support/temp_dir.h"

namespace elaswave::member::test {
namespace {

using ::elaswave::testing::TempDir;

// Longer than a loaded machine delays a process in general, short enough for a test.
constexpr Nanoseconds kSilence = 1500 * kMillisecond;

Ranks range(int begin, int end) {
  Ranks ranks(static_cast<std::size_t>(end - begin));
  std::iota(ranks.begin(), ranks.end(), begin);
  return ranks;
}

RankOptions options_with(Nanoseconds silence, const std::string& claims = "",
                         Nanoseconds patience = 30 * kSecond) {
  return {.membership = {.heartbeat = 100 * kMillisecond,
                         .silence = silence,
                         .patience = patience,
                         .claim_directory = claims}};
}

/// For faults that are seen without silence: none may be voted out by a scheduling delay.
RankOptions patient(int) {
  return options_with(20 * kSecond);
}

double ms(Nanoseconds duration) {
  return static_cast<double>(duration) / 1e6;
}

TEST(AgentTcp, AKilledRankIsVotedOut) {
  for (const int victim : {0, 3, 7}) {
    Fleet fleet(8, patient);
    fleet.watch(300 * kMillisecond);
    Ranks rest = range(0, 8);
    std::erase(rest, victim);
    const Nanoseconds killed = fleet.now();
    fleet.kill(victim);
    const Nanoseconds last = fleet.await_view(rest, rest);
    Nanoseconds suspected = last;
    for (const int rank : rest)
      if (fleet.suspected_at(rank) > 0) suspected = std::min(suspected, fleet.suspected_at(rank));
    std::printf("8 agents, rank %d killed: first suspicion after %.1f ms, last install %.1f ms\n",
                victim, ms(suspected - killed), ms(last - killed));
  }
}

TEST(AgentTcp, OneAfterTheOtherDownToOne) {
  Fleet fleet(8, patient);
  const Ranks order = {0, 5, 7, 1, 6, 2, 4};
  Ranks rest = range(0, 8);
  for (const int victim : order) {
    fleet.kill(victim);
    std::erase(rest, victim);
    fleet.await_view(rest, rest);
  }
  for (const int rank : rest) EXPECT_FALSE(fleet.fenced(rank));
}

TEST(AgentTcp, HalfOfThemKilledAtOnce) {
  Fleet fleet(8, patient);
  fleet.watch(300 * kMillisecond);
  const Nanoseconds killed = fleet.now();
  for (const int victim : {0, 1, 2, 3}) fleet.kill(victim);
  const Nanoseconds last = fleet.await_view(range(4, 8), range(4, 8));
  std::printf("8 agents, ranks 0 to 3 killed: last install after %.1f ms\n", ms(last - killed));
}

TEST(AgentTcp, AStoppedRankIsVotedOutAfterTheSilenceAndFencesItself) {
  Fleet fleet(8, [](int) { return options_with(kSilence); });
  fleet.watch(300 * kMillisecond);
  const Ranks rest = {0, 1, 3, 4, 5, 6, 7};
  const Nanoseconds stopped = fleet.now();
  fleet.stop(2);
  const Nanoseconds last = fleet.await_view(rest, rest);
  EXPECT_GT(last - stopped, kSilence / 2);
  fleet.go_on(2);
  EXPECT_TRUE(fleet.await_fenced(2));
  EXPECT_EQ(fleet.exit_status(2), 7);
  for (const int rank : rest) {
    EXPECT_FALSE(fleet.fenced(rank));
    EXPECT_EQ(fleet.generation(rank), 1u) << "whoever comes back disturbs nobody";
  }
}

TEST(AgentTcp, AFencedProcessThatDoesNotLeaveIsEnded) {
  Fleet fleet(3, [](int rank) {
    RankOptions options = options_with(kSilence);
    options.heeds_fence = rank != 1;
    options.membership.leave_now = [](int code) noexcept { _exit(code); };
    return options;
  });
  fleet.stop(1);
  fleet.await_view({0, 2}, {0, 2});
  fleet.go_on(1);
  EXPECT_EQ(fleet.exit_status(1), 7);
  EXPECT_FALSE(fleet.fenced(1)) << "it left by itself, which was not the test";
}

TEST(AgentTcp, OfTwoTheOneWithTheClaimGoesOn) {
  const TempDir directory;
  Fleet fleet(4, [&](int) { return options_with(kSilence, directory / "claims"); });
  fleet.kill(3);
  fleet.await_view({0, 1, 2}, {0, 1, 2});
  fleet.kill(2);
  fleet.await_view({0, 1}, {0, 1});
  fleet.stop(0);  // the lowest: without claims the other half would have to give up
  fleet.await_view({1}, {1});
  fleet.go_on(0);
  EXPECT_TRUE(fleet.await_fenced(0));
  EXPECT_EQ(fleet.exit_status(0), 7);
  EXPECT_FALSE(fleet.fenced(1));
}

TEST(AgentTcp, WithoutClaimsTheHalfWithTheLowestRankGoesOn) {
  Fleet fleet(2, [](int) { return options_with(kSilence, "", 3 * kSecond); });
  fleet.stop(1);
  fleet.await_view({0}, {0});
  fleet.go_on(1);
  EXPECT_TRUE(fleet.await_fenced(1));
  EXPECT_FALSE(fleet.fenced(0));
}

TEST(AgentTcp, WithoutClaimsTheOtherHalfGivesUp) {
  Fleet fleet(2, [](int) { return options_with(kSilence, "", 3 * kSecond); });
  fleet.stop(0);
  EXPECT_TRUE(fleet.await_fenced(1));  // it cannot know
  EXPECT_EQ(fleet.exit_status(1), 7);
  EXPECT_EQ(fleet.generation(1), 0u);
}

TEST(AgentTcp, StrangersAtThePortsChangeNothingAndAllLeaveInOrder) {
  Fleet fleet(4, patient);
  std::vector<int> strangers;
  for (int i = 0; i < 200; ++i) {
    const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(fleet.port(i % 4));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(descriptor, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    std::string bytes(static_cast<std::size_t>(i * 7), '\0');
    for (std::size_t j = 0; j < bytes.size(); ++j)
      bytes[j] = static_cast<char>((j * j + static_cast<std::size_t>(i)) * 2654435761u >> 13);
    (void)!::send(descriptor, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (i % 3 == 0) {
      ::close(descriptor);
    } else {
      strangers.push_back(descriptor);
    }
  }
  fleet.watch(kSecond);
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(fleet.generation(rank), 0u);
  for (const int descriptor : strangers) ::close(descriptor);
  const Nanoseconds begin = fleet.now();
  fleet.end();
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(fleet.exit_status(rank), 0) << fleet.text();
  EXPECT_LT(fleet.now() - begin, 10 * kSecond);
}

}  // namespace
}  // namespace elaswave::member::test
