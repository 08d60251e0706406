// Failures and recoveries in words for a person and as events for programs. Pure.
#pragma once

#include <string>
#include <vector>

#include "elastic/recover/report.h"
#include "io/metrics/events.h"

namespace elaswave::app {

/// "rank 3 is gone: 7 ranks go on with step 18 (7 replicas of 2 stages); 212 ms from the first sign
/// to the first new step (agree 3.1, ...); ..."
std::string recovery_text(const recover::RecoveryReport& report);
/// "every block has its copies again, 1.30 s after the failure (84.0 MiB were sent)".
std::string redundancy_text(const recover::RecoveryReport& report);

metrics::Event recovery_event(const recover::RecoveryReport& report);
metrics::Event redundancy_event(const recover::RecoveryReport& report);

/// "rank 3", "ranks 3, 4, 6".
std::string ranks_text(const std::vector<std::int32_t>& ranks);
/// "3.1 ms", "212 ms", "1.30 s".
std::string time_text(Nanoseconds time);

}  // namespace elaswave::app
