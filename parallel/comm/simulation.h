// The simulated world: all ranks in one process under a seeded scheduler and a virtual clock.
// Messages are delayed and reordered across (peer, channel); the transport is as nasty as Open MPI
// was measured to be (see README). The same seed gives the same run, event for event.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "parallel/comm/world.h"

namespace elaswave::comm {

struct SimulationOptions {
  int ranks = 1;
  std::uint64_t seed = 1;
  Nanoseconds latency_min = 1'000;  // of one chunk
  Nanoseconds latency_max = 50'000;
  std::int64_t eager_bytes =
      4096;  // larger chunks complete at the sender only when the receiver posted
  // Largest payload of a chunk. Smaller than a real one: the buffers of a run of a few milliseconds
  // must cost nothing.
  std::int64_t chunk_bytes = 64 << 10;
  std::int64_t max_switches = 50'000'000;          // a run that needs more has livelocked
  std::size_t flight_capacity = kFlightCapacity;   // events each lane of a rank keeps
  std::function<ProbeHook(int world_rank)> probe;  // may be empty
};

struct SimulationReport {
  std::uint64_t trace_hash = 0;  // over every event in order: equal seeds must give equal hashes
  std::int64_t switches = 0;
  std::int64_t messages = 0;
  std::int64_t chunks = 0;
  Nanoseconds virtual_time = 0;
};

/// Runs `body` once for each rank, interleaved on the calling thread, until all have returned. An
/// exception that leaves a body, and a deadlock (no rank can run and nothing is in flight), end the
/// run with an error naming rank and operation.
Result<SimulationReport> simulate(const SimulationOptions& options,
                                  const std::function<void(World&)>& body);

/// A world of one rank on the machine's clock, for programs started without a launcher.
std::unique_ptr<World> make_solo_world(ProbeHook probe,
                                       std::size_t flight_capacity = kFlightCapacity);

}  // namespace elaswave::comm
