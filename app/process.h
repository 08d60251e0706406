// Child processes of the launcher, and nothing else's: start, watch, signal, end. Linux (/proc).
// OWNERSHIP: a ChildProcess that is still running when destroyed is killed and reaped.
// THREADS: one.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/base/clock.h"
#include "io/base/error.h"

namespace elaswave::app {

/// The first executable file of that name in PATH.
std::optional<std::string> find_in_path(const std::string& name);

/// The running program's own file.
Result<std::string> own_program();

enum class Output { inherit, capture };

struct ProcessWish {
  std::vector<std::string> arguments;                          // argv; argv[0] is the path
  std::vector<std::pair<std::string, std::string>> variables;  // added to the environment
  Output output = Output::inherit;                             // stdout and stderr
};

class ChildProcess {
 public:
  /// Starts it in a process group of its own (a terminal's Ctrl-C then reaches the launcher alone),
  /// stdin empty, no signal blocked, and TERM when the launcher dies.
  static Result<ChildProcess> start(const ProcessWish& wish);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  /// Reaps it when it has ended. The exit code, 128 + signal when killed; nothing while it runs.
  std::optional<int> poll();
  /// Only while it runs.
  void signal(int number) const;
  /// Reads captured output until its end or the deadline.
  Result<std::string> read_all(Nanoseconds limit);

 private:
  ChildProcess(pid_t pid, int output) : pid_(pid), output_(output) {}
  pid_t pid_ = -1;
  int output_ = -1;
  std::optional<int> code_;
};

/// Makes this process the parent of orphaned descendants, so that none can get away.
void adopt_orphans();

/// Live processes descended from this one (zombies left out), `except` left out too.
std::vector<pid_t> descendants(pid_t except);

/// Reaps whatever orphans have ended, `except` left alone.
void reap_orphans(pid_t except);

}  // namespace elaswave::app
