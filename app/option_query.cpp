// What can be asked of the option table.
#include <fmt/format.h>

#include <algorithm>

#include "app/options.h"
#include "app/text.h"

namespace elaswave::app {
namespace {

std::string number_text(double value) {
  return value == static_cast<double>(static_cast<std::int64_t>(value))
             ? fmt::format("{}", static_cast<std::int64_t>(value))
             : fmt::format("{}", value);
}

std::string range_text(const Range& range) {
  const double infinity = std::numeric_limits<double>::infinity();
  const bool open_low = range.begin == Range::Low::excluded;
  const bool open_high = range.end == Range::High::excluded;
  if (range.low == -infinity && range.high == infinity) return "";
  if (range.high == infinity)
    return fmt::format("{} {}", open_low ? ">" : ">=", number_text(range.low));
  return fmt::format("{}{} to {}{}", open_low ? "above " : "", number_text(range.low),
                     open_high ? "below " : "", number_text(range.high));
}

}  // namespace

std::string_view name(ResumeClass resume) {
  switch (resume) {
    case ResumeClass::free:
      return "free";
    case ResumeClass::warn:
      return "warn";
    case ResumeClass::refuse:
      break;
  }
  return "refuse";
}

std::span<const std::string> option_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> all;
    for (const Option& option : option_table()) all.push_back(option.key);
    return all;
  }();
  return keys;
}

std::int64_t find_option(std::string_view key) {
  const std::string wanted = with_underscores(key);
  const auto keys = option_keys();
  const auto found = std::find(keys.begin(), keys.end(), wanted);
  return found == keys.end() ? -1 : found - keys.begin();
}

bool is_section(std::string_view name) {
  const std::string prefix = fmt::format("{}.", name);
  const auto keys = option_keys();
  return std::any_of(keys.begin(), keys.end(),
                     [&](const std::string& key) { return key.starts_with(prefix); });
}

std::string_view type_name(const Option& option) {
  Config config;
  constexpr std::string_view kNames[] = {"integer", "number", "boolean", "text", "list of texts"};
  return kNames[option.field(config).index()];
}

std::string accepted_values(const Option& option) {
  return option.choices.empty() ? range_text(option.range) : join(option.choices);
}

Settings::Settings() : origins(option_table().size(), "default") {}

}  // namespace elaswave::app
