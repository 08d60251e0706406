// The CPU backend: vectorised kernels for AVX2 and AVX-512, matrix products as fixed tiles of
// single-threaded oneDNN calls.
#pragma once

#include <memory>

#include "io/base/error.h"
#include "model/kernels/ops.h"

namespace elaswave::kernels {

enum class Isa { automatic, avx2, avx512 };

/// The instruction set `automatic` stands for on this machine, or an error when the wish cannot be
/// met here. Pins oneDNN to the same set: call before any other oneDNN use; a process uses one set
/// only.
Result<std::unique_ptr<Ops>> make_cpu_ops(Isa isa);

/// oneDNN's version text.
std::string gemm_library_version();

}  // namespace elaswave::kernels
