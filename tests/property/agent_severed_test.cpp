// Pairs of ranks that do not reach each other while the others reach both: told apart from the
// dead, the stopped and the merely accused; one of each pair has to go, and nobody after a cut that
// is healed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "tests/support/agent_network.h"

namespace elaswave::member {
namespace {

std::int32_t most() {
  return std::getenv("ELASWAVE_LONG") != nullptr ? 8 : 6;
}

AgentNetwork::Options options(std::int32_t n, std::uint64_t seed) {
  return {.world_size = n,
          .seed = seed,
          .claims = seed % 2 == 1,
          .silence = 1000 * kMs,
          .patience = 6000 * kMs};
}

/// Every pair, accused by either end.
template <typename Check>
void each_pair(Check check) {
  for (std::int32_t n = 3; n <= most(); ++n)
    for (std::int32_t by = 0; by < n; ++by)
      for (std::int32_t whom = 0; whom < n; ++whom)
        for (std::uint64_t seed = 0; seed < 2 && by != whom; ++seed) {
          SCOPED_TRACE(fmt::format("{} of {} accuses {}, seed {}", by, n, whom, seed));
          check(n, by, whom, seed);
          if (testing::Test::HasFatalFailure()) return;
        }
}

TEST(AgentSevered, OneOfAPairHasToGo) {
  std::int64_t runs = 0, neighbours_cut = 0;
  each_pair([&](std::int32_t n, std::int32_t by, std::int32_t whom, std::uint64_t seed) {
    AgentNetwork net(options(n, seed));
    net.run_for(seed == 0 ? 20 * kMs : 900 * kMs);  // the second time, with the spare links gone
    net.cut(by, whom);
    net.accuse(by, whom);
    net.run_for(3000 * kMs);
    ASSERT_EQ(net.fault(), "");
    ASSERT_EQ(net.evicted(), std::set<std::int32_t>{std::max(by, whom)});
    ASSERT_TRUE(net.settled());
    ASSERT_EQ(net.fences(), 1);
    const std::int64_t installs = net.installs();
    net.heal(by, whom);
    net.run_for(8000 * kMs);
    ASSERT_EQ(net.fault(), "");
    ASSERT_EQ(net.installs(), installs);
    ++runs;
    RankSet all(n);
    for (std::int32_t rank = 0; rank < n; ++rank) all.add(rank);
    neighbours_cut += neighbours(all, by).has(whom) ? 1 : 0;
  });
  fmt::print("campaign: agent severed pairs: {} runs, {} of them between neighbours\n", runs,
             neighbours_cut);
  EXPECT_GT(neighbours_cut, 0);
  EXPECT_LT(neighbours_cut, runs);
}

TEST(AgentSevered, ACutThatNobodyWaitsAtIsLeftAlone) {
  each_pair([&](std::int32_t n, std::int32_t a, std::int32_t b, std::uint64_t seed) {
    AgentNetwork net(options(n, seed));
    net.run_for(20 * kMs);
    net.cut(a, b);
    net.run_for(8000 * kMs);
    ASSERT_EQ(net.fault(), "");
    ASSERT_TRUE(net.evicted().empty());
    net.kill((std::max(a, b) + 1) % n);  // and does not keep the others from what they decide
    net.run_for(6000 * kMs);
    ASSERT_EQ(net.fault(), "");
    if (n > 3) {
      ASSERT_EQ(net.evicted().size(), 1u)
          << (net.live_ranks().empty() ? "nobody is left"
                                       : net.agent(net.live_ranks().front()).text());
    }
  });
}

TEST(AgentSevered, AHealedCutEvictsNobody) {
  each_pair([&](std::int32_t n, std::int32_t by, std::int32_t whom, std::uint64_t seed) {
    for (const std::int64_t ms : {1, 150, 250, 600, 950}) {
      AgentNetwork net(options(n, seed));
      net.run_for(20 * kMs);
      net.cut(by, whom);
      net.accuse(by, whom);
      net.run_for(ms * kMs);
      net.heal(by, whom);
      net.run_for(6000 * kMs);
      ASSERT_EQ(net.fault(), "") << ms;
      ASSERT_EQ(net.fences(), 0) << ms;
      ASSERT_EQ(net.installs(), 0) << ms;
    }
  });
}

/// Around the moment of the decision one may go; later nobody does.
TEST(AgentSevered, HealedInTheMiddleItIsOverSoon) {
  std::int64_t went = 0, stayed = 0;
  each_pair([&](std::int32_t n, std::int32_t by, std::int32_t whom, std::uint64_t seed) {
    for (std::int64_t ms = 1000; ms <= 1400; ms += 80) {
      AgentNetwork net(options(n, seed));
      net.run_for(20 * kMs);
      net.cut(by, whom);
      net.accuse(by, whom);
      net.run_for(ms * kMs);
      net.heal(by, whom);
      net.run_for(1500 * kMs);
      ASSERT_EQ(net.fault(), "") << ms;
      ASSERT_LE(net.evicted().size(), 1u) << ms;
      ASSERT_TRUE(net.settled()) << ms;
      const std::int64_t installs = net.installs();
      net.run_for(7000 * kMs);
      ASSERT_EQ(net.installs(), installs) << ms;
      ASSERT_EQ(net.fault(), "") << ms;
      ++(net.evicted().empty() ? stayed : went);
    }
  });
  EXPECT_GT(went, 0);
  EXPECT_GT(stayed, 0);
}

TEST(AgentSevered, WhoAnswersIsNotEvenDoubted) {
  each_pair([&](std::int32_t n, std::int32_t by, std::int32_t whom, std::uint64_t seed) {
    AgentNetwork net(options(n, seed));
    net.run_for(900 * kMs);
    net.accuse(by, whom);
    net.run_for(3000 * kMs);
    ASSERT_EQ(net.fault(), "");
    ASSERT_EQ(net.messages(Kind::suspect), 0);
    ASSERT_EQ(net.installs(), 0);
  });
}

TEST(AgentSevered, TheAccusedThatIsStoppedOrDeadGoesAsBefore) {
  each_pair([&](std::int32_t n, std::int32_t by, std::int32_t whom, std::uint64_t seed) {
    for (const bool dead : {false, true}) {
      AgentNetwork net(options(n, seed));
      net.run_for(900 * kMs);
      dead ? net.unplug(whom) : net.stop(whom);
      net.accuse(by, whom);
      // Long before its silence would tell.
      net.run_for(dead ? 2500 * kMs : 950 * kMs);
      ASSERT_EQ(net.fault(), "");
      ASSERT_EQ(net.evicted(), std::set<std::int32_t>{whom});
      ASSERT_FALSE(net.agent(by).fenced());
    }
  });
}

/// One rank without several others goes alone, whoever tells of it.
TEST(AgentSevered, WhoIsInMostPairsGoes) {
  for (std::int32_t n = 5; n <= most(); ++n)
    for (std::int32_t lonely = 0; lonely < n; ++lonely)
      for (std::uint64_t seed = 0; seed < 8; ++seed) {
        AgentNetwork net(options(n, seed));
        Dice dice(seed + 31);
        net.run_for(20 * kMs);
        for (std::int32_t i = 1; i <= 2; ++i) {
          const std::int32_t peer = (lonely + i) % n;
          net.cut(lonely, peer);
          dice.one_in(2) ? net.accuse(lonely, peer) : net.accuse(peer, lonely);
        }
        net.run_for(4000 * kMs);
        ASSERT_EQ(net.fault(), "") << n << " " << lonely << " " << seed;
        ASSERT_EQ(net.evicted(), std::set<std::int32_t>{lonely}) << n << " seed " << seed;
      }
}

TEST(AgentSevered, TheRuleLeavesNoPairWhole) {
  EXPECT_EQ(one_of_each({}, 4).list(), std::vector<std::int32_t>{});
  EXPECT_EQ(one_of_each({{0, 3}}, 4).list(), std::vector<std::int32_t>{3});
  EXPECT_EQ(one_of_each({{0, 1}, {0, 2}, {0, 3}}, 4).list(), std::vector<std::int32_t>{0});
  EXPECT_EQ(one_of_each({{1, 2}, {1, 2}, {1, 2}, {0, 3}}, 4).list(),
            (std::vector<std::int32_t>{2, 3}));
  Dice dice(5);
  for (int time = 0; time < 2000; ++time) {
    std::vector<RankPair> pairs;
    for (std::int64_t i = dice.below(12); i >= 0; --i) {
      const auto a = static_cast<std::int32_t>(dice.below(9));
      const auto b = static_cast<std::int32_t>(dice.below(9));
      if (a != b) pairs.emplace_back(std::min(a, b), std::max(a, b));
    }
    const RankSet out = one_of_each(pairs, 9);
    for (const auto& [a, b] : pairs) EXPECT_TRUE(out.has(a) || out.has(b));
    auto shuffled = pairs;
    std::reverse(shuffled.begin(), shuffled.end());
    EXPECT_EQ(one_of_each(shuffled, 9), out);
  }
}

}  // namespace
}  // namespace elaswave::member
