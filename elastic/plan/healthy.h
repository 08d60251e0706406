// The plan of a healthy world: what runs when every rank is there and alike. Pure and
// deterministic: ranks that agree on the arguments agree on the plan without talking.
#pragma once

#include <cstdint>

#include "io/base/error.h"
#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// Data parallelism over `world_size` ranks: one stage, one replica a rank. Micro-batch m goes to
/// replica m mod ranks, so shares differ by at most one; a rank beyond the number of micro-batches
/// owns blocks and computes none. The blocks of each layer are dealt round-robin, starting at
/// another replica for each layer so that small layers spread.
Result<layout::Plan> healthy_plan(const layout::BlockTable& blocks, std::int32_t world_size,
                                  std::int64_t micro_batches, Generation generation);

}  // namespace elaswave::plan
