// A failing case made smaller: the least that still fails.
#pragma once

#include <functional>

#include "tests/chaos/case.h"

namespace elaswave::test {

/// Tries simpler cases for as long as one of them fails too, at most `tries` of them. `fails` runs
/// a case.
Case shrink(Case failing, const std::function<bool(const Case&)>& fails, int tries = 200);

}  // namespace elaswave::test
