// Real processes with one agent each, and a parent that kills, stops and watches them. No MPI: the
// ranks are forked and start over socket pairs.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "elastic/member/membership.h"
#include "tests/support/pair_world.h"

namespace elaswave::member::test {

using Ranks = std::vector<int>;

inline std::uint64_t mask_of(const Ranks& ranks) {
  std::uint64_t mask = 0;
  for (const int rank : ranks) mask |= std::uint64_t{1} << rank;
  return mask;
}

/// One line of a rank to the parent; short enough for a pipe to keep it whole.
struct Report {
  enum class Kind : std::int32_t { started, view, fenced };
  Kind kind = Kind::started;
  std::int32_t rank = 0;
  std::uint32_t generation = 0;
  std::uint32_t port = 0;
  std::uint64_t members = 0;  // bits
  Nanoseconds at = 0;         // the machine's monotonic clock, the same in all processes
  Nanoseconds suspected_at = 0;
};

struct RankOptions {
  MembershipOptions membership;
  bool heeds_fence = true;  // leaves when fenced, as a step loop does
};

/// The body of a rank: tells every view and the fence, until the parent closes the command pipe.
class RankProcess {
 public:
  RankProcess(testing::PairMesh& mesh, int rank, int reports, int commands)
      : world_(mesh, rank), reports_(reports), commands_(commands) {}

  [[noreturn]] void run(const RankOptions& options) {
    auto started = Membership::start(world_, options.membership);
    if (!started) {
      std::fprintf(stderr, "rank %d: %s\n", world_.world_rank(), started.error().text().c_str());
      _exit(2);
    }
    Membership& membership = **started;
    tell({.kind = Report::Kind::started, .port = listening_port()});
    Generation seen{};
    for (;;) {
      pollfd end{commands_, POLLIN, 0};
      if (::poll(&end, 1, 1) == 1) break;  // the parent has closed its side
      const Decision newest = membership.board().newest();
      if (newest.view.generation != seen) {
        seen = newest.view.generation;
        tell({.kind = Report::Kind::view,
              .generation = raw(seen),
              .members = mask_of(newest.view.members),
              .at = newest.decided_at,
              .suspected_at = newest.suspected_at});
      }
      if (!membership.board().fenced() || !options.heeds_fence) continue;
      tell({.kind = Report::Kind::fenced, .at = world_.clock().now()});
      std::fprintf(stderr, "rank %d was fenced: %s\n", world_.world_rank(),
                   membership.board().fenced()->c_str());
      _exit(7);
    }
    membership.leave();
    _exit(membership.board().fenced() ? 7 : 0);
  }

 private:
  void tell(Report report) {
    report.rank = world_.world_rank();
    if (report.at == 0) report.at = world_.clock().now();
    (void)!::write(reports_, &report, sizeof report);
  }
  /// Of the one listening socket of this process.
  static std::uint32_t listening_port() {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int descriptor = std::stoi(entry.path().filename());
      int listening = 0;
      socklen_t length = sizeof listening;
      if (::getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0 ||
          listening == 0)
        continue;
      sockaddr_in at{};
      length = sizeof at;
      ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&at), &length);
      return ntohs(at.sin_port);
    }
    return 0;
  }

  testing::PairWorld world_;
  int reports_, commands_;
};

/// The parent's side.
class Fleet {
 public:
  Fleet(int ranks, const std::function<RankOptions(int)>& options) : mesh_(ranks) {
    std::fflush(nullptr);
    if (::pipe(reports_.data()) != 0 || ::pipe(commands_.data()) != 0) ADD_FAILURE() << "no pipe";
    const pid_t parent = ::getpid();
    for (int rank = 0; rank < ranks; ++rank) {
      const pid_t child = ::fork();
      if (child == 0) {
        ::close(commands_[1]);
        ::signal(SIGPIPE, SIG_IGN);
        // Nobody is left behind by a parent that was killed.
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) _exit(3);
        RankProcess(mesh_, rank, reports_[1], commands_[0]).run(options(rank));
      }
      ranks_.push_back({.pid = child});
    }
    ::close(reports_[1]);
    EXPECT_TRUE(await([this] {
      return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& one) { return one.started; });
    })) << "not all ranks have started";
  }
  ~Fleet() {
    for (Rank& rank : ranks_)
      if (!rank.status) {
        ::kill(rank.pid, SIGKILL);
        ::waitpid(rank.pid, nullptr, 0);
      }
    for (const int end : {reports_[0], commands_[0], commands_[1]}) ::close(end);
  }
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  Nanoseconds now() const { return clock_.now(); }
  std::uint16_t port(int rank) const { return static_cast<std::uint16_t>(at(rank).port); }
  void kill(int rank) {
    ::kill(at(rank).pid, SIGKILL);
    (void)exit_status(rank);
  }
  void stop(int rank) { ::kill(at(rank).pid, SIGSTOP); }
  void go_on(int rank) { ::kill(at(rank).pid, SIGCONT); }
  /// Tells all to leave in good order.
  void end() { ::close(std::exchange(commands_[1], -1)); }

  /// Waits until each of `ranks` has a view of exactly `members`, and they agree on its number.
  /// Returns when the last of them had it.
  Nanoseconds await_view(const Ranks& ranks, const Ranks& members) {
    const bool all = await([&] {
      return std::all_of(ranks.begin(), ranks.end(),
                         [&](int rank) { return at(rank).members == mask_of(members); });
    });
    EXPECT_TRUE(all) << "views: " << text();
    Nanoseconds last = 0;
    for (const int rank : ranks) {
      last = std::max(last, at(rank).at);
      EXPECT_EQ(at(rank).generation, at(ranks.front()).generation) << text();
    }
    return last;
  }
  bool await_fenced(int rank) {
    return await([&] { return at(rank).fenced; });
  }
  /// Waits for the end of a process: its exit code, or minus the signal.
  int exit_status(int rank) {
    Rank& one = at(rank);
    await([&] {
      int status = 0;
      if (!one.status && ::waitpid(one.pid, &status, WNOHANG) == one.pid)
        one.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      return one.status.has_value();
    });
    return one.status.value_or(-1000);
  }
  /// Reads reports for a while.
  void watch(Nanoseconds duration) {
    const Nanoseconds end = now() + duration;
    while (now() < end) read_reports();
  }
  std::uint32_t generation(int rank) const { return at(rank).generation; }
  Nanoseconds suspected_at(int rank) const { return at(rank).suspected_at; }
  bool fenced(int rank) const { return at(rank).fenced; }
  std::string text() const {
    std::string all;
    for (const Rank& rank : ranks_)
      all += fmt::format(" {}:{:b}{}", rank.generation, rank.members, rank.fenced ? "F" : "");
    return all;
  }

 private:
  struct Rank {
    pid_t pid = 0;
    bool started = false, fenced = false;
    std::uint32_t generation = 0, port = 0;
    std::uint64_t members = 0;
    Nanoseconds at = 0, suspected_at = 0;
    std::optional<int> status;
  };

  Rank& at(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  const Rank& at(int rank) const { return ranks_[static_cast<std::size_t>(rank)]; }

  /// Reads reports until `done`; false after 40 s.
  bool await(const std::function<bool()>& done) {
    const Nanoseconds end = now() + 40 * kSecond;
    while (!done()) {
      if (now() > end) return false;
      read_reports();
    }
    return true;
  }
  /// At most 5 ms.
  void read_reports() {
    pollfd one{reports_[0], POLLIN, 0};
    if (::poll(&one, 1, 5) != 1) return;
    Report report;
    if (::read(reports_[0], &report, sizeof report) != sizeof report) {
      clock_.sleep(kMillisecond);  // every writer has ended
      return;
    }
    Rank& rank = at(report.rank);
    rank.started = true;
    if (report.kind == Report::Kind::started) rank.port = report.port;
    rank.fenced = rank.fenced || report.kind == Report::Kind::fenced;
    if (report.kind != Report::Kind::view) return;
    EXPECT_GT(report.generation, rank.generation) << "views go up";
    EXPECT_TRUE(report.members >> report.rank & 1) << "nobody installs a view without itself";
    rank.generation = report.generation;
    rank.members = report.members;
    rank.at = report.at;
    rank.suspected_at = report.suspected_at;
  }

  testing::PairMesh mesh_;
  mutable RealClock clock_;
  std::array<int, 2> reports_{}, commands_{};
  std::vector<Rank> ranks_;
};

}  // namespace elaswave::member::test
