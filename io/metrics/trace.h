// From flight recorders to pictures: one Chrome trace of all ranks, and how much of each kind of
// communication was hidden behind computation. Pure.
#pragma once

#include <cstdint>
#include <functional>
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

/// Takes the text of a trace piece by piece: of many ranks it is too long to be held at once.
using TraceSink = std::function<void(std::string_view)>;

/// Trace event format (chrome://tracing, ui.perfetto.dev): one process a rank, a lane for actions
/// and phases, one for waits, as many lanes as it takes for the messages of each channel and
/// direction, and an arrow from every send to its receive. Time starts at the earliest event.
void chrome_trace(std::span<const RankTrace> ranks, const TraceNames& names, const TraceSink& sink);

/// One kind of communication, summed over the ranks that receive. A message is on its way from the
/// start of its send to its delivery. `communication` is the time during which at least one
/// message was on its way to the rank, however many there were; `exposed` is the part of it that
/// the rank's compute thread spent in waits. For what it waited is not asked: a rank that waits
/// computes nothing, so nothing hides the messages that are on their way to it meanwhile.
struct ChannelUse {
  std::int64_t messages = 0, bytes = 0;
  Nanoseconds communication = 0, exposed = 0;
  /// Share of the communication time that was hidden; 1 when there was none.
  double hidden() const;
};
/// By channel. Messages whose send or receive the recorders no longer held do not count.
std::vector<ChannelUse> channel_use(std::span<const RankTrace> ranks, std::size_t channels);

/// The first step at or after `wanted` of which a lane has lost nothing. `events` are what the lane
/// holds, oldest first; `lost`: older ones were overwritten, which tears the step of the oldest.
Step first_whole_step(std::span<const FlightEvent> events, bool lost, Step wanted);

}  // namespace elaswave::metrics
