// What subcommands share on their way from words to values. The one place where CLI11's errors
// become ours: its exit codes (106 and the like) never leave it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "app/commands.h"
#include "app/text.h"

namespace elaswave::app {
namespace {

std::vector<std::string> long_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

}  // namespace

tl::unexpected<Error> command_line_error(std::string what, std::string why, std::string fix) {
  return fail({.code = Code::usage,
               .what = std::move(what),
               .where = "command line",
               .why = std::move(why),
               .fix = std::move(fix)});
}

Result<std::string> parse_choice(std::string_view option, const std::string& text,
                                 const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), text) != known.end()) return text;
  return command_line_error(fmt::format("{} does not know '{}'", option, text),
                            fmt::format("the choices are {}", join(known)),
                            suggestion(text, known, "choose one of them"));
}

Result<int> run_subcommand(std::string_view command, std::span<const Subcommand> known,
                           Arguments arguments) {
  const std::string name = arguments.empty() ? "" : arguments.front();
  std::string usage = fmt::format("usage: elaswave {} COMMAND ...\n\n", command);
  std::vector<std::string> names;
  names.reserve(known.size());
  for (const Subcommand& subcommand : known) {
    if (subcommand.name == name) return subcommand.run(arguments.subspan(1));
    usage += fmt::format("  {:<9} {}\n", subcommand.name, subcommand.summary);
    names.emplace_back(subcommand.name);
  }
  usage +=
      fmt::format("  {:<9} this text; elaswave {} COMMAND --help for more\n", "--help", command);
  const bool help = name == "--help" || name == "-h";
  std::fputs(usage.c_str(), help ? stdout : stderr);
  if (help) return 0;
  return command_line_error(name.empty() ? fmt::format("{} needs a subcommand", command)
                                         : fmt::format("unknown subcommand '{} {}'", command, name),
                            fmt::format("the subcommands are {}", join(names)),
                            suggestion(name, names, "give one of them"));
}

Result<Parse> parse_arguments(CLI::App& app, Arguments arguments, std::string_view command) {
  std::vector<std::string> reversed;  // CLI11 takes its vector from the back
  // From "--" on, and behind a passed-on command, words are not ours to respell.
  bool options = !app.get_prefix_command();
  for (const std::string& argument : arguments) {
    options = options && argument != "--";
    const std::size_t end = std::min(argument.find('='), argument.size());
    // CLI11 2.1.2 would take the next argument for the missing value.
    if (options && argument.starts_with("--") && end + 1 == argument.size())
      return fail({.code = Code::usage,
                   .what = fmt::format("{} has no value", argument.substr(0, end)),
                   .where = "command line",
                   .why = "nothing follows the '='",
                   .fix = fmt::format("write {}=VALUE", argument.substr(0, end))});
    const bool named = options && argument.starts_with("--") && end > 2;
    reversed.push_back(named ? "--" + with_underscores(argument.substr(2, end - 2)) +
                                   argument.substr(end)
                             : argument);
  }
  std::reverse(reversed.begin(), reversed.end());
  const std::string help = fmt::format("{} --help lists all options", command);
  Error error{.code = Code::usage, .what = "", .where = "command line", .why = "", .fix = help};
  app.allow_extras();
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return Parse::helped;
  } catch (const CLI::ParseError& problem) {
    error.what = fmt::format("{} cannot be run like this", command);
    error.why = problem.what();
  }
  // A misspelt required option is better called unknown than missing.
  const auto extras = app.remaining();
  const bool pass_on = app.get_prefix_command() && (extras.empty() || extras.front() == "--" ||
                                                    !extras.front().starts_with("-"));
  if (!extras.empty() && !pass_on) {
    const std::string& extra = extras.front();
    error.what = fmt::format("{} does not know '{}'", command, extra);
    error.why = extra.starts_with("-") ? "no option has this name" : "it takes no such argument";
    error.fix = suggestion(extra.substr(0, extra.find('=')), long_names(app), help);
  }
  if (error.what.empty()) return Parse::go_on;
  return fail(std::move(error));
}

}  // namespace elaswave::app
