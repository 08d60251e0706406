// Who owns which blocks. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// Plan::owner by the rule of healthy.h, for a plan whose layout and tensor degree are set.
std::vector<std::int32_t> deal_owners(const layout::BlockTable& blocks, const layout::Plan& plan);

/// World rank of the owner, by block: Plan::owner_rank() of all, found with less work.
std::vector<std::int32_t> owner_ranks(const layout::BlockTable& blocks, const layout::Plan& plan);

/// Where every world rank stands, by rank up to the largest that the plan uses; stage -1 for those
/// it does not.
std::vector<layout::Place> places(const layout::Plan& plan);

}  // namespace elaswave::plan
