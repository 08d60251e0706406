#include "app/run_directory.h"

#include <filesystem>
#include <fstream>
#include <set>

#include "io/base/clock.h"
#include "io/base/log.h"

namespace elaswave::app {
namespace {

/// The lines of an earlier run in the same folder are kept under another name.
Result<void> move_aside(const std::filesystem::path& path) {
  std::error_code problem;
  if (!std::filesystem::exists(path, problem) || std::filesystem::file_size(path, problem) == 0)
    return {};
  std::filesystem::path kept;
  for (int number = 1; kept.empty() || std::filesystem::exists(kept, problem); ++number)
    kept = path.string() + fmt::format(".{}", number);
  std::filesystem::rename(path, kept, problem);
  if (!problem) {
    log_warn("{} of an earlier run is now {}", path.string(), kept.string());
    return {};
  }
  return fail({.code = Code::io,
               .what = "cannot move the metrics of an earlier run aside",
               .where = path.string(),
               .why = problem.message(),
               .fix = "give another log.dir"});
}

}  // namespace

Result<std::optional<metrics::MetricsLog>> open_metrics(const Settings& settings, Step resumed) {
  const std::filesystem::path directory = settings.config.log.dir;
  if (directory.empty()) return std::nullopt;
  if (resumed == Step{0}) EW_TRY(move_aside(directory / "metrics.jsonl"));
  EW_ASSIGN(metrics::MetricsLog log, metrics::MetricsLog::open(directory.string(), resumed));
  const std::filesystem::path path = directory / "config.toml";
  std::ofstream file(path);
  Settings lasting = settings;
  lasting.config.train.fresh = false;  // once is enough: this file may start the run again
  file << config_toml(lasting);
  if (!file.flush())
    return fail({.code = Code::io,
                 .what = "cannot write the resolved configuration",
                 .where = path.string(),
                 .why = "the system refused",
                 .fix = "check permissions and free space of log.dir"});
  return std::optional<metrics::MetricsLog>(std::move(log));
}

Result<std::vector<FileLock>> lock_directories(const Config& config) {
  // A process that was just killed may hold its lock for a moment more.
  constexpr int kTries = 20;
  constexpr Nanoseconds kPause = 100 * kMillisecond;
  RealClock clock;
  std::vector<FileLock> locks;
  std::set<std::string> directories = {config.log.dir, config.checkpoint.dir};
  directories.erase("");
  for (const std::string& directory : directories) {
    EW_TRY(create_directories(directory));
    std::optional<FileLock> lock;
    for (int i = 0; i < kTries && !lock; ++i) {
      if (i > 0) clock.sleep(kPause);
      EW_ASSIGN(lock, FileLock::try_acquire(directory + "/.lock"));
    }
    if (!lock)
      return fail({.code = Code::usage,
                   .what = "another run is using this directory",
                   .where = directory,
                   .why = "its process holds .lock",
                   .fix = "wait for it, end it, or give another log.dir"});
    locks.push_back(*std::move(lock));
  }
  return locks;
}

}  // namespace elaswave::app
