#include "io/checkpoint/manifest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/base/crc32c.h"

namespace elaswave::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "elaswave-checkpoint";
// The text ends with {kCrcKey, 8 hex digits, kEnd}; the checksum covers all before it.
constexpr std::string_view kCrcKey = "\"crc32c\":\"";
constexpr std::string_view kEnd = "\"\n}\n";
constexpr std::size_t kCrcDigits = 8;

std::uint32_t checksum(std::string_view text) {
  return crc32c(std::as_bytes(std::span(text)));
}

std::string json_text(std::string_view text) {
  return Json(text).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

/// The shortest text that reads back as the same number; null for one that is none. Without the
/// point -0 would be read as an integer, which has no such value.
std::string loss_text(double loss) {
  if (!std::isfinite(loss)) return "null";
  return loss == 0 && std::signbit(loss) ? "-0.0" : fmt::format("{}", loss);
}

std::string hex_list(std::span<const std::uint32_t> values) {
  std::string text;
  text.reserve(values.size() * kCrcDigits);
  for (const std::uint32_t value : values)
    fmt::format_to(std::back_inserter(text), "{:08x}", value);
  return text;
}

void add_facts(std::string& text, std::string_view key, const Facts& facts) {
  text += fmt::format("\"{}\":{{", key);
  for (std::size_t i = 0; i < facts.size(); ++i)
    text += fmt::format("{}\n{}:{}", i == 0 ? "" : ",", json_text(facts[i].first),
                        json_text(facts[i].second));
  text += "\n},\n";
}

void add_piece(std::string& text, const Piece& piece) {
  text += fmt::format("{{\"tensor\":{},\"kind\":\"{}\",\"offset\":{},\"runs\":[", piece.tensor,
                      name(piece.kind), piece.offset_bytes);
  for (std::size_t i = 0; i < piece.runs.size(); ++i) {
    const ElementRun& run = piece.runs[i];
    text += fmt::format("{}[{},{},{},{}]", i == 0 ? "" : ",", run.begin, run.elems, run.stride,
                        run.count);
  }
  text += fmt::format("],\"unit_crc32c\":\"{}\"}}", hex_list(piece.unit_crcs));
}

void add_file(std::string& text, const FileEntry& file) {
  text += fmt::format(
      "{{\"name\":{},\"size\":{},\"frame_crc32c\":\"{:08x}\",\"block_crc32c\":\"{}\","
      "\"pieces\":[",
      json_text(file.name), file.size_bytes, file.frame_crc, hex_list(file.block_crcs));
  for (std::size_t i = 0; i < file.pieces.size(); ++i) {
    text += i == 0 ? "\n" : ",\n";
    add_piece(text, file.pieces[i]);
  }
  text += "]}";
}

/// Reads fields of the parsed text; what is missing, of another kind or out of range throws
/// Json::exception, which parse_manifest() turns into an Error.
///
/// Numbers are taken as written only: get() would convert any number to any other, which is
/// undefined for a float beyond the integer's range.
template <typename Integer>
Integer integer(const Json& json) {
  if (json.is_number_unsigned() && std::in_range<Integer>(json.get<std::uint64_t>()))
    return static_cast<Integer>(json.get<std::uint64_t>());
  if (json.is_number_integer() && !json.is_number_unsigned() &&
      std::in_range<Integer>(json.get<std::int64_t>()))
    return static_cast<Integer>(json.get<std::int64_t>());
  throw Json::type_error::create(302, "a field is no integer, or beyond its range", nullptr);
}

double number(const Json& json) {
  if (json.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (json.is_number()) return json.get<double>();
  throw Json::type_error::create(302, "the loss is no number", nullptr);
}

std::vector<std::uint32_t> hex_values(const Json& json) {
  const auto& text = json.get_ref<const std::string&>();
  std::vector<std::uint32_t> values;
  for (std::size_t i = 0; i + kCrcDigits <= text.size(); i += kCrcDigits) {
    std::uint32_t value = 0;
    for (const char c : std::string_view(text).substr(i, kCrcDigits))
      value = value << 4 | static_cast<std::uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    values.push_back(value);  // anything but lower-case digits fails the comparison of texts
  }
  return values;
}

Kind kind_of(const std::string& text) {
  const auto found = std::find(kKindNames.begin(), kKindNames.end(), text);
  return static_cast<Kind>(found - kKindNames.begin());  // Kind::count: refused by the checks
}

Piece piece_of(const Json& json) {
  Piece piece{.tensor = integer<std::int32_t>(json.at("tensor")),
              .kind = kind_of(json.at("kind").get<std::string>()),
              .offset_bytes = integer<std::int64_t>(json.at("offset")),
              .runs = {},
              .unit_crcs = hex_values(json.at("unit_crc32c"))};
  for (const Json& run : json.at("runs"))
    piece.runs.push_back({integer<std::int64_t>(run.at(0)), integer<std::int64_t>(run.at(1)),
                          integer<std::int64_t>(run.at(2)), integer<std::int64_t>(run.at(3))});
  return piece;
}

FileEntry file_of(const Json& json) {
  FileEntry file{.name = json.at("name").get<std::string>(),
                 .size_bytes = integer<std::int64_t>(json.at("size")),
                 .block_crcs = hex_values(json.at("block_crc32c")),
                 .frame_crc = 0,
                 .pieces = {}};
  const std::vector<std::uint32_t> frame = hex_values(json.at("frame_crc32c"));
  if (!frame.empty()) file.frame_crc = frame.front();
  for (const Json& piece : json.at("pieces")) file.pieces.push_back(piece_of(piece));
  return file;
}

Facts facts_of(const Json& json) {
  Facts facts;
  for (const auto& [key, value] : json.items()) facts.emplace_back(key, value.get<std::string>());
  return facts;
}

Manifest manifest_of(const Json& json) {
  Manifest manifest{.run = json.at("run").get<std::string>(),
                    .writer = json.at("writer").get<std::string>(),
                    .created = json.at("created").get<std::string>(),
                    .step = Step{integer<std::int64_t>(json.at("step"))},
                    .generation = Generation{integer<std::uint32_t>(json.at("generation"))},
                    .updates = integer<std::int64_t>(json.at("updates")),
                    .samples = integer<std::int64_t>(json.at("samples")),
                    .tokens = integer<std::int64_t>(json.at("tokens")),
                    .loss = number(json.at("loss")),
                    .digest = {},
                    .config = facts_of(json.at("config")),
                    .facts = facts_of(json.at("facts")),
                    .tensors = {},
                    .files = {}};
  if (!json.at("state_digest").is_null()) {
    const std::vector<std::uint32_t> halves = hex_values(json.at("state_digest"));
    if (halves.size() == 2) manifest.digest = std::uint64_t{halves[0]} << 32 | halves[1];
  }
  for (const Json& tensor : json.at("tensors")) {
    Tensor& added = manifest.tensors.emplace_back();
    added.name = tensor.at("name").get<std::string>();
    for (const Json& dim : tensor.at("shape")) added.shape.push_back(integer<std::int64_t>(dim));
  }
  for (const Json& file : json.at("files")) manifest.files.push_back(file_of(file));
  return manifest;
}

tl::unexpected<Error> damaged(const std::string& where, std::string why) {
  return fail({.code = Code::corrupt,
               .what = "a checkpoint's manifest is damaged",
               .where = where,
               .why = std::move(why),
               .fix = "use another checkpoint"});
}

std::optional<std::string> find_fact(const Facts& facts, std::string_view key) {
  for (const auto& [name, value] : facts)
    if (name == key) return value;
  return std::nullopt;
}

/// Cuts the trailing checksum off and compares it.
Result<void> check_text(std::string_view text, const std::string& where) {
  const std::size_t tail = kCrcKey.size() + kCrcDigits + kEnd.size();
  if (text.size() < tail) return damaged(where, "it is too short");
  const std::string_view body = text.substr(0, text.size() - tail);
  const std::string expected = fmt::format("{}{:08x}{}", kCrcKey, checksum(body), kEnd);
  if (text.substr(body.size()) == expected) return {};
  return damaged(where, fmt::format("its last field should be {}", expected.substr(0, tail - 3)));
}

}  // namespace

std::int64_t Tensor::elems() const {
  std::int64_t elems = 1;
  for (const std::int64_t dim : shape) elems *= dim;
  return elems;
}

std::int64_t Piece::elems() const {
  std::int64_t elems = 0;
  for (const ElementRun& run : runs) elems += run.elems * run.count;
  return elems;
}

std::optional<std::string> Manifest::config_value(std::string_view key) const {
  return find_fact(config, key);
}

std::optional<std::string> Manifest::fact(std::string_view key) const {
  return find_fact(facts, key);
}

std::string to_text(const Manifest& manifest) {
  std::string text = fmt::format(
      "{{\n\"format\":\"{}\",\n\"format_version\":{},\n\"run\":{},\n\"writer\":{},\n\"created\":{},"
      "\n"
      "\"step\":{},\n\"generation\":{},\n\"updates\":{},\n\"samples\":{},\n\"tokens\":{},\n"
      "\"loss\":{},\n\"state_digest\":{},\n",
      kFormat, kFormatVersion, json_text(manifest.run), json_text(manifest.writer),
      json_text(manifest.created), raw(manifest.step), raw(manifest.generation), manifest.updates,
      manifest.samples, manifest.tokens, loss_text(manifest.loss),
      manifest.digest ? fmt::format("\"{:016x}\"", *manifest.digest) : "null");
  add_facts(text, "config", manifest.config);
  add_facts(text, "facts", manifest.facts);
  text += "\"tensors\":[";
  for (std::size_t i = 0; i < manifest.tensors.size(); ++i)
    text +=
        fmt::format("{}\n{{\"name\":{},\"shape\":[{}]}}", i == 0 ? "" : ",",
                    json_text(manifest.tensors[i].name), fmt::join(manifest.tensors[i].shape, ","));
  text += "\n],\n\"files\":[";
  for (std::size_t i = 0; i < manifest.files.size(); ++i) {
    text += i == 0 ? "\n" : ",\n";
    add_file(text, manifest.files[i]);
  }
  text += "\n],\n";
  return text + fmt::format("{}{:08x}{}", kCrcKey, checksum(text), kEnd);
}

std::string entry_text(const FileEntry& entry) {
  std::string text;
  add_file(text, entry);
  return text;
}

Result<FileEntry> parse_entry(std::string_view text) {
  try {
    return file_of(Json::parse(text));
  } catch (const Json::exception& problem) {
    return fail({.code = Code::corrupt,
                 .what = "a writer's report is damaged",
                 .where = "checkpoint",
                 .why = problem.what(),
                 .fix = "look for network errors on that host"});
  }
}

Result<Manifest> parse_manifest(std::string_view text, const std::string& where) {
  EW_TRY(check_text(text, where));
  try {
    const Json json = Json::parse(text);
    if (json.at("format").get<std::string>() != kFormat) return damaged(where, "it is none");
    // Not damage: nobody may set it aside for being newer than this program.
    const auto version = integer<std::int64_t>(json.at("format_version"));
    if (version != kFormatVersion)
      return fail(
          {.code = Code::usage,
           .what = "a checkpoint of another format",
           .where = where,
           .why = fmt::format("format version {}; this program reads {}", version, kFormatVersion),
           .fix = "use the program that wrote it, or a newer one"});
    Manifest manifest = manifest_of(json);
    EW_TRY(check_manifest(manifest, where));
    // Nothing unknown, nothing twice, nothing written in another way.
    if (to_text(manifest) != text) return damaged(where, "it holds more than a manifest");
    return manifest;
  } catch (const Json::exception& problem) {
    return damaged(where, problem.what());
  }
}

}  // namespace elaswave::checkpoint
