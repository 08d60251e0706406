#include "app/device_lanes.h"

namespace elaswave::app {

std::unique_ptr<comm::DeviceLanes> make_device_lanes(const kernels::Machine& machine,
                                                     comm::World& world, comm::World&) {
  if (machine.stream.device().host_reads()) return nullptr;
  return std::make_unique<comm::NoLanes>(world, comm::DevicePlace{});
}

}  // namespace elaswave::app
