// When the gradient sums of a layer are complete on a replica: read off its row by the replica
// itself and by every peer that will receive them. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::layout {

/// `tied`: the last layer's contribution to the tied embedding, complete with its last forward.
struct SumsEvent {
  std::int32_t layer = 0;
  bool tied = false;
  bool operator==(const SumsEvent&) const = default;
};

/// Index in `row` of the last action that adds to the weight gradients of `chunk` (B or W), or -1.
std::int64_t last_gradient(const Row& row, std::int32_t chunk);
/// Index in `row` of the last forward of `chunk`, or -1.
std::int64_t last_forward(const Row& row, std::int32_t chunk);

/// In the order of the row; the layers of one action last first. A replica without actions has them
/// all at once, tied first, then last layer first.
std::vector<SumsEvent> sums_order(const Plan& plan, std::int32_t stage, std::int32_t replica);

}  // namespace elaswave::layout
