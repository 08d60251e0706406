#include "tests/chaos/stored_cases.h"

namespace elaswave::test {

std::vector<Case> stored_cases() {
  return {
      {.faults = {{.rank = 0, .point = Point::before_reduce, .hit = 2}}},
      // Some leave because blocks are lost; the others hear of it only as deaths.
      {.ranks = 8,
       .tensor = 4,
       .steps = 2,
       .seed = 12928,
       .faults = {{.point = Point::during_apply},
                  {.rank = 4, .point = Point::recover_begin, .hit = 2, .delay = 116491},
                  {.rank = 7, .point = Point::fill}}},
  };
}

}  // namespace elaswave::test
