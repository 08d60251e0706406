// The file that says what layers cost on a machine (plan::CostProfile), TOML:
//
//   format = 1
//   tokens = 4096             # of the measured micro-batch
//   tensor = 1                # slices it was measured with
//   latency_ns = 20000        # of a message between ranks
//   bytes_per_second = 1.2e10 # of a rank, each way; 0: moving bytes takes no time
//   [block]                   # computing alone, nanoseconds a micro-batch on one slice;
//   forward_ns = 5200000      # [embedding] and [head] likewise
//   input_gradient_ns = 5600000
//   weight_gradient_ns = 4800000
//   recompute_ns = 5200000    # R, under full recompute
//
// Every key must be there, and no other.
#pragma once

#include <string>
#include <string_view>

#include "elastic/plan/costs.h"
#include "io/base/error.h"

namespace elaswave::app {

/// `path` is for errors. ERRORS: Code::usage with file, line and key.
Result<plan::CostProfile> parse_profile(std::string_view text, const std::string& path);
Result<plan::CostProfile> read_profile(const std::string& path);

/// What parse_profile() reads back.
std::string profile_toml(const plan::CostProfile& profile);

}  // namespace elaswave::app
