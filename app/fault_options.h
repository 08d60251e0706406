// The keys of chaos.* as faults.
#pragma once

#include "app/options.h"
#include "elastic/chaos/faults.h"

namespace elaswave::app {

/// ERRORS: Code::usage of elastic/chaos/faults.h.
Result<chaos::Faults> requested_faults(const Config& config);

}  // namespace elaswave::app
