// The gate between a transition and the first step under its plan: nobody runs before all members
// have shown each other that they stand at the same place with the same plan, and that every block
// has exactly one owner who holds it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/base/error.h"
#include "parallel/comm/group.h"
#include "parallel/layout/plan.h"
#include "parallel/zero/shard.h"

namespace elaswave::recover {

/// What one member shows.
struct GateWords {
  std::int64_t world_rank = 0;
  std::int64_t plan_digest = 0;
  std::int64_t step = 0, generation = 0;  // of its state
  std::int64_t updates = 0;               // AdamW's t
  std::int64_t record_hash = 0;           // of the record that led to its state; equal everywhere
  std::int64_t owned = 0;                 // blocks owned and whole
  std::int64_t owned_hash = 0;            // sum over them of a hash of the block's number
  std::int64_t not_whole = 0;             // blocks owned and not whole
};

GateWords gate_words(const layout::Plan& plan, zero::Shard& shard, std::int32_t world_rank);

/// Pure. Empty when all is well, else what is wrong, naming a rank where it can.
std::string find_gate_fault(std::span<const GateWords> table, std::int64_t blocks);

/// COLLECTIVE over `group`. Code::unrecoverable when the gate stays shut, on all members alike.
Result<void> pass_gate(comm::World& world, const comm::Group& group, const GateWords& mine,
                       std::int64_t blocks, Deadline deadline);

}  // namespace elaswave::recover
