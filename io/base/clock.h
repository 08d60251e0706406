// Time as a seam: real runs read the machine's monotonic clock, simulated ones a virtual clock.
#pragma once

#include <cstdint>
#include <string>

namespace elaswave {

using Nanoseconds = std::int64_t;

inline constexpr Nanoseconds kMillisecond = 1'000'000;
inline constexpr Nanoseconds kSecond = 1'000'000'000;

class Clock {
 public:
  virtual ~Clock() = default;
  /// Monotonic, from an arbitrary origin.
  virtual Nanoseconds now() const = 0;
  /// Blocks the calling rank (a thread, or a simulated rank) for at least `duration`.
  virtual void sleep(Nanoseconds duration) = 0;
};

/// The machine's monotonic clock. THREADS: any.
class RealClock final : public Clock {
 public:
  Nanoseconds now() const override;
  void sleep(Nanoseconds duration) override;
};

/// The calendar time now, "2026-11-21T10:00:00Z". THREADS: any.
std::string utc_text();

/// A point in time on some Clock after which a wait gives up. Every wait takes one.
struct Deadline {
  Nanoseconds at = 0;
  static Deadline after(const Clock& clock, Nanoseconds duration) {
    return {clock.now() + duration};
  }
  bool passed(const Clock& clock) const { return clock.now() >= at; }
};

}  // namespace elaswave
