// The wire over MPI point-to-point on MPI_COMM_WORLD. Internal to parallel/comm.
#pragma once

#include <memory>

#include "parallel/comm/wire.h"

namespace elaswave::comm {

/// Initialises MPI (plain MPI_Init: single-threaded, see README). Must be called on the thread that
/// will make every later call; once per process.
Result<std::unique_ptr<Wire>> open_mpi_wire();

}  // namespace elaswave::comm
