// Owners after a change of membership, and what must move for it. Internal to this folder.
#pragma once

#include <vector>

#include "elastic/plan/recovery_holders.h"

namespace elaswave::plan {

/// Fills plan.owner; returns the moves, by block. An owner that is still in the block's home stage
/// and slice, and holds it, stays. Else a member there that holds it takes over: the one that owns
/// fewest elements so far. Else the member there that owns fewest gets it from a holder; the one
/// that sends fewest. Ties: the lowest world rank. REQUIRES: every block has a holder.
std::vector<Move> promote_owners(const layout::BlockTable& blocks, const Holders& holders,
                                 layout::Plan& plan);

/// Copies of the plan whose backup does not hold the block: from the owner, or from where the owner
/// has it from.
std::vector<Move> find_refills(const layout::BlockTable& blocks, const Holders& holders,
                               const layout::Plan& plan, const std::vector<Move>& moves);

}  // namespace elaswave::plan
