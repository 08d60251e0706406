// Micro-batches to replicas after a change of membership. Internal to this folder.
#pragma once

#include <cstdint>
#include <vector>

#include "elastic/plan/recovery_replicas.h"

namespace elaswave::plan {

/// Replica of each micro-batch on one stage. Shares differ by one at most; the replicas that had
/// most keep the larger ones. `before`: as it was, -1 where that replica is gone, or empty. A
/// replica with more than its share gives up micro-batches evenly spread over the step; what has no
/// replica is dealt in turn to those with room.
std::vector<std::int32_t> balance_stage(std::int64_t micro_batches, std::int32_t replicas,
                                        const std::vector<std::int32_t>& before);

/// Fills plan.stages from `stages` and plan.route. With as many replicas in every stage the routes
/// are columns, each made of replicas that had the same number before wherever there are such;
/// otherwise every stage is balanced on its own.
void place_and_route(const layout::Plan& previous, std::vector<std::vector<Group>> stages,
                     layout::Plan& plan);

}  // namespace elaswave::plan
