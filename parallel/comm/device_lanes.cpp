#include "parallel/comm/device_lanes.h"

#include "io/base/log.h"
#include "parallel/comm/group.h"

namespace elaswave::comm {

Result<TransportChoice> agree_on_transport(World& world, const DevicePlace& mine,
                                           Deadline deadline) {
  const Group group = everyone(world);
  if (group.size() == 1) return TransportChoice{.why = "there is no other rank"};
  std::vector<DevicePlace> places(static_cast<std::size_t>(group.size()));
  EW_TRY(all_gather(world, group, std::as_bytes(std::span(&mine, 1)),
                    std::as_writable_bytes(std::span(places)), "places of devices", deadline));
  TransportChoice choice = choose_transport(places);
  if (world.world_rank() == world.live().front())
    log_info("device memory travels {}: {}",
             choice.transport == DeviceTransport::nccl ? "by NCCL" : "through the host",
             choice.why);
  return choice;
}

Result<void> NoLanes::enter(Deadline deadline) {
  EW_ASSIGN(const TransportChoice choice, agree_on_transport(world_, place_, deadline));
  EW_CHECK(choice.transport == DeviceTransport::staged, "lanes are chosen where there are none");
  return {};
}

Result<DeviceLane*> NoLanes::lane(LaneName, std::span<const int>, Deadline) {
  EW_CHECK(false, "a lane where there are none");
  return nullptr;
}

}  // namespace elaswave::comm
