// Agents in one process over links that are slow, cut, refused and lost, under one seeded clock;
// what must never happen is looked for after every event. Deterministic: equal options and calls
// give equal runs.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "elastic/member/agent.h"
#include "elastic/member/agent_messages.h"
#include "io/base/philox.h"

namespace elaswave::member {

inline constexpr Nanoseconds kMs = 1'000'000;

/// Draws as a function of a seed.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : stream_(random_stream(seed, RandomUse::test)) {}
  /// 0 <= result < count
  std::int64_t below(std::int64_t count) {
    const auto word = random_word(stream_, at_++);
    return static_cast<std::int64_t>(
        static_cast<std::uint64_t>(word) * static_cast<std::uint64_t>(count) >> 32);
  }
  bool one_in(std::int64_t count) { return below(count) == 0; }

 private:
  RandomStream stream_;
  std::uint64_t at_ = 0;
};

class AgentNetwork {
 public:
  struct Options {
    std::int32_t world_size = 4;
    std::uint64_t seed = 1;
    bool claims = false;
    Nanoseconds latency_least = kMs / 10;
    Nanoseconds latency_most = kMs;
    Nanoseconds dial_timeout = 500 * kMs;
    Nanoseconds silence = 3000 * kMs;
    Nanoseconds patience = 20000 * kMs;
    /// Fenced processes are gone after so long at most.
    Nanoseconds exit_most = 50 * kMs;
  };
  enum class Life : std::uint8_t { running, stopped, fenced, left, dead };
  /// When a rank dies by itself: at the count-th message of a kind that it sends or is handed. Or
  /// it is cut off from all others just before it sends that message.
  struct Trigger {
    Kind kind = Kind::hello;
    std::int32_t count = 1;
    bool receiver = false;
    bool cut_off = false;
  };

  explicit AgentNetwork(const Options& options);

  void run_for(Nanoseconds time);
  Nanoseconds now() const { return now_; }

  void kill(std::int32_t rank);
  /// The host goes: nothing is closed and nothing answers.
  void unplug(std::int32_t rank);
  void stop(std::int32_t rank);
  void go_on(std::int32_t rank);
  void cut(std::int32_t a, std::int32_t b);
  void heal(std::int32_t a, std::int32_t b);
  /// The link ends for both, with what was on its way.
  void reset(std::int32_t a, std::int32_t b);
  void slow(std::int32_t rank, Nanoseconds most) { nodes_[at(rank)].delay = most; }
  void leave(std::int32_t rank);
  void accuse(std::int32_t by, std::int32_t whom);
  void garble(std::int32_t from, std::int32_t to, std::vector<std::byte> bytes);
  void no_store(std::int32_t rank) { nodes_[at(rank)].store = false; }
  void arm(Trigger trigger) { trigger_ = trigger; }

  std::int32_t size() const { return options_.world_size; }
  Life life(std::int32_t rank) const { return nodes_[at(rank)].life; }
  bool live(std::int32_t rank) const { return life(rank) <= Life::stopped; }
  const Agent& agent(std::int32_t rank) const { return *nodes_[at(rank)].agent; }
  std::vector<std::int32_t> live_ranks() const;
  /// Every live rank is in a view of exactly the live ranks and doubts nobody.
  bool settled() const;
  /// Ranks some installed view lost.
  const std::set<std::int32_t>& evicted() const { return evicted_; }
  /// The first thing that must not happen; empty: nothing did.
  const std::string& fault() const { return fault_; }
  bool triggered() const { return triggered_; }
  std::int64_t events() const { return events_; }
  std::int64_t messages() const { return messages_; }
  std::int64_t messages(Kind kind) const { return by_kind_[static_cast<std::size_t>(kind)]; }
  std::int64_t fences() const { return fences_; }
  std::int64_t forgotten() const { return forgotten_; }
  std::uint64_t trace() const { return trace_; }
  std::int64_t links() const { return static_cast<std::int64_t>(links_.size()); }
  /// When the last Install so far came, and how many there were.
  Nanoseconds last_install() const { return last_install_; }
  std::int64_t installs() const { return installs_; }

 private:
  struct Item {
    Nanoseconds ready_at = 0;
    enum class What : std::uint8_t { open, bytes, end } what = What::bytes;
    std::vector<std::byte> bytes;
  };
  struct Way {
    std::deque<Item> items;
    Nanoseconds last_ready = 0;
    bool open = false;    // the receiving end listens
    bool opened = false;  // and has been told
  };
  struct Connection {
    std::uint64_t id = 0;
    std::array<Way, 2> ways;  // 0: from the lower rank
  };
  struct Waiting {  // an event for a stopped process
    Event event;
    std::vector<std::byte> bytes;
  };
  struct Node {
    std::unique_ptr<Agent> agent;
    Life life = Life::running;
    bool silent_death = false;
    bool store = true;
    Nanoseconds delay = 0;
    std::deque<Waiting> inbox;
    Nanoseconds wake_at = -1;
    std::uint64_t wake_id = 0;
    std::uint32_t generation = 0;
    std::set<std::int32_t> dialing;
  };
  enum class Do : std::uint8_t { pump, wake, dial, refused, unreachable, claim, exit };
  struct Planned {
    Nanoseconds time = 0;
    std::uint64_t sequence = 0;
    Do what = Do::pump;
    std::int32_t a = 0, b = 0;
    std::uint64_t id = 0;
    bool operator>(const Planned& other) const {
      return std::pair(time, sequence) > std::pair(other.time, other.sequence);
    }
  };
  using Pair = std::pair<std::int32_t, std::int32_t>;
  using Value = std::vector<std::int32_t>;

  static std::size_t at(std::int32_t rank) { return static_cast<std::size_t>(rank); }
  static Pair ordered(std::int32_t a, std::int32_t b) { return a < b ? Pair{a, b} : Pair{b, a}; }
  static bool ended(Life life) { return life >= Life::fenced; }
  Nanoseconds latency();
  void plan(Nanoseconds time, Do what, std::int32_t a, std::int32_t b = 0, std::uint64_t id = 0);
  void perform(const Planned& planned);
  void pump(std::int32_t from, std::int32_t to, std::uint64_t id);
  void push(std::int32_t from, std::int32_t to, Item item);
  void connect(std::int32_t from, std::int32_t to);
  void end_links(std::int32_t rank);
  void hand(std::int32_t rank, Waiting waiting);
  void step(std::int32_t rank, const Waiting& waiting);
  void carry_out(std::int32_t rank, const std::vector<Effect>& effects);
  void send(std::int32_t rank, const Send& effect);
  void close(std::int32_t rank, std::int32_t peer);
  bool fires(const Message& message, bool receiver);
  void cut_off(std::int32_t rank);

  // Oracles.
  void wrong(std::int32_t rank, const std::string& what);
  void look_at_message(std::int32_t rank, const Message& message);
  void look_at_install(std::int32_t rank, const Install& install);
  /// A rank that has not ended and installed or accepted `value`.
  std::optional<std::int32_t> witness_of(std::uint32_t generation, const Value& value) const;
  void look_for_quorum(std::int32_t rank, const Install& install);
  void look_for_two(std::int32_t rank);
  bool whole(const View& view) const;

  Options options_;
  Dice dice_;
  Nanoseconds now_ = 0;
  std::vector<Node> nodes_;
  std::map<Pair, Connection> links_;
  std::set<Pair> cut_;
  std::priority_queue<Planned, std::vector<Planned>, std::greater<>> queue_;
  std::uint64_t sequence_ = 0, connections_ = 0, trace_ = 0;
  std::map<std::uint32_t, std::vector<std::byte>> claims_;
  std::map<std::pair<std::int32_t, std::uint64_t>, Claim> asked_;
  std::optional<Trigger> trigger_;
  bool triggered_ = false;

  std::map<std::pair<std::uint32_t, Ballot>, std::pair<Value, std::set<std::int32_t>>> accepted_;
  std::map<std::uint32_t, std::map<Value, std::set<std::int32_t>>> installed_;
  std::map<std::uint32_t, Value> voters_;  // members by generation, as first installed
  std::set<std::int32_t> evicted_;
  std::string fault_;
  std::int64_t events_ = 0, messages_ = 0, forgotten_ = 0, installs_ = 0, fences_ = 0;
  std::vector<std::int64_t> by_kind_;
  Nanoseconds last_install_ = 0;
};

}  // namespace elaswave::member
