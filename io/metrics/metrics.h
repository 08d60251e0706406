// The step log of a run: DIR/metrics.jsonl, one JSON object a line, each committed step exactly
// once, steps increasing. README.md documents the fields. THREADS: one caller (the reporter).
// ERRORS: Code::io, Code::data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/base/error.h"
#include "io/base/file.h"
#include "io/base/types.h"

namespace elaswave::metrics {

struct MetricsLine {
  Step step{};
  Generation generation{};
  double loss = 0;       // nats per token, mean over the step
  double grad_norm = 0;  // before clipping
  double lr = 0;
  std::int64_t tokens = 0;   // trained on since step 1
  double ms = 0;             // wall time of this step
  std::int64_t samples = 0;  // trained on since step 1
  std::uint64_t sample_hash = 0;
  double tokens_per_s = 0;
  enum class Update : std::uint8_t { applied, skipped } update = Update::applied;
  std::optional<std::uint64_t> digest;
  std::optional<double> val_loss;
};

/// The line without its newline. Doubles in the fewest digits that read back to the same value; a
/// number that JSON cannot hold is null, and "<name>_text" beside it says "nan", "inf" or "-inf".
/// No locale enters.
std::string to_json(const MetricsLine& line);

class MetricsLog {
 public:
  /// Creates DIR and the file when missing. Of an existing file, lines of steps after `resume`
  /// (they will be run again) and a torn last line are dropped, by rewriting it under another name.
  /// A line that is no metrics line, or steps that do not increase, are an error: such a file is
  /// not ours to change.
  static Result<MetricsLog> open(const std::string& directory, Step resume);

  /// For a new reporter while the old one may be dead, or stopped and about to wake up: copies the
  /// sound lines into a new file and puts that in the place of the old one, so that whatever the
  /// old reporter still writes goes into a file that nobody sees. No line is dropped but a torn
  /// last one.
  static Result<MetricsLog> take_over(const std::string& directory);

  /// Puts this log's file back when another has taken its name: a former reporter that slept in the
  /// middle of its own take_over().
  Result<void> keep_name();

  /// One write, handed to the system before it returns: a crash of the process loses nothing.
  /// REQUIRES: line.step > last_step().
  Result<void> write(const MetricsLine& line);

  /// The last step in the file, 0 when there is none. A new reporter sees here which lines its
  /// predecessor left out.
  Step last_step() const { return last_step_; }
  /// Lines that open() removed.
  std::int64_t dropped_lines() const { return dropped_lines_; }
  const std::string& path() const { return file_.path(); }

 private:
  MetricsLog(File file, Step last_step, std::int64_t dropped_lines)
      : file_(std::move(file)), last_step_(last_step), dropped_lines_(dropped_lines) {}
  File file_;
  Step last_step_{};
  std::int64_t dropped_lines_ = 0;
};

}  // namespace elaswave::metrics
