// The option table as text: --help, --print-config, Markdown.
#include <fmt/format.h>

#include <algorithm>

#include "app/options.h"

namespace elaswave::app {
namespace {

std::string_view section_of(const Option& option) {
  return std::string_view(option.key).substr(0, option.key.find('.'));
}

std::string_view name_of(const Option& option) {
  return std::string_view(option.key).substr(option.key.find('.') + 1);
}

std::string_view section_title(std::string_view section) {
  constexpr std::pair<std::string_view, std::string_view> kTitles[] = {
      {"model", "what is trained"},       {"data", "what it is trained on"},
      {"train", "how it is trained"},     {"checkpoint", "what is kept on disk"},
      {"numerics", "how sums are taken"}, {"device", "what computes"},
      {"comm", "messages between ranks"}, {"log", "what is shown and written"}};
  for (const auto& [name, title] : kTitles)
    if (name == section) return title;
  return "";
}

/// "steps; >= 1" or one of the two.
std::string unit_and_range(const Option& option) {
  const std::string accepted = accepted_values(option);
  if (option.unit.empty() || accepted.empty()) return option.unit + accepted;
  return fmt::format("{}, {}", option.unit, accepted);
}

/// A file name may hold anything; a comment must stay on its line.
std::string comment(std::string_view text) {
  std::string out;
  for (const char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return out;
}

/// '|' would end a cell.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

}  // namespace

std::string train_help() {
  std::string text =
      "usage: elaswave train [--config=FILE]... [--SECTION.KEY=VALUE]...\n\n"
      "Trains a model. Later sources win: default, configuration files in the order given,\n"
      "environment (ELASWAVE_SECTION_KEY), command line. '-' may be written for '_'; booleans also "
      "as\n"
      "--SECTION.KEY and --no-SECTION.KEY; lists by giving the key once for each element.\n\n"
      "  -c, --config=FILE   TOML file; may be given more than once\n"
      "  --print-config      print every value and where it came from, as TOML, and stop\n"
      "  -h, --help          this text\n";
  const Config defaults;
  std::string_view section;
  for (const Option& option : option_table()) {
    if (section != section_of(option)) {
      section = section_of(option);
      text += fmt::format("\n{}: {}\n", section, section_title(section));
    }
    const std::string accepted = unit_and_range(option);
    text += fmt::format("  --{:<26} {}\n", option.key, option.help);
    text += fmt::format("  {:<28} {}{}{}, default {}\n", "", type_name(option),
                        accepted.empty() ? "" : ": ", accepted, value_text(option, defaults));
  }
  return text;
}

std::string config_toml(const Settings& settings) {
  const auto table = option_table();
  std::size_t widest = 0;
  std::vector<std::string> lines;
  for (const Option& option : table) {
    lines.push_back(fmt::format("{} = {}", name_of(option), value_text(option, settings.config)));
    widest = std::max(widest, lines.back().size());
  }
  // One long list must not push every comment off the screen.
  const std::size_t column = std::min<std::size_t>(widest, 36);
  std::string text = "# every key of elaswave train, its value and where that came from\n";
  std::string_view section;
  for (std::size_t row = 0; row < table.size(); ++row) {
    if (section != section_of(table[row])) {
      section = section_of(table[row]);
      text += fmt::format("\n[{}]  # {}\n", section, section_title(section));
    }
    text += fmt::format("{:<{}}  # {}\n", lines[row], column, comment(settings.origins[row]));
  }
  return text;
}

std::string options_markdown() {
  std::string text(kMarkdownBegin);
  text +=
      "\n| key | type | default | accepted | on resume | meaning |\n|---|---|---|---|---|---|\n";
  const Config defaults;
  for (const Option& option : option_table())
    text += fmt::format("| `{}` | {} | `{}` | {} | {} | {} |\n", option.key, type_name(option),
                        value_text(option, defaults), cell(unit_and_range(option)),
                        name(option.resume), cell(option.help));
  text += kMarkdownEnd;
  text += '\n';
  return text;
}

}  // namespace elaswave::app
