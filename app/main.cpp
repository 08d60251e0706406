// argv -> subcommand -> exit code. The only place where the program ends in order, and the only
// catch(...).
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "app/commands.h"
#include "app/exit_report.h"
#include "app/options.h"
#include "app/text.h"
#include "io/base/log.h"

namespace elaswave::app {
namespace {

struct Command {
  std::string_view name, summary;
  Result<int> (*run)(Arguments);
};

Result<int> help_markdown(Arguments) {
  std::fputs(options_markdown().c_str(), stdout);
  return 0;
}

constexpr std::array<Command, 7> kCommands = {{
    {"train", "train a model (alone, or as a rank under a launcher)", train_command},
    {"launch", "launch -n N -- train ...: N ranks on this host", launch_command},
    {"plan", "layout, memory, time and schedule of a run before it starts", plan_command},
    {"tune", "measure the matrix products of a run on a GPU, for device.gemm_table", tune_command},
    {"data", "prepare, inspect and verify token files", data_command},
    {"checkpoint", "list, inspect, verify, compare and export checkpoints", checkpoint_command},
    {"generate", "continue a text with the model of a checkpoint", generate_command},
}};
// For scripts/readme_table.sh; of no use to a person.
constexpr Command kHelpMarkdown = {"help-markdown", "", help_markdown};

std::string help_text() {
  std::string text = "usage: elaswave COMMAND ...\n\n";
  for (const Command& command : kCommands)
    text += fmt::format("  {:<12} {}\n", command.name, command.summary);
  text +=
      "  --version    libraries, backends, numeric class\n"
      "  --help       this text; elaswave COMMAND --help for more\n";
  return text;
}

Result<int> unknown_command(const std::vector<std::string>& words) {
  std::fputs(help_text().c_str(), stderr);
  std::fputs("\n", stderr);
  std::vector<std::string> names = {"--version", "--help"};
  for (const Command& command : kCommands) names.emplace_back(command.name);
  if (words.empty())
    return fail({.code = Code::usage,
                 .what = "no subcommand given",
                 .where = "command line",
                 .why = "elaswave does nothing by itself",
                 .fix = "give one of the commands above"});
  return fail({.code = Code::usage,
               .what = fmt::format("unknown subcommand '{}'", words.front()),
               .where = "command line",
               .why = fmt::format("the subcommands are {}", join(std::span(names).subspan(2))),
               .fix = suggestion(words.front(), names, "give one of them")});
}

Result<int> dispatch(const std::vector<std::string>& words) {
  if (words.empty()) return unknown_command(words);
  const std::string& name = words.front();
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(help_text().c_str(), stdout);
    return 0;
  }
  if (name == "--version" || name == "version") {
    std::fputs(version_text().c_str(), stdout);
    return 0;
  }
  const Arguments rest = Arguments(words).subspan(1);
  if (name == kHelpMarkdown.name) return kHelpMarkdown.run(rest);
  for (const Command& command : kCommands)
    if (command.name == name) return command.run(rest);
  return unknown_command(words);
}

int run(const std::vector<std::string>& words) {
  const Result<int> result = dispatch(words);
  if (result) return *result;
  std::fflush(stdout);
  print_error(result.error());
  return exit_code(result.error().code);
}

}  // namespace
}  // namespace elaswave::app

int main(int argc, char** argv) {
  int code = elaswave::exit_code(elaswave::Code::bug);
  elaswave::set_fatal_hook(elaswave::app::report_exit);
  elaswave::configure_log(elaswave::LogLevel::info,
                          "elaswave");  // to stderr; commands may change it
  try {
    code = elaswave::app::run(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "elaswave: bug: uncaught exception: %s\n", problem.what());
  } catch (...) {
    std::fprintf(stderr, "elaswave: bug: uncaught exception of unknown type\n");
  }
  std::fflush(stdout);
  elaswave::app::report_exit(code);
  // After a failure MPI was not finalized and its thread may still be inside a call: nothing may
  // run destructors of globals beside it.
  if (code != 0) std::_Exit(code);
  return code;
}
