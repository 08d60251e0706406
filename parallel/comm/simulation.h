// The simulated world: all ranks in one process under a seeded scheduler and a virtual clock.
// Messages are delayed and reordered across (peer, channel); the transport is as nasty as Open MPI
// was measured to be (see README). The same seed gives the same run, event for event.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "parallel/comm/control_link.h"
#include "parallel/comm/world.h"

namespace elaswave::comm {

/// Faults, from inside or outside the ranks' code: a probe hook, an agent, a scheduled call.
/// THREADS: the simulation's.
class SimulationControl {
 public:
  virtual ~SimulationControl() = default;
  virtual Nanoseconds now() const = 0;
  /// The rank never runs again: its memory stays as it is, what it handed to the transport before
  /// may still arrive, nothing else. Called from inside the rank (a probe) it does not return.
  /// Its agent's links end; dials to it are refused.
  virtual void kill(int world_rank) = 0;
  /// As SIGSTOP and SIGCONT: neither the rank nor its agent runs in between; links stay. Called
  /// from inside the rank, stop() returns when it goes on.
  virtual void stop(int world_rank) = 0;
  virtual void go_on(int world_rank) = 0;
  /// Nothing passes between the two any more, in neither direction, data nor agents, until heal().
  /// What was under way is lost for agents; of data it is delayed.
  virtual void cut(int one, int other) = 0;
  virtual void heal(int one, int other) = 0;
  /// Calls `what` at virtual time `when`.
  virtual void at(Nanoseconds when, std::function<void()> what) = 0;
  virtual bool alive(int world_rank) const = 0;  // neither killed nor returned
};

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
  std::int64_t stack_bytes = 1 << 20;              // of a rank: mapped, not touched
  std::size_t flight_capacity = kFlightCapacity;   // events each lane of a rank keeps
  std::function<ProbeHook(int world_rank)> probe;  // may be empty
  /// The agent of each rank, if any: made before the ranks run, called between their turns.
  std::function<std::unique_ptr<ControlHandler>(World& world, ControlLinks& links)> agent;
  /// Called once before anything runs; the control lasts as long as the simulation.
  std::function<void(SimulationControl&)> control;
};

struct SimulationReport {
  std::uint64_t trace_hash = 0;  // over every event in order: equal seeds must give equal hashes
  std::int64_t switches = 0;
  std::int64_t messages = 0;
  std::int64_t chunks = 0;
  std::int64_t kills = 0;
  // Of the ranks that returned, when they did.
  std::int64_t undrained = 0;        // what their live peers sent them in older views, still about
  std::int64_t buried_requests = 0;  // given up and not yet let go by the transport
  std::int64_t lent_bytes = 0;       // buffers the transport holds
  Nanoseconds virtual_time = 0;
};

/// Runs `body` once for each rank, interleaved on the calling thread, until all have returned or
/// were killed (a stopped rank that nobody lets go on ends with the others). An
/// exception that leaves a body, and a deadlock (no rank can run and nothing is in flight), end the
/// run with an error naming rank and operation.
Result<SimulationReport> simulate(const SimulationOptions& options,
                                  const std::function<void(World&)>& body);

/// A world of one rank on the machine's clock, for programs started without a launcher.
std::unique_ptr<World> make_solo_world(ProbeHook probe,
                                       std::size_t flight_capacity = kFlightCapacity);

}  // namespace elaswave::comm
