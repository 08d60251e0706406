#include "io/data/prepare.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "io/base/file.h"
#include "io/data/token_writer.h"

namespace elaswave::data {
namespace {

constexpr std::size_t kBufferBytes = 1 << 20;
constexpr std::size_t kMaxLineBytes =
    std::size_t{1} << 30;  // of JSONL; a bound on memory, far above real documents

/// Where tokens go: counts them, and hands them on in runs.
struct Sink {
  PrepareReport report;
  std::function<Result<void>(std::span<const std::int32_t>)> append;
  std::vector<std::int32_t> run;

  Result<void> bytes(std::span<const std::byte> text) {
    run.resize(text.size());
    std::ranges::transform(text, run.begin(),
                           [](std::byte b) { return static_cast<std::int32_t>(b); });
    report.input_bytes += std::ssize(text);
    report.tokens += std::ssize(text);
    return append(run);
  }

  Result<void> end_document() {
    ++report.documents;
    ++report.tokens;
    return append(std::span(&kEndOfDocument, 1));
  }
};

Result<void> add_text(File& file, Sink& sink) {
  std::vector<std::byte> buffer(kBufferBytes);
  std::int64_t total_bytes = 0;
  for (;;) {
    EW_ASSIGN(const std::int64_t got, file.read_some(buffer));
    if (got == 0) break;
    total_bytes += got;
    EW_TRY(sink.bytes(std::span(buffer).first(static_cast<std::size_t>(got))));
  }
  if (total_bytes == 0)
    return fail({Code::data, "an input is empty", file.path(), "it has 0 bytes",
                 "leave it out, or check what should have written it"});
  return sink.end_document();
}

Result<std::string> field_of_line(std::string_view line, const std::string& field,
                                  const std::string& where) {
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    return fail({Code::data, "a line is not valid JSON", where, error.what(),
                 "every line must be one JSON object in UTF-8; read other text as plain text"});
  }
  if (!object.is_object())
    return fail({Code::data, "a line is not a JSON object", where,
                 fmt::format("it is of type {}", object.type_name()),
                 "every line must be one JSON object"});
  const auto member = object.find(field);
  if (member == object.end() || !member->is_string()) {
    std::string names;
    for (const auto& item : object.items())
      if (item.value().is_string() && names.size() < 200) names += " '" + item.key() + "'";
    return fail({Code::data, "a JSON object has no such text", where,
                 fmt::format("'{}' is {}; string members:{}", field,
                             member == object.end() ? "missing" : "not a string",
                             names.empty() ? " none" : names),
                 "name the member that holds the text with --jsonl_field"});
  }
  return member->get<std::string>();
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == line.npos;
}

Result<void> add_jsonl(File& file, const std::string& field, Sink& sink) {
  std::vector<std::byte> buffer(kBufferBytes);
  std::string line;
  std::int64_t line_number = 0;
  const auto end_line = [&]() -> Result<void> {
    ++line_number;
    if (!is_blank(line)) {
      EW_ASSIGN(const std::string text,
                field_of_line(line, field, fmt::format("{}:{}", file.path(), line_number)));
      EW_TRY(sink.bytes(std::as_bytes(std::span(text))));
      EW_TRY(sink.end_document());
    }
    line.clear();
    return {};
  };
  for (;;) {
    EW_ASSIGN(const std::int64_t got, file.read_some(buffer));
    if (got == 0) break;
    std::string_view rest(reinterpret_cast<const char*>(buffer.data()),
                          static_cast<std::size_t>(got));
    for (auto end = rest.find('\n'); end != rest.npos; end = rest.find('\n')) {
      line += rest.substr(0, end);
      rest.remove_prefix(end + 1);
      EW_TRY(end_line());
    }
    line += rest;
    if (line.size() > kMaxLineBytes)
      return fail({Code::data, "a line is too long",
                   fmt::format("{}:{}", file.path(), line_number + 1),
                   fmt::format("more than {} bytes without a newline", kMaxLineBytes),
                   "check that the file is JSONL, one object a line"});
  }
  if (!line.empty()) EW_TRY(end_line());  // a last line may lack its newline
  return {};
}

bool is_jsonl(const std::string& path, InputKind kind) {
  if (kind != InputKind::by_name) return kind == InputKind::jsonl;
  const std::string extension = std::filesystem::path(path).extension().string();
  return extension == ".jsonl" || extension == ".ndjson";
}

Result<void> read_inputs(const PrepareOptions& options, Sink& sink) {
  for (const std::string& input : options.inputs) {
    EW_ASSIGN(File file, File::open(input));
    if (is_jsonl(input, options.kind)) {
      EW_TRY(add_jsonl(file, options.jsonl_field, sink));
    } else {
      EW_TRY(add_text(file, sink));
    }
  }
  if (sink.report.tokens == 0)
    return fail({Code::data, "there is nothing to tokenize", options.inputs.front(),
                 "the inputs hold no document", "use an input that is not empty"});
  return {};
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  if (std::filesystem::equivalent(a, b, ignored)) return true;
  const auto absolute = [](const std::string& path) {
    std::error_code error;
    return std::filesystem::absolute(path, error).lexically_normal();
  };
  return absolute(a) == absolute(b);
}

auto usage_error(std::string what, std::string where, std::string why, std::string fix) {
  return fail({Code::usage, std::move(what), std::move(where), std::move(why), std::move(fix)});
}

Result<void> check(const PrepareOptions& options) {
  if (options.inputs.empty())
    return usage_error("no input was named", "--input", "at least one file is needed",
                       "name text or JSONL files");
  if (options.output.empty())
    return usage_error("no output was named", "--output", "the token file needs a name",
                       "name a file");
  const bool holds_out = !options.val_output.empty();
  if (holds_out && !(options.val_fraction > 0 && options.val_fraction < 1))
    return usage_error("the held-out fraction makes no sense", "--val_fraction",
                       fmt::format("{} is not between 0 and 1", options.val_fraction),
                       "0.05 holds out the last twentieth");
  if (holds_out && same_file(options.output, options.val_output))
    return usage_error("both outputs are one file", "--val_output", options.val_output,
                       "name two different files");
  for (const std::string& input : options.inputs)
    if (same_file(input, options.output) || (holds_out && same_file(input, options.val_output)))
      return usage_error("an output would replace an input", "--output", input,
                         "name another output");
  return {};
}

Result<TokenWriter> byte_writer(const std::string& path) {
  return TokenWriter::create(
      path,
      {.tokenizer = std::string(kByteTokenizer), .vocab = kByteVocab, .type = TokenType::u16});
}

Result<PrepareReport> prepare_whole(const PrepareOptions& options) {
  EW_ASSIGN(TokenWriter writer, byte_writer(options.output));
  Sink sink;
  sink.append = [&](std::span<const std::int32_t> tokens) { return writer.append(tokens); };
  EW_TRY(read_inputs(options, sink));
  EW_TRY(writer.finish());
  sink.report.train_tokens = sink.report.tokens;
  return sink.report;
}

/// Copies tokens first .. first + count - 1 of the spool (ids of 16 bits) into a token file.
Result<TokenWriter> copy_part(const File& spool, std::int64_t first, std::int64_t count,
                              const std::string& path) {
  EW_ASSIGN(TokenWriter writer, byte_writer(path));
  std::vector<std::uint16_t> stored(kBufferBytes / 2);
  std::vector<std::int32_t> tokens;
  while (count > 0) {
    stored.resize(static_cast<std::size_t>(std::min<std::int64_t>(count, kBufferBytes / 2)));
    EW_TRY(spool.read_at(2 * first, std::as_writable_bytes(std::span(stored))));
    tokens.assign(stored.begin(), stored.end());
    EW_TRY(writer.append(tokens));
    first += std::ssize(stored);
    count -= std::ssize(stored);
  }
  return writer;
}

// Where the cut lies is known only at the end of the inputs, and pipes cannot be read twice: the
// tokens are spooled to a nameless file beside the output first.
Result<PrepareReport> prepare_split(const PrepareOptions& options) {
  EW_ASSIGN(ReplacementFile spool, ReplacementFile::create(options.output + ".spool"));
  Sink sink;
  std::vector<std::uint16_t> stored;
  sink.append = [&](std::span<const std::int32_t> tokens) {
    stored.assign(tokens.begin(), tokens.end());
    return spool.file().write_all(std::as_bytes(std::span(stored)));
  };
  EW_TRY(read_inputs(options, sink));
  PrepareReport& report = sink.report;
  report.val_tokens = static_cast<std::int64_t>(
      std::floor(static_cast<double>(report.tokens) * options.val_fraction));
  report.train_tokens = report.tokens - report.val_tokens;
  if (report.val_tokens == 0 || report.train_tokens == 0)
    return fail(
        {Code::data, "the corpus is too small to hold a part out", options.inputs.front(),
         fmt::format("{} tokens of which {} would be held out", report.tokens, report.val_tokens),
         "use more text or another val_fraction"});
  EW_ASSIGN(TokenWriter train, copy_part(spool.file(), 0, report.train_tokens, options.output));
  EW_ASSIGN(TokenWriter val,
            copy_part(spool.file(), report.train_tokens, report.val_tokens, options.val_output));
  EW_TRY(val.finish());
  EW_TRY(train.finish());
  return report;
}

}  // namespace

Result<PrepareReport> prepare(const PrepareOptions& options) {
  EW_TRY(check(options));
  return options.val_output.empty() ? prepare_whole(options) : prepare_split(options);
}

std::vector<std::string> lines(const PrepareReport& report, const PrepareOptions& options) {
  std::vector<std::string> text{
      fmt::format("read {} documents, {} bytes of text", report.documents, report.input_bytes),
      fmt::format("wrote {}: {} tokens, tokenizer {}, vocab {}", options.output,
                  report.train_tokens, kByteTokenizer, kByteVocab)};
  if (!options.val_output.empty())
    text.push_back(fmt::format("wrote {}: {} tokens, the last {} of the corpus", options.val_output,
                               report.val_tokens, options.val_fraction));
  return text;
}

}  // namespace elaswave::data
