#include "io/checkpoint/manifest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

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

/// Reads fields of the parsed text; what is missing or of another kind throws Json::exception,
/// which parse_manifest() turns into an Error.
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
  Piece piece{.tensor = json.at("tensor").get<std::int32_t>(),
              .kind = kind_of(json.at("kind").get<std::string>()),
              .offset_bytes = json.at("offset").get<std::int64_t>(),
              .runs = {},
              .unit_crcs = hex_values(json.at("unit_crc32c"))};
  for (const Json& run : json.at("runs"))
    piece.runs.push_back({run.at(0).get<std::int64_t>(), run.at(1).get<std::int64_t>(),
                          run.at(2).get<std::int64_t>(), run.at(3).get<std::int64_t>()});
  return piece;
}

FileEntry file_of(const Json& json) {
  FileEntry file{.name = json.at("name").get<std::string>(),
                 .size_bytes = json.at("size").get<std::int64_t>(),
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
                    .step = Step{json.at("step").get<std::int64_t>()},
                    .generation = Generation{json.at("generation").get<std::uint32_t>()},
                    .updates = json.at("updates").get<std::int64_t>(),
                    .samples = json.at("samples").get<std::int64_t>(),
                    .tokens = json.at("tokens").get<std::int64_t>(),
                    .loss = json.at("loss").is_null() ? std::numeric_limits<double>::quiet_NaN()
                                                      : json.at("loss").get<double>(),
                    .digest = {},
                    .config = facts_of(json.at("config")),
                    .facts = facts_of(json.at("facts")),
                    .tensors = {},
                    .files = {}};
  if (!json.at("state_digest").is_null()) {
    const std::vector<std::uint32_t> halves = hex_values(json.at("state_digest"));
    if (halves.size() == 2) manifest.digest = std::uint64_t{halves[0]} << 32 | halves[1];
  }
  for (const Json& tensor : json.at("tensors"))
    manifest.tensors.push_back({tensor.at("name").get<std::string>(),
                                tensor.at("shape").get<std::vector<std::int64_t>>()});
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
      manifest.samples, manifest.tokens,
      std::isfinite(manifest.loss) ? fmt::format("{}", manifest.loss) : "null",
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
    const auto version = json.at("format_version").get<std::int64_t>();
    if (json.at("format").get<std::string>() != kFormat || version != kFormatVersion)
      return fail(
          {.code = Code::corrupt,
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
