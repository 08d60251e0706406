// Control links of the simulated world: connections with latency between the agents of ranks, as
// TCP has them. Internal to parallel/comm. THREADS: one.
//
// The host of a rank outlives its process: it refuses dials to one that has ended, answers what
// comes on a link nobody has with its end, and accepts for one that is stopped. Whatever a stopped
// rank's handler would be told waits, in order, until the rank goes on. Each link has a number that
// rises over the whole run; of two dials that cross, both ends keep the higher one.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/comm/control_link.h"
#include "parallel/comm/wire_sim.h"

namespace elaswave::comm {

class SimLinks {
 public:
  SimLinks(SimHost& host, const SimNetworkOptions& options);
  ~SimLinks();
  SimLinks(const SimLinks&) = delete;
  SimLinks& operator=(const SimLinks&) = delete;

  /// What the agent of `world_rank` calls; as long-lived as this object.
  ControlLinks& of(int world_rank);
  void attach(int world_rank, std::unique_ptr<ControlHandler> handler);
  /// Starts all handlers, in the order of ranks.
  void start();
  /// The moment of a scheduled event has come.
  void due(std::uint32_t event);

  /// The rank's process is gone: its links end, its handler is never called again.
  void ended(int world_rank);
  void stopped(int world_rank);
  void went_on(int world_rank);
  /// Loses what is under way between the two.
  void cut(int one, int other);

  /// Calls of handlers so far: agents that call for ever at one moment are a livelock.
  std::int64_t calls() const { return calls_; }

 private:
  class Port;
  enum class Kind : std::uint8_t {
    dial,
    accepted,
    refused,
    unreachable,
    message,
    end,      // of a link
    timer,    // local
    catch_up  // local: what waited for a stopped rank
  };
  /// On its way from one rank's host to another's, or to the rank itself.
  struct Parcel {
    Kind kind = Kind::message;
    bool lost = false;
    bool used = false;
    int from = 0, to = 0;
    std::uint64_t number = 0;  // of the link, the dial or the wish for a timer
    std::uint64_t dial = 0;    // accepted, refused: which dial
    std::vector<std::byte> bytes;
  };
  enum class What : std::uint8_t { opened, message, closed, refused, unreachable, timer };
  /// A call of a handler.
  struct Call {
    What what = What::timer;
    int peer = 0;
    std::uint64_t number = 0;
    std::vector<std::byte> bytes;
  };
  /// One rank's end of its link to a peer, as its host knows it.
  struct End {
    bool open = false;
    std::uint64_t number = 0;   // of the link open now or last
    std::uint64_t told = 0;     // the link the handler was told of last
    std::uint64_t dropped = 0;  // the handler wants nothing of links up to here
    std::uint64_t dialling = 0;
  };
  struct Agent {
    std::unique_ptr<ControlHandler> handler;
    std::unique_ptr<Port> port;
    std::map<int, End> ends;              // by peer
    std::map<int, Nanoseconds> arrivals;  // latest by destination: first in, first out
    std::deque<Call> waiting;             // for a stopped rank
    bool ended = false;
    bool stopped = false;
    Nanoseconds wake_at = -1;
    std::uint64_t wish = 0;
  };

  Agent& agent(int world_rank) { return agents_[static_cast<std::size_t>(world_rank)]; }
  std::uint32_t take_parcel();
  void post(Parcel parcel);
  void schedule(Nanoseconds at, Parcel parcel);

  void dial(int world_rank, int peer);
  void send(int world_rank, int peer, std::span<const std::byte> bytes);
  void close(int world_rank, int peer);
  void wake_at(int world_rank, Nanoseconds at);

  void arrive(Parcel parcel);
  void arrive_dial(const Parcel& parcel);
  void arrive_answer(const Parcel& parcel);
  void arrive_on_link(Parcel parcel);
  void lost(const Parcel& parcel);
  void tell(int world_rank, Call call);
  bool still_wanted(int world_rank, const Call& call);
  void call(int world_rank, const Call& call);

  SimHost& host_;
  SimNetworkOptions options_;
  std::vector<Agent> agents_;
  std::deque<Parcel> parcels_;  // by event
  std::vector<std::uint32_t> free_parcels_;
  std::uint64_t links_ = 0;
  std::uint64_t dials_ = 0;
  std::int64_t calls_ = 0;
};

}  // namespace elaswave::comm
