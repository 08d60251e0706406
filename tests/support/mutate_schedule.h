// Damages schedules: for tests that a wrong one is refused and that one not refused is right.
#pragma once

#include <cstdint>

#include "parallel/layout/plan.h"

namespace elaswave::test {

/// The plan with one random change of its schedule: two actions of a row swapped, one moved,
/// doubled, dropped or altered, a backward split, fused or preceded by a recompute, two rows
/// swapped. Differs from `plan` unless that has no actions. The same seed gives the same change.
layout::Plan mutate(const layout::Plan& plan, std::uint64_t seed);

}  // namespace elaswave::test
