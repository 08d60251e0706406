// What a run needs of this host's memory, and what there is: a run that does not fit is refused
// before anything is allocated, with the table of what was asked.
#pragma once

#include <cstdint>
#include <string>

#include "app/run_spec.h"

namespace elaswave::app {

/// Memory of one rank by purpose, bytes.
struct MemoryUse {
  double working = 0, sums = 0, optimizer = 0, activations = 0, logits = 0, checkpoint = 0;
  double total() const { return working + sums + optimizer + activations + logits + checkpoint; }
  /// "weights 475.0 MiB, gradient sums 950.0 MiB, ..."
  std::string text() const;
};

/// From shapes alone (padding of a few lines left out), for the rank that owns most. Numbers are
/// doubles because legal keys can ask for more than 2^63 bytes.
MemoryUse estimate_memory(const RunSpec& spec, std::int64_t world_size);

/// Memory of this host within the limit of the control group, bytes; 0 where the system does not
/// say. What is free is not asked: it depends on which rank looks first, and ranks must not judge
/// differently by timing.
double host_memory();

/// Code::does_not_fit when `use` exceeds an equal share of `host` bytes (0: unknown, everything
/// fits).
Result<void> check_memory(const MemoryUse& use, double host, std::int64_t ranks_on_host);

/// "38.6M", "1.24 GiB".
std::string count_text(double count);
std::string bytes_text(double bytes);

}  // namespace elaswave::app
