// The floating-point mode every compute thread runs in: round to nearest even, denormals kept
// (neither flushed to zero nor read as zero). Results would differ in their last bits otherwise.
#pragma once

namespace elaswave::kernels {

/// Checks the calling thread's mode and sets it where a library changed it. A few nanoseconds;
/// called by every task.
void ensure_float_mode();

}  // namespace elaswave::kernels
