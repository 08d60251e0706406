// Control links with a cut on purpose (chaos.cut) between the agent and the real ones: while a peer
// is out of reach nothing passes in either direction, not even the end of a link. What was under
// way is late, as TCP would deliver it after the cut has healed. THREADS: the handler's.
#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "parallel/comm/control_link.h"

namespace elaswave::member {

/// Handler of the links below, links of the handler above. Both must outlive it.
class CutLinks final : public comm::ControlHandler, public comm::ControlLinks {
 public:
  struct Parts {
    comm::ControlLinks& below;
    std::function<bool(int peer)> reachable;
    Nanoseconds dial_timeout = kSecond;
    Nanoseconds tick = 10 * kMillisecond;  // how often it looks whether a cut has healed
  };
  explicit CutLinks(Parts parts) : parts_(std::move(parts)) {}
  /// REQUIRES: before start().
  void set_handler(comm::ControlHandler& above) { above_ = &above; }

  // From below.
  void start(Nanoseconds now) override;
  void opened(int peer, Nanoseconds now) override;
  void message(int peer, std::span<const std::byte> bytes, Nanoseconds now) override;
  void closed(int peer, Nanoseconds now) override;
  void refused(int peer, Nanoseconds now) override;
  void unreachable(int peer, Nanoseconds now) override;
  void timer(Nanoseconds now) override;

  // From above.
  void dial(int peer) override;
  void send(int peer, std::span<const std::byte> bytes) override;
  void close(int peer) override;
  void wake_at(Nanoseconds at) override;

 private:
  static constexpr Nanoseconds kNoWish = std::numeric_limits<Nanoseconds>::max();
  using Told = std::function<void(Nanoseconds now)>;
  struct Side {
    std::vector<Told> coming;                     // what the handler will be told
    std::vector<std::vector<std::byte>> leaving;  // what the peer will be sent
    bool dialled = false;                         // into the void: unreachable at `dial_ends`
    Nanoseconds dial_ends = 0;
  };
  /// True when nothing may pass the cut, or what waits there.
  bool holds(int peer);
  void tell(int peer, Nanoseconds now, Told told);
  void mend(Nanoseconds now);
  void wake();

  Parts parts_;
  comm::ControlHandler* above_ = nullptr;
  std::map<int, Side> sides_;   // of peers with something held
  Nanoseconds now_ = 0;         // of the newest event from below
  Nanoseconds wish_ = kNoWish;  // of the handler
};

}  // namespace elaswave::member
