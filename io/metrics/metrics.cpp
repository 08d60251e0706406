#include "io/metrics/metrics.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "io/metrics/json_lines.h"

namespace elaswave::metrics {
namespace {

constexpr std::string_view kFileName = "metrics.jsonl";

auto not_ours(const std::string& path, std::int64_t line_number, std::string why) {
  return fail({Code::data, "the metrics file has a line that this program did not write",
               fmt::format("{}:{}", path, line_number), std::move(why),
               "move the file away, or choose another log.dir"});
}

/// The step of a complete line.
std::optional<std::int64_t> step_of(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto step = json.find("step");
  if (step == json.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<std::int64_t>();
}

struct Existing {
  std::string kept;
  Step last_step{};
  std::int64_t dropped_lines = 0;
  enum class Rewrite { no, yes } rewrite = Rewrite::no;
};

Result<Existing> read_existing(const std::string& text, const std::string& path, Step resume) {
  Existing existing;
  std::int64_t line_number = 0;
  std::int64_t previous_step = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    ++line_number;
    const std::size_t newline = text.find('\n', begin);
    const bool is_torn = newline == text.npos;
    const std::size_t end = is_torn ? text.size() : newline;
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    const std::optional<std::int64_t> step = step_of(line);
    if (is_torn) existing.rewrite = Existing::Rewrite::yes;
    if (!step && is_torn) {
      ++existing.dropped_lines;
      break;
    }
    if (!step) return not_ours(path, line_number, "it is no JSON object with an integer step");
    if (*step <= previous_step)
      return not_ours(path, line_number,
                      fmt::format("step {} after step {}", *step, previous_step));
    previous_step = *step;
    if (*step > raw(resume)) {
      ++existing.dropped_lines;
      existing.rewrite = Existing::Rewrite::yes;
      continue;
    }
    existing.kept += line;
    existing.kept += '\n';
    existing.last_step = Step{*step};
  }
  return existing;
}

}  // namespace

std::string to_json(const MetricsLine& line) {
  std::string json =
      fmt::format("{{\"step\":{},\"generation\":{}", raw(line.step), raw(line.generation));
  add_number_field(json, "loss", line.loss);
  add_number_field(json, "grad_norm", line.grad_norm);
  add_number_field(json, "lr", line.lr);
  json += fmt::format(",\"tokens\":{}", line.tokens);
  add_number_field(json, "ms", line.ms);
  json +=
      fmt::format(",\"samples\":{},\"sample_hash\":\"{:016x}\"", line.samples, line.sample_hash);
  add_number_field(json, "tokens_per_s", line.tokens_per_s);
  json += fmt::format(",\"skipped\":{}", line.update == MetricsLine::Update::skipped);
  if (line.digest) json += fmt::format(",\"digest\":\"{:016x}\"", *line.digest);
  if (line.val_loss) add_number_field(json, "val_loss", *line.val_loss);
  json += '}';
  return json;
}

Result<MetricsLog> MetricsLog::open(const std::string& directory, Step resume) {
  EW_TRY(create_directories(directory));
  const std::string path = fmt::format("{}/{}", directory, kFileName);
  EW_ASSIGN(File file, File::append(path));  // creates it, so that reading finds a file
  EW_ASSIGN(const std::string text, read_whole(path));
  EW_ASSIGN(const Existing existing, read_existing(text, path, resume));
  if (existing.rewrite == Existing::Rewrite::yes) {
    EW_ASSIGN(file, replace_whole(path, existing.kept));
  }
  return MetricsLog(std::move(file), existing.last_step, existing.dropped_lines);
}

Result<MetricsLog> MetricsLog::take_over(const std::string& directory) {
  EW_TRY(create_directories(directory));
  const std::string path = fmt::format("{}/{}", directory, kFileName);
  EW_ASSIGN(const std::string text, read_whole_or_nothing(path));
  EW_ASSIGN(const Existing existing, read_existing(text, path, Step{INT64_MAX}));
  EW_ASSIGN(File file, replace_whole(path, existing.kept));
  return MetricsLog(std::move(file), existing.last_step, existing.dropped_lines);
}

Result<void> MetricsLog::keep_name() {
  if (file_.is_named()) return {};
  EW_ASSIGN(const std::string text, read_whole(file_));
  EW_ASSIGN(file_, replace_whole(file_.path(), text));
  return {};
}

Result<void> MetricsLog::write(const MetricsLine& line) {
  EW_CHECK(line.step > last_step_, "metrics of step {} after step {}", raw(line.step),
           raw(last_step_));
  const std::string text = to_json(line) + '\n';
  EW_TRY(file_.write_all(std::as_bytes(std::span(text))));
  last_step_ = line.step;
  return {};
}

}  // namespace elaswave::metrics
