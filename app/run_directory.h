// The directory of a run, log.dir: who may use it, and the reporter's files in it (checkpoints
// apart). io/metrics/README.md, "A reporter that may die".
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/options.h"
#include "io/base/file.h"
#include "io/metrics/events.h"
#include "io/metrics/metrics.h"

namespace elaswave::app {

/// Locks log.dir and checkpoint.dir, made when missing: one run at a time in a directory, or two
/// would delete each other's checkpoints and metrics. Code::usage when another run has one.
Result<std::vector<FileLock>> lock_directories(const Config& config);

/// metrics.jsonl and events.jsonl, of which one rank at a time is the writer. Every rank has an
/// object; those that are not the reporter write nothing until they take over. THREADS: one caller.
/// A disk that fails costs the files, not the run: writing says so once and then does nothing.
class RunFiles {
 public:
  /// Of a run without files.
  RunFiles() = default;

  /// The first reporter's, with config.toml beside them. A run resumed after a step goes on in its
  /// own files, and metrics of steps that will be run again are dropped; a run that begins renames
  /// an earlier one's files out of the way.
  static Result<RunFiles> open(const Settings& settings, Step resumed, std::vector<FileLock> locks);
  /// Any other rank's. REQUIRES: the first reporter has its locks, or this rank cannot tell its
  /// own run's lock from that of a run that came after all had died.
  static RunFiles follow(const Config& config);

  /// This rank reports from now on, whatever its predecessors do: they may be stopped, not dead,
  /// and wake up later. REQUIRES: no predecessor has a higher world rank (the reporter is the
  /// lowest live rank, so that holds for ranks that never come back).
  void take_over(std::int32_t world_rank);

  bool wanted() const { return !log_dir_.empty(); }
  /// Of the metrics; 0 when there are none, or none are written any more.
  Step last_step() const { return metrics_ ? metrics_->last_step() : Step{0}; }

  /// A line for a step that has one already is left out.
  void write(const metrics::MetricsLine& line);
  void write(const metrics::Event& event);

 private:
  struct Owner {
    std::string job;
    std::int32_t world_rank = 0;
  };
  static std::vector<std::string> directories(const Config& config);
  static std::optional<Owner> owner_of(const std::string& lock_path);
  friend Result<std::vector<FileLock>> lock_directories(const Config& config);

  Result<void> take_over_all(std::int32_t world_rank);
  Result<void> keep_names();
  bool keep();
  void give_up(const Error& error);

  std::string log_dir_;
  std::vector<std::string> locked_;  // directories with a .lock
  std::string job_;                  // of the run's first reporter; empty: not known
  std::int32_t world_rank_ = 0;
  std::vector<FileLock> locks_;
  std::optional<metrics::MetricsLog> metrics_;
  std::optional<metrics::EventLog> events_;
};

}  // namespace elaswave::app
