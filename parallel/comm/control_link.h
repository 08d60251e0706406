// Control links: small messages between the agents of world ranks, apart from World's data and
// alive when that is not. A link is a connection of two agents; both ends see its messages in
// order, and its end. Implementations: TCP (elastic/member/tcp_links) and the simulated world.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "io/base/clock.h"

namespace elaswave::comm {

/// What an agent's shell is told. THREADS: one call at a time, never from inside a call of
/// ControlLinks.
class ControlHandler {
 public:
  virtual ~ControlHandler() = default;
  /// Once, before anything else.
  virtual void start(Nanoseconds now) = 0;
  /// A link to `peer` stands, whoever dialled. A second one replaces the first.
  virtual void opened(int peer, Nanoseconds now) = 0;
  virtual void message(int peer, std::span<const std::byte> bytes, Nanoseconds now) = 0;
  /// The link has ended and this end did not close it: the peer's process is gone or closed it.
  virtual void closed(int peer, Nanoseconds now) = 0;
  /// A dial was refused: the peer's host answers and nobody listens where the agent did. Proof that
  /// this process has ended (or has shut its agent for good).
  virtual void refused(int peer, Nanoseconds now) = 0;
  /// A dial was not answered in time. Proof of nothing.
  virtual void unreachable(int peer, Nanoseconds now) = 0;
  /// The time asked for with wake_at() has come.
  virtual void timer(Nanoseconds now) = 0;
};

/// What a shell can do. Nothing here blocks. THREADS: the handler's.
class ControlLinks {
 public:
  virtual ~ControlLinks() = default;
  /// Ends in exactly one of opened, refused, unreachable; nothing while a dial or a link is there.
  virtual void dial(int peer) = 0;
  /// Dropped when there is no link. Arrival is not promised.
  virtual void send(int peer, std::span<const std::byte> bytes) = 0;
  /// Ends a link or a dial; the peer sees closed().
  virtual void close(int peer) = 0;
  /// Replaces the last wish.
  virtual void wake_at(Nanoseconds at) = 0;
};

}  // namespace elaswave::comm
