// Copies and spares for the random plans of plans.h: dealt to anybody, as layout::find_fault() lets
// pass.
#pragma once

#include <algorithm>
#include <vector>

#include "tests/support/plans.h"

namespace elaswave::test {

/// Deals `copies` copies of each block to any members, now and then to nobody.
inline void deal_copies(Dice& dice, const layout::BlockTable& blocks, std::int32_t copies,
                        layout::Plan& plan) {
  const std::vector<std::int32_t> members = layout::members(plan);
  plan.copies = copies;
  plan.backup.clear();
  for (std::int64_t block = 0; block < blocks.count(); ++block) {
    std::vector<std::int32_t> holders = {plan.owner_rank(blocks, block)};
    for (std::int32_t copy = 0; copy < copies; ++copy) {
      const std::int32_t rank = members[static_cast<std::size_t>(dice.below(std::ssize(members)))];
      const bool taken = std::find(holders.begin(), holders.end(), rank) != holders.end();
      plan.backup.push_back(taken ? -1 : rank);
      if (!taken) holders.push_back(rank);
    }
  }
}

/// The same after making spares of some ranks without a place, up to two beyond the last.
inline void add_copies(Dice& dice, const layout::BlockTable& blocks, std::int32_t copies,
                       layout::Plan& plan) {
  const std::int32_t end = world_size(plan) + 2;
  for (std::int32_t rank = 0; rank < end; ++rank)
    if (layout::place_of(plan, rank).stage < 0 && dice.one_in(3)) plan.spares.push_back(rank);
  deal_copies(dice, blocks, copies, plan);
}

/// One past the last member.
inline std::int32_t ranks_of(const layout::Plan& plan) {
  return layout::members(plan).back() + 1;
}

}  // namespace elaswave::test
