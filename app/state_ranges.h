// The blocks of a shard as canonical elements: what checkpoints are written from and read into.
// Pure index math. A block of a sliced part is a list of runs, one a row of the tensor.
#pragma once

#include <vector>

#include "io/checkpoint/reader.h"
#include "io/checkpoint/shard.h"
#include "model/spec/inventory.h"
#include "parallel/zero/shard.h"

namespace elaswave::app {

/// One range for each owned block, in the shard's order.
std::vector<checkpoint::StateRange> state_ranges(const spec::Inventory& inventory,
                                                 const layout::BlockTable& blocks,
                                                 const zero::Shard& shard);
/// Where the numbers of those ranges are.
std::vector<checkpoint::StateSource> state_sources(zero::Shard& shard);

/// All that the shard owns and keeps copies of, master weights and moments: one want for each
/// stretch that is consecutive in the tensor and in the shard.
std::vector<checkpoint::Want> state_wants(const spec::Inventory& inventory,
                                          const layout::BlockTable& blocks, zero::Shard& shard);

}  // namespace elaswave::app
