// Membership of this process in the run: the agent with its thread, links and claims, as the
// program uses it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "elastic/member/view_board.h"
#include "io/base/clock.h"
#include "io/base/error.h"
#include "parallel/comm/world.h"

namespace elaswave::member {

struct MembershipOptions {
  Nanoseconds heartbeat = 100 * kMillisecond;
  Nanoseconds silence = 3 * kSecond;
  Nanoseconds patience = 20 * kSecond;
  /// A directory all ranks see, where the exact half that goes on is decided; made when missing.
  /// Empty, or not seen alike by all ranks: the half with the lowest world rank goes on.
  std::string claim_directory;
  /// The same on all ranks. Two starts under one id do not mix either.
  std::uint64_t run = 0;
  /// Name or IPv4 address of the interface to listen on. Empty: ELASWAVE_AGENT_INTERFACE; without
  /// it the loopback interface when all ranks are on one host, all interfaces otherwise.
  std::string interface;
  /// For the exchange at the start.
  Nanoseconds start_patience = 60 * kSecond;
  /// While judge(Judged::yes) holds: a process that waits for no peer and makes no progress for so
  /// long, at least (Watchdog::limit), ends itself; a peer waited for longer is asked whether it is
  /// there. 0: never.
  Nanoseconds hang = 0;
  /// Ends the process. Called on the agent's thread: with 7 when the process is still there 5 s
  /// after it was fenced, stuck where no view reaches it; with 70 when it hangs. Null: a line in
  /// the log.
  void (*leave_now)(int code) noexcept = nullptr;
  /// A cut on purpose: agents of ranks that are not reachable hear nothing of each other. Called on
  /// the agent's thread; empty in a real run.
  std::function<bool(int peer)> reachable;
};

enum class Judged : std::uint8_t { no, yes };

class Membership {
 public:
  /// COLLECTIVE over all ranks of `world`, in generation 0: opens the listener, exchanges
  /// addresses, starts the agent's thread. Fails on all ranks or on none, but for a rank whose
  /// thread cannot start. `world` must live until leave() has returned.
  static Result<std::unique_ptr<Membership>> start(comm::World& world,
                                                   const MembershipOptions& options);
  /// Ends the thread without a goodbye, unless leave() was called: peers take this process for
  /// dead.
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  /// THREADS: any.
  ViewBoard& board();
  /// The data plane waits in vain for `peer`: asks whether it is there. THREADS: any, before
  /// leave().
  void accuse(int peer);
  /// Whether it would be a fault of this process to stand still: from the first step to the last,
  /// whose pace is known. Not at the start. Cheap. THREADS: any.
  void judge(Judged judged);
  /// Says goodbye to the peers and ends the thread. Returns within about a second whatever happens.
  /// The second call does nothing. THREADS: one caller.
  void leave();

  /// How ties are decided here: true by claims.
  bool claims() const;

 private:
  struct Parts;
  explicit Membership(std::unique_ptr<Parts> parts);

  void end();

  std::unique_ptr<Parts> parts_;
  bool left_ = false;
};

}  // namespace elaswave::member
