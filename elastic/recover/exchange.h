// How inventories reach all members.
#pragma once

#include <vector>

#include "elastic/recover/inventory.h"
#include "parallel/comm/group.h"

namespace elaswave::recover {

/// COLLECTIVE over `group`. The inventories of all members, in the order of the group.
Result<std::vector<RankInventory>> exchange_inventories(comm::World& world,
                                                        const comm::Group& group,
                                                        const RankInventory& mine,
                                                        Deadline deadline);

}  // namespace elaswave::recover
