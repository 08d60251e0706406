// Who owns which blocks. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// Plan::owner by the rule of healthy.h, for a plan whose layout and tensor degree are set.
std::vector<std::int32_t> deal_owners(const layout::BlockTable& blocks, const layout::Plan& plan);

}  // namespace elaswave::plan
