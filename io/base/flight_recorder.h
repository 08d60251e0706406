// The last things a rank did: every action of the executor, every wait and every message enters it
// first. Hang reports and traces come from here. Fixed memory, no locks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "io/base/clock.h"
#include "io/base/types.h"

namespace elaswave {

enum class FlightKind : std::uint8_t {
  action,  // F, B, I, W, R: `detail` the op, chunk, micro_batch
  phase,   // reduce, log, commit, ...: `detail` a FlightPhase
  wait,    // of the compute thread: `detail` the channel, peer
  send,    // a message from its start to the transport's word that it is done; `detail` the channel
  receive,  // likewise, from posting to delivery
};

enum class FlightPhase : std::uint8_t {
  reduce,
  log,
  commit,
  update,
  digest,
  validation,
  recovery,
  outside,  // waits for what is no rank (a disk, the agents): how long is not its doing
  count,
};

constexpr std::string_view name(FlightPhase phase) {
  constexpr std::string_view names[] = {"reduce", "log",        "commit",   "update",
                                        "digest", "validation", "recovery", "outside"};
  static_assert(std::size(names) == static_cast<std::size_t>(FlightPhase::count));
  return names[static_cast<std::size_t>(phase)];
}

struct FlightEvent {
  Nanoseconds begin = 0, end = 0;  // of the rank's clock; end 0: under way
  Step step{};
  FlightKind kind = FlightKind::action;
  std::uint8_t detail = 0;
  std::int32_t chunk = -1, micro_batch = -1;  // action; layer or -1 for phases
  std::int32_t peer = -1;                     // wait, send, receive
  std::int64_t bytes = 0;
  // send, receive: number within (peer, channel, direction), the same at both ends.
  std::uint64_t message = 0;
};

/// A ring of events. THREADS: one writer; snapshot() from any thread, at any time: an event that is
/// being overwritten meanwhile is left out, never torn.
class FlightLane {
 public:
  /// REQUIRES: capacity >= 1. An event takes 64 bytes.
  explicit FlightLane(std::size_t capacity);
  ~FlightLane();
  FlightLane(const FlightLane&) = delete;
  FlightLane& operator=(const FlightLane&) = delete;

  /// Returns a handle for finish(), valid until the ring has gone round; finish() of a handle that
  /// is no longer valid does nothing.
  std::uint64_t start(const FlightEvent& event);
  void finish(std::uint64_t handle, Nanoseconds end);
  /// When it is known what the event was in truth, once for each: a device does an action later
  /// than it is issued. Does nothing as finish().
  void correct(std::uint64_t handle, Nanoseconds begin, Nanoseconds end);
  void add(const FlightEvent& event) { start(event); }

  /// Oldest first.
  std::vector<FlightEvent> snapshot() const;
  /// The event started last; nothing before the first one.
  std::optional<FlightEvent> newest() const;
  /// Events ever started.
  std::uint64_t count() const { return next_.load(std::memory_order_acquire); }
  std::size_t capacity() const { return capacity_; }

 private:
  struct Slot;
  std::optional<FlightEvent> read(std::uint64_t number) const;

  std::size_t capacity_;
  std::unique_ptr<Slot[]> slots_;
  std::atomic<std::uint64_t> next_{0};
};

/// Events a lane of a world keeps unless it is told otherwise.
inline constexpr std::size_t kFlightCapacity = 4096;

/// Compute thread and communication thread each have a lane of their own.
struct FlightRecorder {
  explicit FlightRecorder(std::size_t capacity) : compute(capacity), communication(capacity) {}
  FlightLane compute, communication;
  /// Rounds of the communication thread, which makes one at least every few milliseconds unless it
  /// is stuck inside the transport. 0: there is no such thread, or it rightly waits in there (while
  /// the transport is opened or closed).
  std::atomic<std::uint64_t> turns{0};
};

}  // namespace elaswave
