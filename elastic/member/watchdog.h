// Whether the process that this agent belongs to still works. A process that waits for no peer and
// makes no progress is the root of every chain of waits: each agent judges its own process alone,
// and what it ends its peers notice by the closed connection. Pure: told what is seen, and when.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/base/clock.h"
#include "io/base/flight_recorder.h"

namespace elaswave::member {

/// What one look at the process shows.
struct Sight {
  enum class Doing : std::uint8_t {
    working,  // nobody else can be the reason for what it does not do
    waiting,  // for `peer`
    outside,  // for a disk or another device: FlightPhase::outside
  };
  Doing doing = Doing::working;
  std::int32_t peer = -1;
  std::uint64_t sign = 0;   // another number after every event of the compute thread
  std::uint64_t turns = 0;  // FlightRecorder::turns
};
Sight look_at(const FlightRecorder& recorder, std::int32_t world_rank);

struct WaitVerdict {
  enum class Kind : std::uint8_t {
    hung,     // the compute thread gives no sign and waits for nobody
    stuck,    // the communication thread does not come back from the transport
    in_vain,  // the compute thread waits for `peer`, for twice as long as work may take
  };
  Kind kind = Kind::hung;
  Nanoseconds lasted = 0, limit = 0;
  std::int32_t peer = -1;
};

/// One line for the log: what hangs, for how long, and the last entries of the recorder.
std::string text_of(const WaitVerdict& verdict, const FlightRecorder& recorder, Nanoseconds now);

class Watchdog {
 public:
  /// A lower bound of the limit; how far looks are apart is for the owner to keep.
  Watchdog(Nanoseconds limit, Nanoseconds interval) : least_(limit), interval_(interval) {}

  /// Time counts only as far as this is called: of a late look, one interval. A process that was
  /// stopped or starved, and its watchdog with it, is not hung. The first look and every one after
  /// a pause() begin anew. A wait in vain is told after two limits, then once in each.
  std::optional<WaitVerdict> look(const Sight& sight, Nanoseconds now);
  void pause() { looked_at_ = -1; }
  /// At least the bound; 8 times the longest pause between two signs that this process has come
  /// back from, and 8 times this watchdog's own lateness, which counts up to the bound.
  Nanoseconds limit() const;

 private:
  struct Stillness {
    std::uint64_t sign = 0;
    Nanoseconds lasted = 0;
    void look(std::uint64_t seen, Nanoseconds passed, Nanoseconds& longest);
  };
  void measure_lateness(Nanoseconds late, Nanoseconds now);

  Nanoseconds least_, interval_;
  Nanoseconds looked_at_ = -1;  // -1: not yet
  Stillness work_, turns_;
  Nanoseconds waited_ = 0;
  Nanoseconds longest_ = 0;  // pause between two signs
  Nanoseconds late_now_ = 0, late_before_ = 0, late_period_end_ = 0;
};

}  // namespace elaswave::member
