// The command line of `train` (split by CLI11, typed and checked by the option table) and the
// environment. CLI11's own configuration files and environment are not used: on subcommands it
// ignores missing files and unknown keys.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>

#include "app/commands.h"
#include "app/options.h"
#include "app/text.h"

extern char** environ;

namespace elaswave::app {
namespace {

constexpr std::string_view kVariablePrefix = "ELASWAVE_";

/// What the command line said about one option, in order.
struct Given {
  std::vector<std::string> values;
  std::int64_t negated_count = 0;  // --no-key
};

bool is_boolean(const Option& option) {
  return type_name(option) == "boolean";
}
bool is_list(const Option& option) {
  return type_name(option) == "list of texts";
}

/// "--train.micro-batch=2" -> "--train.micro_batch=2"; names of section.key form only.
std::string normalized(const std::string& argument) {
  const std::size_t end = std::min(argument.find('='), argument.size());
  if (!argument.starts_with("--") || argument.find('.') >= end) return argument;
  const bool negated = argument.starts_with("--no-");
  const std::size_t start = negated ? 5 : 2;
  return argument.substr(0, start) + with_underscores(argument.substr(start, end - start)) +
         argument.substr(end);
}

/// What CLI11 2.1.2 would get wrong: an option without its value takes the next option's name, and
/// one with an empty value ("--log.dir=") the next argument.
Result<void> add_for_cli11(std::vector<std::string>& words, const std::string& argument,
                           const std::string* next) {
  const std::size_t equals = argument.find('=');
  const std::string option = argument.substr(0, equals);
  const std::int64_t row = option.starts_with("--") ? find_option(option.substr(2)) : -1;
  const bool boolean = row >= 0 && is_boolean(option_table()[static_cast<std::size_t>(row)]);
  const bool file = option == "--config" || option == "-c";
  const bool empty = equals != std::string::npos && equals + 1 == argument.size();
  const bool bare = equals == std::string::npos && (next == nullptr || next->starts_with("--"));
  if ((empty && (boolean || file)) || (bare && (file || (row >= 0 && !boolean))))
    return command_line_error(fmt::format("{} has no value", option), "the option needs one",
                              fmt::format("write {}=VALUE", option));
  if (empty && row >= 0) {
    words.push_back(option);
    words.emplace_back();
  } else {
    words.push_back(argument);
  }
  return {};
}

tl::unexpected<Error> unknown_argument(const std::string& argument) {
  if (!argument.starts_with("-"))
    return command_line_error(fmt::format("unexpected argument '{}'", argument),
                              "train takes options only",
                              "configuration files are given with --config=FILE");
  std::string key = argument.substr(0, argument.find('='));
  key.erase(0, key.find_first_not_of('-'));
  const bool negated = key.starts_with("no-");
  if (negated) key.erase(0, 3);
  key = with_underscores(key);
  std::vector<std::string> known;
  if (negated && find_option(key) >= 0)
    return command_line_error(fmt::format("--no-{} makes no sense", key), "it is not a boolean",
                              fmt::format("write --{}=VALUE", key));
  for (const std::string& each : option_keys()) known.push_back(each);
  known.insert(known.end(), {"config", "print_config", "help"});
  const std::string near = nearest(key, known);
  const std::string spelled =
      near == "print_config" ? std::string("print-config") : near;  // the one that is not a key
  return command_line_error(
      fmt::format("unknown option '{}'", argument.substr(0, argument.find('='))),
      "no option has this name",
      near.empty() ? "elaswave train --help lists all options"
                   : fmt::format("did you mean --{}{}?", negated ? "no-" : "", spelled));
}

struct Parsed {
  std::vector<Given> given;  // by row
  std::vector<std::string> files;
  TrainWish wish = TrainWish::run;
};

Result<Parsed> split(std::span<const std::string> arguments) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < arguments.size(); ++i)
    EW_TRY(add_for_cli11(words, normalized(arguments[i]),
                         i + 1 < arguments.size() ? &arguments[i + 1] : nullptr));
  std::reverse(words.begin(), words.end());  // CLI11 takes its vector from the back

  const auto table = option_table();
  Parsed parsed{.given = std::vector<Given>(table.size()), .files = {}};
  bool help = false, print = false;
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  app.add_flag("-h,--help", help);
  app.add_flag("--print-config,--print_config", print);
  app.add_option("-c,--config", parsed.files)->expected(1)->take_all()->allow_extra_args(false);
  for (std::size_t row = 0; row < table.size(); ++row) {
    Given& given = parsed.given[row];
    auto* option = app.add_option(fmt::format("--{}", table[row].key), given.values);
    option->expected(is_boolean(table[row]) ? 0 : 1, 1)->take_all()->allow_extra_args(false);
    if (is_boolean(table[row]))
      app.add_flag(fmt::format("--no-{}", table[row].key), given.negated_count);
  }
  try {
    app.parse(words);
  } catch (const CLI::ParseError& problem) {
    return command_line_error("the command line cannot be read", problem.what(),
                              "elaswave train --help lists all options");
  }
  const std::vector<std::string> extras = app.remaining();
  if (!extras.empty()) return unknown_argument(extras.front());
  parsed.wish = help ? TrainWish::help : print ? TrainWish::print_config : TrainWish::run;
  return parsed;
}

Result<void> apply(Settings& settings, std::size_t row, const Given& given) {
  const Option& option = option_table()[row];
  const std::int64_t times = static_cast<std::int64_t>(given.values.size()) + given.negated_count;
  if (times == 0) return {};
  if (times > 1 && !is_list(option))
    return command_line_error(fmt::format("--{} is given {} times", option.key, times),
                              "one value would silently win over the other", "give it once");
  Place place{.origin = "command line", .exact = fmt::format("command line, --{}", option.key)};
  const auto index = static_cast<std::int64_t>(row);
  if (is_list(option)) return assign(settings, index, given.values, place);
  if (given.negated_count > 0) return assign(settings, index, false, place);
  const std::string& text = given.values.front();
  // CLI11 writes an option without its optional value as "" or "{}".
  if (is_boolean(option) && (text.empty() || text == "{}"))
    return assign(settings, index, true, place);
  EW_ASSIGN(Value value, parse_value(option, text, place));
  return assign(settings, index, std::move(value), place);
}

/// "train.micro_batch" -> "ELASWAVE_TRAIN_MICRO_BATCH"
std::string variable_name(std::string_view key) {
  std::string text(kVariablePrefix);
  for (const char c : key)
    text += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

/// Variables whose first word is a section are meant as options; others (the launcher's own) are
/// not.
Result<void> check_variable(const std::string& variable) {
  const std::string rest = variable.substr(kVariablePrefix.size());
  std::string section = rest.substr(0, rest.find('_'));
  std::transform(section.begin(), section.end(), section.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (!is_section(section) || section.size() == rest.size()) return {};
  std::vector<std::string> known;
  for (const std::string& key : option_keys()) known.push_back(variable_name(key));
  if (std::find(known.begin(), known.end(), variable) != known.end()) return {};
  return fail(
      {.code = Code::usage,
       .what = fmt::format("unknown variable {}", variable),
       .where = "environment",
       .why = fmt::format("it names section {} but none of its keys", section),
       .fix = suggestion(variable, known, "unset it; elaswave train --help lists all keys")});
}

Result<void> check_runnable(const Settings& settings) {
  if (!settings.config.data.train.empty()) return {};
  return command_line_error("there is nothing to train on", "data.train names no token file",
                            "give --data.train=FILE; elaswave data prepare makes one from text");
}

}  // namespace

Environment elaswave_environment() {
  Environment found;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (!text.starts_with(kVariablePrefix) || equals == std::string_view::npos) continue;
    found.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return found;
}

Result<void> read_environment(Settings& settings, const Environment& environment) {
  for (const auto& [variable, text] : environment) EW_TRY(check_variable(variable));
  const auto table = option_table();
  for (std::size_t row = 0; row < table.size(); ++row) {
    const std::string variable = variable_name(table[row].key);
    const auto found = environment.find(variable);
    if (found == environment.end()) continue;
    const Place place{.origin = fmt::format("environment {}", variable),
                      .exact = fmt::format("environment, {}", variable)};
    const auto index = static_cast<std::int64_t>(row);
    if (is_list(table[row])) {
      EW_TRY(assign(settings, index, CLI::detail::split(found->second, ':'), place));
      continue;
    }
    EW_ASSIGN(Value value, parse_value(table[row], found->second, place));
    EW_TRY(assign(settings, index, std::move(value), place));
  }
  return {};
}

Result<TrainCommand> parse_train(std::span<const std::string> arguments,
                                 const Environment& environment) {
  EW_ASSIGN(const Parsed parsed, split(arguments));
  TrainCommand command{.settings = {}, .wish = parsed.wish};
  if (parsed.wish == TrainWish::help) return command;
  for (const std::string& file : parsed.files) EW_TRY(read_config_file(command.settings, file));
  EW_TRY(read_environment(command.settings, environment));
  for (std::size_t row = 0; row < parsed.given.size(); ++row)
    EW_TRY(apply(command.settings, row, parsed.given[row]));
  EW_TRY(cross_check(command.settings));
  if (parsed.wish == TrainWish::run) {
    EW_TRY(check_places(command.settings));
    EW_TRY(check_runnable(command.settings));
  }
  return command;
}

}  // namespace elaswave::app
