// Agents under thousands of random scripts of faults: kills, stops, cuts, lost links, slow ranks,
// false accusations. The seed of a script that fails is printed; ELASWAVE_AGENT_SEED=n runs that
// one alone, ELASWAVE_LONG=1 many more.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "tests/support/agent_network.h"

namespace elaswave::member {
namespace {

class Script {
 public:
  explicit Script(std::uint64_t seed)
      : dice_(seed ^ 0x5C21),
        n_(2 + static_cast<std::int32_t>(dice_.below(7))),
        net_(given(seed)) {}

  void run() {
    if (!dice_.one_in(8)) net_.run_for(20 * kMs);
    const std::int64_t faults = 1 + dice_.below(9);
    if (dice_.one_in(3)) partition();
    for (std::int64_t i = 0; i < faults && net_.fault().empty(); ++i) {
      fault();
      net_.run_for(pause());
    }
    heal_all();
    for (std::int32_t rank = 0; rank < n_; ++rank) {
      net_.slow(rank, 0);
      net_.go_on(rank);
    }
    // Patience, and twice what a long silence and a doubled turn take.
    net_.run_for(12000 * kMs);
  }

  const AgentNetwork& net() const { return net_; }
  std::string text() const { return text_; }
  /// Ranks were stopped or cut off: somebody may have to go who has not died.
  bool hard() const { return hard_; }

 private:
  AgentNetwork::Options given(std::uint64_t seed) {
    AgentNetwork::Options options{.world_size = n_, .seed = seed, .claims = dice_.one_in(2)};
    options.silence = 600 * kMs;
    options.patience = 3000 * kMs;
    options.dial_timeout = 200 * kMs;
    if (dice_.one_in(3)) options.latency_most = 20 * kMs;
    return options;
  }

  std::int32_t any() { return static_cast<std::int32_t>(dice_.below(n_)); }

  void note(const std::string& what) {
    text_ += fmt::format("\n  {} us: {}", net_.now() / 1000, what);
  }

  Nanoseconds pause() {
    switch (dice_.below(4)) {
      case 0:
        return dice_.below(3 * kMs);
      case 1:
        return dice_.below(30 * kMs);
      case 2:
        return dice_.below(400 * kMs);
      default:
        return dice_.below(2500 * kMs);
    }
  }

  void fault() {
    const std::int32_t a = any(), b = any();
    switch (dice_.below(13)) {
      case 0:
      case 1:
        note(fmt::format("kill {}", a));
        return net_.kill(a);
      case 2:
        return at_message();
      case 3:
        hard_ = true;
        note(fmt::format("stop {}", a));
        return net_.stop(a);
      case 4:
        note(fmt::format("go on {}", a));
        return net_.go_on(a);
      case 5:
        return partition();
      case 6:
        note("heal");
        return heal_all();
      case 7:
        note(fmt::format("heal {}-{}", a, b));
        return net_.heal(a, b);
      case 8:
        note(fmt::format("reset {}-{}", a, b));
        if (net_.live(a) && net_.live(b) && a != b) net_.reset(a, b);
        return;
      case 9:
        note(fmt::format("slow {}", a));
        return net_.slow(a, dice_.below(100 * kMs));
      case 10:
        note(fmt::format("{} accuses {}", a, b));
        if (net_.live(a)) net_.accuse(a, b);
        return;
      case 11:
        if (a == b) return;
        hard_ = true;
        note(fmt::format("cut {}-{}, {} accuses", a, b, a));
        net_.cut(a, b);
        if (net_.live(a)) net_.accuse(a, b);
        return;
      default:
        return at_message();
    }
  }

  void at_message() {
    const auto kind = static_cast<Kind>(1 + dice_.below(static_cast<int>(Kind::severed)));
    const std::int64_t way = dice_.below(3);
    const auto count = static_cast<std::int32_t>(1 + dice_.below(20));
    const std::string_view ways[] = {"kill sender", "kill receiver", "cut off sender"};
    hard_ = hard_ || way == 2;
    note(fmt::format("{} at message {} of kind {}", ways[way], count, static_cast<int>(kind)));
    return net_.arm({kind, count, way == 1, way == 2});
  }

  void partition() {
    const auto side = static_cast<std::uint32_t>(dice_.below(std::int64_t{1} << n_));
    const bool loses = dice_.one_in(2);
    hard_ = true;
    note(fmt::format("cut by {:b}{}", side, loses ? ", links lost" : ""));
    for (std::int32_t a = 0; a < n_; ++a)
      for (std::int32_t b = a + 1; b < n_; ++b) {
        if ((side >> a & 1) == (side >> b & 1)) continue;
        net_.cut(a, b);
        if (loses && net_.live(a) && net_.live(b)) net_.reset(a, b);
      }
  }

  void heal_all() {
    for (std::int32_t a = 0; a < n_; ++a)
      for (std::int32_t b = a + 1; b < n_; ++b) net_.heal(a, b);
  }

  Dice dice_;
  std::int32_t n_;
  AgentNetwork net_;
  std::string text_;
  bool hard_ = false;
};

TEST(AgentCampaign, RandomScripts) {
  const char* only = std::getenv("ELASWAVE_AGENT_SEED");
  const std::uint64_t first = only ? std::strtoull(only, nullptr, 10) : 0;
  const std::uint64_t count = only ? 1 : std::getenv("ELASWAVE_LONG") ? 80000 : 3000;
  std::int64_t events = 0, views = 0, evicted = 0, alive = 0, none_left = 0, gentle = 0,
               forgotten = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    Script script(seed);
    script.run();
    const AgentNetwork& net = script.net();
    ASSERT_EQ(net.fault(), "") << "seed " << seed << script.text();
    std::string states;
    for (const std::int32_t rank : net.live_ranks()) states += "\n  " + net.agent(rank).text();
    ASSERT_TRUE(net.settled()) << "seed " << seed << ": not settled" << script.text() << states;
    if (!script.hard()) {
      ASSERT_EQ(net.fences(), 0) << "seed " << seed << script.text();
      ++gentle;
    }
    events += net.events();
    views += net.installs();
    evicted += static_cast<std::int64_t>(net.evicted().size());
    alive += static_cast<std::int64_t>(net.live_ranks().size());
    none_left += net.live_ranks().empty() ? 1 : 0;
    forgotten += net.forgotten();
  }
  fmt::print(
      "campaign: agent random faults: {} scripts, {} events, {} views installed, {} ranks voted "
      "out, {} ranks live at the end, {} runs with nobody left, {} views known to the dead alone; "
      "{} scripts "
      "without stops and cuts: nobody alive went\n",
      count, events, views, evicted, alive, none_left, forgotten, gentle);
}

}  // namespace
}  // namespace elaswave::member
