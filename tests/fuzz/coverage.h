// Which edges of the code an input took: g++ -fsanitize-coverage=trace-pc calls
// __sanitizer_cov_trace_pc() in every basic block, and coverage.cpp counts pairs of consecutive
// blocks in a map of 64 KiB. In a build without that flag nothing is ever counted. THREADS: only
// the thread that called start() is followed, so that a seed gives the same run again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace elaswave::fuzz {

inline constexpr std::size_t kMapSlots = std::size_t{1} << 16;

/// Follows one input: counts from start() to stop().
void start_counting();
void stop_counting();

/// What all inputs so far have covered.
class Coverage {
 public:
  /// Adds the counts of the last input; true when it took an edge for the first time, or a known
  /// one in another order of magnitude of times.
  bool add();
  std::int64_t edges() const { return edges_; }

 private:
  std::vector<std::uint8_t> seen_ = std::vector<std::uint8_t>(kMapSlots);  // a bit a magnitude
  std::int64_t edges_ = 0;
};

}  // namespace elaswave::fuzz
