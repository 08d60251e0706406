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
      // The claim goes to the half that was struck: the other half, a second domain, is out.
      {.ranks = 8,
       .per_domain = 4,
       .steps = 2,
       .seed = 1,
       .faults = {{.kind = Fault::Kind::cut, .rank = 1, .point = Point::fill, .lasts = 300'000'000},
                  {.kind = Fault::Kind::cut,
                   .rank = 3,
                   .point = Point::after_gather,
                   .lasts = 300'000'000,
                   .also = {0, 1, 2}}}},
  };
}

}  // namespace elaswave::test
