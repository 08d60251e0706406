#include "parallel/zero/reduction.h"

namespace elaswave::zero {

void AwaitedSums::begin_step() {
  units_.assign(static_cast<std::size_t>(exchange_.count()), {});
  for (std::int32_t unit = 0; unit < exchange_.count(); ++unit)
    units_[static_cast<std::size_t>(unit)] = {.home = exchange_.unit(unit).adds_home,
                                              .tied = exchange_.unit(unit).adds_tied};
}

void AwaitedSums::done(std::int32_t layer, bool tied) {
  for (std::int32_t index = 0; index < exchange_.count(); ++index) {
    const Unit& unit = exchange_.unit(index);
    if (tied ? !unit.adds_tied || unit.tied_layer != layer : !unit.adds_home || unit.layer != layer)
      continue;
    Awaited& mine = units_[static_cast<std::size_t>(index)];
    bool& awaited = tied ? mine.tied : mine.home;
    EW_CHECK(awaited, "the sums of layer {} were done before", layer);
    awaited = false;
  }
}

}  // namespace elaswave::zero
