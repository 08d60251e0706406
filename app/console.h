// What a person sees on stdout: a table at start, one line a step, a summary, and the last line
// that scripts read. Every rank has one, the reporter alone speaks. THREADS: one caller.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "app/memory.h"
#include "app/trainer.h"

namespace elaswave::app {

enum class ConsoleMode { plain, bar };  // bar: a live progress bar below the lines, for terminals

class Console {
 public:
  Console(ConsoleMode mode, std::int64_t every, const RunSpec& spec);

  using Rows = std::vector<std::pair<std::string, std::string>>;
  /// An aligned two-column table.
  void table(const Rows& rows);
  void step(const StepReport& report);
  /// The halves of step(): times and totals of a step that another rank shows, and a step that was
  /// counted already.
  void count(const StepReport& report);
  void show(const StepReport& report);
  /// A line of its own.
  void note(const std::string& text);
  /// Work by rank and of the run, then "done step=20 loss=1.234567 digest=0123456789abcdef" as the
  /// last line ("stopped ..." when the run was asked to stop). Of `lost` ranks nothing is known.
  void finish(const RunSummary& summary, const std::vector<std::int32_t>& lost = {});

 private:
  std::string line(const StepReport& report) const;
  std::string bar(const StepReport& report) const;
  std::string remaining(std::int64_t step) const;

  ConsoleMode mode_;
  std::int64_t every_;
  RunSpec spec_;
  std::int64_t steps_ = 0;   // of this session
  double mean_seconds_ = 0;  // of a step: exponential mean, for the time remaining
};

/// "6m02s".
std::string duration_text(double seconds);

/// Peak resident memory of this process, bytes; 0 where the system does not tell.
std::int64_t peak_resident_bytes();

}  // namespace elaswave::app
