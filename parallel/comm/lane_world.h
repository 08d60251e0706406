// A World in front of a world: messages of Channel::pipeline between ranks that have links travel
// from device to device, all others as before. A link is one direction between two ranks on a lane
// on which neither has another link, so its messages wait for no others: each pair and direction is
// a queue of its own, with a rendezvous, which is what the validator of schedules assumes.
#pragma once

#include <list>
#include <map>
#include <optional>
#include <utility>

#include "parallel/comm/device_lanes.h"
#include "parallel/comm/transfer.h"
#include "parallel/comm/world.h"

namespace elaswave::comm {

/// THREADS: as World. MEMORY: of messages on links, as DeviceLane. After an error, or StepAborted,
/// messages on links are given up only by DeviceLanes::stop().
class LaneWorld final : public World {
 public:
  /// `inner` must outlive this world. `timeout`: for starting a message.
  LaneWorld(World& inner, Nanoseconds timeout) : inner_(inner), timeout_(timeout) {}
  LaneWorld(const LaneWorld&) = delete;
  LaneWorld& operator=(const LaneWorld&) = delete;
  ~LaneWorld() override = default;

  /// From now on messages to, or from, `peer` travel by `lane`. Both ends do so before the first.
  void link(int peer, Direction direction, DeviceLane& lane) { links_[{peer, direction}] = &lane; }

  int world_rank() const override { return inner_.world_rank(); }
  int size() const override { return inner_.size(); }
  Generation generation() const override { return inner_.generation(); }
  std::span<const int> live() const override { return inner_.live(); }
  Clock& clock() override { return inner_.clock(); }
  FlightRecorder& recorder() override { return inner_.recorder(); }
  void set_activity(const Activity& activity) override { inner_.set_activity(activity); }
  void publish_view(Generation generation) override { inner_.publish_view(generation); }
  void probe(Point point) override { inner_.probe(point); }
  Result<void> close(Deadline deadline) override { return inner_.close(deadline); }

  [[nodiscard]] Work send(int to, Channel channel, ConstPieces pieces) override;
  [[nodiscard]] Work receive(int from, Channel channel, Pieces pieces) override;
  Result<void> wait(const Work& work, std::string_view operation, Deadline deadline) override;
  bool test(const Work& work) override;
  /// A view ends the lanes of the one before: links are to be made again.
  void adopt_view(Generation generation, std::span<const int> live) override;

 private:
  struct Started {
    TransferPtr transfer;
    DeviceLane* lane = nullptr;
    Result<device::Mark> mark;
  };
  DeviceLane* lane_of(int peer, Direction direction, Channel channel) const;
  Work start(TransferPtr transfer, DeviceLane& lane);
  std::list<Started>::iterator find(const Work& work);
  void finish(std::list<Started>::iterator started);

  World& inner_;
  Nanoseconds timeout_;
  std::map<std::pair<int, Direction>, DeviceLane*> links_;
  std::list<Started> started_;  // oldest first
};

}  // namespace elaswave::comm
