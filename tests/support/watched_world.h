// A world that looks on: what no rank may do whatever fails, looked for at every call.
#pragma once

#include <fmt/format.h>

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/comm/world.h"

namespace elaswave::test {

/// What the watched worlds of one simulation have in common. THREADS: the simulation's.
struct Watch {
  Nanoseconds timeout = 0;        // no wait may take longer
  std::vector<Generation> shown;  // by rank: the newest gate it came to
  // Of ranks that have not ended: the members of the view they entered last.
  std::map<int, std::pair<Generation, std::vector<int>>> views;
  std::string wrong;  // the first thing seen

  explicit Watch(int ranks, Nanoseconds limit)
      : timeout(limit), shown(static_cast<std::size_t>(ranks)) {}
  void note(std::string what) {
    if (wrong.empty()) wrong = std::move(what);
  }
  void enter(int rank, Generation generation, std::span<const int> live) {
    views[rank] = {generation, {live.begin(), live.end()}};
    for (const auto& [other, view] : views)
      if (view.first == generation && view.second != views[rank].second)
        note(fmt::format("ranks {} and {} live in different views of generation {}", rank, other,
                         raw(generation)));
  }
  void end(int rank) { views.erase(rank); }
};

class WatchedWorld final : public comm::World {
 public:
  WatchedWorld(comm::World& inner, Watch& watch) : inner_(inner), watch_(watch) {}
  WatchedWorld(const WatchedWorld&) = delete;
  WatchedWorld& operator=(const WatchedWorld&) = delete;
  ~WatchedWorld() override { watch_.end(world_rank()); }

  int world_rank() const override { return inner_.world_rank(); }
  int size() const override { return inner_.size(); }
  Generation generation() const override { return inner_.generation(); }
  std::span<const int> live() const override { return inner_.live(); }
  Clock& clock() override { return inner_.clock(); }
  FlightRecorder& recorder() override { return inner_.recorder(); }
  void expect(std::span<const comm::Expected> messages) override { inner_.expect(messages); }
  std::int64_t staging_bytes() const override { return inner_.staging_bytes(); }
  void set_activity(const comm::Activity& activity) override { inner_.set_activity(activity); }
  comm::Work send(int to, comm::Channel channel, comm::ConstPieces pieces) override {
    return inner_.send(to, channel, std::move(pieces));
  }
  comm::Work receive(int from, comm::Channel channel, comm::Pieces pieces) override {
    return inner_.receive(from, channel, std::move(pieces));
  }
  bool test(const comm::Work& work) override { return inner_.test(work); }
  void publish_view(Generation generation) override { inner_.publish_view(generation); }

  Result<void> wait(const comm::Work& work, std::string_view operation,
                    Deadline deadline) override {
    look_at(operation, deadline);
    try {
      return inner_.wait(work, operation, deadline);
    } catch (const comm::StepAborted&) {
      aborted_ = true;
      throw;
    }
  }
  void adopt_view(Generation generation, std::span<const int> live) override {
    inner_.adopt_view(generation, live);
    watch_.enter(world_rank(), generation, live);
    aborted_ = false;
  }
  Result<void> close(Deadline deadline) override {
    look_at("close", deadline);
    try {
      return inner_.close(deadline);
    } catch (const comm::StepAborted&) {
      aborted_ = true;
      throw;
    }
  }
  void probe(Point point) override {
    if (point == Point::recover_gate) shown(world_rank()) = generation();
    if (point == Point::recover_done)
      for (const int member : live())
        if (shown(member) < generation())
          watch_.note(fmt::format("rank {} passes the gate of generation {} before rank {} came",
                                  world_rank(), raw(generation()), member));
    inner_.probe(point);
  }

  /// A wait has thrown and no view was entered since.
  bool aborted() const { return aborted_; }

 private:
  Generation& shown(int rank) { return watch_.shown[static_cast<std::size_t>(rank)]; }
  void look_at(std::string_view operation, Deadline deadline) {
    if (deadline.at - clock().now() > watch_.timeout)
      watch_.note(fmt::format("rank {} waits without a deadline: {}", world_rank(), operation));
  }

  comm::World& inner_;
  Watch& watch_;
  bool aborted_ = false;
};

}  // namespace elaswave::test
