// Stands in for the header of the same name in the build of the campaign's mutants: one mutant can
// be made active while the program runs. THREADS: set before any other thread starts.
#pragma once

#include "io/base/mutants.h"

namespace elaswave {

bool mutant(Mutant asked);
/// For tests; Mutant::none: back to the program as it is.
void activate(Mutant mutant);

}  // namespace elaswave
