#include "app/launch_watch.h"

#include <fmt/format.h>

namespace elaswave::app {
namespace {

bool is_failure(const RankExit& exit) {
  return ends_run(exit) && exit.code != 0 && exit.code != 8 && exit.code != 75;
}

}  // namespace

LaunchAct LaunchWatch::because(LaunchAct act, std::string reason) {
  reason_ = std::move(reason);
  return act;
}

void LaunchWatch::note(Nanoseconds now, const LaunchSight& sight) {
  if (sight.live_ranks > 0) ranks_seen_ = true;
  for (std::size_t rank = 0; rank < sight.reports.size(); ++rank) {
    const RankOutcome& report = sight.reports[rank];
    if (!report) continue;
    ranks_seen_ = true;
    // The first code that ends the run starts the clock; a failure after a finish restarts it,
    // shorter.
    const bool first = left_.code < 0 && ends_run(*report);
    const bool worse = left_.code >= 0 && !is_failure(left_.code) && is_failure(*report);
    if (first || worse)
      left_ = {.world_rank = static_cast<std::int64_t>(rank), .code = report->code, .at = now};
  }
  if (stop_count_ == 0 && sight.stop_requests > 0) first_stop_ = now;
  if (stop_count_ < 2 && sight.stop_requests > 1) second_stop_ = now;
  stop_count_ = sight.stop_requests;
  if (sight.live_ranks > 0 || !ranks_seen_)
    gone_ = -1;
  else if (gone_ < 0)
    gone_ = now;
}

bool LaunchWatch::ranks_overdue(Nanoseconds now) {
  if (left_.code >= 0) {
    const Nanoseconds limit = is_failure(left_.code) ? limits_.after_failure : limits_.after_finish;
    reason_ = fmt::format("rank {} left with code {} and others had not ended {} s later",
                          left_.world_rank, left_.code, limit / kSecond);
    if (now - left_.at >= limit) return true;
  }
  if (stop_count_ > 1) {
    reason_ = "a second request to stop came";
    if (now - second_stop_ >= limits_.after_second_stop) return true;
  }
  if (stop_count_ > 0) {
    reason_ = fmt::format("ranks had not ended {} s after the request to stop",
                          limits_.after_stop / kSecond);
    if (now - first_stop_ >= limits_.after_stop) return true;
  }
  reason_.clear();
  return false;
}

LaunchAct LaunchWatch::tick(Nanoseconds now, const LaunchSight& sight) {
  note(now, sight);
  if (!ranks_seen_) {
    if (stop_count_ > 0)
      return because(LaunchAct::end_launcher, "asked to stop before any rank was started");
    if (now - started_ >= limits_.start)
      return because(LaunchAct::end_launcher,
                     fmt::format("mpirun started no rank within {} s", limits_.start / kSecond));
    return LaunchAct::wait;
  }
  if (sight.live_ranks > 0) return ranks_overdue(now) ? LaunchAct::end_ranks : LaunchAct::wait;
  if (gone_ >= 0 && now - gone_ >= limits_.launcher_exit)
    return because(LaunchAct::end_launcher, fmt::format("mpirun had not ended {} s after its ranks",
                                                        limits_.launcher_exit / kSecond));
  return LaunchAct::wait;
}

}  // namespace elaswave::app
