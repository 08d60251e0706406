// Cases that failed once, as the campaign printed them: they are run first.
#pragma once

#include <vector>

#include "tests/chaos/case.h"

namespace elaswave::test {

std::vector<Case> stored_cases();

}  // namespace elaswave::test
