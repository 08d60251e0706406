// What a rank does between actions: entered in the flight recorder, named in hang reports.
#pragma once

#include <string_view>

#include "io/base/flight_recorder.h"
#include "parallel/comm/world.h"

namespace elaswave::app {

class Phase {
 public:
  Phase(comm::World& world, Step step, FlightPhase phase, std::string_view name)
      : world_(world),
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
  std::uint64_t handle_;
};

}  // namespace elaswave::app
