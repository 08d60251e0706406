// The subcommands of `elaswave`, one file each. A command gets the words after its name and returns
// the process's exit code, or an Error that main prints and turns into one.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"

namespace CLI {
class App;
}

namespace elaswave::app {

using Arguments = std::span<const std::string>;

Result<int> train_command(Arguments arguments);
Result<int> data_command(Arguments arguments);
Result<int> launch_command(Arguments arguments);
Result<int> plan_command(Arguments arguments);
Result<int> tune_command(Arguments arguments);
Result<int> checkpoint_command(Arguments arguments);
Result<int> generate_command(Arguments arguments);

/// "elaswave 0.1.0".
std::string program_name();

/// `elaswave --version`: program, libraries, backends, numeric class.
std::string version_text();

/// An error of the command line.
tl::unexpected<Error> command_line_error(std::string what, std::string why, std::string fix);

/// `text` when it is one of `known`; the error names the nearest.
Result<std::string> parse_choice(std::string_view option, const std::string& text,
                                 const std::vector<std::string>& known);

struct Subcommand {
  std::string_view name, summary;
  Result<int> (*run)(Arguments);
};
/// Runs the one that `arguments` begin with; prints the list of all when asked or when there is
/// none.
Result<int> run_subcommand(std::string_view command, std::span<const Subcommand> known,
                           Arguments arguments);

enum class Parse { go_on, helped };

/// Lets `app` read the arguments ('-' accepted for '_' in option names). Prints its help on stdout
/// when asked (Parse::helped). Unknown options and arguments are Code::usage and name the nearest
/// option; `command` is what the user typed so far ("elaswave data prepare").
Result<Parse> parse_arguments(CLI::App& app, Arguments arguments, std::string_view command);

}  // namespace elaswave::app
