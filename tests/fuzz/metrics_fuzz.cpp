// A step log found on disk: kept lines must be whole and in order, foreign files left alone.
//   u8 step to resume at | metrics.jsonl
#include "io/metrics/metrics.h"

#include <nlohmann/json.hpp>

#include "tests/fuzz/fuzz.h"

using namespace elaswave;

namespace {

/// Every line is an object whose step is between the one before and `resume`. The last step.
std::int64_t check_lines(std::string_view text, std::int64_t resume) {
  std::int64_t last = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    EW_CHECK(end != text.npos, "a torn line was kept");
    const auto json = nlohmann::json::parse(text.substr(0, end), nullptr, false);
    EW_CHECK(json.is_object() && json.contains("step") && json["step"].is_number_integer(),
             "a line was kept that is none");
    const auto step = json["step"].get<std::int64_t>();
    EW_CHECK(step > last && step <= resume, "step {} after {}, resumed at {}", step, last, resume);
    last = step;
    text.remove_prefix(end + 1);
  }
  return last;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::string text;
  for (std::int64_t step = 1; step <= 4; ++step)
    text +=
        metrics::to_json({.step = Step{step}, .loss = 3.5, .digest = 7, .val_loss = 0.1}) + "\n";
  const auto resumed_at = [](std::uint8_t step, std::string_view content) {
    return fuzz::field(step).append(content);
  };
  return {resumed_at(2, text), resumed_at(9, text),
          resumed_at(9, std::string_view(text).substr(0, text.size() - 9)),
          resumed_at(1, "{\"step\":1}"),
          resumed_at(5, "{\"step\":1}\n{\"step\":9223372036854775807}\n")};
}

std::vector<std::string> fuzz_dictionary() {
  return {
      "\n",    "{\"step\":", "}\n", "null", "true", "1e9",          "-1",   "\"step\"",
      "\\u00", "[",          "]",   "{",    ",",    "\xEF\xBB\xBF", "\xFF", "18446744073709551615"};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchDirectory scratch;
  fuzz::Input input(data, size);
  const Step resume{input.take<std::uint8_t>()};
  const std::string path = scratch / "metrics.jsonl";
  fuzz::write_file(path, input.rest());
  auto log = metrics::MetricsLog::open(scratch.path(), resume);
  const std::string kept = fuzz::read_file(path);
  if (!log) {
    fuzz::check_error(log.error());
    EW_CHECK(kept == input.rest(), "a foreign file was changed");
    return 0;
  }
  EW_CHECK(raw(log->last_step()) == check_lines(kept, raw(resume)), "last step {}",
           raw(log->last_step()));
  const Step step = next(resume);
  EW_CHECK(log->write({.step = step}).has_value(), "cannot write");
  const auto again = metrics::MetricsLog::open(scratch.path(), step);
  EW_CHECK(again && again->last_step() == step && again->dropped_lines() == 0,
           "what was written cannot be opened again");
  EW_CHECK(fuzz::read_file(path).starts_with(kept), "kept lines changed");
  return 0;
}
