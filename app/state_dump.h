// The whole optimizer state in one HDF5 file, for checks from outside: /master/<name>,
// /moment1/<name>, /moment2/<name> in canonical shapes; root attributes step, block_elems,
// block_count, state_digest (16 hex digits). scripts/state_digest.py recomputes the digest from it
// without our code.
#pragma once

#include <string>

#include "model/spec/inventory.h"
#include "parallel/comm/group.h"
#include "parallel/layout/plan.h"
#include "parallel/zero/shard.h"

namespace elaswave::app {

struct StateDump {
  comm::World& world;
  const comm::Group& group;
  const layout::Plan& plan;
  const spec::Inventory& inventory;
  const layout::BlockTable& blocks;
  zero::Shard& shard;
  std::uint64_t digest = 0;
  Nanoseconds timeout = 0;
};

/// COLLECTIVE. Owners send their blocks to the lowest rank of the group, which writes the file.
Result<void> dump_state(const StateDump& dump, const std::string& path);

}  // namespace elaswave::app
