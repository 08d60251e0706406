// The flight recorders of all ranks, brought together on the reporter at the end of a run.
#pragma once

#include <string>
#include <vector>

#include "io/base/error.h"
#include "io/metrics/trace.h"
#include "parallel/comm/group.h"
#include "parallel/layout/plan.h"

namespace elaswave::app {

/// COLLECTIVE over `group`. On its first member: what the recorder of every rank holds since its
/// first action of step `first`, with the offset of its clock measured by a short exchange;
/// elsewhere empty.
Result<std::vector<metrics::RankTrace>> collect_traces(comm::World& world, const comm::Group& group,
                                                       const layout::Plan& plan, Step first,
                                                       Nanoseconds timeout);

/// Writes the Chrome trace to `path` and returns the table of how much communication was hidden.
Result<std::string> write_trace(const std::vector<metrics::RankTrace>& traces,
                                const std::string& path);

}  // namespace elaswave::app
