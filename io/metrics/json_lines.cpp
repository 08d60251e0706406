#include "io/metrics/json_lines.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace elaswave::metrics {

void add_number_field(std::string& json, std::string_view name, double value) {
  if (!std::isfinite(value)) {
    const std::string_view text = std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
    json += fmt::format(",\"{}\":null,\"{}_text\":\"{}\"", name, name, text);
    return;
  }
  // fmt's "{}" is the shortest form that reads back to the same double, and knows no locale.
  std::string digits = fmt::format("{}", value);
  // Readers that tell integers from doubles must see a double; as an integer, -0 would lose its
  // sign.
  if (digits.find_first_of(".e") == digits.npos) digits += ".0";
  json += fmt::format(",\"{}\":{}", name, digits);
}

std::string json_text(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

Result<std::string> read_whole(const File& file) {
  EW_ASSIGN(const std::int64_t size, file.size_bytes());
  std::string text(static_cast<std::size_t>(size), '\0');
  EW_TRY(file.read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

Result<std::string> read_whole(const std::string& path) {
  EW_ASSIGN(const File file, File::open(path));
  return read_whole(file);
}

Result<std::string> read_whole_or_nothing(const std::string& path) {
  auto file = File::open(path);
  if (file) return read_whole(*file);
  if (file.error().code == Code::data) return std::string();
  return fail(std::move(file).error());
}

Result<File> replace_whole(const std::string& path, std::string_view text) {
  EW_ASSIGN(ReplacementFile replacement, ReplacementFile::create(path));
  EW_TRY(replacement.file().write_all(std::as_bytes(std::span(text))));
  return ReplacementFile::publish_and_keep(std::move(replacement));
}

}  // namespace elaswave::metrics
