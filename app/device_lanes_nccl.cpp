#include <fstream>
#include <string>

#include "app/device_lanes.h"
#include "io/base/hash.h"
#include "io/base/log.h"
#include "parallel/comm/group_lanes.h"
#include "parallel/device/cuda_arithmetic.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::app {
namespace {

/// Of the machine, however many containers it is divided into, each with a name of its own.
std::uint64_t host_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return hash_bytes(std::as_bytes(std::span(id)));
}

}  // namespace

std::unique_ptr<comm::DeviceLanes> make_device_lanes(const kernels::Machine& machine,
                                                     comm::World& world, comm::World& front) {
  auto* const device = dynamic_cast<device::CudaDevice*>(&machine.stream.device());
  if (device == nullptr) return nullptr;
  auto nccl = comm::real_nccl();
  if (!nccl) {
    log_warn("{}", nccl.error().text());
    return std::make_unique<comm::NoLanes>(world, comm::DevicePlace{});
  }
  int version = 0;
  nccl->get_version(&version);
  return std::make_unique<comm::GroupLanes>(comm::GroupLanesParts{
      .world = world,
      .front = front,
      .compute = machine.stream,
      .nccl = *std::move(nccl),
      .start = comm::start_on_thread,
      .place = comm::device_place(host_id(), device->bus_id(), version),
      .make_stream = [device] {
        auto stream = std::make_unique<device::CudaStream>(*device);
        CUstream_st* const handle = stream->handle();
        auto arithmetic = device::make_cuda_arithmetic(*stream);
        return comm::LaneStream{std::move(stream), handle, std::move(arithmetic)};
      }});
}

}  // namespace elaswave::app
