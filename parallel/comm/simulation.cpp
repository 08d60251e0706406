#include "parallel/comm/simulation.h"

#include "parallel/comm/simulator.h"

namespace elaswave::comm {

Result<SimulationReport> simulate(const SimulationOptions& options,
                                  const std::function<void(World&)>& body) {
  EW_CHECK(options.ranks >= 1 && options.chunk_bytes >= 1, "{} ranks, chunks of {} bytes",
           options.ranks, options.chunk_bytes);
  EW_CHECK(0 <= options.latency_min && options.latency_min <= options.latency_max,
           "latency from {} to {} ns", options.latency_min, options.latency_max);
  return Simulator(options, body).run();
}

}  // namespace elaswave::comm
