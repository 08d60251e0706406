// Lanes by NCCL: each a communicator of all live ranks and a stream of its own.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "parallel/comm/device_group.h"
#include "parallel/comm/device_lanes.h"
#include "parallel/device/buffer.h"

namespace elaswave::comm {

struct LaneStream {
  std::unique_ptr<device::Stream> stream;
  cudaStream_t handle = nullptr;
  std::unique_ptr<device::Arithmetic> arithmetic;  // on that stream
};

/// References must outlive the lanes.
struct GroupLanesParts {
  World& world;
  World& front;  // of this world, or itself: what the rank sends by; told to go on before waits
  device::Stream& compute;  // whose device all memory of batches is on
  NcclTable nccl;
  StartCall start;
  DevicePlace place;
  /// Another stream of that device, which it selects for this thread's calls of NCCL.
  std::function<LaneStream()> make_stream;
  LaneLimits limits;
};

class GroupLanes final : public DeviceLanes {
 public:
  explicit GroupLanes(GroupLanesParts parts);
  ~GroupLanes() override;
  GroupLanes(const GroupLanes&) = delete;
  GroupLanes& operator=(const GroupLanes&) = delete;

  Result<void> enter(Deadline deadline) override;
  LaneLimits limits() const override { return parts_.limits; }
  bool direct() const override { return direct_; }
  Result<DeviceLane*> lane(LaneName name, std::span<const int> peers, Deadline deadline) override;
  void stop() override;
  Result<void> close(Deadline deadline) override;

 private:
  class Lane;
  Result<Lane*> make(LaneName name, Deadline deadline);
  Result<void> connect(Lane& lane, std::span<const int> peers, Deadline deadline);
  Result<void> release(Deadline deadline);

  GroupLanesParts parts_;
  DeviceGroups groups_;
  bool direct_ = false;
  std::map<LaneName, std::unique_ptr<Lane>> lanes_;
  device::Buffer greetings_;  // what travels when ranks are connected: a byte to and from each
};

}  // namespace elaswave::comm
