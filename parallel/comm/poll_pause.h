// The pauses of a loop that asks again and again. Internal to parallel/comm.
#pragma once

#include <algorithm>

#include "io/base/clock.h"

namespace elaswave::comm {

/// Sleeps an eighth of the time waited so far: the answer is seen late by about that share of the
/// wait, and a long wait costs next to nothing.
class PollPause {
 public:
  PollPause(Clock& clock, Deadline deadline)
      : clock_(clock), deadline_(deadline), begin_(clock.now()) {}

  bool over() const { return deadline_.passed(clock_); }
  Nanoseconds waited() const { return clock_.now() - begin_; }
  void sleep() {
    const Nanoseconds left = deadline_.at - clock_.now();
    clock_.sleep(std::min(std::clamp(waited() / 8, kShortest, kLongest), left));
  }

 private:
  // A kernel of the shortest collective takes as long as the first; the last keeps the wait for a
  // peer of many minutes below a thousandth of a core and hears the agents soon enough.
  static constexpr Nanoseconds kShortest = 10'000;
  static constexpr Nanoseconds kLongest = kMillisecond;

  Clock& clock_;
  Deadline deadline_;
  Nanoseconds begin_;
};

}  // namespace elaswave::comm
