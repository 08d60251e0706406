// The plan: all a view needs to run a step, as plain data that can be compared, printed and
// digested. Its makers live in elastic/plan; everything that runs reads it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/base/types.h"
#include "parallel/layout/blocks.h"

namespace elaswave::layout {

/// One tensor-parallel group able to run a stage: the unit of failure. World ranks in slice order.
struct Replica {
  std::vector<std::int32_t> world_ranks;
  bool operator==(const Replica&) const = default;
};

struct Stage {
  std::vector<Replica> replicas;
  bool operator==(const Stage&) const = default;
};

struct Plan {
  Generation generation{};  // membership it was made for
  std::uint32_t id = 0;     // grows with every change of plan, also within a generation

  std::vector<std::int32_t> chunk_of_layer;
  std::vector<std::int32_t> stage_of_chunk;
  std::vector<Stage> stages;

  std::int64_t micro_batches = 0;   // G
  std::vector<std::int32_t> route;  // [micro_batch * stages + stage] -> replica of that stage
  std::vector<std::int32_t> owner;  // block -> replica of its layer's stage

  bool operator==(const Plan&) const = default;

  std::int32_t stage_of_layer(std::int32_t layer) const;
  std::int32_t replica_for(std::int64_t micro_batch, std::int32_t stage) const;
};

/// Where a world rank stands in a plan; stage is -1 for a rank the plan does not use.
struct Place {
  std::int32_t stage = -1;
  std::int32_t replica = 0;
  std::int32_t slice = 0;
  bool operator==(const Place&) const = default;
};

Place place_of(const Plan& plan, std::int32_t world_rank);

/// Micro-batches that `place` runs, ascending.
std::vector<std::int64_t> micro_batches_of(const Plan& plan, const Place& place);

/// Says what is wrong with a plan: lengths, ranges, a rank used twice, a layer or block without a
/// home. Empty when sound.
std::string find_fault(const Plan& plan, const BlockTable& blocks, std::int32_t world_size);

/// Ranks that computed a plan on their own compare this before they use it.
std::uint64_t digest(const Plan& plan);

}  // namespace elaswave::layout
