// What is shown and written of a run: each step and each incident, on the console and in the run's
// files. Every rank has a Reporter; one at a time speaks, the lowest live world rank, and the next
// one goes on where it died.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/console.h"
#include "app/rank_place.h"
#include "app/run_directory.h"

namespace elaswave::app {

struct ReporterParts {
  Console& console;  // must outlive it
  RunFiles files;
  const Clock& clock;  // of the world; must outlive it
  std::int32_t world_rank = 0;
  std::vector<std::int32_t> members;  // at the start
  std::int64_t tokens_per_step = 0;
  /// For the note after the first step; may be empty.
  std::function<std::string(double bubble)> first_step;
  /// After every step, on every rank; may be empty.
  std::function<void()> stepped;
};

class Reporter final : public StepObserver {
 public:
  explicit Reporter(ReporterParts parts);

  /// Before the first step, with the places of all ranks.
  void started(const std::vector<RankPlace>& places, Step resumed);
  Result<void> on_step(const StepReport& report) override;
  Result<void> on_view(const std::vector<std::int32_t>& members) override;
  void on_recovery(const recover::RecoveryReport& report) override;
  void on_redundancy(const recover::RecoveryReport& report) override;
  /// The summary and the last line. Of the reporter; nothing happens on other ranks.
  void finished(const RunSummary& summary);

  /// True on the rank that speaks.
  bool speaks() const { return speaks_; }

 private:
  void write(metrics::Event event);
  void write(const StepReport& report);
  void take_over(const std::vector<std::int32_t>& lost);

  ReporterParts parts_;
  bool speaks_ = false;
  std::optional<StepReport> newest_;  // told to this rank, whoever wrote it
  std::vector<std::int32_t> lost_;    // since the start
  std::optional<Step> finished_;      // the end that was told of
};

}  // namespace elaswave::app
