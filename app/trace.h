// The flight recorders of all ranks, brought together at the end of a run and written as one file.
#pragma once

#include <optional>
#include <string>

#include "io/base/error.h"
#include "parallel/comm/group.h"
#include "parallel/layout/plan.h"

namespace elaswave::app {

struct TraceReport {
  /// How much of each kind of communication was hidden; on the first member of the group only.
  std::string text;
  /// The steps in the trace, the same on all ranks. Step 0: the recorders held no step.
  Step first{}, last{};
  /// Why there is no file, or no whole one; on the first member only. The run itself is well.
  std::optional<Error> failure;
};

/// COLLECTIVE over `group`. The first member writes the Chrome trace of what the recorders of all
/// ranks hold of step `first` and later to `path`; a step of which a recorder has lost a part is
/// left out, unless there is no other. Clocks are aligned by a short exchange. All members stay
/// until the file is closed, told now and then that it still grows: only a disk that takes nothing
/// for longer than `timeout` ends the run.
Result<TraceReport> write_run_trace(comm::World& world, const comm::Group& group,
                                    const layout::Plan& plan, Step first, const std::string& path,
                                    Nanoseconds timeout);

}  // namespace elaswave::app
