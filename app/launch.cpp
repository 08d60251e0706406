// `elaswave launch -n N [--] train ...`: N ranks of this program on this host under mpirun, signals
// passed on, and the run's true exit code.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <utility>

#include "app/commands.h"
#include "app/exit_report.h"
#include "app/launch_rules.h"
#include "app/launch_watch.h"
#include "app/options.h"
#include "app/process.h"

namespace elaswave::app {
namespace {

constexpr Nanoseconds kVersionLimit = 10 * kSecond;
// While something is going on, and while ranks just train: looking costs a walk through /proc.
constexpr int kBusyTickMs = 100;
constexpr int kQuietTickMs = 1000;
// Between TERM and KILL for mpirun: it removes its session directory in between.
constexpr Nanoseconds kTermGrace = 3 * kSecond;

Error launch_error(std::string what, std::string why, std::string fix) {
  return {.code = Code::unrecoverable,
          .what = std::move(what),
          .where = "elaswave launch",
          .why = std::move(why),
          .fix = std::move(fix)};
}

/// The private directory of one run; gone with this object.
class RunDir {
 public:
  static Result<RunDir> create() {
    const char* base = std::getenv("TMPDIR");
    std::string name =
        fmt::format("{}/elaswave-run-XXXXXX", base == nullptr || *base == '\0' ? "/tmp" : base);
    if (::mkdtemp(name.data()) == nullptr)
      return fail(launch_error(fmt::format("cannot make the run directory {}", name),
                               std::strerror(errno),
                               "set TMPDIR to a directory on this host that can be written"));
    return RunDir(std::move(name));
  }
  RunDir(const RunDir&) = delete;
  RunDir& operator=(const RunDir&) = delete;
  RunDir(RunDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  RunDir& operator=(RunDir&&) = delete;
  ~RunDir() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit RunDir(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

/// TERM, INT, HUP, USR1 and CHLD as something to poll. They stay blocked to the end of the process:
/// one that comes late must not take the place of the run's exit code.
class Signals {
 public:
  static Result<Signals> block() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD}) ::sigaddset(&set, number);
    Signals signals;
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    signals.file_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals.file_ < 0)
      return fail(launch_error("cannot watch signals", std::strerror(errno),
                               "check the limit on open files (ulimit -n)"));
    return signals;
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  Signals(Signals&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  Signals& operator=(Signals&&) = delete;
  ~Signals() {
    if (file_ >= 0) ::close(file_);
  }

  /// Waits for at most `limit_ms`, then returns the signals that came, SIGCHLD left out.
  std::vector<int> wait(int limit_ms) const {
    pollfd wait{.fd = file_, .events = POLLIN, .revents = 0};
    ::poll(&wait, 1, limit_ms);
    std::vector<int> numbers;
    signalfd_siginfo info{};
    while (::read(file_, &info, sizeof info) == static_cast<ssize_t>(sizeof info))
      if (info.ssi_signo != SIGCHLD) numbers.push_back(static_cast<int>(info.ssi_signo));
    return numbers;
  }

 private:
  Signals() = default;
  int file_ = -1;
};

struct LaunchRequest {
  std::int64_t ranks = 0;
  std::vector<std::string> command;  // "train", ...
};

Result<std::optional<LaunchRequest>> parse_launch(Arguments arguments) {
  LaunchRequest request;
  CLI::App app("Starts N ranks of this program on this host and returns their exit code.",
               "elaswave launch");
  app.add_option("-n,--ranks", request.ranks, "ranks to start")->required();
  app.prefix_command();
  app.footer("then: [--] train ...   what every rank runs");
  EW_ASSIGN(const Parse parse, parse_arguments(app, arguments, "elaswave launch"));
  if (parse == Parse::helped) return std::optional<LaunchRequest>();
  request.command = app.remaining();
  if (!request.command.empty() && request.command.front() == "--")
    request.command.erase(request.command.begin());
  Error error{.code = Code::usage,
              .what = "",
              .where = "command line",
              .why = "",
              .fix = "elaswave launch -n 2 -- train --config=configs/tiny.toml ..."};
  if (request.ranks < 1 || request.ranks > 4096) {
    error.what = fmt::format("cannot start {} ranks", request.ranks);
    error.why = "-n takes 1 to 4096";
    return fail(std::move(error));
  }
  if (request.command.empty() || request.command.front() != "train") {
    error.what = request.command.empty()
                     ? std::string("nothing to launch")
                     : fmt::format("cannot launch '{}'", request.command.front());
    error.why = "only train runs on several ranks";
    return fail(std::move(error));
  }
  return std::optional<LaunchRequest>(std::move(request));
}

struct Launcher {
  std::string path;
  LauncherVersion version;
};

Result<Launcher> find_launcher() {
  const auto path = find_in_path("mpirun");
  if (!path)
    return fail(launch_error("cannot start ranks: there is no mpirun", "no mpirun in PATH",
                             "install Open MPI (scripts/setup.sh), or add its bin to PATH"));
  EW_ASSIGN(ChildProcess child,
            ChildProcess::start(
                {.arguments = {*path, "--version"}, .variables = {}, .output = Output::capture}));
  EW_ASSIGN(const std::string text, child.read_all(kVersionLimit));
  EW_ASSIGN(const LauncherVersion version, parse_launcher_version(text));
  return Launcher{*path, version};
}

/// One launch from its first to its last process.
class Run {
 public:
  Run(const LaunchRequest& request, RunDir dir, Signals signals)
      : ranks_(request.ranks), dir_(std::move(dir)), signals_(std::move(signals)) {}

  Result<int> go(const Launcher& launcher, const LaunchRequest& request) {
    EW_ASSIGN(const std::string program, own_program());
    LaunchWish wish{.ranks = ranks_,
                    .user = ::geteuid() == 0 ? User::root : User::ordinary,
                    .mpirun = launcher.path,
                    .program = program,
                    .arguments = request.command,
                    .exported = elaswave_environment(),
                    .notes = open_notes()};
    wish.exported[kRunDirVariable] = dir_.path();
    if (::isatty(STDOUT_FILENO) == 1) wish.exported[kTerminalVariable] = "1";
    LaunchPlan plan = plan_launch(launcher.version, wish);
    for (const auto& exported : wish.exported) plan.variables.push_back(exported);
    adopt_orphans();
    EW_ASSIGN(ChildProcess mpirun, ChildProcess::start({.arguments = std::move(plan.arguments),
                                                        .variables = std::move(plan.variables),
                                                        .output = Output::inherit}));
    const int launcher_code = watch(mpirun);
    return verdict(launcher_code);
  }

 private:
  std::string notes_path() const { return dir_.path() + "/notes"; }

  /// Where mpirun writes that it could not tell ranks of a death: seven lines for one lost rank of
  /// eight, who were told by their agents. It stays open in mpirun; -1 when it cannot be made.
  int open_notes() const {
    return ::open(notes_path().c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  }

  void show_notes() const {
    std::ifstream file(notes_path());
    for (std::string line; std::getline(file, line);) std::fprintf(stderr, "%s\n", line.c_str());
  }

  /// Until mpirun has ended; returns its own exit code.
  int watch(ChildProcess& mpirun) {
    LaunchWatch watch(clock_.now(), LaunchLimits{});
    std::optional<int> code;
    while (!(code = mpirun.poll())) {
      const std::vector<pid_t> ranks = descendants(mpirun.pid());
      pass_on(signals_.wait(watch.busy() ? kBusyTickMs : kQuietTickMs), ranks);
      const auto reports = read_exit_reports(dir_.path(), ranks_);
      const LaunchAct act = watch.tick(
          clock_.now(),
          {.live_ranks = std::ssize(ranks), .reports = reports, .stop_requests = stop_requests_});
      if (act == LaunchAct::end_ranks) end_ranks(watch.reason());
      if (act == LaunchAct::end_launcher) end_launcher(mpirun, watch.reason());
      reap_orphans(mpirun.pid());
    }
    // mpirun may itself have been killed: nothing of this run is to outlive the launcher.
    end_ranks("mpirun ended before its ranks");
    return *code;
  }

  void pass_on(const std::vector<int>& numbers, const std::vector<pid_t>& ranks) {
    for (const int number : numbers) {
      asked_to_stop_ = true;
      // USR1 means "save and stop" to a rank; with no rank there to hear it, it is a stop as well.
      if (number != SIGUSR1 || ranks.empty()) ++stop_requests_;
      // Ctrl-C and a closed terminal are requests to stop like any other; ranks know TERM and USR1.
      for (const pid_t rank : ranks) ::kill(rank, number == SIGUSR1 ? SIGUSR1 : SIGTERM);
    }
  }

  void end_ranks(const std::string& reason) {
    for (const pid_t rank : descendants(-1)) {
      if (ended_count_++ == 0) say(fmt::format("ending the ranks that are left: {}", reason));
      ::kill(rank, SIGKILL);
    }
  }

  void end_launcher(ChildProcess& mpirun, const std::string& reason) {
    say(fmt::format("ending mpirun: {}", reason));
    mpirun.signal(SIGTERM);
    const Deadline deadline = Deadline::after(clock_, kTermGrace);
    while (!mpirun.poll() && !deadline.passed(clock_)) clock_.sleep(kMillisecond * 20);
    mpirun.signal(SIGKILL);
    trouble_ = reason;
  }

  Result<int> verdict(int launcher_code) const {
    const auto outcomes = read_exit_reports(dir_.path(), ranks_);
    std::map<std::string, std::vector<std::size_t>> by_outcome;
    for (std::size_t rank = 0; rank < outcomes.size(); ++rank)
      by_outcome[outcomes[rank] ? fmt::format("left with code {}", outcomes[rank]->code)
                                : std::string("ended without a word (killed?)")]
          .push_back(rank);
    const bool none = std::none_of(outcomes.begin(), outcomes.end(),
                                   [](const RankOutcome& outcome) { return outcome.has_value(); });
    // Stopped before the ranks could say so; but ranks that ignored a request are hung, not
    // stopped.
    const bool obeyed = ended_count_ == 0 || stop_requests_ > 1;
    if (none && asked_to_stop_ && obeyed) return exit_code(Code::stopped);
    if (none) show_notes();
    if (none)
      return fail(launch_error(
          fmt::format("none of the {} ranks got to its end", ranks_),
          trouble_.empty() ? fmt::format("they were killed or could not be started; mpirun ended "
                                         "with code {}",
                                         launcher_code)
                           : trouble_,
          "look above for mpirun's own words, and at the system's log for the out-of-memory "
          "killer"));
    if (by_outcome.size() > 1)
      for (const auto& [outcome, ranks] : by_outcome)
        say(fmt::format("{} {} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "),
                        outcome));
    return combined_exit_code(outcomes);
  }

  static void say(const std::string& text) {
    std::fprintf(stderr, "elaswave launch: %s\n", text.c_str());
  }

  RealClock clock_;
  std::int64_t ranks_;
  RunDir dir_;
  Signals signals_;
  std::int64_t stop_requests_ = 0;
  std::int64_t ended_count_ = 0;
  bool asked_to_stop_ = false;
  std::string trouble_;
};

}  // namespace

Result<int> launch_command(Arguments arguments) {
  EW_ASSIGN(const std::optional<LaunchRequest> request, parse_launch(arguments));
  if (!request) return 0;
  // Configuration errors show here, once and at once, instead of on every rank.
  const Arguments train = Arguments(request->command).subspan(1);
  EW_ASSIGN(const TrainCommand command, parse_train(train, elaswave_environment()));
  if (command.wish != TrainWish::run) return train_command(train);
  EW_ASSIGN(const Launcher launcher, find_launcher());
  EW_ASSIGN(Signals signals, Signals::block());
  EW_ASSIGN(RunDir dir, RunDir::create());
  Run run(*request, std::move(dir), std::move(signals));
  return run.go(launcher, *request);
}

}  // namespace elaswave::app
