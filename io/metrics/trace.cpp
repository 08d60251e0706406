#include "io/metrics/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

namespace elaswave::metrics {
namespace {

// Thread numbers within a process: actions, waits, then a range for every channel and direction:
// wider than there can be messages at once, and still 31 bits for all 256 channels.
constexpr std::int64_t kActionLane = 0, kWaitLane = 1, kFirstMessageLane = 10,
                       kDirectionRange = 1 << 22;
// Long enough that the sink costs nothing, short enough that its reader sees progress.
constexpr std::size_t kPieceBytes = 256 << 10;

/// A message as both ends know it.
struct MessageKey {
  std::int32_t from, to;
  std::uint8_t channel;
  std::uint64_t number;
  bool operator<(const MessageKey& other) const {
    return std::tie(from, to, channel, number) <
           std::tie(other.from, other.to, other.channel, other.number);
  }
};

MessageKey key_of(const RankTrace& rank, const FlightEvent& event) {
  return event.kind == FlightKind::send
             ? MessageKey{rank.world_rank, event.peer, event.detail, event.message}
             : MessageKey{event.peer, rank.world_rank, event.detail, event.message};
}

bool is_message(const FlightEvent& event) {
  return event.kind == FlightKind::send || event.kind == FlightKind::receive;
}

std::string_view name_of(std::span<const std::string_view> names, std::uint8_t detail) {
  return detail < names.size() ? names[detail] : std::string_view("?");
}

/// Lays overlapping events of one kind out in as few lanes as they need.
class LanePacker {
 public:
  std::int64_t place(Nanoseconds begin, Nanoseconds end) {
    for (std::size_t lane = 0; lane < ends_.size(); ++lane)
      if (ends_[lane] <= begin) {
        ends_[lane] = end;
        return static_cast<std::int64_t>(lane);
      }
    ends_.push_back(end);
    return std::ssize(ends_) - 1;
  }
  std::int64_t count() const { return std::ssize(ends_); }

 private:
  std::vector<Nanoseconds> ends_;
};

class Writer {
 public:
  Writer(std::span<const RankTrace> ranks, const TraceNames& names, const TraceSink& sink)
      : ranks_(ranks), names_(names), sink_(sink) {
    Nanoseconds first = std::numeric_limits<Nanoseconds>::max();
    for (const RankTrace& rank : ranks)
      for (const auto* events : {&rank.compute, &rank.communication})
        for (const FlightEvent& event : *events) first = std::min(first, event.begin + rank.offset);
    start_ = first;  // without events nothing is counted from it
  }

  void write() {
    text_ = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
    for (const RankTrace& rank : ranks_) {
      line(R"({{"ph":"M","pid":{},"name":"process_name","args":{{"name":"rank {}: {}"}}}})",
           rank.world_rank, rank.world_rank, rank.label);
      line(R"({{"ph":"M","pid":{},"name":"process_sort_index","args":{{"sort_index":{}}}}})",
           rank.world_rank, rank.world_rank);
      name_lane(rank, kActionLane, "compute");
      name_lane(rank, kWaitLane, "waits");
      for (const FlightEvent& event : rank.compute) computed(rank, event);
      messages(rank);
    }
    text_ += "\n]}\n";
    sink_(text_);
  }

 private:
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    if (text_.size() >= kPieceBytes) {
      sink_(text_);
      text_.clear();
    }
    text_ += std::exchange(first_line_, false) ? "\n" : ",\n";
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }

  double micros(const RankTrace& rank, Nanoseconds time) const {
    return static_cast<double>(time + rank.offset - start_) / 1e3;
  }

  void name_lane(const RankTrace& rank, std::int64_t lane, std::string_view name) {
    line(R"({{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":"{}"}}}})",
         rank.world_rank, lane, name);
    line(R"({{"ph":"M","pid":{},"tid":{},"name":"thread_sort_index","args":{{"sort_index":{}}}}})",
         rank.world_rank, lane, lane);
  }

  void slice(const RankTrace& rank, const FlightEvent& event, std::int64_t lane,
             std::string_view name, std::string_view category) {
    line(R"({{"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"name":"{}","cat":"{}",)"
         R"("args":{{"step":{},"peer":{},"bytes":{},"message":{}}}}})",
         rank.world_rank, lane, micros(rank, event.begin),
         static_cast<double>(event.end - event.begin) / 1e3, name, category, raw(event.step),
         event.peer, event.bytes, event.message);
  }

  void computed(const RankTrace& rank, const FlightEvent& event) {
    if (event.end == 0) return;
    switch (event.kind) {
      case FlightKind::action: {
        const std::string_view op = name_of(names_.ops, event.detail);
        slice(rank, event, kActionLane, fmt::format("{}{}{}", event.chunk, op, event.micro_batch),
              op);
        return;
      }
      case FlightKind::phase:
        slice(rank, event, kActionLane, name_of(names_.phases, event.detail), "phase");
        return;
      case FlightKind::wait:
        slice(rank, event, kWaitLane,
              fmt::format("{}, rank {}", name_of(names_.channels, event.detail), event.peer),
              "wait");
        return;
      case FlightKind::send:
      case FlightKind::receive:
        return;  // of the other lane
    }
  }

  static std::int64_t first_lane(std::uint8_t channel, bool sent) {
    return kFirstMessageLane + (channel * 2 + (sent ? 0 : 1)) * kDirectionRange;
  }

  void messages(const RankTrace& rank) {
    std::map<std::pair<std::uint8_t, FlightKind>, LanePacker> packers;
    for (const FlightEvent& event : rank.communication) {
      if (!is_message(event) || event.end == 0) continue;
      const bool sent = event.kind == FlightKind::send;
      const std::int64_t lane = first_lane(event.detail, sent) +
                                packers[{event.detail, event.kind}].place(event.begin, event.end);
      const std::string name = fmt::format("{} {} {}", name_of(names_.channels, event.detail),
                                           sent ? "to" : "from", event.peer);
      slice(rank, event, lane, name, sent ? "send" : "receive");
      const MessageKey key = key_of(rank, event);
      line(R"({{"ph":"{}","pid":{},"tid":{},"ts":{:.3f},"name":"message","cat":"flow",)"
           R"("id":"{}-{}-{}-{}"{}}})",
           sent ? "s" : "f", rank.world_rank, lane, micros(rank, sent ? event.begin : event.end),
           key.from, key.to, key.channel, key.number, sent ? "" : R"(,"bp":"e")");
    }
    for (const auto& [use, packer] : packers)
      for (std::int64_t lane = 0; lane < packer.count(); ++lane) {
        const bool sent = use.second == FlightKind::send;
        name_lane(rank, first_lane(use.first, sent) + lane,
                  fmt::format("{} {}{}", name_of(names_.channels, use.first), sent ? "out" : "in",
                              lane == 0 ? std::string() : fmt::format(" {}", lane + 1)));
      }
  }

  std::span<const RankTrace> ranks_;
  const TraceNames& names_;
  const TraceSink& sink_;
  Nanoseconds start_ = 0;
  bool first_line_ = true;
  std::string text_;
};

struct Interval {
  Nanoseconds begin = 0, end = 0;
};

/// The moments that lie in one interval at least: disjoint, in order.
std::vector<Interval> unite(std::vector<Interval> intervals) {
  std::ranges::sort(intervals, {}, &Interval::begin);
  std::vector<Interval> united;
  for (const Interval& interval : intervals) {
    // Clocks agree to some microseconds only: a message may seem to arrive before it was sent.
    if (interval.end <= interval.begin) continue;
    if (united.empty() || interval.begin > united.back().end)
      united.push_back(interval);
    else
      united.back().end = std::max(united.back().end, interval.end);
  }
  return united;
}

Nanoseconds length(std::span<const Interval> united) {
  Nanoseconds sum = 0;
  for (const Interval& interval : united) sum += interval.end - interval.begin;
  return sum;
}

/// Length of what lies in both. REQUIRES: both from unite().
Nanoseconds overlap(std::span<const Interval> a, std::span<const Interval> b) {
  Nanoseconds sum = 0;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    sum +=
        std::max<Nanoseconds>(0, std::min(a[i].end, b[j].end) - std::max(a[i].begin, b[j].begin));
    a[i].end < b[j].end ? ++i : ++j;
  }
  return sum;
}

/// When the rank's compute thread waited, also in the middle of actions and phases.
std::vector<Interval> waits_of(const RankTrace& rank) {
  std::vector<Interval> waits;
  for (const FlightEvent& event : rank.compute)
    if (event.kind == FlightKind::wait && event.end != 0)
      waits.push_back({event.begin + rank.offset, event.end + rank.offset});
  return unite(std::move(waits));
}

/// When each message was handed over, by the clock of the reporter.
std::map<MessageKey, Nanoseconds> sends_of(std::span<const RankTrace> ranks) {
  std::map<MessageKey, Nanoseconds> begins;
  for (const RankTrace& rank : ranks)
    for (const FlightEvent& event : rank.communication)
      if (event.kind == FlightKind::send && event.end != 0)
        begins[key_of(rank, event)] = event.begin + rank.offset;
  return begins;
}

}  // namespace

void chrome_trace(std::span<const RankTrace> ranks, const TraceNames& names,
                  const TraceSink& sink) {
  Writer(ranks, names, sink).write();
}

double ChannelUse::hidden() const {
  return communication == 0 ? 1
                            : 1 - static_cast<double>(exposed) / static_cast<double>(communication);
}

std::vector<ChannelUse> channel_use(std::span<const RankTrace> ranks, std::size_t channels) {
  const std::map<MessageKey, Nanoseconds> begins = sends_of(ranks);
  std::vector<ChannelUse> uses(channels);
  for (const RankTrace& rank : ranks) {
    const std::vector<Interval> waits = waits_of(rank);
    std::vector<std::vector<Interval>> ways(channels);
    for (const FlightEvent& event : rank.communication) {
      if (event.kind != FlightKind::receive || event.end == 0 || event.detail >= channels) continue;
      const auto begin = begins.find(key_of(rank, event));
      if (begin == begins.end()) continue;
      // Until it is delivered, whatever the transport told its sender in between.
      ways[event.detail].push_back({begin->second, event.end + rank.offset});
      ++uses[event.detail].messages;
      uses[event.detail].bytes += event.bytes;
    }
    for (std::size_t channel = 0; channel < channels; ++channel) {
      const std::vector<Interval> way = unite(std::move(ways[channel]));
      uses[channel].communication += length(way);
      uses[channel].exposed += overlap(way, waits);
    }
  }
  return uses;
}

Step first_whole_step(std::span<const FlightEvent> events, bool lost, Step wanted) {
  if (!lost || events.empty()) return wanted;
  return std::max(wanted, Step{raw(events.front().step) + 1});
}

}  // namespace elaswave::metrics
