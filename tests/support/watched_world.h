// A world that looks on: what no rank may do whatever fails, looked for at every call.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "parallel/comm/world.h"

namespace elaswave::test {

/// What the watched worlds of one simulation have in common. THREADS: the simulation's.
struct Watch {
  Nanoseconds timeout = 0;        // no wait may take longer
  std::vector<Generation> shown;  // by rank: the newest gate it came to
  std::string wrong;              // the first thing seen

  explicit Watch(int ranks, Nanoseconds limit)
      : timeout(limit), shown(static_cast<std::size_t>(ranks)) {}
  void note(std::string what) {
    if (wrong.empty()) wrong = std::move(what);
  }
};

class WatchedWorld final : public comm::World {
 public:
  WatchedWorld(comm::World& inner, Watch& watch) : inner_(inner), watch_(watch) {}

  int world_rank() const override { return inner_.world_rank(); }
  int size() const override { return inner_.size(); }
  Generation generation() const override { return inner_.generation(); }
  std::span<const int> live() const override { return inner_.live(); }
  Clock& clock() override { return inner_.clock(); }
  FlightRecorder& recorder() override { return inner_.recorder(); }
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
