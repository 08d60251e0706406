// Control links whose one timer serves two: the agent and the watchdog of its process.
#pragma once

#include <algorithm>
#include <limits>
#include <span>

#include "io/base/clock.h"
#include "parallel/comm/control_link.h"

namespace elaswave::member {

/// THREADS and errors as ControlLinks; `links` must outlive it. wake_at() is the agent's.
class TwoTimers final : public comm::ControlLinks {
 public:
  explicit TwoTimers(comm::ControlLinks& links) : links_(links) {}
  void dial(int peer) override { links_.dial(peer); }
  void send(int peer, std::span<const std::byte> bytes) override { links_.send(peer, bytes); }
  void close(int peer) override { links_.close(peer); }
  void wake_at(Nanoseconds at) override { wish(wake_at_, at); }
  void look_at(Nanoseconds at) { wish(look_at_, at); }
  /// True: that wish has come true, and is none any more.
  bool take_wake(Nanoseconds now) { return take(wake_at_, now); }
  bool take_look(Nanoseconds now) { return take(look_at_, now); }

 private:
  static constexpr Nanoseconds kNone = std::numeric_limits<Nanoseconds>::max();
  void wish(Nanoseconds& which, Nanoseconds at) {
    which = at;
    if (const Nanoseconds next = std::min(wake_at_, look_at_); next != kNone) links_.wake_at(next);
  }
  bool take(Nanoseconds& which, Nanoseconds now) {
    const bool due = now >= which;
    wish(which, due ? kNone : which);
    return due;
  }

  comm::ControlLinks& links_;
  Nanoseconds wake_at_ = kNone, look_at_ = kNone;
};

}  // namespace elaswave::member
