// Compiled without the flag that it serves: a traced callback would call itself.
#include "tests/fuzz/coverage.h"

#include <algorithm>
#include <cstring>

namespace elaswave::fuzz {
namespace {

// The compiler's callback takes no argument, so its state has to be global.
alignas(64) std::array<std::uint8_t, kMapSlots> counts;  // saturate at 255
thread_local std::uintptr_t previous_block = 0;
thread_local bool is_followed = false;

/// Magnitudes of AFL (docs/technical_details.txt, 1): 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128+.
std::uint8_t magnitude_bit(std::uint8_t count) {
  if (count <= 3) return static_cast<std::uint8_t>(1U << (count - 1));
  if (count <= 7) return 1U << 3;
  if (count <= 15) return 1U << 4;
  if (count <= 31) return 1U << 5;
  return count <= 127 ? 1U << 6 : 1U << 7;
}

}  // namespace

// Addresses move from run to run; the linker names where they begin.
extern "C" char __executable_start;  // NOLINT(bugprone-reserved-identifier): the linker's name

// NOLINTNEXTLINE(bugprone-reserved-identifier): the compiler's name
extern "C" void __sanitizer_cov_trace_pc() {
  if (!is_followed) return;
  const auto block = (reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) -
                      reinterpret_cast<std::uintptr_t>(&__executable_start)) *
                     0x9E3779B97F4A7C15U;
  std::uint8_t& count = counts.data()[((block >> 48) ^ previous_block) % kMapSlots];
  if (count != UINT8_MAX) ++count;
  previous_block = block >> 49;  // shifted by one: a to b and b to a are two edges
}

void start_counting() {
  counts.fill(0);
  previous_block = 0;
  is_followed = true;
}

void stop_counting() {
  is_followed = false;
}

bool Coverage::add() {
  bool is_new = false;
  for (std::size_t word = 0; word < kMapSlots; word += sizeof(std::uint64_t)) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, counts.data() + word, sizeof eight);
    if (eight == 0) continue;
    for (std::size_t i = word; i < word + sizeof eight; ++i) {
      if (counts[i] == 0) continue;
      const std::uint8_t bit = magnitude_bit(counts[i]);
      if ((seen_[i] & bit) != 0) continue;
      if (seen_[i] == 0) ++edges_;
      seen_[i] = static_cast<std::uint8_t>(seen_[i] | bit);
      is_new = true;
    }
  }
  return is_new;
}

}  // namespace elaswave::fuzz
