#include "app/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace elaswave::app {
namespace {

Error system_error(const std::string& what, int number) {
  return {.code = Code::unrecoverable,
          .what = what,
          .where = "elaswave launch",
          .why = std::strerror(number),
          .fix = "check the limits on processes and open files (ulimit -a)"};
}

/// In the child, between fork and exec: async-signal-safe calls, except setenv, which is fine
/// because the launcher has one thread.
[[noreturn]] void become(const ProcessWish& wish, int output, pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);  // the launcher died before the line above
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int empty = ::open("/dev/null", O_RDONLY);
  if (empty >= 0) ::dup2(empty, STDIN_FILENO);
  if (output >= 0) {
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
  }
  for (const auto& [name, value] : wish.variables) ::setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> words;
  for (const std::string& word : wish.arguments) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execv(words[0], words.data());
  ::_exit(127);
}

struct ProcessLine {
  pid_t parent = 0;
  char state = 'Z';
};

/// "/proc/PID/stat": PID (name) STATE PPID ...; the name may hold anything, so read from the last
/// ')'.
std::optional<ProcessLine> read_process(const std::filesystem::path& folder) {
  std::ifstream file(folder / "stat");
  std::string text;
  if (!std::getline(file, text)) return std::nullopt;
  const std::size_t end = text.rfind(')');
  if (end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(end + 1));
  ProcessLine line;
  if (!(rest >> line.state >> line.parent)) return std::nullopt;
  return line;
}

}  // namespace

std::optional<std::string> find_in_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = (folder.empty() ? "." : folder) + "/" + name;
    std::error_code ignored;
    if (std::filesystem::is_regular_file(file, ignored) && ::access(file.c_str(), X_OK) == 0)
      return file;
  }
  return std::nullopt;
}

Result<std::string> own_program() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return fail(system_error("cannot find this program's own file", error.value()));
  return path.string();
}

Result<ChildProcess> ChildProcess::start(const ProcessWish& wish) {
  std::array<int, 2> pipe_ends = {-1, -1};
  if (wish.output == Output::capture && ::pipe2(pipe_ends.data(), O_CLOEXEC) != 0)
    return fail(system_error("cannot make a pipe", errno));
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) become(wish, pipe_ends[1], parent);
  const int number = errno;
  if (pipe_ends[1] >= 0) ::close(pipe_ends[1]);
  if (pid < 0) {
    if (pipe_ends[0] >= 0) ::close(pipe_ends[0]);
    return fail(system_error(fmt::format("cannot start {}", wish.arguments.front()), number));
  }
  ::setpgid(pid, pid);  // here as well: whoever comes first
  return ChildProcess(pid, pipe_ends[0]);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::exchange(other.output_, -1)),
      code_(std::exchange(other.code_, std::nullopt)) {}

ChildProcess::~ChildProcess() {
  if (output_ >= 0) ::close(output_);
  if (pid_ < 0 || code_) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  // A killed child ends at once: this wait is bounded by the kernel.
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

std::optional<int> ChildProcess::poll() {
  if (code_) return code_;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return code_;
}

void ChildProcess::signal(int number) const {
  if (pid_ > 0 && !code_) ::kill(pid_, number);
}

Result<std::string> ChildProcess::read_all(Nanoseconds limit) {
  const RealClock clock;
  const Deadline deadline = Deadline::after(clock, limit);
  std::string text;
  std::array<char, 4096> piece{};
  while (true) {
    const Nanoseconds left = deadline.at - clock.now();
    pollfd wait{.fd = output_, .events = POLLIN, .revents = 0};
    const int ready = left > 0 ? ::poll(&wait, 1, static_cast<int>(left / kMillisecond) + 1) : 0;
    if (ready == 0) return fail(system_error("a program did not answer in time", ETIMEDOUT));
    if (ready < 0 && errno == EINTR) continue;
    const ssize_t got = ::read(output_, piece.data(), piece.size());
    if (got < 0 && errno != EINTR) return fail(system_error("cannot read from a program", errno));
    if (got == 0) return text;
    if (got > 0) text.append(piece.data(), static_cast<std::size_t>(got));
  }
}

void adopt_orphans() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
}

std::vector<pid_t> descendants(pid_t except) {
  std::map<pid_t, ProcessLine> all;
  std::error_code error;
  std::filesystem::directory_iterator folders("/proc", error), end;
  for (; !error && folders != end; folders.increment(error)) {
    const std::string name = folders->path().filename();
    pid_t pid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ec != std::errc() || parsed.ptr != name.data() + name.size()) continue;
    if (const auto line = read_process(folders->path())) all.emplace(pid, *line);
  }
  std::vector<pid_t> found;
  for (const auto& [pid, line] : all) {
    if (line.state == 'Z' || line.state == 'X' || pid == except) continue;
    pid_t ancestor = line.parent;
    // Bounded: a snapshot taken while processes come and go might show a cycle.
    for (std::size_t depth = 0; depth < 64 && ancestor > 1 && ancestor != ::getpid(); ++depth) {
      const auto up = all.find(ancestor);
      ancestor = up == all.end() ? 0 : up->second.parent;
    }
    if (ancestor == ::getpid()) found.push_back(pid);
  }
  return found;
}

void reap_orphans(pid_t except) {
  // Without this file (an old kernel) they stay zombies until the launcher ends, which is harmless.
  std::ifstream children(fmt::format("/proc/self/task/{}/children", ::getpid()));
  for (pid_t child = 0; children >> child;)
    if (child != except) ::waitpid(child, nullptr, WNOHANG);
}

}  // namespace elaswave::app
