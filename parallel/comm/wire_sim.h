// The network of the simulated world: as unhelpful as Open MPI was measured to be. Small sends
// complete at once and prove nothing; larger ones complete only after the receiver posted and
// polled; nothing reaches a buffer unless its owner polls; order holds within (source, tag) alone;
// abandoned receives that a message already matched are still written to later; nobody is told of a
// dead peer. Internal to parallel/comm. THREADS: one.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "io/base/clock.h"
#include "parallel/comm/wire.h"

namespace elaswave::comm {

/// Random numbers of the simulation: a counter through the SplitMix64 finalizer.
class SimRandom {
 public:
  explicit SimRandom(std::uint64_t seed);
  std::uint64_t next();
  /// Uniform in [0, bound), bound >= 1.
  std::uint64_t below(std::uint64_t bound);

 private:
  std::uint64_t state_;
};

/// What the network needs of the scheduler.
class SimHost {
 public:
  virtual ~SimHost() = default;
  virtual Nanoseconds now() const = 0;
  /// Calls SimNetwork::due(event) at virtual time `at`; ties in order of the calls.
  virtual void schedule(Nanoseconds at, std::uint32_t event) = 0;
  /// Likewise SimLinks::due(event).
  virtual void schedule_link(Nanoseconds at, std::uint32_t event) = 0;
  virtual bool is_cut(int one, int other) const = 0;
  /// Something has happened that `world_rank` may be waiting for.
  virtual void wake(int world_rank) = 0;
  /// Folds an event into the trace hash.
  virtual void trace(std::uint64_t event) = 0;
  virtual SimRandom& random() = 0;
};

struct SimNetworkOptions {
  int ranks = 1;
  Nanoseconds latency_min = 0;
  Nanoseconds latency_max = 0;
  std::int64_t eager_bytes = 0;
};

class SimNetwork {
 public:
  SimNetwork(SimHost& host, SimNetworkOptions options);

  std::unique_ptr<Wire> wire(int world_rank);
  /// The moment of a scheduled event has come.
  void due(std::uint32_t event);

  // Faults. A rank that does not run moves no large message: those it sends wait until it goes on;
  // when it was killed, some had left already and the others never arrive.
  void killed(int world_rank);
  void stopped(int world_rank);
  void went_on(int world_rank);
  /// What was held up by the cut goes on its way.
  void healed(int one, int other);

 private:
  friend class SimWire;
  struct Message {
    int from = 0, to = 0;
    Tag tag = 0;
    Token token = 0;  // of the sender's request
    bool eager = false;
    bool arrived = false;
    bool matched = false;
    bool departed = false;  // though its sender does not run
    bool lost = false;      // with its sender
    Nanoseconds arrival = 0;
    Token receive_token = 0;
    std::span<std::byte> target;
    std::span<const std::byte> bytes;  // in `copy`, or still in the sender's buffer
    std::vector<std::byte> copy;
  };
  struct Posted {
    Token token = 0;
    std::span<std::byte> buffer;
  };
  /// (source, tag) in one word. Keys stand apart from what they name: they are searched for every
  /// message.
  static std::uint64_t key(int from, Tag tag) {
    return static_cast<std::uint64_t>(from) << 32 | static_cast<std::uint32_t>(tag);
  }
  struct Rank {
    std::vector<std::uint64_t> posted_keys;  // unmatched receives, oldest first
    std::vector<Posted> posted;
    std::vector<std::uint64_t> inbox_keys;  // undelivered messages to this rank, oldest first
    std::vector<std::uint32_t> inbox;
    std::vector<std::uint32_t> deliverable;  // matched and arrived
    std::vector<Completion> completions;     // not yet polled
    bool halted = false;                     // killed or stopped
  };

  void send(int from, int to, Tag tag, std::span<const std::byte> bytes, Token token);
  void post(int rank, int from, Tag tag, std::span<std::byte> buffer, Token token);
  void poll(int rank, std::vector<Completion>& completed);
  void abandon(int rank, Token token);
  void poll_around_halted(Rank& self, std::vector<Completion>& completed);
  void deliver(std::uint32_t id, std::vector<Completion>& completed);
  std::uint32_t take_message();
  Nanoseconds latency();

  SimHost& host_;
  SimNetworkOptions options_;
  std::vector<Rank> ranks_;
  std::deque<Message> messages_;  // by id; a deque: references stay valid
  std::vector<std::uint32_t> free_messages_;
  std::vector<std::uint32_t> held_;  // events between ranks that are cut off from one another
  int halted_ = 0;                   // ranks
};

}  // namespace elaswave::comm
