// A world over socket pairs made before its ranks: ranks may be threads of one process or forked
// ones. For small messages only (a send never waits for its receiver). Views are noted, not obeyed.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "parallel/comm/world.h"

namespace elaswave::testing {

/// One socket pair for each pair of ranks, itself included.
class PairMesh {
 public:
  explicit PairMesh(int ranks) : ranks_(ranks), ends_(static_cast<std::size_t>(ranks * ranks), -1) {
    for (int a = 0; a < ranks; ++a)
      for (int b = a; b < ranks; ++b) {
        int pair[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
          ADD_FAILURE() << "no socket pair: " << std::strerror(errno);
        at(a, b) = pair[0];
        if (a != b) {
          at(b, a) = pair[1];
        } else {
          ::close(pair[0]);  // nothing here sends to itself
          ::close(pair[1]);
          at(a, a) = -1;
        }
      }
  }
  ~PairMesh() {
    for (const int end : ends_)
      if (end >= 0) ::close(end);
  }
  PairMesh(const PairMesh&) = delete;
  PairMesh& operator=(const PairMesh&) = delete;

  int ranks() const { return ranks_; }
  int& at(int from, int to) { return ends_[static_cast<std::size_t>(from * ranks_ + to)]; }

 private:
  int ranks_;
  std::vector<int> ends_;
};

class PairWorld final : public comm::World {
 public:
  PairWorld(PairMesh& mesh, int world_rank)
      : mesh_(mesh), world_rank_(world_rank), live_(static_cast<std::size_t>(mesh.ranks())) {
    std::iota(live_.begin(), live_.end(), 0);
  }
  /// Called at each publish_view(), on its thread. Set before anybody publishes.
  std::function<void(Generation)> on_publish;
  Generation published() const { return published_.load(); }

  int world_rank() const override { return world_rank_; }
  int size() const override { return mesh_.ranks(); }
  Generation generation() const override { return Generation{}; }
  std::span<const int> live() const override { return live_; }
  Clock& clock() override { return clock_; }
  FlightRecorder& recorder() override { return recorder_; }
  void set_activity(const comm::Activity&) override {}

  comm::Work send(int to, comm::Channel, comm::ConstPieces pieces) override {
    for (const auto piece : pieces)
      if (::send(mesh_.at(world_rank_, to), piece.data(), piece.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(piece.size()))
        broken_ = true;
    return {};
  }
  comm::Work receive(int from, comm::Channel, comm::Pieces pieces) override {
    for (const auto piece : pieces) awaited_.push_back({mesh_.at(world_rank_, from), piece});
    return {};
  }
  /// Waits for everything posted: a peer may need what was sent after a receive was posted.
  Result<void> wait(const comm::Work&, std::string_view operation, Deadline deadline) override {
    for (const auto& [descriptor, piece] : std::exchange(awaited_, {}))
      for (std::size_t have = 0; have < piece.size() && !broken_;) {
        pollfd one{descriptor, POLLIN, 0};
        const auto left = std::max<Nanoseconds>(deadline.at - clock_.now(), 0) / kMillisecond;
        const bool ready = ::poll(&one, 1, static_cast<int>(left)) == 1;
        const ssize_t got =
            ready ? ::read(descriptor, piece.data() + have, piece.size() - have) : -1;
        if (got <= 0) broken_ = true;
        have += static_cast<std::size_t>(std::max<ssize_t>(got, 0));
      }
    if (!broken_) return {};
    return fail(Error{.code = Code::deadline,
                      .what = "a rank of the pair world does not answer",
                      .where = std::string(operation),
                      .why = "it has ended or is late",
                      .fix = "see its output"});
  }
  bool test(const comm::Work&) override { return true; }
  void publish_view(Generation generation) override {
    if (on_publish) on_publish(generation);
    published_.store(generation);
  }
  void adopt_view(Generation, std::span<const int>) override {}
  void probe(Point) override {}
  Result<void> close(Deadline) override { return {}; }

 private:
  PairMesh& mesh_;
  int world_rank_;
  std::vector<int> live_;
  RealClock clock_;
  FlightRecorder recorder_{16};
  std::vector<std::pair<int, std::span<std::byte>>> awaited_;
  bool broken_ = false;
  std::atomic<Generation> published_{};
};

}  // namespace elaswave::testing
