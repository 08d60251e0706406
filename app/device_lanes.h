// By which way device memory of a rank may travel besides the world. CMake chooses the file behind
// it.
#pragma once

#include <memory>

#include "model/kernels/ops.h"
#include "parallel/comm/device_lanes.h"

namespace elaswave::app {

/// Local. Null where host code reads the device's memory: on a CPU. Otherwise every rank has some,
/// if only to tell the others that it has no NCCL. `front` stands before `world`, or is it.
/// References must outlive the lanes.
std::unique_ptr<comm::DeviceLanes> make_device_lanes(const kernels::Machine& machine,
                                                     comm::World& world, comm::World& front);

}  // namespace elaswave::app
