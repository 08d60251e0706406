// The option table: one row for each key of a training run. The command line of `train`, TOML
// files, environment variables, --help, --print-config and the README table are all made from it,
// so they cannot disagree. Values live in app/config.h, defaults included.
//
// Precedence: default < configuration files (later wins; an included file comes before its
// includer) < environment (ELASWAVE_SECTION_KEY) < command line (--section.key=value). Every error
// is Code::usage and names key, place, value, limit and remedy. THREADS: any; nothing here is
// mutable after its first use.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "app/config.h"
#include "io/base/error.h"

namespace elaswave::app {

/// Whether a key may differ when a run is resumed from a checkpoint.
enum class ResumeClass {
  free,    // never changes what is computed
  warn,    // changes the result; a person may want that
  refuse,  // makes it another run
};
std::string_view name(ResumeClass resume);

/// Where a key's value lives in a Config.
using Field = std::variant<std::int64_t*, double*, bool*, std::string*, std::vector<std::string>*>;

/// Accepted numbers, from `low` to `high`; either end may be excluded.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  enum class High { included, excluded } end = High::included;
  enum class Low { included, excluded } begin = Low::included;
};

struct Option {
  std::string key;  // "section.name"
  Field (*field)(Config&) = nullptr;
  std::string unit;                  // of numbers; empty: none
  Range range;                       // of numbers
  std::vector<std::string> choices;  // of strings; empty: any
  ResumeClass resume = ResumeClass::free;
  std::string help;  // one line, lower case, no full stop
};

/// All options, ordered by section. Built on first use, then constant.
std::span<const Option> option_table();

/// The keys of option_table(), same order.
std::span<const std::string> option_keys();

/// A key's row number, '-' accepted for '_'; -1 when there is no such key.
std::int64_t find_option(std::string_view key);

/// True for "train" and every other first part of a key.
bool is_section(std::string_view name);

/// "integer", "number", "boolean", "text", "list of texts".
std::string_view type_name(const Option& option);

/// "0 to below 1", ">= 1", "exact, fast"; empty when anything goes.
std::string accepted_values(const Option& option);

/// A Config and, row by row of option_table(), where each value came from: "default",
/// "configs/tiny.toml:12", "environment ELASWAVE_TRAIN_STEPS", "command line".
struct Settings {
  Config config;
  std::vector<std::string> origins;

  Settings();
};

/// The value as TOML writes it; numbers with the fewest digits that read back the same.
std::string value_text(const Option& option, const Config& config);

/// Typed values as configuration sources deliver them.
using Value = std::variant<std::int64_t, double, bool, std::string, std::vector<std::string>>;

/// Where a value was found: as kept in Settings::origins, and in full for an error's second line.
struct Place {
  std::string origin;  // "configs/tiny.toml:12"
  std::string exact;   // "configs/tiny.toml:12:9"
};

/// Turns the text of a command line or environment variable into the option's type.
Result<Value> parse_value(const Option& option, std::string_view text, const Place& place);

/// Stores a value after checking type, range and choice.
Result<void> assign(Settings& settings, std::int64_t row, Value value, const Place& place);

/// Checks that need more than one key: batch sizes, learning rates, and all that
/// resolve() (run_spec.h) finds. Errors say where the values came from.
Result<void> cross_check(const Settings& settings);
/// What only a run needs: something to validate on, a place for checkpoints.
Result<void> check_places(const Settings& settings);

/// Reads a TOML file into `settings`, its includes first. Errors name file, line and column.
Result<void> read_config_file(Settings& settings, const std::string& path);

/// Variables of the process that begin with ELASWAVE_, as a value so that tests can make one.
using Environment = std::map<std::string, std::string>;
Environment elaswave_environment();

/// Applies ELASWAVE_<SECTION>_<KEY>. A variable of a known section with an unknown key is an error;
/// lists are separated by ':'.
Result<void> read_environment(Settings& settings, const Environment& environment);

enum class TrainWish { run, print_config, help };

struct TrainCommand {
  Settings settings;
  TrainWish wish = TrainWish::run;
};

/// The whole of `elaswave train ARGUMENTS...`: files, environment, command line and cross checks.
/// A run also needs data.train; printing the configuration does not.
Result<TrainCommand> parse_train(std::span<const std::string> arguments,
                                 const Environment& environment);

/// `train --help`.
std::string train_help();

/// `train --print-config`: TOML that read_config_file() accepts, each line with its origin.
std::string config_toml(const Settings& settings);

/// The table for README.md, between (and with) the two marker lines.
inline constexpr std::string_view kMarkdownBegin = "<!-- options:begin -->";
inline constexpr std::string_view kMarkdownEnd = "<!-- options:end -->";
std::string options_markdown();

}  // namespace elaswave::app
