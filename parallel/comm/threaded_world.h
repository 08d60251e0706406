// A world whose messenger runs on a communication thread of its own, over any wire. world_mpi.cpp
// opens MPI with it; tests open a wire inside the process, to look at the threads without MPI.
// Internal to parallel/comm.
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/messenger.h"
#include "parallel/comm/wire.h"
#include "parallel/comm/world.h"

namespace elaswave::comm {

/// Opens the transport; called on the communication thread, which then makes every call to it.
using OpenWire = std::function<Result<std::unique_ptr<Wire>>()>;

/// Returns when the wire is open. `options` leave `flight` and `clock` to the world. The world's
/// destructor ends the thread without closing the wire; a thread that does not answer within
/// seconds (stuck inside the transport) is left behind, never waited for.
Result<std::unique_ptr<World>> make_threaded_world(OpenWire open, MessengerOptions options,
                                                   std::size_t flight_capacity = kFlightCapacity);

}  // namespace elaswave::comm
