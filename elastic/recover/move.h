// State of blocks on its way to members that lack it.
#pragma once

#include <cstdint>
#include <span>

#include "elastic/plan/recovery.h"
#include "io/base/error.h"
#include "parallel/comm/world.h"
#include "parallel/zero/shard.h"

namespace elaswave::recover {

/// COLLECTIVE over all ranks named in `moves`, which must be the same list everywhere: master
/// weights and both moments, straight from holder to new owner, all pairs at once. Received blocks
/// become whole. Returns the bytes that this rank received. A move that was done before (a recovery
/// that was broken off) is not asked for again: holdings tell.
Result<std::int64_t> move_state(comm::World& world, zero::Shard& shard,
                                std::span<const plan::Move> moves, Nanoseconds timeout);

}  // namespace elaswave::recover
