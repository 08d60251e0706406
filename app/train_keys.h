// Commands that describe a run take the keys of `elaswave train` beside their own options.
#pragma once

#include <string>
#include <vector>

#include "app/commands.h"

namespace elaswave::app {

/// Takes the words of the option table (--section.key, --config, their values) out of `arguments`
/// and appends them to `keys`, for parse_train(). Returns the others, in order.
std::vector<std::string> take_train_keys(Arguments arguments, std::vector<std::string>& keys);

}  // namespace elaswave::app
