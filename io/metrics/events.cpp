#include "io/metrics/events.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/metrics/json_lines.h"

namespace elaswave::metrics {
namespace {

constexpr std::string_view kFileName = "events.jsonl";

void add_fields(std::string& json, const Fields& fields);

/// An object without its leading comma.
std::string object(const Fields& fields) {
  std::string json;
  add_fields(json, fields);
  return fmt::format("{{{}}}", std::string_view(json).substr(json.empty() ? 0 : 1));
}

struct AddValue {
  std::string& json;
  const std::string& name;

  void add(std::string_view text) { json += fmt::format(",{}:{}", json_text(name), text); }
  void operator()(bool flag) { add(flag ? "true" : "false"); }
  void operator()(std::int64_t number) { add(fmt::format("{}", number)); }
  void operator()(double number) { add_number_field(json, name, number); }
  void operator()(const std::string& text) { add(json_text(text)); }
  void operator()(const std::vector<std::int64_t>& numbers) {
    add(fmt::format("[{}]", fmt::join(numbers, ",")));
  }
  void operator()(const Fields& fields) { add(object(fields)); }
  void operator()(const std::vector<Fields>& objects) {
    std::vector<std::string> texts;
    texts.reserve(objects.size());
    for (const Fields& fields : objects) texts.push_back(object(fields));
    add(fmt::format("[{}]", fmt::join(texts, ",")));
  }
};

void add_fields(std::string& json, const Fields& fields) {
  for (const auto& [name, value] : fields) std::visit(AddValue{json, name}, value.any);
}

using Json = nlohmann::ordered_json;

Fields fields_of(const Json& json);

Value value_of(const Json& json) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  if (json.is_object()) return fields_of(json);
  if (!json.is_array()) return "null";
  if (!json.empty() && json.front().is_object()) {
    std::vector<Fields> objects;
    for (const Json& one : json) objects.push_back(fields_of(one));
    return objects;
  }
  std::vector<std::int64_t> numbers;
  for (const Json& one : json)
    if (one.is_number_integer()) numbers.push_back(one.get<std::int64_t>());
  return numbers;
}

Fields fields_of(const Json& json) {
  Fields fields;
  if (!json.is_object()) return fields;
  for (const auto& [name, value] : json.items()) fields.emplace_back(name, value_of(value));
  return fields;
}

/// The event of a complete line.
std::optional<Event> event_of(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || json.empty() || json.begin().key() != "event" ||
      !json.front().is_string())
    return std::nullopt;
  Event event{json.front().get<std::string>(), fields_of(json)};
  event.fields.erase(event.fields.begin());
  return event;
}

struct Existing {
  std::vector<Event> events;
  std::size_t sound_bytes = 0;  // up to a torn last line
};

Result<Existing> read_existing(std::string_view text, const std::string& path) {
  Existing existing;
  while (existing.sound_bytes < text.size()) {
    const std::size_t newline = text.find('\n', existing.sound_bytes);
    if (newline == text.npos) break;
    auto event = event_of(text.substr(existing.sound_bytes, newline - existing.sound_bytes));
    if (!event)
      return fail({Code::data, "the event log has a line that this program did not write",
                   fmt::format("{}:{}", path, existing.events.size() + 1),
                   "it is no JSON object that begins with an event's name",
                   "move the file away, or choose another log.dir"});
    existing.events.push_back(*std::move(event));
    existing.sound_bytes = newline + 1;
  }
  return existing;
}

}  // namespace

const Value* Event::find(std::string_view field) const {
  for (const auto& [key, value] : fields)
    if (key == field) return &value;
  return nullptr;
}

std::string to_json(const Event& event) {
  std::string json = fmt::format("{{\"event\":{}", json_text(event.name));
  add_fields(json, event.fields);
  return json + '}';
}

Result<EventLog> EventLog::open(const std::string& directory) {
  EW_TRY(create_directories(directory));
  const std::string path = fmt::format("{}/{}", directory, kFileName);
  EW_ASSIGN(const std::string text, read_whole_or_nothing(path));
  EW_ASSIGN(const Existing existing, read_existing(text, path));
  if (existing.sound_bytes != text.size()) return take_over(directory);
  EW_ASSIGN(File file, File::append(path));
  return EventLog(std::move(file));
}

Result<EventLog> EventLog::take_over(const std::string& directory) {
  EW_TRY(create_directories(directory));
  const std::string path = fmt::format("{}/{}", directory, kFileName);
  EW_ASSIGN(const std::string text, read_whole_or_nothing(path));
  EW_ASSIGN(const Existing existing, read_existing(text, path));
  EW_ASSIGN(File file, replace_whole(path, std::string_view(text).substr(0, existing.sound_bytes)));
  return EventLog(std::move(file));
}

Result<void> EventLog::keep_name() {
  if (file_.is_named()) return {};
  EW_ASSIGN(const std::string text, read_whole(file_));
  EW_ASSIGN(file_, replace_whole(file_.path(), text));
  return {};
}

Result<void> EventLog::write(const Event& event) {
  const std::string text = to_json(event) + '\n';
  return file_.write_all(std::as_bytes(std::span(text)));
}

Result<std::vector<Event>> read_events(const std::string& path) {
  EW_ASSIGN(const std::string text, read_whole(path));
  EW_ASSIGN(Existing existing, read_existing(text, path));
  return std::move(existing.events);
}

}  // namespace elaswave::metrics
