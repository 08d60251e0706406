// When `elaswave launch` stops waiting for ranks: a pure state machine over what it sees each tick.
// With recovery enabled mpirun itself never ends a run, not even one whose program cannot be
// executed, so every wait of the launcher is bounded here.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "app/launch_rules.h"
#include "io/base/clock.h"

namespace elaswave::app {

struct LaunchLimits {
  // No rank process seen and no report: mpirun could not start them.
  Nanoseconds start = 60 * kSecond;
  // After a rank left because something is wrong, the others notice or are hung.
  Nanoseconds after_failure = 10 * kSecond;
  // After a rank finished, the others may still be writing.
  Nanoseconds after_finish = 120 * kSecond;
  // After the first request to stop: a step and a save.
  Nanoseconds after_stop = 600 * kSecond;
  // After a second request, the person is in a hurry.
  Nanoseconds after_second_stop = 5 * kSecond;
  // All ranks are gone but mpirun is not.
  Nanoseconds launcher_exit = 10 * kSecond;
};

/// What is true at one tick.
struct LaunchSight {
  std::int64_t live_ranks = 0;
  std::span<const RankOutcome> reports;
  std::int64_t stop_requests = 0;  // TERM and INT received so far
};

enum class LaunchAct {
  wait,
  end_ranks,     // kill the rank processes that are left
  end_launcher,  // kill mpirun (and whatever it still has)
};

class LaunchWatch {
 public:
  LaunchWatch(Nanoseconds now, LaunchLimits limits) : limits_(limits), started_(now) {}

  LaunchAct tick(Nanoseconds now, const LaunchSight& sight);

  /// Why the last act other than wait was taken, one line.
  const std::string& reason() const { return reason_; }
  bool ranks_were_seen() const { return ranks_seen_; }
  /// Something is going on that deserves short ticks: start, end, or a request to stop.
  bool busy() const { return !ranks_seen_ || left_.code >= 0 || stop_count_ > 0 || gone_ >= 0; }

 private:
  struct Left {
    std::int64_t world_rank = -1;
    int code = -1;
    Nanoseconds at = 0;
  };
  void note(Nanoseconds now, const LaunchSight& sight);
  bool ranks_overdue(Nanoseconds now);
  LaunchAct because(LaunchAct act, std::string reason);

  LaunchLimits limits_;
  Nanoseconds started_;
  bool ranks_seen_ = false;
  Nanoseconds gone_ = -1;  // when the last rank process was found gone
  Left left_;              // the report whose limit runs
  std::int64_t stop_count_ = 0;
  Nanoseconds first_stop_ = 0, second_stop_ = 0;
  std::string reason_;
};

}  // namespace elaswave::app
