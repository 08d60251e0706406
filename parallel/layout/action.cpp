#include "parallel/layout/action.h"

#include <fmt/format.h>

#include <charconv>

namespace elaswave::layout {
namespace {

tl::unexpected<Error> bad_action(std::string_view text) {
  return fail({.code = Code::usage,
               .what = fmt::format("'{}' is not an action", text),
               .where = "schedule",
               .why = "an action is a chunk, one of F B I W R, and a micro-batch: 2F0",
               .fix = "separate actions by single spaces"});
}

/// Takes a number without sign or leading zeros off the front of `text`.
bool take_number(std::string_view& text, std::int32_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto length = static_cast<std::size_t>(end - text.data());
  if (error != std::errc() || number < 0 || text.front() == '-') return false;
  if (length > 1 && text.front() == '0') return false;
  text.remove_prefix(length);
  return true;
}

}  // namespace

std::string to_text(const Action& action) {
  return fmt::format("{}{}{}", action.chunk, letter(action.op), action.micro_batch);
}

std::string to_text(const Row& row) {
  std::string text;
  for (const Action& action : row) {
    if (!text.empty()) text += ' ';
    text += to_text(action);
  }
  return text;
}

Result<Action> parse_action(std::string_view text) {
  std::string_view rest = text;
  Action action;
  if (!take_number(rest, action.chunk) || rest.empty()) return bad_action(text);
  const std::size_t op = std::string_view("FBIWR").find(rest.front());
  if (op == std::string_view::npos) return bad_action(text);
  action.op = static_cast<Op>(op);
  rest.remove_prefix(1);
  if (!take_number(rest, action.micro_batch) || !rest.empty()) return bad_action(text);
  return action;
}

Result<Row> parse_row(std::string_view text) {
  Row row;
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    EW_ASSIGN(const Action action, parse_action(text.substr(0, space)));
    row.push_back(action);
    if (space == std::string_view::npos) break;
    text.remove_prefix(space + 1);
    if (text.empty()) return bad_action(text);
  }
  return row;
}

}  // namespace elaswave::layout
