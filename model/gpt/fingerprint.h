// The numerics fingerprint: what this machine's kernels answer to the shapes of the run. Ranks
// compare it at start, join and resume; one that differs would train other weights without an error
// ever being raised.
#pragma once

#include <cstdint>

#include "model/layers/context.h"

namespace elaswave::gpt {

/// Runs every kernel of the unsliced model once at the run's shapes (one block deep, with its
/// dropout: libraries may do attention without) on Philox inputs: forward, backward, logging,
/// update; and digests losses, gradient sums and the updated state. The kernels and shapes of
/// tensor-parallel slices are not among them yet.
Result<std::uint64_t> fingerprint(const kernels::Machine& machine, const spec::ModelConfig& config,
                                  std::int64_t micro_batch, DType storage,
                                  std::int64_t loss_chunk_tokens);

}  // namespace elaswave::gpt
