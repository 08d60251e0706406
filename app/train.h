// The run behind `elaswave train`, once its settings are known.
#pragma once

#include "app/options.h"
#include "io/base/error.h"

namespace elaswave::app {

/// Trains as told and returns the exit code of an orderly end (0, 8, 75), or why there was none.
/// `settings` have passed parse_train(). Runs once per process.
Result<int> run_train(const Settings& settings);

}  // namespace elaswave::app
