// Learning rate as a pure function of the step.
#pragma once

#include <cstdint>

namespace elaswave::optim {

enum class LrSchedule { cosine, wsd, linear, constant };

struct LrConfig {
  LrSchedule schedule = LrSchedule::cosine;
  double peak = 0;
  double floor = 0;                // value at and after the horizon (cosine, linear, wsd)
  std::int64_t warmup_steps = 0;   // linear from peak/warmup at step 1 to peak at step warmup
  std::int64_t horizon_steps = 1;  // where the decay ends; training may stop earlier or later
  double wsd_decay_fraction =
      0.2;  // wsd: last part of the horizon, decay 1 - sqrt (Haegele et al., arXiv 2405.18392)
};

/// `step` counts from 1. Cosine after Loshchilov and Hutter, arXiv 1608.03983, one half period.
double learning_rate(const LrConfig& config, std::int64_t step);

}  // namespace elaswave::optim
