// World over MPI. After start-up MPI means point-to-point on MPI_COMM_WORLD and nothing else, and
// one communication thread makes every MPI call, MPI_Init included.
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/world.h"

namespace elaswave::comm {

struct MpiOptions {
  ProbeHook probe;
  bool checksum = false;                          // CRC of every chunk, checked at the receiver
  std::size_t flight_capacity = kFlightCapacity;  // events each lane of the recorder keeps
  // Faults on purpose, called on the communication thread; each may be empty. Nothing is sent to a
  // peer that is not reachable until it is again; `spoils` is asked for each message sent to a
  // peer, one byte of which then changes on its way.
  std::function<bool(int peer)> reachable;
  std::function<bool()> spoils;
};

/// True when a launcher started this process as one of several ranks (or of one).
bool started_by_mpi_launcher();

/// Starts the communication thread, initialises MPI there and returns when it is up. Once per
/// process.
Result<std::unique_ptr<World>> make_mpi_world(MpiOptions options);

/// Open MPI's version text, without initialising anything.
const char* mpi_library_version();

}  // namespace elaswave::comm
