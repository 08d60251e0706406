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
      // The half that lost the claim hears of the others again when they have ended in good order.
      {.stages = 4,
       .per_domain = 2,
       .steps = 3,
       .seed = 24932,
       .faults = {{.kind = Fault::Kind::cut,
                   .rank = 1,
                   .point = Point::after_log,
                   .lasts = 300'000'000,
                   .also = {0}},
                  {.rank = 2, .point = Point::fill}}},
      // Stopped ranks that are out keep no domain: of the one that is left, two ranks are too many.
      {.ranks = 6,
       .per_domain = 4,
       .steps = 2,
       .faults =
           {{.kind = Fault::Kind::stop, .rank = 5, .point = Point::after_forward, .also = {4}},
            {.kind = Fault::Kind::stop, .rank = 1, .point = Point::after_reduce, .hit = 2},
            {.rank = 3, .point = Point::recover_planned, .delay = 2231491}}},
      // Awake again when the other has ended in good order and left.
      {.ranks = 2,
       .steps = 2,
       .seed = 78614,
       .faults = {{.kind = Fault::Kind::pause,
                   .rank = 1,
                   .point = Point::step_begin,
                   .lasts = 300'000'000}}},
  };
}

}  // namespace elaswave::test
