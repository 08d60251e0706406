// Where the cases of the campaign come from: all first failures, and random ones by seed.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "tests/chaos/judge.h"

namespace elaswave::test {

/// The layouts whose ranks fail one by one and two by two: one to four stages, slices, chunks,

std::vector<Case> layouts();

/// Every point x every rank x first, middle and last hit x kill and stop, on every layout.
/// `everything`: every hit. Ends when `each` returns false.
void first_failures(Bench& bench, bool everything, const std::function<bool(const Case&)>& each);

/// Every point x every rank, then every point, those of a recovery too, x every other rank; at one
/// hit each, some of them stops. Ends when `each` returns false.
void pairs_of_failures(Bench& bench, const std::function<bool(const Case&)>& each);

/// Two failures, the second anywhere: often in the recovery from the first.
Case second_failure(Bench& bench, std::uint64_t seed);

/// Any layout, any latency, one to four faults of any kind.
Case random_schedule(Bench& bench, std::uint64_t seed);

}  // namespace elaswave::test
