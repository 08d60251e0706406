#include "model/optim/schedule.h"

#include <algorithm>
#include <cmath>

#include "model/optim/math.h"

namespace elaswave::optim {

double learning_rate(const LrConfig& config, std::int64_t step) {
  if (step < config.warmup_steps)
    return config.peak * static_cast<double>(step) / static_cast<double>(config.warmup_steps);
  if (config.schedule == LrSchedule::constant) return config.peak;

  const double span =
      static_cast<double>(std::max<std::int64_t>(config.horizon_steps - config.warmup_steps, 1));
  const double progress =
      std::clamp(static_cast<double>(step - config.warmup_steps) / span, 0.0, 1.0);
  if (progress >= 1) return config.floor;  // exactly, whatever the formulas round to
  const double range = config.peak - config.floor;
  switch (config.schedule) {
    case LrSchedule::cosine:
      return config.floor + range * 0.5 * (1 + cos_turns(progress * 0.5));
    case LrSchedule::linear:
      return config.floor + range * (1 - progress);
    case LrSchedule::wsd: {
      const double stable = 1 - config.wsd_decay_fraction;
      if (progress <= stable) return config.peak;
      return config.floor +
             range * (1 - std::sqrt((progress - stable) / config.wsd_decay_fraction));
    }
    case LrSchedule::constant:
      break;
  }
  return config.peak;
}

}  // namespace elaswave::optim
