// The shell around a real agent: what it does to links, board, world and claims, in which order.
#include "elastic/member/agent_shell.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/pair_world.h"

namespace elaswave::member {
namespace {

using ::elaswave::testing::PairMesh;
using ::elaswave::testing::PairWorld;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr Nanoseconds kMs = 1'000'000;

/// One rank's shell whose surroundings write down what it does to them.
struct Scene final : comm::ControlLinks, ClaimStore {
  Scene(int size, int world_rank, bool claims, bool store_answers = true)
      : answers(store_answers),
        mesh(size),
        world(mesh, world_rank),
        board(first_view(size)),
        shell({.agent = {.world_rank = world_rank,
                         .world_size = size,
                         .run = 1,
                         .incarnation = 10,
                         .heartbeat = 100 * kMs,
                         .silence = 1000 * kMs,
                         .patience = 5000 * kMs,
                         .claims = claims},
               .world = world,
               .links = *this,
               .board = board,
               .claims = claims ? this : nullptr}) {
    world.on_publish = [this](Generation generation) {
      log.push_back(fmt::format("publish {}, board at {}{}", raw(generation),
                                raw(board.newest().view.generation),
                                board.fenced() ? ", fenced" : ""));
    };
  }
  static View first_view(int size) {
    View view;
    for (int rank = 0; rank < size; ++rank) view.members.push_back(rank);
    return view;
  }

  void dial(int peer) override { log.push_back(fmt::format("dial {}", peer)); }
  void send(int peer, std::span<const std::byte>) override {
    log.push_back(fmt::format("send {}", peer));
  }
  void close(int peer) override { log.push_back(fmt::format("close {}", peer)); }
  void wake_at(Nanoseconds at) override { wish = at; }
  std::optional<std::vector<std::byte>> claim(Generation generation,
                                              const std::vector<std::byte>& value) override {
    log.push_back(fmt::format("claim {}", raw(generation)));
    if (!answers) return std::nullopt;
    return value;
  }
  /// Lets time pass as the agent wishes, until `until` or its end.
  void run_timers(Nanoseconds until) {
    while (wish && *wish <= until && !shell.agent().fenced()) {
      now = std::max(now, *std::exchange(wish, std::nullopt));
      shell.timer(now);
    }
  }

  std::vector<std::string> log;
  bool answers;
  Nanoseconds now = 0;
  std::optional<Nanoseconds> wish;
  PairMesh mesh;
  PairWorld world;
  ViewBoard board;
  AgentShell shell;
};

TEST(AgentShell, AViewIsOnTheBoardBeforeTheWorldHearsOfIt) {
  Scene scene(2, 0, false);
  scene.shell.start(0);
  scene.shell.opened(1, 1 * kMs);
  scene.now = 50 * kMs;
  scene.shell.closed(1, scene.now);
  EXPECT_THAT(scene.log, Contains("dial 1"));  // for proof
  scene.shell.refused(1, 51 * kMs);
  scene.now = 51 * kMs;
  scene.run_timers(10'000 * kMs);
  EXPECT_THAT(scene.log, Contains("publish 1, board at 1"));
  const Decision decision = scene.board.newest();
  EXPECT_EQ(decision.view.members, std::vector<std::int32_t>{0});
  EXPECT_EQ(decision.lost, std::vector<std::int32_t>{1});
  EXPECT_EQ(decision.suspected_at, 50 * kMs);
  EXPECT_GE(decision.decided_at, 51 * kMs);
  EXPECT_EQ(scene.board.fenced(), std::nullopt);
  EXPECT_EQ(scene.world.published(), Generation{1});
}

TEST(AgentShell, AFencedRanksWaitsEndAndTheBoardSaysWhy) {
  Scene scene(3, 2, false);  // alone of three, without proof
  scene.shell.start(0);
  for (const int peer : {0, 1}) scene.shell.opened(peer, kMs);
  for (const int peer : {0, 1}) {
    scene.shell.closed(peer, 2 * kMs);
    scene.shell.unreachable(peer, 3 * kMs);
  }
  scene.now = 3 * kMs;
  scene.run_timers(60'000 * kMs);
  ASSERT_TRUE(scene.shell.agent().fenced());
  EXPECT_TRUE(scene.board.fenced());
  EXPECT_EQ(scene.log.back(), "publish 1, board at 0, fenced");
  const std::size_t entries = scene.log.size();
  scene.shell.refused(0, scene.now + kMs);  // too late
  scene.shell.opened(1, scene.now + kMs);
  EXPECT_EQ(scene.log.size(), entries);
}

TEST(AgentShell, AnExactHalfAsksTheClaimStore) {
  for (const bool answers : {true, false}) {
    Scene scene(2, 1, true, answers);  // not the lowest: only the claim helps
    scene.shell.start(0);
    scene.shell.opened(0, kMs);
    scene.shell.closed(0, 2 * kMs);
    scene.shell.unreachable(0, 3 * kMs);
    scene.now = 3 * kMs;
    scene.run_timers(60'000 * kMs);
    EXPECT_THAT(scene.log, Contains("claim 1"));
    EXPECT_EQ(scene.shell.agent().fenced(), !answers);
    EXPECT_EQ(scene.board.fenced().has_value(), !answers);
    EXPECT_EQ(scene.board.newest().view.members,
              (answers ? std::vector<std::int32_t>{1} : std::vector<std::int32_t>{0, 1}));
  }
}

TEST(AgentShell, AForgottenWorldIsNotCalled) {
  Scene scene(2, 0, false);
  scene.shell.start(0);
  scene.shell.opened(1, kMs);
  scene.shell.closed(1, 2 * kMs);
  scene.shell.forget_world();
  scene.shell.refused(1, 3 * kMs);
  scene.now = 3 * kMs;
  scene.run_timers(10'000 * kMs);
  EXPECT_EQ(scene.board.newest().view.generation, Generation{1});
  EXPECT_THAT(scene.log, Not(Contains(StartsWith("publish"))));
}

}  // namespace
}  // namespace elaswave::member
