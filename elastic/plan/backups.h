// Who keeps copies of which blocks. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// World rank -> what fails together with it (a host). Empty: every rank is a domain of its own.
using Domains = std::vector<std::int32_t>;

/// Plan::backup for a plan with owners, spares and `copies`. A copy goes to another domain than the
/// owner's and the other copies' wherever there is one; where there is none, to another rank of the
/// same domain; where there is no other rank, to nobody (-1). In this order it prefers: a rank that
/// holds the block already (`prefers`, may be empty: [block] -> world ranks), the home stage and
/// the block's slice there in another replica than the owner's (which goes with its owner), stages
/// nearer to the home stage (and there the slice), spares; among equals the one that keeps fewest
/// elements so far, then the lowest world rank. Deterministic.
std::vector<std::int32_t> deal_backups(const layout::BlockTable& blocks, const layout::Plan& plan,
                                       const Domains& domains,
                                       const std::vector<std::vector<std::int32_t>>& prefers = {});

}  // namespace elaswave::plan
