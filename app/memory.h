// What a run needs of this host's memory, and what there is: a run that does not fit is refused
// before anything is allocated, with the table of what was asked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/run_spec.h"
#include "io/base/error.h"
#include "model/spec/memory.h"
#include "parallel/layout/plan.h"

namespace elaswave::app {

/// "weights 475.0 MiB, gradient sums 950.0 MiB, ...": the terms of a side that are not zero.
std::string memory_text(const spec::MemoryTable& use, spec::Side side = spec::Side::all);

/// Terms whose measured size is more than a tenth off the planned one, and more than a MiB: frames
/// of files and lines of padding are not planned. "stashes 10.0 MiB planned, 15.0 MiB measured".
/// Terms that were not measured (0) are passed over.
std::vector<std::string> memory_differences(const spec::MemoryTable& planned,
                                            const spec::MemoryTable& measured);

/// Memory of this host within the limit of the control group, bytes; 0 where the system does not
/// say. What is free is not asked: it depends on which rank looks first, and ranks must not judge
/// differently by timing.
double host_memory();

/// Code::does_not_fit when some rank of the plan needs more than it may use (RunSpec::elastic).
Result<void> check_memory(const RunSpec& spec, const layout::Plan& plan);

/// Memory was refused to a rank while it made what the plan gives it, whatever the limits allow:
/// Code::does_not_fit with `what`, the rank's table and what helps.
Error memory_refused(const RunSpec& spec, const layout::Plan& plan, std::int32_t world_rank,
                     std::string what);

/// "38.6M", "1.24 GiB".
std::string count_text(double count);
std::string bytes_text(double bytes);

}  // namespace elaswave::app
