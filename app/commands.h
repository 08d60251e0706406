// The subcommands of `elaswave`, one file each. A command gets the words after its name and returns
// the process's exit code, or an Error that main prints and turns into one.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "io/base/error.h"

namespace CLI {
class App;
}

namespace elaswave::app {

using Arguments = std::span<const std::string>;

Result<int> train_command(Arguments arguments);
Result<int> data_command(Arguments arguments);
Result<int> launch_command(Arguments arguments);
Result<int> checkpoint_command(Arguments arguments);
Result<int> generate_command(Arguments arguments);

/// "elaswave 0.1.0".
std::string program_name();

/// `elaswave --version`: program, libraries, backends, numeric class.
std::string version_text();

enum class Parse { go_on, helped };

/// Lets `app` read the arguments ('-' accepted for '_' in option names). Prints its help on stdout
/// when asked (Parse::helped). Unknown options and arguments are Code::usage and name the nearest
/// option; `command` is what the user typed so far ("elaswave data prepare").
Result<Parse> parse_arguments(CLI::App& app, Arguments arguments, std::string_view command);

}  // namespace elaswave::app
