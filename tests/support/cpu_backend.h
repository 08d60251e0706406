// The CPU as a backend under test, and the same behind glass (blind_ops.h).
#pragma once

#include <memory>

#include "model/kernels/cpu_ops.h"
#include "tests/support/backend.h"

namespace elaswave::testing {

/// Streams of 2, 1, 3, 4 and 8 threads. The process is held to `isa` from then on.
Result<std::unique_ptr<Backend>> make_cpu_backend(kernels::Isa isa);

/// A CPU backend whose device memory only its streams and operations can reach.
Result<std::unique_ptr<Backend>> make_blind_backend(kernels::Isa isa);

}  // namespace elaswave::testing
