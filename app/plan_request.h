// What a sweep is asked, and how sizes are written. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "app/plan_report.h"
#include "app/run_spec.h"
#include "elastic/plan/sweep.h"

namespace elaswave::app {

plan::SweepRequest sweep_request(const RunSpec& spec, std::int64_t world_size,
                                 const plan::CostProfile& profile, const MemoryLimits& limits);

/// "80GiB", "512 MB", "1.5e9": bytes. Units: B, KB, MB, GB, TB, KiB, MiB, GiB, TiB. `option` is for
/// errors.
Result<double> parse_bytes(std::string_view option, std::string_view text);

}  // namespace elaswave::app
