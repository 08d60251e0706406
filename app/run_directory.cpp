#include "app/run_directory.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "io/base/clock.h"
#include "io/base/log.h"

namespace elaswave::app {
namespace {

constexpr const char* kLockName = "/.lock";

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
               .what = "cannot move a log of an earlier run aside",
               .where = path.string(),
               .why = problem.message(),
               .fix = "give another log.dir"});
}

Result<void> write_config(const Settings& settings, const std::filesystem::path& path) {
  std::ofstream file(path);
  Settings lasting = settings;
  lasting.config.train.fresh = false;  // once is enough: this file may start the run again
  lasting.config.chaos = {};           // so are faults on purpose
  file << config_toml(lasting);
  if (file.flush()) return {};
  return fail({.code = Code::io,
               .what = "cannot write the resolved configuration",
               .where = path.string(),
               .why = "the system refused",
               .fix = "check permissions and free space of log.dir"});
}

std::string lock_text(const std::string& job, std::int32_t world_rank) {
  return fmt::format("{} {}\n", job, world_rank);
}

}  // namespace

std::vector<std::string> RunFiles::directories(const Config& config) {
  std::set<std::string> names = {config.log.dir, config.checkpoint.dir};
  names.erase("");
  return {names.begin(), names.end()};
}

/// What lock_text() put there; nothing when it cannot be read.
std::optional<RunFiles::Owner> RunFiles::owner_of(const std::string& lock_path) {
  std::ifstream file(lock_path);
  Owner owner;
  if (file >> owner.job >> owner.world_rank) return owner;
  return std::nullopt;
}

Result<std::vector<FileLock>> lock_directories(const Config& config) {
  // A process that was just killed may hold its lock for a moment more.
  constexpr int kTries = 20;
  constexpr Nanoseconds kPause = 100 * kMillisecond;
  RealClock clock;
  // No two runs that meet in a directory share a process id and a moment.
  const std::string job = fmt::format("{}-{}", ::getpid(), clock.now());
  std::vector<FileLock> locks;
  for (const std::string& directory : RunFiles::directories(config)) {
    EW_TRY(create_directories(directory));
    std::optional<FileLock> lock;
    for (int i = 0; i < kTries && !lock; ++i) {
      if (i > 0) clock.sleep(kPause);
      EW_ASSIGN(lock, FileLock::try_acquire(directory + kLockName, lock_text(job, 0)));
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

RunFiles RunFiles::follow(const Config& config) {
  RunFiles files;
  files.log_dir_ = config.log.dir;
  files.locked_ = directories(config);
  for (const std::string& directory : files.locked_)
    if (const auto owner = owner_of(directory + kLockName)) files.job_ = owner->job;
  return files;
}

Result<RunFiles> RunFiles::open(const Settings& settings, Step resumed,
                                std::vector<FileLock> locks) {
  RunFiles files = follow(settings.config);
  files.locks_ = std::move(locks);
  if (!files.wanted()) return files;
  const std::filesystem::path directory = files.log_dir_;
  if (resumed == Step{0}) {
    EW_TRY(move_aside(directory / "metrics.jsonl"));
    EW_TRY(move_aside(directory / "events.jsonl"));
  }
  EW_ASSIGN(files.metrics_, metrics::MetricsLog::open(files.log_dir_, resumed));
  EW_ASSIGN(files.events_, metrics::EventLog::open(files.log_dir_));
  EW_TRY(write_config(settings, directory / "config.toml"));
  return files;
}

void RunFiles::take_over(std::int32_t world_rank) {
  if (auto taken = take_over_all(world_rank); !taken) give_up(taken.error());
}

Result<void> RunFiles::take_over_all(std::int32_t world_rank) {
  world_rank_ = world_rank;
  locks_.clear();
  for (const std::string& directory : locked_) {
    EW_TRY(create_directories(directory));
    const std::string path = directory + kLockName;
    const auto owner = owner_of(path);
    if (owner && !job_.empty() && owner->job != job_)
      return fail({.code = Code::usage,
                   .what = "another run has taken the directory of this one",
                   .where = directory,
                   .why = fmt::format("its .lock names run {}, this is run {}", owner->job, job_),
                   .fix = "this run goes on without files; end one of the two"});
    EW_ASSIGN(FileLock lock, FileLock::take_over(path, lock_text(job_, world_rank)));
    locks_.push_back(std::move(lock));
  }
  if (!wanted()) return {};
  EW_ASSIGN(metrics_, metrics::MetricsLog::take_over(log_dir_));
  EW_ASSIGN(events_, metrics::EventLog::take_over(log_dir_));
  return {};
}

/// Names can change hands while a process sleeps between two system calls. Of two that both believe
/// to be the reporter the later one, which has the higher world rank, takes its names back, and the
/// other gives up. Code::excluded for the other.
Result<void> RunFiles::keep_names() {
  for (FileLock& lock : locks_) {
    if (lock.path().empty() || lock.is_named()) continue;
    const auto owner = owner_of(lock.path());
    if (!owner) continue;  // removed by hand: not worth a run
    if (owner->job != job_ || owner->world_rank > world_rank_)
      return fail(
          {.code = Code::excluded,
           .what = "another process reports now",
           .where = lock.path(),
           .why = fmt::format("it belongs to rank {} of run {}", owner->world_rank, owner->job),
           .fix = "nothing; this process writes no metrics any more"});
    EW_ASSIGN(lock, FileLock::take_over(lock.path(), lock_text(job_, world_rank_)));
  }
  if (metrics_) EW_TRY(metrics_->keep_name());
  if (events_) EW_TRY(events_->keep_name());
  return {};
}

bool RunFiles::keep() {
  auto kept = keep_names();
  if (!kept) give_up(kept.error());
  return kept.has_value();
}

void RunFiles::give_up(const Error& error) {
  log_error("no more metrics and events from this rank: {}", error.text());
  metrics_.reset();
  events_.reset();
  locks_.clear();
}

void RunFiles::write(const metrics::MetricsLine& line) {
  if (!metrics_ || !keep() || line.step <= metrics_->last_step()) return;
  if (auto written = metrics_->write(line); !written) {
    log_error("metrics end before step {}: {}", raw(line.step), written.error().text());
    metrics_.reset();
  }
}

void RunFiles::write(const metrics::Event& event) {
  if (!events_ || !keep()) return;
  if (auto written = events_->write(event); !written) {
    log_error("events end before \"{}\": {}", event.name, written.error().text());
    events_.reset();
  }
}

}  // namespace elaswave::app
