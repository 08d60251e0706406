// What a rank does between actions: entered in the flight recorder, named in hang reports.
#pragma once

#include "io/base/flight_recorder.h"
#include "parallel/comm/world.h"
#include "parallel/device/named_range.h"

namespace elaswave::app {

class Phase {
 public:
  Phase(comm::World& world, Step step, FlightPhase phase, const char* name)
      : world_(world),
        range_(name, raw(step)),
        handle_(world.recorder().compute.start({.begin = world.clock().now(),
                                                .step = step,
                                                .kind = FlightKind::phase,
                                                .detail = static_cast<std::uint8_t>(phase)})) {
    world.set_activity({step, name});
  }
  ~Phase() { world_.recorder().compute.finish(handle_, world_.clock().now()); }
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  comm::World& world_;
  device::NamedRange range_;
  std::uint64_t handle_;
};

}  // namespace elaswave::app
