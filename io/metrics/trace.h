// From flight recorders to pictures: one Chrome trace of all ranks, and how much of each kind of
// communication was hidden behind computation. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/flight_recorder.h"

namespace elaswave::metrics {

/// What one rank's recorder held. Events still under way are left out.
struct RankTrace {
  std::int32_t world_rank = 0;
  std::string label;       // "stage 2, replica 1"
  Nanoseconds offset = 0;  // added to the rank's clock gives the reporter's
  std::vector<FlightEvent> compute, communication;  // by begin
};

/// Names of FlightEvent::detail, by kind.
struct TraceNames {
  std::span<const std::string_view> ops, phases, channels;
};

/// Trace event format (chrome://tracing, ui.perfetto.dev): one process a rank, a lane for actions
/// and phases, one for waits, lanes for messages of each channel and direction, and an arrow from
/// every send to its receive. Time starts at the earliest event.
std::string chrome_trace(std::span<const RankTrace> ranks, const TraceNames& names);

/// One kind of communication over all ranks. `transfer` sums the time from a message's start to its
/// delivery; `exposed` is the part of it during which the receiver's compute thread waited for it.
struct ChannelUse {
  std::int64_t messages = 0, bytes = 0;
  Nanoseconds transfer = 0, exposed = 0;
  /// Share of the transfer time that was hidden; 1 when nothing was sent.
  double hidden() const;
};
/// By channel. Messages whose send or receive the recorders no longer held do not count.
std::vector<ChannelUse> channel_use(std::span<const RankTrace> ranks, std::size_t channels);

/// Time the compute thread of each rank spent in actions between its first and last action.
struct Busy {
  Nanoseconds span = 0, actions = 0;
};
Busy busy_of(const RankTrace& rank, Step step);

}  // namespace elaswave::metrics
