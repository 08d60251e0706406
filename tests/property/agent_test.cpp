// Agents: every oracle of agent_network.h after every event, over every kill, pair of kills, kill
// at a message, partition and stop of small worlds.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "elastic/member/agent_quorum.h"
#include "tests/support/agent_network.h"

namespace elaswave::member {
namespace {

constexpr std::int32_t kMost = 8;

bool long_run() {
  return std::getenv("ELASWAVE_LONG") != nullptr;
}

AgentNetwork::Options options(std::int32_t n, std::uint64_t seed, bool claims) {
  return {.world_size = n, .seed = seed, .claims = claims};
}

/// Runs until every live rank is in the view of the live ranks, then for longer than any reaction
/// takes, to see that it stays so. Returns whether it did.
testing::AssertionResult settles(AgentNetwork& net, Nanoseconds within) {
  const Nanoseconds end = net.now() + within;
  while (net.now() < end && !net.settled() && net.fault().empty()) net.run_for(20 * kMs);
  if (net.fault().empty() && net.settled()) net.run_for(300 * kMs);
  if (!net.fault().empty()) return testing::AssertionFailure() << net.fault();
  if (net.settled()) return testing::AssertionSuccess();
  auto failure = testing::AssertionFailure() << "not settled at " << net.now() / kMs << " ms:";
  for (const std::int32_t rank : net.live_ranks()) failure << "\n  " << net.agent(rank).text();
  return failure;
}

struct Tally {
  std::int64_t runs = 0, events = 0, messages = 0, forgotten = 0;
  void add(const AgentNetwork& net) {
    ++runs;
    events += net.events();
    messages += net.messages();
    forgotten += net.forgotten();
  }
  void print(std::string_view what) const {
    fmt::print("campaign: agent {}: {} runs, {} events, {} messages\n", what, runs, events,
               messages);
  }
};

TEST(Agent, StartsAndStaysWhenNothingFails) {
  Tally tally;
  for (std::int32_t n = 1; n <= kMost; ++n)
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      AgentNetwork net(options(n, seed, false));
      net.run_for(5000 * kMs);
      ASSERT_TRUE(net.settled());
      ASSERT_EQ(net.installs(), 0);
      tally.add(net);
    }
  tally.print("without faults");
}

TEST(Agent, EqualSeedsGiveEqualRuns) {
  const auto run = [](std::uint64_t seed) {
    AgentNetwork net(options(6, seed, true));
    net.run_for(40 * kMs);
    net.kill(2);
    net.run_for(4 * kMs);
    net.kill(0);
    net.run_for(500 * kMs);
    return net.trace();
  };
  EXPECT_EQ(run(5), run(5));
  EXPECT_NE(run(5), run(6));
}

TEST(Agent, AnySetOfRanksDiesAtOnce) {
  Tally tally;
  for (std::int32_t n = 2; n <= kMost; ++n)
    for (std::uint32_t victims = 1; victims + 1 < (1u << n); ++victims)
      for (const bool claims : {false, true}) {
        const std::uint64_t seed = victims * 16 + static_cast<std::uint64_t>(n) * 2 + claims;
        AgentNetwork net(options(n, seed, claims));
        net.run_for(20 * kMs);
        for (std::int32_t rank = 0; rank < n; ++rank)
          if ((victims >> rank & 1) != 0) net.kill(rank);
        ASSERT_TRUE(settles(net, 4000 * kMs)) << "n " << n << " victims " << victims;
        ASSERT_EQ(static_cast<int>(net.evicted().size()), std::popcount(victims));
        tally.add(net);
      }
  tally.print("sets killed at once");
}

TEST(Agent, AnyTwoDieShortlyAfterEachOther) {
  Tally tally;
  const int times = long_run() ? 100 : 12;
  for (std::int32_t n = 2; n <= kMost; ++n)
    for (std::int32_t first = 0; first < n; ++first)
      for (std::int32_t second = 0; second < n; ++second)
        for (int time = 0; time < times && first != second; ++time) {
          const auto seed =
              static_cast<std::uint64_t>(((n * 8 + first) * 8 + second) * times + time);
          AgentNetwork net(options(n, seed, time % 2 == 1));
          net.run_for(20 * kMs);
          net.kill(first);
          net.run_for(25 * kMs * time / times);
          net.kill(second);
          ASSERT_TRUE(settles(net, 4000 * kMs))
              << "n " << n << ": " << first << ", " << second << ", time " << time;
          tally.add(net);
        }
  tally.print("pairs killed");
}

TEST(Agent, DiesWithAnyMessage) {
  Tally tally;
  std::int64_t fired = 0;
  const Kind kinds[] = {Kind::hello, Kind::suspect, Kind::prepare, Kind::accept,
                        Kind::echo,  Kind::decide,  Kind::stale,   Kind::heartbeat};
  for (std::int32_t n = 2; n <= kMost; ++n)
    for (const Kind kind : kinds)
      for (std::int32_t count = 1; count <= (long_run() ? 60 : 12); ++count)
        for (const bool receiver : {false, true}) {
          const auto seed = static_cast<std::uint64_t>(count * 64 + n * 4 + receiver);
          AgentNetwork net(options(n, seed, count % 2 == 0));
          if (kind != Kind::hello) net.run_for(20 * kMs);
          net.arm({kind, count, receiver});
          net.kill(static_cast<std::int32_t>(seed) % n);
          net.run_for(200 * kMs);
          ASSERT_TRUE(settles(net, 8000 * kMs))
              << "n " << n << " kind " << static_cast<int>(kind) << " count " << count;
          fired += net.triggered() ? 1 : 0;
          tally.add(net);
        }
  tally.print("killed with a message");
  fmt::print("campaign: agent killed with a message: {} second kills\n", fired);
  EXPECT_GT(fired, 500);
}

/// Whoever is cut off in the middle of a ballot may have decided it: the others find out, whatever
/// they would rather decide.
TEST(Agent, IsCutOffWithAnyMessage) {
  Tally tally;
  for (std::int32_t n = 3; n <= kMost; ++n)
    for (const Kind kind : {Kind::prepare, Kind::accept, Kind::echo, Kind::decide})
      for (std::int32_t count = 1; count <= (long_run() ? 60 : 16); ++count) {
        auto given = options(n, static_cast<std::uint64_t>(count * 64 + n * 4), count % 2 == 0);
        given.silence = 600 * kMs;
        given.patience = 3000 * kMs;
        AgentNetwork net(given);
        net.run_for(20 * kMs);
        net.arm({.kind = kind, .count = count, .cut_off = true});
        net.kill(n - 1 - count % n);
        net.run_for(count % 3 == 0 ? 30 * kMs : 2000 * kMs);
        for (std::int32_t a = 0; a < n; ++a)
          for (std::int32_t b = a + 1; b < n; ++b) net.heal(a, b);
        ASSERT_TRUE(settles(net, 8000 * kMs))
            << "n " << n << " kind " << static_cast<int>(kind) << " count " << count;
        tally.add(net);
      }
  tally.print("cut off with a message");
}

TEST(Agent, DownToOne) {
  Tally tally;
  for (std::int32_t n = 2; n <= kMost; ++n)
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      AgentNetwork net(options(n, seed, seed % 2 == 1));
      Dice dice(seed + 77);
      net.run_for(20 * kMs);
      while (net.live_ranks().size() > 1) {
        const auto live = net.live_ranks();
        net.kill(
            live[static_cast<std::size_t>(dice.below(static_cast<std::int64_t>(live.size())))]);
        ASSERT_TRUE(settles(net, 4000 * kMs)) << "n " << n << " seed " << seed;
      }
      tally.add(net);
    }
  tally.print("killed one by one");
}

/// Every split in two, for good or healed, with links that end or only fall silent.
TEST(Agent, Partitions) {
  Tally tally;
  for (std::int32_t n = 2; n <= (long_run() ? kMost : 6); ++n)
    for (std::uint32_t side = 1; side + 1 < (1u << n); side += 2)  // rank 0 is on it
      for (int variant = 0; variant < 8; ++variant) {
        const bool claims = (variant & 1) != 0, heals = (variant & 2) != 0;
        auto given = options(n, side * 8 + static_cast<std::uint64_t>(variant), claims);
        given.silence = 1000 * kMs;
        given.patience = 5000 * kMs;
        AgentNetwork net(given);
        net.run_for(20 * kMs);
        for (std::int32_t a = 0; a < n; ++a)
          for (std::int32_t b = a + 1; b < n; ++b) {
            if ((side >> a & 1) == (side >> b & 1)) continue;
            net.cut(a, b);
            if ((variant & 4) != 0) net.reset(a, b);
          }
        net.run_for(4000 * kMs);
        for (std::int32_t a = 0; a < n && heals; ++a)
          for (std::int32_t b = a + 1; b < n; ++b) net.heal(a, b);
        ASSERT_TRUE(settles(net, 12000 * kMs)) << "n " << n << " side " << side << " " << variant;
        const int with_0 = std::popcount(side);
        const auto live = net.live_ranks();
        ASSERT_FALSE(live.empty()) << "n " << n << " side " << side << " variant " << variant;
        // The larger part goes on; of two halves one does, without claims that of rank 0.
        const bool goes_on_0 = (side >> live.front() & 1) != 0;
        if (2 * with_0 != n || !claims) {
          ASSERT_EQ(goes_on_0, 2 * with_0 >= n) << "n " << n << " side " << side;
        }
        ASSERT_EQ(static_cast<int>(live.size()), goes_on_0 ? with_0 : n - with_0);
        tally.add(net);
      }
  tally.print("partitions");
}

TEST(Agent, StopsAndGoesOn) {
  Tally tally;
  for (std::int32_t n = 2; n <= kMost; ++n)
    for (std::int32_t rank = 0; rank < n; ++rank)
      for (const std::int64_t ms : {200, 1200, 2000, 3050, 3150, 5000, 40000}) {
        AgentNetwork net(options(n, static_cast<std::uint64_t>(n * 100 + rank * 10 + ms), false));
        net.run_for(20 * kMs);
        net.stop(rank);
        net.run_for(ms * kMs);
        net.go_on(rank);
        ASSERT_TRUE(settles(net, 30000 * kMs)) << "n " << n << " rank " << rank << " ms " << ms;
        if (ms < 3000) {
          ASSERT_EQ(static_cast<int>(net.live_ranks().size()), n);
          ASSERT_EQ(net.installs(), 0);
        }
        if (ms > 4000 && n > 2) {
          ASSERT_EQ(net.life(rank), AgentNetwork::Life::dead) << n << " " << rank << " " << ms;
          ASSERT_EQ(static_cast<int>(net.live_ranks().size()), n - 1);
        }
        tally.add(net);
      }
  tally.print("stopped and gone on");
}

TEST(Agent, NobodyIsEvictedForBeingSlow) {
  Tally tally;
  for (std::int32_t n = 2; n <= kMost; ++n)
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      auto given = options(n, seed, false);
      given.latency_most = 300 * kMs;
      AgentNetwork net(given);
      net.slow(static_cast<std::int32_t>(seed) % n, 500 * kMs);
      net.run_for(20000 * kMs);
      ASSERT_EQ(net.fault(), "");
      ASSERT_TRUE(net.evicted().empty()) << "n " << n << " seed " << seed;
      ASSERT_TRUE(net.settled());
      net.kill(n - 1);  // a death among slow ranks is still decided, and nobody else goes
      ASSERT_TRUE(settles(net, 19000 * kMs)) << "n " << n << " seed " << seed;
      ASSERT_EQ(net.evicted().size(), 1u);
      tally.add(net);
    }
  tally.print("slow ranks");
}

TEST(Agent, AnAccusedRankThatAnswersStays) {
  for (std::int32_t n = 2; n <= kMost; ++n) {
    AgentNetwork net(options(n, static_cast<std::uint64_t>(n), false));
    net.run_for(200 * kMs);
    for (int time = 0; time < 20; ++time) {
      net.accuse(time % n, (time + 1) % n);
      net.run_for(500 * kMs);
    }
    EXPECT_EQ(net.fault(), "");
    EXPECT_EQ(net.installs(), 0);
    // One that does not answer goes at once, long before its silence is noticed.
    if (n < 3) continue;
    net.stop(1);
    net.accuse(0, 1);
    net.run_for(800 * kMs);
    EXPECT_EQ(net.agent(0).view().members.size(), static_cast<std::size_t>(n - 1));
    EXPECT_EQ(net.fault(), "");
  }
}

TEST(Agent, LeavingInOrderDisturbsNobody) {
  Tally tally;
  for (std::int32_t n = 2; n <= kMost; ++n)
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      AgentNetwork net(options(n, seed, seed % 2 == 1));
      Dice dice(seed);
      net.run_for(300 * kMs);
      for (std::int32_t rank = 0; rank + 1 < n; ++rank) {
        net.leave((rank + static_cast<std::int32_t>(seed)) % n);
        net.run_for(dice.below(200 * kMs));
      }
      net.run_for(5000 * kMs);
      EXPECT_EQ(net.fault(), "");
      EXPECT_EQ(net.installs(), 0) << "n " << n << " seed " << seed;
      tally.add(net);
    }
  tally.print("left in order");
}

TEST(Agent, WhoLeftDoesNotHoldUpTheNextView) {
  for (std::int32_t n = 3; n <= kMost; ++n)
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      AgentNetwork net(options(n, seed, false));
      net.run_for(300 * kMs);
      for (std::int32_t rank = 0; rank < n - 2; ++rank) net.leave(rank);
      net.run_for(static_cast<Nanoseconds>(seed) * 10 * kMs);
      net.kill(n - 1);
      EXPECT_TRUE(settles(net, 5000 * kMs)) << "n " << n << " seed " << seed;
    }
}

TEST(Agent, AHostWithoutPowerIsVotedOut) {
  for (std::int32_t n = 3; n <= kMost; ++n)
    for (std::int32_t rank = 0; rank < n; ++rank) {
      AgentNetwork net(options(n, static_cast<std::uint64_t>(n * 8 + rank), false));
      net.run_for(200 * kMs);
      net.unplug(rank);
      EXPECT_TRUE(settles(net, 6000 * kMs)) << "n " << n << " rank " << rank;
      EXPECT_EQ(net.live_ranks().size(), static_cast<std::size_t>(n - 1));
    }
}

TEST(Agent, DeathsCostFewHops) {
  for (const std::int32_t n : {8, 32, 96, 1000}) {
    auto given = options(n, 1, false);
    given.latency_least = given.latency_most = kMs;
    AgentNetwork net(given);
    net.run_for(50 * kMs);
    const std::int64_t links = net.links(), before = net.messages();
    const Nanoseconds at = net.now();
    net.kill(n / 3);
    net.run_for(95 * kMs);
    ASSERT_EQ(net.fault(), "");
    ASSERT_TRUE(net.settled()) << n;
    fmt::print(
        "campaign: agent one death among {}: {} links a rank, all in the next view after {} hops "
        "with 5 ms of settling in them, {} messages a rank\n",
        n, 2 * links / n, (net.last_install() - at) / kMs, (net.messages() - before) / (n - 1));
    EXPECT_LE(net.last_install() - at, (3 * std::bit_width(static_cast<unsigned>(n)) + 30) * kMs);
  }
}

}  // namespace
}  // namespace elaswave::member
