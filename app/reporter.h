// What the reporter shows and writes of a run: the table at its start, each step on the console and
// in metrics.jsonl, what was planned beside what came.
#pragma once

#include <optional>

#include "app/console.h"
#include "app/local_setup.h"
#include "app/restore.h"
#include "io/metrics/metrics.h"

namespace elaswave::app {

Console::Rows start_rows(const Settings& settings, const LocalSetup& setup,
                         const std::optional<Restored>& restored);

/// The references must outlive it.
class Reporter final : public StepObserver {
 public:
  Reporter(Console& console, std::optional<metrics::MetricsLog> log, const LocalSetup& setup);
  Result<void> on_step(const StepReport& report) override;

 private:
  void first_step_note(double bubble);

  Console& console_;
  std::optional<metrics::MetricsLog> log_;
  const LocalSetup& setup_;
};

}  // namespace elaswave::app
