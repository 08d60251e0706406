// What happened to a run besides its steps: DIR/events.jsonl, one JSON object a line, in the order
// in which it happened. README.md lists the events. THREADS: one caller (the reporter). ERRORS:
// Code::io, Code::data.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "io/base/error.h"
#include "io/base/file.h"

namespace elaswave::metrics {

struct Value;
/// Names and values, in the order in which they are written.
using Fields = std::vector<std::pair<std::string, Value>>;

struct Value {
  Value(bool flag) : any(flag) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) Value(T number) : any(static_cast<std::int64_t>(number)) {}
  Value(double number) : any(number) {}
  Value(std::string text) : any(std::move(text)) {}
  Value(std::string_view text) : any(std::string(text)) {}
  Value(const char* text) : any(std::string(text)) {}
  Value(const std::vector<std::int32_t>& numbers)
      : any(std::vector<std::int64_t>(numbers.begin(), numbers.end())) {}
  Value(std::vector<std::int64_t> numbers) : any(std::move(numbers)) {}
  Value(Fields object) : any(std::move(object)) {}
  Value(std::vector<Fields> objects) : any(std::move(objects)) {}
  bool operator==(const Value&) const = default;

  std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, Fields,
               std::vector<Fields>>
      any;
};

struct Event {
  std::string name;
  Fields fields;
  bool operator==(const Event&) const = default;

  /// Null when there is no such field.
  const Value* find(std::string_view field) const;
};

/// The line without its newline: {"event":NAME, then the fields}. Numbers as in metrics.h.
std::string to_json(const Event& event);

class EventLog {
 public:
  /// Goes on in an existing file, without a torn last line; creates DIR and file when missing.
  static Result<EventLog> open(const std::string& directory);
  /// As MetricsLog::take_over().
  static Result<EventLog> take_over(const std::string& directory);

  /// As MetricsLog::keep_name().
  Result<void> keep_name();

  /// One write, handed to the system before it returns.
  Result<void> write(const Event& event);
  const std::string& path() const { return file_.path(); }

 private:
  explicit EventLog(File file) : file_(std::move(file)) {}
  File file_;
};

/// For tests and tools. A torn last line is left out; one that is no event is Code::data. An array
/// of integers (also an empty one) and one of objects are told apart; null is the text "null".
Result<std::vector<Event>> read_events(const std::string& path);

}  // namespace elaswave::metrics
