// The links of agents in the simulated world: what a handler is told, when, and what it never
// hears.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "parallel/comm/simulation.h"

namespace elaswave::comm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Deadline kNoDeadline{std::numeric_limits<Nanoseconds>::max()};

std::span<std::byte> bytes_of(std::vector<std::int64_t>& values) {
  return std::as_writable_bytes(std::span(values));
}

/// An agent of a test: writes down what it is told and lets the test answer.
struct Told {
  std::string what;
  int peer = 0;
  Nanoseconds at = 0;
  std::string text;
};

class Scribe final : public ControlHandler {
 public:
  using Answer = std::function<void(const Told&)>;
  Scribe(std::vector<Told>& log, Answer answer) : log_(log), answer_(std::move(answer)) {}
  void start(Nanoseconds now) override { note({"start", -1, now, {}}); }
  void opened(int peer, Nanoseconds now) override { note({"opened", peer, now, {}}); }
  void message(int peer, std::span<const std::byte> bytes, Nanoseconds now) override {
    note({"message", peer, now, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
  }
  void closed(int peer, Nanoseconds now) override { note({"closed", peer, now, {}}); }
  void refused(int peer, Nanoseconds now) override { note({"refused", peer, now, {}}); }
  void unreachable(int peer, Nanoseconds now) override { note({"unreachable", peer, now, {}}); }
  void timer(Nanoseconds now) override { note({"timer", -1, now, {}}); }

 private:
  void note(Told told) {
    log_.push_back(told);
    if (answer_) answer_(told);
  }
  std::vector<Told>& log_;
  Answer answer_;
};

/// Ranks that do nothing but live for a while, agents that talk.
struct Agents {
  explicit Agents(int ranks, std::uint64_t seed = 1) : logs(static_cast<std::size_t>(ranks)) {
    options.ranks = ranks;
    options.seed = seed;
    options.agent = [this](World& world, ControlLinks& own) -> std::unique_ptr<ControlHandler> {
      const int me = world.world_rank();
      links[me] = &own;
      worlds[me] = &world;
      return std::make_unique<Scribe>(logs[static_cast<std::size_t>(me)],
                                      [this, me](const Told& t) {
                                        if (answer) answer(me, t);
                                      });
    };
    options.control = [this](SimulationControl& given) {
      control = &given;
      if (script) script();
    };
  }
  SimulationReport run(Nanoseconds life = kSecond) {
    const auto report =
        simulate(options, [&](World& world) { world.clock().sleep(life - world.clock().now()); });
    EXPECT_TRUE(report) << report.error().text();
    return report.value_or(SimulationReport{});
  }
  void at(Nanoseconds when, std::function<void()> what) { control->at(when, std::move(what)); }
  void send(int from, int to, std::string_view text) {
    links[from]->send(to, std::as_bytes(std::span(text.data(), text.size())));
  }
  std::vector<std::string> told(int rank) const {
    std::vector<std::string> lines;
    for (const Told& t : logs[static_cast<std::size_t>(rank)])
      if (t.what != "start")
        lines.push_back(t.what + (t.peer < 0 ? "" : " " + std::to_string(t.peer)) +
                        (t.text.empty() ? "" : " " + t.text));
    return lines;
  }
  Nanoseconds when(int rank, std::string_view what) const {
    for (const Told& t : logs[static_cast<std::size_t>(rank)])
      if (t.what == what) return t.at;
    return -1;
  }

  SimulationOptions options{.probe = {}};
  std::function<void(int, const Told&)> answer;
  std::function<void()> script;
  SimulationControl* control = nullptr;
  std::map<int, ControlLinks*> links;
  std::map<int, World*> worlds;
  std::vector<std::vector<Told>> logs;
};

TEST(SimulationLinks, a_link_opens_at_both_ends_and_keeps_order) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Agents agents(2, seed);
    agents.answer = [&](int me, const Told& t) {
      if (me == 0 && t.what == "start") agents.links[0]->dial(1);
      if (me == 0 && t.what == "opened")
        for (const char* text : {"a", "b", "c", "d"}) agents.send(0, 1, text);
      if (me == 1 && t.text == "d") {
        agents.send(1, 0, "e");
        agents.links[1]->close(0);
        agents.send(1, 0, "too late");
      }
    };
    agents.run();
    EXPECT_THAT(agents.told(0), ElementsAre("opened 1", "message 1 e", "closed 1"));
    EXPECT_THAT(agents.told(1), ElementsAre("opened 0", "message 0 a", "message 0 b", "message 0 c",
                                            "message 0 d"));
  }
}

TEST(SimulationLinks, dials_that_cross_leave_one_link) {
  int twice = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Agents agents(2, seed);
    agents.answer = [&](int me, const Told& t) {
      if (t.what == "start") {
        agents.links[me]->dial(1 - me);
        agents.links[me]->dial(1 - me);  // one is under way: nothing
        agents.links[me]->wake_at(10 * kMillisecond);
      }
      if (t.what == "timer") agents.send(me, 1 - me, "hello");
    };
    agents.run();
    for (int me = 0; me < 2; ++me) {
      const auto told = agents.told(me);
      const std::string opened = "opened " + std::to_string(1 - me);
      EXPECT_GE(std::count(told.begin(), told.end(), opened), 1) << "seed " << seed;
      twice += std::count(told.begin(), told.end(), opened) == 2;
      EXPECT_EQ(
          std::count(told.begin(), told.end(), "message " + std::to_string(1 - me) + " hello"), 1)
          << "seed " << seed;
      EXPECT_EQ(std::count(told.begin(), told.end(), "closed " + std::to_string(1 - me)), 0);
    }
  }
  EXPECT_GT(twice, 0) << "dials were to cross";
}

TEST(SimulationLinks, the_end_of_a_process_closes_its_links_and_refuses_dials) {
  Agents agents(3);
  agents.answer = [&](int me, const Told& t) {
    if (t.what == "start" && me == 0) agents.links[0]->dial(2);
    if (t.what == "opened" && me == 0) agents.links[1]->dial(2);
  };
  agents.script = [&] {
    agents.at(kMillisecond, [&] { agents.control->kill(2); });
    agents.at(2 * kMillisecond, [&] { agents.links[0]->dial(2); });
  };
  agents.run();
  EXPECT_THAT(agents.told(0), ElementsAre("opened 2", "closed 2", "refused 2"));
  EXPECT_THAT(agents.told(1), ElementsAre("opened 2", "closed 2"));
  EXPECT_GT(agents.when(0, "closed"), kMillisecond);
  EXPECT_LE(agents.when(0, "closed"), kMillisecond + 50'000);
}

TEST(SimulationLinks, a_rank_that_has_returned_is_gone) {
  Agents agents(2);
  agents.answer = [&](int me, const Told& t) {
    if (t.what == "start" && me == 0) {
      agents.links[0]->dial(1);
      agents.links[0]->wake_at(500 * kMillisecond);
    }
    if (t.what == "timer") agents.links[0]->dial(1);
  };
  const auto report = simulate(agents.options, [&](World& world) {
    world.clock().sleep(world.world_rank() == 1 ? kMillisecond : kSecond);
  });
  ASSERT_TRUE(report);
  EXPECT_THAT(agents.told(0), ElementsAre("opened 1", "closed 1", "timer", "refused 1"));
  EXPECT_EQ(report->kills, 0);
}

TEST(SimulationLinks, a_stopped_host_accepts_and_its_agent_hears_later) {
  Agents agents(2);
  agents.script = [&] {
    agents.control->stop(1);
    agents.at(kMillisecond, [&] { agents.links[0]->dial(1); });
    agents.at(2 * kMillisecond, [&] { agents.send(0, 1, "are you there"); });
    agents.at(600 * kMillisecond, [&] { agents.control->go_on(1); });
  };
  agents.answer = [&](int me, const Told& t) {
    if (me == 1 && t.what == "start") agents.links[1]->wake_at(5 * kMillisecond);
  };
  agents.run();
  EXPECT_THAT(agents.told(0), ElementsAre("opened 1"));
  EXPECT_LT(agents.when(0, "opened"), 2 * kMillisecond);
  EXPECT_THAT(agents.told(1), ElementsAre("opened 0", "message 0 are you there", "timer"));
  EXPECT_EQ(agents.when(1, "opened"), 600 * kMillisecond);
  EXPECT_EQ(agents.when(1, "timer"), 600 * kMillisecond);
}

TEST(SimulationLinks, a_cut_is_silence) {
  Agents agents(3);
  agents.answer = [&](int me, const Told& t) {
    if (t.what == "start" && me == 0) agents.links[0]->dial(1);
  };
  agents.script = [&] {
    agents.at(kMillisecond, [&] { agents.control->cut(0, 1); });
    agents.at(2 * kMillisecond, [&] { agents.send(0, 1, "lost"); });
    agents.at(2 * kMillisecond, [&] { agents.control->cut(2, 1); });
    agents.at(3 * kMillisecond, [&] { agents.links[2]->dial(1); });
    agents.at(500 * kMillisecond, [&] { agents.control->heal(0, 1); });
    agents.at(500 * kMillisecond, [&] { agents.send(0, 1, "heard"); });
  };
  agents.run();
  EXPECT_THAT(agents.told(0), ElementsAre("opened 1"));
  EXPECT_THAT(agents.told(1), ElementsAre("opened 0", "message 0 heard"));
  EXPECT_THAT(agents.told(2), ElementsAre("unreachable 1"));
  EXPECT_GE(agents.when(2, "unreachable"), 203 * kMillisecond);
  EXPECT_LE(agents.when(2, "unreachable"), 204 * kMillisecond);
}

// A death behind a cut is noticed when something is sent after it.
TEST(SimulationLinks, a_death_behind_a_cut_shows_when_it_has_healed) {
  Agents agents(2);
  agents.answer = [&](int me, const Told& t) {
    if (t.what == "start" && me == 0) agents.links[0]->dial(1);
  };
  agents.script = [&] {
    agents.at(kMillisecond, [&] { agents.control->cut(0, 1); });
    agents.at(2 * kMillisecond, [&] { agents.control->kill(1); });
    agents.at(500 * kMillisecond, [&] { agents.control->heal(0, 1); });
    agents.at(600 * kMillisecond, [&] { agents.send(0, 1, "heartbeat"); });
  };
  agents.run();
  EXPECT_THAT(agents.told(0), ElementsAre("opened 1", "closed 1"));
  EXPECT_GT(agents.when(0, "closed"), 600 * kMillisecond);
}

TEST(SimulationLinks, a_handler_that_publishes_a_view_ends_a_wait) {
  Agents agents(2);
  agents.answer = [&](int me, const Told& t) {
    if (t.what == "start") agents.links[me]->wake_at(kMillisecond * (1 + me));
    if (t.what == "timer") agents.worlds[me]->publish_view(Generation{4});
  };
  const auto report = simulate(agents.options, [&](World& world) {
    std::vector<std::int64_t> values(1);
    const Work work = world.receive(1 - world.world_rank(), Channel::state, {bytes_of(values)});
    EXPECT_THROW((void)world.wait(work, "forever", kNoDeadline), StepAborted);
    EXPECT_EQ(world.clock().now(), kMillisecond * (1 + world.world_rank()));
  });
  ASSERT_TRUE(report) << report.error().text();
}

TEST(SimulationLinks, heartbeats_do_not_hide_a_deadlock) {
  Agents agents(2);
  agents.answer = [&](int me, const Told& t) {
    if (t.what == "start" && me == 0) agents.links[0]->dial(1);
    if (t.what == "timer") agents.send(me, 1 - me, "beat");
    agents.links[me]->wake_at(t.at + kSecond);
  };
  auto run = [&](Deadline deadline) {
    return simulate(agents.options, [&](World& world) {
      std::vector<std::int64_t> values(1);
      (void)world.wait(world.receive(1 - world.world_rank(), Channel::state, {bytes_of(values)}),
                       "forever", deadline);
    });
  };
  const auto report = run(kNoDeadline);
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().what, HasSubstr("deadlock"));
  EXPECT_THAT(report.error().where, HasSubstr("rank 0 in 'forever'"));
  EXPECT_TRUE(run(Deadline{3600 * kSecond})) << "a deadline will come: no deadlock";
}

TEST(SimulationLinks, stopped_ranks_and_agents_do_not_hold_the_end) {
  Agents agents(3);
  agents.script = [&] { agents.at(kMillisecond, [&] { agents.control->stop(2); }); };
  agents.answer = [&](int me, const Told& t) {
    agents.links[me]->wake_at(t.at + 100 * kMillisecond);
  };
  EXPECT_EQ(agents.run(2 * kSecond).virtual_time, 2 * kSecond);
}

TEST(SimulationLinks, faults_are_part_of_the_trace) {
  auto trace = [](std::uint64_t seed, Nanoseconds death) {
    Agents agents(4, seed);
    agents.script = [&] { agents.at(death, [&] { agents.control->kill(3); }); };
    agents.answer = [&](int me, const Told& t) {
      if (t.what == "start")
        for (int peer = 0; peer < me; ++peer) agents.links[me]->dial(peer);
      if (t.what == "timer" || t.what == "opened")
        for (int peer = 0; peer < 4; ++peer) agents.send(me, peer, "beat");
      agents.links[me]->wake_at(t.at + kMillisecond);
    };
    return agents.run(20 * kMillisecond).trace_hash;
  };
  EXPECT_EQ(trace(1, kMillisecond), trace(1, kMillisecond));
  EXPECT_NE(trace(1, kMillisecond), trace(1, 2 * kMillisecond));
  EXPECT_NE(trace(1, kMillisecond), trace(2, kMillisecond));
}

}  // namespace
}  // namespace elaswave::comm
