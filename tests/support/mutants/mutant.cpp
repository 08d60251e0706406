#include "tests/support/mutants/io/base/mutant.h"

namespace elaswave {
namespace {

Mutant active = Mutant::none;  // the one switch of the build: product code has nowhere to carry it

}  // namespace

bool mutant(Mutant asked) {
  return asked == active;
}

void activate(Mutant mutant) {
  active = mutant;
}

}  // namespace elaswave
