// From text and typed values to fields of a Config and back, with every check that needs one key
// only.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "app/options.h"
#include "app/text.h"

namespace elaswave::app {
namespace {

template <typename... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <typename... Cases>  // C++20 needs none, clang-tidy 14 does
Overloaded(Cases...)->Overloaded<Cases...>;

tl::unexpected<Error> ill_typed(const Option& option, std::string_view shown, const Place& place) {
  const std::string accepted = accepted_values(option);
  return fail({.code = Code::usage,
               .what = fmt::format("{} has the wrong type", option.key),
               .where = place.exact,
               .why = fmt::format("expected: {}; found: {}", type_name(option), shown),
               .fix = accepted.empty() ? fmt::format("for example {} = {}", option.key,
                                                     value_text(option, Config{}))
                                       : fmt::format("accepted: {}", accepted)});
}

template <typename Number>
bool parse_number(std::string_view text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end;
}

Result<void> check_range(const Option& option, double value, std::string_view shown,
                         const Place& place) {
  const Range& range = option.range;
  const bool low_ok = range.begin == Range::Low::excluded ? value > range.low : value >= range.low;
  const bool high_ok =
      range.end == Range::High::excluded ? value < range.high : value <= range.high;
  if (std::isfinite(value) && low_ok && high_ok) return {};
  const std::string accepted = accepted_values(option);
  return fail({.code = Code::usage,
               .what = fmt::format("{} is out of range", option.key),
               .where = place.exact,
               .why = fmt::format("it is {}; accepted: {}", shown,
                                  accepted.empty() ? "finite numbers" : accepted),
               .fix = "give a value in that range"});
}

Result<void> check_choice(const Option& option, const std::string& value, const Place& place) {
  const auto& choices = option.choices;
  if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end())
    return {};
  return fail({.code = Code::usage,
               .what = fmt::format("{} does not know '{}'", option.key, value),
               .where = place.exact,
               .why = fmt::format("the choices are {}", join(choices)),
               .fix = suggestion(value, choices, "choose one of them")});
}

/// How a value is shown in an error: close to how it was written.
std::string shown(const Value& value) {
  return std::visit(Overloaded{[](const std::string& text) { return fmt::format("'{}'", text); },
                               [](const std::vector<std::string>& list) {
                                 return fmt::format("a list of {} texts", list.size());
                               },
                               [](auto scalar) { return fmt::format("{}", scalar); }},
                    value);
}

std::string number_toml(double value) {
  std::string text = fmt::format("{}", value);
  // TOML tells integers from floats by their spelling.
  if (text.find_first_of(".einf") == std::string::npos) text += ".0";
  return text;
}

std::string string_toml(std::string_view value) {
  std::string text = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      text += fmt::format("\\{}", c);
    else if (byte < 0x20 || byte == 0x7F)
      text += fmt::format("\\u{:04X}", byte);
    else
      text += c;
  }
  return text + '"';
}

/// The stored form of `value` in a field of type T, or nothing when the types do not meet.
template <typename T>
const T* as(const Value& value) {
  return std::get_if<T>(&value);
}

Result<void> store(const Option& option, double* field, const Value& value, const Place& place) {
  const auto* whole = as<std::int64_t>(value);
  const auto* real = as<double>(value);
  if (whole == nullptr && real == nullptr) return ill_typed(option, shown(value), place);
  const double number = whole != nullptr ? static_cast<double>(*whole) : *real;
  EW_TRY(check_range(option, number, shown(value), place));
  *field = number;
  return {};
}

Result<void> store(const Option& option, std::int64_t* field, const Value& value,
                   const Place& place) {
  const auto* whole = as<std::int64_t>(value);
  if (whole == nullptr) return ill_typed(option, shown(value), place);
  EW_TRY(check_range(option, static_cast<double>(*whole), shown(value), place));
  *field = *whole;
  return {};
}

Result<void> store(const Option& option, bool* field, const Value& value, const Place& place) {
  const auto* truth = as<bool>(value);
  if (truth == nullptr) return ill_typed(option, shown(value), place);
  *field = *truth;
  return {};
}

Result<void> store(const Option& option, std::string* field, const Value& value,
                   const Place& place) {
  const auto* text = as<std::string>(value);
  if (text == nullptr) return ill_typed(option, shown(value), place);
  EW_TRY(check_choice(option, *text, place));
  *field = *text;
  return {};
}

Result<void> store(const Option& option, std::vector<std::string>* field, const Value& value,
                   const Place& place) {
  if (const auto* text = as<std::string>(value)) {
    *field = {*text};
  } else if (const auto* list = as<std::vector<std::string>>(value)) {
    *field = *list;
  } else {
    return ill_typed(option, shown(value), place);
  }
  for (const std::string& item : *field)
    if (item.empty())
      return fail({.code = Code::usage,
                   .what = fmt::format("{} names an empty file name", option.key),
                   .where = place.exact,
                   .why = "an empty text is no file name",
                   .fix = "leave it out or give the file's name"});
  return {};
}

}  // namespace

Result<Value> parse_value(const Option& option, std::string_view text, const Place& place) {
  Config config;
  const Field field = option.field(config);
  if (std::holds_alternative<std::int64_t*>(field)) {
    std::int64_t number = 0;
    if (parse_number(text, number)) return number;
  } else if (std::holds_alternative<double*>(field)) {
    double number = 0;
    if (parse_number(text, number)) return number;
  } else if (std::holds_alternative<bool*>(field)) {
    if (text == "true" || text == "1") return true;
    if (text == "false" || text == "0") return false;
  } else {
    return Value(std::string(text));
  }
  return ill_typed(option, fmt::format("'{}'", text), place);
}

Result<void> assign(Settings& settings, std::int64_t row, Value value, const Place& place) {
  const Option& option = option_table()[static_cast<std::size_t>(row)];
  auto stored = std::visit([&](auto* field) { return store(option, field, value, place); },
                           option.field(settings.config));
  if (stored) settings.origins[static_cast<std::size_t>(row)] = place.origin;
  return stored;
}

std::string value_text(const Option& option, const Config& config) {
  // The accessor wants a Config it may write to; this copy is what it gets.
  Config copy = config;
  return std::visit(Overloaded{[](std::int64_t* value) { return fmt::format("{}", *value); },
                               [](double* value) { return number_toml(*value); },
                               [](bool* value) { return std::string(*value ? "true" : "false"); },
                               [](std::string* value) { return string_toml(*value); },
                               [](std::vector<std::string>* value) {
                                 std::vector<std::string> quoted;
                                 for (const std::string& item : *value)
                                   quoted.push_back(string_toml(item));
                                 return fmt::format("[{}]", join(quoted));
                               }},
                    option.field(copy));
}

}  // namespace elaswave::app
