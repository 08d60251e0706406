#include "tests/chaos/stored_cases.h"

namespace elaswave::test {

std::vector<Case> stored_cases() {
  return {
      {.faults = {{.rank = 0, .point = Point::before_reduce, .hit = 2}}},
  };
}

}  // namespace elaswave::test
