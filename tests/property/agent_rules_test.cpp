// Agents: the quorum rule against its definition, the messages against garbage, and single
// situations that random scripts meet too rarely.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "elastic/member/agent_quorum.h"
#include "tests/support/agent_network.h"

namespace elaswave::member {
namespace {

RankSet set_of(std::int32_t n, std::uint32_t bits) {
  RankSet result(n);
  for (std::int32_t rank = 0; rank < n; ++rank)
    if ((bits >> rank & 1) != 0) result.add(rank);
  return result;
}

template <typename T>
std::int64_t count_of(const std::vector<Effect>& effects) {
  return std::ranges::count_if(effects,
                               [](const Effect& e) { return std::holds_alternative<T>(e); });
}

std::vector<Message> sent(const std::vector<Effect>& effects, std::int32_t world_size) {
  std::vector<Message> result;
  for (const Effect& effect : effects)
    if (const auto* send = std::get_if<Send>(&effect))
      result.push_back(decode(send->bytes, world_size).value());
  return result;
}

/// Two sets of voters may both decide only if one of them consists of the dead alone as far as the
/// other one knows. Every pair of sets, every knowledge of the dead, every holder of the claim.
TEST(AgentRules, QuorumsMeet) {
  std::int64_t pairs = 0;
  for (std::int32_t n = 1; n <= 6; ++n) {
    const RankSet members = set_of(n, (1u << n) - 1);
    std::vector<std::optional<RankSet>> claims;
    for (std::uint32_t half = 1; half < (1u << n); ++half)
      if (2 * std::popcount(half) == n) claims.emplace_back(set_of(n, half));
    if (claims.empty()) claims.emplace_back();
    const bool with_claims = claims.front().has_value();
    claims.emplace_back();  // the last one: no claims at all
    for (std::size_t c = 0; c < claims.size(); ++c)
      for (std::uint32_t a = 1; a < (1u << n); ++a)
        for (std::uint32_t b = 1; b < (1u << n); ++b) {
          if ((a & b) != 0) continue;
          const bool use = with_claims && c + 1 < claims.size();
          const std::uint32_t rest = ~(a | b) & ((1u << n) - 1);
          for (std::uint32_t dead = rest;; dead = (dead - 1) & rest) {
            const RankSet ended = set_of(n, dead);  // neither a's nor b's: all who vote are alive
            const auto first = judge(set_of(n, a), {members, ended, use, claims[c]});
            const auto second = judge(set_of(n, b), {members, ended, use, claims[c]});
            ASSERT_FALSE(first == Verdict::yes && second == Verdict::yes)
                << "n " << n << " a " << a << " b " << b << " dead " << dead;
            ++pairs;
            if (dead == 0) break;
          }
        }
  }
  fmt::print("campaign: agent quorums: {} pairs of disjoint voters, never both\n", pairs);
}

TEST(AgentRules, QuorumsAreReached) {
  const RankSet all = set_of(4, 0b1111), none(4);
  const std::optional<RankSet> nobody, low = set_of(4, 0b0011);
  EXPECT_EQ(judge(set_of(4, 0b0111), {all, none, true, nobody}), Verdict::yes);
  EXPECT_EQ(judge(set_of(4, 0b0011), {all, none, true, nobody}), Verdict::ask);
  EXPECT_EQ(judge(set_of(4, 0b0011), {all, none, true, low}), Verdict::yes);
  EXPECT_EQ(judge(set_of(4, 0b1100), {all, none, true, low}), Verdict::no);
  EXPECT_EQ(judge(set_of(4, 0b0011), {all, none, false, nobody}), Verdict::yes);
  EXPECT_EQ(judge(set_of(4, 0b1100), {all, none, false, nobody}), Verdict::no);
  EXPECT_EQ(judge(set_of(4, 0b1000), {all, set_of(4, 0b0111), true, low}), Verdict::yes);
  EXPECT_EQ(judge(set_of(4, 0b1000), {all, set_of(4, 0b0011), true, low}), Verdict::no);
}

TEST(AgentRules, NeighboursAreSymmetricFewAndConnected) {
  Dice dice(3);
  for (const std::int32_t n : {1, 2, 3, 4, 5, 8, 13, 64, 100, 1000}) {
    RankSet ranks(n);
    for (std::int32_t rank = 0; rank < n; ++rank)
      if (rank == 0 || !dice.one_in(4)) ranks.add(rank);
    RankSet reached(n), edge(n);
    edge.add(0);
    while (!edge.empty()) {
      RankSet next(n);
      reached |= edge;
      for (const std::int32_t rank : edge.list()) {
        const RankSet links = neighbours(ranks, rank);
        EXPECT_LE(links.count(), 2 * std::bit_width(static_cast<unsigned>(n)));
        EXPECT_TRUE(ranks.contains(links));
        EXPECT_FALSE(links.has(rank));
        for (const std::int32_t peer : links.list())
          EXPECT_TRUE(neighbours(ranks, peer).has(rank)) << rank << " " << peer;
        next |= links;
      }
      edge = next - reached;
    }
    EXPECT_EQ(reached, ranks);
  }
}

std::vector<Message> samples(std::int32_t n) {
  const RankSet some = set_of(n, 0b10110);
  std::vector<Message> result;
  for (int kind = 1; kind <= static_cast<int>(Kind::severed); ++kind)
    result.push_back({.kind = static_cast<Kind>(kind),
                      .generation = 0x01020304,
                      .run = 0xAABBCCDD11223344,
                      .incarnation = 77,
                      .rank = n - 1,
                      .nonce = 0x1122334455667788,
                      .life = 9,
                      .doubts = {{1, 2, false}, {4, 0, true}},
                      .severed = {{1, 4, 3}, {2, 0, 8}},
                      .ballot = {12, 3},
                      .phase = Phase::accept,
                      .higher = {13, 0},
                      .ended = some,
                      .ranks = some,
                      .accepted = Accepted{{2, 1}, some},
                      .member = true});
  return result;
}

TEST(AgentRules, MessagesComeBackAndNothingElseIsRead) {
  constexpr std::int32_t kWorld = 13;
  Dice dice(11);
  std::int64_t damaged = 0, refused = 0;
  for (const Message& message : samples(kWorld)) {
    const auto bytes = encode(message);
    const auto back = decode(bytes, kWorld);
    ASSERT_TRUE(back.has_value()) << static_cast<int>(message.kind);
    EXPECT_EQ(encode(*back), bytes);
    for (std::size_t length = 0; length < bytes.size(); ++length)
      EXPECT_FALSE(decode(std::span(bytes).first(length), kWorld)) << length;
    auto longer = bytes;
    longer.push_back(std::byte{0});
    EXPECT_FALSE(decode(longer, kWorld));
    for (int time = 0; time < 2000; ++time) {
      auto bad = bytes;
      for (std::int64_t i = 1 + dice.below(3); i > 0; --i)
        bad[static_cast<std::size_t>(dice.below(static_cast<std::int64_t>(bad.size())))] =
            static_cast<std::byte>(dice.below(256));
      const auto read = decode(bad, kWorld);
      ++damaged;
      refused += read ? 0 : 1;
      // What is read is what it says: no second way to write it.
      if (read) {
        EXPECT_EQ(encode(*read), bad);
      }
    }
  }
  fmt::print("campaign: agent messages: {} damaged, {} refused, the rest read as they stand\n",
             damaged, refused);
}

TEST(AgentRules, GarbageEndsTheLinkAndNothingElse) {
  for (std::int32_t n = 2; n <= 6; ++n)
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      AgentNetwork net({.world_size = n, .seed = seed});
      Dice dice(seed);
      net.run_for(100 * kMs);
      std::vector<std::byte> bytes(static_cast<std::size_t>(dice.below(40)));
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(dice.below(256));
      if (bytes.size() > 1 && dice.one_in(2)) bytes[0] = std::byte{1};
      if (decode(bytes, n)) continue;
      net.garble(0, 1, bytes);
      net.run_for(3000 * kMs);
      ASSERT_EQ(net.fault(), "");
      ASSERT_EQ(net.installs(), 0) << "n " << n << " seed " << seed;
      net.kill(n - 1);
      net.run_for(3000 * kMs);
      ASSERT_EQ(net.fault(), "");
      ASSERT_TRUE(net.settled());
    }
}

/// The counter-example to a majority of those not known to have ended. Of a..g, a..e decide without
/// f and g; a..d end; e hears f and g no more, they hear of the four ends. f and g must not go on.
TEST(AgentRules, TwoOfTheThreeNotKnownToHaveEndedAreNoQuorum) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    AgentNetwork net({.world_size = 7, .seed = seed, .patience = 60000 * kMs});
    net.run_for(50 * kMs);
    for (std::int32_t a = 0; a < 5; ++a)
      for (std::int32_t b = 5; b < 7; ++b) {
        net.cut(a, b);
        net.reset(a, b);
      }
    while (net.now() < 5000 * kMs && net.agent(4).view().members.size() != 5) net.run_for(kMs);
    ASSERT_EQ(net.agent(4).view().members.size(), 5u);
    net.run_for(50 * kMs);
    for (std::int32_t a = 0; a < 4; ++a) net.kill(a);
    for (std::int32_t a = 0; a < 4; ++a)
      for (std::int32_t b = 5; b < 7; ++b) net.heal(a, b);
    net.run_for(20000 * kMs);
    ASSERT_EQ(net.fault(), "") << "seed " << seed;
    EXPECT_EQ(net.agent(4).view().members, std::vector<std::int32_t>{4});
    for (std::int32_t b = 5; b < 7; ++b) {
      EXPECT_EQ(net.agent(b).proven_dead(), (std::vector<std::int32_t>{0, 1, 2, 3}));
      EXPECT_EQ(raw(net.agent(b).view().generation), 0u);
    }
    net.heal(4, 5);  // and then they learn it
    net.heal(4, 6);
    net.run_for(3000 * kMs);
    EXPECT_EQ(net.fault(), "");
    EXPECT_EQ(net.live_ranks(), std::vector<std::int32_t>{4});
  }
}

TEST(AgentRules, WithoutTheStoreAHalfDoesNotGoOn) {
  AgentNetwork net({.world_size = 4, .seed = 5, .claims = true, .patience = 6000 * kMs});
  net.run_for(50 * kMs);
  for (std::int32_t rank = 0; rank < 4; ++rank) net.no_store(rank);
  for (std::int32_t a = 0; a < 2; ++a)
    for (std::int32_t b = 2; b < 4; ++b) net.cut(a, b);
  net.run_for(20000 * kMs);
  EXPECT_EQ(net.fault(), "");
  EXPECT_TRUE(net.live_ranks().empty());
}

// --- one agent by hand --------------------------------------------------------------------------

struct Alone {
  explicit Alone(std::int32_t world_size, std::int32_t rank = 0)
      : agent({.world_rank = rank, .world_size = world_size, .run = 7, .incarnation = 50}) {
    at(Started{}, 0);
  }
  std::vector<Effect> at(const Event& event, Nanoseconds time) { return agent.step(event, time); }
  std::vector<Effect> hear(std::int32_t peer, const Message& message, Nanoseconds time) {
    const auto bytes = encode(message);
    return agent.step(Received{peer, bytes}, time);
  }
  void greet(std::int32_t peer, Nanoseconds time, std::uint64_t incarnation = 60) {
    at(LinkOpened{peer}, time);
    hear(peer, {.kind = Kind::hello, .run = 7, .incarnation = incarnation, .rank = peer}, time);
  }
  Agent agent;
};

TEST(AgentRules, AnotherIncarnationProvesTheEndOfTheFirstAndIsNoMember) {
  Alone alone(3);
  alone.greet(1, kMs);
  alone.greet(2, kMs);
  alone.at(LinkOpened{2}, 2 * kMs);
  const auto effects =
      alone.hear(2, {.kind = Kind::hello, .run = 7, .incarnation = 61, .rank = 2}, 3 * kMs);
  EXPECT_EQ(alone.agent.proven_dead(), std::vector<std::int32_t>{2});
  EXPECT_EQ(count_of<Close>(effects), 1);
  const auto messages = sent(effects, 3);
  EXPECT_TRUE(std::ranges::any_of(
      messages, [](const Message& m) { return m.kind == Kind::stale && !m.member; }));
}

TEST(AgentRules, AnotherRunIsProofOnlyWhereThisOneDialled) {
  Alone dialled(3), was_dialled(3);
  const Message other{.kind = Kind::hello, .run = 8, .incarnation = 60, .rank = 1};
  dialled.at(LinkOpened{1}, kMs);  // rank 0 dials 1 when it starts
  dialled.hear(1, other, kMs);
  EXPECT_EQ(dialled.agent.proven_dead(), std::vector<std::int32_t>{1});
  was_dialled.greet(1, kMs);
  was_dialled.at(LinkOpened{1}, 2 * kMs);
  const auto effects = was_dialled.hear(1, other, 2 * kMs);
  EXPECT_TRUE(was_dialled.agent.proven_dead().empty());
  EXPECT_EQ(count_of<Close>(effects), 1);
}

TEST(AgentRules, TheOldAreToldTheViewAndWhoIsLeftOutFences) {
  Alone alone(3);
  alone.greet(1, kMs);
  alone.greet(2, kMs);
  auto effects =
      alone.hear(1, {.kind = Kind::decide, .generation = 1, .ranks = set_of(3, 0b011)}, 2 * kMs);
  EXPECT_EQ(count_of<Install>(effects), 1);
  EXPECT_EQ(raw(alone.agent.view().generation), 1u);
  EXPECT_EQ(sent(effects, 3).front().kind, Kind::decide);  // to rank 2, before its link is closed
  EXPECT_EQ(count_of<Close>(effects), 1);
  effects = alone.hear(
      1, {.kind = Kind::prepare, .generation = 0, .ballot = {5, 1}, .ended = RankSet(3)}, 3 * kMs);
  EXPECT_TRUE(std::ranges::any_of(
      sent(effects, 3), [](const Message& m) { return m.kind == Kind::stale && m.member; }));
  effects =
      alone.hear(1, {.kind = Kind::stale, .generation = 2, .ranks = set_of(3, 0b010)}, 4 * kMs);
  EXPECT_TRUE(alone.agent.fenced());
  EXPECT_TRUE(std::holds_alternative<Fence>(effects.back()));
  EXPECT_TRUE(alone.at(TimerFired{}, 5 * kMs).empty());
}

/// Nobody may answer a lower ballot once it has promised a higher one.
TEST(AgentRules, APromiseHolds) {
  Alone alone(5, 4);
  alone.greet(0, kMs);
  alone.greet(1, kMs);
  const auto wave = [&](std::int32_t peer, Kind kind, Ballot ballot) {
    const auto effects = alone.hear(
        peer, {.kind = kind, .ballot = ballot, .ended = RankSet(5), .ranks = set_of(5, 0b11011)},
        2 * kMs);
    return sent(effects, 5);
  };
  wave(1, Kind::prepare, {4, 1});
  const auto answer = wave(0, Kind::accept, {3, 0});
  ASSERT_EQ(answer.size(), 1u);
  EXPECT_EQ(answer[0].kind, Kind::echo);
  EXPECT_TRUE(answer[0].ranks.empty());
  EXPECT_EQ(answer[0].higher, (Ballot{4, 1}));
}

/// Whoever votes where some are known to have ended hears nothing of those any more, not even what
/// was on its way: with all others they may have decided something else that died with them.
TEST(AgentRules, AVoteEndsTheWordOfTheDead) {
  Alone alone(7, 4);
  for (const std::int32_t peer : {0, 1, 2, 3, 5, 6}) alone.greet(peer, kMs);
  auto effects = alone.hear(
      5, {.kind = Kind::prepare, .ballot = {4, 5}, .ended = set_of(7, 0b0001111)}, 2 * kMs);
  EXPECT_EQ(count_of<Close>(effects), 4);
  EXPECT_EQ(alone.agent.proven_dead(), (std::vector<std::int32_t>{0, 1, 2, 3}));
  alone.at(LinkOpened{0}, 3 * kMs);  // what a shell says late
  alone.hear(0, {.kind = Kind::hello, .run = 7, .incarnation = 60, .rank = 0}, 3 * kMs);
  effects = alone.hear(0, {.kind = Kind::decide, .generation = 1, .ranks = set_of(7, 0b0011111)},
                       3 * kMs);
  EXPECT_EQ(count_of<Install>(effects), 0);
  EXPECT_EQ(raw(alone.agent.view().generation), 0u);
}

/// Its own timer late by more than half the limit: the agent asks before it accuses.
TEST(AgentRules, WhoSleptAccusesNobody) {
  Alone alone(3);
  alone.greet(1, kMs);
  alone.greet(2, kMs);
  auto effects = alone.at(TimerFired{}, 10'000 * kMs);
  EXPECT_EQ(std::ranges::count_if(sent(effects, 3),
                                  [](const Message& m) { return m.kind == Kind::ping; }),
            2);
  effects = alone.at(LinkClosed{1}, 10'001 * kMs);
  const auto later = alone.at(LinkClosed{2}, 10'002 * kMs);
  effects.insert(effects.end(), later.begin(), later.end());
  effects = alone.at(DialRefused{1}, 10'003 * kMs);
  EXPECT_TRUE(alone.agent.proven_dead().empty());
  for (const Message& message : sent(effects, 3)) EXPECT_NE(message.kind, Kind::suspect);
  // It never hears from anybody again.
  Nanoseconds time = 10'003 * kMs;
  while (!alone.agent.fenced() && time < 60'000 * kMs) alone.at(TimerFired{}, time += 50 * kMs);
  EXPECT_TRUE(alone.agent.fenced());
  EXPECT_EQ(raw(alone.agent.view().generation), 0u);
}

}  // namespace
}  // namespace elaswave::member
