// Control links over TCP: one listener, one thread, one io_context. The agent runs on that thread
// and nothing there blocks but the claim store. Children inherit no socket; no signal is handled or
// raised.
//
// A connection begins with a greeting in both directions (who, of which run), so that a foreign
// program's is dropped unread. Two agents that dial each other at once end up with one link, the
// same at both ends: see accepted() in tcp_links.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "elastic/member/tcp_connection.h"
#include "io/base/clock.h"
#include "io/base/error.h"
#include "parallel/comm/control_link.h"

namespace elaswave::member {

struct TcpOptions {
  std::int32_t world_rank = 0;
  std::uint64_t run = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t listen_ipv4 = 0;  // host order; 0: all interfaces
  Nanoseconds dial_timeout = kSecond;
  Nanoseconds greeting_timeout = kSecond;
};

struct TcpPeer {
  TcpAddress address;
  std::uint64_t incarnation = 0;
};

class TcpLinks final : public comm::ControlLinks {
 public:
  /// Listens on a port that the system chooses. Peers may dial from now on; they are answered when
  /// the thread runs.
  static Result<std::unique_ptr<TcpLinks>> listen(std::uint32_t listen_ipv4);
  ~TcpLinks() override;
  TcpLinks(const TcpLinks&) = delete;
  TcpLinks& operator=(const TcpLinks&) = delete;

  std::uint16_t port() const;

  /// Starts the thread, which calls `handler` until it ends. `peers` by world rank, this one
  /// included. Once.
  Result<void> start(const TcpOptions& options, const std::vector<TcpPeer>& peers,
                     comm::ControlHandler& handler);
  /// Calls `work` on the thread; thrown away once the thread has ended. THREADS: any.
  void post(std::function<void(Nanoseconds now)> work);
  /// What was sent leaves, links and listener are closed, the thread ends: within half a second
  /// unless it is stuck in a call of the handler; then it is left behind and the answer is false:
  /// this object and the handler must stay for as long as the process. THREADS: the owner's.
  bool stop(Nanoseconds patience);

  // ControlLinks. THREADS: the handler's.
  void dial(int peer) override;
  void send(int peer, std::span<const std::byte> bytes) override;
  void close(int peer) override;
  void wake_at(Nanoseconds at) override;
  /// Ends all links and the listener, so that dials are refused: proof to the peers that this agent
  /// is gone for good. Timers and posted work go on.
  void shut();

 private:
  struct State;
  explicit TcpLinks(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;  // shared with the thread
};

}  // namespace elaswave::member
