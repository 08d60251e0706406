// One run of the simulation campaign as a value: what is trained, on what layout, and what goes
// wrong when. A case is all that a run depends on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/elastic.h"

namespace elaswave::test {

struct Case {
  int ranks = 4;
  std::int64_t stages = 1, tensor = 1, chunks = 1, copies = 1;
  int per_domain = 1;  // ranks that share a host, in their order
  std::int64_t steps = 5;
  std::int64_t digest_every = 1;
  bool validate = false;     // every second step
  bool checkpoints = false;  // every second step, in memory
  bool skip = false;         // all steps after the first few are not finite
  std::int64_t fill_elems = 0;
  bool claims = true;
  Nanoseconds latency_max = 50'000;
  std::uint64_t seed = 1;
  std::vector<Fault> faults;
  bool operator==(const Case&) const = default;
};

/// As designated initialisers: a line of stored_cases.cpp.
std::string text(const Case& what);

}  // namespace elaswave::test
