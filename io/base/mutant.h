// Mutants: deliberate faults of the protocols, each of which the simulation campaign must catch
// (tests/chaos). In every build but that of the campaign none is ever active and the question
// costs nothing: the build of the campaign puts another header of this name in front.
#pragma once

#include "io/base/mutants.h"

namespace elaswave {

constexpr bool mutant(Mutant) {
  return false;
}

}  // namespace elaswave
