// The directory of a run, log.dir: who may use it, and the reporter's files in it (checkpoints
// apart).
#pragma once

#include <optional>
#include <vector>

#include "app/options.h"
#include "io/base/file.h"
#include "io/metrics/metrics.h"

namespace elaswave::app {

/// Locks log.dir and checkpoint.dir, made when missing: one run at a time in a directory, or two
/// would delete each other's checkpoints and metrics. Code::usage when another run has one.
Result<std::vector<FileLock>> lock_directories(const Config& config);

/// metrics.jsonl, with config.toml beside it; nothing when log.dir is empty. A run resumed after a
/// step goes on in its own file, and lines of steps that will be run again are dropped; a run that
/// begins renames an earlier one's out of the way.
Result<std::optional<metrics::MetricsLog>> open_metrics(const Settings& settings, Step resumed);

}  // namespace elaswave::app
